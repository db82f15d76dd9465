"""Batches in an order that depends on the seed alone, never on the model: windows, or pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnlab.config import BOS, EOS, PAD
from attnlab.errors import AttnlabError
from attnlab.seeding import numpy_generator

Pairs = Sequence[tuple[Any, Any]]  # token ids of source and target, without BOS and EOS


class _Batches:
    """Passes of shuffled batches, each pass made when it is reached."""

    def __init__(self, n_batches: int, seed: int, device: torch.device | str) -> None:
        self.n_batches = n_batches  # of a pass
        self.seed, self.device = seed, device
        self._pass: tuple[int, list[Any]] = (-1, [])

    def starting_at(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches from ``index`` on, without end."""
        while True:
            yield self[index]
            index += 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return batch ``index``, 0 upward: what the model reads, and what it is to predict."""
        n_pass, place = divmod(index, self.n_batches)
        if self._pass[0] != n_pass:
            self._pass = (n_pass, self._shuffled(n_pass))
        return self._batch(self._pass[1][place])

    def _shuffled(self, n_pass: int) -> list[Any]:
        """Return what each batch of a pass holds."""
        raise NotImplementedError

    def _batch(self, held: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class WindowBatches(_Batches):
    """Cut documents into windows and serve them shuffled, one pass after another.

    A pass reads every window once. Batch i is a function of ``seed`` and i, so all mixers
    see the same batches and a resumed run goes on where it stopped::

        document  t0 t1 t2 t3 t4 t5 t6 t7 ...      context_len 3
        window 0  [t0 t1 t2] -> [t1 t2 t3]
        window 1           [t3 t4 t5] -> [t4 t5 t6]

    Each pass shifts the cuts of every document by a random offset.

    Args:
        documents: Token ids ``(n_tokens,)``, one array a document; windows never cross them.
        context_len: Tokens a window feeds to the model.
        batch_size: Windows a batch.
        seed: Picks the order and the offsets (stream ``order``).
        device: Where the batches go; their order does not depend on it.
    Raises:
        AttnlabError: The documents are too short for a single batch.
    """

    def __init__(
        self,
        documents: Sequence[np.ndarray],
        *,
        context_len: int,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.documents = [np.asarray(d) for d in documents]
        self.context_len, self.batch_size = context_len, batch_size
        n_windows = sum(_n_windows(len(d), context_len) for d in self.documents)
        super().__init__(n_windows // batch_size, seed, device)
        if self.n_batches == 0:
            n_tokens = sum(len(d) for d in self.documents)
            raise AttnlabError(
                f"{n_tokens} tokens make {n_windows} windows of context_len={context_len}; a batch "
                f"takes {batch_size}. Use a smaller batch_size or context_len, or more text."
            )

    def _batch(self, held: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return inputs and targets ``(batch, context_len)`` of these windows."""
        length = self.context_len + 1
        windows = np.stack([self.documents[d][s : s + length] for d, s in held])
        tokens = torch.from_numpy(windows.astype(np.int64)).to(self.device)
        return tokens[:, :-1], tokens[:, 1:]

    def _shuffled(self, n_pass: int) -> list[np.ndarray]:
        """Return document and start of every window of each batch: ``(batch_size, 2)``."""
        random = numpy_generator(self.seed, f"order/{n_pass}")
        starts = []
        for number, document in enumerate(self.documents):
            n_windows = _n_windows(len(document), self.context_len)
            spare = len(document) - 1 - n_windows * self.context_len
            offset = int(random.integers(0, spare + 1)) if n_windows else 0
            first = offset + self.context_len * np.arange(n_windows)
            starts.append(np.stack([np.full(n_windows, number), first], axis=1))
        order = np.concatenate(starts)
        order = order[random.permutation(len(order))]
        return np.split(order[: self.n_batches * self.batch_size], self.n_batches)


