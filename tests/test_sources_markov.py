"""Markov chains of fixed and of variable length: closed forms, files, trees, what is refused."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.errors import AttnlabError
from attnlab.sources import (
    closed_classes,
    entropy_nats,
    entropy_rate,
    list_chains,
    load_chain,
    markov_chain,
    random_chain,
    ring_chain,
    stationary,
    variable_length_chain,
)

property_test = settings(deadline=None, max_examples=25, derandomize=True)
seeds = st.integers(0, 2**16)
chains = st.builds(random_chain, st.integers(1, 7), concentration=st.floats(0.2, 3.0), seed=seeds)


@given(chain=chains, n_states=st.integers(1, 9), stay=st.floats(0, 1))
@property_test
def test_rows_and_shares_sum_to_one_and_stay(chain, n_states, stay):
    np.testing.assert_allclose(chain.sum(axis=1), 1.0, atol=1e-12)
    share = stationary(chain)
    assert share.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(share @ chain, share, atol=1e-12)
    ring = ring_chain(n_states, stay=stay)
    np.testing.assert_allclose(ring.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(ring.sum(axis=0), 1.0, atol=1e-12)


@pytest.mark.parametrize(
    ("chain", "share"),
    [
        ([[0.7, 0.3], [0.2, 0.8]], [0.4, 0.6]),  # the chance to come back over the sum of both
        ([[0, 1], [1, 0]], [0.5, 0.5]),  # periodic
        ([[0.5, 0.5], [0, 1]], [0, 1]),  # left for ever
    ],
)
def test_stationary_laws_in_closed_form(chain, share):
    np.testing.assert_allclose(stationary(chain), share, atol=1e-14)


@pytest.mark.parametrize(
    ("chain", "rate"),
    [
        (ring_chain(8, stay=0.25), -0.25 * np.log(0.25) - 0.75 * np.log(0.375)),
        (np.full((6, 6), 1 / 6), np.log(6)),
        ([[0, 1], [1, 0]], 0),
        (ring_chain(8, stay=1.0), 0),  # no unique law, and all classes agree
    ],
)
def test_entropy_rates_in_closed_form(chain, rate):
    assert entropy_rate(chain) == pytest.approx(rate, abs=1e-13)


def test_closed_classes_are_named_when_the_law_is_not_unique():
    two_islands = [[1, 0, 0], [0, 0.5, 0.5], [0, 0.25, 0.75]]

    assert closed_classes(two_islands) == [[0], [1, 2]]
    with pytest.raises(AttnlabError, match=r"closed classes of states, \[0\] and \[1, 2\]"):
        stationary(two_islands)
    with pytest.raises(AttnlabError, match="not unique"):
        entropy_rate(two_islands)
    with pytest.raises(AttnlabError, match="not unique"):
        markov_chain(two_islands)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.5, 0.5]], r"shape \(1, 2\)"),
        ([[0.5, 0.5], [1.0]], "2 rows of lengths 2, 1"),
        ([[1.5, -0.5], [0.5, 0.5]], "-0.5 in row 0, column 1"),
        ([[0.5, 0.5], [0.5, 0.4]], "row 1 sums to 0.9"),
        ([[np.nan, 1.0], [0.5, 0.5]], "nan in row 0"),
        ([], "square"),
        ("x", "no table"),
    ],
)
def test_a_matrix_that_is_none_is_explained(matrix, message):
    with pytest.raises(AttnlabError, match=message):
        stationary(matrix)


def test_the_chains_of_the_lessons_are_there():
    assert {"weather", "vowels", "walk_home"} <= set(list_chains())
    matrix, symbols = load_chain("weather")
    assert symbols == markov_chain("weather").symbols == ["S", "C", "R"]
    np.testing.assert_allclose(markov_chain("weather").transition, matrix, atol=1e-15)


def write_chain(path, **changes):
    chain = {"description": "A coin.", "states": ["h", "t"], "matrix": [[0.5, 0.5], [0.5, 0.5]]}
    chain = {key: value for key, value in (chain | changes).items() if value is not None}
    path.write_text(json.dumps(chain))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"matrix": [[0.5, 0.5], [0.5, 0.6]]}, "chain 'coin': row 1 sums to 1.1"),
        ({"matrix": [[0.5, 0.5], [0.5]]}, "lengths 2, 1"),
        ({"states": ["h"]}, "names 1 states for 2 rows"),
        ({"symbols": ["h", "t", "e"]}, "names 3 symbols"),
        ({"description": None}, "lacks 'description'"),
        ({"matrix": [[1, 0], [0, 1]]}, "not unique"),
    ],
)
def test_a_wrong_chain_file_is_explained(tmp_path, changes, message):
    with pytest.raises(AttnlabError, match=message):
        markov_chain(write_chain(tmp_path / "coin.json", **changes))


def test_a_file_that_is_missing_or_no_json_is_explained(tmp_path):
    (tmp_path / "torn.json").write_text('{"matrix": [')

    with pytest.raises(AttnlabError, match="not JSON"):
        load_chain(tmp_path / "torn.json")
    with pytest.raises(AttnlabError, match="no chain file"):
        load_chain(tmp_path / "none.json")
    with pytest.raises(AttnlabError, match="Did you mean 'weather'"):
        load_chain("wether")


def test_a_chain_is_made_from_a_matrix_a_name_or_a_file(tmp_path):
    from_file = markov_chain(write_chain(tmp_path / "coin.json"))

    assert from_file.entropy_rate_nats == pytest.approx(np.log(2))
    assert markov_chain([[0.5, 0.5], [0.5, 0.5]], symbols="ht").symbols == from_file.symbols
    np.testing.assert_array_equal(
        markov_chain("ring", n_states=5, stay=0.5).transition, ring_chain(5, stay=0.5)
    )
    with pytest.raises(AttnlabError, match="needs n_states"):
        markov_chain("ring")
    with pytest.raises(AttnlabError, match="go with 'ring' and 'random'"):
        markov_chain("weather", stay=0.5)
    with pytest.raises(AttnlabError, match="1 symbols for 2 states"):
        markov_chain([[0.5, 0.5], [0.5, 0.5]], symbols="h")
    with pytest.raises(AttnlabError, match="more than once"):
        markov_chain([[0.5, 0.5], [0.5, 0.5]], symbols="hh")


@given(chain=chains, seed=seeds)
@property_test
def test_oracle_is_the_log_of_the_matrix_entries(chain, seed):
    source = markov_chain(chain)
    tokens = source.sample_windows(3, window_len=11, seed=seed)

    expected = -np.log(chain[tokens[:, :-1], tokens[:, 1:]])
    np.testing.assert_allclose(source.oracle_nats(tokens, per_token=True), expected, atol=1e-10)
    assert source.oracle_nats(tokens) == pytest.approx(expected.mean(), abs=1e-10)
    assert source.oracle_nats(tokens[0]) == pytest.approx(expected[0].mean(), abs=1e-10)


def test_an_impossible_step_costs_infinitely_much_and_only_itself():
    source = markov_chain("walk_home")
    tokens = source.encode("home school home home school")

    losses = source.oracle_nats(tokens, per_token=True)
    assert np.isinf(losses).tolist() == [False, False, True, False]
    assert source.oracle_nats(tokens) == np.inf


# trees


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
@settings(deadline=None, max_examples=15, derandomize=True)
def test_staircase_is_the_conditional_entropy_of_enumerated_windows(source):
    entropies = [
        entropy_nats(list(law_of_windows(source, length).values())) for length in range(1, 6)
    ]

    for context_len, expected in enumerate(np.diff(entropies, prepend=0.0)):
        assert source.best_loss_nats(context_len=context_len) == pytest.approx(expected, abs=1e-10)


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
