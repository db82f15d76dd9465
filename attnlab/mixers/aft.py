"""Attention without queries: keys and distances alone decide what counts (AFT)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import is_number
from attnlab.errors import AttnlabError, shorten
from attnlab.mixers.base import Ring, TokenMixer, mixer
from attnlab.mixers.rwkv import joined, nothing_said, running, said

KINDS = ("conv", "full", "local", "simple")


@mixer("aft", look={"family": "convolution", "label": "AFT", "marker": "$F$"})
class AFT(TokenMixer):
    r"""Average the past channel by channel, weighted by keys and by where they stand.

    .. math:: y_t = \Bigl[\sigma(q_t) \odot \frac{\sum_{s \le t} e^{k_s + w_{ts}} \odot v_s}
              {\sum_{s \le t} e^{k_s + w_{ts}}}\Bigr] W_O

    The exponentials of positions are one matrix for all channels, those of keys a number for each
    token and channel: two products with the T x T matrix :math:`e^w` are all that mixes.
    Weights: ``4 * d_model**2 + context_len``; w has other sizes for other kinds.
    State: keys and values, ``2 * context_len * d_model``; ``simple`` keeps sums, ``3 * d_model``.
    Args:
        kind: ``conv`` has a w for each distance and so goes on beyond the context; ``full`` one
            for each pair; ``local`` one for each pair nearer than ``window`` and 0 beyond;
            ``simple`` has w = 0 and averages all there was.
        window: Of ``local``, in tokens.
    Source:
        arXiv:2105.14103, section 3.
    """

    structure = "softmax"
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"kind": KINDS, "window": (2,)}
    expected_weights = staticmethod(lambda d, n, h: 4 * d**2 + n)
    expected_multiplications = staticmethod(lambda d, T, P, h: 4 * T * d**2 + P * d + 2 * T * d)
    expected_state = staticmethod(lambda d, n, h: 2 * n * d)

    def __init__(
        self, *, d_model: int, context_len: int, kind: str = "conv", window: int = 8
    ) -> None:
        super().__init__(d_model=d_model, context_len=context_len)
        _require_kind(kind, window)
        for name in ("query", "key", "value", "out"):
            setattr(self, name, nn.Linear(d_model, d_model, bias=False))
            nn.init.normal_(getattr(self, name).weight, std=d_model**-0.5)
        self.kind, self.window = kind, min(window, context_len)
        n_rows = context_len if self.longest else 1
        n_lags = {"local": self.window, "simple": 0}.get(kind, context_len)
        self.place = nn.Parameter(torch.zeros(n_rows, n_lags))  # w: rows t, columns t - s

    @property
    def reach(self) -> int | None:
        """The context; all there was where two sums keep it."""
        return None if self.kind == "simple" else self.context_len

    @property
    def longest(self) -> int | None:
        """The context where w has a row for every position."""
        return self.context_len if self.kind in ("full", "local") else None

    def _row(self, t: int, n_seen: int) -> Tensor:
        """Return w of position t and the newest ``n_seen``, itself first."""
        row = self.place[t if self.longest else 0, :n_seen]
        return F.pad(row, (0, n_seen - len(row)))

    def definition(self, x: Tensor) -> Tensor:
        """Average one position at a time."""
        q, k, v = (one(x).unbind(1) for one in (self.query, self.key, self.value))
        outputs = []
        for t in range(x.shape[1]):
            n_seen = min(t + 1, self.reach or t + 1)
            sizes = [torch.exp(k[t - j] + w) for j, w in enumerate(self._row(t, n_seen))]
            top = sum(size * v[t - j] for j, size in enumerate(sizes))
            outputs.append(self.out(torch.sigmoid(q[t]) * (top / sum(sizes))))
        return torch.stack(outputs, 1)

    def _places(self, time: int) -> Tensor:
        """Return w, ``(time, time)``, minus infinity where nothing is seen."""
        t = torch.arange(time, device=self.place.device)
        lag = t[:, None] - t
        w = F.pad(self.place, (0, max(0, time - self.place.shape[1])))
        w = w[t[:, None] if self.longest else 0, lag.clamp(min=0)]
        return w.masked_fill((lag < 0) | (lag >= (self.reach or time)), -torch.inf)

    def mix(self, x: Tensor) -> Tensor:
        """Average at all positions, by two products where their numbers stay in range."""
        self.require_length(x.shape[1])
        k, v = self.key(x), self.value(x)
        if self.kind == "simple":
            sums = running(self.initial_state(len(x)), k, v, k.new_zeros(self.d_model))
            top, bottom, _ = (s[:, 1:] for s in sums)
            return self.out(self.query(x).sigmoid() * top / bottom)
        w, (low, high) = self._places(x.shape[1]), k.detach().aminmax(dim=1, keepdim=True)
        seen = w.detach()[w > -torch.inf]
        span = (high - low).amax() + seen.amax() - seen.amin()
        if not span < -0.7 * math.log(torch.finfo(k.dtype).tiny):
            return super().mix(x)  # a matrix for each channel, each row with its own maximum
        size, places = (k - high).exp(), (w - seen.amax()).exp()
        return self.out(self.query(x).sigmoid() * (places @ (size * v)) / (places @ size))

    def mixing_matrix(self, x: Tensor) -> Tensor:
        """Return how much each channel takes from where, ``(batch, d_model, time, time)``."""
        self.require_length(x.shape[1])
        return (self.key(x).mT[:, :, None] + self._places(x.shape[1])).softmax(-1)

    def values(self, x: Tensor) -> Tensor:
        """Return a channel's values, ``(batch, d_model, time, 1)``."""
        return self.value(x).mT[..., None]

    def finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Gate what was found and map it out."""
        return self.out(self.query(x).sigmoid() * mixed[..., 0].mT)

    def initial_state(self, batch_size: int) -> tuple[Any, ...]:
        """Return empty caches of keys and values, or empty sums."""
        if self.kind == "simple":
            return nothing_said(batch_size, self.d_model, **self._like)
        sizes = (batch_size, self.context_len, self.d_model)
        return Ring.empty(*sizes, **self._like), Ring.empty(*sizes, **self._like)

    def step(self, x_t: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """Average with the new token."""
        self.require_step(x_t, state)
        q, k, v = self.query(x_t), self.key(x_t), self.value(x_t)
        if self.kind == "simple":
            state = joined(state, said(k, v), torch.zeros_like(k))
            return self.out(q.sigmoid() * state[0] / state[1]), state
        self.require_length(1 + (t := state[0].n_seen))
        keys, values = state[0].push(k), state[1].push(v)
        w = self._row(t, keys.n_kept)[:, None]
        share = (keys.newest_first() + w).softmax(1)  # (B, S, D)
        return self.out(q.sigmoid() * (share * values.newest_first()).sum(1)), (keys, values)


def _require_kind(kind: str, window: int) -> None:
    if kind not in KINDS:
        raise AttnlabError(f"kind={kind!r} is not one of {', '.join(KINDS)}.")
    if not is_number(window, int) or window < 1:
        raise AttnlabError(f"window={shorten(window)} must be 1 or more tokens, a whole number.")
