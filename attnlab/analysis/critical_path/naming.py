"""Words for the nodes of a graph: which weight, input or compound operation a step is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from attnlab.analysis.critical_path.decompositions import COMPOUNDS
from attnlab.analysis.critical_path.primitives import Elementwise, Move, Primitive, Source
from attnlab.analysis.critical_path.rules import operation_name

SIGNS = {"mul": " × ", "acc": " × ", "add": " + ", "div": " / "}
LONGEST = 44  # letters of a name


def name_steps(
    primitives: Mapping[fx.Node, Primitive], source_names: Mapping[fx.Node, str]
) -> dict[fx.Node, str]:
    """Return for every node what it works on, for example ``query × key`` or ``lag_weight``.

    An operation with a weight is called like the weight; one of a compound such as softmax
    like the compound; any other like its operands.
    """
    names: dict[fx.Node, str] = {}  # what the operation is called
    labels: dict[fx.Node, str] = {}  # what its result is called by those that read it
    compounds = _compounds(primitives, source_names)
    for node, primitive in primitives.items():
        if isinstance(primitive, Source):
            names[node] = labels[node] = source_names.get(node, "")
        elif isinstance(primitive, Move):
            names[node] = labels[node] = labels[_computed_source(primitive, primitives)]
        elif node in compounds:
            names[node] = labels[node] = compounds[node]
        else:
            names[node], labels[node] = _operation_name(node, primitive, primitives, labels)
    return names


def _operation_name(
    node: fx.Node,
    primitive: Primitive,
    primitives: Mapping[fx.Node, Primitive],
    labels: Mapping[fx.Node, str],
) -> tuple[str, str]:
    weights = [labels[s] for s in primitive.sources if _is_weight(s, primitives)]
    if weights:
        return weights[0], weights[0]
    parts = list(dict.fromkeys(labels[s] for s in primitive.sources))
    if len(parts) > 1:
        kind = primitive.kind if isinstance(primitive, Elementwise) else "mul"
        whole = _joined(parts, SIGNS.get(kind, ", "))
        return whole, whole
    label = parts[0] if parts else ""
    if isinstance(primitive, Elementwise) and len(primitive.operands) > len(primitive.sources):
        return f"{label}, constant", label
    return label, label


def _joined(parts: Sequence[str], sign: str) -> str:
    """Join names, what they have in common said once; only the last if that is too long."""
    split = [part.split(".") for part in parts]
    n_common = 0
    for pieces in zip(*(names[:-1] for names in split), strict=False):
        if len(set(pieces)) > 1 or (not pieces[0].isidentifier() and not pieces[0].isdigit()):
            break
        n_common += 1
    inner = sign.join(".".join(names[n_common:]) for names in split)
    whole = f"{'.'.join(split[0][:n_common])}.({inner})" if n_common else inner
    return whole if len(whole) <= LONGEST else f"…{sign}{parts[-1]}"


def _computed_source(move: Move, primitives: Mapping[fx.Node, Primitive]) -> fx.Node:
    """Return the operand that gives the whole its name: a new key, not the old ones."""
    for source in move.sources:
        if not isinstance(primitives[_root(source, primitives)], Source):
            return source
    return move.sources[0]


def _root(node: fx.Node, primitives: Mapping[fx.Node, Primitive]) -> fx.Node:
    """Return what was moved to become this node."""
    while isinstance(move := primitives[node], Move) and move.sources:
        node = _computed_source(move, primitives)
    return node


def _is_weight(node: fx.Node, primitives: Mapping[fx.Node, Primitive]) -> bool:
    """Say whether a node is a weight, or a weight moved."""
    return _root(node, primitives).op == "get_attr"


def _compounds(
    primitives: Mapping[fx.Node, Primitive], source_names: Mapping[fx.Node, str]
) -> dict[fx.Node, str]:
    """Return the name of the compound operation that each node was written for.

    Nodes in a row that came from the same compound are one; a weight among their operands
    gives them its name.
    """
    found: dict[fx.Node, str] = {}
    run: list[fx.Node] = []
    kind = ""
    for node in [*primitives, None]:
        if node is not None and node.op != "call_function":
            continue
        now = "" if node is None else _compound_of(node)
        if now != kind and run:
            weights = [source_names.get(s, "") for n in run for s in n.all_input_nodes]
            name = next((w for w in weights if w and _is_named_weight(w, source_names)), kind)
            found |= dict.fromkeys(run, name)
            run = []
        kind = now
        if now and node is not None:
            run.append(node)
    return found


def _is_named_weight(name: str, source_names: Mapping[fx.Node, str]) -> bool:
    return any(n.op == "get_attr" for n, given in source_names.items() if given == name)


def _compound_of(node: fx.Node) -> str:
    origin = node.meta.get("original_aten")
    if node.op != "call_function" or origin is None or origin is node.target:
        return ""
    return COMPOUNDS.get(origin._schema.name.split("::")[-1], "")


def weight_name(qualified: str) -> str:
    """Return ``blocks.0.mixer.out`` for ``blocks.0.mixer.out.weight``; a bias likewise."""
    stem, _, last = qualified.rpartition(".")
    return stem if last in ("weight", "bias") and stem else qualified


def describe_operation(node: fx.Node) -> str:
    """Return the aten operation of a node, for example ``aten.mm``."""
    return f"aten.{operation_name(node)}"
