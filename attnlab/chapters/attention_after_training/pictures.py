"""Pictures of notebook 13: teacher, features, heads, ingredients, sites, switches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from attnlab.analysis.compare import MIN_SEEDS
from attnlab.chapters.attention_after_training import records
from attnlab.show import LOOKS, figure, matrix, new_axes, picture, ranged
from attnlab.show.style import NO_FAMILY
from attnlab.studies.arms import PLACES
from attnlab.studies.replaced_verdicts import AIM, is_too_weak

BLUE, GREY = LOOKS["attention"].colour, LOOKS["table"].colour
SITES = {"encoder_self": "Encoder self", "decoder_self": "Decoder self", "cross": "Cross"}
MAPS = {  # label, look
    "hedgehog": ("softmax of both signs", "linear_attention"),
    "softmax": ("softmax", "alr"),
    "relu": ("ReLU", "she"),
    "elu": ("elu + 1", "mean"),
}
STAND_INS = {"attention": "attention", "linear": "linear", "window + linear": "window"}
HEAD_DIALS = {
    "site": ("Site", {words: site for site, words in SITES.items()}, "cross", "Of the teacher"),
    "layer": ("Layer", [1, 2], 2, "Of the teacher's two"),
    "head": ("Head", 1, 1, 4, "Of the four heads there"),
}
WINDOW_DIALS = {
    **HEAD_DIALS,
    "site": ("Site", {SITES[site]: site for site in ("encoder_self", "decoder_self")},
             "decoder_self", "Where a sentence reads itself"),
    "window": ("Window w", 2, 0, 12, "Positions that softmax is kept for"),
}  # fmt: skip
KINDS = {  # of stand-ins by length: label, look
    "teacher": ("attention", "attention"),
    "linear": ("linear everywhere", "linear_attention"),
    "window": ("window 4, linear at cross", "alr"),
    "ssd": ("SSD, linear at cross", "she"),
    "gated_delta": ("gated delta, linear at cross", "mean"),
}
SWITCH_DIALS = {
    site: (words, {n: v for n, v in STAND_INS.items() if site != "cross" or v != "window"},
           "attention", "What looks things up there")
    for site, words in SITES.items()
}  # fmt: skip


@picture
def kernels(points: pd.DataFrame, *, where: str = ""):
    """What each feature map makes of a pair of positions, against its score; the line is exp.

    Args:
        points: Rows ``name``, ``score`` and ``kernel``.
        where: Which head it is.
    """
    axes = new_axes(size=(8.4, 2.6), columns=len(MAPS), sharey=True)
    line = np.linspace(points["score"].min(), points["score"].max(), 50)
    ranks, lowest = {}, 1e-3
    for ax, (name, (label, its)) in zip(axes, MAPS.items(), strict=True):
        own = points[points["name"] == name]
        ax.plot(own["score"], own["kernel"].clip(lower=lowest), ".", ms=3, color=LOOKS[its].colour)
        ax.plot(line, np.exp(line), color="black", lw=1)
        ax.set(title=label, xlabel="Score q k", yscale="log")
        ranks[label] = own["score"].rank().corr(own["kernel"].rank())
    axes[0].set_ylabel("Weight before the\nnormaliser (log scale)")
    best = max(ranks, key=lambda label: ranks[label])
    said = ", ".join(f"{label} {rank:.2f}" for label, rank in ranks.items())
    return axes[0], (
        f"{where}Points are pairs of query and key, the line is exp, what attention has. Of the "
        f"maps before learning {best} keeps the order of scores best. Rank correlation: {said}. "
        f"Below {lowest:g}, drawn there: {(points['kernel'] < lowest).mean():.0%} of all points."
    )


@picture
def look_ups(weights: Mapping[str, ArrayLike], *, words: Sequence[str], asked: Sequence[str]):
    """Weights of one head for one sentence, as attention and its stand-ins have them.

    Args:
        weights: By label, ``(time, memory_time)``; attention first.
        words: What is looked at; ``asked``: what looks.
    """
    axes = new_axes(size=(1.2 + 2.3 * len(weights), 2.9), columns=len(weights), sharey=True)
    whole, far = np.asarray(next(iter(weights.values()))), {}
    for ax, (label, each) in zip(axes, weights.items(), strict=True):
        matrix(each, label="Weight", x_label=label, y_label="", x_ticks=words, y_ticks=asked,
               limit=1.0, ax=ax)  # fmt: skip
        ax.tick_params(labelsize=7)
        far[label] = float(np.abs(np.asarray(each) - whole).sum(-1).mean() / 2)
    closest = min(list(far)[1:], key=lambda label: far[label])
    said = ", ".join(f"{label} {share:.0%}" for label, share in list(far.items())[1:])
    return axes[0], (
        f"One head, one sentence: attention, then what stands in. {closest} is nearest to it. "
        f"Share of the weight that lies elsewhere: {said}."
    )


@picture
def entropies(heads: pd.DataFrame):
    """How far each head's stand-in is from it, by how spread out the head looks, site by site.

    Args:
        heads: Rows ``name`` (of a feature map), ``site``, ``entropy_nats``, ``relative_error``.
    """
    if heads.empty:
        return nothing("Entropy and error of heads")
    quantities = ("entropy_nats", "relative_error")
    axes, said = new_axes(size=(8.4, 3.0), columns=len(SITES), sharex=True, sharey=True), []
    for ax, (site, words) in zip(axes, SITES.items(), strict=True):
        ranks = []
        for name, own in heads[heads["site"] == site].groupby("name", sort=False):
            label, its = MAPS[str(name)]
            x, y = (own[quantity] for quantity in quantities)
            ax.plot(x, y, linestyle="none", label=label, **LOOKS[its].points())
            ranks += [x.rank().corr(y.rank())]
        ax.set(title=words, xlabel="Entropy (nats)", yscale="log")
        said += [f"{words.lower()} {min(ranks):+.2f} to {max(ranks):+.2f}"] if ranks else []
    axes[0].set_ylabel("Squared error of a head's output\n(1 = the best constant)")
    axes[-1].legend(fontsize=7)
    means = heads.groupby("name", sort=False)["relative_error"].mean()
    errors = ", ".join(f"{MAPS[str(name)][0]} {mean:.2f}" for name, mean in means.items())
    return axes[0], (
        f"{heads.groupby('name').size().max()} heads, each with its stand-in by feature map. "
        f"Mean error: {errors}. Rank correlation of entropy and error, lowest and highest map: "
        f"{', '.join(said)}."
    )


@picture
def orders(table: pd.DataFrame, *, teacher: float):
    """BLEU after the same number of steps, by the order of stages.

    Args:
        table: Rows ``label`` and ``bleu``; several rows with one label are seeds.
        teacher: BLEU with attention.
    """
    labels = list(dict.fromkeys(table["label"]))
    ax = new_axes(size=(6.4, 1.0 + 0.34 * len(labels)))
    ax.plot(table["bleu"], table["label"].map(labels.index), linestyle="none",
            **LOOKS["linear_attention"].points())  # fmt: skip
    ax.axvline(teacher, color=BLUE, lw=1.4)
    ax.set_yticks(range(len(labels)), labels)
    ax.set(xlabel="BLEU, written freely", ylim=(len(labels) - 0.5, -0.5))
    means = table.groupby("label", sort=False)["bleu"].mean()
    said = ", ".join(f"{label} {ranged(own)}" for label, own in table.groupby("label")["bleu"])
    return ax, (
        f"Highest with {means.idxmax()}, {means.max():.1f}; the teacher (line) has {teacher:.1f}. "
        f"BLEU: {said}."
    )


# Records ------------------------------------------------------------------------------------------


def nothing(what: str, *, command: str = "attnlab study run replaced") -> tuple[Axes, str]:
    """Return an empty picture that says how to fill it."""
    ax = new_axes(size=(6.4, 1.2))
    ax.set(xticks=[], yticks=[])
    ax.text(0.5, 0.5, command, ha="center", va="center", family="monospace", fontsize=8)
    return ax, f"{what}: not recorded yet. The command records it."


@picture
def passes(curve: pd.DataFrame):
    """Validation loss of the teacher as it reads.

    Args:
        curve: Rows ``seed``, ``tokens_seen`` and ``loss_nats``.
    """
    if curve.empty:
        return nothing("Teacher of captions")
    ax = new_axes()
    for _, own in curve.groupby("seed"):
        ax.plot(own["tokens_seen"] / 1e6, own["loss_nats"], color=BLUE, lw=1)
    ax.set(xlabel="Target tokens read (millions)", ylabel="Validation loss (nats per token)")
    ends = curve.groupby("seed").last()["loss_nats"]
    lowest = curve.loc[curve["loss_nats"].idxmin()]
    return ax, (
        f"The loss is lowest after {lowest['tokens_seen'] / 1e6:.0f} of "
        f"{curve['tokens_seen'].max() / 1e6:.0f} million tokens, {lowest['loss_nats']:.3f} nats, "
        f"each earlier token given. At the end: {ranged(ends, digits=3)}. Seeds: {len(ends)}."
    )


@figure("stand-in-ablation", records=records.CAPTIONS)
@picture
def recorded_ablation():
    """Share of BLEU that is kept, the recipe and rows that differ from it in one ingredient."""
    return draw_ablation(records.spans(records.recorded()), records.planned_arms())


def draw_ablation(spans: pd.DataFrame, planned: pd.DataFrame) -> tuple[Axes, str]:
    """Draw ``spans`` of the recipe and of what differs from it in one ingredient."""
    base = records.BASE
    rows = {base: "the whole recipe", **records.ablation(planned)}
    known = [variant for variant in rows if variant in spans.index]
    if not known:
        return nothing("What each ingredient is worth")
    order = sorted(known, key=lambda v: (v != base, spans.loc[v, "share"]))
    ax = new_axes(size=(7.2, 1.2 + 0.3 * len(order)))
    for y, variant in enumerate(order):
        row, colour = spans.loc[variant], BLUE if variant == base else NO_FAMILY[0]
        ax.hlines(y, row["low"], row["high"], color=colour, lw=3, alpha=0.4)
        face = "white" if row["n_seeds"] < MIN_SEEDS else colour
        ax.plot(row["share"], y, "o", color=colour, mfc=face)
    ax.axvline(1.0, color=BLUE, lw=1)
    ax.axvline(AIM, color="black", lw=1, linestyle="dotted")
    ax.set_yticks(range(len(order)), [rows[variant] for variant in order])
    ax.set(xlabel="BLEU over the teacher's", ylim=(len(order) - 0.5, -0.5))
    said = "; ".join(f"{rows[v]} {spans.loc[v, 'share']:.1%}" for v in order)
    fewest = int(spans.loc[order, "n_seeds"].min())
    what = f"{rows[order[0]]} keeps {spans.loc[order[0], 'share']:.1%}" if base in known else ""
    worst = next((v for v in order if v != base), None)
    costs = f"Most is lost by this change: {rows[worst]}." if worst else ""
    return ax, (
        f"Attention replaced at {PLACES[planned.loc[base, 'site']][1]}: {what}. {costs} "
        f"{len(known)} of {len(rows)} rows recorded, seeds of each: {fewest} or more; hollow: less "
        f"than {MIN_SEEDS}, the interval over sentences alone. Lines: all of it, and {AIM:.0%}. "
        f"Kept: {said}."
    )


@picture
def kept(table: pd.DataFrame):
    """Share of BLEU that is kept, by how much of attention stays.

    Args:
        table: By variant, rows ``keeps`` (empty: none), ``share``, ``low``, ``high``, ``n_seeds``.
    """
    if table.empty:
        return nothing("What is kept by the number of attention layers")
    if len(table) < 2:
        return nothing("What is kept where some layers stay")
    labels = [keeps or "none" for keeps in table["keeps"].astype(str)]
    ax, x = new_axes(), range(len(labels))
    ax.vlines(x, table["low"], table["high"], color=BLUE, lw=3, alpha=0.4)
    ax.plot(x, table["share"], linestyle="none", **LOOKS["attention"].points())
    ax.axhline(1.0, color="black", lw=0.8, linestyle="dotted")
    ax.set_xticks(x, labels)
    ax.set(xlabel="Attention that stays (site, share of its layers)")
    ax.set(ylabel="BLEU over the teacher's", xlim=(-0.5, len(labels) - 0.5))
    shares = ", ".join(f"{n} {s:.1%}" for n, s in zip(labels, table["share"], strict=True))
    return ax, f"Kept by what stays: {shares}. Seeds: {table['n_seeds'].min():.0f} or more."


@picture
def by_length(table: pd.DataFrame):
    """Time over attention's, and the decoder's memory, by the length of a sentence.

    Args:
        table: As ``length_table`` of ``attnlab.studies.lengths`` returns it.
    """
    if table.empty:
        return nothing("Time and memory by length", command="attnlab bench lengths --record")
    largest = table["batch"].max()
    written = table[(table["work"] == "greedy") & (table["batch"] == largest)]
    axes, longest, said = new_axes(size=(8.4, 3.2), columns=2), written["time"].max(), []
    for kind, own in written.groupby("variant", sort=False):
        label, its = KINDS[str(kind)]
        for ax, column in zip(axes, ("times", "state_kib"), strict=True):
            ax.plot(own["time"], own[column], **{**LOOKS[its].line(), "label": label})
        one = table[
            (table["work"] == "greedy") & (table["batch"] == 1) & (table["variant"] == kind)
        ]
        axes[0].plot(one["time"], one["times"], color=LOOKS[its].colour, linestyle=":", lw=1)
        end = own[own["time"] == longest].iloc[0]
        said += [f"{label} {end['times']:.2f} times, {end['state_kib']:.0f} KiB"]
    axes[0].axhline(1, color=BLUE, lw=0.8)
    axes[0].set(xlabel="Words on each side", ylabel="Time over attention's", ylim=(0, None))
    axes[1].set(xlabel="Words on each side", ylabel="Decoder keeps (KiB, log scale)", yscale="log")
    axes[1].legend(fontsize=8)
    ends = table[(table["time"] == longest) & (table["variant"] != "teacher")]
    rows = ends[(ends["work"] == "greedy") & (ends["batch"] == largest)]
    others = ends[(ends["work"] != "greedy") | (ends["batch"] != largest)]
    n_faster, n_others = (int((part["times_high"] < 1).sum()) for part in (rows, others))
    return axes[0], (
        f"At {longest} words {n_faster} of {len(rows)} stand-ins write faster than attention, "
        f"interval included, {largest} sentences at once (lines), one CPU thread; one sentence "
        f"alone (dotted) or read at once, {n_others} of {len(others)}. Lines end at: "
        f"{'; '.join(said)}."
    )


@figure("task-by-site", records="replaced/paper/")
@picture
def recorded_tasks():
    """What replacing costs, task by task and site by site."""
    return draw_tasks(records.tasks())


def draw_tasks(table: pd.DataFrame) -> tuple[Any, str]:
    """Draw the kept share of what a teacher has above a trivial answer, with scores written in.

    Args:
        table: As ``records.tasks`` returns it.
    """
    if table.empty:
        return nothing("Other tasks", command="attnlab study run replaced --corpus headlines")
    floor = table["trivial"].fillna(0)
    is_weak = np.array([is_too_weak(r.teacher, r.trivial) for r in table.itertuples()])
    table = table.assign(
        kept=((table["score"] - floor) / (table["teacher"] - floor)).where(~is_weak),
        row=table["task"] + " (" + table["stand_in"] + ")",
    )
    weak = list(dict.fromkeys(table.loc[is_weak, "task"]))
    sites = [site for site in (*SITES, "all") if site in set(table["site"])]
    rows = table.loc[~is_weak | is_weak.all(), "row"].unique()  # of weak teachers none is drawn
    grid = table.pivot_table(index="row", columns="site", values="kept", sort=False)
    grid = grid.reindex(index=rows, columns=sites)
    size = (3.6 + 1.1 * len(sites), 1.4 + 0.42 * len(grid))
    one = matrix(grid.clip(lower=0), label="Kept share", x_label="Attention replaced at",
                 y_label="", has_numbers=True, limit=1.0, ax=new_axes(size=size))  # fmt: skip
    one.ax.set_xticks(np.arange(len(sites)) + 0.5, [SITES.get(site, "All") for site in sites])
    one.ax.set_yticks(np.arange(len(grid)) + 0.5, list(grid.index))
    means = table.assign(trivial=floor).groupby("task", sort=False)[["trivial", "teacher"]].first()
    said = "; ".join(f"{t} {m.trivial:.1f}, {m.teacher:.1f}" for t, m in means.iterrows())
    most = ""
    single = grid.drop(columns="all", errors="ignore")
    if single.notna().any(axis=None):
        hardest = single.stack().idxmin()
        most = (
            f"Of single sites least is kept at {SITES[hardest[1]].lower()} in {hardest[0]}: "
            f"{single.loc[hardest]:.0%} of what the teacher has above a trivial answer. "
        )
    lacks = f" Teacher too weak to decide: {'; '.join(weak)}." if weak else ""
    return one.ax, (
        f"{most}Tasks: {len(means)}; seeds: {table['n_seeds'].min()} or more. Trivial and teacher: "
        f"{said}.{lacks}"
    )


@picture
def switches(*, here: Mapping[str, float], runs: pd.DataFrame, **put: str):
    """BLEU with these switches: measured on the toy, and as recorded on captions.

    Args:
        here: ``bleu`` and ``teacher``, both measured.
        runs: Of ``records.recorded``.
        put: Stand-in by site.
    """
    own, whole = (
        records.at_switches(runs, **each) for each in (put, dict.fromkeys(put, "attention"))
    )
    whole = whole[whole["seed"].isin(own["seed"])] if len(own) else whole
    ax = new_axes(size=(6.0, 2.0))
    ax.barh(0, here["bleu"], color=NO_FAMILY[0], height=0.5)
    ax.plot([here["teacher"]], [0], "|", ms=26, mew=2, color=BLUE)
    said = "captions: not recorded"
    if len(own):
        ax.barh(1, own["bleu"].mean(), color=NO_FAMILY[0], height=0.5)
        ax.hlines(1, own["bleu"].min(), own["bleu"].max(), color="black", lw=1.5)
        said = f"captions {ranged(own['bleu'])}, seeds {len(own)}"
    if len(whole):
        ax.plot([whole["bleu"].mean()], [1], "|", ms=26, mew=2, color=BLUE)
        said += f", teacher {whole['bleu'].mean():.1f}"
    ax.set_yticks([0, 1], ["Toy, measured", "Captions, recorded"])
    ax.set(xlabel="BLEU (blue: attention everywhere)", xlim=(0, 103), ylim=(1.5, -0.5))
    at = ", ".join(f"{SITES[s].lower()} {'window + linear' if n == 'window' else n}"
                   for s, n in put.items())  # fmt: skip
    return ax, (
        f"In place: {at}. BLEU on the toy {here['bleu']:.1f} (teacher {here['teacher']:.1f}); "
        f"{said}."
        + (
            f" Of captions' arms the best on validation: {own['words'].iloc[0]}."
            if len(own)
            else ""
        )
    )
