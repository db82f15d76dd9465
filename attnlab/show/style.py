"""How every family of models looks, in every picture: the one place that decides it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from attnlab.errors import AttnlabError, UnknownNameError

LINE_SIZE = (6.4, 3.6)  # inches, for a line plot
MATRIX_SIZE = (3.6, 3.2)  # inches, for a matrix and its colour bar
AMOUNT_COLOURS = "cividis"
DIFFERENCE_COLOURS = "RdBu"

Dash = str | tuple[int, tuple[float, ...]]

_SETTINGS: dict[str, Any] = {
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 3.5,  # long enough to tell the dashes apart
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "figure.figsize": LINE_SIZE,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.transparent": False,
    "image.cmap": AMOUNT_COLOURS,
    "svg.hashsalt": "attnlab",
    "svg.fonttype": "path",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Colour, dash and marker of one name; colour is never the only difference."""

    family: str
    label: str  # as a legend says it
    colour: str
    dash: Dash
    marker: str  # a matplotlib marker; "None" for a line without one

    def line(self) -> dict[str, Any]:
        """Return the keyword arguments of ``ax.plot`` that draw this look."""
        return {"linestyle": self.dash, **self.points(), "label": self.label}

    def points(self) -> dict[str, Any]:
        """Return the keyword arguments of ``ax.plot`` that draw its markers."""
        return {"color": self.colour, "marker": self.marker, "markeredgecolor": self.colour}


FAMILIES: dict[str, Look] = {
    family: Look(family=family, label=label, colour=colour, dash=dash, marker=marker)
    for family, label, colour, dash, marker in (
        ("attention", "Attention", "#0072B2", "solid", "o"),
        ("extractor", "Extractor", "#D55E00", (0, (5, 2)), "s"),
        ("feedforward", "Feed-forward replacement", "#009E73", (0, (6, 2, 1.5, 2)), "^"),
        ("convolution", "Convolution", "#CC79A7", (0, (5, 1, 1, 1, 1, 1)), "D"),
        ("recurrence", "Recurrence", "#8A2BE2", (0, (3, 1.5)), "h"),
        ("table", "Table", "#6E6E6E", (0, (9, 3)), "x"),
        ("oracle", "True source", "black", "dotted", "None"),
    )
}
MEMBERS = {  # of each family: name, label, marker; the further down, the darker and shorter-dashed
    "attention": (
        ("attention", "Attention", "o"),
        ("attention_1_head", "Attention, 1 head", "H"),
        ("attention_matched_parameters", "Attention, same weights", "p"),
        ("attention_matched_compute", "Attention, same compute", "8"),
        ("linear_attention", "Linear attention", "h"),
    ),
    "extractor": (("she", "SHE", "s"), ("he", "HE", "P"), ("we", "WE", "X"), ("me", "ME", "*")),
    "feedforward": (
        ("alr", "ALR", "^"),
        ("alrr", "ALRR", "v"),
        ("aslr", "ASLR", "<"),
        ("elr", "ELR", ">"),
    ),
    "convolution": (
        ("mean", "Causal mean", "d"),
        ("identity", "Identity (no mixing)", "D"),
        ("pooling", "Pooling", "$P$"),
        ("hyena", "Hyena", "$H$"),
        ("spade", "SPADE", "$S$"),
    ),
    "table": (
        ("n_gram", "n-gram table", "+"),
        ("unigram", "Unigram table", "1"),
        ("bigram", "Bigram table", "2"),
    ),
}
NO_FAMILY = ("#332288", "#882255", "#B58900")  # for what is of none: marks, parts, places
VARIANT_MARKERS = ("s", "v", "^", "X", "P", "*", "<", ">")
SHADES = {"he": "#8C2D04", "we": "#B8790B", "me": "#4D1A00"}  # they meet in every picture
LOOKS: dict[str, Look] = {
    **FAMILIES,
    "entropy_rate": replace(FAMILIES["oracle"], label="Entropy rate"),
}


def _member(family: str, label: str, marker: str, *, place: int) -> Look:
    """Return the look of a member: a shade darker than the one before, its dashes shorter."""
    base, share = FAMILIES[family], 0.8**place
    colour = to_hex([share * part for part in to_rgb(base.colour)])
    dash = base.dash
    if not isinstance(dash, str):
        dash = (0, tuple(round(length * share, 2) for length in dash[1]))
    return Look(family=family, label=label, colour=colour, dash=dash, marker=marker)


