"""Corpora: found where they lie, checked before they are believed, read and split without leaks."""

import gzip
import hashlib
import io
import os
import re
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np
import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlab.corpora import (
    SPLITS,
    Corpus,
    Document,
    ParallelCorpus,
    SentencePair,
    collapse_layout,
    describe_corpus,
    list_corpora,
    load_corpus,
    verify_corpus,
)
from attnlab.corpora import fetch as fetching
from attnlab.corpora import read as reading
from attnlab.corpora.fetch import (
    CorpusEntry,
    PinnedFile,
    data_folders,
    read_files,
    read_table,
    stored_bytes,
)
from attnlab.errors import CorpusNotFoundError, IntegrityError, UnknownNameError
from attnlab.paths import cache_folder

TEXTS = {"train": "one two\n\nthree\n", "validation": "four\n", "test": "fünf\n"}


def pinned(path, split, data):
    sums = ("sha256_original", "sha256_normalised", "sha256_text")
    facts = dict.fromkeys(sums, hashlib.sha256(data).hexdigest())
    facts |= dict.fromkeys(("size_bytes", "n_bytes"), len(data))
    facts |= dict.fromkeys(("url", "unpack", "step", "note"), "-")
    return PinnedFile(path=path, split=split, encoding="utf-8", newline="LF", **facts)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Write files into a data folder, the only one on the search path; return their entry."""
    monkeypatch.setenv("ATTNLAB_DATA", str(tmp_path))
    (tmp_path / "little").mkdir()

    def store(files, *, name="little", kind="text"):
        for path, (_, data) in files.items():
            (tmp_path / "little" / path).write_bytes(gzip.compress(data, mtime=0))
        entry = CorpusEntry(
            name=name, folder="little", licence="free", about="", kind=kind,
            files=tuple(pinned(path, split, data) for path, (split, data) in files.items()),
        )  # fmt: skip
        monkeypatch.setattr(fetching, "all_entries", lambda: {name: entry})
        return entry

    return store


@pytest.fixture
def entry(store, monkeypatch):
    monkeypatch.setitem(reading.READERS, "little", reading.read_by_file)
    return store({f"{split}.txt.gz": (split, text.encode()) for split, text in TEXTS.items()})


# finding and checking files


def test_files_are_found_in_any_folder_on_the_search_path(entry, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNLAB_DATA", os.pathsep.join([str(tmp_path / "no"), str(tmp_path)]))
    assert verify_corpus("little") == 3
    corpus = load_corpus("little")
    assert {split: corpus.split(split)[0].text for split in SPLITS} == TEXTS
    assert [document.n_bytes for document in corpus] == [15, 5, 6]  # bytes, not characters
    assert load_corpus("little", keep_layout=False).train[0].text == "one two three"
    assert repr(corpus).startswith("Corpus('little', documents: train 1, validation 1")
    with pytest.raises(UnknownNameError, match="split is called 'tests'"):
        corpus.split("tests")


def test_the_cache_is_searched_after_the_named_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTNLAB_DATA", os.pathsep.join(["", str(tmp_path), ""]))
    assert data_folders() == [tmp_path, cache_folder()]
    assert cache_folder().parts[-2:] == ("data", "cache")
    monkeypatch.setattr("attnlab.paths.ROOT", None)  # an installed package
    assert cache_folder() == platformdirs.user_cache_path("attnlab")


def test_an_absent_corpus_names_layout_folders_and_command(entry, tmp_path, monkeypatch):
    folders = [tmp_path / "first", tmp_path / "second"]
    monkeypatch.setenv("ATTNLAB_DATA", os.pathsep.join(map(str, folders)))
    offered = replace(entry, files=tuple(replace(file, url="https://x") for file in entry.files))
    with pytest.raises(CorpusNotFoundError) as caught:
        read_files(offered)
    expected = [*folders, cache_folder(), "little/train.txt.gz", "`attnlab data fetch little`"]
    assert [part for part in map(str, expected) if part not in str(caught.value)] == []
    with pytest.raises(CorpusNotFoundError, match="Nobody offers all of it"):
        read_files(entry)


def test_a_missing_file_of_a_present_corpus_is_named(entry, tmp_path):
    (tmp_path / "little" / "test.txt.gz").unlink()
    with pytest.raises(IntegrityError, match=r"1 of 3 files.*little/test\.txt\.gz.*data fetch"):
        read_files(entry)


GOOD = TEXTS["train"].encode()
CHANGED = GOOD.replace(b"one", b"onE")
DIGEST = hashlib.sha256(CHANGED).hexdigest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((gzip.compress(GOOD, mtime=0)[:length], r"train\.txt\.gz") for length in (0, 1, 5, 20)),
        (gzip.compress(CHANGED, mtime=0), f"sha256 {DIGEST}, expected [0-9a-f]"),
        (gzip.compress(GOOD + b"more", mtime=0), "more than 15 bytes"),
        (GOOD, "cannot be unpacked"),
    ],
)
def test_a_damaged_file_is_refused(entry, tmp_path, content, message):
    (tmp_path / "little" / "train.txt.gz").write_bytes(content)
    with pytest.raises(IntegrityError, match=rf"{message}.*Delete it and run `attnlab data"):
        load_corpus("little")


# corpora as objects


@pytest.mark.parametrize(
    ("item", "corpus"),
    [
        (Document, lambda **splits: Corpus(name="c", licence="", **splits)),
        (SentencePair, lambda **splits: ParallelCorpus(
            name="c", licence="", source_language="de", target_language="en", **splits)),
    ],
)  # fmt: skip
def test_the_fingerprint_depends_on_everything_that_is_read(item, corpus):
    def fingerprint(train, test=()):
        return corpus(train=tuple(train), validation=(), test=tuple(test)).fingerprint

    a, others = item("a", "b"), [item("b", "b"), item("a", "a"), item("ab", ""), item("b", "a")]
    prints = [fingerprint([a]), fingerprint([], [a]), fingerprint([]), fingerprint([a, a])]
    prints += [fingerprint([other]) for other in others]
    assert len(set(prints)) == len(prints)
    assert fingerprint([a]) == prints[0]


@given(st.text())
def test_collapsing_keeps_the_words_and_leaves_single_blanks(text):
    collapsed = collapse_layout(text)
    pieces = [piece for piece in re.split(r"[ \t\r\n]", text) if piece]
    assert collapsed == " ".join(pieces)
    assert collapse_layout(collapsed) == collapsed


PARAGRAPHS = st.lists(st.sampled_from(["a", "b\nc", "", "\n", "a long one"]), max_size=30)


@given(PARAGRAPHS.map("\n\n".join) | st.just("ten chars\n\n" * 997))
def test_cuts_by_position_lose_nothing_and_fall_between_paragraphs_near_the_shares(text):
    parts = reading.cut_at_paragraphs(text, shares=(0.9, 0.05))
    assert "".join(parts) == text
    assert len(parts) == 3
    starts = (len(parts[0]), len(parts[0] + parts[1]))
    assert all(start == 0 or text[:start].endswith("\n\n") for start in starts)
    longest = max(len(part) + 4 for part in text.split("\n\n"))
    assert np.allclose(starts, np.array([0.9, 0.95]) * len(text), rtol=0, atol=longest)


# the manifest


def test_every_corpus_of_the_manifest_has_a_reader_a_licence_and_both_directions():
    assert {name.partition("/")[0] for name in list_corpora()} == set(reading.READERS)
    kinds = ("text", "pairs", "labels", "images")
    assert sorted(list_corpora()) == sorted(n for kind in kinds for n in list_corpora(kind=kind))
    assert all(describe_corpus(name).licence for name in list_corpora())
    for name in list_corpora(kind="pairs"):
        back = re.sub(r"(\w+)-(\w+)$", r"\2-\1", name)
        assert describe_corpus(name).files == describe_corpus(back).files
    with pytest.raises(UnknownNameError, match=r"'childern'.*Did you mean 'children'"):
        load_corpus("childern")


@pytest.mark.parametrize("name", list_corpora())
def test_every_file_is_pinned_at_two_hosts_and_lies_in_its_folder(name):
    for file in describe_corpus(name).files:
        if file.url != "-":
            pin = rf"/(?:[0-9a-f]{{40}}|sha256:{file.sha256_original})/"
            urls = file.url.split()
            assert all(re.match(rf"https://[^/]+/[^?]+{pin}", url) for url in urls)
            assert len({url.split("/")[2] for url in urls}) == len(urls) == 2
        sums = (file.sha256_original, file.sha256_normalised, file.sha256_text)
        assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in sums)
        assert file.split in (*SPLITS, "all")
        assert file.unpack in ("-", "gz")
        assert re.fullmatch(r"(?!.*\.\.)\w[\w./-]*\.gz", file.path)


def test_the_book_table_agrees_with_the_pinned_files_and_with_itself():
    files = {file.path: file for file in describe_corpus("children").files}
    rows = read_table("children_books")
    assert len(rows) == len(files) == 100
    in_training = Counter(row["author"] for row in rows if row["split"] == "train")
    known = Counter()
    for row in rows:
        file = files[f"books/{row['gutenberg_id']}.txt.gz"]
        assert (file.split, file.n_bytes) == (row["split"], int(row["n_bytes"]))
        assert int(row["n_train_books_by_author"]) == in_training[row["author"]]
        known[row["split"], bool(in_training[row["author"]])] += 1
    for split in ("validation", "test"):
        assert known[split, True] == known[split, False] == 3


# the language reference


def passages(documents):
    found = (collapse_layout(p) for document in documents for p in document.text.split("\n\n"))
    return {passage for passage in found if len(passage) >= 40}


def test_the_language_reference_is_split_without_leaks():
    corpus = load_corpus("python_reference")
    seen = [passages(corpus.split(split)) for split in SPLITS]
    assert len(set.union(*seen)) == sum(map(len, seen))
    n_characters = sum(len(document.text) for document in corpus)
    for split in ("validation", "test"):
        held_out = sum(len(document.text) for document in corpus.split(split))
        assert 0.03 < held_out / n_characters <= 0.05
    assert load_corpus("python_reference").fingerprint == corpus.fingerprint
    assert verify_corpus("python_reference") == 0


def test_a_topic_repeated_in_a_longer_one_goes_and_those_that_share_a_passage_stay_together():
    repeated = {"short": "x" * 50, "long": f"{'x' * 50}\n\n{'y' * 50}", "else": "z" * 50}
    assert reading.distinct_topics(repeated).keys() == {"long", "else"}
    topics = {f"t{i}": f"{chr(97 + i) * 50}\n\n{'s' * 50}" for i in range(2)}
    topics |= {f"u{i}": chr(110 + i) * 60 for i in range(13)} | {"big": "B" * 9000}
    splits = reading.split_topics(topics)
    # groups go in the order of a hash, as long as they fit: as in every recorded run
    tested = [name for name, split in splits.items() if split == "test"]
    assert tested == ["t0", "t1", "u3", "u5", "u9", "u10"]
    assert (splits["u0"], splits["big"]) == ("validation", "train")


def test_a_python_without_the_reference_is_told_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(CorpusNotFoundError, match=r"pydoc_data\.topics.*Use a full CPython"):
        load_corpus("python_reference")


# steps after a download


# kept: lines 4 to 9 ("TITLE" to "Once") and line 11 ("more.")
BOOK = b"Licence\nCredits\n\n  TITLE\xc2\xa0 \n\n\n\n[Illustration: a\nbear] Once  "
BOOK += b"\nNote\nmore.\nEnd\n"


@pytest.mark.parametrize(
    ("data", "changes", "stored"),
    [
        ("a\r\né\n\r".encode("latin-1"), {"encoding": "latin-1"}, "a\né\n\r".encode()),
        (b"\r\n\xff", {"encoding": "-"}, b"\r\n\xff"),
        ("é".encode("utf-8-sig"), {"encoding": "utf-8-sig"}, "é".encode()),
        (gzip.compress(b"in", mtime=0), {"unpack": "gz"}, b"in"),
        (b"abc", {"step": "first_bytes:2"}, b"ab"),
        (b"<talk>\na < b\n<x>y</x>\nc\n", {"step": "drop_tag_lines"}, b"a < b\nc\n"),
        (b"a\nb", {"step": "end_line"}, b"a\nb\n"),
        (BOOK, {"step": "strip_gutenberg:4-9,11-11"}, b"TITLE\n\n\n Once\nmore.\n"),
    ],
)
def test_original_bytes_are_unpacked_normalised_and_cut(monkeypatch, data, changes, stored):
    monkeypatch.setattr(fetching, "_check_sha256", lambda *_, **__: None)
    assert stored_bytes(data, replace(pinned("x", "train", data), **changes)) == stored


def test_an_unknown_step_is_refused():
    with pytest.raises(IntegrityError, match="'run:me' is no step"):
        stored_bytes(b"", replace(pinned("x", "train", b""), step="run:me"))


# sentence pairs


@pytest.fixture
def read_pairs(store, monkeypatch):
    """Load a corpus of one pair a split, or of what is said of a file."""

    def read_pairs(name="little/de-en", **changed):
        files = {}
        for split in SPLITS:
            for language, text in (("de", f"eins {split}\n"), ("en", f"one {split}\n")):
                text = changed.get(f"{split}_{language}", text)
                files[f"{split}.{language}.gz"] = (split, text.encode())
        monkeypatch.setitem(reading.READERS, "little", reading.read_parallel)
        store(files, name=name, kind="pairs")
        return load_corpus(name)

    return read_pairs


def test_lines_of_two_files_pair_in_their_order_in_both_directions(read_pairs):
    texts = {"train_de": "a\nb c\n", "train_en": "A\nB C\n"}
    corpus, back = read_pairs(**texts), read_pairs("little/en-de", **texts)
    assert corpus.train == (SentencePair("a", "A"), SentencePair("b c", "B C"))
    assert corpus.test == (SentencePair("eins test", "one test"),)
    assert (corpus.source_language, corpus.target_language) == ("de", "en")
    assert repr(corpus).startswith("ParallelCorpus('little/de-en', pairs: train 2, validation 1")
    assert [(p.source, p.target) for p in corpus] == [(p.target, p.source) for p in back]
    assert corpus.fingerprint != back.fingerprint
    with pytest.raises(IntegrityError, match=r"little/de-en test: 2 source lines and 1 target"):
        read_pairs(test_de="a\nb\n")


@pytest.mark.parametrize(
    ("german", "english", "pairs"),
    [
        ("a\u2028b\x0bc\n", "A\x85B\n", [("a\u2028b\x0bc", "A\x85B")]),  # line ends inside a line
        ("a\n@@\n\nd\n", "A\nB\nC\nD\n", [("a", "A"), ("d", "D")]),  # never translated
        # one pass only, and a bare & stays
        ("x\n", "it &apos;s &quot; &amp;quot; &#91; r&d\n", [("x", "it 's \" &quot; [ r&d")]),
    ],
)
def test_lines_become_pairs(read_pairs, german, english, pairs):
    corpus = read_pairs(train_de=german, train_en=english)
    assert [(pair.source, pair.target) for pair in corpus.train] == pairs
    n_left_out = german.count("\n") - len(pairs)
    said = f"{n_left_out} pairs without a translation are left out"
    assert (said in corpus.notes) == bool(n_left_out)


def test_the_official_archive_is_read_without_its_tags(store, monkeypatch):
    tags = "<url>http://x</url>\n<title>T</title>\n"
    gone = "IWSLT17.TED.tst2013.de-en.en.xml"
    texts = {}
    for language in ("de", "en"):
        train = f"{tags} {language} one \n{language} two\n{tags}"
        texts[f"train.tags.de-en.{language}"] = train
        for name in ("dev2010", *(f"tst{year}" for year in range(2010, 2016))):
            segments = f'<doc>\n<seg id="1"> {name} {language} A &amp; B </seg>\n</doc>\n'
            texts[f"IWSLT17.TED.{name}.de-en.{language}.xml"] = segments

    def load(texts):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w:gz") as archive:
            for file, text in texts.items():
                info = tarfile.TarInfo(f"de-en/{file}")
                info.size = len(text.encode())
                archive.addfile(info, io.BytesIO(text.encode()))
        store({"de-en.tgz.gz": ("all", raw.getvalue())}, name="little/en-de", kind="pairs")
        return load_corpus("little/en-de")

    monkeypatch.setitem(reading.READERS, "little", reading.read_archive)
    corpus = load(texts)
    assert corpus.train == (SentencePair("en one", "de one"), SentencePair("en two", "de two"))
    assert corpus.validation == (SentencePair("dev2010 en A & B", "dev2010 de A & B"),)
    assert [pair.source[:7] for pair in corpus.test] == [f"tst{y}" for y in range(2010, 2016)]
    with pytest.raises(IntegrityError, match=f"no file '{re.escape(gone)}'"):
        load({file: text for file, text in texts.items() if file != gone})


# the real files, where they are


read_once = lru_cache(maxsize=1)(load_corpus)  # the books are asked for one test after another


@pytest.fixture
def real(corpus_folder):
    def load(name):
        corpus_folder(describe_corpus(name).folder)
        return read_once(name)

    return load


def test_what_printers_left_in_the_books_is_what_the_notes_say(real):
    books = {book.name: book.text for book in real("children")}
    with_pages = [name for name, text in books.items() if re.search(r"\{\d+[ab]?\}", text)]
    with_notes = [name for name, text in books.items() if re.search(r"\[\d+\]", text)]
    assert (len(with_pages), len(with_notes)) == (4, 6)
    assert "[Note: The correct words were obtained" in books["47"][-600:]
    assert reading.LEFT_IN_CHILDREN in real("children").notes


def test_the_hundred_books_are_split_by_book_and_read_without_line_ends(real):
    corpus, kept = real("children"), load_corpus("children", keep_layout=True)
    assert len({document.name for document in corpus}) == 100
    assert all(document.title and document.author for document in corpus)
    assert all("\n" in document.text for document in kept)
    assert [d.text for d in corpus] == [collapse_layout(d.text) for d in kept]


def test_books_are_made_from_the_raw_files_byte_for_byte(corpus_folder):
    raw = corpus_folder("gutenberg_children") / "raw"
    if not raw.is_dir():
        pytest.skip("corpus not here: raw files of the books")
    files = describe_corpus("children").files
    several_ranges = [file for file in files if "," in file.step]
    for file in [*files[::17], *several_ranges]:
        data = gzip.decompress((raw / file.path.removeprefix("books/")).read_bytes())
        stored_bytes(data, replace(file, encoding="utf-8"))  # compares both checksums
    alice = next(file for file in files if file.path == "books/11.txt.gz")
    original = gzip.decompress((raw / "11.txt.gz").read_bytes()).replace(b"\n", b"\r\n")
    assert hashlib.sha256(original).hexdigest() == alice.sha256_original
    assert hashlib.sha256(stored_bytes(original, alice)).hexdigest() == alice.sha256_text


@pytest.mark.parametrize(
    ("name", "sizes", "said", "n_files", "fingerprint"),  # the last as in the records
    [
        ("children", (88, 6, 6), "", 100, "12d9b5380923"),
        ("tinyshakespeare", (1, 1, 1), "last 5 %", 1, "a72ab5bbaacb"),
        ("wikitext2", (1, 1, 1), "20 articles", 3, "0da8c437ed36"),
        # 29,000 less two lines of @@
        ("multi30k/de-en", (28_998, 1_014, 1_000), "2 pairs without", 6, "1444af3643a1"),
        ("multi30k/en-fr", (29_000, 1_014, 1_000), "test_2016", 6, "b2f704871f2d"),
        ("ted_iwslt/fr-en", (28_072, 887, 1_305), "tst2014", 6, "0e3afa76eb81"),
    ],
)
def test_a_real_corpus_has_its_sizes_and_sentences(real, name, sizes, said, n_files, fingerprint):
    corpus = real(name)
    assert tuple(len(corpus.split(split)) for split in SPLITS) == sizes
    assert said in corpus.notes
    assert verify_corpus(name) == n_files
    assert corpus.fingerprint == fingerprint


def test_a_stand_in_says_what_it_is(corpus_folder):
    here = corpus_folder("ted_iwslt").parent / "iwslt2017"
    if here.is_dir():
        pytest.skip("corpus not here: ted_iwslt is not read where the full set is")
    corpus, part = load_corpus("iwslt2017/de-en"), load_corpus("ted_iwslt/de-en")
    assert (corpus.name, corpus.fingerprint) == ("iwslt2017/de-en", part.fingerprint)
    assert "iwslt2017/de-en itself is not here; this is ted_iwslt/de-en" in corpus.notes
    assert "50,760 training pairs" in corpus.notes
    assert "NC-ND" in corpus.licence
