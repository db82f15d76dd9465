"""The command: it teaches, it works, and its exit codes mean something."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from attnlab.cli import main
from attnlab.mixers import find_mixer, list_mixers, mixer_summary

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--steps", "3", "--d-model", "8", "--layers", "1", "--context-len", "16", "--heads", "2"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run studies in a folder of the test's own."""
    from attnlab.studies import Folders

    monkeypatch.setattr(
        Folders.__init__,
        "__kwdefaults__",
        {"runs": tmp_path / "runs", "work": tmp_path / "work", "device": "cpu"},
    )
    return tmp_path


def test_help_names_every_command_and_the_exit_codes_and_imports_nothing_heavy():
    code = (
        "import sys, time, attnlab.cli; code = attnlab.cli.main(['--help']); "
        "assert time.process_time() < 3 * 0.6; "
        "heavy = {'torch', 'matplotlib', 'pandas', 'numpy', 'rich', 'pydantic'}; "
        "print(code, sorted(heavy & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "0 []\n"
    for word in ("doctor", "list", "data", "train", "study", "bench", "figure"):
        assert f"\n  {word}" in done.stdout
    assert "  attnlab train --mixer she        " in done.stdout
    assert "130 interrupted" in done.stdout


def test_list_shows_mixers_studies_and_corpora(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for word in ("attention", "she", "language-model", "children", "tales", "loss-children"):
        assert f"\n  {word} " in text
    assert main(["list", "mixers"]) == 0
    assert "children" not in capsys.readouterr().out


def test_list_says_of_every_mixer_what_its_matrix_is_and_what_it_costs(capsys):
    assert main(["list", "mixers"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()[1:]
    assert header.split("  ")[-1].strip() == "(numbers at width 64 and context 128)"
    found = {row.split()[0]: [cell.strip() for cell in row.split("  ") if cell] for row in rows}
    assert tuple(found) == list_mixers()
    d, n = 64, 128
    costs = [f"{n * d**2 + 2 * d**2:,}", f"{n * d:,}", f"{(n + 1) / 2 * d**2 + 2 * d**2 + d:,.0f}"]
    assert found["she"][:6] == ["she", "Toeplitz", "no", *costs]
    for name, row in found.items():
        assert row[6] == mixer_summary(name)
        assert row[2] == ("yes" if find_mixer(name).adapts else "no")


def test_doctor_finds_this_installation_in_order(capsys):
    assert main(["doctor"]) == 0
    assert "All is well" in capsys.readouterr().out


def test_doctor_fails_when_the_records_are_gone(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("attnlab.records.RUNS", tmp_path / "nowhere")
    assert main(["doctor"]) == 1
    assert "git checkout data/runs" in capsys.readouterr().out


def test_train_ends_with_a_loss_a_reference_and_a_sample(capsys, tmp_path):
    assert main(["train", "--mixer", "we", *TINY, "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for words in ("Held-out loss", "True source, same tokens", "It went on", "Saved in"):
        assert words in text
    assert (tmp_path / "model.safetensors").exists()


def test_a_model_is_saved_though_nobody_reads_on(tmp_path):
    words = [sys.executable, "-m", "attnlab", "train", *TINY, "--out", str(tmp_path)]
    reading, writing = os.pipe()
    process = subprocess.Popen(words, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    os.close(reading)
    assert b"Traceback" not in process.communicate()[1]
    assert process.returncode == 0
    assert (tmp_path / "model.safetensors").exists()


PRINTS = [  # every command that prints, one way or another
    ["train", *TINY, "--out", "it"], ["list", "sources"], ["--help"], ["doctor"], ["list"],
    ["claims", "E1"], ["data", "list"], ["data", "fetch", "python_reference"],
    ["data", "verify", "python_reference"], ["study", "list"], ["study", "resume"],
    ["study", "report"], ["figure", "--list"],
]  # fmt: skip
ANYWHERE = """
import sys
from pathlib import Path
from attnlab import claims, cli, studies
from attnlab.studies import report
report.results_block = lambda: "results"
claims.ledger_rows = lambda name: [(name, "true")]
studies.Folders.__init__.__kwdefaults__.update(runs=Path("r"), work=Path("w"))
say = cli.say
cli.say = lambda text: say(text + " ü → é ≤ \\ud800")
sys.exit(max(cli.main(line) for line in {lines}))
"""


@pytest.mark.parametrize(("encoding", "n_commands"), [("cp1252", 99), ("ascii", 2)])
def test_every_command_prints_on_every_console(encoding, n_commands, tmp_path):
    """What is said gets letters added that these consoles lack."""
    few = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    few |= {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", ANYWHERE.format(lines=PRINTS[:n_commands])]
    done = subprocess.run(words, capture_output=True, env=few, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    for word in (b"tales", b"It went on", rb"\u2264 \ud800"):
        assert word in done.stdout
    assert (tmp_path / "it" / "model.safetensors").exists()


FULL = [">/dev/full 2>&1"] if os.path.exists("/dev/full") else []


@pytest.mark.skipif(os.name == "nt", reason="not on Windows: shell")
@pytest.mark.parametrize("to", ["| head -n 1", ">&- 2>&-", *FULL])
def test_a_reader_who_leaves_is_no_reason_to_fail(to, tmp_path):
    command = f'"{sys.executable}" -m attnlab train {" ".join(TINY)} --out . {to}'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True,
                          cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--out", "file"], "file cannot be written"),
        (["train", "--out", "a" * 300], "name too long"),
        (["train", "--out", "file/below"], "cannot be written"),
        (["train", "--out", "/proc/none"], "cannot be written"),
        (["train", "--context-len", "99999999"], "GiB of memory, and this machine has"),
        (["train", "--steps", "2000000000"], "GiB of memory, and this machine has"),
        (["train", "--layers", "99999"], "4096 at most"),
        (["figure", "loss-children", "--out", "file"], "cannot be written"),
        (["bench", "--out", "file"], "file cannot be written"),
        (["study", "export", "language-model", "--to", "file"], "file cannot be written"),
        (["study", "report", "folder"], "folder cannot be read: Is a directory"),
        (["study", "report", "nowhere.md"], "nowhere.md cannot be read: No such file"),
        (["study", "report", "not_utf8"], "not_utf8 cannot be read: byte 0 is not UTF-8"),
        (["study", "report", "/dev/full"], "it is no file"),
        (["study", "run", "a" * 1000], f"'{'a' * 58}…. Known"),
    ],
)
def test_a_place_or_a_size_that_cannot_be_is_named_before_the_work(
    words, said, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "not_utf8").write_bytes(b"\xff")
    assert main(words) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("threads", ["0", "-1", "100000"])
@pytest.mark.parametrize("command", [["bench"], ["study", "resume"], ["study", "run", "n-grams"]])
def test_impossible_threads_are_wrong_usage(command, threads, capsys):
    assert main([*command, "--threads", threads]) == 2
    assert "Invalid value for '--threads'" in capsys.readouterr().err


def test_a_long_training_says_how_long_and_how_to_shorten_it(capsys):
    from attnlab.cli.training import _time_needed

    assert main(["train", *TINY]) == 0
    assert "on this machine" in capsys.readouterr().err
    assert _time_needed(1.8, 300) == "About 9 min on this machine; --steps 33 takes one"


def test_two_benches_do_not_disturb_each_other(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("attnlab.paths.WORK", tmp_path)
    with FileLock(tmp_path / "bench.lock"):
        assert main(["bench", "methods", "--scale", "smoke"]) == 1
    assert "Another process runs attnlab bench" in capsys.readouterr().err


def test_figures_of_the_documents_are_overwritten_on_request_only(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figures").mkdir()
    assert main(["figure"]) == 0
    assert "loss-children\n" in capsys.readouterr().out
    assert main(["figure", "replacing-scratch"]) == 0
    assert not any((tmp_path / "figures").iterdir())
    assert (tmp_path / "my-figures" / "replacing-scratch.svg").exists()


def test_a_study_runs_and_then_has_nothing_left(capsys, here):
    words = ["study", "run", "language-model", "--variants", "mean,identity", "--seeds", "0,1"]
    assert main(words) == 0
    lines = (here / "runs" / "language-model.jsonl").read_text().splitlines()
    found = [(json.loads(line)["variant"], json.loads(line)["seed"]) for line in lines]
    assert found == [("mean", 0), ("identity", 0), ("mean", 1), ("identity", 1)]
    assert main(["study", "resume"]) == 0
    assert "Nothing to resume" in capsys.readouterr().out
    export = ["study", "export", "language-model", "--variants", "mean", "--to", str(here / "m")]
    assert main(export) == 0
    assert "mean.safetensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["list", "mixer"], 1, "Did you mean 'mixers'"),
        (["train", "--mixer", "shee"], 1, "Did you mean 'she'"),
        (["study", "run", "nothing"], 1, "attnlab study list"),
        (["figure", "nothing"], 1, "nothing"),
        (["data", "fetch", "nothing"], 1, "nothing"),
        (["bench", "--device", "cuda"], 1, "no graphics card"),
        (["study", "run", "language-model", "--seeds", "a,b"], 2, "'a,b' is not a list of whole"),
        (["bench", "--device", "tpu"], 2, "tpu"),
        (["fly"], 2, "fly"),
        ([], 2, "Usage"),
    ],
)
def test_exit_codes_tell_wrong_names_from_wrong_usage(words, code, said, capsys):
    if "cuda" in words and __import__("torch").cuda.is_available():
        pytest.skip("no second device: this one has the graphics card that the test lacks")
    assert main(words) == code
    assert said in capsys.readouterr().err


def test_an_interrupt_says_how_to_go_on(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("attnlab.cli.say_table", interrupt)
    assert main(["data", "list"]) == 130
    assert "study resume" in capsys.readouterr().err


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


def test_a_figure_is_drawn_by_its_name(capsys, tmp_path):
    assert main(["figure", "--list"]) == 0
    assert "replacing-scratch\n" in capsys.readouterr().out
    assert main(["figure", "replacing-scratch", "--out", str(tmp_path)]) == 0
    drawn = sorted(file.suffix for file in tmp_path.glob("replacing-scratch.*"))
    assert drawn == [".json", ".png", ".svg"]
    assert main(["figure", "replacing-prize"]) == 1
    assert "replacing-scratch" in capsys.readouterr().err
