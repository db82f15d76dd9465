"""The clock: turns in shuffled order, refusals, ratios of a round, peaks, memory."""

import inspect
import itertools
import runpy
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import benchmark

from attnlab.analysis import timing
from attnlab.analysis.timing import (
    Peaks,
    Timings,
    compare,
    gflop_per_s,
    keep_pages,
    machine_peaks,
    peak_memory_mib,
    pinned_threads,
    saved_for_backward_mib,
)
from attnlab.errors import AttnlabError, UnknownNameError


class FakeTime:
    """A clock that only moves when a candidate says it worked, and when it is read."""

    def __init__(self, reading=0.0):
        self.now, self.reading = 0.0, reading
        self.calls = []

    def __call__(self):
        self.now += self.reading
        return self.now

    def work(self, name, seconds):
        steps = itertools.cycle([seconds] if isinstance(seconds, float) else seconds)

        def call():
            self.calls.append(name)
            self.now += next(steps)

        return call


def test_every_round_runs_every_candidate_once_in_shuffled_order():
    clock = FakeTime()
    names = ["a", "b", "c", "d"]
    timings = compare({n: clock.work(n, 0.01) for n in names}, repeats=9, clock=clock, seed=3)
    assert all(sorted(turn) == names for turn in timings.order)
    assert len(set(timings.order)) > 3
    n_before = len(names) * 2  # a call to see how long it takes, and a block as a warm-up
    played = clock.calls[n_before:]
    assert played == [name for turn in timings.order for name in turn]


def test_the_same_seed_gives_the_same_order():
    orders = []
    for seed in (1, 1, 2):
        clock = FakeTime()
        calls = {n: clock.work(n, 0.01) for n in "abcde"}
        orders.append(compare(calls, repeats=6, clock=clock, seed=seed).order)
    assert orders[0] == orders[1] != orders[2]


def test_median_and_quartiles_are_those_of_the_rounds():
    clock = FakeTime()
    # the calibration and the warm-up take the first two
    slow = clock.work("slow", [0.5, 0.5, 0.010, 0.020, 0.030, 0.040, 0.050])
    fast = clock.work("fast", 0.004)
    timings = compare({"slow": slow, "fast": fast}, repeats=5, clock=clock)
    table = timings.table()
    assert list(table["name"]) == ["fast", "slow"]
    row = table.iloc[1]
    assert [row["low_ms"], row["median_ms"], row["high_ms"]] == pytest.approx([20, 30, 40])
    assert row["n_repeats"] == 5


@pytest.mark.parametrize("seconds", [3e-6, 1e-4, 7e-4, 2e-3])
def test_short_calls_are_repeated_until_a_block_is_long_enough(seconds):
    clock = FakeTime(reading=1e-6)
    timings = compare({"x": clock.work("x", seconds)}, repeats=5, clock=clock)
    n = timings.n_calls["x"]
    assert n * seconds >= timing.BLOCK_S
    assert n == 1 or n / 10 * seconds <= timing.BLOCK_S
    assert timings.samples_ms["x"] == pytest.approx([1e3 * seconds] * 5, rel=3e-3)


def test_a_clock_too_coarse_to_see_one_call_still_ends():
    class Coarse(FakeTime):
        def __call__(self):
            return round(self.now, 2)

    clock = Coarse()
    timings = compare({"x": clock.work("x", 1e-5)}, repeats=5, clock=clock)
    assert timings.n_calls["x"] >= 100


def test_times_are_per_piece_of_work():
    clock = FakeTime()
    calls = {"all": clock.work("all", 0.3), "one": clock.work("one", 0.1)}
    timings = compare(calls, repeats=5, clock=clock, pieces={"all": 30})
    assert timings.ratio("all", to="one").median == pytest.approx(0.1)


def test_a_ratio_is_taken_within_each_round():
    clock = FakeTime()
    drift = [0.01 * 2**k for k in range(9)]  # the machine gets slower and slower
    calls = {
        "she": clock.work("she", [3 * d for d in (drift[0], drift[0], *drift[:7])]),
        "attention": clock.work("attention", [drift[0], drift[0], *drift[:7]]),
    }
    ratio = compare(calls, repeats=7, clock=clock).ratio("she", to="attention")
    assert [ratio.low, ratio.median, ratio.high] == pytest.approx([3.0, 3.0, 3.0])


def timings_of(**samples):
    return Timings(
        samples_ms={name: tuple(values) for name, values in samples.items()},
        order=(),
        n_calls={},
    )


def test_the_interval_is_that_of_the_sign_test():
    # n = 15: leaving out 3 at each end errs with chance 2 (1 + 15 + 105 + 455) / 2^15 = 0.035,
    # leaving out 4 with chance 0.118
    ratio = timings_of(a=range(1, 16), b=[1.0] * 15).ratio("a", to="b")
    assert (ratio.low, ratio.median, ratio.high) == (4.0, 8.0, 12.0)
    # n = 5: even the whole range errs with chance 2 / 2^5 = 0.0625
    ratio = timings_of(a=[5, 1, 3, 2, 4], b=[1.0] * 5).ratio("a", to="b")
    assert (ratio.low, ratio.high) == (1.0, 5.0)


@given(st.lists(st.floats(0.1, 10), min_size=5, max_size=40))
def test_the_interval_holds_the_median(values):
    ratio = timings_of(a=values, b=[1.0] * len(values)).ratio("a", to="b")
    assert min(values) <= ratio.low <= ratio.median <= ratio.high <= max(values)


