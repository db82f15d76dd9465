"""Pictures of chapter 12: straight lines, gaps by size, fitted powers, times that grow."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from attnlab.analysis.scaling import ScalingFit
from attnlab.chapters.scaling_and_other_tasks.records import CORPORA
from attnlab.show import LOOKS, look, new_axes, picture, ranged
from attnlab.show.style import NO_FAMILY

BLACK, MARK = "black", NO_FAMILY[0]
POWERS = {"a": "Power of the weights, a", "b": "Power of the tokens, b",
          "off": "Constant minus floor (nats)"}  # fmt: skip
ALONG = {"length": "Power of the length", "width": "Power of the width"}
NOTHING = "Nothing is recorded yet; the picture fills by itself once there are runs."
FLOOR_DIALS = {"floor": ("Assumed floor E (nats)", 0.4, 0.0, 0.52, 0.02, "What is subtracted")}
N_TRUE, LOSS_TRUE, H_TRUE = (1e3, 4e3, 16e3, 64e3, 256e3), (2.0, 1.2, 0.8, 0.6, 0.5), 0.4


def line_through(N: ArrayLike, gap: ArrayLike) -> tuple[float, float, float]:
    """Return factor A, power a of the best ``A N^-a`` on logarithms, and its largest residual."""
    x, y = np.log(np.asarray(N, float)), np.log(np.asarray(gap, float))
    slope, level = np.polyfit(x, y, 1)
    return float(np.exp(level)), float(-slope), float(np.abs(y - level - slope * x).max())


@picture
def assumed_floor(
    floor: float, *, N: ArrayLike = N_TRUE, loss: ArrayLike = LOSS_TRUE, h: float | None = H_TRUE
):
    """What is left of a loss above an assumed floor, by weights, with the best straight line.

    Args:
        N, loss: Weights and losses in nats of the models.
        h: The true floor; None leaves it unsaid.
    """
    N, loss = np.asarray(N, float), np.asarray(loss, float)
    is_above, ax = loss > floor + 1e-6, new_axes()
    N, gap = N[is_above], loss[is_above] - floor
    ax.set(xscale="log", yscale="log", xlabel="Weights without embeddings, N",
           ylabel=f"Loss minus {floor:.2f} (nats per token)")  # fmt: skip
    if len(N) < 3:
        return ax, f"Only {len(N)} losses lie above {floor:.2f} nats: no line can be drawn."
    A, a, off = line_through(N, gap)
    ax.plot(N, A * N**-a, color=LOOKS["table"].colour, linestyle="dashed", label="Best line")
    ax.plot(N, gap, **look("she").line() | {"linestyle": "none", "label": "Losses"})
    _plain_ticks(ax)
    ax.legend()
    truth = "" if h is None else f" The true floor is {h:.2f}."
    return ax, (
        f"With {floor:.2f} nats subtracted the power is {a:.2f}, and the line misses a point by "
        f"up to {np.expm1(off):.0%}.{truth}"
    )


@picture
def gaps(runs: pd.DataFrame, *, variant: str, fit: ScalingFit | None = None):
    """The loss above the floor by weights, one line for each number of tokens; dotted: the law.

    Args:
        runs: Columns ``variant``, ``seed``, ``N``, ``D``, ``loss`` and ``floor``.
    """
    own, ax = runs[runs["variant"] == variant].dropna(subset=["loss"]), new_axes()
    ax.set(xlabel="Weights without embeddings, N", ylabel="Loss above the floor (nats)")
    if own.empty:
        return ax, NOTHING
    own, base = own.assign(gap=own["loss"] - own["floor"]), look(variant)
    tokens = sorted(own["D"].unique())
    shades = mpl.colormaps["cividis"](np.linspace(0, 0.8, len(tokens)))
    for D, shade, marker in zip(tokens, shades, "osD^vP*X" * 9, strict=False):
        part = own[own["D"] == D].groupby("N")["gap"].agg(["mean", "min", "max"])
        N = part.index.to_numpy(float)
        ends = [part["mean"] - part["min"], part["max"] - part["mean"]]
        how = {"color": shade, "marker": marker, "linestyle": "none" if fit else "solid"}
        name = f"{D / 1e3:,.0f} k tokens"
        ax.errorbar(N, part["mean"], yerr=ends, capsize=2, label=name, **how)
        if fit is not None:
            many = np.geomspace(N.min(), N.max(), 50)
            ax.plot(many, fit.predict(many, D) - fit.E, color=shade, linestyle="dotted")
    ax.set(xscale="log", yscale="log")
    _plain_ticks(ax)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    best = own.loc[own["gap"].idxmin()]
    law = "" if fit is None else f" Dotted: N^-{fit.a:.2f} and D^-{fit.b:.2f}, added."
    return ax, (
        f"{base.label}, {_seeds(own)}: the gap to the floor falls with weights and tokens, to "
        f"{best['gap']:.3f} nats.{law}"
    )


@picture
def fitted(table: pd.DataFrame):
    """Powers and what a free constant is off, with 95 % intervals; a row a mixer and source.

    Args:
        table: Rows of ``records.fits``.
    """
    axes = new_axes(size=(8.4, 0.9 + 0.26 * max(3, len(table))), columns=3, sharey=True)
    table = table.assign(off=table["E"] - table["floor"], off_low=table["E_low"] - table["floor"],
                         off_high=table["E_high"] - table["floor"])  # fmt: skip
    for ax, (name, label) in zip(axes, POWERS.items(), strict=True):
        _intervals(ax, table, name, label)
    if table.empty:
        axes[0].set_yticks([])
        return axes[0], NOTHING
    names = [f"{look(v).label}, {CORPORA.get(c, c)}" for v, c in
             zip(table["variant"], table["corpus"], strict=True)]  # fmt: skip
    axes[0].set_yticks(range(len(table)), names)
    axes[2].axvline(0, color=BLACK, linestyle="dotted")
    n = int(((table["off_low"] <= 0) & (table["off_high"] >= 0)).sum())
    wide = ranged(table["off_high"] - table["off_low"], digits=2)
    return axes[0], (
        f"A constant fitted with the powers covers the floor in {n} of {len(table)} cases; its "
        f"interval is {wide} nats wide. Power of the weights {ranged(table['a'], digits=2)}, of "
        f"the tokens {ranged(table['b'], digits=2)}; residuals "
        f"{ranged(100 * table['rms'], ' %', digits=0)}. Bars: 95 % over runs."
    )


def _intervals(ax: Axes, table: pd.DataFrame, name: str, label: str) -> None:
    ax.set(xlabel=label, ylim=(len(table) - 0.4, -0.6))
    ax.xaxis.set_major_locator(MaxNLocator(4))
    for place, row in enumerate(table.to_dict("records")):
        its, middle = look(row["variant"]), row[name]
        ends = [row[f"{name}_low"], row[f"{name}_high"]]
        if np.isfinite(ends).all():
            ax.plot(ends, [place, place], color=its.colour, lw=2)
        ax.plot([middle], [place], **its.points(), linestyle="none")


@picture
def powers_of_time(table: pd.DataFrame):
    """The power of length and of width in a layer's time, with 95 % intervals over rounds.

    Args:
        table: Rows of ``records.growth``.
    """
    names = list(dict.fromkeys(table["variant"]))
    axes = new_axes(size=(8.0, 0.9 + 0.24 * max(3, len(names))), columns=2, sharey=True)
    for ax, (along, label) in zip(axes, ALONG.items(), strict=True):
        own = table[table["along"] == along].set_index("variant").reindex(names).reset_index()
        _intervals(ax, own.rename(columns={"low": "p_low", "high": "p_high"}), "p", label)
        for power in (1, 2):
            ax.axvline(power, color=BLACK, linestyle="dotted", lw=1)
    if table.empty:
        axes[0].set_yticks([])
        return axes[0], NOTHING
    axes[0].set_yticks(range(len(names)), [look(name).label for name in names])
    long = table[table["along"] == "length"].sort_values("p")
    ends = (long.iloc[0], long.iloc[-1]) if len(long) else (table.iloc[0],) * 2
    said = " and ".join(f"{look(e['variant']).label} {e['p']:.2f}" for e in ends)
    return axes[0], (
        f"Power of the length, flattest and steepest: {said}. Dotted: 1, as the text grows, and 2, "
        "as its pairs. Bars: 95 % over rounds; one machine, one thread."
    )


@picture
def crossing(*, first: tuple[float, float], second: tuple[float, float], names: tuple[str, str]):
    """Two times that are powers of the length, and where the lines cross.

    Args:
        first, second: Factor and power of ``C T^p``, in milliseconds.
    """
    ax, T = new_axes(), np.geomspace(32, 8192, 60)
    for (C, p), name in zip((first, second), names, strict=True):
        ax.plot(T, C * T**p, **look(name).line() | {"marker": "none"})
    ax.set(xscale="log", yscale="log", xlabel="Length T (tokens)", ylabel="Time (ms)")
    _plain_ticks(ax)
    ax.legend()
    (C, p), (K, q) = first, second
    if p == q:
        return ax, "Equal powers: parallel lines, and one is faster at every length."
    where = (C / K) ** (1 / (q - p))
    ax.axvline(where, color=MARK, linestyle="dotted")
    return ax, f"The lines cross at {where:,.0f} tokens."


def _seeds(runs: pd.DataFrame) -> str:
    n = runs["seed"].nunique()
    return f"{n} seed{'s' * (n != 1)}"


def _plain_ticks(ax: Axes) -> None:
    low, high = ax.get_ylim()
    if high < 100 * low:  # few decades: name steps between them
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
