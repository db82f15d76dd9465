"""Scores: held-out losses of both kinds of model; BLEU, and how sure it is."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from small_models import documents, model_for, some_pairs, translator_for

from attnlab.errors import AttnlabError
from attnlab.training import (
    bleu,
    bleu_by_hand,
    bleu_by_length,
    collate_pairs,
    evaluate,
    evaluate_documents,
    evaluate_forced,
)
from attnlab.training.scores import (
    _score,
    _sentence_counts,
    n_grams,
    pack_counts,
    pool,
    unpack_counts,
)

HYPOTHESES = [
    "a man in a red hat is looking at something .",
    "two dogs run through the deep snow .",
    "a boy jumps into the blue water .",
    "the woman is holding a small child in her arms",
    "people are sitting at a long table and eating .",
    "he rides his bike down the hill .",
]
REFERENCES = [
    "a man in an orange hat is staring at something .",
    "two dogs are running through the deep snow .",
    "a boy jumps into the blue water .",
    "a woman is holding a small child in her arms .",
    "people sit at a long table and eat together .",
    "he is riding his bike down the steep hill .",
]
WORDS = st.sampled_from(["a", "b", "c", "d", ","])
SENTENCES = st.lists(WORDS, max_size=12).map(" ".join)


# Held-out losses


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
    scores = evaluate_documents(model_for(), documents(30, 9, 1))
    pooled = pool(scores)
    assert len(scores) == 2
    assert pooled.n_tokens == 29 + 8
    assert pooled.nats_per_token == pytest.approx(sum(s.total_nats for s in scores) / 37)
    with pytest.raises(AttnlabError, match="No token was scored"):
        pool([]).nats_per_token  # noqa: B018


def test_evaluation_leaves_the_training_mode_as_it_was():
    model, translator = model_for(dropout=0.5).train(), translator_for(dropout=0.5).train()
    pairs = some_pairs([(3, 2), (1, 5)])
    for score in (
        lambda: evaluate(model, documents(30)[0]).total_nats,
        lambda: evaluate_forced(translator, pairs).loss_nats,
    ):
        assert score() == score()
    assert model.training
    assert translator.training


@torch.no_grad()
def test_forced_scores_are_those_of_the_logits():
    model, pairs = translator_for(), some_pairs([(3, 2), (1, 5), (7, 1)])
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
    with pytest.raises(AttnlabError, match="no sentence pair to score"):
        evaluate_forced(model, [])


# BLEU


def official(hypotheses, references, **options):
    return BLEU(**options).corpus_score(hypotheses, [references])


def test_the_score_is_sacrebleus_with_its_signature():
    found, expected = bleu(HYPOTHESES, REFERENCES), official(HYPOTHESES, REFERENCES)
    assert found.score == expected.score
    assert found.precisions == tuple(expected.precisions)
    assert found.brevity_penalty == expected.bp < 1
    assert found.n_sentences == 6
    assert found.signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_ours_by_hand_equals_sacrebleu_on_fixed_sentences():
    expected = official(HYPOTHESES, REFERENCES).score
    assert bleu_by_hand(HYPOTHESES, REFERENCES) == pytest.approx(expected, rel=1e-12)
    assert 30 < expected < 60  # a case in which every part counts


@given(pairs=st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=8))
def test_ours_by_hand_equals_sacrebleu_without_smoothing(pairs):
    hypotheses, references = map(list, zip(*pairs, strict=True))
    expected = official(hypotheses, references, tokenize="none", smooth_method="none").score
    assert bleu_by_hand(hypotheses, references) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_word_earns_no_more_than_the_reference_has():
    # one of seven "the" is right, and no two-word run
    assert (n_grams(["the", "the", "the"], order=1) & n_grams(["the", "cat"], order=1)).total() == 1
    assert bleu_by_hand(["the the the the"], ["the cat sat down"]) == 0.0


def test_a_translation_that_is_too_short_pays_for_it():
    short, whole = bleu(["a b c d e"], ["a b c d e f g h i j"]), bleu(["a b c d e"], ["a b c d e"])
    assert short.precisions == whole.precisions == (100.0,) * 4
    # five words for ten: exp(1 - 10 / 5)
    assert short.score == pytest.approx(100 * 2.718281828459045**-1)
    assert whole.score == pytest.approx(100)


def test_the_counts_of_all_sentences_make_the_score():
    counts = _sentence_counts(HYPOTHESES, REFERENCES, "13a").sum(0).tolist()
    assert _score(counts) == pytest.approx(official(HYPOTHESES, REFERENCES).score, rel=1e-12)


def test_the_interval_holds_the_score_and_narrows_with_more_sentences():
    few = bleu(HYPOTHESES, REFERENCES)
    many = bleu(HYPOTHESES * 25, REFERENCES * 25)
    assert few.low < few.score < few.high
    assert many.low < many.score < many.high
    # 25 times the sentences: a fifth of the width, give or take
    assert (many.high - many.low) == pytest.approx((few.high - few.low) / 5, rel=0.4)


def test_the_interval_counts_words_as_the_score_does():
    hypotheses = ["it's good, isn't it", "(a) b c d e.", "one two three, four five"] * 3
    references = ["it's good , isn't it", "( a ) b c d e .", "one two three , four six"] * 3
    for tokenize in ("13a", "none"):
        found = bleu(hypotheses, references, tokenize=tokenize)
        assert found.low < found.score < found.high
    assert bleu(hypotheses, references).low > bleu(hypotheses, references, tokenize="none").high


def test_the_interval_depends_on_its_seed_alone():
    one, same, other = (bleu(HYPOTHESES, REFERENCES, seed=seed) for seed in (1, 1, 2))
    assert (one.low, one.high) == (same.low, same.high)
    assert (one.low, one.high) != (other.low, other.high)


@given(pairs=st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=12))
def test_length_buckets_share_out_every_sentence(pairs):
    hypotheses, references = map(list, zip(*pairs, strict=True))
    buckets = bleu_by_length(hypotheses, references, edges=(2, 5), n_resamples=2)
    assert sum(bucket.bleu.n_sentences for bucket in buckets) == len(pairs)
    for bucket in buckets:
        inside = [bucket.shortest <= len(r.split()) <= bucket.longest for r in references]
        assert sum(inside) == bucket.bleu.n_sentences


def test_a_bucket_is_scored_by_itself():
    first, second = bleu_by_length(HYPOTHESES, REFERENCES, edges=(9,), n_resamples=2)
    short = [i for i, r in enumerate(REFERENCES) if len(r.split()) <= 9]
    expected = official([HYPOTHESES[i] for i in short], [REFERENCES[i] for i in short]).score
    assert first.bleu.score == expected
    assert (first.shortest, first.longest) == (0, 9)
    assert (second.shortest, second.longest) == (10, 11)  # the longest reference has 11 words


def test_an_empty_translation_scores_nothing_and_is_no_error():
    found = bleu([""], ["a b c d"])
    assert found.score == 0
    assert bleu_by_hand([""], ["a b c d"]) == 0


@given(hypotheses=st.lists(SENTENCES, max_size=3), references=st.lists(SENTENCES, max_size=3))
def test_lists_that_do_not_pair_are_refused(hypotheses, references):
    assume(len(hypotheses) != len(references))
    for judge in (bleu, bleu_by_hand, bleu_by_length):
        with pytest.raises(AttnlabError, match="one reference for each translation"):
            judge(hypotheses, references)


def test_no_sentence_is_refused():
    with pytest.raises(AttnlabError, match="at least one sentence"):
        bleu([], [])


def test_packed_counts_come_back_whole():
    counts = _sentence_counts([*HYPOTHESES, "", "a b"], [*REFERENCES, "a b c d e", "a"], "13a")
    assert np.array_equal(unpack_counts(pack_counts(counts)), counts)
    score = bleu(HYPOTHESES, REFERENCES)
    assert _score(unpack_counts(score.sentences).sum(0).tolist()) == score.score
