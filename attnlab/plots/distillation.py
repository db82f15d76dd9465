"""Pictures of distillation: what is replaced, how many weights, how errors fall, what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import ArrayLike

from attnlab.errors import AttnlabError
from attnlab.show.style import DIFFERENCE_COLOURS, LOOKS, look, new_axes

BLUE = LOOKS["attention"].colour
GREEN = LOOKS["feedforward"].colour
GREY = LOOKS["table"].colour
# What each method covers: bottom and top of the box in the diagram, and how many boxes
COVERS = {
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
COUNT_LOOKS = {  # marker, fill: all are feed-forward replacements
    "ALR, ALRR, ELR": ("^", "full"),
    "ASLR, all heads": ("<", "full"),
    "Decoder self, ALR": ("^", "none"),
    "Cross, ALR": ("^", "left"),
}
SITE_LOOKS = {  # site -> label, marker, fill
    "encoder_self": ("Encoder self", "^", "full"),
    "decoder_self": ("Decoder self", "v", "none"),
    "cross": ("Cross", "<", "left"),
}
CONTROLS = {"mean": "dashed", "uniform": "dotted", "random": "dashdot"}


# What is replaced


def draw_methods() -> Figure:
    """Draw an encoder layer, and what each of the four methods puts a net in place of."""
    fig, axes = plt.subplots(1, 5, figsize=(8.4, 4.3), layout="constrained")
    for ax, method in zip(axes, COVERS, strict=True):
        _draw_layer(ax)
        ax.text(5, -1.35, "Teacher" if method == "teacher" else method.upper(), ha="center",
                weight="bold", color=BLUE if method == "teacher" else GREEN)  # fmt: skip
        if COVERS[method]:
            _draw_nets(ax, *COVERS[method])
    return fig


def describe_methods() -> str:
    """Say what the five columns show."""
    return (
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


# How many weights


def plot_weights(counts: pd.DataFrame, *, attention: int, ax: Axes | None = None) -> Axes:
    """Draw the weights of one student against its size, and those of the attention it replaces.

    Args:
        counts: Rows are the labels of ``COUNT_LOOKS``, columns the sizes.
        attention: Weights of the replaced maps.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax)
    for label, row in counts.iterrows():
        marker, fill = COUNT_LOOKS[str(label)]
        ax.plot(range(len(row)), row, color=GREEN, linestyle="dashdot", marker=marker,
                fillstyle=fill, markerfacecoloralt="white", label=label)  # fmt: skip
    ax.axhline(attention, color=BLUE, label="Attention: $W_q$, $W_k$, $W_v$")
    ax.set_yscale("log")
    ax.set_xticks(range(counts.shape[1]), list(counts.columns))
    ax.legend(loc="upper left", bbox_to_anchor=(0, 1.3), ncols=2)
    ax.set(xlabel="Size of the student", ylabel="Weights of one layer's student")
    return ax


def describe_weights(counts: pd.DataFrame, *, attention: int) -> str:
    """Say the smallest and largest student of each row, in units of attention."""
    parts = [
        f"{label}: {row.iloc[0] / attention:,.1f} to {row.iloc[-1] / attention:,.0f} times"
        for label, row in counts.iterrows()
    ]
    return (
        f"Weights of one student, {counts.columns[0]} to {counts.columns[-1]}, as a multiple of "
        f"the {attention:,} weights of the three maps that it replaces. {'; '.join(parts)}."
    )


# How errors fall


def plot_errors(points: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw held-out relative errors against steps, one line for each arm and layer.

    Args:
        points: Rows ``step``, ``arm``, ``layer`` and ``error``; arms such as ``alr/m``.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax)
    shades = dict(zip(points["arm"].unique(), ("full", "none", "left", "top"), strict=False))
    for (arm, layer), part in points.groupby(["arm", "layer"], sort=False):
        ax.plot(part["step"], part["error"], color=GREEN,
                linestyle="solid" if layer == 1 else "dashed", marker=look(arm).marker,
                fillstyle=shades.get(arm, "full"), markerfacecoloralt="white",
                label=f"{arm_label(arm)}, layer {layer}")  # fmt: skip
    ax.axhline(1, color=GREY, linestyle="dotted", label="Best constant")
    _plain_log_scale(ax)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    ax.set(xlabel="Steps", ylabel="Relative error, held out")
    return ax


def describe_errors(points: pd.DataFrame) -> str:
    """Say where each line starts and ends."""
    first, last = (points[points["step"] == step] for step in points["step"].agg(["min", "max"]))
    ends = "; ".join(
        f"{arm_label(arm)}: " + ", ".join(f"{error:.3f}" for error in part["error"])
        for arm, part in last.groupby("arm", sort=False)
    )
    return (
        f"Relative error on held-out sentences, layer by layer (1: no better than the best "
        f"constant). At the start {first['error'].min():.2f} to {first['error'].max():.2f}; after "
        f"{points['step'].max()} steps: {ends}."
    )


