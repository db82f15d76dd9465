"""What every token mixer promises, and the ring buffer that streaming needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attnlab.errors import AttnlabError
from attnlab.shapes import require_features


class TokenMixer(nn.Module):
    """Moves information between positions, never from a later one to an earlier one.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape. Position t reads the
        newest ``context_len`` positions up to and including itself.
    """

    def __init__(self, *, d_model: int, context_len: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.context_len = context_len

    def forward(self, x: Tensor) -> Tensor:
        """Mix all positions at once, as in training."""
        require_features(x, d_model=self.d_model, where=type(self).__name__)
        return self.mix(x)

    def mix(self, x: Tensor) -> Tensor:
        """Return the mixture ``(batch, time, d_model)``; subclasses say how."""
        raise NotImplementedError

    def initial_state(self, batch_size: int) -> Any:
        """Return the state before the first token."""
        raise NotImplementedError

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Mix one more token; the state passed in is used up.

        Shapes:
            x_t: ``(batch, d_model)``; returns ``(batch, d_model)`` and the next state.
        """
        raise NotImplementedError

    @property
    def _like(self) -> dict[str, Any]:
        """Device and type of the weights, for new state tensors."""
        weight = next(self.parameters(), torch.empty(0))
        return {"device": weight.device, "dtype": weight.dtype}


@dataclass(frozen=True)
class Ring:
    """The newest ``slots.shape[1]`` vectors, and how many were ever written.

    Shapes:
        slots: ``(batch, context_len, width)``; token t lies in slot ``t % context_len``.
    """

    slots: Tensor
    n_seen: int = 0

    @classmethod
    def empty(cls, batch_size: int, context_len: int, width: int, **like: Any) -> Ring:
        """Return a ring of zeros that has seen nothing."""
        return cls(torch.zeros(batch_size, context_len, width, **like))

    @property
    def n_kept(self) -> int:
        """How many vectors can be read: the newest ones that fit."""
        return min(self.n_seen, self.slots.shape[1])

    def push(self, vector: Tensor) -> Ring:
        """Return the ring with ``(batch, width)`` as its newest vector.

        Without gradients the write is in place, so the old ring must not be used again.
        """
        slot = self.n_seen % self.slots.shape[1]
        if vector.shape[0] != self.slots.shape[0]:
            raise AttnlabError(
                f"The state is for a batch of {self.slots.shape[0]}; got {vector.shape[0]} rows. "
                f"Start with initial_state({vector.shape[0]})."
            )
        slots = self.slots.to(device=vector.device, dtype=vector.dtype)
        if torch.is_grad_enabled():
            index = torch.tensor([slot], device=slots.device)
            slots = slots.index_copy(1, index, vector[:, None])
        else:
            slots[:, slot] = vector
        return replace(self, slots=slots, n_seen=self.n_seen + 1)

    def newest_first(self) -> Tensor:
        """Return what is kept as ``(batch, n_kept, width)``, lag 0 first."""
        lags = torch.arange(self.n_kept, device=self.slots.device)
        return self.slots[:, (self.n_seen - 1 - lags) % self.slots.shape[1]]
