"""The job of one arm, and what its record says whatever way it learns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from attnlab.config import TrainConfig, digest_of
from attnlab.distillation import StudentSpec
from attnlab.models import Translator
from attnlab.records import RunRecord, environment
from attnlab.studies.attentionless.arms import Arm, get_arm
from attnlab.studies.engine import Folders, Job
from attnlab.tasks import describe_score
from attnlab.training import steps_every
from attnlab.training.scores import TranslationScore

Key = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class ArmJob:
    """One arm for one teacher: everything that decides its numbers.

    Args:
        fit: Steps and rate of every student; ``batch_size`` counts sentences.
        n_lessons: Training sentences whose activations the students learn from.
        n_tuning_steps: Of an arm that is tuned after the swap.
    """

    variant: str
    teacher: Job
    fit: TrainConfig
    n_lessons: int
    n_tuning_steps: int

    @property
    def experiment(self) -> str:
        """Name of the experiment in the records."""
        return self.teacher.experiment

    @property
    def name(self) -> str:
        """What a progress bar shows."""
        return f"{self.experiment} {self.variant} seed {self.fit.seed}"

    @property
    def arm(self) -> Arm:
        """What is replaced by what, and how it learns."""
        return get_arm(self.variant)

    @property
    def train(self) -> TrainConfig:
        """How the whole is trained, where it begins from scratch."""
        teachers, arm = self.teacher.train, self.arm
        return replace(
            teachers, n_steps=arm.n_times * teachers.n_steps, lr=arm.lr_factor * teachers.lr
        )

    @property
    def points(self) -> set[int]:
        """Steps of the curve of a run from scratch."""
        n_steps = self.train.n_steps
        return steps_every(max(1, n_steps // 20), n_steps)

    @property
    def digest(self) -> str:
        """Twelve hex digits that name this exact job."""
        arm = self.arm
        parts = {
            site: part.to_dict() if isinstance(part, StudentSpec) else part
            for site, part in arm.parts.items()
        }
        unusual = {} if arm.unusual() == {"tunes": "students"} else arm.unusual()
        return digest_of(
            {
                "variant": self.variant,
                "teacher": self.teacher.digest,
                "fit": self.fit.to_dict(),
                "n_lessons": self.n_lessons,
                "parts": parts,
                "n_tuning_steps": self.n_tuning_steps if arm.is_tuned else 0,
                **({"learning": unusual} if unusual else {}),
            }
        )


def arm_record(
    job: ArmJob,
    score: TranslationScore,
    folders: Folders,
    *,
    stand_ins: Mapping[Key, nn.Module],
    config: dict[str, Any],
    metrics: dict[str, float],
    details: dict[str, Any],
    **facts: Any,
) -> RunRecord:
    """Return the record of an arm: its numbers, and what stands where attention stood.

    Args:
        stand_ins: By place.
        config: How it learnt, besides what the arm's name says.
        metrics: Besides those of ``score``.
        facts: What ``RunRecord`` takes besides: ``seconds``, ``curve``.
    """
    learning = job.arm.unusual()
    found, tables = describe_score(score)
    n_weights = sum(p.numel() for module in stand_ins.values() for p in module.parameters())
    return RunRecord(
        experiment=job.experiment,
        variant=job.variant,
        seed=job.fit.seed,
        config={
            "job": job.digest,
            "corpus": job.teacher.task["corpus"],
            **({"learning": learning} if learning else {}),
            **config,
        },
        metrics={"n_stand_in_weights": n_weights, **metrics, **found},
        details={**details, **tables},
        environment=environment(device=folders.device),
        **facts,
    )


def count_replaced(teacher: Translator, places: Iterable[Key]) -> int:
    """Return the weights of the attention that goes: queries, keys and values."""
    return sum(_site_weights(teacher, *place) for place in places)


def _site_weights(teacher: Translator, site: str, layer: int) -> int:
    stack = teacher.encoder if site == "encoder_self" else teacher.decoder
    name = "cross_attention" if site == "cross" else "self_attention"
    attention = getattr(stack[layer], name)
    maps = (attention.query, attention.key, attention.value)
    return sum(p.numel() for each in maps for p in each.parameters())
