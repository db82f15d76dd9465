"""Chains in context: the best reader's loss against sums over all rows and over all chains."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from attnlab.errors import AttnlabError
from attnlab.sources import ChainsInContext
from attnlab.sources.in_context import _digamma


def rows(source, n=300, seed=0):
    return source.draw(n, generator=np.random.default_rng(seed))


def counted_naive(source, row, order):
    """The best reader's losses with a dictionary of counts, one token after the other."""
    v, pairs, singles, losses = source.n_symbols, Counter(), Counter(), []
    for t in range(len(row)):
        context = tuple(row[t - order : t]) if t >= order else None
        if context is None:
            p = 1 / v
        else:
            p = (pairs[context, row[t]] + source.alpha) / (singles[context] + v * source.alpha)
            pairs[context, row[t]] += 1
            singles[context] += 1
        losses.append(-math.log(p))
    return losses[1:]


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("source_order", [0, 1, 2])
def test_the_counting_readers_are_those_of_the_slow_way(order, source_order):
    source = ChainsInContext(n_symbols=3, order=source_order, alpha=0.4, time=12)
    tokens = rows(source, 40)
    slow = [counted_naive(source, row.tolist(), order) for row in tokens]
    assert source.counting_nats(tokens, order=order) == pytest.approx(np.array(slow))


def test_the_losses_of_a_row_sum_to_its_chance_integrated_over_all_chains():
    source = ChainsInContext(n_symbols=2, order=1, alpha=1.5, time=6)
    grid = (np.arange(4000) + 0.5) / 4000  # P(stay) of each state
    density = grid**0.5 * (1 - grid) ** 0.5
    density /= density.sum()
    for row in rows(source, 10):
        chance = 0.5  # of the first symbol
        for state in (0, 1):
            after = row[1:][row[:-1] == state]
            zeros, ones = (after == 0).sum(), (after == 1).sum()
            chance *= (density * grid**zeros * (1 - grid) ** ones).sum()
        total = source.oracle_nats(row[None]).sum() + math.log(2)
        assert total == pytest.approx(-math.log(chance), rel=1e-5)


@pytest.mark.parametrize(("order", "v", "time"), [(0, 3, 4), (1, 2, 6), (1, 3, 4), (2, 2, 6)])
def test_the_reader_s_chances_sum_to_one_and_no_count_reads_better(order, v, time):
    source = ChainsInContext(n_symbols=v, order=order, alpha=0.5, time=time)
    every = np.array(list(itertools.product(range(v), repeat=time + 1)))
    losses = source.oracle_nats(every)
    chance = np.exp(-losses.sum(1)) / v
    assert chance.sum() == pytest.approx(1)
    best = (chance[:, None] * losses).sum(0)  # expected, by position, over all rows
    for other in {0, 1, 2} - {order}:
        worse = (chance[:, None] * source.counting_nats(every, order=other)).sum(0)
        assert (worse >= best - 1e-12).all()
        assert worse.sum() > best.sum() + 1e-3
    # drawn through chains, rows come as often as the reader's chances say
    drawn = rows(source, 20_000)
    numbers = (drawn * v ** np.arange(time + 1)).sum(1)
    names = (every * v ** np.arange(time + 1)).sum(1)
    share = np.array([(numbers == n).mean() for n in names])
    assert np.abs(share - chance).max() < 4 * math.sqrt(0.25 / 20_000)
    assert source.oracle_nats(drawn).mean(0) == pytest.approx(best, abs=0.02)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_the_closed_form_after_n_observations_is_the_sum_over_all_of_them(alpha):
    source = ChainsInContext(n_symbols=3, order=0, alpha=alpha, time=5)
    every = np.array(list(itertools.product(range(3), repeat=6)))
    losses = source.oracle_nats(every)
    chance = np.exp(-losses.sum(1)) / 3
    expected = [source.expected_nats(n_seen=n) for n in range(1, 6)]
    assert (chance[:, None] * losses).sum(0) == pytest.approx(np.array(expected))
    assert source.expected_nats(n_seen=0) == pytest.approx(math.log(3))
    assert source.expected_nats(n_seen=400) == pytest.approx(
        source.expected_knowing_nats(), abs=0.01
    )


def test_who_knows_the_chain_loses_its_entropy():
    source = ChainsInContext(n_symbols=5, order=0, alpha=0.7, time=8)
    generator = np.random.default_rng(0)
    chains = source.draw_chains(20_000, generator=generator)
    entropy = -(chains * np.log(chains)).sum(-1)
    assert entropy.mean() == pytest.approx(source.expected_knowing_nats(), abs=0.01)
    losses = source.knowing_nats(source.draw_rows(chains, generator=generator), chains)
    assert losses.mean() == pytest.approx(entropy.mean(), abs=0.02)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_knowing_beats_reading_and_reading_comes_nearer_with_time(order):
    source = ChainsInContext(n_symbols=3, order=order, alpha=0.5, time=60)
    generator = np.random.default_rng(0)
    chains = source.draw_chains(600, generator=generator)
    assert chains.shape == (600, 3**order, 3)
    assert chains.sum(-1) == pytest.approx(1)
    tokens = source.draw_rows(chains, generator=generator)
    reading, knowing = source.oracle_nats(tokens), source.knowing_nats(tokens, chains)
    slow = [
        -math.log(
            chains[0, int("0" + "".join(map(str, tokens[0, t - order : t])), 3), tokens[0, t]]
        )
        for t in range(max(order, 1), 61)
    ]
    assert knowing[0, max(order, 1) - 1 :] == pytest.approx(slow)
    gap = (reading - knowing).mean(0)
    assert gap[:10].mean() > 3 * gap[-10:].mean() > 0


def test_symbols_that_follow_each_other_do_so_as_often_as_the_chain_says():
    source = ChainsInContext(n_symbols=3, order=1, alpha=1.0, time=2000)
    generator = np.random.default_rng(1)
    chains = source.draw_chains(1, generator=generator)
    row = source.draw_rows(chains, generator=generator)[0]
    counts = np.zeros((3, 3))
    np.add.at(counts, (row[:-1], row[1:]), 1)
    assert counts / counts.sum(1, keepdims=True) == pytest.approx(chains[0], abs=0.06)


@pytest.mark.parametrize("x", [0.05, 1.0, 2.5, 40.0])
def test_digamma_is_the_derivative_of_the_logarithm_of_gamma(x):
    step = 1e-5
    slope = (math.lgamma(x + step) - math.lgamma(x - step)) / (2 * step)
    assert _digamma(x) == pytest.approx(slope, rel=1e-6)
    assert _digamma(x + 1) == pytest.approx(_digamma(x) + 1 / x, abs=1e-11)
    assert _digamma(1) == pytest.approx(-0.5772156649015329, abs=1e-12)  # Euler's constant


def test_dials_that_no_chain_has_are_refused_in_words():
    refused = {
        "alpha=0 must be above 0": {"alpha": 0},
        "order=-1 must be": {"order": -1},
        "n_symbols=1 must be": {"n_symbols": 1},
        "262144 contexts; 4096 are the most": {"n_symbols": 64, "order": 3},
    }
    for words, dials in refused.items():
        with pytest.raises(AttnlabError, match=words):
            ChainsInContext(**dials)
