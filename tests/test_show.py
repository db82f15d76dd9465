"""Looks can be told apart, pictures take any honest table, and their words say what is drawn."""

import itertools
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from eyes import DEFICIENCIES, contrast, lab
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.show import (
    LOOKS,
    figure,
    final_gaps,
    final_losses,
    lag_profile,
    look,
    loss_curves,
    make_figure,
    matrix,
    new_axes,
    picture,
    ranged,
    register_look,
    show,
    staircase,
    style,
)
from attnlab.show.kinds import spread
from attnlab.show.style import FAMILIES, MEMBERS


def curves(names=("attention", "she"), n_seeds=2, n_points=3):
    rows = itertools.product(names, range(n_seeds), range(n_points))
    table = pd.DataFrame(rows, columns=["mixer", "seed", "k"])
    table["tokens_seen"] = 100 * (table["k"] + 1)
    shift = 0.1 * table["seed"] + 0.2 * (table["mixer"] == "she")
    return table.assign(loss_nats=2.0 - 0.5 * table["k"] + shift)


@pytest.mark.parametrize("name", LOOKS)
def test_every_colour_has_contrast_3_on_white(name):
    assert contrast(LOOKS[name].colour, "white") >= 3


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_family_colours_stay_apart_for_every_eye(deficiency):
    seen = [lab(family.colour, deficiency=deficiency) for family in FAMILIES.values()]
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert nearest >= (40 if deficiency == "none" else 12)


def test_families_differ_by_dash_as_well_as_by_colour():
    assert len({str(family.dash) for family in FAMILIES.values()}) == len(FAMILIES)


@pytest.mark.parametrize("family", MEMBERS)
def test_members_of_a_family_differ_by_shade_and_marker(family):
    looks = [LOOKS[name] for name, *_ in MEMBERS[family]]
    assert len({one.marker for one in looks}) == len({one.colour for one in looks}) == len(looks)
    pairs = itertools.combinations([lab(one.colour) for one in looks], 2)
    assert min(np.linalg.norm(a - b) for a, b in pairs) > 5


def test_the_extractors_differ_by_dash_too():
    assert len({LOOKS[name].dash for name in ("she", "he", "we", "me")}) == 4


def test_a_look_is_found_whatever_the_case_and_for_a_variant():
    assert look("SHE") is LOOKS["she"]
    assert look("attention-1-head") is LOOKS["attention_1_head"]
    assert look("she/no_adjust").label == "SHE, no adjust"
    assert look("she/no_adjust").marker == LOOKS["she"].marker
    with pytest.raises(UnknownNameError, match=r"mean 'attention'.*register_look"):
        look("attenton")


def test_a_look_can_be_added_but_not_taken(monkeypatch):
    module = sys.modules["attnlab.show.style"]  # the package's name means the function
    monkeypatch.setattr(module, "LOOKS", dict(LOOKS))
    added = register_look("Mine", family="extractor", label="Mine", marker="$M$")
    assert look("mine") == added
    assert register_look("mine", family="extractor", label="Mine", marker="$M$") == added
    with pytest.raises(AttnlabError, match="taken"):
        register_look("other", family="extractor", label="Other", marker="s")
    with pytest.raises(UnknownNameError, match="family"):
        register_look("other", family="extracter", label="Other", marker="s")


def test_style_changes_nothing_outside_its_block_and_heeds_no_personal_setting():
    with mpl.rc_context({"axes.grid": True}):
        before = dict(mpl.rcParams)
        with style():
            assert mpl.rcParams["svg.hashsalt"] == "attnlab"
            assert not mpl.rcParams["axes.grid"]
        assert dict(mpl.rcParams) == before


@picture
def stroke(height, *, ax=None):
    ax = new_axes(ax, size=(2, 1))
    ax.plot([0, height])
    return ax, f"Height {height}, it's <b> & more."


def test_a_still_has_its_words_as_alt_text_and_caption(shown):
    show(stroke(3), lead="Look. ")
    ((data, _),) = shown
    assert data["text/plain"] == "Look. Height 3, it's <b> & more."
    written = "Look. Height 3, it&#x27;s &lt;b&gt; &amp; more."
    assert f"<img alt='{written}' width='200' height='100'" in data["text/html"]
    shown_as = "Look. Height 3, it&#39;s &#60;b&#62; &#38; more."
    assert f"<figcaption><em>{shown_as}</em></figcaption>" in data["text/html"]


