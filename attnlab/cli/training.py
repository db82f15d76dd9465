"""``attnlab train``: one small model, and several processes that train it together."""

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from attnlab import cli

Seed = Annotated[int, typer.Option(min=0)]


@cli.app.command()
def train(
    mixer: Annotated[str, typer.Option(help="see: attnlab list mixers")] = "attention",
    corpus: Annotated[str, typer.Option(help="tales, or see: attnlab data list")] = "tales",
    steps: Annotated[int, typer.Option(min=1, help="optimiser steps")] = 300,
    batch_size: Annotated[int, typer.Option(min=1, help="windows a step")] = 32,
    context_len: Annotated[int, typer.Option(min=1, help="tokens a model reads")] = 64,
    d_model: Annotated[int, typer.Option(min=1, help="width of the residual stream")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="blocks")] = 2,
    heads: Annotated[int, typer.Option(min=1, help="of attention")] = 4,
    lr: Annotated[float, typer.Option(help="peak learning rate")] = 3e-3,
    vocab_size: Annotated[int, typer.Option(min=256, help="BPE pieces of a corpus")] = 1000,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="folder for the model and tokenizer")] = None,
) -> None:
    """Train one small model and hear it speak.

    Its loss is held against the true source's, where there is one.
    """
    from tqdm import tqdm

    from attnlab.config import ModelConfig, TrainConfig
    from attnlab.paths import require_folder
    from attnlab.seeding import torch_generator
    from attnlab.tasks import LanguageTask, prepare_dataset
    from attnlab.training import train_model

    is_first = join()
    sizes = {"context_len": context_len, "d_model": d_model, "n_layers": layers, "n_heads": heads}
    config = ModelConfig(mixer=mixer, vocab_size=vocab_size, **sizes)
    warmup = max(1, steps // 20)
    plan = TrainConfig(n_steps=steps, batch_size=batch_size, lr=lr, warmup_steps=warmup, seed=seed)
    _require_memory(config, plan, corpus)
    if out:
        require_folder(out)
    n_tokens = steps * batch_size * context_len + 1
    text = prepare_dataset(corpus, vocab_size=vocab_size, n_train_tokens=n_tokens)
    task = LanguageTask(data=text)
    config = replace(config, vocab_size=text.vocab_size)
    model = task.build(config, generator=torch_generator(seed, "init"))
    cli.say(f"{mixer} on {corpus}: {sum(p.numel() for p in model.parameters()):,} weights")
    started = time.perf_counter()
    with tqdm(total=steps, unit="step", disable=not is_first) as bar:
        for state in train_model(task, model, plan):
            bar.set_postfix_str(f"{state.loss_nats:.3f} nats", refresh=False)
            bar.update()
            if state.step == N_TIMED and is_first:
                per_step = (time.perf_counter() - started) / N_TIMED
                bar.write(_time_needed(per_step, steps), file=sys.stderr)
    if out and is_first:
        _save_trained(out, model, text)
    _say_losses(task.score(model)[0])
    _say_sentence(model, text, seed=seed)
    if out:
        cli.say(f"Saved in {out}")


def _say_losses(found: Mapping[str, float]) -> None:
    cli.say(f"Held-out loss: {found['test_loss_nats']:.4f} nats per token")
    if "oracle_nats" in found:
        gap = f"gap {found['test_gap_nats']:+.4f}"
        cli.say(f"True source, same tokens: {found['oracle_nats']:.4f}; {gap}")
    if "test_bits_per_byte" in found:
        cli.say(f"That is {found['test_bits_per_byte']:.3f} bits per byte")


def _say_sentence(model: Any, text: Any, *, seed: int) -> None:
    """Let a model go on from the first words of the held-out text."""
    import torch

    from attnlab.seeding import torch_generator

    prompt = text.test[0][None, : min(8, model.config.context_len)].astype("int64")
    how = {"n_tokens": 48, "temperature": 0.8, "generator": torch_generator(seed, "generate")}
    tokens = model.generate(torch.from_numpy(prompt), **how)[0].numpy()
    decode = text.decode or str
    cli.say(f"It was given: {decode(tokens[: prompt.size])}")
    cli.say(f"It went on:   {decode(tokens[prompt.size :])}")


def join(device: str = "cpu") -> bool:
    """Meet the processes of torchrun; return whether this one is to speak, and hush it if not."""
    from attnlab.training.parallel import is_first, join

    join(device)
    if not is_first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    return is_first()


N_TIMED = 3  # steps before one knows how long all of them take


def _time_needed(seconds_a_step: float, n_steps: int) -> str:
    """Say how long a training takes, and how to make it shorter if it is minutes."""
    seconds = seconds_a_step * n_steps
    if seconds < 90:
        return f"About {seconds:.0f} s on this machine"
    one_minute = max(1, round(60 / seconds_a_step))
    return f"About {seconds / 60:.0f} min on this machine; --steps {one_minute} takes one"


def _require_memory(config: Any, plan: Any, corpus: str) -> None:
    """Raise unless weights, gradients, moments, activations and text fit this machine."""
    from attnlab.analysis.theory import expected_language_model_weights
    from attnlab.config import require_memory

    rows = plan.batch_size * config.context_len
    n_kept = rows * config.n_layers * (12 * config.d_model + 3 * config.mlp_width)
    n_text = rows * plan.n_steps if corpus == "tales" else 0
    n_bytes = 16 * expected_language_model_weights(config) + 4 * n_kept + 40 * n_text
    require_memory(n_bytes, "A training of these sizes")


def _save_trained(folder: Path, model: Any, text: Any) -> None:
    """Write a model and the tokenizer of its text; of two processes one waits for the other."""
    from filelock import FileLock

    from attnlab.training import save_model

    with FileLock(folder / ".lock"):
        save_model(folder / "model.safetensors", model=model, corpus=text.name)
        if text.tokenizer is not None:
            text.tokenizer.save(folder / "tokenizer.json")
