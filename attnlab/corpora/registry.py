"""The public face of the corpora: list, load, verify."""

from attnlab.corpora.pins import CorpusEntry, all_entries, corpus_entry
from attnlab.corpora.readers import READERS
from attnlab.corpora.records import Corpus
from attnlab.corpora.store import locate_all, read_verified


def list_corpora() -> list[str]:
    """Return the names that ``load_corpus`` takes."""
    return list(all_entries())


def describe_corpus(name: str) -> CorpusEntry:
    """Return what the manifest says of a corpus: licence, one line about it, pinned files."""
    return corpus_entry(name)


def load_corpus(name: str, *, keep_layout: bool | None = None) -> Corpus:
    """Return a corpus, read from this machine and checked against its pinned checksums.

    Looks in the folders of ``$ATTNLAB_DATA``, then in the cache that
    ``attnlab data fetch`` fills. Never goes to the network.

    Args:
        name: One of ``list_corpora()``.
        keep_layout: Keep line ends and indents; otherwise each run of blanks and line
            ends is one blank. Default: collapsed for ``children``, where line ends are
            the printer's, kept for the others.

    Raises:
        UnknownNameError: No such corpus; the message suggests the nearest name.
        CorpusNotFoundError: Not on this machine; the message has the command to run.
        IntegrityError: A file is missing, cut short, or not the pinned one.
    """
    entry = corpus_entry(name)
    reader, keeps_layout = READERS[name]
    return reader(entry, keep_layout=keeps_layout if keep_layout is None else keep_layout)


def verify_corpus(name: str) -> int:
    """Check every file of a corpus against its pinned checksum; return how many there are.

    Raises:
        CorpusNotFoundError, IntegrityError: As ``load_corpus``.
    """
    entry = corpus_entry(name)
    if entry.folder is None:
        load_corpus(name)
        return 0
    places = locate_all(entry)
    for file in entry.files:
        read_verified(places[file.path], file, corpus=name)
    return len(entry.files)
