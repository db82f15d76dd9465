"""A small teacher, what may stand in for its attention, and a board that swaps it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import ipywidgets as w
from torch import nn

from attnlab.chapters.replacing_attention import pictures
from attnlab.config import TranslatorConfig
from attnlab.distillation import (
    CONTROLS,
    SITES,
    Activations,
    StudentSpec,
    Substitution,
    build_controls,
    collect_lessons,
    length_ratio,
    substitute,
)
from attnlab.errors import UnknownNameError
from attnlab.models import Translator
from attnlab.seeding import torch_generator
from attnlab.show import Picture, choice, show
from attnlab.show.panels import (
    Live,
    button_row,
    error_html,
    frame,
    reserved,
    show_live,
    status_html,
    widgets_on,
)
from attnlab.show.words import read_words
from attnlab.sources import TranslationSource
from attnlab.training import evaluate_translation, translate_all
from attnlab.training.batches import Pairs

Key = tuple[str, int]  # a site and a layer, counted from 0
Modules = dict[Key, nn.Module]
Move = tuple[str, str]  # the words of a place, and the name of what is put there
USUAL = "three dog see a dog"
SENTENCE_DIAL = {"sentence": ("Sentence", USUAL, "In words of the source language")}


def small_translator(source: TranslationSource, *, seed: int = 0, **sizes: int) -> Translator:
    """Return an untrained translator of these languages: width 32, 4 heads, 2 + 2 layers.

    Args:
        sizes: Fields of ``TranslatorConfig`` that differ.
    """
    usual = {
        "source_vocab_size": source.vocab_size,
        "target_vocab_size": source.vocab_size,
        "max_len": max(source.max_source_len, source.max_target_len + 2),
        "d_model": 32, "n_heads": 4, "n_encoder_layers": 2, "n_decoder_layers": 2, "d_ff": 128,
        "dropout": 0.0,
    }  # fmt: skip
    return Translator(TranslatorConfig(**(usual | sizes)), generator=torch_generator(seed, "init"))


def read_lessons(teacher: Translator, pairs: Pairs) -> dict[str, Activations]:
    """Return, by site, what the teacher's attention read and made of these pairs."""
    return {site: collect_lessons(teacher, pairs, spec=StudentSpec(site=site)) for site in SITES}


def all_controls(
    teacher: Translator, lessons: Mapping[str, Activations], *, pairs: Pairs
) -> dict[str, Modules]:
    """Return every control by name and place; ``attention`` is the teacher's own look-up."""
    ratio, found = length_ratio(pairs), {}
    for name in CONTROLS:
        modules = found.setdefault("attention" if name == "identity" else name, {})
        for site, activations in lessons.items():
            how = {"site": site, "activations": activations, "ratio": ratio}
            modules |= build_controls(name, teacher=teacher, **how)
    return found


class Score(NamedTuple):
    """What a translator predicts with the right past given, and what it writes freely."""

    loss_nats: float  # right past given
    accuracy: float  # right past given
    bleu: float  # out of 100, written freely
    exact_match: float  # share of sentences, written freely


