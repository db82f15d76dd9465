"""Study ``language-model``: the same model, trainer and batches; only the mixer differs.

Holds the order of mixers that arXiv:2308.07661 reports against training cost, as there, and
against what that paper lacks: held-out loss, seeds, attention of the same size and the same cost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from attnlab.analysis.theory import (
    expected_language_model_multiplications,
    expected_language_model_weights,
)
from attnlab.config import ModelConfig, TrainConfig
from attnlab.studies.engine import Job, grid
from attnlab.studies.study import Plan, Study, register_study
from attnlab.tasks import Dataset, LanguageTask, list_datasets, prepare_dataset
from attnlab.training import WindowBatches, steps_dense_early

VARIANTS = {  # name: what a table calls it
    "attention": "attention, 4 heads",
    "attention_1_head": "attention, 1 head",
    "she": "SHE",
    "he": "HE",
    "we": "WE",
    "me": "ME",
    "mean": "mean of the past",
    "identity": "no mixing",
    "attention_matched_parameters": "attention, as many weights as SHE",
    "attention_matched_compute": "attention, as many multiplications as SHE",
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Sizes of one scale: fields of the model, and of its training.

    Args:
        n_passes: Of real text; gives ``n_steps`` where the training does not.
        vocab_size: Asked of the tokenizer.
    """

    model: dict[str, Any]
    train: dict[str, Any]
    n_passes: float = 0.0
    vocab_size: int = 5000

    @property
    def data(self) -> dict[str, int]:
        """What ``prepare_dataset`` takes: a synthetic stream is as long as is read once."""
        window = self.train["batch_size"] * self.model["context_len"]
        n_tokens = self.train.get("n_steps", 0) * window + 1
        return {"vocab_size": self.vocab_size, "n_train_tokens": n_tokens}


SMALL = {"context_len": 64, "d_model": 64, "n_layers": 2}
LARGE = {"context_len": 128, "d_model": 128, "n_layers": 6}
PAPER = {"batch_size": 64, "lr": 2e-3}
BUDGETS = {  # by scale and corpus; None: every other one
    ("smoke", None): Budget(model={"context_len": 8, "d_model": 16, "n_layers": 1}, vocab_size=300,
                            train={"batch_size": 8, "lr": 3e-3, "n_steps": 8}),
    ("classroom", None): Budget(model=SMALL, vocab_size=1000,
                                train={"batch_size": 32, "lr": 3e-3, "n_steps": 400}),
    ("classroom", "children"): Budget(model=SMALL, vocab_size=2000,
                                      train={"batch_size": 32, "lr": 3e-3, "n_steps": 1500}),
    ("paper", None): Budget(model=LARGE, n_passes=1, train={**PAPER, "precision": "bf16"}),
    ("paper", "tales"): Budget(model=LARGE, train={**PAPER, "n_steps": 2000}),
    ("paper", "python_reference"): Budget(model=LARGE, n_passes=8, vocab_size=2000,
                                          train={**PAPER, "precision": "bf16"}),
}  # fmt: skip


def jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan."""
    sizes = plan.choose(BUDGETS)
    data = prepare_dataset(plan.corpus, **sizes.data)
    n_steps = sizes.train.get("n_steps") or round(sizes.n_passes * _batches_of_a_pass(data, sizes))
    warmup_steps = max(1, n_steps // 20)
    base = ModelConfig(vocab_size=data.vocab_size, n_heads=4, **sizes.model)
    return grid(
        plan,
        variants={name: variant_config(name, base) for name in plan.variants or VARIANTS},
        train=TrainConfig(**{**sizes.train, "n_steps": n_steps, "warmup_steps": warmup_steps}),
        task={"corpus": plan.corpus, **sizes.data},
        make_task=language_task,
        points=steps_dense_early(n_steps),
    )


def _batches_of_a_pass(data: Dataset, sizes: Budget) -> int:
    windows = {"context_len": sizes.model["context_len"], "batch_size": sizes.train["batch_size"]}
    return WindowBatches(data.train, seed=0, **windows).n_batches


def language_task(job: Job) -> LanguageTask:
    """Return the task of a job."""
    options = dict(job.task)
    return LanguageTask(data=prepare_dataset(options.pop("corpus"), **options))


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


register_study(
    Study(
        name="language-model",
        summary="attention, four Extractors and baselines in one language model, same batches",
        variants=tuple(VARIANTS),
        corpora=list_datasets(),
        jobs=jobs,
    )
)
