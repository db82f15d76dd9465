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
from attnlab.studies.arms import SITE_NAMES, arm_words

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
    ax, attention = new_axes(), 3 * d_model**2
    counts = live.count_table(max_len=max_len, d_model=d_model)
    for its in variants("feedforward", counts.index):
        row = counts.loc[its.label]
        ax.plot(range(len(row)), row, **its.line())
    times = counts / attention
    ends = [f"{n} {row.iloc[0]:,.1f} to {row.iloc[-1]:,.0f}" for n, row in times.iterrows()]
    ax.axhline(attention, color=BLUE, label="Attention: $W_q$, $W_k$, $W_v$")
    ax.set_yscale("log")
    ax.set_xticks(range(counts.shape[1]), list(counts.columns))
    ax.legend(loc="upper left", bbox_to_anchor=(0, 1.3), ncols=2)
    ax.set(xlabel="Size of the student", ylabel="Weights of one layer's student",
           ylim=(300, 1e11))  # fmt: skip
    return ax, (
        f"With {max_len} slots of width {d_model} a student has {times.min(axis=None):,.1f} to "
        f"{times.max(axis=None):,.0f} times the {attention:,} weights of the three maps that it "
        f"replaces. As multiples, XS to XL: {'; '.join(ends)}."
    )


@picture
def bottleneck(floors: Mapping[str, ArrayLike], *, errors: Mapping[str, float], width: int):
    """The least error that h hidden units allow, and what trained students have.

    Args:
        floors: What is written -> least relative error for h = 1, 2, ...; first the stream.
        errors: Of trained students, by name.
        width: Their hidden units.
    """
    ax = new_axes()
    least = {label: np.asarray(floor, float) for label, floor in floors.items()}
    for (label, floor), dash in zip(least.items(), ("solid", "dashed"), strict=False):
        ax.plot(range(1, len(floor) + 1), floor, color="k", ls=dash, label=f"Least: {label}")
    for its, error in zip(variants("alrr", errors), errors.values(), strict=True):
        ax.plot([width], [error], ls="none", **its.points(), ms=8, label=its.label)
    ax.set(xscale="log", xlabel="Hidden units h", ylabel="Relative error of the update")
    _plain_log_scale(ax, steps=(1,))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_ylim(bottom=1e-3)
    ax.legend(**OUTSIDE)
    told = " or ".join(f"{f[min(width, len(f)) - 1]:.3f} ({name})" for name, f in least.items())
    found = "; ".join(f"{name} {error:.3f}" for name, error in errors.items())
    stream, (first, error) = next(iter(least.values()))[0], next(iter(errors.items()))
    return ax, (
        f"Whatever the training, {width} hidden units leave an error of at least "
        f"{told}. Trained students have {found}. What is written has {stream:.0f} times the "
        f"spread of its update; against that, {first} has {error / stream:.2f}."
    )


@picture
def sizes(arms: pd.DataFrame):
    """Relative error and BLEU of students in the encoder against their weights, over seeds.

    Args:
        arms: From ``live.recorded_arms``.
    """
    axes, parts = new_axes(size=(8.2, 3.5), columns=2), []
    bleu = arms.groupby("variant")["bleu"].mean()
    controls = {name: bleu[f"encoder_self/{name}"] for name in CONTROLS}
    students = arms.query("site == 'encoder_self' and size != '' and extra == '' and way == ''")
    rows = live.over_seeds(students, columns=["relative_error", "bleu"])
    for method, part in rows.groupby("method", sort=False):
        own, name = part.sort_values("n_weights"), method.upper()
        for column, ax in zip(("relative_error", "bleu"), axes, strict=True):
            _ranges(ax, own, "n_weights", column, {**look(method).line(), "label": name})
        ends = [f"{row.bleu:.1f} ({row.n_weights:,.0f})" for row in own.iloc[[0, -1]].itertuples()]
        parts.append(f"{name} {' to '.join(ends)}")
    for ax in axes:
        ax.set(xscale="log", xlabel="Weights of all students")
    _plain_log_scale(axes[0])
    axes[0].set_ylabel("Relative error, held out")
    axes[1].axhline(bleu["teacher"], color=BLUE, label="Teacher")
    for name, score in controls.items():
        axes[1].axhline(score, color=GREY, linestyle=CONTROLS[name], label=f"Control: {name}")
    axes[1].set_ylabel("BLEU, written freely")
    axes[1].legend(**OUTSIDE)
    best, alr = max(controls, key=controls.__getitem__), rows[rows["method"] == "alr"]["bleu"]
    return axes[0], (
        f"{(alr > controls[best]).sum()} of {len(alr)} sizes of ALR translate better than the best "
        f"control ({best}, BLEU {controls[best]:.1f}); the teacher has {bleu['teacher']:.1f}. "
        f"Bars are the range over {ranged(rows['n_seeds'], digits=0)} seeds. "
        f"BLEU (and weights) of the smallest and the largest: {'; '.join(parts)}. "
        f"{live.source_line(arms)}"
    )


@picture
def error_against_score(arms: pd.DataFrame):
    """BLEU against relative error, one point an arm that is taught alone, marked by site.

    Args:
        arms: From ``live.recorded_arms``.
    """
    is_taught = arms["site"].isin(SITE_NAMES) & (arms["way"] == "") & arms["relative_error"].notna()
    rows = live.over_seeds(arms[is_taught], columns=["relative_error", "bleu"])
    ax, looks = new_axes(), variants("feedforward", SITE_NAMES.values())
    for site, its in zip(SITE_NAMES, looks, strict=True):
        how = {**its.points(), "linestyle": "none", "label": its.label}
        _ranges(ax, rows[rows["site"] == site], "relative_error", "bleu", how)
    ax.set(xscale="log", xlabel="Relative error, held out", ylabel="BLEU, written freely")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(**OUTSIDE)
    low, high = contradiction(rows)
    return ax, (
        f"Each of {len(rows)} points is an arm, its mean over "
        f"{ranged(rows['n_seeds'], digits=0)} seeds. With an error of {low['relative_error']:.2f} "
        f"one ({arm_words(low['variant'])}) has BLEU {low['bleu']:.1f}, with "
        f"{high['relative_error']:.2f} another ({arm_words(high['variant'])}) has "
        f"{high['bleu']:.1f}. {live.source_line(arms)}"
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
