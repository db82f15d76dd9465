"""Teach: exercises that judge, quizzes that give reasons, one table of symbols."""

from attnlab.teach.exercise import CheckFailed, Exercise, difference
from attnlab.teach.notation import notation_markdown, show_notation
from attnlab.teach.quiz import read_quiz, show_quiz

__all__ = [
    "CheckFailed",
    "Exercise",
    "difference",
    "notation_markdown",
    "read_quiz",
    "show_notation",
    "show_quiz",
]
