r"""Kernels of depthwise convolutions: numbers for each lag that are free, or made of few weights.

.. math:: s_t = \sum_{j=0}^{\min(t, \ell)-1} k_j \odot u_{t-j}
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import is_number
from attnlab.errors import AttnlabError, shorten
from attnlab.mixers.base import Ring
from attnlab.mixers.convolution import SpectrumCache, causal_convolution
from attnlab.mixers.streaming import TiledStream, Tiling, choose_streaming


class Kernel(nn.Module):
    """Numbers k for each lag and channel, and the sum that they define in all its forms.

    Shapes:
        ``lags(n)`` are ``(min(n, n_lags), channels)``, lag 0 first. Signals u are
        ``(batch, time, channels)``.
    Args:
        n_lags: How far the sum looks back, the newest token included; None for ever.
    """

    def __init__(self, *, channels: int, n_lags: int | None) -> None:
        super().__init__()
        self.channels, self.n_lags = channels, n_lags
        self._seen: list[Any] = []
        self._kept: dict[Any, Any] = {}
        self._tiles = SpectrumCache(max_entries=1)  # of streams

    def make(self, n: int) -> Tensor:
        """Compute the numbers of the newest n lags."""
        raise NotImplementedError

    def lags(self, n: int) -> Tensor:
        """Return the numbers of the newest n lags; those of a frozen kernel are kept."""
        n = n if self.n_lags is None else min(n, self.n_lags)
        made = n if self.n_lags is None or self._learns else self.n_lags
        return self._while_frozen(made, lambda: self.make(made))[:n]

    @property
    def _learns(self) -> bool:
        return self.training or torch.is_grad_enabled()

    def _while_frozen(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what is made of the weights, kept until one of them changes."""
        if self._learns:
            return make()
        seen = [
            (w.data_ptr(), None if w.is_inference() else w._version, float(w.sum()))
            for w in self.parameters()
        ]
        if seen != self._seen or (key not in self._kept and len(self._kept) > 2):
            self._seen, self._kept = seen, {}
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def train(self, mode: bool = True) -> Kernel:
        """Change the mode and forget what was kept."""
        self._kept = {}
        self._tiles.clear()
        return super().train(mode)

    def definition(self, u: Tensor) -> Tensor:
        """Return the sum as a loop over positions and lags."""
        return defined_sum(u, self.defined_lags(min(u.shape[1], self.n_lags or u.shape[1])))

    def defined_lags(self, n: int) -> list[Tensor]:
        """Return the numbers of each lag, one lag at a time."""
        raise NotImplementedError

    def initial_state(self, batch_size: int, **like: Any) -> Any:
        """Return an empty ring of signals; for a frozen kernel tiles, where these are faster."""
        n_lags, width = int(self.n_lags or 1), self.channels
        ring, shape = Ring.empty(batch_size, n_lags, width, **like), torch.empty(n_lags, 1)
        is_tiled = choose_streaming(shape, batch_size=batch_size, width=width) == "tiles"
        return TiledStream(ring, Tiling.choose(shape)) if is_tiled and not self.training else ring

    def step(self, u_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the newest sum ``(batch, channels)`` and the state after it."""
        if isinstance(state, TiledStream):
            if not self._learns:
                return state.push(u_t, self.lags(int(self.n_lags or 1)), self._tiles), state
            state = state.ring  # what is recorded, or changes at every token, needs the plain sum
        return add_token(u_t, state, self.lags(state.n_seen + 1))

    def prefill(self, u: Tensor, state: Any, *, method: str = "auto") -> tuple[Tensor, Any]:
        """Return the sums of a prefix and the state after it."""
        ring = state.ring if isinstance(state, TiledStream) else state
        summed, ring = add_prefix(u, ring, self.lags(ring.n_kept + u.shape[1]), method=method)
        is_tiled = isinstance(state, TiledStream)
        return summed, TiledStream(ring, state.tiling) if is_tiled else ring


def exact(linear: nn.Linear, x: Tensor) -> Tensor:
    """Return what a map makes of x in float32 at least: sines of large numbers need the digits."""
    with torch.autocast(x.device.type, enabled=False):
        dtype = torch.promote_types(linear.weight.dtype, torch.float32)
        bias = None if linear.bias is None else linear.bias.to(dtype)
        return F.linear(x.to(dtype), linear.weight.to(dtype), bias)


def add_token(u_t: Tensor, ring: Ring, lags: Tensor) -> tuple[Tensor, Ring]:
    """Return the sum over a ring with one more signal in it, and the ring."""
    ring = ring.push(u_t)
    past = ring.newest_first()  # (B, J, D)
    return (past * lags[: past.shape[1]]).sum(1), ring


def add_prefix(u: Tensor, ring: Ring, lags: Tensor, *, method: str = "auto") -> tuple[Tensor, Ring]:
    """Return the sums at all positions of a prefix after what a ring keeps, and the ring."""
    ring.require_batch(u)
    past = ring.newest(min(ring.n_kept, ring.context_len - 1)).flip(1)
    summed = causal_convolution(torch.cat([past, u], 1), lags, method=method)
    return summed[:, past.shape[1] :], ring.extend(u)


def defined_sum(u: Tensor, lags: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Sum the newest signals at each position, each lag times its own numbers."""
    sums = []
    for t in range(u.shape[1]):
        terms = [lags[j] * u[:, t - j] for j in range(min(t + 1, len(lags)))]
        sums.append(torch.stack(terms).sum(0))
    return torch.stack(sums, 1)


def toeplitz(lags: Tensor, time: int) -> Tensor:
    """Return ``(1, channels, time, time)`` whose row t and column s has lag t - s, else zero."""
    t = torch.arange(time, device=lags.device)
    lag = t[:, None] - t
    seen = (lag >= 0) & (lag < len(lags))
    return (lags.T[:, lag.clamp(0, len(lags) - 1)] * seen)[None]


class Explicit(Kernel):
    """A free number for each lag and channel, :math:`l d` weights (Long Conv, arXiv:2302.06646)."""

    def __init__(self, *, channels: int, n_lags: int) -> None:
        super().__init__(channels=channels, n_lags=n_lags)
        self.lag_weight = nn.Parameter(torch.empty(n_lags, channels))
        nn.init.normal_(self.lag_weight, std=n_lags**-0.5)  # the sum keeps the size of its inputs

    def lags(self, n: int) -> Tensor:
        """Return the weights themselves."""
        return self.lag_weight[:n]

    def defined_lags(self, n: int) -> list[Tensor]:
        """Return the weights themselves."""
        return [self.lag_weight[j] for j in range(n)]


class Siren(Kernel):
    r"""A small network of the relative position, with sines inside (CKConv, arXiv:2102.02611).

    .. math:: k_j = \sin\bigl(\omega (\sin(\omega (p_j W_1 + b_1)) W_2 + b_2)\bigr) W_3 + b_3,
              \quad p_j = \tfrac{2 j}{\ell - 1} - 1

    Weights: ``f**2 + 3 f + f d + d``, whatever the context; f is ``width``.

    Args:
        omega: How fast the sines swing at the start.
    """

    def __init__(self, *, channels: int, n_lags: int, width: int = 32, omega: float = 30.0) -> None:
        super().__init__(channels=channels, n_lags=n_lags)
        self.omega = omega
        self.first, self.second = nn.Linear(1, width), nn.Linear(width, width)
        self.last = nn.Linear(width, channels)
        nn.init.uniform_(self.first.weight, -1, 1)
        bound = (6 / width) ** 0.5 / omega  # signals before a sine then have size one
        nn.init.uniform_(self.second.weight, -bound, bound)
        nn.init.normal_(self.last.weight, std=(2 / (width * n_lags)) ** 0.5)
        nn.init.zeros_(self.last.bias)
        self.register_buffer("positions", torch.linspace(-1, 1, n_lags)[:, None], persistent=False)

    def make(self, n: int) -> Tensor:
        """Ask the network about the newest n lags."""
        hidden = self.positions[:n]
        for layer in (self.first, self.second):
            hidden = (self.omega * exact(layer, hidden)).sin()
        return exact(self.last, hidden).to(self.last.weight.dtype)

    def defined_lags(self, n: int) -> list[Tensor]:
        """Ask the network about one lag after the other."""
        return [self._of(self.positions[j : j + 1]) for j in range(n)]

    def _of(self, p_j: Tensor) -> Tensor:
        h_1 = torch.sin(self.omega * self.first(p_j))
        return self.last(torch.sin(self.omega * self.second(h_1)))[0]


class S4D(Kernel):
    r"""What N / 2 damped oscillators a channel answer to a blow (S4D-Lin, arXiv:2206.11893).

    .. math:: k_j = 2\,\mathrm{Re} \sum_{n < N/2} C_n \frac{e^{\Delta A_n} - 1}{A_n}
              e^{\Delta A_n j},\qquad A_n = -\tfrac12 + i \pi n

    It is also a recurrence with a state of N numbers a channel, and reaches back for ever:

    .. math:: h_t = e^{\Delta A} \odot h_{t-1} + u_t,\qquad
              s_t = 2\,\mathrm{Re} \sum_n C_n \frac{e^{\Delta A_n} - 1}{A_n} h_{t,n}

    Weights: ``d (2 N + 1)``: real and imaginary parts of A and C, and a step :math:`\Delta`.

    Shapes:
        state: ``(batch, channels, N / 2, 2)``, real and imaginary parts.
    Args:
        n_state: N, even.
    """

    def __init__(self, *, channels: int, n_lags: int | None = None, n_state: int = 64) -> None:
        super().__init__(channels=channels, n_lags=None)
        if not is_number(n_state, int) or n_state < 2 or n_state % 2:
            raise AttnlabError(
                f"n_state={shorten(n_state)} is no even number from 2 on: an oscillator has two."
            )
        shape = (channels, n_state // 2)
        self.log_damping = nn.Parameter(torch.full(shape, math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(n_state // 2.0).expand(shape).clone())
        self.readout = nn.Parameter(torch.randn(*shape, 2) * 0.5**0.5)
        low, high = math.log(1e-3), math.log(1e-1)
        self.log_step = nn.Parameter(torch.empty(channels).uniform_(low, high))

    def _oscillators(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return exponents, their swing in one step, weights: complex ``(channels, N / 2)``."""
        return self._while_frozen("oscillators", self._make_oscillators)

    def _make_oscillators(self) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(self.log_step.dtype, torch.float32)
        damping, frequency, parts, log_step = (
            w.to(dtype) for w in (self.log_damping, self.frequency, self.readout, self.log_step)
        )
        rate = torch.complex(-damping.exp(), frequency)
        exponent = log_step.exp()[:, None] * rate
        weight = torch.view_as_complex(parts) * torch.expm1(exponent) / rate
        return exponent, exponent.exp(), weight

    def make(self, n: int) -> Tensor:
        """Sum the answers of all oscillators, as one product of matrices a channel.

        Lag j is c times the block's length plus b: one factor swings to the block, one within.
        """
        exponent, _, weight = self._oscillators()
        length = math.isqrt(n - 1) + 1
        ages = torch.arange(length, device=exponent.device)
        within = (exponent[..., None] * ages).exp()  # (D, N / 2, b)
        to_block = (exponent[..., None] * (length * ages)).exp() * weight[..., None]
        left = torch.cat([to_block.real, -to_block.imag], 1).mT
        with torch.autocast(left.device.type, enabled=False):  # few digits would be left
            lags = 2 * left @ torch.cat([within.real, within.imag], 1)  # (D, c, b)
        return lags.flatten(1)[:, :n].mT.to(self.log_step.dtype)

    def definition(self, u: Tensor) -> Tensor:
        """Run the recurrence in real numbers."""
        step, damping = self.log_step.exp()[:, None], self.log_damping.exp()
        fall, angle = torch.exp(-(step * damping)), step * self.frequency
        a, b = fall * angle.cos(), fall * angle.sin()  # e^(step A) = a + i b
        squared = damping * damping + self.frequency * self.frequency
        real = (b * self.frequency - (a - 1) * damping) / squared  # of (a + i b - 1) / A
        imaginary = -((a - 1) * self.frequency + b * damping) / squared
        c, e = self.readout.unbind(-1)
        w, v = 2 * (c * real - e * imaginary), 2 * (c * imaginary + e * real)
        h = g = torch.zeros_like(u[:, 0, :, None] + a)
        sums = []
        for u_t in u.unbind(1):
            h, g = a * h - b * g + u_t[..., None], a * g + b * h
            sums.append((w * h - v * g).sum(-1))
        return torch.stack(sums, 1)

    def initial_state(self, batch_size: int, **like: Any) -> Tensor:
        """Return oscillators at rest."""
        like["dtype"] = torch.promote_types(like.get("dtype", torch.float32), torch.float32)
        return torch.zeros(batch_size, *self.readout.shape, **like)

    def step(self, u_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Let the oscillators swing once and push them."""
        _, swing, weight = self._oscillators()
        h = swing * torch.view_as_complex(state.to(swing.real.dtype))
        h = h + u_t[..., None]
        return 2 * (weight * h).sum(-1).real.to(u_t.dtype), torch.view_as_real(h)

    def prefill(self, u: Tensor, state: Tensor, *, method: str = "auto") -> tuple[Tensor, Tensor]:
        """Sum over lags, and add what the oscillators still swing from before."""
        exponent, _, weight = self._oscillators()
        time, before = u.shape[1], torch.view_as_complex(state.to(exponent.real.dtype))
        ages = torch.arange(time + 1, device=u.device)
        swings = (exponent * ages[:, None, None]).exp()  # (T + 1, D, N / 2)
        echo = 2 * torch.einsum("jdn,dn,bdn->bjd", swings[1:], weight, before).real
        pushed = torch.einsum("jdn,bjd->bdn", swings[:-1].flip(0), u.to(swings.dtype))
        summed = causal_convolution(u, self.lags(time), method=method) + echo.to(u.dtype)
        return summed, torch.view_as_real(swings[-1] * before + pushed)


KERNELS: dict[str, type[Any]] = {"explicit": Explicit, "s4d": S4D, "siren": Siren}
