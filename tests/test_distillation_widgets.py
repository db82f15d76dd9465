"""Explorers of notebook 08, at their extremes."""

import asyncio

import pytest

from attnlab.config import TrainConfig
from attnlab.distillation import StudentSpec, build_students
from attnlab.sources import translation_source
from attnlab.teaching.distillation_runs import FitPoint
from attnlab.teaching.live_translation import seeded_translator
from attnlab.widgets import distillation as widgets

SOURCE = translation_source()

pytestmark = pytest.mark.usefixtures("no_open_figures")


@pytest.fixture(scope="module")
def teacher():
    sizes = {"source_vocab_size": SOURCE.vocab_size, "target_vocab_size": SOURCE.vocab_size}
    return seeded_translator(**sizes, d_model=8, n_heads=2, d_ff=8, max_len=16).float()


def test_the_viewer_takes_every_student_layer_head_and_sentence(teacher, quick_pictures, capsys):
    students = {
        "ALR XS": build_students(teacher, spec=StudentSpec(size="xs")),
        "ASLR XS": build_students(teacher, spec=StudentSpec(method="aslr", size="xs")),
    }
    explorer = widgets.show_output_viewer(teacher, students, source=SOURCE, presets=[{}])
    for name, control in explorer.controls.items():
        for _, value in control.options:
            control.value = value
            assert "role='alert'" not in explorer.status.value, name
    assert "ASLR XS, layer 2, head 2" in explorer.status.value


def test_every_sentence_of_the_viewer_belongs_to_the_language():
    for text in widgets.SENTENCES.values():
        tokens = SOURCE.encode(text)
        assert len(tokens) <= SOURCE.max_source_len
        assert len(SOURCE.translate(tokens)) <= SOURCE.max_target_len


def test_the_board_shows_what_was_and_teaches_another(teacher, monkeypatch, capsys):
    monkeypatch.setattr(widgets, "N_BOARD_LESSONS", 40)
    still = [FitPoint(0, {"alr/m": (1.2, 1.1)}), FitPoint(10, {"alr/m": (0.5, 0.4)})]
    recipe = TrainConfig(n_steps=10, batch_size=8, lr=1e-3)
    board = widgets.show_fit_board(teacher, source=SOURCE, recipe=recipe, still=still)
    board.controls["method"].value = "elr"
    board.controls["size"].value = "xs"
    asyncio.run(board.drive())
    assert [point.step for point in board.history] == list(range(0, 101, 10))
    assert "ELR XS" in board.status.value
    assert "role='alert'" not in board.status.value
