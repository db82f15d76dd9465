"""Token mixers: attention, the Extractor family and baselines, all behind one interface."""

import importlib
import pkgutil

from attnlab.mixers import naive
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

for _module in pkgutil.iter_modules(__path__):  # each registers its mixers
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "TokenMixer",
    "build_mixer",
    "find_mixer",
    "list_mixers",
    "mixer",
    "mixer_options",
    "mixer_summary",
    "naive",
    "require_features",
]
