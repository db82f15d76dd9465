"""Small live fits of notebook 08: lessons, students taught side by side, what they can reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from attnlab.config import BOS, TrainConfig
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
    substitute,
)
from attnlab.models import Translator
from attnlab.records import load_details, load_runs
from attnlab.sources import TranslationSource
from attnlab.studies.attentionless.arms import SCHOOLING
from attnlab.training import collate_pairs, evaluate_translation
from attnlab.training.batches import Pairs

Key = tuple[str, int]
RECIPE = replace(FIT, n_steps=300, lr=3e-3, warmup_steps=15)
N_LESSONS = 6000  # sentences that students learn from
N_HELD_OUT = 300
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
        yield FitPoint(0, self.errors())
        steps = [
            fit_steps(
                students,
                self.lessons,
                held_out=self.held_out,
                config=self.config,
                eval_every=every,
            )
            for students in self.students.values()
        ]
        for logs in zip(*steps, strict=True):
            errors = [log.errors for log in logs if log.errors is not None]
            if errors:
                yield FitPoint(logs[0].step, dict(zip(self.students, errors, strict=True)))

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


def as_rows(points: Sequence[FitPoint]) -> pd.DataFrame:
    """Return tidy rows ``step``, ``arm``, ``layer`` (from 1) and ``error``."""
    rows = [
        {"step": point.step, "arm": arm, "layer": layer, "error": error}
        for point in points
        for arm, errors in point.errors.items()
        for layer, error in enumerate(errors, start=1)
    ]
    return pd.DataFrame(rows)


def judge(
    teacher: Translator,
    stand_ins: Mapping[Any, nn.Module],
    *,
    source: TranslationSource,
    n_sentences: int = N_HELD_OUT,
) -> dict[str, float]:
    """Swap nets in, translate test sentences, swap them out again.

    Returns:
        ``accuracy`` (of words, right past given), ``bleu`` and ``exact_match`` (written freely).
    """
    pairs = source.sample_pairs(n_sentences, stream="test")
    with substitute(teacher, stand_ins):
        score = evaluate_translation(teacher.eval(), pairs, vocabulary=source, n_resamples=1)
    return {
        "accuracy": score.forced.accuracy,
        "bleu": score.bleu.score,
        "exact_match": score.exact_match,
    }


# Counts


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


# One head of one layer


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
    read = np.asarray(tokens, np.int64)
    pair = (read, source.translate(read))
    found = collect_lessons(teacher, [pair], spec=StudentSpec())
    x, y = found.inputs[layer], found.targets[layer]
    n_heads = teacher.config.n_heads
    return _by_head(y, n_heads), _by_head(student(x[None])[0], n_heads)


def _by_head(y: Tensor, n_heads: int) -> NDArray[np.float64]:
    return y.unflatten(-1, (n_heads, -1)).movedim(1, 0).double().numpy()


# What a bottleneck leaves


class Bottleneck(NamedTuple):
    """The least relative error that any net with h hidden units can have, h = 0, 1, 2, ..."""

    stream: NDArray[np.float64]  # if it has to write the stream
    update: NDArray[np.float64]  # if the stream is handed past it


def same_length(lessons: Activations, *, layer: int, length: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of all sentences of one length, ``(n, length, d_model)``."""
    batch = lessons.batch((lessons.lengths == length).nonzero().flatten())
    return batch.inputs[layer], batch.targets[layer]


def bottleneck(x: Tensor, y: Tensor) -> Bottleneck:
    """Return the floors of eq. (8.11) for students that write the stream ``y`` from ``x``.

    Shapes:
        x, y: ``(n, length, d_model)``, sentences of one length, before and after the sublayer.
        The floors have one entry for each h from 0.
    """
    spread = update_spread(x, y)
    return Bottleneck(*(_outside(part.double()) / spread for part in (y, y - x)))


def update_spread(x: Tensor, y: Tensor) -> float:
    """Return the summed squared distance of the updates from their mean vector."""
    update = (y - x).double().flatten(0, 1)
    return float((update - update.mean(0)).square().sum())


