"""Running averages that fade: RWKV-4, and the scan that makes all of them at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnlab.mixers.base import TokenMixer, mixer

Average = tuple[Tensor, Tensor, Tensor]  # numerator and denominator, both over e**level


def joined(old: Average, new: Average, fade: Tensor) -> Average:
    """Return the sums of both, the old ones ``e**-fade`` smaller; no exponential exceeds one.

    The level is a constant that only keeps numbers in range: no gradient passes through it.
    """
    old_level = old[2] - fade
    level = torch.maximum(old_level, new[2]).detach()
    a, b = (old_level - level).exp(), (new[2] - level).exp()
    return old[0] * a + new[0] * b, old[1] * a + new[1] * b, level


def said(k: Tensor, v: Tensor) -> Average:
    """Return what one token adds, ``e**k v`` and ``e**k``, over the level of its key."""
    level = k.detach()
    size = (k - level).exp()
    return size * v, size, level


def running(state: Average, k: Tensor, v: Tensor, fade: Tensor) -> Average:
    r"""Return :math:`S_t = e^{-w} S_{t-1} + e^{k_t} (v_t, 1)` for all t, by doubling.

    After the pass with distance n every position has summed the newest 2 n tokens, so that
    ``log2(time)`` passes do, none of them a loop over time.

    Shapes:
        state: Three ``(batch, d)``, the sums so far; k, v: ``(batch, time, d)``; fade: ``(d,)``.
        Returns three ``(batch, time + 1, d)``, the state first.
    """
    sums = tuple(
        torch.cat([old[:, None], new], 1) for old, new in zip(state, said(k, v), strict=True)
    )
    n = 1
    while n <= k.shape[1]:
        both = joined(tuple(s[:, :-n] for s in sums), tuple(s[:, n:] for s in sums), n * fade)
        sums = tuple(torch.cat([s[:, :n], new], 1) for s, new in zip(sums, both, strict=True))
        n *= 2
    return sums


def nothing_said(batch_size: int, d_model: int, **like: object) -> Average:
    """Return the sums before the first token, each ``(batch, d)``."""
    zeros = torch.zeros(batch_size, d_model, **like)
    return zeros, zeros.clone(), torch.full_like(zeros, -torch.inf)


@mixer("rwkv4", look={"family": "recurrence", "label": "RWKV-4", "marker": "$4$"})
class RWKV4(TokenMixer):
    r"""An average that fades at a rate of its own in every channel, weighted by what tokens say.

    .. math:: y_t = \Bigl[\sigma(r_t) \odot \frac{\sum_{s<t} e^{k_s - (t-1-s) w} \odot v_s
              + e^{u + k_t} \odot v_t}{\sum_{s<t} e^{k_s - (t-1-s) w} + e^{u + k_t}}\Bigr] W_O

    with r, k and v from a mixture of the token and the one before it,
    :math:`r_t = (\mu_r \odot x_t + (1 - \mu_r) \odot x_{t-1}) W_R`. M is a matrix for each
    channel: a softmax without a query, whose sums are semiseparable.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape.
    Weights:
        ``4 * d_model**2 + 5 * d_model``: four maps, three mixtures, w = exp(``decay``), u.
    State:
        ``4 * d_model`` numbers: the last token, two sums and the level that keeps them in range.
    Source:
        arXiv:2305.13048, section 3.
    """

    structure = "semiseparable"
    expected_weights = staticmethod(lambda d, n, h: 4 * d**2 + 5 * d)
    expected_multiplications = staticmethod(lambda d, T, P, h: 4 * T * d**2 + 12 * T * d)
    expected_state = staticmethod(lambda d, n, h: 4 * d)

    def __init__(self, *, d_model: int, context_len: int) -> None:
        super().__init__(d_model=d_model, context_len=context_len)
        for name in ("receive", "key", "value", "out"):
            setattr(self, name, nn.Linear(d_model, d_model, bias=False))
            nn.init.normal_(getattr(self, name).weight, std=d_model**-0.5)
        share = torch.arange(d_model) / max(d_model - 1, 1)
        self.newest = nn.Parameter(share.repeat(3, 1))  # mu of r, k and v
        self.decay = nn.Parameter(8 * share**0.7 - 5)  # slow channels to fast ones
        self.bonus = nn.Parameter(0.5 * (torch.arange(1, d_model + 1) % 3 - 1) - 1.2)

    @property
    def reach(self) -> None:
        """All there was, ever fainter."""

    def definition(self, x: Tensor) -> Tensor:
        """Follow the two sums token by token, as they are."""
        before, top, bottom = (torch.zeros_like(x[:, 0]) for _ in range(3))
        kept, outputs = torch.exp(-torch.exp(self.decay)), []
        for x_t in x.unbind(1):
            mixed = [mu * x_t + (1 - mu) * before for mu in self.newest]
            maps = (self.receive, self.key, self.value)
            r, k, v = (one(u) for one, u in zip(maps, mixed, strict=True))
            here = torch.exp(self.bonus + k)
            mean = (top + here * v) / (bottom + here)
            outputs.append(self.out(torch.sigmoid(r) * mean))
            top, bottom = kept * top + torch.exp(k) * v, kept * bottom + torch.exp(k)
            before = x_t
        return torch.stack(outputs, 1)

    def _projected(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return r, k and v of tokens and those before them, ``(..., d)`` each."""
        maps = (self.receive, self.key, self.value)
        mixed = (torch.lerp(before, x, mu) for mu in self.newest)
        r, k, v = (one(u) for one, u in zip(maps, mixed, strict=True))
        return r, k, v

    def _shifted(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)

    def mix(self, x: Tensor) -> Tensor:
        """Average at all positions at once, by a scan."""
        return self._read(x, self.initial_state(x.shape[0]))[0]

    def mixing_matrix(self, x: Tensor) -> Tensor:
        """Return how much each channel takes from where, ``(batch, d_model, time, time)``."""
        _, k, _ = self._projected(x, self._shifted(x))
        t = torch.arange(x.shape[1], device=x.device)
        lag = t[:, None] - t
        fade = -(lag - 1) * self.decay.exp()[:, None, None]
        bonus = self.bonus[:, None, None]
        logits = torch.where(lag == 0, bonus, fade) + k.mT[:, :, None]  # (B, D, T, T)
        return logits.masked_fill(lag < 0, -torch.inf).softmax(-1)

    def values(self, x: Tensor) -> Tensor:
        """Return a channel's values, ``(batch, d_model, time, 1)``."""
        return self._projected(x, self._shifted(x))[2].mT[..., None]

    def finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Gate what was found and map it out."""
        r, _, _ = self._projected(x, self._shifted(x))
        return self.out(r.sigmoid() * mixed[..., 0].mT)

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """Return no token and empty sums."""
        sums = nothing_said(batch_size, self.d_model, **self._like)
        return torch.zeros(batch_size, self.d_model, **self._like), *sums

    def step(self, x_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Average with the new token, then let it fade from the next one on."""
        self.require_step(x_t, state)
        before, *sums = state
        r, k, v = self._projected(x_t, before)
        top, bottom, _ = joined(tuple(sums), said(k + self.bonus, v), torch.zeros_like(k))
        y_t = self.out(r.sigmoid() * top / bottom)
        return y_t, (x_t, *joined(tuple(sums), said(k, v), self.decay.exp()))

    def prefill(
        self, x: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Average over a prefix at once; return its outputs and the sums after it."""
        self.require_input(x)
        if state is None:
            return self._read(x, self.initial_state(x.shape[0]))
        self.require_step(x[:, 0], state)
        return self._read(x, state)

    def _read(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        before, *sums = state
        r, k, v = self._projected(x, torch.cat([before[:, None], x[:, :-1]], 1))
        after = running(tuple(sums), k, v, self.decay.exp())
        older = tuple(s[:, :-1] for s in after)
        top, bottom, _ = joined(older, said(k + self.bonus, v), torch.zeros_like(k))
        return self.out(r.sigmoid() * top / bottom), (x[:, -1], *(s[:, -1] for s in after))
