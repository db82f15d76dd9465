r"""The net every student is made of: norm, linear map, LeakyReLU, norm, linear map, over slots.

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

All weights carry a first axis: many nets run side by side in batched products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.errors import AttnlabError

SLOPE = 0.01  # of LeakyReLU below zero
EPS = 1e-5  # of both norms


class SlotSums(NamedTuple):
    """What the first map needs of the slots read so far; ``...`` is nothing or positions."""

    product: Tensor  # (n_nets, batch, ..., width)
    total: Tensor  # (n_nets or 1, batch, ...): sum of the numbers in the slots
    square: Tensor  # the same: sum of their squares

    def plus(self, other: SlotSums) -> SlotSums:
        """Return the sums over the slots of both."""
        return SlotSums(*(a + b for a, b in zip(self, other, strict=True)))

    def for_each_position(self) -> SlotSums:
        """Add an axis for positions, to be added to the sums of each."""
        return SlotSums(self.product[:, :, None], self.total[:, :, None], self.square[:, :, None])

    def of_first(self) -> SlotSums:
        """Return the sums of the first net alone, the batch on the first axis, to be kept."""
        return SlotSums(self.product[0], self.total[0], self.square[0])

    def of_one(self) -> SlotSums:
        """Return the sums of one net, kept with ``of_first``, with the axis over nets again."""
        return SlotSums(self.product[None], self.total[None], self.square[None])

    def running(self) -> SlotSums:
        """Turn the sums of each position into those of all positions up to it."""
        return SlotSums(*(part.cumsum(2) for part in self))


@dataclass(frozen=True)
class Folded:
    """The norm's gain and shift, seen through the first map; for one net, no batch axis."""

    gain: Tensor  # (n_nets, width)
    shift: Tensor


