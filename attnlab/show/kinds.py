"""Kinds of picture that several chapters share: curves, ends, stairs, matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError
from attnlab.show.pictures import picture
from attnlab.show.style import (
    AMOUNT_COLOURS,
    DIFFERENCE_COLOURS,
    LOOKS,
    MATRIX_SIZE,
    look,
    new_axes,
)
from attnlab.show.words import drawable

MOST_TICKS = 24  # beyond this many rows, names would overlap
MOST_NUMBERS = 64  # up to this many cells, each carries its number
LONGEST_TICK = 18  # characters of a name beside a matrix
LEADER = {
    "arrowstyle": "-",
    "color": "#AAAAAA",
    "lw": 0.7,
    "relpos": (0, 0.5),
    "shrinkA": 0,
    "shrinkB": 3,
}


@picture
def loss_curves(
    curves: pd.DataFrame,
    *,
    oracle_nats: float | None = None,
    floors: Mapping[str, float] | None = None,
    quantity: str = "Validation loss",
    ax: Axes | None = None,
):
    """Loss against tokens seen, one line a model, its range over seeds as a band.

    Args:
        curves: Tidy rows with ``name`` (or ``mixer``), ``seed``, ``tokens_seen`` (count) and
            ``loss_nats`` (nats per token). Rows without a finite loss are left out.
        oracle_nats: Loss of the true source on the same tokens, where it is known.
        floors: Other levels to compare with, by label, in nats per token: an n-gram table.
        quantity: What was measured; the axis adds the unit.
    """
    ax, finite, levels = new_axes(ax), _finite(curves), floors or {}
    for name in final_losses(curves).index[::-1]:  # legend order = order at the right edge
        rows = finite[finite["name"] == name]
        seeds = ("pi", 100) if rows["seed"].nunique() > 1 else None
        band = {"alpha": 0.15, "lw": 0}
        sns.lineplot(rows, x="tokens_seen", y="loss_nats", errorbar=seeds, err_kws=band,
                     markevery=0.15, ax=ax, **look(name).line())  # fmt: skip
    for label, level in levels.items():
        ax.axhline(level, color=LOOKS["table"].colour, linestyle=LOOKS["table"].dash, label=label)
    if oracle_nats is not None:
        mark_oracle(ax, oracle_nats)
    if ax.get_legend_handles_labels()[0]:
        ax.legend()
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set(xlabel="Tokens seen", ylabel=f"{quantity} (nats per token)")
    said = "".join(f" {label}: {level:.3f}." for label, level in levels.items())
    return ax, f"{final_sentence(curves, oracle_nats)}{said} {seeds_sentence(curves)}"


@picture
def final_gaps(curves: pd.DataFrame, *, oracle_nats: float | None = None, ax: Axes | None = None):
    """Last loss of every seed, one row a model, best on top.

    Each small stroke is a seed, the bar is their range, the large marker their mean.

    Args:
        curves: As in ``loss_curves``; a table with one row per run works too.
        oracle_nats: Loss of the true source; what is drawn is then the gap to it.
    """
    ends, names = _final_by_seed(curves), list(final_losses(curves).index)
    ax = new_axes(ax, size=(6.4, max(1.6, 0.8 + 0.32 * len(names))))
    gap = ends.assign(gap=ends["loss_nats"] - (oracle_nats or 0.0))
    for row, name in enumerate(names):
        losses, one = gap[gap["name"] == name]["gap"], look(name)
        ax.hlines(row, losses.min(), losses.max(), color=one.colour, lw=4, alpha=0.3)
        ax.plot([losses.mean()], [row], linestyle="none", **one.points())
    colours = {name: look(name).colour for name in names}
    if names:
        sns.stripplot(gap, x="gap", y="name", hue="name", order=names, palette=colours,
                      jitter=False, marker="|", size=9, linewidth=1, ax=ax)  # fmt: skip
    ax.set_yticks(range(len(names)), [look(name).label for name in names])
    if not ax.yaxis_inverted():
        ax.invert_yaxis()
    if oracle_nats is None:
        ax.set(xlabel="Final loss (nats per token)", ylabel="")
    else:
        ax.axvline(0.0, color="black", linestyle=":", label="True source")
        ax.set(xlabel="Final loss minus true source (nats per token)", ylabel="")
    words = f"{final_sentence(curves, oracle_nats)} {seeds_sentence(curves)}"
    over_seeds = ends.groupby("name")["loss_nats"].agg(np.ptp)
    if len(ends) and over_seeds.max() > 0:
        widest = over_seeds.idxmax()
        words += f" Widest range over seeds: {look(widest).label}, {over_seeds[widest]:.3f}."
    return ax, words if len(ends) else "No finite loss to show."


@picture
def staircase(
    best_loss_nats: Mapping[int, float] | Sequence[float],
    *,
    entropy_rate_nats: float | None = None,
    points: pd.DataFrame | None = None,
    ax: Axes | None = None,
):
    """The best loss of any model that sees only the last k tokens, for each k.

    Args:
        best_loss_nats: Loss by context length; a plain sequence starts at length 0.
        entropy_rate_nats: Where the stairs lead, in nats per token.
        points: Measured models, rows with ``name`` (or ``mixer``), ``context_len`` and
            ``loss_nats``.
    """
    is_named = isinstance(best_loss_nats, Mapping)
    pairs = best_loss_nats.items() if is_named else enumerate(best_loss_nats)
    stairs = {int(k): float(loss) for k, loss in sorted(pairs)}
    if not stairs:
        raise AttnlabError("A staircase needs the loss of at least one context length; got none.")
    ax, lengths, losses = new_axes(ax), list(stairs), list(stairs.values())
    edges = [length - 0.5 for length in lengths] + [lengths[-1] + 0.5]
    line = {**LOOKS["table"].line(), "marker": "None", "linestyle": "solid"}
    line["label"] = "Best possible with k tokens"
    ax.plot(edges, [*losses, losses[-1]], drawstyle="steps-post", **line)
    words = (
        f"The best possible loss falls from {losses[0]:.3f} nats per token with {lengths[0]} "
        f"{'token' if lengths[0] == 1 else 'tokens'} of context to {losses[-1]:.3f} with "
        f"{lengths[-1]}."
    )
    if len(lengths) > 1:
        drops = {k: stairs[j] - stairs[k] for j, k in pairwise(lengths)}
        step = max(drops, key=lambda k: drops[k])
        words += f" The largest step is {drops[step]:.3f}, at k = {step}."
    if entropy_rate_nats is not None:
        mark_oracle(ax, entropy_rate_nats, label="Entropy rate")
        words += f" The entropy rate is {entropy_rate_nats:.3f}."
    for row in () if points is None else _finite(points).itertuples():
        one = {**look(row.name).line(), "linestyle": "none"}
        ax.plot([row.context_len], [row.loss_nats], **one)
        words += f" {look(row.name).label} with k = {row.context_len}: {row.loss_nats:.3f}."
    handles, labels = ax.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    ax.legend(once.values(), once.keys())
    ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    ax.set(xlabel="Context length k (tokens)", ylabel="Best loss (nats per token)")
    return ax, words


@picture
def matrix(
    values: ArrayLike,
    *,
    label: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[str] | None = None,
    y_ticks: Sequence[str] | None = None,
    is_difference: bool = False,
    has_numbers: bool = False,
    limit: float | None = None,
    ax: Axes | None = None,
):
    """A matrix as a heat map with a labelled colour bar.

    Amounts are in cividis from 0 (or the smallest value, if negative) to ``limit``;
    differences in RdBu, centred at zero, from ``-limit`` to ``limit``. A value that is
    not finite stays white. Cell (row, column) is centred at ``(column + 0.5, row + 0.5)``.

    Args:
        values: ``(rows, columns)``; row 0 on top.
        label: Quantity and unit of the entries, for the colour bar.
        x_label: What the columns are.
        y_label: What the rows are.
        x_ticks: Names of the columns, at most 24 to be shown.
        y_ticks: Names of the rows.
        is_difference: Whether the sign of an entry matters.
        has_numbers: Write the value in each cell, up to 64 of them.
        limit: Top of the colour scale; by default the largest absolute value.

    Raises:
        AttnlabError: If the array has not two axes or the names do not fit it.
    """
    entries = _as_matrix(values, x_ticks, y_ticks)
    finite = entries[np.isfinite(entries)]
    ax = new_axes(ax, size=MATRIX_SIZE)
    top = limit if limit is not None else float(np.abs(finite).max(initial=0.0)) or 1.0
    bottom = -top if is_difference else float(finite.min(initial=0.0))
    sns.heatmap(
        entries, ax=ax, vmin=bottom, vmax=top, mask=~np.isfinite(entries),
        cmap=DIFFERENCE_COLOURS if is_difference else AMOUNT_COLOURS, cbar_kws={"label": label},
        annot=has_numbers and entries.size <= MOST_NUMBERS, fmt=".2f",
        annot_kws={"fontsize": 8}, xticklabels=False, yticklabels=False, rasterized=True,
    )  # fmt: skip
    for axis, ticks in ((ax.xaxis, x_ticks), (ax.yaxis, y_ticks)):
        _name_cells(axis, ticks, n_cells=entries.shape[axis is ax.xaxis])
    ax.set(xlabel=x_label, ylabel=y_label)
    size = f"{entries.shape[0]} by {entries.shape[1]} matrix, {label.lower()}"
    if not finite.size:
        return ax, f"{size}: no finite entry."
    sized = np.where(np.isfinite(entries), np.abs(entries) if is_difference else entries, -np.inf)
    row, column = (int(i) for i in np.unravel_index(sized.argmax(), entries.shape))
    sign, what = ("+", "largest difference") if is_difference else ("", "largest")
    n_missing = entries.size - finite.size
    missing = f" {n_missing} of {entries.size} entries are missing." if n_missing else ""
    place = f"row {_tick(y_ticks, row)}, column {_tick(x_ticks, column)}"
    return ax, f"{size}: {what} {entries[row, column]:{sign}.3f} at {place}.{missing}"


def lag_profile(lag_weight: ArrayLike) -> NDArray[np.float64]:
    """Return how much weight each lag carries: the root mean square over its entries.

    Shapes:
        lag_weight: ``(context_len, ...)``, lag 0 (the newest token) first; returns
        ``(context_len,)``. One axis only is returned as it is, with its signs.
    """
    weight = np.asarray(lag_weight, dtype=float)
    if weight.ndim == 0 or weight.shape[0] == 0:
        raise AttnlabError(f"A lag kernel needs at least one lag; got shape {weight.shape}.")
    if weight.ndim == 1:
        return weight
    return np.sqrt(np.mean(weight.reshape(weight.shape[0], -1) ** 2, axis=1))


def final_losses(curves: pd.DataFrame) -> pd.Series:
    """Return each model's last loss in nats per token, averaged over seeds, best first."""
    means = _final_by_seed(curves).groupby("name")["loss_nats"].mean()
    return means.sort_values(kind="stable")


