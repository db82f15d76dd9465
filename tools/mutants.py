"""Change the package by one expression at a time and see whether its tests notice.

    python tools/mutants.py CHECKOUT --room scores --json mutants.json

Works in a scratch clone. ``tests/mutants.toml`` says which files and tests a room has, and holds
named changes; the others are drawn with a fixed seed from all that can be made to those files.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PAIRS = ["Lt LtE", "Gt GtE", "Eq NotEq", "Is IsNot", "In NotIn", "Add Sub", "Mult Div", "And Or"]
SWAPS = {one: two for pair in PAIRS for one, two in (pair.split(), pair.split()[::-1])}
SWAPS |= {"FloorDiv": "Div", "Mod": "FloorDiv", "Pow": "Mult"}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "zeros": "ones", "ones": "zeros"}
KILLED = ("killed", "timeout")
N_SAMPLED = 40  # of a room


class Mutant(NamedTuple):
    """A change of one place: the ``old`` text at ``start`` (or anywhere, once) becomes ``new``."""

    file: str
    old: str
    new: str
    name: str
    start: int = -1

    def apply(self, root: Path) -> str:
        """Write the changed file; return what stood there."""
        path = root / self.file
        text = path.read_text("utf-8")
        at = self.start if self.start >= 0 else text.find(self.old)
        if at >= 0:
            path.write_text(text[:at] + self.new + text[at + len(self.old) :], "utf-8")
        return text


def changes(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield a part of the code and what may stand in its place."""

    def swapped(operator: ast.AST) -> ast.AST:
        return getattr(ast, SWAPS[type(operator).__name__])()

    match node:
        case ast.Compare(left, [operator], right):
            yield node, ast.Compare(left, [swapped(operator)], right)
        case ast.BinOp(left, operator, right) if type(operator).__name__ in SWAPS:
            yield node, ast.BinOp(left, swapped(operator), right)
        case ast.BoolOp(operator, values):
            yield node, ast.BoolOp(swapped(operator), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield node, operand
        case ast.Constant(bool(value)):
            yield node, ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            yield node, ast.Constant(value + 1)
        case ast.If(test) | ast.IfExp(test):
            yield test, ast.UnaryOp(ast.Not(), test)
        case ast.Call(function, arguments, keywords):
            match function:
                case ast.Name(name) if name in NAMES:
                    yield function, ast.Name(NAMES[name])
                case ast.Attribute(value, name) if name in NAMES:
                    yield function, ast.Attribute(value, NAMES[name])
            for keyword in keywords:
                rest = [other for other in keywords if other is not keyword]
                yield node, ast.Call(function, arguments, rest)
        case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Raise():
            yield node, ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield node, ast.Pass()


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that compute: no annotations, decorators, or texts of messages."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from walk(child)


def candidates(root: Path, patterns: list[str]) -> list[Mutant]:
    """Return every change that can be made to the files of a room."""
    found = []
    for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
        text, file = path.read_text("utf-8"), path.relative_to(root).as_posix()
        lines = text.splitlines(keepends=True)
        for node in walk(ast.parse(text)):
            for place, other in changes(node):
                old = ast.get_source_segment(text, place) or ""
                new = "pass" if isinstance(other, ast.Pass) else f"({ast.unparse(other)})"
                column = len(lines[place.lineno - 1].encode()[: place.col_offset].decode())
                start = sum(map(len, lines[: place.lineno - 1])) + column
                said = f"{' '.join(old.split())} -> {' '.join(new.split())}"
                found.append(Mutant(file, old, new, f"{file}:{place.lineno}: {said}", start))
    return found


def outcome(root: Path, tests: list[str], *, limit_s: float) -> tuple[str, float]:
    """Run tests in a child process; return ``killed``, ``lived`` or ``timeout``, and seconds."""
    started, child = time.perf_counter(), os.fork()
    if child == 0:
        signal.alarm(int(limit_s))
        os.chdir(root)
        sys.path[:0] = [str(root)]
        for stream in (1, 2):
            os.dup2(os.open(root / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        off = [f"-pno:{name}" for name in ("timeout", "nbval", "xdist", "cacheprovider")]
        rest = ["-oaddopts=", "--benchmark-disable", "-Wignore::pytest.PytestAssertRewriteWarning"]
        os._exit(int(importlib.import_module("pytest").main(["-xq", *off, *rest, *tests])))
    status = os.waitpid(child, 0)[1]
    word = "timeout" if os.WIFSIGNALED(status) else "lived" if status == 0 else "killed"
    return word, time.perf_counter() - started


def run_room(root: Path, mutants: list[Mutant], tests: list[str]) -> list[dict[str, str]]:
    """Return each mutant with what became of it; the unchanged tree must pass."""
    word, seconds = outcome(root, tests, limit_s=600)
    sys.stdout.write(f"{word:8}unchanged, {seconds:.1f} s: {' '.join(tests)}\n")
    if word != "lived":
        raise SystemExit((root / "log.txt").read_text("utf-8")[-2000:])
    rows = []
    for mutant in mutants:
        before = mutant.apply(root)
        is_changed = before != (root / mutant.file).read_text("utf-8")
        word = outcome(root, tests, limit_s=30 + 5 * seconds)[0] if is_changed else "lost"
        (root / mutant.file).write_text(before, "utf-8")
        rows.append({"name": mutant.name, "outcome": word})
        sys.stdout.write(f"{word:8}{mutant.name[:150]}\n")
        sys.stdout.flush()
    return rows


def main() -> None:
    """Print what was killed, room by room, and write all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--plan", type=Path, help="default: tests/mutants.toml of the checkout")
    parser.add_argument("--room", action="append", help="default: every room of the plan")
    parser.add_argument("--sample", type=int, default=N_SAMPLED, help="sampled changes a room")
    parser.add_argument("--json", type=Path, default=Path("mutants.json"))
    options = parser.parse_args()
    plan = tomllib.loads(
        (options.plan or options.checkout / "tests/mutants.toml").read_text("utf-8")
    )
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "CI": "1"}
    sys.dont_write_bytecode = True
    for name in (
        "hypothesis",
        "matplotlib.pyplot",
        "pandas",
        "pytest",
        "sacrebleu",
        "torch._dynamo",
    ):
        importlib.import_module(name)  # once, not once a mutant
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "clone"
        subprocess.run(["git", "clone", "-q", str(options.checkout), str(root)], check=True)
        os.environ["PYTHONPATH"] = str(root)
        for room, about in plan["rooms"].items():
            if options.room and room not in options.room:
                continue
            every = candidates(root, about.get("files", []))
            drawn = random.Random(room).sample(every, min(options.sample, len(every)))
            named = [Mutant(**row) for row in about.get("named", [])]
            found[room] = {"candidates": len(every)}
            for kind, mutants in (("named", named), ("sampled", drawn)):
                found[room][kind] = run_room(root, mutants, about["tests"]) if mutants else []
            options.json.write_text(json.dumps(found, indent=1), "utf-8")
    for room, kinds in found.items():
        said = [
            f"{kind}: {sum(row['outcome'] in KILLED for row in kinds[kind])} of {len(kinds[kind])}"
            for kind in ("named", "sampled")
        ]
        sys.stdout.write(f"{room:14}killed {'; '.join(said)}\n")


if __name__ == "__main__":
    main()
