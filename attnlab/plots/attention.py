"""Pictures of attention: who looks where, what leaks, what the scale and the length do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError
from attnlab.plots.curves import final_losses, plot_loss_curves
from attnlab.plots.matrices import plot_matrix
from attnlab.show.style import LOOKS, look, new_axes

BLUE = LOOKS["attention"].colour
GREY = LOOKS["table"].colour
NEGLIGIBLE = 1e-9  # a change below this is rounding
SCALES = {"1": "$1$", "1/sqrt(d_h)": r"$1/\sqrt{d_h}$", "1/d_h": "$1/d_h$"}  # as a page writes them


def plot_attention_weights(
    weights: ArrayLike, *, words: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw one head's weights as a heat map: row t looks, column s is looked at.

    Zeros to the right of the diagonal (the hidden future) stay white.

    Args:
        weights: ``(time, time)``, rows sum to one.
        words: The tokens; numbered ``x1, x2, ...`` without them.
        ax: Axes to draw on; a new figure without it.
    """
    values = _as_square(weights)
    names = _names(words, len(values))
    hidden = np.triu(np.ones(values.shape, bool), 1) & (values == 0)
    side = 3.2 + (0.16 if len(values) > 5 else 0.5) * (max(len(values), 2) - 5)  # inches
    return plot_matrix(
        np.where(hidden, np.nan, values),
        label="Weight A[t, s]",
        x_label="Looked at: s",
        y_label="Looking: t",
        x_ticks=names,
        y_ticks=names,
        has_numbers=True,
        limit=1.0,
        ax=new_axes(ax, size=(side + 0.6, side)),
    )


def describe_attention_weights(weights: ArrayLike, *, words: Sequence[str] | None = None) -> str:
    """Say which token looks back hardest, and how spread the rows are on average."""
    values = _as_square(weights)
    names = _names(words, len(values))
    earlier = np.tril(values, -1)
    t, s = np.unravel_index(int(earlier.argmax()), earlier.shape)
    strongest = (
        f"The strongest look back: {names[t]!r} (position {t + 1}) gives {names[s]!r} "
        f"(position {s + 1}) the weight {earlier[t, s]:.2f}."
        if earlier[t, s] > 0
        else "Nobody looks back."
    )
    entropy = float(row_entropies(values).mean())
    return (
        f"Attention weights of {len(values)} tokens, one row for each looking token. {strongest} "
        f"Mean entropy of a row: {entropy:.2f} nats."
    )


def row_entropies(weights: ArrayLike) -> NDArray[np.float64]:
    """Return the entropy of each row in nats: 0 for one choice, ``log n`` for n equal ones."""
    values = np.asarray(weights, dtype=float)
    return -(values * np.log(np.where(values > 0, values, 1.0))).sum(-1)


def plot_shares_of_keys(weights: ArrayLike, *, keys: Sequence[str], ax: Axes | None = None) -> Axes:
    """Draw the share of each key in one soft look-up as horizontal bars.

    Args:
        weights: ``(n_keys,)``, sums to one.
        keys: Names of the keys, top to bottom.
        ax: Axes to draw on; a new figure without it.
    """
    shares = np.asarray(weights, dtype=float)
    ax = new_axes(ax, size=(3.2, 2.4))
    bars = ax.barh(range(len(shares)), shares, color=BLUE)
    ax.bar_label(bars, [f"{share:.2f}" for share in shares], padding=3)
    ax.set_yticks(range(len(shares)), keys)
    ax.invert_yaxis()
    ax.set(xlabel="Weight of the key", xlim=(0, 1.18))
    return ax


def plot_output_changes(changes: ArrayLike, *, edited: int, ax: Axes | None = None) -> Axes:
    """Draw how much each output moved when one input was edited.

    Outputs before the edit are hatched: a causal mixer leaves them at zero.

    Args:
        changes: ``(time,)``, size of each output's change.
        edited: Position of the edited input, counted from 1.
        ax: Axes to draw on; a new figure without it.
    """
    moved = np.asarray(changes, dtype=float)
    ax = new_axes(ax, size=(4.8, 2.8))
    place = np.arange(1, len(moved) + 1)
    is_past = place < edited
    ax.bar(place[~is_past], moved[~is_past], color=BLUE, label="From the edit on: allowed")
    ax.bar(place[is_past], moved[is_past], color="white", edgecolor="black", hatch="////",
           label="Before the edit: a leak")  # fmt: skip
    ax.axvline(edited - 0.5, color="black", linestyle="dotted")
    ax.set_xticks(place)
    ax.legend(loc="upper left", bbox_to_anchor=(0, 1.24), ncols=2, fontsize=8, handlelength=1.5)
    ax.set(xlabel=f"Position of the output (input {edited} was edited)",
           ylabel="Change of the output", ylim=(0, 1.1 * max(moved.max(), 0.1)))  # fmt: skip
    return ax


def describe_output_changes(changes: ArrayLike, *, edited: int) -> str:
    """Say whether any output before the edit moved."""
    moved = np.asarray(changes, dtype=float)
    past = moved[: edited - 1]
    if not len(past):
        return f"Input {edited} was edited; no output comes before it."
    if past.max() < NEGLIGIBLE:
        return f"Input {edited} was edited; no earlier output moved. Nothing leaks."
    n_moved = int((past >= NEGLIGIBLE).sum())
    return (
        f"Input {edited} was edited; {n_moved} of {len(past)} earlier outputs moved, the most by "
        f"{past.max():.3f}. The future leaks."
    )


