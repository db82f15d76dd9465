"""Checkpoints: one safetensors file with JSON in its header, whole or not there at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from attnlab.config import ModelConfig, TranslatorConfig
from attnlab.errors import AttnlabError, CheckpointError, shorten
from attnlab.models import LanguageModel, Translator
from attnlab.paths import file_errors, write_whole

FORMAT = "attnlab-checkpoint-1"
LARGEST_TABLE = 2**26  # numbers of tables of positions, which a file does not hold

Built = TypeVar("Built", bound=nn.Module)


def save_checkpoint(
    path: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    facts: Mapping[str, Any],
) -> None:
    """Write weights, optimiser moments and ``facts`` (plain JSON) in one atomic step."""
    tensors = {f"model.{n}": w for n, w in _own_weights(model).items()}
    names = {id(w): n for n, w in model.named_parameters()}
    for weight, moments in optimizer.state.items():
        for moment, value in moments.items():
            tensors[f"optimizer.{moment}.{names[id(weight)]}"] = torch.as_tensor(value)
    write_tensors(path, tensors, facts=facts)


def load_checkpoint(
    path: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put a checkpoint back into model and optimiser; return the facts saved with it.

    Raises:
        CheckpointError: The file is missing, damaged, or of another model.
    """
    tensors, facts = read_tensors(path)
    load_weights(model, {_tail(n): t for n, t in tensors.items() if n.startswith("model.")}, path)
    for name, weight in model.named_parameters():
        moments = {}
        for moment in ("step", "exp_avg", "exp_avg_sq"):
            key = f"optimizer.{moment}.{name}"
            if key in tensors:
                moments[moment] = tensors[key].to(weight.device, copy=True)
        if moments:
            found = {moment: value.shape for moment, value in moments.items()}
            if found != {"step": (), "exp_avg": weight.shape, "exp_avg_sq": weight.shape}:
                raise CheckpointError(
                    f"{path} has other optimiser moments of {name} than AdamW keeps: {found}. "
                    "Delete it and run again."
                )
            optimizer.state[weight] = moments
    return facts


def save_model(
    path: Path,
    *,
    model: LanguageModel | Translator,
    dtype: torch.dtype = torch.float32,
    **facts: Any,
) -> None:
    """Write a trained model and its configuration, for ``load_model`` or ``load_translator``."""
    weights = {n: w.to(dtype) for n, w in _own_weights(model).items()}
    write_tensors(path, weights, facts={"config": model.config.to_dict(), **facts})


def load_model(path: Path) -> tuple[LanguageModel, dict[str, Any]]:
    """Return a model in eval mode, in float32, and the facts saved with it.

    Raises:
        CheckpointError: The file is missing, damaged, or holds no model.
    """
    tensors, facts = read_tensors(path)
    if not isinstance(facts.get("config"), dict):
        raise CheckpointError(f"{path} holds tensors but no model configuration; see save_model.")

    def build() -> LanguageModel:
        config = ModelConfig.from_dict(facts["config"])
        _require_layers(tensors, blocks=config.n_layers)
        return LanguageModel(config, generator=torch.Generator())

    model = build_as_saved(path, tensors, build)
    load_weights(model, tensors, path)
    return model.eval(), facts


def load_translator(path: Path) -> tuple[Translator, dict[str, Any]]:
    """Return a translator that ``save_model`` wrote, in eval mode, and the facts saved with it.

    Raises:
        CheckpointError: The file is missing, damaged, or holds no translator.
    """
    tensors, facts = read_tensors(path)
    config = facts.get("config")
    if not isinstance(config, dict) or "source_vocab_size" not in config:
        raise CheckpointError(f"{path} holds no translator; load a language model with load_model.")

    def build() -> Translator:
        sizes = TranslatorConfig.from_dict(config)
        _require_layers(tensors, encoder=sizes.n_encoder_layers, decoder=sizes.n_decoder_layers)
        return Translator(sizes, generator=torch.Generator())

    translator = build_as_saved(path, tensors, build)
    load_weights(translator, tensors, path)
    return translator.eval(), facts


