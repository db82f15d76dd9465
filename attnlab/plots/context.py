"""Pictures of how much context pays: n-gram tables by length, models by position."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from attnlab.show.style import LOOKS, look, new_axes


def plot_context_floors(
    held_out: Mapping[int, float],
    *,
    floors: Mapping[int, float],
    models: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what counting reaches with more and more context, and trained models as levels.

    Args:
        held_out: Loss of an n-gram model on held-out text, by order n (n - 1 tokens of context).
        floors: Lowest loss of any such table on its own training text, by order.
        models: Held-out losses of trained models, by name; they see far more context.
    """
    ax = new_axes(ax)
    grey = LOOKS["n_gram"]
    orders = sorted(held_out)
    ax.plot(
        [n - 1 for n in orders],
        [held_out[n] for n in orders],
        **{**grey.line(), "label": "n-grams, held-out text"},
    )
    orders = sorted(floors)
    ax.plot(
        [n - 1 for n in orders],
        [floors[n] for n in orders],
        color=grey.colour,
        linestyle="dotted",
        marker="v",
        fillstyle="none",
        label="Lowest possible on the training text",
    )
    ticks = {n - 1: str(n - 1) for n in orders}
    right = max(ticks) + 1
    trained = sorted((models or {}).items(), key=lambda item: item[1])
    for (name, loss), shift in zip(trained, np.linspace(-0.3, 0.3, len(trained)), strict=True):
        ax.plot(
            [right + shift], [loss], linestyle="none", **look(name).points(), label=look(name).label
        )
    if models:
        ticks[right] = "models"
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_ylim(bottom=0)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    ax.set(xlabel="Context of the table (tokens)", ylabel="Loss (nats per token)")
    return ax


def describe_context_floors(
    held_out: Mapping[int, float],
    *,
    floors: Mapping[int, float],
    models: Mapping[str, float] | None = None,
) -> str:
    """Say where the n-grams stop improving, and who is below them."""
    best = min(held_out, key=lambda n: held_out[n])
    last = max(floors)
    words = (
        f"The best n-gram model has order {best} ({best - 1} tokens of context) and "
        f"{held_out[best]:.3f} nats per token on held-out text. On its own training text no table "
        f"of order {last} can be below {floors[last]:.3f}."
    )
    if not models:
        return words
    best_loss = held_out[best]
    below = [look(name).label for name, loss in models.items() if loss < best_loss]
    above = [look(name).label for name, loss in models.items() if loss >= best_loss]
    if below:
        words += f" Trained models below it: {', '.join(below)}."
    if above:
        names = ", ".join(above)
        words += f" At this budget not below it, so counting does at least as well: {names}."
    return words


def plot_loss_by_position(
    losses: Mapping[str, ArrayLike], *, oracle_nats: ArrayLike, ax: Axes | None = None
) -> Axes:
    """Draw loss against the tokens of context a window offers, and the true source's.

    Shapes:
        losses: by name, ``(context_len,)`` mean loss with 1, 2, ... tokens of context;
        oracle_nats: the same of the true source.
    """
    ax = new_axes(ax)
    steps = np.arange(1, len(np.asarray(oracle_nats)) + 1)
    means = {name: np.asarray(values, dtype=float) for name, values in losses.items()}
    for name in sorted(means, key=lambda n: -means[n].mean()):
        ax.plot(steps, means[name], markevery=0.15, **look(name).line())
    ax.plot(steps, oracle_nats, color="black", linestyle=":", label="True source")
    ax.set_ylim(0, min(2.6, 1.05 * max(values.max() for values in means.values())))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set(xlabel="Context seen so far (tokens)", ylabel="Test loss (nats per token)")
    return ax


def describe_loss_by_position(
    losses: Mapping[str, ArrayLike], *, oracle_nats: ArrayLike, late_from: int
) -> str:
    """Say how far each model is from the source early and late in the window.

    Args:
        late_from: First number of context tokens that counts as late.
    """
    oracle = np.asarray(oracle_nats, dtype=float)
    parts = []
    for name, values in losses.items():
        gap = np.asarray(values, dtype=float) - oracle
        early, late = gap[0], gap[late_from - 1 :].mean()
        parts.append(f"{look(name).label} {early:+.2f} and {late:+.2f}")
    return (
        f"Distance to the true source in nats per token, with 1 token of context and (mean) with "
        f"{late_from} to {len(oracle)}: {', '.join(parts)}. One seed each."
    )
