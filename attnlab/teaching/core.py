"""Judge a learner's function: first failing case, got and expected, and the likely mistake."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnlab.errors import AttnlabError

Function = Callable[..., Any]

RTOL = 1e-4
ATOL = 1e-6
MOST_SHOWN = 12  # entries of an array that a message prints in full
NATS_PER_BIT = float(np.log(2.0))


class CheckFailed(AttnlabError):
    """An exercise is not solved yet; the message is the diagnosis in one sentence."""

    def _render_traceback_(self) -> list[str]:
        """Show the sentence alone in a notebook: the stack would be ours, not the learner's."""
        return [f"CheckFailed: {self}"]


@dataclass(frozen=True)
class Case:
    """Arguments to call with, and what is special about them."""

    label: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def case(label: str, *args: Any, **kwargs: Any) -> Case:
    """Return a case: ``case("one token", x, n_heads=2)``."""
    return Case(label, args, kwargs)


@dataclass(frozen=True)
class Mistake:
    """A common wrong answer: its name, a function that makes it, and what to say."""

    name: str
    wrong: Function
    sentence: str


def grade(
    student: Function,
    *,
    reference: Function,
    cases: Sequence[Case],
    mistakes: Sequence[Mistake] = (),
    rtol: float = RTOL,
    atol: float = ATOL,
) -> None:
    """Call a learner's function on cases from tiny to general and print the verdict.

    Results may be numbers, text, NumPy arrays, torch tensors, or tuples and mappings of them.

    Args:
        student: What the learner wrote.
        reference: The right function; its code is never shown.
        cases: The first failing one is printed, so put the smallest first.
        mistakes: Wrong functions; where one gives what the learner's gives, its sentence is
            the diagnosis.
        rtol: Relative error allowed.
        atol: Absolute error allowed.

    Raises:
        CheckFailed: With the diagnosis, if a case fails.
        NotImplementedError: As the learner's function raised it, after a friendly line.
    """
    name = getattr(student, "__name__", "your function")
    for one in cases:
        want = _call(reference, one)
        got = _ask(student, one, name)
        problem = difference(got, want, rtol=rtol, atol=atol)
        if problem:
            sentence = _diagnose(student, got, want, one, cases, mistakes, rtol=rtol, atol=atol)
            _say(f"Not yet: {name} fails the case '{one.label}'.\n{problem}\n{sentence}")
            raise CheckFailed(f"{name}, case '{one.label}': {sentence}")
    labels = f" from '{cases[0].label}' to '{cases[-1].label}'" if len(cases) > 1 else ""
    _say(f"Correct: {name} passes {len(cases)} {_plural(len(cases), 'case')}{labels}.")


def unseen_mistakes(
    *,
    reference: Function,
    cases: Sequence[Case],
    mistakes: Sequence[Mistake],
    rtol: float = RTOL,
    atol: float = ATOL,
) -> list[str]:
    """Return what is wrong with a check itself: mistakes it would pass or misname.

    A test of a ``check_*`` asserts that this list is empty.
    """
    limits = {"rtol": rtol, "atol": atol}
    faults = []
    for mistake in mistakes:
        failing = [c for c in cases if _differs(mistake.wrong, reference, c, **limits)]
        if not failing:
            faults.append(f"{mistake.name}: passes every case")
            continue
        got = _try(mistake.wrong, failing[0])
        want = _call(reference, failing[0])
        said = _diagnose(mistake.wrong, got, want, failing[0], cases, mistakes, **limits)
        if said != mistake.sentence:
            faults.append(f"{mistake.name}: diagnosed as {said!r}")
    return faults


def difference(got: Any, want: Any, *, rtol: float = RTOL, atol: float = ATOL) -> str:
    """Return how ``got`` differs from ``want`` in one to three lines; empty if it does not."""
    if got is None and want is not None:
        return "  got:      None\n  expected: a result"
    if isinstance(want, str) or isinstance(got, str):
        return "" if type(got) is type(want) and got == want else _pair(repr(got), repr(want))
    if isinstance(want, Mapping):
        return _mapping_difference(got, want, rtol=rtol, atol=atol)
    if isinstance(want, list | tuple) and not _is_numeric(want):
        return _sequence_difference(got, want, rtol=rtol, atol=atol)
    return _array_difference(got, want, rtol=rtol, atol=atol)


def _ask(student: Function, one: Case, name: str) -> Any:
    args, kwargs = _copied(one)
    try:
        got = student(*args, **kwargs)
    except NotImplementedError as error:
        _say(f"{name} waits for you: {error or 'write its body, then run this cell again'}")
        raise
    except Exception as error:
        sentence = f"it raised {type(error).__name__}: {error}"
        _say(f"Not yet: {name} fails the case '{one.label}'.\n  {sentence}")
        raise CheckFailed(f"{name}, case '{one.label}': {sentence}") from error
    if _is_changed(args, one.args) or _is_changed(list(kwargs.values()), list(one.kwargs.values())):
        sentence = "it changes its own arguments; work on a copy."
        _say(f"Not yet: {name} fails the case '{one.label}'.\n  {sentence}")
        raise CheckFailed(f"{name}, case '{one.label}': {sentence}")
    return got


def _call(function: Function, one: Case) -> Any:
    args, kwargs = _copied(one)
    return function(*args, **kwargs)


def _copied(one: Case) -> tuple[list[Any], dict[str, Any]]:
    args = [_copy(value) for value in one.args]
    return args, {name: _copy(value) for name, value in one.kwargs.items()}


