"""What chapter 04 shows: gaps, differences, books, context, keys of a memory, chances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from attnlab.analysis.compare import latest_runs, seed_ranges
from attnlab.errors import AttnlabError
from attnlab.markdown import markdown_table
from attnlab.records import load_curves, load_runs
from attnlab.show import (
    LOOKS,
    Picture,
    figure,
    final_gaps,
    final_losses,
    look,
    loss_curves,
    matrix,
    new_axes,
    picture,
)
from attnlab.show.style import NO_FAMILY
from attnlab.show.words import drawable
from attnlab.studies import fair

BOOKS = "language-model/paper/children"
TALES = "language-model/classroom/tales"
LATE = 0.2  # from this share of a run on, differences are worth drawing
GREY, QUIET = "#6E6E6E", "#BBBBBB"
FIRES, HARM, WRITES = NO_FAMILY
UNITS = {"nats per token": "loss_nats", "bits per byte": "bits_per_byte"}
N_POINTS = 40  # of a curve on the board
LOSSES = {"train_loss_nats": "Training cost", "test_loss_nats": "Loss on unseen books"}
SIZES = {
    "layers": "config.model.n_layers",
    "context": "config.model.context_len",
    "vocabulary": "config.model.vocab_size",
    "steps": "config.train.n_steps",
    "windows a batch": "config.train.batch_size",
    "tokens seen": "tokens_seen",
}


# Committed figures, and the words about records --------------------------------------------------


@figure("loss-children", records=BOOKS)
def loss_children() -> Picture:
    """Validation loss over one pass of a hundred children's books."""
    one = curves_and_differences(named_curves(BOOKS), baseline="attention")
    return one.saying(f"{one.words} {runs_in_words(latest_runs(load_runs(BOOKS)))}")


@figure("final-children", records=BOOKS)
def final_children() -> Picture:
    """Training cost and held-out loss after the pass over the books."""
    runs = latest_runs(load_runs(BOOKS))
    one = cost_and_held_out(runs, cost="train_loss_nats", held_out="test_loss_nats")
    ranking = ranking_in_words(seed_ranges(runs, metric="test_loss_nats"), what="test loss")
    return one.saying(f"{one.words} {ranking} {runs_in_words(runs)}")


@figure("tales-gap", records=TALES)
def tales_gap() -> Picture:
    """How far above the true source each model ends on the tales."""
    runs = latest_runs(load_runs(TALES))
    one = final_gaps(gap_table(runs), oracle_nats=0.0)
    return one.saying(f"{one.words} {runs_in_words(runs)}")


def named_curves(experiment: str) -> pd.DataFrame:
    """Return the curves of an experiment as ``loss_curves`` reads them."""
    curves = load_curves(experiment).rename(columns={"variant": "name"})
    return curves.drop_duplicates(["name", "seed", "tokens_seen"], keep="last")


