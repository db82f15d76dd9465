"""Exercises of chapter 06."""

from __future__ import annotations

import numpy as np

from attnlab.seeding import numpy_generator
from attnlab.teach import CheckFailed, Exercise

# Exercise 6.1: a convolution by transforms -------------------------------------------------------


def convolution(x, W):
    """Return the causal convolution as its definition says: ``(T, d)``."""
    rows = [sum(x[t - j] @ W[j] for j in range(min(t + 1, len(W)))) for t in range(len(x))]
    return np.array(rows)


def numbers(n_tokens, width, n_lags):
    """Return random x ``(T, d)`` and W ``(l, d, d)``."""
    normal = numpy_generator(n_tokens, "exercise").normal
    return normal(size=(n_tokens, width)), normal(size=(n_lags, width, width))


def frequencies(
    *, n=None, product="fi,fij->fj", kernel=lambda w: w, rows=lambda e, T: e[:T], has_length=True
):
    """Return the convolution by transforms, right unless one of the options spoils it."""

    def by_transforms(x, W):
        length = len(x) + len(W) - 1 if n is None else n(len(x), len(W))
        x_hat, W_hat = np.fft.rfft(x, n=length, axis=0), kernel(np.fft.rfft(W, n=length, axis=0))
        both = np.einsum(product, x_hat, W_hat)
        return rows(np.fft.irfft(both, n=length if has_length else None, axis=0), len(x))

    return by_transforms


x = np.array([[1.0, 0], [0, 1], [1, 2]])
W = np.array([[[1.0, 0], [0, 1]], [[0, 2], [1, 0]], [[2, 1], [0, 1]]])

check_fft_convolution = Exercise(
    convolution,
    [
        ("one token, two lags", x[2:], W[1:]),
        ("two tokens, two lags", x[:2], W[:2]),
        ("the three tokens of notebook 03", x, W),
        ("more tokens than lags", *numbers(6, 2, 3)),
        ("more lags than tokens", *numbers(3, 2, 5)),
        ("random, 6 tokens and 4 lags of width 3", *numbers(6, 3, 4)),
    ],
    {
        frequencies(n=lambda T, _: T): "The transform is as long as the sequence: the end wraps around to the beginning. Pad with zeros, so that the sum of both lengths minus one fits.",
        frequencies(n=lambda T, n_lags: max(T, T + n_lags - 2)): "One zero is missing: the last input at the last lag lands on output 0. The length is T + l - 1.",
        lambda x, W: frequencies()(x, W[::-1]): "The lags run backwards. A transform wants lag 0 first; libraries of convolution differ.",
        frequencies(has_length=False): "irfft was not told the length: from m frequencies it takes 2 (m - 1), which is wrong for an odd length. Give it n.",
        frequencies(rows=lambda e, T: e): "All T + l - 1 rows came back; keep the first T, the rest lies after the last token.",
        frequencies(rows=lambda e, T: e[-T:]): "The last T rows were kept; the outputs of the T tokens are the first T rows.",
        frequencies(product="fi,fji->fj"): "Each matrix is applied from the wrong side: vectors are rows, so it is x @ W, not W @ x.",
        frequencies(kernel=np.conj): "A conjugate spectrum turns time around: each output now sums its future (a correlation).",
    },
)  # fmt: skip


# Exercise 6.2: the tile that is due --------------------------------------------------------------


def due_tile(n, *, size=lambda n: n & -n, tile=lambda n, u: (u, n - u, n, 2 * u - 1)):
    """Return size, first input, first output and largest lag of the tile due after n tokens."""
    return tile(n, size(n))


def wrong(**parts):
    """Return ``due_tile`` with one part spoilt."""
    return lambda n: due_tile(n, **parts)


