"""Corpora from verified files: documents, pairs, or what has a class; three splits each."""

from __future__ import annotations

import hashlib
import html
import importlib
import io
import platform
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from attnlab.corpora.fetch import CorpusEntry, describe_corpus, entry_here, read_files, read_table
from attnlab.corpora.labelled import CLASSES, read_images, read_labels
from attnlab.corpora.pairs import PAIR_READERS, SIDES, SentencePair
from attnlab.errors import CorpusNotFoundError, IntegrityError, UnknownNameError

SPLITS = ("train", "validation", "test")
FOLDED = ("children",)  # where line ends are the printer's, and no part of the text
HELD_OUT_SHARE = 0.05  # of the characters where a reader cuts, for validation and for test
SHORTEST_PASSAGE = 40  # characters; shorter paragraphs are headings and may repeat
LEFT_IN_CHILDREN = (
    "The text is that of every recorded run, so printers' marks stay in it: page and note numbers "
    "such as {251} in 4 books and [1] in 6, and a transcriber's note at the end of book 47."
)
NO_TRANSLATION = ("", "@@")  # a line of Multi30k that holds no more than this was never translated
TEST_YEARS = tuple(f"tst{year}" for year in range(2010, 2016))
MOSES_ENTITIES = {  # what the tokenizer of the Moses toolkit writes; the ampersand comes last
    "&apos;": "'",
    "&quot;": '"',
    "&#91;": "[",
    "&#93;": "]",
    "&lt;": "<",
    "&gt;": ">",
    "&#124;": "|",
    "&amp;": "&",
}
ARCHIVE_NOTES = (
    "Validation is dev2010, test is tst2010 to tst2015, as in the Hugging Face data set; "
    "original case, not tokenised."
)
PARALLEL_NOTES = {  # by the folder in which the files of a corpus lie
    "": "Validation is the task's own, test is test_2016_flickr; original case, not tokenised.",
    "de-en": (
        "IWSLT14 talks, lower-cased and tokenised; validation is every 23rd pair of the training "
        "talks, test is dev2010, tst2010 to tst2012 and TEDX.dev2012, as fairseq splits them."
    ),
    "fr-en": (
        "The first talks of the IWSLT17 training file; validation is dev2010, test is tst2014; "
        "original case, not tokenised."
    ),
}


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

    @property
    def parts(self) -> tuple[bytes, ...]:
        """What a fingerprint is taken of."""
        return self.name.encode(), self.text.encode()


