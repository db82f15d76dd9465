"""Teach students of all layers, from what a teacher's attention read and wrote."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import TrainConfig
from attnlab.distillation.capture import (
    Activations,
    Captured,
    TokenBatch,
    collect_activations,
    one_pass,
)
from attnlab.distillation.nets import Student, mask_out
from attnlab.distillation.sites import Key, StudentSpec
from attnlab.distillation.students import build_students
from attnlab.errors import AttnlabError
from attnlab.models import Translator
from attnlab.seeding import torch_generator
from attnlab.training.engine import Lessons, steps_every, train_model

FIT = TrainConfig(n_steps=600, batch_size=64, lr=1e-3, min_lr_fraction=0.0, weight_decay=0.0)
LRS = (3e-4, 1e-3, 3e-3)  # the candidates that every method is given
HELD_OUT_EVERY = 10
UNCLIPPED = 1e30  # gradients of students are used as they are


@dataclass(frozen=True, kw_only=True, slots=True)
class FitLog:
    """What one step did; layers in order."""

    step: int  # counted from 1
    loss: float  # relative, before the step, summed over the layers
    errors: tuple[float, ...] | None  # on the steps that measure them, see ``measure_errors``


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Trained students, by ``(site, layer)``, and how they got there."""

    students: dict[Key, Student]
    errors: dict[Key, float]  # of held-out sentences, of the weights that were kept
    logs: tuple[FitLog, ...] = ()

    @property
    def error(self) -> float:
        """Mean over the layers."""
        return sum(self.errors.values()) / len(self.errors)


def fit_students(
    teacher: Translator,
    batches: Iterable[TokenBatch] | Activations,
    *,
    held_out: Iterable[TokenBatch] | Activations | None = None,
    config: TrainConfig = FIT,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    eval_every: int = 100,
    **options: Any,
) -> Fitted:
    """Train one student for every layer of a site.

    Args:
        teacher: Gives the lessons; it is not changed.
        batches: Source and target tokens as ``collate_pairs`` makes them, ``PairBatches``, or
            lessons from ``collect_activations``.
        held_out: What errors are measured on; None: every tenth batch, which is then not learnt
            from.
        layers: None: all.
        seed: Of the students' initial weights; the order of the lessons has ``config.seed``.
        config, eval_every: See ``fit_steps``.
        options: What ``StudentSpec`` takes: ``site``, ``method``, ``size``, ``layout``, ...

    Raises:
        DivergenceError: A loss is not finite.
    """
    spec = StudentSpec(**options)
    if held_out is None:
        batches, held_out = _split(batches)
    lessons, exam = (
        part
        if isinstance(part, Activations)
        else collect_activations(teacher, part, spec=spec, layers=layers)
        for part in (batches, held_out)
    )
    students = build_students(teacher, spec=spec, seed=seed, layers=lessons.layers)
    steps = fit_steps(students, lessons, held_out=exam, config=config, eval_every=eval_every)
    logs = tuple(steps)
    errors = measure_errors(students, held_out=exam, batch_size=config.batch_size).tolist()
    return Fitted(students=students, errors=dict(zip(students, errors, strict=True)), logs=logs)


def fit_steps(
    students: Mapping[Key, Student],
    lessons: Activations,
    *,
    held_out: Activations,
    config: TrainConfig = FIT,
    eval_every: int = 100,
) -> Iterator[FitLog]:
    """Train students of one kind in place, and hand control back after each step.

    Nothing but the lessons is shared between them, so the result is that of training one after
    another. At every measurement each student is given the best weights it has had.

    Args:
        students: By ``(site, layer)`` for the layers of the lessons.
        held_out: What errors are measured on.
        config: ``n_steps``, ``batch_size`` (sentences), ``lr``, schedule, ``weight_decay`` (of
            matrices), the betas, ``precision`` and ``seed`` (order of the sentences) are used.
            Gradients are not clipped.
        eval_every: Steps between measurements.

    Raises:
        DivergenceError: A loss is not finite.
    """
    if lessons.layers != held_out.layers:
        raise AttnlabError(
            f"The lessons are of layers {lessons.layers}, the held-out ones of "
            f"{held_out.layers}. Collect both with the same layers."
        )
    kept = nn.ModuleList(students[lessons.spec.site, layer] for layer in lessons.layers)
    points = steps_every(eval_every, config.n_steps)
    for state in train_model(
        StudentLessons(lessons=lessons, held_out=held_out, batch_size=config.batch_size),
        copy.deepcopy(kept),
        replace(config, max_grad_norm=UNCLIPPED),
        points=points,
        best=kept,
    ):
        errors = [state.curve[f"error_{n}"][-1] for n in lessons.layers if state.step in points]
        yield FitLog(step=state.step, loss=state.loss_nats, errors=tuple(errors) or None)


