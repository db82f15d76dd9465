"""Part ``growth`` of the study ``speed``: how a layer's time grows with length and with width.

Forward and backward of every mixer. All passes read equally many tokens, in fewer sequences where
these are longer, so that no time is that of starting a program; times are those of one sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnlab.analysis.scaling import PowerFit, fit_power
from attnlab.mixers import list_mixers
from attnlab.paths import RUNS
from attnlab.records import load_details, load_runs
from attnlab.studies.clock import PARTS, Entrant, Race, SpeedPlan, layer_entrant

GRIDS = {  # scale: (tokens of a pass, width of the lengths, lengths, length of the widths, widths)
    "smoke": (16, 4, (4, 8), 8, (4, 8)),
    "classroom": (2048, 64, (32, 128, 512, 2048), 128, (32, 64, 128, 256)),
    "paper": (4096, 64, (32, 128, 256, 512, 1024, 2048), 128, (32, 64, 128, 256)),
}
SIZE = {"length": "config.time", "width": "config.d_model"}
FROM = {"length": 128, "width": 32}  # below, what every call costs hides the power
COLUMNS = ["variant", "along", "p", "low", "high", "more", "more_low", "more_high", "n_sizes"]


def growth_races(plan: SpeedPlan) -> Iterator[Race]:
    """Yield one race for each length, then one for each width."""
    n_tokens, d_model, times, time, widths = GRIDS[plan.scale]
    points = [("length", t, d_model) for t in times] + [("width", time, d) for d in widths]
    variants = tuple(name for name in list_mixers() if name != "identity")  # it does nothing
    for along, t, d in points:
        sizes = {"batch": n_tokens // t, "time": t, "d_model": d}
        yield Race(
            point=f"{along}-t{t}-d{d}",
            sizes={"work": "training", "along": along, **sizes},
            variants=variants,
            build=partial(growth_entrant, plan=plan, **sizes),
            n_tokens=t,
        )


def growth_entrant(variant: str, *, plan: SpeedPlan, batch: int, **sizes: int) -> Entrant:
    """Return forward and backward of a layer; its pieces are the sequences of the pass."""
    whole = layer_entrant(variant, plan=plan, work="training", batch=batch, **sizes)
    return replace(whole, n_pieces=batch, flops=(whole.flops or 0) // batch)


def growth_powers(*, scale: str = "paper", path: Path = RUNS) -> pd.DataFrame:
    """Return the power of a mixer's time in a size, and by how much it exceeds attention's.

    The newest series, from ``FROM`` on; intervals by bootstrap over the rounds of each race.

    Returns:
        One row a mixer and ``along`` (``length`` or ``width``), the flattest first: the power
        ``p`` with ``low`` and ``high``; ``more`` is the power of its time over attention's in the
        same rounds. Empty where nothing is recorded.
    """
    place, rows = f"speed/{scale}/growth/", []
    wanted = ["experiment", "variant", "seed", "config.along", *SIZE.values()]
    runs = load_runs(place, path=path, columns=wanted)
    runs = runs[runs["seed"] == runs["seed"].max()]
    rounds = load_details(place, "samples_ms", path=path, is_needed=False)
    for (along, variant), points in runs.groupby(["config.along", "variant"]):
        points = points[points[SIZE[along]] >= min(FROM[along], runs[SIZE[along]].max() / 2)]
        points = points.sort_values(SIZE[along])
        own, other = (_samples(rounds, points, name) for name in (variant, "attention"))
        x = points[SIZE[along]].to_numpy(float)
        if len(x) > 1 and own is not None:
            more = fit_power(x, samples=own / other) if other is not None else None
            rows.append((variant, along, *_ends(fit_power(x, samples=own)), *_ends(more), len(x)))
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(["along", "p"], ignore_index=True)


def _ends(fit: PowerFit | None) -> tuple[float, float, float]:
    return (float("nan"),) * 3 if fit is None else (fit.p, fit.low, fit.high)


def _samples(rounds: pd.DataFrame, points: pd.DataFrame, variant: str) -> NDArray | None:
    """Return ``(n_rounds, n_points)`` milliseconds of a variant at these points, or None."""
    own = rounds[(rounds["variant"] == variant) & (rounds["seed"] == points["seed"].iloc[0])]
    columns = [own.loc[own["experiment"] == e, 0].to_numpy() for e in points["experiment"]]
    n = min(map(len, columns), default=0)
    return np.stack([column[:n] for column in columns], 1) if n else None


PARTS["growth"] = ("one layer, forward and backward, by length and by width", growth_races)
