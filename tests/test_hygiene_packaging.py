"""pyproject.toml, constraints.txt and environment.yml name the same packages and agree."""

import ast
import json
import re
import sys
import tomllib
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import attnlab

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


class Files(NamedTuple):
    """The texts that must agree."""

    pyproject: str
    constraints: str
    environment: str


def read_files() -> Files:
    names = ("pyproject.toml", "constraints.txt", "environment.yml")
    return Files(*((ROOT / name).read_text(encoding="utf-8") for name in names))


def read_pins(constraints: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in constraints.splitlines())
    return [Requirement(line) for line in lines if line]


def is_exact(pin: Requirement) -> bool:
    return re.fullmatch(r"==[\w.!]+", str(pin.specifier)) is not None


def applicable_pins(constraints: str) -> dict[str, Version]:
    return {
        canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("=="))
        for pin in read_pins(constraints)
        if is_exact(pin) and (pin.marker is None or pin.marker.evaluate())
    }


def requirements(pyproject: str) -> tuple[list[Requirement], list[Requirement]]:
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"]  # of tests, which take in all others
    extra = [Requirement(r) for each in extras.values() for r in each]
    needed = [r for r in extra if r.name != "attnlab"]
    return [Requirement(r) for r in project["dependencies"]], needed


def lock_problems(files: Files) -> list[str]:
    """Say where constraints.txt is not an exact set that fits the ranges."""
    required, extra = requirements(files.pyproject)
    pins = applicable_pins(files.constraints)
    loose = [pin for pin in read_pins(files.constraints) if not is_exact(pin)]
    problems = [f"constraints.txt: {pin} is not pinned exactly" for pin in loose]
    for wanted in required + extra:
        pin = pins.get(canonicalize_name(wanted.name))
        if pin is None or pin not in wanted.specifier:
            problems.append(f"constraints.txt: {wanted.name}=={pin} is outside {wanted.specifier}")
    return problems + [
        f"pyproject.toml: {r} has no lower bound" for r in required if ">=" not in str(r)
    ]


def conda_problems(files: Files) -> list[str]:
    """Say where environment.yml differs from pyproject.toml."""
    required, _ = requirements(files.pyproject)
    environment = yaml.safe_load(files.environment)
    entries = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    python = next(entry for entry in entries if re.fullmatch(r"python=[\d.]+", entry))
    supported = SpecifierSet(tomllib.loads(files.pyproject)["project"]["requires-python"])
    pip = [line for e in environment["dependencies"] if isinstance(e, dict) for line in e["pip"]]
    rules = {
        "the channels pytorch and defaults must not be used": not {"pytorch", "defaults"}
        & set(environment["channels"]),
        f"{python} is not in {supported}": Version(python.removeprefix("python=")) in supported,
        "its pip part must be exactly '-e .[test]'": pip == ["-e .[test]"],
    }
    conda = {r.name: r.specifier for r in map(Requirement, filter(lambda e: e != python, entries))}
    for wanted in required:
        name = CONDA_NAMES.get(wanted.name, wanted.name).lower()
        same = conda.pop(name, None) == wanted.specifier
        rules[f"{name} must be there with {wanted.specifier}"] = same
    rules |= {f"{name} is not in pyproject": name == "pip" for name in conda}
    return [f"environment.yml: {rule}" for rule, is_kept in rules.items() if not is_kept]


def problems(files: Files) -> list[str]:
    return lock_problems(files) + conda_problems(files)


def test_the_three_files_agree():
    assert not problems(read_files())


def test_torch_is_pinned_to_a_release_and_to_no_local_build():
    (pin,) = (pin for pin in read_pins(read_files().constraints) if pin.name == "torch")
    assert re.fullmatch(r"==\d+\.\d+\.\d+", str(pin.specifier))
    assert "file:" not in read_files().constraints


def test_binder_has_the_same_packages():
    here, binder = (
        yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
        for name in ("environment.yml", ".binder/environment.yml")
    )
    assert binder["channels"] == here["channels"]
    assert binder["dependencies"] == [e for e in here["dependencies"] if isinstance(e, str)]


