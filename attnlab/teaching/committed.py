"""What must be true of an executed notebook before anybody runs it again."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat
from jupytext.compare import NotebookDifference, compare_notebooks
from nbformat import NotebookNode

from attnlab.teaching.anatomy import tags_of
from attnlab.teaching.notebook_runner import WIDGET_STATE, source_digest

MAX_BYTES = 1_000_000
SMALLEST_PICTURE = (100, 50)  # width and height in pixels
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
REMOTE = re.compile(
    r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//|@import\s+url\(|cdn\.|unpkg\.com|jsdelivr", re.I
)


def find_problems(target: Path, *, source: Path) -> list[str]:
    """Return one sentence for each way in which a stored notebook is not what its source says.

    Args:
        target: The executed ``.ipynb``.
        source: The ``.py`` it was made from.
    """
    notebook = nbformat.read(target, as_version=4)
    checks = (
        _pair(notebook, source),
        _size(target),
        _execution(notebook),
        _streams(notebook),
        _widgets(notebook),
        _pictures(notebook),
        _texts(notebook),
    )
    return [problem for check in checks for problem in check]


def picture_size(png: str) -> tuple[int, int]:
    """Return width and height in pixels of a base64 PNG.

    Raises:
        ValueError: The text is not a PNG.
    """
    data = base64.b64decode(png)
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or b"IEND" not in data[-12:]:
        raise ValueError("not a whole PNG")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _code(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    yield from enumerate(code, start=1)


def _outputs(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    for number, cell in _code(notebook):
        for output in cell.outputs:
            yield number, output


def _pair(notebook: NotebookNode, source: Path) -> Iterator[str]:
    again = "Run 'make notebooks'; nothing else writes .ipynb files."
    stamped = notebook.metadata.get("attnlab", {}).get("source_sha256")
    if stamped != source_digest(source):
        yield f"It was not made from the present text of {source.name}. {again}"
    try:
        compare_notebooks(
            notebook,
            jupytext.read(source, fmt="py:percent"),
            fmt="py:percent",
            compare_outputs=False,
        )
    except NotebookDifference as difference:
        first = str(difference).strip().splitlines()[0]
        yield f"Its cells differ from {source.name}: {first} {again}"


def _size(target: Path) -> Iterator[str]:
    size = target.stat().st_size
    if size > MAX_BYTES:
        yield f"It has {size / 1e6:.2f} MB; 1 MB is the most. Fewer or smaller pictures?"


def _execution(notebook: NotebookNode) -> Iterator[str]:
    counts = [cell.execution_count for _, cell in _code(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"Its cells were not run once each from top to bottom: {counts}."


def _streams(notebook: NotebookNode) -> Iterator[str]:
    for number, output in _outputs(notebook):
        if output.output_type == "error":
            yield f"Code cell {number} stores an error: {output.ename}."
        if output.get("name") == "stderr":
            yield f"Code cell {number} stores standard error: {output.text.strip()[:80]!r}."


def _widgets(notebook: NotebookNode) -> Iterator[str]:
    widgets = notebook.metadata.get("widgets", {})
    if widgets and "state" not in widgets.get(WIDGET_STATE, {}):
        yield "Its widget metadata has no 'state', and GitHub then shows nothing at all."
    state = widgets.get(WIDGET_STATE, {}).get("state", {})
    for number, output in _outputs(notebook):
        view = output.get("data", {}).get(WIDGET_VIEW)
        if view and view.get("model_id") not in state:
            yield f"Code cell {number} shows a widget whose state is not stored."
    for number, cell in _code(notebook):
        shown = [o for o in cell.outputs if WIDGET_VIEW in o.get("data", {})]
        if "widget" in tags_of(cell) and not shown:
            yield f"Code cell {number} is tagged 'widget' and shows none."


def _pictures(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in _code(notebook):
        pictures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
        if len(pictures) > 1 and "widget" not in tags_of(cell):
            yield f"Code cell {number} shows {len(pictures)} pictures; one is the most."
        for output in pictures:
            yield from _one_picture(number, cell, output)


def _one_picture(number: int, cell: NotebookNode, output: NotebookNode) -> Iterator[str]:
    alt = output.get("metadata", {}).get("image/png", {}).get("alt") or cell.metadata.get("alt")
    if not alt or len(str(alt).split()) < 3:
        yield (
            f"A picture of code cell {number} has no alt text: "
            "display(fig, metadata={'image/png': {'alt': ...}})."
        )
    try:
        size = picture_size(output.data["image/png"])
    except ValueError:
        yield f"A picture of code cell {number} is not a whole PNG."
        return
    if size[0] < SMALLEST_PICTURE[0] or size[1] < SMALLEST_PICTURE[1]:
        yield f"A picture of code cell {number} is only {size[0]} x {size[1]} pixels."


def _texts(notebook: NotebookNode) -> Iterator[str]:
    for number, output in _outputs(notebook):
        data = output.get("data", {})
        texts = [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]
        if any(" at 0x" in text for text in texts):
            yield f"Code cell {number} prints the address of an object."
        if REMOTE.search(data.get("text/html", "")):
            yield f"Code cell {number} shows HTML that loads from another machine."
