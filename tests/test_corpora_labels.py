"""Texts and images with a class: read from pinned files, split once, without leaks."""

import gzip
import hashlib
from dataclasses import replace

import labelled_sets
import numpy as np
import pytest

from attnlab.corpora import (
    LabelledCorpus,
    LabelledImage,
    LabelledText,
    describe_corpus,
    list_corpora,
    load_corpus,
)
from attnlab.corpora.fetch import read_table, stored_bytes, tab_labels
from attnlab.corpora.labelled import CLASSES
from attnlab.errors import IntegrityError

KINDS = {"sst2": "labels", "trec": "labels", "ag_news": "labels", "mnist": "images"}
SPLIT_SIZES = {
    "sst2": (6918, 872, 1521),
    "trec": (4930, 500, 400),
    "ag_news": (5000, 1000, 1000),
    "mnist": (55000, 5000, 2000),
}


def test_every_labelled_corpus_has_a_kind_and_names_for_its_classes():
    for kind in ("labels", "images"):
        assert list_corpora(kind=kind) == [name for name, of in KINDS.items() if of == kind]
    assert CLASSES.keys() == KINDS.keys()


def test_texts_are_read_with_their_class_and_what_has_no_file_is_cut_off(monkeypatch, tmp_path):
    labelled_sets.store_questions(monkeypatch, tmp_path)
    corpus = load_corpus("trec")
    assert isinstance(corpus, LabelledCorpus)
    assert [len(corpus.split(split)) for split in ("train", "validation", "test")] == [96, 24, 24]
    assert repr(corpus).startswith("LabelledCorpus('trec', items: train 96, validation 24, test")
    texts = [item.text for item in corpus]
    assert len(set(texts)) == 144
    for item in corpus:
        assert item.text.startswith(labelled_sets.ASKS[item.label])
    assert load_corpus("trec").fingerprint == corpus.fingerprint
    assert "24 items chosen by a fixed seed are the validation split" in corpus.notes


def test_a_training_text_that_is_held_out_too_is_left_out(monkeypatch, tmp_path):
    lines = b"0\tsame\n1\tother\n0\tthird\n"
    files = {
        "train.tsv.gz": ("train", lines),
        "dev.tsv.gz": ("validation", b"1\tsame\n"),
        "test.tsv.gz": ("test", b"0\tnew\n"),
    }
    labelled_sets.store(monkeypatch, tmp_path, "sst2", files, kind="labels")
    corpus = load_corpus("sst2")
    assert [item.text for item in corpus.train] == ["other", "third"]
    assert corpus.notes.startswith("1 training texts that a held-out split has too")


def test_news_lose_their_markup_and_their_classes_begin_at_zero(monkeypatch, tmp_path):
    line = "4\tTitle #39;s end\tCosts  #36;10 at &lt;b&gt;once&lt;/b&gt;\\again\n"
    files = {"ag_news_test.tsv.gz": ("all", line.encode() * 3)}
    labelled_sets.store(
        monkeypatch, tmp_path, "ag_news", files, kind="labels",
        held_out={"validation": 1, "test": 1},
    )  # fmt: skip
    item = load_corpus("ag_news").test[0]
    assert item.label == 3
    assert item.text.split() == ["Title's", "end", "Costs", "$10", "at", "once", "again"]


def test_images_are_read_with_their_class(monkeypatch, tmp_path):
    labelled_sets.store_bars(monkeypatch, tmp_path)
    corpus = load_corpus("mnist")
    assert [len(corpus.split(split)) for split in ("train", "validation", "test")] == [40, 20, 20]
    greys, classes = labelled_sets.bars(60)
    assert np.array_equal([item.pixels for item in corpus.validation], greys[40:])
    assert [item.label for item in corpus.train] == classes[:40].tolist()


def test_a_file_that_is_no_idx_is_refused(monkeypatch, tmp_path):
    labelled_sets.store_bars(monkeypatch, tmp_path)
    greys, classes = labelled_sets.bars(60)
    files = {
        "train-images.gz": ("train", labelled_sets.idx(greys)[:-1]),
        "train-labels.gz": ("train", labelled_sets.idx(classes)),
    }
    labelled_sets.store(monkeypatch, tmp_path, "mnist", files, kind="images")
    with pytest.raises(IntegrityError, match=r"train-images\.gz holds no images in the IDX format"):
        load_corpus("mnist")


