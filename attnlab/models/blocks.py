"""The block that every model here is a stack of: mix tokens, then channels."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import ModelConfig
from attnlab.mixers import build_mixer


class ChannelMixer(nn.Module):
    r"""Look each position up in a learned table of keys and values.

    .. math:: y_t = \mathrm{GELU}(x_t K + b)\, V + c

    Column i of K is a key, row i of V the value it adds when the key fires.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape. K is ``keys``, V is ``values``.
    Source:
        arXiv:1706.03762, section 3.3; as a memory, arXiv:2012.14913.
    """

    def __init__(self, *, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.keys = nn.Linear(d_model, d_ff)
        self.values = nn.Linear(d_ff, d_model)
        nn.init.normal_(self.keys.weight, std=d_model**-0.5)
        nn.init.normal_(self.values.weight, std=d_ff**-0.5)
        nn.init.zeros_(self.keys.bias)
        nn.init.zeros_(self.values.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the firing keys add."""
        return self.values(self.activations(x))

    def activations(self, x: Tensor) -> Tensor:
        """Return how strongly each key fires: ``(..., d_ff)``."""
        return F.gelu(self.keys(x))


class Block(nn.Module):
    """One layer: a token mixer and a channel mixer, each with norm and residual.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d_model, d_ff = config.d_model, config.mlp_width
        self.is_pre_norm = config.norm == "pre"
        self.mixer_norm = nn.LayerNorm(d_model)
        self.mixer = build_mixer(
            config.mixer,
            d_model=d_model,
            context_len=config.context_len,
            **resolve_options(config),
        )
        self.mlp_norm = nn.LayerNorm(d_model)
        self.mlp = ChannelMixer(d_model=d_model, d_ff=d_ff)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, then channels, at all positions."""
        if self.is_pre_norm:
            x = x + self.dropout(self.mixer(self.mixer_norm(x)))
            return x + self.dropout(self.mlp(self.mlp_norm(x)))
        x = self.mixer_norm(x + self.dropout(self.mixer(x)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Do the same for one more token ``(batch, d_model)``, without dropout."""
        if self.is_pre_norm:
            mixed, state = self.mixer.step(self.mixer_norm(x_t), state)
            x_t = x_t + mixed
            return x_t + self.mlp(self.mlp_norm(x_t)), state
        mixed, state = self.mixer.step(x_t, state)
        x_t = self.mixer_norm(x_t + mixed)
        return self.mlp_norm(x_t + self.mlp(x_t)), state

    def prefill(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Do the same for a prefix ``(batch, time, d_model)``; return the state after it too."""
        if self.is_pre_norm:
            mixed, state = self.mixer.prefill(self.mixer_norm(x), state)
            x = x + mixed
            return x + self.mlp(self.mlp_norm(x)), state
        mixed, state = self.mixer.prefill(x, state)
        x = self.mixer_norm(x + mixed)
        return self.mlp_norm(x + self.mlp(x)), state


def resolve_options(config: ModelConfig) -> dict[str, Any]:
    """Return the mixer's options, with the number of heads filled in for attention."""
    heads = {"n_heads": config.n_heads} if config.mixer == "attention" else {}
    return {**heads, **config.mixer_options}
