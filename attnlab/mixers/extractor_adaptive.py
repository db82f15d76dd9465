"""An Extractor whose lag weights depend on the tokens: the step that the frame suggests."""

from collections.abc import Mapping
from functools import wraps
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnlab.errors import AttnlabError
from attnlab.mixers.base import mixer
from attnlab.mixers.extractor import CHOICES, Extractor, _Preset
from attnlab.mixers.kernels import toeplitz

RANK = 4


@mixer("adaptive_she", look={"family": "extractor", "label": "Adaptive SHE", "marker": "h"})
class AdaptiveSHE(_Preset):
    r"""SHE whose lag weights depend on the data: low rank times Toeplitz, entry by entry.

    SHE of rank R has :math:`M_{ts}^{(r)} = a_r(t - s)`, one matrix for each channel of each
    :math:`x B_r`: Toeplitz, so that how much of token s reaches t is decided before either is
    read. Linear attention has :math:`M_{ts} = q(x_t) \cdot k(x_s)`: low rank, so that both
    tokens decide, and where they stand does not. The product of the two, entry by entry, has both:

    .. math:: M_{ts}^{(r)} = q_r(x_t)\, a_r(t - s)\, k_r(x_s),\qquad
              e_t = \sum_{r=1}^{R} q_r(x_t) \sum_{j=0}^{\min(t,\ell)-1} a_r(j) \odot
              \bigl(k_r(x_{t-j})\, x_{t-j} B_r\bigr)

    Then :math:`y_t = (e_t \odot (x_t W_{adj})) W_{out}`, as in SHE. Since k belongs to the
    token that gives and q to the one that takes, both leave the sum: what remains is one
    convolution of R d channels, as fast as without. With
    :math:`q(x) = 1 + x W_q`, :math:`k(x) = 1 + x W_k` and W_q = W_k = 0, the start, it is
    SHE of rank R; only training makes it look at what it mixes.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape. Options: see ``Extractor``.
    Weights:
        ``(R + 2) d**2 + R l d + 2 R d``, R = 4; a sum over ``l`` lags of the newest ``R l d``
        numbers, which are the state.
    Source:
        Ours; derived in notebook 10.
    """

    adapts = True
    preset: ClassVar[Mapping[str, Any]] = {"rank": RANK}
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **{name: CHOICES[name] for name in ("adjust", "scale")},
        **{"bias": (True,), "out_proj": (False,)},
        "rank": (1, 3),
    }
    expected_weights = staticmethod(lambda d, n, h: (RANK + 2) * d**2 + RANK * n * d + 2 * RANK * d)
    expected_state = staticmethod(lambda d, n, h: RANK * n * d)
    expected_multiplications = staticmethod(
        lambda d, T, P, h: (RANK + 2) * T * d**2 + RANK * P * d + (4 * RANK + 1) * T * d
    )

    @wraps(Extractor.__init__)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.rank is None or self.index == "absolute":
            raise AttnlabError(
                "adaptive_she needs a rank from 1 on, for what the tokens say, and index='lag': a "
                "running sum cannot be weighed again for each newest token. 'she' takes both."
            )
        for name in ("query", "key"):
            setattr(self, name, nn.Linear(self.d_model, self.rank, bias=False))
            nn.init.zeros_(getattr(self, name).weight)

    def _source(self, x: Tensor) -> Tensor:
        """Return the values of each map, weighed by what the tokens say: ``(..., R d)``."""
        return (self._by_rank(self.value(x)) * (1 + self.key(x))[..., None]).flatten(-2)

    def _over_ranks(self, extracted: Tensor, x: Tensor) -> Tensor:
        """Weigh the sums by what the newest tokens ask for, and add them."""
        return (self._by_rank(extracted) * (1 + self.query(x))[..., None]).sum(-2)

    def _by_rank(self, columns: Tensor) -> Tensor:
        return columns.unflatten(-1, (self.rank, self.d_model))

    def definition(self, x: Tensor) -> Tensor:
        """Weigh what each token gives, sum it lag by lag, weigh by what each token takes."""
        given = self._by_rank(self.value(x)) * (1 + self.key(x))[..., None]  # (B, T, R, D)
        taken, lags = 1 + self.query(x), self._by_rank(self.lag_weight)
        outputs = []
        for t in range(x.shape[1]):
            past = range(min(t + 1, self.context_len))
            summed = torch.stack([lags[j] * given[:, t - j] for j in past]).sum(0)
            e_t = (taken[:, t, :, None] * summed).sum(1)
            outputs.append(self._defined_finish(e_t, x[:, t], t))
        return torch.stack(outputs, 1)

    def mixing_matrix(self, x: Tensor) -> Tensor:
        """Return M for each channel of each map, ``(batch, R d, time, time)``."""
        takes, gives = (
            (1 + one(x)).mT.repeat_interleave(self.d_model, 1) for one in (self.query, self.key)
        )
        return takes[..., None] * toeplitz(self.lag_weight, x.shape[1]) * gives[:, :, None]

    def values(self, x: Tensor) -> Tensor:
        """Return what is mixed, ``(batch, R d, time, 1)``."""
        return self.value(x).mT[..., None]

    def finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Add the maps of a rank, scale, adjust and map out."""
        extracted = self._by_rank(mixed[..., 0].mT).sum(-2)
        return self._finish(extracted, x, self._places(x))
