"""Pictures of chapter 01: prefixes, chains, parts of a loss, stairs, tables against models."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError
from attnlab.show import LOOKS, Look, look, matrix, new_axes, picture, staircase
from attnlab.show.words import drawable, quote
from attnlab.sources import (
    Source,
    entropy_rate,
    kl_per_state,
    markov_chain,
    random_chain,
    ring_chain,
    stationary,
    tales,
    variable_length_chain,
)

GREY = LOOKS["table"].colour
KL_COLOUR = "#56B4E9"
HATCHES = ("", "///", "...", "xx", "\\\\\\")  # so that bars differ by more than colour
ORDER_MARKERS = ("1", "2", "3", "4", "+", "x")  # of tables of order 0, 1, ...
ABOVE = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}  # of a legend: above the axes

SOURCES = {
    "Weather, order 1": "weather",
    "Variable length": "one_long_branch",
    "Count to three": "count_to_three",
    "Tales": "tales",
}
CHAIN_DIALS = {
    "kind": ("Chain", ["ring", "random"],
             "ring: steps to a neighbour; random: rows drawn at random"),
    "n_states": ("States", 6, 2, 12, "Number of states of the chain"),
    "stay": ("P(stay)", 0.25, 0.0, 1.0, 0.05,
             "Chance of keeping the state, on top of the random chain's own"),
}  # fmt: skip
OWN_DIAL = {
    "rows": ("Matrix", "0.7 0.2 0.1\n0.3 0.4 0.3\n0.2 0.4 0.4",
             "One row a line: what follows state 0, state 1, ...; numbers or fractions"),
}  # fmt: skip
MOST_STATES = 12
STAIRS_DIALS = {
    "source": ("Source", SOURCES, "Who writes the tokens"),
    "longest": ("Longest context (tokens)", 8, 1, 10, "How many stairs to draw"),
}


@picture
def state_counts(vocab_sizes: Sequence[int], *, longest: int = 128):
    """How many prefixes there are up to each length, as a power of ten; a line a vocabulary."""
    ax, lengths, ends = new_axes(), np.arange(1, longest + 1), {}
    for vocab_size, dash in zip(vocab_sizes, ("dotted", "dashed", "solid"), strict=False):
        powers = log10_states(vocab_size, lengths)
        ends[vocab_size] = f"1e{powers[-1]:.0f}"
        ax.plot(lengths, powers, color=GREY, linestyle=dash)
        ax.annotate(f"V = {vocab_size:,}: {ends[vocab_size]}", (longest, powers[-1]), (-6, 6),
                    textcoords="offset points", ha="right")  # fmt: skip
    ax.axhline(80, color="black", lw=0.8, linestyle=(0, (1, 3)))
    ax.annotate("atoms in the visible universe, about 1e80", (longest, 80), (-6, 3),
                textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
    top = 1.12 * log10_states(max(vocab_sizes), [longest])[0]
    ax.set(xlabel="Longest context (tokens)", ylabel="Rows of the table (power of ten)",
           ylim=(0, top))  # fmt: skip
    told = ", ".join(f"{end} for {vocab_size:,} tokens" for vocab_size, end in ends.items())
    return ax, (
        f"Rows of a table of all prefixes of up to {longest} tokens: about {told}. "
        "The exponent grows in a straight line with the length."
    )


def log10_states(vocab_size: int, lengths: ArrayLike) -> NDArray[np.float64]:
    """Return the decimal logarithm of ``V + V**2 + ... + V**length`` for each length."""
    lengths = np.asarray(lengths, dtype=float)
    tail = np.log1p(-(float(vocab_size) ** -lengths)) - np.log1p(-1.0 / vocab_size)
    return lengths * np.log10(vocab_size) + tail / np.log(10)


@picture
def transition(
    rows: NDArray[np.float64], *, names: Sequence[str], shares: NDArray[np.float64] | None
):
    """A transition matrix ``(n_states, n_states)`` and, beside it, the share of each state.

    Args:
        shares: ``(n_states,)``; None where there is no unique law.
    """
    left, right = new_axes(size=(6.4, 3.2), columns=2, width_ratios=(1.5, 1))
    heat = matrix(rows, label="Transition probability", x_label="Next state j",
                  y_label="Current state i", x_ticks=names, y_ticks=names, limit=1,
                  has_numbers=len(names) <= 6, ax=left)  # fmt: skip
    if shares is None:
        words = "No unique\nlong-run share:\nit depends on\nthe start"
        right.set_axis_off()
        right.text(0.5, 0.5, words, ha="center", va="center")
    else:
        right.barh([*map(drawable, names)], shares, color=GREY)
        right.invert_yaxis()
        right.set(xlabel="Share of time in state i", xlim=(0, max(0.5, 1.1 * shares.max())))
    return left, f"Rows of P for {', '.join(names)}. {heat.words}"


@picture
def chain(*, kind: str, n_states: int, stay: float):
    """Matrix, long-run shares and entropy rate of a ring or a random chain."""
    rows = chain_rows(kind=kind, n_states=n_states, stay=stay)
    shares = stationary(rows) if stay < 1 else None
    fig = transition(rows, names=[str(i) for i in range(n_states)], shares=shares).fig
    lead = f"{kind.capitalize()} chain of {n_states} states, P(stay) = {stay:.2f}: "
    if shares is None:
        return fig, f"{lead}it never moves, so nothing surprises: entropy rate 0 nats per token."
    told = f"long-run shares from {shares.min():.3f} to {shares.max():.3f}"
    if np.isclose(shares.min(), shares.max()):
        told = f"every long-run share is {shares.max():.3f}"
    return fig, (
        f"{lead}entropy rate {entropy_rate(rows):.3f} nats per token "
        f"(fair choice among {n_states}: {np.log(n_states):.3f}); {told}."
    )


def chain_rows(*, kind: str, n_states: int, stay: float) -> NDArray[np.float64]:
    """Return the transition matrix ``(n_states, n_states)`` of ``chain``."""
    if kind == "ring":
        return ring_chain(n_states, stay=stay)
    moving = random_chain(n_states, concentration=0.5, seed=n_states)
    return stay * np.eye(n_states) + (1 - stay) * moving


@picture
def own_chain(*, rows: str):
    """Matrix, long-run shares and entropy rate of a chain that a reader typed.

    Raises:
        AttnlabError: The text is no transition matrix; says where.
    """
    matrix_rows, said = read_matrix(rows)
    n_states, shares = len(matrix_rows), None
    try:
        shares = stationary(matrix_rows)
        told = (
            f"entropy rate {entropy_rate(matrix_rows):.3f} nats per token (fair choice among "
            f"{n_states}: {np.log(n_states):.3f}); long-run shares "
            f"{', '.join(f'{share:.3f}' for share in shares)}."
        )
    except AttnlabError as several:  # closed classes: where it starts decides
        told = str(several).partition(" Give ")[0]
    fig = transition(matrix_rows, names=[str(i) for i in range(n_states)], shares=shares).fig
    return fig, " ".join(filter(None, [said, f"Your chain of {n_states} states: {told}"]))


def read_matrix(text: str) -> tuple[NDArray[np.float64], str]:
    """Return the transition matrix that a text holds, and a sentence on rows that were scaled.

    A row is a line, or ends with ``;``; its entries are numbers or fractions such as ``1/3``.

    Raises:
        AttnlabError: No entry, one that is no number of at least 0, a matrix that is not square
            or too large, a row of zeros; names the row and the entry.
    """
    lines = re.sub(r"[\]);]", "\n", text).replace("[", " ").replace("(", " ").splitlines()
    rows = [entries for entries in (line.replace(",", " ").split() for line in lines) if entries]
    if not rows:
        raise AttnlabError("There is no number in the box. Type a row a line, such as 0.5 0.5.")
    if len(rows) > MOST_STATES:
        raise AttnlabError(f"{len(rows)} rows are too many to draw; {MOST_STATES} is the most.")
    for i, entries in enumerate(rows):
        if len(entries) != len(rows):
            raise AttnlabError(
                f"Row {i} has {len(entries)} entries, and there are {len(rows)} rows. A transition "
                "matrix is square: one row and one column a state."
            )
    matrix = np.array([[_entry(e, f"row {i}, column {j}") for j, e in enumerate(entries)]
                       for i, entries in enumerate(rows)])  # fmt: skip
    largest = matrix.max(axis=1)
    if not largest.all():
        raise AttnlabError(
            f"Row {int(largest.argmin())} holds zeros only: something must follow state "
            f"{int(largest.argmin())}. Give one of its entries a chance."
        )
    scaled = matrix / largest[:, None]
    with np.errstate(over="ignore"):  # a sum beyond all numbers reads "inf"
        sums = scaled.sum(axis=1) * largest
    off = [f"row {i} by {sums[i]:.6g}" for i in np.flatnonzero(~np.isclose(sums, 1, atol=1e-6))]
    said = f"Rows must sum to one, so each entry was divided: {', '.join(off)}." if off else ""
    return scaled / scaled.sum(axis=1, keepdims=True), said


def _entry(text: str, where: str) -> float:
    """Return a typed number of at least 0, or say what is wrong with it."""
    top, _, bottom = text.partition("/")
    try:
        value = float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise AttnlabError(
            f"{quote(text)} in {where} is no chance. An entry is a number of at least 0, such as "
            "0.25 or 1/4."
        )
    return value


@picture
def loss_parts(parts: pd.DataFrame):
    """Each predictor's loss as entropy rate plus divergence.

    Args:
        parts: Rows with ``predictor`` (words), ``entropy_nats`` and ``kl_nats``.
    """
    ax = new_axes(size=(6.4, 0.9 + 0.42 * len(parts)))
    rows, floor, kl = range(len(parts)), *parts[["entropy_nats", "kl_nats"]].to_numpy().T
    ax.barh(rows, floor, color="#DDDDDD", label="entropy rate h (the source)")
    ax.barh(rows, kl, left=floor, color=KL_COLOUR, hatch="///", edgecolor="white",
            label="divergence (the predictor)")  # fmt: skip
    for row, total in zip(rows, floor + kl, strict=True):
        ax.text(total + 0.01 * (floor + kl).max(), row, f"{total:.3f}", va="center", fontsize=9)
    ax.axvline(floor[0], color="black", linestyle=":")
    ax.set_yticks(rows, parts["predictor"])
    ax.invert_yaxis()
    ax.set(xlabel="Expected loss (nats per token)", xlim=(0, 1.1 * (floor + kl).max()))
    ax.legend(**ABOVE, ncols=2)
    told = ", ".join(f"{row.predictor} {row.kl_nats:.3f}" for row in parts.itertuples())
    return ax, (
        f"Above the common floor of {floor[kl.argmax()]:.3f} nats each predictor pays its "
        f"divergence from the source: {told}. Only the true rows pay nothing."
    )


@picture
def batch_losses(losses_nats: ArrayLike, *, entropy_rate_nats: float):
    """How the true source's own loss varies from batch to batch, ``(n_batches,)``."""
    losses, ax = np.asarray(losses_nats, dtype=float), new_axes(size=(6.4, 3.0))
    sns.histplot(losses, bins=30, color="#BBBBBB", alpha=1, edgecolor="white", ax=ax)
    ax.axvline(entropy_rate_nats, color="black", linestyle=":", label="Entropy rate")
    ax.plot([losses.min()], [0], "kv", clip_on=False, label=f"Luckiest batch, {losses.min():.3f}")
    ax.legend()
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set(xlabel="Loss of the true source on one batch (nats per token)", ylabel="Batches")
    return ax, (
        f"Oracle loss of {len(losses)} batches: {int((losses < entropy_rate_nats).sum())} of them "
        f"lie below the entropy rate of {entropy_rate_nats:.3f} nats per token; mean "
        f"{losses.mean():.3f}, standard deviation {losses.std():.3f}."
    )


