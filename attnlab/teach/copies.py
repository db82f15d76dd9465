"""A learner's copies of the notebooks: no solutions, under each exercise a cell to write in."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import jupytext
import nbformat
from nbformat import NotebookNode

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.paths import read_whole, require_folder, write_whole

MARKER = "# SOLUTION"  # parts what an exercise gives, as a signature, from what it asks for
STUB = "# Write it here, in place of the next line. Run this cell, then the one below."
EXERCISE = re.compile(r"\*\*(Exercise|Build) (\d+)(?:\.(\d+))?\*\* \(difficulty (\d)")
State = Literal["absent", "same", "untouched", "changed"]


def list_sources(folder: Path) -> list[Path]:
    """Return the notebook sources of a ``notebooks`` folder, in reading order."""
    return sorted((folder / "src").glob("[0-9]*.py"))


def find_source(name: str, sources: Sequence[Path]) -> Path:
    """Return the source that ``3``, ``03``, ``03_extractor`` or ``03_extractor.ipynb`` names.

    Raises:
        UnknownNameError: None of them is meant.
    """
    stem = Path(name).stem
    for source in sources:
        if source.stem == stem or source.stem.split("_")[0] == stem.zfill(2):
            return source
    known = [source.stem for source in sources]
    raise UnknownNameError("notebook", name, known, next_step="Give its number.")


def make_copy(source: Path) -> NotebookNode:
    """Return a notebook to work in: nothing is run, and the answers are to be written.

    The cells of an exercise carry what nbgrader reads: the answer belongs to the learner, its check
    is locked and worth as many points as the exercise is difficult. A hash of the text is kept, by
    which ``update_copies`` tells whether a learner has changed something.
    """
    notebook = jupytext.read(source, fmt="py:percent")
    cells = notebook.cells
    for index, cell in enumerate(cells):
        cell.id = hashlib.sha256(f"{source.stem}/{index}".encode()).hexdigest()[:12]
        cell.metadata.pop("lines_to_next_cell", None)  # of the layout of the source
    for statement, answer, check in zip(cells, cells[1:], cells[2:], strict=False):
        if "solution" in answer.metadata.get("tags", ()):
            _make_exercise(statement, answer, check)
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata = NotebookNode(kernelspec=kernel, language_info={"name": "python"})
    notebook.metadata["attnlab"] = {"made_sha256": _digest(notebook)}
    nbformat.validate(notebook)
    return notebook


def _make_exercise(statement: NotebookNode, answer: NotebookNode, check: NotebookNode) -> None:
    found = EXERCISE.search(statement.source)
    if found is None:
        first = answer.source.splitlines()[0]
        raise AttnlabError(
            f"The solution {first!r} stands below no exercise. Let the cell before it begin as "
            "'**Exercise 3.1** (difficulty 2, ...'."
        )
    kind, *numbers, difficulty = found.groups()
    name = "-".join([kind.lower(), *filter(None, numbers)])
    given, marker, _ = answer.source.partition(MARKER)
    indent = given.rpartition("\n")[2] if marker else ""
    answer.source = f"{given}{STUB}\n{indent}raise NotImplementedError"
    grading = {"schema_version": 3, "task": False}
    answer.metadata = NotebookNode(
        nbgrader={**grading, "grade_id": name, "solution": True, "grade": False, "locked": False}
    )
    check.metadata["nbgrader"] = {
        **grading,
        **{"grade_id": f"{name}-check", "points": int(difficulty)},
        **{"solution": False, "grade": True, "locked": True},
    }


def update_copies(sources: Sequence[Path], *, folder: Path) -> list[str]:
    """Bring a folder of copies up to date; return a line for each thing that a learner may notice.

    A missing copy is made. One whose source has changed is made again if the learner has written
    nothing into it; if so, it stays, and the new one stands beside it as ``.updated.ipynb``.
    """
    require_folder(folder)
    made, again, kept = [], [], []
    for source in sources:
        copy = make_copy(source)
        for target in _places(folder, source.stem):
            state = _state(target, copy)
            if state in ("absent", "untouched"):
                write_whole(target, nbformat.writes(copy) + "\n")
                own = folder / f"{source.stem}.ipynb"
                if target != own:
                    kept.append(
                        f"{own.name} has changed in the workbook, and so has yours: yours stays, "
                        f"the workbook's is {target.name} beside it."
                    )
                elif state == "absent":
                    made.append(source.stem)
                else:
                    again.append(source.stem)
            if state != "changed":
                break
    lines = [f"Made in {folder}: {', '.join(made)}."] if made else []
    lines += [f"Brought up to date, you had not changed them: {', '.join(again)}."] if again else []
    return [*lines, *kept]


def reset_copy(source: Path, *, folder: Path) -> str:
    """Make a copy again, keep the learner's under a dated name, and return a line that names it."""
    require_folder(folder)
    own, copy = folder / f"{source.stem}.ipynb", make_copy(source)
    line = f"{own.name} is as it was at the start."
    if own.exists():
        backup = _backup(own)
        own.rename(backup)
        line = f"{line} Yours is kept as {backup.name} beside it."
    write_whole(own, nbformat.writes(copy) + "\n")
    for beside in folder.glob(f"{source.stem}.updated*.ipynb"):
        if len(set(_hashes(beside))) == 1:  # nobody wrote into it
            beside.unlink()
    return line


def _places(folder: Path, stem: str) -> Iterator[Path]:
    """Yield where a copy may stand: in its place, then beside those that a learner changed."""
    yield folder / f"{stem}.ipynb"
    yield folder / f"{stem}.updated.ipynb"
    number = 2
    while True:
        yield folder / f"{stem}.updated-{number}.ipynb"
        number += 1


def _backup(own: Path) -> Path:
    stem, number = f"{own.stem}.until-{datetime.now():%Y-%m-%d-%H%M%S}", 1
    while (backup := own.with_name(f"{stem}{f'-{number}' * (number > 1)}.ipynb")).exists():
        number += 1
    return backup


def _state(target: Path, copy: NotebookNode) -> State:
    """Say whether a file is missing, made from the same text, from another one, or changed."""
    if not os.path.lexists(target):
        return "absent"
    made, today = _hashes(target)
    if made == copy.metadata["attnlab"]["made_sha256"]:
        return "same"
    return "untouched" if made == today else "changed"


def _hashes(target: Path) -> tuple[str, str]:
    """Return the hash of what a copy was made with, and that of what it holds today."""
    try:
        there = json.loads(read_whole(target))
        return there["metadata"]["attnlab"]["made_sha256"], _digest(there)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", "the learner's own"  # nothing that was made here


def _digest(notebook: NotebookNode) -> str:
    """Return a hash of what is written in a notebook; outputs and empty cells do not count."""
    texts = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    written = json.dumps([text for text in texts if text[1].strip()])
    return hashlib.sha256(written.encode()).hexdigest()
