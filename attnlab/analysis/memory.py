"""The last channel mixer read as a memory: which keys fire where, what they write, what for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from attnlab.errors import AttnlabError
from attnlab.models import LanguageModel
from attnlab.sources import kl_per_state

Numbers = NDArray[np.float64]
NO_STATE = -1


@dataclass(frozen=True, kw_only=True)
class KeyAtlas:
    """What each key of the last channel mixer does, as arrays.

    Shapes:
        activity: ``(n_states, d_ff)``, mean activation in each state.
        writes: ``(d_ff, vocab_size)``, what a value adds to the logits; rows have mean zero.
        damage_nats: ``(n_states, d_ff)``, rise of the KL of each state without that key.
        kl_nats, kl_without_nats: ``(n_states,)``, KL with the memory, and with no key at all.
        share: ``(n_states,)``, share of positions.
    """

    states: tuple[str, ...]
    symbols: tuple[str, ...]
    activity: Numbers
    writes: Numbers
    damage_nats: Numbers
    kl_nats: Numbers
    kl_without_nats: Numbers
    share: Numbers

    @property
    def n_keys(self) -> int:
        """Number of keys."""
        return self.activity.shape[1]


def map_keys(
    model: LanguageModel,
    tokens: ArrayLike,
    *,
    contexts: Sequence[Sequence[int]],
    truth: ArrayLike,
    symbols: Sequence[str],
) -> KeyAtlas:
    r"""Measure every key against the states of a source whose table is known.

    The KL of a state is the mean over its places of
    :math:`\sum_j P_{ij} \log \frac{P_{ij}}{Q_{tj}}`, with Q the model's law at that place.

    Shapes:
        tokens: ``(batch, time)`` windows of the source.
        truth: ``(n_states, vocab_size)``, the true next-token law in each state.
    Args:
        contexts: The states: after these tokens (oldest first) the truth has that row.
        symbols: Names of the tokens.
    """
    states, n_states = label_states(tokens, contexts=contexts), len(contexts)
    activity = key_activity(model, tokens)

    def kl_without(*keys: int) -> Numbers:
        with without_keys(model, keys):
            return kl_per_state(truth, next_token_law(model, tokens), states=states)

    keys, whole = range(activity.shape[-1]), kl_without()
    places = [states == state for state in range(n_states)]
    empty = np.full(len(keys), np.nan)
    known = states[states != NO_STATE]
    return KeyAtlas(
        states=tuple("".join(symbols[i] for i in context) for context in contexts),
        symbols=tuple(symbols),
        activity=np.stack([activity[at].mean(axis=0) if at.any() else empty for at in places]),
        writes=value_logits(model),
        damage_nats=np.stack([kl_without(key) - whole for key in keys], axis=1),
        kl_nats=whole,
        kl_without_nats=kl_without(*keys),
        share=np.bincount(known, minlength=n_states) / max(1, len(known)),
    )


@torch.no_grad()
def key_activity(model: LanguageModel, tokens: ArrayLike) -> Numbers:
    """Return how strongly each key fires at each position: ``(batch, time, d_ff)``."""
    seen: list[Tensor] = []
    values = model.blocks[-1].mlp.values
    handle = values.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model.features(_as_tokens(tokens))
    finally:
        handle.remove()
    return seen[0].double().numpy()


@torch.no_grad()
def value_logits(model: LanguageModel) -> Numbers:
    r"""Read each value through the head: ``(d_ff, vocab_size)``, in logits.

    .. math:: u_i \,\mathrm{diag}(\gamma)\, E^\top \quad\text{minus its mean over the vocabulary}

    with :math:`\gamma` the gain of the final norm. The norm's own division is left out, so this
    is the direct path only. A softmax does not see the mean.

    Source:
        Geva et al. 2021, arXiv:2012.14913, section 4.
    """
    values = model.blocks[-1].mlp.values.weight.T  # (F, D)
    logits = (values * model.norm.weight) @ model.head.weight.T
    return (logits - logits.mean(-1, keepdim=True)).double().numpy()


@contextmanager
def without_keys(model: LanguageModel, keys: Sequence[int]) -> Iterator[LanguageModel]:
    """Silence some keys inside the ``with`` block: their activation is zero everywhere."""
    mixer = model.blocks[-1].mlp
    n_keys = mixer.keys.out_features
    wrong = [key for key in keys if not 0 <= key < n_keys]
    if wrong:
        raise AttnlabError(f"Key {wrong[0]} is outside 0..{n_keys - 1} of this channel mixer.")
    keep = torch.ones(n_keys)
    keep[list(keys)] = 0.0
    handle = mixer.values.register_forward_pre_hook(lambda _, inputs: (inputs[0] * keep,))
    try:
        yield model
    finally:
        handle.remove()


def label_states(tokens: ArrayLike, *, contexts: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return the state at each position: the longest context that the prefix ends with.

    Shapes:
        tokens: ``(batch, time)``; returns the same shape, -1 where no context fits yet.
    """
    array = np.asarray(tokens, dtype=np.int64)
    states = np.full(array.shape, NO_STATE)
    for index in sorted(range(len(contexts)), key=lambda i: len(contexts[i])):
        context = contexts[index]
        n_ends = array.shape[1] - len(context) + 1
        if n_ends > 0:
            shifted = [array[:, i : i + n_ends] == token for i, token in enumerate(context)]
            states[:, len(context) - 1 :][np.all(shifted, axis=0)] = index
    return states


