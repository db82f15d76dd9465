"""The small programs of notebook 11: memories of one matrix, and models that are asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnlab.errors import AttnlabError
from attnlab.paths import RUNS
from attnlab.records import load_runs
from attnlab.seeding import numpy_generator
from attnlab.studies import fair

Floats = NDArray[np.float64]
KEY_KINDS = {"random": "random", "orthogonal": "orthogonal"}


def draw_keys(n: int, d_key: int, *, kind: str, generator: np.random.Generator) -> Floats:
    """Return keys of length 1, ``(n, d_key)``: random, or orthogonal as long as there is room."""
    keys = generator.normal(size=(n, d_key))
    if kind == "orthogonal":  # whole sets of d orthogonal keys, one set after the other
        sets = [np.linalg.qr(generator.normal(size=(d_key, d_key)))[0] for _ in range(0, n, d_key)]
        keys = np.concatenate(sets)[:n]
    return keys / np.linalg.norm(keys, axis=1, keepdims=True)


def write_sum(keys: Floats, values: Floats) -> Floats:
    """Return the sum of the outer products of keys and values, ``(d_key, d_value)``."""
    return keys.T @ values


def write_delta(keys: Floats, values: Floats, *, n_passes: int = 1) -> Floats:
    """Return the same after writing each time only what reading lacks."""
    memory = np.zeros((keys.shape[1], values.shape[1]))
    for _ in range(n_passes):
        for k, v in zip(keys, values, strict=True):
            memory += np.outer(k, v - k @ memory)
    return memory


def write_best(keys: Floats, values: Floats) -> Floats:
    """Return the matrix with the least squared error over all pairs."""
    return np.linalg.pinv(keys) @ values


RULES: dict[str, tuple[str, Callable[[Floats, Floats], Floats]]] = {  # what it is called, and does
    "sum": ("sum", write_sum),
    "delta": ("delta rule, once", write_delta),
    "delta_10": ("delta rule, ten times", partial(write_delta, n_passes=10)),
    "best": ("best matrix there is", write_best),
}


def relative_error(read: Floats, values: Floats) -> float:
    """Return the size of what is read wrongly over that of the values (root mean squares)."""
    return float(np.sqrt(np.mean((read - values) ** 2) / np.mean(values**2)))


def expected_error(n: int | NDArray, *, d_key: int, rule: str, kind: str = "random") -> NDArray:
    r"""Return the error that must come out on average; nan where no closed form is known here.

    .. math:: \sqrt{(n-1)/d} \text{ (sum, random keys)},\qquad
              \sqrt{\max(0, 1 - d/n)} \text{ (best)}

    Orthogonal keys, ``n = m d + r`` of them in sets of d: the sum errs by
    :math:`\sqrt{m (d (m - 1) + 2 r) / n}`, which is zero up to d pairs.
    """
    n = np.asarray(n, dtype=float)
    m, r = np.divmod(n, d_key)
    if rule == "best":
        return np.sqrt(np.maximum(0, 1 - d_key / n))
    if rule == "sum":
        squared = (n - 1) / d_key if kind == "random" else m * (d_key * (m - 1) + 2 * r) / n
        return np.sqrt(squared)
    return np.where((kind == "orthogonal") & (n <= d_key), 0.0, np.nan)


@lru_cache(maxsize=128)
def measured_errors(
    counts: tuple[int, ...], *, d_key: int, kind: str, rule: str, n_draws: int = 8
) -> tuple[tuple[float, float], ...]:
    """Return error, and share of values found again among all that were stored, by their number."""
    found = []
    for n in counts:
        errors, hits = [], []
        for draw in range(n_draws):
            generator = numpy_generator(draw, f"memory/{n}")
            keys = draw_keys(n, d_key, kind=kind, generator=generator)
            values = generator.normal(size=(n, d_key)) / d_key**0.5
            read = keys @ RULES[rule][1](keys, values)
            errors.append(relative_error(read, values) ** 2)
            distance = ((read[:, None] - values[None]) ** 2).sum(-1)
            hits.append(np.mean(distance.argmin(1) == np.arange(n)))
        found.append((float(np.sqrt(np.mean(errors))), float(np.mean(hits))))
    return tuple(found)


def recorded(
    corpus: str, *, scale: str = "classroom", match: str = "weights", path: Path = RUNS
) -> pd.DataFrame:
    """Return the runs of the study ``mixers`` on a task, each mixer at the rate that it chose.

    A table without rows says that nothing is recorded.
    """
    try:
        runs = load_runs(f"{fair.FAMILIES}/{scale}/{corpus}", path=path)
    except AttnlabError:
        return pd.DataFrame(columns=["variant", "seed"])
    runs = runs[runs[fair.MATCH] == match].rename(columns={fair.RATE: "lr"})
    return fair.at_own_rate(runs.assign(corpus=corpus))


def most_pairs(n_numbers: int, *, bits: int, n_values: int) -> int:
    """Return how many pairs a state can hold for certain: bits over bits a value, rounded down."""
    return int(n_numbers * bits / np.log2(n_values))


def best_accuracy(n_pairs: int, *, n_bits: float, n_values: int) -> float:
    r"""Return the share of right answers that no state of so many bits exceeds: Fano's inequality.

    The largest a with :math:`\log_2 V - h(a) - (1 - a) \log_2 (V - 1) \le B / n`, h the entropy
    of a coin in bits; it is found by halving.
    """

    def needed(a: float) -> float:
        coin = -sum(p * np.log2(p) for p in (a, 1 - a) if p > 0)
        return np.log2(n_values) - coin - (1 - a) * np.log2(n_values - 1)

    low, high = 1 / n_values, 1.0
    if needed(high) <= n_bits / n_pairs:
        return 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if needed(middle) <= n_bits / n_pairs else (low, middle)
    return low
