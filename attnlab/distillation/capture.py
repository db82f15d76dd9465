"""What a teacher's layers read and what its attention made of it: the students' lessons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from attnlab.config import PAD
from attnlab.distillation.nets import linear, mask_out
from attnlab.distillation.sites import (
    METHODS_AT,
    SITES,
    Key,
    StudentSpec,
    find_site,
    layers_of,
    require_layers,
)
from attnlab.errors import AttnlabError
from attnlab.models import Translator
from attnlab.seeding import numpy_generator

MIB = 2**20
TokenBatch = tuple[Tensor, Tensor]  # source (batch, time), target (batch, time) with BOS and EOS


class Captured(NamedTuple):
    """One layer's lesson: what stands in front of the replaced part, and what behind it."""

    inputs: Tensor  # (batch, time, d_model)
    targets: Tensor  # the same
    source_padding: Tensor | None = None  # (batch, source_time), true at padding
    target_padding: Tensor | None = None  # (batch, target_time); decoder only
    memory: Tensor | None = None  # (batch, source_time, d_model); cross-attention only

    @property
    def padding(self) -> Tensor:
        """That of the inputs: the target's in the decoder, else the source's."""
        return _padding_of(self)


class ActivationBatch(NamedTuple):
    """The lessons of several layers for the same sentences."""

    inputs: Tensor  # (n_layers, batch, time, d_model)
    targets: Tensor  # the same
    source_padding: Tensor | None = None  # (batch, source_time), true at padding
    target_padding: Tensor | None = None  # (batch, target_time); decoder only
    memory: Tensor | None = None  # (1, batch, source_time, d_model); cross-attention only

    @property
    def padding(self) -> Tensor:
        """That of the inputs: the target's in the decoder, else the source's."""
        return _padding_of(self)

    @property
    def context(self) -> dict[str, Any]:
        """What ``Student.run`` takes besides the inputs."""
        names = ("source_padding", "target_padding", "memory")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def _padding_of(lesson: Captured | ActivationBatch) -> Tensor:
    padding = lesson.source_padding if lesson.target_padding is None else lesson.target_padding
    return cast(Tensor, padding)


