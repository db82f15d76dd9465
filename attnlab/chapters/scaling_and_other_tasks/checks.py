"""Exercises of chapter 12: a power above a floor, its interval, where lines cross, the whole law."""

from __future__ import annotations

from itertools import product

import numpy as np

from attnlab.seeding import numpy_generator
from attnlab.teach import Exercise

# Exercise 12.1: the power a of ``loss = h + A N^-a``; N and loss ``(n_models,)``


def slope(x, y):
    """Return the slope of the best line through the points."""
    return np.polyfit(np.asarray(x, float), np.asarray(y, float), 1)[0]


def power_above(N, loss, h):
    return -slope(np.log(N), np.log(loss - h))


N3, N5 = np.array([1e3, 16e3, 256e3]), np.array([2e3, 5e3, 11e3, 64e3, 300e3])
BENT = 0.5 + 30 * N5**-0.7 * np.array([1.1, 0.9, 1.0, 1.05, 0.95])

check_power = Exercise(
    power_above,
    [
        ("by hand: 0.8, 0.2, 0.05 above the floor", N3, np.array([1.2, 0.6, 0.45]), 0.4),
        ("no floor at all", N3, np.array([3.0, 1.5, 0.75]), 0.0),
        ("five models, not quite on a line", N5, BENT, 0.5),
    ],
    {
        lambda N, L, h: -slope(np.log(N), np.log(L)): "The floor was not subtracted: log(loss) is bent, and its slope is flatter.",
        lambda N, L, h: slope(np.log(N), np.log(L - h)): "That is the slope itself; the power is its negative, since the law says N^-a.",
        lambda N, L, h: -slope(np.log(N), L - h): "The gap needs its logarithm as well: a power is straight on log-log axes alone.",
        lambda N, L, h: -slope(N, np.log(L - h)): "The weights need their logarithm as well: log(gap) against N is straight for an exponential.",
        lambda N, L, h: -1 / slope(np.log(N), np.log(L - h)): "The axes are exchanged: log(gap) is a function of log(N).",
        lambda N, L, h: -slope(np.log(N), np.log(L + h)): "The floor was added; what is left above it is L - h.",
        lambda N, L, h: -slope(np.log10(N), np.log(L - h)): "Two kinds of logarithm: take the same one on both axes.",
    },
)  # fmt: skip


# Exercise 12.2: the interval of a power from resampled runs; draws ``(n_draws, n_runs)`` of places


def powers_of(N, gap, draws):
    return np.array([-slope(np.log(N[pick]), np.log(gap[pick])) for pick in draws])


def interval(N, gap, draws):
    return np.quantile(powers_of(N, gap, draws), [0.025, 0.975])


def drawn(n_draws, n_runs):
    return numpy_generator(0, "draws").integers(n_runs, size=(n_draws, n_runs))


LUCK = np.exp(0.2 * numpy_generator(1, "runs").normal(size=10))
N10 = np.repeat([1e3, 4e3, 16e3, 64e3, 256e3], 2)

check_interval = Exercise(
    interval,
    [
        ("no luck: every draw gives 0.5", N10, 50 * N10**-0.5, drawn(4, 10)),
        ("ten runs, forty draws", N10, 50 * N10**-0.5 * LUCK, drawn(40, 10)),
        ("ten runs, three hundred draws", N10, 50 * N10**-0.9 / LUCK, drawn(300, 10)),
    ],
    {
        lambda N, gap, draws: np.quantile(powers_of(N, gap, draws), [0.05, 0.95]): "These quantiles leave out 5 % on each side: an interval of 90 %.",
        lambda N, gap, draws: np.quantile(powers_of(N, gap, draws), [0.25, 0.75]): "These are the quartiles; 95 % lie between the quantiles 0.025 and 0.975.",
        lambda N, gap, draws: np.array([powers_of(N, gap, draws).min(), powers_of(N, gap, draws).max()]): "These are the lowest and the highest draw; they move apart the more you draw.",
        lambda N, gap, draws: np.quantile(np.array([-slope(np.log(N), np.log(gap[pick])) for pick in draws]), [0.025, 0.975]): "Only the gaps were drawn: a run is a pair, so its size must come along.",
        lambda N, gap, draws: -interval(N, gap, draws)[::-1]: "These are slopes; the power is the negative.",
        lambda N, gap, draws: interval(N, gap, draws)[::-1]: "The ends are exchanged: the lower one comes first.",
        lambda N, gap, draws: np.mean(powers_of(N, gap, draws)) + np.array([-1.96, 1.96]) * np.std(powers_of(N, gap, draws)) / len(draws) ** 0.5: "You divided by the root of the number of draws: more draws do not make the runs more certain.",
    },
)  # fmt: skip


