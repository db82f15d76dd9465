"""Names beside what they name, moved apart where two would touch, and ranges in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

LEADER = {
    "arrowstyle": "-",
    "color": "#AAAAAA",
    "lw": 0.7,
    "relpos": (0, 0.5),
    "shrinkA": 0,
    "shrinkB": 3,
}


def spread(heights: Sequence[float], *, gap: float) -> list[float]:
    """Move sorted heights apart to at least ``gap``, the middle of each crowd where it was."""
    crowds: list[list[float]] = [[height] for height in heights]
    while True:
        spans = [
            np.mean(crowd) + gap * (np.arange(len(crowd)) - (len(crowd) - 1) / 2)
            for crowd in crowds
        ]
        touching = [i for i, (a, b) in enumerate(pairwise(spans)) if b[0] - a[-1] < gap - 1e-9]
        if not touching:
            return [float(height) for span in spans for height in span]
        i = touching[0]
        crowds[i : i + 2] = [crowds[i] + crowds[i + 1]]


def name_points(
    ax: Axes,
    points: Mapping[str, tuple[float, float]],
    *,
    colours: Mapping[str, str],
    gap: float = 0.075,
) -> None:
    """Name points right of the axes, in order of height, each with a thin line to its point.

    Call it when the limits stand.

    Args:
        points: Where each is, in the units of the axes; the y axis is linear.
        colours: Of the names.
        gap: Least distance of two names, as a share of the height.
    """
    names = sorted(points, key=lambda name: points[name][1])
    low, high = ax.get_ylim()
    heights = [(points[name][1] - low) / (high - low) for name in names]
    for name, height in zip(names, spread(heights, gap=gap), strict=True):
        ax.annotate(
            name,
            points[name],
            (1.05, height),
            textcoords=ax.transAxes,
            color=colours[name],
            va="center",
            size=9,
            arrowprops=LEADER,
        )


def ranged(values: pd.Series, unit: str = "", *, digits: int = 1) -> str:
    """Say the range of the values there are, the one value if they agree, a dash if none is."""
    values = values.dropna()
    if values.empty:
        return "–"
    low, high = (f"{value:.{digits}f}" for value in (values.min(), values.max()))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"
