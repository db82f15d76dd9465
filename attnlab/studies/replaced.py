"""Study ``attentionless``: a translation teacher, and what is left when its attention goes.

The arms are rows of ``attnlab.studies.arms``. The walk from plan to record: ``study_jobs``, then
a teacher by ``run_job``, an arm by ``run_arm``; the engine trains both.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnlab.config import TrainConfig, TranslatorConfig, digest_of
from attnlab.distillation import (
    CONTROLS,
    FIT,
    LRS,
    ReplacedSite,
    Student,
    StudentSpec,
    build_controls,
    build_students,
    collect_lessons,
    find_site,
    fit_students,
    length_ratio,
    load_students,
    save_students,
    substitute,
)
from attnlab.models import Translator
from attnlab.paths import MODELS
from attnlab.records import RunRecord, commit, environment
from attnlab.seeding import torch_generator
from attnlab.studies.arms import ARMS, TEACHER, Arm, get_arm
from attnlab.studies.engine import (
    Folders,
    Job,
    Progress,
    by_one,
    grid,
    run_job,
    train_job,
    training_metrics,
    work_file,
)
from attnlab.studies.study import (
    Plan,
    Study,
    export_model,
    export_name,
    finished_digests,
    register_study,
    work_of,
)
from attnlab.tasks import (
    PairDataset,
    TranslationTask,
    list_pair_datasets,
    prepare_pairs,
)
from attnlab.tasks.pairs import TOY, TOY_SHORT, TOY_SMALL
from attnlab.training import PairBatches, State, load_translator, steps_every
from attnlab.training.parallel import is_first

STUDY = "attentionless"
Key = tuple[str, int]  # a site and a layer

# Budgets and jobs


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Sizes of a teacher. ``n_passes`` overrides ``n_steps`` where text is finite."""

    d_model: int
    n_heads: int
    n_layers: int  # of the encoder, and of the decoder
    d_ff: int
    max_len: int
    max_tokens: int  # of one side of a batch
    lr: float
    warmup_steps: int
    dropout: float = 0.0
    attention_dropout: float | None = None
    schedule: str = "inverse_sqrt"
    label_smoothing: float = 0.0
    n_steps: int = 0
    n_passes: float = 0.0
    n_fit_steps: int = 600  # of every student
    n_lessons: int = 16_000  # sentences that students learn from
    n_tuning_steps: int = 300
    fit_batch: int = 128  # sentences
    vocab_size: int = 4000
    n_train_pairs: int = 0  # of the toy languages
    n_averaged: int = 0  # passes at the end whose weights are averaged; then each has its point
    share_embeddings: bool = False
    precision: str = "fp32"
    beam_size: int = 1  # of a second score of the teacher


SMOKE = Budget(
    d_model=16, n_heads=2, n_layers=1, d_ff=32, max_len=24, max_tokens=200, lr=5e-3,
    warmup_steps=2, n_steps=6, n_fit_steps=4, n_lessons=100, n_tuning_steps=4, vocab_size=400,
    n_train_pairs=200,
)  # fmt: skip
CLASSROOM = Budget(
    d_model=32, n_heads=4, n_layers=2, d_ff=64, max_len=24, max_tokens=1000, lr=5e-3,
    warmup_steps=100, n_steps=1200, n_train_pairs=16_000,
)  # fmt: skip
PAPER = Budget(  # the published widths; half the layers: two cores train it within an hour
    d_model=128, n_heads=8, n_layers=3, d_ff=512, max_len=32, max_tokens=4096, lr=2e-3,
    warmup_steps=400, dropout=0.1, label_smoothing=0.1, n_passes=12, n_tuning_steps=720,
    vocab_size=6000,
)  # fmt: skip
PAPER_TOY = replace(CLASSROOM, n_steps=6000, n_train_pairs=60_000)
BUDGETS = {  # by scale and corpus; None: every other one
    ("smoke", None): SMOKE,
    ("classroom", None): replace(PAPER, n_layers=2, n_passes=10, n_tuning_steps=300),
    **dict.fromkeys([("classroom", TOY), ("classroom", TOY_SHORT)], CLASSROOM),
    ("classroom", TOY_SMALL): replace(CLASSROOM, n_train_pairs=1500),
    ("paper", None): replace(PAPER, n_layers=6, max_len=50, n_passes=20, vocab_size=8000),
    **dict.fromkeys([("paper", TOY), ("paper", TOY_SHORT)], PAPER_TOY),
    ("paper", TOY_SMALL): replace(PAPER_TOY, n_train_pairs=1500),
    **{("paper", f"multi30k/{pair}"): PAPER for pair in ("de-en", "en-de", "fr-en", "en-fr")},
}


