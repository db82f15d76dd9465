"""A record can say where it came from, inside git and outside of it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attnlab import provenance


@pytest.fixture(autouse=True)
def _forget_commit():
    provenance.commit.cache_clear()
    yield
    provenance.commit.cache_clear()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git repository of its own with the package folder in it."""
    if shutil.which("git") is None:
        pytest.skip("no git: nothing to ask")
    package = tmp_path / "attnlab"
    package.mkdir()
    (package / "errors.py").write_text("")
    name = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], [*name, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "PACKAGE_FOLDER", package)
    return tmp_path


def test_the_commit_is_twelve_digits(checkout):
    assert len(provenance.commit()) == 12
    assert int(provenance.commit(), 16) >= 0


def test_a_tag_does_not_hide_the_commit(checkout):
    subprocess.run(["git", "tag", "v1"], cwd=checkout, check=True)
    assert len(provenance.commit()) == 12


def test_a_changed_file_makes_the_commit_dirty(checkout):
    (checkout / "attnlab" / "errors.py").write_text("# changed")
    assert provenance.commit().endswith("-dirty")


def test_another_projects_checkout_is_not_taken_for_ours(checkout, monkeypatch):
    nested = checkout / "site-packages" / "attnlab"
    nested.mkdir(parents=True)
    monkeypatch.setattr(provenance, "PACKAGE_FOLDER", nested)
    assert provenance.commit() == "unknown"


def test_outside_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE_FOLDER", tmp_path)
    assert provenance.commit() == "unknown"


def test_without_git_the_commit_is_unknown(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() == "unknown"


def test_the_environment_names_versions_device_and_threads():
    found = provenance.environment()
    assert set(found) == {"python", "torch", "os", "device", "threads"}
    assert found["torch"] == torch.__version__
    assert found["threads"] == str(torch.get_num_threads())
    assert all(isinstance(value, str) and value for value in found.values())


def test_the_command_has_no_folder_of_this_machine(monkeypatch, tmp_path):
    package = str(provenance.PACKAGE_FOLDER / "errors.py")
    outside = str(tmp_path / "a file.txt")
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-m", "attnlab", package, outside])
    name = Path(sys.executable).stem
    assert provenance.command() == f"{name} -m attnlab attnlab/errors.py 'a file.txt'"


def test_provenance_imports_no_torch():
    code = "import sys, attnlab.provenance, attnlab.runmode; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
