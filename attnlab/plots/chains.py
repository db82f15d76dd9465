"""Pictures of Markov sources: shares, losses and their parts, tables against models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from attnlab.errors import AttnlabError
from attnlab.show.style import LOOKS, Look, look, new_axes

NATS_PER_BIT = float(np.log(2.0))
HATCHES = ("", "///", "...", "xx", "\\\\\\")  # so that bars differ by more than colour
KL_COLOUR = "#56B4E9"
ORDER_MARKERS = ("1", "2", "3", "4", "+", "x")  # of tables of order 0, 1, ...


def plot_shares(shares: ArrayLike, *, names: Sequence[str], ax: Axes | None = None) -> Axes:
    """Draw the long-run share of each state as a horizontal bar, first state on top.

    Args:
        shares: ``(n_states,)``, sums to one.
        names: Names of the states.
        ax: Axes to draw on; a new figure without it.
    """
    values = _require_names(shares, names)
    ax = new_axes(ax, size=(3.2, 3.2))
    ax.barh(range(len(values)), values, color=LOOKS["table"].colour)
    ax.set_yticks(range(len(values)), names)
    ax.invert_yaxis()
    ax.set(xlabel="Share of time", ylabel="State i", xlim=(0, max(0.5, 1.1 * values.max())))
    return ax


def plot_state_counts(
    vocab_sizes: Sequence[int], *, longest: int = 128, ax: Axes | None = None
) -> Axes:
    """Draw how many prefixes there are up to each length, as a power of ten.

    Args:
        vocab_sizes: Numbers of different tokens, each two or more; one line each.
        longest: Largest context length, in tokens.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax)
    lengths = np.arange(1, longest + 1)
    for vocab_size, dash in zip(vocab_sizes, ("dotted", "dashed", "solid"), strict=False):
        powers = log10_states(vocab_size, lengths)
        ax.plot(lengths, powers, color=LOOKS["table"].colour, linestyle=dash)
        label = f"V = {vocab_size:,}: 1e{powers[-1]:.0f}"
        ax.annotate(
            label, (lengths[-1], powers[-1]), (-6, 6), textcoords="offset points", ha="right"
        )
    ax.axhline(80, color="black", lw=0.8, linestyle=(0, (1, 3)))
    ax.annotate("atoms in the visible universe, about 1e80", (longest, 80), (-6, 3),
                textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
    top = 1.12 * log10_states(max(vocab_sizes), np.array([longest]))[0]
    ax.set(xlabel="Longest context (tokens)", ylabel="Rows of the table (power of ten)",
           ylim=(0, top))  # fmt: skip
    return ax


def describe_state_counts(vocab_sizes: Sequence[int], *, longest: int = 128) -> str:
    """Say how many rows a table of all prefixes would have."""
    parts = ", ".join(
        f"1e{log10_states(v, np.array([longest]))[0]:.0f} for {v:,} tokens" for v in vocab_sizes
    )
    return (
        f"Rows of a table of all prefixes of up to {longest} tokens: about {parts}. "
        "The exponent grows in a straight line with the length."
    )


def log10_states(vocab_size: int, lengths: ArrayLike) -> np.ndarray:
    """Return the decimal logarithm of ``V + V**2 + ... + V**length`` for each length."""
    lengths = np.asarray(lengths, dtype=float)
    tail = np.log1p(-(float(vocab_size) ** -lengths)) - np.log1p(-1.0 / vocab_size)
    return lengths * np.log10(vocab_size) + tail / np.log(10)


def plot_loss_units(loss_nats: float, *, most_nats: float = 4.0, ax: Axes | None = None) -> Axes:
    """Draw perplexity against loss and mark one loss on it.

    Args:
        loss_nats: The loss to mark, nats per token.
        most_nats: Right end of the axis.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax)
    losses = np.linspace(0, most_nats, 200)
    ax.plot(losses, np.exp(losses), color=LOOKS["table"].colour)
    ax.plot([loss_nats, loss_nats, 0], [0, np.exp(loss_nats), np.exp(loss_nats)], color="black",
            linestyle=":")  # fmt: skip
    ax.plot([loss_nats], [np.exp(loss_nats)], "ko")
    ax.set(xlabel="Loss (nats per token)", ylabel="Perplexity (equal choices)",
           xlim=(0, most_nats), ylim=(0, np.exp(most_nats)))  # fmt: skip
    bits = ax.secondary_xaxis("top", functions=(lambda n: n / NATS_PER_BIT,
                                                lambda b: b * NATS_PER_BIT))  # fmt: skip
    bits.set_xlabel("Loss (bits per token)")
    return ax


def describe_loss_units(loss_nats: float) -> str:
    """Say one loss in nats, in bits and as a perplexity."""
    return (
        f"{loss_nats:.3f} nats per token are {loss_nats / NATS_PER_BIT:.3f} bits per token and a "
        f"perplexity of {np.exp(loss_nats):.2f}: as hard as that many equal choices."
    )


def plot_loss_parts(parts: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw each predictor's loss as entropy rate plus Kullback-Leibler divergence.

    Args:
        parts: Rows with ``predictor`` (words), ``entropy_nats`` and ``kl_nats``.
        ax: Axes to draw on; a new figure without it.
    """
    _require_columns(parts, ("predictor", "entropy_nats", "kl_nats"))
    ax = new_axes(ax, size=(6.4, 0.9 + 0.42 * len(parts)))
    rows, floor = range(len(parts)), parts["entropy_nats"].to_numpy()
    kl = parts["kl_nats"].to_numpy()
    ax.barh(rows, floor, color="#DDDDDD", label="entropy rate h (the source)")
    ax.barh(rows, kl, left=floor, color=KL_COLOUR, hatch="///", edgecolor="white",
            label="divergence (the predictor)")  # fmt: skip
    for row, total in zip(rows, floor + kl, strict=True):
        ax.text(total + 0.01 * (floor + kl).max(), row, f"{total:.3f}", va="center", fontsize=9)
    ax.axvline(floor[0], color="black", linestyle=":")
    ax.set_yticks(rows, parts["predictor"])
    ax.invert_yaxis()
    ax.set(xlabel="Expected loss (nats per token)", xlim=(0, 1.1 * (floor + kl).max()))
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax


def describe_loss_parts(parts: pd.DataFrame) -> str:
    """Say how much of each predictor's loss is its own."""
    worst = parts.loc[parts["kl_nats"].idxmax()]
    told = ", ".join(f"{row.predictor} {row.kl_nats:.3f}" for row in parts.itertuples())
    return (
        f"Above the common floor of {worst['entropy_nats']:.3f} nats each predictor pays its "
        f"divergence from the source: {told}. Only the true rows pay nothing."
    )


def plot_batch_losses(
    losses_nats: ArrayLike, *, entropy_rate_nats: float, ax: Axes | None = None
) -> Axes:
    """Draw how the true source's own loss varies from batch to batch.

    Args:
        losses_nats: Oracle loss of each batch, ``(n_batches,)``, nats per token.
        entropy_rate_nats: Where they lie on average.
        ax: Axes to draw on; a new figure without it.
    """
    losses = np.asarray(losses_nats, dtype=float)
    ax = new_axes(ax, size=(6.4, 3.0))
    ax.hist(losses, bins=30, color="#BBBBBB", edgecolor="white")
    ax.axvline(entropy_rate_nats, color="black", linestyle=":", label="Entropy rate")
    ax.plot([losses.min()], [0], "kv", clip_on=False, label=f"Luckiest batch, {losses.min():.3f}")
    ax.legend(frameon=False)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set(xlabel="Loss of the true source on one batch (nats per token)", ylabel="Batches")
    return ax


def describe_batch_losses(losses_nats: ArrayLike, *, entropy_rate_nats: float) -> str:
    """Say how many batches lie below the entropy rate, and by how much they scatter."""
    losses = np.asarray(losses_nats, dtype=float)
    n_below = int((losses < entropy_rate_nats).sum())
    return (
        f"Oracle loss of {len(losses)} batches: {n_below} of them lie below the entropy rate of "
        f"{entropy_rate_nats:.3f} nats per token; mean {losses.mean():.3f}, standard deviation "
        f"{losses.std():.3f}."
    )


def plot_order_losses(
    losses: pd.DataFrame, *, oracle_nats: float | None = None, ax: Axes | None = None
) -> Axes:
    """Draw a table's loss on the text it was counted on, and on fresh text, by its order.

    Args:
        losses: Rows with ``order``, ``split`` (``training`` or ``held-out``) and ``loss_nats``.
        oracle_nats: Loss of the true source on the held-out tokens.
        ax: Axes to draw on; a new figure without it.
    """
    _require_columns(losses, ("order", "split", "loss_nats"))
    ax = new_axes(ax)
    colour = LOOKS["table"].colour
    for split, dash, marker in (("training", "dotted", "o"), ("held-out", "solid", "x")):
        rows = losses[losses["split"] == split].sort_values("order")
        ax.plot(rows["order"], rows["loss_nats"], color=colour, linestyle=dash, marker=marker,
                fillstyle="none", label=f"Table, {split} tokens")  # fmt: skip
    if oracle_nats is not None:
        ax.axhline(oracle_nats, color="black", linestyle=":", label="True source, held-out tokens")
    ax.legend(frameon=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="Order k of the table (tokens looked back)", ylabel="Loss (nats per token)",
           ylim=(0, None))  # fmt: skip
    return ax


def describe_order_losses(losses: pd.DataFrame, *, oracle_nats: float | None = None) -> str:
    """Say which order is best on fresh text and how far the last one has overfitted."""
    by_split = {
        split: rows.set_index("order")["loss_nats"] for split, rows in losses.groupby("split")
    }
    held, seen = by_split["held-out"], by_split["training"]
    last = int(held.index.max())
    words = (
        f"On held-out tokens order {int(held.idxmin())} is best, {held.min():.3f} nats per token. "
        f"At order {last} the table has {seen[last]:.3f} on the tokens it counted and "
        f"{held[last]:.3f} on fresh ones."
    )
    return words if oracle_nats is None else f"{words} The true source: {oracle_nats:.3f}."


def plot_next_token(
    rows: Mapping[str, ArrayLike], *, symbols: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Draw next-token chances of several predictors side by side, one group for each token.

    Args:
        rows: ``(vocab_size,)`` by the predictor's name, at most five; ``order_4`` is a table of
            that order.
        symbols: Names of the tokens.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax, size=(6.4, 3.2))
    places, width = np.arange(len(symbols)), 0.8 / len(rows)
    for number, (name, row) in enumerate(rows.items()):
        values = _require_names(row, symbols)
        offset = (number - (len(rows) - 1) / 2) * width
        ax.bar(places + offset, values, width, color=_look(name).colour, label=_look(name).label,
               hatch=HATCHES[number % len(HATCHES)], edgecolor="white")  # fmt: skip
    ax.set_xticks(places, symbols)
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(rows),
              handlelength=1.6, columnspacing=1.2)  # fmt: skip
    ax.set(xlabel="Next token", ylabel="Probability", ylim=(0, 1))
    return ax


