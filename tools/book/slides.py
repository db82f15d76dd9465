"""Make slides of a notebook: headings, formulas, pictures, short code, takeaways.

python tools/book/slides.py 03
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import SlidesExporter

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from book.build import MATHJAX, ROOT, package_file, say  # noqa: E402

HERE = Path(__file__).parent
REVEAL = ("reveal.js", "reveal.css", "theme/white.css", "theme/fonts/source-sans-pro")
FORMULA = re.compile(r"\$\$.*?\$\$", re.DOTALL)
TAKEAWAY = re.compile(r"\*\*Takeaway\.\*\*.*?(?=\n\n|\Z)", re.DOTALL)
FIGURE = re.compile(r"<figure.*?</figure>", re.DOTALL)
FOLD = re.compile(r"<details>.*?</details>", re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:)[^)]*\)")
HALF = re.compile(r"[^.?!]*:\Z")  # a sentence that waits for what is not shown
MOST_CODE, MOST_PRINTED, MOST_FORMULAS = 9, 7, 2  # lines, lines, formulas of a slide


def slides_of(cells: Sequence[Any]) -> Iterator[Any]:
    """Yield the cells of the slides, each marked with its place: sections side by side."""
    for number, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            yield from _told(cell.source, number)
        else:
            yield from _shown(cell)


def _told(text: str, number: int) -> Iterator[Any]:
    text = LINK.sub(r"\1", FOLD.sub("", text))
    if number == 0 or "learning goals" in text[:40].lower():
        yield _slide(text.split("\n\n**Minutes")[0], "slide" if number == 0 else "subslide")
    elif heading := re.match(r"##? .*", text):
        rest = text[heading.end() :].strip()
        formulas = FORMULA.findall(rest)[:MOST_FORMULAS]
        first, _, after = rest.partition("\n\n")
        if first.endswith(":"):  # of what? A table that follows; else the half sentence goes
            table = after.partition("\n\n")[0]
            is_table, whole = table.startswith("|"), HALF.sub("", first)
            first = f"{first}\n\n{table}" if is_table else first if formulas else whole
        parts = [heading[0], first, *(one for one in formulas if one not in first)]
        yield _slide("\n\n".join(parts), "slide")
    for found in TAKEAWAY.findall(text):
        yield _slide(f"## Takeaway\n\n{found.removeprefix('**Takeaway.** ')}", "subslide")


def _shown(cell: Any) -> Iterator[Any]:
    tags = cell.metadata.get("tags", [])
    if {"solution", "setup", "exercise"} & set(tags):
        return
    texts = [out.text for out in cell.outputs if out.output_type == "stream"]
    lines = [line for line in cell.source.splitlines() if line.strip()]
    n_printed = sum(text.count("\n") for text in texts)
    if "agreement" in tags and len(lines) <= MOST_CODE and n_printed <= MOST_PRINTED:
        shown = nbformat.from_dict(cell)
        shown.outputs = [out for out in cell.outputs if out.output_type == "stream"]
        shown.metadata["slideshow"] = {"slide_type": "subslide"}
        yield shown
    for output in cell.outputs:
        figures = FIGURE.findall(output.get("data", {}).get("text/html", ""))
        yield from (_slide(FOLD.sub("", one), "subslide") for one in figures)


def _slide(text: str, kind: str) -> Any:
    cell = nbformat.v4.new_markdown_cell(text)
    cell.metadata["slideshow"] = {"slide_type": kind}
    return cell


def make(notebook: Path, out: Path) -> Path:
    """Write the slides of an executed notebook, and beside them what they load; return the file."""
    whole = nbformat.read(notebook, as_version=4)
    whole.cells = list(slides_of(whole.cells))
    whole.metadata["title"] = notebook.stem
    looks = {"reveal_url_prefix": "reveal", "reveal_theme": "white"}
    exporter = SlidesExporter(template_file=str(HERE / "slides.html.j2"), **looks)
    text, _ = exporter.from_notebook_node(whole)
    text = text.replace('"reveal/dist/', '"reveal/')
    (out / "reveal" / "theme" / "fonts").mkdir(parents=True, exist_ok=True)
    dist = package_file("sphinx_revealjs", "_static/revealjs/dist")
    for name in REVEAL:
        copy = shutil.copytree if (dist / name).is_dir() else shutil.copy
        options = {"dirs_exist_ok": True} if (dist / name).is_dir() else {}
        copy(dist / name, out / "reveal" / name, **options)
    shutil.copy(package_file("sphinx-mathjax-offline", MATHJAX), out / "mathjax.js")
    target = out / f"{notebook.stem}.html"
    target.write_text(text, encoding="utf-8")
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the slides of the notebooks named; returns 2 if there is none of that number."""
    parser = argparse.ArgumentParser(prog="make slides", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("numbers", nargs="+", help="for example 03")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "slides")
    options = parser.parse_args(arguments)
    for number in options.numbers:
        found = sorted((ROOT / "notebooks").glob(f"{number.zfill(2)}*.ipynb"))
        if not found:
            say(f"There is no notebook {number}. Give its number, as in 03.")
            return 2
        say(f"Slides: {make(found[0], options.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
