"""The workbench, the panels and the records of notebook 09."""

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from attnlab.config import TrainConfig, TranslatorConfig
from attnlab.distillation import build_students, substitute
from attnlab.errors import UnknownNameError
from attnlab.models import Translator
from attnlab.seeding import torch_generator
from attnlab.sources import translation_source
from attnlab.teaching import live_replacing as live
from attnlab.teaching import replacing_runs as runs
from attnlab.training import collate_pairs
from attnlab.widgets import replacing as widgets

SOURCE = translation_source(n_prepositions=0)
PAIRS = SOURCE.sample_pairs(12)


@pytest.fixture(autouse=True)
def _figures_are_closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def bench():
    config = TranslatorConfig(
        source_vocab_size=SOURCE.vocab_size,
        target_vocab_size=SOURCE.vocab_size,
        d_model=8,
        n_heads=2,
        n_encoder_layers=1,
        n_decoder_layers=2,
        d_ff=8,
        dropout=0.0,
        max_len=SOURCE.max_target_len + 2,
    )
    teacher = Translator(config, generator=torch_generator(0, "init")).double().eval()
    lessons = live.read_lessons(teacher, PAIRS)
    stand_ins = live.all_controls(teacher, lessons, pairs=PAIRS)
    for arms in live.NETS.values():
        for name, spec in arms.items():
            stand_ins.setdefault(name, {}).update(build_students(teacher, spec=spec))
    for modules in stand_ins.values():
        for module in modules.values():
            module.double()
    return live.Workbench(teacher, SOURCE, SOURCE.sample_pairs(5, stream="test"), stand_ins)


def logits(bench):
    with torch.no_grad():
        return bench.teacher(*collate_pairs(bench.test))


def test_nets_stand_where_their_site_is(bench):
    assert live.PUBLISHED in bench.names_at(("cross", 1))
    assert live.PUBLISHED not in bench.names_at(("decoder_self", 0))
    assert len(bench.everywhere({"encoder_self": "mean", "cross": "mean"})) == 1 + 2
    with pytest.raises(UnknownNameError, match="stand-in"):
        bench.score({("decoder_self", 0): live.CUT})


def test_a_score_leaves_the_teacher_as_it_was(bench):
    before = logits(bench)
    score = bench.score(bench.everywhere({"cross": "zero", "decoder_self": live.NET}))
    assert score.loss_nats > 0
    assert torch.equal(logits(bench), before)


def test_attention_in_place_of_attention_changes_nothing(bench):
    everywhere = dict.fromkeys(("encoder_self", "decoder_self", "cross"), live.ATTENTION)
    assert bench.score(bench.everywhere(everywhere)) == bench.score({})


def test_nets_are_fitted_at_every_site(bench):
    train = TrainConfig(n_steps=2, batch_size=4, lr=1e-3)
    nets, errors = live.fit_nets(
        bench.teacher, live.read_lessons(bench.teacher, PAIRS), train=train, exam=PAIRS[:4]
    )
    assert set(nets[live.NET]) == {("encoder_self", 0), ("decoder_self", 0), ("decoder_self", 1)}
    assert {site: set(found) for site, found in errors.items()} == {
        site: set(arms) for site, arms in live.NETS.items()
    }
    assert all(error > 0 for found in errors.values() for error in found.values())


def test_tuning_moves_copies_of_the_students_alone(bench):
    places = bench.everywhere({"encoder_self": live.NET, "cross": live.PER_QUERY})
    students, before = bench.modules(places), logits(bench)
    kept = {place: [w.clone() for w in s.parameters()] for place, s in students.items()}
    train = TrainConfig(n_steps=2, lr=0.01, warmup_steps=1)
    tuned = live.tune(bench.teacher, students, pairs=PAIRS, train=train, max_tokens=60)
    assert torch.equal(logits(bench), before)
    assert all(w.requires_grad for w in bench.teacher.parameters())
    for place, weights in kept.items():
        assert all(map(torch.equal, students[place].parameters(), weights))
        assert not all(map(torch.equal, tuned[place].parameters(), weights))


def test_untrained_nets_fit_their_places(bench):
    names = {"encoder_self": live.NET, "cross": live.CUT}
    nets = live.untrained_nets(bench.teacher, names)
    assert set(nets) == set(bench.everywhere(names))
    assert nets["cross", 0].spec == live.NETS["cross"][live.CUT]


