"""Train a translator that never had the attention, as its teacher was trained."""

from __future__ import annotations

from collections.abc import Generator

from torch import nn

from attnlab.distillation import ReplacedSite, StudentSpec, build_students, substitute
from attnlab.errors import AttnlabError
from attnlab.models import Translator
from attnlab.records import RunRecord
from attnlab.seeding import torch_generator
from attnlab.studies.attentionless.arm_job import ArmJob, Key, arm_record, count_replaced
from attnlab.studies.attentionless.arms import PART
from attnlab.studies.attentionless.teacher import train_translator, training_metrics
from attnlab.studies.core import Folders, Progress


def run_from_scratch(job: ArmJob, folders: Folders) -> Generator[Progress, None, RunRecord]:
    """Build body and students anew, train them together on the translations, return the record.

    Raises:
        AttnlabError: The arm has a control, which has nothing to learn.
    """
    data, seed = job.teacher.dataset(), job.fit.seed
    translator = Translator(job.teacher.model, generator=torch_generator(seed, "init"))
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
    max_tokens = job.teacher.max_tokens
    state = yield from train_translator(job, translator, data, folders, max_tokens=max_tokens)
    return arm_record(
        job,
        data.score(translator),
        folders,
        stand_ins=stand_ins,
        config={"max_tokens": max_tokens, "train": job.train.to_dict()},
        metrics={
            "n_weights": sum(p.numel() for p in translator.parameters()),
            "n_replaced_weights": n_replaced,
            **training_metrics(state, translator, data),
        },
        details={},
        curve=state.curve,
        seconds=state.seconds,
    )


def _student(part: PART) -> StudentSpec:
    if not isinstance(part, StudentSpec):
        raise AttnlabError(f"{part!r} is a control: it has nothing to learn from scratch.")
    return part