# Exercise 12.3: where two times ``C T^p`` and ``K T^q`` are equal


def crossing(C, p, K, q):
    return (C / K) ** (1 / (q - p))


check_crossing = Exercise(
    crossing,
    [
        ("8 T against T^2", 8.0, 1.0, 1.0, 2.0),
        ("100 T against T^2 / 4", 100.0, 1.0, 0.25, 2.0),
        ("powers from a clock", 0.02, 1.05, 0.0004, 1.8),
        ("the steeper one first", 0.001, 1.9, 0.3, 1.1),
    ],
    {
        lambda C, p, K, q: (K / C) ** (1 / (q - p)): "The factors are exchanged: from C T^p = K T^q follows T^(q - p) = C / K.",
        lambda C, p, K, q: C / K: "The root is missing: T^(q - p) is C / K, not T.",
        lambda C, p, K, q: (C / K) ** (q - p): "Take the (q - p)-th root, the power 1 / (q - p), not the power q - p.",
        lambda C, p, K, q: np.log(C / K) / (q - p): "That is the logarithm of the length.",
        lambda C, p, K, q: (C / K) ** (1 / (q + p)): "Dividing powers of T subtracts their exponents.",
        lambda C, p, K, q: (C / K) ** (1 / abs(q - p)): "The sign of q - p matters: where the first is the steeper one it is negative.",
    },
)  # fmt: skip


# Build 12: the law of weights and tokens; powers are tried, factors solved for


def law(*, is_relative=True, sign=-1, floor=1.0, worst=False, turned=False, ones=False, both=True):
    """Return a fit of the law with these parts right or wrong."""

    def fit(N, D, loss, h, powers):
        gap, found = loss - floor * h, []
        for a, b in product(powers, powers) if both else zip(powers, powers, strict=True):
            terms = np.stack([N ** (sign * a), D ** (sign * b)], 1)
            weight = 1 / gap if is_relative else np.ones_like(gap)
            X, y = terms * weight[:, None], gap * weight
            factors = np.ones(2) if ones else np.linalg.lstsq(X, y, rcond=None)[0]
            found.append((float(((X @ factors - y) ** 2).sum()), factors[0], a, factors[1], b))
        _, A, a, B, b = (max if worst else min)(found, key=lambda row: row[0])
        return (B, b, A, a) if turned else (A, a, B, b)

    return fit


fit_law = law()


def made_up(a, b, *, A=40.0, B=600.0, h=0.4, noise=0.0, n=4):
    """Return weights, tokens and losses of ``n * n`` models that follow the law, or nearly."""
    N, D = (
        grid.ravel() for grid in np.meshgrid(np.geomspace(2e3, 2e5, n), np.geomspace(5e4, 2e6, n))
    )
    luck = np.exp(noise * numpy_generator(2, "made up").normal(size=n * n))
    return N, D, h + (A * N**-a + B * D**-b) * luck, h


TRIED = np.arange(1, 13) / 10

check_law = Exercise(
    fit_law,
    [
        ("nine models, no luck", *made_up(0.5, 0.6, n=3), TRIED),
        ("another floor", *made_up(0.8, 0.4, h=1.5, n=3), TRIED),
        ("sixteen models with luck", *made_up(0.6, 0.7, noise=0.1), TRIED),
        ("finer powers", *made_up(0.45, 0.55, noise=0.05), np.arange(6, 18) / 20),
    ],
    {
        law(floor=0.0): "The floor was not subtracted: the law is of loss - h.",
        law(is_relative=False): "The errors were not divided by the gap: large gaps then decide alone, and the small ones, near the floor, count for nothing.",
        law(sign=1): "The powers have the wrong sign: the gap falls as N^-a and D^-b.",
        law(worst=True): "The worst pair of powers was returned: take the smallest error.",
        law(turned=True): "The two terms are exchanged: first those of the weights, A and a, then B and b.",
        law(ones=True): "The factors were left at one: solve for A and B at every pair of powers.",
        law(both=False): "Only equal powers were tried: weights and tokens each have their own.",
        lambda *runs: fit_law(*runs)[1::2]: "These are the powers alone; the factors A and B are asked for as well.",
    },
    rtol=1e-3,
)  # fmt: skip
