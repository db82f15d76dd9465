"""Pictures of chapter 10: what matrices are made of, what mixers cost, and how far they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from attnlab.chapters.other_mixers.checks import decayed, read_lags
from attnlab.chapters.other_mixers.live import PRICES, price_words, prices
from attnlab.chapters.other_mixers.prices import streaming_price as streaming_price
from attnlab.seeding import numpy_generator
from attnlab.show import look, matrix, new_axes, picture
from attnlab.show.kinds import listed

Floats = NDArray[np.float64]
STRUCTURES = {  # how many numbers T tokens give, keys and queries one number each
    "dense": lambda n: n * (n + 1) // 2,
    "softmax": lambda n: 2 * n,
    "low rank": lambda n: 2 * n,
    "Toeplitz": lambda n: n,
    "semiseparable": lambda n: 3 * n - 1,
}
STRUCTURE_DIALS = {
    "structure": ("Structure", list(STRUCTURES), "semiseparable", "What the entries are made of"),
    "n_tokens": ("Tokens", 8, 4, 16, 2, "Rows and columns"),
    "fade": ("Gate a", 0.7, 0.1, 1.0, 0.1, "Of the semiseparable matrix alone: 1 forgets nothing"),
}
PRICE_DIALS = {
    "price": ("Price", {words: name for name, words in PRICES.items()}, "state", "What is counted"),
    "d_model": ("Width d", [32, 64, 128, 256, 512], 64, "Of the residual stream"),
    "context_len": ("Context", [32, 128, 512, 2048, 8192], 128, "Tokens; 2 heads throughout"),
}
WORDS = {  # of a corpus
    "tales": "made-up tales",
    "recall": "recall",
    "in_context": "chains in context",
    "python_reference": "Python reference",
    "children": "children's books",
    "wikitext2": "Wikipedia",
    "tinyshakespeare": "Shakespeare",
}
AXES = {"label": "Entry M[t, s]", "x_label": "Read: s", "y_label": "Reading: t"}
SIZES = ("d_model", "context_len", "n_heads")  # of a record, that prices depend on
NOT_RECORDED = "not recorded yet"
DARK = 0.6  # shares below it are dark fields, with white numbers


def example(structure: str, n_tokens: int, fade: float = 0.7) -> Floats:
    """Return a matrix of one structure, from the same positive numbers for all."""
    draw = numpy_generator(0, "structure").uniform
    full, q, k = draw(0.1, 1, (n_tokens, n_tokens)), *draw(0.1, 1, (2, n_tokens, 1))
    if structure == "softmax":
        size = np.tril(np.exp(6 * q @ k.T))
        return size / size.sum(1, keepdims=True)
    if structure == "Toeplitz":
        return read_lags(full[0])
    if structure == "semiseparable":
        return decayed(q, k, np.full(n_tokens, fade))
    return np.tril(q @ k.T if structure == "low rank" else full)


@picture
def structure(structure: str, n_tokens: int = 8, fade: float = 0.7):
    """One matrix, and the rank of the block that links the first half with the second."""
    M, half = example(structure, n_tokens, fade), n_tokens // 2
    names = [str(t) for t in range(1, n_tokens + 1)]
    heat = matrix(np.where(np.tri(n_tokens) > 0, M, np.nan), x_ticks=names,
                  y_ticks=names, **AXES)  # fmt: skip
    rank = int(np.linalg.matrix_rank(M[half:, :half], tol=1e-9))
    heat.ax.plot([0, half, half], [half, half, n_tokens], color="white", linewidth=2)
    return heat.fig, (
        f"{structure.capitalize()}: {n_tokens * (n_tokens + 1) // 2} entries from "
        f"{STRUCTURES[structure](n_tokens)} numbers. The framed block, all that the last {half} "
        f"tokens learn of the first {half}, has rank {rank}: so many numbers a value are kept."
    )


@picture
def contact_sheet(found: Mapping[str, Floats], *, words: Sequence[str]):
    """One part of every mixer's matrix on the same words, each on its own scale."""
    columns = min(6, len(found))
    rows = -(-len(found) // columns)
    axes = np.atleast_1d(new_axes(size=(1.5 * columns, 1.75 * rows), rows=rows, columns=columns))
    for ax in axes.flat:
        ax.set_axis_off()
    blind = []
    for ax, (name, parts) in zip(axes.flat, found.items(), strict=False):
        ax.set_axis_on()
        top = float(np.abs(parts[0]).max()) or 1.0
        ax.imshow(parts[0], cmap="RdBu", vmin=-top, vmax=top)
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel(look(name).label.replace(" (no mixing)", ""), size=8)
        ax.spines[:].set_visible(True)
        blind += [name] * bool(np.allclose(parts[0], read_lags(parts[0][:, 0])))
    same = listed([look(name).label for name in blind])
    return axes.flat[0].figure, (
        f"What each of {len(found)} mixers does with the same {len(words)} tokens: rows read, "
        "columns are read; blue adds, red takes away, each on its own scale. "
        + (f"The same along every diagonal: {same}." if blind else "")
    )


@picture
def on_sentence(found: Mapping[str, Floats], mixer: str, part: int, *, words: Sequence[str]):
    """One head or channel of one mixer on a sentence."""
    part = min(part, len(found[mixer]))
    M = found[mixer][part - 1]
    side = 2.6 + 0.2 * len(words)
    heat = matrix(np.where(np.tri(len(M)) > 0, M, np.nan), is_difference=True, x_ticks=words,
                  y_ticks=words, ax=new_axes(size=(side + 0.6, side)), **AXES)  # fmt: skip
    back = np.abs(np.tril(M, -1))
    t, s = np.unravel_index(int(back.argmax()), back.shape)
    total = np.abs(M).sum() or 1.0
    return heat.fig, (
        f"{look(mixer).label}, head or channel {part} of the {len(found[mixer])} that look back "
        f"most: {back.sum() / total:.0%} of all weight lies off the diagonal; most from "
        f"“{words[s]}” to “{words[t]}” ({M[t, s]:+.2f})."
    )


def sentence_dials(found: Mapping[str, Floats]) -> dict[str, tuple]:
    """Return the dials of ``on_sentence``."""
    labels = {look(name).label: name for name in found}
    most = max(len(parts) for parts in found.values())
    return {
        "mixer": ("Mixer", labels, max(found, key=lambda n: n == "attention"), "Whose matrix"),
        "part": ("Head or channel", 1, 1, max(most, 2), 1, "Beyond the last one the last is shown"),
    }


@picture
def price_bars(price: str = "state", d_model: int = 64, context_len: int = 128):
    """What every mixer costs, from its closed form, on a scale of powers."""
    table = prices(d_model, context_len)
    ordered = sorted(table, key=lambda name: (table[name][price], name))
    ax, own = new_axes(size=(7.0, 0.22 * len(ordered) + 0.9)), table["attention"][price]
    for place, name in enumerate(ordered):
        n, style = table[name][price], look(name)
        ax.plot([1, max(n, 1)], [place, place], color=style.colour, linestyle=style.dash)
        ax.plot(max(n, 1), place, linestyle="none", **style.points())
    ax.axvline(max(own, 1), color=look("attention").colour, linewidth=0.8)
    ax.set_xscale("log")
    labels = [look(name).label for name in ordered]
    ax.set(yticks=range(len(ordered)), yticklabels=labels, xlabel=f"{PRICES[price]}, one layer")
    ax.tick_params(axis="y", labelsize=8)
    below = sum(table[name][price] < own for name in ordered)
    per = " a token" if price == "work" else ""
    return ax, (
        f"{PRICES[price]}{per} of one layer, d = {d_model}, {context_len:,} tokens: attention "
        f"{own:,}, {below} of {len(ordered)} mixers less. Most: {labels[-1]}, "
        f"{table[ordered[-1]][price]:,}. No mixing costs nothing and stands at 1."
    )


def _empty(ax: Axes, said: str) -> tuple[Axes, str]:
    ax.text(0.5, 0.5, said, ha="center", va="center", transform=ax.transAxes)
    ax.set_axis_off()
    return ax, f"{said}: attnlab study run mixers --scale classroom fills this picture."


@picture
def the_map(table: pd.DataFrame):
    """Share of the way from no mixing to the best possible: a row a mixer, a column a task.

    Args:
        table: From ``fair.shares_of_the_way``.
    """
    if table.empty:
        return _empty(new_axes(), f"Mixer by task: {NOT_RECORDED}")
    wide = table.pivot(index="variant", columns="corpus", values="share")
    wide = wide[sorted(wide, key=[*WORDS, *wide].index)]
    wide = wide.loc[wide.mean(axis=1).sort_values(ascending=False, kind="stable").index]
    names = [WORDS.get(name, name) for name in wide]
    heat = matrix(wide.clip(lower=0), label="Share of the way", limit=1.0, x_label="Task",
                  y_label="Mixer", x_ticks=names, y_ticks=[look(n).label for n in wide.index],
                  ax=new_axes(size=(2.8 + 0.95 * len(names), 1.6 + 0.22 * len(wide))))  # fmt: skip
    ax = heat.ax
    ax.set_yticks(np.arange(len(wide)) + 0.5, [look(name).label for name in wide.index], size=8)
    for row, column in np.argwhere(wide.notna().to_numpy()):
        value = round(wide.iloc[row, column], 2) + 0.0
        colour = "white" if value < DARK else "black"
        ax.text(
            column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", size=7, color=colour
        )
    missing = int(wide.isna().to_numpy().sum())
    first = wide.iloc[:, 0].idxmax()
    few, most = table["n_seeds"].min(), table["n_seeds"].max()
    seeds = f"{few}" if few == most else f"{few} to {most}"
    open_ended = [
        WORDS.get(n, n) for n in wide if not table[table["corpus"] == n]["is_floor"].all()
    ]
    return heat.fig, (
        f"Share of the way from no mixing to the best possible, equal weights, mean over seeds "
        f"({seeds}). Furthest on {names[0]}: {look(first).label}, {wide.iloc[:, 0].max():.2f}. "
        + (
            f"No floor is known for {listed(open_ended)}: 1 is the best recorded. "
            if open_ended
            else ""
        )
        + (f"White: {missing} {NOT_RECORDED}." if missing else "")
    )


@picture
def one_of_the_map(runs: pd.DataFrame, table: pd.DataFrame, mixer: str, task: str):
    """One mixer on one task among all others, and in words how well and at what price."""
    ax = new_axes(size=(6.4, 4.2))
    rows = table[table["corpus"] == task]
    found = rows[rows["variant"] == mixer]
    where = WORDS.get(task, task)
    if found.empty:
        return _empty(ax, f"{look(mixer).label} on {where}: {NOT_RECORDED}")
    one = found.iloc[0]
    families = list(dict.fromkeys(look(name).family for name in rows["variant"]))
    width = np.ptp(rows[["best_nats", "nothing_nats", "loss_nats"]].to_numpy())
    for place, family in enumerate(families):
        of_it = rows[[look(name).family == family for name in rows["variant"]]]
        heights = beside(of_it["loss_nats"].to_numpy(), apart=0.03 * width)
        for name, loss, height in zip(of_it["variant"], of_it["loss_nats"], heights, strict=True):
            ax.plot(loss, place + 0.18 * height, ls="none", **look(name).points() | {"ms": 6})
    mine = runs[(runs["corpus"] == task) & (runs["variant"] == mixer)]
    ax.plot(mine["test_loss_nats"], [len(families)] * len(mine), "|", color="black", markersize=12)
    ax.plot(one["loss_nats"], len(families), linestyle="none", **look(mixer).points())
    ax.axvline(one["best_nats"], color="black", linestyle="dotted")
    ax.axvline(one["nothing_nats"], color=look("identity").colour, linestyle="dashed")
    ax.set(yticks=range(len(families) + 1),
           yticklabels=[*(f"All: {family}" for family in families), look(mixer).label],
           ylim=(-0.6, len(families) + 0.6), xlabel="Test loss (nats per token)")  # fmt: skip
    end = "the best " + ("possible" if one["is_floor"] else "recorded")
    baseline = runs[(runs["corpus"] == task) & (runs["variant"] == "attention")]
    slow = mine["seconds"].mean() / baseline["seconds"].mean() if len(baseline) else np.nan
    time = "" if np.isnan(slow) else f"; training took {slow:.1f} × as long as with attention"
    rank = int((rows["loss_nats"] < one["loss_nats"]).sum()) + 1
    right = mine["test_accuracy"].mean()
    told = "" if np.isnan(right) else f"; {right:.0%} of the answers right"
    both = (mine, baseline if len(baseline) else mine)
    own, rival = ({name: int(part.iloc[0][name]) for name in SIZES} for part in both)
    return ax, (
        f"On {where} {look(mixer).label} goes {one['share']:.2f} of the way from no mixing "
        f"(dashed) to {end} (dotted), rank {rank} of {len(rows)}. Share {one['low']:.2f} to "
        f"{one['high']:.2f} over {one['n_seeds']} seed{'s' * int(one['n_seeds'] != 1)}, "
        f"{one['loss_nats'] - one['best_nats']:.3f} nats from the dotted line{told}. "
        f"{price_words(mixer, own, rival)}{time}."
    )


def beside(values: Floats, *, apart: float) -> list[int]:
    """Return a row for each value, 0, 1, -1, 2, ...: in none are two of them nearer than that."""
    rows, last = [0] * len(values), dict[int, float]()
    for i in np.argsort(values, kind="stable"):
        tried = (step // 2 * (-1) ** step for step in range(1, len(values) + 2))
        rows[i] = next(row for row in tried if values[i] - last.get(row, -np.inf) >= apart)
        last[rows[i]] = values[i]
    return rows


def map_dials(table: pd.DataFrame) -> dict[str, tuple]:
    """Return the dials of ``one_of_the_map``: what is recorded, or a single pair of names."""
    names = list(dict.fromkeys(table["variant"])) or ["attention"]
    tasks = list(dict.fromkeys(table["corpus"])) or ["tales"]
    labels = {look(name).label: name for name in names}
    mixer = "attention" if "attention" in names else names[0]
    return {
        "mixer": ("Mixer", labels, mixer, "Which row of the map"),
        "task": ("Task", {WORDS.get(n, n): n for n in tasks}, tasks[0], "Which column of the map"),
    }