@torch.no_grad()
def next_token_law(model: LanguageModel, tokens: ArrayLike) -> Numbers:
    """Return the model's next-token chances after every prefix: ``(batch, time, vocab_size)``."""
    return model(_as_tokens(tokens)).double().softmax(-1).numpy()


def top_triggers(
    activity: Numbers, tokens: ArrayLike, *, key: int, n_triggers: int, n_tokens: int
) -> list[tuple[float, tuple[int, ...]]]:
    """Return the different short contexts at which a key fires most, strongest first.

    Shapes:
        activity: ``(batch, time, d_ff)``; tokens: ``(batch, time)``.
    Args:
        n_tokens: How many tokens of each context, the newest last.

    Returns:
        Pairs of activation and token ids.
    """
    array = np.asarray(tokens, dtype=np.int64)
    strengths = activity[:, n_tokens - 1 :, key]
    found: dict[tuple[int, ...], float] = {}
    for place in np.argsort(-strengths, axis=None, kind="stable"):
        row, end = np.unravel_index(place, strengths.shape)
        found.setdefault(tuple(array[row, end : end + n_tokens].tolist()), strengths[row, end])
        if len(found) == n_triggers:
            break
    return [(float(strength), context) for context, strength in found.items()]


def key_glossary(
    model: LanguageModel,
    tokens: ArrayLike,
    *,
    symbols: Sequence[str],
    n_keys: int = 5,
    n_examples: int = 4,
) -> list[dict[str, object]]:
    """Return the keys that push some tokens most: when they fire, and what they write.

    A key ranks by its strongest activation times the mean of its largest logits, so one that
    fires rarely or writes nothing in particular comes last.

    Shapes:
        tokens: ``(batch, time)`` windows of the text the model was trained on.

    Returns:
        Rows of ``key``, ``fires_after`` (contexts of three tokens) and ``writes`` (tokens).
    """
    activity, writes = key_activity(model, tokens), value_logits(model)
    push = activity.max(axis=(0, 1)) * np.sort(writes, axis=1)[:, -n_examples:].mean(axis=1)
    rows: list[dict[str, object]] = []
    for key in np.argsort(-push, kind="stable")[:n_keys].tolist():
        triggers = top_triggers(activity, tokens, key=key, n_triggers=n_examples, n_tokens=3)
        fires_after = [" ".join(symbols[i] for i in context) for _, context in triggers]
        best = np.argsort(-writes[key], kind="stable")[:n_examples]
        rows.append({"key": key, "fires_after": fires_after, "writes": [symbols[i] for i in best]})
    return rows


def _as_tokens(tokens: ArrayLike) -> Tensor:
    return torch.from_numpy(np.asarray(tokens, dtype=np.int64))
