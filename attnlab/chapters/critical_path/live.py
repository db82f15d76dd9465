"""The small programs of notebook 05: taken apart into levels, traced, and timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attnlab.analysis import critical_path, timing
from attnlab.mixers import build_mixer

Program = Mapping[str, tuple[str, Sequence[str]]]  # result: (kind, what it waits for)


def levels(program: Program) -> dict[str, int]:
    """Return for each operation how many must follow each other up to and including it."""
    ready: dict[str, int] = {}

    def visit(name: str) -> int:
        if name in program and name not in ready:
            ready[name] = 1 + max(visit(operand) for operand in program[name][1])
        return ready.get(name, 0)

    return {name: visit(name) for name in program}


def longest_chain(program: Program) -> list[str]:
    """Return the operations of a longest chain, the first to be done first.

    Where several operands are equally late, the chain goes through the one named first.
    """
    ready = levels(program)
    chain = [max(ready, key=ready.__getitem__)]
    while waited := [name for name in program[chain[-1]][1] if name in program]:
        chain.append(max(waited, key=ready.__getitem__))
    return chain[::-1]


@lru_cache(maxsize=32)
def level_sizes(
    name: str, *, d_model: int, context_len: int, accumulate: str = "tree"
) -> tuple[int, ...]:
    """Return how many operations of a mixer's newest token can be done at each depth.

    Args:
        accumulate: ``tree`` or ``sequential``.
    """
    mixer = build_mixer(name, d_model=d_model, context_len=context_len)
    return tuple(critical_path.trace_step(mixer).levels(accumulate=accumulate).tolist())


def busy_workers(sizes: Sequence[int], *, units: int) -> list[int]:
    """Return how many of P workers are busy, step by step; a level waits for the one before."""
    busy: list[int] = []
    for n in sizes:
        full, rest = divmod(n, units)
        busy += [units] * full + [rest] * (rest > 0)
    return busy


def race(
    pair: str,
    programs: Mapping[str, Callable[[], Any]],
    traces: Sequence[critical_path.Trace],
    *,
    repeats: int,
    accumulate: str = "tree",
) -> dict[str, Any]:
    """Return one row: depth, work and time of the shorter path over those of the other.

    Timed in turns, on one thread and without gradients. Where one time is meant, ``ms`` and
    ``rival_ms``, it is the first quartile: what else runs disturbs it least.

    Args:
        pair: What is compared, in words.
        programs: The one with the shorter path, then the other one.
        traces: Of the two, in the same order.
        accumulate: How sums inside one operation are added up: ``tree`` or ``sequential``.
    """
    with timing.pinned_threads(1), torch.no_grad():
        times = timing.compare(programs, repeats=repeats)
    (name, rival), (one, other) = programs, traces
    ratio, quick_ms = times.ratio(name, to=rival), times.table().set_index("name")["low_ms"]
    return {
        "pair": pair,
        "depth_ratio": one.depth(accumulate=accumulate) / other.depth(accumulate=accumulate),
        "work_ratio": one.n_operations / other.n_operations,
        "time_ratio": ratio.median,
        "low": ratio.low,
        "high": ratio.high,
        "ms": quick_ms[name],
        "rival_ms": quick_ms[rival],
    }


def count_calls(program: Callable[[], Any]) -> int:
    """Return how many tensor operations a program hands to the library, moves included."""
    with _Counter() as counter:
        program()
    return counter.n_calls


class _Counter(TorchDispatchMode):
    """Counts what is dispatched while it is active."""

    n_calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n_calls += 1
        return func(*args, **(kwargs or {}))
