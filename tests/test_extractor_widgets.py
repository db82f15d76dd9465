"""Explorers of the Extractor: every pair of extremes draws, and the words are true."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest

from attnlab.widgets import extractor
from attnlab.widgets.core import Explorer, show_explorer


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


def ends(control):
    """Return minimum and maximum of a slider, or first and last option."""
    if hasattr(control, "min"):
        return (control.min, control.max)
    values = [option[1] for option in control.options]
    return (values[0], values[-1])


def drawn_only(fig, *, alt):
    plt.close(fig)
    return f"<img alt='{alt}'>"


def drive(explorer: Explorer, monkeypatch):
    """Set every pair of controls to every pair of extremes; an error would be an alert."""
    # pictures are drawn, but not turned into bytes, which is what takes the time
    monkeypatch.setattr("attnlab.widgets.core.picture_html", drawn_only)
    pairs = itertools.combinations(explorer.controls.values(), 2)
    for first, second in pairs:
        for a, b in itertools.product(ends(first), ends(second)):
            first.value, second.value = a, b
            assert "alert" not in explorer.status.value
            assert "<img" in explorer.picture.value


def without_stills(draw, controls, *, presets, describe):
    return show_explorer(draw, controls, presets=presets[:1], describe=describe)


KERNELS = {
    "she": [np.random.default_rng(0).normal(size=(5, 3, 3)) for _ in range(2)],
    "he": [np.random.default_rng(1).normal(size=(5, 3))],
}


def test_the_growth_explorer_survives_all_pairs_of_extremes(monkeypatch):
    monkeypatch.setattr(extractor, "show_explorer", without_stills)
    drive(extractor.show_growth_explorer(), monkeypatch)


def test_the_kernel_viewer_survives_all_pairs_of_extremes(monkeypatch):
    drive(extractor.show_lag_kernel_viewer(KERNELS, presets=[{"mixer": "he"}]), monkeypatch)


def test_the_family_explorer_survives_all_pairs_of_extremes(monkeypatch):
    monkeypatch.setattr(extractor, "show_explorer", without_stills)
    drive(extractor.show_family_explorer(), monkeypatch)


def test_the_family_explorer_moves_and_counts(monkeypatch):
    monkeypatch.setattr(extractor, "show_explorer", without_stills)
    explorer = extractor.show_family_explorer()
    before = explorer.picture.value
    explorer.controls["extract"].value = "newest"
    explorer.controls["finish"].value = "none"
    assert explorer.picture.value != before
    assert "sees the newest token alone" in explorer.status.value
    explorer.controls["context_len"].value = 128
    explorer.controls["d_model"].value = 256
    explorer.controls["extract"].value = "matrix"
    assert f"{128 * 256**2:,}" in explorer.status.value


def test_stills_alone_are_shown_where_widgets_are_off(monkeypatch, shown):
    monkeypatch.setenv("ATTNLAB_WIDGETS", "off")
    assert extractor.show_growth_explorer() is None
    assert len([thing for thing in shown if isinstance(thing, dict)]) == 3


@pytest.mark.parametrize("weights", ["own", "same"])
@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_measured_growth_follows_the_closed_form(weights, shared):
    t = np.arange(1, extractor.LONGEST + 1)
    expected = extractor.expected_growth(t, weights=weights, shared=shared)
    # 32 sequences of width 16: a mean square of about 512 values, each off by sqrt(2 / 512);
    # shared inputs leave 16 independent values a lag
    ratio = extractor.measured_growth(weights=weights, shared=shared) / expected
    assert abs(ratio.mean() - 1) < 0.15


def test_the_factor_that_keeps_the_size_depends_on_what_is_shared():
    assert extractor.needed_factor(weights="own", shared=1.0) == "1/√t"
    assert extractor.needed_factor(weights="same", shared=0.0) == "1/√t"
    assert extractor.needed_factor(weights="same", shared=0.5) == "1/t"


def test_the_words_name_the_setting():
    words = extractor.describe_growth_setting(weights="same", shared=0.5, scale="none")
    assert words.startswith("One matrix for all lags, shared part 0.5, factor none.")
    assert "would keep" not in words


def test_only_the_panel_names_the_factor_that_would_keep_the_size(shown):
    explorer = extractor.show_growth_explorer()
    stills = [str(x) for x in shown if isinstance(x, dict) and "image/png" in x]
    assert len(stills) == 3
    assert not any("would keep" in still for still in stills)
    explorer.controls["weights"].value = "same"
    explorer.controls["shared"].value = 0.5
    assert "1/t would keep the size" in explorer.status.value
