"""Tables and n-grams: laws that sum to one, floors that no table beats, counting done by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.errors import AttnlabError
from attnlab.sources import (
    context_floors,
    entropy_rate,
    fit_table,
    kl_per_state,
    markov_chain,
    ngram_losses,
    random_chain,
    stationary,
    tales,
)

property_test = settings(deadline=None, max_examples=25, derandomize=True)
seeds = st.integers(0, 2**16)
VOCAB = 5
tokens = st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=40)
documents = st.lists(tokens, min_size=1, max_size=3)


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


@given(n_states=st.integers(1, 7), seed=seeds)
@property_test
def test_weighted_kl_is_expected_loss_minus_entropy_rate(n_states, seed):
    chain, model = random_chain(n_states, seed=seed), random_chain(n_states, seed=seed + 1)
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


def test_kl_of_predictions_is_averaged_over_the_places_of_each_state():
    truth, even, sure = [[0.5, 0.5], [0.25, 0.75], [1, 0]], [0.5, 0.5], [0.25, 0.75]
    states = np.array([[0, 1, -1], [1, 0, 0]])
    model = np.array([[even, even, [1, 0]], [sure, sure, even]])
    kl = kl_per_state(truth, model, states=states)
    from_even, to_even = kl_per_state([sure, even], [even, sure])
    np.testing.assert_allclose(kl, [to_even / 3, from_even / 2, np.nan], atol=1e-12)
    with pytest.raises(AttnlabError, match="same table"):
        kl_per_state(truth, model, states=states[:, :2])


# n-grams


def chance_of_last(train, context, token, order, **options):
    losses = ngram_losses(
        train, test=[[*context, token]], vocab_size=VOCAB, orders=[order], per_token=True, **options
    )
    return np.exp(-losses[order][-1])


@given(train=documents, context=tokens, order=st.integers(1, 4), window=st.integers(1, 5))
def test_chances_of_the_next_token_sum_to_one(train, context, order, window):
    for options in ({}, {"window_len": window}):
        chances = [chance_of_last(train, context, t, order, **options) for t in range(VOCAB)]
        assert np.isclose(sum(chances), 1.0)
        assert min(chances) > 0


@given(train=documents, order=st.integers(1, 4))
def test_the_floor_is_the_loss_of_the_best_table_on_its_own_text(train, order):
    long = [d for d in train if len(d) >= order]
    if not long:
        return
    counts, terms = 0, 0.0
    by_context: dict[tuple, list[int]] = {}
    for document in long:
        for end in range(order - 1, len(document)):
            by_context.setdefault(tuple(document[end - order + 1 : end]), []).append(document[end])
    for followers in by_context.values():
        share = np.bincount(followers) / len(followers)
        terms += sum(-np.log(share[token]) for token in followers)
        counts += len(followers)
    floor = context_floors(train, vocab_size=VOCAB, orders=[order])[order]
    assert np.isclose(floor, terms / counts)


def test_the_floor_equals_the_fitted_table_of_the_sources():
    text = tales("small").sample(3001, seed=3)
    for order in (2, 3):
        table = fit_table(text, order=order - 1, vocab_size=tales("small").vocab_size)
        floor = context_floors([text], vocab_size=tales("small").vocab_size, orders=[order])
        assert np.isclose(floor[order], table.loss_nats(text))


def test_a_unigram_by_hand():
    # a a b: counts of counts are short, so each count loses one half: P(a) = 1.5/3 + (1/3)(1/2)
    loss = ngram_losses([[0, 0, 1]], test=[[1, 0]], vocab_size=2, orders=[1])[1]
    assert np.isclose(np.exp(-loss), 1.5 / 3 + (2 * 0.5 / 3) / 2)


def test_discounts_are_those_of_chen_and_goodman():
    # how often tokens 0 to 9 occur: four once, three twice, two thrice, one four times
    counts = [1, 1, 1, 1, 2, 2, 2, 3, 3, 4]
    train = [np.repeat(np.arange(10), counts)]
    y = 4 / (4 + 2 * 3)
    discounts = {1: 1 - 2 * y * 3 / 4, 2: 2 - 3 * y * 2 / 3, 3: 3 - 4 * y * 1 / 2}
    spared = [discounts[min(count, 3)] for count in counts]
    losses = ngram_losses(
        train, test=[[0, token] for token in range(11)], vocab_size=12, orders=[1], per_token=True
    )
    left = sum(spared) / sum(counts) / 12
    shares = [(c - d) / sum(counts) for c, d in zip(counts, spared, strict=True)]
    np.testing.assert_allclose(np.exp(-losses[1]), np.array([*shares, 0]) + left)


def test_no_discount_falls_below_a_twentieth():
    counts = [1, 2, *[3] * 8, 4]  # y = 1/3, so the formula gives 2 - 3 y 8 < 0 for a count of two
    train, n = [np.repeat(np.arange(11), counts)], sum(counts)
    (loss,) = ngram_losses(train, test=[[0, 1]], vocab_size=11, orders=[1]).values()
    left = (1 / 3 + 0.05 + 9 * (3 - 4 / 3 / 8)) / n / 11
    assert np.isclose(np.exp(-loss), (2 - 0.05) / n + left)


def test_a_bigram_counts_different_predecessors_below_the_top():
    # after the unseen context 2 the law is the continuation law: 1 follows 0 only, 0 follows 1, 2
    train = [[2, 0, 1, 0, 1, 0, 1]]
    after_new = [
        np.exp(-ngram_losses(train, test=[[3, t]], vocab_size=4, orders=[2])[2]) for t in range(4)
    ]
    assert after_new[0] > after_new[1]  # although 1 is as frequent as 0


def test_no_ngram_crosses_a_document():
    apart = ngram_losses([[0, 1], [0, 1]], test=[[1, 0]], vocab_size=3, orders=[2])[2]
    joined = ngram_losses([[0, 1, 0, 1]], test=[[1, 0]], vocab_size=3, orders=[2])[2]
    assert joined < apart  # only the joined text has 0 after 1


def test_a_window_of_one_token_makes_every_order_a_bigram():
    source = tales("small")
    train, test = source.sample(4001, seed=0), source.sample(501, seed=1)
    losses = ngram_losses(
        [train],
        test=[test],
        vocab_size=source.vocab_size,
        orders=[2, 4],
        window_len=1,
        per_token=True,
    )
    np.testing.assert_allclose(losses[4], losses[2])


def test_more_context_helps_on_text_that_has_it_and_never_beats_the_source():
    source = tales("small")
    train, test = source.sample(30_001, seed=0), source.sample(3001, seed=1)
    losses = ngram_losses([train], test=[test], vocab_size=source.vocab_size, orders=[1, 2, 3])
    assert losses[3] < losses[2] < losses[1]
    assert losses[3] > source.oracle_nats(test)


def test_every_token_but_the_first_of_each_document_is_scored():
    losses = ngram_losses(
        [[0, 1, 2]], test=[[0, 1, 2], [1], [2, 2]], vocab_size=3, orders=[1, 3], per_token=True
    )
    assert {order: len(values) for order, values in losses.items()} == {1: 3, 3: 3}


@pytest.mark.parametrize(
    ("train", "orders", "words"),
    [
        ([[0, 9]], [1], "vocab_size"),
        ([[0, -1]], [1], "vocab_size"),
        ([], [1], "no document"),
        ([[0, 1]], [0], "orders"),
        ([[0, 1]], [], "orders"),
    ],
)
def test_impossible_requests_are_explained(train, orders, words):
    with pytest.raises(AttnlabError, match=words):
        ngram_losses(train, test=[[0, 1]], vocab_size=3, orders=orders)
