"""Pictures of notebook 06 hold what their numbers say, and say it in words."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.errors import AttnlabError
from attnlab.plots import fast_extractors as pictures
from attnlab.plots import fast_extractors_diagrams as diagrams
from attnlab.show.style import style

few = settings(deadline=None, max_examples=25)


@pytest.fixture(autouse=True)
def _closed():
    with style():
        yield
    plt.close("all")


@given(power=st.integers(1, 6), seed=st.integers(0, 99))
@few
def test_the_last_stage_is_the_transform(power, seed):
    x = np.random.default_rng(seed).normal(size=2**power)
    stages = diagrams.butterfly_stages(x)
    assert len(stages) == power + 1
    np.testing.assert_allclose(stages[-1], np.fft.fft(x), atol=1e-10)


def test_evens_come_first_at_every_level():
    assert diagrams.bit_reversed(8).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]


@pytest.mark.parametrize("length", [1, 3, 6])
def test_a_length_that_cannot_be_halved_is_refused(length):
    with pytest.raises(AttnlabError, match="2, 4, 8"):
        diagrams.butterfly_stages(np.ones(length))


def test_butterflies_show_the_numbers_and_count_the_products():
    ax = diagrams.plot_butterflies([1, 2, 3, 4])
    texts = [text.get_text() for text in ax.texts]
    assert any(text.endswith("= -2 + 2i") for text in texts)
    assert len(ax.lines) == 2 * 4 * 2  # two lines from each number of two stages
    words = diagrams.describe_butterflies([1, 2, 3, 4])
    assert "make 4, where the definition has 16" in words
    assert words.endswith("Result: 10, -2 + 2i, -2, -2 - 2i.")


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (-2 - 2j, "-2 - 2i"), (0.125 + 1e-12j, "0.12"), (-1e-12, "0")]
)
def test_complex_numbers_are_written_short(value, text):
    assert diagrams.complex_text(complex(value)) == text


@given(n_tokens=st.integers(1, 9), n_lags=st.integers(1, 9), extra=st.integers(0, 9))
@few
def test_nothing_wraps_around_exactly_when_the_sum_fits(n_tokens, n_lags, extra):
    length = n_tokens + extra
    lag = diagrams.wrapped_lags(n_tokens=n_tokens, n_lags=n_lags, length=length)
    leaks = (np.tri(n_tokens, k=-1) > 0) & (lag >= 0)
    words = diagrams.describe_wrap(n_tokens=n_tokens, n_lags=n_lags, length=length)
    fits = length >= n_tokens + n_lags - 1
    if n_tokens > 1:
        assert leaks.any() != fits
    assert ("nothing wraps around" in words) == (not leaks.any())


def test_the_map_of_lags_is_what_a_transform_computes():
    x, w, n = np.arange(1.0, 6), np.array([1.0, 10, 100]), 6
    lag = diagrams.wrapped_lags(n_tokens=5, n_lags=3, length=n)
    matrix = np.where(lag >= 0, w[lag], 0)
    circular = np.fft.irfft(np.fft.rfft(x, n) * np.fft.rfft(w, n), n)[:5]
    np.testing.assert_allclose(x @ matrix, circular)


def test_wrapped_pairs_have_another_colour():
    fig = diagrams.draw_wrap(length=8, n_lags=3)
    colours = [patch.get_facecolor() for patch in fig.axes[0].patches]
    assert len(colours) == 8 + 7 + 6 + 3
    assert len(set(colours)) == 2


def test_a_transform_shorter_than_the_text_is_refused():
    with pytest.raises(AttnlabError, match="cuts the sequence"):
        diagrams.wrapped_lags(n_tokens=8, n_lags=1, length=7)


@given(n_tokens=st.integers(1, 40))
@few
def test_tiles_and_tokens_cover_every_pair_once(n_tokens):
    covered = np.eye(n_tokens, dtype=int)
    for tile in diagrams.tiles(n_tokens):
        inputs = slice(tile.first_input, tile.first_output)
        covered[inputs, tile.first_output : tile.first_output + tile.size] += 1
    assert np.array_equal(covered, np.triu(np.ones_like(covered)))


@pytest.mark.parametrize("against", diagrams.AXES)
@pytest.mark.parametrize("n_seen", [1, 4, 7, 9])
def test_tilings_are_drawn_up_to_the_end_of_the_stream(against, n_seen):
    fig = diagrams.draw_tiling(n_tokens=7, n_seen=n_seen, against=against)
    n_outlined = 1 if n_seen < 7 else 0
    assert len(fig.axes[0].patches) == 6 + 7 + n_outlined


def test_the_words_name_the_tile_that_is_due():
    words = diagrams.describe_tiling(n_tokens=16, n_seen=12)
    assert "size 4 (outlined): inputs 8 to 11 give to outputs 12 to 15" in words
    slanted = diagrams.describe_tiling(n_tokens=16, n_seen=12, against="lag")
    assert slanted.endswith("Slanted cells are centred on their lag.")
    done = diagrams.describe_tiling(n_tokens=5, n_seen=9)
    assert done.endswith("so far: 100% of all pairs of an input and an output.")


def test_another_axis_of_a_tiling_is_refused():
    with pytest.raises(AttnlabError, match="input, lag"):
        diagrams.draw_tiling(n_tokens=4, n_seen=1, against="time")


def times(lags=(1.0, 8.0), fft=(2.0, 4.0)):
    rows = [
        {"name": "she", "label": label, "length": length, "median_ms": ms, "low_ms": 0.9 * ms,
         "high_ms": 1.1 * ms}
        for label, values in (("lags", lags), ("fft", fft))
        for length, ms in zip((8, 32), values, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_times_of_one_family_differ_in_marker_and_slowest_comes_first():
    ax = pictures.plot_times(times(), x_label="Tokens")
    assert [line.get_label() for line in ax.lines] == ["lags", "fft"]
    assert len({line.get_marker() for line in ax.lines}) == 2
    assert "fft 4; lags 8 (2.0 times). Bands" in pictures.describe_times(times())
    without = times()[lambda t: ~((t["label"] == "lags") & (t["length"] == 32))]
    assert "Too slow to be timed there: lags." in pictures.describe_times(without)


def test_a_crossover_is_the_first_length_at_which_lags_lose():
    assert pictures.crossover(times(), slow="lags") == 32
    assert pictures.crossover(times(fft=(0.5, 1.0)), slow="lags") == 8
    assert pictures.crossover(times(fft=(9.0, 9.0)), slow="lags") is None
    without = times()[lambda t: ~((t["label"] == "lags") & (t["length"] == 32))]
    assert pictures.crossover(without, slow="lags") == 32  # too slow to be measured there
    assert pictures.crossover(times(), slow="lags", fast=["fft"]) == 32


def test_exact_zeros_of_a_leak_lie_on_the_ground_line():
    changes = {"lags": [0, 0, 1.0], "fft": [1e-7, 2e-7, 1.0]}
    ax = pictures.plot_leaks(changes, changed_at=2)
    assert ax.lines[0].get_ydata()[0] == pictures.NOTHING
    words = pictures.describe_leaks(changes, changed_at=2)
    assert "lags exactly 0, fft 2e-07" in words


def test_prices_are_drawn_twice_and_their_growth_is_said():
    rows = [("ring", 8, 10.0), ("ring", 16, 20.0), ("tiles", 8, 5.0), ("tiles", 16, 6.0)]
    table = pd.DataFrame(rows, columns=["label", "context_len", "flops"])
    by_token = {"ring": [1, 2, 3], "tiles": [1, 7, 1]}
    fig = pictures.plot_token_prices(table, by_token, unit=1.0)
    assert [len(ax.lines) for ax in fig.axes] == [2, 2]
    words = pictures.describe_token_prices(table, by_token)
    assert "ring 2.0 times; tiles 1.2 times" in words
    assert "ring 2 times its mean; tiles 2 times its mean" in words


def test_rank_errors_name_the_rank_that_is_enough():
    errors = {"trained": [0.5, 0.05, 0.0]}
    assert len(pictures.plot_rank_errors(errors).lines) == 1
    words = pictures.describe_rank_errors(errors)
    assert "trained: 50% at rank 1 (HE), at most 10% from rank 2 of 3 on" in words


def starts(seeds=(0, 1)):
    keys = [(start, cure, seed) for start in ("small", "large") for cure in ("none", "gate")
            for seed in seeds]  # fmt: skip
    ends = pd.DataFrame(keys, columns=["start", "cure", "seed"]).assign(loss_nats=1.0)
    ends.loc[(ends["start"] == "large") & (ends["seed"] == 0), "loss_nats"] = np.nan
    curves = ends.merge(pd.DataFrame({"step": [1, 2, 3]}), how="cross")
    return ends, curves


def test_starts_survive_a_run_that_diverged():
    ends, curves = starts()
    fig = pictures.plot_starts(ends, curves, floors={"floor": 0.5})
    points = [line for line in fig.axes[1].lines if line.get_linestyle() == "None"]
    assert [len(line.get_xdata()) for line in points] == [4, 4]
    words = pictures.describe_starts(ends, floors={"floor": 0.5})
    assert "small: none 1.00, gate 1.00" in words
    assert "2 seeds; floor 0.50" in words


def test_one_seed_is_called_one():
    ends, _ = starts(seeds=(1,))
    assert "(1 seed;" in pictures.describe_starts(ends, floors={"floor": 0.5})


def test_losses_past_the_length_are_compared_inside_and_beyond():
    losses = {"she/window": np.r_[np.ones(16), np.full(16, 3.0)]}
    options = {"trained_len": 16, "labels": {"she/window": "a window"}}
    ax = pictures.plot_past_length(losses, oracle_nats=np.ones(32), **options)
    assert ax.lines[0].get_ydata().tolist() == [1, 1, 3, 3]
    assert "a window 1.00 and 3.00" in pictures.describe_past_length(losses, **options)


def test_a_race_orders_by_median_and_shows_every_round():
    rows = [("she", 1, 10.0), ("she", 2, 30.0), ("attention", 1, 5.0), ("attention", 2, 7.0)]
    laps = pd.DataFrame(rows, columns=["variant", "round", "tokens_per_s"])
    ax = pictures.plot_race(laps)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["SHE", "Attention"]
    assert [bar.get_width() for bar in ax.patches] == [20.0, 6.0]
    assert "SHE 20 (10 to 30); Attention 6 (5 to 7)" in pictures.describe_race(laps)


def test_costs_are_set_beside_attention_and_lags():
    costs = {"lags": 100.0, "fft": 20.0}
    ax = pictures.plot_costs(costs, level=40.0)
    assert [bar.get_width() for bar in ax.patches] == [20.0, 100.0]
    words = pictures.describe_costs(costs, level=40.0)
    assert "fft, 20 operations per token, 0.50 times" in words
    assert "5.0 times fewer than lags" in words
