"""Where files lie: what comes with the checkout, what is downloaded, and unfinished work."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def find_checkout(*, package: Path = PACKAGE) -> Path | None:
    """Return the root of the checkout: around the package, the shell, or just below the shell.

    The package lies in it, or is installed elsewhere and the shell stands in it, deeper in it,
    or in the folder that holds it. None if there is no checkout in any of these places.
    """
    here = Path.cwd()
    below = sorted(path.parents[1] for path in here.glob("*/data/runs"))
    for folder in (package.parent, here, *here.parents, *below):
        if (folder / "pyproject.toml").is_file() and (folder / "data" / "runs").is_dir():
            return folder
    return None


def cache_folder() -> Path:
    """Return where downloads and unfinished work go: ``data/cache``, or the user's own cache."""
    if ROOT is not None:
        return ROOT / "data" / "cache"
    import pooch

    return Path(pooch.os_cache("attnlab"))


ROOT = find_checkout()
_DATA = Path("data") if ROOT is None else ROOT / "data"  # without a checkout: below the shell
RUNS = _DATA / "runs"  # records, only ever appended to
MODELS = _DATA / "models"  # small trained weights
CHAINS = _DATA / "chains"  # named transition matrices
WORK = cache_folder() / "studies"  # checkpoints and other unfinished work


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file beside its place and rename it, so that no reader meets half of it.

    Folders are made. What goes wrong leaves an older file as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
