"""Chapter 02: what its pictures draw and say, hand-built heads and masks, lists to recall."""

from fractions import Fraction
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from chapter_tests import ChapterTests
from hypothesis import given
from hypothesis import strategies as st

from attnlab.chapters.attention import checks, live, pictures
from attnlab.errors import AttnlabError
from attnlab.mixers import build_mixer
from attnlab.seeding import numpy_generator
from attnlab.show import choice

PAPER = np.array([[1, 0, 0], [1 / 3, 2 / 3, 0], [1 / 4, 1 / 4, 1 / 2]])
# rows: log 1, the entropy of (1/3, 2/3) and that of (1/4, 1/4, 1/2)
PAPER_ENTROPY = (0.0 + np.log(3) - 2 / 3 * np.log(2) + 1.5 * np.log(2)) / 3
SONG = pictures.SENTENCES["the song"]
ENTROPIES = pd.DataFrame(
    [("1", 2, 3.0), ("1", 8, 1.0), ("1/sqrt(d_h)", 2, 3.0), ("1/sqrt(d_h)", 8, 3.0)],
    columns=["scale", "d_head", "entropy_nats"],
)
GROWTH = pd.DataFrame(
    [(part, t, t**power) for part, power in (("maps", 1), ("pairs", 2)) for t in (3, 6, 12)],
    columns=["part", "time", "n_multiplications"],
)
CURVES = pd.DataFrame(
    [("attention", seed, 9, 0.0) for seed in (0, 1)] + [("mean", seed, 9, 1.9) for seed in (0, 1)],
    columns=["name", "seed", "tokens_seen", "loss_nats"],
)
recall = partial(pictures.recall, CURVES, bag_floor_nats=1.5567)
entropy_by_width = partial(pictures.entropy_by_width, ENTROPIES, n_keys=7)
temperatures = st.floats(0.05, 2)


def answer(angle, temperature):
    return pictures.look_up(angle=angle, temperature=temperature)[1]


class TestChapter(ChapterTests):
    SLUG = "attention"
    PICTURES = {  # noqa: RUF012
        "attention_weights": (
            partial(pictures.attention_weights, PAPER, words=["a", "b", "c"]),
            "'b' (position 2) gives 'a' (position 1) the weight 0.33. Mean entropy of a row: "
            f"{PAPER_ENTROPY:.2f} nats"),
        "attention_weights/one token": (
            partial(pictures.attention_weights, [[1.0]]), "Nobody looks back"),
        "entropy_by_width": (
            entropy_by_width,
            "At head width 8: 1.00 nats with scale 1, 3.00 nats with scale 1/sqrt(d_h); equal "
            f"weights would have {np.log(7):.2f}"),
        "cost_growth": (
            partial(pictures.cost_growth, GROWTH, crossover=4.6),
            "maps 2.00 times for 2 times the length; pairs 4.00 times for 2 times the length. The "
            "parts are equal at T = 5"),
        "recall": (
            recall,
            "Attention 0.000, Causal mean 1.900; bag floor 1.557. Well below the floor: Attention. "
            "Bands: range over 2 seeds"),
        "lookup": (
            partial(pictures.lookup, angle=0, temperature=0.05),
            "east weighs most, 1.00; the answer is 10.0"),
        "head": (
            partial(pictures.head, head="who?", sentence=SONG, temperature=1.0),
            "The row of 'she' gives 'Mia' 0.48 and 'Tom' 0.48."),
        "leak": (
            partial(pictures.leak, mask="after", edited=3),
            "Mask after the softmax. Input 3 was edited; 2 of 2 earlier outputs moved, the most"),
        "leak/first": (
            partial(pictures.leak, mask="none", edited=1),
            "No mask. Input 1 was edited; no output comes before it."),
    }  # fmt: skip
    PANELS = {  # noqa: RUF012
        "lookup": lambda: (pictures.lookup, pictures.LOOKUP_DIALS),
        "head": lambda: (pictures.head, pictures.HEAD_DIALS),
        "leak": lambda: (pictures.leak, {
            "mask": choice("Mask", options=pictures.MASKS, value="before"),
            "edited": ("Edited token", 4, 1, pictures.N_LEAK_TOKENS, "Position"),
        }),
    }  # fmt: skip


