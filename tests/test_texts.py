"""Scores of single texts against numbers computed by hand, and data sets of such texts."""

import base64
import math
import zlib

import labelled_sets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_corpora_pairs import dialogue, scan

from attnlab.config import UNK, TrainConfig, TranslatorConfig
from attnlab.corpora import WordVocabulary
from attnlab.errors import AttnlabError
from attnlab.seeding import torch_generator
from attnlab.tasks import TranslationTask, prepare_pairs
from attnlab.training import rouge_l_by_hand, score_texts, unpack_scores
from attnlab.training.texts import chrf, exact_match, resampled_means, rouge_l

WORDS = st.lists(st.sampled_from("abc"), max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("text", "right", "score"),
    [
        ("a b c", "a b c", 100),
        ("the cat sat", "the black cat sat down", 75),  # P 3/3, R 3/5
        ("c b a", "a b c", 100 / 3),  # order counts: one word in common
        ("x", "a b", 0),
        ("", "a", 0),
    ],
)
def test_rouge_l_is_that_of_the_longest_common_subsequence(text, right, score):
    assert rouge_l([text], [right], at_blanks=True) == pytest.approx([score])
    assert rouge_l_by_hand(text, right) == pytest.approx(score)


@given(WORDS, WORDS)
def test_rouge_l_of_the_library_is_that_of_the_loop(text, right):
    assert rouge_l([text], [right], at_blanks=True)[0] == pytest.approx(
        rouge_l_by_hand(text, right)
    )


def test_words_of_prose_are_runs_of_letters_and_those_of_code_stand_between_blanks():
    text, right = ["The cat ( x )"], ["the cat: x"]
    assert rouge_l(text, right) == pytest.approx([100])
    assert rouge_l(text, right, at_blanks=True) == pytest.approx([200 * 1 / 8])


def test_chrf_counts_runs_of_characters_with_twice_the_weight_of_recall():
    # "ab" for "abc": orders 1 and 2 occur in both; P = 1, 1; R = 2/3, 1/2
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    by_hand = 100 * 5 * precision * recall / (4 * precision + recall)
    assert chrf(["ab"], ["abc"]) == pytest.approx([by_hand])
    assert chrf(["abc", "x"], ["abc", "abc"]) == pytest.approx([100, 0], abs=1e-9)


def test_scores_come_with_intervals_over_texts_and_with_each_text():
    texts, right = ["a b"] * 30 + ["x"] * 10, ["a b"] * 40
    scores = score_texts(texts, right, tokenize="none")
    assert scores.keys() == {"rouge_l", "chrf", "exact_match"}
    exact = scores["exact_match"]
    assert (exact.mean, scores["rouge_l"].mean) == (0.75, 75)
    assert exact.low < 0.75 < exact.high
    spread = 1.96 * math.sqrt(0.75 * 0.25 / 40)
    assert (exact.low, exact.high) == pytest.approx((0.75 - spread, 0.75 + spread), abs=0.03)
    assert unpack_scores(exact.texts).tolist() == [1] * 30 + [0] * 10
    assert unpack_scores(scores["rouge_l"].texts).tolist() == [100] * 30 + [0] * 10
    assert len(zlib.decompress(base64.b64decode(exact.texts))) == 2 * 40
    assert "rouge-score" in scores["rouge_l"].by
    assert "chrF2" in scores["chrf"].by
    assert scores == score_texts(texts, right, tokenize="none")
    with pytest.raises(AttnlabError, match="2 texts for 1 references"):
        score_texts(["a", "b"], ["a"])
    with pytest.raises(AttnlabError, match="at least one"):
        score_texts([], [])


def test_two_systems_are_scored_on_the_same_resampled_sets():
    worse = np.array([0.0, 1, 0, 1, 1])
    assert np.all(resampled_means(worse + 1) - resampled_means(worse) == pytest.approx(1))
    assert exact_match(["a", "A"], ["a", "a"]).tolist() == [1, 0]


def test_a_vocabulary_of_words_has_no_more_than_those_of_training():
    vocabulary = WordVocabulary(["run left", "I_RUN run"])
    assert vocabulary.words == ("I_RUN", "left", "run")
    ids = vocabulary.encode("run right  I_RUN")
    assert ids.tolist() == [6, UNK, 4]
    assert vocabulary.decode(ids) == "run \ufffd I_RUN"
    assert vocabulary.decode([1, 5, 2, 6]) == "left"  # BOS shows as nothing, EOS ends it
    assert WordVocabulary(["left run", "run I_RUN"]).digest == vocabulary.digest