def _copy(value: Any) -> Any:
    """Return a copy, so that no call sees what another did to its arguments."""
    if hasattr(value, "clone_state"):  # a torch.Generator, which deepcopy may refuse
        return value.clone_state()
    return copy.deepcopy(value)


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


class _Failed:
    """Stands for the result of a function that raised; equal to nothing."""


def _try(function: Function, one: Case) -> Any:
    try:
        return _call(function, one)
    except Exception:  # a wrong function may fail in any way; it then explains nothing
        return _Failed()


def _differs(wrong: Function, right: Function, one: Case, *, rtol: float, atol: float) -> bool:
    return bool(difference(_try(wrong, one), _call(right, one), rtol=rtol, atol=atol))


def _diagnose(
    student: Function,
    got: Any,
    want: Any,
    failing: Case,
    cases: Sequence[Case],
    mistakes: Sequence[Mistake],
    *,
    rtol: float,
    atol: float,
) -> str:
    """Return the sentence of the mistake that agrees with the learner on most cases."""
    limits = {"rtol": rtol, "atol": atol}
    answers = [_try(student, one) for one in cases] if mistakes else []
    best, most = None, 0
    for mistake in mistakes:
        if difference(got, _try(mistake.wrong, failing), **limits):
            continue
        pairs = zip(answers, cases, strict=True)
        same = sum(not difference(a, _try(mistake.wrong, c), **limits) for a, c in pairs)
        if same > most:
            best, most = mistake, same
    return best.sentence if best else _general_diagnosis(got, want, **limits)


def _general_diagnosis(got: Any, want: Any, *, rtol: float, atol: float) -> str:
    if got is None:
        return "Nothing came back: is a return missing?"
    try:
        x, y = _array(got), _array(want)
    except (TypeError, ValueError):
        return "Compare the two values above, by hand if the case is small."
    if x.dtype.kind not in "fiub" or y.dtype.kind not in "fiub":
        return "Compare the two values above, by hand if the case is small."
    if x.shape != y.shape:
        is_turned = x.ndim >= 2 and x.swapaxes(-1, -2).shape == y.shape
        turned = is_turned and np.allclose(x.swapaxes(-1, -2), y, rtol=rtol, atol=atol)
        return (
            "It is the transpose of the result."
            if turned
            else (
                "The shape is wrong: write the shape of each intermediate result beside its line."
            )
        )
    return _numeric_diagnosis(x.astype(float), y.astype(float), rtol=rtol, atol=atol)


def _numeric_diagnosis(x: Any, y: Any, *, rtol: float, atol: float) -> str:
    def same(a: Any) -> bool:
        return bool(np.allclose(a, y, rtol=rtol, atol=atol, equal_nan=True))

    if np.isnan(x).any() and not np.isnan(y).any():
        return "There is a NaN: look for 0 * log 0, 0 / 0 or a row that is masked throughout."
    if same(-x):
        return "Only the sign is wrong."
    if same(x * NATS_PER_BIT):
        return "It is in bits; the exercise asks for nats (natural logarithm)."
    if same(x / NATS_PER_BIT):
        return "It is too small by log 2: which logarithm is asked for?"
    if x.ndim >= 2 and x.shape[-1] == x.shape[-2] and same(x.swapaxes(-1, -2)):
        return "It is the transpose of the result."
    ratios = x[np.abs(y) > atol] / y[np.abs(y) > atol]
    if ratios.size > 1 and np.isfinite(ratios).all() and same(x / ratios.flat[0]):
        return f"Every value is {ratios.flat[0]:.4g} times what it should be."
    if x.ndim == 0:
        return "The number is not right: do the smallest case by hand."
    return "The shape is right, the values are not: do the smallest case by hand."


def _is_numeric(values: Sequence[Any]) -> bool:
    """Say whether a list, perhaps of lists, is an array of plain numbers."""
    if not all(isinstance(v, int | float | np.number | list | tuple) for v in values):
        return False
    try:
        return np.asarray(values).dtype.kind in "fiub"
    except ValueError:  # ragged, or something else inside
        return False


def _array(value: Any) -> np.ndarray:
    """Return numbers, arrays and tensors as an array, without importing torch."""
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        tensor = value.detach().cpu()
        value = (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy()
    return np.asarray(value)


def _array_difference(got: Any, want: Any, *, rtol: float, atol: float) -> str:
    try:
        x, y = _array(got), _array(want)
    except (TypeError, ValueError):
        return _pair(_kind(got), _kind(want))
    if x.dtype.kind not in "fiubc" or y.dtype.kind not in "fiubc":
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


def _sequence_difference(got: Any, want: Any, *, rtol: float, atol: float) -> str:
    if not isinstance(got, list | tuple) or len(got) != len(want):
        return _pair(_kind(got), _kind(want))
    for index, (a, b) in enumerate(zip(got, want, strict=True)):
        problem = difference(a, b, rtol=rtol, atol=atol)
        if problem:
            return f"  item {index}:\n{problem}"
    return ""


def _mapping_difference(got: Any, want: Mapping, *, rtol: float, atol: float) -> str:
    if not isinstance(got, Mapping) or set(got) != set(want):
        return _pair(_kind(got), _kind(want))
    for key in want:
        problem = difference(got[key], want[key], rtol=rtol, atol=atol)
        if problem:
            return f"  entry {key!r}:\n{problem}"
    return ""


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


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
