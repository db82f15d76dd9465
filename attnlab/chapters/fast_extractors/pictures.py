"""What chapter 06 shows: butterflies, circles, tiles, times, leaks, prices, starts, long texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Polygon
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from attnlab.analysis.theory import causal_pairs
from attnlab.errors import AttnlabError
from attnlab.mixers.convolution import method_flops
from attnlab.records import load_runs
from attnlab.show import (
    LOOKS,
    Picture,
    figure,
    look,
    new_axes,
    picture,
    speed,
    variants,
)
from attnlab.show.style import NO_FAMILY
from attnlab.studies.clock import STREAMS

EXTRACTOR, ATTENTION, GREY = (LOOKS[name].colour for name in ("she", "attention", "table"))
PAST, FUTURE, _ = NO_FAMILY
NOTHING = 1e-10  # where an exact zero is drawn on a logarithmic axis
PAST_WIDTH = 8  # positions averaged into one point
COUNTED = ("lags", "toeplitz", "fft", "planes", "staged")
OUTSIDE = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}  # of the axes: a legend


# The fast transform ------------------------------------------------------------------------------


def butterfly_stages(x: ArrayLike) -> list[NDArray[np.complex128]]:
    """Return the numbers in a fast Fourier transform: the reordered input, then each stage.

    The input stands in bit-reversed order, so that evens and odds of every level are neighbours;
    the last stage is the transform.

    Raises:
        AttnlabError: The length is not a power of two.
    """
    values = np.asarray(x, dtype=complex)
    n = len(values)
    if n < 2 or n & (n - 1):
        raise AttnlabError(f"{n} numbers do not split into halves to the end; use 2, 4, 8, ...")
    stages, size = [values[bit_reversed(n)]], 1
    while size < n:
        evens, odds = stages[-1].reshape(-1, 2, size).swapaxes(0, 1)
        turned = odds * np.exp(-1j * np.pi * np.arange(size) / size)
        stages.append(np.concatenate([evens + turned, evens - turned], axis=1).ravel())
        size *= 2
    return stages


def bit_reversed(n: int) -> NDArray[np.int64]:
    """Return 0 to n - 1 with all evens first, and so in each half: 0, 4, 2, 6, 1, 5, 3, 7."""
    order = np.zeros(1, dtype=np.int64)
    while len(order) < n:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order


def complex_text(value: complex) -> str:
    """Return a complex number with at most two digits after the point: ``2 - 3i``."""
    re, im = round(value.real, 2) + 0.0, round(value.imag, 2) + 0.0
    return f"{re:g}" if im == 0 else f"{re:g} {'+' if im > 0 else '-'} {abs(im):g}i"


@picture
def butterflies(x: ArrayLike):
    """A fast Fourier transform number by number: sums solid, differences dashed."""
    stages = butterfly_stages(x)
    n, last, ax = len(stages[0]), len(stages) - 1, new_axes(size=(7.2, 4.4))
    for column in range(last):
        for row in range(n):
            ends, other = (column + 0.19, column + 0.77), row ^ 2**column
            dash = "dashed" if row & 2**column else "solid"
            ax.plot(ends, (row, row), color=GREY, lw=1, ls=dash)
            ax.plot(ends, (row, other), color=GREY, lw=1)

    def write(column: int, row: float, words: str, **how: Any) -> None:
        place, side = (column - 0.2, "left") if column == last else (column, "center")
        ax.text(place, row, words, ha=side, va="center", size=9, **how)

    inner = [[""] * n] * (last - 1)
    names = [
        [f"$x_{t}$ = " for t in bit_reversed(n)],
        *inner,
        [rf"$\hat x_{f}$ = " for f in range(n)],
    ]
    between = [f"{n // 2**k} transforms of {2**k}" for k in range(1, last)]
    heads = ["evens first", *between, f"1 transform of {n}"]
    for column, (values, labels, head) in enumerate(zip(stages, names, heads, strict=True)):
        write(column, -0.85, head, color=GREY)
        for row, (value, label) in enumerate(zip(values, labels, strict=True)):
            write(column, row, label + complex_text(value))
    ax.set(xlim=(-0.3, last + 0.6), ylim=(n - 0.4, -1.1))
    ax.axis("off")
    ends = ", ".join(complex_text(value) for value in stages[-1])
    return ax, (
        f"The fast transform of {n} numbers in {last} stages. Each pair of lines crossing "
        "takes one number of an even and one of an odd half, turns the odd one, and writes sum "
        f"and difference (dashed: subtracted). {last} stages of {n // 2} products make "
        f"{last * n // 2}, where the definition has {n * n}. Result: {ends}."
    )


def wrapped_lags(*, n_tokens: int, n_lags: int, length: int) -> NDArray[np.int64]:
    """Return which lag joins input s (row) to output t (column) on a circle; -1 for none.

    Args:
        length: Places on the circle, the length of the transform; at least ``n_tokens``.
    """
    if length < n_tokens:
        raise AttnlabError(f"length={length} cuts the sequence; use {n_tokens} or more.")
    s, t = np.mgrid[:n_tokens, :n_tokens]
    lag = (t - s) % length
    return np.where(lag < n_lags, lag, -1)


WRAP_DIALS = {
    "length": ("Length n of the transform", 8, 8, 16, 1, "Places, zeros too"),
    "n_lags": ("Lags ℓ", 3, 1, 8, 1, "Weights, one a lag"),
}


@picture
def wrap(*, length: int, n_lags: int, n_tokens: int = 8):
    """Which lag every pair of tokens meets; pairs that wrapped around read the future."""
    lag = wrapped_lags(n_tokens=n_tokens, n_lags=n_lags, length=length)
    is_ahead = np.tri(n_tokens, k=-1, dtype=bool)  # input after output
    ax = new_axes(size=(4.4, 3.5))
    for s, t in np.argwhere(lag >= 0):
        colour = FUTURE if is_ahead[s, t] else PAST
        ax.add_patch(Polygon(_square(t - 0.5, s - 0.5, 1), color=colour, lw=0, alpha=0.85))
        ax.text(t, s, str(lag[s, t]), ha="center", va="center", color="white")
    ax.set(xlim=(-0.5, n_tokens - 0.5), ylim=(n_tokens - 0.5, -0.5), aspect="equal",
           xlabel="Output t   (numbers: lag)", ylabel="Input s",
           xticks=range(n_tokens), yticks=range(n_tokens))  # fmt: skip
    ax.grid(visible=True, lw=0.4, alpha=0.5)
    parts = [Patch(color=PAST, label="past"), Patch(color=FUTURE, label="future")]
    ax.legend(handles=parts, handlelength=1, **OUTSIDE)
    n_leaks, spare = int((is_ahead & (lag >= 0)).sum()), length - (n_tokens + n_lags - 1)
    words = f"{n_tokens} tokens, {n_lags} lags, a transform of length {length}: "
    if n_leaks:
        return ax, (
            f"{words}{n_leaks} pairs wrap around, and inputs reach outputs before them. "
            f"Length {length - spare} is needed."
        )
    rest = f"{spare} more than needed" if spare else "exactly what is needed"
    return ax, f"{words}nothing wraps around, the matrix is the causal one ({rest})."


# Counts and clocks -------------------------------------------------------------------------------


@picture
def times(table: pd.DataFrame, *, x_label: str):
    """Median times against a length, one line a label, both axes logarithmic.

    Args:
        table: Rows ``name`` (for the look), ``label``, ``length``, ``median_ms``, ``low_ms``,
            ``high_ms``.
        x_label: What the length is, with its unit.
    """
    ax, longest = new_axes(), table["length"].max()
    ends = table.sort_values("length").groupby("label").last()
    ends = ends.sort_values("median_ms", ascending=False)
    for name, own in ends.groupby("name", sort=False):
        for its in variants(name, own.index):
            rows = table[table["label"] == its.label].sort_values("length")
            place = -list(ends.index).index(its.label)
            ax.plot(rows["length"], rows["median_ms"], zorder=3 + 0.01 * place, **its.line())
            band = {"color": its.colour, "alpha": 0.15, "lw": 0}
            ax.fill_between(rows["length"], rows["low_ms"], rows["high_ms"], **band)
    ax.set(xscale="log", yscale="log", xlabel=x_label, ylabel="Time (ms, log scale)")
    _plain_ticks(ax, table["length"].unique())
    handles = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    ax.legend([handles[label] for label in ends.index], ends.index, **OUTSIDE)
    rows = table[table["length"] == longest].sort_values("median_ms")
    best = rows.iloc[0]
    others = ", ".join(
        f"{row.label} {row.median_ms:.3g} ({row.median_ms / best['median_ms']:.1f} times)"
        for row in rows.iloc[1:].itertuples()
    )
    slow = ", ".join(sorted(set(table["label"]) - set(rows["label"])))
    left_out = f"Too slow to be timed there: {slow}. " if slow else ""
    return ax, (
        f"Milliseconds at {longest:.0f} tokens (in brackets: over the fastest): {best['label']} "
        f"{best['median_ms']:.3g}; {others}. {left_out}"
        "Bands: first to third quartile of the rounds."
    )


def crossover(table: pd.DataFrame, *, slow: str, fast: Sequence[str]) -> float | None:
    """Return the first measured length at which one of ``fast`` beats ``slow``; None if none does.

    Args:
        table: Rows ``label``, ``length``, ``median_ms``.
    """
    known = table.pivot_table(index="length", columns="label", values="median_ms")
    rivals = [label for label in known if label in fast]
    wins = known[rivals].min(axis=1) < known[slow].fillna(np.inf)  # left out: hopeless there
    return float(wins.idxmax()) if wins.any() else None


COST_DIALS = {
    "context_len": ("Context ℓ (tokens)", [8, 32, 128, 512, 2048], 128, "As long as T"),
    "d_model": ("Width d", [16, 64, 128, 512], 128, "Channels"),
    "batch": ("Batch B", [1, 4, 16, 64], 16, "Sequences that share a transform"),
}  # fmt: skip


@picture
def costs(*, context_len: int, d_model: int, batch: int):
    """Counted operations per token of SHE's sum by method, a layer of attention's as a line.

    A multiply-add counts two; the weights' transform is shared by the batch.
    """
    counted, level = counted_costs(context_len=context_len, d_model=d_model, batch=batch)
    ax, ordered = new_axes(size=(6.4, 3.2)), sorted(counted.items(), key=lambda item: item[1])
    for row, (_, cost) in enumerate(ordered):
        ax.barh(row, cost, height=0.62, color=EXTRACTOR, alpha=0.75, lw=0)
        ax.text(cost * 1.08, row, f"{cost:,.0f}", va="center", fontsize=9)
    ax.axvline(level, color=ATTENTION, lw=1.6)
    ax.text(level, -0.85, " a layer of attention", color=ATTENTION, fontsize=9)
    ax.set_yticks(range(len(ordered)), [name for name, _ in ordered])
    ax.set(xscale="log", ylim=(len(ordered) - 0.4, -1.2), xlabel="Operations per token (log scale)")
    ax.set_xlim(0.3 * min(ordered[0][1], level), 8 * max(ordered[-1][1], level))
    name, least = ordered[0]
    words = (
        f"Context {context_len}, width {d_model}, batch {batch}, forward pass. Cheapest by count: "
        f"{name}, {least:,.0f} operations per token, {least / level:.2f} times a layer of attention"
    )
    if name != "lags":
        words += f" and {counted['lags'] / least:.1f} times fewer than lags"
    return ax, f"{words}."


def counted_costs(*, context_len: int, d_model: int, batch: int) -> tuple[dict[str, float], float]:
    """Return operations per token of SHE's sum by method, and of a whole layer of attention."""
    sizes = {"batch": batch, "time": context_len, "n_lags": context_len, "d_in": d_model}
    n_tokens = batch * context_len
    counted = {method: method_flops(method, ndim=3, **sizes) / n_tokens for method in COUNTED}
    pairs = causal_pairs(context_len, context_len=context_len) / context_len
    return counted, 2 * (4 * d_model**2 + 2 * pairs * d_model)


