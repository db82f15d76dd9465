"""Recorded runs of the study ``attentionless``, as notebook 09 tells them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from attnlab.distillation import CONTROLS
from attnlab.records import read_records
from attnlab.teaching.replacing import kept_share

EXPERIMENT = "attentionless/classroom/toy"
METRICS = (
    "bleu", "exact_match", "test_accuracy", "test_loss_nats", "relative_error",
    "n_stand_in_weights", "n_replaced_weights",
)  # fmt: skip
COLUMNS = ("variant", "seed", *METRICS, "n_sentences", "kept", "commit")
NO_RECORD = (
    "**This result is not recorded yet.** The cell reads `data/runs/attentionless.jsonl` as soon "
    "as that file holds the arms it needs. To make them (hours on two cores): "
    "`attnlab study run attentionless --scale classroom --corpus toy --seeds 0 1 2`."
)
SITE_NAMES = {"encoder_self": "Encoder self", "decoder_self": "Decoder self", "cross": "Cross"}
CONTROL_NAMES = {
    "mean": "mean vector",
    "zero": "zero",
    "uniform": "uniform average",
    "gaussian": "Gaussian average",
    "random": "untrained net",
}
NETS_ALONE = {
    "encoder_self": {"alr/m": "net (ALR, M)", "alr/l": "net (ALR, L)"},
    "decoder_self": {"alr/m": "net (ALR, M)", "alr/l": "net (ALR, L)"},
    "cross": {"per_query/l": "net per query, L"},
}
SITE_ROWS = {
    "teacher": "The teacher",
    **{
        f"{site}/{arm}": f"{name}: {said}"
        for site, name in SITE_NAMES.items()
        for arm, said in (CONTROL_NAMES | NETS_ALONE[site]).items()
    },
}
NET_ROWS = {
    variant: said
    for variant, said in SITE_ROWS.items()
    if variant.partition("/")[2] not in CONTROL_NAMES
}
LEAK_ROWS = {
    "cross/paper/m": "Published net, M",
    "cross/truncated/m": "Cut net, M",
    "cross/paper/l": "Published net, L",
    "cross/truncated/l": "Cut net, L",
    "cross/prefix/l": "Every prefix, L",
    "cross/per_query/l": "Net per query, L",
}
LEFT_ROWS = {
    "cross/per_query/m": "Net per query, M",
    "cross/per_query/l": "Net per query, L",
    "cross/per_query/xl": "... wider: XL",
    "cross/per_query/l/depth_2": "... two hidden layers",
    "cross/per_query/l/depth_3": "... three hidden layers",
    "cross/per_query/l/gate": "... query gate",
    "cross/per_query/l/learned_head": "... one learned head",
    "cross/per_query/l/tuned": "... tuned after the swap",
    "cross/truncated/l": "Cut net, L",
    "cross/truncated/l/tuned": "... tuned after the swap (cut)",
    "cross/low_rank/m": "Low-rank look-up",
    "cross/extractor/m": "Extractor",
}
ALL_ROWS = {
    "self/alr/m": "Both self sites (M)",
    "all/truncated/l": "All sites, cut net at cross",
    "all/truncated/l/tuned": "All sites, cut net, tuned",
    "all/per_query/l": "All sites, net per query at cross",
    "all/per_query/l/tuned": "All sites, net per query, tuned",
}


def recorded_arms(*, experiment: str = EXPERIMENT, path: Path | None = None) -> pd.DataFrame:
    """Return one row a run, with the columns ``COLUMNS``; empty where nothing is recorded.

    ``kept`` is eq. (9.2) for arms at a single site, with the best control of that site and seed;
    nan elsewhere, and where its seed has no teacher or no control.
    """
    rows = []
    for record in read_records(path):
        if record["experiment"] == experiment:
            row = {name: record[name] for name in ("variant", "seed", "commit")}
            row["n_sentences"] = record["details"].get("bleu", {}).get("n_sentences", math.nan)
            rows.append(row | {name: record["metrics"].get(name, math.nan) for name in METRICS})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table = table.drop_duplicates(["variant", "seed"], keep="last").reset_index(drop=True)
    bleu = {(r.variant, r.seed): r.bleu for r in table.itertuples()}
    table["kept"] = [_kept(r.variant, r.seed, bleu) for r in table.itertuples()]
    return table


def _kept(variant: str, seed: int, bleu: Mapping[tuple[str, int], float]) -> float:
    site = variant.split("/")[0]
    floors = [bleu[f"{site}/{c}", seed] for c in CONTROL_NAMES if (f"{site}/{c}", seed) in bleu]
    if ("teacher", seed) not in bleu or not floors or site not in SITE_NAMES:
        return math.nan
    return kept_share(bleu[variant, seed], bleu["teacher", seed], floors)


def choose_rows(runs: pd.DataFrame, rows: Mapping[str, str]) -> pd.DataFrame:
    """Return the runs of these variants in this order, with their words as ``label``."""
    chosen = runs[runs["variant"].isin(list(rows))]
    order = [list(rows).index(variant) for variant in chosen["variant"]]
    chosen = chosen.iloc[np.argsort(order, kind="stable")]
    table = chosen.assign(
        label=[rows[v] for v in chosen["variant"]], accuracy=chosen["test_accuracy"]
    )
    return table.reset_index(drop=True)


def ranges_markdown(runs: pd.DataFrame, rows: Mapping[str, str]) -> str:
    """Return a Markdown table of ranges over seeds; says so where nothing is recorded.

    Args:
        runs: From ``recorded_arms``.
        rows: Words for each variant, in the order of the table.
    """
    table = choose_rows(runs, rows)
    if table.empty:
        return NO_RECORD
    has_kept = table["kept"].notna().any()
    heads = ["Stands in", "Weights", "Next token right, right past given", "BLEU, written freely"]
    heads += ["Kept share, eq. (9.2)"] if has_kept else []
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for label, part in table.groupby("label", sort=False):
        cells = [str(label), _weights(part), _range(100 * part["accuracy"], "%")]
        cells += [_range(part["bleu"])] + ([_range(part["kept"], digits=2)] if has_kept else [])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n{_origin(table)}"


def best_controls(runs: pd.DataFrame) -> pd.DataFrame:
    """Return, by site, the control with the best mean BLEU, and that mean beside the teacher's."""
    rows = []
    for site in SITE_NAMES:
        means = {
            c: runs.loc[runs["variant"] == f"{site}/{c}", "bleu"].mean()
            for c in CONTROLS if c != "identity"
        }  # fmt: skip
        found = {c: value for c, value in means.items() if not math.isnan(value)}
        if found:
            best = max(found, key=lambda c: found[c])
            rows.append({"site": site, "control": best, "bleu": found[best]})
    return pd.DataFrame(rows, columns=["site", "control", "bleu"])


