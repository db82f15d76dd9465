"""Closed forms: weights and multiplications of every mixer and of the whole language model.

Multiplications are those of the equation as written, for one sequence of T tokens with
every prefix computed once, ``P = T (T + 1) / 2``; fast evaluation needs fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from attnlab.config import ModelConfig
from attnlab.errors import AttnlabError

_Form = Callable[..., int]
_Sum = Callable[..., int]  # of a number of terms, one of them perhaps late, to a depth
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


class ChainStep(NamedTuple):
    """Operations of one kind that follow each other, and what they work on."""

    kind: str
    depth: int
    name: str


def expected_depth(
    name: str, *, d_model: int, context_len: int, n_heads: int = 1, accumulate: str = "tree"
) -> int:
    r"""Return how many operations must follow each other for the newest token.

    With T = ``context_len`` tokens seen and what is cached of the others ready at depth 0. A
    sum of n terms that are ready together takes :math:`A(n) = \lceil \log_2 n \rceil` in a
    tree and n - 1 in sequence. One multiplication and one sum over d, :math:`L = 1 + A(d)`,
    are a linear map.

    .. math:: \text{attention: } 2L + A(d_h) + 3 A(T) + 6, \qquad
              \text{SHE: } 1 + A(T d) + 1 + L

    Attention with one-channel heads needs one less: its scale is 1. HE waits for the value of
    the newest token, :math:`L`, so its sum has one late term (in a parallel pass, where no
    value is cached, all terms are late); WE and ME have no output map.

    Args:
        n_heads: Read by attention only.
        accumulate: ``tree`` joins what is ready first; ``sequential`` adds lag by lag, the
            newest first.
    Source:
        The chain of the first Extractor, in words: arXiv:2308.07661; derived in notebook 05.
    """
    sizes = {"d_model": d_model, "context_len": context_len, "n_heads": n_heads}
    return sum(step.depth for step in expected_chain(name, accumulate=accumulate, **sizes))


def expected_chain(
    name: str, *, d_model: int, context_len: int, n_heads: int = 1, accumulate: str = "tree"
) -> tuple[ChainStep, ...]:
    """Return the longest chain of ``expected_depth`` step by step; one-term sums are no step."""
    if accumulate not in _SUMS:
        raise AttnlabError(f"accumulate={accumulate!r} is not one of {', '.join(_SUMS)}.")
    chain = _form(_CHAINS, name)(d_model, context_len, n_heads, _SUMS[accumulate])
    return tuple(step for step in chain if step.depth)


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


def _form(forms: dict[str, Any], name: str) -> Any:
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


def _tree_sum(n_terms: int, *, late: int = 0) -> int:
    """Return the depth of a tree over n terms, one of them ready ``late`` levels after the rest.

    The best tree over arrivals t_i is ready at ceil(log2 sum_i 2^t_i).
    """
    return int(n_terms - 1 + 2**late - 1).bit_length()


def _sequential_sum(n_terms: int, *, late: int = 0) -> int:
    """Return the depth of a running total that begins with the late term."""
    return late + n_terms - 1


_SUMS: dict[str, _Sum] = {"tree": _tree_sum, "sequential": _sequential_sum}


def _product(name: str, summed: int) -> list[ChainStep]:
    return [ChainStep("mul", 1, name), ChainStep("acc", summed, name)]


def _attention_chain(d: int, T: int, h: int, total: _Sum) -> list[ChainStep]:
    is_scaled = int(d > h)  # 1 / sqrt(1) needs no multiplication
    softmax = [("max", total(T)), ("add", 1), ("exp", 1), ("acc", total(T)), ("div", 1)]
    return [
        *_product("query", total(d)),
        *_product("query × key", total(d // h)),
        ChainStep("mul", is_scaled, "query × key, constant"),
        *(ChainStep(kind, depth, "softmax") for kind, depth in softmax),
        *_product("softmax × value", total(T)),
        *_product("out", total(d)),
    ]


def _she_chain(d: int, T: int, _: int, total: _Sum) -> list[ChainStep]:
    gate = ChainStep("mul", 1, "lag_weight × adjust")
    return [*_product("lag_weight", total(T * d)), gate, *_product("out", total(d))]


def _he_chain(d: int, T: int, _: int, total: _Sum) -> list[ChainStep]:
    late = 1 + total(d)  # the value of the newest token; the others are cached
    return [
        *_product("value", total(d)),
        *_product("lag_weight", total(T, late=late) - late),
        ChainStep("mul", 1, "lag_weight × adjust"),
        *_product("out", total(d)),
    ]


def _we_chain(d: int, T: int, _: int, total: _Sum) -> list[ChainStep]:
    gated = ("lag_weight", T) if total(T) >= total(d) else ("adjust", d)
    return [*_product(gated[0], total(gated[1])), ChainStep("mul", 1, "lag_weight × adjust")]


def _me_chain(d: int, T: int, _: int, total: _Sum) -> list[ChainStep]:
    gate = ChainStep("mul", 1, "lag_weight × adjust_weight")
    return [*_product("lag_weight", total(T)), gate]


def _mean_chain(d: int, T: int, _: int, total: _Sum) -> list[ChainStep]:
    return [ChainStep("acc", total(T), "x_t"), ChainStep("mul", int(T > 1), "x_t, constant")]


_CHAINS: dict[str, Callable[[int, int, int, _Sum], list[ChainStep]]] = {
    "attention": _attention_chain,
    "she": _she_chain,
    "he": _he_chain,
    "we": _we_chain,
    "me": _me_chain,
    "identity": lambda d, T, h, total: [],
    "mean": _mean_chain,
}