@picture
def leaks(changes: Mapping[str, ArrayLike], *, changed_at: int):
    """How far each output moves when a later token changes; exact zeros on the ground line.

    Args:
        changes: By method, the largest change at each position over the size of the outputs.
        changed_at: The first position of the input that was changed.
    """
    ax, parts = new_axes(), []
    for its in variants("she", changes):
        values = np.asarray(changes[its.label], dtype=float)
        drawn = np.where(values > 0, values, NOTHING)
        ax.plot(drawn, lw=0.8, markevery=3, **{**its.line(), "markersize": 4})
        worst = float(values[:changed_at].max(initial=0.0))
        parts.append(f"{its.label} {'exactly 0' if worst == 0 else f'{worst:.0e}'}")
    ax.axvline(changed_at - 0.5, color="black", lw=1, ls="dotted")
    ax.text(changed_at, 3e-9, " changed\n from here", va="center", fontsize=9)
    ax.set(yscale="log", xlabel="Position of the output", ylabel="Change / size of the outputs")
    ax.set_ylim(NOTHING / 2, 30)
    ticks = [NOTHING, 1e-8, 1e-6, 1e-4, 1e-2, 1.0]
    ax.set_yticks(ticks, ["exactly 0", *(f"{tick:.0e}" for tick in ticks[1:-1]), "1"])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.legend(**OUTSIDE)
    return ax, (
        f"All inputs from position {changed_at} on were replaced. Largest change of an earlier "
        f"output, relative to the size of the outputs: {', '.join(parts)}."
    )