def mark_oracle(ax: Axes, level: float, *, label: str = "True source") -> None:
    """Draw the loss of the true source, or the entropy rate, across the axes."""
    ax.axhline(level, color=LOOKS["oracle"].colour, linestyle=LOOKS["oracle"].dash, label=label)


def final_sentence(curves: pd.DataFrame, oracle_nats: float | None) -> str:
    """Say where each model ended, best first: its loss, or its gap to the true source."""
    ends = final_losses(curves)
    if not len(ends):
        return "No finite loss to show."
    base, sign = (0.0, "") if oracle_nats is None else (oracle_nats, "+")
    parts = ", ".join(f"{look(name).label} {loss - base:{sign}.3f}" for name, loss in ends.items())
    if oracle_nats is None:
        return f"Final loss in nats per token: {parts}."
    floor = f" ({oracle_nats:.3f})" if oracle_nats else ""  # 0: the losses are gaps already
    return f"Final gap to the true source{floor}, in nats per token: {parts}."


def seeds_sentence(curves: pd.DataFrame) -> str:
    """Say how many seeds stand behind each model, and how many values are missing."""
    finite = _finite(curves)
    n_missing = len(curves) - len(finite)
    missing = f" {n_missing} of {len(curves)} values are missing." if n_missing else ""
    n_seeds = finite.groupby("name")["seed"].nunique()
    if not len(n_seeds):
        return missing.strip()
    if n_seeds.max() == 1:
        return f"One seed each: the order may be chance.{missing}"
    fewest, most = n_seeds.min(), n_seeds.max()
    return f"Range over {most if fewest == most else f'{fewest} to {most}'} seeds.{missing}"


