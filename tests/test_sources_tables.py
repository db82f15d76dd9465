"""Tables and n-grams: laws counted one by one, floors that no table beats, discounts by hand."""

from collections import defaultdict
from itertools import product

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
    ngram_losses,
    random_chain,
    stationary,
    tales,
)

property_test = settings(deadline=None, max_examples=25, derandomize=True)
VOCAB = 5
tokens = st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=40)
documents = st.lists(tokens, min_size=1, max_size=3)


def count_one_by_one(texts, order):
    """Return how often each token follows each context, as arrays by context."""
    counts = defaultdict(lambda: np.zeros(VOCAB))
    for text in texts:
        for end in range(order, len(text)):
            counts[tuple(text[end - order : end])][text[end]] += 1
    return counts


@given(train=documents, order=st.integers(0, 3), pseudo_count=st.sampled_from([0.0, 0.5]))
@property_test
def test_a_table_is_counted_within_rows_and_predicts_the_unseen_evenly(train, order, pseudo_count):
    shortest = min(map(len, train))
    order, batch = min(order, shortest - 1), [text[:shortest] for text in train]
    table = fit_table(batch, order=order, vocab_size=VOCAB, pseudo_count=pseudo_count)
    counts = count_one_by_one(batch, order)

    def law(context):
        n = counts.get(tuple(context), np.zeros(VOCAB)) + pseudo_count
        return n / n.sum() if n.any() else np.full(VOCAB, 1 / VOCAB)

    laws = [law(context) for context in product(range(VOCAB), repeat=order)]
    np.testing.assert_allclose(table.rows, laws, atol=1e-12)
    assert table.n_contexts == len(counts)
    np.testing.assert_allclose(table.predict(batch[0]), law(batch[0][shortest - order :]))
    fresh = [*batch[0], 0, 1, 2]
    ends = range(max(order, 1), len(fresh))  # the first token of a window is never scored
    with np.errstate(divide="ignore"):
        losses = [-np.log(law(fresh[end - order : end])[fresh[end]]) for end in ends]
    np.testing.assert_allclose(table.loss_nats(fresh, per_token=True), losses, atol=1e-12)
    assert table.loss_nats([fresh]) == pytest.approx(np.mean(losses), abs=1e-12)


@given(train=documents, order=st.integers(1, 4))
@property_test
def test_the_floor_is_the_loss_of_the_best_table_on_its_own_text(train, order):
    order = min(order, max(map(len, train)))
    counts = np.array(list(count_one_by_one(train, order - 1).values()))
    share = counts / counts.sum(axis=1, keepdims=True)
    floor = -(counts * np.log(np.where(share > 0, share, 1))).sum() / counts.sum()
    assert context_floors(train, vocab_size=VOCAB, orders=[order])[order] == pytest.approx(floor)


@given(n_states=st.integers(1, 7), seed=st.integers(0, 2**16))
@property_test
def test_weighted_kl_is_expected_loss_minus_entropy_rate(n_states, seed):
    chain, model = random_chain(n_states, seed=seed), random_chain(n_states, seed=seed + 1)
    share = stationary(chain)
    expected_loss = share @ -(chain * np.log(model)).sum(axis=1)
    gap = share @ kl_per_state(chain, model)
    assert gap == pytest.approx(expected_loss - entropy_rate(chain), abs=1e-10)
    assert (kl_per_state(chain, chain) < 1e-12).all()


def test_kl_is_infinite_where_excluded_and_averaged_over_the_places_of_each_state():
    assert kl_per_state([[0.5, 0.5], [1, 0]], [[1, 0], [1, 0]]).tolist() == [np.inf, 0]
    truth, even, sure = [[0.5, 0.5], [0.25, 0.75], [1, 0]], [0.5, 0.5], [0.25, 0.75]
    states = np.array([[0, 1, -1], [1, 0, 0]])
    model = np.array([[even, even, [1, 0]], [sure, sure, even]])
    kl = kl_per_state(truth, model, states=states)
    from_even, to_even = kl_per_state([sure, even], [even, sure])
    np.testing.assert_allclose(kl, [to_even / 3, from_even / 2, np.nan], atol=1e-12)


# n-grams


def chances(train, test, order, **options):
    """Return the chance of each predicted token of the test documents under one order."""
    losses = ngram_losses(train, test=test, orders=[order], per_token=True, **options)
    return np.exp(-losses[order])


