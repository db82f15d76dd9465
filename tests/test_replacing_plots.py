"""Pictures of notebook 09: what they draw and what they say."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.plots import replacing as figures
from attnlab.plots import style

NOW = {"bleu": 40.0, "accuracy": 0.8, "exact_match": 0.25, "loss_nats": 0.75}
WHOLE = {"bleu": 98.0, "accuracy": 0.99, "exact_match": 0.9, "loss_nats": 0.02}


@pytest.fixture(autouse=True)
def _figures_are_closed():
    with style():
        yield
    plt.close("all")


def test_the_board_names_what_stands_where():
    swaps = {("cross", 1): "mean", ("encoder_self", 0): "net"}
    sizes = {"encoder_self": 1, "decoder_self": 2, "cross": 2}
    fig = figures.plot_board(swaps, n_layers=sizes, now=NOW, teacher=WHOLE)
    tiles = [text.get_text() for text in fig.axes[0].texts]
    assert tiles == ["net", "attention", "attention", "attention", "mean"]
    words = figures.describe_board(swaps, now=NOW, teacher=WHOLE)
    assert "In place: encoder self, layer 1: net; cross, layer 2: mean." in words
    assert "BLEU 40.0 (teacher 98.0)" in words
    assert "80.0% of the next tokens right (99.0%)" in words


def test_an_empty_board_has_attention_everywhere():
    assert "attention everywhere" in figures.describe_board({}, now=WHOLE, teacher=WHOLE)


def scores():
    return pd.DataFrame(
        {
            "label": ["a", "a", "b"],
            "accuracy": [0.5, 0.6, 0.9],
            "bleu": [10.0, 20.0, 80.0],
        }
    )


def test_scores_have_a_row_for_each_label_and_a_point_for_each_seed():
    ax = figures.plot_scores(scores(), teacher_bleu=99.0)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    bleu = next(line for line in ax.lines if "BLEU, written" in str(line.get_label()))
    assert list(bleu.get_xdata()) == [10, 20, 80]
    assert list(bleu.get_ydata()) == [0, 0, 1]


def test_scores_say_ranges_where_there_are_seeds():
    words = figures.describe_scores(scores(), teacher_bleu=99.0)
    assert "a: 50.0 to 60.0% of the next tokens, BLEU 10.0 to 20.0" in words
    assert "b: 90.0% of the next tokens, BLEU 80.0. The teacher's BLEU is 99.0." in words


def test_panels_say_the_best_control_of_each_site():
    rows = [
        {"site": site, "label": label, "bleu": bleu}
        for site in figures.SITES
        for label, bleu in {"mean": 30.0, "zero": 20.0, "net": 90.0}.items()
    ]
    fig = figures.plot_control_panels(pd.DataFrame(rows[:-1]), teacher_bleu=95.0)
    assert len(fig.axes) == 3
    words = figures.describe_control_panels(pd.DataFrame(rows), teacher_bleu=95.0)
    assert words.count("best control mean 30.0, net 90.0") == 3


def test_kinds_are_three():
    kinds = {name: figures.kind_of(name) for name in ("attention", "mean", "cut net")}
    assert kinds == {"attention": "attention", "mean": "control", "cut net": "net"}


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 9))
def test_influence_counts_the_future_only(n):
    causal = np.tril(np.ones((n, n)))
    assert f"{n * (n - 1) // 2} pairs" in figures.describe_influence(causal)
    assert "0 move" in figures.describe_influence(causal)
    if n > 1:
        assert f"{n * (n - 1) // 2} move" in figures.describe_influence(np.ones((n, n)))


def test_the_line_of_the_present_has_the_future_on_its_right():
    ax = figures.plot_influence(np.eye(3), words=["<bos>", "a", "b"])
    x, y = ax.lines[-1].get_data()
    assert list(x) == [0.5, 0.5, 1.5, 1.5, 2.5, 2.5]
    assert list(y) == [-0.5, 0.5, 0.5, 1.5, 1.5, 2.5]
