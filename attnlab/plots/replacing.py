"""Pictures of replaced attention: a board of places, and two numbers for each stand-in."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from attnlab.plots.labels import ranged
from attnlab.plots.matrices import plot_matrix
from attnlab.show.style import LOOKS, new_axes

SITES = {
    "encoder_self": "Encoder self",
    "decoder_self": "Decoder self",
    "cross": "Cross",
}
ATTENTION = "attention"
CONTROLS = ("zero", "mean", "uniform", "gaussian", "random")
NUMBER_AT = 104  # right of the line of the teacher
ROW_IN = 0.27  # inches of a row of scores
TILE = {  # what stands there -> family of looks
    "attention": "attention",
    "control": "table",
    "net": "feedforward",
}


def kind_of(name: str) -> str:
    """Return whether a stand-in is ``attention``, a ``control`` or a ``net``."""
    return "attention" if name == ATTENTION else "control" if name in CONTROLS else "net"


# The board


def plot_board(
    swaps: Mapping[tuple[str, int], str],
    *,
    n_layers: Mapping[str, int],
    now: Mapping[str, float],
    teacher: Mapping[str, float],
) -> Figure:
    """Draw what stands at each site of each layer, and what the translator is worth with it.

    Args:
        swaps: Names of what stands in for attention, by site and layer.
        n_layers: Layers of each site.
        now: ``bleu`` out of 100, ``accuracy`` and ``exact_match`` as shares, ``loss_nats``.
        teacher: The same, with attention everywhere.
    """
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(7.6, 2.6), layout="constrained", width_ratios=(1, 1.15)
    )
    _draw_tiles(left, swaps, n_layers)
    _draw_worth(right, now, teacher)
    return fig


def describe_board(
    swaps: Mapping[tuple[str, int], str],
    *,
    now: Mapping[str, float],
    teacher: Mapping[str, float],
) -> str:
    """Say what stands where, and both kinds of numbers beside the teacher's."""
    places = [
        f"{SITES[site].lower()}, layer {layer + 1}: {name}"
        for (site, layer), name in sorted(swaps.items(), key=lambda item: _place_order(item[0]))
    ]
    what = "; ".join(places) if places else "attention everywhere"
    return (
        f"In place: {what}. BLEU {now['bleu']:.1f} (teacher {teacher['bleu']:.1f}); "
        f"right past given: loss {now['loss_nats']:.3f} nats per token "
        f"({teacher['loss_nats']:.3f}), {now['accuracy']:.1%} of the next tokens right "
        f"({teacher['accuracy']:.1%}); {now['exact_match']:.0%} of the sentences right "
        f"({teacher['exact_match']:.0%})."
    )


def _place_order(place: tuple[str, int]) -> tuple[int, int]:
    return list(SITES).index(place[0]), place[1]


def _draw_tiles(
    ax: Axes, swaps: Mapping[tuple[str, int], str], n_layers: Mapping[str, int]
) -> None:
    most = max(n_layers.values())
    for row, site in enumerate(SITES):
        for layer in range(n_layers[site]):
            name = swaps.get((site, layer), ATTENTION)
            kind = kind_of(name)
            look = LOOKS[TILE[kind]]
            corner = (layer + 0.04, row + 0.06)
            is_own = kind == "attention"
            ax.add_patch(Rectangle(
                corner, 0.92, 0.88, facecolor="white" if is_own else look.colour,
                edgecolor=look.colour, lw=1.5, ls="solid" if is_own else "dashed",
            ))  # fmt: skip
            ax.text(layer + 0.5, row + 0.5, textwrap.fill(name, 12), ha="center", va="center",
                    fontsize=9, color=look.colour if is_own else "white")  # fmt: skip
    ax.set(xlim=(0, most), ylim=(len(SITES), 0))
    ax.set_xticks(np.arange(most) + 0.5, [f"Layer {i + 1}" for i in range(most)])
    ax.set_yticks(np.arange(len(SITES)) + 0.5, list(SITES.values()))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _draw_worth(ax: Axes, now: Mapping[str, float], teacher: Mapping[str, float]) -> None:
    names = {"bleu": "BLEU", "exact_match": "Sentences right", "accuracy": "Next token right\n"
             "(right past given)"}  # fmt: skip
    scale = {"bleu": 1.0, "exact_match": 100.0, "accuracy": 100.0}
    values = [scale[name] * now[name] for name in names]
    colours = [LOOKS["feedforward"].colour] * 2 + ["white"]
    ax.barh(range(3), values, color=colours, edgecolor="black", lw=0.6, height=0.6)
    for row, name in enumerate(names):
        goal = scale[name] * teacher[name]
        ax.text(NUMBER_AT, row, f"{values[row]:.1f}", va="center")
        ax.plot([goal, goal], [row - 0.42, row + 0.42], color=LOOKS["attention"].colour, lw=2.2,
                label="With attention everywhere" if row == 0 else None)  # fmt: skip
    ax.set_yticks(range(3), list(names.values()))
    ax.set(xlim=(0, 125), ylim=(2.6, -1.0))
    ax.set_xticks(range(0, 101, 25))
    ax.set_xlabel(
        f"Out of 100. Loss, right past given: {now['loss_nats']:.3f}\n"
        f"nats per token (with attention {teacher['loss_nats']:.3f})"
    )
    ax.legend(loc="upper left", borderpad=0.1)


# Two numbers for each stand-in


