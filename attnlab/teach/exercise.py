"""An exercise: the right function, cases from tiny to general, and mistakes that have a name."""

from __future__ import annotations

import copy
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from IPython import get_ipython

from attnlab.show import wrapped
from attnlab.teach.comparing import NEUTRAL, as_array, difference, explain
from attnlab.teach.running import LIMIT_S, CheckFailed, Outcome, run

Function = Callable[..., Any]
# Environment variable. "1" lets a failed check raise. "grade" lets it show its error and go on: the
# cell has failed, and the exercises below are judged as if this one were solved.
STRICT = "ATTNLAB_STRICT"
MOST_AGREE = 0.75  # of the cases that tell; with fewer a mistake explains nothing


@dataclass(frozen=True)
class Verdict:
    """What a check says of an answer: the text to print, and what it would raise if strict."""

    text: str
    sentence: str = ""
    problem: BaseException | None = None


@dataclass(frozen=True)
class Exercise:
    """Judge a learner's function: first failing case, got and expected, and the likely mistake.

    Results may be numbers, text, NumPy arrays, torch tensors, or tuples and mappings of them.

    Args:
        right: Gives the right results: the library itself, where it can. Its code is never shown.
        cases: ``(label, *arguments)``. The first failing one is printed, so put the smallest first.
        mistakes: The sentence for a wrong function, by that function; where one gives what the
            learner's gives, in nearly all cases that tell, its sentence is the diagnosis.
        breaks: The sentence, by the label of a case, for a function that raises there.
        use: For something that is built, such as a module: ``use(built, *arguments)`` gives the
            result that is compared. It may raise ``CheckFailed`` with a sentence of its own.
        rtol: Relative error allowed.
        atol: Absolute error allowed.
        limit_s: Seconds for each call; a longer one is stopped.

    Example::

        check_mean = Exercise(np.mean, [("one number", [3.0]), ("two", [1.0, 2.0])],
                              {np.sum: "It is the sum: divide by how many there are."})
        check_mean(my_mean)
    """

    right: Function
    cases: Sequence[tuple[Any, ...]]
    mistakes: Mapping[Function, str] = field(default_factory=dict)
    breaks: Mapping[str, str] = field(default_factory=dict)
    use: Function | None = None
    rtol: float = 1e-4
    atol: float = 1e-6
    limit_s: float = LIMIT_S

    def __call__(self, student: Function, *, strict: bool | None = None) -> None:
        """Call a learner's function on every case and print the verdict.

        Whatever the function does, a sentence is printed and the notebook goes on.

        Args:
            strict: Raise as well if a case fails; None asks the variable ``ATTNLAB_STRICT``, whose
                value ``grade`` shows the error and goes on.

        Raises:
            CheckFailed: With the diagnosis, if a case fails and strict.
            NotImplementedError: The body is not written, and strict.
        """
        self._tell(self.verdict(student), strict)

    def hand_on(self, student: Function, *, strict: bool | None = None) -> Function:
        """Judge as a call does; return the function if it is right, else a right one.

        So the cells below work whatever was written: ``depth = check_depth.hand_on(depth)``.
        """
        verdict = self.verdict(student)
        self._tell(verdict, strict)
        if verdict.problem is None:
            return student
        _say("The page goes on with a right one.")
        return self.right

    @staticmethod
    def _tell(verdict: Verdict, strict: bool | None) -> None:
        _say(verdict.text)
        wish = os.environ.get(STRICT) if strict is None else "1" if strict else ""
        if verdict.problem is None or wish not in ("1", "grade"):
            return
        shell = get_ipython() if wish == "grade" else None
        if shell is None:
            raise verdict.problem
        shell.showtraceback((type(verdict.problem), verdict.problem, None))

    def verdict(self, student: Function) -> Verdict:
        """Return what ``__call__`` prints; nothing else is printed, warned of or raised."""
        name = getattr(student, "__name__", "your function")
        name = "your function" if not isinstance(name, str) or name == "<lambda>" else name
        if not callable(student):
            sentence = "Give the check the function itself, not what it returns."
            return _failed("this", self.cases[0][0], sentence, f"  {_kind_of(student)}\n{sentence}")
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return self._judge(student, name)

    def faults(self) -> list[str]:
        """Return what is wrong with the exercise itself: mistakes it would pass or misname.

        A test asserts that every exercise of the workbook has none.
        """
        faults = []
        for wrong, sentence in self.mistakes.items():
            said = self.verdict(wrong)
            if said.problem is None:
                faults.append(f"{sentence!r}: passes every case")
            elif not said.sentence.endswith(sentence):
                faults.append(f"{sentence!r} is diagnosed as {said.sentence!r}")
        return faults

    def _judge(self, student: Function, name: str) -> Verdict:
        answers: list[Outcome] = []
        for label, *args in self.cases:
            given = _copied(args)
            answer = self._ask(student, given, limit_s=self.limit_s)
            answers.append(answer)
            if isinstance(answer.error, NotImplementedError):
                todo = str(answer.error) or "write its body and run it, then run this cell again"
                return Verdict(f"{name} waits for you: {todo}", todo, answer.error)
            heard = _heard(answer)
            if answer.error is not None:
                sentence = self._why_it_raised(answers, label)
                return _failed(name, label, sentence, f"  {sentence}{heard}")
            if _is_changed(given, args):
                sentence = "it changes its own arguments; work on a copy."
                return _failed(name, label, sentence, f"  {sentence}{heard}")
            problem = self._difference(answer.value, self._right(args))
            if problem:
                sentence = self._diagnose(student, answers)
                return _failed(name, label, sentence, f"{problem}\n{sentence}{heard}")
        n, first, last = len(self.cases), self.cases[0][0], self.cases[-1][0]
        told = f"{n} cases from '{first}' to '{last}'" if n > 1 else "1 case"
        return Verdict(wrapped(f"Correct: {name} passes {told}."))

    def _ask(self, function: Function, given: Sequence[Any], *, limit_s: float) -> Outcome:
        asked = function if self.use is None else partial(self.use, function)
        return run(asked, given, limit_s=limit_s)

    def _right(self, args: Sequence[Any]) -> Any:
        return (self.right if self.use is None else partial(self.use, self.right))(*_copied(args))

    def _difference(self, got: Any, want: Any) -> str:
        return difference(got, want, rtol=self.rtol, atol=self.atol)

    def _why_it_raised(self, answers: Sequence[Outcome], label: str) -> str:
        """Return the error's sentence, and that of a mistake which breaks down alike."""
        said, kind = answers[-1].sentence, type(answers[-1].error)
        more = ""
        if issubclass(kind, IndexError | RuntimeError | ValueError) and kind is not CheckFailed:
            more = self.breaks.get(label, "")
        more = more or self._named(answers)
        return f"{said.rstrip('.')}. {more}" if more else said

    def _diagnose(self, student: Function, answers: list[Outcome]) -> str:
        """Return the sentence of the mistake that agrees with the learner, or a general one."""
        ends = time.monotonic() + self.limit_s
        answers = list(answers)
        n_asked = len(answers)
        for _, *args in self.cases[n_asked:]:
            left = max(ends - time.monotonic(), 0.05)
            answers.append(self._ask(student, _copied(args), limit_s=left))
        try:
            named = self._named(answers, failing=n_asked - 1)
            if named:
                return named
            wants = [self._right(args) for _, *args in self.cases]
            pairs = zip(answers, wants, strict=True)
            every = [(a.value, want) for a, want in pairs if a.error is None]
            got, want = answers[n_asked - 1].value, wants[n_asked - 1]
            return explain(got, want, every, rtol=self.rtol, atol=self.atol)
        except Exception:  # a result that cannot be looked at
            return NEUTRAL

    def _named(self, answers: Sequence[Outcome], *, failing: int = -1) -> str:
        """Return the sentence of the mistake that gives what the learner gave."""
        cases = self.cases[: len(answers)]
        failing %= len(answers)
        is_right = [
            a.error is None and not self._difference(a.value, self._right(args))
            for a, (_, *args) in zip(answers, cases, strict=True)
        ]
        best, most = "", 0.0
        for wrong, sentence in self.mistakes.items():
            same = [
                self._agree(answer, self._ask(wrong, _copied(args), limit_s=self.limit_s))
                for answer, (_, *args) in zip(answers, cases, strict=True)
            ]
            telling = [s for s, right in zip(same, is_right, strict=True) if not (s and right)]
            share = sum(telling) / len(telling) if telling else 0.0
            if same[failing] and share >= MOST_AGREE and share > most:
                best, most = sentence, share
        return best

    def _agree(self, one: Outcome, other: Outcome) -> bool:
        if one.error is not None or other.error is not None:
            return type(one.error) is type(other.error)
        return not self._difference(one.value, other.value)


