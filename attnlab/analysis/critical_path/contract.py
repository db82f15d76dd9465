"""Products of matrices on depths: multiply, then add up along the inner axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, fx

from attnlab.analysis.critical_path.primitives import Depths, Hop, Operand, Primitive
from attnlab.analysis.critical_path.reduction import combine, critical_term

MOST_TERMS = 1 << 23  # that are looked at together


@dataclass(frozen=True, eq=False)
class Contract(Primitive):
    """``(batch, m, k) @ (batch, k, n)``; without the batch axis too."""

    left: Operand
    right: Operand

    @classmethod
    def build(cls, left: Operand, right: Operand, shape: Sequence[int]) -> Contract:
        """Find out which elements are constants: those of which every term is one."""
        sides = _Side.of(left), _Side.of(right, is_right=True)
        blocks = [(terms.live & terms.unknown).any(-1) for terms in _blocks(*sides)]
        unknown = torch.cat(blocks, 1).expand(_shape(left, right)).reshape(tuple(shape))
        return cls(unknown, left, right)

    @property
    def sources(self) -> tuple[fx.Node, ...]:
        """The two matrices, as far as they are not written in the program."""
        return tuple(o.node for o in (self.left, self.right) if o.node is not None)

    def depth(self, depths: Depths, *, accumulate: str) -> Tensor:
        """Return when each inner product is ready."""
        sides = _Side.of(self.left, depths), _Side.of(self.right, depths, is_right=True)
        blocks = [combine(t.depth, t.live, accumulate=accumulate) for t in _blocks(*sides)]
        ready = torch.cat(blocks, 1).expand(_shape(self.left, self.right))
        return torch.where(self.unknown, ready.reshape(self.unknown.shape), 0)

    def work(self) -> Counter[str]:
        """Return multiplications and additions, without those a constant makes needless."""
        sides = _Side.of(self.left), _Side.of(self.right, is_right=True)
        _, m, n = _shape(self.left, self.right)
        copies = m // sides[0].depth.shape[1] * (n // sides[1].depth.shape[1])
        products = sums = 0
        for terms in _blocks(*sides):
            live = terms.live & (terms.live & terms.unknown).any(-1, keepdim=True)
            products += int((terms.cost * live).sum())
            sums += int((live.sum(-1) - 1).clamp(min=0).sum())
        return Counter({"mul": copies * products, "acc": copies * sums})

    def hop(self, index: int, depths: Depths, *, accumulate: str) -> Hop | None:
        """Return multiply and add up, and the element of a matrix that both waited for."""
        _, m, n = _shape(self.left, self.right)
        k = self.left.unknown.shape[-1]
        b, i, j = index // (m * n), index // n % m, index % n
        left = _Side.of(self.left, depths).row(b, i)
        right = _Side.of(self.right, depths, is_right=True).row(b, j)
        terms = _Terms.of(left, right)
        depth, live = terms.depth.flatten(), terms.live.flatten()
        term = critical_term(depth, live, accumulate=accumulate)
        joined = int(combine(depth, live, accumulate=accumulate)) - int(depth[term])
        did = [("acc", joined, int(live.sum()))] if joined else []
        did += [("mul", 1, 2)] if int(terms.cost.flatten()[term]) else []
        ends = []
        for side, operand, place in (
            (left, self.left, (b * m + i) * k + term),
            (right, self.right, (b * k + term) * n + j),
        ):
            if operand.node is not None and bool(side.unknown.flatten()[term]):
                is_weight = operand.node.op == "get_attr"
                ends.append((int(side.depth.flatten()[term]), not is_weight, operand.node, place))
        _, _, node, place = max(ends, key=lambda end: end[:2])
        return Hop(tuple(did), node, place)


def _shape(left: Operand, right: Operand) -> tuple[int, int, int]:
    m, n = left.unknown.shape[-2], right.unknown.shape[-1]
    return (left.unknown.shape[0] if left.unknown.ndim == 3 else 1), m, n


@dataclass(frozen=True, eq=False)
class _Side:
    """One matrix with the inner axis last, ``(batch, rows, k)``; equal rows are one row."""

    unknown: Tensor
    is_zero: Tensor
    is_one: Tensor
    depth: Tensor

    @classmethod
    def of(cls, operand: Operand, depths: Depths | None = None, *, is_right: bool = False) -> _Side:
        """Return one factor of every product, its inner axis last, equal rows once."""
        depth = torch.zeros((), dtype=torch.long) if depths is None else operand.depth(depths)
        parts = (
            operand.unknown,
            operand.is_constant(0.0),
            operand.is_constant(1.0, -1.0),
            depth.expand(operand.unknown.shape),
        )
        parts = tuple(part if part.ndim == 3 else part[None] for part in parts)
        parts = tuple(part.mT if is_right else part for part in parts)
        if all(_has_equal_rows(part) for part in parts):
            parts = tuple(part[:, :1] for part in parts)
        return cls(*parts)

    def row(self, batch: int, row: int) -> _Side:
        """Return one row of one matrix, as a side."""
        row = min(row, self.depth.shape[1] - 1)
        values = (getattr(self, field.name) for field in fields(self))
        return _Side(*(value[batch : batch + 1, row : row + 1] for value in values))

    def rows(self, first: int, last: int) -> _Side:
        """Return some rows of all matrices."""
        values = (getattr(self, field.name) for field in fields(self))
        return _Side(*(value[:, first:last] for value in values))


@dataclass(frozen=True, eq=False)
class _Terms:
    """The terms of every inner product, ``(batch, m, n, k)``."""

    unknown: Tensor
    live: Tensor
    cost: Tensor
    depth: Tensor

    @classmethod
    def of(cls, left: _Side, right: _Side) -> _Terms:
        """Return what becomes of each pair: unknown, left out, at what cost and depth."""
        a = {f.name: getattr(left, f.name)[:, :, None] for f in fields(left)}
        b = {f.name: getattr(right, f.name)[:, None] for f in fields(right)}
        unknown = a["unknown"] | b["unknown"]
        live = ~(a["is_zero"] | b["is_zero"])
        cost = (unknown & live & ~(a["is_one"] | b["is_one"])).long()
        return cls(unknown, live, cost, torch.maximum(a["depth"], b["depth"]) + cost)


def _blocks(left: _Side, right: _Side) -> Iterator[_Terms]:
    """Return the terms for some rows of the left matrix after the others."""
    batch, n_rows, k = left.depth.shape
    step = max(1, MOST_TERMS // max(1, batch * k * right.depth.shape[1]))
    for first in range(0, n_rows, step):
        yield _Terms.of(left.rows(first, first + step), right)


def _has_equal_rows(part: Tensor) -> bool:
    return part.shape[1] == 1 or part.stride(1) == 0 or bool((part == part[:, :1]).all())