@picture
def stairs(*, source: str, longest: int):
    """The best loss with the last 0, 1, ..., ``longest`` tokens of one of ``SOURCES``."""
    writer = source_of(source)
    losses = [best_loss(source, k) for k in range(longest + 1)]
    one = staircase(losses, entropy_rate_nats=writer.entropy_rate_nats)
    name = next(label for label, key in SOURCES.items() if key == source)
    return one.fig, f"{name}. {one.words}"


@cache
def source_of(name: str) -> Source:
    """Return one of ``SOURCES`` by its short name."""
    if name == "tales":
        return tales("small")
    return markov_chain(name) if name == "weather" else variable_length_chain(name)


@cache
def best_loss(source: str, context_len: int) -> float:
    """Return the best loss with the last ``context_len`` tokens, in nats per token."""
    return source_of(source).best_loss_nats(context_len=context_len)


@picture
def order_losses(losses: pd.DataFrame, *, oracle_nats: float):
    """A table's loss on the text it was counted on, and on fresh text, by its order.

    Args:
        losses: Rows with ``order``, ``split`` (``training`` or ``held-out``) and ``loss_nats``.
        oracle_nats: Loss of the true source on the held-out tokens.
    """
    ax, table = new_axes(), losses.pivot(index="order", columns="split", values="loss_nats")
    looks = {"held-out": ("solid", "x"), "training": ("dashed", "o")}
    for split, (dash, marker) in looks.items():
        ax.plot(table.index, table[split], color=GREY, linestyle=dash, marker=marker,
                fillstyle="none", label=f"Table, {split} tokens")  # fmt: skip
    ax.axhline(oracle_nats, color="black", linestyle=":", label="True source, held-out tokens")
    ax.legend()
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="Order k of the table (tokens looked back)", ylabel="Loss (nats per token)",
           ylim=(0, None))  # fmt: skip
    seen, held = table["training"], table["held-out"]
    last = int(table.index.max())
    return ax, (
        f"On held-out tokens order {int(held.idxmin())} is best, {held.min():.3f} nats per token. "
        f"At order {last} the table has {seen[last]:.3f} on the tokens it counted and "
        f"{held[last]:.3f} on fresh ones. The true source: {oracle_nats:.3f}."
    )


