"""Sentence pairs for the study: the toy languages, or real text as subwords."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from attnlab.corpora import encode_pairs, list_corpora, load_corpus
from attnlab.corpora.sentences import SubwordVocabulary, Vocabulary
from attnlab.errors import UnknownNameError
from attnlab.sources import translation_source
from attnlab.studies.datasets import cached_tokenizer
from attnlab.training.pair_batches import Pairs

TOY = "toy"
N_TOY_HELD_OUT = 500  # pairs of validation, and of test


@dataclass(frozen=True, kw_only=True, eq=False)  # one object, one data set
class PairDataset:
    """Pairs of token ids in three splits.

    Args:
        vocabulary: Of the target; writes and reads its sentences.
        facts: What a record should say about the data: name, licence, what was left out.
    """

    name: str
    source_vocabulary: Vocabulary
    vocabulary: Vocabulary
    train: Pairs
    validation: Pairs
    test: Pairs
    facts: dict[str, Any] = field(default_factory=dict)


def list_pair_datasets() -> tuple[str, ...]:
    """Return the names that ``prepare_pairs`` takes."""
    return (TOY, *list_corpora(kind="pairs"))


@lru_cache(maxsize=2)
def prepare_pairs(name: str, *, vocab_size: int, max_len: int, n_train_pairs: int) -> PairDataset:
    """Return pairs ready for training.

    Args:
        vocab_size: Pieces of the subword vocabulary that both languages share, learnt on the
            training split; the toy languages have their own words.
        max_len: Longest sentence that is kept, in tokens; a target has one fewer, for ``BOS``.
        n_train_pairs: Size of the toy training set; real corpora come whole.
    """
    if name == TOY:
        return _toy_pairs(n_train_pairs)
    if name not in list_pair_datasets():
        step = "See them with: attnlab data list."
        raise UnknownNameError("set of sentence pairs", name, list_pair_datasets(), next_step=step)
    return _real_pairs(name, vocab_size, max_len)


def _toy_pairs(n_train_pairs: int) -> PairDataset:
    source = translation_source()
    sizes = {"data": n_train_pairs, "validation": N_TOY_HELD_OUT, "test": N_TOY_HELD_OUT}
    train, validation, test = (
        source.sample_pairs(n, seed=0, stream=stream) for stream, n in sizes.items()
    )
    return PairDataset(
        name=TOY,
        source_vocabulary=source,
        vocabulary=source,
        train=train,
        validation=validation,
        test=test,
        facts={"name": TOY, "train": n_train_pairs, "test": N_TOY_HELD_OUT},
    )


def _real_pairs(name: str, vocab_size: int, max_len: int) -> PairDataset:
    corpus = load_corpus(name)
    texts = (text for pair in corpus.train for text in (pair.source, pair.target))
    key = f"{name}-{corpus.fingerprint}-joint"
    vocabulary = SubwordVocabulary(cached_tokenizer(key, texts, vocab_size=vocab_size))
    encoded = {
        split: encode_pairs(
            getattr(corpus, split),
            source_vocabulary=vocabulary,
            target_vocabulary=vocabulary,
            max_len=max_len - 1,
        )
        for split in ("train", "validation", "test")
    }
    facts = {
        "name": name,
        "fingerprint": corpus.fingerprint,
        "licence": corpus.licence,
        "vocabulary": vocabulary.digest,
        **{split: len(pairs) for split, pairs in encoded.items()},
        **{f"{split}_too_long": pairs.n_too_long for split, pairs in encoded.items()},
    }
    return PairDataset(
        name=name, source_vocabulary=vocabulary, vocabulary=vocabulary, facts=facts, **encoded
    )
