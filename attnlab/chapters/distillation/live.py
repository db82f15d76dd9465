"""What chapter 08 teaches while it runs, and what it reads from records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from attnlab.analysis.compare import latest_runs
from attnlab.config import TrainConfig, TranslatorConfig
from attnlab.distillation import (
    SIZES,
    StudentSpec,
    build_students,
    collect_activations,
    expected_student_weights,
    measure_errors,
    substitute,
)
from attnlab.distillation.capture import Captured
from attnlab.distillation.sites import Key
from attnlab.models import Translator
from attnlab.records import load_details, load_runs
from attnlab.seeding import torch_generator
from attnlab.sources import TranslationSource, translation_source
from attnlab.studies.arms import arm_columns
from attnlab.training import PairBatches, evaluate_translation, train_steps
from attnlab.training.batches import Pairs

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


@dataclass
class Desk:
    """Where students are taught, put to use and compared.

    Args:
        teach: Teaches one in place: ``teach(student, lessons)``.
        shelf: By method a list of lessons, each by ``(site, layer)``.
        held_out: Ids ``(source, target)`` of sentences that nobody is taught.
        test: Pairs that they translate.
        rows: What came of them, by name: ``error`` (mean over layers), ``words right``, ``BLEU``,
            ``sentences right``.
    """

    teacher: Translator
    source: TranslationSource
    teach: Callable[[Any, Sequence[Captured]], Any]
    shelf: Mapping[str, Sequence[Mapping[Key, Captured]]]
    held_out: tuple[Tensor, Tensor]
    test: Pairs
    rows: dict[str, dict[str, float]] = field(default_factory=dict)

    def judge(
        self, name: str, nets: Mapping[Key, nn.Module], errors: Sequence[float] = (0.0,)
    ) -> str:
        """Swap nets in, translate the test sentences, swap them out again; say what came of it."""
        with substitute(self.teacher, nets):
            how = {"vocabulary": self.source, "n_resamples": 1}
            score = evaluate_translation(self.teacher, self.test, **how)
        self.rows[name] = {
            "error": sum(errors) / len(errors), "words right": score.forced.accuracy,
            "BLEU": score.bleu.score, "sentences right": score.exact_match,
        }  # fmt: skip
        return self.say(name)

    def say(self, name: str) -> str:
        """Return a line of ``rows`` in words."""
        row = self.rows[name]
        return (
            f"{name:>20}: error {row['error']:.2f}; BLEU {row['BLEU']:.1f}, "
            f"{row['sentences right']:.1%} of the sentences right"
        )

    def errors(self, nets: Mapping[Key, nn.Module], spec: StudentSpec) -> list[float]:
        """Return the errors of eq. (8.2), layer by layer, on sentences that were not taught."""
        held_out = collect_activations(self.teacher, [self.held_out], spec=spec)
        return measure_errors(nets, held_out=held_out).tolist()

    def take_on(self, name: str, **options: Any) -> dict[Key, Any]:
        """Teach one student of a kind for each layer of its site, then judge and return them."""
        spec = StudentSpec(**options)
        nets = build_students(self.teacher, spec=spec, seed=0)
        for key, net in nets.items():
            self.teach(net, [each[key] for each in self.shelf[spec.method]])
        self.judge(name, nets, self.errors(nets, spec))
        return nets


def outside(z: Tensor) -> np.ndarray:
    """Return the summed squares outside the best plane of h - 1 dimensions, for h = 0, 1, ...

    Shapes:
        z: ``(n, ...)``, one point a row.
    """
    energy = torch.linalg.svdvals((z - z.mean(0)).double().flatten(1)).square()
    left = energy.flip(0).cumsum(0).flip(0).numpy()
    return np.concatenate([left[:1], left, [0.0]])  # h = 0 and h = 1: one point, the mean


@torch.no_grad()
def bottleneck(
    lessons: Iterable[Captured], students: Mapping[str, Any], *, length: int
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Return what eq. (8.11) leaves to nets of each width, and what students of a layer have.

    Args:
        lessons: What the layer reads and writes.
        students: By label, each with its ``width``.
        length: Words of the sentences that count.

    Returns:
        Least relative error for h = 0, 1, ...: of writing the stream, of writing its update; and
        rows ``width``, ``label``, ``error``.
    """
    x, y = same_length(lessons, length=length)
    update = (y - x).double().flatten(0, 1)
    spread = float((update - update.mean(0)).square().sum())
    least = {"Least, writing the stream": outside(y) / spread,
             "Least, with the identity": outside(y - x) / spread}  # fmt: skip
    rows = [
        {"width": net.width, "label": label,
         "error": float((net(x) - y).double().square().sum()) / spread}
        for label, net in students.items()
    ]  # fmt: skip
    return least, pd.DataFrame(rows)


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
