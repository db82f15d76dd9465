"""What a corpus is: documents in three disjoint splits, with the licence they came under."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from attnlab.errors import UnknownNameError

SPLITS = ("train", "validation", "test")

_LAYOUT = re.compile(r"[ \t\n]+")


@dataclass(frozen=True, slots=True)
class Document:
    """One book, topic, or file: the unit by which held-out loss is reported.

    Args:
        name: Short and unique within the corpus, for example a Gutenberg number.
        text: What a tokenizer reads.
        title: For a table or a legend; empty where there is none.
        author: Empty where there is none.
    """

    name: str
    text: str
    title: str = ""
    author: str = ""

    @property
    def n_bytes(self) -> int:
        """Length of the text in UTF-8, the denominator of bits per byte."""
        return len(self.text.encode())


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Three disjoint tuples of documents.

    Args:
        name: The name that ``load_corpus`` takes.
        licence: One line; shown before a download.
        notes: What a reader of a result should know about the text or its split.
    """

    name: str
    licence: str
    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]
    notes: str = ""
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        """Fingerprint every name and text, so that a result can say what it was measured on."""
        object.__setattr__(self, "fingerprint", _fingerprint(self))

    def split(self, name: str) -> tuple[Document, ...]:
        """Return the documents of ``train``, ``validation`` or ``test``."""
        if name not in SPLITS:
            raise UnknownNameError("split", name, SPLITS, next_step="Use one of these three.")
        return getattr(self, name)

    def __iter__(self) -> Iterator[Document]:
        """Go through all documents: train, then validation, then test."""
        yield from (*self.train, *self.validation, *self.test)

    def __repr__(self) -> str:
        """Sizes instead of millions of characters."""
        counts = ", ".join(f"{split} {len(self.split(split))}" for split in SPLITS)
        return f"Corpus({self.name!r}, documents: {counts}, fingerprint {self.fingerprint})"


def collapse_layout(text: str) -> str:
    """Return ``text`` with each run of blanks, tabs and line ends turned into one blank.

    >>> collapse_layout("Once upon\\n  a time,\\n\\nthere was")
    'Once upon a time, there was'
    """
    return _LAYOUT.sub(" ", text).strip(" ")


def _fingerprint(corpus: Corpus) -> str:
    digest = hashlib.sha256()
    for split in SPLITS:
        for document in corpus.split(split):
            for part in (split, document.name, document.text):
                data = part.encode()
                digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:12]
