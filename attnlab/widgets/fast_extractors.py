"""Explorers of notebook 06: wrap-around, counted prices, tiles, a race, and long texts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from attnlab.analysis.theory import causal_pairs
from attnlab.mixers.convolution import method_flops
from attnlab.models import LanguageModel
from attnlab.plots.fast_extractors import describe_costs, describe_race, plot_costs, plot_race
from attnlab.plots.fast_extractors_diagrams import (
    describe_tiling,
    describe_wrap,
    draw_tiling,
    draw_wrap,
)
from attnlab.seeding import numpy_generator, torch_generator
from attnlab.show.style import look
from attnlab.sources import Source
from attnlab.studies.clock import STREAMS
from attnlab.teaching.fast_extractors_runs import generation_race, tokens_before_slip
from attnlab.widgets.board import RunBoard, show_run_board
from attnlab.widgets.core import Explorer, choice, show_explorer, show_playground, slider

COUNTED = ("lags", "toeplitz", "fft", "planes", "staged")
ROUNDS = 5  # of a race for the next token
TILED = 16  # tokens of the drawn stream


def show_wrap_explorer(*, presets: Sequence[Mapping[str, int]]) -> Explorer | None:
    """Show which pairs of tokens wrap around in a transform that is too short."""
    controls = {
        "length": slider(
            "Length n of the transform", value=8, minimum=8, maximum=16, tooltip="Places, zeros too"
        ),
        "n_lags": slider("Lags ℓ", value=3, minimum=1, maximum=8, tooltip="Weights, one a lag"),
    }
    return show_explorer(draw_wrap, controls, presets=presets, describe=describe_wrap)


def show_cost_explorer(*, presets: Sequence[Mapping[str, int]]) -> Explorer | None:
    """Show what SHE's sum costs per token by count, method by method, beside attention."""
    controls = {
        "context_len": choice(
            "Context ℓ (tokens)", options=[8, 32, 128, 512, 2048], value=128, tooltip="As long as T"
        ),
        "d_model": choice("Width d", options=[16, 64, 128, 512], value=128, tooltip="Channels"),
        "batch": choice(
            "Batch B", options=[1, 4, 16, 64], value=16, tooltip="Sequences that share a transform"
        ),
    }
    return show_explorer(draw_costs, controls, presets=presets, describe=describe_counted)


def draw_costs(*, context_len: int, d_model: int, batch: int) -> Figure:
    """Draw operations per token of a forward pass."""
    costs, level = counted_costs(context_len=context_len, d_model=d_model, batch=batch)
    return plot_costs(costs, level=level).figure


def describe_counted(*, context_len: int, d_model: int, batch: int) -> str:
    """Say the sizes and the cheapest method there."""
    costs, level = counted_costs(context_len=context_len, d_model=d_model, batch=batch)
    sizes = f"Context {context_len}, width {d_model}, batch {batch}, forward pass. "
    return sizes + describe_costs(costs, level=level)


def counted_costs(*, context_len: int, d_model: int, batch: int) -> tuple[dict[str, float], float]:
    """Return operations per token of SHE's sum by method, and of a whole layer of attention.

    A multiply-add counts two; the weights' transform is shared by the batch.
    """
    sizes = {"batch": batch, "time": context_len, "n_lags": context_len, "d_in": d_model}
    n_tokens = batch * context_len
    costs = {method: method_flops(method, ndim=3, **sizes) / n_tokens for method in COUNTED}
    pairs = causal_pairs(context_len, context_len=context_len) / context_len
    return costs, 2 * (4 * d_model**2 + 2 * pairs * d_model)


def show_tiling_explorer(*, presets: Sequence[Mapping[str, Any]]) -> Explorer | None:
    """Show a stream token by token: which tile is due, and what is done already."""
    controls = {
        "n_seen": slider(
            "Tokens read", value=8, minimum=1, maximum=32, tooltip="The stream so far"
        ),
        "n_tokens": choice("Stream (tokens)", options=[8, 16, 32], value=TILED),
        "against": choice(
            "Drawn against",
            options={"input s": "input", "lag t - s": "lag"},
            tooltip="The same pairs, sheared",
        ),
    }
    return show_explorer(draw_tiling, controls, presets=presets, describe=describe_tiling)


