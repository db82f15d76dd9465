"""What chapter 08 shows: what is replaced, how many weights, and what an error says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import ArrayLike

from attnlab.chapters.distillation import live
from attnlab.show import LOOKS, look, new_axes, picture, ranged, variants

BLUE, GREEN, GREY = (LOOKS[name].colour for name in ("attention", "feedforward", "table"))
COVERS = {  # what each method covers: bottom and top of the box in the diagram, how many boxes
    "teacher": None,
    "alr": (2.05, 3.35, 1),
    "aslr": (2.05, 3.35, 4),
    "alrr": (0.1, 5.5, 1),
    "elr": (0.1, 9.0, 1),
}
PARTS = (  # bottom of the box, text
    (0.95, "norm"),
    (2.3, "q, k, v, softmax"),
    (3.6, r"$W_o$"),
    (6.0, "norm"),
    (7.2, "channel mixer"),
)
SUMS = (5.05, 8.55)
SITES = {"encoder_self": "Encoder self", "decoder_self": "Decoder self", "cross": "Cross"}
CONTROLS = {"mean": "dashed", "uniform": "dotted", "random": "dashdot"}
OUTSIDE = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}  # of the axes: a legend


@picture
def methods():
    """An encoder layer, and what each of the four methods puts a net in place of."""
    axes = new_axes(size=(8.4, 4.3), columns=5)
    for ax, (method, covered) in zip(axes, COVERS.items(), strict=True):
        _draw_layer(ax)
        name, colour = (method.upper(), GREEN) if covered else ("Teacher", BLUE)
        ax.text(5, -1.35, name, ha="center", weight="bold", color=colour)
        if covered:
            _draw_nets(ax, *covered)
    return axes[0], (
        "One encoder layer, read from below: the stream x, a norm, the look-up, its last "
        "projection, the residual sum, then norm, channel mixer and sum again. A hatched box is a "
        "net in place of what it covers. ALR: the look-up, one net. ASLR: the look-up, a net for "
        "each head (four here). ALRR: norm, look-up, projection and the residual sum. ELR: the "
        "whole layer. Only with ALR and ASLR does the stream still pass beside the net."
    )


def _draw_layer(ax: Axes) -> None:
    for bottom, text in PARTS:
        ax.add_patch(FancyBboxPatch((2.2, bottom), 6.6, 0.75, boxstyle="round,pad=0.1", lw=1,
                                    facecolor="white", edgecolor=BLUE))  # fmt: skip
        ax.text(5.5, bottom + 0.37, text, ha="center", va="center", fontsize=8)
    ax.plot([5.5, 5.5], [-0.3, 9.5], color=GREY, lw=1, zorder=0)
    for start, end in ((0.3, SUMS[0]), (5.6, SUMS[1])):
        ax.plot([5.5, 1.0, 1.0, 5.2], [start, start, end, end], color=GREY, lw=1, zorder=0)
    for height in SUMS:
        ax.plot(5.5, height, marker="o", markersize=11, color="white", markeredgecolor=GREY)
        ax.text(5.5, height - 0.02, "+", ha="center", va="center", fontsize=9)
    ax.text(5.5, -0.65, "stream $x$", ha="center", va="center", fontsize=8)
    ax.set(xlim=(0, 10), ylim=(-1.6, 9.7))
    ax.axis("off")


def _draw_nets(ax: Axes, bottom: float, top: float, n_nets: int) -> None:
    left, right = (0.5, 9.6) if top - bottom > 2 else (2.0, 9.2)
    width = (right - left) / n_nets
    for i in range(n_nets):
        ax.add_patch(Rectangle((left + i * width + 0.08, bottom), width - 0.16, top - bottom,
                               facecolor="#D5EFE6", edgecolor=GREEN, hatch="///", lw=1.4,
                               zorder=4))  # fmt: skip
    ax.text((left + right) / 2, (bottom + top) / 2, "nets" if n_nets > 1 else "net", ha="center",
            va="center", zorder=5, weight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})  # fmt: skip


WEIGHTS_DIALS = {
    "max_len": ("Slots", [10, 25, 50, 100, 200], 50, "Words of the longest sentence"),
    "d_model": ("Width", [32, 128, 512], 128, "Numbers of a word"),
}


@picture
def weights(*, max_len: int, d_model: int):
    """The weights of one student against its size, and those of the attention it replaces."""
    ax, parts, attention = new_axes(), [], 3 * d_model**2
    counts = live.count_table(max_len=max_len, d_model=d_model)
    for its in variants("feedforward", counts.index):
        row = counts.loc[its.label]
        ax.plot(range(len(row)), row, **its.line())
        first, last = row.iloc[0] / attention, row.iloc[-1] / attention
        parts.append(f"{its.label}: {first:,.1f} to {last:,.0f} times")
    ax.axhline(attention, color=BLUE, label="Attention: $W_q$, $W_k$, $W_v$")
    ax.set_yscale("log")
    ax.set_xticks(range(counts.shape[1]), list(counts.columns))
    ax.legend(loc="upper left", bbox_to_anchor=(0, 1.3), ncols=2)
    ax.set(xlabel="Size of the student", ylabel="Weights of one layer's student",
           ylim=(300, 1e11))  # fmt: skip
    return ax, (
        f"{max_len} slots, width {d_model}. Weights of one student, XS to XL, as a multiple of "
        f"the {attention:,} weights of the three maps that it replaces. {'; '.join(parts)}."
    )


@picture
def bottleneck(floors: Mapping[str, ArrayLike], *, points: pd.DataFrame):
    """The least error that h hidden units allow, and what trained students have.

    Args:
        floors: Label -> least relative error for h = 0, 1, ...; first the stream, then the update.
        points: Rows ``width``, ``error`` and ``label``.
    """
    ax, width = new_axes(), int(points["width"].iloc[0])
    least = {label: np.asarray(floor, float) for label, floor in floors.items()}
    for (label, floor), dash in zip(least.items(), ("solid", "dashed"), strict=False):
        ax.plot(range(1, len(floor)), floor[1:], color="black", linestyle=dash, label=label)
    for its, row in zip(variants("alrr", points["label"]), points.itertuples(), strict=True):
        ax.plot([row.width], [row.error], ls="none", **its.points(), ms=8, label=its.label)
    ax.set_xscale("log")
    _plain_log_scale(ax, steps=(1,))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_ylim(bottom=1e-3)
    ax.legend(**OUTSIDE)
    ax.set(xlabel="Hidden units h", ylabel="Relative error of the update")
    told = "; ".join(f"{n.lower()} {f[min(width, len(f) - 1)]:.3f}" for n, f in least.items())
    found = "; ".join(f"{row.label} {row.error:.3f}" for row in points.itertuples())
    stream, first = next(iter(least.values()))[0], points.iloc[0]
    return ax, (
        f"Least relative error that h hidden units allow, whatever the training; at h = {width}: "
        f"{told}. Trained students: {found}. What is written has {stream:.0f} times the spread of "
        f"its update; against that, {first['label']} has {first['error'] / stream:.2f}."
    )


@picture
def sizes(arms: pd.DataFrame, *, controls: Mapping[str, float], teacher: float):
    """Relative error and BLEU against the weights of all students, range over seeds.

    Args:
        arms: Rows ``method``, ``n_weights``, and low, mean and high of ``relative_error`` and
            ``bleu``, such as ``bleu_low``, ``bleu``, ``bleu_high``; see ``live.over_seeds``.
        controls: BLEU of controls, by name.
        teacher: BLEU of the teacher.
    """
    axes, parts = new_axes(size=(8.2, 3.5), columns=2), []
    for method, part in arms.groupby("method", sort=False):
        own, name = part.sort_values("n_weights"), method.upper()
        for column, ax in zip(("relative_error", "bleu"), axes, strict=True):
            _ranges(ax, own, "n_weights", column, {**look(method).line(), "label": name})
        ends = [f"{row.bleu:.1f} ({row.n_weights:,.0f})" for row in own.iloc[[0, -1]].itertuples()]
        parts.append(f"{name} {' to '.join(ends)}")
    for ax in axes:
        ax.set(xscale="log", xlabel="Weights of all students")
    _plain_log_scale(axes[0])
    axes[0].set_ylabel("Relative error, held out")
    axes[1].axhline(teacher, color=BLUE, label="Teacher")
    for name, bleu in controls.items():
        axes[1].axhline(bleu, color=GREY, linestyle=CONTROLS[name], label=f"Control: {name}")
    axes[1].set_ylabel("BLEU, written freely")
    axes[1].legend(**OUTSIDE)
    lines = ", ".join(f"{name} {bleu:.1f}" for name, bleu in controls.items())
    return axes[0], (
        "BLEU (and weights), smallest to largest, mean over "
        f"{ranged(arms['n_seeds'], digits=0)} seeds; bars are the range: "
        f"{'; '.join(parts)}. Teacher {teacher:.1f}. Controls without any learning: {lines}."
    )


@picture
def error_against_score(arms: pd.DataFrame):
    """BLEU against relative error, one point an arm, marked by site.

    Args:
        arms: As for ``sizes``, with ``variant`` and ``site``.
    """
    ax, looks = new_axes(), variants("feedforward", SITES.values())
    for (site, _), its in zip(SITES.items(), looks, strict=True):
        how = {**its.points(), "linestyle": "none", "label": its.label}
        part = arms[arms["site"] == site]
        if len(part):
            _ranges(ax, part, "relative_error", "bleu", how)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(**OUTSIDE)
    ax.set(xlabel="Relative error, held out", ylabel="BLEU, written freely")
    low, high = contradiction(arms)
    return ax, (
        f"One point for each of {len(arms)} arms, means over "
        f"{ranged(arms['n_seeds'], digits=0)} seeds. "
        f"{low['variant']} has a relative error of {low['relative_error']:.2f} and BLEU "
        f"{low['bleu']:.1f}; {high['variant']} has {high['relative_error']:.2f} and "
        f"{high['bleu']:.1f}."
    )


def contradiction(arms: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return the two arms with the largest gap in BLEU against the order of their errors."""
    gap = arms["bleu"].to_numpy()[None] - arms["bleu"].to_numpy()[:, None]  # of column over row
    error = arms["relative_error"].to_numpy()
    gap = np.where(error[:, None] < error[None], gap, -np.inf)
    low, high = np.unravel_index(int(gap.argmax()), gap.shape)
    return arms.iloc[low], arms.iloc[high]


def _plain_log_scale(ax: Axes, *, steps: Sequence[int] = (2, 5)) -> None:
    """Make the y axis logarithmic, with plain numbers at these steps of a decade."""
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(LogLocator(subs=steps))
    ax.yaxis.set_minor_formatter("{x:g}" if len(steps) > 1 else NullFormatter())


def _ranges(ax: Axes, part: pd.DataFrame, x: str, y: str, how: dict[str, Any]) -> None:
    """Draw means with bars from the lowest to the highest seed, in each direction there is."""
    bars = {
        f"{axis}err": np.array(
            [part[name] - part[f"{name}_low"], part[f"{name}_high"] - part[name]]
        )
        for axis, name in (("x", x), ("y", y))
        if f"{name}_low" in part
    }
    ax.errorbar(part[x], part[y], **bars, capsize=3, elinewidth=0.9, **how)