def test_html_of_a_picture_has_escaped_alt_text_and_a_width():
    html = stroke(1).html()
    assert "alt='Height 1, it&#x27;s &lt;b&gt; &amp; more.' width='200' height='100'" in html
    assert html == stroke(1).html()


def test_a_picture_can_be_a_part_of_another():
    left, right = new_axes(columns=2)
    assert stroke(1, ax=left).fig is left.figure
    assert stroke(2, ax=right).words.startswith("Height 2")


def test_loss_curves_have_one_line_per_mixer_and_the_oracle():
    one = loss_curves(curves(), oracle_nats=0.9, floors={"3-gram table": 1.5})
    labels = one.ax.get_legend_handles_labels()[1]
    assert labels == ["SHE", "Attention", "3-gram table", "True source"]
    assert "nats per token" in one.ax.get_ylabel()
    # last losses are 1.0 and 1.1 for attention, 0.2 more for she; the oracle is at 0.9
    assert one.words == (
        "Final gap to the true source (0.900), in nats per token: Attention +0.150, SHE +0.350. "
        "3-gram table: 1.500. Range over 2 seeds."
    )


def test_the_band_spans_the_seeds_and_the_line_is_their_mean():
    ax, table = loss_curves(curves(names=("attention",))).ax, curves(names=("attention",))
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert np.allclose(
        (heights.min(), heights.max()), (table["loss_nats"].min(), table["loss_nats"].max())
    )
    means = table.groupby("tokens_seen")["loss_nats"].mean()
    np.testing.assert_allclose(ax.lines[0].get_ydata(), means)


def test_one_seed_has_no_band_and_the_words_warn():
    one = loss_curves(curves(n_seeds=1), oracle_nats=1.0)
    assert not one.ax.collections
    assert "One seed each: the order may be chance." in one.words


def test_missing_losses_are_left_out_and_counted():
    table = curves()
    table.loc[table.index[-1], "loss_nats"] = np.nan
    one = loss_curves(table, oracle_nats=0.9)
    assert all(np.isfinite(line.get_ydata()).all() for line in one.ax.lines)
    assert "1 of 12 values are missing." in one.words
    for kind in (loss_curves, final_gaps):
        assert kind(table.assign(loss_nats=np.nan)).words.startswith("No finite loss to show.")


def test_final_losses_are_taken_at_the_end_of_each_run():
    table = curves(names=("attention",), n_seeds=1)
    longer = pd.DataFrame([{"mixer": "she", "seed": 0, "tokens_seen": 900, "loss_nats": 0.3}])
    ends = final_losses(pd.concat([table.sample(frac=1, random_state=1), longer]))
    assert dict(ends) == {"she": 0.3, "attention": 1.0}


def test_final_gaps_are_sorted_best_on_top():
    one = final_gaps(curves(), oracle_nats=0.9)
    assert [tick.get_text() for tick in one.ax.get_yticklabels()] == ["Attention", "SHE"]
    assert one.ax.yaxis_inverted()
    assert "Widest range over seeds: Attention, 0.100." in one.words
    runs = pd.DataFrame({"name": ["she", "he"], "seed": [0, 0], "loss_nats": [1.0, 2.0]})
    assert "SHE 1.000, HE 2.000" in final_gaps(runs).words


def test_every_seed_stands_in_the_row_of_its_model():
    ax = final_gaps(curves()).ax
    strokes = [points.get_offsets() for points in ax.collections if len(points.get_offsets()) > 1]
    assert sorted(tuple(np.round(xy, 3)) for points in strokes for xy in points.tolist()) == [
        (1.0, 0.0), (1.1, 0.0), (1.2, 1.0), (1.3, 1.0)]  # fmt: skip


@pytest.mark.parametrize("column", ["mixer", "loss_nats"])
def test_a_table_without_a_needed_column_is_refused_with_its_columns(column):
    with pytest.raises(AttnlabError, match="needs a column"):
        loss_curves(curves().drop(columns=column))