def arm_label(arm: str) -> str:
    """Return how a legend writes an arm: ``alrr/m/linear_skip`` as ``ALRR M, linear skip``."""
    method, *rest = arm.split("/")
    size = f" {rest[0].upper()}" if rest else ""
    more = "".join(f", {part.replace('_', ' ')}" for part in rest[1:])
    return f"{method.upper()}{size}{more}"


# Teacher, student, difference


def plot_outputs(teacher: ArrayLike, student: ArrayLike, *, words: Sequence[str]) -> Figure:
    """Draw what a head writes for a sentence, what a student says, and the difference.

    Args:
        teacher: ``(time, d_head)``.
        student: The same.
        words: One for each row.
    """
    y, found = _pair(teacher, student)
    limit = float(max(np.abs(y).max(), np.abs(found).max(), 1e-12))
    fig, axes = plt.subplots(1, 3, figsize=(7.6, 1.3 + 0.24 * len(words)), sharey=True,
                             layout="constrained")  # fmt: skip
    panels = {"Teacher": y, "Student": found, "Teacher minus student": y - found}
    for ax, (name, values) in zip(axes, panels.items(), strict=True):
        picture = ax.imshow(values, cmap=DIFFERENCE_COLOURS, vmin=-limit, vmax=limit, aspect="auto")
        ax.set(xlabel=f"{name}\nchannel of the head", xticks=range(y.shape[1]))
        ax.spines[:].set_visible(False)
    axes[0].set_yticks(range(len(words)), words)
    fig.colorbar(picture, ax=axes, label="Value")
    return fig


def describe_outputs(teacher: ArrayLike, student: ArrayLike, *, words: Sequence[str]) -> str:
    """Say how large the outputs and the difference are, and at which word it is largest."""
    y, found = _pair(teacher, student)
    wrong = np.square(y - found).sum(-1)
    size, size_wrong = (float(np.sqrt(np.mean(np.square(z)))) for z in (y, y - found))
    return (
        f"Typical size (root mean square) of the teacher's values {size:.3f}, of the difference "
        f"{size_wrong:.3f}; farthest off at {words[int(wrong.argmax())]!r}. Same colour scale in "
        "all three panels."
    )


