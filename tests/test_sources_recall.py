"""Rows with questions: answers were said, nothing is said twice, and the floors are true."""

import math

import numpy as np
import pytest

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.sources import InductionHead, PairRecall, SelectiveCopying, recall_source
from attnlab.sources.recall import BLANK, IGNORED, SOURCES

N_ROWS = 400


def drawn(source, load, n_rows=N_ROWS, seed=0):
    return source.draw(n_rows, load=load, generator=np.random.default_rng(seed))


def looked_up(row, source):
    """Answer every question by looking for the key, token by token; the slow obvious way."""
    size, values = (
        source.key_len,
        range(1 + source._n_symbols, 1 + source._n_symbols + source.n_answers),
    )
    said = {}
    for t, token in enumerate(row):
        if token in values:
            said[tuple(row[t - size : t])] = token
    return said


@pytest.mark.parametrize("name", SOURCES)
def test_tokens_and_answers_are_in_the_vocabulary_and_the_shapes_are_those_asked_for(name):
    source = recall_source(name)
    for load in (2, source.most()):
        tokens, targets = drawn(source, load)
        assert tokens.shape == targets.shape == (N_ROWS, source.time)
        assert tokens.dtype == targets.dtype == np.int64
        assert tokens.min() >= 0
        assert tokens.max() < source.vocab_size
        assert set(np.unique(targets[targets != IGNORED])) <= set(range(1, source.vocab_size))
        n_asked = (targets != IGNORED).sum(1)
        assert set(n_asked) == {1 if name == "induction" else load}


@pytest.mark.parametrize("dials", [{}, {"key_len": 2, "n_key_symbols": 4}, {"noise": 0.3},
                                   {"key_len": 3, "n_key_symbols": 2, "noise": 0.2}])  # fmt: skip
def test_every_answer_was_said_after_its_key_and_no_key_or_value_is_said_twice(dials):
    source = PairRecall(**dials)
    for load in (1, 3, source.most()):
        for row, target in zip(*drawn(source, load, 60), strict=True):
            said = looked_up(row, source)
            assert len(said) == len(set(said.values())) == load
            asked = np.flatnonzero(target != IGNORED)
            keys = [tuple(row[t - source.key_len + 1 : t + 1]) for t in asked]
            assert sorted(keys) == sorted(said)  # each once more
            assert [said[key] for key in keys] == target[asked].tolist()


def test_the_pairs_come_first_and_blanks_fill_the_rest():
    source = PairRecall()
    tokens, targets = drawn(source, 8)
    assert ((tokens[:, :16:2] >= 1) & (tokens[:, :16:2] <= 15)).all()  # keys
    assert (tokens[:, 1:16:2] >= 16).all()  # values
    assert (targets[:, :16] == IGNORED).all()
    assert (tokens[targets == IGNORED].reshape(N_ROWS, -1)[:, 16:] == BLANK).all()
    assert ((targets != IGNORED)[:, 16:] == (tokens != BLANK)[:, 16:]).all()


def test_questions_follow_the_law_of_gaps():
    source, n = PairRecall(vocab_size=16, time=12), 20_000  # one pair, five slots
    _, targets = drawn(source, 1, n)
    share = (targets != IGNORED).mean(0)[2::2]
    law = np.arange(1, 6) ** (source.exponent - 1)
    assert share == pytest.approx(law / law.sum(), abs=4 * math.sqrt(0.25 / n))


def test_without_replacement_the_second_question_follows_the_law_of_what_is_left():
    source, n = PairRecall(vocab_size=16, time=10), 20_000  # two pairs, three slots
    _, targets = drawn(source, 2, n)
    p = np.arange(1, 4) ** (source.exponent - 1)
    p /= p.sum()
    both = sum(p[i] * p[j] / (1 - p[i]) for i, j in ((0, 1), (1, 0)))
    first_two = ((targets[:, 4] != IGNORED) & (targets[:, 6] != IGNORED)).mean()
    assert first_two == pytest.approx(both, abs=4 * math.sqrt(0.25 / n))


def test_the_share_of_noise_and_of_wrong_values_are_those_of_the_dials():
    source = PairRecall(noise=0.4, p_error=0.25, time=200, vocab_size=64)
    tokens, targets = drawn(source, 12)
    noise = tokens >= source.vocab_size - source.vocab_size // 4
    start = source._start(12)
    assert not noise[:, start:].any()
    assert noise.sum(1).tolist() == [start - 24] * N_ROWS
    assert (start - 24) / start == pytest.approx(0.4, abs=0.01)
    right = [
        looked_up(row, source)[(row[t],)] == target[t]
        for row, target in zip(tokens, targets, strict=True)
        for t in np.flatnonzero(target != IGNORED)
    ]
    assert np.mean(right) == pytest.approx(0.75, abs=4 * math.sqrt(0.1875 / len(right)))
    assert targets.max() < 1 + source._n_symbols + source.n_answers  # a value, never noise