@torch.no_grad()
def capture(
    teacher: Translator,
    batch: TokenBatch,
    *,
    method: str = "alr",
    sites: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> dict[Key, Captured]:
    """Run the teacher on a batch and return what every attention read and wrote.

    With ``alr`` and ``aslr`` the input is what the site is given and the target its head outputs
    before the last projection; with ``alrr`` the residual stream before and after the sublayer;
    with ``elr`` before and after the layer. ``captured[site, layer][:2]`` are input and target.

    Args:
        batch: Source and target tokens as ``collate_pairs`` makes them; the decoder reads the
            target without its ``EOS``.
        sites: None: all sites at which the method exists.
        layers: None: all.
    """
    source, target = batch
    keys = _keys(teacher, method, sites, layers)
    inputs = target[:, :-1].masked_fill(target[:, 1:] == PAD, PAD)
    source_padding, target_padding = source == PAD, inputs == PAD
    found: dict[Key, dict[str, Tensor]] = {key: {} for key in keys}
    with _watched(teacher, method, found):
        memory = teacher.encode(source)
        if any(site != "encoder_self" for site, _ in keys):
            teacher.decode(inputs, memory, source_padding=source_padding)
    context: dict[str, dict[str, Tensor]] = {
        "encoder_self": {"source_padding": source_padding},
        "decoder_self": {"target_padding": target_padding},
        "cross": {
            "source_padding": source_padding,
            "target_padding": target_padding,
            "memory": memory,
        },
    }
    return {
        (site, layer): Captured(
            found[site, layer]["inputs"], found[site, layer]["targets"], **context[site]
        )
        for site, layer in keys
    }


class Spread(NamedTuple):
    """How much there is to get wrong in each layer: summed squared distances from the mean."""

    update: Tensor  # (n_layers,): of what is added to the residual stream
    target: Tensor  # (n_layers,): of what is predicted, or the update where that is the stream
    heads: Tensor | None  # (n_layers, n_heads)


@dataclass(frozen=True, kw_only=True, eq=False)
class Activations:
    """Lessons of some layers for many sentences, kept in memory without padding.

    Shapes:
        inputs, targets: ``(n_layers, n_tokens, d_model)``, sentence after sentence.
        lengths: ``(n_sentences,)``; memory: ``(n_source_tokens, d_model)``.
        projections: ``(n_layers, d_model, d_model)``: from head outputs to the residual stream.
    """

    spec: StudentSpec  # its site and method say what was captured
    layers: tuple[int, ...]
    inputs: Tensor
    targets: Tensor
    lengths: Tensor
    n_heads: int
    memory: Tensor | None = None
    memory_lengths: Tensor | None = None
    projections: Tensor | None = None
    dtype: torch.dtype = torch.float32  # of the batches; the store may be smaller

    @property
    def n_sentences(self) -> int:
        """Number of sentences."""
        return len(self.lengths)

    @property
    def mib(self) -> float:
        """Memory it takes."""
        parts = [self.inputs, self.targets, *([] if self.memory is None else [self.memory])]
        return sum(part.numel() * part.element_size() for part in parts) / MIB

    @cached_property
    def starts(self) -> Tensor:
        """Where each sentence begins."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def memory_starts(self) -> Tensor | None:
        """Where the source of each sentence begins."""
        lengths = self.memory_lengths
        return None if lengths is None else lengths.cumsum(0) - lengths

    @cached_property
    def spread(self) -> Spread:
        """The denominators of every relative error."""
        updates, channels = [], []
        for i in range(len(self.layers)):
            x, y = self.inputs[i].double(), self.targets[i].double()
            moved = y - x if self.projections is None else y @ self.projections[i].double()
            updates.append(_spread(moved).sum())
            channels.append(_spread(y))
        update = torch.stack(updates)
        if self.projections is None:
            return Spread(update, update, None)
        heads = torch.stack(channels).unflatten(-1, (self.n_heads, -1)).sum(-1)
        return Spread(update, heads.sum(-1), heads)

    def batch(self, rows: Sequence[int] | Tensor) -> ActivationBatch:
        """Return these sentences side by side, filled up with zeros."""
        rows = torch.as_tensor(rows, device=self.lengths.device)
        index, padding = _places(self.starts[rows], self.lengths[rows])
        inputs, targets = (
            _padded(part, index, padding, self.dtype) for part in (self.inputs, self.targets)
        )
        if self.spec.site == "encoder_self":
            return ActivationBatch(inputs, targets, source_padding=padding)
        lesson = ActivationBatch(inputs, targets, target_padding=padding)
        if self.memory is None or self.memory_lengths is None or self.memory_starts is None:
            return lesson
        index, source_padding = _places(self.memory_starts[rows], self.memory_lengths[rows])
        memory = _padded(self.memory, index, source_padding, self.dtype)[None]
        return lesson._replace(source_padding=source_padding, memory=memory)

    def in_order(self, *, batch_size: int) -> Iterator[ActivationBatch]:
        """Yield all sentences once, as they come."""
        for rows in torch.arange(self.n_sentences).split(batch_size):
            yield self.batch(rows)

    def training_batch(self, step: int, *, batch_size: int, seed: int) -> ActivationBatch:
        """Return the batch of a step, counted from 0: passes over all sentences, each shuffled."""
        batch_size = min(batch_size, self.n_sentences)
        n_pass, place = divmod(step, self.n_sentences // batch_size)
        order = _order(seed, n_pass, self.n_sentences)
        return self.batch(order[place * batch_size : (place + 1) * batch_size])

    def updates(self, inputs: Tensor, values: Tensor) -> Tensor:
        """Return what ``values`` in place of the targets would add to the residual stream.

        So an error means the same for a method that predicts the stream and one that does not.
        """
        return values - inputs if self.projections is None else linear(values, self.projections)


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveActivations:
    """Lessons that the teacher gives anew at every step; nothing is kept.

    Args:
        batches: Indexed by step, such as ``PairBatches``, or a list that is gone through again.
        spec: Its site and method say what is captured.
    """

    teacher: Translator
    batches: Any
    spec: StudentSpec
    layers: tuple[int, ...]

    def training_batch(self, step: int, **_: Any) -> ActivationBatch:
        """Return the lessons of one batch of tokens."""
        index = step % len(self.batches) if hasattr(self.batches, "__len__") else step
        spec, layers = self.spec, self.layers
        captured = capture(
            self.teacher, self.batches[index], method=spec.method, sites=[spec.site], layers=layers
        )
        return _side_by_side([captured[spec.site, layer] for layer in layers])


def collect_activations(
    teacher: Translator,
    batches: Iterable[TokenBatch],
    *,
    spec: StudentSpec,
    layers: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    max_mib: float = 8192.0,
) -> Activations:
    """Run the teacher over some batches and keep the lessons in memory, without padding.

    Args:
        batches: As ``collate_pairs`` makes them; of ``PairBatches``, one pass.
        spec: Its site and method say what is captured; every size and layout uses the same.
        layers: None: all.
        dtype: What the store keeps; ``torch.bfloat16`` halves it. None: as the teacher computes.
        max_mib: More than that is refused.

    Raises:
        AttnlabError: The lessons do not fit, or there is none.
    """
    layers = chosen_layers(teacher, spec, layers)
    dtype = dtype or teacher.head.weight.dtype
    kept: list[_Kept] = []
    n_mib = 0.0
    for batch in one_pass(batches):
        captured = capture(teacher, batch, method=spec.method, sites=[spec.site], layers=layers)
        kept.append(_unpadded([captured[spec.site, layer] for layer in layers], dtype))
        n_mib += sum(part.numel() * part.element_size() for part in kept[-1][:2]) / MIB
        if n_mib > max_mib:
            raise AttnlabError(
                f"The lessons of {len(kept)} batches at {spec.site} take more than "
                f"max_mib={max_mib:.0f}. Give fewer batches, dtype=torch.bfloat16, or is_live=True."
            )
    if not any(part.inputs.shape[1] for part in kept):
        raise AttnlabError("There is no sentence to learn from. Give at least one batch of pairs.")
    has_memory = kept[0].memory is not None
    return Activations(
        spec=spec,
        layers=layers,
        inputs=torch.cat([part.inputs for part in kept], 1),
        targets=torch.cat([part.targets for part in kept], 1),
        lengths=torch.cat([part.lengths for part in kept]),
        n_heads=teacher.config.n_heads,
        memory=_joined([part.memory for part in kept]) if has_memory else None,
        memory_lengths=_joined([part.memory_lengths for part in kept]) if has_memory else None,
        projections=projections_of(teacher, spec=spec, layers=layers),
        dtype=teacher.head.weight.dtype,
    )


def chosen_layers(
    teacher: Translator, spec: StudentSpec, layers: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the layers meant, counted from 0; None means all."""
    n_layers = len(layers_of(teacher, site=spec.site))
    chosen = tuple(range(n_layers) if layers is None else layers)
    require_layers(chosen, n_layers=n_layers, site=spec.site)
    return chosen


def one_pass(batches: Iterable[TokenBatch]) -> Iterator[TokenBatch]:
    """Yield the batches once; ``PairBatches`` would go on for ever."""
    n_batches = getattr(batches, "n_batches", None)
    if n_batches is None:
        yield from batches
    else:
        yield from (cast(Any, batches)[i] for i in range(n_batches))


def projections_of(
    teacher: Translator, *, spec: StudentSpec, layers: Sequence[int]
) -> Tensor | None:
    """Return what turns head outputs into updates of the stream, ``(n_layers, d_model, d_model)``.

    None where a student predicts the stream itself.
    """
    if not spec.replaces_heads:
        return None
    sites = [cast(Any, find_site(teacher, site=spec.site, layer=layer)) for layer in layers]
    return torch.stack([site.out.weight.detach().T for site in sites])


def _keys(
    teacher: Translator, method: str, sites: Sequence[str] | None, layers: Sequence[int] | None
) -> list[Key]:
    sites = [site for site in SITES if method in METHODS_AT[site]] if sites is None else sites
    specs = [StudentSpec(site=site, method=method) for site in sites]
    return [(s.site, layer) for s in specs for layer in chosen_layers(teacher, s, layers)]


@contextmanager
def _watched(
    teacher: Translator, method: str, found: dict[Key, dict[str, Tensor]]
) -> Iterator[None]:
    """Write down what the watched layers read and write, in eval mode."""
    was_training = teacher.training
    hooks = []
    try:
        teacher.eval()
        for (site, layer), notes in found.items():
            hooks += _watch(teacher, method, site, layer, notes)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        teacher.train(was_training)


def _watch(
    teacher: Translator, method: str, site: str, layer: int, notes: dict[str, Tensor]
) -> list[Any]:
    def before(name: str) -> Callable[..., None]:
        return lambda module, args: notes.__setitem__(name, args[0])

    def after(name: str) -> Callable[..., None]:
        return lambda module, args, output: notes.__setitem__(name, output)

    whole = cast(Any, layers_of(teacher, site=site)[layer])
    if method in ("alr", "aslr"):
        look_up = cast(Any, find_site(teacher, site=site, layer=layer))
        return [
            look_up.register_forward_pre_hook(before("inputs")),
            look_up.out.register_forward_pre_hook(before("targets")),
        ]
    reads = whole.register_forward_pre_hook(before("inputs"))
    if method == "elr":
        return [reads, whole.register_forward_hook(after("targets"))]
    if whole.is_pre_norm:
        return [reads, whole.mlp_norm.register_forward_pre_hook(before("targets"))]
    return [reads, whole.self_attention_norm.register_forward_hook(after("targets"))]


def _side_by_side(parts: Sequence[Captured]) -> ActivationBatch:
    first = parts[0]
    inputs = mask_out(torch.stack([part.inputs for part in parts]), first.padding)
    targets = mask_out(torch.stack([part.targets for part in parts]), first.padding)
    memory = first.memory
    if memory is not None:
        memory = mask_out(memory, first.source_padding)[None]
    return ActivationBatch(inputs, targets, first.source_padding, first.target_padding, memory)


class _Kept(NamedTuple):
    """The lessons of a batch without padding, as ``Activations`` keeps them."""

    inputs: Tensor
    targets: Tensor
    lengths: Tensor
    memory: Tensor | None = None
    memory_lengths: Tensor | None = None


def _unpadded(parts: Sequence[Captured], dtype: torch.dtype) -> _Kept:
    first, is_real = parts[0], ~parts[0].padding
    inputs = torch.stack([part.inputs[is_real] for part in parts]).to(dtype)
    targets = torch.stack([part.targets[is_real] for part in parts]).to(dtype)
    if first.memory is None or first.source_padding is None:
        return _Kept(inputs, targets, is_real.sum(1))
    is_read = ~first.source_padding
    memory = first.memory[is_read].to(dtype)
    return _Kept(inputs, targets, is_real.sum(1), memory, is_read.sum(1))


def _places(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each position of each sentence lies, and which positions are padding."""
    time = torch.arange(max(1, int(lengths.max())), device=lengths.device)
    return starts[:, None] + time, time >= lengths[:, None]


def _padded(kept: Tensor, places: Tensor, padding: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is kept at these places ``(..., batch, time, d_model)``, zeros at padding."""
    is_real = (~padding).flatten().nonzero()[:, 0]
    found = kept.index_select(-2, places.flatten()[is_real]).to(dtype)
    padded = found.new_zeros(*kept.shape[:-2], padding.numel(), kept.shape[-1])
    return padded.index_copy_(-2, is_real, found).unflatten(-2, padding.shape)


def _spread(x: Tensor) -> Tensor:
    """Return summed squared distances from the mean over tokens, for each channel; never zero."""
    return (x - x.mean(0)).square().sum(0).clamp(min=torch.finfo(x.dtype).tiny)


def _joined(parts: Sequence[Tensor | None]) -> Tensor:
    return torch.cat([part for part in parts if part is not None])


@lru_cache(maxsize=4)
def _order(seed: int, n_pass: int, n_sentences: int) -> Tensor:
    order = numpy_generator(seed, f"order/{n_pass}").permutation(n_sentences)
    return torch.from_numpy(order)
