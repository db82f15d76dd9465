"""Find corpus files on this machine and read them, checked against the manifest."""

import gzip
import hashlib
import os
import zlib
from pathlib import Path

from attnlab.corpora.pins import CorpusEntry, PinnedFile, corpus_entry
from attnlab.errors import CorpusNotFoundError, IntegrityError
from attnlab.paths import cache_folder

ENVIRONMENT_VARIABLE = "ATTNLAB_DATA"


def data_folders() -> list[Path]:
    """Return the folders that are searched, in order: ``$ATTNLAB_DATA``, then the cache."""
    named = os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep)
    return [*(Path(folder).expanduser() for folder in named if folder), cache_folder()]


def locate(entry: CorpusEntry, file: PinnedFile) -> Path | None:
    """Return the first place that holds ``file``, or None."""
    places = (folder / (entry.folder or "") / file.path for folder in data_folders())
    return next((place for place in places if place.is_file()), None)


def entry_here(entry: CorpusEntry) -> CorpusEntry:
    """Return the entry itself, or the one that is read instead where only that one is here."""
    if entry.instead is None or any(locate(entry, file) for file in entry.files):
        return entry
    other = corpus_entry(entry.instead)
    return other if any(locate(other, file) for file in other.files) else entry


def locate_all(entry: CorpusEntry) -> dict[str, Path]:
    """Return the place of every file of a corpus by its path in the manifest.

    Raises:
        CorpusNotFoundError: No file of the corpus is anywhere.
        IntegrityError: Some are there and some are not.
    """
    places = {file.path: locate(entry, file) for file in entry.files}
    missing = [path for path, place in places.items() if place is None]
    if len(missing) == len(places):
        raise CorpusNotFoundError(_not_found(entry))
    if missing:
        raise IntegrityError(
            f"{len(missing)} of {len(places)} files of {entry.name!r} are missing, the first is "
            f"{entry.folder}/{missing[0]}; searched {_folder_list()}. "
            f"Run `attnlab data fetch {entry.name}`: it fetches only what is missing."
        )
    return {path: place for path, place in places.items() if place is not None}


def read_verified(path: Path, file: PinnedFile, *, corpus: str) -> bytes:
    """Return the unpacked bytes of a stored file if they are the promised ones."""
    try:
        with gzip.open(path) as packed:
            data = packed.read(file.n_bytes + 1)  # one more shows a file that is too long
    except (OSError, EOFError, zlib.error) as problem:
        raise IntegrityError(
            f"{path} cannot be unpacked ({problem}); expected {file.n_bytes:,} bytes of text. "
            f"{_mend(corpus)}"
        ) from problem
    if len(data) != file.n_bytes:
        got = f"more than {file.n_bytes:,}" if len(data) > file.n_bytes else f"{len(data):,}"
        raise IntegrityError(
            f"{path} holds {got} bytes of text, expected {file.n_bytes:,}. {_mend(corpus)}"
        )
    check_sha256(data, file.sha256_text, what=str(path), next_step=_mend(corpus))
    return data


def check_sha256(data: bytes, expected: str, *, what: str, next_step: str) -> None:
    """Raise an IntegrityError with both values unless ``data`` has the expected sha256."""
    got = hashlib.sha256(data).hexdigest()
    if got != expected:
        raise IntegrityError(f"{what} has sha256 {got}, expected {expected}. {next_step}")


def read_texts(entry: CorpusEntry) -> dict[str, str]:
    """Return the verified text of every file of a corpus by its path in the manifest."""
    places = locate_all(entry)
    return {
        file.path: read_verified(places[file.path], file, corpus=entry.name).decode("utf-8")
        for file in entry.files
    }


def _mend(corpus: str) -> str:
    return (
        "The file is damaged, cut short or edited. "
        f"Delete it and run `attnlab data fetch {corpus}`."
    )


def _folder_list() -> str:
    return ", ".join(str(folder) for folder in data_folders())


def _not_found(entry: CorpusEntry) -> str:
    shown = "\n".join(f"    {entry.folder}/{file.path}" for file in entry.files[:3])
    more = f"\n    ... {len(entry.files)} files in all" if len(entry.files) > 3 else ""
    step = f"Run `attnlab data fetch {entry.name}` ({entry.n_download_bytes / 1e6:.1f} MB), or set"
    if any(file.url == "-" for file in entry.files):
        step = "Nobody offers all of it for download: set"
    return (
        f"The corpus {entry.name!r} is not on this machine. Searched: {_folder_list()}.\n"
        f"Each folder was searched for this layout:\n{shown}{more}\n"
        f"{step} {ENVIRONMENT_VARIABLE} to a folder that holds it. "
        "load_corpus('python_reference') needs no file."
    )
