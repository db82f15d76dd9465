"""Long convolutions: every channel has a kernel as long as the context, whatever it is made of."""

from collections.abc import Mapping
from functools import wraps
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnlab.errors import UnknownNameError
from attnlab.mixers.base import TokenMixer, mixer
from attnlab.mixers.convolution import causal_convolution, require_method
from attnlab.mixers.kernels import KERNELS, Kernel, toeplitz

N_STATE, SIREN_WIDTH = 64, 32


@mixer("long_conv", look={"family": "convolution", "label": "Long convolution", "marker": "$L$"})
class LongConv(TokenMixer):
    r"""Sum the past channel by channel, each lag with its own numbers; gate by the newest token.

    .. math:: y_t = \Bigl[\Bigl(\sum_{j=0}^{\min(t,\ell)-1} k_j \odot u_{t-j} + D \odot u_t\Bigr)
              \odot (x_t W_g)\Bigr] W_{out},\qquad u = x W_v

    In the frame: M is a Toeplitz matrix for each channel, blind to the tokens. Kernels of the
    field stand between such maps, mostly with a gate (H3, Hyena, BaseConv); the skip D is S4's.
    With the explicit kernel and D = 0 this is HE.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape. ``l = context_len``.
    Args:
        kernel: What k is made of. ``explicit``: a free number a lag and channel; ``s4d``: damped
            oscillators, which reach back for ever with a state of fixed size; ``siren``: a small
            network of the relative position.
        n_state: Of ``s4d``: numbers that a channel keeps.
        gate: Whether ``x W_g`` is there.
        maps: Whether ``W_v`` and ``W_out`` are there.
        method: How the sum is evaluated, see ``causal_convolution``.
    Weights:
        ``3 d**2 + d`` and those of the kernel: ``l d`` explicit, ``d (2 N + 1)`` of ``s4d`` with
        N = 64, ``f**2 + 3 f + f d + d`` of ``siren`` with f = 32.
    State:
        The newest ``l`` of u, ``l d`` numbers, worked off in tiles while frozen (notebook 06); of
        ``s4d`` the oscillators, ``N d``, at ``3 N d`` multiplications a token besides the maps.
    Source:
        arXiv:2302.06646 (explicit), arXiv:2206.11893 (s4d), arXiv:2102.02611 (siren); derived in
        notebook 10.
    """

    structure, adapts = "Toeplitz", False
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "kernel": tuple(KERNELS),
        **dict.fromkeys(("gate", "maps"), (False,)),
    }
    expected_weights = staticmethod(lambda d, n, h: 3 * d**2 + n * d + d)
    expected_state = staticmethod(lambda d, n, h: n * d)
    expected_multiplications = staticmethod(lambda d, T, P, h: 3 * T * d**2 + P * d + 2 * T * d)

    def __init__(
        self,
        *,
        d_model: int,
        context_len: int,
        kernel: str = "explicit",
        n_state: int = N_STATE,
        gate: bool = True,
        maps: bool = True,
        method: str = "auto",
    ) -> None:
        super().__init__(d_model=d_model, context_len=context_len)
        if kernel not in KERNELS:
            step = "Leave it out for a free number a lag."
            raise UnknownNameError("kernel", kernel, KERNELS, next_step=step)
        require_method(method, ndim=2)
        self.method = method
        for name, is_there in (("value", maps), ("gate", gate), ("out", maps)):
            setattr(self, name, nn.Linear(d_model, d_model, bias=False) if is_there else None)
            if is_there:
                nn.init.normal_(getattr(self, name).weight, std=d_model**-0.5)
        options = {"n_state": n_state} if kernel == "s4d" else {}
        self.kernel: Kernel = KERNELS[kernel](channels=d_model, n_lags=context_len, **options)
        self.skip = nn.Parameter(torch.randn(d_model))

    @property
    def reach(self) -> int | None:
        """As far as the kernel."""
        return self.kernel.n_lags

    def values(self, x: Tensor) -> Tensor:
        """Return u by channel, ``(batch, d_model, time, 1)``."""
        return self._source(x).mT[..., None]

    def mixing_matrix(self, x: Tensor) -> Tensor:
        """Return the Toeplitz matrix of each channel, the skip included: ``(1, d_model, T, T)``."""
        matrix = toeplitz(self.kernel.lags(x.shape[1]), x.shape[1])
        return matrix + torch.diag_embed(self.skip[:, None].expand(-1, x.shape[1]))

    def finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Gate and map out what is ``(batch, d_model, time, 1)``."""
        return self._finish(mixed[..., 0].mT, x)

    def _source(self, x: Tensor) -> Tensor:
        return x if self.value is None else self.value(x)

    def _finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        gated = mixed if self.gate is None else mixed * self.gate(x)
        return gated if self.out is None else self.out(gated)

    def definition(self, x: Tensor) -> Tensor:
        """Sum the kernel's way, one position at a time, then skip, gate and map out."""
        u = self._source(x)
        return self._finish(self.kernel.definition(u) + self.skip * u, x)

    def mix(self, x: Tensor) -> Tensor:
        """Convolve with as many lags as there are tokens."""
        u, lags = self._source(x), self.kernel.lags(x.shape[1])
        return self._finish(causal_convolution(u, lags, method=self.method) + self.skip * u, x)

    def initial_state(self, batch_size: int) -> Any:
        """Return the empty ring, or the resting oscillators, of the kernel."""
        return self.kernel.initial_state(batch_size, **self._like)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Add one token to the sum."""
        self.require_step(x_t, state)
        u_t = self._source(x_t)
        summed, state = self.kernel.step(u_t, state)
        return self._finish(summed + self.skip * u_t, x_t), state

    def prefill(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Mix a whole prefix at once; return its outputs and the state after it."""
        self.require_input(x)
        state = self.initial_state(x.shape[0]) if state is None else state
        self.require_step(x[:, 0], state)
        u = self._source(x)
        summed, state = self.kernel.prefill(u, state, method=self.method)
        return self._finish(summed + self.skip * u, x), state


