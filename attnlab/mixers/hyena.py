"""Hyena: long convolutions between gates, with filters that a small network makes of positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnlab.config import is_number
from attnlab.errors import AttnlabError, shorten
from attnlab.mixers.base import Ring, TokenMixer, mixer
from attnlab.mixers.convolution import causal_convolution, require_method
from attnlab.mixers.kernels import Kernel, add_prefix, add_token, defined_sum, exact, toeplitz

FEATURES, WIDTH, SHORT = 3, 64, 3  # e, f, and the width of the short convolution


class ImplicitFilter(Kernel):
    r"""Filters that a network with sines makes of each position, under a falling window.

    .. math:: h_j = e^{-\delta\, j / (\ell - 1)} \odot
              \sin(\omega \odot \sin(\omega \odot \sin(\omega \odot z_j W_1) W_2) W_3) W_4

    The features z start as :math:`j / (\ell - 1)` beside complex exponentials of j. The rates
    :math:`\delta` are fixed, and spread over the channels. Biases are left out above.

    The skip D is added to the newest lag.

    Weights: ``(e + 1) f + 2 (f**2 + f) + f + f channels``, the skip and the table z, ``l e``. The
    authors train the table at a tiny rate of its own; here it has the rate of all other weights.

    Args:
        swing: Where the frequencies omega of the sines start; higher is less smooth.
    """

    def __init__(self, *, channels: int, n_lags: int, swing: float = 10.0) -> None:
        super().__init__(channels=channels, n_lags=n_lags)
        at, n_bands = torch.linspace(0, 1, n_lags)[:, None], (FEATURES - 1) // 2
        bands = torch.linspace(1e-4, max(n_bands - 1, 1e-4), n_bands)
        angle = 2 * math.pi * torch.arange(n_lags)[:, None] / n_lags * bands
        self.features = nn.Parameter(torch.cat([at, angle.cos(), -angle.sin()], 1))
        widths = (FEATURES, WIDTH, WIDTH, WIDTH)
        self.hidden = nn.ModuleList(map(nn.Linear, widths, widths[1:]))
        for layer in list(self.hidden)[1:]:  # omega stretches positions, and nothing after them
            bound = (6 / WIDTH) ** 0.5 / swing
            nn.init.uniform_(layer.weight, -bound, bound)
        self.omega = nn.Parameter(torch.full((WIDTH,), float(swing)))
        self.last = nn.Linear(WIDTH, channels, bias=False)
        nn.init.normal_(self.last.weight, std=(12 / (WIDTH * n_lags)) ** 0.5)
        fast, slow = (math.log(1e-2) / share for share in (0.3, 1.5))
        self.skip = nn.Parameter(torch.randn(channels))
        window = torch.exp(at * torch.linspace(slow, fast, channels))
        self.register_buffer("window", window, persistent=False)

    def make(self, n: int) -> Tensor:
        """Ask the network about the newest n lags."""
        hidden, omega = self.features[:n], self.omega
        for layer in self.hidden:
            hidden = (omega * exact(layer, hidden)).sin()
        lags = exact(self.last, hidden) * self.window[:n]
        return torch.cat([lags[:1] + self.skip, lags[1:]]).to(omega.dtype)

    def defined_lags(self, n: int) -> list[Tensor]:
        """Ask the network about one lag after the other; the skip is left out."""
        first, second, third = self.hidden
        lags = []
        for j in range(n):
            h_1 = torch.sin(self.omega * first(self.features[j : j + 1]))
            h_2 = torch.sin(self.omega * second(h_1))
            h_3 = torch.sin(self.omega * third(h_2))
            lags.append(self.last(h_3)[0] * self.window[j])
        return lags


def _expected_weights(d: int, n: int, h: int, *, order: int = 2) -> int:
    filters = (FEATURES + 1) * WIDTH + 2 * (WIDTH**2 + WIDTH) + WIDTH + WIDTH * d * (order - 1)
    maps = (order + 2) * (d**2 + d) + (SHORT + 1) * (order + 1) * d
    return maps + filters + d * (order - 1) + n * FEATURES


def _expected_multiplications(d: int, T: int, P: int, h: int) -> int:
    """Count maps, short and long sums, skip, two gates, and the filter of every lag."""
    short = 3 * d * max(SHORT * T - 3, T)
    a_lag = FEATURES * WIDTH + 2 * WIDTH**2 + 3 * WIDTH + WIDTH * d + d
    return 4 * T * d**2 + short + P * d + 3 * T * d + T * a_lag


def _parts(mixer: Hyena, mixed: Tensor) -> tuple[list[Tensor], Tensor]:
    """Split what the short convolution made into the gates and v."""
    *gates, v = (mixed + mixer.short_bias).split(mixer.d_model, dim=-1)
    return gates, v


@mixer("hyena", look={"family": "convolution", "label": "Hyena", "marker": "$H$"})
class Hyena(TokenMixer):
    r"""Gate and convolve in turns: N - 1 long convolutions between N products with the input.

    .. math:: (p_0, \dots, p_{N-1}, v) = \mathrm{short}(x W_{in} + b_{in}),\qquad
              v \leftarrow h_n * (p_n \odot v) + D_n \odot (p_n \odot v)
              \quad (n = N - 1, \dots, 1),\qquad y = (p_0 \odot v) W_{out} + b_{out}

    *short* is a depthwise causal convolution of width 3 with a bias. In the frame, by channel:
    :math:`M = \mathrm{diag}(p_0) \prod_n T(h_n)\, \mathrm{diag}(p_n)`, Toeplitz, rows and columns
    weighed by the tokens. Order 2 without short, :math:`p_1`, biases is HE with an implicit filter.

    Args:
        order: N, 2 or more.
        method: As in ``causal_convolution``.
    Weights:
        ``(N + 2) d**2 + (N + 2) d + 4 (N + 1) d + (e + 1) f + 2 (f**2 + f) + f + f d (N - 1)
        + d (N - 1) + l e`` with e = 3 features and f = 64. The last term is the table of features.
    State:
        3 projections and l = ``context_len`` of N - 1 signals; no recurrence, a plain sum streams.
    Source:
        arXiv:2302.10866, section 3, and the authors' stand-alone version; derived in notebook 10.
    """

    structure = "Toeplitz"
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"order": (3, 4)}
    expected_weights = staticmethod(_expected_weights)
    expected_multiplications = staticmethod(_expected_multiplications)
    expected_state = staticmethod(lambda d, n, h: 3 * min(n, SHORT) * d + n * d)

    def __init__(
        self, *, d_model: int, context_len: int, order: int = 2, method: str = "auto"
    ) -> None:
        super().__init__(d_model=d_model, context_len=context_len)
        if not is_number(order, int) or order < 2:
            raise AttnlabError(f"order={shorten(order)} has no long convolution; give 2, 3, 4...")
        require_method(method, ndim=2)
        self.order, self.method = order, method
        self.project = nn.Linear(d_model, (order + 1) * d_model)
        self.out = nn.Linear(d_model, d_model)
        for linear in (self.project, self.out):
            nn.init.normal_(linear.weight, std=d_model**-0.5)
            nn.init.zeros_(linear.bias)
        width = (order + 1) * d_model
        self.short = nn.Parameter(torch.randn(SHORT, width) * SHORT**-0.5)
        self.short_bias = nn.Parameter(torch.zeros(width))
        self.filters = ImplicitFilter(channels=(order - 1) * d_model, n_lags=context_len)

    @property
    def reach(self) -> int:
        """Each long sum reaches back ``l - 1`` tokens more, the short one two."""
        return (self.order - 1) * (self.context_len - 1) + SHORT

    def _stages(self, n_lags: int) -> list[tuple[int, Tensor]]:
        """Return number and filter of each long convolution, in order of use."""
        filters = self.filters.lags(n_lags).split(self.d_model, dim=-1)
        return list(zip(range(self.order - 1, 0, -1), filters, strict=True))

    def _begin(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        return _parts(self, causal_convolution(self.project(x), self.short, method="lags"))

    def definition(self, x: Tensor) -> Tensor:
        """Run the short sum, then each gate and long sum, position by position."""
        gates, v = _parts(self, defined_sum(self.project(x), self.short.unbind(0)))
        lags = self.filters.defined_lags(min(x.shape[1], self.context_len))
        for n in range(self.order - 1, 0, -1):
            first = (self.order - 1 - n) * self.d_model  # filters lie in order of use
            gated, channels = gates[n] * v, slice(first, first + self.d_model)
            skipped = self.filters.skip[channels] * gated
            v = defined_sum(gated, [lag[channels] for lag in lags]) + skipped
        return self.out(gates[0] * v)

    def mix(self, x: Tensor) -> Tensor:
        """Convolve all positions at once, stage by stage."""
        gates, v = self._begin(x)
        for n, lags in self._stages(x.shape[1]):
            v = causal_convolution(gates[n] * v, lags, method=self.method)
        return self.out(gates[0] * v)

    def mixing_matrix(self, x: Tensor) -> Tensor:
        """Return gates and long sums as one matrix a channel, ``(batch, d_model, time, time)``."""
        gates, matrix = self._begin(x)[0], torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        for n, lags in self._stages(x.shape[1]):
            matrix = toeplitz(lags, x.shape[1]) * gates[n].mT[:, :, None] @ matrix
        return gates[0].mT[..., None] * matrix

    def values(self, x: Tensor) -> Tensor:
        """Return v after the short convolution, which M leaves out: ``(batch, d_model, T, 1)``."""
        return self._begin(x)[1].mT[..., None]

    def finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Map out what is ``(batch, d_model, time, 1)``."""
        return self.out(mixed[..., 0].mT)

    def initial_state(self, batch_size: int) -> tuple[Ring, ...]:
        """Return empty rings: of the short convolution, then of each long one in order of use."""
        long, d = [(self.context_len, self.d_model)] * (self.order - 1), self.d_model
        sizes = [(SHORT, (self.order + 1) * d), *long]
        return tuple(Ring.empty(batch_size, *size, **self._like) for size in sizes)

    def step(self, x_t: Tensor, state: tuple[Ring, ...]) -> tuple[Tensor, tuple[Ring, ...]]:
        """Add one token to the short sum, then to each long one."""
        self.require_step(x_t, state)
        return self._stream(x_t, state, add_token)

    def prefill(self, x: Tensor, state: Any = None) -> tuple[Tensor, tuple[Ring, ...]]:
        """Mix a whole prefix at once; return its outputs and the state after it."""
        self.require_input(x)
        state = self.initial_state(x.shape[0]) if state is None else state
        self.require_state(state)
        return self._stream(x, state, add_prefix)

    def _stream(self, x: Tensor, state: tuple[Ring, ...], add: Any) -> tuple[Tensor, Any]:
        """Run all sums over what is kept and x, one token or several."""
        n_seen = state[0].n_seen + (x.shape[1] if x.ndim == 3 else 1)
        mixed, short = add(self.project(x), state[0], self.short)
        rings, (gates, v) = [short], _parts(self, mixed)
        for (n, lags), ring in zip(self._stages(n_seen), state[1:], strict=True):
            v, ring = add(gates[n] * v, ring, lags)
            rings.append(ring)
        return self.out(gates[0] * v), tuple(rings)
