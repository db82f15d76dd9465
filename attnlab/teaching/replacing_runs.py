"""Recorded runs of the study ``attentionless``, as notebook 09 tells them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from attnlab.distillation import CONTROLS
from attnlab.plots.labels import ranged
from attnlab.records import load_runs
from attnlab.studies.replaced import CONTROL_NAMES, SITE_NAMES, arm_columns, get_arm
from attnlab.teaching.replacing import kept_share

EXPERIMENT = "attentionless/classroom/toy"
METRICS = (
    "bleu", "bleu_low", "bleu_high", "exact_match", "test_accuracy", "test_loss_nats",
    "relative_error", "n_weights", "n_stand_in_weights", "n_replaced_weights",
    "bleu_share_low", "bleu_share_high",
)  # fmt: skip
COLUMNS = ("variant", "seed", *METRICS, "n_sentences", "n_train", "kept", "share", "commit")
SHARES = {"kept": "Kept share, eq. (9.2)", "share": "BLEU over the teacher's"}
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
    variant: said for variant, said in SITE_ROWS.items() if get_arm(variant).method not in CONTROLS
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
    "cross/low_rank/l": "Linear attention, L",
    "cross/low_rank/l/tuned": "... tuned after the swap (linear)",
    "cross/extractor/m": "Extractor",
}
ALL_ROWS = {
    "self/alr/m": "Both self sites (M)",
    "self/alr/m/tuned": "Both self sites, tuned",
    "all/truncated/l": "All sites, cut net at cross",
    "all/truncated/l/tuned": "All sites, cut net, tuned",
    "all/per_query/l": "All sites, net per query at cross",
    "all/per_query/l/tuned": "All sites, net per query, tuned",
    "all/low_rank/l": "All sites, linear attention at cross",
    "all/low_rank/l/tuned": "All sites, linear attention, tuned",
}


def no_record(experiment: str = EXPERIMENT) -> str:
    """Say that an experiment lacks what a cell needs, and how to make it."""
    _, scale, corpus = experiment.split("/", 2)
    return (
        "**This result is not recorded yet.** The cell reads `data/runs/attentionless.jsonl` as "
        "soon as that file holds the arms it needs. To make them (hours on two cores): "
        f"`attnlab study run attentionless --scale {scale} --corpus {corpus} --seeds 0,1,2`."
    )


NO_RECORD = no_record()


def recorded_arms(*, experiment: str = EXPERIMENT, path: Path | None = None) -> pd.DataFrame:
    """Return one row a run, with the columns ``COLUMNS``; empty where nothing is recorded.

    ``n_weights`` counts the whole translator, nan where more than queries, keys and values went;
    ``n_train`` the pairs that a teacher learnt from.
    ``kept`` is eq. (9.2) for arms at a single site, with the best control of that site and seed;
    ``share`` the BLEU over that of the seed's teacher. Both are nan where that is not there.
    """
    places = {"details.bleu.n_sentences": "n_sentences", "details.data.train": "n_train"}
    columns = ("variant", "seed", *METRICS, *places, "kept", "share", "commit")
    table = load_runs(experiment, path=path, columns=columns).rename(columns=places)
    table = table.drop_duplicates(["variant", "seed"], keep="last").reset_index(drop=True)
    bleu = {(r.variant, r.seed): r.bleu for r in table.itertuples()}
    table["kept"] = [_kept(r.variant, r.seed, bleu) for r in table.itertuples()]
    teachers = table[table["variant"] == "teacher"].set_index("seed")
    table["share"] = table["bleu"] / table["seed"].map(teachers["bleu"])
    whole = table["seed"].map(teachers["n_weights"])
    swapped = whole - table["n_replaced_weights"] + table["n_stand_in_weights"]
    is_more = arm_columns(table)["method"].isin(["identity", "alrr", "elr"])
    table["n_weights"] = table["n_weights"].fillna(swapped.mask(is_more))
    return table


def _kept(variant: str, seed: int, bleu: Mapping[tuple[str, int], float]) -> float:
    site = get_arm(variant).site
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


def ranges_markdown(
    runs: pd.DataFrame,
    rows: Mapping[str, str],
    *,
    experiment: str = EXPERIMENT,
    shares: Sequence[str] = ("kept",),
) -> str:
    """Return a Markdown table of ranges over seeds; says what is not recorded.

    Args:
        runs: From ``recorded_arms``.
        rows: Words for each variant, in the order of the table.
        experiment: What the runs are of.
        shares: Columns besides, of those in ``SHARES``; one without a value is left out.
    """
    table = choose_rows(runs, rows)
    if table.empty:
        return no_record(experiment)
    heads = ["Stands in", "Weights", "Next token right, right past given", "BLEU, written freely"]
    shares = [name for name in shares if table[name].notna().any()]
    heads += [SHARES[name] for name in shares]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for label, part in table.groupby("label", sort=False):
        cells = [str(label), _weights(part), ranged(100 * part["accuracy"], "%")]
        cells += [ranged(part["bleu"])]
        cells += [ranged(part[name], digits=2) for name in shares]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n{_origin(table)}{missing(runs, rows)}"


def missing(runs: pd.DataFrame, rows: Mapping[str, str]) -> str:
    """Say which of these variants are not recorded; nothing where all are."""
    names = [said for variant, said in rows.items() if variant not in set(runs["variant"])]
    return f" Not recorded yet: {'; '.join(names)}." if names else ""


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
        f"{names[0]} against {names[1]}, seed by seed ({len(found)}): BLEU {gained(bleu)}, next "
        f"token right {gained(words)} points."
    )


def gained(values: pd.Series) -> str:
    """Say the range of differences, each with its sign."""
    low, high = f"{values.min():+.1f}", f"{values.max():+.1f}"
    return low if low == high else f"{low} to {high}"


def _weights(part: pd.DataFrame) -> str:
    count = part["n_stand_in_weights"].iloc[0]
    return "–" if math.isnan(count) else f"{count:,.0f}"


def _origin(table: pd.DataFrame) -> str:
    n_seeds = table.groupby("label")["seed"].nunique()
    fewest, most = n_seeds.min(), n_seeds.max()
    seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
    ranges = f"Ranges over {seeds} seeds, each with a teacher of its own"
    ranges = ranges if most > 1 else "One seed"
    commits = ", ".join(sorted(set(table["commit"])))
    sizes = ", ".join(f"{n:,.0f}" for n in sorted(set(table["n_sentences"].dropna())))
    return (
        f"{ranges}; {sizes} test sentences, greedy search. Source: "
        f"`data/runs/attentionless.jsonl`, commit {commits}."
    )
