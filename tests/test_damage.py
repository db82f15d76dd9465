"""Files that something has happened to: each is refused by name, or gives what was written."""

import io
import json
import re
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from small_models import model_for, translator_for

from attnlab.config import TrainConfig
from attnlab.corpora import SPLITS, Corpus, Document, encode_corpus, load_tokenizer, train_bpe
from attnlab.distillation import StudentSpec, build_students, load_students, save_students
from attnlab.errors import AttnlabError, CheckpointError
from attnlab.paths import CHAINS
from attnlab.sources.markov import load_chain
from attnlab.tasks.base import cached_tokenizer
from attnlab.training import build_optimizer, load_model, load_translator, save_model, train_model
from attnlab.training.checkpoint import save_checkpoint, write_tensors
from attnlab.training.engine import State

N_DAMAGES = 150  # of each kind of file
ODD = (None, True, -1, 0, 1.5, 10**13, 10**400, 1e308, "", "x", "\ud800", [], [[]], {}, {"a": []})
TEXT = "Once upon a time there were three bears. "


def flipped(content: bytes, random: np.random.Generator) -> bytes:
    """Return a file with other bytes, fewer bytes or more bytes somewhere."""
    at, n = int(random.integers(0, len(content))), int(random.integers(1, 20))
    return (
        content[:at] + bytes([content[at] ^ 1 << random.integers(0, 8)]) + content[at + 1 :],
        content[:at] + random.bytes(n) + content[at + n :],
        content[:at],
        content[:at] + content[at + n :],
        content[:at] + random.bytes(n) + content[at:],
        content[: random.integers(0, 40)],
    )[random.integers(0, 6)]


