"""Pictures of the Extractor: its matrix, its size, its data flow, its ablation, its kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from attnlab.seeding import numpy_generator
from attnlab.show import LOOKS, lag_profile, look, matrix, new_axes, picture
from attnlab.show.style import AMOUNT_COLOURS, DIFFERENCE_COLOURS, LINE_SIZE

ATTENTION, EXTRACTOR, GREY = (LOOKS[name].colour for name in ("attention", "she", "table"))


@picture
def block_toeplitz(lag_weight: ArrayLike, *, n_tokens: int):
    """The one matrix of the whole extraction, eq. (3.4), with a line between tokens.

    Args:
        lag_weight: ``(context_len, d, d)``, lag 0 first.
        n_tokens: Tokens in the sequence.
    """
    n_lags, width = np.shape(lag_weight)[:2]
    which = index_map(n_tokens, index="lag")
    ax = matrix(block_matrix(lag_weight, which), label="Weight", x_label="Output token t",
                y_label="Input token s", is_difference=True).ax  # fmt: skip
    for draw in (ax.axvline, ax.axhline):
        for edge in range(1, n_tokens):
            draw(edge * width, color=GREY, lw=0.6)
    for set_ticks in (ax.set_xticks, ax.set_yticks):
        set_ticks((np.arange(n_tokens) + 0.5) * width, range(1, n_tokens + 1))
    n_filled = int(((which >= 0) & (which < n_lags)).sum())
    is_cut = n_lags < n_tokens
    far = f"so are those of inputs more than {n_lags - 1} tokens back; " if is_cut else ""
    size = n_tokens * width
    return ax, (
        f"The extraction of {n_tokens} tokens of width {width} as one {size} by {size} matrix. "
        "The same block stands along every diagonal (block-Toeplitz): the distance decides. "
        f"Blocks below the diagonal are zero (no output reads the future); {far}"
        f"{n_filled} blocks are filled from {min(n_lags, n_tokens)} different matrices."
    )


def block_matrix(weight: ArrayLike, which: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the matrix M with ``e.ravel() = x.ravel() @ M``.

    Block (s, t) is ``weight[which[s, t]]``, and zero where there is no such weight.

    Shapes:
        weight: ``(n, d, d)``; which: ``(T, T)``, see ``index_map``; returns ``(T d, T d)``.
    Source:
        arXiv:2308.07661, extraction; derived in notebook 03, eq. (3.4).
    """
    weight = np.asarray(weight, dtype=float)
    is_there = (which >= 0) & (which < len(weight))
    blocks = is_there[..., None, None] * weight[np.where(is_there, which, 0)]
    return blocks.transpose(0, 2, 1, 3).reshape(len(which) * weight.shape[1], -1)


def index_map(n_tokens: int, *, index: str) -> NDArray[np.int64]:
    """Return which weight input s (row) meets on its way to output t (column); -1 for none."""
    s, t = np.mgrid[:n_tokens, :n_tokens]
    return np.where(s <= t, t - s if index == "lag" else s, -1)


@picture
def index_maps(*, n_tokens: int):
    """Which W each pair of tokens uses: lag index left, absolute index right."""
    axes = new_axes(size=(6.4, 3.2), columns=2)
    names = range(1, n_tokens + 1)
    for ax, index, counted in zip(axes, ("lag", "absolute"), ("t - s", "s"), strict=True):
        which = index_map(n_tokens, index=index)
        numbers = which + (index == "absolute")
        sns.heatmap(which, mask=which < 0, annot=numbers, fmt="d", cmap=AMOUNT_COLOURS, square=True,
                    cbar=False, xticklabels=names, yticklabels=names, ax=ax)  # fmt: skip
        ax.tick_params(axis="y", rotation=0)
        ax.set(xlabel=f"Output t   (number of W, {index}: {counted})", ylabel="Input s")
    return axes[0], (
        f"Which weight input s meets on its way to output t, for {n_tokens} tokens. Left, the lag "
        "index: one number along each diagonal, so a phrase is read alike wherever it stands. "
        "Right, the absolute index: one number along each row, so it is not. Both use "
        f"{n_tokens} matrices; white is the future."
    )


