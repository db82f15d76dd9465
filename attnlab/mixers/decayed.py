"""Tables that fade: at a fixed rate, at one read from each token, or feature by feature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import is_number
from attnlab.errors import AttnlabError
from attnlab.mixers.base import mixer
from attnlab.mixers.matrix_state import (
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


@mixer("retention", look={"family": "recurrence", "label": "Retention", "marker": "H"})
class Retention(MatrixState):
    r"""Forget at a fixed rate, each head at its own.

    .. math:: S_t = g_i S_{t-1} + k_t^\top v_t / \sqrt{d_h}, \qquad g_i = 1 - 2^{-5-i}, \qquad
              y_t = \bigl(\mathrm{norm}(q_t S_t) \odot \mathrm{silu}(x_t W_G)\bigr) W_O

    in head i = 0, 1, ...; norm divides each head by the root of its mean square (the published
    group norm without its mean). The published rotation of queries and keys is left out.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape. Values are ``f = value_factor``
        times as wide.
    Weights:
        ``(2 + 3 f) * d_model**2``, so 8 by default; without the gate ``(2 + 2 f)``.
    State:
        A head keeps ``d_head * f * d_head`` numbers.
    Args:
        n_heads: Heads of width ``d_model / n_heads``.
        value_factor: f, a whole number.
        norm: Whether each head is normalised.
        gate: Whether the newest token gates the result.
        decay: One rate for all heads, above 0 and at most 1; None for the rates above.
    Source:
        arXiv:2307.08621, sections 2.1 and 2.2.
    """

    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "n_heads": (3,),
        "value_factor": (1,),
        "norm": (False,),
        "gate": (False,),
        "decay": (0.5, 1.0),
    }
    expected_weights = staticmethod(lambda d, n, h: 8 * d**2)
    expected_multiplications = staticmethod(
        lambda d, T, P, h: T * (8 * d**2 + 6 * d * (d // h) + 7 * d)
    )
    expected_state = staticmethod(lambda d, n, h: 2 * d * (d // h))

    def __init__(
        self,
        *,
        d_model: int,
        context_len: int,
        n_heads: int = 1,
        value_factor: int = 2,
        norm: bool = True,
        gate: bool = True,
        decay: float | None = None,
    ) -> None:
        require_counts(value_factor=value_factor)
        d_head = head_width(d_model, n_heads)
        if decay is not None and not (is_number(decay, float) and 0 < decay <= 1):
            raise AttnlabError(f"decay={decay!r} must be above 0 and at most 1; 1 forgets nothing.")
        sizes = {"n_heads": n_heads, "d_key": d_head, "d_value": value_factor * d_head}
        super().__init__(d_model=d_model, context_len=context_len, **sizes)
        self.norm = norm
        d_values = value_factor * d_model
        self.query, self.key = linear(d_model, d_model), linear(d_model, d_model)
        self.value, self.out = linear(d_model, d_values), linear(d_values, d_model)
        self.gate = linear(d_model, d_values) if gate else None
        rates = 1 - 2.0 ** (-5 - torch.arange(n_heads, dtype=torch.float64))
        self.rates: list[float] = rates.tolist() if decay is None else [decay] * n_heads

    def definition(self, x: Tensor) -> Tensor:
        """Let the table fade and add to it, one position at a time."""
        rates, table, outputs = x.new_tensor(self.rates)[:, None, None], None, []
        for x_t in x.unbind(1):
            q, k, v = (
                one(x_t).unflatten(-1, (self.n_heads, -1))
                for one in (self.query, self.key, self.value)
            )  # (B, H, K), (B, H, K), (B, H, V)
            if table is None:
                table = torch.zeros_like(k[..., None] + v[..., None, :])
            k = k / math.sqrt(k.shape[-1])
            table = rates * table + k[..., None] * v[..., None, :]
            y = (q[..., None] * table).sum(-2)
            y = (rms_norm_naive(y) if self.norm else y).flatten(1)
            outputs.append(self.out(y * F.silu(self.gate(x_t)) if self.gate else y))
        return torch.stack(outputs, 1)

    def read(self, x: Tensor, past: tuple[Tensor, ...] = ()) -> Reading:
        """Return queries, keys, values and the same decay at all positions."""
        q, k, v = (in_heads(one(x), self.n_heads) for one in (self.query, self.key, self.value))
        logs = [math.log(rate) for rate in self.rates]
        decay = torch.tensor(logs, dtype=torch.promote_types(x.dtype, torch.float32))
        decay = decay.to(x.device)[None, :, None, None].expand(-1, -1, x.shape[1], -1)
        beside = (self.gate(x),) if self.gate else ()
        return Reading(q, k / math.sqrt(k.shape[-1]), v, log_decay=decay, beside=beside)

    def write(self, mixed: Tensor, reading: Reading) -> Tensor:
        """Normalise, gate and map out."""
        y = side_by_side(rms_norm(mixed) if self.norm else mixed)
        return self.out(y * F.silu(reading.beside[0]) if reading.beside else y)


@mixer("ssd", look={"family": "recurrence", "label": "SSD (Mamba-2)", "marker": "s"})
class SSD(MatrixState):
    r"""Forget at a rate that each token sets, one number a head: the mixer of Mamba-2.

    .. math:: S_t = e^{-e^{A} \Delta_t} S_{t-1} + \Delta_t B_t^\top u_t, \qquad
              y_t = \mathrm{norm}\bigl((C_t S_t + D u_t) \odot \mathrm{silu}(z_t)\bigr) W_O

    with :math:`[z, u, B, C, \delta] = x W_{in}` and :math:`\Delta = \mathrm{softplus}(\delta + b)`;
    u, B and C pass a convolution over 4 tokens before they are used. B and C, keys and queries of
    width N = ``d_state``, are shared by all heads.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape. u and z are E = 2 times as wide.
    Weights:
        ``d(2 E d + 2 N + H) + 5(E d + 2 N) + 3 H + E d + E d**2``: into it, convolutions, A and b
        and D of each head, scales of the norm, out of it.
    State:
        ``E * d_model * N`` numbers, and 3 tokens for the convolutions.
    Args:
        n_heads: Heads H, each with ``2 * d_model / n_heads`` channels of u.
        d_state: N.
    Source:
        arXiv:2405.21060, sections 6 and 7.
    """

    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"n_heads": (3,), "d_state": (1, 4)}
    expected_weights = staticmethod(
        lambda d, n, h: d * (4 * d + 64 + h) + 5 * (2 * d + 64) + 3 * h + 2 * d + 2 * d**2
    )
    expected_multiplications = staticmethod(
        lambda d, T, P, h: (
            T
            * (
                d * (4 * d + 64 + h)
                + 4 * (2 * d + 64)
                + h
                + 3 * 64 * d
                + 7 * 2 * d
                - 2 * d
                + 2 * d**2
            )
        )
    )
    expected_state = staticmethod(lambda d, n, h: 64 * d + 3 * (2 * d + 64))

    def __init__(
        self, *, d_model: int, context_len: int, n_heads: int = 1, d_state: int = 32
    ) -> None:
        require_counts(d_state=d_state)
        d_head = 2 * head_width(d_model, n_heads)
        sizes = {"n_heads": n_heads, "d_key": d_state, "d_value": d_head}
        super().__init__(d_model=d_model, context_len=context_len, **sizes)
        inner = 2 * d_model
        self.parts = (inner, inner + 2 * d_state, n_heads)  # z; u, B, C; time steps
        self.way_in, self.out = linear(d_model, sum(self.parts)), linear(inner, d_model)
        self.conv = ShortConv(inner + 2 * d_state, 4)
        steps = torch.exp(torch.empty(n_heads).uniform_(math.log(1e-3), math.log(0.1)))
        self.step_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))  # b
        self.rate = nn.Parameter(torch.empty(n_heads).uniform_(1, 16).log())  # A
        self.skip = nn.Parameter(torch.ones(n_heads))  # D
        self.scale = nn.Parameter(torch.ones(inner))

    def definition(self, x: Tensor) -> Tensor:
        """Take one step of the recurrence at a time."""
        n_keys, outputs = self.table_shape[1], []
        window = [x.new_zeros(len(x), self.parts[1])] * 4
        table = x.new_zeros(len(x), *self.table_shape)
        for x_t in x.unbind(1):
            z, newest, step = self.way_in(x_t).split(self.parts, -1)
            window = [*window[1:], newest]
            u, k, q = self.conv.at(window).split((z.shape[1], n_keys, n_keys), -1)
            u = u.unflatten(-1, (self.n_heads, -1))  # (B, H, V)
            step = F.softplus(step + self.step_bias)  # (B, H)
            fade = (-self.rate.exp() * step).exp()
            v = step[..., None] * u
            table = fade[..., None, None] * table + k[:, None, :, None] * v[:, :, None]
            y = (q[:, None, :, None] * table).sum(-2) + self.skip[:, None] * u
            y = rms_norm_naive(y.flatten(1) * F.silu(z)) * self.scale
            outputs.append(self.out(y))
        return torch.stack(outputs, 1)

    def read(self, x: Tensor, past: tuple[Tensor, ...] = ()) -> Reading:
        """Return C as queries, B as keys, time step times u as values, and their decays."""
        z, newest, step = self.way_in(x).split(self.parts, -1)
        mixed, past = self.conv(newest, past)
        n_keys = self.table_shape[1]
        u, k, q = mixed.split((z.shape[-1], n_keys, n_keys), -1)
        u = in_heads(u, self.n_heads)
        step = F.softplus(step + self.step_bias).mT[..., None]  # (B, H, T, 1)
        log_decay = -self.rate.exp()[:, None, None] * step
        return Reading(q[:, None], k[:, None], step * u, log_decay, past=past, beside=(z, u))

    def write(self, mixed: Tensor, reading: Reading) -> Tensor:
        """Add u past the table, gate, normalise and map out."""
        z, u = reading.beside
        y = side_by_side(mixed + self.skip[:, None, None] * u) * F.silu(z)
        return self.out(rms_norm(y).to(self.scale.dtype) * self.scale)


@mixer("gla", look={"family": "recurrence", "label": "Gated linear attention", "marker": "*"})
class GLA(MatrixState):
    r"""Forget at rates that each token sets, one for every feature of the keys.

    .. math:: S_t = \mathrm{diag}(a_t) S_{t-1} + k_t^\top v_t, \qquad
              a_t = \sigma(x_t W_1 W_2 + b)^{1/16}, \qquad
              y_t = \bigl(\mathrm{norm}(q_t S_t / \sqrt{d_k}) \odot \mathrm{silu}(x_t W_G)\bigr) W_O

    with queries and keys of half the width (rounded up in each head) and W_1 to 16 numbers.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape.
    Weights:
        ``4 d**2 + 24 d + d / 2`` for even heads: maps, the narrow way to the decays, b.
    State:
        A head keeps ``d_head / 2 * d_head`` numbers.
    Args:
        n_heads: Heads of width ``d_model / n_heads``.
        gate_rank: Numbers between W_1 and W_2.
    Source:
        arXiv:2312.06635, section 4.
    """

    chunk = 32  # decays of pairs grow with the square of it
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"n_heads": (3,), "gate_rank": (2,)}
    expected_weights = staticmethod(
        lambda d, n, h: 3 * d**2 + 16 * d + (2 * d + 17) * h * -(d // h // -2)
    )
    expected_multiplications = staticmethod(
        lambda d, T, P, h: (
            T
            * (
                3 * d**2
                + 16 * d
                + (2 * d + 17) * h * -(d // h // -2)
                + 3 * d * -(d // h // -2)
                + 3 * d
            )
        )
    )
    expected_state = staticmethod(lambda d, n, h: d * -(d // h // -2))

    def __init__(
        self, *, d_model: int, context_len: int, n_heads: int = 1, gate_rank: int = 16
    ) -> None:
        require_counts(gate_rank=gate_rank)
        d_head = head_width(d_model, n_heads)
        d_key = (d_head + 1) // 2
        sizes = {"n_heads": n_heads, "d_key": d_key, "d_value": d_head}
        super().__init__(d_model=d_model, context_len=context_len, **sizes)
        self.query, self.key = (linear(d_model, n_heads * d_key) for _ in range(2))
        self.value, self.gate, self.out = (linear(d_model, d_model) for _ in range(3))
        self.narrow, self.wide = linear(d_model, gate_rank), linear(gate_rank, n_heads * d_key)
        self.decay_bias = nn.Parameter(torch.zeros(n_heads * d_key))

    def definition(self, x: Tensor) -> Tensor:
        """Let every row of the table fade at its own rate, one position at a time."""
        table, outputs = x.new_zeros(len(x), *self.table_shape), []
        for x_t in x.unbind(1):
            a = torch.sigmoid(self.wide(self.narrow(x_t)) + self.decay_bias) ** (1 / 16)
            q, k, v, a = (
                z.unflatten(-1, (self.n_heads, -1))
                for z in (self.query(x_t), self.key(x_t), self.value(x_t), a)
            )
            table = a[..., None] * table + k[..., None] * v[..., None, :]
            y = (q[..., None] / math.sqrt(q.shape[-1]) * table).sum(-2)
            outputs.append(self.out(rms_norm_naive(y).flatten(1) * F.silu(self.gate(x_t))))
        return torch.stack(outputs, 1)

    def read(self, x: Tensor, past: tuple[Tensor, ...] = ()) -> Reading:
        """Return queries, keys, values and decays of every feature."""
        log_decay = F.logsigmoid(self.wide(self.narrow(x)) + self.decay_bias) / 16
        maps = (self.query(x), self.key(x), self.value(x), log_decay)
        q, k, v, log_decay = (in_heads(z, self.n_heads) for z in maps)
        return Reading(q / math.sqrt(q.shape[-1]), k, v, log_decay, beside=(self.gate(x),))

    def write(self, mixed: Tensor, reading: Reading) -> Tensor:
        """Normalise, gate and map out."""
        return self.out(side_by_side(rms_norm(mixed)) * F.silu(reading.beside[0]))
