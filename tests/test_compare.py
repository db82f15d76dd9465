"""Comparisons: paired differences, their interval, and verdicts that admit doubt."""

from math import gamma

import numpy as np
import pandas as pd
import pytest

from attnlab.analysis.compare import (
    FAILS,
    HOLDS,
    ORDERING,
    UNDECIDED,
    Claim,
    chance_of_separation,
    judge_claims,
    latest_runs,
    paired_differences,
    seed_ranges,
    student_t_975,
    too_few,
)
from attnlab.errors import AttnlabError

LOWER = Claim(says="one is lower", variant="one", baseline="two")
CLOSE = Claim(says="one is close", variant="one", baseline="two", relation="close")


def table(**losses):
    """Return rows of runs: each variant with one loss a seed."""
    rows = [
        {"variant": name, "seed": seed, "loss": value}
        for name, values in losses.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def verdict(claim, **losses):
    return judge_claims(table(**losses), claims=[claim], metric="loss")["verdict"].tolist()


def half_of_t(t, df):
    """Return the chance that Student's t lies between 0 and ``t``, by many small steps."""
    x = np.linspace(0.0, t, 20_001)
    density = (1 + x**2 / df) ** (-(df + 1) / 2)
    return np.trapezoid(density, x) * gamma((df + 1) / 2) / gamma(df / 2) / np.sqrt(df * np.pi)


@pytest.mark.parametrize("df", [*range(1, 32), 60, 200])
def test_beyond_the_quantile_lie_2_5_percent(df):
    assert half_of_t(student_t_975(df), df) == pytest.approx(0.475, abs=2e-5)


def test_no_degree_of_freedom_is_refused():
    with pytest.raises(AttnlabError, match="df=0"):
        student_t_975(0)


def test_the_interval_of_four_pairs_has_three_degrees_of_freedom():
    runs = table(base=np.zeros(4), one=[1.0, 2.0, 3.0, 4.0])
    row = paired_differences(runs, baseline="base", metric="loss").iloc[0]
    half = 3.18245 * np.sqrt(5 / 3) / 2  # the spread of 1, 2, 3, 4 over the root of 4
    assert [row["low"], row["high"]] == pytest.approx([2.5 - half, 2.5 + half])


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(loc=1.0, size=(400, 4))
    runs = table(base=np.zeros(4), **{f"v{i}": losses for i, losses in enumerate(draws)})
    rows = paired_differences(runs, baseline="base", metric="loss")
    covered = ((rows["low"] < 1.0) & (rows["high"] > 1.0)).mean()
    assert abs(covered - 0.95) < 0.038  # 3.5 standard errors of 0.011


def test_pairing_takes_away_what_a_seed_gives_to_both():
    luck = np.array([0.0, 5.0, -3.0])
    row = paired_differences(table(one=luck, two=luck + 0.1), baseline="one", metric="loss").iloc[0]
    assert row["mean"] == pytest.approx(0.1)
    assert row["high"] - row["low"] == pytest.approx(0.0, abs=1e-9)
    assert row["has_one_sign"]
    assert row["n_pairs"] == 3


def test_variants_stand_in_the_order_of_their_means_and_zero_is_no_sign():
    runs = table(base=[0.0, 0.0], worse=[2.0, 1.0], better=[-1.0, 0.0], mixed=[1.0, -1.0])
    rows = paired_differences(runs, baseline="base", metric="loss")
    assert rows["variant"].tolist() == ["better", "mixed", "worse"]
    assert rows["has_one_sign"].tolist() == [False, False, True]
    ranges = seed_ranges(runs, metric="loss")
    assert ranges["variant"].tolist() == ["better", "base", "mixed", "worse"]
    assert ranges[["n_seeds", "mean", "lowest", "highest"]].iloc[0].tolist() == [2, -0.5, -1, 0]


@pytest.mark.parametrize(("n", "words"), [(1, "one run"), (2, "two runs")])
def test_two_seeds_or_fewer_decide_nothing(n, words):
    found = table(one=[1.0, 1.001][:n], two=[2.0, 2.001][:n])
    row = paired_differences(found, baseline="one", metric="loss").iloc[0]
    assert np.isnan(row["low"]) == (n == 1)
    assert judge_claims(found, claims=[LOWER], metric="loss")["verdict"].tolist() == [words]
    assert too_few(0) == "not recorded yet"


def test_seeds_that_only_one_variant_has_are_left_out():
    runs = table(one=[1.0, 1.1, 1.2], two=[2.0, 2.1])
    row = paired_differences(runs, baseline="one", metric="loss").iloc[0]
    assert row["n_pairs"] == 2


def test_a_run_repeated_counts_once_with_its_last_result():
    runs = pd.concat([table(one=[9.0, 1.0]), table(one=[2.0])])
    assert sorted(latest_runs(runs)["loss"]) == [1.0, 2.0]
    assert seed_ranges(runs, metric="loss")["highest"].item() == 2.0


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ([1.0, 1.01, 1.02], [2.0, 2.01, 2.02], HOLDS),
        ([2.0, 2.01, 2.02], [1.0, 1.01, 1.02], FAILS),
        ([1.0, 1.5, 1.2], [1.1, 1.3, 1.4], UNDECIDED),
        ([1.0, 1.1, 1.3], [1.3, 1.2, 1.35], UNDECIDED),  # one sign, but pairs disagree on size
        ([1.0, 2.0, 3.0], [1.1, 2.1, 3.11], HOLDS),  # ranges overlap, pairs agree
    ],
)
def test_lower_needs_a_paired_interval_below_zero(one, two, expected):
    assert verdict(LOWER, one=one, two=two) == [expected]


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([0.01, 0.012, 0.011], HOLDS),
        ([0.2, 0.21, 0.2], FAILS),
        ([-0.2, -0.21, -0.2], FAILS),
        ([0.0, 0.1, 0.2], UNDECIDED),
        ([-0.1, 0.0, -0.2], UNDECIDED),
    ],
)
def test_close_means_an_interval_within_the_tolerance(differences, expected):
    two = np.zeros(3)
    assert verdict(CLOSE, one=two + differences, two=two) == [expected]


