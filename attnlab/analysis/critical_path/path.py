"""The longest chain of dependent operations, named step by step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import pandas as pd
from torch import fx

from attnlab.analysis.critical_path.lowering import Program
from attnlab.analysis.critical_path.operations import Each, operands_of
from attnlab.analysis.critical_path.textbook import COMPOUNDS

SIGNS = {"mul": " × ", "acc": " × ", "add": " + ", "div": " / "}
LONGEST = 44  # letters of a name


class Step(NamedTuple):
    """One link of the chain: operations of one kind, each waiting for the one before.

    Attributes:
        kind: ``mul``, ``acc``, ``max``, ``add``, ``exp``, ``div``, ``rsqrt``, ``gelu``, ...
        depth: How many operations follow each other in it.
        name: What it works on: a weight, a compound such as softmax, or its operands.
        n_terms: How many terms the last of its operations joins.
        node: Name of the node of the aten graph.
        element: Index of the element in that node's tensor.
    """

    kind: str
    depth: int
    name: str
    n_terms: int
    node: str
    element: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Path:
    """A longest chain, from an input or a weight to one element of the result.

    Attributes:
        steps: Its links, in the order of computing.
        start: The input or weight where it begins, and the element.
        end: Index of the element of the result.
    """

    steps: tuple[Step, ...]
    start: tuple[str, tuple[int, ...]]
    end: tuple[int, ...]

    @property
    def depth(self) -> int:
        """How many operations follow each other."""
        return sum(step.depth for step in self.steps)

    @property
    def names(self) -> str:
        """The kinds in a row, for example ``mul acc mul mul acc``."""
        return " ".join(step.kind for step in self.steps)

    def table(self) -> pd.DataFrame:
        """Return one row a step."""
        return pd.DataFrame(self.steps, columns=list(Step._fields))


def join_steps(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Make one step of additions (or maxima) in a row that work on the same thing."""
    joined: list[Step] = []
    for step in steps:
        last = joined[-1] if joined and step.kind in ("add", "acc", "max") else None
        if last and (last.kind, last.name) == (step.kind, step.name):
            joined[-1] = last._replace(depth=last.depth + step.depth)
        else:
            joined.append(step)
    return tuple(joined)


def name_steps(program: Program, source_names: Mapping[fx.Node, str]) -> dict[fx.Node, str]:
    """Return for every node what it works on, for example ``query × key`` or ``lag_weight``.

    An operation with a weight is called like the weight; one of a compound such as softmax
    like the compound; any other like its operands. What is moved keeps its name.
    """
    names = dict(source_names)  # what the operation is called
    labels = dict(source_names)  # what its result is called by those that read it
    roots: dict[fx.Node, fx.Node] = {}  # what was moved to become a node
    compounds = _compounds(program, source_names)
    for node in program.nodes:
        operation = program.operations.get(node)
        roots[node] = node
        if moved := program.moves.get(node):  # a computed part names the whole: the new key
            its = next((s for s in moved if roots[s] not in source_names), moved[0])
            names[node] = labels[node] = labels[its]
            roots[node] = roots[its]
        elif node in compounds:
            names[node] = labels[node] = compounds[node]
        elif node not in source_names and operation is not None:
            operands = operands_of(operation)
            read = [n for n in operands if n is not None]
            weights = [labels[n] for n in read if roots[n].op == "get_attr"]
            parts = weights[:1] or list(dict.fromkeys(labels[n] for n in read))
            is_each = isinstance(operation, Each)
            kind = operation.kind if is_each else "mul"
            labels[node] = names[node] = _joined(parts, SIGNS.get(kind, ", "))
            if is_each and len(parts) == 1 and not weights and None in operands:
                names[node] += ", constant"
    return names


def _joined(parts: Sequence[str], sign: str) -> str:
    """Join names, what they have in common said once; only the last if that is too long."""
    if len(parts) < 2:
        return "".join(parts)
    split = [part.split(".") for part in parts]
    n_common = 0
    for pieces in zip(*(names[:-1] for names in split), strict=False):
        if len(set(pieces)) > 1 or (not pieces[0].isidentifier() and not pieces[0].isdigit()):
            break
        n_common += 1
    inner = sign.join(".".join(names[n_common:]) for names in split)
    whole = f"{'.'.join(split[0][:n_common])}.({inner})" if n_common else inner
    return whole if len(whole) <= LONGEST else f"…{sign}{parts[-1]}"


def _compounds(program: Program, source_names: Mapping[fx.Node, str]) -> dict[fx.Node, str]:
    """Return the name of the compound operation that each node was written for.

    Nodes in a row that came from the same compound are one; a weight among their operands
    gives them its name.
    """
    found: dict[fx.Node, str] = {}
    for kind, run in groupby(
        (node for node in program.nodes if node.op == "call_function"), key=_compound_of
    ):
        if kind:
            nodes = list(run)
            read = [n for node in nodes for n in node.all_input_nodes if n.op == "get_attr"]
            found |= dict.fromkeys(nodes, next((source_names[n] for n in read), kind))
    return found


def _compound_of(node: fx.Node) -> str:
    origin = node.meta.get("original_aten")
    if origin is None or origin is node.target:
        return ""
    return COMPOUNDS.get(origin._schema.name.split("::")[-1], "")


def weight_name(qualified: str) -> str:
    """Return ``blocks.0.mixer.out`` for ``blocks.0.mixer.out.weight``; a bias likewise."""
    stem, _, last = qualified.rpartition(".")
    return stem if last in ("weight", "bias") and stem else qualified
