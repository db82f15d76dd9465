"""Chapter 06: transforms, tiles, counted prices, and texts past the trained length."""

import numpy as np
import pandas as pd
import pytest
import torch
from chapter_tests import ChapterTests
from hypothesis import given
from hypothesis import strategies as st

from attnlab.chapters.fast_extractors import checks, live, pictures
from attnlab.config import ModelConfig
from attnlab.errors import AttnlabError
from attnlab.mixers.convolution import causal_convolution
from attnlab.models import LanguageModel
from attnlab.seeding import torch_generator
from attnlab.sources import tales
from attnlab.studies.clock import STREAMS

N_GRID = st.integers(1, 7)


def times(lags=(1.0, 8.0), fft=(2.0, 4.0)):
    rows = [
        {"name": "she", "label": label, "length": length, "median_ms": ms, "low_ms": 0.9 * ms,
         "high_ms": 1.1 * ms}
        for label, values in (("lags", lags), ("fft", fft))
        for length, ms in zip((8, 32), values, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def hopeless():
    return times()[lambda t: ~((t["label"] == "lags") & (t["length"] == 32))]


def starts():
    keys = [(start, cure, seed) for start in ("small", "large") for cure in ("none", "gate")
            for seed in (0, 1)]  # fmt: skip
    ends = pd.DataFrame(keys, columns=["start", "cure", "seed"]).assign(loss_nats=1.0)
    ends.loc[(ends["start"] == "large") & (ends["seed"] == 0), "loss_nats"] = np.nan
    curves = ends.merge(pd.DataFrame({"step": [1, 2, 3]}), how="cross")
    return pictures.starts(ends, curves, floor_nats=0.5)


def prices():
    rows = [("ring", 8, 10.0), ("ring", 16, 20.0), ("tiles", 8, 5.0), ("tiles", 16, 6.0)]
    table = pd.DataFrame(rows, columns=["label", "context_len", "flops"])
    return pictures.token_prices(table, {"ring": [1, 2, 3], "tiles": [1, 7, 1]})


def laps():
    rows = [("she", 1, 10.0), ("she", 2, 30.0), ("attention", 1, 5.0), ("attention", 2, 7.0)]
    return [dict(zip(("variant", "round", "tokens_per_s"), row, strict=True)) for row in rows]


def playground():
    config = ModelConfig(mixer="me", vocab_size=tales("small").vocab_size, context_len=12,
                         d_model=4, n_layers=1)  # fmt: skip
    model = LanguageModel(config, generator=torch_generator(0, "init"))
    models = {"she/lags alone": model, "attention/learned positions": model}
    parts = live.length_playground(
        models, source=tales("small"), trained_len=7, prompt="Nora was a kind girl."
    )
    return models, parts


class TestChapter(ChapterTests):
    SLUG = "fast_extractors"
    PICTURES = {  # noqa: RUF012
        "butterflies": (
            lambda: pictures.butterflies([1, 2, 3, 4]),
            "make 4, where the definition has 16. Result: 10, -2 + 2i, -2, -2 - 2i.",
        ),
        "wrap": (lambda: pictures.wrap(length=8, n_lags=3), "Length 10 is needed."),
        "wrap/enough": (lambda: pictures.wrap(length=10, n_lags=3), "exactly what is needed"),
        "times": (lambda: pictures.times(times(), x_label="T"), "fft 4; lags 8 (2.0 times). Bands"),
        "times/hopeless": (
            lambda: pictures.times(hopeless(), x_label="T"), "Too slow to be timed there: lags."
        ),
        "costs": (
            lambda: pictures.costs(context_len=8, d_model=128, batch=1),
            "Context 8, width 128, batch 1, forward pass. Cheapest by count: lags",
        ),
        "leaks": (
            lambda: pictures.leaks({"lags": [0, 0, 1], "fft": [1e-7, 2e-7, 1]}, changed_at=2),
            "lags exactly 0, fft 2e-07",
        ),
        "tiling": (
            lambda: pictures.tiling(n_tokens=16, n_seen=12),
            "size 4 (outlined): inputs 8 to 11 give to outputs 12 to 15. Done so far: ",
        ),
        "tiling/done": (
            lambda: pictures.tiling(n_tokens=5, n_seen=9, against="lag"),
            "so far: 100% of all pairs of an input and an output. Slanted",
        ),
        "token_prices": (prices, "ring 2.0 times; tiles 1.2 times. Right: the dearest token"),
        "generation": (
            lambda: pictures.generation(laps()), "range: SHE 20 (10 to 30); Attention 6 (5 to 7)."
        ),
        "rank_errors": (
            lambda: pictures.rank_errors({"trained": [0.5, 0.05, 0.0]}),
            "Trained: 50% at rank 1 (HE), at most 10% from rank 2 of 3 on",
        ),
        "starts": (starts, "(2 seeds; true source 0.50). small: none 1.00, gate 1.00"),
        "past_length": (
            lambda: pictures.past_length(
                {"she/window": np.r_[np.ones(16), np.full(16, 3.0)]},
                trained_len=16, oracle_nats=np.ones(32),
            ),
            "SHE, window 1.00 and 3.00",
        ),
    }  # fmt: skip
    PANELS = {  # noqa: RUF012
        "wrap": lambda: (pictures.wrap, pictures.WRAP_DIALS),
        "costs": lambda: (pictures.costs, pictures.COST_DIALS),
        "tiling": lambda: (pictures.tiling, pictures.TILING_DIALS),
        "playground": lambda: (
            playground()[1]["write"],
            {"model": list(playground()[0]), "prompt": ("Prompt", "Nora ran."),
             "seed": ("Seed", 0, 0, 9)},
        ),
    }  # fmt: skip


@given(power=st.integers(1, 6), seed=st.integers(0, 99))
def test_the_last_stage_is_the_transform(power, seed):
    x = np.random.default_rng(seed).normal(size=2**power)
    stages = pictures.butterfly_stages(x)
    assert len(stages) == power + 1
    np.testing.assert_allclose(stages[-1], np.fft.fft(x), atol=1e-10)


def test_evens_come_first_and_odd_lengths_are_refused():
    assert pictures.bit_reversed(8).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    for length in (1, 3, 6):
        with pytest.raises(AttnlabError, match="2, 4, 8"):
            pictures.butterfly_stages(np.ones(length))
    assert [pictures.complex_text(complex(z)) for z in (3, -2 - 2j, 0.125 + 1e-12j, -1e-12)] == [
        "3", "-2 - 2i", "0.12", "0"]  # fmt: skip


@given(n_tokens=st.integers(2, 9), n_lags=st.integers(1, 9), extra=st.integers(0, 9))
def test_nothing_wraps_around_exactly_when_the_sum_fits(n_tokens, n_lags, extra):
    length = n_tokens + extra
    lag = pictures.wrapped_lags(n_tokens=n_tokens, n_lags=n_lags, length=length)
    leaks = (np.tri(n_tokens, k=-1) > 0) & (lag >= 0)
    assert leaks.any() != (length >= n_tokens + n_lags - 1)


def test_the_map_of_lags_is_what_a_transform_computes():
    x, w, n = np.arange(1.0, 6), np.array([1.0, 10, 100]), 6
    lag = pictures.wrapped_lags(n_tokens=5, n_lags=3, length=n)
    circular = np.fft.irfft(np.fft.rfft(x, n) * np.fft.rfft(w, n), n)[:5]
    np.testing.assert_allclose(x @ np.where(lag >= 0, w[lag], 0), circular)
    with pytest.raises(AttnlabError, match="cuts the sequence"):
        pictures.wrapped_lags(n_tokens=8, n_lags=1, length=7)
    with pytest.raises(AttnlabError, match="input, lag"):
        pictures.tiling(n_tokens=4, n_seen=1, against="time")


def test_a_crossover_is_the_first_length_at_which_lags_lose():
    def crossover(table):
        return pictures.crossover(table, slow="lags", fast=["fft"])

    assert crossover(times()) == 32
    assert crossover(times(fft=(0.5, 1.0))) == 8
    assert crossover(times(fft=(9.0, 9.0))) is None
    assert crossover(hopeless()) == 32  # too slow to be measured there


def test_counted_costs_over_frequencies_hardly_grow_and_by_lags_do():
    (short, _), (long, _) = (
        pictures.counted_costs(context_len=n, d_model=128, batch=64) for n in (128, 2048)
    )
    assert long["fft"] / short["fft"] < 1.2
    assert long["lags"] / short["lags"] == pytest.approx(2049 / 129)
    _, level = pictures.counted_costs(context_len=3, d_model=5, batch=1)
    assert level == pytest.approx(2 * (4 * 25 + 2 * 2 * 5))  # on average 2 of 3 tokens are seen


@given(n_tokens=N_GRID, n_lags=N_GRID, d=st.integers(1, 3), seed=st.integers(0, 9))
def test_the_reference_is_the_library_s_convolution(n_tokens, n_lags, d, seed):
    draw = np.random.default_rng(seed).normal
    x, W = draw(size=(n_tokens, d)), draw(size=(n_lags, d, d))
    library = causal_convolution(torch.from_numpy(x)[None], torch.from_numpy(W), method="lags")[0]
    np.testing.assert_allclose(checks.convolution(x, W), library.numpy(), atol=1e-12)


@given(n_tokens=N_GRID, n_lags=N_GRID)
def test_the_stream_to_build_says_the_convolution(n_tokens, n_lags):
    x, W = checks.numbers(n_tokens, 2, n_lags)
    stream = checks.stream_of()(W)
    np.testing.assert_allclose([stream.step(x_t) for x_t in x], checks.convolution(x, W))


@given(n_tokens=st.integers(1, 40))
def test_due_tiles_cover_every_pair_once(n_tokens):
    covered = np.eye(n_tokens, dtype=int)  # the token itself
    for n in range(1, n_tokens):
        size, first_input, first_output, _ = checks.due_tile(n)
        covered[first_input:n, first_output : first_output + size] += 1
    assert np.array_equal(covered, np.triu(np.ones((n_tokens, n_tokens), dtype=int)))


def test_sums_methods_and_mixers_are_raced_here():
    table = live.time_sums({"SHE, any": causal_convolution}, lengths=(3, 5), batch=1, d_model=4)
    assert set(table["label"]) == {"SHE, any", "Attention"}
    assert set(table["length"]) == {3, 5}
    points, words = live.race_methods(lengths=(3,), batch=1, d_model=4)
    assert set(points["variant"]) == {f"she/{method}" for method in live.METHODS}
    assert (points["gflop_per_s"] > 0).all()
    assert words.startswith("Measured while this page ran: 1 thread, width 4, batch 1")
    run = [lap for lap in live.generation_laps(context_len=4, batch=1, d_model=4) if lap]
    assert len(run) == live.ROUNDS * len(STREAMS)
    assert {lap["variant"] for lap in run[: len(STREAMS)]} == set(STREAMS)


def test_records_are_the_newest_and_say_where_they_come_from():
    table, words = live.recorded("mixers", work="training", batch=16)
    assert not table.duplicated(["experiment", "variant"]).any()
    assert set(table["config.time"]) == {32, 128, 512, 2048}
    assert words.startswith("Recorded (speed, paper): ")


def test_words_on_streaming_say_where_the_ring_wins_and_who_slows_down_least():
    timed = {"she": (2.0, 4.0), "she/ring": (1.0, 8.0), "me": (3.0, 3.0)}
    rows = [
        {"variant": name, "median_ms": ms, "config.batch": 16, "config.context_len": length,
         "config.streaming": "tiles" if name == "she" else "ring"}
        for name, both in timed.items()
        for length, ms in zip((32, 512), both, strict=True)
    ]  # fmt: skip
    words = live.streaming_words(pd.DataFrame(rows))
    assert "chose tiles at context 32, 512; the ring beats them at context 32;" in words
    assert words.endswith("ME slows down least.")


@pytest.mark.parametrize(("device", "said"), [
    ("cpu", "**No record here comes from a graphics card.**"),
    ("cuda", "**Recorded on some card**, 1 records.\n\n- she: training step 0.50")])  # fmt: skip
def test_a_graphics_card_is_named_only_if_it_was_used(monkeypatch, device, said):
    row = {"variant": "she", "ratio_to_attention": 0.5, "environment.device": "some card",
           "config.device": device, "config.part": "training"}  # fmt: skip
    monkeypatch.setattr(live, "load_runs", lambda *_: pd.DataFrame([row]))
    assert live.gpu_words().startswith(said)


def test_texts_fill_the_context_with_a_bar_at_the_trained_length():
    parts = playground()[1]
    (text,) = parts["write"](
        model="she/lags alone", prompt="Nora was a kind girl.", seed=3
    ).values()
    assert text.startswith("Nora was a kind girl.")
    assert len(tales("small").encode(text.replace("‖ ", ""))) == 12
    assert text.count("‖") == 1
    assert "impossible word" in parts["words"](model="she/lags alone", prompt="", seed=3)
