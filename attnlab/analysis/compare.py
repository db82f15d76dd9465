"""Compare variants over paired seeds: mean difference, its interval, and an honest verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
import pandas as pd

from attnlab.errors import AttnlabError

HOLDS, FAILS, UNDECIDED = "holds here", "fails here", "not distinguishable at this budget"
MIN_SEEDS = 3  # fewer never give a verdict
T_975 = (  # Student's t, 97.5 % point, 1 to 30 degrees of freedom
    *(12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814),
    *(2.20099, 2.17881, 2.16037, 2.14479, 2.13145, 2.11991, 2.10982, 2.10092, 2.09302, 2.08596),
    *(2.07961, 2.07387, 2.06866, 2.06390, 2.05954, 2.05553, 2.05183, 2.04841, 2.04523, 2.04227),
)


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

    def verdict(self, *, n_pairs: int, low: float, high: float) -> str:
        """Hold the claim against the 95 % interval of the paired mean difference."""
        if n_pairs < MIN_SEEDS:
            return too_few(n_pairs)
        near = self.tolerance_nats
        if self.relation == "close":
            if -near <= low and high <= near:
                return HOLDS
            return FAILS if low > near or high < -near else UNDECIDED
        if high < 0:
            return HOLDS
        return FAILS if low > 0 else UNDECIDED


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


def paired_differences(runs: pd.DataFrame, *, baseline: str, metric: str) -> pd.DataFrame:
    r"""Subtract the baseline's result from that of each variant, seed by seed.

    .. math:: \bar\Delta \pm t_{n-1} \frac{s_\Delta}{\sqrt{n}}

    Seeds share batches and streams of chance, so what a lucky seed gives to both cancels. The
    interval covers 95 % under normal differences.

    Args:
        runs: Rows with ``variant``, ``seed`` and ``metric``.
        baseline: The variant that is subtracted.
        metric: Column to compare, for example ``test_loss_nats``.

    Returns:
        One row a variant, lowest mean first: ``variant``, ``n_pairs``, ``mean``, ``low``,
        ``high`` (NaN below two pairs), and ``has_one_sign``: whether all seeds agree.
    """
    wide = _by_seed(runs, metric)
    if baseline not in wide.columns:
        raise AttnlabError(
            f"No run of the baseline {baseline!r}; there are {', '.join(wide.columns)}. "
            "Choose one of these, or run it with attnlab study run."
        )
    rows = []
    for variant in wide.columns.drop(baseline):
        differences = (wide[variant] - wide[baseline]).dropna().to_numpy()
        if len(differences):
            rows.append({"variant": variant, **_interval(differences)})
    columns = ["variant", "n_pairs", "mean", "low", "high", "has_one_sign"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values("mean", kind="stable").reset_index(drop=True)


def seed_ranges(runs: pd.DataFrame, *, metric: str) -> pd.DataFrame:
    """Return mean, lowest and highest result over the seeds of each variant, best first."""
    wide = _by_seed(runs, metric)
    columns = {"n_seeds": "count", "mean": "mean", "lowest": "min", "highest": "max"}
    table = pd.DataFrame({name: wide.agg(how) for name, how in columns.items()})
    return table.rename_axis("variant").sort_values("mean", kind="stable").reset_index()


def judge_claims(runs: pd.DataFrame, *, claims: Sequence[Claim], metric: str) -> pd.DataFrame:
    """Hold each claim against the records; anything in doubt is called undecided.

    *Lower* holds if the 95 % interval of the paired difference lies below zero, and fails if
    it lies above. *Close* holds if it lies within the tolerance, and fails if it lies outside.
    Fewer than ``MIN_SEEDS`` pairs decide nothing: the verdict is ``one run`` or ``two runs``.

    Returns:
        One row a claim: ``says``, ``variant``, ``baseline``, ``relation``, ``verdict``,
        ``n_pairs``, ``mean``, ``low``, ``high``. Claims about absent variants are left out.
    """
    wide = _by_seed(runs, metric)
    told = ("says", "variant", "baseline", "relation")
    rows = []
    for claim in claims:
        if not {claim.variant, claim.baseline} <= set(wide.columns):
            continue
        pairs = wide[[claim.variant, claim.baseline]].dropna()
        if not len(pairs):
            continue
        interval = _interval((pairs[claim.variant] - pairs[claim.baseline]).to_numpy())
        measured = {name: interval[name] for name in ("n_pairs", "low", "high")}
        rows.append(
            {name: getattr(claim, name) for name in told}
            | {"verdict": claim.verdict(**measured)}
            | interval
        )
    columns = [*told, "verdict", "n_pairs", "mean", "low", "high", "has_one_sign"]
    return pd.DataFrame(rows, columns=columns)


def too_few(n_seeds: int) -> str:
    """Return what stands in the place of a verdict where seeds are fewer than ``MIN_SEEDS``."""
    return {0: "not recorded yet", 1: "one run"}.get(n_seeds, "two runs")


def chance_of_separation(n_seeds: int) -> float:
    """Return how often two equal variants show ranges over seeds that do not overlap.

    All orders of 2 n equal results are equally likely, and two of them separate the halves.
    """
    return 2 / comb(2 * n_seeds, n_seeds)


def student_t_975(df: int) -> float:
    """Return the 97.5 % point of Student's t with ``df`` degrees of freedom, to four digits."""
    if df < 1:
        raise AttnlabError(f"df={df}: an interval needs two results, which is one degree.")
    return T_975[df - 1] if df <= len(T_975) else 1.95996 + 2.3723 / df + 2.8226 / df**2


def _interval(differences: np.ndarray) -> dict[str, float | int | bool]:
    n, mean = len(differences), float(differences.mean())
    half = float("nan")
    if n > 1:
        half = student_t_975(n - 1) * float(differences.std(ddof=1)) / np.sqrt(n)
    signs = set(np.sign(differences))
    return {
        "n_pairs": n,
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "has_one_sign": len(signs) == 1 and 0.0 not in signs,
    }


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
