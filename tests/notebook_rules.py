"""The rules of notebooks: the shape of every source, and what an executed copy must hold."""

from __future__ import annotations

import ast
import base64
import io
import re
from collections.abc import Iterator, Sequence
from html import unescape
from itertools import pairwise
from pathlib import Path

import jupytext
import nbformat
from jupytext.compare import NotebookDifference, compare_notebooks
from minutes import count_code_lines, count_words
from nbformat import NotebookNode
from PIL import Image

from attnlab.show.panels import LIVE
from attnlab.show.words import MOST_PRINTED
from notebooks import WIDGET_VIEW, source_digest

TAGS = {"setup", "hide-input", "agreement", "check", "widget", "slow", "exercise", "solution"}
TAGS |= {"hint", "nbval-check-output", "nbval-ignore-output"}
MOST = {"code": 30, "words": 120, "cells": 60, "setup names": 8, "bytes": 1_000_000}
SMALLEST_PICTURE = (100, 50)  # width and height in pixels
ENDINGS = ("Summary", "What we did not show", "Notation", "Sources")
UNTESTABLE = ("understand", "know", "learn", "appreciate", "be familiar", "see")
GOALS = re.compile(r"learning goals", re.IGNORECASE)
MINUTES = re.compile(r"\d+\s*(?:min\b|minutes\b)|minutes:?\**:?\s*(?:about\s*)?\d+", re.IGNORECASE)
LINK = re.compile(r"\]\((\d\d_[a-z0-9_]+\.ipynb)[^)]*\)")
REMOTE_PICTURE = re.compile(
    r"!\[[^\]]*\]\(\s*https?:|<(?:img|iframe|script|link)\b[^>]*https?:", re.I
)
REMOTE_HTML = re.compile(
    r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//|@import\s+url\(|cdn\.|unpkg\.com|jsdelivr", re.I
)
IMAGE = re.compile(r"<img alt='([^']*)'[^>]*base64,([^']*)'", re.DOTALL)
LINE_COMMAND = re.compile(r"^%|^\s*!", re.MULTILINE)


def shape_problems(notebook: NotebookNode, *, number: int, names: Sequence[str]) -> list[str]:
    """Return one sentence for each rule of the common shape that a notebook breaks.

    Args:
        number: The notebook's own number; its equations are numbered ``number.1``, ...
        names: File names of all notebooks, in reading order.
    """
    cells = notebook.cells
    checks = (
        _title(cells, number, names),
        _goals(cells),
        _setup(cells, number),
        _sections(cells),
        _exercises(cells, number),
        _endings(cells),
        _equations(cells, number),
        _each_cell(cells),
    )
    return [problem for check in checks for problem in check]


