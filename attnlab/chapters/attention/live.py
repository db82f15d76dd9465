"""A dictionary in a sequence: pairs to remember, then letters to look up (associative recall)."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LETTERS = "ABCDEFGH"
N_DIGITS = 8
NO_ANSWER = -100  # target of a token that asks nothing


@dataclass(frozen=True)
class Lists:
    """Lists of pairs, each followed by questions.

    Shapes:
        letters, digits: ``(batch, time)``; the digit of a question is -1.
        answers: ``(batch, time)``; ``NO_ANSWER`` at the pairs.
    """

    letters: NDArray[np.int64]
    digits: NDArray[np.int64]
    answers: NDArray[np.int64]

    @property
    def features(self) -> Tensor:
        """Letter and digit side by side as indicators: ``(batch, time, 16)``."""
        letter = np.eye(len(LETTERS))[self.letters]
        digit = np.vstack([np.eye(N_DIGITS), np.zeros(N_DIGITS)])[self.digits]
        return torch.from_numpy(np.concatenate([letter, digit], -1)).float()

    @property
    def targets(self) -> Tensor:
        """The answers as a tensor ``(batch, time)``."""
        return torch.from_numpy(self.answers)

    def words(self, index: int) -> list[str]:
        """Return one list as a reader writes it: ``['C3', 'A7', 'A?', 'C?']``."""
        row = zip(self.letters[index], self.digits[index], strict=True)
        return [LETTERS[letter] + (str(digit) if digit >= 0 else "?") for letter, digit in row]


def sample_lists(n_lists: int, *, generator: np.random.Generator, n_pairs: int = 8) -> Lists:
    """Draw lists with different letters, any digits, and every letter asked once.

    One list of three pairs, and what is to be said at each place::

        tokens   C3 A7 F3 A? F? C?
        answers  .  .  .  7  3  3
    """
    shape = (n_lists, len(LETTERS))
    letters = np.argsort(generator.random(shape), axis=1)[:, :n_pairs]
    digits = generator.integers(0, N_DIGITS, size=(n_lists, n_pairs))
    order = np.argsort(generator.random((n_lists, n_pairs)), axis=1)
    asked, answers = (np.take_along_axis(table, order, 1) for table in (letters, digits))
    return Lists(
        letters=np.concatenate([letters, asked], 1),
        digits=np.concatenate([digits, np.full_like(digits, -1)], 1),
        answers=np.concatenate([np.full_like(digits, NO_ANSWER), answers], 1),
    )


def commonest_share(*, n_pairs: int = 8) -> Fraction:
    """Return the expected share of questions that naming the commonest listed digit gets right.

    It is the mean of the largest count among ``n_pairs`` digits drawn evenly, over ``n_pairs``:
    every way to count the digits, with the number of lists that have these counts.
    """
    total = 0
    for listed in combinations_with_replacement(range(N_DIGITS), n_pairs):
        counts = Counter(listed).values()
        n_lists = math.factorial(n_pairs) // math.prod(map(math.factorial, counts))
        total += n_lists * max(counts)
    return Fraction(total, n_pairs * N_DIGITS**n_pairs)
