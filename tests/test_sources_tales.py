"""What must hold for the tales: exact numbers, long memory that pays, text that reads well."""

import re
import time
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.errors import AttnlabError
from attnlab.sources import Source, fit_table, tales
from attnlab.sources.stories import END

property_test = settings(deadline=None, max_examples=25, derandomize=True)
seeds = st.integers(0, 2**16)


@cache
def source_of(size):
    return tales(size)


def one_tale(source, seed):
    """The first whole tale of a long sample, its end token included."""
    tokens = source.sample(600, seed=seed)
    ends = np.flatnonzero(tokens == source.symbols.index(END))
    return tokens[ends[0] + 1 : ends[1] + 1]


def block_mean(values, n_blocks=200):
    """Mean and standard error of a long sequence, from blocks that hardly depend on each other."""
    blocks = values[: len(values) // n_blocks * n_blocks].reshape(n_blocks, -1).mean(axis=1)
    return blocks.mean(), blocks.std(ddof=1) / np.sqrt(n_blocks)


@pytest.mark.parametrize("size", ["small", "standard"])
def test_the_mean_oracle_loss_is_the_entropy_rate(size):
    source = source_of(size)
    mean, error = block_mean(source.oracle_nats(source.sample(300_001), per_token=True))

    assert abs(mean - source.entropy_rate_nats) < 4 * error
    assert error < 0.003


def test_the_text_of_a_tale_has_the_entropy_of_its_hidden_choices():
    source = source_of("standard")
    tokens = source.sample(300_000, seed=1)
    ends = np.flatnonzero(tokens == source.symbols.index(END))
    losses = source.oracle_nats(tokens[ends[0] : ends[-1] + 1], per_token=True)
    per_tale = np.add.reduceat(losses, ends[:-1] - ends[0])

    error = per_tale.std(ddof=1) / np.sqrt(len(per_tale))
    assert abs(per_tale.mean() - source.tale_entropy_nats) < 4 * error
    lengths = np.diff(ends)
    assert abs(lengths.mean() - source.mean_tale_len) < 4 * lengths.std() / np.sqrt(len(lengths))


@given(seed=seeds)
@property_test
def test_a_tale_names_each_role_and_stays_true_to_it(seed):
    source = source_of("standard")
    words = {source.symbols[token] for token in one_tale(source, seed)}

    for forms in source.roles.values():
        told = [i for i, name in enumerate(forms["name"]) if name in words]
        assert len(told) == 1
        for form in set(forms) - {"name", "prep"}:
            assert words & set(forms[form]) <= {forms[form][told[0]]}


def test_staircase_falls_towards_the_entropy_rate():
    source = source_of("standard")
    stairs = [source.best_loss_nats(context_len=k) for k in range(17)]

    assert all(np.diff(stairs) < 0)
    assert stairs[-1] > source.entropy_rate_nats
    tale_or_two, error = source.estimate_best_loss_nats(context_len=160, n_windows=8000)
    assert abs(tale_or_two - source.entropy_rate_nats) < 4 * error


def test_the_estimated_staircase_agrees_with_the_exact_one():
    source = source_of("small")

    for context_len in (0, 1, 3, 9):
        mean, error = source.estimate_best_loss_nats(context_len=context_len, n_windows=9000)
        assert abs(mean - source.best_loss_nats(context_len=context_len)) < 4 * error


def test_forty_tokens_of_memory_are_worth_a_tenth_of_a_nat_more_than_four():
    source = source_of("standard")
    forty, error = source.estimate_best_loss_nats(context_len=40, n_windows=8000)

    assert source.best_loss_nats(context_len=4) - (forty + 4 * error) > 0.1


def test_no_table_beats_the_oracle_on_fresh_tokens():
    source = source_of("small")
    train = source.sample(100_000)
    fresh = source.sample(100_001, stream="validation")
    oracle = source.oracle_nats(fresh, per_token=True)

    for order in (1, 2, 3):
        table = fit_table(train, order=order, vocab_size=source.vocab_size, pseudo_count=0.01)
        losses = table.loss_nats(fresh, per_token=True)
        gap, error = block_mean(losses - oracle[order - 1 :])
        assert gap > 4 * error
        mean, error = block_mean(losses)
        assert mean > source.best_loss_nats(context_len=order) - 4 * error


@pytest.mark.parametrize("size", ["small", "standard"])
@given(seed=seeds, length=st.integers(1, 211))
@property_test
def test_text_reads_back_as_the_same_tokens(size, seed, length):
    source = source_of(size)
    tokens = source.sample(length, seed=seed)

    np.testing.assert_array_equal(source.encode(source.decode(tokens)), tokens)


@given(seed=seeds)
@property_test
def test_text_has_capitals_and_stops_where_they_belong(seed):
    source = source_of("standard")
    text = source.decode(one_tale(source, seed))

    assert re.fullmatch(r"([A-Z][A-Za-z]*([ ,][ A-Za-z]+)*[.!?] ?)+\n", text)
    assert "  " not in text
    assert " ." not in text
    assert not re.search(r"\ba [aeiou]", text)


def test_samples_follow_their_seed_and_streams_differ():
    source = source_of("standard")

    np.testing.assert_array_equal(source.sample(997, seed=3), tales().sample(997, seed=3))
    assert (source.sample(997, seed=3) != source.sample(997, seed=4)).any()
    assert (source.sample(997, seed=3) != source.sample(997, seed=3, stream="validation")).any()
    assert source.sample(1).shape == (1,)
    assert source.sample(997).dtype == np.int64


def test_a_sample_starts_anywhere_in_a_tale():
    source = source_of("small")
    stop = source.symbols.index(".")
    is_stop = [source.sample(1, seed=seed)[0] == stop for seed in range(500)]

    share = source.predict([])[stop]
    assert share > 0.1
    assert abs(np.mean(is_stop) - share) < 4 * np.sqrt(share / len(is_stop))


def test_tales_have_the_promised_size():
    source = source_of("standard")

    assert isinstance(source, Source)
    assert 120 <= source.vocab_size <= 250
    words = [len(tale.split()) for tale in source.decode(source.sample(50_000)).split("\n")[1:-1]]
    assert 40 <= np.quantile(words, 0.05) < np.quantile(words, 0.95) <= 90


def test_fewer_values_mean_fewer_nats():
    fewer = tales(n_names=2)

    assert fewer.tale_entropy_nats == pytest.approx(
        source_of("standard").tale_entropy_nats - np.log(12 / 2)
    )
    assert len(tales("small", n_things=7).roles["thing"]["name"]) == 7
    assert tales(n_names=1, n_places=1).entropy_rate_nats < fewer.entropy_rate_nats


def test_wrong_options_and_words_are_explained():
    with pytest.raises(AttnlabError, match="Did you mean 'small'"):
        tales("smal")
    with pytest.raises(AttnlabError, match="99 values for the hero are not possible"):
        tales(n_names=99)
    with pytest.raises(AttnlabError, match="Did you mean 'dog'"):
        source_of("small").encode("The dogg ran.")


def test_tales_are_quick_to_make_to_tell_and_to_judge():
    """Limits are several times what an idle core needs; they catch loops over tokens."""
    started = time.process_time()
    source = tales()
    assert time.process_time() - started < 1
    started = time.process_time()
    tokens = source.sample(300_000)
    assert time.process_time() - started < 3
    started = time.process_time()
    source.oracle_nats(tokens[: 64 * 128].reshape(64, 128))
    assert time.process_time() - started < 1
