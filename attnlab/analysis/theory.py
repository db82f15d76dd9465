"""Closed forms: weights and multiplications of every mixer and of the whole language model.

Multiplications are those of the equation as written, for one sequence of T tokens with
every prefix computed once, ``P = T (T + 1) / 2``; fast evaluation needs fewer.
"""

from __future__ import annotations

from collections.abc import Callable

from attnlab.config import ModelConfig
from attnlab.errors import AttnlabError

_Form = Callable[..., int]
COUNT_NEUTRAL = {"n_heads", "method", "scale", "init_std", "dropout", "window", "gate_activation"}


def expected_mixer_weights(name: str, *, d_model: int, context_len: int) -> int:
    """Return how many weights a mixer has with its default options, no biases.

    Source:
        arXiv:2308.07661: ``4 d^2`` for attention, ``l d^2 + 2 d^2`` for SHE; the others
        follow from the reconstructions in ``attnlab.mixers.extractor``.
    """
    return _form(_WEIGHTS, name)(d_model, context_len)


def expected_multiplications(
    name: str, *, d_model: int, time: int, context_len: int | None = None, n_heads: int = 1
) -> int:
    """Return the multiplications of a mixer over a sequence of ``time`` tokens.

    Args:
        context_len: How far back a position looks; None means over the whole sequence.
        n_heads: Read by attention only.
    """
    pairs = causal_pairs(time, context_len=context_len)
    return _form(_MULTIPLICATIONS, name)(d_model, time, pairs, n_heads)


def causal_pairs(time: int, *, context_len: int | None = None) -> int:
    """Return the number of (position, earlier-or-same position) pairs within the context."""
    context_len = time if context_len is None else min(context_len, time)
    return context_len * (context_len + 1) // 2 + (time - context_len) * context_len


def expected_language_model_weights(config: ModelConfig) -> int:
    """Return how many weights ``LanguageModel(config)`` has.

    Raises:
        AttnlabError: Mixer options that change the count; the closed forms are of the defaults.
    """
    _require_default_form(config)
    d, d_ff = config.d_model, config.mlp_width
    mixer = expected_mixer_weights(config.mixer, d_model=d, context_len=config.context_len)
    norms = 2 * 2 * d
    channel_mixer = 2 * d * d_ff + d_ff + d
    embeddings = config.vocab_size * d * (1 if config.tie_embeddings else 2)
    positions = config.context_len * d if config.position == "learned" else 0
    return embeddings + positions + config.n_layers * (mixer + channel_mixer + norms) + 2 * d


def expected_language_model_multiplications(config: ModelConfig) -> int:
    """Return the multiplications of one forward pass over ``context_len`` tokens.

    Mixers, channel mixers and head; norms, softmax and activations are left out.

    Raises:
        AttnlabError: Mixer options that change the count.
    """
    _require_default_form(config)
    d, d_ff, time = config.d_model, config.mlp_width, config.context_len
    heads = config.mixer_options.get("n_heads", config.n_heads)
    mixer = expected_multiplications(config.mixer, d_model=d, time=time, n_heads=heads)
    return config.n_layers * (mixer + time * 2 * d * d_ff) + time * d * config.vocab_size


def _require_default_form(config: ModelConfig) -> None:
    changing = sorted(set(config.mixer_options) - COUNT_NEUTRAL)
    if changing:
        raise AttnlabError(
            f"The closed forms are of the default {config.mixer!r}; {changing[0]} changes the "
            "count. Count the parameters of the built model instead."
        )


def _form(forms: dict[str, _Form], name: str) -> _Form:
    if name not in forms:
        raise AttnlabError(f"No closed form for mixer {name!r}; there are {', '.join(forms)}.")
    return forms[name]


_WEIGHTS: dict[str, _Form] = {
    "attention": lambda d, _: 4 * d**2,
    "she": lambda d, length: length * d**2 + 2 * d**2,
    "he": lambda d, length: 3 * d**2 + length * d,
    "we": lambda d, length: d**2 + length * d,
    "me": lambda d, length: length * d + d,
    "identity": lambda d, _: 0,
    "mean": lambda d, _: 0,
}

# T = time, P = pairs, h = heads
_MULTIPLICATIONS: dict[str, _Form] = {
    "attention": lambda d, T, P, h: 4 * T * d**2 + 2 * P * d + P * h,
    "she": lambda d, T, P, _: P * d**2 + 2 * T * d**2 + T * d,
    "he": lambda d, T, P, _: 3 * T * d**2 + P * d + T * d,
    "we": lambda d, T, P, _: T * d**2 + P * d + T * d,
    "me": lambda d, T, P, _: P * d + 2 * T * d,
    "identity": lambda d, T, P, _: 0,
    "mean": lambda d, T, P, _: T * d,
}
