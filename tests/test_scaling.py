"""Power laws are found again in made-up data, refused where nothing tells them, and recorded."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from attnlab.analysis.scaling import ScalingFit, fit_power, fit_scaling
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.records import load_runs
from attnlab.seeding import numpy_generator
from attnlab.studies import Folders, Plan, run_plan
from attnlab.studies import scaling as study
from attnlab.studies.study import jobs_of

TRUE = ScalingFit(A=60.0, a=0.6, B=900.0, b=0.65, E=0.5, is_free=False, rms=0.0, n_runs=0)
SIZES, TOKENS = (2e3, 8e3, 3e4, 1e5), (7e4, 2e5, 6e5, 1.4e6)


def made_up(seed, *, noise=0.03, n_seeds=3, law=TRUE):
    """Return weights, tokens and losses of runs whose gap to the floor has noise of some share."""
    N, D = (grid.ravel() for grid in np.meshgrid(np.repeat(SIZES, n_seeds), TOKENS))
    luck = np.exp(noise * numpy_generator(seed, "made up").normal(size=len(N)))
    return N, D, law.E + (law.predict(N, D) - law.E) * luck


def fitted(runs, **how):
    N, D, L = runs
    return fit_scaling(N, n_tokens=D, loss_nats=L, **how)


def test_without_noise_every_parameter_is_found():
    runs = made_up(0, noise=0.0)
    for floor in (TRUE.E, None):
        fit = fitted(runs, floor_nats=floor, n_draws=0)
        found, true = ([getattr(f, name) for name in "AaBbE"] for f in (fit, TRUE))
        np.testing.assert_allclose(found, true, rtol=1e-3)
        assert fit.rms < 1e-5
        assert fit.is_free == (floor is None)


def test_noise_widens_the_intervals_and_they_keep_the_truth():
    few, much = (fitted(made_up(1, noise=noise), floor_nats=TRUE.E) for noise in (0.02, 0.1))
    for name in "ab":
        (low, high), (lowest, highest) = few.intervals[name], much.intervals[name]
        assert low < getattr(few, name) < high
        assert 2 * (high - low) < highest - lowest
        assert lowest < getattr(TRUE, name) < highest
    assert few.rms == pytest.approx(0.02, rel=0.3)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    fits = [fitted(made_up(s), floor_nats=TRUE.E, n_draws=100) for s in range(40)]
    for name in "ab":
        ends = np.array([fit.intervals[name] for fit in fits])
        assert (
            np.mean((ends[:, 0] < getattr(TRUE, name)) & (getattr(TRUE, name) < ends[:, 1])) > 0.8
        )
    free = [fitted(made_up(s), n_draws=100) for s in range(20)]
    assert np.mean([fit.covers(TRUE.E) for fit in free]) > 0.75
    assert not any(fit.covers(TRUE.E + 0.3) for fit in free)


def test_a_free_constant_is_not_told_by_runs_far_above_it():
    near, far = made_up(2), made_up(2, law=replace(TRUE, A=6.0, a=0.1, B=9.0, b=0.1))
    widths = [np.diff(fitted(runs).intervals["E"])[0] for runs in (near, far)]
    assert widths[1] > 5 * widths[0]


def test_a_given_floor_is_covered_by_itself_alone():
    fit = fitted(made_up(3), floor_nats=TRUE.E, n_draws=20)
    assert fit.covers(TRUE.E)
    assert not fit.covers(TRUE.E + 0.01)


def test_the_largest_run_is_predicted_from_the_others():
    for seed in range(3):
        N, D, L = made_up(seed)
        is_last = (max(N) == N) & (max(D) == D)
        fit = fitted((N[~is_last], D[~is_last], L[~is_last]), floor_nats=TRUE.E)
        low, high = fit.predicted_interval(max(N), max(D))
        assert low < fit.predict(max(N), max(D)) < high < low + 0.03
        assert fit.predict(max(N), max(D)) == pytest.approx(L[is_last].mean(), abs=0.01)


def test_one_outlier_does_not_bend_the_law():
    N, D, L = made_up(5, noise=0.01)
    L[np.flatnonzero((max(N) == N) & (max(D) == D))[0]] += 3.0
    fit = fitted((N, D, L), floor_nats=TRUE.E, n_draws=0)
    assert (fit.a, fit.b) == pytest.approx((TRUE.a, TRUE.b), abs=0.05)


N, D, L = made_up(6)
REFUSED = {
    "at the floor": ((N, D, np.where(L.min() == L, TRUE.E, L)), "0.0000 nats above the floor"),
    "no number": ((N, D, np.where(L.max() == L, np.nan, L)), "above the floor"),
    "one size": ((np.full_like(N, 1e4), D, L), "1 sizes and 4 numbers of tokens"),
    "few runs": ((N[:4], D[[0, 12, 24, 36]], L[:4]), "4 runs with"),
    "grown together": ((D / 20, D, L), "grow together"),
    "no weights": ((N - 2e3, D, L), "positive sizes"),
    "not one each": ((N, D[:-1], L), "one each a run"),
}


@pytest.mark.parametrize(("runs", "message"), REFUSED.values(), ids=REFUSED)
def test_runs_that_tell_no_law_are_refused(runs, message):
    with pytest.raises(AttnlabError, match=message):
        fitted(runs, floor_nats=TRUE.E)


def test_a_power_of_time_is_found_with_its_interval():
    x, luck = np.array([32, 64, 128, 512, 2048]), numpy_generator(0, "rounds")
    samples = 3 * x**1.3 * np.exp(0.05 * luck.normal(size=(9, 5)))
    fit = fit_power(x, samples=samples)
    assert fit.low < 1.3 < fit.high < fit.low + 0.1
    assert pytest.approx(3, rel=0.2) == fit.C
    exact = fit_power(x, samples=np.tile(2.0 * x**0.5, (3, 1)))
    assert (exact.C, exact.p, exact.low, exact.high) == pytest.approx((2.0, 0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("x", "samples"),
    [([32], [[1.0], [2.0]]), ([32, 64], [[1.0, 2.0]]), ([32, 64], [[1.0, 0.0], [1.0, 2.0]]),
     ([32, 64], [[1.0], [2.0]]), ([32, 64], [[1.0, np.nan], [1.0, 2.0]])],
)  # fmt: skip
def test_what_has_no_power_is_refused(x, samples):
    with pytest.raises(AttnlabError, match=r"two|logarithms"):
        fit_power(x, samples=samples)


# The study


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaling")
    return Folders(runs=folder / "runs", work=folder / "work")


@pytest.fixture(scope="module")
def runs(folders):
    plan = Plan(study="scaling", corpus="tree", variants=("attention", "he"), seeds=(0, 1))
    list(run_plan(plan, folders=folders))
    return study.scaling_runs(load_runs(plan.name, path=folders.runs))


def test_every_size_is_recorded_above_its_floor(runs):
    n_points = len(study.WIDTHS["smoke"]) * len(study.STEPS["smoke"])
    assert set(runs.groupby(["variant", "seed"]).size()) == {n_points}
    assert (runs["loss"] > runs["floor"]).all()
    assert runs.groupby("variant")["N"].nunique().tolist() == [3, 3]
    assert sorted(runs["D"].unique()) == [512 * n for n in study.STEPS["smoke"]]


def test_weights_are_counted_without_embeddings(folders, runs):
    table = load_runs("scaling/smoke/tree", path=folders.runs)
    own = table[table["variant"] == "attention"].drop_duplicates("n_block_weights")
    d = own["config.model.d_model"]
    assert (own["n_block_weights"] == 2 * (12 * d**2 + 9 * d)).all()
    assert (own["n_weights"] == own["n_block_weights"] + (32 + 32 + 2) * d).all()


def test_an_early_stop_leaves_whole_seeds():
    jobs = jobs_of(Plan(study="scaling", corpus="tales", scale="classroom", seeds=(0, 1)))
    seeds = [job.train.seed for job in jobs]
    assert seeds == sorted(seeds)
    assert seeds.count(0) == len(study.VARIANTS) * 4 * 4
    assert all(job.train.lr == study.RATE / job.model.d_model for job in jobs)


def test_seeds_read_other_texts_and_are_judged_on_the_same():
    first, other = (
        study.scaling_task(jobs_of(Plan(study="scaling", corpus="tree", seeds=(s,)))[0])
        for s in (0, 1)
    )
    assert not np.array_equal(first.train, other.train)
    assert first.held_out is other.held_out
    assert first.oracle_nats == other.oracle_nats > 2.0
    assert not np.array_equal(first.validation[:3], first.held_out[:3])


def test_a_sweep_tries_rates_at_two_widths(folders):
    plan = Plan(study="scaling", corpus="tree", variants=("he",), axes={"rate": (0.1, 0.3)})
    list(run_plan(plan, folders=folders))
    table = load_runs("scaling/smoke/tree/swept", path=folders.runs)
    assert table["config.model.d_model"].tolist() == [6, 8, 6, 8]
    assert table["config.rate"].tolist() == [0.1, 0.1, 0.3, 0.3]
    assert np.allclose(
        table["config.train.lr"] * table["config.model.d_model"], table["config.rate"]
    )
    assert table["validation_loss_nats"].notna().all()


def test_rows_of_one_variant_can_be_fitted_and_no_rows_are_refused(runs):
    fit = study.fit_runs(runs[runs["variant"] == "he"], n_draws=10)
    assert fit.n_runs == 18
    assert pytest.approx(runs["floor"].iloc[0]) == fit.E
    assert study.fit_runs(runs[runs["variant"] == "he"], is_free=True, n_draws=0).is_free
    assert study.scaling_runs(pd.DataFrame()).empty
    with pytest.raises(AttnlabError, match="0 runs"):
        study.fit_runs(runs[:0])


def test_the_tree_is_a_variable_length_chain_whose_floor_is_exact():
    source = study.scaling_source("tree")
    floors = [source.best_loss_nats(context_len=k) for k in range(4)]
    assert floors[0] > floors[1] + 0.1 > floors[2] + 0.2
    assert floors[2] == pytest.approx(source.entropy_rate_nats)
    assert {len(context) for context in source.contexts} == {1, 2}
    with pytest.raises(UnknownNameError, match="tree"):
        study.scaling_source("trees")
