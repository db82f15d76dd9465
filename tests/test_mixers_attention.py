"""Positions and windows of attention: what each option says of two positions."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensors import assert_same, randomised, stepped, tokens

from attnlab.errors import AttnlabError
from attnlab.mixers import build_mixer
from attnlab.mixers.attention import rotated, rotated_naive

TINY = {"rtol": 1e-9, "atol": 1e-10}
widths = st.integers(1, 7)


def attention(*, seed=0, d_model=6, context_len=9, n_heads=2, name="attention", **options):
    sizes = {"d_model": d_model, "context_len": context_len, "n_heads": n_heads}
    return randomised(build_mixer(name, **sizes, **options), seed)


def test_alibi_with_slope_zero_and_a_window_as_long_as_the_text_is_attention():
    plain = attention()
    flat = attention(position="alibi", slope=0.0, window=9)
    x = tokens(2, 9, 6).requires_grad_()
    assert_same(plain(x), flat(x), [x])
    for one, other in zip(plain.parameters(), flat.parameters(), strict=True):
        assert torch.equal(one, other)
    x, steep = tokens(2, 9, 6), attention(position="alibi", slope=1e6)
    torch.testing.assert_close(steep(x), plain.out(plain.value(x)), **TINY)  # sees itself alone


@given(d_head=widths, seed=st.integers(0, 99))
def test_alibi_takes_a_line_from_the_scores_of_each_head(d_head, seed):
    mixer, x = attention(d_model=2 * d_head, position="alibi", seed=seed), tokens(1, 7, 2 * d_head)
    plain = attention(d_model=2 * d_head, seed=seed)
    ratio = (mixer.attention_weights(x) / plain.attention_weights(x)).log()[0]
    for head, slope in enumerate((2**-4, 2**-8)):
        for t, s in itertools.combinations_with_replacement(range(6, -1, -1), 2):
            fell = ratio[head, t, s] - ratio[head, t, t]
            torch.testing.assert_close(fell, torch.tensor(-slope * (t - s)).double(), **TINY)


@given(width=widths, shift=st.integers(0, 1000), seed=st.integers(0, 99))
def test_rotary_scores_depend_on_the_distance_alone_and_keep_lengths(width, shift, seed):
    q, k = tokens(2, 5, width, seed=seed), tokens(2, 5, width, seed=seed + 1)
    here = rotated(q) @ rotated(k).mT
    there = rotated(q, first=shift) @ rotated(k, first=shift).mT
    torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rotated(q, first=shift).norm(dim=-1), q.norm(dim=-1))
    loop = torch.stack([rotated_naive(q[:, t], t + shift) for t in range(5)], 1)
    torch.testing.assert_close(rotated(q, first=shift), loop, **TINY)
    if width > 1:
        assert not torch.allclose(here, q @ k.mT)


def test_rotary_turns_the_first_pair_by_one_radian_a_position_and_leaves_an_odd_last_channel():
    x = torch.tensor([[1.0, 0.0, 5.0]] * 3, dtype=torch.float64)
    t = torch.arange(3.0, dtype=torch.float64)
    wanted = torch.stack([t.cos(), t.sin(), torch.full_like(t, 5.0)], 1)
    torch.testing.assert_close(rotated(x), wanted)


@given(d_head=widths, context_len=st.integers(1, 9), window=st.integers(1, 12))
def test_a_window_is_a_naive_mask_and_one_as_long_as_the_context_changes_nothing(
    d_head, context_len, window
):
    sizes = {"d_model": 2 * d_head, "context_len": context_len}
    plain, banded = attention(**sizes), attention(**sizes, window=window)
    x = tokens(2, 8, 2 * d_head)
    weights = banded.attention_weights(x)
    all_pairs = attention(d_model=2 * d_head, context_len=8).attention_weights(x)
    lag = torch.arange(8)[:, None] - torch.arange(8)
    seen = all_pairs * (lag < min(window, context_len))
    torch.testing.assert_close(weights, seen / seen.sum(-1, keepdim=True), **TINY)
    if window >= context_len:
        torch.testing.assert_close(banded(x), plain(x), **TINY)
    assert banded.reach == min(window, context_len)


@pytest.mark.parametrize("position", ["rotary", "alibi"])
@pytest.mark.parametrize("window", [None, 3])
def test_streams_far_beyond_the_context_stay_right(position, window):
    mixer, x = attention(context_len=5, position=position, window=window), tokens(2, 33, 6)
    first, state = mixer.prefill(x[:, :7])
    second, state = stepped(mixer, x[:, 7:20], state)
    third, _ = mixer.prefill(x[:, 20:], state)
    torch.testing.assert_close(torch.cat([first, second, third], 1), mixer(x), **TINY)
    torch.testing.assert_close(mixer(x[:, 9:])[:, 4:], mixer(x)[:, 13:], **TINY)


def test_rotary_in_single_precision_stays_right_after_a_million_tokens():
    x = tokens(1, 4, 6)
    scores = rotated(x, first=10**6) @ rotated(x, first=10**6).mT
    rounded = rotated(x.float(), first=10**6) @ rotated(x.float(), first=10**6).mT
    torch.testing.assert_close(rounded.double(), scores, rtol=1e-5, atol=1e-5)


def test_presets_are_attention_with_that_option_and_say_what_they_cost_in_a_window():
    x = tokens(2, 40, 6)
    for name, option in (
        ("rotary_attention", {"position": "rotary"}),
        ("alibi_attention", {"position": "alibi"}),
        ("window_attention", {"window": 16}),
    ):
        preset, plain = attention(name=name, context_len=32), attention(context_len=32, **option)
        torch.testing.assert_close(preset(x), plain(x), **TINY)
    assert preset.expected_state(6, 32, 2) == 2 * 16 * 6
    pairs, all_pairs = 16 * 17 // 2 + 24 * 16, 40 * 41 // 2
    wanted = 4 * 40 * 36 + 2 * pairs * 6 + pairs * 2
    assert preset.expected_multiplications(6, 40, all_pairs, 2) == wanted


def test_wrong_positions_and_windows_are_explained():
    for options, words in (
        ({"position": "rotry"}, "position='rotry' is not one of none, rotary, alibi"),
        ({"window": 0}, "window=0 must be 1 or more"),
    ):
        with pytest.raises(AttnlabError, match=words):
            attention(**options)
