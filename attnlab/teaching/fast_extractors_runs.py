"""Small live measurements and trainings of notebook 06, and the records that replace them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnlab.analysis.timing import Peaks, compare, machine_peaks
from attnlab.config import ModelConfig, TrainConfig
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers import build_mixer
from attnlab.models import LanguageModel
from attnlab.plots.speed import select_points
from attnlab.records import load_runs
from attnlab.seeding import numpy_generator, torch_generator
from attnlab.show.style import look
from attnlab.sources import Source, tales
from attnlab.studies.clock import (
    Race,
    SpeedPlan,
    Sum,
    as_table,
    layer_race,
    run_race,
    stream_race,
    training_pass,
)
from attnlab.training import WindowBatches, train_steps

SCALES = ("paper", "classroom")  # of recorded races, the larger first
REPEATS = 9
METHODS = ("she/lags", "she/toeplitz", "she/fft", "she/planes", "she/staged")
LagSum = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Points:
    """Times as a table, and where they come from in one sentence."""

    table: pd.DataFrame
    origin: str
    is_recorded: bool


def method_points() -> Points:
    """Return methods of SHE's sum, forward and backward, batch 16, at several lengths."""
    sizes = {"extract": "matrix", "work": "training", "batch": 16}
    points = _recorded("methods", over="time", **sizes, d_model=128)
    if points is not None:
        return replace(points, table=points.table[points.table["variant"].isin(METHODS)])
    plan, methods = _plan("methods"), [name.removeprefix("she/") for name in METHODS]
    sums = (Sum(**sizes, d_model=32, time=time) for time in (8, 32, 128))
    races = (each.race(plan, methods=methods) for each in sums)
    return _live(races, part="methods", sizes="width 32, batch 16")


def layer_points() -> Points:
    """Return whole layers, forward and backward, beside attention at several lengths."""
    found = _recorded("mixers", over="time", work="training", batch=16, d_model=128)
    sizes = {"work": "training", "batch": 4, "d_model": 32}
    return found or _live(
        (layer_race(_plan("mixers"), time=time, **sizes) for time in (32, 128, 512)),
        part="mixers",
        sizes="width 32, batch 4",
    )


def generation_points() -> Points:
    """Return the time of one more token, by mixer, context and batch."""
    found = _recorded("generation", over="context_len", work="layer", d_model=128)
    races = (
        generation_race(batch=batch, context_len=context_len, d_model=32)
        for batch in (1, 16)
        for context_len in (32, 128, 512)
    )
    return found or _live(races, part="generation", sizes="width 32")


def generation_race(*, batch: int, context_len: int, d_model: int) -> Race:
    """Return the race of all mixers for the next token, the context full."""
    sizes = {"batch": batch, "context_len": context_len, "d_model": d_model}
    return stream_race(_plan("generation"), **sizes)


def streaming_words(table: pd.DataFrame) -> str:
    """Say which program SHE took by itself, where the ring beats it, and who slows down least.

    Args:
        table: Rows ``variant``, ``median_ms``, ``config.batch``, ``config.context_len`` and
            ``config.streaming``, as from ``generation_points``.
    """
    sentences = []
    for batch, rows in table.groupby("config.batch"):
        times = rows.pivot_table(index="config.context_len", columns="variant", values="median_ms")
        its = rows[rows["variant"] == "she"].groupby("config.context_len")["config.streaming"]
        tiled = [length for length, kind in its.first().items() if kind == "tiles"]
        behind = [length for length in tiled if times["she/ring"][length] < times["she"][length]]
        least = (times.iloc[-1] / times.iloc[0]).idxmin()
        sentences.append(
            f"Batch {batch:.0f}: SHE chose tiles at {_contexts(tiled)}; the ring beats them at "
            f"{_contexts(behind)}; {look(str(least)).label} slows down least."
        )
    return " ".join(sentences)


