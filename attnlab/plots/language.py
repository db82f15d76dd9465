"""Pictures of the language-model study: gaps, differences, books, context; and their words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from attnlab.errors import AttnlabError
from attnlab.plots.curves import final_losses
from attnlab.show.style import look, new_axes

ROW_IN = 0.34  # inches a row of a dot plot takes
GREY = "#6E6E6E"
LATE = 0.2  # from this share of a run on, differences are worth drawing
SIZES = {
    "layers": "config.model.n_layers",
    "context": "config.model.context_len",
    "vocabulary": "config.model.vocab_size",
    "steps": "config.train.n_steps",
    "windows a batch": "config.train.batch_size",
    "tokens seen": "tokens_seen",
}


def describe_runs(runs: pd.DataFrame) -> str:
    """Say which records a result rests on: experiment, sizes, seeds, tokens, commit.

    Args:
        runs: From ``records.load_runs``, one row a run.
    """
    if not len(runs):
        return "No run is recorded."
    one = runs.iloc[-1]
    sizes = ", ".join(
        f"{label} {one[column]:,.0f}"
        for label, column in SIZES.items()
        if column in runs.columns and runs[column].nunique() == 1
    )
    seeds = ", ".join(str(seed) for seed in sorted(runs["seed"].unique()))
    word = "seed" if runs["seed"].nunique() == 1 else "seeds"
    commits = ", ".join(sorted(set(runs["commit"].astype(str)))) if "commit" in runs else ""
    return (
        f"Records {one['experiment']}: {len(runs)} runs of {runs['variant'].nunique()} variants, "
        f"{word} {seeds}; {sizes}. Commit {commits or 'unknown'}."
    )


def in_words(name: str) -> str:
    """Return the label of a model as it stands inside a sentence: ``attention``, ``SHE``."""
    label = look(name).label
    return label if label[:2].isupper() else label[0].lower() + label[1:]


def plot_paired_differences(differences: pd.DataFrame, *, baseline: str, what: str) -> Axes:
    """Draw the mean difference to a baseline with its interval, one row a variant.

    Args:
        differences: Rows with ``variant``, ``mean``, ``low``, ``high``; see
            ``analysis.compare.paired_differences``.
        baseline: What was subtracted; it is the line at zero.
        what: Quantity of the axis, for example ``Test loss``.
    """
    ax = _row_axes(len(differences))
    for row, one in enumerate(differences.itertuples()):
        colour = look(one.variant).colour
        if np.isfinite(one.low):
            ax.hlines(row, one.low, one.high, color=colour, lw=2.5, alpha=0.5)
        ax.plot([one.mean], [row], linestyle="none", **look(one.variant).points())
    ax.axvline(0.0, color=look(baseline).colour, lw=1.2)
    _name_rows(ax, differences["variant"])
    ax.set(xlabel=f"{what} minus that of {in_words(baseline)} (nats per token)")
    return ax


def describe_paired_differences(differences: pd.DataFrame, *, baseline: str) -> str:
    """Say which differences have an interval that leaves zero out, and how many pairs there are."""
    if not len(differences):
        return "No pair of runs to compare."
    parts = []
    for one in differences.itertuples():
        interval = f" ({one.low:+.3f} to {one.high:+.3f})" if np.isfinite(one.low) else ""
        parts.append(f"{look(one.variant).label} {one.mean:+.3f}{interval}")
    doubtful = [
        look(one.variant).label
        for one in differences.itertuples()
        if not (one.low > 0 or one.high < 0)
    ]
    words = (
        f"Mean paired difference to {in_words(baseline)} in nats per token, with 95 % "
        f"interval over {_seeds(differences['n_pairs'])}: {'; '.join(parts)}."
    )
    if not doubtful:
        return f"{words} No interval contains zero."
    return f"{words} Not distinguishable from it at this budget: {', '.join(doubtful)}."


def describe_ranking(ranges: pd.DataFrame, *, what: str = "loss") -> str:
    """Say the order of the variants, and which neighbours their seeds cannot tell apart.

    Args:
        ranges: Rows ``variant``, ``n_seeds``, ``mean``, ``lowest``, ``highest``, best first;
            see ``analysis.compare.seed_ranges``.
        what: What was measured.
    """
    if not len(ranges):
        return "No run to rank."
    parts = [
        f"{look(one.variant).label} {one.mean:.3f} ({one.lowest:.3f} to {one.highest:.3f})"
        for one in ranges.itertuples()
    ]
    words = (
        f"Mean {what} in nats per token, lowest first, with the range over "
        f"{_seeds(ranges['n_seeds'])}: {', '.join(parts)}."
    )
    if ranges["n_seeds"].max() < 2:
        return f"{words} One seed each: the order is not distinguishable from chance."
    close = [
        f"{look(a.variant).label} and {look(b.variant).label}"
        for a, b in pairwise(ranges.itertuples())
        if a.highest >= b.lowest
    ]
    if not close:
        return f"{words} No two neighbours overlap."
    return (
        f"{words} Neighbours whose ranges overlap, so that ranges alone do not order them: "
        f"{'; '.join(close)}."
    )


def describe_verdicts(verdicts: pd.DataFrame) -> str:
    """Return one Markdown line a claim: what is said, the measured difference, the verdict.

    Args:
        verdicts: Rows of ``analysis.compare.judge_claims``.
    """
    lines = []
    for one in verdicts.itertuples():
        pair = f"{look(one.variant).label} minus {in_words(one.baseline)}"
        interval = f" (95 % interval {one.low:+.3f} to {one.high:+.3f})"
        shown = interval if np.isfinite(one.low) else ""
        lines.append(
            f"- *{one.says}*: **{one.verdict}**. {pair}: {one.mean:+.3f} nats per token"
            f"{shown}, {_seeds(pd.Series([one.n_pairs]))}."
        )
    return "\n".join(lines) or "No recorded run speaks to these claims."


def plot_curves_and_differences(curves: pd.DataFrame, *, baseline: str) -> Figure:
    """Draw loss curves, and beside them their late part minus the baseline's, seed by seed.

    Args:
        curves: Rows ``name``, ``seed``, ``tokens_seen``, ``loss_nats``, all at the same points.
        baseline: Name of the curve to subtract.
    """
    grid = {"figsize": (7.6, 3.7), "width_ratios": (1, 1.1), "layout": "constrained"}
    fig, (left, right) = plt.subplots(1, 2, **grid)
    late = _late(curve_differences(curves, baseline=baseline))
    for ax, table in ((left, curves), (right, late)):
        for name in dict.fromkeys(table["name"]):
            own = table[table["name"] == name].groupby("tokens_seen")["loss_nats"]
            over = own.agg(["mean", "min", "max"])
            ax.plot(over.index, over["mean"], markevery=0.2, **look(name).line())
            colour = look(name).colour
            ax.fill_between(over.index, over["min"], over["max"], color=colour, alpha=0.15, lw=0)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    right.axhline(0.0, color=look(baseline).colour, lw=1.2)
    left.set_xscale("log")
    left.xaxis.set_major_formatter(EngFormatter(sep=""))
    left.set(xlabel="Tokens seen (log scale)", ylabel="Validation loss (nats per token)")
    right.set(xlabel="Tokens seen", ylabel=f"Minus {in_words(baseline)} (nats per token)")
    handles, labels = left.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=3)
    return fig


def describe_curves_and_differences(curves: pd.DataFrame, *, baseline: str) -> str:
    """Say the final losses and whether the sign of each difference changed late in the run."""
    ends = final_losses(curves)
    parts = ", ".join(f"{look(str(name)).label} {loss:.3f}" for name, loss in ends.items())
    late = _late(curve_differences(curves, baseline=baseline))
    means = late.groupby(["name", "tokens_seen"])["loss_nats"].mean()
    signs = np.sign(means).groupby("name").nunique()
    crossing = [look(str(name)).label for name, count in signs.items() if count > 1]
    crossed = f"is crossed by {', '.join(crossing)}" if crossing else "is crossed by none"
    seeds = _seeds(curves.groupby("name")["seed"].nunique())
    return (
        f"Left, validation loss over one run; final, in nats per token: {parts}. Right, the "
        f"difference to {in_words(baseline)} at the same seed over the last four fifths of the "
        f"run, in which it {crossed}. Bands: range over {seeds}."
    )


def _late(curves: pd.DataFrame) -> pd.DataFrame:
    return curves[curves["tokens_seen"] >= LATE * curves["tokens_seen"].max()]


def curve_differences(curves: pd.DataFrame, *, baseline: str) -> pd.DataFrame:
    """Subtract the baseline's loss at the same seed and number of tokens from every other curve."""
    keys = ["seed", "tokens_seen"]
    base = curves[curves["name"] == baseline].set_index(keys)["loss_nats"].rename("base")
    joined = curves[curves["name"] != baseline].join(base, on=keys).dropna(subset=["base"])
    return joined.assign(loss_nats=joined["loss_nats"] - joined["base"]).drop(columns="base")


