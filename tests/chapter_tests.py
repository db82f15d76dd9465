"""What holds for every chapter; ``tests/chapters/test_<slug>.py`` says with which data."""

import itertools
import warnings
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from attnlab.chapters import import_part
from attnlab.show import Explorer, Picture
from attnlab.show.panels import make_dials
from attnlab.teach import CheckFailed, Exercise, read_quiz
from attnlab.teach.quiz import CHAPTERS


def endless(*args):
    while True:
        pass


def broken(*args):
    raise KeyError("of another's making")


class Empty:
    """What has none of the parts that an exercise asks for."""

    def __init__(self, *args):
        pass


ANY = {
    "nothing": lambda *args: None,
    "text": lambda *args: "three",
    "no number": lambda *args: float("nan"),
    "another shape": lambda *args: np.zeros((7, 3, 2)),
    "no numbers": lambda *args: np.array([None, {}], dtype=object),
    "a generator": lambda *args: (each for each in args),
    "an error": broken,
    "no end": endless,
    "a class": Empty,
    "no function": 3,
}


def exercises(chapter):
    """Return the exercises of a chapter by name."""
    checks = import_part(chapter, "checks")
    return {n: e for n, e in vars(checks or object()).items() if isinstance(e, Exercise)}


def extremes(control):
    """Return the lowest, middle and highest value of a control."""
    if hasattr(control, "options"):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        return list(dict.fromkeys([values[0], values[len(values) // 2], values[-1]]))
    if isinstance(control.value, str):
        return ["", control.value, "<b>$x$</b> ~~~ 7"]
    middle = (control.min + control.max) / 2
    whole = isinstance(control.min, int)
    return list(dict.fromkeys([control.min, int(middle) if whole else middle, control.max]))


def drive(draw, dials, *, words=lambda one: one.words):
    """Call ``draw`` at every pair of extremes of its dials; return what it said, by values."""
    controls = make_dials(dials)
    start, said = {name: control.value for name, control in controls.items()}, {}
    pairs = itertools.combinations(controls, 2) if len(controls) > 1 else [tuple(controls)]
    for names in pairs:
        for values in itertools.product(*(extremes(controls[name]) for name in names)):
            setting = {**start, **dict(zip(names, values, strict=True))}
            said[tuple(setting.values())] = words(draw(**setting))
    return said


class ChapterTests:
    """Inherit it, and fill in the tables.

    ``PICTURES``: by name of a picture, a function that draws it from a few rows, and what its words
    must contain. ``PANELS``: by name, a function without arguments that returns ``(draw, dials)``.
    """

    SLUG: ClassVar[str]
    PICTURES: ClassVar[dict[str, tuple[Any, str]]] = {}
    PANELS: ClassVar[dict[str, Any]] = {}

    def test_every_picture_is_drawn_here(self):
        module = import_part(self.SLUG, "pictures")
        own = {
            name for name, thing in vars(module or object()).items()
            if getattr(thing, "is_picture", False) and thing.__module__ == module.__name__
        }  # fmt: skip
        drawn = {name.partition("/")[0] for name in self.PICTURES}
        assert own - drawn == set()

    def test_a_picture_is_drawn_and_says_what_it_shows(self, shown_picture):
        draw, words = shown_picture
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            one = draw()
            assert isinstance(one, Picture)
            assert one.html()
        assert words in one.words
        assert "nan" not in one.words.lower().split()

    def test_a_panel_draws_at_all_pairs_of_extremes(self, panel):
        draw, dials = panel()
        said = drive(draw, dials, words=lambda one: getattr(one, "words", one))
        assert all(said.values())

    def test_a_panel_comes_alive(self, panel):
        draw, dials = panel()
        explorer = Explorer(lambda **values: ("", str(draw(**values))), dials)
        explorer.reset()
        assert "role='status'" in explorer.status.value

    def test_an_exercise_has_no_faults(self, exercise, capsys):
        assert len(exercise.mistakes) >= 3
        assert exercise.faults() == []
        exercise(exercise.right)
        assert "Correct" in capsys.readouterr().out

    def test_an_exercise_names_the_mistake_and_waits_for_an_empty_body(self, exercise):
        wrong, sentence = next(iter(exercise.mistakes.items()))
        with pytest.raises(CheckFailed) as failure:
            exercise(wrong)
        assert sentence in str(failure.value)

        def unsolved(*args):
            raise NotImplementedError("Return something.")

        with pytest.raises(NotImplementedError):
            exercise(unsolved)

    def test_an_exercise_survives_an_answer_of_any_kind(self, exercise, capfd):
        """None, another type or shape, NaN, an error, a loop without end: a sentence, no more."""
        quick = replace(exercise, limit_s=0.1, mistakes={})  # other tests have them
        for name, answer in ANY.items():
            verdict = quick.verdict(answer)
            assert verdict.problem is not None, name
            assert verdict.sentence.strip(), name
            assert "attnlab" not in verdict.text, name
            assert "NoneType' object has no" not in verdict.text, name
        assert capfd.readouterr() == ("", "")

    def test_the_quiz_can_be_read(self):
        file = CHAPTERS / self.SLUG / "quiz.md"
        if file.exists():
            titles = [line[2:] for line in file.read_text().splitlines() if line.startswith("# ")]
            for part in titles or [None]:
                assert read_quiz(self.SLUG, part=part)


def parametrize(metafunc):
    """Give each test of ``ChapterTests`` the tables of its class."""
    tables = {
        "shown_picture": lambda cls: cls.PICTURES,
        "panel": lambda cls: cls.PANELS,
        "exercise": lambda cls: exercises(cls.SLUG),
    }
    for name, table in tables.items():
        if name in metafunc.fixturenames:
            items = table(metafunc.cls)
            metafunc.parametrize(name, items.values(), ids=list(items))
