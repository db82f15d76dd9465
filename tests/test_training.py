"""Training: the step, the schedule, the order of batches, checkpoints; models of both kinds."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import (
    documents,
    model_for,
    pair_batches,
    some_pairs,
    translator_for,
    window_batches,
)

from attnlab.config import BOS, EOS, ModelConfig, TrainConfig, TranslatorConfig
from attnlab.errors import AttnlabError, CheckpointError, DivergenceError
from attnlab.mixers import list_mixers
from attnlab.models import LanguageModel, Translator
from attnlab.seeding import torch_generator
from attnlab.sources import markov_chain, translation_source
from attnlab.training import (
    PairBatches,
    WindowBatches,
    build_optimizer,
    collate_pairs,
    evaluate,
    evaluate_translation,
    learning_rate,
    load_model,
    load_translator,
    save_model,
    train_steps,
    translate_all,
)
from attnlab.training.batches import cut_by_tokens, pair_lengths
from attnlab.training.checkpoint import (
    load_checkpoint,
    read_tensors,
    save_checkpoint,
    write_tensors,
)

SMOOTHED = {"schedule": "inverse_sqrt", "label_smoothing": 0.1}
KINDS = {  # a model, its batches, settings
    **{
        mixer: (
            lambda mixer=mixer, **changes: model_for(mixer=mixer, **changes),
            window_batches,
            {},
        )
        for mixer in list_mixers()
    },
    "translator": (translator_for, pair_batches, SMOOTHED),
}
BOTH_KINDS = pytest.mark.parametrize(
    ("build", "batches", "how"), [KINDS["she"], KINDS["translator"]], ids=["model", "translator"]
)


# Learning


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


def test_a_small_translator_learns_the_toy_languages():
    source = translation_source(n_nouns=6, n_verbs=4, n_adjectives=4, n_prepositions=0)
    train, test = source.sample_pairs(6000), source.sample_pairs(200, stream="test")
    config = TranslatorConfig(
        source_vocab_size=source.vocab_size, target_vocab_size=source.vocab_size, d_model=32,
        n_heads=4, n_encoder_layers=1, n_decoder_layers=1, d_ff=64, dropout=0.0,
        max_len=source.max_target_len + 1, position="learned",
    )  # fmt: skip
    model = Translator(config, generator=torch_generator(0, "init"))
    batches = PairBatches(train, max_tokens=800, seed=0)
    plan = TrainConfig(n_steps=450, lr=1e-2, warmup_steps=30)
    for _ in train_steps(model, batches.starting_at(0), config=plan):
        pass
    score = evaluate_translation(model, test, vocabulary=source, n_resamples=50)
    assert score.exact_match > 0.9
    assert score.bleu.score > 97
    assert score.forced.accuracy > 0.98
    assert score.forced.loss_nats < 0.1
    # greedy and beam agree where the model is sure
    beamed = translate_all(model, [words for words, _ in test], beam_size=3)
    right = [np.array_equal(a, b) for a, (_, b) in zip(beamed, test, strict=True)]
    assert np.mean(right) > 0.9


# The step


@BOTH_KINDS
def test_the_loop_hands_back_a_log_after_every_step(build, batches, how):
    plan = TrainConfig(n_steps=3, batch_size=4, warmup_steps=2, lr=0.01, **how)
    model = build()
    logs = list(train_steps(model, batches().starting_at(0), config=plan))
    read = [getattr(model, "n_predictions", torch.numel)(batches()[i][1]) for i in range(3)]
    assert [log.step for log in logs] == [1, 2, 3]
    assert [log.tokens_seen for log in logs] == list(itertools.accumulate(read))
    assert [log.lr for log in logs] == [learning_rate(s, plan) for s in range(3)]
    assert all(log.grad_norm > 0 for log in logs)
    few = itertools.islice(batches().starting_at(0), 2)  # the loop ends with its batches
    assert len(list(train_steps(build(), few, config=plan))) == 2


def by_hand(model, loss, inputs, plan):
    """Return the weights after the steps of AdamW with clipping, written out."""
    weights = {n: w.detach().clone() for n, w in model.named_parameters()}
    moments = {n: (torch.zeros_like(w), torch.zeros_like(w)) for n, w in weights.items()}
    betas = plan.beta_1, plan.beta_2
    for step in range(plan.n_steps):
        leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
        total = loss(torch.func.functional_call(model, leaves, (inputs,)))
        grads = dict(zip(leaves, torch.autograd.grad(total, leaves.values()), strict=True))
        norm = float(torch.stack([g.norm() for g in grads.values()]).norm())
        lr = learning_rate(step, plan)
        for n, g in grads.items():
            g = g * min(1.0, plan.max_grad_norm / (norm + 1e-6))
            parts = zip(betas, moments[n], (g, g**2), strict=True)
            moments[n] = tuple(beta * old + (1 - beta) * new for beta, old, new in parts)
            m, v = (x / (1 - b ** (step + 1)) for x, b in zip(moments[n], betas, strict=True))
            is_spared = weights[n].ndim < 2 or "embedding" in n
            decay = 0.0 if is_spared else plan.weight_decay
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
    inputs, targets = window_batches()[0]

    def loss(logits):
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    for _ in train_steps(model, itertools.repeat((inputs, targets)), config=plan):
        pass
    expected = by_hand(twin, loss, inputs, plan)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, expected[name], rtol=1e-6, atol=1e-6)


def test_accumulated_steps_weigh_every_token_alike():
    inputs, targets = window_batches()[0]
    halves = [(inputs[:2], targets[:2]), (inputs[2:], targets[2:])]
    pairs = some_pairs([(2, 1), (3, 6), (1, 2)])
    few_many = [collate_pairs(pairs[:1]), collate_pairs(pairs[1:])]
    for build, whole, parts, n_tokens, how in (
        (model_for, (inputs, targets), halves, 20, {}),
        (translator_for, collate_pairs(pairs), few_many, 1 + 6 + 2 + 3, SMOOTHED),  # words and EOS
    ):
        plan = {"n_steps": 1, "batch_size": 2, "warmup_steps": 0, **how}
        (one,) = train_steps(build(), [whole], config=TrainConfig(**plan))
        (two,) = train_steps(build(), parts, config=TrainConfig(**plan, accumulation_steps=2))
        assert one.tokens_seen == two.tokens_seen == n_tokens
        assert one.loss_nats == pytest.approx(two.loss_nats, rel=1e-5)
        assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-4)


@pytest.mark.parametrize(
    ("model", "decayed", "spared"),
    [
        (
            model_for(mixer="he"),
            {"blocks.0.mlp.keys.weight", "blocks.0.mixer.lag_weight"},
            ("embedding", "norm", "bias"),
        ),
        (
            translator_for(position="learned", tie_embeddings=False),
            {"decoder.1.cross_attention.key.weight"},
            ("embedding", "position", "norm", "head", "bias"),
        ),
    ],
    ids=["model", "translator"],
)
def test_embeddings_positions_norms_and_biases_are_not_decayed(model, decayed, spared):
    found = {id(w) for w in build_optimizer(model, TrainConfig()).param_groups[0]["params"]}
    names = {name for name, weight in model.named_parameters() if id(weight) in found}
    assert decayed <= names
    assert not [name for name in names if any(part in name for part in spared)]


def test_a_loss_that_is_no_number_stops_the_training_with_a_cure():
    model = model_for()
    with torch.no_grad():
        model.norm.weight[0] = torch.nan
    steps = train_steps(model, window_batches().starting_at(0), config=TrainConfig(batch_size=4))
    with pytest.raises(DivergenceError, match=r"step 1: loss nan.*Halve lr"):
        next(steps)
    model = model_for()
    model.norm.weight.register_hook(
        lambda g: g.clone().index_fill_(0, torch.tensor([0]), torch.nan)
    )
    steps = train_steps(model, window_batches().starting_at(0), config=TrainConfig(batch_size=4))
    with pytest.raises(DivergenceError, match=r"First weight with a bad gradient: norm\.weight"):
        next(steps)


def test_smoothing_is_refused_where_the_loss_has_none():
    with pytest.raises(AttnlabError, match=r"label_smoothing=0\.1 is for translators"):
        next(train_steps(model_for(), [], config=TrainConfig(label_smoothing=0.1)))


def test_a_smoothed_training_reports_the_plain_loss_and_minimises_the_smoothed_one():
    model, config = translator_for(), TrainConfig(n_steps=1, label_smoothing=0.3)
    batch = next(pair_batches().starting_at(0))
    plain = model.loss(*batch).item()
    smoothed, _ = model.smoothed_and_plain_loss(*batch, label_smoothing=0.3)
    wanted = torch.autograd.grad(smoothed, model.head.weight)[0]
    (log,) = train_steps(model, [batch], config=config)
    assert log.loss_nats == pytest.approx(plain)
    assert abs(smoothed.item() - plain) > 1e-3
    torch.testing.assert_close(
        model.head.weight.grad, wanted * min(1, config.max_grad_norm / log.grad_norm)
    )


def test_bf16_training_follows_fp32():
    losses = []
    for precision in ("fp32", "bf16"):
        plan = TrainConfig(n_steps=20, batch_size=4, lr=0.01, precision=precision)
        batches = window_batches().starting_at(0)
        logs = list(train_steps(model_for(mixer="she"), batches, config=plan))
        losses.append(logs[-1].loss_nats)
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]


# The schedule


@given(warmup=st.integers(0, 20), n_steps=st.integers(1, 50), low=st.floats(0, 1))
def test_the_rate_rises_to_its_peak_and_never_leaves_its_bounds(warmup, n_steps, low):
    plan = TrainConfig(n_steps=n_steps, warmup_steps=warmup, lr=1.0, min_lr_fraction=low)
    rates = [learning_rate(step, plan) for step in range(n_steps)]
    assert all(0 < rate <= 1 or low == 0 for rate in rates)
    falling = rates[warmup:]
    assert falling == sorted(falling, reverse=True)
    assert all(rate >= low - 1e-12 for rate in falling)


def test_the_cosine_is_at_its_peak_after_the_rise_and_low_at_the_last_step():
    plan = TrainConfig(n_steps=15, warmup_steps=4, lr=1.0, min_lr_fraction=0.2)
    rates = [learning_rate(step, plan) for step in range(15)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[9] == pytest.approx(0.6)  # half of the fall from 1 to 0.2
    assert rates[14] == pytest.approx(0.2)
    assert learning_rate(99, plan) == pytest.approx(0.2)  # beyond the last step it rises no more


@given(warmup=st.integers(0, 20), step=st.integers(0, 500))
def test_the_inverse_square_root_rises_to_its_peak_and_falls_forever(warmup, step):
    plan = TrainConfig(lr=1.0, warmup_steps=warmup, schedule="inverse_sqrt", n_steps=1)
    n, w = step + 1, max(1, warmup)
    # arXiv:1706.03762, section 5.3, divided by its value at the peak, n = w
    expected = min(n**-0.5, n * w**-1.5) / w**-0.5
    assert learning_rate(step, plan) == pytest.approx(expected)


def test_options_that_are_not_used_leave_the_digest_alone():
    plain = TrainConfig()
    assert not {"schedule", "label_smoothing", "n_averaged"} & set(plain.to_dict())
    for option, value in {**SMOOTHED, "n_averaged": 2}.items():
        changed = TrainConfig(**{option: value})
        assert changed.digest != plain.digest
        assert TrainConfig.from_dict(changed.to_dict()) == changed


# Batches


@pytest.mark.parametrize("batches", [window_batches, pair_batches])
def test_batches_depend_on_the_seed_and_the_index_alone(batches):
    one, same, other = (batches(seed) for seed in (1, 1, 2))
    list(itertools.islice(one.starting_at(0), 5))
    for index in (0, 3, one.n_batches + 1):
        assert all(map(torch.equal, one[index], same[index]))
    assert any(not torch.equal(one[i][0], other[i][0]) for i in range(3))
    assert any(not torch.equal(one[i][0], one[one.n_batches + i][0]) for i in range(3))
    late = itertools.islice(same.starting_at(4), 5)
    assert all(torch.equal(found[0], one[i][0]) for i, found in enumerate(late, start=4))


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_a_pass_reads_every_window_once_and_crosses_no_document(lengths, seed):
    texts = [1000 * number + np.arange(n) for number, n in enumerate(lengths)]
    n_windows = sum(max(0, (n - 1) // 5) for n in lengths)
    how = {"context_len": 5, "batch_size": 1, "seed": seed}
    if n_windows == 0:
        with pytest.raises(AttnlabError, match="Use a smaller batch_size"):
            WindowBatches(texts, **how)
        return
    batches = WindowBatches(texts, **how)
    starts = []
    for index in range(batches.n_batches):
        inputs, targets = batches[index]
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        assert torch.equal(targets - inputs, torch.ones_like(inputs))
        starts.append(int(inputs[0, 0]))
    assert len(set(starts)) == n_windows
    assert all(b - a >= 5 for a, b in itertools.pairwise(sorted(starts)))


LENGTHS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=40)


@given(lengths=LENGTHS, max_tokens=st.integers(1, 60), seed=st.integers(0, 9))
def test_a_pass_reads_every_pair_once_within_the_limit(lengths, max_tokens, seed):
    pairs = [(np.full(s, 5), np.full(t, 100 + i)) for i, (s, t) in enumerate(lengths)]
    batches = PairBatches(pairs, max_tokens=max_tokens, seed=seed)
    for n_pass in range(2):
        found = []
        for i in range(batches.n_batches):
            source, target = batches[n_pass * batches.n_batches + i]
            columns = max(source.shape[1], target.shape[1] - 1)
            assert len(source) * columns <= max_tokens or len(source) == 1
            assert (target[:, 0] == BOS).all()
            assert ((target == EOS).sum(1) == 1).all()
            rows = zip(source, target, strict=True)
            found += [(int((s == 5).sum()), *t[t >= 100].tolist()) for s, t in rows]
        expected = [(s, *[100 + i] * t) for i, (s, t) in enumerate(lengths)]
        assert sorted(found) == sorted(expected)


def test_pairs_of_like_length_go_together():
    pairs = translation_source(n_clauses=3).sample_pairs(3000)
    batches, lengths = PairBatches(pairs, max_tokens=600, seed=0), pair_lengths(pairs)
    cuts = cut_by_tokens(lengths, max_tokens=600)  # in the order they came
    n_read = sum((end - start) * lengths[start:end].max(0).sum() for start, end in cuts)
    sides = [batches[i] for i in range(batches.n_batches)]
    share = 1 - lengths.sum() / sum(s.numel() + t[:, 1:].numel() for s, t in sides)
    assert 0 < share < 0.1
    assert share < (1 - lengths.sum() / n_read) / 3


def test_batches_of_nothing_are_refused():
    with pytest.raises(AttnlabError, match="no sentence pair to train on"):
        PairBatches([], max_tokens=10, seed=0)
    with pytest.raises(AttnlabError, match="max_tokens=0"):
        PairBatches(some_pairs([(1, 1)]), max_tokens=0, seed=0)


# Files


@pytest.mark.parametrize(("build", "batches", "how"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_resumed_from_its_checkpoint_is_bit_equal(build, batches, how, dropout, tmp_path):
    plan = TrainConfig(n_steps=6, batch_size=4, warmup_steps=2, seed=3, **how)
    whole, first, second = (build(dropout=dropout) for _ in range(3))
    losses = [log.loss_nats for log in train_steps(whole, batches().starting_at(0), config=plan)]
    optimizer = build_optimizer(first, plan)
    begun = train_steps(first, batches().starting_at(0), config=plan, optimizer=optimizer)
    before = [next(begun).loss_nats for _ in range(3)]
    path = tmp_path / "run.safetensors"
    save_checkpoint(path, model=first, optimizer=optimizer, facts={"step": 3, "sum": 1 / 3})

    optimizer = build_optimizer(second, plan)
    facts = load_checkpoint(path, model=second, optimizer=optimizer)
    assert facts == {"step": 3, "sum": 1 / 3}
    options = {"config": plan, "optimizer": optimizer, "first_step": 3}
    rest = train_steps(second, batches().starting_at(3), **options)
    assert before + [log.loss_nats for log in rest] == losses
    assert all(map(torch.equal, whole.parameters(), second.parameters()))


@pytest.mark.parametrize(
    ("build", "load", "batches"),
    [
        *((KINDS[mixer][0], load_model, window_batches) for mixer in ("attention", "she")),
        (translator_for, load_translator, pair_batches),
    ],
)
def test_a_saved_model_comes_back(build, load, batches, tmp_path):
    model, path = build(seed=3), tmp_path / "model.safetensors"
    save_model(path, model=model, note="kept")
    loaded, facts = load(path)
    assert facts["note"] == "kept"
    assert loaded.config == model.config
    assert not loaded.training
    batch = batches()[0]
    batch = batch if load is load_translator else batch[:1]
    assert torch.equal(loaded(*batch), model.eval()(*batch))
    assert list(tmp_path.iterdir()) == [path]


def test_equal_facts_are_written_equally_in_whatever_order(tmp_path):
    written = []
    for facts in ({"a": 1, "b": 2}, {"b": 2, "a": 1}):
        write_tensors(tmp_path / "file", {"w": torch.ones(3)}, facts=facts)
        data = (tmp_path / "file").read_bytes()
        written.append(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]))
    assert written[0] == written[1]


def test_bfloat16_halves_the_file_and_keeps_the_loss(tmp_path):
    model, document = model_for(d_model=32), documents(200)[0]
    sizes, losses = {}, {}
    for dtype in (torch.float32, torch.bfloat16):
        path = tmp_path / str(dtype)
        save_model(path, model=model, dtype=dtype)
        sizes[dtype] = path.stat().st_size
        losses[dtype] = evaluate(load_model(path)[0], document).nats_per_token
    assert sizes[torch.bfloat16] < 0.6 * sizes[torch.float32]
    assert abs(losses[torch.float32] - losses[torch.bfloat16]) < 0.01


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "other"])
def test_a_damaged_checkpoint_is_refused_with_the_next_step(damage, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_model(path, model=model_for())
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    damaged = {"truncate": data[:-5], "flip": data, "empty": b""}
    if damage == "other":
        save_file({"a": torch.zeros(1)}, path)
    else:
        path.write_bytes(damaged[damage])
    with pytest.raises(CheckpointError, match=r"Delete it and run again|did not write it"):
        read_tensors(path)


def test_a_file_of_another_model_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    one, other = model_for(), model_for(d_model=16)
    save_checkpoint(path, model=one, optimizer=build_optimizer(one, TrainConfig()), facts={})
    with pytest.raises(CheckpointError, match=r"belongs to another model: \w"):
        load_checkpoint(path, model=other, optimizer=build_optimizer(other, TrainConfig()))
    with pytest.raises(CheckpointError, match="There is no file"):
        load_model(tmp_path / "missing.safetensors")
    with pytest.raises(CheckpointError, match="no model configuration"):
        load_model(path)
    save_model(path, model=one)
    with pytest.raises(CheckpointError, match="holds no translator"):
        load_translator(path)
