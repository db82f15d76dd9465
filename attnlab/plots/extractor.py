"""Pictures of the Extractor: its matrix, its growth, its kernels, its ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError
from attnlab.plots.matrices import lag_profile, plot_matrix
from attnlab.show.style import DIFFERENCE_COLOURS, LINE_SIZE, LOOKS, look, new_axes

INDICES = ("lag", "absolute")
TABLE_GREY = LOOKS["table"].colour


def block_toeplitz(
    lag_weight: ArrayLike, *, n_tokens: int, index: str = "lag"
) -> NDArray[np.float64]:
    """Return the one matrix M with ``e.ravel() = x.ravel() @ M``: the whole extraction.

    Block (s, t) is ``W_{t-s}`` for the lag index and ``W_s`` for the absolute index, and zero
    where s lies after t, or further back than there are weights.

    Shapes:
        lag_weight: ``(context_len, d, d)``; returns ``(n_tokens * d, n_tokens * d)``.
    Source:
        arXiv:2308.07661, extraction; derived in notebook 03, eq. (3.4).
    """
    weight = np.asarray(lag_weight, dtype=float)
    if weight.ndim != 3:
        raise AttnlabError(f"lag_weight must be (context_len, d, d); it is {weight.shape}.")
    which = index_map(n_tokens, index=index)
    which[which >= len(weight)] = -1
    blocks = np.where((which >= 0)[..., None, None], weight[which.clip(min=0)], 0.0)
    return blocks.transpose(0, 2, 1, 3).reshape(n_tokens * weight.shape[1], -1)


def index_map(n_tokens: int, *, index: str) -> NDArray[np.int64]:
    """Return which weight input s (row) meets on its way to output t (column); -1 for none."""
    if index not in INDICES:
        raise AttnlabError(f"index={index!r} is not one of {', '.join(INDICES)}.")
    s, t = np.mgrid[:n_tokens, :n_tokens]
    return np.where(s <= t, t - s if index == "lag" else s, -1)


def plot_block_toeplitz(
    lag_weight: ArrayLike, *, n_tokens: int, index: str = "lag", ax: Axes | None = None
) -> Axes:
    """Draw the matrix of the whole extraction, with a line between tokens.

    Args:
        lag_weight: ``(context_len, d, d)``, lag 0 first.
        n_tokens: Tokens in the sequence.
        index: ``lag`` or ``absolute``; see ``block_toeplitz``.
        ax: Axes to draw on; a new figure without it.
    """
    matrix = block_toeplitz(lag_weight, n_tokens=n_tokens, index=index)
    width = matrix.shape[0] // n_tokens
    ax = plot_matrix(
        matrix,
        label="Weight",
        x_label="Output token t",
        y_label="Input token s",
        is_difference=True,
        ax=ax,
    )
    for edge in np.arange(1, n_tokens) * width - 0.5:
        ax.axvline(edge, color=TABLE_GREY, lw=0.6)
        ax.axhline(edge, color=TABLE_GREY, lw=0.6)
    middles = np.arange(n_tokens) * width + (width - 1) / 2
    names = [str(t + 1) for t in range(n_tokens)]
    ax.set_xticks(middles, names)
    ax.set_yticks(middles, names)
    return ax


def describe_block_toeplitz(lag_weight: ArrayLike, *, n_tokens: int, index: str = "lag") -> str:
    """Say what repeats in the matrix and how many of its blocks are zero."""
    n_lags, width = np.shape(lag_weight)[:2]
    which = index_map(n_tokens, index=index)
    n_filled = int(((which >= 0) & (which < n_lags)).sum())
    if index == "lag" and n_lags < n_tokens:
        far = f"so are those of inputs more than {n_lags - 1} tokens back; "
    else:
        far = ""
    repeated = {
        "lag": "The same block stands along every diagonal (block-Toeplitz): the distance decides.",
        "absolute": "The same block stands along every row: the place of the input decides.",
    }[index]
    size = n_tokens * width
    return (
        f"The extraction of {n_tokens} tokens of width {width} as one {size} by {size} matrix. "
        f"{repeated} Blocks below the diagonal are zero (no output reads the future); {far}"
        f"{n_filled} blocks are filled from {min(n_lags, n_tokens)} different matrices."
    )


def draw_index_maps(*, n_tokens: int) -> Figure:
    """Draw which W each pair of tokens uses: lag index left, absolute index right."""
    fig, axes = plt.subplots(1, 2, figsize=(6.4, 3.0), layout="constrained")
    for ax, index in zip(axes, INDICES, strict=True):
        which = index_map(n_tokens, index=index)
        shown = np.where(which < 0, np.nan, which)
        ax.imshow(shown, cmap="cividis", vmin=0, vmax=n_tokens - 1)
        for s, t in np.argwhere(which >= 0):
            colour = "white" if which[s, t] < 0.6 * (n_tokens - 1) else "black"
            number = which[s, t] + (0 if index == "lag" else 1)
            ax.text(t, s, str(number), ha="center", va="center", color=colour)
        names = [str(t + 1) for t in range(n_tokens)]
        ax.set_xticks(range(n_tokens), names)
        ax.set_yticks(range(n_tokens), names)
        ax.spines[:].set_visible(False)
        counted = "lag: t - s" if index == "lag" else "absolute: s"
        ax.set(xlabel=f"Output t   (number of W, {counted})", ylabel="Input s")
    return fig


def describe_index_maps(*, n_tokens: int) -> str:
    """Say what the two maps share and what differs."""
    return (
        f"Which weight input s meets on its way to output t, for {n_tokens} tokens. Left, the lag "
        "index: one number along each diagonal, so a phrase is read alike wherever it stands. "
        "Right, the absolute index: one number along each row, so it is not. Both use "
        f"{n_tokens} matrices; white is the future."
    )


def plot_growth(sizes: Mapping[str, ArrayLike], *, ax: Axes | None = None) -> Axes:
    """Draw the size of ``e_t`` against the length of the prefix, one line a name.

    Args:
        sizes: Root mean square of the entries of ``e_t`` for t = 1, 2, ..., by name. A name
            that ends in ``closed form`` is drawn dotted, as what must come out.
        ax: Axes to draw on; a new figure without it.
    """
    ax = new_axes(ax)
    colours = (LOOKS["she"].colour, LOOKS["attention"].colour, LOOKS["alr"].colour)
    markers, dashes = ("s", "o", "^"), ("dashed", "solid", "dashdot")
    measured = [name for name in sizes if not name.endswith("closed form")]
    for name, values in sizes.items():
        t = np.arange(1, len(np.asarray(values)) + 1)
        if name not in measured:
            ax.plot(t, values, color="black", linestyle="dotted", label=name)
            continue
        i = measured.index(name) % 3
        every = max(1, len(t) // 8)
        looks = {"color": colours[i], "linestyle": dashes[i], "marker": markers[i]}
        ax.plot(t, values, markevery=every, label=name, **looks)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="Length of the prefix t (tokens)", ylabel="Size of e (RMS of its entries)")
    ax.legend()
    return ax


def describe_growth(sizes: Mapping[str, ArrayLike]) -> str:
    """Say for each measured line how much larger its end is than its start."""
    parts = []
    for name, values in sizes.items():
        values = np.asarray(values, dtype=float)
        if not name.endswith("closed form"):
            parts.append(f"{name}: {values[0]:.2f} at t = 1, {values[-1]:.2f} at t = {len(values)}")
    return f"Size of the extraction, {'; '.join(parts)}."


def plot_ablation(
    table: pd.DataFrame,
    *,
    floors: Mapping[str, float] | None = None,
    quantity: str = "Validation loss",
    cut: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one row for each variant: a point for each seed, a bar over their range.

    Args:
        table: Rows with ``variant`` (a name that has a look, as ``she/no_adjustment``),
            ``label``, ``seed`` and ``loss_nats``; variants in the order of the table.
        floors: Exact losses by what they mean, drawn as vertical lines.
        quantity: What is on the axis, without the unit.
        cut: Where the axis ends; rows that lie beyond are an arrow with their numbers.
        ax: Axes to draw on; a new figure without it.
    """
    groups = list(table.groupby("variant", sort=False))
    ax = new_axes(ax, size=(LINE_SIZE[0], 1.2 + 0.36 * len(groups)))
    for row, (name, rows) in enumerate(groups):
        points = look(str(name)).points()
        losses = rows["loss_nats"].to_numpy()
        if cut is not None and losses.min() > cut:
            _point_beyond(ax, row, losses, colour=points["color"])
            continue
        ax.plot([losses.min(), losses.max()], [row, row], color=points["color"], lw=3, alpha=0.35)
        ax.plot(losses, np.full(len(losses), row), linestyle="none", **points)
    for (name, value), dash in zip((floors or {}).items(), ("dotted", (0, (9, 3))), strict=False):
        ax.axvline(value, color="black", linestyle=dash, lw=1.2, label=f"{name} ({value:.3f})")
    if floors:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    ax.set_yticks(range(len(groups)), [rows["label"].iloc[0] for _, rows in groups])
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.grid(axis="y", color="#DDDDDD", lw=0.6)
    ax.set_axisbelow(True)
    ax.set(xlabel=f"{quantity} (nats per token)", ylabel="")
    if cut is not None:
        ax.set_xlim(right=cut)
    return ax


