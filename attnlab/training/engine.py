"""The one engine: train a model on a task, keep its curve, stop and go on at any step.

Studies, ``attnlab train``, teachers, students and the live cells of notebooks all train here.
A study gives it a file for checkpoints; nothing else needs a folder::

    task = StreamTask(train=tokens, held_out=windows)       # attnlab.tasks
    config, plan = ModelConfig(mixer="she", vocab_size=12), TrainConfig(n_steps=400, seed=0)
    model = task.build(config, generator=torch_generator(plan.seed, "init"))
    for state in train_model(task, model, plan, points=steps_every(20, plan.n_steps)):
        print(state.step, state.loss_nats)                  # or a board, a bar, a test
    pd.DataFrame(state.curve)                               # tokens_seen, train_loss_nats, ...
"""

from __future__ import annotations

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from attnlab.config import TrainConfig
from attnlab.errors import AttnlabError, CheckpointError
from attnlab.training.checkpoint import load_checkpoint, save_checkpoint
from attnlab.training.loop import StepLog, build_optimizer, train_steps
from attnlab.training.parallel import agree, is_first, n_processes

CHECKPOINT_EVERY_S = 60.0


class Lessons(ABC):
    """What a model learns from, and what tells how far it has come."""

    @abstractmethod
    def batches(self, model: nn.Module, train: TrainConfig, *, start: int = 0) -> Iterator[Any]:
        """Yield inputs and targets in the order of the seed, from batch ``start`` on, endlessly."""

    def train_options(self, model: nn.Module, train: TrainConfig) -> Mapping[str, Any]:
        """Return ``loss``, ``count`` and ``optimizer`` of ``train_steps`` where not the usual."""
        return {}

    @abstractmethod
    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Return the columns of a point of the curve; where the best is kept, lower is better."""


@dataclass
class State:
    """Where a training stands; with weights and moments, all it needs to go on."""

    step: int = 0
    tokens_seen: int = 0
    seconds: float = 0.0  # over all attempts
    loss_nats: float = math.nan  # of the last step
    loss_sum: float = 0.0  # over all steps
    recent: list[float] = field(default_factory=list)  # losses since the last point of the curve
    best: dict[str, float] = field(default_factory=dict)  # lowest value of a column of validation
    curve: dict[str, list[float]] = field(default_factory=dict)  # columns of equal length

    def note(self, log: StepLog) -> None:
        """Count a step and its loss."""
        self.step, self.tokens_seen, self.loss_nats = log.step, log.tokens_seen, log.loss_nats
        self.loss_sum += log.loss_nats
        self.recent.append(log.loss_nats)

    def add_point(self, validation: Mapping[str, float]) -> None:
        """Close the stretch since the last point of the curve."""
        mean = sum(self.recent) / len(self.recent) if self.recent else math.nan
        point = {"tokens_seen": self.tokens_seen, "train_loss_nats": mean, **validation}
        for name, value in point.items():
            self.curve.setdefault(name, []).append(value)
        self.recent = []


def train_model(
    task: Lessons,
    model: nn.Module,
    train: TrainConfig,
    *,
    points: Collection[int] = (),
    state: State | None = None,
    checkpoint: Path | None = None,
    best: nn.Module | None = None,
) -> Iterator[State]:
    """Train a model in place, and hand control back after each step.

    Batches, loss and validation are the task's. Same seed, same bits, also over interruptions.

    With ``train.n_averaged`` the model ends with the mean of its weights at the last points
    (arXiv:1706.03762, section 6.1), and the last point of the curve is of that mean.

    Args:
        points: Steps after which a point is added to the curve. With 0 among them the untrained
            model is the first point, and its state is handed back too.
        state: Filled as training goes on and yielded each time; None makes one.
        checkpoint: Written once a minute; if it is there, training goes on from it.
        best: A copy of the model that is given the weights of the best point so far, by the
            first column of validation; in a ``ModuleList`` each child has a column of its own.

    Raises:
        DivergenceError: The loss or the gradient is not finite.
        AttnlabError: The checkpoint was written with other threads, on another device, or by
            another number of processes.
    """
    state = State() if state is None else state
    average, averaged = _average_of(model, train, points)
    options = dict(task.train_options(model, train))
    optimizer = options.pop("optimizer", None) or build_optimizer(model, train)
    beside = {"best": best, "average": average}
    beside = {name: module for name, module in beside.items() if module is not None}
    whole = nn.ModuleDict({"model": model, **beside}) if beside else model
    if checkpoint is not None and checkpoint.exists():
        facts = load_checkpoint(checkpoint, model=whole, optimizer=optimizer)
        vars(state).update(_same_machine(facts, model, checkpoint))
    _require_start(state, train, checkpoint)
    if 0 in points and not state.step:
        state.add_point(task.validate(model))
        yield state
    started = time.perf_counter() - state.seconds
    saved = time.perf_counter()
    for log in train_steps(
        model,
        task.batches(model, train, start=state.step * train.accumulation_steps),
        config=train,
        optimizer=optimizer,
        first_step=state.step,
        tokens_seen=state.tokens_seen,
        **options,
    ):
        state.note(log)
        state.seconds = time.perf_counter() - started
        if average is not None and log.step in averaged:
            _average(model, average, n_seen=averaged.index(log.step) + 1, n_all=len(averaged))
        if log.step in points:
            found = task.validate(model)
            state.add_point(found)
            if best is not None:
                _keep_better(model, best, found, state)
        yield state
        is_due = is_first() and time.perf_counter() - saved > CHECKPOINT_EVERY_S
        if checkpoint is not None and is_due:
            facts = {**asdict(state), **_machine(model)}
            save_checkpoint(checkpoint, model=whole, optimizer=optimizer, facts=facts)
            saved = time.perf_counter()


def _require_start(state: State, train: TrainConfig, checkpoint: Path | None) -> None:
    """Raise unless the training, and every process, can go on from where it stands."""
    if not 0 <= state.step <= train.n_steps:
        raise CheckpointError(
            f"{checkpoint} stands at step {state.step} of {train.n_steps}. Delete it and run again."
        )
    if agree(state.step) != state.step:
        raise AttnlabError(
            f"This process would go on after step {state.step}, the first one after another: "
            f"they see different checkpoints. Let all of them see {checkpoint}, or delete it."
        )


def _average_of(
    model: nn.Module, train: TrainConfig, points: Collection[int]
) -> tuple[nn.Module | None, list[int]]:
    """Return where the mean of weights is kept, and the points of the curve that go into it."""
    if not train.n_averaged:
        return None, []
    averaged = sorted(points)[-train.n_averaged :]
    if len(averaged) < train.n_averaged or averaged[-1] != train.n_steps or averaged[0] == 0:
        raise AttnlabError(
            f"n_averaged={train.n_averaged} takes the weights at the last points of the curve, "
            f"and there are {len(points)} of them. Give as many points, the last step among them."
        )
    return copy.deepcopy(model), averaged


@torch.no_grad()
def _average(model: nn.Module, average: nn.Module, *, n_seen: int, n_all: int) -> None:
    """Take the weights into a running mean, as the ``n_seen``-th; after the last, take its own."""
    for kept, weight in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(weight, 1 / n_seen)
    if n_seen == n_all:
        model.load_state_dict(average.state_dict())


def _keep_better(
    model: nn.Module, best: nn.Module, found: Mapping[str, float], state: State
) -> None:
    is_list = isinstance(model, nn.ModuleList)
    parts = zip(model, best, strict=True) if is_list else [(model, best)]
    for (name, value), (part, kept) in zip(found.items(), parts, strict=is_list):
        if value < state.best.get(name, math.inf):
            state.best[name] = value
            kept.load_state_dict(part.state_dict())


def steps_every(n: int, n_steps: int) -> set[int]:
    """Return each n-th step, and the last."""
    return {*range(n, n_steps + 1, n), n_steps}


def steps_dense_early(n_steps: int, *, n_points: int = 25) -> set[int]:
    """Return steps at even ratios and as many at even distances, up to the last step."""
    spaced = np.geomspace(1, n_steps, n_points // 2).round()
    even = np.linspace(0, n_steps, n_points // 2 + 1).round()[1:]
    return {int(step) for step in (*spaced, *even) if step > 0}


def _machine(model: nn.Module) -> dict[str, Any]:
    """Return what must not change over an interruption for the numbers to be bit-equal."""
    device = next(model.parameters()).device.type
    here = {"threads": torch.get_num_threads(), "device": device}
    return here | {"nproc-per-node": n_processes()}


def _same_machine(facts: dict[str, Any], model: nn.Module, path: Path) -> dict[str, Any]:
    """Return a checkpoint's facts without those of the machine, if this one computes alike."""
    facts = {"nproc-per-node": 1, **facts}
    wanted = {name: type(value) for name, value in {**vars(State()), **_machine(model)}.items()}
    if {name: type(value) for name, value in facts.items()} != wanted:
        raise CheckpointError(
            f"{path} does not say where a training stands. Delete it and run again."
        )
    for name, here in _machine(model).items():
        before = facts.pop(name)
        if before != here:
            raise AttnlabError(
                f"The run was begun with --{name} {before}, and this process has {here}: its "
                f"numbers would differ. Go on with --{name} {before}, or delete its checkpoint "
                f"{path}."
            )
    return facts
