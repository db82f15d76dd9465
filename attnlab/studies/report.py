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
from attnlab.mixers import list_mixers
from attnlab.paths import RUNS
from attnlab.records import load_details, load_runs
from attnlab.studies.mixers import VARIANTS
from attnlab.studies.replaced import arm_words
from attnlab.studies.replaced_verdicts import AIM, claims_table, n_scored, replacement_verdicts

TEMPLATE = Path(__file__).with_name("report.md")
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

TOY = "attentionless/classroom/toy"
CAPTIONS = "attentionless/paper/multi30k/de-en"
TALKS = "attentionless/classroom/ted_iwslt/fr-en"
_ROWS = {  # experiment: rows of its table of replacements
    TOY: """teacher encoder_self/gaussian encoder_self/alr/m encoder_self/alrr/m
        encoder_self/alrr/m/linear_skip encoder_self/elr/m decoder_self/uniform decoder_self/alr/m
        cross/gaussian cross/paper/l cross/truncated/l cross/per_query/l cross/per_query/l/tuned
        cross/low_rank/l all/per_query/l/tuned all/per_query/l/scratch all/low_rank/l
        all/low_rank/l/tuned""",
    CAPTIONS: """teacher encoder_self/identity/tuned_all encoder_self/gaussian encoder_self/alr/m
        encoder_self/alrr/m encoder_self/elr/m decoder_self/gaussian decoder_self/alr/m self/alr/m
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
GROWTH = {"part": "mixers", "work": "training", "batch": 16}
CLOCKED_ON = {"route": "default", "precision": "fp32", "device": "cpu", "threads": 1}


def results_block(*, path: Path = RUNS) -> str:
    """Return the results section of the README: ``report.md`` with tables from the records.

    Tables are ordered best first; a number is a mean with its range over seeds.
    """
    tales = load_runs("language-model/classroom/tales", path=path)
    books = load_runs("language-model/paper/children", path=path)
    unseen = load_details("language-model/paper/children", "books", path=path)
    clock = load_runs("speed/paper/", path=path)
    replaced = {name: load_runs(name, path=path) for name in REPLACED}
    evidence = {
        "tales, held-out loss": (tales, "test_loss_nats"),
        "books, training cost": (books, "train_loss_nats"),
        "books, unseen": (books, "test_loss_nats"),
    }
    columns = {
        "test_loss_nats": "unseen books (nats per token)",
        "test_bits_per_byte": "bits per byte",
        "train_loss_nats": "training cost at the end (nats per token)",
    }
    words = TEMPLATE.read_text(encoding="utf-8").rstrip("\n")
    return words.format(
        tales=results_table(
            tales, columns={"test_gap_nats": "gap to the true source (nats per token)"}
        ),
        books=results_table(books, columns=columns),
        n_tokens=books["tokens_seen"].max() / 1e6,
        n_books=unseen["book"].nunique(),
        counted=load_runs("n-grams/paper/children", path=path).iloc[-1],
        order=verdict_list(evidence),
        clock=clock_table(clock),
        growth=growth_sentence(clock),
        toy=replacement_table(replaced[TOY], variants=REPLACED[TOY]),
        captions=replacement_table(replaced[CAPTIONS], variants=REPLACED[CAPTIONS]),
        talks=replacement_table(replaced[TALKS], variants=REPLACED[TALKS]),
        aim=AIM,
        claims=claims_table(replacement_verdicts(path=path)),
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
        rows.append([VARIANTS.get(str(variant), variant), weights, *cells, len(mine)])
    return markdown_table(["mixer", "weights", *columns.values(), "seeds"], rows)


def clock_table(runs: pd.DataFrame) -> str:
    """Return time over attention's as Markdown: one row a kind of work, one column a mixer.

    Args:
        runs: Records of ``attnlab bench``; the newest series on one CPU thread counts.
    """
    mixers, rows = list_mixers(family="extractor"), []
    for says, sizes in CLOCK.items():
        points = _newest(runs, **sizes).set_index("variant")
        rows.append([says, *(_ratio(points.loc[mixer]) for mixer in mixers)])
    return markdown_table(["work", *(VARIANTS[mixer] for mixer in mixers)], rows)


def _newest(runs: pd.DataFrame, **sizes: object) -> pd.DataFrame:
    """Return the points of these sizes in the newest series on one CPU thread."""
    for name, value in {**CLOCKED_ON, **sizes}.items():
        runs = runs[runs[f"config.{name}"] == value]
    if runs.empty:
        raise AttnlabError(f"No record of {sizes}; measure it with: attnlab bench {sizes['part']}.")
    return runs[runs["seed"] == runs["seed"].max()]


def _ratio(point: pd.Series) -> str:
    mid, low, high = (point[f"ratio_to_attention{end}"] for end in ("", "_low", "_high"))
    return f"{mid:.2g} ({low:.2g} to {high:.2g})"


def growth_sentence(runs: pd.DataFrame) -> str:
    """Say with which power of the length the time of a layer grows, forward and backward.

    Least squares on log scales over the recorded lengths from 128 tokens on, at batch 16.
    """
    points = _newest(runs, **GROWTH)
    points, parts = points[points["config.time"] >= 128], []
    for mixer in ("attention", *list_mixers(family="extractor")):
        mine = points[points["variant"] == mixer]
        slope = np.polyfit(np.log(mine["config.time"]), np.log(mine["median_ms"]), 1)[0]
        parts.append(f"{VARIANTS[mixer]} $T^{{{slope:.2f}}}$")
    lengths = sorted(points["config.time"].unique())
    return (
        f"From {lengths[0]:.0f} to {lengths[-1]:.0f} tokens the time of a layer, forward and "
        f"backward at batch 16, grows as {', '.join(parts)} (fit over {len(lengths)} lengths)."
    )


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
