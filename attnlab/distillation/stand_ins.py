r"""Stand-ins that begin with the teacher's own queries, keys and values.

``linear``: an exact softmax over the positions that are near, features for all others, and one
normaliser for both. With :math:`s_{ti} = q_t k_i^\top / \sqrt{d_h}`, the near positions N(t) and
the far ones F(t) that t may see, and :math:`c_t = \max_{i \in N(t)} s_{ti}`,

.. math:: y_t = \frac{\sum_{i \in N(t)} g\, e^{s_{ti} - c_t} v_i
                      + \phi(q_t) \sum_{j \in F(t)} \phi(k_j)^\top v_j}
                     {\sum_{i \in N(t)} g\, e^{s_{ti} - c_t}
                      + \phi(q_t) \sum_{j \in F(t)} \phi(k_j)^\top}

In the decoder N(t) are the newest w positions, t included; in the encoder those nearer than w;
at cross-attention none. Where w reaches everywhere this is the teacher's attention, at w = 0
linear attention. :math:`\phi` reads z W with a learnt W for the queries and one for the keys of
each head, at first the unit matrix; g is learnt, one number a head, at first 0.1.

So the best near position counts g, whether it fits or not. With ``window_scale="shared"`` each
near one counts :math:`g\, e^{s_{ti}}` beside :math:`\phi(q_t) \phi(k_j)^\top` of the far ones,
which then stands for the same exponential: both are multiplied by :math:`e^{-c_t}`, and c cancels.

``ssd`` and ``gated_delta``: a table a head that fades, and in the second is corrected. In the
encoder one table is written forwards, one backwards, and both are asked.

Source:
    arXiv:2410.10254 (window and features); features arXiv:2402.04347 (hedgehog), 2103.13076
    (relu), 2006.16236 (elu); arXiv:2405.21060 and 2412.06464 (tables), both here without
    convolutions, and without the norm and gate behind them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.distillation.nets import Student, mask_out
from attnlab.distillation.sites import StudentSpec
from attnlab.errors import AttnlabError
from attnlab.mixers.delta import unit
from attnlab.mixers.linear_attention import FEATURE_MAPS, shared_out
from attnlab.mixers.matrix_state import (
    SAFE,
    Reading,
    at_least_single,
    in_heads,
    linear,
    pair_shares,
    scan,
    side_by_side,
    write_and_ask,
)

CHUNK = 64  # positions compared pair by pair in long sentences; short ones, to twice that, at once
NEAR_SHARE = 0.1  # g at first
RATES = (1e-3, 0.1)  # of forgetting at first, spread evenly by their logarithms
MAPS = ("query", "key", "value")


class StandIn(Student):
    """Queries, keys and values of heads, and some way to let them meet.

    Shapes:
        x: ``(batch, time, d_model)``; returns the head outputs, the same shape.
    Args:
        spec: With one of the methods ``STAND_INS``.
        bias: Whether the three maps add one.
        sizes: ``max_len``, ``d_model`` and ``n_heads``. A stand-in has no weights for a position,
            so sentences may be of any length.
    """

    def __init__(self, spec: StudentSpec, *, bias: bool = False, **sizes: Any) -> None:
        super().__init__(spec, **sizes)
        self.bias = bias
        self.is_two_sided = spec.site == "encoder_self"
        self.is_cross = spec.site == "cross"
        self.d_head = self.d_model // self.n_heads
        for name in MAPS:
            setattr(self, name, nn.Linear(self.d_model, self.d_model, bias=bias))

    @property
    def is_causal(self) -> bool:  # type: ignore[override]
        """Whether no output depends on a later position."""
        return not self.is_two_sided

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes it was built with, besides the specification."""
        return super().sizes | ({"bias": True} if self.bias else {})

    @torch.no_grad()
    def copy_maps(self, site: nn.Module) -> None:
        """Take the maps of the attention, or of the stand-in, that stands at a site.

        Raises:
            AttnlabError: What stands there has no such maps, or others.
        """
        site = cast(Any, getattr(site, "student", site))
        for name in MAPS:
            own, given = getattr(self, name), getattr(site, name, None)
            if not isinstance(given, nn.Linear) or (given.bias is None) == self.bias:
                raise AttnlabError(
                    f"A {self.spec.method} stand-in begins with the {name} map of what it "
                    f"replaces; {type(site).__name__} has none that fits. Undo the substitution "
                    "at this place first."
                )
            own.weight.copy_(given.weight)
            if self.bias:
                own.bias.copy_(given.bias)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        """Return what stands for the head outputs, ``(batch, time, d_model)``; zeros at padding."""
        own = source_padding if self.is_two_sided else target_padding
        x = mask_out(x, own)
        memory = x if memory is None else mask_out(memory, source_padding)
        # padding of a target stands at its end, where no real position of a causal site looks
        padding = source_padding if self.is_two_sided or self.is_cross else None
        return mask_out(side_by_side(self.find(x, memory, padding)), own)

    def weights(
        self, x: Tensor, memory: Tensor | None = None, *, source_padding: Tensor | None = None
    ) -> Tensor:
        """Return what each position takes of each value, ``(batch, heads, time, memory_time)``.

        ``weights(x) @ values(x)`` are the heads; rows of ``linear`` sum to one.
        """
        if self.is_cross:
            memory = mask_out(cast(Tensor, memory), source_padding)
        else:
            memory = x = mask_out(x, source_padding)
        return self.mixing(x, memory, source_padding)

    def values(self, memory: Tensor) -> Tensor:
        """Return the values of each head, ``(batch, heads, memory_time, d_head)``."""
        return self.in_heads("value", memory)

    def in_heads(self, name: str, x: Tensor) -> Tensor:
        """Return one of the three maps of x, ``(batch, heads, time, d_head)``."""
        return in_heads(getattr(self, name)(x), self.n_heads)

    def find(self, x: Tensor, memory: Tensor, padding: Tensor | None) -> Tensor:
        """Return the heads, ``(batch, heads, time, d_head)``; padding is that of the memory."""
        raise NotImplementedError

    def mixing(self, x: Tensor, memory: Tensor, padding: Tensor | None) -> Tensor:
        """Return ``weights`` of what is zero at padding."""
        raise NotImplementedError

    def _is_short(self, *inputs: Tensor) -> bool:
        return max(z.shape[1] for z in inputs) <= 2 * CHUNK


