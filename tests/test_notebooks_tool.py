"""The runner stores what a notebook shows: the same bytes twice, and nothing if a cell fails."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest

import notebooks as runner
from attnlab.errors import UnknownNameError
from attnlab.show.panels import LIVE

FIXTURES = Path(__file__).parent / "fixtures"
FIXTURE = FIXTURES / "src" / "90_fixture.py"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "src").mkdir()
    return tmp_path


def write_source(folder: Path, *cells: str, name: str = "01_trial.py") -> Path:
    source = folder / "src" / name
    source.write_text("".join(f"# %%\n{cell}\n\n" for cell in cells), encoding="utf-8")
    return source


def run(source: Path, **options) -> str:
    """Run a notebook; return what is said of it, with FAILED in front where it failed."""
    lines = []
    failed = runner.run_all([source], report=lines.append, **options)
    return "\n".join(["FAILED"] * (failed == [source]) + lines)


def test_a_second_run_gives_the_same_bytes(folder):
    source = folder / "src" / FIXTURE.name
    shutil.copy(FIXTURE, source)
    assert not run(source).startswith("FAILED")
    words = run(source, keep="compare")
    assert not words.startswith("FAILED"), words


def test_a_panel_is_stored_as_a_line_on_how_to_wake_it(folder):
    source = write_source(
        folder,
        "import ipywidgets as w\nw.IntSlider()",
        "from attnlab.show import predict_first\npredict_first('Which?', options=['SHE', 'HE'])",
    )
    run(source)
    text = runner.notebook_path(source).read_text(encoding="utf-8")
    assert "vnd.jupyter.widget" not in text
    bare, guess = (cell.outputs[0].data for cell in nbformat.reads(text, as_version=4).cells)
    assert bare == {"text/plain": LIVE}
    assert guess["text/plain"] == LIVE
    assert "- SHE\n- HE" in guess["text/markdown"]
    assert LIVE in guess["text/markdown"]


@pytest.mark.parametrize(
    ("cells", "options", "words"),
    [
        (("import os\nprint(os.getpid())",), {"keep": "compare"}, ["differ"]),
        (("x = 2", "x / 0", "print('never')"), {},
         ["code cell 2", "    x / 0", "ZeroDivisionError: division by zero"]),
        (("import warnings\nwarnings.warn('old')",), {}, ["code cell 1 wrote to standard error"]),
    ],
)  # fmt: skip
def test_what_differs_or_fails_is_shown_and_nothing_is_written(folder, cells, options, words):
    said = run(write_source(folder, *cells))
    if not options:
        assert said.startswith("FAILED")
        assert [path.name for path in folder.iterdir()] == ["src"]
        run(write_source(folder, "print('good')"))
    before = runner.notebook_path(folder / "src" / "01_trial.py").read_bytes()
    said = run(write_source(folder, *cells), **options)
    assert said.startswith("FAILED")
    assert [word for word in words if word not in said] == []
    assert runner.notebook_path(folder / "src" / "01_trial.py").read_bytes() == before


def test_a_notebook_is_stale_until_run_and_after_each_edit_of_more_than_line_ends(folder):
    source = write_source(folder, "print(1)")
    assert runner.is_stale(source)
    run(source)
    source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    assert not runner.is_stale(source)
    write_source(folder, "print(1)  # said again")
    assert runner.is_stale(source)


def test_the_kernel_runs_in_the_notebook_folder_in_the_asked_mode(folder):
    cell = (
        "import os\nfrom pathlib import Path\n"
        "names = ('ATTNLAB_MODE', 'OMP_NUM_THREADS', 'ATTNLAB_STRICT')\n"
    )
    source = write_source(
        folder, cell + "print([os.environ[n] for n in names], Path('src').is_dir())"
    )
    for mode in ("fast", "full"):
        notebook = runner.run_notebook(source, mode=mode)
        assert notebook.cells[0].outputs[0].text == f"['{mode}', '1', '1'] True\n"


def test_addresses_clocks_and_versions_do_not_reach_the_file(folder):
    source = write_source(folder, "object()", "print('4it [00:01<00:00, 3.1it/s]')")
    run(source)
    text = runner.notebook_path(source).read_text(encoding="utf-8")
    assert "<object at 0x0>" in text
    assert "[done]" in text
    notebook = nbformat.reads(text, as_version=4)
    assert set(notebook.metadata) == {"kernelspec", "language_info", "attnlab", "jupytext"}
    assert notebook.metadata.language_info == {"name": "python"}
    assert not re.search(r"20\d\d-\d\d-\d\dT", text)


def test_sources_are_chosen_by_number_or_staleness(folder):
    first = write_source(folder, "print(1)", name="01_one.py")
    second = write_source(folder, "print(2)", name="02_two.py")

    def choose(*numbers, everything=False):
        return runner.select_sources(folder, numbers=numbers, everything=everything)

    assert choose("2") == choose("02") == choose("02_two") == choose("02_two.ipynb") == [second]
    assert choose() == [first, second]
    run(first)
    assert choose() == [second]
    assert choose(everything=True) == [first, second]
    with pytest.raises(UnknownNameError, match="01_one"):
        choose("7")


def test_the_command_counts_failures_in_its_exit_code(folder, capsys):
    write_source(folder, "assert False, 'as planned'")
    assert runner.main(["--folder", str(folder)]) == 1
    assert "as planned" in capsys.readouterr().out
    write_source(folder, "print(1)")
    assert runner.main(["--folder", str(folder)]) == 0
    assert runner.main(["--folder", str(folder)]) == 0
    assert "up to date" in capsys.readouterr().out
    assert runner.main(["--folder", str(folder), "9"]) == 2
