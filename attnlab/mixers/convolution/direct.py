"""Dense causal convolution lag by lag: no transform, causal to the last bit."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

GROUP = 16  # lags that share one shape, so that kernel libraries compile few kernels
WINDOW_BYTES = 8 * 2**20  # of unfolded input alive at once in im2col
BLOCK = 8  # tokens a block of the block-Toeplitz form


def lags(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Add one matrix product a lag: the plain loop that the others are compared with.

    ``unbind`` matters: with ``lag_weight[j]`` every lag's gradient is a zero tensor of the
    full size, which makes backward quadratic.
    """
    first, *older = lag_weight.unbind(0)
    total = x @ first
    for lag, weight in enumerate(older, start=1):
        total = total + F.pad(x[:, : x.shape[1] - lag] @ weight, (0, 0, lag, 0))  # (B, T, E)
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
    """Lay every window out as one row, a few positions at a time, for one product."""
    return _Im2col.apply(x, lag_weight)


class _Im2col(torch.autograd.Function):
    """Unfolds again in backward, so that no unfolded window outlives its product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lag_weight: Tensor) -> Tensor:
        """Multiply windows ``(batch, some times, K d)`` with the stacked weights."""
        ctx.save_for_backward(x, lag_weight)
        return _unfolded_product(x, lag_weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The gradient of x is the same convolution, read from the end."""
        x, lag_weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _unfolded_product(grad.flip(1), lag_weight.mT).flip(1)
        if ctx.needs_input_grad[1]:
            flat = lag_weight.new_zeros(lag_weight.shape[0] * x.shape[2], grad.shape[2])
            for times, window in _windows(x, lag_weight.shape[0]):
                flat.addmm_(window.flatten(0, 1).mT, grad[:, times].flatten(0, 1))
            grad_weight = flat.view(lag_weight.shape[0], x.shape[2], -1).flip(0)
        return grad_x, grad_weight


def _unfolded_product(x: Tensor, lag_weight: Tensor) -> Tensor:
    stacked = lag_weight.flip(0).flatten(0, 1)  # (K D, E), oldest lag first
    return torch.cat([window @ stacked for _, window in _windows(x, lag_weight.shape[0])], 1)


def _windows(x: Tensor, n_lags: int) -> Any:
    """Yield (times, their windows ``(batch, n_times, K d)``, oldest token first)."""
    batch, time, d_in = x.shape
    unfolded = F.pad(x, (0, 0, n_lags - 1, 0)).unfold(1, n_lags, 1).mT  # (B, T, K, D), a view
    n_times = max(1, WINDOW_BYTES // (batch * n_lags * d_in * x.element_size()))
    for start in range(0, time, n_times):
        times = slice(start, min(start + n_times, time))
        yield times, unfolded[:, times].flatten(2)


def conv1d(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Ask the library's convolution."""
    kernel = lag_weight.flip(0).permute(2, 1, 0)  # (E, D, K), oldest lag first
    padded = F.pad(x.mT, (lag_weight.shape[0] - 1, 0))  # (B, D, K-1+T)
    return F.conv1d(padded, kernel).mT


def conv2d(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Ask the library's image convolution, on an image one row high.

    Channels come last, which selects quicker kernels in float32; other types have none.
    """
    layout = torch.channels_last if x.dtype == torch.float32 else torch.contiguous_format
    kernel = lag_weight.flip(0).permute(2, 1, 0)[:, :, None].contiguous(memory_format=layout)
    padded = F.pad(x, (0, 0, lag_weight.shape[0] - 1, 0)).mT[:, :, None]  # (B, D, 1, K-1+T)
    return F.conv2d(padded.contiguous(memory_format=layout), kernel)[:, :, 0].mT


def block_toeplitz(x: Tensor, lag_weight: Tensor) -> Tensor:
    """Treat a block of tokens as one wide token: fewer, larger products."""
    batch, time, d_in = x.shape
    n_lags, _, d_out = lag_weight.shape
    c = min(BLOCK, time)
    lag, is_seen = block_lags(n_lags, c, device=x.device)  # (M, C, C)
    matrices = lag_weight[lag] * is_seen[..., None, None]  # (M, C, C, D, E)
    matrices = matrices.transpose(2, 3).reshape(-1, c * d_in, c * d_out)
    blocks = F.pad(x, (0, 0, 0, -time % c)).view(batch, -1, c * d_in)
    y = lags(blocks, matrices[: blocks.shape[1]])
    return y.reshape(batch, -1, d_out)[:, :time]


def block_lags(n_lags: int, block: int, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return which lag joins input s to output t of blocks m apart, and whether there is one.

    Shapes:
        Both ``(m, s, t)``; lags outside the kernel are 0 in the first, false in the second.
    """
    at = torch.arange(block, device=device)
    apart = torch.arange(0, n_lags + block - 1, block, device=device)
    lag = apart[:, None, None] + at - at[:, None]
    is_seen = (lag >= 0) & (lag < n_lags)
    return lag * is_seen, is_seen
