r"""Power laws: of a loss in weights and tokens above its floor, and of a time in a size.

.. math:: L(N, D) = E + A N^{-a} + B D^{-b}

Where the source is known, E is its entropy h and need not be fitted: log(L - h) is then a straight
line in log N while tokens are plenty. The powers are not identifiable where N and D grow together,
where one of the two terms is small in every run, or where fewer than three sizes of each were run.
A constant that is fitted as well is told only by runs that come near it: far above, a larger E
with steeper powers fits as well as a smaller one with flatter powers.

Source: Hoffmann and others, arXiv:2203.15556 (the form, many starts, Huber's loss on logarithms).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError
from attnlab.seeding import numpy_generator

Floats = NDArray[np.float64]
NAMES = ("A", "a", "B", "b", "E")
MIN_SIZES = 3  # of weights, and of tokens
TOO_ALIKE = 0.98  # correlation of log N and log D from which on the two powers are one
HUBER = 0.1  # residual of a logarithm from which on it counts linearly
STEEPEST, N_ITERATIONS = (1e-3, 5.0), 60
STARTS = tuple(product((0.2, 0.6, 1.2), (0.2, 0.6, 1.2), (0.2, 0.5, 0.8), (0.3, 0.9)))


@dataclass(frozen=True, kw_only=True)
class ScalingFit:
    """A fitted law, with 95 % intervals by parameter: ``A``, ``a``, ``B``, ``b``, ``E``.

    Args:
        E: The floor in nats: given, or fitted where ``is_free``.
        rms: Root mean square of the residuals of the logarithm; 0.1 is about 10 %.
        draws: ``(n_draws, 5)``, the parameters of every bootstrap sample.
    """

    A: float
    a: float
    B: float
    b: float
    E: float
    is_free: bool
    rms: float
    n_runs: int
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    draws: Floats = field(default_factory=lambda: np.zeros((0, len(NAMES))), repr=False)

    def predict(self, n_weights: ArrayLike, n_tokens: ArrayLike) -> Floats:
        """Return the loss in nats at these sizes; shapes broadcast."""
        N, D = np.asarray(n_weights, float), np.asarray(n_tokens, float)
        return self.E + self.A * N**-self.a + self.B * D**-self.b

    def predicted_interval(self, n_weights: float, n_tokens: float) -> tuple[float, float]:
        """Return the 95 % interval of the predicted loss over the bootstrap samples."""
        A, a, B, b, E = self.draws.T
        return _interval(E + A * n_weights**-a + B * n_tokens**-b)

    def covers(self, floor_nats: float) -> bool:
        """Say whether the interval of the constant covers a floor; a given one is its own."""
        low, high = self.intervals.get("E", (self.E, self.E))
        return low <= floor_nats <= high


def fit_scaling(
    n_weights: ArrayLike,
    *,
    n_tokens: ArrayLike,
    loss_nats: ArrayLike,
    floor_nats: ArrayLike | None = None,
    n_draws: int = 200,
    seed: int = 0,
) -> ScalingFit:
    """Fit the law to runs; intervals by bootstrap over runs.

    With a floor the residuals are those of log(L - h), without one those of log L, as published.

    Shapes:
        n_weights, n_tokens, loss_nats: ``(n_runs,)``; floor_nats: the same, or one number.
    Args:
        floor_nats: What each run would cost the true source; None fits the constant E as well.
        n_draws: Bootstrap samples; 0 leaves the intervals out.
    Raises:
        AttnlabError: Losses at or below the floor, too few runs or sizes, or sizes of weights
            and tokens that grow together: no power could be told from the other.
    """
    N, D, L = (np.asarray(values, float).ravel() for values in (n_weights, n_tokens, loss_nats))
    is_free = floor_nats is None
    h = np.zeros_like(L) if floor_nats is None else np.broadcast_to(floor_nats, L.shape)
    _check(N, D, L - h, n_parameters=4 + is_free)
    centre = np.log(N).mean(), np.log(D).mean()
    x, y = np.stack([np.log(N) - centre[0], np.log(D) - centre[1]]), np.log(L - h)
    starts = _starts(L - h, is_free)
    theta, cost = _minimise(starts, x, y, np.ones((1, len(y))), is_free)
    best = np.argsort(cost)[: 1 + bool(n_draws)]
    residuals = _law(theta[best[:1]], x, is_free)[0][0] - y
    found = _named(theta[best[:1]], centre, h.mean(), is_free)[0].tolist()
    rms, named = float(np.sqrt(np.mean(residuals**2))), dict(zip(NAMES, found, strict=True))
    fit = ScalingFit(**named, is_free=is_free, rms=rms, n_runs=len(y))
    if not n_draws:
        return fit
    chance = numpy_generator(seed, "bootstrap over runs")
    counts = chance.multinomial(len(y), np.full(len(y), 1 / len(y)), size=n_draws).astype(float)
    again, cost = _minimise(
        np.tile(theta[best], (n_draws, 1)), x, y, np.repeat(counts, len(best), 0), is_free
    )
    chosen = cost.reshape(n_draws, -1).argmin(1) + np.arange(n_draws) * len(best)
    draws = _named(again[chosen], centre, h.mean(), is_free)
    free = NAMES if is_free else NAMES[:4]
    intervals = {name: _interval(draws[:, i]) for i, name in enumerate(free)}
    return replace(fit, intervals=intervals, draws=draws)


def _check(N: Floats, D: Floats, gap: Floats, *, n_parameters: int) -> None:
    if not len(N) == len(D) == len(gap):
        raise AttnlabError(f"{len(N)} weights, {len(D)} tokens, {len(gap)} losses: one each a run.")
    n_sizes = len(np.unique(N)), len(np.unique(D))
    if min(n_sizes) < MIN_SIZES or len(N) <= n_parameters:
        raise AttnlabError(
            f"{len(N)} runs with {n_sizes[0]} sizes and {n_sizes[1]} numbers of tokens do not tell "
            f"{n_parameters} parameters. Run {MIN_SIZES} or more of each, crossed."
        )
    if not (np.isfinite([N, D, gap]).all() and min(N.min(), D.min(), gap.min()) > 0):
        low = np.nanmin(gap) if np.isfinite(gap).any() else np.nan
        raise AttnlabError(
            f"A loss lies {low:.4f} nats above the floor; a power law needs all above it, and "
            "positive sizes. Leave those runs out, or score them on more held-out text."
        )
    alike = np.corrcoef(np.log(N), np.log(D))[0, 1]
    if abs(alike) > TOO_ALIKE:
        raise AttnlabError(
            f"Weights and tokens grow together (correlation {alike:.3f} of their logarithms): no "
            "power can be told from the other. Cross them: each model on each number of tokens."
        )


def _starts(gap: Floats, is_free: bool) -> Floats:
    """Return starting points: log of both terms at the centre, log of both powers, log of E."""
    middle, rows = float(np.median(gap)), []
    for a, b, share, part in STARTS if is_free else [s for s in STARTS if s[3] == STARTS[0][3]]:
        E = part * float(gap.min()) if is_free else 0.0
        left = max(middle - E, 1e-6)
        row = [np.log(left * share), np.log(a), np.log(left * (1 - share)), np.log(b)]
        rows.append([*row, np.log(E)] if is_free else row)
    return np.array(rows)


def _law(theta: Floats, x: Floats, is_free: bool) -> tuple[Floats, Floats]:
    """Return log of the law ``(n_rows, n_runs)`` and its derivatives ``(n_rows, n_runs, n)``."""
    a, b = np.exp(theta[:, 1:2]), np.exp(theta[:, 3:4])
    terms = [theta[:, 0:1] - a * x[0], theta[:, 2:3] - b * x[1]]
    terms += [np.broadcast_to(theta[:, 4:5], terms[0].shape)] if is_free else []
    log_terms = np.stack(terms, -1)
    top = log_terms.max(-1, keepdims=True)
    value = top[..., 0] + np.log(np.exp(log_terms - top).sum(-1))
    share = np.exp(log_terms - value[..., None])
    columns = [share[..., 0], -share[..., 0] * a * x[0], share[..., 1], -share[..., 1] * b * x[1]]
    return value, np.stack([*columns, share[..., 2]] if is_free else columns, -1)


def _minimise(
    theta: Floats, x: Floats, y: Floats, counts: Floats, is_free: bool
) -> tuple[Floats, Floats]:
    """Return minima of Huber's loss from every row at once, by damped Gauss-Newton steps."""
    damping, low, high = np.full(len(theta), 1e-2), *np.log(STEEPEST)
    cost = _cost(theta, x, y, counts, is_free)
    for _ in range(N_ITERATIONS):
        value, J = _law(theta, x, is_free)
        r = value - y
        w = counts * np.minimum(1, HUBER / np.maximum(np.abs(r), 1e-12))  # Huber, reweighted
        weighted = (w[..., None] * J).swapaxes(1, 2)
        H, g = weighted @ J, weighted @ r[..., None]
        size = damping[:, None] * (np.diagonal(H, axis1=1, axis2=2) + 1e-9)
        step = np.linalg.solve(H + size[..., None] * np.eye(theta.shape[1]), g)[..., 0]
        trial = theta - np.clip(step, -1, 1)
        trial[:, [1, 3]] = np.clip(trial[:, [1, 3]], low, high)
        tried = _cost(trial, x, y, counts, is_free)
        is_better = tried < cost
        theta, cost = np.where(is_better[:, None], trial, theta), np.where(is_better, tried, cost)
        damping = np.clip(np.where(is_better, damping / 3, damping * 4), 1e-9, 1e9)
        if (damping > 1e6).all() or not np.abs(step).max() > 1e-6:
            break
    return theta, cost


