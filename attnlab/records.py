"""Results with everything needed to ask for them again: JSON lines in, one tidy table out."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnlab import provenance
from attnlab.errors import AttnlabError, UnknownNameError

RUNS = Path(__file__).parents[1] / "data" / "runs"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One measured result, one line of ``data/runs/*.jsonl``.

    Args:
        experiment: Study, scale and corpus, for example ``language-model/classroom/tales``.
        variant: What is compared: a mixer, or a mixer with a size, for example ``she``.
        seed: The integer that all streams of chance of the run come from.
        config: Everything that was set, as used.
        metrics: Single numbers; each name carries its unit, as in ``test_loss_nats``.
        curve: Equal-length columns over the course of the run, ``tokens_seen`` among them.
        details: Smaller tables, for example the loss of each held-out book.
        seconds: Wall-clock time spent, over all attempts if the run was resumed.
    """

    experiment: str
    variant: str
    seed: int
    config: dict[str, Any]
    metrics: dict[str, float]
    seconds: float
    curve: dict[str, list[float]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    command: str = field(default_factory=provenance.command)
    commit: str = field(default_factory=provenance.commit)
    environment: dict[str, str] = field(default_factory=provenance.environment)
    finished_at: str = field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )

    def __post_init__(self) -> None:
        """Refuse metrics that are not finite: a diverged run is told in words, not as NaN."""
        for name, value in self.metrics.items():
            if not math.isfinite(value):
                raise AttnlabError(
                    f"Metric {name}={value} of {self.experiment} ({self.variant}, seed "
                    f"{self.seed}) is not a number. Record the failure in details instead."
                )

    def append_to(self, path: Path) -> None:
        """Add one line of JSON; a run file is only ever appended to, whole lines at a time."""
        path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(asdict(self), sort_keys=True) + "\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if os.write(descriptor, line.encode()) < len(line.encode()):
                raise OSError(f"{path} was not written whole: the disk is full")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_records(path: Path | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records of one file, or of every file in ``data/runs``, as dictionaries.

    Raises:
        AttnlabError: A line that is not a record; the message has file and line number.
    """
    path = RUNS if path is None else Path(path)
    for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                record = json.loads(line)
                _require_record(record)
            except (ValueError, KeyError, TypeError) as error:
                raise AttnlabError(
                    f"{file.name} line {number} is not a run record ({error}). Run files are only "
                    "appended to; restore it with git checkout."
                ) from error
            yield record


def load_runs(
    experiment: str | None = None, *, path: Path | None = None, variants: list[str] | None = None
) -> pd.DataFrame:
    """Return one row a run: experiment, variant, seed, every metric, and configuration.

    Configuration appears as ``config.model.d_model`` and the like, so that it can be filtered.

    Args:
        experiment: Keep runs whose experiment starts with this; None keeps all.
        variants: Keep these, in this order.
    Raises:
        UnknownNameError: No run of that experiment; the message lists those there are.
    """
    rows = [_row(record) for record in _select(experiment, path)]
    table = pd.DataFrame(rows)
    if variants is not None:
        known = set(table["variant"])
        for variant in sorted(set(variants) - known):
            step = "Leave variants out for all of them."
            raise UnknownNameError("recorded variant", variant, known, next_step=step)
        table = table[table["variant"].isin(variants)]
        order = [variants.index(variant) for variant in table["variant"]]
        table = table.iloc[np.argsort(order, kind="stable")]
    return table.reset_index(drop=True)


def load_curves(experiment: str, *, path: Path | None = None) -> pd.DataFrame:
    """Return the curves of an experiment in tidy rows: variant, seed, tokens_seen, ..."""
    parts = []
    for record in _select(experiment, path):
        part = pd.DataFrame(record["curve"])
        parts.append(part.assign(**_identity(record)))
    return pd.concat(parts, ignore_index=True)


def load_details(experiment: str, name: str, *, path: Path | None = None) -> pd.DataFrame:
    """Return one table of details, for example ``books``, over all runs of an experiment."""
    parts = []
    for record in _select(experiment, path):
        if name in record["details"]:
            part = pd.DataFrame(record["details"][name])
            parts.append(part.assign(**_identity(record)))
    if not parts:
        raise AttnlabError(f"No run of {experiment!r} has a table of details called {name!r}.")
    return pd.concat(parts, ignore_index=True)


def _require_record(record: Any) -> None:
    missing = {field.name for field in fields(RunRecord)} - set(record)
    if missing:
        raise KeyError(f"it lacks {sorted(missing)[0]!r}")


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("experiment", "variant", "seed")}


def _select(experiment: str | None, path: Path | None) -> list[dict[str, Any]]:
    records = list(read_records(path))
    if experiment is None:
        return records
    chosen = [r for r in records if r["experiment"].startswith(experiment)]
    if not chosen:
        known = {r["experiment"] for r in records}
        step = "Run it with: attnlab study run NAME --scale SCALE."
        raise UnknownNameError("recorded experiment", experiment, known, next_step=step)
    return chosen


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    plain = ("experiment", "variant", "seed", "seconds", "commit", "command", "finished_at")
    row = {name: record[name] for name in plain}
    row |= record["metrics"]
    row |= {f"environment.{n}": v for n, v in record["environment"].items()}
    return row | dict(_flat(record["config"], "config"))


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}.{name}")
        elif not isinstance(value, Mapping):
            yield f"{prefix}.{name}", value
