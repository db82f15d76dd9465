r"""Dense causal convolution by a two-stage transform in which every step is a matrix product.

A transform of length :math:`n = n_1 n_2` splits (Cooley and Tukey) with
:math:`t = t_1 n_2 + t_2` and :math:`f = f_1 + n_1 f_2`:

.. math:: X_f = \sum_{t_2} e^{-2 \pi i\, t_2 f / n} \sum_{t_1} e^{-2 \pi i\, t_1 f_1 / n_1}
          x_{t_1 n_2 + t_2}

The inner sum is one product with an :math:`n_1`-row matrix, the outer one a small matrix for
each :math:`f_1`. Inputs are real, so half of the :math:`f_1` is enough when :math:`n_1` is odd.
A complex product runs as a real one of twice the width,

.. math:: \begin{pmatrix} x_r & -x_i \\ x_i & x_r \end{pmatrix}
          \begin{pmatrix} W_r \\ W_i \end{pmatrix} =
          \begin{pmatrix} y_r \\ y_i \end{pmatrix}.

The spectrum of the weights is formed for one :math:`f_1` at a time, used while it is in the
cache, and forgotten: backward keeps x and W alone.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from attnlab.mixers.convolution.fourier import waves
from attnlab.mixers.convolution.spectra import SpectrumCache

WORKSPACE_BYTES = 96 * 2**20  # of half-transformed weights alive at once


def staged(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Transform in two stages, multiply, transform back."""
    return _Staged.apply(x, lag_weight)


def with_kept_spectrum(x: Tensor, lag_weight: Tensor, spectra: SpectrumCache) -> Tensor:
    """Do the same with weights that were transformed before; no gradient flows.

    One spectrum serves every length up to the next power of two. It holds about twice as
    many numbers as the lags that it covers.
    """
    batch, time, _ = x.shape
    longest = 1 << (time - 1).bit_length()
    plan = _plan(longest, min(longest, lag_weight.shape[0]), x.dtype, x.device)

    def transform(weight: Tensor) -> Tensor:
        covered = weight[:longest]
        return plan.forward(covered.flatten(1)).view(-1, 2 * covered.shape[1], covered.shape[2])

    spectrum = spectra.get(("staged", longest), lag_weight, transform, dtype=x.dtype)
    products = torch.bmm(_embedded(plan, x), spectrum)  # (F, 2B, E)
    y = plan.backward(products.view(plan.n_blocks, 2 * plan.n_2, -1), time)
    return y.view(time, batch, -1).transpose(0, 1)


class _Staged(torch.autograd.Function):
    """One pass over the spectrum of the weights forward, one backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lag_weight: Tensor) -> Tensor:
        """Return ``(batch, time, d_out)``."""
        ctx.save_for_backward(x, lag_weight)
        (batch, time, _), (n_lags, d_in, d_out) = x.shape, lag_weight.shape
        plan = _plan(time, n_lags, x.dtype, x.device)
        left = _embedded(plan, x)
        y = x.new_empty(time, batch, d_out)
        for columns in plan.chunks(lag_weight):
            part = lag_weight[:, :, columns].reshape(n_lags, -1)
            half = plan.first_stage(part)  # (F1, 2 n2, D E)
            products = x.new_empty(plan.n_blocks, 2 * plan.n_2, batch * y[..., columns].shape[2])
            for f_1, rows in plan.blocks():
                spectrum = torch.mm(plan.second[f_1], half[f_1]).view(plan.n_2, 2 * d_in, -1)
                product = torch.bmm(left[rows], spectrum)
                torch.mm(plan.second[f_1].mT, product.view(2 * plan.n_2, -1), out=products[f_1])
            y[:, :, columns] = plan.last_stage(products, time).view(time, batch, -1)
        return y.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Multiply by the conjugate spectra: ``G W^H`` for x and ``X^H G`` for the weights."""
        x, lag_weight = ctx.saved_tensors
        (batch, time, _), (n_lags, d_in, d_out) = x.shape, lag_weight.shape
        plan = _plan(time, n_lags, x.dtype, x.device)
        of_x = _embedded(plan, x).mT  # (F, 2D, 2B)
        of_grad = plan.forward(_time_major(grad)).view(-1, 2 * batch, d_out)  # (F, 2B, E)
        grad_x = x.new_empty(of_grad.shape[0], 2 * batch, 2 * d_in)
        grad_weight = torch.empty_like(lag_weight)
        for columns in plan.chunks(lag_weight):
            part = of_grad[:, :, columns]
            half = plan.first_stage(lag_weight[:, :, columns].reshape(n_lags, -1))
            for f_1, rows in plan.blocks():
                spectrum = torch.mm(plan.second[f_1], half[f_1]).view(plan.n_2, 2 * d_in, -1)
                # beta = 0 overwrites: nothing was added before the first columns
                grad_x[rows].baddbmm_(part[rows], spectrum.mT, beta=float(columns.start > 0))
                product = torch.bmm(of_x[rows], part[rows])  # (n2, 2D, E)
                torch.mm(plan.second[f_1].mT, product.view(2 * plan.n_2, -1), out=half[f_1])
            grad_weight[:, :, columns] = plan.last_stage(half, n_lags).view(n_lags, d_in, -1)
        quarters = grad_x.view(-1, 2, batch, 2, d_in)  # rows g_r, g_i against columns W_r, W_i
        re = quarters[:, 0, :, 0] + quarters[:, 1, :, 1]
        im = quarters[:, 1, :, 0] - quarters[:, 0, :, 1]
        joined = torch.stack([re, im], 1).view(plan.n_blocks, 2 * plan.n_2, -1)
        grad_x = plan.backward(joined, time).view(time, batch, d_in)
        return grad_x.transpose(0, 1), grad_weight


