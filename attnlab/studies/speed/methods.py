"""Part ``methods``: every way to evaluate the causal convolution, and whether auto chooses well."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from attnlab.errors import AttnlabError
from attnlab.mixers.convolution import (
    SpectrumCache,
    causal_convolution,
    choose_method,
    is_exactly_causal,
    list_methods,
    method_flops,
)
from attnlab.studies.speed.core import BEST, Entrant, Part, Race, SpeedPlan
from attnlab.studies.speed.work import Call, noise, training_pass

NDIM = {"matrix": 3, "diag": 2, "scalar": 1}  # axes of the lag weights
WHOSE = {"matrix": "she", "diag": "we", "scalar": "extractor"}  # sum it is
WORKS = ("forward", "training", "frozen")
GRIDS = {  # scale: (batch, time, d_model)
    "smoke": ((2, 17, 8),),
    "classroom": ((1, 32, 64), (16, 32, 64), (1, 128, 128), (16, 128, 128), (4, 512, 64)),
    "paper": (
        *((batch, time, d) for time in (8, 32, 128, 512) for d in (64, 128) for batch in (1, 16)),
        (1, 2048, 128),
        (16, 2048, 128),
    ),
}
TOLERANCE = 1.25
HOPELESS = 20.0  # times slower than the fastest at a first look: left out of the race
FAR, LONG_GFLOP = 40, 100  # so many times the operations, and so many: not even looked at


@dataclass(frozen=True, kw_only=True)
class Sum:
    """One causal convolution that all methods evaluate.

    Args:
        extract: ``matrix``, ``diag`` or ``scalar``: what a lag's weight is.
        work: ``forward``, ``training`` (with backward), or ``frozen`` (transforms are kept).
    """

    extract: str
    work: str
    batch: int
    time: int
    d_model: int

    @property
    def ndim(self) -> int:
        """Axes of the lag weights."""
        return NDIM[self.extract]

    @property
    def point(self) -> str:
        """Its name in the records."""
        return f"{self.extract}-{self.work}-b{self.batch}-t{self.time}-d{self.d_model}"

    def operands(self, *, seed: int, device: str) -> tuple[Tensor, Tensor]:
        """Return an input and lag weights that keep its size."""
        wide = (self.time, self.d_model, self.d_model)[: self.ndim]
        x = noise(self.batch, self.time, self.d_model, seed=seed, device=device)
        weight = noise(*wide, seed=seed + 1, device=device) / (self.time * self.d_model) ** 0.5
        return x, weight.requires_grad_(self.work == "training")

    def flops(self, method: str) -> int | None:
        """Return the operations of a method; None where kept transforms spare some of them."""
        if self.work == "frozen" and not is_exactly_causal(method):
            return None
        return method_flops(
            method,
            ndim=self.ndim,
            batch=self.batch,
            time=self.time,
            n_lags=self.time,
            d_in=self.d_model,
            training=self.work == "training",
        )


def method_races(plan: SpeedPlan) -> Iterator[Race]:
    """Yield one race for each size, kind of weight and work: all methods by name, and auto."""
    for batch, time, d_model in GRIDS[plan.scale]:
        for extract in NDIM:
            for work in WORKS if extract == "matrix" else WORKS[:2]:
                sizes = {"batch": batch, "time": time, "d_model": d_model}
                yield method_race(Sum(extract=extract, work=work, **sizes), plan)


def method_race(what: Sum, plan: SpeedPlan) -> Race:
    """Return the race of one sum, without the methods that are hopeless there."""
    x, weight = what.operands(seed=plan.seed, device=plan.device)
    names = near_in_operations(what)
    calls = {name: method_call(name, what, x, weight) for name in (*names, "auto")}
    kept = near_in_time(calls)
    entrants = {
        f"{WHOSE[what.extract]}/{name}": partial(
            method_entrant, name, what=what, x=x, weight=weight, call=calls[name]
        )
        for name in kept
    }
    left_out = [name for name in list_methods(what.ndim) if name not in kept]
    return Race(
        point=what.point,
        sizes={**vars(what), "left_out": ",".join(left_out)},
        entrants=entrants,
        opponents=(BEST,),
        n_tokens=what.batch * what.time,
    )


def method_call(method: str, what: Sum, x: Tensor, weight: Tensor) -> Call:
    """Return the sum over the past by one method, as one kind of work."""
    spectra = SpectrumCache() if what.work == "frozen" else None

    def convolve(signal: Tensor) -> Tensor:
        return causal_convolution(signal, weight, method=method, spectra=spectra)

    if what.work == "training":
        return training_pass(convolve, x, weights=[weight])
    return torch.no_grad()(lambda: convolve(x))


def method_entrant(method: str, *, what: Sum, x: Tensor, weight: Tensor, call: Call) -> Entrant:
    """Return a method as a program of a race; ``auto`` with the method that it takes."""
    chosen = method
    if method == "auto":
        with torch.set_grad_enabled(what.work == "training"):
            chosen = choose_method(x, weight, is_frozen=what.work == "frozen")
    return Entrant(call=call, flops=what.flops(chosen), config={"method": chosen})


def near_in_operations(what: Sum) -> list[str]:
    """Return the methods of which one call is worth the wait."""
    names = list_methods(what.ndim)
    counted = replace(what, work="forward") if what.work == "frozen" else what
    gflop = {name: (counted.flops(name) or 0) / 1e9 for name in names}
    limit = max(LONG_GFLOP, FAR * min(gflop.values()))
    return [name for name in names if gflop[name] <= limit]


def near_in_time(calls: Mapping[str, Call]) -> list[str]:
    """Return the methods worth a race: ``auto``, and those within a factor of the fastest."""
    seconds = {method: _second_call_seconds(call) for method, call in calls.items()}
    limit = HOPELESS * min(seconds.values())
    return [method for method in calls if method == "auto" or seconds[method] <= limit]


def _second_call_seconds(call: Callable[[], object]) -> float:
    call()
    started = clock.perf_counter()
    call()
    return clock.perf_counter() - started


def slow_choices(table: pd.DataFrame, *, tolerance: float = TOLERANCE) -> pd.DataFrame:
    """Return the points at which ``auto`` takes longer than the best method allows.

    Args:
        table: Records of this part as a table.
        tolerance: How many times the best method's time is still fine.
    Raises:
        AttnlabError: The table has no record of ``auto``.
    """
    is_auto = table["variant"].str.endswith("/auto") & (table["config.part"] == "methods")
    if not is_auto.any():
        raise AttnlabError("No record of method='auto' to judge: run the part methods.")
    return table[is_auto & (table["ratio_to_best"] > tolerance)]


METHODS_PART = Part(
    name="methods",
    summary="every method of the causal convolution by name, and what auto chooses",
    races=method_races,
    routes=("default",),
)
