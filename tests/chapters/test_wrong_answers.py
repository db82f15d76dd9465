"""The commonest wrong answers of each exercise are named rightly, or not named at all."""

import pytest
from chapter_tests import exercises

from attnlab.chapters import list_chapters
from chapters.wrong_answers import WRONG

ROWS = [
    pytest.param(exercises(slug)[name], *row, id=f"{name}-{i}")
    for slug, table in WRONG.items()
    for name, rows in table.items()
    for i, row in enumerate(rows)
]


@pytest.mark.parametrize(("check", "answer", "words"), ROWS)
def test_a_wrong_answer_gets_its_sentence_or_a_neutral_one(check, answer, words):
    verdict = check.verdict(answer)
    assert verdict.problem is not None, "it passes every case"
    assert any(word in verdict.sentence for word in words.split("|")), verdict.sentence
    assert "it raised" not in verdict.sentence or "attnlab" not in verdict.sentence


def test_every_exercise_is_tried_with_ten_wrong_answers():
    few = [
        name
        for slug in list_chapters()
        for name in exercises(slug)
        if len(WRONG.get(slug, {}).get(name, ())) < 10
    ]
    assert not few