def test_a_staircase_draws_every_step_and_its_words_name_the_largest():
    points = pd.DataFrame([{"mixer": "she", "context_len": 2, "loss_nats": 1.3}])
    one = staircase([2.0, 1.5, 1.25], entropy_rate_nats=1.2, points=points)
    assert list(one.ax.lines[0].get_ydata()) == [2.0, 1.5, 1.25, 1.25]
    assert one.words == (
        "The best possible loss falls from 2.000 nats per token with 0 tokens of context to 1.250 "
        "with 2. The largest step is 0.500, at k = 1. The entropy rate is 1.200. "
        "SHE with k = 2: 1.300."
    )
    assert "with 1 token of context" in staircase({1: 0.5}).words
    with pytest.raises(AttnlabError, match="at least one"):
        staircase([])


def drawn(values, **options):
    return matrix(values, label="P", x_label="x", y_label="y", **options)


def test_amounts_start_at_zero_in_cividis_and_differences_are_centred():
    cells = drawn([[0.2, 0.8]]).ax.collections[0]
    assert (cells.cmap.name, cells.get_clim()) == ("cividis", (0.0, 0.8))
    one = drawn([[0.2, -0.8]], is_difference=True)
    cells = one.ax.collections[0]
    assert (cells.cmap.name, cells.get_clim()) == ("RdBu", (-0.8, 0.8))
    assert one.fig.axes[1].get_ylabel() == "P"


def test_a_matrix_keeps_its_names_and_numbers():
    ax = drawn(np.eye(3), x_ticks=list("abc"), has_numbers=True).ax
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list("abc")
    assert [text.get_text() for text in ax.texts][:2] == ["1.00", "0.00"]
    with pytest.raises(AttnlabError, match="2 names do not fit 3 columns"):
        drawn(np.eye(3), x_ticks=["a", "b"])


@given(rows=st.integers(1, 31), columns=st.integers(1, 7), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_the_words_of_a_matrix_point_at_its_largest_entry(rows, columns, seed):
    values = np.random.default_rng(seed).random((rows, columns))
    row, column = np.argwhere(values == values.max())[0]
    assert f"{values.max():.3f} at row {row}, column {column}." in drawn(values).words


def test_a_matrix_with_holes_draws_and_says_so():
    assert "2 of 4 entries are missing." in drawn([[np.nan, 1.0], [np.inf, 0.5]]).words
    assert "no finite entry" in drawn([[np.nan]], has_numbers=True).words
    assert drawn([[0.1, -0.4]], is_difference=True).words.endswith("-0.400 at row 0, column 1.")


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 3)])
def test_only_two_axes_make_a_heat_map(shape):
    with pytest.raises(AttnlabError, match="Choose one head"):
        drawn(np.zeros(shape))


def test_a_lag_profile_is_the_root_mean_square_over_the_other_axes():
    assert lag_profile(np.full((5, 3, 3), -2.0)).tolist() == [2.0] * 5
    assert lag_profile([1.0, -1.0]).tolist() == [1.0, -1.0]


def test_names_are_moved_apart_and_ranges_are_said():
    assert spread([0.0, 0.0, 1.0], gap=0.2) == [-0.1, 0.1, 1.0]
    assert ranged(pd.Series([1.0, np.nan, 2.0]), " %") == "1.0 to 2.0 %"
    assert ranged(pd.Series([1.0, 1.0])) == "1.0"
    assert ranged(pd.Series([np.nan])) == "–"


def test_a_figure_is_written_whole_twice_alike_and_says_its_records(tmp_path, monkeypatch):
    monkeypatch.setattr("attnlab.show.figures._FIGURES", {})
    figure("one-stroke", records="n-grams/classroom/children")(lambda: stroke(1))
    first = [file.read_bytes() for file in make_figure("one-stroke", out=tmp_path / "new")]
    assert first == [file.read_bytes() for file in make_figure("one-stroke", out=tmp_path / "new")]
    assert first[0].startswith(b"<?xml")
    assert b"data/runs/n-grams.jsonl#n-grams/classroom/children" in first[2]
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        "one-stroke.json", "one-stroke.png", "one-stroke.svg"]  # fmt: skip
    with pytest.raises(UnknownNameError, match="mean 'one-stroke'"):
        make_figure("one-strok")
    with pytest.raises(AttnlabError, match="cannot name"):
        figure("One stroke")
    with pytest.raises(AttnlabError, match="Two functions"):
        figure("one-stroke")(curves)


def test_show_imports_no_torch():
    code = "import sys, attnlab.show; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
