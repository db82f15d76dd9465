"""Chains are drawn link by link, and their words say what the tables hold."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from attnlab.show import LOOKS
from attnlab.show.chains import longest_chains

SHE = [("mul", 1, "lag_weight", 2), ("acc", 14, "lag_weight", 16_384), ("mul", 1, "gate", 2)]
SHE += [("mul", 1, "out", 2), ("acc", 7, "out", 128)]
LONG = [("mul", 1, "query", 2), ("acc", 9, "query", 512), ("max", 20, "softmax", 9)] * 2
LINK = st.tuples(
    st.sampled_from(["mul", "acc", "add", "gelu"]),
    st.integers(0, 40),
    st.sampled_from(["out", "query × key", "softmax, constant"]),
    st.integers(2, 50),
)


def chain(links, mixer="she"):
    table = pd.DataFrame(links, columns=["kind", "depth", "name", "n_terms"])
    return table.assign(mixer=mixer)


def texts(one):
    return [text.get_text() for text in one.ax.texts]


def test_each_link_is_a_box_as_wide_as_it_is_deep():
    one = longest_chains(chain(SHE))
    ends = [box.get_bbox() for box in one.ax.patches]
    middles = [(box.x0 + box.x1) / 2 for box in ends]
    depths = np.array([depth for _, depth, *_ in SHE])
    np.testing.assert_allclose(middles, depths.cumsum() - depths / 2)
    # 24 = 1 + 14 + 1 + 1 + 7
    assert {"24", "mul", "acc 14", "acc 7", "extraction", "gate", "out"} <= set(texts(one))


def test_two_chains_share_one_scale_keep_their_colours_and_are_compared():
    one = longest_chains(pd.concat([chain(LONG, "attention"), chain(SHE)]))
    shown = np.array([box.get_facecolor()[:3] for box in one.ax.patches])
    first, last = (np.array(to_rgb(LOOKS[name].colour)) for name in ("attention", "she"))
    # a multiplication is laid over white at four fifths of the colour
    np.testing.assert_allclose(shown[0], 1 - 0.8 * (1 - first))
    np.testing.assert_allclose(shown[len(LONG)], 1 - 0.8 * (1 - last))
    assert {"Attention", "SHE", "60", "24"} <= set(texts(one))
    assert one.ax.get_xlim()[1] > 60
    assert one.words.startswith("Attention: 60 operations follow each other (mul 1, acc 9, max 20")
    assert one.words.endswith("The chain of SHE is 0.40 times as long as that of Attention.")


def test_a_very_deep_chain_is_not_to_scale_and_says_so():
    one = longest_chains(chain([("mul", 1, "x", 2), ("acc", 16_383, "x", 16_384)]))
    assert "logarithm" in one.ax.get_xlabel()
    assert "acc 16,383" in texts(one)
    assert not len(one.ax.get_xticks())


def test_a_tree_and_a_row_of_additions_are_drawn_differently():
    tree, row = (longest_chains(chain([("acc", depth, "x", 8)])) for depth in (3, 7))
    assert len(tree.ax.lines[0].get_xdata()) == 3 * (8 + 4 + 2)  # two ends and a gap a branch
    assert len(row.ax.lines[0].get_xdata()) == 8


@given(st.lists(LINK, max_size=12))
def test_any_chain_can_be_drawn_and_told(links):
    one = longest_chains(chain([("mul", 1, "x", 2), *links]))
    total = 1 + sum(depth for _, depth, *_ in links)
    assert f"{total:,}" in texts(one)
    assert f"{total:,} operations" in one.words