for _family, _rows in MEMBERS.items():
    for _place, (_name, _label, _marker) in enumerate(_rows):
        _look = _member(_family, _label, _marker, place=_place)
        LOOKS[_name] = replace(_look, colour=SHADES.get(_name, _look.colour))


def look(name: str) -> Look:
    """Return the look of a model name.

    Case and hyphens do not matter, and a variant written ``she/no_adjust`` looks
    like ``she`` (its label keeps the variant).

    Raises:
        UnknownNameError: If neither the name nor what stands before ``/`` has a look.
    """
    plain = name.lower().replace("-", "_")
    if plain in LOOKS:
        return LOOKS[plain]
    stem, _, variant = plain.partition("/")
    if variant and stem in LOOKS:
        return replace(LOOKS[stem], label=f"{LOOKS[stem].label}, {variant.replace('_', ' ')}")
    mixers = sys.modules.get("attnlab.mixers")  # if there is one, it was imported: no torch here
    if mixers and stem in mixers.list_mixers():
        register_look(stem, **mixers.find_mixer(stem).look)
        return look(name)
    step = "To add one: show.register_look(name, family=..., label=..., marker=...)."
    raise UnknownNameError("look", name, LOOKS, next_step=step)


def register_look(name: str, *, family: str, label: str, marker: str) -> Look:
    """Give a model of your own its family's colour, a shade darker, and a marker of its own.

    Args:
        name: What the table of runs calls it.
        family: One of ``FAMILIES``.
        label: What a legend calls it.
        marker: A matplotlib marker that no other name of the family has.

    Raises:
        UnknownNameError: If there is no such family.
        AttnlabError: If the name has a look, or another name of the family has this marker.
    """
    if family not in FAMILIES:
        step = "Choose the nearest in kind."
        raise UnknownNameError("family of looks", family, FAMILIES, next_step=step)
    plain = name.lower().replace("-", "_")
    known = LOOKS.get(plain)
    if known and (known.family, known.label, known.marker) == (family, label, marker):
        return known
    taken = [n for n, o in LOOKS.items() if (o.family, o.marker) == (family, marker)]
    if known or taken:
        raise AttnlabError(
            f"{name!r} with marker {marker!r} would look like {plain if known else taken[0]!r}, "
            "which is taken. Choose another name or marker."
        )
    n_members = sum(other.family == family for other in LOOKS.values())
    LOOKS[plain] = _member(family, label, marker, place=n_members)
    return LOOKS[plain]


def variants(name: str, labels: Iterable[str]) -> list[Look]:
    """Return looks for variants of one name: each a shade, a marker and a dash of its own."""
    base, looks = look(name), []
    markers = [base.marker, *(marker for marker in VARIANT_MARKERS if marker != base.marker)]
    for place, label in enumerate(labels):
        colour = to_hex([0.8**place * part for part in to_rgb(base.colour)])
        marker = markers[place % len(markers)]
        dash = base.dash if place % 2 == 0 else "solid"
        looks.append(replace(base, label=label, colour=colour, marker=marker, dash=dash))
    return looks


@contextmanager
def style() -> Iterator[None]:
    """Draw and save in the house style inside the ``with`` block; change nothing outside.

    10 point text, opaque white, constrained layout, and SVG ids that are the same on
    every run. It starts from matplotlib's defaults, so a personal ``matplotlibrc`` does
    not change a figure.
    """
    with mpl.style.context(["default", _SETTINGS]):
        yield


def new_axes(
    ax: Axes | None = None,
    *,
    size: tuple[float, float] = LINE_SIZE,
    rows: int = 1,
    columns: int = 1,
    **options: Any,
) -> Any:
    """Return ``ax``, or the axes of a fresh figure: one, or an array of ``rows * columns``.

    The figure belongs to nobody but its caller: pyplot does not know it, so nothing has to
    close it and no cell shows it by itself.

    Args:
        size: Of the figure, in inches.
        options: As for ``Figure.subplots``, for example ``sharey=True``.
    """
    if ax is not None:
        return ax
    fig = Figure(figsize=size, layout="constrained")
    return fig.subplots(rows, columns, **options)
