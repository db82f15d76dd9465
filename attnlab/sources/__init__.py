"""Synthetic sources of tokens, each with a floor under every loss that is known exactly."""

from attnlab.sources.base import Source
from attnlab.sources.context_tree import variable_length_chain
from attnlab.sources.markov import markov_chain
from attnlab.sources.tables import fit_table
from attnlab.sources.tales import tales
from attnlab.sources.translation import TranslationSource, translation_source

__all__ = [
    "Source",
    "TranslationSource",
    "fit_table",
    "markov_chain",
    "tales",
    "translation_source",
    "variable_length_chain",
]
