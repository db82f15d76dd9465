"""Models: stacks of blocks around any token mixer, and translators with swappable sites."""

from attnlab.models.blocks import Block, ChannelMixer, DecoderLayer, EncoderLayer, evaluating
from attnlab.models.classifier import Classifier
from attnlab.models.language_model import LanguageModel, StreamState
from attnlab.models.search import beam_search, greedy_search, sample_token, token_chances
from attnlab.models.translator import Translator

__all__ = [
    "Block",
    "ChannelMixer",
    "Classifier",
    "DecoderLayer",
    "EncoderLayer",
    "LanguageModel",
    "StreamState",
    "Translator",
    "beam_search",
    "evaluating",
    "greedy_search",
    "sample_token",
    "token_chances",
]
