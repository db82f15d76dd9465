"""Pictures of notebook 11: what states hold, what rows ask, who learns it, who reads how well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle
from numpy.typing import NDArray

from attnlab.chapters.recall_and_state import live
from attnlab.seeding import numpy_generator
from attnlab.show import LOOKS, figure, final_gaps, look, new_axes, picture
from attnlab.show.style import NO_FAMILY
from attnlab.sources import ChainsInContext
from attnlab.sources.recall import BLANK, IGNORED, RecallSource, recall_source
from attnlab.tasks.in_context import readers_nats

GREY = LOOKS["table"].colour
KINDS = {"pairs": "mqar", "with noise": "noisy", "keys of two tokens": "fuzzy",
         "after a marker": "induction", "in order": "copying"}  # fmt: skip
RULE_LOOKS = {"sum": "linear_attention", "delta": "she", "delta_10": "he", "best": "oracle"}
STATE_DIALS = {
    "n_numbers": ("Numbers in the state", 16, 4, 64, 4, "How many numbers are handed on"),
    "bits": ("Bits of a number", 8, 1, 32, 1, "How finely each number is kept"),
    "n_values": ("Different values", 16, 2, 64, 2, "Out of how many the answer is one"),
}
MEMORY_DIALS = {
    "d_key": ("Width of a key d", [8, 16, 32], 16, "The matrix has d times d numbers"),
    "kind": ("Keys", live.KEY_KINDS, "random", "Orthogonal: as long as there is room"),
    "quantity": ("Shown", {"error": "error", "found again": "found"}, "error",
                 "Relative error of what is read, or share whose nearest value is the right one"),
}  # fmt: skip
ROW_DIALS = {
    "kind": ("Question", KINDS, "mqar", "What is asked"),
    "load": ("Load", 3, 2, 5, "Pairs, letters; after a marker: four times as many tokens"),
    "row": ("Row", 0, 0, 20, "Another row of the same kind"),
}
READER_DIALS = {
    "n_symbols": ("Symbols V", 4, 2, 12, "Size of the vocabulary"),
    "order": ("Order", [0, 1, 2], 1, "Symbols that decide the next one's law"),
    "alpha": ("α", 0.3, 0.1, 3.0, 0.1, "Low: few symbols follow each context"),
}
READERS = {  # label and look
    "unigram": ("counts single symbols", "unigram"),
    "bigram": ("counts pairs", "bigram"),
    "oracle": ("best reader", "oracle"),
    "knowing": ("knows the chain", "n_gram"),
}


@picture
def capacity(*, n_numbers: int, bits: int, n_values: int):
    """The share of right answers that no state of this size exceeds, by the number of pairs."""
    total = n_numbers * bits
    most = live.most_pairs(n_numbers, bits=bits, n_values=n_values)
    counts = np.unique(np.geomspace(1, 8 * max(most, 4), 60).astype(int))
    bound = [live.best_accuracy(int(n), n_bits=total, n_values=n_values) for n in counts]
    ax = new_axes()
    ax.plot(counts, bound, color="black", label="no state of this size exceeds this")
    ax.axhline(1 / n_values, color=GREY, linestyle=LOOKS["table"].dash, label="guessing")
    ax.axvline(max(most, 1), color=NO_FAMILY[0], linestyle="dotted", label="all right: at most")
    ax.set(xscale="log", ylim=(0, 1.05), xlabel="Pairs n", ylabel="Share of right answers")
    ax.legend()
    twice = live.best_accuracy(max(1, 2 * most), n_bits=total, n_values=n_values)
    return ax, (
        f"{n_numbers} numbers of {bits} bits hold {total} bits: {most} pairs of {n_values} values "
        f"at most. Of twice as many, no more than {twice:.0%} can be answered."
    )


@picture
def memory_errors(*, d_key: int, kind: str, quantity: str):
    """What one matrix gives back, by rule and number of pairs: measured, and closed forms."""
    counts = tuple(sorted({2, d_key // 4, d_key // 2, 3 * d_key // 4, d_key, 5 * d_key // 4,
                           3 * d_key // 2, 2 * d_key, 3 * d_key}))  # fmt: skip
    ax, at_d, column = new_axes(), {}, {"error": 0, "found": 1}[quantity]
    for rule, (label, _) in live.RULES.items():
        measured = live.measured_errors(counts, d_key=d_key, kind=kind, rule=rule)
        one, values = look(RULE_LOOKS[rule]), [each[column] for each in measured]
        marker = "v" if rule == "best" else one.marker
        ax.plot(counts, values, linestyle="none", color=one.colour, marker=marker, label=label)
        at_d[label] = values[counts.index(d_key)]
        if quantity == "error":
            n = np.arange(2, 3 * d_key + 1)
            expected = live.expected_error(n, d_key=d_key, rule=rule, kind=kind)
            ax.plot(n, expected, color=one.colour, linestyle="dotted")
    ax.axvline(d_key, color=GREY, lw=0.8)
    is_error = quantity == "error"
    name = "Relative error" if is_error else "Share of values found again"
    ax.set(xlabel=f"Pairs n (line: d = {d_key})", ylabel=name, ylim=(0, None))
    ax.legend()
    said = ", ".join(f"{label} {value:.2f}" for label, value in at_d.items())
    dots = " Dotted: closed forms." if is_error else ""
    return ax, f"{name} at n = d = {d_key}, {kind} keys: {said}.{dots} Mean of 8 draws."


@picture
def question_row(*, kind: str, load: int, row: int):
    """One row of a recall task: its tokens, what is asked where, and where the answer was said."""
    source = recall_source(kind)
    load = min(4 * load if kind == "induction" else load, source.most())
    generator = numpy_generator(row, f"shown/{kind}")
    tokens, targets = (part[0] for part in source.draw(1, load=load, generator=generator))
    ax = new_axes(size=(6.4, 1.9))
    for t, (token, target) in enumerate(zip(tokens, targets, strict=True)):
        colour = _colour(source, int(token))
        ax.add_patch(Rectangle((t, 0), 1, 1, facecolor=colour, edgecolor="#AAAAAA", alpha=0.45))
        if token != BLANK:
            ax.text(t + 0.5, 0.5, str(token), ha="center", va="center", fontsize=7)
        if target != IGNORED:
            ax.text(t + 0.5, -0.5, str(target), ha="center", va="center", fontsize=7, weight="bold")
            said = _said_at(tokens, targets, t, kind)
            if said is not None:
                arc = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=0.3", "lw": 0.8}
                arc |= {"color": GREY, "mutation_scale": 6}
                ax.add_patch(FancyArrowPatch((t + 0.5, 1), (said + 0.5, 1), **arc))
    ax.set(xlim=(0, source.time), ylim=(-1, 5.5), xlabel="Position", yticks=[0.5, -0.5],
           yticklabels=["Token", "Answer"], ylabel="")  # fmt: skip
    n_asked = int((targets != IGNORED).sum())
    name = next(label for label, value in KINDS.items() if value == kind)
    answers = [int(answer) for answer in targets[targets != IGNORED]]
    return ax, (
        f"A row of {source.time} tokens, {name}, load {load}: {n_asked} "
        f"{'question' if n_asked == 1 else 'questions'}; an arrow leads to where the answer was "
        f"said. The answers are {', '.join(map(str, answers))}."
    )


def _colour(source: RecallSource, token: int) -> str:
    n_symbols = getattr(source, "_n_symbols", None)
    if token == BLANK:
        return "white"
    if n_symbols is None:  # letters and a marker
        return LOOKS["attention"].colour if token == source.vocab_size - 1 else LOOKS["she"].colour
    if token <= n_symbols:
        return LOOKS["attention"].colour
    return LOOKS["she"].colour if token <= n_symbols + source.n_answers else GREY


def _said_at(tokens: NDArray, targets: NDArray, t: int, kind: str) -> int | None:
    """Return where the answer to the question at t was said; None if it was said wrongly."""
    if kind == "copying":
        letters = np.flatnonzero(tokens[: len(tokens) - (targets != IGNORED).sum()] != BLANK)
        return int(letters[(targets[:t] != IGNORED).sum()])
    if kind == "induction":
        return int(np.flatnonzero(tokens == tokens[t])[0]) + 1
    earlier = np.flatnonzero(tokens[:t] == targets[t])
    return int(earlier[0]) if len(earlier) else None


@picture
def learning(curves: pd.DataFrame, *, levels: Mapping[str, float]):
    """Share of right answers by training step, with what simpler knowledge gives.

    Args:
        curves: Rows with ``name``, ``step`` and ``accuracy``.
        levels: Shares by label.
    """
    ax = new_axes()
    ends = {}
    for name, rows in curves.groupby("name", sort=False):
        ax.plot(rows["step"], rows["accuracy"], markevery=0.1, **look(str(name)).line())
        ends[look(str(name)).label] = rows["accuracy"].iloc[-1]
    for (label, level), dash in zip(levels.items(), ("dotted", "dashdot"), strict=False):
        ax.axhline(level, color=GREY, linestyle=dash, label=label)
    ax.set(xlabel="Training steps", ylabel="Share of right answers (validation)", ylim=(0, 1.05))
    ax.legend()
    said = ", ".join(f"{label} {value:.0%}" for label, value in ends.items())
    lines = ", ".join(f"{label} {level:.0%}" for label, level in levels.items())
    return ax, f"Right answers at the end: {said}. For comparison: {lines}. One seed."


# Records ------------------------------------------------------------------------------------------


def nothing_recorded(corpus: str) -> tuple[Axes, str]:
    """Return an empty picture that says how to fill it."""
    ax = new_axes(size=(6.4, 1.2))
    ax.set(xticks=[], yticks=[])
    command = f"attnlab study run mixers --scale classroom --corpus {corpus}"
    ax.text(0.5, 0.5, command, ha="center", va="center", family="monospace", fontsize=8)
    return ax, f"No run of the study mixers on {corpus} is recorded here; this command makes them."


@figure("recall-by-load", records="mixers/classroom/recall")
@picture
def recorded_recall():
    """Accuracy of every recorded mixer at each load, best on top."""
    return draw_recall(live.recorded("recall"))


def draw_recall(runs: pd.DataFrame) -> tuple[Axes, str]:
    """Draw the share of right answers by load, one row a mixer, the range over seeds as a bar."""
    loads = sorted(int(name.split("_")[1]) for name in runs if str(name).endswith("_accuracy")
                   and str(name).startswith("load_"))  # fmt: skip
    if runs.empty or not loads:
        return nothing_recorded("recall")
    columns = [f"load_{load}_accuracy" for load in loads]
    names = runs.groupby("variant")[columns].mean().mean(axis=1).sort_values(ascending=False).index
    ax = new_axes(size=(6.4, 1.2 + 0.24 * len(names)))
    shades = dict(zip(loads, ("#B8CCE4", "#5B84B1", "#1B365D", "black"), strict=False))
    for y, name in enumerate(names):
        for load, column, marker in zip(loads, columns, "os^v", strict=False):
            shares = runs[runs["variant"] == name][column]
            label = f"{load} pairs" if y == 0 else None
            ax.hlines(y, shares.min(), shares.max(), color=shades[load], lw=3, alpha=0.5)
            ax.plot(shares.mean(), y, marker, color=shades[load], label=label)
    for load in loads:
        ax.axvline(1 / load, color=shades[load], lw=0.8, linestyle="dotted")
    ax.set_yticks(range(len(names)), [look(str(name)).label for name in names])
    ax.set(xlabel="Share of right answers (test)", ylabel="", xlim=(0, 1.03))
    ax.invert_yaxis()
    ax.legend(loc="lower right")
    hardest = runs.groupby("variant")[columns[-1]].mean().loc[names]
    solved = [look(str(name)).label for name in names if hardest[name] > 0.95]
    n_seeds = runs.groupby("variant")["seed"].nunique()
    seeds = f"{n_seeds.min()} to {n_seeds.max()}" if n_seeds.nunique() > 1 else f"{n_seeds.min()}"
    said = ", ".join(f"{look(str(name)).label} {hardest[name]:.0%}" for name in names)
    return ax, (
        f"{len(solved)} of {len(names)} mixers answer more than 95% at {loads[-1]} pairs. Dotted: "
        f"who knows which values were said, not of which key. At {loads[-1]} pairs: {said}. Seeds "
        f"of a mixer: {seeds}; the bar is their range."
    )


# Languages in context -----------------------------------------------------------------------------


def reader_table(source: ChainsInContext, *, n_rows: int = 400) -> pd.DataFrame:
    """Return the readers' mean losses by position on rows of chains of their own."""
    generator = numpy_generator(0, "readers")
    chains = source.draw_chains(n_rows, generator=generator)
    rows = source.draw_rows(chains, generator=generator)
    losses = readers_nats(source, rows, chains)
    table = {name: each.mean(0) for name, each in losses.items()}
    return pd.DataFrame({"position": np.arange(1, source.time + 1), **table})


