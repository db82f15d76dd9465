"""Pictures of notebook 08: what they draw and what they say."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from attnlab.errors import AttnlabError
from attnlab.plots import distillation as figures
from attnlab.plots import style

COUNTS = pd.DataFrame(
    [[10, 1000], [20, 2000], [5, 500], [30, 3000]],
    index=list(figures.COUNT_LOOKS),
    columns=["XS", "XL"],
)
POINTS = pd.DataFrame(
    {
        "step": [0, 0, 30, 30],
        "arm": ["alr/m"] * 4,
        "layer": [1, 2, 1, 2],
        "error": [1.5, 1.2, 0.25, 0.125],
    }
)
ARMS = pd.DataFrame(
    {
        "variant": ["encoder_self/alr/xs", "encoder_self/alr/m", "cross/paper/m"],
        "site": ["encoder_self", "encoder_self", "cross"],
        "n_seeds": [3, 3, 3],
        "n_weights": [100, 1000, 2000],
        "relative_error_low": [0.7, 0.1, 0.05],
        "relative_error": [0.8, 0.2, 0.1],
        "relative_error_high": [0.9, 0.3, 0.2],
        "bleu_low": [80.0, 97.0, 8.0],
        "bleu": [85.0, 98.0, 10.0],
        "bleu_high": [90.0, 99.0, 12.0],
    }
)


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    with style():
        yield
    plt.close("all")


def test_the_diagram_has_a_net_for_each_method_and_four_for_aslr():
    fig = figures.draw_methods()
    hatched = [sum(bool(p.get_hatch()) for p in ax.patches) for ax in fig.axes]
    assert hatched == [0, 1, 4, 1, 1]
    titles = [ax.texts for ax in fig.axes]
    assert any(text.get_text() == "ELR" for text in titles[-1])
    assert "residual sum" in figures.describe_methods()


def test_weights_are_told_in_units_of_attention():
    ax = figures.plot_weights(COUNTS, attention=10)
    assert ax.get_yscale() == "log"
    assert len(ax.lines) == len(COUNTS) + 1
    words = figures.describe_weights(COUNTS, attention=10)
    assert "ALR, ALRR, ELR: 1.0 to 100 times" in words


def test_errors_have_a_line_for_each_layer_and_one_for_the_constant():
    ax = figures.plot_errors(POINTS)
    assert len(ax.lines) == 3
    words = figures.describe_errors(POINTS)
    assert "ALR M: 0.250, 0.125" in words
    assert "1.20 to 1.50" in words


def test_arms_are_written_for_readers():
    assert figures.arm_label("alrr/m/linear_skip") == "ALRR M, linear skip"
    assert figures.arm_label("elr") == "ELR"


def test_outputs_share_one_scale_and_name_the_worst_word():
    y = np.array([[1.0, 0.0], [0.0, -2.0]])
    fig = figures.plot_outputs(y, np.zeros((2, 2)), words=["a", "cat"])
    limits = {ax.images[0].get_clim() for ax in fig.axes if ax.images}
    assert limits == {(-2.0, 2.0)}
    words = figures.describe_outputs(y, np.zeros((2, 2)), words=["a", "cat"])
    assert "farthest off at 'cat'" in words
    assert "1.118" in words  # sqrt((1 + 4) / 4)


def test_outputs_of_nothing_are_drawn():
    figures.plot_outputs(np.zeros((1, 1)), np.zeros((1, 1)), words=["a"])


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 1)])
def test_outputs_that_do_not_match_are_refused(shape):
    with pytest.raises(AttnlabError, match="of one head"):
        figures.plot_outputs(np.zeros((2, 2)), np.zeros(shape), words=["a", "b"])


def test_the_bottleneck_draws_floors_and_students():
    floors = {"Stream": [3.0, 3.0, 1.0, 0.1], "Update": [1.0, 1.0, 0.5, 0.0]}
    points = pd.DataFrame({"width": [2], "error": [1.5], "label": ["ALRR"], "arm": ["alrr"]})
    ax = figures.plot_bottleneck(floors, points=points)
    assert len(ax.lines) == 3
    words = figures.describe_bottleneck(floors, points=points)
    assert "h = 2: stream 1.000; update 0.500" in words
    assert "ALRR 1.500" in words
    assert "3 times the spread of its update; against that, ALRR has 0.50" in words


def test_sizes_show_controls_and_the_range_over_seeds():
    arms = ARMS[ARMS["site"] == "encoder_self"]
    fig = figures.plot_sizes(arms, controls={"mean": 85.2}, teacher=99.0)
    assert len(fig.axes) == 2
    labels = fig.axes[1].get_legend_handles_labels()[1]
    assert {"Control: mean", "Teacher", "ALR"} <= set(labels)
    words = figures.describe_sizes(arms, controls={"mean": 85.2}, teacher=99.0)
    assert "ALR 85.0 (100) to 98.0 (1,000)" in words
    assert "mean 85.2" in words
    assert "3 seeds" in words
    assert "Teacher" not in figures.describe_sizes(arms, controls={})


def test_the_contradiction_is_the_better_imitation_that_translates_worse():
    low, high = figures.contradiction(ARMS)
    assert (low["variant"], high["variant"]) == ("cross/paper/m", "encoder_self/alr/m")
    words = figures.describe_error_against_score(ARMS)
    assert "cross/paper/m has a relative error of 0.10 and BLEU 10.0" in words
    ax = figures.plot_error_against_score(ARMS)
    assert ax.get_xscale() == "log"


def test_one_arm_contradicts_nothing():
    low, high = figures.contradiction(ARMS.iloc[:1])
    assert low["variant"] == high["variant"]
