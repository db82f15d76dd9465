"""Chapter 14: verdicts at a glance, the evidence of a claim, and the six questions."""

import numpy as np
import pandas as pd
import pytest
from chapter_tests import ChapterTests

from attnlab.analysis.compare import judge_claims
from attnlab.chapters.what_we_found import checks, pictures
from attnlab.claims import VERDICTS
from attnlab.teach import read_quiz

NAN = float("nan")


def some_lines(n=2, *, unit="nats", verdict="holds here"):
    row = {"id": "E9", "claim": "it helps", "verdict": verdict, "number": "-0.5 nats", "seeds": 3,
           "quantity": "loss", "doubt": "small", "value": -0.5, "low": -0.6, "high": -0.4,
           "unit": unit}  # fmt: skip
    last = {**row, "claim": "the last one", "low": NAN, "high": NAN}
    return pd.DataFrame([row] * (n - 1) + [last])


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
