"""Looks can be told apart, plots take any honest table, and their words say what is drawn."""

import itertools
import subprocess
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.plots import (
    LOOKS,
    describe_final_gaps,
    describe_lag_kernels,
    describe_loss_curves,
    describe_matrix,
    describe_staircase,
    final_losses,
    lag_profile,
    look,
    mark_guess,
    plot_final_gaps,
    plot_lag_kernel,
    plot_lag_kernels,
    plot_loss_curves,
    plot_matrix,
    plot_staircase,
    register_look,
    style,
)
from attnlab.show.style import FAMILIES

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protan": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deutan": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritan": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)  # sRGB, D65


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def linear_rgb(colour):
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(colour, *, deficiency="none"):
    seen = np.clip(DEFICIENCIES[deficiency] @ linear_rgb(colour), 0, 1)
    scaled = TO_XYZ @ seen / TO_XYZ.sum(axis=1)
    f = np.where(scaled > (6 / 29) ** 3, np.cbrt(scaled), scaled / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def curves(names=("attention", "she"), n_seeds=2, n_points=3):
    rows = [
        {"mixer": name, "seed": seed, "tokens_seen": 100 * (k + 1), "loss_nats": 2.0 - 0.5 * k}
        for name in names
        for seed in range(n_seeds)
        for k in range(n_points)
    ]
    table = pd.DataFrame(rows)
    table["loss_nats"] += 0.1 * table["seed"] + 0.2 * (table["mixer"] == "she")
    return table


@pytest.mark.parametrize("family", FAMILIES)
def test_every_colour_has_contrast_3_on_white(family):
    luminance = TO_XYZ[1] @ linear_rgb(FAMILIES[family].colour)
    assert 1.05 / (luminance + 0.05) >= 3


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_family_colours_stay_apart_for_every_eye(deficiency):
    seen = [lab(family.colour, deficiency=deficiency) for family in FAMILIES.values()]
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert nearest >= (40 if deficiency == "none" else 12)


def test_families_differ_by_dash_as_well_as_by_colour():
    assert len({family.dash for family in FAMILIES.values()}) == len(FAMILIES)


def test_a_look_is_found_whatever_the_case_and_for_a_variant():
    assert look("SHE") is LOOKS["she"]
    assert look("attention-1-head") is LOOKS["attention_1_head"]
    assert look("she/no_adjust").label == "SHE, no adjust"
    assert look("she/no_adjust").marker == LOOKS["she"].marker


def test_an_unknown_look_names_the_nearest_and_the_way_to_add_one():
    with pytest.raises(UnknownNameError, match=r"mean 'attention'.*register_look"):
        look("attenton")


def test_a_look_can_be_added_but_not_taken(monkeypatch):
    module = sys.modules["attnlab.show.style"]  # the package's name means the function
    monkeypatch.setattr(module, "LOOKS", dict(LOOKS))
    added = register_look("Mine", family="extractor", label="Mine", marker="h")
    assert look("mine") == added
    assert register_look("mine", family="extractor", label="Mine", marker="h") == added
    with pytest.raises(AttnlabError, match="taken"):
        register_look("other", family="extractor", label="Other", marker="s")
    with pytest.raises(UnknownNameError, match="family"):
        register_look("other", family="extracter", label="Other", marker="s")


def test_style_changes_nothing_outside_its_block():
    before = dict(mpl.rcParams)
    with style():
        assert mpl.rcParams["svg.hashsalt"] == "attnlab"
        assert mpl.rcParams["font.size"] == 10
    assert dict(mpl.rcParams) == before


def test_style_does_not_heed_a_personal_setting():
    with mpl.rc_context({"axes.grid": True}), style():
        assert not mpl.rcParams["axes.grid"]


def test_loss_curves_have_one_line_per_mixer_and_the_oracle():
    ax = plot_loss_curves(curves(), oracle_nats=0.9, floors={"3-gram table": 1.5})
    labels = [line.get_label() for line in ax.lines]
    assert labels == ["SHE", "Attention", "3-gram table", "True source"]
    assert "nats per token" in ax.get_ylabel()


def test_the_band_spans_the_seeds():
    ax = plot_loss_curves(curves(names=("attention",)))
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    table = curves(names=("attention",))["loss_nats"]
    assert (heights.min(), heights.max()) == (table.min(), table.max())


def test_one_seed_has_no_band_and_the_words_warn():
    table = curves(n_seeds=1)
    assert not plot_loss_curves(table, oracle_nats=1.0).collections
    assert "One seed each: the order may be chance." in describe_loss_curves(table, oracle_nats=1.0)


def test_missing_losses_are_left_out_and_counted():
    table = curves()
    table.loc[table.index[-1], "loss_nats"] = np.nan
    ax = plot_loss_curves(table, oracle_nats=0.9)
    assert all(np.isfinite(line.get_ydata()).all() for line in ax.lines)
    assert "1 of 12 values are missing." in describe_loss_curves(table, oracle_nats=0.9)


def test_a_table_of_nothing_but_missing_values_still_draws():
    table = curves().assign(loss_nats=np.nan)
    plot_loss_curves(table, oracle_nats=0.9)
    plot_final_gaps(table, oracle_nats=0.9)
    assert describe_loss_curves(table).startswith("No finite loss to show.")
    assert describe_final_gaps(table).startswith("No finite loss to show.")


def test_words_of_loss_curves_name_gaps_best_first():
    # last losses are 1.0 and 1.1 for attention, 0.2 more for she; the oracle is at 0.9
    words = describe_loss_curves(curves(), oracle_nats=0.9, floors={"3-gram table": 1.5})
    assert words == (
        "Final gap to the true source (0.900), in nats per token: Attention +0.150, SHE +0.350. "
        "3-gram table: 1.500. Range over 2 seeds."
    )


def test_words_without_an_oracle_give_the_loss_itself():
    assert "Attention 1.050, SHE 1.250" in describe_loss_curves(curves())


def test_final_losses_are_taken_at_the_end_of_each_run():
    table = curves(names=("attention",), n_seeds=1)
    longer = pd.DataFrame([{"mixer": "she", "seed": 0, "tokens_seen": 900, "loss_nats": 0.3}])
    ends = final_losses(pd.concat([table.sample(frac=1, random_state=1), longer]))
    assert dict(ends) == {"she": 0.3, "attention": 1.0}


def test_final_gaps_are_sorted_best_on_top():
    ax = plot_final_gaps(curves(), oracle_nats=0.9)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["Attention", "SHE"]
    assert ax.yaxis_inverted()
    assert "Widest range over seeds" in describe_final_gaps(curves(), oracle_nats=0.9)


def test_final_gaps_take_a_table_of_runs_without_steps():
    runs = pd.DataFrame({"name": ["she", "he"], "seed": [0, 0], "loss_nats": [1.0, 2.0]})
    plot_final_gaps(runs)
    assert "SHE 1.000, HE 2.000" in describe_final_gaps(runs)


@pytest.mark.parametrize("column", ["mixer", "loss_nats"])
def test_a_table_without_a_needed_column_is_refused_with_its_columns(column):
    with pytest.raises(AttnlabError, match="needs a column"):
        plot_loss_curves(curves().drop(columns=column))


def test_a_staircase_draws_every_step_and_its_words_name_the_largest():
    points = pd.DataFrame([{"mixer": "she", "context_len": 2, "loss_nats": 1.3}])
    ax = plot_staircase([2.0, 1.5, 1.25], entropy_rate_nats=1.2, points=points)
    assert list(ax.lines[0].get_ydata()) == [2.0, 1.5, 1.25, 1.25]
    assert list(ax.lines[1].get_xdata()) == [2]
    assert describe_staircase([2.0, 1.5, 1.25], entropy_rate_nats=1.2, points=points) == (
        "The best possible loss falls from 2.000 nats per token with 0 tokens of context to 1.250 "
        "with 2. The largest step is 0.500, at k = 1. The entropy rate is 1.200. "
        "SHE with k = 2: 1.300."
    )


def test_a_staircase_of_one_step_and_of_many_draw():
    plot_staircase({1: 0.5})
    plot_staircase(np.linspace(2, 1, 41))
    assert "with 1 token of context" in describe_staircase({1: 0.5})
    with pytest.raises(AttnlabError, match="at least one"):
        plot_staircase([])


def test_a_guess_is_drawn_only_if_there_is_one():
    ax = mark_guess(plt.subplots()[1], guess=None, truth=0.2)
    assert len(ax.lines) == 1
    assert len(mark_guess(plt.subplots()[1], guess=0.1, truth=0.2, unit="nats").lines) == 2


def test_amounts_start_at_zero_in_cividis_and_differences_are_centred():
    amounts = plot_matrix([[0.2, 0.8]], label="P", x_label="x", y_label="y").images[0]
    assert (amounts.cmap.name, amounts.get_clim()) == ("cividis", (0.0, 0.8))
    ax = plot_matrix([[0.2, -0.8]], label="D", x_label="x", y_label="y", is_difference=True)
    assert (ax.images[0].cmap.name, ax.images[0].get_clim()) == ("RdBu", (-0.8, 0.8))
    assert ax.figure.axes[1].get_ylabel() == "D"


def test_a_matrix_keeps_its_names_and_numbers():
    ax = plot_matrix(
        np.eye(3), label="P", x_label="x", y_label="y", x_ticks=list("abc"), has_numbers=True
    )
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list("abc")
    assert [text.get_text() for text in ax.texts][:2] == ["1.00", "0.00"]


@given(rows=st.integers(1, 31), columns=st.integers(1, 7), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_the_words_of_a_matrix_point_at_its_largest_entry(rows, columns, seed):
    values = np.random.default_rng(seed).random((rows, columns))
    row, column = np.argwhere(values == values.max())[0]
    words = describe_matrix(values, label="Weight")
    assert f"{values.max():.3f} at row {row}, column {column}." in words


def test_a_matrix_with_holes_draws_and_says_so():
    values = [[np.nan, 1.0], [np.inf, 0.5]]
    plot_matrix(values, label="P", x_label="x", y_label="y", has_numbers=True)
    assert "2 of 4 entries are missing." in describe_matrix(values, label="P")
    assert "no finite entry" in describe_matrix([[np.nan]], label="P")


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 3)])
def test_only_two_axes_make_a_heat_map(shape):
    with pytest.raises(AttnlabError, match="Choose one head"):
        plot_matrix(np.zeros(shape), label="P", x_label="x", y_label="y")


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(AttnlabError, match="2 names do not fit 3 columns"):
        plot_matrix(np.eye(3), label="P", x_label="x", y_label="y", x_ticks=["a", "b"])


def test_a_lag_profile_is_the_root_mean_square_over_the_other_axes():
    assert lag_profile(np.full((5, 3, 3), -2.0)).tolist() == [2.0] * 5
    assert lag_profile([1.0, -1.0]).tolist() == [1.0, -1.0]


def test_the_words_of_a_kernel_name_its_heaviest_lag():
    kernel = np.zeros((7, 3))
    kernel[2] = 5.0
    words = describe_lag_kernels({"he": kernel})
    assert words == "HE: lag 2 weighs most (5.000); 1 of 7 lag holds half of the weight."
    assert "no finite weight" in describe_lag_kernels({"he": np.zeros((3, 2))})


def test_kernels_of_different_lengths_share_axes():
    ax = plot_lag_kernels({"she": np.ones((40, 2, 2)), "we": np.ones((3, 2))})
    assert [len(line.get_xdata()) for line in ax.lines[:2]] == [40, 3]
    assert plot_lag_kernel(np.ones(4), name="me").get_ylabel() == "Weight"


def test_plots_import_no_torch():
    code = "import sys, attnlab.plots; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
