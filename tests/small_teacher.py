"""A small translator, sentences for it, and every kind of student: what tests of students share."""

import dataclasses

import numpy as np
import torch

from attnlab.config import N_SPECIAL, PAD, TranslatorConfig
from attnlab.distillation import METHODS, StudentSpec, collect_activations
from attnlab.models import Translator
from attnlab.seeding import torch_generator
from attnlab.training import collate_pairs

MAX_LEN = 9
CONFIG = TranslatorConfig(
    source_vocab_size=13, target_vocab_size=11, d_model=12, n_heads=3, n_encoder_layers=3,
    n_decoder_layers=2, d_ff=17, dropout=0.1, max_len=MAX_LEN,
)  # fmt: skip
LAYOUTS = ("truncated", "prefix", "per_query", "low_rank", "extractor")  # all but the paper's
ENCODER = [StudentSpec(method=method, size="s") for method in METHODS]
DECODER = StudentSpec(site="decoder_self", size="s")
PAPER = StudentSpec(site="cross", size="s")
CROSS = [StudentSpec(site="cross", size="s", layout=layout) for layout in LAYOUTS]
EVERYWHERE = [*ENCODER, DECODER, PAPER, *CROSS]  # one of each kind
RICH = [  # with everything that may be added
    StudentSpec(method="alrr", size="s", skip="identity"),
    StudentSpec(method="alrr", size="s", skip="linear"),
    StudentSpec(method="elr", size="s", depth=2),
    StudentSpec(site="decoder_self", size="s", depth=3),
    StudentSpec(site="cross", size="s", depth=2),
    StudentSpec(site="cross", size="s", layout="per_query", gate=True, learned_head=True, depth=2),
]


def label(spec):
    return spec.label


def teacher_for(dtype=torch.float32, seed=0, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return Translator(config, generator=torch_generator(seed, "init")).to(dtype).eval()


def some_pairs(n=10, seed=0):
    random = np.random.default_rng(seed)

    def sentence(vocab_size, longest):
        return random.integers(N_SPECIAL, vocab_size, random.integers(1, longest + 1)).tolist()

    return [(sentence(13, MAX_LEN), sentence(11, MAX_LEN - 1)) for _ in range(n)]


def some_batches(n=3, seed=0):
    return [collate_pairs(some_pairs(10, seed + i)) for i in range(n)]


def lessons_for(teacher, spec, seed=0, n=3, **options):
    return collect_activations(teacher, some_batches(n, seed), spec=spec, **options)


def logits_of(model):
    source, target = some_batches()[0]
    with torch.no_grad():
        return model(source, target[:, :-1])


def stepwise_logits(model, source, target):
    state = model.initial_state(model.encode(source), source_padding=source == PAD)
    columns = []
    for token in target.unbind(1):
        logits, state = model.step(token, state)
        columns.append(logits)
    return torch.stack(columns, 1)


def weights_of(students):
    return {
        (*key, name): weight.detach().clone()
        for key, student in students.items()
        for name, weight in student.named_parameters()
    }


def differ(a, b):
    """Return the names under which two collections of weights differ."""
    return {key for key in a if not torch.equal(a[key], b[key])}
