"""Checkpoints: one safetensors file with JSON in its header, whole or not there at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from attnlab.config import ModelConfig, TranslatorConfig
from attnlab.errors import CheckpointError
from attnlab.models import LanguageModel, Translator
from attnlab.paths import write_whole

FORMAT = "attnlab-checkpoint-1"


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
    if "config" not in facts:
        raise CheckpointError(f"{path} holds tensors but no model configuration; see save_model.")
    config = ModelConfig.from_dict(facts["config"])
    model = LanguageModel(config, generator=torch.Generator())
    load_weights(model, tensors, path)
    return model.eval(), facts


def load_translator(path: Path) -> tuple[Translator, dict[str, Any]]:
    """Return a translator that ``save_model`` wrote, in eval mode, and the facts saved with it.

    Raises:
        CheckpointError: The file is missing, damaged, or holds no translator.
    """
    tensors, facts = read_tensors(path)
    config = facts.get("config", {})
    if "source_vocab_size" not in config:
        raise CheckpointError(f"{path} holds no translator; load a language model with load_model.")
    translator = Translator(TranslatorConfig.from_dict(config), generator=torch.Generator())
    load_weights(translator, tensors, path)
    return translator.eval(), facts


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts to one file; a reader never sees half of it."""
    kept = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    header = {"format": FORMAT, "sha256": _digest(kept), "facts": json.dumps(facts, sort_keys=True)}
    write_whole(path, save(kept, metadata=header))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what ``write_tensors`` wrote, after checking that every byte is as it was.

    Raises:
        CheckpointError: Missing, cut short, changed, or written by something else.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"There is no file {path}. Train first, or check the name.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Delete it and run again.") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a file of format {FORMAT}; attnlab did not write it.")
    if header["sha256"] != _digest(tensors):
        raise CheckpointError(f"{path} changed after it was written. Delete it and run again.")
    return tensors, json.loads(header["facts"])


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
        if name not in weights or weights[name].shape != weight.shape:
            found = tuple(weights[name].shape) if name in weights else "nothing"
            raise CheckpointError(
                f"{path} belongs to another model: {name} should be {tuple(weight.shape)}, "
                f"the file has {found}. Use the configuration it was trained with."
            )
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(weights[name])


def _tail(name: str) -> str:
    return name.split(".", 1)[1]
