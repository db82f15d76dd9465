"""Exercises of notebook 02 name the usual mistakes; its counting loop and recall toy are right."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnlab.analysis import theory
from attnlab.config import TrainConfig
from attnlab.seeding import numpy_generator
from attnlab.teaching import attention as checks
from attnlab.teaching import recall
from attnlab.teaching.core import CheckFailed, unseen_mistakes

EXERCISES = {
    "2.1": (checks._causal_weights, checks.causal_weights_cases, checks.CAUSAL_WEIGHTS_MISTAKES),
    "2.2": (checks._single_head, checks.single_head_cases, checks.SINGLE_HEAD_MISTAKES),
    "2.3": (
        checks._multiplications,
        lambda: checks.MULTIPLICATIONS_CASES,
        checks.MULTIPLICATIONS_MISTAKES,
    ),
}


@pytest.mark.parametrize("exercise", EXERCISES)
def test_every_listed_mistake_is_recognised(exercise):
    reference, cases, mistakes = EXERCISES[exercise]
    assert unseen_mistakes(reference=reference, cases=cases(), mistakes=mistakes) == []


@pytest.mark.parametrize("exercise", EXERCISES)
def test_at_least_three_mistakes_have_a_name(exercise):
    names = [mistake.name for mistake in EXERCISES[exercise][2]]
    assert len(set(names)) == len(names) >= 3


def test_right_answers_pass(capsys):
    checks.check_causal_weights(checks._causal_weights)
    checks.check_single_head(checks._single_head)
    checks.check_multiplications(checks._multiplications)
    assert capsys.readouterr().out.count("Correct") == 3


def test_a_mask_after_the_softmax_is_told_so(capsys):
    with pytest.raises(CheckFailed, match="mask came after the softmax"):
        checks.check_causal_weights(lambda scores: scores.softmax(-1).tril())


def test_a_scale_by_the_width_is_told_so(capsys):
    def by_width(x, w_q, w_k, w_v, w_o):
        scores = (x @ w_q) @ (x @ w_k).mT / w_q.shape[1]
        return checks._causal_weights(scores) @ x @ w_v @ w_o

    with pytest.raises(CheckFailed, match="square root"):
        checks.check_single_head(by_width)


def test_the_reference_head_is_the_library_s():
    mixer = checks.seeded_attention(d_model=5, time=7, n_heads=1)
    x = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    maps = [getattr(mixer, name).weight.mT for name in ("query", "key", "value", "out")]
    torch.testing.assert_close(checks._single_head(x, *maps), mixer(x[None])[0])


@given(st.integers(1, 300), st.integers(1, 12), st.integers(1, 5))
def test_the_reference_count_is_the_closed_form(time, d_head, n_heads):
    d_model = d_head * n_heads
    expected = theory.expected_multiplications(
        "attention", d_model=d_model, time=time, n_heads=n_heads
    )
    assert checks._multiplications(time, d_model, n_heads) == expected


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_counted_attention_gives_the_outputs_and_the_closed_form(time, d_head, n_heads, seed):
    d = d_head * n_heads
    mixer = checks.seeded_attention(d_model=d, time=time, n_heads=n_heads, seed=seed)
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(time, d)))
    maps = {n: getattr(mixer, n).weight.mT.tolist() for n in ("query", "key", "value", "out")}
    y, counted = checks.attend_and_count(x.tolist(), **maps, n_heads=n_heads)
    torch.testing.assert_close(torch.tensor(y, dtype=torch.float64), mixer(x[None])[0])
    assert counted == theory.expected_multiplications(
        "attention", d_model=d, time=time, n_heads=n_heads
    )


def test_set_maps_multiplies_from_the_right():
    mixer = checks.seeded_attention(d_model=2, time=1, n_heads=1)
    turn = torch.tensor([[0.0, 3.0], [1.0, 0.0]], dtype=torch.float64)
    checks.set_maps(mixer, value=turn, out=torch.eye(2).double())
    x = torch.tensor([[[1.0, 2.0]]], dtype=torch.float64)
    torch.testing.assert_close(mixer(x), x @ turn)


def test_seeded_weights_follow_the_seed_alone():
    one, same, other = (
        checks.seeded_attention(d_model=3, time=2, n_heads=1, seed=seed).query.weight
        for seed in (4, 4, 5)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@given(st.integers(1, 8), st.integers(0, 99))
def test_every_answer_is_the_digit_listed_with_the_letter(n_pairs, seed):
    lists = recall.sample_lists(3, n_pairs=n_pairs, generator=np.random.default_rng(seed))
    for row in range(3):
        stored = dict(zip(lists.letters[row, :n_pairs], lists.digits[row, :n_pairs], strict=True))
        assert len(stored) == n_pairs, "letters differ"
        asked = lists.letters[row, n_pairs:]
        assert lists.answers[row, n_pairs:].tolist() == [stored[letter] for letter in asked]
        assert set(lists.answers[row, :n_pairs]) == {recall.NO_ANSWER}


def test_features_are_letter_and_digit_side_by_side():
    lists = recall.sample_lists(2, n_pairs=3, generator=np.random.default_rng(0))
    features = lists.features
    assert features.shape == (2, 6, recall.D_MODEL)
    np.testing.assert_array_equal(features.sum(-1), [[2, 2, 2, 1, 1, 1]] * 2)
    assert lists.words(0)[0] == f"{recall.LETTERS[lists.letters[0, 0]]}{lists.digits[0, 0]}"
    assert lists.words(0)[-1].endswith("?")


@pytest.mark.parametrize("n_pairs", [1, 2, 5])
def test_the_bag_floor_is_the_mean_surprise_of_an_honest_bag_reader(n_pairs):
    lists = recall.sample_lists(20_000, n_pairs=n_pairs, generator=numpy_generator(0, "data"))
    digits, asked = lists.digits[:, :n_pairs], lists.answers[:, n_pairs]
    surprise = -np.log((digits == asked[:, None]).mean(1))
    floor = recall.bag_floor_nats(n_pairs=n_pairs)
    assert floor == pytest.approx(surprise.mean(), abs=5 * surprise.std() / math.sqrt(20_000))


def test_the_bag_floor_of_two_pairs_is_log_two_unless_they_agree():
    assert recall.bag_floor_nats(n_pairs=2) == pytest.approx(7 / 8 * math.log(2))


def test_the_commonest_digit_of_one_pair_is_right_and_of_two_nearly_half():
    assert recall.commonest_share(n_pairs=1) == 1
    # two digits agree with chance 1/8: both questions right, else one of two
    assert recall.commonest_share(n_pairs=2) == Fraction(1, 8) + Fraction(7, 8) / 2


@pytest.mark.parametrize("n_pairs", [3, 8])
def test_the_commonest_share_is_what_a_reader_of_the_bag_gets(n_pairs):
    lists = recall.sample_lists(20_000, n_pairs=n_pairs, generator=numpy_generator(0, "data"))
    digits, answers = lists.digits[:, :n_pairs], lists.answers[:, n_pairs:]
    counts = (digits[:, :, None] == np.arange(recall.N_DIGITS)).sum(1)
    right = (answers == counts.argmax(1)[:, None]).mean(1)
    share = float(recall.commonest_share(n_pairs=n_pairs))
    assert share == pytest.approx(right.mean(), abs=5 * right.std() / math.sqrt(20_000))


def test_attention_learns_to_recall_and_the_mean_does_not_pass_the_bag_floor():
    config = TrainConfig(n_steps=100, batch_size=32, lr=0.02, warmup_steps=20)
    curves, models = recall.race_recall(("attention", "mean"), n_pairs=5, config=config, n_seeds=1)
    test = recall.sample_lists(100, n_pairs=5, generator=numpy_generator(0, "check"))
    assert recall.share_right(models["attention"][0], test) > 0.95
    last = curves.groupby("name")["loss_nats"].last()
    assert last["mean"] > recall.bag_floor_nats(n_pairs=5) - 0.05
    assert set(curves.columns) == {"name", "seed", "tokens_seen", "loss_nats"}


def test_a_recall_race_repeats_itself():
    config = TrainConfig(n_steps=3, batch_size=4, lr=0.02, warmup_steps=1)
    first, again = (
        recall.race_recall(("she",), n_pairs=2, config=config, n_seeds=2)[0] for _ in range(2)
    )
    assert first.equals(again)
    assert first["seed"].unique().tolist() == [0, 1]
