"""Small made-up sets of texts and images with a class, written where corpora are looked for."""

import gzip
import hashlib

import numpy as np

from attnlab.corpora import fetch as fetching
from attnlab.corpora import labelled
from attnlab.corpora.fetch import CorpusEntry, PinnedFile
from attnlab.tasks import base as tasks
from attnlab.tasks import classification, images, labels

ASKS = ("what is", "which thing is", "what stands for", "who saw", "where lies", "how many have")
THINGS = ("a hat", "the sea", "my cat", "one tree", "an egg", "the moon", "old shoes", "rain")


def pinned(path, split, data):
    sums = ("sha256_original", "sha256_normalised", "sha256_text")
    facts = dict.fromkeys(sums, hashlib.sha256(data).hexdigest())
    facts |= dict.fromkeys(("size_bytes", "n_bytes"), len(data))
    facts |= dict.fromkeys(("url", "unpack", "step", "note"), "-")
    return PinnedFile(path=path, split=split, encoding="utf-8", newline="LF", **facts)


def store(monkeypatch, folder, name, files, *, kind, held_out=None):
    """Write files into a data folder, the only one on the search path, as the corpus ``name``."""
    monkeypatch.setenv("ATTNLAB_DATA", str(folder))
    monkeypatch.setattr(fetching, "cache_folder", lambda: folder / "cache")
    monkeypatch.setattr(tasks, "cache_folder", lambda: folder / "cache")
    if held_out is not None:
        monkeypatch.setitem(labelled.HELD_OUT, name, held_out)
    (folder / name).mkdir(parents=True, exist_ok=True)
    for path, (_, data) in files.items():
        (folder / name / path).write_bytes(gzip.compress(data, mtime=0))
    entry = CorpusEntry(
        name=name, folder=name, licence="free", about="", kind=kind,
        files=tuple(pinned(path, split, data) for path, (split, data) in files.items()),
    )  # fmt: skip
    monkeypatch.setattr(fetching, "all_entries", lambda: {name: entry})
    labels.prepare_labels.cache_clear()
    images.prepare_images.cache_clear()


def questions(n, *, start=0):
    """Return ``n`` different lines: a class, and a question whose beginning tells it."""
    lines = [
        f"{i % 6}\t{ASKS[i % 6]} {THINGS[i % 8]} number {i} ?" for i in range(start, start + n)
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def store_questions(monkeypatch, folder):
    """Store 120 questions and 24 of test as ``trec``; 24 of the first are validation."""
    files = {
        "train.tsv.gz": ("train", questions(120)),
        "test.tsv.gz": ("test", questions(24, start=500)),
    }
    store(monkeypatch, folder, "trec", files, kind="labels", held_out={"validation": 24})


def idx(array):
    """Return an array of bytes as an IDX file."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def bars(n):
    """Return ``n`` images of one bright row each, at a height that tells the class."""
    classes = np.arange(n) % 10
    greys = np.zeros((n, 28, 28))
    greys[np.arange(n), 2 * classes + 4] = 200 + np.arange(n)[:, None] % 50
    return greys, classes


def store_bars(monkeypatch, folder):
    """Store 60 images and 20 of test as ``mnist``; 20 of the first are validation."""
    (seen, known), (asked, answers) = bars(60), bars(20)
    files = {
        "train-images.gz": ("train", idx(seen)), "train-labels.gz": ("train", idx(known)),
        "test-images.gz": ("test", idx(asked)), "test-labels.gz": ("test", idx(answers)),
    }  # fmt: skip
    store(monkeypatch, folder, "mnist", files, kind="images", held_out={"validation": 20})


def small_data(n_items=40, *, classes=("odd", "even")):
    """Return tokens whose class is that of the first one, as a data set without a corpus."""
    rng = np.random.default_rng(0)
    inputs, names = {}, {}
    for split, n in (("train", n_items), ("validation", 20), ("test", 20)):
        inputs[split] = [rng.integers(4, 12, rng.integers(1, 9)) for _ in range(n)]
        names[split] = np.array([ids[0] % len(classes) for ids in inputs[split]])
    sizes = {"n_classes": len(classes), "context_len": 8, "vocab_size": 12}
    return classification.LabelDataset(
        name="parity", classes=classes, inputs=inputs, labels=names, sizes=sizes,
        control=lambda: {"linear_accuracy": 0.5}, facts={"name": "parity"},
    )  # fmt: skip
