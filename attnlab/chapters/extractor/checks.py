"""Exercises of chapter 03."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attnlab.analysis.theory import expected_mixer_weights
from attnlab.seeding import torch_generator
from attnlab.teach import Exercise

FAMILY = ("attention", "she", "he", "we", "me")
MORE_TOKENS = "more tokens than matrices: the oldest are dropped"
BREAKS = {
    MORE_TOKENS: "There are only l matrices: counted from 0, position t has min(t + 1, l) lags, not t + 1."
}


def page_numbers() -> tuple[Tensor, ...]:
    """Return x, W, W_adj and W_out of the example that notebook 03 computes by hand."""
    x = [[1, 0], [0, 1], [1, 2]]
    W = [[[1, 0], [0, 1]], [[0, 2], [1, 0]], [[2, 1], [0, 1]]]
    W_adj, W_out = [[1, 1], [0, 1]], [[1, 0], [1, 1]]
    return tuple(torch.tensor(v, dtype=torch.float64) for v in (x, W, W_adj, W_out))


def random_numbers(n_tokens: int, width: int, n_lags: int) -> list[Tensor]:
    """Return x, W, W_adj and W_out of any size."""
    generator = torch_generator(n_tokens, "exercise")
    shapes = (n_tokens, width), (n_lags, width, width), (width, width), (width, width)
    return [torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes]


x, W, W_adj, W_out = page_numbers()
CASES = [
    ("one token", x[:1], W[:1], W_adj, W_out),
    ("two tokens", x[:2], W[:2], W_adj, W_out),
    ("the three tokens of the page", x, W, W_adj, W_out),
    ("fewer tokens than matrices", *random_numbers(3, 2, 5)),
    (MORE_TOKENS, *random_numbers(5, 2, 3)),
    ("random, 7 tokens of width 3", *random_numbers(7, 3, 7)),
]


def extract(x: Tensor, W: Tensor) -> Tensor:
    """Return the extraction of every prefix, one lag at a time: ``(T, d)``."""
    n_lags = [min(t + 1, len(W)) for t in range(len(x))]
    return torch.stack([sum(x[t - j] @ W[j] for j in range(n)) for t, n in enumerate(n_lags)])


def _by_place(x: Tensor, W: Tensor) -> Tensor:
    seen = [range(min(t + 1, len(W))) for t in range(len(x))]
    return torch.stack([sum(x[s] @ W[s] for s in its) for its in seen])


def _wrapped(x: Tensor, W: Tensor) -> Tensor:
    n = len(x)
    return torch.stack([sum(x[(t - j) % n] @ W[j] for j in range(len(W))) for t in range(n)])


def _both_ways(x: Tensor, W: Tensor) -> Tensor:
    n = len(x)
    near = [[(s, abs(t - s)) for s in range(n) if abs(t - s) < len(W)] for t in range(n)]
    return torch.stack([sum(x[s] @ W[j] for s, j in its) for its in near])


def _fewer_lags(x: Tensor, W: Tensor) -> Tensor:
    zero = torch.zeros_like(x[0])
    n_lags = [min(t, len(W)) for t in range(len(x))]
    return torch.stack(
        [sum((x[t - j] @ W[j] for j in range(n)), zero) for t, n in enumerate(n_lags)]
    )


EXTRACT = {
    _by_place: "W is indexed by the place of the token, not by its lag: the newest token meets W[0].",
    lambda x, W: extract(x, W.flip(0)): "The lags run backwards: W[0] belongs to the newest token, the last W to the oldest.",
    _wrapped: "x[t - j] with j > t is a negative index: Python wraps around to the end of the sequence, so the future leaks in.",
    _both_ways: "Position t also sums tokens after t: the future leaks in. The lag j is never negative.",
    lambda x, W: extract(x, W.mT): "Each W_j is applied from the wrong side: vectors are rows, so it is x @ W, not W @ x.",
    lambda x, W: extract(x, W) - x @ W[0]: "Lag 0, the newest token itself, is missing from the sum.",
    lambda x, W: _fewer_lags(x, W): "The oldest lag is missing where the past is short: position t, counted from 0, has min(t + 1, l) lags.",
    lambda x, W: extract(x, W)[-1]: "That is the extraction of the last position; each prefix has its own, stacked to (T, d).",
    lambda x, W: x @ W[0]: "Only lag 0 is there: nothing of the past.",
    lambda x, W: extract(x, W) / torch.arange(1, len(x) + 1)[:, None]: "You divided by the number of tokens, which makes a mean. Eq. (3.3) is a sum.",
    lambda x, W: extract(x, W[:1].expand_as(W)): "Every lag went through W[0]: that is a bag of tokens, blind to order.",
}  # fmt: skip
check_extract = Exercise(extract, [case[:3] for case in CASES], EXTRACT, BREAKS)


def she_of(extract=extract, *, gate=lambda x, e, A: x @ A, join=torch.mul, out=torch.matmul):
    """Return SHE with these parts right or wrong."""

    def she(x, W, W_adj, W_out):
        e = extract(x, W)
        return out(join(e, gate(x, e, W_adj)), W_out)

    return she


she = she_of()
SHE = {
    she_of(gate=lambda x, e, A: e @ A): "The gate is computed from e_t; it must come from the newest token x_t alone.",
    she_of(gate=lambda x, e, A: x.cumsum(0) @ A): "The gate is computed from the sum of the inputs; it must come from x_t alone.",
    she_of(join=torch.add): "The gate is added; the adjustment multiplies, e_t * g_t.",
    she_of(out=lambda a, B: a): "The output map W_out is missing after the adjustment.",
    she_of(join=lambda e, g: e): "The adjustment is missing: e_t was not multiplied by x_t W_adj.",
    lambda x, W, A, B: extract(x, W) @ A @ B: "W_adj was applied to e_t, one map after the other. It makes the gate, x_t W_adj, which multiplies entry by entry.",
    lambda x, W, A, B: x * (extract(x, W) @ A) @ B: "The parts are exchanged: the gate comes from x_t, and what it multiplies is e_t.",
    lambda x, W, A, B: she(x, W, B, A): "W_adj and W_out are exchanged.",
    she_of(gate=lambda x, e, A: torch.sigmoid(x @ A)): "The gate went through a sigmoid; eq. (3.6) has none.",
    she_of(gate=lambda x, e, A: x): "W_adj is missing: the gate is x_t W_adj, not x_t.",
    lambda x, W, A, B: (extract(x, W) @ B) * (x @ A): "W_out came before the gate; the gate multiplies e_t first.",
    she_of(gate=lambda x, e, A: x[-1] @ A): "One gate, from the last token of the sequence, was used at every position: the future leaks in. Position t has its own gate, from x_t.",
    lambda x, W, A, B: she(x, W, A.mT, B.mT): "W_adj and W_out are applied from the wrong side: it is x @ W, not W @ x.",
    lambda x, W, A, B: she(x, W.mT, A.mT, B.mT): "Every matrix is applied from the wrong side: vectors are rows, so it is x @ W, not W @ x.",
    **{she_of(wrong): sentence for wrong, sentence in EXTRACT.items()},
}  # fmt: skip
check_she = Exercise(she, CASES, SHE, BREAKS)


def count_weights(name: str, d: int, ell: int) -> int:
    """Return the number of weights of a mixer, without biases."""
    return expected_mixer_weights(name, d_model=d, context_len=ell)


def _off(**changes: Callable[[int, int], int]) -> Callable[[str, int, int], int]:
    """Return the right count, changed for some mixers."""
    return lambda n, d, ell: count_weights(n, d, ell) + changes.get(n, lambda *_: 0)(d, ell)


COUNT = {
    lambda name, d, ell: count_weights(name, d, ell) + (4, 2, 3, 1, 0)[FAMILY.index(name)] * d: "A bias was counted for each square map; the maps here have none.",
    _off(attention=lambda d, _: -(d**2)): "Attention has four maps: query, key, value and output.",
    _off(she=lambda d, ell: (1 - ell) * d**2): "SHE has a matrix for every lag, l of them, not one for all.",
    _off(she=lambda d, ell: ell * d - ell * d**2): "SHE has a matrix for every lag; a vector for every lag is what HE has.",
    _off(she=lambda d, _: -2 * d**2): "SHE has two square maps besides its lags, and here both are missing.",
    _off(she=lambda d, _: -(d**2)): "SHE has two square maps besides its lags: adjustment and output.",
    _off(**dict.fromkeys(("he", "we", "me"), lambda d, ell: ell * d**2 - ell * d)): "HE, WE and ME have a vector per lag, l d numbers, not a matrix.",
    _off(he=lambda d, _: -(d**2)): "HE has three square maps: value, adjustment and output.",
    _off(we=lambda d, _: d**2): "WE as defined here has no output map; its one square map is the adjustment.",
    _off(me=lambda d, _: d**2 - d): "ME gates with a vector of d numbers, not with a matrix.",
    _off(me=lambda d, _: -d): "ME also has a vector for the gate, w_adj: d more numbers beside its l d.",
}  # fmt: skip
check_weight_count = Exercise(
    count_weights,
    [(f"{n}, d = {d}, l = {ell}", n, d, ell) for d, ell in ((2, 3), (64, 16)) for n in FAMILY],
    COUNT,
)
