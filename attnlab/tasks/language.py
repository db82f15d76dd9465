"""Language modelling: documents of tokens in, nats per token and bits per byte out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attnlab.analysis.theory import COUNT_NEUTRAL, expected_language_model_multiplications
from attnlab.config import ModelConfig, TrainConfig
from attnlab.corpora import Tokenizer, encode_corpus, list_corpora, load_corpus
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.models import LanguageModel
from attnlab.seeding import numpy_generator
from attnlab.sources import tales
from attnlab.tasks.base import Task, cached_tokenizer
from attnlab.training import WindowBatches, evaluate_documents
from attnlab.training.scores import pool, windows

N_CURVE_TOKENS = 8192  # of validation text behind a point of the curve
N_HELD_OUT = 32_769  # tokens of the validation and the test stream of tales
Tokens = NDArray[np.int64]
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)  # one object, one data set
class Dataset:
    """Token ids by document, in three splits, and what is known of them.

    Shapes:
        train, validation, test: arrays ``(n_tokens,)``, one a document.
        token_lengths: ``(vocab_size,)`` UTF-8 bytes of each token, or None.
    Args:
        oracle_nats: Loss of the true source on windows ``(batch, time)``, where there is one.
        decode: From token ids ``(n_tokens,)`` to text.
        facts: What a record should say about the data: name, fingerprint, tokens, tokenizer.
    """

    name: str
    vocab_size: int
    train: tuple[np.ndarray, ...]
    validation: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]
    test_names: tuple[str, ...] = ()
    token_lengths: np.ndarray | None = None
    tokenizer: Tokenizer | None = None
    oracle_nats: Callable[[np.ndarray], Any] | None = None
    decode: Callable[[np.ndarray], str] | None = None
    facts: dict = field(default_factory=dict)


def list_datasets() -> tuple[str, ...]:
    """Return the names that ``prepare_dataset`` takes: ``tales`` and every text corpus."""
    return ("tales", *list_corpora(kind="text"))


@lru_cache(maxsize=8)
def prepare_dataset(
    name: str, *, vocab_size: int, n_train_tokens: int, n_read_tokens: int | None = None
) -> Dataset:
    """Return a data set ready for training.

    Args:
        vocab_size: Pieces of the BPE tokenizer, trained on the training split and kept in the
            cache; ``tales`` has its own words.
        n_train_tokens: Length of a synthetic training stream; real corpora come whole.
        n_read_tokens: Cut the training documents of a real corpus to about so many tokens: the
            same share of each, from its middle. The other splits stay whole.
    """
    if name == "tales":
        return _tales_dataset(n_train_tokens)
    if name not in list_corpora(kind="text"):
        step = "See them with: attnlab data list."
        raise UnknownNameError("data set", name, list_datasets(), next_step=step)
    whole = _corpus_dataset(name, vocab_size)
    return whole if n_read_tokens is None else _cut(whole, n_read_tokens)


def _cut(data: Dataset, n_tokens: int) -> Dataset:
    n_documents = max(1, min(len(data.train), n_tokens // 512))  # no crumbs
    chosen = [data.train[i] for i in np.linspace(0, len(data.train) - 1, n_documents).astype(int)]
    share = min(1.0, n_tokens / sum(map(len, chosen)))
    lengths = [round(share * len(document)) for document in chosen]
    middles = [(len(d) - n) // 2 for d, n in zip(chosen, lengths, strict=True)]
    train = tuple(d[m : m + n] for d, m, n in zip(chosen, middles, lengths, strict=True))
    return replace(data, train=train, facts={**data.facts, "train": sum(lengths)})


def _tales_dataset(n_train_tokens: int) -> Dataset:
    source = tales()
    lengths = {"train": n_train_tokens, "validation": N_HELD_OUT, "test": N_HELD_OUT}
    streams = {
        split: (source.sample(n, generator=numpy_generator(0, f"tales/{split}")),)
        for split, n in lengths.items()
    }
    return Dataset(
        name="tales",
        vocab_size=source.vocab_size,
        test_names=("tales",),
        oracle_nats=source.oracle_nats,
        decode=source.decode,
        facts={"name": "tales", "entropy_rate_nats": source.entropy_rate_nats, **lengths},
        **streams,
    )


def _corpus_dataset(name: str, vocab_size: int) -> Dataset:
    corpus = load_corpus(name)
    texts = (document.text for document in corpus.train)
    tokenizer = cached_tokenizer(f"{name}-{corpus.fingerprint}", texts, vocab_size=vocab_size)
    splits = encode_corpus(corpus, tokenizer)
    return Dataset(
        name=name,
        vocab_size=tokenizer.vocab_size,
        test_names=tuple(d.title or d.name for d in corpus.test),
        token_lengths=tokenizer.token_lengths,
        tokenizer=tokenizer,
        decode=tokenizer.decode,
        facts={
            "name": name,
            "fingerprint": corpus.fingerprint,
            "tokenizer": tokenizer.digest,
            **{split: int(sum(map(len, documents))) for split, documents in splits.items()},
        },
        **splits,
    )


def _windows(
    documents: Sequence[np.ndarray], model: LanguageModel, train: TrainConfig
) -> WindowBatches:
    sizes = {"context_len": model.config.context_len, "batch_size": train.batch_size}
    return WindowBatches(documents, seed=train.seed, device=model.device, **sizes)


class _NextToken(Task):
    def build(self, config: ModelConfig, *, generator: torch.Generator) -> LanguageModel:
        """Return an untrained language model."""
        return LanguageModel(config, generator=generator)


@dataclass(frozen=True, kw_only=True)
class LanguageTask(_NextToken):
    """Predict the next token of documents, in windows as long as the model reads."""

    data: Dataset

    @property
    def facts(self) -> dict[str, Any]:
        """What a record says about the data."""
        return self.data.facts

    def batches(self, model: LanguageModel, train: TrainConfig, *, start: int = 0) -> Batches:
        """Yield windows of the training documents."""
        return _windows(self.data.train, model, train).starting_at(start)

    def validate(self, model: LanguageModel) -> dict[str, float]:
        """Score the first windows of the validation documents, shared out evenly."""
        documents, context_len = self.data.validation, model.config.context_len
        n_windows = max(1, N_CURVE_TOKENS // (context_len * len(documents)))
        cut = n_windows * context_len + 1
        score = pool(evaluate_documents(model, [document[:cut] for document in documents]))
        return {"loss_nats": score.nats_per_token}

    def score(self, model: LanguageModel) -> tuple[dict[str, float], dict[str, Any]]:
        """Return losses on the validation and the test split; details by book of real text."""
        data, lengths, details = self.data, self.data.token_lengths, {}
        validation = pool(evaluate_documents(model, data.validation, token_lengths=lengths))
        books = evaluate_documents(model, data.test, token_lengths=lengths)
        test = pool(books)
        metrics = {
            **work_of(model.config),
            "validation_loss_nats": validation.nats_per_token,
            "test_loss_nats": test.nats_per_token,
        }
        if lengths is not None:
            metrics["validation_bits_per_byte"] = validation.bits_per_byte
            metrics["test_bits_per_byte"] = test.bits_per_byte
            names = zip(data.test_names, data.test, strict=True)
            details["books"] = {
                "book": [name for name, document in names if len(document) > 1],
                "loss_nats": [book.nats_per_token for book in books],
                "bits_per_byte": [book.bits_per_byte for book in books],
                "n_tokens": [book.n_tokens for book in books],
            }
        if data.oracle_nats is not None:
            metrics["oracle_nats"] = oracle_on_windows(data, model.config.context_len)
            metrics["test_gap_nats"] = metrics["test_loss_nats"] - metrics["oracle_nats"]
        return metrics, details


def work_of(config: ModelConfig) -> dict[str, int]:
    """Return the multiplications of a forward pass, where the closed forms know the options."""
    if set(config.mixer_options) - COUNT_NEUTRAL:
        return {}
    return {"n_multiplications": expected_language_model_multiplications(config)}


@lru_cache(maxsize=16)
def oracle_on_windows(data: Dataset, context_len: int) -> float:
    """Return the true source's loss on the test windows, cut as ``evaluate`` cuts them.

    The source sees what the models see: the window alone, starting from its stationary law.
    """
    if data.oracle_nats is None:
        raise AttnlabError(f"{data.name} is real text: nobody knows its true source.")
    total, n_tokens = 0.0, 0
    for document in data.test:
        for inputs, targets in windows(document, context_len):
            whole = np.concatenate([inputs[:, :1], targets], axis=1)
            total += float(data.oracle_nats(whole)) * targets.numel()
            n_tokens += targets.numel()
    return total / n_tokens


@dataclass(frozen=True, kw_only=True)
class StreamTask(_NextToken):
    """Predict the next token of one stream, as live cells do; judged on windows ready cut.

    Shapes:
        train: ``(n_tokens,)``; held_out: ``(n_windows, context_len + 1)``.
    """

    train: Tokens
    held_out: Tokens
    oracle_nats: float | None = None  # loss of the true source on the held-out windows
    facts: dict[str, Any] = field(default_factory=dict)

    def batches(self, model: LanguageModel, train: TrainConfig, *, start: int = 0) -> Batches:
        """Yield windows of the stream; all models of one length and seed see the same."""
        return _windows([self.train], model, train).starting_at(start)

    @torch.no_grad()
    def validate(self, model: LanguageModel) -> dict[str, float]:
        """Return the mean loss on the held-out windows, on the tokens the true source scores."""
        tokens = self._tokens(model)
        return {"loss_nats": float(model.eval().loss(tokens[:, :-1], tokens[:, 1:]))}

    @torch.no_grad()
    def score(self, model: LanguageModel) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the loss on the held-out windows, also by position in the window."""
        tokens = self._tokens(model)
        losses = model.eval().loss(tokens[:, :-1], tokens[:, 1:], reduction="none").double()
        by_position = losses.mean(0).tolist()
        table = {"position": list(range(1, len(by_position) + 1)), "loss_nats": by_position}
        oracle = {} if self.oracle_nats is None else {"oracle_nats": self.oracle_nats}
        return {"test_loss_nats": float(losses.mean()), **oracle}, {"by_position": table}

    def _tokens(self, model: LanguageModel) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.held_out)).to(model.device)
