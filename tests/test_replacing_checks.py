"""The checks of notebook 09 pass right answers and name the usual mistakes."""

import math

import pytest
import torch
from checker import CheckerTests
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.teaching import replacing
from attnlab.teaching.core import CheckFailed

CHECKS = {
    "kept share": (
        replacing.check_kept_share,
        replacing.kept_share,
        replacing.KEPT_CASES,
        replacing.KEPT_MISTAKES,
    ),
    "leak": (
        replacing.check_find_leak,
        replacing.find_leak,
        replacing.leak_cases(),
        replacing.LEAK_MISTAKES,
    ),
}


class TestChecks(CheckerTests):
    CHECKS = CHECKS


def test_an_edit_in_place_is_reported():
    def careless(site, x, n_words):
        before = site(x)
        x[n_words - 1] += 1
        moved = (site(x) - before).abs().amax(-1) > 1e-9
        return moved[: n_words - 1].nonzero().flatten().tolist()

    with pytest.raises(CheckFailed, match="changes its own arguments"):
        replacing.check_find_leak(careless)


@settings(deadline=None, max_examples=25)
@given(
    teacher=st.floats(1, 100),
    controls=st.lists(st.floats(0, 0.9), min_size=1, max_size=5),
)
def test_the_teacher_keeps_all_and_the_best_control_nothing(teacher, controls):
    assert replacing.kept_share(teacher, teacher, controls) == pytest.approx(1)
    assert replacing.kept_share(max(controls), teacher, controls) == 0


def test_nothing_is_kept_where_nothing_can_be_lost():
    assert math.isnan(replacing.kept_share(50, 60, [60]))


@settings(deadline=None, max_examples=25)
@given(n_words=st.integers(1, 7), n_padding=st.integers(0, 3))
def test_leaks_are_found_with_any_padding(n_words, n_padding):
    x = torch.randn(n_words + n_padding, 3, dtype=torch.float64)
    earlier = list(range(n_words - 1))
    assert replacing.find_leak(replacing.running_mean(n_words), x, n_words) == []
    assert replacing.find_leak(replacing.whole_mean(n_words), x, n_words) == earlier
    assert replacing.find_leak(replacing.next_word(n_words), x, n_words) == earlier[-1:]


def test_every_question_has_one_right_answer():
    for question in replacing.REPLACING_QUIZ:
        assert sum(option.is_right for option in question.options) == 1
