"""Training: one loop, batches in a fixed order, held-out scores, checkpoints."""

from attnlab.training.batches import PairBatches, WindowBatches, collate_pairs, pad_sentences
from attnlab.training.checkpoint import load_model, load_translator, save_model
from attnlab.training.engine import State, steps_dense_early, steps_every, train_model
from attnlab.training.loop import StepLog, build_optimizer, learning_rate, train_steps
from attnlab.training.scores import (
    Bleu,
    ForcedScore,
    LengthBleu,
    Score,
    TranslationScore,
    bleu,
    bleu_by_hand,
    bleu_by_length,
    evaluate,
    evaluate_documents,
    evaluate_forced,
    evaluate_translation,
    n_grams,
    sentence_of,
    translate_all,
)

__all__ = [
    "Bleu",
    "ForcedScore",
    "LengthBleu",
    "PairBatches",
    "Score",
    "State",
    "StepLog",
    "TranslationScore",
    "WindowBatches",
    "bleu",
    "bleu_by_hand",
    "bleu_by_length",
    "build_optimizer",
    "collate_pairs",
    "evaluate",
    "evaluate_documents",
    "evaluate_forced",
    "evaluate_translation",
    "learning_rate",
    "load_model",
    "load_translator",
    "n_grams",
    "pad_sentences",
    "save_model",
    "sentence_of",
    "steps_dense_early",
    "steps_every",
    "train_model",
    "train_steps",
    "translate_all",
]
