"""Parts ``mixers`` and ``prefill``: one layer at a time, every mixer beside attention."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from attnlab.analysis.timing import saved_for_backward_mib
from attnlab.studies.speed.core import Entrant, Part, Race, SpeedPlan
from attnlab.studies.speed.work import (
    build_layer,
    chosen_method,
    forward_pass,
    in_precision,
    inference_pass,
    layer_flops,
    noise,
    training_pass,
)

MIXERS = ("attention", "she", "he", "we", "me")
GRIDS = {  # scale: (d_model, times, batches)
    "smoke": (8, (7, 16), (2,)),
    "classroom": (128, (32, 128, 512), (1, 16)),
    "paper": (128, (32, 128, 512, 2048), (1, 16)),
}


def layer_races(plan: SpeedPlan, *, works: tuple[str, ...]) -> Iterator[Race]:
    """Yield one race for each kind of work, batch and length."""
    d_model, times, batches = GRIDS[plan.scale]
    for work in works:
        for batch in batches:
            for time in times:
                sizes = {"work": work, "batch": batch, "time": time, "d_model": d_model}
                build = partial(build_entrant, plan=plan, **sizes)
                yield Race(
                    point=f"{work}-b{batch}-t{time}-d{d_model}",
                    sizes=sizes,
                    entrants={name: partial(build, name) for name in variants(plan)},
                    n_tokens=batch * time,
                )


def variants(plan: SpeedPlan) -> tuple[str, ...]:
    """Return the mixers; on CUDA each a second time through ``torch.compile``."""
    return MIXERS + tuple(f"{m}/compiled" for m in MIXERS if plan.device.startswith("cuda"))


def build_entrant(
    variant: str, *, plan: SpeedPlan, work: str, batch: int, time: int, d_model: int
) -> Entrant:
    """Build one layer and the pass through it that is timed."""
    name = variant.removesuffix("/compiled")
    layer = build_layer(name, d_model=d_model, context_len=time, device=plan.device)
    weights = list(layer.parameters())
    program = in_precision(layer if name == variant else torch.compile(layer), plan.precision)
    x = noise(batch, time, d_model, seed=plan.seed, device=plan.device)
    method = chosen_method(layer, batch=batch, time=time, work=work)
    memory = {}
    if work == "inference":
        layer.eval().requires_grad_(False)
        call = inference_pass(program, x)
    else:
        call = forward_pass(program, x)
    if work == "training":
        memory = {"saved_mib": saved_for_backward_mib(call, parameters=weights)}
        call = training_pass(program, x, weights=weights)
    return Entrant(
        call=call,
        flops=layer_flops(layer, batch=batch, time=time, work=work),
        memory=memory,
        config={"method": method, "precision": plan.precision},
    )


MIXERS_PART = Part(
    name="mixers",
    summary="one layer, forward and forward with backward, beside attention with 4 heads",
    races=partial(layer_races, works=("forward", "training")),
)
PREFILL_PART = Part(
    name="prefill",
    summary="one layer with frozen weights over a whole sequence, no gradients",
    races=partial(layer_races, works=("inference",)),
)