def plot_entropy_by_width(table: pd.DataFrame, *, n_keys: int, ax: Axes | None = None) -> Axes:
    """Draw the mean entropy of attention weights against head width, one line for each scale.

    Args:
        table: Rows with ``scale`` (as in ``SCALES``), ``d_head`` and ``entropy_nats``.
        n_keys: Keys each query chose from; their logarithm is the largest entropy.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax)
    for (scale, rows), dash, marker in zip(
        table.groupby("scale", sort=False), _DASHES, _MARKERS, strict=False
    ):
        colour = BLUE if scale == "1/sqrt(d_h)" else GREY
        ax.plot(rows["d_head"], rows["entropy_nats"], color=colour, linestyle=dash, marker=marker,
                label=f"Scale {SCALES.get(str(scale), scale)}")  # fmt: skip
    ax.axhline(np.log(n_keys), color="black", linestyle="dotted",
               label=f"Equal weights: log {n_keys}")  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.legend(loc="lower left")
    ax.set(xlabel="Width of a head, $d_h$", ylabel="Entropy of the weights (nats)", ylim=(0, None))
    return ax


def describe_entropy_by_width(table: pd.DataFrame, *, n_keys: int) -> str:
    """Say what each scale does to the entropy at the largest width."""
    widest = table["d_head"].max()
    ends = table[table["d_head"] == widest].set_index("scale")["entropy_nats"]
    parts = ", ".join(f"{entropy:.2f} nats with scale {scale}" for scale, entropy in ends.items())
    return (
        f"Entropy of the weights of random queries over {n_keys} keys. At head width {widest}: "
        f"{parts}; equal weights would have {np.log(n_keys):.2f}."
    )


def plot_cost_growth(table: pd.DataFrame, *, crossover: float, ax: Axes | None = None) -> Axes:
    """Draw counted multiplications against sequence length, a line for each part, in powers.

    Args:
        table: Rows with ``part``, ``time`` and ``n_multiplications``.
        crossover: Length at which the two parts are equal.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax)
    for (part, rows), dash, marker in zip(
        table.groupby("part", sort=False), _DASHES, _MARKERS, strict=False
    ):
        ax.plot(rows["time"], rows["n_multiplications"], color=BLUE, linestyle=dash,
                marker=marker, fillstyle="none", label=part)  # fmt: skip
    ax.axvline(crossover, color="black", linestyle="dotted")
    ax.annotate(f"equal at T = {crossover:.0f}", (crossover, 0), (5, 6), ha="left",
                xycoords=("data", "axes fraction"), textcoords="offset points")  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.legend(loc="upper left")
    ax.set(xlabel="Sequence length T (tokens)", ylabel="Multiplications")
    return ax


def describe_cost_growth(table: pd.DataFrame, *, crossover: float) -> str:
    """Say by how much each part grows over the last doubling and where the parts are equal."""
    parts = []
    for part, rows in table.sort_values("time").groupby("part", sort=False):
        last, before = rows.iloc[-1], rows.iloc[-2]
        growth = last["n_multiplications"] / before["n_multiplications"]
        times = last["time"] / before["time"]
        parts.append(f"{part} {growth:.2f} times for {times:.0f} times the length")
    return (
        f"Multiplications against sequence length. At the right edge: {'; '.join(parts)}. "
        f"The parts are equal at T = {crossover:.0f}."
    )


def plot_recall(curves: pd.DataFrame, *, bag_floor_nats: float, ax: Axes | None = None) -> Axes:
    """Draw the loss of models that look things up, between the bag floor and knowing.

    Args:
        curves: As ``plot_loss_curves`` takes them; the loss is in nats per question.
        bag_floor_nats: Best loss of a reader who knows what is listed, not with whom.
        ax: Axes to draw on; a new figure without it.
    """
    ax = plot_loss_curves(curves, floors={"Bag floor": bag_floor_nats}, ax=ax)
    ax.axhline(0.0, color="black", linestyle="dotted", label="Knowing the answer")
    ax.legend(frameon=False)
    ax.set(ylabel="Held-out loss (nats per question)", ylim=(-0.1, 2.3))
    return ax


def describe_recall(curves: pd.DataFrame, *, bag_floor_nats: float) -> str:
    """Say who looked things up in the end, in nats per question.

    Args:
        curves: As ``plot_loss_curves`` takes them.
        bag_floor_nats: Best loss of a reader who knows what is listed, not with whom.
    """
    ends = final_losses(curves)
    parts = ", ".join(f"{look(name).label} {loss:.3f}" for name, loss in ends.items())
    below = [look(name).label for name, loss in ends.items() if loss < bag_floor_nats - 0.05]
    return (
        f"Held-out loss at the end, in nats per question: {parts}; bag floor "
        f"{bag_floor_nats:.3f}. Well below the floor: {', '.join(below) or 'nobody'}. "
        f"Bands: range over {curves['seed'].nunique()} seeds."
    )


_DASHES = ("solid", "dashed", "dashdot", (0, (1, 2)))
_MARKERS = ("o", "s", "^", "D")


def _as_square(weights: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(weights, dtype=float)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
        raise AttnlabError(
            f"Attention weights of one head are (time, time); got shape {values.shape}. "
            "Pick a sequence and a head first, as in weights[0, 0]."
        )
    return values


def _names(words: Sequence[str] | None, n_tokens: int) -> list[str]:
    if words is None:
        return [f"x{place}" for place in range(1, n_tokens + 1)]
    if len(words) != n_tokens:
        raise AttnlabError(f"{len(words)} words do not fit {n_tokens} rows of weights.")
    return list(words)
