"""Judges of the exercises of notebook 05, and its questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from attnlab.seeding import numpy_generator
from attnlab.teaching.core import Case, Mistake, case, grade
from attnlab.teaching.quiz import Option, Question

Program = Mapping[str, tuple[str, Sequence[str]]]  # result: (kind, what it waits for)

QUESTIONS = (
    Question(
        "The gate of SHE is ready long before the sum that it multiplies. You replace its map by "
        "one with half the operations. What changes?",
        [
            Option(
                "The path gets shorter.", "The gate is off the path: the product waits for the sum."
            ),
            Option(
                "The work gets smaller, the path stays.",
                "Every operation counts as work; only those on the longest chain count as depth.",
                is_right=True,
            ),
        ],
    ),
    Question(
        "A machine has 1,000 workers. Program A has work 10,000 and depth 20, program B work "
        "100,000 and depth 10. Which one is done first?",
        [
            Option(
                "A, for certain.",
                "A needs at most 10,000 / 1,000 + 20 = 30 steps, B at least 100,000 / 1,000 = 100.",
                is_right=True,
            ),
            Option("B, its path is shorter.", "Its work alone needs 100 steps of 1,000 workers."),
            Option("The bounds do not tell.", "They do: B's lower bound is above A's upper one."),
        ],
    ),
    Question(
        "You rewrite a loop of 128 products as one product over all 128 lags. What becomes "
        "shorter, and what does not?",
        [
            Option(
                "Work and depth both shrink.",
                "The same numbers are multiplied, so the multiplications stay.",
            ),
            Option(
                "Depth shrinks: the additions may form one tree. The work stays.",
                "The equation did not change, and its path did: a path belongs to a program.",
                is_right=True,
            ),
            Option("Nothing: the equation is the same.", "An equation has no order; a loop has."),
        ],
    ),
)


def check_depth(student: Callable[[Program], int]) -> None:
    """Judge exercise 5.1: ``depth(program)``, the length of the longest chain of operations."""
    grade(student, reference=depth, cases=depth_cases(), mistakes=DEPTH_MISTAKES)


def check_tree_depth(student: Callable[[int], int]) -> None:
    """Judge exercise 5.2: ``tree_depth(n)``, levels of additions over n terms."""
    grade(student, reference=tree_depth, cases=tree_cases(), mistakes=TREE_MISTAKES)


def check_crossover(student: Callable[[float, float, float, float], float]) -> None:
    """Judge exercise 5.3: ``crossover(work_a, depth_a, work_b, depth_b)``, a number of workers."""
    grade(student, reference=crossover, cases=crossover_cases(), mistakes=CROSSOVER_MISTAKES)


def levels(program: Program) -> dict[str, int]:
    """Return for each operation how many must follow each other up to and including it."""
    ready: dict[str, int] = {}

    def visit(name: str) -> int:
        if name not in program:
            return 0
        if name not in ready:
            ready[name] = 1 + max(visit(operand) for operand in program[name][1])
        return ready[name]

    return {name: visit(name) for name in program}


def depth(program: Program) -> int:
    """Return the length of the longest chain of operations."""
    return max(levels(program).values())


def longest_chain(program: Program) -> list[str]:
    """Return the operations of a longest chain, the first to be done first.

    Where several operands are equally late, the chain goes through the one named first.
    """
    ready = levels(program)
    chain = [max(ready, key=ready.__getitem__)]
    while waited := [name for name in program[chain[-1]][1] if name in program]:
        chain.append(max(waited, key=ready.__getitem__))
    return chain[::-1]


def tree_depth(n: int) -> int:
    """Return the levels of additions that n terms need, added up two by two."""
    return (n - 1).bit_length()


def crossover(work_a: float, depth_a: float, work_b: float, depth_b: float) -> float:
    """Return the number of workers above which the bound of a is below that of b.

    1 if one worker is enough, infinity if no number is.
    """
    more_work, saved = work_a - work_b, depth_b - depth_a
    if saved <= 0:
        return 1.0 if saved == 0 and more_work < 0 else math.inf
    return max(1.0, more_work / saved)


def depth_cases() -> list[Case]:
    """Return programs from one multiplication to a random one."""
    random = numpy_generator(0, "program")
    names = [f"n{i}" for i in range(14)]
    branching = {
        name: ("add", tuple(map(str, random.choice([*names[:i], "x", "y"], size=2))))
        for i, name in enumerate(names)
    }
    return [
        case("one multiplication", {"p": ("mul", ("x", "w"))}),
        case("a product, then a sum", {"p": ("mul", ("x", "w")), "s": ("add", ("b", "p"))}),
        case(
            "one arm longer than the other",
            {
                "p": ("mul", ("x", "w")),
                "q": ("mul", ("p", "p")),
                "s": ("add", ("b", "q")),
                "y": ("mul", ("p", "s")),
            },
        ),
        case(
            "listed in another order, the deepest not last",
            {
                "y": ("mul", ("s", "g")),
                "s": ("add", ("p", "q")),
                "p": ("mul", ("x", "w")),
                "q": ("mul", ("z", "w")),
                "g": ("mul", ("x", "v")),
            },
        ),
        case("a random program of 14 operations", branching),
    ]


def tree_cases() -> list[Case]:
    """Return numbers of terms at and beside powers of two."""
    return [case(f"{n} terms", n) for n in (2, 1, 3, 4, 5, 8, 9, 100, 16384, 16385)]


def crossover_cases() -> list[Case]:
    """Return pairs of programs from small numbers to the sizes of the page."""
    return [
        case("twice the work, half the depth", 200, 5, 100, 10),
        case("more work, one step less", 1000, 9, 100, 10),
        case("less work and less depth", 50, 5, 100, 10),
        case("less work, as deep", 50, 10, 100, 10),
        case("more work, as deep", 200, 10, 100, 10),
        case("less work, deeper", 50, 20, 100, 10),
        case("more work, deeper", 200, 20, 100, 10),
    ]


def _max_of(visit_leaf: int, program: Program, join: Callable[[list[int]], int]) -> int:
    """Return the largest depth with another rule for leaves or for joining operands."""

    def visit(name: str) -> int:
        if name not in program:
            return visit_leaf
        return 1 + join([visit(operand) for operand in program[name][1]])

    return max(visit(name) for name in program)


DEPTH_MISTAKES = (
    Mistake(
        "inputs counted",
        lambda program: _max_of(1, program, max),
        "Inputs and weights were counted as a step: they are ready at depth 0.",
    ),
    Mistake(
        "work",
        lambda program: len(program),
        "That is the work, the number of all operations. The depth counts one chain only.",
    ),
    Mistake(
        "first operand only",
        lambda program: _max_of(0, program, lambda ready: ready[0]),
        "Only the first operand of each operation was followed; the chain may come through any.",
    ),
    Mistake(
        "earliest operand",
        lambda program: _max_of(0, program, min),
        "An operation was started when its first operand was ready: it waits for the last one.",
    ),
    Mistake(
        "operands summed",
        lambda program: _max_of(0, program, sum),
        "The depths of the operands were added. They are made side by side: take the larger.",
    ),
    Mistake(
        "last entry",
        lambda program: levels(program)[list(program)[-1]],
        "That is the depth of the entry listed last. The deepest may stand anywhere.",
    ),
)

TREE_MISTAKES = (
    Mistake(
        "sequential",
        lambda n: n - 1,
        "That is one addition after the other (and the number of additions in any order). In a "
        "tree, additions of one level happen side by side.",
    ),
    Mistake(
        "rounded down",
        lambda n: n.bit_length() - 1,
        "log2 was rounded down: 3 terms need two levels, because one term has to wait.",
    ),
    Mistake(
        "bit length of n",
        lambda n: n.bit_length(),
        "At powers of two this is one level too many: 2 terms need one addition.",
    ),
    Mistake(
        "not rounded",
        lambda n: math.log2(n),
        "log2 was not rounded: the number of levels is whole.",
    ),
    Mistake(
        "terms counted as a level",
        lambda n: tree_depth(n) + 1,
        "The terms themselves were counted as a level; only additions are steps.",
    ),
    Mistake(
        "half",
        lambda n: n // 2,
        "One level leaves half of the terms; go on until one is left.",
    ),
)

CROSSOVER_MISTAKES = (
    Mistake(
        "special cases missing",
        lambda wa, da, wb, db: (wa - wb) / (db - da) if db != da else math.inf,
        "Where the bounds never cross, the formula gives a negative number, or none. If a is "
        "ahead already with one worker the answer is 1; if it stays behind with many, infinity.",
    ),
    Mistake(
        "own depth forgotten",
        lambda wa, da, wb, db: max(1.0, (wa - wb) / db),
        "Only the depth of b was divided by. What a saves is the difference of the depths.",
    ),
    Mistake(
        "own work forgotten",
        lambda wa, da, wb, db: max(1.0, wa / (db - da)) if db > da else math.inf,
        "Only the work of a was counted. What it costs is the difference of the work.",
    ),
    Mistake(
        "turned over",
        lambda wa, da, wb, db: max(1.0, (db - da) / (wa - wb)) if db > da else math.inf,
        "The fraction is upside down: workers are work divided by steps.",
    ),
    Mistake(
        "ratio of ratios",
        lambda wa, da, wb, db: (wa / da) / (wb / db),
        "Ratios of work to depth do not tell: set the two bounds equal and solve for P.",
    ),
)
