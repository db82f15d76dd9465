"""Study ``n-grams``: what counting reaches on the text that the language models read."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import asdict, dataclass

import numpy as np

from attnlab.config import digest_of
from attnlab.records import RunRecord
from attnlab.sources import context_floors, ngram_losses
from attnlab.studies.engine import Folders, Progress
from attnlab.studies.mixers import BUDGETS
from attnlab.studies.study import Plan, Study, register_study
from attnlab.tasks import list_datasets, prepare_dataset

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


def jobs(plan: Plan) -> list[CountJob]:
    """Return the one job of a plan; counting knows no seed."""
    sizes, names = plan.choose(BUDGETS), {"experiment": plan.name, "corpus": plan.corpus}
    return [CountJob(**names, **sizes.data, context_len=sizes.model["context_len"])]


def run_count(job: CountJob, folders: Folders) -> Generator[Progress, None, RunRecord]:
    """Count the training split, choose the order on the validation split, score the test split."""
    data = prepare_dataset(job.corpus, vocab_size=job.vocab_size, n_train_tokens=job.n_train_tokens)
    text = {"vocab_size": data.vocab_size, "orders": job.orders}
    yield Progress(job=job.name, step=0, n_steps=2, message="counting")
    started = time.perf_counter()
    validation, test = (
        ngram_losses(data.train, test=split, window_len=job.context_len, **text)
        for split in (data.validation, data.test)
    )
    yield Progress(job=job.name, step=1, n_steps=2, message="floor on the training text")
    floors = context_floors(data.train, **text)
    best = min(validation, key=validation.__getitem__)  # so that the test split chooses nothing
    metrics = {"best_order": best, "test_loss_nats": test[best]}
    if data.token_lengths is not None:
        predicted = np.concatenate([np.asarray(d)[1:] for d in data.test if len(d) > 1])
        n_bytes = int(data.token_lengths[predicted].sum())
        total = test[best] * len(predicted)
        metrics["test_bits_per_byte"] = total / float(np.log(2)) / n_bytes
    orders = {
        "order": list(job.orders),
        "test_loss_nats": [test[order] for order in job.orders],
        "train_floor_nats": [floors[order] for order in job.orders],
    }
    return RunRecord(
        experiment=job.experiment,
        variant="n_gram",
        seed=0,
        config={"job": job.digest, **asdict(job), "orders": list(job.orders)},
        metrics=metrics,
        details={"data": data.facts, "orders": orders},
        seconds=time.perf_counter() - started,
    )


register_study(
    Study(
        name="n-grams",
        summary="interpolated Kneser-Ney tables on the text of the study language-model",
        variants=("n_gram",),
        corpora=list_datasets(),
        jobs=jobs,
        run=run_count,
    )
)
