"""Say how many minutes the notebooks take, by one rule, and write it wherever it stands.

python tools/minutes.py
python tools/minutes.py --measure 08
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import jupytext
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
SECONDS = Path(__file__).with_name("seconds.tsv")
TABLES = ("README.md", "notebooks/src/00_start_here.py", "tools/book/teaching.md")
WORDS_A_MINUTE, CODE_LINES_A_MINUTE = 75, 40
EQUATION, PANEL, PICTURE, TABLE_ROW = 0.5, 2, 0.5, 0.1  # minutes for each
HEADING = re.compile(r"^(## (\d+)  .*?\S)   \*\(\d+ min\)\*$", re.MULTILINE)
EXERCISE = re.compile(
    r"^\*\*(?:Exercise|Build) [\d.]+\*\* \(difficulty \d, (\d+) min", re.MULTILINE
)
SHOWS = re.compile(r"^ *show\(|\.roofline\(|^ *display\(", re.MULTILINE)
PLAIN_IMPORT = re.compile(r"^(?:from\s+\S+\s+)?import\s")
BUILD = re.compile(r"^\*\*Build [\d.]+\*\* \(difficulty \d, (\d+) min", re.MULTILINE)
ROW = re.compile(r"^((?:# )?\|.*?\[?(\d\d) [^|]*\| ([^|]*) \| )(\d+)( \| \d+)?( \|)$", re.MULTILINE)
TOTAL = re.compile(r"^(\| \*\*Together\*\* [ |]*\| )\d+ \| \d+( \|)$")  # of the rows above it
SOME = re.compile(r"\d+(?: to \d+)?(?:, \d+(?: to \d+)?)*")  # sections of a notebook
TALK = re.compile(
    r"(The talk between the parts has )\d+( minutes; with the \*Builds\* left for home, )\d+"
    r"(\.)(.*?)(?=\n#)", re.DOTALL
)  # fmt: skip
LESSON = 90  # minutes
Seconds = Mapping[tuple[str, str], float]  # by notebook and number of the section


class Section(NamedTuple):
    """What a reader meets between two headings."""

    number: str
    words: int
    code_lines: int
    equations: int
    exercise_minutes: int
    panels: int
    pictures: int
    table_rows: int

    def minutes(self, seconds: float = 0.0) -> int:
        """Return how long a section takes, in whole minutes, at least two.

        75 words of prose a minute, 40 lines of code; half a minute for an equation or a picture,
        two for a panel or a quiz, a tenth for a row of a table; what an exercise says of itself,
        in place of its words and its solution; and the seconds that the cells were measured to
        run (``tools/seconds.tsv``).
        """
        own = self.words / WORDS_A_MINUTE + self.code_lines / CODE_LINES_A_MINUTE
        own += EQUATION * self.equations + PANEL * self.panels + PICTURE * self.pictures
        own += TABLE_ROW * self.table_rows + self.exercise_minutes + seconds / 60
        return max(2, round(own))


def count_words(markdown: str) -> int:
    """Count the words a reader reads: no formulas, tables, addresses or comments."""
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|<!--.*?-->", " x ", markdown, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)|<[^>]+>", " ", text)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("|")]
    return len(re.findall(r"[^\W_][\w'’.,-]*", "\n".join(lines)))


def count_code_lines(source: str) -> int:
    """Count the lines of a cell that do something: no blanks, comments or plain imports."""
    total, in_import = 0, False
    for line in source.splitlines():
        text = line.strip()
        if in_import:
            in_import = ")" not in text
        elif PLAIN_IMPORT.match(text):
            in_import = "(" in text and ")" not in text
        elif text and not text.startswith("#"):
            total += 1
    return total


def by_section(cells: Sequence[NotebookNode]) -> dict[str, list[NotebookNode]]:
    """Return the cells below each numbered heading, by its number."""
    found, number = {}, ""
    for cell in cells:
        if cell.cell_type == "markdown" and re.search(r"^## ", cell.source, re.MULTILINE):
            heading = HEADING.search(cell.source)
            number = heading[2] if heading else ""
        if number:
            found.setdefault(number, []).append(cell)
    return found


def count(number: str, cells: Sequence[NotebookNode]) -> Section:
    """Count what a section holds."""
    prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
    tags = [cell.metadata.get("tags", []) for cell in cells]
    code = [
        (cell.source, its)
        for cell, its in zip(cells, tags, strict=True)
        if cell.cell_type == "code" and not {"solution", "hide-input"} & set(its)
    ]
    return Section(
        number=number,
        words=sum(count_words(EXERCISE.split(text)[0]) for text in prose),
        code_lines=sum(count_code_lines(text) for text, _ in code),
        equations=sum(text.count("\\tag{") for text in prose),
        exercise_minutes=sum(int(n) for text in prose for n in EXERCISE.findall(text)),
        panels=sum("widget" in its for _, its in code),
        pictures=sum(bool(SHOWS.search(text)) for text, its in code if "widget" not in its),
        table_rows=sum(len(re.findall(r"^\| *[^|\s-]", text, re.MULTILINE)) for text in prose),
    )


def minutes_of(source: Path, seconds: Seconds) -> dict[str, int]:
    """Return the minutes of each section of a source."""
    sections = by_section(jupytext.read(source, fmt="py:percent").cells)
    return {
        number: count(number, cells).minutes(seconds.get((source.stem, number), 0.0))
        for number, cells in sections.items()
    }


def builds_of(source: Path) -> dict[str, int]:
    """Return how many of the minutes of each section its *Builds* take."""
    sections = by_section(jupytext.read(source, fmt="py:percent").cells)
    return {
        number: sum(int(n) for cell in cells for n in BUILD.findall(cell.source))
        for number, cells in sections.items()
    }


def restated(text: str, minutes: Mapping[str, int]) -> str:
    """Return a source with these minutes in its headings, its title and its banner."""
    total = sum(minutes.values())
    for number, its in minutes.items():
        text = re.sub(
            rf"^(# ## {number}  .*   \*\()\d+( min\)\*)$",
            rf"\g<1>{its}\2",
            text,
            flags=re.MULTILINE,
        )
    text = re.sub(r"(\*\*Minutes:\*\* )\d+", rf"\g<1>{total}", text, count=1)
    return re.sub(r"(\bbanner\(minutes=)\d+", rf"\g<1>{total}", text)


def tabled(
    text: str, minutes: Mapping[str, Mapping[str, int]], builds: Mapping[str, Mapping[str, int]]
) -> str:
    """Return a page with these minutes in the rows of its tables, and what a lesson leaves.

    Args:
        minutes: By the number of a notebook, then of a section. A row that lists sections, such as
            ``1 to 3, 5``, has the minutes of those, any other the whole notebook's.
        builds: As ``minutes``, of the *Builds* alone: a second number of a row is without them, and
            the row *Together* adds up the rows above it.
    """

    def one(row: re.Match[str]) -> str:
        if row[2] not in minutes:
            return row[0]
        numbers = chosen(row[3], minutes[row[2]])
        its, built = (sum(found[row[2]][n] for n in numbers) for found in (minutes, builds))
        return f"{row[1]}{its}{f' | {its - built}' if row[5] else ''}{row[6]}"

    def talk(lesson: re.Match[str]) -> str:
        whole, short = (LESSON - n for n in sums(lesson[4].splitlines()))
        return f"{lesson[1]}{whole}{lesson[2]}{short}{lesson[3]}{lesson[4]}"

    lines = ROW.sub(one, text).split("\n")
    for place, line in enumerate(lines):
        if total := TOTAL.match(line):
            whole, short = sums(lines[:place])
            lines[place] = f"{total[1]}{whole} | {short}{total[2]}"
    return TALK.sub(talk, "\n".join(lines))


def sums(lines: Sequence[str]) -> tuple[int, int]:
    """Return the minutes of the rows of the last table of these lines, with and without Builds."""
    found = (0, 0)
    for line in lines:
        if line.startswith("| ---"):
            found = (0, 0)
        elif row := ROW.match(line):
            short = (row[5] or row[4]).removeprefix(" | ")
            found = found[0] + int(row[4]), found[1] + int(short)
    return found


def chosen(sections: str, known: Iterable[str]) -> list[str]:
    """Return the numbers of the sections that a row means."""
    if not SOME.fullmatch(sections):
        return list(known)
    spans = [[int(n) for n in part.split(" to ")] for part in sections.split(", ")]
    return [str(n) for span in spans for n in range(span[0], span[-1] + 1)]


def read_seconds(path: Path = SECONDS) -> dict[tuple[str, str], float]:
    """Return the measured seconds, by notebook and section."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {(row["notebook"], row["section"]): float(row["seconds"]) for row in rows}


