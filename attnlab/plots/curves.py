"""Loss curves, final gaps and the staircase: tidy tables in, axes and sentences out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from attnlab.errors import AttnlabError
from attnlab.show.style import LOOKS, look, new_axes

Staircase = Mapping[int, float] | Sequence[float]


def plot_loss_curves(
    curves: pd.DataFrame,
    *,
    oracle_nats: float | None = None,
    floors: Mapping[str, float] | None = None,
    quantity: str = "Validation loss",
    ax: Axes | None = None,
) -> Axes:
    """Draw loss against tokens seen, one line per model, with its range over seeds.

    Args:
        curves: Tidy rows with ``name`` (or ``mixer``), ``seed``, ``tokens_seen`` (count) and
            ``loss_nats`` (nats per token). Rows without a finite loss are left out.
        oracle_nats: Loss of the true source on the same tokens, where it is known.
        floors: Other levels to compare with, by label, in nats per token: an n-gram table.
        quantity: What was measured; the axis adds the unit.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax)
    finite = _finite(curves)
    for name in final_losses(curves).index[::-1]:  # legend order = order at the right edge
        rows = finite[finite["name"] == name]
        over_seeds = rows.groupby("tokens_seen")["loss_nats"].agg(["mean", "min", "max"])
        ax.plot(over_seeds.index, over_seeds["mean"], markevery=0.15, **look(name).line())
        if rows["seed"].nunique() > 1:
            low, high = over_seeds["min"], over_seeds["max"]
            ax.fill_between(over_seeds.index, low, high, color=look(name).colour, alpha=0.15, lw=0)
    for label, level in (floors or {}).items():
        ax.axhline(level, color=LOOKS["table"].colour, linestyle=LOOKS["table"].dash, label=label)
    if oracle_nats is not None:
        _draw_oracle(ax, oracle_nats)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set(xlabel="Tokens seen", ylabel=f"{quantity} (nats per token)")
    return ax


def describe_loss_curves(
    curves: pd.DataFrame,
    *,
    oracle_nats: float | None = None,
    floors: Mapping[str, float] | None = None,
) -> str:
    """Say what the loss curves show: caption, alt text and test."""
    lead = _final_sentence(curves, oracle_nats)
    levels = "".join(f" {label}: {level:.3f}." for label, level in (floors or {}).items())
    return f"{lead}{levels} {_seeds_sentence(curves)}"


