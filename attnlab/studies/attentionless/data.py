"""Sentence pairs for the study: the toy languages, or real text as subwords."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from attnlab.corpora import SubwordVocabulary, Vocabulary, encode_pairs, list_corpora, load_corpus
from attnlab.errors import UnknownNameError
from attnlab.models import Translator
from attnlab.sources import translation_source
from attnlab.studies.datasets import cached_tokenizer
from attnlab.training import evaluate_translation, translate_all
from attnlab.training.bleu import LENGTH_EDGES, BleuShare, ZeroBaselineError, bleu_share
from attnlab.training.pair_batches import Pairs
from attnlab.training.translation import TranslationScore

TOY = "toy"
TOY_SMALL = "toy_small"  # the same languages, few sentences to learn from
TOY_SHORT = "toy_short"  # short sentences to learn from, all lengths to be tested on
TOYS = (TOY, TOY_SMALL, TOY_SHORT)
N_TOY_HELD_OUT = 500  # pairs of validation, and of test
N_LONG_TEST = 1000  # where the test is told apart by length
SHORT = 7  # words, at most, of both sentences of a short pair
LONGER = (SHORT, SHORT + 2, SHORT + 4)  # edges of the lengths that are told apart beyond it


@dataclass(frozen=True, kw_only=True, eq=False)  # one object, one data set
class PairDataset:
    """Pairs of token ids in three splits.

    Args:
        vocabulary: Of the target; writes and reads its sentences.
        facts: What a record should say about the data: name, licence, what was left out.
        length_edges: Longest sentence of each bucket but the last, in words of the reference.
    """

    name: str
    source_vocabulary: Vocabulary
    vocabulary: Vocabulary
    train: Pairs
    validation: Pairs
    test: Pairs
    facts: dict[str, Any] = field(default_factory=dict)
    length_edges: tuple[int, ...] = LENGTH_EDGES

    def score(self, translator: Translator) -> TranslationScore:
        """Return what a translator makes of the test split, by greedy search."""
        return evaluate_translation(
            translator.eval(),
            self.test,
            vocabulary=self.vocabulary,
            length_edges=self.length_edges,
        )

    def share(self, score: TranslationScore, teacher: Translator) -> BleuShare | None:
        """Return the BLEU of a score on the test split as a share of a teacher's.

        None where the teacher gets nothing right.
        """
        found = translate_all(teacher.eval(), [source for source, _ in self.test])
        baseline = [self.vocabulary.decode(tokens) for tokens in found]
        references = [self.vocabulary.decode(target) for _, target in self.test]
        try:
            return bleu_share(score.hypotheses, baseline, references)
        except ZeroBaselineError:
            return None


def list_pair_datasets() -> tuple[str, ...]:
    """Return the names that ``prepare_pairs`` takes."""
    return (*TOYS, *list_corpora(kind="pairs"))


@lru_cache(maxsize=2)
def prepare_pairs(name: str, *, vocab_size: int, max_len: int, n_train_pairs: int) -> PairDataset:
    """Return pairs ready for training.

    Args:
        vocab_size: Pieces of the subword vocabulary that both languages share, learnt on the
            training split; the toy languages have their own words.
        max_len: Longest sentence that is kept, in tokens; a target has one fewer, for ``BOS``.
        n_train_pairs: Size of the toy training set; real corpora come whole.
    """
    if name in TOYS:
        return _short_pairs(n_train_pairs) if name == TOY_SHORT else _toy_pairs(name, n_train_pairs)
    if name not in list_pair_datasets():
        step = "See them with: attnlab data list."
        raise UnknownNameError("set of sentence pairs", name, list_pair_datasets(), next_step=step)
    return _real_pairs(name, vocab_size, max_len)


def _toy_pairs(name: str, n_train_pairs: int) -> PairDataset:
    source = translation_source()
    sizes = {"data": n_train_pairs, "validation": N_TOY_HELD_OUT, "test": N_TOY_HELD_OUT}
    train, validation, test = (
        source.sample_pairs(n, seed=0, stream=stream) for stream, n in sizes.items()
    )
    return PairDataset(
        name=name,
        source_vocabulary=source,
        vocabulary=source,
        train=train,
        validation=validation,
        test=test,
        facts={"name": name, "train": n_train_pairs, "test": N_TOY_HELD_OUT},
    )


def _short_pairs(n_train_pairs: int) -> PairDataset:
    """Learn from the short ones among ``n_train_pairs`` pairs, and be tested on all lengths."""
    data = _toy_pairs(TOY_SHORT, n_train_pairs)
    source = translation_source()
    test = source.sample_pairs(N_LONG_TEST, seed=0, stream="test")
    train, validation = (
        [pair for pair in pairs if max(map(len, pair)) <= SHORT]
        for pairs in (data.train, data.validation)
    )
    facts = {"train": len(train), "test": len(test), "longest_train": SHORT}
    return replace(
        data,
        train=train,
        validation=validation,
        test=test,
        facts={**data.facts, **facts},
        length_edges=LONGER,
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
