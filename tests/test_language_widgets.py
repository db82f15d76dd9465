"""Widgets of notebook 04: boards that run, texts side by side, explorers at their extremes."""

import asyncio
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from attnlab.analysis.memory import KeyAtlas
from attnlab.analysis.race import RACERS, Lap
from attnlab.config import ModelConfig, TrainConfig
from attnlab.corpora.tokenizers import character_tokenizer
from attnlab.models import LanguageModel
from attnlab.seeding import torch_generator
from attnlab.sources import tales
from attnlab.training import save_model
from attnlab.widgets import language as widgets

BASE = ModelConfig(context_len=8, d_model=8, n_layers=1, n_heads=2)
TRAIN = TrainConfig(n_steps=2, batch_size=2, lr=0.01, warmup_steps=1)


pytestmark = pytest.mark.usefixtures("no_open_figures")


def laps(n_steps=3):
    return [
        Lap(name, step, 10 * step, 5.0 - step - 0.1 * place)
        for step in range(1, n_steps + 1)
        for place, name in enumerate(("attention", "she"))
    ]


def tiny_model(vocab_size, *, seed=0, mixer="we"):
    config = ModelConfig(mixer=mixer, vocab_size=vocab_size, context_len=8, d_model=8, n_layers=1)
    return LanguageModel(config, generator=torch_generator(seed, "init"))


@pytest.fixture(scope="module")
def writers():
    source = tales("small")
    models = {name: tiny_model(source.vocab_size, mixer=name) for name in ("she", "mean")}
    return widgets.source_writers(models, source=source)


def books():
    return pd.DataFrame(
        {
            "book": book,
            "variant": name,
            "seed": seed,
            "loss_nats": 3.0 + worse + 0.2 * seed,
            "bits_per_byte": 1.0 + worse,
        }
        for book in ("One", "Two")
        for worse, name in ((0.0, "she"), (0.1, "attention"))
        for seed in (0, 1)
    )


def atlas(n_keys=5):
    random = np.random.default_rng(0)
    return KeyAtlas(
        states=("a", "ba", "bb"),
        symbols=("a", "b"),
        activity=random.normal(size=(3, n_keys)),
        writes=random.normal(size=(n_keys, 2)),
        damage_nats=random.normal(size=(3, n_keys)),
        kl_nats=np.array([0.1, 0.2, 0.3]),
        kl_without_nats=np.array([0.2, 0.4, 0.9]),
        share=np.array([0.5, 0.3, 0.2]),
    )


def test_curves_of_a_race_are_means_over_stretches():
    curves = widgets.race_curves(laps(3))
    assert set(curves["name"]) == {"attention", "she"}
    assert curves[curves["name"] == "she"]["loss_nats"].tolist() == pytest.approx([3.9, 2.9, 1.9])
    many = widgets.race_curves(laps(200))
    assert many.groupby("name").size().tolist() == [40, 40]
    assert many["tokens_seen"].max() == 2000
    mean = np.mean([5.0 - step for step in range(1, 6)])
    assert many.loc[many["name"] == "attention", "loss_nats"].iloc[0] == pytest.approx(mean)


def test_a_race_is_described_by_its_gaps():
    words = widgets.describe_race(laps(1), oracle_nats=1.0)
    assert "SHE +2.900" in words
    plt.close(widgets.draw_race(laps(1), oracle_nats=1.0))


def test_the_floor_falls_with_context():
    assert widgets.window_oracle_nats(16) < widgets.window_oracle_nats(4)


@pytest.fixture
def board(capsys):
    return widgets.show_race_board(still=laps(), base=BASE, train=TRAIN)


def test_the_board_trains_every_mixer_and_says_where_each_stands(board):
    board.controls["n_steps"].min = 1
    board.controls["n_steps"].step = 1
    board.controls["n_steps"].value = 2
    asyncio.run(board.drive())
    assert len(board.history) == 2 * len(RACERS)
    assert "Done after 16 of 16" in board.status.value
    assert all(label in board.status.value for label in ("SHE", "Causal mean"))


def test_stop_is_heard_between_two_steps(board):
    async def run_and_stop():
        task = asyncio.create_task(board.drive())
        await asyncio.sleep(0)
        board.stop()
        await task

    asyncio.run(run_and_stop())
    assert 0 < len(board.history) < 20 * len(RACERS)
    assert "Stopped" in board.status.value


