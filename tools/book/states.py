"""What a panel shows at each setting, recorded by running its notebook."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as w
import jupytext
import nbformat
from IPython.display import display
from nbclient import NotebookClient
from PIL import Image
from widget_cells import needed

import attnlab.show
from attnlab.errors import AttnlabError
from attnlab.paths import write_whole
from attnlab.show import panels
from attnlab.show.pictures import DOTS_PER_INCH, Picture
from attnlab.show.style import style
from attnlab.show.words import caption_html, plain

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "data" / "cache" / "book"
MIME = "application/vnd.attnlab.states+json"
MOST_STATES, MOST_TEXTS = 240, 60
PAGE_BYTES = 3_000_000  # of pictures, all panels of a page together
COLOURS = 64
FILE = re.compile(r"[0-9a-f]{16}\.webp")
Axes = list[dict[str, Any]]
Shown = tuple[list[str], tuple[int, int]]  # file or HTML, and caption; size
NO_PRESETS: Sequence[Mapping[str, Any]] = ({},)
CALL = re.compile(r"\b(?:explore|play)\(")
KEYS = re.compile(r" (?:Arrow keys change it|Tab and Space choose|(?:Enter or )?Tab reads it)\.$")
SLIDERS = (w.IntSlider, w.FloatSlider, w.SelectionSlider)
SELECTION = (w.ToggleButtons, w.Dropdown, w.SelectionSlider, w.RadioButtons)


def axis(control: w.ValueWidget, wanted: Sequence[Any]) -> dict[str, Any]:
    """Return a dial as a page has it: its labels and values, and which of them it starts with.

    Args:
        control: The widget.
        wanted: Values that the presets set; of a box to type in nothing else can be shown.
    """
    if isinstance(control, SELECTION):
        labels, values = list(control._options_labels), list(control._options_values)
    elif isinstance(control, w.IntSlider | w.FloatSlider):
        n_steps = math.floor((control.max - control.min) / control.step + 1e-9)
        values = [round(control.min + n * control.step, 9) for n in range(n_steps + 1)]
        labels = [f"{value:.6g}" for value in values]
    else:
        texts = [control.value, *wanted]
        values = [text for n, text in enumerate(texts) if text not in texts[:n]]
        labels = [" ".join(str(text).split())[:60] or "(nothing)" for text in values]
    kind = "range" if isinstance(control, SLIDERS) else "select"
    typed = isinstance(control, w.Text | w.Textarea)
    note = KEYS.sub("", control.tooltip or "")  # of a page the keys are the browser's
    note = "" if note.rstrip(".") == control.description else note
    return {"label": control.description, "kind": kind, "typed": typed, "note": note,
            "labels": labels, "values": values}  # fmt: skip


def nearest(values: Sequence[Any], value: Any) -> int:
    """Return the place of a value, or of the number nearest to it."""
    if value in values:
        return list(values).index(value)
    return min(range(len(values)), key=lambda n: abs(values[n] - value))


def spread(values: Sequence[Any], kept: Sequence[Any], *, count: int) -> list[int]:
    """Return places of about ``count`` values, evenly, with both ends and those that stay."""
    last = len(values) - 1
    even = {round(n * last / (count - 1)) for n in range(count)}
    return sorted(even | {nearest(values, value) for value in kept})


def thin(axes: Axes, kept: list[Sequence[Any]], *, most: int) -> None:
    """Take values out of the sliders, evenly, until the states are few enough.

    Args:
        axes: From ``axis``; changed in place.
        kept: For each axis, values that stay: where it starts, what the presets set.
        most: States at most; the choices alone may be more.
    """
    whole = [dict(one) for one in axes]
    counts = {n: len(one["values"]) for n, one in enumerate(axes) if one["kind"] == "range"}
    while n_states(axes) > most and max(counts.values(), default=0) > 3:
        n = max(counts, key=lambda n: counts[n])
        counts[n] -= 1
        places = spread(whole[n]["values"], kept[n], count=counts[n])
        axes[n] |= {name: [whole[n][name][p] for p in places] for name in ("labels", "values")}
        axes[n]["thin"] = len(places) < len(whole[n]["values"])


def n_states(axes: Axes) -> int:
    """Return how many settings there are."""
    return math.prod(len(one["values"]) for one in axes)


def points(axes: Axes) -> list[tuple[Any, ...]]:
    """Return every setting, the last dial fastest."""
    return list(itertools.product(*(one["values"] for one in axes)))


def webp(one: Picture) -> bytes:
    """Return a picture as a lossless WebP of few colours."""
    file, out = io.BytesIO(), io.BytesIO()
    with style():
        one.fig.savefig(file, format="png", dpi=DOTS_PER_INCH, pil_kwargs={"compress_level": 1})
    with Image.open(file) as drawn:
        few = drawn.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.convert("RGB").save(out, format="webp", lossless=True, method=4, quality=60)
    return out.getvalue()


class Recorder:
    """Draws a panel at all of its settings and keeps what it shows."""

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        """Keep pictures in a folder, by the hash of their bytes.

        Args:
            most_bytes: Of the pictures of one panel.
        """
        self.folder, self.most_bytes = folder, most_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, one: Picture) -> str:
        """Write a picture unless it is there; return the name of its file."""
        data = webp(one)
        path = self.folder / f"{hashlib.sha256(data).hexdigest()[:16]}.webp"
        if not path.exists():
            write_whole(path, data)
        return path.name

    def panel(
        self, draw: Callable[..., Any], presets: Sequence[Mapping], dials: Mapping, say: Any
    ) -> dict[str, Any] | None:
        """Return all states of a panel; None where they cannot be so few as to be shown.

        Args:
            draw: From the values to a picture, or to texts.
            say: From the values to the words below texts; None where pictures are drawn.
        """
        controls = panels.make_dials(dials)
        settings = panels._settings(presets, controls)
        wanted = [[one[name] for one in settings] for name in controls]
        axes = [axis(c, want) for c, want in zip(controls.values(), wanted, strict=True)]
        kept = [[c.value, *want] for c, want in zip(controls.values(), wanted, strict=True)]
        cap = most = MOST_TEXTS
        if say is None:
            stills = [draw(**values) for values in settings]
            n_bytes = sum(len(webp(one)) for one in stills) / len(stills)
            cap, most = MOST_STATES, max(1, min(MOST_STATES, int(self.most_bytes / n_bytes)))
        drawn: dict[tuple[Any, ...], Shown] = {}

        def at(point: tuple[Any, ...]) -> Shown:
            if point not in drawn:
                drawn[point] = self.state(draw, dict(zip(controls, point, strict=True)), say)
            return drawn[point]

        axes = self.fitting(axes, kept, at=at, most=most, cap=cap)
        if axes is None:
            return None
        shown = [at(point) for point in points(axes)]
        states, size = [one for one, _ in shown], max((0, 0), *(size for _, size in shown))
        start = panels.control_values(controls)
        places = [
            [nearest(one["values"], values[name]) for name, one in zip(controls, axes, strict=True)]
            for values in (start, *settings)
        ]
        for one in axes:
            del one["values"]
        found = {"dials": axes, "start": places[0], "examples": places[1:]}
        return {**found, "size": size, "states": states}

    def fitting(
        self, axes: Axes, kept: list[Sequence[Any]], *, at: Callable, most: int, cap: int
    ) -> Axes | None:
        """Return the axes with as many values as fit; None where even the fewest do not.

        Settings may show the same picture, which is kept once: then there is room for more.

        Args:
            at: From a point to what is shown there.
            most: States to begin with, as if all pictures were different.
            cap: States at most, however alike.
        """
        found = None
        while True:
            tried = [dict(one) for one in axes]
            thin(tried, kept, most=most)
            n = n_states(tried)
            if n > 1.5 * cap:
                return found
            names = {at(point)[0][0] for point in points(tried)}
            n_bytes = sum((self.folder / name).stat().st_size for name in names if FILE.match(name))
            if n_bytes > self.most_bytes * (1.5 if found is None else 1):
                return found
            found = tried
            if n == n_states(axes) or most >= cap or n_bytes > 0.8 * self.most_bytes:
                return found
            most = min(cap, 2 * most)

    def state(self, draw: Callable, values: dict, say: Any) -> Shown:
        """Return what stands there at these values, and its size: file or HTML, caption."""
        try:
            drawn = draw(**values)
        except AttnlabError as error:
            return ["", f"<em>{plain(str(error))}</em>"], (0, 0)
        if say is None:
            return [self.keep(drawn), caption_html(drawn.words)], drawn.size
        written = panels._texts_html(drawn, n_lines=panels._n_lines(drawn))
        return [written, f"<em>{plain(say(**values))}</em>"], (0, 0)


def record(folder: str, *, most_bytes: int) -> None:
    """Make ``explore`` and ``play`` of this kernel tell all states of their panels as well."""
    recorder, real = Recorder(Path(folder), most_bytes=most_bytes), (panels.explore, panels.play)

    def explore(draw, *, presets=NO_PRESETS, still=None, **dials):
        display({MIME: recorder.panel(draw, presets, dials, None)}, raw=True)
        return real[0](draw, presets=presets, still=still, **dials)

    def play(write, *, presets, words=None, **dials):
        found = recorder.panel(write, presets, dials, words or panels._say_values)
        display({MIME: found}, raw=True)
        return real[1](write, presets=presets, words=words, **dials)

    for module in (attnlab.show, panels):
        module.explore, module.play = explore, play


def key(source: Path, notebook: Path) -> str:
    """Return a hash of what the states depend on: source, results, pictures, this file."""
    digest = hashlib.sha256()
    chapter = ROOT / "attnlab" / "chapters" / source.stem[3:]
    folders = [chapter, ROOT / "attnlab" / "show"]
    drawing = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    for file in (source, notebook, Path(__file__), *drawing):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def states_of(source: Path, notebook: Path, *, cache: Path = CACHE) -> list[list[Any]]:
    """Return the states of each panel: by code cell, by output.

    They are computed once for a source and its results, minutes a notebook, and kept in a cache.

    Args:
        source: ``notebooks/src/NN_slug.py``.
        notebook: Its executed copy.
        cache: Folder for the answers; pictures lie in ``pictures``.
    """
    file = cache / f"{source.stem}-{key(source, notebook)}.json"
    if not file.exists():
        for old in cache.glob(f"{source.stem}-*.json"):
            old.unlink()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(_run(source, cache / "pictures")))
    return json.loads(file.read_text(encoding="utf-8"))


def _run(source: Path, pictures: Path) -> list[list[Any]]:
    notebook = jupytext.read(source, fmt="py:percent")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    n_panels = sum(len(CALL.findall(cell.source)) for cell in code if "widget" in _tags(cell))
    if not n_panels:
        return [[] for _ in code]
    notebook.cells = list(needed(notebook.cells))
    said = f"{str(pictures)!r}, most_bytes={PAGE_BYTES // n_panels}"
    start = nbformat.v4.new_code_cell(f"from book import states\nstates.record({said})")
    notebook.cells.insert(0, start)
    options = {"kernel_name": "python3", "timeout": 3600, "coalesce_streams": True}
    place = {"metadata": {"path": str(ROOT / "notebooks")}}
    client = NotebookClient(notebook, resources=place, **options)
    paths = [ROOT / "tools", ROOT]
    path = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")])
    wanted = {"PYTHONPATH": path, "ATTNLAB_MODE": "fast", "ATTNLAB_WIDGETS": "on",
              "OMP_NUM_THREADS": "1"}  # fmt: skip
    client.execute(env=os.environ | wanted)
    return [_panels(cell) for cell in code]


def _panels(cell: Any) -> list[Any]:
    found: list[Any] = []
    waiting = None
    for output in cell.get("outputs", []):
        if MIME in output.get("data", {}):
            waiting = output.data[MIME]
        else:
            found.append(waiting)
            waiting = None
    return found


def _tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])
