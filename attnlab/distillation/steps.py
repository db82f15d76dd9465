"""One step of teaching: students of many layers and kinds, stacked, on the same lessons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import TrainConfig, digest_of
from attnlab.distillation.base import Student
from attnlab.distillation.capture import ActivationBatch, Activations
from attnlab.distillation.measure import Lessons, Students, measure_errors, stack_for
from attnlab.distillation.nets import mask_out
from attnlab.errors import AttnlabError, CheckpointError, DivergenceError
from attnlab.seeding import torch_generator
from attnlab.training.checkpoint import load_checkpoint, save_checkpoint
from attnlab.training.loop import autocast, learning_rate

FIT = TrainConfig(n_steps=600, batch_size=64, lr=1e-3, min_lr_fraction=0.0, weight_decay=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class FitLog:
    """What one step did, for each arm and, within it, each layer in order.

    ``losses`` are relative: mean squared error over the variance of what is predicted (with
    ``alrr`` and ``elr``, of the update of the stream). ``errors`` are those of held-out
    sentences, on the steps that measure them, see ``StudentErrors``.
    """

    step: int  # counted from 1
    losses: dict[str, tuple[float, ...]]  # before the step
    errors: dict[str, tuple[float, ...]] | None
    lr: float
    sentences_seen: int


def fit_steps(
    arms: Mapping[str, Students],
    lessons: Lessons,
    *,
    held_out: Activations,
    config: TrainConfig = FIT,
    lrs: Mapping[str, float] | None = None,
    eval_every: int = 100,
    patience: int | None = None,
    checkpoint: Path | None = None,
) -> Iterator[FitLog]:
    """Train students in place, one step at a time, and hand control back after each.

    The students of an arm are stacked, so that a step is a few batched products however many
    layers there are; nothing but the lessons is shared between them, so the result is that of
    training one after another. At every measurement each student is given its best weights.

    Args:
        arms: Students by ``(site, layer)`` for the layers of the lessons, under a name.
        held_out: What errors are measured on.
        config: ``n_steps``, ``batch_size`` (sentences), ``lr``, schedule, ``weight_decay`` (of
            matrices), the betas, ``precision`` and ``seed`` (order of the sentences) are used.
            Gradients are not clipped.
        lrs: Peak rate of an arm; of ``config`` where none is given.
        eval_every: Steps between measurements.
        patience: Measurements without a better one after which a student stops; None: never.
        checkpoint: Written at every measurement; if it is there already, the fit goes on from it
            and gives the same bits as without the break.

    Raises:
        DivergenceError: A loss is not finite.
        CheckpointError: The checkpoint is of another fit.
    """
    fit = _Fit(arms, lessons, held_out, config, lrs or {}, patience)
    first_step = fit.resume(checkpoint) if checkpoint and Path(checkpoint).exists() else 0
    try:
        for step in range(first_step, config.n_steps):
            if fit.has_stopped:
                return
            losses, lr, n_sentences = fit.step(step)
            is_measured = (step + 1) % eval_every == 0 or step + 1 == config.n_steps
            errors = fit.measure() if is_measured else None
            if is_measured:
                fit.hand_back()
            if is_measured and checkpoint:
                fit.save(checkpoint, step + 1)
            yield FitLog(
                step=step + 1, losses=losses, errors=errors, lr=lr, sentences_seen=n_sentences
            )
    finally:
        fit.hand_back()


def relative_losses(
    stack: Student,
    batch: ActivationBatch,
    *,
    variance: Tensor,
    precision: str = "fp32",
    **context: Any,
) -> Tensor:
    """Return the loss of each student of a stack: mean squared error over ``variance``.

    Shapes:
        variance: ``(n_students,)``, as the result. The targets are zero at padding.
    Args:
        context: What ``run`` takes besides what the batch says.
    """
    with autocast(precision, batch.inputs.device):
        found = stack.run(batch.inputs, **{**batch.context, **context})  # zero at padding
    wrong = F.mse_loss(found.to(batch.targets.dtype), batch.targets, reduction="none")
    n_numbers = (~batch.padding).sum().clamp(min=1) * wrong.shape[-1]
    return wrong.sum((1, 2, 3)) / n_numbers / variance


def student_optimizer(
    stacks: Iterable[Student], *, lrs: Iterable[float], config: TrainConfig = FIT
) -> torch.optim.AdamW:
    """Return the optimiser of students: two groups a stack, matrices and the rest.

    Args:
        lrs: Rate of each stack.
        config: ``weight_decay`` (of matrices) and the betas are used.
    """
    groups = []
    for stack, lr in zip(stacks, lrs, strict=True):
        for is_matrix, decay in ((True, config.weight_decay), (False, 0.0)):
            named = stack.named_parameters()
            params = [w for n, w in named if n.endswith("weight") == is_matrix]
            groups.append({"params": params, "weight_decay": decay, "lr": lr})
    return torch.optim.AdamW(groups, betas=(config.beta_1, config.beta_2), fused=True)


class _Arm:
    """Students of one kind, stacked, and the best that each of them has been."""

    def __init__(self, name: str, students: Students, lessons: Lessons, lr: float) -> None:
        self.name, self.lr = name, lr
        self.students = [students[lessons.spec.site, layer] for layer in lessons.layers]
        self.stack = stack_for(students, lessons=lessons)
        self.best = stack_for(students, lessons=lessons).requires_grad_(False)
        self.best_errors = [math.inf] * len(self.students)
        self.n_worse = [0] * len(self.students)

    def losses(
        self, batch: ActivationBatch, step: int, variance: Tensor, how: TrainConfig
    ) -> Tensor:
        """Return the loss of each student."""
        context: dict[str, Any] = {"variance": variance, "precision": how.precision}
        if self.stack.spec.layout == "truncated":
            cut = cut_targets(batch.padding, seed=how.seed, step=step)
            batch = batch._replace(target_padding=cut, targets=mask_out(batch.targets, cut))
            context["sees_future"] = True
        return relative_losses(self.stack, batch, **context)

    def note(self, errors: Sequence[float], patience: int | None) -> None:
        """Keep the weights of the students that have become better."""
        for i, error in enumerate(errors):
            if self.has_stopped(i, patience):
                continue
            self.n_worse[i] += 1
            if error < self.best_errors[i]:
                self.best_errors[i], self.n_worse[i] = error, 0
                _copy_student(self.stack, self.best, i, len(self.students))

    def has_stopped(self, i: int, patience: int | None) -> bool:
        """Say whether a student's last measurements have all been worse than its best."""
        return patience is not None and self.n_worse[i] >= patience


