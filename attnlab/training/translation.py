"""Training and judging a translator: loss and accuracy, and what it really writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from attnlab.config import EOS, PAD, TrainConfig, TranslatorConfig
from attnlab.corpora import Vocabulary
from attnlab.errors import AttnlabError, CheckpointError
from attnlab.models import Translator
from attnlab.training.bleu import LENGTH_EDGES, Bleu, LengthBleu, bleu, bleu_by_length
from attnlab.training.checkpoint import load_weights, read_tensors
from attnlab.training.loop import StepLog, train_steps
from attnlab.training.pair_batches import (
    Pairs,
    collate_pairs,
    cut_by_tokens,
    pad_sentences,
    pair_lengths,
)

MAX_TOKENS = 4096  # of a batch in evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class ForcedScore:
    """What a translator predicts when every earlier token is the right one."""

    loss_nats: float  # mean cross-entropy per token, without smoothing
    accuracy: float  # share of tokens of which the likeliest is the right one
    n_tokens: int  # with EOS, without BOS


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslationScore:
    """Teacher-forced numbers and those of what is written freely, always both."""

    forced: ForcedScore
    bleu: Bleu
    by_length: tuple[LengthBleu, ...]
    exact_match: float  # share of sentences that are the reference, token by token
    hypotheses: tuple[str, ...]


def translation_steps(
    translator: Translator,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer | None = None,
    first_step: int = 0,
    tokens_seen: int = 0,
) -> Iterator[StepLog]:
    """Train with teacher forcing, one optimiser step at a time, as ``train_steps`` does.

    ``config.label_smoothing`` is part of the loss that a step reports; ``config.batch_size`` is
    not used, because ``PairBatches`` counts tokens.

    Args:
        batches: From ``PairBatches.starting_at(first_step * config.accumulation_steps)``.
        optimizer: From ``build_optimizer``; give it to go on from a checkpoint.
        first_step: Steps done before.
        tokens_seen: Target tokens those steps read.
    """
    return train_steps(
        translator,
        batches,
        config=config,
        optimizer=optimizer,
        first_step=first_step,
        tokens_seen=tokens_seen,
        loss=partial(translator.loss, label_smoothing=config.label_smoothing),
        count=count_predictions,
    )


def count_predictions(target: Tensor) -> int:
    """Return how many tokens of a target batch are predicted: all but ``BOS`` and padding."""
    return int((target[:, 1:] != PAD).sum())


@torch.no_grad()
def evaluate_forced(
    translator: Translator, pairs: Pairs, *, max_tokens: int = MAX_TOKENS
) -> ForcedScore:
    """Return loss and accuracy with every earlier target token given."""
    was_training = translator.training
    translator.eval()
    total_nats, n_right, n_tokens = 0.0, 0, 0
    try:
        for batch in _batches_by_length(pair_lengths(pairs), max_tokens):
            chosen = [pairs[i] for i in batch]
            source, target = collate_pairs(chosen, device=translator.device)
            features, labels = translator.predictions(source, target)
            logits = translator.head(features).float()
            total_nats += float(F.cross_entropy(logits, labels, reduction="sum"))
            n_right += int((logits.argmax(-1) == labels).sum())
            n_tokens += len(labels)
    finally:
        translator.train(was_training)
    if n_tokens == 0:
        raise AttnlabError("There is no sentence pair to score: were all of them too long?")
    return ForcedScore(
        loss_nats=total_nats / n_tokens, accuracy=n_right / n_tokens, n_tokens=n_tokens
    )


def translate_all(
    translator: Translator,
    sentences: Sequence[ArrayLike],
    *,
    beam_size: int = 1,
    max_tokens: int = MAX_TOKENS,
    **options: Any,
) -> list[NDArray[np.int64]]:
    """Translate sentences of token ids in batches of like length; return them in their order.

    Args:
        beam_size: 1 is greedy.
        max_tokens: Most source tokens of a batch, counting each beam.
        options: What ``Translator.translate`` takes besides.

    Returns:
        Token ids ``(n_tokens,)`` of each translation, without ``EOS``.
    """
    found: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(sentences)
    lengths = np.array([[max(1, len(np.atleast_1d(s)))] for s in sentences], np.int64)
    for batch in _batches_by_length(lengths.reshape(-1, 1), max(1, max_tokens // beam_size)):
        source = pad_sentences([sentences[i] for i in batch], device=translator.device)
        written = translator.translate(source, beam_size=beam_size, **options).cpu().numpy()
        for place, row in zip(batch, written, strict=True):
            found[place] = sentence_of(row)
    return found


def sentence_of(tokens: ArrayLike) -> NDArray[np.int64]:
    """Return the tokens of one row up to ``EOS``, without it and without padding."""
    row = np.asarray(tokens, dtype=np.int64)
    ends = np.flatnonzero(row == EOS)
    row = row[: ends[0]] if len(ends) else row
    return row[row != PAD]


def evaluate_translation(
    translator: Translator,
    pairs: Pairs,
    *,
    vocabulary: Vocabulary,
    beam_size: int = 1,
    n_resamples: int = 1000,
    max_tokens: int = MAX_TOKENS,
    length_edges: Sequence[int] = LENGTH_EDGES,
    **options: Any,
) -> TranslationScore:
    """Translate the sources freely and score the text, beside the teacher-forced numbers.

    Args:
        pairs: Token ids of source and target, as ``encode_pairs`` or ``sample_pairs`` give them.
        vocabulary: Of the target; its ``decode`` writes hypotheses and references.
        n_resamples: Test sets drawn for the interval of BLEU.
        length_edges: Longest reference of each bucket of ``by_length`` but the last, in words.
        options: What ``Translator.translate`` takes besides.
    """
    forced = evaluate_forced(translator, pairs, max_tokens=max_tokens)
    sources, targets = [s for s, _ in pairs], [np.asarray(t, np.int64) for _, t in pairs]
    found = translate_all(
        translator, sources, beam_size=beam_size, max_tokens=max_tokens, **options
    )
    hypotheses = [vocabulary.decode(tokens) for tokens in found]
    references = [vocabulary.decode(tokens) for tokens in targets]
    n_exact = sum(np.array_equal(a, b) for a, b in zip(found, targets, strict=True))
    return TranslationScore(
        forced=forced,
        bleu=bleu(hypotheses, references, n_resamples=n_resamples),
        by_length=tuple(
            bleu_by_length(hypotheses, references, edges=length_edges, n_resamples=n_resamples)
        ),
        exact_match=n_exact / len(targets),
        hypotheses=tuple(hypotheses),
    )


def load_translator(path: Path) -> tuple[Translator, dict[str, Any]]:
    """Return a translator that ``save_model`` wrote, in eval mode, and the facts saved with it.

    Raises:
        CheckpointError: The file is missing, damaged, or holds no translator.
    """
    tensors, facts = read_tensors(path)
    config = facts.get("config", {})
    if "source_vocab_size" not in config:
        raise CheckpointError(f"{path} holds no translator; load a language model with load_model.")
    translator = Translator(TranslatorConfig.from_dict(config), generator=torch.Generator())
    load_weights(translator, tensors, path)
    return translator.eval(), facts


def _batches_by_length(lengths: NDArray[np.int64], max_tokens: int) -> Iterator[list[int]]:
    """Yield which sentences go together, from short to long."""
    if len(lengths) == 0:
        return
    order = np.lexsort(lengths.T[::-1])
    for start, end in cut_by_tokens(lengths[order], max_tokens=max_tokens):
        yield order[start:end].tolist()
