"""Chapter 07: two languages, where a translator looks, what BLEU is made of."""

import numpy as np
import pandas as pd
import pytest
import torch
from chapter_tests import ChapterTests
from hypothesis import given
from hypothesis import strategies as st

from attnlab.chapters.translation_teacher import checks, live, pictures
from attnlab.config import BOS, EOS, UNK
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.sources import translation_source
from attnlab.training import bleu_by_hand, collate_pairs

SOURCE = translation_source()
TEXTS = [SOURCE.decode(written) for _, written in SOURCE.sample_pairs(40)]
POINTS = [
    {"tokens_seen": 0, "accuracy": 0.0, "bleu": 0.0, "exact_match": 0.0},
    {"tokens_seen": 900, "accuracy": 0.8, "bleu": 30.0, "exact_match": 0.1},
    {"tokens_seen": 2000, "accuracy": 0.99, "bleu": 95.0, "exact_match": 0.9},
]
SCORES = pd.DataFrame(
    {"n_sentences": [100, 1000], "bleu": [30.0, 31.0], "low": [27.0, 30.0], "high": [33.0, 32.0]}
)


def teacher():
    sizes = {"source_vocab_size": SOURCE.vocab_size, "target_vocab_size": SOURCE.vocab_size}
    return live.small_translator(d_model=8, n_heads=2, d_ff=8, **sizes).eval()


def looks(places=(0, 1)):
    weights = [[0.9, 0.1], [0.8, 0.2], [0.0, 1.0]]
    words = {"source": ["a", "cat"], "target": ["un", "milo", "<eos>"]}
    return pictures.cross_attention(weights, places=places, **words)


class TestChapter(ChapterTests):
    SLUG = "translation_teacher"
    PICTURES = {  # noqa: RUF012
        "sight": (
            lambda: pictures.sight(["a", "b"], ["<bos>", "x", "y"]),
            "2 x 2 = 4 pairs. Decoder: at itself and its past, 3 x 4 / 2 = 6 pairs. Cross-"
            "attention: every target token at the whole source, 3 x 2 = 6 pairs.",
        ),
        "alignment": (
            lambda: pictures.alignment(
                ["the", "two", "cat"], ["el", "cat", "cat"], places=[0, 2, 2], agreements=[(1, 0)]
            ),
            "Of 3 words: 2 same order, 0 moved, 1 repeated. Without a word of its own: two. 1 "
            "words end like a noun; the farthest is 'el', 1 places from 'cat'.",
        ),
        "cross_attention": (looks, "1.00 to 'cat' while writing '<eos>'. In 1 of 2 rows"),
        "cross_attention/wrong": (lambda: looks(None), "while writing '<eos>'."),
        "course": (lambda: pictures.course(POINTS), "Farthest apart after 900 tokens: 80.0% of"),
        "course/one point": (lambda: pictures.course(POINTS[:1]), "At the end: 0.0% of the words"),
        "faults": (
            lambda: pictures.faults(TEXTS, kind="last word lost", share=0.5),
            "in 50% of 40 sentences. BLEU",
        ),
        "faults/none": (
            lambda: pictures.faults(TEXTS, kind="last word lost", share=0.0),
            "from precisions 100.0, 100.0, 100.0, 100.0 and brevity penalty 1.000; 100%",
        ),
        "score_intervals": (
            lambda: pictures.score_intervals(SCORES, small_sets={100: [26.0, 28.0, 32.0]}),
            "6.0 with 100, 2.0 with 1,000 sentences. 3 test sets of 100 sentences, none shared, "
            "score from 26.0 to 32.0; 2 lie inside the interval of the first 100",
        ),
    }
    PANELS = {  # noqa: RUF012
        "language": lambda: (pictures.language, pictures.LANGUAGE_DIALS),
        "watcher": lambda: pictures.watcher(teacher(), SOURCE),
        "faults": lambda: (
            lambda **fault: pictures.faults(TEXTS[:20], **fault),
            pictures.FAULT_DIALS,
        ),
    }


# Pictures ----------------------------------------------------------------------------------------


