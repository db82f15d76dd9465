"""Ways to a batch of lessons: the teacher run anew, what it did kept in memory, or in files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count, cycle
from pathlib import Path

from safetensors.torch import load_file, save_file

from attnlab.distillation import Activations, LiveActivations, StudentSpec, collect_activations
from attnlab.distillation.capture import MIB, ActivationBatch, TokenBatch
from attnlab.models import Translator
from attnlab.studies.speed.core import Entrant, Race, SpeedPlan
from attnlab.studies.speed.work import build_translator, random_words
from attnlab.training import collate_pairs

LIVE, MEMORY = "live", "memory"
DISK, DISK_ANEW = "disk (warm cache)", "disk (written anew)"
N_BATCHES = 8  # that are kept
SPEC = StudentSpec(site="encoder_self")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A teacher and the number of sentences of a batch."""

    d_model: int
    max_len: int
    n_layers: int
    n_heads: int
    vocab_size: int
    batch: int

    @property
    def lengths(self) -> list[int]:
        """Lengths of the sentences of a batch, evenly from one token to ``max_len``."""
        return [1 + i * (self.max_len - 1) // (self.batch - 1) for i in range(self.batch)]


def lessons_race(plan: SpeedPlan, sizes: Sizes, *, folder: Path) -> Race:
    """Return the race of the ways to a batch of lessons for students of all encoder layers.

    The teacher is run anew (``live``); or what it did is kept without padding (``memory``); or
    it is written to one file a batch, forced out to the disk, and read back. The system keeps
    the pages of a file it has just written, so that reading is from memory all the same: hence
    ``disk (warm cache)``. ``disk (written anew)`` writes and reads one file in each call.

    Args:
        folder: Takes the files.
    """
    entrants: dict[str, Callable[[], Entrant]] = {
        LIVE: partial(live_entrant, plan, sizes),
        MEMORY: partial(memory_entrant, plan, sizes),
        DISK: partial(disk_entrant, plan, sizes, folder=folder / "kept", is_anew=False),
        DISK_ANEW: partial(disk_entrant, plan, sizes, folder=folder / "anew", is_anew=True),
    }
    return Race(
        point=f"lessons-b{sizes.batch}-t{sizes.max_len}-d{sizes.d_model}-n{sizes.n_layers}",
        sizes={"work": "lessons", **asdict(sizes)},
        entrants=entrants,
        opponents=(LIVE, MEMORY),
        n_tokens=sum(sizes.lengths),
    )


def live_entrant(plan: SpeedPlan, sizes: Sizes) -> Entrant:
    """Return a teacher that reads one batch after another."""
    lessons = LiveActivations(
        teacher=build_teacher(plan, sizes),
        batches=token_batches(plan, sizes),
        spec=SPEC,
        layers=tuple(range(sizes.n_layers)),
    )
    steps = count()
    return Entrant(
        call=lambda: lessons.training_batch(next(steps)), memory={"bytes_per_sentence": 0.0}
    )


def memory_entrant(plan: SpeedPlan, sizes: Sizes) -> Entrant:
    """Return lessons of all batches kept in memory, drawn as a fit draws them."""
    teacher, batches = build_teacher(plan, sizes), token_batches(plan, sizes)
    lessons = collect_activations(teacher, batches, spec=SPEC)
    steps = count()
    return Entrant(
        call=lambda: lessons.training_batch(next(steps), batch_size=sizes.batch, seed=plan.seed),
        memory={"bytes_per_sentence": lessons.mib * MIB / lessons.n_sentences},
    )


def disk_entrant(plan: SpeedPlan, sizes: Sizes, *, folder: Path, is_anew: bool) -> Entrant:
    """Return lessons of all batches in files, read one after another; or written, then read."""
    teacher = build_teacher(plan, sizes)
    kept = [collect_activations(teacher, [b], spec=SPEC) for b in token_batches(plan, sizes)]
    folder.mkdir()
    files = [folder / f"{i}.safetensors" for i in range(len(kept))]
    for lessons, file in zip(kept, files, strict=True):
        write_lessons(lessons, file)
    n_bytes = sum(file.stat().st_size for file in files)
    turns = cycle(zip(kept, files, strict=True))

    def call() -> ActivationBatch:
        lessons, file = next(turns)
        if is_anew:
            write_lessons(lessons, file)
        return read_lessons(file, like=lessons)

    return Entrant(
        call=call, memory={"bytes_per_sentence": n_bytes / sum(b.n_sentences for b in kept)}
    )


def write_lessons(lessons: Activations, file: Path) -> None:
    """Write lessons to a file and wait until the disk has it."""
    names = ("inputs", "targets", "lengths")
    save_file({name: getattr(lessons, name) for name in names}, file)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lessons(file: Path, *, like: Activations) -> ActivationBatch:
    """Return the lessons in a file, side by side; all but the numbers is as in ``like``."""
    read = replace(like, **load_file(file, device=str(like.inputs.device)))
    return read.batch(range(read.n_sentences))


def build_teacher(plan: SpeedPlan, sizes: Sizes) -> Translator:
    """Return the teacher of these sizes."""
    facts = {name: value for name, value in asdict(sizes).items() if name != "batch"}
    return build_translator(**facts, d_ff=4 * sizes.d_model, seed=plan.seed, device=plan.device)


def token_batches(plan: SpeedPlan, sizes: Sizes) -> list[TokenBatch]:
    """Return batches of random sentences of all lengths; an encoder reads the sources only."""
    shape = (N_BATCHES, sizes.batch, sizes.max_len)
    words = random_words(*shape, vocab_size=sizes.vocab_size, seed=plan.seed, device="cpu")
    return [
        collate_pairs(
            [(row[:n], row[: n - 1]) for row, n in zip(rows, sizes.lengths, strict=True)],
            device=plan.device,
        )
        for rows in words.tolist()
    ]
