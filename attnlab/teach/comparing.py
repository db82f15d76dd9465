"""Compares a learner's result with the right one, and says in a sentence how it differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

MOST_SHOWN = 12  # entries of an array that a message prints in full
NEAR = 0.01  # a relative error that looks like rounding
NATS_PER_BIT = float(np.log(2.0))
NEUTRAL = "The values are not right: do the smallest case by hand."
Leaf = tuple[str, Any, Any]  # where it stands in the result, got, expected


def difference(got: Any, want: Any, *, rtol: float = 1e-4, atol: float = 1e-6) -> str:
    """Return how ``got`` differs from ``want`` in one to three lines; empty if it does not."""
    leaf = first_difference(got, want, rtol=rtol, atol=atol)
    if leaf is None:
        return ""
    where, got, want = leaf
    return (f"  {where}:\n" if where else "") + _said(got, want, rtol=rtol, atol=atol)


def first_difference(got: Any, want: Any, *, rtol: float, atol: float) -> Leaf | None:
    """Return the first part in which two results differ, or None."""
    for leaf in _leaves("", got, want):
        if not _same(leaf[1], leaf[2], rtol=rtol, atol=atol):
            return leaf
    return None


def explain(
    got: Any, want: Any, every: Sequence[tuple[Any, Any]], *, rtol: float, atol: float
) -> str:
    """Return a sentence that is true of a wrong result, whatever the exercise.

    Args:
        got: The result in the failing case.
        want: The right one.
        every: Got and expected of all cases. A rule such as "the sign is wrong" has to hold in
            each of them.
    """
    leaf = first_difference(got, want, rtol=rtol, atol=atol)
    where, got, want = leaf or ("", got, want)
    sentence = _of_kind(got, want)
    if sentence:
        return sentence
    x, y = as_array(got), as_array(want)
    assert x is not None
    assert y is not None
    pairs = [p for p in (_arrays_at(where, *pair) for pair in every) if p is not None]
    if x.shape != y.shape:
        return _of_shape(x, y, pairs, rtol=rtol, atol=atol)
    has_nan = np.isnan(x).any() and not np.isnan(y).any()
    has_infinity = np.isinf(x).any() and not np.isinf(y).any()
    is_cut = x.dtype.kind in "iub" and y.dtype.kind == "f" and np.array_equal(x, np.trunc(y))
    told = (
        (has_nan,
         "There is a NaN: look for 0 * log 0, 0 / 0 or a row that is masked throughout."),
        (has_infinity,
         "There is an infinity where none belongs: a division by zero, log 0 or an overflow?"),
        (is_cut,
         "These are the right values cut to whole numbers: is // used, or an array of integers?"),
    )  # fmt: skip
    said = next((sentence for is_so, sentence in told if is_so), "")
    said = said or _relation(pairs, rtol=rtol, atol=atol)
    if not said and y.any() and all(_is_near(*pair) for pair in pairs):
        return "It is right within a hundredth: look for rounding, or a small number too many."
    return said or NEUTRAL


def as_array(value: Any) -> np.ndarray | None:
    """Return numbers, arrays, tensors and lists of them as an array of numbers; else None."""
    try:
        if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
            tensor = value.detach().cpu().to_dense()
            value = (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy()
        elif isinstance(value, list | tuple) and any(hasattr(v, "detach") for v in value):
            value = np.stack([as_array(v) for v in value])  # type: ignore[misc]
        array = np.asarray(value)
    except Exception:  # ragged, on a device without values, or an object that refuses
        return None
    return array if array.dtype.kind in "fiubc" else None


def _leaves(where: str, got: Any, want: Any) -> Iterator[Leaf]:
    """Give the parts of two results side by side; one pair where their structures differ."""
    if isinstance(want, Mapping) and isinstance(got, Mapping) and set(got) == set(want):
        for key in want:
            yield from _leaves(f"{where}, entry {key!r}".lstrip(", "), got[key], want[key])
    elif isinstance(want, list | tuple) and as_array(want) is None and _is_row(got, len(want)):
        for i, pair in enumerate(zip(got, want, strict=True)):
            yield from _leaves(f"{where}, item {i}".lstrip(", "), *pair)
    else:
        yield where, got, want


def _is_row(value: Any, length: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == length


def _same(got: Any, want: Any, *, rtol: float, atol: float) -> bool:
    x, y = as_array(got), as_array(want)
    if x is None or y is None:
        try:
            return type(got) is type(want) and bool(got == want)
        except Exception:  # an object that cannot be compared
            return False
    return x.shape == y.shape and bool(np.isclose(x, y, rtol=rtol, atol=atol, equal_nan=True).all())


def _said(got: Any, want: Any, *, rtol: float, atol: float) -> str:
    x, y = as_array(got), as_array(want)
    if x is None or y is None:
        return _pair(_shown(got), _shown(want))
    if x.shape != y.shape:
        return _pair(f"shape {x.shape}", f"shape {y.shape}")
    if x.size <= MOST_SHOWN:
        return _pair(str(_rounded(x).tolist()), str(_rounded(y).tolist()))
    wrong = ~np.isclose(x, y, rtol=rtol, atol=atol, equal_nan=True)
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    count = f"  {int(wrong.sum())} of {x.size} values differ; the first is at index {where}.\n"
    return count + _pair(f"{x[where]:.6g}", f"{y[where]:.6g}")


def _of_kind(got: Any, want: Any) -> str:
    """Return what is wrong with the kind of a result; empty where both are numbers."""
    x, y = as_array(got), as_array(want)
    if got is None:
        return "Nothing came back: is a return missing?"
    if x is not None and y is not None:
        is_complex = x.dtype.kind == "c" and y.dtype.kind != "c"
        return "The numbers are complex; real ones are expected." if is_complex else ""
    wanted = "text" if isinstance(want, str) else type(want).__name__ if y is None else "numbers"
    if isinstance(got, Iterator):
        return "It is a generator: make a list or an array of it."
    if callable(got) and not hasattr(got, "shape"):
        return "It is a function or a class, not its result: call it."
    if isinstance(got, str):
        is_text = isinstance(want, str)
        return "The text is another one." if is_text else f"It is text where {wanted} are expected."
    if isinstance(got, Mapping) and isinstance(want, Mapping):
        return "The entries have other names, or are more or fewer, than expected."
    if isinstance(got, list | tuple) and isinstance(want, list | tuple) and len(got) != len(want):
        return f"Expected were {len(want)} items, not {len(got)}."
    if isinstance(got, list | tuple) and y is not None:
        return "The items differ in length or kind, so it is no array of numbers."
    return f"It is of type {type(got).__name__}; expected: {wanted}."


def _is_near(x: np.ndarray, y: np.ndarray) -> bool:
    large = float(np.abs(y).max()) if y.size else 0.0
    return x.shape == y.shape and np.allclose(x, y, rtol=NEAR, atol=NEAR / 10 * large)


def _of_shape(
    x: np.ndarray, y: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]], **limits: float
) -> str:
    if y.ndim == 0:
        return f"One number is expected; an array of shape {x.shape} came back."
    if x.ndim == y.ndim == 1:
        return f"Expected were {len(y)} items, not {len(x)}."
    if x.ndim >= 2 and all(
        a.ndim >= 2 and _same(a.swapaxes(-1, -2), b, **limits) for a, b in pairs
    ):
        return "It is the transpose of the result."
    if all(a.size == b.size and _same(a.reshape(b.shape), b, **limits) for a, b in pairs):
        return "The values are right, in another shape."
    return "The shape is wrong: write the shape of each intermediate result beside its line."


def _relation(pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, rtol: float, atol: float) -> str:
    """Return a rule that leads to the right results in every case, if there is one."""

    def holds(mended: Callable[[np.ndarray], np.ndarray]) -> bool:
        return all(_same(mended(x), y, rtol=rtol, atol=atol) for x, y in pairs)

    if not pairs or any(x.shape != y.shape for x, y in pairs):
        return ""
    if all(x.ndim >= 2 for x, _ in pairs) and holds(lambda x: x.swapaxes(-1, -2)):
        return "It is the transpose of the result."
    got = np.concatenate([x.ravel() for x, _ in pairs])
    want = np.concatenate([y.ravel() for _, y in pairs])
    is_large = np.abs(want) > atol
    if is_large.sum() < 2 or len(np.unique(want[is_large])) < 2:  # one number fits any rule
        return ""
    ratio = got[is_large][0] / want[is_large][0]
    if not np.isfinite(ratio) or not ratio or not holds(lambda x: x / ratio):
        return ""
    named = (
        (-1.0, "Only the sign is wrong."),
        (1 / NATS_PER_BIT, "It is in bits; the exercise asks for nats (natural logarithm)."),
        (NATS_PER_BIT, "It is too small by log 2: which logarithm is asked for?"),
    )
    near = (sentence for factor, sentence in named if np.isclose(ratio, factor))
    return next(near, f"Every value is {ratio:.4g} times what it should be.")


def _arrays_at(where: str, got: Any, want: Any) -> tuple[np.ndarray, np.ndarray] | None:
    for name, x, y in _leaves("", got, want):
        arrays = as_array(x), as_array(y)
        if name == where and arrays[0] is not None and arrays[1] is not None:
            return arrays  # type: ignore[return-value]
    return None


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.round(values.astype(float), 4) + 0.0 if values.dtype.kind == "f" else values


def _shown(value: Any) -> str:
    array = as_array(value)
    if array is not None:
        return f"numbers of shape {array.shape}" if array.ndim else f"{array[()]:.6g}"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} with {sorted(map(str, value))}"[:200]
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of length {len(value)}"
    is_plain = value is None or isinstance(value, str | bool)
    return repr(value)[:200] if is_plain else type(value).__name__.removeprefix("_")


def _pair(got: str, want: str) -> str:
    return f"  got:      {got}\n  expected: {want}"