@dataclass(frozen=True, kw_only=True, repr=False)
class Corpus:
    """Three disjoint tuples of documents, each with ``parts``, bytes that say what it is.

    Args:
        name: The name that ``load_corpus`` takes.
        licence: One line; shown before a download.
        notes: What a reader of a result should know about the text or its split.
    """

    what: ClassVar[str] = "documents"
    name: str
    licence: str
    train: tuple[Any, ...]
    validation: tuple[Any, ...]
    test: tuple[Any, ...]
    notes: str = ""
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        """Fingerprint every name and text, so that a result can say what it was measured on."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for item in self.split(split):
                for data in (split.encode(), *item.parts):
                    digest.update(len(data).to_bytes(8, "big") + data)
        object.__setattr__(self, "fingerprint", digest.hexdigest()[:12])

    def split(self, name: str) -> tuple[Any, ...]:
        """Return what ``train``, ``validation`` or ``test`` holds."""
        if name not in SPLITS:
            raise UnknownNameError("split", name, SPLITS, next_step="Use one of these three.")
        return getattr(self, name)

    def __iter__(self) -> Iterator[Any]:
        """Go through all of it: train, then validation, then test."""
        yield from (*self.train, *self.validation, *self.test)

    def __repr__(self) -> str:
        """Sizes instead of millions of characters."""
        what = self.what
        counts = ", ".join(f"{split} {len(self.split(split))}" for split in SPLITS)
        kind = type(self).__name__
        return f"{kind}({self.name!r}, {what}: {counts}, fingerprint {self.fingerprint})"


@dataclass(frozen=True, kw_only=True, repr=False)
class ParallelCorpus(Corpus):
    """Three disjoint tuples of sentence pairs.

    Args:
        source_language: Two letters, for example ``de``; or what a source is: ``command``.
        target_language: The same of the targets.
    """

    what = "pairs"
    source_language: str
    target_language: str


@dataclass(frozen=True, kw_only=True, repr=False)
class LabelledCorpus(Corpus):
    """Three disjoint tuples of texts or images, each with the number of its class.

    Args:
        classes: Names of the classes, in the order of the labels.
    """

    what = "items"
    classes: tuple[str, ...]


Splits = dict[str, list[Any]]  # of documents, sentence pairs, or labelled items


def load_corpus(name: str, *, keep_layout: bool | None = None) -> Corpus:
    """Return a corpus, read from this machine and checked against its pinned checksums.

    Looks in the folders of ``$ATTNLAB_DATA``, then in the cache that
    ``attnlab data fetch`` fills. Never goes to the network.

    Args:
        name: One of ``list_corpora()``; with a pair of languages such as ``multi30k/de-en``
            the result is a ``ParallelCorpus``, and a ``LabelledCorpus`` where each text or
            image has a class.
        keep_layout: Keep line ends and indents; otherwise each run of blanks and line
            ends is one blank. Default: collapsed for ``children``, where line ends are
            the printer's, kept for the others. Sentence pairs have no layout.

    Raises:
        UnknownNameError: No such corpus; the message suggests the nearest name.
        CorpusNotFoundError: Not on this machine; the message has the command to run.
        IntegrityError: A file is missing, cut short, or not the pinned one.
    """
    wanted = describe_corpus(name)
    entry = entry_here(wanted)
    splits, notes = READERS[entry.name.partition("/")[0]](entry)
    if entry is not wanted:
        notes = (
            f"{name} itself is not here; this is {entry.name}, real text of the same kind "
            f"but less of it: {len(splits['train']):,} training pairs. Results are not those of "
            f"the full set. {notes}"
        )
    if entry.kind == "text" and not (name not in FOLDED if keep_layout is None else keep_layout):
        splits = {
            split: [
                replace(document, text=collapse_layout(document.text)) for document in documents
            ]
            for split, documents in splits.items()
        }
    about: dict[str, Any] = {"name": name, "licence": entry.licence, "notes": notes}
    about |= {split: tuple(splits[split]) for split in SPLITS}
    if entry.kind == "text":
        return Corpus(**about)
    if entry.kind in ("labels", "images"):
        return LabelledCorpus(classes=CLASSES[entry.name], **about)
    source, target = _languages(entry)
    return ParallelCorpus(source_language=source, target_language=target, **about)


def verify_corpus(name: str) -> int:
    """Check every file of a corpus against its pinned checksum; return how many there are.

    Raises:
        CorpusNotFoundError, IntegrityError: As ``load_corpus``.
    """
    entry = entry_here(describe_corpus(name))
    if entry.folder is None:
        load_corpus(name)
        return 0
    return len(read_files(entry))


def collapse_layout(text: str) -> str:
    """Return ``text`` with each run of blanks, tabs and line ends turned into one blank.

    >>> collapse_layout("Once upon\\n  a time,\\n\\nthere was")
    'Once upon a time, there was'
    """
    # a blank alone stays as it is, which is most of them
    return re.sub(r"[\t\r\n][ \t\r\n]*| [ \t\r\n]+", " ", text).strip(" ")


# readers of documents


def read_children(entry: CorpusEntry) -> tuple[Splits, str]:
    """Return the 100 books, split by book."""
    files, books = read_files(entry), defaultdict(list)
    rows = sorted(read_table("children_books"), key=lambda row: int(row["gutenberg_id"]))
    for row in rows:
        text = files[f"books/{row['gutenberg_id']}.txt.gz"].decode()
        books[row["split"]].append(Document(row["gutenberg_id"], text, row["title"], row["author"]))
    held_out = [row for row in read_table("children_books") if row["split"] != "train"]
    shared = [row["title"] for row in held_out if int(row["n_train_books_by_author"])]
    return books, (
        f"{len(held_out)} of {len(rows)} books are held out; the authors of these have other "
        f"books in training: {', '.join(shared)}. {LEFT_IN_CHILDREN}"
    )


def read_by_file(entry: CorpusEntry) -> tuple[Splits, str]:
    """Return one document a file, in the split that the manifest gives it."""
    documents: Splits = defaultdict(list)
    for file, data in zip(entry.files, read_files(entry).values(), strict=True):
        stem = file.path.removesuffix(".gz").removesuffix(".txt")
        documents[file.split].append(Document(stem, data.decode()))
    return documents, _file_notes(entry)


def read_by_position(entry: CorpusEntry) -> tuple[Splits, str]:
    """Return one file cut 90/5/5 by position, each cut moved back to the end of a paragraph."""
    (data,) = read_files(entry).values()
    parts = cut_at_paragraphs(data.decode(), shares=(1 - 2 * HELD_OUT_SHARE, HELD_OUT_SHARE))
    documents = {split: [Document(split, part)] for split, part in zip(SPLITS, parts, strict=True)}
    return documents, _file_notes(entry)


def cut_at_paragraphs(text: str, *, shares: tuple[float, ...]) -> list[str]:
    """Cut ``text`` by position, each cut at the last empty line before it.

    Args:
        shares: Share of each part but the last, of the characters.

    Returns:
        ``len(shares) + 1`` parts whose concatenation is ``text``.
    """
    cuts, wanted = [0], 0.0
    for share in shares:
        wanted += share
        paragraph_end = text.rfind("\n\n", cuts[-1], round(wanted * len(text)))
        cuts.append(cuts[-1] if paragraph_end < 0 else paragraph_end + 2)
    return [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _file_notes(entry: CorpusEntry) -> str:
    return "; ".join(f"{file.split}: {file.note}" for file in entry.files if file.note != "-")


def read_python_reference(_: CorpusEntry) -> tuple[Splits, str]:
    """Return the topics that ``help()`` knows, no passage in two splits.

    Several topics repeat others whole (``if`` is a section of ``compound``). A topic of
    which at least half the paragraphs stand in a longer topic is left out; what still
    shares a paragraph stays in one split.
    """
    try:
        topics = distinct_topics(importlib.import_module("pydoc_data.topics").topics)
    except ImportError as problem:
        raise CorpusNotFoundError(
            "This Python was installed without pydoc_data.topics, the text of help(). "
            "Use a full CPython (python.org, conda, or your distribution's python3 package), "
            "or another corpus: `attnlab data list`."
        ) from problem
    documents: Splits = defaultdict(list)
    for name, split in sorted(split_topics(topics).items()):
        documents[split].append(Document(name, topics[name], title=name))
    return documents, (
        f"From Python {platform.python_version()}; other versions hold other text, "
        "so compare runs by the fingerprint."
    )


def distinct_topics(topics: dict[str, str]) -> dict[str, str]:
    """Return the topics without those that a longer topic repeats at least half of."""
    passages = {name: _passages(text) for name, text in topics.items()}
    kept: list[str] = []
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        repeated = max((len(passages[name] & passages[other]) for other in kept), default=0)
        if not passages[name] or 2 * repeated < len(passages[name]):
            kept.append(name)
    return {name: topics[name] for name in kept}


def split_topics(topics: dict[str, str]) -> dict[str, str]:
    """Return the split of every topic.

    Groups of topics that share a passage go together. Test, then validation, take groups
    in the order of a hash of their name as long as they fit; training takes the rest.
    """
    room = HELD_OUT_SHARE * sum(map(len, topics.values()))
    holders = defaultdict(set)
    for name, text in topics.items():
        for passage in _passages(text):
            holders[passage].add(name)
    groups = [{name} for name in topics]
    for names in holders.values():
        touched = [group for group in groups if group & names]
        groups = [group for group in groups if not group & names] + [set().union(*touched)]
    groups.sort(key=lambda group: hashlib.sha256(min(group).encode()).hexdigest())
    split_of: dict[str, str] = {}
    for split in ("test", "validation"):
        left = room
        for group in groups:
            size = sum(len(topics[name]) for name in group)
            if size <= left and not group & split_of.keys():
                split_of |= dict.fromkeys(group, split)
                left -= size
    return dict.fromkeys(topics, "train") | split_of


def _passages(text: str) -> set[str]:
    paragraphs = (collapse_layout(paragraph) for paragraph in text.split("\n\n"))
    return {paragraph for paragraph in paragraphs if len(paragraph) >= SHORTEST_PASSAGE}


# readers of sentence pairs


def read_parallel(entry: CorpusEntry) -> tuple[Splits, str]:
    """Return a corpus of which each file is one language of one split, sentence by sentence.

    The entities that Moses' tokenizer writes (``&apos;``) become characters again.
    """
    lines = {}
    for file, data in zip(entry.files, read_files(entry).values(), strict=True):
        text = data.decode()
        for entity, character in MOSES_ENTITIES.items():
            text = text.replace(entity, character)
        language = file.path.removesuffix(".gz").rpartition(".")[2]
        lines[file.split, language] = _lines(text)
    return _paired(entry, lines, notes=PARALLEL_NOTES[entry.files[0].path.rpartition("/")[0]])


def read_archive(entry: CorpusEntry) -> tuple[Splits, str]:
    """Return the official IWSLT 2017 corpus from its archive.

    Training text is every line that is no tag; held-out text is the content of every ``<seg>``.
    """
    ((path, data),) = read_files(entry).items()
    pair = path.partition(".")[0]  # de-en, whichever way it is translated
    lines: dict[tuple[str, str], list[str]] = defaultdict(list)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = {member.name.rpartition("/")[2]: member for member in archive.getmembers()}

        def text_of(name: str) -> str:
            content = archive.extractfile(members[name]) if name in members else None
            if content is None:
                raise IntegrityError(
                    f"The archive of {entry.name!r} has no file {name!r}. It is another release "
                    "than the one this version of attnlab reads; report it."
                )
            return content.read().decode()

        for language in pair.split("-"):
            tagged = _lines(text_of(f"train.tags.{pair}.{language}"))
            lines["train", language] = [line for line in tagged if not line.startswith("<")]
            for year in ("dev2010", *TEST_YEARS):
                text = text_of(f"IWSLT17.TED.{year}.{pair}.{language}.xml")
                segments = re.findall(r"<seg id=\"\d+\">(.*?)</seg>", text)
                split = "validation" if year == "dev2010" else "test"
                lines[split, language] += [html.unescape(segment).strip() for segment in segments]
    return _paired(entry, lines, notes=ARCHIVE_NOTES)


def _languages(entry: CorpusEntry) -> Sequence[str]:
    return SIDES.get(entry.name.partition("/")[0]) or entry.name.rpartition("/")[2].split("-")


def _lines(text: str) -> list[str]:
    """Cut at LF alone: other line separators occur inside sentences."""
    return [line.strip() for line in text.removesuffix("\n").split("\n")]


def _paired(
    entry: CorpusEntry, lines: dict[tuple[str, str], list[str]], *, notes: str
) -> tuple[Splits, str]:
    splits: Splits = {}
    n_left_out = 0
    for split in SPLITS:
        source, target = (lines[split, language] for language in _languages(entry))
        if len(source) != len(target):
            raise IntegrityError(
                f"{entry.name} {split}: {len(source):,} source lines and {len(target):,} target "
                "lines do not pair. The files are not of one release; fetch them again."
            )
        pairs = map(SentencePair, source, target)
        splits[split] = [p for p in pairs if not {p.source, p.target} & {*NO_TRANSLATION}]
        n_left_out += len(source) - len(splits[split])
    left_out = f" {n_left_out} pairs without a translation are left out." if n_left_out else ""
    return splits, notes + left_out


READERS: dict[str, Callable[[CorpusEntry], tuple[Splits, str]]] = {  # by the name before languages
    "python_reference": read_python_reference,
    "children": read_children,
    "wikitext2": read_by_file,
    "tinyshakespeare": read_by_position,
    "multi30k": read_parallel,
    "iwslt2017": read_archive,
    "ted_iwslt": read_parallel,
    **PAIR_READERS,
    **dict.fromkeys(("sst2", "trec", "ag_news"), read_labels),
    "mnist": read_images,
}
