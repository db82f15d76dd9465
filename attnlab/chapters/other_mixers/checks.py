"""Exercises of chapter 10: matrices from few numbers, and how far a mixer comes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attnlab.seeding import numpy_generator
from attnlab.teach import Exercise

Floats = NDArray[np.float64]


def read_lags(a: Floats) -> Floats:
    """Return the Toeplitz matrix of numbers per distance, newest first: ``(T, T)``."""
    t = np.arange(len(a))
    lag = t[:, None] - t
    return np.where(lag >= 0, np.asarray(a, float)[np.maximum(lag, 0)], 0.0)


LAGS = [
    ("one number", np.array([2.0])),
    ("two numbers", np.array([1.0, 3.0])),
    ("the four of the page", np.array([4.0, 3.0, 2.0, 1.0])),
    ("seven at random", numpy_generator(0, "exercise 10.1").normal(size=7)),
]
TRANSPOSED = (
    "Your triangle lies above the diagonal: row t is who reads, column s who is read, s <= t."
)
LAG_MISTAKES = {
    lambda a: read_lags(a).T: TRANSPOSED,
    lambda a: read_lags(a[::-1]): "The distances run backwards: a[0] belongs to the token itself, on the diagonal.",
    lambda a: np.tril(np.tile(a, (len(a), 1))): "Every row is the same: you took a[s], the number of the place s. It is the distance t - s that counts.",
    lambda a: np.tril(np.tile(a, (len(a), 1)).T): "Every column is the same: you took a[t], the number of the place t. It is the distance t - s that counts.",
    lambda a: read_lags(a) + np.triu(read_lags(a).T, 1): "Both triangles are filled: the future leaks in. Distances below zero get 0.",
    lambda a: np.array([np.roll(a[::-1], t + 1) for t in range(len(a))]): "The distance wraps around: a negative index counts from the end in Python. Those entries are the future, and 0.",
    lambda a: read_lags(a) - np.diag(np.full(len(a), a[0])): "The diagonal is missing: a token sees itself, at distance 0.",
    lambda a: np.diag(a): "Only the diagonal is there, and it is the same number a[0] all along.",
    lambda a: np.tril(np.full((len(a), len(a)), a[0])): "All distances share a[0]: that is a sum without order.",
    lambda a: read_lags(a) / read_lags(a).sum(1, keepdims=True): "Your rows sum to one; that is softmax's habit. A Toeplitz matrix holds the numbers themselves.",
    lambda a: a: "One row is expected for each position: a (T, T) matrix.",
}  # fmt: skip
check_toeplitz = Exercise(read_lags, LAGS, LAG_MISTAKES)


def stream(q: Floats, k: Floats, v: Floats) -> Floats:
    """Return ``tril(q k^T) v`` by a state that never grows: ``(T, d)``."""
    S, rows = np.zeros((k.shape[1], v.shape[1])), []
    for q_t, k_t, v_t in zip(q, k, v, strict=True):
        S = S + np.outer(k_t, v_t)
        rows.append(q_t @ S)
    return np.array(rows)


def _three(n_tokens: int, width: int, values: int) -> list[Floats]:
    draw = numpy_generator(n_tokens, "exercise 10.2").normal
    return [draw(size=(n_tokens, n)) for n in (width, width, values)]


STREAMS = [
    ("one token", np.array([[2.0]]), np.array([[3.0]]), np.array([[5.0]])),
    ("two tokens", np.array([[1.0], [1.0]]), np.array([[1.0], [2.0]]), np.array([[3.0], [4.0]])),
    ("three tokens, keys of 2, values of 2", *_three(3, 2, 2)),
    ("seven tokens, keys of 2, values of 3", *_three(7, 2, 3)),
]


def _before(q: Floats, k: Floats, v: Floats) -> Floats:
    return stream(q, k, v) - (q * k).sum(1, keepdims=True) * v


STREAM_MISTAKES = {
    _before: "The state is asked before the token is written into it: s = t belongs to the sum.",
    lambda q, k, v: stream(k, q, v): "Queries and keys changed places: k writes, q reads.",
    lambda q, k, v: (q @ k.T) @ v: "All pairs are there, the later ones too: the future leaks in.",
    lambda q, k, v: (q * k).sum(1, keepdims=True) * v: "The state is forgotten at each token: S must go on from token to token.",
    lambda q, k, v: np.tril(_soft(q @ k.T)) @ v: "That is attention: no softmax here, and it could not be streamed by sums.",
    lambda q, k, v: stream(q, k, v)[-1]: "That is the last position alone; each one has its own, stacked to (T, d).",
    lambda q, k, v: stream(q, k, v) / np.arange(1, len(q) + 1)[:, None]: "You divided by the number of tokens; the frame has no such factor.",
    lambda q, k, v: stream(q, k, v) * q.shape[1] ** -0.5: "The scale 1/sqrt(d) is attention's, for its softmax; the frame has none.",
    lambda q, k, v: stream(q, k, v)[::-1]: "The tokens come in reverse order.",
    lambda q, k, v: np.cumsum(v, 0): "Keys and queries are left out: that is a running sum of the values.",
}  # fmt: skip


def _soft(scores: Floats) -> Floats:
    e = np.exp(scores - scores.max(1, keepdims=True)) * np.tri(len(scores))
    return e / e.sum(1, keepdims=True)


check_stream = Exercise(stream, STREAMS, STREAM_MISTAKES)


def decayed(q: Floats, k: Floats, a: Floats) -> Floats:
    """Return M of a state that fades: ``M[t, s] = q_t k_s a_{s+1} ... a_t`` for s <= t."""
    n = len(q)
    return np.array(
        [[q[t] @ k[s] * np.prod(a[s + 1 : t + 1]) if s <= t else 0.0 for s in range(n)]
         for t in range(n)]
    )  # fmt: skip


def _fades(n_tokens: int, width: int) -> list[Floats]:
    dice = numpy_generator(n_tokens, "build 10")
    return [*dice.normal(size=(2, n_tokens, width)), dice.uniform(0.3, 0.9, n_tokens)]


_one, _half = np.ones((4, 1)), np.array([0.9, 0.5, 0.5, 0.5])
NO_FADE = "no fading: the low-rank matrix of section 1"
FADES = [
    ("one token", np.array([[2.0]]), np.array([[3.0]]), np.array([0.5])),
    ("ones that halve", _one, _one, _half),
    (NO_FADE, *_fades(4, 2)[:2], np.ones(4)),
    ("a gate that closes once", *_fades(5, 2)[:2], np.array([0.7, 0.9, 0.0, 0.8, 0.6])),
    ("seven tokens of width 3", *_fades(7, 3)),
]


def _scaled(q: Floats, k: Floats, a: Floats, *, late: int, early: int) -> Floats:
    n = len(q)
    fade = [[np.prod(a[s + early : t + late]) for s in range(n)] for t in range(n)]
    return np.tril((q @ k.T) * np.array(fade))


FADE_MISTAKES = {
    lambda q, k, a: _scaled(q, k, a, late=1, early=0): "a_s is in the product too: a token fades only after it was written, from s + 1 on, so the diagonal is q_t k_t.",
    lambda q, k, a: _scaled(q, k, a, late=0, early=1): "a_t is missing: what is old fades once more when token t arrives, before it is read.",
    lambda q, k, a: _scaled(q, k, a, late=0, early=0): "The product runs from a_s to a_(t-1): it must run from a_(s+1) to a_t.",
    lambda q, k, a: np.tril(q @ k.T): "Nothing fades: the product of the a is missing.",
    lambda q, k, a: np.tril((q @ k.T) * a[:, None]): "Only the newest gate is there; a token passes every gate from s + 1 to t.",
    lambda q, k, a: np.tril((q @ k.T) * a[0] ** np.subtract.outer(np.arange(len(a)), np.arange(len(a)))): "One rate for all positions: that is retention. Here each position has its own a_t.",
    lambda q, k, a: decayed(k, q, a): "Queries and keys changed places.",
    lambda q, k, a: decayed(q, k, a).T: TRANSPOSED,
    lambda q, k, a: decayed(q, k, a) + np.triu(q @ k.T, 1): "The upper triangle is filled: the future leaks in.",
    lambda q, k, a: np.tril((q @ k.T) * np.cumsum(a)[:, None]): "The gates are added; what passes several gates is multiplied by each.",
    lambda q, k, a: np.tril((q @ k.T) * np.cumprod(a)[:, None]): "The product runs from the first token on; it must begin after s.",
}  # fmt: skip
check_decayed = Exercise(decayed, FADES, FADE_MISTAKES)


def share(loss: float, nothing: float, best: float) -> float:
    """Return which part of the way from no mixing to the best possible a loss has come."""
    return (nothing - loss) / (nothing - best)


SHARES = [
    ("half way", 3.5, 5.0, 2.0),
    ("as without mixing", 5.0, 5.0, 2.0),
    ("at the floor", 2.0, 5.0, 2.0),
    ("worse than no mixing", 6.0, 5.0, 2.0),
    ("a loss on recall", 0.7, 2.8, 0.0),
]
SHARE_MISTAKES = {
    lambda loss, nothing, best: (loss - best) / (nothing - best): "That is what is left of the way; 1 minus it has been gone.",
    lambda loss, nothing, best: nothing - loss: "That is the gain in nats; divide by the whole way.",
    lambda loss, nothing, best: (nothing - loss) / nothing: "You divided by the loss without mixing: nobody can come to zero, only to the best possible.",
    lambda loss, nothing, best: best / loss if loss else 0.0: "A ratio of losses has no zero at no mixing; take differences.",
    lambda loss, nothing, best: min(1.0, max(0.0, (nothing - loss) / (nothing - best))): "You cut it to 0 and 1. A mixer may be worse than none: leave it negative.",
    lambda loss, nothing, best: 100 * (nothing - loss) / (nothing - best): "That is in per cent; a share is wanted, 1 at the best possible.",
    lambda loss, nothing, best: (loss - nothing) / (nothing - best): "The sign is turned: a lower loss is further on the way.",
    lambda loss, nothing, best: (nothing - loss) / (loss - best) if loss != best else 0.0: "You divided by what is left of the way, not by all of it.",
}  # fmt: skip
check_share = Exercise(share, SHARES, SHARE_MISTAKES)
