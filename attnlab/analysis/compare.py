"""Compare variants over paired seeds: mean difference, its interval, and an honest verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from typing import Literal

import numpy as np
import pandas as pd

from attnlab.errors import AttnlabError

HOLDS, FAILS, UNDECIDED = "holds here", "fails here", "not distinguishable at this budget"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence about two variants that records can hold against.

    Args:
        says: The claim in words, as its source puts it.
        variant: The one spoken of; ``baseline`` is what it is compared with.
        relation: ``lower`` loss than the baseline, or ``close`` to it.
        tolerance_nats: How far apart two losses may be to count as close.
    """

    says: str
    variant: str
    baseline: str
    relation: Literal["lower", "close"] = "lower"
    tolerance_nats: float = 0.05


ORDERING = (
    Claim(says="SHE trains to a lower cost than attention", variant="she", baseline="attention"),
    Claim(says="HE is better than multi-head attention", variant="he", baseline="attention"),
    Claim(
        says="WE is better than single-head attention", variant="we", baseline="attention_1_head"
    ),
    Claim(
        says="ME is close to single-head attention",
        variant="me",
        baseline="attention_1_head",
        relation="close",
    ),
)  # arXiv:2308.07661, as its summaries report it


def latest_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each variant and seed: where a run was repeated, the last one.

    Run files are only appended to, so the last row is the newest.
    """
    _require_columns(runs, "variant", "seed")
    return runs.drop_duplicates(["variant", "seed"], keep="last").reset_index(drop=True)


def paired_differences(
    runs: pd.DataFrame, *, baseline: str, metric: str, level: float = 0.95
) -> pd.DataFrame:
    r"""Subtract the baseline's result from that of each variant, seed by seed.

    .. math:: \bar\Delta \pm t_{n-1} \frac{s_\Delta}{\sqrt{n}}

    Seeds share batches and streams of chance, so what a lucky seed gives to both cancels.

    Args:
        runs: Rows with ``variant``, ``seed`` and ``metric``.
        baseline: The variant that is subtracted.
        metric: Column to compare, for example ``test_loss_nats``.
        level: Coverage of the interval, under normal differences.

    Returns:
        One row a variant, lowest mean first: ``variant``, ``n_pairs``, ``mean``, ``low``,
        ``high`` (NaN below two pairs), and ``has_one_sign``: whether all seeds agree.
    """
    wide = _by_seed(runs, metric)
    _require_variant(wide, baseline)
    rows = []
    for variant in wide.columns.drop(baseline):
        differences = (wide[variant] - wide[baseline]).dropna().to_numpy()
        if len(differences):
            rows.append({"variant": variant, **_interval(differences, level)})
    table = pd.DataFrame(rows)
    return table.sort_values("mean", kind="stable").reset_index(drop=True)


def seed_ranges(runs: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """Return mean, lowest and highest result over the seeds of each variant, best first."""
    wide = _by_seed(runs, metric)
    table = pd.DataFrame(
        {
            "n_seeds": wide.count(),
            "mean": wide.mean(),
            "lowest": wide.min(),
            "highest": wide.max(),
        }
    )
    table = table.rename_axis("variant").sort_values("mean", kind="stable")
    return table.reset_index()


def judge_claims(runs: pd.DataFrame, *, claims: Sequence[Claim], metric: str) -> pd.DataFrame:
    """Hold each claim against the records; anything in doubt is called undecided.

    *Lower* holds if every seed of the variant ends below every seed of the baseline and the
    95 % interval of the paired difference lies below zero; it fails if both say above.
    *Close* holds if that interval lies within the tolerance, and fails if it lies outside.
    Fewer than two pairs decide nothing.

    Returns:
        One row a claim: ``says``, ``variant``, ``baseline``, ``relation``, ``verdict``,
        ``n_pairs``, ``mean``, ``low``, ``high``. Claims about absent variants are left out.
    """
    wide = _by_seed(runs, metric)
    rows = []
    for claim in claims:
        if not {claim.variant, claim.baseline} <= set(wide.columns):
            continue
        pairs = wide[[claim.variant, claim.baseline]].dropna()
        if not len(pairs):
            continue
        interval = _interval((pairs[claim.variant] - pairs[claim.baseline]).to_numpy(), 0.95)
        rows.append(
            {
                "says": claim.says,
                "variant": claim.variant,
                "baseline": claim.baseline,
                "relation": claim.relation,
                "verdict": _verdict(claim, pairs, interval),
                **interval,
            }
        )
    measured = ("n_pairs", "mean", "low", "high", "has_one_sign")
    told = ("says", "variant", "baseline", "relation", "verdict")
    return pd.DataFrame(rows, columns=[*told, *measured])


def chance_of_separation(n_seeds: int) -> float:
    """Return how often two equal variants show ranges over seeds that do not overlap.

    All orders of 2 n equal results are equally likely, and two of them separate the halves.
    """
    return 2 / comb(2 * n_seeds, n_seeds)


@lru_cache(maxsize=64)
def student_t_quantile(p: float, *, df: int) -> float:
    r"""Return the quantile of Student's t with ``df`` degrees of freedom.

    With :math:`t = \sqrt{\nu} \tan\theta` the density becomes :math:`\cos^{\nu-1}\theta`.
    """
    if df < 1 or not 0 < p < 1:
        raise AttnlabError(f"p={p} must lie in (0, 1) and df={df} must be 1 or more.")
    angle = np.linspace(-np.pi / 2, np.pi / 2, 200_001)
    density = np.cos(angle) ** (df - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(np.sqrt(df) * np.tan(np.interp(p, mass / mass[-1], angle)))


def _interval(differences: np.ndarray, level: float) -> dict[str, float | int | bool]:
    n, mean = len(differences), float(differences.mean())
    half = float("nan")
    if n > 1:
        spread = float(differences.std(ddof=1))
        half = student_t_quantile((1 + level) / 2, df=n - 1) * spread / np.sqrt(n)
    signs = set(np.sign(differences))
    return {
        "n_pairs": n,
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "has_one_sign": len(signs) == 1 and 0.0 not in signs,
    }


def _verdict(claim: Claim, pairs: pd.DataFrame, interval: dict) -> str:
    low, high, tolerance = interval["low"], interval["high"], claim.tolerance_nats
    if interval["n_pairs"] < 2:
        return UNDECIDED
    if claim.relation == "close":
        if -tolerance <= low and high <= tolerance:
            return HOLDS
        return FAILS if low > tolerance or high < -tolerance else UNDECIDED
    one, other = pairs[claim.variant], pairs[claim.baseline]
    if one.max() < other.min() and high < 0:
        return HOLDS
    return FAILS if one.min() > other.max() and low > 0 else UNDECIDED


def _by_seed(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return one row a seed and one column a variant, in the order of their appearance."""
    _require_columns(runs, "variant", "seed", metric)
    rows = latest_runs(runs)
    order = list(dict.fromkeys(rows["variant"]))
    return rows.pivot(index="seed", columns="variant", values=metric)[order]


def _require_columns(runs: pd.DataFrame, *names: str) -> None:
    missing = [name for name in names if name not in runs.columns]
    if missing:
        raise AttnlabError(
            f"The table of runs lacks the column {missing[0]!r}; it has "
            f"{', '.join(map(str, runs.columns))}. Load it with attnlab.records.load_runs."
        )


def _require_variant(wide: pd.DataFrame, variant: str) -> None:
    if variant not in wide.columns:
        raise AttnlabError(
            f"No run of the baseline {variant!r}; there are {', '.join(wide.columns)}. "
            "Choose one of these, or run it with attnlab study run."
        )
