"""What chapter 08 teaches while it runs, and what it reads from records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from attnlab.analysis.compare import latest_runs
from attnlab.config import TrainConfig, TranslatorConfig
from attnlab.distillation import SIZES, expected_student_weights
from attnlab.distillation.capture import Captured
from attnlab.models import Translator
from attnlab.records import load_details, load_runs
from attnlab.seeding import torch_generator
from attnlab.sources import TranslationSource, translation_source
from attnlab.studies.arms import arm_columns
from attnlab.training import PairBatches, train_steps

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


# Records -----------------------------------------------------------------------------------------


def recorded_arms() -> pd.DataFrame:
    """Return one row for each recorded arm and seed of the study on the toy languages.

    Returns:
        Rows ``variant``, the columns of ``arm_columns``, ``lr`` (the best of several, where
        several were tried), ``seed``, ``commit``, and the metrics of the records.
    """
    columns = ["variant", "seed", "commit", "bleu", "relative_error", "n_stand_in_weights"]
    runs = load_runs(EXPERIMENT, columns=[*columns, "config.fit.lr"])
    arms = arm_columns(latest_runs(runs))
    tried = load_details(EXPERIMENT, "rates").sort_values("relative_error")
    best = tried.drop_duplicates(["variant", "seed"])[["variant", "seed", "lr"]]
    arms = arms.merge(best, on=["variant", "seed"], how="left")
    return arms.assign(lr=arms["lr"].fillna(arms["config.fit.lr"]))


def best_rates(arms: pd.DataFrame, *, site: str) -> str:
    """Say in which order arms of a site stand at one rate, and each at the best of several.

    Args:
        arms: From ``recorded_arms``; seeds count that have both.
    """
    own = arms[arms["site"] == site].drop_duplicates(["variant", "seed"], keep="last")
    names = own["variant"].str.removesuffix("/best_lr").str.removeprefix(f"{site}/")
    common, best = (
        own.assign(variant=names)[own["way"] == way].set_index(["variant", "seed"])[["bleu", "lr"]]
        for way in ("", "best_lr")
    )
    means = common.join(best.add_suffix("_best"), how="inner").groupby("variant")
    orders = [means[name].mean().sort_values(ascending=False) for name in ("bleu", "bleu_best")]
    said = [", ".join(f"{name} {bleu:.1f}" for name, bleu in order.items()) for order in orders]
    is_same = list(orders[0].index) == list(orders[1].index)
    rates = means["lr_best"].agg(lambda lr: " or ".join(map(str, sorted(set(lr)))))
    return (
        f"{site}, BLEU at one rate: {said[0]}; each at its best rate: {said[1]}: "
        f"{'the same' if is_same else 'another'} order. Best rates: "
        f"{', '.join(f'{name} {rate}' for name, rate in rates.items())}."
    )


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
