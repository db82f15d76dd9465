"""Synthetic sources of tokens, each with a floor under every loss that is known exactly."""

from attnlab.sources.base import Source, entropy_nats, surprise_nats
from attnlab.sources.in_context import ChainsInContext
from attnlab.sources.languages import NOUNS, TranslationSource, translation_source
from attnlab.sources.markov import (
    EXAMPLE_TREES,
    ContextTreeSource,
    MarkovSource,
    closed_classes,
    entropy_rate,
    list_chains,
    load_chain,
    markov_chain,
    random_chain,
    ring_chain,
    stationary,
    variable_length_chain,
)
from attnlab.sources.recall import (
    InductionHead,
    PairRecall,
    RecallSource,
    SelectiveCopying,
    recall_source,
)
from attnlab.sources.tables import (
    CountTable,
    context_floors,
    fit_table,
    kl_per_state,
    ngram_losses,
)
from attnlab.sources.tales import TaleSource, tales

__all__ = [
    "EXAMPLE_TREES",
    "NOUNS",
    "ChainsInContext",
    "ContextTreeSource",
    "CountTable",
    "InductionHead",
    "MarkovSource",
    "PairRecall",
    "RecallSource",
    "SelectiveCopying",
    "Source",
    "TaleSource",
    "TranslationSource",
    "closed_classes",
    "context_floors",
    "entropy_nats",
    "entropy_rate",
    "fit_table",
    "kl_per_state",
    "list_chains",
    "load_chain",
    "markov_chain",
    "ngram_losses",
    "random_chain",
    "recall_source",
    "ring_chain",
    "stationary",
    "surprise_nats",
    "tales",
    "translation_source",
    "variable_length_chain",
]
