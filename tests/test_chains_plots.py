"""Pictures of chains: what is drawn, and what is said about it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.errors import AttnlabError
from attnlab.plots import chains, style


@pytest.fixture(autouse=True)
def _closed():
    with style():
        yield
    plt.close("all")


@given(vocab_size=st.integers(2, 60), length=st.integers(1, 40))
@settings(deadline=None, max_examples=25)
def test_the_number_of_states_is_the_exact_sum(vocab_size, length):
    exact = sum(vocab_size**t for t in range(1, length + 1))
    got = chains.log10_states(vocab_size, [length])[0]
    assert np.isclose(got, np.log10(float(exact)), rtol=1e-12, atol=1e-12)


def test_state_counts_are_straight_lines_with_their_ends_written():
    ax = chains.plot_state_counts([2, 5000], longest=13)
    assert [len(line.get_xdata()) for line in ax.lines[:2]] == [13, 13]
    texts = [text.get_text() for text in ax.texts]
    assert any("V = 5,000: 1e48" in text for text in texts)  # 13 log10 5000 = 48.09
    assert "1e48 for 5,000 tokens" in chains.describe_state_counts([5000], longest=13)


def test_shares_have_one_bar_a_state_from_the_top():
    ax = chains.plot_shares([0.5, 0.3, 0.2], names=["a", "b", "c"])
    assert [bar.get_width() for bar in ax.patches] == [0.5, 0.3, 0.2]
    assert ax.yaxis_inverted()


def test_shares_refuse_names_that_do_not_fit():
    with pytest.raises(AttnlabError, match="2 names"):
        chains.plot_shares([1.0], names=["a", "b"])


def test_a_loss_is_said_in_three_units():
    words = chains.describe_loss_units(float(np.log(8)))
    assert "2.079 nats" in words
    assert "3.000 bits" in words
    assert "perplexity of 8.00" in words
    ax = chains.plot_loss_units(1.0)
    assert ax.lines[-1].get_ydata()[0] == pytest.approx(np.e)


PARTS = pd.DataFrame(
    {"predictor": ["true", "even"], "entropy_nats": [0.7, 0.7], "kl_nats": [0.0, 0.25]}
)


def test_parts_of_a_loss_add_up_to_the_written_total():
    ax = chains.plot_loss_parts(PARTS)
    assert [text.get_text() for text in ax.texts] == ["0.700", "0.950"]
    assert ax.patches[3].get_x() == pytest.approx(0.7)  # divergence starts at the floor
    assert "even 0.250" in chains.describe_loss_parts(PARTS)


def test_batches_below_the_entropy_rate_are_counted():
    losses = [0.5, 0.9, 1.1, 1.2, 1.3]
    words = chains.describe_batch_losses(losses, entropy_rate_nats=1.0)
    assert "5 batches: 2 of them" in words
    ax = chains.plot_batch_losses(losses, entropy_rate_nats=1.0)
    assert sum(bar.get_height() for bar in ax.patches) == 5


ORDERS = pd.DataFrame(
    {
        "order": [0, 1, 2, 0, 1, 2],
        "split": ["training"] * 3 + ["held-out"] * 3,
        "loss_nats": [1.0, 0.7, 0.2, 1.0, 0.8, 1.5],
    }
)


def test_the_best_order_is_that_of_the_held_out_tokens():
    words = chains.describe_order_losses(ORDERS, oracle_nats=0.6)
    assert "order 1 is best, 0.800" in words
    assert "0.200 on the tokens it counted and 1.500 on fresh ones" in words
    ax = chains.plot_order_losses(ORDERS, oracle_nats=0.6)
    assert {line.get_linestyle() for line in ax.lines[:2]} == {":", "-"}


ROWS = {"oracle": [0.5, 0.5], "she": [0.5, 0.5], "attention": [0.25, 0.75], "bigram": [1.0, 0.0]}


def test_next_token_bars_differ_by_more_than_colour():
    ax = chains.plot_next_token(ROWS, symbols=["x", "y"])
    assert len(ax.patches) == 8
    assert len({bar.get_hatch() for bar in ax.patches}) == 4


def test_the_divergence_of_each_row_is_said():
    words = chains.describe_next_token(ROWS, state="ab", share=0.125)
    assert "SHE 0.000" in words
    assert f"Attention {0.5 * np.log(2) + 0.5 * np.log(2 / 3):.3f}" in words
    assert "Bigram table inf" in words
    assert "12.5% of the time" in words


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(AttnlabError, match="do not fit"):
        chains.plot_next_token({"oracle": [1.0]}, symbols=["x", "y"])


KL = pd.DataFrame(
    {
        "name": ["she", "she", "attention", "attention"],
        "state": ["a", "b", "a", "b"],
        "share": [0.9, 0.1, 0.9, 0.1],
        "kl_nats": [0.01, 0.2, 0.0, 0.5],
    }
)


def test_divergence_is_averaged_with_the_shares():
    words = chains.describe_kl_per_state(KL)
    assert "SHE: 0.029 nats over all states" in words  # 0.9 * 0.01 + 0.1 * 0.2
    assert "most in state 'b' (0.500" in words
    ax = chains.plot_kl_per_state(KL)
    assert len(ax.lines) == 2
    assert [text.get_text() for text in ax.texts] == ["b"]


def test_further_states_are_named_above_their_worst_model():
    table = pd.concat([KL, KL.assign(state=KL["state"].map({"a": "c", "b": "d"}), share=0.4,
                                     kl_nats=[0.3, 0.2, 0.1, 0.4])])  # fmt: skip
    ax = chains.plot_kl_per_state(table, named=["a", "b", "d"])
    named = {text.get_text(): tuple(text.xy) for text in ax.texts}
    assert named == {"a": (0.9, 0.01), "b": (0.1, 0.5), "d": (0.4, 0.4)}
    assert len(ax.texts) == 3, "the worst state is named once"


def test_a_table_is_called_by_its_order():
    rows = {"oracle": [0.5, 0.5], "order_1": [0.5, 0.5], "order_4": [0.25, 0.75]}
    legend = chains.plot_next_token(rows, symbols=["x", "y"]).get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        "True source", "Table of order 1", "Table of order 4"]  # fmt: skip
    assert "Table of order 4 0.144" in chains.describe_next_token(rows, state="a", share=0.5)
    names = KL["name"].map({"she": "order_1", "attention": "order_4"})
    ax = chains.plot_kl_per_state(KL.assign(name=names))
    assert len({line.get_marker() for line in ax.lines}) == 2
    assert "Table of order 1: 0.029 nats" in chains.describe_kl_per_state(KL.assign(name=names))


@pytest.mark.parametrize(
    "plot", [chains.plot_loss_parts, chains.plot_order_losses, chains.plot_kl_per_state]
)
def test_a_table_without_the_columns_is_refused(plot):
    with pytest.raises(AttnlabError, match="needs rows with"):
        plot(pd.DataFrame({"other": [1]}))
