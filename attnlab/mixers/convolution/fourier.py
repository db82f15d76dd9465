"""Causal convolution through frequencies: a convolution becomes one product each."""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def fft(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Transform, multiply the matrices of each frequency, transform back."""
    n = fft_length(x.shape[1], lag_weight.shape[0])
    signal = torch.fft.rfft(x, n=n, dim=1).transpose(0, 1)  # (F, B, D)
    kernel = torch.fft.rfft(lag_weight, n=n, dim=0)  # (F, D, E)
    return torch.fft.irfft(torch.bmm(signal, kernel), n=n, dim=0)[: x.shape[1]].transpose(0, 1)


def fft_length(time: int, n_lags: int) -> int:
    """Return the next power of two that leaves no wrap-around: at least T + K - 1."""
    return 2 ** math.ceil(math.log2(max(time + n_lags - 1, 2)))


def vector_fft(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Transform along contiguous time, multiply, transform back."""
    return _FFT.apply(x, lag_weight)


def scalar_fft(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Do the same with the same weights in every channel."""
    return vector_fft(x, lag_weight[:, None].expand(-1, x.shape[-1]))


class _FFT(torch.autograd.Function):
    """Keeps both spectra; each gradient is one product with a conjugate spectrum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lag_weight: Tensor) -> Tensor:
        """Return ``(batch, time, d)``."""
        n = fft_length(x.shape[1], lag_weight.shape[0])
        signal = torch.fft.rfft(x.mT.contiguous(), n=n)  # (B, D, F)
        kernel = torch.fft.rfft(lag_weight.mT.contiguous(), n=n)  # (D, F)
        ctx.save_for_backward(signal, kernel)
        ctx.n, ctx.n_lags = n, lag_weight.shape[0]
        return torch.fft.irfft(signal * kernel, n=n)[..., : x.shape[1]].mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the correlations of the gradient with the weights and with x."""
        signal, kernel = ctx.saved_tensors
        spectrum = torch.fft.rfft(grad.mT.contiguous(), n=ctx.n)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            correlation = torch.linalg.vecdot(signal, spectrum, dim=0)  # conjugates the first
            grad_weight = torch.fft.irfft(correlation, n=ctx.n)[:, : ctx.n_lags].mT
        if ctx.needs_input_grad[0]:
            product = spectrum.mul_(kernel.conj().resolve_conj())
            grad_x = torch.fft.irfft(product, n=ctx.n)[..., : grad.shape[1]].mT
        return grad_x, grad_weight


def planes(x: Tensor, lag_weight: Tensor) -> Tensor:
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


@lru_cache(maxsize=2)  # some hundred MiB each for thousands of tokens
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
    frequency = torch.arange(1, n_pairs + 1)
    re, im = waves(frequency, torch.arange(time), n)
    of_x = torch.cat([torch.ones(1, time, dtype=torch.float64), re, im, re + im])
    w_re, w_im = waves(frequency, torch.arange(n_lags), n)
    of_w = torch.cat([torch.ones(1, n_lags, dtype=torch.float64), w_im - w_re, w_re + w_im, w_re])
    # y_t = (Y_0 + 2 sum_f re_f cos(2 pi f t / n) - im_f sin(2 pi f t / n)) / n
    cos, minus_sin = (2 / n * wave.T for wave in (re, im))  # (T, n_pairs)
    p_1, p_2, p_3 = minus_sin, -cos, cos + minus_sin
    back = torch.cat([torch.full((time, 1), 1 / n, dtype=torch.float64), p_1, p_2, p_3], dim=1)
    return tuple(m.to(device=device, dtype=dtype) for m in (of_x, of_w, back))  # type: ignore[return-value]


def waves(frequency: Tensor, at: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return real and imaginary part of ``exp(-2 pi i f t / n)``: cos and minus sin.

    Shapes:
        Integers ``(n_frequencies,)`` and ``(n_times,)``; both returned are the table of pairs.
    """
    angle = 2 * math.pi / n * (torch.outer(frequency, at) % n).double()
    return angle.cos(), -angle.sin()
