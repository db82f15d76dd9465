"""Results with everything needed to ask for them again: JSON lines in, one tidy table out."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnlab import paths
from attnlab.config import is_number
from attnlab.errors import AttnlabError, UnknownNameError, shorten
from attnlab.paths import RUNS, file_errors, read_whole

LOGGER = logging.getLogger(__name__)

DAMAGE_VARIABLE = "ATTNLAB_ON_DAMAGE"  # what is done about a line that is no record
ON_DAMAGE = ("stop", "skip")
CHECKSUM = "sha256"  # of the other fields of a line; records of before it have none
DEEPEST = 32  # levels of a record within each other


@cache
def commit() -> str:
    """Return the commit of the attnlab in use, with ``-dirty`` if its code was changed since.

    Of a package that pip installed from git, the commit that pip noted. ``unknown`` outside a
    checkout otherwise, or where git is not installed or refuses the checkout of another user.
    """
    root = paths.PACKAGE.parent
    try:
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != root:
            return _installed_commit()  # inside some other project's checkout
        name = _git("describe", "--always", "--abbrev=12", "--exclude=*")
        code = [str(root / name) for name in ("attnlab", "pyproject.toml")]  # not data/runs
        return f"{name}-dirty" if _git("status", "--porcelain", "--", *code) else name
    except (OSError, subprocess.SubprocessError):
        return _installed_commit()


def _installed_commit() -> str:
    try:
        note = json.loads(distribution("attnlab").read_text("direct_url.json") or "{}")
        return str(note["vcs_info"]["commit_id"])[:12]
    except (PackageNotFoundError, OSError, ValueError, KeyError, TypeError):
        return "unknown"


def _git(*arguments: str) -> str:
    options = {"capture_output": True, "text": True, "check": True, "timeout": 10}
    return subprocess.run(["git", *arguments], cwd=paths.PACKAGE, **options).stdout.strip()


def environment(*, device: str = "cpu") -> dict[str, str]:
    """Return the versions, the device and the thread count that the numbers depend on.

    Args:
        device: Where it was computed, ``cpu`` or ``cuda``; not where it could have been.
    """
    import torch
    from torch import distributed

    is_one = not (distributed.is_available() and distributed.is_initialized())
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "os": platform.platform(terse=True),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else _processor(),
        "threads": str(torch.get_num_threads()),
        **({} if is_one else {"processes": str(distributed.get_world_size())}),
    }


def _processor() -> str:
    linux = Path("/proc/cpuinfo")
    lines = linux.read_text(encoding="utf-8").splitlines() if linux.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "cpu"


def command() -> str:
    """Return the command line of this process as it could be typed again.

    Paths in the checkout are relative to it, others a bare name: records are public.
    """

    def shorten(argument: str) -> str:
        path, root = Path(argument), paths.PACKAGE.parent
        if not path.is_absolute():
            return argument
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name

    program, *arguments = sys.orig_argv
    return shlex.join([Path(program).stem, *map(shorten, arguments)])


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
    command: str = field(default_factory=command)
    commit: str = field(default_factory=commit)
    environment: dict[str, str] = field(default_factory=environment)
    finished_at: str = field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )

    def __post_init__(self) -> None:
        """Refuse metrics that are not finite: a diverged run is told in words, not as NaN."""
        if not isinstance(self.metrics, Mapping):
            raise TypeError(f"metrics are numbers by name, not {type(self.metrics).__name__}")
        for name, value in self.metrics.items():
            if not is_number(value, float):
                raise AttnlabError(
                    f"Metric {name}={value} of {self.experiment} ({self.variant}, seed "
                    f"{self.seed}) is not a number. Record the failure in details instead."
                )

    def append_to(self, path: Path) -> None:
        """Add one line of JSON; a run file is only ever appended to, whole lines at a time.

        The line ends with a checksum of all else in it, so that a change is noticed.

        Raises:
            FileError: The place cannot be written; the message says why.
        """
        path, record = Path(path), json.loads(json.dumps(vars(self)))
        record[CHECKSUM] = _checksum(record)
        line = (json.dumps(record, sort_keys=True) + "\n").encode()
        with file_errors(path, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b", buffering=0) as file:  # one write: lines of two never mix
                line = line if _ends_a_line(file) else b"\n" + line
                if file.write(line) < len(line):
                    raise OSError("it was not written whole, the disk is full")
                os.fsync(file.fileno())


def _ends_a_line(file: io.FileIO) -> bool:
    """Say whether a file is whole; a process may have been killed in the midst of a line."""
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _checksum(record: Mapping[str, Any]) -> str:
    """Return hex digits of the sha256 of all fields but the checksum itself."""
    others = {name: value for name, value in record.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()[:32]


def read_records(
    path: Path | None = None, *, on_damage: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the records of one file, or of every file in ``data/runs``, as dictionaries.

    A line is a record if it is JSON with the fields of ``RunRecord``, each of its type, and if
    its checksum is that of the others, where it has one. Empty lines are passed over. What came
    with attnlab is followed by one's own, where those lie apart.

    Args:
        on_damage: ``stop`` at a line that is no record, or ``skip`` it and log how many there
            were; None asks ``$ATTNLAB_ON_DAMAGE``, and stops where that is not set.

    Raises:
        AttnlabError: A line that is not a record; the message has file and line number.
        FileError: A file that cannot be read.
    """
    for line, _ in _lines(path, on_damage=on_damage):
        yield _record(line)


