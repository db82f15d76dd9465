"""Pictures of chapter 02: who looks where, what leaks, what scale and length do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError
from attnlab.seeding import numpy_generator
from attnlab.show import LOOKS, final_losses, look, loss_curves, matrix, new_axes, picture
from attnlab.show.kinds import LONGEST_TICK
from attnlab.show.words import quote, read_words
from attnlab.sources import entropy_nats

Floats = NDArray[np.float64]

BLUE = LOOKS["attention"].colour
GREY = LOOKS["table"].colour
NEGLIGIBLE = 1e-9  # a change below this is rounding
SCALES = {  # colour, dash, marker, and how the page writes it
    "1": (GREY, "solid", "o", "$1$"),
    "1/sqrt(d_h)": (BLUE, "dashed", "s", r"$1/\sqrt{d_h}$"),
    "1/d_h": (GREY, "dashdot", "^", "$1/d_h$"),
}
COMPASS = {"east": (0, 10.0), "north": (90, 20.0), "west": (180, 40.0)}  # degrees, value stored
SENTENCES = {
    "the fox": "Ada saw a fox and Ada fed the fox",
    "the hat": "Ben lost a hat and he found a hat",
    "the song": "Mia met Tom and then she sang again",
}
MOST_WORDS = 14  # of a reader's own sentence
NAMES = ("Ada", "Ben", "Mia", "Tom")
ASKERS = ("he", "she", "saw", "fed", "lost", "found", "met", "sang")  # words that need a name
PRONOUNS = ("he", "she")
STRENGTH = 4.0  # score of a match, before the temperature
MASKS = {"no mask": "none", "after the softmax": "after", "before the softmax": "before"}
N_LEAK_TOKENS = 6


@picture
def attention_weights(weights: ArrayLike, *, words: Sequence[str] | None = None):
    """One head's weights as a heat map: row t looks, column s is looked at.

    Zeros to the right of the diagonal (the hidden future) stay white.

    Args:
        weights: ``(time, time)``, rows sum to one.
        words: The tokens; numbered ``x1, x2, ...`` without them.
    """
    values = np.asarray(weights, dtype=float)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
        raise AttnlabError(
            f"Attention weights of one head are (time, time); got shape {values.shape}. "
            "Pick a sequence and a head first, as in weights[0, 0]."
        )
    names = [f"x{place}" for place in range(1, len(values) + 1)] if words is None else list(words)
    hidden = np.triu(np.ones(values.shape, bool), 1) & (values == 0)
    longest = min(max(map(len, names)), LONGEST_TICK)
    side = 3.2 + (0.16 if len(values) > 5 else 0.5) * (max(len(values), 2) - 5)  # inches
    side += 0.07 * max(longest - 6, 0)
    heat = matrix(np.where(hidden, np.nan, values), label="Weight A[t, s]", x_label="Looked at: s",
                  y_label="Looking: t", x_ticks=names, y_ticks=names, has_numbers=True, limit=1.0,
                  ax=new_axes(size=(side + 0.6, side)))  # fmt: skip
    earlier = np.tril(values, -1)
    t, s = np.unravel_index(int(earlier.argmax()), earlier.shape)
    strongest = (
        f"The strongest look back: {quote(names[t])} (position {t + 1}) gives {quote(names[s])} "
        f"(position {s + 1}) the weight {earlier[t, s]:.2f}."
        if earlier[t, s] > 0
        else "Nobody looks back."
    )
    return heat.fig, (
        f"Attention weights of {len(values)} tokens, one row for each looking token. {strongest} "
        f"Mean entropy of a row: {entropy_nats(values).mean():.2f} nats."
    )


@picture
def entropy_by_width(table: pd.DataFrame, *, n_keys: int):
    """The mean entropy of attention weights against head width, a line for each scale.

    Args:
        table: Rows with ``scale`` (one of ``SCALES``), ``d_head`` and ``entropy_nats``.
        n_keys: Keys each query chose from; their logarithm is the largest entropy.
    """
    ax, widest, ends = new_axes(), table["d_head"].max(), []
    for scale, rows in table.groupby("scale", sort=False):
        colour, dash, marker, label = SCALES[str(scale)]
        ax.plot(rows["d_head"], rows["entropy_nats"], color=colour, linestyle=dash, marker=marker,
                label=f"Scale {label}")  # fmt: skip
        end = rows.set_index("d_head")["entropy_nats"][widest]
        ends.append(f"{end:.2f} nats with scale {scale}")
    ax.axhline(np.log(n_keys), color="black", linestyle="dotted",
               label=f"Equal weights: log {n_keys}")  # fmt: skip
    _double_along(ax)
    ax.legend(loc="lower left", reverse=True)  # as the lines end
    ax.set(xlabel="Width of a head, $d_h$", ylabel="Entropy of the weights (nats)", ylim=(0, None))
    return ax, (
        f"Entropy of the weights of random queries over {n_keys} keys. At head width {widest}: "
        f"{', '.join(ends)}; equal weights would have {np.log(n_keys):.2f}."
    )


@picture
def cost_growth(table: pd.DataFrame, *, crossover: float):
    """Counted multiplications against sequence length, a line for each part, in powers.

    Args:
        table: Rows with ``part``, ``time`` and ``n_multiplications``.
        crossover: Length at which the two parts are equal.
    """
    ax, told = new_axes(), []
    looks = (("solid", "o"), ("dashed", "s"))
    parts = table.sort_values("time").groupby("part", sort=False)
    for (part, rows), (dash, marker) in zip(parts, looks, strict=False):
        ax.plot(rows["time"], rows["n_multiplications"], color=BLUE, linestyle=dash,
                marker=marker, fillstyle="none", label=part)  # fmt: skip
        growth, times = (rows[c].iloc[-1] / rows[c].iloc[-2] for c in ("n_multiplications", "time"))
        told.append(f"{part} {growth:.2f} times for {times:.0f} times the length")
    ax.axvline(crossover, color="black", linestyle="dotted")
    ax.annotate(f"equal at T = {crossover:.0f}", (crossover, 0), (5, 6), ha="left",
                xycoords=("data", "axes fraction"), textcoords="offset points")  # fmt: skip
    _double_along(ax)
    ax.legend(loc="upper left", reverse=True)  # as the lines end
    ax.set_yscale("log")
    ax.set(xlabel="Sequence length T (tokens)", ylabel="Multiplications")
    return ax, (
        f"Multiplications against sequence length. At the right edge: {'; '.join(told)}. "
        f"The parts are equal at T = {crossover:.0f}."
    )


def _double_along(ax: Axes) -> None:
    """Let each step along the axis double, and write plain numbers on it."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


