"""Tasks: what a model can be trained on. Each is one class; see ``base.Task``."""

from attnlab.tasks.base import Task
from attnlab.tasks.classification import LabelDataset, LabelTask
from attnlab.tasks.images import list_image_datasets, prepare_images
from attnlab.tasks.in_context import InContextTask
from attnlab.tasks.labels import list_label_datasets, prepare_labels
from attnlab.tasks.language import (
    Dataset,
    LanguageTask,
    StreamTask,
    list_datasets,
    oracle_on_windows,
    prepare_dataset,
)
from attnlab.tasks.pairs import PairDataset, list_pair_datasets, prepare_pairs
from attnlab.tasks.recall import RecallTask, recall_task
from attnlab.tasks.translation import TranslationTask

__all__ = ["Dataset", "InContextTask", "LabelDataset", "LabelTask", "LanguageTask", "PairDataset",
           "RecallTask", "StreamTask", "Task", "TranslationTask", "list_datasets",
           "list_image_datasets", "list_label_datasets", "list_pair_datasets",
           "oracle_on_windows", "prepare_dataset", "prepare_images", "prepare_labels",
           "prepare_pairs", "recall_task"]  # fmt: skip
