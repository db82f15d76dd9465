"""Studies: named experiments that turn configurations into run records."""

from attnlab.studies import ablation, attentionless, mixers, n_grams
from attnlab.studies.engine import Folders, Job, Progress
from attnlab.studies.study import (
    Plan,
    Study,
    export_models,
    get_study,
    list_studies,
    run_plan,
    unfinished_plans,
)

__all__ = [
    "Folders",
    "Job",
    "Plan",
    "Progress",
    "Study",
    "ablation",
    "attentionless",
    "export_models",
    "get_study",
    "list_studies",
    "mixers",
    "n_grams",
    "run_plan",
    "unfinished_plans",
]
