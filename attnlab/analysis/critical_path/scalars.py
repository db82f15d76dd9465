"""The same program with every scalar operation as a node: for tiny sizes, and as a check.

Nothing here uses the algebra on depth tensors: sums are joined by a heap of arrival times
or one after the other, and the longest path is found by going through the nodes in order.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from attnlab.analysis.critical_path.contract import Contract
from attnlab.analysis.critical_path.primitives import Elementwise, Move, Operand, Reduce
from attnlab.analysis.critical_path.reduction import require_order
from attnlab.analysis.critical_path.trace import Trace
from attnlab.errors import AttnlabError

MOST_NODES = 200_000
CONSTANT = 0  # the node that stands for every constant


@dataclass(repr=False)
class ScalarGraph:
    """One node a number: leaves are inputs, weights and constants; the others are operations.

    Attributes:
        kinds: Of each node: ``leaf``, or the operation.
        operands: Of each node: the nodes that it waits for.
        outputs: Node of each element of the result; 0 where it is a constant.
    """

    kinds: list[str] = field(default_factory=lambda: ["leaf"])
    operands: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    outputs: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __repr__(self) -> str:
        return f"ScalarGraph({len(self.kinds)} nodes, result {self.outputs.shape})"

    def add(self, kind: str, *operands: int) -> int:
        """Add a node after those it waits for; return its number."""
        if len(self.kinds) >= MOST_NODES:
            raise AttnlabError(
                f"The program has more than {MOST_NODES:,} scalar operations. Trace it at a tiny "
                "size, or use the depths of the trace, which need no node an operation."
            )
        self.kinds.append(kind)
        self.operands.append(operands)
        return len(self.kinds) - 1

    def depths(self) -> NDArray[np.int64]:
        """Return how many operations lead to each node, the longest way."""
        depth = np.zeros(len(self.kinds), dtype=np.int64)
        for node, operands in enumerate(self.operands):
            if operands:
                depth[node] = 1 + max(depth[operand] for operand in operands)
        return depth

    def output_depths(self) -> NDArray[np.int64]:
        """Return the depth of each element of the result."""
        return self.depths()[self.outputs]

    @property
    def work(self) -> dict[str, int]:
        """Operations by kind."""
        return dict(Counter(kind for kind in self.kinds if kind != "leaf"))


def scalar_graph(trace: Trace, *, accumulate: str = "tree") -> ScalarGraph:
    """Return the traced program as a graph of scalar operations.

    Args:
        trace: Of a tiny program: the graph has a node an operation.
        accumulate: Whether sums become trees that join what is ready first, or chains.
    """
    require_order(accumulate)
    return _Builder(trace, accumulate).build()


class _Builder:
    def __init__(self, trace: Trace, accumulate: str) -> None:
        self.trace, self.is_tree = trace, accumulate == "tree"
        self.graph, self.ready = ScalarGraph(), [0]
        self.nodes: dict[fx.Node, Tensor] = {}

    def build(self) -> ScalarGraph:
        """Return the graph, one vertex an operation."""
        for node, primitive in self.trace.primitives.items():
            if isinstance(primitive, Move):
                self.nodes[node] = primitive.apply([self._of(o) for o in primitive.operands])
            elif isinstance(primitive, Elementwise):
                self.nodes[node] = self._elementwise(primitive)
            elif isinstance(primitive, Reduce):
                self.nodes[node] = self._reduce(primitive)
            elif isinstance(primitive, Contract):
                self.nodes[node] = self._contract(primitive)
            else:
                flat = [self._add("leaf") if u else CONSTANT for u in primitive.unknown.flatten()]
                self.nodes[node] = torch.tensor(flat).view(primitive.unknown.shape)
        self.graph.outputs = self.nodes[self.trace.output].numpy().copy()
        return self.graph

    def _of(self, operand: Operand) -> Tensor:
        if operand.node is None:
            return torch.full(operand.unknown.shape, CONSTANT)
        return self.nodes[operand.node]

    def _add(self, kind: str, *operands: int) -> int:
        node = self.graph.add(kind, *operands)
        self.ready.append(1 + max(self.ready[o] for o in operands) if operands else 0)
        return node

    def _elementwise(self, primitive: Elementwise) -> Tensor:
        shape = primitive.unknown.shape
        columns = [
            torch.where(o.unknown, self._of(o), CONSTANT).expand(shape).flatten().tolist()
            for o in primitive.operands
        ]
        made = []
        for unknown, cost, *given in zip(
            primitive.unknown.flatten().tolist(),
            primitive.cost.flatten().tolist(),
            *columns,
            strict=True,
        ):
            if not unknown:
                made.append(CONSTANT)
            elif cost:
                made.append(self._add(primitive.kind, *given))
            else:
                made.append(max(given))  # the only one that is no constant
        return torch.tensor(made).view(shape)

    def _reduce(self, primitive: Reduce) -> Tensor:
        terms = primitive.rows(self._of(primitive.operand))
        live = primitive.rows(primitive.live)
        n = terms.shape[-1]
        made = []
        for row, is_live in zip(terms.reshape(-1, n), live.reshape(-1, n), strict=True):
            if primitive.is_running:
                made += self._running(primitive.kind, row[:], is_live)
            else:
                made.append(self._join(primitive.kind, row[is_live].tolist()))
        if not primitive.is_running:
            return torch.tensor(made).view(primitive.unknown.shape)
        back = torch.zeros(len(made), dtype=torch.long)
        places = torch.arange(len(made)).view(primitive.unknown.shape)
        back[primitive.rows(places).flatten()] = torch.tensor(made)
        return back.view(primitive.unknown.shape)

    def _running(self, kind: str, row: Tensor, live: Tensor) -> list[int]:
        if self.is_tree:
            ends = range(1, len(row) + 1)
            return [self._join(kind, row[:end][live[:end]].tolist()) for end in ends]
        made, total = [], CONSTANT
        for node, is_live in zip(row.tolist(), live.tolist(), strict=True):
            if is_live:
                total = self._add(kind, total, node) if total else node
            made.append(total)
        return made

    def _contract(self, primitive: Contract) -> Tensor:
        left, right = (self._matrices(o) for o in (primitive.left, primitive.right))
        made = []
        for (a, a_value), (b, b_value) in zip(left, right, strict=True):
            for i in range(a.shape[0]):
                for j in range(b.shape[1]):
                    row = zip(
                        a[i].tolist(),
                        a_value[i].tolist(),
                        b[:, j].tolist(),
                        b_value[:, j].tolist(),
                        strict=True,
                    )
                    made.append(self._inner(row))
        return torch.tensor(made).view(primitive.unknown.shape)

    def _matrices(self, operand: Operand) -> list[tuple[Tensor, Tensor]]:
        nodes = torch.where(operand.unknown, self._of(operand), CONSTANT)
        values = operand.value.expand(operand.unknown.shape)
        if nodes.ndim == 2:
            nodes, values = nodes[None], values[None]
        return list(zip(nodes, values, strict=True))

    def _inner(self, row) -> int:
        """Multiply and add up one inner product; a node of 0 is a constant with its value."""
        terms = []
        for a, a_value, b, b_value in row:
            constants = [value for node, value in ((a, a_value), (b, b_value)) if not node]
            if 0.0 in constants:
                continue
            needless = len(constants) == 2 or any(abs(value) == 1.0 for value in constants)
            terms.append(max(a, b) if needless else self._add("mul", a, b))
        return self._join("acc", terms) if any(terms) else CONSTANT

    def _join(self, kind: str, terms: Sequence[int]) -> int:
        """Join terms into one node: the two ready first, again and again, or one by one."""
        if not any(terms):
            return CONSTANT
        if not self.is_tree:
            total = terms[0]
            for term in terms[1:]:
                total = self._add(kind, total, term)
            return total
        heap = [(self.ready[term], place, term) for place, term in enumerate(terms)]
        heapq.heapify(heap)
        while len(heap) > 1:
            (_, _, a), (_, place, b) = heapq.heappop(heap), heapq.heappop(heap)
            joined = self._add(kind, a, b)
            heapq.heappush(heap, (self.ready[joined], place, joined))
        return heap[0][2]
