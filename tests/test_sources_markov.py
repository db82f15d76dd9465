"""Markov chains of fixed and of variable length: closed forms, files, trees, what is refused."""

import json
from itertools import product
from math import log

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
ISLANDS = [[1, 0, 0], [0, 0.5, 0.5], [0, 0.25, 0.75]]
COIN = [[0.5, 0.5], [0.5, 0.5]]


@given(chain=chains, n_states=st.integers(1, 9), stay=st.floats(0, 1), seed=seeds)
@property_test
def test_rows_and_shares_sum_to_one_and_the_oracle_reads_the_matrix(chain, n_states, stay, seed):
    share, ring = stationary(chain), ring_chain(n_states, stay=stay)
    for sums in (chain.sum(axis=1), share.sum(), ring.sum(axis=1), ring.sum(axis=0)):
        np.testing.assert_allclose(sums, 1.0, atol=1e-12)
    np.testing.assert_allclose(share @ chain, share, atol=1e-12)
    source = markov_chain(chain)
    tokens = source.sample_windows(3, window_len=11, seed=seed)
    losses = -np.log(chain[tokens[:, :-1], tokens[:, 1:]])
    np.testing.assert_allclose(source.oracle_nats(tokens, per_token=True), losses, atol=1e-10)


@pytest.mark.parametrize(
    ("chain", "share", "rate"),
    [
        ([[0.9, 0.1], [0.1, 0.9]], [0.5, 0.5], -0.9 * log(0.9) - 0.1 * log(0.1)),
        ([[0.5, 0.5], [1, 0]], [2 / 3, 1 / 3], 2 / 3 * log(2)),  # to come back over both
        ([[0, 1], [1, 0]], [0.5, 0.5], 0),  # periodic
        ([[0.5, 0.5], [0, 1]], [0, 1], 0),  # left for ever
        (np.full((6, 6), 1 / 6), [1 / 6] * 6, log(6)),
        (ring_chain(8, stay=0.25), [1 / 8] * 8, -0.25 * log(0.25) - 0.75 * log(0.375)),
        (ring_chain(8, stay=1.0), None, 0),  # no unique law, and all classes agree
    ],
)
def test_stationary_laws_and_entropy_rates_in_closed_form(chain, share, rate):
    assert entropy_rate(chain) == pytest.approx(rate, abs=1e-13)
    if share is not None:
        np.testing.assert_allclose(stationary(chain), share, atol=1e-14)


def test_the_chains_of_the_lessons_are_there():
    assert {"weather", "vowels", "walk_home"} <= set(list_chains())
    matrix, symbols = load_chain("weather")
    assert symbols == markov_chain("weather").symbols == ["S", "C", "R"]
    np.testing.assert_allclose(markov_chain("weather").transition, matrix, atol=1e-15)


def write_chain(folder, **changes):
    chain = {"description": "A coin.", "states": ["h", "t"], "matrix": COIN}
    chain = {key: value for key, value in (chain | changes).items() if value is not None}
    (folder / "coin.json").write_text(json.dumps(chain))
    return folder / "coin.json"


def test_a_chain_is_made_from_a_matrix_a_name_or_a_file(tmp_path):
    from_file = markov_chain(write_chain(tmp_path))
    assert from_file.entropy_rate_nats == pytest.approx(log(2))
    assert markov_chain(COIN, symbols="ht").symbols == from_file.symbols
    ring = markov_chain("ring", n_states=5, stay=0.5)
    np.testing.assert_array_equal(ring.transition, ring_chain(5, stay=0.5))


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
        markov_chain(write_chain(tmp_path, **changes))


def test_a_file_that_is_missing_or_no_json_is_explained(tmp_path):
    (tmp_path / "torn.json").write_text('{"matrix": [')
    for name, message in (("torn", "not JSON"), ("none", "no chain file")):
        with pytest.raises(AttnlabError, match=message):
            load_chain(tmp_path / f"{name}.json")


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
    generator = np.random.default_rng(draw(seeds))
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