def pages(root: Path = ROOT, seconds: Seconds | None = None) -> Iterator[tuple[Path, str]]:
    """Yield each page that states minutes, with the text that the rule asks for."""
    sources = sorted((root / "notebooks" / "src").glob("[0-9]*.py"))
    measured = read_seconds() if seconds is None else seconds
    minutes = {source: minutes_of(source, measured) for source in sources}
    by_number = {source.stem[:2]: its for source, its in minutes.items()}
    builds = {source.stem[:2]: builds_of(source) for source in sources}
    for path in dict.fromkeys([*sources, *(root / name for name in TABLES)]):
        text = path.read_text("utf-8")
        text = restated(text, minutes[path]) if path in minutes else text
        in_table = str(path.relative_to(root)) in TABLES
        yield path, tabled(text, by_number, builds) if in_table else text


def measure(source: Path) -> dict[tuple[str, str], float]:
    """Run a source and return the seconds of its sections. Do it on a quiet machine."""
    from notebooks import execute  # it needs Jupyter; the rule does not

    notebook = execute(source, record_timing=True)
    found = {}
    for number, cells in by_section(notebook.cells).items():
        times = [cell.metadata["execution"] for cell in cells if cell.cell_type == "code"]
        begins, ends = (
            [datetime.fromisoformat(each[event]).timestamp() for each in times]
            for event in ("iopub.execute_input", "shell.execute_reply")
        )
        found[source.stem, number] = sum(ends) - sum(begins)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the minutes; with ``--measure`` run notebooks first and note the seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("numbers", nargs="*", help="notebooks to measure, such as 08; none: all")
    parser.add_argument("--measure", action="store_true", help="run them, and note their seconds")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    from attnlab.paths import write_whole

    if options.measure:
        seconds = read_seconds()
        for source in sorted((ROOT / "notebooks" / "src").glob("[0-9]*.py")):
            if not options.numbers or source.stem[:2] in options.numbers:
                seconds |= measure(source)
        rows = [f"{name}\t{number}\t{its:.0f}\n" for (name, number), its in sorted(seconds.items())]
        write_whole(SECONDS, "notebook\tsection\tseconds\n" + "".join(rows))
    for path, text in pages():
        if text != path.read_text("utf-8"):
            write_whole(path, text)
            sys.stdout.write(f"{path.relative_to(ROOT)}: minutes written\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
