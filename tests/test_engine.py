"""The one engine: what a seed decides, which split a number is of, how a training goes on."""

import copy
import math
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from attnlab.config import ModelConfig, TrainConfig, TranslatorConfig
from attnlab.errors import AttnlabError
from attnlab.seeding import torch_generator
from attnlab.sources import translation_source
from attnlab.studies import Folders, Plan, get_study
from attnlab.studies import engine as jobs_engine
from attnlab.studies.engine import training_metrics
from attnlab.tasks import (
    Dataset,
    LanguageTask,
    PairDataset,
    StreamTask,
    TranslationTask,
    oracle_on_windows,
)
from attnlab.training import (
    State,
    engine,
    evaluate_documents,
    evaluate_forced,
    evaluate_translation,
    steps_dense_early,
    steps_every,
    train_model,
)
from attnlab.training.scores import pool

MODEL = ModelConfig(mixer="mean", vocab_size=5, context_len=3, d_model=4, n_layers=1)
PLAN = TrainConfig(n_steps=6, batch_size=2, warmup_steps=2, lr=0.05)
POINTS = {2, 4, 6}


def tokens(n, seed=0):
    return np.random.default_rng(seed).integers(0, 5, n)


TASK = StreamTask(train=tokens(61), held_out=tokens(20, seed=1).reshape(5, 4))


def begin(task=TASK, config=MODEL, seed=0):
    return task.build(config, generator=torch_generator(seed, "init"))


def trained(train=PLAN):
    model = begin()
    *_, state = train_model(TASK, model, train, points=POINTS)
    return model, state


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# What a seed decides


class Begun(Exception):
    """Carries what a job would have begun with."""


@pytest.mark.parametrize(
    ("study", "corpus", "variant"),
    [
        ("language-model", "tales", "he"),
        ("extractor-ablation", "tales", "she/adjustment_only"),
        ("attentionless", "toy", "teacher"),
        ("attentionless", "toy", "encoder_self/alr/m/scratch"),
    ],
)
def test_the_seed_of_a_job_decides_the_start_and_the_order(
    study, corpus, variant, tmp_path, monkeypatch
):
    def look(task, model, train, **_):
        raise Begun(flat(model), next(task.batches(model, train))[0])

    monkeypatch.setattr(jobs_engine, "train_model", look)
    begun = []
    for seed in (0, 1, 0):
        plan = Plan(study=study, corpus=corpus, variants=(variant,), seeds=(seed,))
        (job,) = get_study(study).jobs(plan)
        with pytest.raises(Begun) as caught:
            list(get_study(study).run(job, Folders(runs=tmp_path, work=tmp_path)))
        begun.append(caught.value.args)
    for part in range(2):
        zero, one, again = (each[part] for each in begun)
        assert torch.equal(zero, again)
        assert zero.shape != one.shape or not torch.equal(zero, one)


CHANGES = {"n_steps": 5, "batch_size": 3, "lr": 0.04, "schedule": "inverse_sqrt",
           "warmup_steps": 1, "min_lr_fraction": 0.5, "weight_decay": 0.5, "beta_1": 0.5,
           "beta_2": 0.5, "max_grad_norm": 0.1, "accumulation_steps": 2, "n_averaged": 2,
           "precision": "bf16", "seed": 1}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_each_setting_of_a_training_changes_its_result(name):
    assert set(CHANGES) | {"label_smoothing"} == set(vars(PLAN))
    changed = replace(PLAN, **{name: CHANGES[name]})
    usual, again, other = (flat(trained(plan)[0]) for plan in (PLAN, PLAN, changed))
    assert torch.equal(usual, again)
    assert not torch.equal(usual, other)


# Which split a number is of


def test_a_language_model_is_judged_on_the_split_that_each_number_names():
    splits = {name: (tokens(30, seed=i), tokens(17, seed=i + 9)) for i, name in
              enumerate(("train", "validation", "test"))}  # fmt: skip
    task, model = LanguageTask(data=Dataset(name="toy", vocab_size=5, test_names=("a", "b"),
                                            **splits)), begin()  # fmt: skip
    nats = {name: pool(evaluate_documents(model, split)).nats_per_token
            for name, split in splits.items()}  # fmt: skip
    metrics, _ = task.score(model)
    assert len(set(nats.values())) == 3
    assert task.validate(model) == {"loss_nats": nats["validation"]}
    assert metrics["validation_loss_nats"] == nats["validation"]
    assert metrics["test_loss_nats"] == nats["test"]
    inputs, _ = next(task.batches(model, PLAN))
    windows = {tuple(split[i : i + 3]) for split in splits["train"] for i in range(len(split))}
    assert {tuple(row) for row in inputs.tolist()} <= windows


