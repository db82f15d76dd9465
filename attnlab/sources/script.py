"""A small language for scripts: what may be said, in which order, with which chances."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from attnlab.errors import AttnlabError

Label = str | tuple[str, str]  # a word, or (role, form)
PIECE = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^\s\[\]{}]+")


@dataclass(frozen=True)
class Say:
    """Say one word, or one form of a role."""

    label: Label


@dataclass(frozen=True)
class Then:
    """Say the parts one after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Choose:
    """Say one of the options, with these chances."""

    options: tuple[Node, ...]
    chances: tuple[float, ...]


@dataclass(frozen=True)
class Again:
    """Say the body once, then once more with chance ``p_again``, and so on."""

    body: Node
    p_again: float

    def __post_init__(self) -> None:
        """Refuse a loop that could turn without a word, or for ever."""
        if not 0 <= self.p_again < 1 or _may_be_silent(self.body):
            raise AttnlabError(
                f"A part said again with chance {self.p_again} must say at least one word each "
                "time, and the chance must be below 1. To leave it out, choose around the loop."
            )


Node = Say | Then | Choose | Again


@dataclass(frozen=True)
class Arc:
    """One way to go on from a place: what is said, how likely, and where it leads."""

    label: Label
    chance: float
    to: int


def _may_be_silent(node: Node) -> bool:
    if isinstance(node, Then):
        return all(map(_may_be_silent, node.parts))
    return isinstance(node, Choose) and any(map(_may_be_silent, node.options))


def line(text: str) -> Then:
    """Read one line: words, roles in braces, even choices in brackets.

    ``"{hero.she} [ran|went slowly] home ."`` says a form of a role, one of two ways to go,
    two words. ``{hero}`` is short for ``{hero.name}``; an empty choice says nothing.
    """
    parts: list[Node] = []
    for piece in PIECE.findall(text):
        if piece[0] == "{":
            role, _, form = piece[1:-1].partition(".")
            parts.append(Say((role, form or "name")))
        elif piece[0] == "[":
            options = tuple(line(option) for option in piece[1:-1].split("|"))
            parts.append(Choose(options, (1 / len(options),) * len(options)))
        else:
            parts.append(Say(piece))
    return Then(tuple(parts))


def one_of(*texts: str, skip: float = 0.0) -> Choose:
    """Choose one of the lines evenly; with chance ``skip`` say nothing."""
    chances = ((1 - skip) / len(texts),) * len(texts)
    options: tuple[Node, ...] = tuple(map(line, texts))
    return Choose((*options, Then(())), (*chances, skip)) if skip else Choose(options, chances)


def determine(script: Node, *, end: str) -> list[list[Arc]]:
    """Turn a script into places with at most one arc a label.

    A place is the law of where in the script one can be after the labels so far; options
    that begin alike share places until they part.

    Returns:
        For each place its arcs, chances summing to one. Place 0 starts a tale; the arcs
        labelled ``end`` lead back to it.
    """
    steps = _Steps()
    last = steps.add(script, steps.new())
    steps.link(last, 1.0, end, 0)
    start = ((0, 1.0),)
    index = {start: 0}
    places: list[list[Arc]] = []
    for place in (order := [start]):
        places.append([])
        for label, chance, following in _moves(steps, place):
            if following not in index:
                index[following] = len(order)
                order.append(following)
            places[-1].append(Arc(label, chance, index[following]))
        if len(places) > 20_000:
            raise AttnlabError(
                "The script needs more than 20,000 places. Two loops that say the same "
                "words are the usual cause; let them begin differently."
            )
    return places


class _Steps:
    """A graph of points with labelled and silent links, each with its chance."""

    def __init__(self) -> None:
        self.links: list[list[tuple[float, Label | None, int]]] = []

    def new(self) -> int:
        self.links.append([])
        return len(self.links) - 1

    def link(self, start: int, chance: float, label: Label | None, to: int) -> None:
        if chance > 0:
            self.links[start].append((chance, label, to))

    def add(self, node: Node, start: int) -> int:
        """Add a node after point ``start``; return the point after it."""
        if isinstance(node, Then):
            for part in node.parts:
                start = self.add(part, start)
            return start
        after = self.new()
        if isinstance(node, Say):
            self.link(start, 1.0, node.label, after)
        elif isinstance(node, Choose):
            for option, chance in zip(node.options, node.chances, strict=True):
                first = self.new()
                self.link(start, chance, None, first)
                self.link(self.add(option, first), 1.0, None, after)
        else:
            first = self.new()
            self.link(start, 1.0, None, first)
            last = self.add(node.body, first)
            self.link(last, node.p_again, None, first)
            self.link(last, 1 - node.p_again, None, after)
        return after

    def labelled(self, point: int, chance: float) -> list[tuple[float, Label, int]]:
        """Follow silent links to the labelled ones."""
        found = []
        for p, label, to in self.links[point]:
            if label is None:
                found += self.labelled(to, chance * p)
            else:
                found.append((chance * p, label, to))
        return found


def _moves(
    steps: _Steps, place: Sequence[tuple[int, float]]
) -> list[tuple[Label, float, tuple[tuple[int, float], ...]]]:
    """Return each label that can follow, its chance, and the place it leads to."""
    by_label: dict[Label, dict[int, float]] = {}
    for point, share in place:
        for chance, label, to in steps.labelled(point, share):
            target = by_label.setdefault(label, {})
            target[to] = target.get(to, 0.0) + chance
    total = sum(sum(target.values()) for target in by_label.values())
    moves = []
    for label, target in by_label.items():
        chance = sum(target.values())
        # rounded, so that two ways to the same place meet in spite of the last bits
        following = tuple(sorted((to, round(p / chance, 12)) for to, p in target.items()))
        moves.append((label, chance / total, following))
    return moves
