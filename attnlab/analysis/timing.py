"""Programs against the clock: interleaved rounds, medians with their spread, paired ratios.

A lone time says little: machines differ, and one machine differs from minute to minute. Here
candidates take turns in shuffled order, so that a slow minute hits all of them, and what is
compared is the ratio within a round. Peaks of the same machine say how near a program came to it.
"""

from __future__ import annotations

import gc
import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.seeding import numpy_generator, torch_generator
from attnlab.training.speed import onednn_is_exact, product_route

MIN_REPEATS, MIN_WARMUP = 5, 1
MIN_SAMPLE_S = 1e-3  # a sample repeats a short call until the clock can tell it from nothing

Call = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """A ratio of two times: median over rounds, and an interval for that median."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Times of several candidates that ran side by side.

    Args:
        samples_ms: By candidate, milliseconds a piece, one value a round.
        order: The candidates in the order in which each round ran them.
        n_calls: By candidate, how many calls one sample spans.
        n_warmup: Calls of each candidate before the first sample.
        n_threads: Threads that torch used.
    """

    samples_ms: Mapping[str, tuple[float, ...]]
    order: tuple[tuple[str, ...], ...]
    n_calls: Mapping[str, int]
    n_warmup: int
    n_threads: int
    device: str

    def table(self) -> pd.DataFrame:
        """Return one row a candidate, fastest first: median, first and third quartile."""
        rows = []
        for name, samples in self.samples_ms.items():
            low, median, high = np.quantile(samples, [0.25, 0.5, 0.75])
            rows.append((name, median, low, high, len(samples)))
        columns = ["name", "median_ms", "low_ms", "high_ms", "n_repeats"]
        table = pd.DataFrame(rows, columns=columns)
        return table.sort_values("median_ms", kind="stable", ignore_index=True)

    def ratio(self, name: str, *, to: str, level: float = 0.95) -> Ratio:
        """Return how many times as long ``name`` took as ``to``, round by round.

        The interval is that of the sign test: it contains the median of all rounds there could
        be with at least this chance, whatever their distribution; below 6 rounds it is the
        whole range.
        """
        for each in (name, to):
            if each not in self.samples_ms:
                step = "Compare candidates of the same run."
                raise UnknownNameError("timed candidate", each, self.samples_ms, next_step=step)
        pairs = zip(self.samples_ms[name], self.samples_ms[to], strict=True)
        ratios = np.sort([one / other for one, other in pairs])
        skipped = _ranks_outside(len(ratios), level)
        low, high = float(ratios[skipped]), float(ratios[-1 - skipped])
        return Ratio(median=float(np.median(ratios)), low=low, high=high)


def _ranks_outside(n: int, level: float) -> int:
    """Return how many values at each end the sign test's interval for the median leaves out."""
    outside, tail = 0, 1 / 2**n
    while 2 * (tail + math.comb(n, outside + 1) / 2**n) <= 1 - level:
        outside += 1
        tail += math.comb(n, outside) / 2**n
    return outside


