"""Pairs of token ids in three splits: translations, and what else writes one text for another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from attnlab.corpora import (
    SPLITS,
    Corpus,
    SentencePair,
    SubwordVocabulary,
    Vocabulary,
    WordVocabulary,
    encode_pairs,
    list_corpora,
    load_corpus,
)
from attnlab.errors import UnknownNameError
from attnlab.sources import translation_source
from attnlab.tasks.base import cached_tokenizer
from attnlab.training.batches import Pairs
from attnlab.training.scores import LENGTH_EDGES

TOY = "toy"
TOY_SMALL = "toy_small"  # the same languages, few sentences to learn from
TOY_SHORT = "toy_short"  # short sentences to learn from, all lengths to be tested on
TOYS = (TOY, TOY_SMALL, TOY_SHORT)
N_HELD_OUT = 500  # toy pairs of validation, and of test
N_LONG_TEST = 1000  # where the test is told apart by length
SHORT = 7  # words, at most, of both sentences of a short pair
LONGER = (SHORT, SHORT + 2, SHORT + 4)  # edges of the lengths that are told apart beyond it

# Corpora whose texts are scored one by one, by the first part of the name: how words are cut
WRITTEN = {"headlines": "13a", "dialogue": "13a", "code": "none", "scan": "none", "cogs": "none"}
OF_WORDS = ("scan", "cogs")  # languages of few words, each a symbol of its own
NEWEST = ("dialogue",)  # where the end of a source that is too long is what counts
MORE_TESTS = {"cogs": {"gen": "cogs/gen"}}  # further tests of a model: name and corpus


@dataclass(frozen=True, kw_only=True, eq=False)  # one object, one data set
class PairDataset:
    """Pairs of token ids in three splits.

    Args:
        vocabulary: Of the target; writes and reads its sentences.
        facts: What a record should say about the data: name, licence, what was left out.
        length_edges: Longest sentence of each bucket but the last, in words of the reference.
        tokenize: How scores cut words: ``13a``, or ``none`` at blanks alone.
        scores_texts: Whether each text is scored by itself, too: no translation, every test pair.
        more_tests: Further tests by name, of other kinds than what is learnt from.
    """

    name: str
    source_vocabulary: Vocabulary
    vocabulary: Vocabulary
    train: Pairs
    validation: Pairs
    test: Pairs
    facts: dict[str, Any] = field(default_factory=dict)
    length_edges: tuple[int, ...] = LENGTH_EDGES
    tokenize: str = "13a"
    scores_texts: bool = False
    more_tests: dict[str, Pairs] = field(default_factory=dict)


def list_pair_datasets() -> tuple[str, ...]:
    """Return the names that ``prepare_pairs`` takes."""
    return (*TOYS, *list_corpora(kind="pairs"))


@lru_cache(maxsize=2)
def prepare_pairs(name: str, *, vocab_size: int, max_len: int, n_train_pairs: int) -> PairDataset:
    """Return pairs ready for training.

    Args:
        vocab_size: Pieces of the subword vocabulary that both languages share, learnt on the
            training split; the toy languages, SCAN and COGS have their own words.
        max_len: Longest sentence that is kept, in tokens; a target has one fewer, for ``BOS``.
        n_train_pairs: Size of the toy training set; real corpora come whole.
    """
    if name in TOYS:
        return _toy_pairs(name, n_train_pairs)
    if name not in list_pair_datasets():
        step = "See them with: attnlab data list."
        raise UnknownNameError("set of sentence pairs", name, list_pair_datasets(), next_step=step)
    corpus = load_corpus(name)
    if name.partition("/")[0] in WRITTEN:
        return _written_pairs(corpus, vocab_size, max_len)
    vocabulary = _subwords(corpus, vocab_size)
    both = {"source_vocabulary": vocabulary, "target_vocabulary": vocabulary}
    encoded = {
        split: encode_pairs(corpus.split(split), **both, max_len=max_len - 1) for split in SPLITS
    }
    return _dataset(corpus, vocabulary, encoded)


def _toy_pairs(name: str, n_train_pairs: int) -> PairDataset:
    """Sample the toy languages; ``toy_short`` keeps the short ones of what is learnt from."""
    source, is_short = translation_source(), name == TOY_SHORT
    n_test = N_LONG_TEST if is_short else N_HELD_OUT
    train, validation, test = (
        source.sample_pairs(n, seed=0, stream=stream)
        for stream, n in (("data", n_train_pairs), ("validation", N_HELD_OUT), ("test", n_test))
    )
    if is_short:
        train, validation = (
            [pair for pair in pairs if max(map(len, pair)) <= SHORT]
            for pairs in (train, validation)
        )
    facts = {"name": name, "train": len(train), "test": len(test)}
    return PairDataset(
        name=name, source_vocabulary=source, vocabulary=source,
        train=train, validation=validation, test=test,
        facts=facts | ({"longest_train": SHORT} if is_short else {}),
        length_edges=LONGER if is_short else LENGTH_EDGES,
    )  # fmt: skip


def _written_pairs(corpus: Corpus, vocab_size: int, max_len: int) -> PairDataset:
    """Encode a corpus whose texts are scored one by one: every test pair stays in the test.

    A source that is too long is cut. Where the target is, a pair to learn or to choose by is left
    out, and one of the test stays: a model that has no room for it is wrong there.
    """
    kind, vocabulary = corpus.name.partition("/")[0], _vocabulary(corpus, vocab_size)

    def encoded(pairs: Sequence[SentencePair]) -> Pairs:
        ids = ((vocabulary.encode(pair.source), vocabulary.encode(pair.target)) for pair in pairs)
        if kind in NEWEST:
            return [(source[-max_len:], target) for source, target in ids]
        return [(source[:max_len], target) for source, target in ids]

    whole = {split: encoded(corpus.split(split)) for split in SPLITS}
    fitting = {split: [p for p in pairs if len(p[1]) < max_len] for split, pairs in whole.items()}
    more = {
        name: encoded(load_corpus(other).test)
        for name, other in MORE_TESTS.get(corpus.name, {}).items()
    }
    facts = {"test_beyond_reach": len(whole["test"]) - len(fitting["test"])}
    facts |= {f"{name}_beyond_reach": sum(len(target) >= max_len for _, target in pairs)
              for name, pairs in more.items()}  # fmt: skip
    return _dataset(
        corpus, vocabulary, fitting | {"test": whole["test"]}, facts=facts,
        tokenize=WRITTEN[kind], scores_texts=True, more_tests=more,
    )  # fmt: skip


def _vocabulary(corpus: Corpus, vocab_size: int) -> SubwordVocabulary | WordVocabulary:
    if corpus.name.partition("/")[0] in OF_WORDS:
        return WordVocabulary(text for pair in corpus.train for text in (pair.source, pair.target))
    return _subwords(corpus, vocab_size)


def _subwords(corpus: Corpus, vocab_size: int) -> SubwordVocabulary:
    """Return the pieces of both sides of the training split."""
    texts = (text for pair in corpus.train for text in (pair.source, pair.target))
    key = f"{corpus.name}-{corpus.fingerprint}-joint"
    return SubwordVocabulary(cached_tokenizer(key, texts, vocab_size=vocab_size))


def _dataset(
    corpus: Corpus,
    vocabulary: SubwordVocabulary | WordVocabulary,
    encoded: dict[str, Pairs],
    *,
    facts: dict[str, Any] | None = None,
    **how: Any,
) -> PairDataset:
    facts = {
        "name": corpus.name,
        "fingerprint": corpus.fingerprint,
        "licence": corpus.licence,
        "vocabulary": vocabulary.digest,
        **{split: len(pairs) for split, pairs in encoded.items()},
        **{f"{split}_too_long": len(corpus.split(split)) - len(encoded[split]) for split in SPLITS},
        **(facts or {}),
    }
    return PairDataset(
        name=corpus.name, source_vocabulary=vocabulary, vocabulary=vocabulary, facts=facts,
        **encoded, **how,
    )  # fmt: skip
