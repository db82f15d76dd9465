"""Sentences with their translations: what a parallel corpus is, and how its files are read."""

from __future__ import annotations

import hashlib
import html
import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from attnlab.corpora.pins import CorpusEntry
from attnlab.corpora.records import SPLITS
from attnlab.corpora.store import locate_all, read_texts, read_verified
from attnlab.errors import IntegrityError, UnknownNameError

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

_SEGMENT = re.compile(r"<seg id=\"\d+\">(.*?)</seg>")


@dataclass(frozen=True, slots=True)
class SentencePair:
    """One sentence in two languages."""

    source: str
    target: str


@dataclass(frozen=True, kw_only=True)
class ParallelCorpus:
    """Three disjoint tuples of sentence pairs.

    Args:
        name: The name that ``load_corpus`` takes.
        licence: One line; shown before a download.
        source_language: Two letters, for example ``de``.
        target_language: Two letters.
        notes: What a reader of a result should know about the text or its split.
        n_left_out: Pairs of the files that have no translation and are in no split.
    """

    name: str
    licence: str
    source_language: str
    target_language: str
    train: tuple[SentencePair, ...]
    validation: tuple[SentencePair, ...]
    test: tuple[SentencePair, ...]
    notes: str = ""
    n_left_out: int = 0
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        """Fingerprint every sentence, so that a result can say what it was measured on."""
        object.__setattr__(self, "fingerprint", _fingerprint(self))

    def split(self, name: str) -> tuple[SentencePair, ...]:
        """Return the pairs of ``train``, ``validation`` or ``test``."""
        if name not in SPLITS:
            raise UnknownNameError("split", name, SPLITS, next_step="Use one of these three.")
        return getattr(self, name)

    def __iter__(self) -> Iterator[SentencePair]:
        """Go through all pairs: train, then validation, then test."""
        yield from (*self.train, *self.validation, *self.test)

    def __repr__(self) -> str:
        """Sizes instead of millions of characters."""
        counts = ", ".join(f"{split} {len(self.split(split))}" for split in SPLITS)
        return f"ParallelCorpus({self.name!r}, pairs: {counts}, fingerprint {self.fingerprint})"


def read_parallel(entry: CorpusEntry) -> ParallelCorpus:
    """Return a corpus of which each file is one language of one split, sentence by sentence.

    The entities that Moses' tokenizer writes (``&apos;``) become characters again.
    """
    texts = read_texts(entry)
    lines: dict[tuple[str, str], list[str]] = {}
    for file in entry.files:
        language = file.path.removesuffix(".gz").rpartition(".")[2]
        lines[file.split, language] = _lines(_without_entities(texts[file.path]))
    return _corpus(entry, lines, notes=PARALLEL_NOTES[entry.files[0].path.rpartition("/")[0]])


def read_archive(entry: CorpusEntry) -> ParallelCorpus:
    """Return the official IWSLT 2017 corpus from its archive.

    Training text is every line that is no tag; held-out text is the content of every ``<seg>``.
    """
    (file,) = entry.files
    data = read_verified(locate_all(entry)[file.path], file, corpus=entry.name)
    pair = file.path.partition(".")[0]  # de-en, whichever way it is translated
    lines: dict[tuple[str, str], list[str]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = {member.name.rpartition("/")[2]: member for member in archive.getmembers()}
        for language in pair.split("-"):
            parts = {"train": [f"train.tags.{pair}.{language}"]}
            parts["validation"] = [f"IWSLT17.TED.dev2010.{pair}.{language}.xml"]
            parts["test"] = [f"IWSLT17.TED.{year}.{pair}.{language}.xml" for year in TEST_YEARS]
            for split, names in parts.items():
                texts = [_member(archive, members, name, entry) for name in names]
                read = _untagged if split == "train" else _segments
                lines[split, language] = [line for text in texts for line in read(text)]
    return _corpus(entry, lines, notes=ARCHIVE_NOTES)


def stand_in(corpus: ParallelCorpus, *, wanted: CorpusEntry) -> ParallelCorpus:
    """Return ``corpus`` under the name of the one it is read for, and let its notes say so."""
    notes = (
        f"{wanted.name} itself is not here; this is {corpus.name}, real text of the same kind "
        f"but less of it: {len(corpus.train):,} training pairs. Results are not those of the "
        f"full set. {corpus.notes}"
    )
    parts = {split: corpus.split(split) for split in SPLITS}
    return ParallelCorpus(
        name=wanted.name,
        licence=corpus.licence,
        source_language=corpus.source_language,
        target_language=corpus.target_language,
        notes=notes,
        n_left_out=corpus.n_left_out,
        **parts,
    )


def _corpus(
    entry: CorpusEntry, lines: dict[tuple[str, str], list[str]], *, notes: str
) -> ParallelCorpus:
    source, target = entry.name.rpartition("/")[2].split("-")
    splits, n_left_out = {}, 0
    for split in SPLITS:
        pairs = _paired(lines[split, source], lines[split, target], what=f"{entry.name} {split}")
        splits[split] = tuple(pair for pair in pairs if _is_translated(pair))
        n_left_out += len(pairs) - len(splits[split])
    left_out = f" {n_left_out} pairs without a translation are left out." if n_left_out else ""
    return ParallelCorpus(
        name=entry.name,
        licence=entry.licence,
        source_language=source,
        target_language=target,
        notes=notes + left_out,
        n_left_out=n_left_out,
        **splits,
    )


def _paired(source: Sequence[str], target: Sequence[str], *, what: str) -> list[SentencePair]:
    if len(source) != len(target):
        raise IntegrityError(
            f"{what}: {len(source):,} source lines and {len(target):,} target lines do not pair. "
            "The files are not of one release; fetch them again."
        )
    return [SentencePair(s, t) for s, t in zip(source, target, strict=True)]


def _is_translated(pair: SentencePair) -> bool:
    return pair.source not in NO_TRANSLATION and pair.target not in NO_TRANSLATION


def _lines(text: str) -> list[str]:
    """Cut at LF alone: other line separators occur inside sentences."""
    return [line.strip() for line in text.removesuffix("\n").split("\n")]


def _without_entities(text: str) -> str:
    for entity, character in MOSES_ENTITIES.items():
        text = text.replace(entity, character)
    return text


def _untagged(text: str) -> list[str]:
    return [line for line in _lines(text) if not line.startswith("<")]


def _segments(text: str) -> list[str]:
    return [html.unescape(segment).strip() for segment in _SEGMENT.findall(text)]


def _member(
    archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str, entry: CorpusEntry
) -> str:
    content = archive.extractfile(members[name]) if name in members else None
    if content is None:
        raise IntegrityError(
            f"The archive of {entry.name!r} has no file {name!r}. It is another release than the "
            "one this version of attnlab reads; report it."
        )
    return content.read().decode("utf-8")


def _fingerprint(corpus: ParallelCorpus) -> str:
    digest = hashlib.sha256()
    for split in SPLITS:
        for pair in corpus.split(split):
            for part in (split, pair.source, pair.target):
                data = part.encode()
                digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:12]


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
