"""Chapter 10, the price of one more token: drawn from rows of the clock, and said in words."""

import itertools

import pandas as pd
import pytest

from attnlab.chapters import load_figures
from attnlab.chapters.other_mixers import prices
from attnlab.mixers import list_mixers
from attnlab.show import look
from attnlab.studies import clock

RATIOS = {"attention": (1.0, 1.0), "she": (0.5, 2.0), "hyena": (0.25, 0.75), "s4d": (1.5, 0.125)}


def some_runs(batches=(1, 16)):
    """Return rows of races at contexts 128 and 4096; twice as dear a ratio at batch 16."""
    rows = [
        {"variant": name, "seed": seed, "config.batch": batch, "config.context_len": context,
         "config.repeats": 5, "state_bytes": 2.0**21 if name == "she" else 3072.0,
         **{f"ratio_to_attention{end}": f * (1 + seed) * (1 if batch == 1 else 2) * ratio
            for end, f in (("_low", 0.9), ("", 1.0), ("_high", 1.1))}}
        for batch, seed in itertools.product(batches, (0,))
        for name, ratios in RATIOS.items()
        for context, ratio in zip((128, 4096), ratios, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_rows_are_sorted_by_price_and_say_the_state():
    one = prices.streaming_price(some_runs())
    left, right = one.fig.axes
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert labels == ["SHE, 2 MiB", f"{look('hyena').label}, 3 KiB", f"{look('s4d').label}, 3 KiB"]
    filled = [line.get_xdata()[0] for line in right.lines if line.get_linestyle() == "None"][1::2]
    assert filled == pytest.approx([4.0, 1.5, 0.25])
    assert [ax.get_title() for ax in (left, right)] == ["batch 1", "batch 16"]


def test_words_count_what_is_surely_cheaper_and_name_every_price():
    words = prices.streaming_price(some_runs()).words
    assert "filled at 4,096 tokens of context, hollow at 128, bars the interval of 5" in words
    assert "Batch 1, 2 of 3 surely cheaper: S4D 0.12, Hyena 0.75 and SHE 2." in words
    assert "Batch 16, 1 of 3 surely cheaper: S4D 0.25, Hyena 1.5 and SHE 4." in words
    assert len(prices.streaming_price(some_runs(batches=(1,))).fig.axes) == 1


def test_without_records_the_picture_says_which_command_makes_them():
    words = prices.streaming_price(pd.DataFrame()).words
    assert "not recorded yet: attnlab bench streaming --scale paper --record" in words


def test_the_figure_is_of_the_newest_series(monkeypatch):
    assert "streaming-price" in load_figures()
    old, new = some_runs(), some_runs().assign(seed=1)
    new["ratio_to_attention"] *= 10
    asked = []

    def load_runs(name, *, columns):
        asked.append(name)
        return pd.concat([new, old])

    monkeypatch.setattr(prices, "load_runs", load_runs)
    assert "SHE 20" in prices.recorded_streaming_price().words
    assert asked == [prices.RECORDS]


def test_a_smoke_race_of_all_mixers_is_drawn():
    plan = clock.SpeedPlan(part="streaming")
    race = next(clock.every_stream_races(plan))
    peaks = clock.Peaks(gemm_gflops=100.0, copy_gb_s=10.0, rfft_gflops=5.0, n_threads=1)
    table = clock.as_table(clock.run_race(race, plan, peaks=peaks))
    words = prices.streaming_price(table).words
    for name in list_mixers():
        assert name == "attention" or f"{look(name).label} " in words
