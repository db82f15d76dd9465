"""Pictures of translation: who sees whom, alignments, a teacher's course, what BLEU is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError
from attnlab.plots.matrices import plot_matrix
from attnlab.show.style import LOOKS, new_axes

BLUE = LOOKS["attention"].colour
ORANGE = LOOKS["extractor"].colour
GREY = LOOKS["table"].colour
WORD_IN = 0.6  # inches that a word of a sentence takes
LINKS = {  # of a target word to its source word: label, colour, dash, width
    "same order": (BLUE, "solid", 1.2),
    "moved": (ORANGE, "dashed", 1.6),
    "repeated": (GREY, "dotted", 1.8),
}
COURSE = {  # column -> label, marker, dash
    "accuracy": ("Next word right, earlier words given", "o", "solid"),
    "bleu_share": ("BLEU / 100, written freely", "s", "dashed"),
    "exact_match": ("Whole sentence right, written freely", "^", "dashdot"),
}
ORDERS = ("1 word", "2 words", "3 words", "4 words")


# Who sees whom


def plot_sight(source: Sequence[str], target: Sequence[str]) -> Figure:
    """Draw which position may look at which, at the three sites of a translator.

    Args:
        source: Words that the encoder reads.
        target: Words that the decoder reads, ``<bos>`` first.
    """
    n, m = len(source), len(target)
    everyone, past = np.ones((n, n)), np.tril(np.ones((m, m)))
    panels = {
        "Encoder self-attention": (everyone, source, source),
        "Decoder self-attention": (past, target, target),
        "Cross-attention": (np.ones((m, n)), target, source),
    }
    widths = [len(columns) for *_, columns in panels.values()]
    fig, axes = plt.subplots(1, 3, figsize=(7.6, 2.9), layout="constrained", width_ratios=widths)
    for ax, (name, (sight, rows, columns)) in zip(axes, panels.items(), strict=True):
        shown = np.where(sight > 0, 1.0, np.nan)
        ax.imshow(shown, cmap="Blues", vmin=0, vmax=1.6, aspect="auto")  # panels of one height
        ax.set_xticks(range(len(columns)), columns, rotation=90)
        ax.set_yticks(range(len(rows)), rows)
        ax.set_xticks(np.arange(-0.5, len(columns)), minor=True)
        ax.set_yticks(np.arange(-0.5, len(rows)), minor=True)
        ax.grid(which="minor", color="#BBBBBB", lw=0.6)
        ax.tick_params(which="both", length=0)
        ax.set(xlabel=f"{name}\nlooked at")
    axes[0].set_ylabel("Looking")
    return fig


def describe_sight(source: Sequence[str], target: Sequence[str]) -> str:
    """Say how many pairs each of the three sites may compare."""
    n, m = len(source), len(target)
    return (
        f"Who may look at whom, row by row, for {n} source words and {m} target tokens. Encoder: "
        f"everyone at everyone, {n} x {n} = {n * n} pairs. Decoder: at itself and its past, "
        f"{m} x {m + 1} / 2 = {m * (m + 1) // 2} pairs. Cross-attention: every target token at the "
        f"whole source, {m} x {n} = {m * n} pairs."
    )


# Alignments


def link_kinds(alignment: Sequence[int]) -> list[str]:
    """Return for each target word how it got its place; see ``LINKS``.

    A word is *repeated* if the one before it comes from the same source word, *moved* if a word
    that stood after it in the source comes before it, or one that stood before it comes after.
    """
    places = np.asarray(alignment)
    kinds = []
    for t, place in enumerate(places):
        if t and places[t - 1] == place:
            kinds.append("repeated")
        elif (places[:t] > place).any() or (places[t + 1 :] < place).any():
            kinds.append("moved")
        else:
            kinds.append("same order")
    return kinds


def plot_alignment(
    source: Sequence[str],
    target: Sequence[str],
    *,
    alignment: Sequence[int],
    agreements: Sequence[tuple[int, int]] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw a sentence over its translation, a line from each word to the one it comes from.

    Args:
        source: Words, drawn above.
        target: Words, drawn below.
        alignment: Place in ``source`` of each target word.
        agreements: Pairs of target places ``(noun, word that ends like it)``, drawn as arcs.
        ax: Axes to draw on; a new figure without it.
    """
    _require_alignment(source, target, alignment)
    longest = max(len(source), len(target))
    ax = new_axes(ax, size=(max(6.4, WORD_IN * longest), 2.9))
    above, below = _spread(len(source), longest), _spread(len(target), longest)
    for t, (place, kind) in enumerate(zip(alignment, link_kinds(alignment), strict=True)):
        colour, dash, width = LINKS[kind]
        ends = [above[place], below[t]], [0.86, 0.14]
        ax.plot(*ends, color=colour, linestyle=dash, lw=width, solid_capstyle="round")
    for noun, word in agreements:
        _draw_arc(ax, below[noun], below[word])
    for place, (x, word) in enumerate(zip(above, source, strict=True)):
        is_kept = place in alignment
        ax.text(x, 0.9, word if is_kept else f"({word})", ha="center", va="bottom",
                color="black" if is_kept else GREY)  # fmt: skip
    for x, word in zip(below, target, strict=True):
        ax.text(x, 0.1, word, ha="center", va="top")
    for kind, (colour, dash, width) in LINKS.items():
        ax.plot([], [], color=colour, linestyle=dash, lw=width, label=kind)
    if agreements:
        ax.plot([], [], color="black", lw=0.9, label="ends like (arc)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=4, handlelength=2.5,
              columnspacing=1.2)  # fmt: skip
    ax.set(xlim=(-0.6, longest - 0.4), ylim=(-0.75 if agreements else -0.05, 1.05))
    ax.axis("off")
    return ax


