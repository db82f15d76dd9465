"""Checks find the first failing case, name the likely mistake, and never show the answer."""

import contextlib
import io
import os
import signal
import sys
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.teach import CheckFailed, Exercise, difference, read_quiz, show_quiz
from attnlab.teach.comparing import NEUTRAL
from attnlab.teach.quiz import Option, Question, QuizPanel, quiz_markdown
from attnlab.teach.running import TooLong, run

CASES = [
    ("one row", np.array([[1.0, 2.0]])),
    ("three rows", np.arange(15.0).reshape(3, 5)),
]


def shares(x):
    return x / x.sum(axis=-1, keepdims=True)


def column_shares(x):
    return x / x.sum(axis=0, keepdims=True)


MISTAKES = {column_shares: "The sum ran over the wrong axis."}


def judge(student, *, mistakes=MISTAKES):
    Exercise(shares, CASES, mistakes)(student)


def test_a_right_answer_is_said_to_be_right(capsys):
    judge(shares)
    said = capsys.readouterr().out
    assert said == "Correct: shares passes 2 cases from 'one row' to 'three rows'.\n"


def test_a_long_sentence_on_a_right_answer_is_broken_between_words(capsys):
    labels = [f"{n} rows of a table with a long name" for n in ("one", "three")]
    Exercise(shares, [(label, *case[1:]) for label, case in zip(labels, CASES, strict=True)])(
        shares
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 90


def test_a_known_mistake_is_named_with_got_and_expected(capsys):
    with np.errstate(all="ignore"), pytest.raises(CheckFailed, match="wrong axis"):
        judge(column_shares)
    said = capsys.readouterr().out
    assert "fails the case 'one row'" in said
    assert "got:      [[1.0, 1.0]]" in said
    assert "expected: [[0.3333, 0.6667]]" in said


def test_the_mistake_that_explains_most_cases_is_named():
    lazy = {np.ones_like: "It is one everywhere."}
    with np.errstate(all="ignore"), pytest.raises(CheckFailed, match="wrong axis"):
        judge(column_shares, mistakes=lazy | MISTAKES)


@pytest.mark.parametrize(
    ("student", "diagnosis"),
    [
        (lambda x: None, "is a return missing"),
        (lambda x: shares(x).T, "It is the transpose"),
        (lambda x: -shares(x), "Only the sign is wrong"),
        (lambda x: shares(x) / np.log(2), "It is in bits"),
        (lambda x: shares(x) * np.log(2), "too small by log 2"),
        (lambda x: 3 * shares(x), "Every value is 3 times"),
        (lambda x: shares(x) * np.nan, "There is a NaN"),
        (lambda x: shares(x)[0], "The shape is wrong"),
        (lambda x: shares(x).ravel(), "right, in another shape"),
        (lambda x: x[0] ** 2, "The shape is wrong"),
        (lambda x: shares(x) ** 2, "do the smallest case by hand"),
        (lambda x: shares(x) / 0, "There is an infinity"),
        (lambda x: np.round(shares(x), 3), "right within a hundredth"),
        (lambda x: shares(x).astype(np.float16), "right within a hundredth"),
        (lambda x: "text", "It is text where numbers are expected"),
        (lambda x: {"a": 1}, "It is of type dict; expected: numbers"),
        (lambda x: shares(x) + 1j, "The numbers are complex"),
        (lambda x: (row for row in shares(x)), "It is a generator"),
        (lambda x: shares, "not its result: call it"),
        (lambda x: [[1.0], [1.0, 2.0]], "The items differ in length"),
        (lambda x: object(), "It is of type object"),
        (lambda x: True, "The shape is wrong"),
        (lambda x: torch.ones(2, device="meta"), "It is of type Tensor"),
        (lambda x: 1 / 0, "it raised ZeroDivisionError: division by zero .line"),
        (lambda x: x.nothing, "it raised AttributeError"),
        (lambda: 1, "it raised TypeError"),
    ],
)
def test_a_wrong_answer_is_diagnosed(student, diagnosis):
    with pytest.raises(CheckFailed, match=diagnosis):
        judge(student, mistakes={})


def test_the_last_case_catches_what_the_first_lets_through(capsys):
    with pytest.raises(CheckFailed, match="case 'three rows'"):
        judge(lambda x: x / x.sum())
    assert "values differ; the first is at index (0, 1)" in capsys.readouterr().out


def test_a_rule_that_fits_one_case_alone_is_not_told():
    """One for a fair coin's log 2 is a guess, no answer in bits."""
    entropy = Exercise(np.log, [("two", 2.0), ("three", 3.0), ("five", 5.0)])
    assert entropy.verdict(lambda n: 1.0).sentence == NEUTRAL
    assert "in bits" in entropy.verdict(np.log2).sentence
    assert "cut to whole numbers" in entropy.verdict(lambda n: int(np.log(n))).sentence


def test_a_mistake_that_agrees_by_chance_is_not_named():
    cases = [(str(n), n) for n in (2, 3, 4, 5)]
    exercise = Exercise(lambda n: n * n, cases, {lambda n: 2 * n + 1: "Twice, and one more."})
    assert exercise.verdict(lambda n: 5).sentence == NEUTRAL
    assert exercise.verdict(lambda n: 2 * n + 1).sentence == "Twice, and one more."


def endless(x):
    while True:
        pass


def deaf(x):
    while True:
        with contextlib.suppress(BaseException):  # as a bare "except" does
            x = x + 0


def without_end(x):
    return without_end(x)


def chatter(x):
    for _ in range(100):
        sys.stdout.write(f"here {x}\n")
    warnings.warn("odd", stacklevel=1)
    return np.log(-np.abs(x))


class Unprintable(Exception):
    def __str__(self):
        raise ValueError


def unprintable(x):
    raise Unprintable


ANYTHING = {
    endless: "stopped after 0.3 seconds",
    deaf: "stopped after 0.3 seconds",
    lambda x: time.sleep(100): "stopped after 0.3 seconds",
    without_end: "calls itself without end",
    lambda x: np.ones((10**6, 10**6)): "more memory",
    lambda x: torch.ones(10**12): "it raised RuntimeError",
    lambda x: sys.exit(3): "ends the program",
    lambda x: exec("raise KeyboardInterrupt"): "interrupted",
    lambda x: exec("raise BaseException('so')"): "it raised BaseException: so",
    unprintable: "cannot be printed",
    chatter: "There is a NaN",
    lambda x: torch.sparse_coo_tensor((2, 2)): "shape",
    lambda x: np.array(["a", "b"]): "It is of type ndarray",
    lambda x: {1: 2, "a": 3}: "It is of type dict",
    lambda x: [torch.ones(2, requires_grad=True)] * 3: "shape",
    lambda x: iter(int, 1): "generator",
}


CLOCKS = [(student, clock) for clock in ("alarm", "thread") for student in ANYTHING]
CLOCKS.remove((deaf, "thread"))  # a thread cannot be stopped against its will


@pytest.mark.parametrize(("student", "clock"), CLOCKS)
def test_whatever_an_answer_does_one_verdict_is_printed_and_nothing_raised(
    student, clock, monkeypatch, capfd
):
    """No traceback, no warning (they are errors here), no print but the verdict."""
    if clock == "thread":
        monkeypatch.setattr("attnlab.teach.running._has_alarm", lambda: False)
    monkeypatch.delenv("ATTNLAB_STRICT")
    Exercise(shares, CASES, MISTAKES, limit_s=0.3)(student)
    said, beside = capfd.readouterr()
    assert ANYTHING[student] in said
    assert said.startswith("Not yet: ")
    assert said.count("\n") < 16
    assert not beside
    Exercise(shares, CASES)(shares)
    assert capfd.readouterr().out.startswith("Correct")


def test_an_alarm_set_by_others_still_rings():
    if not hasattr(signal, "setitimer"):
        pytest.skip("not on Windows")
    left, _ = signal.setitimer(signal.ITIMER_REAL, 200)
    try:
        judge(shares)
        assert 190 < signal.getitimer(signal.ITIMER_REAL)[0] <= 200
    finally:
        signal.setitimer(signal.ITIMER_REAL, left or 0)


@pytest.mark.skipif(os.name == "nt", reason="not on Windows: there is no alarm")
def test_an_alarm_that_rings_as_a_call_begins_or_ends_is_not_left_behind():
    before = signal.getsignal(signal.SIGALRM)
    for limit_s in [1e-6] * 100 + [1e-4] * 100:
        outcome = run(np.sum, [np.ones(3)], limit_s=limit_s)
        assert outcome.value == 3 or isinstance(outcome.error, TooLong)
        assert signal.getitimer(signal.ITIMER_REAL)[1] == 0.0  # ours would ring again and again
    assert signal.getsignal(signal.SIGALRM) is before


def test_gradients_are_on_after_an_answer_that_turned_them_off():
    def off(x):
        torch.set_grad_enabled(False)
        return shares(x)

    judge(off)
    assert torch.is_grad_enabled()


def test_what_an_answer_prints_and_warns_of_is_shown_once_for_the_failing_case(capsys):
    with pytest.raises(CheckFailed):
        judge(chatter)
    said = capsys.readouterr().out
    assert said.count("It printed:") == said.count("It warned: UserWarning: odd") == 1
    judge(lambda x: sys.stdout.write("quiet") * shares(x) / 5)
    assert capsys.readouterr().out.startswith("Correct: ")


@pytest.mark.parametrize("thing", [None, 0.5, np.ones(2), "shares"])
def test_a_result_in_place_of_the_function_is_told(thing):
    with pytest.raises(CheckFailed, match="the function itself"):
        judge(thing)


def test_a_verdict_is_printed_and_raised_only_where_asked(monkeypatch, capsys):
    exercise = Exercise(shares, CASES, MISTAKES)
    with pytest.raises(CheckFailed, match="wrong axis"):
        exercise(column_shares)  # ATTNLAB_STRICT=1, as the tests and the notebook tool set it
    exercise(column_shares, strict=False)
    monkeypatch.setenv("ATTNLAB_STRICT", "0")
    exercise(column_shares)
    assert capsys.readouterr().out.count("The sum ran over the wrong axis.") == 3
    with pytest.raises(CheckFailed):
        exercise(column_shares, strict=True)


def test_a_page_goes_on_with_a_right_function(capsys):
    exercise = Exercise(shares, CASES, MISTAKES)
    mine = lambda x: shares(x)  # noqa: E731
    assert exercise.hand_on(mine) is mine
    assert exercise.hand_on(column_shares, strict=False) is shares
    assert exercise.hand_on(None, strict=False) is shares
    assert capsys.readouterr().out.count("The page goes on with a right one.") == 2
    with pytest.raises(CheckFailed):
        exercise.hand_on(column_shares)


def test_a_grader_sees_each_failure_and_the_page_goes_on(monkeypatch, capsys):
    """As in a kernel: the shell shows the error, which fails the cell, and nothing is raised."""
    exercise, seen = Exercise(shares, CASES, MISTAKES), []
    shell = SimpleNamespace(showtraceback=lambda error: seen.append(error[1]))
    monkeypatch.setattr("attnlab.teach.exercise.get_ipython", lambda: shell)
    monkeypatch.setenv("ATTNLAB_STRICT", "grade")
    assert exercise.hand_on(column_shares) is shares
    exercise(shares)
    (error,) = seen
    assert isinstance(error, CheckFailed)
    monkeypatch.setattr("attnlab.teach.exercise.get_ipython", lambda: None)
    with pytest.raises(CheckFailed):
        exercise(column_shares)


def test_an_unwritten_body_waits_without_an_error(monkeypatch, capsys):
    def mixture(x):
        raise NotImplementedError

    monkeypatch.delenv("ATTNLAB_STRICT")
    judge(mixture)
    assert capsys.readouterr().out.startswith("mixture waits for you: write its body")


def test_a_console_that_cannot_write_a_sign_gets_an_escape(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr("sys.stdout", console)
    Exercise(lambda: "ℓ", [("größer",)])(lambda: "→", strict=False)
    console.seek(0)
    assert "\\u2192" in console.read()


class Scale(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gain


class Shift(Scale):
    def forward(self, x):
        return x + self.gain


def output_of(build, x):
    module = build(x.shape[-1])
    if not hasattr(module, "gain"):
        raise CheckFailed("The module has no parameter called gain.")
    module.gain.data = torch.arange(x.shape[-1]).float()
    return {"output": module(x), "parameters": sum(p.numel() for p in module.parameters())}


def test_something_built_is_used_before_it_is_compared():
    cases = [("one", torch.ones(1)), ("two by three", torch.arange(6.0).view(2, 3))]
    exercise = Exercise(Scale, cases, {Shift: "It adds; a gain multiplies."}, use=output_of)
    assert exercise.faults() == []
    exercise(Scale)
    assert exercise.verdict(torch.nn.Identity).sentence == (
        "The module has no parameter called gain."
    )
    assert "it raised TypeError" in exercise.verdict(lambda: None).sentence


def test_an_unwritten_body_passes_its_error_through_with_a_friendly_line(capsys):
    def mixture(x):
        raise NotImplementedError("Return the (B, T, D) mixture.")

    with pytest.raises(NotImplementedError):
        judge(mixture)
    assert capsys.readouterr().out == "mixture waits for you: Return the (B, T, D) mixture.\n"


def test_changing_an_argument_is_told_and_harms_no_later_case():
    def greedy(x):
        x /= x.sum(axis=-1, keepdims=True)
        return x

    with pytest.raises(CheckFailed, match="changes its own arguments"):
        judge(greedy)
    judge(shares)


def test_tensors_are_compared_without_caring_for_gradients_or_type():
    x = torch.tensor([[1.0, 3.0]], dtype=torch.bfloat16, requires_grad=True)
    exercise = Exercise(shares_of_tensor, [("bfloat16", x)])
    exercise(lambda x: np.array([[0.25, 0.75]]))
    with pytest.raises(CheckFailed, match="sign"):
        exercise(lambda x: -shares_of_tensor(x))


def shares_of_tensor(x):
    return x / x.sum(dim=-1, keepdim=True)


def test_a_generator_and_a_model_are_copied_for_each_call():
    layer = torch.nn.Linear(3, 2)
    cases = [("drawn", torch.Generator().manual_seed(5), layer)]

    def draw(generator, layer):
        return layer(torch.rand(2, 3, generator=generator))

    Exercise(draw, cases)(draw)


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (1, 1.0),
        (np.float32(0.1), 0.1),
        ("tea", "tea"),
        ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]])),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ((torch.ones(2), "a"), (np.ones(2), "a")),
        ({"a": 1.0}, {"a": 1}),
        ([[1], [2, 3]], [[1], [2, 3]]),
        (np.array([np.nan]), np.array([np.nan])),
        (torch.Size([2, 3]), (2, 3)),
        (None, None),
    ],
)
def test_equal_results_of_any_kind_do_not_differ(got, want):
    assert difference(got, want) == ""


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (1, 2),
        ("tea", "tee"),
        ("1", 1),
        ([1, 2], [1, 2, 3]),
        ([torch.ones(2)], [torch.ones(2), torch.ones(2)]),
        ((1, "a"), (1, "b")),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": 2}),
        ([[1], [2, 3]], [[1], [2, 4]]),
        (None, 1),
        (object(), 1),
        (np.ones((2, 1)), np.ones(2)),
    ],
)
def test_different_results_of_any_kind_differ(got, want):
    assert "expected:" in difference(got, want)


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), index=st.integers(0, 19))
@settings(deadline=None, max_examples=25)
def test_a_thousandth_is_always_seen(values, index):
    want = np.array(values)
    got = want.copy()
    got[index % len(got)] += 1e-3 * max(1.0, abs(got[index % len(got)]))
    assert difference(got, want)
    assert not difference(want.copy(), want)


