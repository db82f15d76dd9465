"""Build the book: pages that need no kernel and no network, from the executed notebooks.

python tools/book/build.py --without-states
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from book import check, states, terms  # noqa: E402

from attnlab.claims import digest, ledger, ledger_markdown, verdicts_markdown  # noqa: E402
from attnlab.markdown import markdown_table  # noqa: E402
from attnlab.show.panels import LIVE  # noqa: E402
from attnlab.web import write_pages  # noqa: E402

HERE = Path(__file__).parent
PICTURE = re.compile(r"<img ([^>]*)src='data:image/(png|webp);base64,([^']*)'([^>]*)>")
DRAWN = re.compile(r"^!\[([^\]]*)\]\((figures/[^)]*)\)$", re.MULTILINE)
NARROW = re.compile(r"^(?:\| Maths \| Code \||<details id='claim-)", re.M)  # a phone stacks it
EXERCISE = re.compile(r"\*\*((?:Exercise|Build) [\d.]+)\*\*")
PATH = r"(?!https?:)[^)#\s]*[./][^)#\s]*|LICENSE"
LINK = re.compile(rf"(?<!!)\[([^\]]*)\]\((?:\.\./)*({PATH})(#[^)\s]*)?\)")
MATHJAX = "static/mathjax/tex-svg.js"
RUNS_HERE = re.compile(r"^(write_a_tale|take_attention_out)\(\)", re.MULTILINE)
LIVE_WAY = "[Try models in the page](live.md)"
WAYS = ("[All claims](claims.md)", "[For teachers](teaching.md)", "[Glossary](glossary.md)")
STAYS = "In the notebook a live panel stands here."
LAYERS = ("ground", "show", "corpora", "sources", "mixers", "teach", "models", "training",
          "analysis", "distillation", "tasks", "studies", "claims", "web")  # fmt: skip
MODULES = {  # of layers that are no package with a list of its names
    "ground": ("errors", "paths", "seeding", "config", "runmode", "records", "markdown"),
    "analysis": tuple(
        f"analysis.{name}" for name in ("critical_path", "theory", "timing", "compare")
    ),
}


def repository() -> str:
    """Return ``owner/name`` on GitHub, as the environment or the clone says; '' if neither does."""
    named = os.environ.get("ATTNLAB_REPOSITORY") or os.environ.get("GITHUB_REPOSITORY")
    if named:
        return named
    ask = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
    address = subprocess.run(ask, capture_output=True, text=True).stdout.strip()
    found = re.search(r"github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?$", address)
    return found[1] if found else ""


def buttons(stem: str) -> str:
    """Return links that open a notebook live, and the one to its solutions."""
    place, links = repository(), {}
    if place:
        path = f"notebooks/{stem}.ipynb"
        links["Open in Colab"] = (
            f"https://colab.research.google.com/github/{place}/blob/colab/{path}"
        )
        links["Open on Binder"] = f"https://mybinder.org/v2/gh/{place}/HEAD?urlpath=lab/tree/{path}"
    shown = "".join(f'<a href="{url}">{name}</a>' for name, url in links.items())
    download = f'<a href="../_static/colab/notebooks/{stem}.ipynb" download>Download</a>'
    return f'<p class="attnlab-open">{shown}{download}</p>'


def is_solution(cell: Any) -> bool:
    """Say whether a cell holds the solution of an exercise."""
    return "solution" in cell.metadata.get("tags", [])


def on_page(text: str, pictures: Path) -> str:
    """Return HTML with its pictures in files of their own, each a link to its file."""

    def moved(found: re.Match) -> str:
        data = base64.b64decode(found[3])
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.{found[2]}"
        (pictures / name).write_bytes(data)
        place = f"../_static/pictures/{name}"
        return larger(place, f"<img {found[1]}src='{place}' loading='lazy'{found[4]}>")

    return PICTURE.sub(moved, text)


def larger(place: str, shown: str) -> str:
    """Return a picture as a link that opens it at full size."""
    return f"<a class='attnlab-larger' href='{place}'>{shown}</a>"


def drawn(text: str) -> str:
    """Return the text of the first page with its figures as links to their files."""

    def one(found: re.Match) -> str:
        place, alt = f"_static/{found[2]}", html.escape(found[1], quote=True)
        shown = larger(place, f"<img src='{place}' alt='{alt}'>")
        return f"<figure>{shown}</figure>"

    return DRAWN.sub(one, text)


def panel_html(panel: dict[str, Any] | None, stills: str) -> str:
    """Return a panel for the script of the page, with its stills for a page without scripts."""
    live = f"<p><em>{LIVE}</em></p>"
    if panel is None:
        return stills.replace(live, f"<p class='attnlab-note'>{STAYS}</p>")
    data = json.dumps(panel, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/")
    kept = f"<div class='attnlab-stills'>{stills.replace(live, '')}</div>"
    script = f"<script type='application/json'>{data}</script>"
    return f"<div class='attnlab-live'>{kept}{script}</div>"


def framed(call: str, stills: str) -> str:
    """Return the page that a cell shows, which runs without a kernel, with its still in a fold."""
    name = call.replace("_", "-")
    live = f"<p><em>{LIVE}</em></p>"
    return (
        f"<iframe src='../_static/live/{name}.html' title='{name}' loading='lazy' "
        "style='width:100%;height:64em;border:0'></iframe>"
        f"<details><summary>As a picture</summary>{stills.replace(live, '')}</details>"
    )


def stacked(text: str) -> str:
    """Return Markdown whose tables are cards on a phone."""
    return f"<div class='attnlab-stack'>\n\n{text}\n\n</div>"


def put_outputs(cell: Any, panels: Sequence[Any], pictures: Path, stems: Sequence[str]) -> None:
    """Give the outputs of a cell the form of a page."""
    for place, output in enumerate(cell.outputs):
        data = output.get("data", {})
        if text := linked(data.get("text/markdown", ""), stems):
            data["text/markdown"] = stacked(text) if NARROW.search(text) else text
        panel = panels[place] if place < len(panels) else None
        if "text/html" in data:
            runs = RUNS_HERE.search(cell.source)
            shown = (
                framed(runs[1], data["text/html"]) if runs else panel_html(panel, data["text/html"])
            )
            data["text/html"] = on_page(shown, pictures)
        elif LIVE in data.get("text/markdown", ""):
            text = data["text/markdown"].replace(f"\n\n*{LIVE}*", "")
            if panel is not None:
                data["text/html"] = panel_html(panel, MarkdownIt().enable("table").render(text))
            data["text/markdown"] = text


def pages_of(
    notebook: Any, stem: str, *, panels: Sequence[Any], pictures: Path, stems: Sequence[str]
) -> tuple[Any, str]:
    """Return the page of a notebook, and that of its solutions as Markdown ('' if it has none)."""
    cells, solved, asked, n_code = [], {}, None, -1
    for cell in notebook.cells:
        n_code += cell.cell_type == "code"
        if found := EXERCISE.search(cell.source) if cell.cell_type == "markdown" else None:
            asked = (re.sub(r"[ .]", "-", found[1].lower()), found[1], cell.source)
        if cell.cell_type == "markdown":
            if found and asked:
                at = found.start()
                cell.source = f"{cell.source[:at]}(at-{asked[0]})=\n{cell.source[at:]}"
            cell.source = linked(cell.source, stems)
        elif is_solution(cell) and asked:
            name, title, text = asked
            if name not in solved:
                back = f"[Back to it in the notebook](#at-{name})"
                solved[name] = f"({name})=\n## {title}\n\n{back}\n\n{linked(text, stems)}\n\n"
                link = f"[Solution of {title[0].lower()}{title[1:]}](#{name})"
                cells.append(nbformat.v4.new_markdown_cell(link))
            code = cell.source.replace("    # SOLUTION\n", "")
            solved[name] += f"```python\n{code}\n```\n\n"
            continue
        else:
            put_outputs(cell, panels[n_code] if n_code < len(panels) else [], pictures, stems)
            tags = cell.metadata.setdefault("tags", [])
            cell.metadata["tags"] = [*tags, "hide-input"] if "setup" in tags else tags
        cells.append(cell)
    words = [cell for cell in cells if cell.cell_type == "markdown"]
    known = terms.terms_of((HERE / "glossary.md").read_text("utf-8"))
    texts = terms.link_first_uses((cell.source for cell in words), known)
    for cell, text in zip(words, texts, strict=True):
        cell.source = text
    head, _, rest = cells[0].source.partition("\n")
    cells[0].source = f"{head}\n\n{buttons(stem)}\n{rest}"
    notebook.cells = cells
    title = f"# Solutions of {head.removeprefix('# ')}\n\n[Notebook](../notebooks/{stem}.ipynb)\n"
    return notebook, "\n".join([title, *solved.values()]) if solved else ""


def linked(text: str, stems: Sequence[str]) -> str:
    """Return Markdown whose links to files that are no page lead to the repository, if known.

    Args:
        stems: The notebooks that are pages.
    """
    place = repository()

    def link(found: re.Match) -> str:
        said, path, anchor = found[1], Path(found[2]), found[3] or ""
        if path.stem in stems:
            return f"[{said}](/notebooks/{path.stem}.ipynb{anchor})"
        if (HERE / path.name).exists():
            return f"[{said}](/{path.name}{anchor})"
        is_page = path.suffix == ".ipynb" or not place
        return said if is_page else f"[{said}](https://github.com/{place}/blob/HEAD/{path}{anchor})"

    return LINK.sub(link, text)


def colab_copy(notebook: Any) -> Any:
    """Return a notebook that installs the package first where it runs on Colab alone."""
    text = (
        "import sys\n\n"
        'if "google.colab" in sys.modules:  # elsewhere the package is there already\n'
        "    import subprocess\n\n"
        f'    address = "git+https://github.com/{repository()}"\n'
        '    subprocess.run([sys.executable, "-m", "pip", "install", "-q", address], check=True)'
    )
    if not repository():
        return notebook
    cell = nbformat.v4.new_code_cell(text, metadata={"tags": ["setup"]}, id="colab-set-up")
    return nbformat.from_dict({**notebook, "cells": [cell, *notebook.cells]})


def lay_out(
    source: Path,
    notebooks: Sequence[Path],
    *,
    panels: Mapping[str, Sequence[Any]],
    kept: Path = states.CACHE / "pictures",
    interface: bool = True,
) -> None:
    """Write every page of the book, as Markdown and notebooks, into a folder for Sphinx.

    Args:
        source: The folder, made anew.
        notebooks: Executed copies.
        panels: By the stem of a notebook, what ``states_of`` returns.
        kept: Where the pictures of panels lie.
        interface: Whether the package, and models that run in a page, have pages too.
    """
    shutil.rmtree(source, ignore_errors=True)
    own = source / "_own"
    for name in ("notebooks", "solutions", "api", "_own/pictures", "_own/colab/notebooks"):
        (source / name).mkdir(parents=True)
    stems, solved = [path.stem for path in notebooks], []
    for path in notebooks:
        notebook, found = nbformat.read(path, as_version=4), panels.get(path.stem, [])
        nbformat.write(colab_copy(notebook), own / "colab" / "notebooks" / path.name)
        places = {"panels": found, "pictures": own / "pictures", "stems": stems}
        page, solutions = pages_of(notebook, path.stem, **places)
        nbformat.write(page, source / "notebooks" / path.name)
        if solutions:
            (source / "solutions" / f"{path.stem}.md").write_text(solutions, encoding="utf-8")
            solved.append(path.stem)
        for name in set(re.findall(r"[0-9a-f]{16}\.webp", json.dumps(found))):
            shutil.copy(kept / name, own / "pictures" / name)
    for file in ("conf.py", "_own/book.css", "_own/panels.js"):
        shutil.copy(HERE / Path(file).name, source / file)
    shutil.copy(package_file("sphinx-mathjax-offline", MATHJAX), own / "mathjax.js")
    shutil.copytree(ROOT / "figures", own / "figures", ignore=shutil.ignore_patterns("*.json"))
    write_other_pages(source, stems, solved, interface=interface)


def package_file(package: str, path: str) -> Path:
    """Return a file or folder of an installed package."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"[attnlab] The book needs {package}: pip install -c constraints.txt -e '.[book]'")
    return Path(next(iter(found.submodule_search_locations))) / path


