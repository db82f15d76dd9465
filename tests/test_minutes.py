"""The minutes that notebooks and tables state are those of one rule."""

import jupytext
import minutes
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

TEXT = """
# %% [markdown]
# ## 3  A coin   *(7 min)*
#
# Heads or tails: six words more.
#
# $$ a = b \\tag{3.1} $$

# %% [markdown] tags=["exercise"]
# Before it. **Not this.**
#
# **Exercise 3.1** (difficulty 2, 5 min; builds on nothing). Many words that nobody counts.

# %% tags=["solution"]
x = 1

# %%
import os
x = 1  # one line
show(pictures.coin())

# %% tags=["widget"]
show(explore(coin))

# %% [markdown]
# | a | b |
# |---|---|
# | c | d |

# %% [markdown]
# ## Summary
#
# Not of the section.
"""


def test_every_page_states_the_minutes_of_the_rule():
    pages = dict(minutes.pages())
    assert len(pages) > 15
    behind = [path.name for path, text in pages.items() if text != path.read_text("utf-8")]
    assert not behind, "Run: python tools/minutes.py"


def test_a_section_is_counted_part_by_part():
    cells = jupytext.reads(TEXT, fmt="py:percent").cells
    (number, cells), *rest = minutes.by_section(cells).items()
    found = minutes.count(number, cells)
    assert not rest
    assert found == minutes.Section("3", 5 + 6 + 1 + 4, 3, 1, 5, 1, 1, 2)


@pytest.mark.parametrize(
    ("part", "amount", "its_minutes"),
    [("words", 750, 10), ("code_lines", 80, 2), ("equations", 8, 4), ("exercise_minutes", 9, 9),
     ("panels", 2, 4), ("pictures", 6, 3), ("table_rows", 40, 4)],
)  # fmt: skip
def test_each_part_of_a_section_takes_its_time(part, amount, its_minutes):
    empty = minutes.Section("1", 150, 0, 0, 0, 0, 0, 0)
    assert empty.minutes() == 2
    more = empty._replace(**{part: getattr(empty, part) + amount})
    assert more.minutes() == 2 + its_minutes
    assert more.minutes(60) == 3 + its_minutes


def test_minutes_are_written_and_nothing_else():
    text = "# **Minutes:** 9.\n# ## 1  A   *(2 min)*\n# ## 2  B   *(7 min)*\nbanner(minutes=9)\n"
    found = minutes.restated(text, {"1": 4, "2": 11})
    assert found == text.replace("9", "15").replace("(2 ", "(4 ").replace("(7 ", "(11 ")


def test_a_row_has_the_minutes_of_its_sections_and_a_lesson_what_is_left_of_it():
    row = "| [08 Distillation](08_x.ipynb) | {} | {} |\n"
    lesson = (
        "The talk between the parts has {}; with the *Builds* left for home, {}.\n"
        "| --- |\n{}| **Together** | | {} |\n{}\n## Next\n{}"
    )
    known, builds = {"08": {"1": 1, "2": 2, "3": 4, "4": 8}}, {"08": dict.fromkeys("1234", 0)}
    builds["08"]["4"] = 3
    other, plain = row.replace("08 ", "09 ").format("all", "5 | 4"), row.format("4", "8")

    def page(talk, ours, together):
        rows = zip(("nets", "1 to 3", "2, 4"), ours, strict=True)
        own = other + "".join(row.format(*each) for each in rows)
        return lesson.format(f"{talk[0]} minutes", talk[1], own, together, "", plain)

    found = minutes.tabled(page((0, 0), ["80 | 80"] * 3, "1 | 1"), known, builds)
    ours = ["15 | 12", "7 | 7", "10 | 7"]
    assert found == page((90 - 37, 90 - 30), ours, "37 | 30")


def test_builds_are_counted_apart(tmp_path):
    text = TEXT.replace("**Exercise 3.1**", "**Build 3**")
    for name, said in {"a": TEXT, "b": text}.items():
        (tmp_path / f"{name}.py").write_text(said)
    found = [minutes.builds_of(tmp_path / f"{name}.py") for name in "ab"]
    assert found == [{"3": 0}, {"3": 5}]


def test_seconds_are_added_up_by_section(monkeypatch, tmp_path):
    events = {"iopub.execute_input": 1, "shell.execute_reply": 3}
    when = {event: f"2026-01-01T00:00:0{second}Z" for event, second in events.items()}
    first, *code = (new_code_cell(metadata={"execution": when}) for _ in range(4))
    heading = [new_markdown_cell(f"## {number}  A   *(2 min)*") for number in (1, 2)]
    run = new_notebook(cells=[first, heading[0], *code[:2], heading[1], code[2]])
    monkeypatch.setattr("notebooks.execute", lambda source, *, record_timing: run)
    source = tmp_path / "08_a.py"
    assert minutes.measure(source) == {("08_a", "1"): 4, ("08_a", "2"): 2}


def test_words_are_counted_without_formulas_tables_and_addresses():
    text = "Two *words* $a + b$ [linked](https://a.b/c)\n\n| a | b |\n|---|---|\n\n$$x\ny$$"
    assert minutes.count_words(text) == 2 + 1 + 1 + 1  # a formula reads as one word


def test_code_is_counted_without_imports_comments_and_blanks():
    text = "import os\nfrom a import (\n    b,\n    c,\n)\n\n# why\nx = 1\nimport_all(x)\n"
    assert minutes.count_code_lines(text) == 2
