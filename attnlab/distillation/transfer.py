r"""Let stand-ins learn where they stand: to match attention, then to translate.

Stage 1 and 2 are a ``Transfer``: the teacher reads a batch once, and the stand-ins of all sites
and layers learn in one step what its attention made of it. With the head outputs h of attention
and :math:`\hat h` of a stand-in, and their matrices of weights A and :math:`\hat A`,

.. math:: \text{outputs: } \frac{\sum |\hat h - h|^2}{\sum |h - \bar h|^2},\quad
          \text{weights: } \sum_s A_{ts} \log\frac{A_{ts}}{\hat A_{ts}},\quad
          \text{matrix: } \frac{\sum |\hat A - A|^2}{\sum |A|^2}

Stage 3 is a ``Tuning``: the translator around them learns from references, from the teacher's
distribution over the next token, or from both. Every stage says which batch is its first, so that
stages in turn read what one of them alone would: equal total tokens.

Source:
    arXiv:2408.10189 (matrix, outputs, then the whole); 2402.04347 (weights); 2410.10254.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnlab.config import TrainConfig
from attnlab.distillation.capture import (
    Activations,
    Captured,
    TokenBatch,
    capture,
    collect_lessons,
)
from attnlab.distillation.fit import measure_errors
from attnlab.distillation.nets import mask_out
from attnlab.distillation.sites import Key, StudentSpec, find_site
from attnlab.distillation.surgery import substitute
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.models import Translator
from attnlab.models.loss import linear_distillation
from attnlab.training.batches import PairBatches, Pairs
from attnlab.training.engine import Lessons
from attnlab.training.scores import evaluate_forced

MATCHES = ("outputs", "weights", "matrix", "both")
INPUTS = ("teacher", "own")
SIGNALS = {"references": 0.0, "both": 0.5, "teacher": 1.0}  # share of the teacher's distribution


@dataclass(frozen=True, kw_only=True)
class _FromPairs(Lessons):
    """What both kinds of stages share: a teacher, and the pairs that it learnt from, in order."""

    teacher: Translator  # is not changed
    pairs: Pairs
    max_tokens: int  # of one side of a batch
    first_batch: int = 0  # counted from 0; those before were another stage's

    def batches(
        self, model: nn.Module, train: TrainConfig, *, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training pairs in the order of the seed, from this stage's first batch on."""
        how = {"max_tokens": self.max_tokens, "seed": train.seed, "device": self.teacher.device}
        return PairBatches(self.pairs, **how).starting_at(self.first_batch + start)


