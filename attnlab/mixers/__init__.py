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

_FIRST = ["baselines", "attention", "extractor"]  # in every list
for _name in [*_FIRST, *(module.name for module in pkgutil.iter_modules(__path__))]:
    importlib.import_module(f"{__name__}.{_name}")  # each registers its mixers

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
