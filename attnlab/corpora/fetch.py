"""Corpus files: what each must be, byte for byte; where they lie; how a missing one is fetched.

The manifest is data, in ``manifest/*.tsv`` beside this file. ``corpora.tsv`` names the
corpora and the table of each, which has one row a file:

========================  ==================================================================
``path``                  where the file lies under the folder of the corpus, gzip-packed
``split``                 ``train``, ``validation``, ``test``; ``all`` where the reader cuts
``url``                   source, pinned to a commit or a checksum; several with blanks
                          between are tried in turn; ``-`` where nobody offers these bytes
``size_bytes``,           of the original bytes, checked before anything is unpacked
``sha256_original``
``encoding``, ``newline`` of the original text (after unpacking); ``-`` leaves bytes alone
``unpack``                ``-`` or ``gz``
``sha256_normalised``     after decoding, CRLF to LF, and encoding as UTF-8
``step``                  what is done then: ``-``, ``first_bytes:<n>``, ``strip_gutenberg``,
                          ``drop_tag_lines``, ``end_line``, ``tab_labels[:<table of lines>]``,
                          ``kept_lines:<table>``, ``without_lines:<table>``, ``first_items:<n>``
``n_bytes``,              of the unpacked file that is stored and read
``sha256_text``
``note``                  for people
========================  ==================================================================
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import logging
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from attnlab.errors import (
    CorpusNotFoundError,
    DownloadError,
    IntegrityError,
    UnknownNameError,
)
from attnlab.paths import cache_folder, write_whole

if TYPE_CHECKING:
    from attnlab.corpora.download import Downloads

LOGGER = logging.getLogger(__name__)

FOLDERS_VARIABLE = "ATTNLAB_DATA"  # folders that are searched first
MIRROR_VARIABLE = "ATTNLAB_MIRROR"  # addresses of data folders on other machines, asked first
PICTURE_MARKS = re.compile(r"\[(?:Illustration|Picture)[^\]]*\]|\{[^{}]*\.jpg\}", re.IGNORECASE)

OnBytes = Callable[[int], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedFile:
    """One upstream file: where it is, what it must be, what is made of it."""

    path: str
    split: str
    url: str
    size_bytes: int
    sha256_original: str
    encoding: str
    newline: str
    unpack: str
    sha256_normalised: str
    step: str
    n_bytes: int
    sha256_text: str
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusEntry:
    """One line of ``corpora.tsv`` with the files that belong to it."""

    name: str
    folder: str | None  # under a data folder; None for a corpus that needs no file
    licence: str
    about: str
    files: tuple[PinnedFile, ...]
    kind: str = "text"  # or pairs, labels, images
    instead: str | None = None  # the corpus that is read where this one is not here

    @property
    def n_download_bytes(self) -> int:
        """Size of the original files together."""
        return sum(file.size_bytes for file in self.files)


def list_corpora(*, kind: str | None = None) -> list[str]:
    """Return the names that ``load_corpus`` takes.

    Args:
        kind: ``text`` for documents, ``pairs`` for sentences with translations, ``labels`` for
            texts and ``images`` for images with a class; None for all.
    """
    return [name for name, entry in all_entries().items() if kind in (None, entry.kind)]


def describe_corpus(name: str) -> CorpusEntry:
    """Return what the manifest says of a corpus: licence, one line about it, pinned files."""
    entries = all_entries()
    if name not in entries:
        raise UnknownNameError(
            "corpus", name, entries, next_step="`attnlab data list` shows where each one stands."
        )
    return entries[name]


@cache
def all_entries() -> dict[str, CorpusEntry]:
    """Return every corpus of the manifest by name, in the order of the file."""
    entries = {}
    for row in read_table("corpora"):
        given = {key: None if value == "-" else value for key, value in row.items()}
        files = read_table(row["files"]) if given["files"] else []
        pinned = [
            PinnedFile(**{**file, **{key: int(file[key]) for key in ("size_bytes", "n_bytes")}})
            for file in files
        ]
        entries[row["name"]] = CorpusEntry(**{**given, "files": tuple(pinned)})
    return entries


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of ``manifest/<name>.tsv``; lines that start with ``#`` are comments."""
    path = resources.files("attnlab.corpora") / "manifest" / f"{name}.tsv"
    lines = [line for line in path.read_text("utf-8").split("\n") if line and line[0] != "#"]
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def data_folders() -> list[Path]:
    """Return the folders that are searched, in order: ``$ATTNLAB_DATA``, then the cache."""
    named = os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)
    return [*(Path(folder).expanduser() for folder in named if folder), cache_folder()]


