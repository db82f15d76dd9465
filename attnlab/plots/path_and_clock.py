"""Pictures of programs: each operation and its level, workers and steps, path against clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from attnlab.errors import AttnlabError
from attnlab.show.style import FAMILIES, LOOKS, look, new_axes

Program = Mapping[str, tuple[str, Sequence[str]]]

SIGNS = {"mul": "×", "add": "+"}
GREY = LOOKS["table"].colour
ON_PATH = LOOKS["extractor"].colour
RULERS = {  # column: (label, marker, dash)
    "depth_ratio": ("depth", "v", FAMILIES["table"].dash),
    "work_ratio": ("work", "^", FAMILIES["convolution"].dash),
    "time_ratio": ("clock", "o", "solid"),
}


def plot_program(
    program: Program,
    *,
    levels: Mapping[str, int],
    chain: Collection[str] = (),
    named: Collection[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw every operation at its level, with lines to what it waits for.

    Inputs and weights are written beside the operations of level 1.

    Args:
        program: Kind (``mul`` or ``add``) and operands of each operation.
        levels: Depth of each operation.
        chain: Operations to draw as the longest chain.
        named: Operations whose name is written beside them.
    """
    ax = new_axes(ax, size=(7.2, 5.2))
    height = _heights(program, levels)
    for name, (kind, operands) in program.items():
        for operand in operands:
            if operand in program:
                _draw_wait(ax, operand, name, levels, height, is_on=_both(operand, name, chain))
        _draw_operation(ax, (levels[name], height[name]), kind, is_on=name in chain)
        if name in named:
            spot = levels[name], height[name] - 0.42
            ax.text(*spot, name, fontsize=9, ha="center", va="bottom")
        if levels[name] == 1:
            written = "   ".join(operands)
            ax.text(0.72, height[name], written, fontsize=8, ha="right", va="center", color=GREY)
    deepest = max(levels.values())
    ax.set(xlim=(-0.1, deepest + 0.5), xlabel="Level: operations that follow each other")
    ax.set_ylim(max(height.values()) + 0.7, min(height.values()) - 0.8)
    ax.set_xticks(range(1, deepest + 1))
    ax.yaxis.set_visible(False)
    ax.spines["left"].set_visible(False)
    return ax


def describe_program(
    program: Program, *, levels: Mapping[str, int], chain: Sequence[str] = ()
) -> str:
    """Say work and depth, and the kinds on the chain."""
    deepest = max(levels.values())
    sizes = [sum(level == k for level in levels.values()) for k in range(1, deepest + 1)]
    words = (
        f"{len(program)} operations on {deepest} levels; by level, from left to right: "
        f"{', '.join(map(str, sizes))}."
    )
    if chain:
        signs = " ".join(SIGNS.get(program[name][0], program[name][0]) for name in chain)
        words += f" Thick: one longest chain, {signs}."
    return words


def draw_sums(n_terms: int) -> Figure:
    """Draw a sum of n terms twice: one addition after the other, and as a tree."""
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
    for ax, title, program in zip(
        axes,
        ("One after the other", "In a tree"),
        (_running_total(n_terms), _tree(n_terms)),
        strict=True,
    ):
        levels = _sum_levels(program)
        chain = _deepest_chain(program, levels)
        _draw_sum(ax, program, levels, chain, n_terms=n_terms)
        ax.set_title(f"{title}: depth {max(levels.values())}", fontsize=10)
    return fig


def describe_sums(n_terms: int) -> str:
    """Say additions and depth of both orders."""
    in_a_row, tree = (max(_sum_levels(f(n_terms)).values()) for f in (_running_total, _tree))
    return (
        f"A sum of {n_terms} terms takes {n_terms - 1} additions in any order. One after the other "
        f"they form a chain of {in_a_row}; in a tree, side by side where possible, one of {tree}."
    )


