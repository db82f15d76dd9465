"""A learner's module with four maps, filled with numbers that a check has chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attnlab.teach.running import CheckFailed

MAPS = ("query", "key", "value", "out")


def with_maps(
    build: Callable[[int, int], Any], d_model: int, n_heads: int, maps: Sequence[Any], *, kind: type
) -> tuple[Any, int]:
    """Return what ``build(d_model, n_heads)`` makes, in float64, and how many numbers it has.

    Shapes:
        maps: query, key, value and out, each ``(d_model, d_model)``, applied as ``x @ W``.
    Args:
        kind: ``torch.nn.Linear``; a check of functions alone does without torch.
    Raises:
        CheckFailed: A map is missing, or is of another kind.
    """
    module = build(d_model, n_heads)
    for name, W in zip(MAPS, maps, strict=True):
        if not isinstance(getattr(module, name, None), kind):
            raise CheckFailed(
                f"The module needs four nn.Linear: query, key, value, out. Not found: {name}."
            )
        linear = module.get_submodule(name)
        linear.weight.data = W.mT.float()
        if linear.bias is not None:
            linear.bias.data.zero_()
    return module.double(), sum(W.numel() for W in module.parameters())
