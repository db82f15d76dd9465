"""Configurations refuse what cannot be built, name themselves, and come back from JSON."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlab.config import ModelConfig, TrainConfig
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.seeding import numpy_generator, torch_generator


@given(d_model=st.integers(1, 64), n_heads=st.integers(1, 64), layers=st.integers(1, 9))
def test_a_model_configuration_comes_back_from_json_or_names_heads_that_work(
    d_model, n_heads, layers
):
    try:
        config = ModelConfig(d_model=d_model, n_heads=n_heads, n_layers=layers)
    except AttnlabError as error:
        assert d_model % n_heads
        works = int(str(error).rsplit("n_heads=", 1)[1].rstrip("."))
        config = ModelConfig(d_model=d_model, n_heads=works, n_layers=layers)
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.digest == config.digest
    assert hash(again) == hash(config)


def test_every_field_moves_the_digest():
    config = TrainConfig()
    changes = {"n_steps": 7, "lr": 0.5, "seed": 1, "precision": "bf16", "weight_decay": 0.5}
    digests = {dataclasses.replace(config, **{k: v}).digest for k, v in changes.items()}
    assert len(digests | {config.digest}) == 1 + len(changes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ModelConfig(d_model=0), "d_model=0 must be a whole number"),
        (lambda: ModelConfig(n_layers=1.5), "n_layers=1.5"),
        (lambda: ModelConfig(vocab_size=True), "vocab_size=True"),
        (lambda: ModelConfig(norm="middle"), "norm='middle' is not one of pre, post"),
        (lambda: ModelConfig(dropout=1.0), "dropout=1.0 is not a probability below 1"),
        (lambda: ModelConfig(d_model=6, n_heads=4), "Try n_heads=3"),
        (lambda: TrainConfig(lr=0), "lr=0 must be a positive number"),
        (lambda: TrainConfig(lr=float("nan")), "lr=nan"),
        (lambda: TrainConfig(warmup_steps=-1), "warmup_steps=-1"),
        (lambda: TrainConfig(seed=-1), "seed=-1 cannot be negative"),
        (lambda: TrainConfig(n_averaged=-1), "n_averaged=-1 cannot be negative"),
        (lambda: TrainConfig(precision="fp8"), "is not one of fp32, fp32_onednn"),
        (lambda: ModelConfig.from_dict({"width": 3}), "has no field 'width'"),
    ],
)
def test_what_cannot_be_built_is_explained(make, words):
    with pytest.raises(AttnlabError, match=words):
        make()


def test_the_channel_mixer_follows_the_width_unless_it_was_set():
    config = ModelConfig(d_model=64)
    assert config.mlp_width == 256
    assert dataclasses.replace(config, d_model=128).mlp_width == 512
    assert dataclasses.replace(config, d_model=128, d_ff=100).to_dict()["d_ff"] == 100


def test_streams_of_one_seed_are_reproducible_and_differ():
    draws = {name: numpy_generator(3, name).random() for name in ("data", "order", "init")}
    assert len(set(draws.values())) == 3
    assert numpy_generator(3, "data").random() == draws["data"]
    assert numpy_generator(4, "data").random() != draws["data"]
    assert torch_generator(3, "init").initial_seed() == torch_generator(3, "init").initial_seed()
    assert torch_generator(3, "init").initial_seed() != torch_generator(3, "order").initial_seed()


def test_an_unknown_name_without_a_near_one_lists_all():
    error = UnknownNameError("study", "zzz", ["b", "a"], next_step="Pick one.")
    assert str(error) == "No study is called 'zzz'. Known: a, b. Pick one."
