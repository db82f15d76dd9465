"""Translation: sentence pairs in, next tokens right and BLEU out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

from attnlab.config import TrainConfig, TranslatorConfig
from attnlab.corpora import (
    SPLITS,
    SubwordVocabulary,
    Vocabulary,
    encode_pairs,
    list_corpora,
    load_corpus,
)
from attnlab.errors import UnknownNameError
from attnlab.models import Translator
from attnlab.sources import translation_source
from attnlab.tasks.base import Task, cached_tokenizer
from attnlab.training import PairBatches, evaluate_forced, evaluate_translation
from attnlab.training.batches import Pairs
from attnlab.training.scores import LENGTH_EDGES, TranslationScore

TOY = "toy"
TOY_SMALL = "toy_small"  # the same languages, few sentences to learn from
TOY_SHORT = "toy_short"  # short sentences to learn from, all lengths to be tested on
TOYS = (TOY, TOY_SMALL, TOY_SHORT)
N_HELD_OUT = 500  # toy pairs of validation, and of test
N_LONG_TEST = 1000  # where the test is told apart by length
SHORT = 7  # words, at most, of both sentences of a short pair
LONGER = (SHORT, SHORT + 2, SHORT + 4)  # edges of the lengths that are told apart beyond it
N_CURVE_PAIRS = 200  # validation pairs behind a point of the curve


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
        return _toy_pairs(name, n_train_pairs)
    if name not in list_pair_datasets():
        step = "See them with: attnlab data list."
        raise UnknownNameError("set of sentence pairs", name, list_pair_datasets(), next_step=step)
    return _real_pairs(name, vocab_size, max_len)


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


def _real_pairs(name: str, vocab_size: int, max_len: int) -> PairDataset:
    corpus = load_corpus(name)
    texts = (text for pair in corpus.train for text in (pair.source, pair.target))
    key = f"{name}-{corpus.fingerprint}-joint"
    vocabulary = SubwordVocabulary(cached_tokenizer(key, texts, vocab_size=vocab_size))
    both = {"source_vocabulary": vocabulary, "target_vocabulary": vocabulary}
    encoded = {
        split: encode_pairs(corpus.split(split), **both, max_len=max_len - 1) for split in SPLITS
    }
    facts = {
        "name": name,
        "fingerprint": corpus.fingerprint,
        "licence": corpus.licence,
        "vocabulary": vocabulary.digest,
        **{split: len(pairs) for split, pairs in encoded.items()},
        **{f"{split}_too_long": len(corpus.split(split)) - len(encoded[split]) for split in SPLITS},
    }
    return PairDataset(
        name=name, source_vocabulary=vocabulary, vocabulary=vocabulary, facts=facts, **encoded
    )


@dataclass(frozen=True, kw_only=True)
class TranslationTask(Task):
    """Write a sentence given another one, in batches of as many tokens each."""

    data: PairDataset
    max_tokens: int  # of one side of a batch
    beam_size: int = 1  # with more than one, BLEU of the test is given for that search, too

    @property
    def facts(self) -> dict[str, Any]:
        """What a record says about the data."""
        return self.data.facts

    def build(self, config: TranslatorConfig, *, generator: torch.Generator) -> Translator:
        """Return an untrained translator."""
        return Translator(config, generator=generator)

    def batches(
        self, model: Translator, train: TrainConfig, *, start: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield training pairs, those of like length together."""
        how = {"max_tokens": self.max_tokens, "seed": train.seed, "device": model.device}
        return PairBatches(self.data.train, **how).starting_at(start)

    def validate(self, model: Translator) -> dict[str, float]:
        """Return the loss on the first validation pairs, every earlier token given."""
        return {"loss_nats": evaluate_forced(model, self.data.validation[:N_CURVE_PAIRS]).loss_nats}

    def score(self, model: Translator) -> tuple[dict[str, float], dict[str, Any]]:
        """Return loss and accuracy, earlier tokens given, and BLEU of what is written freely.

        BLEU of the validation split is there to choose by: a net that reads the words it is
        asked to predict has a good loss and writes badly.
        """
        held_out = self.translate(model, split="validation")
        metrics, details = describe_score(self.translate(model, split="test"))
        validation = {
            "validation_loss_nats": held_out.forced.loss_nats,
            "validation_bleu": held_out.bleu.score,
        }
        if self.beam_size > 1:
            beam, facts = describe_score(self.translate(model, beam_size=self.beam_size))
            metrics |= {f"beam_{name}": beam[name] for name in ("bleu", "bleu_low", "bleu_high")}
            details |= {"beam": facts["bleu"]}
        return {**validation, **metrics}, details

    def translate(
        self, model: Translator, *, split: str = "test", beam_size: int = 1
    ) -> TranslationScore:
        """Return what a translator makes of a split, by greedy search or by beam."""
        how = {"vocabulary": self.data.vocabulary, "length_edges": self.data.length_edges}
        pairs = getattr(self.data, split)
        return evaluate_translation(model.eval(), pairs, beam_size=beam_size, **how)


def describe_score(score: TranslationScore) -> tuple[dict[str, float], dict[str, Any]]:
    """Return a score as the metrics and details of a record: with what BLEU can be compared by."""
    forced, bleu, buckets = score.forced, score.bleu, score.by_length
    metrics = {
        "test_loss_nats": forced.loss_nats, "test_accuracy": forced.accuracy,
        "bleu": bleu.score, "bleu_low": bleu.low, "bleu_high": bleu.high,
        "exact_match": score.exact_match,
    }  # fmt: skip
    by_length = {
        "shortest": [bucket.shortest for bucket in buckets],
        "longest": [bucket.longest for bucket in buckets],
        "bleu": [bucket.bleu.score for bucket in buckets],
        "bleu_low": [bucket.bleu.low for bucket in buckets],
        "bleu_high": [bucket.bleu.high for bucket in buckets],
        "n_sentences": [bucket.bleu.n_sentences for bucket in buckets],
    }
    facts = {
        "signature": bleu.signature, "precisions": list(bleu.precisions),
        "brevity_penalty": bleu.brevity_penalty, "n_sentences": bleu.n_sentences,
        "beam_size": score.beam_size, "sentences": bleu.sentences,
    }  # fmt: skip
    return metrics, {"by_length": by_length, "bleu": facts}