def write_other_pages(
    source: Path, stems: list[str], solved: list[str], *, interface: bool
) -> None:
    """Write the first page, the ledger, the interface and what is taught beside the notebooks."""
    lines = ledger()
    table = digest(lines).astype(str)
    table["id"] = "<a href='#claim-" + table["id"] + "'>" + table["id"] + "</a>"
    claims = [
        "# What the records say of each claim", "Verdict, number, seeds and doubt of every claim "
        "of the two papers, computed from the run records.", "## The words of a verdict",
        verdicts_markdown(), "## In short",
        stacked(markdown_table(list(table), table.to_numpy().tolist())), "## Line by line",
        stacked(ledger_markdown(lines, folder="notebooks/")),
    ]  # fmt: skip
    pages = {"claims": linked("\n\n".join(claims), stems)}
    layers = LAYERS if interface else ()
    for layer in layers:
        names = [f"attnlab.{name}" for name in MODULES.get(layer, (layer,))]
        parts = [f"```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```" for name in names]
        pages[f"api/{layer}"] = "\n\n".join([f"# {layer.capitalize()}", *parts])
    extra = ["teaching", "glossary"]
    pages |= {name: linked((HERE / f"{name}.md").read_text("utf-8"), stems) for name in extra}
    pages["glossary"] = terms.with_places(pages["glossary"])
    if interface:
        pages["live"] = live_page(source / "_own" / "live")
        extra.append("live")
    listed = {"Notebooks": [f"notebooks/{stem}" for stem in stems],
              "Beside them": [*extra, "claims"],
              "Solutions": [f"solutions/{stem}" for stem in solved],
              "The package": [f"api/{layer}" for layer in layers]}  # fmt: skip
    trees = [
        "```{{toctree}}\n:caption: {}\n:hidden:\n\n{}\n```".format(caption, "\n".join(names))
        for caption, names in listed.items() if names
    ]  # fmt: skip
    readme = drawn(linked((ROOT / "README.md").read_text("utf-8"), stems))
    title, _, readme = readme.partition("\n")
    first = f"[Read from the beginning](notebooks/{stems[0]}.ipynb)"
    ways = [first, *([LIVE_WAY] if interface else []), *WAYS]
    pages["index"] = "\n\n".join([title, " · ".join(ways), readme, *trees])
    for name, text in pages.items():
        (source / f"{name}.md").write_text(text, encoding="utf-8")


