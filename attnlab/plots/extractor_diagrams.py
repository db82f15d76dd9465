"""Diagrams of data flow: attention beside the Extractor, and any member of the family."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from attnlab.errors import AttnlabError
from attnlab.show.style import LOOKS

ATTENTION = LOOKS["attention"].colour
EXTRACTOR = LOOKS["she"].colour
GREY = LOOKS["table"].colour
EXTRACTIONS = {
    "matrix": "a matrix per lag",
    "value_diag": "one value map, a vector per lag",
    "diag": "a vector per lag",
    "newest": "newest token only, one matrix",
}
FINISHES = {
    "matrix+out": "matrix gate, output map",
    "matrix": "matrix gate",
    "diag": "vector gate",
    "out": "no gate, output map",
    "none": "nothing",
}
MEMBERS = {
    ("matrix", "matrix+out"): "SHE",
    ("value_diag", "matrix+out"): "HE",
    ("diag", "matrix"): "WE",
    ("diag", "diag"): "ME",
    ("newest", "matrix+out"): "the bilinear gate",
}
Point = tuple[float, float]


def part_weights(*, extract: str, finish: str, d_model: int, context_len: int) -> dict[str, int]:
    """Return how many weights each part of an Extractor has, without biases.

    Args:
        extract: A key of ``EXTRACTIONS``.
        finish: A key of ``FINISHES``: gate and output map.
    """
    for value, known in ((extract, EXTRACTIONS), (finish, FINISHES)):
        if value not in known:
            raise AttnlabError(f"{value!r} is not one of {', '.join(known)}.")
    d, length = d_model, context_len
    extraction = {
        "matrix": length * d**2,
        "value_diag": d**2 + length * d,
        "diag": length * d,
        "newest": d**2,
    }
    gate = {"matrix+out": d**2, "matrix": d**2, "diag": d}
    return {
        "extraction": extraction[extract],
        "adjustment": gate.get(finish, 0),
        "output map": d**2 if finish.endswith("out") else 0,
    }


def draw_sublayers() -> Figure:
    """Draw one attention head and SHE side by side, for the output at position t."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.4, 4.6), layout="constrained")
    for ax, title, colour in (
        (left, "Self-attention (one head)", ATTENTION),
        (right, "Extractor (SHE)", EXTRACTOR),
    ):
        _blank(ax)
        ax.text(5, 10.6, title, ha="center", va="center", color=colour, weight="bold")
    _draw_attention(left)
    _draw_extractor(right, extract="matrix", finish="matrix+out")
    return fig


def describe_sublayers() -> str:
    """Say what the two columns share and where they differ."""
    return (
        "Two ways from a prefix (bottom) to one vector (top). Self-attention compares the newest "
        "token with every token, turns the scores into weights by softmax, and averages values. "
        "SHE sends each token through the matrix of its distance, adds, multiplies entry by entry "
        "with a gate made from the newest token, and maps out. Only attention's mixing weights "
        "depend on what the tokens say."
    )


def draw_member(*, extract: str, finish: str, d_model: int, context_len: int) -> Figure:
    """Draw the data flow of one Extractor, and its weights beside those of attention."""
    parts = part_weights(extract=extract, finish=finish, d_model=d_model, context_len=context_len)
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(7.4, 3.9), layout="constrained", width_ratios=(1.25, 1)
    )
    _blank(left)
    left.text(
        5,
        10.6,
        MEMBERS.get((extract, finish), "no name"),
        ha="center",
        va="center",
        color=EXTRACTOR,
        weight="bold",
    )
    _draw_extractor(left, extract=extract, finish=finish)
    _draw_weights(right, parts, attention=4 * d_model**2)
    return fig


def describe_member(*, extract: str, finish: str, d_model: int, context_len: int) -> str:
    """Say which parts are on, how many weights they have, and the ratio to attention."""
    parts = part_weights(extract=extract, finish=finish, d_model=d_model, context_len=context_len)
    total, attention = sum(parts.values()), 4 * d_model**2
    name = MEMBERS.get((extract, finish), "A member without a name")
    listed = ", ".join(f"{part} {count:,}" for part, count in parts.items())
    sees = "sees the newest token alone" if extract == "newest" else f"sees {context_len} tokens"
    how = "a product of two functions of the input" if _has_gate(finish) else "linear in the input"
    return (
        f"{name[0].upper()}{name[1:]}: {EXTRACTIONS[extract]}; then {FINISHES[finish]}. It {sees} "
        f"and is {how}. Weights at width {d_model}: {listed}; together {total:,}, "
        f"{total / attention:.2f} times attention's {attention:,}."
    )


def _has_gate(finish: str) -> bool:
    return finish in ("matrix+out", "matrix", "diag")