@dataclass(frozen=True, kw_only=True)
class StudentLessons(Lessons):
    """What the students of a site learn from, for the engine: lessons in, relative errors out."""

    lessons: Activations
    held_out: Activations
    batch_size: int  # of held-out sentences

    def batches(
        self, students: nn.ModuleList, train: TrainConfig, *, start: int = 0
    ) -> Iterator[tuple[Captured, Tensor]]:
        """Yield lessons in the order of the seed; those of cut nets end at a random place."""
        for step in itertools.count(start):
            size, seed = train.batch_size, train.seed
            lesson = self.lessons.training_batch(step, batch_size=size, seed=seed)
            if students[0].spec.layout == "truncated":
                cut = cut_targets(lesson.padding, seed=seed, step=step)
                targets = mask_out(lesson.targets, cut)
                lesson = lesson._replace(target_padding=cut, targets=targets)
            yield lesson, lesson.targets

    def train_options(self, students: nn.ModuleList, train: TrainConfig) -> dict[str, Any]:
        """Return the sum of relative errors, and AdamW that decays maps, not gains and shifts."""
        is_cut = students[0].spec.layout == "truncated"
        how = {"sees_future": True} if is_cut else {}  # as far as the cut

        def loss(lesson: Captured, targets: Tensor) -> Tensor:
            n_numbers = (~lesson.padding).sum().clamp(min=1) * targets.shape[-1]
            losses = []
            for student, x, y in zip(students, lesson.inputs, targets, strict=True):
                found = student(x, **lesson.context, **how)  # zero at padding, as the target
                losses.append(F.mse_loss(found.to(y.dtype), y, reduction="sum"))
            return (torch.stack(losses) / n_numbers / self.held_out.variance).sum()

        groups = []
        for is_map in (True, False):
            params = [w for n, w in students.named_parameters() if n.endswith("weight") == is_map]
            decay = train.weight_decay if is_map else 0.0
            groups.append({"params": params, "weight_decay": decay})
        betas = (train.beta_1, train.beta_2)
        optimizer = torch.optim.AdamW(groups, lr=train.lr, betas=betas, fused=True)
        return {"loss": loss, "count": len, "optimizer": optimizer}

    def validate(self, students: nn.ModuleList) -> dict[str, float]:
        """Return the error of each layer's student on held-out sentences."""
        how = {"held_out": self.held_out, "batch_size": self.batch_size}
        errors = measure_errors(students, **how)
        return {f"error_{n}": e for n, e in zip(self.lessons.layers, errors.tolist(), strict=True)}


@torch.no_grad()
def measure_errors(
    students: Mapping[Key, Student] | Iterable[nn.Module],
    *,
    held_out: Activations,
    batch_size: int = 64,
) -> Tensor:
    """Return how far students are from the teacher, ``(n_layers,)``; a constant has 1.

    Relative squared errors of what is added to the residual stream, so that methods compare. A
    causal cross net is measured as it is used, prefix by prefix; the paper's with the whole
    target before it, as it is trained. ``student.sees_future`` changes that.

    Args:
        students: By ``(site, layer)``, or those of the layers of the lessons in order.
    """
    if isinstance(students, Mapping):
        students = [students[held_out.spec.site, layer] for layer in held_out.layers]
    wrong = torch.zeros_like(held_out.update_spread)
    for lesson in held_out.in_order(batch_size=batch_size):
        for i, student in enumerate(students):
            found = mask_out(student(lesson.inputs[i], **lesson.context), lesson.padding)
            moved = held_out.in_stream(i, found - lesson.targets[i])
            wrong[i] += moved.double().square().sum()
    return (wrong / held_out.update_spread).cpu()


def cut_targets(target_padding: Tensor, *, seed: int, step: int) -> Tensor:
    """Return the mask of targets cut at random, each to at least one of its tokens.

    Shapes:
        target_padding: ``(batch, time)``, true at padding; returns the same.
    """
    n_real = (~target_padding).sum(1).cpu()
    chance = torch.rand(len(n_real), generator=torch_generator(seed, f"truncate/{step}"))
    n_kept = 1 + (chance * n_real).long().clamp(max=n_real - 1)
    time = torch.arange(target_padding.shape[1])
    return target_padding | (time >= n_kept[:, None]).to(target_padding.device)


def _split(batches: Iterable[TokenBatch] | Activations) -> tuple[list, list]:
    """Return the batches to learn from, and every tenth, to measure errors on."""
    if isinstance(batches, Activations):
        raise AttnlabError("Lessons that were collected before need held_out lessons beside them.")
    listed = list(one_pass(batches))
    every = min(HELD_OUT_EVERY, len(listed))
    if every < 2:
        raise AttnlabError(
            f"{len(listed)} batch leaves nothing to hold out. Give more batches, or held_out."
        )
    kept = [batch for i, batch in enumerate(listed) if (i + 1) % every]
    return kept, listed[every - 1 :: every]
