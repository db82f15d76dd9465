"""Exercises of chapter 05."""

from __future__ import annotations

import math

from attnlab.chapters.critical_path.live import Program, levels
from attnlab.seeding import numpy_generator
from attnlab.teach import CheckFailed, Exercise


def depth(program: Program) -> int:
    return max(levels(program).values())


def random_program(n: int) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return additions of two earlier results or inputs each."""
    draw, names = numpy_generator(0, "program").choice, [f"n{i}" for i in range(n)]
    return {
        name: ("add", tuple(map(str, draw([*names[:i], "x", "y"], size=2))))
        for i, name in enumerate(names)
    }


def _depth(*, leaf=0, join=max):
    """Return the largest depth with another rule for leaves or for joining operands."""

    def wrong(program):
        def visit(name):
            is_leaf = name not in program
            return leaf if is_leaf else 1 + join([visit(operand) for operand in program[name][1]])

        return max(visit(name) for name in program)

    return wrong


def _in_order(program):
    ready = {}
    for name, (_, operands) in program.items():
        ready[name] = 1 + max(ready.get(operand, 0) for operand in operands)
    return max(ready.values())


x, p = ("mul", ("x", "w")), ("mul", ("p", "p"))
check_depth = Exercise(
    depth,
    [
        ("one multiplication", {"p": x}),
        ("a product, then a sum", {"p": x, "s": ("add", ("b", "p"))}),
        ("one arm longer than the other",
         {"p": x, "q": p, "s": ("add", ("b", "q")), "y": ("mul", ("p", "s"))}),
        ("listed in another order, the deepest not last",
         {"y": ("mul", ("s", "g")), "s": ("add", ("p", "q")), "p": x, "q": ("mul", ("z", "w")), "g": ("mul", ("x", "v"))}),
        ("a random program of 14 operations", random_program(14)),
    ],
    {
        _depth(leaf=1): "Inputs and weights were counted as a step: they are ready at depth 0.",
        len: "That is the work, the number of all operations. The depth counts one chain only.",
        _depth(join=lambda ready: ready[0]): "Only the first operand of each operation was followed; the chain may come through any.",
        _depth(join=min): "An operation was started when its first operand was ready: it waits for the last one.",
        _depth(join=sum): "The depths of the operands were added. They are made side by side: take the larger.",
        _depth(join=lambda ready: ready[-1]): "Only the last operand of each operation was followed; the chain may come through any.",
        _in_order: "The order of the entries was trusted: an operand that is listed later counted as an input.",
        lambda program: depth(program) - 1: "One step is missing: count the operations of the chain, not the arrows between them.",
        lambda program: levels(program)[list(program)[-1]]: "That is the depth of the entry listed last. The deepest may stand anywhere.",
    },
)  # fmt: skip


def tree_depth(n: int) -> int:
    return (n - 1).bit_length()


check_tree_depth = Exercise(
    tree_depth,
    [(f"{n} terms", n) for n in (2, 1, 3, 4, 5, 8, 9, 100, 16384, 16385)],
    {
        lambda n: n - 1: "That is one addition after the other (and the number of additions in any order). In a tree, additions of one level happen side by side.",
        lambda n: n.bit_length() - 1: "log2 was rounded down: 3 terms need two levels, because one term has to wait.",
        lambda n: n.bit_length(): "At powers of two this is one level too many: 2 terms need one addition.",
        math.log2: "log2 was not rounded: the number of levels is whole.",
        lambda n: tree_depth(n) + 1: "The terms themselves were counted as a level; only additions are steps.",
        lambda n: math.ceil(math.log(n)): "That is the natural logarithm; halving asks for the one to base 2.",
        lambda n: round(math.log2(n)): "log2 was rounded to the nearest whole number: a term that is left over needs a level of its own, so round up.",
        lambda n: n // 2: "One level leaves half of the terms; go on until one is left.",
    },
)  # fmt: skip


def crossover(work_a: float, depth_a: float, work_b: float, depth_b: float) -> float:
    more_work, saved = work_a - work_b, depth_b - depth_a
    if saved <= 0:
        return 1.0 if saved == 0 and more_work < 0 else math.inf
    return max(1.0, more_work / saved)


def _formula(fraction):
    """Return a crossover by another fraction, where a saves depth."""
    return lambda wa, da, wb, db: max(1.0, fraction(wa, da, wb, db)) if db > da else math.inf


BARE = "Where the bounds never cross, the formula gives a negative number, or none. If a is ahead already with one worker the answer is 1; if it stays behind with many, infinity."
DEPTH_OF_B = "Only the depth of b was divided by. What a saves is the difference of the depths."
check_crossover = Exercise(
    crossover,
    [
        ("twice the work, half the depth", 200, 5, 100, 10),
        ("more work, one step less", 1000, 9, 100, 10),
        ("less work and less depth", 50, 5, 100, 10),
        ("less work, as deep", 50, 10, 100, 10),
        ("more work, as deep", 200, 10, 100, 10),
        ("less work, deeper", 50, 20, 100, 10),
        ("more work, deeper", 200, 20, 100, 10),
    ],
    {
        lambda wa, da, wb, db: (wa - wb) / (db - da) if db != da else math.inf: BARE,
        lambda wa, da, wb, db: (wa - wb) / (db - da) if db > da else math.inf: BARE,
        lambda wa, da, wb, db: (wa - wb) / (db - da): BARE,
        lambda wa, da, wb, db: max(1.0, (wa - wb) / (db - da)): BARE,
        _formula(lambda wa, da, wb, db: (wa - wb) / (db - da)): "Where a is as deep but has less work, it is ahead from the first worker on: 1, not infinity.",
        _formula(lambda wa, da, wb, db: (wb - wa) / (db - da)): "The work was subtracted the other way round: what a costs is its work minus that of b.",
        _formula(lambda wa, da, wb, db: (wa - wb) / db): DEPTH_OF_B,
        lambda wa, da, wb, db: max(1.0, (wa - wb) / db): DEPTH_OF_B,
        _formula(lambda wa, da, wb, db: wa / (db - da)): "Only the work of a was counted. What it costs is the difference of the work.",
        _formula(lambda wa, da, wb, db: (db - da) / (wa - wb)): "The fraction is upside down: workers are work divided by steps.",
        lambda wa, da, wb, db: (wa / da) / (wb / db): "Ratios of work to depth do not tell: set the two bounds equal and solve for P.",
    },
)  # fmt: skip


# Build 5: a number that traces its own chain ------------------------------------------------------


def number_of(*, join="longer", start=0, order=1, mixes=True, work=False, ties="left", each=1):
    """Return a class of tracing numbers with these parts right or wrong."""

    class Number:
        def __init__(self, value, depth=start, chain=()):
            self.value, self.depth, self.chain = value, depth, list(chain)

        def _with(self, other, name, value):
            other = other if isinstance(other, Number) or not mixes else Number(other)
            if work:
                depth = self.depth + other.depth + 1
            else:
                depth = {"longer": max, "shorter": min, "left": lambda a, b: a}[join](
                    self.depth, other.depth
                ) + each
            is_first = self.depth >= other.depth if ties == "left" else self.depth > other.depth
            first = self if is_first or join == "left" else other
            return Number(value, depth, [*first.chain, name] if order > 0 else [name, *first.chain])

        def __add__(self, other):
            return self._with(other, "add", self.value + getattr(other, "value", other))

        def __mul__(self, other):
            return self._with(other, "mul", self.value * getattr(other, "value", other))

        __radd__, __rmul__ = __add__, __mul__

    return Number


def traced(build, expression, *values):
    """Return value, depth and chain of an expression of numbers."""
    result = expression(*map(build, values))
    for name in ("value", "depth", "chain"):
        if not hasattr(result, name):
            raise CheckFailed(f"The result of an operation needs an attribute {name}.")
    return {"value": result.value, "depth": result.depth, "chain": list(result.chain)}


def horner(x, *weights):
    result = weights[0]
    for weight in weights[1:]:
        result = result * x + weight
    return result


check_number = Exercise(
    number_of(),
    [
        ("one product", lambda a, b: a * b, 2, 3),
        ("a product, then a sum", lambda a, b, c: c + a * b, 2, 3, 4),
        ("two arms of unequal length", lambda a, b, c: (a + b) * c + a, 2, 3, 4),
        ("a plain number on either side", lambda a: 2 * (a + 1) * a, 5),
        ("two equal arms, then a product", lambda a, b: (a + b) * (a * b), 2, 3),
        ("sum() of products", lambda *x: sum(a * a for a in x), 1, 2, 3, 4),
        ("a polynomial by Horner", horner, 2, 1, 3, 5, 7),
    ],
    {
        number_of(join="shorter"): "A result waits for the operand that is ready last: take the larger depth.",
        number_of(join="left"): "Only the left operand was followed; the chain may come through either.",
        number_of(start=1): "Inputs are ready at depth 0.",
        number_of(order=-1): "The chain runs backwards: the first operation comes first.",
        number_of(work=True): "That is the work: operations of both operands were added. A chain follows one of them.",
        number_of(each=0): "An operation adds one to the depth.",
    },
    use=traced,
)  # fmt: skip