def describe_next_token(
    rows: Mapping[str, ArrayLike], *, state: str, share: float, truth: str = "oracle"
) -> str:
    """Say how far each predictor's row is from the true one in this state.

    Args:
        rows: As in ``plot_next_token``; one of them is ``truth``.
        state: Name of the state.
        share: Its long-run share of time.
        truth: Name of the true row.
    """
    p = np.asarray(rows[truth], dtype=float)
    told = ", ".join(
        f"{_look(name).label} {_kl(p, np.asarray(row, dtype=float)):.3f}"
        for name, row in rows.items()
        if name != truth
    )
    return (
        f"After {state!r} ({share:.1%} of the time), divergence from the true row in nats: {told}."
    )


def plot_kl_per_state(
    table: pd.DataFrame, *, named: Sequence[str] = (), ax: Axes | None = None
) -> Axes:
    """Draw how far each state's row is from the truth against how often the state occurs.

    The worst state of all is named at its point.

    Args:
        table: Rows with ``name`` (of the model; ``order_4`` is a table of that order),
            ``state``, ``share`` and ``kl_nats``.
        named: Further states to name, each above its worst model.
        ax: Axes to draw on; a new figure without it.
    """
    _require_columns(table, ("name", "state", "share", "kl_nats"))
    ax = new_axes(ax)
    for name, rows in table.groupby("name", sort=False):
        kl = np.maximum(rows["kl_nats"], 1e-6)
        ax.plot(rows["share"], kl, **{**_look(str(name)).line(), "linestyle": "none"})
    tops = table.sort_values("kl_nats").drop_duplicates("state", keep="last")
    worst = tops.iloc[-1]
    _name_point(ax, worst, (6, -3), "left")
    others = tops[tops["state"].isin(named) & (tops["state"] != worst["state"])]
    # neighbours lean away from each other
    for number, (_, top) in enumerate(others.sort_values("share").iterrows()):
        _name_point(ax, top, *(((4, 5), "left") if number % 2 else ((-4, 5), "right")))
    ax.set(xscale="log", yscale="log", xlabel="Share of time in the state",
           ylabel="Divergence in the state (nats)")  # fmt: skip
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3,
              handlelength=0.8, columnspacing=1.6)  # fmt: skip
    return ax


