"""Rows of a study that need no training: trivial answers on the data of its teachers."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace

from attnlab.records import RunRecord, environment
from attnlab.studies.arms import BASELINES
from attnlab.studies.engine import Folders, Job, Progress
from attnlab.tasks.trivial import score_trivial


def baseline_jobs(teacher: Job, *, variants: tuple[str, ...] = tuple(BASELINES)) -> list[Job]:
    """Return the jobs of trivial answers on a teacher's data; what is no baseline is left out.

    Nothing is random in them: make them of the teacher of one seed.
    """
    return [replace(teacher, variant=name, points=()) for name in variants if name in BASELINES]


def run_baseline(job: Job, folders: Folders) -> Generator[Progress, None, RunRecord]:
    """Answer the test as a baseline does; return the record."""
    name, started = job.variant.partition("/")[2], time.perf_counter()
    yield Progress(job=job.name, step=0, n_steps=1, message="answers without training")
    data = job.make_task(job).data
    metrics, details = score_trivial(name, data)
    return RunRecord(
        experiment=job.experiment,
        variant=job.variant,
        seed=job.train.seed,
        config={"job": job.digest, "corpus": job.task["corpus"], "task": dict(job.task)},
        metrics={"n_weights": 0, "tokens_seen": 0, **metrics},
        curve={},
        details={"data": data.facts, **details},
        seconds=time.perf_counter() - started,
        environment=environment(device=folders.device),
    )
