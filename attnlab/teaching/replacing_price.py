"""What the records say of the price of replaced attention: weights, work, seconds, lengths."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from attnlab.plots.labels import ranged
from attnlab.plots.price import NOT_RECORDED, short
from attnlab.records import load_details, load_runs
from attnlab.studies.replaced import arm_words, get_arm
from attnlab.teaching.replacing_records import CAPTIONS
from attnlab.teaching.replacing_runs import EXPERIMENT, gained, no_record, recorded_arms

SHORT = "attentionless/classroom/toy_short"
CLOCKS = {EXPERIMENT: "speed/classroom/translation/", CAPTIONS: "speed/paper/translation/"}
COSTS = {  # of a sentence: column, heading
    "gflop": "GFLOP a sentence",
    "ms": "ms a sentence, alone",
    "ms_in_batch": "ms a sentence, in a batch",
}
PRICED = (
    "encoder_self/alr/m",
    "decoder_self/alr/m",
    "self/alr/m",
    "cross/truncated/m",
    "cross/per_query/m",
    "cross/low_rank/l",
    "all/low_rank/l",
)
LONGER = {  # arm -> look and fill of its line, where it has one
    "teacher": ("attention", "full"),
    "encoder_self/alr/m": ("alr", "full"),
    "decoder_self/alr/m": None,
    "cross/per_query/l": None,
    "cross/low_rank/l": ("linear_attention", "top"),
    "all/per_query/l/tuned": ("alr", "none"),
    "all/low_rank/l/tuned": None,
}


def price_table(*, experiment: str = CAPTIONS, path: Path | None = None) -> pd.DataFrame:
    """Return weights, work, time and BLEU of the teacher and of arms, one row a seed.

    Where an arm was tuned after the swap, that one counts: it costs the same.

    Returns:
        Rows ``variant``, ``label``, ``look``, ``seed``, ``bleu``, ``share`` and ``n_weights``;
        of a sentence ``gflop`` with the right past given, ``ms`` and ``ms_in_batch``, written
        token by token alone and in a batch (nan where not measured). The teacher is first.
    """
    runs = recorded_arms(experiment=experiment, path=path)
    clock = clocked(experiment=experiment, path=path)
    recorded = set(runs["variant"])
    rows: list[dict[str, Any]] = []
    for plain in ("teacher", *PRICED):
        variant = f"{plain}/tuned" if f"{plain}/tuned" in recorded else plain
        cost = clock.get(variant, clock.get(plain, {}))
        same = {
            "label": arm_words(variant),
            "look": get_arm(variant).look,
            **{name: cost.get(name, math.nan) for name in COSTS},
        }
        found = runs[runs["variant"] == variant]
        rows += [row | same for row in found.to_dict("records")]
    columns = ["variant", "label", "look", "seed", "bleu", "share", "n_weights", *COSTS]
    return pd.DataFrame(rows, columns=columns)


def price_markdown(table: pd.DataFrame, *, experiment: str = CAPTIONS) -> str:
    """Return a Markdown table of what each translator costs and what it is worth.

    Args:
        table: From ``price_table``.
        experiment: What it is of.
    """
    if table.empty:
        return no_record(experiment)
    own = table[table["variant"] == "teacher"].mean(numeric_only=True)
    heads = ["Translator", "Weights", *COSTS.values(), "BLEU", "BLEU over the teacher's"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for label, part in table.groupby("label", sort=False):
        cells = [str(label)]
        for column in ("n_weights", *COSTS):
            value = float(part[column].mean())
            times = value / float(own.get(column, math.nan))
            cells.append(NOT_RECORDED if math.isnan(value) else f"{short(value)} ({times:.3g} x)")
        lines.append(f"| {' | '.join(cells)} | {ranged(part['bleu'])} | "
                     f"{ranged(part['share'], digits=2)} |")  # fmt: skip
    return "\n".join(lines)


def clocked(*, experiment: str, path: Path | None = None) -> dict[str, dict[str, float]]:
    """Return ``COSTS`` by arm, as ``attnlab bench translation`` measured them on one CPU thread.

    The newest record of each kind counts.
    """
    columns = [f"config.{name}" for name in ("threads", "device", "work", "batch")]
    columns = ["variant", "work_gflop", "median_ms", *columns]
    found: dict[str, dict[str, float]] = {}
    for row in load_runs(CLOCKS[experiment], path=path, columns=columns).to_dict("records"):
        if row["config.threads"] == 1 and row["config.device"] == "cpu":
            cost = found.setdefault(row["variant"], {})
            cost["gflop"] = row["work_gflop"]
            if row["config.work"] == "greedy":
                cost["ms" if row["config.batch"] == 1 else "ms_in_batch"] = row["median_ms"]
    return found


# Longer than the lessons


def recorded_lengths(*, path: Path | None = None) -> tuple[pd.DataFrame, int]:
    """Return BLEU by length, and the longest length in training (0 where nothing is recorded).

    Returns:
        Rows ``variant``, ``seed``, ``label``, ``shortest``, ``longest`` and ``bleu``, in the
        order of ``LONGER``.
    """
    taught = load_runs(SHORT, path=path, columns=["details.data.longest_train"]).max().dropna()
    table = load_details(SHORT, "by_length", path=path, is_needed=False)
    table = table[table["variant"].isin(list(LONGER))]
    table = table.assign(label=table["variant"].map(arm_words))
    table = table.reindex(columns=["variant", "seed", "label", "shortest", "longest", "bleu"])
    table = table.drop_duplicates(["variant", "seed", "shortest"], keep="last")
    order = table["variant"].map(list(LONGER).index)
    table = table.iloc[order.argsort(kind="stable")].reset_index(drop=True)
    return table, int(taught.iloc[0]) if len(taught) else 0


def length_points(lengths: pd.DataFrame) -> pd.DataFrame:
    """Return the arms that have a line, as ``plot_by_length`` reads them."""
    looks = {variant: look for variant, look in LONGER.items() if look}
    drawn = lengths[lengths["variant"].isin(list(looks))]
    look, fill = (drawn["variant"].map({v: its[i] for v, its in looks.items()}) for i in (0, 1))
    return drawn.assign(look=look, fill=fill)


def length_losses(lengths: pd.DataFrame) -> str:
    """Say by how much each arm differs from its teacher on the longest sentences, seed by seed.

    Args:
        lengths: From ``recorded_lengths``.
    """
    longest = lengths[lengths["shortest"] == lengths["shortest"].max()]
    teachers = longest[longest["variant"] == "teacher"].set_index("seed")["bleu"]
    differences = longest["bleu"] - longest["seed"].map(teachers)
    said = [
        f"{label} {gained(differences[part.index])}"
        for label, part in longest.groupby("label", sort=False)
        if label != "teacher"
    ]
    if not said:
        return "Longer sentences: not recorded yet."
    return f"On the longest sentences, BLEU against the teacher's, by seed: {'; '.join(said)}."
