"""Text to token ids and back: byte-level byte pairs that read text as they were trained on it.

A tokenizer is saved as one JSON file, has a digest that names it in run records, and knows the
UTF-8 length of each token, so that a loss in nats per token becomes bits per byte.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tokenizers as hf
from numpy.typing import ArrayLike, NDArray

from attnlab.config import is_number
from attnlab.corpora.read import collapse_layout
from attnlab.errors import AttnlabError, shorten
from attnlab.paths import read_whole, write_whole

FORMAT = "attnlab-tokenizer-1"
KIND = "byte_bpe"
N_BYTE_VALUES = 256
LARGEST_VOCABULARY = 2**22
CHUNK_CHARACTERS = 20_000

_SAFE_CUT = re.compile(r"(?<=[A-Za-z0-9.,;])(?= [A-Za-z])")


class Tokenizer:
    """Byte-level byte-pair encoding: every text has an encoding, and it is exact.

    ``decode(encode(text)) == text``, or, where the tokenizer was trained on text without
    layout (single blanks, no line ends), ``collapse_layout(text)``: so a page with line ends is
    read as the corpus was.

    Attributes:
        folds_layout: Whether text is collapsed before it is encoded.
    """

    def __init__(self, library: hf.Tokenizer, *, folds_layout: bool | None = None) -> None:
        """Wrap a trained tokenizer of the ``tokenizers`` library; None judges by its pieces."""
        self._library = library
        alphabet = {letter: value for value, letter in enumerate(_byte_letters())}
        vocabulary = sorted(library.get_vocab().items(), key=lambda item: item[1])
        self._bytes = [bytes(alphabet[letter] for letter in token) for token, _ in vocabulary]
        self.folds_layout = self._looks_folded() if folds_layout is None else folds_layout

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the 256 bytes among them; ids are ``0 .. vocab_size - 1``."""
        return len(self._bytes)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token; they may be part of a character."""
        if not 0 <= token < self.vocab_size:
            raise AttnlabError(
                f"Token id {token} is outside this tokenizer's 0 to {self.vocab_size - 1}. "
                "The ids come from another tokenizer, or the model has a larger vocabulary."
            )
        return self._bytes[token]

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the token ids of ``text``, ``(n_tokens,)``.

        A book is cut where no token can cross, for speed.
        """
        _check_encodable(text)
        text = collapse_layout(text) if self.folds_layout else text
        encodings = self._library.encode_batch_fast(safe_chunks(text), add_special_tokens=False)
        return np.concatenate([np.array(encoding.ids, dtype=np.int32) for encoding in encodings])

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of token ids, a list or an array ``(n_tokens,)``.

        Ids that do not add up to UTF-8 (a sample cut inside a character) show ``U+FFFD``.
        """
        try:
            found = np.asarray(ids)
        except (ValueError, RuntimeError):  # rows of other lengths, a tensor with a gradient
            found = np.empty(1)
        if found.size and found.dtype.kind not in "iu":
            raise AttnlabError(f"Token ids are whole numbers; got {shorten(ids)}.")
        ids = found.astype(np.int64).ravel()
        return b"".join(map(self.token_bytes, ids.tolist())).decode("utf-8", errors="replace")

    @functools.cached_property
    def token_lengths(self) -> NDArray[np.int64]:
        """UTF-8 length of every token, ``(vocab_size,)``, in bytes."""
        return np.array(list(map(len, self._bytes)), dtype=np.int64)

    @functools.cached_property
    def digest(self) -> str:
        """Twelve hex digits of the sha256 of the pieces and how they are cut."""
        return hashlib.sha256(_as_json(self._state()).encode()).hexdigest()[:12]

    def save(self, path: str | os.PathLike) -> None:
        """Write the tokenizer as JSON; the file appears whole or not at all.

        Whether it folds layout stands there only where its pieces suggest otherwise.
        """
        says = self.folds_layout != self._looks_folded()
        folds = {"folds_layout": self.folds_layout} if says else {}
        write_whole(Path(path), _as_json({**self._state(), **folds, "digest": self.digest}))

    def __repr__(self) -> str:
        """Kind, size and digest."""
        return f"Tokenizer({KIND}, vocab_size={self.vocab_size}, digest={self.digest})"

    def _looks_folded(self) -> bool:
        """Return whether no piece that was learned holds a line end, a tab or two blanks."""
        learned = self._bytes[N_BYTE_VALUES:]
        return not any(re.search(rb"[\t\r\n]|  ", piece) for piece in learned)

    def _state(self) -> dict:
        return {"format": FORMAT, "kind": KIND, "tokenizer": json.loads(self._library.to_str())}


def train_bpe(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer; the same texts give the same tokenizer.

    Where no text has layout (``collapse_layout`` changes none), it will fold layout away.

    Args:
        texts: Training texts only; held-out text would leak into the vocabulary.
        vocab_size: Number of tokens, at least 256 (the bytes). Fewer come out when the
            texts run out of pairs to merge; the returned ``vocab_size`` is the true one.

    Source:
        Sennrich et al. 2016 (arXiv 1508.07909); byte level as in GPT-2.
    """
    if not is_number(vocab_size, int) or vocab_size < N_BYTE_VALUES:
        raise AttnlabError(
            f"vocab_size={shorten(vocab_size)} is too small: byte-level BPE starts from the "
            f"{N_BYTE_VALUES} bytes. Ask for {N_BYTE_VALUES} or more."
        )
    if vocab_size > LARGEST_VOCABULARY:  # the library would abort the whole process
        raise AttnlabError(
            f"vocab_size={shorten(vocab_size)} is too large: ask for {LARGEST_VOCABULARY} or fewer."
        )
    library = _byte_level(hf.models.BPE())
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
    )
    n_with_layout = 0

    def chunks() -> Iterator[str]:
        nonlocal n_with_layout
        for text in [texts] if isinstance(texts, str) else texts:
            _check_encodable(text)
            n_with_layout += text != collapse_layout(text)
            yield from safe_chunks(text)

    library.train_from_iterator(chunks(), trainer=trainer)
    return Tokenizer(library, folds_layout=not n_with_layout)


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Return the tokenizer that ``save`` wrote.

    Where the file does not say whether it folds layout, it does if its pieces show none.

    Raises:
        AttnlabError: The file is missing, damaged, or not a tokenizer of this package.
    """
    try:
        state = json.loads(read_whole(Path(path)).decode())
    except (OSError, ValueError, RecursionError) as problem:
        raise AttnlabError(
            f"{path} cannot be read as a tokenizer ({problem}). Train it again and save() it."
        ) from problem
    found = (state.get("format"), state.get("kind")) if isinstance(state, dict) else (None, None)
    if found != (FORMAT, KIND):
        raise AttnlabError(
            f"{path} is JSON but not a tokenizer of attnlab: its format and kind are {found}, "
            f"expected {(FORMAT, KIND)}. A tokenizer file is written by tokenizer.save(path)."
        )
    folds_layout = state.get("folds_layout")
    try:
        if folds_layout not in (None, True, False):
            raise ValueError(f"folds_layout is {shorten(folds_layout)}")
        tokenizer = Tokenizer(_as_saved(state["tokenizer"]), folds_layout=folds_layout)
        if state.get("digest", tokenizer.digest) != tokenizer.digest:
            raise ValueError("it was changed after it was written")
    except Exception as problem:  # of any kind: so is what stands in the file
        raise AttnlabError(
            f"{path} says it is a {KIND!r} tokenizer but its content is damaged ({problem!r}). "
            "Train it again and save() it."
        ) from problem
    return tokenizer


def _as_saved(state: dict) -> hf.Tokenizer:
    """Return the library's tokenizer with the pieces of a saved one.

    The library does not read the file: some that are damaged make it abort the whole process.
    """
    vocabulary, letters = state["model"]["vocab"], set(_byte_letters())
    merges = [tuple(each.split(" ") if isinstance(each, str) else each)
              for each in state["model"]["merges"]]  # fmt: skip
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError("its ids are not 0, 1, 2, ...")
    if not vocabulary.keys() >= letters or not letters.issuperset("".join(vocabulary)):
        raise ValueError("its pieces are not made of the 256 bytes")
    if not all(vocabulary.keys() >= {a, b, a + b} for a, b in merges):
        raise ValueError("it joins pieces that are not there")
    library = _byte_level(hf.models.BPE(vocab=vocabulary, merges=merges))
    usual = json.loads(_byte_level(hf.models.BPE()).to_str())
    for part in (usual, usual["model"]):
        given = state if part is usual else state["model"]
        for name in part.keys() & given.keys() - {"model", "vocab", "merges"}:
            if given[name] != part[name]:
                raise ValueError(f"its {name} is {shorten(given[name])}")
    return library


def _byte_level(model: hf.models.BPE) -> hf.Tokenizer:
    library = hf.Tokenizer(model)
    library.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = hf.decoders.ByteLevel()
    return library


def safe_chunks(text: str) -> list[str]:
    """Cut a long text into pieces that encode to the same tokens as the whole.

    Byte-level BPE joins a blank only to the word after it, so a cut before a single blank
    that a word follows falls between two tokens.
    """
    chunks, start = [], 0
    while len(text) - start > CHUNK_CHARACTERS:
        cut = _SAFE_CUT.search(text, start + CHUNK_CHARACTERS)
        if cut is None:
            break
        chunks.append(text[start : cut.start()])
        start = cut.start()
    return [*chunks, text[start:]]


def _as_json(state: dict) -> str:
    return json.dumps(state, sort_keys=True)


def _check_encodable(text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"a text is a str, not {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as problem:
        raise AttnlabError(
            f"Character {problem.start} of the text is a lone surrogate "
            f"(U+{ord(text[problem.start]):04X}), which is no character and has no UTF-8 form. "
            "Read the file with its true encoding."
        ) from problem


def _byte_letters() -> list[str]:
    """Return the printable letter that stands for each byte, as GPT-2 chose them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(N_BYTE_VALUES) if byte not in printable)
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(N_BYTE_VALUES + i) for i, byte in enumerate(others)}
    return [letters[byte] for byte in range(N_BYTE_VALUES)]