def _lines(path: Path | None, *, on_damage: str | None = None) -> Iterator[tuple[bytes, str]]:
    """Yield every line that is a record, and of which experiment; see ``read_records``."""
    if on_damage is None:
        on_damage = os.environ.get(DAMAGE_VARIABLE) or "stop"
    if not isinstance(on_damage, str) or on_damage not in ON_DAMAGE:
        step = f"It is an argument, or {DAMAGE_VARIABLE}."
        raise UnknownNameError("way with damaged records", on_damage, ON_DAMAGE, next_step=step)
    places = paths.record_places(RUNS if path is None else Path(path))
    for file in chain.from_iterable(_run_files(place) for place in places):
        lines = read_whole(file).split(b"\n")
        n_skipped = 0
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                experiment = _checked(line)
            except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
                if on_damage == "skip":
                    n_skipped += 1
                    continue
                raise AttnlabError(
                    f"{file.name} line {number} is not a run record ({error}). Run files are only "
                    f"appended to; restore it with git checkout, or set {DAMAGE_VARIABLE}=skip to "
                    "go on without such lines."
                ) from error
            yield line, experiment
        if n_skipped:
            LOGGER.warning("%s: %d lines are no run records, left out.", file, n_skipped)


def _record(line: bytes) -> dict[str, Any]:
    """Return the record of a line that was checked, without its checksum."""
    record = json.loads(line.decode())
    return record if record.pop(CHECKSUM, None) else _plainly_named(record)


@lru_cache(maxsize=20_000)  # every picture reads the files again
def _checked(line: bytes) -> str:
    """Return the experiment of a line that is a record, or say what is wrong with it."""
    record = json.loads(line.decode())
    if not isinstance(record, dict):
        raise TypeError(f"it is {shorten(record)}")
    if missing := _TYPES.keys() - record.keys():
        raise KeyError(f"it lacks {min(missing)!r}")
    if unknown := record.keys() - _TYPES.keys() - {CHECKSUM}:
        raise KeyError(f"it has {shorten(min(unknown))}, which no record has")
    for name, kinds in _TYPES.items():
        if not isinstance(record[name], kinds) or isinstance(record[name], bool):
            raise TypeError(f"{name} is {shorten(record[name])}")
    if (line.count(b"[") + line.count(b"{")) > DEEPEST and _is_deeper(record, DEEPEST):
        raise ValueError(f"its fields lie more than {DEEPEST} levels deep")
    for name, value in {**record["metrics"], "seconds": record["seconds"]}.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{name} is {shorten(value)}, no finite number")
    columns = record["curve"].values()
    if not all(isinstance(column, list) for column in columns) or len(set(map(len, columns))) > 1:
        raise ValueError("the columns of its curve are no lists of one length")
    if CHECKSUM in record and record[CHECKSUM] != _checksum(record):
        raise ValueError("it was changed after it was written: its checksum is another")
    return record["experiment"]


def _plainly_named(record: dict[str, Any]) -> dict[str, Any]:
    """Name the smoothed training loss so, in runs recorded without a checksum: they said it plain.

    A plain name holds the plain cross-entropy; what label smoothing adds differs by run.
    """
    train = record["config"].get("train")
    if not isinstance(train, dict) or not train.get("label_smoothing"):
        return record
    tables = {
        part: {k.replace("train_loss", "train_smoothed_loss"): v for k, v in record[part].items()}
        for part in ("metrics", "curve")
    }
    return {**record, **tables}


def _is_deeper(value: Any, n_levels: int) -> bool:
    level = [value]
    for _ in range(n_levels):
        parts = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for part in parts for each in part if isinstance(each, dict | list)]
    return bool(level)


