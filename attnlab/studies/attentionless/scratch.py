"""Train a translator that never had the attention, as its teacher was trained."""

from __future__ import annotations

from collections.abc import Generator

from torch import nn

from attnlab.distillation import ReplacedSite, StudentSpec, build_students, substitute
from attnlab.errors import AttnlabError
from attnlab.records import RunRecord
from attnlab.seeding import torch_generator
from attnlab.studies.attentionless.arm_job import ArmJob, Key, arm_record, count_replaced
from attnlab.studies.attentionless.arms import PART
from attnlab.studies.attentionless.teacher import translation_task
from attnlab.studies.engine import Folders, Progress, train_job, training_metrics
from attnlab.training import evaluate_forced


def run_from_scratch(job: ArmJob, folders: Folders) -> Generator[Progress, None, RunRecord]:
    """Build body and students anew, train them together on the translations, return the record.

    Raises:
        AttnlabError: The arm has a control, which has nothing to learn.
    """
    task, seed = translation_task(job.teacher), job.fit.seed
    translator = task.build(job.teacher.model, generator=torch_generator(seed, "init"))
    stand_ins: dict[Key, nn.Module] = {}
    for part in job.arm.parts.values():
        stand_ins |= build_students(translator, spec=_student(part), seed=seed)
    n_replaced = count_replaced(translator, stand_ins)
    substitute(translator, stand_ins)
    if job.arm.is_quiet:
        for module in translator.modules():
            if isinstance(module, ReplacedSite):
                nn.init.zeros_(module.out.weight)
    translator.to(folders.device)
    state = yield from train_job(job, task, translator, folders)
    validation = evaluate_forced(translator, task.data.validation).loss_nats
    return arm_record(
        job,
        task.translate(translator),
        folders,
        stand_ins=stand_ins,
        config={"max_tokens": task.max_tokens, "train": job.train.to_dict()},
        metrics={
            **training_metrics(translator, state),
            "n_replaced_weights": n_replaced,
            "validation_loss_nats": validation,
        },
        details={},
        curve=state.curve,
        seconds=state.seconds,
    )


def _student(part: PART) -> StudentSpec:
    if not isinstance(part, StudentSpec):
        raise AttnlabError(f"{part!r} is a control: it has nothing to learn from scratch.")
    return part