def gap_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the gap to the true source of each run as ``final_gaps`` reads it."""
    table = runs[["variant", "seed", "test_gap_nats"]]
    return table.rename(columns={"variant": "name", "test_gap_nats": "loss_nats"})


def runs_in_words(runs: pd.DataFrame) -> str:
    """Say which records a result rests on: experiment, sizes, seeds, tokens, commit."""
    if not len(runs):
        return "No run is recorded."
    one, columns = runs.iloc[-1], [c for c in SIZES.values() if c in runs.columns]
    agreed = {c: one[c] for c in columns if runs[c].nunique() == 1}
    sizes = ", ".join(f"{label} {agreed[c]:,.0f}" for label, c in SIZES.items() if c in agreed)
    seeds = sorted(runs["seed"].unique())
    commits = ", ".join(sorted(set(runs["commit"].astype(str)))) if "commit" in runs else ""
    return (
        f"Records {one['experiment']}: {len(runs)} runs of {runs['variant'].nunique()} models, "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}; {sizes}. "
        f"Commit {commits or 'unknown'}."
    )


def ranking_in_words(ranges: pd.DataFrame, *, what: str = "loss") -> str:
    """Say the order of the variants, and which neighbours their seeds cannot tell apart.

    Args:
        ranges: From ``analysis.seed_ranges``, best first.
        what: What was measured.
    """
    if not len(ranges):
        return "No run to rank."
    parts = ", ".join(
        f"{look(one.variant).label} {one.mean:.3f} ({one.lowest:.3f} to {one.highest:.3f})"
        for one in ranges.itertuples()
    )
    words = (
        f"Mean {what} in nats per token, lowest first, with the range over "
        f"{seeds_in_words(ranges['n_seeds'])}: {parts}."
    )
    if ranges["n_seeds"].max() < 2:
        return f"{words} One seed each: the order is not distinguishable from chance."
    close = "; ".join(
        f"{look(a.variant).label} and {look(b.variant).label}"
        for a, b in pairwise(ranges.itertuples())
        if a.highest >= b.lowest
    )
    if not close:
        return f"{words} No two neighbours overlap."
    return (
        f"{words} Neighbours whose ranges overlap, so that ranges alone do not order them: {close}."
    )


def seeds_in_words(counts: pd.Series) -> str:
    """Say how many seeds there are: ``1 seed``, ``5 seeds``, ``1 to 5 seeds``."""
    fewest, most = int(counts.min()), int(counts.max())
    if fewest == most:
        return "1 seed" if most == 1 else f"{most} seeds"
    return f"{fewest} to {most} seeds"


def inside(name: str) -> str:
    """Return the label of a model as it stands inside a sentence: ``attention``, ``SHE``."""
    label = look(name).label
    return label if label[:2].isupper() else label[0].lower() + label[1:]


# Races, differences, books -----------------------------------------------------------------------


RACE_DIALS = {
    "n_steps": ("Steps", 100, 20, 400, 20, "Batches each model reads"),
    "context_len": ("Context (tokens)", [8, 16, 32], 32, "Longest prefix a model may read"),
    "n_layers": ("Layers", [1, 2], "Blocks in each model"),
    "lr": ("Learning rate", [0.003, 0.01, 0.03], 0.01, "Highest step size of the schedule"),
}  # fmt: skip


def race(laps: Sequence[tuple[str, Any]], *, oracle_nats: float) -> Picture:
    """The curves of a race on the tales so far, averaged over about forty stretches of steps.

    Args:
        laps: Name of a model and the ``StepLog`` of one step of it, in the order of training.
    """
    table = pd.DataFrame([(n, log.step, log.tokens_seen, log.loss_nats) for n, log in laps],
                         columns=["name", "step", "tokens_seen", "loss_nats"])  # fmt: skip
    width = max(1, -(-int(table["step"].max()) // N_POINTS))
    means = table.groupby(["name", (table["step"] - 1) // width], sort=False).agg(
        tokens_seen=("tokens_seen", "max"), loss_nats=("loss_nats", "mean")
    )
    curves = means.reset_index("name").assign(seed=0)
    one = loss_curves(curves, oracle_nats=oracle_nats, quantity="Training loss")
    one.fig.set_size_inches(7.4, 3.6)
    one.ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    one.ax.set_ylim(0, None)
    return one.saying(f"Training loss, averaged over short stretches of steps. {one.words}")


@picture
def loss_by_position(losses: Mapping[str, ArrayLike], *, oracle_nats: ArrayLike, late_from: int):
    """Loss against the tokens of context a window offers, and the true source's.

    Shapes:
        losses: by name, ``(context_len,)`` mean loss with 1, 2, ... tokens of context;
        oracle_nats: the same of the true source.
    Args:
        late_from: First number of context tokens that counts as late.
    """
    ax, oracle = new_axes(), np.asarray(oracle_nats, dtype=float)
    steps = np.arange(1, len(oracle) + 1)
    means = {name: np.asarray(values, dtype=float) for name, values in losses.items()}
    for name in sorted(means, key=lambda n: -means[n][-5:].mean()):  # as they end at the right
        ax.plot(steps, means[name], markevery=0.15, **look(name).line())
    ax.plot(steps, oracle, color="black", linestyle=":", label="True source")
    ax.set_ylim(0, min(2.6, 1.05 * max(values.max() for values in means.values())))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set(xlabel="Context seen so far (tokens)", ylabel="Test loss (nats per token)")
    gaps = {name: values - oracle for name, values in means.items()}
    parts = ", ".join(
        f"{look(name).label} {gap[0]:+.2f} and {gap[late_from - 1 :].mean():+.2f}"
        for name, gap in gaps.items()
    )
    return ax, (
        f"Distance to the true source in nats per token, with 1 token of context and (mean) with "
        f"{late_from} to {len(oracle)}: {parts}. One seed each."
    )


@picture
def paired_differences(differences: pd.DataFrame, *, baseline: str, what: str):
    """The mean difference to a baseline with its interval, one row a variant.

    Args:
        differences: Rows with ``variant``, ``mean``, ``low``, ``high``, ``n_pairs``; see
            ``analysis.paired_differences``.
        baseline: What was subtracted; it is the line at zero.
        what: Quantity of the axis, for example ``Test loss``.
    """
    ax, parts, doubtful = _rows([look(v).label for v in differences["variant"]]), [], []
    for row, one in enumerate(differences.itertuples()):
        its, interval = look(one.variant), ""
        if np.isfinite(one.low):
            ax.hlines(row, one.low, one.high, color=its.colour, lw=2.5, alpha=0.5)
            interval = f" ({one.low:+.3f} to {one.high:+.3f})"
        ax.plot([one.mean], [row], linestyle="none", **its.points())
        parts.append(f"{its.label} {one.mean:+.3f}{interval}")
        if not (one.low > 0 or one.high < 0):
            doubtful.append(its.label)
    ax.axvline(0.0, color=look(baseline).colour, lw=1.2)
    ax.set(xlabel=f"{what} minus that of {inside(baseline)} (nats per token)")
    if not parts:
        return ax, "No pair of runs to compare."
    told = f"Not distinguishable from it at this budget: {', '.join(doubtful)}."
    return ax, (
        f"Mean paired difference to {inside(baseline)} in nats per token, with 95 % "
        f"interval over {seeds_in_words(differences['n_pairs'])}: {'; '.join(parts)}. "
        f"{told if doubtful else 'No interval contains zero.'}"
    )


@picture
def curves_and_differences(curves: pd.DataFrame, *, baseline: str):
    """Loss curves, and beside them their late part minus the baseline's, seed by seed.

    Args:
        curves: Rows ``name``, ``seed``, ``tokens_seen``, ``loss_nats``, all at the same points.
        baseline: Name of the curve to subtract.
    """
    left, right = new_axes(size=(7.6, 3.7), columns=2, width_ratios=(1, 1.1))
    gaps = relative_to(curves, baseline, column="name", keys=["seed", "tokens_seen"],
                       metric="loss_nats")  # fmt: skip
    late = gaps[gaps["tokens_seen"] >= LATE * gaps["tokens_seen"].max()]
    ends = final_losses(curves)
    for ax, table in ((left, curves), (right, late)):
        for name in ends.index[::-1]:
            own = table[table["name"] == name]
            if len(own):
                sns.lineplot(own, x="tokens_seen", y="loss_nats", errorbar=("pi", 100), ax=ax,
                             err_kws={"alpha": 0.15, "lw": 0}, markevery=0.2, legend=False,
                             **look(name).line())  # fmt: skip
    right.axhline(0.0, color=look(baseline).colour, lw=1.2)
    left.set_xscale("log")
    for ax in (left, right):
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    left.set(xlabel="Tokens seen (log scale)", ylabel="Validation loss (nats per token)")
    right.set(xlabel="Tokens seen", ylabel=f"Minus {inside(baseline)} (nats per token)")
    handles, labels = left.get_legend_handles_labels()
    left.figure.legend(handles, labels, loc="outside upper center", ncols=3)
    signs = np.sign(late.groupby(["name", "tokens_seen"])["loss_nats"].mean())
    turns = signs.groupby("name").nunique()
    crossing = ", ".join(look(name).label for name, count in turns.items() if count > 1)
    parts = ", ".join(f"{look(name).label} {loss:.3f}" for name, loss in ends.items())
    seeds = seeds_in_words(curves.groupby("name")["seed"].nunique())
    return left, (
        f"Left, validation loss over one run; final, in nats per token: {parts}. Right, the "
        f"difference to {inside(baseline)} at the same seed over the last four fifths of the "
        f"run, in which it is crossed by {crossing or 'none'}. Bands: range over {seeds}."
    )


def relative_to(
    table: pd.DataFrame, baseline: str, *, column: str, keys: list[str], metric: str
) -> pd.DataFrame:
    """Subtract the baseline's value at the same keys from every other row; drop the baseline."""
    base = table[table[column] == baseline].set_index(keys)[metric].rename("base")
    joined = table[table[column] != baseline].join(base, on=keys).dropna(subset=["base"])
    return joined.assign(**{metric: joined[metric] - joined["base"]}).drop(columns="base")


