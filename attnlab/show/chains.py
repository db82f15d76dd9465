"""Longest chains of operations, link by link."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from attnlab.show.pictures import picture
from attnlab.show.style import LOOKS, look, new_axes

GREY = LOOKS["table"].colour
LETTER = 0.068  # inches a letter takes
PITCH = 2.2  # from one chain to the next, in heights of a box
MOST_LINEAR = 90  # operations that are drawn to scale; beyond, by the logarithm
TINTS = {"mul": 0.80, "acc": 0.16, "max": 0.30}  # how dark a box is; others 0.50
NAME_ROWS = (0.2, 0.45, 0.7)  # how far below the chain names are written


@picture
def longest_chains(table: pd.DataFrame):
    """Longest chains as boxes in a row, as long as they are deep, one chain above another.

    A small tree or a row of dots in a box says how its terms are joined. Chains of more than
    90 operations are not to scale: a box grows with the logarithm of its depth.

    Args:
        table: Rows of ``Path.table()``: ``kind``, ``depth``, ``name`` (what the link works on)
            and ``n_terms``; a column ``mixer`` tells the chains apart.
    """
    groups = {
        str(name): rows for name, rows in table[table["depth"] > 0].groupby("mixer", sort=False)
    }
    depths = {name: int(rows["depth"].sum()) for name, rows in groups.items()}
    is_linear = max(depths.values()) <= MOST_LINEAR
    widths = {n: r["depth"] if is_linear else 1 + np.log2(r["depth"]) for n, r in groups.items()}
    longest = max(width.sum() for width in widths.values())
    ax = new_axes(size=(7.6, 0.55 + 1.6 * len(groups)))
    inches = 0.87 * 7.6 / longest  # of one unit of width
    said = []
    for place, (name, links) in enumerate(groups.items()):
        ends = np.cumsum([0, *widths[name]])
        _draw_chain(ax, links, ends, look(name).colour, base=-PITCH * place, inches=inches)
        bold = {"color": look(name).colour, "weight": "bold"}
        ax.text(0, 1.09 - PITCH * place, look(name).label, va="bottom", **bold)
        total, end = f"{depths[name]:,}", ends[-1] + 0.09 / inches
        ax.text(end, 0.5 - PITCH * place, total, va="center", fontsize=13, **bold)
        kinds = ", ".join(f"{link.kind} {link.depth:,}" for link in links.itertuples())
        said.append(f"{look(name).label}: {total} operations follow each other ({kinds}).")
    ax.set(xlim=(0, 1.09 * longest), ylim=(1.22 - PITCH * len(groups), 1.42), yticks=[])
    ax.spines[["left", "top", "right"]].set_visible(False)
    if is_linear:
        ax.spines["bottom"].set_bounds(0, longest)
        ticks = MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]).tick_values(0, longest)
        ax.set_xticks([tick for tick in ticks if tick <= longest])
        ax.set_xlabel("Operations that follow each other")
    else:
        ax.spines["bottom"].set_visible(False)
        label = "From input to output (a box grows with the logarithm of its depth)"
        ax.set(xticks=[], xlabel=label)
    short, long = min(depths, key=depths.__getitem__), max(depths, key=depths.__getitem__)
    if len(depths) == 2 and depths[short] < depths[long]:
        ratio = f"{depths[short] / depths[long]:.2f} times as long as that of"
        said.append(f"The chain of {look(short).label} is {ratio} {look(long).label}.")
    return ax, " ".join(said)


def _draw_chain(
    ax: Axes, links: pd.DataFrame, ends: np.ndarray, colour: str, *, base: float, inches: float
) -> None:
    """Draw a box a link, with its kind, its depth and how its terms are joined; names below."""
    for (left, right), link in zip(pairwise(ends), links.itertuples(), strict=True):
        tint = TINTS.get(link.kind, 0.50)
        gap = min(0.012 / inches, 0.08 * (right - left))
        pale = [1 - tint * (1 - part) for part in to_rgb(colour)]
        ax.add_artist(Rectangle((left + gap, base), right - left - 2 * gap, 1, facecolor=pale))
        width, middle = (right - left) * inches, (left + right) / 2
        ink = {"color": "white" if tint > 0.6 else "black", "ha": "center", "va": "center"}
        words = link.kind if link.depth == 1 else f"{link.kind} {link.depth:,}"
        if width < 1.6 * LETTER:
            continue  # too narrow for a word
        if width < LETTER * (len(link.kind) + 2) or link.depth == 1:
            ax.text(middle, base + 0.5, words, rotation=90, fontsize=8.5, **ink)
            continue
        is_joined = link.kind in ("acc", "max", "add")
        if is_joined:
            _draw_joining(ax, left, right, link.depth, link.n_terms, colour=colour, base=base)
        ax.text(middle, base + (0.82 if is_joined else 0.5), words, fontsize=9, **ink)
    _name_links(ax, links, ends, base=base, inches=inches)


def _draw_joining(
    ax: Axes, left: float, right: float, depth: int, n_terms: int, *, colour: str, base: float
) -> None:
    """Draw a tree from many terms to one, or a row of additions."""
    margin = 0.06 * (right - left)
    left, right = left + margin, right - margin
    pen = {"color": colour, "lw": 0.7, "solid_capstyle": "round"}
    if n_terms <= 2 or depth >= n_terms - 1 > 1:
        dots = np.linspace(left, right, min(depth, 12) + 1)
        ax.plot(dots, np.full(len(dots), base + 0.36), marker="o", ms=2.6, **pen)
        return
    at = np.linspace(left, right, min(depth, 5) + 1)
    heights, xs, ys = np.linspace(base + 0.06, base + 0.64, 2 ** (len(at) - 1)), [], []
    for here, there in pairwise(at):
        joined = heights.reshape(-1, 2).mean(1)
        for place, height in enumerate(heights):
            xs += [here, there, np.nan]  # the gap lifts the pen
            ys += [height, joined[place // 2], np.nan]
        heights = joined
    ax.plot(xs, ys, **pen)
    ax.plot(right, base + 0.35, marker="o", ms=2.6, **pen)


def _name_links(
    ax: Axes, links: pd.DataFrame, ends: np.ndarray, *, base: float, inches: float
) -> None:
    """Write below a bracket what its links work on; below the others where it is crowded."""
    reached = [-np.inf] * len(NAME_ROWS)  # how far to the right each row is written
    names = links["name"].str.removesuffix(", constant")
    names = names.str.replace("lag_weight", "extraction").to_numpy()  # as the text calls it
    starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    for first, after in pairwise([*starts, len(names)]):
        name, left, right = names[first], ends[first], ends[after]
        half, centre = LETTER * len(name) / inches / 2, (left + right) / 2
        middle = max(centre, half)
        free = [row for row, end in enumerate(reached) if middle - half > end + LETTER / inches]
        fits = 2 * half < 3 * (right - left)
        row = next((row for row in free if row or fits), len(NAME_ROWS) - 1)
        reached[row] = middle + half
        pad = 0.03 / inches
        ax.plot([left + pad, right - pad], [base - 0.1] * 2, color=GREY, lw=1.2)
        if row:
            ax.plot([centre] * 2, [base - 0.1, base - NAME_ROWS[row] + 0.02], color=GREY, lw=0.6)
        over = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}  # hides others' lines
        where = {"ha": "center", "va": "top", "fontsize": 9, "bbox": over, "zorder": 4}
        ax.text(middle, base - NAME_ROWS[row], name, **where)
