"""N-grams: laws that sum to one, floors that no table beats, and counting done by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlab.errors import AttnlabError
from attnlab.sources import context_floors, fit_table, ngram_losses, tales

VOCAB = 5
tokens = st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=40)
documents = st.lists(tokens, min_size=1, max_size=3)


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
