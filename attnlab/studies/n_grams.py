"""Study ``n-grams``: what counting reaches on the text that the language models read."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import asdict, dataclass

import numpy as np

from attnlab.config import digest_of
from attnlab.records import RunRecord
from attnlab.sources import context_floors, ngram_losses
from attnlab.studies.core import Folders, Plan, Progress, Study, register_study
from attnlab.studies.datasets import Dataset, list_datasets, prepare_dataset
from attnlab.studies.language_model import BUDGETS

ORDERS = (1, 2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class CountJob:
    """One count: the data of one scale of the study ``language-model``."""

    experiment: str
    corpus: str
    vocab_size: int
    n_train_tokens: int
    context_len: int  # the past is forgotten at window starts, as the models forget it
    orders: tuple[int, ...] = ORDERS

    @property
    def name(self) -> str:
        """What a progress bar shows."""
        return self.experiment

    @property
    def digest(self) -> str:
        """Twelve hex digits that name this exact job."""
        return digest_of(asdict(self))

    def dataset(self) -> Dataset:
        """Return the text that is counted."""
        return prepare_dataset(
            self.corpus, vocab_size=self.vocab_size, n_train_tokens=self.n_train_tokens
        )


def count_jobs(plan: Plan) -> list[CountJob]:
    """Return the one job of a plan; counting knows no seed."""
    budget = BUDGETS.get((plan.scale, plan.corpus)) or BUDGETS[plan.scale, None]
    n_train_tokens = budget.n_steps * budget.batch_size * budget.context_len + 1
    job = CountJob(
        experiment=plan.name,
        corpus=plan.corpus,
        vocab_size=budget.vocab_size,
        n_train_tokens=n_train_tokens,
        context_len=budget.context_len,
    )
    return [job]


def run_count(job: CountJob, folders: Folders) -> Generator[Progress, None, RunRecord]:
    """Count the training split and score the test split; return the record."""
    data = job.dataset()
    yield Progress(job=job.name, step=0, n_steps=2, message="counting")
    started = time.perf_counter()
    held_out = ngram_losses(
        data.train,
        test=data.test,
        vocab_size=data.vocab_size,
        orders=job.orders,
        window_len=job.context_len,
    )
    yield Progress(job=job.name, step=1, n_steps=2, message="floor on the training text")
    floors = context_floors(data.train, vocab_size=data.vocab_size, orders=job.orders)
    details = {
        "data": data.facts,
        "orders": {
            "order": list(job.orders),
            "test_loss_nats": [held_out[order] for order in job.orders],
            "train_floor_nats": [floors[order] for order in job.orders],
        },
    }
    best = _best_order(data, job)
    metrics = {"best_order": best, "test_loss_nats": held_out[best]}
    if data.token_lengths is not None:
        predicted = np.concatenate([np.asarray(d)[1:] for d in data.test if len(d) > 1])
        n_bytes = int(data.token_lengths[predicted].sum())
        total = metrics["test_loss_nats"] * len(predicted)
        metrics["test_bits_per_byte"] = total / float(np.log(2)) / n_bytes
    return RunRecord(
        experiment=job.experiment,
        variant="n_gram",
        seed=0,
        config={"job": job.digest, **asdict(job), "orders": list(job.orders)},
        metrics=metrics,
        details=details,
        seconds=time.perf_counter() - started,
    )


def _best_order(data: Dataset, job: CountJob) -> int:
    """Return the order with the lowest validation loss, so that the test split chooses nothing."""
    losses = ngram_losses(
        data.train,
        test=data.validation,
        vocab_size=data.vocab_size,
        orders=job.orders,
        window_len=job.context_len,
    )
    return min(losses, key=losses.__getitem__)


register_study(
    Study(
        name="n-grams",
        summary="interpolated Kneser-Ney tables on the text of the study language-model",
        variants=("n_gram",),
        corpora=list_datasets(),
        jobs=count_jobs,
        run=run_count,
    )
)
