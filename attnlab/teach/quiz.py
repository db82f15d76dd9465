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
from attnlab.show.panels import STYLE, Live, reserved, show_live, status_html, widgets_on

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


class QuizPanel(Live):
    """Questions, each with its options as buttons; choosing one shows its reason; a score below."""

    def __init__(self, questions: Sequence[Question]) -> None:
        """Build the panel; nothing is chosen at first."""
        self.first_answers: dict[int, Option] = {}  # by the number of the question
        self.n_questions = len(questions)
        self.buttons: list[dict[str, w.Button]] = []
        self.reasons: list[w.HTMLMath] = []
        self.score = w.HTML()
        asked = [self._ask(number, one) for number, one in enumerate(questions, start=1)]
        look = w.HTML(f"<style>{STYLE}</style>")
        look.add_class("attnlab-style")
        self.panel = w.VBox([look, *asked, self.score])
        self.panel.add_class("attnlab-quiz")
        self._count()

    def _ask(self, number: int, question: Question) -> w.VBox:
        text, reason = w.HTMLMath(_inline_html(f"**{number}.** {question.text}")), w.HTMLMath()
        reason.layout.min_height = reserved(max((o.verdict for o in question.options), key=len))
        buttons = {
            letter: w.Button(
                description=f"{letter}.  {re.sub('[$`*]', '', option.text)}",
                tooltip=f"Answer {letter} to question {number}. Tab and Space choose.",
            )
            for letter, option in question.lettered.items()
        }
        for letter, button in buttons.items():
            button.add_class("attnlab-option")
            button.on_click(lambda _, at=letter: self._answer(number, at, question))
        box = w.VBox([text, *buttons.values(), reason])
        box.add_class("attnlab-question")
        self.buttons.append(buttons)
        self.reasons.append(reason)
        return box

    def _answer(self, number: int, letter: str, question: Question) -> None:
        option = question.lettered[letter]
        self.first_answers.setdefault(number, option)
        self.buttons[number - 1][letter].button_style = "success" if option.is_right else "warning"
        said = _inline_html(f"**{letter}** {option.verdict}")
        self.reasons[number - 1].value = f"<p role='status'>{said}</p>"
        self._count()

    def _count(self) -> None:
        n_right = sum(option.is_right for option in self.first_answers.values())
        tried = f"{len(self.first_answers)} of {self.n_questions} answered"
        self.score.value = status_html(f"Score: {n_right} right at the first try, {tried}.")


def show_quiz(chapter: str, *, part: str | None = None) -> QuizPanel | None:
    """Show the questions of a chapter: live, as buttons; else printed, with folded answers.

    Args:
        chapter: Folder under ``attnlab/chapters``; see ``read_quiz``.
        part: Heading in its ``quiz.md``.

    Returns:
        The panel, or None if ``ATTNLAB_WIDGETS=off``.
    """
    questions = read_quiz(chapter, part=part)
    if not widgets_on():
        display(Markdown(quiz_markdown(questions)))
        return None
    quiz = QuizPanel(questions)
    show_live(quiz, markdown=quiz_markdown(questions))
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