@picture
def recall(curves: pd.DataFrame, *, bag_floor_nats: float):
    """The loss of models that look things up, between the bag floor and knowing.

    Args:
        curves: As for ``loss_curves``; the loss is in nats per question.
        bag_floor_nats: Best loss of a reader who knows what is listed, not with whom.
    """
    ax = loss_curves(curves, floors={"Bag floor": bag_floor_nats}).ax
    ax.axhline(0.0, color="black", linestyle="dotted", label="Knowing the answer")
    ax.legend()
    ax.set(ylabel="Held-out loss (nats per question)", ylim=(-0.1, 2.3))
    ends = final_losses(curves)
    told = ", ".join(f"{look(name).label} {loss:.3f}" for name, loss in ends.items())
    below = [look(name).label for name, loss in ends.items() if loss < bag_floor_nats - 0.05]
    return ax, (
        f"Held-out loss at the end, in nats per question: {told}; bag floor "
        f"{bag_floor_nats:.3f}. Well below the floor: {', '.join(below) or 'nobody'}. "
        f"Bands: range over {curves['seed'].nunique()} seeds."
    )


# A soft dictionary

LOOKUP_DIALS = {
    "angle": ("Query (degrees)", 30, -90, 180, 5,
              "Direction of the query; south is -90, east 0, north 90"),
    "temperature": ("Temperature", 0.5, 0.05, 2.0, 0.05,
                    "Low: one key takes all; high: all keys share"),
}  # fmt: skip