def spread(heights: Sequence[float], *, gap: float) -> list[float]:
    """Move sorted heights apart to at least ``gap``, the middle of each crowd where it was."""
    crowds: list[list[float]] = [[height] for height in heights]
    while True:
        spans = [
            np.mean(crowd) + gap * (np.arange(len(crowd)) - (len(crowd) - 1) / 2)
            for crowd in crowds
        ]
        touching = [i for i, (a, b) in enumerate(pairwise(spans)) if b[0] - a[-1] < gap - 1e-9]
        if not touching:
            return [float(height) for span in spans for height in span]
        i = touching[0]
        crowds[i : i + 2] = [crowds[i] + crowds[i + 1]]


def name_points(
    ax: Axes,
    points: Mapping[str, tuple[float, float]],
    *,
    colours: Mapping[str, str],
    gap: float = 0.075,
) -> None:
    """Name points right of the axes, in order of height, each with a thin line to its point.

    Call it when the limits stand.

    Args:
        points: Where each is, in the units of the axes.
        colours: Of the names.
        gap: Least distance of two names, as a share of the height.
    """
    names = sorted(points, key=lambda name: points[name][1])
    ax.autoscale_view()
    to_axes = ax.transData - ax.transAxes
    heights = [to_axes.transform(points[name])[1] for name in names]
    for name, height in zip(names, spread(heights, gap=gap), strict=True):
        ax.annotate(name, points[name], (1.05, height), textcoords=ax.transAxes,
                    color=colours[name], va="center", size=9, arrowprops=LEADER)  # fmt: skip