def plot_busy_workers(
    busy: Mapping[str, Sequence[int]], *, units: int, last_step: int | None = None
) -> Figure:
    """Draw how many of P workers are busy at each step, one panel a program.

    Args:
        busy: Busy workers by step, by name of the program.
        units: P, the workers there are.
        last_step: Right end of the time axis; the slowest program by default.
    """
    fig, axes = plt.subplots(
        len(busy), 1, figsize=(6.4, 1.1 + 1.35 * len(busy)), sharex=True, layout="constrained"
    )
    longest = last_step or max(len(steps) for steps in busy.values())
    for ax, (name, steps) in zip(np.atleast_1d(axes), busy.items(), strict=True):
        edges = np.arange(len(steps) + 1)
        ax.stairs(steps, edges, fill=True, color=look(name).colour, alpha=0.75, lw=0)
        ax.axhline(units, color="black", lw=1, linestyle="dotted")
        ax.axvline(len(steps), color=look(name).colour, lw=1.4)
        is_late = len(steps) > 0.7 * longest
        note = f"{look(name).label}: {len(steps):,} steps"
        ax.set(ylim=(0, 1.28 * units), xlim=(0, 1.02 * longest))
        ax.text(
            len(steps) - 0.01 * longest if is_late else len(steps) + 0.01 * longest,
            1.26 * units,
            note,
            ha="right" if is_late else "left",
            va="top",
            fontsize=9,
        )
        ax.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        ax.set_ylabel("Busy workers")
    np.atleast_1d(axes)[-1].set_xlabel("Step")
    return fig


def describe_busy_workers(busy: Mapping[str, Sequence[int]], *, units: int) -> str:
    """Say how long each program takes and how much of the workers' time it uses."""
    parts = []
    for name, steps in busy.items():
        share = sum(steps) / (units * len(steps))
        parts.append(
            f"{look(name).label} {sum(steps):,} operations in {len(steps):,} steps "
            f"({share:.0%} of the workers' time used)"
        )
    lengths = {name: len(steps) for name, steps in busy.items()}
    first = min(lengths, key=lengths.__getitem__)
    is_tied = sum(n == lengths[first] for n in lengths.values()) > 1
    verdict = "They are done together." if is_tied else f"{look(first).label} is done first."
    workers = "1 worker" if units == 1 else f"{units:,} workers"
    return f"{workers}: {'; '.join(parts)}. {verdict}"


