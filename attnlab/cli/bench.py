"""``attnlab bench``: race mixers, methods and models against this machine's clock."""

import argparse
from pathlib import Path
from typing import Any

from attnlab.cli.speak import say


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
    bench.add_argument("--record", action="store_true", help="append to data/runs/speed.jsonl")
    bench.add_argument("--out", type=Path, help="folder for speed.jsonl instead of data/runs")
    bench.add_argument(
        "--check",
        action="store_true",
        help="exit with 1 where method=auto takes over 1.25 times the best method's time",
    )
    bench.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> None:
    from attnlab.paths import RUNS
    from attnlab.studies import clock

    folder = options.out or (RUNS if options.record else None)
    lines = clock.bench(
        options.parts,
        scale=options.scale,
        threads=options.threads,
        repeats=options.repeats,
        device=options.device,
        file=clock.run_file(folder) if folder else None,
        is_checked=options.check,
    )
    for line in lines:
        say(line)
