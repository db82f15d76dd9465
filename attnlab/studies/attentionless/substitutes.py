"""Put one arm in a teacher's place: fit its students, swap them in, translate, record."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from attnlab import provenance
from attnlab.config import TrainConfig, digest_of
from attnlab.distillation import (
    Activations,
    StudentSpec,
    build_controls,
    collect_activations,
    fit_arms,
    length_ratio,
    save_students,
    substitute,
)
from attnlab.errors import AttnlabError
from attnlab.models import Translator
from attnlab.records import RunRecord
from attnlab.studies.attentionless.arms import get_arm
from attnlab.studies.attentionless.data import PairDataset
from attnlab.studies.attentionless.teacher import (
    STUDY,
    TeacherJob,
    bleu_facts,
    length_table,
    run_teacher,
    score_metrics,
)
from attnlab.studies.core import Folders, Progress
from attnlab.training import (
    PairBatches,
    build_optimizer,
    collate_pairs,
    evaluate_translation,
    load_translator,
    translation_steps,
)

Key = tuple[str, int]
MODELS = Path(__file__).parents[3] / "data" / "models"
LESSON_PAIRS = 256  # sentences that the teacher reads at a time


@dataclass(frozen=True, kw_only=True)
class ArmJob:
    """One arm for one teacher: everything that decides its numbers.

    Args:
        fit: Steps and rate of every student; ``batch_size`` counts sentences.
        n_lessons: Training sentences whose activations the students learn from.
        n_tuning_steps: Of an arm that is tuned after the swap.
    """

    variant: str
    teacher: TeacherJob
    fit: TrainConfig
    n_lessons: int
    n_tuning_steps: int

    @property
    def experiment(self) -> str:
        """Name of the experiment in the records."""
        return self.teacher.experiment

    @property
    def name(self) -> str:
        """What a progress bar shows."""
        return f"{self.experiment} {self.variant} seed {self.fit.seed}"

    @property
    def digest(self) -> str:
        """Twelve hex digits that name this exact job."""
        arm = get_arm(self.variant)
        parts = {
            site: part.to_dict() if isinstance(part, StudentSpec) else part
            for site, part in arm.parts.items()
        }
        return digest_of(
            {
                "variant": self.variant,
                "teacher": self.teacher.digest,
                "fit": self.fit.to_dict(),
                "n_lessons": self.n_lessons,
                "parts": parts,
                "n_tuning_steps": self.n_tuning_steps if arm.is_tuned else 0,
            }
        )


def run_arm(job: ArmJob, folders: Folders) -> Generator[Progress, None, RunRecord]:
    """Fit, swap, translate; return the record.

    A teacher that is recorded but not here is trained again first, which takes as long as it
    took. ``relative_error`` is that of the fit, also where students are tuned afterwards.
    """
    if not has_teacher(job.teacher, folders):
        yield from run_teacher(job.teacher, folders)
    started = time.perf_counter()
    teacher, data = load_teacher(job.teacher, folders), job.teacher.dataset()
    stand_ins: dict[Key, nn.Module] = {}
    errors: dict[Key, float] = {}
    for site, part in get_arm(job.variant).parts.items():
        yield Progress(job=job.name, step=0, n_steps=1, message=f"{site}: reading lessons")
        found, found_errors = _stand_ins(job, teacher, data, site, part)
        stand_ins |= found
        errors |= found_errors
    n_attention = sum(_site_weights(teacher, key) for key in stand_ins)
    with substitute(teacher, stand_ins):
        n_tuned = job.n_tuning_steps if get_arm(job.variant).is_tuned else 0
        for step in _tune(job, teacher, stand_ins, data, n_steps=n_tuned):
            yield Progress(job=job.name, step=step, n_steps=n_tuned, message="tuning")
        score = evaluate_translation(teacher.eval(), data.test, vocabulary=data.vocabulary)
    if all(isinstance(p, StudentSpec) for p in get_arm(job.variant).parts.values()):
        file = folders.work_file(STUDY, f"{job.digest}.students.safetensors")
        save_students(file, students=stand_ins, job=job.digest, variant=job.variant)
    seconds = time.perf_counter() - started
    metrics = {
        "n_stand_in_weights": sum(p.numel() for m in stand_ins.values() for p in m.parameters()),
        "n_replaced_weights": n_attention,
        **({"relative_error": sum(errors.values()) / len(errors)} if errors else {}),
        **score_metrics(score),
    }
    layers = [{"site": s, "layer": n, "relative_error": e} for (s, n), e in errors.items()]
    return RunRecord(
        experiment=job.experiment,
        variant=job.variant,
        seed=job.fit.seed,
        config={
            "job": job.digest,
            "corpus": job.teacher.corpus,
            "teacher": job.teacher.digest,
            "teacher_weights": "float32" if job.teacher.weights(folders).exists() else "bfloat16",
            "n_lessons": job.n_lessons,
            "n_tuning_steps": n_tuned,
            "fit": job.fit.to_dict(),
        },
        metrics=metrics,
        details={"layers": layers, "by_length": length_table(score), "bleu": bleu_facts(score)},
        seconds=seconds,
        environment=provenance.environment(device=folders.device),
    )


def has_teacher(job: TeacherJob, folders: Folders) -> bool:
    """Say whether a teacher's weights are here: trained here, or committed."""
    return job.weights(folders).exists() or _committed(job) is not None