def plot_ratio_by_size(race: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the ratios of depth, work and time against the size, both axes logarithmic.

    Args:
        race: Columns ``d_model``, ``depth_ratio``, ``work_ratio``, ``time_ratio``, ``low``,
            ``high``; SHE over attention.
    """
    ax = new_axes(ax)
    sizes = race["d_model"].to_numpy()
    for column, (label, marker, dash) in RULERS.items():
        colour = "black" if column == "time_ratio" else GREY
        values = race[column].to_numpy()
        ax.plot(sizes, values, color=colour, marker=marker, linestyle=dash)
        ax.annotate(
            label,
            (sizes[-1], values[-1]),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colour,
        )
    ax.fill_between(sizes, race["low"], race["high"], color="black", alpha=0.15, lw=0)
    ax.axhline(1.0, color=LOOKS["attention"].colour, lw=1.4, zorder=1)
    ax.set(xscale="log", yscale="log", xlabel="Width and context, d = ℓ")
    ax.set_xlim(0.9 * sizes[0], 1.35 * sizes[-1])
    ax.set_ylabel("SHE over attention (log scale)")
    ax.xaxis.set_major_locator(FixedLocator(list(sizes)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    ratios = race[list(RULERS)].to_numpy()
    _set_ratio_ticks(ax.yaxis, ratios)
    ax.set_ylim(0.6 * min(1.0, ratios.min()), 1.6 * max(1.0, ratios.max()))
    return ax


def describe_ratio_by_size(race: pd.DataFrame) -> str:
    """Say the three ratios at each size and where SHE is faster."""
    parts = [
        f"d = ℓ = {row.d_model:.0f}: depth {row.depth_ratio:.2f}, work {row.work_ratio:.1f}, "
        f"time {row.time_ratio:.2f} ({row.low:.2f} to {row.high:.2f})"
        for row in race.itertuples()
    ]
    faster = [f"{row.d_model:.0f}" for row in race.itertuples() if row.high < 1]
    slower = [f"{row.d_model:.0f}" for row in race.itertuples() if row.low > 1]
    verdict = [
        f"faster at {_listed(faster)}" if faster else "faster at no size",
        f"slower at {_listed(slower)}" if slower else "slower at no size",
    ]
    return (
        f"One more token, SHE over attention. {'; '.join(parts)}. By the clock SHE is "
        f"{' and '.join(verdict)}."
    )


def plot_rulers(pairs: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw for each pair of programs the ratios of depth, work and time on one line.

    Args:
        pairs: Columns ``pair`` (words), ``depth_ratio``, ``work_ratio``, ``time_ratio``, ``low``,
            ``high``; the program with the shorter path over the other.
    """
    if pairs.empty:
        raise AttnlabError("There is no pair of programs to draw. Give at least one row.")
    ax = new_axes(ax, size=(7.2, 1.2 + 0.5 * len(pairs)))
    rows = np.arange(len(pairs))
    spread = pairs[list(RULERS)].to_numpy()
    ax.hlines(rows, spread.min(1), spread.max(1), color=GREY, lw=0.8, alpha=0.6)
    for column, (label, marker, _) in RULERS.items():
        is_clock = column == "time_ratio"
        looks = {"color": "black" if is_clock else GREY, "label": label, "zorder": 3}
        ax.plot(pairs[column], rows, marker, fillstyle="full" if is_clock else "none", **looks)
    ax.hlines(rows, pairs["low"], pairs["high"], color="black", lw=2.2, zorder=2)
    ax.axvline(1.0, color=LOOKS["attention"].colour, lw=1.4, zorder=1)
    ax.set(xscale="log", xlabel="Shorter path over longer path (log scale)")
    ax.set_yticks(rows, list(pairs["pair"]))
    ax.set_ylim(len(pairs) - 0.5, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    _set_ratio_ticks(ax.xaxis, spread)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return ax


def describe_rulers(pairs: pd.DataFrame) -> str:
    """Say for each pair whether the shorter path is the faster program."""
    parts = []
    for row in pairs.itertuples():
        faster = "faster" if row.high < 1 else "slower" if row.low > 1 else "not clearly either"
        parts.append(
            f"{row.pair}: depth {row.depth_ratio:.2g}, work {row.work_ratio:.2g}, "
            f"time {row.time_ratio:.2g}, so {faster}"
        )
    return f"The shorter path over the longer one. {'; '.join(parts)}."


def _set_ratio_ticks(axis: Axis, values: np.ndarray) -> None:
    """Put plain numbers on a logarithmic axis: 0.5, 1, 2, 5, ..., and no more than nine."""
    steps = [m * 10.0**e for e in range(-4, 6) for m in (1, 2, 5)]
    inside = [s for s in steps if 0.7 * values.min() <= s <= 1.4 * values.max()]
    if len(inside) > 9:
        inside = [s for s in inside if np.isclose(np.log10(s) % 1, 0)]
    axis.set_major_locator(FixedLocator(inside))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _both(one: str, other: str, chain: Collection[str]) -> bool:
    return one in chain and other in chain


def _heights(program: Program, levels: Mapping[str, int]) -> dict[str, float]:
    """Place each operation at the mean height of what it waits for, apart from its neighbours."""
    height: dict[str, float] = {}
    for level in range(1, max(levels.values()) + 1):
        names = [name for name in program if levels[name] == level]
        wanted = []
        for place, name in enumerate(names):
            above = [height[operand] for operand in program[name][1] if operand in height]
            wanted.append(float(np.mean(above)) if above else float(place))
        order = np.argsort(wanted, kind="stable")
        spots = np.asarray(wanted)[order]
        spread = spots.copy()
        for i in range(1, len(spread)):
            spread[i] = max(spread[i], spread[i - 1] + (1.0 if level == 1 else 1.6))
        spread += np.mean(spots - spread)
        height |= {names[i]: float(spot) for i, spot in zip(order, spread, strict=True)}
    return height


def _draw_wait(
    ax: Axes,
    operand: str,
    name: str,
    levels: Mapping[str, int],
    height: Mapping[str, float],
    *,
    is_on: bool,
) -> None:
    looks = {"color": ON_PATH, "lw": 2.6} if is_on else {"color": GREY, "lw": 0.8, "alpha": 0.7}
    xs, ys = (levels[operand], levels[name]), (height[operand], height[name])
    ax.plot(xs, ys, zorder=2 if is_on else 1, **looks)


def _draw_operation(ax: Axes, spot: tuple[float, float], kind: str, *, is_on: bool) -> None:
    looks = {"markerfacecolor": "white", "markeredgecolor": ON_PATH if is_on else GREY}
    ax.plot(*spot, "o", markersize=13, markeredgewidth=2.2 if is_on else 1.0, zorder=3, **looks)
    ax.text(*spot, SIGNS.get(kind, kind), ha="center", va="center_baseline", fontsize=10, zorder=4)


def _running_total(n_terms: int) -> dict[str, tuple[str, list[str]]]:
    """Return additions one after the other; terms are ``a1``, ``a2``, ..."""
    program, total = {}, "a1"
    for i in range(2, n_terms + 1):
        program[f"s{i}"] = ("add", [total, f"a{i}"])
        total = f"s{i}"
    return program


def _tree(n_terms: int) -> dict[str, tuple[str, list[str]]]:
    """Return additions two by two, level by level."""
    program: dict[str, tuple[str, list[str]]] = {}
    terms = [f"a{i}" for i in range(1, n_terms + 1)]
    while len(terms) > 1:
        sums = []
        for pair in zip(terms[::2], terms[1::2], strict=False):
            sums.append(f"s{len(program)}")
            program[sums[-1]] = ("add", list(pair))
        terms = sums + (terms[-1:] if len(terms) % 2 else [])
    return program


def _sum_levels(program: Program) -> dict[str, int]:
    levels: dict[str, int] = {}
    for name, (_, operands) in program.items():
        levels[name] = 1 + max(levels.get(operand, 0) for operand in operands)
    return levels


def _deepest_chain(program: Program, levels: Mapping[str, int]) -> list[str]:
    chain = [max(levels, key=levels.__getitem__)]
    while waited := [name for name in program[chain[-1]][1] if name in program]:
        chain.append(max(waited, key=levels.__getitem__))
    return chain


def _draw_sum(
    ax: Axes, program: Program, levels: dict[str, int], chain: list[str], *, n_terms: int
) -> None:
    """Draw a sum with its terms at level 0."""
    height = {f"a{i}": float(i) for i in range(1, n_terms + 1)}
    depth = dict.fromkeys(height, 0) | levels
    for name, (_, operands) in program.items():
        height[name] = float(np.mean([height[operand] for operand in operands]))
        for operand in operands:
            is_on = operand in chain or (name == chain[-1] and operand == operands[0])
            _draw_wait(ax, operand, name, depth, height, is_on=is_on and name in chain)
    for name, spot in height.items():
        if name in program:
            _draw_operation(ax, (depth[name], spot), "add", is_on=name in chain)
        else:
            ax.plot(0, spot, "s", color=GREY, markersize=5, zorder=3)
    ax.set(xlim=(-0.4, max(levels.values()) + 0.5), ylim=(n_terms + 0.7, 0.3))
    ax.set_xlabel("Level")
    ax.set_xticks(range(0, max(levels.values()) + 1))
    ax.yaxis.set_visible(False)
    ax.spines["left"].set_visible(False)