@given(source=sources(), seed=seeds)
@settings(deadline=None, max_examples=15, derandomize=True)
def test_staircase_and_oracle_are_those_of_enumerated_windows(source, seed):
    laws = [law_of_windows(source, length) for length in range(6)]
    entropies = [entropy_nats(list(law.values())) for law in laws]
    stairs = [source.best_loss_nats(context_len=context_len) for context_len in range(5)]
    np.testing.assert_allclose(stairs, np.diff(entropies), atol=1e-10)
    tokens = source.sample(5, seed=seed).tolist()
    chances = [law[tuple(tokens[:t])] for t, law in enumerate(laws)]
    losses = source.oracle_nats(tokens, per_token=True)
    np.testing.assert_allclose(losses, -np.diff(np.log(chances))[1:], atol=1e-10)
    predicted = [source.predict(tokens[:t])[tokens[t]] for t in range(1, 5)]
    np.testing.assert_allclose(losses, -np.log(predicted), atol=1e-10)


def test_a_long_context_matters_in_one_branch_only():
    source = variable_length_chain("one_long_branch")
    for text, is_settled in (("a", True), ("c", True), ("b", False), ("aab", False)):
        after = [source.predict(source.encode(old + text)) for old in "abc"]
        assert np.allclose(after, after[0]) == is_settled, text
    assert source.best_loss_nats(context_len=1) - source.entropy_rate_nats > 0.1


def test_a_tree_may_be_a_markov_chain_or_a_die_and_laws_may_name_their_symbols():
    chain = markov_chain("weather")
    laws = dict(zip(chain.symbols, chain.transition, strict=True))
    tree = variable_length_chain(laws, symbols=chain.symbols)
    assert tree.entropy_rate_nats == pytest.approx(chain.entropy_rate_nats, abs=1e-13)
    np.testing.assert_array_equal(tree.sample(101), chain.sample(101))
    die = variable_length_chain({"": (0.5, 0.25, 0.25)}, symbols="xyz")
    assert die.entropy_rate_nats == pytest.approx(1.5 * log(2))
    assert die.best_loss_nats(context_len=0) == die.entropy_rate_nats
    named = variable_length_chain({"a": {"b": 1.0}, "b": {"a": 0.5, "b": 0.5}})
    np.testing.assert_allclose(named.stationary, [1 / 3, 2 / 3])


HALF = (0.5, 0.5)


@pytest.mark.parametrize(
    ("make", "argument", "message"),
    [
        (stationary, [[0.5, 0.5]], r"shape \(1, 2\)"),
        (stationary, [[0.5, 0.5], [1.0]], "2 rows of lengths 2, 1"),
        (stationary, [[1.5, -0.5], [0.5, 0.5]], "-0.5 in row 0, column 1"),
        (stationary, [[0.5, 0.5], [0.5, 0.4]], "row 1 sums to 0.9"),
        (stationary, [[np.nan, 1.0], [0.5, 0.5]], "nan in row 0"),
        (stationary, [], "square"),
        (stationary, "x", "no table"),
        (stationary, ISLANDS, r"closed classes of states, \[0\] and \[1, 2\]"),
        (entropy_rate, ISLANDS, "not unique"),
        (markov_chain, ISLANDS, "not unique"),
        (load_chain, "wether", "Did you mean 'weather'"),
        (markov_chain, "ring", "needs n_states"),
        (lambda chain: markov_chain(chain, stay=0.5), "weather", "with 'ring' and 'random'"),
        (lambda chain: markov_chain(chain, symbols="h"), COIN, "1 symbols for 2 states"),
        (lambda chain: markov_chain(chain, symbols="hh"), COIN, "more than once"),
        (variable_length_chain, {"a": HALF, "ab": HALF}, "ends in 'bb'"),
        (
            variable_length_chain,
            {"a": HALF, "b": HALF, "ab": HALF},
            "'b' is the end of context 'ab'",
        ),
        (variable_length_chain, {"a": (0.5, 0.6), "b": HALF}, "'a': row 0 sums to 1.1"),
        (variable_length_chain, {"a": (0.5,), "b": HALF}, "1 probabilities for 2 symbols"),
        (variable_length_chain, {"a": {"c": 1.0}, "b": {"a": 1.0}}, "ends in 'c'"),
        (variable_length_chain, {}, "empty"),
        (variable_length_chain, "one_long_brunch", "Did you mean 'one_long_branch'"),
        (variable_length_chain, {"a": (1, 0), "b": (0, 1)}, "not unique"),
    ],
)
def test_what_is_no_chain_is_explained(make, argument, message):
    with pytest.raises(AttnlabError, match=message):
        make(argument)


def test_closed_classes_are_those_never_left():
    assert closed_classes(ISLANDS) == [[0], [1, 2]]
    assert closed_classes([[0.5, 0.5], [0, 1]]) == [[1]]
