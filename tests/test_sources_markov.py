"""What must hold for finite Markov chains and tables of counts."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.errors import AttnlabError
from attnlab.sources import (
    Source,
    closed_classes,
    entropy_nats,
    entropy_rate,
    fit_table,
    kl_per_state,
    list_chains,
    load_chain,
    markov_chain,
    random_chain,
    ring_chain,
    stationary,
)

property_test = settings(deadline=None, max_examples=25, derandomize=True)
seeds = st.integers(0, 2**16)
chains = st.builds(
    random_chain,
    st.integers(1, 7),
    concentration=st.floats(0.2, 3.0),
    seed=seeds,
)


@given(chain=chains)
@property_test
def test_rows_of_a_random_chain_sum_to_one(chain):
    np.testing.assert_allclose(chain.sum(axis=1), 1.0, atol=1e-12)


@given(n_states=st.integers(1, 9), stay=st.floats(0, 1))
@property_test
def test_rows_and_columns_of_a_ring_sum_to_one(n_states, stay):
    chain = ring_chain(n_states, stay=stay)

    np.testing.assert_allclose(chain.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(chain.sum(axis=0), 1.0, atol=1e-12)


@given(chain=chains)
@property_test
def test_stationary_law_is_stationary(chain):
    share = stationary(chain)

    assert share.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(share @ chain, share, atol=1e-12)


def test_stationary_law_of_a_two_state_chain_is_the_closed_form():
    leave, come_back = 0.3, 0.2
    chain = [[1 - leave, leave], [come_back, 1 - come_back]]

    expected = np.array([come_back, leave]) / (leave + come_back)
    np.testing.assert_allclose(stationary(chain), expected, atol=1e-14)


def test_a_periodic_chain_has_a_stationary_law_and_no_entropy():
    there_and_back = [[0, 1], [1, 0]]

    np.testing.assert_allclose(stationary(there_and_back), [0.5, 0.5])
    assert entropy_rate(there_and_back) == 0


def test_a_state_that_is_left_for_ever_has_no_share():
    np.testing.assert_allclose(stationary([[0.5, 0.5], [0, 1]]), [0, 1])


def test_entropy_rate_of_a_ring_is_the_closed_form():
    stay = 0.25
    step = (1 - stay) / 2

    expected = -stay * np.log(stay) - 2 * step * np.log(step)
    assert entropy_rate(ring_chain(8, stay=stay)) == pytest.approx(expected, abs=1e-13)


def test_entropy_rate_of_a_fair_die_is_the_log_of_its_faces():
    assert entropy_rate(np.full((6, 6), 1 / 6)) == pytest.approx(np.log(6), abs=1e-13)


def test_entropy_rate_needs_no_unique_law_where_all_classes_agree():
    assert entropy_rate(ring_chain(8, stay=1.0)) == 0


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


@pytest.mark.parametrize("name", list_chains())
def test_named_chains_load_and_describe_themselves(name):
    chain = load_chain(name)

    assert len(chain.states) == len(chain.symbols) == len(np.asarray(chain))
    assert chain.description.endswith(".")
    np.testing.assert_allclose(stationary(chain), markov_chain(name).stationary)


def test_the_chains_of_the_lessons_are_there():
    assert {"weather", "vowels", "walk_home"} <= set(list_chains())


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
        load_chain(write_chain(tmp_path / "coin.json", **changes))


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


@given(chain=chains)
@property_test
def test_the_staircase_has_one_step(chain):
    source = markov_chain(chain)

    assert isinstance(source, Source)
    blind = entropy_nats(stationary(chain))
    assert source.best_loss_nats(context_len=0) == pytest.approx(blind, abs=1e-12)
    for context_len in (1, 2, 5):
        loss = source.best_loss_nats(context_len=context_len)
        assert loss == pytest.approx(entropy_rate(chain), abs=1e-12)


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


@given(chain=chains, seed=seeds)
@property_test
def test_a_sample_visits_states_as_often_as_the_stationary_law_says(chain, seed):
    n_windows = 4000
    tokens = markov_chain(chain).sample_windows(n_windows, window_len=3, seed=seed)

    share = stationary(chain)
    error = np.sqrt(share * (1 - share) / n_windows) + 1e-12
    for column in tokens.T:
        seen = np.bincount(column, minlength=len(chain)) / n_windows
        assert (np.abs(seen - share) < 5 * error + 1 / n_windows).all()


@given(seed=seeds)
@property_test
def test_no_fitted_table_beats_the_oracle_on_fresh_tokens(seed):
    source = markov_chain("random", n_states=5, concentration=0.5, seed=seed)
    train = source.sample(2000, seed=seed)
    fresh = source.sample(20_000, seed=seed, stream="validation")
    oracle = source.oracle_nats(fresh, per_token=True)

    for order in (0, 1, 2):
        table = fit_table(train, order=order, vocab_size=5, pseudo_count=0.1)
        extra = table.loss_nats(fresh, per_token=True) - oracle[max(order, 1) - 1 :]
        blocks = extra[: len(extra) // 100 * 100].reshape(100, -1).mean(axis=1)
        assert blocks.mean() > -4 * blocks.std() / 10


@given(seed=seeds)
@property_test
def test_the_maximum_likelihood_table_beats_the_oracle_on_its_own_tokens(seed):
    source = markov_chain("random", n_states=4, seed=seed)
    tokens = source.sample(500, seed=seed)

    table = fit_table(tokens, order=1, vocab_size=4)
    assert table.loss_nats(tokens) <= source.oracle_nats(tokens) + 1e-12


@given(order=st.integers(0, 3), seed=seeds, pseudo_count=st.sampled_from([0.0, 0.5]))
@property_test
def test_rows_of_a_table_sum_to_one(order, seed, pseudo_count):
    tokens = np.random.default_rng(seed).integers(0, 3, size=(2, 7))
    table = fit_table(tokens, order=order, vocab_size=3, pseudo_count=pseudo_count)

    assert table.rows.shape == (3**order, 3)
    np.testing.assert_allclose(table.rows.sum(axis=1), 1.0, atol=1e-12)
    assert table.predict(tokens[0]).sum() == pytest.approx(1.0)


def test_a_table_counts_what_follows_what():
    the, cat, hat = 0, 1, 2
    table = fit_table([the, cat, the, hat, the, cat], order=1, vocab_size=3)

    np.testing.assert_allclose(table.rows, [[0, 2 / 3, 1 / 3], [1, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(table.predict([hat, the]), [0, 2 / 3, 1 / 3])
    expected = (2 * np.log(3 / 2) + np.log(3) + 0 + 0) / 5
    assert table.loss_nats([the, cat, the, hat, the, cat]) == pytest.approx(expected)
    assert table.loss_nats([cat, hat]) == np.inf


def test_a_context_never_seen_is_predicted_evenly():
    table = fit_table([0, 1, 0, 1], order=1, vocab_size=4)

    np.testing.assert_allclose(table.predict([3]), [0.25] * 4)


def test_contexts_do_not_cross_the_rows_of_a_batch():
    table = fit_table([[0, 1], [2, 0]], order=1, vocab_size=3)

    np.testing.assert_allclose(table.predict([1]), [1 / 3] * 3)


@given(chain=chains, seed=seeds)
@property_test
def test_weighted_kl_is_expected_loss_minus_entropy_rate(chain, seed):
    model = random_chain(len(chain), seed=seed)
    share = stationary(chain)

    expected_loss = share @ -(chain * np.log(model)).sum(axis=1)
    gap = share @ kl_per_state(chain, model)
    assert gap == pytest.approx(expected_loss - entropy_rate(chain), abs=1e-10)
    assert (kl_per_state(chain, chain) < 1e-12).all()


def test_kl_is_infinite_where_the_model_excludes_what_happens():
    assert kl_per_state([[0.5, 0.5], [1, 0]], [[1, 0], [1, 0]]).tolist() == [np.inf, 0]


def test_wrong_arguments_of_tables_are_explained():
    with pytest.raises(AttnlabError, match="order=-1"):
        fit_table([0, 1], order=-1, vocab_size=2)
    with pytest.raises(AttnlabError, match="pseudo_count"):
        fit_table([0, 1], order=1, vocab_size=2, pseudo_count=-1)
    with pytest.raises(AttnlabError, match="Token 2 is outside 0"):
        fit_table([0, 2], order=1, vocab_size=2)
    with pytest.raises(AttnlabError, match="does not fit"):
        _ = fit_table(np.arange(9), order=2, vocab_size=5000).rows
    with pytest.raises(AttnlabError, match="same table"):
        kl_per_state([[1.0]], [[0.5, 0.5]])