def _point_beyond(ax: Axes, row: int, losses: NDArray[np.float64], *, colour: str) -> None:
    """Draw an arrow at the right edge for a row whose losses lie beyond it."""
    edge = ax.get_yaxis_transform()  # x in axes, y in data
    arrow = {"arrowstyle": "-|>", "color": colour, "lw": 2, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=(1, row), xytext=(0.93, row), xycoords=edge, arrowprops=arrow)
    words = f"{losses.min():.3f} to {losses.max():.3f}"
    ax.text(0.92, row, words, transform=edge, ha="right", va="center", backgroundcolor="white")


def describe_ablation(table: pd.DataFrame, *, floors: Mapping[str, float] | None = None) -> str:
    """Say the range over seeds of every variant."""
    n_seeds = table["seed"].nunique()
    parts = []
    for _, rows in table.groupby("variant", sort=False):
        low, high = rows["loss_nats"].min(), rows["loss_nats"].max()
        parts.append(f"{rows['label'].iloc[0]} {low:.3f} to {high:.3f}")
    exact = "".join(f" {name}: {value:.3f}." for name, value in (floors or {}).items())
    seeds = f"range over {n_seeds} {'seed' if n_seeds == 1 else 'seeds'}"
    return f"Loss in nats per token, {seeds}: {'; '.join(parts)}.{exact}"


