"""Settings of the process that make training on a CPU faster and change no result's meaning."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h


def keep_pages() -> bool:
    """Tell the allocator to keep freed pages; return whether it could be told.

    By default glibc hands every large freed block back to the system and asks for zeroed
    pages again at the next step, which can take longer than the arithmetic. The price is
    that the process stays as large as its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    large = 1 << 30
    return bool(mallopt(_M_MMAP_THRESHOLD, large) and mallopt(_M_TRIM_THRESHOLD, large))


@contextmanager
def product_route(route: str = "default") -> Iterator[None]:
    """Send plain float32 matrix products through another kernel library.

    Args:
        route: ``default`` leaves torch as it is. ``onednn`` switches to oneDNN where that is
            exact on this processor, see ``onednn_is_exact``; elsewhere nothing changes.
    """
    if route != "onednn" or not onednn_is_exact():
        yield
        return
    switch = _product_switch()
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        yield
    finally:
        switch.fp32_precision = before


@cache
def onednn_is_exact() -> bool:
    """Say whether oneDNN's route keeps float32 accuracy here.

    The switch that selects it allows bfloat16 arithmetic; processors with matrix units (AMX)
    take that leave, others do not. Compare with float64 and with the default route.
    """
    switch = _product_switch()
    if switch is None:
        return False
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(512, 256, generator=generator)
    b = torch.randn(256, 512, generator=generator)
    truth = a.double() @ b.double()
    before = switch.fp32_precision
    errors = []
    for precision in (before, "bf16"):
        switch.fp32_precision = precision
        errors.append(float((a @ b - truth).abs().max()))
    switch.fp32_precision = before
    return errors[1] <= 2 * errors[0]


def _product_switch() -> Any:
    """Return torch's switch for float32 products on a CPU; None in versions without it."""
    return getattr(torch.backends.mkldnn, "matmul", None)
