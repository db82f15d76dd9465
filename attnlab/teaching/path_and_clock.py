"""The small programs of notebook 05: shared out among workers, traced, and timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attnlab.analysis import critical_path, timing
from attnlab.mixers import TokenMixer, build_mixer
from attnlab.seeding import torch_generator
from attnlab.show.style import look

N_HEADS = 4


def busy_workers(level_sizes: Sequence[int], *, units: int) -> list[int]:
    """Return how many of P workers are busy, step by step; a level waits for the one before."""
    busy: list[int] = []
    for n in level_sizes:
        full, rest = divmod(n, units)
        busy += [units] * full + [rest] * (rest > 0)
    return busy


@lru_cache(maxsize=32)
def level_sizes(
    name: str, *, d_model: int, context_len: int, accumulate: str = "tree"
) -> tuple[int, ...]:
    """Return how many operations of a mixer's newest token can be done at each depth.

    Args:
        accumulate: ``tree`` or ``sequential``.
    """
    mixer = build_mixer(name, d_model=d_model, context_len=context_len)
    graph = critical_path.scalar_graph(critical_path.trace_step(mixer), accumulate=accumulate)
    return tuple(int(n) for n in np.bincount(graph.depths())[1:])


def sum_over_lags(x: Tensor, W: Tensor) -> Tensor:
    """Return ``e_t`` of the newest token as one product over all lags and channels.

    Shapes:
        x: ``(T, d)``, the oldest token first; W: ``(T, d, d)``; returns ``(d,)``.
    """
    return x.flip(0).flatten() @ W.flatten(0, 1)


def loop_over_lags(x: Tensor, W: Tensor) -> Tensor:
    """Return the same, one lag after the other; shapes as in ``sum_over_lags``."""
    e = x[-1] @ W[0]
    for j in range(1, len(x)):
        e = e + x[-1 - j] @ W[j]
    return e


def running_sum(x: Tensor) -> Tensor:
    """Return the sum of every prefix of ``(T, d)``, one token after the other."""
    return x.cumsum(0)


def running_sum_by_doubling(x: Tensor) -> Tensor:
    """Return the same in log2 T rounds, each adding what lies 1, 2, 4, ... tokens back.

    Source:
        Hillis and Steele, "Data parallel algorithms", CACM 29 (1986).
    """
    reach = 1
    while reach < len(x):
        x = torch.cat([x[:reach], x[reach:] + x[:-reach]])
        reach *= 2
    return x


def next_token(mixer: TokenMixer) -> Callable[[], Tensor]:
    """Return a program that reads one more token with a context that is full.

    The past is a ring that every call moves on by one token, so that each call costs the same.
    """
    generator = torch_generator(0, "clock")
    mixer.eval().requires_grad_(False)
    options = {"streaming": "ring"} if hasattr(mixer, "lag_weight") else {}
    past = torch.randn(1, mixer.context_len, mixer.d_model, generator=generator)
    _, state = mixer.prefill(past, mixer.initial_state(1, **options))
    x_t = past[:, 0]

    @torch.no_grad()
    def call() -> Tensor:
        nonlocal state
        y_t, state = mixer.step(x_t, state)
        return y_t

    return call


def page_mixer(name: str, *, size: int) -> TokenMixer:
    """Build a mixer with width and context of this size; attention has four heads."""
    options = {"n_heads": N_HEADS} if name == "attention" else {}
    return build_mixer(name, d_model=size, context_len=size, **options)


def clock(programs: Mapping[str, Callable[[], Any]], *, repeats: int) -> timing.Timings:
    """Time programs in turns, on one thread and without gradients."""
    with timing.pinned_threads(1), torch.no_grad():
        return timing.compare(programs, repeats=repeats)


def rulers(
    pair: str,
    short: critical_path.Trace,
    other: critical_path.Trace,
    *,
    time: timing.Ratio,
    accumulate: str = "tree",
) -> dict[str, Any]:
    """Return one row: depth, work and time of the shorter path over those of the other.

    Args:
        pair: What is compared, in words.
        accumulate: How sums inside one operation are added up: ``tree`` or ``sequential``.
    """
    return {
        "pair": pair,
        "depth_ratio": short.depth(accumulate=accumulate) / other.depth(accumulate=accumulate),
        "work_ratio": short.n_operations / other.n_operations,
        "time_ratio": time.median,
        "low": time.low,
        "high": time.high,
    }


def race_by_size(
    sizes: Sequence[int], *, repeats: int, name: str = "she", rival: str = "attention"
) -> pd.DataFrame:
    """Set depth, work and clock of one mixer against another's for one more token.

    Returns:
        One row a size (width and context): ``d_model``, the columns of ``rulers``, and
        ``ms`` and ``rival_ms``, the first quartile: what else runs disturbs it least.
    """
    rows = []
    for size in sizes:
        one, other = (page_mixer(each, size=size) for each in (name, rival))
        times = clock({name: next_token(one), rival: next_token(other)}, repeats=repeats)
        row = rulers(
            f"{look(name).label} / {look(rival).label.lower()}, d = ℓ = {size}",
            critical_path.trace_step(one),
            critical_path.trace_step(other),
            time=times.ratio(name, to=rival),
        )
        quick_ms = times.table().set_index("name")["low_ms"]
        row |= {"d_model": size, "ms": quick_ms[name], "rival_ms": quick_ms[rival]}
        rows.append(row)
    return pd.DataFrame(rows)


def race_programs(x: Tensor, W: Tensor, u: Tensor, *, repeats: int) -> pd.DataFrame:
    """Set depth, work and clock of two pairs of programs side by side, each pair with one result.

    Shapes:
        x: ``(T, d)``; W: ``(T, d, d)``, for the sum over lags. u: ``(n, d)``, for the prefix sums.
    Returns:
        One row a pair, the program with the shorter path first; columns as in ``rulers``.
    """
    pairs = {
        "one product / loop over lags": (sum_over_lags, loop_over_lags, (x, W), "tree"),
        "prefix sums: doubling / in a row": (
            running_sum_by_doubling,
            running_sum,
            (u,),
            "sequential",
        ),
    }
    rows = []
    for pair, (short, other, inputs, order) in pairs.items():
        times = clock(
            {"short": partial(short, *inputs), "other": partial(other, *inputs)}, repeats=repeats
        )
        traces = (critical_path.trace_module(program, *inputs) for program in (short, other))
        time = times.ratio("short", to="other")
        rows.append(rulers(pair, *traces, time=time, accumulate=order))
    return pd.DataFrame(rows)


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