_TYPES: dict[str, Any] = {  # of the fields of a record, as JSON has them
    **dict.fromkeys(("experiment", "variant", "command", "commit", "finished_at"), str),
    **dict.fromkeys(("config", "metrics", "curve", "details", "environment"), dict),
    "seed": int,
    "seconds": (int, float),
}


def _run_files(path: Path) -> list[Path]:
    with file_errors(path, "read"):
        return [path] if path.suffix == ".jsonl" else sorted(path.glob("*.jsonl"))


def load_runs(
    experiment: str | None = None,
    *,
    path: Path | None = None,
    variants: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return one row a run: experiment, variant, seed, every metric, configuration and details.

    Configuration appears as ``config.model.d_model`` and the like, so that it can be filtered;
    single values of the details as ``details.bleu.n_sentences``.

    Args:
        experiment: The whole name, as in ``language-model/classroom/tales``; with a slash at
            its end, as in ``speed/paper/``, everything below it. None keeps all.
        path: A run file, or a folder of them.
        variants: Keep these, in this order.
        columns: Return these alone, nan where no run has them. Then a table without rows
            answers for what is not recorded.
    Raises:
        UnknownNameError: No run of that experiment or variant; the message lists those there are.
    """
    rows = [_row(record) for record in _select(experiment, path, is_needed=columns is None)]
    if variants is not None:
        variants, known = list(variants), {row["variant"] for row in rows}
        if not all(isinstance(variant, str) for variant in variants):
            raise TypeError("variants are names")
        for variant in sorted(set(variants) - known) if columns is None else ():
            step = "Leave variants out for all of them."
            raise UnknownNameError("recorded variant", variant, known, next_step=step)
        rows = [row for row in rows if row["variant"] in variants]
        rows.sort(key=lambda row: variants.index(row["variant"]))
    if columns is None:
        return pd.DataFrame(rows)
    columns = list(columns)
    rows = [{name: row.get(name, np.nan) for name in columns} for row in rows]
    return pd.DataFrame(rows, columns=columns)


def load_curves(experiment: str, *, path: Path | None = None) -> pd.DataFrame:
    """Return the curves of an experiment in tidy rows: variant, seed, tokens_seen, ..."""
    return _tables((record, record["curve"]) for record in _select(experiment, path))


def load_details(
    experiment: str, name: str, *, path: Path | None = None, is_needed: bool = True
) -> pd.DataFrame:
    """Return one table of details, for example ``books``, over all runs of an experiment.

    Args:
        is_needed: Whether it is an error that there is none, or the answer an empty table.
    """
    records = _select(experiment, path, is_needed=is_needed)
    parts = [(each, each["details"][name]) for each in records if name in each["details"]]
    if is_needed and not parts:
        raise AttnlabError(f"No run of {experiment!r} has a table of details called {name!r}.")
    return _tables(parts)


_IDENTITY = ("experiment", "variant", "seed")


def _tables(parts: Iterator[tuple[Mapping[str, Any], Any]] | list) -> pd.DataFrame:
    tables = []
    for record, table in parts:
        try:
            rows = pd.DataFrame(table)
        except ValueError as error:
            raise AttnlabError(
                f"What {record['experiment']} ({record['variant']}, seed {record['seed']}) has "
                f"there is no table of columns of one length ({error}). load_runs gives single "
                "values, as details.NAME."
            ) from error
        tables.append(rows.assign(**{name: record[name] for name in _IDENTITY}))
    return pd.concat(tables or [pd.DataFrame(columns=list(_IDENTITY))], ignore_index=True)


def _select(
    experiment: str | None, path: Path | None, *, is_needed: bool = True
) -> list[dict[str, Any]]:
    lines = list(_lines(path))
    if experiment is None:
        return [_record(line) for line, _ in lines]
    if not isinstance(experiment, str):
        raise TypeError(f"the name of an experiment is a str, not {type(experiment).__name__}")
    pattern = re.compile(re.escape(experiment) + ("" if experiment.endswith("/") else "$"))
    chosen = [_record(line) for line, name in lines if pattern.match(name)]
    if is_needed and not chosen:
        known = {name for _, name in lines}
        step = "Run it with: attnlab study run NAME --scale SCALE."
        if any(name.startswith(f"{experiment}/") for name in known):
            step = f"For everything below it, ask for {experiment + '/'!r}."
        raise UnknownNameError("recorded experiment", experiment, known, next_step=step)
    return chosen


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    plain = (*_IDENTITY, "seconds", "commit", "command", "finished_at")
    row = {name: record[name] for name in plain} | record["metrics"]
    for part in ("environment", "config"):
        row |= dict(_flat(record[part], part))
    details = dict(_flat(record["details"], "details"))
    return row | {name: value for name, value in details.items() if not isinstance(value, list)}


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value
