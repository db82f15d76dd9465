"""Named, seeded, resumable experiments: a plan of jobs, and one record for each."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from attnlab.config import TranslatorConfig, digest_of, is_number
from attnlab.corpora import load_tokenizer
from attnlab.errors import AttnlabError, DivergenceError, UnknownNameError, shorten
from attnlab.paths import read_whole, record_places, write_whole
from attnlab.records import RunRecord, commit, read_records
from attnlab.studies.engine import Folders, Progress, held, lock_of, run_job, work_file
from attnlab.training import load_model, load_translator, save_model
from attnlab.training.parallel import agree, is_first

SCALES = ("smoke", "classroom", "paper")
SWEPT = "/swept"  # ends the name of an experiment whose settings differ from record to record


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for: enough to ask again after an interruption.

    Args:
        variants: Empty means all of the study's.
        axes: Settings to sweep, by axis of the study; their records make an experiment of
            their own, with the settings as columns.
    """

    study: str
    scale: str = "smoke"
    corpus: str = "tales"
    variants: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a scale that no study has, and an empty set of seeds."""
        if not isinstance(self.axes, Mapping):
            raise AttnlabError(f"axes={shorten(self.axes)} are no settings by name of an axis.")
        for name in (self.study, self.scale, self.corpus, *self.variants, *self.axes):
            if not isinstance(name, str):
                raise AttnlabError(f"{shorten(name)} in a plan is no name.")
        object.__setattr__(self, "variants", tuple(self.variants))
        object.__setattr__(self, "seeds", tuple(self.seeds))
        object.__setattr__(self, "axes", {name: tuple(of) for name, of in self.axes.items()})
        if self.scale not in SCALES:
            step = "smoke takes seconds, classroom minutes, paper hours on two cores."
            raise UnknownNameError("scale", self.scale, SCALES, next_step=step)
        if not self.seeds or not all(is_number(seed, int) and seed >= 0 for seed in self.seeds):
            raise AttnlabError(
                f"seeds={shorten(self.seeds)}: a study needs at least one seed, none negative; "
                "give --seeds 0,1,2."
            )

    @property
    def name(self) -> str:
        """Name of the experiment in the records."""
        return f"{self.study}/{self.scale}/{self.corpus}{SWEPT if self.axes else ''}"

    @property
    def points(self) -> list[dict[str, Any]]:
        """Every combination of the settings of its axes; one empty point without axes."""
        combinations = itertools.product(*self.axes.values())
        return [dict(zip(self.axes, settings, strict=True)) for settings in combinations]

    def choose(self, budgets: Mapping[tuple[str, str | None], Any]) -> Any:
        """Return the budget for this scale and corpus; under None stands that of all others."""
        corpora = (f"{self.corpus}{SWEPT if self.axes else ''}", self.corpus, None)
        return next(budgets[self.scale, name] for name in corpora if (self.scale, name) in budgets)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study: how a plan becomes jobs, and, where that is not by training, a job a record.

    Args:
        jobs: From a plan to jobs; each job has ``name`` and ``digest``.
        axes: What a plan may sweep; from a word of the command line to a setting, or ValueError.
        needs: Metrics without which a record does not finish its job: it is run again, and the
            older line stays.
        run: From a job and its folders to progress reports; returns the record at its end.
        export: From a job, its folders and a target folder to the files it writes there.
    """

    name: str
    summary: str
    variants: tuple[str, ...]
    corpora: tuple[str, ...]
    jobs: Callable[[Plan], Sequence[Any]]
    axes: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    run: Callable[[Any, Folders], Any] = run_job
    export: Callable[[Any, Folders, Path], Iterator[Path]] | None = None  # as ``export_model``


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


def run_plan(
    plan: Plan, *, folders: Folders | None = None, digest: str | None = None
) -> Iterator[Progress]:
    """Run what a plan lacks; finished jobs are skipped, begun ones go on from their checkpoint.

    Several processes may run the same plan: each job is done by one of them, or by all that
    ``torchrun`` started together. A job that diverges is reported and the next one starts.

    Args:
        digest: Of the one job to run; None: all.
    Raises:
        UnknownNameError: A study, variant or corpus that does not exist, or not together.
        AttnlabError: After the last job, if some of them failed.
    """
    commit()  # of the code that was loaded, not of what is there when a job ends
    folders = folders or Folders()
    study = check_plan(plan)
    jobs = [job for job in study.jobs(plan) if digest in (None, job.digest)]
    plan_file = folders.work_file(plan.study, f"plan-{digest_of(asdict(plan))}.json")
    write_whole(plan_file, json.dumps(asdict(plan)))  # so that ``resume`` can ask for it again
    failed = []
    for job in jobs:
        try:
            with _claimed(study, job, folders) as why_not:
                if why_not:
                    yield Progress(job=job.name, step=1, n_steps=1, message=why_not)
                else:
                    yield from _run(study, job, folders)
        except DivergenceError as error:
            failed.append(f"{job.name}: {error}")
            yield Progress(job=job.name, step=0, n_steps=1, message="diverged")
    if failed:
        raise AttnlabError(f"{len(failed)} of {len(jobs)} jobs diverged. " + " ".join(failed))


