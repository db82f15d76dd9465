"""RWKV-4, AFT, Synthesizer and gMLP: how they are related to each other and to plain averages."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensors import randomised, stepped, tokens

from attnlab.errors import AttnlabError
from attnlab.mixers import build_mixer
from attnlab.mixers.rwkv import nothing_said, running

TINY = {"rtol": 1e-9, "atol": 1e-10}
seeds = st.integers(0, 2**16)


def random_mixer(name, *, d_model=3, context_len=8, seed=0, **options):
    return randomised(build_mixer(name, d_model=d_model, context_len=context_len, **options), seed)


@given(time=st.integers(1, 20), seed=seeds)
def test_the_scan_is_the_recurrence(time, seed):
    k, v, fade = tokens(2, time, 3, seed=seed), tokens(2, time, 3, seed=seed + 1), tokens(3).abs()
    top, bottom, level = running(nothing_said(2, 3, dtype=k.dtype), k, v, fade)
    total = torch.zeros(2, 3, dtype=k.dtype)
    for t in range(time):
        total = (-fade).exp() * total + k[:, t].exp() * v[:, t]
        torch.testing.assert_close(top[:, t + 1] * level[:, t + 1].exp(), total, **TINY)
    assert (bottom[:, 1:] >= 1 - 1e-12).all()  # the largest term is one


def test_rwkv_without_shift_fading_and_bonus_is_aft_without_positions():
    rwkv, aft = random_mixer("rwkv4"), random_mixer("aft", kind="simple")
    with torch.no_grad():
        rwkv.newest.fill_(1.0)
        rwkv.decay.fill_(-torch.inf)
        rwkv.bonus.fill_(0.0)
        for mine, other in (("receive", "query"), ("key",) * 2, ("value",) * 2, ("out",) * 2):
            getattr(rwkv, mine).weight.copy_(getattr(aft, other).weight)
    x = tokens(2, 11, 3)
    torch.testing.assert_close(rwkv(x), aft(x), **TINY)


@pytest.mark.parametrize("name", ["rwkv4", "aft"])
def test_a_channel_without_keys_to_choose_by_is_a_mean(name):
    mixer = random_mixer(name)
    with torch.no_grad():
        mixer.key.weight.zero_()
        if name == "rwkv4":
            mixer.decay.fill_(-torch.inf)
            mixer.bonus.fill_(0.0)
        else:
            mixer.place.fill_(1.5)
    x = tokens(1, 8, 3)
    mean = build_mixer("mean", d_model=3, context_len=8).mixing_matrix(x)
    torch.testing.assert_close(mixer.mixing_matrix(x), mean.expand(1, 3, 8, 8), **TINY)


def test_rwkv_counts_what_is_one_step_older_e_to_minus_w_times():
    mixer, x = random_mixer("rwkv4"), tokens(1, 6, 3)
    with torch.no_grad():
        mixer.key.weight.zero_()
    matrix, kept = mixer.mixing_matrix(x)[0], (-mixer.decay.exp()).exp()
    for s in range(4):
        torch.testing.assert_close(matrix[:, 5, s] / matrix[:, 5, s + 1], kept, **TINY)
    torch.testing.assert_close(matrix[:, 5, 5] / matrix[:, 5, 4], mixer.bonus.exp(), **TINY)


def test_aft_of_all_kinds_agrees_where_their_positions_do():
    conv, full, local, simple = (
        random_mixer("aft", kind=kind, window=3) for kind in ("conv", "full", "local", "simple")
    )
    t, x = torch.arange(8), tokens(2, 8, 3)
    lag = (t[:, None] - t).clamp(min=0)
    with torch.no_grad():
        conv.place[:, 3:] = 0
        full.place.copy_(conv.place[0].expand(8, 8))
        local.place.copy_(conv.place[0, :3].expand(8, 3))
    for other in (full, local, simple):
        with torch.no_grad():
            for one, copied in zip(list(conv.children()), other.children(), strict=True):
                copied.weight.copy_(one.weight)
    for other in (full, local):
        torch.testing.assert_close(other(x), conv(x), **TINY)
    assert torch.equal(full._places(8).tril(), conv.place[0][lag].tril())
    with torch.no_grad():
        conv.place.zero_()
    torch.testing.assert_close(simple(x), conv(x), **TINY)


@pytest.mark.parametrize(
    ("name", "options"), [("rwkv4", {}), ("aft", {}), ("aft", {"kind": "simple"})], ids=str
)
def test_keys_of_any_size_stay_in_range_in_all_forms(name, options):
    mixer = build_mixer(name, d_model=4, context_len=6, **options).double()
    with torch.no_grad():
        mixer.key.weight.mul_(1e3)
    x = tokens(2, 9, 4)
    exact = mixer.finish(mixer.mixing_matrix(x) @ mixer.values(x), x)
    torch.testing.assert_close(mixer(x), exact, **TINY)
    mixer, x = mixer.float(), x.float().requires_grad_()
    for y in (mixer(x), stepped(mixer, x)[0]):
        torch.testing.assert_close(y.double(), exact, rtol=1e-3, atol=1e-3)
        assert torch.autograd.grad(y.square().sum(), x)[0].isfinite().all()


def test_a_synthesizer_starts_as_the_mean_and_sums_to_one_in_every_row():
    x, mixer = tokens(2, 8, 6).float(), build_mixer("synthesizer", d_model=6, context_len=8)
    mean = build_mixer("mean", d_model=6, context_len=8)
    torch.testing.assert_close(mixer(x), mixer.out(mean(mixer.value(x))))
    rows = random_mixer("synthesizer", d_model=6, n_heads=2).mixing_matrix(x)
    torch.testing.assert_close(rows.sum(-1), torch.ones(1, 2, 8).double())


def test_gmlp_starts_without_mixing_and_a_table_makes_its_gates():
    x, mixer = tokens(2, 8, 4).float(), build_mixer("gmlp", d_model=4, context_len=8)
    z, g = torch.nn.functional.gelu(mixer.up(x)).chunk(2, -1)
    torch.testing.assert_close(mixer(x), mixer.out(z), rtol=0.05, atol=0.05)
    with torch.no_grad():
        mixer.place.fill_(1.0)
        mixer.bias.zero_()
    torch.testing.assert_close(mixer(x), mixer.out(z * mixer.norm(g).cumsum(1)))


def test_wrong_kinds_and_windows_are_explained():
    for options, words in (
        ({"kind": "fast"}, "kind='fast' is not one of conv, full, local, simple"),
        ({"window": 0}, "window=0 must be 1 or more tokens, a whole number"),
    ):
        with pytest.raises(AttnlabError, match=words):
            build_mixer("aft", d_model=4, context_len=4, **options)
