"""Named, seeded, resumable experiments: a plan of jobs, and one record for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from attnlab.config import ModelConfig, TrainConfig, TranslatorConfig, digest_of
from attnlab.corpora import Tokenizer, load_tokenizer
from attnlab.errors import AttnlabError, DivergenceError, UnknownNameError
from attnlab.paths import RUNS, WORK, write_whole
from attnlab.records import RunRecord, commit, read_records
from attnlab.training import load_model, load_translator, save_model

SCALES = ("smoke", "classroom", "paper")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a running job says from time to time."""

    job: str
    step: int
    n_steps: int
    message: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for: enough to ask again after an interruption."""

    study: str
    scale: str = "smoke"
    corpus: str = "tales"
    variants: tuple[str, ...] = ()  # empty means all of the study's
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        """Refuse a scale that no study has, and an empty set of seeds."""
        object.__setattr__(self, "variants", tuple(self.variants))
        object.__setattr__(self, "seeds", tuple(self.seeds))
        if self.scale not in SCALES:
            step = "smoke takes seconds, classroom minutes, paper hours on two cores."
            raise UnknownNameError("scale", self.scale, SCALES, next_step=step)
        if not self.seeds or min(self.seeds) < 0:
            raise AttnlabError(
                f"seeds={self.seeds}: a study needs at least one seed, none negative; "
                "give --seeds 0,1,2."
            )

    @property
    def name(self) -> str:
        """Name of the experiment in the records."""
        return f"{self.study}/{self.scale}/{self.corpus}"


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where a study computes and writes: records to keep, and work that can be thrown away."""

    runs: Path = RUNS
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
class TrainingJob:
    """One training of a study: a variant, a seed, and everything that decides its numbers."""

    experiment: str
    variant: str
    model: ModelConfig
    train: TrainConfig

    @property
    def name(self) -> str:
        """What a progress bar shows."""
        return f"{self.experiment} {self.variant} seed {self.train.seed}"

    @property
    def digest(self) -> str:
        """Twelve hex digits that name this exact job."""
        resolved = {"model": self.model.to_dict(), "train": self.train.to_dict()}
        return digest_of({**asdict(self), **resolved})


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study: how a plan becomes jobs, and how a job becomes a record.

    Args:
        jobs: From a plan to jobs; each job has ``name`` and ``digest``.
        run: From a job and its folders to progress reports; returns the record at its end.
        export: From a job, its folders and a target folder to the files it writes there; None:
            as ``export_model``.
    """

    name: str
    summary: str
    variants: tuple[str, ...]
    corpora: tuple[str, ...]
    jobs: Callable[[Plan], Sequence[Any]]
    run: Callable[[Any, Folders], Any]
    export: Callable[[Any, Folders, Path], Iterator[Path]] | None = None


_STUDIES: dict[str, Study] = {}


def register_study(study: Study) -> Study:
    """Make a study known by its name."""
    _STUDIES[study.name] = study
    return study


def list_studies() -> tuple[Study, ...]:
    """Return all studies."""
    return tuple(_STUDIES.values())


def get_study(name: str) -> Study:
    """Return a study by name."""
    if name not in _STUDIES:
        step = "See them with: attnlab study list."
        raise UnknownNameError("study", name, _STUDIES, next_step=step)
    return _STUDIES[name]


def run_plan(plan: Plan, *, folders: Folders | None = None) -> Iterator[Progress]:
    """Run what a plan lacks; finished jobs are skipped, begun ones go on from their checkpoint.

    Several processes may run the same plan: each job is done by one of them. A job that
    diverges is reported and the next one starts.

    Raises:
        UnknownNameError: A study, variant or corpus that does not exist, or not together.
        AttnlabError: After the last job, if some of them failed.
    """
    commit()  # of the code that was loaded, not of what is there when a job ends
    folders = folders or Folders()
    study = get_study(plan.study)
    for kind, wanted, known in (
        ("variant", plan.variants, study.variants),
        ("data set", [plan.corpus], study.corpora),
    ):
        for name in wanted:
            if name not in known:
                step = f"See what {study.name} knows with: attnlab study list."
                raise UnknownNameError(kind, name, known, next_step=step)
    jobs = study.jobs(plan)
    _remember(plan, folders)
    failed = []
    for job in jobs:
        lock = FileLock(folders.work_file(plan.study, f"{job.digest}.lock"))
        try:
            with lock.acquire(timeout=0):
                yield from _run_job(study, job, folders)
        except Timeout:
            yield Progress(job=job.name, step=0, n_steps=1, message="another process has it")
        except DivergenceError as error:
            failed.append(f"{job.name}: {error}")
            yield Progress(job=job.name, step=0, n_steps=1, message="diverged")
    if failed:
        raise AttnlabError(f"{len(failed)} of {len(jobs)} jobs diverged. " + " ".join(failed))


def _run_job(study: Study, job: Any, folders: Folders) -> Iterator[Progress]:
    if job.digest in finished_digests(study.name, folders):
        yield Progress(job=job.name, step=1, n_steps=1, message="recorded before")
        return
    record: RunRecord = yield from study.run(job, folders)
    record.append_to(folders.run_file(study.name))
    checkpoint_file(job, folders, study=study.name).unlink(missing_ok=True)


def checkpoint_file(job: Any, folders: Folders, *, study: str) -> Path:
    """Return where an unfinished job keeps its checkpoint."""
    return folders.work_file(study, f"{job.digest}.checkpoint.safetensors")


def machine_facts(folders: Folders) -> dict[str, Any]:
    """Return what must not change over an interruption for the numbers to be bit-equal."""
    return {"threads": torch.get_num_threads(), "device": folders.device}


def same_machine(facts: dict[str, Any], folders: Folders) -> dict[str, Any]:
    """Return a checkpoint's facts without ``machine_facts``, if this process computes alike.

    Raises:
        AttnlabError: The run was begun with other threads or on another device.
    """
    for name, here in machine_facts(folders).items():
        before = facts[name]
        if before != here:
            raise AttnlabError(
                f"The run was begun with --{name} {before}, and this process has {here}: its "
                f"numbers would differ. Go on with --{name} {before}, or delete its checkpoint."
            )
    return {name: fact for name, fact in facts.items() if name not in machine_facts(folders)}


def export_models(plan: Plan, *, to: Path, folders: Folders | None = None) -> Iterator[Path]:
    """Copy what a plan's finished jobs trained to ``to/VARIANT.safetensors``, in bfloat16.

    The tokenizer goes beside them, where there is one. A slash in a variant's name becomes a
    dash. Yields the files written.

    Raises:
        AttnlabError: More than one seed, a job without a trained model here, or a folder
            that holds models of another tokenizer.
    """
    folders = folders or Folders()
    if len(plan.seeds) > 1:
        raise AttnlabError(f"One model a variant: give one seed, not {plan.seeds}.")
    study = get_study(plan.study)
    for job in study.jobs(plan):
        yield from (study.export or export_model)(job, folders, to)


def export_model(job: Any, folders: Folders, to: Path) -> Iterator[Path]:
    """Copy the trained model of one job, and its tokenizer where there is one."""
    source = work_of(job, folders, kind="model")
    tokenizer = getattr(job.dataset(), "tokenizer", None)  # of texts that may be passed on
    yield from _export_tokenizer(tokenizer, to / "tokenizer.json")
    load = load_translator if isinstance(job.model, TranslatorConfig) else load_model
    model, facts = load(source)
    del facts["config"]
    path = to / export_name(job.variant)
    save_model(path, model=model, dtype=torch.bfloat16, seed=job.train.seed, **facts)
    yield path


def export_name(variant: str) -> str:
    """Return the file name of an exported variant."""
    return f"{variant.replace('/', '-')}.safetensors"


def work_of(job: Any, folders: Folders, *, kind: str) -> Path:
    """Return the file of weights that a finished job left here.

    Args:
        kind: ``model`` or ``students``.

    Raises:
        AttnlabError: There is none.
    """
    study = job.experiment.partition("/")[0]
    path = folders.work_file(study, f"{job.digest}.{kind}.safetensors")
    if not path.exists():
        raise AttnlabError(
            f"{job.name} has no trained {kind} here: it was not run on this machine, or its "
            f"study keeps none. Run {study} with the same scale, corpus and seed first."
        )
    return path


def _export_tokenizer(tokenizer: Tokenizer | None, path: Path) -> Iterator[Path]:
    if tokenizer is None:
        return
    if path.exists():
        if load_tokenizer(path).digest != tokenizer.digest:
            raise AttnlabError(f"{path} is of another tokenizer; export to an empty folder.")
        return
    tokenizer.save(path)
    yield path


def unfinished_plans(*, folders: Folders | None = None) -> list[Plan]:
    """Return the plans begun here that still lack a record."""
    folders = folders or Folders()
    plans = []
    for file in sorted(folders.work.glob("*/plan-*.json")):
        plan = Plan(**json.loads(file.read_text(encoding="utf-8")))
        finished = finished_digests(plan.study, folders)
        if any(job.digest not in finished for job in get_study(plan.study).jobs(plan)):
            plans.append(plan)
    return plans


def finished_digests(study: str, folders: Folders) -> set[str]:
    """Return the digests of the jobs of a study that have a record."""
    path = folders.run_file(study)
    if not path.exists():
        return set()
    return {record["config"]["job"] for record in read_records(path)}


def _remember(plan: Plan, folders: Folders) -> None:
    """Write the plan down, so that ``resume`` can ask for exactly it again."""
    file = folders.work_file(plan.study, f"plan-{digest_of(asdict(plan))}.json")
    write_whole(file, json.dumps(asdict(plan)))
