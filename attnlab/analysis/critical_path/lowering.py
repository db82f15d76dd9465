"""What each aten operation is, in terms of numbered scalars: the list to extend for another one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from attnlab.analysis.critical_path.operations import (
    DECIDES,
    NEUTRAL,
    ONE,
    Each,
    Join,
    Operand,
    Operation,
    Side,
    Source,
)
from attnlab.errors import AttnlabError

ELEMENTWISE = {
    **dict.fromkeys(("add", "sub", "rsub"), "add"),
    **dict.fromkeys(("div", "reciprocal"), "div"),
    **dict.fromkeys(("maximum", "minimum", "relu", "clamp", "clamp_min", "clamp_max"), "max"),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge", "isinf", "isnan", "sign"), "compare"),
    **dict.fromkeys(("logical_and", "logical_or", "logical_not", "logical_xor"), "logic"),
    **dict.fromkeys(("bitwise_and", "bitwise_or", "bitwise_not", "bitwise_xor"), "logic"),
    **dict.fromkeys(("floor", "ceil", "round", "trunc"), "round"),
    **{"mul": "mul", "where": "select", "complex": "pair"},
    **{
        name: name
        for name in (
            *("exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "pow", "gelu"),
            *("sigmoid", "tanh", "erf", "sin", "cos", "atan2", "silu", "softplus", "log_sigmoid"),
        )
    },
}
REDUCE = {"sum": "acc", "amax": "max", "amin": "max", "prod": "mul", "any": "logic", "all": "logic"}
RUNNING = {"cumsum": "acc", "cumprod": "mul"}
CONTRACT = ("mm", "bmm")
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
OPERANDS = ("condition", "self", "real", "other", "imag", "exponent", "min", "max")
PLACES = ("index", "indices", "mask", "condition")  # arguments that say where, not what


class Program:
    """The nodes of an aten graph, lowered one after the other.

    ``operations`` number their results in turn, ``moves`` have the nodes whose elements they
    move; ``values`` and ``numbers`` of elements are kept for as long as somebody reads them.
    """

    def __init__(self) -> None:
        self.operations: dict[fx.Node, Operation] = {}
        self.moves: dict[fx.Node, list[fx.Node]] = {}
        self.nodes: list[fx.Node] = []
        self.firsts: list[int] = []  # the first number of each operation
        self.values: dict[fx.Node, Any] = {}
        self.numbers: dict[fx.Node, Tensor] = {}
        self.n_scalars = 0

    def add_source(self, node: fx.Node, value: Tensor, *, is_constant: bool) -> None:
        """Add an input, a weight or a constant."""
        self.values[node] = value.detach()
        first = self.n_scalars + 1
        numbers = torch.arange(first, first + value.numel()).view(value.shape)
        if is_constant:
            self._keep(node, torch.zeros((), dtype=torch.long).expand(value.shape))
        else:
            self._add(Source(node, numbers), value.numel())

    def add(self, node: fx.Node) -> None:
        """Compute a node, and find out what it does to scalars.

        Raises:
            AttnlabError: No rule for the operation; the message says where to add one.
        """
        args, kwargs = (
            fx.map_arg(part, self.values.__getitem__) for part in (node.args, node.kwargs)
        )
        with torch.no_grad():
            value = self.values[node] = node.target(*args, **kwargs)
        if operation_name(node) in SHAPE_ONLY or all(map(self.is_constant, node.all_input_nodes)):
            if isinstance(value, Tensor):
                self._keep(node, torch.zeros((), dtype=torch.long).expand(value.shape))
            return
        lowered = self._lower(node)
        if isinstance(lowered, Tensor):
            self._keep(node, lowered)
            return
        is_new = lowered.is_new if isinstance(lowered, Each) else lowered.out > 0
        self._add(lowered, int(is_new.sum()))

    def forget(self, node: fx.Node) -> None:
        """Drop what nobody reads any more: values are large."""
        self.values.pop(node, None)
        self.numbers.pop(node, None)

    def is_constant(self, node: fx.Node) -> bool:
        """Say whether no element of the node depends on an input or a weight."""
        return node not in self.numbers or not bool(self.numbers[node].any())

    def _keep(self, node: fx.Node, numbers: Tensor) -> None:
        self.nodes.append(node)
        self.numbers[node] = numbers

    def _add(self, operation: Operation, n_new: int) -> None:
        self._keep(operation.node, operation.out)
        self.operations[operation.node] = operation
        self.firsts.append(self.n_scalars + 1)
        self.n_scalars += n_new

    def _operand(self, argument: Any) -> Operand:
        if isinstance(argument, fx.Node):
            node = None if self.is_constant(argument) else argument
            return Operand(node, self.numbers[argument], self.values[argument])
        value = torch.as_tensor(argument)
        return Operand(None, torch.zeros(value.shape, dtype=torch.long), value)

    def _lower(self, node: fx.Node) -> Each | Join | Tensor:
        name, arguments = operation_name(node), named_arguments(node)
        is_square = name == "pow" and arguments.get("exponent") == 2
        is_mask = name == "where" and self.is_constant(arguments["condition"])
        if is_mask or name in UNCHANGED | MOVE:
            return self._move(node, name, arguments)
        if is_square:
            return self._each(node, "mul", [self._operand(arguments["self"])] * 2)
        if name in ELEMENTWISE:
            given = [arguments[key] for key in OPERANDS if arguments.get(key) is not None]
            operands, kind = [self._operand(argument) for argument in given], ELEMENTWISE[name]
            if name == "reciprocal":
                operands.insert(0, self._operand(1.0))
            if name == "div" and operands[1].node is None:  # the reciprocal is a constant
                kind, operands[1] = "mul", operands[1]._replace(values=1 / operands[1].values)
            return self._each(node, kind, operands)
        if name in REDUCE or name in RUNNING:
            return self._join(node, name, arguments)
        if name in CONTRACT:
            left, right = (self._operand(arguments[key]) for key in ("self", "mat2"))
            sides = (_side(left), _side(right, is_right=True))
            return Join(node, "acc", *sides).numbered(self.values[node].shape, self.n_scalars + 1)
        raise AttnlabError(
            f"The tracer does not know {node.target} (node {node.name}). Add it to ELEMENTWISE, "
            "REDUCE or MOVE in attnlab/analysis/critical_path/lowering.py, or write it in "
            "operations that are known in textbook.py beside it."
        )

    def _each(self, node: fx.Node, kind: str, operands: list[Operand]) -> Each:
        return Each.build(node, kind, operands, self.values[node].shape, self.n_scalars + 1)

    def _join(self, node: fx.Node, name: str, arguments: dict[str, Any]) -> Join:
        operand, shape = self._operand(arguments["self"]), self.values[node].shape
        kind = REDUCE.get(name) or RUNNING[name]
        ndim, dim = operand.numbers.ndim, arguments.get("dim")
        dims = range(ndim) if dim in (None, []) else [dim] if isinstance(dim, int) else dim
        dims = tuple(d % max(ndim, 1) for d in dims)

        def rows(x: Tensor) -> Tensor:
            """Bring the terms to the end: ``(1, results, terms)``."""
            kept = [d for d in range(ndim) if d not in dims]
            n_results = torch.Size([x.shape[d] for d in kept]).numel()
            return x.permute(*kept, *dims).reshape(1, n_results, -1)

        code = rows(operand.code(deciding=NEUTRAL.get(kind, ()), neutral=()))
        numbers = rows(operand.numbers)
        if name not in RUNNING:
            side = Side(operand.node, numbers, code)
            return Join(node, kind, side, ONE).numbered(shape, self.n_scalars + 1)
        n = code.shape[-1]
        code = torch.where(torch.ones(n, n).bool().tril(), code[:, :, None], DECIDES)
        numbers = numbers[:, :, None].expand(code.shape)
        side = Side(operand.node, numbers.reshape(1, -1, n), code.reshape(1, -1, n))
        join = Join(node, kind, side, ONE, is_running=True)
        return join.numbered(shape, self.n_scalars + 1, order=rows)

    def _move(self, node: fx.Node, name: str, arguments: dict[str, Any]) -> Tensor:
        """Apply the operation itself to the numbers of the elements."""
        given: dict[str, Any] = {}
        moved = self.moves[node] = []

        def move(source: fx.Node) -> Tensor:
            if not self.is_constant(source):
                moved.append(source)
            return self.numbers[source]

        for key, argument in arguments.items():
            is_overwritten = key == "self" and name in ("copy", "fill")
            if key in PLACES:
                self._require_given(node, argument)
            is_read = key in PLACES or is_overwritten
            given[key] = fx.map_arg(argument, self.values.__getitem__ if is_read else move)
        shape = self.values[node].shape
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
        target: Any = node.target
        schema = target._schema.arguments
        positional = [given[a.name] for a in schema if a.name in given and not a.kwarg_only]
        named = {a.name: given[a.name] for a in schema if a.name in given and a.kwarg_only}
        return target(*positional, **named)

    def _require_given(self, node: fx.Node, place: Any) -> None:
        """Raise if the place an element is read from was itself computed from activations."""
        for part in place if isinstance(place, (list, tuple)) else [place]:
            if (
                isinstance(part, fx.Node)
                and not self.is_constant(part)
                and not is_moved_source(part)
            ):
                raise AttnlabError(
                    f"{node.target} (node {node.name}) reads from places that the program computes "
                    f"({part.name}); its chain depends on the values. Trace the parts before and "
                    "after it."
                )


def is_moved_source(node: fx.Node) -> bool:
    """Say whether a node is an input or a weight, or one of these moved."""
    if node.op != "call_function":
        return True
    is_move = operation_name(node) in MOVE | UNCHANGED
    return is_move and all(map(is_moved_source, node.all_input_nodes))


def operation_name(node: fx.Node) -> str:
    """Return the name of an aten operation without overload, for example ``sum``."""
    schema = getattr(node.target, "_schema", None)
    return str(node.target) if schema is None else schema.name.split("::")[-1]


def named_arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a node by the names of the operation's schema."""
    schema = getattr(node.target, "_schema", None)
    named = {}
    for place, argument in enumerate(schema.arguments if schema else ()):
        if place < len(node.args):
            named[argument.name] = node.args[place]
        elif argument.name in node.kwargs:
            named[argument.name] = node.kwargs[argument.name]
        elif argument.has_default_value():
            named[argument.name] = argument.default_value
    return named


def _side(operand: Operand, *, is_right: bool = False) -> Side:
    """Return one factor of a product of matrices, the inner axis last."""
    code = operand.code(deciding=(0.0,), neutral=NEUTRAL["mul"])
    parts = (part if part.ndim == 3 else part[None] for part in (operand.numbers, code))
    return Side(operand.node, *(part.mT if is_right else part for part in parts))
