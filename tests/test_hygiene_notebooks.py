"""Every committed notebook: in step with its source, run to its end, and of the common shape."""

from pathlib import Path

import jupytext
import pytest

from attnlab.teaching import anatomy, committed
from attnlab.teaching.notebook_runner import list_sources, notebook_path

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SOURCES = list_sources(NOTEBOOKS)
every_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def test_there_are_notebooks():
    assert SOURCES, "notebooks/src holds no source, so nothing below would be tested"


def test_sources_and_notebooks_come_in_pairs():
    stored = {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    assert stored == {source.stem for source in SOURCES}


@every_source
def test_notebook_has_the_common_shape(source):
    problems = anatomy.find_problems(
        jupytext.read(source, fmt="py:percent"),
        number=int(source.stem.split("_")[0]),
        names=[f"{other.stem}.ipynb" for other in SOURCES],
    )
    assert not problems, "\n".join(problems)


@every_source
def test_stored_notebook_is_what_its_source_says(source):
    target = notebook_path(source)
    assert target.exists(), "It was never run: make notebooks"
    problems = committed.find_problems(target, source=source)
    assert not problems, "\n".join(problems)
