"""Study ``speed``: mixers, methods, training, generation and translation, timed."""

from attnlab.errors import UnknownNameError
from attnlab.studies.speed.core import (
    ROUTES,
    STUDY,
    Entrant,
    Part,
    Race,
    SpeedPlan,
    as_table,
    load_average,
    peaks_as_metrics,
    run_file,
    run_race,
    run_races,
)
from attnlab.studies.speed.generation import GENERATION_PART
from attnlab.studies.speed.layers import MIXERS_PART, PREFILL_PART
from attnlab.studies.speed.methods import METHODS_PART, TOLERANCE, slow_choices
from attnlab.studies.speed.models import TRAINING_PART
from attnlab.studies.speed.targets import TARGETS, Target, judge_targets, target_sentences
from attnlab.studies.speed.translation import TRANSLATION_PART

PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        MIXERS_PART,
        METHODS_PART,
        TRAINING_PART,
        PREFILL_PART,
        GENERATION_PART,
        TRANSLATION_PART,
    )
}

__all__ = [
    "PARTS",
    "ROUTES",
    "STUDY",
    "TARGETS",
    "TOLERANCE",
    "Entrant",
    "Part",
    "Race",
    "SpeedPlan",
    "Target",
    "as_table",
    "get_part",
    "judge_targets",
    "load_average",
    "peaks_as_metrics",
    "run_file",
    "run_race",
    "run_races",
    "slow_choices",
    "target_sentences",
]


def get_part(name: str) -> Part:
    """Return a part of the study by its name."""
    if name not in PARTS:
        step = "Leave it out to run all parts."
        raise UnknownNameError("part of the bench", name, PARTS, next_step=step)
    return PARTS[name]
