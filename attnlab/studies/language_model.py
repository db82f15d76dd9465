"""Study ``language-model``: the same model, trainer and batches; only the mixer differs.

Holds the order of mixers that arXiv:2308.07661 reports against training cost, as there, and
against what that paper lacks: held-out loss, seeds, attention of the same size and the same cost.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from attnlab.analysis.theory import (
    expected_language_model_multiplications,
    expected_language_model_weights,
)
from attnlab.config import ModelConfig, TrainConfig
from attnlab.errors import AttnlabError
from attnlab.models import LanguageModel
from attnlab.records import RunRecord, environment
from attnlab.seeding import torch_generator
from attnlab.studies.core import (
    Folders,
    Plan,
    Progress,
    Study,
    TrainingJob,
    checkpoint_file,
    machine_facts,
    register_study,
    same_machine,
)
from attnlab.studies.datasets import Dataset, list_datasets, prepare_dataset
from attnlab.training import (
    WindowBatches,
    build_optimizer,
    evaluate_documents,
    save_model,
    train_steps,
)
from attnlab.training.checkpoint import load_checkpoint, save_checkpoint
from attnlab.training.evaluation import pool, windows

VARIANTS = (
    "attention",
    "attention_1_head",
    "she",
    "he",
    "we",
    "me",
    "mean",
    "identity",
    "attention_matched_parameters",
    "attention_matched_compute",
)
CHECKPOINT_EVERY_S = 60.0
N_CURVE_POINTS = 25
N_CURVE_TOKENS = 8192  # of validation text behind a point of the curve


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Sizes of one scale. ``n_passes`` overrides ``n_steps`` where text is finite."""

    context_len: int
    d_model: int
    n_layers: int
    batch_size: int
    lr: float
    n_heads: int = 4
    n_steps: int = 0
    n_passes: float = 0.0
    vocab_size: int = 5000
    precision: str = "fp32"


SMOKE = Budget(
    context_len=8, d_model=16, n_layers=1, batch_size=8, lr=3e-3, n_steps=8, vocab_size=300
)
CLASSROOM = Budget(
    context_len=64, d_model=64, n_layers=2, batch_size=32, lr=3e-3, n_steps=400, vocab_size=1000
)
CLASSROOM_BOOKS = replace(CLASSROOM, n_steps=1500, vocab_size=2000)
PAPER = Budget(
    context_len=128,
    d_model=128,
    n_layers=6,
    batch_size=64,
    lr=2e-3,
    n_passes=1.0,
    precision="bf16",
)
BUDGETS = {
    ("smoke", None): SMOKE,
    ("classroom", None): CLASSROOM,
    ("classroom", "children"): CLASSROOM_BOOKS,
    ("paper", None): PAPER,
    ("paper", "tales"): replace(PAPER, n_passes=0.0, n_steps=2000, precision="fp32"),
    ("paper", "python_reference"): replace(PAPER, n_passes=8.0, vocab_size=2000),
}


@dataclass(frozen=True, kw_only=True)
class Job(TrainingJob):
    """One training of this study."""

    corpus: str
    vocab_size: int  # asked of the tokenizer
    n_train_tokens: int  # of a synthetic stream

    def dataset(self) -> Dataset:
        """Return the data the job trains on."""
        return prepare_dataset(
            self.corpus, vocab_size=self.vocab_size, n_train_tokens=self.n_train_tokens
        )


