"""Pictures of fast Extractors: times, leaks, prices of tokens, ranks, starts, long texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from attnlab.show.style import LINE_SIZE, LOOKS, Look, look, new_axes

MARKERS = ("s", "v", "^", "X", "P", "*", "<", ">")  # variants of one family, in order
NOTHING = 1e-10  # where an exact zero is drawn on a logarithmic axis
PAST_WIDTH = 8  # positions averaged into one point
EXTRACTOR = LOOKS["she"].colour
GREY = LOOKS["table"].colour


def _looks(names: Sequence[str], labels: Sequence[str]) -> list[Look]:
    """Return looks that differ in marker and dash where several names are of one family."""
    n_seen: dict[str, int] = {}
    looks = []
    for name, label in zip(names, labels, strict=True):
        its = look(name)
        place = n_seen.get(its.family, 0)
        n_seen[its.family] = place + 1
        marker = its.marker if place == 0 else MARKERS[place % len(MARKERS)]
        dash = its.dash if place % 2 == 0 else "solid"
        looks.append(replace(its, label=label, marker=marker, dash=dash))
    return looks


def plot_times(table: pd.DataFrame, *, x_label: str, ax: Axes | None = None) -> Axes:
    """Draw median times against a length, one line a label, both axes logarithmic.

    Args:
        table: Rows ``name`` (for the look), ``label``, ``length``, ``median_ms``, ``low_ms``,
            ``high_ms``.
        x_label: What the length is, with its unit.
    """
    ax = new_axes(ax)
    ends = _ends(table)
    names = [table.loc[table["label"] == label, "name"].iloc[0] for label in ends]
    for its in _looks(names, list(ends)):
        rows = table[table["label"] == its.label].sort_values("length")
        ax.plot(rows["length"], rows["median_ms"], **its.line())
        band = {"color": its.colour, "alpha": 0.15, "lw": 0}
        ax.fill_between(rows["length"], rows["low_ms"], rows["high_ms"], **band)
    ax.set(xscale="log", yscale="log", xlabel=x_label, ylabel="Time (ms, log scale)")
    ax.xaxis.set_major_locator(FixedLocator(sorted(table["length"].unique())))
    ax.xaxis.set_minor_locator(NullLocator())
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _ends(table: pd.DataFrame) -> dict[str, float]:
    """Return the time of each label at its greatest length, the slowest first."""
    last = table.sort_values("length").groupby("label")["median_ms"].last()
    return last.sort_values(ascending=False).to_dict()


def describe_times(table: pd.DataFrame) -> str:
    """Say the times at the greatest length, and how much slower each is than the fastest."""
    longest = table["length"].max()
    rows = table[table["length"] == longest].sort_values("median_ms")
    best = rows.iloc[0]
    others = ", ".join(
        f"{row.label} {row.median_ms:.3g} ({row.median_ms / best['median_ms']:.1f} times)"
        for row in rows.iloc[1:].itertuples()
    )
    slow = sorted(set(table["label"]) - set(rows["label"]))
    left_out = f"Too slow to be timed there: {', '.join(slow)}. " if slow else ""
    return (
        f"Milliseconds at {longest:.0f} tokens (in brackets: over the fastest): {best['label']} "
        f"{best['median_ms']:.3g}; {others}. {left_out}"
        "Bands: first to third quartile of the rounds."
    )


def crossover(table: pd.DataFrame, *, slow: str, fast: Sequence[str] | None = None) -> float | None:
    """Return the first measured length at which some program beats ``slow``; None if none does.

    Args:
        table: Rows ``label``, ``length``, ``median_ms``.
        slow: Label to beat.
        fast: Labels that count; all others without it.
    """
    times = table.pivot_table(index="length", columns="label", values="median_ms")
    rivals = [label for label in times if label != slow and (fast is None or label in fast)]
    wins = times[rivals].min(axis=1) < times[slow].fillna(np.inf)  # left out: hopeless there
    return float(wins.idxmax()) if wins.any() else None


def plot_leaks(
    changes: Mapping[str, ArrayLike], *, changed_at: int, ax: Axes | None = None
) -> Axes:
    """Draw how far each output moves when a later token changes; exact zeros on the ground line.

    Args:
        changes: By method, the largest change at each position over the size of the outputs.
        changed_at: The first position of the input that was changed.
    """
    ax = new_axes(ax)
    names = ["she"] * len(changes)
    for its in _looks(names, list(changes)):
        values = np.asarray(changes[its.label], dtype=float)
        drawn = np.where(values > 0, values, NOTHING)
        ax.plot(drawn, lw=0.8, markevery=3, **{**its.line(), "markersize": 4})
    ax.axvline(changed_at - 0.5, color="black", lw=1, ls="dotted")
    ax.text(changed_at, 3e-9, " changed\n from here", va="center", fontsize=9)
    ax.set(yscale="log", xlabel="Position of the output", ylabel="Change / size of the outputs")
    ax.set_ylim(NOTHING / 2, 30)
    ticks = [NOTHING, 1e-8, 1e-6, 1e-4, 1e-2, 1.0]
    ax.set_yticks(ticks, ["exactly 0", *(f"{tick:.0e}" for tick in ticks[1:-1]), "1"])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def describe_leaks(changes: Mapping[str, ArrayLike], *, changed_at: int) -> str:
    """Say the largest change before the changed token, method by method."""
    parts = []
    for name, values in changes.items():
        worst = float(np.asarray(values, dtype=float)[:changed_at].max(initial=0.0))
        parts.append(f"{name} {'exactly 0' if worst == 0 else f'{worst:.0e}'}")
    return (
        f"All inputs from position {changed_at} on were replaced. Largest change of an earlier "
        f"output, relative to the size of the outputs: {', '.join(parts)}."
    )


def plot_token_prices(
    by_context: pd.DataFrame, by_token: Mapping[str, ArrayLike], *, unit: float = 1e6
) -> Figure:
    """Draw the mean price of a token against the context, and each token's own price.

    Args:
        by_context: Rows ``label``, ``context_len``, ``flops`` (mean per token).
        by_token: By label, operations of token 1, 2, ... of one stream.
        unit: Operations in a unit of the axes.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.4), layout="constrained")
    labels = list(by_token)
    for its in _looks(["she"] * len(labels), labels):
        rows = by_context[by_context["label"] == its.label]
        line = {**its.line(), "linestyle": "solid" if its.dash == "solid" else ":"}
        left.plot(rows["context_len"], rows["flops"] / unit, **line)
        price = np.asarray(by_token[its.label], dtype=float) / unit
        right.plot(np.arange(1, len(price) + 1), price, **{**line, "marker": "None", "lw": 1.2})
    left.set(xscale="log", yscale="log", xlabel="Context = length of the stream (tokens)")
    left.set_ylabel("Mean price of a token (MFLOP)")
    left.xaxis.set_major_locator(FixedLocator(sorted(by_context["context_len"].unique())))
    left.xaxis.set_minor_locator(NullLocator())
    for axis in (left.xaxis, left.yaxis, right.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.set(yscale="log", xlabel="Token of one stream", ylabel="Price of this token (MFLOP)")
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.legend()
    right.set_ylim(top=20 * right.get_ylim()[1])
    right.legend()
    return fig


def describe_token_prices(by_context: pd.DataFrame, by_token: Mapping[str, ArrayLike]) -> str:
    """Say how the mean price grows, and what the dearest token costs."""
    contexts = sorted(by_context["context_len"].unique())
    growth, dearest = [], []
    for label, prices in by_token.items():
        rows = by_context[by_context["label"] == label].set_index("context_len")["flops"]
        times = rows[contexts[-1]] / rows[contexts[0]]
        growth.append(f"{label} {times:.1f} times")
        values = np.asarray(prices, dtype=float)
        dearest.append(f"{label} {values.max() / values.mean():.0f} times its mean")
    return (
        f"Left: from context {contexts[0]} to {contexts[-1]} the mean price of a token grows, "
        f"{'; '.join(growth)}. Right: the dearest token of one stream costs, {'; '.join(dearest)}."
    )


def plot_rank_errors(errors: Mapping[str, ArrayLike], *, ax: Axes | None = None) -> Axes:
    """Draw the error of the best rank-R weights against R, from HE (1) to SHE (all).

    Args:
        errors: By label, relative errors for R = 1, 2, ...
    """
    ax = new_axes(ax)
    for its in _looks(["she"] * len(errors), list(errors)):
        values = np.asarray(errors[its.label], dtype=float)
        line = {**its.line(), "markevery": max(1, len(values) // 12)}
        ax.plot(np.arange(1, len(values) + 1), values, **line)
    ax.set(xlabel="Rank R", ylabel="Relative error (Frobenius norm)")
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def describe_rank_errors(errors: Mapping[str, ArrayLike], *, level: float = 0.1) -> str:
    """Say the error at rank 1 and the rank from which it stays below ``level``."""
    parts = []
    for label, values in errors.items():
        error = np.asarray(values, dtype=float)
        enough = int(np.argmax(error <= level)) + 1
        parts.append(
            f"{label}: {error[0]:.0%} at rank 1 (HE), at most {level:.0%} from rank {enough} of "
            f"{len(error)} on"
        )
    return f"How much of SHE's matrices is lost at rank R. {'; '.join(parts)}."


def plot_starts(ends: pd.DataFrame, curves: pd.DataFrame, *, floors: Mapping[str, float]) -> Figure:
    """Draw training from several starts: curves without a cure, and where every cure ends.

    Args:
        ends: Rows ``start``, ``cure``, ``seed``, ``loss_nats``, held out.
        curves: Rows ``start``, ``cure``, ``seed``, ``step``, ``loss_nats``, training.
        floors: Levels to draw across, by name.
    """
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(8.6, 3.6), layout="constrained", width_ratios=(1, 1.15)
    )
    starts, cures = list(ends["start"].unique()), list(ends["cure"].unique())
    for its in _looks(["she"] * len(starts), starts):
        rows = curves[(curves["start"] == its.label) & (curves["cure"] == cures[0])]
        mean = rows.groupby("step")["loss_nats"].mean()
        smooth = mean.rolling(8, min_periods=1).mean()
        left.plot(smooth.index, smooth, markevery=max(1, len(smooth) // 8), **its.line())
    looks = _looks(["she"] * len(cures), cures)
    for its, shift in zip(looks, np.linspace(-0.27, 0.27, len(cures)), strict=True):
        rows = ends[ends["cure"] == its.label]
        places = [starts.index(start) + shift for start in rows["start"]]
        right.plot(places, rows["loss_nats"], ls="none", **its.points(), label=its.label)
    for ax in (left, right):
        for level in floors.values():
            ax.axhline(level, color="black", ls="dotted", lw=1.4)
    for name, level in floors.items():
        left.text(1, level + 0.06, name, fontsize=9)
    left.set(xlabel="Step", ylabel="Training loss (nats per token)", ylim=(0, None))
    right.set(ylabel="Held-out loss (nats per token)")
    right.set_ylim(0, 1.35 * ends["loss_nats"].max())
    right.set_xticks(range(len(starts)), [start.replace(" of ", "\nof ") for start in starts])
    left.legend(title=f"Start; cure: {cures[0]}", title_fontsize=9)
    right.legend(title="Cure", title_fontsize=9, loc="upper left")
    return fig


def describe_starts(ends: pd.DataFrame, *, floors: Mapping[str, float]) -> str:
    """Say the held-out loss of every start and cure."""
    n_seeds = ends["seed"].nunique()
    table = ends.pivot_table(index="start", columns="cure", values="loss_nats", sort=False)
    rows = [
        f"{start}: " + ", ".join(f"{cure} {loss:.2f}" for cure, loss in losses.items())
        for start, losses in table.iterrows()
    ]
    level = ", ".join(f"{name} {loss:.2f}" for name, loss in floors.items())
    return (
        f"Held-out loss after training ({n_seeds} seed{'s' * (n_seeds > 1)}; {level}). "
        f"{'; '.join(rows)}. Left, the training loss without any cure."
    )


def plot_past_length(
    losses: Mapping[str, ArrayLike],
    *,
    trained_len: int,
    oracle_nats: ArrayLike,
    labels: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the loss by position far beyond the length of training, averaged over 8 positions.

    Args:
        losses: By name (for the look), mean loss at every position.
        trained_len: Context of training, in tokens.
        oracle_nats: Loss of the true source, which has read the whole text.
        labels: What the legend calls a name.
    """
    ax = new_axes(ax)
    names = list(losses)
    texts = [(labels or {}).get(name, look(name).label) for name in names]
    for name, its in zip(names, _looks(names, texts), strict=True):
        x, y = _binned(losses[name])
        ax.plot(x, y, **its.line())
    oracle = LOOKS["oracle"]
    ax.plot(*_binned(oracle_nats), **oracle.line())
    ax.axvline(trained_len + 0.5, color="black", lw=1)
    ax.text(trained_len + 2, 0.12, "beyond training", fontsize=9)
    ax.set(xlabel="Position (tokens read)", ylabel="Loss (nats per token)", ylim=(0, None))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.figure.set_size_inches(LINE_SIZE[0] + 1.2, LINE_SIZE[1])
    return ax


def _binned(values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    array = np.asarray(values, dtype=float)
    n_bins = max(1, len(array) // PAST_WIDTH)
    parts = np.array_split(array, n_bins)
    middles = [part.mean() for part in np.array_split(np.arange(1, len(array) + 1), n_bins)]
    return np.array(middles), np.array([part.mean() for part in parts])


def describe_past_length(
    losses: Mapping[str, ArrayLike], *, trained_len: int, labels: Mapping[str, str] | None = None
) -> str:
    """Say the mean loss in the second half of the trained length and beyond it."""
    parts = []
    for name, values in losses.items():
        array = np.asarray(values, dtype=float)
        inside, beyond = array[trained_len // 2 : trained_len].mean(), array[trained_len:].mean()
        label = (labels or {}).get(name, look(name).label)
        parts.append(f"{label} {inside:.2f} and {beyond:.2f}")
    return (
        f"Mean loss at positions {trained_len // 2 + 1} to {trained_len}, and beyond "
        f"{trained_len}, in nats per token: {'; '.join(parts)}."
    )


def plot_race(laps: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw tokens per second by mixer, the median of the rounds as a bar, each round as a dot.

    Args:
        laps: Rows ``variant``, ``round``, ``tokens_per_s``.
    """
    ax = new_axes(ax)
    medians = laps.groupby("variant")["tokens_per_s"].median().sort_values(ascending=False)
    for row, (name, speed) in enumerate(medians.items()):
        its = look(str(name))
        rounds = laps.loc[laps["variant"] == name, "tokens_per_s"]
        ax.barh(row, speed, height=0.62, color=its.colour, alpha=0.45, lw=0)
        ax.plot(rounds, [row] * len(rounds), ls="none", **its.points())
    ax.set_yticks(range(len(medians)), [look(str(name)).label for name in medians.index])
    ax.set(ylim=(len(medians) - 0.5, -0.5), xlabel="Tokens per second", xlim=(0, None))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return ax


def describe_race(laps: pd.DataFrame) -> str:
    """Say the median speed of every mixer and the range of its rounds."""
    speeds = laps.groupby("variant")["tokens_per_s"].agg(["median", "min", "max"])
    speeds = speeds.sort_values("median", ascending=False)
    parts = [
        f"{look(str(name)).label} {row['median']:,.0f} ({row['min']:,.0f} to {row['max']:,.0f})"
        for name, row in speeds.iterrows()
    ]
    rounds = laps["round"].nunique()
    return (
        f"Tokens per second, median of {rounds} round{'s' * (rounds > 1)} and range: "
        f"{'; '.join(parts)}."
    )


def plot_costs(costs: Mapping[str, float], *, level: float, ax: Axes | None = None) -> Axes:
    """Draw counted operations per token of SHE's sum by method, attention's as a line.

    Args:
        costs: By method, operations per token.
        level: Operations per token of a whole layer of attention.
    """
    ax = new_axes(ax, size=(6.4, 3.2))
    ordered = sorted(costs.items(), key=lambda item: item[1])
    for row, (_, cost) in enumerate(ordered):
        ax.barh(row, cost, height=0.62, color=EXTRACTOR, alpha=0.75, lw=0)
        ax.text(cost * 1.08, row, f"{cost:,.0f}", va="center", fontsize=9)
    ax.axvline(level, color=LOOKS["attention"].colour, lw=1.6)
    words = " a layer of attention"
    ax.text(level, -0.85, words, color=LOOKS["attention"].colour, fontsize=9)
    ax.set_yticks(range(len(ordered)), [name for name, _ in ordered])
    ax.set(xscale="log", ylim=(len(ordered) - 0.4, -1.2))
    ax.set_xlim(0.3 * min(ordered[0][1], level), 8 * max(ordered[-1][1], level))
    ax.set_xlabel("Operations per token (log scale)")
    return ax


def describe_costs(costs: Mapping[str, float], *, level: float) -> str:
    """Say the cheapest method and its count over attention's and over the lags'."""
    name = min(costs, key=costs.__getitem__)
    words = (
        f"Cheapest by count: {name}, {costs[name]:,.0f} operations per token, "
        f"{costs[name] / level:.2f} times a layer of attention"
    )
    if "lags" in costs and name != "lags":
        words += f" and {costs['lags'] / costs[name]:.1f} times fewer than lags"
    return f"{words}."
