"""Token mixers: attention, the Extractor family and baselines, all behind one interface."""

from attnlab.mixers import attention, baselines, extractor, naive
from attnlab.mixers.base import (
    TokenMixer,
    build_mixer,
    find_mixer,
    list_mixers,
    mixer,
    mixer_options,
    mixer_summary,
    require_features,
)

__all__ = [
    "TokenMixer",
    "attention",
    "baselines",
    "build_mixer",
    "extractor",
    "find_mixer",
    "list_mixers",
    "mixer",
    "mixer_options",
    "mixer_summary",
    "naive",
    "require_features",
]