class _Preset(LongConv):
    """A long convolution with another kernel; every option can still be given."""

    @wraps(LongConv.__init__)
    def __init__(self, **options: Any) -> None:
        super().__init__(**{**self.preset, **options})


@mixer("s4d", look={"family": "convolution", "label": "S4D", "marker": "$4$"})
class S4DMixer(_Preset):
    r"""Long convolution whose kernel are damped oscillators: a diagonal state-space model.

    Weights: ``3 d**2 + d (2 N + 2)``, N = 64; state: ``N d`` numbers, whatever the context.
    Options: see ``LongConv``.
    """

    preset: ClassVar[Mapping[str, Any]] = {"kernel": "s4d"}
    expected_weights = staticmethod(lambda d, n, h: 3 * d**2 + d * (2 * N_STATE + 2))
    expected_state = staticmethod(lambda d, n, h: N_STATE * d)
    expected_multiplications = staticmethod(  # 9 N d make the step and the weights of a state
        lambda d, T, P, h: 3 * T * d**2 + 3 * (T + 3) * N_STATE * d + 2 * T * d
    )


@mixer("siren", look={"family": "convolution", "label": "SIREN kernel", "marker": "$N$"})
class SirenMixer(_Preset):
    r"""Long convolution whose kernel is a small network of the relative position, with sines.

    Weights: ``3 d**2 + f**2 + 3 f + f d + 2 d``, f = 32, whatever the context.
    Options: see ``LongConv``.
    """

    preset: ClassVar[Mapping[str, Any]] = {"kernel": "siren"}
    expected_weights = staticmethod(
        lambda d, n, h: 3 * d**2 + SIREN_WIDTH**2 + 3 * SIREN_WIDTH + SIREN_WIDTH * d + 2 * d
    )
    expected_state = staticmethod(lambda d, n, h: n * d)
    expected_multiplications = staticmethod(
        lambda d, T, P, h: (
            3 * T * d**2
            + P * d
            + 2 * T * d
            + T * (SIREN_WIDTH**2 + 3 * SIREN_WIDTH + SIREN_WIDTH * d)
        )
    )
