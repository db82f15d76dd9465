"""Mixing that does not look: a table says for each pair of positions what counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import require_even_heads
from attnlab.mixers.base import Ring, TokenMixer, mixer


class _Table(TokenMixer):
    """What both have in common: M is a table of positions, the state their values."""

    structure, adapts = "dense", False

    @property
    def longest(self) -> int:
        """The context: there is no row for a later position."""
        return self.context_len

    def table(self, first: int, last: int) -> Tensor:
        """Return the rows of M of the positions in between, ``(parts, rows, last)``."""
        raise NotImplementedError

    def mixing_matrix(self, x: Tensor) -> Tensor:
        """Return the table up to the length of the text, ``(1, parts, time, time)``."""
        self.require_length(x.shape[1])
        return self.table(0, x.shape[1])[None]

    def initial_state(self, batch_size: int) -> Ring:
        """Return no values yet, ``(batch, context_len, d_model)`` in the end."""
        return Ring.empty(batch_size, self.context_len, self.d_model, **self._like)

    def step(self, x_t: Tensor, state: Ring) -> tuple[Tensor, Ring]:
        """Weigh the values so far with the next row of the table."""
        self.require_step(x_t, state)
        t = state.n_seen
        self.require_length(t + 1)
        new = self.values(x_t[:, None])  # (B, parts, 1, width)
        state = state.push(new.flatten(1))
        kept = state.newest_first().flip(1).unflatten(2, (new.shape[1], -1)).transpose(1, 2)
        return self._finish_at(self.table(t, t + 1) @ kept, x_t[:, None], t)[:, 0], state

    def _finish_at(self, mixed: Tensor, x: Tensor, first: int) -> Tensor:
        return self.finish(mixed, x)


@mixer("synthesizer", look={"family": "convolution", "label": "Synthesizer", "marker": "$Z$"})
class Synthesizer(_Table):
    r"""Attention that looks at nothing: a learnt table of scores for every head.

    .. math:: y_t = \Bigl[\sum_{s \le t} \mathrm{softmax}_s(R_{ts}) v_s\Bigr] W_O,
              \quad v = x W_V

    The published "random" form: what queries and keys would say is replaced by free numbers, the
    same for all texts. They start at zero, and the mixer as a mean of the past.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape.
    Weights:
        ``2 * d_model**2 + n_heads * context_len**2``.
    State:
        Values of the context, ``context_len * d_model``.
    Args:
        n_heads: Heads of width ``d_model / n_heads``, each with a table.
    Source:
        arXiv:2005.00743, section 3.
    """

    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"n_heads": (3,)}
    expected_weights = staticmethod(lambda d, n, h: 2 * d**2 + h * n**2)
    expected_multiplications = staticmethod(lambda d, T, P, h: 2 * T * d**2 + P * d)
    expected_state = staticmethod(lambda d, n, h: n * d)

    def __init__(self, *, d_model: int, context_len: int, n_heads: int = 1) -> None:
        super().__init__(d_model=d_model, context_len=context_len)
        require_even_heads(d_model, n_heads)
        self.n_heads = n_heads
        self.scores = nn.Parameter(torch.zeros(n_heads, context_len, context_len))
        for name in ("value", "out"):
            setattr(self, name, nn.Linear(d_model, d_model, bias=False))
            nn.init.normal_(getattr(self, name).weight, std=d_model**-0.5)

    def definition(self, x: Tensor) -> Tensor:
        """Average one position and one head at a time."""
        values = self.value(x).split(self.d_model // self.n_heads, dim=-1)
        outputs = []
        for t in range(x.shape[1]):
            heads = []
            for table, v in zip(self.scores, values, strict=True):
                share = table[t, : t + 1].softmax(0)
                heads.append(sum(share[s] * v[:, s] for s in range(t + 1)))
            outputs.append(self.out(torch.cat(heads, -1)))
        return torch.stack(outputs, 1)

    def table(self, first: int, last: int) -> Tensor:
        """Return the softmax of the scores over the past, ``(heads, rows, last)``."""
        scores, t = self.scores[:, first:last, :last], torch.arange(last, device=self._device)
        return scores.masked_fill(t > t[first:, None], -torch.inf).softmax(-1)

    @property
    def _device(self) -> torch.device:
        return self.scores.device

    def values(self, x: Tensor) -> Tensor:
        """Return the values of each head, ``(batch, heads, time, d_head)``."""
        return self.value(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Put the heads side by side and map them out."""
        return self.out(mixed.transpose(1, 2).flatten(2))


