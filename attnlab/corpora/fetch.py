"""Fetch a whole corpus into a data folder, showing its licence first."""

import gzip
import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from attnlab.corpora.download import ALLOWED_ORIGINS, DownloadError, download
from attnlab.corpora.pins import CorpusEntry, PinnedFile, corpus_entry
from attnlab.corpora.store import cache_folder, locate, read_verified
from attnlab.corpora.unpack import path_inside, stored_bytes
from attnlab.errors import IntegrityError

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchProgress:
    """Where a download stands; the first one comes before anything is fetched."""

    corpus: str
    licence: str
    path: str  # the file at hand; empty at the start and at the end
    n_files_done: int
    n_files: int
    n_bytes_done: int  # of the original files
    n_bytes: int


OnProgress = Callable[[FetchProgress], None]


def fetch_corpus(
    name: str, *, to: str | os.PathLike | None = None, progress: OnProgress | None = None
) -> Path | None:
    """Download the files of a corpus that this machine lacks; return its folder.

    Every file is pinned by length and sha256 and verified before it is unpacked; a
    transfer that was cut short goes on where it stopped. Files that are there and verify
    are left alone. A corpus that needs no file returns None.

    Args:
        name: One of ``list_corpora()``.
        to: Data folder to fill; default the cache (``data/cache`` in a checkout). With
            the default, files that verify anywhere on the search path are not fetched.
        progress: Called with a ``FetchProgress``, first with the licence and nothing
            done; raise in it to decline. Without it, the licence is logged.

    Raises:
        DownloadError: Offline, or the source no longer has a file.
        IntegrityError: A file is not the pinned one.
    """
    entry = corpus_entry(name)
    if entry.folder is None:
        return None
    wanted = entry.files if to is not None else missing_files(entry)
    return fetch_files(entry, wanted, to=Path(to or cache_folder()), progress=progress)


def missing_files(entry: CorpusEntry) -> tuple[PinnedFile, ...]:
    """Return the files of a corpus that are nowhere on the search path, or do not verify."""
    return tuple(file for file in entry.files if not _verifies(locate(entry, file), file, entry))


def fetch_files(
    entry: CorpusEntry,
    files: Collection[PinnedFile],
    *,
    to: Path,
    progress: OnProgress | None = None,
    allowed_origins: Collection[str] = ALLOWED_ORIGINS,
) -> Path:
    """Download ``files`` of a corpus into the data folder ``to``; see ``fetch_corpus``."""
    folder = path_inside(to, entry.folder or "")
    places = {file.path: path_inside(folder, file.path) for file in files}
    files = [file for file in files if not _verifies(places[file.path], file, entry)]
    _require_addresses(entry, files)
    state = FetchProgress(
        corpus=entry.name,
        licence=entry.licence,
        path="",
        n_files_done=0,
        n_files=len(files),
        n_bytes_done=0,
        n_bytes=sum(file.size_bytes for file in files),
    )
    progress = progress or _log_licence
    progress(state)
    for file in files:
        _fetch_file(file, places[file.path], state, progress, allowed_origins)
        state = replace(
            state,
            n_files_done=state.n_files_done + 1,
            n_bytes_done=state.n_bytes_done + file.size_bytes,
        )
        progress(state)
    return folder


def _require_addresses(entry: CorpusEntry, files: Collection[PinnedFile]) -> None:
    without = [file.path for file in files if file.url == "-"]
    if without:
        raise DownloadError(
            f"Nobody offers {entry.folder}/{without[0]} for download, so {entry.name!r} cannot be "
            "fetched. Set ATTNLAB_DATA to a folder that holds it, or fetch another corpus: "
            "`attnlab data list`."
        )


def _fetch_file(
    file: PinnedFile,
    place: Path,
    state: FetchProgress,
    progress: OnProgress,
    allowed_origins: Collection[str],
) -> None:
    def on_bytes(n_bytes: int) -> None:
        done = state.n_bytes_done + n_bytes
        progress(replace(state, path=file.path, n_bytes_done=done))

    original = place.with_name(f"{place.name}.original")
    download(
        file.url,
        original,
        size_bytes=file.size_bytes,
        sha256=file.sha256_original,
        allowed_origins=allowed_origins,
        on_bytes=on_bytes,
    )
    data = stored_bytes(original.read_bytes(), file)
    packed = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    packed.write_bytes(gzip.compress(data, mtime=0))
    packed.replace(place)
    original.unlink()


def _verifies(place: Path | None, file: PinnedFile, entry: CorpusEntry) -> bool:
    if place is None or not place.is_file():
        return False
    try:
        read_verified(place, file, corpus=entry.name)
    except IntegrityError:
        return False
    return True


def _log_licence(state: FetchProgress) -> None:
    if not state.path and not state.n_files_done:  # the first of all
        LOGGER.warning("Licence of %s: %s", state.corpus, state.licence)
