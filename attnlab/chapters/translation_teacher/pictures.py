"""What chapter 07 shows: who sees whom, alignments, a teacher's course, what BLEU is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter
from numpy.typing import ArrayLike, NDArray

from attnlab.chapters.translation_teacher import live
from attnlab.errors import AttnlabError
from attnlab.models import Translator
from attnlab.show import LOOKS, Picture, matrix, new_axes, picture
from attnlab.show.style import NO_FAMILY
from attnlab.show.words import drawable
from attnlab.sources import NOUNS, TranslationSource, translation_source
from attnlab.training import bleu

BLUE, GREY = (LOOKS[name].colour for name in ("attention", "table"))
LOOKED = (5.2, 4.4)  # inches; the same for every sentence, so that a panel keeps its height
FRAME = "#33BBEE"  # seen on dark and on light cells; of no family
LINKS = {  # of a target word to its source word: colour, dash, width
    "same order": ("black", "solid", 0.9),
    "moved": (NO_FAMILY[1], "dashed", 1.6),
    "repeated": (GREY, "dotted", 1.8),
}
COURSE = {  # column -> label, marker, dash
    "accuracy": ("Next word right, earlier words given", "o", "solid"),
    "bleu_share": ("BLEU / 100, written freely", "s", "dashed"),
    "exact_match": ("Whole sentence right, written freely", "^", "dashdot"),
}
SENTENCES = {
    "bird near cats": "the red bird near {number} tall cat see a dog",
    "stones": "{number} small stone follow the old river",
    "queen": "the wise queen behind {number} tree love",
}
NUMBERS = ("a", "two", "three", "four")
MEAN = "mean of all heads"


# Who sees whom -----------------------------------------------------------------------------------


@picture
def sight(source: Sequence[str], target: Sequence[str]):
    """Which position may look at which, at the three sites of a translator.

    Args:
        source: Words that the encoder reads.
        target: Words that the decoder reads, ``<bos>`` first.
    """
    n, m = len(source), len(target)
    panels = {
        "Encoder self-attention": (np.ones((n, n)), source, source),
        "Decoder self-attention": (np.tril(np.ones((m, m))), target, target),
        "Cross-attention": (np.ones((m, n)), target, source),
    }
    widths = [len(columns) for *_, columns in panels.values()]
    axes = new_axes(size=(7.6, 2.9), columns=3, width_ratios=widths)
    for ax, (name, (seen, rows, columns)) in zip(axes, panels.items(), strict=True):
        shown = np.where(seen > 0, 1.0, np.nan)
        ax.imshow(shown, cmap="Blues", vmin=0, vmax=1.6, aspect="auto")  # panels of one height
        ax.set_xticks(range(len(columns)), [*map(drawable, columns)], rotation=90)
        ax.set_yticks(range(len(rows)), [*map(drawable, rows)])
        ax.set_xticks(np.arange(-0.5, len(columns)), minor=True)
        ax.set_yticks(np.arange(-0.5, len(rows)), minor=True)
        ax.grid(which="minor", color="#BBBBBB", lw=0.6)
        ax.tick_params(which="both", length=0)
        ax.set(xlabel=f"{name}\nlooked at")
    axes[0].set_ylabel("Looking")
    return axes[0], (
        f"Who may look at whom, row by row, for {n} source words and {m} target tokens. Encoder: "
        f"everyone at everyone, {n} x {n} = {n * n} pairs. Decoder: at itself and its past, "
        f"{m} x {m + 1} / 2 = {m * (m + 1) // 2} pairs. Cross-attention: every target token at the "
        f"whole source, {m} x {n} = {m * n} pairs."
    )


# Alignments --------------------------------------------------------------------------------------


def link_kinds(alignment: Sequence[int]) -> list[str]:
    """Return for each target word how it got its place; see ``LINKS``.

    A word is *repeated* if the one before it comes from the same source word, *moved* if a word
    that stood after it in the source comes before it, or one that stood before it comes after.
    """
    places, kinds = np.asarray(alignment), []
    for t, place in enumerate(places):
        is_moved = (places[:t] > place).any() or (places[t + 1 :] < place).any()
        is_repeated = t and places[t - 1] == place
        kinds.append("repeated" if is_repeated else "moved" if is_moved else "same order")
    return kinds


@picture
def alignment(
    source: Sequence[str],
    target: Sequence[str],
    *,
    places: Sequence[int],
    agreements: Sequence[tuple[int, int]] = (),
):
    """A sentence over its translation, a line from each word to the one it comes from.

    Args:
        source: Words, drawn above.
        target: Words, drawn below.
        places: Place in ``source`` of each target word.
        agreements: Pairs of target places ``(noun, word that ends like it)``, drawn as arcs.
    """
    if len(places) != len(target) or not set(places) <= set(range(len(source))):
        raise AttnlabError(
            f"Places {list(places)} do not fit {len(target)} target words: give for each of them "
            f"the place of its source word, 0 to {len(source) - 1}."
        )
    longest, kinds = max(len(source), len(target)), link_kinds(places)
    ax = new_axes(size=(max(6.4, 0.6 * longest), 2.9))
    above, below = (_evenly(len(words), longest) for words in (source, target))
    for t, (place, kind) in enumerate(zip(places, kinds, strict=True)):
        colour, dash, width = LINKS[kind]
        ax.plot([above[place], below[t]], [0.86, 0.14], color=colour, ls=dash, lw=width)
    for noun, word in agreements:
        x = np.linspace(below[noun], below[word], 40)
        depth = 0.12 + 0.055 * min(abs(x[-1] - x[0]), 8)
        ax.plot(x, -0.05 - depth * np.sin(np.linspace(0, np.pi, 40)), color="black", lw=0.9)
        ax.plot(x[-1], -0.05, color="black", marker="^", markersize=4)
    for place, (x, word) in enumerate(zip(above, source, strict=True)):
        said, colour = (word, "black") if place in places else (f"({word})", GREY)
        ax.text(x, 0.9, drawable(said), ha="center", va="bottom", color=colour)
    for x, word in zip(below, target, strict=True):
        ax.text(x, 0.1, drawable(word), ha="center", va="top")
    for kind, (colour, dash, width) in LINKS.items():
        ax.plot([], [], color=colour, linestyle=dash, lw=width, label=kind)
    if agreements:
        ax.plot([], [], color="black", lw=0.9, label="ends like (arc)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=4, handlelength=2.5,
              columnspacing=1.2)  # fmt: skip
    ax.set(xlim=(-0.6, longest - 0.4), ylim=(-0.75 if agreements else -0.05, 1.05))
    ax.axis("off")
    gone = ", ".join(word for place, word in enumerate(source) if place not in places)
    words = (
        f"{' '.join(source)!r} becomes {' '.join(target)!r}. Of {len(target)} words: "
        + ", ".join(f"{kinds.count(kind)} {kind}" for kind in LINKS)
        + "."
        + (f" Without a word of its own: {gone}." if gone else "")
    )
    if agreements:
        noun, word = max(agreements, key=lambda pair: abs(pair[1] - pair[0]))
        words += (
            f" {len(agreements)} words end like a noun; the farthest is {target[word]!r}, "
            f"{abs(word - noun)} places from {target[noun]!r}."
        )
    return ax, words


def _evenly(n_words: int, n_places: int) -> NDArray[np.float64]:
    """Return where words stand: evenly, over the width of the longer sentence."""
    return np.linspace(0, n_places - 1, n_words) if n_words > 1 else np.array([(n_places - 1) / 2])


LANGUAGE_DIALS = {
    "reordering": ("Reordering", {"0 none": 0, "1 nouns first": 1, "2 verb last": 2}, 2,
                   "0 keeps the order, 1 puts the noun before its adjective, 2 also the verb last"),
    "agreement": ("Agreement", {"0 none": 0, "1 phrase": 1, "2 verb too": 2}, 2,
                  "Which words end like a noun: none, those of its phrase, also the verb"),
    "number": ("Number", list(NUMBERS), "three", "How many"),
    "sentence": ("Sentence", list(SENTENCES), "What is translated"),
}  # fmt: skip


def language(*, reordering: int, agreement: int, number: str, sentence: str) -> Picture:
    """A sentence and its translation, with alignment and agreements, at a setting of the dials."""
    dials = {"reordering": reordering, "agreement": agreement, "counting": len(NUMBERS)}
    source = translation_source(**dials, n_nouns=len(NOUNS), n_adjectives=12)
    text = SENTENCES[sentence].format(number=number)
    tokens = source.encode(text)
    target = source.decode(source.translate(tokens)).split()
    agreed = {"agreements": live.agreements(source, tokens)}
    one = alignment(text.split(), target, places=source.alignment(tokens).tolist(), **agreed)
    return one.saying(f"Reordering {reordering}, agreement {agreement}. {one.words}")


@picture
def cross_attention(
    weights: ArrayLike,
    *,
    source: Sequence[str],
    target: Sequence[str],
    places: Sequence[int] | None = None,
):
    """Where the decoder looks while it writes each word; frames mark the true alignment.

    Args:
        weights: ``(len(target), len(source))``, rows sum to one.
        source: Words that are looked at.
        target: Words that are written, one a row.
        places: True place of each written word, as far as it is known; a row without stays
            unmarked.
    """
    values = np.asarray(weights, dtype=float)
    ax = new_axes(size=LOOKED)
    matrix(values, label="Weight", x_label="Looked at (source)", y_label="Being written",
           x_ticks=list(source), y_ticks=list(target), limit=1.0, ax=ax)  # fmt: skip
    ax.tick_params(axis="x", labelrotation=90)
    for row, place in enumerate(() if places is None else places):
        ax.add_patch(Rectangle((place, row), 1, 1, fill=False, lw=1.8, edgecolor=FRAME))
    t, s = np.unravel_index(int(values.argmax()), values.shape)
    said = (
        f"{' '.join(source)!r} read, {' '.join(target)!r} written. The strongest look: "
        f"{values[t, s]:.2f} to {source[s]!r} while writing {target[t]!r}."
    )
    if places is None:
        return ax, said
    hits = live.strongest_is_aligned(values, places=places)
    return ax, (
        f"{said} In {int(hits.sum())} of {len(hits)} rows the largest weight lies on the word "
        "that the written one comes from (framed)."
    )


def watcher(teacher: Translator, source: TranslationSource) -> tuple[Any, dict[str, Any]]:
    """Return what ``explore`` takes to show where a teacher looks: a picture, and its dials."""
    seen = lru_cache(maxsize=64)(lambda text: live.watched(teacher, source=source, text=text))

    def draw(*, sentence: str, layer: int, head: int) -> Picture:
        found = seen(sentence)
        maps = found["maps"][layer]
        words = {name: found[name] for name in ("source", "target", "places")}
        one = cross_attention(maps.mean(0) if head < 0 else maps[head], **words)
        which = MEAN if head < 0 else f"head {head + 1}"
        return one.saying(f"Decoder layer {layer + 1}, {which}. {one.words} {found['verdict']}")

    heads = {MEAN: -1, **{f"head {i + 1}": i for i in range(teacher.config.n_heads)}}
    layers = {f"{i + 1}": i for i in range(teacher.config.n_decoder_layers)}
    return draw, {
        "sentence": ("Sentence", live.USUAL, "In words of the source language"),
        "layer": ("Layer", layers, "Decoder layer, counted from the first"),
        "head": ("Head", heads, "One look-up of the layer, or their mean"),
    }


# A teacher's course ------------------------------------------------------------------------------

COURSE_DIALS = {
    "reordering": ("Reordering", [0, 1, 2], 2, "Words that move"),
    "agreement": ("Agreement", [0, 1, 2], 2, "Words that agree"),
    "counting": ("Counting up to", [1, 3, 5], 3, "Largest number"),
    "n_steps": ("Steps", [140, 350, 700], 350, "Batches to read"),
}


@picture
def course(points: Sequence[Mapping[str, float]]):
    """What a translator gets right against what it has read.

    Args:
        points: Rows ``tokens_seen``, ``accuracy``, ``bleu`` (out of 100) and ``exact_match``.
    """
    table, ax = pd.DataFrame(points), new_axes()
    shares = table.assign(bleu_share=table["bleu"] / 100)
    for column, (label, marker, dash) in COURSE.items():
        ax.plot(shares["tokens_seen"], shares[column], color=BLUE, marker=marker, linestyle=dash,
                fillstyle="none", label=label)  # fmt: skip
    ax.legend(loc="upper left", bbox_to_anchor=(0, 1.3), ncols=1)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set(xlabel="Target tokens seen", ylabel="Share (of words, or of sentences)",
           ylim=(-0.03, 1.05))  # fmt: skip
    last, widest = table.iloc[-1], table.loc[(table["accuracy"] - table["exact_match"]).idxmax()]
    return ax, (
        f"At the end: {last['accuracy']:.1%} of the words right with all earlier words given, "
        f"BLEU {last['bleu']:.1f}, {last['exact_match']:.1%} of the sentences exactly right. "
        f"Farthest apart after {widest['tokens_seen']:,.0f} tokens: {widest['accuracy']:.1%} of "
        f"the words, BLEU {widest['bleu']:.1f}, {widest['exact_match']:.1%} of the sentences."
    )


# What BLEU is made of ----------------------------------------------------------------------------

FAULT_DIALS = {
    "kind": ("Fault", list(live.DAMAGES), "What is wrong with a sentence"),
    "share": ("Share of sentences with it", 1.0, 0.0, 1.0, 0.1, "0: none, 1: all of them"),
}


@picture
def faults(references: Sequence[str], *, kind: str, share: float):
    """Four precisions, brevity penalty and the score they make, for texts with one kind of fault.

    Args:
        references: Right translations; a share of them gets the fault.
        kind: One of ``live.DAMAGES``.
        share: Of the sentences.
    """
    texts = live.damaged(references, kind=kind, share=share)
    right = sum(a == b for a, b in zip(texts, references, strict=True)) / len(texts)
    score = bleu(texts, references, tokenize="none", n_resamples=1)
    runs = [f"Runs of {n} word{'s' * (n > 1)}" for n in (1, 2, 3, 4)]
    names = [*runs, "Brevity penalty x 100", "BLEU", "Sentences exactly right"]
    values = [*score.precisions, 100 * score.brevity_penalty, score.score, 100 * right]
    colours = [GREY] * 4 + ["white", BLUE, "white"]
    ax = new_axes(size=(5.6, 2.9))
    bars = ax.barh(range(len(values)), values, color=colours, edgecolor="black", lw=0.6)
    for bar, hatch in zip(bars, [""] * 4 + ["////", "", "...."], strict=True):
        bar.set_hatch(hatch)
    ax.bar_label(bars, [f"{value:.1f}" for value in values], padding=3)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xlabel="Out of 100", xlim=(0, 120))
    return ax, (
        f"Fault: {kind}, in {share:.0%} of {len(references)} sentences. BLEU {score.score:.1f}, "
        f"from precisions {', '.join(f'{p:.1f}' for p in score.precisions)} and brevity penalty "
        f"{score.brevity_penalty:.3f}; {right:.0%} of the sentences are right."
    )


@picture
def score_intervals(table: pd.DataFrame, *, small_sets: Mapping[int, Sequence[float]]):
    """BLEU with its interval against the number of sentences, and real small test sets.

    Args:
        table: Rows ``n_sentences``, ``bleu``, ``low``, ``high``.
        small_sets: Scores of test sets without a common sentence, by their size; one row of the
            table has that size.
    """
    ax, n = new_axes(), table["n_sentences"].to_numpy()
    below, above = table["bleu"] - table["low"], table["high"] - table["bleu"]
    ax.errorbar(n, table["bleu"], yerr=[below, above], color=BLUE, marker="o", linestyle="none",
                capsize=4, label="BLEU and its interval, by resampling")  # fmt: skip
    told = []
    for size, scores in small_sets.items():
        label = f"{len(scores)} test sets of {size}, none shared"
        ax.plot(np.full(len(scores), size * 0.82), scores, color=GREY, marker="x",
                linestyle="none", label=label)  # fmt: skip
        low, high = table.set_index("n_sentences").loc[size, ["low", "high"]]
        n_inside = sum(low <= score <= high for score in scores)
        told.append(
            f"{len(scores)} test sets of {size} sentences, none shared, score from "
            f"{min(scores):.1f} to {max(scores):.1f}; {n_inside} lie inside the interval of the "
            f"first {size} (crosses, drawn left of {size})."
        )
    ax.set_xscale("log")
    ax.set_xticks(n, [f"{size:,}" for size in n])
    ax.minorticks_off()
    ax.legend(loc="lower right")
    ax.set(xlabel="Sentences in the test set", ylabel="BLEU")
    widths = ", ".join(f"{r.high - r.low:.1f} with {r.n_sentences:,}" for r in table.itertuples())
    told = " ".join(told)
    return ax, f"Width of the 95 % interval of one model's BLEU: {widths} sentences. {told}"
