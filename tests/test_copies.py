"""A learner's copies: no solutions in them, nothing lost, and nbgrader grades them.

Nightly, ``ATTNLAB_COPIES=all``: nbgrader's validator on every notebook, and ten copies graded.
"""

import ast
import csv
import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from attnlab.cli import main
from attnlab.errors import AttnlabError
from attnlab.teach.copies import MARKER, list_sources, make_copy

ROOT = Path(__file__).resolve().parents[1]
SOURCES = list_sources(ROOT / "notebooks")
ALL = os.environ.get("ATTNLAB_COPIES") == "all"
every_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
SUMS = '''# %% [markdown]
# # 91 · Sums
#
# Two plain sums.

# %% tags=["setup"]
import numpy as np

from attnlab.teach import Exercise

CASES = [("one number", np.array([3.0])), ("two", np.array([1.0, 2.0]))]
check_mean = Exercise(np.mean, CASES, limit_s=0.5)
check_spread = Exercise(np.std, CASES, limit_s=0.5)

# %% [markdown] tags=["exercise"]
# **Exercise 91.1** (difficulty 1, 2 min). Write `mean(x)`.


# %% jupyter={"source_hidden": true} tags=["solution"]
def mean(x):
    """Return the mean of some numbers."""
    # SOLUTION
    return x.sum() / len(x)


# %%
mean = check_mean.hand_on(mean)

# %% [markdown] tags=["exercise"]
# **Build 91** (difficulty 3, 5 min; builds on exercise 91.1). Write `spread(x)`.


# %% jupyter={"source_hidden": true} tags=["solution"]
def spread(x):
    """Return the root of the mean squared distance from the mean."""
    # SOLUTION
    return mean((x - mean(x)) ** 2) ** 0.5


# %%
spread = check_spread.hand_on(spread)
print("of 1 and 3:", spread(np.array([1.0, 3.0])))
'''
MEAN, SPREAD = "return x.sum() / len(x)", "return mean((x - mean(x)) ** 2) ** 0.5"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Two small notebooks in a checkout of their own, paired as in ours."""
    folder = tmp_path / "notebooks" / "src"
    folder.mkdir(parents=True)
    for number in ("91", "92"):
        (folder / f"{number}_sums.py").write_text(SUMS.replace("91", number), encoding="utf-8")
    pairs = (ROOT / "pyproject.toml").read_text("utf-8").partition("[tool.jupytext]")[2]
    pairs = pairs.partition("\n[")[0]
    (tmp_path / "pyproject.toml").write_text(f"[tool.jupytext]{pairs}", encoding="utf-8")
    monkeypatch.setattr("attnlab.paths.ROOT", tmp_path)
    yield tmp_path
    gc.collect()  # what servers and databases leave behind would end inside other tests


@pytest.fixture
def learn(checkout, capsys):
    """Return a function that calls the command and gives what it said."""

    def call(*words, code=0) -> str:
        assert main(["learn", *words]) == code
        said = capsys.readouterr()
        assert bool(said.err) == (code != 0)
        return said.err or said.out

    return call


def graded(notebook, *, kind: str) -> list:
    """Return the cells that nbgrader knows as ``solution`` or ``grade``."""
    return [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get(kind)]


def answer(file: Path, *bodies: str) -> None:
    """Type answers into a copy and save it, as JupyterLab does: with an empty cell at its end."""
    notebook = nbformat.read(file, as_version=4)
    for cell, body in zip(graded(notebook, kind="solution"), bodies, strict=True):
        cell.source = cell.source.replace("raise NotImplementedError", body)
    notebook.cells.append(nbformat.v4.new_code_cell(""))
    nbformat.write(notebook, file)


def edit(checkout: Path, name: str, old: str, new: str) -> None:
    source = checkout / "notebooks" / "src" / f"{name}.py"
    text = source.read_text(encoding="utf-8")
    assert old in text
    source.write_text(text.replace(old, new), encoding="utf-8")


def run(file: Path) -> str:
    """Run a copy in a fresh kernel, save it with what it shows, and return what it printed."""
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute(
        env=os.environ | {"ATTNLAB_STRICT": "0", "PYTHONPATH": str(ROOT)}
    )
    nbformat.write(notebook, file)
    texts = (out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ()))
    return "".join(texts)


@every_source
def test_a_copy_has_no_solution_and_each_exercise_can_be_written_and_graded(source):
    from nbgrader.nbgraderformat import MetadataValidator

    solved, copy = jupytext.read(source, fmt="py:percent"), make_copy(source)
    solutions = [c for c in solved.cells if "solution" in c.metadata.get("tags", ())]
    answers, checks = (graded(copy, kind=kind) for kind in ("solution", "grade"))
    assert len(solutions) == len(answers) == len(checks) >= 2
    for solution, cell, check in zip(solutions, answers, checks, strict=True):
        given, marker, body = solution.source.partition(MARKER)
        assert marker
        assert cell.source.startswith(given)
        assert cell.source.endswith("raise NotImplementedError")
        assert body.strip().splitlines()[-1] not in cell.source
        ast.parse(cell.source)
        assert "source_hidden" not in str(cell.metadata)
        assert re.search(r"check\w*[.(]", check.source)
        assert check.metadata.nbgrader.locked
        assert check.metadata.nbgrader.points in range(1, 6)
    MetadataValidator().validate_nb(copy)
    assert not any(cell.get("outputs") for cell in copy.cells)
    assert "jupytext" not in copy.metadata
    assert [c.source for c in copy.cells if c.cell_type == "markdown"] == [
        c.source for c in solved.cells if c.cell_type == "markdown"
    ]


@every_source
def test_what_cells_below_an_exercise_use_is_handed_on(source):
    code = [c for c in make_copy(source).cells if c.cell_type == "code"]
    for place, cell in enumerate(code):
        if not cell.metadata.get("nbgrader", {}).get("solution"):
            continue
        tree, check = ast.parse(cell.source), code[place + 1].source
        defined = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        below = "\n".join(other.source for other in code[place + 2 :])
        used = {n.id for n in ast.walk(ast.parse(below)) if isinstance(n, ast.Name)}
        used -= {n.name for n in ast.walk(ast.parse(below)) if isinstance(n, ast.FunctionDef)}
        for name in used.intersection(defined):
            assert re.search(rf"(?m)^{name} = .*\.hand_on\({name}\)$", check), (source.stem, name)


def test_a_student_solves_restarts_updates_and_begins_again_and_loses_nothing(checkout, learn):
    own, other = (checkout / "work" / f"{n}_sums.ipynb" for n in (91, 92))
    assert learn() == f"Made in {checkout / 'work'}: 91_sums, 92_sums.\n"
    assert "mean waits for you" in run(own)  # and the page runs to its end
    answer(own, MEAN, SPREAD)
    saved = own.read_bytes()

    assert "up to date" in learn()  # the next day
    assert own.read_bytes() == saved
    assert run(own).count("Correct: ") == 2
    saved = own.read_bytes()

    for name in ("91_sums", "92_sums"):  # the workbook below it changes
        edit(checkout, name, "Two plain sums.", "Two sums.")
    said = learn()
    assert said.count("\n") == 2
    assert "Brought up to date, you had not changed them: 92_sums." in said
    assert "yours stays, the workbook's is 91_sums.updated.ipynb beside it." in said
    assert own.read_bytes() == saved
    beside = own.with_name("91_sums.updated.ipynb")
    assert "Two sums." in beside.read_text()
    assert "Two sums." in other.read_text()
    assert "up to date" in learn()

    answer(beside, MEAN, "return x.std()")  # goes on there, and the workbook changes again
    edit(checkout, "91_sums", "Two sums.", "Sums.")
    assert "the workbook's is 91_sums.updated-2.ipynb beside it." in learn()
    assert "return x.std()" in beside.read_text()

    said = learn("--reset", "91")
    (backup,) = own.parent.glob("91_sums.until-*.ipynb")
    assert backup.name in said
    assert backup.read_bytes() == saved
    assert "raise NotImplementedError" in own.read_text()
    assert "Sums." in own.read_text()
    assert "return x.std()" in beside.read_text()
    assert not own.with_name("91_sums.updated-2.ipynb").exists()  # nobody wrote into it
    assert "up to date" in learn()


def test_two_resets_in_one_second_keep_both(checkout, learn):
    learn()
    own = checkout / "work" / "91_sums.ipynb"
    for body in ("return 1", "return 2"):
        answer(own, body, body)
        learn("--reset", "91_sums.ipynb")
    kept = [file.read_text() for file in own.parent.glob("91_sums.until-*.ipynb")]
    assert sorted(text.count("return 1") for text in kept) == [0, 2]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"cells": []}', b'{"cells": 3, "metadata": {"attnlab": 1}}',
     b'{"cells": [{"cell_type": "code"}], "metadata": {"attnlab": {"made_sha256": "0"}}}'],
)  # fmt: skip
def test_what_is_no_copy_of_ours_is_left_alone(checkout, learn, content):
    own = checkout / "work" / "91_sums.ipynb"
    own.parent.mkdir()
    own.write_bytes(content)
    assert "yours stays" in learn()
    assert own.read_bytes() == content
    assert own.with_name("91_sums.updated.ipynb").exists()


def test_mistakes_at_the_command_are_told(checkout, learn, monkeypatch):
    assert "Known: 91_sums, 92_sums" in learn("17", code=1)
    assert "attnlab learn --reset 03" in learn("--reset", code=1)
    (checkout / "file").touch()
    assert "cannot be written" in learn("--to", str(checkout / "file"), code=1)
    learn("91", "--to", str(checkout / "course" / "sums"))
    assert [file.name for file in (checkout / "course").rglob("*.*")] == ["91_sums.ipynb"]
    edit(checkout, "91_sums", "**Exercise 91.1**", "**91.1**")
    assert "stands below no exercise" in learn(code=1)
    monkeypatch.setattr("attnlab.paths.ROOT", None)
    assert "Clone the repository" in learn(code=1)


def test_saving_a_copy_in_jupyterlab_changes_no_other_file(checkout, learn):
    from jupyter_server.services.contents.largefilemanager import LargeFileManager
    from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class as build

    learn()
    before = {file: file.read_bytes() for file in checkout.rglob("*.*")}
    manager = build(LargeFileManager)(root_dir=str(checkout))
    model = manager.get("work/91_sums.ipynb")
    model["content"]["cells"][1]["source"] = "typed = 1"
    manager.save(model, "work/91_sums.ipynb")
    after = {file: file.read_bytes() for file in checkout.rglob("*.*") if file.is_file()}
    changed = [file for file, content in after.items() if before.get(file) != content]
    assert [file.name for file in changed if ".ipynb_checkpoints" not in file.parts] == [
        "91_sums.ipynb"
    ]


def test_a_solution_below_no_exercise_is_refused(tmp_path):
    source = tmp_path / "91_sums.py"
    source.write_text(SUMS.replace("**Build 91** (difficulty 3", "**Build 91** (hard"))
    with pytest.raises(AttnlabError, match="'def spread"):
        make_copy(source)


@pytest.mark.parametrize("name", ["91_sums", *(source.stem for source in SOURCES if ALL)])
def test_nbgraders_validator_passes_a_solved_copy_and_fails_each_exercise_of_another(
    checkout, monkeypatch, name
):
    from nbgrader.validator import Validator
    from traitlets.config import Config

    monkeypatch.setenv("ATTNLAB_STRICT", "grade")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = ROOT / "notebooks" if name != "91_sums" else checkout / "notebooks"
    source = folder / "src" / f"{name}.py"
    copy, file = make_copy(source), checkout / f"{name}.ipynb"
    validator = Validator(config=Config({"Execute": {"timeout": 600}}))
    nbformat.write(copy, file)
    failed = [cell["source"] for cell in validator.validate(str(file))["failed"]]
    assert failed == [cell.source.strip() for cell in graded(copy, kind="grade")]
    solved = jupytext.read(source, fmt="py:percent")
    solutions = [c for c in solved.cells if "solution" in c.metadata.get("tags", ())]
    for cell, solution in zip(graded(copy, kind="solution"), solutions, strict=True):
        cell.source = solution.source
    nbformat.write(copy, file)
    assert validator.validate(str(file)) == {}


CLASS = {  # by student: two answers, what is done to the copy, and points of 1 and 3
    "ada": (MEAN, SPREAD, "", 4),
    "ben": ("while True: pass", SPREAD, "", 3),  # what builds on a wrong answer still counts
    "eve": ("return None", "return x", "cells[4].source = cells[7].source = 'pass'", 0),
}
if ALL:
    CLASS |= {
        "kim": ("return x.sum()", "return x.std()", "del cells[4]", 3),
        "leo": ("raise NotImplementedError", "raise NotImplementedError", "", 0),
        "mia": (MEAN, "exit()", "", 1),
        "noa": ("return (", "return x.std()", "", 3),
        "pia": ("return float('nan')", "return 1 / 0", "", 0),
        "sam": ("return x.mean()", "return np.std(x)", "cells.append(cells[1])", 4),
        "tom": ("return 'three'", "return [x.std()]", "", 0),
    }


def test_a_teacher_hands_out_copies_and_nbgrader_grades_them(checkout, learn):
    course = checkout / "course"
    learn("91", "--to", str(course / "source" / "sums"))

    def nbgrader(*words) -> None:
        command = [sys.executable, "-m", "nbgrader", *words, f"--CourseDirectory.root={course}"]
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | {"ATTNLAB_STRICT": "grade", "PYTHONPATH": str(ROOT)}
        environment["PATH"] = programs  # nbgrader calls alembic by its name
        done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    nbgrader("generate_assignment", "sums", "--create", "--ClearSolutions.enabled=False")
    for student, (mean, spread, change, _) in CLASS.items():
        handed_in = course / "submitted" / student / "sums" / "91_sums.ipynb"
        handed_in.parent.mkdir(parents=True)
        handed_in.write_bytes((course / "release" / "sums" / "91_sums.ipynb").read_bytes())
        answer(handed_in, mean, spread)
        if change:
            notebook = nbformat.read(handed_in, as_version=4)
            exec(change, {"cells": notebook.cells})
            handed_in.write_text(json.dumps(notebook))
    nbgrader("autograde", "sums", "--create")
    nbgrader("export", f"--CsvExportPlugin.to={course / 'grades.csv'}")
    with (course / "grades.csv").open(encoding="utf-8") as file:
        points = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert points == {student: row[-1] for student, row in CLASS.items()}