def describe_kl_per_state(table: pd.DataFrame) -> str:
    """Say what each model loses over all states, and in which one most."""
    parts = []
    for name, rows in table.groupby("name", sort=False):
        mean = float((rows["share"] * rows["kl_nats"]).sum())
        worst = rows.loc[rows["kl_nats"].idxmax()]
        parts.append(
            f"{_look(str(name)).label}: {mean:.3f} nats over all states, most in state "
            f"{worst['state']!r} ({worst['kl_nats']:.3f}, {worst['share']:.1%} of the time)"
        )
    return f"{'; '.join(parts)}. Each point is one state."


def _look(name: str) -> Look:
    """Return the look of a name; ``order_4`` is a table of that order."""
    stem, _, order = name.partition("_")
    if stem != "order" or not order.isdigit():
        return look(name)
    marker = ORDER_MARKERS[min(int(order), len(ORDER_MARKERS) - 1)]
    return replace(LOOKS["table"], label=f"Table of order {order}", marker=marker)


def _name_point(ax: Axes, row: pd.Series, offset: tuple[int, int], align: str) -> None:
    ax.annotate(str(row["state"]), (row["share"], row["kl_nats"]), offset, ha=align,
                textcoords="offset points", family="monospace")  # fmt: skip


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    known = p > 0
    with np.errstate(divide="ignore"):
        return float(np.sum(p[known] * (np.log(p[known]) - np.log(q[known]))))


def _require_names(values: ArrayLike, names: Sequence[str]) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.shape != (len(names),):
        raise AttnlabError(
            f"{len(names)} names do not fit values of shape {values.shape}. "
            "Pass one row of the table and one name for each of its entries."
        )
    return values


def _require_columns(table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing or not len(table):
        raise AttnlabError(
            f"This picture needs rows with {', '.join(columns)}; the table has {len(table)} rows "
            f"and lacks {', '.join(missing) or 'nothing'}."
        )
