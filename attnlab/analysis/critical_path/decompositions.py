"""Compound operations written as the equation that a textbook has for them.

torch's own decompositions serve for the rest. Fused attention is replaced by its equation,
because a kernel shows no operations: scores, scale, mask, softmax, average of values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from attnlab.analysis.critical_path.fourier import fourier_table
from attnlab.errors import AttnlabError

aten = torch.ops.aten
COMPOUNDS = {
    "_softmax": "softmax",
    "_log_softmax": "log softmax",
    "native_layer_norm": "layer norm",
    "var_mean": "variance",
}


@cache
def decomposition_table() -> dict[Any, Callable[..., Any]]:
    """Return what the tracer puts in place of a compound operation."""
    return {
        **dict(torch.export.default_decompositions().items()),
        **fourier_table(),
        aten._softmax.default: _softmax,
        aten._log_softmax.default: _log_softmax,
        aten.native_layer_norm.default: _layer_norm,
        aten.var_mean.correction: _var_mean,
        aten.var.correction: lambda *args, **options: _var_mean(*args, **options)[0],
        aten.mean.dim: _mean,
        aten.mean.default: lambda x, **_: _mean(x, None),
        aten.max.dim: lambda x, dim, keepdim=False: (x.amax(dim, keepdim), x.argmax(dim, keepdim)),
        aten.max.default: lambda x: x.amax(),
        aten.split_with_sizes.default: _split,
        aten.split.Tensor: lambda x, size, dim=0: _split(x, _sizes(x.shape[dim], size), dim),
        aten.unbind.int: lambda x, dim=0: tuple(x.select(dim, i) for i in range(x.shape[dim])),
        aten.addmm.default: _addmm,
        aten.mv.default: lambda matrix, vector: (matrix @ vector[:, None])[:, 0],
        aten.dot.default: lambda a, b: (a[None] @ b[:, None])[0, 0],
        aten.convolution.default: _convolution,
        aten.masked_fill.Scalar: lambda x, mask, value: torch.where(mask, value, x),
        aten.masked_fill.Tensor: lambda x, mask, value: torch.where(mask, value, x),
    }


class TextbookAttention(TorchFunctionMode):
    """Replace fused attention by its equation while a program is traced."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Intercept ``scaled_dot_product_attention``; leave everything else alone."""
        if func is F.scaled_dot_product_attention:
            return attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attend by the equation, with the arguments of the function it stands for.

    Source:
        arXiv:1706.03762, eq. 1.
    """
    if dropout_p or enable_gqa:
        raise AttnlabError(
            "The tracer replaces fused attention by its equation, without dropout_p and "
            "enable_gqa. Trace the model in evaluation mode, with as many keys as queries."
        )
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = torch.where(attn_mask, scores, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


def _softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    shifted = (x - x.amax(dim, keepdim=True)).exp()
    return shifted / shifted.sum(dim, keepdim=True)


def _log_softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    dims = tuple(range(-len(shape), 0))
    variance, mean = _var_mean(x, dims, correction=0, keepdim=True)
    scale = (variance + eps).rsqrt()
    y = (x - mean) * scale
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias), mean, scale


def _var_mean(
    x: Tensor,
    dim: Sequence[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> tuple[Tensor, Tensor]:
    dims = tuple(range(x.ndim)) if dim is None else tuple(dim)
    n = math.prod(x.shape[d] for d in dims)
    mean = _mean(x, dims, keepdim=True)
    centred = x - mean
    total = (centred * centred).sum(dims, keepdim=keepdim)
    free = n - (1 if correction is None else correction)
    return total * (1 / free), mean if keepdim else mean.squeeze(dims)


def _mean(x: Tensor, dim: Sequence[int] | None, keepdim: bool = False, **_: Any) -> Tensor:
    dims = tuple(range(x.ndim)) if dim is None else tuple(dim)
    n = math.prod(x.shape[d] for d in dims)
    return x.sum(dims, keepdim=keepdim) * (1 / n)


def _split(x: Tensor, sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    ends = list(itertools.accumulate(sizes))
    return tuple(x.narrow(dim, end - n, n) for end, n in zip(ends, sizes, strict=True))


def _sizes(whole: int, part: int) -> list[int]:
    return [min(part, whole - start) for start in range(0, whole, part)]


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    product = a @ b if alpha == 1 else (a @ b) * alpha
    return product + (bias if beta == 1 else bias * beta)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """Cut the input into windows, then multiply and add up: one sum an output."""
    if transposed:
        return NotImplemented
    n_axes = weight.ndim - 2
    windows = F.pad(x, [side for pad in reversed(padding) for side in (pad, pad)])
    for axis in range(n_axes):
        reach = (weight.shape[2 + axis] - 1) * dilation[axis] + 1
        windows = windows.unfold(2 + axis, reach, stride[axis])[..., :: dilation[axis]]
    batch, c_in = windows.shape[:2]
    places, kernel = windows.shape[2 : 2 + n_axes], windows.shape[2 + n_axes :]
    n_places, n_taps = math.prod(places), math.prod(kernel)
    terms = windows.reshape(batch, groups, c_in // groups, n_places, n_taps)
    terms = terms.permute(1, 0, 3, 2, 4).reshape(groups, batch * n_places, -1)
    maps = weight.reshape(groups, weight.shape[0] // groups, -1).mT  # (groups, terms, outputs)
    y = torch.bmm(terms, maps).view(groups, batch, n_places, -1)
    y = y.permute(1, 0, 3, 2).reshape(batch, weight.shape[0], *places)
    return y if bias is None else y + bias.view(-1, *[1] * n_axes)
