"""Programs as numbered scalars: which operation made each, when it is ready, what it waited for.

A tensor is described by the numbers of its elements, and what moves elements moves numbers.
Number 0 stands for every constant of the program: ready at depth 0, at no cost. Work and depth
leave out what a constant makes needless: a product with 0 or 1, a sum with 0, a masked score
of minus infinity under a maximum.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, fx

from attnlab.errors import AttnlabError

ORDERS = ("tree", "sequential")
WINDOW = 30  # levels of a tree that are counted in one integer
MOST_TERMS = 1 << 23  # of sums that are looked at together
NEUTRAL = {"add": (0.0,), "acc": (0.0,), "mul": (1.0, -1.0), "max": (-torch.inf,)}
DECIDING = {"add": (torch.inf, -torch.inf), "mul": (0.0,), "max": (torch.inf,)}
FREE = ("pair",)  # real and imaginary part become one number
DECIDES, CHANGES_NOTHING, CONSTANT, UNKNOWN = range(4)  # what an element is to its operation

Did = tuple[tuple[str, int, int], ...]  # kind, depth and number of terms, the last one first


class Operand(NamedTuple):
    """One input of an operation; ``node`` is None for a number written in the program.

    ``values`` are those of the constants among its elements; elsewhere they mean nothing.
    """

    node: fx.Node | None
    numbers: Tensor
    values: Tensor

    def code(self, *, deciding: Sequence[float], neutral: Sequence[float]) -> Tensor:
        """Return what each element is, given which constants decide and which change nothing."""
        if (self.numbers > 0).all():
            return torch.tensor(UNKNOWN).expand(self.numbers.shape)
        code = torch.full(self.numbers.shape, CONSTANT)
        for kind, constants in ((CHANGES_NOTHING, neutral), (DECIDES, deciding)):
            code[torch.isin(self.values.double(), torch.tensor(constants).double())] = kind
        return torch.where(self.numbers > 0, UNKNOWN, code)


@dataclass(frozen=True, eq=False)
class Source:
    """An input or a weight; ``out`` has the numbers of its elements."""

    node: fx.Node
    out: Tensor

    def fill(self, depth: Tensor, *, accumulate: str) -> None:
        """Leave its elements ready at depth 0."""

    def work(self) -> Counter[str]:
        """Count nothing."""
        return Counter()

    def levels(self, depth: Tensor, *, accumulate: str) -> list[int]:
        """Do nothing at any level."""
        return []

    def hop(self, number: int, depth: Tensor, *, accumulate: str) -> tuple[Did, int]:
        """End the way back."""
        return (), 0


@dataclass(frozen=True, eq=False)
class Each:
    """One operation an element.

    Shapes:
        cost: 0 where a constant makes it needless. is_new: whether the result is a new scalar;
        one that the operation leaves as it is keeps its number. out: numbers of the results.
    """

    node: fx.Node
    kind: str
    inputs: tuple[tuple[fx.Node | None, Tensor], ...]  # numbers of the operands
    cost: Tensor
    is_new: Tensor
    out: Tensor

    @classmethod
    def build(
        cls, node: fx.Node, kind: str, operands: Sequence[Operand], shape: Sequence[int], first: int
    ) -> Each:
        """Find the constants and the needless operations; number the results from ``first``."""
        codes = []
        for place, operand in enumerate(operands):
            deciding = DECIDING.get(kind, ())
            if kind == "div" and place == 0:  # nothing divided is nothing
                deciding = (0.0,)
            code = operand.code(deciding=deciding, neutral=NEUTRAL.get(kind, ()))
            codes.append(code.expand(shape))
        code = torch.stack(codes)
        n_unknown = (code == UNKNOWN).sum(0)
        unknown = (n_unknown > 0) & ~(code == DECIDES).any(0)
        cost = unknown & ~((n_unknown == 1) & (code == CHANGES_NOTHING).any(0))
        cost &= kind not in FREE
        inputs = tuple((o.node, o.numbers.expand(shape)) for o in operands)
        is_new = unknown & (cost | (n_unknown > 1))
        kept = torch.stack([numbers for _, numbers in inputs]).amax(0) * unknown
        return cls(node, kind, inputs, cost, is_new, _number(is_new, first=first, kept=kept))

    def fill(self, depth: Tensor, *, accumulate: str) -> None:
        """Write when each result is ready: one more than the latest operand."""
        ready = torch.stack([depth[numbers] for _, numbers in self.inputs]).amax(0) + self.cost
        depth[self.out[self.is_new]] = ready[self.is_new]

    def work(self) -> Counter[str]:
        """Count the elements whose operation is needed."""
        return Counter({self.kind: int(self.cost.sum())})

    def levels(self, depth: Tensor, *, accumulate: str) -> list[int]:
        """Return the level of each operation: when its result is ready."""
        return depth[self.out[self.cost]].tolist()

    def hop(self, number: int, depth: Tensor, *, accumulate: str) -> tuple[Did, int]:
        """Return what was done, and the operand that was ready last."""
        place = place_of(number, self.out)
        did = ((self.kind, 1, 2),) if bool(self.cost.flatten()[place]) else ()
        return did, _latest([(n, ids.flatten()[place]) for n, ids in self.inputs], depth)


class Side(NamedTuple):
    """One factor of every term, ``(batch, rows, terms)``."""

    node: fx.Node | None
    numbers: Tensor
    code: Tensor

    def distinct(self, depth: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return codes and depths; only those of one row if all rows are equal."""
        ready = torch.zeros_like(self.code) if depth is None else depth[self.numbers]
        parts = (self.code, ready)
        is_one = self.code.shape[1] == 1 or all(bool((p == p[:, :1]).all()) for p in parts)
        return tuple(part[:, :1] for part in parts) if is_one else parts


