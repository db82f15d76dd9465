"""The loop that defines each mixer, by its name: ``naive.she(mixer, x)``, slow and obvious.

A definition calls no ``forward`` or ``step``; only the weights of a mixer are read.
"""

from collections.abc import Callable

from torch import Tensor

from attnlab.mixers.base import TokenMixer, find_mixer, list_mixers


def definition(name: str) -> Callable[[TokenMixer, Tensor], Tensor]:
    """Return the naive loop of the mixer called ``name``."""
    return find_mixer(name).definition


def __getattr__(name: str) -> Callable[[TokenMixer, Tensor], Tensor]:
    if name in list_mixers():
        return definition(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
