"""The jobs of a plan on an engine that exists: tasks of Dask, here or on other machines.

``attnlab study run NAME --scheduler local:2`` starts two processes on this machine; with the
address of a scheduler, as ``tcp://host:8786``, the workers that belong to it do the jobs. They
need this version of attnlab, and must see the folders of this process under the same names: each
job locks, resumes and records itself, as it does when several processes share a study.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from attnlab.analysis.timing import keep_pages
from attnlab.errors import AttnlabError
from attnlab.studies.engine import Folders, Progress
from attnlab.studies.study import Plan, jobs_of, run_plan

ONE_AT_A_TIME = threading.Lock()  # torch has one state of chance and one number of threads


def run_sweep(plan: Plan, *, scheduler: str, folders: Folders | None = None) -> Iterator[Progress]:
    """Run what a plan lacks, a job a task; a report says which job has ended, and how.

    The results are those of one process with as many threads of torch as this one has.

    Args:
        scheduler: ``local:N`` for N processes here, or the address of a Dask scheduler.
    Raises:
        UnknownNameError: A study, variant or corpus that does not exist, or not together.
        AttnlabError: Dask is not installed, the scheduler does not answer, or, after the last
            job, some of them failed.
    """
    where, jobs, tasks, failed = folders or Folders(), jobs_of(plan), {}, []
    where = replace(where, runs=where.runs.absolute(), work=where.work.absolute())
    with _client(scheduler) as client:
        from distributed import as_completed

        first: dict[str, Any] = {}
        for job in jobs:
            key = getattr(job, "teacher", job).digest  # what begins with a teacher waits for it
            how = (plan, job.digest, where, torch.get_num_threads(), sys.orig_argv, first.get(key))
            task = client.submit(_do, *how, key=f"{job.name} {job.digest}", pure=False)
            first.setdefault(key, task)
            tasks[task] = job.name
        for task in as_completed(tasks):
            is_done = task.status == "finished"
            message, problem = task.result() if is_done else ("lost", str(task.exception()))
            failed += [f"{tasks[task]}: {problem}"] if problem else []
            yield Progress(job=tasks[task], step=1, n_steps=1, message=message)
    if failed:
        raise AttnlabError(f"{len(failed)} of {len(jobs)} jobs failed. " + " ".join(failed))


def _do(
    plan: Plan, digest: str, folders: Folders, n_threads: int, command: Sequence[str], _: Any
) -> tuple[str, str]:
    """Do one job in a process of Dask; return its last word, and what went wrong."""
    keep_pages()
    message = ""
    with ONE_AT_A_TIME:
        torch.set_num_threads(n_threads)
        sys.orig_argv[:] = command  # a record names the command that asked for it
        try:
            for progress in run_plan(plan, folders=folders, digest=digest):
                message = progress.message
        except (AttnlabError, OSError) as error:
            return "failed", str(error)
    return message, ""


def _client(scheduler: str) -> Any:
    """Return a client of Dask; the processes that it starts here end with it."""
    try:
        from distributed import Client
    except ImportError as error:
        raise AttnlabError(
            f"--scheduler {scheduler} needs Dask: pip install 'attnlab[sweep]', or, in a checkout, "
            "pip install -e '.[sweep]' -c constraints.txt."
        ) from error
    try:
        if scheduler.startswith("local:"):
            quiet = {"dashboard_address": None, "silence_logs": logging.ERROR}
            n_workers = int(scheduler.removeprefix("local:"))
            if n_workers < 1:
                raise ValueError("N is 1 or more")
            return Client(n_workers=n_workers, threads_per_worker=1, **quiet)
        return Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise AttnlabError(
            f"No scheduler of Dask answers at {scheduler!r} ({error}). Give local:N for N "
            "processes here, or the address that `dask scheduler` prints, as tcp://host:8786."
        ) from error
