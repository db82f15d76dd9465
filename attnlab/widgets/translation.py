"""Explorers of notebook 07: two languages with dials, alignments, damaged texts, a lesson."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attnlab.config import TrainConfig
from attnlab.models import Translator
from attnlab.plots.translation import (
    describe_alignment,
    describe_course,
    describe_cross_attention,
    plot_alignment,
    plot_bleu_parts,
    plot_course,
    plot_cross_attention,
)
from attnlab.sources import NOUNS, TranslationSource, translation_source
from attnlab.teaching.live_translation import DAMAGES, Lesson, Point, cross_maps, damaged
from attnlab.training import bleu, translate_all
from attnlab.training.scores import Bleu
from attnlab.widgets.board import RunBoard, show_run_board
from attnlab.widgets.core import Explorer, choice, show_explorer, slider

SENTENCES = {
    "bird near cats": "the red bird near {number} tall cat see a dog",
    "stones": "{number} small stone follow the old river",
    "queen": "the wise queen behind {number} tree love",
}
NUMBERS = ("a", "two", "three", "four")
BEGINNINGS = {
    "a cat": "a cat",
    "the small horse": "the small horse",
    "two old fish": "two old fish",
    "the red bird near three tall cat": "the red bird near three tall cat",
    "three stone behind a good mouse": "three stone behind a good mouse",
}
ENDINGS = {
    "hear": "hear",
    "see a dog": "see a dog",
    "follow three young tree": "follow three young tree",
    "love the red horse": "love the red horse",
}
MEAN = "mean of all heads"
END = "<eos>"
N_POINTS = 14  # of a lesson on the board
N_BOARD_PAIRS = 8000  # to learn from, on the board


# Two languages


def show_language_explorer(*, presets: Sequence[dict[str, Any]]) -> Explorer | None:
    """Show what each dial of the two languages does to a sentence.

    Args:
        presets: Settings of ``reordering``, ``agreement``, ``number`` and ``sentence``.
    """
    controls = {
        "reordering": choice(
            "Reordering",
            options={"0 none": 0, "1 nouns first": 1, "2 verb last": 2},
            value=2,
            tooltip="0 keeps the order, 1 puts the noun before its adjective, 2 also the verb last",
        ),
        "agreement": choice(
            "Agreement",
            options={"0 none": 0, "1 phrase": 1, "2 verb too": 2},
            value=2,
            tooltip="Which words end like a noun: none, those of its phrase, also the verb",
        ),
        "number": choice("Number", options=list(NUMBERS), value="three", tooltip="How many"),
        "sentence": choice("Sentence", options=list(SENTENCES), tooltip="What is translated"),
    }
    return show_explorer(draw_language, controls, presets=presets, describe=describe_language)


def draw_language(*, reordering: int, agreement: int, number: str, sentence: str) -> Figure:
    """Draw a sentence and its translation, with alignment and agreements."""
    words = _translated(reordering, agreement, SENTENCES[sentence].format(number=number))
    return plot_alignment(**words).figure


def describe_language(*, reordering: int, agreement: int, number: str, sentence: str) -> str:
    """Say the sentence, its translation and what the dials did."""
    words = _translated(reordering, agreement, SENTENCES[sentence].format(number=number))
    return f"Reordering {reordering}, agreement {agreement}. {describe_alignment(**words)}"


def agreements(source: TranslationSource, tokens: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return pairs of target places: a noun, and a word that takes its ending from it.

    Found by experiment: each noun in turn gets the other gender, and what else changes agrees.
    """
    words, nouns = source.decode(tokens).split(), list(NOUNS)
    target, alignment = source.translate(tokens), source.alignment(tokens)
    pairs = []
    for place in [i for i, word in enumerate(words) if word in NOUNS]:
        twin = [*words]
        twin[place] = nouns[nouns.index(words[place]) ^ 1]  # genders alternate in the list
        changed = np.flatnonzero(source.translate(source.encode(" ".join(twin))) != target)
        own = np.flatnonzero(alignment == place)
        for t in (t for t in changed.tolist() if t not in own):
            pairs.append((int(own[np.abs(own - t).argmin()]), t))
    return pairs


@lru_cache(maxsize=64)
def _translated(reordering: int, agreement: int, text: str) -> dict[str, Any]:
    source = translation_source(
        reordering=reordering,
        agreement=agreement,
        counting=len(NUMBERS),
        n_nouns=len(NOUNS),
        n_adjectives=12,
    )
    tokens = source.encode(text)
    return {
        "source": text.split(),
        "target": source.decode(source.translate(tokens)).split(),
        "alignment": source.alignment(tokens).tolist(),
        "agreements": agreements(source, tokens),
    }


# Alignments


