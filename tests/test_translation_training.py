"""Training a translator: batches by length, the loss, resuming, scores, files."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnlab.config import BOS, EOS, ModelConfig, TrainConfig, TranslatorConfig
from attnlab.errors import AttnlabError, CheckpointError
from attnlab.models import LanguageModel, Translator
from attnlab.seeding import torch_generator
from attnlab.sources import translation_source
from attnlab.training import (
    PairBatches,
    build_optimizer,
    collate_pairs,
    evaluate_forced,
    evaluate_translation,
    learning_rate,
    load_translator,
    save_model,
    train_steps,
    translate_all,
)
from attnlab.training.batches import cut_by_tokens, pair_lengths
from attnlab.training.checkpoint import load_checkpoint, save_checkpoint

CONFIG = TranslatorConfig(
    source_vocab_size=13,
    target_vocab_size=11,
    d_model=12,
    n_heads=3,
    n_encoder_layers=2,
    n_decoder_layers=2,
    d_ff=17,
    dropout=0.0,
    max_len=9,
)


def translator_for(seed=0, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return Translator(config, generator=torch_generator(seed, "init")).eval()


# batches


def some_pairs(lengths):
    return [(np.full(s, 5), np.full(t, 6)) for s, t in lengths]


LENGTHS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=40)


@given(lengths=LENGTHS, max_tokens=st.integers(1, 60), seed=st.integers(0, 9))
def test_a_pass_reads_every_pair_once_within_the_limit(lengths, max_tokens, seed):
    pairs = [(np.full(s, 5), np.full(t, 100 + i)) for i, (s, t) in enumerate(lengths)]
    batches = PairBatches(pairs, max_tokens=max_tokens, seed=seed)
    for n_pass in range(2):
        n_found = 0
        for i in range(batches.n_batches):
            source, target = batches[n_pass * batches.n_batches + i]
            n_found += len(source)
            columns = max(source.shape[1], target.shape[1] - 1)
            assert len(source) * columns <= max_tokens or len(source) == 1
            assert (target[:, 0] == BOS).all()
            assert ((target == EOS).sum(1) == 1).all()
        assert n_found == len(pairs)
    assert 0 <= batches.padding_share < 1


def test_batches_depend_on_the_seed_and_the_index_alone():
    pairs = translation_source().sample_pairs(300)
    one, same, other = (PairBatches(pairs, max_tokens=100, seed=s) for s in (1, 1, 2))
    list(itertools.islice(one.starting_at(0), 5))
    for index in (0, 3, one.n_batches + 2):
        assert all(map(torch.equal, one[index], same[index]))
    assert any(not torch.equal(one[i][0], other[i][0]) for i in range(5))
    late = list(itertools.islice(same.starting_at(4), 3))
    assert all(torch.equal(late[i][0], one[4 + i][0]) for i in range(3))


def test_pairs_of_like_length_go_together():
    source = translation_source(n_clauses=3)
    pairs = source.sample_pairs(3000)
    batches = PairBatches(pairs, max_tokens=600, seed=0)
    lengths = pair_lengths(pairs)
    cuts = cut_by_tokens(lengths, max_tokens=600)  # in the order they came
    n_read = sum((end - start) * lengths[start:end].max(0).sum() for start, end in cuts)
    assert batches.padding_share < 0.1
    assert batches.padding_share < (1 - lengths.sum() / n_read) / 3


def test_batches_of_nothing_are_refused():
    with pytest.raises(AttnlabError, match="no sentence pair to train on"):
        PairBatches([], max_tokens=10, seed=0)
    with pytest.raises(AttnlabError, match="max_tokens=0"):
        PairBatches(some_pairs([(1, 1)]), max_tokens=0, seed=0)
    with pytest.raises(AttnlabError, match="no sentence pair to score"):
        evaluate_forced(translator_for(), [])


# training


def test_accumulated_steps_weigh_every_token_alike():
    pairs = some_pairs([(2, 1), (3, 6), (1, 2)])
    options = {"n_steps": 1, "warmup_steps": 0, "label_smoothing": 0.1}
    together, apart = translator_for(), translator_for()
    (one,) = train_steps(together, [collate_pairs(pairs)], config=TrainConfig(**options))
    parts = [collate_pairs(pairs[:1]), collate_pairs(pairs[1:])]
    plan = TrainConfig(**options, accumulation_steps=2)
    (two,) = train_steps(apart, parts, config=plan)
    assert one.tokens_seen == two.tokens_seen == (1 + 6 + 2) + 3  # words and EOS
    assert one.loss_nats == pytest.approx(two.loss_nats, rel=1e-5)
    assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_resumed_run_is_bit_equal(dropout, tmp_path):
    pairs = translation_source().sample_pairs(60)
    vocab = {"source_vocab_size": 120, "target_vocab_size": 120, "max_len": 20}
    plan = TrainConfig(n_steps=6, warmup_steps=2, schedule="inverse_sqrt", label_smoothing=0.1)

    def batches(start):
        return PairBatches(pairs, max_tokens=60, seed=0).starting_at(start)

    whole, first, second = (translator_for(dropout=dropout, **vocab) for _ in range(3))
    losses = [log.loss_nats for log in train_steps(whole, batches(0), config=plan)]
    optimizer = build_optimizer(first, plan)
    begun = train_steps(first, batches(0), config=plan, optimizer=optimizer)
    before = [next(begun).loss_nats for _ in range(3)]
    path = tmp_path / "run.safetensors"
    save_checkpoint(path, model=first, optimizer=optimizer, facts={"step": 3})
    optimizer = build_optimizer(second, plan)
    load_checkpoint(path, model=second, optimizer=optimizer)
    rest = train_steps(second, batches(3), config=plan, optimizer=optimizer, first_step=3)
    assert before + [log.loss_nats for log in rest] == losses
    assert all(map(torch.equal, whole.parameters(), second.parameters()))


def test_embeddings_positions_and_norms_are_not_decayed():
    model = translator_for(position="learned", tie_embeddings=False)
    decayed = {id(w) for w in build_optimizer(model, TrainConfig()).param_groups[0]["params"]}
    names = {name for name, weight in model.named_parameters() if id(weight) in decayed}
    assert "decoder.1.cross_attention.key.weight" in names
    wrong = ("embedding", "position", "norm", "head", "bias")
    assert not [name for name in names if any(part in name for part in wrong)]


@given(warmup=st.integers(0, 20), step=st.integers(0, 500))
def test_the_inverse_square_root_rises_to_its_peak_and_falls_forever(warmup, step):
    plan = TrainConfig(lr=1.0, warmup_steps=warmup, schedule="inverse_sqrt", n_steps=1)
    n, w = step + 1, max(1, warmup)
    # arXiv:1706.03762, section 5.3, divided by its value at the peak, n = w
    expected = min(n**-0.5, n * w**-1.5) / w**-0.5
    assert learning_rate(step, plan) == pytest.approx(expected)


def test_options_that_are_not_used_leave_the_digest_alone():
    plain = TrainConfig()
    assert "schedule" not in plain.to_dict()
    assert "label_smoothing" not in plain.to_dict()
    for change in ({"schedule": "inverse_sqrt"}, {"label_smoothing": 0.1}):
        changed = TrainConfig(**change)
        assert changed.digest != plain.digest
        assert TrainConfig.from_dict(changed.to_dict()) == changed


def test_smoothing_is_refused_where_the_loss_has_none():
    plan = TrainConfig(label_smoothing=0.1)
    with pytest.raises(AttnlabError, match=r"label_smoothing=0\.1 is for translators"):
        next(train_steps(LanguageModel(ModelConfig()), [], config=plan))


@torch.no_grad()
def test_forced_scores_are_those_of_the_logits():
    model = translator_for()
    pairs = some_pairs([(3, 2), (1, 5), (7, 1)])
    total, n_right = 0.0, 0
    for source, target in pairs:
        rows = collate_pairs([(source, target)])
        log_p = model(rows[0], rows[1][:, :-1])[0].log_softmax(-1)
        labels = rows[1][0, 1:]
        total -= float(log_p.gather(-1, labels[:, None]).sum())
        n_right += int((log_p.argmax(-1) == labels).sum())
    n_tokens = 2 + 5 + 1 + 3  # words, and EOS of each
    for max_tokens in (1, 100):
        score = evaluate_forced(model, pairs, max_tokens=max_tokens)
        assert score.n_tokens == n_tokens
        assert score.loss_nats == pytest.approx(total / n_tokens, rel=1e-5)
        assert score.accuracy == n_right / n_tokens


def test_a_small_translator_learns_the_toy_languages():
    source = translation_source(n_nouns=6, n_verbs=4, n_adjectives=4, n_prepositions=0)
    train, test = source.sample_pairs(6000), source.sample_pairs(200, stream="test")
    config = TranslatorConfig(
        source_vocab_size=source.vocab_size,
        target_vocab_size=source.vocab_size,
        d_model=32,
        n_heads=4,
        n_encoder_layers=1,
        n_decoder_layers=1,
        d_ff=64,
        dropout=0.0,
        max_len=source.max_target_len + 1,
        position="learned",
    )
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


# files


def test_a_saved_translator_comes_back(tmp_path):
    model, path = translator_for(3), tmp_path / "teacher.safetensors"
    save_model(path, model=model, note="kept")
    loaded, facts = load_translator(path)
    assert facts["note"] == "kept"
    assert loaded.config == model.config
    source, target = collate_pairs(some_pairs([(2, 3), (1, 1)]))
    assert torch.equal(loaded(source, target), model(source, target))


def test_a_file_without_a_translator_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, model=LanguageModel(ModelConfig(d_model=8, n_layers=1, n_heads=2)))
    with pytest.raises(CheckpointError, match="holds no translator"):
        load_translator(path)