def test_the_interval_covers_the_true_median_as_often_as_it_says():
    generator = np.random.default_rng(0)
    n_hits, n_trials = 0, 2000
    for _ in range(n_trials):
        values = generator.lognormal(size=11)  # its median is 1
        ratio = timings_of(a=values, b=[1.0] * 11).ratio("a", to="b")
        n_hits += ratio.low <= 1.0 <= ratio.high
    # leaving out 1 at each end of 11 errs with chance 2 (1 + 11) / 2^11 = 0.0117; 2 with 0.065
    spread = (0.0117 * 0.9883 / n_trials) ** 0.5
    assert abs(1 - n_hits / n_trials - 0.0117) < 4 * spread


def test_an_unknown_candidate_is_answered_with_those_there_are():
    with pytest.raises(UnknownNameError, match="Did you mean 'attention'"):
        timings_of(attention=[1.0] * 5).ratio("attention", to="attentoin")


def test_no_time_is_reported_without_spread():
    with pytest.raises(AttnlabError, match=r"repeats=4 .* Use 5 or more"):
        compare({"x": lambda: None}, repeats=4)
    with pytest.raises(AttnlabError, match="at least one candidate"):
        compare({})


def test_the_clock_waits_for_the_graphics_card(monkeypatch):
    log = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: log.append("synchronize"))
    # torch before 2.13 looks for a card once, when its clock is imported
    clock = runpy.run_path(sys.modules[benchmark.Timer.__module__].__file__)["timer"]
    assert inspect.signature(compare).parameters["clock"].default is benchmark.timer
    compare({"x": lambda: log.append("call")}, repeats=5, clock=clock)
    n = log[::-1].index("synchronize", 1)  # calls of the last sample
    assert log[-n - 1 :] == ["synchronize", *["call"] * (n - 1), "synchronize"]


def raise_in(n_threads, expected):
    with pinned_threads(n_threads):
        assert torch.get_num_threads() == expected
        raise RuntimeError("broken")


def test_pinned_threads_are_put_back_even_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="broken"):
        raise_in(before + 1, before + 1)
    assert torch.get_num_threads() == before
    with pytest.raises(AttnlabError, match="threads=0"):
        raise_in(0, before)


def test_the_collector_is_off_while_timing_and_on_again_after():
    import gc

    seen = []
    compare({"x": lambda: seen.append(gc.isenabled())}, repeats=5)
    assert not any(seen)
    assert gc.isenabled()


def test_the_share_of_the_roof_is_of_matrix_products():
    peaks = Peaks(gemm_gflops=200.0, copy_gb_s=1.0, rfft_gflops=1.0, n_threads=1)
    # 3 GFLOP in 30 ms are 100 GFLOP/s, half of 200
    assert gflop_per_s(3e9, ms=30.0) == pytest.approx(100.0)
    assert peaks.fraction(3e9, ms=30.0) == pytest.approx(0.5)


def test_peaks_of_this_machine_are_positive_and_leave_the_threads_alone():
    before = torch.get_num_threads()
    peaks = machine_peaks(threads=1, seconds=0.01)
    assert torch.get_num_threads() == before
    assert peaks.n_threads == 1
    assert min(peaks.gemm_gflops, peaks.copy_gb_s, peaks.rfft_gflops) > 0


def test_saved_memory_counts_each_storage_once_and_no_weights():
    weight = torch.randn(256, 128, requires_grad=True)
    x = torch.randn(512, 128, requires_grad=True)
    mib = 512 * 128 * 4 / 2**20

    def twice():
        y = x @ weight.mT[:, :128]  # keeps x and a view of the weight
        return y * y  # keeps y, for both factors

    assert saved_for_backward_mib(twice, parameters=[weight]) == pytest.approx(2 * mib)
    with_weight = saved_for_backward_mib(twice)
    assert with_weight == pytest.approx(2 * mib + weight.nbytes / 2**20)


def test_nothing_is_saved_where_nothing_needs_a_gradient():
    x = torch.randn(64, 64)
    assert saved_for_backward_mib(lambda: (x * x).exp()) == 0.0


def test_peak_memory_is_the_most_alive_together():
    size = 2**18  # one MiB of float32

    def one_after_the_other():
        for _ in range(4):
            torch.ones(size)

    def all_together():
        return [torch.ones(size) for _ in range(4)]

    def views():
        x = torch.ones(size)
        return x.view(2, -1).mT.expand(3, -1, -1), x.add_(1)

    assert peak_memory_mib(one_after_the_other) == pytest.approx(1.0)
    assert peak_memory_mib(all_together) == pytest.approx(4.0)
    assert peak_memory_mib(views) == pytest.approx(1.0)


def test_peak_memory_sees_the_backward_pass_but_not_what_was_there_before():
    x = torch.ones(2**18, requires_grad=True)

    def step():
        y = x.exp()
        y.backward(torch.ones_like(y))
        return x.grad.zero_()

    assert peak_memory_mib(step) == pytest.approx(3.0)  # y, its gradient, that of x
    assert peak_memory_mib(lambda: x.detach().mul_(1)) == 0.0


def test_peak_memory_on_cuda_is_what_the_allocator_saw(monkeypatch):
    answers = {
        "synchronize": None,
        "reset_peak_memory_stats": None,
        "memory_allocated": 2**20,
        "max_memory_allocated": 5 * 2**20,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    assert peak_memory_mib(lambda: None, device="cuda") == pytest.approx(4.0)


def test_pages_are_kept_where_the_system_can_be_told():
    assert keep_pages() == sys.platform.startswith("linux")
