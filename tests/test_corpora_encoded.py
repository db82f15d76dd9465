"""Corpora as token ids: nothing lost between documents, nothing believed from a damaged cache."""

import logging

import numpy as np
import pytest

from attnlab.corpora import Corpus, Document, encode_corpus, encode_split
from attnlab.corpora.records import SPLITS
from attnlab.corpora.tokenizers import character_tokenizer, train_bpe

BOOKS = tuple(Document(str(i), f"Once upon a time, {i} é bears. " * (i + 1)) for i in range(5))


@pytest.fixture
def corpus():
    empty = Document("empty", "")
    return Corpus(
        name="little/books", licence="", train=BOOKS[:3], validation=(BOOKS[3], empty), test=()
    )


@pytest.fixture
def tokenizer():
    return train_bpe([book.text for book in BOOKS], vocab_size=281)


def test_each_document_decodes_to_itself(tokenizer):
    encoded = encode_split(BOOKS, tokenizer)
    assert [tokenizer.decode(ids) for ids in encoded.tokens] == [book.text for book in BOOKS]
    assert encoded.names == tuple(book.name for book in BOOKS)


def test_bytes_of_the_tokens_are_the_bytes_of_the_text(tokenizer):
    encoded = encode_split(BOOKS, tokenizer)
    from_tokens = [tokenizer.token_lengths[ids].sum() for ids in encoded.tokens]
    np.testing.assert_array_equal(from_tokens, encoded.n_bytes)
    assert encoded.n_bytes.tolist() == [len(book.text.encode()) for book in BOOKS]
    assert encoded.bytes_per_token == encoded.n_bytes.sum() / encoded.all_tokens.size


def test_ids_take_two_bytes_where_two_are_enough(tokenizer):
    assert encode_split(BOOKS, tokenizer).all_tokens.dtype == np.uint16


def test_ids_take_four_bytes_where_two_are_too_few():
    many = character_tokenizer(["".join(map(chr, range(0x10000, 0x20005)))])  # 65,541 characters
    encoded = encode_split([Document("last", chr(0x20004))], many)
    assert encoded.tokens[0].dtype == np.int32
    assert encoded.tokens[0].tolist() == [0x10004]


def assert_same(left, right):
    for split in SPLITS:
        a, b = getattr(left, split), getattr(right, split)
        assert a.names == b.names
        np.testing.assert_array_equal(a.n_bytes, b.n_bytes)
        assert [ids.tolist() for ids in a.tokens] == [ids.tolist() for ids in b.tokens]
        assert a.all_tokens.dtype == b.all_tokens.dtype


class Broken:
    """Has the digest and size of a tokenizer but must not be asked to encode."""

    def __init__(self, tokenizer):
        self.digest, self.vocab_size = tokenizer.digest, tokenizer.vocab_size

    def encode_array(self, text):
        raise AssertionError("the cache was not used")


def test_the_cache_gives_the_same_arrays_without_encoding(corpus, tokenizer, tmp_path):
    first = encode_corpus(corpus, tokenizer, cache=tmp_path)
    assert_same(first, encode_corpus(corpus, Broken(tokenizer), cache=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [
        f"little_books-{tokenizer.digest}-{corpus.fingerprint}.npz"
    ]


def test_another_text_or_tokenizer_has_its_own_file(corpus, tokenizer, tmp_path):
    encode_corpus(corpus, tokenizer, cache=tmp_path)
    encode_corpus(corpus, train_bpe(["other"], vocab_size=257), cache=tmp_path)
    other = Corpus(name=corpus.name, licence="", train=BOOKS[:2], validation=(), test=())
    encode_corpus(other, tokenizer, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def flip_a_token(path):
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["train_tokens"][3] ^= 1
    np.savez(path, **arrays)


def pickle_a_list(path):
    with path.open("wb") as file:
        np.save(file, np.array([{}], dtype=object))


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "not an archive": lambda path: path.write_bytes(b"PK" + bytes(999)),
    "pickled": pickle_a_list,
    "one token changed": flip_a_token,
    "arrays missing": lambda path: np.savez(path, sha256=np.array("0")),
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
    assert_same(good, encode_corpus(corpus, Broken(tokenizer), cache=tmp_path))
