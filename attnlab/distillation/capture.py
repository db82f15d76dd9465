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
from attnlab.distillation.sites import (
    METHODS_AT,
    SITES,
    Key,
    StudentSpec,
    chosen_layers,
    find_site,
    layers_of,
)
from attnlab.errors import AttnlabError
from attnlab.models import Translator
from attnlab.seeding import numpy_generator
from attnlab.training.batches import Pairs, collate_pairs

MIB = 2**20
TokenBatch = tuple[Tensor, Tensor]  # source (batch, time), target (batch, time) with BOS and EOS


class Captured(NamedTuple):
    """A lesson: what stands in front of the replaced part, and what behind it.

    In lessons of several layers for the same sentences, ``inputs`` and ``targets`` have a first
    axis over the layers.
    """

    inputs: Tensor  # (batch, time, d_model)
    targets: Tensor  # the same
    source_padding: Tensor | None = None  # (batch, source_time), true at padding
    target_padding: Tensor | None = None  # (batch, target_time); decoder only
    memory: Tensor | None = None  # (batch, source_time, d_model); cross-attention only

    @property
    def padding(self) -> Tensor:
        """That of the inputs: the target's in the decoder, else the source's."""
        padding = self.source_padding if self.target_padding is None else self.target_padding
        return cast(Tensor, padding)

    @property
    def context(self) -> dict[str, Tensor]:
        """What a student is called with besides the inputs."""
        return {n: part for n, part in self._asdict().items() if n in _CONTEXT and part is not None}

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.inputs.device


