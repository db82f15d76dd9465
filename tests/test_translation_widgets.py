"""Explorers and the live lesson of notebook 07, at their extremes."""

import asyncio
import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.config import BOS, TrainConfig
from attnlab.errors import UnknownNameError
from attnlab.models import Translator
from attnlab.seeding import torch_generator
from attnlab.sources import translation_source
from attnlab.teaching import live_translation as live
from attnlab.training import collate_pairs
from attnlab.widgets import translation as widgets

SOURCE = translation_source()

pytestmark = pytest.mark.usefixtures("no_open_figures")


@pytest.fixture(scope="module")
def teacher():
    sizes = {"source_vocab_size": SOURCE.vocab_size, "target_vocab_size": SOURCE.vocab_size}
    return live.seeded_translator(**sizes, d_model=8, n_heads=2, d_ff=8).float()


def drive(explorer):
    """Set every control to its first, middle and last value, and every pair to its ends."""
    values = {}
    for name, control in explorer.controls.items():
        if hasattr(control, "options"):
            options = [option[1] for option in control.options]
            values[name] = [options[0], options[len(options) // 2], options[-1]]
        else:
            values[name] = [control.min, (control.min + control.max) / 2, control.max]
    settings = [{name: value} for name, three in values.items() for value in three]
    for one, other in itertools.combinations(values, 2):
        ends = itertools.product(values[one][::2], values[other][::2])
        settings += [{one: a, other: b} for a, b in ends]
    for setting in settings:
        for name, value in setting.items():
            explorer.controls[name].value = value
            assert "role='alert'" not in explorer.status.value
    return explorer


# Two languages


def test_the_language_explorer_takes_every_dial(quick_pictures, capsys):
    explorer = widgets.show_language_explorer(presets=[{"reordering": 0, "agreement": 0}])
    drive(explorer)


def test_the_first_preset_is_a_word_list():
    words = widgets.describe_language(
        reordering=0, agreement=0, number="a", sentence="bird near cats"
    )
    assert "0 moved, 0 repeated" in words
    assert "end like" not in words


def test_agreements_are_found_by_changing_a_gender():
    tokens = SOURCE.encode("the red bird near three tall cat see a dog")
    # elo pelo rubo apu milo milo milo altos una toba vido
    assert sorted(widgets.agreements(SOURCE, tokens)) == [(1, 0), (1, 2), (1, 10), (6, 7), (9, 8)]


@pytest.mark.parametrize("agreement", [0, 1, 2])
def test_nothing_agrees_without_agreement(agreement):
    source = translation_source(agreement=agreement)
    (tokens, _), *_ = source.sample_pairs(1)
    pairs = widgets.agreements(source, tokens)
    assert bool(pairs) == (agreement > 0)
    verb = len(source.translate(tokens)) - 1
    assert any(word == verb for _, word in pairs) == (agreement == 2)


# Alignments


def test_the_viewer_takes_every_sentence_layer_and_head(teacher, quick_pictures, capsys):
    explorer = widgets.show_alignment_viewer(teacher, source=SOURCE, presets=[{"layer": 1}])
    drive(explorer)
    assert "translation is" in explorer.status.value


def test_every_sentence_of_the_viewer_belongs_to_the_language():
    for beginning, ending in itertools.product(widgets.BEGINNINGS, widgets.ENDINGS):
        tokens = SOURCE.encode(f"{beginning} {ending}")
        assert len(SOURCE.translate(tokens)) <= SOURCE.max_target_len


def test_maps_are_those_of_the_forward_pass(teacher):
    source, target = SOURCE.sample_pairs(1)[0]
    maps = live.cross_maps(teacher, source, target)
    assert maps.shape == (2, 2, len(target) + 1, len(source))
    np.testing.assert_allclose(maps.sum(-1), 1.0, rtol=1e-5)
    read, framed = collate_pairs([(source, target)])
    with torch.no_grad():
        layer, m = teacher.decoder[0], teacher.encode(read)
        x = teacher.target_embedding(framed[:, :-1]) + teacher.target_position[: len(target) + 1]
        x = x + layer.self_attention(layer.self_attention_norm(x))
        want = layer.cross_attention.attention_weights(layer.cross_attention_norm(x), m)[0]
    np.testing.assert_allclose(maps[0], want.numpy(), rtol=1e-4)
    assert not any(site._forward_pre_hooks for site in teacher.modules())


def test_a_wrong_translation_has_no_alignment(teacher):
    found = widgets.watched(teacher, source=SOURCE, text="a cat hear")
    assert not found["is_right"]
    assert found["alignment"] is None
    assert found["maps"].shape[2] == len(found["target"])


def test_shares_of_an_untrained_teacher_are_shares(teacher):
    shares, chance = live.aligned_shares(teacher, SOURCE, SOURCE.sample_pairs(5))
    assert shares.shape == (2, 2)
    assert 0 <= shares.min() <= shares.max() <= 1
    assert 1 / SOURCE.max_source_len <= chance <= 1 / 2


# Routes


class Copier(torch.nn.Module):
    """A stand-in that writes a verb like the twin's if one named thing is the twin's."""

    def __init__(self, source, *, watches):
        super().__init__()
        self.source, self.watches = source, watches

    def encode(self, tokens):
        return tokens[..., None].double()

    def decode(self, prefix, memory):
        tokens = memory[0, :, 0].long()
        n_words = prefix.shape[1]  # the place of the word that is written
        if self.watches == "memory":
            found = self.source.translate(tokens.numpy())[n_words - 1]
        else:
            subject = [self.source.symbols[i] for i in prefix[0, 1:].tolist()][1:2]
            one = self.source.translate(tokens.numpy())[-1]
            stem = self.source.symbols[one][:-1]
            ending = subject[0][-1] if subject else "o"
            found = self.source.encode(stem + ending)[0]
        return torch.nn.functional.one_hot(torch.tensor([[found]]), self.source.vocab_size)

    def head(self, features):
        return features


SENTENCES = [SOURCE.encode(f"the {noun} see a dog") for noun in ("cat", "horse", "mouse")]


def test_a_writer_that_reads_the_source_is_found_out():
    routes = live.ending_routes(Copier(SOURCE, watches="memory"), SOURCE, SENTENCES, word="article")
    assert routes["nothing"] == 0
    assert routes[live.TARGET] == 0
    assert routes["memory: the subject's noun"] == 1
    assert routes["memory: all of it"] == 1
    assert routes["memory: all other words"] == 0


def test_a_writer_that_reads_itself_is_found_out():
    routes = live.ending_routes(Copier(SOURCE, watches="target"), SOURCE, SENTENCES, word="verb")
    assert routes[live.TARGET] == 1
    assert routes["nothing"] == routes["memory: all of it"] == 0


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 500))
def test_a_twin_differs_in_its_subject_and_what_agrees_with_it(seed):
    tokens = SOURCE.sample_pairs(1, seed=seed)[0][0]
    twin, place = live.other_gender(SOURCE, tokens)
    assert (twin != tokens).sum() == 1
    assert twin[place] != tokens[place]
    assert len(SOURCE.translate(twin)) == len(SOURCE.translate(tokens))
    assert SOURCE.translate(twin)[-1] != SOURCE.translate(tokens)[-1]
    assert live.other_gender(SOURCE, twin)[0].tolist() == tokens.tolist()


