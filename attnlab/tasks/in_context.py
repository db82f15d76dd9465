"""Languages in context: learn each row's chain while reading it, held against the best reader."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from attnlab.models import LanguageModel
from attnlab.seeding import numpy_generator
from attnlab.sources.in_context import ChainsInContext
from attnlab.tasks.generated import GeneratedTask, Rows, on_device
from attnlab.tasks.language import work_of

N_HELD_OUT = 512  # rows of a split
N_CURVE = 128  # of them behind a point of the curve


@dataclass(frozen=True, kw_only=True)
class InContextTask(GeneratedTask):
    """Predict every next token of rows that are each of an unseen chain."""

    source: ChainsInContext = field(default_factory=ChainsInContext)
    name: str = "in_context"

    @property
    def facts(self) -> dict[str, Any]:
        """What a record says about the data."""
        return {"name": self.name, **asdict(self.source), "held_out_rows": N_HELD_OUT}

    def draw(self, n_rows: int, *, generator: np.random.Generator) -> Rows:
        """Return rows and, for each of their tokens, the next one."""
        return _shifted(self.source.draw(n_rows, generator=generator))

    def validate(self, model: LanguageModel) -> dict[str, float]:
        """Return the loss on the first validation rows."""
        rows = held_out(self.source, "validation")[0][:N_CURVE]
        return {"loss_nats": float(_losses(model, rows).mean())}

    def score(self, model: LanguageModel) -> tuple[dict[str, float], dict[str, Any]]:
        """Return losses, also by position, beside those of the best reader and of simpler ones.

        ``oracle`` knows how chains are drawn, ``knowing`` knows each row's chain, ``unigram`` and
        ``bigram`` count single symbols or pairs; all of them on the very test rows.
        """
        validation, _ = held_out(self.source, "validation")
        rows, chains = held_out(self.source, "test")
        losses = _losses(model, rows)
        readers = readers_nats(self.source, rows, chains)
        metrics = {
            **work_of(model.config),
            "validation_loss_nats": float(_losses(model, validation).mean()),
            "test_loss_nats": float(losses.mean()),
            **{f"{name}_nats": float(each.mean()) for name, each in readers.items()},
            "last_loss_nats": float(losses[:, -losses.shape[1] // 4 :].mean()),
            "last_oracle_nats": float(readers["oracle"][:, -losses.shape[1] // 4 :].mean()),
        }
        metrics["test_gap_nats"] = metrics["test_loss_nats"] - metrics["oracle_nats"]
        table = {"position": list(range(1, losses.shape[1] + 1)),
                 "loss_nats": losses.mean(0).tolist()}  # fmt: skip
        table |= {f"{name}_nats": each.mean(0).tolist() for name, each in readers.items()}
        return metrics, {"by_position": table}


def readers_nats(
    source: ChainsInContext, rows: np.ndarray, chains: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the losses of the readers that a model is held against, each ``(n_rows, time)``."""
    return {
        "oracle": source.oracle_nats(rows),
        "knowing": source.knowing_nats(rows, chains),
        "unigram": source.counting_nats(rows, order=0),
        "bigram": source.counting_nats(rows, order=1),
    }


@lru_cache(maxsize=16)
def held_out(source: ChainsInContext, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of ``validation`` or ``test``, the same for every model and seed; and chains."""
    generator = numpy_generator(0, f"in_context/{split}")
    chains = source.draw_chains(N_HELD_OUT, generator=generator)
    return source.draw_rows(chains, generator=generator), chains


@torch.no_grad()
def _losses(model: LanguageModel, rows: np.ndarray) -> np.ndarray:
    tokens, targets = on_device(_shifted(rows), model)
    return model.eval().loss(tokens, targets, reduction="none").double().cpu().numpy()


def _shifted(rows: np.ndarray) -> Rows:
    return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])
