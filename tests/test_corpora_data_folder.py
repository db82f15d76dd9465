"""Every committed data file is explained, with its true size and checksum."""

import hashlib
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[1] / "data"
LISTED = ("chains", "models")
FILES = sorted(path for folder in LISTED for path in (DATA / folder).glob("**/*") if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(DATA).as_posix())
def test_each_file_is_listed_with_its_size_and_checksum(path):
    name, content = path.relative_to(DATA).as_posix(), path.read_bytes()
    cells = [f"`{name}`", str(len(content)), f"`{hashlib.sha256(content).hexdigest()}`"]
    rows = (DATA / "README.md").read_text("utf-8").splitlines()
    listed = any(set(cells) <= {cell.strip() for cell in row.split("|")} for row in rows)
    assert listed, f"data/README.md lacks this row: | {cells[0]} | what | {cells[1]} | {cells[2]} |"


def test_no_file_lies_beside_the_explained_folders():
    assert FILES, "the test above checks nothing"
    assert {path.name for path in DATA.iterdir()} <= {
        "README.md",
        "chains",
        "runs",
        "models",
        "cache",
    }