# data sets


@pytest.fixture
def prepare(monkeypatch, tmp_path):
    """Store a corpus and prepare it as pairs of ids."""

    def prepare(name, *, max_len=8, **texts):
        files = {f"{split}.gz": (split, text.encode()) for split, text in texts.items()}
        labelled_sets.store(monkeypatch, tmp_path, name, files, kind="pairs")
        prepare_pairs.cache_clear()
        return prepare_pairs(name, vocab_size=256, max_len=max_len, n_train_pairs=0)

    yield prepare
    prepare_pairs.cache_clear()


COMMANDS = [f"{a} {b}" for a in ("walk", "run", "look", "jump") for b in ("left", "right", "now")]


def test_commands_are_read_word_by_word_and_every_test_pair_stays(prepare):
    far = "walk " * 9 + "now"
    data = prepare(
        "scan/length", train=scan(*COMMANDS, *COMMANDS, "left", far), test=scan("run", far)
    )
    assert data.scores_texts
    assert data.tokenize == "none"
    assert data.vocabulary is data.source_vocabulary
    assert [data.vocabulary.decode(ids) for ids in data.test[1]] == [
        "walk " * 7 + "walk",  # the first max_len words
        "I_WALK " * 9 + "I_NOW",
    ]
    facts = {name: data.facts[name] for name in ("train_too_long", "test", "test_beyond_reach")}
    assert facts == {"train_too_long": 1, "test": 2, "test_beyond_reach": 1}


def test_of_a_dialogue_the_newest_words_stay(prepare):
    talk = dialogue("a b c d e f", "yes")
    data = prepare("dialogue", train=talk, validation=talk, test=talk, max_len=5)
    assert data.vocabulary.decode(data.test[0][0]).endswith("e f")
    assert (data.tokenize, len(data.test[0][0])) == ("13a", 5)


def test_a_task_of_texts_scores_them_beside_bleu_and_tells_n_of_all(prepare):
    far = "walk " * 9 + "now"
    data = prepare(
        "scan/simple", train=scan(*COMMANDS, *COMMANDS, "left"), test=scan(*COMMANDS, far)
    )
    task = TranslationTask(data=data, max_tokens=100)
    size = data.vocabulary.vocab_size
    config = TranslatorConfig(
        source_vocab_size=size, target_vocab_size=size, d_model=8, n_heads=2, n_encoder_layers=1,
        n_decoder_layers=1, d_ff=8, max_len=8,
    )  # fmt: skip
    model = task.build(config, generator=torch_generator(0, "init"))
    assert next(iter(task.batches(model, TrainConfig())))[0].shape[1] <= 8
    metrics, details = task.score(model)
    scores = ("rouge_l", "chrf", "exact_match")
    assert {f"{name}{end}" for name in scores for end in ("", "_low", "_high")} <= metrics.keys()
    assert 0 <= metrics["validation_exact_match"] <= 1
    assert details["bleu"]["n_sentences"] == 13
    assert "tok:none" in details["bleu"]["signature"]
    for name in scores:
        each = unpack_scores(details["texts"][name]["texts"])
        assert len(each) == 13
        assert each.mean() == pytest.approx(metrics[name], abs=0.01)
    bare = TranslationTask(
        data=prepare_pairs("toy", vocab_size=0, max_len=24, n_train_pairs=9), max_tokens=99
    )
    assert not bare.data.scores_texts


def test_a_further_test_has_metrics_and_texts_of_its_own(prepare, monkeypatch):
    from attnlab.tasks import pairs

    monkeypatch.setattr(pairs, "MORE_TESTS", {"cogs": {"gen": "cogs"}})
    forms = "".join(f"Eva saw {i} .\tsee ( {i} )\tkind\n" for i in range(9))
    data = prepare("cogs", train=forms, validation=forms, test=forms)
    assert len(data.more_tests["gen"]) == 9
    size = data.vocabulary.vocab_size
    config = TranslatorConfig(
        source_vocab_size=size, target_vocab_size=size, d_model=8, n_heads=2, n_encoder_layers=1,
        n_decoder_layers=1, d_ff=8, max_len=8,
    )  # fmt: skip
    task = TranslationTask(data=data, max_tokens=100)
    metrics, details = task.score(task.build(config, generator=torch_generator(0, "init")))
    assert metrics["gen_chrf"] == metrics["chrf"]
    assert metrics["gen_exact_match_high"] == metrics["exact_match_high"]
    assert details["gen"]["texts"] == details["texts"]
