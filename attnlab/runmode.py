"""How big to think: ``fast`` fits a lesson, ``full`` is the size behind the stated results."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from attnlab.errors import UnknownNameError

RunMode = Literal["fast", "full"]
RUN_MODES: tuple[RunMode, ...] = ("fast", "full")
VARIABLE = "ATTNLAB_MODE"


def run_mode() -> RunMode:
    """Return the run mode: the value of ``ATTNLAB_MODE``, or ``fast`` if it is not set.

    Raises:
        UnknownNameError: ``ATTNLAB_MODE`` is neither ``fast`` nor ``full``.
    """
    wanted = os.environ.get(VARIABLE, "").strip() or "fast"
    for mode in RUN_MODES:
        if wanted == mode:
            return mode
    raise UnknownNameError(
        "run mode",
        wanted,
        RUN_MODES,
        next_step=f"It comes from the environment variable {VARIABLE}; unset it for fast.",
    )


def is_fast() -> bool:
    """Say whether this is a ``fast`` run, which reads anything large from records."""
    return run_mode() == "fast"


def banner(*, minutes: int, seed: int = 0) -> None:
    """Show what every number below depends on: mode, device, versions, seed.

    Args:
        minutes: How long a reader needs for this notebook.
        seed: The integer from which all streams of chance of the notebook are derived.
    """
    print(describe_run(minutes=minutes, seed=seed))  # noqa: T201 - a notebook's first output


def describe_run(*, minutes: int, seed: int = 0) -> str:
    """Return the lines of the banner.

    Args:
        minutes: How long a reader needs for this notebook.
        seed: The integer from which all streams of chance of the notebook are derived.
    """
    other = {
        "fast": f"set {VARIABLE}=full before starting for the full sizes",
        "full": f"unset {VARIABLE} for sizes that fit a lesson",
    }
    mode = run_mode()
    packages = ", ".join(f"{name} {_version(name)}" for name in ("torch", "numpy", "attnlab"))
    return (
        f"About {minutes} minutes. Mode: {mode} ({other[mode]}).\n"
        f"Device: {device_name()}. Seed: {seed}. Python {platform.python_version()}, {packages}."
    )


def device_name() -> str:
    """Return ``cpu``, or the name of the graphics card that torch would use."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
