"""Multi-head causal self-attention, the mixer that all others are held against."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import require_even_heads
from attnlab.mixers.base import Ring, TokenMixer
from attnlab.mixers.registry import register_mixer
from attnlab.shapes import require_features


@register_mixer("attention")
class Attention(TokenMixer):
    r"""Look the past up by content: a softmax over keys, an average of values.

    .. math:: y_t = \Bigl[\sum_{s \le t} \mathrm{softmax}_s\bigl(q_t k_s^\top / \sqrt{d_h}\bigr)
              v_s\Bigr] W_O,\quad q = x W_Q,\ k = x W_K,\ v = x W_V

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape.
    Weights:
        ``4 * d_model**2``; with ``bias`` another ``4 * d_model``.
    Args:
        n_heads: Heads of width ``d_model / n_heads``; 1 is the single-head baseline.
        bias: Whether the four projections add one.
        dropout: Probability that an attention weight is dropped in training.
    Source:
        arXiv:1706.03762, section 3.2; derived in notebook 02.
    """

    def __init__(
        self,
        *,
        d_model: int,
        context_len: int,
        n_heads: int = 1,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model=d_model, context_len=context_len)
        require_even_heads(d_model, n_heads)
        self.n_heads = n_heads
        self.dropout = dropout
        self.query = nn.Linear(d_model, d_model, bias=bias)
        self.key = nn.Linear(d_model, d_model, bias=bias)
        self.value = nn.Linear(d_model, d_model, bias=bias)
        self.out = nn.Linear(d_model, d_model, bias=bias)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.normal_(linear.weight, std=d_model**-0.5)

    def mix(self, x: Tensor) -> Tensor:
        """Attend from every position to itself and the past."""
        dropout = self.dropout if self.training else 0.0
        return self._attend(*self._projected(x), dropout=dropout)

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values ``(batch, heads, time, d_head)``."""
        return self._heads(self.query(x)), self._heads(self.key(x)), self._heads(self.value(x))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
        """Attend from the newest positions to keys and values, oldest first."""
        fits = q.shape[-2] == k.shape[-2] <= self.context_len
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if fits else self._window(k)[-q.shape[-2] :],
            is_causal=fits,
            dropout_p=dropout,
        )
        return self.out(mixed.transpose(1, 2).flatten(2))

    def attention_weights(self, x: Tensor) -> Tensor:
        """Return the soft look-up itself: ``(batch, heads, time, time)``, rows sum to one."""
        q, k = self._heads(self.query(x)), self._heads(self.key(x))
        scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, H, T, T)
        return scores.masked_fill(~self._window(k), -torch.inf).softmax(-1)

    def initial_state(self, batch_size: int) -> tuple[Ring, Ring]:
        """Return an empty cache of keys and values (a KV cache), ``context_len`` long."""
        sizes = (batch_size, self.context_len, self.n_heads, self.d_model // self.n_heads)
        return Ring.empty(*sizes, **self._like), Ring.empty(*sizes, **self._like)

    def step(self, x_t: Tensor, state: tuple[Ring, Ring]) -> tuple[Tensor, tuple[Ring, Ring]]:
        """Attend from one new token to the cache; cost grows with its length only."""
        q, k, v = (
            linear(x_t).unflatten(-1, (self.n_heads, -1))  # (B, H, K)
            for linear in (self.query, self.key, self.value)
        )
        keys, values = state[0].push(k), state[1].push(v)
        mixed = F.scaled_dot_product_attention(
            q.unsqueeze(2), keys.newest_first(), values.newest_first()
        )  # (B, H, 1, K); softmax does not mind the order
        return self.out(mixed.flatten(1)), (keys, values)

    def prefill(
        self, x: Tensor, state: tuple[Ring, Ring] | None = None
    ) -> tuple[Tensor, tuple[Ring, Ring]]:
        """Attend from a prefix at once, without dropout; return its outputs and the cache."""
        require_features(x, d_model=self.d_model, where=type(self).__name__)
        keys, values = self.initial_state(x.shape[0]) if state is None else state
        q, k, v = self._projected(x)
        seen_k, seen_v = (
            torch.cat([r.newest_first().flip(2), new], 2) for r, new in ((keys, k), (values, v))
        )
        return self._attend(q, seen_k, seen_v), (keys.extend(k), values.extend(v))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, T, K)

    def _window(self, keys: Tensor) -> Tensor:
        """Which key each query may see: ``(time, time)``, true within the context."""
        t = torch.arange(keys.shape[-2], device=keys.device)
        lag = t[:, None] - t
        return (lag >= 0) & (lag < self.context_len)
