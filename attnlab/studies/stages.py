"""The stages in which a stand-in learns: how long each is, and what one leaves behind.

A stage before the swap is a function of teacher, stand-ins and what is matched. What it taught is
kept in the study's work folder for other arms that ask for the same.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from attnlab.config import TrainConfig, digest_of
from attnlab.distillation import load_students, save_students
from attnlab.distillation.sites import Key
from attnlab.distillation.transfer import Transfer
from attnlab.records import commit
from attnlab.studies.engine import Folders, Progress, by_one, train_job, work_file
from attnlab.training import steps_every

MATCHED = 1 / 6  # of an arm's steps, where something is tuned afterwards
N_POINTS = 10  # of a stage's curve


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stretch of an arm's learning, a job for the engine.

    Args:
        number: Of ``STAGES``.
        first_batch: How many batches the stages before it read.
        what: All that decides its result besides ``train``, as plain JSON.
    """

    number: int
    experiment: str
    name: str
    train: TrainConfig
    points: Collection[int]
    first_batch: int
    what: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Twelve hex digits that name its result."""
        how = {"stage": self.number, "train": self.train.to_dict(), "first": self.first_batch}
        return digest_of({**how, **self.what})


def stage_lengths(numbers: tuple[int, ...], *, n_steps: int) -> dict[int, int]:
    """Return the steps of each stage: as many in all, whatever the stages.

    Those before the swap share ``MATCHED`` of the steps evenly if something is tuned afterwards,
    and else all of them.
    """
    early = [number for number in numbers if number != 3]
    n_early = 0 if not early else round(MATCHED * n_steps) if 3 in numbers else n_steps
    ends = [round(n_early * i / max(1, len(early))) for i in range(len(early) + 1)]
    lengths = {number: ends[i + 1] - ends[i] for i, number in enumerate(early)}
    return lengths | ({3: n_steps - n_early} if 3 in numbers else {})


def stage_points(n_steps: int) -> set[int]:
    """Return the steps of a stage after which a point is added to its curve."""
    return steps_every(max(1, n_steps // N_POINTS), n_steps)


def learn_stage(
    stage: Stage, lessons: Transfer, modules: Mapping[Key, nn.Module], folders: Folders
) -> Generator[Progress, None, tuple[dict[Key, nn.Module], dict[str, Any]]]:
    """Return stand-ins as a stage leaves them, and what is known of how they learnt.

    The file names the commit that taught them; delete ``taught-*`` in the study's work folder
    after a change of how they learn.
    """
    study = stage.experiment.partition("/")[0]
    path = folders.work_file(study, f"taught-{stage.digest}.safetensors")

    def learn() -> Iterator[Progress]:
        learning = nn.ModuleList(modules.values()).requires_grad_(True)
        state = yield from train_job(stage, lessons, learning, folders)
        about = {
            "stage": stage.number, "match": lessons.match, "n_steps": state.step,
            "tokens_seen": state.tokens_seen, "seconds": state.seconds,
            "relative_error": state.curve["relative_error"][-1], "commit": commit(),
        }  # fmt: skip
        save_students(path, students=modules, about=about)
        work_file(stage, folders, "checkpoint").unlink(missing_ok=True)

    yield from by_one(stage, folders, path, learn)
    taught, facts = load_students(path)
    return {key: taught[key].to(lessons.teacher.device) for key in modules}, facts["about"]