@pytest.mark.parametrize(
    ("claim", "low", "high", "expected"),
    [
        (CLOSE, -0.05, 0.05, HOLDS),
        (CLOSE, 0.05, 0.2, UNDECIDED),
        (CLOSE, -0.2, -0.05, UNDECIDED),
        (CLOSE, -0.2, -0.051, FAILS),
        (LOWER, -1.0, 0.0, UNDECIDED),
        (LOWER, 0.0, 1.0, UNDECIDED),
        (LOWER, 0.001, 1.0, FAILS),
    ],
)
def test_a_verdict_at_the_very_limit(claim, low, high, expected):
    assert claim.verdict(n_pairs=3, low=low, high=high) == expected


@pytest.mark.parametrize(("losses", "agree"), [([1, 2], True), ([1, -1], False), ([0, 0], False)])
def test_seeds_agree_only_if_all_differ_to_one_side(losses, agree):
    runs = table(base=[0.0, 0.0], worse=[9.0, 9.0], one=losses)
    rows = paired_differences(runs, baseline="base", metric="loss")
    assert rows["has_one_sign"].tolist() == [agree, True]
    assert rows.index.tolist() == [0, 1]


def test_claims_about_absent_variants_are_left_out():
    assert verdict(LOWER, one=[1.0, 2.0]) == []
    assert {c.variant for c in ORDERING} == {"she", "he", "we", "me"}


def test_equal_models_separate_as_often_as_the_formula_says():
    random = np.random.default_rng(1)
    draws = random.normal(size=(4000, 2, 2))
    apart = (draws[:, 0].max(-1) < draws[:, 1].min(-1)) | (
        draws[:, 0].min(-1) > draws[:, 1].max(-1)
    )
    assert chance_of_separation(2) == pytest.approx(1 / 3)
    assert abs(apart.mean() - 1 / 3) < 0.03  # four standard errors


def test_a_missing_baseline_or_column_is_explained():
    with pytest.raises(AttnlabError, match="three"):
        paired_differences(table(one=[1.0]), baseline="three", metric="loss")
    with pytest.raises(AttnlabError, match="bits"):
        seed_ranges(table(one=[1.0]), metric="bits")
    with pytest.raises(AttnlabError, match="seed"):
        latest_runs(table(one=[1.0]).drop(columns="seed"))
