"""Explorers of notebook 02: a soft dictionary, hand-built heads, a leaking mask. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import UnknownNameError
from attnlab.plots.attention import (
    BLUE,
    GREY,
    describe_attention_weights,
    describe_output_changes,
    plot_attention_weights,
    plot_output_changes,
    plot_shares_of_keys,
)
from attnlab.seeding import numpy_generator
from attnlab.widgets.core import Explorer, choice, show_explorer, slider

Floats = NDArray[np.float64]

COMPASS = {"east": (0, 10.0), "north": (90, 20.0), "west": (180, 40.0)}  # degrees, value stored

SENTENCES = {
    "the fox": "Ada saw a fox and Ada fed the fox",
    "the hat": "Ben lost a hat and he found a hat",
    "the song": "Mia met Tom and then she sang again",
}
NAMES = ("Ada", "Ben", "Mia", "Tom")
ASKERS = ("he", "she", "saw", "fed", "lost", "found", "met", "sang")  # words that need a name
PRONOUNS = ("he", "she")
HEADS = ("same word", "word before", "who?")
STRENGTH = 4.0  # score of a match, before the temperature

MASKS = {"no mask": "none", "after the softmax": "after", "before the softmax": "before"}
N_LEAK_TOKENS = 6


def softmax(scores: ArrayLike, *, temperature: float = 1.0) -> Floats:
    """Return ``exp(score / temperature)`` as shares of the last axis; minus infinity gets 0."""
    scaled = np.asarray(scores, dtype=float) / temperature
    powers = np.exp(scaled - scaled.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


# A soft dictionary


def show_lookup_explorer(*, presets: Sequence[dict]) -> Explorer | None:
    """Show how a query's direction and the temperature share out three keys.

    Args:
        presets: Settings of ``angle`` (degrees) and ``temperature`` to print as pictures.
    """
    controls = {
        "angle": slider("Query (degrees)", value=30, minimum=-90, maximum=180, step=5,
                        tooltip="Direction of the query; south is -90, east 0, north 90"),
        "temperature": slider("Temperature", value=0.5, minimum=0.05, maximum=2.0, step=0.05,
                              tooltip="Low: one key takes all; high: all keys share"),
    }  # fmt: skip
    return show_explorer(draw_lookup, controls, presets=presets, describe=describe_lookup)


def look_up(*, angle: float, temperature: float) -> tuple[Floats, float]:
    """Return the weights of the three compass keys and the mixture of their values.

    Keys and query are arrows of length 1, so a score is the cosine of the angle between them.
    """
    key_angles, values = np.array(list(COMPASS.values())).T
    scores = np.cos(np.radians(angle - key_angles))
    weights = softmax(scores, temperature=temperature)
    return weights, float(weights @ values)


def draw_lookup(*, angle: float, temperature: float) -> Figure:
    """Draw keys and query as arrows, and the weights as bars."""
    weights, answer = look_up(angle=angle, temperature=temperature)
    fig, (arrows, bars) = plt.subplots(1, 2, figsize=(6.4, 2.6), layout="constrained")
    for name, (place, value) in COMPASS.items():
        _draw_arrow(arrows, place, f"{name}: {value:g}", GREY, 1.1)
    _draw_arrow(arrows, angle, "query", BLUE, 0.55)
    arrows.set(xlim=(-1.75, 1.75), ylim=(-0.8, 1.4), aspect="equal")
    arrows.axis("off")
    plot_shares_of_keys(weights, keys=list(COMPASS), ax=bars)
    bars.set(xlabel=f"Weight of the key; answer {answer:.1f}")
    return fig


def describe_lookup(*, angle: float, temperature: float) -> str:
    """Say which key weighs most and what comes back."""
    weights, answer = look_up(angle=angle, temperature=temperature)
    best = list(COMPASS)[int(weights.argmax())]
    return (
        f"Query at {angle:g} degrees, temperature {temperature:g}: {best} weighs most, "
        f"{weights.max():.2f}; the answer is {answer:.1f}. Stored are 10 (east), 20 (north) "
        "and 40 (west)."
    )


def _draw_arrow(ax, degrees: float, label: str, colour: str, length: float) -> None:
    x, y = length * np.cos(np.radians(degrees)), length * np.sin(np.radians(degrees))
    ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.6})
    up = -1 if y < 0 else 1  # a label stands beyond the point of its arrow
    ax.annotate(label, (x, y), (np.sign(round(x, 6)) * 3, up * 3), textcoords="offset points",
                color=colour, ha=_side(x), va="bottom" if up > 0 else "top")  # fmt: skip


def _side(x: float) -> str:
    return "left" if x > 0.1 else "right" if x < -0.1 else "center"


# Heads made by hand


def show_head_explorer(*, presets: Sequence[dict]) -> Explorer | None:
    """Show what three hand-built heads look at in three sentences.

    Args:
        presets: Settings of ``head``, ``sentence`` and ``temperature`` to print as pictures.
    """
    controls = {
        "head": choice("Head", options=list(HEADS), tooltip="What the queries ask for"),
        "sentence": choice("Sentence", options=list(SENTENCES), tooltip="The tokens"),
        "temperature": slider("Temperature", value=1.0, minimum=0.1, maximum=4.0, step=0.1,
                              tooltip="Divides the scores before the softmax"),
    }  # fmt: skip
    return show_explorer(draw_head, controls, presets=presets, describe=describe_head)


def queries_and_keys(words: Sequence[str], *, head: str) -> tuple[Floats, Floats]:
    """Return ``(time, features)`` queries and keys of a head made by hand, not trained.

    Word, place and kind are indicators (0 or 1), so a product counts what matches.

    Raises:
        UnknownNameError: No head has this name.
    """
    time = len(words)
    if head == "same word":
        same = (np.array(words)[:, None] == np.array(sorted(set(words)))).astype(float)
        return same, same
    if head == "word before":
        return np.eye(time, time, k=-1), np.eye(time)
    if head == "who?":
        asks = np.array([[word in ASKERS] for word in words], dtype=float)
        is_name = np.array([[word in NAMES] for word in words], dtype=float)
        return asks, is_name
    raise UnknownNameError("head", head, HEADS, next_step="Heads made by hand are in HEADS.")


def head_weights(*, head: str, sentence: str, temperature: float = 1.0) -> Floats:
    """Return the causal weights ``(time, time)`` of a hand-built head."""
    q, k = queries_and_keys(SENTENCES[sentence].split(), head=head)
    return causal_weights(STRENGTH * (q @ k.T), temperature=temperature)


def draw_head(*, head: str, sentence: str, temperature: float) -> Figure:
    """Draw the weights of one hand-built head on one sentence."""
    weights = head_weights(head=head, sentence=sentence, temperature=temperature)
    return plot_attention_weights(weights, words=SENTENCES[sentence].split()).figure


def describe_head(*, head: str, sentence: str, temperature: float) -> str:
    """Say who looks back hardest, and what a pronoun finds when the head asks who."""
    weights = head_weights(head=head, sentence=sentence, temperature=temperature)
    words = SENTENCES[sentence].split()
    told = f"Head '{head}', temperature {temperature:g}."
    for t, word in enumerate(words):
        if head == "who?" and word in PRONOUNS:
            found = [f"{words[s]!r} {weights[t, s]:.2f}" for s in range(t) if words[s] in NAMES]
            told += f" The row of {word!r} gives {' and '.join(found)}."
    return f"{told} {describe_attention_weights(weights, words=words)}"


# Masks that leak


def show_leak_explorer(*, presets: Sequence[dict]) -> Explorer | None:
    """Show which outputs move when one input is edited, for three places of the mask.

    Args:
        presets: Settings of ``mask`` and ``edited`` (position from 1) to print as pictures.
    """
    controls = {
        "mask": choice("Mask", options=MASKS, value="before", tooltip="Where the future is hidden"),
        "edited": slider("Edited token", value=4, minimum=1, maximum=N_LEAK_TOKENS,
                         tooltip="Position of the input that is replaced"),
    }  # fmt: skip
    return show_explorer(draw_leak, controls, presets=presets, describe=describe_leak)


def causal_weights(scores: ArrayLike, *, mask: str = "before", temperature: float = 1.0) -> Floats:
    """Return attention weights with the future hidden before the softmax, after it, or not."""
    values = np.asarray(scores, dtype=float)
    is_visible = np.tril(np.ones(values.shape, bool))
    if mask == "before":
        return softmax(np.where(is_visible, values, -np.inf), temperature=temperature)
    weights = softmax(values, temperature=temperature)
    return weights * is_visible if mask == "after" else weights


def output_changes(*, mask: str, edited: int) -> Floats:
    """Return ``(time,)``: how far each output moves when input ``edited`` is replaced."""
    random = numpy_generator(0, "leak")
    x = random.normal(size=(N_LEAK_TOKENS, 4))
    after = x.copy()
    after[edited - 1] = random.normal(size=(N_LEAK_TOKENS, 4))[edited - 1]
    before_and_after = [causal_weights(z @ z.T / 2, mask=mask) @ z for z in (x, after)]
    return np.linalg.norm(before_and_after[1] - before_and_after[0], axis=1)


def draw_leak(*, mask: str, edited: int) -> Figure:
    """Draw how far each output moved."""
    return plot_output_changes(output_changes(mask=mask, edited=edited), edited=edited).figure


def describe_leak(*, mask: str, edited: int) -> str:
    """Say whether the future leaks."""
    label = {name: label for label, name in MASKS.items()}[mask]
    place = label if mask == "none" else f"mask {label}"
    words = describe_output_changes(output_changes(mask=mask, edited=edited), edited=edited)
    return f"{place[0].upper()}{place[1:]}. {words}"
