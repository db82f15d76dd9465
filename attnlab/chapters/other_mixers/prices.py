"""What one more token costs with every mixer, from records of the clock."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from attnlab.mixers import list_mixers
from attnlab.records import load_runs
from attnlab.show import Picture, figure, look, new_axes, picture
from attnlab.show.kinds import listed

RECORDS = "speed/paper/streaming/"
RATIO, CONTEXT, BATCH = "ratio_to_attention", "config.context_len", "config.batch"
COLUMNS = ("variant", "seed", BATCH, CONTEXT, "config.repeats", "state_bytes",
           RATIO, f"{RATIO}_low", f"{RATIO}_high")  # fmt: skip


def streaming_runs(scale: str = "paper") -> pd.DataFrame:
    """Return the newest series of the part ``streaming``; empty where nothing is recorded."""
    runs = load_runs(f"speed/{scale}/streaming/", columns=COLUMNS)
    return runs[runs["seed"] == runs["seed"].max()]


@picture
def streaming_price(runs: pd.DataFrame):
    """Time of one more token over attention's, from the shortest context to the longest.

    Args:
        runs: From ``streaming_runs``: ``variant``, ``config.batch``, ``config.context_len``,
            ``ratio_to_attention`` with its ``_low`` and ``_high``, ``state_bytes``.
    """
    if not len(runs):
        ax, said = new_axes(), "The price of one more token is not recorded yet"
        ax.text(0.5, 0.5, said, ha="center", va="center", transform=ax.transAxes)
        ax.set_axis_off()
        return ax, f"{said}: attnlab bench streaming --scale paper --record does."
    others = [name for name in list_mixers() if name != "attention"]
    points = runs[runs["variant"].isin(others)]
    contexts, batches = (sorted(map(int, runs[name].unique())) for name in (CONTEXT, BATCH))
    ends = points[points[CONTEXT] == contexts[-1]]
    last = ends[ends[BATCH] == batches[-1]].set_index("variant")
    names = list(last[RATIO].sort_values(ascending=False).index)
    size = (2.4 + 2.6 * len(batches), 1.1 + 0.22 * len(names))
    axes = new_axes(size=size, columns=len(batches), sharey=True, squeeze=False)[0]
    for ax, batch in zip(axes, batches, strict=True):
        _draw_rows(ax, points[points[BATCH] == batch], names)
        ax.set_title(f"batch {batch}", fontsize=10)
    labels = [f"{look(n).label}, {_amount(last.loc[n, 'state_bytes'])}" for n in names]
    axes[0].set_yticks(range(len(names)), labels, size=8)
    axes[0].set_ylabel(f"Mixer, and its state at {contexts[-1]:,} tokens")
    return axes[0], _words(ends, names, contexts=contexts, batches=batches)


def _draw_rows(ax: Axes, points: pd.DataFrame, names: list[str]) -> None:
    for row, name in enumerate(names):
        own, its = points[points["variant"] == name].sort_values(CONTEXT), look(name)
        ends = own.iloc[[0, -1]]
        ax.plot(ends[RATIO], [row, row], color=its.colour, linestyle=its.dash, lw=1.2)
        newest = ends.iloc[-1]
        ax.hlines(row, newest[f"{RATIO}_low"], newest[f"{RATIO}_high"], color=its.colour, lw=4,
                  alpha=0.25)  # fmt: skip
        ax.plot(ends[RATIO].iloc[0], row, ls="none", **{**its.points(), "markerfacecolor": "white"})
        ax.plot(newest[RATIO], row, ls="none", **its.points())
    ax.axvline(1.0, color=look("attention").colour, lw=1.2, zorder=1)
    ax.set(xscale="log", xlabel="Time over attention's (log scale)", ylim=(-0.6, len(names) - 0.4))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _words(ends: pd.DataFrame, names: list[str], *, contexts: list[int], batches: list[int]) -> str:
    """Say how many mixers are cheaper than attention for certain, and what each costs."""
    sentences = []
    for batch in batches:
        own = ends[ends[BATCH] == batch].set_index("variant")
        cheaper = int((own[f"{RATIO}_high"] < 1).sum())
        costs = listed([f"{look(n).label} {own.loc[n, RATIO]:.2g}" for n in reversed(names)])
        sentences.append(f"Batch {batch}, {cheaper} of {len(own)} surely cheaper: {costs}.")
    n = int(ends["config.repeats"].min())
    return (
        f"One more token over attention with its cache: filled at {contexts[-1]:,} tokens of "
        f"context, hollow at {contexts[0]:,}, bars the interval of {n} rounds. "
    ) + " ".join(sentences)


def _amount(n_bytes: float) -> str:
    """Return bytes as a label writes them."""
    if n_bytes < 2**20:
        return f"{n_bytes / 2**10:.3g} KiB"
    return f"{n_bytes / 2**20:.3g} MiB"


@figure("streaming-price", records=RECORDS)
def recorded_streaming_price() -> Picture:
    """Draw the newest series that is recorded."""
    return streaming_price(streaming_runs())
