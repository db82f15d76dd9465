"""Pictures of speed: ratios by length, achieved against possible, the price of the next token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from attnlab.errors import AttnlabError
from attnlab.plots.labels import spread
from attnlab.show.style import LOOKS, Look, look, new_axes

GREY = LOOKS["table"].colour
LABEL_GAP = 0.055  # of the height of the axes, between two labels at the right edge


def select_points(runs: pd.DataFrame, **values: object) -> pd.DataFrame:
    """Return the records at these sizes; of records repeated in a series, the last.

    Args:
        runs: From ``records.load_runs("speed/...")``; sizes are columns ``config.time`` and so on.
        values: Sizes by name, for example ``part="mixers", work="training", batch=16``.
    Raises:
        AttnlabError: Nothing was recorded there; the message has what was.
    """
    chosen = runs
    for name, value in values.items():
        column = f"config.{name}"
        known = chosen[column] if column in chosen else pd.Series(dtype=object)
        if not (known == value).any():
            there = ", ".join(map(str, pd.unique(known.dropna()))) or "none"
            raise AttnlabError(
                f"No record has {name}={value!r}; there: {there}. Measure it with attnlab bench."
            )
        chosen = chosen[known == value]
    return chosen.drop_duplicates(["experiment", "variant", "seed"], keep="last")


def plot_ratio_by_length(points: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw each mixer's time over attention's against the length, both axes logarithmic.

    Args:
        points: Records of one kind of work at one batch, from ``select_points``: ``variant``,
            ``config.time``, ``ratio_to_attention`` with its ``_low`` and ``_high``.
    """
    ax = new_axes(ax)
    curves = _curves(points, x="config.time", y="ratio_to_attention")
    for name, curve in curves.items():
        _draw_curve(ax, name, curve)
    ax.set(xscale="log", yscale="log", xlabel="Sequence length (tokens)")
    ax.set_ylabel("Time over attention's (log scale)")
    ax.axhline(1.0, color=LOOKS["attention"].colour, lw=1.6, zorder=1)
    _set_lengths(ax.xaxis, points["config.time"])
    _set_times(ax.yaxis)
    ends = {name: float(curve["mid"].iloc[-1]) for name, curve in curves.items()}
    _label_ends(ax, {"attention": 1.0, **ends})
    return ax


def describe_ratio_by_length(points: pd.DataFrame) -> str:
    """Say each mixer's ratio at the shortest and the longest length, and where it wins."""
    curves = _curves(points, x="config.time", y="ratio_to_attention")
    if not curves:
        return "No mixer was timed beside attention."
    parts = []
    for name, curve in curves.items():
        first, last = curve["mid"].iloc[0], curve["mid"].iloc[-1]
        wins = [f"{length:.0f}" for length in curve.index[curve["high"] < 1]]
        verdict = f"faster at {_listed(wins)}" if wins else "faster nowhere"
        change = f"{first:.2f} to {last:.2f}" if len(curve) > 1 else f"{first:.2f}"
        parts.append(f"{look(name).label} {change} ({verdict})")
    lengths = sorted(points["config.time"].unique())
    return (
        f"Time over attention's at {_listed([f'{length:.0f}' for length in lengths])} tokens: "
        f"{'; '.join(parts)}."
    )


def plot_roofline(points: pd.DataFrame) -> Figure:
    """Draw, for each program of one race, its operations per second and its time, side by side.

    The dotted line is the rate of large matrix products on the same machine. Methods called
    by name are paler than what ``auto`` takes.

    Args:
        points: Records of one point, from ``select_points``: ``variant``, ``median_ms``,
            ``gflop_per_s``, ``roofline_fraction``, ``machine_top_gemm_gflops``. Rows without
            counted operations have a time only.
    """
    table = _fastest_first(points)
    rows = np.arange(len(table))
    size = (7.2, 1.0 + 0.32 * len(table))
    fig, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    _draw_rates(axes[0], table)
    _draw_times(axes[1], table)
    names, whose = _row_names([str(name) for name in table["variant"]])
    axes[0].set_yticks(rows, names)
    axes[0].set_ylabel(whose)
    axes[0].set_ylim(len(table) - 0.4, -1.1)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    return fig