def test_a_taught_teacher_is_in_eval_mode():
    train = TrainConfig(n_steps=1, lr=0.01, warmup_steps=1)
    small = {"n_pairs": 20, "max_tokens": 100, "d_model": 8, "n_heads": 2}
    assert not live.train_teacher(SOURCE, train=train, **small).training


@pytest.mark.parametrize(
    ("name", "leaks"),
    [(live.ATTENTION, False), (live.PUBLISHED, True), (live.CUT, False), (live.PER_QUERY, False)],
)
def test_only_the_published_net_reads_the_future(bench, name, leaks):
    pair, module = bench.test[0], bench.stand_ins[name]["cross", 0]
    matrix = live.influence(bench.teacher, pair, layer=0, stand_in=module)
    assert matrix.shape == (len(pair[1]) + 1,) * 2
    assert (np.triu(matrix, 1) > 1e-9).any() == leaks
    other = int(pair[1][-1]) - 1
    with substitute(bench.teacher, bench.modules(bench.everywhere({"cross": name}))):
        moved = live.moved_rows(bench.teacher, pair, other=other)
    assert (min(moved) < len(pair[1])) == leaks


def test_influence_of_the_teacher_is_its_own(bench):
    own = live.influence(bench.teacher, bench.test[0], layer=1)
    assert np.count_nonzero(own - np.diag(np.diag(own))) == 0


def test_a_blindfold_comes_off_again(bench):
    nets = [
        bench.stand_ins[live.PUBLISHED]["cross", 0],
        bench.stand_ins[live.PER_QUERY]["cross", 0],
    ]
    with live.blindfolded(nets):
        assert nets[0].is_causal
    assert not nets[0].is_causal


# Panels


def test_the_board_swaps_and_undoes_to_the_same_bits(bench, capsys):
    stills = [[], [("cross, layer 1", "mean"), ("cross, all layers", live.CUT)]]
    board = widgets.show_substitution_board(bench, stills=stills)
    before = logits(board.bench)
    board.place.value = "cross, layer 2"
    board.stand_in.value = live.PUBLISHED
    board.put_button.click()
    board.place.value = "encoder self, all layers"
    board.stand_in.value = "uniform"
    board.put_button.click()
    assert board.swaps == {("cross", 1): live.PUBLISHED, ("encoder_self", 0): "uniform"}
    assert "cross, layer 2: published net" in board.status.value
    assert not torch.equal(logits(board.bench), before)
    board.undo_button.click()
    assert board.swaps == {("cross", 1): live.PUBLISHED}
    board.undo_button.click()
    board.undo_button.click()
    assert torch.equal(logits(board.bench), before)
    assert "attention everywhere" in board.status.value
    assert board.undo_button.disabled


def test_the_board_works_on_a_teacher_of_its_own(bench, capsys):
    before = logits(bench)
    board = widgets.show_substitution_board(bench, stills=[])
    board.put("cross, all layers", "zero")
    assert torch.equal(logits(bench), before)


def test_a_place_offers_only_what_fits(bench, capsys):
    board = widgets.show_substitution_board(bench, stills=[])
    board.place.value = "decoder self, layer 1"
    names = [value for _, value in board.stand_in.options]
    assert live.NET in names
    assert live.CUT not in names
    board.place.value = "cross, layer 1"
    assert live.CUT in [value for _, value in board.stand_in.options]


def test_an_error_of_a_move_is_said(bench, capsys):
    board = widgets.show_substitution_board(bench, stills=[])
    board.place.value = "cross, layer 1"
    board.bench.stand_ins = {"zero": {}}
    board.put_button.click()
    assert "role='alert'" in board.status.value


def test_panels_can_be_switched_off(bench, monkeypatch, capsys):
    monkeypatch.setenv("ATTNLAB_WIDGETS", "off")
    assert widgets.show_substitution_board(bench, stills=[[]]) is None
    assert widgets.show_influence_explorer(bench, presets=[{}]) is None


def test_the_influence_explorer_takes_every_stand_in(bench, capsys):
    explorer = widgets.show_influence_explorer(bench, presets=[{"stand_in": live.PUBLISHED}])
    for name in bench.names_at(("cross", 0)):
        explorer.controls["stand_in"].value = name
        assert "pairs in which the edited position is later" in explorer.status.value


