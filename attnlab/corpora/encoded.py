"""Corpora as token ids, one array a document, kept on disk and verified when read back."""

import hashlib
import io
import logging
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from attnlab.corpora.records import SPLITS, Corpus, Document
from attnlab.paths import cache_folder, write_whole

LOGGER = logging.getLogger(__name__)

_ARRAYS = ("names", "tokens", "lengths", "n_bytes")


class Encoder(Protocol):
    """The part of a tokenizer that is needed here."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    @property
    def digest(self) -> str:
        """Name of the tokenizer's content."""
        ...

    def encode_array(self, text: str) -> np.ndarray:
        """Return ids, ``(n_tokens,)``."""
        ...


@dataclass(frozen=True, kw_only=True)
class EncodedSplit:
    """One split as token ids, document by document.

    Shapes:
        tokens: one ``(n_tokens,)`` array a document; ``uint16`` up to 65,536 tokens in
        the vocabulary, ``int32`` beyond. n_bytes: ``(n_documents,)``, UTF-8 bytes.
    """

    names: tuple[str, ...]
    tokens: tuple[np.ndarray, ...]
    n_bytes: np.ndarray

    @property
    def n_tokens(self) -> int:
        """Number of tokens of all documents together."""
        return sum(map(len, self.tokens))

    @cached_property
    def all_tokens(self) -> np.ndarray:
        """All documents end to end, ``(n_tokens,)``, in order."""
        return np.concatenate(self.tokens) if self.tokens else np.empty(0, dtype=np.uint16)

    @property
    def bytes_per_token(self) -> float:
        """Mean UTF-8 bytes a token: bits per byte = nats per token / log 2 / this."""
        return float(self.n_bytes.sum() / max(self.n_tokens, 1))


@dataclass(frozen=True, kw_only=True)
class EncodedCorpus:
    """The three splits of a corpus as token ids, with what made them."""

    name: str
    fingerprint: str
    tokenizer_digest: str
    vocab_size: int
    train: EncodedSplit
    validation: EncodedSplit
    test: EncodedSplit


def encode_split(documents: Sequence[Document], tokenizer: Encoder) -> EncodedSplit:
    """Encode each document on its own, so that no token spans two of them."""
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
    return EncodedSplit(
        names=tuple(document.name for document in documents),
        tokens=tuple(tokenizer.encode_array(doc.text).astype(dtype) for doc in documents),
        n_bytes=np.array([document.n_bytes for document in documents], dtype=np.int64),
    )


def encode_corpus(
    corpus: Corpus, tokenizer: Encoder, *, cache: str | os.PathLike | None = None
) -> EncodedCorpus:
    """Return a corpus as token ids, from the cache where it has been encoded before.

    A cached file carries a checksum of its arrays; one that is damaged is made again.

    Args:
        corpus: What ``load_corpus`` returned.
        tokenizer: One of ``attnlab.corpora.tokenizers``.
        cache: Folder of the encoded files; default ``encoded`` in the cache folder.
    """
    folder = Path(cache) if cache is not None else cache_folder() / "encoded"
    name = f"{corpus.name.replace('/', '_')}-{tokenizer.digest}-{corpus.fingerprint}.npz"
    splits = _read(folder / name)
    if splits is None:
        splits = {split: encode_split(corpus.split(split), tokenizer) for split in SPLITS}
        _write(folder / name, splits)
    return EncodedCorpus(
        name=corpus.name,
        fingerprint=corpus.fingerprint,
        tokenizer_digest=tokenizer.digest,
        vocab_size=tokenizer.vocab_size,
        **splits,
    )


def _write(path: Path, splits: dict[str, EncodedSplit]) -> None:
    arrays = {}
    for split, encoded in splits.items():
        arrays[f"{split}_names"] = np.array(encoded.names, dtype=np.str_)
        arrays[f"{split}_tokens"] = encoded.all_tokens
        arrays[f"{split}_lengths"] = np.array(list(map(len, encoded.tokens)), dtype=np.int64)
        arrays[f"{split}_n_bytes"] = encoded.n_bytes
    file = io.BytesIO()
    np.savez(file, sha256=np.array(_checksum(arrays)), **arrays)
    write_whole(path, file.getvalue())


def _read(path: Path) -> dict[str, EncodedSplit] | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {f"{split}_{kind}": stored[f"{split}_{kind}"] for split, kind in _keys()}
            if str(stored["sha256"]) != _checksum(arrays):
                raise ValueError("its checksum does not fit its content")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as problem:
        LOGGER.warning("%s is damaged (%s); encoding again.", path, problem)
        return None
    return {split: _split(arrays, split) for split in SPLITS}


def _split(arrays: dict[str, np.ndarray], split: str) -> EncodedSplit:
    ends = np.cumsum(arrays[f"{split}_lengths"])[:-1]
    n_documents = len(arrays[f"{split}_names"])
    tokens = np.split(arrays[f"{split}_tokens"], ends) if n_documents else []
    return EncodedSplit(
        names=tuple(arrays[f"{split}_names"].tolist()),
        tokens=tuple(tokens),
        n_bytes=arrays[f"{split}_n_bytes"],
    )


def _keys() -> list[tuple[str, str]]:
    return [(split, kind) for split in SPLITS for kind in _ARRAYS]


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()
