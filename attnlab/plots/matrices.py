"""Matrices and lag kernels: arrays in, axes and sentences out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError
from attnlab.show.style import (
    AMOUNT_COLOURS,
    DIFFERENCE_COLOURS,
    MATRIX_SIZE,
    look,
    new_axes,
)

MOST_TICKS = 24  # beyond this many rows, names would overlap
MOST_NUMBERS = 8  # up to this many rows and columns, cells carry their number


def plot_matrix(
    matrix: ArrayLike,
    *,
    label: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[str] | None = None,
    y_ticks: Sequence[str] | None = None,
    is_difference: bool = False,
    has_numbers: bool = False,
    limit: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a matrix as a heat map with a labelled colour bar.

    Amounts are in cividis from 0 (or the smallest value, if negative) to ``limit``;
    differences in RdBu, centred at zero, from ``-limit`` to ``limit``. A value that is
    not finite stays white.

    Args:
        matrix: ``(rows, columns)``; row 0 on top.
        label: Quantity and unit of the entries, for the colour bar.
        x_label: What the columns are.
        y_label: What the rows are.
        x_ticks: Names of the columns, at most 24 to be shown.
        y_ticks: Names of the rows.
        is_difference: Whether the sign of an entry matters.
        has_numbers: Write the value in each cell, up to 8 rows and columns.
        limit: Top of the colour scale; by default the largest absolute value.
        ax: Axes to draw on; a new figure without it.

    Raises:
        AttnlabError: If the array has not two axes or the names do not fit it.
    """
    values = _as_matrix(matrix)
    _check_ticks(values, x_ticks, y_ticks)
    ax = new_axes(ax, size=MATRIX_SIZE)
    top = limit if limit is not None else _largest(values)
    bottom = -top if is_difference else min(0.0, _smallest(values))
    colours = plt.get_cmap(DIFFERENCE_COLOURS if is_difference else AMOUNT_COLOURS)
    picture = ax.imshow(values, cmap=colours, vmin=bottom, vmax=top, aspect="auto")
    ax.figure.colorbar(picture, ax=ax, label=label)
    _name_ticks(ax, x_ticks, y_ticks)
    if has_numbers and max(values.shape) <= MOST_NUMBERS:
        _write_numbers(ax, values, picture)
    ax.spines[:].set_visible(False)
    ax.set(xlabel=x_label, ylabel=y_label)
    return ax


def describe_matrix(
    matrix: ArrayLike,
    *,
    label: str,
    x_ticks: Sequence[str] | None = None,
    y_ticks: Sequence[str] | None = None,
    is_difference: bool = False,
) -> str:
    """Say how large a matrix is and where its largest entry stands."""
    values = _as_matrix(matrix)
    size = f"{values.shape[0]} by {values.shape[1]} matrix, {label.lower()}"
    if not np.isfinite(values).any():
        return f"{size}: no finite entry."
    sized = np.abs(values) if is_difference else values
    row, column = np.unravel_index(int(np.nanargmax(_finite_or_nan(sized))), values.shape)
    what = "largest difference" if is_difference else "largest"
    place = f"row {_tick(y_ticks, row)}, column {_tick(x_ticks, column)}"
    n_missing = int((~np.isfinite(values)).sum())
    missing = f" {n_missing} of {values.size} entries are missing." if n_missing else ""
    number = f"{values[row, column]:+.3f}" if is_difference else f"{values[row, column]:.3f}"
    return f"{size}: {what} {number} at {place}.{missing}"


def lag_profile(lag_weight: ArrayLike) -> NDArray[np.float64]:
    """Return how much weight each lag carries: the root mean square over its entries.

    Shapes:
        lag_weight: ``(context_len, ...)``, lag 0 (the newest token) first; returns
        ``(context_len,)``. One axis only is returned as it is, with its signs.
    """
    weight = np.asarray(lag_weight, dtype=float)
    if weight.ndim == 0 or weight.shape[0] == 0:
        raise AttnlabError(f"A lag kernel needs at least one lag; got shape {weight.shape}.")
    if weight.ndim == 1:
        return weight
    return np.sqrt(np.mean(weight.reshape(weight.shape[0], -1) ** 2, axis=1))