def locate(entry: CorpusEntry, file: PinnedFile) -> Path | None:
    """Return the first place that holds ``file``, or None."""
    places = (folder / (entry.folder or "") / file.path for folder in data_folders())
    return next((place for place in places if place.is_file()), None)


def entry_here(entry: CorpusEntry) -> CorpusEntry:
    """Return the entry itself, or the one that is read instead where only that one is here."""
    if entry.instead is None or any(locate(entry, file) for file in entry.files):
        return entry
    other = describe_corpus(entry.instead)
    return other if any(locate(other, file) for file in other.files) else entry


def read_files(entry: CorpusEntry) -> dict[str, bytes]:
    """Return the verified content of every file of a corpus by its path in the manifest.

    Raises:
        CorpusNotFoundError: No file of the corpus is anywhere.
        IntegrityError: Some are there and some are not, or one is not the pinned one.
    """
    places = {file.path: locate(entry, file) for file in entry.files}
    missing = [path for path, place in places.items() if place is None]
    if missing and len(missing) == len(places):
        raise CorpusNotFoundError(_not_found(entry))
    if missing:
        raise IntegrityError(
            f"{len(missing)} of {len(places)} files of {entry.name!r} are missing, the first is "
            f"{entry.folder}/{missing[0]}; searched {', '.join(map(str, data_folders()))}. "
            f"Run `attnlab data fetch {entry.name}`: it fetches only what is missing."
        )
    return {f.path: read_verified(Path(places[f.path] or ""), f, entry) for f in entry.files}


def read_verified(path: Path | io.BytesIO, file: PinnedFile, entry: CorpusEntry) -> bytes:
    """Return the unpacked bytes of a stored file if they are the promised ones."""
    mend = (
        "The file is damaged, cut short or edited. "
        f"Delete it and run `attnlab data fetch {entry.name}`."
    )
    try:
        with gzip.open(path) as packed:
            data = packed.read(file.n_bytes + 1)  # one more shows a file that is too long
    except (OSError, EOFError, zlib.error) as problem:
        raise IntegrityError(
            f"{path} cannot be unpacked ({problem}); expected {file.n_bytes:,} bytes of text. "
            f"{mend}"
        ) from problem
    if len(data) != file.n_bytes:
        got = f"more than {file.n_bytes:,}" if len(data) > file.n_bytes else f"{len(data):,}"
        raise IntegrityError(f"{path} holds {got} bytes of text, expected {file.n_bytes:,}. {mend}")
    _check_sha256(data, file.sha256_text, what=str(path), next_step=mend)
    return data


def fetch_corpus(
    name: str, *, to: str | os.PathLike | None = None, on_bytes: OnBytes | None = None
) -> Path | None:
    """Download the files of a corpus that this machine lacks; return its folder.

    Every file is pinned by length and sha256 and verified before it is unpacked; one that is
    not the pinned one is thrown away. Files that are there and verify are left alone. A busy
    address is asked again, then the next one; ``$ATTNLAB_MIRROR``, the address at which another
    machine serves its data folder, comes first (several with blanks between). Of two processes
    that fetch one corpus into one folder, the second waits. A corpus that needs no file returns
    None.

    Args:
        name: One of ``list_corpora()``.
        to: Data folder to fill; default the cache (``data/cache`` in a checkout). With
            the default, files that verify anywhere on the search path are not fetched.
        on_bytes: Called with the number of original bytes that are here, out of
            ``describe_corpus(name).n_download_bytes``; without it, the licence is logged.

    Raises:
        DownloadError: Offline, no address has the pinned file, or it cannot be stored.
        IntegrityError: The pinned file does not give the pinned text.
    """
    entry = describe_corpus(name)
    if entry.folder is None:
        return None
    if on_bytes is None:
        LOGGER.warning("Licence of %s: %s", name, entry.licence)
    return fetch_files(entry, None if to is None else Path(to), on_bytes or (lambda _: None))


