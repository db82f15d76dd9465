"""Reading corpora: found where they lie, checked before they are believed, split without leaks."""

import gzip
import hashlib
import os
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pooch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlab.corpora import (
    Corpus,
    Document,
    collapse_layout,
    describe_corpus,
    list_corpora,
    load_corpus,
    verify_corpus,
)
from attnlab.corpora.fetch import (
    CorpusEntry,
    PinnedFile,
    data_folders,
    read_files,
    read_table,
    stored_bytes,
    strip_gutenberg,
)
from attnlab.corpora.read import (
    READERS,
    SPLITS,
    cut_at_paragraphs,
    distinct_topics,
    read_by_file,
    split_topics,
)
from attnlab.errors import CorpusNotFoundError, IntegrityError, UnknownNameError
from attnlab.paths import cache_folder

TEXTS = {"train": "one two\n\nthree\n", "validation": "four\n", "test": "fünf\n"}


def pinned(split: str, data: bytes) -> PinnedFile:
    digest = hashlib.sha256(data).hexdigest()
    return PinnedFile(
        path=f"{split}.txt.gz",
        split=split,
        url=f"https://raw.githubusercontent.com/o/r/{'0' * 40}/{split}.txt",
        size_bytes=len(data),
        sha256_original=digest,
        encoding="utf-8",
        newline="LF",
        unpack="-",
        sha256_normalised=digest,
        step="-",
        n_bytes=len(data),
        sha256_text=digest,
        note="-",
    )


@pytest.fixture
def entry():
    files = tuple(pinned(split, text.encode()) for split, text in TEXTS.items())
    return CorpusEntry(name="little", folder="little", licence="free", about="", files=files)


@pytest.fixture
def data_folder(tmp_path, monkeypatch, entry):
    """A data folder, the only one on the search path, that holds the little corpus."""
    monkeypatch.setenv("ATTNLAB_DATA", str(tmp_path))
    (tmp_path / "little").mkdir()
    for split, text in TEXTS.items():
        (tmp_path / "little" / f"{split}.txt.gz").write_bytes(gzip.compress(text.encode()))
    return tmp_path


# finding and checking files


def test_files_on_the_search_path_are_read_as_they_were_pinned(data_folder, entry):
    assert read_files(entry) == {f"{split}.txt.gz": text.encode() for split, text in TEXTS.items()}