def test_an_exercise_that_would_miss_a_mistake_is_found_out():
    assert Exercise(shares, CASES, MISTAKES).faults() == []
    blind = {shares: "never said", (lambda x: column_shares(x)): "Another sentence."}
    faults = Exercise(shares, CASES, MISTAKES | blind).faults()
    assert faults[0] == "'never said': passes every case"
    assert faults[1].startswith("'Another sentence.' is diagnosed as")


def test_a_failed_check_is_one_of_our_errors_and_shows_no_stack():
    error = CheckFailed("Say it once.")
    assert isinstance(error, AttnlabError)
    assert error._render_traceback_() == ["CheckFailed: Say it once."]


QUESTIONS = [
    Question(
        "What is $h$?",
        [
            Option("the floor", "On **average**, `h < H` and $a < b$.", is_right=True),
            Option("the ceiling", "No loss is bounded above."),
        ],
    ),
    Question("Two?", [Option("yes", "1 + 1", is_right=True), Option("no", "Count.")]),
]


def test_quiz_text_has_questions_first_and_reasons_in_a_fold():
    text = quiz_markdown(QUESTIONS)
    assert text == quiz_markdown(QUESTIONS)
    assert text.index("**2.** Two?") < text.index("<details>") < text.index("**B** Not so. Count.")
    assert text.endswith("</details>")


