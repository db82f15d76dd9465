"""Any source of tokens in one form: documents of ids in three splits, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from attnlab.corpora import (
    SPLITS,
    Tokenizer,
    encode_corpus,
    list_corpora,
    load_corpus,
    load_tokenizer,
    train_bpe,
)
from attnlab.errors import UnknownNameError
from attnlab.paths import cache_folder
from attnlab.seeding import numpy_generator
from attnlab.sources import tales

CACHE = cache_folder() / "tokenizers"


@dataclass(frozen=True, kw_only=True, eq=False)  # one object, one data set
class Dataset:
    """Token ids by document.

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


@lru_cache(maxsize=4)
def prepare_dataset(name: str, *, vocab_size: int, n_train_tokens: int) -> Dataset:
    """Return a data set ready for training.

    Args:
        vocab_size: Pieces of the BPE tokenizer, trained on the training split and kept in the
            cache; ``tales`` has its own words.
        n_train_tokens: Length of a synthetic training stream; real corpora come whole.
    """
    if name == "tales":
        return _tales_dataset(n_train_tokens)
    if name not in list_corpora(kind="text"):
        step = "See them with: attnlab data list."
        raise UnknownNameError("data set", name, list_datasets(), next_step=step)
    return _corpus_dataset(name, vocab_size)


def _tales_dataset(n_train_tokens: int, *, n_held_out: int = 32_769) -> Dataset:
    source = tales()
    lengths = {"train": n_train_tokens, "validation": n_held_out, "test": n_held_out}
    streams = {
        split: source.sample(n, generator=numpy_generator(0, f"tales/{split}"))
        for split, n in lengths.items()
    }
    return Dataset(
        name="tales",
        vocab_size=source.vocab_size,
        test_names=("tales",),
        oracle_nats=source.oracle_nats,
        decode=source.decode,
        train=(streams["train"],),
        validation=(streams["validation"],),
        test=(streams["test"],),
        facts={"name": "tales", "entropy_rate_nats": source.entropy_rate_nats, **lengths},
    )


def _corpus_dataset(name: str, vocab_size: int) -> Dataset:
    corpus = load_corpus(name)
    tokenizer = cached_tokenizer(
        f"{name}-{corpus.fingerprint}", (d.text for d in corpus.train), vocab_size=vocab_size
    )
    encoded = encode_corpus(corpus, tokenizer)
    splits = {split: getattr(encoded, split).tokens for split in SPLITS}
    facts = {
        "name": name,
        "fingerprint": corpus.fingerprint,
        "tokenizer": tokenizer.digest,
        **{split: int(sum(map(len, documents))) for split, documents in splits.items()},
    }
    return Dataset(
        name=name,
        vocab_size=tokenizer.vocab_size,
        test_names=tuple(d.title or d.name for d in corpus.test),
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        token_lengths=tokenizer.token_lengths,
        tokenizer=tokenizer,
        decode=tokenizer.decode,
        facts=facts,
    )


def cached_tokenizer(key: str, texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Return the BPE tokenizer of these texts, trained once and kept in the cache."""
    path = CACHE / f"{key.replace('/', '_')}-{vocab_size}.json"
    if path.exists():
        return load_tokenizer(path)
    tokenizer = train_bpe(texts, vocab_size=vocab_size)
    tokenizer.save(path)
    return tokenizer