def _draw_attention(ax: Axes) -> None:
    _box(ax, (3.2, 0.6), 5.2, r"$x_1,\ x_2,\ \dots,\ x_{t-1}$", GREY)
    _box(ax, (8.3, 0.6), 2.0, r"$x_t$", GREY)
    for x, label in ((1.6, r"$v_s = x_s W_v$"), (5.1, r"$k_s = x_s W_k$")):
        _box(ax, (x, 2.6), 3.1, label, ATTENTION)
        _arrow(ax, (3.2, 1.1), (x, 2.1))
        _arrow(ax, (7.6, 1.1), (x + 0.6, 2.1))
    _box(ax, (8.5, 2.6), 2.7, r"$q_t = x_t W_q$", ATTENTION)
    _arrow(ax, (8.5, 1.1), (8.5, 2.1))
    _box(ax, (6.8, 4.5), 4.9, r"scores $q_t \cdot k_s / \sqrt{d_h}$", ATTENTION)
    _arrow(ax, (5.1, 3.1), (5.9, 4.0))
    _arrow(ax, (8.5, 3.1), (7.9, 4.0))
    _box(ax, (6.8, 6.2), 4.9, "softmax over the past", ATTENTION)
    _arrow(ax, (6.8, 5.0), (6.8, 5.7))
    _box(ax, (5.0, 7.9), 4.4, r"$\sum_s A_{ts}\, v_s$", ATTENTION)
    _arrow(ax, (6.8, 6.7), (5.9, 7.4))
    _arrow(ax, (1.6, 3.1), (3.8, 7.4))
    _box(ax, (5.0, 9.5), 3.4, r"$y_t = (\cdot)\, W_o$", ATTENTION)
    _arrow(ax, (5.0, 8.4), (5.0, 9.0))


def _draw_extractor(ax: Axes, *, extract: str, finish: str) -> None:
    has_past, has_gate = extract != "newest", _has_gate(finish)
    has_out = finish.endswith("out")
    labels = {
        "matrix": r"$x_{t-j} W_j$, each lag $j$",
        "value_diag": r"$(x_{t-j} W_v) \odot w_j$, each lag $j$",
        "diag": r"$x_{t-j} \odot w_j$, each lag $j$",
        "newest": r"$x_t W_0$",
    }
    gates = {"diag": r"$g_t = x_t \odot w_\mathrm{adj}$"}
    past = r"$x_1,\ x_2,\ \dots,\ x_{t-1}$" if has_past else "not seen"
    gate = gates.get(finish, r"$g_t = x_t W_\mathrm{adj}$")
    _box(ax, (3.2, 0.6), 5.2, past, GREY, is_on=has_past)
    _box(ax, (8.3, 0.6), 2.0, r"$x_t$", GREY)
    _box(ax, (3.0, 2.9), 5.4, labels[extract], EXTRACTOR)
    _arrow(ax, (3.0, 1.1), (3.0, 2.4), is_on=has_past)
    _arrow(ax, (7.6, 1.1), (4.6, 2.4))
    _box(ax, (3.0, 5.0), 4.6, r"add all lags: $e_t$" if has_past else r"$e_t$", EXTRACTOR)
    _arrow(ax, (3.0, 3.4), (3.0, 4.5))
    _box(ax, (8.0, 5.0), 3.6, gate if has_gate else "no gate", EXTRACTOR, is_on=has_gate)
    _arrow(ax, (8.5, 1.1), (8.3, 4.5), is_on=has_gate)
    product = r"$a_t = e_t \odot g_t$" if has_gate else r"$a_t = e_t$"
    _box(ax, (5.0, 7.2), 4.2, product, EXTRACTOR, is_on=has_gate)
    _arrow(ax, (3.4, 5.5), (4.4, 6.7))
    _arrow(ax, (8.0, 5.5), (6.0, 6.7), is_on=has_gate)
    last = r"$y_t = a_t W_\mathrm{out}$" if has_out else r"$y_t = a_t$"
    _box(ax, (5.0, 9.4), 4.2, last, EXTRACTOR, is_on=has_out)
    _arrow(ax, (5.0, 7.7), (5.0, 8.9))


def _draw_weights(ax: Axes, parts: Mapping[str, int], *, attention: int) -> None:
    names = [*parts, "together", "attention"]
    counts = [*parts.values(), sum(parts.values()), attention]
    colours = [EXTRACTOR] * (len(parts) + 1) + [ATTENTION]
    ax.barh(names, counts, color=colours, height=0.6)
    top = max(counts)
    for row, count in enumerate(counts):
        inside = count > 0.6 * top
        ax.text(
            count - 0.02 * top if inside else count + 0.02 * top,
            row,
            f"{count:,}",
            va="center",
            ha="right" if inside else "left",
            color="white" if inside else "black",
        )
    ax.invert_yaxis()
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="Number of weights")


def _blank(ax: Axes) -> None:
    ax.set(xlim=(-0.2, 10.2), ylim=(0, 11))
    ax.axis("off")


def _box(
    ax: Axes, centre: Point, width: float, label: str, colour: str, *, is_on: bool = True
) -> None:
    """Draw a rounded box; one that is off is dashed and pale."""
    height = 1.0
    line = {"edgecolor": colour if is_on else "#BBBBBB", "linestyle": "-" if is_on else "--"}
    corner = centre[0] - width / 2, centre[1] - height / 2
    shape = "round,pad=0,rounding_size=0.2"
    if is_on:
        fill = {"facecolor": colour, "alpha": 0.16, "linewidth": 0}
        ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle=shape, **fill))
    ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle=shape, facecolor="none", **line))
    ax.text(*centre, label, ha="center", va="center", color="black" if is_on else "#888888")


def _arrow(ax: Axes, start: Point, end: Point, *, is_on: bool = True) -> None:
    look = {"arrowstyle": "-|>", "color": "black" if is_on else "#CCCCCC", "lw": 1.0}
    if not is_on:
        look["linestyle"] = "dashed"
    ax.annotate("", xy=end, xytext=start, arrowprops={**look, "shrinkA": 0, "shrinkB": 0})