def plot_lag_kernel(lag_weight: ArrayLike, *, name: str, ax: Axes | None = None) -> Axes:
    """Draw the weight of each lag of one mixer; see ``plot_lag_kernels``."""
    return plot_lag_kernels({name: lag_weight}, ax=ax)


def plot_lag_kernels(kernels: Mapping[str, ArrayLike], *, ax: Axes | None = None) -> Axes:
    """Draw the weight of each lag, one line per mixer.

    Args:
        kernels: ``lag_weight`` by mixer name, ``(context_len, ...)``; see ``lag_profile``.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax)
    for name, lag_weight in kernels.items():
        profile = lag_profile(lag_weight)
        ax.plot(
            np.arange(len(profile)),
            profile,
            markevery=max(1, len(profile) // 16),
            **look(name).line(),
        )
    ax.axhline(0.0, color="#6E6E6E", lw=0.8)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if kernels:
        ax.legend(frameon=False)
    signed = any(np.ndim(weight) == 1 for weight in kernels.values())
    what = "Weight" if signed else "Root mean square weight"
    ax.set(xlabel="Lag (tokens back; 0 is the newest)", ylabel=what)
    return ax


def describe_lag_kernel(lag_weight: ArrayLike, *, name: str) -> str:
    """Say which lag of one mixer weighs most; see ``describe_lag_kernels``."""
    return describe_lag_kernels({name: lag_weight})


def describe_lag_kernels(kernels: Mapping[str, ArrayLike]) -> str:
    """Say for each mixer which lag weighs most and how many lags hold half the weight."""
    sentences = []
    for name, lag_weight in kernels.items():
        size = np.abs(lag_profile(lag_weight))
        label, total = look(name).label, size.sum()
        if not np.isfinite(total) or total == 0:
            sentences.append(f"{label}: no finite weight to compare.")
            continue
        n_half = int(np.searchsorted(np.cumsum(np.sort(size)[::-1]), total / 2) + 1)
        lags = "lag holds" if n_half == 1 else "lags hold"
        sentences.append(
            f"{label}: lag {int(size.argmax())} weighs most ({size.max():.3f}); "
            f"{n_half} of {len(size)} {lags} half of the weight."
        )
    return " ".join(sentences) or "No kernel to show."


def _as_matrix(matrix: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(matrix, dtype=float)
    if values.ndim != 2 or 0 in values.shape:
        raise AttnlabError(
            f"A heat map needs a (rows, columns) array; got shape {values.shape}. "
            "Choose one head, one layer or one channel first."
        )
    return values


def _check_ticks(
    values: NDArray[np.float64], x_ticks: Sequence[str] | None, y_ticks: Sequence[str] | None
) -> None:
    for axis, ticks in ((0, y_ticks), (1, x_ticks)):
        if ticks is not None and len(ticks) != values.shape[axis]:
            what = ("rows", "columns")[axis]
            raise AttnlabError(f"{len(ticks)} names do not fit {values.shape[axis]} {what}.")


def _finite_or_nan(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)


def _largest(values: NDArray[np.float64]) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def _smallest(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.min()) if finite.size else 0.0


def _name_ticks(ax: Axes, x_ticks: Sequence[str] | None, y_ticks: Sequence[str] | None) -> None:
    if x_ticks is not None and len(x_ticks) <= MOST_TICKS:
        is_long = sum(len(str(tick)) for tick in x_ticks) > 24
        ax.set_xticks(range(len(x_ticks)), x_ticks, rotation=90 if is_long else 0)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if y_ticks is not None and len(y_ticks) <= MOST_TICKS:
        ax.set_yticks(range(len(y_ticks)), y_ticks)
    else:
        ax.yaxis.set_major_locator(MaxNLocator(8, integer=True))


def _write_numbers(ax: Axes, values: NDArray[np.float64], picture) -> None:
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            continue
        red, green, blue, _ = picture.cmap(picture.norm(value))
        is_dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
        colour = "white" if is_dark else "black"
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)


def _tick(ticks: Sequence[str] | None, index: int) -> str:
    return repr(ticks[index]) if ticks is not None else str(int(index))