def load_teacher(job: TeacherJob, folders: Folders) -> Translator:
    """Return the trained teacher of a job: as trained here, or as committed, in bfloat16.

    Raises:
        AttnlabError: It is neither trained here nor committed.
    """
    path = job.weights(folders)
    teacher = load_translator(path)[0] if path.exists() else _committed(job)
    if teacher is None:
        raise AttnlabError(
            f"{job.name} is not trained here: {path.name} is missing. Run the study with "
            "--variants teacher and the same scale, corpus and seeds first."
        )
    return teacher.to(folders.device)


def _committed(job: TeacherJob) -> Translator | None:
    path = MODELS / job.corpus.replace("/", "-") / "teacher.safetensors"
    if not path.exists():
        return None
    teacher, facts = load_translator(path)
    return teacher if facts["job"] == job.digest else None


def _stand_ins(
    job: ArmJob, teacher: Translator, data: PairDataset, site: str, part: StudentSpec | str
) -> tuple[Mapping[Key, nn.Module], dict[Key, float]]:
    """Return what stands in at every layer of a site, and the errors of students."""
    seed = job.fit.seed
    if isinstance(part, StudentSpec):
        lessons = _lessons(job, teacher, data, part)
        held_out = _lessons(job, teacher, data, part, held_out=True)
        fitted = fit_arms(
            teacher,
            lessons,
            arms={"arm": part},
            seeds={"arm": seed},
            held_out=held_out,
            config=job.fit,
        )["arm"]
        return fitted.students, fitted.errors
    return (
        build_controls(
            part,
            teacher=teacher,
            site=site,
            activations=_lessons(job, teacher, data, StudentSpec(site=site)),
            spec=StudentSpec(site=site, size="m"),
            ratio=length_ratio(data.train) if site == "cross" else 1.0,
            seed=seed,
        ),
        {},
    )


def _lessons(
    job: ArmJob, teacher: Translator, data: PairDataset, spec: StudentSpec, *, held_out=False
) -> Activations:
    """Return what the teacher's attention read and wrote, on training or validation pairs."""
    pairs = data.validation if held_out else data.train[: job.n_lessons]
    chunks = (pairs[i : i + LESSON_PAIRS] for i in range(0, len(pairs), LESSON_PAIRS))
    batches = [collate_pairs(chunk, device=teacher.device) for chunk in chunks]
    kind = StudentSpec(site=spec.site, method=spec.method)
    return collect_activations(teacher, batches, spec=kind)


def _tune(
    job: ArmJob,
    teacher: Translator,
    stand_ins: Mapping[Key, nn.Module],
    data: PairDataset,
    *,
    n_steps: int,
) -> Generator[int, None, None]:
    """Let the students learn from the translations themselves; the rest stays as it is."""
    if n_steps == 0:
        return
    teacher.requires_grad_(False)
    for student in stand_ins.values():
        student.requires_grad_(True)
    config = replace(job.fit, n_steps=n_steps)
    batches = PairBatches(
        data.train, max_tokens=job.teacher.max_tokens, seed=job.fit.seed, device=teacher.device
    )
    optimizer = build_optimizer(teacher, config)
    for log in translation_steps(
        teacher, batches.starting_at(0), config=config, optimizer=optimizer
    ):
        yield log.step


def _site_weights(teacher: Translator, key: Key) -> int:
    """Return the weights of the attention that goes: queries, keys and values."""
    site, layer = key
    stack = teacher.encoder if site == "encoder_self" else teacher.decoder
    name = "cross_attention" if site == "cross" else "self_attention"
    attention = getattr(stack[layer], name)
    maps = (attention.query, attention.key, attention.value)
    return sum(p.numel() for each in maps for p in each.parameters())
