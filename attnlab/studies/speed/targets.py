"""What the workbook set out to reach, as numbers that records can be held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Target:
    """A quantity, the limit it should keep, and where it is measured.

    Args:
        says: The quantity in words.
        part, variant, where: Which records: part of the study, variant, sizes by name.
        metric: What is read from them.
        over: Sizes of a second record that the first is divided by, for growth.
        inverse: Whether one over the value is meant, so that larger is better.
    """

    says: str
    part: str
    variant: str
    where: Mapping[str, Any]
    metric: str = "ratio_to_attention"
    at_most: float | None = None
    at_least: float | None = None
    over: Mapping[str, Any] = field(default_factory=dict)
    inverse: bool = False

    def is_kept(self, value: float) -> bool:
        """Say whether a value keeps the limit."""
        if self.at_most is not None:
            return value <= self.at_most
        return self.at_least is not None and value >= self.at_least

    @property
    def limit(self) -> str:
        """The limit in words."""
        return (
            f"at most {self.at_most:g}"
            if self.at_most is not None
            else f"at least {self.at_least:g}"
        )


STEP = {"work": "step", "batch": 64, "time": 128, "d_model": 128, "n_layers": 6}
LAYER = {"work": "training", "batch": 16, "d_model": 128}
STREAM = {"work": "layer", "d_model": 128}


def _step_targets() -> list[Target]:
    ratios = {"she": 1.2, "he": 1.0, "we": 1.0, "me": 1.0}
    against_attention = [
        Target(
            says=f"training step of {name.upper()} over attention's",
            part="training",
            variant=name,
            where=STEP,
            at_most=limit,
        )
        for name, limit in ratios.items()
    ]
    against_loop = Target(
        says="training step of SHE over the lag loop's",
        part="training",
        variant="she",
        where=STEP,
        metric="ratio_to_lags",
        at_most=round(1 / 3.4, 3),
    )
    memory = Target(
        says="peak memory of SHE's training step (MiB)",
        part="training",
        variant="she",
        where=STEP,
        metric="peak_mib",
        at_most=1536,
    )
    return [*against_attention, against_loop, memory]


def _layer_targets() -> list[Target]:
    limits = {("she", 512): 1.0, ("she", 2048): 0.7, ("he", 512): 0.35}
    limits |= {("we", 512): 0.3, ("me", 512): 0.17}
    return [
        Target(
            says=f"{name.upper()} forward and backward over attention's, T = {time}, batch 16",
            part="mixers",
            variant=name,
            where={**LAYER, "time": time},
            at_most=limit,
        )
        for (name, time), limit in limits.items()
    ]


def _generation_targets() -> list[Target]:
    limits = {("she", 16): 6.0, ("he", 16): 15.0, ("we", 16): 5.0, ("me", 16): 50.0}
    limits |= {("she", 1): 0.9, ("he", 1): 2.5}
    return [
        Target(
            says=f"tokens per second of {name.upper()} over attention's, context 2048, "
            f"batch {batch}",
            part="generation",
            variant=name,
            where={**STREAM, "context_len": 2048, "batch": batch},
            at_least=limit,
            inverse=True,
        )
        for (name, batch), limit in limits.items()
    ]


def _growth_targets() -> list[Target]:
    return [
        Target(
            says=f"time per token of SHE, context 2048 over 512, batch {batch}",
            part="generation",
            variant="she",
            where={**STREAM, "context_len": 2048, "batch": batch},
            over={**STREAM, "context_len": 512, "batch": batch},
            metric="median_ms",
            at_most=1.6,
        )
        for batch in (1, 16)
    ]


TARGETS: tuple[Target, ...] = (
    *_step_targets(),
    *_layer_targets(),
    Target(
        says="prefill of SHE with frozen weights over attention's, T = 512, batch 16",
        part="prefill",
        variant="she",
        where={"work": "inference", "batch": 16, "time": 512, "d_model": 128},
        at_most=1.3,
    ),
    *_generation_targets(),
    *_growth_targets(),
    Target(
        says="saved for backward by SHE beyond the weights, T = d = 128, batch 16 (MiB)",
        part="mixers",
        variant="she",
        where={**LAYER, "time": 128},
        metric="saved_mib",
        at_most=5.0,
    ),
    Target(
        says="share of the measured peak in SHE's forward and backward, T = 128, batch 16",
        part="mixers",
        variant="she",
        where={**LAYER, "time": 128},
        metric="roofline_fraction",
        at_least=0.5,
    ),
)


def judge_targets(table: pd.DataFrame, *, targets: tuple[Target, ...] = TARGETS) -> pd.DataFrame:
    """Hold records against the targets that they measure.

    Where several routes of matrix products ran, the one on which the variant itself was
    fastest counts. The last of repeated records counts.

    Args:
        table: From ``core.as_table`` or ``records.load_runs``.

    Returns:
        One row a target that the table measures: ``says``, ``value``, ``limit``,
        ``is_reached``, ``route``, ``threads``.
    """
    rows = []
    for target in targets:
        for threads in sorted(table["config.threads"].unique()) if len(table) else ():
            mine = table[table["config.threads"] == threads]
            found = _value(mine, target)
            if found is not None:
                value, route = found
                kept = target.is_kept(value)
                rows.append((target.says, value, target.limit, kept, route, threads))
    columns = ["says", "value", "limit", "is_reached", "route", "threads"]
    return pd.DataFrame(rows, columns=columns)


def target_sentences(judged: pd.DataFrame) -> list[str]:
    """Return one sentence a judged target: reached or missed, with both numbers."""
    return [
        f"{row.says}: "
        + (f"reached ({row.value:.3g}, " if row.is_reached else f"missed (got {row.value:.3g}, ")
        + f"wanted {row.limit}; route {row.route}, threads {row.threads})"
        for row in judged.itertuples()
    ]


def _value(table: pd.DataFrame, target: Target) -> tuple[float, str] | None:
    rows = _rows(table, target, target.where)
    if not len(rows) or target.metric not in rows or rows[target.metric].isna().all():
        return None
    one = rows.loc[rows["median_ms"].idxmin()]
    value = float(one[target.metric])
    if target.over:
        below = _rows(table, target, target.over)
        below = below[below["config.route"] == one["config.route"]]
        if not len(below):
            return None
        value /= float(below[target.metric].iloc[-1])
    return (1 / value if target.inverse else value), str(one["config.route"])


def _rows(table: pd.DataFrame, target: Target, where: Mapping[str, Any]) -> pd.DataFrame:
    """Return the last record on each route of one variant at these sizes."""
    chosen = (table["config.part"] == target.part) & (table["variant"] == target.variant)
    for name, value in where.items():
        column = f"config.{name}"
        if column not in table:
            return table.iloc[:0]
        chosen &= table[column] == value
    return table[chosen].drop_duplicates("config.route", keep="last")