def test_the_hidden_future_stays_white_and_a_leak_is_drawn():
    def white(weights):
        cells = pictures.attention_weights(weights).ax.collections[0].get_array()
        return np.ma.getmaskarray(cells).reshape(3, 3)

    np.testing.assert_array_equal(white(PAPER), np.triu(np.ones((3, 3)), 1))
    assert not white(np.full((3, 3), 1 / 3)).any()


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 3, 3), (0, 0)])
def test_weights_that_are_not_square_are_refused(shape):
    with pytest.raises(AttnlabError, match=r"\(time, time\)"):
        pictures.attention_weights(np.ones(shape))


def test_a_map_of_few_tokens_is_small():
    heights = [pictures.attention_weights(np.eye(n)).size[1] for n in (1, 3, 5, 9)]
    assert heights == sorted(heights)
    assert heights[1] < 0.75 * heights[2]


def test_lines_differ_by_more_than_colour_and_say_their_scale_as_the_page_does():
    lines = entropy_by_width().ax.lines
    assert len({line.get_linestyle() for line in lines}) == 3
    labels = [line.get_label() for line in lines]
    assert labels == ["Scale $1$", r"Scale $1/\sqrt{d_h}$", "Equal weights: log 7"]


def test_recall_is_drawn_between_the_bag_floor_and_knowing():
    ax = recall().ax
    levels = {line.get_label(): line.get_ydata()[0] for line in ax.lines}
    assert levels["Bag floor"] == 1.5567
    assert levels["Knowing the answer"] == 0
    assert "per question" in ax.get_ylabel()


@given(st.floats(-90, 180), temperatures)
def test_a_soft_answer_lies_among_the_stored_values(angle, temperature):
    weights, answer = pictures.look_up(angle=angle, temperature=temperature)
    assert weights.sum() == pytest.approx(1)
    assert 10 - 1e-9 <= answer <= 40 + 1e-9


@pytest.mark.parametrize(("temperature", "best", "gain"), [(0.5, -19, 0.315), (2, -3, 0.005)])
def test_a_little_south_of_east_the_answer_is_lowest(temperature, best, gain):
    answers = {angle: answer(angle, temperature) for angle in range(-90, 181)}
    assert min(answers, key=answers.get) == best
    assert answers[0] - answers[best] == pytest.approx(gain, abs=5e-4)


def test_a_cold_look_up_is_a_dictionary_and_a_warm_one_a_mixture():
    for place, value in pictures.COMPASS.values():
        assert answer(place, 0.05) == pytest.approx(value, abs=1e-4)
    parts = np.exp([0.5, 0, -0.5])  # east, north, west at temperature 2, seen from east
    assert answer(0, 2) == pytest.approx(parts @ [10, 20, 40] / parts.sum())


@given(st.integers(1, 7), st.integers(0, 99))
def test_only_the_mask_before_the_softmax_is_causal_and_sums_to_one(n_tokens, seed):
    scores = np.random.default_rng(seed).normal(size=(n_tokens, n_tokens))
    weights = pictures.causal_weights(scores)
    np.testing.assert_allclose(weights.sum(1), 1)
    assert not np.triu(weights, 1).any()
    after = pictures.causal_weights(scores, mask="after")
    assert not np.triu(after, 1).any()
    assert (after[:-1].sum(1) < 1).all()


@pytest.mark.parametrize("edited", range(2, pictures.N_LEAK_TOKENS + 1))
@pytest.mark.parametrize(("mask", "leaks"), [("none", True), ("after", True), ("before", False)])
def test_the_future_leaks_unless_scores_are_masked(mask, leaks, edited):
    past = pictures.output_changes(mask=mask, edited=edited)[: edited - 1]
    assert (past > 1e-9).all() if leaks else not past.any()
    words = pictures.leak(mask=mask, edited=edited).words
    assert ("The future leaks" in words) == leaks == ("Nothing leaks" not in words)