@picture
def cost_and_held_out(runs: pd.DataFrame, *, cost: str, held_out: str):
    """What a run cost in training beside its held-out loss, one row a variant.

    Args:
        runs: One row a run with ``variant``, ``seed`` and both columns, in nats per token.
        cost: Column of the training cost: white pentagons.
        held_out: Column of the held-out loss: the variant's own marker.
    """
    means = runs.groupby("variant")[[cost, held_out]].mean().sort_values(held_out, kind="stable")
    ax = _rows([look(name).label for name in means.index], extra=0.5)
    for row, (variant, mean) in enumerate(means.iterrows()):
        own, its = runs[runs["variant"] == variant], look(str(variant))
        ax.plot(mean, [row, row], color=GREY, lw=0.8, zorder=1)
        for column in (cost, held_out):
            ax.plot(own[column], np.full(len(own), row), "|", color=its.colour, ms=11)
        ax.plot([mean[cost]], [row], "p", mfc="white", color=GREY, ms=7)
        ax.plot([mean[held_out]], [row], linestyle="none", **its.points())
    ax.plot([], [], "p", mfc="white", color=GREY, ms=7, linestyle="none", label="Training cost")
    ax.plot([], [], "o", color=GREY, linestyle="none", label="Held-out loss (own marker)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    ax.set(xlabel="Loss (nats per token)")
    parts = ", ".join(
        f"{look(v).label} {m[cost]:.3f} and {m[held_out]:.3f}" for v, m in means.iterrows()
    )
    by_cost = means.sort_values(cost, kind="stable").index
    same = "the same order" if list(by_cost) == list(means.index) else "another order"
    return ax, (
        f"Training cost and held-out loss in nats per token: {parts}. By training cost "
        f"the models stand in {same}. Mean of "
        f"{seeds_in_words(runs.groupby('variant')['seed'].nunique())}; each tick is one."
    )


def book_dials(books: pd.DataFrame) -> dict[str, Any]:
    """Return the dials of ``book_losses``: the unit, and what to compare with."""
    baselines = {"nothing": "", **{look(v).label: v for v in dict.fromkeys(books["variant"])}}
    return {
        "metric": ("Unit", UNITS, "Bits per byte ignore the tokenizer"),
        "baseline": ("Subtract", baselines, "Whose loss on the same book and seed"),
    }


def book_losses(books: pd.DataFrame, *, metric: str, baseline: str = "") -> Picture:
    """The loss by book, or the difference to a baseline on the same book and seed.

    Args:
        books: Rows with ``book``, ``variant``, ``seed`` and the metrics.
        metric: ``loss_nats`` or ``bits_per_byte``.
        baseline: A variant to subtract; empty for none.
    """
    if not baseline:
        return losses_by_book(books, metric=metric)
    gaps = relative_to(books, baseline, column="variant", keys=["book", "seed"], metric=metric)
    one = losses_by_book(gaps, metric=metric)
    one.ax.axvline(0.0, color=look(baseline).colour, lw=1.2)
    one.ax.set_xlabel(f"{one.ax.get_xlabel()}, minus {inside(baseline)}")
    by_book = gaps.pivot_table(index="book", columns="variant", values=metric, aggfunc="mean")
    parts = "; ".join(
        f"{look(v).label} {by_book[v].mean():+.3f}, below it on {int((by_book[v] < 0).sum())}"
        for v in by_book.mean().sort_values().index
    )
    return one.saying(f"Mean difference to {inside(baseline)} over {len(by_book)} books: {parts}.")


@picture
def losses_by_book(books: pd.DataFrame, *, metric: str = "loss_nats"):
    """The loss on each held-out book: the marker is the mean over seeds, the bar their range."""
    if metric not in books.columns:
        raise AttnlabError(
            f"The table of books has no column {metric!r}; it has "
            f"{', '.join(map(str, books.columns))}. Choose loss_nats or bits_per_byte."
        )
    unit = next(unit for unit, column in UNITS.items() if column == metric)
    names = list(books.groupby("book")[metric].mean().sort_values(kind="stable").index)
    variants = books.groupby("variant")[metric].mean().sort_values(kind="stable").index
    short = [drawable(name, most=26) for name in names]
    ax = _rows(short, extra=0.9, row_in=0.5)
    shifts = np.linspace(-0.32, 0.32, len(variants)) if len(variants) > 1 else [0.0]
    for shift, variant in zip(shifts, variants, strict=True):
        own, its = books[books["variant"] == variant].groupby("book")[metric], look(variant)
        low, mean, high = (getattr(own, f)().reindex(names) for f in ("min", "mean", "max"))
        where = np.arange(len(names)) + shift
        ax.hlines(where, low, high, color=its.colour, lw=3, alpha=0.4)
        ax.plot(mean, where, linestyle="none", **its.points(), label=its.label, ms=5)
    for edge in np.arange(len(names) - 1) + 0.5:
        ax.axhline(edge, color="#DDDDDD", lw=0.6)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    ax.set(xlabel=f"Loss ({unit})")
    means = books.pivot_table(index="book", columns="variant", values=metric, aggfunc="mean")
    by_book = means.mean(axis=1).sort_values(kind="stable")
    wins = means.idxmin(axis=1).value_counts()
    first, last = by_book.iloc[0], by_book.iloc[-1]
    words = (
        f"Easiest book: {by_book.index[0]} ({first:.2f} {unit}, mean of all); hardest: "
        f"{by_book.index[-1]} ({last:.2f}). Books differ by {last - first:.2f}, models within a "
        f"book by {(means.max(axis=1) - means.min(axis=1)).mean():.2f}."
    )
    if len(wins) == 1:
        return ax, f"{words} {look(wins.index[0]).label} has the lowest mean on every book."
    shares = ", ".join(f"{look(v).label} on {n}" for v, n in wins.items())
    return ax, f"{words} Lowest mean: {shares} of {len(means)} books."


@picture
def context_floors(
    held_out: Mapping[int, float], *, floors: Mapping[int, float], models: Mapping[str, float]
):
    """What counting reaches with more and more context, and trained models as levels.

    Args:
        held_out: Loss of an n-gram model on held-out text, by order n (n - 1 tokens of context).
        floors: Lowest loss of any such table on its own training text, by order.
        models: Held-out losses of trained models, by name; they see far more context.
    """
    ax, grey = new_axes(), LOOKS["n_gram"]
    lowest = {"linestyle": "dotted", "marker": "v", "fillstyle": "none",
              "label": "Lowest possible on the training text"}  # fmt: skip
    for losses, line in ((held_out, {"label": "n-grams, held-out text"}), (floors, lowest)):
        orders = sorted(losses)
        ax.plot([n - 1 for n in orders], [losses[n] for n in orders], **{**grey.line(), **line})
    last = max(floors)
    ticks = {n - 1: str(n - 1) for n in sorted(floors)} | ({last: "models"} if models else {})
    trained = sorted(models.items(), key=lambda item: item[1])
    for (name, loss), shift in zip(trained, np.linspace(-0.3, 0.3, len(trained)), strict=True):
        its = look(name)
        ax.plot([last + shift], [loss], linestyle="none", **its.points(), label=its.label)
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_ylim(bottom=0)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    ax.set(xlabel="Context of the table (tokens)", ylabel="Loss (nats per token)")
    best = min(held_out, key=lambda n: held_out[n])
    words = (
        f"The best n-gram model has order {best} ({best - 1} tokens of context) and "
        f"{held_out[best]:.3f} nats per token on held-out text. On its own training text no table "
        f"of order {last} can be below {floors[last]:.3f}."
    )
    below = ", ".join(look(n).label for n, loss in models.items() if loss < held_out[best])
    above = ", ".join(look(n).label for n, loss in models.items() if loss >= held_out[best])
    if below:
        words += f" Trained models below it: {below}."
    if above:
        words += f" At this budget not below it, so counting does at least as well: {above}."
    return ax, words


# Fair ground: learning rates, and passes over the text -------------------------------------------


CONTEST = ("attention", "attention_1_head", "she", "he", "we", "me")
PAIRS = {  # what the panel compares: variant and baseline
    "SHE against attention": ("she", "attention"),
    "SHE against attention of its size": ("she", fair.SIZE),
    "HE against attention": ("he", "attention"),
    "WE against one head": ("we", "attention_1_head"),
    "ME against one head": ("me", "attention_1_head"),
}
PAIR_DIAL = {"pair": ("Compare", PAIRS, "Who is held against whom, at the same rate and passes")}


@figure("fair-ground", records=fair.SWEPT)
def fair_ground() -> Picture:
    """Who wins by learning rate and passes over the text, by training cost and on unseen books."""
    runs = fair.with_chosen_starts(fair.swept_runs())
    return who_wins(runs, among=CONTEST)


@picture
def by_rate(runs: pd.DataFrame, *, metric: str = "test_loss_nats", among: Sequence[str] = CONTEST):
    """The loss of each variant against its learning rate, one line a variant.

    Args:
        runs: Rows as ``studies.fair.swept_runs`` returns them, at one number of passes.
    """
    ax, first = new_axes(), runs[runs["seed"] == 0]
    best = {}
    for name in [name for name in among if name in set(first["variant"])]:
        losses = first[first["variant"] == name].groupby("lr")[metric].mean()
        ax.plot(losses.index, losses, **look(name).line())
        best[name] = (losses.min(), losses.idxmin(), losses.iloc[0])
    rates = sorted(set(first["lr"]))
    ax.set_xscale("log")
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set(xlabel="Learning rate", ylabel=f"{LOSSES[metric]} (nats per token)")
    order = sorted(best, key=best.__getitem__)
    gains = ", ".join(f"{look(n).label} {best[n][0]:.3f} (at {best[n][1]:g})" for n in order)
    most = max(best, key=lambda n: best[n][2] - best[n][0])
    return ax, (
        f"{LOSSES[metric]} at each one's best rate, lowest first: {gains}. From the lowest rate to "
        f"its best {look(most).label} gains most: {best[most][2] - best[most][0]:.3f}. One seed."
    )


@picture
def who_wins(runs: pd.DataFrame, *, among: Sequence[str]):
    """The variant with the lowest loss at each rate and number of passes, by both quantities."""
    axes, said = new_axes(size=(8.4, 2.9), columns=2, sharey=True), []
    for ax, metric in zip(axes, fair.QUANTITIES, strict=True):
        table = fair.winners(runs, metric, among=among)
        losses = runs[runs["seed"] == 0].groupby(["variant", "lr", "passes"])[metric].mean()
        for row, (rate, winner) in enumerate(table.iterrows()):
            for column, passes in enumerate(table.columns):
                name = winner[passes]
                if not isinstance(name, str):
                    continue
                its, loss = look(name), losses[name, rate, passes]
                ax.add_patch(Rectangle((column, row), 1, 1, fc=its.colour, ec="white", alpha=0.3))
                words = f"{its.label.replace(', ', chr(10))}\n{loss:.2f}"
                ax.text(column + 0.5, row + 0.5, words, ha="center", va="center", fontsize=8)
        ax.set_xlim(0, len(table.columns))
        ax.set_ylim(0, len(table))
        ax.set_xticks(np.arange(len(table.columns)) + 0.5, [f"{p:g}" for p in table.columns])
        ax.set_yticks(np.arange(len(table)) + 0.5, [f"{rate:g}" for rate in table.index])
        ax.set(xlabel="Passes over the text, equal steps")
        ax.set_title(LOSSES[metric], fontsize=10)
        wins = table.stack().value_counts()
        counts = ", ".join(f"{look(str(n)).label} {count}" for n, count in wins.items())
        said.append(f"{LOSSES[metric]}: {counts} of {wins.sum()} points")
    axes[0].set_ylabel("Learning rate")
    return axes[0], f"Who has the lowest loss, and that loss in nats. {'; '.join(said)}. One seed."


@picture
def ground_map(runs: pd.DataFrame, *, pair: tuple[str, str]):
    """The difference of two variants at each rate and number of passes, by both quantities."""
    axes, said = new_axes(size=(8.4, 2.9), columns=2), []
    for ax, metric in zip(axes, fair.QUANTITIES, strict=True):
        table = fair.differences(runs, *pair, metric).iloc[::-1]  # low rates below
        ticks = {"x_ticks": [f"{p:g}" for p in table], "y_ticks": [f"{r:g}" for r in table.index]}
        matrix(table.to_numpy(), label="Difference (nats)", x_label="Passes", y_label="Rate",
               is_difference=True, has_numbers=True, ax=ax, **ticks)  # fmt: skip
        ax.set_title(LOSSES[metric], fontsize=10)
        below = int((table < 0).sum().sum())
        said.append(f"{LOSSES[metric].lower()} lower at {below} of {table.notna().sum().sum()}")
    one, other = look(pair[0]).label, inside(pair[1])
    return axes[0], f"{one} minus {other}, same rate and seeds: {'; '.join(said)} points."


@picture
def rereading(curves: pd.DataFrame, *, n_tokens: int):
    """Training cost and held-out loss while one short text is read again and again.

    Args:
        curves: Rows with ``variant``, ``tokens_seen`` and both losses.
        n_tokens: Length of the text.
    """
    axes, said = new_axes(size=(8.4, 3.0), columns=2), []
    for ax, metric in zip(axes, fair.QUANTITIES, strict=True):
        for name, own in curves.groupby("variant", sort=False):
            ax.plot(own["tokens_seen"] / n_tokens, own[metric], **look(name).line())
        ax.set(xlabel="Passes over the text", ylim=(0, None))
        ax.set_title(f"{fair.QUANTITIES[metric].capitalize()} (nats per token)", fontsize=10)
    axes[0].legend()
    for name, last in curves.groupby("variant", sort=False).last().iterrows():
        losses = " and ".join(f"{last[metric]:.2f}" for metric in fair.QUANTITIES)
        said.append(f"{look(str(name)).label} {losses}")
    passes = curves["tokens_seen"].max() / n_tokens
    return axes[
        0
    ], f"Cost and held-out loss after {passes:.0f} passes: {'; '.join(said)}. One seed."


def verdict_table(judged: pd.DataFrame, *, row: str = "says", column: str = "ground") -> str:
    """Return verdicts as Markdown, by quantity: verdict, mean difference, interval, seeds.

    Args:
        judged: From ``studies.fair``.
        row, column: Columns of it that name the rows and the columns of the tables.
    """
    parts = []
    for quantity, part in judged.groupby("quantity", sort=False):
        cells = part.assign(cell=[_verdict_cell(one) for one in part.itertuples()])
        table = cells.pivot(index=row, columns=column, values="cell").fillna("–")
        table = table.reindex(index=part[row].unique(), columns=part[column].unique())
        lines = [[name.replace("_", " "), *line] for name, line in table.iterrows()]
        parts.append(f"*By {quantity}*\n\n{markdown_table(['', *table.columns], lines)}")
    return "\n\n".join(parts)


def _verdict_cell(one: Any) -> str:
    interval = f" ({one.low:+.3f} to {one.high:+.3f})" if one.n_pairs > 2 else ""
    seeds = seeds_in_words(pd.Series([one.n_pairs]))
    return f"**{one.verdict}** {one.mean:+.3f}{interval}, {seeds}"


# A channel mixer read as a memory ----------------------------------------------------------------


def order_keys(activity: ArrayLike) -> NDArray[np.int64]:
    """Return the keys ``(d_ff,)`` sorted by the state they fire for most, strongest first in it."""
    values = np.nan_to_num(np.asarray(activity, dtype=float), nan=-np.inf)
    return np.lexsort((-values.max(axis=0), values.argmax(axis=0)))


@picture
def key_map(activity: ArrayLike, *, states: Sequence[str]):
    """How strongly each key fires in each state, keys sorted by their favourite state.

    Shapes:
        activity: ``(n_states, d_ff)`` mean activation.
    """
    values = np.asarray(activity, dtype=float)
    ax, order = new_axes(size=(6.6, 0.9 + 0.26 * len(states))), order_keys(values)
    bar = {"label": "Mean activation", "extend": "min"}
    sns.heatmap(values[:, order], vmin=0.0, vmax=float(np.nanmax(values)), cmap="cividis", ax=ax,
                cbar_kws=bar, rasterized=True)  # fmt: skip
    every = slice(None, None, max(1, len(order) // 16))
    ax.set_xticks(np.arange(len(order))[every] + 0.5, order[every], rotation=0)
    ax.set_yticks(
        np.arange(len(states)) + 0.5, [drawable(f"…{state}") for state in states], rotation=0
    )
    ax.set(xlabel="Key (sorted by the state it fires for most)", ylabel="State")
    fires = np.maximum(values, 0.0)
    total = fires.sum(axis=0)
    choosy = int((fires.max(axis=0) > 0.5 * np.where(total > 0, total, np.inf)).sum())
    busiest = int(np.bincount(values.argmax(axis=0), minlength=len(states)).argmax())
    n_silent = int((total == 0).sum())
    silent = f" {n_silent} never fire on average." if n_silent else ""
    return ax, (
        f"{values.shape[1]} keys and {len(states)} states. {choosy} keys give more than half of "
        f"their firing to one state; most keys favour …{states[busiest]}.{silent}"
    )


@picture
def one_key(atlas: Any, *, key: int):
    """One key of a ``KeyAtlas``: where it fires, which tokens it favours, what is lost without."""
    fires, adds, harm = atlas.activity[:, key], atlas.writes[key], atlas.damage_nats[:, key]
    states, symbols = [f"…{state}" for state in atlas.states], atlas.symbols
    size = (7.2, 0.9 + 0.24 * len(states))
    axes = new_axes(size=size, columns=3, width_ratios=(3, 2, 3))
    parts = (
        (fires, FIRES, states, "Mean activation", "fires"),
        (adds, WRITES, symbols, "Logits per activation", "writes"),
        (harm, HARM, [""] * len(states), "KL rise (nats)", "is missed"),
    )
    for ax, (values, colour, names, label, title) in zip(axes, parts, strict=True):
        ax.barh(np.arange(len(values)), values, color=colour)
        ax.set_yticks(np.arange(len(values)), [*map(drawable, names)])
        ax.set_xlabel(label)
        ax.set_title(title, fontsize=10)
        ax.invert_yaxis()
        ax.axvline(0, color=GREY, lw=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    axes[0].set_ylabel("State")
    best, worst = int(np.nanargmax(fires)), int(np.nanargmax(harm))
    up, down = symbols[int(adds.argmax())], symbols[int(adds.argmin())]
    return axes[0], (
        f"Key {key} fires most after {states[best]} ({fires[best]:+.2f}). Its value raises {up} "
        f"({adds.max():+.2f} logits) and lowers {down} ({adds.min():+.2f}). Without it the KL "
        f"rises most after {states[worst]}: {harm[worst]:+.4f} nats."
    )


@picture
def state_losses(
    losses: Mapping[str, tuple[ArrayLike, ArrayLike]], *, share: ArrayLike, states: Sequence[str]
):
    """The KL of each state with the memory and without it, the commonest state on top.

    Shapes:
        losses: by model, the KL of each state ``(n_states,)`` with all keys and with none;
        share: ``(n_states,)``.
    """
    part, sentences = np.asarray(share, dtype=float), []
    order, rows = np.argsort(-part, kind="stable"), np.arange(len(part))
    size = (2.6 + 2.3 * len(losses), 1.3 + 0.26 * len(states))
    axes = new_axes(size=size, columns=len(losses), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (name, both) in zip(axes, losses.items(), strict=True):
        kl, without = (np.asarray(values, dtype=float) for values in both)
        ax.hlines(rows, kl[order], without[order], color=QUIET, lw=2, zorder=1)
        ax.plot(kl[order], rows, "s", color=FIRES, label="all keys")
        ax.plot(without[order], rows, "X", color=HARM, label="all keys silenced")
        ax.set(xscale="log", xlabel="KL from the true row (nats)")
        ax.set_title(look(name).label, fontsize=10)
        worst, weights = int(np.nanargmax(kl)), part / part.sum()
        sentences.append(
            f"{look(name).label}: {np.nansum(kl * weights):.4f} nats with all keys, "
            f"{np.nansum(without * weights):.4f} with none; worst known is …{states[worst]} "
            f"({part[worst]:.1%} of the time, {kl[worst]:.3f} nats)."
        )
    axes[0].set_yticks(rows, [f"{drawable(f'…{states[i]}')}  ({part[i]:.1%})" for i in order])
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    axes[0].set_ylabel("State (share of time)")
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(handles, labels, loc="outside upper right", ncols=2)
    told = " ".join(sentences)
    return axes[0], f"Mean KL from the true rows, weighted by time. {told} One seed each."


@picture
def token_chances(chances: Mapping[str, ArrayLike], *, tokens: Sequence[str], columns: int = 3):
    """Next-token chances under several settings, one small bar chart each.

    Shapes:
        chances: by setting, ``(n_tokens,)``; ``tokens`` names them.
    """
    n_rows, parts = -(-len(chances) // columns), []
    axes = new_axes(size=(6.8, 1.8 * n_rows), rows=n_rows, columns=columns, sharex=True,
                    sharey=True, squeeze=False)  # fmt: skip
    for ax, (label, values) in zip(axes.flat, chances.items(), strict=False):
        p = np.asarray(values, dtype=float)
        ax.bar(range(len(p)), p, color=FIRES)
        for place, value in enumerate(p):
            said, colour = (f"{value:.2f}", "black") if value > 0 else ("out", "#767676")
            ax.text(place, value + 0.02, said, color=colour, ha="center", fontsize=7)
        ax.set_xticks(range(len(tokens)), [*map(drawable, tokens)], fontsize=8)
        ax.set_ylim(0, 1.12)
        ax.set_title(label, fontsize=9)
        parts.append(f"{label}: {int((p > 0).sum())} tokens, the likeliest {p.max():.2f}")
    for ax in axes.flat[len(chances) :]:
        ax.set_visible(False)
    axes[0, 0].figure.supylabel("Chance of the next token", fontsize=10)
    return axes[0, 0], f"Tokens that can be drawn, by setting. {'; '.join(parts)}."


def _rows(names: Sequence[str], *, extra: float = 0.0, row_in: float = 0.34) -> Axes:
    """Return axes with one named row each, the first on top."""
    ax = new_axes(size=(6.4, max(1.6, 0.8 + extra + row_in * len(names))))
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    return ax
