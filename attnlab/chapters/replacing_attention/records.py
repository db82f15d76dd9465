"""What chapter 09 reads from the records of ``attentionless``, and of the clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from attnlab.analysis.compare import latest_runs
from attnlab.distillation import CONTROLS
from attnlab.markdown import markdown_table
from attnlab.records import load_details, load_runs
from attnlab.show import ranged
from attnlab.studies.arms import CONTROL_NAMES, SITE_NAMES, arm_columns, arm_words, get_arm
from attnlab.studies.arms import WAYS as LEARNT
from attnlab.studies.replaced_verdicts import NOT_RECORDED, n_scored
from attnlab.studies.report import CAPTIONS, REPLACED, TOY

SMALL, SHORT = "attentionless/classroom/toy_small", "attentionless/classroom/toy_short"
CLOCK = "speed/paper/translation/"
TITLES = {TOY: "Toy languages", CAPTIONS: "Captions, German to English"}
RENAMED = {"test_accuracy": "accuracy", "details.data.train": "n_train"}
COLUMNS = (
    "variant", "seed", "commit", "bleu", "n_weights", "n_replaced_weights", "n_stand_in_weights",
    "details.bleu.n_sentences", "details.data.test_too_long", *RENAMED,
)  # fmt: skip
SHARES = {"kept": "Kept share, eq. (9.2)", "share": "BLEU over the teacher's"}
COSTS = {  # of a sentence, by what was timed
    "gflop": "GFLOP a sentence",
    "ms": "ms a sentence, alone",
    "ms_in_batch": "ms a sentence, in a batch",
}

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
CAPTION_ROWS = {variant: arm_words(variant) for variant in REPLACED[CAPTIONS]}
CROSS = {  # L nets on the toy, M nets on captions
    TOY: ("paper/l", "truncated/l", "per_query/l", "low_rank/l", "gaussian"),
    CAPTIONS: ("paper/m", "truncated/m", "per_query/m", "low_rank/l", "gaussian"),
}
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
PRICED = ("teacher", "encoder_self/alr/m", "decoder_self/alr/m", "self/alr/m", "cross/truncated/m",
          "cross/per_query/m", "cross/low_rank/l", "all/low_rank/l")  # fmt: skip
LONGER = {  # look of its line, where it has one
    "teacher": "attention",
    "encoder_self/alr/m": "alr",
    "decoder_self/alr/m": None,
    "cross/per_query/l": None,
    "cross/low_rank/l": "linear_attention",
    "all/per_query/l/tuned": "alr",
    "all/low_rank/l/tuned": None,
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


def ranges_markdown(
    runs: pd.DataFrame, rows: Mapping[str, str], *, shares: Sequence[str] = ("kept",)
) -> str:
    """Return a Markdown table of ranges over seeds; says what is not recorded.

    Args:
        runs: From ``recorded``.
        rows: Words for each variant, in the order of the table.
        shares: Columns besides, of those in ``SHARES``; one without a value is left out.
    """
    table = choose(runs, rows)
    shares = [name for name in shares if table[name].notna().any()]
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
        f"{markdown_table([*head, *(SHARES[name] for name in shares)], lines)}\n\n"
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


def price_markdown(costs: pd.DataFrame) -> str:
    """Return a Markdown table of what each translator costs and what it is worth.

    Args:
        costs: From ``price_points``.
    """
    own = costs[costs["variant"] == "teacher"].mean(numeric_only=True)
    lines = []
    for label, part in costs.groupby("label", sort=False):
        means = {name: float(part[name].mean()) for name in ("n_weights", *COSTS)}
        cells = [
            NOT_RECORDED if pd.isna(mean) else f"{short(mean)} ({mean / own[name]:.3g} x)"
            for name, mean in means.items()
        ]
        lines.append([label, *cells, ranged(part["bleu"]), ranged(part["share"], digits=2)])
    head = ["Translator", "Weights", *COSTS.values(), "BLEU", SHARES["share"]]
    return markdown_table(head, lines)


def short(value: float) -> str:
    """Write a number as people say it: 1200 as 1.2k, 3.4e6 as 3.4M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:  # what three digits round up to
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


