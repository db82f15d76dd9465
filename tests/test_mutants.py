"""The mutation tester changes what computes, one place at a time, and puts it back."""

import tomllib
from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).resolve().parents[1]

CASES = {
    "if a < b: c()": {"if (a <= b): c()", "if (not a < b): c()", "if a < b: pass"},
    "x = f(a, key=1)": {"x = (f(a))", "x = f(a, key=(2))"},
    "y: list[int] = min(2 * (a - b), -c)": {
        "y: list[int] = (max)(2 * (a - b), -c)",
        "y: list[int] = min((2 / (a - b)), -c)",
        "y: list[int] = min((3) * (a - b), -c)",
        "y: list[int] = min(2 * ((a + b)), -c)",
        "y: list[int] = min(2 * (a - b), (c))",
    },
    "raise Error(f'{n + 1} left')": {"pass"},
    "\n'μ'; x.y = True and z": {
        "\n'μ'; pass",
        "\n'μ'; x.y = (True or z)",
        "\n'μ'; x.y = (False) and z",
    },
}


@pytest.mark.parametrize("code", CASES)
def test_each_piece_of_code_is_changed_in_every_way_but_annotations_and_messages(code, tmp_path):
    path, found = tmp_path / "a.py", set()
    path.write_text(code, "utf-8")
    for mutant in mutants.candidates(tmp_path, ["*.py"]):
        before = mutant.apply(tmp_path)
        found.add(path.read_text("utf-8"))
        path.write_text(before, "utf-8")
    assert found == CASES[code]


def test_every_named_change_still_finds_its_place():
    plan = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text("utf-8"))
    named = [one for room in plan["rooms"].values() for one in room.get("named", ())]
    lost = [
        one["name"] for one in named
        if (ROOT / one["file"]).read_text("utf-8").count(one["old"]) != 1
    ]  # fmt: skip
    assert len(named) > 40
    assert not lost
