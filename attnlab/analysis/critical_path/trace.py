"""A traced program: depth, work, bounds and longest chains."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from attnlab.analysis.critical_path import naming
from attnlab.analysis.critical_path.capture import capture, input_names, split_tensors
from attnlab.analysis.critical_path.path import Path, Step, join_steps
from attnlab.analysis.critical_path.primitives import Primitive, Source
from attnlab.analysis.critical_path.reduction import require_order
from attnlab.analysis.critical_path.rules import SHAPE_ONLY, Context, lower, operation_name
from attnlab.errors import AttnlabError
from attnlab.mixers.base import Ring


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """The scalar operations of a program, and which waits for which.

    Attributes:
        primitives: What each node of the aten graph does, in the order of the program.
        source_names: Inputs and weights by node.
        output: The node that is the result.
    """

    primitives: dict[fx.Node, Primitive]
    source_names: dict[fx.Node, str]
    output: fx.Node
    _depths: dict[str, dict[fx.Node, Tensor]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Trace({len(self.primitives)} nodes of the aten graph, result {self.shape})"

    @cached_property
    def work(self) -> dict[str, int]:
        """Scalar operations by kind, the same in both orders of accumulation."""
        total: Counter[str] = Counter()
        for primitive in self.primitives.values():
            total += primitive.work()
        return dict(total.most_common())

    @property
    def n_operations(self) -> int:
        """All scalar operations."""
        return sum(self.work.values())

    @property
    def n_multiplications(self) -> int:
        """Multiplications, those by constants included."""
        return self.work.get("mul", 0)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return tuple(self.primitives[self.output].unknown.shape)

    def depths(self, *, accumulate: str = "tree") -> NDArray[np.int64]:
        """Return for each element of the result how many operations follow each other."""
        return self._all_depths(accumulate)[self.output].numpy().copy()

    def depth(self, *, accumulate: str = "tree") -> int:
        """Return the depth of the deepest element of the result."""
        return int(self.depths(accumulate=accumulate).max(initial=0))

    def bound(self, *, units: float, accumulate: str = "tree") -> float:
        r"""Return how many time steps ``units`` workers need at most.

        .. math:: \frac{\text{work}}{P} + \text{depth}

        Source:
            Brent, "The parallel evaluation of general arithmetic expressions", JACM 21 (1974).
        """
        if units <= 0:
            raise AttnlabError(f"units={units} must be positive: one worker is the least.")
        return self.n_operations / units + self.depth(accumulate=accumulate)

    def longest_path(
        self, *, accumulate: str = "tree", output: Sequence[int] | None = None
    ) -> Path:
        """Return a longest chain that ends in the result.

        Args:
            accumulate: ``tree`` or ``sequential``: how terms are added up.
            output: Index of an element of the result, or its first axes: the deepest element
                under it. None means the newest position: the last one along axis 1 of a result
                with three axes or more, and the whole result otherwise.
        """
        depths = self._all_depths(accumulate)
        index = _deepest(depths[self.output], output)
        node, steps = self.output, []
        names = naming.name_steps(self.primitives, self.source_names)
        place = int(np.ravel_multi_index(index, self.shape)) if self.shape else 0
        while (hop := self._hop(node, place, accumulate)) is not None:
            for kind, depth, n_terms in hop.did:
                steps.append(_step(node, place, kind, depth, n_terms, names, self.primitives))
            node, place = hop.node, hop.index
        start = _unravel(place, self.primitives[node].unknown.shape)
        return Path(
            steps=join_steps(steps[::-1]),
            start=(self.source_names.get(node, "a constant"), start),
            end=index,
            accumulate=accumulate,
        )

    def _hop(self, node: fx.Node, place: int, accumulate: str):
        primitive = self.primitives[node]
        if not bool(primitive.unknown.flatten()[place]):
            return None
        return primitive.hop(place, self._all_depths(accumulate), accumulate=accumulate)

    def _all_depths(self, accumulate: str) -> dict[fx.Node, Tensor]:
        require_order(accumulate)
        if accumulate not in self._depths:
            found: dict[fx.Node, Tensor] = {}
            for node, primitive in self.primitives.items():
                found[node] = primitive.depth(found, accumulate=accumulate)
            self._depths[accumulate] = found
        return self._depths[accumulate]


def trace_module(module: Callable[..., Any], *example_inputs: Tensor) -> Trace:
    """Trace any module or function on example inputs into scalar operations.

    It is run once, in evaluation mode; its first tensor is the result. Inputs and weights are
    ready at depth 0. Tensors that a function holds without being weights of a module are
    constants of the program.

    Args:
        module: For example a mixer, a block or a ``LanguageModel``.
        example_inputs: As for ``module(*example_inputs)``; small sizes tell as much as large.

    Raises:
        AttnlabError: An operation the tracer does not know; the message says where to add it.
    """
    names = input_names(module, len(example_inputs))
    return _trace(module, example_inputs, names)


def trace_step(mixer: Any, *, context: int | None = None) -> Trace:
    """Trace one newest token on a state that holds all tokens before it.

    What the state holds (keys and values, or past inputs) is ready at depth 0, so a chain may
    begin there as well as at the newest token.

    Args:
        mixer: Anything with ``initial_state`` and ``step``: a mixer, or a ``LanguageModel``.
        context: Tokens that the newest one sees, itself included; all that fit by default.
    """
    longest = int(getattr(mixer, "context_len", 0) or mixer.config.context_len)
    context = longest if context is None else context
    if not 1 <= context <= longest:
        raise AttnlabError(f"context={context} must be 1 to context_len={longest}.")
    newest = _newest_input(mixer)
    tensors, join = split_tensors(_full_state(mixer, newest, context - 1), "state")

    def step(x_t: Tensor, *state: Tensor) -> Tensor:
        with torch.enable_grad():  # which keeps a mixer from writing over its state
            return mixer.step(x_t, join(*state))[0]

    return _trace(step, (newest, *tensors.values()), ("x_t", *tensors))


def crossover_units(trace_a: Trace, trace_b: Trace, *, accumulate: str = "tree") -> float | None:
    """Return the number of workers above which the bound of ``a`` is below that of ``b``.

    1.0 if it is below already with one worker; None if it never gets there for good.
    """
    more_work = trace_a.n_operations - trace_b.n_operations
    saved = trace_b.depth(accumulate=accumulate) - trace_a.depth(accumulate=accumulate)
    if saved < 0 or (saved == 0 and more_work >= 0):
        return None
    return 1.0 if more_work <= 0 else max(1.0, more_work / saved)


def _trace(function: Callable[..., Any], inputs: Sequence[Tensor], names: Sequence[str]) -> Trace:
    graph, weights = capture(function, inputs)
    context, named = Context(), {}
    placeholders = iter(zip(inputs, names, strict=True))
    unread = {node: len(node.users) for node in graph.graph.nodes}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            context.values[node], named[node] = next(placeholders)
            context.primitives[node] = _source(context.values[node], is_known=False)
        elif node.op == "get_attr":
            value = getattr(graph, node.target)
            is_weight = isinstance(value, nn.Parameter) or id(value) in weights
            context.values[node] = value.detach()
            context.primitives[node] = _source(value, is_known=not is_weight)
            named[node] = naming.weight_name(weights.get(id(value), "")) or "a weight"
        elif node.op == "call_function":
            _add(node, context)
        else:
            output = node.args[0]
        for source in node.all_input_nodes:
            unread[source] -= 1
            if not unread[source]:
                context.values.pop(source, None)  # values are large, and only constants matter
    return Trace(context.primitives, named, output)


def _add(node: fx.Node, context: Context) -> None:
    """Compute the values of a node and find its primitive."""

    def value_of(source: fx.Node) -> Any:
        return context.values[source]

    args, kwargs = fx.map_arg(node.args, value_of), fx.map_arg(node.kwargs, value_of)
    with torch.no_grad():
        value = node.target(*args, **kwargs)
    context.values[node] = value
    sources = node.all_input_nodes
    if operation_name(node) in SHAPE_ONLY or all(context.is_constant(s) for s in sources):
        if isinstance(value, Tensor):
            context.primitives[node] = _source(value, is_known=True)
        return
    context.primitives[node] = lower(node, context)


def _source(value: Tensor, *, is_known: bool) -> Source:
    return Source(torch.tensor(not is_known).expand(value.shape))


def _step(node, place, kind, depth, n_terms, names, primitives) -> Step:
    return Step(
        kind=kind,
        depth=depth,
        name=names[node],
        operation=naming.describe_operation(node),
        node=node.name,
        element=_unravel(place, primitives[node].unknown.shape),
        n_terms=n_terms,
    )


def _unravel(place: int, shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(place, tuple(shape))) if len(shape) else ()


def _deepest(depth: Tensor, output: Sequence[int] | None) -> tuple[int, ...]:
    if output is None:
        where = (0, depth.shape[1] - 1) if depth.ndim >= 3 else ()
        if where and depth.shape[0] > 1:
            where = (int(depth[:, -1].flatten(1).amax(1).argmax()), where[1])
    else:
        where = tuple(int(i) for i in output)
    try:
        under = depth[where] if where else depth
    except IndexError as error:
        raise AttnlabError(f"output={where} lies outside a result of {tuple(depth.shape)}.") from (
            error
        )
    where = tuple(i % n for i, n in zip(where, depth.shape, strict=False))
    return (*where, *_unravel(int(under.argmax()), under.shape))


def _newest_input(mixer: Any) -> Tensor:
    if hasattr(mixer, "d_model"):
        weight = next(mixer.parameters(), torch.empty(0))
        return torch.ones(1, mixer.d_model, dtype=weight.dtype)
    return torch.zeros(1, dtype=torch.long)  # a token id


def _full_state(mixer: Any, newest: Tensor, n_seen: int) -> Any:
    """Return the state after ``n_seen`` tokens; rings are filled without computing."""
    is_ringed = "streaming" in inspect.signature(mixer.initial_state).parameters
    state = mixer.initial_state(1, **({"streaming": "ring"} if is_ringed else {}))
    rings = state if isinstance(state, tuple) else (state,)
    if all(isinstance(ring, Ring) for ring in rings):
        full = tuple(_filled(ring, n_seen) for ring in rings)
        return full if isinstance(state, tuple) else full[0]
    for _ in range(n_seen):
        state = mixer.step(newest, state)[1]
    return state


def _filled(ring: Ring, n_seen: int) -> Ring:
    *before, _, width = ring.slots.shape
    return ring.extend(ring.slots.new_zeros(*before, n_seen, width))