def verdict(runs: pd.DataFrame, *, better: str, than: str, names: Sequence[str]) -> str:
    """Say by how much one arm differs from another in both numbers, seed by seed.

    Args:
        better: Variant that is compared.
        than: Variant it is compared with.
        names: Words for the two.
    """
    by_seed = runs.pivot_table(index="seed", columns="variant", values=["bleu", "test_accuracy"])
    pairs = [(metric, v) for metric in ("bleu", "test_accuracy") for v in (better, than)]
    if not set(pairs) <= set(by_seed.columns):
        return f"{names[0]} against {names[1]}: not recorded yet."
    found = by_seed[pairs].dropna()
    bleu = found["bleu", better] - found["bleu", than]
    words = 100 * (found["test_accuracy", better] - found["test_accuracy", than])
    return (
        f"{names[0]} against {names[1]}, seed by seed ({len(found)}): BLEU "
        f"{bleu.min():+.1f} to {bleu.max():+.1f}, next token right {words.min():+.1f} to "
        f"{words.max():+.1f} points."
    )


def _range(values: pd.Series, unit: str = "", *, digits: int = 1) -> str:
    values = values.dropna()
    if values.empty:
        return "–"
    low, high = (f"{v:.{digits}f}" for v in (values.min(), values.max()))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def _weights(part: pd.DataFrame) -> str:
    count = part["n_stand_in_weights"].iloc[0]
    return "–" if math.isnan(count) else f"{count:,.0f}"


def _origin(table: pd.DataFrame) -> str:
    n_seeds = table.groupby("label")["seed"].nunique()
    fewest, most = n_seeds.min(), n_seeds.max()
    seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
    commits = ", ".join(sorted(set(table["commit"])))
    sizes = ", ".join(f"{n:,.0f}" for n in sorted(set(table["n_sentences"].dropna())))
    return (
        f"Ranges over {seeds} seeds, each with a teacher of its own; {sizes} test sentences, "
        f"greedy search. Source: `data/runs/attentionless.jsonl`, commit {commits}."
    )
