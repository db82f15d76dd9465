"""What chapter 06 measures while it runs, and reads from the clock's records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnlab.analysis.timing import compare, machine_peaks
from attnlab.mixers import build_mixer
from attnlab.models import LanguageModel
from attnlab.records import load_runs
from attnlab.seeding import numpy_generator, torch_generator
from attnlab.show import look
from attnlab.show.words import read_words
from attnlab.sources.tales import TaleSource
from attnlab.studies.clock import (
    STREAMS,
    SpeedPlan,
    as_table,
    run_race,
    stream_race,
    sum_race,
    training_pass,
)

METHODS = ("lags", "toeplitz", "fft", "planes", "staged")
REPEATS = 9  # of the times of a sum
ROUNDS = 5  # of a live race for the next token
LagSum = Callable[[Tensor, Tensor], Tensor]


def recorded(part: str, **sizes: Any) -> tuple[pd.DataFrame, str]:
    """Return the newest recorded points of a part of the clock, and where they come from.

    On a CPU, float32, with as many threads as were recorded at most, at width 128.

    Args:
        sizes: Columns ``config.<name>`` to hold fixed, for example ``work="training"``.
    """
    runs = load_runs(f"speed/paper/{part}/")
    fixed = {"device": "cpu", "route": "default", "precision": "fp32", "d_model": 128, **sizes}
    for name, value in fixed.items():
        runs = runs[runs[f"config.{name}"] == value]
    runs = runs[runs["config.threads"] == runs["config.threads"].max()]
    table = runs.drop_duplicates(["experiment", "variant"], keep="last")
    one, n_threads = table.iloc[-1], int(table["config.threads"].iloc[-1])
    return table, (
        f"Recorded (speed, paper): {one['environment.device']}, torch "
        f"{one['environment.torch']}, {n_threads} thread{'s' * (n_threads > 1)}, width "
        f"{one['config.d_model']:.0f}, medians of {one['config.repeats']:.0f} rounds."
    )


def race_methods(*, lengths: Sequence[int], batch: int, d_model: int) -> tuple[pd.DataFrame, str]:
    """Race the methods of SHE's sum here, forward and backward; return the points, and how.

    Small sizes, few rounds: what fits a lesson.
    """
    n_threads = torch.get_num_threads()
    plan = SpeedPlan(part="methods", n_threads=n_threads, repeats=REPEATS)
    peaks, records = machine_peaks(threads=n_threads, seconds=0.1), []
    for length in lengths:
        sizes = {"batch": batch, "time": length, "d_model": d_model}
        race = sum_race(plan, extract="matrix", work="training", methods=METHODS, **sizes)
        records += run_race(race, plan, peaks=peaks)
    return as_table(records), (
        f"Measured while this page ran: {n_threads} thread{'s' * (n_threads > 1)}, width "
        f"{d_model}, batch {batch}, medians of {REPEATS} rounds."
    )


def streaming_words(table: pd.DataFrame) -> str:
    """Say which program SHE took by itself, where the ring beats it, and who slows down least.

    Args:
        table: Rows ``variant``, ``median_ms``, ``config.batch``, ``config.context_len`` and
            ``config.streaming``.
    """

    def contexts(lengths: Sequence[float]) -> str:
        words = ", ".join(f"{length:.0f}" for length in lengths)
        return f"context {words}" if words else "no context"

    sentences = []
    for batch, rows in table.groupby("config.batch"):
        times = rows.pivot_table(index="config.context_len", columns="variant", values="median_ms")
        its = rows[rows["variant"] == "she"].groupby("config.context_len")["config.streaming"]
        tiled = [length for length, kind in its.first().items() if kind == "tiles"]
        behind = [length for length in tiled if times["she/ring"][length] < times["she"][length]]
        least = (times.iloc[-1] / times.iloc[0]).idxmin()
        sentences.append(
            f"Batch {batch:.0f}: SHE chose tiles at {contexts(tiled)}; the ring beats them at "
            f"{contexts(behind)}; {look(str(least)).label} slows down least."
        )
    return " ".join(sentences)


def gpu_words() -> str:
    """Say what was recorded on a graphics card, or plainly that nothing was."""
    runs = load_runs("speed/")
    cuda = runs[runs["config.device"].astype(str).str.startswith("cuda")]
    if not len(cuda):
        return "**No record here comes from a graphics card.** So this page claims no speed on one."
    names = ", ".join(sorted(cuda["environment.device"].unique()))
    training = cuda[cuda["config.part"] == "training"]
    lines = [
        f"- {variant}: training step {ratio:.2f} times attention's"
        for variant, ratio in training.groupby("variant")["ratio_to_attention"].median().items()
    ]
    return f"**Recorded on {names}**, {len(cuda)} records.\n\n" + "\n".join(lines)


def time_sums(
    sums: Mapping[str, LagSum],
    *,
    lengths: Sequence[int],
    batch: int,
    d_model: int,
) -> pd.DataFrame:
    """Time SHE with each of these sums, forward and backward, beside a layer of attention.

    Args:
        sums: By label, functions of x ``(batch, time, d)`` and W ``(time, d, d)``.

    Returns:
        Rows ``name``, ``label``, ``length``, ``median_ms``, ``low_ms``, ``high_ms``.
    """

    def noise(*shape: int, seed: int) -> Tensor:
        return torch.randn(*shape, generator=torch_generator(seed, "bench"))

    def she(lag_sum: LagSum, x: Tensor) -> Callable[[], object]:
        time, d = x.shape[1:]
        W = noise(time, d, d, seed=1) / (time * d) ** 0.5
        W_adj, W_out = (noise(d, d, seed=seed) / d**0.5 for seed in (2, 3))
        weights = [weight.requires_grad_() for weight in (W, W_adj, W_out)]
        return training_pass(lambda x: (lag_sum(x, W) * (x @ W_adj)) @ W_out, x, weights=weights)

    parts = []
    for length in lengths:
        x = noise(batch, length, d_model, seed=0)
        attention = build_mixer("attention", d_model=d_model, context_len=length, n_heads=4)
        calls = {"Attention": training_pass(attention, x, weights=list(attention.parameters()))}
        calls |= {label: she(lag_sum, x) for label, lag_sum in sums.items()}
        table = compare(calls, repeats=REPEATS).table()
        parts.append(table.rename(columns={"name": "label"}).assign(length=length))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(name=np.where(table["label"] == "Attention", "attention", "she"))


def generation_laps(
    *, context_len: int, batch: int, d_model: int
) -> Iterator[dict[str, Any] | None]:
    """Race the mixers for the next token: yield one lap of one mixer at a time, in turns.

    The context is full. A lap spans a whole context where tokens differ in price.

    Yields:
        ``variant``, ``round`` (from 1), ``tokens_per_s`` over the whole batch; None before the
        first lap, where a board may listen.
    """
    plan = SpeedPlan(part="generation", n_threads=torch.get_num_threads())
    race = stream_race(plan, batch=batch, context_len=context_len, d_model=d_model)
    entrants, generator = {}, numpy_generator(0, "order")
    for name in race.variants:
        entrants[name] = race.build(name)
        yield None
    for number in range(ROUNDS + 1):
        for index in generator.permutation(len(STREAMS)):
            one, started = entrants[STREAMS[index]], time.perf_counter()
            one.call()
            speed = batch * one.n_pieces / (time.perf_counter() - started)
            lap = {"variant": STREAMS[index], "round": number, "tokens_per_s": speed}
            yield lap if number else None  # the first round warms up


# Texts past the trained length -------------------------------------------------------------------


@torch.no_grad()
def by_position(model: LanguageModel, windows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean loss at every position of windows ``(n_windows, time + 1)``: ``(time,)``."""
    tokens = torch.from_numpy(np.ascontiguousarray(windows))
    losses = model.eval().loss(tokens[:, :-1], tokens[:, 1:], reduction="none")
    return losses.double().mean(0).numpy()


