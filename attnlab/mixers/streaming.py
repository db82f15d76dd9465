r"""Relaxed convolution: the sum over the past, one token at a time, in amortised log^2 time.

.. math:: e_t = \sum_{j=0}^{\min(t, \ell)-1} x_{t-j} W_j

A token's own block of the past is summed directly. Older pairs of an input and a later
output are covered by square tiles: after n tokens let U be the largest power of two that
divides n; the newest U inputs then give all they have to the next U outputs, through lags 1
to 2 U - 1, with one circular convolution of length 2 U. Every pair lies in exactly one tile.
Lags end at ``context_len``, so tiles end too: the largest size returns for ever, and each
time takes in as many earlier blocks as the context still reaches.

Everything here runs newest first: inputs, outputs to come, and kernels.

Source:
    J. van der Hoeven, "Relax, but don't be too lazy" (2002); for generation arXiv:2410.12982.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlab.mixers.base import Ring
from attnlab.mixers.convolution.spectra import SpectrumCache

STREAMING = ("auto", "ring", "tiles")
CACHED_NUMBERS = 2**17  # transforms of more numbers at once fall out of a core's cache
TOEPLITZ_SIZE = 64  # vector lags: up to here a matrix product a channel beats the transform


# Multiplications a lag and token, up to; the first context_len at which tiles are 1.25 times
# faster than the ring. Measured on one core at a full context, widths 32 to 512, batch 1 to 16.
_FIRST_TILED = {
    "matrix": ((2**12, 256), (2**14, 128), (math.inf, 64)),
    "vector": ((2**9, 512), (math.inf, 256)),
}


def choose_streaming(lag_weight: Tensor, *, batch_size: int, width: int) -> str:
    """Return ``ring`` or ``tiles``, whichever is usually faster over a long stream on a CPU.

    Args:
        width: Of the inputs that are summed.
    """
    is_dense = lag_weight.ndim == 3
    n_multiplications = batch_size * width * (lag_weight.shape[2] if is_dense else 1)
    table = _FIRST_TILED["matrix" if is_dense else "vector"]
    first = next(first for limit, first in table if n_multiplications <= limit)
    return "tiles" if lag_weight.shape[0] >= first else "ring"


@dataclass(frozen=True)
class Tiling:
    """When which tile falls due.

    Args:
        n_lags: How many inputs an output sums, itself included.
        block: The newest inputs, up to this many, are summed directly; a power of two.
        largest: The largest tile; a power of two, at least ``block``.
    """

    n_lags: int
    block: int
    largest: int

    @classmethod
    def choose(cls, lag_weight: Tensor) -> Tiling:
        """Return sizes that were fast on a CPU; twice or half of each makes little difference.

        Vectors a lag go further back in one go: their products are cheap, transforms are not.
        """
        n_lags, is_dense = lag_weight.shape[0], lag_weight.ndim == 3
        block, n_reached = (16, 2) if is_dense else (32, 4)
        reached = -(-(n_lags - 1) // n_reached)
        return cls(n_lags, block, max(block, 1 << max(reached - 1, 0).bit_length()))

    @property
    def n_reached(self) -> int:
        """How many blocks of the largest size hold inputs that a next output still sums."""
        return -(-(self.n_lags - 1) // self.largest)

    @property
    def sizes(self) -> list[int]:
        """All sizes of tiles, largest first."""
        return [self.largest >> k for k in range((self.largest // self.block).bit_length())]

    def due(self, n_seen: int) -> int:
        """Return the size of the tile that is due after ``n_seen`` tokens, 0 for none."""
        size = min(n_seen & -n_seen, self.largest)
        return size if size >= self.block and self.n_lags > 1 else 0


class Kernel:
    """The lag weights of one Extractor, transformed for tiles of every size when first used.

    All transforms together hold about ``3 n_lags d^2`` numbers for a matrix a lag, once
    every size has fallen due.
    """

    def __init__(self, lag_weight: Tensor) -> None:
        self.weight = lag_weight
        self._kept: dict[Any, Tensor] = {}

    def near(self, older: Tensor, newest: Tensor) -> Tensor:
        """Return ``older`` plus the direct sum over ``newest``, ``(batch, n, d_in)``."""
        raise NotImplementedError

    def products(self, signals: list[Tensor], spectra: list[Tensor]) -> Tensor:
        """Multiply each ``(batch, frequencies, d_in)`` by its spectrum, and add all up."""
        raise NotImplementedError

    def rows(self, inputs: Tensor, size: int) -> int:
        """Return how many sequences to transform at once: all, so that weights are read once."""
        return inputs.shape[0]

    def tile(self, newest: Tensor, size: int) -> Tensor:
        """Return what the newest inputs give to the next ``size`` outputs."""
        return self.back([self.signal(newest, size)], size)

    def signal(self, newest: Tensor, size: int) -> Tensor:
        """Return the transform of up to ``size`` inputs; those before count as zero."""
        return torch.fft.rfft(newest, n=2 * size, dim=1)  # (B, F, D)

    def back(self, signals: list[Tensor], size: int) -> Tensor:
        """Return the next ``size`` outputs due to these blocks of inputs, newest first."""
        spectra = [self.spectrum(size, distance) for distance in range(len(signals))]
        total = self.products(signals, spectra)
        return torch.fft.irfft(total, n=2 * size, dim=1)[:, size:].contiguous()

    def spectrum(self, size: int, distance: int) -> Tensor:
        """Return the transformed lags between the next block and one ``distance`` before it."""
        first = distance * size + 1
        taps = self.weight[first : first + 2 * size - 1]
        return self._keep((size, distance), lambda: self._transform(taps.flip(0), 2 * size))

    def __deepcopy__(self, memo: dict[int, Any]) -> Kernel:
        return self  # nothing here changes, and it is large

    def _keep(self, name: Any, make: Callable[[], Tensor]) -> Tensor:
        """Return what was made under this name, and make it the first time."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def _transform(self, taps: Tensor, length: int) -> Tensor:
        padding = (0, 0) * (taps.ndim - 1) + (length - taps.shape[0], 0)
        return torch.fft.rfft(F.pad(taps, padding), dim=0)


