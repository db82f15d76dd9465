"""Exercises of chapter 11."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlab.chapters.recall_and_state.live import most_pairs
from attnlab.seeding import numpy_generator
from attnlab.teach import CheckFailed, Exercise

Floats = NDArray[np.float64]


def count(n_numbers: int, bits: int, n_values: int) -> int:
    return most_pairs(n_numbers, bits=bits, n_values=n_values)


check_most_pairs = Exercise(
    count,
    [
        ("one number of four bits, two values", 1, 4, 2),
        ("a value of two bits", 3, 4, 4),
        ("a remainder", 1, 8, 8),
        ("a vocabulary that is no power of two", 100, 8, 5),
        ("less than one value", 1, 2, 100),
        ("a layer", 4096, 32, 8192),
    ],
    {
        lambda n, b, V: n * b / np.log2(V): "Pairs come whole: round down.",
        lambda n, b, V: math.ceil(n * b / np.log2(V)): "Rounded up: the last pair does not fit; round down.",
        lambda n, b, V: round(n * b / np.log2(V)): "Rounded to the nearest: a pair that fits by half is not held; round down.",
        lambda n, b, V: int(n * b / np.log(V)): "The natural logarithm counts nats; bits need the one to base 2.",
        lambda n, b, V: int(n / np.log2(V)): "How many bits has a number? The state has numbers times bits.",
        lambda n, b, V: n * b // V: "V values cost log2 V bits, not V.",
        lambda n, b, V: n * b: "That is the number of bits; each value takes log2 V of them.",
        lambda n, b, V: n * (b // max(1, math.ceil(np.log2(V)))): "Values may share a number: add up all bits of the state before dividing.",
        lambda n, b, V: n * b // math.ceil(np.log2(V)): "log2 V was rounded up first: n values take log2(V^n) bits together, not n times a whole number.",
        lambda n, b, V: int(n * b / (2 * np.log2(V))): "The keys need not be stored to be asked for; only values count in this bound.",
    },
)  # fmt: skip


def answer(keys: Floats, values: Floats, query: Floats) -> Floats:
    return query @ (keys.T @ values)


def _softmax(keys: Floats, query: Floats) -> Floats:
    weight = np.exp(keys @ query)
    return weight / weight.sum()


_draw = numpy_generator(0, "checks/answer").normal
_K, _V = np.array([[1.0, 0], [0, 1]]), np.array([[2.0, 1, 0], [0, 3, 1]])
check_answer = Exercise(
    answer,
    [
        ("two orthogonal keys, the first asked for", _K, _V, _K[0]),
        ("the second", _K, _V, _K[1]),
        ("a key between them", _K, _V, np.array([0.6, 0.8])),
        ("keys that are not orthogonal", np.array([[1.0, 0], [0.6, 0.8]]), _V, np.array([1.0, 0])),
        ("a key said twice", np.array([[1.0, 0], [1, 0]]), _V, np.array([1.0, 0])),
        ("five random pairs", _draw(size=(5, 4)), _draw(size=(5, 3)), _draw(size=4)),
    ],
    {
        lambda K, V, q: q @ (K.T @ V) / len(K): "It is the mean over the pairs; eq. (11.3) is a sum.",
        lambda K, V, q: _softmax(K, q) @ V: "That is attention: its softmax needs all keys. The memory has forgotten them.",
        lambda K, V, q: V[np.argmax(K @ q)]: "The nearest key was looked up. The memory has no list of keys, only one matrix.",
        lambda K, V, q: (K @ q) @ V / (K @ q).sum(): "The weights were divided by their sum; eq. (11.4) does not.",
        lambda K, V, q: (K @ q)[0] * V[0]: "Only the first pair was written.",
        lambda K, V, q: (K @ q)[-1] * V[-1]: "Only the last pair is left: the matrix was overwritten, not added to.",
        lambda K, V, q: np.maximum(K @ q, 0) @ V: "Negative overlaps were cut off; the sum keeps their sign.",
        lambda K, V, q: (K @ q) ** 2 @ V: "The overlaps were squared: is the key used twice?",
        lambda K, V, q: q @ np.linalg.pinv(K) @ V: "That is the best matrix there is, with K's inverse; eq. (11.3) is a plain sum.",
        lambda K, V, q: K.T @ V: "That is the matrix; ask it: multiply by the query from the left.",
    },
)  # fmt: skip


def next_law(tokens: NDArray[np.int64], n_symbols: int, alpha: float) -> Floats:
    counts = np.zeros(n_symbols)
    for before, after in pairwise(tokens):
        counts[after] += before == tokens[-1]
    return (counts + alpha) / (counts.sum() + n_symbols * alpha)


def _counts(tokens: NDArray[np.int64], n_symbols: int, *, turned: bool = False) -> Floats:
    table = np.zeros((n_symbols, n_symbols))
    np.add.at(table, (tokens[:-1], tokens[1:]), 1)
    return table[:, tokens[-1]] if turned else table[tokens[-1]]


def _law(n: Floats, alpha: float) -> Floats:
    return (n + alpha) / (n + alpha).sum()


_tokens = numpy_generator(0, "checks/reader").integers(0, 4, 60)
check_next_law = Exercise(
    next_law,
    [
        ("one token: nothing is known", np.array([1]), 2, 1.0),
        ("0 0: once 0 after 0", np.array([0, 0]), 2, 1.0),
        ("0 1 0 1 0", np.array([0, 1, 0, 1, 0]), 3, 0.5),
        ("the last context is unseen", np.array([0, 0, 1]), 3, 0.5),
        ("0 0 1 0 1 1 0", np.array([0, 0, 1, 0, 1, 1, 0]), 2, 0.3),
        ("sixty tokens", _tokens, 4, 0.3),
    ],
    {
        lambda t, V, a: _law(np.bincount(t, minlength=V), a): "Single symbols were counted. Count what followed the last one.",
        lambda t, V, a: _law(_counts(t, V, turned=True), a): "You counted what stood before the last symbol, not what followed it.",
        lambda t, V, a: _law(_counts(t, V), 1.0): "alpha was taken to be 1.",
        lambda t, V, a: (_counts(t, V) + a) / (_counts(t, V).sum() + a): "The denominator has alpha once; each of the V symbols brings one.",
        lambda t, V, a: (_counts(t, V) + a) / (_counts(t, V).sum() + V): "The denominator needs V times alpha.",
        lambda t, V, a: (_counts(t, V) + a) / (len(t) - 1 + V * a): "Divide by how often this context was seen, not by the length of the row.",
        lambda t, V, a: _counts(t, V) + a: "These are counts; chances sum to one.",
        lambda t, V, a: _law(_counts(t, V), a / V): "alpha was shared out over the symbols; here each symbol has a whole one.",
        lambda t, V, a: _law(_counts(t, V) > 0, a): "A follower counts as often as it was seen, not once.",
        lambda t, V, a: -np.log(_law(_counts(t, V), a)): "These are losses in nats; the chances were asked for.",
        lambda t, V, a: np.eye(V)[np.argmax(_counts(t, V))]: "All chance went to the likeliest symbol.",
        lambda t, V, a: _law(_counts(t[:-1], V) if len(t) > 2 else np.zeros(V), a): "The last token is the context: all pairs of the row count, the newest too.",
    },
)  # fmt: skip


class Memory:
    """A matrix that is written by the delta rule."""

    def __init__(self, d_key: int, d_value: int) -> None:
        self.matrix = np.zeros((d_key, d_value))

    def write(self, k: Floats, v: Floats, rate: float = 1.0) -> None:
        self.matrix += rate * np.outer(k, v - k @ self.matrix)

    def read(self, q: Floats) -> Floats:
        return q @ self.matrix


def told(build: Any, writes: list[tuple[Any, ...]], queries: Floats) -> Floats:
    """Return what a memory says to queries after these writes."""
    keys, values = np.asarray(writes[0][0]), np.asarray(writes[0][1])
    memory = build(len(keys), len(values))
    for name in ("write", "read"):
        if not callable(getattr(memory, name, None)):
            raise CheckFailed(f"The memory needs two methods, write and read. Not found: {name}.")
    for each in writes:
        memory.write(*each)
    return np.stack([memory.read(q) for q in queries])


def memory_of(write: Any, *, read: Any = lambda q, S: q @ S, start: float = 0.0) -> Any:
    """Return a memory with another rule: ``write(S, k, v, rate)`` returns the next matrix."""

    class Wrong(Memory):
        def __init__(self, d_key, d_value):
            super().__init__(d_key, d_value)
            self.matrix += start

        def write(self, k, v, rate=1.0):
            self.matrix = write(self.matrix, k, v, rate)

        def read(self, q):
            return read(q, self.matrix)

    return lambda d_key, d_value: Wrong(d_key, d_value)


def delta(S: Floats, k: Floats, v: Floats, rate: float) -> Floats:
    return S + rate * np.outer(k, v - k @ S)


_one, _two, _old, _fresh = (
    np.array(each) for each in ([1.0, 0], [0.6, 0.8], [1.0, 2, 3], [0.0, 1, 5])
)
_unit = _draw(size=(6, 4))
_unit /= np.linalg.norm(_unit, axis=1, keepdims=True)
_many = [
    (k, v, r) for k, v, r in zip(_unit, _draw(size=(6, 3)), (1, 0.5, 1, 0.2, 1, 0.9), strict=True)
]
check_memory = Exercise(
    Memory,
    [
        ("one pair, its key asked for", [(_one, _old)], _one[None]),
        ("another key asked for", [(_one, _old)], _two[None]),
        ("the key written again with another value", [(_one, _old), (_one, _fresh)], _one[None]),
        ("half of the way", [(_one, _old), (_one, _fresh, 0.5)], _one[None]),
        ("two keys that overlap", [(_one, _old), (_two, _fresh)], np.stack([_one, _two])),
        ("six pairs of random keys and rates", _many, _unit),
    ],
    {
        memory_of(lambda S, k, v, r: S + r * np.outer(k, v)): "What reading gives already was not taken off before writing: this is the sum.",
        memory_of(lambda S, k, v, r: np.outer(k, v)): "Each write starts with an empty matrix: add to what is there.",
        memory_of(lambda S, k, v, r: delta(S, k, v, 1)): "The rate is not used.",
        memory_of(lambda S, k, v, r: S + np.outer(k, r * v - k @ S)): "The rate belongs to the whole difference, not to the new value alone.",
        memory_of(lambda S, k, v, r: S + np.outer(k, v - r * (k @ S))): "The rate belongs to the whole difference, not to the old value alone.",
        memory_of(lambda S, k, v, r: (1 - r) * S + r * np.outer(k, v)): "The whole matrix fades; the delta rule takes off only what this key reads.",
        memory_of(lambda S, k, v, r: S - r * np.outer(k, v - k @ S)): "The difference is turned round: new value minus what is read.",
        memory_of(delta, read=lambda q, S: q @ S / np.linalg.norm(q @ S)): "What is read was scaled to length 1.",
        memory_of(delta, start=1.0): "The matrix must start with zeros.",
        memory_of(lambda S, k, v, r: S + r * np.outer(k, v - S.sum(0))): "What this key reads is k S, not the sum of all rows.",
        memory_of(lambda S, k, v, r: S * (1 - np.abs(k))[:, None] + r * np.outer(k, v)): "Whole rows were wiped out; take off only k times what k reads.",
    },
    use=told,
)  # fmt: skip