def compare(
    candidates: Mapping[str, Call],
    *,
    repeats: int = 15,
    warmup: int = 3,
    device: str = "cpu",
    seed: int = 0,
    pieces: Mapping[str, int] | None = None,
    setting: Callable[[str], AbstractContextManager[object]] | None = None,
    clock: Clock = time.perf_counter,
) -> Timings:
    """Time candidates in turns: every round runs all of them once, in a shuffled order.

    Args:
        candidates: Programs without arguments, by name.
        repeats: Rounds, at least 5: fewer have no spread worth the name.
        warmup: Calls of each before the first round, at least 1: the first ones build caches.
        device: ``cpu``, or ``cuda`` for the device's own clock with synchronisation.
        seed: Of the stream that shuffles the rounds.
        pieces: How many equal pieces of work a call does, where not one; times are per piece.
        setting: From a name to the state of the process in which that candidate runs; entered
            outside the clock.
        clock: Seconds, for the CPU.
    Raises:
        AttnlabError: No candidate, too few repeats or no warm-up.
    """
    _require_enough(candidates, repeats, warmup)
    around = setting or (lambda _: nullcontext())
    generator = numpy_generator(seed, "order")
    names, rounds = list(candidates), []
    samples: dict[str, list[float]] = {name: [] for name in names}
    with _no_collection():
        n_calls = {}
        for name, call in candidates.items():
            with around(name):
                n_calls[name] = _warmed_up(call, warmup, device=device, clock=clock)
        for _ in range(repeats):
            rounds.append(tuple(names[i] for i in generator.permutation(len(names))))
            for name in rounds[-1]:
                with around(name):
                    taken = _seconds(candidates[name], n_calls[name], device=device, clock=clock)
                samples[name].append(1e3 * taken / n_calls[name] / (pieces or {}).get(name, 1))
    return Timings(
        samples_ms={name: tuple(values) for name, values in samples.items()},
        order=tuple(rounds),
        n_calls=n_calls,
        n_warmup=warmup,
        n_threads=torch.get_num_threads(),
        device=device,
    )


def _warmed_up(call: Call, n_calls: int, *, device: str, clock: Clock) -> int:
    """Call often enough to build caches, then return how many calls make a sample."""
    for _ in range(n_calls):
        call()
    return _calls_per_sample(call, device=device, clock=clock)


def _require_enough(candidates: Mapping[str, Call], repeats: int, warmup: int) -> None:
    if not candidates:
        raise AttnlabError("There is nothing to time: give at least one candidate.")
    if repeats < MIN_REPEATS:
        raise AttnlabError(
            f"repeats={repeats} shows no spread, and a time without spread is not reported. "
            f"Use {MIN_REPEATS} or more."
        )
    if warmup < MIN_WARMUP:
        raise AttnlabError(
            f"warmup={warmup}: the first call pays for caches and memory that later ones find "
            f"ready. Use {MIN_WARMUP} or more."
        )


def _calls_per_sample(call: Call, *, device: str, clock: Clock) -> int:
    """Return how many calls it takes to fill a millisecond."""
    n = 1
    while (taken := _seconds(call, n, device=device, clock=clock)) < MIN_SAMPLE_S:
        wanted = math.ceil(1.2 * n * MIN_SAMPLE_S / taken) if taken > 0 else 100 * n
        n = min(max(wanted, n + 1), 100 * n)
    return n


def _seconds(call: Call, n_calls: int, *, device: str, clock: Clock) -> float:
    if device.startswith("cuda"):
        return _seconds_on_device(call, n_calls)
    started = clock()
    for _ in range(n_calls):
        call()
    return clock() - started


