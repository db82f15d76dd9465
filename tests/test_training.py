"""Training: the loop, the order of windows, held-out scores, checkpoints."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnlab.config import ModelConfig, TrainConfig
from attnlab.errors import AttnlabError, CheckpointError, DivergenceError
from attnlab.mixers import list_mixers
from attnlab.models import LanguageModel
from attnlab.seeding import numpy_generator, torch_generator
from attnlab.sources import markov_chain
from attnlab.training import (
    WindowBatches,
    build_optimizer,
    evaluate,
    evaluate_documents,
    learning_rate,
    load_model,
    save_model,
    train_steps,
)
from attnlab.training.checkpoint import (
    load_checkpoint,
    read_tensors,
    save_checkpoint,
)
from attnlab.training.scores import pool

CONFIG = ModelConfig(vocab_size=7, context_len=5, d_model=8, n_layers=1, n_heads=2)


def documents(*lengths, vocab_size=7):
    random = numpy_generator(0, "data")
    return [random.integers(0, vocab_size, n) for n in lengths]


def model_for(seed=0, **changes):
    config = ModelConfig(**{**CONFIG.to_dict(), "d_ff": None, **changes})
    return LanguageModel(config, generator=torch_generator(seed, "init"))


def batches_for(seed=0):
    return WindowBatches(documents(90, 41), context_len=5, batch_size=4, seed=seed)


@pytest.mark.parametrize("mixer", ["attention", "she", "he", "we", "me"])
def test_a_small_model_reaches_the_source_on_a_ring(mixer):
    source = markov_chain("ring", n_states=5, stay=0.3)
    train = WindowBatches([source.sample(20_000, seed=1)], context_len=8, batch_size=16, seed=0)
    test = source.sample(4_097, seed=1, stream="test")
    config = ModelConfig(mixer=mixer, vocab_size=5, context_len=8, d_model=16, n_layers=1)
    model = LanguageModel(config, generator=torch_generator(0, "init"))
    plan = TrainConfig(n_steps=150, batch_size=16, lr=1e-2, warmup_steps=10)
    for _ in train_steps(model, train.starting_at(0), config=plan):
        pass
    windows = np.stack([test[s : s + 9] for s in range(0, 4_096, 8)])
    gap = evaluate(model, test).nats_per_token - source.oracle_nats(windows)
    assert -0.005 < gap < 0.05


def test_the_loop_hands_back_a_log_after_every_step():
    plan = TrainConfig(n_steps=3, batch_size=4, warmup_steps=2, lr=0.01)
    logs = list(train_steps(model_for(), batches_for().starting_at(0), config=plan))
    assert [log.step for log in logs] == [1, 2, 3]
    assert [log.tokens_seen for log in logs] == [20, 40, 60]
    assert [log.lr for log in logs] == [learning_rate(s, plan) for s in range(3)]
    assert all(log.grad_norm > 0 for log in logs)


def test_the_loop_ends_with_its_batches():
    plan = TrainConfig(n_steps=100, batch_size=4)
    few = itertools.islice(batches_for().starting_at(0), 2)
    assert len(list(train_steps(model_for(), few, config=plan))) == 2


def test_accumulated_steps_equal_one_large_step():
    together, apart = model_for(), model_for()
    inputs, targets = batches_for()[0]
    halves = [(inputs[:2], targets[:2]), (inputs[2:], targets[2:])]
    options = {"n_steps": 1, "batch_size": 2, "warmup_steps": 0}
    (one,) = train_steps(together, [(inputs, targets)], config=TrainConfig(**options))
    (two,) = train_steps(apart, halves, config=TrainConfig(**options, accumulation_steps=2))
    assert one.tokens_seen == two.tokens_seen
    assert one.loss_nats == pytest.approx(two.loss_nats, rel=1e-6)
    assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-5)


@given(warmup=st.integers(0, 20), n_steps=st.integers(1, 50), low=st.floats(0, 1))
def test_the_rate_rises_to_its_peak_and_never_leaves_its_bounds(warmup, n_steps, low):
    plan = TrainConfig(n_steps=n_steps, warmup_steps=warmup, lr=1.0, min_lr_fraction=low)
    rates = [learning_rate(step, plan) for step in range(n_steps)]
    assert all(0 < rate <= 1 or low == 0 for rate in rates)
    falling = rates[warmup:]
    assert falling == sorted(falling, reverse=True)
    assert all(rate >= low - 1e-12 for rate in falling)


def test_embeddings_norms_and_biases_are_not_decayed():
    model = model_for(mixer="he")
    decayed = {id(w) for w in build_optimizer(model, TrainConfig()).param_groups[0]["params"]}
    names = {n for n, w in model.named_parameters() if id(w) in decayed}
    assert "blocks.0.mlp.keys.weight" in names
    assert "blocks.0.mixer.lag_weight" in names
    assert not [n for n in names if "embedding" in n or "norm" in n or n.endswith("bias")]


def by_hand(model, loss, plan):
    """Return the weights after the steps of AdamW with clipping, written out."""
    weights = {n: w.detach().clone() for n, w in model.named_parameters()}
    moments = {n: (torch.zeros_like(w), torch.zeros_like(w)) for n, w in weights.items()}
    for step in range(plan.n_steps):
        leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
        total = loss(torch.func.functional_call(model, leaves, (loss.inputs,)))
        grads = dict(zip(leaves, torch.autograd.grad(total, leaves.values()), strict=True))
        norm = torch.stack([g.norm() for g in grads.values()]).norm()
        for n, g in grads.items():
            g = g * min(1.0, plan.max_grad_norm / (float(norm) + 1e-6))
            m, v = (
                beta * old + (1 - beta) * new
                for beta, old, new in zip(
                    (plan.beta_1, plan.beta_2), moments[n], (g, g**2), strict=True
                )
            )
            moments[n] = m, v
            m, v = m / (1 - plan.beta_1 ** (step + 1)), v / (1 - plan.beta_2 ** (step + 1))
            is_spared = weights[n].ndim < 2 or "embedding" in n
            decay = 0.0 if is_spared else plan.weight_decay
            lr = learning_rate(step, plan)
            weights[n] = weights[n] * (1 - lr * decay) - lr * m / (v.sqrt() + 1e-8)
    return weights


@pytest.mark.parametrize(
    "changes",
    [
        {"max_grad_norm": 1e9, "weight_decay": 0.0},
        {"max_grad_norm": 0.01, "weight_decay": 0.5, "beta_1": 0.5, "beta_2": 0.7},
        {"max_grad_norm": 1e9, "weight_decay": 0.5, "beta_2": 0.999},
    ],
)
def test_a_step_is_adamw_with_clipping_as_written_in_the_papers(changes):
    plan = TrainConfig(n_steps=4, batch_size=4, lr=0.05, warmup_steps=2, **changes)
    model, twin = model_for().double(), model_for().double()
    inputs, targets = batches_for()[0]

    def loss(logits):
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    loss.inputs = inputs
    for _ in train_steps(model, itertools.repeat((inputs, targets)), config=plan):
        pass
    expected = by_hand(twin, loss, plan)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, expected[name], rtol=1e-6, atol=1e-6)


def test_the_cosine_is_at_its_peak_after_the_rise_and_nearly_low_at_the_end():
    plan = TrainConfig(n_steps=14, warmup_steps=4, lr=1.0, min_lr_fraction=0.2)
    rates = [learning_rate(step, plan) for step in range(14)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[9] == pytest.approx(0.6)  # half of the fall from 1 to 0.2
    assert rates[13] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * 9 / 10)) / 2)


def test_a_loss_that_is_no_number_stops_the_training_with_a_cure():
    model = model_for()
    with torch.no_grad():
        model.norm.weight[0] = torch.nan
    steps = train_steps(model, batches_for().starting_at(0), config=TrainConfig(batch_size=4))
    with pytest.raises(DivergenceError, match=r"step 1: loss nan.*Halve lr"):
        next(steps)


def test_every_mixer_gets_the_same_batches_at_the_same_seed():
    one, same, other = batches_for(1), batches_for(1), batches_for(2)
    for index in (0, 3, one.n_batches + 1):
        assert torch.equal(one[index][0], same[index][0])
    assert any(not torch.equal(one[i][0], other[i][0]) for i in range(3))


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_a_pass_reads_every_window_once_and_crosses_no_document(lengths, seed):
    texts = [1000 * number + np.arange(n) for number, n in enumerate(lengths)]
    n_windows = sum(max(0, (n - 1) // 5) for n in lengths)
    if n_windows == 0:
        with pytest.raises(AttnlabError, match="Use a smaller batch_size"):
            WindowBatches(texts, context_len=5, batch_size=1, seed=seed)
        return
    batches = WindowBatches(texts, context_len=5, batch_size=1, seed=seed)
    starts = []
    for index in range(batches.n_batches):
        inputs, targets = batches[index]
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        assert torch.equal(targets - inputs, torch.ones_like(inputs))
        starts.append(int(inputs[0, 0]))
    assert len(set(starts)) == n_windows
    ends = sorted(starts)
    assert all(b - a >= 5 for a, b in itertools.pairwise(ends))


def test_batches_of_a_resumed_run_are_those_of_an_undisturbed_one():
    late = list(itertools.islice(batches_for().starting_at(4), 5))
    for index, (inputs, _) in enumerate(late, start=4):
        assert torch.equal(inputs, batches_for()[index][0])


@pytest.mark.parametrize("length", [2, 5, 6, 7, 31])
def test_held_out_loss_predicts_every_token_once(length):
    model, document = model_for(), documents(length)[0]
    score = evaluate(model, document, batch_size=2, token_lengths=np.arange(7))
    total = 0.0
    for start in range(0, length - 1, 5):
        window = torch.from_numpy(document[start : start + 6])
        with torch.no_grad():
            chances = model(window[None, :-1])[0].log_softmax(-1)
        total -= float(chances.gather(-1, window[1:, None]).sum())
    assert score.n_tokens == length - 1
    assert score.total_nats == pytest.approx(total, rel=1e-5)
    assert score.n_bytes == document[1:].sum()
    assert score.bits_per_byte == pytest.approx(total / math.log(2) / score.n_bytes, rel=1e-5)


def test_scores_pool_token_by_token():
    model, texts = model_for(), documents(30, 9, 1)
    scores = evaluate_documents(model, texts)
    assert len(scores) == 2
    pooled = pool(scores)
    assert pooled.n_tokens == 29 + 8
    assert pooled.nats_per_token == pytest.approx(sum(s.total_nats for s in scores) / 37)


def test_evaluation_leaves_the_training_mode_as_it_was():
    model = model_for(dropout=0.5).train()
    one, two = (evaluate(model, documents(30)[0]).total_nats for _ in range(2))
    assert one == two
    assert model.training


@pytest.mark.parametrize("mixer", list_mixers())
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_resumed_from_its_checkpoint_is_bit_equal(mixer, dropout, tmp_path):
    plan = TrainConfig(n_steps=6, batch_size=4, warmup_steps=2, seed=3)
    whole, first, second = (model_for(mixer=mixer, dropout=dropout) for _ in range(3))
    losses = [
        log.loss_nats for log in train_steps(whole, batches_for().starting_at(0), config=plan)
    ]
    optimizer = build_optimizer(first, plan)
    begun = train_steps(first, batches_for().starting_at(0), config=plan, optimizer=optimizer)
    before = [next(begun).loss_nats for _ in range(3)]
    path = tmp_path / "run.safetensors"
    save_checkpoint(path, model=first, optimizer=optimizer, facts={"step": 3, "sum": 1 / 3})

    optimizer = build_optimizer(second, plan)
    facts = load_checkpoint(path, model=second, optimizer=optimizer)
    assert facts == {"step": 3, "sum": 1 / 3}
    rest = train_steps(
        second, batches_for().starting_at(3), config=plan, optimizer=optimizer, first_step=3
    )
    assert before + [log.loss_nats for log in rest] == losses
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("mixer", ["attention", "she"])
def test_a_saved_model_comes_back(mixer, tmp_path):
    model, path = model_for(mixer=mixer), tmp_path / "model.safetensors"
    save_model(path, model=model, note="kept")
    loaded, facts = load_model(path)
    assert facts["note"] == "kept"
    assert loaded.config == model.config
    tokens = torch.arange(5)[None]
    assert torch.equal(loaded(tokens), model.eval()(tokens))
    assert list(tmp_path.iterdir()) == [path]


def test_bfloat16_halves_the_file_and_keeps_the_loss(tmp_path):
    model = model_for(d_model=32)
    save_model(tmp_path / "full.st", model=model)
    save_model(tmp_path / "half.st", model=model, dtype=torch.bfloat16)
    full, half = (load_model(tmp_path / name)[0] for name in ("full.st", "half.st"))
    assert (tmp_path / "half.st").stat().st_size < 0.6 * (tmp_path / "full.st").stat().st_size
    document = documents(200)[0]
    difference = evaluate(full, document).nats_per_token - evaluate(half, document).nats_per_token
    assert abs(difference) < 0.01


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "other"])
def test_a_damaged_checkpoint_is_refused_with_the_next_step(damage, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, model=model_for())
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[:-5])
    elif damage == "flip":
        data[-3] ^= 1
        path.write_bytes(data)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"Delete it and run again|did not write it"):
        read_tensors(path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    one, other = model_for(), model_for(d_model=16)
    save_checkpoint(path, model=one, optimizer=build_optimizer(one, TrainConfig()), facts={})
    with pytest.raises(CheckpointError, match=r"belongs to another model: \w"):
        load_checkpoint(path, model=other, optimizer=build_optimizer(other, TrainConfig()))
    with pytest.raises(CheckpointError, match="There is no file"):
        load_model(tmp_path / "missing.safetensors")
    with pytest.raises(CheckpointError, match="no model configuration"):
        load_model(path)


def test_bf16_training_follows_fp32():
    losses = []
    for precision in ("fp32", "bf16"):
        plan = TrainConfig(n_steps=20, batch_size=4, lr=0.01, precision=precision)
        logs = list(train_steps(model_for(mixer="she"), batches_for().starting_at(0), config=plan))
        losses.append(logs[-1].loss_nats)
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
