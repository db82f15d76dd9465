"""Pictures of notebook 07: what they draw and what they say."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.errors import AttnlabError
from attnlab.plots import style
from attnlab.plots import translation as figures

SOURCE = ["the", "red", "bird", "near", "three", "cat"]
TARGET = ["elo", "pelo", "rubo", "apu", "milo", "milo", "milo"]
ALIGNMENT = [0, 2, 1, 3, 5, 5, 5]


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    with style():
        yield
    plt.close("all")


def test_sight_counts_the_pairs_of_each_site():
    words = figures.describe_sight(["a"] * 4, ["b"] * 5)
    assert "4 x 4 = 16 pairs" in words
    assert "5 x 6 / 2 = 15 pairs" in words
    assert "5 x 4 = 20 pairs" in words


def test_sight_draws_three_sites_and_hides_the_future_of_one():
    fig = figures.plot_sight(["a"] * 3, ["b"] * 2)
    shown = [np.ma.filled(ax.images[0].get_array(), np.nan) for ax in fig.axes]
    assert [image.shape for image in shown] == [(3, 3), (2, 2), (2, 3)]
    assert [int(np.isnan(image).sum()) for image in shown] == [0, 1, 0]


def test_links_know_what_moved_and_what_is_repeated():
    kinds = figures.link_kinds(ALIGNMENT)
    assert kinds == ["same order", "moved", "moved", *["same order"] * 2, *["repeated"] * 2]


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 9))
def test_a_sentence_in_order_has_nothing_moved(n):
    assert figures.link_kinds(range(n)) == ["same order"] * n
    if n > 1:
        assert figures.link_kinds(range(n)[::-1]) == ["moved"] * n


def test_the_alignment_says_which_words_are_gone():
    words = figures.describe_alignment(SOURCE, TARGET, alignment=ALIGNMENT, agreements=[(1, 2)])
    assert "Without a word of its own: three." in words
    assert "3 same order, 2 moved, 2 repeated" in words
    assert "'rubo', 1 places from 'pelo'" in words
    plain = figures.describe_alignment(["a"], ["b"], alignment=[0])
    assert "end like" not in plain
    assert "of its own" not in plain


def test_each_target_word_has_its_line_and_each_agreement_its_arc():
    few = figures.plot_alignment(SOURCE, TARGET, alignment=ALIGNMENT)
    more = figures.plot_alignment(SOURCE, TARGET, alignment=ALIGNMENT, agreements=[(1, 2), (1, 0)])
    drawn = [sum(len(line.get_xdata()) > 0 for line in ax.lines) for ax in (few, more)]
    assert drawn == [7, 7 + 2 * 2]  # an arc and its point
    assert "(three)" in [text.get_text() for text in few.texts]


@pytest.mark.parametrize("alignment", [[0], [0, 9], [0, -1]])
def test_places_that_do_not_fit_are_refused(alignment):
    with pytest.raises(AttnlabError, match="source word"):
        figures.plot_alignment(["a", "b"], ["c", "d"], alignment=alignment)


def test_cross_attention_frames_the_alignment_and_counts_hits():
    weights = np.array([[0.7, 0.3], [0.9, 0.1], [0.5, 0.5]])
    words = {"source": ["a", "b"], "target": ["c", "d", "<eos>"], "alignment": [0, 1]}
    ax = figures.plot_cross_attention(weights, **words)
    assert len(ax.patches) == 2
    said = figures.describe_cross_attention(weights, **words)
    assert "0.90 to 'a' while writing 'd'" in said
    assert "In 1 of 2 rows" in said
    words["alignment"] = None
    assert not figures.plot_cross_attention(weights, **words).patches
    assert "rows" not in figures.describe_cross_attention(weights, **words)


def test_hits_keep_layers_and_heads():
    weights = np.zeros((2, 3, 4, 5))
    weights[..., 1] = 1.0
    hits = figures.strongest_is_aligned(weights, alignment=[1, 0, 1])
    assert hits.shape == (2, 3, 3)
    assert hits.mean(-1) == pytest.approx(np.full((2, 3), 2 / 3))


def points():
    return pd.DataFrame(
        {
            "tokens_seen": [0, 1000, 2000],
            "accuracy": [0.0, 0.9, 1.0],
            "bleu": [0.0, 80.0, 99.0],
            "exact_match": [0.0, 0.4, 0.95],
        }
    )


def test_the_course_has_three_lines_and_says_where_they_part():
    ax = figures.plot_course(points())
    assert len(ax.lines) == 3
    assert max(line.get_ydata().max() for line in ax.lines) <= 1
    words = figures.describe_course(points())
    assert "BLEU 99.0, 95.0% of the sentences" in words
    assert "after 1,000 tokens: 90.0% of the words, BLEU 80.0, 40.0%" in words


def test_a_course_of_one_point_can_be_drawn():
    figures.plot_course(points().head(1))
    assert "At the end: 0.0%" in figures.describe_course(points().head(1))


def test_bars_of_bleu_carry_their_numbers():
    parts = {"brevity_penalty": 0.5, "score": 40.0}
    ax = figures.plot_bleu_parts([90, 80, 70, 60], **parts)
    assert [text.get_text() for text in ax.texts] == [
        "90.0",
        "80.0",
        "70.0",
        "60.0",
        "50.0",
        "40.0",
    ]
    more = figures.plot_bleu_parts([90, 80, 70, 60], exact_match=0.25, **parts)
    assert more.texts[-1].get_text() == "25.0"


def test_intervals_say_their_width_and_the_spread_of_small_sets():
    table = pd.DataFrame({"n_sentences": [100, 1000], "bleu": [75.0, 76.0], "low": [70.0, 75.0],
                          "high": [80.0, 77.5]})  # fmt: skip
    small = {100: [72.0, 79.0, 75.0]}
    figures.plot_score_intervals(table, small_sets=small)
    words = figures.describe_score_intervals(table, small_sets=small)
    assert "10.0 with 100, 2.5 with 1,000 sentences" in words
    assert "3 test sets of 100 sentences, none shared, score from 72.0 to 79.0" in words
    assert "; 3 lie inside the interval of the first 100 (crosses, drawn left of 100)." in words
    low = figures.describe_score_intervals(table, small_sets={100: [69.0, 81.0, 75.0]})
    assert "; 1 lie inside" in low
    other = figures.describe_score_intervals(table, small_sets={50: [69.0, 81.0]})
    assert "lie inside" not in other