def stored_problems(target: Path, *, source: Path) -> list[str]:
    """Return one sentence for each way in which a stored notebook is not what its source says.

    Args:
        target: The executed ``.ipynb``.
        source: The ``.py`` it was made from.
    """
    notebook = nbformat.read(target, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    checks = (
        _pair(notebook, source),
        _whole(target, notebook, code),
        *(_stored_cell(n, cell, notebook, MOST_PRINTED) for n, cell in enumerate(code, start=1)),
    )
    return [problem for check in checks for problem in check]


def tags_of(cell: NotebookNode) -> list[str]:
    """Return the tags of a cell."""
    return list(cell.metadata.get("tags", []))


def _title(cells: list, number: int, names: Sequence[str]) -> Iterator[str]:
    text = cells[0].source if cells and cells[0].cell_type == "markdown" else ""
    if not re.match(rf"# .*\b0?{number}\b", text):
        yield f"Cell 1 must be Markdown and begin with '# ' and the number {number}."
    if not MINUTES.search(text):
        yield "The title cell must say how many minutes the notebook takes."
    if not re.search(r"prerequisite|before this|you need|needs", text, re.IGNORECASE):
        yield "The title cell must name the prerequisites ('**Prerequisites:** none' is fine)."
    here = next((i for i, name in enumerate(names) if name.startswith(f"{number:02d}_")), None)
    places = [] if here is None else [i for i in (here - 1, here + 1) if 0 <= i < len(names)]
    for neighbour in (names[place] for place in places):
        if neighbour not in LINK.findall(text):
            yield f"The title cell must link to its neighbour, as in [next]({neighbour})."


def _goals(cells: list) -> Iterator[str]:
    goals = next((c for c in cells[:5] if GOALS.search(c.source)), None)
    if goals is None:
        yield "One of the first five cells must be headed 'Learning goals'."
        return
    items = re.findall(r"^\s*(?:[-*]|\d+\.)\s+(.*)", goals.source, re.MULTILINE)
    if not 3 <= len(items) <= 5:
        yield f"Learning goals must be a list of three to five; these are {len(items)}."
    for item in items:
        if item.strip("*_ ").lower().startswith(UNTESTABLE):
            yield f"A learning goal must start with a verb one can test; this does not: {item!r}."


def _setup(cells: list, number: int) -> Iterator[str]:
    """The first notebook opens with a picture; its setup cell may stand below."""
    code = [cell for cell in cells if cell.cell_type == "code"]
    tagged = [cell for cell in code if "setup" in tags_of(cell)]
    if len(tagged) != 1 or (number > 0 and tagged[0] is not code[0]):
        yield "Exactly the first code cell must carry the tag 'setup'."
    elif not re.search(r"\bbanner\(\s*minutes=\d+", tagged[0].source):
        yield "The setup cell must call banner(minutes=...)."
    for cell in tagged[:1]:
        imports = (n for n in ast.walk(ast.parse(cell.source)) if hasattr(n, "names"))
        n_names = sum(len(node.names) for node in imports)
        if n_names > MOST["setup names"]:
            yield f"The setup cell imports {n_names} names; {MOST['setup names']} is the most."


def _headings(cells: list) -> list[tuple[int, str]]:
    return [
        (index, line.removeprefix("## ").strip())
        for index, cell in enumerate(cells)
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("## ")
    ]


def _ending(heading: str) -> str | None:
    """Return which of ``ENDINGS`` a heading is."""
    bare = heading.lower().lstrip("0123456789. ")
    return next((ending for ending in ENDINGS if bare.startswith(ending.lower())), None)


def _sections(cells: list) -> Iterator[str]:
    headings = _headings(cells)
    sections = [(i, h) for i, h in headings if not (GOALS.search(h) or _ending(h))]
    if not sections:
        yield "There must be at least one section (a heading that starts with '## ')."
    starts = [index for index, _ in headings] + [len(cells)]
    for index, heading in sections:
        if not re.search(r"\(\d+(?:\.\d+)? min\)\W*$", heading):
            yield f"The heading {heading!r} must end with its minutes, as in '*(8 min)*'."
        end = next(start for start in starts if start > index)
        body = " ".join(c.source for c in cells[index:end] if c.cell_type == "markdown")
        if "takeaway" not in body.lower():
            yield f"Section {heading!r} has no takeaway ('**Takeaway.** ...')."


def _exercises(cells: list, number: int) -> Iterator[str]:
    places = [i for i, cell in enumerate(cells) if "exercise" in tags_of(cell)]
    if number in range(1, 90) and len(places) < 2:
        yield f"There must be at least two exercises; there are {len(places)}."
    for place, end in pairwise([*places, len(cells)]):
        text = cells[place].source
        name = text.strip().splitlines()[0][:50] if text.strip() else "an empty cell"
        if cells[place].cell_type != "markdown":
            yield f"The tag 'exercise' belongs on the Markdown statement, not on code: {name!r}."
        if not re.search(r"difficulty\D{0,12}[1-5]", text, re.IGNORECASE):
            yield f"Exercise {name!r} must say its difficulty, 1 to 5."
        if not MINUTES.search(text):
            yield f"Exercise {name!r} must say its minutes."
        if not any("solution" in tags_of(cell) for cell in cells[place:end]):
            yield f"Exercise {name!r} must be followed by a cell with the tag 'solution'."


def _endings(cells: list) -> Iterator[str]:
    found = [ending for ending in (_ending(h) for _, h in _headings(cells)) if ending]
    for ending in ENDINGS:
        if ending not in found:
            yield f"There must be a heading '## {ending}' near the end."
    firsts = list(dict.fromkeys(found))
    if firsts != sorted(firsts, key=ENDINGS.index):
        yield f"The last headings must come in this order: {', '.join(ENDINGS)}."


def _equations(cells: list, number: int) -> Iterator[str]:
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    tags = re.findall(r"\\tag\{(\d+\.\d+)\}", text)
    if tags != [f"{number}.{index}" for index in range(1, len(tags) + 1)]:
        shown = ", ".join(tags)
        yield f"Equations must be numbered {number}.1, {number}.2, ... in order; found {shown}."


def _each_cell(cells: list) -> Iterator[str]:
    if len(cells) > MOST["cells"]:
        yield f"A notebook has at most {MOST['cells']} cells; this one has {len(cells)}."
    for index, cell in enumerate(cells, start=1):
        tags, is_code, text = set(tags_of(cell)), cell.cell_type == "code", cell.source
        first = (text.splitlines() or [""])[0]
        for tag in sorted(tags - TAGS):
            yield f"Cell {index} has the unknown tag {tag!r}. Known: {', '.join(sorted(TAGS))}."
        if "widget" in tags and "nbval-ignore-output" not in tags:
            yield f"Cell {index} is tagged 'widget' and needs 'nbval-ignore-output' as well."
        if {"nbval-check-output", "nbval-ignore-output"} <= tags:
            yield f"Cell {index} asks for its output to be both compared and ignored."
        if not text.strip():
            yield f"Cell {index} is empty."
        if is_code and (n := count_code_lines(text)) > MOST["code"]:
            yield f"Cell {index} has {n} lines of code; {MOST['code']} is the most: {first!r}"
        if is_code and LINE_COMMAND.search(text):
            yield f"Cell {index} uses a % magic or a ! command; write Python."
        if not is_code and (n := count_words(text)) > MOST["words"]:
            yield f"Cell {index} has {n} words; {MOST['words']} is the most. Split it: {first!r}"
        if not is_code and REMOTE_PICTURE.search(text):
            yield f"Cell {index} loads a picture or a script from another machine."


def _pair(notebook: NotebookNode, source: Path) -> Iterator[str]:
    again = "Run 'make notebooks'; nothing else writes .ipynb files."
    if notebook.metadata.get("attnlab", {}).get("source_sha256") != source_digest(source):
        yield f"It was not made from the present text of {source.name}. {again}"
    fmt = "py:percent"
    try:
        written = jupytext.read(source, fmt=fmt)
        compare_notebooks(notebook, written, fmt=fmt, compare_outputs=False)
    except NotebookDifference as difference:
        first = str(difference).strip().splitlines()[0]
        yield f"Its cells differ from {source.name}: {first} {again}"


def _whole(target: Path, notebook: NotebookNode, code: list) -> Iterator[str]:
    size = target.stat().st_size
    if size > MOST["bytes"]:
        yield f"It has {size / 1e6:.2f} MB; 1 MB is the most. Fewer or smaller pictures?"
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(counts) + 1)):
        yield f"Its cells were not run once each from top to bottom: {counts}."
    if "widgets" in notebook.metadata:
        yield "It stores the state of widgets, and sliders that move nothing are then shown."


