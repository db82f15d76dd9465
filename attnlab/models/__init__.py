"""Models: stacks of blocks around any token mixer, and translators with swappable sites."""

from attnlab.models.blocks import Block, ChannelMixer
from attnlab.models.language_model import LanguageModel, StreamState
from attnlab.models.translator import Translator
from attnlab.models.translator_layers import DecoderLayer, EncoderLayer

__all__ = [
    "Block",
    "ChannelMixer",
    "DecoderLayer",
    "EncoderLayer",
    "LanguageModel",
    "StreamState",
    "Translator",
]
