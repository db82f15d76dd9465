"""Compound operations written as the equation that a textbook has for them.

torch's own decompositions serve for most. Fused attention is replaced by its equation, because
a kernel shows no operations: scores, scale, mask, softmax, average of values.

Transforms over frequencies are butterflies of real operations: one of length n takes ``log2 n``
levels, each one complex product with a constant and one complex sum. A complex number is ready
when both its parts are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

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
    """Return what the tracer puts in place of a compound operation, or a complex one."""
    by_torch = (aten._softmax, aten._log_softmax, aten.native_layer_norm, aten.addmm)
    return {
        **dict(torch.export.default_decompositions().items()),
        **get_decompositions([operation.default for operation in by_torch]),
        aten.var_mean.correction: _var_mean,
        aten.var.correction: lambda *args, **options: _var_mean(*args, **options)[0],
        aten.mean.dim: _mean,
        aten.mean.default: lambda x, **_: _mean(x, None),
        aten.max.dim: lambda x, dim, keepdim=False: (x.amax(dim, keepdim), x.argmax(dim, keepdim)),
        aten.max.default: lambda x: x.amax(),
        aten.split_with_sizes.default: _split,
        aten._fft_r2c.default: _real_to_complex,
        aten._fft_c2c.default: _complex_to_complex,
        aten._fft_c2r.default: _complex_to_real,
        aten.mul.Tensor: partial(_product, multiply=lambda x, y: x * y),
        aten.bmm.default: partial(_product, multiply=torch.bmm),
        aten.mm.default: partial(_product, multiply=torch.mm),
        aten.add.Tensor: _add,
        aten.sub.Tensor: lambda a, b, *, alpha=1: _add(a, b, alpha=alpha, sign=-1),
        aten._conj.default: lambda x: torch.complex(_parts(x)[0], -_parts(x)[1]),
        aten.view_as_complex.default: lambda x: torch.complex(x[..., 0], x[..., 1]),
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


def _parts(x: Any) -> tuple[Any, Any]:
    """Return real and imaginary part; a real number has none."""
    if isinstance(x, Tensor) and x.is_complex():
        return tuple(torch.view_as_real(x).unbind(-1))  # type: ignore[return-value]
    return x, None


def _product(a: Any, b: Any, *, multiply: Callable[..., Any]) -> Tensor:
    (a_re, a_im), (b_re, b_im) = _parts(a), _parts(b)
    if a_im is None and b_im is None:
        return NotImplemented
    if a_im is None:
        return torch.complex(multiply(a_re, b_re), multiply(a_re, b_im))
    if b_im is None:
        return torch.complex(multiply(a_re, b_re), multiply(a_im, b_re))
    re = multiply(a_re, b_re) - multiply(a_im, b_im)
    return torch.complex(re, multiply(a_re, b_im) + multiply(a_im, b_re))


def _add(a: Any, b: Any, *, alpha: float = 1, sign: int = 1) -> Tensor:
    (a_re, a_im), (b_re, b_im) = _parts(a), _parts(b)
    if a_im is None and b_im is None:
        return NotImplemented if alpha == 1 else a + b * (sign * alpha)
    if sign * alpha != 1:
        b = -b if sign * alpha == -1 else b * (sign * alpha)
        return a + b
    zero = torch.zeros(())
    return torch.complex(
        a_re + b_re, (zero if a_im is None else a_im) + (zero if b_im is None else b_im)
    )


def _real_to_complex(x: Tensor, dim: Sequence[int], normalization: int, onesided: bool) -> Tensor:
    *others, last = dim
    re, im = _transform(x.movedim(last, -1), torch.zeros(()), inverse=False)
    n = re.shape[-1] // 2 + 1 if onesided else re.shape[-1]
    y = torch.complex(re[..., :n], im[..., :n]).movedim(-1, last)
    y = _complex_to_complex(y, others, 0, True)
    return _normalised(y, [x.shape[d] for d in dim], normalization)


def _complex_to_complex(x: Tensor, dim: Sequence[int], normalization: int, forward: bool) -> Tensor:
    y = x
    for axis in dim:
        parts = (part.movedim(axis, -1) for part in _parts(y))
        y = torch.complex(*_transform(*parts, inverse=not forward)).movedim(-1, axis)
    return _normalised(y, [x.shape[d] for d in dim], normalization)


def _complex_to_real(
    x: Tensor, dim: Sequence[int], normalization: int, last_dim_size: int
) -> Tensor:
    *others, last = dim
    x = _complex_to_complex(x, others, 0, False)
    re, im = (part.movedim(last, -1) for part in _parts(x))
    mirrored = slice(1, (last_dim_size + 1) // 2)
    re = torch.cat([re, re[..., mirrored].flip(-1)], -1)
    im = torch.cat([im, -im[..., mirrored].flip(-1)], -1)
    y = _transform(re, im, inverse=True)[0].movedim(-1, last)
    return _normalised(y, [y.shape[d] for d in dim], normalization)


def _normalised(y: Tensor, lengths: Sequence[int], normalization: int) -> Tensor:
    return y if normalization == 0 else y * math.prod(lengths) ** (-0.5 * normalization)


def _transform(re: Tensor, im: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
    """Transform the last axis: halve it while it is even, then one product with a matrix.

    Source:
        Cooley and Tukey, Mathematics of Computation 19 (1965).
    """
    re, im = torch.broadcast_tensors(re, im)
    n = re.shape[-1]
    if n == 1:
        return re, im
    if n % 2:
        at = torch.arange(n)
        cos, sin = _wave(torch.outer(at, at) % n, n, inverse=inverse, like=re)
        return re @ cos - im @ sin, re @ sin + im @ cos
    pairs = (part.unflatten(-1, (n // 2, 2)).mT for part in (re, im))  # even, odd places
    re, im = _transform(*pairs, inverse=inverse)
    cos, sin = _wave(torch.arange(n // 2), n, inverse=inverse, like=re)
    (even_re, odd_re), (even_im, odd_im) = re.unbind(-2), im.unbind(-2)
    turned_re = odd_re * cos - odd_im * sin
    turned_im = odd_re * sin + odd_im * cos
    return (
        torch.cat([even_re + turned_re, even_re - turned_re], -1),
        torch.cat([even_im + turned_im, even_im - turned_im], -1),
    )


def _wave(turns: Tensor, n: int, *, inverse: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the angle, with zeros and ones where they are exact."""
    angle = (2 if inverse else -2) * math.pi / n * turns.double()
    waves = torch.stack([angle.cos(), angle.sin()])
    near = waves.round()
    cos, sin = torch.where((waves - near).abs() < 1e-12, near, waves).to(like.dtype)
    return cos, sin
