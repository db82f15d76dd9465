"""Stored language models are used where a whole set is there, else models are trained."""

import pytest

from attnlab.config import ModelConfig
from attnlab.models import LanguageModel
from attnlab.studies.stored import load_or_train
from attnlab.training import save_model


@pytest.fixture
def store(tmp_path):
    """Return a function that saves a tiny model with its facts."""

    def save(mixer, *, name=None, variant=None, experiment="a"):
        sizes = {"vocab_size": 5, "context_len": 4, "d_model": 4, "n_layers": 2, "n_heads": 1}
        model = LanguageModel(ModelConfig(mixer=mixer, **sizes))
        facts = {"variant": variant or mixer, "experiment": experiment}
        save_model(tmp_path / f"{name or mixer}.safetensors", model=model, **facts)

    return save


def test_stored_models_are_used_if_all_mixers_come_from_one_experiment(tmp_path, store):
    for mixer in ("she", "me"):
        store(mixer, experiment="language-model/smoke")
    store("she", name="alone", experiment="another")
    found = load_or_train(("she", "me"), folder=tmp_path)
    assert "language-model/smoke" in found["me"].origin
    assert [kernel.shape for kernel in found["she"].kernels] == [(4, 4, 4)] * 2


def test_stored_models_are_found_in_the_folder_of_their_corpus(tmp_path, store):
    store("we", name="toys/we", experiment="language-model/classroom/children")
    found = load_or_train(("we",), folder=tmp_path)
    assert found["we"].origin.startswith("data/models/toys/we.safetensors")


def test_a_model_of_another_variant_does_not_count(tmp_path, store):
    store("we", variant="we/no_adjustment")
    assert "trained here" in load_or_train(("we",), folder=tmp_path, n_steps=1)["we"].origin


def test_models_are_trained_where_one_is_missing_or_damaged(tmp_path, store):
    store("she")
    (tmp_path / "me.safetensors").write_bytes(b"no model")
    found = load_or_train(("she", "me"), folder=tmp_path, n_steps=2)
    assert all("trained here" in one.origin for one in found.values())
    assert found["me"].kernels[0].shape == (32, 24)


def test_models_are_trained_where_there_is_no_folder(tmp_path):
    found = load_or_train(("we",), folder=tmp_path / "none", n_steps=1)
    assert "trained here" in found["we"].origin
