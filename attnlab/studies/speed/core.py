"""A race: variants of one point of a grid, side by side, and the records that come out of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from attnlab.analysis.timing import Peaks, Timings, compare, gflop_per_s, pinned_threads
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.paths import RUNS
from attnlab.records import RunRecord, commit, environment
from attnlab.studies.core import SCALES
from attnlab.training.speed import onednn_is_exact, product_route

STUDY = "speed"
ROUTES = ("default", "onednn")
WARMUP = 2
REPEATS = {"smoke": 5, "classroom": 7, "paper": 11}
BEST = "best"  # instead of an opponent's name: the fastest of all that choose nothing


@dataclass(frozen=True, kw_only=True)
class SpeedPlan:
    """What is measured, and how: enough to ask for the same records again.

    Args:
        part: One of ``PARTS``.
        routes: Of plain matrix products, see ``training.speed.product_route``; routes that
            are not exact on this machine are left out.
        seed: Number of the series; it decides the order within rounds, and the noise.
        keeps_pages: What ``training.speed.keep_pages`` said of this process.
    """

    part: str
    scale: str = "smoke"
    n_threads: int = 1
    device: str = "cpu"
    routes: tuple[str, ...] = ROUTES
    precision: str = "fp32"
    repeats: int | None = None
    seed: int = 0
    keeps_pages: bool = False

    def __post_init__(self) -> None:
        """Refuse a scale or a route that there is not."""
        if self.scale not in SCALES:
            step = "smoke takes seconds, classroom minutes, paper longer."
            raise UnknownNameError("scale", self.scale, SCALES, next_step=step)
        for route in self.routes:
            if route not in ROUTES:
                step = "default leaves torch as it is."
                raise UnknownNameError("product route", route, ROUTES, next_step=step)
        if not self.routes:
            raise AttnlabError("routes is empty: name default, onednn, or both.")

    @property
    def n_rounds(self) -> int:
        """Rounds of each race."""
        return REPEATS[self.scale] if self.repeats is None else self.repeats

    @property
    def usable_routes(self) -> tuple[str, ...]:
        """The routes that are exact here; never none."""
        if self.device == "cpu" and onednn_is_exact():
            return self.routes
        return tuple(r for r in self.routes if r != "onednn") or ("default",)


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """One program of a race.

    Args:
        call: Does the work once; what it returns is dropped.
        n_pieces: Equal pieces of work in a call, for example tokens; times are per piece.
        flops: Floating-point operations of a piece that the program really does, if known.
        memory: Further metrics that need no clock, for example ``saved_mib``.
        config: What distinguishes this program, for example the method it runs.
    """

    call: Callable[[], object]
    n_pieces: int = 1
    flops: int | None = None
    memory: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Race:
    """One point of a grid and the programs that run there.

    Args:
        point: Its name in the records, for example ``training-b16-t512-d128``.
        sizes: The same as numbers and words, for the configuration of the records.
        entrants: Builders by variant; built together when the race starts.
        opponents: Variants, or ``BEST``, that every time is divided by.
        n_tokens: Tokens that a piece of work reads or writes, for tokens per second.
    """

    point: str
    sizes: Mapping[str, Any]
    entrants: Mapping[str, Callable[[], Entrant]]
    opponents: tuple[str, ...] = ("attention",)
    n_tokens: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """A named set of races, and the routes of products on which they are usually run."""

    name: str
    summary: str
    races: Callable[[SpeedPlan], Iterator[Race]]
    routes: tuple[str, ...] = ROUTES


def run_races(part: Part, plan: SpeedPlan, *, peaks: Peaks) -> Iterator[RunRecord]:
    """Run the races of a part one after the other; yield a record for each variant and route."""
    with pinned_threads(plan.n_threads):
        for race in part.races(plan):
            yield from run_race(race, plan, peaks=peaks)


def run_race(race: Race, plan: SpeedPlan, *, peaks: Peaks) -> Iterator[RunRecord]:
    """Run every entrant on every route in interleaved rounds; yield a record for each."""
    commit()  # of the code that was loaded, not of what is there at the end
    entrants = {variant: build() for variant, build in race.entrants.items()}
    keys = {f"{v}@{r}": (v, r) for v in entrants for r in plan.usable_routes}

    def setting(key: str) -> AbstractContextManager[None]:
        return product_route(keys[key][1])

    timings = compare(
        {key: entrants[variant].call for key, (variant, _) in keys.items()},
        repeats=plan.n_rounds,
        warmup=WARMUP,
        device=plan.device,
        seed=plan.seed,
        pieces={key: entrants[variant].n_pieces for key, (variant, _) in keys.items()},
        setting=setting,
    )
    table = timings.table().set_index("name")
    for key, (variant, route) in keys.items():
        entrant, row = entrants[variant], table.loc[key]
        metrics = {name: float(row[name]) for name in ("median_ms", "low_ms", "high_ms")}
        metrics["tokens_per_s"] = 1e3 * race.n_tokens / metrics["median_ms"]
        metrics |= _ratios(key, route=route, race=race, timings=timings)
        metrics |= _roofline(entrant, metrics["median_ms"], peaks) | dict(entrant.memory)
        yield RunRecord(
            experiment=f"{_experiment(plan)}/{race.point}/{route}-{plan.n_threads}-threads",
            variant=variant,
            seed=plan.seed,
            config=_config(race, plan, entrant, route=route),
            metrics={n: _rounded(v) for n, v in (metrics | peaks_as_metrics(peaks)).items()},
            details={
                "samples_ms": [_rounded(sample) for sample in timings.samples_ms[key]],
                "calls_a_sample": timings.n_calls[key],
                "turns": [turn.index(key) for turn in timings.order],
                "load_average": load_average(),
            },
            seconds=timings.n_calls[key] * entrant.n_pieces * sum(timings.samples_ms[key]) / 1e3,
            environment=environment(device=plan.device),
        )


def peaks_as_metrics(peaks: Peaks) -> dict[str, float]:
    """Return the measured peaks of the machine under the names that records use."""
    values = {
        "machine_gemm_gflops": peaks.gemm_gflops,
        "machine_gemm_onednn_gflops": peaks.gemm_onednn_gflops,
        "machine_top_gemm_gflops": peaks.top_gemm_gflops,
        "machine_copy_gb_s": peaks.copy_gb_s,
        "machine_rfft_gflops": peaks.rfft_gflops,
    }
    return {name: value for name, value in values.items() if value is not None}


def as_table(records: list[RunRecord]) -> pd.DataFrame:
    """Return records as ``records.load_runs`` would: one row each, sizes as ``config.time``."""
    rows = []
    for record in records:
        row = {"experiment": record.experiment, "variant": record.variant, "seed": record.seed}
        row |= record.metrics
        rows.append(row | {f"config.{name}": value for name, value in record.config.items()})
    return pd.DataFrame(rows)


def run_file(folder: Path = RUNS) -> Path:
    """Return the file that records of this study are appended to."""
    return folder / f"{STUDY}.jsonl"


def _experiment(plan: SpeedPlan) -> str:
    return f"{STUDY}/{plan.scale}/{plan.part}"


def _config(race: Race, plan: SpeedPlan, entrant: Entrant, *, route: str) -> dict[str, Any]:
    return {
        "part": plan.part,
        "scale": plan.scale,
        **race.sizes,
        "precision": "fp32",
        **entrant.config,
        "route": route,
        "threads": plan.n_threads,
        "device": plan.device,
        "keeps_pages": plan.keeps_pages,
        "repeats": plan.n_rounds,
        "warmup": WARMUP,
    }


def _rounded(value: float) -> float:
    """Return six significant digits: more than any clock here can stand by."""
    return float(f"{value:.6g}")


def load_average() -> float | None:
    """Return how many programs wanted to run in the last minute, on systems that say so."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _ratios(key: str, *, route: str, race: Race, timings: Timings) -> dict[str, float]:
    """Divide a time by those of its opponents, each on the route that suits it best.

    A program on the default route meets opponents on the default route; one that was given
    another route meets whichever of the two made the opponent faster.
    """
    medians = timings.table().set_index("name")["median_ms"]
    metrics: dict[str, float] = {}
    for opponent in race.opponents:
        runs = [k for k in medians.index if _meets(k, opponent, route)]
        if not runs:
            continue
        ratio = timings.ratio(key, to=min(runs, key=lambda k: medians[k]))
        name = "ratio_to_" + opponent.rpartition("/")[2]
        metrics |= {name: ratio.median, f"{name}_low": ratio.low, f"{name}_high": ratio.high}
    return metrics


def _meets(key: str, opponent: str, route: str) -> bool:
    variant, _, its_route = key.rpartition("@")
    if opponent == BEST:
        return its_route == route and not variant.endswith("/auto")
    return variant == opponent and its_route in ("default", route)


def _roofline(entrant: Entrant, median_ms: float, peaks: Peaks) -> dict[str, float]:
    if entrant.flops is None:
        return {}
    return {
        "work_gflop": entrant.flops / 1e9,
        "gflop_per_s": gflop_per_s(entrant.flops, ms=median_ms),
        "roofline_fraction": peaks.fraction(entrant.flops, ms=median_ms),
    }
