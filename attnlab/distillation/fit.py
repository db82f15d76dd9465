"""Teach students of all layers at once, from what a teacher's attention read and wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from attnlab.config import TrainConfig
from attnlab.distillation.base import Student
from attnlab.distillation.capture import (
    Activations,
    LiveActivations,
    TokenBatch,
    chosen_layers,
    collect_activations,
    one_pass,
)
from attnlab.distillation.measure import Lessons, Students, measure_errors
from attnlab.distillation.sites import Key, StudentSpec
from attnlab.distillation.steps import FIT, FitLog, fit_steps
from attnlab.distillation.students import build_students
from attnlab.errors import AttnlabError
from attnlab.models import Translator

LRS = (3e-4, 1e-3, 3e-3)  # the candidates that every method is given
HELD_OUT_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Trained students, by ``(site, layer)``, and how they got there."""

    students: dict[Key, Student]
    errors: dict[Key, float]  # of held-out sentences, of the weights that were kept
    head_errors: dict[Key, tuple[float, ...]] = field(default_factory=dict)
    logs: tuple[FitLog, ...] = ()

    @property
    def error(self) -> float:
        """Mean over the layers."""
        return sum(self.errors.values()) / len(self.errors)


def fit_students(
    teacher: Translator,
    batches: Iterable[TokenBatch] | Activations,
    *,
    site: str = "encoder_self",
    method: str = "alr",
    size: str = "m",
    seed: int = 0,
    lr: float | None = None,
    options: Mapping[str, Any] | None = None,
    **how: Any,
) -> Fitted:
    """Train one student for every layer of a site, all of them side by side.

    Args:
        teacher: Gives the lessons; it is not changed.
        batches: Source and target tokens as ``collate_pairs`` makes them, ``PairBatches``, or
            lessons from ``collect_activations``.
        site: ``encoder_self``, ``decoder_self`` or ``cross``.
        method: ``alr``, ``aslr``, ``alrr`` or ``elr``.
        size: ``xs`` to ``xl``.
        seed: Of the students' initial weights; the order of the lessons has ``config.seed``.
        lr: Peak of the schedule; None: of ``config``.
        options: What else ``StudentSpec`` takes, such as ``layout``.
        how: What ``fit_arms`` takes besides: ``held_out``, ``config``, ``layers``, ``patience``,
            ``checkpoint``, ...

    Raises:
        DivergenceError: A loss is not finite.
    """
    spec = StudentSpec(site=site, method=method, size=size, **(options or {}))
    name = spec.label
    lrs = None if lr is None else {name: lr}
    return fit_arms(teacher, batches, arms={name: spec}, seeds={name: seed}, lrs=lrs, **how)[name]


def fit_arms(
    teacher: Translator,
    batches: Iterable[TokenBatch] | Activations,
    *,
    arms: Mapping[str, StudentSpec],
    held_out: Iterable[TokenBatch] | Activations | None = None,
    config: TrainConfig = FIT,
    layers: Sequence[int] | None = None,
    seeds: Mapping[str, int] | None = None,
    lrs: Mapping[str, float] | None = None,
    dtype: torch.dtype | None = None,
    is_live: bool = False,
    watch: Callable[[FitLog], object] | None = None,
    **how: Any,
) -> dict[str, Fitted]:
    """Train several kinds of students on the same lessons: sizes, methods, layouts or rates.

    Args:
        arms: What to train, by a name of your own; one site, and either ``alr`` and ``aslr`` or
            one of the others, because these are given other lessons.
        held_out: None: every tenth batch, which is then not learnt from.
        layers: None: all.
        seeds: Of the initial weights of an arm; 0 where none is given.
        lrs: Peak rate of an arm; of ``config`` where none is given.
        dtype: Of the lessons in memory; ``torch.bfloat16`` halves them.
        is_live: Run the teacher at every step instead of keeping its lessons; ``batches`` are
            then indexed, and ``config.batch_size`` is not used.
        watch: Is handed every log.
        how: What ``fit_steps`` takes besides: ``eval_every``, ``patience``, ``checkpoint``.
    """
    first = _common_lessons(arms)
    chosen = chosen_layers(teacher, first, layers)
    lessons, exam = _lessons(teacher, batches, held_out, first, chosen, dtype, is_live)
    students = {
        name: build_students(teacher, spec=spec, seed=(seeds or {}).get(name, 0), layers=chosen)
        for name, spec in arms.items()
    }
    logs = []
    for log in fit_steps(students, lessons, held_out=exam, config=config, lrs=lrs, **how):
        logs.append(log)
        if watch is not None:
            watch(log)
    return {name: _fitted(arm, exam, config, tuple(logs)) for name, arm in students.items()}


