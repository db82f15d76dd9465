"""The longest chain of dependent operations, named step by step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

VERBS = {
    "mul": "multiply",
    "acc": "add up",
    "add": "add",
    "max": "take the larger",
    "exp": "exponential",
    "div": "divide",
    "rsqrt": "one over the root",
    "gelu": "GELU",
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One link of the chain: operations of one kind, each waiting for the one before.

    Attributes:
        kind: ``mul``, ``acc``, ``max``, ``add``, ``exp``, ``div``, ``rsqrt``, ``gelu``, ...
        depth: How many operations follow each other in it.
        name: What it works on: a weight, a compound such as softmax, or its operands.
        operation: The operation of the aten graph.
        node: Name of the node of that graph.
        element: Index of the element in that node's tensor.
        n_terms: How many terms the last of its operations joins.
    """

    kind: str
    depth: int
    name: str
    operation: str
    node: str
    element: tuple[int, ...]
    n_terms: int

    @property
    def words(self) -> str:
        """Say the step, for example ``add up 128 terms: query``."""
        verb = VERBS.get(self.kind, self.kind)
        if self.kind in ("acc", "max") and self.n_terms > 2:
            verb = f"{'add up' if self.kind == 'acc' else 'largest of'} {self.n_terms:,} terms"
        elif self.depth > 1:
            verb = f"{verb} {self.depth:,} times"
        return f"{verb}: {self.name}" if self.name else verb


@dataclass(frozen=True, kw_only=True)
class Path:
    """A longest chain, from an input or a weight to one element of the result.

    Attributes:
        steps: Its links, in the order of computing.
        start: The input or weight where it begins, and the element.
        end: Index of the element of the result.
        accumulate: ``tree`` or ``sequential``.
    """

    steps: tuple[Step, ...]
    start: tuple[str, tuple[int, ...]]
    end: tuple[int, ...]
    accumulate: str

    @property
    def depth(self) -> int:
        """How many operations follow each other."""
        return sum(step.depth for step in self.steps)

    @property
    def names(self) -> str:
        """The kinds in a row, for example ``mul acc mul mul acc``."""
        return " ".join(step.kind for step in self.steps)

    def table(self) -> pd.DataFrame:
        """Return one row a step; ``depth_after`` is the depth at its end."""
        rows = [
            {
                "step": place,
                "kind": step.kind,
                "depth": step.depth,
                "name": step.name,
                "n_terms": step.n_terms,
                "operation": step.operation,
                "node": step.node,
                "element": step.element,
                "words": step.words,
            }
            for place, step in enumerate(self.steps, start=1)
        ]
        columns = ["step", "kind", "depth", "name", "n_terms", "operation", "node", "element"]
        table = pd.DataFrame(rows, columns=[*columns, "words"])
        table.insert(3, "depth_after", table["depth"].astype(int).cumsum())
        return table


def join_steps(steps: list[Step]) -> tuple[Step, ...]:
    """Make one step of additions (or maxima) in a row that work on the same thing."""
    joined: list[Step] = []
    for step in steps:
        if joined and _goes_on(joined[-1], step):
            joined[-1] = replace(joined[-1], depth=joined[-1].depth + step.depth)
        else:
            joined.append(step)
    return tuple(joined)


def _goes_on(before: Step, step: Step) -> bool:
    is_same = (before.kind, before.name) == (step.kind, step.name)
    return is_same and step.kind in ("add", "acc", "max")
