"""Pictures of attention say in words what they show, and refuse what they cannot draw."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attnlab.errors import AttnlabError
from attnlab.plots import attention as plots
from attnlab.show.style import style

PAPER = np.array([[1, 0, 0], [1 / 3, 2 / 3, 0], [1 / 4, 1 / 4, 1 / 2]])


@pytest.fixture(autouse=True)
def _styled_and_closed():
    with style():
        yield
    plt.close("all")


def shown(ax) -> np.ndarray:
    """Return the numbers of a heat map, NaN where a cell is white."""
    return np.ma.filled(ax.images[0].get_array().astype(float), np.nan)


def test_the_hidden_future_stays_white_and_the_rest_is_shown():
    values = shown(plots.plot_attention_weights(PAPER))
    assert np.isnan(values[np.triu_indices(3, 1)]).all()
    np.testing.assert_allclose(values[np.tril_indices(3)], PAPER[np.tril_indices(3)])


def test_a_leak_into_the_future_is_drawn():
    weights = np.full((3, 3), 1 / 3)
    assert np.isfinite(shown(plots.plot_attention_weights(weights))).all()


def test_weights_are_described_by_their_strongest_look_back():
    words = plots.describe_attention_weights(PAPER, words=["a", "b", "c"])
    assert "'b' (position 2) gives 'a' (position 1) the weight 0.33" in words
    # rows: log 1, the entropy of (1/3, 2/3) and that of (1/4, 1/4, 1/2)
    mean = (0.0 + np.log(3) - 2 / 3 * np.log(2) + 1.5 * np.log(2)) / 3
    assert f"{mean:.2f} nats" in words


def test_one_token_looks_at_nobody():
    assert "Nobody looks back" in plots.describe_attention_weights([[1.0]])


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 3, 3), (0, 0)])
def test_weights_that_are_not_square_are_refused(shape):
    with pytest.raises(AttnlabError, match=r"\(time, time\)"):
        plots.plot_attention_weights(np.ones(shape))


def test_words_that_do_not_fit_are_refused():
    with pytest.raises(AttnlabError, match="2 words do not fit 3 rows"):
        plots.describe_attention_weights(PAPER, words=["a", "b"])


@given(arrays(float, (3, 5), elements=st.floats(0.01, 1)))
def test_entropy_lies_between_a_choice_and_equal_shares(parts):
    entropies = plots.row_entropies(parts / parts.sum(1, keepdims=True))
    assert (entropies > 0).all()
    assert (entropies <= np.log(5) + 1e-12).all()


def test_a_certain_row_has_no_entropy():
    np.testing.assert_array_equal(plots.row_entropies(np.eye(4)), 0)


def test_bars_before_the_edit_are_hatched():
    ax = plots.plot_output_changes([0.1, 0.2, 0.9, 0.3], edited=3)
    hatched = [bar.get_x() + bar.get_width() / 2 for bar in ax.patches if bar.get_hatch()]
    np.testing.assert_allclose(hatched, [1, 2])


@pytest.mark.parametrize(
    ("changes", "edited", "words"),
    [
        ([0.0, 0.0, 1.0], 3, "Nothing leaks"),
        ([0.0, 0.25, 1.0], 3, "1 of 2 earlier outputs moved, the most by 0.250"),
        ([1.0, 1.0, 1.0], 1, "no output comes before it"),
    ],
)
def test_a_leak_is_put_into_words(changes, edited, words):
    assert words in plots.describe_output_changes(changes, edited=edited)


def entropies() -> pd.DataFrame:
    rows = [(s, d, e) for s, ends in {"1": (3, 1), "1/sqrt(d_h)": (3, 3)}.items()
            for d, e in zip((2, 8), ends, strict=True)]  # fmt: skip
    return pd.DataFrame(rows, columns=["scale", "d_head", "entropy_nats"])


def test_entropy_by_width_names_each_scale_at_the_widest_head():
    words = plots.describe_entropy_by_width(entropies(), n_keys=7)
    assert "At head width 8: 1.00 nats with scale 1, 3.00 nats with scale 1/sqrt(d_h)" in words
    assert f"{np.log(7):.2f}" in words


def test_entropy_by_width_draws_a_line_a_scale_and_the_limit():
    ax = plots.plot_entropy_by_width(entropies(), n_keys=7)
    assert len(ax.lines) == 2 + 1
    dashes = [line.get_linestyle() for line in ax.lines]
    assert len(set(dashes)) == 3, "colour is not the only difference"


def test_entropy_by_width_writes_its_scales_as_the_page_does():
    ax = plots.plot_entropy_by_width(entropies(), n_keys=7)
    labels = [line.get_label() for line in ax.lines]
    assert labels == ["Scale $1$", r"Scale $1/\sqrt{d_h}$", "Equal weights: log 7"]


def test_a_map_of_few_tokens_is_small():
    sizes = [plots.plot_attention_weights(np.eye(n)).figure.get_size_inches() for n in (1, 3, 5, 9)]
    heights = [height for _, height in sizes]
    assert heights == sorted(heights)
    assert heights[1] < 0.75 * heights[2]


def growth() -> pd.DataFrame:
    rows = [(part, t, t**power) for part, power in (("maps", 1), ("pairs", 2)) for t in (3, 6, 12)]
    return pd.DataFrame(rows, columns=["part", "time", "n_multiplications"])


def test_cost_growth_is_put_into_words():
    words = plots.describe_cost_growth(growth(), crossover=4.6)
    assert "maps 2.00 times for 2 times the length; pairs 4.00 times" in words
    assert "equal at T = 5" in words


def test_cost_growth_has_both_axes_in_powers():
    ax = plots.plot_cost_growth(growth(), crossover=4.6)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert len(ax.lines) == 2 + 1


def test_shares_are_written_beside_their_bars():
    ax = plots.plot_shares_of_keys([0.25, 0.75], keys=["a", "b"])
    assert {text.get_text() for text in ax.texts} == {"0.25", "0.75"}


def test_recall_is_described_by_who_passed_the_bag_floor():
    rows = [(name, seed, 9, loss) for name, loss in (("attention", 0.0), ("mean", 1.9))
            for seed in (0, 1)]  # fmt: skip
    curves = pd.DataFrame(rows, columns=["name", "seed", "tokens_seen", "loss_nats"])
    words = plots.describe_recall(curves, bag_floor_nats=1.5567)
    assert "Attention 0.000, Causal mean 1.900; bag floor 1.557" in words
    assert "Well below the floor: Attention. Bands: range over 2 seeds" in words
    ax = plots.plot_recall(curves, bag_floor_nats=1.5567)
    levels = {line.get_label(): line.get_ydata()[0] for line in ax.lines}
    assert levels["Bag floor"] == 1.5567
    assert levels["Knowing the answer"] == 0
    assert "True source" not in levels
    assert "per question" in ax.get_ylabel()
