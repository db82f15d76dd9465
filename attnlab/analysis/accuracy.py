"""How much an accuracy is worth: its exact interval, and what a linear model gets."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from attnlab.errors import AttnlabError

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)  # of squared weights, tried on validation
N_ITERATIONS = 60  # of L-BFGS
TAIL = 0.025  # of chance, on either side of an interval


def accuracy_interval(n_right: int, n_items: int) -> tuple[float, float]:
    r"""Return the exact 95 % interval of a share of right answers.

    The low end is the p at which so many right answers or more have a chance of 2.5 %, the high
    end the p at which so many or fewer have:

    .. math:: P(X \ge k \mid p_\mathrm{low}) = P(X \le k \mid p_\mathrm{high}) = 0.025

    >>> [round(end, 3) for end in accuracy_interval(9, 10)]
    [0.555, 0.997]

    Source:
        Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404.
    """
    if not 0 <= n_right <= n_items or n_items < 1:
        raise AttnlabError(f"{n_right} right answers of {n_items} are no share of them.")
    k = np.arange(n_items + 1)
    log_factorial = np.array([math.lgamma(i + 1) for i in range(n_items + 1)])
    log_ways = log_factorial[-1] - log_factorial - log_factorial[::-1]

    def chance(p: float, are_in: np.ndarray) -> float:
        return float(
            np.exp(log_ways + k * math.log(p) + (n_items - k) * math.log1p(-p))[are_in].sum()
        )

    low = _where(lambda p: chance(p, k >= n_right) > TAIL) if n_right else 0.0
    high = _where(lambda p: chance(p, k <= n_right) < TAIL) if n_right < n_items else 1.0
    return low, high


def _where(is_beyond: Callable[[float], bool]) -> float:
    """Return where a statement about p, false below and true above, changes."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if is_beyond(middle) else (middle, high)
    return high


class Bags(NamedTuple):
    """Which features each text has: ids in a row, and where each text begins."""

    ids: Tensor
    starts: Tensor


def word_bags(texts: Mapping[str, Sequence[str]]) -> tuple[dict[str, Bags], int]:
    """Return the words and pairs of neighbours of each text, by split, and how many there are.

    Known are those that occur twice or more in ``train``; others are left out.
    """
    features = {split: [_words_and_pairs(text) for text in part] for split, part in texts.items()}
    counts = Counter(feature for text in features["train"] for feature in text)
    number = {feature: i for i, feature in enumerate(f for f, n in counts.items() if n > 1)}
    bags = {}
    for split, part in features.items():
        known = [[number[feature] for feature in text if feature in number] for text in part]
        starts = np.cumsum([0, *map(len, known)])[:-1]
        ids = torch.tensor([i for text in known for i in text], dtype=torch.long)
        bags[split] = Bags(ids, torch.from_numpy(starts))
    return bags, len(number)


def _words_and_pairs(text: str) -> list[str]:
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    return [*words, *map(" ".join, pairwise(words))]


def linear_control(
    features: Mapping[str, Bags | Tensor],
    labels: Mapping[str, np.ndarray],
    *,
    n_features: int,
    n_classes: int,
    penalties: Sequence[float] = PENALTIES,
) -> dict[str, float]:
    """Return the accuracy of a linear model of these features, and of the commonest class.

    Multinomial logistic regression by L-BFGS from zero, so no chance is in it; the penalty on
    squared weights is the best of some on validation.

    Shapes:
        features: by split, ``Bags`` or ``(n_items, n_features)``; labels: ``(n_items,)``.
    """
    targets = {split: torch.from_numpy(np.asarray(part)) for split, part in labels.items()}
    best = {"validation_accuracy": -1.0}
    for penalty in penalties:
        weight, bias = _fitted(features["train"], targets["train"], n_features, n_classes, penalty)
        found = {
            f"{split}_accuracy": float(
                (_scores(features[split], weight, bias).argmax(1) == targets[split]).double().mean()
            )
            for split in ("validation", "test")
        }
        if found["validation_accuracy"] > best["validation_accuracy"]:
            best = found
    commonest = int(np.bincount(labels["train"], minlength=n_classes).argmax())
    return {
        "linear_accuracy": best["test_accuracy"],
        "majority_accuracy": float((labels["test"] == commonest).mean()),
    }


def _fitted(
    features: Bags | Tensor, targets: Tensor, n_features: int, n_classes: int, penalty: float
) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(max(1, n_features), n_classes, requires_grad=True)
    bias = torch.zeros(n_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=N_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        fit = F.cross_entropy(_scores(features, weight, bias), targets)
        (whole := fit + penalty / 2 * weight.square().sum()).backward()
        return whole

    optimizer.step(loss)
    return weight.detach(), bias.detach()


def _scores(features: Bags | Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if isinstance(features, Bags):
        return F.embedding_bag(features.ids, weight, features.starts, mode="sum") + bias
    return features @ weight + bias