def choose_lr(
    teacher: Translator,
    batches: Iterable[TokenBatch] | Activations,
    *,
    spec: StudentSpec,
    lrs: Sequence[float] = LRS,
    config: TrainConfig = FIT,
    **how: Any,
) -> tuple[float, dict[float, float]]:
    """Try each rate on the same lessons; return the best one and the held-out error of each.

    The budget is ``len(lrs) * config.n_steps`` steps for any method and size, so that no method
    is tuned more than another.

    Args:
        spec: What to train.
        how: What ``fit_arms`` takes besides.
    """
    names = {f"{lr:g}": lr for lr in lrs}
    arms = dict.fromkeys(names, spec)
    fitted = fit_arms(teacher, batches, arms=arms, lrs=names, config=config, **how)
    errors = {names[name]: arm.error for name, arm in fitted.items()}
    return min(errors, key=lambda lr: errors[lr]), errors


def _common_lessons(arms: Mapping[str, StudentSpec]) -> StudentSpec:
    """Return what the lessons of all arms are, or say that they need different ones."""
    if not arms:
        raise AttnlabError("There is nothing to train; give at least one arm.")
    first = next(iter(arms.values()))
    kinds = {(s.site, "heads" if s.replaces_heads else s.method) for s in arms.values()}
    if len(kinds) > 1:
        raise AttnlabError(
            f"These arms need different lessons: {', '.join(map(str, sorted(kinds)))}. Fit them "
            "in calls of their own."
        )
    return StudentSpec(site=first.site, method=first.method)


def _lessons(
    teacher: Translator,
    batches: Iterable[TokenBatch] | Activations,
    held_out: Iterable[TokenBatch] | Activations | None,
    spec: StudentSpec,
    layers: tuple[int, ...],
    dtype: torch.dtype | None,
    is_live: bool,
) -> tuple[Lessons, Activations]:
    if held_out is None:
        batches, held_out = _split(batches)
    options: dict[str, Any] = {"spec": spec, "layers": layers, "dtype": dtype}
    exam = held_out
    if not isinstance(exam, Activations):
        exam = collect_activations(teacher, exam, **options)
    if isinstance(batches, Activations):
        return batches, exam
    if is_live:
        return LiveActivations(teacher=teacher, batches=batches, spec=spec, layers=layers), exam
    return collect_activations(teacher, batches, **options), exam


def _split(batches: Iterable[TokenBatch] | Activations) -> tuple[list, list]:
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


def _fitted(
    students: Students, exam: Activations, config: TrainConfig, logs: tuple[FitLog, ...]
) -> Fitted:
    errors = measure_errors(students, held_out=exam, batch_size=config.batch_size)
    keys = [(exam.spec.site, layer) for layer in exam.layers]
    heads = {} if errors.heads is None else dict(zip(keys, errors.heads.tolist(), strict=True))
    return Fitted(
        students={key: students[key] for key in keys},
        errors=dict(zip(keys, errors.update.tolist(), strict=True)),
        head_errors={key: tuple(values) for key, values in heads.items()},
        logs=logs,
    )