def _contexts(lengths: Sequence[float]) -> str:
    words = [f"{length:.0f}" for length in lengths]
    return f"context {', '.join(words)}" if words else "no context"


def _recorded(part: str, *, over: str, **sizes: Any) -> Points | None:
    """Return recorded points on a CPU at two values of ``over`` or more; None if there are none."""
    for scale in SCALES:
        try:
            runs = load_runs(f"speed/{scale}/{part}/")
            sizes = {"device": "cpu", "route": "default", "precision": "fp32", **sizes}
            table = select_points(runs, **sizes)
        except (AttnlabError, UnknownNameError):
            continue
        table = table[table["config.threads"] == table["config.threads"].max()]
        table = table.drop_duplicates(["experiment", "variant"], keep="last")  # newest series
        if table[f"config.{over}"].nunique() > 1:
            return Points(table=table, origin=_record_words(table, scale), is_recorded=True)
    return None


def _record_words(table: pd.DataFrame, scale: str) -> str:
    one = table.iloc[-1]
    n_threads = int(one["config.threads"])
    return (
        f"Recorded (speed, {scale}): {one['environment.device']}, torch "
        f"{one['environment.torch']}, {n_threads} thread{'s' * (n_threads > 1)}, width "
        f"{one['config.d_model']:.0f}, medians of {one['config.repeats']:.0f} rounds."
    )


def _live(races: Iterator[Race], *, part: str, sizes: str) -> Points:
    """Measure here and now: small sizes, few rounds."""
    plan, peaks = _plan(part), _peaks(torch.get_num_threads())
    records = [record for race in races for record in run_race(race, plan, peaks=peaks)]
    words = (
        f"Measured while this page ran: {torch.get_num_threads()} thread"
        f"{'s' * (torch.get_num_threads() > 1)}, {sizes}, medians of {REPEATS} rounds."
    )
    return Points(table=as_table(records), origin=words, is_recorded=False)


@lru_cache(maxsize=2)
def _peaks(n_threads: int) -> Peaks:
    return machine_peaks(threads=n_threads, seconds=0.1)


def _plan(part: str) -> SpeedPlan:
    threads = torch.get_num_threads()
    return SpeedPlan(part=part, n_threads=threads, repeats=REPEATS)


def gpu_words(*, path: Any = None) -> str:
    """Say what was recorded on a graphics card, or plainly that nothing was."""
    try:
        runs = load_runs("speed/", path=path)
    except UnknownNameError:
        runs = pd.DataFrame(columns=["config.device"])
    cuda = runs[runs["config.device"].astype(str).str.startswith("cuda")]
    if not len(cuda):
        return "**No record here comes from a graphics card.** So this page claims no speed on one."
    names = ", ".join(sorted(cuda["environment.device"].unique()))
    ratios = cuda.dropna(subset=["ratio_to_attention"]) if "ratio_to_attention" in cuda else cuda
    ratios = ratios[ratios["config.part"] == "training"]
    lines = [
        f"- {row.variant}: training step {row.ratio_to_attention:.2f} times attention's"
        for row in ratios.groupby("variant", as_index=False)["ratio_to_attention"]
        .median()
        .itertuples()
    ]
    return f"**Recorded on {names}**, {len(cuda)} records.\n\n" + "\n".join(lines)


def time_sums(
    sums: Mapping[str, LagSum], *, lengths: Sequence[int], batch: int = 4, d_model: int = 64
) -> pd.DataFrame:
    """Time SHE with each of these sums, forward and backward, beside a layer of attention.

    Args:
        sums: By label, functions of x ``(batch, time, d)`` and W ``(time, d, d)``.

    Returns:
        Rows ``name``, ``label``, ``length``, ``median_ms``, ``low_ms``, ``high_ms``.
    """
    parts = []
    for length in lengths:
        x = _plan("mixers").noise(batch, length, d_model)
        attention = build_mixer("attention", d_model=d_model, context_len=length, n_heads=4)
        calls = {"Attention": training_pass(attention, x, weights=list(attention.parameters()))}
        for label, lag_sum in sums.items():
            calls[label] = _she_pass(lag_sum, x)
        table = compare(calls, repeats=REPEATS).table()
        parts.append(table.rename(columns={"name": "label"}).assign(length=length))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(name=np.where(table["label"] == "Attention", "attention", "she"))


