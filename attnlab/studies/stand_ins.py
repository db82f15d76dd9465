"""Study ``replaced``: a strong teacher, and today's stand-ins for its attention.

The arms are ``ARMS_OF_TODAY`` of ``attnlab.studies.arms``. Each learns from as many target tokens
as any other, in one to three stages (``STAGES``): batches are counted through, so that a stage
begins where the one before it ended (``attnlab.studies.stages``).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnlab.config import TrainConfig
from attnlab.distillation import (
    Activations,
    Student,
    StudentSpec,
    build_controls,
    build_students,
    substitute,
)
from attnlab.distillation.fit import UNCLIPPED
from attnlab.distillation.sites import Key
from attnlab.distillation.surgery import load_replaced, save_replaced, save_students, students_in
from attnlab.distillation.transfer import (
    Transfer,
    Tuning,
    cheapest_next,
    exam_of,
    head_table,
    relative_errors,
)
from attnlab.distillation.tuning import (
    add_corrections,
    free_to_learn,
    merge_corrections,
    set_dropout,
)
from attnlab.models import Translator
from attnlab.records import RunRecord, environment
from attnlab.seeding import torch_generator
from attnlab.studies.arms import (
    ARMS_OF_TODAY,
    BASELINES,
    KEPT,
    PLACES,
    TEACHER,
    WINDOW,
    Arm,
    get_arm,
)
from attnlab.studies.engine import (
    Folders,
    Job,
    Progress,
    run_job,
    train_job,
    training_metrics,
    work_file,
)
from attnlab.studies.replaced import SMOKE, Budget, count_replaced, find_teacher, teacher_jobs
from attnlab.studies.stages import Stage, learn_stage, stage_lengths, stage_points
from attnlab.studies.study import Plan, Study, export_model, export_name, register_study, work_of
from attnlab.studies.task_budgets import ARM_PASSES, TASK_BUDGETS
from attnlab.studies.trivial import baseline_jobs, run_baseline
from attnlab.tasks import TranslationTask, list_pair_datasets
from attnlab.tasks.translation import N_CURVE_PAIRS
from attnlab.training import State, evaluate_forced
from attnlab.training.loop import products

STUDY, VARIANTS = "replaced", (*ARMS_OF_TODAY, *BASELINES)
RANK = 8  # of corrections


@dataclass(frozen=True, kw_only=True)
class StandInBudget(Budget):
    """Sizes of a teacher, and how long an arm learns, all stages together.

    Args:
        n_arm_steps: Steps of an arm; 0: as many as ``n_arm_passes`` over the training pairs take.
        match_lr, tune_lr: Rates of the stages before and after the swap.
        tune_dropout: Of the translator around the stand-ins while it is tuned.
    """

    n_arm_steps: int = 0
    n_arm_passes: float = 6.0
    match_lr: float = 3e-3
    tune_lr: float = 1e-3
    tune_dropout: float = 0.1


CAPTIONS = StandInBudget(  # a small system for little text, see papers of multi-modal translation
    d_model=128, n_heads=4, n_layers=4, d_ff=512, max_len=50, max_tokens=2048, lr=5e-3,
    warmup_steps=1000, schedule="cosine", dropout=0.2, attention_dropout=0.0,
    label_smoothing=0.1, n_passes=40, vocab_size=4000, n_averaged=5,
    share_embeddings=True, precision="fp32_onednn", beam_size=5,
)  # fmt: skip
BUDGETS = {
    ("smoke", None): StandInBudget(
        **{**asdict(SMOKE), "n_averaged": 2, "share_embeddings": True, "beam_size": 2},
        n_arm_steps=12,
    ),
    ("classroom", None): replace(CAPTIONS, n_passes=5, n_averaged=2, n_arm_passes=1.0),
    ("paper", None): CAPTIONS,
    **{
        place: StandInBudget(**asdict(budget), n_arm_passes=ARM_PASSES[place[1]])
        for place, budget in TASK_BUDGETS.items()
    },
}


# Jobs


@dataclass(frozen=True, kw_only=True)
class StandInJob(Job):
    """One arm for one teacher; ``train`` is how its last stage learns, or all of one from scratch.

    Args:
        lengths: Steps of each stage, by number.
        match: How stages before the swap learn, but for their length.
        dropout: Of the translator while it is tuned.
    """

    teacher: Job
    lengths: Mapping[int, int]
    match: TrainConfig
    dropout: float

    @property
    def arm(self) -> Arm:
        """What is replaced by what, and how it learns."""
        return get_arm(self.variant)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that was set, as plain JSON."""
        columns = {n: v for n, v in asdict(self.arm).items() if v != getattr(Arm, n)}
        return {
            "teacher": self.teacher.digest,
            "arm": columns,
            "task": dict(self.task),
            "stages": {str(number): n_steps for number, n_steps in self.lengths.items()},
            "match": self.match.to_dict(),
            "train": self.train.to_dict(),
            "dropout": self.dropout,
        }

    def stages(self, precision: str) -> Iterator[Stage]:
        """Yield the stages before the swap.

        Args:
            precision: Of the teacher's weights.
        """
        arm, before, first_batch = self.arm, "", 0
        parts = {site: part.to_dict() for site, part in arm.parts.items()
                 if isinstance(part, StudentSpec)}  # fmt: skip
        for number, n_steps in self.lengths.items():
            if number == 3:
                return
            train = replace(self.match, n_steps=n_steps, warmup_steps=n_steps // 20)
            match = "matrix" if number == 1 else arm.match
            what = {"teacher": self.teacher.digest, "teacher_weights": precision, "parts": parts,
                    "match": match, "inputs": arm.inputs, "before": before}  # fmt: skip
            stage = Stage(
                number=number, experiment=self.experiment, name=f"{self.name}, {match}",
                train=train, points=stage_points(n_steps), first_batch=first_batch, what=what,
            )  # fmt: skip
            yield stage
            before, first_batch = stage.digest, first_batch + n_steps


def study_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, teacher first, then its arms, seed by seed.

    What needs no training comes where it is asked for by name, once for all seeds.
    """
    wanted, budget, jobs = plan.variants or ARMS_OF_TODAY, plan.choose(BUDGETS), []
    for teacher in teacher_jobs(plan, budget):
        jobs += [teacher] if TEACHER in wanted else []
        if teacher.train.seed == plan.seeds[0]:
            jobs += baseline_jobs(teacher, variants=tuple(wanted))
        jobs += [_arm_job(name, teacher, budget) for name in wanted if name in ARMS_OF_TODAY
                 if name != TEACHER]  # fmt: skip
    return jobs


def _arm_job(name: str, teacher: Job, budget: StandInBudget) -> StandInJob:
    arm, seed, n_steps = get_arm(name), teacher.train.seed, budget.n_arm_steps
    if not n_steps:
        n_steps = round(teacher.train.n_steps * budget.n_arm_passes / budget.n_passes)
    lengths = stage_lengths(arm.stage_numbers, n_steps=n_steps)
    n_tuning = lengths.get(3, 1)
    same = {"precision": budget.precision, "seed": seed}
    match = TrainConfig(
        lr=budget.match_lr, weight_decay=0.0, max_grad_norm=UNCLIPPED, warmup_steps=0, **same
    )
    train = TrainConfig(n_steps=n_tuning, lr=budget.tune_lr, warmup_steps=n_tuning // 20, **same)
    points = stage_points(n_tuning)
    if arm.begins == "scratch":
        lengths, train, points = {}, teacher.train, teacher.points
    task = {n: v for n, v in teacher.task.items() if n != "beam_size" or arm.site == "all"}
    how = vars(teacher) | {"variant": name, "task": task, "train": train, "points": points}
    return StandInJob(
        **how, teacher=teacher, lengths=lengths, match=match, dropout=budget.tune_dropout
    )


# From a job to its record


def run_arm(job: StandInJob, folders: Folders) -> Generator[Progress, None, RunRecord]:
    """Let stand-ins learn in a teacher's place, stage by stage; translate; return the record.

    Errors and entropies are those before anything is tuned.
    """
    arm, task = job.arm, job.make_task(job)
    if arm.begins == "scratch":
        body = task.build(job.model, generator=torch_generator(job.train.seed, "init"))
        teacher, precision = body, "float32"
    else:
        teacher, precision = yield from find_teacher(job.teacher, folders)
        body = copy.deepcopy(teacher)
    teacher, body = teacher.to(folders.device), body.to(folders.device)
    started, facts, details = time.perf_counter(), [], {}
    modules, metrics = _at_first(job, body, task), {}
    if arm.begins != "scratch":
        exam = exam_of(teacher, task.data.validation[:N_CURVE_PAIRS], sites=tuple(arm.parts))
        seconds = time.perf_counter() - started
        modules, facts = yield from _match(job, teacher, modules, task, exam, precision, folders)
        started = time.perf_counter() - seconds
        if modules:
            found, details = _examine(teacher, modules, exam)
            metrics |= found
    if arm.keeps:
        n_places = len(modules)
        modules, details["order"] = _without_kept(arm, body, modules, task)
        metrics["n_kept"] = n_places - len(modules)
    metrics |= {
        "n_stand_in_weights": sum(p.numel() for m in modules.values() for p in m.parameters()),
        "n_replaced_weights": count_replaced(teacher, modules),
    }
    substitute(body, modules)
    seconds, state = time.perf_counter() - started, State()
    if arm.tunes != "nothing":
        state = yield from _tune(job, teacher, body, modules, task, folders)
        metrics |= training_metrics(body, state)
    with products(job.train.precision):
        scores, tables = task.score(body.eval())
    if facts or state.step:
        n_seen = sum(each["tokens_seen"] for each in facts) + state.tokens_seen
        metrics |= {"tokens_seen": n_seen, "n_weights": sum(p.numel() for p in body.parameters())}
    _keep(job, body, modules, folders)
    return RunRecord(
        experiment=job.experiment,
        variant=job.variant,
        seed=job.train.seed,
        config={
            "job": job.digest, "corpus": job.task["corpus"], "teacher_weights": precision,
            "max_tokens": task.max_tokens, **job.settings,
        },
        metrics={**metrics, **scores},
        curve=state.curve,
        details={**details, **tables, "stages": facts, "data": task.facts},
        seconds=seconds + state.seconds + sum(each["seconds"] for each in facts),
        environment=environment(device=folders.device),
    )  # fmt: skip


def _at_first(job: StandInJob, body: Translator, task: TranslationTask) -> dict[Key, nn.Module]:
    """Return what the arm puts everywhere, untaught: stand-ins, controls, or nothing."""
    modules: dict[Key, nn.Module] = {}
    if job.arm.method == "identity":
        return modules
    for site, part in job.arm.parts.items():
        if isinstance(part, StudentSpec):
            modules |= build_students(body, spec=part, seed=job.train.seed)
        else:
            lessons = exam_of(body, task.data.train[:N_CURVE_PAIRS], sites=(site,))[site]
            modules |= build_controls(part, teacher=body, site=site, activations=lessons)
    return modules


def _match(
    job: StandInJob,
    teacher: Translator,
    modules: dict[Key, nn.Module],
    task: TranslationTask,
    exam: Mapping[str, Activations],
    precision: str,
    folders: Folders,
) -> Generator[Progress, None, tuple[dict[Key, nn.Module], list[dict[str, Any]]]]:
    """Return stand-ins after the stages before the swap, and what is known of each stage."""
    facts = []
    for stage in job.stages(precision):
        body = copy.deepcopy(teacher)  # whose stream they read, where that is their own
        substitute(body, modules)
        lessons = Transfer(
            teacher=teacher, pairs=task.data.train, max_tokens=task.max_tokens,
            first_batch=stage.first_batch, keys=tuple(modules), held_out=exam, body=body,
            match=stage.what["match"], inputs=stage.what["inputs"],
        )  # fmt: skip
        modules, found = yield from learn_stage(stage, lessons, modules, folders)
        facts.append(found)
    return modules, facts


def _examine(
    teacher: Translator, modules: Mapping[Key, nn.Module], exam: Mapping[str, Activations]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return how far what stands there is from attention: a mean, and by layer and head."""
    errors = relative_errors(modules, exam)
    layers = [{"site": site, "layer": n, "relative_error": e} for (site, n), e in errors.items()]
    details = {"layers": layers, "heads": head_table(teacher, modules, exam, near=WINDOW)}
    return {"relative_error": sum(errors.values()) / len(errors)}, details


def _without_kept(
    arm: Arm, body: Translator, modules: Mapping[Key, nn.Module], task: TranslationTask
) -> tuple[dict[Key, nn.Module], list[dict[str, Any]]]:
    """Return the stand-ins but for those whose attention stays, and the order that was found.

    Everything outside of the sites that the arm keeps some of is replaced before the search.
    """
    place, share = KEPT[arm.keeps]
    among = {key: module for key, module in modules.items() if key[0] in PLACES[place][0]}
    pairs = task.data.validation[:N_CURVE_PAIRS]
    how = partial(evaluate_forced, pairs=pairs)
    with substitute(body, {key: m for key, m in modules.items() if key not in among}):
        order = cheapest_next(
            body, among, loss=lambda model: how(model).loss_nats,
            n_kept=max(1, round(share * len(among))),
        )  # fmt: skip
    taken = {key for key, _ in order}
    left = {key: m for key, m in modules.items() if key in taken or key not in among}
    rows = [{"site": site, "layer": n, "loss_nats": loss} for (site, n), loss in order]
    return left, rows


def _tune(
    job: StandInJob,
    teacher: Translator,
    body: Translator,
    modules: Mapping[Key, nn.Module],
    task: TranslationTask,
    folders: Folders,
) -> Generator[Progress, None, State]:
    """Let a translator learn with what stands in it, as the arm says; return where that ended."""
    arm = job.arm
    if arm.begins == "scratch":
        body.requires_grad_(True)
        return (yield from train_job(job, task, body, folders))
    set_dropout(body, job.dropout)
    if arm.tunes == "corrections":
        add_corrections(body, RANK, ("value", "out"), seed=job.train.seed)
    free_to_learn(body, arm.tunes)
    lessons = Tuning(
        teacher=teacher.eval(), pairs=task.data.train, max_tokens=task.max_tokens,
        first_batch=sum(job.lengths.values()) - job.train.n_steps,
        validation=task.data.validation[:N_CURVE_PAIRS], signal=arm.signal,
    )  # fmt: skip
    state = yield from train_job(job, lessons, body, folders)
    if arm.tunes == "corrections":
        merge_corrections(body)
    return state


def _keep(
    job: StandInJob, body: Translator, modules: Mapping[Key, nn.Module], folders: Folders
) -> None:
    """Write the translator with what stands in it, unless that is a control."""
    if all(isinstance(module, Student) for module in modules.values()):
        facts = {"variant": job.variant, "experiment": job.experiment, "job": job.digest}
        save_replaced(work_file(job, folders, "model"), model=body, students=modules, **facts)


def export_job(job: Job, folders: Folders, to: Path) -> Iterator[Path]:
    """Copy what a finished job trained, in bfloat16: a teacher, or a translator with stand-ins.

    Where only students moved, they alone are written: the rest is the teacher.
    """
    if not isinstance(job, StandInJob):
        yield from export_model(job, folders, to)
        return
    model, facts = load_replaced(work_of(job, folders, kind="model"))
    path, students = to / export_name(job.variant), students_in(model)
    del facts["config"], facts["students"]
    facts |= {"dtype": torch.bfloat16, "seed": job.train.seed}
    if job.arm.tunes == "students":
        save_students(path, students=students, **facts)
    else:
        save_replaced(path, model=model, students=students, **facts)
    yield path


def run_row(job: Job, folders: Folders) -> Generator[Progress, None, RunRecord]:
    """Run a job of the study: an arm, what needs no training, or a teacher."""
    if isinstance(job, StandInJob):
        return run_arm(job, folders)
    return (run_baseline if job.variant in BASELINES else run_job)(job, folders)


register_study(
    Study(
        name=STUDY,
        summary="a strong teacher, and stand-ins for its attention, site by site",
        variants=VARIANTS,
        corpora=list_pair_datasets(),
        jobs=study_jobs,
        needs=("bleu",),
        run=run_row,
        export=export_job,
    )
)
