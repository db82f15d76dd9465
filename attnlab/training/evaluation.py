"""Held-out loss: every token predicted once, in nats per token and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnlab.errors import AttnlabError
from attnlab.models import LanguageModel


@dataclass(frozen=True, slots=True)
class Score:
    """Total surprise over some tokens."""

    total_nats: float
    n_tokens: int  # predicted ones; the first of a document has no context
    n_bytes: int  # UTF-8 bytes of the predicted tokens; 0 where bytes mean nothing

    @property
    def nats_per_token(self) -> float:
        """Mean cross-entropy.

        Raises:
            AttnlabError: There was nothing to predict.
        """
        if self.n_tokens == 0:
            raise AttnlabError("No token was scored: a document needs at least two.")
        return self.total_nats / self.n_tokens

    @property
    def bits_per_byte(self) -> float:
        """The same per byte of text, which does not depend on the tokenizer."""
        return self.total_nats / math.log(2) / self.n_bytes

    def __add__(self, other: Score) -> Score:
        """Pool two scores, token by token."""
        return Score(
            self.total_nats + other.total_nats,
            self.n_tokens + other.n_tokens,
            self.n_bytes + other.n_bytes,
        )


def pool(scores: Iterable[Score]) -> Score:
    """Return one score over all tokens of several."""
    return sum(scores, Score(0.0, 0, 0))


@torch.no_grad()
def evaluate(
    model: LanguageModel,
    document: np.ndarray,
    *,
    batch_size: int = 64,
    token_lengths: np.ndarray | None = None,
) -> Score:
    """Score one document in windows that do not overlap.

    The last window is shorter; each starts without memory of the one before, as in training.

    Shapes:
        document: ``(n_tokens,)`` ids; token_lengths: ``(vocab_size,)`` bytes of each id.
    """
    was_training = model.training
    model.eval()
    total = 0.0
    try:
        for inputs, targets in windows(document, model.config.context_len, batch_size):
            inputs, targets = inputs.to(model.device), targets.to(model.device)
            losses = model.loss(inputs, targets, reduction="none")
            total += float(losses.double().sum())
    finally:
        model.train(was_training)
    predicted = np.asarray(document[1:], dtype=np.int64)
    n_bytes = 0 if token_lengths is None else int(token_lengths[predicted].sum())
    return Score(total, len(predicted), n_bytes)


def evaluate_documents(
    model: LanguageModel,
    documents: Sequence[np.ndarray],
    *,
    token_lengths: np.ndarray | None = None,
) -> list[Score]:
    """Score each document by itself; add them for the whole."""
    return [evaluate(model, d, token_lengths=token_lengths) for d in documents if len(d) > 1]


def windows(
    document: np.ndarray, context_len: int, batch_size: int = 64
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the inputs and targets ``(batch, time)`` that ``evaluate`` scores, in order.

    Every token but the first is a target once; the last window may be shorter.
    """
    tokens = torch.from_numpy(np.asarray(document, dtype=np.int64))
    n_full = (len(tokens) - 1) // context_len
    cut = n_full * context_len
    inputs = tokens[:cut].view(-1, context_len)
    targets = tokens[1 : cut + 1].view(-1, context_len)
    if n_full:
        yield from zip(inputs.split(batch_size), targets.split(batch_size), strict=True)
    if cut < len(tokens) - 1:
        yield tokens[None, cut:-1], tokens[None, cut + 1 :]
