"""A classifier on the blocks of the language model: read a whole sequence, name its class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import PAD, ClassifierConfig
from attnlab.errors import AttnlabError, shorten
from attnlab.mixers import TokenMixer, require_features
from attnlab.models.blocks import Block, add_positions, embedding, require_device, shrink_maps
from attnlab.models.language_model import require_tokens
from attnlab.seeding import seeded


class Classifier(nn.Module):
    r"""Name the class of a sequence of tokens or vectors, with any token mixer.

    .. math:: u = \frac{1}{T} \sum_{t \le T} \mathrm{norm}\bigl(\mathrm{block}_N(\dots
              \mathrm{block}_1(E_{v_t} + p_t))\bigr)_t,\quad P(c) = \mathrm{softmax}(u W + b)_c

    T is the length of the sequence itself: what fills up a batch changes nothing. With
    ``pooling="last"`` u is the vector of the last position instead of the mean.

    Causal, a position hears the earlier ones, as in the language model. Two-sided, it hears the
    later ones too, with the same weights, in one of two ways:

    * ``attention`` (a class with ``mix_two_sided``) looks all positions up, without a mask;
    * any other mixer reads forwards and backwards, each row within its own length::

          y = mixer(x) + flip(mixer(flip(x)))

    Shapes:
        inputs: ids ``(batch, time)`` filled up with ``PAD`` at the end (a row of it alone reads
        as one), or vectors ``(batch, time, n_inputs)``; returns logits ``(batch, n_classes)``.
    Raises:
        AttnlabError: Ids outside the vocabulary, more positions than ``context_len``, or none.
    """

    position_embedding: Tensor | None

    def __init__(
        self, config: ClassifierConfig, *, generator: torch.Generator | None = None
    ) -> None:
        """Build it; ``generator`` makes the initial weights a function of its seed."""
        super().__init__()
        if not isinstance(config, ClassifierConfig):
            raise AttnlabError(
                f"A classifier is built from a ClassifierConfig; got {shorten(config)}. "
                "For example: Classifier(ClassifierConfig(mixer='she', n_classes=2))."
            )
        self.config = config
        length, d_model = config.context_len, config.d_model
        with seeded(generator):
            if config.n_inputs:
                self.input_map = nn.Linear(config.n_inputs, d_model)
            else:
                self.token_embedding = embedding(config.vocab_size, d_model)
            positions = {"length": length, "d_model": d_model}
            add_positions(self, "position_embedding", config.position, **positions)
            self.dropout = nn.Dropout(config.dropout)
            kind = TwoSidedBlock if config.is_two_sided else Block
            blocks = [kind(config, layer=layer) for layer in range(config.n_layers)]
            self.norm = nn.LayerNorm(d_model)
            self.head = nn.Linear(d_model, config.n_classes)
            maps = [getattr(b.mixer, "out", None) for b in blocks] + [b.mlp.values for b in blocks]
            shrink_maps(maps, n_sublayers=2 * config.n_layers)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, inputs: Tensor, *, lengths: Tensor | None = None) -> Tensor:
        """Return the logits of the classes."""
        return self.head(self.pooled(inputs, lengths=lengths))

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats of the right classes ``(batch,)``."""
        return F.cross_entropy(self(inputs), targets)

    def pooled(self, inputs: Tensor, *, lengths: Tensor | None = None) -> Tensor:
        """Return the vector that the head reads, ``(batch, d_model)``.

        Args:
            lengths: Positions of each row, ``(batch,)``; None takes all of a vector sequence,
                and the tokens before the first ``PAD``.
        """
        lengths = self._lengths(inputs) if lengths is None else lengths.clamp(min=1)
        x = self.features(inputs, lengths=lengths)
        if self.config.pooling == "last":
            return x[torch.arange(len(x), device=x.device), lengths - 1]
        is_filling = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
        return x.masked_fill(is_filling[..., None], 0.0).sum(1) / lengths[:, None]

    def features(self, inputs: Tensor, *, lengths: Tensor | None = None) -> Tensor:
        """Return the vectors that are pooled, ``(batch, time, d_model)``."""
        x, lengths = self._embedded(inputs), self._lengths(inputs) if lengths is None else lengths
        for block in self.blocks:
            x = block(x, lengths) if self.config.is_two_sided else block(x)
        return self.norm(x)

    def _lengths(self, inputs: Tensor) -> Tensor:
        if self.config.n_inputs:
            return torch.full((len(inputs),), inputs.shape[1], device=inputs.device)
        return (inputs != PAD).long().cumprod(1).sum(1).clamp(min=1)

    def _embedded(self, inputs: Tensor) -> Tensor:
        config = self.config
        if not config.n_inputs:
            limits = {"vocab_size": config.vocab_size, "context_len": config.context_len}
            require_tokens(inputs, **limits)
        else:
            require_features(inputs, d_model=config.n_inputs, where="Classifier")
            if inputs.shape[1] > config.context_len:
                n = f"{inputs.shape[1]} positions do not fit context_len={config.context_len}"
                raise AttnlabError(f"{n}. Build the model with a longer context.")
        require_device(inputs, self.head.weight)
        x = self.input_map(inputs) if config.n_inputs else self.token_embedding(inputs)
        positions = self.position_embedding
        return self.dropout(x if positions is None else x + positions[: x.shape[1]])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device


class TwoSidedBlock(Block):
    """A block whose positions hear the later ones too, each row within its own length."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Mix tokens both ways, then channels, at all positions."""
        x = self._add(x, self.mixer_norm, lambda read: mix_two_sided(self.mixer, read, lengths))
        return self._add(x, self.mlp_norm, self.mlp)


def mix_two_sided(mixer: TokenMixer, x: Tensor, lengths: Tensor) -> Tensor:
    """Return what a causal mixer makes of ``x`` read both ways; see ``Classifier``."""
    if "mix_two_sided" in vars(type(mixer)) and mixer.reach == mixer.context_len:
        is_filling = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
        own: Any = mixer  # an inherited form may be another mixer's, and no form knows a window
        return own.mix_two_sided(x, padding=is_filling)
    return mixer(x) + flip(mixer(flip(x, lengths)), lengths)


def flip(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse the first ``lengths`` positions of each row ``(batch, time, width)``."""
    t = torch.arange(x.shape[1], device=x.device)
    order = torch.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)
    return x.gather(1, order[..., None].expand_as(x))
