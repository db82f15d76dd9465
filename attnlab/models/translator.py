"""An encoder-decoder Transformer in which every look-up is a module that can be swapped."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from attnlab.config import EOS, PAD, TranslatorConfig, is_number, require_memory
from attnlab.errors import AttnlabError, shorten
from attnlab.mixers import require_features
from attnlab.models.blocks import (
    DecoderLayer,
    EncoderLayer,
    add_positions,
    embedding,
    evaluating,
    require_device,
    require_id_tensor,
    require_ids,
    shrink_maps,
    through,
)
from attnlab.models.loss import linear_cross_entropy
from attnlab.models.search import beam_search, check_search, greedy_search
from attnlab.seeding import seeded


class DecoderState(NamedTuple):
    """What the decoder remembers between tokens: two states a layer, and the position."""

    layers: tuple[Any, ...]
    position: int = 0


class Translator(nn.Module):
    r"""Read a sentence, then write another one, each token given those before it.

    .. math:: P(y \mid x) = \prod_t P(y_t \mid y_{<t}, x),\quad
              P(\cdot) = \mathrm{softmax}\bigl(W\, \mathrm{dec}(y_{<t}, \mathrm{enc}(x))\bigr)

    A source row is the words of a sentence; a target row is ``BOS``, the words, ``EOS``. Both are
    filled up with ``PAD`` at the end (``attnlab.config`` has the ids). ``encoder[i]`` and
    ``decoder[i]`` are layers whose ``self_attention`` and ``cross_attention`` can be swapped, see
    ``attnlab.mixers.attention.AttentionSite``.

    Shapes:
        source_tokens: ``(batch, source_time)``; target_tokens: ``(batch, target_time)``; returns
        logits ``(batch, target_time, target_vocab_size)``, at t for the token after t.
    Raises:
        AttnlabError: Ids outside a vocabulary, or more tokens than ``max_len``.
    Source:
        arXiv:1706.03762, section 3, with GELU in place of ReLU and the norms before the sublayers.
    """

    source_position: Tensor | None
    target_position: Tensor | None

    def __init__(
        self, config: TranslatorConfig, *, generator: torch.Generator | None = None
    ) -> None:
        """Build the model; ``generator`` makes the initial weights a function of its seed."""
        super().__init__()
        if not isinstance(config, TranslatorConfig):
            raise AttnlabError(f"A translator is built from a TranslatorConfig, not {config!r}.")
        require_memory(4 * _least_weights(config), "A translator of these sizes")
        self.config = config
        with seeded(generator):
            self.source_embedding = embedding(config.source_vocab_size, config.d_model)
            self.target_embedding = embedding(config.target_vocab_size, config.d_model)
            sizes = {"length": config.max_len, "d_model": config.d_model}
            for side in ("source", "target"):
                add_positions(self, f"{side}_position", config.position, **sizes)
            self.dropout = nn.Dropout(config.dropout)
            self.encoder = nn.ModuleList(
                EncoderLayer(config) for _ in range(config.n_encoder_layers)
            )
            self.encoder_norm = nn.LayerNorm(config.d_model)
            self.decoder = nn.ModuleList(
                DecoderLayer(config) for _ in range(config.n_decoder_layers)
            )
            self.decoder_norm = nn.LayerNorm(config.d_model)
            self.head = nn.Linear(config.d_model, config.target_vocab_size, bias=False)
            nn.init.normal_(self.head.weight, std=config.d_model**-0.5)
            self._shrink_residual_maps()
        if config.tie_embeddings:
            self.head.weight = self.target_embedding.weight
        if config.share_embeddings:
            self.source_embedding = self.target_embedding

    def forward(self, source_tokens: Tensor, target_tokens: Tensor) -> Tensor:
        """Return next-token logits for every prefix of the target (teacher forcing)."""
        return self.head(self.features(source_tokens, target_tokens))

    def features(self, source_tokens: Tensor, target_tokens: Tensor) -> Tensor:
        """Return the vectors the head reads: ``(batch, target_time, d_model)``."""
        memory = self.encode(source_tokens)
        return self.decode(target_tokens, memory, source_padding=padding_of(source_tokens))

    def encode(self, source_tokens: Tensor) -> Tensor:
        """Return what the decoder looks up: ``(batch, source_time, d_model)``."""
        self._require(source_tokens, "source")
        source_padding = padding_of(source_tokens)
        x = self._embed(source_tokens, self.source_embedding, self.source_position)
        for layer in self.encoder:
            x = layer(x, source_padding=source_padding)
        return self.encoder_norm(x)

    def decode(
        self, target_tokens: Tensor, memory: Tensor, *, source_padding: Tensor | None = None
    ) -> Tensor:
        """Return the vectors the head reads, given ``encode``'s result and its padding."""
        self._require(target_tokens, "target")
        self._require_memory(memory, source_padding, n_rows=len(target_tokens))
        target_padding = padding_of(target_tokens)
        x = self._embed(target_tokens, self.target_embedding, self.target_position)
        for layer in self.decoder:
            x = layer(x, memory, source_padding=source_padding, target_padding=target_padding)
        return self.decoder_norm(x)

    def loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats over the real tokens after ``BOS``.

        Shapes:
            source: ``(batch, source_time)``; target: ``(batch, target_time)`` with ``BOS`` and
            ``EOS``, one longer than what the decoder reads. Returns a scalar.
        """
        features, labels = self.predictions(source, target)
        return linear_cross_entropy(features, self.head.weight, labels)

    def smoothed_and_plain_loss(
        self, source: Tensor, target: Tensor, *, label_smoothing: float
    ) -> tuple[Tensor, Tensor]:
        r"""Return the label-smoothed loss, to be minimised, and the plain one, to be reported.

        .. math:: L = (1 - \epsilon) \bigl(-\log P(y)\bigr)
                  + \frac{\epsilon}{V} \sum_v \bigl(-\log P(v)\bigr)

        With logits :math:`z_v = E_v f` this is the plain loss plus
        :math:`\epsilon\, (E_y - \bar E) f`, so smoothing costs no ``(tokens, vocabulary)`` tensor.

        Shapes:
            As in ``loss``. Returns two scalars; the second carries no gradient.
        """
        if not is_number(label_smoothing, float) or not 0 <= label_smoothing < 1:
            raise AttnlabError(f"label_smoothing={shorten(label_smoothing)} is no share below 1.")
        features, labels = self.predictions(source, target)
        weight = self.head.weight
        plain = linear_cross_entropy(features, weight, labels)
        lead = (features * (weight[labels] - weight.mean(0))).sum(-1).mean()
        return plain + label_smoothing * lead, plain.detach()

    def predictions(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return features ``(n, d_model)`` and labels ``(n,)`` of the real tokens after ``BOS``."""
        require_id_tensor(target, shape="(batch, time)", kind="Target")
        inputs, labels = target[:, :-1], target[:, 1:]
        is_real = labels != PAD
        if not bool(is_real.any()):
            raise AttnlabError(
                "There is nothing to predict: no target row has a token after its first. "
                "A target row is BOS, the words, EOS; see attnlab.training.collate_pairs."
            )
        inputs = inputs.masked_fill(~is_real, PAD)  # a short row's EOS is no input
        return self.features(source, inputs)[is_real], labels[is_real]

    @staticmethod
    def n_predictions(target: Tensor) -> int:
        """Return how many tokens of a target batch are predicted: all but ``BOS`` and padding."""
        return int((target[:, 1:] != PAD).sum())

    def initial_state(
        self, memory: Tensor, *, source_padding: Tensor | None = None
    ) -> DecoderState:
        """Return the decoder's state before ``BOS``; keys and values of the source are computed."""
        self._require_memory(memory, source_padding)
        layers = cast(Any, self.decoder)
        states = (layer.initial_state(memory, source_padding=source_padding) for layer in layers)
        return DecoderState(tuple(states))

    def step(self, token: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read one target token ``(batch,)``; return logits ``(batch, vocab)`` and the next state.

        Equals column ``state.position`` of ``forward``, without dropout.
        """
        if not isinstance(state, DecoderState) or len(state.layers) != len(self.decoder):
            raise AttnlabError(
                f"{shorten(state)} is no state of this decoder of {len(self.decoder)} layers. "
                "Start with initial_state(memory)."
            )
        require_id_tensor(token, shape="(batch,)")
        require_ids(token, vocab_size=self.config.target_vocab_size, whose="target")
        if state.position == self.config.max_len:
            raise AttnlabError(
                f"This decoder has read all {state.position} positions that it has. Start again "
                "with initial_state(), or build the model with a larger max_len."
            )
        x = self.target_embedding(token)
        if self.target_position is not None:
            x = x + self.target_position[state.position]
        x, layers = through(self.decoder, "step", x, state.layers)
        return self.head(self.decoder_norm(x)), DecoderState(layers, state.position + 1)

    @torch.no_grad()
    def translate(
        self,
        source_tokens: Tensor,
        *,
        beam_size: int = 1,
        max_len: int | None = None,
        length_penalty: float = 0.6,
    ) -> Tensor:
        """Write the translation of each row; ``PAD`` and ``BOS`` are never written.

        An empty source, a row of padding, has an empty translation: ``EOS``.

        Shapes:
            source_tokens: ``(batch, source_time)``; returns ``(batch, time)``: words, ``EOS``
            unless ``max_len`` was reached, then ``PAD``.
        Args:
            beam_size: 1 takes the likeliest token each time (greedy).
            max_len: Most tokens to write, ``EOS`` among them; None: as many as the model can.
            length_penalty: See ``attnlab.models.search.beam_search``.
        """
        max_len = self.config.max_len if max_len is None else max_len
        if not is_number(length_penalty, float):
            raise AttnlabError(f"length_penalty={shorten(length_penalty)} must be a number.")
        check_search(beam_size=beam_size, max_len=max_len, n_positions=self.config.max_len)
        self._require(source_tokens, "source")
        has_words = (source_tokens != PAD).any(1)
        found = torch.full((len(source_tokens), 1), EOS, device=source_tokens.device)
        if not bool(has_words.any()):
            return found
        with evaluating(self):
            written = self._search(source_tokens[has_words], beam_size, max_len, length_penalty)
        tokens = torch.full((len(found), written.shape[1]), PAD, device=found.device)
        tokens[:, :1] = found
        tokens[has_words] = written
        return tokens

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where tokens have to be."""
        return self.target_embedding.weight.device

    def _search(
        self, source: Tensor, beam_size: int, max_len: int, length_penalty: float
    ) -> Tensor:
        state = self.initial_state(self.encode(source), source_padding=padding_of(source))
        options: dict[str, Any] = {"n_rows": len(source), "max_len": max_len, "device": self.device}
        if beam_size == 1:
            return greedy_search(self.step, state, **options)
        found, _ = beam_search(
            self.step, state, beam_size=beam_size, length_penalty=float(length_penalty), **options
        )
        return found[:, 0]

    def _embed(self, tokens: Tensor, table: nn.Embedding, position: Tensor | None) -> Tensor:
        x = table(tokens)
        return self.dropout(x if position is None else x + position[: tokens.shape[1]])

    def _require(self, tokens: Tensor, side: str) -> None:
        vocab_size = getattr(self.config, f"{side}_vocab_size")
        require_sentences(tokens, side=side, vocab_size=vocab_size, max_len=self.config.max_len)
        require_device(tokens, self.target_embedding.weight)

    def _require_memory(
        self, memory: Tensor, padding: Tensor | None, *, n_rows: int | None = None
    ) -> None:
        """Raise unless this is what ``encode`` returns, for so many rows, and its padding."""
        require_features(memory, d_model=self.config.d_model, where="The decoder")
        shape = tuple(memory.shape[:2])
        if n_rows not in (None, shape[0]):
            raise AttnlabError(
                f"There are {shape[0]} source rows and {n_rows} target rows; row i of one belongs "
                "to row i of the other."
            )
        if padding is None:
            return
        if not isinstance(padding, Tensor) or (padding.shape, padding.dtype) != (shape, torch.bool):
            raise AttnlabError(
                f"The padding of the source is {shape} of torch.bool, true at PAD; got "
                f"{shorten(padding)}. padding_of(source_tokens) is it."
            )

    def _shrink_residual_maps(self) -> None:
        for layers, n_sublayers in ((self.encoder, 2), (self.decoder, 3)):
            maps = []
            for layer in cast(list[Any], list(layers)):
                sites = [layer.self_attention, getattr(layer, "cross_attention", None)]
                maps += [layer.mlp.values, *(site.out for site in sites if site)]
            shrink_maps(maps, n_sublayers=n_sublayers * len(layers))


def _least_weights(config: TranslatorConfig) -> int:
    """Return how many weights a translator has at least, before it is built."""
    d = config.d_model
    words = config.source_vocab_size + config.target_vocab_size + 2 * config.max_len
    n_sites = config.n_encoder_layers + 2 * config.n_decoder_layers
    n_layers = config.n_encoder_layers + config.n_decoder_layers
    return d * (words + 4 * d * n_sites + 2 * config.d_ff * n_layers)


def padding_of(tokens: Tensor) -> Tensor | None:
    """Return ``(batch, time)``, true at ``PAD``; None where no row is filled up."""
    is_padding = tokens == PAD
    return is_padding if bool(is_padding.any()) else None


def require_sentences(tokens: Tensor, *, side: str, vocab_size: int, max_len: int) -> None:
    """Raise unless ``tokens`` are sentences ``(batch, time)`` that the model can read."""
    require_id_tensor(tokens, shape="(batch, time)", kind=side.capitalize())
    if tokens.numel() == 0:
        raise AttnlabError(
            f"The {side} must be token ids (batch, time) with at least one column; got "
            f"{tuple(tokens.shape)}. An empty sentence is a row of PAD; "
            "attnlab.training.collate_pairs makes such rows."
        )
    if tokens.shape[1] > max_len:
        raise AttnlabError(
            f"A {side} of {tokens.shape[1]} tokens does not fit max_len={max_len}. Leave the pair "
            "out (encode_pairs does), cut the sentence in two, or build the model "
            "with a larger max_len."
        )
    require_ids(tokens, vocab_size=vocab_size, whose=side)
