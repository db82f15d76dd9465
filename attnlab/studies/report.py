"""Results as Markdown tables, written from the records and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnlab.analysis.compare import FAILS, HOLDS, MIN_SEEDS, ORDERING, Claim, latest_runs
from attnlab.analysis.critical_path import trace_step
from attnlab.distillation import CONTROLS
from attnlab.errors import AttnlabError
from attnlab.markdown import markdown_table
from attnlab.mixers import build_mixer
from attnlab.paths import RUNS
from attnlab.records import load_runs
from attnlab.studies import fair
from attnlab.studies.arms import ARMS_OF_TODAY, arm_columns, arm_words, get_arm
from attnlab.studies.lengths import length_table
from attnlab.studies.mixers import VARIANTS
from attnlab.studies.replaced_verdicts import (
    CAPTIONS,
    NOT_RECORDED,
    OLD_CAPTIONS,
    OTHER_TASKS,
    fair_shares,
    n_scored,
    replacement_verdicts,
    rule_of,
    span_of,
    task_verdicts,
)
from attnlab.studies.trivial import BASELINES as TRIVIAL

TEMPLATE = Path(__file__).with_name("report.md")
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

BOOKS, COUNTED = "language-model/paper/children", "n-grams/paper/children"
RECONSTRUCTED = ("he", "we", "me")  # of the paper only names and comparisons are known
COGS, NEW_STRUCTURE = (OTHER_TASKS[name][0] for name in ("cogs", "cogs/gen"))
LEAKY = "cross/paper/l"
TOY = "attentionless/classroom/toy"
TALKS = "attentionless/classroom/ted_iwslt/fr-en"
RECIPE = (  # of the later study: the control that was tuned, and what learns as most arms do
    f"tunes == 'everything' and (method in {CONTROLS} or (stages == '2-3' and match == 'outputs' "
    f"and inputs == 'teacher' and signal == 'both' and n_seeds >= {MIN_SEEDS}))"
)
_ROWS = {  # experiment: rows of its table of replacements
    TOY: """teacher encoder_self/gaussian encoder_self/alr/m encoder_self/alrr/m
        encoder_self/alrr/m/linear_skip encoder_self/elr/m decoder_self/uniform decoder_self/alr/m
        cross/gaussian cross/paper/l cross/truncated/l cross/per_query/l cross/per_query/l/tuned
        cross/low_rank/l all/per_query/l/tuned all/per_query/l/scratch all/low_rank/l
        all/low_rank/l/tuned""",
    OLD_CAPTIONS: """teacher encoder_self/identity/tuned_all encoder_self/gaussian
        encoder_self/alr/m encoder_self/alrr/m encoder_self/elr/m decoder_self/gaussian
        decoder_self/alr/m self/alr/m
        self/alr/m/tuned cross/gaussian cross/gaussian/tuned cross/paper/m cross/truncated/m
        cross/truncated/m/tuned cross/per_query/m cross/per_query/m/tuned cross/low_rank/l
        cross/low_rank/l/tuned cross/low_rank/l/tuned_all all/low_rank/l
        all/low_rank/l/tuned""",
    TALKS: """teacher encoder_self/alr/m decoder_self/alr/m cross/gaussian cross/paper/m
        cross/per_query/m cross/low_rank/l cross/low_rank/l/tuned all/low_rank/l/tuned""",
}
REPLACED = {name: tuple(rows.split()) for name, rows in _ROWS.items()}

CLOCK = {  # kind of work: sizes of the point that stands for it
    "training step of a whole model, 6 layers, T = 128, batch 64":
        {"part": "training", "work": "step", "batch": 64, "time": 128},
    "forward and backward, T = 512, batch 16":
        {"part": "mixers", "work": "training", "batch": 16, "time": 512},
    "reading a prompt, T = 512, batch 16": {"part": "prefill", "batch": 16, "time": 512},
    "one more token, context 2048, batch 16":
        {"part": "generation", "work": "layer", "batch": 16, "context_len": 2048},
    "one more token, context 2048, batch 1":
        {"part": "generation", "work": "layer", "batch": 1, "context_len": 2048},
}  # fmt: skip
STEP, *_, ONE_MORE, _ = CLOCK


def results_block(*, path: Path = RUNS) -> str:
    """Return the findings of the README: ``report.md`` with numbers from the records."""
    runs = {name: load_runs(name, path=path) for name in (BOOKS, COUNTED, TOY)}
    books, counted = latest_runs(runs[BOOKS]), runs[COUNTED].iloc[-1]
    best = min((part for _, part in books.groupby("variant")), key=_mean_loss)
    clock = load_runs("speed/paper/", path=path)
    words = (
        TEMPLATE.read_text(encoding="utf-8")
        .rstrip("\n")
        .format(
            counted=counted,
            best=VARIANTS[best["variant"].iloc[0]],
            loss=mean_and_range(best["test_loss_nats"].tolist()),
            n_seeds=len(best),
            ground=ground_sentence(path=path),
            clock={
                "step": clock_ratio(clock, STEP, "she"),
                "token": clock_ratio(clock, ONE_MORE, "she"),
                "cheapest": clock_ratio(clock, ONE_MORE, "me"),
            },
            **{
                name: longest_chain(mixer) for name, mixer in (("she", "she"), ("own", "attention"))
            },
            leak=leak_sentence(runs[TOY]),
            linear=linear_sentence(path=path),
            structure=structure_sentence(path=path),
            long=length_sentence(path=path),
            stand_ins=stand_in_table(path=path),
        )
    )
    return re.sub(r"\n{3,}", "\n\n", words)


def _mean_loss(runs: pd.DataFrame) -> float:
    return float(runs["test_loss_nats"].mean())


def ground_sentence(*, path: Path = RUNS) -> str:
    """Say what became of the order of the first paper where text is seen often, and once."""
    judged = fair.ground_verdicts(path=path).set_index(["passes", "rate", "quantity", "says"])

    def said(passes: float, metric: str, claim: Claim) -> str:
        where = (passes, "each one's best", fair.QUANTITIES[metric], claim.says)
        row = judged.sort_index().loc[[where]].iloc[0]
        ends = sorted((abs(row["low"]), abs(row["high"])))
        doubt = f" (**{row['verdict']}**)"
        if row["verdict"] in (HOLDS, FAILS):
            doubt = f" ({ends[0]:.2f} to {ends[1]:.2f})"
        return f"{abs(row['mean']):.2f}{doubt} nats {'below' if row['mean'] < 0 else 'above'}"

    she, he, *_ = ORDERING
    often = max(judged.index.get_level_values("passes"))
    cost, unseen = fair.QUANTITIES
    size = next(claim for claim in fair.CLAIMS if claim.baseline == fair.SIZE)
    return (
        f"After {often:g} passes over a small text SHE's training cost is {said(often, cost, she)} "
        f"that of attention of its width, {said(often, cost, size)} that of attention of its size, "
        f"and its loss on unseen books is {said(often, unseen, she)} attention's: memory. After "
        f"one pass, each at its best rate, HE is {said(1.0, unseen, he)} attention on unseen books"
    )


def longest_chain(mixer: str) -> int:
    """Return the operations that one more token waits for at d = T = 128, sums as trees."""
    heads = {"n_heads": 4} if mixer == "attention" else {}
    return trace_step(build_mixer(mixer, d_model=128, context_len=128, **heads)).depth()


def leak_sentence(runs: pd.DataFrame) -> str:
    """Say what the published cross-attention net predicts and what it writes."""
    net, own = (latest_runs(runs)[lambda t, v=v: t["variant"] == v] for v in (LEAKY, "teacher"))
    right = mean_and_range((100 * net["test_accuracy"]).tolist(), digits=1)
    return (
        f"{right} % of the next words with the right past given, but BLEU "
        f"{mean_and_range(net['bleu'].tolist(), digits=1)} when it writes; the teacher has "
        f"{mean_and_range(own['bleu'].tolist(), digits=1)} ({len(net)} seeds)"
    )


def linear_sentence(*, path: Path = RUNS) -> str:
    """Say how much of a fair baseline's BLEU is kept on captions where no softmax is left.

    Of all attention in the later study, once it is recorded, also with a softmax over near words;
    of the cross site in the older one.
    """
    judged = replacement_verdicts(path=path)

    def kept(experiment: str, says: str) -> tuple[str, Any]:
        rows = judged[(judged["experiment"] == experiment) & judged["says"].str.contains(says)]
        if rows.empty:
            return "", None
        row = rows.iloc[0]
        share = share_words(*(row[name] for name in ("share", "share_low", "share_high")))
        return f"{row['arm']}, keeps {share} %", row

    said, row = kept(CAPTIONS, "without a softmax over positions")
    if row is None:
        said, row = kept(OLD_CAPTIONS, "without a softmax")
    near, other = kept(CAPTIONS, "with a window of softmax")
    return (
        f"{said} of the BLEU of the {row['baseline']} (**{row['verdict']}**; teacher "
        f"{row['teacher_score']:.1f} BLEU, {row['n_sentences']:,} of {row['n_all']:,} sentences)"
    ) + (near and f"; with a softmax over near words alone, {near} (**{other['verdict']}**)")


def structure_sentence(*, path: Path = RUNS) -> str:
    """Say what stand-ins at all sites keep of sentences of new structure; nothing if unrecorded."""
    judged = task_verdicts(path=path)
    rows = judged[judged["says"].str.contains("with a window.* can replace all attention")]
    if rows.empty or (rows := rows[rows["data"] == NEW_STRUCTURE]).empty:
        return ""
    row = rows.iloc[0]
    share = share_words(*(row[name] for name in ("share", "share_low", "share_high")))
    return (
        f"Of what the {row['baseline']}, gets right in sentences of new structure ({COGS}), linear "
        f"attention at all sites keeps {share} % (**{row['verdict']}**)."
    )


def share_words(share: float, low: float, high: float) -> str:
    """Return a share in percent with its interval, if it has one: ``97.1 (96.0 to 98.2)``."""
    interval = "" if np.isnan(low) else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * share:.1f}{interval}"


def stand_in_table(*, path: Path = RUNS) -> str:
    """Return what stands in for attention on captions, and what it keeps, as Markdown.

    Of the study ``replaced``: the teachers, a control, and what learns as most arms do, over at
    least ``MIN_SEEDS`` seeds. Without a record an empty text.
    """
    rule = rule_of(CAPTIONS)
    runs = load_runs(CAPTIONS, path=path, columns=rule.columns)
    if runs.empty:
        return ""
    order = {name: place for place, name in enumerate(ARMS_OF_TODAY)}
    runs = runs[~runs["variant"].isin(TRIVIAL)]
    whole = arm_columns(latest_runs(runs)).query("variant == 'teacher' or method == 'identity'")
    shares = fair_shares(runs)
    shares = shares.assign(n_seeds=shares.groupby("variant")["seed"].transform("size"))
    parts = [*whole.groupby("variant"), *shares.query(RECIPE).groupby("variant")]
    rows = []
    for _, arm in sorted(parts, key=lambda part: order.get(part[0], len(order))):
        kept = share_words(*span_of(arm, rule=rule)) if "share" in arm else ""
        bleu = mean_and_range(arm["bleu"].tolist(), digits=1)
        rows.append([arm["words"].iloc[0], bleu, kept, len(arm)])
    scored = "{:,} of {:,} sentences".format(*n_scored(runs))
    head = ["on captions, German to English", f"greedy BLEU, {scored}", "kept (%)", "seeds"]
    return (
        f"{markdown_table(head, rows)}\n\nKept: the share of the BLEU of a teacher that was "
        "trained on as long, with its 95 % interval over seeds and sentences; BLEU with its range "
        f"over seeds (`{CAPTIONS}`). The ablation and all one-run rows: "
        "[notebook 13](notebooks/13_attention_after_training.ipynb), section 4."
    )


def length_sentence(*, path: Path = RUNS) -> str:
    """Say how long the stand-ins of ``linear_sentence`` take, and what the decoder keeps.

    One sentence of the trained length, then many long ones at once. Without records of lengths:
    ``Their times are not recorded yet``.
    """
    judged = replacement_verdicts(path=path)
    judged = judged[judged["experiment"] == CAPTIONS]
    is_said = judged["says"].str.contains(
        "without a softmax over positions|with a window of softmax"
    )
    arms = [get_arm(name).columns for name in judged.loc[is_said, "variant"]]
    kinds = ["window" if arm["window"] else arm["method"] for arm in arms]
    table = length_table(path=path).query("work == 'greedy'").set_index("variant")
    if table.empty or not set(kinds) <= set(table.index):
        return f"Their times are {NOT_RECORDED}"

    def times(part: pd.DataFrame) -> str:
        rows = part.loc[kinds].to_dict("records")
        return " and ".join(
            f"{row['times']:.2f} ({row['times_low']:.2f} to {row['times_high']:.2f})"
            for row in rows
        )

    alone, many = table[table["batch"] == 1], table[table["batch"] > 1]
    alone = alone[alone["time"] == alone["time"].min()]
    many = many[many["time"] == many["time"].max()]
    kept = many.loc[kinds, "state_kib"] / many.loc["teacher", "state_kib"]
    shares = " and ".join(f"{share:.2f}" for share in kept)
    return (
        f"A sentence of {alone['time'].iloc[0]:.0f} words takes the two of captions "
        f"{times(alone)} times as long as attention; {many['batch'].iloc[0]:.0f} of "
        f"{many['time'].iloc[0]:.0f} words at once {times(many)} times, and the decoder keeps "
        f"{shares} of the numbers"
    )


def results_table(runs: pd.DataFrame, *, columns: dict[str, str]) -> str:
    """Return a Markdown table with one row a variant, ordered by the first column.

    Args:
        runs: Rows of one experiment with ``variant``, ``seed``, ``n_weights`` and the columns.
        columns: Metric to heading.
    """
    variants = latest_runs(runs).groupby("variant")
    rows = []
    for variant in variants[next(iter(columns))].mean().sort_values().index:
        mine = variants.get_group(variant)
        weights = f"{mine['n_weights'].iloc[0] / 1e6:.2f} M"
        cells = [mean_and_range(mine[metric].tolist()) for metric in columns]
        label = VARIANTS.get(str(variant), str(variant))
        label += " (our reading)" if variant in RECONSTRUCTED else ""
        rows.append([label, weights, *cells, len(mine)])
    return markdown_table(["mixer", "weights", *columns.values(), "seeds"], rows)


def clock_points(runs: pd.DataFrame, *, device: str = "cpu", **sizes: object) -> pd.DataFrame:
    """Return the points of these sizes in the newest series on a device; one thread on a CPU.

    Args:
        runs: Records of ``attnlab bench``.
    """
    usual = {"route": "default", "precision": "fp32", "device": device}
    for name, value in {**usual, **({"threads": 1} if device == "cpu" else {}), **sizes}.items():
        runs = runs[runs[f"config.{name}"] == value] if f"config.{name}" in runs else runs[:0]
    return runs[runs["seed"] == runs["seed"].max()]


def clock_ratio(runs: pd.DataFrame, work: str, mixer: str) -> str:
    """Return a mixer's time over attention's with its interval.

    Args:
        work: One of ``CLOCK``.

    Raises:
        AttnlabError: It was not measured.
    """
    points = clock_points(runs, **CLOCK[work])
    points = points[points["variant"] == mixer]
    if points.empty:
        raise AttnlabError(f"No record of {work}; measure it with: attnlab bench.")
    mid, low, high = (points[f"ratio_to_attention{end}"].iloc[0] for end in ("", "_low", "_high"))
    return f"{mid:.2g} ({low:.2g} to {high:.2g})"


def time_power(points: pd.DataFrame, mixer: str) -> float:
    """Return the slope of a mixer's time over length on log scales, from 128 tokens on."""
    mine = points[(points["variant"] == mixer) & (points["config.time"] >= 128)]
    return float(np.polyfit(np.log(mine["config.time"]), np.log(mine["median_ms"]), 1)[0])


