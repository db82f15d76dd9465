"""What chapter 09 reads from the records of ``attentionless``."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from attnlab.analysis.compare import latest_runs
from attnlab.distillation import CONTROLS
from attnlab.markdown import markdown_table
from attnlab.records import load_runs
from attnlab.show import ranged
from attnlab.studies.arms import CONTROL_NAMES, SITE_NAMES, arm_columns, get_arm
from attnlab.studies.arms import WAYS as LEARNT
from attnlab.studies.replaced_verdicts import NOT_RECORDED, n_scored
from attnlab.studies.report import TOY

SMALL = "attentionless/classroom/toy_small"
RENAMED = {"test_accuracy": "accuracy", "details.data.train": "n_train"}
COLUMNS = (
    "variant", "seed", "commit", "bleu", "n_weights", "n_replaced_weights", "n_stand_in_weights",
    "details.bleu.n_sentences", "details.data.test_too_long", *RENAMED,
)  # fmt: skip

# Rows of tables and pictures, by variant
ALONE = {
    "encoder_self": {"alr/m": "net (ALR, M)", "alr/l": "net (ALR, L)"},
    "decoder_self": {"alr/m": "net (ALR, M)", "alr/l": "net (ALR, L)"},
    "cross": {"per_query/l": "net per query, L"},
}
SITE_ROWS = {
    "teacher": "The teacher",
    **{
        f"{site}/{arm}": f"{SITE_NAMES[site]}: {words}"
        for site, nets in ALONE.items()
        for arm, words in {**CONTROL_NAMES, **nets}.items()
    },
}
NET_ROWS = {v: words for v, words in SITE_ROWS.items() if get_arm(v).method not in CONTROLS}
WAYS = {  # to learn, in the order of a picture; "" has no word of its own
    **{way: words[0].upper() + words[1:] for way, (words, _) in LEARNT.items() if "scratch" in way},
    "undistilled": "New nets in the teacher's body, tuned",
    "": "Distilled",
    "tuned": "Distilled, nets tuned",
    "tuned_all": "Distilled, everything tuned",
}
TAUGHT = {  # words, look and fill
    "encoder_self/alr/m": ("ALR M in the encoder", "alr", "full"),
    "all/per_query/l": ("no attention: ALR M, net per query L", "alr", "none"),
    "all/low_rank/l": ("no softmax: ALR M, linear attention L", "linear_attention", "top"),
}


def recorded(experiment: str = TOY) -> pd.DataFrame:
    """Return one row a run with the columns of its arm; where it was repeated, the last one.

    ``kept`` is eq. (9.2) for arms at a single site, with the best control of that site and seed;
    ``share`` the BLEU over that of the seed's teacher. Both are nan where that is not there.
    """
    runs = load_runs(experiment, columns=COLUMNS).rename(columns=RENAMED)
    runs = arm_columns(latest_runs(runs))
    controls = runs[runs["method"].isin(CONTROL_NAMES) & (runs["way"] == "")]
    best = controls.groupby(["site", "seed"])["bleu"].max()
    floor = pd.Series(
        [best.get(p) for p in zip(runs["site"], runs["seed"], strict=True)], dtype=float
    )
    own = runs["seed"].map(runs[runs["variant"] == "teacher"].set_index("seed")["bleu"])
    kept = ((runs["bleu"] - floor) / (own - floor)).where(own > floor)
    return runs.assign(kept=kept, share=runs["bleu"] / own)


def choose(runs: pd.DataFrame, rows: Mapping[str, str]) -> pd.DataFrame:
    """Return the runs of these variants in this order, with their words as ``label``."""
    chosen = runs[runs["variant"].isin(list(rows))]
    order = chosen["variant"].map(list(rows).index).argsort(kind="stable")
    return chosen.assign(label=chosen["variant"].map(rows)).iloc[order].reset_index(drop=True)


def best_controls(runs: pd.DataFrame) -> str:
    """Say which control has the best mean BLEU at each site."""
    controls = runs[runs["method"].isin(CONTROL_NAMES) & (runs["way"] == "")]
    means = controls.groupby(["site", "method"], sort=False)["bleu"].mean()
    best = means.groupby("site", sort=False).idxmax()
    found = [best[site] for site in SITE_NAMES if site in best]
    return "; ".join(f"{place[0]}: {place[1]}, mean BLEU {means[place]:.1f}" for place in found)


def compare(runs: pd.DataFrame, better: str, than: str, *, names: tuple[str, str]) -> str:
    """Say by how much one arm differs from another in both numbers, seed by seed.

    Args:
        names: Words for the two.
    """
    one, other = (
        runs.loc[runs["variant"] == variant].set_index("seed")[["bleu", "accuracy"]].astype(float)
        for variant in (better, than)
    )
    change, pair = (one - other).dropna(), f"{names[0]} against {names[1]}"
    if change.empty:
        return f"{pair}: {NOT_RECORDED}."
    return (
        f"{pair}, seed by seed ({len(change)}): BLEU {gained(change['bleu'])}, next token right "
        f"{gained(100 * change['accuracy'])} points."
    )


def gained(values: pd.Series) -> str:
    """Say the range of differences, each with its sign."""
    low, high = f"{values.min():+.1f}", f"{values.max():+.1f}"
    return low if low == high else f"{low} to {high}"


def trained_on(runs: pd.DataFrame) -> str:
    """Say what as many steps as students are tuned for do to a teacher with all its attention."""
    names = ("The teacher, trained on as long", "as it was")
    return compare(runs, "encoder_self/identity/tuned_all", "teacher", names=names)


# Tables ------------------------------------------------------------------------------------------


def ranges_markdown(runs: pd.DataFrame, rows: Mapping[str, str]) -> str:
    """Return a Markdown table of ranges over seeds; says what is not recorded.

    Args:
        runs: From ``recorded``.
        rows: Words for each variant, in the order of the table.
    """
    table = choose(runs, rows)
    shares = {"kept": "Kept share, eq. (9.2)"} if table["kept"].notna().any() else {}
    head = ["Stands in", "Weights", "Next token right, right past given", "BLEU, written freely"]
    lines = []
    for label, part in table.groupby("label", sort=False):
        n_weights = part["n_stand_in_weights"].iloc[0]
        weights = "–" if pd.isna(n_weights) else f"{n_weights:,.0f}"
        scores = [ranged(100 * part["accuracy"], "%"), ranged(part["bleu"])]
        lines.append([label, weights, *scores, *(ranged(part[n], digits=2) for n in shares)])
    n_seeds = table.groupby("label")["seed"].nunique().astype(str)
    seeds = " to ".join(dict.fromkeys([n_seeds.min(), n_seeds.max()]))
    ranges = (
        f"Ranges over {seeds} seeds, each with a teacher of its own" if seeds != "1" else "One seed"
    )
    lacking = "; ".join(words for v, words in rows.items() if v not in set(runs["variant"]))
    return (
        f"{markdown_table([*head, *shares.values()], lines)}\n\n"
        f"{ranges}; {n_scored_words(runs)} test sentences, greedy search."
        + (f" Not recorded yet: {lacking}." if lacking else "")
        + source_fold(table)
    )


def source_fold(runs: pd.DataFrame) -> str:
    """Return, folded, which records a table rests on."""
    commits = ", ".join(sorted(set(runs["commit"])))
    return (
        "\n\n<details><summary>Source</summary>\n\n`data/runs/attentionless.jsonl`, commit "
        f"{commits}.\n\n</details>"
    )


def n_scored_words(runs: pd.DataFrame) -> str:
    """Say how many test sentences were scored, and of how many: ``978 of 1,000``."""
    return "{:,} of {:,}".format(*n_scored(runs))


# Points of pictures ------------------------------------------------------------------------------


def ways_points() -> tuple[pd.DataFrame, dict[str, float]]:
    """Return BLEU by way of learning, and that of attention, as the picture ``ways`` reads them.

    Data are named by the pairs that a teacher learnt from.
    """
    rows, teachers = [], {}
    for experiment in (TOY, SMALL):
        bleus = (runs := recorded(experiment)).groupby("variant")["bleu"]
        data = f"{runs['n_train'].max():,.0f} pairs to learn from"
        teachers[data] = float(bleus.get_group("teacher").mean())
        for way, words in WAYS.items():
            for variant, (arm, look, fill) in TAUGHT.items():
                row = {"data": data, "way": words, "arm": arm, "look": look, "fill": fill}
                name = f"{variant}/{way}".rstrip("/")
                found = bleus.get_group(name) if name in bleus.groups else []
                rows += [{**row, "bleu": bleu} for bleu in found]
    return pd.DataFrame(rows), teachers
