"""The conditions that tests/conftest.py promises do hold."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import loopback_only
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def test_torch_runs_on_one_thread():
    assert torch.get_num_threads() == 1


def test_empty_memory_is_not_a_number():
    assert torch.empty(7).isnan().all()


@pytest.mark.parametrize("host", ["192.0.2.1", "example.org", "2001:db8::1"])
def test_another_machine_cannot_be_reached(host):
    with socket.socket() as probe, pytest.raises(OSError, match="run offline"):
        probe.connect((host, 80))


def test_loopback_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            with socket.create_connection((host, server.getsockname()[1]), timeout=5):
                pass


@pytest.mark.parametrize(
    ("address", "here"),
    [(("::1", 80, 0, 0), True), ("/run/socket", True), (("10.0.0.1", 1), False)],
)
def test_loopback_is_told_from_the_rest(address, here):
    assert loopback_only.is_loopback(address) is here


SKIPPING = """
import pytest

def test_known():
    pytest.skip("corpus not here: fairy tales")

@pytest.mark.skip(reason="felt like it")
def test_unknown():
    pass

def test_warning():
    import warnings
    warnings.warn("old way")
"""


def test_a_skip_without_a_documented_reason_and_a_warning_fail(tmp_path):
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text("utf-8"))
    (tmp_path / "test_trial.py").write_text(SKIPPING)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no"]
    done = subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests" / "offline")},
        capture_output=True,
        text=True,
    )
    assert "1 failed, 1 skipped, 1 error" in done.stdout, done.stdout + done.stderr
    assert "'felt like it'" in done.stdout
    assert "old way" in done.stdout


def test_a_corpus_is_found_in_any_folder_of_the_variable(corpus_folder, tmp_path, monkeypatch):
    (tmp_path / "tales").mkdir()
    monkeypatch.setenv("ATTNLAB_DATA", os.pathsep.join(["", "nowhere", str(tmp_path)]))
    assert corpus_folder("tales") == tmp_path / "tales"
    with pytest.raises(pytest.skip.Exception, match="corpus not here: novels"):
        corpus_folder("novels")
