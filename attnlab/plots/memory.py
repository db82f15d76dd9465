"""Pictures of a channel mixer read as a memory: where keys fire and what they write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from attnlab.show.style import AMOUNT_COLOURS, look, new_axes

FIRES, WRITES, HARM, QUIET = "#332288", "#B58900", "#882255", "#BBBBBB"  # no family's colour


def order_keys(activity: ArrayLike) -> NDArray[np.int64]:
    """Return the keys sorted by the state they fire for most, strongest first within it.

    Shapes:
        activity: ``(n_states, d_ff)``; returns ``(d_ff,)``.
    """
    values = np.nan_to_num(np.asarray(activity, dtype=float), nan=-np.inf)
    return np.lexsort((-values.max(axis=0), values.argmax(axis=0)))


def plot_key_map(activity: ArrayLike, *, states: Sequence[str]) -> Axes:
    """Draw how strongly each key fires in each state, keys sorted by their favourite state.

    Shapes:
        activity: ``(n_states, d_ff)`` mean activation.
    """
    values = np.asarray(activity, dtype=float)
    ax = new_axes(None, size=(6.6, 0.9 + 0.26 * len(states)))
    top = float(np.nanmax(values))
    order = order_keys(values)
    colours = plt.get_cmap(AMOUNT_COLOURS)
    picture = ax.imshow(values[:, order], cmap=colours, vmin=0.0, vmax=top, aspect="auto")
    ax.figure.colorbar(picture, ax=ax, label="Mean activation", extend="min")
    ax.set_yticks(range(len(states)), [f"…{state}" for state in states])
    step = max(1, len(order) // 16)
    ax.set_xticks(range(0, len(order), step), order[::step])
    ax.spines[:].set_visible(False)
    ax.set(xlabel="Key (sorted by the state it fires for most)", ylabel="State")
    return ax


def describe_key_map(activity: ArrayLike, *, states: Sequence[str]) -> str:
    """Say how many keys are choosy, and which state has most of them."""
    values = np.asarray(activity, dtype=float)
    favourite = values.argmax(axis=0)
    fires = np.maximum(values, 0.0)
    total = fires.sum(axis=0)
    choosy = int((fires.max(axis=0) > 0.5 * np.where(total > 0, total, np.inf)).sum())
    n_silent = int((total == 0).sum())
    busiest = int(np.bincount(favourite, minlength=len(states)).argmax())
    silent = f" {n_silent} never fire on average." if n_silent else ""
    return (
        f"{values.shape[1]} keys and {len(states)} states. {choosy} keys give more than half of "
        f"their firing to one state; most keys favour …{states[busiest]}.{silent}"
    )


def plot_key(
    *,
    activity: ArrayLike,
    writes: ArrayLike,
    damage_nats: ArrayLike,
    states: Sequence[str],
    symbols: Sequence[str],
) -> Figure:
    """Draw one key: where it fires, which tokens its value favours, what is lost without it.

    Shapes:
        activity, damage_nats: ``(n_states,)``; writes: ``(n_tokens,)`` logits per unit of
        activation.
    """
    fig, axes = plt.subplots(
        1, 3, figsize=(7.2, 0.9 + 0.24 * len(states)), width_ratios=(3, 2, 3), layout="constrained"
    )
    rows = np.arange(len(states))
    axes[0].barh(rows, activity, color=FIRES)
    axes[0].set_yticks(rows, [f"…{state}" for state in states])
    axes[0].set(xlabel="Mean activation", ylabel="State", title="fires")
    tokens = np.arange(len(symbols))
    axes[1].barh(tokens, writes, color=WRITES)
    axes[1].set_yticks(tokens, symbols)
    axes[1].set(xlabel="Logits per activation", title="writes")
    axes[2].barh(rows, damage_nats, color=HARM)
    axes[2].set_yticks(rows, [""] * len(states))
    axes[2].set(xlabel="KL rise (nats)", title="is missed")
    for ax in axes:
        ax.invert_yaxis()
        ax.axvline(0, color="#6E6E6E", lw=0.8)
        ax.title.set_fontsize(10)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    return fig


def describe_key(
    *,
    key: int,
    activity: ArrayLike,
    writes: ArrayLike,
    damage_nats: ArrayLike,
    states: Sequence[str],
    symbols: Sequence[str],
) -> str:
    """Say what one key fires for, writes, and is needed for."""
    fires, adds, harm = (np.asarray(v, dtype=float) for v in (activity, writes, damage_nats))
    best, worst = int(np.nanargmax(fires)), int(np.nanargmax(harm))
    up, down = symbols[int(adds.argmax())], symbols[int(adds.argmin())]
    return (
        f"Key {key} fires most after …{states[best]} ({fires[best]:+.2f}). Its value raises {up} "
        f"({adds.max():+.2f} logits) and lowers {down} ({adds.min():+.2f}). Without it the KL "
        f"rises most after …{states[worst]}: {harm[worst]:+.4f} nats."
    )


def plot_state_losses(
    losses: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    share: ArrayLike,
    states: Sequence[str],
) -> Figure:
    """Draw the KL of each state with the memory and without it, the commonest state on top.

    Shapes:
        losses: by model, the KL of each state ``(n_states,)`` with all keys and with none;
        share: ``(n_states,)``.
    """
    part = np.asarray(share, dtype=float)
    order = np.argsort(-part, kind="stable")
    size = (2.6 + 2.3 * len(losses), 1.3 + 0.26 * len(states))
    fig, axes = plt.subplots(
        1, len(losses), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    rows = np.arange(len(order))
    for ax, (name, (kl_nats, without_nats)) in zip(axes[0], losses.items(), strict=True):
        kl, without = (np.asarray(v, dtype=float)[order] for v in (kl_nats, without_nats))
        ax.hlines(rows, kl, without, color=QUIET, lw=2, zorder=1)
        ax.plot(kl, rows, "s", color=FIRES, label="all keys")
        ax.plot(without, rows, "X", color=HARM, label="all keys silenced")
        ax.set_xscale("log")
        ax.set_title(look(name).label, fontsize=10)
        ax.set_xlabel("KL from the true row (nats)")
    axes[0, 0].set_yticks(rows, [f"…{states[i]}  ({part[i]:.1%})" for i in order])
    axes[0, 0].set_ylim(len(order) - 0.5, -0.5)
    axes[0, 0].set_ylabel("State (share of time)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper right", ncols=2)
    return fig


def describe_state_losses(
    losses: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    share: ArrayLike,
    states: Sequence[str],
) -> str:
    """Say the mean KL with and without the memory, and the state that is known worst."""
    part = np.asarray(share, dtype=float)
    weights = part / part.sum()
    sentences = []
    for name, (kl_nats, without_nats) in losses.items():
        kl, without = np.asarray(kl_nats, dtype=float), np.asarray(without_nats, dtype=float)
        worst = int(np.nanargmax(kl))
        sentences.append(
            f"{look(name).label}: {np.nansum(kl * weights):.4f} nats with all keys, "
            f"{np.nansum(without * weights):.4f} with none; worst known is …{states[worst]} "
            f"({part[worst]:.1%} of the time, {kl[worst]:.3f} nats)."
        )
    return f"Mean KL from the true rows, weighted by time. {' '.join(sentences)} One seed each."
