"""Models: stacks of blocks around any token mixer."""

from attnlab.models.blocks import Block, ChannelMixer
from attnlab.models.language_model import LanguageModel, StreamState

__all__ = ["Block", "ChannelMixer", "LanguageModel", "StreamState"]
