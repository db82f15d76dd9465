"""Read the pinned manifest: which corpora there are, and every upstream file byte for byte.

The manifest is data, in ``manifest/*.tsv`` beside this file. ``corpora.tsv`` names the
corpora and the table of each, which has one row a file:

========================  ==================================================================
``path``                  where the file lies under the folder of the corpus, gzip-packed
``split``                 ``train``, ``validation``, ``test``; ``all`` where the reader cuts
``url``                   source, pinned to a commit; ``-`` where nobody offers these bytes
``size_bytes``,           of the original bytes, checked before anything is unpacked
``sha256_original``
``encoding``, ``newline`` of the original text (after unpacking); ``-`` leaves bytes alone
``unpack``                ``-``, ``gz`` or ``zip:<member>``
``sha256_normalised``     after decoding, CRLF to LF, and encoding as UTF-8
``step``                  what is done then: ``-``, ``first_bytes:<n>``, ``strip_gutenberg``,
                          ``drop_tag_lines``, ``end_line``
``n_bytes``,              of the unpacked file that is stored and read
``sha256_text``
``note``                  for people
========================  ==================================================================
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from attnlab.errors import UnknownNameError


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
    kind: str = "text"  # or pairs
    instead: str | None = None  # the corpus that is read where this one is not here

    @property
    def n_download_bytes(self) -> int:
        """Size of the original files together."""
        return sum(file.size_bytes for file in self.files)


def corpus_entry(name: str) -> CorpusEntry:
    """Return the manifest entry of a corpus; an unknown name suggests the nearest."""
    entries = all_entries()
    if name not in entries:
        raise UnknownNameError(
            "corpus", name, entries, next_step="`attnlab data list` shows where each one stands."
        )
    return entries[name]


@cache
def all_entries() -> dict[str, CorpusEntry]:
    """Return every corpus of the manifest by name, in the order of the file."""
    return {row["name"]: _entry(row) for row in read_table("corpora")}


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of ``manifest/<name>.tsv``; lines that start with ``#`` are comments."""
    path = resources.files("attnlab.corpora") / "manifest" / f"{name}.tsv"
    lines = [line for line in path.read_text("utf-8").split("\n") if line and line[0] != "#"]
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def _entry(row: dict[str, str]) -> CorpusEntry:
    given = {key: None if value == "-" else value for key, value in row.items()}
    files = read_table(row["files"]) if given["files"] else []
    return CorpusEntry(**{**given, "files": tuple(map(_pinned_file, files))})


def _pinned_file(row: dict[str, str]) -> PinnedFile:
    numbers = {key: int(row[key]) for key in ("size_bytes", "n_bytes")}
    return PinnedFile(**{**row, **numbers})
