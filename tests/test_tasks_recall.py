"""Recall and languages in context as tasks: what counts, which split, who learns it."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from attnlab.config import ModelConfig, TrainConfig
from attnlab.errors import AttnlabError
from attnlab.records import load_details, load_runs
from attnlab.seeding import torch_generator
from attnlab.sources import ChainsInContext, PairRecall
from attnlab.sources.recall import IGNORED, SOURCES
from attnlab.studies import Folders
from attnlab.studies.engine import Job, run_job
from attnlab.tasks import InContextTask, in_context, recall, recall_task
from attnlab.tasks.generated import answer_loss, answered
from attnlab.training import State, train_model

TINY = recall_task(source=PairRecall(vocab_size=12, time=12), loads=(1, 2, 3))
CHAINS = InContextTask(source=ChainsInContext(n_symbols=4, time=16, alpha=0.3))
TASKS = {"recall": TINY, "in_context": CHAINS}


def config_for(task, mixer="attention", **sizes):
    sizes = {"d_model": 16, "n_layers": 1, "n_heads": 2, **sizes}
    source = task.source
    return ModelConfig(mixer=mixer, vocab_size=source.vocab_size, context_len=source.time, **sizes)


def begun(task, mixer="attention", seed=0, **sizes):
    return task.build(config_for(task, mixer, **sizes), generator=torch_generator(seed, "init"))


def trained(task, mixer, train, points=(), **sizes):
    model, state = begun(task, mixer, **sizes), State()
    for _ in train_model(task, model, train, points=points, state=state):
        pass
    return model.eval(), state


def test_only_the_positions_that_ask_are_in_the_loss():
    model = begun(TINY)
    tokens, targets = next(TINY.batches(model, TrainConfig(batch_size=9)))
    asks = targets != IGNORED
    logits = model(tokens)
    slow = [
        -logits[b, t].log_softmax(-1)[targets[b, t]]
        for b, t in itertools.product(*map(range, tokens.shape))
        if asks[b, t]
    ]
    assert torch.allclose(answer_loss(model, tokens, targets), torch.stack(slow).mean())
    assert answered(targets) == len(slow) == 3 * (1 + 2 + 3)
    options = TINY.train_options(model, TrainConfig())
    assert options["count"](targets) == len(slow)
    assert torch.equal(options["loss"](tokens, targets), answer_loss(model, tokens, targets))


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_is_a_function_of_the_seed_and_of_its_number_alone(name):
    task, model, train = TASKS[name], begun(TASKS[name]), TrainConfig(batch_size=7)
    first = list(itertools.islice(task.batches(model, train), 4))
    later = next(task.batches(begun(task, seed=5), train, start=3))
    other = next(task.batches(model, replace(train, seed=1)))
    assert all(torch.equal(a, b) for a, b in zip(first[3], later, strict=True))
    assert not torch.equal(first[0][0], other[0])
    assert not torch.equal(first[0][0], first[1][0])
    assert first[0][0].shape == (7, task.source.time)


def test_a_batch_has_as_many_rows_of_each_load_up_to_one():
    model = begun(TINY)
    for batch_size in (1, 7, 9):
        for _, targets in itertools.islice(
            TINY.batches(model, TrainConfig(batch_size=batch_size)), 5
        ):
            loads = (targets != IGNORED).sum(1).bincount(minlength=4)[1:]
            assert loads.sum() == batch_size
            assert loads.max() - loads.min() <= 1


def test_the_splits_share_no_stream():
    rows = [recall.held_out(TINY, split, 3)[0] for split in ("validation", "test")]
    assert not np.array_equal(*rows)
    batch = next(TINY.batches(begun(TINY), TrainConfig(batch_size=3 * recall.N_HELD_OUT)))[0]
    assert all(not np.array_equal(batch[-recall.N_HELD_OUT :], each) for each in rows)
    chains = [in_context.held_out(CHAINS.source, s)[1] for s in ("validation", "test")]
    assert not np.array_equal(*chains)
    assert not np.array_equal(
        recall.held_out(recall_task("mqar"), "test", 4)[0],
        recall.held_out(recall_task("fuzzy"), "test", 5)[0],
    )


@pytest.mark.parametrize("kind", SOURCES)
@torch.no_grad()
def test_every_kind_is_scored_at_three_loads_and_on_both_splits(kind, monkeypatch):
    monkeypatch.setattr(recall, "N_HELD_OUT", 8)
    recall.held_out.cache_clear()
    task = recall_task(kind)
    model = begun(task)
    metrics, details = task.score(model)
    assert len(task.loads) == 3
    assert details["by_load"]["load"] == list(task.loads)
    for load, loss, accuracy in zip(*details["by_load"].values(), strict=True):
        tokens, targets = map(torch.from_numpy, recall.held_out(task, "test", load))
        assert loss == pytest.approx(float(answer_loss(model, tokens, targets)), abs=1e-5)
        guesses = model(tokens).argmax(-1)
        assert accuracy == float((guesses == targets)[targets != IGNORED].double().mean())
        assert metrics[f"load_{load}_loss_nats"] == loss
        assert metrics[f"load_{load}_accuracy"] == accuracy
    assert metrics["test_loss_nats"] == pytest.approx(np.mean(details["by_load"]["loss_nats"]))
    assert metrics["chance_accuracy"] == pytest.approx(math.exp(-metrics["chance_nats"]))
    assert metrics["oracle_nats"] == task.source.oracle_nats
    assert metrics["validation_loss_nats"] != metrics["test_loss_nats"]
    assert task.facts["loads"] == list(task.loads)
    recall.held_out.cache_clear()


def test_attention_learns_recall_where_no_mixing_stays_at_chance():
    train = TrainConfig(n_steps=400, batch_size=32, lr=5e-3, warmup_steps=20)
    sizes = {"d_model": 32, "n_layers": 2}
    model, state = trained(TINY, "attention", train, points={400}, **sizes)
    found = TINY.score(model)[0]
    assert min(found[f"load_{load}_accuracy"] for load in TINY.loads) > 0.95
    assert state.curve["accuracy"][-1] > 0.95
    blind, _ = trained(TINY, "identity", replace(train, n_steps=150), **sizes)
    found = TINY.score(blind)[0]
    assert found["test_loss_nats"] == pytest.approx(found["chance_nats"], abs=0.1)
    assert found["test_accuracy"] == pytest.approx(found["chance_accuracy"], abs=0.06)


def test_a_model_in_context_is_scored_beside_its_readers_on_the_same_rows():
    train = TrainConfig(n_steps=150, batch_size=32, lr=5e-3, warmup_steps=10)
    model, state = trained(CHAINS, "attention", train, points={75, 150}, d_model=32)
    metrics, details = CHAINS.score(model)
    rows, chains = in_context.held_out(CHAINS.source, "test")
    tokens = torch.from_numpy(rows)
    with torch.no_grad():
        logits = model(tokens[:, :-1]).flatten(0, 1)
    slow = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
    assert metrics["test_loss_nats"] == pytest.approx(float(slow), abs=1e-5)
    assert metrics["oracle_nats"] == pytest.approx(CHAINS.source.oracle_nats(rows).mean())
    assert metrics["knowing_nats"] == pytest.approx(CHAINS.source.knowing_nats(rows, chains).mean())
    assert metrics["bigram_nats"] == metrics["oracle_nats"]  # of order 1
    assert metrics["knowing_nats"] < metrics["oracle_nats"] < metrics["test_loss_nats"]
    assert metrics["test_loss_nats"] < math.log(4) - 0.05
    assert metrics["test_gap_nats"] == metrics["test_loss_nats"] - metrics["oracle_nats"]
    table = details["by_position"]
    assert table["position"] == list(range(1, 17))
    assert np.mean(table["loss_nats"]) == pytest.approx(metrics["test_loss_nats"])
    assert np.mean(table["oracle_nats"][-4:]) == pytest.approx(metrics["last_oracle_nats"])
    assert state.curve["loss_nats"][-1] < state.curve["loss_nats"][0]


@pytest.mark.parametrize("name", TASKS)
def test_a_job_of_a_study_trains_and_records_it(name, tmp_path):
    task = TASKS[name]
    train = TrainConfig(n_steps=4, batch_size=4, warmup_steps=1)
    job = Job(experiment=f"mixers/smoke/{name}", variant="mean", model=config_for(task, "mean"),
              train=train, make_task=lambda job: task, points={2, 4})  # fmt: skip
    steps = run_job(job, Folders(runs=tmp_path, work=tmp_path))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            record = end.value
            break
    file = tmp_path / "mixers.jsonl"
    record.append_to(file)
    (row,) = load_runs(f"mixers/smoke/{name}", path=file).to_dict("records")
    assert row["validation_loss_nats"] > 0
    assert row["oracle_nats"] <= row["test_loss_nats"]
    if name == "recall":
        assert row["tokens_seen"] == sum(
            answered(targets) for _, targets in
            itertools.islice(task.batches(begun(task), train), 4)
        )  # fmt: skip
        assert row["n_multiplications"] > 0
    which = {"recall": "by_load", "in_context": "by_position"}[name]
    assert len(load_details(f"mixers/smoke/{name}", which, path=file)) in (3, 16)


def test_loads_that_do_not_fit_are_refused_before_training():
    with pytest.raises(AttnlabError, match=r"Loads \[9\] do not fit 32 tokens; 8 is the highest"):
        recall_task(source=PairRecall(vocab_size=32, time=32), loads=(4, 9))
