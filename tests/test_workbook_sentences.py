"""What the workbook says of itself is so: names, minutes, counts, places, sources, words."""

import re
from pathlib import Path

import jupytext
import pytest

from attnlab.claims import ledger, read_words
from notebooks import list_sources

ROOT = Path(__file__).parents[1]
SOURCES = {path.stem: path for path in list_sources(ROOT / "notebooks")}
PAGES = {
    **SOURCES,
    **{f"quiz of {path.parent.name}": path for path in ROOT.glob("attnlab/chapters/*/quiz.md")},
    "README": ROOT / "README.md",
}
NUMBERS = {"ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15}
EVERY_PAGE = pytest.mark.parametrize("path", PAGES.values(), ids=PAGES)
UNWRITTEN = re.compile(r"not (?:yet )?written(?! yet, so)|coming soon|\b[Aa] later notebook\b")
PAPERS = r"(?:2308\.07661|2311\.10642)"
CITED = re.compile(PAPERS + r"[^.;:]{0,60}?(?:\b[Ss]ections? \d|\bappendix|\btable \d|\bfigure \d)")
STARTS = re.compile(r" {0,3}(?:[-+*>]|1[.)]|#{1,6})(?: |$)")


def markdown_of(stem):
    cells = jupytext.read(SOURCES[stem], fmt="py:percent").cells
    return [cell.source for cell in cells if cell.cell_type == "markdown"]


def accidents(markdown):
    """Return lines that wrapping, not the author, has made a list, a quotation or a heading."""
    found, lines = [], markdown.splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        follows_prose = before.strip() and not re.match(r"\s*(?:[-+*>|#<]|\d+[.)])", before)
        if STARTS.match(line) and follows_prose and not before.startswith(" "):
            found.append(line)
    return found


def title_and_minutes(stem):
    text = SOURCES[stem].read_text("utf-8")
    sections = re.findall(r"^# ## .*\((\d+) min\)", text, re.MULTILINE)
    stated = {
        re.search(r"\*\*Minutes:\*\* (\d+)", text)[1],
        re.search(r"banner\(minutes=(\d+)", text)[1],
    }
    return sum(map(int, sections)), stated


@pytest.mark.parametrize("stem", SOURCES)
def test_the_minutes_of_a_notebook_are_those_of_its_sections(stem):
    total, stated = title_and_minutes(stem)
    assert stated == {str(total)}


@pytest.mark.parametrize("page", ["README.md", "notebooks/src/00_start_here.py"])
def test_the_tables_list_every_notebook_with_its_minutes(page):
    rows = re.findall(r"^(?:# )?\| (.*) \| (\d+) \|$", (ROOT / page).read_text("utf-8"), re.M)
    found = ((re.search(r"(?<!\d)\d\d(?=[ _]\w+)", row), minutes) for row, minutes in rows)
    listed = {number[0]: minutes for number, minutes in found if number}
    assert listed == {stem[:2]: title_and_minutes(stem)[1].pop() for stem in SOURCES}


@EVERY_PAGE
def test_no_sentence_speaks_of_parts_that_are_not_there(path):
    text = " ".join(line.removeprefix("# ") for line in path.read_text("utf-8").splitlines())
    assert not UNWRITTEN.search(text.replace("nothing is written yet", ""))
    for said, count in re.findall(rf"\b({'|'.join(NUMBERS)}|\d+) (notebooks|claims)\b", text):
        wanted = {"notebooks": len(SOURCES), "claims": len(read_words())}[count]
        assert int(NUMBERS.get(said, said)) == wanted, f"{said} {count}"
    for numbers, section in re.findall(r"[Nn]otebook (\d\d), sections? (\d+)", text):
        stem = next(stem for stem in SOURCES if stem.startswith(numbers))
        assert re.search(rf"^# ## {section}  ", SOURCES[stem].read_text("utf-8"), re.M), section
    for name in re.findall(r"\((?:notebooks/)?(\d\d_\w+)\.ipynb", text):
        assert name in SOURCES


@EVERY_PAGE
def test_no_wrapped_line_becomes_a_list_a_quotation_or_a_heading(path):
    texts = markdown_of(path.stem) if path.suffix == ".py" else [path.read_text("utf-8")]
    if path.name != "quiz.md":  # a quiz is a format of its own
        assert not [line for text in texts for line in accidents(text)]


def test_an_accident_of_wrapping_is_seen():
    assert accidents("so width 32 (section\n1) gets there") == ["1) gets there"]
    assert accidents("two\n- one") == ["- one"]
    assert not accidents("We list\n\n- one\n- two\n  more\n- three\n\n1. first\n2. second")
    assert not accidents("# Title\n\ntext 1) and\n2) the rest")


def test_no_section_of_the_two_papers_is_cited_since_only_abstracts_and_code_were_read():
    files = [*ROOT.glob("attnlab/**/*.py"), *ROOT.glob("attnlab/**/*.tsv"), *PAGES.values()]
    cited = {}
    for path in files:
        lines = [line.strip().removeprefix("# ") for line in path.read_text("utf-8").splitlines()]
        text = re.sub(r"\]\([^)]*\)", "]", " ".join(lines))
        found = [cite for cite in CITED.findall(text) if "notebook" not in cite]
        cited |= {path.name: found} if found else {}
    assert not cited
    assert CITED.search("arXiv:2311.10642, section 3 and appendix")


def test_what_was_read_is_said_once_and_elsewhere_pointed_to():
    where = [stem for stem in SOURCES if "**What was read.**" in SOURCES[stem].read_text("utf-8")]
    assert where == ["00_start_here"]
    for stem in ("03_extractor", "04_language_models", "07_translation_teacher",
                 "08_distillation", "09_replacing_attention", "14_what_we_found"):  # fmt: skip
        assert "notebook 00, section 6" in " ".join(SOURCES[stem].read_text("utf-8").split("\n# "))


def test_one_word_stands_for_the_channel_mixer():
    for stem in SOURCES:
        prose = re.sub(
            r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`", "", " ".join(markdown_of(stem)), flags=re.S
        )
        assert not re.search(r"\b(?:FFN|MLP|mlp)\b", prose), stem


@pytest.mark.parametrize(
    ("name", "expansion"),
    [("SHE", "super high-performance"), ("HE", "higher-performance"), ("WE", "worthwhile"),
     ("ME", "minimalist"), ("BLEU", "score of"), ("nat", "1.44 bits")],
)  # fmt: skip
def test_the_readme_says_what_its_short_names_mean(name, expansion):
    text = (ROOT / "README.md").read_text("utf-8")
    assert re.search(rf"\b{name}\b[^.]*{expansion}", text.replace("\n", " "))


FIRST_USES = {  # in the Markdown of a notebook: what a short name stands for
    ("00_start_here", "SHE"): "super high-performance",
    ("01_markov_framing", "Kullback-Leibler"): "divergence",
    ("02_attention", "KV cache"): "keys and values",
    ("03_extractor", "HE"): "higher-performance",
    ("03_extractor", "WE"): "worthwhile",
    ("03_extractor", "ME"): "minimalist",
    ("07_translation_teacher", "BLEU"): "bilingual evaluation understudy",
    ("08_distillation", "ALRR"): "Residual",
    ("08_distillation", "ELR"): "Encoder Layer Replacement",
    ("08_distillation", "LN"): "layer",
}


@pytest.mark.parametrize(("stem", "name"), FIRST_USES)
def test_a_short_name_is_expanded_where_its_section_first_needs_it(stem, name):
    cells = [cell for cell in markdown_of(stem) if re.search(rf"\b{name}\b", cell)]
    told = [cell for cell in cells if FIRST_USES[stem, name] in cell.replace("\n", " ")]
    goals = [cell for cell in cells if "Learning goals" in cell]  # lists what is to come
    first = next(cell for cell in cells if cell not in goals)
    assert told
    assert first in told or name in ("HE", "WE", "ME")  # notebook 00 has said these


def test_claims_are_worded_so_that_a_verdict_can_be_read_with_them():
    said = set(ledger()["claim"])
    assert len(said) > 27
    assert not [one for one in said if re.search(r"\b(?:cannot|can not|no net|never)\b", one)]


HEART = {  # what a section is about, in the cell itself
    "02_attention": (r'mask == "before"', r"class Reader\(torch\.nn\.Module\)"),
    "03_extractor": (r"\.backward\(\)", r"optimizer\.step\(\)", r"class BareModel\(torch\.nn"),
    "07_translation_teacher": (r"mixed\[:, places\] = other\[:, places\]",),
    "08_distillation": (r"register_forward_pre_hook", r"hook\.remove\(\)"),
    "09_replacing_attention": (r"class Swapped\(nn\.Module\)", r"net\.sees_future = False"),
}


@pytest.mark.parametrize("stem", HEART)
def test_what_a_section_is_about_stands_in_its_cell(stem):
    text = SOURCES[stem].read_text("utf-8")
    assert not [lines for lines in HEART[stem] if not re.search(lines, text)]
