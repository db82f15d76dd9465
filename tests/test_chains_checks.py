"""The checks of notebooks 00 and 01 name the usual mistakes; live helpers agree with the source."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.config import ModelConfig, TrainConfig
from attnlab.errors import AttnlabError
from attnlab.models import LanguageModel
from attnlab.seeding import torch_generator
from attnlab.sources import (
    entropy_rate,
    fit_table,
    kl_per_state,
    markov_chain,
    random_chain,
    variable_length_chain,
)
from attnlab.teaching import live, markov
from attnlab.teaching.core import CheckFailed, unseen_mistakes
from attnlab.teaching.questions import SELF_CHECK

EXERCISES = {
    "nats_to_bits": (markov.check_nats_to_bits, markov._nats_to_bits,
                     markov.BITS_CASES, markov.BITS_MISTAKES),
    "perplexity": (markov.check_perplexity, markov._perplexity,
                   markov.PERPLEXITY_CASES, markov.PERPLEXITY_MISTAKES),
    "entropy_rate": (markov.check_entropy_rate, entropy_rate,
                     markov.ENTROPY_CASES, markov.ENTROPY_MISTAKES),
    "fit_bigram": (markov.check_fit_bigram, markov._fit_bigram,
                   markov.BIGRAM_CASES, markov.BIGRAM_MISTAKES),
    "oracle_loss": (markov.check_oracle_loss, markov._oracle_loss,
                    markov.ORACLE_CASES, markov.ORACLE_MISTAKES),
}  # fmt: skip
NOTEBOOK_01 = Path(__file__).resolve().parents[1] / "notebooks" / "src" / "01_markov_framing.py"
every_exercise = pytest.mark.parametrize("name", EXERCISES)
chains = st.builds(
    random_chain, st.integers(2, 7), concentration=st.floats(0.2, 3), seed=st.integers(0, 999)
)


@every_exercise
def test_every_mistake_fails_and_is_named_by_its_own_sentence(name):
    _, reference, cases, mistakes = EXERCISES[name]
    assert len(mistakes) >= 3
    assert unseen_mistakes(reference=reference, cases=cases, mistakes=mistakes) == []


@every_exercise
def test_a_right_answer_passes(name, capsys):
    check, reference, cases, _ = EXERCISES[name]
    check(reference)
    assert f"passes {len(cases)} cases" in capsys.readouterr().out


@every_exercise
def test_a_mistake_raises_with_its_sentence(name, capsys):
    check, _, _, mistakes = EXERCISES[name]
    with pytest.raises(CheckFailed) as caught:
        check(mistakes[0].wrong)
    assert mistakes[0].sentence in str(caught.value)
    assert "Not yet" in capsys.readouterr().out


def test_transposed_counts_and_column_sums_are_told_apart(capsys):
    def columns(tokens, n_states):
        counts = np.zeros((n_states, n_states))
        np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
        return counts / counts.sum(axis=0, keepdims=True)

    with pytest.raises(CheckFailed, match="column sums"):
        markov.check_fit_bigram(columns)
    assert "got" in capsys.readouterr().out


def test_adding_one_at_arrays_of_indices_is_told_apart_from_a_wrong_table(capsys):
    def without_repeats(tokens, n_states):
        counts = np.zeros((n_states, n_states))
        counts[tokens[:-1], tokens[1:]] += 1
        totals = counts.sum(axis=1, keepdims=True)
        return np.where(totals > 0, counts / np.maximum(totals, 1), 1 / n_states)

    with pytest.raises(CheckFailed, match="counted once"):
        markov.check_fit_bigram(without_repeats)
    assert "fails the case" in capsys.readouterr().out


def test_the_checks_name_their_own_exercise():
    numbers = {"check_entropy_rate": "1.1", "check_oracle_loss": "1.2", "check_fit_bigram": "1.3"}
    text = NOTEBOOK_01.read_text(encoding="utf-8")
    for name, number in numbers.items():
        assert f"exercise {number}:" in getattr(markov, name).__doc__
        called = text.index(f"\n{name}(")
        assert text.rindex("**Exercise ", 0, called) == text.rindex(
            f"**Exercise {number}**", 0, called
        )


@given(chain=chains, seed=st.integers(0, 999))
@settings(deadline=None, max_examples=25)
def test_the_oracle_of_the_exercise_is_that_of_the_source(chain, seed):
    source = markov_chain(chain)
    tokens = source.sample(53, seed=seed)
    assert np.isclose(markov._oracle_loss(tokens, chain), source.oracle_nats(tokens))


@given(seed=st.integers(0, 999), n_states=st.integers(2, 6))
@settings(deadline=None, max_examples=25)
def test_the_table_of_the_exercise_is_that_of_the_package(seed, n_states):
    tokens = np.random.default_rng(seed).integers(0, n_states, 40)
    mine, theirs = (
        markov._fit_bigram(tokens, n_states),
        fit_table(tokens, order=1, vocab_size=n_states),
    )
    assert np.allclose(mine, theirs.rows)
    assert np.allclose(mine.sum(axis=1), 1)


def test_the_self_check_has_six_questions_with_one_right_answer_each():
    assert len(SELF_CHECK) == 6
    assert all(sum(option.is_right for option in q.options) == 1 for q in SELF_CHECK)


TREE = variable_length_chain("one_long_branch")


def test_states_are_the_leaves_that_the_past_ends_in():
    windows = TREE.sample_windows(7, window_len=11, seed=1)
    states = live.states_of(TREE, windows)
    assert (states[:, : TREE.depth - 1] == -1).all()
    for row, column in np.argwhere(states >= 0):
        context = TREE.contexts[states[row, column]]
        assert tuple(windows[row, column + 1 - len(context) : column + 1]) == context


@given(order=st.integers(0, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_table_rows_are_the_table_looked_up_at_every_prefix(order, seed):
    table = fit_table(TREE.sample(300, seed=seed), order=order, vocab_size=3, pseudo_count=0.1)
    windows = TREE.sample_windows(3, window_len=7, seed=seed)
    rows = live.table_rows(table, windows)
    assert rows.shape == (3, 7, 3)
    for row, column in np.ndindex(3, 7):
        if column + 1 >= order:
            assert np.allclose(rows[row, column], table.predict(windows[row, : column + 1]))


def test_the_truth_has_no_divergence_and_an_even_guess_has_the_known_one():
    windows = TREE.sample_windows(40, window_len=13, seed=2)
    states = live.states_of(TREE, windows)
    even = np.full((*windows.shape, 3), 1 / 3)
    true = np.where(states[..., None] >= 0, TREE.emission[states], 1 / 3)
    names = [TREE.decode(context) for context in TREE.contexts]
    table = live.kl_table({"oracle": true, "table": even}, truth=TREE.emission, states=states,
                          names=names)  # fmt: skip
    assert np.allclose(table[table["name"] == "oracle"]["kl_nats"], 0)
    got = table[table["name"] == "table"].set_index("state")
    want = dict(zip(names, kl_per_state(TREE.emission, np.full((len(names), 3), 1 / 3)),
                    strict=True))  # fmt: skip
    assert all(np.isclose(got.loc[state, "kl_nats"], want[state]) for state in got.index)
    assert np.isclose(got["share"].sum(), 1)


def test_windows_too_short_for_a_state_are_refused():
    states = np.full((2, 3), -1)
    with pytest.raises(AttnlabError, match="longer windows"):
        live.kl_table({}, truth=TREE.emission, states=states, names=[])


def test_mean_rows_average_over_the_prefixes_of_a_state():
    probabilities = np.array([[[0.2, 0.8], [0.4, 0.6], [0.9, 0.1]]])
    rows = live.mean_rows(probabilities, np.array([[1, 1, -1]]), n_states=3)
    assert np.allclose(rows, [[0, 0], [0.3, 0.7], [0, 0]])


def small(mixer: str = "identity") -> ModelConfig:
    return ModelConfig(mixer=mixer, vocab_size=3, context_len=5, d_model=4, n_layers=1, n_heads=2)


def test_predicted_rows_sum_to_one_and_give_the_held_out_loss():
    model = LanguageModel(small(), generator=torch_generator(0, "init"))
    windows = TREE.sample_windows(9, window_len=6, seed=3)
    rows = live.next_token_rows(model, windows[:, :-1])
    assert np.allclose(rows.sum(-1), 1)
    chosen = np.take_along_axis(rows, windows[:, 1:, None], axis=-1)
    assert np.isclose(-np.log(chosen).mean(), live.held_out_nats(model, windows), atol=1e-5)


def test_a_live_training_is_repeatable_and_lowers_the_loss():
    recipe = TrainConfig(n_steps=23, batch_size=7, lr=1e-2, warmup_steps=3)
    train, windows = TREE.sample(700), TREE.sample_windows(30, window_len=6, stream="validation")
    (_, one), (_, two) = (
        live.train_live(small("she"), train=train, held_out=windows, recipe=recipe, every=10)
        for _ in range(2)
    )
    assert one.equals(two)
    assert one["tokens_seen"].tolist() == [0, 350, 700, 805]  # 7 windows of 5 tokens a step
    assert one["loss_nats"].iloc[-1] < one["loss_nats"].iloc[0]
    assert set(one["name"]) == {"she"}
