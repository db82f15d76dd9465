"""The teacher: an encoder-decoder with attention, trained to translate, kept for its students."""

from __future__ import annotations

from attnlab.studies.engine import Job
from attnlab.tasks import TranslationTask, prepare_pairs

STUDY = "attentionless"


def translation_task(job: Job) -> TranslationTask:
    """Return the task of a teacher's job."""
    options = dict(job.task)
    corpus, max_tokens = options.pop("corpus"), options.pop("max_tokens")
    data = prepare_pairs(corpus, max_len=job.model.max_len, **options)
    return TranslationTask(data=data, max_tokens=max_tokens)
