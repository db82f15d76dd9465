"""Floating-point operations that each method really does; a multiply-add counts two."""

import math

from attnlab.errors import UnknownNameError
from attnlab.mixers.convolution import depthwise, direct, fourier, staged


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
    d_out = d_in if d_out is None or ndim < 3 else d_out
    n_lags = min(n_lags, time)
    forms = {3: _DENSE, 2: _DEPTHWISE, 1: _SCALAR}[ndim]
    if method not in forms:
        step = "See list_methods(ndim)."
        raise UnknownNameError("convolution method", method, forms, next_step=step)
    forward, both = forms[method](batch, time, n_lags, d_in, d_out)
    return round(both if training else forward)


# Every form returns the operations of a forward pass, and of forward and backward together.
# B = batch, T = time, K = lags, D and E = input and output width.


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


def _blocks(B: int, T: int, K: int, D: int, E: int) -> tuple[float, float]:
    c = min(direct.BLOCK, T)
    n_blocks = -(-T // c)
    n_matrices = min(n_blocks, -(-(K + c - 1) // c))
    return _products(2 * B * _pairs(n_blocks, n_matrices) * c * c * D * E)


def _transform(n: int) -> float:
    return 2.5 * n * math.log2(n)


def _fft(B: int, T: int, K: int, D: int, E: int) -> tuple[float, float]:
    n = fourier.fft_length(T, K)
    return _with_transforms(8 * (n // 2 + 1) * B * D * E, _transform(n) * (B * D + D * E + B * E))


def _partitioned(B: int, T: int, K: int, D: int, E: int) -> tuple[float, float]:
    c = fourier.SEGMENT
    n_segments, n_kernels = -(-T // c), -(-K // c)
    product = 8 * (c + 1) * _pairs(n_segments, n_kernels) * B * D * E
    transforms = n_segments * B * (D + E) + n_kernels * D * E
    return _with_transforms(product, _transform(2 * c) * transforms)


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


def _depthwise_lags(B: int, T: int, K: int, D: int, E: int) -> tuple[float, float]:
    return _products(2 * B * _pairs(T, K) * D)


def _depthwise_windows(B: int, T: int, K: int, D: int, E: int) -> tuple[float, float]:
    return _products(2 * B * T * K * D)


def _depthwise_blocks(B: int, T: int, K: int, D: int, E: int) -> tuple[float, float]:
    c = min(depthwise.BLOCK, T)
    n_blocks = -(-T // c)
    n_matrices = min(n_blocks, -(-(K + c - 1) // c))
    return _products(2 * B * _pairs(n_blocks, n_matrices) * c * c * D)


def _depthwise_fft(B: int, T: int, K: int, D: int, E: int) -> tuple[float, float]:
    n = fourier.fft_length(T, K)
    return _with_transforms(6 * (n // 2 + 1) * B * D, _transform(n) * (2 * B * D + D))


def _scalar_toeplitz(B: int, T: int, K: int, D: int, E: int) -> tuple[float, float]:
    return _products(2 * B * T * T * D)


_DENSE = {
    "lags": _lags,
    "grouped": _grouped,
    "im2col": _windows,
    "conv1d": _windows,
    "conv2d": _windows,
    "toeplitz": _blocks,
    "fft": _fft,
    "partitioned": _partitioned,
    "planes": _planes,
    "staged": _staged,
}
_DEPTHWISE = {
    "lags": _depthwise_lags,
    "conv1d": _depthwise_windows,
    "toeplitz": _depthwise_blocks,
    "fft": _depthwise_fft,
}
_SCALAR = {"lags": _depthwise_lags, "toeplitz": _scalar_toeplitz, "fft": _depthwise_fft}
