"""Recall: answer what was said before, at the positions that ask; nothing else is judged."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from attnlab.errors import AttnlabError
from attnlab.models import LanguageModel
from attnlab.seeding import numpy_generator
from attnlab.sources.recall import IGNORED, RecallSource, recall_source
from attnlab.tasks.generated import GeneratedTask, Rows, on_device
from attnlab.tasks.language import work_of

LOADS = {
    "mqar": (2, 4, 8),
    "induction": (8, 16, 31),
    "copying": (2, 4, 8),
    "noisy": (2, 4, 6),
    "fuzzy": (2, 3, 5),
}
N_HELD_OUT = 512  # rows of each load, in each split
N_CURVE = 64  # of them behind a point of the curve


@dataclass(frozen=True, kw_only=True)
class RecallTask(GeneratedTask):
    """Questions at several loads at once: each batch has equally many rows of every load."""

    name: str
    source: RecallSource
    loads: tuple[int, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """What a record says about the data."""
        facts = {"name": self.name, "loads": list(self.loads), **asdict(self.source)}
        return facts | {"n_answers": self.source.n_answers, "held_out_rows": N_HELD_OUT}

    def draw(self, n_rows: int, *, generator: np.random.Generator) -> Rows:
        """Return rows of all loads, in equal shares."""
        n_loads = len(self.loads)
        which = (np.arange(n_rows) + generator.integers(n_loads)) % n_loads
        shares = zip(self.loads, np.bincount(which, minlength=n_loads), strict=True)
        drawn = [self.source.draw(int(n), load=load, generator=generator) for load, n in shares]
        tokens, targets = (np.concatenate(part) for part in zip(*drawn, strict=True))
        return tokens, targets

    def validate(self, model: LanguageModel) -> dict[str, float]:
        """Return loss and accuracy on the first validation rows, the mean over loads."""
        losses, accuracies = self._judge(model, "validation", n_rows=N_CURVE)
        return {"loss_nats": float(np.mean(losses)), "accuracy": float(np.mean(accuracies))}

    def score(self, model: LanguageModel) -> tuple[dict[str, float], dict[str, Any]]:
        """Return loss and accuracy, the mean over loads and at each load, and what bounds them.

        ``oracle`` is the best possible, ``chance`` the best without memory.
        """
        validation, validation_accuracy = self._judge(model, "validation", n_rows=N_HELD_OUT)
        losses, accuracies = self._judge(model, "test", n_rows=N_HELD_OUT)
        best = self.source
        metrics = {
            **work_of(model.config),
            "validation_loss_nats": float(np.mean(validation)),
            "validation_accuracy": float(np.mean(validation_accuracy)),
            "test_loss_nats": float(np.mean(losses)),
            "test_accuracy": float(np.mean(accuracies)),
            "oracle_nats": best.oracle_nats,
            "oracle_accuracy": best.oracle_accuracy,
            "chance_nats": best.chance_nats,
            "chance_accuracy": 1 / best.n_answers,
        }
        for load, loss, accuracy in zip(self.loads, losses, accuracies, strict=True):
            metrics |= {f"load_{load}_loss_nats": loss, f"load_{load}_accuracy": accuracy}
        table = {"load": list(self.loads), "loss_nats": losses, "accuracy": accuracies}
        return metrics, {"by_load": table}

    @torch.no_grad()
    def _judge(
        self, model: LanguageModel, split: str, *, n_rows: int
    ) -> tuple[list[float], list[float]]:
        """Return loss and accuracy at each load."""
        found = []
        for load in self.loads:
            rows = held_out(self, split, load)
            tokens, targets = on_device((rows[0][:n_rows], rows[1][:n_rows]), model)
            asks = targets != IGNORED
            logits, wanted = model.eval().head(model.features(tokens)[asks]), targets[asks]
            loss = torch.nn.functional.cross_entropy(logits.double(), wanted)
            found.append((float(loss), float((logits.argmax(-1) == wanted).double().mean())))
        losses, accuracies = zip(*found, strict=True)
        return list(losses), list(accuracies)


@lru_cache(maxsize=64)
def held_out(task: RecallTask, split: str, load: int) -> Rows:
    """Return the rows of ``validation`` or ``test``, the same for every model and seed."""
    generator = numpy_generator(0, f"{task.name}/{split}/{load}")
    return task.source.draw(N_HELD_OUT, load=load, generator=generator)


def recall_task(
    kind: str = "mqar", *, loads: tuple[int, ...] = (), source: RecallSource | None = None
) -> RecallTask:
    """Return a task by name: mqar, induction, copying, noisy or fuzzy.

    Args:
        loads: Other loads than the usual ones.
        source: Other dials than the usual ones.
    """
    source = recall_source(kind) if source is None else source
    loads = tuple(loads) or tuple(load for load in LOADS[kind] if load <= source.most())
    too_high = [load for load in loads if load > source.most()]
    if too_high or not loads:
        raise AttnlabError(
            f"Loads {too_high or 'of none'} do not fit {source.time} tokens; {source.most()} is "
            "the highest. Leave them out, or give a source with a larger time."
        )
    return RecallTask(name=f"recall/{kind}", source=source, loads=loads)
