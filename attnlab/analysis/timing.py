"""Programs against the clock: interleaved rounds, medians with their spread, paired ratios.

A lone time says little: machines differ, and one machine differs from minute to minute. Here
candidates take turns in shuffled order, so that a slow minute hits all of them, and what is
compared is the ratio within a round. Peaks of the same machine say how near a program came to it.
"""

from __future__ import annotations

import ctypes
import math
import sys
import timeit
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils import benchmark
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.seeding import numpy_generator, torch_generator

MIN_REPEATS = 5
BLOCK_S = 5e-4  # short calls are repeated until they take so long: alike exposed to other work

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
    """

    samples_ms: Mapping[str, tuple[float, ...]]
    order: tuple[tuple[str, ...], ...]
    n_calls: Mapping[str, int]

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
    seed: int = 0,
    pieces: Mapping[str, int] | None = None,
    clock: Clock = benchmark.timer,
) -> Timings:
    """Time candidates in turns: every round runs all of them once, in a shuffled order.

    Before the first round each runs at least twice, until caches are built and it is known how
    many calls make a block that the clock can tell from nothing.

    Args:
        candidates: Programs without arguments, by name.
        repeats: Rounds, at least 5: fewer have no spread worth the name.
        seed: Of the stream that shuffles the rounds.
        pieces: How many equal pieces of work a call does, where not one; times are per piece.
        clock: Seconds; torch's own waits until a graphics card has finished.
    Raises:
        AttnlabError: No candidate, or too few repeats.
    """
    if not candidates:
        raise AttnlabError("There is nothing to time: give at least one candidate.")
    if repeats < MIN_REPEATS:
        raise AttnlabError(
            f"repeats={repeats} shows no spread, and a time without spread is not reported. "
            f"Use {MIN_REPEATS} or more."
        )
    names, n_calls = list(candidates), {}
    for name, call in candidates.items():
        block = _in_blocks(call, seconds=BLOCK_S, clock=clock)
        n, taken = block.number_per_run, block.number_per_run * block.median
        n_calls[name] = max(math.ceil(n / 10), math.ceil(n * min(1.0, BLOCK_S / taken)))
    generator = numpy_generator(seed, "order")
    order = [tuple(names[i] for i in generator.permutation(len(names))) for _ in range(repeats)]
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in order:
        for name in turn:
            taken = timeit.Timer(candidates[name], timer=clock).timeit(n_calls[name])
            samples[name].append(1e3 * taken / n_calls[name] / (pieces or {}).get(name, 1))
    return Timings(
        samples_ms={name: tuple(values) for name, values in samples.items()},
        order=tuple(order),
        n_calls=n_calls,
    )


def _in_blocks(
    call: Call, *, seconds: float, clock: Clock = benchmark.timer
) -> benchmark.Measurement:
    """Run a program for so long, after a warm-up, on the threads that torch has."""
    threads = torch.get_num_threads()
    timer = benchmark.Timer("call()", globals={"call": call}, timer=clock, num_threads=threads)
    return timer.blocked_autorange(min_run_time=seconds)


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

    gemm_gflops: float  # the roof that a program is held against
    copy_gb_s: float  # read and written, from memory
    rfft_gflops: float
    n_threads: int

    def fraction(self, flops: float, *, ms: float) -> float:
        """Return the share of the roof that ``flops`` operations in ``ms`` reach."""
        return gflop_per_s(flops, ms=ms) / self.gemm_gflops


def gflop_per_s(flops: float, *, ms: float) -> float:
    """Return billions of operations a second."""
    return flops / ms / 1e6


def machine_peaks(*, threads: int, device: str = "cpu", seconds: float = 0.4) -> Peaks:
    """Measure the peaks of this machine: products of matrices, copying, real transforms.

    Args:
        seconds: Spent on each of four measurements; the best block counts.
    """

    def fastest(call: Call) -> float:
        return min(_in_blocks(call, seconds=seconds).times)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=torch_generator(0, "peaks")).to(device)

    with pinned_threads(threads):
        gemm = 0.0
        for m, k, n in ((2048, 512, 512), (1024, 1024, 1024)):
            a, b, out = noise(m, k), noise(k, n), noise(m, n)
            taken = fastest(partial(torch.mm, a, b, out=out))
            gemm = max(gemm, gflop_per_s(2 * m * k * n, ms=1e3 * taken))
        source = noise(1 << 12, 1 << 12)  # 64 MiB: more than a share of the cache
        copied = fastest(partial(torch.empty_like(source).copy_, source))
        x = noise(512, 1024)
        transformed = fastest(partial(torch.fft.rfft, x))
    return Peaks(
        gemm_gflops=gemm,
        copy_gb_s=2 * source.nbytes / copied / 1e9,
        rfft_gflops=gflop_per_s(2.5 * x.numel() * math.log2(x.shape[1]), ms=1e3 * transformed),
        n_threads=threads,
    )


def keep_pages() -> bool:
    """Tell the allocator to keep freed pages; return whether it could be told.

    By default glibc hands every large freed block back to the system and asks for zeroed
    pages again at the next step, which can take longer than the arithmetic. The price is
    that the process stays as large as its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, mmap_threshold, large = -1, -3, 1 << 30  # names of glibc's malloc.h
    return bool(mallopt(mmap_threshold, large) and mallopt(trim_threshold, large))


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