def fetch_files(entry: CorpusEntry, to: Path | None, on_bytes: OnBytes) -> Path:
    """Download what is missing of a corpus into the data folder ``to``; see ``fetch_corpus``."""
    from filelock import FileLock

    from attnlab.corpora.download import Downloads

    folder = (to or cache_folder()) / (entry.folder or "")
    downloads, done = Downloads(), 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # a second process waits, then finds the files
            for file in entry.files:
                place = locate(entry, file) if to is None else folder / file.path
                if place is None or _verified(place, file, entry) is None:
                    count = lambda n_bytes, start=done: on_bytes(start + n_bytes)  # noqa: E731
                    data = _fetch(file, entry, downloads, count)
                    write_whole(folder / file.path, gzip.compress(data, mtime=0))
                done += file.size_bytes
                on_bytes(done)
    except OSError as error:
        raise DownloadError(
            f"{entry.name!r} cannot be stored in {folder} ({error.strerror or error}). Give a "
            "folder that this user may write to, and that has room: --to FOLDER."
        ) from error
    return folder


def _fetch(file: PinnedFile, entry: CorpusEntry, downloads: Downloads, on_bytes: OnBytes) -> bytes:
    """Return the text of a file from the first address that has it."""
    folders = os.environ.get(MIRROR_VARIABLE, "").split()
    mirrors = [f"{folder.rstrip('/')}/{entry.folder}/{file.path}" for folder in folders]
    urls, problems = [] if file.url == "-" else file.url.split(), []

    def original(body: bytes) -> bytes | None:
        return body if hashlib.sha256(body).hexdigest() == file.sha256_original else None

    def packed(body: bytes) -> bytes | None:
        try:
            return read_verified(io.BytesIO(body), file, entry)
        except IntegrityError:
            return None

    for url in sorted([*mirrors, *urls], key=downloads.has_failed):
        try:
            if url in mirrors:  # serves what is stored; nothing packed is this large
                return downloads.get(url, packed, limit=2 * file.n_bytes + 1024)
            got = downloads.get(url, original, limit=file.size_bytes, on_bytes=on_bytes)
            return stored_bytes(got, file)
        except DownloadError as problem:
            problems.append(str(problem))
    if not problems:
        problems = [f"Nobody offers {entry.folder}/{file.path} for download."]
    raise DownloadError(
        f"{' '.join(problems)} {entry.name!r} was not fetched. Set {FOLDERS_VARIABLE} to a folder "
        f"that holds it, or {MIRROR_VARIABLE} to the address of one; or try again later."
    )


def stored_bytes(original: bytes, file: PinnedFile) -> bytes:
    """Return what is stored of a file: unpacked, normalised and cut, each result verified."""
    broken = "The manifest and this version of attnlab disagree. Install attnlab again."
    text = gzip.decompress(original) if file.unpack == "gz" else original
    if file.encoding != "-":
        text = text.decode(file.encoding).replace("\r\n", "\n").encode()
    _check_sha256(text, file.sha256_normalised, what=f"{file.path}, normalised,", next_step=broken)
    name, _, argument = file.step.partition(":")
    if name == "first_bytes":
        text = text[: int(argument)]
    elif name == "strip_gutenberg":
        text = strip_gutenberg(text.decode(), keep=argument).encode()
    elif name == "drop_tag_lines":  # data about a talk stands in lines of tags
        text = b"\n".join(line for line in text.split(b"\n") if line[:1] != b"<")
    elif name == "end_line":
        text += b"\n"
    elif name == "tab_labels":  # a label, a blank, a text
        text = tab_labels(text, kept=argument)
    elif name == "kept_lines":
        text = _joined(kept_lines(_lines_of(text), table=argument))
    elif name == "without_lines":
        left_out = {row["sha256"] for row in read_table(argument)}
        text = _joined([line for line in _lines_of(text) if _pin(line)[:8] not in left_out])
    elif name == "first_items":  # of an IDX file, whose bytes 4 to 7 say how many there are
        n_items, n = int.from_bytes(text[4:8], "big"), int(argument)
        n_header = 4 * (1 + text[3])  # byte 3: the number of axes
        end = n_header + (len(text) - n_header) // max(1, n_items) * n
        text = text[:4] + n.to_bytes(4, "big") + text[8:end]
    elif name != "-":
        raise IntegrityError(f"{file.step!r} is no step after unpacking. {broken}")
    _check_sha256(text, file.sha256_text, what=f"{file.path}, made,", next_step=broken)
    return text


