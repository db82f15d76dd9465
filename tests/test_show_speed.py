"""Pictures of the clock: what they draw, what they say, and what they do with little."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlab.errors import AttnlabError
from attnlab.show import speed
from attnlab.show.kinds import spread


def ratios(n_series=1, lengths=(128, 512)):
    """SHE that falls below attention at the last length, and HE that is below always."""
    level = {"attention": (1.0, 1.0, 1.0), "she": (2.0, 1.2, 0.8), "he": (0.7, 0.4, 0.2)}
    rows = [
        {"experiment": f"speed/smoke/mixers/t{length}", "variant": name, "seed": seed,
         "config.part": "mixers", "config.time": length,
         "ratio_to_attention": value * (1 + 0.1 * seed)}
        for seed in range(n_series) for name, values in level.items()
        for length, value in zip(lengths, values, strict=False)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    ends = {"low": 0.9, "high": 1.1}
    return table.assign(
        **{f"ratio_to_attention_{e}": f * table["ratio_to_attention"] for e, f in ends.items()}
    )


def race():
    """Three methods: the fastest does least work, the busiest is slow."""
    return pd.DataFrame(
        {
            "variant": ["she/grouped", "she/auto", "she/fft"],
            "median_ms": [160.0, 40.0, 100.0],
            "low_ms": [150.0, 39.0, 90.0],
            "high_ms": [170.0, 42.0, 130.0],
            "work_gflop": [14.0, 2.0, np.nan],
            "gflop_per_s": [87.5, 50.0, np.nan],
            "roofline_fraction": [0.875, 0.5, np.nan],
            "machine_top_gemm_gflops": 100.0,
        }
    )


def tokens(batches=(1, 16), contexts=(128, 2048)):
    cost = {"attention": (0.1, 0.8), "she": (0.2, 0.25), "she/ring": (0.5, 17.0)}
    rows = [(batch, name, context, ms * batch**0.5) for batch in batches
            for name, values in cost.items()
            for context, ms in zip(contexts, values, strict=False)]  # fmt: skip
    columns = ["config.batch", "variant", "config.context_len", "median_ms"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(low_ms=0.9 * table["median_ms"], high_ms=1.1 * table["median_ms"])


def labels(ax):
    return {text.get_text(): text.get_position() for text in ax.texts}


def test_each_mixer_has_a_line_named_at_its_end_and_attention_is_one():
    ax = speed.ratio_by_length(ratios()).ax
    heights = {name: place[1] for name, place in labels(ax).items()}
    assert heights["HE"] < heights["Attention"] < heights["SHE"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [f"{tick:g}" for tick in ax.get_xticks()] == ["128", "512"]
    level = next(line for line in ax.lines if len(set(line.get_ydata())) == 1)
    assert level.get_ydata()[0] == 1.0


def test_ratios_are_told_from_shortest_to_longest_with_where_they_win():
    words = speed.ratio_by_length(ratios(lengths=(128, 512, 2048))).words
    assert "at 128, 512 and 2048 tokens: SHE 2.00 to 0.80 (faster at 2048)" in words
    assert "HE 0.70 to 0.20 (faster at 128, 512 and 2048)" in words
    assert "SHE 2.00 to 1.20 (faster nowhere)" in speed.ratio_by_length(ratios()).words
    only = ratios()[lambda t: t["variant"] == "attention"]
    assert speed.ratio_by_length(only).words == "No mixer was timed beside attention."


def test_series_become_their_median_within_the_hull_of_their_spread():
    ax = speed.ratio_by_length(ratios(n_series=3)).ax
    line = next(line for line in ax.lines if line.get_label() == "SHE")
    assert line.get_ydata()[0] == pytest.approx(2.0 * 1.1)
    heights = np.concatenate([p.vertices[:, 1] for c in ax.collections for p in c.get_paths()])
    assert heights.max() == pytest.approx(2.0 * 1.2 * 1.1)


def test_one_length_and_missing_values_are_drawn_all_the_same():
    speed.ratio_by_length(ratios(lengths=(128,)))
    holed = ratios()
    holed.loc[0:2, "ratio_to_attention"] = np.nan
    assert "nan" not in speed.ratio_by_length(holed).words


def test_methods_stand_fastest_first_with_their_share_of_the_peak():
    one = speed.roofline(race())
    rates, times = one.fig.axes
    assert [t.get_text() for t in rates.get_yticklabels()] == ["auto", "fft", "grouped"]
    assert rates.get_ylabel() == "Method of SHE"
    assert {"50%", "88%", "not counted", "peak 100"} <= set(labels(rates))
    assert [t.get_text() for t in times.texts] == ["40", "100", "160"]
    assert one.words == (
        "Fastest: SHE, auto, 40 ms. Nearest to the machine's peak of 100 GFLOP/s: SHE, grouped "
        "with 88 (88%), 160 ms. It does 7.0 times the operations of the fastest."
    )


def test_mixers_keep_their_names_and_a_race_without_counts_is_drawn():
    mixers = race().assign(variant=["attention", "she", "he"])
    one = speed.roofline(mixers.drop(columns=["gflop_per_s", "roofline_fraction"]))
    assert [t.get_text() for t in one.ax.get_yticklabels()] == ["SHE", "HE", "Attention"]
    assert one.words == "Fastest: SHE, 40 ms. The operations of none are counted."


def test_a_panel_a_batch_shows_the_price_of_a_token_in_microseconds():
    fig = speed.generation_growth(tokens()).fig
    assert [ax.get_title() for ax in fig.axes] == ["batch 1", "batch 16"]
    lines = {line.get_label(): line for line in fig.axes[0].lines}
    assert lines["SHE, ring"].get_ydata() == pytest.approx([500.0, 17000.0])
    assert lines["SHE, ring"].get_marker() != lines["SHE"].get_marker()
    low, high = np.log(fig.axes[0].get_ylim())
    end = (np.log(lines["SHE, ring"].get_ydata()[-1]) - low) / (high - low)
    assert labels(fig.axes[0])["SHE, ring"][1] == pytest.approx(end)


def test_growth_is_told_in_times():
    words = speed.generation_growth(tokens(batches=(1,))).words
    assert "Batch 1, µs a token at context 2048: SHE, ring 17,000, Attention 800, SHE 250." in words
    assert "SHE, ring 34.0, Attention 8.0, SHE 1.2." in words
    assert "Growth" not in speed.generation_growth(tokens(contexts=(128,))).words


def test_points_are_chosen_by_size_and_the_last_of_a_series_counts():
    twice = pd.concat([ratios(), ratios().assign(ratio_to_attention=9.0)])
    chosen = speed.select_points(twice, part="mixers", time=128)
    assert set(chosen["ratio_to_attention"]) == {9.0}
    assert set(chosen["config.time"]) == {128}
    with pytest.raises(AttnlabError, match="No record has time=64; there: 128, 512"):
        speed.select_points(ratios(), time=64)
    with pytest.raises(AttnlabError, match="No record has batch=1; there: none"):
        speed.select_points(ratios(), batch=1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_names_never_touch_and_keep_their_order(heights):
    placed = spread(sorted(heights), gap=0.05)
    assert len(placed) == len(heights)
    assert all(b - a >= 0.05 - 1e-6 for a, b in pairwise(placed))
    assert np.mean(placed) == pytest.approx(np.mean(heights))
