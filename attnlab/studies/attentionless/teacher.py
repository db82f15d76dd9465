"""The teacher: an encoder-decoder with attention, trained to translate, kept for its students."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from attnlab.config import TrainConfig, TranslatorConfig, digest_of
from attnlab.models import Translator
from attnlab.records import RunRecord, environment
from attnlab.seeding import torch_generator
from attnlab.studies.attentionless.data import PairDataset, prepare_pairs
from attnlab.studies.core import Folders, Progress, checkpoint_file, machine_facts, same_machine
from attnlab.training import (
    PairBatches,
    build_optimizer,
    evaluate_forced,
    save_model,
    translation_steps,
)
from attnlab.training.bleu import BleuShare
from attnlab.training.checkpoint import load_checkpoint, save_checkpoint
from attnlab.training.translation import TranslationScore

STUDY = "attentionless"
CHECKPOINT_EVERY_S = 60.0
N_CURVE_POINTS = 20
N_CURVE_PAIRS = 200  # validation pairs behind a point of the curve


@dataclass(frozen=True, kw_only=True)
class TeacherJob:
    """One training of a teacher, and everything that decides its numbers."""

    experiment: str
    corpus: str
    vocab_size: int  # asked of the subword vocabulary
    n_train_pairs: int  # of the toy languages
    max_tokens: int  # of one side of a batch
    model: TranslatorConfig
    train: TrainConfig
    variant: str = "teacher"

    @property
    def name(self) -> str:
        """What a progress bar shows."""
        return f"{self.experiment} {self.variant} seed {self.train.seed}"

    @property
    def digest(self) -> str:
        """Twelve hex digits that name this exact job."""
        resolved = {"model": self.model.to_dict(), "train": self.train.to_dict()}
        return digest_of({**asdict(self), **resolved})

    def dataset(self) -> PairDataset:
        """Return the pairs the job trains on."""
        return prepare_pairs(
            self.corpus,
            vocab_size=self.vocab_size,
            max_len=self.model.max_len,
            n_train_pairs=self.n_train_pairs,
        )

    def weights(self, folders: Folders) -> Path:
        """Return where the trained teacher is kept."""
        return folders.work_file(STUDY, f"{self.digest}.model.safetensors")


class TranslationJob(Protocol):
    """A job that trains a translator by its own rules."""

    @property
    def name(self) -> str:
        """What a progress bar shows."""

    @property
    def digest(self) -> str:
        """Twelve hex digits that name this exact job."""

    @property
    def train(self) -> TrainConfig:
        """Steps, rate and schedule."""


@dataclass
class TrainingState:
    """Progress of a run, besides weights and moments."""

    step: int = 0
    tokens_seen: int = 0
    seconds: float = 0.0
    recent: list[float] = field(default_factory=list)
    curve: dict[str, list[float]] = field(
        default_factory=lambda: {"tokens_seen": [], "train_loss_nats": [], "loss_nats": []}
    )

    def add_point(self, validation_nats: float) -> None:
        """Close the stretch since the last point of the curve."""
        self.curve["tokens_seen"].append(self.tokens_seen)
        self.curve["train_loss_nats"].append(sum(self.recent) / len(self.recent))
        self.curve["loss_nats"].append(validation_nats)
        self.recent = []


def run_teacher(job: TeacherJob, folders: Folders) -> Generator[Progress, None, RunRecord]:
    """Train a teacher to its end, from its checkpoint if there is one, and return the record."""
    data = job.dataset()
    generator = torch_generator(job.train.seed, "init")
    teacher = Translator(job.model, generator=generator).to(folders.device)
    state = yield from train_translator(job, teacher, data, folders, max_tokens=job.max_tokens)
    record = _record(job, data, teacher, state, folders)
    save_model(job.weights(folders), model=teacher, experiment=job.experiment, job=job.digest)
    return record


def train_translator(
    job: TranslationJob,
    translator: Translator,
    data: PairDataset,
    folders: Folders,
    *,
    max_tokens: int,
) -> Generator[Progress, None, TrainingState]:
    """Train all weights as ``job.train`` says, from the job's checkpoint if there is one.

    Args:
        translator: Trained in place.
        max_tokens: Of one side of a batch.
    """
    checkpoint = checkpoint_file(job, folders, study=STUDY)
    optimizer = build_optimizer(translator, job.train)
    state = TrainingState()
    if checkpoint.exists():
        facts = load_checkpoint(checkpoint, model=translator, optimizer=optimizer)
        state = TrainingState(**same_machine(facts, folders))
    batches = PairBatches(
        data.train, max_tokens=max_tokens, seed=job.train.seed, device=folders.device
    )
    steps = translation_steps(
        translator,
        batches.starting_at(state.step * job.train.accumulation_steps),
        config=job.train,
        optimizer=optimizer,
        first_step=state.step,
        tokens_seen=state.tokens_seen,
    )
    every = max(1, job.train.n_steps // N_CURVE_POINTS)
    started, seconds_before = time.perf_counter(), state.seconds
    saved = started
    for log in steps:
        state.step, state.tokens_seen = log.step, log.tokens_seen
        state.recent.append(log.loss_nats)
        state.seconds = seconds_before + time.perf_counter() - started
        if log.step % every == 0 or log.step == job.train.n_steps:
            state.add_point(evaluate_forced(translator, data.validation[:N_CURVE_PAIRS]).loss_nats)
        said = state.curve["loss_nats"][-1:] or [float("nan")]
        message = f"train {log.loss_nats:.3f} nats, validation {said[0]:.3f}"
        yield Progress(job=job.name, step=log.step, n_steps=job.train.n_steps, message=message)
        if time.perf_counter() - saved > CHECKPOINT_EVERY_S:
            facts = {**asdict(state), **machine_facts(folders)}
            save_checkpoint(checkpoint, model=translator, optimizer=optimizer, facts=facts)
            saved = time.perf_counter()
    translator.eval()
    return state


def _record(
    job: TeacherJob, data: PairDataset, teacher: Translator, state: TrainingState, folders: Folders
) -> RunRecord:
    score = data.score(teacher)
    return RunRecord(
        experiment=job.experiment,
        variant=job.variant,
        seed=job.train.seed,
        config={
            "job": job.digest,
            "corpus": job.corpus,
            "max_tokens": job.max_tokens,
            "model": job.model.to_dict(),
            "train": job.train.to_dict(),
        },
        metrics={
            "n_weights": sum(p.numel() for p in teacher.parameters()),
            **training_metrics(state, teacher, data),
            **score_metrics(score),
        },
        curve=state.curve,
        details={"data": data.facts, "by_length": length_table(score), "bleu": bleu_facts(score)},
        seconds=state.seconds,
        environment=environment(device=folders.device),
    )


def training_metrics(
    state: TrainingState, translator: Translator, data: PairDataset
) -> dict[str, float]:
    """Return the numbers of a training that has ended."""
    return {
        "tokens_seen": state.tokens_seen,
        "train_loss_nats": state.curve["train_loss_nats"][-1],
        "validation_loss_nats": evaluate_forced(translator, data.validation).loss_nats,
    }


def score_metrics(score: TranslationScore) -> dict[str, float]:
    """Return the numbers of a test set: with every earlier token given, and written freely."""
    return {
        "test_loss_nats": score.forced.loss_nats,
        "test_accuracy": score.forced.accuracy,
        "bleu": score.bleu.score,
        "bleu_low": score.bleu.low,
        "bleu_high": score.bleu.high,
        "exact_match": score.exact_match,
    }


def share_metrics(share: BleuShare | None) -> dict[str, float]:
    """Return the score as a share of the teacher's, on the same resampled test sets."""
    if share is None:
        return {}
    return {
        "bleu_share": share.value,
        "bleu_share_low": share.low,
        "bleu_share_high": share.high,
    }


def bleu_facts(score: TranslationScore) -> dict[str, Any]:
    """Return what is needed to compare a BLEU with another one."""
    return {
        "signature": score.bleu.signature,
        "precisions": list(score.bleu.precisions),
        "brevity_penalty": score.bleu.brevity_penalty,
        "n_sentences": score.bleu.n_sentences,
    }


def length_table(score: TranslationScore) -> dict[str, list[float]]:
    """Return BLEU by length of the reference, as columns."""
    return {
        "shortest": [bucket.shortest for bucket in score.by_length],
        "longest": [bucket.longest for bucket in score.by_length],
        "bleu": [bucket.bleu.score for bucket in score.by_length],
        "bleu_low": [bucket.bleu.low for bucket in score.by_length],
        "bleu_high": [bucket.bleu.high for bucket in score.by_length],
        "n_sentences": [bucket.bleu.n_sentences for bucket in score.by_length],
    }
