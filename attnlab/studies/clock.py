"""Study ``speed``: mixers, methods, training, generation and translation against the clock.

A *race* is one point of a grid with the programs that run there in turns; a *part* is a named
series of races. ``run_race`` makes a record of every program, ``bench`` runs parts and tells.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product, repeat
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attnlab.analysis.timing import (
    Peaks,
    Timings,
    compare,
    gflop_per_s,
    keep_pages,
    machine_peaks,
    peak_memory_mib,
    pinned_threads,
    saved_for_backward_mib,
)
from attnlab.config import ModelConfig, TrainConfig
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers import (
    TokenMixer,
    build_mixer,
    convolution,
    find_mixer,
    list_mixers,
    mixer_options,
)
from attnlab.mixers.base import Ring
from attnlab.mixers.streaming import TiledStream
from attnlab.models import LanguageModel
from attnlab.paths import OWN_RUNS, record_places
from attnlab.records import RunRecord, commit, environment, read_records
from attnlab.seeding import torch_generator
from attnlab.training import train_steps

STUDY = "speed"
REPEATS = {"smoke": 5, "classroom": 7, "paper": 11}
BEST = "best"  # instead of an opponent's name: the fastest of all that choose nothing
TOLERANCE = 1.25  # how many times the best method's time is still fine for ``auto``
MIXERS = ("attention", "she", "he", "we", "me")
N_HEADS = 4

Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class SpeedPlan:
    """What is measured, and how: enough to ask for the same records again.

    Args:
        part: One of ``PARTS``.
        repeats: Rounds of each race; None takes those of the scale.
        seed: Number of the series; it decides the order within rounds, and the noise.
        keeps_pages: What ``timing.keep_pages`` said of this process.
    """

    part: str
    scale: str = "smoke"
    n_threads: int = 1
    device: str = "cpu"
    repeats: int | None = None
    seed: int = 0
    keeps_pages: bool = False

    def __post_init__(self) -> None:
        """Refuse a part or a scale that there is not."""
        if self.part not in PARTS:
            step = "Leave it out to run all parts."
            raise UnknownNameError("part of the bench", self.part, PARTS, next_step=step)
        if self.scale not in REPEATS:
            step = "smoke takes seconds, classroom minutes, paper longer."
            raise UnknownNameError("scale", self.scale, REPEATS, next_step=step)

    @property
    def n_rounds(self) -> int:
        """Rounds of each race."""
        return REPEATS[self.scale] if self.repeats is None else self.repeats

    def noise(self, *shape: int, stream: int = 0) -> Tensor:
        """Return normal numbers of the series' own stream."""
        generator = torch_generator(self.seed + stream, "bench")
        return torch.randn(*shape, generator=generator).to(self.device)

    def tokens(self, *shape: int, vocab_size: int) -> Tensor:
        """Return token ids of the series' own stream."""
        generator = torch_generator(self.seed, "bench")
        return torch.randint(vocab_size, shape, generator=generator).to(self.device)


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

    call: Call
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
        variants: Names of the programs.
        build: From a variant to its program; all are built when the race starts.
        opponents: Variants, or ``BEST``, that every time is divided by.
        n_tokens: Tokens that a piece of work reads or writes, for tokens per second.
    """

    point: str
    sizes: Mapping[str, Any]
    variants: Sequence[str]
    build: Callable[[str], Entrant]
    opponents: tuple[str, ...] = ("attention",)
    n_tokens: int


def run_race(race: Race, plan: SpeedPlan, *, peaks: Peaks) -> Iterator[RunRecord]:
    """Run all entrants in interleaved rounds; yield a record for each."""
    commit()  # of the code that was loaded, not of what is there at the end
    entrants = {variant: race.build(variant) for variant in race.variants}
    timings = compare(
        {variant: entrant.call for variant, entrant in entrants.items()},
        repeats=plan.n_rounds,
        seed=plan.seed,
        pieces={variant: entrant.n_pieces for variant, entrant in entrants.items()},
    )
    given = {"part": plan.part, "scale": plan.scale, **race.sizes, "precision": "fp32"}
    how = {"route": "default", "threads": plan.n_threads, "device": plan.device}
    how |= {"keeps_pages": plan.keeps_pages, "repeats": plan.n_rounds}
    point = f"{STUDY}/{plan.scale}/{plan.part}/{race.point}"
    for variant, entrant in entrants.items():
        n_calls, samples_ms = timings.n_calls[variant], timings.samples_ms[variant]
        metrics = _metrics(variant, entrant, race=race, timings=timings, peaks=peaks)
        yield RunRecord(
            experiment=f"{point}/default-{plan.n_threads}-threads",
            variant=variant,
            seed=plan.seed,
            config={**given, **entrant.config, **how},
            metrics={name: _rounded(value) for name, value in metrics.items()},
            details={
                "samples_ms": [_rounded(sample) for sample in samples_ms],
                "calls_a_sample": n_calls,
                "turns": [turn.index(variant) for turn in timings.order],
                "load_average": load_average(),
            },
            seconds=n_calls * entrant.n_pieces * sum(samples_ms) / 1e3,
            environment=environment(device=plan.device),
        )


def _rounded(value: float) -> float:
    """Return six significant digits: more than any clock here can stand by."""
    return float(f"{value:.6g}")


def _metrics(
    variant: str, entrant: Entrant, *, race: Race, timings: Timings, peaks: Peaks
) -> dict[str, float]:
    table = timings.table().set_index("name")
    metrics = {n: float(table.loc[variant, n]) for n in ("median_ms", "low_ms", "high_ms")}
    ms = metrics["median_ms"]
    metrics["tokens_per_s"] = 1e3 * race.n_tokens / ms
    for opponent in race.opponents:
        name = opponent
        if opponent == BEST:
            name = next(n for n in table.index if not n.endswith("/auto"))
        if name in table.index:
            ratio, to = timings.ratio(variant, to=name), "ratio_to_" + opponent.rpartition("/")[2]
            metrics |= {to: ratio.median, f"{to}_low": ratio.low, f"{to}_high": ratio.high}
    if entrant.flops is not None:
        metrics["work_gflop"] = entrant.flops / 1e9
        metrics["gflop_per_s"] = gflop_per_s(entrant.flops, ms=ms)
        metrics["roofline_fraction"] = peaks.fraction(entrant.flops, ms=ms)
    machine = {f"machine_{n}": value for n, value in vars(peaks).items() if n != "n_threads"}
    machine["machine_top_gemm_gflops"] = peaks.gemm_gflops
    return metrics | dict(entrant.memory) | machine


def as_table(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Return records as ``records.load_runs`` would: one row each, sizes as ``config.time``."""
    rows = []
    for record in records:
        row = {"experiment": record.experiment, "variant": record.variant, "seed": record.seed}
        row |= record.metrics
        rows.append(row | {f"config.{name}": value for name, value in record.config.items()})
    return pd.DataFrame(rows)