def tab_labels(text: bytes, *, kept: str = "") -> bytes:
    """Return lines with a tab in the place of the first blank.

    Args:
        kept: Table of the lines that are kept, see ``kept_lines``; empty for all.
    """
    lines = [line.replace(b" ", b"\t", 1) for line in _lines_of(text)]
    return _joined(kept_lines(lines, table=kept) if kept else lines)


def kept_lines(lines: list[bytes], *, table: str) -> list[bytes]:
    """Return the lines of which a table has the beginning of the sha256, in its order."""
    wanted = iter([row["sha256"] for row in read_table(table)])
    pin, found = next(wanted, None), []
    for line in lines:
        if pin and _pin(line).startswith(pin):
            found.append(line)
            pin = next(wanted, None)
    return found


def _lines_of(text: bytes) -> list[bytes]:
    return text.removesuffix(b"\n").split(b"\n")


def _joined(lines: list[bytes]) -> bytes:
    return b"\n".join(lines) + b"\n"


def _pin(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def strip_gutenberg(text: str, *, keep: str) -> str:
    """Return the book without licence, credits, transcriber's notes and picture marks.

    Which lines are the book is recorded for each file rather than guessed, because
    credits and notes have no common form. The rest are rules: marks of pictures go,
    no-break spaces become blanks, trailing blanks are cut, and at most two empty lines
    stand in a row.

    Args:
        text: The whole file, line ends as LF.
        keep: Ranges of lines, counted from 1, both ends included: ``"37-3401"`` or
            ``"36-55,58-9012"``.
    """
    lines, kept = text.split("\n"), []
    for part in keep.split(","):
        first, _, last = part.partition("-")
        kept += lines[int(first) - 1 : int(last)]
    unmarked = PICTURE_MARKS.sub("", "\n".join(kept).replace("\N{NO-BREAK SPACE}", " "))
    trimmed = "\n".join(line.rstrip() for line in unmarked.split("\n"))
    return re.sub(r"\n{4,}", "\n\n\n", trimmed.strip() + "\n")


def _verified(place: Path, file: PinnedFile, entry: CorpusEntry) -> bytes | None:
    try:
        return read_verified(place, file, entry)
    except IntegrityError:
        return None


def _check_sha256(data: bytes, expected: str, *, what: str, next_step: str) -> None:
    got = hashlib.sha256(data).hexdigest()
    if got != expected:
        raise IntegrityError(f"{what} has sha256 {got}, expected {expected}. {next_step}")


def _not_found(entry: CorpusEntry) -> str:
    shown = "\n".join(f"    {entry.folder}/{file.path}" for file in entry.files[:3])
    more = f"\n    ... {len(entry.files)} files in all" if len(entry.files) > 3 else ""
    step = f"Run `attnlab data fetch {entry.name}` ({entry.n_download_bytes / 1e6:.1f} MB), or set"
    if any(file.url == "-" for file in entry.files):
        step = "Nobody offers all of it for download: set"
    return (
        f"The corpus {entry.name!r} is not on this machine. "
        f"Searched: {', '.join(map(str, data_folders()))}.\n"
        f"Each folder was searched for this layout:\n{shown}{more}\n"
        f"{step} {FOLDERS_VARIABLE} to a folder that holds it. "
        "load_corpus('python_reference') needs no file."
    )
