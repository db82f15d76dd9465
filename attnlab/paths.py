"""Where files lie: what comes with the checkout, what is downloaded, and unfinished work."""

from __future__ import annotations

import os
import platform
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attnlab.errors import AttnlabError, FileError

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

    Folders are made. What goes wrong leaves an older file as it was. Halves that processes of
    this machine left in the folder when they were killed are deleted.

    Raises:
        FileError: The place cannot be written; the message says why.
    """
    path = Path(path)
    with file_errors(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        delete_leftovers(path.parent)
        owner = f"{_host()}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
        partial = path.parent / f".{path.name[:32]}.{owner}.tmp"
        try:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def read_whole(path: Path) -> bytes:
    """Return the content of a file; a device, which may have no end, is none.

    Raises:
        FileError: It cannot be read; the message says why.
    """
    with file_errors(path, "read"):
        if Path(path).is_dir() or Path(path).is_file() or not Path(path).exists():
            return Path(path).read_bytes()
    raise FileError(f"{path} cannot be read: it is no file. Check the name.")


def require_folder(folder: Path) -> Path:
    """Make a folder and return it, if files can be written there; asked before long work.

    Raises:
        FileError: They cannot; the message says why.
    """
    folder = Path(folder)
    with file_errors(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    return folder


def delete_leftovers(folder: Path) -> None:
    """Delete unfinished files whose process has died; those of other machines are left alone."""
    for file in folder.glob(".*.tmp"):
        owner = re.search(r"\.([\w-]+)\.(\d+)-[0-9a-f]{8}\.tmp$", file.name)
        if owner and owner[1] == _host() and not _is_alive(int(owner[2])):
            with suppress(OSError):
                file.unlink()


def _host() -> str:
    return re.sub(r"[^\w-]", "-", platform.node(), flags=re.ASCII)[:32] or "-"


def _is_alive(process: int) -> bool:
    """Say whether a process may still be there; where one cannot ask, it may."""
    if os.name == "nt":  # there the question is a signal that ends the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


@contextmanager
def file_errors(path: Path, what: str) -> Iterator[None]:
    """Say in a sentence why a file cannot be ``read`` or ``written``, as a FileError."""
    try:
        yield
    except AttnlabError:
        raise
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path} cannot be {what}: byte {error.start} is not UTF-8. Save the file as UTF-8."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or str(error)
        step = "Check the name." if what == "read" else "Check the name, or take another folder."
        raise FileError(f"{path} cannot be {what}: {reason}. {step}") from error
