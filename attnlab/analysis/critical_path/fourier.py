"""Transforms over frequencies as butterflies of real operations, and complex arithmetic.

A transform of length n takes ``log2 n`` levels, each one complex product with a constant and
one complex sum. A complex number is ready when both its parts are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def fourier_table() -> dict[Any, Any]:
    """Return real operations for the complex ones of the aten graph."""
    return {
        aten._fft_r2c.default: _real_to_complex,
        aten._fft_c2c.default: _complex_to_complex,
        aten._fft_c2r.default: _complex_to_real,
        aten.mul.Tensor: _mul,
        aten.add.Tensor: _add,
        aten.sub.Tensor: _sub,
        aten.bmm.default: lambda a, b: _product(a, b, torch.bmm),
        aten.mm.default: lambda a, b: _product(a, b, torch.mm),
        aten._conj.default: lambda x: torch.complex(*_conjugate(x)),
        aten.view_as_complex.default: lambda x: torch.complex(x[..., 0], x[..., 1]),
    }


def _parts(x: Any) -> tuple[Any, Any]:
    """Return real and imaginary part; a real number has none."""
    if isinstance(x, Tensor) and x.is_complex():
        return tuple(torch.view_as_real(x).unbind(-1))  # type: ignore[return-value]
    return x, None


def _is_real(*operands: Any) -> bool:
    return not any(isinstance(x, Tensor) and x.is_complex() for x in operands)


def _conjugate(x: Tensor) -> tuple[Tensor, Tensor]:
    re, im = _parts(x)
    return re, -im


def _mul(a: Any, b: Any) -> Tensor:
    return _product(a, b, lambda x, y: x * y)


def _product(a: Any, b: Any, multiply: Any) -> Tensor:
    if _is_real(a, b):
        return NotImplemented
    (a_re, a_im), (b_re, b_im) = _parts(a), _parts(b)
    if a_im is None:
        return torch.complex(multiply(a_re, b_re), multiply(a_re, b_im))
    if b_im is None:
        return torch.complex(multiply(a_re, b_re), multiply(a_im, b_re))
    re = multiply(a_re, b_re) - multiply(a_im, b_im)
    return torch.complex(re, multiply(a_re, b_im) + multiply(a_im, b_re))


def _add(a: Any, b: Any, *, alpha: float = 1) -> Tensor:
    if _is_real(a, b):
        return NotImplemented if alpha == 1 else a + b * alpha
    (a_re, a_im), (b_re, b_im) = _parts(a), _parts(b if alpha == 1 else b * alpha)
    zero = torch.zeros(())
    return torch.complex(
        a_re + b_re, (zero if a_im is None else a_im) + (zero if b_im is None else b_im)
    )


def _sub(a: Any, b: Any, *, alpha: float = 1) -> Tensor:
    if _is_real(a, b):
        return NotImplemented if alpha == 1 else a - b * alpha
    return a + -b if alpha == 1 else a + b * -alpha


def _real_to_complex(x: Tensor, dim: Sequence[int], normalization: int, onesided: bool) -> Tensor:
    *others, last = dim
    re, im = _transform(x.movedim(last, -1), torch.zeros(()), inverse=False)
    n = re.shape[-1] // 2 + 1 if onesided else re.shape[-1]
    y = torch.complex(re[..., :n], im[..., :n]).movedim(-1, last)
    y = aten._fft_c2c(y, others, 0, True) if others else y
    return _normalised(y, math.prod(x.shape[d] for d in dim), normalization)


def _complex_to_complex(x: Tensor, dim: Sequence[int], normalization: int, forward: bool) -> Tensor:
    y = x
    for axis in dim:
        parts = (part.movedim(axis, -1) for part in _parts(y))
        y = torch.complex(*_transform(*parts, inverse=not forward)).movedim(-1, axis)
    return _normalised(y, math.prod(x.shape[d] for d in dim), normalization)


def _complex_to_real(
    x: Tensor, dim: Sequence[int], normalization: int, last_dim_size: int
) -> Tensor:
    *others, last = dim
    x = aten._fft_c2c(x, others, 0, False) if others else x
    re, im = (part.movedim(last, -1) for part in _parts(x))
    mirrored = slice(1, (last_dim_size + 1) // 2)
    re = torch.cat([re, re[..., mirrored].flip(-1)], -1)
    im = torch.cat([im, -im[..., mirrored].flip(-1)], -1)
    y = _transform(re, im, inverse=True)[0].movedim(-1, last)
    return _normalised(y, math.prod(y.shape[d] for d in dim), normalization)


def _normalised(y: Tensor, n: int, normalization: int) -> Tensor:
    return y if normalization == 0 else y * (n**-0.5 if normalization == 1 else 1 / n)


def _transform(re: Tensor, im: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
    """Transform the last axis: halve it while it is even, then one product with a matrix.

    Source:
        Cooley and Tukey, Mathematics of Computation 19 (1965).
    """
    re, im = torch.broadcast_tensors(re, im)
    n = re.shape[-1]
    if n % 2:
        return _matrix_transform(re, im, inverse=inverse)
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


def _matrix_transform(re: Tensor, im: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
    n = re.shape[-1]
    if n == 1:
        return re, im
    at = torch.arange(n)
    cos, sin = _wave(torch.outer(at, at) % n, n, inverse=inverse, like=re)
    return re @ cos - im @ sin, re @ sin + im @ cos


def _wave(turns: Tensor, n: int, *, inverse: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the angle, with zeros and ones where they are exact."""
    angle = (2 if inverse else -2) * math.pi / n * turns.double()
    waves = torch.stack([angle.cos(), angle.sin()])
    near = waves.round()
    cos, sin = torch.where((waves - near).abs() < 1e-12, near, waves).to(like.dtype)
    return cos, sin
