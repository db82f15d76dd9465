"""When a reduction of n terms is ready, and which of its terms the result waits for.

``tree``: join the two terms that are ready first, again and again. The last join is ready
after ``ceil(log2 sum_i 2^{t_i})`` operations, which no other tree beats; n terms that are
ready together take ``ceil(log2 n)`` more. ``sequential``: one running total takes the terms
in the order of their index.

Source:
    Golumbic, "Combinatorial merging", IEEE Transactions on Computers C-25 (1976).
"""

from __future__ import annotations

import torch
from torch import Tensor

from attnlab.errors import AttnlabError

ORDERS = ("tree", "sequential")
WINDOW = 30  # levels of a tree that are counted in one integer


def require_order(accumulate: str) -> None:
    """Raise unless ``accumulate`` is ``tree`` or ``sequential``."""
    if accumulate not in ORDERS:
        raise AttnlabError(f"accumulate={accumulate!r} is not one of {', '.join(ORDERS)}.")


def combine(depth: Tensor, live: Tensor, *, accumulate: str) -> Tensor:
    """Return the depth of the combination of all live terms; 0 where there are none.

    Shapes:
        depth, live: ``(..., n_terms)``; returns ``(...)``.
    """
    depth, live = torch.broadcast_tensors(depth, live)
    if depth.shape[-1] == 0:
        return depth.new_zeros(depth.shape[:-1])
    ready = _tree(depth, live) if accumulate == "tree" else _waits(depth, live).amax(-1)
    return torch.where(live.any(-1), ready, 0)


def critical_term(depth: Tensor, live: Tensor, *, accumulate: str) -> int:
    """Return the index of a term from which an unbroken chain leads to the result.

    In a tree it is the term that is ready last: it need not wait for a partner, and whatever
    it becomes a part of need not wait either.

    Shapes:
        depth, live: ``(n_terms,)``, at least one of them live.
    """
    waits = _waits(depth, live) if accumulate == "sequential" else torch.where(live, depth, -1)
    return int(waits.argmax())


def _waits(depth: Tensor, live: Tensor) -> Tensor:
    """Return when a running total would be ready if it waited for each term alone."""
    rank = live.cumsum(-1) - 1  # the first two terms share the first addition
    after = live.sum(-1, keepdim=True) - rank.clamp(min=1)
    return torch.where(live, depth + after, -1)


def _tree(depth: Tensor, live: Tensor) -> Tensor:
    """Return ceil(log2 sum 2^depth), counted in windows so that no integer overflows.

    Rounding a count up from one window to the next changes nothing: an odd item waits.
    """
    top = torch.where(live, depth, -1).amax(-1, keepdim=True)
    below = torch.where(live, top - depth, 0)
    n_windows = int(below.max()) // WINDOW + 1 if below.numel() else 1
    count = torch.zeros_like(top[..., 0])
    for window in reversed(range(n_windows)):
        level = below - window * WINDOW
        inside = live & (level >= 0) & (level < WINDOW)
        units = torch.where(inside, 1 << (WINDOW - 1 - level).clamp(0, WINDOW - 1), 0).sum(-1)
        count = ((count + (1 << WINDOW) - 1) >> WINDOW) + units
    return top[..., 0] - (WINDOW - 1) + ceil_log2(count)


def ceil_log2(count: Tensor) -> Tensor:
    """Return the levels of a tree over ``count`` leaves, exact for counts below 2^53."""
    mantissa, exponent = torch.frexp(count.clamp(min=1).double())
    return exponent.long() - (mantissa == 0.5).long()
