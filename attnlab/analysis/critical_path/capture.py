"""From a module to its aten graph, with names for inputs and weights."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor, enable_grad, fx, nn
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import preserve_node_meta

from attnlab.analysis.critical_path.decompositions import TextbookAttention, decomposition_table
from attnlab.errors import AttnlabError


def capture(
    function: Callable[..., Any], inputs: Sequence[Tensor]
) -> tuple[fx.GraphModule, dict[int, str]]:
    """Run a function once and return its aten graph, and weight names by identity.

    A program that writes into its tensors is captured in its functional form.
    """
    modules = list(_modules_in(function))
    with _evaluation_mode(modules), enable_grad():  # without gradients, kept transforms are read
        graph = _run(function, inputs)
        if any(_writes(node) for node in graph.graph.nodes):
            graph = _run(function, inputs, wrap=dispatch_functionalize)
    graph.graph.eliminate_dead_code()
    return graph, {id(tensor): name for m in modules for name, tensor in _tensors_of(m)}


def _run(
    function: Callable[..., Any],
    inputs: Sequence[Tensor],
    *,
    wrap: Callable[..., Any] = lambda program: program,
) -> fx.GraphModule:
    def program(*tensors: Tensor) -> Any:
        with TextbookAttention():
            return _first_tensor(function(*tensors))

    copies = [tensor.detach().clone() for tensor in inputs]
    with preserve_node_meta():  # keeps which compound operation a node came from
        return make_fx(
            wrap(program),
            decomposition_table=decomposition_table(),
            _error_on_data_dependent_ops=False,  # a check of token ids is no part of the chain
        )(*copies)


def input_names(function: Callable[..., Any], n_inputs: int) -> tuple[str, ...]:
    """Return the names of the first arguments, as the function's signature has them."""
    called = function.forward if isinstance(function, nn.Module) else function
    parameters = inspect.signature(called).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names += [f"input {place}" for place in range(len(names), n_inputs)]
    return tuple(names[:n_inputs])


def split_tensors(state: Any, name: str) -> tuple[dict[str, Tensor], Callable[..., Any]]:
    """Take a nested state apart: its tensors by name, and a function that puts it together.

    Tuples, lists, mappings and dataclasses are looked into; anything else stays as it is.
    """
    if isinstance(state, Tensor):
        return {name: state}, lambda tensor: tensor
    parts = _children(state)
    split = {key: split_tensors(part, f"{name}.{key}") for key, part in parts.items()}
    tensors = {n: tensor for found, _ in split.values() for n, tensor in found.items()}

    def join(*given: Tensor) -> Any:
        left, built = list(given), {}
        for key, (found, build) in split.items():
            built[key] = build(*[left.pop(0) for _ in found])
        return _rebuilt(state, built)

    return tensors, join


def _children(state: Any) -> dict[Any, Any]:
    if isinstance(state, (tuple, list)):
        return dict(enumerate(state))
    if isinstance(state, dict):
        return dict(state)
    if is_dataclass(state) and not isinstance(state, type):
        return {field.name: getattr(state, field.name) for field in fields(state) if field.init}
    return {}


def _rebuilt(state: Any, parts: dict[Any, Any]) -> Any:
    if not parts:
        return state
    if isinstance(state, (tuple, list)):
        values = parts.values()
        return type(state)(*values) if hasattr(state, "_fields") else type(state)(values)
    return dict(parts) if isinstance(state, dict) else replace(state, **parts)


def _first_tensor(result: Any) -> Tensor:
    tensors, _ = split_tensors(result, "")
    if not tensors:
        raise AttnlabError(f"The traced function returned no tensor but {type(result).__name__}.")
    return next(iter(tensors.values()))


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _modules_in(function: Any) -> Iterator[nn.Module]:
    """Find the modules that a callable holds: itself, its arguments, what it closes over."""
    if isinstance(function, nn.Module):
        yield function
    elif isinstance(function, functools.partial):
        for part in (function.func, *function.args, *function.keywords.values()):
            yield from _modules_in(part)
    elif inspect.ismethod(function):
        yield from _modules_in(function.__self__)
    elif inspect.isfunction(function):
        held = inspect.getclosurevars(function)
        for part in (*held.nonlocals.values(), *held.globals.values()):
            if isinstance(part, (nn.Module, functools.partial)) or inspect.ismethod(part):
                yield from _modules_in(part)


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_buffers()
    yield from module.named_parameters()


@contextmanager
def _evaluation_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    before = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, was_training in before:
            part.training = was_training
