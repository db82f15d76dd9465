"""The checks of notebook 04 pass right answers and name the usual mistakes."""

import numpy as np
import pytest
import torch
from checker import CheckerTests
from torch.nn import functional as F

from attnlab.models.sampling import token_chances
from attnlab.teaching import language

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


class TestChecks(CheckerTests):
    CHECKS = CHECKS


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