def plot_scores(
    table: pd.DataFrame, *, teacher_bleu: float | None = None, ax: Axes | None = None
) -> Axes:
    """Draw for each stand-in how it predicts and how it writes, joined by a line.

    Args:
        table: Rows ``label``, ``accuracy`` (0 to 1), ``bleu`` (0 to 100); several rows with one
            label are seeds.
        teacher_bleu: With attention everywhere.
        ax: Axes to draw on; a new figure without it.
    """
    labels = list(dict.fromkeys(table["label"]))
    ax = new_axes(ax, size=(6.4, 1.1 + ROW_IN * len(labels)))
    for row, label in enumerate(labels):
        part = table[table["label"] == label]
        ends = [part["bleu"].mean(), 100 * part["accuracy"].mean()]
        ax.plot(ends, [row, row], color="#BBBBBB", lw=1.2, zorder=1)
    rows = table["label"].map(labels.index)
    ax.plot(100 * table["accuracy"], rows, color=LOOKS["table"].colour, marker="o", ls="none",
            fillstyle="none", label="Next token right, right past given (%)")  # fmt: skip
    ax.plot(table["bleu"], rows, color=LOOKS["feedforward"].colour, marker="^", ls="none",
            label="BLEU, written freely")  # fmt: skip
    if teacher_bleu is not None:
        look = LOOKS["attention"]
        ax.axvline(teacher_bleu, color=look.colour, lw=1.2, label="BLEU of the teacher")
    ax.set_yticks(range(len(labels)), labels)
    ax.set(xlim=(-3, 103), ylim=(len(labels) - 0.5, -0.5), xlabel="Out of 100")
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    return ax


def describe_scores(table: pd.DataFrame, *, teacher_bleu: float | None = None) -> str:
    """Say both numbers of each stand-in, as ranges where there are several seeds."""
    parts = []
    for label, part in table.groupby("label", sort=False):
        accuracy = ranged(100 * part["accuracy"], "%")
        parts.append(f"{label}: {accuracy} of the next tokens, BLEU {ranged(part['bleu'])}")
    goal = "" if teacher_bleu is None else f" The teacher's BLEU is {teacher_bleu:.1f}."
    return "; ".join(parts) + "." + goal


def plot_control_panels(table: pd.DataFrame, *, teacher_bleu: float) -> Figure:
    """Draw the BLEU that each stand-in keeps, one panel a site.

    Args:
        table: Rows ``site``, ``label``, ``bleu``.
        teacher_bleu: With attention everywhere.
    """
    labels = list(dict.fromkeys(table["label"]))
    fig, axes = plt.subplots(1, 3, figsize=(7.6, 2.8), sharey=True, layout="constrained")
    for ax, site in zip(axes, SITES, strict=True):
        part = table[table["site"] == site].set_index("label")["bleu"]
        values = [part.get(label, np.nan) for label in labels]
        colours = [LOOKS[TILE[kind_of(label)]].colour for label in labels]
        bars = ax.barh(range(len(labels)), values, color=colours, height=0.62)
        for row, value in enumerate(values):
            said = "" if np.isnan(value) else f"{value:.1f}"
            ax.text(NUMBER_AT, row, said, va="center", fontsize=9)
        for bar, label in zip(bars, labels, strict=True):
            bar.set_hatch("" if kind_of(label) == "net" else "///")
            bar.set_edgecolor("white")
        ax.axvline(teacher_bleu, color=LOOKS["attention"].colour, lw=1.4)
        ax.set(xlabel=f"{SITES[site]}: BLEU", xlim=(0, 135))
        ax.set_xticks([0, 50, 100])
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].invert_yaxis()
    return fig


def describe_control_panels(table: pd.DataFrame, *, teacher_bleu: float) -> str:
    """Say for each site what the best control and the net keep."""
    parts = []
    for site, name in SITES.items():
        part = table[table["site"] == site].set_index("label")["bleu"]
        controls = part[[kind_of(label) == "control" for label in part.index]]
        nets = part[[kind_of(label) == "net" for label in part.index]]
        said = ", ".join(f"{label} {value:.1f}" for label, value in nets.items())
        parts.append(f"{name}: best control {controls.idxmax()} {controls.max():.1f}, {said}")
    return f"BLEU; the blue line is the teacher, {teacher_bleu:.1f}. " + "; ".join(parts) + "."


# Who moves whom


def plot_influence(
    matrix: ArrayLike, *, words: Sequence[str], limit: float | None = None, ax: Axes | None = None
) -> Axes:
    """Draw how much each output moves when one target position is edited.

    Args:
        matrix: ``(time, time)``; row is output, column is edited position.
        words: What the decoder has read at each position, ``<bos>`` first.
        limit: Top of the colour scale.
        ax: Axes to draw on; a new figure without it.
    """
    m = np.asarray(matrix)
    ax = plot_matrix(m, label="Change of the output (1 = its length)", x_label="Edited position",
                     y_label="Output at", x_ticks=words, y_ticks=words, limit=limit,
                     ax=new_axes(ax, size=(4.4, 3.5)))  # fmt: skip
    ax.tick_params(axis="x", rotation=90)
    edge = np.repeat(np.arange(len(m)) + 0.5, 2), np.repeat(np.arange(len(m) + 1) - 0.5, 2)[1:-1]
    ax.plot(*edge, color="white", lw=1.6)  # right of it lies the future
    return ax


def describe_influence(matrix: ArrayLike) -> str:
    """Say how many pairs lie in the future, how many of them move, and by how much at most."""
    m = np.asarray(matrix)
    future = m[np.triu_indices(len(m), 1)]
    n_moved = int((future > 1e-9).sum())
    most = float(future.max()) if future.size else 0.0
    return (
        f"Of {len(future)} pairs in which the edited position is later than the output, "
        f"{n_moved} move; the largest such change is {most:.3f} of an output's length."
    )
