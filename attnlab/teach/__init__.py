"""Teach: exercises that judge, quizzes that give reasons, one table of symbols."""

from attnlab.teach.comparing import difference
from attnlab.teach.exercise import Exercise
from attnlab.teach.notation import notation_markdown, show_notation
from attnlab.teach.quiz import read_quiz, show_quiz
from attnlab.teach.running import CheckFailed

__all__ = [
    "CheckFailed",
    "Exercise",
    "difference",
    "notation_markdown",
    "read_quiz",
    "show_notation",
    "show_quiz",
]
