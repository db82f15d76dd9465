"""Every command that the documents tell a reader to type exists."""

import re
from pathlib import Path

import pytest

from attnlab.cli import main

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]
FENCE = re.compile(r"^```(?:bash|sh|console|shell)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)[^)]*\)")


def commands(markdown: str) -> list[str]:
    """Return the commands in the shell fences of a document, prompts and comments removed."""
    lines = [line.strip() for block in FENCE.findall(markdown) for line in block.splitlines()]
    lines = [line.removeprefix("$ ").split("  #")[0].strip() for line in lines]
    return [line for line in lines if line and not line.startswith("#")]


def make_targets() -> set[str]:
    rules = re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return {target for rule in rules for target in rule.split()}


def lab_commands() -> set[str]:
    return set(re.findall(r'add_parser\(\s*"(\w+)"', (ROOT / "lab.py").read_text("utf-8")))


def unknown(command: str, attnlab_commands: set[str]) -> bool:
    """Say whether a command line names a target or subcommand that does not exist."""
    words = [word for word in command.split() if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if words[0] == "make":
        targets = [word for word in words[1:] if not word.startswith(("-", '"'))]
        return not set(targets[:1]) <= make_targets()
    if "lab.py" in words[:2]:
        return words[words.index("lab.py") + 1] not in lab_commands()
    if words[0] == "attnlab":
        return words[1] not in attnlab_commands
    return False


@pytest.fixture
def attnlab_commands(capsys) -> set[str]:
    assert main(["--help"]) == 0
    return set(re.findall(r"(?m)^  ([a-z]+)  ", capsys.readouterr().out))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_documented_command_exists_and_every_relative_link_leads_to_a_file(
    name, attnlab_commands
):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert commands(text), "the document shows no command at all"
    assert not [line for line in commands(text) if unknown(line, attnlab_commands)]
    assert not [target for target in LINK.findall(text) if not (ROOT / target).exists()]


def test_what_the_readme_and_the_machines_run_is_a_command_of_lab_py():
    lines = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {"make lab", "make test"} <= set(lines)
    assert "exec make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert make_targets() - {"help", "python-is-here"} == lab_commands()


def test_a_command_that_does_not_exist_is_seen():
    bad = ["make tea", "attnlab brew", "python3 lab.py brew", "CI=1 make tea"]
    good = ["make test ARGS=-x", "attnlab doctor", "python3 lab.py lab"]
    assert [line for line in bad + good if unknown(line, {"doctor"})] == bad