def _pair(teacher: ArrayLike, student: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    y, found = np.asarray(teacher, float), np.asarray(student, float)
    if y.shape != found.shape or y.ndim != 2:
        raise AttnlabError(
            f"Teacher {y.shape} and student {found.shape} must both be (time, d_head), of one head."
        )
    return y, found


# Residual or rank


def plot_bottleneck(
    floors: Mapping[str, ArrayLike], *, points: pd.DataFrame, ax: Axes | None = None
) -> Axes:
    """Draw the least error that h hidden units allow, and what trained students have.

    Args:
        floors: Label -> least relative error for h = 0, 1, ...; first the stream, then the update.
        points: Rows ``width``, ``error``, ``label`` and ``arm``.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax)
    dashes = ("solid", "dashed")
    for (label, floor), dash in zip(floors.items(), dashes, strict=False):
        values = np.asarray(floor, float)
        ax.plot(range(1, len(values)), values[1:], color="black", linestyle=dash, label=label)
    fills = ("full", "none", "left", "top")
    for fill, (label, part) in zip(fills, points.groupby("label", sort=False), strict=False):
        ax.plot(part["width"], part["error"], color=GREEN, linestyle="none",
                marker=look(part["arm"].iloc[0]).marker, fillstyle=fill, markersize=8,
                markerfacecoloralt="white", label=label)  # fmt: skip
    ax.set_xscale("log")
    _plain_log_scale(ax, steps=(1,))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_ylim(bottom=1e-3)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    ax.set(xlabel="Hidden units h", ylabel="Relative error of the update")
    return ax


def describe_bottleneck(floors: Mapping[str, ArrayLike], *, points: pd.DataFrame) -> str:
    """Say the floors at the width of the students, and the students' errors."""
    width = int(points["width"].iloc[0])
    least = "; ".join(
        f"{label.lower()} {np.asarray(floor, float)[min(width, len(np.asarray(floor)) - 1)]:.3f}"
        for label, floor in floors.items()
    )
    found = "; ".join(f"{row.label} {row.error:.3f}" for row in points.itertuples())
    stream, first = float(np.asarray(next(iter(floors.values())))[0]), points.iloc[0]
    return (
        f"Least relative error that h hidden units allow, whatever the training; at h = {width}: "
        f"{least}. Trained students: {found}. What is written has {stream:.0f} times the spread of "
        f"its update; against that, {first['label']} has {first['error'] / stream:.2f}."
    )


# Sizes, errors and scores, from records


def plot_sizes(
    arms: pd.DataFrame, *, controls: Mapping[str, float], teacher: float | None = None
) -> Figure:
    """Draw relative error and BLEU against the weights of all students, range over seeds.

    Args:
        arms: Rows ``variant`` (``encoder_self/alr/m``), ``n_weights``, and low, mean and high of
            ``relative_error`` and ``bleu``, such as ``bleu_low``, ``bleu``, ``bleu_high``.
        controls: BLEU of controls, by name.
        teacher: BLEU of the teacher.
    """
    fig, axes = plt.subplots(1, 2, figsize=(8.2, 3.5), layout="constrained")
    stems = arms["variant"].str.split("/").str[1]
    for column, ax in zip(("relative_error", "bleu"), axes, strict=True):
        for method, part in arms.groupby(stems, sort=False):
            _ranges(ax, part.sort_values("n_weights"), "n_weights", column,
                    {**look(str(method)).line(), "label": str(method).upper()})  # fmt: skip
        ax.set_xscale("log")
        ax.set_xlabel("Weights of all students")
    _plain_log_scale(axes[0])
    axes[0].set_ylabel("Relative error, held out")
    if teacher is not None:
        axes[1].axhline(teacher, color=BLUE, label="Teacher")
    for name, bleu in controls.items():
        axes[1].axhline(bleu, color=GREY, linestyle=CONTROLS.get(name, LOOKS["table"].dash),
                        label=f"Control: {name}")  # fmt: skip
    axes[1].set_ylabel("BLEU, written freely")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def describe_sizes(
    arms: pd.DataFrame, *, controls: Mapping[str, float], teacher: float | None = None
) -> str:
    """Say BLEU of the smallest and the largest student of each method, and the controls."""
    parts = []
    for method, part in arms.groupby(arms["variant"].str.split("/").str[1], sort=False):
        ends = part.sort_values("n_weights").iloc[[0, -1]]
        said = " to ".join(f"{row.bleu:.1f} ({row.n_weights:,.0f})" for row in ends.itertuples())
        parts.append(f"{str(method).upper()} {said}")
    lines = ", ".join(f"{name} {bleu:.1f}" for name, bleu in controls.items())
    own = "" if teacher is None else f" Teacher {teacher:.1f}."
    return (
        f"BLEU (and weights), smallest to largest, mean over {arms['n_seeds'].max()} seeds; bars "
        f"are the range: {'; '.join(parts)}.{own} Controls without any learning: {lines}."
    )


def plot_error_against_score(arms: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw BLEU against relative error, one point an arm, marked by site.

    Args:
        arms: As for ``plot_sizes``, with ``site``.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax)
    for site, part in arms.groupby("site", sort=False):
        label, marker, fill = SITE_LOOKS[str(site)]
        _ranges(ax, part, "relative_error", "bleu",
                {"color": GREEN, "linestyle": "none", "marker": marker, "fillstyle": fill,
                 "markerfacecoloralt": "white", "label": label})  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    ax.set(xlabel="Relative error, held out", ylabel="BLEU, written freely")
    return ax


def describe_error_against_score(arms: pd.DataFrame) -> str:
    """Say the pair of arms that contradicts 'lower error, higher BLEU' most."""
    low, high = contradiction(arms)
    return (
        f"One point for each of {len(arms)} arms, means over {arms['n_seeds'].max()} seeds. "
        f"{low['variant']} has a relative error of {low['relative_error']:.2f} and BLEU "
        f"{low['bleu']:.1f}; {high['variant']} has {high['relative_error']:.2f} and "
        f"{high['bleu']:.1f}."
    )


def contradiction(arms: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return the two arms with the largest gap in BLEU against the order of their errors."""
    best, pair = -np.inf, (arms.iloc[0], arms.iloc[0])
    for _, one in arms.iterrows():
        for _, other in arms.iterrows():
            gap = other["bleu"] - one["bleu"]
            if one["relative_error"] < other["relative_error"] and gap > best:
                best, pair = gap, (one, other)
    return pair


def _plain_log_scale(ax: Axes, *, steps: Sequence[int] = (2, 5)) -> None:
    """Make the y axis logarithmic, with plain numbers at these steps of a decade."""
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(LogLocator(subs=steps))
    ax.yaxis.set_minor_formatter("{x:g}" if len(steps) > 1 else NullFormatter())


def _ranges(ax: Axes, part: pd.DataFrame, x: str, y: str, how: dict) -> None:
    """Draw means with bars from the lowest to the highest seed, in each direction there is."""
    bars = {
        f"{axis}err": [part[name] - part[f"{name}_low"], part[f"{name}_high"] - part[name]]
        for axis, name in (("x", x), ("y", y))
        if f"{name}_low" in part
    }
    ax.errorbar(part[x], part[y], **bars, capsize=3, elinewidth=0.9, **how)