def _time_major(x: Tensor) -> Tensor:
    return x.transpose(0, 1).reshape(x.shape[1], -1)  # (T, B D)


def _embedded(plan: "_Plan", x: Tensor) -> Tensor:
    """Return ``[[x_r, -x_i], [x_i, x_r]]`` for every frequency: ``(F, 2B, 2D)``.

    Its transpose is the same embedding of the conjugate transpose, ``X^H``.
    """
    batch, _, d_in = x.shape
    spectrum = plan.forward(_time_major(x)).view(-1, 2, batch, d_in)
    both = spectrum.new_empty(spectrum.shape[0], 2, batch, 2, d_in)
    both[:, 0, :, 0], both[:, 1, :, 0] = spectrum[:, 0], spectrum[:, 1]
    torch.neg(spectrum[:, 1], out=both[:, 0, :, 1])
    both[:, 1, :, 1] = spectrum[:, 0]
    return both.view(-1, 2 * batch, 2 * d_in)


@dataclass(frozen=True)
class _Plan:
    """The matrices of one transform length.

    Shapes:
        first: ``(2 F1, L1)``, rows alternate real and imaginary part.
        second: ``(F1, 2 n2, 2 n2)``; its transpose is the way back.
        last: ``(L1, 2 F1)``, holds the factor 1/n, twice for frequencies that stand for two.
    """

    n_2: int
    n_blocks: int  # F1, the first-stage frequencies that are needed
    first: Tensor
    second: Tensor
    last: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(length, columns)`` to ``(F1 n2, 2, columns)``: frequencies, real and imaginary."""
        half = self.first_stage(x)
        return torch.bmm(self.second, half).view(self.n_blocks * self.n_2, 2, -1)

    def backward(self, spectrum: Tensor, length: int) -> Tensor:
        """Map ``(F1, 2 n2, columns)`` to ``(length, columns)``."""
        return self.last_stage(torch.bmm(self.second.mT, spectrum), length)

    def first_stage(self, x: Tensor) -> Tensor:
        """Map ``(length, columns)`` to ``(F1, 2 n2, columns)``."""
        x = F.pad(x, (0, 0, 0, -x.shape[0] % self.n_2))
        outer = x.shape[0] // self.n_2
        half = self.first[:, :outer] @ x.reshape(outer, -1)
        return half.view(self.n_blocks, 2 * self.n_2, -1)

    def last_stage(self, half: Tensor, length: int) -> Tensor:
        """Map ``(F1, 2 n2, columns)`` to ``(length, columns)``, the stage's way back."""
        outer = -(-length // self.n_2)
        x = self.last[:outer] @ half.view(2 * self.n_blocks, -1)
        return x.view(outer * self.n_2, -1)[:length]

    def blocks(self) -> list[tuple[int, slice]]:
        """Return every first-stage frequency with the rows of its n2 frequencies."""
        return [(f_1, slice(f_1 * self.n_2, (f_1 + 1) * self.n_2)) for f_1 in range(self.n_blocks)]

    def chunks(self, lag_weight: Tensor) -> list[slice]:
        """Cut the output columns so that the half-transformed weights fit the workspace."""
        _, d_in, d_out = lag_weight.shape
        bytes_a_column = 2 * self.n_blocks * self.n_2 * d_in * lag_weight.element_size()
        width = max(1, min(d_out, WORKSPACE_BYTES // bytes_a_column))
        return [slice(start, start + width) for start in range(0, d_out, width)]


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # matrices made while generating must serve training later
def _plan(time: int, n_lags: int, dtype: torch.dtype, device: torch.device) -> _Plan:
    """Return the matrices for ``time`` tokens and ``n_lags`` lags, without wrap-around."""
    n_1, n_2 = stage_lengths(time, n_lags)
    n = n_1 * n_2
    f_1, t_2 = torch.arange((n_1 + 1) // 2), torch.arange(n_2)
    re, im = waves((f_1[:, None] + n_1 * t_2).flatten(), t_2, n)  # (F1 n2, n2)
    second = torch.stack([torch.cat([re, -im], 1), torch.cat([im, re], 1)], 1)
    outer = torch.arange(-(-max(time, n_lags) // n_2))
    first = torch.stack(waves(f_1, outer, n_1), 1)  # (F1, 2, L1)
    stands_for = torch.where(f_1 == 0, 1.0, 2.0).double()
    last = (first * stands_for[:, None, None] / n).flatten(0, 1).mT
    tensors = (first.flatten(0, 1), second.view(len(f_1), 2 * n_2, 2 * n_2), last)
    return _Plan(
        n_2, len(f_1), *(matrix.to(device=device, dtype=dtype).contiguous() for matrix in tensors)
    )


def stage_lengths(time: int, n_lags: int) -> tuple[int, int]:
    """Return n1 and n2 with ``n1 n2 >= T + K - 1``: no wrap-around.

    n2 is about sqrt(n) / 2, where the two stages cost alike; n1 is odd, so that only
    frequency 0 of the first stage is its own mirror image.
    """
    n = time + n_lags - 1
    n_2 = 2 ** max(0, round(n.bit_length() / 2) - 1)
    n_1 = -(-n // n_2)
    return n_1 + 1 - n_1 % 2, n_2
