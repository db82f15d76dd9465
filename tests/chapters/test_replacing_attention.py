"""Chapter 09: swaps and what they are worth, and the leak."""

from functools import cache
from pathlib import Path

import jupytext
import numpy as np
import pandas as pd
import pytest
import torch
from chapter_tests import ChapterTests
from hypothesis import given
from hypothesis import strategies as st

from attnlab.chapters.replacing_attention import checks, live, pictures
from attnlab.distillation import StudentSpec, build_students, capture
from attnlab.errors import UnknownNameError
from attnlab.sources import translation_source
from attnlab.teach import CheckFailed
from attnlab.training import collate_pairs

ROOT = Path(__file__).parents[2]
SOURCE = translation_source(n_prepositions=0)
PAIRS = SOURCE.sample_pairs(12)
NETS = {
    "net": (StudentSpec(site="encoder_self"), StudentSpec(site="decoder_self")),
    "cut net": (StudentSpec(site="cross", layout="truncated"),),
    "net per query": (StudentSpec(site="cross", layout="per_query"),),
}
WORTH = {"bleu": 40.0, "accuracy": 0.8, "exact_match": 0.25, "loss_nats": 0.75}
WHOLE = {"bleu": 98.0, "accuracy": 0.99, "exact_match": 0.9, "loss_nats": 0.02}
SCORES = pd.DataFrame({"label": ["a", "a", "b"], "accuracy": [0.5, 0.6, 0.9], "bleu": [10, 20, 80]})


@cache
def small_bench():
    sizes = {"d_model": 8, "n_heads": 2, "n_encoder_layers": 1, "d_ff": 8}
    teacher = live.small_translator(SOURCE, **sizes).double().eval()
    stand_ins = live.all_controls(teacher, live.read_lessons(teacher, PAIRS), pairs=PAIRS)
    for name, specs in NETS.items():
        for spec in specs:
            stand_ins.setdefault(name, {}).update(build_students(teacher, spec=spec))
    for module in (module for modules in stand_ins.values() for module in modules.values()):
        module.double()
    return live.Workbench(teacher, SOURCE, SOURCE.sample_pairs(5, stream="test"), stand_ins)


@pytest.fixture
def bench():
    return small_bench()


def logits(bench):
    with torch.no_grad():
        return bench.teacher(*collate_pairs(bench.test))


def board(swaps):
    sizes = {"encoder_self": 1, "decoder_self": 2, "cross": 2}
    return pictures.board(swaps, n_layers=sizes, worth=WORTH, teacher=WHOLE)


def controls():
    bleus = {"mean": 30.0, "zero": 20.0, "net": 90.0, "per-query net": 80.0}
    rows = [{"site": s, "label": n, "bleu": b} for s in pictures.SITES for n, b in bleus.items()]
    return pictures.controls(pd.DataFrame(rows[:3] + rows[4:]), teacher_bleu=95.0)


class TestChapter(ChapterTests):
    SLUG = "replacing_attention"
    PICTURES = {  # noqa: RUF012
        "board": (
            lambda: board({("cross", 1): "mean", ("encoder_self", 0): "net"}),
            "In place: encoder self, layer 1: net; cross, layer 2: mean. BLEU 40.0 (teacher 98.0)",
        ),
        "board/empty": (lambda: board({}), "In place: attention everywhere."),
        "scores": (
            lambda: pictures.scores(SCORES, teacher_bleu=99.0),
            "The teacher's BLEU is 99.0. a: 50.0 to 60.0% of the next tokens, BLEU 10.0 to 20.0; "
            "b: 90.0% of the next tokens, BLEU 80.0.",
        ),
        "scores/alone": (lambda: pictures.scores(SCORES), "BLEU 80.0."),
        "controls": (
            controls, "Encoder self: best control mean 30.0, net 90.0; Decoder self: best control "
            "mean 30.0, net 90.0, per-query net 80.0;",
        ),
        "moved_outputs": (
            lambda: pictures.moved_outputs(np.ones((3, 3)), words=["<bos>", "a", "b"], what="Net"),
            "Net. Of 3 pairs in which the edited position is later than the output, 3 move; the "
            "largest such change is 1.000",
        ),
    }  # fmt: skip
    PANELS = {  # noqa: RUF012
        "translations": lambda: (
            lambda **said: str(small_bench().translations({"Teacher": {}}, **said)),
            live.SENTENCE_DIAL,
        ),
    }


