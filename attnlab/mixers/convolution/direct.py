"""Causal convolution lag by lag or block by block: no transform, causal to the last bit."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

GROUP = 16  # lags that share one shape, so that kernel libraries compile few kernels
WINDOW_BYTES = 8 * 2**20  # of unfolded input alive at once in im2col
BLOCK, VECTOR_BLOCK = 8, 64  # tokens a block of the block-Toeplitz forms


def lags(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Add one product a lag: the plain loop that the others are compared with.

    ``unbind`` matters: with ``lag_weight[j]`` every lag's gradient is a zero tensor of the
    full size, which makes backward quadratic.
    """
    multiply = torch.matmul if lag_weight.ndim == 3 else torch.mul
    first, *older = lag_weight.unbind(0)
    total = multiply(x, first)
    for lag, weight in enumerate(older, start=1):
        term = multiply(x[:, : x.shape[1] - lag], weight)
        total = total + F.pad(term, (0, 0, lag, 0))  # (B, T, E)
    return total


def grouped_lags(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Add the lags in place on time-major rows, where a shift is a contiguous slice."""
    return _GroupedLags.apply(x, lag_weight)


class _GroupedLags(torch.autograd.Function):
    """Keeps x and the weights only; backward runs over the same slices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lag_weight: Tensor) -> Tensor:
        """Add ``x[: T - j] W_j`` to the rows from j on."""
        ctx.save_for_backward(x, lag_weight)
        batch, time, _ = x.shape
        rows = _time_major(x)
        total = x.new_zeros((time + GROUP) * batch, lag_weight.shape[2])
        for first, lag in _grouped(lag_weight.shape[0]):
            n_rows = (time - first) * batch  # the last of a group writes rows nobody reads
            total[lag * batch : lag * batch + n_rows].addmm_(rows[:n_rows], lag_weight[lag])
        return total[: time * batch].view(time, batch, -1).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Run the slices the other way round."""
        x, lag_weight = ctx.saved_tensors
        batch, time, d_in = x.shape
        rows, grad_rows = _time_major(x), F.pad(_time_major(grad), (0, 0, 0, GROUP * batch))
        grad_x = x.new_zeros(time * batch, d_in) if ctx.needs_input_grad[0] else None
        grad_weight = torch.empty_like(lag_weight) if ctx.needs_input_grad[1] else None
        for first, lag in _grouped(lag_weight.shape[0]):
            n_rows = (time - first) * batch
            reached = grad_rows[lag * batch : lag * batch + n_rows]
            if grad_x is not None:
                grad_x[:n_rows].addmm_(reached, lag_weight[lag].mT)
            if grad_weight is not None:
                torch.mm(rows[:n_rows].mT, reached, out=grad_weight[lag])
        if grad_x is not None:
            grad_x = grad_x.view(time, batch, d_in).transpose(0, 1)
        return grad_x, grad_weight


def _grouped(n_lags: int) -> list[tuple[int, int]]:
    """Return (first lag of the group, lag) for every lag."""
    return [(lag - lag % GROUP, lag) for lag in range(n_lags)]


def _time_major(x: Tensor) -> Tensor:
    """Return ``(batch, time, d)`` as contiguous rows ``(time * batch, d)``."""
    return x.transpose(0, 1).reshape(-1, x.shape[2])


def im2col(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Lay every window out as one row for one product, a few positions at a time.

    Backward lays them out again, so that no unfolded window outlives its product.
    """
    (batch, time, d_in), n_lags = x.shape, lag_weight.shape[0]
    n_times = max(1, WINDOW_BYTES // (batch * n_lags * d_in * x.element_size()))

    def products(start: int) -> Tensor:
        first = max(0, start - n_lags + 1)
        padded = F.pad(x[:, first : start + n_times], (0, 0, first - start + n_lags - 1, 0))
        windows = padded.unfold(1, n_lags, 1).mT.flatten(2)  # (B, some T, K D), oldest lag first
        return windows @ lag_weight.flip(0).flatten(0, 1)

    starts = range(0, time, n_times)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(products, start, use_reentrant=False) for start in starts], 1)
    return torch.cat([products(start) for start in starts], 1)


def block_toeplitz(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Treat a block of tokens as one wide token: fewer, larger products."""
    batch, time, d_in = x.shape
    n_lags, _, d_out = lag_weight.shape
    c = min(BLOCK, time)
    lag, is_seen = _block_lags(n_lags, c, device=x.device)  # (M, C, C)
    matrices = lag_weight[lag] * is_seen[..., None, None]  # (M, C, C, D, E)
    matrices = matrices.transpose(2, 3).reshape(-1, c * d_in, c * d_out)
    blocks = F.pad(x, (0, 0, 0, -time % c)).view(batch, -1, c * d_in)
    y = lags(blocks, matrices[: blocks.shape[1]])
    return y.reshape(batch, -1, d_out)[:, :time]


def vector_toeplitz(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Multiply blocks of time by small Toeplitz matrices, one set a channel."""
    batch, time, d = x.shape
    c = min(VECTOR_BLOCK, time)
    lag, is_seen = _block_lags(lag_weight.shape[0], c, device=x.device)  # (M, C, C)
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


def scalar_toeplitz(x: Tensor, lag_weight: Tensor) -> Tensor:
    """One ``(time, time)`` lower-triangular Toeplitz matrix serves all channels."""
    t = torch.arange(x.shape[1], device=x.device)
    lag = t[:, None] - t
    seen = (lag >= 0) & (lag < lag_weight.shape[0])
    matrix = lag_weight[lag.clamp(0, lag_weight.shape[0] - 1)] * seen
    return matrix @ x


def _block_lags(n_lags: int, block: int, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return which lag joins input s to output t of blocks m apart, and whether there is one.

    Shapes:
        Both ``(m, s, t)``; lags outside the kernel are 0 in the first, false in the second.
    """
    at = torch.arange(block, device=device)
    apart = torch.arange(0, n_lags + block - 1, block, device=device)
    lag = apart[:, None, None] + at - at[:, None]
    is_seen = (lag >= 0) & (lag < n_lags)
    return lag * is_seen, is_seen