def live_page(folder: Path) -> str:
    """Write the pages whose models run in the browser; return one that has them in frames."""
    parts = ["# Models in the page", "Small trained models, run by the page itself."]
    for path in write_pages(folder):
        found = re.search("<title>(.*?)</title>", path.read_text("utf-8"))
        title, address = found[1] if found else path.stem, f"_static/live/{path.name}"
        parts += [
            f"## {title}",
            f'<p><a href="{address}">On a page of its own</a></p>\n<iframe src="{address}" '
            f'title="{title}" loading="lazy" style="width:100%;height:64em;border:0"></iframe>',
        ]
    return "\n\n".join(parts)


def say(line: str) -> None:
    """Tell what happens, at once."""
    print(f"[attnlab] {line}", flush=True)  # noqa: T201


def run_sphinx(source: Path, out: Path) -> list[str]:
    """Turn the laid-out pages into a site; return what is wrong with it."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"]
    command += ["-d", str(source / "_doctrees"), str(source), str(out)]
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True
    )
    return [*done.stderr.splitlines(), *check.problems(out)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the book and check its links; returns 1 if something is wrong with it."""
    parser = argparse.ArgumentParser(prog="make book", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("numbers", nargs="*", help="for example 03; without one, all notebooks")
    parser.add_argument("--without-states", action="store_true", help="panels stay pictures")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "book")
    options = parser.parse_args(arguments)
    found = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    notebooks = [p for p in found if not options.numbers or p.stem[:2] in options.numbers]
    panels = {}
    for path in notebooks if not options.without_states else ():
        began = time.monotonic()
        panels[path.stem] = states.states_of(path.parent / "src" / f"{path.stem}.py", path)
        n_live = sum(one is not None for cell in panels[path.stem] for one in cell)
        say(f"{path.stem}: {n_live} panels with their states ({time.monotonic() - began:.0f} s)")
    source = options.out.with_name(f"{options.out.name}-source")
    lay_out(source, notebooks, panels=panels)
    problems = run_sphinx(source, options.out)
    for problem in problems:
        say(problem)
    say(f"The book is at {options.out / 'index.html'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