def _n_windows(n_tokens: int, context_len: int) -> int:
    return max(0, (n_tokens - 1) // context_len)


class PairBatches(_Batches):
    """Put pairs of like length together and serve the batches shuffled, pass after pass.

    A pass reads every pair once. Batch i is a function of ``seed`` and i, so a resumed run goes
    on where it stopped. Which pairs of one length meet changes from pass to pass; the shapes of
    the batches do not. With 12 tokens a batch::

        pair    source            target
        0       8 4 6             9 7            batch 0: pairs 0 and 1, no padding
        1       5 4 4             7 7            batch 1: pair 2
        2       5 4 9 6 4 8       9 8 7 9 9 6

    Args:
        pairs: Token ids ``(n_tokens,)`` of source and target; a batch adds ``BOS`` and ``EOS``.
        max_tokens: Most tokens that one side of a batch feeds to the model, padding included;
            a pair that is longer by itself makes a batch of its own.
        seed: Picks the order (stream ``order``).
        device: Where the batches go; their order does not depend on it.
    Raises:
        AttnlabError: There is no pair.
    """

    def __init__(
        self, pairs: Pairs, *, max_tokens: int, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        if len(pairs) == 0:
            raise AttnlabError("There is no sentence pair to train on: were all of them too long?")
        self.pairs, self.max_tokens = pairs, max_tokens
        self.lengths = pair_lengths(pairs)
        self._cuts = cut_by_tokens(self.lengths[_by_length(self.lengths)], max_tokens=max_tokens)
        super().__init__(len(self._cuts), seed, device)

    def _batch(self, held: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return source ``(batch, source_time)`` and target ``(batch, target_time)``."""
        return collate_pairs([self.pairs[int(i)] for i in held], device=self.device)

    def _shuffled(self, n_pass: int) -> list[NDArray[np.int64]]:
        """Return the pairs of each batch: of like length, and ties in another order each pass."""
        mixed = numpy_generator(self.seed, f"order/{n_pass}").permutation(len(self.lengths))
        order = mixed[_by_length(self.lengths[mixed])]
        batches = [order[start:end] for start, end in self._cuts]
        random = numpy_generator(self.seed, f"order/{n_pass}/batches")
        return [batches[i] for i in random.permutation(len(batches))]


class LabelBatches(_Batches):
    """Put inputs of like length together and serve the batches shuffled, pass after pass.

    A pass reads every item once, but for the few that fill no batch. Batch i is a function of
    ``seed`` and i. With two items a batch::

        item    input      class
        0       8 4 6      1            batch 0: items 2 and 0, one filled up with PAD
        1       5 4 4 9    0            batch 1: items 1 and 3
        2       7 5        0
        3       6 6 4 9    1

    Args:
        inputs: Token ids ``(n_tokens,)``, or vectors ``(time, n_inputs)`` of one length.
        labels: Number of the class of each.
        batch_size: Items a batch.
        seed: Picks the order (stream ``order``).
        device: Where the batches go; their order does not depend on it.
    Raises:
        AttnlabError: There are fewer items than fill a batch.
    """

    def __init__(
        self,
        inputs: Sequence[np.ndarray],
        labels: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(inputs) < batch_size:
            raise AttnlabError(
                f"{len(inputs)} items fill no batch of {batch_size}. Use a smaller batch_size."
            )
        self.inputs, self.labels, self.batch_size = inputs, labels, batch_size
        self.lengths = np.array(list(map(len, inputs)))
        super().__init__(len(inputs) // batch_size, seed, device)

    def _batch(self, held: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return inputs ``(batch, time)`` or ``(batch, time, n_inputs)`` and labels."""
        inputs = pad_inputs([self.inputs[i] for i in held], device=self.device)
        return inputs, torch.from_numpy(self.labels[held]).to(self.device)

    def _shuffled(self, n_pass: int) -> list[np.ndarray]:
        """Return the items of each batch of a pass."""
        mixed = numpy_generator(self.seed, f"order/{n_pass}").permutation(len(self.lengths))
        mixed = mixed[: self.n_batches * self.batch_size]
        order = mixed[np.argsort(self.lengths[mixed], kind="stable")]
        batches = np.split(order, self.n_batches)
        random = numpy_generator(self.seed, f"order/{n_pass}/batches")
        return [batches[i] for i in random.permutation(len(batches))]


def pad_inputs(inputs: Sequence[np.ndarray], *, device: torch.device | str = "cpu") -> Tensor:
    """Return token ids filled up with ``PAD``, or vectors of one length, as one batch."""
    if inputs[0].ndim == 1:
        return pad_sentences(inputs, device=device)
    return torch.from_numpy(np.stack(inputs).astype(np.float32)).to(device)


def collate_pairs(pairs: Pairs, *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return source and target tokens of some pairs, filled up with ``PAD`` at the end.

    A source row is the sentence, a target row ``BOS``, the sentence, ``EOS``. An empty source is
    a row of ``PAD``.

    Shapes:
        pairs: token ids ``(n_tokens,)``; returns ``(batch, source_time)`` and
        ``(batch, target_time)``.
    """
    source = pad_sentences([source for source, _ in pairs], device=device)
    framed = [np.concatenate([[BOS], np.asarray(target, np.int64), [EOS]]) for _, target in pairs]
    return source, pad_sentences(framed, device=device)


def pad_sentences(sentences: Sequence[Any], *, device: torch.device | str = "cpu") -> Tensor:
    """Return ``(n_sentences, time)``, each row filled up with ``PAD``; time is 1 or more."""
    longest = max((len(sentence) for sentence in sentences), default=0)
    tokens = np.full((len(sentences), max(1, longest)), PAD, dtype=np.int64)
    for row, sentence in zip(tokens, sentences, strict=True):
        row[: len(sentence)] = sentence
    return torch.from_numpy(tokens).to(device)


def pair_lengths(pairs: Pairs) -> NDArray[np.int64]:
    """Return how many positions a translator reads of each pair: ``(n_pairs, 2)``."""
    return np.array([(max(1, len(source)), len(target) + 1) for source, target in pairs], np.int64)


def cut_by_tokens(lengths: NDArray[np.int64], *, max_tokens: int) -> list[tuple[int, int]]:
    """Cut a sequence of pairs into runs of at most ``max_tokens`` padded tokens on a side.

    Shapes:
        lengths: ``(n_pairs, n_sides)``; returns ``(start, end)`` of every run.
    """
    if max_tokens < 1:
        raise AttnlabError(f"max_tokens={max_tokens} must be 1 or more; 1500 is the paper's.")
    cuts, start, longest = [], 0, 0
    for place, length in enumerate(lengths.max(1).tolist()):
        grown = max(longest, length)
        if place > start and (place - start + 1) * grown > max_tokens:
            cuts.append((start, place))
            start, grown = place, length
        longest = grown
    return [*cuts, (start, len(lengths))]


def _by_length(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an order from short to long sources, ties as they come.

    Among sources of one length, targets rise and fall in turn, so that neighbours are alike.
    """
    source, target = lengths[:, 0], lengths[:, 1]
    return np.lexsort((np.where(source % 2, target, -target), source))
