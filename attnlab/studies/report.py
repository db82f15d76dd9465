"""Results as Markdown tables, written from the records and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from attnlab.analysis.compare import ORDERING, judge_claims, latest_runs
from attnlab.errors import AttnlabError
from attnlab.markdown import markdown_table
from attnlab.paths import RUNS
from attnlab.records import load_details, load_runs
from attnlab.studies.attentionless.verdicts import AIM, claims_table
from attnlab.studies.attentionless.words import arm_words

REPLACED = {  # experiment: rows of its table of replacements
    "attentionless/classroom/toy": (
        "teacher",
        "encoder_self/gaussian",
        "encoder_self/alr/m",
        "encoder_self/alrr/m",
        "encoder_self/alrr/m/linear_skip",
        "encoder_self/elr/m",
        "decoder_self/uniform",
        "decoder_self/alr/m",
        "cross/gaussian",
        "cross/paper/l",
        "cross/truncated/l",
        "cross/per_query/l",
        "cross/per_query/l/tuned",
        "cross/low_rank/l",
        "all/per_query/l/tuned",
        "all/per_query/l/scratch",
        "all/low_rank/l",
        "all/low_rank/l/tuned",
    ),
    "attentionless/paper/multi30k/de-en": (
        "teacher",
        "encoder_self/identity/tuned_all",
        "encoder_self/gaussian",
        "encoder_self/alr/m",
        "encoder_self/alrr/m",
        "encoder_self/elr/m",
        "decoder_self/gaussian",
        "decoder_self/alr/m",
        "self/alr/m",
        "self/alr/m/tuned",
        "cross/gaussian",
        "cross/gaussian/tuned",
        "cross/paper/m",
        "cross/truncated/m",
        "cross/truncated/m/tuned",
        "cross/per_query/m",
        "cross/per_query/m/tuned",
        "cross/low_rank/l",
        "cross/low_rank/l/tuned",
        "cross/low_rank/l/tuned_all",
        "all/low_rank/l",
        "all/low_rank/l/tuned",
    ),
    "attentionless/classroom/ted_iwslt/fr-en": (
        "teacher",
        "encoder_self/alr/m",
        "decoder_self/alr/m",
        "cross/gaussian",
        "cross/paper/m",
        "cross/per_query/m",
        "cross/low_rank/l",
        "cross/low_rank/l/tuned",
        "all/low_rank/l/tuned",
    ),
}
CLAIMED_ON = {  # experiment: words for its pairs, where the claims are held against records
    "attentionless/classroom/toy": "toy languages",
    "attentionless/classroom/toy_small": "toy languages, few pairs",
    "attentionless/paper/multi30k/de-en": "captions",
    "attentionless/classroom/ted_iwslt/fr-en": "TED talks",
}
CLOCK = {  # kind of work: part of the bench, and sizes of the point that stands for it
    "training step of a whole model, 6 layers, T = 128, batch 64": (
        "training",
        {"work": "step", "batch": 64, "time": 128},
    ),
    "forward and backward, T = 512, batch 16": (
        "mixers",
        {"work": "training", "batch": 16, "time": 512},
    ),
    "reading a prompt, T = 512, batch 16": ("prefill", {"batch": 16, "time": 512}),
    "one more token, context 2048, batch 16": (
        "generation",
        {"work": "layer", "batch": 16, "context_len": 2048},
    ),
    "one more token, context 2048, batch 1": (
        "generation",
        {"work": "layer", "batch": 1, "context_len": 2048},
    ),
}

CLOCKED_ON = {"route": "default", "precision": "fp32", "device": "cpu", "threads": 1}

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

NAMES = {
    "attention": "attention, 4 heads",
    "attention_1_head": "attention, 1 head",
    "attention_matched_parameters": "attention, as many weights as SHE",
    "attention_matched_compute": "attention, as many multiplications as SHE",
    "she": "SHE",
    "he": "HE",
    "we": "WE",
    "me": "ME",
    "mean": "mean of the past",
    "identity": "no mixing",
}


def results_block(*, path: Path = RUNS) -> str:
    """Return the results section of the README: one table an experiment, best first.

    Every number is a mean with its range over seeds, straight from ``data/runs``.
    """
    tales = load_runs("language-model/classroom/tales", path=path)
    books = load_runs("language-model/paper/children", path=path)
    counted = load_runs("n-grams/paper/children", path=path).iloc[-1]
    n_unseen = load_details("language-model/paper/children", "books", path=path)["book"].nunique()
    passes = f"{books['tokens_seen'].max() / 1e6:.1f} M tokens"
    parts = [
        BEGIN,
        "**Tales** (synthetic, so the floor is known): how far above the true source each mixer "
        "ends. Records: `language-model/classroom/tales`.",
        results_table(tales, columns={"test_gap_nats": "gap to the true source (nats per token)"}),
        f"**Children's books** (one pass of {passes}; tested on {n_unseen} books no model saw). "
        "Records: `language-model/paper/children`.",
        results_table(
            books,
            columns={
                "test_loss_nats": "unseen books (nats per token)",
                "test_bits_per_byte": "bits per byte",
                "train_loss_nats": "training cost at the end (nats per token)",
            },
        ),
        f"For scale: counting {counted['best_order']:.0f}-grams on the same text (Kneser-Ney) "
        f"reaches {counted['test_loss_nats']:.3f} nats per token on the unseen books "
        "(`n-grams/paper/children`). Matrix products ran in bfloat16, the Extractors' convolutions "
        "in float32.",
        "**The order that the paper reports**, held against these runs:",
        verdict_list(
            {
                "tales, held-out loss": (tales, "test_loss_nats"),
                "books, training cost": (books, "train_loss_nats"),
                "books, unseen": (books, "test_loss_nats"),
            }
        ),
        "**The clock**: time over attention's, below 1 is faster; medians with 95 % intervals from "
        "interleaved rounds, width 128, float32, one CPU thread, torch's default products. "
        "Records: `speed/paper`.",
        clock_table(load_runs("speed/paper/", path=path)),
        growth_sentence(load_runs("speed/paper/mixers/", path=path)),
        *replacement_parts(load_runs("attentionless/", path=path)),
        END,
    ]
    return "\n\n".join(parts)


def results_table(runs: pd.DataFrame, *, columns: dict[str, str]) -> str:
    """Return a Markdown table with one row a variant, ordered by the first column.

    Args:
        runs: Rows of one experiment with ``variant``, ``seed``, ``n_weights`` and the columns.
        columns: Metric to heading.
    """
    head = ["mixer", "weights", *columns.values(), "seeds"]
    runs = latest_runs(runs)
    ordered = runs.groupby("variant")[next(iter(columns))].mean().sort_values().index
    rows = []
    for variant in ordered:
        mine = runs[runs["variant"] == variant]
        weights = f"{mine['n_weights'].iloc[0] / 1e6:.2f} M"
        cells = [mean_and_range(mine[metric].tolist()) for metric in columns]
        rows.append([NAMES.get(str(variant), str(variant)), weights, *cells, str(len(mine))])
    return markdown_table(head, rows)


def clock_table(runs: pd.DataFrame) -> str:
    """Return time over attention's as Markdown: one row a kind of work, one column a mixer.

    Args:
        runs: Records of ``attnlab bench``; the newest series on one CPU thread counts.
    """
    mixers = ("she", "he", "we", "me")
    rows = []
    for says, (part, sizes) in CLOCK.items():
        points = runs
        for name, value in {**CLOCKED_ON, "part": part, **sizes}.items():
            points = points[points[f"config.{name}"] == value]
        if not len(points):
            raise AttnlabError(f"No record of {says!r}; measure it with: attnlab bench {part}.")
        points = points[points["seed"] == points["seed"].max()].set_index("variant")
        rows.append([says, *(_ratio(points.loc[mixer]) for mixer in mixers)])
    return markdown_table(["work", *(NAMES[mixer] for mixer in mixers)], rows)


def _ratio(point: pd.Series) -> str:
    mid, low, high = (point[f"ratio_to_attention{end}"] for end in ("", "_low", "_high"))
    return f"{mid:.2g} ({low:.2g} to {high:.2g})"


def growth_sentence(runs: pd.DataFrame) -> str:
    """Say with which power of the length the time of a layer grows, forward and backward.

    Least squares on log scales over the recorded lengths from 128 tokens on, at batch 16.
    """
    sizes = {"work": "training", "batch": 16, "route": "default", "precision": "fp32"}
    points = runs
    for name, value in {**sizes, **CLOCKED_ON}.items():
        points = points[points[f"config.{name}"] == value]
    points = points[(points["seed"] == points["seed"].max()) & (points["config.time"] >= 128)]
    parts = []
    for mixer in ("attention", "she", "he", "we", "me"):
        mine = points[points["variant"] == mixer]
        slope = np.polyfit(np.log(mine["config.time"]), np.log(mine["median_ms"]), 1)[0]
        parts.append(f"{NAMES[mixer]} $T^{{{slope:.2f}}}$")
    lengths = sorted(points["config.time"].unique())
    return (
        f"From {lengths[0]:.0f} to {lengths[-1]:.0f} tokens the time of a layer, forward and "
        f"backward at batch 16, grows as {', '.join(parts)} (fit over {len(lengths)} lengths)."
    )


def replacement_parts(runs: pd.DataFrame) -> list[str]:
    """Return what the records say of replaced attention: two tables, and the claims.

    Args:
        runs: All records of the study ``attentionless``; arms that are not there are left out.
    """
    toy, captions, talks = REPLACED
    by_name = {name: runs[runs["experiment"] == name] for name in {**REPLACED, **CLAIMED_ON}}
    return [
        "**Attention replaced by nets that learnt from it**, in a small translator of two toy "
        f"languages; greedy BLEU on held-out sentences. Records: `{toy}`.",
        replacement_table(by_name[toy], variants=REPLACED[toy]),
        "The *published net* reads all of both sentences at once; the *cut net* is the same, "
        "taught on targets that end at a random place; the *net per query* reads the source and "
        "one query. Linear attention has no softmax over positions. *Tuned*: the nets learnt on "
        "from the translations after the swap. Averages match nothing: the best control of "
        "each site. Where all sites go, ALR of size M stands at the self sites.",
        f"**The same on captions**, German to English, 3 + 3 layers. Records: `{captions}`.",
        replacement_table(by_name[captions], variants=REPLACED[captions]),
        "**And on TED talks**, French to English, 2 + 2 layers, a small and weak teacher. "
        f"Records: `{talks}`.",
        replacement_table(by_name[talks], variants=REPLACED[talks]),
        f"**What the second paper claims**, held against these runs. To replace means to keep "
        f"{AIM:.0%} of the teacher's BLEU; in brackets the best arm, and its share with 95 % "
        "intervals over resampled test sets, of all its seeds. It was chosen among many on the "
        "same sentences, which flatters it.",
        claims_table({words: by_name[name] for name, words in CLAIMED_ON.items()}),
    ]


def replacement_table(runs: pd.DataFrame, *, variants: Sequence[str]) -> str:
    """Return what stands in for attention, and what is left of BLEU, as Markdown.

    Args:
        runs: Records of the study ``attentionless`` on one set of pairs.
        variants: Rows in order; those that are not recorded are left out.
    """
    runs = latest_runs(runs)
    head = ["what stands there", "greedy BLEU", "accuracy, teacher-forced", "seeds"]
    rows = []
    for variant in variants:
        mine = runs[runs["variant"] == variant]
        if mine.empty:
            continue
        bleu = mean_and_range(mine["bleu"].tolist(), digits=1)
        accuracy = mean_and_range(mine["test_accuracy"].tolist())
        rows.append([arm_words(variant), bleu, accuracy, len(mine)])
    return markdown_table(head, rows)


def verdict_list(evidence: dict[str, tuple[pd.DataFrame, str]]) -> str:
    """Return one Markdown item a claim of ``compare.ORDERING`` and kind of evidence.

    A claim with fewer than two paired seeds is left out: they decide nothing.
    """
    items = []
    for what, (runs, metric) in evidence.items():
        verdicts = judge_claims(latest_runs(runs), claims=ORDERING, metric=metric)
        items += [
            f"- {row['says']} ({what}): **{row['verdict']}**; mean difference "
            f"{row['mean']:+.3f} nats over {row['n_pairs']} paired seeds."
            for row in verdicts[verdicts["n_pairs"] >= 2].to_dict("records")
        ]
    return "\n".join(items)


def mean_and_range(values: Sequence[float], *, digits: int = 3) -> str:
    """Return ``mean (lowest to highest)``; one value stands alone."""
    mean, low, high = (
        f"{value:.{digits}f}" for value in (sum(values) / len(values), min(values), max(values))
    )
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
