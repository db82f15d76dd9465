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

from attnlab.analysis.critical_path.textbook import TextbookAttention, decomposition_table
from attnlab.errors import AttnlabError


def capture(
    function: Callable[..., Any], inputs: Sequence[Tensor]
) -> tuple[fx.GraphModule, dict[int, str]]:
    """Run a function once and return its aten graph, and weight names by identity.

    A program that writes into its tensors is captured in its functional form.
    """
    modules = list(_modules_in(function))

    def program(*tensors: Tensor) -> Tensor:
        with TextbookAttention():
            result, found = function(*tensors), []
            map_tensors(result, lambda _, tensor: found.append(tensor) or tensor)
        if not found:
            kind = type(result).__name__
            raise AttnlabError(f"The traced function returned no tensor but {kind}.")
        return found[0]

    def run(wrapped: Callable[..., Any]) -> fx.GraphModule:
        with preserve_node_meta():  # keeps which compound operation a node came from
            return make_fx(
                wrapped,
                decomposition_table=decomposition_table(),
                _error_on_data_dependent_ops=False,  # a check of token ids is no part of the chain
            )(*[tensor.detach().clone() for tensor in inputs])

    with _evaluation_mode(modules), enable_grad():  # without gradients, kept transforms are read
        graph = run(program)
        schemas = [getattr(node.target, "_schema", None) for node in graph.graph.nodes]
        if any(schema is not None and schema.is_mutable for schema in schemas):
            graph = run(dispatch_functionalize(program))
    graph.graph.eliminate_dead_code()
    named = [pair for m in modules for pair in (*m.named_buffers(), *m.named_parameters())]
    return graph, {id(tensor): name for name, tensor in named}


def input_names(function: Callable[..., Any], n_inputs: int) -> tuple[str, ...]:
    """Return the names of the first arguments, as the function's signature has them."""
    called = function.forward if isinstance(function, nn.Module) else function
    parameters = inspect.signature(called).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names += [f"input {place}" for place in range(len(names), n_inputs)]
    return tuple(names[:n_inputs])


def map_tensors(state: Any, change: Callable[[str, Tensor], Any], name: str = "") -> Any:
    """Return a nested state with each tensor changed, given its name such as ``state.0.slots``.

    Tuples, lists, mappings and dataclasses are looked into; anything else stays as it is.
    """
    if isinstance(state, Tensor):
        return change(name, state)
    if isinstance(state, (tuple, list)):
        values = [map_tensors(part, change, f"{name}.{i}") for i, part in enumerate(state)]
        return type(state)(*values) if hasattr(state, "_fields") else type(state)(values)
    if isinstance(state, dict):
        return {key: map_tensors(part, change, f"{name}.{key}") for key, part in state.items()}
    if is_dataclass(state) and not isinstance(state, type):
        names = [field.name for field in fields(state) if field.init]
        parts = {n: map_tensors(getattr(state, n), change, f"{name}.{n}") for n in names}
        return replace(state, **parts)
    return state


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
