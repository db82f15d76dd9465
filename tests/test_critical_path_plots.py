"""Pictures of critical paths show every link, and their words say what the tables hold."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from attnlab.errors import AttnlabError
from attnlab.plots import critical_path as pictures
from attnlab.show.style import LOOKS, style

SHE = [("mul", 1, "lag_weight", 2), ("acc", 14, "lag_weight", 16_384), ("mul", 1, "gate", 2)]
SHE += [("mul", 1, "out", 2), ("acc", 7, "out", 128)]
LONG = [("mul", 1, "query", 2), ("acc", 9, "query", 512), ("max", 20, "softmax", 9)] * 2


@pytest.fixture(autouse=True)
def _closed():
    with style():
        yield
    plt.close("all")


def chain(links, mixer=None):
    table = pd.DataFrame(links, columns=["kind", "depth", "name", "n_terms"])
    return table if mixer is None else table.assign(mixer=mixer)


def texts(ax):
    return [text.get_text() for text in ax.texts]


def boxes(ax):
    return list(ax.patches)


def test_each_link_is_a_box_as_wide_as_it_is_deep():
    ax = pictures.plot_path(chain(SHE))
    ends = [box.get_bbox() for box in boxes(ax)]
    assert len(ends) == len(SHE)
    middles = [(box.x0 + box.x1) / 2 for box in ends]
    depths = np.array([depth for _, depth, *_ in SHE])
    np.testing.assert_allclose(middles, depths.cumsum() - depths / 2)
    assert "24" in texts(ax)  # 1 + 14 + 1 + 1 + 7
    assert {"mul", "acc 14", "acc 7", "lag_weight", "gate", "out"} <= set(texts(ax))


def test_two_chains_share_one_scale_and_keep_their_colours():
    ax = pictures.plot_path(pd.concat([chain(LONG, "attention"), chain(SHE, "she")]))
    shown = np.array([box.get_facecolor()[:3] for box in boxes(ax)])
    first, last = (np.array(to_rgb(LOOKS[name].colour)) for name in ("attention", "she"))
    # a multiplication is laid over white at four fifths of the colour
    np.testing.assert_allclose(shown[0], 1 - 0.8 * (1 - first))
    np.testing.assert_allclose(shown[len(LONG)], 1 - 0.8 * (1 - last))
    assert {"Attention", "SHE", "60", "24"} <= set(texts(ax))
    assert ax.get_xlim()[1] > 60


def test_a_very_deep_chain_is_not_to_scale_and_says_so():
    ax = pictures.plot_path(chain([("mul", 1, "x", 2), ("acc", 16_383, "x", 16_384)]))
    assert "logarithm" in ax.get_xlabel()
    assert "acc 16,383" in texts(ax)
    assert not len(ax.get_xticks())


def test_a_tree_and_a_row_of_additions_are_drawn_differently():
    tree = pictures.plot_path(chain([("acc", 3, "x", 8)]))
    assert len(tree.lines[0].get_xdata()) == 3 * (8 + 4 + 2)  # two ends and a gap a branch
    row = pictures.plot_path(chain([("acc", 7, "x", 8)]))
    assert len(row.lines[0].get_xdata()) == 8


def test_a_long_chain_has_one_box_a_module():
    parts = ["mixer_norm", "mixer.out", "mlp_norm", "mlp.keys"]
    names = [f"blocks.{block}.{part}" for block in range(2) for part in parts]
    links = [("mul", 1, name, 2) for name in names for _ in range(5)]
    links.append(("add", 1, "… + blocks.1.mlp.values", 2))
    ax = pictures.plot_path(chain(links, "she"))
    assert len(boxes(ax)) == len(names) + 1
    assert {"blocks.0", "blocks.1", "41"} <= set(texts(ax))
    words = pictures.describe_path(chain(links, "she"))
    assert words.startswith("SHE: 41 operations follow each other (")
    assert "mixer_norm 10" in words


@settings(deadline=None, max_examples=15)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["mul", "acc", "add", "gelu"]),
            st.integers(0, 40),
            st.sampled_from(["out", "query × key", "blocks.0.mlp.keys"]),
            st.integers(2, 50),
        ),
        max_size=12,
    )
)
def test_any_chain_can_be_drawn_and_told(links):
    ax = pictures.plot_path(chain(links))
    total = sum(depth for _, depth, *_ in links)
    assert f"{total:,}" in texts(ax)
    assert f"{total:,} operation" in pictures.describe_path(chain(links))
    plt.close("all")


def test_two_chains_are_compared_in_words():
    words = pictures.describe_path(pd.concat([chain(LONG, "attention"), chain(SHE, "she")]))
    assert "SHE: 24 operations follow each other (mul 1, acc 14, mul 1, mul 1, acc 7)." in words
    assert "The chain of SHE is 0.40 times as long as that of Attention." in words  # 24 / 60


def growth(*rows):
    return pd.DataFrame(rows, columns=["name", "context_len", "depth"])


def test_growth_has_a_line_a_program_in_its_look():
    table = growth(("she", 4, 9), ("she", 1, 7), ("me", 1, 2), ("me", 4, 4))
    ax = pictures.plot_depth_growth(table)
    assert [line.get_marker() for line in ax.lines] == ["s", "*"]
    assert ax.lines[0].get_xdata().tolist() == [1, 4]
    assert ax.get_ylim()[0] == 0
    assert "SHE from 7 at 1 to 9 at 4" in pictures.describe_depth_growth(table)


def test_growth_over_orders_of_magnitude_is_logarithmic_and_a_program_is_hollow():
    table = growth(("she", 1, 2), ("she", 512, 5000), ("she/lag loop", 512, 900))
    ax = pictures.plot_depth_growth(table)
    assert ax.get_yscale() == "log"
    assert [line.get_fillstyle() for line in ax.lines] == ["full", "none"]


def test_growth_is_drawn_from_one_row_and_without_missing_ones():
    ax = pictures.plot_depth_growth(growth(("she", 4, 9), ("me", 4, np.nan)))
    assert len(ax.lines) == 1


COSTS = pd.DataFrame(
    [("attention", 200, 48), ("she", 4248, 24), ("he", 130, 19)], columns=["name", "work", "depth"]
)


def test_a_bound_marks_the_crossing_of_more_work_and_a_shorter_chain():
    ax = pictures.plot_bound(COSTS)
    # (4248 - 200) / (48 - 24) = 168.7 workers
    assert [text for text in texts(ax) if text] == ["170 workers"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    first = ax.lines[0]
    assert first.get_ydata()[0] == 200 + 48
    words = pictures.describe_bound(COSTS)
    assert "SHE is below Attention above about 170 workers." in words
    assert "HE 130 operations, depth 19" in words


def test_curves_that_never_cross_are_said_not_to():
    table = COSTS[COSTS["name"] != "she"]
    assert not len(pictures.plot_bound(table).texts)
    assert pictures.describe_bound(table).endswith("No two curves cross.")


def test_a_missing_column_is_named():
    with pytest.raises(AttnlabError, match=r"'name'.*Path\.table\(\)"):
        pictures.plot_path(pd.DataFrame({"kind": ["mul"], "depth": [1]}))
    with pytest.raises(AttnlabError, match="'work'"):
        pictures.plot_bound(growth(("she", 1, 2)))
