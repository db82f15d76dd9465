"""Chapter 01: what its pictures draw and say, and exercises that agree with the package."""

import itertools
from functools import partial

import numpy as np
import pandas as pd
import pytest
from chapter_tests import ChapterTests
from hypothesis import given
from hypothesis import strategies as st

from attnlab.chapters.markov_framing import checks, pictures
from attnlab.sources import entropy_rate, ring_chain, stationary

PARTS = pd.DataFrame(
    {"predictor": ["true", "even"], "entropy_nats": [0.7, 0.7], "kl_nats": [0.0, 0.25]}
)
LOSSES = [0.5, 0.9, 1.1, 1.2, 1.3]
ORDERS = pd.DataFrame({
    "order": [0, 1, 2, 0, 1, 2],
    "split": ["training"] * 3 + ["held-out"] * 3,
    "loss_nats": [1.0, 0.7, 0.2, 1.0, 0.8, 1.5],
})  # fmt: skip
KL = pd.DataFrame({
    "name": ["she", "she", "attention", "attention"],
    "state": ["a", "b", "a", "b"],
    "share": [0.9, 0.1, 0.9, 0.1],
    "kl_nats": [0.01, 0.2, 0.0, 0.5],
})  # fmt: skip
ROWS = {
    "oracle": {"a": [0.9, 0.1], "ab": [0.5, 0.5]},
    "order_4": {"a": [0.9, 0.1], "ab": [0.25, 0.75]},
    "bigram": {"a": [0.9, 0.1], "ab": [1.0, 0.0]},
}
next_token = partial(
    pictures.next_token, rows=ROWS, shares={"a": 0.75, "ab": 0.125}, symbols=["x", "y"]
)
batch_losses = partial(pictures.batch_losses, LOSSES, entropy_rate_nats=1.0)
order_losses = partial(pictures.order_losses, ORDERS, oracle_nats=0.6)
ring = partial(pictures.chain, kind="ring")
chains = st.builds(
    checks.random_chain, st.integers(2, 7), concentration=st.floats(0.2, 3),
    seed=st.integers(0, 999),
)  # fmt: skip


class TestChapter(ChapterTests):
    SLUG = "markov_framing"
    PICTURES = {  # noqa: RUF012
        "state_counts": (
            partial(pictures.state_counts, [2, 5000], longest=13),
            "about 1e4 for 2 tokens, 1e48 for 5,000 tokens",  # 13 log10 5000 = 48.09
        ),
        "transition": (
            lambda: pictures.transition(np.eye(2), names=["a", "b"], shares=np.array([0.5, 0.5])),
            "Rows of P for a, b.",
        ),
        "chain": (
            partial(ring, n_states=8, stay=0.25),
            f"{entropy_rate(ring_chain(8, stay=0.25)):.3f} nats per token (fair choice among 8: "
            f"{np.log(8):.3f}); every long-run share is 0.125",
        ),
        "chain/still": (partial(ring, n_states=2, stay=1.0), "entropy rate 0 nats"),
        "own_chain": (
            partial(pictures.own_chain, rows="1/2 1/2\n1/2 1/2"),
            "Your chain of 2 states: entropy rate 0.693 nats per token",
        ),
        "loss_parts": (partial(pictures.loss_parts, PARTS), "true 0.000, even 0.250"),
        "batch_losses": (batch_losses, "5 batches: 2 of them lie below"),
        "stairs": (
            partial(pictures.stairs, source="weather", longest=2),
            "Weather, order 1. The best possible loss falls from",
        ),
        "order_losses": (
            order_losses,
            "order 1 is best, 0.800 nats per token. At order 2 the table has 0.200 on the tokens "
            "it counted and 1.500 on fresh ones. The true source: 0.600.",
        ),
        "kl_by_state": (
            partial(pictures.kl_by_state, KL),
            "SHE: 0.029 nats over all states, most in state 'b' (0.200, 10.0% of the time); "
            "Attention: 0.050",  # 0.9 * 0.01 + 0.1 * 0.2
        ),
        "next_token": (
            partial(next_token, "ab"),
            f"After 'ab' (12.5% of the time), divergence from the true row in nats: Table of "
            f"order 4 {0.5 * np.log(2) + 0.5 * np.log(2 / 3):.3f}, Bigram table inf.",
        ),
    }
    PANELS = {  # noqa: RUF012
        "chain": lambda: (pictures.chain, pictures.CHAIN_DIALS),
        "stairs": lambda: (pictures.stairs, pictures.STAIRS_DIALS),
        "next_token": lambda: (next_token, {"state": ("Last tokens", ["a", "ab"], "The state")}),
    }


