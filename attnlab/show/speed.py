"""Pictures of the clock: ratios by length, achieved against possible, prices of a token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from attnlab.errors import AttnlabError
from attnlab.show.kinds import listed, name_ends, tick_at
from attnlab.show.pictures import picture
from attnlab.show.style import LOOKS, Look, look, new_axes

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


@picture
def ratio_by_length(points: pd.DataFrame):
    """Each mixer's time over attention's against the length, both axes logarithmic.

    Args:
        points: Records of one kind of work at one batch, from ``select_points``: ``variant``,
            ``config.time``, ``ratio_to_attention`` with its ``_low`` and ``_high``.
    """
    ax, parts = new_axes(), []
    others = points[points["variant"] != "attention"]
    curves = _curves(others, x="config.time", y="ratio_to_attention", stem="ratio_to_attention")
    for name, curve in curves.items():
        _draw_curve(ax, name, curve)
        first, last = curve["mid"].iloc[0], curve["mid"].iloc[-1]
        wins = [f"{length:.0f}" for length in curve.index[curve["high"] < 1]]
        verdict = f"faster at {listed(wins)}" if wins else "faster nowhere"
        change = f"{first:.2f} to {last:.2f}" if len(curve) > 1 else f"{first:.2f}"
        parts.append(f"{look(name).label} {change} ({verdict})")
    ax.set(xscale="log", yscale="log", xlabel="Sequence length (tokens)",
           ylabel="Time over attention's (log scale)")  # fmt: skip
    ax.axhline(1.0, color=LOOKS["attention"].colour, lw=1.6, zorder=1)
    lengths = sorted(points["config.time"].unique())
    tick_at(ax.xaxis, lengths)
    ax.yaxis.set_major_locator(LogLocator(base=2, numticks=9))
    ax.yaxis.set_major_formatter(
        FuncFormatter(lambda v, _: f"{v:g}×" if v >= 1 else f"1/{1 / v:g}")
    )
    ax.yaxis.set_minor_locator(NullLocator())
    name_ends(ax, {"attention": (lengths[-1], 1.0), **_ends(curves)}, gap=LABEL_GAP)
    if not curves:
        return ax, "No mixer was timed beside attention."
    where = listed([f"{length:.0f}" for length in lengths])
    return ax, f"Time over attention's at {where} tokens: {'; '.join(parts)}."


@picture
def roofline(points: pd.DataFrame):
    """For each program of one race, its operations per second and its time, side by side.

    The dotted line is the rate of large matrix products on the same machine. Methods called
    by name are paler than what ``auto`` takes.

    Args:
        points: Records of one point, from ``select_points``: ``variant``, ``median_ms``,
            ``gflop_per_s``, ``roofline_fraction``, ``machine_top_gemm_gflops``. Rows without
            counted operations have a time only.
    """
    table = points.sort_values("median_ms", kind="stable", ignore_index=True)
    missing = {"gflop_per_s", "roofline_fraction"} - set(table.columns)
    table = table.assign(**dict.fromkeys(missing, np.nan))
    left, right = new_axes(size=(7.2, 1.0 + 0.32 * len(table)), columns=2, sharey=True)
    _draw_rates(left, table)
    _draw_times(right, table)
    variants, stems = list(table["variant"]), {v.partition("/")[0] for v in table["variant"]}
    if len(stems) == 1 and all("/" in name for name in variants):  # then the methods say it
        names, whose = (
            [v.partition("/")[2] for v in variants],
            f"Method of {look(stems.pop()).label}",
        )
    else:
        names, whose = [look(name).label for name in variants], "Mixer"
    left.set_yticks(range(len(table)), names)
    left.set(ylabel=whose, ylim=(len(table) - 0.4, -1.1))
    for ax in (left, right):
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    return left, _roofline_words(table)


def _roofline_words(table: pd.DataFrame) -> str:
    """Say who is fastest, who is nearest to the peak, and whether that is the same program."""
    fastest, counted = table.iloc[0], table.dropna(subset=["gflop_per_s"])
    words = f"Fastest: {look(fastest['variant']).label}, {fastest['median_ms']:.3g} ms."
    if not len(counted):
        return f"{words} The operations of none are counted."
    nearest = counted.loc[counted["gflop_per_s"].idxmax()]
    words += (
        f" Nearest to the machine's peak of {counted['machine_top_gemm_gflops'].max():.0f} "
        f"GFLOP/s: {look(nearest['variant']).label} with {nearest['gflop_per_s']:.0f} "
        f"({nearest['roofline_fraction']:.0%}), {nearest['median_ms']:.3g} ms."
    )
    mine = fastest.get("work_gflop", np.nan)
    if nearest["variant"] != fastest["variant"] and np.isfinite(mine):
        words += f" It does {nearest['work_gflop'] / mine:.1f} times the operations of the fastest."
    return words


@picture
def generation_growth(points: pd.DataFrame):
    """The time of one more token against the context, one panel a batch size.

    Args:
        points: Records of part ``generation`` from ``select_points``: ``variant``,
            ``config.batch``, ``config.context_len``, ``median_ms`` with ``low_ms``, ``high_ms``.
    """
    batches, sentences = sorted(points["config.batch"].unique()), []
    size = (1.2 + 3.2 * len(batches), 3.6)
    axes = new_axes(size=size, columns=len(batches), sharey=True, squeeze=False)[0]
    ends = []
    for ax, batch in zip(axes, batches, strict=True):
        rows = points[points["config.batch"] == batch]
        curves = _curves(rows, x="config.context_len", y="median_ms", stem="")
        curves = {name: 1e3 * curve for name, curve in curves.items()}
        for name, curve in curves.items():
            _draw_curve(ax, name, curve)
        ax.set(xscale="log", yscale="log", xlabel="Context (tokens)")
        ax.set_title(f"batch {batch:.0f}", fontsize=10)
        ends.append(_ends(curves))
        contexts = sorted(rows["config.context_len"].unique())
        tick_at(ax.xaxis, contexts)
        costs = ", ".join(
            f"{look(name).label} {_amount(end)}" for name, (_, end) in ends[-1].items()
        )
        words = f"Batch {batch:.0f}, µs a token at context {contexts[-1]:.0f}: {costs}."
        if len(contexts) > 1:
            growth = ", ".join(
                f"{look(n).label} {c['mid'].iloc[-1] / c['mid'].iloc[0]:.1f}"
                for n, c in curves.items()
            )
            words += f" Growth from context {contexts[0]:.0f}, in times: {growth}."
        sentences.append(words)
    for ax, labels in zip(axes, ends, strict=True):  # once the shared axis is settled
        name_ends(ax, labels, gap=LABEL_GAP)
    axes[0].set_ylabel("Time of one more token (µs, log scale)")
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: _amount(value)))
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    lead = "Time of one more token against the context, on log scales, a panel for each batch."
    return axes[0], " ".join([lead, *sentences])


def _curves(points: pd.DataFrame, *, x: str, y: str, stem: str) -> dict[str, pd.DataFrame]:
    """Return ``mid``, ``low``, ``high`` by x for each variant, the slowest at the end first.

    Several series of the same point become the median of their medians and the hull of their
    intervals.
    """
    low, high = ("low_ms", "high_ms") if not stem else (f"{stem}_low", f"{stem}_high")
    how = {"mid": (y, "median"), "low": (low, "min"), "high": (high, "max")}
    rows = points.dropna(subset=[y])
    curves = {name: own.groupby(x).agg(**how) for name, own in rows.groupby("variant")}
    return dict(sorted(curves.items(), key=lambda item: -item[1]["mid"].iloc[-1]))


def _draw_curve(ax: Axes, name: str, curve: pd.DataFrame) -> None:
    its = _look(name)
    ax.plot(curve.index, curve["mid"], zorder=3, **its.line())
    ax.fill_between(curve.index, curve["low"], curve["high"], color=its.colour, alpha=0.18, lw=0)


def _look(name: str) -> Look:
    """Return the look of a variant; one with a method or a way to stream has its own line."""
    return replace(look(name), marker="v", dash=(0, (1, 1))) if "/" in name else look(name)


def _draw_rates(ax: Axes, table: pd.DataFrame) -> None:
    """Draw operations per second as bars, with their share of the peak, and the peak."""
    peak = float(table["machine_top_gemm_gflops"].max())
    for row, one in enumerate(table.itertuples()):
        rate = one.gflop_per_s
        if not np.isfinite(rate):
            ax.text(0.02 * peak, row, "not counted", va="center", fontsize=9, color="#6E6E6E")
            continue
        is_chosen = "/" not in one.variant or one.variant.endswith("/auto")
        alpha = 0.9 if is_chosen else 0.5
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
        its, words = _look(one.variant), f"{one.median_ms:.3g}"
        ax.hlines(row, one.low_ms, one.high_ms, color=its.colour, lw=4, alpha=0.3)
        ax.plot([one.median_ms], [row], linestyle="none", **its.points())
        end = max(one.high_ms, one.median_ms)
        ax.annotate(words, (end, row), (8, 0), textcoords="offset points", va="center", size=9)
    ax.set(xscale="log", xlabel="Time (ms, log scale)")
    ax.set_xlim(0.7 * float(table["low_ms"].min()), 1.8 * float(table["high_ms"].max()))
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(axis="x", color="#DDDDDD", lw=0.8)
    ax.set_axisbelow(True)


def _ends(curves: Mapping[str, pd.DataFrame]) -> dict[str, tuple[float, float]]:
    return {name: (curve.index[-1], curve["mid"].iloc[-1]) for name, curve in curves.items()}


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
