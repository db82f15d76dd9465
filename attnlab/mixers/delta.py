"""Tables in which a key's new value takes the place of its old one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.mixers.base import mixer
from attnlab.mixers.matrix_state import (
    EPSILON,
    MatrixState,
    Reading,
    ShortConv,
    head_width,
    in_heads,
    linear,
    require_counts,
    rms_norm,
    rms_norm_naive,
    side_by_side,
)


def unit(z: Tensor) -> Tensor:
    """Return vectors of length one; zeros stay zeros."""
    return z / ((z * z).sum(-1, keepdim=True) + EPSILON).sqrt()


@mixer("delta_net", look={"family": "recurrence", "label": "Delta net", "marker": "D"})
class DeltaNet(MatrixState):
    r"""Write what is wrong about the old value: a key that comes again is overwritten.

    .. math:: S_t = a_t S_{t-1} + \beta_t k_t^\top (v_t - k_t\, a_t S_{t-1}), \qquad a_t = 1, \qquad
              y_t = \mathrm{norm}(q_t S_t) W_O

    Queries, keys and values pass a convolution over 4 tokens; queries and keys then have length
    one, and :math:`\beta_t = \sigma(x_t W_\beta)`, one number a head. At
    :math:`\beta = 1` the table answers a key with its newest value and nothing else.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape.
    Weights:
        ``4 d**2 + d h``, and 15 d for the convolutions: 4 taps and a bias of 3 d channels.
    State:
        A head keeps ``d_head**2`` numbers; the convolutions 3 tokens.
    Args:
        n_heads: Heads of width ``d_model / n_heads``.
        conv_width: Tokens that the convolutions see; 1 looks at nothing but the newest.
    Source:
        arXiv:2406.06484, sections 2 and 3; in its words the mixer of DeltaNet layers.
    """

    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"n_heads": (3,), "conv_width": (1, 2)}
    expected_weights = staticmethod(lambda d, n, h: 4 * d**2 + d * h + 15 * d)
    expected_multiplications = staticmethod(
        lambda d, T, P, h: T * (4 * d**2 + d * h + 3 * d * (d // h) + 19 * d)
    )
    expected_state = staticmethod(lambda d, n, h: d * (d // h) + 9 * d)

    def __init__(
        self, *, d_model: int, context_len: int, n_heads: int = 1, conv_width: int = 4
    ) -> None:
        require_counts(conv_width=conv_width)
        d_head = head_width(d_model, n_heads)
        sizes = {"n_heads": n_heads, "d_key": d_head, "d_value": d_head}
        super().__init__(d_model=d_model, context_len=context_len, **sizes)
        self.way_in, self.out = linear(d_model, 3 * d_model), linear(d_model, d_model)
        self.conv, self.strength = ShortConv(3 * d_model, conv_width), linear(d_model, n_heads)

    def log_gate(self, x: Tensor) -> Tensor | None:
        """Return logarithms of a, ``(..., heads)``; None where a is 1."""
        return None

    def definition(self, x: Tensor) -> Tensor:
        """Correct the table at one key after the other."""
        outputs, table = [], x.new_zeros(len(x), *self.table_shape)
        window = [x.new_zeros(len(x), 3 * self.d_model)] * len(self.conv.weight)
        for x_t in x.unbind(1):
            window = [*window[1:], self.way_in(x_t)]
            q, k, v = (
                z.unflatten(-1, (self.n_heads, -1)) for z in self.conv.at(window).chunk(3, -1)
            )  # (B, H, K)
            q, k = unit(q), unit(k)
            if (log_gate := self.log_gate(x_t)) is not None:
                table = log_gate.exp()[..., None, None] * table
            old = (k[..., None] * table).sum(-2)
            wrong = torch.sigmoid(self.strength(x_t))[..., None] * (v - old)
            table = table + k[..., None] * wrong[..., None, :]
            y = (q[..., None] * table).sum(-2)
            outputs.append(self.out(rms_norm_naive(y).flatten(1)))
        return torch.stack(outputs, 1)

    def read(self, x: Tensor, past: tuple[Tensor, ...] = ()) -> Reading:
        """Return unit queries and keys, values, decays and write strengths."""
        mixed, past = self.conv(self.way_in(x), past)
        q, k, v = (in_heads(z, self.n_heads) for z in mixed.chunk(3, -1))
        strength = torch.sigmoid(self.strength(x)).mT[..., None]  # (B, H, T, 1)
        log_gate = self.log_gate(x)
        log_decay = None if log_gate is None else log_gate.mT[..., None]
        return Reading(unit(q), unit(k), v, log_decay, strength, past=past)

    def write(self, mixed: Tensor, reading: Reading) -> Tensor:
        """Normalise each head and map out."""
        return self.out(side_by_side(rms_norm(mixed)).to(self.out.weight.dtype))


@mixer("gated_delta_net", look={"family": "recurrence", "label": "Gated delta net", "marker": "P"})
class GatedDeltaNet(DeltaNet):
    r"""Overwrite as the delta net does, and forget all of the table at a rate each token sets.

    .. math:: a_t = e^{-e^{A}\, \mathrm{softplus}(x_t W_a + b)}

    in the equation of the delta net. At :math:`A = -\infty` (``rate``) the gate is 1 and this is
    the delta net. The published mixer also gates what leaves it, which is left out here.

    Weights:
        Those of the delta net and ``d h + 2 h``.
    Source:
        arXiv:2412.06464, section 3.
    """

    expected_weights = staticmethod(lambda d, n, h: 4 * d**2 + 2 * d * h + 15 * d + 2 * h)
    expected_multiplications = staticmethod(
        lambda d, T, P, h: T * (4 * d**2 + 2 * d * h + 4 * d * (d // h) + 19 * d + h)
    )

    def __init__(
        self, *, d_model: int, context_len: int, n_heads: int = 1, conv_width: int = 4
    ) -> None:
        sizes = {"d_model": d_model, "context_len": context_len}
        super().__init__(**sizes, n_heads=n_heads, conv_width=conv_width)
        self.gate = linear(self.d_model, n_heads)
        steps = torch.exp(torch.empty(n_heads).uniform_(math.log(1e-3), math.log(0.1)))
        self.gate_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))  # b
        self.rate = nn.Parameter(torch.empty(n_heads).uniform_(1, 16).log())  # A

    def log_gate(self, x: Tensor) -> Tensor:
        """Return what each head of each position keeps, as a logarithm."""
        return -self.rate.exp() * F.softplus(self.gate(x) + self.gate_bias)
