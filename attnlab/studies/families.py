"""Study ``mixers``: every mixer there is, on text, recall and languages in context.

All models weigh the same (or work as much, ``--axis match=work``): what a mixer saves or costs is
given to or taken from the channel mixers, and where that does not do, the width. Seed 0 tries
three learning rates; every further seed takes the one with the lowest validation loss, so run
seed 0 first::

    attnlab study run mixers --scale classroom --corpus recall
    attnlab study run mixers --scale classroom --corpus recall --seeds 1,2

In recall tasks every model begins with a short convolution, as is usual there (arXiv:2402.18668):
without it attention needs many thousand steps to learn which token follows which.

Holds arXiv:2308.07661 against what it leaves open: Hyena, SPADE and other efficient mixers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import pandas as pd

from attnlab.analysis.theory import (
    expected_language_model_multiplications,
    expected_language_model_weights,
)
from attnlab.config import ModelConfig, TrainConfig
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers import list_mixers
from attnlab.records import load_runs
from attnlab.sources import recall_source
from attnlab.studies.engine import Job
from attnlab.studies.study import Plan, Study, register_study
from attnlab.tasks import LanguageTask, Task, list_datasets, prepare_dataset
from attnlab.tasks.in_context import InContextTask
from attnlab.tasks.recall import LOADS, recall_task
from attnlab.training import steps_every

MATCHES = {  # what all models have in common
    "weights": expected_language_model_weights,
    "work": expected_language_model_multiplications,
}
RATES = {"smoke": (1e-2,), "classroom": (3e-3, 1e-2, 3e-2), "paper": (1e-3, 3e-3, 1e-2)}
WITHIN = 0.03  # of the aim
USUAL_MLP = (0.5, 1.5)  # times four widths: within it the width of the model stays as it is
RECALL = {"recall": "mqar", **{kind: kind for kind in LOADS if kind != "mqar"}}  # by corpus
SIZES_64, LOADS_64 = {"vocab_size": 64, "time": 64}, (4, 8, 16)  # recall at its usual length
GENERATED = (*RECALL, "in_context")  # rows that are made as they are needed


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Sizes of one scale: fields of the model and of its training, dials of the data."""

    model: dict[str, Any]
    train: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)


SMOKE = {"context_len": 64, "d_model": 8, "n_layers": 1, "n_heads": 2}
SMALL = {"context_len": 64, "d_model": 32, "n_layers": 2, "n_heads": 2}
NEIGHBOURS = {"short_conv": 3}  # so that a key is known where its value stands
LARGE = {"context_len": 128, "d_model": 128, "n_layers": 4, "n_heads": 4}
BUDGETS = {  # by scale and corpus; None: every other one
    ("smoke", None): Budget(model=SMOKE, train={"n_steps": 4, "batch_size": 4},
                            data={"vocab_size": 300}),
    ("classroom", None): Budget(model=SMALL, train={"n_steps": 500, "batch_size": 32},
                                data={"vocab_size": 500}),
    **{("classroom", name): Budget(model=SMALL, train={"n_steps": 800, "batch_size": 32})
       for name in RECALL},
    ("paper", None): Budget(model=LARGE, train={"n_steps": 4000, "batch_size": 64},
                            data={"vocab_size": 2000}),
}  # fmt: skip


def jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed: an early stop leaves whole comparisons."""
    names, made = plan.variants or list_mixers(), []
    runs = load_runs(plan.name, columns=JUDGED) if any(plan.seeds) else pd.DataFrame()
    for seed in plan.seeds:
        for point in plan.points:
            match = point.get("match", "weights")
            for name in names:
                rates = RATES[plan.scale]
                rates = [best_rate(plan, name, runs=runs, match=match)] if seed else rates
                made += [_job(plan, seed, name, match=match, lr=lr) for lr in rates]
    return made


def _job(plan: Plan, seed: int, name: str, *, match: str, lr: float) -> Job:
    sizes = plan.choose(BUDGETS)
    n_steps = sizes.train["n_steps"]
    train = {**sizes.train, "lr": lr, "warmup_steps": max(1, n_steps // 20)}
    data = dict(sizes.data)
    if plan.corpus not in GENERATED:
        data["n_train_tokens"] = n_steps * train["batch_size"] * sizes.model["context_len"] + 1
    task = task_of(plan.corpus, **data)
    vocab_size = (task.source if plan.corpus in GENERATED else task.data).vocab_size
    own = {"context_len": task.source.time, **NEIGHBOURS} if plan.corpus in RECALL else {}
    base = ModelConfig(vocab_size=vocab_size, **sizes.model | own)
    return Job(
        experiment=plan.name,
        variant=name,
        model=matched(name, base, match=match),
        train=TrainConfig(seed=seed, **train),
        task={"corpus": plan.corpus, **data, "match": match},
        make_task=_task,
        points=steps_every(max(1, n_steps // 10), n_steps),
    )


def _task(job: Job) -> Task:
    data = {name: value for name, value in job.task.items() if name not in ("corpus", "match")}
    return task_of(job.task["corpus"], **data)


@lru_cache(maxsize=16)
def task_of(corpus: str, **data: int) -> Any:
    """Return the task of a corpus: text, recall of one kind, or languages in context."""
    if corpus in RECALL:
        kind = RECALL[corpus]
        if corpus != "recall":
            return recall_task(kind)
        return recall_task(kind, loads=LOADS_64, source=replace(recall_source(kind), **SIZES_64))
    return (
        InContextTask()
        if corpus == "in_context"
        else LanguageTask(data=prepare_dataset(corpus, **data))
    )


def matched(name: str, base: ModelConfig, *, match: str = "weights") -> ModelConfig:
    """Return a model with a mixer that costs what ``base`` costs with attention.

    The channel mixers give or take. Where they would come out unusually narrow or wide, the width
    of the model changes too, to that at which they are nearest to four times as wide.

    Args:
        match: ``weights`` of the whole model, or ``work``: multiplications of a forward pass.

    Raises:
        AttnlabError: No width does.
    """
    measure = MATCHES[match]
    aim = measure(replace(base, mixer="attention"))

    def at(d_model: int) -> ModelConfig:
        model = replace(base, mixer=name, d_model=d_model, d_ff=1)
        least = measure(model)
        slope = measure(replace(model, d_ff=2)) - least
        return replace(model, d_ff=max(1, 1 + round((aim - least) / slope)))

    def unusual(model: ModelConfig) -> float:
        return abs(math.log(model.mlp_width / (4 * model.d_model)))

    usual, changed = at(base.d_model), None
    if not USUAL_MLP[0] <= usual.mlp_width / (4 * usual.d_model) <= USUAL_MLP[1]:
        widths = range(base.n_heads, 2 * base.d_model + 1, base.n_heads)
        changed = min(map(at, widths), key=unusual)
    model = changed or usual
    if abs(measure(model) / aim - 1) > WITHIN:
        raise AttnlabError(
            f"No model with {name!r} has {aim:,} of {match} within {WITHIN:.0%}; the nearest has "
            f"{measure(model):,}. Give the study larger models."
        )
    return model


RATE = "config.train.lr"
JUDGED = ("variant", "seed", "validation_loss_nats", RATE, "config.match")


def best_rate(plan: Plan, name: str, *, runs: pd.DataFrame, match: str = "weights") -> float:
    """Return the recorded learning rate of seed 0 with the lowest validation loss.

    Raises:
        AttnlabError: Seed 0 is not recorded.
    """
    runs = runs[(runs["variant"] == name) & (runs["seed"] == 0) & (runs["config.match"] == match)]
    if runs.empty:
        raise AttnlabError(
            f"Further seeds take the best learning rate of seed 0, which {plan.name} lacks for "
            f"{name!r}. Run it first: attnlab study run {plan.study} --scale {plan.scale} "
            f"--corpus {plan.corpus} --seeds 0."
        )
    return float(runs.loc[runs["validation_loss_nats"].idxmin(), RATE])


def get_match(word: str) -> str:
    """Return the name of a match, or raise UnknownNameError."""
    if word not in MATCHES:
        raise UnknownNameError("match", word, MATCHES, next_step="Choose one of these.")
    return word


register_study(
    Study(
        name="mixers",
        summary="every mixer at equal weights or equal work: text, recall, languages in context",
        variants=list_mixers(),
        corpora=(*GENERATED, *list_datasets()),
        jobs=jobs,
        axes={"match": get_match},
    )
)
