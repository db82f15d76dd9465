"""Shape checks with messages that name the numbers, shared by everything that takes tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnlab.errors import AttnlabError

if TYPE_CHECKING:
    from torch import Tensor


def require_features(x: Tensor, *, d_model: int, where: str) -> None:
    """Raise unless ``x`` is ``(batch, time, d_model)`` with at least one time step."""
    if x.ndim != 3:
        raise AttnlabError(
            f"{where} takes (batch, time, d_model); got {tuple(x.shape)}, {x.ndim} axes. "
            "Add the missing axis with x[None] or x.unsqueeze(...)."
        )
    if x.shape[-1] != d_model:
        raise AttnlabError(
            f"{where} was built for d_model={d_model}; the input is {x.shape[-1]} wide. "
            "Build it with the width of the residual stream, or project the input first."
        )
    if x.shape[1] == 0:
        raise AttnlabError(f"{where} needs at least one time step; got time=0.")


def require_tokens(tokens: Tensor, *, vocab_size: int, context_len: int) -> None:
    """Raise unless ``tokens`` is an integer ``(batch, time)`` that the model can read.

    The range test costs one pass over the ids, nothing beside a forward pass.
    """
    if tokens.ndim != 2 or tokens.is_floating_point():
        raise AttnlabError(
            f"The model takes token ids (batch, time) of an integer type; got "
            f"{tuple(tokens.shape)} of {tokens.dtype}. Encode text with a tokenizer first."
        )
    if tokens.numel() == 0:
        raise AttnlabError("The prompt is empty: give at least one token to go on from.")
    if tokens.shape[1] > context_len:
        raise AttnlabError(
            f"{tokens.shape[1]} tokens do not fit context_len={context_len}. "
            f"Keep the last {context_len} with tokens[:, -{context_len}:], "
            "or build the model with a longer context."
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise AttnlabError(
            f"Token id {wrong} is outside the model's vocabulary of {vocab_size}. "
            "The tokenizer and the model do not belong together: load both from the same folder."
        )