def test_the_floor_of_wrong_values_is_the_entropy_counted_out():
    source = PairRecall(vocab_size=12, noise=0.5, p_error=0.3)
    law = [0.7] + [0.3 / (source.n_answers - 1)] * (source.n_answers - 1)
    assert source.oracle_nats == pytest.approx(-sum(p * math.log(p) for p in law))
    assert source.oracle_accuracy == pytest.approx(max(law))
    assert PairRecall().oracle_nats == 0


@pytest.mark.parametrize("p_error", [0.0, 0.3])
def test_who_knows_the_values_without_their_keys_loses_what_is_counted_out(p_error):
    source = PairRecall(vocab_size=16, p_error=p_error)
    load, v = 3, source.n_answers
    law = np.zeros(v)
    for said in range(load):  # the value that was said of the key asked for, each as likely
        law += np.where(np.arange(v) == said, 1 - p_error, p_error / (v - 1)) / load
    expected = -sum(p * math.log(p) for p in law if p)
    assert source.unbound_nats(load) == pytest.approx(expected)
    assert source.unbound_nats(v) == pytest.approx(source.chance_nats)


def test_what_followed_the_marker_is_what_is_asked():
    source = InductionHead(vocab_size=10, time=12)
    for row, target in zip(*drawn(source, 7), strict=True):
        (first, again) = np.flatnonzero(row == 9)
        assert again == 7
        assert target.tolist() == [IGNORED] * 7 + [row[first + 1]] + [IGNORED] * 4
        assert first <= 5  # a letter stands between
        assert (row[8:] == BLANK).all()


def test_letters_are_asked_for_in_their_order():
    source = SelectiveCopying(vocab_size=10, time=20)
    tokens, targets = drawn(source, 5)
    for row, target in zip(tokens, targets, strict=True):
        letters = row[:15][row[:15] != BLANK]
        assert (row[15:] == 9).all()
        assert target.tolist() == [IGNORED] * 15 + letters.tolist()
    assert len({tuple(row) for row in tokens != BLANK}) > N_ROWS // 2  # elsewhere each time


@pytest.mark.parametrize("name", SOURCES)
def test_no_answer_is_likelier_than_another(name):
    source = recall_source(name)
    targets = drawn(source, 4, 4000)[1]
    counts = np.bincount(targets[targets != IGNORED], minlength=source.vocab_size)
    counts = counts[counts > 0]
    assert len(counts) == source.n_answers
    expected = counts.sum() / source.n_answers
    assert ((counts - expected) ** 2 / expected).sum() < 2.0 * source.n_answers  # chi-square
    assert source.chance_nats == pytest.approx(math.log(len(counts)))


def test_a_stream_decides_the_rows():
    source = recall_source("mqar")
    zero, again, one = (drawn(source, 4, seed=seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(zero, again)
    assert not np.array_equal(zero, one)


@pytest.mark.parametrize(
    ("name", "n_answers", "n_keys", "most", "p_right", "n_noise"),
    [("mqar", 12, 11, 8, 1.0, 0), ("noisy", 11, 9, 6, 0.9, 4), ("fuzzy", 25, 36, 5, 1.0, 0)],
)
def test_the_named_pairs_have_these_dials(name, n_answers, n_keys, most, p_right, n_noise):
    source = recall_source(name)
    assert (source.n_answers, source.n_keys, source.most()) == (n_answers, n_keys, most)
    assert source.oracle_accuracy == p_right
    assert source._n_noise(3) == n_noise


def test_loads_that_do_not_fit_are_refused_in_words():
    with pytest.raises(AttnlabError, match=r"A load of 17 does not fit 64 tokens.*Choose 16"):
        drawn(PairRecall(vocab_size=64, time=64), 17)
    with pytest.raises(AttnlabError, match="Choose 15"):  # keys run out before room does
        drawn(PairRecall(time=64), 16)
    with pytest.raises(AttnlabError, match=r"load=1 must be .* at least 2"):
        drawn(InductionHead(), 1)
    with pytest.raises(UnknownNameError, match="Did you mean 'fuzzy'"):
        recall_source("fuzy")
