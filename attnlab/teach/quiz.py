"""Quizzes whose every option has a reason; they are written in Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

import ipywidgets as w
from IPython.display import Markdown, display

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.show.panels import show_live, widgets_on

CHAPTERS = Path(__file__).parents[1] / "chapters"
OPTION = re.compile(r"- \[([ x])\] ")


@dataclass(frozen=True)
class Option:
    """One answer, why it is right or wrong, and which of the two."""

    text: str
    reason: str
    is_right: bool = False

    @property
    def verdict(self) -> str:
        """The reason, with whether it is right before it."""
        return f"{'Right.' if self.is_right else 'Not so.'} {self.reason}"


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
            raise AttnlabError(f"No option of {self.text!r} is right. Mark one with [x].")
        if not all(option.reason.strip() for option in self.options):
            raise AttnlabError(f"An option of {self.text!r} lacks its reason. Write one sentence.")

    @property
    def lettered(self) -> dict[str, Option]:
        """The options by letter."""
        return dict(zip(ascii_uppercase, self.options, strict=False))


def read_quiz(chapter: str, *, part: str | None = None) -> list[Question]:
    """Return the questions of ``attnlab/chapters/<chapter>/quiz.md``.

    A question is a paragraph; below it stand its options, each with its reason as a quotation::

        # Part one

        **Seeds.** Why five of them?

        - [ ] To train longer.
          > Each run is as long as before.
        - [x] To see how much is chance.
          > The range over seeds says it.

    Args:
        part: The heading under which they stand; None where the file has no headings.

    Raises:
        UnknownNameError: The file has no such part.
    """
    text = (CHAPTERS / chapter / "quiz.md").read_text(encoding="utf-8")
    first, *titled = re.split(r"^# (.+)\n", text, flags=re.MULTILINE)
    parts = {None: first, **dict(zip(titled[::2], titled[1::2], strict=True))}
    if part not in parts or not parts[part].strip():
        known = [title for title in parts if title]
        step = f"Headings of {chapter}/quiz.md name its parts."
        raise UnknownNameError("part of the quiz", str(part), known, next_step=step)
    blocks = re.split(r"\n\s*\n(?!- \[)", parts[part].strip())
    return [_question(block) for block in blocks]


def quiz_markdown(questions: Sequence[Question]) -> str:
    """Return the questions, then all answers with their reasons in a fold."""
    asked, answered = [], []
    for number, question in enumerate(questions, start=1):
        options = [f"- **{letter}** {one.text}" for letter, one in question.lettered.items()]
        reasons = [f"- **{letter}** {one.verdict}" for letter, one in question.lettered.items()]
        asked.append(f"**{number}.** {question.text}\n\n" + "\n".join(options))
        answered.append(f"**{number}.**\n\n" + "\n".join(reasons))
    fold = "<details><summary>Answers, with reasons</summary>\n\n{}\n\n</details>"
    return "\n\n".join([*asked, fold.format("\n\n".join(answered))])


class QuizPanel:
    """A row of letters for each question; choosing one shows its reason."""

    def __init__(self, questions: Sequence[Question]) -> None:
        """Build the panel; nothing is chosen at first."""
        self.buttons = [_letters(n, question) for n, question in enumerate(questions, start=1)]
        self.reasons = [w.HTMLMath() for _ in questions]
        for question, buttons, reason in zip(questions, self.buttons, self.reasons, strict=True):
            reason.add_class("attnlab-status")
            buttons.observe(_answer(question, reason), names="value")
        self.panel = w.VBox([w.VBox(row) for row in zip(self.buttons, self.reasons, strict=True)])
        self.panel.add_class("attnlab-quiz")

    def _ipython_display_(self) -> None:
        """Show nothing: the panel is on the page already."""


def show_quiz(chapter: str, *, part: str | None = None) -> QuizPanel | None:
    """Print the questions of a chapter with folded answers; then, live, letters that answer.

    Args:
        chapter: Folder under ``attnlab/chapters``; see ``read_quiz``.
        part: Heading in its ``quiz.md``.

    Returns:
        The panel, or None if ``ATTNLAB_WIDGETS=off``.
    """
    questions = read_quiz(chapter, part=part)
    display(Markdown(quiz_markdown(questions)))
    if not widgets_on():
        return None
    quiz = QuizPanel(questions)
    show_live(quiz.panel)
    return quiz


def _question(block: str) -> Question:
    text, *marked = OPTION.split(block)
    options = []
    for mark, body in zip(marked[::2], marked[1::2], strict=True):
        said, _, reason = body.partition("> ")
        options.append(Option(_joined(said), _joined(reason.replace("\n  > ", "\n")), mark == "x"))
    return Question(_joined(text), options)


def _joined(text: str) -> str:
    return " ".join(text.split())


def _letters(number: int, question: Question) -> w.ToggleButtons:
    return w.ToggleButtons(
        options=list(question.lettered),
        value=None,
        description=f"Question {number}",
        tooltip=f"Answer to question {number}. Tab and Space choose.",
        tooltips=[option.text for option in question.options],
        style={"description_width": "initial", "button_width": "3em"},
    )


def _answer(question: Question, reason: w.HTMLMath):
    def answer(change) -> None:
        letter = change["new"]
        said = f"**{letter}** {question.lettered[letter].verdict}" if letter else ""
        reason.value = f"<p role='status'>{_inline_html(said)}</p>" if said else ""

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