def load_average() -> float | None:
    """Return how many programs wanted to run in the last minute, on systems that say so."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


# What is timed


def build_layer(variant: str, plan: SpeedPlan, **sizes: int) -> TokenMixer:
    """Build one mixer by the name of a variant: ``she``, or ``she/planes`` for a method."""
    name, options = _mixer_and_options(variant)
    return build_mixer(name, **sizes, **options).to(plan.device)


def build_model(variant: str, plan: SpeedPlan, **sizes: int) -> LanguageModel:
    """Build a language model by the name of a variant; ``sizes`` are fields of its config."""
    name, options = _mixer_and_options(variant)
    config = ModelConfig(mixer=name, mixer_options=options, n_heads=N_HEADS, **sizes)
    return LanguageModel(config, generator=torch_generator(plan.seed, "init")).to(plan.device)


def _mixer_and_options(variant: str) -> tuple[str, dict[str, Any]]:
    name, _, method = variant.partition("/")
    options: dict[str, Any] = {"n_heads": N_HEADS} if "n_heads" in mixer_options(name) else {}
    return name, options | ({"method": method} if method else {})


def training_pass(
    function: Callable[[Tensor], Tensor], x: Tensor, *, weights: Iterable[Tensor]
) -> Call:
    """Return forward and backward: gradients of the input and of every weight."""
    x = x.detach().requires_grad_()
    inputs = (x, *weights)
    error = torch.ones_like(function(x).detach())
    return lambda: torch.autograd.grad(function(x), inputs, error)


def training_step(model: LanguageModel, plan: SpeedPlan, *, batch: int) -> Call:
    """Return one whole step as ``training.train_steps`` does it, on the same batch each time."""
    config = model.config
    tokens = plan.tokens(batch, config.context_len + 1, vocab_size=config.vocab_size)
    endless = TrainConfig(n_steps=10**9, lr=1e-5)
    steps = train_steps(model, repeat((tokens[:, :-1], tokens[:, 1:])), config=endless)
    return lambda: next(steps)


def counted_flops(call: Call) -> int:
    """Return the operations of matrix products in a call, as they happen.

    For the count attention runs as plain products, because fused kernels hide theirs on a CPU.
    So every pair of positions counts, also those that causality hides. Nothing else counts: no
    norm, no softmax, no table, no transform of the library.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


