"""What must hold for variable-length chains, whatever their tree."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.errors import AttnlabError
from attnlab.sources import (
    EXAMPLE_TREES,
    Source,
    entropy_nats,
    fit_table,
    markov_chain,
    variable_length_chain,
)

property_test = settings(deadline=None, max_examples=25, derandomize=True)


@st.composite
def sources(draw, symbols="abc", max_depth=3):
    """A complete tree, split at random, with laws that leave nothing out."""
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    leaves = [""]
    for _ in range(draw(st.integers(0, 4))):
        short = [leaf for leaf in leaves if len(leaf) < max_depth]
        if short:
            leaf = short[generator.integers(len(short))]
            leaves.remove(leaf)
            leaves += [symbol + leaf for symbol in symbols]
    laws = generator.dirichlet(np.ones(len(symbols)), size=len(leaves))
    return variable_length_chain(dict(zip(leaves, laws, strict=True)), symbols=symbols)


def law_of_windows(source, length):
    """Chance of every window, by following every state along every window."""
    law = {}
    for window in product(range(source.vocab_size), repeat=length):
        belief = dict(zip(source.contexts, source.stationary, strict=True))
        for token in window:
            moved = {}
            for context, chance in belief.items():
                emission = source.emission[source.contexts.index(context)]
                past = (*context, token)
                to = next(past[i:] for i in range(len(past) + 1) if past[i:] in belief)
                moved[to] = moved.get(to, 0.0) + chance * emission[token]
            belief = dict.fromkeys(source.contexts, 0.0) | moved
        law[window] = sum(belief.values())
    return law


@given(source=sources())
@property_test
def test_rows_and_shares_sum_to_one(source):
    assert isinstance(source, Source)
    np.testing.assert_allclose(source.emission.sum(axis=1), 1.0, atol=1e-12)
    assert source.stationary.sum() == pytest.approx(1.0, abs=1e-12)


@given(source=sources())
@property_test
def test_chances_of_windows_do_not_depend_on_time(source):
    short, long = law_of_windows(source, 2), law_of_windows(source, 3)

    for window, chance in short.items():
        later = sum(long[first, *window] for first in range(source.vocab_size))
        assert later == pytest.approx(chance, abs=1e-12)


@given(source=sources())
@settings(deadline=None, max_examples=15, derandomize=True)
def test_staircase_is_the_conditional_entropy_of_enumerated_windows(source):
    entropies = [
        entropy_nats(list(law_of_windows(source, length).values())) for length in range(1, 6)
    ]

    for context_len, expected in enumerate(np.diff(entropies, prepend=0.0)):
        assert source.best_loss_nats(context_len=context_len) == pytest.approx(expected, abs=1e-10)


@given(source=sources())
@property_test
def test_staircase_falls_to_the_entropy_rate(source):
    stairs = [source.best_loss_nats(context_len=k) for k in range(source.depth + 3)]

    assert all(np.diff(stairs) <= 1e-12)
    assert stairs[source.depth] == pytest.approx(source.entropy_rate_nats, abs=1e-12)


@given(source=sources(), seed=st.integers(0, 2**16))
@property_test
def test_oracle_is_the_chance_of_the_window_under_the_stationary_law(source, seed):
    law = law_of_windows(source, 5)
    tokens = source.sample(5, seed=seed)

    first = law_of_windows(source, 1)[(int(tokens[0]),)]
    expected = -np.log(law[tuple(tokens.tolist())] / first)
    losses = source.oracle_nats(tokens, per_token=True)
    assert losses.sum() == pytest.approx(expected, abs=1e-10)
    for t in range(1, 5):
        chance = source.predict(tokens[:t])[tokens[t]]
        assert -np.log(chance) == pytest.approx(losses[t - 1], abs=1e-10)


@given(source=sources(), seed=st.integers(0, 2**16))
@property_test
def test_each_step_of_the_staircase_is_the_mean_oracle_loss_at_that_place(source, seed):
    n_windows = 3000
    tokens = source.sample_windows(n_windows, window_len=5, seed=seed)
    losses = source.oracle_nats(tokens, per_token=True)

    error = losses.std(axis=0) / np.sqrt(n_windows)
    for i, mean in enumerate(losses.mean(axis=0)):
        assert abs(mean - source.best_loss_nats(context_len=i + 1)) < 4 * error[i] + 1e-12


@pytest.mark.parametrize("name", EXAMPLE_TREES)
def test_the_mean_oracle_loss_is_the_entropy_rate(name):
    source = variable_length_chain(name)
    losses = source.oracle_nats(source.sample(100_001), per_token=True).reshape(200, -1)

    means = losses.mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert abs(means.mean() - source.entropy_rate_nats) < 4 * error


@given(source=sources(), seed=st.integers(0, 2**16))
@property_test
def test_no_fitted_table_beats_the_oracle_on_fresh_tokens(source, seed):
    train = source.sample(500, seed=seed)
    fresh = source.sample(5001, seed=seed, stream="validation")
    oracle = source.oracle_nats(fresh, per_token=True)

    for order in (1, 2, 3):
        table = fit_table(train, order=order, vocab_size=3, pseudo_count=0.3)
        extra = table.loss_nats(fresh, per_token=True) - oracle[order - 1 :]
        blocks = extra[: len(extra) // 50 * 50].reshape(50, -1).mean(axis=1)
        assert blocks.mean() > -4 * blocks.std() / np.sqrt(50) - 1e-12


def test_a_long_context_matters_in_one_branch_only():
    source = variable_length_chain("one_long_branch")

    def is_settled(text):
        after = [source.predict(source.encode(old + text)) for old in ("a", "b", "c")]
        return np.allclose(after, after[0])

    assert is_settled("a")
    assert is_settled("c")
    assert not is_settled("b")
    assert not is_settled("aab")
    assert source.best_loss_nats(context_len=1) - source.entropy_rate_nats > 0.1


def test_a_tree_of_depth_one_is_a_markov_chain():
    chain = markov_chain("weather")
    laws = dict(zip(chain.symbols, chain.transition, strict=True))
    tree = variable_length_chain(laws, symbols=chain.symbols)

    assert tree.entropy_rate_nats == pytest.approx(chain.entropy_rate_nats, abs=1e-13)
    np.testing.assert_array_equal(tree.sample(101), chain.sample(101))


def test_a_tree_without_memory_is_a_die():
    source = variable_length_chain({"": (0.5, 0.25, 0.25)}, symbols="xyz")

    assert source.entropy_rate_nats == pytest.approx(1.5 * np.log(2))
    assert source.best_loss_nats(context_len=0) == source.entropy_rate_nats


def test_laws_may_name_their_symbols():
    source = variable_length_chain({"a": {"b": 1.0}, "b": {"a": 0.5, "b": 0.5}})

    np.testing.assert_allclose(source.stationary, [1 / 3, 2 / 3])


def test_samples_follow_their_seed_and_streams_differ():
    source = variable_length_chain()

    np.testing.assert_array_equal(source.sample(97, seed=3), source.sample(97, seed=3))
    assert (source.sample(97, seed=3) != source.sample(97, seed=4)).any()
    assert (source.sample(97, seed=3) != source.sample(97, seed=3, stream="validation")).any()
    generator = np.random.default_rng(5)
    assert (source.sample(97, generator=generator) != source.sample(97, generator=generator)).any()


@given(source=sources(), seed=st.integers(0, 2**16))
@property_test
def test_text_reads_back_as_the_same_tokens(source, seed):
    tokens = source.sample(13, seed=seed)

    np.testing.assert_array_equal(source.encode(source.decode(tokens)), tokens)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": (0.5, 0.5), "ab": (0.5, 0.5)}, "ends in 'bb'"),
        ({"a": (0.5, 0.5), "b": (0.5, 0.5), "ab": (0.5, 0.5)}, "'b' is the end of context 'ab'"),
        ({"a": (0.5, 0.6), "b": (0.5, 0.5)}, "'a': row 0 sums to 1.1"),
        ({"a": (0.5,), "b": (0.5, 0.5)}, "1 probabilities for 2 symbols"),
        ({"a": {"c": 1.0}, "b": {"a": 1.0}}, "ends in 'c'"),
        ({}, "empty"),
        ("one_long_brunch", "Did you mean 'one_long_branch'"),
        ({"a": (1, 0), "b": (0, 1)}, "not unique"),
    ],
)
def test_a_tree_that_is_none_is_explained(tree, message):
    with pytest.raises(AttnlabError, match=message):
        variable_length_chain(tree)


def test_wrong_tokens_are_explained():
    source = variable_length_chain()

    with pytest.raises(AttnlabError, match=r"outside 0\.\.2"):
        source.oracle_nats([0, 3])
    with pytest.raises(AttnlabError, match="at least 2 time step"):
        source.oracle_nats([0])
    with pytest.raises(AttnlabError, match="whole numbers"):
        source.oracle_nats([0.5, 1.0])
    with pytest.raises(AttnlabError, match="one sequence"):
        source.predict([[0, 1]])
    with pytest.raises(AttnlabError, match="context_len=-1"):
        source.best_loss_nats(context_len=-1)
    with pytest.raises(AttnlabError, match="n_tokens=0"):
        source.sample(0)
    with pytest.raises(AttnlabError, match="symbol of this source is called 'z'"):
        source.encode("az")