def _stored_cell(
    number: int, cell: NotebookNode, notebook: NotebookNode, most_printed: int
) -> Iterator[str]:
    shown = [output.get("data", {}) for output in cell.outputs]
    n_pictures = sum(len(pictures_of(output)) for output in cell.outputs)
    if "widget" in tags_of(cell) and not any(LIVE in d.get("text/plain", "") for d in shown):
        yield f"Code cell {number} is tagged 'widget' and shows none."
    if n_pictures > 1 and "widget" not in tags_of(cell):
        yield f"Code cell {number} shows {n_pictures} pictures; one is the most."
    for output, data in zip(cell.outputs, shown, strict=True):
        texts = [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]
        if output.output_type == "error":
            yield f"Code cell {number} stores an error: {output.ename}."
        if output.get("name") == "stderr":
            yield f"Code cell {number} stores standard error: {output.text.strip()[:80]!r}."
        if WIDGET_VIEW in data:
            yield f"Code cell {number} stores a widget, which is dead without its kernel."
        lines = output.get("text", "").splitlines()
        longest = max(map(len, lines), default=0)
        if longest > most_printed:
            yield (
                f"Code cell {number} prints a line of {longest} characters; {most_printed} is "
                "the most: a page breaks it inside a word. See attnlab.show.wrapped."
            )
        if any(" at 0x" in text for text in texts):
            yield f"Code cell {number} prints the address of an object."
        if REMOTE_HTML.search(data.get("text/html", "")):
            yield f"Code cell {number} shows HTML that loads from another machine."
        for alt, png in pictures_of(output):
            yield from _picture(number, alt or cell.metadata.get("alt"), png)


def pictures_of(output: NotebookNode) -> list[tuple[str, bytes]]:
    """Return alt text and PNG of each picture of an output."""
    data = output.get("data", {})
    found = [
        (unescape(alt), base64.b64decode(png))
        for alt, png in IMAGE.findall(data.get("text/html", ""))
    ]
    if "image/png" in data:
        alt = output.metadata.get("image/png", {}).get("alt", "")
        found.append((alt, base64.b64decode(data["image/png"])))
    return found


def _picture(number: int, alt: str | None, png: bytes) -> Iterator[str]:
    if not alt or len(str(alt).split()) < 3:
        yield f"A picture of code cell {number} has no alt text; use show or explore."
    try:
        picture = Image.open(io.BytesIO(png), formats=["PNG"])
        picture.load()
    except (OSError, SyntaxError):
        yield f"A picture of code cell {number} is not a whole PNG."
        return
    if picture.width < SMALLEST_PICTURE[0] or picture.height < SMALLEST_PICTURE[1]:
        yield f"A picture of code cell {number} is only {picture.width} x {picture.height} pixels."
