"""What must hold for every source, whatever it is made of."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.errors import AttnlabError
from attnlab.sources import (
    EXAMPLE_TREES,
    Source,
    fit_table,
    list_chains,
    markov_chain,
    tales,
    variable_length_chain,
)
from attnlab.sources.stories import Again, StoryMachine, Then, line, one_of

SOURCES = {name: markov_chain(name) for name in list_chains()}
SOURCES |= {name: variable_length_chain(name) for name in EXAMPLE_TREES}
SOURCES |= {
    "ring": markov_chain("ring", n_states=5, stay=0.25),
    "one state": markov_chain([[1.0]]),
    "die": variable_length_chain({"": (0.5, 0.25, 0.25)}, symbols="xyz"),
    "random": markov_chain("random", n_states=4, concentration=0.3, seed=3),
    "story": StoryMachine(
        Then((line("{who} [and|or] {who}"), Again(one_of("hop", "{who} hop"), 0.3))),
        {"who": {"name": ("Ann", "Bob")}},
    ),
    "small tales": tales("small"),
    "tales": tales(),
}
SMALL = [name for name, source in SOURCES.items() if source.vocab_size <= 8]
each_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
each_small_source = pytest.mark.parametrize("source", [SOURCES[n] for n in SMALL], ids=SMALL)


def mean_and_error(values, n_blocks=200):
    """Mean and standard error of a long sequence, from blocks that hardly depend on each other."""
    blocks = values[: len(values) // n_blocks * n_blocks].reshape(n_blocks, -1).mean(axis=1)
    return blocks.mean(), blocks.std(ddof=1) / np.sqrt(n_blocks)


class Told(Source):
    """Another source known by its predictions alone, so that all else is done the plain way."""

    def __init__(self, source):
        super().__init__(source.symbols)
        self.entropy_rate_nats, self.predict = source.entropy_rate_nats, source.predict

    entropy_rate_nats = 0.0
    predict = None


@each_source
def test_the_loss_is_that_of_the_predictions_one_by_one(source):
    windows = source.sample_windows(3, window_len=17, seed=1)
    plain = Told(source).oracle_nats(windows, per_token=True)
    losses = source.oracle_nats(windows, per_token=True)
    np.testing.assert_allclose(losses, plain, atol=1e-9)
    assert source.oracle_nats(windows) == pytest.approx(plain.mean(), abs=1e-9)
    np.testing.assert_allclose(source.oracle_nats(windows[1], per_token=True), plain[1], atol=1e-9)
    for length in (0, 1, 17):
        assert source.predict(windows[0, :length]).sum() == pytest.approx(1, abs=1e-12)


@each_small_source
def test_the_staircase_is_that_of_all_windows_one_by_one(source):
    for context_len in range(5):
        plain = Told(source).best_loss_nats(context_len=context_len)
        assert source.best_loss_nats(context_len=context_len) == pytest.approx(plain, abs=1e-9)


@each_source
def test_the_staircase_falls_towards_the_entropy_rate(source):
    stairs = [source.best_loss_nats(context_len=k) for k in range(13)]
    assert all(np.diff(stairs) <= 1e-12)
    assert stairs[-1] >= source.entropy_rate_nats - 1e-12
    is_short = not isinstance(source, StoryMachine)  # of a story some windows never tell all
    assert not is_short or stairs[-1] == pytest.approx(source.entropy_rate_nats, abs=1e-12)


def law_of_windows(source, length):
    law = {(): 1.0}
    for _ in range(length):
        nexts = {window: enumerate(source.predict(window)) for window in law}
        law = {(*w, t): law[w] * q for w, chances in nexts.items() for t, q in chances if q > 0}
    return law


@each_small_source
def test_windows_are_drawn_with_their_chances(source):
    """Those drawn fast and those drawn token by token, from the predictions, have one law."""
    law = law_of_windows(source, 3)
    assert sum(law.values()) == pytest.approx(1)
    for drawn, n_windows in ((source, 4000), (Told(source), 500)):
        windows = drawn.sample_windows(n_windows, window_len=3, seed=2)
        seen = Counter(map(tuple, windows.tolist()))
        assert seen.keys() <= law.keys()
        for window, chance in law.items():
            error = np.sqrt(chance * (1 - chance) / n_windows)
            assert abs(seen[window] / n_windows - chance) < 5 * error + 2 / n_windows


@each_source
def test_a_sample_starts_anywhere(source):
    firsts = [source.sample(1, seed=seed)[0] for seed in range(400)]
    share = source.predict([])
    seen = np.bincount(firsts, minlength=source.vocab_size) / len(firsts)
    error = np.sqrt(share * (1 - share) / len(firsts))
    assert (np.abs(seen - share) <= 5 * error + 1e-9).all()


@each_source
def test_the_mean_oracle_loss_is_the_entropy_rate(source):
    losses = source.oracle_nats(source.sample(100_001), per_token=True)
    mean, error = mean_and_error(losses)
    assert abs(mean - source.entropy_rate_nats) <= 4 * error + 1e-12
    assert error < 0.005


@each_source
def test_the_estimated_staircase_agrees_with_the_exact_one(source):
    for context_len in (0, 1, 2, 3, 6):
        mean, error = source.estimate_best_loss_nats(context_len=context_len, n_windows=3000)
        exact = source.best_loss_nats(context_len=context_len)
        assert abs(mean - exact) <= 4 * error + 1e-9
        assert error <= 4 / np.sqrt(3000)
    _, error = source.estimate_best_loss_nats(context_len=1, n_windows=2)
    assert np.isfinite(error)


@each_source
def test_no_fitted_table_beats_the_oracle_on_fresh_tokens(source):
    train, fresh = source.sample(5000), source.sample(20_001, stream="validation")
    oracle = source.oracle_nats(fresh, per_token=True)
    for order in (0, 1, 2):
        table = fit_table(train, order=order, vocab_size=source.vocab_size, pseudo_count=0.1)
        losses = table.loss_nats(fresh, per_token=True)
        gap, error = mean_and_error(losses - oracle[max(order, 1) - 1 :])
        assert gap > -4 * error - 1e-12
        mean, error = mean_and_error(losses)
        assert mean > source.best_loss_nats(context_len=order) - 4 * error - 1e-12


@each_source
@given(seed=st.integers(0, 2**16), length=st.integers(1, 97))
@settings(deadline=None, max_examples=8, derandomize=True)
def test_text_reads_back_as_the_same_tokens(source, seed, length):
    tokens = source.sample(length, seed=seed)
    assert (tokens.shape, tokens.dtype) == ((length,), np.int64)
    np.testing.assert_array_equal(source.encode(source.decode(tokens)), tokens)


@each_source
def test_samples_follow_their_seed_and_streams_differ(source):
    def draw(**options):
        return tuple(source.sample(97, **options).tolist())

    assert draw(seed=3) == draw(seed=3)
    if source.entropy_rate_nats:
        generator = np.random.default_rng(5)  # it moves on
        others = [{"seed": 4}, {"seed": 3, "stream": "validation"}, *[{"generator": generator}] * 2]
        assert len({draw(seed=3), *(draw(**options) for options in others)}) == 5


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda source: source.oracle_nats([0, source.vocab_size]), r"is outside 0\.\."),
        (lambda source: source.oracle_nats([0, -1]), "Token -1 is outside"),
        (lambda source: source.oracle_nats([0]), "at least 2 time step"),
        (lambda source: source.oracle_nats([[[0, 0]]]), r"shape \(1, 1, 2\)"),
        (lambda source: source.oracle_nats([0.5, 0.0]), "whole numbers"),
        (lambda source: source.predict([[0, 0]]), "one sequence"),
        (lambda source: source.best_loss_nats(context_len=-1), "context_len=-1"),
        (lambda source: source.estimate_best_loss_nats(context_len=-1), "context_len=-1"),
        (lambda source: source.estimate_best_loss_nats(context_len=1, n_windows=1), "n_windows=1"),
        (lambda source: source.sample(0), "n_tokens=0"),
        (lambda source: source.sample(True), "n_tokens=True"),
        (lambda source: source.sample_windows(1, window_len=0), "window_len=0"),
        (lambda source: source.encode("#"), "symbol of this source is called '#'"),
    ],
)
@each_source
def test_wrong_requests_are_explained(source, ask, message):
    with pytest.raises(AttnlabError, match=message):
        ask(source)


def test_a_staircase_of_too_many_windows_names_the_estimate():
    with pytest.raises(AttnlabError, match=r"3\^11 windows.*estimate_best_loss_nats"):
        Told(SOURCES["die"]).best_loss_nats(context_len=11)
