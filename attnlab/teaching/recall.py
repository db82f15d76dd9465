"""A dictionary in a sequence: pairs to remember, then letters to look up (associative recall)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import ModelConfig, TrainConfig
from attnlab.mixers import build_mixer
from attnlab.seeding import numpy_generator, torch_generator
from attnlab.training import train_steps

LETTERS = "ABCDEFGH"
N_DIGITS = 8
D_MODEL = len(LETTERS) + N_DIGITS
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


def sample_lists(n_lists: int, *, n_pairs: int, generator: np.random.Generator) -> Lists:
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


def bag_floor_nats(*, n_pairs: int) -> float:
    r"""Return the best loss of a reader who knows which digits are listed, not with whom.

    .. math:: E\bigl[\log m - \log(1 + K)\bigr],\quad K \sim \mathrm{Bin}(m - 1, 1/8)

    The asked digit occurs 1 + K times among the m listed ones.
    """
    others = n_pairs - 1
    chance = 1 / N_DIGITS
    return sum(
        math.comb(others, k)
        * chance**k
        * (1 - chance) ** (others - k)
        * math.log(n_pairs / (1 + k))
        for k in range(n_pairs)
    )


def commonest_share(*, n_pairs: int) -> Fraction:
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


class RecallModel(nn.Module):
    r"""One mixer and a linear read-out: ``z_t = (x_t + mix(x)_t) W``, nothing else.

    Shapes:
        x: ``(batch, time, 16)`` features; returns logits ``(batch, time, 8)`` over digits.
    Args:
        mixer: Name of a token mixer.
        time: Length of the lists, twice the number of pairs.
        seed: Integer behind the initial weights.
    """

    def __init__(self, mixer: str, *, time: int, seed: int = 0) -> None:
        super().__init__()
        self.config = ModelConfig(mixer=mixer, d_model=D_MODEL, context_len=time, n_heads=1)
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(torch_generator(seed, "init").get_state())
            self.mixer = build_mixer(mixer, d_model=D_MODEL, context_len=time)
            self.head = nn.Linear(D_MODEL, N_DIGITS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits over the digits at every place."""
        return self.head(x + self.mixer(x))

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of the answers, in nats per question."""
        return F.cross_entropy(self(x).flatten(0, 1), targets.flatten(), ignore_index=NO_ANSWER)


def train_recall(
    model: RecallModel, *, n_pairs: int, config: TrainConfig, name: str, every: int = 10
) -> pd.DataFrame:
    """Train on fresh lists and return the loss on held-out ones as a table of curves.

    Args:
        n_pairs: Pairs in a list; its length is twice that.
        config: Steps, lists in a batch, learning rate and seed.
        name: What the table calls the model.
        every: Steps between two measurements.
    """
    test = sample_lists(256, n_pairs=n_pairs, generator=numpy_generator(config.seed, "test"))
    rows = []
    for log in train_steps(model, _batches(n_pairs, config), config=config):  # type: ignore[arg-type]
        if log.step % every == 0 or log.step == 1:
            with torch.no_grad():
                loss = model.loss(test.features, test.targets).item()
            rows.append((name, config.seed, log.tokens_seen, loss))
    return pd.DataFrame(rows, columns=["name", "seed", "tokens_seen", "loss_nats"])


def race_recall(
    mixers: Sequence[str], *, n_pairs: int, config: TrainConfig, n_seeds: int
) -> tuple[pd.DataFrame, dict[str, list[RecallModel]]]:
    """Train each mixer from each seed on the same lists; return all curves and all models.

    Args:
        mixers: Names of token mixers.
        n_pairs: Pairs in a list.
        config: Settings that all share; its seed is the first.
        n_seeds: How many seeds, counted up from the first.
    """
    curves, models = [], {name: [] for name in mixers}
    for seed in range(config.seed, config.seed + n_seeds):
        for name in mixers:
            model = RecallModel(name, time=2 * n_pairs, seed=seed)
            settings = replace(config, seed=seed)
            curves.append(train_recall(model, n_pairs=n_pairs, config=settings, name=name))
            models[name].append(model)
    return pd.concat(curves, ignore_index=True), models


@torch.no_grad()
def share_right(model: RecallModel, lists: Lists) -> float:
    """Return the share of questions whose likeliest digit is the right one."""
    said = model(lists.features).argmax(-1).numpy()
    asked = lists.answers != NO_ANSWER
    return float((said == lists.answers)[asked].mean())


def _batches(n_pairs: int, config: TrainConfig) -> Iterator[tuple[Tensor, Tensor]]:
    generator = numpy_generator(config.seed, "data")
    while True:
        lists = sample_lists(config.batch_size, n_pairs=n_pairs, generator=generator)
        yield lists.features, lists.targets
