"""Checks find the first failing case, name the likely mistake, and never show the answer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.teach import CheckFailed, Exercise, difference, read_quiz, show_quiz
from attnlab.teach.quiz import Option, Question, QuizPanel, quiz_markdown

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
        (lambda x: shares(x) ** 2, "do the smallest case by hand"),
        (lambda x: "text", "Compare the two values"),
        (lambda x: {"a": 1}, "Compare the two values"),
        (lambda x: 1 / 0, "it raised ZeroDivisionError"),
    ],
)
def test_a_wrong_answer_is_diagnosed(student, diagnosis):
    with pytest.raises(CheckFailed, match=diagnosis):
        judge(student, mistakes={})


def test_the_last_case_catches_what_the_first_lets_through(capsys):
    with pytest.raises(CheckFailed, match="case 'three rows'"):
        judge(lambda x: x / x.sum())
    assert "values differ; the first is at index (0, 1)" in capsys.readouterr().out


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
