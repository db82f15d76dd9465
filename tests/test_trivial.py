"""Answers that need no training, on texts a person can check."""

import labelled_sets
import pandas as pd
import pytest
from test_corpora_pairs import scan

from attnlab.corpora import WordVocabulary, list_corpora
from attnlab.errors import UnknownNameError
from attnlab.studies.arms import BASELINES, arm_columns, arm_words
from attnlab.studies.engine import Folders
from attnlab.studies.replaced import SMOKE, teacher_jobs
from attnlab.studies.stand_ins import BUDGETS, study_jobs
from attnlab.studies.study import Plan
from attnlab.studies.task_budgets import ARM_PASSES, TASK_BUDGETS
from attnlab.studies.trivial import baseline_jobs, run_baseline
from attnlab.tasks import PairDataset, prepare_pairs
from attnlab.tasks.pairs import WRITTEN
from attnlab.tasks.trivial import TRIVIAL, score_trivial
from attnlab.training import unpack_scores

SEEN = [("go left now", "L"), ("go right now", "R R"), ("stay", "L"), ("go up twice", "U U U")]
ASKED = ["go right twice now", "left", "sing", ""]
ANSWERS = {
    "lead": ["go", "left", "sing", ""],  # 1, 1, 2 and 3 words: the lower middle one is 1
    "copy": ASKED,
    "frequent": ["L"] * 4,
    "nearest": ["R R", "L", "L", "L"],  # without a word in common all are equally far
}


@pytest.mark.parametrize("name", TRIVIAL)
def test_trivial_answers_are_those_a_person_would_give(name):
    assert TRIVIAL[name](SEEN, ASKED) == ANSWERS[name]


def made_up(test, **changed):
    vocabulary = WordVocabulary(text for pair in SEEN for text in pair)
    ids = [tuple(vocabulary.encode(text) for text in pair) for pair in SEEN]
    asked = [tuple(vocabulary.encode(text) for text in pair) for pair in test]
    return PairDataset(
        name="moves", source_vocabulary=vocabulary, vocabulary=vocabulary, train=ids,
        validation=ids, test=asked, tokenize="none", scores_texts=True, **changed,
    )  # fmt: skip


def test_they_are_judged_as_models_are():
    data = made_up([("go right now", "R R"), ("stay", "U")], more_tests={"far": made_up(SEEN).test})
    metrics, details = score_trivial("nearest", data)
    assert metrics["exact_match"] == 0.5
    assert metrics["rouge_l"] == pytest.approx(50)
    assert metrics["exact_match_low"] <= 0.5 <= metrics["exact_match_high"]
    assert metrics["far_exact_match"] == 1
    assert unpack_scores(details["texts"]["exact_match"]["texts"]).tolist() == [1, 0]
    assert len(unpack_scores(details["far"]["texts"]["chrf"]["texts"])) == len(SEEN)
    assert "tok:none" in details["bleu"]["signature"]
    with pytest.raises(UnknownNameError, match=r"'laed'.*Did you mean 'lead'"):
        score_trivial("laed", data)


@pytest.mark.parametrize("scale", ["classroom", "paper"])
def test_every_corpus_that_is_no_translation_has_a_small_teacher_and_arms_shorter_than_it(scale):
    names = {name for name in list_corpora(kind="pairs") if name.partition("/")[0] in WRITTEN}
    assert {name for of, name in TASK_BUDGETS if of == scale} == names == ARM_PASSES.keys()
    for name in names:
        budget = Plan(study="replaced", scale=scale, corpus=name).choose(BUDGETS)
        assert (budget.d_model, budget.n_layers, budget.n_steps) == (64, 2, 0)
        assert 4 * ARM_PASSES[name] <= budget.n_passes
        assert budget.n_averaged < budget.n_passes


def finished(run):
    """Run a generator to its end; return what it returns."""
    while True:
        try:
            assert next(run).n_steps == 1
        except StopIteration as end:
            return end.value


def test_a_baseline_is_a_row_beside_the_teacher_whose_data_it_answers(monkeypatch, tmp_path):
    moves = [f"{a} {b}" for a in ("walk", "run", "look", "jump") for b in ("left", "right", "now")]
    files = {split: (split, scan(*moves, *moves, "left").encode()) for split in ("train", "test")}
    labelled_sets.store(monkeypatch, tmp_path, "scan/simple", files, kind="pairs")
    prepare_pairs.cache_clear()
    (teacher,) = teacher_jobs(Plan(study="replaced", corpus="scan/simple"), SMOKE)
    jobs = baseline_jobs(teacher, variants=("teacher", "baseline/frequent", "baseline/copy"))
    assert [job.variant for job in jobs] == ["baseline/frequent", "baseline/copy"]
    assert [job.variant for job in baseline_jobs(teacher)] == list(BASELINES)
    assert len({job.digest for job in (teacher, *jobs)}) == 3
    plan = Plan(study="replaced", corpus="scan/simple", seeds=(3, 4),
                variants=("teacher", "baseline/copy"))  # fmt: skip
    asked = [(job.variant, job.train.seed) for job in study_jobs(plan)]
    assert asked == [("teacher", 3), ("baseline/copy", 3), ("teacher", 4)]
    record = finished(run_baseline(jobs[0], Folders(runs=tmp_path, work=tmp_path)))
    assert (record.variant, record.experiment) == ("baseline/frequent", teacher.experiment)
    assert record.metrics["exact_match"] == pytest.approx(2 / 25)
    assert record.details["data"]["test"] == 25
    prepare_pairs.cache_clear()


def test_columns_and_words_of_a_baseline_stand_beside_those_of_arms():
    assert [variant.partition("/")[2] for variant in BASELINES] == [*TRIVIAL]
    runs = arm_columns(pd.DataFrame({"variant": ["teacher", "baseline/lead"]}))
    assert runs["kind"].tolist()[1] == "lead"
    assert runs["site"].tolist() == ["", ""]
    assert runs["words"].tolist() == ["teacher", arm_words("baseline/lead")]
    assert not runs["has_cross_softmax"].tolist()[1]
