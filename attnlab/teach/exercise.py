"""An exercise: the right function, cases from tiny to general, and mistakes that have a name."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnlab.errors import AttnlabError

Function = Callable[..., Any]

MOST_SHOWN = 12  # entries of an array that a message prints in full
NATS_PER_BIT = float(np.log(2.0))


class CheckFailed(AttnlabError):
    """An exercise is not solved yet; the message is the diagnosis in one sentence."""

    def _render_traceback_(self) -> list[str]:
        """Show the sentence alone in a notebook: the stack would be ours, not the learner's."""
        return [f"CheckFailed: {self}"]


class _Failed:
    """Stands for the result of a function that raised; equal to nothing."""


@dataclass(frozen=True)
class Exercise:
    """Judge a learner's function: first failing case, got and expected, and the likely mistake.

    Results may be numbers, text, NumPy arrays, torch tensors, or tuples and mappings of them.

    Args:
        right: Gives the right results: the library itself, where it can. Its code is never shown.
        cases: ``(label, *arguments)``. The first failing one is printed, so put the smallest first.
        mistakes: The sentence for a wrong function, by that function; where one gives what the
            learner's gives, its sentence is the diagnosis.
        rtol: Relative error allowed.
        atol: Absolute error allowed.

    Example::

        check_mean = Exercise(np.mean, [("one number", [3.0]), ("two", [1.0, 2.0])],
                              {np.sum: "It is the sum: divide by how many there are."})
        check_mean(my_mean)
    """

    right: Function
    cases: Sequence[tuple[Any, ...]]
    mistakes: Mapping[Function, str] = field(default_factory=dict)
    rtol: float = 1e-4
    atol: float = 1e-6

    def __call__(self, student: Function) -> None:
        """Call a learner's function on every case and print the verdict.

        Raises:
            CheckFailed: With the diagnosis, if a case fails.
            NotImplementedError: As the learner's function raised it, after a friendly line.
        """
        name = getattr(student, "__name__", "your function")
        for label, *args in self.cases:
            got, want = self._ask(student, label, args, name), self.right(*_copied(args))
            problem = self._difference(got, want)
            if problem:
                sentence = self._diagnose(student, got, want, args)
                _fail(name, label, sentence, f"{problem}\n{sentence}")
        n, first, last = len(self.cases), self.cases[0][0], self.cases[-1][0]
        told = f"{n} cases from '{first}' to '{last}'" if n > 1 else "1 case"
        _say(f"Correct: {name} passes {told}.")

    def faults(self) -> list[str]:
        """Return what is wrong with the exercise itself: mistakes it would pass or misname.

        A test asserts that every exercise of the workbook has none.
        """
        faults = []
        for wrong, sentence in self.mistakes.items():
            for _, *args in self.cases:
                got, want = _try(wrong, args), self.right(*_copied(args))
                if self._difference(got, want):
                    said = self._diagnose(wrong, got, want, args)
                    if said != sentence:
                        faults.append(f"{sentence!r} is diagnosed as {said!r}")
                    break
            else:
                faults.append(f"{sentence!r}: passes every case")
        return faults

    def _ask(self, student: Function, label: str, args: list[Any], name: str) -> Any:
        given = _copied(args)
        try:
            got = student(*given)
        except NotImplementedError as error:
            _say(f"{name} waits for you: {error or 'write its body, then run this cell again'}")
            raise
        except Exception as error:
            sentence = f"it raised {type(error).__name__}: {error}"
            _fail(name, label, sentence, f"  {sentence}", cause=error)
        if _is_changed(given, args):
            sentence = "it changes its own arguments; work on a copy."
            _fail(name, label, sentence, f"  {sentence}")
        return got

    def _difference(self, got: Any, want: Any) -> str:
        return difference(got, want, rtol=self.rtol, atol=self.atol)

    def _diagnose(self, student: Function, got: Any, want: Any, failing: Sequence[Any]) -> str:
        """Return the sentence of the mistake that agrees with the learner on most cases."""
        answers = [_try(student, args) for _, *args in self.cases] if self.mistakes else []
        best, most = "", 0
        for wrong, sentence in self.mistakes.items():
            if self._difference(got, _try(wrong, failing)):
                continue
            pairs = zip(answers, self.cases, strict=True)
            same = sum(not self._difference(a, _try(wrong, args)) for a, (_, *args) in pairs)
            if same > most:
                best, most = sentence, same
        return best or _general_diagnosis(got, want, rtol=self.rtol, atol=self.atol)


def difference(got: Any, want: Any, *, rtol: float = 1e-4, atol: float = 1e-6) -> str:
    """Return how ``got`` differs from ``want`` in one to three lines; empty if it does not."""
    limits = {"rtol": rtol, "atol": atol}
    if got is None and want is not None:
        return "  got:      None\n  expected: a result"
    if isinstance(want, str) or isinstance(got, str):
        return "" if type(got) is type(want) and got == want else _pair(repr(got), repr(want))
    if isinstance(want, Mapping):
        if not isinstance(got, Mapping) or set(got) != set(want):
            return _pair(_kind(got), _kind(want))
        parts = ((f"entry {key!r}", got[key], want[key]) for key in want)
        return _first_difference(parts, **limits)
    if isinstance(want, list | tuple) and not _is_numeric(want):
        if not isinstance(got, list | tuple) or len(got) != len(want):
            return _pair(_kind(got), _kind(want))
        parts = ((f"item {i}", *pair) for i, pair in enumerate(zip(got, want, strict=True)))
        return _first_difference(parts, **limits)
    return _array_difference(got, want, **limits)


