"""The command: it teaches, it works, and its exit codes mean something."""

import io
import subprocess
import sys

import pytest

from attnlab.__main__ import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run studies in a folder of the test's own."""
    from attnlab.studies import Folders

    monkeypatch.setattr(Folders, "__init__", _init_in(tmp_path))
    return tmp_path


def _init_in(folder):
    def init(self, *, runs=folder / "runs", work=folder / "work", device="cpu"):
        object.__setattr__(self, "runs", runs)
        object.__setattr__(self, "work", work)
        object.__setattr__(self, "device", device)

    return init


def test_help_names_every_command_and_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for word in ("doctor", "list", "data", "train", "study", "figure", "Exit codes"):
        assert word in text


def test_list_shows_mixers_studies_and_corpora(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for word in ("attention", "she", "language-model", "children", "tales"):
        assert word in text
    assert main(["list", "mixers"]) == 0
    assert "children" not in capsys.readouterr().out


def test_a_mistyped_kind_is_answered_with_the_nearest(capsys):
    assert main(["list", "mixer"]) == 1
    assert "Did you mean 'mixers'" in capsys.readouterr().err


def test_doctor_finds_this_installation_in_order(capsys):
    assert main(["doctor"]) == 0
    assert "All is well" in capsys.readouterr().out


def test_doctor_fails_when_the_records_are_gone(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("attnlab.records.RUNS", tmp_path / "nowhere")
    assert main(["doctor"]) == 1
    assert "git checkout data/runs" in capsys.readouterr().out


def test_train_ends_with_a_loss_a_reference_and_a_sample(capsys, tmp_path):
    sizes = ["--steps", "3", "--d-model", "8", "--layers", "1", "--context-len", "16"]
    assert main(["train", "--mixer", "we", *sizes, "--heads", "2", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for words in ("Held-out loss", "True source, same tokens", "It went on", "Saved in"):
        assert words in text
    assert (tmp_path / "model.safetensors").exists()


def test_a_study_runs_and_then_has_nothing_left(capsys, here):
    words = ["study", "run", "language-model", "--variants", "mean,identity", "--seeds", "0,1"]
    assert main(words) == 0
    assert len((here / "runs" / "language-model.jsonl").read_text().splitlines()) == 4
    assert main(["study", "resume"]) == 0
    assert "Nothing to resume" in capsys.readouterr().out
    export = ["study", "export", "language-model", "--variants", "mean", "--to", str(here / "m")]
    assert main(export) == 0
    assert "mean.safetensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["train", "--mixer", "shee"], 1),
        (["study", "run", "nothing"], 1),
        (["figure", "nothing"], 1),
        (["data", "fetch", "nothing"], 1),
        (["study", "run", "language-model", "--seeds", "a,b"], 2),
        (["fly"], 2),
        ([], 2),
    ],
)
def test_exit_codes_tell_wrong_names_from_wrong_usage(words, code, capsys):
    try:
        answer = main(words)
    except SystemExit as stop:
        answer = stop.code
    assert answer == code
    assert capsys.readouterr().err


def test_data_commands_know_the_corpus_that_needs_no_file(capsys):
    assert main(["data", "list"]) == 0
    assert "no file needed" in capsys.readouterr().out
    assert main(["data", "fetch", "python_reference"]) == 0
    assert main(["data", "verify", "python_reference"]) == 0


def test_nothing_is_downloaded_without_consent(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))  # not a terminal: nobody was asked
    assert main(["data", "fetch", "tinyshakespeare", "--to", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "Licence" in captured.out
    assert "--yes" in captured.err
    assert not list(tmp_path.iterdir())


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "attnlab", "list", "studies"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "language-model" in done.stdout
