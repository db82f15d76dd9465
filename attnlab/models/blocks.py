"""The layers that every model here is a stack of: mix tokens, then channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import ModelConfig, TranslatorConfig
from attnlab.errors import AttnlabError, shorten
from attnlab.mixers import build_mixer, find_mixer, mixer_options
from attnlab.mixers.attention import CrossAttention, SelfAttention


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


class ShortConv(nn.Module):
    r"""Join every token with the few before it, each channel on its own.

    .. math:: y_t = \sum_{j < w} x_{t-j} \odot c_j

    What a mixer would need a layer for, to know which token stood before which, every model then
    knows; so what is left to tell mixers apart is how they find something far away.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape. ``weight`` is ``(w, d_model)``,
        ``past`` the w - 1 tokens before x, ``(batch, w - 1, d_model)``, zeros at the beginning.
    Source:
        As before each mixer in arXiv:2402.18668, appendix E; here before the first layer alone.
    """

    def __init__(self, *, d_model: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, d_model))
        nn.init.normal_(self.weight, std=width**-0.5)

    def start(self, batch_size: int) -> Tensor:
        """Return the past before the first token."""
        return self.weight.new_zeros(batch_size, len(self.weight) - 1, self.weight.shape[1])

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        """Return the joined tokens."""
        return self.go_on(x, self.start(len(x)) if past is None else past)[0]

    def go_on(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return the joined tokens, and the past of those that come next."""
        seen = torch.cat([past, x], 1)
        windows = seen.unfold(1, len(self.weight), 1).flip(-1)  # (B, T, D, w)
        return (windows * self.weight.T).sum(-1), seen[:, x.shape[1] :]


