"""What each aten operation is, in terms of primitives: the list to extend for a new one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from attnlab.analysis.critical_path.contract import Contract
from attnlab.analysis.critical_path.primitives import (
    NEUTRAL,
    Elementwise,
    Move,
    Operand,
    Primitive,
    Reduce,
)
from attnlab.errors import AttnlabError

ELEMENTWISE = {
    "add": "add",
    "sub": "add",
    "rsub": "add",
    "mul": "mul",
    "div": "div",
    "reciprocal": "div",
    "maximum": "max",
    "minimum": "max",
    "relu": "max",
    "clamp": "max",
    "clamp_min": "max",
    "clamp_max": "max",
    "where": "select",
    "complex": "pair",
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge", "isinf", "isnan", "sign"), "compare"),
    **dict.fromkeys(("logical_and", "logical_or", "logical_not", "logical_xor"), "logic"),
    **dict.fromkeys(("bitwise_and", "bitwise_or", "bitwise_not", "bitwise_xor"), "logic"),
    **dict.fromkeys(("floor", "ceil", "round", "trunc"), "round"),
    **{
        name: name
        for name in (
            *("exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "pow", "gelu"),
            *("sigmoid", "tanh", "erf", "sin", "cos", "atan2", "silu", "softplus", "log_sigmoid"),
        )
    },
}
REDUCE = {
    "sum": "acc",
    "amax": "max",
    "amin": "max",
    "prod": "mul",
    "any": "logic",
    "all": "logic",
}
RUNNING = {"cumsum": "acc", "cumprod": "mul"}
CONTRACT = {"mm", "bmm"}
UNCHANGED = {  # a sign, a copy or another number format costs nothing
    *("neg", "abs", "alias", "detach", "clone", "contiguous", "_to_copy", "to", "lift_fresh"),
    *("lift_fresh_copy", "convert_element_type", "positive", "view_of"),
}
MOVE = {
    *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "slice", "select"),
    *("squeeze", "unsqueeze", "flip", "unfold", "repeat", "roll", "diagonal", "movedim", "cat"),
    *("stack", "tril", "triu", "index", "index_select", "gather", "embedding", "constant_pad_nd"),
    *("index_copy", "index_put", "scatter", "slice_scatter", "select_scatter", "copy", "fill"),
    *("diagonal_scatter", "take", "take_along_dim", "view_as_real"),
}
SHAPE_ONLY = {  # the result depends on the shape of its operand alone
    *("full_like", "zeros_like", "ones_like", "empty_like", "rand_like", "randn_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"),
}
PLACES = ("index", "indices", "mask", "condition")  # arguments that say where, not what


class Context:
    """What is known about the nodes before the one that is being lowered."""

    def __init__(self) -> None:
        self.values: dict[fx.Node, Any] = {}
        self.primitives: dict[fx.Node, Primitive] = {}

    def is_constant(self, node: fx.Node) -> bool:
        """Say whether no element of the node depends on an input or a weight."""
        return node not in self.primitives or not bool(self.primitives[node].unknown.any())

    def operand(self, argument: Any) -> Operand:
        """Return a node or a number as an operand."""
        if isinstance(argument, fx.Node) and not self.is_constant(argument):
            unknown = self.primitives[argument].unknown
            value = torch.zeros(()) if unknown.all() else self.values[argument]
            return Operand(argument, value, unknown)
        value = self.values[argument] if isinstance(argument, fx.Node) else argument
        value = torch.as_tensor(value)
        return Operand(None, value, torch.zeros((), dtype=torch.bool).expand(value.shape))


def lower(node: fx.Node, context: Context) -> Primitive:
    """Return the primitive that a node of the aten graph is.

    Raises:
        AttnlabError: No rule for the operation; the message says where to add one.
    """
    name = operation_name(node)
    arguments = named_arguments(node)
    if name == "pow" and arguments.get("exponent") == 2:
        arguments["other"] = arguments["exponent"] = arguments["self"]
        name = "mul"
    if name == "where" and context.is_constant(arguments["condition"]):
        return _move(node, arguments, context, name="where")
    if name in UNCHANGED | MOVE:
        return _move(node, arguments, context, name=name)
    if name in ELEMENTWISE:
        return _elementwise(node, name, arguments, context)
    if name in REDUCE or name in RUNNING:
        return _reduce(node, name, arguments, context)
    if name in CONTRACT:
        left, right = (context.operand(arguments[key]) for key in ("self", "mat2"))
        return Contract.build(left, right, context.values[node].shape)
    raise AttnlabError(_unknown_message(node))


def _unknown_message(node: fx.Node) -> str:
    return (
        f"The tracer does not know {node.target} (node {node.name}). Add it to ELEMENTWISE, "
        "REDUCE or MOVE in attnlab/analysis/critical_path/rules.py, or write it in operations "
        "that are known in decompositions.py beside it."
    )


def operation_name(node: fx.Node) -> str:
    """Return the name of an aten operation without overload, for example ``sum``."""
    schema = getattr(node.target, "_schema", None)
    return str(node.target) if schema is None else schema.name.split("::")[-1]


def named_arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a node by the names of the operation's schema."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {}
    named = {}
    for place, argument in enumerate(schema.arguments):
        if place < len(node.args):
            named[argument.name] = node.args[place]
        elif argument.name in node.kwargs:
            named[argument.name] = node.kwargs[argument.name]
        elif argument.has_default_value():
            named[argument.name] = argument.default_value
    return named


def _elementwise(
    node: fx.Node, name: str, arguments: dict[str, Any], context: Context
) -> Elementwise:
    kind, shape = ELEMENTWISE[name], context.values[node].shape
    given = [
        arguments[key]
        for key in ("condition", "self", "real", "other", "imag", "exponent", "min", "max")
        if arguments.get(key) is not None
    ]
    if name == "mul" and "exponent" in arguments:
        given = given[:2]
    operands = [context.operand(argument) for argument in given]
    if name == "div" and not operands[1].unknown.any():  # the reciprocal is a constant
        divisor = operands[1]
        kind, operands[1] = "mul", Operand(None, 1 / divisor.value, divisor.unknown)
    if name == "reciprocal":
        operands.insert(0, context.operand(1.0))
    return Elementwise.build(kind, tuple(operands), shape)


def _reduce(node: fx.Node, name: str, arguments: dict[str, Any], context: Context) -> Reduce:
    kind = REDUCE.get(name) or RUNNING[name]
    operand, value = context.operand(arguments["self"]), context.values[node]
    dims = _dims(arguments.get("dim"), operand.unknown.ndim)
    live = ~operand.is_constant(*NEUTRAL.get(kind, ())[:1])

    def rows(x: Tensor) -> Tensor:
        x = x.expand(operand.unknown.shape)
        kept = [d for d in range(x.ndim) if d not in dims]
        return x.permute(*kept, *dims).flatten(len(kept)) if x.ndim else x[None]

    n_terms = rows(operand.unknown)
    if name in RUNNING:
        seen = (operand.unknown & live).long().cumsum(dims[0]) > 0
        return Reduce(seen, kind, operand, live, rows, is_running=True)
    unknown = (n_terms & rows(live)).any(-1).reshape(value.shape)
    return Reduce(unknown, kind, operand, live, rows)


def _dims(dim: Any, ndim: int) -> tuple[int, ...]:
    if dim is None or dim == []:
        return tuple(range(ndim))
    dims = [dim] if isinstance(dim, int) else dim
    return tuple(d % max(ndim, 1) for d in dims)


def _move(node: fx.Node, arguments: dict[str, Any], context: Context, *, name: str) -> Move:
    """Apply the operation itself to whole numbers that stand for the elements."""
    for key in PLACES:
        _require_given(node, arguments.get(key), context)
    operands: list[Operand] = []

    def template(argument: Any, key: str) -> Any:
        if isinstance(argument, (list, tuple)):
            return [template(part, key) for part in argument]
        if not isinstance(argument, fx.Node):
            return argument
        value = context.values[argument]
        if key in PLACES or (key == "self" and name in ("copy", "fill")):
            return value
        if context.is_constant(argument):
            return torch.zeros((), dtype=torch.long).expand(value.shape)
        operands.append(context.operand(argument))
        return _Slot(len(operands) - 1, tuple(value.shape))

    given = {key: template(argument, key) for key, argument in arguments.items()}
    shape = tuple(context.values[node].shape)

    def apply(numbers: Sequence[Tensor]) -> Tensor:
        return _moved(node, name, {k: _fill(part, numbers) for k, part in given.items()}, shape)

    unknown = apply([operand.unknown.long() for operand in operands]).bool()
    return Move(unknown, tuple(operands), apply)


class _Slot(NamedTuple):
    """Where the numbers that stand for an operand go."""

    place: int
    shape: tuple[int, ...]


def _fill(part: Any, numbers: Sequence[Tensor]) -> Any:
    if isinstance(part, _Slot):
        return numbers[part.place].expand(part.shape)
    return [_fill(piece, numbers) for piece in part] if isinstance(part, list) else part


def _moved(node: fx.Node, name: str, given: dict[str, Any], shape: tuple[int, ...]) -> Tensor:
    if name in UNCHANGED:
        return given["self"]
    if name in ("view", "_unsafe_view", "reshape"):
        return given["self"].reshape(shape)
    if name in ("copy", "fill"):
        source = given.get("src", given.get("value"))
        source = source if isinstance(source, Tensor) else torch.zeros((), dtype=torch.long)
        return source.expand(shape)
    if name == "view_as_real":
        return given["self"][..., None].expand(shape)
    if name == "embedding":
        return given["weight"][given["indices"]]
    if name in ("constant_pad_nd", "scatter") and "value" in given:
        given["value"] = 0  # what the program fills in is a constant
    return _call(node, given)


def _call(node: fx.Node, given: dict[str, Any]) -> Tensor:
    target: Any = node.target
    schema = target._schema.arguments
    positional = [given[a.name] for a in schema if a.name in given and not a.kwarg_only]
    named = {a.name: given[a.name] for a in schema if a.name in given and a.kwarg_only}
    return target(*positional, **named)


def _require_given(node: fx.Node, place: Any, context: Context) -> None:
    """Raise if the place an element is read from was itself computed from activations."""
    for part in place if isinstance(place, (list, tuple)) else [place]:
        if isinstance(part, fx.Node) and not context.is_constant(part) and not _is_raw(part):
            raise AttnlabError(
                f"{node.target} (node {node.name}) reads from places that the program computes "
                f"({part.name}); its chain depends on the values. Trace the parts before and "
                "after it."
            )


def _is_raw(node: fx.Node) -> bool:
    """Say whether a node is an input, or an input moved."""
    if node.op != "call_function":
        return True
    name = operation_name(node)
    return name in MOVE | UNCHANGED and all(_is_raw(source) for source in node.all_input_nodes)