# The size of e_t ----------------------------------------------------------------------------------

LONGEST, WIDTH, N_SEQUENCES = 48, 16, 32  # tokens of a prefix, channels, sequences
SCALES = {"none": 0.0, "1/√t": -0.5, "1/t": -1.0}  # exponent of t in the factor
GROWTH_DIALS = {
    "weights": ("Matrices", {"one per lag": "own", "one for all lags": "same"},
                "Whether each lag has a random matrix of its own"),
    "shared": ("Shared part of the inputs", 0.0, 0.0, 1.0, 0.1,
               "0: the tokens are independent; 1: all tokens are equal"),
    "scale": ("Factor", list(SCALES), "What multiplies the sum"),
}  # fmt: skip


@picture
def growth(*, weights: str, shared: float, scale: str, has_answer: bool = False):
    """The size of ``e_t`` by the length of the prefix, as measured and as it must come out.

    Args:
        weights: ``own``, a matrix per lag, or ``same``, one for all.
        shared: rho, the part of each input's variance that all tokens share, 0 to 1.
        scale: A key of ``SCALES``.
        has_answer: Whether the words name the factor that would keep the size.
    """
    t = np.arange(1, LONGEST + 1)
    factor = t ** SCALES[scale]
    size = factor * measured_growth(weights=weights, shared=shared)
    ax = new_axes()
    ax.plot(t, size, markevery=LONGEST // 8, **{**look("she").line(), "label": "measured"})
    expected = factor * expected_growth(t, weights=weights, shared=shared)
    ax.plot(t, expected, color="black", linestyle="dotted", label="closed form")
    ax.set_ylim(bottom=0)
    ax.set(xlabel="Length of the prefix t (tokens)", ylabel="Size of e (RMS of its entries)")
    ax.legend()
    own = "A matrix per lag" if weights == "own" else "One matrix for all lags"
    needed = needed_factor(weights=weights, shared=shared)
    answer = f" In the long run {needed} would keep the size." if has_answer else ""
    return ax, (
        f"{own}, shared part {shared:.1f}, factor {scale}. Size of the extraction, measured: "
        f"{size[0]:.2f} at t = 1, {size[-1]:.2f} at t = {LONGEST}.{answer}"
    )


def expected_growth(t: ArrayLike, *, weights: str, shared: float) -> NDArray[np.float64]:
    r"""Return the expected root mean square of ``e_t``, inputs and terms of size 1.

    .. math:: \sqrt{t} \text{ with a matrix per lag},\qquad
              \sqrt{(1 - \rho)\, t + \rho\, t^2} \text{ with one matrix for all}
    """
    t = np.asarray(t, dtype=float)
    return np.sqrt(t if weights == "own" else (1 - shared) * t + shared * t**2)


@lru_cache(maxsize=64)
def measured_growth(*, weights: str, shared: float) -> NDArray[np.float64]:
    """Return the root mean square of ``e_t`` over random inputs and weights: ``(LONGEST,)``."""
    random = numpy_generator(0, "growth")
    inputs = random.normal(size=(N_SEQUENCES, 1 + LONGEST, WIDTH))  # the shared part first
    lag_weight = random.normal(size=(LONGEST, WIDTH, WIDTH)) * WIDTH**-0.5
    x = np.sqrt(1 - shared) * inputs[:, 1:] + np.sqrt(shared) * inputs[:, :1]  # (N, T, D)
    if weights == "same":
        return np.sqrt((np.cumsum(x @ lag_weight[0], axis=1) ** 2).mean(axis=(0, 2)))
    flat, sizes = lag_weight.reshape(-1, WIDTH), []  # (T D, D): lag 0 first
    for t in range(1, LONGEST + 1):
        newest_first = x[:, :t][:, ::-1].reshape(N_SEQUENCES, -1)
        sizes.append(np.sqrt(((newest_first @ flat[: t * WIDTH]) ** 2).mean()))
    return np.array(sizes)


def needed_factor(*, weights: str, shared: float) -> str:
    """Return the factor under which the size of ``e_t`` settles, as a key of ``SCALES``."""
    half, whole = expected_growth([LONGEST / 2, LONGEST], weights=weights, shared=shared)
    return "1/t" if np.log2(whole / half) > 0.75 else "1/√t"  # the exponent of t


# Data flow ----------------------------------------------------------------------------------------

EXTRACTIONS = {  # what it is, its formula, its weights for width d and context l
    "matrix": ("a matrix per lag", r"$x_{t-j} W_j$, each lag $j$", lambda d, ell: ell * d**2),
    "value_diag": ("one value map, a vector per lag",
                   r"$(x_{t-j} W_v) \odot w_j$, each lag $j$", lambda d, ell: d**2 + ell * d),
    "diag": ("a vector per lag", r"$x_{t-j} \odot w_j$, each lag $j$", lambda d, ell: ell * d),
    "newest": ("newest token only, one matrix", r"$x_t W_0$", lambda d, ell: d**2),
}  # fmt: skip
FINISHES = {  # what it is, the weights of its gate and of its output map for width d
    "matrix+out": ("matrix gate, output map", lambda d: d**2, lambda d: d**2),
    "matrix": ("matrix gate", lambda d: d**2, None),
    "diag": ("vector gate", lambda d: d, None),
    "out": ("no gate, output map", None, lambda d: d**2),
    "none": ("nothing", None, None),
}
MEMBERS = {
    ("matrix", "matrix+out"): "SHE", ("value_diag", "matrix+out"): "HE", ("diag", "matrix"): "WE",
    ("diag", "diag"): "ME", ("newest", "matrix+out"): "the bilinear gate",
}  # fmt: skip
MEMBER_DIALS = {
    "extract": ("Extraction", {words: key for key, (words, *_) in EXTRACTIONS.items()},
                "How the past is summed"),
    "finish": ("Then", {words: key for key, (words, *_) in FINISHES.items()},
               "Adjustment and output map"),
    "context_len": ("Context ℓ (tokens)", 16, 1, 128, 1, "Longest prefix"),
    "d_model": ("Width d (channels)", 64, 8, 256, 8, "Of a token"),
}  # fmt: skip
ATTENTION_FLOW = (  # boxes: x, y, width, label, colour; arrows: from x, y to x, y
    ((3.2, 0.6, 5.2, r"$x_1,\ x_2,\ \dots,\ x_{t-1}$", GREY), (8.3, 0.6, 2.0, "$x_t$", GREY),
     (1.6, 2.6, 3.1, "$v_s = x_s W_v$", ATTENTION), (5.1, 2.6, 3.1, "$k_s = x_s W_k$", ATTENTION),
     (8.5, 2.6, 2.7, "$q_t = x_t W_q$", ATTENTION),
     (6.8, 4.5, 4.9, r"scores $q_t \cdot k_s / \sqrt{d_h}$", ATTENTION),
     (6.8, 6.2, 4.9, "softmax over the past", ATTENTION),
     (5.0, 7.9, 4.4, r"$\sum_s A_{ts}\, v_s$", ATTENTION),
     (5.0, 9.5, 3.4, r"$y_t = (\cdot)\, W_o$", ATTENTION)),
    ((3.2, 1.1, 1.6, 2.1), (7.6, 1.1, 2.2, 2.1), (3.2, 1.1, 5.1, 2.1), (7.6, 1.1, 5.7, 2.1),
     (8.5, 1.1, 8.5, 2.1), (5.1, 3.1, 5.9, 4.0), (8.5, 3.1, 7.9, 4.0), (6.8, 5.0, 6.8, 5.7),
     (6.8, 6.7, 5.9, 7.4), (1.6, 3.1, 3.8, 7.4), (5.0, 8.4, 5.0, 9.0)),
)  # fmt: skip


@picture
def sublayers():
    """One attention head and SHE side by side, for the output at position t."""
    left, right = new_axes(size=(7.4, 4.6), columns=2)
    _draw_flow(left, ATTENTION_FLOW, title="Self-attention (one head)", colour=ATTENTION)
    _draw_flow(right, _extractor_flow("matrix", "matrix+out"), title="Extractor (SHE)")
    return left, (
        "Two ways from a prefix (bottom) to one vector (top). Self-attention compares the newest "
        "token with every token, turns the scores into weights by softmax, and averages values. "
        "SHE sends each token through the matrix of its distance, adds, multiplies entry by entry "
        "with a gate made from the newest token, and maps out. Only attention's mixing weights "
        "depend on what the tokens say."
    )


@picture
def member(*, extract: str, finish: str, d_model: int, context_len: int):
    """The data flow of one Extractor, and its weights beside those of attention.

    Args:
        extract: A key of ``EXTRACTIONS``.
        finish: A key of ``FINISHES``: gate and output map.
    """
    (kind, _, extraction), (rest, gate, out) = EXTRACTIONS[extract], FINISHES[finish]
    parts = {
        "extraction": extraction(d_model, context_len),
        "adjustment": gate(d_model) if gate else 0,
        "output map": out(d_model) if out else 0,
    }
    total, attention, name = sum(parts.values()), 4 * d_model**2, MEMBERS.get((extract, finish))
    left, right = new_axes(size=(7.4, 3.9), columns=2, width_ratios=(1.25, 1))
    _draw_flow(left, _extractor_flow(extract, finish), title=name or "no name")
    names, counts = [*parts, "together", "attention"], [*parts.values(), total, attention]
    bars = right.barh(names, counts, color=[EXTRACTOR] * 4 + [ATTENTION], height=0.6)
    right.bar_label(bars, [f"{count:,}" for count in counts], padding=4)
    right.set(xlabel="Number of weights", xticks=[], xlim=(0, 1.45 * max(counts)))
    right.invert_yaxis()
    right.spines["bottom"].set_visible(False)
    said = name or "A member without a name"
    listed = ", ".join(f"{part} {count:,}" for part, count in parts.items())
    sees = "sees the newest token alone" if extract == "newest" else f"sees {context_len} tokens"
    how = "a product of two functions of the input" if gate else "linear in the input"
    return left, (
        f"{said[0].upper()}{said[1:]}: {kind}; then {rest}. It {sees} and is {how}. Weights at "
        f"width {d_model}: {listed}; together {total:,}, "
        f"{total / attention:.2f} times attention's {attention:,}."
    )


def _extractor_flow(extract: str, finish: str) -> tuple[Any, Any]:
    """Return boxes and arrows as in ``ATTENTION_FLOW``, each with whether it is on at its end."""
    past, gate, out = extract != "newest", FINISHES[finish][1] is not None, "out" in finish
    map_of = r"\odot w_\mathrm{adj}" if finish == "diag" else r"W_\mathrm{adj}"
    boxes = (
        (3.2, 0.6, 5.2, r"$x_1,\ x_2,\ \dots,\ x_{t-1}$" if past else "not seen", GREY, past),
        (8.3, 0.6, 2.0, "$x_t$", GREY),
        (3.0, 2.9, 5.4, EXTRACTIONS[extract][1], EXTRACTOR),
        (3.0, 5.0, 4.6, "add all lags: $e_t$" if past else "$e_t$", EXTRACTOR),
        (8.0, 5.0, 3.6, f"$g_t = x_t {map_of}$" if gate else "no gate", EXTRACTOR, gate),
        (5.0, 7.2, 4.2, r"$a_t = e_t \odot g_t$" if gate else "$a_t = e_t$", EXTRACTOR, gate),
        (5.0, 9.4, 4.2, r"$y_t = a_t W_\mathrm{out}$" if out else "$y_t = a_t$", EXTRACTOR, out),
    )
    arrows = (
        (3.0, 1.1, 3.0, 2.4, past), (7.6, 1.1, 4.6, 2.4), (3.0, 3.4, 3.0, 4.5),
        (8.5, 1.1, 8.3, 4.5, gate), (3.4, 5.5, 4.4, 6.7), (8.0, 5.5, 6.0, 6.7, gate),
        (5.0, 7.7, 5.0, 8.9),
    )  # fmt: skip
    return boxes, arrows


def _draw_flow(ax: Axes, flow: tuple[Any, Any], *, title: str, colour: str = EXTRACTOR) -> None:
    """Draw rounded boxes and arrows; what is off is dashed and pale."""
    boxes, arrows = flow
    ax.set(xlim=(-0.2, 10.2), ylim=(0, 11))
    ax.axis("off")
    ax.text(5, 10.6, title, ha="center", va="center", color=colour, weight="bold")
    for x, y, width, label, ink, *is_on in boxes:
        is_on = all(is_on)
        fill, edge = ((ink, 0.16), ink) if is_on else ("none", "#BBBBBB")
        pen = {"facecolor": fill, "edgecolor": edge, "linestyle": "-" if is_on else "--"}
        shape = "round,pad=0,rounding_size=0.2"
        ax.add_patch(FancyBboxPatch((x - width / 2, y - 0.5), width, 1, boxstyle=shape, **pen))
        ax.text(x, y, label, ha="center", va="center", color="black" if is_on else "#888888")
    for *start, x, y, is_on in (arrow if len(arrow) == 5 else (*arrow, True) for arrow in arrows):
        pen = {"color": "black"} if is_on else {"color": "#CCCCCC", "linestyle": "dashed"}
        pen |= {"arrowstyle": "-|>", "lw": 1.0, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", xy=(x, y), xytext=start, arrowprops=pen)


# What is needed, and what is learned --------------------------------------------------------------


@picture
def ablation(
    table: pd.DataFrame,
    *,
    floors: Mapping[str, float],
    quantity: str = "Held-out loss",
    cut: float | None = None,
):
    """One row for each variant: a point for each seed, a bar over their range.

    Args:
        table: Rows with ``variant`` (a name that has a look, as ``she/no_adjustment``),
            ``label``, ``seed`` and ``loss_nats``; variants in the order of the table.
        floors: Exact losses by what they mean, at most two, drawn as vertical lines.
        quantity: What is on the axis, without the unit.
        cut: Where the axis ends; rows that lie beyond are an arrow with their numbers.
    """
    groups, parts = list(table.groupby("variant", sort=False)), []
    ax = new_axes(size=(LINE_SIZE[0], 1.2 + 0.36 * len(groups)))
    for row, (name, rows) in enumerate(groups):
        losses, points = rows["loss_nats"], look(str(name)).points()
        low, high = losses.min(), losses.max()
        parts.append(f"{rows['label'].iloc[0]} {low:.3f} to {high:.3f}")
        if cut is not None and low > cut:
            edge = ax.get_yaxis_transform()  # x in axes, y in data
            arrow = {"arrowstyle": "-|>", "color": points["color"], "lw": 2}
            ax.annotate(f"{low:.3f} to {high:.3f}", (1, row), (0.92, row), xycoords=edge,
                        ha="right", va="center", arrowprops=arrow)  # fmt: skip
            continue
        ax.hlines(row, low, high, color=points["color"], lw=3, alpha=0.35)
        ax.plot(losses, np.full(len(losses), row), linestyle="none", **points)
    for (name, value), dash in zip(floors.items(), ("dotted", (0, (9, 3))), strict=False):
        ax.axvline(value, color="black", linestyle=dash, lw=1.2, label=f"{name} ({value:.3f})")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    ax.set_yticks(range(len(groups)), [rows["label"].iloc[0] for _, rows in groups])
    ax.grid(axis="y", color="#DDDDDD", lw=0.6)
    ax.set_axisbelow(True)
    ax.set(xlabel=f"{quantity} (nats per token)", ylabel="", ylim=(len(groups) - 0.5, -0.5))
    if cut is not None:
        ax.set_xlim(right=cut)
    n_seeds = table["seed"].nunique()
    exact = "".join(f" {name}: {value:.3f}." for name, value in floors.items())
    seeds = f"range over {n_seeds} {'seed' if n_seeds == 1 else 'seeds'}"
    return ax, f"Loss in nats per token, {seeds}: {'; '.join(parts)}.{exact}"


def kernel_dials(kernels: Mapping[str, Sequence[ArrayLike]]) -> dict[str, Any]:
    """Return the dials of ``kernel`` for these models."""
    n_layers = max(len(layers) for layers in kernels.values())
    n_channels = min(np.shape(layers[0])[-1] for layers in kernels.values())
    return {
        "mixer": ("Mixer", {look(name).label: name for name in kernels}),
        "layer": ("Layer", 1, 1, n_layers, 1, "1 reads the input"),
        "channel": ("Output channel", 1, 1, n_channels, 1, "Of the extraction"),
    }


@picture
def kernel(kernels: Mapping[str, Sequence[ArrayLike]], *, mixer: str, layer: int, channel: int):
    """What one layer does with each lag: all channels left, one output channel right.

    Args:
        kernels: ``lag_weight`` of every layer, by mixer name; layers and channels count from 1.
        layer: One that the model lacks is its last.
    """
    layers, colour = kernels[mixer], look(mixer).colour
    weight = np.asarray(layers[min(layer, len(layers)) - 1], dtype=float)
    profile = lag_profile(weight)
    start = np.prod(weight.shape[:-1]) ** -0.5  # 1 / sqrt(l d), for vectors 1 / sqrt(l)
    one = weight[..., channel - 1]
    left, right = new_axes(size=(7.2, 3.2), columns=2)
    left.stairs(profile, np.arange(len(profile) + 1) - 0.5, fill=True, color=colour)
    left.axhline(start, color="black", linestyle="dotted", label="before training")
    left.legend(loc="upper right")
    left.set(xlabel="Lag (0 is the newest token)", ylabel="RMS weight, all channels")
    left.set_ylim(top=1.15 * max(profile.max(), start))
    if one.ndim == 1:
        right.axhline(0, color=GREY, lw=0.8)
        right.vlines(np.arange(len(one)), 0, one, color=colour, lw=1.5)
        right.plot(np.arange(len(one)), one, linestyle="none", **look(mixer).points())
        right.set(xlabel="Lag", ylabel=f"Weight of channel {channel}")
    else:
        top = np.abs(one).max() or 1.0
        edges = (-0.5, one.shape[0] - 0.5, one.shape[1] + 0.5, 0.5)  # channels count from 1
        looks = {"cmap": DIFFERENCE_COLOURS, "vmin": -top, "vmax": top, "aspect": "auto"}
        right.figure.colorbar(right.imshow(one.T, extent=edges, **looks), ax=right, label="Weight")
        right.set(xlabel="Lag", ylabel=f"Input channel, into output {channel}")
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    size = np.abs(one) if one.ndim == 1 else np.sqrt((one**2).mean(axis=1))
    near, ratio = profile[: max(1, len(profile) // 4)], profile / start
    share = 100 * (near**2).sum() / max((profile**2).sum(), 1e-30)
    n_grown, n_shrunk = int((ratio > 1.1).sum()), int((ratio < 0.9).sum())
    return left, (
        f"{look(mixer).label}, layer {layer}: lag {profile.argmax()} weighs most "
        f"({profile.max():.3f}). The newest {len(near)} of {len(profile)} lags hold {share:.0f} % "
        f"of the squared weight. Channel {channel}: lag {size.argmax()} weighs most. "
        f"Against the size before training (dotted), {n_grown} lags are more than a tenth larger, "
        f"{n_shrunk} more than a tenth smaller, {len(ratio) - n_grown - n_shrunk} about equal."
    )
