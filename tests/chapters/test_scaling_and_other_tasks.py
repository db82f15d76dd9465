"""Chapter 12: power laws above a floor, times that grow, tables of what is recorded."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from chapter_tests import ChapterTests

from attnlab.analysis.scaling import fit_scaling
from attnlab.chapters.scaling_and_other_tasks import checks, pictures, records
from attnlab.records import RunRecord
from attnlab.seeding import numpy_generator

NAN = math.nan


def some_runs(*, n_seeds=2, variants=("he",), widths=(8, 16, 32, 64), steps=(200, 500, 1250)):
    """Return made-up runs that follow a law with powers 0.6 and 0.65 above 0.5 nats."""
    luck, rows = numpy_generator(0, "runs").normal, []
    for name, d, n, seed in itertools.product(variants, widths, steps, range(n_seeds)):
        gap = (60 * (24 * d * d) ** -0.6 + 900 * (512 * n) ** -0.65) * np.exp(0.02 * luck())
        rows.append((name, seed, 24 * d * d, 512 * n, 0.5 + gap, 0.5))
    return pd.DataFrame(rows, columns=["variant", "seed", "N", "D", "loss", "floor"])


def some_fits(*, off=0.0, half=0.1, variants=("he", "attention")):
    row = {"corpus": "tales", "seeds": 3, "n_runs": 48, "a": 0.6, "a_low": 0.5, "a_high": 0.7,
           "b": 0.65, "b_low": 0.6, "b_high": 0.7, "rms": 0.08, "floor": 0.5, "E": 0.5 + off,
           "E_low": 0.5 + off - half, "E_high": 0.5 + off + half}  # fmt: skip
    return pd.DataFrame([{"variant": v, **row} for v in variants], columns=records.FITTED)


def some_growth(*, ends=(0.9, 1.1), along=("length", "width")):
    rows = [(name, a, p, *ends, 0.0, 0.0, 0.0, 4)
            for a in along for name, p in (("he", 1.0), ("attention", 1.6))]  # fmt: skip
    columns = ["variant", "along", "p", "low", "high", "more", "more_low", "more_high", "n_sizes"]
    return pd.DataFrame(rows, columns=columns)


NAMES = ("he", "attention")
NO_RUNS, NO_FITS, NO_GROWTH = some_runs()[:0], some_fits()[:0], some_growth()[:0]


def with_law(runs):
    return pictures.gaps(runs, variant="he", fit=records.law(runs, variant="he"))


def one_missing(runs):
    return runs.assign(loss=runs["loss"].mask(runs.index == 0))


class TestChapter(ChapterTests):
    SLUG = "scaling_and_other_tasks"
    PICTURES = {  # noqa: RUF012
        "assumed_floor": (lambda: pictures.assumed_floor(0.4), "the power is 0.50"),
        "assumed_floor/none": (lambda: pictures.assumed_floor(0.0), "the power is 0.25"),
        "assumed_floor/too high": (
            lambda: pictures.assumed_floor(0.9),
            "Only 2 losses lie above 0.90 nats",
        ),
        "gaps": (lambda: pictures.gaps(some_runs(), variant="he"), "HE, 2 seeds: the gap"),
        "gaps/law": (
            lambda: with_law(some_runs()),
            "Dotted: N^-0.6",
        ),
        "gaps/three rows of one seed": (
            lambda: pictures.gaps(some_runs(n_seeds=1)[:3], variant="he"),
            "HE, 1 seed: the gap",
        ),
        "gaps/a loss is missing": (
            lambda: pictures.gaps(one_missing(some_runs()), variant="he"),
            "HE, 2 seeds",
        ),
        "gaps/nothing": (lambda: pictures.gaps(NO_RUNS, variant="he"), "Nothing is recorded yet"),
        "fitted": (lambda: pictures.fitted(some_fits()), "covers the floor in 2 of 2 cases"),
        "fitted/one that misses": (
            lambda: pictures.fitted(some_fits(off=0.3, variants=("she",))),
            "covers the floor in 0 of 1 cases",
        ),
        "fitted/no interval": (
            lambda: pictures.fitted(some_fits(half=NAN)),
            "covers the floor in 0 of 2 cases",
        ),
        "fitted/nothing": (lambda: pictures.fitted(NO_FITS), "Nothing is recorded yet"),
        "powers_of_time": (
            lambda: pictures.powers_of_time(some_growth()),
            "flattest and steepest: HE 1.00 and Attention 1.60",
        ),
        "powers_of_time/no interval": (
            lambda: pictures.powers_of_time(some_growth(ends=(NAN, NAN))),
            "HE 1.00",
        ),
        "powers_of_time/width alone": (
            lambda: pictures.powers_of_time(some_growth(along=("width",))),
            "Power of the length",
        ),
        "powers_of_time/nothing": (
            lambda: pictures.powers_of_time(NO_GROWTH),
            "Nothing is recorded yet",
        ),
        "crossing": (
            lambda: pictures.crossing(first=(8.0, 1.0), second=(1.0, 2.0), names=NAMES),
            "The lines cross at 8 tokens",
        ),
        "crossing/parallel": (
            lambda: pictures.crossing(first=(8.0, 1.0), second=(1.0, 1.0), names=NAMES),
            "Equal powers",
        ),
    }  # fmt: skip
    PANELS = {  # noqa: RUF012
        "assumed_floor": lambda: (pictures.assumed_floor, pictures.FLOOR_DIALS),
    }


def plant(folder, experiment, variant, seed, metrics, *, config, details=None):
    RunRecord(
        experiment=experiment, variant=variant, seed=seed, config=config, metrics=metrics,
        details=details or {}, seconds=1.0, command="", commit="", environment={}, finished_at="",
    ).append_to(folder / f"{experiment.split('/')[0]}.jsonl")  # fmt: skip


def plant_runs(folder, runs, *, corpus="tree"):
    for row in runs.to_dict("records"):
        metrics = {"n_block_weights": row["N"], "tokens_seen": row["D"],
                   "test_loss_nats": row["loss"], "oracle_nats": row["floor"]}  # fmt: skip
        config = {"model": {"d_model": row["N"]}, "train": {"n_steps": row["D"]}}
        plant(
            folder,
            f"scaling/classroom/{corpus}",
            row["variant"],
            row["seed"],
            metrics,
            config=config,
        )


def test_what_is_not_recorded_is_said_to_be_so(tmp_path):
    tables = (records.fits_table(records.fits(path=tmp_path)),
              records.held_out_table(records.held_out("tree", path=tmp_path)),
              records.growth_table(records.growth(path=tmp_path)))  # fmt: skip
    assert set(tables) == {records.NOT_RECORDED}
    assert records.law(NO_RUNS, variant="he") is None


def test_fits_and_predictions_come_from_the_runs_of_each_source(tmp_path):
    runs = some_runs(n_seeds=3, variants=("he", "attention"))
    plant_runs(tmp_path, pd.concat([runs, some_runs(variants=("she",))[:4]]))
    table = records.fits(path=tmp_path)
    assert table[["variant", "corpus", "seeds", "n_runs"]].to_numpy().tolist() == [
        ["he", "tree", 3, 36], ["attention", "tree", 3, 36]]  # fmt: skip
    assert (table["a_low"] < table["a"]).all()
    assert table["a"].tolist() == pytest.approx([0.6, 0.6], abs=0.05)
    assert table["floor"].tolist() == pytest.approx([0.5, 0.5])
    text = records.fits_table(table)
    assert text.splitlines()[2].startswith("| HE | Tree | 0.")
    held = records.held_out("tree", path=tmp_path)
    assert held["N"].tolist() == [24 * 64**2] * 2
    assert (held["low"] < held["measured"] + 0.02).all()
    assert held["predicted"].tolist() == pytest.approx(held["measured"].tolist(), abs=0.02)
    assert "98,304" in records.held_out_table(held)


def test_nothing_is_predicted_while_the_largest_run_is_not_there(tmp_path):
    runs = some_runs(n_seeds=3)
    plant_runs(tmp_path, runs[(runs["N"] < runs["N"].max()) | (runs["D"] < runs["D"].max())])
    assert records.held_out("tree", path=tmp_path).empty
    assert len(records.fits(path=tmp_path)) == 1


def test_a_repeated_run_counts_once(tmp_path):
    runs = some_runs(n_seeds=1)
    plant_runs(tmp_path, runs.assign(loss=9.0))
    plant_runs(tmp_path, runs)
    read = records.recorded("tree", path=tmp_path)
    assert read["loss"].tolist() == pytest.approx(runs["loss"].tolist())


def test_powers_of_time_become_a_row_a_mixer():
    rows = records.growth_table(some_growth()).splitlines()[2:]
    assert rows[0].startswith("| HE | 1.00 (0.90 to 1.10) | 1.00 (0.90 to 1.10) |")
    assert records.growth_table(some_growth(along=("length",))).splitlines()[2].endswith("| – |")


def test_the_law_to_build_is_fitted_as_the_package_does():
    for _, N, D, loss, h, powers in checks.check_law.cases[2:]:
        _, a, _, b = checks.fit_law(N, D, loss, h, powers)
        fit = fit_scaling(N, n_tokens=D, loss_nats=loss, floor_nats=h, n_draws=0)
        assert (a, b) == pytest.approx((fit.a, fit.b), abs=0.15)
