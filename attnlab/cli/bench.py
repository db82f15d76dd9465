"""``attnlab bench``: race mixers, methods and models against this machine's clock."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnlab.cli.speak import say, say_table
from attnlab.errors import AttnlabError

if TYPE_CHECKING:
    from attnlab.analysis.timing import Peaks
    from attnlab.records import RunRecord
    from attnlab.studies.speed import Part, SpeedPlan


def add_commands(commands: Any) -> None:
    """Add ``bench``."""
    bench = commands.add_parser(
        "bench",
        help="measure speed side by side: layers, methods, training, generation, translation",
        description="Candidates take turns in shuffled rounds after a warm-up. Shown are medians "
        "with quartiles, ratios of the same round with their interval, and what share of this "
        "machine's measured peak was reached. Nothing is stored without --record or --out.",
    )
    bench.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help="mixers, methods, training, prefill, generation, translation; default all",
    )
    bench.add_argument("--scale", default="classroom", help="smoke, classroom or paper")
    bench.add_argument("--threads", type=int, help="of torch, pinned; default as installed")
    bench.add_argument("--repeats", type=int, help="rounds of each race, at least 5")
    bench.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")
    bench.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of matrix products in mixers, prefill and training; default fp32",
    )
    bench.add_argument(
        "--stock",
        action="store_true",
        help="torch as installed: freed memory goes back to the system, one route of products",
    )
    bench.add_argument("--record", action="store_true", help="append to data/runs/speed.jsonl")
    bench.add_argument("--out", type=Path, help="folder for speed.jsonl instead of data/runs")
    bench.add_argument(
        "--check",
        action="store_true",
        help="exit with 1 where method=auto takes over 1.25 times the best method's time",
    )
    bench.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> None:
    from attnlab.analysis.timing import machine_peaks
    from attnlab.studies.speed import (
        PARTS,
        as_table,
        get_part,
        judge_targets,
        target_sentences,
    )

    parts = [get_part(name) for name in options.parts or PARTS]
    if options.check and not any(part.name == "methods" for part in parts):
        raise AttnlabError("--check is about method=auto: add the part methods.")
    plans = _plans(options, parts)
    seconds = 0.04 if options.scale == "smoke" else 0.4
    peaks = machine_peaks(threads=plans[0].n_threads, device=options.device, seconds=seconds)
    _say_peaks(peaks)
    file = _file(options)
    records: list[RunRecord] = []
    for part, plan in zip(parts, plans, strict=True):
        say(f"\n{part.name}: {part.summary}")
        records += _run_part(part, plan, peaks=peaks, file=file)
    table = as_table(records)
    sentences = target_sentences(judge_targets(table))
    if sentences:
        say("\nTargets measured here")
        for sentence in sentences:
            say(f"  {sentence}")
    if file is not None:
        say(f"\n{len(records)} records appended to {file}")
    if options.check:
        _check(table)


def _plans(options: argparse.Namespace, parts: list[Part]) -> list[SpeedPlan]:
    """Set up the process, and return what is to be measured."""
    import torch

    from attnlab.studies.speed import SpeedPlan
    from attnlab.training.speed import keep_pages

    if options.device == "cuda" and not torch.cuda.is_available():
        raise AttnlabError("--device cuda: torch finds no graphics card here. Use --device cpu.")
    keeps_pages = not options.stock and keep_pages()
    return [
        SpeedPlan(
            part=part.name,
            scale=options.scale,
            n_threads=torch.get_num_threads() if options.threads is None else options.threads,
            device=options.device,
            routes=("default",) if options.stock else part.routes,
            precision=options.precision,
            repeats=options.repeats,
            seed=_next_series(options, part.name),
            keeps_pages=keeps_pages,
        )
        for part in parts
    ]


def _file(options: argparse.Namespace) -> Path | None:
    from attnlab.records import RUNS
    from attnlab.studies.speed import run_file

    if options.out is not None:
        return run_file(options.out)
    return run_file(RUNS) if options.record else None


def _next_series(options: argparse.Namespace, part: str) -> int:
    """Return the number of the series: one more than the last one in the file."""
    from attnlab.records import read_records
    from attnlab.studies.speed import STUDY

    file = _file(options)
    if file is None or not file.exists():
        return 0
    prefix = f"{STUDY}/{options.scale}/{part}/"
    known = [r["seed"] for r in read_records(file) if r["experiment"].startswith(prefix)]
    return max(known, default=-1) + 1


def _run_part(part: Part, plan: SpeedPlan, *, peaks: Peaks, file: Path | None) -> list[RunRecord]:
    from attnlab.analysis.timing import pinned_threads
    from attnlab.studies.speed import run_race

    records: list[RunRecord] = []
    with pinned_threads(plan.n_threads):
        for race in part.races(plan):
            say(f"\n  {race.point}")
            group = list(run_race(race, plan, peaks=peaks))
            if file is not None:
                for record in group:
                    record.append_to(file)
            say_table(_rows(group), indent="    ")
            if race.sizes.get("left_out"):
                say(f"    far slower than the best, left out: {race.sizes['left_out']}")
            records += group
    return records


def _say_peaks(peaks: Peaks) -> None:
    from attnlab.studies.speed import load_average

    other = peaks.gemm_onednn_gflops
    routed = f", {other:.0f} by oneDNN" if other is not None else ""
    say(
        f"This machine, threads {peaks.n_threads}: matrix products {peaks.gemm_gflops:.0f} "
        f"GFLOP/s{routed}; copy {peaks.copy_gb_s:.0f} GB/s; real transform "
        f"{peaks.rfft_gflops:.0f} GFLOP/s."
    )
    load, n_processors = load_average(), os.cpu_count() or 1
    if load is not None and load > 0.5 * n_processors:
        say(
            f"Other programs are running (load average {load}, processors {n_processors}): ratios "
            "within a round still mean something; times and shares of the peak mean less."
        )


def _rows(group: list[RunRecord]) -> list[tuple[str, ...]]:
    """Return a table of one race: a heading, then the fastest first; empty columns left out."""
    heads = ["variant", "method", "route", "ms", "quartiles"]
    metrics = [record.metrics for record in group]
    ratios = [n for n in metrics[0] if n.startswith("ratio_") and not n.endswith(("_low", "_high"))]
    heads += [*(name.removeprefix("ratio_").replace("_", " ") for name in ratios), "tokens/s"]
    heads += ["GFLOP/s (of peak)", "saved MiB", "peak MiB"]
    rows = [tuple(heads)]
    for record in sorted(group, key=lambda r: r.metrics["median_ms"]):
        m = record.metrics
        rows.append(
            (
                record.variant,
                record.config.get("method") or record.config.get("streaming") or "",
                record.config["route"],
                f"{m['median_ms']:.3g}",
                f"{m['low_ms']:.3g} to {m['high_ms']:.3g}",
                *(f"{m[n]:.2f} ({m[n + '_low']:.2f} to {m[n + '_high']:.2f})" for n in ratios),
                f"{m['tokens_per_s']:,.0f}",
                _share(m),
                f"{m['saved_mib']:.3g}" if "saved_mib" in m else "",
                f"{m['peak_mib']:.3g}" if "peak_mib" in m else "",
            )
        )
    kept = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    return [tuple(row[i] for i in kept) for row in rows]


def _share(metrics: dict[str, float]) -> str:
    if "gflop_per_s" not in metrics:
        return ""
    return f"{metrics['gflop_per_s']:.0f} ({metrics['roofline_fraction']:.0%})"


def _check(table: Any) -> None:
    from attnlab.studies.speed import TOLERANCE, slow_choices

    slow = slow_choices(table)
    if not len(slow):
        say(f"\nmethod=auto is within {TOLERANCE} times the best method at every point.")
        return
    points = "; ".join(
        f"{row['experiment'].split('/', 3)[3]} chose {row['config.method']}, "
        f"{row['ratio_to_best']:.2f} times the best"
        for row in slow.to_dict("records")
    )
    raise AttnlabError(
        f"method=auto takes over {TOLERANCE} times the best method's time at {len(slow)} "
        f"points: {points}. Measure again on a quiet machine, then correct the table of choices."
    )
