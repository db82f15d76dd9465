"""Checks of the exercises of notebook 04: cross-entropy, bits per byte, top-p."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlab.seeding import numpy_generator
from attnlab.teaching.core import Case, Mistake, case, grade
from attnlab.teaching.quiz import Option, Question

Numbers = NDArray[np.float64]

LANGUAGE_QUIZ = (
    Question(
        "Suppose a SHE model beats attention at equal width. What may you conclude?",
        [
            Option("Lag weights are better than attention.", "Size was not held fixed."),
            Option(
                "At this width and budget, the SHE model is better.",
                "That is all one measured; eq. (4.5) says why it is not yet about the design.",
                is_right=True,
            ),
            Option("Nothing at all.", "A paired difference with its interval is something."),
        ],
    ),
    Question(
        "Two seeds each, and the ranges do not overlap. How often would luck alone do that?",
        [
            Option("1 time in 20", "That is the 5 % of an interval, not of two pairs."),
            Option(
                "1 time in 3",
                "$2 / \\binom{4}{2} = 1/3$: of six orders of four numbers, two separate the pairs.",
                is_right=True,
            ),
            Option("1 time in 126", "That is $2 / \\binom{10}{5}$, for five seeds."),
        ],
    ),
    Question(
        "Text is written as a Markov chain on prefixes (notebook 01). What does the loss of a "
        "language model then measure?",
        [
            Option(
                "How far its rows are from the true rows, plus the entropy rate.",
                "Expected loss = entropy rate + mean KL of the rows; eq. (4.9) takes it apart.",
                is_right=True,
            ),
            Option("How well it remembers the training text.", "On held-out text it cannot."),
            Option("How many states it has stored.", "A table may have all states, rows wrong."),
        ],
    ),
)


def check_cross_entropy(student: Callable[..., Any]) -> None:
    """Judge exercise 4.1: mean next-token loss in nats.

    Shapes:
        The function takes logits ``(time, vocab_size)`` and tokens ``(time,)``; row t of the
        logits predicts token t + 1. It returns a number.
    """
    mistakes = CROSS_ENTROPY_MISTAKES
    grade(student, reference=cross_entropy, cases=cross_entropy_cases(), mistakes=mistakes)


def check_bits_per_byte(student: Callable[..., Any]) -> None:
    """Judge exercise 4.2: from nats per token, tokens and bytes to bits per byte."""
    grade(
        student,
        reference=bits_per_byte,
        cases=bits_per_byte_cases(),
        mistakes=BITS_PER_BYTE_MISTAKES,
    )


def check_top_p(student: Callable[..., Any]) -> None:
    """Judge exercise 4.3: chances after a top-p filter.

    Shapes:
        The function takes chances ``(vocab_size,)`` and p; it returns ``(vocab_size,)``.
    """
    grade(student, reference=top_p_filter, cases=top_p_cases(), mistakes=TOP_P_MISTAKES)


def cross_entropy(logits: Numbers, tokens: NDArray[np.int64]) -> float:
    """Return the mean loss of predicting each token from the row before it."""
    scores = logits[:-1] - logits[:-1].max(axis=-1, keepdims=True)
    log_chances = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return float(-log_chances[np.arange(len(tokens) - 1), tokens[1:]].mean())


def cross_entropy_cases() -> list[Case]:
    """Return the cases of exercise 4.1, smallest first."""
    numbers = numpy_generator(4, "exercise/cross_entropy")
    logits, tokens = numbers.normal(size=(6, 5)), numbers.integers(0, 5, 6)
    large = 800.0 * np.eye(4)[[1, 2, 0, 3]]
    return [
        case("two tokens, two choices", np.array([[0.0, 1.0], [2.0, 0.0]]), np.array([0, 1])),
        case("equal scores for three tokens", np.zeros((4, 3)), np.array([0, 1, 2, 0])),
        case("random, 6 tokens out of 5", 2 * logits, tokens),
        case("scores of 800", large, np.array([0, 1, 3, 0])),
    ]


def _softmax(scores: Numbers, axis: int = -1) -> Numbers:
    shifted = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)


def _surprise(chances: Numbers, tokens: NDArray[np.int64]) -> Numbers:
    with np.errstate(divide="ignore"):
        return -np.log(chances[np.arange(len(tokens)), tokens])


def _in_bits(logits: Numbers, tokens: NDArray[np.int64]) -> float:
    return cross_entropy(logits, tokens) / float(np.log(2))


def _over_positions(logits: Numbers, tokens: NDArray[np.int64]) -> float:
    return float(_surprise(_softmax(logits[:-1], axis=0), tokens[1:]).mean())


def _unshifted(logits: Numbers, tokens: NDArray[np.int64]) -> float:
    return float(_surprise(_softmax(logits), tokens).mean())


def _softmax_twice(logits: Numbers, tokens: NDArray[np.int64]) -> float:
    return float(_surprise(_softmax(_softmax(logits[:-1])), tokens[1:]).mean())


def _summed(logits: Numbers, tokens: NDArray[np.int64]) -> float:
    return cross_entropy(logits, tokens) * (len(tokens) - 1)


def _all_entries(logits: Numbers, tokens: NDArray[np.int64]) -> float:
    return cross_entropy(logits, tokens) / logits.shape[1]


def _overflowing(logits: Numbers, tokens: NDArray[np.int64]) -> float:
    with np.errstate(all="ignore"):
        chances = np.exp(logits[:-1]) / np.exp(logits[:-1]).sum(axis=-1, keepdims=True)
        return float(-np.log(chances[np.arange(len(tokens) - 1), tokens[1:]]).mean())


CROSS_ENTROPY_MISTAKES = [
    Mistake("log2", _in_bits, "It is in bits; nats take the natural logarithm, np.log."),
    Mistake(
        "wrong axis",
        _over_positions,
        "The softmax ran over the positions; it belongs over the vocabulary, axis -1.",
    ),
    Mistake(
        "targets not shifted",
        _unshifted,
        "Each row was compared with the token it has just read; row t predicts token t + 1.",
    ),
    Mistake(
        "softmax of softmax",
        _softmax_twice,
        "A softmax was taken twice: chances went in where scores belong.",
    ),
    Mistake("sum", _summed, "It is the sum over the predicted tokens; the loss is their mean."),
    Mistake(
        "mean over all entries",
        _all_entries,
        "The mean ran over vocabulary entries too; average over the predicted tokens alone.",
    ),
    Mistake(
        "overflow",
        _overflowing,
        "exp(800) overflows; subtract the largest score of each row first, nothing else changes.",
    ),
]


def bits_per_byte(loss_nats: float, n_tokens: int, n_bytes: int) -> float:
    """Return the loss in bits per byte of text."""
    return loss_nats * n_tokens / float(np.log(2)) / n_bytes


def bits_per_byte_cases() -> list[Case]:
    """Return the cases of exercise 4.2, smallest first."""
    return [
        case("one token of two bytes, log 2 nats", float(np.log(2)), 1, 2),
        case("tokens that are bytes", 1.5, 7, 7),
        case("a short page", 4.0, 500, 1750),
        case("a book", 3.9, 41_213, 160_007),
    ]


BITS_PER_BYTE_MISTAKES = [
    Mistake(
        "no ln 2",
        lambda loss_nats, n_tokens, n_bytes: loss_nats * n_tokens / n_bytes,
        "That is nats per byte: divide by ln 2 to get bits.",
    ),
    Mistake(
        "per token",
        lambda loss_nats, n_tokens, n_bytes: loss_nats / float(np.log(2)),
        "That is bits per token: spread the total over the bytes, not over the tokens.",
    ),
    Mistake(
        "times ln 2",
        lambda loss_nats, n_tokens, n_bytes: loss_nats * n_tokens * float(np.log(2)) / n_bytes,
        "A bit is smaller than a nat, so there are more of them: divide by ln 2.",
    ),
    Mistake(
        "ratio turned",
        lambda loss_nats, n_tokens, n_bytes: loss_nats / float(np.log(2)) * n_bytes / n_tokens,
        "The ratio is upside down: the total is loss times tokens, and it is shared by the bytes.",
    ),
]


def top_p_filter(chances: Numbers, p: float) -> Numbers:
    """Return the chances of the likeliest tokens that first reach p, made to sum to one."""
    order = np.argsort(-chances, kind="stable")
    before = np.cumsum(chances[order]) - chances[order]
    kept = np.zeros_like(chances)
    chosen = order[before < p]
    kept[chosen] = chances[chosen]
    return kept / kept.sum()


def top_p_cases() -> list[Case]:
    """Return the cases of exercise 4.3, smallest first."""
    numbers = numpy_generator(4, "exercise/top_p")
    return [
        case("one token has all", np.array([0.0, 1.0]), 0.5),
        case("the first token is enough", np.array([0.7, 0.2, 0.1]), 0.6),
        case("the sum crosses p", np.array([0.5, 0.3125, 0.1875]), 0.75),
        case("the sum meets p exactly", np.array([0.5, 0.25, 0.1875, 0.0625]), 0.75),
        case("not sorted", np.array([0.05, 0.4, 0.15, 0.3, 0.1]), 0.72),
        case("random, 9 tokens", numbers.dirichlet(np.ones(9)), 0.9),
    ]


def _drops_crossing(chances: Numbers, p: float) -> Numbers:
    order = np.argsort(-chances, kind="stable")
    chosen = order[np.cumsum(chances[order]) <= p]
    return _renormalised(chances, chosen)


def _threshold(chances: Numbers, p: float) -> Numbers:
    return _renormalised(chances, np.flatnonzero(chances >= p))


def _unsorted(chances: Numbers, p: float) -> Numbers:
    return _renormalised(chances, np.flatnonzero(np.cumsum(chances) - chances < p))


def _not_renormalised(chances: Numbers, p: float) -> Numbers:
    return np.where(top_p_filter(chances, p) > 0, chances, 0.0)


def _one_too_many(chances: Numbers, p: float) -> Numbers:
    order = np.argsort(-chances, kind="stable")
    before = np.cumsum(chances[order]) - chances[order]
    return _renormalised(chances, order[before <= p])


def _renormalised(chances: Numbers, chosen: NDArray[np.int64]) -> Numbers:
    kept = np.zeros_like(chances)
    kept[chosen] = chances[chosen]
    total = kept.sum()
    return kept / total if total > 0 else kept


TOP_P_MISTAKES = [
    Mistake(
        "drops the crossing token",
        _drops_crossing,
        "The token whose chance carries the sum over p belongs in; it was dropped.",
    ),
    Mistake(
        "threshold",
        _threshold,
        "p was taken as a threshold for single tokens; it is for the running sum of the likeliest.",
    ),
    Mistake(
        "unsorted",
        _unsorted,
        "The running sum followed the vocabulary; sort from likeliest to least likely first.",
    ),
    Mistake(
        "not made to sum to one",
        _not_renormalised,
        "The right tokens are kept, but what is left must sum to one again.",
    ),
    Mistake(
        "one too many",
        _one_too_many,
        "Where the sum meets p exactly it is enough: the next token stays out.",
    ),
]