# Points of pictures ------------------------------------------------------------------------------


def cross_points() -> pd.DataFrame:
    """Return the cross arms on toy and captions, before and after tuning where both are there."""
    parts = []
    for experiment, arms in CROSS.items():
        plain = ["teacher", *(f"cross/{arm}" for arm in arms)]
        rows = {
            v + way: arm_words(v).removeprefix("cross: ") for v in plain for way in ("", "/tuned")
        }
        chosen = choose(recorded(experiment), rows)
        is_tuned = chosen["tunes"] == "students"
        parts.append(chosen.assign(data=TITLES[experiment], is_tuned=is_tuned))
    return pd.concat(parts, ignore_index=True)


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


def price_points() -> pd.DataFrame:
    """Return weights, work, time and BLEU of the teacher and of arms on captions, by seed.

    Where an arm was tuned after the swap, that one counts: it costs the same. ``n_weights`` is
    of the whole translator; of a sentence ``gflop`` with the right past given, ``ms`` and
    ``ms_in_batch``, written token by token, on one CPU thread (nan where not measured).
    """
    runs, clock = recorded(CAPTIONS), clocked()
    known = set(runs["variant"])
    priced = {f"{v}/tuned" if f"{v}/tuned" in known else v: v for v in PRICED}
    table = choose(runs, {variant: arm_words(variant) for variant in priced})
    whole = table["seed"].map(table[table["variant"] == "teacher"].set_index("seed")["n_weights"])
    swapped = whole - table["n_replaced_weights"] + table["n_stand_in_weights"]
    costs = {
        name: [
            clock.get(v, clock.get(priced[v], {})).get(name, float("nan")) for v in table["variant"]
        ]
        for name in COSTS
    }
    return table.assign(n_weights=table["n_weights"].fillna(swapped), **costs)


def clocked() -> dict[str, dict[str, float]]:
    """Return ``COSTS`` by arm, on one CPU thread; the newest record of each kind counts."""
    config = [f"config.{name}" for name in ("work", "batch", "threads", "device")]
    found: dict[str, dict[str, float]] = {}
    for arm, gflop, ms, work, batch, *where in load_runs(
        CLOCK, columns=["variant", "work_gflop", "median_ms", *config]
    ).itertuples(index=False):
        if where == [1, "cpu"]:
            cost = found.setdefault(arm, {})
            cost["gflop"] = gflop
            if work == "greedy":
                cost["ms" if batch == 1 else "ms_in_batch"] = ms
    return found


def length_points() -> tuple[pd.DataFrame, int]:
    """Return BLEU by length with the look of its line, and the longest length in training."""
    table = load_details(SHORT, "by_length")
    table = table[table["variant"].isin(list(LONGER))]
    table = table.drop_duplicates(["variant", "seed", "shortest"], keep="last")
    table = choose(table, {variant: arm_words(variant) for variant in LONGER})
    longest = load_runs(SHORT, columns=["details.data.longest_train"]).max().iloc[0]
    return table.assign(look=table["variant"].map(LONGER)), int(longest)


def what_length_costs(lengths: pd.DataFrame) -> str:
    """Say by how much each arm differs from its teacher on the longest sentences, by seed.

    Args:
        lengths: From ``length_points``.
    """
    longest = lengths[lengths["shortest"] == lengths["shortest"].max()]
    own = longest["seed"].map(longest[longest["variant"] == "teacher"].set_index("seed")["bleu"])
    change = (longest["bleu"] - own).groupby(longest["label"], sort=False)
    said = [f"{label} {gained(values)}" for label, values in change if label != "teacher"]
    return f"On the longest sentences, BLEU against the teacher's, by seed: {'; '.join(said)}."