def test_a_file_is_found_in_the_second_folder(data_folder, entry, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNLAB_DATA", os.pathsep.join([str(tmp_path / "no"), str(data_folder)]))
    assert len(read_files(entry)) == 3


def test_the_cache_is_searched_after_the_named_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTNLAB_DATA", os.pathsep.join(["", str(tmp_path), ""]))
    assert data_folders() == [tmp_path, cache_folder()]


def test_an_installed_package_uses_the_users_cache(monkeypatch):
    assert cache_folder().parts[-2:] == ("data", "cache")
    monkeypatch.setattr("attnlab.paths.ROOT", None)
    assert cache_folder() == Path(pooch.os_cache("attnlab"))


def test_an_absent_corpus_names_layout_folders_and_command(entry, tmp_path, monkeypatch):
    folders = [tmp_path / "first", tmp_path / "second"]
    monkeypatch.setenv("ATTNLAB_DATA", os.pathsep.join(map(str, folders)))
    with pytest.raises(CorpusNotFoundError) as caught:
        read_files(entry)
    expected = [*folders, cache_folder(), "little/train.txt.gz", "`attnlab data fetch little`"]
    assert [part for part in map(str, expected) if part not in str(caught.value)] == []


def test_a_missing_file_of_a_present_corpus_is_named(data_folder, entry):
    (data_folder / "little" / "test.txt.gz").unlink()
    with pytest.raises(IntegrityError, match=r"1 of 3 files.*little/test\.txt\.gz.*data fetch"):
        read_files(entry)


def damaged(data_folder, content: bytes):
    (data_folder / "little" / "train.txt.gz").write_bytes(content)


@pytest.mark.parametrize("length", [0, 1, 5, 20])
def test_a_file_cut_short_at_any_place_is_refused(data_folder, entry, length):
    damaged(data_folder, gzip.compress(TEXTS["train"].encode())[:length])
    with pytest.raises(IntegrityError, match=r"train\.txt\.gz.*Delete it and run `attnlab data"):
        read_files(entry)


def test_a_changed_letter_is_refused_with_both_checksums(data_folder, entry):
    changed = TEXTS["train"].replace("one", "onE").encode()
    damaged(data_folder, gzip.compress(changed))
    got, expected = hashlib.sha256(changed).hexdigest(), entry.files[0].sha256_text
    with pytest.raises(IntegrityError, match=f"sha256 {got}, expected {expected}"):
        read_files(entry)


def test_a_file_that_unpacks_to_more_is_refused(data_folder, entry):
    damaged(data_folder, gzip.compress(TEXTS["train"].encode() + b"more"))
    with pytest.raises(IntegrityError, match=r"more than 15 bytes"):  # len("one two\n\nthree\n")
        read_files(entry)


def test_a_file_that_is_not_packed_is_refused(data_folder, entry):
    damaged(data_folder, TEXTS["train"].encode())
    with pytest.raises(IntegrityError, match="cannot be unpacked"):
        read_files(entry)


def test_each_file_becomes_a_document_of_its_split(data_folder, entry):
    documents, _ = read_by_file(entry)
    assert {split: documents[split][0].text for split in SPLITS} == TEXTS


# corpora as objects


def test_the_fingerprint_depends_on_text_name_and_split():
    def fingerprint(train, validation=()):
        return Corpus(
            name="c", licence="", train=tuple(train), validation=tuple(validation), test=()
        ).fingerprint

    a, b = Document("a", "x"), Document("b", "x")
    prints = [fingerprint([a]), fingerprint([b]), fingerprint([], [a])]
    prints += [fingerprint([Document("a", "y")]), fingerprint([Document("ax", "")])]
    assert len(set(prints)) == 5
    assert fingerprint([a]) == prints[0]


def test_a_document_counts_bytes_not_characters():
    assert Document("d", "fünf").n_bytes == 5


@given(st.text())
def test_collapsing_keeps_the_words_and_leaves_single_blanks(text):
    collapsed = collapse_layout(text)
    pieces = [piece for piece in re.split(r"[ \t\r\n]", text) if piece]
    assert collapsed == " ".join(pieces)
    assert collapse_layout(collapsed) == collapsed


@given(
    st.lists(st.sampled_from(["a", "b\nc", "", "\n", "a long one"]), max_size=30).map("\n\n".join)
)
def test_cuts_by_position_lose_nothing_and_fall_between_paragraphs(text):
    parts = cut_at_paragraphs(text, shares=(0.9, 0.05))
    assert "".join(parts) == text
    assert len(parts) == 3
    starts = (len(parts[0]), len(parts[0] + parts[1]))
    assert all(start == 0 or text[:start].endswith("\n\n") for start in starts)


def test_cuts_by_position_are_near_the_shares():
    text = "ten chars\n\n" * 997  # 11 characters a paragraph, so a cut moves by at most 11
    lengths = [len(part) for part in cut_at_paragraphs(text, shares=(0.9, 0.05))]
    expected = [0.9 * len(text), 0.05 * len(text), 0.05 * len(text)]
    assert all(abs(got - want) <= 11 for got, want in zip(lengths, expected, strict=True))


# the manifest


def test_every_corpus_of_the_manifest_has_a_reader_and_a_licence():
    assert {name.partition("/")[0] for name in list_corpora()} == set(READERS)
    assert all(describe_corpus(name).licence for name in list_corpora())


def test_an_unknown_corpus_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'childern'.*Did you mean 'children'"):
        load_corpus("childern")


def test_an_unknown_split_is_refused():
    with pytest.raises(UnknownNameError, match="split is called 'tests'"):
        load_corpus("python_reference").split("tests")


@pytest.mark.parametrize("name", list_corpora())
def test_every_file_is_pinned_to_a_commit_and_lies_in_its_folder(name):
    for file in describe_corpus(name).files:
        if file.url != "-":
            assert all(re.match(r"https://[^/]+/[^?]+/[0-9a-f]{40}/", u) for u in file.url.split())
        assert all(
            re.fullmatch(r"[0-9a-f]{64}", value)
            for value in (file.sha256_original, file.sha256_normalised, file.sha256_text)
        )
        assert file.split in (*SPLITS, "all")
        assert file.unpack in ("-", "gz")
        assert re.fullmatch(r"(?!.*\.\.)\w[\w./-]*\.gz", file.path)


def test_the_book_table_agrees_with_the_pinned_files():
    files = {file.path: file for file in describe_corpus("children").files}
    rows = read_table("children_books")
    assert len(rows) == len(files) == 100
    for row in rows:
        file = files[f"books/{row['gutenberg_id']}.txt.gz"]
        assert (file.split, file.n_bytes) == (row["split"], int(row["n_bytes"]))


def test_the_book_table_says_truly_which_authors_stay_in_training():
    rows = read_table("children_books")
    in_training = Counter(row["author"] for row in rows if row["split"] == "train")
    assert all(int(row["n_train_books_by_author"]) == in_training[row["author"]] for row in rows)
    for split in ("validation", "test"):
        known = [bool(in_training[row["author"]]) for row in rows if row["split"] == split]
        assert (known.count(True), known.count(False)) == (3, 3)


# the language reference


@pytest.fixture(scope="module")
def python_reference():
    return load_corpus("python_reference")


def passages(documents):
    found = (collapse_layout(p) for document in documents for p in document.text.split("\n\n"))
    return {passage for passage in found if len(passage) >= 40}


def test_no_passage_of_the_reference_is_in_two_splits(python_reference):
    train, validation, test = (passages(python_reference.split(split)) for split in SPLITS)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_held_out_topics_are_about_a_twentieth_each(python_reference):
    n_characters = sum(len(document.text) for document in python_reference)
    for split in ("validation", "test"):
        held_out = sum(len(document.text) for document in python_reference.split(split))
        assert 0.03 < held_out / n_characters <= 0.05


def test_the_reference_is_the_same_at_every_load(python_reference):
    assert load_corpus("python_reference").fingerprint == python_reference.fingerprint
    assert verify_corpus("python_reference") == 0


def test_a_topic_repeated_in_a_longer_one_is_left_out():
    passage, other = "x" * 50, "y" * 50
    topics = {"short": passage, "long": f"{passage}\n\n{other}", "else": "z" * 50}
    assert distinct_topics(topics).keys() == {"long", "else"}


def test_topics_that_share_a_passage_stay_together():
    shared = "s" * 50
    topics = {f"t{i}": f"{chr(97 + i) * 50}\n\n{shared}" for i in range(2)}
    topics |= {f"u{i}": chr(110 + i) * 60 for i in range(13)} | {"big": "B" * 9000}
    splits = split_topics(topics)
    assert splits["t0"] == splits["t1"]
    assert splits["big"] == "train"
    assert {"train", "test"} <= set(splits.values())


def test_a_python_without_the_reference_is_told_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(CorpusNotFoundError, match=r"pydoc_data\.topics.*Use a full CPython"):
        load_corpus("python_reference")


# steps after a download


def made(data, **changes):
    """What is stored of these original bytes; its checksum is not compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attnlab.corpora.fetch._check_sha256", lambda *_, **__: None)
        return stored_bytes(data, replace(pinned("x", data), **changes))


@pytest.mark.parametrize(
    ("data", "changes", "stored"),
    [
        ("a\r\né\n\r".encode("latin-1"), {"encoding": "latin-1"}, "a\né\n\r".encode()),
        (b"\r\n\xff", {"encoding": "-"}, b"\r\n\xff"),
        ("é".encode("utf-8-sig"), {"encoding": "utf-8-sig"}, "é".encode()),
        (gzip.compress(b"in"), {"unpack": "gz"}, b"in"),
        (b"abc", {"step": "first_bytes:2"}, b"ab"),
        (b"<talk>\na < b\n<x>y</x>\nc\n", {"step": "drop_tag_lines"}, b"a < b\nc\n"),
        (b"a\nb", {"step": "end_line"}, b"a\nb\n"),
    ],
)
def test_original_bytes_are_unpacked_normalised_and_cut(data, changes, stored):
    assert made(data, **changes) == stored


def test_stripping_keeps_the_book_alone():
    title = "  TITLE\xa0 \n\n\n\n"
    raw = f"Licence\nCredits\n\n{title}[Illustration: a\nbear] Once  \nNote\nmore.\nEnd\n"
    # kept: lines 4 to 9 ("TITLE" to "Once") and line 11 ("more.")
    assert strip_gutenberg(raw, keep="4-9,11-11") == "TITLE\n\n\n Once\nmore.\n"


def test_an_unknown_step_is_refused():
    with pytest.raises(IntegrityError, match="'run:me' is no step"):
        made(b"", step="run:me")


# the real books, where they are


@pytest.fixture(scope="module")
def loaded():
    """Load each real corpus once."""
    return {}


@pytest.fixture
def real(corpus_folder, loaded):
    def load(name):
        corpus_folder(describe_corpus(name).folder)
        if name not in loaded:
            loaded[name] = load_corpus(name)
        return loaded[name]

    return load


def test_the_hundred_books_are_split_by_book(real):
    corpus = real("children")
    assert [len(corpus.split(split)) for split in SPLITS] == [88, 6, 6]
    assert len({document.name for document in corpus}) == 100
    assert all(document.title and document.author for document in corpus)


def test_books_are_read_without_line_ends_unless_asked(real):
    assert not any("\n" in document.text for document in real("children"))
    kept = load_corpus("children", keep_layout=True)
    assert all("\n" in document.text for document in kept)
    assert [collapse_layout(document.text) for document in kept] == [
        document.text for document in real("children")
    ]


def test_books_are_made_from_the_raw_files_byte_for_byte(corpus_folder):
    raw = corpus_folder("gutenberg_children") / "raw"
    if not raw.is_dir():
        pytest.skip("corpus not here: raw files of the books")
    files = describe_corpus("children").files
    several_ranges = [file for file in files if "," in file.step]
    for file in [*files[::17], *several_ranges]:
        data = gzip.decompress((raw / file.path.removeprefix("books/")).read_bytes())
        stored_bytes(data, replace(file, encoding="utf-8"))  # compares both checksums


def test_shakespeare_is_cut_by_position_without_loss(real):
    corpus = real("tinyshakespeare")
    texts = [document.text for document in corpus]
    n_bytes = describe_corpus("tinyshakespeare").files[0].n_bytes  # ascii: bytes = characters
    assert sum(map(len, texts)) == n_bytes
    assert len(texts[0]) / n_bytes == pytest.approx(0.9, abs=0.01)
    assert all(text.endswith("\n\n") for text in texts[:2])


def test_wikitext_has_its_three_standard_splits(real):
    corpus = real("wikitext2")
    assert [len(corpus.split(split)) for split in SPLITS] == [1, 1, 1]
    assert "20 articles" in corpus.notes
    assert verify_corpus("wikitext2") == 3
