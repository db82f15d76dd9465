"""What the bench of translation compares does the same work, and is counted."""

import itertools

import pytest
import torch

from attnlab.config import BOS, EOS, PAD
from attnlab.studies.speed import SpeedPlan, translation
from attnlab.studies.speed.work import build_translator, counted_flops

PLAN = SpeedPlan(part="translation", scale="smoke", routes=("default",))
SHORT = translation.Sizes(budget=translation.SMOKE, vocab_size=13, n_tokens=5, batch=3)


# translation


@pytest.mark.parametrize("variant", translation.VARIANTS)
def test_token_by_token_is_the_teacher_forced_pass_and_never_ends(variant):
    model = build_translator(**SHORT.model, seed=0, device="cpu")
    stand_ins = translation.build_stand_ins(variant, model, seed=0)
    with translation.substitute(model, stand_ins):
        source, _ = translation.random_pairs(PLAN, SHORT)
        written = translation.greedy_translation(model, source, n_tokens=SHORT.n_tokens)()
        assert written.shape == (SHORT.batch, SHORT.n_tokens)
        read = torch.cat([torch.full((SHORT.batch, 1), BOS), written[:, :-1]], 1)
        with torch.no_grad():
            logits = model(source, read)
    logits[..., [PAD, BOS, EOS]] = -torch.inf
    assert torch.equal(logits.argmax(-1), written)


def test_a_sentence_is_written_to_its_full_length_though_its_end_is_likeliest():
    model = build_translator(**SHORT.model, seed=0, device="cpu")
    source, _ = translation.random_pairs(PLAN, SHORT)

    def ends_at_once(token, state):
        logits = torch.zeros(len(token), SHORT.vocab_size)
        logits[:, EOS] = 1.0
        return logits, state

    model.step = ends_at_once
    written = translation.greedy_translation(model, source, n_tokens=4)()
    assert written.shape == (SHORT.batch, 4)
    assert not (written == EOS).any()


def test_operations_of_the_teacher_are_those_of_the_closed_form():
    model = build_translator(**SHORT.model, seed=0, device="cpu")
    batch, time = SHORT.batch, SHORT.n_tokens
    d, d_ff, n = (SHORT.model[name] for name in ("d_model", "d_ff", "n_layers"))
    maps = n * (4 * d * d + 2 * d * d_ff) + n * (8 * d * d + 2 * d * d_ff)
    products = time * (maps + d * SHORT.vocab_size) + 3 * n * 2 * time * time * d
    call = translation.forced_pass(model, *translation.random_pairs(PLAN, SHORT))
    assert counted_flops(call) == 2 * batch * products


def test_backward_takes_two_products_for_each_of_the_forward_pass():
    weight, x = torch.ones(5, 7, requires_grad=True), torch.ones(3, 5, requires_grad=True)
    forward = counted_flops(lambda: x @ weight)
    assert forward == 2 * 3 * 5 * 7
    assert counted_flops(lambda: (x @ weight).sum().backward()) == 3 * forward


def test_what_is_translated_is_as_large_as_in_the_study():
    sizes = translation.sizes_of("paper").model
    assert sizes == {
        "vocab_size": 6004,
        "d_model": 128,
        "n_heads": 8,
        "n_layers": 3,
        "d_ff": 512,
        "max_len": 32,
    }
    pairs = itertools.pairwise(map(translation.sizes_of, ("smoke", "classroom", "paper")))
    assert all(small.model["d_model"] < large.model["d_model"] for small, large in pairs)
