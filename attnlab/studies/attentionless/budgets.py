"""Sizes of the study at each scale."""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnlab.config import TrainConfig, TranslatorConfig
from attnlab.distillation import FIT
from attnlab.studies.attentionless.arm_job import ArmJob
from attnlab.studies.attentionless.arms import ARMS
from attnlab.studies.attentionless.teacher import translation_task
from attnlab.studies.engine import Job, grid
from attnlab.studies.study import Plan
from attnlab.tasks import prepare_pairs
from attnlab.tasks.translation import TOY, TOY_SHORT, TOY_SMALL
from attnlab.training import PairBatches, steps_every


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Sizes of a teacher. ``n_passes`` overrides ``n_steps`` where text is finite."""

    d_model: int
    n_heads: int
    n_layers: int  # of the encoder, and of the decoder
    d_ff: int
    max_len: int
    max_tokens: int  # of one side of a batch
    lr: float
    warmup_steps: int
    dropout: float = 0.0
    label_smoothing: float = 0.0
    n_steps: int = 0
    n_passes: float = 0.0
    n_fit_steps: int = 600  # of every student
    n_lessons: int = 16_000  # sentences that students learn from
    n_tuning_steps: int = 300
    fit_batch: int = 128  # sentences
    vocab_size: int = 4000
    n_train_pairs: int = 0  # of the toy languages


SMOKE = Budget(
    d_model=16,
    n_heads=2,
    n_layers=1,
    d_ff=32,
    max_len=24,
    max_tokens=200,
    lr=5e-3,
    warmup_steps=2,
    n_steps=6,
    n_fit_steps=4,
    n_lessons=100,
    n_tuning_steps=4,
    vocab_size=400,
    n_train_pairs=200,
)
CLASSROOM = Budget(
    d_model=32,
    n_heads=4,
    n_layers=2,
    d_ff=64,
    max_len=24,
    max_tokens=1000,
    lr=5e-3,
    warmup_steps=100,
    n_steps=1200,
    n_train_pairs=16_000,
)
# the published widths; half the layers, so that two cores train it within an hour
PAPER = Budget(
    d_model=128,
    n_heads=8,
    n_layers=3,
    d_ff=512,
    max_len=32,
    max_tokens=4096,
    lr=2e-3,
    warmup_steps=400,
    dropout=0.1,
    label_smoothing=0.1,
    n_passes=12,
    n_tuning_steps=720,
    vocab_size=6000,
)
PAPER_TOY = replace(CLASSROOM, n_steps=6000, n_train_pairs=60_000)
BUDGETS = {
    ("smoke", None): SMOKE,
    ("classroom", None): replace(PAPER, n_layers=2, n_passes=10, n_tuning_steps=300),
    **dict.fromkeys([("classroom", TOY), ("classroom", TOY_SHORT)], CLASSROOM),
    ("classroom", TOY_SMALL): replace(CLASSROOM, n_train_pairs=1500),
    ("paper", None): replace(PAPER, n_layers=6, max_len=50, n_passes=20, vocab_size=8000),
    **dict.fromkeys([("paper", TOY), ("paper", TOY_SHORT)], PAPER_TOY),
    ("paper", TOY_SMALL): replace(PAPER_TOY, n_train_pairs=1500),
    **{("paper", f"multi30k/{pair}"): PAPER for pair in ("de-en", "en-de", "fr-en", "en-fr")},
}


def study_jobs(plan: Plan) -> list[Job | ArmJob]:
    """Return the jobs of a plan, teacher first, then its arms, seed by seed."""
    wanted = plan.variants or ("teacher", *ARMS)
    budget = budget_of(plan)
    fit = replace(
        FIT,
        n_steps=budget.n_fit_steps,
        warmup_steps=budget.n_fit_steps // 20,
        batch_size=budget.fit_batch,
    )
    jobs: list[Job | ArmJob] = []
    for teacher in teacher_jobs(plan):
        if "teacher" in wanted:
            jobs.append(teacher)
        seeded = replace(fit, seed=teacher.train.seed)
        jobs += [
            ArmJob(
                variant=name,
                teacher=teacher,
                fit=seeded,
                n_lessons=budget.n_lessons,
                n_tuning_steps=budget.n_tuning_steps,
            )
            for name in wanted
            if name != "teacher"
        ]
    return jobs


def budget_of(plan: Plan) -> Budget:
    """Return the sizes for the scale and the data of a plan."""
    return BUDGETS.get((plan.scale, plan.corpus)) or BUDGETS[plan.scale, None]


def teacher_jobs(plan: Plan) -> list[Job]:
    """Return the teachers of a plan, one a seed."""
    budget = budget_of(plan)
    data = prepare_pairs(
        plan.corpus,
        vocab_size=budget.vocab_size,
        max_len=budget.max_len,
        n_train_pairs=budget.n_train_pairs,
    )
    a_pass = PairBatches(data.train, max_tokens=budget.max_tokens, seed=0).n_batches
    model = TranslatorConfig(
        source_vocab_size=data.source_vocabulary.vocab_size,
        target_vocab_size=data.vocabulary.vocab_size,
        d_model=budget.d_model,
        n_heads=budget.n_heads,
        n_encoder_layers=budget.n_layers,
        n_decoder_layers=budget.n_layers,
        d_ff=budget.d_ff,
        dropout=budget.dropout,
        max_len=budget.max_len,
    )
    train = TrainConfig(
        n_steps=budget.n_steps or round(budget.n_passes * a_pass),
        lr=budget.lr,
        schedule="inverse_sqrt",
        warmup_steps=budget.warmup_steps,
        label_smoothing=budget.label_smoothing,
    )
    return grid(
        replace(plan, variants=()),
        variants={"teacher": model},
        train=train,
        task={
            "corpus": plan.corpus,
            "vocab_size": budget.vocab_size,
            "n_train_pairs": budget.n_train_pairs,
            "max_tokens": budget.max_tokens,
        },
        make_task=translation_task,
        points=steps_every(max(1, train.n_steps // 20), train.n_steps),
    )
