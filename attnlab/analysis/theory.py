"""Closed forms: weights and multiplications of every mixer and of the whole language model.

Each mixer's class has its own (``attnlab.mixers``). Multiplications are those of the equation as
written, for one sequence of T tokens with every prefix computed once, ``P = T (T + 1) / 2``; fast
evaluation needs fewer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from attnlab.config import ModelConfig
from attnlab.errors import AttnlabError
from attnlab.mixers.base import Sum, find_mixer, list_mixers, mixer_summary

COUNT_NEUTRAL = {"n_heads", "method", "scale", "init_std", "start_decay", "start_scale", "dropout"}


def expected_mixer_weights(name: str, *, d_model: int, context_len: int, n_heads: int = 1) -> int:
    """Return how many weights a mixer has with its default options, no biases.

    Args:
        n_heads: Read by mixers that have heads; few of their counts depend on it.

    Source:
        arXiv:2308.07661: ``4 d^2`` for attention, ``l d^2 + 2 d^2`` for SHE; the others
        follow from the reconstructions in ``attnlab.mixers.extractor``.
    """
    return find_mixer(name).expected_weights(d_model, context_len, n_heads)


def expected_state_numbers(name: str, *, d_model: int, context_len: int, n_heads: int = 1) -> int:
    """Return how many numbers a stream keeps of one sequence that fills the context."""
    return find_mixer(name).expected_state(d_model, context_len, n_heads)


def expected_multiplications(
    name: str, *, d_model: int, time: int, context_len: int | None = None, n_heads: int = 1
) -> int:
    """Return the multiplications of a mixer over a sequence of ``time`` tokens.

    Args:
        context_len: How far back a position looks; None means over the whole sequence.
        n_heads: Read by mixers that have heads.
    """
    pairs = causal_pairs(time, context_len=context_len)
    return find_mixer(name).expected_multiplications(d_model, time, pairs, n_heads)


def mixer_prices(*, d_model: int = 64, context_len: int = 128) -> list[dict[str, Any]]:
    """Return what is known of every registered mixer, and what it costs with default options.

    Returns:
        One dictionary a mixer: ``mixer``, ``structure`` of M, whether it ``adapts`` to the tokens,
        numbers of ``weights`` and of ``state`` at a full context, ``work`` (multiplications a
        token of a pass over the context), and its ``summary``.
    """
    rows = []
    for name in list_mixers():
        sizes, one = {"d_model": d_model, "context_len": context_len}, find_mixer(name)
        work = expected_multiplications(name, d_model=d_model, time=context_len) / context_len
        facts = {"mixer": name, "structure": one.structure, "adapts": one.adapts}
        facts |= {"weights": expected_mixer_weights(name, **sizes)}
        facts |= {"state": expected_state_numbers(name, **sizes), "work": round(work)}
        rows.append(facts | {"summary": mixer_summary(name)})
    return rows


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
        n_heads: Read by mixers that have heads.
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
    closed_form = find_mixer(name).expected_chain
    if closed_form is None:
        raise AttnlabError(f"No closed form of the chain of {name!r} is derived; trace its step.")
    chain = closed_form(d_model, context_len, n_heads, _SUMS[accumulate])
    return tuple(ChainStep(*step) for step in chain if step[1])


def expected_language_model_weights(config: ModelConfig) -> int:
    """Return how many weights ``LanguageModel(config)`` has.

    Raises:
        AttnlabError: Mixer options that change the count; the closed forms are of the defaults.
    """
    _require_default_form(config)
    d, d_ff = config.d_model, config.mlp_width
    heads = config.mixer_options.get("n_heads", config.n_heads)
    sizes = {"d_model": d, "context_len": config.context_len, "n_heads": heads}
    mixers = sum(expected_mixer_weights(name, **sizes) for name, _ in _layers(config))
    norms = 2 * 2 * d
    channel_mixer = 2 * d * d_ff + d_ff + d
    embeddings = config.vocab_size * d * (1 if config.tie_embeddings else 2)
    positions = config.context_len * d if config.position == "learned" else 0
    positions += config.short_conv * d
    return embeddings + positions + mixers + config.n_layers * (channel_mixer + norms) + 2 * d


def expected_language_model_multiplications(config: ModelConfig) -> int:
    """Return the multiplications of one forward pass over ``context_len`` tokens.

    Mixers, channel mixers and head; norms, softmax and activations are left out.

    Raises:
        AttnlabError: Mixer options that change the count.
    """
    _require_default_form(config)
    d, d_ff, time = config.d_model, config.mlp_width, config.context_len
    heads = config.mixer_options.get("n_heads", config.n_heads)
    sizes = {"d_model": d, "time": time, "n_heads": heads}
    mixers = sum(
        expected_multiplications(name, context_len=options.get("window"), **sizes)
        for name, options in _layers(config)
    )
    others = config.n_layers * 2 * d_ff + config.short_conv + config.vocab_size
    return mixers + time * d * others


def _layers(config: ModelConfig) -> list[tuple[str, dict[str, Any]]]:
    """Return mixer and options of each layer."""
    mixer, options = find_mixer(config.mixer), config.mixer_options
    return [mixer.in_layer(layer, options) for layer in range(config.n_layers)]


def _require_default_form(config: ModelConfig) -> None:
    changing = sorted(set(config.mixer_options) - COUNT_NEUTRAL)
    if changing:
        raise AttnlabError(
            f"The closed forms are of the default {config.mixer!r}; {changing[0]} changes the "
            "count. Count the parameters of the built model instead."
        )


def _tree_sum(n_terms: int, *, late: int = 0) -> int:
    """Return the depth of a tree over n terms, one of them ready ``late`` levels after the rest.

    The best tree over arrivals t_i is ready at ceil(log2 sum_i 2^t_i).
    """
    return int(n_terms - 1 + 2**late - 1).bit_length()


def _sequential_sum(n_terms: int, *, late: int = 0) -> int:
    """Return the depth of a running total that begins with the late term."""
    return late + n_terms - 1


_SUMS: dict[str, Sum] = {"tree": _tree_sum, "sequential": _sequential_sum}
