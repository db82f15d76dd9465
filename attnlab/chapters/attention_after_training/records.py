"""What notebook 13 reads from the records of the study ``replaced``; of none, tables of no rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnlab.analysis.compare import latest_runs
from attnlab.paths import RUNS
from attnlab.records import load_runs
from attnlab.studies.replaced import TEACHER, arm_columns
from attnlab.studies.replaced_verdicts import COLUMNS, SENTENCES, fair_shares, share_over_seeds
from attnlab.training.scores import unpack_counts

CAPTIONS = "replaced/paper/multi30k/de-en"
INGREDIENTS = {  # columns of an arm that a recipe is made of, in words
    "method": "stand-in", "feature_map": "features", "window": "window",
    "match": "what is matched", "inputs": "inputs while matching", "stages": "stages",
    "signal": "tuned by", "tunes": "what is tuned",
}  # fmt: skip
OF_LINEAR = ("feature_map", "window")  # other stand-ins have none
FRAME = ("site", "keeps")  # what ablations have in common with their recipe
RECIPE = {  # of a teacher, by where its record says it
    "Width, heads": "{d_model}, {n_heads}", "Layers": "{n_encoder_layers} + {n_decoder_layers}",
    "Dropout": "{dropout}", "Label smoothing": "{label_smoothing}",
    "Highest rate, after steps": "{lr}, {warmup_steps:,}",
    "Pieces, shared": "{target_vocab_size:,}",
    "Longest sentence (pieces)": "{max_len}", "Passes averaged": "{n_averaged}",
}  # fmt: skip
SCORES = ("rouge_l", "chrf", "exact_match", "bleu")  # of a task, the first that is recorded


def recorded(experiment: str = CAPTIONS, *, path: Path = RUNS, extra: tuple = ()) -> pd.DataFrame:
    """Return one row a run with the columns of its arm; where it was repeated, the last one."""
    columns = dict.fromkeys([*COLUMNS, "bleu_low", "bleu_high", "beam_bleu", *extra])
    return arm_columns(latest_runs(load_runs(experiment, path=path, columns=list(columns))))


def recipe(*, path: Path = RUNS) -> dict[str, str]:
    """Return the recipe of the recorded teacher in words; empty where none is recorded."""
    rows = load_runs(CAPTIONS, path=path, columns=["variant", "seed"])
    if TEACHER not in set(rows["variant"]):
        return {}
    whole = load_runs(CAPTIONS, path=path, variants=[TEACHER]).iloc[-1]
    said = {n.rsplit(".", 1)[-1]: v for n, v in whole.items() if n.startswith("config.")}
    return {words: form.format(**said) for words, form in RECIPE.items()}


def spans(runs: pd.DataFrame) -> pd.DataFrame:
    """Return for each arm the share of its fair baseline's BLEU that it keeps.

    Args:
        runs: Of ``recorded``.

    Returns:
        By variant: ``share``, ``low`` and ``high`` (95 %, over seeds and sentences; nan without
        counts), ``n_seeds``, ``bleu`` and the columns of the arm.
    """
    rows, pair = {}, [SENTENCES, f"{SENTENCES}_of_baseline"]
    for variant, own in fair_shares(runs).groupby("variant", sort=False):
        share, low, high = float(own["share"].mean()), np.nan, np.nan
        if own[pair].notna().all(axis=None):
            share, low, high = share_over_seeds(*(map(unpack_counts, own[n]) for n in pair))
        said = {"share": share, "low": low, "high": high, "n_seeds": len(own)}
        rows[variant] = {**own.iloc[0], **said, "bleu": own["bleu"].mean()}
    return pd.DataFrame.from_dict(rows, orient="index")


def unlike(one: pd.Series, other: pd.Series) -> list[str]:
    """Return the ingredients in which two arms differ."""
    names = [n for n in INGREDIENTS if one[n] != other[n]]
    return [n for n in names if n not in OF_LINEAR] if "method" in names else names


def ablation(planned: pd.DataFrame) -> tuple[str, dict[str, str]]:
    """Return the recipe that most planned rows vary, and in words how each of these differs.

    Args:
        planned: Columns of arms, by variant.

    Returns:
        The recipe's variant, and by variant words such as ``window: 0 for 8``; one ingredient
        differs.
    """
    found: dict[str, dict[str, str]] = {}
    for variant, base in planned[planned["site"] != ""].iterrows():
        like = planned[(planned[list(FRAME)] == base[list(FRAME)]).all(axis=1)]
        changed = {name: unlike(base, row) for name, row in like.iterrows()}
        found[str(variant)] = {
            str(name): f"{INGREDIENTS[c[0]]}: {_word(like.loc[name, c[0]])} for {_word(base[c[0]])}"
            for name, c in changed.items() if len(c) == 1
        }  # fmt: skip
    best = max(found, key=lambda name: len(found[name]), default="")
    return best, found.get(best, {})


def _word(value: Any) -> str:
    return str(value).replace("_", " ") or "none"


def switched(row: Any) -> dict[str, str]:
    """Return what an arm puts at each site: ``attention``, ``linear`` or ``window``."""
    own = "window" if row["window"] else "linear"
    if row["method"] not in ("linear", "low_rank"):
        own = row["method"] if row["site"] else "attention"
    at = {"self": ("encoder_self", "decoder_self"), "all": tuple(SWITCHED), "": ()}
    put = dict.fromkeys(at.get(row["site"], (row["site"],)), own)
    cross = "linear" if put.get("cross") == "window" else put.get("cross", "attention")
    return {site: put.get(site, "attention") for site in SWITCHED} | {"cross": cross}


SWITCHED = ("encoder_self", "decoder_self", "cross")


def at_switches(runs: pd.DataFrame, **switches: str) -> pd.DataFrame:
    """Return the runs of the best arm (on validation) with these switches; perhaps no row."""
    if runs.empty:
        return runs
    fits = runs[[switched(row) == switches and not row.get("keeps") for _, row in runs.iterrows()]]
    if fits.empty:
        return fits
    best = fits.groupby("variant")["validation_bleu"].mean().fillna(0).idxmax()
    return fits[fits["variant"] == best]
