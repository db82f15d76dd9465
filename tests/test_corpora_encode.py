"""Text as token ids: nothing lost between documents, nothing believed from a damaged cache."""

import logging
import pickle
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlab.config import BOS, EOS, N_SPECIAL, PAD, UNK
from attnlab.corpora import (
    SPLITS,
    Corpus,
    Document,
    SentencePair,
    SubwordVocabulary,
    collapse_layout,
    encode_corpus,
    encode_pairs,
    train_bpe,
)
from attnlab.corpora.encode import encode_documents
from attnlab.errors import AttnlabError

BOOKS = tuple(Document(str(i), f"Once upon a time, {i} é bears.\n" * (i + 1)) for i in range(5))


@pytest.fixture
def corpus():
    empty = Document("empty", "")
    return Corpus(
        name="little/books", licence="", train=BOOKS[:3], validation=(BOOKS[3], empty), test=()
    )


@pytest.fixture
def tokenizer():
    return train_bpe([book.text for book in BOOKS], vocab_size=281)


def test_each_document_decodes_to_itself_byte_by_byte(tokenizer):
    encoded = encode_documents(BOOKS, tokenizer)
    assert [tokenizer.decode(ids) for ids in encoded] == [book.text for book in BOOKS]
    n_bytes = [tokenizer.token_lengths[ids].sum() for ids in encoded]
    assert n_bytes == [book.n_bytes for book in BOOKS]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(1 << 16, np.uint16), (65_537, np.int32)])
def test_ids_take_two_bytes_where_two_are_enough(corpus, tmp_path, vocab_size, dtype):
    def encode(text):
        return np.full(len(text), vocab_size - 1, dtype=np.int32)

    large = SimpleNamespace(digest="large", vocab_size=vocab_size, encode=encode)
    for _ in range(2):  # encoded, then from the cache
        documents = encode_corpus(corpus, large, cache=tmp_path)["train"]
        assert documents[0].dtype == dtype
        assert documents[0].max() == vocab_size - 1


def assert_same(left, right):
    for split in SPLITS:
        assert [ids.tolist() for ids in left[split]] == [ids.tolist() for ids in right[split]]
        assert [ids.dtype for ids in left[split]] == [ids.dtype for ids in right[split]]


def broken(tokenizer):
    """Return what has the digest and size of a tokenizer but cannot encode."""
    return SimpleNamespace(digest=tokenizer.digest, vocab_size=tokenizer.vocab_size)


def test_the_cache_gives_the_same_arrays_without_encoding_and_each_text_its_own_file(
    corpus, tokenizer, tmp_path
):
    first = encode_corpus(corpus, tokenizer, cache=tmp_path)
    assert_same(first, encode_corpus(corpus, broken(tokenizer), cache=tmp_path))
    (path,) = tmp_path.iterdir()
    assert path.name == f"little_books-{tokenizer.digest}-{corpus.fingerprint}.npz"
    encode_corpus(corpus, train_bpe(["other"], vocab_size=257), cache=tmp_path)
    encode_corpus(replace(corpus, train=BOOKS[:2]), tokenizer, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"train_tokens.npy") + 200] ^= 1  # past the header, among the tokens
    path.write_bytes(content)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "not an archive": lambda path: path.write_bytes(b"PK" + bytes(999)),
    "pickled": lambda path: path.write_bytes(b"\x93NUMPY" + pickle.dumps([{}])),
    "one bit changed": flip_a_bit,
    "arrays missing": lambda path: np.savez(path, other=np.array("0")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_cache_is_made_again_and_said(corpus, tokenizer, tmp_path, caplog, damage):
    good = encode_corpus(corpus, tokenizer, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    damage(path)
    with caplog.at_level(logging.WARNING):
        again = encode_corpus(corpus, tokenizer, cache=tmp_path)
    assert_same(good, again)
    assert "is damaged" in caplog.text
    assert_same(good, encode_corpus(corpus, broken(tokenizer), cache=tmp_path))


# sentence pairs

PAIRS = [
    SentencePair("ein Hund läuft", "a dog runs"),
    SentencePair("zwei Hunde laufen", "two dogs run"),
    SentencePair("eine Katze schläft", "a cat sleeps"),
]


@pytest.fixture(scope="module")
def vocabulary():
    texts = [text for pair in PAIRS for text in (pair.source, pair.target)]
    return SubwordVocabulary(train_bpe(texts, vocab_size=270))


@given(text=st.text())
def test_any_sentence_comes_back_from_its_pieces(vocabulary, text):
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == collapse_layout(text)
    assert (ids >= N_SPECIAL).all()
    assert (ids < vocabulary.vocab_size).all()


def test_special_tokens_are_not_written_and_the_end_is_the_end(vocabulary):
    ids = vocabulary.encode("a dog")
    assert vocabulary.decode([BOS, *ids, PAD, EOS, *ids]) == "a dog"
    assert vocabulary.decode([UNK, *ids]) == "\ufffda dog"
    assert vocabulary.decode([]) == ""


@pytest.fixture
def encode(vocabulary):
    return partial(encode_pairs, source_vocabulary=vocabulary, target_vocabulary=vocabulary)


@pytest.mark.parametrize("max_len", range(1, 30))
def test_pairs_that_are_too_long_are_left_out(vocabulary, encode, max_len):
    ids = [(vocabulary.encode(p.source), vocabulary.encode(p.target)) for p in PAIRS]
    encoded = encode(PAIRS, max_len=max_len)
    # BOS takes a position of the target
    fits = [(s, t) for s, t in ids if len(s) <= max_len and len(t) + 1 <= max_len]
    assert [list(map(list, pair)) for pair in encoded] == [list(map(list, pair)) for pair in fits]
    assert all(array.dtype == np.int64 for pair in encoded for array in pair)


def test_an_empty_sentence_has_no_tokens_and_no_limit_no_sentence(encode):
    ((source, target),) = encode([SentencePair("", "")])
    assert len(source) == len(target) == 0
    with pytest.raises(AttnlabError, match="max_len=0"):
        encode(PAIRS, max_len=0)