# Exercises ---------------------------------------------------------------------------------------


def test_an_edit_in_place_is_reported():
    def careless(site, x, n_words):
        before = site(x)
        x[n_words - 1] += 1
        moved = (site(x) - before).abs().amax(-1) > 1e-9
        return moved[: n_words - 1].nonzero().flatten().tolist()

    with pytest.raises(CheckFailed, match="changes its own arguments"):
        checks.check_find_leak(careless)


@given(teacher=st.floats(1, 100), controls=st.lists(st.floats(0, 0.9), min_size=1, max_size=5))
def test_the_teacher_keeps_all_and_the_best_control_nothing(teacher, controls):
    assert checks.kept_share(teacher, teacher, controls) == pytest.approx(1)
    assert checks.kept_share(max(controls), teacher, controls) == 0
    assert np.isnan(checks.kept_share(50, 60, [60]))


@given(n_words=st.integers(1, 7), n_padding=st.integers(0, 3))
def test_leaks_are_found_with_any_padding(n_words, n_padding):
    x, earlier = torch.randn(n_words + n_padding, 3).double(), list(range(n_words - 1))
    for leak, found in (({}, []), ({"ahead": 1.0}, earlier), ({"next_word": 1.0}, earlier[-1:])):
        assert checks.find_leak(checks.site(n_words, **leak), x, n_words) == found


# The released layout ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written_out():
    """Return what the cells of the notebook define that write the released layout out."""
    cells = jupytext.read(ROOT / "notebooks/src/09_replacing_attention.py", fmt="py:percent").cells
    texts = [c.source for c in cells if "class ReleasedLayout" in c.source or "InUse(" in c.source]
    first, second = texts
    names = {"nn": torch.nn, "torch": torch, "find_leak": checks.find_leak}
    exec(first, names)
    exec(second[: second.index("written_out =")], names)
    return names


def test_the_released_layout_has_its_weights_and_leaks_at_every_width(written_out):
    assert written_out["n_weights"] == 992_150
    for n_slots, n_words in ((7, 1), (7, 4), (5, 5)):
        net = written_out["ReleasedLayout"](n_slots, 3, 4).double()
        x, m = torch.randn(n_slots, 3).double(), torch.randn(1, 2, 3).double()
        padding = torch.arange(n_slots)[None] >= n_words
        leak = checks.find_leak(
            lambda z, net=net, m=m, p=padding: net(z[None], m, target_padding=p)[0].detach(),
            x,
            n_words,
        )
        assert leak == list(range(n_words - 1))


def test_the_net_written_in_the_notebook_is_the_published_student(written_out, bench):
    spec, batch = StudentSpec(site="cross", layout="paper", size="s"), collate_pairs(bench.test)
    student = build_students(bench.teacher, spec=spec)["cross", 1].double()
    given = capture(bench.teacher, batch, sites=["cross"], layers=[1])["cross", 1]
    for weight in student.parameters():
        torch.nn.init.normal_(weight)
    net = written_out["poured"](student).double()
    with torch.no_grad():
        torch.testing.assert_close(
            net(given.inputs, **given.context), student(*given[:1], **given.context)
        )
        student.sees_future = False  # as in use: what is later is zero
        x, memory = given.inputs, {"source_padding": given.source_padding}
        state, wanted = (
            net.initial_state(given.memory, **memory),
            student(x, given.memory, **memory),
        )
        for t in range(x.shape[1]):
            y, state = net.step(x[:, t], state)
            torch.testing.assert_close(y, wanted[:, t])


# Swaps -------------------------------------------------------------------------------------------


def test_the_line_of_the_present_has_the_future_on_its_right():
    one = pictures.moved_outputs(np.tril(np.ones((3, 3))), words=["<bos>", "a", "b"], what="Net")
    assert "0 move; the largest such change is 0.000" in one.words
    x, y = one.ax.lines[-1].get_data()
    assert list(x) == [1, 1, 2, 2, 3, 3]
    assert list(y) == [0, 1, 1, 2, 2, 3]


def test_seeds_are_points_of_their_row():
    ax = pictures.scores(SCORES).ax
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    (bleu,) = (line for line in ax.lines if line.get_label() == "BLEU, written freely")
    assert np.transpose(bleu.get_data()).tolist() == [[10, 0], [20, 0], [80, 1]]