def _cost(theta: Floats, x: Floats, y: Floats, counts: Floats, is_free: bool) -> Floats:
    r = np.abs(_law(theta, x, is_free)[0] - y)
    return (counts * np.where(r < HUBER, r**2 / 2, HUBER * (r - HUBER / 2))).sum(1)


def _named(theta: Floats, centre: tuple[float, float], h: float, is_free: bool) -> Floats:
    """Return A, a, B, b, E of each row: powers as they are, factors away from the centre."""
    a, b = np.exp(theta[:, 1]), np.exp(theta[:, 3])
    A, B = np.exp(theta[:, 0] + a * centre[0]), np.exp(theta[:, 2] + b * centre[1])
    return np.stack([A, a, B, b, np.exp(theta[:, 4]) if is_free else np.full_like(a, h)], 1)


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class PowerFit:
    """``y = C x^p`` with the 95 % interval of the power."""

    C: float
    p: float
    low: float
    high: float


def fit_power(x: ArrayLike, *, samples: ArrayLike, n_draws: int = 1000, seed: int = 0) -> PowerFit:
    """Fit a straight line to logarithms of medians; the interval by bootstrap over rounds.

    Of two programs that took turns, give the ratios of each round: the power is then the
    difference of theirs. What all rounds share, such as a busy hour, is in no interval.

    Shapes:
        x: ``(n_points,)``; samples: ``(n_rounds, n_points)``, all positive.
    Raises:
        AttnlabError: Fewer than two sizes or rounds, or a number that has no logarithm.
    """
    sizes, y = np.asarray(x, float), np.atleast_2d(np.asarray(samples, float))
    if len(np.unique(sizes)) < 2 or len(y) < 2 or y.shape[1:] != sizes.shape:
        raise AttnlabError(
            f"x of shape {sizes.shape} and samples of shape {y.shape} give no power: at least two "
            "sizes, and two rounds of each as (n_rounds, n_points)."
        )
    if not (np.isfinite(y).all() and y.min() > 0 and sizes.min() > 0):
        raise AttnlabError(
            "Sizes and samples must be positive numbers: a power law has logarithms."
        )
    chance = numpy_generator(seed, "bootstrap over rounds")
    rounds = chance.integers(len(y), size=(n_draws, *y.shape))
    again = np.median(np.take_along_axis(y[None], rounds, 1), 1)  # (n_draws, n_points)
    p, log_C = np.polyfit(np.log(sizes), np.log(np.median(y, 0)), 1)
    slopes = np.polyfit(np.log(sizes), np.log(again).T, 1)[0]
    low, high = _interval(slopes)
    return PowerFit(C=float(np.exp(log_C)), p=float(p), low=low, high=high)