class LinearState(NamedTuple):
    """What a linear stand-in has read: a table, and the newest keys and values, oldest first."""

    table: Tensor  # (batch, heads, features, d_head + 1): the last column sums the features
    keys: Tensor | None = None  # (batch, heads, up to window, d_head)
    values: Tensor | None = None


class LinearStandIn(StandIn):
    """Features of queries and keys, and a softmax over the positions that are near.

    Short sentences are compared pair by pair; long ones keep tables, at a cost that grows with
    the length alone.

    Weights:
        ``3 d**2`` of the maps and ``2 d * d_head`` of the features; with ``relu`` another ``2 d``
        for what it adds, with a window one a head.
    """

    def __init__(self, spec: StudentSpec, **sizes: Any) -> None:
        super().__init__(spec, **sizes)
        self.feature_map, self.window = FEATURE_MAPS[spec.feature_map], spec.window
        eye = torch.eye(self.d_head).repeat(self.n_heads, 1, 1)  # (H, K, K)
        for side in ("query", "key"):
            setattr(self, f"{side}_feature_weight", nn.Parameter(eye.clone()))
            zeros = nn.Parameter(torch.zeros(self.d_model))
            setattr(self, f"{side}_feature_bias", zeros if spec.feature_map == "relu" else None)
        if self.window:
            start = torch.full((self.n_heads,), math.log(NEAR_SHARE / (1 - NEAR_SHARE)))
            self.near_gate = nn.Parameter(start)  # g is its sigmoid

    def features(self, z: Tensor, side: str) -> Tensor:
        """Return the features of queries or keys, ``(batch, heads, time, features)``."""
        z = z @ getattr(self, f"{side}_feature_weight")
        shift = getattr(self, f"{side}_feature_bias")
        if shift is not None:
            z = z + shift.unflatten(0, (self.n_heads, 1, -1))
        return self.feature_map(z)

    def find(self, x: Tensor, memory: Tensor, padding: Tensor | None) -> Tensor:
        """Return the heads: pair by pair if short, by tables if long."""
        v = self.values(memory)
        if self._is_short(x, memory):
            return self.mixing(x, memory, padding) @ v
        q, k, v = self.in_heads("query", x), self.in_heads("key", memory), _with_ones(v)
        query, key = self.features(q, "query"), _keep(self.features(k, "key"), padding)
        if self.is_cross or (self.is_two_sided and not self.window):
            found = query @ (key.mT @ v)
        else:
            found = self._before(query, key, v)
            if self.is_two_sided:
                found = found + self._before(query.flip(2), key.flip(2), v.flip(2)).flip(2)
            if self.window:
                near, fade = self._near(q, k, v, padding)
                found = _faded(found, fade) + near
        return shared_out(found[..., :-1], found[..., -1:])

    def mixing(self, x: Tensor, memory: Tensor, padding: Tensor | None) -> Tensor:
        """Return shares, ``(batch, heads, time, memory_time)``; rows sum to one."""
        q, k = self.in_heads("query", x), self.in_heads("key", memory)
        shares = self.features(q, "query") @ _keep(self.features(k, "key"), padding).mT
        if not self.is_cross and not (self.is_two_sided and not self.window):
            t = torch.arange(x.shape[1], device=x.device)
            lag = t[:, None] - t
            lag = lag.abs() if self.is_two_sided else lag
            shares = shares.masked_fill(lag < self.window, 0.0)
            if self.window:
                is_near = (lag >= 0) & (lag < self.window)
                if padding is not None:
                    is_near = is_near & ~padding[:, None, None]
                near, fade = self._exact(q @ k.mT, is_near)
                shares = _faded(shares, fade) + near
        return shared_out(shares, shares.sum(-1, keepdim=True))

    def _exact(self, products: Tensor, is_near: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return g e^(s - c), zeros where it is not near, and e^-c for the far if that scales."""
        scores = (products / math.sqrt(self.d_head)).masked_fill(~is_near, -torch.inf)
        top = scores.amax(-1, keepdim=True)
        is_shared = self.spec.window_scale == "shared"
        # a shared c cancels; with a bound the far ones stay in float32 where nothing near fits
        top = top.detach().clamp(min=-SAFE) if is_shared else _finite(top)
        near = _a_head(self.near_gate.sigmoid()) * (scores - top).exp()
        return near, (-top).exp() if is_shared else None

    def _before(self, query: Tensor, key: Tensor, v: Tensor) -> Tensor:
        """Return the sums over all positions at least ``window`` earlier, chunk by chunk."""
        key, v = (F.pad(z, (0, 0, self.window, -self.window)) for z in (key, v))
        return scan(Reading(query, key, v), chunk=CHUNK, keep=False)[0]

    def _near(
        self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return sums over the near positions, ``(batch, heads, time, d_head + 1)``, and e^-c."""
        ahead = self.window - 1 if self.is_two_sided else 0
        real = q.new_ones(1, 1, q.shape[2], 1)
        real = real if padding is None else (~padding[:, None, :, None]).to(q.dtype)
        k, v, real = (
            F.pad(z, (0, 0, self.window - 1, ahead)).unfold(2, self.window + ahead, 1)
            for z in (k, v, real)
        )  # (B, H, T, K, near)
        shares, fade = self._exact((q[..., None, :] @ k)[..., 0, :], real[..., 0, :] > 0)
        return (v @ shares[..., None])[..., 0], fade

    def initial_state(self, memory: Any, *, source_padding: Tensor | None = None) -> LinearState:
        """Return the table of the source; or empty ones, given a batch size."""
        if self.is_cross:
            memory = mask_out(memory, source_padding)
            key = _keep(self.features(self.in_heads("key", memory), "key"), source_padding)
            return LinearState(key.mT @ _with_ones(self.values(memory)))
        nothing = self.query.weight.new_zeros(memory, self.n_heads, 0, self.d_head)
        table = self.features(nothing, "key").mT @ _with_ones(nothing)
        return LinearState(table, nothing, nothing) if self.window else LinearState(table)

    def step(self, x_t: Tensor, state: LinearState) -> tuple[Tensor, LinearState]:
        """Return the heads of one more token ``(batch, d_model)``, and the next state."""
        x_t = x_t[:, None]
        q = self.in_heads("query", x_t)
        if not self.is_cross:
            state = self._written(x_t, state)
        found = self.features(q, "query") @ state.table
        if state.keys is not None and state.values is not None:
            products = q @ state.keys.mT
            near, fade = self._exact(products, torch.ones_like(products, dtype=torch.bool))
            found = _faded(found, fade) + near @ _with_ones(state.values)
        return shared_out(found[..., :-1], found[..., -1:]).flatten(1), state

    def _written(self, x_t: Tensor, state: LinearState) -> LinearState:
        """Return the state with one more token, of which the window passes its oldest on."""
        k, v = self.in_heads("key", x_t), self.values(x_t)
        if state.keys is not None and state.values is not None:
            keys, values = torch.cat([state.keys, k], 2), torch.cat([state.values, v], 2)
            n_old = max(0, keys.shape[2] - self.window)
            (k, keys), (v, values) = (z.tensor_split([n_old], 2) for z in (keys, values))
            state = state._replace(keys=keys, values=values)
        if not k.shape[2]:
            return state
        return state._replace(table=state.table + self.features(k, "key").mT @ _with_ones(v))


class TableStandIn(StandIn):
    r"""A table a head, which fades as each token says and is asked by its query.

    .. math:: y_t = c\, q_t S_t + D v_t, \qquad S_t = a_t S_{t-1} + k_t^\top u_t

    with queries and keys of length one. ``ssd``: :math:`u_t = \Delta_t v_t`,
    :math:`a_t = e^{-r \Delta_t}`, :math:`\Delta_t = \mathrm{softplus}(x_t w + b)`, at first near 1.
    ``gated_delta``: :math:`u_t = \beta_t (v_t - a_t k_t S_{t-1})`, :math:`a_t =
    e^{-\mathrm{softplus}(x_t w + b)}`, :math:`\beta_t = \sigma(x_t w')`, and D = 0. At first
    little is forgotten: rates lie between 0.001 and 0.1. All of these are numbers a head; c = 1
    at first, a half of it in the encoder, and D = 0.

    Weights:
        ``3 d**2`` of the maps; with n tables, ``h`` or twice as many in the encoder, ``ssd`` has
        ``n (d + 2) + 2 h`` more, ``gated_delta`` ``n (2 d + 1) + h``.
    """

    def __init__(self, spec: StudentSpec, **sizes: Any) -> None:
        super().__init__(spec, **sizes)
        self.is_ssd = spec.method == "ssd"
        n_tables = self.n_heads * (1 + self.is_two_sided)
        low, high = map(math.log, RATES)
        rates = torch.empty(n_tables).uniform_(low, high)
        self.gate = linear(self.d_model, n_tables)
        if self.is_ssd:
            self.rate, first = nn.Parameter(rates), torch.ones(n_tables)
            self.skip = nn.Parameter(torch.zeros(self.n_heads))
        else:
            self.strength, first = linear(self.d_model, n_tables), rates.exp()
        self.gate_bias = nn.Parameter(first + torch.log(-torch.expm1(-first)))  # softplus of it
        self.scale = nn.Parameter(torch.full((self.n_heads,), 1 / (1 + self.is_two_sided)))

    def find(self, x: Tensor, memory: Tensor, padding: Tensor | None) -> Tensor:
        """Return the heads, all pairs of a short sentence at once."""
        chunk = x.shape[1] if self._is_short(x) else CHUNK
        reading = self._reading(x, padding)
        found = scan(reading, chunk=chunk, keep=False)[0]
        return self._asked(self._both(found, (2,)), reading)

    def mixing(self, x: Tensor, memory: Tensor, padding: Tensor | None) -> Tensor:
        """Return what is found of each value, of either sign."""
        reading = self._reading(x, padding)
        shares = pair_shares(reading)
        if self.is_ssd:
            shares = shares * reading.beside[1].mT  # (B, n, 1, T)
        shares = _a_head(self.scale) * self._both(shares, (2, 3))
        if self.is_ssd:
            return shares + _a_head(self.skip) * torch.eye(
                x.shape[1], dtype=x.dtype, device=x.device
            )
        return shares

    def initial_state(self, batch_size: int) -> tuple[Tensor]:  # type: ignore[override]
        """Return empty tables, in float32 at least."""
        like = at_least_single(self.scale)
        return (like.new_zeros(batch_size, self.n_heads, self.d_head, self.d_head),)

    def step(self, x_t: Tensor, state: tuple[Tensor]) -> tuple[Tensor, tuple[Tensor]]:
        """Return the heads of one more token ``(batch, d_model)``, and the next tables."""
        reading = self._reading(x_t[:, None], None)
        found, table = write_and_ask(reading, state[0])
        return self._asked(found, reading).flatten(1), (table,)

    def _reading(self, x: Tensor, padding: Tensor | None) -> Reading:
        """Return what the tables read; in the encoder the second half of them from the end."""
        q, k, v = unit(self.in_heads("query", x)), unit(self.in_heads("key", x)), self.values(x)
        beside, k = v, _keep(k, padding)  # a key of zeros writes nothing
        q, k, v = (torch.cat([z, z.flip(2)], 1) if self.is_two_sided else z for z in (q, k, v))
        amount = F.softplus(self._of_tables(self.gate(x) + self.gate_bias))  # (B, n, T, 1)
        if not self.is_ssd:
            strength = torch.sigmoid(self._of_tables(self.strength(x)))
            return Reading(q, k, v, -amount, strength, beside=(beside,))
        log_decay = -_a_head(self.rate.exp()) * amount
        return Reading(q, k, amount * v, log_decay, beside=(beside, amount))

    def _of_tables(self, gates: Tensor) -> Tensor:
        """Return gates ``(batch, time, n)`` as ``(batch, n, time, 1)``, each in its own order."""
        forwards, *backwards = gates.mT[..., None].split(self.n_heads, 1)
        return torch.cat([forwards, *(z.flip(2) for z in backwards)], 1)

    def _both(self, found: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Return the sum over both directions, in the order of the sentence."""
        forwards, *backwards = found.split(self.n_heads, 1)
        return forwards + backwards[0].flip(axes) if backwards else forwards

    def _asked(self, found: Tensor, reading: Reading) -> Tensor:
        found = _a_head(self.scale) * found
        return found + _a_head(self.skip) * reading.beside[0] if self.is_ssd else found


STAND_IN_KINDS: dict[str, type[StandIn]] = {
    "linear": LinearStandIn,
    "ssd": TableStandIn,
    "gated_delta": TableStandIn,
}


def expected_stand_in_weights(spec: StudentSpec, *, d_model: int, n_heads: int) -> int:
    """Return the number of weights of a stand-in without biases in closed form."""
    d, n = d_model, n_heads * (2 if spec.site == "encoder_self" else 1)
    more = {
        "linear": 2 * d * (d // n_heads)
        + 2 * d * (spec.feature_map == "relu")
        + n_heads * (spec.window > 0),
        "ssd": n * (d + 2) + 2 * n_heads,
        "gated_delta": n * (2 * d + 1) + n_heads,
    }
    return 3 * d * d + more[spec.method]


def _a_head(numbers: Tensor) -> Tensor:
    """Return one number a head as ``(heads, 1, 1)``."""
    return numbers[:, None, None]


def _faded(far: Tensor, fade: Tensor | None) -> Tensor:
    """Return what is far on the scale of what is near."""
    return far if fade is None else far * fade


def _finite(top: Tensor) -> Tensor:
    """Return a number for the largest of none, too."""
    return top.clamp(min=torch.finfo(top.dtype).min)


def _keep(features: Tensor, padding: Tensor | None) -> Tensor:
    """Return features ``(batch, heads, time, ...)`` with zeros at padding."""
    return features if padding is None else features.masked_fill(padding[:, None, :, None], 0.0)


def _with_ones(v: Tensor) -> Tensor:
    """Return values with a one beside each, whose sum is that of the shares."""
    return F.pad(v, (0, 1), value=1.0)
