"""Texts and images with a class each, read from verified files and cut into three splits."""

from __future__ import annotations

import html
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlab.corpora.fetch import CorpusEntry, read_files
from attnlab.errors import IntegrityError
from attnlab.seeding import numpy_generator

CLASSES = {  # by corpus, in the order of the labels
    "sst2": ("negative", "positive"),
    "trec": ("description", "entity", "abbreviation", "human", "location", "number"),
    "ag_news": ("world", "sports", "business", "science and technology"),
    "mnist": tuple("0123456789"),
}
FIRST_LABEL = {"ag_news": 1}  # in the file; 0 elsewhere
HELD_OUT = {  # items that are cut off for a split which the corpus has no file of
    "trec": {"validation": 500},
    "ag_news": {"validation": 1000, "test": 1000},
    "mnist": {"validation": 5000},
}
IDX_HEADERS = {"labels": (b"\0\0\x08\x01", 8), "images": (b"\0\0\x08\x03", 16)}  # start, bytes


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text and the number of its class."""

    text: str
    label: int

    @property
    def parts(self) -> tuple[bytes, ...]:
        """What a fingerprint is taken of."""
        return str(self.label).encode(), self.text.encode()


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """Grey pixels ``(height, width)``, 0 to 255, and the number of their class."""

    pixels: NDArray[np.uint8]
    label: int

    @property
    def parts(self) -> tuple[bytes, ...]:
        """What a fingerprint is taken of."""
        return str(self.label).encode(), self.pixels.tobytes()


Splits = dict[str, list[Any]]


def read_labels(entry: CorpusEntry) -> tuple[Splits, str]:
    """Return the lines of each file, label first; what has no file is cut off by a fixed seed.

    Training texts that stand in a held-out split as well are left out.
    """
    items: Splits = defaultdict(list)
    for file, data in zip(entry.files, read_files(entry).values(), strict=True):
        split = "train" if file.split == "all" else file.split
        items[split] += [_labelled(entry.name, line) for line in data.decode().split("\n") if line]
    train, said = items["train"], []
    order = cut_off(entry.name, len(train))
    for split in HELD_OUT.get(entry.name, {}):
        items[split] += [train[i] for i in order[split]]
        said.append(f"{len(order[split]):,} items chosen by a fixed seed are the {split} split")
    held_out = {item.text for split in ("validation", "test") for item in items[split]}
    kept = [item for i in order["train"] if (item := train[i]).text not in held_out]
    n_repeated, items["train"] = len(order["train"]) - len(kept), kept
    if n_repeated:
        said.append(f"{n_repeated} training texts that a held-out split has too are left out")
    return items, "; ".join([*said, *_file_notes(entry)]) + "."


def cut_off(corpus: str, n_items: int) -> dict[str, list[int]]:
    """Return which items each split of a corpus takes that has no files of them: a fixed choice."""
    left = numpy_generator(0, f"{corpus}/splits").permutation(n_items).tolist()
    order = {}
    for split, n in HELD_OUT.get(corpus, {}).items():
        order[split], left = left[:n], left[n:]
    return order | {"train": sorted(left)}


def _labelled(corpus: str, line: str) -> LabelledText:
    label, *texts = line.split("\t")
    text = (
        without_markup(" ".join(texts)) if corpus == "ag_news" else mend_entities(" ".join(texts))
    )
    return LabelledText(text.strip(), int(label) - FIRST_LABEL.get(corpus, 0))


def without_markup(text: str) -> str:
    """Return a text of ``ag_news`` with characters for entities, and blanks for tags and ``\\``."""
    return re.sub(r"<[^<>]*>|\\", " ", html.unescape(mend_entities(text)))


def mend_entities(text: str) -> str:
    """Return text in which an entity that lost its first sign, `` #39;``, has it again."""
    return re.sub(r" #(\d+);", r"&#\1;", text)


def read_images(entry: CorpusEntry) -> tuple[Splits, str]:
    """Return the images of two pairs of IDX files; validation is the end of the training file."""
    arrays: dict[tuple[str, str], NDArray[np.uint8]] = {}
    for file, data in zip(entry.files, read_files(entry).values(), strict=True):
        kind = "images" if "images" in file.path else "labels"
        arrays[file.split, kind] = _idx(data, kind, file.path)
    splits: Splits = {}
    for split in ("train", "test"):
        labels, images = arrays[split, "labels"].tolist(), arrays[split, "images"]
        splits[split] = [LabelledImage(*pair) for pair in zip(images, labels, strict=True)]
    n = HELD_OUT[entry.name]["validation"]
    splits["train"], splits["validation"] = splits["train"][:-n], splits["train"][-n:]
    notes = [f"the last {n:,} training images are the validation split", *_file_notes(entry)]
    return splits, "; ".join(notes) + ". The first half of the test images is the easier one."


def _idx(data: bytes, kind: str, path: str) -> NDArray[np.uint8]:
    """Return the array of an IDX file: items, or items, rows and columns."""
    start, n_header = IDX_HEADERS[kind]
    shape = np.frombuffer(data[len(start) : n_header], ">u4").tolist()
    if data[:4] != start or len(data) != n_header + int(np.prod(shape)):
        raise IntegrityError(f"{path} holds no {kind} in the IDX format. Report it.")
    return np.frombuffer(data, np.uint8, offset=n_header).reshape(shape)


def _file_notes(entry: CorpusEntry) -> Sequence[str]:
    return [f"{file.split}: {file.note}" for file in entry.files if file.note != "-"]
