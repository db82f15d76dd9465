"""Students taught from a teacher's activations: once, for every arm that wants the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from attnlab.config import digest_of
from attnlab.distillation import (
    LRS,
    Activations,
    StudentSpec,
    collect_activations,
    fit_students,
    load_students,
    save_students,
)
from attnlab.models import Translator
from attnlab.records import commit
from attnlab.studies.attentionless.arm_job import ArmJob, Key
from attnlab.studies.attentionless.teacher import STUDY
from attnlab.studies.engine import Folders, Job, work_file
from attnlab.tasks import PairDataset
from attnlab.training import collate_pairs

LESSON_PAIRS = 256  # sentences that the teacher reads at a time


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What stands in at every layer of a site, and what is known of its learning."""

    modules: Mapping[Key, nn.Module]
    errors: Mapping[Key, float] = field(default_factory=dict)  # on held-out sentences
    rates: Mapping[float, float] = field(default_factory=dict)  # error of each that was tried
    taught_by: str = ""  # commit, where another arm had them taught before


def teach(
    job: ArmJob,
    teacher: Translator,
    data: PairDataset,
    spec: StudentSpec,
    folders: Folders,
    *,
    precision: str,
) -> Taught:
    """Return students that learnt to do what the attention of a site does.

    They are kept for other arms that ask for the same ones. The file names the commit that
    taught them; delete ``taught-*`` in the study's work folder after a change of how they learn.

    Args:
        precision: Of the teacher's weights, from ``teacher_weights``.
    """
    lrs = LRS if job.arm.has_best_lr else (job.fit.lr,)
    path = _kept(job, spec, lrs, folders, precision)
    if path.exists():
        return _read(path)
    lessons, held_out = (
        collect_lessons(job, teacher, data, spec, held_out=is_held_out)
        for is_held_out in (False, True)
    )
    arms = {
        lr: fit_students(
            teacher,
            lessons,
            held_out=held_out,
            config=replace(job.fit, lr=lr),
            seed=job.fit.seed,
            **spec.to_dict(),
        )
        for lr in lrs
    }
    best = min(arms.values(), key=lambda fitted: fitted.error)
    rates = {lr: arms[lr].error for lr in lrs} if job.arm.has_best_lr else {}
    errors = [[layer, error] for (_, layer), error in best.errors.items()]
    save_students(
        path,
        students=best.students,
        errors=errors,
        rates=list(rates.items()),
        commit=commit(),
    )
    return Taught(modules=best.students, errors=best.errors, rates=rates)


def collect_lessons(
    job: ArmJob,
    teacher: Translator,
    data: PairDataset,
    spec: StudentSpec,
    *,
    held_out: bool = False,
) -> Activations:
    """Return what the teacher's attention read and wrote, on training or validation pairs."""
    pairs = data.validation if held_out else data.train[: job.n_lessons]
    chunks = (pairs[i : i + LESSON_PAIRS] for i in range(0, len(pairs), LESSON_PAIRS))
    batches = [collate_pairs(chunk, device=teacher.device) for chunk in chunks]
    kind = StudentSpec(site=spec.site, method=spec.method)
    return collect_activations(teacher, batches, spec=kind)


def teacher_weights(job: Job, folders: Folders) -> str:
    """Return the precision of the teacher that is here: trained here, or committed."""
    return "float32" if work_file(job, folders, "model").exists() else "bfloat16"


def _kept(
    job: ArmJob, spec: StudentSpec, lrs: tuple[float, ...], folders: Folders, precision: str
) -> Path:
    digest = digest_of(
        {
            "teacher": job.teacher.digest,
            "teacher_weights": precision,
            "spec": spec.to_dict(),
            "fit": job.fit.to_dict(),
            "lrs": list(lrs),
            "n_lessons": job.n_lessons,
        }
    )
    return folders.work_file(STUDY, f"taught-{digest}.safetensors")


def _read(path: Path) -> Taught:
    students, facts = load_students(path)
    ((site, _), *_) = students
    return Taught(
        modules=students,
        errors={(site, layer): error for layer, error in facts["errors"]},
        rates=dict(facts["rates"]),
        taught_by=facts.get("commit", "unknown"),
    )
