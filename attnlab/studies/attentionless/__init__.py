"""Study ``attentionless``: a translation teacher, and what is left when its attention goes."""

from __future__ import annotations

from collections.abc import Generator

from attnlab.records import RunRecord
from attnlab.studies.attentionless.arm_job import ArmJob
from attnlab.studies.attentionless.arms import ARMS, Arm, get_arm
from attnlab.studies.attentionless.budgets import study_jobs, teacher_jobs
from attnlab.studies.attentionless.committed import (
    committed_teacher,
    export_job,
    list_committed,
    load_committed,
)
from attnlab.studies.attentionless.substitutes import load_teacher, run_arm
from attnlab.studies.attentionless.teacher import STUDY
from attnlab.studies.engine import Folders, Job, Progress, run_job
from attnlab.studies.study import Study, register_study
from attnlab.tasks import list_pair_datasets

__all__ = [
    "ARMS",
    "Arm",
    "ArmJob",
    "committed_teacher",
    "get_arm",
    "list_committed",
    "load_committed",
    "load_teacher",
    "study_jobs",
    "teacher_jobs",
]


def _run(job: Job | ArmJob, folders: Folders) -> Generator[Progress, None, RunRecord]:
    run = run_job(job, folders) if isinstance(job, Job) else run_arm(job, folders)
    return (yield from run)


register_study(
    Study(
        name=STUDY,
        summary="a translation teacher, and nets in place of its attention, site by site",
        variants=("teacher", *ARMS),
        corpora=list_pair_datasets(),
        jobs=study_jobs,
        run=_run,
        export=export_job,
    )
)
