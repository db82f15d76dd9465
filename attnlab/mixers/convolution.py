r"""Ways to evaluate one equation, the causal convolution that every Extractor rests on.

.. math:: e_t = \sum_{j=0}^{\min(t, K-1)} x_{t-j} W_j

``W_j`` is a matrix (SHE), a vector (HE, WE, ME) or a number (the scalar variant) for each
lag. Every method gives the same values and gradients; they differ in time and memory.
Methods over frequencies are causal up to rounding (about 1e-6 of the largest input in
float32) and let a NaN anywhere reach everywhere; the others are causal exactly.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlab.errors import AttnlabError, UnknownNameError


def causal_convolution(x: Tensor, lag_weight: Tensor, *, method: str = "auto") -> Tensor:
    """Sum the past of every position, each lag through its own weight.

    Shapes:
        x: ``(batch, time, d_in)``.
        lag_weight: ``(n_lags, d_in, d_out)`` for a matrix a lag, ``(n_lags, d_in)`` for a
        vector, ``(n_lags,)`` for a number; index 0 is the newest token.
        Returns ``(batch, time, d_out)``.
    Args:
        method: A name from ``list_methods(lag_weight.ndim)``, or ``auto``.
    Source:
        arXiv:2308.07661, extraction; derived in notebook 03.
    """
    methods = _METHODS.get(lag_weight.ndim)
    if methods is None:
        raise AttnlabError(
            f"lag_weight has shape {tuple(lag_weight.shape)}; it must be (n_lags, d_in, d_out), "
            "(n_lags, d_in) or (n_lags,)."
        )
    if lag_weight.ndim > 1 and lag_weight.shape[1] != x.shape[-1]:
        raise AttnlabError(
            f"lag_weight takes inputs {lag_weight.shape[1]} wide; x is {x.shape[-1]} wide."
        )
    require_method(method, ndim=lag_weight.ndim)
    if method == "auto":
        method = choose_method(x, lag_weight)
    with torch.autocast(x.device.type, enabled=False):  # transforms need float32 at least
        given = torch.promote_types(x.dtype, lag_weight.dtype)
        dtype = torch.promote_types(given, torch.float32)
        return methods[method](x.to(dtype), lag_weight[: x.shape[1]].to(dtype)).to(given)


def list_methods(ndim: int) -> tuple[str, ...]:
    """Return the methods for lag weights with this many axes: 3, 2 or 1."""
    return tuple(_METHODS[ndim])


def require_method(method: str, *, ndim: int) -> None:
    """Raise UnknownNameError unless ``method`` works for lag weights with this many axes."""
    if method != "auto" and method not in _METHODS[ndim]:
        step = "Leave method='auto' to let the size decide."
        raise UnknownNameError("convolution method", method, _METHODS[ndim], next_step=step)


def choose_method(x: Tensor, lag_weight: Tensor) -> str:
    """Return the method that is usually fastest for these sizes on a CPU."""
    batch, time = x.shape[:2]
    n_lags = min(time, lag_weight.shape[0])
    if lag_weight.ndim == 1:
        return "toeplitz" if time <= 1024 else "fft"
    if lag_weight.ndim == 2:
        return "fft" if n_lags > 16 else "lags"
    if n_lags <= 8 or batch * n_lags <= 128:
        return "lags"
    return "planes" if time + n_lags <= 512 else "fft"


def _lags_dense(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Add one matrix product a lag. ``unbind`` matters: ``W[j]`` makes backward quadratic."""
    total = None
    for lag, weight in enumerate(lag_weight.unbind(0)):
        term = F.pad(x[:, : x.shape[1] - lag] @ weight, (0, 0, lag, 0))  # (B, T, E)
        total = term if total is None else total + term
    return x.new_zeros(()) if total is None else total


def _lags_depthwise(x: Tensor, lag_weight: Tensor) -> Tensor:
    total = x * lag_weight[0]
    for lag, weight in enumerate(lag_weight.unbind(0)[1:], start=1):
        total = total + F.pad(x[:, : x.shape[1] - lag] * weight, (0, 0, lag, 0))
    return total


def _conv1d_dense(x: Tensor, lag_weight: Tensor) -> Tensor:
    kernel = lag_weight.flip(0).permute(2, 1, 0)  # (E, D, K), oldest lag first
    padded = F.pad(x.mT, (lag_weight.shape[0] - 1, 0))  # (B, D, K-1+T)
    return F.conv1d(padded, kernel).mT


def _conv1d_depthwise(x: Tensor, lag_weight: Tensor) -> Tensor:
    kernel = lag_weight.flip(0).mT[:, None]  # (D, 1, K)
    padded = F.pad(x.mT, (lag_weight.shape[0] - 1, 0))
    return F.conv1d(padded, kernel, groups=x.shape[-1]).mT


def _fft_length(time: int, n_lags: int) -> int:
    """Return the next power of two that leaves no wrap-around: at least T + K - 1."""
    return 2 ** math.ceil(math.log2(max(time + n_lags - 1, 2)))


