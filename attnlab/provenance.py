"""Where a number came from: the commit, the machine and the command behind a record."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

PACKAGE_FOLDER = Path(__file__).resolve().parent


@cache
def commit() -> str:
    """Return the commit of the attnlab in use, with ``-dirty`` if its code was changed since.

    ``unknown`` outside a git checkout of attnlab, or where git is not installed.
    """
    try:
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != PACKAGE_FOLDER.parent:
            return "unknown"  # installed inside some other project's checkout
        name = _git("describe", "--always", "--abbrev=12", "--exclude=*")
        code = ("attnlab", "pyproject.toml")  # a study appends to data/runs while it goes on
        changed = _git(
            "status", "--porcelain", "--", *(str(PACKAGE_FOLDER.parent / c) for c in code)
        )
        return f"{name}-dirty" if changed else name
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def environment(*, device: str = "cpu") -> dict[str, str]:
    """Return the versions, the device and the thread count that the numbers depend on.

    Args:
        device: Where it was computed, ``cpu`` or ``cuda``; not where it could have been.
    """
    import torch

    cuda = device.startswith("cuda")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "os": platform.platform(terse=True),
        "device": torch.cuda.get_device_name() if cuda else _processor(),
        "threads": str(torch.get_num_threads()),
    }


def command() -> str:
    """Return the command line of this process as it could be typed again, without folders."""
    program, *arguments = sys.orig_argv
    return shlex.join([Path(program).stem, *(_shorten(argument) for argument in arguments)])


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=PACKAGE_FOLDER,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "cpu"


def _shorten(argument: str) -> str:
    """Make paths in the checkout relative, and others a bare name: records are public."""
    if not os.path.isabs(argument):
        return argument
    path = Path(argument)
    root = PACKAGE_FOLDER.parent
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
