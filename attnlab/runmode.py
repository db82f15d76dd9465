"""How big to think: ``fast`` fits a lesson, ``full`` is the size behind the stated results."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Literal

from attnlab import __version__
from attnlab.errors import UnknownNameError

RunMode = Literal["fast", "full"]
VARIABLE = "ATTNLAB_MODE"
OTHER = {  # how to come to the other mode
    "fast": f"set {VARIABLE}=full before starting for the full sizes",
    "full": f"unset {VARIABLE} for sizes that fit a lesson",
}


def is_fast() -> bool:
    """Say whether this is a ``fast`` run, which reads anything large from records.

    The mode is the value of ``ATTNLAB_MODE``; ``fast`` where it is not set.

    Raises:
        UnknownNameError: ``ATTNLAB_MODE`` is neither ``fast`` nor ``full``.
    """
    return _mode() == "fast"


def _mode() -> str:
    wanted = os.environ.get(VARIABLE, "").strip() or "fast"
    if wanted not in OTHER:
        step = f"It comes from the environment variable {VARIABLE}; unset it for fast."
        raise UnknownNameError("run mode", wanted, OTHER, next_step=step)
    return wanted


def banner(*, minutes: int, seed: int = 0) -> None:
    """Show what every number below depends on: mode, device, versions, seed.

    Args:
        minutes: How long a reader needs for this notebook.
        seed: The integer from which all streams of chance of the notebook are derived.
    """
    import torch

    device = torch.empty(0).device  # where the notebook's tensors lie, whatever else there is
    packages = f"torch {version('torch')}, numpy {version('numpy')}, attnlab {__version__}"
    print(  # noqa: T201 - a notebook's first output
        f"About {minutes} minutes. Mode: {_mode()} ({OTHER[_mode()]}).\n"
        f"Device: {device}. Seed: {seed}. Python {platform.python_version()}, {packages}."
    )
