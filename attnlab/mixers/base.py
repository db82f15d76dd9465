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

    def prefill(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Mix a whole prefix; return what ``forward`` returns and the state after it.

        Shapes:
            x: ``(batch, time, d_model)``; returns the same shape and the next state.
        Args:
            state: What came before the prefix, used up; None for the beginning.
        """
        require_features(x, d_model=self.d_model, where=type(self).__name__)
        state = self.initial_state(x.shape[0]) if state is None else state
        outputs = []
        for x_t in x.unbind(1):
            y_t, state = self.step(x_t, state)
            outputs.append(y_t)
        return torch.stack(outputs, 1), state

    @property
    def _like(self) -> dict[str, Any]:
        """Device and type of the weights, for new state tensors."""
        weight = next(self.parameters(), torch.empty(0))
        return {"device": weight.device, "dtype": weight.dtype}


@dataclass(frozen=True)
class Ring:
    """The newest ``context_len`` vectors side by side, newest first, and how many there were.

    Shapes:
        slots: ``(batch, ..., room, width)``; what is kept begins at ``start``. New vectors are
        written before it, and where the room ends, everything kept moves back to the end.
    """

    slots: Tensor
    context_len: int
    start: int = 0
    n_seen: int = 0

    @classmethod
    def empty(cls, batch_size: int, context_len: int, *width: int, **like: Any) -> Ring:
        """Return a ring that has seen nothing."""
        return cls(torch.zeros(batch_size, *width[:-1], 0, width[-1], **like), context_len)

    @property
    def n_kept(self) -> int:
        """How many vectors can be read: the newest ones that fit."""
        return min(self.n_seen, self.context_len)

    def push(self, vector: Tensor) -> Ring:
        """Return the ring with ``(batch, ..., width)`` as its newest vector.

        Without gradients the write is in place, so the old ring must not be used again.
        """
        ring = self.to(vector)
        ring._require_batch(vector)
        if torch.is_grad_enabled():
            return ring.extend(vector.unsqueeze(-2))
        slots, start = (ring.slots, ring.start) if ring.start else ring._with_room()
        slots.select(-2, start - 1).copy_(vector)
        return Ring(slots, self.context_len, start - 1, self.n_seen + 1)

    def extend(self, vectors: Tensor) -> Ring:
        """Return the ring after ``(batch, ..., time, width)``, the last of them the newest."""
        ring = self.to(vectors)
        ring._require_batch(vectors)
        newest = vectors[..., -self.context_len :, :].flip(-2)
        older = ring.newest(min(self.n_kept, self.context_len - newest.shape[-2]))
        n_seen = self.n_seen + vectors.shape[-2]
        return Ring(torch.cat([newest, older], -2), self.context_len, n_seen=n_seen)

    def newest_first(self) -> Tensor:
        """Return what is kept as ``(batch, ..., n_kept, width)``, lag 0 first."""
        return self.newest(self.n_kept)

    def newest(self, n: int) -> Tensor:
        """Return the ``n`` newest vectors, which must be kept; a view, nothing is copied."""
        return self.slots.narrow(-2, self.start, n)

    def to(self, other: Tensor) -> Ring:
        """Return the ring with the device and type of ``other``."""
        if self.slots.dtype == other.dtype and self.slots.device == other.device:
            return self
        return replace(self, slots=self.slots.to(device=other.device, dtype=other.dtype))

    def _with_room(self) -> tuple[Tensor, int]:
        """Return slots with what is still needed at their end, and where it begins there.

        Room doubles up to twice the context; from then on the same memory serves for ever.
        """
        n_needed = min(self.n_kept, self.context_len - 1)
        n_slots = self.slots.shape[-2]
        room, needed = n_slots, self.newest(n_needed)
        slots = self.slots
        if n_slots < 2 * self.context_len:
            room = min(max(16, 2 * n_slots), 2 * self.context_len)
            shape = (*slots.shape[:-2], room, slots.shape[-1])
            slots = slots.new_empty(shape)
        slots.narrow(-2, room - n_needed, n_needed).copy_(needed)
        return slots, room - n_needed

    def _require_batch(self, vector: Tensor) -> None:
        if vector.shape[0] != self.slots.shape[0]:
            raise AttnlabError(
                f"The state is for a batch of {self.slots.shape[0]}; got {vector.shape[0]} rows. "
                f"Start with initial_state({vector.shape[0]})."
            )
