"""Train several mixers side by side: the same batches, one step each in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from attnlab.config import ModelConfig, TrainConfig
from attnlab.models import LanguageModel
from attnlab.seeding import numpy_generator, torch_generator
from attnlab.sources import Source
from attnlab.training import WindowBatches, train_steps

RACERS = ("attention", "attention_1_head", "she", "he", "we", "me", "mean", "identity")


@dataclass(frozen=True, slots=True)
class Lap:
    """What one optimiser step of one model did."""

    variant: str
    step: int  # counted from 1
    tokens_seen: int
    loss_nats: float  # training loss per token, before the step


class Race:
    """Models that differ in their mixer alone, and the one stream of batches they all read.

    Iterate over ``laps()`` once; ``models`` are the ones that train. A second race with the
    same arguments gives the same numbers.
    """

    def __init__(
        self,
        source: Source,
        *,
        variants: Sequence[str] = RACERS,
        base: ModelConfig,
        train: TrainConfig,
    ) -> None:
        """Build the models and draw the training text.

        Args:
            source: Where the text comes from.
            variants: Mixers, or ``attention_1_head``.
            base: Sizes of all models; its mixer and vocabulary are replaced.
            train: Steps, batch size and rate, the same for all.
        """
        self.source, self.train = source, train
        n_tokens = train.n_steps * train.batch_size * base.context_len + 1
        text = source.sample(n_tokens, generator=numpy_generator(train.seed, "race/train"))
        self.batches = WindowBatches(
            [text], context_len=base.context_len, batch_size=train.batch_size, seed=train.seed
        )
        base = replace(base, vocab_size=source.vocab_size)
        self.models = {
            name: LanguageModel(
                racer_config(name, base), generator=torch_generator(train.seed, "init")
            )
            for name in variants
        }

    @property
    def n_laps(self) -> int:
        """How many laps a whole race has."""
        return self.train.n_steps * len(self.models)

    def laps(self) -> Iterator[Lap]:
        """Train: yield after every step of every model, in turn."""
        runners = {
            name: train_steps(model, self.batches.starting_at(0), config=self.train)
            for name, model in self.models.items()
        }
        for _ in range(self.train.n_steps):
            for name, runner in runners.items():
                log = next(runner)
                yield Lap(name, log.step, log.tokens_seen, log.loss_nats)

    def held_out(self, n_windows: int = 256) -> NDArray[np.int64]:
        """Return windows of the test stream, ``(n_windows, context_len + 1)``."""
        length = next(iter(self.models.values())).config.context_len
        text = self.source.sample(
            n_windows * length + 1, generator=numpy_generator(self.train.seed, "race/test")
        )
        starts = length * np.arange(n_windows)
        return np.stack([text[s : s + length + 1] for s in starts])


def racer_config(variant: str, base: ModelConfig) -> ModelConfig:
    """Return the configuration of a variant: the same sizes, another mixer."""
    if variant == "attention_1_head":
        return replace(base, mixer="attention", n_heads=1)
    return replace(base, mixer=variant)


@torch.no_grad()
def losses_by_position(model: LanguageModel, windows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the loss of every predicted token in nats: ``(n_windows, context_len)``.

    Column i has i + 1 tokens of context.
    """
    tokens = torch.from_numpy(windows)
    return model.loss(tokens[:, :-1], tokens[:, 1:], reduction="none").double().numpy()


def context_used(loss_nats: float, stairs: Sequence[float]) -> int | None:
    """Return how many tokens an ideal reader needs for this loss; None if the stairs end above.

    Args:
        loss_nats: What a model reached.
        stairs: Best possible loss with 0, 1, 2, ... tokens of context.
    """
    return next((k for k, best in enumerate(stairs) if best <= loss_nats), None)


def tokens_before_slip(source: Source, text: NDArray[np.int64], *, prompt_len: int) -> int | None:
    """Return how many generated tokens the true source could have written; None if all.

    Shapes:
        text: ``(n_tokens,)``, prompt first.
    """
    surprise = np.asarray(source.oracle_nats(text, per_token=True))[prompt_len - 1 :]
    slips = np.flatnonzero(~np.isfinite(surprise))
    return int(slips[0]) if len(slips) else None
