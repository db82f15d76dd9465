"""One language model for every mixer: the only thing that changes is the mixer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from attnlab.config import ModelConfig
from attnlab.errors import AttnlabError
from attnlab.models.blocks import Block
from attnlab.models.cross_entropy import linear_cross_entropy
from attnlab.models.sampling import check_sampling, sample_token


@dataclass(frozen=True)
class StreamState:
    """What a model remembers between tokens: one state a layer, and the position."""

    layers: tuple[Any, ...]
    position: int = 0


class LanguageModel(nn.Module):
    r"""Predict the next token from a prefix, with any token mixer.

    .. math:: z_t = E\,\mathrm{norm}\bigl(\mathrm{block}_N(\dots\mathrm{block}_1(E_{v_t} + p_t))
              \bigr),\quad P(v_{t+1} \mid v_{\le t}) = \mathrm{softmax}(z_t)

    Shapes:
        tokens: ``(batch, time)`` of integer ids; returns logits ``(batch, time, vocab_size)``.
    Raises:
        AttnlabError: Ids outside the vocabulary, more tokens than ``context_len``, no token.
    """

    def __init__(self, config: ModelConfig, *, generator: torch.Generator | None = None) -> None:
        """Build the model; ``generator`` makes the initial weights a function of its seed."""
        super().__init__()
        self.config = config
        with _seeded(generator):
            self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
            nn.init.normal_(self.token_embedding.weight, std=config.d_model**-0.5)
            self._add_positions(config)
            self.dropout = nn.Dropout(config.dropout)
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
            self.norm = nn.LayerNorm(config.d_model)
            self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
            self.shrink_residual_maps()
        if config.tie_embeddings:
            self.head.weight = self.token_embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return next-token logits for every prefix."""
        return self.head(self.features(tokens))

    def features(self, tokens: Tensor) -> Tensor:
        """Return the vectors the head reads: ``(batch, time, d_model)``."""
        x = self._embedded(tokens)
        x = self.dropout(x)
        for block in self._layers:
            x = block(x)
        return self.norm(x)

    def _embedded(self, tokens: Tensor) -> Tensor:
        self._require(tokens)
        x = self.token_embedding(tokens)
        if self.position_embedding is None:
            return x
        return x + self.position_embedding[: tokens.shape[1]]

    def loss(self, tokens: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
        """Return the cross-entropy in nats without ever holding all logits at once.

        Shapes:
            tokens, targets: ``(batch, time)``; returns a scalar, or ``(batch, time)``
            for ``reduction="none"``.
        """
        features = self.features(tokens)
        return linear_cross_entropy(features, self.head.weight, targets, reduction=reduction)

    def initial_state(self, batch_size: int) -> StreamState:
        """Return the state before the first token."""
        return StreamState(tuple(b.mixer.initial_state(batch_size) for b in self._layers))

    def step(self, token: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Read one token ``(batch,)``; return logits ``(batch, vocab_size)`` and the next state.

        Equals column ``state.position`` of ``forward``; the state passed in is used up.
        """
        if state.position == self.config.context_len:
            raise AttnlabError(
                f"This stream has read all {state.position} tokens of its context. Start again "
                "with initial_state() and the newest ones, or use generate, which does."
            )
        self._require(token[:, None])
        x = self.token_embedding(token)
        if self.position_embedding is not None:
            x = x + self.position_embedding[state.position]
        layers = []
        for block, layer_state in zip(self._layers, state.layers, strict=True):
            x, layer_state = block.step(x, layer_state)
            layers.append(layer_state)
        return self.head(self.norm(x)), StreamState(tuple(layers), state.position + 1)

    def prefill(self, tokens: Tensor) -> tuple[Tensor, StreamState]:
        """Read a whole prompt at once, without dropout.

        Equals ``step`` over its tokens from ``initial_state``, at the cost of ``forward``.

        Shapes:
            tokens: ``(batch, time)``; returns the logits ``(batch, vocab_size)`` after the
            last one, and the state after it.
        """
        x, layers = self._embedded(tokens), []
        for block in self._layers:
            x, layer_state = block.prefill(x)
            layers.append(layer_state)
        return self.head(self.norm(x[:, -1])), StreamState(tuple(layers), tokens.shape[1])

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        *,
        n_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Go on from a prompt, one sampled token after the other.

        The model streams: the prompt is read at once, a new token costs one ``step``. When
        the context is full the newest half of it is read again, so that positions stay
        those of training.

        Shapes:
            prompt: ``(batch, time)``; returns ``(batch, time + n_tokens)``.
        Args:
            temperature: Divides the logits; 0 takes the likeliest token.
            top_k: Keep the k likeliest tokens only.
            top_p: Keep the likeliest tokens whose chances first reach this sum.
            generator: Source of chance; None uses torch's global one.
        Source:
            top_p: arXiv:1904.09751, section 3.1.
        """
        self._require(prompt)
        if n_tokens < 0:
            raise AttnlabError(f"n_tokens={n_tokens} cannot be negative.")
        check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        was_training = self.training
        self.eval()
        try:
            tokens = prompt
            logits, state = self.prefill(tokens)
            for _ in range(n_tokens):
                chosen = sample_token(
                    logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator
                )
                tokens = torch.cat([tokens, chosen[:, None]], dim=1)
                if state.position == self.config.context_len:
                    logits, state = self.prefill(tokens[:, -self._reread_len :])
                else:
                    logits, state = self.step(chosen, state)
        finally:
            self.train(was_training)
        return tokens

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where tokens have to be."""
        return self.token_embedding.weight.device

    @property
    def _layers(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    @property
    def _reread_len(self) -> int:
        return max(1, self.config.context_len // 2)

    def _require(self, tokens: Tensor) -> None:
        config = self.config
        require_tokens(tokens, vocab_size=config.vocab_size, context_len=config.context_len)

    def _add_positions(self, config: ModelConfig) -> None:
        """Add position vectors ``(context_len, d_model)``, learned or fixed, or none."""
        sizes = config.context_len, config.d_model
        if config.position == "learned":
            self.position_embedding = nn.Parameter(torch.randn(sizes) * config.d_model**-0.5)
        elif config.position == "sinusoidal":
            waves = sinusoidal_positions(*sizes)
            self.register_buffer("position_embedding", waves, persistent=False)
        else:
            self.position_embedding = None

    def shrink_residual_maps(self, *, mlp: bool = True) -> None:
        """Scale maps into the residual stream by 1/sqrt(2 N), as in GPT-2; a part of the start.

        Args:
            mlp: Whether the channel mixers' maps too, or only those of the token mixers.
        """
        shrink = (2 * self.config.n_layers) ** -0.5
        for block in self._layers:
            maps = [getattr(block.mixer, "out", None), *([block.mlp.values] if mlp else [])]
            for linear in maps:
                if isinstance(linear, nn.Linear):
                    linear.weight.data.mul_(shrink)


@contextmanager
def _seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Draw initial weights from a generator without leaving a mark on the global one."""
    if generator is None:
        yield
        return
    outer = torch.get_rng_state()
    torch.set_rng_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(torch.get_rng_state())
        torch.set_rng_state(outer)


def sinusoidal_positions(context_len: int, d_model: int) -> Tensor:
    """Return sines and cosines of t over geometric periods: arXiv:1706.03762, section 3.5."""
    rates = torch.exp(-math.log(10_000.0) * torch.arange(0, d_model, 2) / d_model)
    angles = torch.arange(context_len)[:, None] * rates  # (L, ceil(D / 2))
    waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :d_model]
    return waves * d_model**-0.5


def require_tokens(tokens: Tensor, *, vocab_size: int, context_len: int) -> None:
    """Raise unless ``tokens`` is an integer ``(batch, time)`` that the model can read.

    The range test costs one pass over the ids, nothing beside a forward pass.
    """
    if tokens.ndim != 2 or tokens.is_floating_point():
        raise AttnlabError(
            f"The model takes token ids (batch, time) of an integer type; got "
            f"{tuple(tokens.shape)} of {tokens.dtype}. Encode text with a tokenizer first."
        )
    if tokens.numel() == 0:
        raise AttnlabError("The prompt is empty: give at least one token to go on from.")
    if tokens.shape[1] > context_len:
        raise AttnlabError(
            f"{tokens.shape[1]} tokens do not fit context_len={context_len}. "
            f"Keep the last {context_len} with tokens[:, -{context_len}:], "
            "or build the model with a longer context."
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise AttnlabError(
            f"Token id {wrong} is outside the model's vocabulary of {vocab_size}. "
            "The tokenizer and the model do not belong together: load both from the same folder."
        )
