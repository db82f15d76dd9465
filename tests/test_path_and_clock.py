"""The programs, pictures and explorer of notebook 05 count, draw and say what is so."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.analysis import critical_path, timing
from attnlab.errors import AttnlabError
from attnlab.mixers import build_mixer
from attnlab.plots import path_and_clock as pictures
from attnlab.show.style import style
from attnlab.teaching import path_and_clock
from attnlab.teaching.critical_path import levels, longest_chain
from attnlab.widgets import path_and_clock as explorer

PROGRAM = {
    "p": ("mul", ("x", "w")),
    "q": ("mul", ("y", "w")),
    "s": ("add", ("p", "q")),
    "r": ("mul", ("s", "v")),
}


@pytest.fixture(autouse=True)
def _closed():
    with style():
        yield
    plt.close("all")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=9), units=st.integers(1, 50))
@settings(deadline=None, max_examples=25)
def test_workers_finish_within_the_bounds(sizes, units):
    busy = path_and_clock.busy_workers(sizes, units=units)
    assert sum(busy) == sum(sizes)
    assert min(busy) > 0
    assert max(busy) <= units
    assert max(sum(sizes) / units, len(sizes)) <= len(busy) <= sum(sizes) / units + len(sizes)


@pytest.mark.parametrize("accumulate", ["tree", "sequential"])
@pytest.mark.parametrize("name", ["attention", "she"])
def test_levels_hold_all_the_work_and_are_as_many_as_the_depth(name, accumulate):
    sizes = {"d_model": 3, "context_len": 5}
    n = path_and_clock.level_sizes(name, accumulate=accumulate, **sizes)
    trace = critical_path.trace_step(build_mixer(name, **sizes))
    assert sum(n) == trace.n_operations
    assert len(n) == trace.depth(accumulate=accumulate)
    assert min(n) > 0


@pytest.mark.parametrize(("T", "d"), [(1, 1), (1, 3), (5, 2), (7, 3)])
def test_both_programs_of_the_sum_over_lags_agree_with_the_mixer(T, d):
    x, W = random(T, d), random(T, d, d, seed=1)
    loop, product = path_and_clock.loop_over_lags(x, W), path_and_clock.sum_over_lags(x, W)
    torch.testing.assert_close(loop, product)
    mixer = build_mixer("she", d_model=d, context_len=T, adjust="none", out_proj=False).double()
    with torch.no_grad():
        mixer.lag_weight.copy_(W)
        torch.testing.assert_close(mixer(x[None])[0, -1], product)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 13])
def test_both_programs_of_the_prefix_sums_agree(n):
    u = random(n, 3)
    by_doubling = path_and_clock.running_sum_by_doubling(u)
    torch.testing.assert_close(by_doubling, path_and_clock.running_sum(u))


def test_doubling_has_logarithmic_depth_and_more_work():
    u = torch.zeros(13, 1)
    one, other = (
        critical_path.trace_module(f, u)
        for f in (path_and_clock.running_sum_by_doubling, path_and_clock.running_sum)
    )
    assert one.depth(accumulate="sequential") == 4  # ceil(log2 13)
    assert other.depth(accumulate="sequential") == 12
    assert one.n_operations == 12 + 11 + 9 + 5  # what has a token 1, 2, 4, 8 places back
    assert other.n_operations == 12


@pytest.mark.parametrize("name", ["attention", "she", "he", "we", "me"])
def test_the_next_token_is_read_again_and_again_at_the_same_cost(name):
    program = path_and_clock.next_token(path_and_clock.page_mixer(name, size=8))
    assert program().shape == (1, 8)
    for _ in range(20):  # the ring has turned over
        program()
    counts = {path_and_clock.count_calls(program) for _ in range(3)}
    assert len(counts) == 1


def test_calls_are_counted():
    x = torch.ones(3)
    assert path_and_clock.count_calls(lambda: x + x) == 1
    assert path_and_clock.count_calls(lambda: (x + x) * x) == 2
    assert path_and_clock.count_calls(lambda: None) == 0


def test_rulers_are_ratios_of_the_two_programs():
    x, W = random(5, 2), random(5, 2, 2)
    one, other = (
        critical_path.trace_module(f, x, W)
        for f in (path_and_clock.sum_over_lags, path_and_clock.loop_over_lags)
    )
    time = timing.Ratio(median=0.5, low=0.4, high=0.6)
    row = path_and_clock.rulers("pair", one, other, time=time)
    assert row["work_ratio"] == 1
    assert row["depth_ratio"] == (1 + 4) / (1 + 1 + 4)  # tree over 10; tree over 2, then 4 more
    assert (row["low"], row["time_ratio"], row["high"]) == (0.4, 0.5, 0.6)


def test_the_clock_runs_on_one_thread_and_without_gradients():
    seen = []

    def program():
        seen.append((torch.get_num_threads(), torch.is_grad_enabled()))

    path_and_clock.clock({"a": program}, repeats=5)
    assert set(seen) == {(1, False)}


def test_a_race_has_one_row_a_size():
    race = path_and_clock.race_by_size([4, 8], repeats=5, name="we")
    assert race["d_model"].tolist() == [4, 8]
    assert (race["work_ratio"] < 1).all()
    assert (race[["time_ratio", "ms", "rival_ms"]] > 0).all().all()
    assert "WE / attention" in race["pair"][0]


def test_the_race_of_programs_has_one_row_a_pair():
    race = path_and_clock.race_programs(random(5, 2), random(5, 2, 2), random(9, 2), repeats=5)
    assert len(race) == 2
    assert (race["depth_ratio"] < 1).all()
    assert race["work_ratio"].tolist()[0] == 1 < race["work_ratio"].tolist()[1]


def test_a_program_is_drawn_level_by_level():
    ready, chain = levels(PROGRAM), longest_chain(PROGRAM)
    ax = pictures.plot_program(PROGRAM, levels=ready, chain=chain, named=["r"])
    written = [text.get_text() for text in ax.texts]
    assert written.count("×") == 3
    assert written.count("+") == 1
    assert "x   w" in written
    assert "r" in written
    words = pictures.describe_program(PROGRAM, levels=ready, chain=chain)
    assert words.startswith("4 operations on 3 levels; by level, from left to right: 2, 1, 1.")
    assert words.endswith("× + ×.")


def test_no_two_operations_of_a_level_lie_on_each_other():
    ax = pictures.plot_program(PROGRAM, levels=levels(PROGRAM))
    spots = [text.get_position() for text in ax.texts if text.get_text() in "×+"]
    assert len(set(spots)) == len(PROGRAM)


@pytest.mark.parametrize(("n", "depth"), [(2, 1), (3, 2), (5, 3), (8, 3)])
def test_sums_are_drawn_in_both_orders(n, depth):
    fig = pictures.draw_sums(n)
    assert [ax.get_title() for ax in fig.axes] == [
        f"One after the other: depth {n - 1}",
        f"In a tree: depth {depth}",
    ]
    words = pictures.describe_sums(n)
    assert f"takes {n - 1} addition" in words
    assert words.endswith(f"one of {depth}.")


def test_busy_workers_are_described():
    words = pictures.describe_busy_workers({"attention": [4, 4], "she": [4, 2, 1]}, units=4)
    assert "Attention 8 operations in 2 steps (100% of" in words
    assert "SHE 7 operations in 3 steps (58% of" in words
    assert words.endswith("Attention is done first.")
    tied = pictures.describe_busy_workers({"attention": [1], "she": [1]}, units=1)
    assert tied.startswith("1 worker:")
    assert tied.endswith("They are done together.")


def test_busy_workers_are_drawn_one_panel_a_program():
    fig = pictures.plot_busy_workers({"attention": [4, 4], "she": [4, 2, 1]}, units=4)
    assert [ax.texts[0].get_text() for ax in fig.axes] == ["Attention: 2 steps", "SHE: 3 steps"]


def race_table():
    return pd.DataFrame(
        {
            "pair": ["small", "large", "unclear"],
            "d_model": [16, 64, 128],
            "depth_ratio": [0.5, 0.5, 0.5],
            "work_ratio": [2.0, 8.0, 16.0],
            "time_ratio": [0.6, 5.0, 1.0],
            "low": [0.5, 4.0, 0.9],
            "high": [0.7, 6.0, 1.2],
        }
    )


def test_ratios_by_size_say_where_she_is_faster():
    words = pictures.describe_ratio_by_size(race_table())
    assert "d = ℓ = 16: depth 0.50, work 2.0, time 0.60 (0.50 to 0.70)" in words
    assert words.endswith("SHE is faster at 16 and slower at 64.")
    slow = pictures.describe_ratio_by_size(race_table().iloc[1:2])
    assert slow.endswith("SHE is faster at no size and slower at 64.")


def test_ratios_by_size_are_drawn_with_depth_and_work():
    ax = pictures.plot_ratio_by_size(race_table())
    assert [text.get_text() for text in ax.texts] == ["depth", "work", "clock"]
    np.testing.assert_array_equal(ax.lines[2].get_ydata(), [0.6, 5.0, 1.0])


def test_rulers_say_whether_the_shorter_path_is_faster():
    words = pictures.describe_rulers(race_table())
    for said in ("so faster", "so slower", "so not clearly either"):
        assert words.count(said) == 1
    ax = pictures.plot_rulers(race_table())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["small", "large", "unclear"]


def test_no_pair_is_refused():
    with pytest.raises(AttnlabError, match="at least one row"):
        pictures.plot_rulers(race_table().iloc[:0])


def test_the_winner_changes_with_the_workers_and_with_the_order():
    small = {"size": 8, "accumulate": "tree"}
    assert explorer.describe_workers(units=8, **small).endswith("Attention is done first.")
    assert explorer.describe_workers(units=128, **small).endswith("SHE is done first.")
    in_a_row = explorer.describe_workers(units=256, size=8, accumulate="sequential")
    assert in_a_row.endswith("Attention is done first.")


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("units", [1, 128, 256])
def test_every_setting_of_the_explorer_is_drawn(units, size):
    for accumulate in explorer.ORDERS:
        fig = explorer.draw_workers(units=units, size=size, accumulate=accumulate)
        assert len(fig.axes) == 2
        plt.close(fig)


def test_the_explorer_shows_its_stills_and_its_panel(capsys):
    panel = explorer.show_worker_explorer()
    assert set(panel.controls) == {"units", "size", "accumulate"}
    panel.controls["units"].value = 256
    assert "256 workers" in panel.status.value