def describe_alignment(
    source: Sequence[str],
    target: Sequence[str],
    *,
    alignment: Sequence[int],
    agreements: Sequence[tuple[int, int]] = (),
) -> str:
    """Say the sentence and its translation, and what happened to the words on the way."""
    _require_alignment(source, target, alignment)
    kinds = link_kinds(alignment)
    gone = [word for place, word in enumerate(source) if place not in set(alignment)]
    parts = [f"{kinds.count(kind)} {kind}" for kind in LINKS]
    lost = f" Without a word of its own: {', '.join(gone)}." if gone else ""
    farthest = max(agreements, key=lambda pair: abs(pair[1] - pair[0]), default=None)
    agrees = ""
    if farthest:
        noun, word = farthest
        agrees = (
            f" {len(agreements)} words end like a noun; the farthest is {target[word]!r}, "
            f"{abs(word - noun)} places from {target[noun]!r}."
        )
    return (
        f"{' '.join(source)!r} becomes {' '.join(target)!r}. Of {len(target)} words: "
        f"{', '.join(parts)}.{lost}{agrees}"
    )


def plot_cross_attention(
    weights: ArrayLike,
    *,
    source: Sequence[str],
    target: Sequence[str],
    alignment: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw where the decoder looks while it writes each word; frames mark the true alignment.

    Args:
        weights: ``(len(target), len(source))``, rows sum to one.
        source: Words that are looked at.
        target: Words that are written, one a row.
        alignment: True place of each written word, as far as it is known; a row without stays
            unmarked.
        ax: Axes to draw on; a new figure without it.
    """
    size = (1.9 + 0.36 * len(source), 1.2 + 0.27 * len(target))
    ax = plot_matrix(
        weights,
        label="Weight",
        x_label="Looked at (source)",
        y_label="Being written",
        x_ticks=list(source),
        y_ticks=list(target),
        limit=1.0,
        ax=new_axes(ax, size=size),
    )
    ax.tick_params(axis="x", labelrotation=90)
    for row, place in enumerate(() if alignment is None else alignment):
        frame = Rectangle((place - 0.5, row - 0.5), 1, 1, fill=False, lw=1.8, edgecolor=ORANGE)
        ax.add_patch(frame)
    return ax


def describe_cross_attention(
    weights: ArrayLike,
    *,
    source: Sequence[str],
    target: Sequence[str],
    alignment: Sequence[int] | None = None,
) -> str:
    """Say the strongest look of the map and how often the strongest look is the alignment."""
    values = np.asarray(weights, dtype=float)
    t, s = np.unravel_index(int(values.argmax()), values.shape)
    said = (
        f"{' '.join(source)!r} read, {' '.join(target)!r} written. The strongest look: "
        f"{values[t, s]:.2f} to {source[s]!r} while writing {target[t]!r}."
    )
    if alignment is None:
        return said
    hits = strongest_is_aligned(values, alignment=alignment)
    return (
        f"{said} In {int(hits.sum())} of {len(hits)} rows the largest weight lies on the word "
        "that the written one comes from (framed)."
    )


def strongest_is_aligned(weights: ArrayLike, *, alignment: Sequence[int]) -> NDArray[np.bool_]:
    """Return for each aligned row whether its largest weight lies on the true source word.

    Shapes:
        weights: ``(..., target_time, source_time)``; returns ``(..., len(alignment))``.
    """
    values = np.asarray(weights, dtype=float)[..., : len(alignment), :]
    return values.argmax(-1) == np.asarray(alignment)


# A teacher's course


def plot_course(points: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw what a translator gets right against what it has read.

    Args:
        points: Rows ``tokens_seen``, ``accuracy``, ``bleu`` (out of 100) and ``exact_match``.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax)
    shares = points.assign(bleu_share=points["bleu"] / 100)
    for column, (label, marker, dash) in COURSE.items():
        ax.plot(shares["tokens_seen"], shares[column], color=BLUE, marker=marker, linestyle=dash,
                fillstyle="none", label=label)  # fmt: skip
    ax.legend(loc="upper left", bbox_to_anchor=(0, 1.3), ncols=1)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set(xlabel="Target tokens seen", ylabel="Share (of words, or of sentences)",
           ylim=(-0.03, 1.05))  # fmt: skip
    return ax


def describe_course(points: pd.DataFrame) -> str:
    """Say the three numbers at the end, and how far apart they were on the way."""
    last = points.iloc[-1]
    gaps = points["accuracy"] - points["exact_match"]
    widest = points.loc[gaps.idxmax()]
    return (
        f"At the end: {last['accuracy']:.1%} of the words right with all earlier words given, "
        f"BLEU {last['bleu']:.1f}, {last['exact_match']:.1%} of the sentences exactly right. "
        f"Farthest apart after {widest['tokens_seen']:,.0f} tokens: {widest['accuracy']:.1%} of "
        f"the words, BLEU {widest['bleu']:.1f}, {widest['exact_match']:.1%} of the sentences."
    )


# What BLEU is made of


def plot_bleu_parts(
    precisions: Sequence[float],
    *,
    brevity_penalty: float,
    score: float,
    exact_match: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the four precisions, the brevity penalty and the score they make, as bars.

    Args:
        precisions: Of 1- to 4-grams, out of 100.
        brevity_penalty: 0 to 1; drawn out of 100.
        score: BLEU, out of 100.
        exact_match: Share of sentences that are the reference, if a bar is wanted.
        ax: Axes to draw on; a new figure without it.
    """
    names = [f"Runs of {order}" for order in ORDERS] + ["Brevity penalty x 100", "BLEU"]
    values = [*precisions, 100 * brevity_penalty, score]
    hatches = [""] * 4 + ["////", ""]
    colours = [GREY] * 4 + ["white", BLUE]
    if exact_match is not None:
        names, values = [*names, "Sentences exactly right"], [*values, 100 * exact_match]
        hatches, colours = [*hatches, "...."], [*colours, "white"]
    ax = new_axes(ax, size=(5.6, 2.9))
    bars = ax.barh(range(len(values)), values, color=colours, edgecolor="black", lw=0.6)
    for bar, hatch in zip(bars, hatches, strict=True):
        bar.set_hatch(hatch)
    ax.bar_label(bars, [f"{value:.1f}" for value in values], padding=3)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xlabel="Out of 100", xlim=(0, 120))
    return ax


