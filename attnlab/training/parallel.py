"""Several processes that train one model: each reads its rows of a batch, and all take one step.

``torchrun --standalone --nproc-per-node 2 -m attnlab train`` starts them, ``join`` makes them
know each other, and the loop does the rest. Every process holds the whole model, counts the same
batches and does the same steps, so whatever is trained ends as one process would have trained it,
up to rounding; dropout alone draws other numbers. The first process reports and keeps results.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def join(device: str = "cpu") -> None:
    """Meet the other processes that ``torchrun`` started, if it did.

    Args:
        device: ``cpu``, or ``cuda`` for a graphics card each, as far as there are enough.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or n_processes() > 1:
        return
    backend = "gloo"
    if device == "cuda":
        n_cards, here = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(here % n_cards)
        if n_cards >= int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
            backend = "nccl"
    # Its functions take the group as a default argument. Imported later, by the first optimiser,
    # they would keep it and its threads to the end of Python, where a thread that still has a
    # tensor to drop aborts the process.
    from torch.distributed.nn import functional  # noqa: F401

    dist.init_process_group(backend)
    atexit.register(_leave)


def _leave() -> None:
    """Wait a little for the others, so that none loses a peer while it still works; then part."""
    if dist.get_backend() == "gloo":
        with suppress(RuntimeError):  # a peer that failed will not come
            dist.monitored_barrier(timeout=timedelta(seconds=5))
    dist.destroy_process_group()


def n_processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among them, 0 upward."""
    return dist.get_rank() if n_processes() > 1 else 0


def is_first() -> bool:
    """Return whether this process reports, writes checkpoints and appends records."""
    return rank() == 0


def agree(word: T) -> T:
    """Return what the first process says, in all of them."""
    words = [word]
    if n_processes() > 1:
        dist.broadcast_object_list(words)
    return words[0]


def own_part(
    inputs: Any, targets: Tensor, count: Callable[[Tensor], int]
) -> tuple[Any, Tensor, float]:
    """Return this process' rows of a batch, and over how many tokens their mean goes.

    What is no pair of tensors, such as lessons of students, is read whole by every process, and
    counts for its share.
    """
    n, own = n_processes(), slice(rank(), None, n_processes())
    if not isinstance(inputs, Tensor):
        return inputs, targets, count(targets) / n
    if n > 1:
        inputs, targets = inputs[own], targets[own]
    return inputs, targets, count(targets) if len(targets) else 0


def add_up(weights: Sequence[nn.Parameter], loss_nats: float) -> float:
    """Give every weight the sum of its gradients over the processes; return that of the losses.

    A weight that no process used keeps no gradient.
    """
    if n_processes() == 1:
        return loss_nats
    weights = [w for w in weights if w.requires_grad]
    parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    facts = [float(w.grad is not None) for w in weights] + [loss_nats]
    whole = torch.cat([part.flatten() for part in parts] + [parts[0].new_tensor(facts)])
    dist.all_reduce(whole)
    *sums, facts = whole.split([part.numel() for part in parts] + [len(facts)])
    for weight, total, is_used in zip(weights, sums, facts[:-1].tolist(), strict=True):
        weight.grad = total.view_as(weight).to(weight.dtype) if is_used else None
    return float(facts[-1])
