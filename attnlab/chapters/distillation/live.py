"""What chapter 08 teaches while it runs, and what it reads from records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from attnlab.analysis.compare import latest_runs
from attnlab.config import TrainConfig, TranslatorConfig
from attnlab.distillation import (
    SIZES,
    StudentSpec,
    collect_activations,
    expected_student_weights,
    measure_errors,
    substitute,
)
from attnlab.distillation.capture import Captured
from attnlab.distillation.sites import Key
from attnlab.models import Translator
from attnlab.records import load_runs
from attnlab.seeding import torch_generator
from attnlab.sources import TranslationSource, translation_source
from attnlab.studies.arms import arm_columns
from attnlab.training import PairBatches, evaluate_translation, train_steps

EXPERIMENT = "attentionless/classroom/toy"
COUNTED = {  # label -> site and method
    "ALR, ALRR, ELR": ("encoder_self", "alr"),
    "ASLR, all heads": ("encoder_self", "aslr"),
    "Decoder self, ALR": ("decoder_self", "alr"),
    "Cross, ALR": ("cross", "alr"),
}


def toy_teacher(*, n_steps: int) -> tuple[Translator, TranslationSource]:
    """Return a small translator, trained on the toy languages of notebook 07, and its source."""
    source = translation_source()
    config = TranslatorConfig(
        d_model=32, n_heads=4, n_encoder_layers=2, n_decoder_layers=2, d_ff=128, dropout=0.0,
        source_vocab_size=source.vocab_size, target_vocab_size=source.vocab_size,
        max_len=max(source.max_source_len, source.max_target_len + 2),
    )  # fmt: skip
    teacher = Translator(config, generator=torch_generator(0, "init"))
    batches = PairBatches(source.sample_pairs(20_000), max_tokens=1024, seed=0)
    recipe = TrainConfig(n_steps=n_steps, lr=0.007, warmup_steps=min(50, n_steps // 2))
    for _ in train_steps(teacher, batches.starting_at(0), config=recipe):
        pass
    return teacher.eval().requires_grad_(False), source


def count_table(*, max_len: int = 50, d_model: int = 128) -> pd.DataFrame:
    """Return the weights of one student: rows are ``COUNTED``, columns XS to XL."""
    sizes = {"max_len": max_len, "d_model": d_model, "n_heads": 8}
    return pd.DataFrame(
        {
            size.upper(): {
                label: expected_student_weights(method, site=site, size=size, **sizes)
                for label, (site, method) in COUNTED.items()
            }
            for size in SIZES
        }
    )


def same_length(lessons: Iterable[Captured], *, length: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of all sentences of one length, ``(n, length, d_model)``."""
    rows = [
        (lesson.inputs[its, :length], lesson.targets[its, :length])
        for lesson in lessons
        for its in [(~lesson.padding).sum(1) == length]
    ]
    inputs, targets = zip(*rows, strict=True)
    return torch.cat(inputs), torch.cat(targets)


def put_to_use(
    teacher: Translator,
    nets: Mapping[Key, nn.Module],
    *,
    source: TranslationSource,
    held_out: tuple[Tensor, Tensor],
    spec: StudentSpec | None = None,
) -> dict[str, float]:
    """Return the error of nets, and how a teacher translates 300 test sentences with them.

    Args:
        held_out: Ids ``(source, target)`` of sentences that nobody was taught.
        spec: What the nets read and write; None where there are none, and no error.
    """
    lessons = collect_activations(teacher, [held_out], spec=spec) if spec else {}
    error = measure_errors(nets, held_out=lessons).mean().item() if spec else 0.0  # eq. (8.2)
    test = source.sample_pairs(300, stream="test")
    with substitute(teacher, nets):
        score = evaluate_translation(teacher, test, vocabulary=source, n_resamples=1)
    return {"error": error, "BLEU": score.bleu.score, "sentences right": score.exact_match}


# Records -----------------------------------------------------------------------------------------


def recorded_arms() -> pd.DataFrame:
    """Return one row for each recorded arm and seed of the study on the toy languages."""
    columns = ["variant", "seed", "commit", "bleu", "relative_error", "n_stand_in_weights"]
    return arm_columns(latest_runs(load_runs(EXPERIMENT, columns=columns)))


def over_seeds(arms: pd.DataFrame, *, columns: Sequence[str]) -> pd.DataFrame:
    """Return lowest, mean and highest value over the seeds, one row a variant.

    Returns:
        Rows ``variant``, ``site``, ``method``, ``n_seeds``, ``n_weights``, and ``X_low``, ``X``,
        ``X_high`` for each column X.
    """
    how: dict[str, Any] = {name: (name, "first") for name in ("site", "method")}
    how |= {"n_seeds": ("seed", "size"), "n_weights": ("n_stand_in_weights", "first")}
    for name in columns:
        how |= {f"{name}_low": (name, "min"), name: (name, "mean"), f"{name}_high": (name, "max")}
    return arms.groupby("variant", sort=False).agg(**how).reset_index()


def source_line(arms: pd.DataFrame) -> str:
    """Say where recorded numbers come from."""
    commits = ", ".join(sorted(set(arms["commit"])))
    seeds = ", ".join(map(str, sorted(set(arms["seed"]))))
    return f"Source: data/runs/attentionless.jsonl, seeds {seeds}, commit {commits}."