def test_nets_stand_where_their_site_is(bench):
    assert "cut net" in bench.names_at(("cross", 1))
    assert "cut net" not in bench.names_at(("decoder_self", 0))
    assert len(bench.everywhere(encoder_self="mean", cross="mean")) == 1 + 2
    with pytest.raises(UnknownNameError, match="stand-in"):
        bench.score({("decoder_self", 0): "cut net"})


def test_a_score_leaves_the_teacher_as_it_was(bench):
    before = logits(bench)
    score = bench.score(bench.everywhere(cross="zero", decoder_self="net"))
    (row,) = bench.score_each("cross", ["zero"])
    assert row["bleu"] == bench.score(bench.everywhere(cross="zero")).bleu
    assert score.loss_nats > 0
    assert score != bench.score({})
    assert torch.equal(logits(bench), before)


def test_attention_in_place_of_attention_changes_nothing(bench):
    assert bench.score(bench.everywhere(**dict.fromkeys(pictures.SITES, "attention"))) == (
        bench.score({})
    )


def test_the_board_swaps_and_undoes_to_the_same_bits(bench, shown):
    whole = logits(bench)
    board = live.show_swaps(bench, stills=[[("cross, layer 1", "mean")], []])
    assert "In place: cross, layer 1: mean" in shown[0][0]["text/plain"]
    before = logits(board.bench)
    for place, stand_in in (("cross, layer 2", "cut net"), ("encoder self, all layers", "uniform")):
        board.place.value = place
        board.stand_in.value = stand_in
        board.put_button.click()
    assert board.swaps == {("cross", 1): "cut net", ("encoder_self", 0): "uniform"}
    assert "cross, layer 2: cut net" in board.status.value
    assert not torch.equal(logits(board.bench), before)
    assert torch.equal(logits(bench), whole)  # the board has a teacher of its own
    board.undo_button.click()
    assert board.swaps == {("cross", 1): "cut net"}
    board.undo_button.click()
    board.undo_button.click()
    assert torch.equal(logits(board.bench), before)
    assert "attention everywhere" in board.status.value
    assert board.undo_button.disabled


def test_a_place_offers_only_what_fits_and_an_error_is_said(bench, shown):
    board = live.show_swaps(bench, stills=[])
    offered = {}
    for place in ("decoder self, layer 1", "cross, layer 1"):
        board.place.value = place
        offered[place] = "cut net" in [name for _, name in board.stand_in.options]
    assert offered == {"decoder self, layer 1": False, "cross, layer 1": True}
    board.stand_in.value = "mean"
    board.bench.stand_ins = {"zero": {}}
    board.put_button.click()
    assert "role='alert'" in board.status.value


def test_what_stands_there_already_leaves_nothing_to_undo(bench, shown):
    board = live.show_swaps(bench, stills=[])
    board.stand_in.value = "attention"
    board.put_button.click()
    assert board.undo_button.disabled
    board.stand_in.value = "zero"
    for _ in range(2):
        board.put_button.click()
    assert len(board.done) == 1
    board.undo_button.click()
    assert board.swaps == {}
    assert board.undo_button.disabled


def test_panels_can_be_switched_off(bench, shown, monkeypatch):
    monkeypatch.setenv("ATTNLAB_WIDGETS", "off")
    assert live.show_swaps(bench, stills=[[]]) is None


def test_carets_stand_under_wrong_words():
    assert live.carets("una milo vida", "una kava vida") == "\n    ^^^^"
    assert live.carets("una", "una") == ""
    assert "(1 missing)" in live.carets("una", "una kava")
    assert live.carets("una una", "una") == "\n    ^^^"


def test_a_stand_in_that_is_built_later_is_offered_by_the_board(bench):
    board = live.SubstitutionBoard(bench)
    sites = [layer.self_attention for layer in bench.teacher.encoder]
    mine = {("encoder_self", i): checks.stand_in_of()(site) for i, site in enumerate(sites)}
    bench.stand_ins["neighbours"] = mine
    board.place.value = "decoder self, all layers"
    board.place.value = "encoder self, all layers"
    assert "neighbours" in [value for _, value in board.stand_in.options]
    assert bench.score_each("encoder_self", ["neighbours"])[0]["bleu"] >= 0
