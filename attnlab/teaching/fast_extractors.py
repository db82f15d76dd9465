"""Judges of the exercises of notebook 06, its quiz, and operations counted by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError
from attnlab.seeding import numpy_generator
from attnlab.teaching.core import Case, Mistake, case, grade
from attnlab.teaching.quiz import Option, Question

Numbers = NDArray[np.float64]
CONTEXTS = (64, 256, 1024, 4096)  # tokens
HAND_SIGNAL = (3, 1, 4, 1, 5, 9, 2, 6)  # the eight tokens that notebook 06 transforms by hand

QUESTIONS = (
    Question(
        "A friend times SHE with the loop `W[j]`, finds it far slower than attention, and "
        "concludes that a short critical path is worth nothing. What do you reply?",
        [
            Option("Right.", "One program was slow. The equation has others with the same values."),
            Option(
                "Time the best program you know, and say how near to the machine it came.",
                "A clock judges a program, not an equation. Without the share of the peak nobody "
                "can tell which of the two was slow.",
                is_right=True,
            ),
            Option(
                "On a graphics card it would be faster.",
                "Perhaps. The backward pass of that loop writes ever more zeros there, too.",
            ),
        ],
    ),
    Question(
        "You write a test that no output depends on a later token, to the last bit, even when "
        "the later token is NaN. Which method must the mixer use in it?",
        [
            Option("Whichever is fastest.", "Methods over frequencies leak rounding, about 1e-6."),
            Option(
                "One that goes by lags.",
                "It never touches a later token, so the difference is exactly zero.",
                is_right=True,
            ),
            Option(
                "The one big matrix: its lower triangle is zero.",
                "Zero times a finite number is zero, but zero times NaN is NaN.",
            ),
        ],
    ),
    Question(
        "In a stream with tiles, token 1024 takes a hundred times as long as token 1023. A bug?",
        [
            Option(
                "No: a tile of size 1024 falls due.",
                "The mean is small because large tiles are rare. Where every token must come in "
                "time, the ring is the better choice, or the tile must be spread.",
                is_right=True,
            ),
            Option(
                "Yes, each token should cost the same.",
                "With the ring neighbours cost nearly the same; tiles do not.",
            ),
        ],
    ),
)


def check_fft_convolution(student: Callable[[Numbers, Numbers], Numbers]) -> None:
    """Judge exercise 6.1: ``fft_convolution(x, W)``, x ``(T, d)``, W ``(l, d, d)``."""
    grade(student, reference=convolution, cases=convolution_cases(), mistakes=FFT_MISTAKES)


def check_due_tile(student: Callable[[int], tuple[int, int, int, int]]) -> None:
    """Judge exercise 6.2: ``due_tile(n)``: size, first input, first output, largest lag."""
    grade(student, reference=due_tile, cases=tile_cases(), mistakes=TILE_MISTAKES)


def convolution(x: Numbers, W: Numbers) -> Numbers:
    """Return the causal convolution as its definition says: ``(T, d)``."""
    rows = [sum(x[t - j] @ W[j] for j in range(min(t + 1, len(W)))) for t in range(len(x))]
    return np.array(rows)


def due_tile(n: int) -> tuple[int, int, int, int]:
    """Return size, first input, first output and largest lag of the tile due after n tokens."""
    size = n & -n
    return size, n - size, n, 2 * size - 1


def convolution_cases() -> list[Case]:
    """Return sequences from one token to lengths whose padded sum is odd."""
    x = np.array([[1.0, 0], [0, 1], [1, 2]])
    W = np.array([[[1.0, 0], [0, 1]], [[0, 2], [1, 0]], [[2, 1], [0, 1]]])
    return [
        case("one token, two lags", x[2:], W[1:]),
        case("two tokens, two lags", x[:2], W[:2]),
        case("the three tokens of notebook 03", x, W),
        case("more tokens than lags", *_random(6, 2, 3)),
        case("more lags than tokens", *_random(3, 2, 5)),
        case("random, 6 tokens and 4 lags of width 3", *_random(6, 3, 4)),
    ]


def tile_cases() -> list[Case]:
    """Return small counts of tokens first, then powers of two and numbers between."""
    counts = (1, 2, 3, 4, 6, 8, 12, 20, 1024)
    return [case(f"{n} token{'s' * (n > 1)}", n) for n in counts]


def _random(n_tokens: int, width: int, n_lags: int) -> tuple[Numbers, Numbers]:
    normal = numpy_generator(n_tokens, "exercise").normal
    return normal(size=(n_tokens, width)), normal(size=(n_lags, width, width))


def _through_frequencies(
    x: Numbers,
    W: Numbers,
    *,
    n: int | None = None,
    product: str = "fi,fij->fj",
    is_conjugate: bool = False,
    has_length: bool = True,
    is_cut: bool = True,
) -> Numbers:
    """Return the convolution by transforms, right unless one of the options spoils it."""
    n = len(x) + len(W) - 1 if n is None else max(n, 1)
    signal, kernel = np.fft.rfft(x, n=n, axis=0), np.fft.rfft(W, n=n, axis=0)
    kernel = kernel.conj() if is_conjugate else kernel
    both = np.einsum(product, signal, kernel)
    e = np.fft.irfft(both, n=n if has_length else None, axis=0)
    return e[: len(x)] if is_cut else e


def _unpadded(x: Numbers, W: Numbers) -> Numbers:
    return _through_frequencies(x, W, n=len(x))


def _one_short(x: Numbers, W: Numbers) -> Numbers:
    return _through_frequencies(x, W, n=max(len(x), len(x) + len(W) - 2))


def _reversed(x: Numbers, W: Numbers) -> Numbers:
    return _through_frequencies(x, W[::-1])


def _guessed_length(x: Numbers, W: Numbers) -> Numbers:
    return _through_frequencies(x, W, has_length=False)


def _uncut(x: Numbers, W: Numbers) -> Numbers:
    return _through_frequencies(x, W, is_cut=False)


def _last_part(x: Numbers, W: Numbers) -> Numbers:
    return _through_frequencies(x, W, is_cut=False)[-len(x) :]


def _transposed(x: Numbers, W: Numbers) -> Numbers:
    return _through_frequencies(x, W, product="fi,fji->fj")


def _conjugate(x: Numbers, W: Numbers) -> Numbers:
    return _through_frequencies(x, W, is_conjugate=True)


FFT_MISTAKES = (
    Mistake(
        "no padding",
        _unpadded,
        "The transform is as long as the sequence: the end wraps around to the beginning. Pad "
        "with zeros, so that the sum of both lengths minus one fits.",
    ),
    Mistake(
        "one zero too few",
        _one_short,
        "One zero is missing: the last input at the last lag lands on output 0. The length is "
        "T + l - 1.",
    ),
    Mistake(
        "lags reversed",
        _reversed,
        "The lags run backwards. A transform wants lag 0 first; libraries of convolution differ.",
    ),
    Mistake(
        "length left to irfft",
        _guessed_length,
        "irfft was not told the length: from m frequencies it takes 2 (m - 1), which is wrong "
        "for an odd length. Give it n.",
    ),
    Mistake(
        "not cut back",
        _uncut,
        "All T + l - 1 rows came back; keep the first T, the rest lies after the last token.",
    ),
    Mistake(
        "last rows kept",
        _last_part,
        "The last T rows were kept; the outputs of the T tokens are the first T rows.",
    ),
    Mistake(
        "transpose",
        _transposed,
        "Each matrix is applied from the wrong side: vectors are rows, so it is x @ W, not W @ x.",
    ),
    Mistake(
        "conjugate",
        _conjugate,
        "A conjugate spectrum turns time around: each output now sums its future (a correlation).",
    ),
)


def _wrong_tile(change: Callable[[int, int], tuple[int, int, int, int]]) -> Callable[[int], tuple]:
    """Return a wrong answer made from n and the right size."""
    return lambda n: change(n, n & -n)


def _sized(size: int, n: int) -> tuple[int, int, int, int]:
    return size, n - size, n, 2 * size - 1


TILE_MISTAKES = (
    Mistake(
        "largest power below n",
        lambda n: _sized(1 << (n.bit_length() - 1), n),
        "That is the largest power of two up to n; wanted is the largest that divides n.",
    ),
    Mistake(
        "exponent",
        lambda n: _sized((n & -n).bit_length() - 1, n),
        "That is how often 2 divides n; the size is 2 to that power.",
    ),
    Mistake(
        "smallest tile always",
        lambda n: _sized(1, n),
        "Size 1 every time covers only lag 1. The size is the largest power of two dividing n.",
    ),
    Mistake(
        "outputs one too late",
        _wrong_tile(lambda n, u: (u, n - u, n + 1, 2 * u - 1)),
        "Tokens are counted from 0: after n of them the next output is number n.",
    ),
    Mistake(
        "inputs one too late",
        _wrong_tile(lambda n, u: (u, n - u + 1, n, 2 * u - 1)),
        "The last U of the inputs 0 to n - 1 begin at n - U.",
    ),
    Mistake(
        "all inputs",
        _wrong_tile(lambda n, u: (u, 0, n, 2 * u - 1)),
        "Older inputs have given to these outputs before, in a larger tile; take the last U only.",
    ),
    Mistake(
        "lags up to 2 U",
        _wrong_tile(lambda n, u: (u, n - u, n, 2 * u)),
        "The first input n - U and the last output n + U - 1 are 2 U - 1 apart, not 2 U.",
    ),
    Mistake(
        "lags up to U",
        _wrong_tile(lambda n, u: (u, n - u, n, u)),
        "U is the lag of the first input to the first output; to the last output it is larger.",
    ),
)


def ring_flops(n: int, *, d: int, context_len: int, is_dense: bool = True) -> int:
    """Return the operations of token number n (from 1) when all kept inputs are summed anew.

    A multiply-add counts two.

    Args:
        is_dense: A matrix for each lag; otherwise a vector.
    """
    return 2 * min(n, context_len) * (d * d if is_dense else d)


def tile_flops(size: int, *, d: int, is_dense: bool = True) -> int:
    """Return the operations of a tile, directly or by a transform of length 2 U, what is less.

    .. math:: 2 U^2 d^2 \\quad\\text{or}\\quad 8 (U + 1)\\, d^2 + 10\\, U \\log_2(2 U)\\, d

    A transform of n real numbers counts ``2.5 n log2(n)``, the usual figure; the kernel is
    transformed beforehand.
    """
    weights = d * d if is_dense else d
    direct = 2 * size * size * weights
    product = (8 if is_dense else 6) * (size + 1) * weights
    transforms = 2 * d * 2.5 * (2 * size) * math.log2(2 * size)
    return round(min(direct, product + transforms))


def stream_flops(n_tokens: int, *, d: int, is_dense: bool = True) -> NDArray[np.int64]:
    """Return the operations of each token in a stream with tiles: ``(n_tokens,)``.

    Every token pays for its own lag 0; the tile that is due after token n counts for token n.
    """
    own = ring_flops(1, d=d, context_len=1, is_dense=is_dense)
    sizes = [n & -n for n in range(1, n_tokens + 1)]
    sizes[-1] = 0  # nothing follows the last token
    cost = {size: tile_flops(size, d=d, is_dense=is_dense) if size else 0 for size in set(sizes)}
    return np.array([own + cost[size] for size in sizes])


def token_prices(
    *, d: int, contexts: Sequence[int] = CONTEXTS, drawn: int = 256
) -> tuple[pd.DataFrame, dict[str, NDArray[np.int64]]]:
    """Return what a token of SHE costs with the ring and with tiles, in operations.

    Args:
        contexts: Lengths of streams that are as long as the context.
        drawn: Length of the one stream whose tokens are priced one by one.

    Returns:
        Means in rows ``label``, ``context_len``, ``flops``; and, by label, the price of each
        token but the last, which has nothing to pay in advance.
    """
    rows = []
    for n in (*contexts, drawn):
        ring = [ring_flops(t, d=d, context_len=n) for t in range(1, n + 1)]
        prices = {"ring": np.array(ring), "tiles": stream_flops(n, d=d)}
        rows += [(label, n, price.mean()) for label, price in prices.items()]
    table = pd.DataFrame(rows[:-2], columns=["label", "context_len", "flops"])
    return table, {label: price[:-1] for label, price in prices.items()}


def best_rank_errors(lag_weight: ArrayLike) -> Numbers:
    r"""Return the relative error of the best rank-R weights for R = 1, 2, ..., min(l, d).

    With :math:`W_j = \sum_r B_r \mathrm{diag}(a_r(j))` output channel c has the matrix
    :math:`M_c[j, i] = W_j[i, c]`, and R is its rank. So the best choice is its truncated
    singular value decomposition, channel by channel.

    Shapes:
        lag_weight: ``(n_lags, d, d)``; returns ``(min(n_lags, d),)``.
    Source:
        Eckart and Young 1936, for each output channel.
    """
    weight = np.asarray(lag_weight, dtype=np.float64)
    if weight.ndim != 3:
        raise AttnlabError(f"lag_weight must be (n_lags, d, d); it is {weight.shape}.")
    values = np.linalg.svd(weight.transpose(2, 0, 1), compute_uv=False)  # (D, min(L, D))
    energy = (values**2).sum(axis=0)
    left = energy.sum() - np.cumsum(energy)
    return np.sqrt(np.maximum(left, 0.0) / energy.sum())


def low_rank_lags(lag_weight: ArrayLike, *, rank: int) -> tuple[Numbers, Numbers]:
    """Return the best ``B_r`` and ``a_r(j)`` for a rank: ``(R, d, d)`` and ``(n_lags, R, d)``."""
    weight = np.asarray(lag_weight, dtype=np.float64)
    left, values, right = np.linalg.svd(weight.transpose(2, 0, 1), full_matrices=False)
    vectors = (left * values[:, None])[:, :, :rank]  # (D, L, R): output channel first
    return right[:, :rank].transpose(1, 2, 0), vectors.transpose(1, 2, 0)