# Parts ``mixers`` and ``prefill``: one layer at a time, every mixer beside attention

LAYER_GRIDS = {  # scale: (d_model, times, batches)
    "smoke": (8, (7, 16), (2,)),
    "classroom": (128, (32, 128, 512), (1, 16)),
    "paper": (128, (32, 128, 512, 2048), (1, 16)),
}


def layer_races(plan: SpeedPlan, *, work: str) -> Iterator[Race]:
    """Yield one race for each batch and length.

    Args:
        work: ``training`` (forward and backward) or ``inference``, with frozen weights.
    """
    d_model, times, batches = LAYER_GRIDS[plan.scale]
    for batch, time in product(batches, times):
        sizes = {"work": work, "batch": batch, "time": time, "d_model": d_model}
        yield Race(
            point=f"{work}-b{batch}-t{time}-d{d_model}",
            sizes=sizes,
            variants=MIXERS,
            build=partial(layer_entrant, plan=plan, **sizes),
            n_tokens=batch * time,
        )


def layer_entrant(
    variant: str, *, plan: SpeedPlan, work: str, batch: int, time: int, d_model: int
) -> Entrant:
    """Build one layer and the pass through it that is timed."""
    layer = build_layer(variant, plan, d_model=d_model, context_len=time)
    x = plan.noise(batch, time, d_model)
    call: Call = torch.no_grad()(lambda: layer(x))
    flops = counted_flops(call)
    if work == "inference":
        layer.eval().requires_grad_(False)
        return Entrant(call=call, flops=flops)
    weights = list(layer.parameters())
    forward = partial(layer, x.requires_grad_())
    return Entrant(
        call=training_pass(layer, x, weights=weights),
        flops=3 * flops,  # backward takes two products for each of the forward pass
        memory={"saved_mib": saved_for_backward_mib(forward, parameters=weights)},
    )


# Part ``methods``: every way to evaluate the causal convolution, and whether auto chooses well

NDIM = {"matrix": 3, "diag": 2, "scalar": 1}  # axes of the lag weights
WHOSE = {"matrix": "she", "diag": "we", "scalar": "extractor"}  # sum it is
SUM_GRIDS = {  # scale: (batch, time, d_model)
    "smoke": ((2, 17, 8),),
    "classroom": ((1, 32, 64), (16, 32, 64), (1, 128, 128), (16, 128, 128), (4, 512, 64)),
    "paper": (
        *((batch, time, d) for time in (8, 32, 128, 512) for d in (64, 128) for batch in (1, 16)),
        *((1, 2048, 128), (16, 2048, 128)),
    ),
}
FAR, LONG_GFLOP = 40, 100  # so many times the operations, and so many: left out


def sum_races(plan: SpeedPlan) -> Iterator[Race]:
    """Yield one race for each size, kind of weight and work: all methods by name, and auto."""
    kinds = product(SUM_GRIDS[plan.scale], NDIM, ("forward", "training"))
    for (batch, time, d_model), extract, work in kinds:
        sizes = {"batch": batch, "time": time, "d_model": d_model}
        yield sum_race(plan, extract=extract, work=work, **sizes)


def sum_race(
    plan: SpeedPlan, *, extract: str, work: str, methods: Sequence[str] = (), **sizes: int
) -> Race:
    """Return the race of one sum: of these methods, or of all but the hopeless, and ``auto``.

    Args:
        extract: ``matrix``, ``diag`` or ``scalar``: what a lag's weight is.
        work: ``forward``, or ``training`` (with backward).
        sizes: ``batch``, ``time`` and ``d_model``.
    """
    what = {"extract": extract, "work": work, **sizes}
    flops = {name: sum_flops(name, **what) for name in convolution.list_methods(NDIM[extract])}
    limit = max(LONG_GFLOP * 1e9, FAR * min(flops.values()))
    methods = methods or (*(name for name in flops if flops[name] <= limit), "auto")
    return Race(
        point="{extract}-{work}-b{batch}-t{time}-d{d_model}".format(**what),
        sizes={**what, "left_out": ",".join(name for name in flops if name not in methods)},
        variants=[f"{WHOSE[extract]}/{method}" for method in methods],
        build=partial(sum_entrant, plan=plan, **what),
        opponents=(BEST,),
        n_tokens=sizes["batch"] * sizes["time"],
    )


