"""Study ``attentionless``: a translation teacher, and what is left when its attention goes."""

from attnlab.studies.attentionless.budgets import teacher_jobs
from attnlab.studies.attentionless.data import list_pair_datasets, prepare_pairs
from attnlab.studies.attentionless.teacher import STUDY, TeacherJob, run_teacher
from attnlab.studies.core import Study, register_study

__all__ = ["TeacherJob", "list_pair_datasets", "prepare_pairs", "teacher_jobs"]

register_study(
    Study(
        name=STUDY,
        summary="a translation teacher with attention at three sites, trained to be imitated",
        variants=("teacher",),
        corpora=list_pair_datasets(),
        jobs=teacher_jobs,
        run=run_teacher,
    )
)
