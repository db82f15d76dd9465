"""A small language model and a small translator, and what they read."""

import numpy as np
import torch

from attnlab.config import BOS, N_SPECIAL, ModelConfig, TranslatorConfig
from attnlab.models import LanguageModel, Translator
from attnlab.seeding import numpy_generator, torch_generator
from attnlab.training import PairBatches, WindowBatches

MODEL = {"vocab_size": 7, "context_len": 5, "d_model": 8, "n_layers": 1, "n_heads": 2}
TRANSLATOR = {
    "source_vocab_size": 13, "target_vocab_size": 11, "d_model": 12, "n_heads": 3,
    "n_encoder_layers": 2, "n_decoder_layers": 2, "d_ff": 17, "dropout": 0.0, "max_len": 9,
}  # fmt: skip


def model_for(seed=0, **changes):
    config = ModelConfig(**{**MODEL, **changes})
    return LanguageModel(config, generator=torch_generator(seed, "init"))


def translator_for(seed=0, **changes):
    config = TranslatorConfig(**{**TRANSLATOR, **changes})
    return Translator(config, generator=torch_generator(seed, "init")).eval()


def documents(*lengths, vocab_size=7):
    random = numpy_generator(0, "data")
    return [random.integers(0, vocab_size, n) for n in lengths]


def window_batches(seed=0):
    return WindowBatches(documents(90, 41), context_len=5, batch_size=4, seed=seed)


def some_pairs(lengths):
    return [(np.full(s, 5), np.full(t, 6)) for s, t in lengths]


def pair_batches(seed=0):
    random = numpy_generator(0, "pairs")
    pairs = [
        (random.integers(N_SPECIAL, 13, s), random.integers(N_SPECIAL, 11, t))
        for s, t in random.integers(0, 8, (60, 2))
    ]
    return PairBatches(pairs, max_tokens=40, seed=seed)


def words(n_rows, time, *, vocab_size=11, seed=0):
    generator = torch_generator(seed, f"words/{n_rows}/{time}/{vocab_size}")
    return torch.randint(N_SPECIAL, vocab_size, (n_rows, time), generator=generator)


def targets(n_rows, time, seed=0):
    rows = words(n_rows, time, seed=seed)
    rows[:, 0] = BOS
    return rows
