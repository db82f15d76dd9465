"""Pictures of next-token chances under temperature, top-k and top-p."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

LEFT, OUT = "#332288", "#767676"  # no family's colour


def plot_token_chances(
    chances: Mapping[str, ArrayLike], *, tokens: Sequence[str], columns: int = 3
) -> Figure:
    """Draw next-token chances under several settings, one small bar chart each.

    Shapes:
        chances: by setting, ``(n_tokens,)``; ``tokens`` names them.
    """
    n_rows = -(-len(chances) // columns)
    grid = {"sharex": True, "sharey": True, "squeeze": False, "layout": "constrained"}
    fig, axes = plt.subplots(n_rows, columns, figsize=(6.8, 1.8 * n_rows), **grid)
    for place, (label, values) in zip(axes.flat, chances.items(), strict=False):
        _bars(place, np.asarray(values, dtype=float), tokens)
        place.set_title(label, fontsize=9)
    for place in axes.flat[len(chances) :]:
        place.set_visible(False)
    fig.supylabel("Chance of the next token", fontsize=10)
    return fig


def describe_token_chances(chances: Mapping[str, ArrayLike]) -> str:
    """Say how many tokens each setting leaves and how likely the first is."""
    parts = []
    for label, values in chances.items():
        p = np.asarray(values, dtype=float)
        parts.append(f"{label}: {int((p > 0).sum())} tokens, the likeliest {p.max():.2f}")
    return f"Tokens that can be drawn, by setting. {'; '.join(parts)}."


def _bars(ax: Axes, values: NDArray[np.float64], tokens: Sequence[str]) -> None:
    ax.bar(range(len(values)), values, color=LEFT)
    for place, value in enumerate(values):
        words, colour = (f"{value:.2f}", "black") if value > 0 else ("out", OUT)
        ax.text(place, value + 0.02, words, color=colour, ha="center", fontsize=7)
    ax.set_xticks(range(len(tokens)), tokens, fontsize=8)
    ax.set_ylim(0, 1.12)
