"""Token mixers: attention, the Extractor family and baselines, all behind one interface."""

from attnlab.mixers import attention, baselines, extractor, naive
from attnlab.mixers.base import TokenMixer
from attnlab.mixers.registry import (
    build_mixer,
    list_mixers,
    mixer_options,
    mixer_summary,
    register_mixer,
)

__all__ = [
    "TokenMixer",
    "attention",
    "baselines",
    "build_mixer",
    "extractor",
    "list_mixers",
    "mixer_options",
    "mixer_summary",
    "naive",
    "register_mixer",
]
