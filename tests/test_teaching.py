"""The teacher's page and the glossary say what the notebooks say."""

import re
from pathlib import Path

import pytest

from attnlab.teach.notation import symbols

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "tools" / "book" / f"{name}.md" for name in ("teaching", "glossary")]
PATHS, GLOSSARY = (page.read_text(encoding="utf-8") for page in PAGES)
ENTRY = re.compile(
    r"- \*\*(?P<words>.+?)\*\*(?: \((?:\$(?P<maths>.+?)\$, )?`(?P<code>.+?)`\))?\. [A-Z].+\. "
    r"\[(?P<number>\d\d)\]\(\.\./\.\./notebooks/(?P<stem>(?P=number)_\w+)\.ipynb\)"
)
ENTRIES = [line for line in GLOSSARY.splitlines() if line.startswith("- ")]


def words_of(stem: str) -> str:
    source = ROOT / "notebooks" / "src" / f"{stem}.py"
    return " ".join(source.read_text(encoding="utf-8").lower().replace("\n#", " ").split())


def test_the_paths_fit_into_their_time():
    rows = [re.findall(r"^(.*)\| (\d+) \| (\d+) \|$", part, re.M) for part in PATHS.split("### ")]
    totals = {}
    for path, (*parts, (last, *its)) in zip(
        ("short", "day", "weeks"), filter(None, rows), strict=True
    ):
        assert "Together" in last
        totals[path] = tuple(map(int, its))
        assert totals[path] == tuple(sum(int(row[n]) for row in parts) for n in (1, 2))
    assert totals["short"][0] <= 90
    assert totals["day"][0] <= 340
    assert totals["day"][1] <= 270  # the rest is homework
    assert totals["weeks"][0] <= 5 * 2 * 90


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_of_a_page_leads_to_a_file(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert targets
    assert not [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("line", ENTRIES, ids=lambda line: line.split("**")[1])
def test_a_word_of_the_glossary_stands_in_its_notebook_and_its_letter_in_the_table(line):
    entry = ENTRY.fullmatch(line)
    assert entry, "a word, its letter and code if it has them, a sentence, a notebook"
    text = words_of(entry["stem"])
    assert not [word for word in entry["words"].lower().split(", ") if word not in text]
    if entry["code"]:
        table = symbols()
        assert ((table["maths"] == (entry["maths"] or "")) & (table["code"] == entry["code"])).any()


def test_the_glossary_is_in_order():
    words = [line.split("**")[1].lower() for line in ENTRIES]
    assert words == sorted(words)
    assert len(words) >= 45


def test_the_commands_for_nbgrader_are_those_that_are_tested():
    tested = (Path(__file__).parent / "test_copies.py").read_text(encoding="utf-8")
    for words in ("--ClearSolutions.enabled=False", "generate_assignment", "autograde", "export"):
        assert words in PATHS
        assert words in tested
    assert "ATTNLAB_STRICT=grade" in PATHS
