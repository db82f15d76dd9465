"""The judges of notebook 06 know right from wrong; its counts and small runs are what they say."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.config import ModelConfig
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers.convolution import causal_convolution
from attnlab.models import LanguageModel
from attnlab.sources import tales
from attnlab.teaching import fast_extractors as teaching
from attnlab.teaching import fast_extractors_runs as runs
from attnlab.teaching.core import CheckFailed, unseen_mistakes
from attnlab.training import evaluate

few = settings(deadline=None, max_examples=25)
TINY = runs.Lesson(context_len=5, d_model=4, n_steps=2, batch_size=2)


@pytest.mark.parametrize(
    ("reference", "cases", "mistakes"),
    [
        (teaching.convolution, teaching.convolution_cases(), teaching.FFT_MISTAKES),
        (teaching.due_tile, teaching.tile_cases(), teaching.TILE_MISTAKES),
    ],
    ids=["fft_convolution", "due_tile"],
)
def test_every_mistake_is_seen_and_named(reference, cases, mistakes):
    assert len(mistakes) >= 3
    assert unseen_mistakes(reference=reference, cases=cases, mistakes=mistakes) == []


def test_right_answers_pass(capsys):
    teaching.check_fft_convolution(teaching._through_frequencies)
    teaching.check_due_tile(lambda n: (n & -n, n - (n & -n), n, 2 * (n & -n) - 1))
    assert capsys.readouterr().out.count("Correct") == 2


def test_a_transform_without_padding_is_told_about_wrap_around():
    with pytest.raises(CheckFailed, match="wraps around"):
        teaching.check_fft_convolution(teaching._unpadded)


@given(
    n_tokens=st.integers(1, 7),
    n_lags=st.integers(1, 7),
    d=st.integers(1, 3),
    seed=st.integers(0, 9),
)
@few
def test_the_reference_is_the_library_s_convolution(n_tokens, n_lags, d, seed):
    draw = np.random.default_rng(seed).normal
    x, W = draw(size=(n_tokens, d)), draw(size=(n_lags, d, d))
    library = causal_convolution(torch.from_numpy(x)[None], torch.from_numpy(W), method="lags")[0]
    np.testing.assert_allclose(teaching.convolution(x, W), library.numpy(), atol=1e-12)


@given(n_tokens=st.integers(1, 40))
@few
def test_due_tiles_cover_every_pair_once(n_tokens):
    covered = np.eye(n_tokens, dtype=int)  # the token itself
    for n in range(1, n_tokens):
        size, first_input, first_output, _ = teaching.due_tile(n)
        covered[first_input:n, first_output : first_output + size] += 1
    assert np.array_equal(covered, np.triu(np.ones((n_tokens, n_tokens), dtype=int)))


def test_small_tiles_are_summed_directly_and_large_ones_transformed():
    d = 128
    assert teaching.tile_flops(4, d=d) == 2 * 4 * 4 * d * d
    # size 8: products 8 (8 + 1) d^2, transforms of length 16: 2 d times 2.5 * 16 * log2(16)
    assert teaching.tile_flops(8, d=d) == 8 * 9 * d * d + 2 * d * 2.5 * 16 * 4
    assert teaching.tile_flops(8, d=d) < 2 * 8 * 8 * d * d


def test_the_ring_s_total_is_the_number_of_pairs():
    n, d = 11, 3
    total = sum(teaching.ring_flops(t, d=d, context_len=n) for t in range(1, n + 1))
    assert total == 2 * d * d * n * (n + 1) // 2
    assert teaching.ring_flops(50, d=d, context_len=n, is_dense=False) == 2 * n * d


def test_the_price_with_tiles_grows_like_a_logarithm():
    table, by_token = teaching.token_prices(d=128, contexts=(64, 4096), drawn=16)
    means = table.pivot_table(index="label", columns="context_len", values="flops")
    assert means.loc["ring", 4096] / means.loc["ring", 64] == pytest.approx(4097 / 65)
    # 2 log2 T in products, slower than log2^2 T in all
    assert (
        means.loc["tiles", 4096] / means.loc["tiles", 64] < (math.log2(4096) / math.log2(64)) ** 2
    )
    assert [len(prices) for prices in by_token.values()] == [15, 15]
    assert sorted(table["context_len"].unique()) == [64, 4096]


@given(n_lags=st.integers(1, 6), d=st.integers(1, 5), seed=st.integers(0, 99))
@few
def test_the_best_rank_errors_are_those_of_the_best_weights(n_lags, d, seed):
    weight = np.random.default_rng(seed).normal(size=(n_lags, d, d))
    errors = teaching.best_rank_errors(weight)
    assert len(errors) == min(n_lags, d)
    for rank, error in enumerate(errors, start=1):
        maps, vectors = teaching.low_rank_lags(weight, rank=rank)
        near = np.einsum("ric,jrc->jic", maps, vectors)
        off = np.linalg.norm(near - weight) / np.linalg.norm(weight)
        assert off == pytest.approx(error, abs=1e-7)
    assert errors[-1] == pytest.approx(0, abs=1e-7)


def test_vectors_a_lag_have_no_rank():
    with pytest.raises(AttnlabError, match=r"\(n_lags, d, d\)"):
        teaching.best_rank_errors(np.ones((3, 2)))


def test_sums_are_timed_beside_attention():
    table = runs.time_sums({"SHE, any": causal_convolution}, lengths=(3, 5), batch=1, d_model=4)
    assert set(table["label"]) == {"SHE, any", "Attention"}
    assert set(table["length"]) == {3, 5}
    assert (table["median_ms"] > 0).all()


def recorded(part, *, times=(32, 128), device="cpu"):
    rows = [
        {
            "experiment": f"speed/paper/{part}/t{time}/default-{threads}-threads",
            "variant": variant,
            "seed": seed,
            "median_ms": 1.0 + seed,
            "config.part": part,
            "config.work": "training",
            "config.extract": "matrix",
            "config.batch": 16,
            "config.d_model": 128,
            "config.time": time,
            "config.device": device,
            "config.route": "default",
            "config.precision": "fp32",
            "config.threads": threads,
            "config.repeats": 11,
            "environment.device": "some processor",
            "environment.torch": "2.13",
            "ratio_to_attention": 0.5,
        }
        for time in times
        for threads in (1, 2)
        for seed in (0, 1)
        for variant in ("she/lags", "she/staged", "she/conv1d")
    ]
    return pd.DataFrame(rows)


def test_records_come_before_measuring_newest_series_and_most_threads_first(monkeypatch):
    monkeypatch.setattr(runs, "load_runs", lambda *_, **__: recorded("methods"))
    points = runs.method_points()
    assert points.is_recorded
    assert set(points.table["config.threads"]) == {2}
    assert set(points.table["seed"]) == {1}
    assert set(points.table["variant"]) == {"she/lags", "she/staged"}
    assert "some processor, torch 2.13, 2 threads" in points.origin


def nothing_recorded(*_, **__):
    raise UnknownNameError("recorded experiment", "speed", [], next_step="Run it.")


def test_without_records_it_is_measured_and_said_so(monkeypatch):
    monkeypatch.setattr(runs, "load_runs", nothing_recorded)
    monkeypatch.setattr("attnlab.studies.clock.STREAMS", ("attention", "she"))
    assert runs._recorded("generation", over="context_len", work="layer") is None
    race = runs.generation_race(batch=1, context_len=4, d_model=4)
    points = runs._live(iter([race]), part="generation", sizes="width 4")
    assert not points.is_recorded
    assert points.origin.startswith("Measured while this page ran: ")
    assert set(points.table["variant"]) == {"attention", "she"}


def test_words_on_streaming_say_where_the_ring_wins_and_who_slows_down_least():
    times = {"she": (2.0, 4.0), "she/ring": (1.0, 8.0), "me": (3.0, 3.0)}
    rows = [
        {"variant": name, "median_ms": ms, "config.batch": 16, "config.context_len": length,
         "config.streaming": "tiles" if name == "she" else "ring"}
        for name, both in times.items()
        for length, ms in zip((32, 512), both, strict=True)
    ]  # fmt: skip
    words = runs.streaming_words(pd.DataFrame(rows))
    assert "chose tiles at context 32, 512; the ring beats them at context 32;" in words
    assert words.endswith("ME slows down least.")
    rows[0]["config.streaming"] = rows[1]["config.streaming"] = "ring"
    assert "chose tiles at no context" in runs.streaming_words(pd.DataFrame(rows))


def test_one_recorded_length_is_no_curve(monkeypatch):
    monkeypatch.setattr(runs, "load_runs", lambda *_, **__: recorded("mixers", times=(128,)))
    assert runs._recorded("mixers", over="time", work="training") is None


def test_without_records_of_a_graphics_card_none_is_claimed(monkeypatch):
    monkeypatch.setattr(runs, "load_runs", nothing_recorded)
    assert runs.gpu_words().startswith("**No record here comes from a graphics card.**")
    monkeypatch.setattr(runs, "load_runs", lambda *_, **__: recorded("training"))
    assert runs.gpu_words().startswith("**No record")


def test_records_of_a_graphics_card_are_named(monkeypatch):
    table = recorded("training", device="cuda")
    monkeypatch.setattr(runs, "load_runs", lambda *_, **__: table)
    words = runs.gpu_words()
    assert words.startswith("**Recorded on some processor**, 24 records.")
    assert "- she/staged: training step 0.50 times attention's" in words


def test_every_start_is_trained_with_every_cure():
    ends, curves = runs.train_starts(TINY)
    assert len(ends) == 3 * 4
    assert np.isfinite(ends["loss_nats"]).all()
    assert len(curves) == 3 * 4 * TINY.n_steps


def test_starts_have_the_sizes_of_their_names():
    sizes = runs.start_sizes(TINY)
    sums = {name: std * (TINY.d_model * TINY.context_len) ** 0.5 for name, std in sizes.items()}
    assert sums["balanced"] == pytest.approx(1)
    assert sums["terms of size 1"] == pytest.approx(TINY.context_len**0.5)


@pytest.mark.parametrize("reader", runs.READERS)
def test_a_stretched_model_is_the_same_within_its_trained_length(reader):
    model, _ = runs.train_on_tales(TINY, **runs.READERS[reader])
    longer = runs.stretched(model, context_len=13)
    tokens = torch.from_numpy(runs.held_out(TINY, n_windows=3))[:, :5]
    torch.testing.assert_close(longer(tokens), model(tokens), rtol=1e-4, atol=1e-5)


def test_lags_alone_read_a_window_wherever_it_stands():
    model, _ = runs.train_on_tales(TINY, position="none")
    longer = runs.stretched(model, context_len=13)
    tokens = torch.from_numpy(runs.held_out(TINY, n_windows=3, n_tokens=13))
    late = longer(tokens[:, :13])[:, -1]
    torch.testing.assert_close(late, model(tokens[:, 8:13])[:, -1], rtol=1e-4, atol=1e-5)


def test_losses_past_the_length_begin_as_those_within_it():
    models = {"she/learned positions": runs.train_on_tales(TINY)[0]}
    windows = runs.held_out(TINY, n_windows=4, n_tokens=13)
    past = runs.losses_past_length(models, windows)["she/learned positions"]
    again = runs.losses_read_again(models["she/learned positions"], windows)
    assert past.shape == again.shape == (13,)
    np.testing.assert_allclose(past[:5], again[:5], rtol=1e-4)
    assert np.isfinite(again).all()


def test_reading_again_is_what_generation_does():
    model, _ = runs.train_on_tales(TINY)
    windows = runs.held_out(TINY, n_windows=2, n_tokens=13)
    tokens, state = torch.from_numpy(windows), model.initial_state(2)
    losses = []
    with torch.no_grad():
        for t in range(13):
            if state.position == TINY.context_len:
                logits, state = model.prefill(tokens[:, t - 5 // 2 + 1 : t + 1])
            else:
                logits, state = model.step(tokens[:, t], state)
            losses.append(torch.nn.functional.cross_entropy(logits, tokens[:, t + 1]).item())
    np.testing.assert_allclose(runs.losses_read_again(model, windows), losses, rtol=1e-4)


def test_a_slip_is_the_first_word_the_source_cannot_write():
    source = tales("small")
    tale = source.encode(source.decode(source.sample(600)).split("\n")[1])  # the first whole one
    assert runs.tokens_before_slip(source, tale, prompt_len=4) is None
    spoilt = tale.copy()
    spoilt[9] = spoilt[8]  # no word of the tales stands twice in a row
    assert runs.tokens_before_slip(source, spoilt, prompt_len=4) == 5


def test_losses_by_position_average_to_the_evaluated_loss():
    config = ModelConfig(mixer="we", vocab_size=5, context_len=8, d_model=8, n_layers=1, n_heads=2)
    model = LanguageModel(config).eval()
    text = np.random.default_rng(0).integers(0, 5, 6 * 8 + 1)
    windows = np.stack([text[s : s + 9] for s in range(0, 48, 8)])
    losses = runs.losses_by_position(model, windows)
    assert losses.shape == (6, 8)
    assert losses.mean() == pytest.approx(evaluate(model, text).nats_per_token, rel=1e-5)
