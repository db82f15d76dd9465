"""Explorers of notebook 08: teacher, student and difference of a head; a board that teaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from matplotlib.figure import Figure

from attnlab.config import TrainConfig
from attnlab.distillation import Student, StudentSpec
from attnlab.models import Translator
from attnlab.plots.distillation import (
    describe_errors,
    describe_outputs,
    plot_errors,
    plot_outputs,
)
from attnlab.sources import TranslationSource
from attnlab.teaching.distillation_runs import Course, FitPoint, Key, as_rows, head_outputs
from attnlab.widgets.board import RunBoard, show_run_board
from attnlab.widgets.core import Explorer, choice, show_explorer

SENTENCES = {
    "a cat hear": "a cat hear",
    "the red bird see a dog": "the red bird see a dog",
    "the red bird near three tall cat see a dog": "the red bird near three tall cat see a dog",
}
N_POINTS = 10  # of a lesson on the board
N_BOARD_LESSONS = 3000


def show_output_viewer(
    teacher: Translator,
    students: Mapping[str, Mapping[Key, Student]],
    *,
    source: TranslationSource,
    presets: Sequence[dict[str, Any]],
) -> Explorer | None:
    """Show what a head of the encoder writes, what a student says, and the difference.

    Args:
        teacher: Trained on ``source``.
        students: Encoder students of head outputs, one for each layer, by name.
        source: Languages with the words of ``SENTENCES``.
        presets: Settings of ``student``, ``layer``, ``head`` and ``sentence``.
    """
    heads = {f"{i + 1}": i for i in range(teacher.config.n_heads)}
    layers = {f"{i + 1}": i for i in range(teacher.config.n_encoder_layers)}
    controls = {
        "student": choice("Student", options=list(students), tooltip="Kind and size of the net"),
        "layer": choice("Layer", options=layers, tooltip="Encoder layer, counted from the first"),
        "head": choice("Head", options=heads, tooltip="One look-up of the layer"),
        "sentence": choice("Sentence", options=SENTENCES, tooltip="What is read"),
    }

    @lru_cache(maxsize=64)
    def written(student: str, layer: int, sentence: str) -> Any:
        return head_outputs(
            teacher,
            students[student]["encoder_self", layer],
            source=source,
            tokens=source.encode(sentence),
            layer=layer,
        )

    def parts(student: str, layer: int, head: int, sentence: str) -> dict[str, Any]:
        y, found = written(student, layer, sentence)
        return {"teacher": y[head], "student": found[head], "words": sentence.split()}

    def draw(**values: Any) -> Figure:
        return plot_outputs(**parts(**values))

    def describe(**values: Any) -> str:
        place = f"layer {values['layer'] + 1}, head {values['head'] + 1}"
        return f"{values['student']}, {place}. {describe_outputs(**parts(**values))}"

    return show_explorer(draw, controls, presets=presets, describe=describe)


def show_fit_board(
    teacher: Translator,
    *,
    source: TranslationSource,
    recipe: TrainConfig,
    still: Sequence[FitPoint],
) -> RunBoard | None:
    """Show how the errors of the notebook's students fell, then a board that teaches others.

    Args:
        teacher: Trained on ``source``.
        source: Languages of the teacher.
        recipe: Rate and seed; the board sets the steps.
        still: Points of the fit in the notebook.
    """

    def run(*, method: str, size: str, n_steps: int, lr: float) -> Iterator[FitPoint]:
        arms = {f"{method}/{size}": StudentSpec(method=method, size=size)}
        config = replace(recipe, n_steps=n_steps, lr=lr, warmup_steps=n_steps // 20)
        course = Course(teacher, source=source, arms=arms, config=config, n_lessons=N_BOARD_LESSONS)
        yield from course.points(every=n_steps // N_POINTS)

    methods = {name.upper(): name for name in ("alr", "aslr", "alrr", "elr")}
    sizes = {name.upper(): name for name in ("xs", "s", "m", "l")}
    controls = {
        "method": choice("Method", options=methods, tooltip="What the net stands for"),
        "size": choice("Size", options=sizes, value="s", tooltip="Hidden units"),
        "n_steps": choice("Steps", options=[100, 300, 1000], tooltip="Batches of lessons"),
        "lr": choice("Peak rate", options=[3e-4, 1e-3, 3e-3], value=3e-3, tooltip="Step size"),
    }
    return show_run_board(
        run,
        controls,
        n_ticks=N_POINTS + 1,
        draw=lambda points: plot_errors(as_rows(points)).figure,
        describe=lambda points: describe_errors(as_rows(points)),
        still=still,
    )
