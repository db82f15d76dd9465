"""Panels of notebook 09: a board that swaps attention, influence maps, translations compared."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import ipywidgets as w
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attnlab.distillation.surgery import Substitution, substitute
from attnlab.plots.replacing import (
    ATTENTION,
    SITES,
    describe_board,
    describe_influence,
    plot_board,
    plot_influence,
)
from attnlab.show.style import style
from attnlab.teaching.live_replacing import Key, Workbench, influence
from attnlab.widgets.core import (
    Explorer,
    beside,
    choice,
    error_html,
    picture_html,
    show_explorer,
    show_live,
    show_playground,
    show_still,
    status_html,
    widgets_on,
)

Move = tuple[str, str]  # the words of a place, and the name of what is put there
SUBJECTS = (
    "a cat",
    "the small horse",
    "three dog",
    "two old bird",
    "the good mouse",
)
ENDINGS = ("follow", "see a dog", "hear the red cat", "love three small horse", "see two bird")


# The substitution board


class SubstitutionBoard:
    """Swap look-ups of a living translator one at a time, and take the last swap back.

    It works on a copy of the teacher, which every move changes in place and which is whole again
    after as many undos. Four controls: place, stand-in, Put in, Undo.
    """

    def __init__(self, bench: Workbench) -> None:
        """Build the panel with attention everywhere."""
        self.whole = bench.score({})
        self.bench = replace(bench, teacher=copy.deepcopy(bench.teacher))
        self.done: list[tuple[dict[Key, str], Substitution]] = []
        self.places = places_of(bench)
        self.place = choice("Place", options=list(self.places), tooltip="Site and layer")
        self.stand_in = choice("Stand-in", options=self._names(), tooltip="What is put there")
        self.put_button = w.Button(description="Put in", tooltip="Swap, translate, and score")
        self.undo_button = w.Button(description="Undo", tooltip="Take the last swap back")
        self.picture, self.status = w.HTML(), w.HTML()
        self.picture.add_class("attnlab-picture")
        self.status.add_class("attnlab-status")
        self.place.observe(lambda _: self._offer(), names="value")
        self.put_button.on_click(lambda _: self._do(self.put, self.place.value))
        self.undo_button.on_click(lambda _: self._do(self.undo))
        for button in (self.put_button, self.undo_button):
            button.layout.width = "48%"
        buttons = w.HBox([self.put_button, self.undo_button])
        self.panel = beside([self.place, self.stand_in, buttons, self.status], self.picture)

    @property
    def swaps(self) -> dict[Key, str]:
        """What stands where now."""
        found: dict[Key, str] = {}
        for names, _ in self.done:
            found |= names
        return found

    def put(self, place: str, stand_in: str | None = None) -> None:
        """Put a stand-in at a place or, without one, the one that is chosen."""
        name = self.stand_in.value if stand_in is None else stand_in
        names = dict.fromkeys(self.places[place], name)
        modules = self.bench.modules(names)
        self.done.append((names, substitute(self.bench.teacher, modules)))

    def undo(self) -> None:
        """Take the last swap back; without one, do nothing."""
        if self.done:
            self.done.pop()[1].undo()

    def undo_all(self) -> None:
        """Put attention back everywhere."""
        while self.done:
            self.undo()

    def draw(self) -> Figure:
        """Draw what stands where, and what it is worth."""
        return plot_board(self.swaps, n_layers=self._n_layers(), **self._worth())

    def describe(self) -> str:
        """Say the same."""
        return describe_board(self.swaps, **self._worth())

    def redraw(self) -> None:
        """Fill the panel."""
        words = self.describe()
        with style():
            self.picture.value = picture_html(self.draw(), alt=words)
        self.status.value = status_html(words)
        self.undo_button.disabled = not self.done

    def _ipython_display_(self) -> None:
        """Show nothing: the panel is on the page already."""

    def _do(self, move: Any, *arguments: Any) -> None:
        self.put_button.disabled = True
        try:
            move(*arguments)
            self.redraw()
        except Exception as error:  # any error belongs on the page, not in a log
            self.status.value = error_html(error)
        finally:
            self.put_button.disabled = False

    def _worth(self) -> dict[str, Mapping[str, float]]:
        scores, key = self.bench.scores, frozenset(self.swaps.items())
        if key not in scores:
            scores[key] = self.bench.score_now()
        return {"now": scores[key]._asdict(), "teacher": self.whole._asdict()}

    def _n_layers(self) -> dict[str, int]:
        return {site: len(self.bench.everywhere({site: ATTENTION})) for site in SITES}

    def _names(self) -> list[str]:
        return self.bench.names_at(self.places[self.place.value][0])

    def _offer(self) -> None:
        self.stand_in.options = [(name, name) for name in self._names()]


def show_substitution_board(
    bench: Workbench, *, stills: Sequence[Sequence[Move]]
) -> SubstitutionBoard | None:
    """Show the board after some moves, as pictures; then the live board, with attention everywhere.

    Args:
        stills: Moves of each picture, such as ``[("cross, layer 1", "mean")]``.

    Returns:
        The board, or None if ``ATTNLAB_WIDGETS=off``.
    """
    board = SubstitutionBoard(bench)
    for moves in stills:
        try:
            for place, name in moves:
                board.put(place, name)
            with style():
                show_still(board.draw(), board.describe())
        finally:
            board.undo_all()
    if not widgets_on():
        return None
    board.redraw()
    show_live(board.panel)
    return board


def places_of(bench: Workbench) -> dict[str, list[Key]]:
    """Return the places of a board by their words: all layers of a site, then each layer."""
    found: dict[str, list[Key]] = {}
    for site, name in SITES.items():
        keys = list(bench.everywhere({site: ATTENTION}))
        found[f"{name.lower()}, all layers"] = keys
        found |= {f"{name.lower()}, layer {layer + 1}": [(site, layer)] for _, layer in keys}
    return found


# Who moves whom


def show_influence_explorer(
    bench: Workbench, *, presets: Sequence[Mapping[str, Any]]
) -> Explorer | None:
    """Show which target positions move which outputs of what stands at the cross site.

    Args:
        presets: Settings of ``stand_in``, ``layer`` and ``sentence``.
    """
    texts = [bench.source.decode(written) for _, written in bench.test[:8]]
    sentences = {text: i for i, text in enumerate(texts)}
    layers = {f"{i + 1}": i for i in range(len(bench.teacher.decoder))}
    controls = {
        "stand_in": choice("At the cross site", options=bench.names_at(("cross", 0)),
                           value=ATTENTION, tooltip="What answers the queries"),
        "layer": choice("Layer", options=layers, tooltip="Decoder layer, counted from the first"),
        "sentence": choice("Target", options=sentences, tooltip="What the decoder is given"),
    }  # fmt: skip

    @lru_cache(maxsize=64)
    def moved(stand_in: str, layer: int, sentence: int) -> NDArray[np.float64]:
        module = bench.modules({("cross", layer): stand_in})["cross", layer]
        return influence(bench.teacher, bench.test[sentence], layer=layer, stand_in=module)

    def draw(**values: Any) -> Figure:
        words = ["<bos>", *texts[values["sentence"]].split()]
        return plot_influence(moved(**values), words=words).figure

    def describe(**values: Any) -> str:
        what = f"{values['stand_in'].capitalize()}, decoder layer {values['layer'] + 1}."
        return f"{what} {describe_influence(moved(**values))} White line: the present."

    return show_explorer(draw, controls, presets=presets, describe=describe)


# Translations side by side


def show_translations(
    bench: Workbench,
    models: Mapping[str, Mapping[Key, str]],
    *,
    presets: Sequence[Mapping[str, Any]],
) -> Explorer | None:
    """Show what several translators make of one sentence that the reader puts together.

    Args:
        models: Swaps by the title that a translator gets.
        presets: Settings of ``begins`` and ``goes_on``.
    """
    controls = {
        "begins": choice("Begins", options=list(SUBJECTS), tooltip="The subject"),
        "goes_on": choice("Goes on", options=list(ENDINGS), tooltip="Verb, and perhaps an object"),
    }

    def write(*, begins: str, goes_on: str) -> dict[str, str]:
        text = f"{begins} {goes_on}"
        right = bench.source.decode(bench.source.translate(bench.source.encode(text)))
        found = {title: bench.translate(text, swaps) for title, swaps in models.items()}
        said = {t: f"{v or '(nothing)'}{_mark(v, right)}" for t, v in found.items()}
        return {"Right": right, **said}

    def describe(*, begins: str, goes_on: str) -> str:
        return f"Translations of '{begins} {goes_on}'; ^ marks words that stand wrong."

    return show_playground(write, controls, presets=presets, describe=describe)


def _mark(written: str, right: str) -> str:
    """Return a second line with carets under the words that are not those of the right one."""
    found, wanted = written.split(), right.split()
    wanted += [""] * (len(found) - len(wanted))
    marks = [("^" if a != b else " ") * len(a) for a, b in zip(found, wanted, strict=False)]
    missing = len(wanted) - len(found)
    line = " ".join(marks).rstrip() + (f"  ({missing} missing)" if missing > 0 else "")
    return f"\n{line}" if line.strip() else ""
