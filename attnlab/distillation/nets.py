r"""What students are made of: norm, linear map, LeakyReLU, norm, linear map, over slots.

A sentence is written into slots, one a position, and the unused slots stay zero. The net reads
the slots side by side as one long vector :math:`z` of N numbers:

.. math:: y = W_2\, \mathrm{LN}(\mathrm{LeakyReLU}(W_1\, \mathrm{LN}(z) + b_1)) + b_2

The norm folds into the first map, and what remains are sums over slots,

.. math:: W_1 \mathrm{LN}(z) + b_1 = \frac{s - m\, W_1\gamma}{\sqrt{v - m^2 + \epsilon}}
          + W_1\beta + b_1, \quad
          s = \sum_j W_1^{(j)} (\gamma_j x_j),\ m = \tfrac1N \sum_j 1^\top x_j,\
          v = \tfrac1N \sum_j |x_j|^2

so that unused slots cost nothing, a running sum gives the net's value for every prefix, and a
sentence's share is computed once however many queries meet it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.distillation.sites import StudentSpec, student_width
from attnlab.errors import AttnlabError

SLOPE = 0.01  # of LeakyReLU below zero
EPS = 1e-5  # of both norms


class Student(nn.Module):
    """A net that stands where a teacher's attention stood, and is called as that is.

    Args:
        spec: What it replaces and how it is built.
        max_len: Positions it has slots for, on each side.
        d_model: Width of the residual stream.
        n_heads: Heads of the teacher.
    """

    is_causal = True  # whether no output depends on a later position

    def __init__(self, spec: StudentSpec, *, max_len: int, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.spec, self.max_len, self.d_model, self.n_heads = spec, max_len, d_model, n_heads
        self.width = student_width(spec, max_len=max_len, d_model=d_model)

    def make_net(self, **sizes: int) -> SlotNet:
        """Return an untrained ``SlotNet`` of this student's width and depth."""
        sizes = {"d_in": self.d_model, "d_out": self.d_model, **sizes}
        return SlotNet(width=self.width, depth=self.spec.depth, **sizes)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes it was built with, besides the specification."""
        return {"max_len": self.max_len, "d_model": self.d_model, "n_heads": self.n_heads}

    @property
    def n_weights(self) -> int:
        """Number of trainable numbers."""
        return sum(weight.numel() for weight in self.parameters())

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        """Return what stands for the replaced part's output, ``(batch, time, d_model)``.

        Shapes:
            x: ``(batch, time, d_model)``; zeros are returned at padding.
            memory: ``(batch, source_time, d_model)``; at cross-attention only.
        """
        if memory is None:
            state = self.initial_state(x.shape[0])
        else:
            state = self.initial_state(memory, source_padding=source_padding)
        return mask_out(self.answer(mask_out(x, target_padding), state)[0], target_padding)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the output at one more token ``(batch, d_model)``, and the next state."""
        y, state = self.answer(x_t[:, None], state)
        return y[:, 0], state

    def initial_state(self, memory: Any, *, source_padding: Tensor | None = None) -> Any:
        """Return what is kept before the first token: given the source, or a batch size."""
        raise NotImplementedError

    def answer(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the outputs at the next tokens ``(batch, time, d_model)``, and the next state."""
        raise NotImplementedError


class SlotSums(NamedTuple):
    """What the first map needs of the slots read so far; ``...`` is nothing or positions."""

    product: Tensor  # (batch, ..., width)
    total: Tensor  # (batch, ...): sum of the numbers in the slots
    square: Tensor  # (batch, ...): sum of their squares

    def plus(self, other: SlotSums) -> SlotSums:
        """Return the sums over the slots of both."""
        return SlotSums(*(a + b for a, b in zip(self, other, strict=True)))

    def for_each_position(self) -> SlotSums:
        """Add an axis for positions, to be added to the sums of each."""
        return SlotSums(*(part[:, None] for part in self))


@dataclass(frozen=True)  # no tuple: it has no batch axis, so beam search leaves it alone
class Folded:
    """The norm's gain and shift, seen through the first map."""

    gain: Tensor  # (1, width)
    shift: Tensor


class PrefixState(NamedTuple):
    """What a net needs of all tokens so far, whatever their number."""

    sums: SlotSums
    position: int
    folded: Folded


class SlotNet(nn.Module):
    """One net over slots; or several of one shape side by side, which read the same sentence.

    Weights:
        N = n_slots * d_in inputs, h hidden units, O = n_out * d_out outputs:
        ``N h + h O + 2 N + 3 h + O``, and ``h**2 + 3 h`` for every further hidden layer.
    Args:
        n_slots: Positions that a net reads.
        d_in: Numbers in a slot.
        width: Hidden units.
        n_out: Positions that a net writes.
        d_out: Numbers that it writes at each.
        depth: Hidden layers.
        n_nets: None: one. Else weights, and what ``read_and_fold``, ``hidden`` and ``write``
            return, have a first axis over the nets.
    """

    def __init__(
        self, *, n_slots: int, d_in: int, width: int, n_out: int, d_out: int, depth: int,
        n_nets: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_slots, self.d_in, self.depth = n_slots, d_in, depth
        n = () if n_nets is None else (n_nets,)
        self.norm_gain = nn.Parameter(torch.ones(*n, n_slots, d_in))
        self.norm_shift = nn.Parameter(torch.zeros(*n, n_slots, d_in))
        self.first_weight = uniform(*n, n_slots, d_in, width, fan_in=n_slots * d_in)
        self.first_bias = uniform(*n, 1, width, fan_in=n_slots * d_in)
        self.hidden_gain = nn.Parameter(torch.ones(*n, depth, width))
        self.hidden_shift = nn.Parameter(torch.zeros(*n, depth, width))
        if depth > 1:
            self.deeper_weight = uniform(*n, depth - 1, width, width, fan_in=width)
            self.deeper_bias = uniform(*n, depth - 1, width, fan_in=width)
        self.second_weight = uniform(*n, width, n_out, d_out, fan_in=width)
        self.second_bias = uniform(*n, n_out, d_out, fan_in=width)

    def read(self, x: Tensor, *, first_slot: int = 0) -> SlotSums:
        """Return the sums over ``x`` ``(batch, time, d_in)`` in neighbouring slots."""
        slots = slice(first_slot, first_slot + x.shape[1])
        z = x.flatten(1)
        product = (z * self.norm_gain[slots].flatten()) @ self.first_weight[slots].flatten(0, 1)
        return SlotSums(product, z.sum(1), z.square().sum(1))

    def read_each(self, x: Tensor, *, slot: int) -> SlotSums:
        """Return the same for each position alone, all of them in one slot."""
        product = (x * self.norm_gain[slot]) @ self.first_weight[slot]
        return SlotSums(product, x.sum(2), x.square().sum(2))

    def read_prefixes(self, x: Tensor, *, first_slot: int = 0) -> SlotSums:
        """Return the same for every prefix of ``x``: running sums over its positions."""
        slots = slice(first_slot, first_slot + x.shape[1])
        scaled = (x * self.norm_gain[slots]).transpose(0, 1)  # (T, B, D)
        product = (scaled @ self.first_weight[slots]).transpose(0, 1).to(x.dtype)
        return SlotSums(*(part.cumsum(1) for part in (product, x.sum(2), x.square().sum(2))))

    def read_and_fold(self, x: Tensor) -> tuple[SlotSums, Folded]:
        """Return ``read`` of the first slots, and ``fold``, from one product.

        Gain and shift are two more rows beside the sentences, so the first weights, which may
        be far more than the sentences are, are gone through once, and so is their gradient.
        """
        n_rows, time = x.shape[:2]
        both, z = self._gain_and_shift(), x.flatten(1)
        scaled = z * self.norm_gain[..., None, :time, :].flatten(-2)
        rows = torch.cat([scaled, both[..., :time, :].flatten(-2)], -2)  # (..., B + 2, T D)
        used, unused = self.first_weight.split([time, self.n_slots - time], -3)
        product, seen = (rows @ used.flatten(-3, -2)).split([n_rows, 2], -2)
        if time < self.n_slots:
            seen = seen + both[..., time:, :].flatten(-2) @ unused.flatten(-3, -2)
        return SlotSums(product, z.sum(1), z.square().sum(1)), self._folded(seen)

    def fold(self) -> Folded:
        """Return gain and shift of the first norm as the hidden units see them."""
        return self._folded(self._gain_and_shift().flatten(-2) @ self.first_weight.flatten(-3, -2))

    def hidden(self, sums: SlotSums, folded: Folded, *, gate: Tensor | None = None) -> Tensor:
        """Return the last hidden layer, normalised: ``(batch, ..., width)``.

        Args:
            folded: From ``fold``, where it is worth keeping: it reads every first weight.
            gate: Multiplies the first hidden layer.
        """
        n = self.n_slots * self.d_in
        mean = sums.total / n
        spread = (sums.square / n - mean.square()).clamp(min=0) + EPS
        centred = sums.product - mean[..., None] * folded.gain
        h = F.leaky_relu(centred * spread.rsqrt()[..., None] + folded.shift, SLOPE)
        h = self._normalised(h if gate is None else h * gate, 0)
        for i in range(1, self.depth):
            h = h @ self.deeper_weight[..., i - 1, :, :] + self.deeper_bias[..., i - 1 : i, :]
            h = self._normalised(F.leaky_relu(h, SLOPE), i)
        return h

    def write(self, h: Tensor, *, n_positions: int) -> Tensor:
        """Return the first positions ``(batch, n_positions, d_out)``.

        Shapes:
            h: ``(batch, width)``, one hidden layer for all positions.
        """
        y = h @ self.second_weight[..., :n_positions, :].flatten(-2)
        return y.unflatten(-1, (n_positions, -1)) + self.second_bias[..., None, :n_positions, :]

    def write_each(self, h: Tensor, *, first: int = 0) -> Tensor:
        """Return for each position only what is written there, from a hidden layer of its own.

        Shapes:
            h: ``(batch, time, width)``; returns ``(batch, time, d_out)``.
        Args:
            first: The position of ``h[:, 0]``. A net with one output writes it at each.
        """
        if self.second_weight.shape[1] == 1:
            return h @ self.second_weight[:, 0] + self.second_bias
        own = slice(first, first + h.shape[1])
        y = h.transpose(0, 1) @ self.second_weight[:, own].transpose(0, 1)  # (T, B, D)
        return y.transpose(0, 1) + self.second_bias[own]

    def write_prefixes(
        self, x: Tensor, state: PrefixState, *, first_slot: int = 0
    ) -> tuple[Tensor, PrefixState]:
        """Return what is written at each of the next positions, when the sentence ends there.

        Args:
            x: ``(batch, time, d_in)``, after the positions of the state.
            first_slot: Of the sentence that the state began.
        """
        own = self.read_prefixes(x, first_slot=first_slot + state.position)
        sums = state.sums.for_each_position().plus(own)
        y = self.write_each(self.hidden(sums, state.folded), first=state.position)
        last = SlotSums(*(part[:, -1] for part in sums))
        return y, PrefixState(last, state.position + x.shape[1], state.folded)

    def _gain_and_shift(self) -> Tensor:
        return torch.stack([self.norm_gain, self.norm_shift], -3)  # (..., 2, S, D)

    def _folded(self, seen: Tensor) -> Folded:
        return Folded(seen[..., :1, :], seen[..., 1:, :] + self.first_bias)

    def _normalised(self, h: Tensor, i: int) -> Tensor:
        h = F.layer_norm(h, h.shape[-1:], eps=EPS)
        return h * self.hidden_gain[..., i : i + 1, :] + self.hidden_shift[..., i : i + 1, :]


def mask_out(x: Tensor, padding: Tensor | None) -> Tensor:
    """Return ``x`` ``(..., batch, time, d)`` with zeros at padding, whatever stood there."""
    return x if padding is None else torch.where(padding[..., None], 0.0, x)


def require_slots(n_positions: int, *, max_len: int, what: str = "sentence") -> None:
    """Raise unless each of ``n_positions`` has a slot."""
    if n_positions > max_len:
        raise AttnlabError(
            f"A {what} of {n_positions} tokens does not fit a student with {max_len} slots: each "
            "position has weights of its own. Leave the sentence out, or build and train the "
            "student with a larger max_len."
        )


def uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Return weights between plus and minus one over the root of ``fan_in``, as ``nn.Linear``."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
