"""Compare what a reader sees in two checkouts: outputs, prose, README results, figures, data.

    python tools/guard.py BEFORE AFTER --allow tools/guard.txt --pictures pairs

A line of the allow file is ``place:kind:pattern  # reason``; a star stands for any place or kind.
Ids of widgets, execution counts, borders of cells and stamps of sources do not matter.
"""

import argparse
import base64
import hashlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from fnmatch import fnmatch
from html import unescape
from itertools import zip_longest
from pathlib import Path

import nbformat
from PIL import Image, ImageChops

WIDGET = "application/vnd.jupyter.widget-{}+json"
SAYS = "description _options_labels index value min max step readout_format tooltip tooltips titles"
STYLE = re.compile(r"<style.*?</style>", re.DOTALL)
TAG = re.compile(r"""<[/a-z](?:[^>"']|"[^"]*"|'[^']*')*>""")
ATTRIBUTE = re.compile(r"""([\w-]+)=(["'])(.*?)\2""", re.DOTALL)
SVG_NOISE = re.compile(
    r'<metadata>.*?</metadata>| id="[^"]*"|url\(#[^)]*\)|href="#[^"]*"', re.DOTALL
)


@dataclass(frozen=True)
class Item:
    """One thing a reader meets; ``note`` and ``png`` are for the report and are not compared."""

    kind: str
    text: str
    note: str = field(default="", compare=False)
    png: bytes = field(default=b"", compare=False, repr=False)


def lines(kind: str, text: str) -> list[Item]:
    """Return the lines of a text that are not blank."""
    return [Item(kind, line.rstrip()) for line in text.splitlines() if line.strip()]


