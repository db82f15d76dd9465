"""Sentence pairs as token ids: subword vocabularies, the length limit, what it left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnlab.config import EOS, N_SPECIAL, UNK
from attnlab.corpora.parallel import SentencePair
from attnlab.corpora.tokenizers import Tokenizer, train_bpe
from attnlab.errors import AttnlabError

UNKNOWN = "\ufffd"  # how UNK is written


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

    @property
    def vocab_size(self) -> int:
        """Number of token ids, the special ones among them."""
        return N_SPECIAL + self.tokenizer.vocab_size

    @property
    def digest(self) -> str:
        """Name of the tokenizer's content."""
        return self.tokenizer.digest

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the ids of a sentence, without ``BOS`` and ``EOS``."""
        return self.tokenizer.encode_array(text).astype(np.int64) + N_SPECIAL

    def decode(self, tokens: ArrayLike) -> str:
        """Return the sentence up to ``EOS``; padding is left out, ``UNK`` shows as U+FFFD."""
        ids = np.asarray(tokens, dtype=np.int64).ravel()
        ends = np.flatnonzero(ids == EOS)
        ids = ids[: ends[0]] if len(ends) else ids
        data = b"".join(self._bytes(token) for token in ids.tolist())
        return data.decode("utf-8", errors="replace")

    def pieces(self, tokens: ArrayLike) -> list[str]:
        """Return the text of each token on its own, for the axes of a picture."""
        return [self.decode([token]) for token in np.asarray(tokens).ravel().tolist()]

    def _bytes(self, token: int) -> bytes:
        if token < N_SPECIAL:
            return UNKNOWN.encode() if token == UNK else b""
        return self.tokenizer.token_bytes(token - N_SPECIAL)


@dataclass(frozen=True, kw_only=True)
class EncodedPairs(Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]):
    """Sentence pairs as token ids, without ``BOS`` and ``EOS``, and how many were too long.

    Shapes:
        source, target: one ``(n_tokens,)`` array a sentence.
    """

    source: tuple[NDArray[np.int64], ...]
    target: tuple[NDArray[np.int64], ...]
    kept: NDArray[np.int64]  # which of the pairs that were given, (n,)
    n_too_long: int

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.source)

    def __getitem__(self, index: int | slice) -> Any:
        """Return one pair of arrays, or a list of them for a slice."""
        if isinstance(index, slice):
            return list(zip(self.source[index], self.target[index], strict=True))
        return self.source[index], self.target[index]

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Go through all pairs."""
        return zip(self.source, self.target, strict=True)


def encode_pairs(
    pairs: Sequence[SentencePair],
    *,
    source_vocabulary: Vocabulary,
    target_vocabulary: Vocabulary,
    max_len: int = 50,
) -> EncodedPairs:
    """Encode sentence pairs and leave out those that a translator cannot read.

    Args:
        max_len: Positions of the translator on each side: a pair goes if its source has more
            tokens, or its target more than one less (``BOS`` takes the first position).
    """
    if max_len < 1:
        raise AttnlabError(f"max_len={max_len} keeps no sentence; the paper's value is 50.")
    source, target, kept = [], [], []
    for number, pair in enumerate(pairs):
        ids = source_vocabulary.encode(pair.source), target_vocabulary.encode(pair.target)
        if len(ids[0]) <= max_len and len(ids[1]) < max_len:
            source.append(ids[0])
            target.append(ids[1])
            kept.append(number)
    return EncodedPairs(
        source=tuple(source),
        target=tuple(target),
        kept=np.array(kept, dtype=np.int64),
        n_too_long=len(pairs) - len(kept),
    )


def learn_vocabularies(
    pairs: Sequence[SentencePair], *, vocab_size: int = 8000, joint: bool = True
) -> tuple[SubwordVocabulary, SubwordVocabulary]:
    """Learn byte-pair pieces from training pairs; return source and target vocabulary.

    Args:
        vocab_size: Pieces to ask for; each vocabulary has four special tokens more.
        joint: One vocabulary for both languages, or one of ``vocab_size`` pieces for each.
    """
    source, target = [pair.source for pair in pairs], [pair.target for pair in pairs]
    if joint:
        shared = SubwordVocabulary(train_bpe([*source, *target], vocab_size=vocab_size))
        return shared, shared
    return (
        SubwordVocabulary(train_bpe(source, vocab_size=vocab_size)),
        SubwordVocabulary(train_bpe(target, vocab_size=vocab_size)),
    )
