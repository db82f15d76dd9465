"""The layers of a translator: where its sites meet the residual stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from attnlab.config import TranslatorConfig
from attnlab.mixers.attention import CrossAttention, SelfAttention
from attnlab.models.blocks import ChannelMixer


class _Layer(nn.Module):
    """What encoder and decoder layers share: how a sublayer meets the residual stream."""

    def __init__(self, config: TranslatorConfig) -> None:
        super().__init__()
        self.is_pre_norm = config.norm == "pre"
        self.dropout = nn.Dropout(config.dropout)
        self.self_attention_norm = nn.LayerNorm(config.d_model)
        self.mlp_norm = nn.LayerNorm(config.d_model)
        self.mlp = ChannelMixer(d_model=config.d_model, d_ff=config.d_ff)

    def _add(self, x: Tensor, norm: nn.Module, change: Callable[[Tensor], Tensor]) -> Tensor:
        if self.is_pre_norm:
            return x + self.dropout(change(norm(x)))
        return norm(x + self.dropout(change(x)))

    def _step(self, x_t: Tensor, norm: nn.Module, site: Any, state: Any) -> tuple[Tensor, Any]:
        changed, state = site.step(norm(x_t) if self.is_pre_norm else x_t, state)
        return (x_t + changed, state) if self.is_pre_norm else (norm(x_t + changed), state)


class EncoderLayer(_Layer):
    """Self-attention over the whole source, then a channel mixer.

    Shapes:
        x: ``(batch, source_time, d_model)``; returns the same shape.
    """

    def __init__(self, config: TranslatorConfig) -> None:
        super().__init__(config)
        self.self_attention = SelfAttention(is_causal=False, **site_sizes(config))

    def forward(self, x: Tensor, *, source_padding: Tensor | None = None) -> Tensor:
        """Mix tokens, then channels."""
        x = self._add(
            x,
            self.self_attention_norm,
            lambda normed: self.self_attention(normed, source_padding=source_padding),
        )
        return self._add(x, self.mlp_norm, self.mlp)


class DecoderLayer(_Layer):
    """Causal self-attention, cross-attention to the source, then a channel mixer.

    Shapes:
        x: ``(batch, target_time, d_model)``; returns the same shape.
        memory: ``(batch, source_time, d_model)``.
    """

    def __init__(self, config: TranslatorConfig) -> None:
        super().__init__(config)
        self.self_attention = SelfAttention(is_causal=True, **site_sizes(config))
        self.cross_attention_norm = nn.LayerNorm(config.d_model)
        self.cross_attention = CrossAttention(**site_sizes(config))

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        """Look at the target so far, at the source, then mix channels."""
        x = self._add(
            x,
            self.self_attention_norm,
            lambda normed: self.self_attention(normed, target_padding=target_padding),
        )
        x = self._add(
            x,
            self.cross_attention_norm,
            lambda normed: self.cross_attention(
                normed,
                memory,
                source_padding=source_padding,
                target_padding=target_padding,
            ),
        )
        return self._add(x, self.mlp_norm, self.mlp)

    def initial_state(self, memory: Tensor, *, source_padding: Tensor | None = None) -> Any:
        """Return the states of both sites before the first token."""
        return (
            self.self_attention.initial_state(memory.shape[0]),
            self.cross_attention.initial_state(memory, source_padding=source_padding),
        )

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Do the same for one more token ``(batch, d_model)``, without dropout."""
        of_self, of_cross = state
        x_t, of_self = self._step(x_t, self.self_attention_norm, self.self_attention, of_self)
        x_t, of_cross = self._step(x_t, self.cross_attention_norm, self.cross_attention, of_cross)
        added = self.mlp(self.mlp_norm(x_t)) if self.is_pre_norm else self.mlp(x_t)
        x_t = x_t + added if self.is_pre_norm else self.mlp_norm(x_t + added)
        return x_t, (of_self, of_cross)


def site_sizes(config: TranslatorConfig) -> dict[str, Any]:
    """Return what the attention of every site is built with."""
    return {
        "d_model": config.d_model,
        "n_heads": config.n_heads,
        "dropout": config.dropout,
        "bias": config.attention_bias,
    }