def _she_pass(lag_sum: LagSum, x: Tensor) -> Callable[[], object]:
    """Return forward and backward of SHE with this sum: gradients of x and of all weights."""
    _, time, d = x.shape
    noise = _plan("mixers").noise
    W = noise(time, d, d, stream=1) / (time * d) ** 0.5
    W_adj, W_out = (noise(d, d, stream=stream) / d**0.5 for stream in (2, 3))
    weights = [weight.requires_grad_() for weight in (W, W_adj, W_out)]
    return training_pass(lambda x: (lag_sum(x, W) * (x @ W_adj)) @ W_out, x, weights=weights)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Sizes of the small trainings on tales."""

    context_len: int = 32
    d_model: int = 24
    n_steps: int = 120
    batch_size: int = 16
    lr: float = 0.01


CURES: dict[str, dict[str, str]] = {
    "neither": {"adjust": "none"},
    "1/√t": {"adjust": "none", "scale": "rsqrt_t"},
    "gate": {},
    "both": {"scale": "rsqrt_t"},
}


def start_sizes(lesson: Lesson) -> dict[str, float]:
    r"""Return standard deviations of the lag weights by name, the sum's size in their words.

    Inputs of size 1 make a sum of size :math:`\sigma \sqrt{d\,\ell}` at the last position.
    """
    return {
        "balanced": (lesson.d_model * lesson.context_len) ** -0.5,
        "terms of size 1": lesson.d_model**-0.5,
        "entries of size 1": 1.0,
    }


def train_starts(
    lesson: Lesson, *, seeds: Sequence[int] = (0,)
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train SHE from every start with every cure.

    Returns:
        Held-out losses in rows ``start``, ``cure``, ``seed``, ``loss_nats``; training losses in
        rows ``start``, ``cure``, ``seed``, ``step``, ``loss_nats``. A run that diverges has NaN.
    """
    ends, curves = [], []
    for start, init_std in start_sizes(lesson).items():
        for cure, options in CURES.items():
            for seed in seeds:
                model, losses = train_on_tales(
                    lesson, seed=seed, mixer_options={**options, "init_std": init_std}
                )
                key = {"start": start, "cure": cure, "seed": seed}
                tokens = torch.from_numpy(held_out(lesson))
                with torch.no_grad():
                    loss = model.eval().loss(tokens[:, :-1], tokens[:, 1:])
                ends.append(key | {"loss_nats": float(loss)})
                steps = np.arange(1, len(losses) + 1)
                curves.append(pd.DataFrame(key | {"step": steps, "loss_nats": losses}))
    return pd.DataFrame(ends), pd.concat(curves, ignore_index=True)


def train_on_tales(
    lesson: Lesson, *, seed: int = 0, **config: Any
) -> tuple[LanguageModel, list[float]]:
    """Train one layer on small tales; return it with its training losses.

    Args:
        config: Fields of ``ModelConfig``: mixer, mixer_options, position.
    """
    source = tales("small")
    sizes = {"d_model": lesson.d_model, "context_len": lesson.context_len, "n_layers": 1}
    options = {"mixer": "she", "vocab_size": source.vocab_size, **sizes, **config}
    model = LanguageModel(ModelConfig(**options), generator=torch_generator(seed, "init"))
    n_tokens = lesson.n_steps * lesson.batch_size * lesson.context_len + 1
    batches = WindowBatches(
        [source.sample(n_tokens, generator=numpy_generator(seed, "data"))],
        context_len=lesson.context_len,
        batch_size=lesson.batch_size,
        seed=seed,
    )
    recipe = TrainConfig(
        n_steps=lesson.n_steps, batch_size=lesson.batch_size, lr=lesson.lr, seed=seed
    )
    logs = train_steps(model, batches.starting_at(0), config=recipe)
    return model, [log.loss_nats for log in logs]


