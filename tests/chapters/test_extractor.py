"""Chapter 03: pictures say what the arrays hold, closed forms are right, judges name mistakes."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from chapter_tests import ChapterTests
from hypothesis import given
from hypothesis import strategies as st

from attnlab.chapters.extractor import checks, pictures
from attnlab.mixers import build_mixer
from attnlab.mixers.convolution import causal_convolution
from attnlab.teach import CheckFailed


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


KERNELS = {"she": [numbers(6, 3, 3), numbers(6, 3, 3, seed=1)], "we": [numbers(6, 3)]}
VARIANTS = pd.DataFrame(
    [(v, label, seed, loss + seed / 10) for v, label, loss in
     (("identity", "neither", 2.0), ("she", "both", 1.0)) for seed in (0, 1, 2)],
    columns=["variant", "label", "seed", "loss_nats"],
)  # fmt: skip
FLOORS = {"true source": 0.5}
MEMBERS = {name.lower(): parts for parts, name in pictures.MEMBERS.items() if len(name) < 4}


def draw_kernel(kernels=KERNELS, *, mixer="she", layer=1, channel=2):
    return pictures.kernel(kernels, mixer=mixer, layer=layer, channel=channel)


class TestChapter(ChapterTests):
    SLUG = "extractor"
    PICTURES = {  # noqa: RUF012
        "block_toeplitz": (
            lambda: pictures.block_toeplitz(numbers(4, 2, 2), n_tokens=5),
            # 5 + 4 + 3 + 2 pairs have lags 0 to 3; lag 4 has no matrix
            "more than 3 tokens back; 14 blocks are filled from 4 different matrices",
        ),
        "index_maps": (lambda: pictures.index_maps(n_tokens=4), "Both use 4 matrices"),
        "growth": (
            lambda: pictures.growth(weights="same", shared=0.5, scale="none"),
            "One matrix for all lags, shared part 0.5, factor none. Size of the extraction",
        ),
        "sublayers": (pictures.sublayers, "Only attention's mixing weights depend on"),
        "member": (
            lambda: pictures.member(extract="newest", finish="none", d_model=7, context_len=5),
            "sees the newest token alone and is linear in the input. Weights at width 7: "
            "extraction 49, adjustment 0, output map 0; together 49, 0.25 times attention's 196.",
        ),
        "ablation": (
            lambda: pictures.ablation(VARIANTS, floors=FLOORS),
            "3 seeds: neither 2.000 to 2.200; both 1.000 to 1.200. true source: 0.500.",
        ),
        "ablation/one seed": (
            lambda: pictures.ablation(VARIANTS.query("seed == 0"), floors=FLOORS),
            "over 1 seed: neither 2.000 to 2.000",
        ),
        "kernel": (draw_kernel, "SHE, layer 1: lag"),
    }
    PANELS = {  # noqa: RUF012
        "growth": lambda: (pictures.growth, pictures.GROWTH_DIALS),
        "member": lambda: (pictures.member, pictures.MEMBER_DIALS),
        "kernel": lambda: (partial(pictures.kernel, KERNELS), pictures.kernel_dials(KERNELS)),
    }


@given(*(st.integers(1, most) for most in (7, 3, 7, 99)))
def test_the_big_matrix_is_the_causal_convolution(n_tokens, width, n_lags, seed):
    x, weight = numbers(n_tokens, width, seed=seed), numbers(n_lags, width, width, seed=seed + 1)
    M = pictures.block_matrix(weight, pictures.index_map(n_tokens, index="lag"))
    wanted = causal_convolution(torch.from_numpy(x)[None], torch.from_numpy(weight), method="lags")
    np.testing.assert_allclose((x.ravel() @ M).reshape(x.shape), wanted[0].numpy(), atol=1e-12)


def test_the_big_matrix_of_the_absolute_index_is_the_mixer():
    sizes = {"d_model": 3, "context_len": 5}
    mixer = build_mixer("she", index="absolute", adjust="none", out_proj=False, **sizes).double()
    x, which = numbers(5, 3), pictures.index_map(5, index="absolute")
    e = x.ravel() @ pictures.block_matrix(mixer.lag_weight.detach().numpy(), which)
    y = mixer(torch.from_numpy(x)[None])[0].detach().numpy()
    np.testing.assert_allclose(e.reshape(5, 3), y, atol=1e-12)


def test_lines_stand_between_tokens_and_their_names_in_the_middle():
    ax = pictures.block_toeplitz(numbers(4, 2, 2), n_tokens=3).ax
    assert [line.get_xdata()[0] for line in ax.lines[:2]] == [2, 4]
    assert ax.get_yticks().tolist() == [1, 3, 5]


@pytest.mark.parametrize("weights", ["own", "same"])
@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_measured_growth_follows_the_closed_form(weights, shared):
    t = np.arange(1, pictures.LONGEST + 1)
    expected = pictures.expected_growth(t, weights=weights, shared=shared)
    # 32 sequences of width 16: a mean square of about 512 values, each off by sqrt(2 / 512);
    # shared inputs leave 16 independent values a lag
    ratio = pictures.measured_growth(weights=weights, shared=shared) / expected
    assert abs(ratio.mean() - 1) < 0.15


def test_only_the_answer_names_the_factor_that_would_keep_the_size():
    for weights, shared, factor in (
        ("own", 1.0, "1/√t"),
        ("same", 0.0, "1/√t"),
        ("same", 0.5, "1/t"),
    ):
        setting = {"weights": weights, "shared": shared, "scale": "none"}
        answer = f" In the long run {factor} would keep the size."
        one = pictures.growth(**setting, has_answer=True)
        assert one.words == pictures.growth(**setting).words + answer


def test_the_factor_multiplies_both_lines():
    plain, scaled = (
        pictures.growth(weights="own", shared=0.0, scale=s).ax for s in ("none", "1/t")
    )
    for before, after in zip(plain.lines, scaled.lines, strict=True):
        np.testing.assert_allclose(after.get_ydata(), before.get_ydata() / before.get_xdata())


@pytest.mark.parametrize("name", MEMBERS)
def test_parts_add_up_to_the_weights_of_the_real_mixer(name):
    (extract, finish), sizes = MEMBERS[name], {"d_model": 7, "context_len": 5}
    n_weights = sum(p.numel() for p in build_mixer(name, **sizes).parameters())
    words = pictures.member(extract=extract, finish=finish, **sizes).words
    assert words.startswith(f"{name.upper()}:")
    assert f"together {n_weights:,}" in words


@pytest.mark.parametrize("extract", pictures.EXTRACTIONS)
@pytest.mark.parametrize("finish", pictures.FINISHES)
def test_what_a_member_lacks_is_written_in_its_diagram(extract, finish):
    one = pictures.member(extract=extract, finish=finish, d_model=8, context_len=4)
    shown = [text.get_text() for text in one.ax.texts]
    assert ("not seen" in shown) == (extract == "newest")
    assert ("no gate" in shown) == (finish in ("out", "none"))
    assert ("$y_t = a_t$" in shown) == (not finish.endswith("out"))


def test_rows_beyond_the_cut_are_an_arrow_with_their_numbers():
    ax = pictures.ablation(VARIANTS, floors=FLOORS, cut=1.5).ax
    assert ax.get_xlim()[1] == 1.5
    points = [line for line in ax.lines if line.get_linestyle() == "None"]
    np.testing.assert_allclose(points[0].get_xdata(), [1.0, 1.1, 1.2])
    assert len(points) == 1
    assert "2.000 to 2.200" in [text.get_text() for text in ax.texts]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["neither", "both"]


@pytest.mark.parametrize("mixer", KERNELS)
def test_a_kernel_names_the_lag_that_weighs_most(mixer):
    kernels = {name: [layer.copy() for layer in layers] for name, layers in KERNELS.items()}
    kernels[mixer][0][4] = 9.0
    one = draw_kernel(kernels, mixer=mixer)
    assert one.ax.patches[0].get_data().values.argmax() == 4
    assert "lag 4 weighs most (9.000)" in one.words
    assert "Channel 2: lag 4" in one.words


def test_a_kernel_counts_lags_that_grew_shrank_or_stayed():
    # start size 1 / sqrt(5) of five lags; twice it, half of it, and within a tenth of it
    weight = np.array([2, 2, 0.5, 1.05, 0.95])[:, None] * np.full((5, 3), 5**-0.5)
    words = draw_kernel({"we": [weight]}, mixer="we").words
    assert "2 lags are more than a tenth larger, 1 more than a tenth smaller, 2 about" in words


def test_a_layer_that_a_model_lacks_is_its_last():
    first, second = (draw_kernel(mixer="we", layer=layer).words for layer in (1, 2))
    assert second == first.replace("layer 1", "layer 2")


@pytest.mark.parametrize("name", MEMBERS)
def test_the_dotted_line_is_the_size_that_weights_start_with(name):
    weight = build_mixer(name, d_model=31, context_len=101).lag_weight.detach().numpy()
    dotted = draw_kernel({name: [weight]}, mixer=name).ax.lines[0].get_ydata()[0]
    assert np.sqrt((weight**2).mean()) == pytest.approx(dotted, rel=0.1)


def test_the_right_answers_are_the_library_and_the_page():
    mixer = build_mixer("she", d_model=3, context_len=4).double()
    x = torch.from_numpy(numbers(7, 3))
    y = checks.she(x, mixer.lag_weight, mixer.adjust.weight.T, mixer.out.weight.T)
    torch.testing.assert_close(mixer(x[None])[0], y)
    # extraction (4, 3), gate (1, 3), product (4, 9), output (4 + 9, 9)
    x, W, W_adj, W_out = checks.page_numbers()
    assert checks.extract(x, W)[2].tolist() == [4, 3]
    assert checks.she(x, W, W_adj, W_out)[2].tolist() == [13, 9]


def test_the_sublayer_to_build_is_norm_mixer_and_residual_sum():
    sublayer, mixer = checks.sublayer_of()(3, 4), build_mixer("she", d_model=3, context_len=4)
    parts = {name: w for name, w in sublayer.state_dict().items() if "norm" not in name}
    mixer.load_state_dict(parts)
    x = torch.from_numpy(numbers(7, 3)).float()[None]
    torch.testing.assert_close(sublayer(x), x + mixer(sublayer.norm(x)))


def past_the_end(x, W):
    return torch.stack([sum(x[t - j] @ W[j] for j in range(t + 1)) for t in range(len(x))])


def unequal(x, W):
    pairs = [zip(x[: t + 1].flip(0), W[: t + 1], strict=True) for t in range(len(x))]
    return torch.stack([sum(a @ b for a, b in each) for each in pairs])


@pytest.mark.parametrize("breaks", [past_the_end, unequal])
def test_lags_that_run_out_get_their_sentence(breaks):
    with pytest.raises(CheckFailed, match=r"has min\(t \+ 1, l\) lags"):
        checks.check_extract(breaks)
    with pytest.raises(CheckFailed, match=r"has min\(t \+ 1, l\) lags"):
        checks.check_she(checks.she_of(breaks))


def test_another_breakdown_keeps_its_own_words():
    with pytest.raises(CheckFailed, match="IndexError") as failure:
        checks.check_extract(lambda x, W: x[len(x)])
    assert "lags" not in str(failure.value)
