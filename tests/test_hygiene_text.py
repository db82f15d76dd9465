"""Nothing in the tree is about one machine, and nothing is too big or broken for a clone."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Absolute folders of one machine: records, notebooks and pictures are public and hold none.
FOLDERS = ("work", "root", "tmp", "home/\\w+", "Users/\\w+", "var/folders", "opt")
MACHINE_PATH = re.compile(r"(?<![\w.~:/$<-])/(?:" + "|".join(FOLDERS) + r")/[\w.-]")
TEXT = {".py", ".md", ".txt", ".toml", ".yml", ".yaml", ".cfg", ".cff", ".ipynb", ".svg", ".json"}
TEXT |= {".jsonl", ".sh", ""}
MAX_BYTES = 3_000_000
MAX_MODEL_BYTES = 8 * 2**20
MAX_RUNS_BYTES = 6_000_000  # records keep the counts of every sentence, for paired intervals


def committable() -> list[Path]:
    """Return every file that git tracks or would track."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git: this is not a checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def machine_paths(text: str) -> list[str]:
    return [text[max(0, m.start() - 20) : m.end() + 20] for m in MACHINE_PATH.finditer(text)]


def test_no_file_names_a_folder_of_one_machine():
    found = {}
    for path in committable():
        if path.suffix in TEXT and path != Path(__file__):
            places = machine_paths(path.read_text(encoding="utf-8"))
            if places:
                found[str(path.relative_to(ROOT))] = places[:3]
    assert not found


def test_a_machine_path_is_seen_and_an_address_or_a_relative_path_is_none():
    bad = ["open('/tmp/x')", "/root/.cache", "in /home/ada/data", "at /work/main", "/opt/wheels"]
    good = ["https://x.org/tmp/x", "$HOME/work/x", "a/root/b", "../tmp/a", "and/or", "~/opt/x"]
    assert [text for text in bad + good if machine_paths(text)] == bad


def test_no_file_is_too_big_for_a_clone():
    models, runs = (ROOT / "data" / name for name in ("models", "runs"))
    most = {models: MAX_MODEL_BYTES, runs: MAX_RUNS_BYTES}
    sizes = {path: path.stat().st_size for path in committable()}
    limits = {
        path: max((most[each] for each in most if each in path.parents), default=MAX_BYTES)
        for path in sizes
    }
    assert not {path.name: size for path, size in sizes.items() if size > limits[path]}
    assert sum(size for path, size in sizes.items() if models in path.parents) < 20 * 2**20


def test_every_json_line_can_be_read():
    for path in committable():
        if path.suffix == ".jsonl":
            for line in path.read_text(encoding="utf-8").splitlines():
                json.loads(line)
