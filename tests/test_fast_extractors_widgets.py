"""Explorers of notebook 06: every pair of extremes draws, and the words are true."""

import asyncio
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest

from attnlab.sources import tales
from attnlab.studies.clock import STREAMS
from attnlab.teaching import fast_extractors_runs as runs
from attnlab.widgets import fast_extractors as widgets
from attnlab.widgets.core import Explorer

TINY = runs.Lesson(context_len=5, d_model=4, n_steps=1, batch_size=2)


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
    values = [option[1] if isinstance(option, tuple) else option for option in control.options]
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


@pytest.mark.parametrize(
    ("show", "preset"),
    [
        (widgets.show_wrap_explorer, {"length": 8}),
        (widgets.show_cost_explorer, {"context_len": 8, "batch": 1}),
        (widgets.show_tiling_explorer, {"n_seen": 3, "n_tokens": 8}),
    ],
)
def test_explorers_survive_all_pairs_of_extremes(show, preset, monkeypatch):
    drive(show(presets=[preset]), monkeypatch)


def test_stills_alone_are_shown_where_widgets_are_off(monkeypatch, shown):
    monkeypatch.setenv("ATTNLAB_WIDGETS", "off")
    assert widgets.show_wrap_explorer(presets=[{"length": 8}]) is None
    assert len([thing for thing in shown if isinstance(thing, dict)]) == 1


def test_counted_costs_over_frequencies_hardly_grow_and_by_lags_do():
    short, _ = widgets.counted_costs(context_len=128, d_model=128, batch=64)
    long, _ = widgets.counted_costs(context_len=2048, d_model=128, batch=64)
    assert long["fft"] / short["fft"] < 1.2
    assert long["lags"] / short["lags"] == pytest.approx(2049 / 129)


def test_attention_costs_four_maps_and_two_products_of_pairs():
    _, level = widgets.counted_costs(context_len=3, d_model=5, batch=2)
    assert level == pytest.approx(2 * (4 * 25 + 2 * 2 * 5))  # on average 2 of 3 tokens are seen


def test_the_words_of_the_cost_explorer_name_the_sizes():
    words = widgets.describe_counted(context_len=8, d_model=128, batch=1)
    assert words.startswith("Context 8, width 128, batch 1, forward pass. Cheapest by count: lags")


def test_every_mixer_runs_once_a_round():
    laps = list(widgets.generation_laps(context_len=3, batch=2, d_model=4, rounds=2))
    assert len(laps) == 2 * len(STREAMS)
    for number in (1, 2):
        names = {lap["variant"] for lap in laps if lap["round"] == number}
        assert names == set(STREAMS)
    assert all(lap["tokens_per_s"] > 0 for lap in laps)


def test_the_board_shows_a_race_and_runs_another(monkeypatch, shown):
    monkeypatch.setattr(widgets, "ROUNDS", 1)
    still = list(widgets.generation_laps(context_len=3, batch=1, d_model=4, rounds=1))
    board = widgets.show_generation_board(still=still)
    for name, value in {"context_len": 32, "batch": 1, "d_model": 16}.items():
        board.controls[name].value = value
    asyncio.run(board.drive())
    assert {lap["variant"] for lap in board.history} == set(STREAMS)
    assert "Tokens per second" in board.status.value


@pytest.fixture(scope="module")
def models():
    trained = {name: runs.train_on_tales(TINY, **runs.READERS[name])[0] for name in runs.READERS}
    return {name: runs.stretched(model, context_len=12) for name, model in trained.items()}


def test_texts_fill_the_context_and_keep_their_prompt(models):
    prompt = tales("small").encode("Nora was")
    tokens = widgets.write_past(models["she/lags alone"], prompt, seed=0)
    assert len(tokens) == 12
    assert np.array_equal(tokens[: len(prompt)], prompt)


def test_the_bar_stands_where_the_trained_length_ends():
    source = tales("small")
    tokens = np.asarray(source.encode("Nora was a kind girl."))
    assert widgets.marked(source, tokens, 2) == "Nora was ‖ a kind girl."
    assert "‖" not in widgets.marked(source, tokens, 10)


def test_the_playground_names_model_and_first_slip(models, shown):
    options = {"source": tales("small"), "trained_len": 5, "prompt": "Nora was", "labels": {}}
    preset = {"model": "she/learned positions"}
    playground = widgets.show_length_playground(models, presets=[preset], **options)
    printed = shown[0].data
    assert "SHE, learned positions" in printed
    assert "impossible word" in printed
    playground.controls["seed"].value = 9
    playground.controls["model"].value = "attention/learned positions"
    assert "alert" not in playground.status.value