def build_as_saved(path: Path, weights: Mapping[str, Tensor], build: Callable[[], Built]) -> Built:
    """Return the module that a file describes, after a trial that takes no memory.

    Args:
        weights: What the file holds, by the module's names.
        build: Makes the module from what the file says; it may fail in any way.

    Raises:
        CheckpointError: The file describes nothing that can be built, or weights of other
            sizes than it holds.
    """
    try:
        with torch.device("meta"):
            trial = build()
        n_wanted = {n: w.numel() for n, w in trial.named_parameters()}
        n_more = sum(table.numel() for table in trial.buffers())
    except Exception as error:  # of any kind: the sizes and names come from the file
        raise CheckpointError(
            f"{path} describes nothing that can be built: {error} Train it again, or take the "
            "file from where it came once more."
        ) from error
    wrong = [n for n, size in n_wanted.items() if n not in weights or weights[n].numel() != size]
    if wrong or n_more > max(LARGEST_TABLE, sum(n_wanted.values())):
        name = wrong[0] if wrong else "its table of positions"
        found = tuple(weights[name].shape) if name in weights else "nothing"
        raise CheckpointError(
            f"{path} belongs to another model: {name} should have {n_wanted.get(name, n_more):,} "
            f"numbers, the file has {found}. Use the configuration it was trained with."
        )
    return build()


def _require_layers(weights: Mapping[str, Tensor], **n_layers: int) -> None:
    for name, n in n_layers.items():
        found = len({key.split(".")[1] for key in weights if key.startswith(f"{name}.")})
        if found != n:
            raise AttnlabError(f"it says {n} layers and holds {found}.")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts to one file; a reader never sees half of it."""
    kept = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    text = json.dumps(facts, sort_keys=True)
    header = {"format": FORMAT, "sha256": _digest(kept), "facts": text}
    write_whole(path, save(kept, metadata={**header, "facts_sha256": _digest_of_text(text)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what ``write_tensors`` wrote, after checking that every byte is as it was.

    Raises:
        CheckpointError: Missing, cut short, changed, or written by something else.
    """
    path = Path(path)
    with file_errors(path, "read"):
        if not path.exists():
            raise CheckpointError(f"There is no file {path}. Train first, or check the name.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        digest = _digest(tensors)
    except Exception as error:  # what the library and torch make of any bytes
        raise CheckpointError(f"{path} is damaged ({error}). Delete it and run again.") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a file of format {FORMAT}; attnlab did not write it.")
    text = header.get("facts", "")
    of_text = header.get("facts_sha256")  # files of before it have none
    if header.get("sha256") != digest or of_text not in (None, _digest_of_text(text)):
        raise CheckpointError(f"{path} changed after it was written. Delete it and run again.")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        facts = error
    if not isinstance(facts, dict):
        raise CheckpointError(
            f"{path} is damaged: its facts are {shorten(facts)}. Delete it and run again."
        )
    return tensors, facts


def _digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _own_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return each weight once: a tied head is the token embedding under another name."""
    return dict(model.named_parameters())


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy named weights into a model of the same shape; ``path`` is for the message.

    Raises:
        CheckpointError: A weight is missing or has another shape.
    """
    own = _own_weights(model)
    for name, weight in own.items():
        given = weights.get(name)
        if given is None or given.shape != weight.shape or not given.is_floating_point():
            found = "nothing" if given is None else f"{tuple(given.shape)} of {given.dtype}"
            raise CheckpointError(
                f"{path} belongs to another model: {name} should be {tuple(weight.shape)}, "
                f"the file has {found}. Use the configuration it was trained with."
            )
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(weights[name])


def _tail(name: str) -> str:
    return name.split(".", 1)[1]