_CONTEXT = ("source_padding", "target_padding", "memory")


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

    With ``alr``, ``aslr`` and stand-ins the input is what the site is given and the target its
    head outputs before the last projection; with ``alrr`` the residual stream before and after
    the sublayer; with ``elr`` before and after the layer. ``captured[site, layer][:2]`` are input
    and target.

    Args:
        batch: Source and target tokens as ``collate_pairs`` makes them; the decoder reads the
            target without its ``EOS``.
        sites: None: all sites at which the method exists.
        layers: None: all.
    """
    source, target = batch
    sites = [site for site in SITES if method in METHODS_AT[site]] if sites is None else sites
    specs = [StudentSpec(site=site, method=method) for site in sites]
    keys = [(s.site, n) for s in specs for n in chosen_layers(teacher, site=s.site, layers=layers)]
    inputs = target[:, :-1].masked_fill(target[:, 1:] == PAD, PAD)
    of_source, of_target = {"source_padding": source == PAD}, {"target_padding": inputs == PAD}
    found: dict[Key, dict[str, Tensor]] = {key: {} for key in keys}
    with _watched(teacher, method, found):
        memory = teacher.encode(source)
        if any(site != "encoder_self" for site in sites):
            teacher.decode(inputs, memory, **of_source)
    context = {
        "encoder_self": of_source,
        "decoder_self": of_target,
        "cross": {**of_source, **of_target, "memory": memory},
    }
    return {key: Captured(**found[key], **context[key[0]]) for key in keys}


@contextmanager
def _watched(
    teacher: Translator, method: str, found: dict[Key, dict[str, Tensor]]
) -> Iterator[None]:
    """Write down what the watched layers read and write, in eval mode."""
    was_training = teacher.training
    hooks = []
    try:
        teacher.eval()
        for key, notes in found.items():
            hooks += _watch(teacher, method, key, notes)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        teacher.train(was_training)


def _watch(teacher: Translator, method: str, key: Key, notes: dict[str, Tensor]) -> list[Any]:
    def note(name: str) -> Callable[..., None]:
        return lambda _, args, out=None: notes.update({name: args[0] if out is None else out})

    site, layer = key
    reads = whole = cast(Any, layers_of(teacher, site=site)[layer])
    if method not in ("alrr", "elr"):
        reads = find_site(teacher, site=site, layer=layer)
        writes = reads.out.register_forward_pre_hook
    elif method == "elr":
        writes = whole.register_forward_hook
    elif whole.is_pre_norm:
        writes = whole.mlp_norm.register_forward_pre_hook
    else:
        writes = whole.self_attention_norm.register_forward_hook
    return [reads.register_forward_pre_hook(note("inputs")), writes(note("targets"))]


@dataclass(frozen=True, kw_only=True, eq=False)
class Activations:
    """Lessons of some layers for many sentences, kept in memory without padding.

    Shapes:
        inputs, targets: ``(n_layers, n_tokens, d_model)``, sentence after sentence.
        lengths: ``(n_sentences,)``; memory: ``(n_source_tokens, d_model)``.
        projections: ``(n_layers, d_model, d_model)``: from head outputs to the residual stream;
        None where a student predicts the stream itself.
    """

    spec: StudentSpec  # its site and method say what was captured
    layers: tuple[int, ...]
    inputs: Tensor
    targets: Tensor
    lengths: Tensor
    memory: Tensor | None = None
    memory_lengths: Tensor | None = None
    projections: Tensor | None = None

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
    def update_spread(self) -> Tensor:
        """The denominators of every relative error ``(n_layers,)``: how much there is to get wrong.

        Summed squared distances from the mean, of what is added to the residual stream.
        """
        spreads = []
        for i, (x, y) in enumerate(zip(self.inputs, self.targets, strict=True)):
            moved = y.double() - x.double() if self.projections is None else y.double()
            spreads.append(_spread(self.in_stream(i, moved)))
        return torch.stack(spreads)

    @cached_property
    def variance(self) -> Tensor:
        """The denominators of every loss ``(n_layers,)``: that of a number that is predicted.

        Of the head outputs; where the stream is predicted, of its update.
        """
        whole = self.update_spread
        if self.projections is not None:
            whole = torch.stack([_spread(y.double()) for y in self.targets])
        return (whole / self.inputs[0].numel()).to(self.inputs.dtype)

    def in_stream(self, i: int, difference: Tensor) -> Tensor:
        """Return what a difference in the outputs of layer i is in the residual stream.

        So an error means the same for a method that predicts the stream and one that does not.
        """
        if self.projections is None:
            return difference
        return difference @ self.projections[i].to(difference.dtype)

    def batch(self, rows: Sequence[int] | Tensor) -> Captured:
        """Return these sentences side by side, filled up with zeros."""
        rows = torch.as_tensor(rows, device=self.lengths.device)
        places, padding = _places(self.lengths, rows)
        inputs, targets = (_padded(part, places, padding) for part in (self.inputs, self.targets))
        if self.spec.site == "encoder_self":
            return Captured(inputs, targets, source_padding=padding)
        lesson = Captured(inputs, targets, target_padding=padding)
        if self.memory is None or self.memory_lengths is None:
            return lesson
        places, source_padding = _places(self.memory_lengths, rows)
        memory = _padded(self.memory, places, source_padding)
        return lesson._replace(source_padding=source_padding, memory=memory)

    def in_order(self, *, batch_size: int) -> Iterator[Captured]:
        """Yield all sentences once, as they come."""
        for rows in torch.arange(self.n_sentences).split(batch_size):
            yield self.batch(rows)

    def training_batch(self, step: int, *, batch_size: int, seed: int) -> Captured:
        """Return the batch of a step, counted from 0: passes over all sentences, each shuffled."""
        batch_size = min(batch_size, self.n_sentences)
        n_pass, place = divmod(step, self.n_sentences // batch_size)
        order = _order(seed, n_pass, self.n_sentences)
        return self.batch(order[place * batch_size : (place + 1) * batch_size])


def collect_activations(
    teacher: Translator,
    batches: Iterable[TokenBatch],
    *,
    spec: StudentSpec,
    layers: Sequence[int] | None = None,
    max_mib: float = 8192.0,
) -> Activations:
    """Run the teacher over some batches and keep the lessons in memory, without padding.

    Args:
        batches: As ``collate_pairs`` makes them; of ``PairBatches``, one pass.
        spec: Its site and method say what is captured; every size and layout uses the same.
        layers: None: all.
        max_mib: More than that is refused.

    Raises:
        AttnlabError: The lessons do not fit, or there is none.
    """
    layers = chosen_layers(teacher, site=spec.site, layers=layers)
    kept: dict[str, list[Tensor]] = {"inputs": [], "targets": [], "lengths": []}
    kept |= {"memory": [], "memory_lengths": []} if spec.site == "cross" else {}
    n_mib = 0.0
    for batch in one_pass(batches):
        lessons = [*capture(teacher, batch, method=spec.method, sites=[spec.site],
                            layers=layers).values()]  # fmt: skip
        first, is_real = lessons[0], ~lessons[0].padding
        for name in ("inputs", "targets"):
            kept[name].append(torch.stack([getattr(lesson, name)[is_real] for lesson in lessons]))
            n_mib += kept[name][-1].numel() * first.inputs.element_size() / MIB
        kept["lengths"].append(is_real.sum(1))
        if first.memory is not None and first.source_padding is not None:
            kept["memory"].append(first.memory[~first.source_padding])
            kept["memory_lengths"].append((~first.source_padding).sum(1))
        if n_mib > max_mib:
            raise AttnlabError(
                f"The lessons of {len(kept['inputs'])} batches at {spec.site} take more than "
                f"max_mib={max_mib:.0f}. Give fewer batches."
            )
    if not any(part.shape[1] for part in kept["inputs"]):
        raise AttnlabError("There is no sentence to learn from. Give at least one batch of pairs.")
    joined = {n: torch.cat(p, -2 if p[0].ndim > 2 else 0) for n, p in kept.items()}
    projections = None
    if spec.replaces_heads:
        sites = [find_site(teacher, site=spec.site, layer=layer) for layer in layers]
        projections = torch.stack([site.out.weight.detach().T for site in sites])
    return Activations(spec=spec, layers=layers, projections=projections, **joined)


def collect_lessons(
    teacher: Translator, pairs: Pairs, *, spec: StudentSpec, n_at_a_time: int = 256
) -> Activations:
    """Return what the teacher's attention read and wrote for some sentence pairs.

    Args:
        spec: As ``collect_activations`` takes it.
        n_at_a_time: Sentences that the teacher reads at a time.
    """
    starts = range(0, len(pairs), n_at_a_time)
    batches = (collate_pairs(pairs[i : i + n_at_a_time], device=teacher.device) for i in starts)
    return collect_activations(teacher, batches, spec=spec)


def one_pass(batches: Iterable[TokenBatch]) -> Iterator[TokenBatch]:
    """Yield the batches once; ``PairBatches`` would go on for ever."""
    n_batches = getattr(batches, "n_batches", None)
    if n_batches is None:
        yield from batches
    else:
        yield from (cast(Any, batches)[i] for i in range(n_batches))


def _places(lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each position of these sentences lies, and which positions are padding."""
    starts, own = (lengths.cumsum(0) - lengths)[rows], lengths[rows]
    time = torch.arange(max(1, int(own.max())), device=lengths.device)
    return starts[:, None] + time, time >= own[:, None]


def _padded(kept: Tensor, places: Tensor, padding: Tensor) -> Tensor:
    """Return what is kept at these places ``(..., batch, time, d_model)``, zeros at padding."""
    is_real = (~padding).flatten().nonzero()[:, 0]
    found = kept.index_select(-2, places.flatten()[is_real])
    padded = found.new_zeros(*kept.shape[:-2], padding.numel(), kept.shape[-1])
    return padded.index_copy_(-2, is_real, found).unflatten(-2, padding.shape)


def _spread(x: Tensor) -> Tensor:
    """Return the summed squared distance of vectors ``(n, d)`` from their mean; never zero."""
    return (x - x.mean(0)).square().sum(0).clamp(min=torch.finfo(x.dtype).tiny).sum()


@lru_cache(maxsize=4)
def _order(seed: int, n_pass: int, n_sentences: int) -> Tensor:
    order = numpy_generator(seed, f"order/{n_pass}").permutation(n_sentences)
    return torch.from_numpy(order)
