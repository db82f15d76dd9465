"""A task: data, the model that reads it, what to minimise, and how to judge the result."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from attnlab.corpora import Tokenizer, load_tokenizer, train_bpe
from attnlab.errors import AttnlabError, FileError
from attnlab.paths import cache_folder
from attnlab.training.engine import Lessons

LOGGER = logging.getLogger(__name__)


class Task(Lessons):
    """What a study trains a model on: the lessons of the engine, a start and an end."""

    facts: dict[str, Any]  # what a record says about the data

    @abstractmethod
    def build(self, config: Any, *, generator: torch.Generator) -> nn.Module:
        """Return an untrained model."""

    @abstractmethod
    def score(self, model: nn.Module) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the metrics of a trained model on held-out data, and tables of details."""


def cached_tokenizer(key: str, texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Return the BPE tokenizer of these texts, trained once and kept in the cache.

    One that is damaged is trained again; a cache that cannot be written is done without.
    """
    path = cache_folder() / "byte_pairs" / f"{key.replace('/', '_')}-{vocab_size}.json"
    if path.exists():
        try:
            return load_tokenizer(path)
        except AttnlabError as problem:
            LOGGER.warning("%s Training it again.", problem)
    tokenizer = train_bpe(texts, vocab_size=vocab_size)
    try:
        tokenizer.save(path)
    except FileError as problem:
        LOGGER.warning("The tokenizer is not kept: %s", problem)
    return tokenizer