class Layer(nn.Module):
    r"""What all layers share: how a sublayer meets the residual stream.

    .. math:: x + f(\mathrm{norm}(x)) \quad\text{(pre)}, \qquad
              \mathrm{norm}(x + f(x)) \quad\text{(post)}
    """

    def __init__(self, *, norm: str, dropout: float) -> None:
        super().__init__()
        self.is_pre_norm = norm == "pre"
        self.dropout = nn.Dropout(dropout)

    def _add(self, x: Tensor, norm: nn.Module, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the stream after a sublayer, with dropout on what it adds."""
        return self._add_step(x, norm, lambda read: (self.dropout(change(read)), None))[0]

    def _add_step(
        self, x: Tensor, norm: nn.Module, change: Callable[[Tensor], tuple[Tensor, Any]]
    ) -> tuple[Tensor, Any]:
        """Return the stream after a sublayer that remembers, and its next state; no dropout."""
        added, state = change(norm(x) if self.is_pre_norm else x)
        return (x + added if self.is_pre_norm else norm(x + added)), state


class Block(Layer):
    """One layer of a language model: a token mixer and a channel mixer, with norm and residual.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape.
    """

    def __init__(self, config: ModelConfig, *, layer: int = 0) -> None:
        """Build the layer with this number, 0 the first; few mixers mind which it is."""
        super().__init__(norm=config.norm, dropout=config.dropout)
        name, options = find_mixer(config.mixer).in_layer(layer, config.mixer_options)
        if "n_heads" in mixer_options(name):
            options = {"n_heads": config.n_heads, **options}
        sizes = {"d_model": config.d_model, "context_len": config.context_len}
        self.mixer_norm = nn.LayerNorm(config.d_model)
        self.mixer = build_mixer(name, **sizes, **options)
        self.mlp_norm = nn.LayerNorm(config.d_model)
        self.mlp = ChannelMixer(d_model=config.d_model, d_ff=config.mlp_width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, then channels, at all positions."""
        return self._add(self._add(x, self.mixer_norm, self.mixer), self.mlp_norm, self.mlp)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Do the same for one more token ``(batch, d_model)``, without dropout."""
        return self._go_on(x_t, lambda read: self.mixer.step(read, state))

    def prefill(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Do the same for a prefix ``(batch, time, d_model)``; return the state after it too."""
        return self._go_on(x, lambda read: self.mixer.prefill(read, state))

    def _go_on(self, x: Tensor, mix: Callable[[Tensor], tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
        x, state = self._add_step(x, self.mixer_norm, mix)
        return self._add_step(x, self.mlp_norm, lambda read: (self.mlp(read), state))


class _TranslatorLayer(Layer):
    """What encoder and decoder layers share: self-attention first, a channel mixer last."""

    def __init__(self, config: TranslatorConfig, *, is_causal: bool) -> None:
        super().__init__(norm=config.norm, dropout=config.dropout)
        self.self_attention_norm = nn.LayerNorm(config.d_model)
        self.mlp_norm = nn.LayerNorm(config.d_model)
        self.mlp = ChannelMixer(d_model=config.d_model, d_ff=config.d_ff)
        self.self_attention = SelfAttention(is_causal=is_causal, **_site_sizes(config))

    def _add_site(self, x: Tensor, name: str, *inputs: Tensor, **paddings: Any) -> Tensor:
        site, norm = getattr(self, name), getattr(self, f"{name}_norm")
        return self._add(x, norm, lambda read: site(read, *inputs, **paddings))

    def _step_site(self, x_t: Tensor, name: str, state: Any) -> tuple[Tensor, Any]:
        site, norm = getattr(self, name), getattr(self, f"{name}_norm")
        return self._add_step(x_t, norm, lambda read: site.step(read, state))


class EncoderLayer(_TranslatorLayer):
    """Self-attention over the whole source, then a channel mixer.

    Shapes:
        x: ``(batch, source_time, d_model)``; returns the same shape.
    """

    def __init__(self, config: TranslatorConfig) -> None:
        super().__init__(config, is_causal=False)

    def forward(self, x: Tensor, *, source_padding: Tensor | None = None) -> Tensor:
        """Mix tokens, then channels."""
        x = self._add_site(x, "self_attention", source_padding=source_padding)
        return self._add(x, self.mlp_norm, self.mlp)


class DecoderLayer(_TranslatorLayer):
    """Causal self-attention, cross-attention to the source, then a channel mixer.

    Shapes:
        x: ``(batch, target_time, d_model)``; returns the same shape.
        memory: ``(batch, source_time, d_model)``.
    """

    def __init__(self, config: TranslatorConfig) -> None:
        super().__init__(config, is_causal=True)
        self.cross_attention_norm = nn.LayerNorm(config.d_model)
        self.cross_attention = CrossAttention(**_site_sizes(config))

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        """Look at the target so far, at the source, then mix channels."""
        paddings = {"source_padding": source_padding, "target_padding": target_padding}
        x = self._add_site(x, "self_attention", target_padding=target_padding)
        x = self._add_site(x, "cross_attention", memory, **paddings)
        return self._add(x, self.mlp_norm, self.mlp)

    def initial_state(self, memory: Tensor, *, source_padding: Tensor | None = None) -> Any:
        """Return the states of both sites before the first token."""
        return (
            self.self_attention.initial_state(memory.shape[0]),
            self.cross_attention.initial_state(memory, source_padding=source_padding),
        )

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Do the same for one more token ``(batch, d_model)``, without dropout."""
        x_t, of_self = self._step_site(x_t, "self_attention", state[0])
        x_t, of_cross = self._step_site(x_t, "cross_attention", state[1])
        return self._add_step(
            x_t, self.mlp_norm, lambda read: (self.mlp(read), (of_self, of_cross))
        )


def _site_sizes(config: TranslatorConfig) -> dict[str, Any]:
    sizes = {"d_model": config.d_model, "n_heads": config.n_heads}
    own = config.attention_dropout
    dropout = config.dropout if own is None else own
    return {**sizes, "dropout": dropout, "bias": config.attention_bias}


def embedding(vocab_size: int, d_model: int) -> nn.Embedding:
    """Return a table of vectors of length about one."""
    table = nn.Embedding(vocab_size, d_model)
    nn.init.normal_(table.weight, std=d_model**-0.5)
    return table


def add_positions(model: nn.Module, name: str, kind: str, *, length: int, d_model: int) -> None:
    """Give a model position vectors ``(length, d_model)``: learned, sinusoidal, or none."""
    if kind == "learned":
        table = nn.Parameter(torch.randn(length, d_model) * d_model**-0.5)
        model.register_parameter(name, table)
    else:
        waves = sinusoidal_positions(length, d_model) if kind == "sinusoidal" else None
        model.register_buffer(name, waves, persistent=False)


def sinusoidal_positions(length: int, d_model: int) -> Tensor:
    """Return sines and cosines of t over geometric periods: arXiv:1706.03762, section 3.5."""
    rates = torch.exp(-math.log(10_000.0) * torch.arange(0, d_model, 2) / d_model)
    angles = torch.arange(length)[:, None] * rates  # (L, ceil(D / 2))
    waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :d_model]
    return waves * d_model**-0.5


def shrink_maps(maps: list[Any], *, n_sublayers: int) -> None:
    """Scale maps into a residual stream by 1/sqrt(n of its sublayers), as in GPT-2."""
    for linear in maps:
        if isinstance(linear, nn.Linear):
            linear.weight.data.mul_(n_sublayers**-0.5)


def through(
    layers: Iterable[Any], way: str, x: Tensor, states: Iterable[Any]
) -> tuple[Tensor, tuple[Any, ...]]:
    """Send ``x`` through all layers by ``step`` or ``prefill``; return the next states too."""
    found = []
    for layer, state in zip(layers, states, strict=True):
        x, state = getattr(layer, way)(x, state)
        found.append(state)
    return x, tuple(found)


def require_id_tensor(ids: Any, *, shape: str, kind: str = "Token") -> None:
    """Raise unless ``ids`` is a tensor of whole numbers with the axes that ``shape`` names."""
    n_axes = shape.count(",") + 1 - shape.endswith(",)")
    if isinstance(ids, Tensor) and ids.ndim == n_axes and ids.dtype in (torch.int64, torch.int32):
        return
    got = f"{tuple(ids.shape)} of {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
    raise AttnlabError(
        f"The model takes {kind.lower()} ids {shape} of an integer type, torch.long; got {got}. "
        "Encode text with a tokenizer first; torch.tensor(ids) makes a tensor of a list."
    )


def require_device(x: Tensor, weight: Tensor) -> None:
    """Raise unless ``x`` lies where a weight does."""
    if x.device != weight.device:
        raise AttnlabError(
            f"The input is on {x.device} and the weights are on {weight.device}. Move the input "
            f"with .to({str(weight.device)!r})."
        )


def require_ids(ids: Tensor, *, vocab_size: int, kind: str = "Token", whose: str = "model") -> None:
    """Raise unless all ids lie within a vocabulary; one pass, nothing beside a forward pass."""
    if ids.is_meta or not ids.numel():
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        raise AttnlabError(
            f"{kind} id {low if low < 0 else high} is outside the {whose} vocabulary of "
            f"{vocab_size}. The tokenizer and the model do not belong together: load both from "
            "the same folder."
        )


def require_rows(n_rows: Any) -> None:
    """Raise unless a state can be of so many sequences."""
    if not isinstance(n_rows, Integral) or isinstance(n_rows, bool) or n_rows < 1:
        raise AttnlabError(f"batch_size={shorten(n_rows)} must be a whole number, 1 or more.")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while, and then back to what it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