@picture
def readers(*, n_symbols: int, order: int, alpha: float):
    """The losses of four readers by position, for chains of these dials."""
    source = ChainsInContext(n_symbols=n_symbols, order=order, alpha=alpha)
    table = reader_table(source)
    ax = new_axes()
    draw_readers(ax, table)
    ax.legend()
    late = table[table["position"] > source.time - 16].mean()
    return ax, (
        f"Chains of order {order} over {n_symbols} symbols, α = {alpha:.1f}. At the last 16 "
        f"positions: {_said({label: late[name] for name, (label, _) in READERS.items()})} nats. "
        f"400 chains."
    )


def draw_readers(ax: Axes, table: pd.DataFrame, *, names: Sequence[str] = tuple(READERS)) -> None:
    """Draw readers by position into axes."""
    for name in names:
        label, like = READERS[name]
        line = {**look(like).line(), "label": label, "marker": "None"}
        ax.plot(table["position"], table[name], **line)
    ax.set(xlabel="Tokens read", ylabel="Loss of the next one (nats)", ylim=(0, None))


@picture
def models_and_readers(table: pd.DataFrame, models: Mapping[str, Any]):
    """The losses of trained models by position, between the readers' that bound them.

    Args:
        table: Columns ``position`` and the readers, on the rows that the models read.
        models: By mixer, losses by position.
    """
    ax, late = new_axes(), len(table) // 2
    draw_readers(ax, table)
    gaps = {}
    for name, losses in models.items():
        ax.plot(table["position"], losses, markevery=0.1, **look(name).line())
        gaps[look(name).label] = float(np.mean((np.asarray(losses) - table["oracle"])[late:]))
    ax.legend()
    return ax, f"In the later half, above the best reader: {_said(gaps)} nats. One seed."


@figure("in-context-gap", records="mixers/classroom/in_context")
@picture
def recorded_in_context():
    """Gap of every recorded mixer to the best reader, best on top."""
    return draw_in_context(live.recorded("in_context"))


def draw_in_context(runs: pd.DataFrame) -> tuple[Axes, str]:
    """Draw the gap to the best reader, one row a mixer, each seed and their range."""
    if runs.empty or "test_gap_nats" not in runs:
        return nothing_recorded("in_context")
    drawn = final_gaps(runs.assign(name=runs["variant"], loss_nats=runs["test_gap_nats"]))
    unigram = float((runs["unigram_nats"] - runs["oracle_nats"]).mean())
    for gap, dash in ((0.0, "dotted"), (unigram, LOOKS["table"].dash)):
        drawn.ax.axvline(gap, color=GREY, linestyle=dash)
    drawn.ax.set(xlabel="Test loss minus best reader (nats per token)")
    return drawn.ax, (
        f"Gap to the best reader, dotted at 0; dashed: counting single symbols, {unigram:.2f}. "
        f"{drawn.words}"
    )


def _said(values: Mapping[str, float]) -> str:
    return ", ".join(f"{label} {value:.2f}" for label, value in values.items())