def generation_laps(
    *, context_len: int, batch: int, d_model: int, rounds: int = ROUNDS
) -> Iterator[dict[str, Any]]:
    """Race the mixers for the next token: yield one lap of one mixer at a time, in turns.

    The context is full. A lap spans a whole context where tokens differ in price.

    Yields:
        ``variant``, ``round`` (from 1), ``tokens_per_s`` over the whole batch.
    """
    race = generation_race(batch=batch, context_len=context_len, d_model=d_model)
    entrants = {name: build() for name, build in race.entrants.items()}
    generator = numpy_generator(0, "order")
    for number in range(rounds + 1):
        for index in generator.permutation(len(STREAMS)):
            name = STREAMS[index]
            started = time.perf_counter()
            entrants[name].call()
            seconds = time.perf_counter() - started
            speed = batch * entrants[name].n_pieces / seconds
            if number:  # the first round warms up
                yield {"variant": name, "round": number, "tokens_per_s": speed}


def draw_laps(laps: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the race so far."""
    return plot_race(pd.DataFrame(laps)).figure


def describe_laps(laps: Sequence[Mapping[str, Any]]) -> str:
    """Say how fast every mixer is."""
    return describe_race(pd.DataFrame(laps))


def show_generation_board(*, still: Sequence[Mapping[str, Any]]) -> RunBoard | None:
    """Show a finished race for the next token, then a board that runs another.

    Args:
        still: Laps of the finished race, from ``generation_laps``.
    """
    controls = {
        "context_len": choice("Context (tokens)", options=[32, 128, 512], tooltip="Kept full"),
        "batch": choice("Batch", options=[1, 4, 16], tooltip="Streams side by side"),
        "d_model": choice("Width d", options=[16, 32, 64], value=32, tooltip="Channels"),
    }
    return show_run_board(
        generation_laps,
        controls,
        n_ticks=ROUNDS * len(STREAMS),
        draw=draw_laps,
        describe=describe_laps,
        still=still,
    )


def show_length_playground(
    models: Mapping[str, LanguageModel],
    *,
    source: Source,
    trained_len: int,
    prompt: str,
    labels: Mapping[str, str],
    presets: Sequence[Mapping[str, Any]],
) -> Explorer | None:
    """Show texts that run past the length of training, then a panel: model and seed.

    Args:
        models: With a context long enough for the text; see ``stretched``.
        source: What they were trained on; it tells the first impossible word.
        trained_len: Where the bar in the text stands.
        prompt: How every text begins.
        labels: What a model is called, by name.
        presets: Settings of ``model`` and ``seed`` to print.
    """
    controls = {
        "model": choice("Model", options={labels.get(name, name): name for name in models}),
        "seed": slider("Seed", value=0, minimum=0, maximum=9, tooltip="Another draw"),
    }

    def tokens(model: str, seed: int) -> np.ndarray:
        return write_past(models[model], source.encode(prompt), seed=seed)

    def write(*, model: str, seed: int) -> dict[str, str]:
        return {
            labels.get(model, look(model).label): marked(source, tokens(model, seed), trained_len)
        }

    def describe(*, model: str, seed: int) -> str:
        n_prompt = len(source.encode(prompt))
        slip = tokens_before_slip(source, tokens(model, seed), prompt_len=n_prompt)
        how = "no impossible word" if slip is None else f"first impossible word: number {slip + 1}"
        return f"Seed {seed}, temperature 0.7; the bar marks the end of the trained length; {how}."

    return show_playground(write, controls, presets=presets, describe=describe)


def write_past(model: LanguageModel, prompt: Any, *, seed: int) -> np.ndarray:
    """Return prompt and continuation, as many tokens as the model's context holds."""
    start = torch.as_tensor(np.asarray(prompt, dtype=np.int64))[None]
    n_tokens = model.config.context_len - start.shape[1]
    generator = torch_generator(seed, "generate")
    return model.generate(start, n_tokens=n_tokens, temperature=0.7, generator=generator)[0].numpy()


def marked(source: Source, tokens: np.ndarray, trained_len: int) -> str:
    """Return a text with a bar where the trained length ends."""
    whole, first = source.decode(tokens), source.decode(tokens[:trained_len])
    rest = whole[len(first) :].lstrip()
    return f"{first} ‖ {rest}" if rest else first
