"""Sequences with questions: what was said of a key, after a marker, or in which order.

A source draws rows of tokens and, for each position, what is to be answered there; ``IGNORED``
where nothing is asked. Token 0 is a blank. How much a row asks to be kept is its *load*.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.sources.base import check_count

IGNORED = -1  # the target of a position that asks nothing
BLANK = 0
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RecallSource(ABC):
    """Rows of ``time`` tokens with questions whose best possible answer is known exactly."""

    vocab_size: int = 32
    time: int = 32  # tokens of a row

    @property
    @abstractmethod
    def n_answers(self) -> int:
        """Number of tokens that can be an answer; all are equally likely beforehand."""

    @abstractmethod
    def most(self) -> int:
        """Return the highest load that fits into a row."""

    @abstractmethod
    def _draw(self, n_rows: int, load: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
        """Return tokens and targets of some rows of one load."""

    def draw(self, n_rows: int, *, load: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
        """Return tokens and targets, each ``(n_rows, time)``; no question has target -1.

        Raises:
            AttnlabError: The load does not fit.
        """
        check_count("load", load, at_least=1)
        if load > self.most():
            raise AttnlabError(
                f"A load of {load} does not fit {self.time} tokens of {self.vocab_size} kinds. "
                f"Choose {self.most()} at most, or a source with a larger time or vocab_size."
            )
        return self._draw(n_rows, load, generator)

    @property
    def oracle_nats(self) -> float:
        """Lowest expected loss of an answer, everything before it known."""
        return 0.0

    @property
    def oracle_accuracy(self) -> float:
        """Highest expected share of right answers."""
        return 1.0

    @property
    def chance_nats(self) -> float:
        """Lowest expected loss of an answer without memory of what was said."""
        return math.log(self.n_answers)


@dataclass(frozen=True, kw_only=True)
class PairRecall(RecallSource):
    r"""Pairs of key and value, then every key once more: which value was it?

    With key_len 1 and no noise this is multi-query associative recall. Key 3, value 9 and key 5,
    value 8, asked for in another order, ``.`` for blank and for nothing asked::

        tokens    3 9 5 8 . . 5 . 3 . . .
        targets   . . . . . . 8 . 9 . . .

    A question stands in slot g after the pairs with chance :math:`p(g) \propto g^{a-1}`, drawn
    without repeats: mostly early, sometimes late.

    Args:
        key_len: Tokens of a key; no two keys of a row are equal, single tokens may be.
        n_key_symbols: Tokens that keys are made of; 0 takes ``vocab_size / 2 - 1``.
        noise: Share of tokens without meaning, between the pairs, from symbols of their own.
        p_error: Chance that another value than the one that was said is right.
        exponent: a of the law of gaps.
    Source:
        arXiv:2312.04927, appendix E; noise and keys of several tokens: arXiv:2403.17844.
    """

    key_len: int = 1
    n_key_symbols: int = 0
    noise: float = 0.0
    p_error: float = 0.0
    exponent: float = 0.01

    @property
    def n_keys(self) -> int:
        """Number of different keys."""
        return self._n_symbols**self.key_len

    @property
    def n_answers(self) -> int:
        """Number of different values: what keys, the blank and noise leave of the vocabulary."""
        return self.vocab_size - 1 - self._n_symbols - self._n_noise_symbols

    def most(self) -> int:
        """Return how many pairs and questions fit, noise included."""
        size = self.key_len + 1
        fits = (n for n in range(self.time) if self._start(n) + n * size <= self.time)
        return min(max(fits), self.n_keys, self.n_answers)

    @property
    def oracle_nats(self) -> float:
        """Entropy of the right value given the one that was said."""
        return _entropy(1, 1 - self.p_error) + _entropy(self.n_answers - 1, self.p_error)

    @property
    def oracle_accuracy(self) -> float:
        """How often the value that was said is right."""
        return 1 - self.p_error

    def unbound_nats(self, load: int) -> float:
        """Lowest expected loss of who knows which values were said, but not of which keys."""
        n_other = self.n_answers - load
        p_other = self.p_error * n_other / (self.n_answers - 1)
        return _entropy(load, 1 - p_other) + _entropy(n_other, p_other)

    @property
    def _n_symbols(self) -> int:
        return self.n_key_symbols or self.vocab_size // 2 - 1

    @property
    def _n_noise_symbols(self) -> int:
        return self.vocab_size // 4 if self.noise else 0

    def _n_noise(self, load: int) -> int:
        return round(load * (self.key_len + 1) * self.noise / (1 - self.noise))

    def _start(self, load: int) -> int:
        """Return where the questions start."""
        return load * (self.key_len + 1) + self._n_noise(load)

    def _draw(self, n_rows: int, load: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
        tokens = np.full((n_rows, self.time), BLANK)
        targets = np.full((n_rows, self.time), IGNORED)
        numbers = _distinct(n_rows, load, np.zeros(self.n_keys), generator)
        digits = self._n_symbols ** np.arange(self.key_len)
        keys = 1 + numbers[..., None] // digits % self._n_symbols  # (rows, load, key_len)
        values = _distinct(n_rows, load, np.zeros(self.n_answers), generator)
        wrong = generator.random(values.shape) < self.p_error
        other = generator.integers(1, self.n_answers, values.shape)
        right = np.where(wrong, (values + other) % self.n_answers, values)
        first = 1 + self._n_symbols
        said = np.concatenate([keys, first + values[..., None]], -1)
        places = self._places(n_rows, load, generator)
        if self.noise:
            lowest = self.vocab_size - self._n_noise_symbols
            before = tokens[:, : self._start(load)]
            before[:] = generator.integers(lowest, self.vocab_size, before.shape)
        rows = np.arange(n_rows)[:, None, None]
        tokens[rows, places[..., None] + np.arange(self.key_len + 1)] = said
        asked = self._questions(n_rows, load, generator)
        tokens[rows, asked[..., None] + np.arange(self.key_len)] = keys
        targets[rows[..., 0], asked + self.key_len - 1] = first + right
        return tokens, targets

    def _places(self, n_rows: int, load: int, generator: np.random.Generator) -> Ints:
        """Return where the pairs start, ``(n_rows, load)``: noise falls between them."""
        n_items = load + self._n_noise(load)
        which = np.sort(_distinct(n_rows, load, np.zeros(n_items), generator))
        return which + self.key_len * np.arange(load)  # every pair before is key_len longer

    def _questions(self, n_rows: int, load: int, generator: np.random.Generator) -> Ints:
        """Return where each key is asked for, ``(n_rows, load)``."""
        size = self.key_len + 1
        n_slots = (self.time - self._start(load)) // size
        log_weight = (self.exponent - 1) * np.log(np.arange(1, n_slots + 1))
        return self._start(load) + size * _distinct(n_rows, load, log_weight, generator)


@dataclass(frozen=True, kw_only=True)
class InductionHead(RecallSource):
    """Letters at random, one of them after a marker; at the end the marker again: what followed?

    The load is the number of tokens before the question. Marker ``*``::

        tokens    4 2 * 7 3 1 2 * . .        load 7
        targets   . . . . . . . 7 . .

    Source:
        arXiv:2212.14052, section 3.1.
    """

    @property
    def n_answers(self) -> int:
        """Number of letters."""
        return self.vocab_size - 2

    def most(self) -> int:
        """Return how many tokens fit before the question."""
        return self.time - 1

    def draw(self, n_rows: int, *, load: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
        """Return tokens and targets; a marker and its letter make a load of 2 the least."""
        check_count("load", load, at_least=2)
        return super().draw(n_rows, load=load, generator=generator)

    def _draw(self, n_rows: int, load: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
        tokens = np.full((n_rows, self.time), BLANK)
        targets = np.full((n_rows, self.time), IGNORED)
        tokens[:, :load] = generator.integers(1, self.vocab_size - 1, (n_rows, load))
        rows, place = np.arange(n_rows), generator.integers(0, load - 1, n_rows)
        tokens[rows, place] = tokens[:, load] = self.vocab_size - 1
        targets[:, load] = tokens[rows, place + 1]
        return tokens, targets


@dataclass(frozen=True, kw_only=True)
class SelectiveCopying(RecallSource):
    """Some letters among blanks, then as many markers: which letter was first, second, ...?

    The load is the number of letters. Marker ``*``::

        tokens    . 4 . . 2 . 4 * * *        load 3
        targets   . . . . . . . 4 2 4

    Source:
        arXiv:2312.00752, section 3.1.
    """

    @property
    def n_answers(self) -> int:
        """Number of letters."""
        return self.vocab_size - 2

    def most(self) -> int:
        """Return how many letters fit with their questions."""
        return self.time // 2

    def _draw(self, n_rows: int, load: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
        tokens = np.full((n_rows, self.time), BLANK)
        targets = np.full((n_rows, self.time), IGNORED)
        places = np.sort(_distinct(n_rows, load, np.zeros(self.time - load), generator))
        letters = generator.integers(1, self.vocab_size - 1, (n_rows, load))
        tokens[np.arange(n_rows)[:, None], places] = letters
        tokens[:, -load:] = self.vocab_size - 1
        targets[:, -load:] = letters
        return tokens, targets


SOURCES: dict[str, RecallSource] = {
    "mqar": PairRecall(vocab_size=24),
    "induction": InductionHead(),
    "copying": SelectiveCopying(),
    "noisy": PairRecall(vocab_size=28, n_key_symbols=9, noise=0.4, p_error=0.1),
    "fuzzy": PairRecall(key_len=2, n_key_symbols=6),
}


def recall_source(name: str) -> RecallSource:
    """Return a source by name: mqar, induction, copying, noisy or fuzzy."""
    if name not in SOURCES:
        step = "Or make one: PairRecall(vocab_size=64, time=64)."
        raise UnknownNameError("recall source", name, SOURCES, next_step=step)
    return SOURCES[name]


def _distinct(
    n_rows: int, n: int, log_weight: NDArray[np.float64], generator: np.random.Generator
) -> Ints:
    """Return different numbers below ``len(log_weight)``, ``(n_rows, n)``, the likeliest first.

    Gumbel noise makes the n largest a draw without replacement (arXiv:1903.06059).
    """
    keys = log_weight + generator.gumbel(size=(n_rows, len(log_weight)))
    return np.argsort(-keys, axis=1)[:, :n]


def _entropy(n: int, p: float) -> float:
    """Return what n outcomes that share the chance p add to an entropy, in nats."""
    return -p * math.log(p / n) if p > 0 else 0.0
