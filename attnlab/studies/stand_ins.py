"""Study ``replaced``: a strong teacher, and today's stand-ins for its attention."""

from __future__ import annotations

from dataclasses import replace

from attnlab.studies.arms import TEACHER
from attnlab.studies.engine import Job
from attnlab.studies.replaced import SMOKE, Budget, teacher_jobs
from attnlab.studies.study import Plan, Study, register_study
from attnlab.studies.task_budgets import TASK_BUDGETS
from attnlab.tasks import list_pair_datasets

STUDY = "replaced"
CAPTIONS = Budget(  # a small system tuned for little text, see papers of multi-modal translation
    d_model=128, n_heads=4, n_layers=4, d_ff=256, max_len=50, max_tokens=2048, lr=5e-3,
    warmup_steps=2000, dropout=0.3, label_smoothing=0.1, n_passes=40, vocab_size=4000,
    n_averaged=10, share_embeddings=True, precision="fp32_onednn", beam_size=5,
)  # fmt: skip
BUDGETS = {
    ("smoke", None): replace(SMOKE, n_averaged=2, share_embeddings=True, beam_size=2),
    ("classroom", None): replace(CAPTIONS, n_passes=5, n_averaged=2),
    ("paper", None): CAPTIONS,
    **TASK_BUDGETS,
}


def study_jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan."""
    return teacher_jobs(plan, plan.choose(BUDGETS))


register_study(
    Study(
        name=STUDY,
        summary="a strong teacher, and stand-ins for its attention, site by site",
        variants=(TEACHER,),
        corpora=list_pair_datasets(),
        jobs=study_jobs,
        needs=("validation_bleu",),
    )
)
