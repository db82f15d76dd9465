"""Explorers of notebooks 00 and 01: every control to its ends, and words that are true."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest

from attnlab.plots import style
from attnlab.sources import entropy_rate, ring_chain, stationary
from attnlab.widgets import chains

ENDS = {"kind": chains.KINDS, "n_states": (2, 7, 12), "stay": (0.0, 0.5, 1.0)}


@pytest.fixture(autouse=True)
def _closed():
    with style():
        yield
    plt.close("all")


@pytest.mark.parametrize("kind", ENDS["kind"])
@pytest.mark.parametrize("stay", ENDS["stay"])
def test_the_chain_explorer_draws_at_every_end(kind, stay):
    for n_states in ENDS["n_states"]:
        values = {"kind": kind, "n_states": n_states, "stay": stay}
        assert chains.draw_chain(**values).axes
        assert "entropy rate" in chains.describe_chain(**values)
        plt.close("all")


@pytest.mark.parametrize("kind", ENDS["kind"])
@pytest.mark.parametrize("stay", ENDS["stay"])
def test_rows_of_the_explorer_sum_to_one(kind, stay):
    assert np.allclose(chains.build_chain(kind=kind, n_states=5, stay=stay).sum(axis=1), 1)


def test_laziness_leaves_the_shares_of_a_random_chain_as_they_are():
    quick, lazy = (chains.build_chain(kind="random", n_states=7, stay=s) for s in (0.0, 0.9))
    assert np.allclose(stationary(quick), stationary(lazy))


def test_the_words_give_the_entropy_rate_of_the_ring():
    words = chains.describe_chain(kind="ring", n_states=8, stay=0.25)
    assert f"{entropy_rate(ring_chain(8, stay=0.25)):.3f} nats" in words


@pytest.mark.parametrize("source", chains.SOURCES.values())
@pytest.mark.parametrize("longest", [1, 5, 10])
def test_the_staircase_explorer_draws_at_every_end(source, longest):
    stairs = chains.stairs_of(source, longest)
    assert len(stairs) == longest + 1
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(stairs))
    assert stairs[-1] >= chains.build_source(source).entropy_rate_nats - 1e-9
    assert chains.draw_stairs(source=source, longest=longest).axes
    assert "entropy rate" in chains.describe_stairs(source=source, longest=longest)


@pytest.mark.parametrize("loss_nats", [0.0, 2.0, 4.0])
def test_the_units_explorer_draws_at_every_end(loss_nats):
    assert chains.draw_loss_units(loss_nats=loss_nats).axes


def test_explorers_live_redraw_when_a_control_moves(capsys):
    explorer = chains.show_chain_explorer(presets=[{"stay": 0.9}])
    before = explorer.picture.value
    explorer.controls["n_states"].value = 3
    explorer.redraw()
    assert explorer.picture.value != before
    assert "3 states" in explorer.status.value


@pytest.mark.parametrize(
    "show", [chains.show_chain_explorer, chains.show_loss_units, chains.show_staircase_explorer]
)
def test_without_widgets_only_stills_are_shown(show, monkeypatch, capsys):
    monkeypatch.setenv("ATTNLAB_WIDGETS", "off")
    assert show(presets=[{}]) is None


def test_the_row_explorer_shows_the_chosen_state(capsys):
    rows = {"oracle": np.array([[0.9, 0.1], [0.2, 0.8]]), "she": np.array([[0.5, 0.5]] * 2)}
    explorer = chains.show_row_explorer(
        rows,
        states=["a", "ab"],
        shares=[0.75, 0.25],
        symbols=["x", "y"],
        presets=[{"state": "ab"}],
    )
    assert "'a'" in explorer.status.value.replace("&#x27;", "'")
    explorer.controls["state"].value = "ab"
    explorer.redraw()
    words = explorer.status.value
    assert "25.0% of the time" in words
    assert f"SHE {0.2 * np.log(0.4) + 0.8 * np.log(1.6):.3f}" in words