def show_alignment_viewer(
    teacher: Translator, *, source: TranslationSource, presets: Sequence[dict[str, Any]]
) -> Explorer | None:
    """Show where a teacher looks while it writes a sentence that the reader puts together.

    Args:
        teacher: Trained on ``source``.
        source: Languages with the words of ``BEGINNINGS`` and ``ENDINGS``.
        presets: Settings of ``beginning``, ``ending``, ``layer`` and ``head``.
    """
    heads = {MEAN: -1, **{f"head {i + 1}": i for i in range(teacher.config.n_heads)}}
    layers = {f"{i + 1}": i for i in range(teacher.config.n_decoder_layers)}
    controls = {
        "beginning": choice("Begins", options=BEGINNINGS, tooltip="How the sentence begins"),
        "ending": choice("Goes on", options=ENDINGS, tooltip="How the sentence goes on"),
        "layer": choice("Layer", options=layers, tooltip="Decoder layer, counted from the first"),
        "head": choice("Head", options=heads, tooltip="One look-up of the layer, or their mean"),
    }

    @lru_cache(maxsize=64)
    def seen(beginning: str, ending: str) -> dict[str, Any]:
        return watched(teacher, source=source, text=f"{beginning} {ending}")

    def parts(beginning: str, ending: str, layer: int, head: int) -> dict[str, Any]:
        found = seen(beginning, ending)
        maps = found["maps"][layer]
        weights = maps.mean(0) if head < 0 else maps[head]
        return {"weights": weights, **{k: v for k, v in found.items() if k not in HIDDEN}}

    def draw(**values: Any) -> Figure:
        return plot_cross_attention(**parts(**values)).figure

    def describe(**values: Any) -> str:
        layer, head = values["layer"] + 1, values["head"]
        which = MEAN if head < 0 else f"head {head + 1}"
        right = seen(values["beginning"], values["ending"])["is_right"]
        verdict = "The translation is right." if right else "The translation is wrong."
        words = describe_cross_attention(**parts(**values))
        return f"Decoder layer {layer}, {which}. {words} {verdict}"

    return show_explorer(draw, controls, presets=presets, describe=describe)


HIDDEN = ("maps", "is_right")


def watched(teacher: Translator, *, source: TranslationSource, text: str) -> dict[str, Any]:
    """Let a teacher translate a sentence; return its words, its maps and the true alignment.

    The alignment is None unless the translation is right: a wrong word comes from nowhere.
    """
    tokens = source.encode(text)
    (written,) = translate_all(teacher, [tokens], max_len=teacher.config.max_len - 1)
    is_right = np.array_equal(written, source.translate(tokens))
    return {
        "source": text.split(),
        "target": [*source.decode(written).split(), END],
        "alignment": source.alignment(tokens).tolist() if is_right else None,
        "maps": cross_maps(teacher, tokens, written),
        "is_right": is_right,
    }


# Damaged texts


def show_bleu_explorer(
    references: Sequence[str], *, presets: Sequence[dict[str, Any]]
) -> Explorer | None:
    """Show what one kind of fault does to each part of BLEU.

    Args:
        references: Right translations; a share of them gets the fault.
        presets: Settings of ``kind`` and ``share``.
    """
    controls = {
        "kind": choice("Fault", options=list(DAMAGES), tooltip="What is wrong with a sentence"),
        "share": slider("Share of sentences with it", value=1.0, minimum=0.0, maximum=1.0,
                        step=0.1, tooltip="0: none, 1: all of them"),
    }  # fmt: skip

    def scored(kind: str, share: float) -> tuple[Bleu, float]:
        texts = damaged(references, kind=kind, share=share)
        right = sum(a == b for a, b in zip(texts, references, strict=True)) / len(texts)
        return bleu(texts, references, tokenize="none", n_resamples=1), right

    def draw(*, kind: str, share: float) -> Figure:
        score, right = scored(kind, share)
        return plot_bleu_parts(
            score.precisions,
            brevity_penalty=score.brevity_penalty,
            score=score.score,
            exact_match=right,
        ).figure

    def describe(*, kind: str, share: float) -> str:
        score, right = scored(kind, share)
        runs = ", ".join(f"{p:.1f}" for p in score.precisions)
        return (
            f"Fault: {kind}, in {share:.0%} of {len(references)} sentences. BLEU "
            f"{score.score:.1f}, from precisions {runs} and brevity penalty "
            f"{score.brevity_penalty:.3f}; {right:.0%} of the sentences are right."
        )

    return show_explorer(draw, controls, presets=presets, describe=describe)


# A lesson


def show_lesson_board(*, train: TrainConfig, still: Sequence[Point]) -> RunBoard | None:
    """Show the course of a lesson, then a board that gives another one in other languages.

    Args:
        train: Rate and seed; the board sets the steps.
        still: Points of the lesson in the notebook.
    """

    def run(*, n_steps: int, **dials: int) -> Iterator[Point]:
        recipe = replace(train, n_steps=n_steps)
        lesson = Lesson(translation_source(**dials), train=recipe, n_pairs=N_BOARD_PAIRS)
        yield from lesson.points(every=n_steps // N_POINTS)

    controls = {
        "reordering": choice("Reordering", options=[0, 1, 2], value=2, tooltip="Words that move"),
        "agreement": choice("Agreement", options=[0, 1, 2], value=2, tooltip="Words that agree"),
        "counting": choice("Counting up to", options=[1, 3, 5], value=3, tooltip="Largest number"),
        "n_steps": choice("Steps", options=[140, 350, 700], value=350, tooltip="Batches to read"),
    }
    return show_run_board(
        run,
        controls,
        n_ticks=N_POINTS + 1,
        draw=lambda points: plot_course(pd.DataFrame(points)).figure,
        describe=lambda points: describe_course(pd.DataFrame(points)),
        still=still,
    )
