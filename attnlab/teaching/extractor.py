"""Judges of the exercises of notebook 03, and a counter of multiplications."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from attnlab.analysis.theory import expected_mixer_weights
from attnlab.seeding import torch_generator
from attnlab.teaching.core import Case, CheckFailed, Mistake, case, grade
from attnlab.teaching.quiz import Option, Question

MORE_TOKENS = "more tokens than matrices: the oldest are dropped"
FEWER_LAGS = (
    "There are only l matrices: counted from 0, position t has min(t + 1, l) lags, not t + 1."
)
FAMILY = ("attention", "she", "he", "we", "me")


QUESTIONS = (
    Question(
        "A friend says: 'the paper shows that HE is eq. (3.8)'. What do you reply?",
        [
            Option("Right.", "The paper's own equation of HE was not available to us."),
            Option(
                "It is a reconstruction that fits the published order of costs.",
                "Other definitions fit it as well, for example HE without its value map.",
                is_right=True,
            ),
            Option(
                "It follows from the published count of weights.",
                "That count, l d^2 + 2 d^2, is of the one Extractor of version 1, for us SHE; for "
                "HE we know of none.",
            ),
        ],
    ),
    Question(
        "Lags know the distance already. What could the position embedding still be for?",
        [
            Option("It makes order count.", "The lag index sees to that."),
            Option(
                "It lets the gate depend on the length t.",
                "The gate reads x_t, and x_t carries p_t. That this is the paper's reason is our "
                "reading.",
                is_right=True,
            ),
        ],
    ),
)


def check_extract(student: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Judge exercise 3.1: ``extract(x, W)``, x ``(T, d)``, W ``(l, d, d)``, returns ``(T, d)``."""
    with _lags_that_run_out():
        grade(student, reference=extract, cases=extract_cases(), mistakes=EXTRACT_MISTAKES)