def describe_roofline(points: pd.DataFrame) -> str:
    """Say who is fastest, who is nearest to the peak, and whether that is the same program."""
    table = _fastest_first(points)
    fastest = table.iloc[0]
    words = f"Fastest: {_look(fastest['variant']).label}, {fastest['median_ms']:.3g} ms."
    counted = table.dropna(subset=["gflop_per_s"])
    if not len(counted):
        return f"{words} The operations of none are counted."
    nearest = counted.loc[counted["gflop_per_s"].idxmax()]
    peak = counted["machine_top_gemm_gflops"].max()
    words += (
        f" Nearest to the machine's peak of {peak:.0f} GFLOP/s: "
        f"{_look(nearest['variant']).label} with {nearest['gflop_per_s']:.0f} "
        f"({nearest['roofline_fraction']:.0%}), {nearest['median_ms']:.3g} ms."
    )
    if nearest["variant"] != fastest["variant"] and "work_gflop" in counted:
        mine = fastest.get("work_gflop", np.nan)
        if np.isfinite(mine):
            words += (
                f" It does {nearest['work_gflop'] / mine:.1f} times the operations of the fastest."
            )
    return words


def plot_generation_growth(points: pd.DataFrame) -> Figure:
    """Draw the time of one more token against the context, one panel a batch size.

    Args:
        points: Records of part ``generation`` from ``select_points``: ``variant``,
            ``config.batch``, ``config.context_len``, ``median_ms`` with ``low_ms``, ``high_ms``.
    """
    batches = sorted(points["config.batch"].unique())
    fig, axes = plt.subplots(
        1,
        len(batches),
        figsize=(1.2 + 3.2 * len(batches), 3.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    ends = []
    for ax, batch in zip(axes[0], batches, strict=True):
        rows = points[points["config.batch"] == batch]
        curves = _token_curves(rows)
        for name, curve in curves.items():
            _draw_curve(ax, name, curve)
        ax.set(xscale="log", yscale="log", xlabel="Context (tokens)")
        ax.set_title(f"batch {batch:.0f}", fontsize=10)
        _set_lengths(ax.xaxis, rows["config.context_len"])
        ends.append({name: float(curve["mid"].iloc[-1]) for name, curve in curves.items()})
    for ax, labels in zip(axes[0], ends, strict=True):  # once the shared axis is settled
        _label_ends(ax, labels)
    axes[0, 0].set_ylabel("Time of one more token (µs, log scale)")
    axes[0, 0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: _amount(value)))
    axes[0, 0].yaxis.set_minor_formatter(NullFormatter())
    return fig


def describe_generation_growth(points: pd.DataFrame) -> str:
    """Say by how much a token's price grows with the context, and who is cheapest at its end."""
    sentences = []
    for batch, rows in points.groupby("config.batch"):
        curves = _token_curves(rows)
        contexts = sorted(rows["config.context_len"].unique())
        costs = [f"{look(n).label} {_amount(c['mid'].iloc[-1])}" for n, c in curves.items()]
        words = f"Batch {batch:.0f}, µs a token at context {contexts[-1]:.0f}: {', '.join(costs)}."
        if len(contexts) > 1:
            growth = [
                f"{look(n).label} {c['mid'].iloc[-1] / c['mid'].iloc[0]:.1f}"
                for n, c in curves.items()
            ]
            words += f" Growth from context {contexts[0]:.0f}, in times: {', '.join(growth)}."
        sentences.append(words)
    return " ".join(sentences) or "No token was timed."


def _token_curves(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    curves = _curves(rows, x="config.context_len", y="median_ms", keep="attention")
    return {name: 1e3 * curve for name, curve in curves.items()}


def _curves(
    points: pd.DataFrame, *, x: str, y: str, keep: str | None = None
) -> dict[str, pd.DataFrame]:
    """Return ``mid``, ``low``, ``high`` by x for each variant, the slowest at the end first.

    Several series of the same point become the median of their medians and the hull of their
    intervals. Attention is left out unless kept: it is what the others are held against.
    """
    stem = "" if y == "median_ms" else f"{y}_"
    low, high = ("low_ms", "high_ms") if not stem else (f"{y}_low", f"{y}_high")
    curves = {}
    for name, rows in points.dropna(subset=[y]).groupby("variant"):
        if name == "attention" and keep is None:
            continue
        by = rows.groupby(x)
        curve = pd.DataFrame({"mid": by[y].median(), "low": by[low].min(), "high": by[high].max()})
        curves[str(name)] = curve
    order = sorted(curves, key=lambda name: -curves[name]["mid"].iloc[-1])
    return {name: curves[name] for name in order}


def _draw_curve(ax: Axes, name: str, curve: pd.DataFrame) -> None:
    its = _look(name)
    ax.plot(curve.index, curve["mid"], zorder=3, **its.line())
    ax.fill_between(curve.index, curve["low"], curve["high"], color=its.colour, alpha=0.18, lw=0)


def _look(name: str) -> Look:
    """Return the look of a variant; one with a method or a way to stream has a hollow marker."""
    its = look(name)
    return replace(its, fill="none") if "/" in name else its


def _is_chosen(name: str) -> bool:
    return "/" not in name or name.endswith("/auto")


def _fastest_first(points: pd.DataFrame) -> pd.DataFrame:
    table = points.sort_values("median_ms", kind="stable", ignore_index=True)
    for column in ("gflop_per_s", "roofline_fraction"):
        if column not in table:
            table[column] = np.nan
    return table


def _draw_rates(ax: Axes, table: pd.DataFrame) -> None:
    """Draw operations per second as bars, with their share of the peak, and the peak."""
    peak = float(table["machine_top_gemm_gflops"].max())
    for row, one in enumerate(table.itertuples()):
        rate = one.gflop_per_s
        if not np.isfinite(rate):
            ax.text(0.02 * peak, row, "not counted", va="center", fontsize=9, color=GREY)
            continue
        alpha = 0.9 if _is_chosen(one.variant) else 0.5
        ax.barh(row, rate, height=0.66, color=look(one.variant).colour, alpha=alpha, lw=0)
        gap, side = (-0.02, "right") if rate > 0.25 * peak else (0.02, "left")
        share = f"{one.roofline_fraction:.0%}"
        ax.text(rate + gap * peak, row, share, ha=side, va="center", fontsize=9)
    ax.axvline(peak, color="black", linestyle=":", lw=1.4)
    ax.text(0.98 * peak, -0.75, f"peak {peak:.0f}", ha="right", va="center", fontsize=9)
    ax.set_xlim(0, 1.08 * max(peak, table["gflop_per_s"].fillna(0.0).max()))
    ax.set_xlabel("Operations done (GFLOP/s)")


def _draw_times(ax: Axes, table: pd.DataFrame) -> None:
    """Draw times as points with their quartiles: on a log axis a bar would have no foot."""
    for row, one in enumerate(table.itertuples()):
        its = _look(one.variant)
        ax.hlines(row, one.low_ms, one.high_ms, color=its.colour, lw=4, alpha=0.3)
        ax.plot([one.median_ms], [row], linestyle="none", **its.points())
        end = max(one.high_ms, one.median_ms)
        words = f"{one.median_ms:.3g}"
        ax.annotate(words, (end, row), (8, 0), textcoords="offset points", va="center", size=9)
    ax.set_xscale("log")
    ax.set_xlim(0.7 * float(table["low_ms"].min()), 1.8 * float(table["high_ms"].max()))
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(axis="x", color="#DDDDDD", lw=0.8)
    ax.set_axisbelow(True)
    ax.set_xlabel("Time (ms, log scale)")


def _row_names(variants: list[str]) -> tuple[list[str], str]:
    """Return what stands beside the rows, and the axis label: methods alone where all share one."""
    stems = {name.partition("/")[0] for name in variants}
    if len(stems) == 1 and all("/" in name for name in variants):
        return [name.partition("/")[2] for name in variants], f"Method of {look(stems.pop()).label}"
    return [look(name).label for name in variants], "Mixer"


def _set_lengths(axis: Axis, lengths: pd.Series) -> None:
    """Put one tick at every measured length and none between."""
    ticks = sorted(float(length) for length in lengths.unique())
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _set_times(axis: Axis) -> None:
    """Put ticks at powers of two and say them as factors."""
    axis.set_major_locator(LogLocator(base=2, numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _factor(value)))
    axis.set_minor_locator(NullLocator())


def _factor(value: float) -> str:
    return f"{value:g}×" if value >= 1 else f"1/{1 / value:g}"


def _label_ends(ax: Axes, ends: Mapping[str, float]) -> None:
    """Name each line at its right end, moved apart where two would touch."""
    names = sorted(ends, key=lambda name: ends[name])
    low, high = np.log(ax.get_ylim())
    heights = [(float(np.log(ends[name])) - low) / (high - low) for name in names]
    for name, height in zip(names, spread(heights, gap=LABEL_GAP), strict=True):
        its = look(name)
        ax.text(
            1.02, height, its.label, color=its.colour, transform=ax.transAxes, va="center", size=9
        )


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