def test_a_chosen_option_shows_its_reason_as_a_status_and_the_first_try_counts():
    quiz = QuizPanel(QUESTIONS)
    assert "0 right at the first try, 0 of 2 answered" in quiz.score.value
    right, wrong = quiz.buttons[0].values()
    right.click()
    assert quiz.reasons[0].value == (
        "<p role='status'><b>A</b> Right. On <b>average</b>, <code>h &lt; H</code> "
        "and $a &lt; b$.</p>"
    )
    wrong.click()
    assert "Not so. No loss is bounded above." in quiz.reasons[0].value
    assert quiz.reasons[1].value == ""
    assert (right.button_style, wrong.button_style) == ("success", "warning")
    quiz.buttons[1]["B"].click()
    quiz.buttons[1]["A"].click()
    assert "1 right at the first try, 2 of 2 answered" in quiz.score.value


def test_an_option_is_a_button_as_wide_as_its_question():
    quiz = QuizPanel(QUESTIONS)
    assert [button.description for button in quiz.buttons[0].values()] == [
        "A.  the floor",
        "B.  the ceiling",
    ]
    assert "attnlab-option" in quiz.buttons[0]["A"]._dom_classes


QUIZ = """# One

What is $h$?

- [x] the floor
  > On **average**, `h < H` and
  > $a < b$.
- [ ] the
  ceiling
  > No loss is bounded above.

Two?

- [x] yes
  > 1 + 1
- [ ] no
  > Count.
"""


def test_a_quiz_is_read_from_markdown_and_shown(shown, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "quiz.md").write_text(QUIZ)
    monkeypatch.setattr("attnlab.teach.quiz.CHAPTERS", tmp_path)
    assert read_quiz("here", part="One") == QUESTIONS
    with pytest.raises(UnknownNameError, match="Known: One"):
        read_quiz("here")
    monkeypatch.setenv("ATTNLAB_WIDGETS", "off")
    assert show_quiz("here", part="One") is None
    assert [thing.data for thing, _ in shown] == [quiz_markdown(QUESTIONS)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([Option("a", "b", is_right=True)], "two to six"),
        ([Option("a", "b"), Option("c", "d")], "is right"),
        ([Option("a", "b", is_right=True), Option("c", " ")], "lacks its reason"),
    ],
)
def test_a_question_nobody_can_answer_is_refused(options, said):
    with pytest.raises(AttnlabError, match=said):
        Question("Why?", options)
