"""Diagrams of fast convolutions: the butterflies of a transform, wrap-around, and tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError
from attnlab.show.style import LOOKS, new_axes

EXTRACTOR = LOOKS["she"].colour
SEEN = LOOKS["attention"].colour
GREY = LOOKS["table"].colour
AXES = ("input", "lag")  # what a tiling is drawn against


def butterfly_stages(x: ArrayLike) -> list[NDArray[np.complex128]]:
    """Return the numbers in a fast Fourier transform: the reordered input, then each stage.

    The input stands in bit-reversed order, so that evens and odds of every level are neighbours;
    the last stage is the transform.

    Raises:
        AttnlabError: The length is not a power of two.
    """
    values = np.asarray(x, dtype=complex)
    n = len(values)
    if n < 2 or n & (n - 1):
        raise AttnlabError(f"{n} numbers do not split into halves to the end; use 2, 4, 8, ...")
    stages = [values[bit_reversed(n)]]
    size = 1
    while size < n:
        evens, odds = stages[-1].reshape(-1, 2, size).swapaxes(0, 1)
        turned = odds * np.exp(-1j * np.pi * np.arange(size) / size)
        stages.append(np.concatenate([evens + turned, evens - turned], axis=1).ravel())
        size *= 2
    return stages


def bit_reversed(n: int) -> NDArray[np.int64]:
    """Return 0 to n - 1 with all evens first, and so in each half: 0, 4, 2, 6, 1, 5, 3, 7."""
    order = np.zeros(1, dtype=np.int64)
    while len(order) < n:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order


def plot_butterflies(x: ArrayLike, *, ax: Axes | None = None) -> Axes:
    """Draw a fast Fourier transform number by number: sums solid, differences dashed."""
    stages = butterfly_stages(x)
    n, ax = len(stages[0]), new_axes(ax, size=(7.2, 4.4))
    for column, size in enumerate(2**k for k in range(len(stages) - 1)):
        for row in range(n):
            other = row ^ size
            is_even = not row & size
            ends = (column + 0.19, column + 0.77)
            ax.plot(ends, (row, row), color=SEEN, lw=1, ls="solid" if is_even else "dashed")
            ax.plot(ends, (row, other), color=SEEN, lw=1, ls="solid")
    names = [[f"$x_{t}$ = " for t in bit_reversed(n)], *([[""] * n] * (len(stages) - 2))]
    names.append([rf"$\hat x_{f}$ = " for f in range(n)])
    for column, (values, labels) in enumerate(zip(stages, names, strict=True)):
        for row, (value, label) in enumerate(zip(values, labels, strict=True)):
            _write(ax, column, row, label + complex_text(value), n_columns=len(stages))
    ax.set(xlim=(-0.3, len(stages) - 0.4), ylim=(n - 0.4, -1.1))
    ax.axis("off")
    for column, words in enumerate(_stage_names(n)):
        _write(ax, column, -0.85, words, n_columns=len(stages), color=GREY)
    return ax


def _write(ax: Axes, column: int, row: float, words: str, *, n_columns: int, **look: str) -> None:
    """Write into a column: the last one starts where the lines end, the others are centred."""
    is_last = column == n_columns - 1
    place = column - 0.2 if is_last else column
    ax.text(place, row, words, ha="left" if is_last else "center", va="center", size=9, **look)


def _stage_names(n: int) -> list[str]:
    between = [f"{n // 2**k} transforms of {2**k}" for k in range(1, n.bit_length() - 1)]
    return ["evens first", *between, f"1 transform of {n}"]


def complex_text(value: complex) -> str:
    """Return a complex number with at most two digits after the point: ``2 - 3i``."""
    re, im = round(value.real, 2) + 0.0, round(value.imag, 2) + 0.0
    if im == 0:
        return f"{re:g}"
    return f"{re:g} {'+' if im > 0 else '-'} {abs(im):g}i"


def describe_butterflies(x: ArrayLike) -> str:
    """Say how many products the transform takes, and what comes out."""
    stages = butterfly_stages(x)
    n = len(stages[0])
    n_stages = len(stages) - 1
    ends = ", ".join(complex_text(value) for value in stages[-1])
    return (
        f"The fast transform of {n} numbers in {n_stages} stages. Each pair of lines crossing "
        "takes one number of an even and one of an odd half, turns the odd one, and writes sum "
        f"and difference (dashed: subtracted). {n_stages} stages of {n // 2} products make "
        f"{n_stages * n // 2}, where the definition has {n * n}. Result: {ends}."
    )


def wrapped_lags(*, n_tokens: int, n_lags: int, length: int) -> NDArray[np.int64]:
    """Return which lag joins input s (row) to output t (column) on a circle; -1 for none.

    Args:
        length: Places on the circle, the length of the transform; at least ``n_tokens``.
    """
    if length < n_tokens:
        raise AttnlabError(f"length={length} cuts the sequence; use {n_tokens} or more.")
    s, t = np.mgrid[:n_tokens, :n_tokens]
    lag = (t - s) % length
    return np.where(lag < n_lags, lag, -1)


def draw_wrap(*, length: int, n_lags: int, n_tokens: int = 8) -> Figure:
    """Draw which lag every pair of tokens meets; pairs that wrapped around are filled orange."""
    lag = wrapped_lags(n_tokens=n_tokens, n_lags=n_lags, length=length)
    is_ahead = np.tri(n_tokens, k=-1, dtype=bool)  # input after output
    fig, ax = plt.subplots(figsize=(4.4, 3.5), layout="constrained")
    for s, t in np.argwhere(lag >= 0):
        colour = EXTRACTOR if is_ahead[s, t] else SEEN
        ax.add_patch(plt.Rectangle((t - 0.5, s - 0.5), 1, 1, color=colour, lw=0, alpha=0.85))
        ax.text(t, s, str(lag[s, t]), ha="center", va="center", color="white")
    ax.set(xlim=(-0.5, n_tokens - 0.5), ylim=(n_tokens - 0.5, -0.5), aspect="equal")
    ax.set(xlabel="Output t   (numbers: lag)", ylabel="Input s")
    ax.set_xticks(range(n_tokens))
    ax.set_yticks(range(n_tokens))
    ax.grid(visible=True, lw=0.4, alpha=0.5)
    ax.legend(
        handles=[Patch(color=SEEN, label="past"), Patch(color=EXTRACTOR, label="future")],
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        handlelength=1,
    )
    return fig


def describe_wrap(*, length: int, n_lags: int, n_tokens: int = 8) -> str:
    """Say how many pairs wrapped around, and how long the transform must be."""
    lag = wrapped_lags(n_tokens=n_tokens, n_lags=n_lags, length=length)
    n_leaks = int((np.tri(n_tokens, k=-1, dtype=bool) & (lag >= 0)).sum())
    needed = n_tokens + n_lags - 1
    words = f"{n_tokens} tokens, {n_lags} lags, a transform of length {length}: "
    if n_leaks:
        return (
            f"{words}{n_leaks} pairs wrap around, and inputs reach outputs before them. "
            f"Length {needed} is needed."
        )
    spare = length - needed
    rest = f"{spare} more than needed" if spare else "exactly what is needed"
    return f"{words}nothing wraps around, the matrix is the causal one ({rest})."


@dataclass(frozen=True)
class Tile:
    """A square of pairs: ``size`` inputs, and the ``size`` outputs right after them."""

    size: int
    first_output: int  # also how many tokens have been read when it falls due

    @property
    def first_input(self) -> int:
        """The oldest input of the square."""
        return self.first_output - self.size


def tiles(n_tokens: int) -> Iterator[Tile]:
    """Yield the tiles of a stream in the order in which they fall due.

    After n tokens the size is the largest power of two that divides n; outputs past the end
    of the stream are not cut off.
    """
    for n in range(1, n_tokens):
        yield Tile(size=n & -n, first_output=n)


def draw_tiling(*, n_tokens: int, n_seen: int, against: str = "input") -> Figure:
    """Draw the tiles of a stream: done ones full, the one that is due outlined, others faint.

    Args:
        n_tokens: Length of the stream.
        n_seen: Tokens read so far; clipped to the stream.
        against: ``input``: input s down, output t across; ``lag``: the lag t - s upwards.
    """
    if against not in AXES:
        raise AttnlabError(f"against={against!r} is not one of {', '.join(AXES)}.")
    n_seen = min(n_seen, n_tokens)
    fig, ax = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    sizes = sorted({tile.size for tile in tiles(n_tokens)})
    colours = dict(
        zip(sizes, plt.get_cmap("cividis")(np.linspace(0.2, 0.95, len(sizes))), strict=True)
    )
    for tile in tiles(n_tokens):
        is_done, is_due = tile.first_output <= n_seen, tile.first_output == n_seen
        corners = _corners(tile.first_input, tile.first_output, tile.size, against)
        look = {"facecolor": colours[tile.size], "alpha": 1.0 if is_done else 0.18}
        ax.add_patch(Polygon(corners, edgecolor="white", lw=0.6, **look))
        if is_due:
            ax.add_patch(Polygon(corners, fill=False, edgecolor=EXTRACTOR, lw=2.5, zorder=4))
    for t in range(n_tokens):
        corners = _corners(t, t, 1, against)
        look = {"facecolor": "black", "alpha": 1.0 if t < n_seen else 0.18}
        ax.add_patch(Polygon(corners, edgecolor="white", lw=0.6, **look))
    ax.set(xlim=(0, n_tokens), xlabel="Output t")
    if against == "input":
        ax.set(ylim=(n_tokens, 0), ylabel="Input s")
    else:
        ax.set(ylim=(-1, n_tokens), ylabel="Lag t - s")
    _tick_middles(ax, n_tokens, is_square=against == "input")
    handles = [Patch(color="black", label="the token itself")]
    handles += [Patch(color=colours[size], label=f"{size} by {size}") for size in sizes]
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), handlelength=1)
    return fig


def _corners(s: int, t: int, size: int, against: str) -> list[tuple[float, float]]:
    square = [(t, s), (t + size, s), (t + size, s + size), (t, s + size)]
    return square if against == "input" else [(x, x - y) for x, y in square]


def _tick_middles(ax: Axes, n_tokens: int, *, is_square: bool) -> None:
    places = range(0, n_tokens, max(1, n_tokens // 8))
    ax.set_xticks([t + 0.5 for t in places], [str(t) for t in places])
    shift = 0.5 if is_square else 0.0
    ax.set_yticks([t + shift for t in places], [str(t) for t in places])


def describe_tiling(*, n_tokens: int, n_seen: int, against: str = "input") -> str:
    """Say which tile is due and what share of all pairs is done."""
    n_seen = min(n_seen, n_tokens)
    done = sum(_pairs(tile, n_tokens) for tile in tiles(n_tokens) if tile.first_output <= n_seen)
    done += n_seen
    share = done / (n_tokens * (n_tokens + 1) // 2)
    square = "squares" if against == "input" else "slanted squares"
    words = f"A stream of {n_tokens} tokens cut into {square}; {n_seen} tokens are read. "
    if 0 < n_seen < n_tokens:
        tile = Tile(size=n_seen & -n_seen, first_output=n_seen)
        last = min(tile.first_output + tile.size, n_tokens) - 1
        words += (
            f"Due is the tile of size {tile.size} (outlined): inputs "
            f"{_span(tile.first_input, n_seen - 1)} give to outputs {_span(n_seen, last)}. "
        )
    words += f"Done so far: {share:.0%} of all pairs of an input and an output."
    return words if against == "input" else f"{words} Slanted cells are centred on their lag."


def _pairs(tile: Tile, n_tokens: int) -> int:
    return tile.size * (min(tile.first_output + tile.size, n_tokens) - tile.first_output)


def _span(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} to {last}"
