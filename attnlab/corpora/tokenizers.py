"""Text to token ids and back, exactly: byte-level BPE and single characters.

Both kinds are saved as one JSON file, have a digest that names them in run records, and
know the UTF-8 length of each token, so that a loss in nats per token becomes bits per byte.
"""

import functools
import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tokenizers as hf
from numpy.typing import ArrayLike

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.paths import write_whole

FORMAT = "attnlab-tokenizer-1"
N_BYTE_VALUES = 256
UNKNOWN = "\ufffd"  # what an unknown character decodes to

_CHUNK_CHARACTERS = 20_000
_SAFE_CUT = re.compile(r"(?<=[A-Za-z0-9.,;])(?= [A-Za-z])")


class Tokenizer(ABC):
    """What every tokenizer does. ``decode(encode(text)) == text``."""

    kind: str

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of token ids; ids are ``0 .. vocab_size - 1``."""

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes that one token stands for."""

    @abstractmethod
    def encode_array(self, text: str) -> np.ndarray:
        """Return the token ids of ``text`` as ``np.int32`` of shape ``(n_tokens,)``."""

    @abstractmethod
    def _state(self) -> dict:
        """Return what the JSON file holds besides format and kind."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``."""
        return self.encode_array(text).tolist()

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of token ids, a list or an array ``(n_tokens,)``.

        Ids that do not add up to UTF-8 (a sample cut inside a character) show ``U+FFFD``.
        """
        ids = np.asarray(ids, dtype=np.int64).ravel()
        pieces = b"".join(self.token_bytes(token) for token in ids.tolist())
        return pieces.decode("utf-8", errors="replace")

    @functools.cached_property
    def token_lengths(self) -> np.ndarray:
        """UTF-8 length of every token, ``(vocab_size,)``, in bytes."""
        lengths = [len(self.token_bytes(token)) for token in range(self.vocab_size)]
        return np.array(lengths, dtype=np.int64)

    @functools.cached_property
    def digest(self) -> str:
        """Twelve hex digits of the sha256 of the tokenizer's JSON."""
        return hashlib.sha256(self._json().encode()).hexdigest()[:12]

    def save(self, path: str | os.PathLike) -> None:
        """Write the tokenizer as JSON; the file appears whole or not at all."""
        write_whole(Path(path), self._json())

    def __repr__(self) -> str:
        """Kind, size and digest."""
        return f"Tokenizer({self.kind}, vocab_size={self.vocab_size}, digest={self.digest})"

    def _json(self) -> str:
        return json.dumps({"format": FORMAT, "kind": self.kind, **self._state()}, sort_keys=True)

    def _check_id(self, token: int) -> None:
        if not 0 <= token < self.vocab_size:
            raise AttnlabError(
                f"Token id {token} is outside this tokenizer's 0 to {self.vocab_size - 1}. "
                "The ids come from another tokenizer, or the model has a larger vocabulary."
            )


class BytePairTokenizer(Tokenizer):
    """Byte-level byte-pair encoding: every text has an encoding, and it is exact."""

    kind = "byte_bpe"

    def __init__(self, tokenizer: hf.Tokenizer) -> None:
        """Wrap a trained tokenizer of the ``tokenizers`` library."""
        self._tokenizer = tokenizer
        alphabet = {letter: value for value, letter in enumerate(_byte_letters())}
        vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        self._bytes = [bytes(alphabet[letter] for letter in token) for token, _ in vocabulary]

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the 256 bytes among them."""
        return len(self._bytes)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token; they may be part of a character."""
        self._check_id(token)
        return self._bytes[token]

    def encode_array(self, text: str) -> np.ndarray:
        """Return token ids as ``np.int32``; a book is cut where no token can cross, for speed."""
        _check_encodable(text)
        encodings = self._tokenizer.encode_batch_fast(safe_chunks(text), add_special_tokens=False)
        parts = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)

    def _state(self) -> dict:
        return {"tokenizer": json.loads(self._tokenizer.to_str())}


