"""Part ``generation``: one token after the other, with the context full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from attnlab.mixers import TokenMixer
from attnlab.mixers.streaming import TiledStream
from attnlab.models import LanguageModel
from attnlab.models.language_model import StreamState
from attnlab.studies.speed.core import Entrant, Part, Race, SpeedPlan
from attnlab.studies.speed.work import Call, build_layer, build_model, noise, random_tokens

MIXERS = ("attention", "she", "he", "we", "me")
LAYERS = (*MIXERS, "she/ring")
GRIDS = {  # scale: (d_model, contexts, batches)
    "smoke": (8, (8,), (1, 2)),
    "classroom": (128, (128, 512), (1, 16)),
    "paper": (128, (128, 512, 2048), (1, 16)),
}
MODELS = {  # scale: (the model, contexts)
    "smoke": ({"vocab_size": 20, "d_model": 8, "n_layers": 1}, (8,)),
    "classroom": ({"vocab_size": 2000, "d_model": 64, "n_layers": 2}, (64, 256)),
    "paper": ({"vocab_size": 5000, "d_model": 128, "n_layers": 6}, (128, 512)),
}
RING_TOKENS = 32  # with a ring every token costs the same


def generation_races(plan: SpeedPlan) -> Iterator[Race]:
    """Yield a race for each batch and context: single layers first, then whole models."""
    d_model, contexts, batches = GRIDS[plan.scale]
    for batch in batches:
        for context_len in contexts:
            sizes = {"batch": batch, "context_len": context_len, "d_model": d_model}
            build = partial(layer_entrant, plan=plan, **sizes)
            yield _race("layer", sizes, {v: partial(build, v) for v in LAYERS})
    model, contexts = MODELS[plan.scale]
    for batch in batches:
        for context_len in contexts:
            sizes = {"batch": batch, "context_len": context_len, **model}
            build = partial(model_entrant, plan=plan, batch=batch)
            sizes_of_model = {"context_len": context_len, **model}
            entrants = {v: partial(build, v, sizes=sizes_of_model) for v in MIXERS}
            yield _race("model", sizes, entrants)


def _race(work: str, sizes: dict[str, int], entrants: dict[str, Callable[[], Entrant]]) -> Race:
    return Race(
        point=f"{work}-b{sizes['batch']}-c{sizes['context_len']}-d{sizes['d_model']}",
        sizes={"work": work, **sizes},
        entrants=entrants,
        n_tokens=sizes["batch"],
    )


def layer_entrant(
    variant: str, *, plan: SpeedPlan, batch: int, context_len: int, d_model: int
) -> Entrant:
    """Return one layer that goes on with a stream whose context is full."""
    name, _, streaming = variant.partition("/")
    layer = build_layer(name, d_model=d_model, context_len=context_len, device=plan.device)
    layer.eval().requires_grad_(False)
    tokens = noise(batch, d_model, seed=plan.seed, device=plan.device)
    options = {"streaming": streaming} if streaming else {}
    state = full_state(layer, batch=batch, options=options, seed=plan.seed, device=plan.device)
    n_tokens = period_of(state, context_len=context_len)

    @torch.no_grad()
    def call() -> None:
        nonlocal state
        for _ in range(n_tokens):
            _, state = layer.step(tokens, state)

    kind = "tiles" if isinstance(state, TiledStream) else "ring"
    return Entrant(call=call, n_pieces=n_tokens, config={"streaming": kind})


def full_state(
    layer: TokenMixer, *, batch: int, options: dict[str, Any], seed: int, device: str
) -> Any:
    """Return the state of a layer that has read as many tokens as it remembers."""
    state = layer.initial_state(batch, **options)
    past = noise(batch, layer.context_len, layer.d_model, seed=seed + 1, device=device)
    with torch.no_grad():
        return layer.prefill(past, state)[1]


def period_of(state: Any, *, context_len: int) -> int:
    """Return after how many tokens the cost of a token has shown its mean.

    A large tile falls due rarely and then costs much, so a whole period is timed.
    """
    if isinstance(state, TiledStream):
        return state.tiling.largest
    return min(RING_TOKENS, context_len)


def model_entrant(variant: str, *, plan: SpeedPlan, batch: int, sizes: dict[str, int]) -> Entrant:
    """Return a whole language model that goes on with a stream whose context is full."""
    model = build_model(variant, sizes=sizes, seed=plan.seed, device=plan.device)
    model.eval().requires_grad_(False)
    return Entrant(call=stream(model, batch=batch, plan=plan), n_pieces=sizes["context_len"])


def stream(model: LanguageModel, *, batch: int, plan: SpeedPlan) -> Call:
    """Return a call that reads one whole context of tokens; its past is full from the start.

    The position starts again at 0 with each call, while the states of the layers go on.
    """
    n_tokens = model.config.context_len
    shape = (batch, n_tokens)
    vocab_size = model.config.vocab_size
    tokens = random_tokens(*shape, vocab_size=vocab_size, seed=plan.seed, device=plan.device)
    state = model.initial_state(batch)

    @torch.no_grad()
    def call() -> None:
        nonlocal state
        state = StreamState(state.layers)
        for token in tokens.unbind(1):
            _, state = model.step(token, state)

    call()
    return call


GENERATION_PART = Part(
    name="generation",
    summary="one token after the other at full context: a layer's step, and a whole model's",
    races=generation_races,
    routes=("default",),
)
