"""Results as Markdown tables, written from the records and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from attnlab.analysis.compare import ORDERING, judge_claims, latest_runs
from attnlab.errors import AttnlabError
from attnlab.records import RUNS, load_details, load_runs

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
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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


def mean_and_range(values: Sequence[float]) -> str:
    """Return ``mean (lowest to highest)`` to three decimals; one value stands alone."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.3f}"
    return f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})"


def replace_block(document: str, block: str) -> str:
    """Return a document with its results block replaced.

    Raises:
        AttnlabError: The document has no block to replace.
    """
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if not pattern.search(document):
        raise AttnlabError(f"The document has no line {BEGIN}; add it and {END} where results go.")
    return pattern.sub(lambda _: block, document)