def places(value, path=()) -> Iterator[tuple]:
    """Yield the path to every part of a JSON value; of long lists to the first ones."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value[:3])
    for key, part in parts:
        yield (*path, key)
        if isinstance(part, dict | list):
            yield from places(part, (*path, key))


def swapped(values, random: np.random.Generator):
    """Return a JSON value in which some part is another one, or gone."""
    values = json.loads(json.dumps(values))
    every = list(places(values))
    *way, last = every[random.integers(1, len(every))]
    holder = values
    for key in way:
        holder = holder[key]
    chosen = random.integers(0, len(ODD) + 1)
    if chosen == len(ODD):
        del holder[last]
    else:
        holder[last] = ODD[chosen]
    return values


def swap_json(content: bytes, random: np.random.Generator) -> bytes:
    return json.dumps(swapped(json.loads(content), random)).encode()


def swap_header(content: bytes, random: np.random.Generator) -> bytes:
    """Change what a file of tensors says of itself, and let its checksum agree."""
    n_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + n_bytes])["__metadata__"]
    if random.integers(0, 4) == 0:
        header = {name: ascii(value).strip("'") for name, value in swapped(header, random).items()}
    else:
        facts = swapped(json.loads(header["facts"]), random)
        header = {**header, "facts": json.dumps(facts)}
        del header["facts_sha256"]
    return save(load(content), metadata=header)


def checkpoint(path):
    model = model_for()
    optimizer = build_optimizer(model, TrainConfig())
    model.loss(torch.ones(1, 2).long(), torch.ones(1, 2).long()).backward()
    optimizer.step()
    facts = {**vars(State(loss_nats=1.0)), "threads": 1, "device": "cpu"}
    save_checkpoint(path, model=model, optimizer=optimizer, facts=facts)


def go_on(path):
    """Train one step from a checkpoint, on a task without anything to read."""

    class Task:
        def train_options(self, model, train):
            return {}

        def batches(self, model, train, *, start=0):
            return iter([(torch.ones(1, 2).long(), torch.ones(1, 2).long())] * 2)

    model = model_for(seed=1)
    list(train_model(Task(), model, TrainConfig(n_steps=1), checkpoint=path))
    return weights(model)


def students(path):
    teacher = translator_for()
    parts = {}
    for spec in (StudentSpec(), StudentSpec(site="cross", layout="low_rank")):
        parts |= build_students(teacher, spec=spec, layers=[0])
    save_students(path, students=parts)


def weights(module):
    return dict(module.named_parameters())


KINDS = {  # how it is written, how it is read back, what may happen to it besides other bytes
    "model": (lambda p: save_model(p, model=model_for(mixer="she", position="sinusoidal")),
              lambda p: weights(load_model(p)[0]), swap_header),
    "translator": (lambda p: save_model(p, model=translator_for()),
                   lambda p: weights(load_translator(p)[0]), swap_header),
    "students": (students,
                 lambda p: {str(k): weights(s) for k, s in load_students(p)[0].items()},
                 swap_header),
    "checkpoint": (checkpoint, go_on, swap_header),
    "tokenizer": (lambda p: train_bpe(TEXT, vocab_size=270).save(p),
                  lambda p: load_tokenizer(p).encode(TEXT).tolist(), swap_json),
    "chain": (lambda p: p.write_bytes((CHAINS / "weather.json").read_bytes()),
              lambda p: load_chain(p.rename(p.with_suffix(".json"))), swap_json),
}  # fmt: skip


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_by_name_or_gives_what_was_written(kind, tmp_path):
    write, read, swap = KINDS[kind]
    path = tmp_path / "thefile"
    write(path)
    content, random = path.read_bytes(), np.random.default_rng(0)
    whole, n_refused = read(path), 0
    for damage in [flipped] * N_DAMAGES + [swap] * N_DAMAGES:
        path.write_bytes(damage(content, random))
        try:
            found = read(path)
        except AttnlabError as error:
            assert path.name in str(error)  # noqa: PT017
            n_refused += 1
        else:
            if damage is flipped and kind != "chain":  # which people write, without a checksum
                assert_equal(found, whole)
    assert n_refused > N_DAMAGES


BOOKS = tuple(Document(str(i), TEXT * (i + 1)) for i in range(3))
CORPUS = Corpus(name="books", licence="", train=BOOKS[:1], validation=BOOKS[1:2], test=BOOKS[2:])


def test_a_damaged_cache_is_made_again(tmp_path, monkeypatch, caplog):
    """Tokenizers and encoded text: whatever stands there, the result is the same."""
    monkeypatch.setattr("attnlab.tasks.base.cache_folder", lambda: tmp_path)

    def tokenizer():
        return cached_tokenizer("books", [TEXT], vocab_size=270)

    def encoded():
        return encode_corpus(CORPUS, tokenizer(), cache=tmp_path / "encoded")

    whole, random = encoded(), np.random.default_rng(0)
    for path in (next(tmp_path.glob("encoded/*")), next(tmp_path.glob("byte_pairs/*"))):
        content = path.read_bytes()
        for damage in [flipped] * N_DAMAGES + [npz_of_something_else] * 20:
            path.write_bytes(damage(content, random))
            assert_equal(encoded(), whole)
            caplog.clear()
            assert_equal(encoded(), whole)
            assert not caplog.records, "the second time it is whole"
        path.unlink()
        path.mkdir()
        assert_equal(encoded(), whole)
        assert "not kept" in caplog.text
        path.rmdir()


def npz_of_something_else(_: bytes, random: np.random.Generator) -> bytes:
    odd = [np.arange(3), np.arange(-3, 3), np.zeros((2, 2)), np.array("x"), np.full(9, 2**15)]
    odd += [array.astype(kind) for array in odd[:2] for kind in (np.uint16, np.int32)]
    names = [f"{split}_{part}" for split in SPLITS for part in ("tokens", "lengths")]
    file = io.BytesIO()
    np.savez(file, **{name: odd[random.integers(0, len(odd))] for name in names})
    return file.getvalue()


@pytest.mark.parametrize(
    "sizes",
    [
        {"context_len": 10**9, "position": "sinusoidal", "mixer": "mean"},
        {"context_len": 10**9, "mixer": "she"},
        {"d_model": 10**9, "n_heads": 1},
        {"vocab_size": 10**12},
        {"n_layers": 4000},
        {"d_ff": 10**9},
        {"mixer": "she", "mixer_options": {"rank": 10**15}},
        {"mixer_options": {"n_heads": 3}},
    ],
    ids=str,
)
def test_absurd_sizes_are_refused_before_anything_is_allocated(sizes, tmp_path):
    path = tmp_path / "model.safetensors"
    model = model_for()
    save_model(path, model=model)
    values = {**model.config.to_dict(), **sizes}
    write_tensors(path, weights(model), facts={"config": values})
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_model(path)
    assert time.perf_counter() - started < 1
