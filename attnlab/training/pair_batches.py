"""Batches of sentence pairs: as many tokens each, little padding, an order made by the seed."""

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


class PairBatches:
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
        self.seed, self.device = seed, device
        self.lengths = pair_lengths(pairs)
        self._cuts = cut_by_tokens(self.lengths[_by_length(self.lengths)], max_tokens=max_tokens)
        self._pass: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    @property
    def n_batches(self) -> int:
        """Number of batches of a pass."""
        return len(self._cuts)

    @property
    def padding_share(self) -> float:
        """Share of the positions that the model reads for nothing, both sides together."""
        parts = [self.lengths[index] for index in self._in_order(0)]
        n_positions = sum(len(part) * int(part.max(0).sum()) for part in parts)
        return 1 - float(self.lengths.sum()) / n_positions

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return source ``(batch, source_time)`` and target ``(batch, target_time)`` of a batch."""
        n_pass, place = divmod(index, self.n_batches)
        if self._pass[0] != n_pass:
            batches = self._in_order(n_pass)
            random = numpy_generator(self.seed, f"order/{n_pass}/batches")
            self._pass = (n_pass, [batches[i] for i in random.permutation(len(batches))])
        chosen = [self.pairs[int(i)] for i in self._pass[1][place]]
        return collate_pairs(chosen, device=self.device)

    def starting_at(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches from ``index`` on, without end."""
        while True:
            yield self[index]
            index += 1

    def _in_order(self, n_pass: int) -> list[NDArray[np.int64]]:
        """Return the pairs of every batch of a pass, from short to long."""
        random = numpy_generator(self.seed, f"order/{n_pass}")
        shuffled = random.permutation(len(self.lengths))
        order = shuffled[_by_length(self.lengths[shuffled])]
        return [order[start:end] for start, end in self._cuts]


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
