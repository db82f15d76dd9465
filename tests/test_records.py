"""Records: appended whole, read back tidy, refused when they are not records."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from attnlab import paths, records
from attnlab.errors import AttnlabError, FileError, UnknownNameError
from attnlab.records import RUNS, RunRecord, load_curves, load_details, load_runs, read_records


def record(variant="she", seed=0, experiment="toy/smoke/ring", **metrics):
    return RunRecord(
        experiment=experiment,
        variant=variant,
        seed=seed,
        config={"job": f"{variant}{seed}", "model": {"d_model": 8, "mixer_options": {}}},
        metrics=metrics or {"test_loss_nats": 1.5 + seed},
        curve={"tokens_seen": [10, 20], "loss_nats": [2.0, 1.5]},
        details={"data": {"train": 9}, "books": {"book": ["A", "B"], "loss_nats": [1.0, 2.0]}},
        seconds=1.0,
    )


@pytest.fixture
def file(tmp_path):
    """A run file with one record."""
    record().append_to(tmp_path / "toy.jsonl")
    return tmp_path / "toy.jsonl"


def test_runs_become_one_tidy_table_in_the_order_asked_for(tmp_path):
    path = tmp_path / "toy.jsonl"
    for seed in (0, 1):
        for variant in ("she", "attention", "mean"):
            record(variant, seed).append_to(path)
    table = load_runs("toy/smoke/ring", path=path, variants=["attention", "she"])
    assert list(table["variant"]) == ["attention", "attention", "she", "she"]
    assert list(table["test_loss_nats"]) == [1.5, 2.5, 1.5, 2.5]
    assert set(table["config.model.d_model"]) == {8}
    assert set(table["details.data.train"]) == {9}
    curves = load_curves("toy/smoke/ring", path=path)
    assert list(table.index) == list(range(4))
    assert list(curves.index) == list(range(12))
    assert {"variant", "seed", "tokens_seen", "loss_nats"} <= set(curves)
    books = load_details("toy/smoke/ring", "books", path=path)
    assert list(books["book"].unique()) == ["A", "B"]


def test_an_experiment_is_asked_for_by_its_whole_name(tmp_path):
    for name in ("toy/smoke/ring", "toy/smoke/ring_small", "toy/paper/ring"):
        record(experiment=name).append_to(tmp_path / "toy.jsonl")
    asked = ("toy/smoke/ring", "toy/smoke/", "toy/", None)
    assert [len(load_runs(name, path=tmp_path)) for name in asked] == [1, 2, 3, 3]
    rest = dict.fromkeys(("toy", "oy/smoke/", "toy/smoke/rin"), "is called")
    for beginning, words in {"toy/smoke": "ask for 'toy/smoke/'", **rest}.items():
        with pytest.raises(UnknownNameError, match=words):
            load_runs(beginning, path=tmp_path)


def test_columns_that_are_asked_for_are_there_even_where_nothing_is_recorded(file):
    columns = ["seed", "details.data.train", "bleu"]
    table = load_runs("toy/smoke/ring", path=file, columns=columns)
    assert list(table) == columns
    assert table["bleu"].isna().all()
    assert list(load_runs("x", path=file, columns=columns)) == columns
    none = load_details("x", "books", path=file, is_needed=False)
    assert none.empty
    assert list(none) == ["experiment", "variant", "seed"]


def test_a_smoothed_loss_never_stands_under_the_plain_name():
    runs = load_runs("attentionless/", path=RUNS / "attentionless.jsonl")
    smoothed = runs[runs["config.train.label_smoothing"] > 0]
    assert len(smoothed)
    assert smoothed["train_loss_nats"].isna().all()
    assert (smoothed["train_smoothed_loss_nats"] > smoothed["validation_loss_nats"]).all()


def test_many_writers_never_mix_their_lines(tmp_path):
    path = tmp_path / "toy.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: record(seed=seed).append_to(path), range(40)))
    assert sorted(r["seed"] for r in read_records(path)) == list(range(40))


# Damage


def changed(**fields):
    """Return a line of JSON that is a record but for these fields, without a checksum."""
    whole = asdict(record()) | fields
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


NO_RECORDS = {
    "cut": b"{",
    "another list": b"[]",
    "a number": b"7",
    "nothing": b"null",
    "few fields": b'{"variant": "she"}',
    "not UTF-8": b'{"variant": "\xff"}',
    "too many digits": b"[" + b"9" * 5000 + b"]",
    "too deep to read": b"[" * 100_000,
    "deep": changed(config={"a": json.loads("[" * 99 + "]" * 99)}),
    "a name as a number": changed(variant=3),
    "a seed as a word": changed(seed="3"),
    "a seed as a truth": changed(seed=True),
    "details as a list": changed(details=[1]),
    "a metric as a word": changed(metrics={"a": "b"}),
    "a metric that is no number": changed(metrics={"a": math.nan}),
    "a metric beyond all floats": changed(metrics={"a": 10**400}),
    "endless seconds": changed(seconds=math.inf),
    "a curve of two lengths": changed(curve={"a": [1], "b": [1, 2]}),
    "a curve of numbers": changed(curve={"a": 1}),
    "a field that is gone": changed(commit=...),
    "a field of its own": changed(mood="fine"),
    "a checksum of something else": changed(sha256="0" * 32),
}


@pytest.mark.parametrize("line", NO_RECORDS.values(), ids=NO_RECORDS)
def test_a_line_that_is_no_record_is_named_or_left_out_by_choice(line, file, monkeypatch, caplog):
    with file.open("ab") as lines:
        lines.write(line + b"\n")
    record(seed=1).append_to(file)
    for stop in ({"on_damage": "stop"}, {}):
        with pytest.raises(AttnlabError, match=r"toy.jsonl line 2 is not a run record"):
            list(read_records(file, **stop))
    assert not caplog.records
    assert [each["seed"] for each in read_records(file, on_damage="skip")] == [0, 1]
    assert "toy.jsonl: 1 lines are no run records" in caplog.text
    monkeypatch.setenv("ATTNLAB_ON_DAMAGE", "skip")
    assert len(load_runs(path=file)) == 2


def test_records_without_a_checksum_are_read_as_they_are(file):
    file.write_bytes(changed() + b"\n\n" + changed(seed=1))
    assert [each["seed"] for each in read_records(file)] == [0, 1]


def test_a_line_is_checked_once_and_yields_a_new_record_each_time(file, monkeypatch):
    record("other").append_to(file)
    first = list(read_records(file))
    first[0]["metrics"].clear()
    monkeypatch.setattr("attnlab.records._checksum", lambda _: "of something else")
    assert [each["metrics"] for each in read_records(file)] == [{"test_loss_nats": 1.5}] * 2
    file.write_bytes(file.read_bytes().replace(b"1.5", b"1.6", 1))
    with pytest.raises(AttnlabError, match=r"line 1 is not .*changed after it was"):
        list(read_records(file))


def test_a_line_after_one_that_was_cut_short_is_whole(file):
    file.write_bytes(file.read_bytes() + b'{"half":')
    record(seed=1).append_to(file)
    assert [each["seed"] for each in read_records(file, on_damage="skip")] == [0, 1]


def damaged(content, random):
    """Return a file with one damage of a random kind."""
    at = random.integers(0, len(content))
    lines = content.split(b"\n")
    line = random.integers(0, len(lines))
    match random.integers(0, 5):
        case 0:  # any byte, any value
            return content[:at] + bytes([random.integers(0, 256)]) + content[at + 1 :]
        case 1:  # a bit, often still JSON
            return (
                content[:at] + bytes([content[at] ^ 1 << random.integers(0, 8)]) + content[at + 1 :]
            )
        case 2:
            return content[:at]
        case 3:  # a line of something else
            other = random.choice(np.array(list(NO_RECORDS.values()), dtype=object))
            return b"\n".join([*lines[:line], other, *lines[line:]])
        case _:  # a piece that is gone, or twice
            end = at + random.integers(1, 40)
            return content[:at] + content[at:end] * (2 * random.integers(0, 2)) + content[end:]


def test_of_damaged_files_nothing_comes_back_changed(tmp_path, caplog):
    path = tmp_path / "toy.jsonl"
    for seed in range(3):
        record(seed=seed).append_to(path)
    whole, content, random = list(read_records(path)), path.read_bytes(), np.random.default_rng(0)
    n_named = 0
    for _ in range(600):
        path.write_bytes(damaged(content, random))
        found = list(read_records(path, on_damage="skip"))
        assert all(each in whole for each in found)
        if caplog.records:
            n_named += 1
            with pytest.raises(AttnlabError, match=r"^toy.jsonl line \d+ is not a run record"):
                list(read_records(path))
        else:
            assert list(read_records(path)) == found
        caplog.clear()
    assert n_named > 400


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda folder: list(read_records(folder / "none.jsonl")), "cannot be read: No such file"),
        (lambda folder: list(read_records(folder / "a.jsonl")), "cannot be read: Is a directory"),
        (lambda folder: list(read_records(folder / f"{'a' * 300}.jsonl")), "name too long"),
        (lambda folder: record().append_to(folder / "a.jsonl"), "cannot be written: Is a direct"),
        (lambda folder: record().append_to(folder / "file" / "b.jsonl"), "cannot be written"),
        (lambda folder: paths.write_whole(folder / "a.jsonl", ""), "Is a directory"),
        (lambda folder: paths.write_whole(folder / ("a" * 300), ""), "name too long"),
        (lambda folder: paths.write_whole(folder / "a\0b", ""), "null byte"),
        (lambda folder: paths.require_folder(folder / "file"), "cannot be written"),
    ],
)
def test_a_place_that_cannot_be_read_or_written_is_named(tmp_path, read, words):
    (tmp_path / "a.jsonl").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=words):
        read(tmp_path)


def test_details_that_are_no_table_are_named(file):
    with pytest.raises(AttnlabError, match="is no table"):
        load_details("toy/smoke/ring", "data", path=file)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda file: load_runs("toy/paper/ring", path=file), "toy/smoke/ring"),
        (lambda file: load_details("toy/smoke/ring", "films", path=file), "called 'films'"),
        (lambda file: load_runs(None, path=file, variants=["shee"]), "Did you mean 'she'"),
        (lambda file: list(read_records(file, on_damage="mend")), "Known: skip, stop"),
        (lambda file: record(loss_nats=math.nan), "Record the failure in details"),
        (lambda file: record(loss_nats=math.inf), "Record the failure in details"),
    ],
)
def test_what_is_not_recorded_or_cannot_be_is_answered_with_what_there_is(file, ask, words):
    with pytest.raises(AttnlabError, match=words):
        ask(file)


GRIDS = ("mixers", "labels", "scaling")  # studies of several rates or sizes a variant and seed


def test_committed_records_are_of_known_studies_and_of_one_variant_and_seed_each():
    from attnlab.studies import list_studies

    needs = {"speed": set()} | {study.name: set(study.needs) for study in list_studies()}
    found = list(read_records(RUNS))
    assert found, "data/runs holds the evidence behind every stated result"
    runs = {True: [], False: []}  # a job is run again only for what its older record lacks
    for each in found:
        study = each["experiment"].split("/")[0]  # the clock is none, and needs nothing
        assert each["environment"]["torch"]
        assert each["seconds"] > 0
        name = (each["experiment"], each["variant"], each["seed"])
        tries = each["experiment"].endswith("/swept") or study in GRIDS
        name += (each["config"].get("job"),) * tries
        runs[needs[study] <= each["metrics"].keys()].append(name)
    assert all(len(names) == len(set(names)) for names in runs.values())


# Where a record came from


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
    monkeypatch.setattr(paths, "PACKAGE", package)
    return tmp_path


def commit():
    """Ask again: the answer of a process is kept."""
    return records.commit.__wrapped__()


def test_the_commit_is_twelve_digits_and_says_that_code_was_changed(checkout):
    assert len(commit()) == 12
    assert int(commit(), 16) >= 0
    subprocess.run(["git", "tag", "v1"], cwd=checkout, check=True)
    assert len(commit()) == 12, "a tag does not hide it"
    (checkout / "data.jsonl").write_text("{}")
    assert not commit().endswith("-dirty"), "records are no code"
    (checkout / "attnlab" / "errors.py").write_text("# changed")
    assert commit().endswith("-dirty")


def test_without_git_or_a_checkout_of_its_own_the_commit_is_unknown(checkout, monkeypatch):
    nested = checkout / "site-packages" / "attnlab"
    nested.mkdir(parents=True)
    monkeypatch.setattr(paths, "PACKAGE", nested)
    assert commit() == "unknown", "another project's checkout is not ours"
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    assert commit() == "unknown"


def test_the_environment_names_versions_device_and_threads(file):
    found = records.environment()
    assert set(found) == {"python", "torch", "os", "device", "threads"}
    assert found["torch"] == torch.__version__
    assert found["threads"] == str(torch.get_num_threads())
    assert all(isinstance(value, str) and value for value in found.values())
    (line,) = read_records(file)
    assert line["environment"] == found
    assert line["commit"] == records.commit()
    assert line["command"] == records.command()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", line["finished_at"])


def test_the_command_has_no_folder_of_this_machine(monkeypatch, tmp_path):
    package, outside = str(paths.PACKAGE / "errors.py"), str(tmp_path / "a file.txt")
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-m", "attnlab", package, outside])
    name = Path(sys.executable).stem
    assert records.command() == f"{name} -m attnlab attnlab/errors.py 'a file.txt'"


# Where files lie


@pytest.mark.parametrize("shell", [".", "notebooks/src", ".."])
def test_an_installed_package_finds_the_checkout_that_the_shell_is_near(
    shell, tmp_path, monkeypatch
):
    root = tmp_path / "somewhere" / "workbook"
    for folder in ("data/runs", "notebooks/src", "attnlab"):
        (root / folder).mkdir(parents=True)
    for name in ("pyproject.toml", "attnlab/paths.py"):
        (root / name).touch()
    monkeypatch.chdir(root / shell)
    assert paths.find_checkout(package=tmp_path / "site-packages" / "attnlab") == root
    monkeypatch.chdir(tmp_path)
    assert paths.find_checkout(package=tmp_path / "site-packages" / "attnlab") is None
    assert paths.find_checkout() == Path(__file__).resolve().parents[1]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file.txt"
    paths.write_whole(path, "old")

    def fail(self, target):
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="full"):
        paths.write_whole(path, b"new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="not on Windows: no signal that nothing survives")
def test_what_a_killed_process_left_is_gone_after_the_next_write(tmp_path):
    """It is killed between writing a file and giving it its name."""
    code = (
        "import os, signal, sys; from pathlib import Path; from attnlab import paths; "
        "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        "paths.write_whole(Path(sys.argv[1]) / 'a.txt', 'half')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    (half,) = tmp_path.iterdir()
    assert re.fullmatch(r"\.a\.txt\..*\.tmp", half.name)
    mine = half.with_name(re.sub(r"\d+-(?=\w{8}\.tmp)", f"{os.getpid()}-", half.name))
    elsewhere = half.with_name(half.name.replace(".a.txt.", ".a.txt.not-"))
    for file in (mine, elsewhere, tmp_path / ".notes.tmp"):
        file.touch()
    paths.write_whole(tmp_path / "b.txt", "whole")
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {mine.name, elsewhere.name, ".notes.tmp", "b.txt"}