@mixer("gmlp", look={"family": "convolution", "label": "gMLP", "marker": "$G$"})
class GMLP(_Table):
    r"""A gate for each channel that a learnt table makes of all positions so far.

    .. math:: y_t = \Bigl[z_t \odot \Bigl(\sum_{s \le t} W_{ts}\, \mathrm{norm}(g_s)
              + b_t\Bigr)\Bigr] W_O, \quad (z, g) = \mathrm{gelu}(x W_U)

    At the start W is almost nothing and b is one: the mixer begins as a map of each position.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape. z and g are ``d_model`` wide.
    Weights:
        ``3 * d_model**2 + context_len**2``, and ``2 * d_model + context_len`` of norm and bias.
    State:
        Normalised gates of the context, ``context_len * d_model``.
    Source:
        arXiv:2105.08050, section 2.1; two-sided there, causal here by a triangle of W.
    """

    expected_weights = staticmethod(lambda d, n, h: 3 * d**2 + n**2 + 2 * d + n)
    expected_multiplications = staticmethod(lambda d, T, P, h: 3 * T * d**2 + P * d + T * d)
    expected_state = staticmethod(lambda d, n, h: n * d)

    def __init__(self, *, d_model: int, context_len: int) -> None:
        super().__init__(d_model=d_model, context_len=context_len)
        self.up = nn.Linear(d_model, 2 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        for one in (self.up, self.out):
            nn.init.normal_(one.weight, std=d_model**-0.5)
        self.norm = nn.LayerNorm(d_model)
        self.place = nn.Parameter(1e-3 * torch.randn(context_len, context_len))
        self.bias = nn.Parameter(torch.ones(context_len))

    def definition(self, x: Tensor) -> Tensor:
        """Make the gate of one position at a time."""
        outputs = []
        z, g = F.gelu(self.up(x)).chunk(2, -1)
        g = F.layer_norm(g, (self.d_model,), self.norm.weight, self.norm.bias).unbind(1)
        for t in range(x.shape[1]):
            gate = sum(self.place[t, s] * g[s] for s in range(t + 1)) + self.bias[t]
            outputs.append(self.out(z[:, t] * gate))
        return torch.stack(outputs, 1)

    def table(self, first: int, last: int) -> Tensor:
        """Return the triangle of W, ``(1, rows, last)``."""
        return self.place[None, first:last, :last].tril(first)

    def mix(self, x: Tensor) -> Tensor:
        """Gate all positions at once."""
        self.require_length(x.shape[1])
        z, g = F.gelu(self.up(x)).chunk(2, -1)
        gate = self.table(0, x.shape[1])[0] @ self.norm(g) + self.bias[: x.shape[1], None]
        return self.out(z * gate)

    def values(self, x: Tensor) -> Tensor:
        """Return what gates are made of, ``(batch, 1, time, d_model)``."""
        return self.norm(F.gelu(self.up(x)).chunk(2, -1)[1])[:, None]

    def finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Gate the other half and map it out."""
        return self._finish_at(mixed, x, 0)

    def _finish_at(self, mixed: Tensor, x: Tensor, first: int) -> Tensor:
        bias = self.bias[first : first + x.shape[1], None]
        return self.out(F.gelu(self.up(x)).chunk(2, -1)[0] * (mixed[:, 0] + bias))
