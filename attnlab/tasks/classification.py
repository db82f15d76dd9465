"""Naming the class of a sequence, whatever it is of: loss, accuracy with its exact interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from attnlab.analysis.accuracy import accuracy_interval
from attnlab.config import ClassifierConfig, TrainConfig
from attnlab.models import Classifier
from attnlab.tasks.base import Task
from attnlab.training import LabelBatches, pad_inputs

N_CURVE_ITEMS = 500  # of validation behind a point of the curve
N_READ = 200  # items of one forward pass that judges


@dataclass(frozen=True, kw_only=True, eq=False)  # one object, one data set
class LabelDataset:
    """Inputs with the number of their class, in three splits.

    Shapes:
        inputs: by split, token ids ``(n_tokens,)`` or vectors ``(time, n_inputs)``, one an item.
        labels: by split, ``(n_items,)``.
    Args:
        sizes: What a ``ClassifierConfig`` takes: ``n_classes``, ``context_len``, and
            ``vocab_size`` or ``n_inputs``.
        control: Returns test accuracies of the commonest class and of a linear model.
        facts: What a record should say about the data.
    """

    name: str
    classes: tuple[str, ...]
    inputs: Mapping[str, Sequence[np.ndarray]]
    labels: Mapping[str, NDArray[np.int64]]
    sizes: Mapping[str, int]
    control: Callable[[], Mapping[str, float]] = dict
    facts: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def controls(self) -> Mapping[str, float]:
        """What ``control`` returns: a linear model is fitted when one asks, and once."""
        return self.control()


@dataclass(frozen=True, kw_only=True)
class LabelTask(Task):
    """Name the class of a sequence; a prediction is one class, so ``tokens_seen`` counts items."""

    data: LabelDataset

    @property
    def facts(self) -> dict[str, Any]:
        """What a record says about the data."""
        return self.data.facts

    def build(self, config: ClassifierConfig, *, generator: torch.Generator) -> Classifier:
        """Return an untrained classifier."""
        return Classifier(config, generator=generator)

    def batches(
        self, model: Classifier, train: TrainConfig, *, start: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield training items, those of like length together."""
        how = {"batch_size": train.batch_size, "seed": train.seed, "device": model.device}
        data = self.data
        return LabelBatches(data.inputs["train"], data.labels["train"], **how).starting_at(start)

    def validate(self, model: Classifier) -> dict[str, float]:
        """Return loss and accuracy on the first validation items."""
        losses, right = self.judge(model, split="validation", n_items=N_CURVE_ITEMS)
        return {"loss_nats": float(losses.mean()), "accuracy": float(right.mean())}

    def score(self, model: Classifier) -> tuple[dict[str, float], dict[str, Any]]:
        """Return losses and accuracies beside those of the controls; details say which were right.

        ``low`` and ``high`` are the exact 95 % interval over the test items, for this model.
        """
        metrics: dict[str, float] = {}
        for split in ("validation", "test"):
            losses, right = self.judge(model, split=split)
            metrics[f"{split}_loss_nats"] = float(losses.mean())
            metrics[f"{split}_accuracy"] = float(right.mean())
        ends = accuracy_interval(int(right.sum()), len(right))
        metrics |= dict(zip(("test_accuracy_low", "test_accuracy_high"), ends, strict=True))
        labels, n = self.data.labels["test"], len(self.data.classes)
        by_class = {
            "class": list(self.data.classes),
            "n_items": np.bincount(labels, minlength=n).tolist(),
            "n_right": np.bincount(labels[right], minlength=n).tolist(),
        }
        packed = np.packbits(right).tobytes().hex()  # item by item, the first in the highest bit
        return {**metrics, **self.data.controls}, {"by_class": by_class, "right": packed}

    @torch.no_grad()
    def judge(
        self, model: Classifier, *, split: str, n_items: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return loss in nats and rightness of each item of a split, or of its first ones."""
        inputs, labels = self.data.inputs[split][:n_items], self.data.labels[split][:n_items]
        order = np.argsort(list(map(len, inputs)), kind="stable")
        losses, right = np.empty(len(inputs)), np.empty(len(inputs), bool)
        model.eval()
        for places in np.split(order, range(N_READ, len(order), N_READ)):
            logits = model(pad_inputs([inputs[i] for i in places], device=model.device)).cpu()
            targets = torch.from_numpy(labels[places])
            losses[places] = F.cross_entropy(logits.double(), targets, reduction="none").numpy()
            right[places] = (logits.argmax(1) == targets).numpy()
        return losses, right