def _first_difference(parts: Iterable[tuple[str, Any, Any]], **limits: float) -> str:
    for name, got, want in parts:
        problem = difference(got, want, **limits)
        if problem:
            return f"  {name}:\n{problem}"
    return ""


def _array_difference(got: Any, want: Any, *, rtol: float, atol: float) -> str:
    x, y = _array(got), _array(want)
    if x is None or y is None or x.dtype.kind not in "fiubc" or y.dtype.kind not in "fiubc":
        is_same = type(got) is type(want) and got == want
        return "" if is_same else _pair(_kind(got), _kind(want))
    if x.shape != y.shape:
        return _pair(f"shape {x.shape}", f"shape {y.shape}")
    wrong = ~np.isclose(x, y, rtol=rtol, atol=atol, equal_nan=True)
    if not wrong.any():
        return ""
    if x.size <= MOST_SHOWN:
        return _pair(_show(x), _show(y))
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    count = f"  {int(wrong.sum())} of {x.size} values differ; the first is at index {where}.\n"
    return count + _pair(f"{x[where]:.6g}", f"{y[where]:.6g}")


def _general_diagnosis(got: Any, want: Any, *, rtol: float, atol: float) -> str:
    if got is None:
        return "Nothing came back: is a return missing?"
    x, y = _array(got), _array(want)
    if x is None or y is None or x.dtype.kind not in "fiub" or y.dtype.kind not in "fiub":
        return "Compare the two values above, by hand if the case is small."
    x, y = x.astype(float), y.astype(float)
    turned = x.swapaxes(-1, -2) if x.ndim >= 2 else x

    def same(a: Any) -> bool:
        return a.shape == y.shape and np.allclose(a, y, rtol=rtol, atol=atol, equal_nan=True)

    large = np.abs(y) > atol if x.shape == y.shape else np.zeros(x.shape, bool)
    ratios = x[large] / y[large] if large.any() else np.array([np.nan])
    first = ratios.flat[0]
    is_scaled = ratios.size > 1 and np.isfinite(ratios).all() and first and same(x / first)
    told = (
        (same(turned) and x.ndim >= 2, "It is the transpose of the result."),
        (x.shape != y.shape,
         "The shape is wrong: write the shape of each intermediate result beside its line."),
        (np.isnan(x).any() and not np.isnan(y).any(),
         "There is a NaN: look for 0 * log 0, 0 / 0 or a row that is masked throughout."),
        (same(-x), "Only the sign is wrong."),
        (same(x * NATS_PER_BIT), "It is in bits; the exercise asks for nats (natural logarithm)."),
        (same(x / NATS_PER_BIT), "It is too small by log 2: which logarithm is asked for?"),
        (is_scaled, f"Every value is {first:.4g} times what it should be."),
        (x.ndim == 0, "The number is not right: do the smallest case by hand."),
    )  # fmt: skip
    right_shape = "The shape is right, the values are not: do the smallest case by hand."
    return next((sentence for is_so, sentence in told if is_so), right_shape)


def _copied(args: Sequence[Any]) -> list[Any]:
    """Return copies, so that no call sees what another did to its arguments."""
    # a torch.Generator may refuse deepcopy
    return [a.clone_state() if hasattr(a, "clone_state") else copy.deepcopy(a) for a in args]


def _is_changed(after: Any, before: Any) -> bool:
    """Say whether numbers in an argument changed; models and generators may change."""
    if isinstance(before, list | tuple):
        pairs = zip(after, before, strict=False)
        return len(after) != len(before) or any(_is_changed(a, b) for a, b in pairs)
    if not hasattr(before, "dtype"):
        return False
    x, y = _array(after), _array(before)
    is_numeric = x.dtype.kind in "fiubc"
    return x.shape != y.shape or (is_numeric and not np.array_equal(x, y, equal_nan=True))


def _try(function: Function, args: Sequence[Any]) -> Any:
    try:
        with np.errstate(all="ignore"):
            return function(*_copied(args))
    except Exception:  # a wrong function may fail in any way; it then explains nothing
        return _Failed()


def _is_numeric(values: Sequence[Any]) -> bool:
    """Say whether a list, perhaps of lists, is an array of plain numbers."""
    if not all(isinstance(v, int | float | np.number | list | tuple) for v in values):
        return False
    try:
        return np.asarray(values).dtype.kind in "fiub"
    except ValueError:  # ragged, or something else inside
        return False


def _array(value: Any) -> Any:
    """Return numbers, arrays and tensors as an array, without importing torch; else None."""
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        tensor = value.detach().cpu()
        value = (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy()
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        return None


def _kind(value: Any) -> str:
    name = type(value).__name__.removeprefix("_")
    if isinstance(value, Mapping):
        return f"{name} with {sorted(map(str, value))}"
    return f"{name} of length {len(value)}" if isinstance(value, list | tuple) else name


def _show(values: np.ndarray) -> str:
    rounded = np.round(values.astype(float), 4) + 0.0 if values.dtype.kind == "f" else values
    return str(rounded.tolist())


def _pair(got: str, want: str) -> str:
    return f"  got:      {got}\n  expected: {want}"


def _fail(
    name: str, label: str, sentence: str, body: str, *, cause: BaseException | None = None
) -> None:
    _say(f"Not yet: {name} fails the case '{label}'.\n{body}")
    raise CheckFailed(f"{name}, case '{label}': {sentence}") from cause


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
