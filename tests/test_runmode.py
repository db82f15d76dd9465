"""The run mode comes from one variable, and a mistyped one is named."""

import importlib.metadata

import pytest

from attnlab.errors import UnknownNameError
from attnlab.runmode import banner, describe_run, is_fast, run_mode


@pytest.mark.parametrize(("value", "mode"), [("fast", "fast"), ("full", "full"), ("", "fast")])
def test_the_variable_names_the_mode(monkeypatch, value, mode):
    monkeypatch.setenv("ATTNLAB_MODE", value)
    assert run_mode() == mode
    assert is_fast() == (mode == "fast")


def test_without_the_variable_the_mode_is_fast(monkeypatch):
    monkeypatch.delenv("ATTNLAB_MODE")
    assert run_mode() == "fast"


def test_an_unknown_mode_is_named_with_the_nearest_one(monkeypatch):
    monkeypatch.setenv("ATTNLAB_MODE", "ful")
    with pytest.raises(UnknownNameError, match=r"'ful'.*Did you mean 'full'.*ATTNLAB_MODE"):
        run_mode()


def test_the_banner_says_minutes_mode_device_versions_and_seed(monkeypatch, capsys):
    monkeypatch.setenv("ATTNLAB_MODE", "full")
    banner(minutes=35, seed=7)
    words = capsys.readouterr().out
    torch_version = importlib.metadata.version("torch")
    for part in ("35 minutes", "Mode: full", "Device: ", "Seed: 7", f"torch {torch_version}"):
        assert part in words


def test_the_other_mode_is_one_sentence_away(monkeypatch):
    monkeypatch.setenv("ATTNLAB_MODE", "fast")
    assert "ATTNLAB_MODE=full" in describe_run(minutes=1)
