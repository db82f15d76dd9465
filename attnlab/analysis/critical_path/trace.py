"""A traced program: depth, work, bounds and longest chains."""

from __future__ import annotations

import inspect
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from attnlab.analysis.critical_path.capture import capture, input_names, map_tensors
from attnlab.analysis.critical_path.lowering import Program
from attnlab.analysis.critical_path.operations import Operation, place_of, require_order
from attnlab.analysis.critical_path.path import Path, Step, join_steps, name_steps, weight_name
from attnlab.errors import AttnlabError
from attnlab.mixers.base import Ring

MOST_OPERATIONS = 200_000


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """The scalar operations of a program, and which waits for which.

    Attributes:
        program: The nodes of the aten graph as operations on numbered scalars.
        source_names: Inputs and weights by node.
        output: Numbers of the elements of the result.
    """

    program: Program
    source_names: dict[fx.Node, str]
    output: Tensor
    _depths: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Trace({len(self.program.nodes)} nodes of the aten graph, result {self.shape})"

    @property
    def operations(self) -> list[Operation]:
        """What the program does, in its order."""
        return list(self.program.operations.values())

    @cached_property
    def work(self) -> dict[str, int]:
        """Scalar operations by kind, the same in both orders of accumulation."""
        total: Counter[str] = Counter()
        for operation in self.operations:
            total.update(operation.work())
        return {kind: n for kind, n in total.most_common() if n}

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
        return tuple(self.output.shape)

    def depths(self, *, accumulate: str = "tree") -> NDArray[np.int64]:
        """Return for each element of the result how many operations follow each other."""
        return self._all_depths(accumulate)[self.output].numpy().copy()

    def depth(self, *, accumulate: str = "tree") -> int:
        """Return the depth of the deepest element of the result."""
        return int(self.depths(accumulate=accumulate).max(initial=0))

    def levels(self, *, accumulate: str = "tree") -> NDArray[np.int64]:
        """Return how many operations can be done at each depth, from 1 on.

        Raises:
            AttnlabError: The program is not tiny: every operation is looked at by itself.
        """
        if self.n_operations > MOST_OPERATIONS:
            raise AttnlabError(
                f"The program has more than {MOST_OPERATIONS:,} scalar operations. Trace it at a "
                "tiny size, or use its depth and work, which need no look at each."
            )
        depth, done = self._all_depths(accumulate), []
        for operation in self.operations:
            done += operation.levels(depth, accumulate=accumulate)
        return np.bincount(done, minlength=1)[1:]

    def longest_path(self, *, accumulate: str = "tree") -> Path:
        """Return a longest chain that ends in the result, at its newest position.

        That is the last one along axis 1 of a result with three axes or more; of another
        result the deepest element counts.

        Args:
            accumulate: ``tree`` or ``sequential``: how terms are added up.
        """
        depth = self._all_depths(accumulate)
        ends = depth[self.output].clone()
        if ends.ndim >= 3:
            ends[:, :-1] = -1
        end = _unravel(int(ends.argmax()), ends.shape)
        names, steps = name_steps(self.program, self.source_names), []
        number, start = int(self.output[end]), ("a constant", end)
        while number:
            its = self.operations[bisect(self.program.firsts, number) - 1]
            element = _unravel(place_of(number, its.out), its.out.shape)
            start = (names[its.node], element)
            did, number = its.hop(number, depth, accumulate=accumulate)
            steps += [Step(kind, n, start[0], k, its.node.name, element) for kind, n, k in did]
        return Path(steps=join_steps(steps[::-1]), start=start, end=end)

    def _all_depths(self, accumulate: str) -> Tensor:
        """Return the depth of every scalar; that of the constants stands first."""
        require_order(accumulate)
        if accumulate not in self._depths:
            depth = torch.zeros(self.program.n_scalars + 1, dtype=torch.long)
            for operation in self.operations:
                operation.fill(depth, accumulate=accumulate)
            self._depths[accumulate] = depth
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
    return _trace(module, example_inputs, input_names(module, len(example_inputs)))


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
    newest = torch.zeros(1, dtype=torch.long)  # a token id
    if hasattr(mixer, "d_model"):
        weight = next(mixer.parameters(), torch.empty(0))
        newest = torch.ones(1, mixer.d_model, dtype=weight.dtype)
    state = _full_state(mixer, newest, context - 1)
    tensors: dict[str, Tensor] = {}
    map_tensors(state, tensors.setdefault, "state")

    def step(x_t: Tensor, *given: Tensor) -> Tensor:
        left = iter(given)
        with torch.enable_grad():  # which keeps a mixer from writing over its state
            return mixer.step(x_t, map_tensors(state, lambda *_: next(left)))[0]

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
    program, named = Program(), {}
    placeholders = iter(zip(inputs, names, strict=True))
    unread = {node: len(node.users) for node in graph.graph.nodes}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            value, named[node] = next(placeholders)
            program.add_source(node, value, is_constant=False)
        elif node.op == "get_attr":
            value = getattr(graph, node.target)
            is_weight = isinstance(value, nn.Parameter) or id(value) in weights
            named[node] = weight_name(weights.get(id(value), "")) or "a weight"
            program.add_source(node, value, is_constant=not is_weight)
        elif node.op == "call_function":
            program.add(node)
        else:
            output = program.numbers[node.args[0]]
        for source in node.all_input_nodes:
            unread[source] -= 1
            if not unread[source]:
                program.forget(source)
    return Trace(program, named, output)


def _unravel(place: int, shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(place, tuple(shape))) if len(shape) else ()


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