@picture
def kl_by_state(table: pd.DataFrame, *, named: Sequence[str] = ()):
    """How far each state's row is from the truth against how often the state occurs.

    The worst state of all is named at its point.

    Args:
        table: Rows with ``name`` (of the model; ``order_4`` is a table of that order),
            ``state``, ``share`` and ``kl_nats``.
        named: Further states to name, each above its worst model.
    """
    ax, told = new_axes(), []
    for name, rows in table.groupby("name", sort=False):
        one = look_of(str(name))
        ax.plot(rows["share"], np.maximum(rows["kl_nats"], 1e-6), linestyle="none",
                label=one.label, **one.points())  # fmt: skip
        mean, worst = rows["share"] @ rows["kl_nats"], rows.iloc[rows["kl_nats"].argmax()]
        told.append(
            f"{one.label}: {mean:.3f} nats over all states, most in state {worst['state']!r} "
            f"({worst['kl_nats']:.3f}, {worst['share']:.1%} of the time)"
        )
    tops = table.sort_values("kl_nats").drop_duplicates("state", keep="last")
    worst = tops.iloc[-1]
    _name_point(ax, worst, (6, -3), "left")
    others = tops[tops["state"].isin(named) & (tops["state"] != worst["state"])]
    # neighbours lean away from each other
    for number, (_, top) in enumerate(others.sort_values("share").iterrows()):
        _name_point(ax, top, *(((4, 5), "left") if number % 2 else ((-4, 5), "right")))
    ax.set(xscale="log", yscale="log", xlabel="Share of time in the state",
           ylabel="Divergence in the state (nats)")  # fmt: skip
    ax.legend(**ABOVE, ncols=3, handlelength=0.8, columnspacing=1.6)
    return ax, (
        "Divergence from the true rows against how often a state occurs; each point is one state. "
        f"{'; '.join(told)}."
    )


