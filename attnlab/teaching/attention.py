"""Exercises of notebook 02, and attention in plain Python that counts its own products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attnlab.mixers.attention import Attention
from attnlab.seeding import torch_generator
from attnlab.teaching.core import Case, Function, Mistake, case, grade

Matrix = Sequence[Sequence[float]]


def check_causal_weights(student: Function) -> None:
    """Judge exercise 2.1: causal softmax weights ``(time, time)`` from scores."""
    grade(
        student,
        reference=_causal_weights,
        cases=causal_weights_cases(),
        mistakes=CAUSAL_WEIGHTS_MISTAKES,
    )


def check_single_head(student: Function) -> None:
    """Judge exercise 2.2: one causal head from ``x`` and its four maps."""
    grade(student, reference=_single_head, cases=single_head_cases(), mistakes=SINGLE_HEAD_MISTAKES)


def check_multiplications(student: Function) -> None:
    """Judge exercise 2.3: multiplications of causal multi-head attention."""
    grade(
        student,
        reference=_multiplications,
        cases=MULTIPLICATIONS_CASES,
        mistakes=MULTIPLICATIONS_MISTAKES,
    )


def attend_and_count(
    x: Matrix, *, query: Matrix, key: Matrix, value: Matrix, out: Matrix, n_heads: int
) -> tuple[list[list[float]], int]:
    """Attend in plain Python and count every multiplication on the way.

    Shapes:
        x: ``time`` rows of ``d_model`` numbers; the four maps: ``d_model`` rows of as many.
        Returns the outputs, as ``x``, and the count.
    """
    counter = _Counter()
    q, k, v = ([counter.row_times(row, m) for row in x] for m in (query, key, value))
    width = len(x[0]) // n_heads
    outputs = []
    for t in range(len(x)):
        heads: list[float] = []
        for first in range(0, len(x[0]), width):
            heads += _one_head(counter, q[t], k[: t + 1], v[: t + 1], slice(first, first + width))
        outputs.append(counter.row_times(heads, out))
    return outputs, counter.n_multiplications


def seeded_attention(*, d_model: int, time: int, n_heads: int, seed: int = 0) -> Attention:
    """Return a float64 attention mixer whose weights are a function of ``seed`` alone."""
    mixer = Attention(d_model=d_model, context_len=time, n_heads=n_heads).double()
    generator = torch_generator(seed, "init")
    with torch.no_grad():
        for weight in mixer.parameters():
            weight.normal_(std=d_model**-0.5, generator=generator)
    return mixer


def set_maps(mixer: Attention, **maps: Tensor) -> None:
    """Give a mixer these maps: ``set_maps(mixer, query=W_q, out=W_o)``.

    Shapes:
        maps: ``(d_model, d_model)``, to be multiplied from the right: ``x @ W``.
    """
    for name, weight in maps.items():
        getattr(mixer, name).weight.data = weight.mT.clone()  # nn.Linear holds the transpose


class _Counter:
    """Multiplies, and remembers how often."""

    def __init__(self) -> None:
        self.n_multiplications = 0

    def times(self, a: float, b: float) -> float:
        self.n_multiplications += 1
        return a * b

    def dot(self, a: Sequence[float], b: Sequence[float]) -> float:
        return sum(self.times(one, other) for one, other in zip(a, b, strict=True))

    def row_times(self, row: Sequence[float], matrix: Matrix) -> list[float]:
        return [self.dot(row, column) for column in zip(*matrix, strict=True)]


def _one_head(
    counter: _Counter, q: Sequence[float], keys: Matrix, values: Matrix, head: slice
) -> list[float]:
    """Return the mixture of one head for one query."""
    scale = 1 / math.sqrt(head.stop - head.start)
    scores = [counter.times(counter.dot(q[head], key[head]), scale) for key in keys]
    powers = [math.exp(score - max(scores)) for score in scores]
    shares = [power / sum(powers) for power in powers]
    return [counter.dot(shares, column) for column in zip(*(v[head] for v in values), strict=True)]


# Exercise 2.1: masks and softmaxes


def _visible(scores: Tensor, *, diagonal: int = 0) -> Tensor:
    return torch.ones_like(scores, dtype=torch.bool).tril(diagonal)


def _hide(scores: Tensor, *, fill: float = -math.inf, diagonal: int = 0) -> Tensor:
    return scores.masked_fill(~_visible(scores, diagonal=diagonal), fill)


def _causal_weights(scores: Tensor) -> Tensor:
    return _hide(scores).softmax(-1)


def _no_mask(scores: Tensor) -> Tensor:
    return scores.softmax(-1)


def _mask_after(scores: Tensor) -> Tensor:
    return scores.softmax(-1) * _visible(scores)


def _wrong_axis(scores: Tensor) -> Tensor:
    return _hide(scores).softmax(-2)


def _future_only(scores: Tensor) -> Tensor:
    return scores.masked_fill(~_visible(scores).mT, -math.inf).softmax(-1)


def _zero_fill(scores: Tensor) -> Tensor:
    return _hide(scores, fill=0.0).softmax(-1)


def _not_itself(scores: Tensor) -> Tensor:
    return _hide(scores, diagonal=-1).softmax(-1)


CAUSAL_WEIGHTS_MISTAKES = (
    Mistake(
        "mask after softmax",
        _mask_after,
        "The mask came after the softmax: rows do not sum to one, and the future still weighs "
        "in the denominator. Mask the scores.",
    ),
    Mistake(
        "wrong axis",
        _wrong_axis,
        "The softmax ran over the queries (columns sum to one); each query shares out its "
        "weight over the keys, the last axis.",
    ),
    Mistake("no mask", _no_mask, "Nothing is masked: every token looks into the future."),
    Mistake(
        "mask transposed",
        _future_only,
        "The mask is transposed: tokens see the future only. Row t may see columns s <= t.",
    ),
    Mistake(
        "zeros instead of minus infinity",
        _zero_fill,
        "Masked scores were set to 0, and exp(0) = 1 is a weight like any other. "
        "Use minus infinity.",
    ),
    Mistake(
        "a token cannot see itself",
        _not_itself,
        "The diagonal is masked as well: a token may look at itself, and the first one must.",
    ),
)


def causal_weights_cases() -> list[Case]:
    """Return the graded scores, smallest first."""
    generator = torch_generator(2, "exercise 2.1")
    thirds = math.log(2) * torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    random = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    large = 300 * torch.randn(7, 7, generator=generator, dtype=torch.float64)
    return [
        case("two tokens", thirds),
        case("three equal scores", torch.zeros(3, 3, dtype=torch.float64)),
        case("random, 5 by 5", random),
        case("large scores, 7 by 7", large),
    ]


# Exercise 2.2: one head


def _head(
    *, weights: Callable[[Tensor], Tensor] = _causal_weights, power: float = -0.5
) -> Callable[..., Tensor]:
    """Return a head that makes its weights in this way and scales scores by ``d_h ** power``."""

    def attend(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor) -> Tensor:
        scores = (x @ w_q) @ (x @ w_k).mT * w_q.shape[1] ** power
        return weights(scores) @ (x @ w_v) @ w_o

    return attend


def _scaled_by_model_width(x: Tensor, w_q: Tensor, *others: Tensor) -> Tensor:
    ratio = (w_q.shape[1] / x.shape[1]) ** 0.5
    return _single_head(x, w_q * ratio, *others)


def _swapped(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor) -> Tensor:
    return _single_head(x, w_k, w_q, w_v, w_o)


def _no_output_map(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor) -> Tensor:
    return _causal_weights((x @ w_q) @ (x @ w_k).mT * w_q.shape[1] ** -0.5) @ (x @ w_v)


_single_head = _head()

SINGLE_HEAD_MISTAKES = (
    Mistake("no scale", _head(power=0.0), "The scores are not scaled: divide by sqrt(d_h)."),
    Mistake(
        "scale by d",
        _head(power=-1.0),
        "The scores are divided by d_h; it is its square root that keeps their spread at 1.",
    ),
    Mistake(
        "scale upside down",
        _head(power=0.5),
        "The scores are multiplied by sqrt(d_h); divide by it.",
    ),
    Mistake(
        "scale by the width of the model",
        _scaled_by_model_width,
        "The scale uses d, the columns of x; a dot product here has d_h terms.",
    ),
    Mistake("no mask", _head(weights=_no_mask), "Nothing is masked: the future is leaked."),
    Mistake(
        "mask after softmax",
        _head(weights=_mask_after),
        "The mask came after the softmax; mask the scores.",
    ),
    Mistake(
        "mask transposed",
        _head(weights=_future_only),
        "The mask is transposed: tokens see the future only.",
    ),
    Mistake(
        "wrong axis",
        _head(weights=_wrong_axis),
        "The softmax ran over the queries; it belongs to the keys, the last axis.",
    ),
    Mistake(
        "queries and keys swapped",
        _swapped,
        "Queries and keys are swapped: row t of the scores is q_t against every key.",
    ),
    Mistake("no output map", _no_output_map, "The mixture was not multiplied by W_o."),
)


def single_head_cases() -> list[Case]:
    """Return the graded heads: ``x`` and four maps each, smallest first."""
    generator = torch_generator(2, "exercise 2.2")

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def maps(d_model: int, d_head: int) -> list[Tensor]:
        shapes = [(d_model, d_head)] * 3 + [(d_head, d_model)]
        return [numbers(*shape) for shape in shapes]

    eye = torch.eye(2, dtype=torch.float64)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    turn = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    return [
        case("three tokens, d = 2", x, eye, 2 * eye, eye, turn),
        case("five tokens, d = 6, d_h = 3", numbers(5, 6), *maps(6, 3)),
        case("one token", numbers(1, 4), *maps(4, 4)),
        case("seven tokens, d = 4, d_h = 4", numbers(7, 4), *maps(4, 4)),
    ]


# Exercise 2.3: counting


def _count(
    *,
    pairs: Callable[[int], int] = lambda time: time * (time + 1) // 2,
    n_maps: int = 4,
    n_products: int = 2,
    has_scale: bool = True,
    per_head: bool = False,
) -> Callable[..., int]:
    """Return a counter with these parts right or wrong."""

    def count(time: int, d_model: int, n_heads: int) -> int:
        width = d_model * n_heads if per_head else d_model
        scale = pairs(time) * n_heads if has_scale else 0
        return n_maps * time * d_model**2 + n_products * pairs(time) * width + scale

    return count


_multiplications = _count()

MULTIPLICATIONS_MISTAKES = (
    Mistake(
        "all pairs",
        _count(pairs=lambda time: time**2),
        "You counted T * T pairs; with the causal mask only T (T + 1) / 2 are needed.",
    ),
    Mistake(
        "a token does not look at itself",
        _count(pairs=lambda time: time * (time - 1) // 2),
        "You counted T (T - 1) / 2 pairs; a token also looks at itself.",
    ),
    Mistake("no output map", _count(n_maps=3), "The output map is missing: there are four maps."),
    Mistake(
        "scores only",
        _count(n_products=1),
        "One of the two products over the pairs is missing: scores, and weights times values.",
    ),
    Mistake(
        "no scale",
        _count(has_scale=False),
        "The scale is missing: one multiplication for each pair and head.",
    ),
    Mistake(
        "d for every head",
        _count(per_head=True),
        "You counted d products for every head; a head has d / H, so all heads together have d.",
    ),
)

MULTIPLICATIONS_CASES = (
    case("one token, d = 2, one head", 1, 2, 1),
    case("three tokens, d = 2, one head", 3, 2, 1),
    case("5 tokens, d = 6, 3 heads", 5, 6, 3),
    case("128 tokens, d = 64, 4 heads", 128, 64, 4),
)