def picture(png: bytes, note: str) -> Item:
    """Return a picture as its size and the digest of its pixels."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    digest = hashlib.sha256(image.tobytes()).hexdigest()[:16]
    return Item("picture", f"{image.width}x{image.height} {digest}", note, png)


def from_html(html: str) -> tuple[str, list[Item]]:
    """Return the text, with alt texts in place of pictures, and the pictures it holds."""
    pictures = []

    def seen(tag: re.Match) -> str:
        if tag[0].startswith("<img"):
            attributes = {name: unescape(value) for name, _, value in ATTRIBUTE.findall(tag[0])}
            alt, png = attributes.get("alt", ""), attributes.get("src", "").partition("base64,")[2]
            pictures.extend([picture(base64.b64decode(png), alt)] if png else [])
            return f" [picture: {alt}] "
        return " | " if tag[0].startswith(("<td", "<th")) else " "

    return " ".join(unescape(TAG.sub(seen, STYLE.sub("", html))).split()), pictures


def widget(model: str, models: dict) -> Iterator[Item]:
    """Yield what a panel says and offers, from the top down, without its boxes."""
    name, state = (models[model.removeprefix("IPY_MODEL_")][key] for key in ("model_name", "state"))
    kept = {key: state[key] for key in SAYS.split() if state.get(key) not in (None, "", [])}
    if isinstance(kept.get("value"), str):
        kept["value"] = from_html(kept["value"])[0]
    if any(kept.values()):
        yield Item("widget", f"{name.removesuffix('Model')} {kept}")
    for shown in state.get("outputs", []):
        yield from output(shown, models)
    for child in state.get("children", []):
        yield from widget(child, models)


def output(shown: dict, models: dict) -> Iterator[Item]:
    """Yield what one output of a cell shows; of several forms, the richest."""
    if shown["output_type"] in ("stream", "error"):
        yield from lines(shown.get("name", "error"), shown.get("text") or shown.get("evalue", ""))
        return
    data, plain = shown["data"], shown["data"].get("text/plain", "")
    if "image/png" in data:
        alt = shown["metadata"].get("image/png", {}).get("alt") or plain
        yield picture(base64.b64decode(data["image/png"]), alt)
        yield from lines("alt", alt)
    elif WIDGET.format("view") in data:
        yield from lines("text", plain)
        yield from widget(data[WIDGET.format("view")]["model_id"], models)
    elif "text/html" in data:
        text, pictures = from_html(data["text/html"])
        yield from [*lines("html", text), *pictures]
    else:
        yield from lines("text", data.get("text/markdown") or plain)


def read_tree(root: Path) -> dict[str, list[Item]]:
    """Return every sequence that is compared, by the name of its place."""
    places = {}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        book = nbformat.read(path, as_version=4)
        models = book.metadata.get("widgets", {}).get(WIDGET.format("state"), {}).get("state", {})
        outputs = [shown for cell in book.cells for shown in cell.get("outputs", [])]
        places[path.stem] = [item for shown in outputs for item in output(shown, models)]
        prose = [cell.source for cell in book.cells if cell.cell_type == "markdown"]
        places[f"{path.stem} prose"] = lines("prose", "\n".join(prose))
    readme = (root / "README.md").read_text("utf-8")
    block = readme.partition("results: begin")[2].partition("results: end")[0]
    places["README.md"] = lines("results", block)
    for path in sorted((root / "figures").glob("*.*")):
        is_png, text = path.suffix == ".png", path.read_bytes()
        shown = [picture(text, "")] if is_png else lines("text", SVG_NOISE.sub("", text.decode()))
        places[f"figures/{path.name}"] = shown
    for path in sorted([*root.glob("data/runs/*.*"), *root.glob("data/models/*/*.*")]):
        data = path.read_bytes()
        text = f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}"
        places[path.relative_to(root).as_posix()] = [Item("file", text)]
    return places


def differences(before: list[Item], after: list[Item]) -> Iterator[tuple[Item, Item]]:
    """Yield what differs, in pairs of one kind."""
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        sides = (before[a:b], after[c:d]) if tag != "equal" else ()
        for kind in dict.fromkeys(item.kind for side in sides for item in side):
            of_kind = ([item for item in side if item.kind == kind] for side in sides)
            yield from zip_longest(*of_kind, fillvalue=Item(kind, "(nothing)"))


def describe(pair: tuple[Item, Item]) -> str:
    """Return both sides from shortly before the first letter that differs, and what pixels do."""
    one, other = (f"{item.text} {item.note}" for item in pair)
    same = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    part = slice(max(0, same - 60), max(0, same - 60) + 240)
    said = f"  - {one[part]}\n  + {other[part]}"
    if not (pair[0].png and pair[1].png):
        return said
    images = [Image.open(io.BytesIO(item.png)).convert("RGB") for item in pair]
    if images[0].size != images[1].size:
        return f"{said}\n    sizes {images[0].size} and {images[1].size}"
    changed = ImageChops.difference(*images).convert("L").point(lambda value: 255 * (value > 0))
    return (
        f"{said}\n    {changed.histogram()[255] / (changed.width * changed.height):.2%} of pixels"
    )


def read_allowed(path: Path | None) -> list[list[str]]:
    """Return place, kind and pattern of each line; a line without a reason is an error."""
    rows = path.read_text("utf-8").splitlines() if path else []
    pairs = [row.rpartition("  # ") for row in rows if row.strip() and not row.startswith("#")]
    if silent := [reason for rule, _, reason in pairs if rule.count(":") < 2]:
        sys.exit(f"{path}: write 'place:kind:pattern  # reason', not {silent[0]!r}")
    return [rule.strip().split(":", 2) for rule, _, _ in pairs]


def is_allowed(rules: list[list[str]], place: str, pair: tuple[Item, Item]) -> bool:
    """Say whether a rule names the place and kind, and fits either side."""
    fits = [r for at, of, r in rules if fnmatch(place, at) and fnmatch(pair[0].kind, of)]
    return any(re.search(r, f"{item.text} {item.note}") for r in fits for item in pair)


def main(arguments: list[str] | None = None) -> int:
    """Print where the trees differ; returns 1 if anything does that was not allowed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path, help="a checkout with its stored notebooks")
    parser.add_argument("after", type=Path, help="the checkout to compare with it")
    parser.add_argument("--allow", type=Path, help="lines 'place:kind:pattern  # reason'")
    parser.add_argument("--pictures", type=Path, help="folder for pairs of pictures that differ")
    parser.add_argument("--all", action="store_true", help="not only the first of each kind")
    options = parser.parse_args(arguments)
    before, after = read_tree(options.before), read_tree(options.after)
    rules, found, n_allowed = read_allowed(options.allow), {}, 0
    for place in sorted(before | after):
        for pair in differences(before.get(place, []), after.get(place, [])):
            if is_allowed(rules, place, pair):
                n_allowed += 1
                continue
            pairs = found.setdefault((place, pair[0].kind), [])
            pairs.append(pair)
            for side, item in zip(("before", "after"), pair, strict=True):
                if options.pictures and item.png:
                    options.pictures.mkdir(parents=True, exist_ok=True)
                    name = f"{place.replace('/', '-')}-{len(pairs):03}-{side}.png"
                    (options.pictures / name).write_bytes(item.png)
    for (place, kind), pairs in found.items():
        shown = "\n".join(describe(pair) for pair in (pairs if options.all else pairs[:1]))
        sys.stdout.write(f"{place}: {kind}: {len(pairs)} differ\n{shown}\n")
    total = sum(map(len, found.values()))
    sys.stdout.write(f"{total} differences and {n_allowed} allowed in {len(before)} places\n")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