def test_links_know_what_moved_and_what_is_repeated():
    assert pictures.link_kinds([1, 0, 2, 2]) == ["moved", "moved", "same order", "repeated"]
    assert pictures.link_kinds(range(5)) == ["same order"] * 5
    for places in ([0], [0, 9], [0, -1]):
        with pytest.raises(AttnlabError, match="do not fit 2 target words"):
            pictures.alignment(["a"], ["b", "c"], places=places)


def test_the_first_preset_is_a_word_list():
    setting = {"number": "a", "sentence": "bird near cats"}
    words = pictures.language(reordering=0, agreement=0, **setting).words
    assert "0 moved, 0 repeated" in words
    assert "end like" not in words


def test_agreements_are_found_by_changing_a_gender():
    tokens = SOURCE.encode("the red bird near three tall cat see a dog")
    # elo pelo rubo apu milo milo milo altos una toba vido
    assert sorted(live.agreements(SOURCE, tokens)) == [(1, 0), (1, 2), (1, 10), (6, 7), (9, 8)]
    for agreement in (0, 1, 2):
        source = translation_source(agreement=agreement)
        (tokens, _), *_ = source.sample_pairs(1)
        pairs, verb = live.agreements(source, tokens), len(source.translate(tokens)) - 1
        assert bool(pairs) == (agreement > 0)
        assert any(word == verb for _, word in pairs) == (agreement == 2)


# Where it looks ----------------------------------------------------------------------------------


def test_maps_are_those_of_the_forward_pass():
    model, (source, target) = teacher(), SOURCE.sample_pairs(1)[0]
    maps = live.cross_maps(model, source, target)
    assert maps.shape == (2, 2, len(target) + 1, len(source))
    np.testing.assert_allclose(maps.sum(-1), 1.0, rtol=1e-5)
    read, framed = collate_pairs([(source, target)])
    with torch.no_grad():
        layer, m = model.decoder[0], model.encode(read)
        x = model.target_embedding(framed[:, :-1]) + model.target_position[: len(target) + 1]
        x = x + layer.self_attention(layer.self_attention_norm(x))
        want = layer.cross_attention.attention_weights(layer.cross_attention_norm(x), m)[0]
    np.testing.assert_allclose(maps[0], want.numpy(), rtol=1e-4)
    assert not any(site._forward_pre_hooks for site in model.modules())


def test_a_wrong_translation_has_no_alignment():
    found = live.watched(teacher(), source=SOURCE, text="a cat hear")
    assert found["places"] is None
    assert found["maps"].shape[2] == len(found["target"])


def test_hits_keep_layers_and_heads_and_shares_are_shares():
    weights = np.zeros((2, 3, 4, 5))
    weights[0, 1, :, 2] = 1.0
    hits = live.strongest_is_aligned(weights, places=[2, 2, 0])
    assert hits.shape == (2, 3, 3)
    assert hits[0, 1].tolist() == [True, True, False]
    shares, chance = live.aligned_shares(teacher(), SOURCE, SOURCE.sample_pairs(5))
    assert shares.shape == (2, 2)
    assert 0 <= shares.min() <= shares.max() <= 1
    assert 1 / SOURCE.max_source_len <= chance <= 1 / 2


@given(seed=st.integers(0, 500))
def test_a_twin_differs_in_its_subject_and_what_agrees_with_it(seed):
    tokens = SOURCE.sample_pairs(1, seed=seed)[0][0]
    twin, place = live.other_gender(SOURCE, tokens)
    assert (twin != tokens).sum() == 1
    assert twin[place] != tokens[place]
    assert SOURCE.translate(twin)[-1] != SOURCE.translate(tokens)[-1]
    assert live.other_gender(SOURCE, twin)[0].tolist() == tokens.tolist()
    routes = live.routes(len(tokens), place, 0)
    parts = [*routes["memory: all other words"], place, 0]
    assert set(parts) == set(routes["memory: all of it"]) == set(range(len(tokens)))


# Exercises ---------------------------------------------------------------------------------------


def test_the_reference_look_up_is_that_of_the_model():
    site = live.small_translator(d_model=6, n_heads=1, d_ff=8).decoder[0].cross_attention.double()
    names = ("query", "key", "value", "out")
    maps = [getattr(site, name).weight.mT.detach() for name in names]
    for _, x, memory, *_, is_padding in checks.check_cross_attention.cases[2:]:
        want = site(x[None], memory[None], source_padding=is_padding[None])[0]
        found = checks.cross_attention(x, memory, *maps, is_padding)
        torch.testing.assert_close(found, want.detach())


