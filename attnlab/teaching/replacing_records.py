"""What the records of ``attentionless`` say of real captions, and of ways to learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from attnlab.plots.labels import ranged
from attnlab.studies.replaced import (
    AIM,
    NO_SOFTMAX,
    arm_words,
    best_arm,
    claims_table,
    get_arm,
)
from attnlab.studies.replaced import WAYS as HOW
from attnlab.studies.report import CLAIMED_ON, REPLACED
from attnlab.teaching.replacing_runs import EXPERIMENT, recorded_arms, verdict

CAPTIONS = "attentionless/paper/multi30k/de-en"
SMALL = "attentionless/classroom/toy_small"
TITLES = {EXPERIMENT: "Toy languages", CAPTIONS: "Captions, German to English"}

WAYS = {  # the same in the order of a picture; "" is what has no such word
    **{
        f"/{way}": said[0].upper() + said[1:]
        for way, (said, columns) in HOW.items()
        if columns.get("begins") == "scratch"
    },
    "/undistilled": "New nets in the teacher's body, tuned",
    "": "Distilled",
    "/tuned": "Distilled, nets tuned",
    "/tuned_all": "Distilled, everything tuned",
}
TAUGHT = {  # words, look and fill
    "encoder_self/alr/m": ("ALR M in the encoder", "alr", "full"),
    "all/per_query/l": ("no attention: ALR M, net per query L", "alr", "none"),
    "all/low_rank/l": ("no softmax: ALR M, linear attention L", "linear_attention", "top"),
}
CROSS_ARMS = {  # L nets on the toy, M nets on captions
    EXPERIMENT: ("paper/l", "truncated/l", "per_query/l", "low_rank/l", "gaussian"),
    CAPTIONS: ("paper/m", "truncated/m", "per_query/m", "low_rank/l", "gaussian"),
}
TUNED = tuple(f"cross/{arm}" for arm in CROSS_ARMS[CAPTIONS][1:])  # on captions, after the swap


# Real sentences

CAPTION_ROWS = {variant: arm_words(variant) for variant in REPLACED[CAPTIONS]}


def cross_points(*, path: Path | None = None) -> pd.DataFrame:
    """Return the scores of cross arms on toy and captions, as ``plot_forced_against_free`` reads.

    Where an arm was tuned after the swap, both stages are there.
    """
    rows = []
    for experiment, arms in CROSS_ARMS.items():
        runs = recorded_arms(experiment=experiment, path=path)
        for variant in ("teacher", *(f"cross/{arm}" for arm in arms)):
            for stage in (variant, f"{variant}/tuned"):
                rows += [
                    {
                        "data": TITLES[experiment],
                        "label": arm_words(variant).removeprefix("cross: "),
                        "look": get_arm(variant).look,
                        "is_tuned": stage != variant,
                        "accuracy": run.test_accuracy,
                        "bleu": run.bleu,
                    }
                    for run in runs[runs["variant"] == stage].itertuples()
                ]
    return pd.DataFrame(rows, columns=["data", "label", "look", "is_tuned", "accuracy", "bleu"])


def leak_words(*, path: Path | None = None) -> str:
    """Say, set by set, what closing the leak changed in nets of the same size."""
    lines = []
    for experiment, size in ((EXPERIMENT, "l"), (EXPERIMENT, "m"), (CAPTIONS, "m")):
        runs = recorded_arms(experiment=experiment, path=path)
        names = (f"{TITLES[experiment]}: cut {size.upper()}", "published")
        pair = {"better": f"cross/truncated/{size}", "than": f"cross/paper/{size}"}
        lines.append(verdict(runs, **pair, names=names))
    return "\n".join(lines)


def best_without_softmax(runs: pd.DataFrame) -> str:
    """Say which decoder without softmax cross-attention keeps most BLEU, and how much.

    Args:
        runs: From ``recorded_arms``. An arm with a learned head has a softmax.
    """
    best = best_arm(runs, arms=NO_SOFTMAX)
    if best.empty:
        return "A decoder without softmax cross-attention: not recorded yet."
    return (
        f"Best decoder without softmax cross-attention: {arm_words(best['variant'].iloc[0])}, BLEU "
        f"{ranged(best['bleu'])}, {ranged(100 * best['share'], '%')} of its teacher's (seeds: "
        f"{len(best)}); the aim is {AIM:.0%}."
    )


def tuning_words(runs: pd.DataFrame, *, variants: Sequence[str] = TUNED) -> str:
    """Say, line by line, what tuning on the translations changed, in the teacher too."""
    lines = [
        verdict(runs, better=f"{v}/tuned", than=v, names=(f"{arm_words(v)}: tuned", "not tuned"))
        for v in variants
    ]
    return "\n".join([*lines, trained_on_words(runs)])


def trained_on_words(runs: pd.DataFrame) -> str:
    """Say what as many steps as students are tuned for do to a teacher with all its attention."""
    pair = {"better": "encoder_self/identity/tuned_all", "than": "teacher"}
    return verdict(runs, **pair, names=("The teacher, trained on as long", "as it was"))


# Ways to learn


def ways_points(*, path: Path | None = None) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return BLEU by way of learning, and that of attention, as ``plot_ways`` reads them.

    Data are named by the pairs that a teacher learnt from; a set without a teacher is left out.
    """
    rows: list[dict[str, Any]] = []
    teachers: dict[str, float] = {}
    for experiment in (EXPERIMENT, SMALL):
        runs = recorded_arms(experiment=experiment, path=path)
        own = runs[runs["variant"] == "teacher"]
        if own.empty:
            continue
        data = f"{own['n_train'].max():,.0f} pairs to learn from"
        teachers[data] = float(own["bleu"].mean())
        for ending, way in WAYS.items():
            for variant, (arm, look, fill) in TAUGHT.items():
                looks = {"data": data, "way": way, "arm": arm, "look": look, "fill": fill}
                found = runs[runs["variant"] == variant + ending]
                rows += [looks | {"bleu": bleu} for bleu in found["bleu"]]
    columns = ["data", "way", "arm", "look", "fill", "bleu"]
    return pd.DataFrame(rows, columns=columns), teachers


def scratch_words(runs: pd.DataFrame) -> str:
    """Say, line by line, what training from scratch keeps, and how distilling and tuning compares.

    Args:
        runs: From ``recorded_arms``.
    """
    lines = []
    for variant in TAUGHT:
        scratch = runs[runs["variant"] == f"{variant}/scratch"]
        kept = ranged(100 * scratch["share"], "%")
        known = "not recorded yet" if scratch.empty else f"{kept} of attention's BLEU"
        pair = {"better": f"{variant}/tuned", "than": f"{variant}/scratch"}
        lines.append(f"{arm_words(variant)}, from scratch: {known}.")
        lines.append("  " + verdict(runs, **pair, names=("Distilled, tuned,", "from scratch")))
    return "\n".join([*lines, trained_on_words(runs)])


# What follows


def claims_markdown(*, path: Path | None = None) -> str:
    """Return the study's claims, held against each set of records, as Markdown."""
    sets = {words: name for name, words in CLAIMED_ON.items()}
    return claims_table({w: recorded_arms(experiment=sets[w], path=path) for w in sets})
