"""Study ``extractor-ablation``: SHE with one part taken away, in a small language model on tales.

Tests, as far as a small model can, the claim that both parts are needed: is the extraction, is
the adjustment? What does ``1/sqrt(t)`` change, and does it matter that weights count back from
the newest token?
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attnlab.config import ModelConfig, TrainConfig
from attnlab.mixers import build_mixer
from attnlab.models import LanguageModel
from attnlab.seeding import numpy_generator, seeded
from attnlab.sources import tales
from attnlab.studies.engine import Job, grid
from attnlab.studies.study import Plan, Study, register_study
from attnlab.tasks import StreamTask
from attnlab.training import steps_every

N_HELD_OUT = 256  # windows that the loss is measured on
POINT_EVERY = 50  # steps
SIZES = {"context_len": 32, "d_model": 24, "n_layers": 1}
STEPS = {"smoke": 5, "classroom": 500, "paper": 2000}
LR = 6e-3


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to mutilate SHE: its options, and what a picture calls it.

    Args:
        mixer_context_len: How far the mixer looks back; 1 is the newest token alone.
    """

    label: str
    mixer: str = "she"
    options: dict[str, Any] = field(default_factory=dict)
    mixer_context_len: int = SIZES["context_len"]


FACTOR = {"scale": "rsqrt_t"}  # comes with larger initial lag weights, which the first undoes
LIKE_SHE = {**FACTOR, "init_std": (SIZES["d_model"] * SIZES["context_len"]) ** -0.5}
VARIANTS = {
    "identity": Variant(label="neither: no mixing", mixer="identity"),
    "she/adjustment_only": Variant(label="adjustment only", mixer_context_len=1),
    "she/extraction_only": Variant(label="extraction only", options={"adjust": "none"}),
    "she": Variant(label="both: SHE"),
    "she/position_gate": Variant(
        label="both, gate from t alone", options={"adjust": "position_only"}
    ),
    "she/no_output_map": Variant(label="both, no output map", options={"out_proj": False}),
    "she/rsqrt_t": Variant(label="both, times 1/√t", options=LIKE_SHE),
    "she/rsqrt_t_large_start": Variant(label="both, times 1/√t, larger start", options=FACTOR),
    "she/absolute": Variant(label="both, absolute index", options={"index": "absolute"}),
}


def jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan."""
    train, sizes = TrainConfig(n_steps=STEPS[plan.scale], lr=LR), {**SIZES, "n_heads": 1}
    sizes["vocab_size"] = tales("small").vocab_size
    models = {
        name: ModelConfig(mixer=variant.mixer, mixer_options=variant.options, **sizes)
        for name, variant in VARIANTS.items()
    }
    points = steps_every(POINT_EVERY, train.n_steps)
    return [
        replace(job, task={"mixer_context_len": VARIANTS[job.variant].mixer_context_len})
        for job in grid(plan, variants=models, train=train, make_task=ablation_task, points=points)
    ]


@dataclass(frozen=True, kw_only=True)
class AblationTask(StreamTask):
    """Predict a stream of small tales with a model whose mixer may see the newest token alone."""

    mixer_context_len: int

    def build(self, config: ModelConfig, *, generator: torch.Generator) -> LanguageModel:
        """Return an untrained model; its initial weights depend on the seed alone."""
        model = super().build(config, generator=generator)
        if self.mixer_context_len != config.context_len:
            with seeded(generator):
                sizes = {"d_model": config.d_model, "context_len": self.mixer_context_len}
                for block in model.blocks:
                    block.mixer = build_mixer(config.mixer, **sizes, **config.mixer_options)
            model.shrink_residual_maps(mlp=False)  # the new mixers start as small as the old ones
        return model

    def validate(self, model: LanguageModel) -> dict[str, float]:
        """Return nothing: the curve of this study is of the training cost."""
        return {}


def ablation_task(job: Job) -> AblationTask:
    """Return the task of a job; no step reads a token of the stream twice."""
    held_out, oracle_nats = held_out_windows()
    n_tokens = job.train.n_steps * job.train.batch_size * job.model.context_len + 1
    return AblationTask(
        train=_stream(n_tokens), held_out=held_out, oracle_nats=oracle_nats, **job.task
    )


@cache
def held_out_windows() -> tuple[NDArray[np.int64], float]:
    """Return held-out windows ``(256, context_len + 1)`` and the true source's loss on them."""
    source, length = tales("small"), SIZES["context_len"] + 1
    stream = source.sample(N_HELD_OUT * length, generator=numpy_generator(0, "test"))
    windows = stream.reshape(N_HELD_OUT, length)
    return windows, float(source.oracle_nats(windows))


@cache
def _stream(n_tokens: int) -> NDArray[np.int64]:
    return tales("small").sample(n_tokens, generator=numpy_generator(0, "data"))


register_study(
    Study(
        name="extractor-ablation",
        summary="SHE with one part taken away: extraction, adjustment, factor, output map, index",
        variants=tuple(VARIANTS),
        corpora=("tales",),
        jobs=jobs,
    )
)
