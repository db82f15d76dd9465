"""The explorer of paths: every pair of extremes draws, and its links are the traced ones."""

import itertools
import time

import matplotlib.pyplot as plt
import pytest

from attnlab.analysis import critical_path
from attnlab.mixers import build_mixer
from attnlab.show.style import style
from attnlab.widgets import critical_path as widgets


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """Collect what is displayed; figures must be closed."""
    things = []
    monkeypatch.setattr(
        "attnlab.widgets.core.display", lambda thing, **options: things.append(thing)
    )
    monkeypatch.setenv("ATTNLAB_WIDGETS", "on")
    yield things
    assert not plt.get_fignums()


def drawn_only(fig, *, alt):
    plt.close(fig)
    return f"<img alt='{alt}'>"


def ends(control):
    values = [option[1] for option in control.options]
    return values[0], values[-1]


def test_the_explorer_survives_all_pairs_of_extremes(monkeypatch):
    monkeypatch.setattr("attnlab.widgets.core.picture_html", drawn_only)
    explorer = widgets.show_path_explorer(presets=())
    for first, second in itertools.combinations(explorer.controls.values(), 2):
        for a, b in itertools.product(ends(first), ends(second)):
            first.value, second.value = a, b
            assert "alert" not in explorer.status.value
            assert "<img" in explorer.picture.value


def test_the_explorer_moves_with_its_controls_and_comes_back(monkeypatch):
    monkeypatch.setattr("attnlab.widgets.core.picture_html", drawn_only)
    explorer = widgets.show_path_explorer(presets=())
    assert "SHE: 24 operations" in explorer.status.value
    explorer.controls["context_len"].value = 2048
    assert "SHE: 28 operations" in explorer.status.value
    explorer.controls["mixer"].value = "he"
    assert "HE: 22 operations" in explorer.status.value
    explorer.controls["accumulate"].value = "sequential"
    assert "sums one by one" in explorer.status.value
    explorer.reset()
    assert "SHE: 24 operations" in explorer.status.value


def test_the_words_say_what_the_shorter_chain_costs():
    words = widgets.describe_paths(mixer="she", context_len=128, d_model=128, accumulate="tree")
    assert "The chain of SHE is 0.50 times as long as that of Attention." in words
    # 128^3 + 2 * 128^2 + 128 over 4 * 128^2 + 2 * 128^2 + 4 * 128
    assert "SHE multiplies 22 times as often as attention." in words


@pytest.mark.parametrize("accumulate", ["tree", "sequential"])
@pytest.mark.parametrize("mixer", widgets.MIXERS)
def test_the_links_are_those_of_the_traced_modules(mixer, accumulate):
    table = widgets.chains_table(
        ("attention", mixer), context_len=8, d_model=8, accumulate=accumulate
    )
    for name, rows in table.groupby("mixer"):
        heads = {"n_heads": widgets.n_heads(8)} if name == "attention" else {}
        module = build_mixer(name, d_model=8, context_len=8, **heads)
        path = critical_path.trace_step(module).longest_path(accumulate=accumulate)
        traced = path.table()[["kind", "depth", "name"]]
        assert rows[["kind", "depth", "name"]].values.tolist() == traced.values.tolist()


def test_a_picture_is_drawn_in_time():
    setting = {"mixer": "she", "context_len": 128, "d_model": 128, "accumulate": "tree"}
    took = []
    for _ in range(3):
        start = time.process_time()
        with style():
            plt.close(widgets.draw_paths(**setting))
        took.append(time.process_time() - start)
    assert min(took) < 0.1  # seconds of one core


def test_presets_are_drawn_where_widgets_are_off(monkeypatch, shown):
    monkeypatch.setenv("ATTNLAB_WIDGETS", "off")
    assert widgets.show_path_explorer() is None
    assert len([thing for thing in shown if isinstance(thing, dict)]) == len(widgets.PRESETS)
