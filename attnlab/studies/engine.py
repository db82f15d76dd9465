"""A job of a study: one training by the engine, with its checkpoint, that ends in one record.

What a new study needs is a task and a list of jobs::

    def jobs(plan):                                          # Plan: scale, corpus, variants, seeds
        train = TrainConfig(n_steps=BUDGETS[plan.scale], lr=3e-3)
        return grid(plan, variants={"she": ModelConfig(mixer="she")}, train=train,
                    make_task=lambda job: StreamTask(train=..., held_out=...), points={100, 200})

    register_study(Study(name="mine", summary="what differs, and how it is judged",
                         variants=("she",), corpora=("ring",), jobs=jobs))

For a training without a study, a folder or a record, see ``attnlab.training.engine``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import nn

from attnlab.config import TrainConfig, digest_of
from attnlab.paths import OWN_RUNS, WORK
from attnlab.records import RunRecord, environment
from attnlab.seeding import torch_generator
from attnlab.tasks import Task
from attnlab.training import State, save_model, train_model
from attnlab.training.loop import products
from attnlab.training.parallel import agree, is_first

WAIT_S = 5.0  # between looks at what another process does


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a running job says from time to time."""

    job: str
    step: int
    n_steps: int
    message: str


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where a study computes and writes: records to keep, and work that can be thrown away."""

    runs: Path = OWN_RUNS
    work: Path = WORK
    device: str = "cpu"

    def run_file(self, study: str) -> Path:
        """Return the JSON lines file of a study."""
        return self.runs / f"{study}.jsonl"

    def work_file(self, study: str, name: str) -> Path:
        """Return a file for unfinished work of a study."""
        folder = self.work / study
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training, and everything that decides its numbers.

    Args:
        experiment: Study, scale and corpus, as in the records.
        task: What is set besides model and training, as plain JSON.
        make_task: From the job to its task.
        points: Steps after which a point is added to the curve.
    """

    experiment: str
    variant: str
    model: Any  # a configuration
    train: TrainConfig
    task: Mapping[str, Any] = field(default_factory=dict)
    make_task: Callable[[Job], Task]
    points: Collection[int] = ()

    @property
    def name(self) -> str:
        """What a progress bar shows."""
        return f"{self.experiment} {self.variant} seed {self.train.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that was set, as plain JSON."""
        return {**self.task, "model": self.model.to_dict(), "train": self.train.to_dict()}

    @property
    def digest(self) -> str:
        """Twelve hex digits that name this exact job."""
        names = {"experiment": self.experiment, "variant": self.variant}
        return digest_of({**names, **self.settings})


def work_file(job: Any, folders: Folders, kind: str) -> Path:
    """Return where a job keeps its ``checkpoint``, its trained ``model`` or its ``students``."""
    study = job.experiment.partition("/")[0]
    return folders.work_file(study, f"{job.digest}.{kind}.safetensors")


def lock_of(job: Any, folders: Folders) -> FileLock:
    """Return the lock that whoever runs a job holds meanwhile."""
    study = job.experiment.partition("/")[0]
    return FileLock(folders.work_file(study, f"{job.digest}.lock"))


@contextmanager
def held(lock: FileLock) -> Iterator[bool]:
    """Try to take a lock, for all processes that train together; yield whether that worked."""
    try:
        if is_first():
            with suppress(Timeout):
                lock.acquire(timeout=0)
        yield agree(lock.is_locked)
    finally:
        lock.release()


def by_one(
    job: Any, folders: Folders, path: Path, work: Callable[[], Iterator[Progress]]
) -> Iterator[Progress]:
    """Do some work that leaves a file, unless it is there; other processes wait for it."""
    while not path.exists():
        with held(lock_of(job, folders)) as is_ours:
            if is_ours and not path.exists():
                yield from work()
        if not is_ours:
            yield Progress(job=job.name, step=0, n_steps=1, message="another process does this")
            time.sleep(WAIT_S)


def grid(plan: Any, *, variants: Mapping[str, Any], train: TrainConfig, **how: Any) -> list[Job]:
    """Return a job for each seed and variant, seed by seed: an early stop leaves whole seeds.

    Args:
        variants: Models by name; those that the plan names, or all.
        how: What ``Job`` takes besides.
    """
    return [
        Job(experiment=plan.name, variant=name, model=variants[name],
            train=replace(train, seed=seed), **how)
        for seed in plan.seeds
        for name in plan.variants or variants
    ]  # fmt: skip


def run_job(job: Job, folders: Folders) -> Generator[Progress, None, RunRecord]:
    """Train one job to its end, from its checkpoint if there is one, and return the record."""
    task = job.make_task(job)
    generator = torch_generator(job.train.seed, "init")
    model = task.build(job.model, generator=generator).to(folders.device)
    state = yield from train_job(job, task, model, folders)
    with products(job.train.precision):
        metrics, details = task.score(model.eval())
    record = RunRecord(
        experiment=job.experiment,
        variant=job.variant,
        seed=job.train.seed,
        config={"job": job.digest, "corpus": job.experiment.split("/", 2)[2], **job.settings},
        metrics={**training_metrics(model, state), **metrics},
        curve=state.curve,
        details={"data": task.facts, **details},
        seconds=state.seconds,
        environment=environment(device=folders.device),
    )
    facts = {"variant": job.variant, "experiment": job.experiment, "job": job.digest}
    save_model(work_file(job, folders, "model"), model=model, **facts)
    return record


def train_job(
    job: Any, task: Task, model: nn.Module, folders: Folders
) -> Generator[Progress, None, State]:
    """Train a model as ``job.train`` says, from the job's checkpoint if there is one."""
    state, checkpoint = State(), work_file(job, folders, "checkpoint")
    steps = train_model(
        task, model, job.train, points=job.points, state=state, checkpoint=checkpoint
    )
    for _ in steps:
        message = f"train {state.loss_nats:.3f} nats"
        if state.curve.get("loss_nats"):
            message += f", validation {state.curve['loss_nats'][-1]:.3f}"
        yield Progress(job=job.name, step=state.step, n_steps=job.train.n_steps, message=message)
    return state


def training_metrics(model: nn.Module, state: State) -> dict[str, float]:
    """Return what a record says of a training that has ended, whatever was trained.

    ``train_loss_nats`` is the mean since the point of the curve before the last.
    """
    return {
        "n_weights": sum(p.numel() for p in model.parameters()),
        "tokens_seen": state.tokens_seen,
        "train_loss_nats": state.curve["train_loss_nats"][-1],
        "train_loss_nats_run_mean": state.loss_sum / state.step,
    }