def plot_final_gaps(
    curves: pd.DataFrame, *, oracle_nats: float | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the last loss of every seed, one row per model, best on top.

    Each small point is a seed, the bar is their range, the large marker their mean.

    Args:
        curves: As in ``plot_loss_curves``; a table with one row per run works too.
        oracle_nats: Loss of the true source; what is drawn is then the gap to it.
        ax: Axes to draw on; a new figure without it.
    """
    ends = _final_by_seed(curves)
    names = list(final_losses(curves).index)
    ax = new_axes(ax, size=(6.4, max(1.6, 0.8 + 0.32 * len(names))))
    for row, name in enumerate(names):
        losses = ends[ends["name"] == name]["loss_nats"].to_numpy() - (oracle_nats or 0.0)
        colour = look(name).colour
        ax.hlines(row, losses.min(), losses.max(), color=colour, lw=4, alpha=0.3)
        ax.plot(losses, np.full(len(losses), row), "|", color=colour, ms=9)
        ax.plot([losses.mean()], [row], linestyle="none", **look(name).points())
    ax.set_yticks(range(len(names)), [look(name).label for name in names])
    ax.invert_yaxis()
    if oracle_nats is None:
        ax.set(xlabel="Final loss (nats per token)")
    else:
        ax.axvline(0.0, color="black", linestyle=":", label="True source")
        ax.set(xlabel="Final loss minus true source (nats per token)")
    return ax


def describe_final_gaps(curves: pd.DataFrame, *, oracle_nats: float | None = None) -> str:
    """Say which model ended where, and by how much its seeds differ."""
    ends = _final_by_seed(curves).groupby("name")["loss_nats"].agg(["min", "max"])
    if not len(ends):
        return "No finite loss to show."
    spread = ends["max"] - ends["min"]
    widest = spread.idxmax()
    words = f"{_final_sentence(curves, oracle_nats)} {_seeds_sentence(curves)}"
    if spread[widest] > 0:
        words += f" Widest range over seeds: {look(widest).label}, {spread[widest]:.3f}."
    return words


def plot_staircase(
    best_loss_nats: Staircase,
    *,
    entropy_rate_nats: float | None = None,
    points: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the best loss of any model that sees only the last k tokens, for each k.

    Args:
        best_loss_nats: Loss by context length; a plain sequence starts at length 0.
        entropy_rate_nats: Where the stairs lead, in nats per token.
        points: Measured models, rows with ``name`` (or ``mixer``), ``context_len`` and
            ``loss_nats``.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax)
    stairs = _as_stairs(best_loss_nats)
    lengths, losses = list(stairs), list(stairs.values())
    edges = [length - 0.5 for length in lengths] + [lengths[-1] + 0.5]
    line = {**LOOKS["table"].line(), "marker": "None", "linestyle": "solid"}
    line["label"] = "Best possible with k tokens"
    ax.plot(edges, [*losses, losses[-1]], drawstyle="steps-post", **line)
    for name, rows in [] if points is None else _finite(points).groupby("name"):
        markers = {**look(str(name)).line(), "linestyle": "none"}
        ax.plot(rows["context_len"], rows["loss_nats"], **markers)
    if entropy_rate_nats is not None:
        _draw_oracle(ax, entropy_rate_nats, label="Entropy rate")
    ax.legend(frameon=False)
    ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    ax.set(xlabel="Context length k (tokens)", ylabel="Best loss (nats per token)")
    return ax


def describe_staircase(
    best_loss_nats: Staircase,
    *,
    entropy_rate_nats: float | None = None,
    points: pd.DataFrame | None = None,
) -> str:
    """Say how much each further token of context can pay."""
    stairs = _as_stairs(best_loss_nats)
    lengths = list(stairs)
    first, last = lengths[0], lengths[-1]
    words = (
        f"The best possible loss falls from {stairs[first]:.3f} nats per token with {first} "
        f"{_tokens(first)} of context to {stairs[last]:.3f} with {last}."
    )
    if len(lengths) > 1:
        drops = {k: stairs[j] - stairs[k] for j, k in pairwise(lengths)}
        step = max(drops, key=lambda k: drops[k])
        words += f" The largest step is {drops[step]:.3f}, at k = {step}."
    if entropy_rate_nats is not None:
        words += f" The entropy rate is {entropy_rate_nats:.3f}."
    for row in [] if points is None else _finite(points).itertuples():
        words += f" {look(row.name).label} with k = {row.context_len}: {row.loss_nats:.3f}."
    return words


def final_losses(curves: pd.DataFrame) -> pd.Series:
    """Return each model's last loss in nats per token, averaged over seeds, best first."""
    means = _final_by_seed(curves).groupby("name")["loss_nats"].mean()
    return means.sort_values(kind="stable")


def mark_guess(ax: Axes, *, guess: float | None, truth: float, unit: str = "") -> Axes:
    """Draw a learner's guess and the measured value as two horizontal lines.

    Args:
        ax: Axes whose vertical scale is that of the guess.
        guess: What was predicted before the result; None draws the truth alone.
        truth: What was measured.
        unit: Added to both labels.
    """
    ax.axhline(truth, color="black", linestyle=":", label=f"Measured {truth:.3g} {unit}".strip())
    if guess is not None:
        label = f"Your guess {guess:.3g} {unit}".strip()
        ax.axhline(guess, color=LOOKS["table"].colour, linestyle=(0, (1, 3)), lw=2.5, label=label)
    ax.legend(frameon=False)
    return ax


def _draw_oracle(ax: Axes, level: float, *, label: str = "True source") -> None:
    ax.axhline(level, color=LOOKS["oracle"].colour, linestyle=LOOKS["oracle"].dash, label=label)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    if "name" in table.columns:
        return table
    if "mixer" in table.columns:
        return table.rename(columns={"mixer": "name"})
    raise AttnlabError(
        f"A table of curves needs a column 'name' or 'mixer'; this one has {list(table.columns)}. "
        "Rename the column that says which model a row belongs to."
    )


def _finite(table: pd.DataFrame) -> pd.DataFrame:
    named = _named(table)
    if "loss_nats" not in named.columns:
        raise AttnlabError(
            f"A table of curves needs a column 'loss_nats'; this one has {list(table.columns)}."
        )
    return named[np.isfinite(named["loss_nats"].to_numpy(dtype=float))]


def _final_by_seed(curves: pd.DataFrame) -> pd.DataFrame:
    finite = _finite(curves)
    if "tokens_seen" in finite.columns:
        finite = finite.sort_values("tokens_seen", kind="stable")
    return finite.groupby(["name", "seed"], as_index=False)["loss_nats"].last()


def _final_sentence(curves: pd.DataFrame, oracle_nats: float | None) -> str:
    ends = final_losses(curves)
    if not len(ends):
        return "No finite loss to show."
    if oracle_nats is None:
        parts = ", ".join(f"{look(name).label} {loss:.3f}" for name, loss in ends.items())
        return f"Final loss in nats per token: {parts}."
    parts = ", ".join(
        f"{look(name).label} {loss - oracle_nats:+.3f}" for name, loss in ends.items()
    )
    floor = f" ({oracle_nats:.3f})" if oracle_nats else ""  # 0: the losses are gaps already
    return f"Final gap to the true source{floor}, in nats per token: {parts}."


def _seeds_sentence(curves: pd.DataFrame) -> str:
    n_missing = len(curves) - len(_finite(curves))
    missing = f" {n_missing} of {len(curves)} values are missing." if n_missing else ""
    n_seeds = _finite(curves).groupby("name")["seed"].nunique()
    if not len(n_seeds):
        return missing.strip()
    if n_seeds.max() == 1:
        return f"One seed each: the order may be chance.{missing}"
    fewest, most = n_seeds.min(), n_seeds.max()
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"Range over {count} seeds.{missing}"


def _as_stairs(best_loss_nats: Staircase) -> dict[int, float]:
    pairs = (
        best_loss_nats.items() if isinstance(best_loss_nats, Mapping) else enumerate(best_loss_nats)
    )
    stairs = {int(k): float(loss) for k, loss in sorted(pairs)}
    if not stairs:
        raise AttnlabError("A staircase needs the loss of at least one context length; got none.")
    return stairs


def _tokens(count: int) -> str:
    return "token" if count == 1 else "tokens"