@picture
def lookup(*, angle: float, temperature: float):
    """Three keys and a query as arrows, the weights as bars, and what comes back."""
    weights, answer = look_up(angle=angle, temperature=temperature)
    arrows, bars = new_axes(size=(6.4, 2.6), columns=2)
    for name, (place, value) in COMPASS.items():
        _draw_arrow(arrows, place, f"{name}: {value:g}", GREY, 1.1)
    _draw_arrow(arrows, angle, "query", BLUE, 0.55)
    arrows.set(xlim=(-1.75, 1.75), ylim=(-0.8, 1.4), aspect="equal")
    arrows.axis("off")
    shares = bars.barh(list(COMPASS), weights, color=BLUE)
    bars.bar_label(shares, [f"{weight:.2f}" for weight in weights], padding=3)
    bars.invert_yaxis()
    bars.set(xlabel=f"Weight of the key; answer {answer:.1f}", xlim=(0, 1.18))
    best = list(COMPASS)[int(weights.argmax())]
    return arrows, (
        f"Query at {angle:g} degrees, temperature {temperature:g}: {best} weighs most, "
        f"{weights.max():.2f}; the answer is {answer:.1f}. Stored are 10 (east), 20 (north) "
        "and 40 (west)."
    )


def look_up(*, angle: float, temperature: float) -> tuple[Floats, float]:
    """Return the weights of the three compass keys and the mixture of their values.

    Keys and query are arrows of length 1, so a score is the cosine of the angle between them.
    """
    key_angles, values = np.array(list(COMPASS.values())).T
    weights = softmax(np.cos(np.radians(angle - key_angles)) / temperature)
    return weights, float(weights @ values)


