"""Chapter 14: verdicts at a glance, evidence of a claim, records of nets, and six questions."""

import json

import numpy as np
import pandas as pd
import pytest
from chapter_tests import ChapterTests

from attnlab.analysis.compare import judge_claims
from attnlab.chapters.what_we_found import checks, nets, pictures
from attnlab.claims import VERDICTS
from attnlab.studies.arms import ARMS, WAYS
from attnlab.teach import read_quiz

NAN = float("nan")
EMPTY = {"curve": {}, "seconds": 1.0, "command": "", "environment": {}, "finished_at": ""}


def some_lines(n=2, *, unit="nats", verdict="holds here"):
    row = {"id": "E9", "claim": "it helps", "verdict": verdict, "number": "-0.5 nats", "seeds": 3,
           "quantity": "loss", "doubt": "small", "value": -0.5, "low": -0.6, "high": -0.4,
           "unit": unit}  # fmt: skip
    last = {**row, "claim": "the last one", "low": NAN, "high": NAN}
    return pd.DataFrame([row] * (n - 1) + [last])


def ways():
    row = {"data": "few", "arm": "nets", "look": "alr", "fill": "none"}
    rows = [row | {"way": way, "bleu": b} for way, b in (("From scratch", 45), ("Distilled", 70))]
    return nets.ways(pd.DataFrame(rows), teachers={"many": 99.0, "few": 90.0})


class TestChapter(ChapterTests):
    SLUG = "what_we_found"
    PICTURES = {  # noqa: RUF012
        "verdicts": (
            lambda: pictures.verdicts(some_lines(11)),
            "11 holds here. A box is a claim",
        ),
        "verdicts/several": (
            lambda: pictures.verdicts(pd.concat([some_lines(verdict=v) for v in VERDICTS])),
            "2 holds here, 2 fails here, 2 not distinguishable at this budget, 2 one run",
        ),
        "evidence": (
            lambda: pictures.evidence("E9", lines=some_lines()),
            "E9: 2 holds here. First: it helps: -0.5 nats. Doubt: small.",
        ),
        "evidence/pages": (
            lambda: pictures.evidence("E9", 5, lines=some_lines(11)),
            "E9 (page 2 of 2; there is no page 5): 1 holds here. First: the last one",
        ),
        "evidence/text": (
            lambda: pictures.evidence("E9", lines=some_lines(unit="", verdict="exact")),
            "E9: 2 exact",
        ),
        "paired_interval": (
            lambda: pictures.paired_interval(np.array([1.0, 2.0, 3.0]), names=("SHE", "HE")),
            "mean +2.000 nats, interval -0.484 to +4.484. It includes zero.",
        ),
        "paired_interval/apart": (
            lambda: pictures.paired_interval(np.array([1.0, 1.1, 1.2]), names=("SHE", "HE")),
            "It excludes zero.",
        ),
        "ways": (
            ways,
            "many (attention 99.0): not recorded yet. few (attention 90.0): nets: from "
            "scratch 45.0, distilled 70.0.",
        ),
        "replacing_scratch": (nets.replacing_scratch, "Toy languages. BLEU by way of"),
    }
    PANELS = {  # noqa: RUF012
        "evidence": lambda: (
            lambda claim, page: pictures.evidence(claim, page, lines=some_lines(11)),
            pictures.DIALS,
        )
    }


@pytest.mark.parametrize("claim", ["E1", "E7", "R8"])
def test_a_claim_is_drawn_from_the_ledger(claim):
    assert pictures.evidence(claim).words.startswith(claim)


def test_the_line_of_an_interval_lies_where_the_interval_does():
    first, *_ = pictures.evidence("E9", lines=some_lines()).ax.lines
    assert first.get_xdata().tolist() == [-0.6, -0.4]


def test_every_verdict_stands_as_a_word_beside_its_boxes():
    one = pictures.verdicts(pd.concat([some_lines(verdict=v) for v in VERDICTS]))
    said = {text.get_text() for text in one.ax.texts}
    assert set(VERDICTS) <= said
    assert "E9 ×2" in said


def test_the_claim_to_check_is_judged_as_the_package_does():
    for _, runs, first, second, metric in checks.check_claim.cases:
        claim = checks.Claim(says="lower", variant=first, baseline=second)
        row = judge_claims(runs, claims=[claim], metric=metric).iloc[0]
        n, low, high, verdict = checks.claim_of()(runs, first, second, metric)
        assert (n, verdict) == (row["n_pairs"], row["verdict"])
        assert n < 3 or np.allclose([low, high], [row["low"], row["high"]])


