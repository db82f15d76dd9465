"""``attnlab train``: one small model, watched from the terminal."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from attnlab.cli.speak import say
from attnlab.errors import AttnlabError


def add_commands(commands: Any) -> None:
    """Add ``train``."""
    train = commands.add_parser(
        "train",
        help="train one small model and hear it speak",
        description="Train a language model with any token mixer, show its loss against the "
        "true source's where there is one, and generate a sample.",
    )
    train.add_argument("--mixer", default="attention", help="see: attnlab list mixers")
    train.add_argument("--corpus", default="tales", help="tales, or see: attnlab data list")
    train.add_argument("--steps", type=int, default=300, help="optimiser steps")
    train.add_argument("--batch-size", type=int, default=32, help="windows a step")
    train.add_argument("--context-len", type=int, default=64, help="tokens a model reads")
    train.add_argument("--d-model", type=int, default=64, help="width of the residual stream")
    train.add_argument("--layers", type=int, default=2, help="blocks")
    train.add_argument("--heads", type=int, default=4, help="of attention")
    train.add_argument("--lr", type=float, default=3e-3, help="peak learning rate")
    train.add_argument("--vocab-size", type=int, default=1000, help="BPE pieces of a corpus")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--out", type=Path, help="folder for the model and its tokenizer")
    train.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from attnlab.config import ModelConfig, TrainConfig
    from attnlab.seeding import torch_generator
    from attnlab.tasks import LanguageTask, prepare_dataset
    from attnlab.training import save_model, train_model

    n_tokens = options.steps * options.batch_size * options.context_len + 1
    data = prepare_dataset(options.corpus, vocab_size=options.vocab_size, n_train_tokens=n_tokens)
    config = ModelConfig(
        mixer=options.mixer,
        vocab_size=data.vocab_size,
        context_len=options.context_len,
        d_model=options.d_model,
        n_layers=options.layers,
        n_heads=options.heads,
    )
    plan = TrainConfig(
        n_steps=options.steps,
        batch_size=options.batch_size,
        lr=options.lr,
        warmup_steps=max(1, options.steps // 20),
        seed=options.seed,
    )
    task = LanguageTask(data=data)
    model = task.build(config, generator=torch_generator(options.seed, "init"))
    n_weights = sum(p.numel() for p in model.parameters())
    say(f"{options.mixer} on {options.corpus}: {n_weights:,} weights")
    with tqdm(total=options.steps, unit="step") as bar:
        for state in train_model(task, model, plan):
            bar.set_postfix_str(f"{state.loss_nats:.3f} nats", refresh=False)
            bar.update()
    metrics, _ = task.score(model)
    say(f"Held-out loss: {metrics['test_loss_nats']:.4f} nats per token")
    if "oracle_nats" in metrics:
        oracle, gap = metrics["oracle_nats"], metrics["test_gap_nats"]
        say(f"True source, same tokens: {oracle:.4f}; gap {gap:+.4f}")
    if "test_bits_per_byte" in metrics:
        say(f"That is {metrics['test_bits_per_byte']:.3f} bits per byte")
    _say_sample(model, data, options.seed)
    if options.out:
        save_model(options.out / "model.safetensors", model=model, corpus=options.corpus)
        if data.tokenizer is not None:
            data.tokenizer.save(options.out / "tokenizer.json")
        say(f"Saved in {options.out}")


def _say_sample(model: Any, data: Any, seed: int) -> None:
    import torch

    from attnlab.seeding import torch_generator

    n_prompt = min(8, model.config.context_len)
    prompt = torch.from_numpy(data.test[0][None, :n_prompt].astype("int64"))
    generator = torch_generator(seed, "generate")
    tokens = model.generate(prompt, n_tokens=48, temperature=0.8, generator=generator)[0]
    decode = data.decode
    if decode is None:
        raise AttnlabError(f"{data.name} has no way back from tokens to text.")
    say(f"It was given: {decode(tokens[:n_prompt].numpy())}")
    say(f"It went on:   {decode(tokens[n_prompt:].numpy())}")
