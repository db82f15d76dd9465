"""Study ``language-model``: the same model, trainer and batches; only the mixer differs.

Holds the order of mixers that arXiv:2308.07661 reports against training cost, as there, and
against what that paper lacks: held-out loss, seeds, attention of the same size and the same cost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnlab.analysis.theory import (
    expected_language_model_multiplications,
    expected_language_model_weights,
)
from attnlab.config import ModelConfig, TrainConfig
from attnlab.studies.engine import Job, grid
from attnlab.studies.study import Plan, Study, register_study
from attnlab.tasks import Dataset, LanguageTask, list_datasets, prepare_dataset
from attnlab.training import WindowBatches, steps_dense_early

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

    @property
    def n_train_tokens(self) -> int:
        """Length of a synthetic stream that no step reads twice."""
        return self.n_steps * self.batch_size * self.context_len + 1


SMOKE = Budget(
    context_len=8, d_model=16, n_layers=1, batch_size=8, lr=3e-3, n_steps=8, vocab_size=300
)
CLASSROOM = Budget(
    context_len=64, d_model=64, n_layers=2, batch_size=32, lr=3e-3, n_steps=400, vocab_size=1000
)
PAPER = Budget(
    context_len=128, d_model=128, n_layers=6, batch_size=64, lr=2e-3, n_passes=1, precision="bf16"
)
BUDGETS = {  # by scale and corpus; None: every other one
    ("smoke", None): SMOKE,
    ("classroom", None): CLASSROOM,
    ("classroom", "children"): replace(CLASSROOM, n_steps=1500, vocab_size=2000),
    ("paper", None): PAPER,
    ("paper", "tales"): replace(PAPER, n_passes=0, n_steps=2000, precision="fp32"),
    ("paper", "python_reference"): replace(PAPER, n_passes=8, vocab_size=2000),
}


def budget_of(plan: Plan) -> Budget:
    """Return the sizes for the scale and the data of a plan."""
    return BUDGETS.get((plan.scale, plan.corpus)) or BUDGETS[plan.scale, None]


def budgeted_data(plan: Plan) -> Dataset:
    """Return the data of a plan."""
    sizes = budget_of(plan)
    return prepare_dataset(
        plan.corpus, vocab_size=sizes.vocab_size, n_train_tokens=sizes.n_train_tokens
    )


def language_task(job: Job) -> LanguageTask:
    """Return the task of a job."""
    options = {name: value for name, value in job.task.items() if name != "corpus"}
    return LanguageTask(data=prepare_dataset(job.task["corpus"], **options))


def jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan."""
    sizes, data = budget_of(plan), budgeted_data(plan)
    windows = {"context_len": sizes.context_len, "batch_size": sizes.batch_size}
    n_steps = sizes.n_steps or round(
        sizes.n_passes * WindowBatches(data.train, seed=0, **windows).n_batches
    )
    base = ModelConfig(
        vocab_size=data.vocab_size,
        context_len=sizes.context_len,
        d_model=sizes.d_model,
        n_layers=sizes.n_layers,
        n_heads=sizes.n_heads,
    )
    train = TrainConfig(
        n_steps=n_steps,
        batch_size=sizes.batch_size,
        lr=sizes.lr,
        warmup_steps=max(1, n_steps // 20),
        precision=sizes.precision,
    )
    return grid(
        plan,
        variants={name: variant_config(name, base) for name in plan.variants or VARIANTS},
        train=train,
        task={
            "corpus": plan.corpus,
            "vocab_size": sizes.vocab_size,
            "n_train_tokens": sizes.n_train_tokens,
        },
        make_task=language_task,
        points=steps_dense_early(n_steps),
    )


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
        variants=VARIANTS,
        corpora=list_datasets(),
        jobs=jobs,
    )
)