@given(vocab_size=st.integers(2, 60), length=st.integers(1, 40))
def test_the_number_of_states_is_the_exact_sum(vocab_size, length):
    exact = sum(vocab_size**t for t in range(1, length + 1))
    got = pictures.log10_states(vocab_size, [length])[0]
    assert np.isclose(got, np.log10(float(exact)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["ring", "random"])
@pytest.mark.parametrize("stay", [0.0, 0.5, 1.0])
def test_rows_of_a_chain_sum_to_one(kind, stay):
    assert np.allclose(pictures.chain_rows(kind=kind, n_states=5, stay=stay).sum(axis=1), 1)


def test_laziness_leaves_the_shares_of_a_random_chain_as_they_are():
    quick, lazy = (pictures.chain_rows(kind="random", n_states=7, stay=s) for s in (0.0, 0.9))
    assert np.allclose(stationary(quick), stationary(lazy))


def test_shares_have_one_bar_a_state_from_the_top():
    one = pictures.transition(np.eye(3), names=list("abc"), shares=np.array([0.5, 0.3, 0.2]))
    right = one.fig.axes[1]
    assert [bar.get_width() for bar in right.patches] == [0.5, 0.3, 0.2]
    assert right.yaxis_inverted()


def test_parts_of_a_loss_add_up_to_the_written_total():
    ax = pictures.loss_parts(PARTS).ax
    assert [text.get_text() for text in ax.texts] == ["0.700", "0.950"]
    assert ax.patches[3].get_x() == pytest.approx(0.7)  # divergence starts at the floor


def test_every_batch_is_in_the_histogram():
    assert sum(bar.get_height() for bar in batch_losses().ax.patches) == len(LOSSES)


@pytest.mark.parametrize("source", pictures.SOURCES.values())
def test_stairs_fall_to_the_entropy_rate_and_not_below(source):
    losses = [pictures.best_loss(source, k) for k in range(11)]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(losses))
    assert losses[-1] >= pictures.source_of(source).entropy_rate_nats - 1e-9


def test_bars_and_lines_differ_by_more_than_colour():
    assert len({bar.get_hatch() for bar in next_token("a").ax.patches}) == 3
    assert len({line.get_linestyle() for line in order_losses().ax.lines}) == 3
    tables = KL.assign(name=KL["name"].map({"she": "order_1", "attention": "order_4"}))
    one = pictures.kl_by_state(tables)
    assert len({line.get_marker() for line in one.ax.lines}) == 2
    assert "Table of order 1: 0.029 nats" in one.words


def test_the_worst_state_and_further_ones_are_named_above_their_worst_model():
    more = KL.assign(state=KL["state"].map({"a": "c", "b": "d"}), share=0.4,
                     kl_nats=[0.3, 0.2, 0.1, 0.4])  # fmt: skip
    ax = pictures.kl_by_state(pd.concat([KL, more]), named=["a", "b", "d"]).ax
    named = {text.get_text(): tuple(text.xy) for text in ax.texts}
    assert named == {"a": (0.9, 0.01), "b": (0.1, 0.5), "d": (0.4, 0.4)}
    assert len(ax.texts) == 3, "the worst state is named once"


@given(chain=chains, seed=st.integers(0, 999))
def test_the_oracle_is_the_mean_surprise_at_the_pairs(chain, seed):
    tokens = checks.markov_chain(chain).sample(53, seed=seed)
    assert np.isclose(checks.surprises(tokens, chain).mean(), checks.oracle_loss(tokens, chain))


@given(seed=st.integers(0, 999), n_states=st.integers(2, 6))
def test_the_fitted_table_holds_the_frequencies(seed, n_states):
    tokens = np.random.default_rng(seed).integers(0, n_states, 40)
    table = checks.fit_bigram(tokens, n_states)
    assert np.allclose(table, checks.shared(checks.counted(tokens, n_states)))
    assert np.allclose(table.sum(axis=1), 1)