@dataclass(frozen=True, kw_only=True)
class Transfer(_FromPairs):
    """Stand-ins learn what attention does with what it reads; the model is a list of them.

    Args:
        keys: Where each of them stands, in order.
        held_out: By site, from ``exam_of``: errors are measured on these, and counted in the
            variance of these targets.
        match: ``outputs``, ``weights``, ``matrix``, or ``both`` of the first two.
        inputs: ``teacher``: every stand-in reads what attention read. ``own``: it reads what the
            stand-ins below it left, in ``body``, and learns what attention made of its own.
        body: The translator in which they stand; for ``own`` inputs.
    """

    keys: tuple[Key, ...]
    held_out: Mapping[str, Activations]
    match: str = "outputs"
    inputs: str = "teacher"
    body: Translator | None = None

    def __post_init__(self) -> None:
        """Refuse what does not exist, and own inputs without a body."""
        for kind, name, known in (("match", self.match, MATCHES), ("inputs", self.inputs, INPUTS)):
            if name not in known:
                raise UnknownNameError(kind, name, known, next_step="See Transfer for each.")
        if self.inputs == "own" and self.body is None:
            raise AttnlabError("inputs='own' needs body, the translator the stand-ins stand in.")

    def train_options(self, model: nn.ModuleList, train: TrainConfig) -> dict[str, Any]:  # type: ignore[override]
        """Return the sum of the distances of all stand-ins, and AdamW for all their weights."""
        for key, student in zip(self.keys, model, strict=True):
            if self.match != "outputs" and not hasattr(student, "weights"):
                raise AttnlabError(
                    f"What stands at {key} has no matrix of weights to match. Use match='outputs'."
                )

        def loss(source: Tensor, target: Tensor) -> Tensor:
            given, read = self.lessons((source, target))
            distances = [
                self.distance(student, key, given[key], read[key])
                for key, student in zip(self.keys, model, strict=True)
            ]
            return torch.stack(distances).sum()

        betas = (train.beta_1, train.beta_2)
        how = {"lr": train.lr, "betas": betas, "weight_decay": train.weight_decay, "fused": True}
        optimizer = torch.optim.AdamW(model.parameters(), **how)
        return {"loss": loss, "count": Translator.n_predictions, "optimizer": optimizer}

    def lessons(self, batch: TokenBatch) -> tuple[dict[Key, Captured], dict[Key, Captured]]:
        """Return what attention read and made of a batch, and what the stand-ins read of it."""
        sites = list(dict.fromkeys(site for site, _ in self.keys))
        given = capture(self.teacher, batch, sites=sites)
        if self.body is None or self.inputs == "teacher":
            return given, given
        return given, capture(self.body, batch, sites=sites)

    def distance(self, student: nn.Module, key: Key, given: Captured, read: Captured) -> Tensor:
        """Return how far a stand-in is from attention on a lesson, as ``match`` counts it."""
        parts = []
        if self.match in ("outputs", "both"):
            variance = self.held_out[key[0]].variance[key[1]]
            found = mask_out(student(read.inputs, **read.context), given.padding)
            wrong = (found - mask_out(given.targets, given.padding)).square().sum()
            n_numbers = (~given.padding).sum().clamp(min=1) * found.shape[-1]
            parts.append(wrong / n_numbers / variance)
        if self.match != "outputs":
            site = find_site(self.teacher, site=key[0], layer=key[1])
            with torch.no_grad():
                wanted = site.attention_weights(*_arguments(given)[0], **_arguments(given)[1])
            inputs, padding = _arguments(read)
            found = student.weights(*inputs, **padding)  # type: ignore[operator]
            parts.append(_gap(found, wanted, given.padding, is_squared=self.match == "matrix"))
        return torch.stack(parts).sum()

    def validate(self, model: nn.ModuleList) -> dict[str, float]:  # type: ignore[override]
        """Return the mean relative error on held-out sentences, as attention reads them."""
        errors = relative_errors(dict(zip(self.keys, model, strict=True)), self.held_out)
        return {"relative_error": sum(errors.values()) / len(errors)}


@dataclass(frozen=True, kw_only=True)
class Tuning(_FromPairs):
    """A translator with stand-ins learns to translate, as far as its weights are free.

    Args:
        validation: Its first pairs give the points of the curve.
        signal: ``references``, ``teacher`` (its distribution over the next token), or ``both``.
        temperature: Of both distributions.
    """

    validation: Pairs
    signal: str = "both"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a signal that does not exist."""
        if self.signal not in SIGNALS:
            raise UnknownNameError("signal", self.signal, SIGNALS, next_step="Choose one of these.")

    def train_options(self, model: Translator, train: TrainConfig) -> dict[str, Any]:  # type: ignore[override]
        """Return what is minimised, and the plain loss beside it."""
        if self.signal == "references":
            return {}

        def loss(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            features, labels = model.predictions(source, target)
            with torch.no_grad():
                taught, _ = self.teacher.predictions(source, target)
            weights = {"taught": taught, "taught_weight": self.teacher.head.weight}
            how = {"share": SIGNALS[self.signal], "temperature": self.temperature}
            return linear_distillation(features, model.head.weight, labels, **weights, **how)

        return {"loss": loss}

    def validate(self, model: Translator) -> dict[str, float]:  # type: ignore[override]
        """Return the plain loss on the validation pairs, every earlier token given."""
        return {"loss_nats": evaluate_forced(model, self.validation).loss_nats}


def exam_of(teacher: Translator, pairs: Pairs, *, sites: Sequence[str]) -> dict[str, Activations]:
    """Return what a teacher's attention reads and makes of some pairs, by site."""
    return {site: collect_lessons(teacher, pairs, spec=StudentSpec(site=site)) for site in sites}


def relative_errors(
    students: Mapping[Key, nn.Module], exam: Mapping[str, Activations]
) -> dict[Key, float]:
    """Return how far each stand-in is from attention in the residual stream; a constant has 1.

    Args:
        exam: From ``exam_of``, of the sites of the stand-ins; there is one for each layer.
    """
    errors = {}
    for site in dict.fromkeys(site for site, _ in students):
        found = measure_errors(students, held_out=exam[site]).tolist()  # type: ignore[arg-type]
        errors |= {(site, layer): e for layer, e in zip(exam[site].layers, found, strict=True)}
    return errors