def replacement_table(runs: pd.DataFrame, *, variants: Sequence[str]) -> str:
    """Return what stands in for attention, and what is left of BLEU, as Markdown.

    Args:
        runs: Records of the study ``attentionless`` on one set of pairs.
        variants: Rows in order; those that are not recorded are left out.
    """
    recorded, rows = latest_runs(runs).groupby("variant"), []
    for variant in (name for name in variants if name in recorded.groups):
        mine = recorded.get_group(variant)
        bleu = mean_and_range(mine["bleu"].tolist(), digits=1)
        accuracy = mean_and_range(mine["test_accuracy"].tolist())
        rows.append([arm_words(variant), bleu, accuracy, len(mine)])
    scored = "{:,} of {:,} sentences".format(*n_scored(runs))
    head = ["what stands there", f"greedy BLEU, {scored}", "accuracy, teacher-forced", "seeds"]
    return markdown_table(head, rows)


def mean_and_range(values: Sequence[float], *, digits: int = 3) -> str:
    """Return ``mean (lowest to highest)``; one value stands alone."""
    three = (sum(values) / len(values), min(values), max(values))
    mean, low, high = (f"{value:.{digits}f}" for value in three)
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


def replace_block(document: str, block: str) -> str:
    """Return a document with its results block replaced.

    Raises:
        AttnlabError: The document has no block to replace.
    """
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if not pattern.search(document):
        raise AttnlabError(f"The document has no line {BEGIN}; add it and {END} where results go.")
    return pattern.sub(lambda _: block, document)
