"""What is timed: passes through layers and models, and how many operations they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attnlab.analysis.theory import causal_pairs
from attnlab.config import N_SPECIAL, ModelConfig, TrainConfig, TranslatorConfig
from attnlab.mixers import TokenMixer, build_mixer, convolution
from attnlab.mixers.attention import Attention
from attnlab.mixers.extractor import Extractor
from attnlab.models import LanguageModel, Translator
from attnlab.seeding import torch_generator
from attnlab.training import train_steps
from attnlab.training.loop import autocast

N_HEADS = 4

Call = Callable[[], object]


def mixer_and_options(variant: str) -> tuple[str, dict[str, Any]]:
    """Return the mixer and its options behind a variant: ``she``, or ``she/planes``."""
    name, _, method = variant.partition("/")
    options: dict[str, Any] = {"n_heads": N_HEADS} if name == "attention" else {}
    return name, options | ({"method": method} if method else {})


def build_layer(variant: str, *, d_model: int, context_len: int, device: str) -> TokenMixer:
    """Build one mixer by the name of a variant."""
    name, options = mixer_and_options(variant)
    return build_mixer(name, d_model=d_model, context_len=context_len, **options).to(device)


def build_model(variant: str, *, sizes: dict[str, int], seed: int, device: str) -> LanguageModel:
    """Build a language model by the name of a variant; ``sizes`` are fields of its config."""
    name, options = mixer_and_options(variant)
    config = ModelConfig(mixer=name, mixer_options=options, n_heads=N_HEADS, **sizes)
    return LanguageModel(config, generator=torch_generator(seed, "init")).to(device)


def build_translator(
    *, n_layers: int, vocab_size: int, seed: int, device: str, **sizes: int
) -> Translator:
    """Build an untrained translator, as fast as a trained one, both sides of the same size."""
    config = TranslatorConfig(
        source_vocab_size=vocab_size,
        target_vocab_size=vocab_size,
        n_encoder_layers=n_layers,
        n_decoder_layers=n_layers,
        **cast(dict[str, Any], sizes),
    )
    translator = Translator(config, generator=torch_generator(seed, "init"))
    return translator.eval().requires_grad_(False).to(device)


def noise(*shape: int, seed: int, device: str) -> Tensor:
    """Return normal numbers of the bench's own stream."""
    return torch.randn(*shape, generator=torch_generator(seed, "bench")).to(device)


def random_tokens(*shape: int, vocab_size: int, seed: int, device: str) -> Tensor:
    """Return token ids of the bench's own stream."""
    generator = torch_generator(seed, "bench")
    return torch.randint(vocab_size, shape, generator=generator).to(device)


def random_words(*shape: int, vocab_size: int, seed: int, device: str) -> Tensor:
    """Return token ids of words, none of them special, of the bench's own stream."""
    n_words = vocab_size - N_SPECIAL
    return N_SPECIAL + random_tokens(*shape, vocab_size=n_words, seed=seed, device=device)


def forward_pass(function: Callable[[Tensor], Tensor], x: Tensor) -> Call:
    """Return the forward pass as in training: all that backward needs is kept."""
    x = x.detach().requires_grad_()
    return lambda: function(x)


def training_pass(
    function: Callable[[Tensor], Tensor], x: Tensor, *, weights: Iterable[Tensor]
) -> Call:
    """Return forward and backward: gradients of the input and of every weight."""
    x = x.detach().requires_grad_()
    inputs = (x, *weights)
    error = torch.ones_like(function(x).detach())
    return lambda: torch.autograd.grad(function(x), inputs, error)


def inference_pass(function: Callable[[Tensor], Tensor], x: Tensor) -> Call:
    """Return the forward pass without gradients, as a frozen model does it."""

    @torch.no_grad()
    def call() -> object:
        return function(x)

    return call


def in_precision(
    function: Callable[[Tensor], Tensor], precision: str
) -> Callable[[Tensor], Tensor]:
    """Return the function with its matrix products in ``fp32`` or, by autocast, in ``bf16``."""
    if precision == "fp32":
        return function

    def call(x: Tensor) -> Tensor:
        with autocast(precision, x.device):
            return function(x)

    return call


def training_step(
    model: LanguageModel, *, batch: int, precision: str, seed: int, device: str
) -> Call:
    """Return one whole step as ``training.train_steps`` does it, on the same batch each time."""
    config = model.config
    shape = (batch, config.context_len + 1)
    tokens = random_tokens(*shape, vocab_size=config.vocab_size, seed=seed, device=device)
    endless = TrainConfig(n_steps=10**9, lr=1e-5, precision=precision)
    steps = train_steps(model, repeat((tokens[:, :-1], tokens[:, 1:])), config=endless)
    return lambda: next(steps)


def counted_flops(call: Call) -> int:
    """Return the operations of matrix products in a call, forward and backward, as they happen.

    For the count attention runs as plain products, because fused kernels hide theirs on a CPU.
    So every pair of positions counts, also those that causality hides. Nothing else counts: no
    norm, no softmax, no table.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def layer_flops(mixer: TokenMixer, *, batch: int, time: int, work: str) -> int | None:
    """Return the operations of a layer that are counted: matrix products and transforms.

    Backward takes two products for every one of the forward pass; fused attention takes five
    for its two. None for other mixers, and where kept transforms are not done again.

    Args:
        work: ``forward``, ``training`` (forward and backward) or ``inference``.
    """
    is_training = work == "training"
    n_maps = sum(isinstance(module, nn.Linear) for module in mixer.modules())
    maps = n_maps * 2 * batch * time * mixer.d_model**2 * (3 if is_training else 1)
    if isinstance(mixer, Attention):
        pairs = batch * causal_pairs(time, context_len=mixer.context_len)
        return maps + (7 if is_training else 2) * 2 * pairs * mixer.d_model
    method = chosen_method(mixer, batch=batch, time=time, work=work)
    if not isinstance(mixer, Extractor) or method is None:
        return None
    ndim = mixer.lag_weight.ndim
    if work == "inference" and ndim == 3 and not convolution.is_exactly_causal(method):
        return None  # transforms of frozen weights are kept, so they are not done again
    core = convolution.method_flops(
        method,
        ndim=ndim,
        batch=batch,
        time=time,
        n_lags=mixer.context_len,
        d_in=mixer.d_model,
        training=is_training,
    )
    return maps + core


def chosen_method(mixer: nn.Module, *, batch: int, time: int, work: str) -> str | None:
    """Return how an Extractor sums its past at these sizes; None for a mixer that is none."""
    if not isinstance(mixer, Extractor):
        return None
    if mixer.method != "auto":
        return mixer.method
    weight = mixer.lag_weight
    x = weight.detach().new_zeros(()).expand(batch, time, mixer.d_model)
    if work == "inference":
        with torch.no_grad():
            return convolution.choose_method(x, weight, is_frozen=True)
    return convolution.choose_method(x.requires_grad_(), weight)