@dataclass(frozen=True, kw_only=True)
class ArmJob(Job):
    """One arm for one teacher; ``train`` is how the whole learns, from scratch or tuned.

    Args:
        fit: Steps and rate of every student; ``batch_size`` counts sentences.
        n_lessons: Training sentences whose activations the students learn from.
    """

    teacher: Job
    fit: TrainConfig
    n_lessons: int

    @property
    def arm(self) -> Arm:
        """What is replaced by what, and how it learns."""
        return get_arm(self.variant)

    @property
    def n_tuning_steps(self) -> int:
        """Steps on the translations after the swap."""
        return 0 if self.arm.tunes == "nothing" else self.train.n_steps

    @property
    def digest(self) -> str:
        """Twelve hex digits that name this exact job."""
        arm = self.arm
        unusual = {} if arm.learning == {"tunes": "students"} else arm.learning
        return digest_of(
            {
                "variant": self.variant,
                "teacher": self.teacher.digest,
                "fit": self.fit.to_dict(),
                "n_lessons": self.n_lessons,
                "parts": {
                    site: part if isinstance(part, str) else part.to_dict()
                    for site, part in arm.parts.items()
                },
                "n_tuning_steps": self.n_tuning_steps,
                **({"learning": unusual} if unusual else {}),
            }
        )


