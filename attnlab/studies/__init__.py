"""Studies: named experiments that turn configurations into run records."""

from attnlab.studies import (
    ablation,
    families,
    growth,
    labels,
    lengths,
    mixers,
    n_grams,
    replaced,
    scaling,
    sentence_clock,
    stand_ins,
)
from attnlab.studies.engine import Folders, Job, Progress
from attnlab.studies.study import (
    Plan,
    Study,
    check_plan,
    export_models,
    get_study,
    list_studies,
    run_plan,
    unfinished_plans,
)
from attnlab.studies.sweep import run_sweep

__all__ = [
    "Folders",
    "Job",
    "Plan",
    "Progress",
    "Study",
    "ablation",
    "check_plan",
    "export_models",
    "families",
    "get_study",
    "growth",
    "labels",
    "lengths",
    "list_studies",
    "mixers",
    "n_grams",
    "replaced",
    "run_plan",
    "run_sweep",
    "scaling",
    "sentence_clock",
    "stand_ins",
    "unfinished_plans",
]
