"""The explorers of notebook 02: pure drawings, honest words, every control to its ends."""

import time
import warnings
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlab.errors import UnknownNameError
from attnlab.show.style import style
from attnlab.widgets import attention as explorers

ANGLES = st.floats(-90, 180)
TEMPERATURES = st.floats(0.05, 2)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@given(ANGLES, TEMPERATURES)
def test_a_soft_answer_lies_among_the_stored_values(angle, temperature):
    weights, answer = explorers.look_up(angle=angle, temperature=temperature)
    assert weights.sum() == pytest.approx(1)
    assert 10 - 1e-9 <= answer <= 40 + 1e-9


@given(TEMPERATURES)
def test_from_east_over_north_to_west_east_is_lowest(temperature):
    answers = [explorers.look_up(angle=a, temperature=temperature)[1] for a in range(0, 181, 5)]
    assert answers[0] == pytest.approx(min(answers), abs=1e-9)


@pytest.mark.parametrize(("temperature", "best", "gain"), [(0.5, -19, 0.315), (2, -3, 0.005)])
def test_a_little_south_of_east_the_answer_is_lower_still(temperature, best, gain):
    angles = range(-90, 181)
    answers = [explorers.look_up(angle=a, temperature=temperature)[1] for a in angles]
    lowest = int(np.argmin(answers))
    assert angles[lowest] == best
    assert answers[angles.index(0)] - answers[lowest] == pytest.approx(gain, abs=5e-4)


def test_at_temperature_two_east_returns_nearly_nineteen():
    # shares e^(1/2), 1, e^(-1/2) of the values 10, 20, 40
    parts = np.exp([0.5, 0, -0.5])
    expected = parts @ [10, 20, 40] / parts.sum()
    assert explorers.look_up(angle=0, temperature=2)[1] == pytest.approx(expected)
    assert 18.5 < expected < 19


def test_a_cold_look_up_is_a_dictionary():
    for place, value in explorers.COMPASS.values():
        assert explorers.look_up(angle=place, temperature=0.05)[1] == pytest.approx(value, abs=1e-4)


@given(st.integers(1, 7), st.integers(0, 99))
def test_only_the_mask_before_the_softmax_is_causal_and_sums_to_one(n_tokens, seed):
    scores = np.random.default_rng(seed).normal(size=(n_tokens, n_tokens))
    weights = explorers.causal_weights(scores)
    np.testing.assert_allclose(weights.sum(1), 1)
    assert not np.triu(weights, 1).any()
    after = explorers.causal_weights(scores, mask="after")
    assert not np.triu(after, 1).any()
    assert (after[:-1].sum(1) < 1).all()


@pytest.mark.parametrize("edited", range(2, explorers.N_LEAK_TOKENS + 1))
@pytest.mark.parametrize(("mask", "leaks"), [("none", True), ("after", True), ("before", False)])
def test_the_future_leaks_unless_scores_are_masked(mask, leaks, edited):
    past = explorers.output_changes(mask=mask, edited=edited)[: edited - 1]
    assert (past > 1e-9).all() if leaks else not past.any()
    assert ("The future leaks" in explorers.describe_leak(mask=mask, edited=edited)) == leaks


@pytest.mark.parametrize("sentence", explorers.SENTENCES)
def test_the_word_before_gets_most_weight(sentence):
    weights = explorers.head_weights(head="word before", sentence=sentence)
    assert (weights[1:].argmax(1) == np.arange(len(weights) - 1)).all()


@pytest.mark.parametrize("sentence", explorers.SENTENCES)
def test_the_same_word_head_finds_copies(sentence):
    words = explorers.SENTENCES[sentence].split()
    weights = explorers.head_weights(head="same word", sentence=sentence)
    assert all(words[s] == words[t] for t, s in enumerate(weights.argmax(1)))


def test_who_is_undecided_between_two_names():
    words = explorers.SENTENCES["the song"].split()
    row = explorers.head_weights(head="who?", sentence="the song")[words.index("she")]
    assert row[words.index("Mia")] == pytest.approx(row[words.index("Tom")])
    assert row[words.index("Mia")] == pytest.approx(0.48, abs=0.005)


def test_the_words_say_what_a_pronoun_finds():
    words = explorers.describe_head(head="who?", sentence="the song", temperature=1.0)
    assert "The row of 'she' gives 'Mia' 0.48 and 'Tom' 0.48." in words
    others = [
        explorers.describe_head(head="who?", sentence="the fox", temperature=1.0),
        explorers.describe_head(head="same word", sentence="the song", temperature=1.0),
    ]
    assert not any("The row of" in other for other in others)


def test_every_asking_word_and_name_occurs():
    spoken = " ".join(explorers.SENTENCES.values()).split()
    assert set(explorers.NAMES) | set(explorers.ASKERS) <= set(spoken)


def test_an_unknown_head_is_named_with_its_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'same word'"):
        explorers.queries_and_keys(["a"], head="same words")


ENDS = {
    "lookup": {"angle": (-90, 0, 90, 180), "temperature": (0.05, 2.0)},
    "head": {
        "head": explorers.HEADS,
        "sentence": ("the fox", "the song"),
        "temperature": (0.1, 4.0),
    },
    "leak": {"mask": tuple(explorers.MASKS.values()), "edited": (1, explorers.N_LEAK_TOKENS)},
}
CASES = [
    (name, dict(zip(ends, values, strict=True)))
    for name, ends in ENDS.items()
    for values in product(*ends.values())
]


@pytest.mark.parametrize(("name", "values"), CASES)
def test_every_control_can_go_to_its_ends(name, values):
    draw, describe = (getattr(explorers, f"{verb}_{name}") for verb in ("draw", "describe"))
    with style(), warnings.catch_warnings():
        warnings.simplefilter("error")
        started = time.process_time()
        draw(**values)
        assert time.process_time() - started < 1, "a slider must stay live"
    assert len(describe(**values).split()) > 8


@pytest.mark.parametrize(
    ("show", "preset", "control", "value"),
    [
        (explorers.show_lookup_explorer, {"angle": 30}, "angle", 180),
        (explorers.show_head_explorer, {"head": "who?"}, "sentence", "the hat"),
        (explorers.show_leak_explorer, {"mask": "none"}, "edited", 6),
    ],
)
def test_moving_a_control_changes_picture_and_words(monkeypatch, show, preset, control, value):
    monkeypatch.setenv("ATTNLAB_WIDGETS", "on")
    explorer = show(presets=[preset])
    before = explorer.picture.value, explorer.status.value
    explorer.controls[control].value = value
    assert explorer.picture.value != before[0]
    assert explorer.status.value != before[1]
