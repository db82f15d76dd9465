"""The translator: causal, blind to padding, the same step by step, and able to learn."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import TRANSLATOR, targets, translator_for, words
from torch.nn import functional as F

from attnlab.config import BOS, EOS, N_SPECIAL, PAD, UNK, TranslatorConfig
from attnlab.errors import AttnlabError
from attnlab.mixers.attention import KeyValues
from attnlab.models import Translator
from attnlab.models.search import beam_search, greedy_search, select_rows
from attnlab.training import (
    collate_pairs,
    load_translator,
    save_model,
    sentence_of,
    translate_all,
)

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
VARIANTS = [
    {},
    {"norm": "post"},
    {"position": "learned", "tie_embeddings": False},
    {"position": "none", "attention_bias": True},
]


# the decoder sees the past only


@pytest.mark.parametrize("changes", VARIANTS)
@given(shape=SHAPES, data=st.data())
def test_no_logit_depends_on_a_later_target_token(changes, shape, data):
    n_rows, source_time, target_time = shape
    model = translator_for(**changes)
    source, target = words(n_rows, source_time, vocab_size=13), targets(n_rows, target_time)
    k = data.draw(st.integers(0, target_time - 1))
    edited = target.clone()
    edited[:, k] = (edited[:, k] + 1) % 11
    before, after = model(source, target), model(source, edited)
    torch.testing.assert_close(after[:, :k], before[:, :k], rtol=0, atol=0)
    assert not torch.equal(after[:, k], before[:, k])


def test_every_logit_depends_on_every_source_token():
    model = translator_for()
    source, target = words(2, 5, vocab_size=13), targets(2, 4)
    for place in range(5):
        edited = source.clone()
        edited[:, place] = N_SPECIAL + (edited[:, place] - N_SPECIAL + 1) % 9
        changed = (model(edited, target) - model(source, target)).abs().amax(-1)
        assert (changed > 0).all()


@pytest.mark.parametrize("changes", VARIANTS)
@given(shape=SHAPES)
def test_token_by_token_equals_teacher_forcing(changes, shape):
    n_rows, source_time, target_time = shape
    model = translator_for(**changes)
    source, target = words(n_rows, source_time, vocab_size=13), targets(n_rows, target_time)
    source[0, (source_time + 1) // 2 :] = PAD
    expected = model(source, target)
    state = model.initial_state(model.encode(source), source_padding=source == PAD)
    for t in range(target_time):
        logits, state = model.step(target[:, t], state)
        torch.testing.assert_close(logits, expected[:, t], rtol=1e-4, atol=1e-5)
    assert state.position == target_time


def test_a_decoder_that_is_full_says_so():
    model = translator_for(max_len=3)
    state = model.initial_state(model.encode(words(1, 2)))
    for _ in range(3):
        _, state = model.step(torch.tensor([BOS]), state)
    with pytest.raises(AttnlabError, match="read all 3 positions"):
        model.step(torch.tensor([BOS]), state)


# padding


@given(shape=SHAPES, n_more=st.integers(1, 4))
def test_padding_changes_nothing(shape, n_more):
    n_rows, source_time, target_time = shape
    model = translator_for(max_len=13)
    source, target = words(n_rows, source_time, vocab_size=13), targets(n_rows, target_time)
    padded = F.pad(source, (0, n_more), value=PAD), F.pad(target, (0, n_more), value=PAD)
    expected = model(source, target)
    torch.testing.assert_close(model(*padded)[:, :target_time], expected, rtol=1e-4, atol=1e-5)
    full = F.pad(target, (0, 1), value=EOS)
    torch.testing.assert_close(
        model.loss(padded[0], F.pad(full, (0, n_more), value=PAD)), model.loss(source, full)
    )


def test_what_stands_at_padded_places_is_never_read():
    model = translator_for()
    site, cross = model.encoder[0].self_attention, model.decoder[0].cross_attention
    x, memory = torch.randn(2, 3, 12), torch.randn(2, 5, 12)
    mask = torch.tensor([[False, False, True], [False, True, True]])
    memory_mask = torch.tensor([[False] * 4 + [True], [False, True, True, True, True]])
    other, other_memory = x.clone(), memory.clone()
    other[mask], other_memory[memory_mask] = 1e4, -1e4
    torch.testing.assert_close(
        site(other, source_padding=mask)[~mask], site(x, source_padding=mask)[~mask]
    )
    torch.testing.assert_close(
        cross(x, other_memory, source_padding=memory_mask),
        cross(x, memory, source_padding=memory_mask),
    )


def test_an_empty_source_adds_nothing_and_has_an_empty_translation():
    model = translator_for()
    source = torch.tensor([[5, 6, 7], [PAD, PAD, PAD]])
    logits = model(source, targets(2, 4))
    assert logits.isfinite().all()
    cross = model.decoder[0].cross_attention
    x, mask = torch.randn(2, 4, 12), source == PAD
    assert (cross.heads(x, model.encode(source), source_padding=mask)[1] == 0).all()
    assert (cross.attention_weights(x, model.encode(source), source_padding=mask)[1] == 0).all()
    written = model.translate(source)
    assert sentence_of(written[1]).tolist() == []
    assert written[1, 0] == EOS
    assert model.translate(torch.zeros(2, 3, dtype=torch.long)).tolist() == [[EOS], [EOS]]


# sites


def test_a_site_is_its_heads_through_its_last_projection():
    model = translator_for(attention_bias=True)
    x, memory = torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    mask = torch.tensor([[False, False, False, False, True]] * 2)
    for site in (model.encoder[1].self_attention, model.decoder[1].self_attention):
        torch.testing.assert_close(site(x), site.out(site.heads(x)), rtol=0, atol=0)
    cross = model.decoder[1].cross_attention
    heads = cross.heads(x, memory, source_padding=mask)
    torch.testing.assert_close(cross(x, memory, source_padding=mask), cross.out(heads))


@given(n_rows=st.integers(1, 3), time=st.integers(1, 7), memory_time=st.integers(1, 7))
def test_attention_weights_are_what_the_heads_average_with(n_rows, time, memory_time):
    model = translator_for()
    x, memory = torch.randn(n_rows, time, 12), torch.randn(n_rows, memory_time, 12)
    mask = torch.zeros(n_rows, memory_time, dtype=torch.bool)
    mask[0, 1:] = True
    cross = model.decoder[0].cross_attention
    weights = cross.attention_weights(x, memory, source_padding=mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(n_rows, 3, time))
    values = cross.value(memory).unflatten(-1, (3, 4)).transpose(1, 2)
    mixed = (weights @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(mixed, cross.heads(x, memory, source_padding=mask))
    causal = model.decoder[0].self_attention.attention_weights(x)
    assert (causal.triu(1) == 0).all()
    torch.testing.assert_close(causal.sum(-1), torch.ones(n_rows, 3, time))


def test_a_site_can_be_swapped_and_put_back():
    class Nothing(torch.nn.Module):
        def forward(self, x, *, source_padding=None):
            return torch.zeros_like(x)

    model = translator_for()
    source, target = words(2, 5, vocab_size=13), targets(2, 4)
    before = model(source, target)
    kept = model.encoder[0].self_attention
    model.encoder[0].self_attention = Nothing()
    assert not torch.equal(model(source, target), before)
    model.encoder[0].self_attention = kept
    assert torch.equal(model(source, target), before)


def test_the_papers_stacks_have_the_papers_number_of_weights():
    config = TranslatorConfig(source_vocab_size=99, target_vocab_size=99, attention_bias=True)
    model = Translator(config)

    def count(*modules):
        return sum(weight.numel() for module in modules for weight in module.parameters())

    # attention 4 d^2 + 4 d, channel mixer 2 d d_ff + d_ff + d, a norm 2 d; d = 128, d_ff = 512
    attention, mlp, norm = 66_048, 131_712, 256
    assert count(model.encoder, model.encoder_norm) == 6 * (attention + mlp + 2 * norm) + norm
    assert count(model.decoder, model.decoder_norm) == 6 * (2 * attention + mlp + 3 * norm) + norm
    assert count(model.encoder, model.encoder_norm) == 1_189_888
    assert count(model.decoder, model.decoder_norm) == 1_587_712


def test_states_are_reordered_whatever_they_are_made_of():
    rows = torch.tensor([2, 0, 0])
    state = (KeyValues(torch.arange(3), torch.arange(3) * 10, None), 7)
    (found, position) = select_rows(state, rows)
    assert isinstance(found, KeyValues)
    assert found.keys.tolist() == [2, 0, 0]
    assert found.values.tolist() == [20, 0, 0]
    assert (found.padding, position) == (None, 7)


# loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_and_its_gradients_are_torchs(smoothing):
    model = translator_for(tie_embeddings=False)
    source, target = collate_pairs([([5, 6], [7, 8, 9]), ([4], [10])])
    logits = model(source, target[:, :-1])
    expected = F.cross_entropy(
        logits.flatten(0, 1),
        target[:, 1:].flatten(),
        ignore_index=PAD,
        label_smoothing=smoothing,
    )
    loss, plain = model.smoothed_and_plain_loss(source, target, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(plain, model.loss(source, target))
    for weight in (model.head.weight, model.encoder[0].self_attention.key.weight):
        (ours,) = torch.autograd.grad(loss, weight, retain_graph=True)
        (theirs,) = torch.autograd.grad(expected, weight, retain_graph=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_batch_without_a_word_is_refused():
    with pytest.raises(AttnlabError, match="nothing to predict"):
        translator_for().loss(words(1, 2), torch.tensor([[BOS, PAD]]))


# search


@torch.no_grad()
def score_of(model, source, tokens, penalty):
    """Return the score of one sentence from teacher-forced logits, as the search sees them."""
    inputs = torch.tensor([[BOS, *tokens[:-1]]])
    logits = model(source, inputs)[0].index_fill(-1, torch.tensor([PAD, BOS]), -torch.inf)
    log_p = logits.log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)].sum()
    return float(log_p) / ((5 + len(tokens)) / 6) ** penalty


def all_sentences(vocab_size, max_len):
    """Return every sentence that a search may write, cut where its last place is reached."""
    others = [t for t in range(vocab_size) if t not in (PAD, BOS, EOS)]
    found = [[*w, EOS] for n in range(max_len) for w in itertools.product(others, repeat=n)]
    return found + [list(w) for w in itertools.product(others, repeat=max_len)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_what_brute_force_finds(seed, penalty):
    model = translator_for(seed, target_vocab_size=6, max_len=4)
    with torch.no_grad():
        model.head.weight.mul_(3)  # chances far from equal
    source = words(1, 3, vocab_size=13, seed=seed)
    sentences = all_sentences(6, 4)
    scores = [score_of(model, source, tokens, penalty) for tokens in sentences]
    best = sentences[int(np.argmax(scores))]
    found = model.translate(source, beam_size=len(sentences), length_penalty=penalty)
    assert found[0, : len(best)].tolist() == best


@pytest.mark.parametrize("seed", range(4))
def test_every_kept_sentence_has_the_score_it_would_have_alone(seed):
    model = ending_model(seed)
    source = words(3, 4, vocab_size=13, seed=seed)
    state = model.initial_state(model.encode(source))
    options = {"n_rows": 3, "beam_size": 6, "max_len": 7, "length_penalty": 0.6}
    tokens, scores = beam_search(model.step, state, **options)
    for row, found, ranked in zip(source, tokens, scores, strict=True):
        assert ranked.tolist() == sorted(ranked.tolist(), reverse=True)
        assert len({tuple(sentence.tolist()) for sentence in found}) == 6
        for sentence, score in zip(found.tolist(), ranked.tolist(), strict=True):
            written = [token for token in sentence if token != PAD]
            assert score == pytest.approx(score_of(model, row[None], written, 0.6), rel=1e-4)


@given(n_rows=st.integers(1, 5), seed=st.integers(0, 50))
def test_a_beam_of_one_is_greedy(n_rows, seed):
    model = translator_for(seed)
    source = words(n_rows, 5, vocab_size=13, seed=seed)
    options = {"n_rows": n_rows, "max_len": 9}
    greedy = greedy_search(model.step, model.initial_state(model.encode(source)), **options)
    state = model.initial_state(model.encode(source))
    tokens, _ = beam_search(model.step, state, beam_size=1, **options)
    assert tokens[:, 0].tolist() == greedy.tolist()


def ending_model(seed):
    """Return a model of large weights, whose sentences differ and end at different places."""
    model = translator_for(seed, tie_embeddings=False, position="learned")
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2.5 if weight.ndim > 1 else 1.0)
    return model


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("seed", [1, 3, 4])
def test_sentences_in_lock_step_are_those_translated_alone(beam_size, seed):
    model = ending_model(seed)
    source = words(7, 6, vocab_size=13, seed=seed)
    source[::2, 3:] = PAD
    together = model.translate(source, beam_size=beam_size)
    alone = [model.translate(row[None], beam_size=beam_size)[0] for row in source]
    assert [sentence_of(row).tolist() for row in together] == [
        sentence_of(row).tolist() for row in alone
    ]
    assert len({len(sentence_of(row)) for row in together}) > 1


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=9))
@pytest.mark.parametrize("beam_size", [None, 1, 2])
def test_a_search_writes_what_the_logits_say_while_others_have_ended(beam_size, lengths):
    """Row i wants ``lengths[i]`` times the token 4 + i, then the end."""
    n_rows = len(lengths)
    wanted = torch.full((n_rows, 7), EOS)
    for row, length in zip(wanted, enumerate(lengths), strict=True):
        row[: length[1]] = N_SPECIAL + length[0]

    def step(tokens, state):
        rows, t = state
        assert len(tokens) == len(rows)
        return 9.0 * F.one_hot(rows[:, t], N_SPECIAL + 9).float(), (rows, t + 1)

    options = {"n_rows": n_rows, "max_len": 7}
    if beam_size is None:
        found = greedy_search(step, (wanted, 0), **options)
    else:
        found = beam_search(step, (wanted, 0), beam_size=beam_size, **options)[0][:, 0]
    expected = [[N_SPECIAL + i] * n for i, n in enumerate(lengths)]
    assert [sentence_of(row).tolist() for row in found] == expected


def test_greedy_takes_the_likeliest_token_each_time():
    model = ending_model(1)
    source = words(3, 4, vocab_size=13)
    for row, sentence in zip(model.translate(source, max_len=5), source, strict=True):
        tokens = [t for t in row.tolist() if t != PAD]
        for t, token in enumerate(tokens):
            logits = model(sentence[None], torch.tensor([[BOS, *tokens[:t]]]))[0, -1]
            logits[[PAD, BOS]] = -torch.inf
            assert token == int(logits.argmax())


def test_translating_leaves_the_training_mode_as_it_was():
    model = translator_for(dropout=0.5).train()
    source = words(2, 3)
    assert torch.equal(model.translate(source), model.translate(source))
    assert model.training


def test_a_batch_is_translated_in_the_order_it_came():
    model = ending_model(0)
    sentences = [np.array([5] * n) for n in (3, 1, 9, 0, 2)]
    found = translate_all(model, sentences, max_tokens=10)
    for sentence, translation in zip(sentences, found, strict=True):
        alone = [] if not len(sentence) else model.translate(torch.tensor(sentence)[None])[0]
        assert translation.tolist() == sentence_of(alone).tolist()


# what is refused, and what is not


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (words(1, 10), targets(1, 2), "source of 10 tokens does not fit max_len=9"),
        (words(1, 2), targets(1, 10), "target of 10 tokens does not fit max_len=9"),
        (torch.tensor([[13]]), targets(1, 2), "Token id 13 is outside the source vocabulary of 13"),
        (words(1, 2), torch.tensor([[11]]), "Token id 11 is outside the target vocabulary of 11"),
        (torch.tensor([[-1]]), targets(1, 2), "Token id -1"),
        (torch.zeros(1, 0, dtype=torch.long), targets(1, 2), "An empty sentence is a row of PAD"),
        (torch.zeros(3), targets(1, 2), r"got \(3,\) of torch.float32"),
    ],
)
def test_tokens_that_cannot_be_read_are_refused(source, target, message):
    with pytest.raises(AttnlabError, match=message):
        translator_for()(source, target)


def test_searches_that_cannot_be_made_are_refused():
    model = translator_for()
    with pytest.raises(AttnlabError, match="beam_size=0"):
        model.translate(words(1, 2), beam_size=0)
    with pytest.raises(AttnlabError, match="max_len=10 is not within 1 to 9"):
        model.translate(words(1, 2), max_len=10)


def test_one_word_and_unknown_words_are_translated():
    model = ending_model(2)
    for row in ([5], [UNK], [UNK] * 9):
        written = model.translate(torch.tensor([row]), beam_size=2)
        assert written.shape[1] <= 9
        assert not {PAD, BOS} & set(sentence_of(written[0]).tolist())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_vocab_size": 4}, "source_vocab_size=4 leaves no room for words"),
        ({"target_vocab_size": 0}, "target_vocab_size=0"),
        ({"n_heads": 5}, "Try n_heads=4"),
        ({"max_len": 0}, "max_len=0"),
        ({"norm": "both"}, "norm='both'"),
        ({"dropout": 1.0}, "dropout=1.0 is not a probability below 1"),
        ({"share_embeddings": True}, "one vocabulary for both languages; these have 13 and 11"),
    ],
)
def test_a_translator_that_cannot_be_built_is_explained(change, message):
    with pytest.raises(AttnlabError, match=message):
        TranslatorConfig(**{**TRANSLATOR, **change})


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_head_shares_the_target_table_if_asked(is_tied):
    model = translator_for(tie_embeddings=is_tied)
    assert (model.head.weight is model.target_embedding.weight) == is_tied
    assert ("head.weight" in dict(model.named_parameters())) == (not is_tied)


def test_both_languages_share_one_table_if_asked(tmp_path):
    apart = translator_for(source_vocab_size=11)
    model = translator_for(source_vocab_size=11, share_embeddings=True)
    table, row = model.target_embedding.weight, torch.tensor([[5, 7, 9]])
    assert model.source_embedding.weight is model.head.weight is table
    n_apart, n_shared = (sum(w.numel() for w in each.parameters()) for each in (apart, model))
    assert n_apart - n_shared == table.numel()
    model.encode(row).square().sum().backward()
    assert table.grad.abs().sum(1).nonzero().flatten().tolist() == [5, 7, 9]
    save_model(tmp_path / "model.safetensors", model=model)
    loaded, _ = load_translator(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    assert loaded.source_embedding.weight is loaded.target_embedding.weight
    assert torch.equal(loaded(row, row), model.eval()(row, row))


def test_a_table_of_its_own_for_each_language_leaves_the_digest_alone():
    apart, shared = (TranslatorConfig(**TRANSLATOR | {"source_vocab_size": 11,
                     "share_embeddings": is_shared}) for is_shared in (False, True))  # fmt: skip
    assert "share_embeddings" not in apart.to_dict()
    assert shared.digest != apart.digest
    assert TranslatorConfig.from_dict(shared.to_dict()) == shared


def test_equal_seeds_make_equal_models():
    one, same, other = translator_for(1), translator_for(1), translator_for(2)
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)
    assert TranslatorConfig.from_dict(one.config.to_dict()) == one.config


def test_attention_may_drop_another_share_than_the_rest():
    config = TranslatorConfig(dropout=0.2, attention_dropout=0.0)
    assert TranslatorConfig.from_dict(config.to_dict()) == config
    assert "attention_dropout" not in TranslatorConfig(dropout=0.2).to_dict()
    for built, wanted in ((config, 0.0), (TranslatorConfig(dropout=0.2), 0.2)):
        layer = Translator(built).decoder[0]
        assert (layer.cross_attention.dropout, layer.dropout.p) == (wanted, 0.2)
    with pytest.raises(AttnlabError, match=r"attention_dropout=1\.0"):
        TranslatorConfig(attention_dropout=1.0)
    with pytest.raises(AttnlabError, match="attention_dropout"):
        TranslatorConfig(attention_dropout="a")
