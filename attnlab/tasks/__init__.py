"""Tasks: what a model can be trained on. Each is one class; see ``base.Task``."""

from attnlab.tasks.base import Task
from attnlab.tasks.in_context import InContextTask
from attnlab.tasks.language import (
    Dataset,
    LanguageTask,
    StreamTask,
    list_datasets,
    oracle_on_windows,
    prepare_dataset,
)
from attnlab.tasks.recall import RecallTask, recall_task
from attnlab.tasks.translation import (
    PairDataset,
    TranslationTask,
    list_pair_datasets,
    prepare_pairs,
)

__all__ = ["Dataset", "InContextTask", "LanguageTask", "PairDataset", "RecallTask", "StreamTask",
           "Task", "TranslationTask", "list_datasets", "list_pair_datasets", "oracle_on_windows",
           "prepare_dataset", "prepare_pairs", "recall_task"]  # fmt: skip