def test_the_site_to_build_is_that_of_the_model():
    site = live.small_translator(d_model=6, n_heads=3, d_ff=8).decoder[0].cross_attention
    built = checks.site_of()(6, 3)
    built.load_state_dict(site.state_dict())
    x, memory = torch.randn(2, 2, 5, 6)
    padding = torch.arange(5) >= torch.tensor([[3], [5]])
    want = site(x, memory, source_padding=padding)
    torch.testing.assert_close(built(x, memory, padding), want)


@given(words=st.lists(st.integers(4, 8), max_size=6), max_len=st.integers(1, 8))
def test_greedy_writes_the_script_as_far_as_it_may(words, max_len):
    assert checks.greedy(checks.scripted(*words), max_len) == words[:max_len]


def test_scripted_scores_know_no_other_beginning():
    scores = checks.scripted(5, 6)
    assert scores([BOS, 5, 6]).argmax(-1).tolist() == [5, 6, EOS]
    assert scores([4, 5]).argmax(-1).tolist() == [UNK, UNK]
    assert scores([BOS, 5, 6, 7, 7]).argmax(-1).tolist() == [5, 6, EOS, UNK, UNK]


def test_the_sentences_on_paper_have_the_score_of_the_page():
    _, written, truth = checks.check_bleu.cases[0]
    # p = 9/11, 7/9, 4/7, 2/5: their product is 8/55; c = 11, r = 14
    want = 100 * np.exp(1 - 14 / 11) * (8 / 55) ** 0.25
    assert bleu_by_hand(written, truth) == pytest.approx(want)


# Damaged texts, records --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", live.DAMAGES)
def test_a_fault_is_in_as_many_sentences_as_asked(kind):
    before = set()
    for share in (0.0, 0.25, 0.5, 1.0):
        found = live.damaged(TEXTS, kind=kind, share=share)
        changed = {i for i, (a, b) in enumerate(zip(found, TEXTS, strict=True)) if a != b}
        assert len(changed) == round(share * len(TEXTS))
        assert before <= changed
        before = changed


def test_each_fault_is_the_one_that_it_is_called():
    text = "milo milo vidos"
    assert live.damaged([text], kind="last word lost") == ["milo milo"]
    assert live.damaged([text], kind="verb ends wrongly") == ["milo milo vidas"]
    assert live.damaged([text], kind="two neighbours swapped") == ["milo vidos milo"]
    assert len(live.damaged([text], kind="one word doubled")[0].split()) == 4
    with pytest.raises(UnknownNameError, match="fault"):
        live.damaged([text], kind="verb lost")
    assert live.with_words(["elo milo vido"], {"milo": "pelo"}) == ["elo pelo vido"]
    assert live.cut_marks("It's 9.30, isn't it?") == "It 's 9.30 , is n't it ?"


def test_a_translator_is_judged_and_built_the_same_each_time(monkeypatch):
    monkeypatch.setattr(live, "N_VALIDATION", 5)
    point = live.judge(teacher(), SOURCE, tokens_seen=9)
    assert point["tokens_seen"] == 9
    assert 0 <= point["exact_match"] <= point["accuracy"] <= 1
    assert torch.equal(teacher().head.weight, teacher().head.weight)


def test_recorded_teachers_are_those_of_real_sentences():
    teachers = live.recorded_teachers()
    assert set(teachers["variant"]) == {"teacher"}
    assert teachers["experiment"].str.startswith("attentionless/paper/multi30k/").all()
    row, words = teachers.iloc[0], live.teachers_markdown(teachers)
    assert f"| multi30k/de-en | {row.seed} | {row.bleu:.1f} ({row.bleu_low:.1f} to " in words
    seen, _, folded = words.partition("<details>")
    assert seen.rstrip().endswith("(978 of 1,000 sentences), greedy search.")
    assert "sacreBLEU signature: `nrefs:1" in folded
    assert f"{row.bleu:.0f}, as in the table" in live.teachers_answer(teachers)
