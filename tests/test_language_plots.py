"""Pictures of the language-model study and of a memory: what they draw and what they say."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from attnlab import records
from attnlab.analysis.compare import judge_claims, paired_differences, seed_ranges
from attnlab.errors import AttnlabError
from attnlab.plots import context, language, memory, sampling, style
from attnlab.records import RunRecord
from attnlab.teaching import figures_language

BOOKS = ("A long title of a book that nobody ever finished", "Short")


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    with style():
        yield
    plt.close("all")


def runs(n_seeds=3):
    """Return runs of three mixers that differ clearly, and a fourth that does not."""
    level = {"she": 3.0, "he": 3.2, "attention": 3.5, "attention_1_head": 3.5}
    return pd.DataFrame(
        {
            "experiment": "language-model/smoke/toy",
            "variant": name,
            "seed": seed,
            "test_loss_nats": loss + 0.01 * seed * (1 if name != "attention_1_head" else -1),
            "train_loss_nats": 6.5 - loss,
            "commit": "abc",
        }
        for name, loss in level.items()
        for seed in range(n_seeds)
    )


def books(n_seeds=2):
    return pd.DataFrame(
        {
            "book": book,
            "variant": name,
            "seed": seed,
            "loss_nats": 3.0 + harder + worse + 0.01 * seed,
            "bits_per_byte": 1.0 + harder + worse,
        }
        for harder, book in enumerate(BOOKS)
        for worse, name in ((0.0, "she"), (0.1, "attention"))
        for seed in range(n_seeds)
    )


def curves(n_seeds=2):
    return pd.DataFrame(
        {"name": name, "seed": seed, "tokens_seen": tokens, "loss_nats": loss}
        for seed in range(n_seeds)
        for tokens in (10, 100, 1000)
        for name, loss in (("attention", 4.0), ("she", 4.1 if tokens < 500 else 3.9))
    )


def test_differences_stand_in_one_row_a_variant():
    table = paired_differences(runs(), baseline="attention", metric="test_loss_nats")
    ax = language.plot_paired_differences(table, baseline="attention", what="Test loss")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["SHE", "HE", "Attention, 1 head"]
    assert "attention (nats per token)" in ax.get_xlabel()


def test_a_doubtful_difference_is_called_so():
    table = paired_differences(runs(), baseline="attention", metric="test_loss_nats")
    words = language.describe_paired_differences(table, baseline="attention")
    assert "SHE -0.500" in words
    assert words.endswith("Not distinguishable from it at this budget: Attention, 1 head.")


def test_one_seed_has_no_interval_and_is_drawn_all_the_same():
    table = paired_differences(runs(1), baseline="she", metric="test_loss_nats")
    language.plot_paired_differences(table, baseline="she", what="Test loss")
    words = language.describe_paired_differences(table, baseline="she")
    assert "nan" not in words
    assert "Not distinguishable" in words


def test_the_ranking_says_which_neighbours_overlap():
    words = language.describe_ranking(seed_ranges(runs(), metric="test_loss_nats"))
    assert words.index("SHE") < words.index("HE 3.2") < words.index("Attention")
    assert "ranges overlap" in words
    assert "SHE and HE" not in words
    clear = runs()[lambda t: t["variant"].isin(["she", "he"])]
    ranges = seed_ranges(clear, metric="test_loss_nats")
    assert "No two neighbours overlap" in language.describe_ranking(ranges)
    one = seed_ranges(runs(1), metric="test_loss_nats")
    assert "not distinguishable from chance" in language.describe_ranking(one)
    assert language.describe_ranking(ranges.iloc[:0]) == "No run to rank."


def test_verdicts_carry_their_numbers():
    from attnlab.analysis.compare import ORDERING

    verdicts = judge_claims(runs(), claims=ORDERING, metric="test_loss_nats")
    words = language.describe_verdicts(verdicts)
    assert "*SHE trains to a lower cost than attention*: **holds here**" in words
    assert "-0.500 nats per token" in words
    assert "3 seeds" in words
    assert "No recorded run" in language.describe_verdicts(verdicts.iloc[:0])


def test_runs_are_described_by_what_they_share():
    table = runs().assign(**{"config.model.n_layers": 6, "tokens_seen": [*range(12)]})
    words = language.describe_runs(table)
    assert "12 runs of 4 variants, seeds 0, 1, 2; layers 6. Commit abc." in words
    assert language.describe_runs(table.iloc[:0]) == "No run is recorded."


def test_cost_and_held_out_say_whether_they_agree_on_the_order():
    columns = {"cost": "train_loss_nats", "held_out": "test_loss_nats"}
    ax = language.plot_cost_and_held_out(runs(), **columns)
    assert ax.get_yticklabels()[0].get_text() == "SHE"
    assert "in another order" in language.describe_cost_and_held_out(runs(), **columns)
    same = runs().assign(train_loss_nats=lambda t: t["test_loss_nats"] + 1)
    assert "in the same order" in language.describe_cost_and_held_out(same, **columns)


def test_a_curve_that_crosses_late_is_named():
    fig = language.plot_curves_and_differences(curves(), baseline="attention")
    assert len(fig.axes) == 2
    assert fig.axes[1].get_xlim()[0] > 100  # the early part is left out
    words = language.describe_curves_and_differences(curves(), baseline="attention")
    assert "is crossed by none" in words
    late = curves().assign(tokens_seen=lambda t: t["tokens_seen"].replace({100: 600}))
    words = language.describe_curves_and_differences(late, baseline="attention")
    assert "is crossed by SHE" in words


def test_differences_of_curves_pair_seed_and_tokens():
    gaps = language.curve_differences(curves(), baseline="attention")
    assert set(gaps["name"]) == {"she"}
    np.testing.assert_allclose(gaps["loss_nats"], [0.1, 0.1, -0.1] * 2)


def test_books_are_sorted_and_long_titles_are_cut():
    ax = language.plot_losses_by_book(books())
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels[1] == "Short"
    assert labels[0].endswith("…")
    words = language.describe_losses_by_book(books())
    assert "SHE has the lowest mean on every book" in words
    assert "variants within a book by 0.10" in words


def test_split_wins_are_counted():
    table = books()
    swap = (table["book"] == "Short") & (table["variant"] == "she")
    table.loc[swap, "bits_per_byte"] += 1
    words = language.describe_losses_by_book(table, metric="bits_per_byte")
    assert "SHE on 1, Attention on 1 of 2 books" in words or "Attention on 1, SHE on 1" in words


def test_a_metric_the_books_lack_is_explained():
    with pytest.raises(AttnlabError, match="perplexity"):
        language.plot_losses_by_book(books(), metric="perplexity")


def test_the_floor_picture_names_models_on_both_sides_of_the_ngrams():
    held_out, floors = {1: 6.0, 2: 5.0, 3: 4.5}, {1: 6.0, 2: 4.0, 3: 2.0}
    models = {"she": 4.0, "identity": 5.5}
    ax = context.plot_context_floors(held_out, floors=floors, models=models)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "1", "2", "models"]
    words = context.describe_context_floors(held_out, floors=floors, models=models)
    assert "order 3 (2 tokens of context) and 4.500" in words
    assert "Trained models below it: SHE. At this budget not below it" in words
    assert words.endswith("Identity (no mixing).")
    assert "Trained" not in context.describe_context_floors(held_out, floors=floors)
    context.plot_context_floors(held_out, floors=floors)


def test_loss_by_position_says_early_and_late():
    losses, oracle = {"he": [2.0, 1.0, 1.0, 1.0]}, [2.0, 1.0, 0.5, 0.25]
    context.plot_loss_by_position(losses, oracle_nats=oracle)
    words = context.describe_loss_by_position(losses, oracle_nats=oracle, late_from=3)
    assert "HE +0.00 and +0.62" in words  # (0.5 + 0.75) / 2 = 0.625
    assert "3 to 4" in words


def test_chances_of_zero_are_marked_out():
    chances = {"all": [0.5, 0.3, 0.2], "two": [0.6, 0.4, 0.0]}
    fig = sampling.plot_token_chances(chances, tokens=list("abc"), columns=3)
    texts = [t.get_text() for t in fig.axes[1].texts]
    assert texts == ["0.60", "0.40", "out"]
    assert not fig.axes[2].get_visible()
    assert "two: 2 tokens, the likeliest 0.60" in sampling.describe_token_chances(chances)


ACTIVITY = np.array([[0.0, 2.0, -0.1], [3.0, 1.0, -0.1]])


def test_keys_are_sorted_by_favourite_state_then_strength():
    assert memory.order_keys(ACTIVITY).tolist() == [1, 2, 0]
    memory.plot_key_map(ACTIVITY, states=["a", "ba"])
    words = memory.describe_key_map(ACTIVITY, states=["a", "ba"])
    assert "3 keys and 2 states. 2 keys give more than half" in words
    assert "1 never fire" in words


def test_a_key_is_said_in_words():
    one = {
        "activity": [1.0, 2.0],
        "writes": [-0.5, 0.0, 0.5],
        "damage_nats": [0.3, -0.2],
        "states": ["a", "ba"],
        "symbols": list("abc"),
    }
    assert len(memory.plot_key(**one).axes) == 3
    words = memory.describe_key(key=4, **one)
    assert "Key 4 fires most after …ba (+2.00)" in words
    assert "raises c (+0.50 logits) and lowers a (-0.50)" in words
    assert "most after …a: +0.3000" in words


def test_state_losses_are_weighted_by_time():
    losses = {"she": ([0.1, 0.3], [1.0, 2.0])}
    names = {"share": [0.75, 0.25], "states": ["a", "ba"]}
    memory.plot_state_losses(losses, **names)
    words = memory.describe_state_losses(losses, **names)
    assert "SHE: 0.1500 nats with all keys, 1.2500 with none" in words
    assert "…ba (25.0% of the time" in words


def record(experiment, variant, seed, loss):
    curve = {"tokens_seen": [10, 20], "loss_nats": [loss + 1, loss], "train_loss_nats": [9, 8]}
    return RunRecord(
        experiment=experiment,
        variant=variant,
        seed=seed,
        config={"model": {"n_layers": 1}},
        metrics={"test_loss_nats": loss, "test_gap_nats": loss, "train_loss_nats": loss + 0.1},
        curve=curve,
        seconds=1.0,
        commit="abc",
    )


@pytest.mark.parametrize(
    "draw",
    [
        figures_language.draw_loss_children,
        figures_language.draw_final_children,
        figures_language.draw_tales_gap,
    ],
)
def test_committed_figures_are_drawn_from_records_alone(draw, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RUNS", tmp_path)
    for experiment in (figures_language.BOOKS, figures_language.TALES):
        for seed in (0, 1):
            for variant, loss in (("attention", 3.0), ("she", 2.9)):
                one = record(experiment, variant, seed, loss + 0.01 * seed)
                one.append_to(tmp_path / "language-model.jsonl")
    fig, words = draw()
    assert fig.axes
    assert words.commit == "abc"
    assert words.records[0].startswith("data/runs/language-model.jsonl#language-model/")
    assert "SHE" in words.caption
