"""Closed forms equal what a counting loop counts."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlab.analysis.theory import (
    causal_pairs,
    expected_language_model_multiplications,
    expected_language_model_weights,
    expected_mixer_weights,
    expected_multiplications,
    mixer_prices,
)
from attnlab.config import ModelConfig
from attnlab.errors import AttnlabError
from attnlab.mixers import list_mixers
from attnlab.studies.mixers import variant_config

COUNTS = {  # multiplications of the token that reads t of width d, as its equation has them
    # query, key, value, output map; every head's scores and scale; weights times values
    "attention": lambda t, d, h: 4 * d * d + t * d + t * h + t * d,
    "she": lambda t, d, h: t * d * d + d * d + d + d * d,  # extract, gate, adjust, output
    "he": lambda t, d, h: d * d + t * d + d * d + d + d * d,  # value, then the same
    "we": lambda t, d, h: t * d + d * d + d,
    "me": lambda t, d, h: t * d + d + d,
    "mean": lambda t, d, h: d,
    "identity": lambda t, d, h: 0,
}


def counted(name, d, time, n_heads=1):
    """Count multiplications by walking through the equation, one position at a time."""
    return sum(COUNTS[name](t, d, n_heads) for t in range(1, time + 1))


@given(d_model=st.integers(1, 9), context_len=st.integers(1, 20))
def test_prices_of_mixers_are_their_closed_forms(d_model, context_len):
    rows = {row["mixer"]: row for row in mixer_prices(d_model=d_model, context_len=context_len)}
    assert tuple(rows) == list_mixers()
    for name in COUNTS:
        work = counted(name, d_model, context_len) / context_len
        assert abs(rows[name]["work"] - work) <= 0.5
    attention = rows["attention"]
    assert (attention["weights"], attention["adapts"]) == (4 * d_model**2, True)
    assert attention["state"] == 2 * context_len * d_model


@pytest.mark.parametrize("name", COUNTS)
@given(d_head=st.integers(1, 5), n_heads=st.integers(1, 4), time=st.integers(1, 20))
def test_multiplications_equal_the_count(name, d_head, n_heads, time):
    d = d_head * n_heads
    formula = expected_multiplications(name, d_model=d, time=time, n_heads=n_heads)
    assert formula == counted(name, d, time, n_heads)


@pytest.mark.parametrize("name", ["spade", "based"])
def test_a_layer_with_a_window_counts_the_pairs_within_it(name):
    def second_layer(mixer):
        sizes = {"mixer": mixer, "vocab_size": 8, "context_len": 40, "d_model": 8, "n_heads": 2}
        one, two = (
            expected_language_model_multiplications(ModelConfig(**sizes, n_layers=n))
            for n in (1, 2)
        )
        return two - one

    assert second_layer(name) == second_layer("window_attention") < second_layer("attention")


@given(time=st.integers(1, 30), context_len=st.integers(1, 30))
def test_pairs_within_a_context_equal_the_count(time, context_len):
    pairs = sum(1 for t in range(time) for s in range(t + 1) if t - s < context_len)
    assert causal_pairs(time, context_len=context_len) == pairs


def test_the_ratios_of_the_published_table_come_out():
    sizes = {"d_model": 128, "context_len": 128}
    ratio = expected_mixer_weights("she", **sizes) / expected_mixer_weights("attention", **sizes)
    assert ratio == (128 + 2) / 4 == 32.5
    relative = {
        name: expected_multiplications(name, d_model=128, time=128)
        / expected_multiplications("attention", d_model=128, time=128, n_heads=4)
        for name in ("she", "he", "we", "me")
    }
    rounded = {name: round(value, 1) for name, value in relative.items()}
    assert rounded == {"she": 13.2, "he": 0.7, "we": 0.3, "me": 0.1}


def test_matched_attention_is_as_near_as_its_width_allows():
    base = ModelConfig(vocab_size=200, context_len=32, d_model=32, n_layers=2)
    for variant, measure in {
        "attention_matched_parameters": expected_language_model_weights,
        "attention_matched_compute": expected_language_model_multiplications,
    }.items():
        aim = measure(dataclasses.replace(base, mixer="she"))
        config = variant_config(variant, base)
        assert config.mixer == "attention"
        assert abs(measure(config) - aim) < 0.06 * aim


def test_options_that_change_the_count_are_refused():
    config = ModelConfig(mixer="she", mixer_options={"out_proj": False})
    for form in (expected_language_model_weights, expected_language_model_multiplications):
        with pytest.raises(AttnlabError, match="out_proj changes the count"):
            form(config)


def test_a_mixer_that_is_not_there_is_named():
    with pytest.raises(AttnlabError, match="No token mixer is called 'perceiver'"):
        expected_mixer_weights("perceiver", d_model=4, context_len=4)