class SlotNet(nn.Module):
    """Nets of one shape, side by side.

    Weights:
        ``n_nets`` times: N = n_slots * d_in inputs, h hidden units, O = n_out * d_out outputs:
        ``N h + h O + 2 N + 3 h + O``, and ``h**2 + 3 h`` for every further hidden layer.
    Args:
        n_nets: Nets with weights of their own.
        n_slots: Positions that a net reads.
        d_in: Numbers in a slot.
        width: Hidden units.
        n_out: Positions that a net writes.
        d_out: Numbers that it writes at each.
        depth: Hidden layers.
    """

    def __init__(
        self,
        *,
        n_nets: int,
        n_slots: int,
        d_in: int,
        width: int,
        n_out: int,
        d_out: int,
        depth: int,
    ) -> None:
        super().__init__()
        self.n_slots, self.d_in, self.depth = n_slots, d_in, depth
        self.norm_gain = nn.Parameter(torch.ones(n_nets, n_slots, d_in))
        self.norm_shift = nn.Parameter(torch.zeros(n_nets, n_slots, d_in))
        self.first_weight = uniform(n_nets, n_slots, d_in, width, fan_in=n_slots * d_in)
        self.first_bias = uniform(n_nets, width, fan_in=n_slots * d_in)
        self.hidden_gain = nn.Parameter(torch.ones(n_nets, depth, width))
        self.hidden_shift = nn.Parameter(torch.zeros(n_nets, depth, width))
        if depth > 1:
            self.deeper_weight = uniform(n_nets, depth - 1, width, width, fan_in=width)
            self.deeper_bias = uniform(n_nets, depth - 1, width, fan_in=width)
        self.second_weight = uniform(n_nets, width, n_out, d_out, fan_in=width)
        self.second_bias = uniform(n_nets, n_out, d_out, fan_in=width)

    def read(self, x: Tensor, *, first_slot: int = 0) -> SlotSums:
        """Return the sums over ``x`` ``(n_nets or 1, batch, time, d_in)`` in neighbouring slots."""
        slots = slice(first_slot, first_slot + x.shape[2])
        scaled = (x * self.norm_gain[:, None, slots]).flatten(2)
        product = scaled @ self.first_weight[:, slots].flatten(1, 2)
        return SlotSums(product, x.sum((2, 3)), x.square().sum((2, 3)))

    def read_each(self, x: Tensor, *, first_slot: int = 0) -> SlotSums:
        """Return the same for each position alone, position i in slot ``first_slot + i``."""
        slots = slice(first_slot, first_slot + x.shape[2])
        scaled = (x * self.norm_gain[:, None, slots]).transpose(1, 2)  # (G, T, B, D)
        product = (scaled @ self.first_weight[:, slots]).transpose(1, 2)
        return SlotSums(product.to(x.dtype), x.sum(3), x.square().sum(3))

    def read_into(self, x: Tensor, *, slot: int) -> SlotSums:
        """Return the same for each position alone, all of them in one slot."""
        product = linear(x * self.norm_gain[:, None, slot : slot + 1], self.first_weight[:, slot])
        return SlotSums(product, x.sum(3), x.square().sum(3))

    def fold(self) -> Folded:
        """Return gain and shift of the first norm as the hidden units see them."""
        return self._folded(self._gain_and_shift().flatten(2) @ self.first_weight.flatten(1, 2))

    def read_and_fold(self, x: Tensor) -> tuple[SlotSums, Folded]:
        """Return ``read`` of the first slots, and ``fold``, from one product.

        Gain and shift are two more rows beside the sentences, so the first weights, which may
        be far more than the sentences are, are gone through once, and so is their gradient.
        """
        n_rows, time = x.shape[1:3]
        both = self._gain_and_shift()
        scaled = x * self.norm_gain[:, None, :time]
        rows = torch.cat([scaled, both[:, :, :time]], 1).flatten(2)  # (G, B + 2, T D)
        used, unused = self.first_weight, None
        if time < self.n_slots:
            used, unused = self.first_weight.split([time, self.n_slots - time], 1)
        product, seen = (rows @ used.flatten(1, 2)).split([n_rows, 2], 1)
        if unused is not None:
            seen = seen + both[:, :, time:].flatten(2) @ unused.flatten(1, 2)
        return SlotSums(product, x.sum((2, 3)), x.square().sum((2, 3))), self._folded(seen)

    def hidden(
        self, sums: SlotSums, *, folded: Folded | None = None, gate: Tensor | None = None
    ) -> Tensor:
        """Return the last hidden layer, normalised: ``(n_nets, batch, ..., width)``.

        Args:
            folded: From ``fold``, where it is worth keeping: it reads every first weight.
            gate: Multiplies the first hidden layer.
        """
        folded = folded or self.fold()
        n = self.n_slots * self.d_in
        mean = sums.total / n
        spread = (sums.square / n - mean.square()).clamp(min=0) + EPS
        centred = sums.product - mean[..., None] * _along(folded.gain, sums.product)
        h = centred * spread.rsqrt()[..., None] + _along(folded.shift, sums.product)
        h = F.leaky_relu(h, SLOPE)
        h = self._normalised(h if gate is None else h * gate, 0)
        for i in range(1, self.depth):
            h = linear(h, self.deeper_weight[:, i - 1]) + _along(self.deeper_bias[:, i - 1], h)
            h = self._normalised(F.leaky_relu(h, SLOPE), i)
        return h

    def write(self, h: Tensor, *, n_positions: int) -> Tensor:
        """Return the first positions ``(n_nets, batch, n_positions, d_out)``.

        Shapes:
            h: ``(n_nets, batch, width)``, one hidden layer for all positions.
        """
        y = linear(h, self.second_weight[:, :, :n_positions].flatten(2))
        return y.unflatten(-1, (n_positions, -1)) + self.second_bias[:, None, :n_positions]

    def write_each(self, h: Tensor, *, first: int = 0) -> Tensor:
        """Return for each position only what is written there, from a hidden layer of its own.

        Shapes:
            h: ``(n_nets, batch, time, width)``; returns ``(n_nets, batch, time, d_out)``.
        Args:
            first: The position of ``h[:, :, 0]``. A net with one output writes it at each.
        """
        if self.second_weight.shape[2] == 1:
            return linear(h, self.second_weight[:, :, 0]) + self.second_bias[:, None]
        own = slice(first, first + h.shape[2])
        y = h.transpose(1, 2) @ self.second_weight[:, :, own].transpose(1, 2)  # (G, T, B, D)
        return y.transpose(1, 2) + self.second_bias[:, None, own]

    def _gain_and_shift(self) -> Tensor:
        return torch.stack([self.norm_gain, self.norm_shift], 1)  # (G, 2, S, D)

    def _folded(self, seen: Tensor) -> Folded:
        return Folded(seen[:, 0], seen[:, 1] + self.first_bias)

    def _normalised(self, h: Tensor, i: int) -> Tensor:
        h = F.layer_norm(h, h.shape[-1:], eps=EPS)
        return h * _along(self.hidden_gain[:, i], h) + _along(self.hidden_shift[:, i], h)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x @ weight`` net by net: ``(n_nets, ..., n_in)`` by ``(n_nets, n_in, n_out)``."""
    return (x.flatten(1, -2) @ weight).unflatten(1, x.shape[1:-1])


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


def _along(weight: Tensor, like: Tensor) -> Tensor:
    """Return ``(n_nets, width)`` with the axes of ``like`` between."""
    return weight.view(weight.shape[0], *[1] * (like.ndim - 2), weight.shape[-1])


def uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Return weights between plus and minus one over the root of ``fan_in``, as ``nn.Linear``."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