def length_playground(
    models: Mapping[str, LanguageModel], *, source: TaleSource, trained_len: int, prompt: str
) -> dict[str, Callable[..., Any]]:
    """Return ``write`` and ``words`` of a playground whose texts run past the trained length.

    Args:
        models: With a context long enough for the text.
        source: What they were trained on; it tells the first impossible word.
        trained_len: Where the bar in the text stands.
        prompt: How a text begins where nothing else is typed.
    """

    def begin(typed: str) -> tuple[NDArray[np.int64], str]:
        most = trained_len - 1  # so that something is written before the bar
        words, unread = read_words(
            typed, most=most, usual=prompt, find=source.knows, split=source.split
        )
        return np.asarray(source.encode(" ".join(words)), np.int64), unread

    def text(model: str, prompt: str, seed: int) -> NDArray[np.int64]:
        start = torch.from_numpy(begin(prompt)[0])[None]
        n_tokens = models[model].config.context_len - start.shape[1]
        how = {"temperature": 0.7, "generator": torch_generator(seed, "generate")}
        return models[model].generate(start, n_tokens=n_tokens, **how)[0].numpy()

    def write(*, model: str, prompt: str, seed: int) -> dict[str, str]:
        tokens = text(model, prompt, seed)
        whole, first = source.decode(tokens), source.decode(tokens[:trained_len])
        rest = whole[len(first) :].lstrip()
        return {look(model).label: f"{first} ‖ {rest}" if rest else first}

    def words(*, model: str, prompt: str, seed: int) -> str:
        (start, unread), tokens = begin(prompt), text(model, prompt, seed)
        surprise = np.asarray(source.oracle_nats(tokens, per_token=True))
        slips = np.flatnonzero(~np.isfinite(surprise)) - len(start) + 2  # 1: the first one written
        how = "no impossible word"
        if len(slips):
            how = f"first impossible word: number {slips[0]}"
        if len(slips) and slips[0] < 1:
            how = "no tale begins like this, so its words are not judged"
        said = f"Seed {seed}, temperature 0.7; the bar marks the end of the trained length; {how}."
        return f"{said} {unread}".strip()

    return {"write": write, "words": words}
