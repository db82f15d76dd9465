"""Pictures of the Extractor say what the arrays hold, and their closed forms are right."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.errors import AttnlabError
from attnlab.mixers import build_mixer
from attnlab.mixers.convolution import causal_convolution
from attnlab.plots import extractor as pictures
from attnlab.plots import extractor_diagrams as diagrams
from attnlab.show.style import style


@pytest.fixture(autouse=True)
def _closed():
    with style():
        yield
    plt.close("all")


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@given(
    n_tokens=st.integers(1, 7),
    width=st.integers(1, 3),
    n_lags=st.integers(1, 7),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_the_big_matrix_is_the_causal_convolution(n_tokens, width, n_lags, seed):
    x, weight = numbers(n_tokens, width, seed=seed), numbers(n_lags, width, width, seed=seed + 1)
    e = x.ravel() @ pictures.block_toeplitz(weight, n_tokens=n_tokens)
    wanted = causal_convolution(torch.from_numpy(x)[None], torch.from_numpy(weight), method="lags")
    np.testing.assert_allclose(e.reshape(x.shape), wanted[0].numpy(), atol=1e-12)


def test_the_big_matrix_of_the_absolute_index_is_the_mixer():
    sizes = {"d_model": 3, "context_len": 5}
    mixer = build_mixer("she", index="absolute", adjust="none", out_proj=False, **sizes).double()
    x = numbers(5, 3)
    weight = mixer.lag_weight.detach().numpy()
    e = x.ravel() @ pictures.block_toeplitz(weight, n_tokens=5, index="absolute")
    y = mixer(torch.from_numpy(x)[None])[0].detach().numpy()
    np.testing.assert_allclose(e.reshape(5, 3), y, atol=1e-12)


def test_blocks_repeat_along_diagonals_for_lags_and_along_rows_for_places():
    lag, absolute = (pictures.index_map(5, index=index) for index in ("lag", "absolute"))
    assert lag[1, 3] == lag[0, 2] == 2
    assert absolute[1, 3] == absolute[1, 4] == 1
    assert lag[3, 1] == absolute[3, 1] == -1


def test_an_unknown_index_or_a_flat_weight_is_refused():
    with pytest.raises(AttnlabError, match="lag, absolute"):
        pictures.index_map(3, index="relative")
    with pytest.raises(AttnlabError, match=r"\(context_len, d, d\)"):
        pictures.block_toeplitz(numbers(3, 2), n_tokens=3)


def test_the_picture_of_the_matrix_has_a_line_between_tokens_and_counts_blocks():
    weight = numbers(4, 2, 2)
    ax = pictures.plot_block_toeplitz(weight, n_tokens=5)
    assert len(ax.lines) == 2 * 4
    words = pictures.describe_block_toeplitz(weight, n_tokens=5)
    # 5 + 4 + 3 + 2 pairs have lags 0 to 3; lag 4 has no matrix
    assert "more than 3 tokens back" in words
    assert "14 blocks are filled from 4 different matrices" in words


def test_index_maps_are_drawn_and_described():
    assert len(pictures.draw_index_maps(n_tokens=4).axes) == 2
    assert "4 matrices" in pictures.describe_index_maps(n_tokens=4)


def test_growth_has_measured_lines_with_markers_and_closed_forms_without():
    sizes = {"measured": [1.0, 1.5, 1.7], "closed form": [1.0, 2**0.5, 3**0.5]}
    ax = pictures.plot_growth(sizes)
    assert [line.get_marker() for line in ax.lines] == ["s", "None"]
    assert pictures.describe_growth(sizes).count(" at t = ") == 2


def ablation_table():
    rows = [("identity", "neither", 2.0), ("she", "both", 1.0)]
    return pd.DataFrame(
        [
            {"variant": v, "label": name, "seed": seed, "loss_nats": loss + seed / 10}
            for v, name, loss in rows
            for seed in (0, 1, 2)
        ]
    )


def test_an_ablation_shows_each_seed_and_says_the_range():
    table, floors = ablation_table(), {"true source": 0.5}
    ax = pictures.plot_ablation(table, floors=floors)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["neither", "both"]
    points = [line for line in ax.lines if line.get_linestyle() == "None"]
    assert [len(line.get_xdata()) for line in points] == [3, 3]
    words = pictures.describe_ablation(table, floors=floors)
    assert "3 seeds" in words
    assert "both 1.000 to 1.200" in words
    assert "true source: 0.500" in words


def test_rows_beyond_the_cut_are_an_arrow_with_their_numbers():
    ax = pictures.plot_ablation(ablation_table(), floors={"true source": 0.5}, cut=1.5)
    assert ax.get_xlim()[1] == 1.5
    points = [line for line in ax.lines if line.get_linestyle() == "None"]
    assert [len(line.get_xdata()) for line in points] == [3]
    assert "2.000 to 2.200" in [text.get_text() for text in ax.texts]


def test_an_ablation_of_one_seed_says_so():
    table = ablation_table().query("seed == 0")
    pictures.plot_ablation(table)
    assert "1 seed:" in pictures.describe_ablation(table)


KERNELS = {"she": [numbers(6, 3, 3), numbers(6, 3, 3, seed=1)], "we": [numbers(6, 3)]}


@pytest.mark.parametrize("mixer", ["she", "we"])
def test_a_kernel_view_names_the_lag_that_weighs_most(mixer):
    kernels = {name: [layer.copy() for layer in layers] for name, layers in KERNELS.items()}
    kernels[mixer][0][4] = 9.0
    fig = pictures.draw_lag_kernel_view(kernels, mixer=mixer, layer=1, channel=2)
    heights = [bar.get_height() for bar in fig.axes[0].patches]
    assert np.argmax(heights) == 4
    words = pictures.describe_lag_kernel_view(kernels, mixer=mixer, layer=1, channel=2)
    assert "lag 4 weighs most (9.000)" in words
    assert "Channel 2: lag 4" in words


def test_a_kernel_view_counts_lags_that_grew_shrank_or_stayed():
    # start size 1 / sqrt(5) of five lags; twice it, half of it, and within a tenth of it
    weight = np.array([2, 2, 0.5, 1.05, 0.95])[:, None] * np.full((5, 3), 5**-0.5)
    words = pictures.describe_lag_kernel_view({"we": [weight]}, mixer="we", layer=1, channel=1)
    assert "2 lags are more than a tenth larger, 1 more than a tenth smaller, 2 about" in words


def test_a_layer_that_a_model_lacks_is_its_last():
    assert np.array_equal(
        pictures.pick_kernel(KERNELS, mixer="we", layer=2), KERNELS["we"][0].astype(float)
    )


@pytest.mark.parametrize("name", ["she", "he", "we", "me"])
def test_the_dotted_line_is_the_size_that_weights_start_with(name):
    mixer = build_mixer(name, d_model=31, context_len=101)
    weight = mixer.lag_weight.detach().numpy()
    assert np.sqrt((weight**2).mean()) == pytest.approx(pictures.start_size(weight), rel=0.1)


@pytest.mark.parametrize(
    ("name", "extract", "finish"),
    [
        ("she", "matrix", "matrix+out"),
        ("he", "value_diag", "matrix+out"),
        ("we", "diag", "matrix"),
        ("me", "diag", "diag"),
    ],
)
def test_parts_add_up_to_the_weights_of_the_real_mixer(name, extract, finish):
    sizes = {"d_model": 7, "context_len": 5}
    parts = diagrams.part_weights(extract=extract, finish=finish, **sizes)
    mixer = build_mixer(name, **sizes)
    assert sum(parts.values()) == sum(p.numel() for p in mixer.parameters())
    words = diagrams.describe_member(extract=extract, finish=finish, **sizes)
    assert words.startswith(f"{name.upper()}:")
    assert f"together {sum(parts.values()):,}" in words


def test_the_newest_token_alone_has_one_matrix():
    parts = diagrams.part_weights(extract="newest", finish="none", d_model=7, context_len=5)
    assert parts == {"extraction": 49, "adjustment": 0, "output map": 0}


@pytest.mark.parametrize("extract", diagrams.EXTRACTIONS)
@pytest.mark.parametrize("finish", diagrams.FINISHES)
def test_every_member_can_be_drawn(extract, finish):
    fig = diagrams.draw_member(extract=extract, finish=finish, d_model=8, context_len=4)
    shown = [text.get_text() for text in fig.axes[0].texts]
    assert ("not seen" in shown) == (extract == "newest")
    assert ("no gate" in shown) == (finish in ("out", "none"))


def test_an_unknown_part_is_refused():
    with pytest.raises(AttnlabError, match="'convolution'"):
        diagrams.part_weights(extract="convolution", finish="none", d_model=2, context_len=2)


def test_the_two_sublayers_stand_side_by_side():
    left, right = diagrams.draw_sublayers().axes
    assert any("softmax" in text.get_text() for text in left.texts)
    assert not any("softmax" in text.get_text() for text in right.texts)
    assert "softmax" in diagrams.describe_sublayers()