@contextmanager
def _claimed(study: Study, job: Any, folders: Folders) -> Iterator[str]:
    """Keep other processes from a job; yield why it is not to be run here, or nothing."""
    with held(lock_of(job, folders)) as is_ours:
        why_not = "" if is_ours else "another process has it"
        if is_first() and is_ours and job.digest in finished_digests(study.name, folders):
            why_not = "recorded before"
            work_file(job, folders, "checkpoint").unlink(missing_ok=True)  # if killed just then
        yield agree(why_not)


def jobs_of(plan: Plan) -> Sequence[Any]:
    """Return all jobs of a plan, each with ``name`` and ``digest``.

    Raises:
        UnknownNameError: A study, variant or corpus that does not exist, or not together.
    """
    return check_plan(plan).jobs(plan)


def check_plan(plan: Plan) -> Study:
    """Return the study of a plan.

    Raises:
        UnknownNameError: A study, variant, axis or corpus that does not exist, or not together.
    """
    study = get_study(plan.study)
    wanted = [("variant", name, study.variants) for name in plan.variants]
    wanted += [("axis", name, study.axes) for name in plan.axes]
    for kind, name, known in [*wanted, ("data set", plan.corpus, study.corpora)]:
        if name not in known:
            step = f"See what {study.name} knows with: attnlab study list."
            raise UnknownNameError(kind, name, known, next_step=step)
    return study


def _run(study: Study, job: Any, folders: Folders) -> Iterator[Progress]:
    record: RunRecord = yield from study.run(job, folders)
    if is_first():
        record.append_to(folders.run_file(study.name))
        work_file(job, folders, "checkpoint").unlink(missing_ok=True)


def finished_digests(study: str, folders: Folders) -> set[str]:
    """Return the digests of the jobs of a study that have a record with all it needs."""
    path, needs = folders.run_file(study), set(get_study(study).needs)
    places = [place for place in record_places(path) if place.exists()]
    records = read_records(path) if places else ()
    return {each["config"].get("job") for each in records if needs <= each["metrics"].keys()}


def unfinished_plans(*, folders: Folders | None = None) -> list[Plan]:
    """Return the plans begun here that still lack a record.

    Raises:
        AttnlabError: The file of a plan is damaged.
    """
    folders = folders or Folders()
    plans = []
    for file in sorted(folders.work.glob("*/plan-*.json")):
        try:
            plan = Plan(**json.loads(read_whole(file)))
            study = check_plan(plan)
        except (TypeError, ValueError, RecursionError) as error:
            raise AttnlabError(
                f"{file} is no plan of a study ({error}). Delete it, and ask for the study again "
                "with attnlab study run."
            ) from error
        finished = finished_digests(plan.study, folders)
        if any(job.digest not in finished for job in study.jobs(plan)):
            plans.append(plan)
    return plans


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
    data = getattr(job.make_task(job), "data", None)
    tokenizer = getattr(data, "tokenizer", None)  # of texts that may be passed on
    if tokenizer is not None and not (to / "tokenizer.json").exists():
        tokenizer.save(to / "tokenizer.json")
        yield to / "tokenizer.json"
    elif tokenizer is not None and load_tokenizer(to / "tokenizer.json").digest != tokenizer.digest:
        raise AttnlabError(f"{to} holds models of another tokenizer; export to an empty folder.")
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
    """Return the ``model`` or ``students`` that a finished job left here.

    Raises:
        AttnlabError: There are none.
    """
    path, study = work_file(job, folders, kind), job.experiment.partition("/")[0]
    if not path.exists():
        raise AttnlabError(
            f"{job.name} has no trained {kind} here: it was not run on this machine, or its "
            f"study keeps none. Run {study} with the same scale, corpus and seed first."
        )
    return path
