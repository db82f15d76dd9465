"""Multi-head causal self-attention, the mixer that all others are held against."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import require_even_heads
from attnlab.mixers.base import Ring, TokenMixer
from attnlab.mixers.registry import register_mixer


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
        q, k, v = (self._heads(linear(x)) for linear in (self.query, self.key, self.value))
        fits = x.shape[1] <= self.context_len
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if fits else self._window(x),
            is_causal=fits,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(mixed.transpose(1, 2).flatten(2))

    def attention_weights(self, x: Tensor) -> Tensor:
        """Return the soft look-up itself: ``(batch, heads, time, time)``, rows sum to one."""
        q, k = self._heads(self.query(x)), self._heads(self.key(x))
        scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, H, T, T)
        return scores.masked_fill(~self._window(x), -torch.inf).softmax(-1)

    def initial_state(self, batch_size: int) -> tuple[Ring, Ring]:
        """Return an empty cache of keys and values (a KV cache), ``context_len`` long."""
        sizes = (batch_size, self.context_len, self.d_model)
        return Ring.empty(*sizes, **self._like), Ring.empty(*sizes, **self._like)

    def step(self, x_t: Tensor, state: tuple[Ring, Ring]) -> tuple[Tensor, tuple[Ring, Ring]]:
        """Attend from one new token to the cache; cost grows with its length only."""
        keys = state[0].push(self.key(x_t))
        values = state[1].push(self.value(x_t))
        n = keys.n_kept  # softmax does not mind the order of the slots
        q = self._heads(self.query(x_t)[:, None])
        k, v = self._heads(keys.slots[:, :n]), self._heads(values.slots[:, :n])
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, H, 1, K)
        return self.out(mixed.transpose(1, 2).flatten(1)), (keys, values)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, T, K)

    def _window(self, x: Tensor) -> Tensor:
        """Which key each query may see: ``(time, time)``, true within the context."""
        t = torch.arange(x.shape[1], device=x.device)
        lag = t[:, None] - t
        return (lag >= 0) & (lag < self.context_len)