@given(train=documents, context=tokens, order=st.integers(1, 4), window=st.integers(1, 5))
@property_test
def test_chances_of_the_next_token_sum_to_one(train, context, order, window):
    for window_len in (None, window):
        options = {"vocab_size": VOCAB, "window_len": window_len}
        nexts = [chances(train, [[*context, t]], order, **options)[-1] for t in range(VOCAB)]
        assert sum(nexts) == pytest.approx(1.0)
        assert min(nexts) > 0


Y = 4 / (4 + 2 * 3)  # of four tokens seen once, three seen twice


@pytest.mark.parametrize(
    ("counts", "discounts"),
    [
        ([2, 1], (0.5, 0.5, 0.5)),  # counts of counts are short
        ([1] * 4 + [2] * 3 + [3] * 2 + [4], (1 - 2 * Y * 3 / 4, 2 - 3 * Y * 2 / 3, 3 - 4 * Y / 2)),
        ([1, 2, *[3] * 8, 4], (1 / 3, 0.05, 3 - 4 / 3 / 8)),  # 2 - 3 y 8 would be negative
    ],
)
def test_discounts_are_those_of_chen_and_goodman(counts, discounts):
    n_seen, vocab_size = len(counts), len(counts) + 1
    tests = [[0, token] for token in range(vocab_size)]
    spared = np.array([discounts[min(count, 3) - 1] for count in counts])
    shares = np.append(counts - spared, 0) / sum(counts) + spared.sum() / sum(counts) / vocab_size
    train = [np.repeat(np.arange(n_seen), counts)]
    np.testing.assert_allclose(chances(train, tests, 1, vocab_size=vocab_size), shares)


def test_a_bigram_counts_different_predecessors_and_crosses_no_document():
    # after the unseen context 2 the law is the continuation law: 1 follows 0 only, 0 follows 1, 2
    train = [[2, 0, 1, 0, 1, 0, 1]]
    zero, one = chances(train, [[3, 0], [3, 1]], 2, vocab_size=4)
    assert zero > one  # although 1 is as frequent as 0
    (apart,) = chances([[0, 1], [0, 1]], [[1, 0]], 2, vocab_size=3)
    (joined,) = chances([[0, 1, 0, 1]], [[1, 0]], 2, vocab_size=3)
    assert apart < joined  # only the joined text has 0 after 1


def test_more_context_helps_unless_a_window_hides_it_and_never_beats_the_source():
    source = tales("small")
    train, test = source.sample(30_001, seed=0), source.sample(3001, seed=1)
    options = {"test": [test], "vocab_size": source.vocab_size, "orders": [1, 2, 3]}
    losses = ngram_losses([train], **options)
    assert source.oracle_nats(test) < losses[3] < losses[2] < losses[1]
    blind = ngram_losses([train], window_len=1, per_token=True, **options)
    np.testing.assert_allclose(blind[3], blind[2])
    assert blind[2].mean() == pytest.approx(losses[2])


def test_every_token_but_the_first_of_each_document_is_scored():
    tests = [[0, 1, 2], [1], [2, 2]]
    assert [len(chances([[0, 1, 2]], tests, n, vocab_size=3)) for n in (1, 3)] == [3, 3]


def table_of(tokens=(0, 1), **options):
    return fit_table(tokens, **{"order": 1, "vocab_size": 2} | options)


def ngrams_of(train=((0, 1),), orders=(1,)):
    return ngram_losses(train, test=[[0, 1]], vocab_size=3, orders=orders)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: table_of(order=-1), "order=-1"),
        (lambda: table_of(pseudo_count=-1), "pseudo_count=-1"),
        (lambda: table_of([0, 2]), "Token 2 is outside 0"),
        (lambda: table_of(range(9), order=2, vocab_size=5000).rows, "does not fit"),
        (lambda: kl_per_state([[1.0]], [[0.5, 0.5]]), "same table"),
        (lambda: kl_per_state([[1.0]], [[[1.0]]], states=[0]), "same table"),
        (lambda: ngrams_of([[0, 9]]), "vocab_size"),
        (lambda: ngrams_of([[0, -1]]), "vocab_size"),
        (lambda: ngrams_of([]), "no document"),
        (lambda: ngrams_of(orders=[0]), "orders"),
        (lambda: ngrams_of(orders=[]), "orders"),
    ],
)
def test_impossible_requests_are_explained(ask, message):
    with pytest.raises(AttnlabError, match=message):
        ask()