class CharacterTokenizer(Tokenizer):
    """One token a character, ids in the order of code points."""

    kind = "character"

    def __init__(self, symbols: Iterable[str], *, unknown: bool = False) -> None:
        """Number the distinct characters of ``symbols``.

        Args:
            symbols: Characters; order and repetition do not matter.
            unknown: Reserve id 0 for characters that are not among them. Such text does
                not come back from ``decode``; without it, it raises an error.
        """
        self.unknown = unknown
        points = sorted({ord(symbol) for symbol in symbols})
        self._points = np.array(points, dtype=np.uint32)
        known = [chr(point) for point in points]
        self.symbols = [UNKNOWN, *known] if unknown else known

    @property
    def vocab_size(self) -> int:
        """Number of characters, the unknown one among them if there is one."""
        return len(self.symbols)

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of one character."""
        self._check_id(token)
        return self.symbols[token].encode()

    def encode_array(self, text: str) -> np.ndarray:
        """Return one ``np.int32`` id a character."""
        _check_encodable(text)
        points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        if not self._points.size:
            is_known, ids = np.zeros(points.size, dtype=bool), np.zeros(points.size, dtype=np.int64)
        else:
            ids = np.searchsorted(self._points, points).clip(max=self._points.size - 1)
            is_known = self._points[ids] == points
        if self.unknown:
            ids = np.where(is_known, ids + 1, 0)
        elif not is_known.all():
            raise AttnlabError(_unknown_character(text, int(np.argmin(is_known)), self.vocab_size))
        return ids.astype(np.int32)

    def _state(self) -> dict:
        return {"points": self._points.tolist(), "unknown": self.unknown}


def train_bpe(texts: Iterable[str], *, vocab_size: int) -> BytePairTokenizer:
    """Train a byte-level BPE tokenizer; the same texts give the same tokenizer.

    Args:
        texts: Training texts only; held-out text would leak into the vocabulary.
        vocab_size: Number of tokens, at least 256 (the bytes). Fewer come out when the
            texts run out of pairs to merge; the returned ``vocab_size`` is the true one.

    Source:
        Sennrich et al. 2016 (arXiv 1508.07909); byte level as in GPT-2.
    """
    if vocab_size < N_BYTE_VALUES:
        raise AttnlabError(
            f"vocab_size={vocab_size} is too small: byte-level BPE starts from the "
            f"{N_BYTE_VALUES} bytes. Ask for {N_BYTE_VALUES} or more."
        )
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_training_chunks(texts), trainer=trainer)
    return BytePairTokenizer(tokenizer)


def character_tokenizer(texts: Iterable[str], *, unknown: bool = False) -> CharacterTokenizer:
    """Return a tokenizer of the characters that occur in ``texts``.

    Args:
        texts: Training texts.
        unknown: Give every other character the id 0 instead of raising an error.
    """
    symbols: set[str] = set()
    for text in _as_texts(texts):
        _check_encodable(text)
        symbols |= set(text)
    return CharacterTokenizer(symbols, unknown=unknown)


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Return the tokenizer that ``save`` wrote.

    Raises:
        AttnlabError: The file is missing, damaged, or not a tokenizer of this package.
    """
    try:
        state = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise AttnlabError(
            f"{path} cannot be read as a tokenizer ({problem}). Train it again and save() it."
        ) from problem
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise AttnlabError(
            f"{path} is JSON but not a tokenizer of attnlab: its format is "
            f"{state.get('format') if isinstance(state, dict) else type(state).__name__!r}, "
            f"expected {FORMAT!r}. A tokenizer file is written by tokenizer.save(path)."
        )
    kind = str(state.get("kind"))
    if kind not in _LOADERS:
        raise UnknownNameError("tokenizer kind", kind, _LOADERS, next_step=f"Found in {path}.")
    try:
        return _LOADERS[kind](state)
    except Exception as problem:  # the tokenizers library raises bare Exception
        raise AttnlabError(
            f"{path} says it is a {kind!r} tokenizer but its content is damaged ({problem!r}). "
            "Train it again and save() it."
        ) from problem


def safe_chunks(text: str) -> list[str]:
    """Cut a long text into pieces that encode to the same tokens as the whole.

    Byte-level BPE joins a blank only to the word after it, so a cut before a single blank
    that a word follows falls between two tokens.
    """
    chunks, start = [], 0
    while len(text) - start > _CHUNK_CHARACTERS:
        cut = _SAFE_CUT.search(text, start + _CHUNK_CHARACTERS)
        if cut is None:
            break
        chunks.append(text[start : cut.start()])
        start = cut.start()
    return [*chunks, text[start:]]


def _training_chunks(texts: Iterable[str]) -> Iterable[str]:
    for text in _as_texts(texts):
        _check_encodable(text)
        yield from safe_chunks(text)


def _as_texts(texts: Iterable[str]) -> Iterable[str]:
    return [texts] if isinstance(texts, str) else texts


def _check_encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as problem:
        raise AttnlabError(
            f"Character {problem.start} of the text is a lone surrogate "
            f"(U+{ord(text[problem.start]):04X}), which is no character and has no UTF-8 form. "
            "Read the file with its true encoding."
        ) from problem


def _unknown_character(text: str, position: int, vocab_size: int) -> str:
    character = text[position]
    return (
        f"Character {character!r} (U+{ord(character):04X}) at position {position} is not among "
        f"the {vocab_size} characters of this tokenizer. Train it with unknown=True, or use "
        "train_bpe, which encodes any text."
    )


def _byte_letters() -> list[str]:
    """Return the printable letter that stands for each byte, as GPT-2 chose them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(N_BYTE_VALUES) if byte not in printable)
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(N_BYTE_VALUES + i) for i, byte in enumerate(others)}
    return [letters[byte] for byte in range(N_BYTE_VALUES)]


def _load_byte_pairs(state: dict) -> Tokenizer:
    return BytePairTokenizer(hf.Tokenizer.from_str(json.dumps(state["tokenizer"])))


def _load_characters(state: dict) -> Tokenizer:
    return CharacterTokenizer(map(chr, state["points"]), unknown=state["unknown"])


_LOADERS = {
    BytePairTokenizer.kind: _load_byte_pairs,
    CharacterTokenizer.kind: _load_characters,
}