check_due_tile = Exercise(
    due_tile,
    [(f"{n} token{'s' * (n > 1)}", n) for n in (1, 2, 3, 4, 6, 8, 12, 20, 1024)],
    {
        wrong(size=lambda n: 1 << (n.bit_length() - 1)): "That is the largest power of two up to n; wanted is the largest that divides n.",
        wrong(size=lambda n: (n & -n).bit_length() - 1): "That is how often 2 divides n; the size is 2 to that power.",
        wrong(size=lambda n: 1): "Size 1 every time covers only lag 1. The size is the largest power of two dividing n.",
        wrong(tile=lambda n, u: (u, n - u, n + 1, 2 * u - 1)): "Tokens are counted from 0: after n of them the next output is number n.",
        wrong(tile=lambda n, u: (u, n - u + 1, n, 2 * u - 1)): "The last U of the inputs 0 to n - 1 begin at n - U.",
        wrong(tile=lambda n, u: (u, 0, n, 2 * u - 1)): "Older inputs have given to these outputs before, in a larger tile; take the last U only.",
        wrong(tile=lambda n, u: (u, n - u, n, 2 * u)): "The first input n - U and the last output n + U - 1 are 2 U - 1 apart, not 2 U.",
        wrong(tile=lambda n, u: (u, n - u, n, u)): "U is the lag of the first input to the first output; to the last output it is larger.",
    },
)  # fmt: skip


# Build 6: a stream with a state -------------------------------------------------------------------


def stream_of(
    *,
    shared=False,
    keeps=0,
    newest_first=True,
    adds="before",
    wrong_side=False,
    reads=True,
):
    """Return a class of streams with these parts right or wrong."""
    common = []

    class Stream:
        def __init__(self, W):
            self.W, self.kept, self.n = W, common if shared else [], 0

        def step(self, x_t):
            if adds == "before":
                self.kept.append(x_t)
            if reads:
                del self.kept[: max(0, len(self.kept) - (len(self.W) - keeps))]
            kept = self.kept[::-1] if newest_first else self.kept
            e_t = np.zeros(len(x_t))
            for j, x_s in enumerate(kept):
                e_t = e_t + (self.W[j] @ x_s if wrong_side else x_s @ self.W[j])
            if adds == "after":
                self.kept.append(x_t)
            self.n += 1
            return e_t

    return Stream


def streamed(build, x, W):
    """Return what a stream says, token by token, and what a second stream says meanwhile."""
    one, other, rows = build(W.copy()), build(W.copy()), []
    if not hasattr(one, "step"):
        raise CheckFailed("The class needs a method step(x_t).")
    for x_t in x:
        rows.append((one.step(x_t.copy()), other.step(-2.0 * x_t)))
    return {"stream": [a for a, _ in rows], "another stream": [b for _, b in rows]}


check_stream = Exercise(
    stream_of(),
    [
        ("one token, one lag", x[2:], W[:1]),
        ("two tokens, two lags", x[:2], W[:2]),
        ("the three tokens of notebook 03", x, W),
        ("more lags than tokens", *numbers(3, 2, 5)),
        ("more tokens than lags", *numbers(7, 2, 3)),
        ("random, 9 tokens and 4 lags of width 3", *numbers(9, 3, 4)),
    ],
    {
        stream_of(shared=True): "Two streams share their state: what one has read, the other sums. Make the state in __init__, not in the class.",
        stream_of(keeps=1): "One input is forgotten too early: l of them count, the newest among them.",
        stream_of(newest_first=False): "The lags run backwards: W[0] belongs to the newest token.",
        stream_of(adds="after"): "The newest token is missing from its own sum: store it before you add up.",
        stream_of(wrong_side=True): "Each W_j is applied from the wrong side: vectors are rows, so it is x @ W, not W @ x.",
        lambda W: stream_of()(W[:1]): "Only lag 0 is there: nothing of the past is kept.",
    },
    {"more tokens than lags": "There are only l matrices: forget the oldest input when there are more than l."},
    use=streamed,
)  # fmt: skip
