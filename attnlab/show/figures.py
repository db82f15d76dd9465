"""Committed figures: each has a name, is drawn by one function, and says where it comes from."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.paths import write_whole
from attnlab.records import commit, read_records
from attnlab.show.pictures import Picture
from attnlab.show.style import style
from attnlab.show.words import split_caption

DOTS_PER_INCH = 200


@dataclass(frozen=True)
class Figure:
    """A picture of records that has a name."""

    draw: Callable[[], Picture]
    experiments: tuple[str, ...]  # whose records it is drawn from


_FIGURES: dict[str, Figure] = {}


def figure(name: str, *, records: str | Sequence[str] = ()) -> Callable[[Callable], Callable]:
    """Register a picture without arguments as a figure of the documents.

    Args:
        name: Lower-case letters, digits and single hyphens or underscores; also the name of the
            files.
        records: The experiments it is drawn from (with a slash at the end, all below it); the
            newest of their records names the commit.

    Raises:
        AttnlabError: If the name is not of that form or another function has it.

    Example::

        @figure("tales-gap", records="language-model/classroom/tales")
        def tales_gap():
            return final_gaps(load_runs("language-model/classroom/tales"), oracle_nats=0.0)
    """
    if not re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", name):
        raise AttnlabError(
            f"{name!r} cannot name a figure file. Use lower-case letters, digits and hyphens."
        )

    def register(draw: Callable[[], Picture]) -> Callable[[], Picture]:
        known = _FIGURES.get(name)
        if known is not None and _origin(known.draw) != _origin(draw):
            raise AttnlabError(
                f"Two functions draw the figure {name!r}: {_origin(known.draw)} and "
                f"{_origin(draw)}. Rename one."
            )
        experiments = (records,) if isinstance(records, str) else tuple(records)
        _FIGURES[name] = Figure(draw, experiments)
        return draw

    return register


def list_figures() -> list[str]:
    """Return the names of all figures of the imported chapters, sorted."""
    return sorted(_FIGURES)


def make_figure(name: str, *, out: Path | str = "figures") -> list[Path]:
    """Draw a figure and write ``<name>.svg``, ``<name>.png`` and ``<name>.json`` into ``out``.

    Two runs write the same bytes. A file appears whole or not at all.

    Returns:
        The three files.

    Raises:
        UnknownNameError: If no figure has this name.
    """
    if name not in _FIGURES:
        step = "To add one: @figure (attnlab.show) on a picture of a chapter."
        raise UnknownNameError("figure", name, _FIGURES, next_step=step)
    one = _FIGURES[name].draw()
    folder = Path(out)
    parts = {"svg": _svg(one, name), "png": _png(one), "json": _sidecar(_FIGURES[name], one, name)}
    for kind, data in parts.items():
        write_whole(folder / f"{name}.{kind}", data)
    return [folder / f"{name}.{kind}" for kind in parts]


def _is_of(experiment: str, wanted: tuple[str, ...]) -> bool:
    """Say whether an experiment is one of these, or below one that ends with a slash."""
    below = tuple(name for name in wanted if name.endswith("/"))
    return experiment in wanted or experiment.startswith(below)


def _origin(draw: Callable) -> str:
    return f"{draw.__module__}.{draw.__qualname__}"


def _svg(one: Picture, name: str) -> bytes:
    file = io.BytesIO()
    about = {"Title": name, "Description": one.words, "Date": None, "Creator": None}
    with style():
        one.fig.savefig(file, format="svg", metadata=about)
    return file.getvalue()


def _png(one: Picture) -> bytes:
    file = io.BytesIO()
    with style():
        one.fig.savefig(file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return file.getvalue()


def _sidecar(figure: Figure, one: Picture, name: str) -> bytes:
    used = [line for line in read_records() if _is_of(line["experiment"], figure.experiments)]
    newest = max(used, key=lambda line: line["finished_at"], default=None)
    about = {
        "id": name,
        "caption": one.caption,
        "details": split_caption(one.words)[1],
        "alt": one.caption,
        "command": f"attnlab figure {name}",
        "records": [f"data/runs/{e.split('/')[0]}.jsonl#{e}" for e in figure.experiments],
        "commit": newest["commit"] if newest else commit(),
    }
    return (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode()