def test_the_same_seed_writes_the_same_text(writers):
    settings = {"n_tokens": 9, "temperature": 0.9, "seed": 3}
    text = writers["she"].write("Mira was a kind girl.", **settings)
    assert text == writers["she"].write("Mira was a kind girl.", **settings)
    assert text.startswith("Mira was a kind girl.")
    assert text != writers["she"].write("Mira was a kind girl.", **{**settings, "seed": 4})


def test_a_prompt_longer_than_the_context_keeps_its_newest_tokens(writers):
    prompt = "Mira was a kind girl. It was a windy day. She had a red kite."
    tokens = writers["mean"].tokens(prompt, n_tokens=2, temperature=1.0, seed=0)
    assert len(tokens) == 8 + 2


def test_all_mixers_stand_side_by_side(writers):
    texts = widgets.write_side_by_side(writers, prompt="It was a windy day.", n_tokens=4)
    assert list(texts) == ["SHE", "Causal mean"]
    one = widgets.write_side_by_side(
        writers, prompt="It was a windy day.", mixer="mean", n_tokens=4
    )
    assert one == {"Causal mean": texts["Causal mean"]}


def test_the_playground_writes_again_at_every_extreme(writers, capsys):
    playground = widgets.show_generation_playground(
        writers, prompts=widgets.BEGINNINGS["tales"][1:], presets=[{"mixer": "all"}], n_tokens=3
    )
    mixer, heat = playground.controls["mixer"], playground.controls["temperature"]
    values = [value for _, value in mixer.options]
    for chosen, temperature in itertools.product(values, (heat.min, 0.8, heat.max)):
        mixer.value, heat.value = chosen, temperature
        assert "role='alert'" not in playground.status.value
    assert "All mixers go on" in playground.status.value


def test_no_committed_models_is_no_error(tmp_path):
    assert widgets.load_writers("children", folder=tmp_path) == {}


def test_committed_models_come_back_with_their_tokenizer(tmp_path):
    tokenizer = character_tokenizer(["abc d"])
    for name in ("she", "attention", "my_own"):
        model = tiny_model(tokenizer.vocab_size, mixer="me")
        save_model(tmp_path / "toy" / f"{name}.safetensors", model=model, dtype=torch.bfloat16)
    assert widgets.load_writers("toy", folder=tmp_path) == {}  # without a tokenizer no text
    tokenizer.save(tmp_path / "toy" / "tokenizer.json")
    loaded = widgets.load_writers("toy", folder=tmp_path)
    assert list(loaded) == ["attention", "she", "my_own"]
    text = loaded["she"].write("abc", n_tokens=5, temperature=1.0, seed=0)
    assert text.startswith("abc")
    assert len(text) == 8


def test_the_key_explorer_shows_every_key(capsys):
    explorer = widgets.show_key_explorer(atlas(), keys=[3, 0])
    for key in (0, 4):
        explorer.controls["key"].value = key
        assert f"Key {key} fires" in explorer.status.value


def test_telling_keys_hurt_different_states_worst_first():
    one = atlas()
    harm = one.damage_nats * one.share[:, None]
    keys = widgets.telling_keys(one, n_keys=2)
    assert keys[0] == harm.max(axis=0).argmax()
    assert harm[:, keys[0]].argmax() != harm[:, keys[1]].argmax()


def test_books_are_compared_on_the_same_book_and_seed():
    gaps = widgets.relative_to(books(), baseline="she", metric="loss_nats")
    assert set(gaps["variant"]) == {"attention"}
    np.testing.assert_allclose(gaps["loss_nats"], 0.1)
    assert widgets.relative_to(books(), baseline="", metric="loss_nats").equals(books())


def test_the_book_explorer_survives_all_settings(capsys):
    explorer = widgets.show_book_explorer(books(), presets=[{}])
    metric, baseline = explorer.controls["metric"], explorer.controls["baseline"]
    for unit, base in itertools.product(
        [v for _, v in metric.options], [v for _, v in baseline.options]
    ):
        metric.value, baseline.value = unit, base
        assert "role='alert'" not in explorer.status.value
    words = widgets.describe_books(books(), metric="loss_nats", baseline="she")
    assert "Attention +0.100, below it on 0" in words


def test_without_widgets_only_the_pictures_remain(monkeypatch, writers, capsys):
    monkeypatch.setenv("ATTNLAB_WIDGETS", "off")
    assert widgets.show_race_board(still=laps(), base=BASE, train=TRAIN) is None
    assert widgets.show_key_explorer(atlas(), keys=[1]) is None
    assert widgets.show_book_explorer(books(), presets=[{}]) is None
    prompts = widgets.BEGINNINGS["tales"][1:]
    assert widgets.show_generation_playground(writers, prompts=prompts, presets=[{}]) is None