def check_she(student: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
    """Judge exercise 3.2: ``she(x, W, W_adj, W_out)``, returns ``(T, d)``."""
    with _lags_that_run_out():
        grade(student, reference=she, cases=she_cases(), mistakes=SHE_MISTAKES)


def check_weight_count(student: Callable[..., int]) -> None:
    """Judge exercise 3.3: ``count_weights(name, d, ell)`` for attention, she, he, we and me."""
    grade(student, reference=count_weights, cases=count_cases(), mistakes=COUNT_MISTAKES)


@contextmanager
def _lags_that_run_out() -> Iterator[None]:
    """Say what is wrong where a function breaks down because there are more tokens than lags."""
    try:
        yield
    except CheckFailed as failure:
        cause = failure.__cause__
        broke = isinstance(cause, IndexError | RuntimeError | ValueError)
        if not broke or MORE_TOKENS not in str(failure):
            raise
        raise CheckFailed(f"{failure}. {FEWER_LAGS}") from cause


def extract(x: Tensor, W: Tensor) -> Tensor:
    """Return the extraction of every prefix, one lag at a time: ``(T, d)``."""
    return torch.stack(
        [sum(x[t - j] @ W[j] for j in range(min(t + 1, len(W)))) for t in range(len(x))]
    )


def she(x: Tensor, W: Tensor, W_adj: Tensor, W_out: Tensor) -> Tensor:
    """Return extraction times gate, mapped out: ``(T, d)``."""
    return (extract(x, W) * (x @ W_adj)) @ W_out


def count_weights(name: str, d: int, ell: int) -> int:
    """Return the number of weights of a mixer, without biases."""
    return expected_mixer_weights(name, d_model=d, context_len=ell)


def extract_cases() -> list[Case]:
    """Return sequences from one token to more tokens than there are matrices."""
    x, W, *_ = page_numbers()
    return [
        case("one token", x[:1], W[:1]),
        case("two tokens", x[:2], W[:2]),
        case("the three tokens of the page", x, W),
        case("fewer tokens than matrices", *_random(3, 2, 5)[:2]),
        case(MORE_TOKENS, *_random(5, 2, 3)[:2]),
        case("random, 7 tokens of width 3", *_random(7, 3, 7)[:2]),
    ]


def she_cases() -> list[Case]:
    """Return the cases of ``extract_cases`` with an adjustment and an output map."""
    x, W, W_adj, W_out = page_numbers()
    return [
        case("one token", x[:1], W[:1], W_adj, W_out),
        case("two tokens", x[:2], W[:2], W_adj, W_out),
        case("the three tokens of the page", *page_numbers()),
        case("fewer tokens than matrices", *_random(3, 2, 5)),
        case(MORE_TOKENS, *_random(5, 2, 3)),
        case("random, 7 tokens of width 3", *_random(7, 3, 7)),
    ]


def count_cases() -> list[Case]:
    """Return each mixer at two sizes, attention first."""
    sizes = [(name, d, ell) for d, ell in ((2, 3), (64, 16)) for name in FAMILY]
    return [case(f"{name}, d = {d}, l = {ell}", name, d, ell) for name, d, ell in sizes]


def page_numbers() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return x, W, W_adj and W_out of the example that notebook 03 computes by hand."""
    x = [[1, 0], [0, 1], [1, 2]]
    W = [[[1, 0], [0, 1]], [[0, 2], [1, 0]], [[2, 1], [0, 1]]]
    W_adj, W_out = [[1, 1], [0, 1]], [[1, 0], [1, 1]]
    numbers = tuple(torch.tensor(v, dtype=torch.float64) for v in (x, W, W_adj, W_out))
    return numbers  # type: ignore[return-value]


def count_multiplications(function: Callable[..., Any], *arrays: ArrayLike) -> int:
    """Call a NumPy function on numbers that notice when they are multiplied; return how often.

    Args:
        function: Uses ``@``, ``*``, ``+`` and ``sum`` only.
        arrays: Its arguments; their values do not matter.
    """
    _Tally.n_multiplications = 0
    function(*(_tallied(array) for array in arrays))
    return _Tally.n_multiplications


class _Tally:
    """A number that counts the multiplications of its kind."""

    n_multiplications = 0

    def __init__(self, value: float) -> None:
        self.value = value

    def __mul__(self, other: _Tally) -> _Tally:
        _Tally.n_multiplications += 1
        return _Tally(self.value * other.value)

    def __add__(self, other: _Tally | int) -> _Tally:
        return _Tally(self.value + getattr(other, "value", other))

    __radd__ = __add__


def _tallied(array: ArrayLike) -> np.ndarray:
    return np.vectorize(_Tally, otypes=[object])(np.asarray(array, dtype=float))


def _random(n_tokens: int, width: int, n_lags: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch_generator(n_tokens, "exercise")

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    square = width, width
    return draw(n_tokens, width), draw(n_lags, *square), draw(*square), draw(*square)


def _absolute(x: Tensor, W: Tensor) -> Tensor:
    places = [range(min(t + 1, len(W))) for t in range(len(x))]
    return torch.stack([sum(x[s] @ W[s] for s in seen) for seen in places])


def _reversed(x: Tensor, W: Tensor) -> Tensor:
    return extract(x, W.flip(0))


def _wrapped(x: Tensor, W: Tensor) -> Tensor:
    n = len(x)
    return torch.stack([sum(x[(t - j) % n] @ W[j] for j in range(len(W))) for t in range(n)])


def _whole(x: Tensor, W: Tensor) -> Tensor:
    n = len(x)
    terms = [[(s, abs(t - s)) for s in range(n) if abs(t - s) < len(W)] for t in range(n)]
    return torch.stack([sum(x[s] @ W[j] for s, j in seen) for seen in terms])


def _transposed(x: Tensor, W: Tensor) -> Tensor:
    return extract(x, W.mT)


def _without_newest(x: Tensor, W: Tensor) -> Tensor:
    return extract(x, W) - x @ W[0]


def _bag(x: Tensor, W: Tensor) -> Tensor:
    return extract(x, W[:1].expand_as(W))


_Parts = tuple[Tensor, Tensor, Tensor, Tensor]


def _with(extraction: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return SHE with a wrong extraction."""

    def wrong(x: Tensor, W: Tensor, W_adj: Tensor, W_out: Tensor) -> Tensor:
        return (extraction(x, W) * (x @ W_adj)) @ W_out

    return wrong


def _gate_from_sum(x: Tensor, W: Tensor, W_adj: Tensor, W_out: Tensor) -> Tensor:
    e = extract(x, W)
    return (e * (e @ W_adj)) @ W_out


def _gate_from_bag(x: Tensor, W: Tensor, W_adj: Tensor, W_out: Tensor) -> Tensor:
    return (extract(x, W) * (x.cumsum(0) @ W_adj)) @ W_out


def _gate_added(x: Tensor, W: Tensor, W_adj: Tensor, W_out: Tensor) -> Tensor:
    return (extract(x, W) + x @ W_adj) @ W_out


def _no_out(x: Tensor, W: Tensor, W_adj: Tensor, W_out: Tensor) -> Tensor:
    return extract(x, W) * (x @ W_adj)


def _no_gate(x: Tensor, W: Tensor, W_adj: Tensor, W_out: Tensor) -> Tensor:
    return extract(x, W) @ W_out


def _out_first(x: Tensor, W: Tensor, W_adj: Tensor, W_out: Tensor) -> Tensor:
    return (extract(x, W) @ W_out) * (x @ W_adj)


def _last_gate(x: Tensor, W: Tensor, W_adj: Tensor, W_out: Tensor) -> Tensor:
    return (extract(x, W) * (x[-1] @ W_adj)) @ W_out


def _small_maps_transposed(x: Tensor, W: Tensor, W_adj: Tensor, W_out: Tensor) -> Tensor:
    return she(x, W, W_adj.mT, W_out.mT)


def _all_transposed(x: Tensor, W: Tensor, W_adj: Tensor, W_out: Tensor) -> Tensor:
    return she(x, W.mT, W_adj.mT, W_out.mT)


EXTRACT_MISTAKES = (
    Mistake(
        "absolute index",
        _absolute,
        "W is indexed by the place of the token, not by its lag: the newest token meets W[0].",
    ),
    Mistake(
        "lags reversed",
        _reversed,
        "The lags run backwards: W[0] belongs to the newest token, the last W to the oldest.",
    ),
    Mistake(
        "index wraps around",
        _wrapped,
        "x[t - j] with j > t is a negative index: Python wraps around to the end of the "
        "sequence, so the future leaks in.",
    ),
    Mistake(
        "future leaked",
        _whole,
        "Position t also sums tokens after t: the future leaks in. The lag j is never negative.",
    ),
    Mistake(
        "transpose",
        _transposed,
        "Each W_j is applied from the wrong side: vectors are rows, so it is x @ W, not W @ x.",
    ),
    Mistake(
        "newest token left out",
        _without_newest,
        "Lag 0, the newest token itself, is missing from the sum.",
    ),
    Mistake(
        "one matrix for all lags",
        _bag,
        "Every lag went through W[0]: that is a bag of tokens, blind to order.",
    ),
)

SHE_MISTAKES = (
    Mistake(
        "gate from the sum",
        _gate_from_sum,
        "The gate is computed from e_t; it must come from the newest token x_t alone.",
    ),
    Mistake(
        "gate from all inputs",
        _gate_from_bag,
        "The gate is computed from the sum of the inputs; it must come from x_t alone.",
    ),
    Mistake("gate added", _gate_added, "The gate is added; the adjustment multiplies, e_t * g_t."),
    Mistake("no output map", _no_out, "The output map W_out is missing after the adjustment."),
    Mistake("no gate", _no_gate, "The adjustment is missing: e_t was not multiplied by x_t W_adj."),
    Mistake(
        "output map first", _out_first, "W_out came before the gate; the gate multiplies e_t first."
    ),
    Mistake(
        "gate from the last token",
        _last_gate,
        "One gate, from the last token of the sequence, was used at every position: the future "
        "leaks in. Position t has its own gate, from x_t.",
    ),
    Mistake(
        "small maps transposed",
        _small_maps_transposed,
        "W_adj and W_out are applied from the wrong side: it is x @ W, not W @ x.",
    ),
    Mistake(
        "all maps transposed",
        _all_transposed,
        "Every matrix is applied from the wrong side: vectors are rows, so it is x @ W, not W @ x.",
    ),
    *(
        Mistake(mistake.name, _with(mistake.wrong), mistake.sentence)
        for mistake in EXTRACT_MISTAKES
    ),
)


def _changed(**changes: Callable[[int, int], int]) -> Callable[[str, int, int], int]:
    """Return the right count, changed for some mixers."""

    def wrong(name: str, d: int, ell: int) -> int:
        return count_weights(name, d, ell) + (changes[name](d, ell) if name in changes else 0)

    return wrong


def _biased(maps: Sequence[int]) -> Callable[[str, int, int], int]:
    """Return the count with a bias for each square map of a mixer."""
    n_maps = dict(zip(FAMILY, maps, strict=True))

    def wrong(name: str, d: int, ell: int) -> int:
        return count_weights(name, d, ell) + n_maps[name] * d

    return wrong


COUNT_MISTAKES = (
    Mistake(
        "biases counted",
        _biased((4, 2, 3, 1, 0)),
        "A bias was counted for each square map; the maps here have none.",
    ),
    Mistake(
        "three maps in attention",
        _changed(attention=lambda d, _: -(d**2)),
        "Attention has four maps: query, key, value and output.",
    ),
    Mistake(
        "one matrix for all lags",
        _changed(she=lambda d, ell: (1 - ell) * d**2),
        "SHE has a matrix for every lag, l of them, not one for all.",
    ),
    Mistake(
        "output map of SHE forgotten",
        _changed(she=lambda d, _: -(d**2)),
        "SHE has two square maps besides its lags: adjustment and output.",
    ),
    Mistake(
        "matrices for vectors",
        _changed(
            he=lambda d, ell: ell * d**2 - ell * d,
            we=lambda d, ell: ell * d**2 - ell * d,
            me=lambda d, ell: ell * d**2 - ell * d,
        ),
        "HE, WE and ME have a vector per lag, l d numbers, not a matrix.",
    ),
    Mistake(
        "value map of HE forgotten",
        _changed(he=lambda d, _: -(d**2)),
        "HE has three square maps: value, adjustment and output.",
    ),
    Mistake(
        "output map on WE",
        _changed(we=lambda d, _: d**2),
        "WE as defined here has no output map; its one square map is the adjustment.",
    ),
    Mistake(
        "matrix gate on ME",
        _changed(me=lambda d, _: d**2 - d),
        "ME gates with a vector of d numbers, not with a matrix.",
    ),
    Mistake(
        "gate vector of ME forgotten",
        _changed(me=lambda d, _: -d),
        "ME also has a vector for the gate, w_adj: d more numbers beside its l d.",
    ),
)
