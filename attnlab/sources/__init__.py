"""Synthetic sources of tokens, each with a floor under every loss that is known exactly."""

from attnlab.sources.base import Source, entropy_nats, surprise_nats
from attnlab.sources.context_tree import EXAMPLE_TREES, ContextTreeSource, variable_length_chain
from attnlab.sources.markov import (
    Chain,
    MarkovSource,
    list_chains,
    load_chain,
    markov_chain,
    random_chain,
    ring_chain,
)
from attnlab.sources.ngrams import context_floors, ngram_losses, ngram_token_losses
from attnlab.sources.tables import CountTable, fit_table, kl_per_state
from attnlab.sources.tales import TaleSource, tales
from attnlab.sources.transition import closed_classes, entropy_rate, stationary
from attnlab.sources.translation import NOUNS, TranslationSource, translation_source

__all__ = [
    "EXAMPLE_TREES",
    "NOUNS",
    "Chain",
    "ContextTreeSource",
    "CountTable",
    "MarkovSource",
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
    "ngram_token_losses",
    "random_chain",
    "ring_chain",
    "stationary",
    "surprise_nats",
    "tales",
    "translation_source",
    "variable_length_chain",
]
