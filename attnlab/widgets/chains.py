"""Explorers of notebooks 00 and 01: units of loss, chains, staircases, rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attnlab.plots.chains import (
    describe_loss_units,
    describe_next_token,
    plot_loss_units,
    plot_next_token,
    plot_shares,
)
from attnlab.plots.curves import describe_staircase, plot_staircase
from attnlab.plots.matrices import plot_matrix
from attnlab.sources import (
    Source,
    entropy_rate,
    markov_chain,
    random_chain,
    ring_chain,
    stationary,
    tales,
    variable_length_chain,
)
from attnlab.widgets.core import Explorer, Values, choice, show_explorer, slider

KINDS = ("ring", "random")
SOURCES = {
    "Weather, order 1": "weather",
    "Variable length": "one_long_branch",
    "Count to three": "count_to_three",
    "Tales": "tales",
}


def show_loss_units(*, presets: Sequence[Values]) -> Explorer | None:
    """Show one loss in nats, bits and perplexity."""
    loss = slider(
        "Loss (nats per token)",
        value=1.0,
        minimum=0.0,
        maximum=4.0,
        step=0.05,
        tooltip="Mean surprise per token",
    )
    return show_explorer(
        draw_loss_units, {"loss_nats": loss}, presets=presets, describe=describe_loss_units
    )


def draw_loss_units(*, loss_nats: float) -> Figure:
    """Draw perplexity against loss, with one loss marked."""
    return plot_loss_units(loss_nats).figure


def show_chain_explorer(*, presets: Sequence[Values]) -> Explorer | None:
    """Show matrix, long-run shares and entropy rate of a ring or a random chain."""
    controls = {
        "kind": choice(
            "Chain",
            options=list(KINDS),
            tooltip="ring: steps to a neighbour; random: rows drawn at random",
        ),
        "n_states": slider(
            "States", value=6, minimum=2, maximum=12, tooltip="Number of states of the chain"
        ),
        "stay": slider(
            "P(stay)",
            value=0.25,
            minimum=0.0,
            maximum=1.0,
            step=0.05,
            tooltip="Chance of keeping the state, on top of the random chain's own",
        ),
    }
    return show_explorer(draw_chain, controls, presets=presets, describe=describe_chain)


def build_chain(*, kind: str, n_states: int, stay: float) -> NDArray[np.float64]:
    """Return the transition matrix ``(n_states, n_states)`` of these control values."""
    if kind == "ring":
        return ring_chain(n_states, stay=stay)
    moving = random_chain(n_states, concentration=0.5, seed=n_states)
    return stay * np.eye(n_states) + (1 - stay) * moving


def draw_chain(*, kind: str, n_states: int, stay: float) -> Figure:
    """Draw the matrix on the left and the long-run shares on the right."""
    transition = build_chain(kind=kind, n_states=n_states, stay=stay)
    names = [str(i) for i in range(n_states)]
    shares = stationary(transition) if stay < 1 else None
    return draw_transition(transition, shares=shares, names=names)


def draw_transition(
    transition: NDArray[np.float64], *, shares: NDArray[np.float64] | None, names: Sequence[str]
) -> Figure:
    """Draw a transition matrix and, beside it, shares of time.

    Shapes:
        transition: ``(n_states, n_states)``; shares: ``(n_states,)``, or None if there is no
        unique law.
    """
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(6.4, 3.2), layout="constrained", width_ratios=(1.5, 1)
    )
    plot_matrix(
        transition,
        label="Transition probability",
        x_label="Next state j",
        y_label="Current state i",
        x_ticks=names,
        y_ticks=names,
        limit=1,
        has_numbers=len(names) <= 6,
        ax=left,
    )
    if shares is None:
        words = "No unique\nlong-run share:\nit stays where\nit starts"
        right.set_axis_off()
        right.text(0.5, 0.5, words, ha="center", va="center")
    else:
        plot_shares(shares, names=names, ax=right)
    return fig


def describe_chain(*, kind: str, n_states: int, stay: float) -> str:
    """Say what the matrix means for any model trained on its text."""
    transition = build_chain(kind=kind, n_states=n_states, stay=stay)
    lead = f"{kind.capitalize()} chain of {n_states} states, P(stay) = {stay:.2f}: "
    if stay == 1:
        return f"{lead}it never moves, so nothing surprises: entropy rate 0 nats per token."
    rate, most = entropy_rate(transition), np.log(n_states)
    share = stationary(transition)
    spread = f"long-run shares from {share.min():.3f} to {share.max():.3f}"
    if np.isclose(share.min(), share.max()):
        spread = f"every long-run share is {share.max():.3f}"
    return (
        f"{lead}entropy rate {rate:.3f} nats per token (fair choice among {n_states}: {most:.3f}); "
        f"{spread}."
    )


def show_staircase_explorer(*, presets: Sequence[Values]) -> Explorer | None:
    """Show the best loss with the last k tokens for four sources."""
    controls = {
        "source": choice("Source", options=SOURCES, tooltip="Who writes the tokens"),
        "longest": slider(
            "Longest context (tokens)",
            value=8,
            minimum=1,
            maximum=10,
            tooltip="How many stairs to draw",
        ),
    }
    return show_explorer(draw_stairs, controls, presets=presets, describe=describe_stairs)


@lru_cache
def build_source(name: str) -> Source:
    """Return one of ``SOURCES`` by its short name."""
    if name == "tales":
        return tales("small")
    return markov_chain(name) if name == "weather" else variable_length_chain(name)


@lru_cache
def stairs_of(name: str, longest: int) -> tuple[float, ...]:
    """Return the best loss with the last 0, 1, ..., ``longest`` tokens, in nats."""
    source = build_source(name)
    return tuple(source.best_loss_nats(context_len=k) for k in range(longest + 1))


def draw_stairs(*, source: str, longest: int) -> Figure:
    """Draw the staircase of a source down to its entropy rate."""
    rate = build_source(source).entropy_rate_nats
    return plot_staircase(stairs_of(source, longest), entropy_rate_nats=rate).figure


def describe_stairs(*, source: str, longest: int) -> str:
    """Say how much each further token can pay."""
    name = next(label for label, key in SOURCES.items() if key == source)
    rate = build_source(source).entropy_rate_nats
    return f"{name}. {describe_staircase(stairs_of(source, longest), entropy_rate_nats=rate)}"


def show_row_explorer(
    rows: Mapping[str, NDArray[np.float64]],
    *,
    states: Sequence[str],
    shares: Sequence[float],
    symbols: Sequence[str],
    presets: Sequence[Values],
) -> Explorer | None:
    """Show one row of several tables beside the true one; the state is chosen.

    Shapes:
        rows: ``(n_states, vocab_size)`` by predictor; ``oracle`` is the true table.
    Args:
        states: Names of the states, by row.
        shares: Long-run share of each state.
        symbols: Names of the tokens, by column.
        presets: Values of ``state``, a name in ``states``.
    """
    index = {state: i for i, state in enumerate(states)}

    def draw(*, state: str) -> Figure:
        picked = {name: table[index[state]] for name, table in rows.items()}
        return plot_next_token(picked, symbols=symbols).figure

    def describe(*, state: str) -> str:
        picked = {name: table[index[state]] for name, table in rows.items()}
        return describe_next_token(picked, state=state, share=shares[index[state]])

    control = choice("Last tokens", options=list(states), tooltip="The state, oldest token first")
    return show_explorer(draw, {"state": control}, presets=presets, describe=describe)
