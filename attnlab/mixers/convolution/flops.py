"""Floating-point operations that each method really does; a multiply-add counts two."""

import math

from attnlab.errors import UnknownNameError
from attnlab.mixers.convolution import direct, fourier, staged


def method_flops(
    method: str,
    *,
    ndim: int,
    batch: int,
    time: int,
    n_lags: int,
    d_in: int,
    d_out: int | None = None,
    training: bool = False,
) -> int:
    """Return the operations of one pass: matrix products and transforms, not copies.

    A real transform of length n counts ``2.5 n log2(n)``, the usual figure.

    Args:
        ndim: Axes of the lag weights: 3, 2 or 1.
        d_out: None for as wide as the input.
        training: Forward and backward, both gradients.
    Raises:
        UnknownNameError: No such method for these weights.
    """
    d_out = d_in if d_out is None else d_out
    forms = {3: _DENSE, 2: _VECTOR, 1: _SCALAR}[ndim]
    if method not in forms:
        step = "See list_methods(ndim)."
        raise UnknownNameError("convolution method", method, forms, next_step=step)
    forward, both = forms[method](batch, time, min(n_lags, time), d_in, d_out if ndim == 3 else 1)
    return round(both if training else forward)


# Every form returns the operations of a forward pass, and of forward and backward together.
# B = batch, T = time, K = lags, D and E = input and output width; E = 1 where channels do not mix.


def _products(forward: float) -> tuple[float, float]:
    """Return the two counts of plain products: each gradient costs as much as the product."""
    return forward, 3 * forward


def _with_transforms(product: float, transforms: float) -> tuple[float, float]:
    """Return the two counts when backward transforms as much as forward."""
    return product + transforms, 3 * product + 2 * transforms


def _pairs(time: int, n_lags: int) -> int:
    return n_lags * (n_lags + 1) // 2 + (time - n_lags) * n_lags


def _lags(B: int, T: int, K: int, D: int, E: int) -> tuple[float, float]:
    return _products(2 * B * _pairs(T, K) * D * E)


def _grouped(B: int, T: int, K: int, D: int, E: int) -> tuple[float, float]:
    rows = sum(T - lag + lag % direct.GROUP for lag in range(K))
    return _products(2 * B * rows * D * E)


def _windows(B: int, T: int, K: int, D: int, E: int) -> tuple[float, float]:
    return _products(2 * B * T * K * D * E)


def _blocks(
    B: int, T: int, K: int, D: int, E: int, block: int = direct.BLOCK
) -> tuple[float, float]:
    c = min(block, T)
    n_blocks = -(-T // c)
    n_matrices = min(n_blocks, -(-(K + c - 1) // c))
    return _products(2 * B * _pairs(n_blocks, n_matrices) * c * c * D * E)


def _transform(n: int) -> float:
    return 2.5 * n * math.log2(n)


def _fft(B: int, T: int, K: int, D: int, E: int) -> tuple[float, float]:
    n = fourier.fft_length(T, K)
    return _with_transforms(8 * (n // 2 + 1) * B * D * E, _transform(n) * (B * D + D * E + B * E))


def _vector_fft(B: int, T: int, K: int, D: int, E: int) -> tuple[float, float]:
    n = fourier.fft_length(T, K)
    return _with_transforms(6 * (n // 2 + 1) * B * D, _transform(n) * (2 * B * D + D))


def _planes(B: int, T: int, K: int, D: int, E: int) -> tuple[float, float]:
    n_planes = 1 + 3 * ((T + K - 1) // 2)
    transforms = 2 * n_planes * (T * B * (D + E) + K * D * E)
    return _with_transforms(2 * n_planes * B * D * E, transforms)


def _staged(B: int, T: int, K: int, D: int, E: int) -> tuple[float, float]:
    n_1, n_2 = staged.stage_lengths(T, K)
    n_blocks = (n_1 + 1) // 2
    product = 2 * n_blocks * n_2 * 2 * B * 2 * D * E

    def stages(length: int, columns: int) -> int:
        outer = -(-length // n_2)
        return 2 * columns * n_blocks * (2 * outer * n_2 + (2 * n_2) ** 2)

    forward = product + stages(T, B * (D + E)) + stages(K, D * E)
    # backward transforms x and the weights again, both gradients there or back
    return forward, forward + 2 * product + stages(T, B * (2 * D + E)) + 2 * stages(K, D * E)


_DENSE = {
    "lags": _lags,
    "grouped": _grouped,
    "im2col": _windows,
    "toeplitz": _blocks,
    "fft": _fft,
    "planes": _planes,
    "staged": _staged,
}
_VECTOR = {
    "lags": _lags,
    "toeplitz": lambda *sizes: _blocks(*sizes, block=direct.VECTOR_BLOCK),
    "fft": _vector_fft,
}
_SCALAR = {
    "lags": _lags,
    "toeplitz": lambda B, T, K, D, E: _products(2 * B * T * T * D),
    "fft": _vector_fft,
}