DARK, BRIGHT = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LabelledText("a", 1), LabelledText("a", 0)),
        (LabelledText("a", 1), LabelledText("b", 1)),
        (LabelledImage(DARK, 1), LabelledImage(BRIGHT, 1)),
        (LabelledImage(DARK, 1), LabelledImage(DARK, 0)),
    ],
)
def test_the_fingerprint_depends_on_class_and_content(one, other):
    def fingerprint(item):
        splits = {"train": (item,), "validation": (), "test": ()}
        return LabelledCorpus(name="c", licence="", classes=("x", "y"), **splits).fingerprint

    assert fingerprint(one) == fingerprint(one) != fingerprint(other)


# from the original bytes


def test_labels_are_parted_by_a_tab_and_listed_lines_are_kept_in_order(monkeypatch):
    original = b"1 a b\n0 c\n1 a b\n0 d e f\n"
    assert tab_labels(original) == b"1\ta b\n0\tc\n1\ta b\n0\td e f\n"
    kept = [b"0\tc", b"0\td e f"]
    rows = [{"sha256": hashlib.sha256(line).hexdigest()[:8]} for line in kept]
    monkeypatch.setattr("attnlab.corpora.fetch.read_table", lambda name: rows)
    assert tab_labels(original, kept="lines") == b"0\tc\n0\td e f\n"


def test_the_first_items_of_an_idx_file_are_one(monkeypatch):
    greys, classes = labelled_sets.bars(10)
    for array in (greys, classes):
        whole, wanted = labelled_sets.idx(array), labelled_sets.idx(array[:4])
        file = labelled_sets.pinned("x.gz", "test", whole)
        file = replace(file, encoding="-", unpack="gz", step="first_items:4",
                       sha256_text=hashlib.sha256(wanted).hexdigest())  # fmt: skip
        assert stored_bytes(gzip.compress(whole), file) == wanted


def stored(corpus_folder, name):
    """Return the files of a corpus and what is stored of each, where it is here."""
    entry = describe_corpus(name)
    folder = corpus_folder(entry.folder)
    return [(file, gzip.decompress((folder / file.path).read_bytes())) for file in entry.files]


@pytest.mark.parametrize("name", KINDS)
def test_the_stored_files_are_what_the_manifest_makes_of_the_originals(name, corpus_folder):
    for file, data in stored(corpus_folder, name):
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.n_bytes, file.sha256_text)
        if file.step == "tab_labels":  # all lines are here, so the original can be made again
            original = data.decode().replace("\t", " ").encode(file.encoding)
            assert len(original) == file.size_bytes
            assert hashlib.sha256(original).hexdigest() == file.sha256_original
            assert stored_bytes(original, file) == data
        elif file.step.startswith("tab_labels:"):
            lines = data.removesuffix(b"\n").split(b"\n")
            pins = [row["sha256"] for row in read_table(file.step.partition(":")[2])]
            assert pins == [hashlib.sha256(line).hexdigest()[:8] for line in lines]
            between = b"\n".join(line.replace(b"\t", b" ") + b"\n9 left out" for line in lines)
            assert tab_labels(between, kept=file.step.partition(":")[2]) == data
        elif file.step == "-" and file.url != "-":
            assert hashlib.sha256(data).hexdigest() == file.sha256_normalised


@pytest.mark.parametrize("name", KINDS)
def test_the_real_corpora_have_known_sizes_and_share_no_text_between_splits(name, corpus_folder):
    corpus_folder(describe_corpus(name).folder)
    corpus = load_corpus(name)
    splits = [corpus.train, corpus.validation, corpus.test]
    assert tuple(map(len, splits)) == SPLIT_SIZES[name]
    labels = {item.label for item in corpus.train}
    assert labels == set(range(len(corpus.classes)))
    if KINDS[name] == "labels":
        train, *held_out = ({item.text for item in split} for split in splits)
        assert not train & set.union(*held_out)