def sum_flops(method: str, *, extract: str, work: str, batch: int, time: int, d_model: int) -> int:
    """Return the operations of a method, the context as long as the text."""
    sizes = {"batch": batch, "time": time, "n_lags": time, "d_in": d_model}
    is_training = work == "training"
    return convolution.method_flops(method, ndim=NDIM[extract], training=is_training, **sizes)


def sum_entrant(variant: str, *, plan: SpeedPlan, extract: str, work: str, **sizes: int) -> Entrant:
    """Return a method on weights that keep the input's size; ``auto`` with what it takes."""
    method, is_training = variant.rpartition("/")[2], work == "training"
    batch, time, d_model = (sizes[name] for name in ("batch", "time", "d_model"))
    wide = (time, d_model, d_model)[: NDIM[extract]]
    x = plan.noise(batch, time, d_model)
    weight = plan.noise(*wide, stream=1) / (time * d_model) ** 0.5
    weight.requires_grad_(is_training)
    convolve = partial(convolution.causal_convolution, lag_weight=weight, method=method)
    call: Call = torch.no_grad()(lambda: convolve(x))
    if is_training:
        call = training_pass(convolve, x, weights=[weight])
    if method == "auto":
        with torch.set_grad_enabled(is_training):
            method = convolution.choose_method(x, weight)
    flops = sum_flops(method, extract=extract, work=work, **sizes)
    return Entrant(call=call, flops=flops, config={"method": method})


# Part ``training``: whole training steps of a language model, every mixer in the same model

STEP_SIZES = {  # scale: (batch, the model)
    "smoke": (2, {"vocab_size": 50, "d_model": 16, "context_len": 16, "n_layers": 1}),
    "classroom": (32, {"vocab_size": 1000, "d_model": 64, "context_len": 64, "n_layers": 2}),
    "paper": (64, {"vocab_size": 5000, "d_model": 128, "context_len": 128, "n_layers": 6}),
}


def step_races(plan: SpeedPlan) -> Iterator[Race]:
    """Yield the one race of a scale."""
    batch, sizes = STEP_SIZES[plan.scale]
    time = sizes["context_len"]
    yield Race(
        point=f"step-b{batch}-t{time}-d{sizes['d_model']}-n{sizes['n_layers']}",
        sizes={"work": "step", "batch": batch, "time": time, **sizes},
        variants=("attention", "she", "she/lags", "he", "we", "me"),
        build=partial(step_entrant, plan=plan, batch=batch, **sizes),
        opponents=("attention", "she/lags"),
        n_tokens=batch * time,
    )


def step_entrant(variant: str, *, plan: SpeedPlan, batch: int, **sizes: int) -> Entrant:
    """Build a model and its training step."""
    model = build_model(variant, plan, **sizes)
    step = training_step(model, plan, batch=batch)
    step()  # the optimiser's own state is made once and stays
    memory = {"peak_mib": peak_memory_mib(step, device=plan.device), "n_weights": n_weights(model)}
    return Entrant(call=step, memory=memory)


def n_weights(module: nn.Module) -> int:
    """Return the number of trainable numbers, each once."""
    return sum(weight.numel() for weight in module.parameters())


# Parts ``generation`` and ``streaming``: one token after the other, with the context full

STREAM_GRIDS = {  # scale: (d_model, contexts, batches)
    "smoke": (8, (8,), (1, 2)),
    "classroom": (128, (128, 512), (1, 16)),
    "paper": (128, (128, 512, 2048), (1, 16)),
}
EVERY_GRIDS = {  # of every mixer that there is
    "smoke": (8, (8,), (1, 2)),
    "classroom": (64, (128, 512), (1, 16)),
    "paper": (64, (128, 256, 512, 1024, 2048, 4096), (1, 16)),
}
STREAMS = (*MIXERS, "she/ring")
RING_TOKENS = 32  # with a ring every token costs the same
PREFIX = 256  # tokens that one sequence reads at once before the clock starts


def stream_races(plan: SpeedPlan) -> Iterator[Race]:
    """Yield a race for each batch and context."""
    d_model, contexts, batches = STREAM_GRIDS[plan.scale]
    for batch, context_len in product(batches, contexts):
        yield stream_race(plan, batch=batch, context_len=context_len, d_model=d_model)


