"""The checks of notebook 04 pass right answers and name the usual mistakes."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from attnlab.models.sampling import token_chances
from attnlab.teaching import language
from attnlab.teaching.core import CheckFailed, unseen_mistakes

CHECKS = {
    "cross-entropy": (
        language.check_cross_entropy,
        language.cross_entropy,
        language.cross_entropy_cases,
        language.CROSS_ENTROPY_MISTAKES,
    ),
    "bits per byte": (
        language.check_bits_per_byte,
        language.bits_per_byte,
        language.bits_per_byte_cases,
        language.BITS_PER_BYTE_MISTAKES,
    ),
    "top-p": (
        language.check_top_p,
        language.top_p_filter,
        language.top_p_cases,
        language.TOP_P_MISTAKES,
    ),
}
every_check = pytest.mark.parametrize("name", CHECKS)


@every_check
def test_the_right_answer_passes(name, capsys):
    check, right, _, _ = CHECKS[name]
    check(right)
    assert "Correct" in capsys.readouterr().out


@every_check
def test_every_mistake_is_seen_and_named(name):
    _, right, cases, mistakes = CHECKS[name]
    assert len(mistakes) >= 3
    assert unseen_mistakes(reference=right, cases=cases(), mistakes=mistakes) == []


@every_check
def test_a_mistake_gets_its_sentence(name):
    check, _, _, mistakes = CHECKS[name]
    for mistake in mistakes:
        with pytest.raises(CheckFailed) as failure:
            check(mistake.wrong)
        assert mistake.sentence in str(failure.value)


@every_check
def test_an_empty_body_waits_for_the_learner(name):
    check = CHECKS[name][0]

    def unsolved(*args):
        raise NotImplementedError("Return the loss.")

    with pytest.raises(NotImplementedError):
        check(unsolved)


def test_the_reference_loss_is_that_of_torch():
    for one in language.cross_entropy_cases():
        logits, tokens = (torch.from_numpy(np.asarray(a)) for a in one.args)
        expected = F.cross_entropy(logits[:-1], tokens[1:]).item()
        assert language.cross_entropy(*one.args) == pytest.approx(expected)


def test_the_reference_filter_is_the_one_that_generation_uses():
    for one in language.top_p_cases():
        chances, p = one.args
        logits = torch.from_numpy(np.log(np.maximum(chances, 1e-30)))[None]
        expected = token_chances(logits, top_p=p)[0].numpy()
        np.testing.assert_allclose(language.top_p_filter(chances, p), expected, atol=1e-6)


def test_a_byte_that_is_a_token_costs_its_loss_in_bits():
    assert language.bits_per_byte(np.log(2), 5, 5) == pytest.approx(1.0)