class DenseKernel(Kernel):
    """A matrix a lag: products of matrices, one for each frequency."""

    def near(self, older: Tensor, newest: Tensor) -> Tensor:
        """Sum in one product of a matrix with all inputs side by side."""
        n_inputs = newest.shape[1]
        weight = self._keep(n_inputs, lambda: self.weight[:n_inputs].flatten(0, 1))
        return torch.addmm(older, newest.flatten(1), weight)

    def products(self, signals: list[Tensor], spectra: list[Tensor]) -> Tensor:
        """Multiply by ``(frequencies, d_out, d_in)``."""
        if signals[0].shape[0] == 1:  # one column: rows of the spectrum are read in order
            pairs = [(w, s.permute(1, 2, 0)) for s, w in zip(signals, spectra, strict=True)]
            return _sum_of_products(pairs).permute(2, 0, 1).contiguous()
        pairs = [(s.transpose(0, 1), w.mT) for s, w in zip(signals, spectra, strict=True)]
        return _sum_of_products(pairs).transpose(0, 1).contiguous()

    def signal(self, newest: Tensor, size: int) -> Tensor:
        """Lay the channels side by side, as the products want them; transforms do not."""
        return super().signal(newest, size).contiguous()

    def _transform(self, taps: Tensor, length: int) -> Tensor:
        _, d_in, d_out = taps.shape
        spectrum = taps.new_empty(length // 2 + 1, d_out, d_in, dtype=taps.dtype.to_complex())
        for outputs in torch.arange(d_out).split(max(1, 2**22 // (length * d_in))):
            part = slice(int(outputs[0]), int(outputs[-1]) + 1)
            spectrum[:, part] = super()._transform(taps[..., part].mT, length)
        return spectrum


def _sum_of_products(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    total = torch.bmm(*pairs[0])
    for pair in pairs[1:]:
        total.baddbmm_(*pair)
    return total


class DepthwiseKernel(Kernel):
    """A vector or a number a lag: one factor a channel and frequency."""

    def __init__(self, lag_weight: Tensor) -> None:
        super().__init__(lag_weight[:, None] if lag_weight.ndim == 1 else lag_weight)

    def near(self, older: Tensor, newest: Tensor) -> Tensor:
        """Sum channel by channel."""
        n_inputs = newest.shape[1]
        weight = self._keep(n_inputs, lambda: self.weight[:n_inputs])
        return older + torch.linalg.vecdot(newest, weight, dim=1)

    def products(self, signals: list[Tensor], spectra: list[Tensor]) -> Tensor:
        """Multiply by ``(frequencies, d)``."""
        total = signals[0] * spectra[0]
        for signal, spectrum in zip(signals[1:], spectra[1:], strict=True):
            total.addcmul_(signal, spectrum)
        return total

    def rows(self, inputs: Tensor, size: int) -> int:
        """As many as stay in the cache."""
        return max(1, CACHED_NUMBERS // (2 * size * inputs.shape[2]))

    def tile(self, newest: Tensor, size: int) -> Tensor:
        """Take a small tile as one product of matrices a channel."""
        if size > TOEPLITZ_SIZE:
            return super().tile(newest, size)
        matrix = self._toeplitz(size)[:, : newest.shape[1]]
        n_rows, n_inputs, width = newest.shape
        columns = newest.reshape(-1, width).mT.contiguous().view(width, n_rows, n_inputs)
        return (columns @ matrix).view(width, -1).mT.contiguous().view(n_rows, size, width)

    def _toeplitz(self, size: int) -> Tensor:
        """Return ``(d, size, size)``: row k, column v has lag ``size - v + k``."""

        def make() -> Tensor:
            taps = self.weight[: 2 * size].mT
            taps = F.pad(taps, (0, 2 * size - taps.shape[1]))
            k = torch.arange(size, device=taps.device)
            return taps[:, size - k + k[:, None]]

        return self._keep(("toeplitz", size), make)


class TiledStream:
    """The newest inputs, and what they have already given to outputs to come.

    Shapes:
        ring: The newest ``n_lags`` inputs.
        pending: ``(batch, largest, d_out)``, the outputs of the current largest block so far.
    """

    def __init__(self, ring: Ring, tiling: Tiling) -> None:
        self.ring, self.tiling = ring, tiling
        self.pending = torch.empty(0)
        self._kernel: Kernel | None = None
        self._written: tuple[int, int] | None = None
        self._signals: deque[list[Tensor]] = deque(maxlen=max(1, tiling.n_reached))

    @property
    def n_seen(self) -> int:
        """How many tokens the stream has had."""
        return self.ring.n_seen

    def push(self, vector: Tensor, lag_weight: Tensor, kernels: SpectrumCache) -> Tensor:
        """Take in ``(batch, d_in)``; return the sum ``(batch, d_out)`` with it as newest input.

        The state is changed in place. Weights that have changed count from here on, for
        all inputs, as if they had always been so. A write that torch does not count is seen
        when a stream begins and when its largest tile falls due.

        Args:
            kernels: Where the mixer keeps the kernel of its weights.
        """
        n, tiling = self.ring.n_seen, self.tiling
        kernel, is_new = self._look(lag_weight, kernels)
        if is_new:
            self._begin(kernel)
        elif n % tiling.block == 0 and tiling.due(n):
            self._add(tiling.due(n), n, kernel)
        self.ring = self.ring.push(vector.to(kernel.weight.dtype))
        n_near = min(n % tiling.block + 1, tiling.n_lags)
        older = self.pending[:, -1 - n % tiling.largest]
        return kernel.near(older, self.ring.newest(n_near)).to(vector.dtype)

    def _look(self, lag_weight: Tensor, kernels: SpectrumCache) -> tuple[Kernel, bool]:
        """Return the kernel, and whether it is another one than before."""
        before, n = self._kernel, self.n_seen
        version = 0 if lag_weight.is_inference() else lag_weight._version
        written = lag_weight.data_ptr(), version
        if before is not None and written == self._written and n % self.tiling.largest:
            return before, False
        dtype = torch.promote_types(lag_weight.dtype, torch.float32)
        make = DenseKernel if lag_weight.ndim == 3 else DepthwiseKernel
        self._kernel = kernel = kernels.get("tiles", lag_weight, make, dtype=dtype)
        self._written = written
        return kernel, kernel is not before

    def _begin(self, kernel: Kernel) -> None:
        """Give all that the inputs in the ring still owe to outputs to come."""
        self._signals.clear()
        self.ring = self.ring.to(kernel.weight)
        n, weight, slots = self.n_seen, kernel.weight, self.ring.slots
        d_out = weight.shape[2] if weight.ndim == 3 else slots.shape[-1]
        self.pending = weight.new_zeros(slots.shape[0], self.tiling.largest, d_out)
        for size in self.tiling.sizes:
            end = n - n % size  # here a tile of this size was due last, or a larger one
            if end and self.tiling.due(end) == size:
                self._add(size, end, kernel)

    def _add(self, size: int, end: int, kernel: Kernel) -> None:
        """Add the tile that is due after ``end`` tokens."""
        newest, largest = self._block(size, self.n_seen - end), self.tiling.largest
        if newest.shape[1] == 0:
            return
        if size == largest:
            self._remember(end, kernel)
        stop = largest - end % largest
        for i, part in enumerate(self._parts(size, kernel)):
            if size == largest:
                self.pending[part] = kernel.back([s[i] for s in self._signals], size)
            else:
                self.pending[part, stop - size : stop] += kernel.tile(newest[part], size)

    def _remember(self, end: int, kernel: Kernel) -> None:
        """Transform the newest block of the largest size; at the start, those before it too."""
        size = self.tiling.largest
        is_fresh = not self._signals
        for distance in reversed(range(self.tiling.n_reached if is_fresh else 1)):
            block = self._block(size, self.n_seen - end + distance * size)
            if block.shape[1]:
                parts = self._parts(size, kernel)
                self._signals.appendleft([kernel.signal(block[part], size) for part in parts])

    def _block(self, size: int, age: int) -> Tensor:
        """Return up to ``size`` inputs, newest first, beginning with the one of this age."""
        return self.ring.newest_first()[:, age : age + size]

    def _parts(self, size: int, kernel: Kernel) -> list[slice]:
        n_rows = self.ring.slots.shape[0]
        step = max(1, min(n_rows, kernel.rows(self.ring.slots, size)))
        return [slice(first, first + step) for first in range(0, n_rows, step)]
