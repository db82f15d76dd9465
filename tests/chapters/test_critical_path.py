"""Chapter 05: programs, pictures and judges count, draw and say what is so."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from chapter_tests import ChapterTests
from hypothesis import given
from hypothesis import strategies as st

from attnlab.analysis import critical_path, theory
from attnlab.chapters.critical_path import checks, live, pictures
from attnlab.mixers import build_mixer

PROGRAM = {
    "p": ("mul", ("x", "w")),
    "q": ("mul", ("y", "w")),
    "s": ("add", ("p", "q")),
    "r": ("mul", ("s", "v")),
}
GROWTH = pd.DataFrame(
    [("she", 4, 9), ("she", 1, 7), ("me", 1, 2), ("me", 4, 4)],
    columns=["name", "context_len", "depth"],
)
COSTS = pd.DataFrame(
    [("attention", 200, 48), ("she", 4248, 24), ("he", 130, 19)], columns=["name", "work", "depth"]
)
RACE = pd.DataFrame(
    {"pair": ["small", "large", "unclear"], "d_model": [16, 64, 128], "depth_ratio": [0.5] * 3,
     "work_ratio": [2.0, 8.0, 16.0], "time_ratio": [0.6, 5.0, 1.0], "low": [0.5, 4.0, 0.9],
     "high": [0.7, 6.0, 1.2]}
)  # fmt: skip


def path(**changes):
    setting = {"mixer": "she", "context_len": 128, "d_model": 128, "accumulate": "tree"}
    return pictures.beside_attention(**{**setting, **changes})


def workers(*, units, size=8, accumulate="tree"):
    return pictures.workers(units=units, size=size, accumulate=accumulate)


class TestChapter(ChapterTests):
    SLUG = "critical_path"
    PICTURES = {  # noqa: RUF012
        "program": (
            lambda: pictures.program(PROGRAM, named=["r"]),
            "4 operations on 3 levels; by level, from left to right: 2, 1, 1. Thick: one longest "
            "chain, × + ×.",
        ),
        "sums": (
            lambda: pictures.sums(5),
            "5 terms takes 4 additions in any order. One after the other they form a chain of 4; "
            "in a tree, side by side where possible, one of 3.",
        ),
        "beside_attention": (
            path,
            "The chain of SHE is 0.50 times as long as that of Attention. "
            # 128^3 + 2 * 128^2 + 128 over 4 * 128^2 + 2 * 128^2 + 4 * 128
            "SHE multiplies 22 times as often as attention.",
        ),
        "depth_growth": (lambda: pictures.depth_growth(GROWTH), "SHE from 7 at 1 to 9 at 4; ME"),
        "depth_growth/one row": (
            lambda: pictures.depth_growth(GROWTH[:1]),
            "SHE from 9 at 4 to 9 at 4.",
        ),
        "bound": (
            lambda: pictures.bound(COSTS),
            "HE 130 operations, depth 19. SHE is below Attention above about 170 workers.",
        ),
        "bound/no crossing": (
            lambda: pictures.bound(COSTS[COSTS["name"] != "she"]),
            "depth 19. No two curves cross.",
        ),
        "workers": (lambda: workers(units=1, size=2), "1 worker: Attention"),
        "ratio_by_size": (
            lambda: pictures.ratio_by_size(RACE),
            "d = ℓ = 16: depth 0.50, work 2.0, time 0.60 (0.50 to 0.70); d = ℓ = 64",
        ),
        "ratio_by_size/slow": (
            lambda: pictures.ratio_by_size(RACE[1:2]),
            "SHE is faster at no size and slower at 64.",
        ),
        "rulers": (lambda: pictures.rulers(RACE), "time 1, so not clearly either."),
    }
    PANELS = {  # noqa: RUF012
        "beside_attention": lambda: (pictures.beside_attention, pictures.path_dials()),
        "workers": lambda: (pictures.workers, pictures.WORKER_DIALS),
    }


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=9), units=st.integers(1, 50))
def test_workers_finish_within_the_bounds(sizes, units):
    busy = live.busy_workers(sizes, units=units)
    assert sum(busy) == sum(sizes)
    assert 0 < min(busy) <= max(busy) <= units
    assert max(sum(sizes) / units, len(sizes)) <= len(busy) <= sum(sizes) / units + len(sizes)


@pytest.mark.parametrize("accumulate", ["tree", "sequential"])
@pytest.mark.parametrize("name", ["attention", "she"])
def test_levels_hold_all_the_work_and_are_as_many_as_the_depth(name, accumulate):
    sizes = {"d_model": 3, "context_len": 5}
    n = live.level_sizes(name, accumulate=accumulate, **sizes)
    trace = critical_path.trace_step(build_mixer(name, **sizes))
    assert sum(n) == trace.n_operations
    assert len(n) == trace.depth(accumulate=accumulate)
    assert min(n) > 0


def test_the_winner_changes_with_the_workers_and_with_the_order():
    assert workers(units=8).words.endswith("Attention is done first.")
    assert workers(units=128).words.endswith("SHE is done first.")
    in_a_row = workers(units=256, accumulate="sequential")
    assert in_a_row.words.endswith("Attention is done first.")


def test_busy_workers_are_drawn_and_their_share_is_told(monkeypatch):
    levels_of = {"attention": (4, 4), "she": (4, 2, 1)}
    monkeypatch.setattr(pictures, "level_sizes", lambda name, **_: levels_of[name])
    one = workers(units=4)
    assert "Attention 8 operations in 2 steps (100% of" in one.words
    assert "SHE 7 operations in 3 steps (58% of" in one.words
    shown = [ax.texts[0].get_text() for ax in one.fig.axes]
    assert shown == ["Attention: 2 steps", "SHE: 3 steps"]
    levels_of["she"] = (4, 4)
    assert workers(units=4).words.endswith("They are done together.")


def test_calls_are_counted():
    x = torch.ones(3)
    assert live.count_calls(lambda: x + x) == 1
    assert live.count_calls(lambda: (x + x) * x) == 2
    assert live.count_calls(lambda: None) == 0


def test_a_race_is_run_on_one_thread_without_gradients_and_gives_ratios():
    seen, x, W = [], torch.ones(5, 2), torch.ones(5, 2, 2)

    def note():
        seen.append((torch.get_num_threads(), torch.is_grad_enabled()))

    def product(x, W):
        return x.flip(0).flatten() @ W.flatten(0, 1)

    def loop(x, W):
        e = x[-1] @ W[0]
        for j in range(1, len(x)):
            e = e + x[-1 - j] @ W[j]
        return e

    def slow():
        note()
        sum(range(20_000))

    traces = [critical_path.trace_module(f, x, W) for f in (product, loop)]
    row = live.race("pair", {"quick": note, "slow": slow}, traces, repeats=5)
    assert set(seen) == {(1, False)}
    assert row["work_ratio"] == 1
    assert row["depth_ratio"] == (1 + 4) / (1 + 1 + 4)  # tree over 10; tree over 2, then 4 more
    assert row["low"] <= row["time_ratio"] <= row["high"] < 1
    assert row["ms"] < row["rival_ms"]
    in_a_row = live.race("pair", {"a": note, "b": slow}, traces, repeats=5, accumulate="sequential")
    assert in_a_row["depth_ratio"] == (1 + 9) / (1 + 1 + 4)


def test_the_longest_chain_is_as_long_as_the_depth_and_unbroken():
    for _, program in checks.check_depth.cases:
        chain = live.longest_chain(program)
        assert len(chain) == checks.depth(program)
        assert all(before in program[after][1] for before, after in pairwise(chain))


def test_a_program_is_drawn_level_by_level_and_no_two_operations_on_each_other():
    ax = pictures.program(PROGRAM, named=["r"]).ax
    written = [text.get_text() for text in ax.texts]
    assert (written.count("×"), written.count("+"), written.count("r")) == (3, 1, 1)
    assert "x   w" in written
    spots = [text.get_position() for text in ax.texts if text.get_text() in "×+"]
    assert len(set(spots)) == len(PROGRAM)
    assert sorted(x for x, _ in spots) == [1, 1, 2, 3]


@pytest.mark.parametrize(("n", "depth"), [(2, 1), (3, 2), (5, 3), (8, 3)])
def test_sums_are_drawn_in_both_orders(n, depth):
    titles = [ax.get_title() for ax in pictures.sums(n).fig.axes]
    assert titles == [f"One after the other: depth {n - 1}", f"In a tree: depth {depth}"]


@pytest.mark.parametrize("accumulate", ["tree", "sequential"])
@pytest.mark.parametrize("mixer", ["she", "he", "we", "me"])
def test_the_links_are_those_of_the_traced_modules(mixer, accumulate):
    sizes = {"d_model": 8, "context_len": 8}
    table = pictures.chains_table(("attention", mixer), accumulate=accumulate, **sizes)
    for name, rows in table.groupby("mixer"):
        heads = {"n_heads": 4} if name == "attention" else {}
        step = critical_path.trace_step(build_mixer(name, **sizes, **heads))
        traced = step.longest_path(accumulate=accumulate).table()
        columns = ["kind", "depth", "name"]
        assert rows[columns].values.tolist() == traced[columns].values.tolist()


def test_paths_follow_their_dials():
    assert "SHE: 28 operations" in path(context_len=2048).words
    assert "HE: 22 operations" in path(context_len=2048, mixer="he").words
    assert "sums one by one" in path(accumulate="sequential").words
    # 1 + 2 + 1 of 4 + 2 + 1
    assert "multiplies 0.57 times" in path(context_len=1, d_model=1).words


def test_curves_are_logarithmic_and_crossings_marked():
    ax = pictures.bound(COSTS).ax
    # (4248 - 200) / (48 - 24) = 168.7 workers
    assert "170 workers" in [text.get_text() for text in ax.texts]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.lines[0].get_ydata()[0] == 200 + 48


def test_ratios_are_drawn_with_depth_and_work_and_told():
    one = pictures.ratio_by_size(RACE)
    assert [text.get_text() for text in one.ax.texts] == ["depth", "clock", "work"]
    np.testing.assert_array_equal(one.ax.lines[2].get_ydata(), [0.6, 5.0, 1.0])
    assert "By the clock SHE is faster at 16 and slower at 64." in one.words
    said = pictures.rulers(RACE).words
    assert (said.count("so faster"), said.count("so slower")) == (1, 1)


@given(n=st.integers(1, 10**6))
def test_a_tree_halves_the_terms_at_each_level(n):
    n_levels, left = 0, n
    while left > 1:
        left, n_levels = (left + 1) // 2, n_levels + 1
    assert checks.tree_depth(n) == n_levels


@given(
    works=st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)),
    depths=st.tuples(st.integers(1, 99), st.integers(1, 99)),
    above=st.floats(1.01, 100),
)
def test_above_the_crossover_the_bound_is_the_smaller_one(works, depths, above):
    (work_a, work_b), (depth_a, depth_b) = works, depths
    units = checks.crossover(work_a, depth_a, work_b, depth_b)
    if math.isinf(units):
        many = 1e12  # workers: only the depths are left
        assert work_a / many + depth_a >= work_b / many + depth_b - 1e-5
        return
    for P in (units * above, units * above**2):
        assert work_a / P + depth_a < work_b / P + depth_b


@pytest.mark.parametrize("accumulate", ["tree", "sequential"])
@pytest.mark.parametrize("name", ["she", "he", "we", "me"])
def test_the_crossover_is_that_of_the_tracer(name, accumulate):
    sizes = {"d_model": 3, "context_len": 5}
    one, other = (critical_path.trace_step(build_mixer(n, **sizes)) for n in (name, "attention"))
    both = [(each.n_operations, each.depth(accumulate=accumulate)) for each in (one, other)]
    expected = critical_path.crossover_units(one, other, accumulate=accumulate)
    assert checks.crossover(*both[0], *both[1]) == (math.inf if expected is None else expected)


def test_the_numbers_in_the_answers_of_the_page():
    # softmax: largest of 128, difference, exponential, sum of 128, division
    assert checks.tree_depth(128) + 1 + 1 + checks.tree_depth(128) + 1 == 17
    sizes = {"d_model": 128, "context_len": 128}
    # without the largest score and its difference, and with the sum of exponentials off the path
    for n_heads, depth in ((4, 33), (1, 35)):
        guarded = theory.expected_depth("attention", n_heads=n_heads, **sizes)
        assert guarded - (7 + 1) - 7 == depth