def draw_lag_kernel_view(
    kernels: Mapping[str, Sequence[ArrayLike]], *, mixer: str, layer: int, channel: int
) -> Figure:
    """Draw what one layer does with each lag: all channels left, one output channel right.

    Args:
        kernels: ``lag_weight`` of every layer, by mixer name; layers and channels count from 1.
    """
    weight = pick_kernel(kernels, mixer=mixer, layer=layer)
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
    profile = np.abs(lag_profile(weight))
    points = look(mixer).points()
    left.bar(np.arange(len(profile)), profile, color=points["color"], width=0.8)
    left.axhline(start_size(weight), color="black", linestyle="dotted", label="before training")
    left.legend(loc="upper right")
    left.set(xlabel="Lag (0 is the newest token)", ylabel="RMS weight, all channels")
    left.set_ylim(top=1.15 * max(profile.max(), start_size(weight)))
    one = _channel(weight, channel)
    if one.ndim == 1:
        right.axhline(0, color=TABLE_GREY, lw=0.8)
        right.vlines(np.arange(len(one)), 0, one, color=points["color"], lw=1.5)
        right.plot(np.arange(len(one)), one, linestyle="none", **points)
        right.set(xlabel="Lag", ylabel=f"Weight of channel {channel}")
    else:
        top = np.abs(one).max() or 1.0
        edges = (-0.5, one.shape[0] - 0.5, one.shape[1] + 0.5, 0.5)  # channels count from 1
        looks = {"cmap": DIFFERENCE_COLOURS, "vmin": -top, "vmax": top, "aspect": "auto"}
        picture = right.imshow(one.T, extent=edges, **looks)
        fig.colorbar(picture, ax=right, label="Weight")
        right.set(xlabel="Lag", ylabel=f"Input channel, into output {channel}")
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return fig


def describe_lag_kernel_view(
    kernels: Mapping[str, Sequence[ArrayLike]], *, mixer: str, layer: int, channel: int
) -> str:
    """Say which lag weighs most, in the layer and in the channel."""
    weight = pick_kernel(kernels, mixer=mixer, layer=layer)
    profile = np.abs(lag_profile(weight))
    one = _channel(weight, channel)
    size = np.abs(one) if one.ndim == 1 else np.sqrt((one**2).mean(axis=1))
    near = profile[: max(1, len(profile) // 4)]
    share = 100 * (near**2).sum() / max((profile**2).sum(), 1e-30)
    return (
        f"{look(mixer).label}, layer {layer}: lag {profile.argmax()} weighs most "
        f"({profile.max():.3f}); the newest {len(near)} of {len(profile)} lags hold {share:.0f} % "
        f"of the squared weight. Channel {channel}: lag {size.argmax()} weighs most. "
        f"{_describe_change(profile / start_size(weight))}"
    )


def _describe_change(ratio: NDArray[np.float64]) -> str:
    """Say how many lags grew, shrank or kept the size they had before training."""
    n_grown, n_shrunk = int((ratio > 1.1).sum()), int((ratio < 0.9).sum())
    return (
        f"Against the size before training (dotted), {n_grown} lags are more than a tenth larger, "
        f"{n_shrunk} more than a tenth smaller, {len(ratio) - n_grown - n_shrunk} about equal."
    )


def start_size(lag_weight: ArrayLike) -> float:
    """Return the size that default initial weights have: ``1/sqrt(l d)`` or ``1/sqrt(l)``."""
    shape = np.shape(lag_weight)
    return float(np.prod(shape[:2] if len(shape) == 3 else shape[:1])) ** -0.5


def pick_kernel(
    kernels: Mapping[str, Sequence[ArrayLike]], *, mixer: str, layer: int
) -> NDArray[np.float64]:
    """Return one layer's ``lag_weight``; a layer the model lacks is its last one."""
    layers = kernels[mixer]
    return np.asarray(layers[min(layer, len(layers)) - 1], dtype=float)


def _channel(weight: NDArray[np.float64], channel: int) -> NDArray[np.float64]:
    """Return what makes one output channel: ``(lags,)``, or ``(lags, d)`` for SHE."""
    if weight.ndim == 1:
        return weight
    return weight[..., min(channel, weight.shape[-1]) - 1]
