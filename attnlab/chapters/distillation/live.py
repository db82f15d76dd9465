"""What chapter 08 teaches while it runs, and what it reads from records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from attnlab.analysis.compare import latest_runs
from attnlab.config import TrainConfig
from attnlab.distillation import (
    FIT,
    SIZES,
    Activations,
    Student,
    StudentSpec,
    build_students,
    collect_activations,
    expected_student_weights,
    fit_steps,
    measure_errors,
)
from attnlab.models import Translator
from attnlab.records import load_details, load_runs
from attnlab.sources import TranslationSource
from attnlab.studies.arms import arm_columns
from attnlab.training import collate_pairs
from attnlab.training.batches import Pairs

Key = tuple[str, int]
RECIPE = replace(FIT, n_steps=300, lr=3e-3, warmup_steps=15)
N_LESSONS = 6000  # sentences that students learn from
N_HELD_OUT = 300
N_POINTS = 10  # of a course on the board
SENTENCES_AT_A_TIME = 300
EXPERIMENT = "attentionless/classroom/toy"
PUBLISHED = {"max_len": 50, "d_model": 128, "n_heads": 8}
COUNTED = {  # label -> site and method
    "ALR, ALRR, ELR": ("encoder_self", "alr"),
    "ASLR, all heads": ("encoder_self", "aslr"),
    "Decoder self, ALR": ("decoder_self", "alr"),
    "Cross, ALR": ("cross", "alr"),
}


def collect_lessons(teacher: Translator, pairs: Pairs, *, spec: StudentSpec) -> Activations:
    """Return what a teacher's attention read and wrote for some pairs of sentences."""
    starts = range(0, len(pairs), SENTENCES_AT_A_TIME)
    batches = [collate_pairs(pairs[i : i + SENTENCES_AT_A_TIME]) for i in starts]
    return collect_activations(teacher, batches, spec=spec)


class FitPoint(NamedTuple):
    """Held-out relative errors after some steps: arm -> one for each layer."""

    step: int
    errors: dict[str, tuple[float, ...]]


class Course:
    """Students of several kinds at one site, one for each layer, all taught on the same lessons.

    Args:
        teacher: Gives the lessons.
        source: Its languages.
        arms: Kinds of students that share their lessons, by name.
        config: Steps, rate and seed.
        n_lessons: Sentences that they learn from.
    """

    def __init__(
        self,
        teacher: Translator,
        *,
        source: TranslationSource,
        arms: Mapping[str, StudentSpec],
        config: TrainConfig = RECIPE,
        n_lessons: int = N_LESSONS,
    ) -> None:
        first = next(iter(arms.values()))
        kind = StudentSpec(site=first.site, method=first.method)
        self.config = config
        self.lessons = collect_lessons(teacher, source.sample_pairs(n_lessons), spec=kind)
        exam = source.sample_pairs(N_HELD_OUT, stream="validation")
        self.held_out = collect_lessons(teacher, exam, spec=kind)
        self.students: dict[str, dict[Key, Student]] = {
            name: build_students(teacher, spec=spec, seed=config.seed)
            for name, spec in arms.items()
        }

    def points(self, *, every: int) -> Iterator[FitPoint]:
        """Teach all of them; yield their errors at the start and after each ``every`` steps."""
        return filter(None, self.steps(every=every))

    def steps(self, *, every: int) -> Iterator[FitPoint | None]:
        """Teach all of them as ``points`` does; yield None after each step without errors."""
        yield FitPoint(0, self.errors())
        how = {"held_out": self.held_out, "config": self.config, "eval_every": every}
        steps = [fit_steps(nets, self.lessons, **how) for nets in self.students.values()]
        for logs in zip(*steps, strict=True):
            errors = zip(self.students, (log.errors for log in logs), strict=True)
            yield FitPoint(logs[0].step, dict(errors)) if logs[0].errors is not None else None

    def teach(self) -> dict[str, tuple[float, ...]]:
        """Teach all of them to the end; return the errors of the students that were kept."""
        for _ in self.points(every=100):
            pass
        return self.errors()

    def errors(self) -> dict[str, tuple[float, ...]]:
        """Return held-out relative errors: arm -> one for each layer."""
        return {
            name: tuple(measure_errors(students, held_out=self.held_out).tolist())
            for name, students in self.students.items()
        }


def count_table() -> pd.DataFrame:
    """Return the weights of one published student: rows are ``COUNTED``, columns XS to XL."""
    return pd.DataFrame(
        {
            size.upper(): {
                label: expected_student_weights(method, site=site, size=size, **PUBLISHED)
                for label, (site, method) in COUNTED.items()
            }
            for size in SIZES
        }
    )


@torch.no_grad()
def head_outputs(
    teacher: Translator,
    student: Student,
    *,
    source: TranslationSource,
    tokens: ArrayLike,
    layer: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the heads of an encoder layer and a student write for one sentence.

    Shapes:
        tokens: ``(time,)``; returns two arrays ``(n_heads, time, d_head)``.
    """

    def by_head(y: Tensor) -> NDArray[np.float64]:
        return y.unflatten(-1, (teacher.config.n_heads, -1)).movedim(1, 0).double().numpy()

    read = np.asarray(tokens, np.int64)
    found = collect_lessons(teacher, [(read, source.translate(read))], spec=StudentSpec())
    x, y = found.inputs[layer], found.targets[layer]
    return by_head(y), by_head(student(x[None])[0])


def same_length(lessons: Activations, *, layer: int, length: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of all sentences of one length, ``(n, length, d_model)``."""
    batch = lessons.batch((lessons.lengths == length).nonzero().flatten())
    return batch.inputs[layer], batch.targets[layer]


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