@pytest.fixture(scope="module")
def pairs():
    """A task on few pairs, and an untrained translator for it."""
    source = translation_source()
    streams = {"train": "data", "validation": "validation", "test": "test"}
    splits = {name: source.sample_pairs(12, seed=0, stream=streams[name]) for name in streams}
    data = PairDataset(name="toy", source_vocabulary=source, vocabulary=source, **splits)
    config = TranslatorConfig(source_vocab_size=source.vocab_size, max_len=24, d_model=8, d_ff=8,
                              target_vocab_size=source.vocab_size, n_heads=2, n_encoder_layers=1,
                              n_decoder_layers=1, dropout=0.0)  # fmt: skip
    task = TranslationTask(data=data, max_tokens=60)
    return task, begin(task, config)


def test_a_translator_is_judged_on_the_split_that_each_number_names(pairs):
    task, model = pairs
    splits = {name: getattr(task.data, name) for name in ("train", "validation", "test")}
    nats = {name: evaluate_forced(model, split).loss_nats for name, split in splits.items()}
    metrics, details = task.score(model)
    assert len(set(nats.values())) == 3
    assert task.validate(model) == {"loss_nats": nats["validation"]}
    assert metrics["validation_loss_nats"] == nats["validation"]
    assert metrics["test_loss_nats"] == nats["test"]
    assert metrics["test_accuracy"] == evaluate_forced(model, task.data.test).accuracy
    assert sum(details["by_length"]["n_sentences"]) == len(task.data.test)


def test_a_test_is_scored_once_more_by_beam_where_a_task_has_one(pairs):
    task, model = pairs
    metrics, details = replace(task, beam_size=3).score(model)
    vocabulary = task.data.vocabulary
    by_beam = evaluate_translation(model, task.data.test, vocabulary=vocabulary, beam_size=3)
    greedy, facts = task.score(model)
    beam = {name: metrics.pop(f"beam_{name}") for name in ("bleu", "bleu_low", "bleu_high")}
    assert beam == {"bleu": by_beam.bleu.score, "bleu_low": by_beam.bleu.low,
                    "bleu_high": by_beam.bleu.high}  # fmt: skip
    assert (details.pop("beam")["beam_size"], details["bleu"]["beam_size"]) == (3, 1)
    assert (metrics, details) == (greedy, facts)


def test_a_translator_learns_with_the_smoothing_of_its_plan(pairs):
    task, model = pairs
    plans = [replace(PLAN, n_steps=2, label_smoothing=share) for share in (0.0, 0.3)]
    losses = [
        [state.loss_nats for state in train_model(task, copy.deepcopy(model), plan)]
        for plan in plans
    ]
    before = model.loss(*next(task.batches(model, PLAN))).item()
    assert [first for first, _ in losses] == [before, before]  # reported plain
    assert losses[0][1] != losses[1][1]  # learned from another loss


def test_the_oracle_counts_every_token_once_whatever_its_window():
    def length_of(windows):  # a loss that depends on the window
        return windows.shape[1]

    data = Dataset(name="toy", vocab_size=5, train=(), validation=(), oracle_nats=length_of,
                   test=(tokens(8), tokens(3)))  # fmt: skip
    # windows of 3 inputs: 3 + 3 + 1 targets of the first document, 2 of the second
    assert oracle_on_windows(data, 3) == pytest.approx((3 * 4 + 3 * 4 + 1 * 2 + 2 * 3) / 9)
    with pytest.raises(AttnlabError, match="real text"):
        oracle_on_windows(replace(data, oracle_nats=None), 3)


# The curve, and going on


def test_a_point_of_the_curve_is_of_the_stretch_before_it():
    losses, model, state = [], begin(), State()
    for one in train_model(TASK, model, PLAN, points={0, 4, 6}, state=state):
        losses += [one.loss_nats] if one.step else []
    curve = state.curve
    assert curve["tokens_seen"] == [0, 24, 36]
    assert curve["train_loss_nats"][1:] == [sum(losses[:4]) / 4, sum(losses[4:]) / 2]
    assert math.isnan(curve["train_loss_nats"][0])
    assert curve["loss_nats"][-1] == TASK.validate(model)["loss_nats"]
    metrics = training_metrics(model, state)
    assert metrics["train_loss_nats"] == curve["train_loss_nats"][-1]
    assert metrics["train_loss_nats_run_mean"] == pytest.approx(sum(losses) / 6)
    assert metrics["n_weights"] == len(flat(model))