def test_the_quiz_has_six_questions_with_one_right_answer_each():
    questions = read_quiz("what_we_found")
    assert len(questions) == 6
    assert all(sum(option.is_right for option in q.options) == 1 for q in questions)
    places = {[option.is_right for option in q.options].index(True) for q in questions}
    assert places == {0, 1, 2}


# Records of nets ----------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Return a function that adds a record to an empty folder, where readers look."""
    monkeypatch.setattr("attnlab.records.RUNS", tmp_path)

    def add(variant, *, seed=0, bleu=50.0, experiment=nets.TOY, config=(), details=(), **more):
        weights = {"n_weights": 1000} if variant == "teacher" else {
            "n_stand_in_weights": 4100, "n_replaced_weights": 100}  # fmt: skip
        metrics = {"bleu": bleu, "bleu_low": bleu - 2, "bleu_high": bleu + 2, "test_accuracy": 0.8}
        line = {"experiment": experiment, "variant": variant, "seed": seed, "config": dict(config),
                "metrics": metrics | weights | more, "commit": "abc", **EMPTY,
                "details": {"bleu": {"n_sentences": 500}, **dict(details)}}  # fmt: skip
        with (tmp_path / f"{experiment.split('/')[0]}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    return add


def test_all_rows_are_arms_of_the_study():
    assert {*nets.LEAK, *nets.HELPS, *nets.TAUGHT} <= set(ARMS)
    assert set(nets.WAYS) == set(WAYS) - {"best_lr"}


def test_kept_is_measured_from_the_best_control_of_the_site_and_seed(runs):
    runs("teacher", bleu=0.0)
    runs("teacher", bleu=90.0)  # made again
    runs("teacher", bleu=0.0, experiment="attentionless/paper/toy")
    for variant, bleu in (("cross/mean", 10), ("cross/uniform", 50), ("cross/gaussian/tuned", 85),
                          ("cross/paper/l", 70), ("self/alr/m", 81)):  # fmt: skip
        runs(variant, bleu=bleu)
    runs("cross/paper/l", seed=1, bleu=70.0)
    table = nets.recorded()
    found = table.set_index(["variant", "seed"])["kept"]
    assert found[("cross/paper/l", 0)] == pytest.approx(0.5)
    assert found[[("cross/paper/l", 1), ("self/alr/m", 0)]].isna().all()
    words = nets.ranges_markdown(table, {"self/alr/m": "Both", "all/alr/m": "All"})
    assert "| Both | 4,100 | 80.0% | 81.0 |" in words
    assert "eq. (9.2)" not in words  # no control, so no kept share
    assert "One seed; 500 of 500 test sentences" in words
    assert "Not recorded yet: All." in words.partition("<details>")[0]


def test_ranges_and_comparisons_go_seed_by_seed(runs):
    for seed in (0, 1, 2):
        runs("cross/paper/l", seed=seed, bleu=20.0 + seed)
        runs("cross/truncated/l", seed=seed, bleu=60.0 - seed, test_accuracy=0.7)
    runs("cross/truncated/l", seed=3)
    table, names = nets.recorded(), ("Cut", "published")
    words = nets.ranges_markdown(table, {"cross/paper/l": "Published", nets.QUERY: "Query"})
    assert "| Published | 4,100 | 80.0% | 20.0 to 22.0 |" in words
    assert "Ranges over 3 seeds, each with a teacher of its own; 500 of 500 test sentences" in words
    said = nets.compare(table, "cross/truncated/l", "cross/paper/l", names=names)
    want = "BLEU +36.0 to +40.0, next token right -10.0 points."
    assert said == f"Cut against published, seed by seed (3): {want}"
    assert nets.trained_on(table).endswith("against as it was: not recorded yet.")


def test_ways_are_told_for_many_and_few_pairs(runs):
    for experiment, n, bleu in ((nets.TOY, 16_000, 99), (nets.SMALL, 1500, 90)):
        runs("teacher", experiment=experiment, bleu=bleu, details={"data": {"train": n}})
        for ending in ("tuned", "scratch"):
            runs(f"all/per_query/l/{ending}", bleu=bleu / 2, experiment=experiment)
    points, teachers = nets.ways_points()
    assert teachers == {"16,000 pairs to learn from": 99, "1,500 pairs to learn from": 90}
    one = nets.ways(points, teachers=teachers)
    rows = [tick.get_text() for tick in one.ax.get_yticklabels()]
    assert rows == ["From scratch", "Distilled, nets tuned"]
    assert "from scratch 49.5, distilled, nets tuned 49.5. 1,500" in one.words