@pytest.mark.parametrize("sentence", pictures.SENTENCES)
def test_hand_built_heads_find_what_they_ask_for(sentence):
    words = pictures.SENTENCES[sentence].split()
    before = pictures.head_weights(head="word before", words=words)
    assert (before[1:].argmax(1) == np.arange(len(words) - 1)).all()
    same = pictures.head_weights(head="same word", words=words)
    assert all(words[s] == words[t] for t, s in enumerate(same.argmax(1)))
    assert (
        "The row of" not in pictures.head(head="same word", sentence=sentence, temperature=1).words
    )


def test_who_is_undecided_between_two_names():
    words = SONG.split()
    row = pictures.head_weights(head="who?", words=words)[words.index("she")]
    assert row[words.index("Mia")] == pytest.approx(row[words.index("Tom")])
    assert row[words.index("Mia")] == pytest.approx(0.48, abs=0.005)


def test_every_asking_word_and_name_occurs():
    spoken = " ".join(pictures.SENTENCES.values()).split()
    assert set(pictures.NAMES) | set(pictures.ASKERS) <= set(spoken)


def test_the_reference_head_is_the_library_s():
    mixer = build_mixer("attention", d_model=5, context_len=7, n_heads=1).double()
    x = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    maps = [getattr(mixer, name).weight.mT for name in ("query", "key", "value", "out")]
    torch.testing.assert_close(checks.single_head(x, *maps), mixer(x[None])[0])


@given(st.integers(1, 300), st.integers(1, 12), st.integers(1, 5))
def test_the_counts_of_the_exercise_are_the_closed_form(time, d_head, n_heads):
    args = time, d_head * n_heads, n_heads
    assert checks.count_of()(*args) == checks.multiplications(*args)


@given(st.integers(1, 8), st.integers(0, 99))
def test_every_answer_is_the_digit_listed_with_the_letter(n_pairs, seed):
    lists = live.sample_lists(3, n_pairs=n_pairs, generator=np.random.default_rng(seed))
    for letters, digits, answers in zip(lists.letters, lists.digits, lists.answers, strict=True):
        stored = dict(zip(letters[:n_pairs], digits[:n_pairs], strict=True))
        assert len(stored) == n_pairs, "letters differ"
        assert answers[n_pairs:].tolist() == [stored[letter] for letter in letters[n_pairs:]]
        assert set(answers[:n_pairs]) == {live.NO_ANSWER}


def test_features_are_letter_and_digit_side_by_side():
    lists = live.sample_lists(2, n_pairs=3, generator=np.random.default_rng(0))
    assert lists.features.shape == (2, 6, len(live.LETTERS) + live.N_DIGITS)
    np.testing.assert_array_equal(lists.features.sum(-1), [[2, 2, 2, 1, 1, 1]] * 2)
    assert lists.words(0)[0] == f"{live.LETTERS[lists.letters[0, 0]]}{lists.digits[0, 0]}"
    assert lists.words(0)[-1].endswith("?")


def test_the_commonest_digit_of_two_pairs_is_right_nearly_half_the_time():
    # two digits agree with chance 1/8: both questions right, else one of two
    assert live.commonest_share(n_pairs=2) == Fraction(1, 8) + Fraction(7, 8) / 2


@pytest.mark.parametrize("n_pairs", [1, 3, 8])
def test_the_commonest_share_is_what_a_reader_of_the_bag_gets(n_pairs):
    lists = live.sample_lists(20_000, n_pairs=n_pairs, generator=numpy_generator(0, "data"))
    digits, answers = lists.digits[:, :n_pairs], lists.answers[:, n_pairs:]
    counts = (digits[:, :, None] == np.arange(live.N_DIGITS)).sum(1)
    right = (answers == counts.argmax(1)[:, None]).mean(1)
    share = float(live.commonest_share(n_pairs=n_pairs))
    assert share == pytest.approx(right.mean(), abs=5 * right.std() / np.sqrt(20_000))