def _seconds_on_device(call: Call, n_calls: int) -> float:
    """Time by events in the device's own queue: the CPU only submits, and returns too early."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(n_calls):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the samples."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def pinned_threads(n: int) -> Iterator[None]:
    """Let torch use exactly ``n`` threads inside the block, and as many as before after it."""
    if n < 1:
        raise AttnlabError(f"threads={n} cannot compute anything; use 1 or more.")
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """The most that this machine was seen to do in one second, with so many threads.

    A product of matrices counts a multiplication and an addition for each term; a transform
    of n real numbers counts 2.5 n log2 n.
    """

    gemm_gflops: float
    gemm_onednn_gflops: float | None  # None where that route is not exact, or there is none
    copy_gb_s: float  # read and written, from memory
    rfft_gflops: float
    n_threads: int

    @property
    def top_gemm_gflops(self) -> float:
        """The faster of the two routes: the roof that a program is held against."""
        return max(self.gemm_gflops, self.gemm_onednn_gflops or 0.0)

    def fraction(self, flops: float, *, ms: float) -> float:
        """Return the share of the roof that ``flops`` operations in ``ms`` reach."""
        return gflop_per_s(flops, ms=ms) / self.top_gemm_gflops


def gflop_per_s(flops: float, *, ms: float) -> float:
    """Return billions of operations a second."""
    return flops / ms / 1e6


def machine_peaks(*, threads: int, device: str = "cpu", seconds: float = 0.4) -> Peaks:
    """Measure the peaks of this machine: products of matrices, copying, real transforms.

    Args:
        seconds: Spent on each of five measurements; the best call counts.
    """
    with pinned_threads(threads):
        default = _gemm_peak(device, seconds, "default")
        has_other = device == "cpu" and onednn_is_exact()
        return Peaks(
            gemm_gflops=default,
            gemm_onednn_gflops=_gemm_peak(device, seconds, "onednn") if has_other else None,
            copy_gb_s=_copy_peak(device, seconds),
            rfft_gflops=_rfft_peak(device, seconds),
            n_threads=threads,
        )


def _gemm_peak(device: str, seconds: float, route: str) -> float:
    best = 0.0
    with product_route(route):
        for rows, inner, columns in ((2048, 512, 512), (1024, 1024, 1024)):
            a, b = _noise(rows, inner, device=device), _noise(inner, columns, device=device)
            result = torch.empty(rows, columns, device=device)
            call = _product_into(result, a, b)
            taken = _fastest(call, device=device, seconds=seconds / 2)
            best = max(best, gflop_per_s(2 * rows * inner * columns, ms=1e3 * taken))
    return best


def _product_into(result: Tensor, a: Tensor, b: Tensor) -> Call:
    return lambda: torch.mm(a, b, out=result)


def _copy_peak(device: str, seconds: float) -> float:
    source = torch.zeros(1 << 24, device=device)  # 64 MiB: more than a share of the cache
    target = torch.zeros_like(source)
    taken = _fastest(lambda: target.copy_(source), device=device, seconds=seconds)
    return 2 * source.nbytes / taken / 1e9


def _rfft_peak(device: str, seconds: float) -> float:
    rows, n = 512, 1024
    x = _noise(rows, n, device=device)
    taken = _fastest(lambda: torch.fft.rfft(x), device=device, seconds=seconds)
    return gflop_per_s(2.5 * rows * n * math.log2(n), ms=1e3 * taken)


def _noise(*shape: int, device: str) -> Tensor:
    return torch.randn(*shape, generator=torch_generator(0, "peaks")).to(device)


def _fastest(call: Call, *, device: str, seconds: float) -> float:
    """Return the seconds of the fastest call; the first one does not count."""
    call()
    taken = []
    end = time.perf_counter() + seconds
    while len(taken) < MIN_REPEATS or time.perf_counter() < end:
        taken.append(_seconds(call, 1, device=device, clock=time.perf_counter))
    return min(taken)


def saved_for_backward_mib(
    function: Callable[[], Tensor], *, parameters: Sequence[Tensor] = ()
) -> float:
    """Return what autograd keeps between the forward and the backward pass, in MiB.

    Every storage counts once and whole, since a view keeps all of it alive. Memory that a
    function of your own keeps without ``save_for_backward`` is not seen.

    Args:
        function: A forward pass; its result is dropped.
        parameters: Weights, which are kept anyway and do not count, nor do views of them.
    """
    known = {weight.untyped_storage().data_ptr() for weight in parameters}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        result = function()  # alive until here, so that no address is used twice
    del result
    return sum(kept.values()) / 2**20


def peak_memory_mib(function: Call, *, device: str = "cpu") -> float:
    """Return how much tensors made by a call grow at most, in MiB.

    On a CPU this counts the tensors that are alive together, forward and backward; scratch
    memory inside one kernel is not seen. On CUDA it is what the allocator reports.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with _Ledger() as ledger:
        function()
    return ledger.highest / 2**20


class _Ledger(TorchDispatchMode):
    """Book every storage that an operation returns, and strike it out when it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.highest = 0
        self._open: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run one operation and book what it made."""
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._open:
                self._book(storage)
        return result

    def _book(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.now += size
        self.highest = max(self.highest, self.now)
        self._open[key] = weakref.finalize(storage, self._strike, key, size)

    def _strike(self, key: int, size: int) -> None:
        self.now -= size
        del self._open[key]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
