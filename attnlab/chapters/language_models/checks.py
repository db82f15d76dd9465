"""Exercises of chapter 04."""

from __future__ import annotations

import numpy as np

from attnlab.seeding import numpy_generator
from attnlab.teach import Exercise

LN2 = float(np.log(2))


# Exercise 4.1: cross-entropy from scores ---------------------------------------------------------


def softmax(scores, axis=-1):
    """Return shares of ``exp(scores)``, without overflow."""
    shifted = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)


def surprise(chances, tokens):
    """Return the mean of ``-log`` of the chances of the tokens, row by row."""
    return float(-np.log(chances[np.arange(len(tokens)), tokens]).mean())


def cross_entropy(logits, tokens):
    """Return the mean loss of predicting each token from the row before it."""
    scores = logits[:-1] - logits[:-1].max(axis=-1, keepdims=True)
    log_chances = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return float(-log_chances[np.arange(len(tokens) - 1), tokens[1:]].mean())


def overflowing(logits, tokens):
    raw = np.exp(logits[:-1])
    return surprise(raw / raw.sum(axis=-1, keepdims=True), tokens[1:])


draw = numpy_generator(4, "exercise/cross_entropy")
random = 2 * draw.normal(size=(6, 5)), draw.integers(0, 5, 6)

check_cross_entropy = Exercise(
    cross_entropy,
    [
        ("two tokens, two choices", np.array([[0.0, 1.0], [2.0, 0.0]]), np.array([0, 1])),
        ("equal scores for three tokens", np.zeros((4, 3)), np.array([0, 1, 2, 0])),
        ("random, 6 tokens out of 5", *random),
        ("scores of 800", 800.0 * np.eye(4)[[1, 2, 0, 3]], np.array([0, 1, 3, 0])),
    ],
    {
        lambda z, v: cross_entropy(z, v) / LN2: "It is in bits; nats take the natural logarithm, np.log.",
        lambda z, v: surprise(softmax(z[:-1], axis=0), v[1:]): "The softmax ran over the positions; it belongs over the vocabulary, axis -1.",
        lambda z, v: surprise(softmax(z), v): "Each row was compared with the token it has just read; row t predicts token t + 1.",
        lambda z, v: surprise(softmax(softmax(z[:-1])), v[1:]): "A softmax was taken twice: chances went in where scores belong.",
        lambda z, v: cross_entropy(z, v) * (len(v) - 1): "It is the sum over the predicted tokens; the loss is their mean.",
        lambda z, v: cross_entropy(z, v) / z.shape[1]: "The mean ran over vocabulary entries too; average over the predicted tokens alone.",
        overflowing: "exp(800) overflows; subtract the largest score of each row first, nothing else changes.",
    },
)  # fmt: skip


# Exercise 4.2: bits per byte ---------------------------------------------------------------------


def bits_per_byte(loss_nats, n_tokens, n_bytes):
    """Return the loss in bits per byte of text."""
    return loss_nats * n_tokens / LN2 / n_bytes


check_bits_per_byte = Exercise(
    bits_per_byte,
    [
        ("one token of two bytes, log 2 nats", LN2, 1, 2),
        ("tokens that are bytes", 1.5, 7, 7),
        ("a short page", 4.0, 500, 1750),
        ("a book", 3.9, 41_213, 160_007),
    ],
    {
        lambda nats, n, n_bytes: nats * n / n_bytes: "That is nats per byte: divide by ln 2 to get bits.",
        lambda nats, n, n_bytes: nats / LN2: "That is bits per token: spread the total over the bytes, not over the tokens.",
        lambda nats, n, n_bytes: nats * n * LN2 / n_bytes: "A bit is smaller than a nat, so there are more of them: divide by ln 2.",
        lambda nats, n, n_bytes: nats / LN2 * n_bytes / n: "The ratio is upside down: the total is loss times tokens, and it is shared by the bytes.",
    },
)  # fmt: skip


# Exercise 4.3: the top-p filter ------------------------------------------------------------------


def kept(chances, chosen):
    """Return the chosen chances, made to sum to one where there are any."""
    some = np.zeros_like(chances)
    some[chosen] = chances[chosen]
    return some / some.sum() if some.sum() > 0 else some


def by_running_sum(chances, is_kept):
    """Keep the likeliest tokens for whose running sum (before, after) the rule holds."""
    order = np.argsort(-chances, kind="stable")
    after = np.cumsum(chances[order])
    return kept(chances, order[is_kept(after - chances[order], after)])


def top_p_filter(chances, p):
    """Return the chances of the likeliest tokens that first reach p, made to sum to one."""
    return by_running_sum(chances, lambda before, after: before < p)


check_top_p = Exercise(
    top_p_filter,
    [
        ("one token has all", np.array([0.0, 1.0]), 0.5),
        ("the first token is enough", np.array([0.7, 0.2, 0.1]), 0.6),
        ("the sum crosses p", np.array([0.5, 0.3125, 0.1875]), 0.75),
        ("the sum meets p exactly", np.array([0.5, 0.25, 0.1875, 0.0625]), 0.75),
        ("not sorted", np.array([0.05, 0.4, 0.15, 0.3, 0.1]), 0.72),
        ("random, 9 tokens", numpy_generator(4, "exercise/top_p").dirichlet(np.ones(9)), 0.9),
    ],
    {
        lambda c, p: by_running_sum(c, lambda before, after: after <= p): "The token whose chance carries the sum over p belongs in; it was dropped.",
        lambda c, p: kept(c, np.flatnonzero(c >= p)): "p was taken as a threshold for single tokens; it is for the running sum of the likeliest.",
        lambda c, p: kept(c, np.flatnonzero(np.cumsum(c) - c < p)): "The running sum followed the vocabulary; sort from likeliest to least likely first.",
        lambda c, p: np.where(top_p_filter(c, p) > 0, c, 0.0): "The right tokens are kept, but what is left must sum to one again.",
        lambda c, p: by_running_sum(c, lambda before, after: before <= p): "Where the sum meets p exactly it is enough: the next token stays out.",
    },
)  # fmt: skip
