"""Chapter 10: matrices from few numbers, prices, and the map of mixers and tasks."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from chapter_tests import ChapterTests
from hypothesis import given
from hypothesis import strategies as st

from attnlab.chapters.other_mixers import checks, live, pictures, prices
from attnlab.mixers import find_mixer, list_mixers
from attnlab.records import load_runs
from attnlab.sources import tales
from attnlab.studies import fair

WORDS = ["Ada", "saw", "a", "fox"]
FOUND = {
    "attention": np.array([np.tril(np.arange(1.0, 17).reshape(4, 4)), np.eye(4)]),
    "he": np.array([checks.read_lags(np.array([1.0, -3.0, 0.5, 0.0]))]),
}


def some_runs(losses, *, oracle=1.0, corpus="tales", accuracy=np.nan):
    """Return rows as ``family_runs`` does; losses are by variant, a list over seeds."""
    rows = [
        {"corpus": corpus, "variant": name, "seed": seed, "lr": 0.01, "test_loss_nats": loss,
         "oracle_nats": oracle, "test_accuracy": accuracy, "n_weights": 100, "d_model": 32,
         "seconds": 3.0 if name == "she" else 1.5, "context_len": 64, "n_heads": 2, "n_layers": 2,
         "experiment": f"mixers/classroom/{corpus}", "validation_loss_nats": loss}
        for name, values in losses.items() for seed, loss in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


RUNS = pd.concat([
    some_runs({"identity": [3.0, 3.0], "attention": [2.0, 1.5], "she": [1.5, 1.25]}),
    some_runs({"identity": [4.0], "attention": [2.0]}, corpus="recall", accuracy=0.5, oracle=0.0),
    some_runs({"identity": [3.0], "she": [2.0], "attention": [2.5]}, oracle=np.nan,
              corpus="children"),
])  # fmt: skip
TABLE = fair.shares_of_the_way(RUNS)
NONE = TABLE.iloc[:0]


class TestChapter(ChapterTests):
    SLUG = "other_mixers"
    PICTURES = {  # noqa: RUF012
        "structure": (
            lambda: pictures.structure("semiseparable"),
            "Semiseparable: 36 entries from 23 numbers. The framed block, all that the last 4 "
            "tokens learn of the first 4, has rank 1",
        ),
        "structure/dense": (lambda: pictures.structure("dense", 6), "21 entries from 21 numbers"),
        "contact_sheet": (
            lambda: pictures.contact_sheet(FOUND, words=WORDS),
            "What each of 2 mixers does with the same 4 tokens",
        ),
        "contact_sheet/blind": (
            lambda: pictures.contact_sheet(FOUND, words=WORDS), "along every diagonal: HE."),
        "on_sentence": (
            lambda: pictures.on_sentence(FOUND, "he", 7, words=WORDS),
            "HE, head or channel 1 of the 1 that look back most: 71% of all weight lies off the "
            "diagonal; most from “Ada” to “saw” (-3.00).",
        ),
        "price_bars": (
            lambda: pictures.price_bars("state", 32, 64), "of one layer, d = 32, 64 tokens: "
            "attention 4,096, "),
        "the_map": (
            lambda: pictures.the_map(TABLE),
            "mean over seeds (1 to 2). Furthest on made-up tales: SHE, 0.81. No floor is known for "
            "children's books: 1 is the best recorded. White: 1 not recorded yet.",
        ),
        "the_map/nothing": (lambda: pictures.the_map(NONE), "not recorded yet: attnlab study run"),
        "one_of_the_map": (
            lambda: pictures.one_of_the_map(RUNS, TABLE, "she", "tales"),
            "On made-up tales SHE goes 0.81 of the way from no mixing (dashed) to the best "
            "possible (dotted), rank 1 of 3. Share 0.75 to 0.88 over 2 seeds, 0.375 nats from "
            "the dotted line. A layer, d = 32: weights 67,584 (16 × attention's)",
        ),
        "one_of_the_map/time": (
            lambda: pictures.one_of_the_map(RUNS, TABLE, "she", "tales"),
            "training took 2.0 × as long as with attention.",
        ),
        "one_of_the_map/answers": (
            lambda: pictures.one_of_the_map(RUNS, TABLE, "attention", "recall"),
            "rank 1 of 2. Share 0.50 to 0.50 over 1 seed, 2.000 nats from the dotted line; 50% of "
            "the answers right",
        ),
        "one_of_the_map/nothing": (
            lambda: pictures.one_of_the_map(RUNS, TABLE, "she", "recall"),
            "SHE on recall: not recorded yet",
        ),
    }  # fmt: skip
    PANELS = {  # noqa: RUF012
        "structure": lambda: (pictures.structure, pictures.STRUCTURE_DIALS),
        "on_sentence": lambda: (
            lambda mixer, part: pictures.on_sentence(FOUND, mixer, part, words=WORDS),
            pictures.sentence_dials(FOUND),
        ),
        "price_bars": lambda: (pictures.price_bars, pictures.PRICE_DIALS),
        "one_of_the_map": lambda: (
            lambda mixer, task: pictures.one_of_the_map(RUNS, TABLE, mixer, task),
            pictures.map_dials(TABLE),
        ),
        "one_of_the_map/nothing": lambda: (
            lambda mixer, task: pictures.one_of_the_map(RUNS, NONE, mixer, task),
            pictures.map_dials(NONE),
        ),
    }


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30).map(np.array), st.floats(0.01, 1.0))
def test_markers_of_a_family_stand_beside_each_other_and_never_upon(values, apart):
    rows = np.array(pictures.beside(values, apart=apart))
    assert rows[values.argmin()] == 0
    for row in set(rows):
        assert (np.diff(np.sort(values[rows == row])) >= apart).all()


@pytest.mark.parametrize("structure", pictures.STRUCTURES)
def test_only_low_rank_and_what_fades_need_one_number_across_the_middle(structure):
    M = pictures.example(structure, 10)
    assert (np.triu(M, 1) == 0).all()
    rank = np.linalg.matrix_rank(M[5:, :5], tol=1e-9)
    assert rank == (1 if structure in ("low rank", "semiseparable") else 5)


def test_a_share_is_the_share_of_the_exercise():
    for row in TABLE.itertuples():
        wanted = checks.share(row.loss_nats, row.nothing_nats, row.best_nats)
        assert row.share == pytest.approx(wanted)
    assert not TABLE.set_index("corpus").loc["children", "is_floor"].any()


def test_a_corpus_without_a_run_of_no_mixing_has_no_shares():
    assert fair.shares_of_the_way(some_runs({"she": [1.0]})).empty


def test_each_mixer_is_judged_at_the_rate_that_validates_best_at_seed_0():
    runs = pd.concat([
        some_runs({"she": [2.0, 2.1]}).assign(lr=0.1, validation_loss_nats=[1.9, 9.0]),
        some_runs({"she": [1.5]}).assign(lr=0.3, validation_loss_nats=[2.4]),
        some_runs({"she": [1.9]}).assign(lr=0.1, validation_loss_nats=[1.9]),
    ])  # fmt: skip
    kept = fair.at_own_rate(runs)
    assert sorted(kept["test_loss_nats"]) == [1.9, 2.1]  # the repeated run counts


def test_matrices_come_from_the_mixer_at_work_and_those_that_look_back_come_first():
    source = tales()
    models = live.grown(["he", "attention", "identity"], source, n_steps=2)
    ids = source.encode("Nora was a kind girl.")
    for name, n_parts in (("he", 4), ("attention", 4), ("identity", 1)):
        found = live.matrices(models[name], ids)
        assert found.shape == (n_parts, len(ids), len(ids))
    he = live.matrices(models["he"], ids)
    back = np.abs(np.tril(he, -1)).sum((1, 2)) / np.abs(he).sum((1, 2))
    assert (np.diff(back) <= 1e-9).all()


def test_prices_are_the_closed_forms_and_every_mixer_has_them():
    table = live.prices(32, 64)
    assert set(table) == set(list_mixers())
    assert table["attention"] == {"weights": 4 * 32**2, "state": 2 * 64 * 32,
                                  "work": find_mixer("attention").expected_multiplications(
                                      32, 64, 64 * 65 // 2, 2) // 64}  # fmt: skip
    assert not live.has_matrix("spade")
    assert live.has_matrix("hyena")


def test_without_records_of_the_clock_the_price_of_a_token_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(prices, "load_runs", partial(load_runs, path=tmp_path))
    assert "not recorded yet" in prices.streaming_price(prices.streaming_runs()).words
