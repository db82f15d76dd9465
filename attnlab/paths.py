"""Where files lie: what comes with attnlab, what a user computes or downloads, unfinished work."""

from __future__ import annotations

import os
import platform
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

from attnlab.errors import AttnlabError, FileError

PACKAGE = Path(__file__).resolve().parent
VARIABLE = "ATTNLAB_HOME"  # a folder for everything that is written


def find_checkout(*, package: Path = PACKAGE) -> Path | None:
    """Return the root of the checkout: around the package, the shell, or just below the shell.

    The package lies in it, or is installed elsewhere and the shell stands in it, deeper in it,
    or in the folder that holds it. None if there is no checkout in any of these places.
    """
    try:
        here = Path.cwd()
        nearby = [
            here,
            *here.parents,
            *sorted(path.parents[1] for path in here.glob("*/data/runs")),
        ]
    except OSError:  # the folder of the shell was removed or may not be read
        nearby = []
    for folder in (package.parent, *nearby):
        marks = ("pyproject.toml", "data/runs", "attnlab/paths.py")
        if all(os.path.exists(folder / mark) for mark in marks):
            return folder
    return None


def can_write(folder: Path) -> bool:
    """Say whether files can be put into a folder, which may have to be made first."""
    while not os.path.exists(folder):
        folder = folder.parent
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _own(kind: str) -> Path:
    """Return the folder for ``runs`` or ``cache``: named, in the checkout, the user's, temporary.

    Raises:
        AttnlabError: ``ATTNLAB_HOME`` names a place where nothing can be written.
    """
    if named := os.environ.get(VARIABLE, "").strip():
        folder = Path(named).expanduser().absolute() / kind
        if not can_write(folder):
            raise AttnlabError(
                f"{VARIABLE} is {named!r}, where nothing can be written. Set it to a folder of "
                "yours, or unset it."
            )
        return folder
    usual = user_data_path("attnlab") / kind if kind == "runs" else user_cache_path("attnlab")
    for folder in (usual,) if ROOT is None else (ROOT / "data" / kind, usual):
        if folder.is_absolute() and can_write(folder):
            return folder
    return _temporary() / kind


def _temporary() -> Path:
    return Path(tempfile.gettempdir()) / f"attnlab-{getattr(os, 'getuid', lambda: 'user')()}"


def cache_folder() -> Path:
    """Return where downloads and unfinished work go: ``data/cache``, or the user's own cache."""
    return _own("cache")


def where_written() -> str:
    """Return a sentence on where records and downloads go; nothing in a checkout of one's own."""
    if OWN_RUNS == RUNS:
        return ""
    why = "This checkout cannot be written" if ROOT else "There is no checkout of attnlab here"
    if os.environ.get(VARIABLE, "").strip():
        why = f"{VARIABLE} is set"
    sentence = (
        f"{why}: records go to {OWN_RUNS}, downloads and unfinished work to {cache_folder()}."
    )
    if OWN_RUNS.is_relative_to(_temporary()):
        return f"{sentence} That is temporary; to keep them set {VARIABLE} to a folder of yours."
    return sentence


ROOT = find_checkout()
DATA = PACKAGE / "data" if ROOT is None else ROOT / "data"  # a wheel carries it inside
RUNS = DATA / "runs"  # the records that came with attnlab
OWN_RUNS = _own("runs")  # records, only ever appended to; in a checkout the same folder
MODELS = DATA / "models"  # small trained weights
CHAINS = DATA / "chains"  # named transition matrices
WORK = cache_folder() / "studies"  # checkpoints and other unfinished work


def record_places(path: Path) -> list[Path]:
    """Return a file or folder of records, with its twin where one's own lie apart."""
    for folder in (RUNS, OWN_RUNS):
        if path.is_relative_to(folder):
            both = dict.fromkeys(each / path.relative_to(folder) for each in (RUNS, OWN_RUNS))
            return [each for each in both if each.exists()] or [path]
    return [path]


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
