"""Quizzes whose every option has a reason."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import ipywidgets as w
from IPython.display import Markdown, display

from attnlab.errors import AttnlabError
from attnlab.widgets.core import show_live, widgets_on


@dataclass(frozen=True)
class Option:
    """One answer, why it is right or wrong, and which of the two."""

    text: str
    reason: str
    is_right: bool = False


@dataclass(frozen=True)
class Question:
    """A question with two to six options, at least one of them right."""

    text: str
    options: Sequence[Option]

    def __post_init__(self) -> None:
        """Refuse a question that nobody can answer."""
        if not 2 <= len(self.options) <= 6:
            raise AttnlabError(f"{self.text!r} has {len(self.options)} options; give two to six.")
        if not any(option.is_right for option in self.options):
            raise AttnlabError(f"No option of {self.text!r} is right. Set is_right=True on one.")
        if not all(option.reason.strip() for option in self.options):
            raise AttnlabError(f"An option of {self.text!r} lacks its reason. Write one sentence.")


def quiz_markdown(questions: Sequence[Question]) -> str:
    """Return the questions, then all answers with their reasons in a fold."""
    asked, answered = [], []
    for number, question in enumerate(questions, start=1):
        letters = dict(zip(ascii_uppercase, question.options, strict=False))
        options = "\n".join(f"- **{letter}** {option.text}" for letter, option in letters.items())
        asked.append(f"**{number}.** {question.text}\n\n{options}")
        reasons = "\n".join(f"- {_judged(letter, option)}" for letter, option in letters.items())
        answered.append(f"**{number}.**\n\n{reasons}")
    fold = "<details><summary>Answers, with reasons</summary>\n\n{}\n\n</details>"
    return "\n\n".join([*asked, fold.format("\n\n".join(answered))])


class QuizPanel:
    """A row of letters for each question; choosing one shows its reason."""

    def __init__(self, questions: Sequence[Question]) -> None:
        """Build the panel; nothing is chosen at first."""
        rows = []
        self.buttons: list[w.ToggleButtons] = []
        self.reasons: list[w.HTMLMath] = []
        for number, question in enumerate(questions, start=1):
            buttons, reason = _letters(number, question), w.HTMLMath()
            reason.add_class("attnlab-status")
            buttons.observe(_answer(question, reason), names="value")
            self.buttons.append(buttons)
            self.reasons.append(reason)
            rows.append(w.VBox([buttons, reason]))
        self.panel = w.VBox(rows)
        self.panel.add_class("attnlab-quiz")

    def _ipython_display_(self) -> None:
        """Show nothing: the panel is on the page already."""


def show_quiz(questions: Sequence[Question]) -> QuizPanel | None:
    """Print questions with folded answers; then, live, letters that give the reason.

    Returns:
        The panel, or None if ``ATTNLAB_WIDGETS=off``.
    """
    display(Markdown(quiz_markdown(questions)))
    if not widgets_on():
        return None
    quiz = QuizPanel(questions)
    show_live(quiz.panel)
    return quiz


def _judged(letter: str, option: Option) -> str:
    return f"**{letter}** {'Right.' if option.is_right else 'Not so.'} {option.reason}"


def _letters(number: int, question: Question) -> w.ToggleButtons:
    letters = list(ascii_uppercase[: len(question.options)])
    return w.ToggleButtons(
        options=letters,
        value=None,
        description=f"Question {number}",
        tooltip=f"Answer to question {number}. Tab and Space choose.",
        tooltips=[option.text for option in question.options],
        style={"description_width": "initial", "button_width": "3em"},
    )


def _answer(question: Question, reason: w.HTMLMath):
    def answer(change) -> None:
        if change["new"] is None:
            reason.value = ""
            return
        option = question.options[ascii_uppercase.index(change["new"])]
        reason.value = f"<p role='status'>{_inline_html(_judged(change['new'], option))}</p>"

    return answer


def _inline_html(markdown: str) -> str:
    """Return one line of Markdown (bold, italic, code) as HTML; maths is left to the page."""
    parts = re.split(r"(\$[^$]+\$|`[^`]+`)", markdown)
    return "".join(_part_html(part) for part in parts)


def _part_html(part: str) -> str:
    safe = html.escape(part, quote=False)
    if part.startswith("$"):
        return safe
    if part.startswith("`"):
        return f"<code>{safe.strip('`')}</code>"
    safe = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", safe)
    return re.sub(r"\*(.+?)\*", r"<i>\1</i>", safe)
