"""Studies: named experiments that turn configurations into run records."""

from attnlab.studies import attentionless, extractor_ablation, language_model, n_grams
from attnlab.studies.core import (
    Folders,
    Plan,
    Progress,
    Study,
    export_models,
    get_study,
    list_studies,
    run_plan,
    unfinished_plans,
)

__all__ = [
    "Folders",
    "Plan",
    "Progress",
    "Study",
    "attentionless",
    "export_models",
    "extractor_ablation",
    "get_study",
    "language_model",
    "list_studies",
    "n_grams",
    "run_plan",
    "unfinished_plans",
]