def softmax(scores: Floats) -> Floats:
    """Return ``exp(score)`` as shares of the last axis; minus infinity gets 0."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _draw_arrow(ax: Axes, degrees: float, label: str, colour: str, length: float) -> None:
    x, y = length * np.cos(np.radians(degrees)), length * np.sin(np.radians(degrees))
    side = "left" if x > 0.1 else "right" if x < -0.1 else "center"
    up = -1 if y < 0 else 1  # a label stands beyond the point of its arrow
    ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.6})
    ax.annotate(label, (x, y), (np.sign(round(x, 6)) * 3, up * 3), textcoords="offset points",
                color=colour, ha=side, va="bottom" if up > 0 else "top")  # fmt: skip


# Heads made by hand: word, place and kind are indicators (0 or 1), so a product counts matches


def _same_word(words: Sequence[str]) -> tuple[Floats, Floats]:
    same = np.equal.outer(words, sorted(set(words))).astype(float)
    return same, same


def _word_before(words: Sequence[str]) -> tuple[Floats, Floats]:
    return np.eye(len(words), k=-1), np.eye(len(words))


def _who(words: Sequence[str]) -> tuple[Floats, Floats]:
    asks, is_name = ([[float(word in some)] for word in words] for some in (ASKERS, NAMES))
    return np.array(asks), np.array(is_name)


HEADS = {"same word": _same_word, "word before": _word_before, "who?": _who}  # queries and keys
HEAD_DIALS = {
    "head": ("Head", list(HEADS), "What the queries ask for"),
    "sentence": (
        "Sentence",
        SENTENCES["the fox"],
        f"Any words; who? knows the names {', '.join(NAMES)}, and {', '.join(ASKERS)}",
    ),
    "temperature": ("Temperature", 1.0, 0.1, 4.0, 0.1, "Divides the scores before the softmax"),
}


@picture
def head(*, head: str, sentence: str, temperature: float):
    """Who looks back in a sentence, and what a pronoun finds when the head asks who."""
    words, unread = read_words(sentence, most=MOST_WORDS, usual=SENTENCES["the fox"])
    weights = head_weights(head=head, words=words, temperature=temperature)
    one = attention_weights(weights, words=words)
    told = f"Head '{head}', temperature {temperature:g}."
    for t, word in enumerate(words):
        if head == "who?" and word in PRONOUNS:
            found = [
                f"{quote(words[s])} {weights[t, s]:.2f}" for s in range(t) if words[s] in NAMES
            ]
            said = " and ".join(found) or "no name a weight, for none stands before it"
            told += f" The row of {quote(word)} gives {said}."
    return one.fig, " ".join(filter(None, [unread, told, one.words]))


def head_weights(*, head: str, words: Sequence[str], temperature: float = 1.0) -> Floats:
    """Return the causal weights ``(time, time)`` of a hand-built head."""
    q, k = HEADS[head](words)
    return causal_weights(STRENGTH * (q @ k.T) / temperature)


# Masks that leak


@picture
def leak(*, mask: str, edited: int):
    """How far each output moves when one input is edited, for three places of the mask.

    Outputs before the edit are hatched: a causal mixer leaves them at zero.

    Args:
        mask: ``before`` the softmax, ``after`` it, or ``none``.
        edited: Position of the edited input, counted from 1.
    """
    moved, ax = output_changes(mask=mask, edited=edited), new_axes(size=(4.8, 2.8))
    place = np.arange(1, len(moved) + 1)
    past = place < edited
    ax.bar(place[~past], moved[~past], color=BLUE, label="From the edit on: allowed")
    if past.any():
        ax.bar(place[past], moved[past], color="white", edgecolor="black", hatch="////",
               label="Before the edit: a leak")  # fmt: skip
    ax.axvline(edited - 0.5, color="black", linestyle="dotted")
    ax.set_xticks(place)
    ax.legend(loc="upper left", bbox_to_anchor=(0, 1.24), ncols=2, fontsize=8, handlelength=1.5)
    ax.set(xlabel=f"Position of the output (input {edited} was edited)",
           ylabel="Change of the output", ylim=(0, 1.1 * max(moved.max(), 0.1)))  # fmt: skip
    label = {name: label for label, name in MASKS.items()}[mask]
    lead = label if mask == "none" else f"mask {label}"
    n_moved = int((moved[past] >= NEGLIGIBLE).sum())
    if not past.any():
        told = "no output comes before it."
    elif not n_moved:
        told = "no earlier output moved. Nothing leaks."
    else:
        told = (
            f"{n_moved} of {past.sum()} earlier outputs moved, the most by "
            f"{moved[past].max():.3f}. The future leaks."
        )
    return ax, f"{lead.capitalize()}. Input {edited} was edited; {told}"


def output_changes(*, mask: str, edited: int) -> Floats:
    """Return ``(time,)``: how far each output moves when input ``edited`` is replaced."""
    random = numpy_generator(0, "leak")
    x = random.normal(size=(N_LEAK_TOKENS, 4))
    after = x.copy()
    after[edited - 1] = random.normal(size=(N_LEAK_TOKENS, 4))[edited - 1]
    before_and_after = [causal_weights(z @ z.T / 2, mask=mask) @ z for z in (x, after)]
    return np.linalg.norm(before_and_after[1] - before_and_after[0], axis=1)


def causal_weights(scores: Floats, *, mask: str = "before") -> Floats:
    """Return attention weights with the future hidden before the softmax, after it, or not."""
    is_visible = np.tril(np.ones(scores.shape, bool))
    if mask == "before":
        return softmax(np.where(is_visible, scores, -np.inf))
    return softmax(scores) * is_visible if mask == "after" else softmax(scores)
