"""The three places where a translator looks things up, each a module that can be swapped.

Every site maps ``(batch, time, d_model)`` to the same shape and keeps its last projection apart:
``site(x) == site.out(site.heads(x))``. What replaces the look-up overrides ``heads`` and keeps
``out``; what replaces the whole site is any module that is called in the same way::

    y = encoder[i].self_attention(x, source_padding=...)
    y = decoder[i].self_attention(x, target_padding=...)              # causal
    y = decoder[i].cross_attention(x, memory, source_padding=..., target_padding=...)

The padding of a side is ``(batch, time)``, true at ``PAD``, or None where there is none. The
decoder's sites also go token by token: ``state = site.initial_state(...)``, then
``y_t, state = site.step(x_t, state)``. A state is a tensor or a tuple of states, with the batch on
the first axis of every tensor, so that ``select_rows`` can reorder it for beam search.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import require_even_heads


class KeyValues(NamedTuple):
    """What a site has read: keys and values ``(batch, heads, time, d_head)``, and its padding."""

    keys: Tensor
    values: Tensor
    padding: Tensor | None = None


class AttentionSite(nn.Module):
    r"""Multi-head attention whose queries, keys and values may come from two places.

    .. math:: h_t = \sum_s \mathrm{softmax}_s\bigl(q_t k_s^\top / \sqrt{d_h}\bigr) v_s,
              \quad y_t = [h_t^1 \dots h_t^H]\, W_O

    Weights:
        ``4 * d_model**2``; with ``bias`` another ``4 * d_model``.
    Args:
        n_heads: Heads of width ``d_model / n_heads``.
        dropout: Probability that an attention weight is dropped in training.
        bias: Whether the four projections add one.
    Source:
        arXiv:1706.03762, section 3.2.
    """

    def __init__(
        self, *, d_model: int, n_heads: int, dropout: float = 0.0, bias: bool = False
    ) -> None:
        super().__init__()
        require_even_heads(d_model, n_heads)
        self.d_model, self.n_heads, self.dropout = d_model, n_heads, dropout
        self.query = nn.Linear(d_model, d_model, bias=bias)
        self.key = nn.Linear(d_model, d_model, bias=bias)
        self.value = nn.Linear(d_model, d_model, bias=bias)
        self.out = nn.Linear(d_model, d_model, bias=bias)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.normal_(linear.weight, std=d_model**-0.5)

    def read(self, memory: Tensor, *, padding: Tensor | None = None) -> KeyValues:
        """Return keys and values of ``memory`` ``(batch, time, d_model)``."""
        return KeyValues(self._split(self.key(memory)), self._split(self.value(memory)), padding)

    def look_up(self, x: Tensor, what: KeyValues, *, is_causal: bool = False) -> Tensor:
        """Return the head outputs side by side, ``(batch, time, d_model)``, before ``out``.

        A row whose ``what`` is padding alone finds nothing: zeros.
        """
        mask, is_empty = None, None
        if what.padding is not None:
            is_empty = what.padding.all(1)
            mask = (~what.padding | is_empty[:, None])[:, None, None]  # (B, 1, 1, S)
        mixed = F.scaled_dot_product_attention(
            self._split(self.query(x)),
            what.keys,
            what.values,
            attn_mask=mask,
            is_causal=is_causal,
            dropout_p=self.dropout if self.training else 0.0,
        )
        if is_empty is not None:
            mixed = mixed.masked_fill(is_empty[:, None, None, None], 0.0)
        return mixed.transpose(1, 2).flatten(2)

    def weights(self, x: Tensor, what: KeyValues, *, is_causal: bool = False) -> Tensor:
        """Return the soft look-up itself, ``(batch, heads, time, memory_time)``."""
        q = self._split(self.query(x))
        scores = q @ what.keys.mT / math.sqrt(q.shape[-1])  # (B, H, T, S)
        if what.padding is not None:
            scores = scores.masked_fill(what.padding[:, None, None], -torch.inf)
        if is_causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        return scores.softmax(-1).nan_to_num(0.0)  # a row without anything to look at

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, T, K)


class SelfAttention(AttentionSite):
    """A sentence looks itself up: all of it in the encoder, its past in the decoder.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape.
    Args:
        is_causal: Whether position t sees the positions up to t only. Padding stands at the
            end, so a causal site needs no mask: no real position sees it.
    """

    def __init__(self, *, is_causal: bool, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.is_causal = is_causal

    def forward(self, x: Tensor, **padding: Tensor | None) -> Tensor:
        """Return what the look-up adds to the residual stream."""
        return self.out(self.heads(x, **padding))

    def heads(
        self,
        x: Tensor,
        *,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        """Return the head outputs side by side, before ``out``."""
        return self.look_up(x, self._read(x, source_padding), is_causal=self.is_causal)

    def attention_weights(self, x: Tensor, *, source_padding: Tensor | None = None) -> Tensor:
        """Return ``(batch, heads, time, time)``; rows sum to one."""
        return self.weights(x, self._read(x, source_padding), is_causal=self.is_causal)

    def initial_state(self, batch_size: int) -> KeyValues:
        """Return keys and values of nothing yet."""
        nothing = self.query.weight.new_zeros(batch_size, 0, self.d_model)
        return KeyValues(self._split(nothing), self._split(nothing))

    def step(self, x_t: Tensor, state: KeyValues) -> tuple[Tensor, KeyValues]:
        """Mix one more token ``(batch, d_model)``; equals the last column of ``forward``."""
        heads, state = self.step_heads(x_t, state)
        return self.out(heads), state

    def step_heads(self, x_t: Tensor, state: KeyValues) -> tuple[Tensor, KeyValues]:
        """Return the head outputs of one more token and what has been read with it."""
        newest = self.read(x_t[:, None])
        keys = torch.cat([state.keys, newest.keys], dim=2)
        values = torch.cat([state.values, newest.values], dim=2)
        state = KeyValues(keys, values)
        return self.look_up(x_t[:, None], state)[:, 0], state

    def _read(self, x: Tensor, padding: Tensor | None) -> KeyValues:
        return self.read(x, padding=None if self.is_causal else padding)


class CrossAttention(AttentionSite):
    """The target looks the source up.

    Shapes:
        x: ``(batch, target_time, d_model)``; returns the same shape.
        memory: ``(batch, source_time, d_model)``, what the encoder made of the source.
    """

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        """Return what the look-up adds to the residual stream.

        No query sees another, so the target's padding is for those who replace this site.
        """
        return self.out(self.heads(x, memory, source_padding=source_padding))

    def heads(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        """Return the head outputs side by side, before ``out``."""
        return self.look_up(x, self.read(memory, padding=source_padding))

    def attention_weights(
        self, x: Tensor, memory: Tensor, *, source_padding: Tensor | None = None
    ) -> Tensor:
        """Return ``(batch, heads, target_time, source_time)``; rows sum to one."""
        return self.weights(x, self.read(memory, padding=source_padding))

    def initial_state(self, memory: Tensor, *, source_padding: Tensor | None = None) -> KeyValues:
        """Return keys and values of the source, computed once a sentence."""
        return self.read(memory, padding=source_padding)

    def step(self, x_t: Tensor, state: KeyValues) -> tuple[Tensor, KeyValues]:
        """Look up for one more token ``(batch, d_model)``."""
        heads, state = self.step_heads(x_t, state)
        return self.out(heads), state

    def step_heads(self, x_t: Tensor, state: KeyValues) -> tuple[Tensor, KeyValues]:
        """Return the head outputs of one more token; the state stays as it is."""
        return self.look_up(x_t[:, None], state)[:, 0], state


def select_rows(state: Any, rows: Tensor) -> Any:
    """Return a state with these rows of the batch, in this order, each as often as it is named.

    Args:
        state: A tensor with the batch first, or a tuple of states; all else stays as it is.
        rows: Indices ``(n,)``.
    """
    if isinstance(state, Tensor):
        return state.index_select(0, rows)
    if not isinstance(state, tuple):
        return state
    parts = [select_rows(part, rows) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
