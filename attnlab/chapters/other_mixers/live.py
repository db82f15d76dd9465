"""The small models of notebook 10, and what their matrices are on a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from attnlab.analysis.theory import expected_mixer_weights, expected_multiplications
from attnlab.config import ModelConfig, TrainConfig
from attnlab.errors import AttnlabError
from attnlab.mixers import find_mixer, list_mixers
from attnlab.models import LanguageModel
from attnlab.seeding import torch_generator
from attnlab.sources.tales import TaleSource
from attnlab.training import WindowBatches, train_steps

Floats = NDArray[np.float64]
PRICES = {"weights": "Weights", "state": "State (numbers kept)", "work": "Work (multiplications)"}


def grown(names: Iterable[str], source: TaleSource, *, n_steps: int) -> dict[str, LanguageModel]:
    """Return a model of one layer for each mixer, trained on the same tales from the same seed."""
    sizes = {"context_len": 32, "d_model": 32, "n_layers": 1, "n_heads": 4}
    recipe = TrainConfig(n_steps=n_steps, batch_size=16, lr=0.01, warmup_steps=10)
    text = source.sample(n_steps * 16 * 32 + 1, seed=0)
    models = {}
    for name in names:
        config = ModelConfig(vocab_size=source.vocab_size, mixer=name, **sizes)
        models[name] = LanguageModel(config, generator=torch_generator(0, "init"))
        batches = WindowBatches([text], context_len=32, batch_size=16, seed=0)
        for _ in train_steps(models[name], batches.starting_at(0), config=recipe):
            pass
        models[name].eval()
    return models


def has_matrix(name: str) -> bool:
    """Ask a small mixer whether it is a matrix times values."""
    one = find_mixer(name)(d_model=2, context_len=2)
    try:
        one.mixing_matrix(torch.zeros(1, 1, 2))
    except AttnlabError:
        return False
    return True


@torch.no_grad()
def matrices(model: LanguageModel, ids: Iterable[int], *, most: int = 4) -> Floats:
    """Return what the first mixer of a model is on a text: ``(parts, time, time)``.

    Of many heads or channels those whose entries off the diagonal are largest, beside the
    diagonal, come first.
    """
    read: list[torch.Tensor] = []
    mixer = model.blocks[0].mixer
    hook = mixer.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    model(torch.tensor([list(ids)]))
    hook.remove()
    found = mixer.mixing_matrix(read[0])[0].double().numpy()
    back = np.abs(np.tril(found, -1)).sum((1, 2))
    share = back / np.maximum(back + np.abs(np.einsum("ptt->pt", found)).sum(1), 1e-12)
    return found[np.argsort(-share, kind="stable")[:most]]


def prices(d_model: int, context_len: int, *, n_heads: int = 2) -> dict[str, dict[str, int]]:
    """Return weights, state and work per token of every mixer at its default options."""
    sizes = {"d_model": d_model, "context_len": context_len, "n_heads": n_heads}
    whole = {"d_model": d_model, "time": context_len, "n_heads": n_heads}
    return {
        name: {
            "weights": expected_mixer_weights(name, **sizes),
            "state": find_mixer(name).expected_state(d_model, context_len, n_heads),
            "work": expected_multiplications(name, **whole) // context_len,
        }
        for name in list_mixers()
    }


def price_words(name: str, sizes: Mapping[str, int], rival: Mapping[str, int]) -> str:
    """Say what a layer with a mixer costs at the sizes of a record, beside attention at its own."""
    own, other = prices(**sizes)[name], prices(**rival)["attention"]
    told = [f"{key} {own[key]:,} ({own[key] / other[key]:.2g} × attention's)" for key in PRICES]
    width = "" if sizes == rival else f", attention {rival['d_model']}"
    return f"A layer, d = {sizes['d_model']}{width}: {', '.join(told)}"