def every_stream_races(plan: SpeedPlan) -> Iterator[Race]:
    """Yield a race of all registered mixers for each batch and context."""
    d_model, contexts, batches = EVERY_GRIDS[plan.scale]
    for batch, context_len in product(batches, contexts):
        sizes = {"batch": batch, "context_len": context_len, "d_model": d_model}
        yield replace(stream_race(plan, **sizes), variants=list_mixers())


def stream_race(plan: SpeedPlan, *, batch: int, context_len: int, d_model: int) -> Race:
    """Return the race of single layers for the next token, the context full."""
    sizes = {"batch": batch, "context_len": context_len, "d_model": d_model}
    return Race(
        point=f"layer-b{batch}-c{context_len}-d{d_model}",
        sizes={"work": "layer", **sizes},
        variants=STREAMS,
        build=partial(stream_entrant, plan=plan, **sizes),
        n_tokens=batch,
    )


def stream_entrant(
    variant: str, *, plan: SpeedPlan, batch: int, context_len: int, d_model: int
) -> Entrant:
    """Return one layer that goes on with a stream whose context is full.

    A large tile falls due rarely and then costs much, so a whole period of tokens is timed. What
    has weights for the context alone comes to its end, and reads its newest tokens again and again.
    """
    name, _, streaming = variant.partition("/")
    layer = build_layer(name, plan, d_model=d_model, context_len=context_len)
    layer.eval().requires_grad_(False)
    tokens = plan.noise(batch, d_model)
    state = layer.initial_state(batch, **({"streaming": streaming} if streaming else {}))
    is_tiled, ends = isinstance(state, TiledStream), layer.longest is not None
    n_tokens = state.tiling.largest if is_tiled else min(RING_TOKENS, context_len // (1 + ends))
    with torch.no_grad():
        before, one = context_len - ends * (n_tokens + 1), None
        for prefix in plan.noise(1, before, d_model, stream=1).split(PREFIX, dim=1):
            one = layer.prefill(prefix, one)[1]
        filled = _repeated(one.ring if isinstance(one, TiledStream) else one, batch)
        state = TiledStream(filled, state.tiling) if is_tiled else filled
        if ends:  # makes room for those to come
            state = layer.step(tokens, state)[1]

    @torch.no_grad()
    def call() -> Any:
        nonlocal state
        later = state
        for _ in range(n_tokens):
            _, later = layer.step(tokens, later)
        state = state if ends else later
        return later

    kind = "tiles" if is_tiled else "ring"
    n_numbers = find_mixer(name).expected_state(d_model, context_len, N_HEADS)
    memory = {"state_bytes": 4 * n_numbers}  # of one sequence, in float32
    return Entrant(call=call, n_pieces=n_tokens, config={"streaming": kind}, memory=memory)


def _repeated(state: Any, n: int) -> Any:
    """Return the state of one sequence for a batch of n of them."""
    if isinstance(state, tuple):
        return tuple(_repeated(part, n) for part in state)
    if isinstance(state, Ring):
        return replace(state, slots=state.slots.repeat_interleave(n, 0))
    return state.repeat_interleave(n, 0) if isinstance(state, Tensor) else state


PARTS: dict[str, tuple[str, Callable[[SpeedPlan], Iterator[Race]]]] = {
    "mixers": (
        "one layer, forward and backward, beside attention with 4 heads",
        partial(layer_races, work="training"),
    ),
    "methods": (
        "every method of the causal convolution by name, and what auto chooses",
        sum_races,
    ),
    "training": (
        "a whole training step of a language model: loss, backward, clipping, AdamW",
        step_races,
    ),
    "prefill": (
        "one layer with frozen weights over a whole sequence, no gradients",
        partial(layer_races, work="inference"),
    ),
    "generation": ("one token after the other at full context: a layer's step", stream_races),
    "streaming": (
        "one more token at full context by every registered mixer, and the state that it keeps",
        every_stream_races,
    ),
}


# The command


def bench(
    parts: Sequence[str] = (),
    *,
    scale: str = "classroom",
    threads: int | None = None,
    repeats: int | None = None,
    device: str = "cpu",
    file: Path | None = None,
    is_checked: bool = False,
) -> Iterator[str]:
    """Run parts of the bench, all by default; yield line by line what there is to tell.

    Args:
        threads: Of torch; None leaves them as installed.
        repeats: Rounds of each race, at least 5; None takes those of the scale.
        file: Records are appended to it; None stores nothing.
        is_checked: Whether to raise in the end where ``method="auto"`` chose badly.
    Raises:
        AttnlabError: An unknown part or scale, no such device, or a bad choice of ``auto``.
    """
    parts = tuple(parts) or tuple(PARTS)
    if is_checked and "methods" not in parts:
        raise AttnlabError("--check is about method=auto: add the part methods.")
    if device == "cuda" and not torch.cuda.is_available():
        raise AttnlabError("--device cuda: torch finds no graphics card here. Use --device cpu.")
    n_threads = torch.get_num_threads() if threads is None else threads
    how = {"scale": scale, "n_threads": n_threads, "device": device, "repeats": repeats}
    how["keeps_pages"] = keep_pages()
    plans = [SpeedPlan(part=p, seed=_next_series(file, scale, p), **how) for p in parts]
    records: list[RunRecord] = []
    with pinned_threads(n_threads):
        seconds = 0.04 if scale == "smoke" else 0.4
        peaks = machine_peaks(threads=n_threads, device=device, seconds=seconds)
        yield _peak_line(peaks)
        for plan in plans:
            summary, races = PARTS[plan.part]
            yield f"\n{plan.part}: {summary}"
            for race in races(plan):
                group = list(run_race(race, plan, peaks=peaks))
                for record in group if file else ():
                    record.append_to(file)
                yield f"\n  {race.point}\n{_race_table(group)}"
                if race.sizes.get("left_out"):
                    yield f"    far more operations, left out: {race.sizes['left_out']}"
                records += group
    if file:
        yield f"\n{len(records)} records appended to {file}"
    if is_checked:
        yield judge_choices(as_table(records))


def run_file(folder: Path = OWN_RUNS) -> Path:
    """Return the file that records of this study are appended to."""
    return folder / f"{STUDY}.jsonl"


def _next_series(file: Path | None, scale: str, part: str) -> int:
    """Return the number of the series: one more than the last one in the file."""
    places = [place for place in record_places(file) if place.exists()] if file else []
    rows = read_records(file) if file and places else []
    before = f"{STUDY}/{scale}/{part}/"
    return max((r["seed"] for r in rows if r["experiment"].startswith(before)), default=-1) + 1


def _peak_line(peaks: Peaks) -> str:
    load, n_processors = load_average(), os.cpu_count() or 1
    is_busy = load is not None and load > 0.5 * n_processors
    return (
        f"This machine, threads {peaks.n_threads}: matrix products {peaks.gemm_gflops:.0f} "
        f"GFLOP/s; copy {peaks.copy_gb_s:.0f} GB/s; real transform {peaks.rfft_gflops:.0f} GFLOP/s."
    ) + is_busy * (
        f" Other programs are running (load average {load}, processors {n_processors}): ratios "
        "within a round still mean something; times and shares of the peak mean less."
    )


def _race_table(group: list[RunRecord]) -> str:
    """Return one race as text, the fastest first: what it measured, and how it was run."""
    table = as_table(group).sort_values("median_ms").dropna(axis="columns", how="all")
    table = table.rename(
        columns=lambda name: name.removeprefix("config.").replace("ratio_to_", "/")
    )
    columns = ["variant", "method", "streaming", "median_ms", "low_ms", "high_ms"]
    columns += [name for name in table if name.startswith("/")]
    columns += [
        "tokens_per_s",
        "state_bytes",
        "gflop_per_s",
        "roofline_fraction",
        "saved_mib",
        "peak_mib",
    ]
    table = table[[name for name in columns if name in table]]
    return table.to_string(index=False, float_format="{:.3g}".format, na_rep="")


def judge_choices(table: pd.DataFrame) -> str:
    """Say that ``auto`` is nowhere much slower than the best method.

    Args:
        table: Records of the part ``methods`` as a table.
    Raises:
        AttnlabError: It is, or the table has no record of ``auto``.
    """
    judged = table[table["variant"].str.endswith("/auto") & (table["config.part"] == "methods")]
    if not len(judged):
        raise AttnlabError("No record of method='auto' to judge: run the part methods.")
    slow = judged[judged["ratio_to_best"] > TOLERANCE]
    if not len(slow):
        return f"\nmethod=auto is within {TOLERANCE} times the best method at every point."
    points = "; ".join(
        f"{row['experiment'].split('/', 3)[3]} chose {row['config.method']}, "
        f"{row['ratio_to_best']:.2f} times the best"
        for row in slow.to_dict("records")
    )
    raise AttnlabError(
        f"method=auto takes over {TOLERANCE} times the best method's time at {len(slow)} "
        f"points: {points}. Measure again on a quiet machine, then correct the rule."
    )