# One token at a time -----------------------------------------------------------------------------

TILING_DIALS = {
    "n_seen": ("Tokens read", 8, 1, 32, 1, "The stream so far"),
    "n_tokens": ("Stream (tokens)", [8, 16, 32], 16),
    "against": ("Drawn against", {"input s": "input", "lag t - s": "lag"},
                "The same pairs, sheared"),
}  # fmt: skip


@picture
def tiling(*, n_tokens: int, n_seen: int, against: str = "input"):
    """The tiles of a stream: done ones full, the one that is due outlined, others faint.

    After n tokens the size U is the largest power of two that divides n: the U newest inputs give
    to the U next outputs.

    Args:
        n_tokens: Length of the stream.
        n_seen: Tokens read so far; clipped to the stream.
        against: ``input``: input s down, output t across; ``lag``: the lag t - s upwards.
    """
    if against not in ("input", "lag"):
        raise AttnlabError(f"against={against!r} is not one of input, lag.")
    n_seen, ax = min(n_seen, n_tokens), new_axes(size=(5.6, 4.2))
    sizes = {n: n & -n for n in range(1, n_tokens)}  # by the first output
    kinds = sorted(set(sizes.values()))
    shades = mpl.colormaps["cividis"](np.linspace(0.2, 0.95, len(kinds)))
    colours = dict(zip(kinds, shades, strict=True))

    def place(s: int, t: int, size: int, **how: Any) -> None:
        corners = _square(t, s, size)
        sheared = corners if against == "input" else [(x, x - y) for x, y in corners]
        ax.add_patch(Polygon(sheared, **how))

    for n, size in sizes.items():
        look = {"facecolor": colours[size], "alpha": 1.0 if n <= n_seen else 0.18}
        place(n - size, n, size, edgecolor="white", lw=0.6, **look)
    if n_seen in sizes:
        size = sizes[n_seen]
        place(n_seen - size, n_seen, size, fill=False, edgecolor=EXTRACTOR, lw=2.5, zorder=4)
    for t in range(n_tokens):
        look = {"facecolor": "black", "alpha": 1.0 if t < n_seen else 0.18}
        place(t, t, 1, edgecolor="white", lw=0.6, **look)
    is_square = against == "input"
    ax.set(xlim=(0, n_tokens), xlabel="Output t", ylabel="Input s" if is_square else "Lag t - s",
           ylim=(n_tokens, 0) if is_square else (-1, n_tokens))  # fmt: skip
    shown = range(0, n_tokens, max(1, n_tokens // 8))
    ax.set_xticks([t + 0.5 for t in shown], [str(t) for t in shown])
    ax.set_yticks([t + 0.5 * is_square for t in shown], [str(t) for t in shown])
    handles = [Patch(color="black", label="the token itself")]
    handles += [Patch(color=colours[size], label=f"{size} by {size}") for size in kinds]
    ax.legend(handles=handles, handlelength=1, **OUTSIDE)
    return ax, _tiling_words(n_tokens, n_seen, sizes, is_square=is_square)


def _tiling_words(n_tokens: int, n_seen: int, sizes: Mapping[int, int], *, is_square: bool) -> str:
    """Say which tile is due and what share of all pairs is done."""
    pairs = sum(size * (min(n + size, n_tokens) - n) for n, size in sizes.items() if n <= n_seen)
    share = (pairs + n_seen) / (n_tokens * (n_tokens + 1) // 2)
    words = (
        f"A stream of {n_tokens} tokens cut into {'squares' if is_square else 'slanted squares'}; "
        f"{n_seen} tokens are read. "
    )
    if n_seen in sizes:
        size = sizes[n_seen]
        inputs, outputs = (n_seen - size, n_seen - 1), (n_seen, min(n_seen + size, n_tokens) - 1)
        spans = [f"{a}" if a == b else f"{a} to {b}" for a, b in (inputs, outputs)]
        words += (
            f"Due is the tile of size {size} (outlined): inputs {spans[0]} give to outputs "
            f"{spans[1]}. "
        )
    words += f"Done so far: {share:.0%} of all pairs of an input and an output."
    return words if is_square else f"{words} Slanted cells are centred on their lag."


@picture
def token_prices(by_context: pd.DataFrame, by_token: Mapping[str, ArrayLike]):
    """The mean price of a token against the context, and each token's own price.

    Args:
        by_context: Rows ``label``, ``context_len``, ``flops`` (mean per token).
        by_token: By label, operations of token 1, 2, ... of one stream.
    """
    left, right = new_axes(size=(8.2, 3.4), columns=2)
    contexts, growth, dearest = sorted(by_context["context_len"].unique()), [], []
    for its in variants("she", by_token):
        rows = by_context[by_context["label"] == its.label].set_index("context_len")["flops"]
        line = {**its.line(), "linestyle": "solid" if its.dash == "solid" else ":"}
        left.plot(rows.index, rows / 1e6, **line)
        price = np.asarray(by_token[its.label], dtype=float)
        steps = np.arange(1, len(price) + 1)
        right.plot(steps, price / 1e6, **{**line, "marker": "None", "lw": 1.2})
        growth.append(f"{its.label} {rows[contexts[-1]] / rows[contexts[0]]:.1f} times")
        dearest.append(f"{its.label} {price.max() / price.mean():.0f} times its mean")
    left.set(xscale="log", yscale="log", xlabel="Context = length of the stream (tokens)",
             ylabel="Mean price of a token (MFLOP)")  # fmt: skip
    right.set(yscale="log", xlabel="Token of one stream", ylabel="Price of this token (MFLOP)")
    _plain_ticks(left, contexts)
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.set_ylim(top=20 * right.get_ylim()[1])
    left.legend()
    right.legend()
    return left, (
        f"Left: from context {contexts[0]} to {contexts[-1]} the mean price of a token grows, "
        f"{'; '.join(growth)}. Right: the dearest token of one stream costs, {'; '.join(dearest)}."
    )


GENERATION_DIALS = {
    "context_len": ("Context (tokens)", [32, 128, 512], "Kept full"),
    "batch": ("Batch", [1, 4, 16], "Streams side by side"),
    "d_model": ("Width d", [16, 32, 64], 32, "Channels"),
}


@picture
def generation(laps: Sequence[Mapping[str, Any]]):
    """Tokens per second by mixer, the median of the rounds as a bar, each round as a dot.

    Args:
        laps: Rows ``variant``, ``round``, ``tokens_per_s``.
    """
    table, ax, parts = pd.DataFrame(laps), new_axes(), []
    speeds = table.groupby("variant")["tokens_per_s"].agg(["median", "min", "max"])
    speeds = speeds.sort_values("median", ascending=False)
    for row, (name, rate) in enumerate(speeds.iterrows()):
        its, rounds = look(name), table.loc[table["variant"] == name, "tokens_per_s"]
        ax.barh(row, rate["median"], height=0.62, color=its.colour, alpha=0.45, lw=0)
        ax.plot(rounds, [row] * len(rounds), ls="none", **its.points())
        low, high = rate["min"], rate["max"]
        parts.append(f"{its.label} {rate['median']:,.0f} ({low:,.0f} to {high:,.0f})")
    ax.set_yticks(range(len(speeds)), [look(name).label for name in speeds.index])
    ax.set(ylim=(len(speeds) - 0.5, -0.5), xlabel="Tokens per second", xlim=(0, None))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    n = table["round"].nunique()
    return ax, (
        f"Tokens per second, median of {n} round{'s' * (n > 1)} and range: {'; '.join(parts)}."
    )


# A dial, starts, long texts ----------------------------------------------------------------------


@picture
def rank_errors(errors: Mapping[str, ArrayLike], *, level: float = 0.1):
    """The error of the best rank-R weights against R, from HE (1) to SHE (all).

    Args:
        errors: By label, relative errors for R = 1, 2, ...
        level: The words say from which rank on the error stays below it.
    """
    ax, parts = new_axes(), []
    for its in variants("she", errors):
        error = np.asarray(errors[its.label], dtype=float)
        every = max(1, len(error) // 12)
        ax.plot(np.arange(1, len(error) + 1), error, markevery=every, **its.line())
        parts.append(
            f"{its.label}: {error[0]:.0%} at rank 1 (HE), at most {level:.0%} from rank "
            f"{int(np.argmax(error <= level)) + 1} of {len(error)} on"
        )
    ax.set(xlabel="Rank R", ylabel="Relative error (Frobenius norm)", ylim=(0, 1.02))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    ax.legend(**OUTSIDE)
    told = "; ".join(parts)
    return ax, f"How much of SHE's matrices is lost at rank R. {told[:1].upper()}{told[1:]}."


@picture
def starts(ends: pd.DataFrame, curves: pd.DataFrame, *, floor_nats: float):
    """Training from several starts: curves without a cure, and where every cure ends.

    Args:
        ends: Rows ``start``, ``cure``, ``seed``, ``loss_nats``, held out.
        curves: Rows ``start``, ``cure``, ``seed``, ``step``, ``loss_nats``, training.
        floor_nats: Loss of the true source.
    """
    left, right = new_axes(size=(8.6, 3.6), columns=2, width_ratios=(1, 1.15))
    names, cures = list(ends["start"].unique()), list(ends["cure"].unique())
    for its in variants("she", names):
        rows = curves[(curves["start"] == its.label) & (curves["cure"] == cures[0])]
        smooth = rows.groupby("step")["loss_nats"].mean().rolling(8, min_periods=1).mean()
        left.plot(smooth.index, smooth, markevery=max(1, len(smooth) // 8), **its.line())
    shifts = np.linspace(-0.27, 0.27, len(cures))
    for its, shift in zip(variants("she", cures), shifts, strict=True):
        rows = ends[ends["cure"] == its.label]
        places = [names.index(start) + shift for start in rows["start"]]
        right.plot(places, rows["loss_nats"], ls="none", **its.points(), label=its.label)
    for ax in (left, right):
        ax.axhline(floor_nats, color="black", ls="dotted", lw=1.4)
    left.text(1, floor_nats + 0.06, "true source", fontsize=9)
    left.set(xlabel="Step", ylabel="Training loss (nats per token)", ylim=(0, None))
    right.set(ylabel="Held-out loss (nats per token)", ylim=(0, 1.35 * ends["loss_nats"].max()))
    right.set_xticks(range(len(names)), [start.replace(" of ", "\nof ") for start in names])
    left.legend(title=f"Start; cure: {cures[0]}", title_fontsize=9)
    right.legend(title="Cure", title_fontsize=9, loc="upper left")
    table = ends.pivot_table(index="start", columns="cure", values="loss_nats", sort=False)
    rows = "; ".join(
        f"{start}: " + ", ".join(f"{cure} {loss:.2f}" for cure, loss in losses.items())
        for start, losses in table.iterrows()
    )
    n = ends["seed"].nunique()
    return left, (
        f"Held-out loss after training ({n} seed{'s' * (n > 1)}; true source {floor_nats:.2f}). "
        f"{rows}. Left, the training loss without any cure."
    )


@picture
def past_length(losses: Mapping[str, ArrayLike], *, trained_len: int, oracle_nats: ArrayLike):
    """The loss by position far beyond the length of training, averaged over 8 positions.

    Args:
        losses: By name (for the look), mean loss at every position.
        trained_len: Context of training, in tokens.
        oracle_nats: Loss of the true source, which has read the whole text.
    """
    ax, half = new_axes(size=(7.6, 3.6)), trained_len // 2
    values = {name: np.asarray(loss, dtype=float) for name, loss in losses.items()}
    ours = [look(name).label for name in losses if look(name).family == "extractor"]
    looks = dict(zip(ours, variants("she", ours), strict=True))
    for name in sorted(values, key=lambda name: -values[name][-PAST_WIDTH:].mean()):
        ax.plot(*_binned(values[name]), **looks.get(look(name).label, look(name)).line())
    ax.plot(*_binned(oracle_nats), **LOOKS["oracle"].line())
    ax.axvline(trained_len + 0.5, color="black", lw=1)
    ax.text(trained_len + 2, 0.12, "beyond training", fontsize=9)
    ax.set(xlabel="Position (tokens read)", ylabel="Loss (nats per token)", ylim=(0, None))
    ax.legend(**OUTSIDE)
    parts = "; ".join(
        f"{look(n).label} {loss[half:trained_len].mean():.2f} and {loss[trained_len:].mean():.2f}"
        for n, loss in values.items()
    )
    return ax, (
        f"Mean loss at positions {half + 1} to {trained_len}, and beyond {trained_len}, in nats "
        f"per token: {parts}."
    )


def _binned(values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the middle and the mean of stretches of eight positions."""
    array = np.asarray(values, dtype=float)
    places, n_bins = np.arange(1, len(array) + 1), max(1, len(array) // PAST_WIDTH)
    means = [[part.mean() for part in np.array_split(v, n_bins)] for v in (places, array)]
    return np.array(means[0]), np.array(means[1])


def _square(x: float, y: float, size: float) -> list[tuple[float, float]]:
    return [(x, y), (x + size, y), (x + size, y + size), (x, y + size)]


def _plain_ticks(ax: Axes, lengths: Sequence[float]) -> None:
    """Mark these lengths on a logarithmic axis, and write numbers without powers."""
    ax.xaxis.set_major_locator(FixedLocator(sorted(lengths)))
    ax.xaxis.set_minor_locator(NullLocator())
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


# Committed figures -------------------------------------------------------------------------------


@figure("speed-training", records="speed/paper/mixers/")
def speed_training() -> Picture:
    """Forward and backward of each mixer over attention's, by length."""
    points = newest_points("mixers", work="training", batch=16)
    one = speed.ratio_by_length(points[points["variant"].isin(("she", "he", "we", "me"))])
    return one.saying(f"{one.words} {how_timed(points)}")


@figure("speed-generation", records="speed/paper/generation/")
def speed_generation() -> Picture:
    """The time of one more token against the context."""
    points = newest_points("generation", work="layer")
    one = speed.generation_growth(points[points["variant"].isin(STREAMS)])
    return one.saying(f"{one.words} {how_timed(points)}")


def newest_points(part: str, **sizes: object) -> pd.DataFrame:
    """Return the newest series of a part at paper scale, on torch's default route."""
    runs = load_runs(f"speed/paper/{part}/")
    points = speed.select_points(runs, device="cpu", precision="fp32", route="default", **sizes)
    return points[points["seed"] == points["seed"].max()]


def how_timed(points: pd.DataFrame) -> str:
    """Say what was timed, on how many threads, in how many rounds."""
    threads = ", ".join(f"{n:.0f}" for n in sorted(points["config.threads"].unique()))
    return (
        f"Layers of width 128, float32, {threads} CPU thread; medians of "
        f"{points['config.repeats'].min():.0f} interleaved rounds, bars are quartiles."
    )