def name_ends(ax: Axes, ends: Mapping[str, tuple[float, float]], *, gap: float = 0.075) -> None:
    """Name the lines of models right of the axes, in their colours; see ``name_points``.

    Args:
        ends: Where the line of each model ends.
    """
    points = {look(name).label: end for name, end in ends.items()}
    name_points(ax, points, colours={look(n).label: look(n).colour for n in ends}, gap=gap)


def listed(words: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def tick_at(axis: Axis, values: Sequence[float]) -> None:
    """Put one tick at each of these values, as a plain number, and none between."""
    axis.set_major_locator(FixedLocator([float(value) for value in values]))
    axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_minor_locator(NullLocator())


def ranged(values: pd.Series, unit: str = "", *, digits: int = 1) -> str:
    """Say the range of the values there are, the one value if they agree, a dash if none is."""
    values = values.dropna()
    if values.empty:
        return "–"
    low, high = (f"{value:.{digits}f}" for value in (values.min(), values.max()))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def _finite(table: pd.DataFrame) -> pd.DataFrame:
    named = table.rename(columns={} if "name" in table.columns else {"mixer": "name"})
    for column in ("name", "loss_nats"):
        if column not in named.columns:
            raise AttnlabError(
                f"A table of losses needs a column {column!r} (the model may stand under 'mixer'); "
                f"this one has {list(table.columns)}. Rename the column that holds it."
            )
    return named[np.isfinite(named["loss_nats"].to_numpy(dtype=float))]


def _final_by_seed(curves: pd.DataFrame) -> pd.DataFrame:
    finite = _finite(curves)
    if "tokens_seen" in finite.columns:
        finite = finite.sort_values("tokens_seen", kind="stable")
    return finite.groupby(["name", "seed"], as_index=False)["loss_nats"].last()


def _as_matrix(values: ArrayLike, x_ticks: Any, y_ticks: Any) -> NDArray[np.float64]:
    entries = np.asarray(values, dtype=float)
    if entries.ndim != 2 or 0 in entries.shape:
        raise AttnlabError(
            f"A heat map needs a (rows, columns) array; got shape {entries.shape}. "
            "Choose one head, one layer or one channel first."
        )
    for n_cells, ticks, what in zip(
        entries.shape, (y_ticks, x_ticks), ("rows", "columns"), strict=True
    ):
        if ticks is not None and len(ticks) != n_cells:
            raise AttnlabError(f"{len(ticks)} names do not fit {n_cells} {what}.")
    return entries


def _name_cells(axis: Any, ticks: Sequence[str] | None, *, n_cells: int) -> None:
    if ticks is not None and n_cells <= MOST_TICKS:
        is_long = axis.axis_name == "x" and sum(len(str(tick)) for tick in ticks) > 24
        names = [drawable(str(tick), most=LONGEST_TICK) for tick in ticks]
        axis.set_ticks(np.arange(n_cells) + 0.5, names, rotation=90 if is_long else 0)
    else:
        numbers = [int(n) for n in MaxNLocator(8, integer=True).tick_values(0, n_cells - 1)]
        shown = [n for n in numbers if 0 <= n < n_cells]
        axis.set_ticks([n + 0.5 for n in shown], shown)


def _tick(ticks: Sequence[str] | None, index: int) -> str:
    return repr(ticks[index]) if ticks is not None else str(index)
