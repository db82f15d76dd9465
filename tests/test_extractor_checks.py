"""The judges of notebook 03 pass right answers, name wrong ones, and count honestly."""

import math

import numpy as np
import pytest
import torch

from attnlab.analysis.theory import expected_multiplications
from attnlab.config import ModelConfig
from attnlab.mixers import build_mixer
from attnlab.models import LanguageModel
from attnlab.teaching import extractor, extractor_runs
from attnlab.teaching.core import CheckFailed, unseen_mistakes
from attnlab.teaching.quiz import quiz_markdown
from attnlab.training import save_model

EXERCISES = {
    "extract": (extractor.extract, extractor.extract_cases, extractor.EXTRACT_MISTAKES),
    "she": (extractor.she, extractor.she_cases, extractor.SHE_MISTAKES),
    "count": (extractor.count_weights, extractor.count_cases, extractor.COUNT_MISTAKES),
}


@pytest.mark.parametrize("name", EXERCISES)
def test_every_mistake_is_seen_and_named(name):
    reference, cases, mistakes = EXERCISES[name]
    assert unseen_mistakes(reference=reference, cases=cases(), mistakes=mistakes) == []


def test_right_answers_pass(capsys):
    extractor.check_extract(extractor.extract)
    extractor.check_she(lambda x, W, A, B: (extractor.extract(x, W) * (x @ A)) @ B)
    extractor.check_weight_count(extractor.count_weights)
    assert capsys.readouterr().out.count("Correct") == 3


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda x, W, A, B: extractor.extract(x, W) * (x @ A), "W_out is missing"),
        (lambda x, W, A, B: (extractor.extract(x, W) + (x @ A)) @ B, "multiplies"),
        (
            lambda x, W, A, B: (extractor.extract(x, W) * (extractor.extract(x, W) @ A)) @ B,
            "x_t alone",
        ),
    ],
)
def test_a_wrong_sublayer_gets_its_sentence(wrong, word):
    with pytest.raises(CheckFailed, match=word):
        extractor.check_she(wrong)


def test_the_reference_is_the_library():
    mixer = build_mixer("she", d_model=3, context_len=4).double()
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = extractor.she(x, mixer.lag_weight, mixer.adjust.weight.T, mixer.out.weight.T)
    torch.testing.assert_close(mixer(x[None])[0], y)


def test_the_numbers_of_the_page_are_those_of_the_page():
    x, W, W_adj, W_out = extractor.page_numbers()
    assert extractor.extract(x, W)[2].tolist() == [4, 3]
    # gate (1, 3), product (4, 9), output (4 + 9, 9)
    assert extractor.she(x, W, W_adj, W_out)[2].tolist() == [13, 9]


def test_multiplications_of_a_matrix_product_are_counted():
    assert (
        extractor.count_multiplications(lambda a, b: a @ b, np.ones((2, 3)), np.ones((3, 5))) == 30
    )


def test_multiplications_of_she_are_those_of_the_closed_form():
    def she(x, W, W_adj, W_out):
        e = [sum(x[t - j] @ W[j] for j in range(t + 1)) for t in range(len(x))]
        return [(e_t * (x_t @ W_adj)) @ W_out for e_t, x_t in zip(e, x, strict=True)]

    T, d = 4, 3
    shapes = (T, d), (T, d, d), (d, d), (d, d)
    counted = extractor.count_multiplications(she, *(np.ones(shape) for shape in shapes))
    assert counted == expected_multiplications("she", d_model=d, time=T)


def test_the_quiz_has_a_right_answer_to_each_question():
    assert quiz_markdown(extractor.QUESTIONS).count("**A**") == 2 * len(extractor.QUESTIONS)


@pytest.mark.parametrize(
    "breaks",
    [
        lambda x, W: torch.stack(
            [sum(x[t - j] @ W[j] for j in range(t + 1)) for t in range(len(x))]
        ),
        lambda x, W: torch.stack(
            [
                sum(a @ b for a, b in zip(x[: t + 1].flip(0), W[: t + 1], strict=True))
                for t in range(len(x))
            ]
        ),
    ],
)
def test_lags_that_run_out_get_their_sentence(breaks):
    with pytest.raises(CheckFailed, match=r"has min\(t \+ 1, l\) lags"):
        extractor.check_extract(breaks)
    with pytest.raises(CheckFailed, match=r"has min\(t \+ 1, l\) lags"):
        extractor.check_she(lambda x, W, A, B: (breaks(x, W) * (x @ A)) @ B)