@pytest.mark.parametrize(
    ("file", "pattern", "text"),  # what stands there, what is put in its place
    [
        ("pyproject", r'"torch>=2.9"', '"torch>=99"'),
        ("pyproject", r"dependencies = \[", 'dependencies = ["einops>=0.8",'),
        ("constraints", r"(?m)^pandas==.*\n", ""),
        ("constraints", r"(?m)^tqdm==", "tqdm>="),
        ("constraints", r"(?m)^ruff==.*", "ruff==0.1.0"),
        ("environment", r"(?m)^ *- tqdm.*\n", ""),
        ("environment", r"pandas>=[\d.]+", "pandas>=1"),
        ("environment", "conda-forge", "pytorch"),
        ("environment", r"python=[\d.]+", "python=3.10"),
        ("environment", r"-e .\[test\]", "attnlab"),
        ("environment", r"  - pip\n", "  - pip\n  - lightning>=2\n"),
    ],
)
def test_a_disagreement_is_seen(file, pattern, text):
    files = read_files()
    changed = files._replace(**{file: re.sub(pattern, text, getattr(files, file), count=1)})
    assert changed != files
    assert problems(changed)


def test_every_dependency_says_what_it_is_for():
    text = read_files().pyproject
    lines = re.findall(r'(?m)^    "[A-Za-z][\w-]*>=.*$', text)
    assert len(lines) > 20
    assert not [line for line in lines if not re.search(r"#\s+\w+", line)]


def test_no_dependency_is_only_there_by_luck():
    pyproject = read_files().pyproject
    sweep = tomllib.loads(pyproject)["project"]["optional-dependencies"]["sweep"]
    required = [*requirements(pyproject)[0], *map(Requirement, sweep)]
    named = {canonicalize_name(r.name) for r in required} | {"ipython", "ipykernel"}
    outside = set()
    for path in (ROOT / "attnlab").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                outside |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                outside.add((node.module or "").split(".")[0])
    outside = {"pillow" if name == "PIL" else name for name in outside}
    outside -= set(sys.stdlib_module_names) | {"attnlab"}
    assert not {name for name in outside if canonicalize_name(name) not in named}


def test_installed_versions_are_in_the_ranges():
    for wanted in chain(*requirements(read_files().pyproject)):
        assert wanted.specifier.contains(version(wanted.name), prereleases=True), wanted


def test_the_package_and_the_citation_have_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == attnlab.__version__


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name
)
def test_workflows_call_commands_that_exist(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = "\n".join(step.get("run", "") for step in steps)
    missing = [
        name for name in re.findall(r"\btests/[\w/]+\.py", commands) if not (ROOT / name).exists()
    ]
    assert not missing
    needed = [name for job in workflow["jobs"].values() for name in job.get("needs", ())]
    assert set(needed) <= set(workflow["jobs"])
    called = set(re.findall(r"(?m)^\s*python3? lab\.py (\w+)", commands))
    assert called or "pytest" in commands
    assert called <= {"setup", "test", "check", "notebooks", "book", "slides"}


def read_workflow(name: str) -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


def test_every_python_that_is_promised_is_tested_on_a_push_and_both_ends_weekly():
    project = tomllib.loads(read_files().pyproject)["project"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert all(Version(each) in SpecifierSet(project["requires-python"]) for each in promised)
    assert read_workflow("push.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == promised
    ends = read_workflow("weekly.yml")["jobs"]["range"]["strategy"]["matrix"]["include"]
    assert {"versions": "lowest-direct", "python": promised[0]} in ends
    assert {"versions": "highest", "python": promised[-1]} in ends


def test_the_nightly_run_has_the_long_ones():
    jobs = read_workflow("nightly.yml")["jobs"]
    assert jobs["nonsense"]["env"] == {"ATTNLAB_NONSENSE": "10000", "ATTNLAB_KILLS": "100"}
    assert jobs["copies"]["env"] == {"ATTNLAB_COPIES": "all"}
    assert jobs["book"]["env"] == {"ATTNLAB_BOOK": "whole"}
    parts = jobs["notebooks"]["strategy"]["matrix"]["part"]
    (loop,) = re.findall(r"for run in ([\d ]+);", jobs["notebooks"]["steps"][-1]["run"])
    assert len(parts) * len(loop.split()) == 20
    assert "pip wheel" in jobs["wheel"]["steps"][-2]["run"]
    assert set(jobs["report"]["needs"]) == set(jobs) - {"report"}


def test_the_names_of_sliders_are_installed_where_jupyterlab_looks():
    setuptools = tomllib.loads(read_files().pyproject)["tool"]["setuptools"]
    installed = {
        f"{folder}/{Path(file).name}": ROOT / file
        for folder, files in setuptools["data-files"].items()
        for file in files
    }
    package = installed["share/jupyter/labextensions/attnlab/package.json"]
    start = json.loads(package.read_text("utf-8"))["jupyterlab"]["_build"]["load"]
    assert f"share/jupyter/labextensions/attnlab/{start}" in installed
    assert all(file.is_file() for file in installed.values())
