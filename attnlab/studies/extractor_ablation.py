"""Study ``extractor-ablation``: SHE with one part taken away, in a small language model on tales.

Tests, as far as a small model can, the claim that both parts are needed: is the extraction, is
the adjustment? What does ``1/sqrt(t)`` change, and does it matter that weights count back from
the newest token?
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from attnlab.config import ModelConfig, TrainConfig
from attnlab.mixers import build_mixer
from attnlab.models import LanguageModel
from attnlab.records import RunRecord
from attnlab.seeding import numpy_generator, torch_generator
from attnlab.sources import tales
from attnlab.studies.core import Folders, Plan, Progress, Study, TrainingJob, register_study
from attnlab.training import WindowBatches, train_steps

N_HELD_OUT = 256  # windows that the loss is measured on
REPORT_EVERY = 50  # steps


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to mutilate SHE, and what a picture calls it.

    Args:
        adjusts_only: Whether the mixer sees the newest token alone: no extraction.
        start_like_she: Whether lag weights start as small as those of SHE without a factor,
            so that only the factor differs.
    """

    label: str
    mixer: str = "she"
    options: dict[str, Any] = field(default_factory=dict)
    adjusts_only: bool = False
    start_like_she: bool = False


VARIANTS = {
    "identity": Variant(label="neither: no mixing", mixer="identity"),
    "she/adjustment_only": Variant(label="adjustment only", adjusts_only=True),
    "she/extraction_only": Variant(label="extraction only", options={"adjust": "none"}),
    "she": Variant(label="both: SHE"),
    "she/position_gate": Variant(
        label="both, gate from t alone", options={"adjust": "position_only"}
    ),
    "she/no_output_map": Variant(label="both, no output map", options={"out_proj": False}),
    "she/rsqrt_t": Variant(
        label="both, times 1/√t", options={"scale": "rsqrt_t"}, start_like_she=True
    ),
    "she/rsqrt_t_large_start": Variant(
        label="both, times 1/√t, larger start", options={"scale": "rsqrt_t"}
    ),
    "she/absolute": Variant(label="both, absolute index", options={"index": "absolute"}),
}

SIZES = {"context_len": 32, "d_model": 24, "n_layers": 1}
STEPS = {"smoke": 5, "classroom": 500, "paper": 2000}
LR = 6e-3


@dataclass(frozen=True, kw_only=True)
class Job(TrainingJob):
    """One training of this study."""

    mixer_context_len: int


def ablation_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed."""
    train = TrainConfig(n_steps=STEPS[plan.scale], lr=LR)
    return [
        Job(
            experiment=plan.name,
            variant=name,
            model=variant_config(VARIANTS[name]),
            train=replace(train, seed=seed),
            mixer_context_len=1 if VARIANTS[name].adjusts_only else SIZES["context_len"],
        )
        for seed in plan.seeds
        for name in plan.variants or VARIANTS
    ]


def variant_config(variant: Variant) -> ModelConfig:
    """Return the small language model with this variant as its mixer."""
    options = dict(variant.options)
    if variant.start_like_she:
        options["init_std"] = (SIZES["d_model"] * SIZES["context_len"]) ** -0.5
    vocab_size = tales("small").vocab_size
    return ModelConfig(
        mixer=variant.mixer, mixer_options=options, vocab_size=vocab_size, n_heads=1, **SIZES
    )


def build_ablated(job: Job) -> LanguageModel:
    """Return the model of a job, untrained; its initial weights depend on the seed alone."""
    generator = torch_generator(job.train.seed, "init")
    model = LanguageModel(job.model, generator=generator)
    if job.mixer_context_len != job.model.context_len:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator.get_state())
            sizes = {"d_model": job.model.d_model, "context_len": job.mixer_context_len}
            for block in model.blocks:
                block.mixer = build_mixer(job.model.mixer, **sizes, **job.model.mixer_options)
        model.shrink_residual_maps(mlp=False)  # the new mixers start as small as the old ones
    return model


def run_ablation(job: Job, folders: Folders) -> Generator[Progress, None, RunRecord]:
    """Train one job, which takes seconds, and return its record."""
    started = time.perf_counter()
    model = build_ablated(job)
    curve: dict[str, list[float]] = {"tokens_seen": [], "train_loss_nats": []}
    recent = []
    for log in train_steps(model, _batches(job), config=job.train):
        recent.append(log.loss_nats)
        if log.step % REPORT_EVERY == 0 or log.step == job.train.n_steps:
            curve["tokens_seen"].append(log.tokens_seen)
            curve["train_loss_nats"].append(float(np.mean(recent)))
            recent = []
        message = f"train {log.loss_nats:.3f} nats"
        yield Progress(job=job.name, step=log.step, n_steps=job.train.n_steps, message=message)
    return _record(job, model, curve, time.perf_counter() - started)


def _record(job: Job, model: LanguageModel, curve: dict, seconds: float) -> RunRecord:
    windows, oracle_nats = held_out()
    with torch.no_grad():
        losses = model.eval().loss(windows[:, :-1], windows[:, 1:], reduction="none").double()
    by_position = losses.mean(0).tolist()
    return RunRecord(
        experiment=job.experiment,
        variant=job.variant,
        seed=job.train.seed,
        config={
            "job": job.digest,
            "corpus": "tales",
            "mixer_context_len": job.mixer_context_len,
            "model": job.model.to_dict(),
            "train": job.train.to_dict(),
        },
        metrics={
            "n_weights": sum(p.numel() for p in model.parameters()),
            "train_loss_nats": curve["train_loss_nats"][-1],
            "test_loss_nats": float(losses.mean()),
            "oracle_nats": oracle_nats,
        },
        curve=curve,
        details={
            "by_position": {
                "position": list(range(1, len(by_position) + 1)),
                "loss_nats": by_position,
            }
        },
        seconds=seconds,
    )


@cache
def held_out() -> tuple[torch.Tensor, float]:
    """Return held-out windows ``(256, context_len + 1)`` and the true source's loss on them."""
    source, length = tales("small"), SIZES["context_len"] + 1
    stream = source.sample(N_HELD_OUT * length, generator=numpy_generator(0, "test"))
    windows = stream.reshape(N_HELD_OUT, length)
    return torch.from_numpy(windows), float(source.oracle_nats(windows))


@cache
def _stream(n_tokens: int) -> np.ndarray:
    return tales("small").sample(n_tokens, generator=numpy_generator(0, "data"))


def _batches(job: Job):
    sizes = {"context_len": job.model.context_len, "batch_size": job.train.batch_size}
    n_tokens = job.train.n_steps * sizes["context_len"] * sizes["batch_size"] + 1
    return WindowBatches([_stream(n_tokens)], seed=job.train.seed, **sizes).starting_at(0)


register_study(
    Study(
        name="extractor-ablation",
        summary="SHE with one part taken away: extraction, adjustment, factor, output map, index",
        variants=tuple(VARIANTS),
        corpora=("tales",),
        jobs=ablation_jobs,
        run=run_ablation,
    )
)