def study_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, teacher first, then its arms, seed by seed."""
    wanted, budget, jobs = plan.variants or ARMS, plan.choose(BUDGETS), []
    for teacher in teacher_jobs(plan, budget):
        jobs += [teacher] if TEACHER in wanted else []
        jobs += [_arm_job(get_arm(name), teacher, budget) for name in wanted if name != TEACHER]
    return jobs


def teacher_jobs(plan: Plan, budget: Budget) -> list[Job]:
    """Return the teachers of a plan, one a seed."""
    sizes = {"vocab_size": budget.vocab_size, "n_train_pairs": budget.n_train_pairs}
    data = prepare_pairs(plan.corpus, max_len=budget.max_len, **sizes)
    a_pass = PairBatches(data.train, max_tokens=budget.max_tokens, seed=0).n_batches
    same = ("d_model", "n_heads", "d_ff", "dropout", "attention_dropout", "max_len",
            "share_embeddings")  # fmt: skip
    model = TranslatorConfig(
        source_vocab_size=data.source_vocabulary.vocab_size,
        target_vocab_size=data.vocabulary.vocab_size,
        n_encoder_layers=budget.n_layers,
        n_decoder_layers=budget.n_layers,
        **{name: getattr(budget, name) for name in same},
    )
    train = TrainConfig(
        n_steps=budget.n_steps or round(budget.n_passes * a_pass),
        lr=budget.lr,
        schedule=budget.schedule,
        warmup_steps=budget.warmup_steps,
        label_smoothing=budget.label_smoothing,
        n_averaged=budget.n_averaged,
        precision=budget.precision,
    )
    beam = {"beam_size": budget.beam_size} if budget.beam_size > 1 else {}
    by_pass = budget.n_averaged and budget.n_passes
    points = steps_every(a_pass, train.n_steps) if by_pass else _twenty_points(train)
    return grid(
        replace(plan, variants=()),
        variants={TEACHER: model},
        train=train,
        task={"corpus": plan.corpus, **sizes, "max_tokens": budget.max_tokens, **beam},
        make_task=translation_task,
        points=points,
    )


def translation_task(job: Job) -> TranslationTask:
    """Return the task of a job."""
    options = dict(job.task)
    corpus, max_tokens = options.pop("corpus"), options.pop("max_tokens")
    beam_size = options.pop("beam_size", 1)
    data = prepare_pairs(corpus, max_len=job.model.max_len, **options)
    return TranslationTask(data=data, max_tokens=max_tokens, beam_size=beam_size)


def _twenty_points(train: TrainConfig) -> set[int]:
    return steps_every(max(1, train.n_steps // 20), train.n_steps)


def _arm_job(arm: Arm, teacher: Job, budget: Budget) -> ArmJob:
    seed, n_steps, points = teacher.train.seed, budget.n_fit_steps, set()
    how = {"n_steps": n_steps, "warmup_steps": n_steps // 20, "batch_size": budget.fit_batch}
    fit = replace(FIT, seed=seed, **how)
    train = replace(fit, n_steps=budget.n_tuning_steps)
    if arm.begins == "scratch":
        own = teacher.train
        train = replace(own, n_steps=arm.n_times * own.n_steps, lr=arm.lr_factor * own.lr)
        points = _twenty_points(train)
    same = vars(teacher) | {"variant": arm.name, "train": train, "points": points}
    return ArmJob(**same, teacher=teacher, fit=fit, n_lessons=budget.n_lessons)


# From a job to its record


def run_arm(job: ArmJob, folders: Folders) -> Generator[Progress, None, RunRecord]:
    """Put an arm in a teacher's place, let it learn, translate; return the record.

    A teacher that is recorded but not here is trained again first, which takes as long as it
    took. ``relative_error`` is that of the fit, also where students are tuned afterwards.
    """
    arm, task, state = job.arm, job.make_task(job), State()
    is_new = arm.begins == "scratch"
    if is_new:
        generator = torch_generator(job.train.seed, "init")
        body, precision = task.build(job.model, generator=generator), "float32"
    else:
        body, precision = yield from find_teacher(job.teacher, folders)
    started, body = time.perf_counter(), body.to(folders.device)
    modules: dict[Key, nn.Module] = {}
    facts: dict[str, dict[str, Any]] = {}
    for site in arm.parts:
        yield Progress(job=job.name, step=0, n_steps=1, message=f"{site}: what stands there")
        found, facts[site] = _stand_ins(job, body, task.data, site, folders, precision)
        modules |= found
    weights = {
        "n_stand_in_weights": sum(p.numel() for m in modules.values() for p in m.parameters()),
        "n_replaced_weights": count_replaced(body, modules),
    }
    _swap(arm, body, modules)
    seconds = time.perf_counter() - started
    if is_new or job.n_tuning_steps:
        state = yield from train_job(job, task, body, folders)
    scores, details = task.score(body)
    if is_new:
        config = {"max_tokens": task.max_tokens, "train": job.train.to_dict()}
        metrics = training_metrics(body, state)
    else:
        config, metrics, tables = _how_taught(job, facts, precision)
        details |= tables
        if arm.method not in CONTROLS and arm.tunes != "everything":  # else no use by themselves
            file = work_file(job, folders, "students")
            save_students(file, students=modules, job=job.digest, variant=job.variant)
    learning = {"learning": arm.learning} if arm.learning else {}
    return RunRecord(
        experiment=job.experiment,
        variant=job.variant,
        seed=job.train.seed,
        config={"job": job.digest, "corpus": job.task["corpus"], **learning, **config},
        metrics={**weights, **metrics, **scores},
        curve=state.curve,
        details=details,
        seconds=seconds + state.seconds,
        environment=environment(device=folders.device),
    )


def find_teacher(job: Job, folders: Folders) -> Generator[Progress, None, tuple[Translator, str]]:
    """Return a job's teacher and the precision of its weights: trained here, or committed.

    One that is neither is trained, by one process: others wait for it.
    """
    path = work_file(job, folders, "model")
    if not path.exists():
        teacher = committed_teacher(job)
        if teacher is not None:
            return teacher, "bfloat16"
        yield from by_one(job, folders, path, lambda: _train_teacher(job, folders))
    return load_translator(path)[0], "float32"


def _train_teacher(job: Job, folders: Folders) -> Iterator[Progress]:
    """Train and record a teacher that an arm lacks."""
    record, study = (yield from run_job(job, folders)), job.experiment.partition("/")[0]
    if is_first() and job.digest not in finished_digests(study, folders):
        record.append_to(folders.run_file(study))


def _swap(arm: Arm, body: Translator, modules: Mapping[Key, nn.Module]) -> None:
    """Put everything in place, as loud as the arm wants it, and free to learn what shall."""
    substitute(body, modules)
    for module in body.modules():
        if arm.is_quiet and isinstance(module, ReplacedSite):
            nn.init.zeros_(module.out.weight)
    body.requires_grad_(arm.begins == "scratch" or arm.tunes == "everything")
    for student in modules.values():
        student.requires_grad_(True)


def count_replaced(teacher: Translator, places: Iterable[Key]) -> int:
    """Return the weights of the attention that goes: queries, keys and values."""
    sites = [find_site(teacher, site=site, layer=layer) for site, layer in places]
    maps = [getattr(site, name) for site in sites for name in ("query", "key", "value")]
    return sum(p.numel() for each in maps for p in each.parameters())


def _stand_ins(
    job: ArmJob, body: Translator, data: PairDataset, site: str, folders: Folders, precision: str
) -> tuple[Mapping[Key, nn.Module], dict[str, Any]]:
    """Return what the arm puts at a site, and what is known of how that learnt."""
    part, seed = job.arm.parts[site], job.fit.seed
    if isinstance(part, StudentSpec):
        if job.arm.begins == "distilled":
            return _teach(job, body, data, part, folders, precision)
        return build_students(body, spec=part, seed=seed), {}
    lessons = None
    if part == "mean":
        pairs = data.train[: job.n_lessons]
        lessons = collect_lessons(body, pairs, spec=StudentSpec(site=site))
    how = {"activations": lessons, "ratio": length_ratio(data.train), "seed": seed}
    return build_controls(part, teacher=body, site=site, **how), {}


def _teach(
    job: ArmJob,
    teacher: Translator,
    data: PairDataset,
    spec: StudentSpec,
    folders: Folders,
    precision: str,
) -> tuple[dict[Key, Student], dict[str, Any]]:
    """Return students that learnt to do what the attention of a site does, and how that went.

    They are kept for other arms that ask for the same ones. The file names the commit that
    taught them; delete ``taught-*`` in the study's work folder after a change of how they learn.
    """
    lrs = LRS if job.arm.has_best_lr else (job.fit.lr,)
    what = {
        "teacher": job.teacher.digest,
        "teacher_weights": precision,
        "spec": spec.to_dict(),
        "fit": job.fit.to_dict(),
        "lrs": list(lrs),
        "n_lessons": job.n_lessons,
    }
    path = folders.work_file(STUDY, f"taught-{digest_of(what)}.safetensors")
    if path.exists():
        students, facts = load_students(path)
        return students, {"commit": "unknown", **facts}
    lessons, held_out = (
        collect_lessons(teacher, pairs, spec=spec)
        for pairs in (data.train[: job.n_lessons], data.validation)
    )
    how = {"held_out": held_out, "seed": job.fit.seed, **spec.to_dict()}
    tried = {
        lr: fit_students(teacher, lessons, config=replace(job.fit, lr=lr), **how) for lr in lrs
    }
    best = min(tried.values(), key=lambda fitted: fitted.error)
    facts = {
        "errors": [(layer, error) for (_, layer), error in best.errors.items()],
        "rates": [(lr, tried[lr].error) for lr in lrs if job.arm.has_best_lr],
    }
    save_students(path, students=best.students, commit=commit(), **facts)
    return best.students, facts


def _how_taught(
    job: ArmJob, facts: Mapping[str, Mapping[str, Any]], precision: str
) -> tuple[dict[str, Any], dict[str, float], dict[str, Any]]:
    """Return what a record says of how students learnt: settings, metrics and tables.

    Args:
        facts: Of each site, as ``_teach`` returns them.
    """
    before = {site: each["commit"] for site, each in facts.items() if "commit" in each}
    layers, rates = (
        [
            {"site": site, column: value, "relative_error": error}
            for site, each in facts.items()
            for value, error in each.get(name, ())
        ]
        for name, column in (("errors", "layer"), ("rates", "lr"))
    )
    config = {
        "teacher": job.teacher.digest,
        "teacher_weights": precision,
        **({"taught_before": before} if before else {}),
        "n_lessons": job.n_lessons,
        "n_tuning_steps": job.n_tuning_steps,
        "fit": job.fit.to_dict(),
    }
    errors = [row["relative_error"] for row in layers]
    metrics = {"relative_error": sum(errors) / len(errors)} if errors else {}
    return config, metrics, {"layers": layers, **({"rates": rates} if rates else {})}


# Weights that come with the workbook


def committed_files(corpus: str, *, folder: Path = MODELS) -> dict[str, Path]:
    """Return the files that came with the workbook: of a teacher and of its students, by arm.

    Read them with ``load_translator`` and ``load_students``.
    """
    place = folder / corpus.replace("/", "-")
    return {arm: file for arm in ARMS if (file := place / export_name(arm)).exists()}


def committed_teacher(job: Job, *, folder: Path = MODELS) -> Translator | None:
    """Return the teacher of exactly this job if it came with the workbook, rounded to bfloat16."""
    for file in sorted(folder.glob(f"*/{export_name(TEACHER)}")):
        teacher, facts = load_translator(file)
        if facts.get("job") == job.digest:
            return teacher
    return None


def export_job(job: Job, folders: Folders, to: Path) -> Iterator[Path]:
    """Copy what a finished job trained, in bfloat16: a teacher, or students."""
    if not isinstance(job, ArmJob):
        yield from export_model(job, folders, to)
        return
    students, facts = load_students(work_of(job, folders, kind="students"))
    path = to / export_name(job.variant)
    save_students(path, students=students, dtype=torch.bfloat16, seed=job.fit.seed, **facts)
    yield path


register_study(
    Study(
        name=STUDY,
        summary="a translation teacher, and nets in place of its attention, site by site",
        variants=tuple(ARMS),
        corpora=list_pair_datasets(),
        jobs=study_jobs,
        needs=("validation_bleu",),
        run=lambda job, folders: (run_arm if isinstance(job, ArmJob) else run_job)(job, folders),
        export=export_job,
    )
)