@picture
def next_token(
    state: str,
    *,
    rows: Mapping[str, Mapping[str, ArrayLike]],
    shares: Mapping[str, float],
    symbols: Sequence[str],
):
    """Next-token chances of several predictors in one state, a group of bars for each token.

    Args:
        rows: ``(vocab_size,)`` by predictor, at most five, and state; ``oracle`` is the truth.
        shares: Long-run share of each state.
        symbols: Names of the tokens.
    """
    ax, truth, told = new_axes(size=(6.4, 3.2)), np.asarray(rows["oracle"][state]), []
    width = 0.8 / len(rows)
    for number, ((name, by_state), hatch) in enumerate(zip(rows.items(), HATCHES, strict=False)):
        one, row = look_of(name), np.asarray(by_state[state])
        places = np.arange(len(symbols)) + (number - (len(rows) - 1) / 2) * width
        ax.bar(places, row, width, color=one.colour, label=one.label, hatch=hatch,
               edgecolor="white")  # fmt: skip
        if name != "oracle":
            told.append(f"{one.label} {kl_per_state(truth[None], row[None])[0]:.3f}")
    ax.set_xticks(range(len(symbols)), [*map(drawable, symbols)])
    ax.legend(**ABOVE, ncols=len(rows), handlelength=1.6, columnspacing=1.2)
    ax.set(xlabel="Next token", ylabel="Probability", ylim=(0, 1))
    return ax, (
        f"After {state!r} ({shares[state]:.1%} of the time), divergence from the true row in "
        f"nats: {', '.join(told)}."
    )


def look_of(name: str) -> Look:
    """Return the look of a name; ``order_4`` is a table of that order."""
    stem, _, order = name.partition("_")
    if stem != "order":
        return look(name)
    return replace(LOOKS["table"], label=f"Table of order {order}",
                   marker=ORDER_MARKERS[int(order)])  # fmt: skip


def _name_point(ax: Axes, row: pd.Series, offset: tuple[int, int], align: str) -> None:
    ax.annotate(drawable(str(row["state"])), (row["share"], row["kl_nats"]), offset, ha=align,
                textcoords="offset points", family="monospace")  # fmt: skip
