"""Small weights of the study that come with the workbook: teachers, and students for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from attnlab.distillation import Student, load_students, save_students
from attnlab.errors import UnknownNameError
from attnlab.models import Translator
from attnlab.paths import MODELS
from attnlab.studies.attentionless.arm_job import ArmJob, Key
from attnlab.studies.engine import Folders, Job
from attnlab.studies.study import export_model, export_name, work_of
from attnlab.training import load_translator

TEACHER = "teacher"


def committed_teacher(job: Job, *, folder: Path = MODELS) -> Translator | None:
    """Return the teacher of exactly this job if it came with the workbook, rounded to bfloat16."""
    path = _place(job.task["corpus"], folder) / export_name(TEACHER)
    if not path.exists():
        return None
    teacher, facts = load_translator(path)
    return teacher if facts["job"] == job.digest else None


def list_committed(corpus: str, *, folder: Path = MODELS) -> tuple[str, ...]:
    """Return the arms of which trained students came with the workbook."""
    paths = sorted(_place(corpus, folder).glob("*.safetensors"))
    return tuple(load_students(p)[1]["variant"] for p in paths if p.stem != TEACHER)


def load_committed(
    corpus: str, variant: str, *, folder: Path = MODELS
) -> tuple[Translator, dict[Key, Student], dict[str, Any]]:
    """Return a teacher, the students that learnt from it, for ``substitute``, and their facts.

    Raises:
        UnknownNameError: No students of that arm came with the workbook.
    """
    path = _place(corpus, folder) / export_name(variant)
    if variant == TEACHER or not path.exists():
        known = list_committed(corpus, folder=folder)
        step = "Train it with: attnlab study run attentionless."
        raise UnknownNameError(f"committed arm of {corpus}", variant, known, next_step=step)
    teacher, _ = load_translator(_place(corpus, folder) / export_name(TEACHER))
    return teacher, *load_students(path)


def export_job(job: Job | ArmJob, folders: Folders, to: Path) -> Iterator[Path]:
    """Copy what a finished job trained, in bfloat16: a teacher, or students."""
    if isinstance(job, Job):
        yield from export_model(job, folders, to)
        return
    students, facts = load_students(work_of(job, folders, kind="students"))
    path = to / export_name(job.variant)
    save_students(path, students=students, dtype=torch.bfloat16, seed=job.fit.seed, **facts)
    yield path


def _place(corpus: str, folder: Path) -> Path:
    return folder / corpus.replace("/", "-")