@torch.no_grad()
def head_table(
    teacher: Translator,
    students: Mapping[Key, nn.Module],
    exam: Mapping[str, Activations],
    *,
    near: int = 4,
) -> list[dict[str, Any]]:
    """Return a row for each head: how widely the teacher's looks, and how far the stand-in's is.

    Args:
        near: Of what lies less than so many positions away, the share of the weight is measured.

    Returns:
        ``site``, ``layer``, ``head``; ``entropy_nats``, the mean of a row of attention weights;
        ``near_share`` of them, None at cross, where two sentences have no distance;
        ``relative_error``, squared, of the head's outputs: that of their mean is 1.
    """
    rows = []
    for (site, layer), student in students.items():
        look_up, lessons = find_site(teacher, site=site, layer=layer), exam[site]
        n, n_heads = lessons.layers.index(layer), look_up.n_heads
        entropy, close, wrong = torch.zeros(3, n_heads, dtype=torch.float64)
        for lesson in lessons.in_order(batch_size=64):
            one = lesson._replace(inputs=lesson.inputs[n], targets=lesson.targets[n])
            is_real = ~one.padding
            weights = look_up.attention_weights(*_arguments(one)[0], **_arguments(one)[1])
            surprise = -torch.xlogy(weights, weights).sum(-1).transpose(1, 2)[is_real]  # (n, H)
            entropy += surprise.double().sum(0)
            is_near = torch.ones(weights.shape[-2:]).triu(1 - near).tril(near - 1)
            shares = (weights * is_near.to(weights)).sum(-1).transpose(1, 2)[is_real]
            close += shares.double().sum(0)
            gap = (student(one.inputs, **one.context) - one.targets)[is_real]
            wrong += gap.double().square().unflatten(-1, (n_heads, -1)).sum((0, 2))
        targets = lessons.targets[n].double()
        spread = (targets - targets.mean(0)).square().unflatten(-1, (n_heads, -1)).sum((0, 2))
        errors = wrong / spread.clamp(min=torch.finfo(torch.float64).tiny)
        means = (entropy / len(targets), close / len(targets), errors)
        for head, (wide, share, error) in enumerate(torch.stack(means, 1).tolist()):
            share = share if site != "cross" else None
            rows += [{"site": site, "layer": layer, "head": head, "entropy_nats": wide,
                      "near_share": share, "relative_error": error}]  # fmt: skip
    return rows


def cheapest_next(
    model: Translator,
    students: Mapping[Key, nn.Module],
    *,
    loss: Callable[[Translator], float],
    n_kept: int = 0,
) -> list[tuple[Key, float]]:
    """Return in which order stand-ins cost least: each time the one that leaves the lowest loss.

    The model is as it was afterwards.

    Args:
        students: Stand-ins to put in, each at its place.
        loss: Of a model, lower is better.
        n_kept: Places to leave as they are.

    Returns:
        Places with the loss after each was taken, in order; those that are kept are missing.
    """
    left, chosen, done = dict(students), [], []
    try:
        while len(left) > n_kept:
            costs = {}
            for key, student in left.items():
                with substitute(model, {key: student}):
                    costs[key] = loss(model)
            best = min(left, key=lambda key: costs[key])
            done.append(substitute(model, {best: left.pop(best)}))
            chosen.append((best, costs[best]))
    finally:
        for substitution in reversed(done):
            substitution.undo()
    return chosen


def _arguments(lesson: Captured) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    """Return with what a matrix of weights is asked for: inputs, and what is padding there."""
    if lesson.memory is not None:
        return [lesson.inputs, lesson.memory], {"source_padding": lesson.source_padding}
    return [lesson.inputs], {"source_padding": lesson.source_padding}


def _gap(found: Tensor, wanted: Tensor, padding: Tensor, *, is_squared: bool) -> Tensor:
    """Return how far a matrix ``(batch, heads, time, memory_time)`` is from another one."""
    is_real = (~padding)[:, None, :, None].to(wanted)
    if is_squared:
        wrong = (is_real * (found - wanted)).square().sum()
        return wrong / (is_real * wanted).square().sum().clamp(min=torch.finfo(wanted.dtype).tiny)
    own = found.clamp(min=torch.finfo(found.dtype).tiny).log()
    surprise = is_real * (torch.xlogy(wanted, wanted) - wanted * own)
    return surprise.sum() / (is_real.sum() * wanted.shape[1])