@dataclass
class Workbench:
    """A teacher, what may stand in for its attention, and the sentences that judge it.

    Args:
        test: Pairs that no net has seen.
        stand_ins: Controls and nets by name, then by place.
    """

    teacher: Translator
    source: TranslationSource
    test: Pairs
    stand_ins: dict[str, Modules]
    scores: dict[frozenset[tuple[Key, str]], Score] = field(default_factory=dict)

    def modules(self, swaps: Mapping[Key, str]) -> Modules:
        """Return the modules that these names mean at these places.

        Raises:
            UnknownNameError: Nothing is called that at the place.
        """
        for place, name in swaps.items():
            if name not in (known := self.names_at(place)):
                step = f"These can stand at {place}."
                raise UnknownNameError("stand-in", name, known, next_step=step)
        return {place: self.stand_ins[name][place] for place, name in swaps.items()}

    def names_at(self, place: Key) -> list[str]:
        """Return what may stand at a place."""
        return [name for name, modules in self.stand_ins.items() if place in modules]

    def everywhere(self, **names: str) -> dict[Key, str]:
        """Return swaps at all layers of these sites: ``everywhere(cross="mean")``."""
        places = [place for site in names for place in self.places_of(site)]
        return {(site, layer): names[site] for site, layer in places}

    def places_of(self, site: str) -> list[Key]:
        """Return a site in each of its layers."""
        layers = self.teacher.encoder if site == "encoder_self" else self.teacher.decoder
        return [(site, layer) for layer in range(len(layers))]

    def score(self, swaps: Mapping[Key, str]) -> Score:
        """Return the score with these swaps; the teacher is whole again afterwards."""
        key = frozenset(swaps.items())
        if key not in self.scores:
            with substitute(self.teacher, self.modules(swaps)):
                self.scores[key] = self.score_now()
        return self.scores[key]

    def score_now(self) -> Score:
        """Return the score of the teacher as it stands."""
        found = evaluate_translation(self.teacher, self.test, vocabulary=self.source, n_resamples=1)
        forced = found.forced
        return Score(forced.loss_nats, forced.accuracy, found.bleu.score, found.exact_match)

    def score_each(self, site: str, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return a row of scores for each stand-in, put at all layers of a site."""
        return [
            {"site": site, "label": name, **self.score(self.everywhere(**{site: name}))._asdict()}
            for name in names
        ]

    def translate(self, text: str, swaps: Mapping[Key, str]) -> str:
        """Return a sentence as it is translated with these swaps."""
        with substitute(self.teacher, self.modules(swaps)):
            longest = self.teacher.config.max_len - 1
            (written,) = translate_all(self.teacher, [self.source.encode(text)], max_len=longest)
        return self.source.decode(written)

    def translations(
        self, models: Mapping[str, Mapping[Key, str]], *, sentence: str
    ) -> dict[str, str]:
        """Return what several translators make of a sentence, by title, the right one first.

        Args:
            models: Swaps by the title that a translator gets.
            sentence: What a reader typed.
        """
        words, _ = self.read(sentence)
        right, why = self.source.right(words)
        written = {title: self.translate(" ".join(words), s) for title, s in models.items()}
        marks = {t: carets(v, " ".join(right)) if right else "" for t, v in written.items()}
        said = {t: f"{v or '(nothing)'}{marks[t]}" for t, v in written.items()}
        return {"Right": " ".join(right) or why, **said}

    def read(self, sentence: str) -> tuple[list[str], str]:
        """Return the words of a typed sentence that can be read, and what could not be."""
        longest = self.source.max_source_len
        return read_words(sentence, most=longest, usual=USUAL, find=self.source.knows)

    def say(self, *, sentence: str) -> str:
        """Say what is translated, and what of it could not be read."""
        words, unread = self.read(sentence)
        said = f"Translations of '{' '.join(words)}'; ^ marks words that stand wrong."
        return f"{said} {unread}".strip()


def carets(written: str, right: str) -> str:
    """Return a second line with carets under the words that are not those of the right one."""
    found, wanted = written.split(), right.split()
    missing = len(wanted) - len(found)
    wanted += [""] * -missing
    marks = [("^" if a != b else " ") * len(a) for a, b in zip(found, wanted, strict=False)]
    line = " ".join(marks).rstrip() + (f"  ({missing} missing)" if missing > 0 else "")
    return f"\n{line}" if line.strip() else ""


class SubstitutionBoard(Live):
    """Swap look-ups of a living translator one at a time, and take the last swap back.

    It works on a copy of the teacher, which every move changes in place and which is whole again
    after as many undos. Four controls: place, stand-in, Put in, Undo.
    """

    def __init__(self, bench: Workbench) -> None:
        """Build the panel with attention everywhere."""
        self.whole = bench.score({})._asdict()
        self.bench = replace(bench, teacher=copy.deepcopy(bench.teacher))
        self.done: list[tuple[dict[Key, str], Substitution]] = []
        self.places: dict[str, list[Key]] = {}  # by their words
        for site, name in pictures.SITES.items():
            keys = bench.places_of(site)
            self.places[f"{name.lower()}, all layers"] = keys
            self.places |= {f"{name.lower()}, layer {key[1] + 1}": [key] for key in keys}
        self.place = choice("Place", options=list(self.places), tooltip="Site and layer")
        self.stand_in = choice("Stand-in", options=self._names(), tooltip="What is put there")
        self.put_button = w.Button(description="Put in", tooltip="Swap, translate, and score")
        self.undo_button = w.Button(description="Undo", tooltip="Take the last swap back")
        self.picture, self.status = w.HTML(), w.HTML()
        self.picture.add_class("attnlab-picture")
        self.place.observe(lambda _: self._offer(), names="value")
        self.put_button.on_click(lambda _: self._do(self.put, self.place.value))
        self.undo_button.on_click(lambda _: self._do(self.undo))
        buttons = button_row([self.put_button, self.undo_button])
        self.panel = frame([self.place, self.stand_in, buttons], self.picture, self.status)

    @property
    def swaps(self) -> dict[Key, str]:
        """What stands where now."""
        return {place: name for names, _ in self.done for place, name in names.items()}

    def put(self, place: str, stand_in: str | None = None) -> None:
        """Put a stand-in at a place or, without one, the one that is chosen.

        Where it stands there already, nothing is done, and there is nothing to undo.
        """
        names = dict.fromkeys(self.places[place], stand_in or self.stand_in.value)
        if all(self.swaps.get(key, "attention") == name for key, name in names.items()):
            return
        self.done.append((names, substitute(self.bench.teacher, self.bench.modules(names))))

    def undo(self) -> None:
        """Take the last swap back; without one, do nothing."""
        if self.done:
            self.done.pop()[1].undo()

    def draw(self) -> Picture:
        """Draw what stands where, and what it is worth."""
        scores, key = self.bench.scores, frozenset(self.swaps.items())
        if key not in scores:
            scores[key] = self.bench.score_now()
        n_layers = {site: len(self.bench.places_of(site)) for site in pictures.SITES}
        how = {"worth": scores[key]._asdict(), "teacher": self.whole}
        return pictures.board(self.swaps, n_layers=n_layers, **how)

    def redraw(self) -> None:
        """Fill the panel."""
        one = self.draw()
        self.picture.value = one.html(is_quick=True)
        self.status.value = status_html(one.words)
        self.undo_button.disabled = not self.done

    def _do(self, move: Any, *arguments: Any) -> None:
        self.put_button.disabled = True
        try:
            move(*arguments)
            self.redraw()
        except Exception as error:  # any error belongs on the page, not in a log
            self.status.value = error_html(error)
        finally:
            self.put_button.disabled = False

    def _names(self) -> list[str]:
        return self.bench.names_at(self.places[self.place.value][0])

    def _offer(self) -> None:
        self.stand_in.options = [(name, name) for name in self._names()]


def show_swaps(bench: Workbench, *, stills: Sequence[Sequence[Move]]) -> SubstitutionBoard | None:
    """Show the live board with attention everywhere; where nothing is live, after some moves.

    Args:
        stills: Moves of each picture, such as ``[("cross, layer 1", "mean")]``.

    Returns:
        The board, or None if ``ATTNLAB_WIDGETS=off``.
    """
    board, shown = SubstitutionBoard(bench), []
    for moves in stills:
        for move in moves:
            board.put(*move)
        shown.append(board.draw())
        while board.done:
            board.undo()
    if not widgets_on():
        for still in shown:
            show(still)
        return None
    board.redraw()
    board.status.layout.height = reserved(max((one.words for one in shown), key=len, default=""))
    figures = "".join(one.figure() for one in shown)
    show_live(board, html=figures, plain=[one.words for one in shown])
    return board
