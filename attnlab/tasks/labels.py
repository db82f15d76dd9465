"""Texts with a class: sentences, questions, news, each beside a linear model of its words."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np

from attnlab.analysis.accuracy import linear_control, word_bags
from attnlab.corpora import SPLITS, SubwordVocabulary, list_corpora, load_corpus
from attnlab.errors import UnknownNameError
from attnlab.tasks.base import cached_tokenizer
from attnlab.tasks.classification import LabelDataset


def list_label_datasets() -> tuple[str, ...]:
    """Return the names that ``prepare_labels`` takes: every corpus of texts with a class."""
    return tuple(list_corpora(kind="labels"))


@lru_cache(maxsize=4)
def prepare_labels(name: str, *, vocab_size: int, max_len: int) -> LabelDataset:
    """Return texts with a class ready for training.

    Args:
        vocab_size: Pieces of the BPE tokenizer, learnt on the training split.
        max_len: Tokens that are read of a text; the facts say how many texts are cut.
    """
    if name not in list_label_datasets():
        step = "See them with: attnlab data list."
        known = list_label_datasets()
        raise UnknownNameError("set of labelled texts", name, known, next_step=step)
    corpus = load_corpus(name)
    texts = {split: [item.text for item in corpus.split(split)] for split in SPLITS}
    labels = {split: np.array([item.label for item in corpus.split(split)]) for split in SPLITS}
    key = f"{name}-{corpus.fingerprint}"
    vocabulary = SubwordVocabulary(cached_tokenizer(key, texts["train"], vocab_size=vocab_size))
    whole = {split: [vocabulary.encode(text) for text in texts[split]] for split in SPLITS}
    bags, n_features = word_bags(texts)
    how = {"n_features": n_features, "n_classes": len(corpus.classes)}
    return LabelDataset(
        name=name,
        classes=corpus.classes,
        inputs={split: [ids[:max_len] for ids in whole[split]] for split in SPLITS},
        labels=labels,
        sizes={
            "n_classes": len(corpus.classes),
            "context_len": max_len,
            "vocab_size": vocabulary.vocab_size,
        },
        control=partial(linear_control, bags, labels, **how),
        facts={
            "name": name,
            "fingerprint": corpus.fingerprint,
            "notes": corpus.notes,
            "vocabulary": vocabulary.digest,
            **{split: len(texts[split]) for split in SPLITS},
            "n_cut": sum(len(ids) > max_len for part in whole.values() for ids in part),
            "n_control_features": n_features,
        },
    )
