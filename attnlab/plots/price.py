"""Pictures of what replaced attention costs: BLEU against weights and seconds, and by length."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from attnlab.plots.labels import name_points, ranged
from attnlab.show.style import LOOKS, new_axes

PRICES = {  # column: label of its axis
    "n_weights": "Weights of the translator (log scale)",
    "ms": "One sentence (ms, log scale)",
}
NOT_RECORDED = "not recorded yet"


def plot_price(table: pd.DataFrame, *, aim: float) -> Figure:
    """Draw BLEU against weights and against the time of a sentence, one point a seed.

    The blue line is the teacher's BLEU, the dotted one what should be kept of it.

    Args:
        table: Rows ``label``, ``look``, ``bleu``, ``n_weights`` and ``ms`` (nan where it was not
            measured); several rows with one label are seeds. The first label is the teacher.
        aim: Share of the teacher's BLEU.
    """
    fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.8), sharey=True, layout="constrained")
    goal = float(table.loc[table["label"] == table["label"].iloc[0], "bleu"].mean())
    for ax, (column, words) in zip(axes, PRICES.items(), strict=True):
        ax.axhline(goal, color=LOOKS["attention"].colour, lw=1.2)
        ax.axhline(aim * goal, color="black", linestyle="dotted", lw=1.2)
        ax.annotate(f"{aim:.0%} of it", (0.0, aim * goal), (3, -3), va="top", size=9,
                    xycoords=ax.get_yaxis_transform(), textcoords="offset points")  # fmt: skip
        ax.set_xlabel(words)
        if table[column].isna().all():
            ax.set_xticks([])
            ax.text(0.5, 0.5, NOT_RECORDED, transform=ax.transAxes, ha="center", va="center")
        else:
            _draw_prices(ax, table.dropna(subset=[column]), column)
    axes[0].set_ylabel("BLEU, written freely")
    axes[0].margins(y=0.1)
    for ax, column in zip(axes, PRICES, strict=True):  # once the shared axis is settled
        _name_prices(ax, table.dropna(subset=[column]), column)
    return fig


def _draw_prices(ax: Axes, table: pd.DataFrame, column: str) -> None:
    for look, part in table.groupby("look", sort=False):
        ax.plot(part[column], part["bleu"], linestyle="none", **LOOKS[str(look)].points())
    ax.set_xscale("log")
    ax.set_xlim(table[column].min() / 1.4, table[column].max() * 1.4)
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _name_prices(ax: Axes, table: pd.DataFrame, column: str) -> None:
    means = table.groupby("label", sort=False)[[column, "bleu"]].mean()
    points = {str(row.Index): (float(row[1]), float(row[2])) for row in means.itertuples()}
    looks = table.groupby("label")["look"].first()
    name_points(ax, points, colours={name: LOOKS[looks[name]].colour for name in points})


def describe_price(table: pd.DataFrame, *, aim: float) -> str:
    """Say weights, time and BLEU of each translator, the teacher first."""
    parts = []
    for label, part in table.groupby("label", sort=False):
        time = part["ms"].mean()
        said = NOT_RECORDED if pd.isna(time) else f"{time:.3g} ms"
        weights = short(float(part["n_weights"].mean()))
        parts.append(f"{label}: {weights} weights, {said}, BLEU {ranged(part['bleu'])}")
    return (
        f"Weights, time of a sentence, and BLEU. {'; '.join(parts)}. Lines: the teacher's BLEU, "
        f"and {aim:.0%} of it."
    )


def short(value: float) -> str:
    """Write a number as people say it: 1200 as 1.2k, 3.4e6 as 3.4M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:  # what three digits round up to
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


# By length


def plot_by_length(points: pd.DataFrame, *, longest_taught: int, ax: Axes | None = None) -> Axes:
    """Draw BLEU by the length of the sentence; bands are the range over seeds.

    Args:
        points: Rows ``label``, ``look``, ``fill``, ``shortest``, ``longest`` (words of the
            reference) and ``bleu``; several rows with one label and length are seeds.
        longest_taught: Words of the longest sentence in training.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax, size=(7.6, 3.8))
    lengths = sorted(set(zip(points["shortest"], points["longest"], strict=True)))
    names: dict[str, tuple[float, float]] = {}
    colours: dict[str, str] = {}
    for label, part in points.groupby("label", sort=False):
        its = LOOKS[part["look"].iloc[0]]
        how = {**its.line(), "fillstyle": part["fill"].iloc[0], "label": None}
        seeds = part.groupby("shortest")["bleu"].agg(["mean", "min", "max"])
        places = [[low for low, _ in lengths].index(low) for low in seeds.index]
        ax.plot(places, seeds["mean"], **how)
        ax.fill_between(places, seeds["min"], seeds["max"], color=its.colour, alpha=0.15, lw=0)
        end = places[-1], float(seeds["mean"].iloc[-1])
        names[str(label)], colours[str(label)] = end, its.colour
    n_taught = sum(high <= longest_taught for _, high in lengths)
    ax.axvspan(n_taught - 0.5, len(lengths) - 0.7, color="#EEEEEE", zorder=0, lw=0)
    ax.text(n_taught - 0.45, 2, "longer than any sentence in training", size=9, va="bottom")
    ax.set_xticks(range(len(lengths)), [f"{low} to {high}" if low else f"up to {high}"
                                        for low, high in lengths])  # fmt: skip
    ax.set(xlabel="Words of the sentence", ylabel="BLEU, written freely", ylim=(0, 103))
    ax.set_xlim(-0.3, len(lengths) - 0.7)
    name_points(ax, names, colours=colours)
    return ax


def describe_by_length(points: pd.DataFrame, *, longest_taught: int) -> str:
    """Say the BLEU of each translator at lengths as in training and at the longest."""
    taught = points[points["longest"] <= longest_taught]["bleu"]
    longest = points[points["shortest"] == points["shortest"].max()]
    said = [
        f"{label} {ranged(part['bleu'])}" for label, part in longest.groupby("label", sort=False)
    ]
    return (
        f"BLEU on sentences of up to {longest_taught} words, as in training: {ranged(taught)}; "
        f"then on the longest ({longest['shortest'].max():.0f} to {longest['longest'].max():.0f} "
        f"words): {'; '.join(said)}."
    )
