"""Committed figures: the same bytes twice, whole files or none, and words beside each."""

import json

import matplotlib.pyplot as plt
import pytest

from attnlab import figures
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.figures import FigureWords, list_figures, make_figure, register_figure
from attnlab.plots import plot_matrix


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setattr(figures, "_REGISTRY", {})
    monkeypatch.setattr(figures, "FIGURE_MODULES", ())
    register_figure("toy-matrix")(draw_toy)
    plt.close("all")
    yield
    assert not plt.get_fignums()


def draw_toy():
    ax = plot_matrix([[0.1, 0.9], [0.5, 0.5]], label="P", x_label="to", y_label="from")
    words = FigureWords(
        caption="A naïve chain.", alt="Two by two.", records=("data/runs/toy.jsonl#1",)
    )
    return ax.figure, words


def contents(files):
    return [path.read_bytes() for path in (files.svg, files.png, files.json)]


def test_two_runs_write_the_same_bytes(tmp_path):
    first = make_figure("toy-matrix", out=tmp_path / "a", commit="abc")
    second = make_figure("toy-matrix", out=tmp_path / "b", commit="abc")
    assert contents(first) == contents(second)


def test_nothing_in_the_files_depends_on_date_or_version(tmp_path):
    files = make_figure("toy-matrix", out=tmp_path, commit="abc")
    assert b"<dc:date>" not in files.svg.read_bytes()
    assert b"Two by two." in files.svg.read_bytes()
    assert b"Software" not in files.png.read_bytes()


def test_the_sidecar_says_where_the_figure_comes_from(tmp_path):
    files = make_figure("toy-matrix", out=tmp_path, commit="abc")
    assert json.loads(files.json.read_text(encoding="utf-8")) == {
        "id": "toy-matrix",
        "caption": "A naïve chain.",
        "alt": "Two by two.",
        "command": "attnlab figure toy-matrix",
        "records": ["data/runs/toy.jsonl#1"],
        "commit": "abc",
    }


def test_the_commit_of_the_records_is_used_if_none_is_given(tmp_path):
    def draw():
        return plt.figure(), FigureWords(caption="c", alt="a", commit="of-records")

    register_figure("recorded")(draw)
    files = make_figure("recorded", out=tmp_path)
    assert json.loads(files.json.read_text())["commit"] == "of-records"


def test_without_any_commit_the_present_one_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "_present_commit", lambda: "present")
    files = make_figure("toy-matrix", out=tmp_path)
    assert json.loads(files.json.read_text(encoding="utf-8"))["commit"] == "present"


def test_an_unknown_figure_names_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match=r"Did you mean 'toy-matrix'\?.*register_figure"):
        make_figure("toy-matrx", out=tmp_path)


def test_figures_are_listed_sorted():
    register_figure("a-first")(lambda: None)
    assert list_figures() == ["a-first", "toy-matrix"]


@pytest.mark.parametrize("bad", ["Has Space", "../up", "", "a--b", "UPPER"])
def test_an_id_that_is_no_file_name_is_refused(bad):
    with pytest.raises(AttnlabError, match="cannot name"):
        register_figure(bad)


def test_two_functions_cannot_share_an_id():
    register_figure("toy-matrix")(draw_toy)
    with pytest.raises(AttnlabError, match="Two functions"):
        register_figure("toy-matrix")(contents)
