"""The checks of notebook 07 pass right answers and name the usual mistakes."""

import numpy as np
import pytest
import torch
from checker import CheckerTests
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.config import BOS, EOS, UNK
from attnlab.mixers.attention import CrossAttention
from attnlab.teaching import translation
from attnlab.training.scores import bleu_by_hand

CHECKS = {
    "cross-attention": (
        translation.check_cross_attention,
        translation.cross_attention,
        translation.cross_attention_cases(),
        translation.CROSS_ATTENTION_MISTAKES,
    ),
    "greedy": (
        translation.check_greedy,
        translation.greedy,
        translation.greedy_cases(),
        translation.GREEDY_MISTAKES,
    ),
    "bleu": (
        translation.check_bleu,
        bleu_by_hand,
        translation.BLEU_CASES,
        translation.BLEU_MISTAKES,
    ),
}


class TestChecks(CheckerTests):
    CHECKS = CHECKS


def test_the_reference_look_up_is_that_of_the_model():
    site = CrossAttention(d_model=6, n_heads=1).double()
    for one in translation.cross_attention_cases():
        x, memory, *_, is_padding = one.args
        if x.shape[1] != 6:
            continue
        maps = [getattr(site, name).weight.mT.detach() for name in ("query", "key", "value", "out")]
        found = translation.cross_attention(x, memory, *maps, is_padding)
        want = site(x[None], memory[None], source_padding=is_padding[None])[0]
        torch.testing.assert_close(found, want.detach())


@settings(deadline=None, max_examples=25)
@given(words=st.lists(st.integers(4, 8), max_size=6), max_len=st.integers(1, 8))
def test_greedy_writes_the_script_as_far_as_it_may(words, max_len):
    assert translation.greedy(translation.scripted(*words), max_len) == words[:max_len]


def test_scripted_scores_know_no_other_beginning():
    scores = translation.scripted(5, 6)
    assert scores([BOS, 5, 6]).argmax(-1).tolist() == [5, 6, EOS]
    assert scores([4, 5]).argmax(-1).tolist() == [UNK, UNK]
    assert scores([BOS, 5, 6, 7, 7]).argmax(-1).tolist() == [5, 6, EOS, UNK, UNK]


def test_the_sentences_on_paper_have_the_score_of_the_page():
    # p = 9/11, 7/9, 4/7, 2/5: their product is 8/55; c = 11, r = 14
    want = 100 * np.exp(1 - 14 / 11) * (8 / 55) ** 0.25
    assert bleu_by_hand(translation.HYPOTHESES, translation.REFERENCES) == pytest.approx(want)


def test_every_question_has_one_right_answer():
    for question in translation.TRANSLATION_QUIZ:
        assert sum(option.is_right for option in question.options) == 1
