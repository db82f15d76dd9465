"""Chapter 00: its two pictures, its exercises, and a self-check of six questions."""

from functools import partial

import numpy as np
import pytest
from chapter_tests import ChapterTests

from attnlab.chapters.start_here import pictures
from attnlab.teach import read_quiz


class TestChapter(ChapterTests):
    SLUG = "start_here"
    PICTURES = {  # noqa: RUF012
        "taken_out": (
            lambda: pictures.taken_out(place="cross", put_in="uniform"),
            "The translation reads the source: with attention the translator scores 99.",
        ),
        "two_mixers": (pictures.two_mixers, "What 'she' takes from each earlier word"),
        "loss_units": (
            partial(pictures.loss_units, float(np.log(8))),
            "2.079 nats per token are 3.000 bits per token and a perplexity of 8.00",
        ),
    }
    PANELS = {  # noqa: RUF012
        "taken_out": lambda: (pictures.taken_out, pictures.TAKEN_OUT_DIALS),
        "loss_units": lambda: (pictures.loss_units, pictures.UNITS_DIALS),
    }


def test_a_taught_net_is_worth_most_in_every_place_and_nothing_is_best_borne_in_the_encoder():
    left = {
        place: [pictures.taken_out(place=place, put_in=name).ax.patches[0].get_width()
                for name in pictures.PUT_IN]
        for place in pictures.PLACES
    }  # fmt: skip
    assert all(scores[-1] == max(scores) for scores in left.values())
    assert max(left, key=lambda place: left[place][0]) == "encoder_self"
    assert min(left, key=lambda place: left[place][2]) == "cross"


def test_the_marked_loss_lies_on_the_curve():
    assert pictures.loss_units(1.0).ax.lines[-1].get_ydata()[0] == pytest.approx(np.e)


def test_each_mixer_shares_out_one_whole_over_the_earlier_words():
    for _, shares in pictures.GATHERED.values():
        assert len(shares) == len(pictures.SENTENCE) - 1
        assert sum(shares) == pytest.approx(1)


def test_the_self_check_has_six_questions_with_one_right_answer_each():
    questions = read_quiz("start_here", part="What do you know already?")
    assert len(questions) == 6
    assert all(sum(option.is_right for option in q.options) == 1 for q in questions)
