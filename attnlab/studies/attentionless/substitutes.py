"""Put one arm in a teacher's place: fit its students, swap them in, translate, record."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from attnlab.distillation import (
    StudentSpec,
    build_controls,
    build_students,
    length_ratio,
    save_students,
    substitute,
)
from attnlab.errors import AttnlabError
from attnlab.models import Translator
from attnlab.records import RunRecord
from attnlab.studies.attentionless.arm_job import ArmJob, Key, arm_record, count_replaced
from attnlab.studies.attentionless.arms import PART, Arm
from attnlab.studies.attentionless.committed import committed_teacher
from attnlab.studies.attentionless.scratch import run_from_scratch
from attnlab.studies.attentionless.taught import (
    Taught,
    collect_lessons,
    teach,
    teacher_weights,
)
from attnlab.studies.attentionless.teacher import translation_task
from attnlab.studies.engine import Folders, Job, Progress, run_job, work_file
from attnlab.tasks import PairDataset, TranslationTask
from attnlab.training import load_translator, train_model


def run_arm(job: ArmJob, folders: Folders) -> Generator[Progress, None, RunRecord]:
    """Fit, swap, translate; return the record.

    A teacher that is recorded but not here is trained again first, which takes as long as it
    took. ``relative_error`` is that of the fit, also where students are tuned afterwards.
    """
    if job.arm.begins == "scratch":
        return (yield from run_from_scratch(job, folders))
    if not has_teacher(job.teacher, folders):
        yield from run_job(job.teacher, folders)
    started = time.perf_counter()
    precision = teacher_weights(job.teacher, folders)  # another process may change it meanwhile
    teacher, task = load_teacher(job.teacher, folders), translation_task(job.teacher)
    data = task.data
    baseline = copy.deepcopy(teacher)
    found: dict[str, Taught] = {}
    for site, part in job.arm.parts.items():
        yield Progress(job=job.name, step=0, n_steps=1, message=f"{site}: reading lessons")
        found[site] = _stand_ins(job, teacher, data, site, part, folders, precision)
    stand_ins = {key: m for taught in found.values() for key, m in taught.modules.items()}
    n_replaced = count_replaced(teacher, stand_ins)
    with substitute(teacher, stand_ins):
        n_tuned = job.n_tuning_steps if job.arm.is_tuned else 0
        for step in _tune(job, teacher, stand_ins, task, n_steps=n_tuned):
            yield Progress(job=job.name, step=step, n_steps=n_tuned, message="tuning")
        score = task.translate(teacher)
    share = task.share(score, baseline)
    if _can_be_kept(job.arm):
        file = work_file(job, folders, "students")
        save_students(file, students=stand_ins, job=job.digest, variant=job.variant)
    facts = _learning_facts(found)
    return arm_record(
        job,
        score,
        folders,
        stand_ins=stand_ins,
        config={
            "teacher": job.teacher.digest,
            "teacher_weights": precision,
            **facts.config,
            "n_lessons": job.n_lessons,
            "n_tuning_steps": n_tuned,
            "fit": job.fit.to_dict(),
        },
        metrics={
            "n_replaced_weights": n_replaced,
            **(
                {}
                if share is None
                else {
                    "bleu_share": share.value,
                    "bleu_share_low": share.low,
                    "bleu_share_high": share.high,
                }
            ),
            **facts.metrics,
        },
        details=facts.details,
        seconds=time.perf_counter() - started,
    )


class _Facts(NamedTuple):
    """What a record says of how students learnt from activations."""

    config: dict[str, Any]
    metrics: dict[str, float]
    details: dict[str, Any]


def _learning_facts(found: Mapping[str, Taught]) -> _Facts:
    errors = [(*key, error) for taught in found.values() for key, error in taught.errors.items()]
    rates = [
        {"site": site, "lr": lr, "relative_error": error}
        for site, taught in found.items()
        for lr, error in taught.rates.items()
    ]
    before = {site: taught.taught_by for site, taught in found.items() if taught.taught_by}
    layers = [{"site": site, "layer": n, "relative_error": e} for site, n, e in errors]
    return _Facts(
        config={"taught_before": before} if before else {},
        metrics={"relative_error": sum(e for *_, e in errors) / len(errors)} if errors else {},
        details={"layers": layers, **({"rates": rates} if rates else {})},
    )


def has_teacher(job: Job, folders: Folders) -> bool:
    """Say whether a teacher's weights are here: trained here, or committed."""
    return work_file(job, folders, "model").exists() or committed_teacher(job) is not None


def load_teacher(job: Job, folders: Folders) -> Translator:
    """Return the trained teacher of a job: as trained here, or as committed, in bfloat16.

    Raises:
        AttnlabError: It is neither trained here nor committed.
    """
    path = work_file(job, folders, "model")
    teacher = load_translator(path)[0] if path.exists() else committed_teacher(job)
    if teacher is None:
        raise AttnlabError(
            f"{job.name} is not trained here: {path.name} is missing. Run the study with "
            "--variants teacher and the same scale, corpus and seeds first."
        )
    return teacher.to(folders.device)


def _stand_ins(
    job: ArmJob,
    teacher: Translator,
    data: PairDataset,
    site: str,
    part: PART,
    folders: Folders,
    precision: str,
) -> Taught:
    seed = job.fit.seed
    if not isinstance(part, StudentSpec):
        controls = build_controls(
            part,
            teacher=teacher,
            site=site,
            activations=collect_lessons(job, teacher, data, StudentSpec(site=site)),
            spec=StudentSpec(site=site, size="m"),
            ratio=length_ratio(data.train) if site == "cross" else 1.0,
            seed=seed,
        )
        return Taught(modules=controls)
    if job.arm.begins == "untrained":
        return Taught(modules=build_students(teacher, spec=part, seed=seed))
    return teach(job, teacher, data, part, folders, precision=precision)


def _can_be_kept(arm: Arm) -> bool:
    """Say whether the students are all that is new: no controls, and the body is the teacher's."""
    are_students = all(isinstance(part, StudentSpec) for part in arm.parts.values())
    return are_students and arm.tunes != "everything"


def _tune(
    job: ArmJob,
    teacher: Translator,
    stand_ins: Mapping[Key, nn.Module],
    task: TranslationTask,
    *,
    n_steps: int,
) -> Generator[int, None, None]:
    """Go on learning from the translations themselves: the students alone, or everything."""
    if n_steps == 0:
        return
    teacher.requires_grad_(job.arm.tunes == "everything")
    for student in stand_ins.values():
        student.requires_grad_(True)
    config = replace(job.fit, n_steps=n_steps)
    for state in train_model(task, teacher, config):
        yield state.step
