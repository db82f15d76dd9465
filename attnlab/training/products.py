"""Float32 matrix products through oneDNN: as exact as the default ones, faster on some CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_ROUTE = torch.backends.mkldnn.matmul
_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@contextmanager
def onednn_products() -> Iterator[None]:
    """Send float32 products on a CPU through oneDNN, where that leaves them float32.

    torch's own library uses half of AVX-512 on some CPUs. oneDNN is asked for by allowing it
    bfloat16, which a CPU with AMX would take literally: there nothing changes. Attention's fused
    look-up becomes slower that way, forward and backward, and keeps the default.
    """
    if not _is_exact():
        yield
        return
    with _route("bf16"), _LookUpApart():
        yield


@cache
def _is_exact() -> bool:
    """Probe a product: is its error that of float32?"""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    with _route("bf16"):
        error = (a @ b - exact).norm() / exact.norm()
    return bool(error < 1e-6)


@contextmanager
def _route(name: str) -> Iterator[None]:
    before, _ROUTE.fp32_precision = _ROUTE.fp32_precision, name
    try:
        yield
    finally:
        _ROUTE.fp32_precision = before


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> Tensor:
        with _route("none"):
            out, log_sum = _attend(q, k, v, 0.0, is_causal)
        ctx.save_for_backward(q, k, v, out, log_sum)
        ctx.is_causal = is_causal
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        with _route("none"):
            found = _attend_backward(grad_outputs[0], *ctx.saved_tensors, 0.0, ctx.is_causal)
        return (*found, None)


class _LookUpApart(TorchFunctionMode):
    """Take the unmasked look-up out of the route; leave everything else alone."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        is_plain = kwargs.get("attn_mask") is None and not kwargs.get("dropout_p")
        if func is F.scaled_dot_product_attention and is_plain and args[0].device.type == "cpu":
            return _LookUp.apply(*args[:3], kwargs.get("is_causal", False))
        return func(*args, **kwargs)
