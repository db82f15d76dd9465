"""Every notebook keeps the rules, and each rule finds what it says it finds: one mutation each."""

import base64
import io
import json
import re
from pathlib import Path

import jupytext
import nbformat
import notebook_rules as rules
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from PIL import Image

from notebooks import WIDGET_VIEW, list_sources, notebook_path

FIXTURES = Path(__file__).parent / "fixtures"
SOURCE = FIXTURES / "src" / "90_fixture.py"
STORED = FIXTURES / "90_fixture.ipynb"
NAMES = ["90_fixture.ipynb"]
NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SOURCES = list_sources(NOTEBOOKS)
LONG_SETUPS = {"09"}  # only ever shortened
every_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def test_sources_and_notebooks_come_in_pairs():
    assert SOURCES, "notebooks/src holds no source, so nothing below would be tested"
    stored = {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    assert stored == {source.stem for source in SOURCES}


@every_source
def test_every_notebook_has_the_common_shape(source):
    notebook = jupytext.read(source, fmt="py:percent")
    names = [f"{other.stem}.ipynb" for other in SOURCES]
    number = int(source.stem.split("_")[0])
    problems = rules.shape_problems(notebook, number=number, names=names)
    if source.stem[:2] in LONG_SETUPS:
        problems = [problem for problem in problems if "setup cell imports" not in problem]
    assert not problems, "\n".join(problems)


@every_source
def test_answers_are_not_given_away(source):
    """Right options stand in ``quiz.md``; solutions are folded, and each has its marker line."""
    notebook = jupytext.read(source, fmt="py:percent")
    assert "is_right=" not in source.read_text(encoding="utf-8")
    for cell in notebook.cells:
        if "solution" in rules.tags_of(cell):
            assert cell.metadata.get("jupyter", {}).get("source_hidden"), cell.source[:60]
            assert "# SOLUTION" in cell.source


@every_source
def test_every_notebook_has_something_to_build(source):
    builds = re.findall(r"^# \*\*Build (\d+)\*\*", source.read_text("utf-8"), re.MULTILINE)
    assert list(map(int, builds)) == [int(source.stem[:2])]


@every_source
def test_every_stored_notebook_is_what_its_source_says(source):
    target = notebook_path(source)
    assert target.exists(), "It was never run: make notebooks"
    problems = rules.stored_problems(target, source=source)
    assert not problems, "\n".join(problems)


def anatomy_problems(text: str, names=NAMES, number=90) -> str:
    notebook = jupytext.reads(text, fmt="py:percent")
    return "\n".join(rules.shape_problems(notebook, number=number, names=names))


def test_the_fixture_breaks_no_rule_of_the_anatomy():
    assert not anatomy_problems(SOURCE.read_text(encoding="utf-8"))


LONG_CODE = "\n".join(f"x{i} = {i}" for i in range(31))
LONG_WORDS = "# " + "word " * 121

MUTATIONS = {
    "no title": ("# # 90 · A coin", "# A coin", "begin with"),
    "no minutes": ("**Minutes:** 8. ", "", "title cell must say how many minutes"),
    "no prerequisites": ("**Prerequisites:** none.", "", "prerequisites"),
    "no goals": ("**Learning goals.**", "**Aims.**", "Learning goals"),
    "two goals": ("# - predict how it grows with the number of faces,\n", "", "three to five"),
    "vague goal": ("# - compute the", "# - understand the", "verb one can test"),
    "no setup tag": ('# %% tags=["setup"]', "# %%", "'setup'"),
    "many imports": ("banner(minutes=8)", "banner(minutes=8)\nimport a, b, c, d, e, f", "names"),
    "no banner": ("banner(minutes=8)", "", "must call banner"),
    "no section minutes": ("   *(8 min)*", "", "end with its minutes"),
    "no takeaway": ("**Takeaway.**", "**So.**", "no takeaway"),
    "no difficulty": ("(difficulty 1, 3 min;", "(3 min;", "difficulty"),
    "no exercise minutes": ("(difficulty 1, 3 min;", "(difficulty 1;", "its minutes"),
    "no solution": ('tags=["solution"]', 'tags=["check"]', "'solution'"),
    "exercise on code": ('# %% tags=["agreement"]', '# %% tags=["exercise"]', "not on code"),
    "no summary": ("# ## Summary", "# ### Summary", "## Summary"),
    "no doubt": ("## What we did not show", "### What else", "What we did not show"),
    "no notation": ("## Notation used here", "### Letters", "Notation"),
    "no sources": ("# ## Sources", "# ### Sources", "## Sources"),
    "wrong order": ("# ## Summary", "# ## Sources\n#\n# ## Summary", "order"),
    "foreign equation": ("\\tag{90.1}", "\\tag{3.1}", "90.1"),
    "skipped equation": ("\\tag{90.1}", "\\tag{90.2}", "90.2"),
    "unknown tag": ('tags=["agreement"]', 'tags=["proof"]', "'proof'"),
    "widget compared": ('tags=["widget", "nbval-ignore-output"]', 'tags=["widget"]', "as well"),
    "long code": ("assert np.isclose(h, np.log(n))", LONG_CODE, "31 lines"),
    "long words": ("# Unequal faces.", LONG_WORDS, "words; 120"),
    "empty cell": ("assert surprise_bits(8) == 3", "", "empty"),
    "magic": ("assert surprise_bits(8) == 3", "# %time 3\n%time 3", "magic"),
    "shell": ("assert surprise_bits(8) == 3", "!ls", "! command"),
    "remote picture": ("# Unequal faces.", "# ![x](https://x.org/x.png)", "another machine"),
    "many cells": ("# %%\nassert s", "# %%\nx = 1\n\n" * 60 + "# %%\nassert s", "at most 60"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_rule_of_the_anatomy_is_named(name):
    old, new, words = MUTATIONS[name]
    text = SOURCE.read_text(encoding="utf-8")
    assert old in text
    assert words in anatomy_problems(text.replace(old, new, 1))


def test_the_title_links_to_both_neighbours():
    names = ["89_before.ipynb", "90_fixture.ipynb", "91_after.ipynb"]
    text = SOURCE.read_text(encoding="utf-8")
    assert "89_before.ipynb" in anatomy_problems(text, names)
    assert "91_after.ipynb" in anatomy_problems(text, names)
    linked = text.replace("none.", "none. [back](89_before.ipynb) [on](91_after.ipynb#top)", 1)
    assert not anatomy_problems(linked, names)


def test_a_lesson_needs_two_exercises():
    text = SOURCE.read_text(encoding="utf-8").replace("90", "07")
    assert "two exercises" in anatomy_problems(text, number=7)


def stored_problems(folder: Path, *changes: str) -> str:
    """Return the problems after statements have changed the stored notebook, or its source."""
    source, notebook = SOURCE.read_text("utf-8"), nbformat.read(STORED, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    names = {"notebook": notebook, "code": code, "png": png, "v4": nbformat.v4, "source": source}
    for change in changes:
        exec(change, names)
    (folder / SOURCE.name).write_text(names["source"], encoding="utf-8")
    (folder / STORED.name).write_text(json.dumps(notebook), encoding="utf-8")
    return "\n".join(rules.stored_problems(folder / STORED.name, source=folder / SOURCE.name))


def png(width: int, height: int) -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


PICTURE = 'code[4].outputs[0].data["image/png"]'
STREAM = 'v4.new_output("stream", name="stderr", text="Warning: old")'
REMOTE = "{'text/html': '<script src=https://cdn.example.org/x.js></script>'}"
DAMAGE = {
    'source = source.replace("n = 6", "n = 7")': "not made from the present text",
    'code[1].source = code[1].source.replace("n = 6", "n = 7")': "cells differ",
    "for c in code: c.outputs, c.execution_count = [], None": "were not run once each",
    "code[-1].execution_count += 1": "were not run once each",
    'notebook.metadata["widgets"] = {"state": {}}': "stores the state",
    f'code[5].outputs[0].data["{WIDGET_VIEW}"] = {{"model_id": "1"}}': "stores a widget",
    "code[5].outputs = []": "shows none",
    "code[4].outputs[0].metadata = {}": "no alt text",
    f"{PICTURE} = png(90, 90)": "only 90 x 90",
    f"{PICTURE} = {PICTURE}[:400]": "not a whole PNG",
    "code[4].outputs.append(code[4].outputs[0])": "2 pictures",
    'code[1].outputs = [v4.new_output("error", ename="E", evalue="")]': "stores an error",
    f"code[1].outputs = [{STREAM}]": "standard error",
    'code[1].outputs[0].text = "<object at 0x0>"': "address",
    'code[1].outputs[0].text = "x" * 91': "prints a line of 91 characters",
    f'code[1].outputs.append(v4.new_output("display_data", data={REMOTE}))': "another machine",
    'code[1].outputs[0].text = "x" * 1_000_001': "1 MB is the most",
}


@pytest.mark.parametrize("change", DAMAGE)
def test_a_damaged_notebook_is_seen(tmp_path, change):
    assert DAMAGE[change] in stored_problems(tmp_path, change)
    assert not stored_problems(tmp_path)


def images(page: str) -> list[tuple[str, str]]:
    """Return, of each picture of a page, its alt text and the caption of its figure."""
    shown = BeautifulSoup(page, "html.parser").find_all("img")
    return [(one.get("alt", ""), one.find_parent("figure").em.get_text()) for one in shown]


@every_source
def test_an_exported_page_keeps_the_words_of_every_picture(source):
    page, _ = HTMLExporter().from_filename(str(notebook_path(source)))
    shown = images(page)
    assert shown
    assert all(alt and alt == words for alt, words in shown)
