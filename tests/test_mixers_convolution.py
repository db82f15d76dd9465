"""What long convolutions, Hyena, SPADE and the Extractor that adapts have in common with others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensors import assert_same_mixing, randomised, stepped, tokens
from torch.func import functional_call

from attnlab.config import ModelConfig
from attnlab.errors import AttnlabError
from attnlab.mixers import build_mixer, find_mixer
from attnlab.mixers.base import Ring
from attnlab.mixers.kernels import KERNELS, S4D, Siren
from attnlab.mixers.streaming import TiledStream
from attnlab.models import LanguageModel

TINY = {"rtol": 1e-9, "atol": 1e-10}
seeds, widths, lengths = st.integers(0, 2**16), st.integers(1, 6), st.integers(1, 7)


def built(name, *, d_model=4, context_len=6, seed=0, **options):
    return randomised(build_mixer(name, d_model=d_model, context_len=context_len, **options), seed)


def n_weights(module):
    return sum(weight.numel() for weight in module.parameters())


# Kernels


@given(channels=widths, n_state=st.sampled_from([2, 4, 6]), time=st.integers(1, 30), seed=seeds)
@torch.no_grad()
def test_the_kernel_of_oscillators_is_what_its_recurrence_answers_to_a_blow(
    channels, n_state, time, seed
):
    kernel = randomised(S4D(channels=channels, n_state=n_state), seed)
    blow = torch.zeros(1, time, channels).double()
    blow[:, 0] = 1
    answers, state = [], kernel.initial_state(1, dtype=torch.float64)
    for u_t in blow.unbind(1):
        answer, state = kernel.step(u_t, state)
        answers.append(answer[0])
    torch.testing.assert_close(kernel.lags(time), torch.stack(answers), **TINY)
    torch.testing.assert_close(kernel.lags(time), kernel.definition(blow)[0], **TINY)


def test_oscillators_start_with_the_published_frequencies_and_forget_slowly():
    torch.manual_seed(0)
    kernel = S4D(channels=3, n_state=8)
    assert kernel.frequency[2].tolist() == pytest.approx([0, torch.pi, 2 * torch.pi, 3 * torch.pi])
    assert kernel.log_damping.exp().unique().tolist() == pytest.approx([0.5])
    lags = S4D(channels=256).lags(4000).detach()
    assert 0.3 < float(lags.square().sum(0).median().sqrt()) < 3  # the sum keeps its size
    assert lags[-100:].square().sum() < 1e-2 * lags[:100].square().sum()


@pytest.mark.parametrize("kernel", KERNELS)
@torch.no_grad()
def test_a_long_kernel_keeps_the_size_of_its_sum_at_any_length(kernel):
    torch.manual_seed(0)
    for n_lags in (16, 512):
        lags = KERNELS[kernel](channels=512, n_lags=n_lags).lags(n_lags)
        size = float(lags.square().sum(0).mean().sqrt())
        assert 0.1 < size < 3, (n_lags, size)


@torch.no_grad()
def test_frozen_kernels_are_computed_once_and_again_when_a_weight_changes(monkeypatch):
    kernel, made = Siren(channels=3, n_lags=9).eval(), []
    make = Siren.make
    monkeypatch.setattr(Siren, "make", lambda self, n: made.append(n) or make(self, n))
    for n in (1, 5, 9, 20):
        assert kernel.lags(n).shape == (min(n, 9), 3)
    assert made == [9]
    before = kernel.lags(9).clone()
    kernel.last.weight.mul_(2)
    assert not torch.equal(kernel.lags(9), before)
    kernel.last.weight.data.mul_(0.5)
    torch.testing.assert_close(kernel.lags(9), before)
    assert made == [9] * 3
    kernel.train().lags(4)
    assert made[3:] == [4]


@given(d_model=widths, context_len=lengths, seed=seeds)
def test_an_explicit_kernel_without_a_skip_is_he_and_without_maps_a_plain_sum(
    d_model, context_len, seed
):
    sizes = {"d_model": d_model, "context_len": context_len}
    he, long = (built(name, **sizes, seed=seed) for name in ("he", "long_conv"))
    plain = built("we", **sizes, seed=seed, adjust="none")
    bare = built("long_conv", **sizes, gate=False, maps=False)
    with torch.no_grad():
        for ours, theirs in ((long.value, he.value), (long.gate, he.adjust), (long.out, he.out)):
            ours.weight.copy_(theirs.weight)
        for ours, theirs in ((long, he), (bare, plain)):
            ours.kernel.lag_weight.copy_(theirs.lag_weight)
            ours.skip.zero_()
    x = tokens(2, 9, d_model, seed=seed)
    torch.testing.assert_close(long(x), he(x), **TINY)
    torch.testing.assert_close(bare(x), plain(x), **TINY)


@pytest.mark.parametrize("kernel", KERNELS)
@torch.no_grad()
def test_kernels_keep_their_digits_under_autocast(kernel):
    torch.manual_seed(0)
    made = KERNELS[kernel](channels=8, n_lags=100)
    exact = made.lags(100)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(made.lags(100), exact, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["long_conv", "s4d", "siren", "hyena", "spade", "adaptive_she"])
@torch.no_grad()
def test_mixers_go_through_autocast(name):
    torch.manual_seed(0)
    mixer, x = build_mixer(name, d_model=8, context_len=20), tokens(2, 30, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        low, (first, state) = mixer(x), mixer.prefill(x[:, :-1])
        rest, _ = mixer.step(x[:, -1], state)
    streamed = torch.cat([first, rest[:, None]], 1)
    for y in (low, streamed):
        torch.testing.assert_close(y.float(), mixer(x), rtol=0.1, atol=0.15)


def test_oscillators_go_on_from_any_state_over_long_texts():
    mixer, x = built("s4d", n_state=6), tokens(1, 300, 4)
    with torch.no_grad():
        first, state = mixer.prefill(x[:, :137])
        rest, _ = mixer.prefill(x[:, 137:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), mixer(x), **TINY)


@pytest.mark.parametrize("kernel", ["explicit", "siren"])
def test_a_frozen_long_kernel_streams_in_tiles_and_one_that_learns_in_a_ring(kernel):
    mixer, x = built("long_conv", kernel=kernel, context_len=600).eval(), tokens(2, 1300, 4)
    with torch.no_grad():
        exact = mixer(x)
        first, state = mixer.prefill(x[:, :100])
        second, state = stepped(mixer, x[:, 100:1200], state)
    assert isinstance(state, TiledStream)
    third, state = stepped(mixer, x[:, 1200:1210], state)  # with gradients
    assert isinstance(state, Ring)
    fourth, _ = mixer.prefill(x[:, 1210:], state)
    close = {"rtol": 1e-8, "atol": 1e-8 * float(exact.abs().max())}
    torch.testing.assert_close(torch.cat([first, second, third, fourth], 1), exact, **close)
    assert isinstance(mixer.train().initial_state(1), Ring)


@torch.no_grad()
def test_a_stream_in_tiles_hears_of_weights_that_change():
    mixer, x = built("siren", context_len=600).eval(), tokens(1, 900, 4)
    _, state = stepped(mixer, x[:, :700])
    mixer.kernel.last.weight.mul_(-2)
    y, _ = stepped(mixer, x[:, 700:], state)
    close = {"rtol": 1e-8, "atol": 1e-8 * float(y.abs().max())}
    torch.testing.assert_close(y, mixer(x)[:, 700:], **close)


# Hyena


@pytest.mark.parametrize(("d", "n", "order"), [(128, 256, 2), (512, 1024, 2), (256, 256, 3)])
def test_hyena_has_as_many_weights_as_its_authors_version(d, n, order):
    mixer = build_mixer("hyena", d_model=d, context_len=n, order=order)
    e, f = 3, 64
    filters = (e + 1) * f + 2 * (f**2 + f) + f + f * d * (order - 1)
    maps = (order + 2) * d**2 + (order + 2) * d + 4 * (order + 1) * d
    assert n_weights(mixer) == maps + filters + d * (order - 1) + n * e


@given(d_model=widths, context_len=lengths, seed=seeds)
def test_hyena_without_input_gate_and_short_convolution_is_he(d_model, context_len, seed):
    sizes = {"d_model": d_model, "context_len": context_len, "seed": seed}
    hyena, he = built("hyena", **sizes), built("he", **sizes)
    with torch.no_grad():
        hyena.short.zero_()[0] = 1
        for bias in (hyena.project.bias, hyena.short_bias, hyena.out.bias, hyena.filters.skip):
            bias.zero_()
        adjust, ones, value = hyena.project.weight.split(d_model)
        adjust.copy_(he.adjust.weight)
        ones.zero_()
        hyena.short_bias[d_model : 2 * d_model] = 1
        value.copy_(he.value.weight)
        hyena.out.weight.copy_(he.out.weight)
        he.lag_weight.copy_(hyena.filters.lags(context_len))
    x = tokens(2, 9, d_model, seed=seed)
    torch.testing.assert_close(hyena(x), he(x), **TINY)


def test_the_window_of_hyena_falls_at_fixed_rates_that_differ_by_channel():
    filters = build_mixer("hyena", d_model=5, context_len=33).filters
    assert "window" not in filters.state_dict()
    ends = filters.window[-1].log()
    rates = torch.linspace(1 / 1.5, 1 / 0.3, 5)  # to a hundredth, 1.5 and 0.3 contexts away
    torch.testing.assert_close(ends, torch.tensor(0.01).log() * rates)


# SPADE


@pytest.mark.parametrize("window", [1, 3, 20])
def test_spade_without_its_state_space_is_attention_in_a_window(window):
    spade = built("spade", window=window, n_heads=2, state_space=False)
    attention = built("attention", window=window, n_heads=2)
    assert n_weights(spade) == n_weights(attention)
    weights, x = dict(spade.local.named_parameters()), tokens(2, 11, 4)
    assert_same_mixing(spade, lambda x: functional_call(attention, weights, (x,)), x)
    attention.load_state_dict(weights)
    torch.testing.assert_close(stepped(spade, x)[0], stepped(attention, x)[0], **TINY)


def test_spade_has_its_state_space_in_the_first_layer_alone():
    options = {"window": 3, "n_state": 8}
    assert find_mixer("spade").in_layer(0, options) == ("spade", options)
    assert find_mixer("spade").in_layer(2, options) == ("attention", {"window": 3})
    sizes = {"vocab_size": 7, "context_len": 9, "d_model": 8, "n_heads": 2, "n_layers": 3}
    model = LanguageModel(ModelConfig(mixer="spade", mixer_options=options, **sizes))
    assert [block.mixer.name for block in model.blocks] == ["spade", "attention", "attention"]
    assert [block.mixer.reach for block in model.blocks] == [None, 3, 3]
    assert model.blocks[0].mixer.local.n_heads == 2


# The Extractor that adapts


@pytest.mark.parametrize("rank", [1, 3])
@given(d_model=widths, context_len=lengths, seed=seeds)
def test_an_extractor_that_ignores_the_tokens_is_she_of_that_rank(rank, d_model, context_len, seed):
    sizes = {"d_model": d_model, "context_len": context_len, "rank": rank}
    she, adaptive = built("she", **sizes, seed=seed), built("adaptive_she", **sizes)
    missing, unexpected = adaptive.load_state_dict(she.state_dict(), strict=False)
    assert (sorted(missing), unexpected) == (["key.weight", "query.weight"], [])
    x = tokens(2, 9, d_model, seed=seed)
    assert not torch.allclose(adaptive(x), she(x))
    torch.nn.init.zeros_(adaptive.query.weight)
    torch.nn.init.zeros_(adaptive.key.weight)
    torch.testing.assert_close(adaptive(x), she(x), **TINY)


def test_an_extractor_that_adapts_starts_as_she_and_learns_from_the_first_step():
    adaptive = build_mixer("adaptive_she", d_model=4, context_len=6)
    x = tokens(2, 9, 4).float()
    for linear in (adaptive.query, adaptive.key):
        assert linear.weight.count_nonzero() == 0
    adaptive(x).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in adaptive.parameters())


@torch.no_grad()
def test_an_extractor_that_adapts_streams_in_tiles_too():
    mixer, x = built("adaptive_she", context_len=40, rank=2), tokens(2, 150, 4)
    y, _ = stepped(mixer, x, mixer.initial_state(2, streaming="tiles"))
    torch.testing.assert_close(y, mixer(x), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("long_conv", {"kernel": "s4"}, "No kernel is called 's4'. Did you mean 's4d'"),
        ("s4d", {"n_state": 5}, "n_state=5 is no even number"),
        ("long_conv", {"method": "staged"}, "No convolution method is called 'staged'"),
        ("hyena", {"order": 1}, "order=1 has no long convolution"),
        ("spade", {"window": 0}, "window=0 sees nothing"),
        ("adaptive_she", {"rank": None}, "needs a rank from 1 on"),
        ("adaptive_she", {"index": "absolute"}, "index='lag'"),
        ("adaptive_she", {"extract": "diag"}, "extract='diag' has none"),
    ],
)
def test_options_that_cannot_be_are_explained(name, options, words):
    with pytest.raises(AttnlabError, match=words):
        build_mixer(name, d_model=4, context_len=4, **options)
