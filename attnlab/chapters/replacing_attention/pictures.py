"""What chapter 09 shows: swaps, what they cost, and who moves whom."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from attnlab.show import (
    LOOKS,
    matrix,
    new_axes,
    picture,
    ranged,
)
from attnlab.show.style import NO_FAMILY
from attnlab.studies.arms import CONTROL_NAMES

SITES = {"encoder_self": "Encoder self", "decoder_self": "Decoder self", "cross": "Cross"}
BLUE, GREEN, GREY = (LOOKS[name].colour for name in ("attention", "feedforward", "table"))
WRITTEN = NO_FAMILY[0]  # a score, whatever stands in
NUMBER_AT = 104  # right of the line of the teacher


def colour_of(name: str) -> str:
    """Return the colour of what stands at a place: attention, a control, or a net."""
    return BLUE if name == "attention" else GREY if name in CONTROL_NAMES else GREEN


# Swaps -------------------------------------------------------------------------------------------


@picture
def board(
    swaps: Mapping[tuple[str, int], str],
    *,
    n_layers: Mapping[str, int],
    worth: Mapping[str, float],
    teacher: Mapping[str, float],
):
    """What stands at each site of each layer, and what the translator is worth with it.

    Args:
        swaps: Names of what stands in for attention, by site and layer.
        n_layers: Layers of each site.
        worth: ``bleu`` out of 100, ``accuracy`` and ``exact_match`` as shares, ``loss_nats``.
        teacher: The same, with attention everywhere.
    """
    left, right = new_axes(size=(7.6, 2.6), columns=2, width_ratios=(1, 1.15))
    places = [(site, layer) for site in SITES for layer in range(n_layers[site])]
    for site, layer in places:
        name, row = swaps.get((site, layer), "attention"), list(SITES).index(site)
        colour, is_own = colour_of(name), name == "attention"
        left.add_patch(
            Rectangle((layer + 0.04, row + 0.06), 0.92, 0.88, edgecolor=colour, lw=1.5,
                      facecolor="white" if is_own else colour, ls="solid" if is_own else "dashed")
        )  # fmt: skip
        left.text(layer + 0.5, row + 0.5, textwrap.fill(name, 12), ha="center", va="center",
                  fontsize=9, color=colour if is_own else "white")  # fmt: skip
    most = max(n_layers.values())
    left.set(xlim=(0, most), ylim=(len(SITES), 0))
    left.set_xticks(np.arange(most) + 0.5, [f"Layer {i + 1}" for i in range(most)])
    left.set_yticks(np.arange(len(SITES)) + 0.5, list(SITES.values()))
    left.tick_params(length=0)
    left.spines[:].set_visible(False)
    _draw_worth(right, worth, teacher)
    what = "; ".join(
        f"{SITES[site].lower()}, layer {layer + 1}: {swaps[site, layer]}"
        for site, layer in places
        if (site, layer) in swaps
    )
    return left, (
        f"In place: {what or 'attention everywhere'}. BLEU {worth['bleu']:.1f} (teacher "
        f"{teacher['bleu']:.1f}); right past given: loss {worth['loss_nats']:.3f} nats per token "
        f"({teacher['loss_nats']:.3f}), {worth['accuracy']:.1%} of the next tokens right "
        f"({teacher['accuracy']:.1%}); {worth['exact_match']:.0%} of the sentences right "
        f"({teacher['exact_match']:.0%})."
    )


def _draw_worth(ax: Axes, worth: Mapping[str, float], teacher: Mapping[str, float]) -> None:
    rows = ("BLEU", "Sentences right", "Next token right\n(right past given)")
    values, goals = (
        [each["bleu"], 100 * each["exact_match"], 100 * each["accuracy"]]
        for each in (worth, teacher)
    )
    bars = ax.barh(range(3), values, color=[WRITTEN, WRITTEN, "white"], edgecolor="black", lw=0.6,
                   height=0.6)  # fmt: skip
    for row, bar in enumerate(bars):
        ax.text(NUMBER_AT, row, f"{bar.get_width():.1f}", va="center")
    places = np.arange(3)
    ax.vlines(goals, places - 0.42, places + 0.42, BLUE, lw=2.2, label="With attention everywhere")
    ax.set_yticks(range(3), rows)
    ax.set(xlim=(0, 125), ylim=(2.6, -1.0))
    ax.set_xticks(range(0, 101, 25))
    ax.set_xlabel(
        f"Out of 100. Loss, right past given: {worth['loss_nats']:.3f}\n"
        f"nats per token (with attention {teacher['loss_nats']:.3f})"
    )
    ax.legend(loc="upper left", borderpad=0.1)


@picture
def scores(table: pd.DataFrame, *, teacher_bleu: float | None = None):
    """How each stand-in predicts and how it writes, joined by a line.

    Args:
        table: Rows ``label``, ``accuracy`` (0 to 1), ``bleu`` (0 to 100); several rows with one
            label are seeds.
        teacher_bleu: With attention everywhere.
    """
    labels = list(dict.fromkeys(table["label"]))
    ax = new_axes(size=(6.4, 1.1 + 0.27 * len(labels)))
    percent = table.assign(accuracy=100 * table["accuracy"])
    means = percent.groupby("label")[["bleu", "accuracy"]].mean().loc[labels]
    rows = table["label"].map(labels.index)
    ax.hlines(range(len(labels)), means["bleu"], means["accuracy"], "#BBBBBB", lw=1.2, zorder=1)
    ax.plot(percent["accuracy"], rows, color=GREY, marker="o", ls="none", fillstyle="none",
            label="Next token right, right past given (%)")  # fmt: skip
    ax.plot(table["bleu"], rows, color=WRITTEN, marker="^", ls="none", label="BLEU, written freely")
    goal = ""
    if teacher_bleu is not None:
        ax.axvline(teacher_bleu, color=BLUE, lw=1.2, label="BLEU of the teacher")
        goal = f" The teacher's BLEU is {teacher_bleu:.1f}."
    ax.set_yticks(range(len(labels)), labels)
    ax.set(xlim=(-3, 103), ylim=(len(labels) - 0.5, -0.5), xlabel="Out of 100")
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    said = "; ".join(
        f"{label}: {ranged(part['accuracy'], '%')} of the next tokens, BLEU {ranged(part['bleu'])}"
        for label, part in percent.groupby("label", sort=False)
    )
    return ax, (
        "Circles: next tokens right with the right past given. Triangles: BLEU, written freely."
        f"{goal} {said}."
    )


@picture
def controls(table: pd.DataFrame, *, teacher_bleu: float):
    """The BLEU that each stand-in keeps, one panel a site.

    Args:
        table: Rows ``site``, ``label``, ``bleu``.
        teacher_bleu: With attention everywhere.
    """
    axes = new_axes(size=(7.6, 2.8), columns=3, sharey=True)
    bleus = table.pivot_table(index="label", columns="site", values="bleu", sort=False)
    parts = []
    for ax, (site, name) in zip(axes, SITES.items(), strict=True):
        bars = ax.barh(range(len(bleus)), bleus[site], color=[*map(colour_of, bleus.index)],
                       height=0.62, edgecolor="white")  # fmt: skip
        for row, (bar, (label, value)) in enumerate(zip(bars, bleus[site].items(), strict=True)):
            bar.set_hatch("///" if label in CONTROL_NAMES else "")
            ax.text(NUMBER_AT, row, "" if np.isnan(value) else f"{value:.1f}", va="center",
                    fontsize=9)  # fmt: skip
        ax.axvline(teacher_bleu, color=BLUE, lw=1.4)
        ax.set(xlabel=f"{name}: BLEU", xlim=(0, 135))
        ax.set_xticks([0, 50, 100])
        known, is_control = bleus[site].dropna(), bleus[site].dropna().index.isin([*CONTROL_NAMES])
        best = known[is_control].idxmax()
        nets = ", ".join(f"{label} {value:.1f}" for label, value in known[~is_control].items())
        parts.append(f"{name}: best control {best} {known[best]:.1f}, {nets}")
    axes[0].set_yticks(range(len(bleus)), bleus.index)
    axes[0].invert_yaxis()
    return axes[0], (f"BLEU; the blue line is the teacher, {teacher_bleu:.1f}. {'; '.join(parts)}.")


@picture
def moved_outputs(changes: ArrayLike, *, words: Sequence[str], what: str):
    """How much each output moves when one target position is edited.

    Args:
        changes: ``(time, time)``; row is output, column is edited position.
        words: What the decoder has read at each position, ``<bos>`` first.
        what: Stands at the site.
    """
    m, n = np.asarray(changes), len(words)
    one = matrix(m, label="Change of the output (1 = its length)", x_label="Edited position",
                 y_label="Output at", x_ticks=words, y_ticks=words,
                 ax=new_axes(size=(4.4, 3.5)))  # fmt: skip
    one.ax.tick_params(axis="x", rotation=90)
    edge = np.repeat(np.arange(1, n + 1), 2), np.repeat(np.arange(n + 1), 2)[1:-1]
    one.ax.plot(*edge, color="white", lw=1.6)  # right of it lies the future
    future = m[np.triu_indices(n, 1)]
    return one.ax, (
        f"{what}. Of {len(future)} pairs in which the edited position is later than the output, "
        f"{(future > 1e-9).sum()} move; the largest such change is {future.max(initial=0.0):.3f} "
        "of an output's length. White line: the present."
    )
