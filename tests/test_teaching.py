"""The teacher's page and the glossary say what the notebooks say."""

import re
from pathlib import Path

import pytest
from book import teaching

from attnlab.teach.notation import symbols

PAGES = sorted(teaching.HERE.glob("*.md"))
GLOSSARY = (teaching.HERE / "glossary.md").read_text(encoding="utf-8")
ENTRY = re.compile(
    r"- \*\*(?P<words>.+?)\*\*(?: \((?:\$(?P<maths>.+?)\$, )?`(?P<code>.+?)`\))?\. [A-Z].+\. "
    r"\[(?P<number>\d\d)\]\(\.\./\.\./notebooks/(?P<stem>(?P=number)_\w+)\.ipynb\)"
)
ENTRIES = [line for line in GLOSSARY.splitlines() if line.startswith("- ")]


def words_of(stem: str) -> str:
    source = teaching.NOTEBOOKS / "src" / f"{stem}.py"
    return " ".join(source.read_text(encoding="utf-8").lower().replace("\n#", " ").split())


def test_the_minutes_of_the_paths_are_those_of_the_notebooks():
    page = teaching.PAGE.read_text(encoding="utf-8")
    assert teaching.filled(page) == page, "python tools/book/teaching.py"
    paths = [list(map(int, re.findall(r" (\d+) \|$", part, re.M))) for part in page.split("### ")]
    short, day, weeks = map(sum, filter(None, paths))
    assert short <= 80  # of 90, and the page says what to drop
    assert day <= 330
    assert weeks <= 5 * 2 * 90


def test_minutes_are_counted_by_section():
    stem = "00_start_here"
    one, four = (teaching.minutes(stem, part) for part in ("1", "1 to 4"))
    assert four == one + teaching.minutes(stem, "2 to 4") > one > 0
    assert teaching.minutes(stem, "1, 4") == one + teaching.minutes(stem, "4")
    assert teaching.minutes(stem, "all") >= four
    changed = teaching.PAGE.read_text("utf-8").replace(
        f"| all | {teaching.minutes(stem, 'all')} |", "| all | 7 |"
    )
    assert teaching.filled(changed) != changed


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
    page = teaching.PAGE.read_text(encoding="utf-8")
    tested = (Path(__file__).parent / "test_copies.py").read_text(encoding="utf-8")
    for words in ("--ClearSolutions.enabled=False", "generate_assignment", "autograde", "export"):
        assert words in page
        assert words in tested
    assert "ATTNLAB_STRICT=grade" in page