NOT_YET = torch.empty(0)
ONE = Side(None, torch.zeros(1, 1, 1).long(), torch.full((1, 1, 1), CHANGES_NOTHING))


class Terms(NamedTuple):
    """The terms of some results, ``(batch, rows, columns, terms)``."""

    live: Tensor
    unknown: Tensor
    cost: Tensor
    ready: Tensor


@dataclass(frozen=True, eq=False)
class Join:
    """Many terms become one number: ``sum_k left[b, i, k] right[b, j, k]``.

    A plain sum, maximum or product has ``ONE`` to its right. With ``is_running`` the rows are
    the prefixes of the same terms: the work is that of the sequential program, the depth in a
    tree that of one tree a prefix (a prefix network has that depth and about twice the work).
    """

    node: fx.Node
    kind: str
    left: Side
    right: Side
    is_running: bool = False
    rows: Tensor = NOT_YET  # numbers of the results, (batch, rows, columns)
    out: Tensor = NOT_YET  # the same in the shape of the node's tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Batch, rows and columns of the results."""
        return (*self.left.numbers.shape[:2], self.right.numbers.shape[1])

    def numbered(
        self, shape: Sequence[int], first: int, *, order: Callable[[Tensor], Tensor] | None = None
    ) -> Join:
        """Return the join with its results numbered from ``first``.

        Args:
            shape: Of the node's tensor.
            order: From that shape to the order of the rows, where it is another one.
        """
        unknown = torch.cat([t.unknown.any(-1) for t in self.terms()], 1).expand(self.shape)
        rows = _number(unknown, first=first)
        out = rows.reshape(tuple(shape))
        if order is not None:
            places = order(torch.arange(out.numel()).view(out.shape)).flatten()
            out = torch.empty_like(out).flatten().index_copy(0, places, rows.flatten()).view_as(out)
        return replace(self, rows=rows, out=out)

    def terms(self, depth: Tensor | None = None) -> Iterator[Terms]:
        """Yield the terms for some rows after the others; equal rows and columns once."""
        (a_code, a_ready), (b_code, b_ready) = (
            side.distinct(depth) for side in (self.left, self.right)
        )
        batch, n_rows, n_terms = a_code.shape
        step = max(1, MOST_TERMS // max(1, batch * n_terms * b_code.shape[1]))
        for i in range(0, n_rows, step):
            a, b = a_code[:, i : i + step, None], b_code[:, None]
            live = (a != DECIDES) & (b != DECIDES)
            unknown = live & ((a == UNKNOWN) | (b == UNKNOWN))
            cost = unknown & (a != CHANGES_NOTHING) & (b != CHANGES_NOTHING)
            ready = torch.maximum(a_ready[:, i : i + step, None], b_ready[:, None]) + cost
            yield Terms(live, unknown, cost, ready)

    def fill(self, depth: Tensor, *, accumulate: str) -> None:
        """Write when the terms of each result are joined."""
        parts = [combine(t.ready, t.live, accumulate=accumulate) for t in self.terms(depth)]
        is_new = self.rows > 0
        depth[self.rows[is_new]] = torch.cat(parts, 1).expand(self.shape)[is_new]

    def n_joins(self, terms: Terms) -> Tensor:
        """Return the joins of each result: one less than it has live terms."""
        joins = (terms.live.sum(-1) - 1).clamp(min=0) * terms.unknown.any(-1)
        if not self.is_running:
            return joins
        n = terms.live.shape[-1]  # the newest term of a prefix joins the sum before it
        is_term = terms.live.view(-1, n, n).diagonal(dim1=1, dim2=2).reshape(joins.shape)
        return (joins > 0).long() * is_term

    def work(self) -> Counter[str]:
        """Count products and joins."""
        n_distinct = [side.distinct()[0].shape[1] for side in (self.left, self.right)]
        copies = self.shape[1] * self.shape[2] // (n_distinct[0] * n_distinct[1])
        total: Counter[str] = Counter()
        for terms in self.terms():
            total["mul"] += copies * int((terms.cost & terms.unknown.any(-1, keepdim=True)).sum())
            total[self.kind] += copies * int(self.n_joins(terms).sum())
        return total

    def levels(self, depth: Tensor, *, accumulate: str) -> list[int]:
        """Return the level of each product and each join."""
        if self.is_running:
            joins = torch.cat([self.n_joins(t) for t in self.terms()], 1).expand(self.shape)
            return depth[self.rows[joins > 0]].tolist()
        done: list[int] = []
        for number in self.rows[self.rows > 0].tolist():
            (terms,) = self._row(number).terms(depth)
            done += terms.ready[terms.cost].tolist()
            done += join_levels(terms.ready[terms.live].tolist(), accumulate=accumulate)
        return done

    def hop(self, number: int, depth: Tensor, *, accumulate: str) -> tuple[Did, int]:
        """Return what was done, multiply and join, and the number that both waited for."""
        row = self._row(number)
        (terms,) = row.terms(depth)
        live, unknown, cost, ready = (part.flatten() for part in terms)
        term = critical_term(ready, live, accumulate=accumulate, among=unknown)
        joined = int(combine(ready, live, accumulate=accumulate)) - int(ready[term])
        did = ((self.kind, joined, int(live.sum())),) if joined else ()
        did += (("mul", 1, 2),) if bool(cost[term]) else ()
        sides = (row.left, row.right)
        ends = [(s.node, s.numbers.expand(1, 1, len(live))[0, 0, term]) for s in sides]
        return did, _latest(ends, depth)

    def _row(self, number: int) -> Join:
        """Return what makes one result."""
        place = torch.tensor(place_of(number, self.rows))
        b, i, j = torch.unravel_index(place, self.shape)
        left, right = (
            Side(side.node, *(part[b % len(part), at][None, None] for part in side[1:]))
            for side, at in ((self.left, i), (self.right, j))
        )
        return replace(self, left=left, right=right)


Operation = Source | Each | Join


def operands_of(operation: Each | Join) -> list[fx.Node | None]:
    """Return the nodes that an operation reads; None for what is written in the program."""
    if isinstance(operation, Each):
        return [node for node, _ in operation.inputs]
    return [side.node for side in (operation.left, operation.right) if side is not ONE]


def place_of(number: int, numbers: Tensor) -> int:
    """Return where a number stands, in a flat count."""
    return int((numbers.flatten() == number).nonzero()[0])


def _number(is_new: Tensor, *, first: int, kept: Tensor | None = None) -> Tensor:
    numbers = torch.zeros(is_new.shape, dtype=torch.long) if kept is None else kept
    numbers[is_new] = torch.arange(first, first + int(is_new.sum()))
    return numbers


def _latest(ends: Sequence[tuple[fx.Node | None, Tensor]], depth: Tensor) -> int:
    """Return the number that was ready last; that of a weight only if no other was."""
    found = [
        (int(depth[number]), node.op != "get_attr", int(number))
        for node, number in ends
        if node is not None and number > 0
    ]
    return max(found, key=lambda end: end[:2])[2]


def require_order(accumulate: str) -> None:
    """Raise unless ``accumulate`` is ``tree`` or ``sequential``."""
    if accumulate not in ORDERS:
        raise AttnlabError(f"accumulate={accumulate!r} is not one of {', '.join(ORDERS)}.")


def combine(depth: Tensor, live: Tensor, *, accumulate: str) -> Tensor:
    """Return the depth of the combination of all live terms; 0 where there are none.

    ``tree``: join the two terms that are ready first, again and again. The last join is ready
    after ``ceil(log2 sum_i 2^{t_i})`` operations, which no other tree beats; n terms that are
    ready together take ``ceil(log2 n)`` more. ``sequential``: one running total takes the terms
    in the order of their index.

    Shapes:
        depth, live: ``(..., n_terms)``; returns ``(...)``.
    Source:
        Golumbic, "Combinatorial merging", IEEE Transactions on Computers C-25 (1976).
    """
    depth, live = torch.broadcast_tensors(depth, live)
    if depth.shape[-1] == 0:
        return depth.new_zeros(depth.shape[:-1])
    ready = _tree(depth, live) if accumulate == "tree" else _waits(depth, live).amax(-1)
    return torch.where(live.any(-1), ready, 0)


def join_levels(arrivals: Sequence[int], *, accumulate: str) -> list[int]:
    """Return when each join of these terms is done: the earliest two, or the next in a row."""
    done: list[int] = []
    if accumulate == "sequential":
        done = list(itertools.accumulate(arrivals, lambda total, term: max(total, term) + 1))[1:]
    else:
        heap = sorted(arrivals)
        while len(heap) > 1:
            heapq.heappop(heap)
            done.append(heapq.heappop(heap) + 1)
            heapq.heappush(heap, done[-1])
    return done


def critical_term(
    depth: Tensor, live: Tensor, *, accumulate: str, among: Tensor | None = None
) -> int:
    """Return the index of a term from which an unbroken chain leads to the result.

    In a tree it is the term that is ready last: it need not wait for a partner, and whatever
    it becomes a part of need not wait either.

    Shapes:
        depth, live, among: ``(n_terms,)``, at least one of them live.
    Args:
        among: Which terms may be chosen; all live ones by default.
    """
    waits = _waits(depth, live) if accumulate == "sequential" else depth
    return int(torch.where(live if among is None else live & among, waits, -1).argmax())


def _waits(depth: Tensor, live: Tensor) -> Tensor:
    """Return when a running total would be ready if it waited for each term alone."""
    rank = live.cumsum(-1) - 1  # the first two terms share the first addition
    after = live.sum(-1, keepdim=True) - rank.clamp(min=1)
    return torch.where(live, depth + after, -1)


def _tree(depth: Tensor, live: Tensor) -> Tensor:
    """Return ceil(log2 sum 2^depth), counted in windows so that no integer overflows.

    Rounding a count up from one window to the next changes nothing: an odd item waits.
    """
    top = torch.where(live, depth, -1).amax(-1, keepdim=True)
    below = torch.where(live, top - depth, 0)
    n_windows = int(below.max()) // WINDOW + 1 if below.numel() else 1
    count = torch.zeros_like(top[..., 0])
    for window in reversed(range(n_windows)):
        level = below - window * WINDOW
        inside = live & (level >= 0) & (level < WINDOW)
        units = torch.where(inside, 1 << (WINDOW - 1 - level).clamp(0, WINDOW - 1), 0).sum(-1)
        count = ((count + (1 << WINDOW) - 1) >> WINDOW) + units
    mantissa, exponent = torch.frexp(count.clamp(min=1).double())  # exact below 2^53
    return top[..., 0] - (WINDOW - 1) + exponent.long() - (mantissa == 0.5).long()
