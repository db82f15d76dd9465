"""What the workbook set out to reach, held against the records: kept or missed, as it says."""

import operator
from pathlib import Path

import pandas as pd
import pytest

from attnlab.records import load_runs

TARGETS = pd.read_csv(Path(__file__).with_name("targets.tsv"), sep="\t", keep_default_na=False)
SIDES = {"<=": operator.le, ">=": operator.ge}


@pytest.fixture(scope="module")
def runs():
    table = load_runs("speed/paper/")
    return table[(table["config.threads"] == 1) & (table["config.device"] == "cpu")]


def latest(runs, target, where):
    """Return the newest record on each route of matrix products, the fastest first."""
    rows = runs[(runs["config.part"] == target.part) & (runs["variant"] == target.variant)]
    for name, value in (pair.split("=") for pair in where.split()):
        rows = rows[rows[f"config.{name}"].astype(str).str.removesuffix(".0") == value]
    return rows.drop_duplicates("config.route", keep="last").sort_values("median_ms")


@pytest.mark.parametrize("target", list(TARGETS.itertuples()), ids=lambda t: f"{t.says}, {t.where}")
def test_a_target_is_kept_or_missed_as_it_says(runs, target):
    best = latest(runs, target, target.where).iloc[0]
    value = best[target.metric]
    if target.over:  # growth from one size to another
        below = latest(runs, target, target.over).set_index("config.route")
        value /= below.loc[best["config.route"], target.metric]
    side, limit = target.limit.split()
    assert SIDES[side](value, float(limit)) == (target.is_kept == "yes"), value