@torch.no_grad()
def stream_error(student: Student, x: Tensor, y: Tensor) -> float:
    """Return a student's relative error on sentences of one length."""
    return float((student(x) - y).double().square().sum()) / update_spread(x, y)


def _outside(z: Tensor) -> NDArray[np.float64]:
    """Return the summed squares outside the best plane of h - 1 dimensions, for h = 0, 1, ..."""
    z = z.flatten(1)
    energy = torch.linalg.svdvals(z - z.mean(0)).square()
    left = energy.flip(0).cumsum(0).flip(0).numpy()
    return np.concatenate([left[:1], left, [0.0]])  # h = 0 and h = 1: one point, the mean


def hooked_heads(site: nn.Module, run: Any) -> Tensor:
    """Return what stands before a site's last projection while ``run()`` runs: a plain hook."""
    seen: list[Tensor] = []
    hook = site.out.register_forward_pre_hook(lambda _, args: seen.append(args[0]))  # type: ignore
    try:
        run()
    finally:
        hook.remove()
    return seen[0]


def framed(target: ArrayLike) -> Tensor:
    """Return what the decoder reads: ``BOS`` and the words, ``(1, time + 1)``."""
    return torch.tensor([[BOS, *np.asarray(target).tolist()]])


# Records


def recorded_arms(*, experiment: str = EXPERIMENT, path: Path | None = None) -> pd.DataFrame:
    """Return one row for each recorded arm and seed of the study; empty where there is none.

    Returns:
        Rows ``variant``, ``site``, ``way`` (how it learnt, where that is in its name), ``lr``
        (the best of several, where several were tried), ``seed``, ``commit``, and the metrics of
        the records.
    """
    columns = ["variant", "seed", "commit", "bleu", "relative_error", "n_stand_in_weights"]
    arms = load_runs(experiment, path=path, columns=[*columns, "config.fit.lr"])
    words = arms["variant"].astype(str).str.split("/")
    arms["site"] = words.str[0]
    arms["way"] = words.str[-1].where(words.str[-1].isin(list(SCHOOLING)), "")
    tried = load_details(experiment, "rates", path=path, is_needed=False)
    tried = tried.reindex(columns=["variant", "seed", "lr", "relative_error"])
    best = tried.sort_values("relative_error").drop_duplicates(["variant", "seed"])
    arms = arms.merge(best[["variant", "seed", "lr"]], on=["variant", "seed"], how="left")
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
    both = common.join(best.add_suffix("_best"), how="inner")
    if both.empty:
        return f"{site}, each at its best rate: not recorded yet."
    means = both.groupby("variant")
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
        Rows ``variant``, ``site``, ``n_seeds``, ``n_weights``, and ``X_low``, ``X``, ``X_high``
        for each column X.
    """
    rows = []
    for variant, part in arms.groupby("variant", sort=False):
        row: dict[str, Any] = {"variant": variant, "site": part["site"].iloc[0]}
        row |= {"n_seeds": len(part), "n_weights": part["n_stand_in_weights"].iloc[0]}
        for name in columns:
            values = part[name]
            row |= {f"{name}_low": values.min(), name: values.mean(), f"{name}_high": values.max()}
        rows.append(row)
    return pd.DataFrame(rows)


NO_RECORDS = (
    "**The study is not recorded here yet.** This cell shows its table and picture as soon as "
    "`data/runs/attentionless.jsonl` holds the arms of `attentionless/classroom/toy`; to make "
    "them: `attnlab study run attentionless --scale classroom --corpus toy`."
)


def source_line(arms: pd.DataFrame) -> str:
    """Say where recorded numbers come from."""
    commits = ", ".join(sorted(set(arms["commit"])))
    seeds = ", ".join(map(str, sorted(set(arms["seed"]))))
    return f"Source: data/runs/attentionless.jsonl, seeds {seeds}, commit {commits}."