def test_translations_stand_side_by_side(bench, capsys):
    models = {"Teacher": {}, "Zero": bench.everywhere({"cross": "zero"})}
    playground = widgets.show_translations(bench, models, presets=[{}])
    playground.controls["goes_on"].value = widgets.ENDINGS[-1]
    assert all(title in playground.picture.value for title in ("Right", *models))


def test_every_sentence_of_the_playground_belongs_to_the_language():
    for begins in widgets.SUBJECTS:
        for goes_on in widgets.ENDINGS:
            words = SOURCE.encode(f"{begins} {goes_on}")
            assert len(SOURCE.translate(words)) <= SOURCE.max_target_len


def test_carets_stand_under_wrong_words():
    assert widgets._mark("una milo vida", "una kava vida") == "\n    ^^^^"
    assert widgets._mark("una", "una") == ""
    assert "(1 missing)" in widgets._mark("una", "una kava")
    assert widgets._mark("una una", "una") == "\n    ^^^"


# Records


def record(variant, *, seed=0, bleu=50.0, experiment=runs.EXPERIMENT):
    metrics = {"bleu": bleu, "exact_match": 0.1, "test_accuracy": 0.8, "test_loss_nats": 0.5,
               "n_stand_in_weights": 1000, "n_replaced_weights": 100}  # fmt: skip
    return {
        "experiment": experiment, "variant": variant, "seed": seed, "config": {},
        "metrics": metrics, "details": {"bleu": {"n_sentences": 500}}, "curve": {},
        "seconds": 1.0, "command": "", "commit": "abc", "environment": {}, "finished_at": "",
    }  # fmt: skip


def written(folder, records):
    path = folder / "attentionless.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return runs.recorded_arms(path=folder)


def test_no_record_is_said_plainly(tmp_path):
    table = runs.recorded_arms(path=tmp_path)
    assert table.empty
    words = runs.ranges_markdown(table, runs.LEAK_ROWS)
    assert "not recorded yet" in words
    assert "--corpus toy --seeds 0,1,2`" in words
    assert runs.best_controls(table).empty
    assert "not recorded" in runs.verdict(table, better="a", than="b", names=("A", "B"))


def test_kept_is_measured_from_the_best_control_of_the_site_and_seed(tmp_path):
    table = written(
        tmp_path,
        [
            record("teacher", bleu=90.0),
            record("cross/mean", bleu=10.0),
            record("cross/uniform", bleu=50.0),
            record("cross/paper/l", bleu=70.0),
            record("self/alr/m", bleu=80.0),
            record("cross/paper/l", seed=1, bleu=70.0),
            record("teacher", bleu=0.0, experiment="attentionless/paper/toy"),
        ],
    ).set_index(["variant", "seed"])
    assert table.loc[("cross/paper/l", 0), "kept"] == pytest.approx(0.5)
    assert math.isnan(table.loc[("cross/paper/l", 1), "kept"])
    assert math.isnan(table.loc[("self/alr/m", 0), "kept"])
    best = runs.best_controls(table.reset_index())
    assert best[["site", "control", "bleu"]].to_numpy().tolist() == [["cross", "uniform", 50.0]]


def test_ranges_and_verdicts_go_seed_by_seed(tmp_path):
    records = []
    for seed in (0, 1, 2):
        records.append(record("cross/paper/l", seed=seed, bleu=20.0 + seed))
        records.append(record("cross/truncated/l", seed=seed, bleu=60.0 - seed))
    table = written(tmp_path, records)
    words = runs.ranges_markdown(table, runs.LEAK_ROWS)
    assert "| Published net, L | 1,000 | 80.0% | 20.0 to 22.0 |" in words
    assert "Ranges over 3 seeds, each with a teacher of its own; 500 test sentences" in words
    said = runs.verdict(
        table, better="cross/truncated/l", than="cross/paper/l", names=("Cut", "published")
    )
    assert "Cut against published, seed by seed (3): BLEU +36.0 to +40.0" in said


def test_a_run_that_was_made_again_counts_once(tmp_path):
    table = written(tmp_path, [record("teacher", bleu=1.0), record("teacher", bleu=2.0)])
    assert table["bleu"].tolist() == [2.0]


def test_all_rows_are_arms_of_the_study():
    from attnlab.studies.replaced import ARMS

    known = set(ARMS)
    for rows in (runs.SITE_ROWS, runs.LEAK_ROWS, runs.LEFT_ROWS, runs.ALL_ROWS):
        assert set(rows) <= known
