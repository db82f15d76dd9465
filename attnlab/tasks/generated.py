"""Tasks whose rows are made as they are needed, and may ask something at some positions only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnlab.config import ModelConfig, TrainConfig
from attnlab.models import LanguageModel
from attnlab.models.loss import linear_cross_entropy
from attnlab.seeding import numpy_generator
from attnlab.sources.recall import IGNORED
from attnlab.tasks.base import Task

Rows = tuple[np.ndarray, np.ndarray]  # tokens and targets, (n_rows, time)


def answered(targets: Tensor) -> int:
    """Return how many positions ask something."""
    return int((targets != IGNORED).sum())


def answer_loss(model: LanguageModel, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss in nats over the positions that ask; only these meet the head.

    Shapes:
        tokens, targets: ``(batch, time)``, ``IGNORED`` where nothing is asked.
    """
    asks = targets != IGNORED
    return linear_cross_entropy(model.features(tokens)[asks], model.head.weight, targets[asks])


class GeneratedTask(Task):
    """Rows made as they are needed: batch i is a function of the seed and of i alone."""

    name: str

    def build(self, config: ModelConfig, *, generator: torch.Generator) -> LanguageModel:
        """Return an untrained language model."""
        return LanguageModel(config, generator=generator)

    @abstractmethod
    def draw(self, n_rows: int, *, generator: np.random.Generator) -> Rows:
        """Return what a batch is made of: tokens, and targets or ``IGNORED``."""

    def batches(
        self, model: LanguageModel, train: TrainConfig, *, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches that no model has seen before; all models of one seed see the same."""
        for index in count(start):
            generator = numpy_generator(train.seed, f"{self.name}/train/{index}")
            yield on_device(self.draw(train.batch_size, generator=generator), model)

    def train_options(self, model: LanguageModel, train: TrainConfig) -> Mapping[str, Any]:
        """Return the loss of the questions; what is counted as seen are questions too."""
        return {"loss": partial(answer_loss, model), "count": answered}


def on_device(rows: Rows, model: LanguageModel) -> tuple[Tensor, Tensor]:
    """Return rows as tensors where the model is."""
    tokens, targets = (torch.from_numpy(part).to(model.device) for part in rows)
    return tokens, targets