def _fft_dense(x: Tensor, lag_weight: Tensor) -> Tensor:
    n = _fft_length(x.shape[1], lag_weight.shape[0])
    signal = torch.fft.rfft(x, n=n, dim=1).transpose(0, 1)  # (F, B, D)
    kernel = torch.fft.rfft(lag_weight, n=n, dim=0)  # (F, D, E)
    return torch.fft.irfft(torch.bmm(signal, kernel), n=n, dim=0)[: x.shape[1]].transpose(0, 1)


def _fft_depthwise(x: Tensor, lag_weight: Tensor) -> Tensor:
    n = _fft_length(x.shape[1], lag_weight.shape[0])
    # time last and contiguous, so that the transforms run over memory in order
    signal = torch.fft.rfft(x.mT.contiguous(), n=n)  # (B, D, F)
    kernel = torch.fft.rfft(lag_weight.mT.contiguous(), n=n)  # (D, F)
    return torch.fft.irfft(signal * kernel, n=n)[..., : x.shape[1]].mT


def _fft_scalar(x: Tensor, lag_weight: Tensor) -> Tensor:
    return _fft_depthwise(x, lag_weight[:, None].expand(-1, x.shape[-1]))


def _toeplitz_scalar(x: Tensor, lag_weight: Tensor) -> Tensor:
    """One ``(time, time)`` lower-triangular Toeplitz matrix serves all channels."""
    t = torch.arange(x.shape[1], device=x.device)
    lag = t[:, None] - t
    seen = (lag >= 0) & (lag < lag_weight.shape[0])
    matrix = lag_weight[lag.clamp(0, lag_weight.shape[0] - 1)] * seen
    return matrix @ x


def _lags_scalar(x: Tensor, lag_weight: Tensor) -> Tensor:
    return _lags_depthwise(x, lag_weight[:, None])


def _planes_dense(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Write the discrete Fourier transform itself as a matrix, so that all work is GEMM.

    A complex product per frequency takes three real ones: with ``x`` in planes
    ``(re, im, re + im)`` and the weight in planes ``(im - re, re + im, re)`` it is
    ``re = p3 - p2`` and ``im = p3 + p1``.
    """
    batch, time, d_in = x.shape
    n_lags, _, d_out = lag_weight.shape
    of_x, of_w, back = _plane_matrices(time, n_lags, x.dtype, x.device)
    x_planes = (of_x @ x.transpose(0, 1).reshape(time, -1)).view(-1, batch, d_in)
    w_planes = (of_w @ lag_weight.reshape(n_lags, -1)).view(-1, d_in, d_out)
    products = torch.bmm(x_planes, w_planes)  # (P, B, E)
    y = back @ products.view(products.shape[0], -1)  # (T, B E)
    return y.view(time, batch, d_out).transpose(0, 1)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a matrix made while generating must serve training later
def _plane_matrices(
    time: int, n_lags: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the maps to the planes of x and of W, and from products back to time.

    The length n = T + K - 1 is made odd, so that only frequency 0 is real.
    """
    n = time + n_lags - 1
    n += 1 - n % 2
    n_pairs = (n - 1) // 2
    frequency = torch.arange(1, n_pairs + 1, dtype=torch.float64)
    re, im = _waves(frequency, time, n)
    of_x = torch.cat([torch.ones(1, time, dtype=torch.float64), re, im, re + im])
    w_re, w_im = _waves(frequency, n_lags, n)
    of_w = torch.cat([torch.ones(1, n_lags, dtype=torch.float64), w_im - w_re, w_re + w_im, w_re])
    # y_t = (Y_0 + 2 sum_f re_f cos(2 pi f t / n) - im_f sin(2 pi f t / n)) / n
    cos, minus_sin = (2 / n * wave.T for wave in (re, im))  # (T, n_pairs)
    p_1, p_2, p_3 = minus_sin, -cos, cos + minus_sin
    back = torch.cat([torch.full((time, 1), 1 / n, dtype=torch.float64), p_1, p_2, p_3], dim=1)
    return tuple(m.to(device=device, dtype=dtype) for m in (of_x, of_w, back))  # type: ignore[return-value]


def _waves(frequency: Tensor, length: int, n: int) -> tuple[Tensor, Tensor]:
    """Return real and imaginary rows of the transform: cos and minus sin."""
    phase = torch.outer(frequency, torch.arange(length, dtype=torch.float64)) % n
    angle = 2 * math.pi / n * phase
    return angle.cos(), -angle.sin()


_METHODS: dict[int, dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    3: {
        "lags": _lags_dense,
        "conv1d": _conv1d_dense,
        "fft": _fft_dense,
        "planes": _planes_dense,
    },
    2: {"lags": _lags_depthwise, "conv1d": _conv1d_depthwise, "fft": _fft_depthwise},
    1: {"lags": _lags_scalar, "toeplitz": _toeplitz_scalar, "fft": _fft_scalar},
}
