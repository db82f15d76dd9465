"""Seeds are streams with names, so that changing one use of chance never moves another."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from attnlab.errors import AttnlabError, shorten

if TYPE_CHECKING:
    import torch


def seed_sequence(seed: int, stream: str) -> np.random.SeedSequence:
    """Return the seed sequence of a named stream of one integer seed.

    Two streams of the same seed are independent; the same pair gives the same
    numbers on every machine. Any name is a stream.

    Raises:
        AttnlabError: A seed that is no whole number, 0 or more.
    """
    if not isinstance(seed, Integral) or seed < 0:
        raise AttnlabError(f"seed={shorten(seed)} must be a whole number, 0 or more.")
    return np.random.SeedSequence([seed, zlib.crc32(stream.encode())])


def numpy_generator(seed: int, stream: str) -> np.random.Generator:
    """Return a NumPy generator for a named stream of ``seed``."""
    return np.random.default_rng(seed_sequence(seed, stream))


def torch_generator(seed: int, stream: str, *, device: str = "cpu") -> torch.Generator:
    """Return a torch generator for a named stream of ``seed``."""
    import torch

    state = int(seed_sequence(seed, stream).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device=device).manual_seed(state)


@contextmanager
def seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Let torch draw from a generator for a while, and leave no mark on its global one."""
    import torch

    if generator is None:
        yield
        return
    outer = torch.get_rng_state()
    torch.set_rng_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(torch.get_rng_state())
        torch.set_rng_state(outer)
