"""Training: one loop, windows in a fixed order, held-out scores, checkpoints."""

from attnlab.training.batches import WindowBatches
from attnlab.training.checkpoint import load_model, save_model
from attnlab.training.evaluation import Score, evaluate, evaluate_documents
from attnlab.training.loop import StepLog, build_optimizer, learning_rate, train_steps

__all__ = [
    "Score",
    "StepLog",
    "WindowBatches",
    "build_optimizer",
    "evaluate",
    "evaluate_documents",
    "learning_rate",
    "load_model",
    "save_model",
    "train_steps",
]
