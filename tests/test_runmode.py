"""The run mode comes from one variable, and a mistyped one is named."""

import importlib.metadata

import pytest

from attnlab.errors import UnknownNameError
from attnlab.runmode import banner, is_fast


@pytest.mark.parametrize(("value", "fast"), [("fast", True), ("full", False), ("", True)])
def test_the_variable_names_the_mode_and_an_unknown_one_is_named(monkeypatch, value, fast):
    monkeypatch.delenv("ATTNLAB_MODE")
    assert is_fast()
    monkeypatch.setenv("ATTNLAB_MODE", value)
    assert is_fast() == fast
    monkeypatch.setenv("ATTNLAB_MODE", "ful")
    with pytest.raises(UnknownNameError, match=r"'ful'.*Did you mean 'full'.*ATTNLAB_MODE"):
        is_fast()


@pytest.mark.parametrize(("mode", "other"), [("full", "unset "), ("fast", "set ATTNLAB_MODE=full")])
def test_the_banner_says_minutes_both_modes_device_versions_and_seed(
    mode, other, monkeypatch, capsys
):
    monkeypatch.setenv("ATTNLAB_MODE", mode)
    banner(minutes=35, seed=7)
    words = capsys.readouterr().out
    torch = f"torch {importlib.metadata.version('torch')}"
    for part in ("35 minutes", f"Mode: {mode}", other, "Device: ", "Seed: 7", torch):
        assert part in words


def test_the_banner_names_the_device_that_is_used_and_no_idle_graphics_card(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda *_: "Some Card")
    banner(minutes=1)
    assert "Device: cpu." in capsys.readouterr().out
