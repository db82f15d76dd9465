"""The kinds of tensor operation that every program is lowered to, on depths.

Each knows which elements of its result depend on an input or a weight (``unknown``), when
each is ready given its operands, how many scalar operations it does, and what one element
waited for. The others are constants of the program: they are ready at depth 0 and cost
nothing. Work and depth leave out what a constant makes needless: a product with 0 or 1, a
sum with 0, a masked score of minus infinity under a maximum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from attnlab.analysis.critical_path.reduction import combine, critical_term

Depths = Mapping[fx.Node, Tensor]
NEUTRAL = {"add": (0.0,), "acc": (0.0,), "mul": (1.0, -1.0), "max": (-torch.inf,)}
FREE = ("pair",)  # real and imaginary part become one number
ABSORBING = {"add": (torch.inf, -torch.inf), "mul": (0.0,), "max": (torch.inf,)}
ABSORBING_FIRST = {**ABSORBING, "div": (0.0,)}  # nothing divided is nothing


@dataclass(frozen=True)
class Hop:
    """One operation back along a chain: what it did, and the element it waited for.

    ``did`` lists (kind, depth, number of terms), the last operation first.
    """

    did: tuple[tuple[str, int, int], ...]
    node: fx.Node
    index: int  # of the element, in a flat count


@dataclass(frozen=True, eq=False)
class Operand:
    """One input of an operation; ``node`` is None for a number written in the program.

    ``value`` says what its constant elements are; it means nothing where ``unknown``.
    """

    node: fx.Node | None
    value: Tensor
    unknown: Tensor

    def depth(self, depths: Depths) -> Tensor:
        """Return when its elements are ready; constants are ready at once."""
        return torch.zeros((), dtype=torch.long) if self.node is None else depths[self.node]

    def is_constant(self, *values: float) -> Tensor:
        """Return where the element is known to have one of these values."""
        if self.unknown.all():
            return torch.zeros((), dtype=torch.bool).expand(self.unknown.shape)
        return ~self.unknown & torch.isin(self.value.double(), torch.tensor(values).double())


@dataclass(frozen=True, eq=False)
class Primitive:
    """What all operations share; ``unknown`` has the shape of the result."""

    unknown: Tensor

    @property
    def sources(self) -> tuple[fx.Node, ...]:
        """The nodes whose elements it reads, in the order of the program."""
        return ()

    def depth(self, depths: Depths, *, accumulate: str) -> Tensor:
        """Return when each element of the result is ready."""
        return torch.zeros((), dtype=torch.long).expand(self.unknown.shape)

    def work(self) -> Counter[str]:
        """Return the number of scalar operations by kind."""
        return Counter()

    def hop(self, index: int, depths: Depths, *, accumulate: str) -> Hop | None:
        """Return what the element waited for; None where a chain begins."""
        return None


@dataclass(frozen=True, eq=False)
class Source(Primitive):
    """An input or a weight (unknown everywhere), or a constant (known everywhere)."""


@dataclass(frozen=True, eq=False)
class Move(Primitive):
    """Elements change place, which costs nothing.

    ``apply`` moves any whole numbers the way the operation moves its operands; a place
    that the operation fills with a constant becomes 0.
    """

    operands: tuple[Operand, ...]
    apply: Callable[[Sequence[Tensor]], Tensor]

    @property
    def sources(self) -> tuple[fx.Node, ...]:
        """The operands whose elements move."""
        return tuple(operand.node for operand in self.operands if operand.node is not None)

    def depth(self, depths: Depths, *, accumulate: str) -> Tensor:
        """Move the depths as the elements."""
        return self.apply([operand.depth(depths) for operand in self.operands])

    def hop(self, index: int, depths: Depths, *, accumulate: str) -> Hop | None:
        """Return the operand and the element that stood there before."""
        first, places = 1, []
        for operand in self.operands:
            n = operand.unknown.numel()
            places.append(torch.arange(first, first + n).view(operand.unknown.shape))
            first += n
        place = int(self.apply(places).flatten()[index]) - 1
        for operand in self.operands:
            if place < operand.unknown.numel():
                assert operand.node is not None
                return Hop((), operand.node, place)
            place -= operand.unknown.numel()
        return None


@dataclass(frozen=True, eq=False)
class Elementwise(Primitive):
    """One operation an element; ``cost`` is 0 where a constant makes it needless."""

    kind: str
    operands: tuple[Operand, ...]
    cost: Tensor

    @classmethod
    def build(cls, kind: str, operands: tuple[Operand, ...], shape: Sequence[int]) -> Elementwise:
        """Find out which elements are constants and which operations are needless."""
        count = torch.zeros(tuple(shape), dtype=torch.long)
        absorbed = torch.zeros(tuple(shape), dtype=torch.bool)
        neutral = torch.full(tuple(shape), len(operands) == 2 and kind in NEUTRAL)
        for place, operand in enumerate(operands):
            absorbing = (ABSORBING if place else ABSORBING_FIRST).get(kind, ())
            count = count + operand.unknown
            absorbed = absorbed | operand.is_constant(*absorbing)
            neutral = neutral & (operand.unknown | operand.is_constant(*NEUTRAL.get(kind, ())))
        unknown = (count > 0) & ~absorbed
        cost = unknown & ~((count == 1) & neutral) & (kind not in FREE)
        return cls(unknown, kind, operands, cost)

    @property
    def sources(self) -> tuple[fx.Node, ...]:
        """The operands that are no plain numbers."""
        return tuple(operand.node for operand in self.operands if operand.node is not None)

    def depth(self, depths: Depths, *, accumulate: str) -> Tensor:
        """Return one more than the latest operand."""
        ready = torch.zeros((), dtype=torch.long)
        for operand in self.operands:
            ready = torch.maximum(ready, operand.depth(depths))
        return torch.where(self.unknown, ready + self.cost, 0)

    def work(self) -> Counter[str]:
        """Count the elements whose operation is needed."""
        return Counter({self.kind: int(self.cost.sum())})

    def hop(self, index: int, depths: Depths, *, accumulate: str) -> Hop | None:
        """Return the operand that was ready last; a weight only if nothing else was."""
        shape = self.unknown.shape
        best: tuple[tuple[int, bool], fx.Node, int] | None = None
        for operand in self.operands:
            if operand.node is None:
                continue
            if not bool(operand.unknown.expand(shape).flatten()[index]):
                continue
            place = int(_places(operand.unknown.shape).expand(shape).flatten()[index])
            ready = int(depths[operand.node].flatten()[place])
            rank = (ready, operand.node.op != "get_attr")
            if best is None or rank > best[0]:
                best = rank, operand.node, place
        assert best is not None
        did = ((self.kind, 1, 2),) if int(self.cost.flatten()[index]) else ()
        return Hop(did, best[1], best[2])


@dataclass(frozen=True, eq=False)
class Reduce(Primitive):
    """Many terms become one, along the last axis after ``rows``; ``live`` terms count.

    With ``is_running`` every prefix of the terms is a result of its own, as in a running
    sum: its work is that of the sequential program, its depth in a tree that of one tree a
    prefix (a prefix network has that depth and about twice the work).
    """

    kind: str
    operand: Operand
    live: Tensor  # the operand's shape
    rows: Callable[[Tensor], Tensor]  # the operand's shape -> (..., n_terms)
    is_running: bool = False

    @property
    def sources(self) -> tuple[fx.Node, ...]:
        """The one operand."""
        return (self.operand.node,) if self.operand.node is not None else ()

    def depth(self, depths: Depths, *, accumulate: str) -> Tensor:
        """Return when all live terms are joined."""
        depth, live = self.rows(self.operand.depth(depths)), self.rows(self.live)
        if self.is_running:
            n = live.shape[-1]
            live = live[..., None, :] & torch.ones(n, n, dtype=torch.bool).tril()
            depth = combine(depth[..., None, :], live, accumulate=accumulate)
            return torch.where(self.unknown, self._back(depth), 0)
        ready = combine(depth, live, accumulate=accumulate)
        return torch.where(self.unknown, ready.reshape(self.unknown.shape), 0)

    def work(self) -> Counter[str]:
        """Count one join less than there are live terms."""
        live = self.rows(self.live)
        if self.is_running:
            needed = live & (live.cumsum(-1) > 1) & self.rows(self.unknown)
            return Counter({self.kind: int(needed.sum())})
        n_joins = (live.sum(-1) - 1).clamp(min=0)
        return Counter({self.kind: int(n_joins[self.unknown.reshape(n_joins.shape)].sum())})

    def hop(self, index: int, depths: Depths, *, accumulate: str) -> Hop | None:
        """Return the term that the result waited for, and the joins in between."""
        assert self.operand.node is not None
        places = self.rows(_places(self.operand.unknown.shape))
        n = places.shape[-1]
        row, last = index, n
        if self.is_running:
            place = (places.flatten() == index).nonzero().item()
            row, last = int(place) // n, int(place) % n + 1
        places = places.reshape(-1, n)[row, :last]
        live = self.live.flatten()[places]
        depth = depths[self.operand.node].flatten()[places]
        term = critical_term(depth, live, accumulate=accumulate)
        joined = int(combine(depth, live, accumulate=accumulate)) - int(depth[term])
        did = ((self.kind, joined, int(live.sum())),) if joined else ()
        return Hop(did, self.operand.node, int(places[term]))

    def _back(self, rows: Tensor) -> Tensor:
        """Undo ``rows`` for a result of the operand's shape."""
        flat = torch.empty_like(rows).flatten()
        flat[self.rows(_places(self.operand.unknown.shape)).flatten()] = rows.flatten()
        return flat.view(self.operand.unknown.shape)


def _places(shape: Sequence[int]) -> Tensor:
    """Return the flat index of every element of a tensor of this shape."""
    return torch.arange(torch.Size(shape).numel()).view(tuple(shape))
