"""One language model for every mixer: the only thing that changes is the mixer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from attnlab.config import ModelConfig, require_memory
from attnlab.errors import AttnlabError, shorten
from attnlab.mixers import find_mixer
from attnlab.models.blocks import (
    Block,
    ShortConv,
    add_positions,
    embedding,
    evaluating,
    require_device,
    require_id_tensor,
    require_ids,
    require_rows,
    shrink_maps,
    through,
)
from attnlab.models.loss import linear_cross_entropy
from attnlab.models.search import check_sampling, sample_token
from attnlab.seeding import seeded


@dataclass(frozen=True)
class StreamState:
    """What a model remembers between tokens: one state a layer, and the position.

    ``past`` has the tokens that a short convolution joins, ``(batch, short_conv - 1, d_model)``.
    """

    layers: tuple[Any, ...]
    position: int = 0
    past: Tensor | None = None


class LanguageModel(nn.Module):
    r"""Predict the next token from a prefix, with any token mixer.

    .. math:: z_t = E\,\mathrm{norm}\bigl(\mathrm{block}_N(\dots\mathrm{block}_1(E_{v_t} + p_t))
              \bigr),\quad P(v_{t+1} \mid v_{\le t}) = \mathrm{softmax}(z_t)

    Shapes:
        tokens: ``(batch, time)`` of integer ids; returns logits ``(batch, time, vocab_size)``.
    Raises:
        AttnlabError: Ids outside the vocabulary, more tokens than ``context_len``, no token.
    """

    position_embedding: Tensor | None
    short_conv: ShortConv | None

    def __init__(self, config: ModelConfig, *, generator: torch.Generator | None = None) -> None:
        """Build the model; ``generator`` makes the initial weights a function of its seed."""
        super().__init__()
        if not isinstance(config, ModelConfig):
            raise AttnlabError(
                f"A model is built from a ModelConfig; got {shorten(config)}. "
                "For example: LanguageModel(ModelConfig(mixer='she'))."
            )
        require_memory(4 * _least_weights(config), "A model of these sizes")
        self.config = config
        length, d_model = config.context_len, config.d_model
        with seeded(generator):
            self.token_embedding = embedding(config.vocab_size, d_model)
            add_positions(
                self, "position_embedding", config.position, length=length, d_model=d_model
            )
            self.short_conv = None
            if config.short_conv:
                self.short_conv = ShortConv(d_model=d_model, width=config.short_conv)
            self.dropout = nn.Dropout(config.dropout)
            self.blocks = nn.ModuleList(
                Block(config, layer=layer) for layer in range(config.n_layers)
            )
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
        x = self.dropout(self._embedded(tokens)[0])
        for block in self._layers:
            x = block(x)
        return self.norm(x)

    def _embedded(
        self, tokens: Tensor, *, first: int = 0, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return what the first layer reads from position ``first`` on, and the next past."""
        self._require(tokens)
        x = self.token_embedding(tokens)
        if self.short_conv is not None:
            past = self.short_conv.start(len(x)) if past is None else past
            x, past = self.short_conv.go_on(x, past)
        if self.position_embedding is not None:
            x = x + self.position_embedding[first : first + tokens.shape[1]]
        return x, past

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
        require_rows(batch_size)
        return StreamState(tuple(b.mixer.initial_state(batch_size) for b in self._layers))

    def step(self, token: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Read one token ``(batch,)``; return logits ``(batch, vocab_size)`` and the next state.

        Equals column ``state.position`` of ``forward``; the state passed in is used up.
        """
        if not isinstance(state, StreamState) or len(state.layers) != len(self.blocks):
            raise AttnlabError(
                f"{shorten(state)} is no state of this model of {len(self.blocks)} layers. Start "
                "with initial_state(batch_size)."
            )
        require_id_tensor(token, shape="(batch,)")
        if state.position == self.config.context_len:
            raise AttnlabError(
                f"This stream has read all {state.position} tokens of its context. Start again "
                "with initial_state() and the newest ones, or use generate, which does."
            )
        x, past = self._embedded(token[:, None], first=state.position, past=state.past)
        x, layers = through(self._layers, "step", x[:, 0], state.layers)
        return self.head(self.norm(x)), StreamState(layers, state.position + 1, past)

    def prefill(self, tokens: Tensor) -> tuple[Tensor, StreamState]:
        """Read a whole prompt at once, without dropout.

        Equals ``step`` over its tokens from ``initial_state``, at the cost of ``forward``.

        Shapes:
            tokens: ``(batch, time)``; returns the logits ``(batch, vocab_size)`` after the
            last one, and the state after it.
        """
        nothing = [None] * len(self._layers)
        x, past = self._embedded(tokens)
        x, layers = through(self._layers, "prefill", x, nothing)
        return self.head(self.norm(x[:, -1])), StreamState(layers, tokens.shape[1], past)

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
        if not isinstance(n_tokens, int) or n_tokens < 0:
            raise AttnlabError(f"n_tokens={shorten(n_tokens)} must be a whole number, 0 or more.")
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        check_sampling(**options)
        with evaluating(self):
            tokens = prompt
            logits, state = self.prefill(tokens)
            for _ in range(n_tokens):
                chosen = sample_token(logits, generator=generator, **options)
                tokens = torch.cat([tokens, chosen[:, None]], dim=1)
                if state.position == self.config.context_len:
                    newest_half = max(1, self.config.context_len // 2)
                    logits, state = self.prefill(tokens[:, -newest_half:])
                else:
                    logits, state = self.step(chosen, state)
        return tokens

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where tokens have to be."""
        return self.token_embedding.weight.device

    @property
    def _layers(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def _require(self, tokens: Tensor) -> None:
        config = self.config
        require_tokens(tokens, vocab_size=config.vocab_size, context_len=config.context_len)
        require_device(tokens, self.token_embedding.weight)

    def shrink_residual_maps(self, *, mlp: bool = True) -> None:
        """Scale maps into the residual stream by 1/sqrt(2 N), as in GPT-2; a part of the start.

        Args:
            mlp: Whether the channel mixers' maps too, or only those of the token mixers.
        """
        maps = [getattr(block.mixer, "out", None) for block in self._layers]
        maps += [block.mlp.values for block in self._layers] if mlp else []
        shrink_maps(maps, n_sublayers=2 * self.config.n_layers)


def _least_weights(config: ModelConfig) -> int:
    """Return how many weights a model has at least, before it is built."""
    sizes = config.d_model, config.context_len
    layer = (
        find_mixer(config.mixer).expected_weights(*sizes, config.n_heads)
        + 2 * sizes[0] * config.mlp_width
    )
    positions = 0 if config.position == "none" else sizes[0] * sizes[1]
    return config.vocab_size * sizes[0] + positions + config.n_layers * layer


def require_tokens(tokens: Tensor, *, vocab_size: int, context_len: int) -> None:
    """Raise unless ``tokens`` is an integer ``(batch, time)`` that the model can read."""
    require_id_tensor(tokens, shape="(batch, time)")
    if tokens.numel() == 0:
        raise AttnlabError("The prompt is empty: give at least one token to go on from.")
    if tokens.shape[1] > context_len:
        raise AttnlabError(
            f"{tokens.shape[1]} tokens do not fit context_len={context_len}. "
            f"Keep the last {context_len} with tokens[:, -{context_len}:], "
            "or build the model with a longer context."
        )
    require_ids(tokens, vocab_size=vocab_size, whose="model's")