def held_out(lesson: Lesson, *, n_windows: int = 128, n_tokens: int | None = None) -> Any:
    """Return windows of the test stream of small tales, ``(n_windows, n_tokens + 1)``."""
    length = lesson.context_len if n_tokens is None else n_tokens
    return tales("small").sample_windows(n_windows, window_len=length + 1, stream="test")


READERS: dict[str, dict[str, Any]] = {
    "attention/learned positions": {"mixer": "attention"},
    "she/absolute index": {"mixer_options": {"index": "absolute"}, "position": "none"},
    "she/learned positions": {},
    "she/lags alone": {"position": "none"},
}


def train_readers(lesson: Lesson) -> dict[str, LanguageModel]:
    """Train one model for each way of knowing the place of a token; see ``READERS``."""
    return {name: train_on_tales(lesson, **options)[0] for name, options in READERS.items()}


def stretched(model: LanguageModel, *, context_len: int) -> LanguageModel:
    """Return the same model with a longer context, untrained where training saw nothing.

    Lag weights beyond the trained ones are zero: a window. Positions, and weights that belong
    to an absolute place, are as they were drawn.
    """
    longer = replace(model.config, context_len=context_len)
    result = LanguageModel(longer, generator=torch_generator(1, "init"))
    own, is_lag = result.state_dict(), model.config.mixer_options.get("index", "lag") == "lag"
    for name, weight in model.state_dict().items():
        if name.endswith("lag_weight") and is_lag:
            own[name].zero_()
        own[name][: len(weight)] = weight
    result.load_state_dict(own)
    return result.eval()


def losses_past_length(
    models: Mapping[str, LanguageModel], windows: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Return the mean loss at every position, each model read past its trained length."""
    n_tokens = windows.shape[1] - 1
    longer = {name: stretched(model, context_len=n_tokens) for name, model in models.items()}
    return {name: losses_by_position(m, windows).mean(axis=0) for name, m in longer.items()}


def losses_read_again(model: LanguageModel, windows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean loss at every position if the newest half is read again when it is full.

    This is what ``LanguageModel.generate`` does; positions stay those of training.
    """
    length, n_tokens = model.config.context_len, windows.shape[1] - 1
    half = max(1, length // 2)
    losses = np.empty(n_tokens)
    losses[:length] = losses_by_position(model, windows[:, : length + 1]).mean(axis=0)
    n_done = length
    while n_done < n_tokens:
        start = n_done - half + 1  # the token to come is the last of those read again
        stop = min(start + length, n_tokens)
        piece = losses_by_position(model, windows[:, start : stop + 1]).mean(axis=0)
        losses[n_done:stop] = piece[half - 1 :]
        n_done = stop
    return losses


@torch.no_grad()
def losses_by_position(model: LanguageModel, windows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the loss of every predicted token in nats: ``(n_windows, context_len)``.

    Column i has i + 1 tokens of context.
    """
    tokens = torch.from_numpy(windows)
    return model.loss(tokens[:, :-1], tokens[:, 1:], reduction="none").double().numpy()


def tokens_before_slip(source: Source, text: NDArray[np.int64], *, prompt_len: int) -> int | None:
    """Return how many generated tokens the true source could have written; None if all.

    Shapes:
        text: ``(n_tokens,)``, prompt first.
    """
    surprise = np.asarray(source.oracle_nats(text, per_token=True))[prompt_len - 1 :]
    slips = np.flatnonzero(~np.isfinite(surprise))
    return int(slips[0]) if len(slips) else None