def plot_score_intervals(
    table: pd.DataFrame, *, small_sets: Mapping[int, Sequence[float]], ax: Axes | None = None
) -> Axes:
    """Draw BLEU with its interval against the number of sentences, and real small test sets.

    Args:
        table: Rows ``n_sentences``, ``bleu``, ``low``, ``high``.
        small_sets: Scores of test sets without a common sentence, by their size.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax)
    n = table["n_sentences"].to_numpy()
    below, above = table["bleu"] - table["low"], table["high"] - table["bleu"]
    ax.errorbar(n, table["bleu"], yerr=[below, above], color=BLUE, marker="o", linestyle="none",
                capsize=4, label="BLEU and its interval, by resampling")  # fmt: skip
    for size, scores in small_sets.items():
        label = f"{len(scores)} test sets of {size}, none shared"
        ax.plot(np.full(len(scores), size * 0.82), scores, color=GREY, marker="x",
                linestyle="none", label=label)  # fmt: skip
    ax.set_xscale("log")
    ax.set_xticks(n, [f"{size:,}" for size in n])
    ax.minorticks_off()
    ax.legend(loc="lower right")
    ax.set(xlabel="Sentences in the test set", ylabel="BLEU")
    return ax


def describe_score_intervals(
    table: pd.DataFrame, *, small_sets: Mapping[int, Sequence[float]]
) -> str:
    """Say how wide each interval is and how far the small test sets really lie apart."""
    widths = ", ".join(
        f"{row.high - row.low:.1f} with {row.n_sentences:,}" for row in table.itertuples()
    )
    spread = " ".join(
        f"{len(scores)} test sets of {size} sentences, none shared, score from {min(scores):.1f} "
        f"to {max(scores):.1f}{_inside(table, size, scores)} (crosses, drawn left of {size})."
        for size, scores in small_sets.items()
    )
    return f"Width of the 95 % interval of one model's BLEU: {widths} sentences. {spread}"


def _inside(table: pd.DataFrame, size: int, scores: Sequence[float]) -> str:
    """Say how many scores lie in the interval of this size, if there is one."""
    rows = table[table["n_sentences"] == size]
    if rows.empty:
        return ""
    low, high = rows[["low", "high"]].iloc[0]
    n_inside = sum(low <= score <= high for score in scores)
    return f"; {n_inside} lie inside the interval of the first {size}"


def _spread(n_words: int, n_places: int) -> NDArray[np.float64]:
    """Return where words stand: evenly, over the width of the longer sentence."""
    return np.linspace(0, n_places - 1, n_words) if n_words > 1 else np.array([(n_places - 1) / 2])


def _draw_arc(ax: Axes, start: float, end: float) -> None:
    reach = abs(end - start)
    x = np.linspace(start, end, 40)
    depth = 0.12 + 0.055 * min(reach, 8)
    ax.plot(x, -0.05 - depth * np.sin(np.pi * (x - start) / (end - start)), color="black", lw=0.9)
    ax.plot(end, -0.05, color="black", marker="^", markersize=4)


def _require_alignment(
    source: Sequence[str], target: Sequence[str], alignment: Sequence[int]
) -> None:
    if len(alignment) != len(target):
        raise AttnlabError(
            f"{len(alignment)} places do not fit {len(target)} target words: give the place of "
            "the source word for each of them."
        )
    if len(alignment) and not 0 <= min(alignment) <= max(alignment) < len(source):
        raise AttnlabError(
            f"A place in {list(alignment)} lies outside the {len(source)} source words, which "
            f"have places 0 to {len(source) - 1}."
        )
