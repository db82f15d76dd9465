"""Study ``labels``: does a mixer that models text also understand sentences, and see?

Every mixer in the same classifier, once causal and once two-sided (``she/two_sided``), on
sentences, questions, news and digits; beside each, a linear model without a mixer. Seed 0
tries the learning rates of its budget; every further seed takes the one with the highest
validation accuracy, so run seed 0 first::

    attnlab study run labels --scale classroom --corpus trec
    attnlab study run labels --scale classroom --corpus trec --seeds 1,2

Holds the Extractors of arXiv:2308.07661 against attention where that paper leaves it open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnlab.analysis.compare import FAILS, HOLDS, MIN_SEEDS, UNDECIDED, paired_differences, too_few
from attnlab.config import ClassifierConfig, TrainConfig
from attnlab.errors import AttnlabError
from attnlab.mixers import list_mixers
from attnlab.records import load_runs
from attnlab.studies.engine import Folders, Job
from attnlab.studies.study import Plan, Study, register_study
from attnlab.tasks import (
    LabelDataset,
    LabelTask,
    list_image_datasets,
    list_label_datasets,
    prepare_images,
    prepare_labels,
)
from attnlab.training import steps_every

TWO_SIDED = "/two_sided"  # ends the name of a variant whose positions hear the later ones too
VARIANTS = tuple(f"{name}{side}" for side in ("", TWO_SIDED) for name in list_mixers())
CORPORA = (*list_label_datasets(), *list_image_datasets())
WITHIN = 0.02  # of the baseline's accuracy counts as reached: two points
RATE = "config.train.lr"
TIES = ["validation_accuracy", "validation_loss_nats"]  # the first chooses, then the second


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Sizes of one scale and corpus: fields of the model and of its training, dials of the data.

    Args:
        rates: Learning rates that seed 0 tries.
        data: What ``prepare_labels`` takes; images need nothing.
    """

    model: dict[str, Any]
    train: dict[str, Any]
    rates: tuple[float, ...]
    data: dict[str, int] = field(default_factory=dict)


def _text(n_steps: int, vocab_size: int, max_len: int) -> Budget:
    return Budget(
        model={"d_model": 64, "n_layers": 2, "dropout": 0.2},
        train={"n_steps": n_steps, "batch_size": 32},
        rates=(3e-3, 1e-2),
        data={"vocab_size": vocab_size, "max_len": max_len},
    )


SMOKE = {"model": {"d_model": 8, "n_layers": 1}, "train": {"n_steps": 4, "batch_size": 4}}
LARGE = {"d_model": 128, "n_layers": 4, "dropout": 0.2}
BUDGETS = {  # by scale and corpus; None: every other one
    ("smoke", None): Budget(**SMOKE, rates=(1e-2,), data={"vocab_size": 300, "max_len": 16}),
    ("classroom", "trec"): _text(600, 3000, 48),
    ("classroom", "sst2"): _text(600, 4000, 64),
    ("classroom", "ag_news"): _text(400, 4000, 96),
    ("classroom", "mnist_pixels"): Budget(
        model={"d_model": 32, "n_layers": 2}, rates=(3e-3, 1e-2),
        train={"n_steps": 300, "batch_size": 32}),
    ("classroom", "mnist_patches"): Budget(
        model={"d_model": 64, "n_layers": 2}, rates=(3e-3, 1e-2),
        train={"n_steps": 400, "batch_size": 64}),
    ("paper", None): Budget(
        model=LARGE, rates=(3e-4, 1e-3, 3e-3), train={"n_steps": 4000, "batch_size": 64},
        data={"vocab_size": 8000, "max_len": 128}),
}  # fmt: skip


def jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed: an early stop leaves whole comparisons."""
    sizes, made = plan.choose(BUDGETS), []
    columns = ["variant", "seed", *TIES, RATE]
    runs = load_runs(plan.name, columns=columns) if any(plan.seeds) else pd.DataFrame()
    for seed in plan.seeds:
        for point in plan.points:
            for name in plan.variants or VARIANTS:
                asked = [point["lr"]] if "lr" in point else sizes.rates
                is_later = seed > 0 and "lr" not in point
                rates = [best_rate(plan, name, runs=runs)] if is_later else asked
                made += [_job(plan, sizes, seed, name, lr) for lr in rates]
    return made


def _job(plan: Plan, sizes: Budget, seed: int, variant: str, lr: float) -> Job:
    n_steps = sizes.train["n_steps"]
    data = {} if plan.corpus in list_image_datasets() else sizes.data
    how = {**sizes.train, "lr": lr, "warmup_steps": max(1, n_steps // 10)}
    return Job(
        experiment=plan.name,
        variant=variant,
        model=ClassifierConfig(
            mixer=variant.removesuffix(TWO_SIDED),
            is_two_sided=variant.endswith(TWO_SIDED),
            **sizes.model,
            **label_data(plan.corpus, **data).sizes,
        ),
        train=TrainConfig(seed=seed, **how),
        task={"corpus": plan.corpus, **data},
        make_task=label_task,
        points=steps_every(max(1, n_steps // 8), n_steps),
    )


def label_data(corpus: str, **data: int) -> LabelDataset:
    """Return the data set of a corpus of this study: texts, or images read in one way."""
    is_image = corpus in list_image_datasets()
    return prepare_images(corpus) if is_image else prepare_labels(corpus, **data)


def label_task(job: Job) -> LabelTask:
    """Return the task of a job."""
    return LabelTask(data=label_data(**job.task))


def best_rate(plan: Plan, variant: str, *, runs: pd.DataFrame) -> float:
    """Return the recorded learning rate of seed 0 with the highest validation accuracy.

    Raises:
        AttnlabError: Seed 0 is not recorded.
    """
    runs = at_best_rate(runs[runs["variant"] == variant])
    if runs.empty:
        raise AttnlabError(
            f"Further seeds take the best learning rate of seed 0, which {plan.name} lacks for "
            f"{variant!r}. Run it first: attnlab study run {plan.study} --scale {plan.scale} "
            f"--corpus {plan.corpus} --seeds 0."
        )
    return float(runs[RATE].iloc[0])


def at_best_rate(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep the runs of each variant at the rate that validated best at seed 0."""
    first = runs[runs["seed"] == 0].sort_values(TIES, ascending=[False, True], kind="stable")
    best = first.drop_duplicates("variant")[["variant", RATE]]
    return runs.merge(best, on=["variant", RATE])


def accuracy_differences(
    runs: pd.DataFrame, *, baseline: str = "attention", variants: Sequence[str] | None = None
) -> pd.DataFrame:
    r"""Subtract the baseline's test accuracy from that of each variant, and judge what is left.

    Seeds share batches, and all models the test items. The interval covers both chances, of
    training and of the items that happen to be asked:

    .. math:: \bar\Delta \pm \sqrt{h_\mathrm{seeds}^2 + h_\mathrm{items}^2}

    with the half-widths of Student's interval over paired seeds and of the normal one over the
    items' mean differences. A two-sided variant is held against the two-sided baseline.

    Args:
        variants: Those to judge; None for all that are recorded.

    Returns:
        One row a variant: ``variant``, ``baseline``, ``n_pairs``, ``mean``, ``low``, ``high``,
        ``verdict``: whether it is reached within ``WITHIN``.
    """
    rows = []
    for side in ("", TWO_SIDED):
        own = runs[runs["variant"].str.endswith(TWO_SIDED) == bool(side)]
        against = f"{baseline}{side}"
        if against not in set(own["variant"]):
            continue
        for row in paired_differences(own, baseline=against, metric="test_accuracy").to_dict(
            "records"
        ):
            half = (row["high"] - row["low"]) / 2
            half = float(np.hypot(half, _items_half(own, row["variant"], against)))
            row |= {"baseline": against, "low": row["mean"] - half, "high": row["mean"] + half}
            rows.append({**row, "verdict": _verdict(row)})
    columns = ["variant", "baseline", "n_pairs", "mean", "low", "high", "verdict"]
    table = pd.DataFrame(rows, columns=columns)
    return table if variants is None else table[table["variant"].isin(list(variants))]


def _items_half(runs: pd.DataFrame, variant: str, baseline: str) -> float:
    """Return the half-width of the interval that the choice of test items leaves, if known."""
    if "details.right" not in runs or runs["details.right"].isna().any():
        return 0.0
    answers = {
        name: {row["seed"]: right_answers(row) for _, row in part.iterrows()}
        for name, part in runs[runs["variant"].isin([variant, baseline])].groupby("variant")
    }
    seeds = answers[variant].keys() & answers[baseline].keys()
    difference = np.mean([answers[variant][s] - answers[baseline][s] for s in seeds], axis=0)
    return 1.96 * float(difference.std(ddof=1)) / len(difference) ** 0.5


def right_answers(run: Any) -> np.ndarray:
    """Return 1.0 for each test item that a recorded run got right, 0.0 for the others."""
    packed = np.frombuffer(bytes.fromhex(run["details.right"]), np.uint8)
    return np.unpackbits(packed)[: int(run["details.data.test"])].astype(float)


def _verdict(row: dict[str, Any]) -> str:
    if row["n_pairs"] < MIN_SEEDS:
        return too_few(row["n_pairs"])
    return HOLDS if row["low"] > -WITHIN else FAILS if row["high"] < -WITHIN else UNDECIDED


def no_export(job: Job, folders: Folders, to: Path) -> Iterator[Path]:
    """Refuse to copy trained classifiers: the licences of what they read are not stated."""
    raise AttnlabError(
        f"{job.name}: classifiers are not exported, since the licences of sst2 and trec are not "
        "stated. Their records say what they reach; train them again with attnlab study run."
    )


register_study(
    Study(
        name="labels",
        summary="every mixer names what a sentence, a question, a news item or a digit is",
        variants=VARIANTS,
        corpora=CORPORA,
        jobs=jobs,
        axes={"lr": float},
        export=no_export,
    )
)
