"""Text as token ids: corpora kept on disk, sentence pairs with their length limit."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnlab.config import EOS, N_SPECIAL, UNK, digest_of
from attnlab.corpora.read import SPLITS, Corpus, Document, SentencePair
from attnlab.corpora.tokenizers import Tokenizer
from attnlab.errors import AttnlabError, FileError, shorten
from attnlab.paths import cache_folder, write_whole

LOGGER = logging.getLogger(__name__)

UNKNOWN = "\ufffd"  # how UNK is written

Documents = tuple[np.ndarray, ...]  # one (n_tokens,) array a document


def encode_documents(documents: Sequence[Document], tokenizer: Tokenizer) -> Documents:
    """Encode each document on its own, so that no token spans two of them.

    Shapes:
        Returns one ``(n_tokens,)`` array a document; ``uint16`` up to 65,536 tokens in
        the vocabulary, ``int32`` beyond.
    """
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
    return tuple(tokenizer.encode(document.text).astype(dtype) for document in documents)


def encode_corpus(
    corpus: Corpus, tokenizer: Tokenizer, *, cache: str | os.PathLike | None = None
) -> dict[str, Documents]:
    """Return the splits of a corpus as token ids, from the cache where they have been encoded.

    A cached file that is damaged is made again; a cache that cannot be written is done without.

    Args:
        corpus: What ``load_corpus`` returned.
        tokenizer: Reads the text.
        cache: Folder of the encoded files; default ``encoded`` in the cache folder.
    """
    folder = Path(cache) if cache is not None else cache_folder() / "encoded"
    name = f"{corpus.name.replace('/', '_')}-{tokenizer.digest}-{corpus.fingerprint}.npz"
    stored = _read(folder / name, tokenizer.vocab_size)
    if stored is not None:
        return stored
    splits = {split: encode_documents(corpus.split(split), tokenizer) for split in SPLITS}
    arrays = {}
    for split, documents in splits.items():
        arrays[f"{split}_tokens"] = np.concatenate([np.empty(0, np.uint16), *documents])
        arrays[f"{split}_lengths"] = np.array(list(map(len, documents)), dtype=np.int64)
    np.savez(file := io.BytesIO(), **arrays)
    try:
        write_whole(folder / name, file.getvalue())
    except FileError as problem:
        LOGGER.warning("The encoded text is not kept: %s", problem)
    return splits


def _read(path: Path, vocab_size: int) -> dict[str, Documents] | None:
    splits = {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            for split in SPLITS:
                lengths, tokens = stored[f"{split}_lengths"], stored[f"{split}_tokens"]
                # reading checks a CRC-32; what follows, that it is what was written
                if lengths.dtype != np.int64 or tokens.dtype not in (np.uint16, np.int32):
                    raise ValueError(f"{lengths.dtype} and {tokens.dtype} are no tokens")
                if lengths.min(initial=0) < 0 or (len(tokens),) != (
                    lengths.sum(),
                    *tokens.shape[1:],
                ):
                    raise ValueError("lengths and tokens do not belong together")
                if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocab_size:
                    raise ValueError(f"tokens outside the vocabulary of {vocab_size}")
                splits[split] = tuple(np.split(tokens, np.cumsum(lengths))[:-1])
    except FileNotFoundError:
        return None
    except Exception as problem:  # zip, zlib and numpy raise what they like at other bytes
        LOGGER.warning("%s is damaged (%s); encoding again.", path, shorten(problem))
        return None
    return splits


class Vocabulary(Protocol):
    """What turns a sentence into token ids and back; ids 0 to 3 are ``PAD, BOS, EOS, UNK``."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids, the special ones among them."""
        ...

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the ids of a sentence, without ``BOS`` and ``EOS``."""
        ...

    def decode(self, tokens: ArrayLike) -> str:
        """Return the sentence up to ``EOS``, without special tokens."""
        ...


class SubwordVocabulary:
    """The pieces of a tokenizer, moved up to make room for the special tokens.

    Byte-level pieces spell any text, so nothing is ever ``UNK``.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take a tokenizer; piece i becomes id ``N_SPECIAL + i``."""
        self.tokenizer = tokenizer
        self.vocab_size = N_SPECIAL + tokenizer.vocab_size
        self.digest = tokenizer.digest

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the ids of a sentence, without ``BOS`` and ``EOS``."""
        return self.tokenizer.encode(text).astype(np.int64) + N_SPECIAL

    def decode(self, tokens: ArrayLike) -> str:
        """Return the sentence up to ``EOS``; padding is left out, ``UNK`` shows as U+FFFD."""
        ids = np.asarray(tokens, dtype=np.int64).ravel()
        ends = np.flatnonzero(ids == EOS)
        data = b"".join(map(self._bytes, ids[: ends[0] if len(ends) else None].tolist()))
        return data.decode("utf-8", errors="replace")

    def _bytes(self, token: int) -> bytes:
        if token < N_SPECIAL:
            return UNKNOWN.encode() if token == UNK else b""
        return self.tokenizer.token_bytes(token - N_SPECIAL)


class WordVocabulary:
    """The words of some texts, cut at blanks: for languages of few words, where each is a symbol.

    >>> vocabulary = WordVocabulary(["run left", "I_RUN"])
    >>> vocabulary.vocab_size, vocabulary.encode("run run").tolist()
    (7, [6, 6])
    """

    def __init__(self, texts: Iterable[str]) -> None:
        """Take training texts; their words become ids from ``N_SPECIAL`` on, in their order."""
        self.words = tuple(sorted({word for text in texts for word in text.split()}))
        self._ids = {word: N_SPECIAL + i for i, word in enumerate(self.words)}
        self.vocab_size = N_SPECIAL + len(self.words)
        self.digest = digest_of({"words": self.words})

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the ids of a text, without ``BOS`` and ``EOS``; what is no word of it, ``UNK``."""
        return np.array([self._ids.get(word, UNK) for word in text.split()], np.int64)

    def decode(self, tokens: ArrayLike) -> str:
        """Return the text up to ``EOS``; padding is left out, ``UNK`` shows as U+FFFD."""
        ids = np.asarray(tokens, dtype=np.int64).ravel()
        ends = np.flatnonzero(ids == EOS)
        return " ".join(
            filter(None, map(self._word, ids[: ends[0] if len(ends) else None].tolist()))
        )

    def _word(self, token: int) -> str:
        if token < N_SPECIAL:
            return UNKNOWN if token == UNK else ""
        return self.words[token - N_SPECIAL]


def encode_pairs(
    pairs: Sequence[SentencePair],
    *,
    source_vocabulary: Vocabulary,
    target_vocabulary: Vocabulary,
    max_len: int = 50,
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Encode sentence pairs and leave out those that a translator cannot read.

    Shapes:
        Returns pairs of ``(n_tokens,)`` arrays, without ``BOS`` and ``EOS``.
    Args:
        max_len: Positions of the translator on each side: a pair goes if its source has more
            tokens, or its target more than one less (``BOS`` takes the first position).
    """
    if max_len < 1:
        raise AttnlabError(f"max_len={max_len} keeps no sentence; the paper's value is 50.")
    encoded = (
        (source_vocabulary.encode(pair.source), target_vocabulary.encode(pair.target))
        for pair in pairs
    )
    return [ids for ids in encoded if len(ids[0]) <= max_len and len(ids[1]) < max_len]
