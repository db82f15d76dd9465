"""Causal convolution with a vector or a number a lag: channels do not mix."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from attnlab.mixers.convolution.direct import block_lags
from attnlab.mixers.convolution.fourier import fft_length

BLOCK = 64  # tokens a block of the block-Toeplitz form


def lags(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Add one product a lag: the plain loop that the others are compared with."""
    total = x * lag_weight[0]
    for lag, weight in enumerate(lag_weight.unbind(0)[1:], start=1):
        total = total + F.pad(x[:, : x.shape[1] - lag] * weight, (0, 0, lag, 0))
    return total


def conv1d(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Ask the library's convolution, one group a channel."""
    kernel = lag_weight.flip(0).mT[:, None]  # (D, 1, K)
    padded = F.pad(x.mT, (lag_weight.shape[0] - 1, 0))
    return F.conv1d(padded, kernel, groups=x.shape[-1]).mT


def block_toeplitz(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Multiply blocks of time by small Toeplitz matrices, one set a channel."""
    batch, time, d = x.shape
    c = min(BLOCK, time)
    lag, is_seen = block_lags(lag_weight.shape[0], c, device=x.device)  # (M, C, C)
    matrices = lag_weight.mT[:, lag] * is_seen  # (D, M, C, C)
    blocks = F.pad(x, (0, 0, 0, -time % c)).view(batch, -1, c, d).permute(3, 1, 0, 2)
    blocks = blocks.contiguous()  # (D, S, B, C)
    n_blocks = blocks.shape[1]
    total = blocks.new_zeros(blocks.shape)
    for apart, matrix in enumerate(matrices[:, :n_blocks].unbind(1)):
        reached = blocks[:, : n_blocks - apart].flatten(1, 2)  # (D, S' B, C)
        term = torch.bmm(reached, matrix).view(d, -1, batch, c)
        total = total + F.pad(term, (0, 0, 0, 0, apart, 0))
    return total.permute(2, 1, 3, 0).reshape(batch, -1, d)[:, :time]


def fft(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Transform along contiguous time, multiply, transform back."""
    return _FFT.apply(x, lag_weight)


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


def scalar_lags(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Add one multiple a lag."""
    return lags(x, lag_weight[:, None])


def scalar_fft(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Transform, multiply, transform back, with the same weights in every channel."""
    return fft(x, lag_weight[:, None].expand(-1, x.shape[-1]))


def scalar_toeplitz(x: Tensor, lag_weight: Tensor) -> Tensor:
    """One ``(time, time)`` lower-triangular Toeplitz matrix serves all channels."""
    t = torch.arange(x.shape[1], device=x.device)
    lag = t[:, None] - t
    seen = (lag >= 0) & (lag < lag_weight.shape[0])
    matrix = lag_weight[lag.clamp(0, lag_weight.shape[0] - 1)] * seen
    return matrix @ x
