"""Part ``lengths`` of the study ``speed``: attention and its stand-ins, by length of a sentence.

A translator of the shape of the study ``replaced``, once with attention and once with a kind of
stand-in at all of its sites, reads and writes sentences as long as those it is trained on, and
longer ones. Weights are random: what a product costs does not depend on them. Attention keeps a key
and a value of every word read and written; a stand-in keeps tables, whatever the length.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from attnlab.config import BOS, N_SPECIAL, TranslatorConfig
from attnlab.distillation import SITES, StudentSpec, build_students, substitute
from attnlab.mixers.base import state_numbers
from attnlab.models import Translator
from attnlab.paths import RUNS
from attnlab.records import load_runs
from attnlab.seeding import torch_generator
from attnlab.studies.arms import TEACHER
from attnlab.studies.clock import PARTS, Entrant, Race, SpeedPlan, counted_flops, n_weights
from attnlab.studies.replaced import SMOKE
from attnlab.studies.sentence_clock import write_greedily
from attnlab.studies.stand_ins import CAPTIONS

GRIDS = {  # scale: (the translator, lengths of both sides, sentences of a batch)
    "smoke": (SMOKE, (4, 9), 2),
    "classroom": (CAPTIONS, (50, 200), 8),
    "paper": (CAPTIONS, (50, 100, 200), 32),
}
KINDS: dict[str, dict[str, Any]] = {  # where a sentence reads itself; at cross ``linear``
    "linear": {"method": "linear"},
    "window": {"method": "linear", "window": 4, "window_scale": "shared"},
    "ssd": {"method": "ssd"},
    "gated_delta": {"method": "gated_delta"},
}
COLUMNS = ["variant", "work", "batch", "time", "median_ms", "ms_a_token", "times", "times_low",
           "times_high", "state_kib"]  # fmt: skip


def length_races(plan: SpeedPlan) -> Iterator[Race]:
    """Yield, for each length, the teacher-forced pass, then a batch and one sentence greedily."""
    budget, lengths, n_sentences = GRIDS[plan.scale]
    for time in lengths:
        for work, batch in (("forced", n_sentences), ("greedy", n_sentences), ("greedy", 1)):
            sizes = {"work": work, "batch": batch, "time": time}
            yield Race(
                point=f"{work}-b{batch}-t{time}-d{budget.d_model}",
                sizes={**sizes, "trained_on": budget.max_len, "d_model": budget.d_model},
                variants=(TEACHER, *KINDS),
                build=partial(length_entrant, plan=plan, **sizes),
                opponents=(TEACHER,),
                n_tokens=time,
            )


def length_entrant(variant: str, *, plan: SpeedPlan, work: str, batch: int, time: int) -> Entrant:
    """Build a translator with stand-ins everywhere, or none, and the pass that is timed.

    Times are those of a sentence. ``state_bytes`` is what the decoder keeps of one sentence once
    it is written, in float32: for attention keys and values of all words on both sides.
    """
    model = build_long_translator(plan, time=time)
    stand_ins = build_kind(variant, model, seed=plan.seed)
    substitute(model, stand_ins)
    n_words = model.config.target_vocab_size - N_SPECIAL
    words = N_SPECIAL + plan.tokens(2, batch, time, vocab_size=n_words)
    words[1, :, 0] = BOS
    source, target = words
    forced = torch.no_grad()(lambda: model(source, target))
    is_forced = work == "forced"
    return Entrant(
        call=forced if is_forced else partial(write_greedily, model, source, n_tokens=time),
        n_pieces=batch,
        flops=counted_flops(forced) // batch if is_forced else None,
        memory={
            "state_bytes": 4 * state_numbers(last_state(model, source[:1], target[:1])),
            "n_weights": n_weights(model),
            "n_stand_in_weights": sum(map(n_weights, stand_ins.values())),
        },
        config={"kind": KINDS.get(variant, {}), "cross": "linear" if stand_ins else "attention"},
    )


def build_long_translator(plan: SpeedPlan, *, time: int) -> Translator:
    """Build an untrained translator of the scale's shape with room for sentences of ``time``."""
    budget = GRIDS[plan.scale][0]
    n_words = budget.vocab_size + N_SPECIAL
    config = TranslatorConfig(
        source_vocab_size=n_words, target_vocab_size=n_words, d_model=budget.d_model,
        n_heads=budget.n_heads, n_encoder_layers=budget.n_layers,
        n_decoder_layers=budget.n_layers, d_ff=budget.d_ff, max_len=max(time, budget.max_len),
        share_embeddings=budget.share_embeddings,
    )  # fmt: skip
    translator = Translator(config, generator=torch_generator(plan.seed, "init"))
    return translator.eval().requires_grad_(False).to(plan.device)


def build_kind(variant: str, model: Translator, *, seed: int = 0) -> dict[Any, Any]:
    """Return stand-ins of a kind for all sites; none for the teacher."""
    found: dict[Any, Any] = {}
    for site in SITES if variant in KINDS else ():
        options = {"method": "linear"} if site == "cross" else KINDS[variant]
        found |= build_students(model, spec=StudentSpec(site=site, **options), seed=seed)
    return found


@torch.no_grad()
def last_state(model: Translator, source: Tensor, target: Tensor) -> Any:
    """Return what the decoder keeps after it has read the whole target."""
    state = model.initial_state(model.encode(source))
    for token in target.unbind(1):
        _, state = model.step(token, state)
    return state


def length_table(*, scale: str = "paper", path: Path = RUNS) -> pd.DataFrame:
    """Return what each kind costs at each length, of the newest series.

    Returns:
        One row a kind, ``work`` (``forced`` or ``greedy``), ``batch`` and length ``time``, in this
        order: milliseconds a sentence and a token, ``times`` those of the teacher in the same
        rounds with an interval, and the decoder's state in KiB. Empty where nothing is recorded.
    """
    sizes = [f"config.{name}" for name in ("work", "batch", "time")]
    ratio = [f"ratio_to_{TEACHER}{end}" for end in ("", "_low", "_high")]
    wanted = ["variant", "seed", *sizes, "median_ms", *ratio, "state_bytes"]
    runs = load_runs(f"speed/{scale}/lengths/", path=path, columns=wanted)
    runs = runs[runs["seed"] == runs["seed"].max()]
    runs = runs.rename(columns=lambda name: name.removeprefix("config."))
    runs = runs.rename(columns=lambda name: name.replace(f"ratio_to_{TEACHER}", "times"))
    runs = runs.assign(
        ms_a_token=runs["median_ms"] / runs["time"], state_kib=runs["state_bytes"] / 1024
    )
    return runs.sort_values(["variant", "work", "batch", "time"], ignore_index=True)[COLUMNS]


PARTS["lengths"] = (
    "sentences of one to four times the trained length, with attention and with stand-ins",
    length_races,
)