@dataclass(frozen=True, kw_only=True)
class Scripted(StreamTask):
    """A task whose validation is best at the second of three points."""

    seen: list = field(default_factory=list)

    def validate(self, model):
        if not any(torch.equal(flat(model), weights) for weights in self.seen):
            self.seen.append(flat(model))  # after a break a point may come once more
        return {"error": [3.0, 1.0, 2.0][len(self.seen) - 1]}


@pytest.mark.parametrize("cut", [3, 5, None])
def test_the_best_weights_are_kept_over_the_end_and_over_breaks(cut, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "CHECKPOINT_EVERY_S", -1)
    task, best = Scripted(train=TASK.train, held_out=TASK.held_out), begin(seed=9)
    how = {"points": POINTS, "checkpoint": tmp_path / "c.safetensors", "best": best}
    if cut is not None:
        begun = train_model(task, begin(), PLAN, **how)
        for _ in range(cut + 1):  # the checkpoint is written when control comes back
            next(begun)
        begun.close()
        best.load_state_dict(begin(seed=9).state_dict())
    *_, state = train_model(task, begin(), PLAN, **how)
    assert state.best == {"error": 1.0}
    assert state.curve["error"] == [3.0, 1.0, 2.0]
    assert torch.equal(flat(best), task.seen[1])


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_training_goes_on_from_its_checkpoint_to_the_same_bits(
    accumulation_steps, tmp_path, monkeypatch
):
    monkeypatch.setattr(engine, "CHECKPOINT_EVERY_S", -1)
    plan, path = replace(PLAN, accumulation_steps=accumulation_steps), tmp_path / "c.safetensors"
    whole, state = trained(plan)
    begun = train_model(TASK, begin(), plan, points=POINTS, checkpoint=path)
    for _ in range(4):
        next(begun)
    begun.close()
    model, rest = begin(), State()
    steps = [one.step for one in train_model(TASK, model, plan, points=POINTS, state=rest,
                                             checkpoint=path)]  # fmt: skip
    assert steps == [4, 5, 6]
    assert torch.equal(flat(model), flat(whole))
    assert (rest.curve, rest.loss_sum, rest.tokens_seen) == (
        state.curve, state.loss_sum, state.tokens_seen)  # fmt: skip
    monkeypatch.setattr(engine.torch, "get_num_threads", lambda: 7)
    with pytest.raises(AttnlabError, match=r"begun with --threads 1, and this process has 7"):
        next(train_model(TASK, begin(), plan, checkpoint=path))


# The mean of the weights at the last points


@pytest.mark.parametrize("n_averaged", [1, 2, 3])
def test_a_model_ends_with_the_mean_of_its_weights_at_the_last_points(n_averaged):
    plain, weights = begin(), {}
    for usual in train_model(TASK, plain, PLAN, points=POINTS):
        weights[usual.step] = flat(plain)
    model, state = trained(replace(PLAN, n_averaged=n_averaged))
    mean = torch.stack([weights[step] for step in (2, 4, 6)[-n_averaged:]]).mean(0)
    torch.testing.assert_close(flat(model), mean, rtol=0, atol=1e-6)
    before, last = state.curve["loss_nats"][:-1], state.curve["loss_nats"][-1]
    assert before == usual.curve["loss_nats"][:-1]
    assert last == TASK.validate(model)["loss_nats"]


@pytest.mark.parametrize("cut", [3, 4, 5, 6])
def test_a_mean_of_weights_goes_on_from_a_checkpoint_to_the_same_bits(cut, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "CHECKPOINT_EVERY_S", -1)
    plan = replace(PLAN, n_averaged=2)
    how = {"points": POINTS, "checkpoint": tmp_path / "c.safetensors"}
    whole, state = trained(plan)
    begun = train_model(TASK, begin(), plan, **how)
    for _ in range(cut):
        next(begun)
    with suppress(StopIteration):  # the checkpoint is written when control comes back
        next(begun)
    begun.close()
    model, rest = begin(seed=9), State()
    list(train_model(TASK, model, plan, state=rest, **how))
    assert torch.equal(flat(model), flat(whole))
    assert rest.curve == state.curve


@pytest.mark.parametrize("points", [{6}, {2, 4}, {0, 6}])
def test_a_mean_of_weights_at_points_that_there_are_not_is_refused(points):
    message = f"n_averaged=2 takes the weights at the last points .* there are {len(points)} "
    with pytest.raises(AttnlabError, match=message):
        next(train_model(TASK, begin(), replace(PLAN, n_averaged=2), points=points))


@pytest.mark.parametrize("n_steps", [1, 2, 8, 930])
def test_a_curve_ends_with_the_last_step(n_steps):
    early, even = steps_dense_early(n_steps), steps_every(50, n_steps)
    assert max(early) == max(even) == n_steps
    assert min(early) == 1
    assert min(even) == min(50, n_steps)