def _copied(args: Sequence[Any]) -> list[Any]:
    """Return copies, so that no call sees what another did to its arguments."""
    # a torch.Generator may refuse deepcopy
    return [a.clone_state() if hasattr(a, "clone_state") else copy.deepcopy(a) for a in args]


def _is_changed(after: Any, before: Any) -> bool:
    """Say whether numbers in an argument changed; models and generators may change."""
    if isinstance(before, Mapping):
        return list(after) != list(before) or any(_is_changed(after[k], before[k]) for k in before)
    if isinstance(before, list | tuple):
        pairs = zip(after, before, strict=False)
        return len(after) != len(before) or any(_is_changed(a, b) for a, b in pairs)
    if isinstance(before, int | float | str):
        return bool(after != before) and before == before
    if not hasattr(before, "dtype"):
        return False
    x, y = as_array(after), as_array(before)
    if x is None or y is None:
        return x is not y
    return x.shape != y.shape or not np.array_equal(x, y, equal_nan=True)


def _heard(answer: Outcome) -> str:
    """Return what the function printed and warned of in the case that is shown."""
    printed = "".join(f"\n    {line}" for line in answer.printed.strip().splitlines()[:8])
    said = f"\n  It printed:{printed}" if printed else ""
    return said + (f"\n  It warned: {answer.warned}" if answer.warned else "")


def _kind_of(value: Any) -> str:
    return f"got:      {type(value).__name__}\n  expected: a function"


def _failed(name: str, label: str, sentence: str, body: str) -> Verdict:
    text = f"Not yet: {name} fails the case '{label}'.\n{body}"
    return Verdict(text, sentence, CheckFailed(f"{name}, case '{label}': {sentence}"))


def _say(text: str) -> None:
    """Print on any console: what it cannot write is written as an escape."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