class _Fit:
    """The state of a fit."""

    def __init__(
        self,
        arms: Mapping[str, Students],
        lessons: Lessons,
        held_out: Activations,
        config: TrainConfig,
        lrs: Mapping[str, float],
        patience: int | None,
    ) -> None:
        if lessons.layers != held_out.layers:
            raise AttnlabError(
                f"The lessons are of layers {lessons.layers}, the held-out ones of "
                f"{held_out.layers}. Collect both with the same layers."
            )
        self.lessons, self.held_out, self.config, self.patience = (
            lessons,
            held_out,
            config,
            patience,
        )
        self.arms = [_Arm(n, s, lessons, lrs.get(n, config.lr)) for n, s in arms.items()]
        n_numbers = held_out.inputs[0].numel()
        self.variance = (held_out.spread.target / n_numbers).to(held_out.dtype)
        self.optimizer = student_optimizer(
            [arm.stack for arm in self.arms], lrs=[arm.lr for arm in self.arms], config=config
        )
        self.n_sentences = 0

    @property
    def has_stopped(self) -> bool:
        """Whether no student learns any more."""
        return all(
            arm.has_stopped(i, self.patience) for arm in self.arms for i in range(len(arm.students))
        )

    def step(self, step: int) -> tuple[dict[str, tuple[float, ...]], float, int]:
        """Do one step; return losses, rate, and sentences seen."""
        config = self.config
        share = learning_rate(step, config) / config.lr
        rates = [arm.lr * share for arm in self.arms for _ in range(2)]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        batch = self.lessons.training_batch(step, batch_size=config.batch_size, seed=config.seed)
        self.optimizer.zero_grad(set_to_none=True)
        losses = {}
        for arm in self.arms:
            loss = arm.losses(batch, step, self.variance, config)
            loss.sum().backward()
            losses[arm.name] = tuple(loss.detach().tolist())
            if not all(map(math.isfinite, losses[arm.name])):
                raise DivergenceError(
                    f"The students of {arm.name} diverged at step {step + 1}: losses "
                    f"{losses[arm.name]}. Lower lr={arm.lr:g}, or lengthen warmup_steps."
                )
        self.optimizer.step()
        self.n_sentences += batch.inputs.shape[1]
        return losses, learning_rate(step, config), self.n_sentences

    def measure(self) -> dict[str, tuple[float, ...]]:
        """Return held-out errors, and keep the students that are better than before."""
        found = {}
        for arm in self.arms:
            errors = measure_errors(
                arm.stack, held_out=self.held_out, batch_size=self.config.batch_size
            )
            found[arm.name] = tuple(errors.update.tolist())
            arm.note(found[arm.name], self.patience)
        return found

    def hand_back(self) -> None:
        """Give every student its best weights; before any measurement, those it has."""
        for arm in self.arms:
            for i, error in enumerate(arm.best_errors):
                if error == math.inf:
                    _copy_student(arm.stack, arm.best, i, len(arm.students))
            arm.best.unstack(arm.students)

    def save(self, path: Path, step: int) -> None:
        """Write everything that is needed to go on."""
        facts = {"fit": self._digest(), "step": step, "n_sentences": self.n_sentences}
        notes = {arm.name: [arm.best_errors, arm.n_worse] for arm in self.arms}
        save_checkpoint(
            path, model=self._modules(), optimizer=self.optimizer, facts={**facts, "notes": notes}
        )

    def resume(self, path: Path) -> int:
        """Go back to a checkpoint; return the steps done before it."""
        facts = load_checkpoint(path, model=self._modules(), optimizer=self.optimizer)
        if facts.get("fit") != self._digest():
            raise CheckpointError(
                f"{path} belongs to another fit: its students, lessons or settings differ. "
                "Delete it, or use another path."
            )
        for arm in self.arms:
            arm.best_errors, arm.n_worse = facts["notes"][arm.name]
        self.n_sentences = facts["n_sentences"]
        return facts["step"]

    def _modules(self) -> nn.Module:
        names = {f"arm{i}": nn.ModuleList([a.stack, a.best]) for i, a in enumerate(self.arms)}
        return nn.ModuleDict(names)

    def _digest(self) -> str:
        lessons = [self.lessons.spec.to_dict(), list(self.lessons.layers)]
        arms = [[a.name, a.lr, a.stack.spec.to_dict(), a.stack.sizes] for a in self.arms]
        n_kept = getattr(self.lessons, "n_sentences", None)
        facts = {"config": self.config.to_dict(), "arms": arms, "lessons": [*lessons, n_kept]}
        return digest_of({**facts, "patience": self.patience})


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


def _copy_student(source: Student, target: Student, i: int, n_students: int) -> None:
    with torch.no_grad():
        for name, weight in source.named_parameters():
            target.get_parameter(name).chunk(n_students)[i].copy_(weight.chunk(n_students)[i])
