"""The public face of the corpora: list, load, verify."""

from typing import Literal, overload

from attnlab.corpora.parallel import ParallelCorpus, stand_in
from attnlab.corpora.pins import CorpusEntry, all_entries, corpus_entry
from attnlab.corpora.readers import PAIR_READERS, READERS
from attnlab.corpora.records import Corpus
from attnlab.corpora.store import entry_here, locate_all, read_verified

PairName = Literal[
    "multi30k/de-en",
    "multi30k/en-de",
    "multi30k/fr-en",
    "multi30k/en-fr",
    "iwslt2017/de-en",
    "iwslt2017/en-de",
    "iwslt2017/fr-en",
    "iwslt2017/en-fr",
    "ted_iwslt/de-en",
    "ted_iwslt/en-de",
    "ted_iwslt/fr-en",
    "ted_iwslt/en-fr",
]


def list_corpora(*, kind: str | None = None) -> list[str]:
    """Return the names that ``load_corpus`` takes.

    Args:
        kind: ``text`` for documents, ``pairs`` for sentences with translations; None for all.
    """
    return [name for name, entry in all_entries().items() if kind in (None, entry.kind)]


def describe_corpus(name: str) -> CorpusEntry:
    """Return what the manifest says of a corpus: licence, one line about it, pinned files."""
    return corpus_entry(name)


@overload
def load_corpus(name: PairName, *, keep_layout: bool | None = None) -> ParallelCorpus: ...
@overload
def load_corpus(name: str, *, keep_layout: bool | None = None) -> Corpus: ...
def load_corpus(name: str, *, keep_layout: bool | None = None) -> Corpus | ParallelCorpus:
    """Return a corpus, read from this machine and checked against its pinned checksums.

    Looks in the folders of ``$ATTNLAB_DATA``, then in the cache that
    ``attnlab data fetch`` fills. Never goes to the network.

    Args:
        name: One of ``list_corpora()``; with a pair of languages such as ``multi30k/de-en``
            the result is a ``ParallelCorpus``.
        keep_layout: Keep line ends and indents; otherwise each run of blanks and line
            ends is one blank. Default: collapsed for ``children``, where line ends are
            the printer's, kept for the others. Sentence pairs have no layout.

    Raises:
        UnknownNameError: No such corpus; the message suggests the nearest name.
        CorpusNotFoundError: Not on this machine; the message has the command to run.
        IntegrityError: A file is missing, cut short, or not the pinned one.
    """
    entry = corpus_entry(name)
    if entry.kind == "pairs":
        return _load_pairs(entry)
    reader, keeps_layout = READERS[name]
    return reader(entry, keep_layout=keeps_layout if keep_layout is None else keep_layout)


def verify_corpus(name: str) -> int:
    """Check every file of a corpus against its pinned checksum; return how many there are.

    Raises:
        CorpusNotFoundError, IntegrityError: As ``load_corpus``.
    """
    entry = entry_here(corpus_entry(name))
    if entry.folder is None:
        load_corpus(name)
        return 0
    places = locate_all(entry)
    for file in entry.files:
        read_verified(places[file.path], file, corpus=name)
    return len(entry.files)


def _load_pairs(wanted: CorpusEntry) -> ParallelCorpus:
    entry = entry_here(wanted)
    corpus = PAIR_READERS[entry.name.partition("/")[0]](entry)
    return corpus if entry is wanted else stand_in(corpus, wanted=wanted)
