"""Turn verified files into documents, one reader a corpus."""

from collections.abc import Callable

from attnlab.corpora.parallel import ParallelCorpus, read_archive, read_parallel
from attnlab.corpora.pins import CorpusEntry, PinnedFile, read_table
from attnlab.corpora.python_reference import read_python_reference
from attnlab.corpora.records import SPLITS, Corpus, Document, collapse_layout
from attnlab.corpora.store import read_texts

HELD_OUT_SHARE = 0.05  # of the characters of a file that is cut by position, for each of two


def read_children(entry: CorpusEntry, *, keep_layout: bool) -> Corpus:
    """Return the 100 books, split by book; line ends become blanks unless kept."""
    texts = read_texts(entry)
    books: dict[str, list[Document]] = {split: [] for split in SPLITS}
    rows = read_table("children_books")
    for row in sorted(rows, key=lambda row: int(row["gutenberg_id"])):
        name = row["gutenberg_id"]
        text = texts[f"books/{name}.txt.gz"]
        text = text if keep_layout else collapse_layout(text)
        books[row["split"]].append(Document(name, text, row["title"], row["author"]))
    return _corpus(entry, books, notes=_held_out_note(rows))


def read_by_file(entry: CorpusEntry, *, keep_layout: bool) -> Corpus:
    """Return one document a file, in the split that the manifest gives it."""
    documents: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for path, text in read_texts(entry).items():
        file = next(file for file in entry.files if file.path == path)
        text = text if keep_layout else collapse_layout(text)
        documents[file.split].append(Document(_stem(file), text))
    return _corpus(entry, documents, notes=_file_notes(entry))


def read_by_position(entry: CorpusEntry, *, keep_layout: bool) -> Corpus:
    """Return one file cut 90/5/5 by position, each cut moved back to the end of a paragraph."""
    (text,) = read_texts(entry).values()
    parts = cut_at_paragraphs(text, shares=(1 - 2 * HELD_OUT_SHARE, HELD_OUT_SHARE))
    documents = {
        split: [Document(split, part if keep_layout else collapse_layout(part))]
        for split, part in zip(SPLITS, parts, strict=True)
    }
    return _corpus(entry, documents, notes=_file_notes(entry))


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


def _corpus(entry: CorpusEntry, documents: dict[str, list[Document]], *, notes: str) -> Corpus:
    splits = {split: tuple(documents[split]) for split in SPLITS}
    return Corpus(name=entry.name, licence=entry.licence, notes=notes, **splits)


def _held_out_note(rows: list[dict[str, str]]) -> str:
    held_out = [row for row in rows if row["split"] != "train"]
    shared = [row["title"] for row in held_out if int(row["n_train_books_by_author"])]
    return (
        f"{len(held_out)} of {len(rows)} books are held out; the authors of these have other "
        f"books in training: {', '.join(shared)}."
    )


def _file_notes(entry: CorpusEntry) -> str:
    return "; ".join(f"{file.split}: {file.note}" for file in entry.files if file.note != "-")


def _stem(file: PinnedFile) -> str:
    return file.path.removesuffix(".gz").removesuffix(".txt")


Reader = Callable[..., Corpus]
PairReader = Callable[[CorpusEntry], ParallelCorpus]

READERS: dict[str, tuple[Reader, bool]] = {  # reader, and whether it keeps line ends by default
    "python_reference": (read_python_reference, True),
    "children": (read_children, False),
    "wikitext2": (read_by_file, True),
    "tinyshakespeare": (read_by_position, True),
}

PAIR_READERS: dict[str, PairReader] = {  # by the name before the languages
    "multi30k": read_parallel,
    "iwslt2017": read_archive,
    "ted_iwslt": read_parallel,
}
