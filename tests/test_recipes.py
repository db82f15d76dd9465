"""The recipes of CONTRIBUTING.md, run as they stand there in a copy of the package."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(?:python|markdown)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?:#|<!--) ([\w/.]+)(, at its end)?(?: -->)?\n")
MOST_LINES = 30


def recipes() -> list[tuple[str, bool, str]]:
    """Return the file of each recipe, whether it stands there already, and the text."""
    found = []
    for text in FENCE.findall((ROOT / "CONTRIBUTING.md").read_text("utf-8")):
        if head := FILE.match(text):
            found.append((head[1], bool(head[2]), text[head.end() :]))
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A checkout without records in which every recipe was followed."""
    root = tmp_path_factory.mktemp("recipes") / "checkout"
    skipped = shutil.ignore_patterns("__pycache__", "fixtures", "test_hygiene_*")
    for folder in ("attnlab", "tests", "tools"):
        shutil.copytree(ROOT / folder, root / folder, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "data" / "runs").mkdir(parents=True)
    for name, is_there, text in recipes():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text((path.read_text("utf-8") if is_there else "") + text, "utf-8")
    (root / "attnlab" / "chapters" / "doubles" / "__init__.py").touch()
    return root


def run(root: Path, *words: str) -> str:
    """Run a module of Python in the copy; return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_recipe_is_short():
    assert len(recipes()) >= 7
    for name, _, text in recipes():
        code = [line for line in text.splitlines() if line and "import" not in line]
        assert len(code) <= MOST_LINES, name


def test_a_mixer_is_one_class_that_the_tests_find(copy):
    tests = ["tests/test_mixers.py", "tests/test_streaming.py", "tests/test_theory.py"]
    told = run(copy, "pytest", "-q", "-p", "no:cacheprovider", "-k", "fading", *tests)
    assert int(re.search(r"(\d+) passed", told)[1]) >= 5
    assert "fading" in run(copy, "attnlab", "list", "mixers")


def test_a_task_a_study_and_a_chapter_are_a_few_files(copy):
    run(copy, "attnlab", "study", "run", "doubles", "--corpus", "doubles")
    lines = (copy / "data" / "runs" / "doubles.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["variant"] for record in records] == ["she", "identity"]
    assert all(len(record["curve"]["loss_nats"]) == 2 for record in records)
    assert records[0]["metrics"]["oracle_nats"] == pytest.approx(1.0397, abs=1e-4)
    run(copy, "pytest", "-q", "-p", "no:cacheprovider", "tests/chapters/test_doubles.py")
    run(copy, "attnlab", "figure", "doubles", "--out", "figures")
    assert "ends lowest" in json.loads((copy / "figures" / "doubles.json").read_text())["caption"]