def plot_cost_and_held_out(runs: pd.DataFrame, *, cost: str, held_out: str) -> Axes:
    """Draw what a run cost in training beside its held-out loss, one row a variant.

    Args:
        runs: One row a run with ``variant``, ``seed`` and both columns, in nats per token.
        cost: Column of the training cost: white pentagons.
        held_out: Column of the held-out loss: the variant's own marker.
    """
    means = runs.groupby("variant")[[cost, held_out]].mean().sort_values(held_out, kind="stable")
    ax = _row_axes(len(means), extra=0.5)
    for row, (variant, mean) in enumerate(means.iterrows()):
        own, colour = runs[runs["variant"] == variant], look(str(variant)).colour
        ax.plot(mean, [row, row], color=GREY, lw=0.8, zorder=1)
        for column in (cost, held_out):
            ax.plot(own[column], np.full(len(own), row), "|", color=colour, ms=11)
        ax.plot([mean[cost]], [row], "p", mfc="white", color=GREY, ms=7)
        ax.plot([mean[held_out]], [row], linestyle="none", **look(str(variant)).points())
    ax.plot([], [], "p", mfc="white", color=GREY, ms=7, linestyle="none", label="Training cost")
    ax.plot([], [], "o", color=GREY, linestyle="none", label="Held-out loss (own marker)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    _name_rows(ax, means.index)
    ax.set(xlabel="Loss (nats per token)")
    return ax


def describe_cost_and_held_out(runs: pd.DataFrame, *, cost: str, held_out: str) -> str:
    """Say both losses of each variant, and whether they put the variants in the same order."""
    means = runs.groupby("variant")[[cost, held_out]].mean().sort_values(held_out, kind="stable")
    parts = [
        f"{look(str(v)).label} {m[cost]:.3f} and {m[held_out]:.3f}" for v, m in means.iterrows()
    ]
    seeds = _seeds(runs.groupby("variant")["seed"].nunique())
    by_cost = list(means.sort_values(cost, kind="stable").index)
    same = "the same order" if by_cost == list(means.index) else "another order"
    return (
        f"Training cost and held-out loss in nats per token: {', '.join(parts)}. By training cost "
        f"the variants stand in {same}. Mean of {seeds}; each tick is one."
    )


def plot_losses_by_book(books: pd.DataFrame, *, metric: str = "loss_nats") -> Axes:
    """Draw the loss on each held-out book, one row a book, one marker a variant.

    Args:
        books: Rows with ``book``, ``variant``, ``seed`` and ``metric``; the marker is the mean
            over seeds, the bar their range.
        metric: ``loss_nats`` or ``bits_per_byte``.
    """
    _require_metric(books, metric)
    rows = list(books.groupby("book")[metric].mean().sort_values(kind="stable").index)
    variants = _best_first(books, metric)
    ax = _row_axes(len(rows), extra=0.9, row_in=0.5)
    for place, variant in zip(_spread(len(variants)), variants, strict=True):
        own = books[books["variant"] == variant].groupby("book")[metric]
        low, mean, high = (getattr(own, f)().reindex(rows) for f in ("min", "mean", "max"))
        where = np.arange(len(rows)) + place
        ax.hlines(where, low, high, color=look(variant).colour, lw=3, alpha=0.4)
        ax.plot(mean, where, linestyle="none", **_labelled(variant), ms=5)
    ax.set_yticks(range(len(rows)), [_short(book) for book in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    for edge in np.arange(len(rows) - 1) + 0.5:
        ax.axhline(edge, color="#DDDDDD", lw=0.6)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    ax.set(xlabel=_metric_label(metric))
    return ax


def describe_losses_by_book(books: pd.DataFrame, *, metric: str = "loss_nats") -> str:
    """Say which book is hardest, and whether one variant is best on every book."""
    _require_metric(books, metric)
    means = books.pivot_table(index="book", columns="variant", values=metric, aggfunc="mean")
    by_book = means.mean(axis=1).sort_values(kind="stable")
    best = means.idxmin(axis=1)
    wins = best.value_counts()
    unit = "nats per token" if metric == "loss_nats" else "bits per byte"
    spread = (means.max(axis=1) - means.min(axis=1)).mean()
    words = (
        f"Easiest book: {by_book.index[0]} ({by_book.iloc[0]:.2f} {unit}, mean of all); hardest: "
        f"{by_book.index[-1]} ({by_book.iloc[-1]:.2f}). Books differ by "
        f"{by_book.iloc[-1] - by_book.iloc[0]:.2f}, variants within a book by {spread:.2f}."
    )
    if len(wins) == 1:
        return f"{words} {look(best.iloc[0]).label} has the lowest mean on every book."
    shares = ", ".join(f"{look(v).label} on {n}" for v, n in wins.items())
    return f"{words} Lowest mean: {shares} of {len(means)} books."


def _row_axes(n_rows: int, *, extra: float = 0.0, row_in: float = ROW_IN) -> Axes:
    height = max(1.6, 0.8 + extra + row_in * n_rows)
    return new_axes(None, size=(6.4, height))


def _name_rows(ax: Axes, variants: Sequence[str]) -> None:
    ax.set_yticks(range(len(variants)), [look(str(name)).label for name in variants])
    ax.set_ylim(len(variants) - 0.5, -0.5)


def _labelled(variant: str) -> dict:
    return {**look(variant).points(), "label": look(variant).label}


def _best_first(table: pd.DataFrame, metric: str) -> list[str]:
    return list(table.groupby("variant")[metric].mean().sort_values(kind="stable").index)


def _spread(count: int) -> NDArray[np.float64]:
    return np.linspace(-0.32, 0.32, count) if count > 1 else np.zeros(1)


def _short(book: str, *, most: int = 26) -> str:
    return book if len(book) <= most else f"{book[: most - 1].rstrip()}…"


def _metric_label(metric: str) -> str:
    names = {"loss_nats": "Loss (nats per token)", "bits_per_byte": "Loss (bits per byte)"}
    return names.get(metric, metric)


def _require_metric(books: pd.DataFrame, metric: str) -> None:
    if metric not in books.columns:
        raise AttnlabError(
            f"The table of books has no column {metric!r}; it has "
            f"{', '.join(map(str, books.columns))}. Choose loss_nats or bits_per_byte."
        )


def _seeds(counts: pd.Series) -> str:
    fewest, most = int(counts.min()), int(counts.max())
    if fewest == most:
        return "1 seed" if most == 1 else f"{most} seeds"
    return f"{fewest} to {most} seeds"
