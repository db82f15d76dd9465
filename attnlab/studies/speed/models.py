"""Part ``training``: whole training steps of a language model, every mixer in the same model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from attnlab.analysis.timing import peak_memory_mib
from attnlab.studies.speed.core import Entrant, Part, Race, SpeedPlan
from attnlab.studies.speed.work import build_model, chosen_method, training_step

VARIANTS = ("attention", "she", "she/lags", "he", "we", "me")
SIZES = {  # scale: (batch, the model)
    "smoke": (2, {"vocab_size": 50, "d_model": 16, "context_len": 16, "n_layers": 1}),
    "classroom": (32, {"vocab_size": 1000, "d_model": 64, "context_len": 64, "n_layers": 2}),
    "paper": (64, {"vocab_size": 5000, "d_model": 128, "context_len": 128, "n_layers": 6}),
}


def training_races(plan: SpeedPlan) -> Iterator[Race]:
    """Yield the one race of a scale."""
    batch, sizes = SIZES[plan.scale]
    build = partial(build_entrant, plan=plan, batch=batch, sizes=sizes)
    time = sizes["context_len"]
    yield Race(
        point=f"step-b{batch}-t{time}-d{sizes['d_model']}-n{sizes['n_layers']}",
        sizes={"work": "step", "batch": batch, "time": time, **sizes},
        entrants={variant: partial(build, variant) for variant in VARIANTS},
        opponents=("attention", "she/lags"),
        n_tokens=batch * time,
    )


def build_entrant(variant: str, *, plan: SpeedPlan, batch: int, sizes: dict[str, int]) -> Entrant:
    """Build a model and its training step."""
    model = build_model(variant, sizes=sizes, seed=plan.seed, device=plan.device)
    step = training_step(
        model, batch=batch, precision=plan.precision, seed=plan.seed, device=plan.device
    )
    step()  # the optimiser's own state is made once and stays
    mixer = model.get_submodule("blocks.0.mixer")
    method = chosen_method(mixer, batch=batch, time=sizes["context_len"], work="training")
    return Entrant(
        call=step,
        memory={
            "peak_mib": peak_memory_mib(step, device=plan.device),
            "n_weights": sum(weight.numel() for weight in model.parameters()),
        },
        config={"method": method, "precision": plan.precision},
    )


TRAINING_PART = Part(
    name="training",
    summary="a whole training step of a language model: loss, backward, clipping, AdamW",
    races=training_races,
)