def test_another_breakdown_keeps_its_own_words():
    with pytest.raises(CheckFailed, match="IndexError") as failure:
        extractor.check_extract(lambda x, W: x[len(x)])
    assert "lags" not in str(failure.value)


def test_a_count_of_me_without_its_gate_gets_its_sentence():
    def count(name, d, ell):
        return ell * d if name == "me" else extractor.count_weights(name, d, ell)

    with pytest.raises(CheckFailed, match="vector for the gate, w_adj"):
        extractor.check_weight_count(count)


def test_one_sign_or_seven_say_nothing_and_the_product_says_all():
    source = extractor_runs.product_source()
    rate = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    assert source.entropy_rate_nats == pytest.approx(rate)
    assert source.best_loss_nats(context_len=extractor_runs.LAG) == pytest.approx(math.log(2))
    assert source.best_loss_nats(context_len=extractor_runs.LAG + 1) == pytest.approx(rate)


def sample_signs(n_tokens=200_000):
    return 1.0 - 2.0 * extractor_runs.product_source().sample(n_tokens, seed=0)


def test_a_sum_of_two_signs_predicts_the_next_one_if_it_is_not_read_linearly():
    signs = sample_signs()
    sums, following = signs[3:-1] + signs[:-4], signs[4:]
    # the sum is 0 exactly where the product is -1, which the next sign repeats with chance 0.9
    assert np.mean(following[sums == 0] == -1) == pytest.approx(0.9, abs=0.01)
    assert np.mean(following[sums != 0] == +1) == pytest.approx(0.9, abs=0.01)


def test_no_single_sign_of_the_context_is_correlated_with_the_next():
    signs = sample_signs()
    n = extractor_runs.CONTEXT_LEN
    for lag in range(n):
        # independent signs correlate by about 1 / sqrt(n_tokens) = 0.002; these are a little
        # slower to forget
        assert abs(np.mean(signs[n:] * signs[n - 1 - lag : -1 - lag])) < 0.02


def test_floors_are_the_source_and_log_two():
    floors = extractor_runs.product_floors()
    assert floors["true source"] == pytest.approx(0.325, abs=0.02)
    assert floors["blind to products, log 2"] == pytest.approx(math.log(2))


def test_a_reader_is_a_function_of_its_seed():
    reader = extractor_runs.READERS["she"]
    (_, first), (_, again) = (extractor_runs.train_reader(reader, seed=1, n_steps=3) for _ in "ab")
    assert first == again


def test_extraction_alone_stays_blind_to_the_product():
    reader = extractor_runs.READERS["she/extraction_only"]
    assert extractor_runs.train_reader(reader, seed=0, n_steps=60)[1] > 0.68


def tiny(mixer):
    return LanguageModel(
        ModelConfig(mixer=mixer, vocab_size=5, context_len=4, d_model=4, n_layers=2, n_heads=1)
    )


def test_stored_models_are_used_if_all_mixers_come_from_one_experiment(tmp_path):
    for mixer in ("she", "me"):
        facts = {"variant": mixer, "experiment": "language-model/smoke"}
        save_model(tmp_path / f"{mixer}.safetensors", model=tiny(mixer), **facts)
    found = extractor_runs.load_or_train(("she", "me"), folder=tmp_path)
    assert "language-model/smoke" in found["me"].origin
    assert [kernel.shape for kernel in found["she"].kernels] == [(4, 4, 4)] * 2


def test_stored_models_are_found_in_the_folder_of_their_corpus(tmp_path):
    facts = {"variant": "we", "experiment": "language-model/classroom/children"}
    save_model(tmp_path / "toys" / "we.safetensors", model=tiny("we"), **facts)
    found = extractor_runs.load_or_train(("we",), folder=tmp_path)
    assert found["we"].origin.startswith("data/models/toys/we.safetensors")


def test_models_are_trained_where_one_is_missing_or_damaged(tmp_path):
    save_model(tmp_path / "she.safetensors", model=tiny("she"), experiment="a", variant="she")
    (tmp_path / "me.safetensors").write_bytes(b"no model")
    found = extractor_runs.load_or_train(("she", "me"), folder=tmp_path, n_steps=2)
    assert all("trained here" in one.origin for one in found.values())
    assert found["me"].kernels[0].shape == (32, 24)


def test_models_are_trained_where_there_is_no_folder(tmp_path):
    found = extractor_runs.load_or_train(("we",), folder=tmp_path / "none", n_steps=1)
    assert "trained here" in found["we"].origin