def language_model_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed, so that an early stop leaves whole seeds."""
    budget = BUDGETS.get((plan.scale, plan.corpus)) or BUDGETS[plan.scale, None]
    n_train_tokens = budget.n_steps * budget.batch_size * budget.context_len + 1
    data = prepare_dataset(plan.corpus, vocab_size=budget.vocab_size, n_train_tokens=n_train_tokens)
    n_steps = budget.n_steps or round(budget.n_passes * _batches(data, budget, 0).n_batches)
    base = ModelConfig(
        vocab_size=data.vocab_size,
        context_len=budget.context_len,
        d_model=budget.d_model,
        n_layers=budget.n_layers,
        n_heads=budget.n_heads,
    )
    jobs = []
    for seed in plan.seeds:
        train = TrainConfig(
            n_steps=n_steps,
            batch_size=budget.batch_size,
            lr=budget.lr,
            warmup_steps=max(1, n_steps // 20),
            precision=budget.precision,
            seed=seed,
        )
        for variant in plan.variants or VARIANTS:
            jobs.append(
                Job(
                    experiment=plan.name,
                    variant=variant,
                    corpus=plan.corpus,
                    vocab_size=budget.vocab_size,
                    n_train_tokens=n_train_tokens,
                    model=variant_config(variant, base),
                    train=train,
                )
            )
    return jobs


def variant_config(variant: str, base: ModelConfig) -> ModelConfig:
    """Return the model of a variant; matched ones are attention widened to the cost of SHE."""
    if variant == "attention_1_head":
        return replace(base, mixer="attention", n_heads=1)
    if not variant.startswith("attention_matched"):
        return replace(base, mixer=variant)
    measure = {
        "attention_matched_parameters": expected_language_model_weights,
        "attention_matched_compute": expected_language_model_multiplications,
    }[variant]
    aim = measure(replace(base, mixer="she"))
    widths = range(base.n_heads, 40 * base.d_model, base.n_heads)
    models = (replace(base, mixer="attention", d_model=d, d_ff=4 * d) for d in widths)
    return min(models, key=lambda model: abs(measure(model) - aim))


def run_language_model(job: Job, folders: Folders) -> Generator[Progress, None, RunRecord]:
    """Train one job to its end, from its checkpoint if there is one, and return the record."""
    data = job.dataset()
    checkpoint = checkpoint_file(job, folders, study="language-model")
    generator = torch_generator(job.train.seed, "init")
    model = LanguageModel(job.model, generator=generator).to(folders.device)
    optimizer = build_optimizer(model, job.train)
    state = _State()
    if checkpoint.exists():
        facts = load_checkpoint(checkpoint, model=model, optimizer=optimizer)
        state = _State(**same_machine(facts, folders))
    batches = _batches(data, job, job.train.seed, device=folders.device).starting_at(
        state.step * job.train.accumulation_steps
    )
    steps = train_steps(
        model,
        batches,
        config=job.train,
        optimizer=optimizer,
        first_step=state.step,
        tokens_seen=state.tokens_seen,
    )
    points = curve_steps(job.train.n_steps)
    started, seconds_before = time.perf_counter(), state.seconds
    saved = started
    for log in steps:
        state.note(log.step, log.tokens_seen, log.loss_nats)
        state.seconds = seconds_before + time.perf_counter() - started
        if log.step in points:
            state.add_point(_curve_loss(model, data))
        message = f"train {log.loss_nats:.3f} nats, validation {state.last_validation:.3f}"
        yield Progress(job=job.name, step=log.step, n_steps=job.train.n_steps, message=message)
        if time.perf_counter() - saved > CHECKPOINT_EVERY_S:
            facts = {**asdict(state), **machine_facts(folders)}
            save_checkpoint(checkpoint, model=model, optimizer=optimizer, facts=facts)
            saved = time.perf_counter()
    record = _record(job, data, model, state, device=folders.device)
    final = folders.work_file("language-model", f"{job.digest}.model.safetensors")
    save_model(final, model=model, variant=job.variant, experiment=job.experiment, job=job.digest)
    return record


def curve_steps(n_steps: int) -> set[int]:
    """Return the steps after which a point is added to the curve: dense early, the last one in."""
    spaced = np.geomspace(1, n_steps, N_CURVE_POINTS // 2).round().astype(int)
    even = np.linspace(0, n_steps, N_CURVE_POINTS // 2 + 1).round().astype(int)[1:]
    return {int(step) for step in (*spaced, *even) if step > 0}


@dataclass
class _State:
    """Progress of a run; everything a resumed run needs besides weights and moments."""

    step: int = 0
    tokens_seen: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0  # over all steps, for the mean cost of the whole run
    recent_sum: float = 0.0  # since the last point of the curve
    recent_steps: int = 0
    curve: dict[str, list[float]] | None = None

    def note(self, step: int, tokens_seen: int, loss_nats: float) -> None:
        """Count one optimiser step and its loss."""
        self.step, self.tokens_seen = step, tokens_seen
        self.loss_sum += loss_nats
        self.recent_sum += loss_nats
        self.recent_steps += 1

    def add_point(self, validation_nats: float) -> None:
        """Close the stretch since the last point of the curve."""
        self.curve = self.curve or {"tokens_seen": [], "train_loss_nats": [], "loss_nats": []}
        self.curve["tokens_seen"].append(self.tokens_seen)
        self.curve["train_loss_nats"].append(self.recent_sum / self.recent_steps)
        self.curve["loss_nats"].append(validation_nats)
        self.recent_sum, self.recent_steps = 0.0, 0

    @property
    def last_validation(self) -> float:
        """Validation loss at the last point; NaN before the first."""
        return self.curve["loss_nats"][-1] if self.curve else float("nan")


def _batches(
    data: Dataset, sizes: Budget | Job, seed: int, *, device: str = "cpu"
) -> WindowBatches:
    is_job = isinstance(sizes, Job)
    return WindowBatches(
        data.train,
        context_len=sizes.model.context_len if is_job else sizes.context_len,
        batch_size=sizes.train.batch_size if is_job else sizes.batch_size,
        seed=seed,
        device=device,
    )


def _curve_loss(model: LanguageModel, data: Dataset) -> float:
    """Return the loss on the first windows of the validation documents, shared out evenly."""
    context_len = model.config.context_len
    n_windows = max(1, N_CURVE_TOKENS // (context_len * len(data.validation)))
    length = n_windows * context_len + 1
    scores = evaluate_documents(model, [document[:length] for document in data.validation])
    return pool(scores).nats_per_token


def _record(
    job: Job, data: Dataset, model: LanguageModel, state: _State, *, device: str
) -> RunRecord:
    lengths = data.token_lengths
    validation = pool(evaluate_documents(model, data.validation, token_lengths=lengths))
    books = evaluate_documents(model, data.test, token_lengths=lengths)
    test = pool(books)
    curve = state.curve or {}
    metrics = {
        "n_weights": sum(p.numel() for p in model.parameters()),
        "n_multiplications": expected_language_model_multiplications(job.model),
        "tokens_seen": state.tokens_seen,
        "train_loss_nats": curve["train_loss_nats"][-1],  # mean since the point before the last
        "train_loss_nats_run_mean": state.loss_sum / state.step,
        "validation_loss_nats": validation.nats_per_token,
        "test_loss_nats": test.nats_per_token,
    }
    details: dict[str, Any] = {"data": data.facts}
    if lengths is not None:
        metrics["validation_bits_per_byte"] = validation.bits_per_byte
        metrics["test_bits_per_byte"] = test.bits_per_byte
        details["books"] = {
            "book": [n for n, d in zip(data.test_names, data.test, strict=True) if len(d) > 1],
            "loss_nats": [b.nats_per_token for b in books],
            "bits_per_byte": [b.bits_per_byte for b in books],
            "n_tokens": [b.n_tokens for b in books],
        }
    if data.oracle_nats is not None:
        metrics["oracle_nats"] = oracle_on_windows(data, job.model.context_len)
        metrics["test_gap_nats"] = metrics["test_loss_nats"] - metrics["oracle_nats"]
    return RunRecord(
        experiment=job.experiment,
        variant=job.variant,
        seed=job.train.seed,
        config={
            "job": job.digest,
            "corpus": job.corpus,
            "model": job.model.to_dict(),
            "train": job.train.to_dict(),
        },
        metrics=metrics,
        curve=curve,
        details=details,
        seconds=state.seconds,
        environment=environment(device=device),
    )


@lru_cache(maxsize=16)
def oracle_on_windows(data: Dataset, context_len: int) -> float:
    """Return the true source's loss on the test windows, cut as ``evaluate`` cuts them.

    The source sees what the models see: the window alone, starting from its stationary law.
    """
    if data.oracle_nats is None:
        raise AttnlabError(f"{data.name} is real text: nobody knows its true source.")
    total, n_tokens = 0.0, 0
    for document in data.test:
        for inputs, targets in windows(document, context_len):
            whole = np.concatenate([inputs[:, :1], targets], axis=1)
            total += float(data.oracle_nats(whole)) * targets.numel()
            n_tokens += targets.numel()
    return total / n_tokens


register_study(
    Study(
        name="language-model",
        summary="attention, four Extractors and baselines in one language model, same batches",
        variants=VARIANTS,
        corpora=list_datasets(),
        jobs=language_model_jobs,
        run=run_language_model,
    )
)