# The loop, the word list


def test_the_naive_look_up_is_the_site(teacher):
    site = live.seeded_translator(d_model=6, n_heads=3).decoder[0].cross_attention
    x, m = torch.randn(2, 5, 6, generator=torch_generator(0, "data"), dtype=torch.float64)
    for memory in (m, m[:1]):
        found = live.naive_look_up(site, x, memory)
        torch.testing.assert_close(found, site(x[None], memory[None])[0])


def test_a_word_list_is_perfect_where_nothing_is_demanded():
    source = translation_source(reordering=0, agreement=0, counting=1)
    table = live.word_table(source, source.sample_pairs(500))
    for read, written in source.sample_pairs(50, stream="test"):
        assert live.word_by_word(read, table=table).tolist() == written.tolist()
    assert live.word_by_word([BOS], table=table).tolist() == []


# Damaged texts


@pytest.mark.parametrize("kind", live.DAMAGES)
def test_a_fault_is_in_as_many_sentences_as_asked(kind):
    texts = [SOURCE.decode(written) for _, written in SOURCE.sample_pairs(40)]
    before: set[int] = set()
    for share in (0.0, 0.25, 0.5, 1.0):
        found = live.damaged(texts, kind=kind, share=share)
        changed = {i for i, (a, b) in enumerate(zip(found, texts, strict=True)) if a != b}
        assert len(changed) == round(share * len(texts))
        assert before <= changed
        before = changed


def test_each_fault_is_the_one_that_it_is_called():
    (text,) = ["milo milo vidos"]
    assert live.damaged([text], kind="last word lost") == ["milo milo"]
    assert live.damaged([text], kind="verb ends wrongly") == ["milo milo vidas"]
    assert live.damaged([text], kind="two neighbours swapped") == ["milo vidos milo"]
    assert len(live.damaged([text], kind="one word doubled")[0].split()) == 4
    with pytest.raises(UnknownNameError, match="fault"):
        live.damaged([text], kind="verb lost")


def test_helpers_of_the_pitfalls_do_one_thing_each():
    assert live.with_wrong_nouns(["elo milo vido"]) == ["elo pelo vido"]
    assert live.with_unknown_nouns(["elo milo vido"]) == ["elo <unk> vido"]
    assert live.with_marks(["a b"]) == ["<s> a b </s>"]
    assert live.cut_marks("It's 9.30, isn't it?") == "It 's 9.30 , is n't it ?"


