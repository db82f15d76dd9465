"""Committed figures: each has a name, is drawn by one function, and says where it comes from."""

from __future__ import annotations

import importlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.paths import write_whole
from attnlab.show.style import style

FIGURE_MODULES: tuple[str, ...] = (  # they register figures; imported when one is asked for
    "attnlab.teaching.figures_replacing",
)
DOTS_PER_INCH = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class FigureWords:
    """What a figure says beside the picture."""

    caption: str  # a sentence: what to see, then how it was measured
    alt: str  # the same for someone who does not see it
    records: tuple[str, ...] = ()  # files, or "file#line", that the picture was drawn from
    commit: str | None = None  # that of the records, if they name one


@dataclass(frozen=True, kw_only=True, slots=True)
class FigureFiles:
    """Where a figure was written."""

    svg: Path
    png: Path
    json: Path


Draw = Callable[[], tuple[Figure, FigureWords]]

_REGISTRY: dict[str, Draw] = {}


def register_figure(figure_id: str) -> Callable[[Draw], Draw]:
    """Register a function that returns a figure and its words, to be called inside ``style()``.

    Args:
        figure_id: Lower-case letters, digits and single hyphens or underscores; also the
            name of the files.

    Raises:
        AttnlabError: If the id is not of that form or another function has it.
    """
    if not re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", figure_id):
        raise AttnlabError(
            f"{figure_id!r} cannot name a figure file. Use lower-case letters, digits and hyphens."
        )

    def register(draw: Draw) -> Draw:
        known = _REGISTRY.get(figure_id)
        if known is not None and _origin(known) != _origin(draw):
            raise AttnlabError(
                f"Two functions draw the figure {figure_id!r}: {_origin(known)} and "
                f"{_origin(draw)}. Rename one."
            )
        _REGISTRY[figure_id] = draw
        return draw

    return register


def list_figures() -> list[str]:
    """Return the ids of all figures, sorted."""
    _import_figures()
    return sorted(_REGISTRY)


def make_figure(
    figure_id: str, *, out: Path | str = "figures", commit: str | None = None
) -> FigureFiles:
    """Draw a figure and write ``<id>.svg``, ``<id>.png`` and ``<id>.json`` into ``out``.

    Two runs write the same bytes. A file appears whole or not at all.

    Args:
        figure_id: See ``list_figures``.
        out: The folder, made if it is missing.
        commit: What the JSON file names as commit; by default that of the records, else
            the present one.

    Raises:
        UnknownNameError: If no figure has this id.
    """
    _import_figures()
    if figure_id not in _REGISTRY:
        next_step = "To add one: @register_figure (attnlab.figures), then list its module there."
        raise UnknownNameError("figure", figure_id, _REGISTRY, next_step=next_step)
    with style():
        fig, words = _REGISTRY[figure_id]()
        try:
            svg, png = _svg(fig, figure_id, words), _png(fig)
        finally:
            plt.close(fig)
    folder = Path(out)
    files = FigureFiles(**{kind: folder / f"{figure_id}.{kind}" for kind in ("svg", "png", "json")})
    sidecar = _sidecar(figure_id, words, commit or words.commit or _present_commit())
    for path, data in ((files.svg, svg), (files.png, png), (files.json, sidecar)):
        write_whole(path, data)
    return files


def _import_figures() -> None:
    for module in FIGURE_MODULES:
        importlib.import_module(module)


def _origin(draw: Draw) -> str:
    return f"{draw.__module__}.{draw.__qualname__}"


def _svg(fig: Figure, figure_id: str, words: FigureWords) -> bytes:
    file = io.BytesIO()
    about = {"Title": figure_id, "Description": words.alt, "Date": None, "Creator": None}
    fig.savefig(file, format="svg", metadata=about)
    return file.getvalue()


def _png(fig: Figure) -> bytes:
    file = io.BytesIO()
    fig.savefig(file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return file.getvalue()


def _sidecar(figure_id: str, words: FigureWords, commit: str) -> bytes:
    about = {
        "id": figure_id,
        "caption": words.caption,
        "alt": words.alt,
        "command": f"attnlab figure {figure_id}",
        "records": list(words.records),
        "commit": commit,
    }
    return (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode()


def _present_commit() -> str:
    from attnlab.records import commit

    return commit()
