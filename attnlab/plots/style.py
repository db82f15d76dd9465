"""How every family of models looks, in every picture: the one place that decides it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from attnlab.errors import AttnlabError, UnknownNameError

LINE_SIZE = (6.4, 3.6)  # inches, for a line plot
MATRIX_SIZE = (3.6, 3.2)  # inches, for a matrix and its colour bar
AMOUNT_COLOURS = "cividis"
DIFFERENCE_COLOURS = "RdBu"

Dash = str | tuple[int, tuple[int, ...]]

DASH_DOT_DOT: Dash = (0, (5, 1, 1, 1, 1, 1))
LONG_DASH: Dash = (0, (9, 3))

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
    fill: str = "full"  # how much of the marker is filled: full, none, left, right, top, bottom

    def line(self) -> dict[str, Any]:
        """Return the keyword arguments of ``ax.plot`` that draw this look."""
        return {"linestyle": self.dash, **self.points(), "label": self.label}

    def points(self) -> dict[str, Any]:
        """Return the keyword arguments of ``ax.plot`` that draw its markers."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "fillstyle": self.fill,
            "markerfacecoloralt": "white",
        }


_ATTENTION = Look(family="attention", label="Attention", colour="#0072B2", dash="solid", marker="o")
_EXTRACTOR = Look(
    family="extractor", label="Extractor", colour="#D55E00", dash="dashed", marker="s"
)
_FEEDFORWARD = Look(
    family="feedforward",
    label="Feed-forward replacement",
    colour="#009E73",
    dash="dashdot",
    marker="^",
)
_CONVOLUTION = Look(
    family="convolution", label="Convolution", colour="#CC79A7", dash=DASH_DOT_DOT, marker="D"
)
_TABLE = Look(family="table", label="Table", colour="#6E6E6E", dash=LONG_DASH, marker="x")
_ORACLE = Look(family="oracle", label="True source", colour="black", dash="dotted", marker="None")

FAMILIES: dict[str, Look] = {
    look.family: look
    for look in (_ATTENTION, _EXTRACTOR, _FEEDFORWARD, _CONVOLUTION, _TABLE, _ORACLE)
}


def _variant(base: Look, label: str, marker: str, fill: str = "full") -> Look:
    return replace(base, label=label, marker=marker, fill=fill)


LOOKS: dict[str, Look] = {
    "attention": _ATTENTION,
    "attention_1_head": _variant(_ATTENTION, "Attention, 1 head", "o", "none"),
    "attention_matched_parameters": _variant(_ATTENTION, "Attention, same weights", "o", "left"),
    "attention_matched_compute": _variant(_ATTENTION, "Attention, same compute", "o", "right"),
    "linear_attention": _variant(_ATTENTION, "Linear attention", "o", "top"),
    "extractor": _EXTRACTOR,
    "she": _variant(_EXTRACTOR, "SHE", "s"),
    "he": _variant(_EXTRACTOR, "HE", "P"),
    "we": _variant(_EXTRACTOR, "WE", "X"),
    "me": _variant(_EXTRACTOR, "ME", "*"),
    "feedforward": _FEEDFORWARD,
    "alr": _variant(_FEEDFORWARD, "ALR", "^"),
    "alrr": _variant(_FEEDFORWARD, "ALRR", "v"),
    "aslr": _variant(_FEEDFORWARD, "ASLR", "<"),
    "elr": _variant(_FEEDFORWARD, "ELR", ">"),
    "convolution": _CONVOLUTION,
    "hyena": _variant(_CONVOLUTION, "Hyena", "D", "top"),
    "spade": _variant(_CONVOLUTION, "SPADE", "D", "right"),
    "mean": _variant(_CONVOLUTION, "Causal mean", "d"),
    "pooling": _variant(_CONVOLUTION, "Pooling", "d", "left"),
    "identity": _variant(_CONVOLUTION, "Identity (no mixing)", "D", "none"),
    "table": _TABLE,
    "unigram": _variant(_TABLE, "Unigram table", "1"),
    "bigram": _variant(_TABLE, "Bigram table", "2"),
    "n_gram": _variant(_TABLE, "n-gram table", "+"),
    "oracle": _ORACLE,
    "entropy_rate": replace(_ORACLE, label="Entropy rate"),
}


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
    raise UnknownNameError(
        "look",
        name,
        LOOKS,
        next_step="To add one: plots.register_look(name, family=..., label=..., marker=...).",
    )


def register_look(name: str, *, family: str, label: str, marker: str, fill: str = "full") -> Look:
    """Give a model of your own the colour and dash of its family and a marker of its own.

    Args:
        name: What the table of runs calls it.
        family: One of ``FAMILIES``.
        label: What a legend calls it.
        marker: A matplotlib marker that no other name of the family has.
        fill: Part of the marker that is filled: full, none, left, right, top, bottom.

    Raises:
        UnknownNameError: If there is no such family.
        AttnlabError: If the name has a look, or another name of the family has this marker.
    """
    if family not in FAMILIES:
        raise UnknownNameError(
            "family of looks", family, FAMILIES, next_step="Choose the nearest in kind."
        )
    plain = name.lower().replace("-", "_")
    added = _variant(FAMILIES[family], label, marker, fill)
    if LOOKS.get(plain) == added:
        return added
    taken = [n for n, o in LOOKS.items() if (o.family, o.marker, o.fill) == (family, marker, fill)]
    if plain in LOOKS or taken:
        clash = plain if plain in LOOKS else taken[0]
        raise AttnlabError(
            f"{name!r} with marker {marker!r} would look like {clash!r}, which is taken. "
            "Choose another name, marker or fill."
        )
    LOOKS[plain] = added
    return added


@contextmanager
def style() -> Iterator[None]:
    """Draw and save in the house style inside the ``with`` block; change nothing outside.

    10 point text, opaque white, constrained layout, and SVG ids that are the same on
    every run. It starts from matplotlib's defaults, so a personal ``matplotlibrc`` does
    not change a figure.
    """
    with plt.style.context(["default", _SETTINGS]):
        yield


def new_axes(ax: Axes | None, *, size: tuple[float, float] = LINE_SIZE) -> Axes:
    """Return ``ax``, or the axes of a fresh figure of ``size`` inches."""
    if ax is not None:
        return ax
    return plt.subplots(figsize=size, layout="constrained")[1]