def test_the_bleu_explorer_takes_every_fault_and_share(quick_pictures, capsys):
    texts = [SOURCE.decode(written) for _, written in SOURCE.sample_pairs(20)]
    explorer = drive(widgets.show_bleu_explorer(texts, presets=[{"share": 0.5}]))
    explorer.controls["share"].value = 0.0
    assert "BLEU 100.0" in explorer.status.value
    assert "100% of the sentences are right" in explorer.status.value


# A lesson


@pytest.fixture(scope="module")
def lesson():
    train = TrainConfig(n_steps=4, lr=0.01, warmup_steps=1)
    return live.Lesson(SOURCE, train=train, n_pairs=50, max_tokens=200, d_model=8, n_heads=2)


def test_a_lesson_is_judged_at_both_ends_and_between(lesson):
    lesson.validation = lesson.validation[:7]
    points = list(lesson.points(every=3))
    assert [point.step for point in points] == [0, 3, 4]
    assert points[-1].tokens_seen > points[1].tokens_seen > 0
    assert points[-1].loss_nats < points[0].loss_nats
    assert lesson.half_taught is None  # four steps are not enough


def test_a_half_taught_copy_stays_as_it_was(monkeypatch):
    monkeypatch.setattr(live, "HALF_TAUGHT", 0.0)
    train = TrainConfig(n_steps=2, lr=0.01, warmup_steps=1)
    lesson = live.Lesson(SOURCE, train=train, n_pairs=30, max_tokens=200, d_model=8, n_heads=2)
    lesson.validation = lesson.validation[:3]
    steps = lesson.points(every=1)
    next(steps), next(steps)
    kept = lesson.half_taught.head.weight.clone()
    list(steps)
    assert torch.equal(lesson.half_taught.head.weight, kept)
    assert not torch.equal(lesson.teacher.head.weight, kept)


def test_the_board_gives_another_lesson(monkeypatch, capsys):
    monkeypatch.setattr(widgets, "N_BOARD_PAIRS", 40)
    monkeypatch.setattr(widgets, "N_POINTS", 2)
    monkeypatch.setattr(live, "N_VALIDATION", 5)
    still = [live.Point(0, 0, 4.0, 0.0, 0.0, 0.0), live.Point(9, 90, 1.0, 0.5, 9.0, 0.1)]
    board = widgets.show_lesson_board(train=TrainConfig(n_steps=2, lr=0.01), still=still)
    steps = board.controls["n_steps"]
    steps.options = [2]
    board.controls["counting"].value = 1
    asyncio.run(board.drive())
    assert [point.step for point in board.history] == [0, 1, 2]
    assert "Done after 3 of 3" in board.status.value


# Recorded teachers


def record(variant="teacher", seed=0, experiment="attentionless/paper/multi30k/de-en"):
    metrics = {"bleu": 35.1, "bleu_low": 33.9, "bleu_high": 36.4, "exact_match": 0.051,
               "test_loss_nats": 1.9, "test_accuracy": 0.66}  # fmt: skip
    return {
        "experiment": experiment, "variant": variant, "seed": seed, "config": {},
        "metrics": metrics, "details": {"bleu": {"signature": "nrefs:1", "n_sentences": 1000}},
        "curve": {}, "seconds": 1.0, "command": "", "commit": "abc", "environment": {},
        "finished_at": "",
    }  # fmt: skip


def test_only_teachers_of_real_sentences_are_shown(tmp_path):
    path = tmp_path / "attentionless.jsonl"
    rows = [record(), record("alr-m"), record(experiment="attentionless/classroom/toy")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    teachers = live.recorded_teachers(path=tmp_path)
    assert len(teachers) == 1
    words = live.teachers_markdown(teachers)
    assert "| multi30k/de-en | 0 | 35.1 (33.9 to 36.4) | 5.1% | 66.0% | 1.900 |" in words
    assert "nrefs:1" in words
    assert "1,000 sentences" in words
    answer = live.teachers_answer(teachers)
    assert "35, as in the table" in answer
    assert "66% of the next tokens are right; 5.1% of the sentences" in answer


def test_no_record_is_said_plainly(tmp_path):
    words = live.teachers_markdown(live.recorded_teachers(path=tmp_path))
    assert "No teacher on real sentences is recorded yet" in words
    assert "study run attentionless" in words
    assert live.teachers_answer(live.recorded_teachers(path=tmp_path)) == ""


def test_a_seeded_translator_is_the_same_each_time():
    one, other = (live.seeded_translator(d_model=6, n_heads=3) for _ in range(2))
    assert isinstance(one, Translator)
    assert torch.equal(one.head.weight, other.head.weight)
