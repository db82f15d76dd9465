"""Chapter 04: gaps, differences, books, keys of a memory, and models that write."""

import numpy as np
import pandas as pd
import pytest
import torch
from chapter_tests import ChapterTests
from torch.nn import functional as F

from attnlab import records
from attnlab.analysis.compare import ORDERING, judge_claims, paired_differences, seed_ranges
from attnlab.analysis.memory import KeyAtlas
from attnlab.chapters.language_models import checks, live, pictures
from attnlab.config import ModelConfig
from attnlab.corpora import train_bpe
from attnlab.errors import AttnlabError
from attnlab.models import LanguageModel
from attnlab.models.search import token_chances
from attnlab.records import RunRecord
from attnlab.seeding import torch_generator
from attnlab.show import playground_dials
from attnlab.sources import tales
from attnlab.studies import fair
from attnlab.training import save_model
from attnlab.training.loop import StepLog

TITLES = ("A long title of a book that nobody ever finished", "Short")
COST = {"cost": "train_loss_nats", "held_out": "test_loss_nats"}
ACTIVITY = np.array([[0.0, 2.0, -0.1], [3.0, 1.0, -0.1]])


def runs(n_seeds=3):
    """Three mixers that differ clearly, and a fourth that does not."""
    level = {"she": 3.0, "he": 3.2, "attention": 3.5, "attention_1_head": 3.5}
    rows = [(name, seed, loss) for name, loss in level.items() for seed in range(n_seeds)]
    table = pd.DataFrame(rows, columns=["variant", "seed", "loss"])
    sign = table["variant"].ne("attention_1_head") * 2 - 1
    return table.assign(
        experiment="language-model/smoke/toy", commit="abc", train_loss_nats=6.5 - table["loss"],
        test_loss_nats=table["loss"] + 0.01 * table["seed"] * sign,
    )  # fmt: skip


def books():
    rows = [(book, place, name, worse, seed) for place, book in enumerate(TITLES)
            for worse, name in ((0.0, "she"), (0.1, "attention")) for seed in (0, 1)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["book", "place", "variant", "worse", "seed"])
    level = table["place"] + table["worse"]
    return table.assign(loss_nats=3 + level + 0.2 * table["seed"], bits_per_byte=1 + level)


def curves(*, early=100):
    return pd.DataFrame(
        {"name": name, "seed": seed, "tokens_seen": tokens, "loss_nats": loss}
        for seed in (0, 1)
        for tokens in (10, early, 1000)
        for name, loss in (("attention", 4.0), ("she", 4.1 if tokens < 1000 else 3.9))
    )


def differences(n_seeds=3, baseline="attention"):
    table = paired_differences(runs(n_seeds), baseline=baseline, metric="test_loss_nats")
    return pictures.paired_differences(table, baseline=baseline, what="Test loss")


def swept(*others):
    """SHE has the lower cost, attention the lower loss on unseen books; more so in 40 passes."""
    rows = [(name, 0, passes, lr, "as_usual", 4.0 - sign * passes / 100 - lr, 4.0 + sign * lr)
            for name, sign in (("attention", 0), ("she", 1), *((name, 0.5) for name in others))
            for passes in (1.0, 40.0) for lr in (0.01, 0.03)]  # fmt: skip
    columns = ["variant", "seed", "passes", "lr", "setting", *COST.values()]
    return pd.DataFrame(rows, columns=columns)


def laps(n_steps=3):
    return [
        (name, StepLog(step, 5.0 - step - 0.1 * place, 1.0, 0.1, 10 * step))
        for step in range(1, n_steps + 1)
        for place, name in enumerate(("attention", "she"))
    ]


def atlas(**changes):
    random = np.random.default_rng(0)
    parts = {
        "states": ("a", "ba", "bb"), "symbols": ("a", "b"), "activity": random.normal(size=(3, 5)),
        "writes": random.normal(size=(5, 2)), "damage_nats": random.normal(size=(3, 5)),
        "kl_nats": np.array([0.1, 0.2, 0.3]), "kl_without_nats": np.array([0.2, 0.4, 0.9]),
        "share": np.array([0.5, 0.3, 0.2]),
    }  # fmt: skip
    return KeyAtlas(**{**parts, **changes})


KEY = atlas(states=("a", "ba"), symbols=tuple("abc"), activity=np.array([[1.0], [2.0]]),
            writes=np.array([[-0.5, 0.0, 0.5]]), damage_nats=np.array([[0.3], [-0.2]]))  # fmt: skip
FLOORS = {"floors": {1: 6.0, 2: 4.0, 3: 2.0}, "models": {"she": 4.0, "identity": 5.5}}
N_GRAMS = {1: 6.0, 2: 5.0, 3: 4.5}
MEMORY = {"share": [0.75, 0.25], "states": ["a", "ba"]}


def writers():
    source = tales("small")
    models = {name: tiny_model(source.vocab_size, mixer=name) for name in ("she", "mean")}
    return live.source_writers(models, source=source)


def tiny_model(vocab_size, *, mixer="me"):
    config = ModelConfig(mixer=mixer, vocab_size=vocab_size, context_len=8, d_model=8, n_layers=1)
    return LanguageModel(config, generator=torch_generator(0, "init"))


def playground():
    dials = playground_dials(prompt=live.BEGINNINGS["tales"][1], mixers=["she", "mean", live.ALL])
    return live.playground(writers(), n_tokens=3)["write"], dials


class TestChapter(ChapterTests):
    SLUG = "language_models"
    PICTURES = {  # noqa: RUF012
        "loss_by_position": (
            lambda: pictures.loss_by_position(
                {"he": [2.0, 1.0, 1.0, 1.0]}, oracle_nats=[2.0, 1.0, 0.5, 0.25], late_from=3
            ),
            "with 3 to 4: HE +0.00 and +0.62.",  # (0.5 + 0.75) / 2 = 0.625
        ),
        "paired_differences": (differences, "SHE -0.500"),
        "paired_differences/one seed": (lambda: differences(1, "she"), "Not distinguishable"),
        "curves_and_differences": (
            lambda: pictures.curves_and_differences(curves(), baseline="attention"),
            "is crossed by none. Bands: range over 2 seeds.",
        ),
        "curves_and_differences/late": (
            lambda: pictures.curves_and_differences(curves(early=600), baseline="attention"),
            "is crossed by SHE",
        ),
        "cost_and_held_out": (lambda: pictures.cost_and_held_out(runs(), **COST), "another order"),
        "cost_and_held_out/agree": (
            lambda: pictures.cost_and_held_out(
                runs().assign(train_loss_nats=lambda t: t["test_loss_nats"] + 1), **COST
            ),
            "in the same order",
        ),
        "losses_by_book": (
            lambda: pictures.losses_by_book(books()),
            "models within a book by 0.10. SHE has the lowest mean on every book.",
        ),
        "context_floors": (
            lambda: pictures.context_floors(N_GRAMS, **FLOORS),
            "Trained models below it: SHE. At this budget not below it",
        ),
        "context_floors/no models": (
            lambda: pictures.context_floors(N_GRAMS, floors=FLOORS["floors"], models={}),
            "order 3 (2 tokens of context) and 4.500",
        ),
        "key_map": (
            lambda: pictures.key_map(ACTIVITY, states=["a", "ba"]),
            "2 keys give more than half of their firing to one state; most keys favour …a. 1 never",
        ),
        "one_key": (
            lambda: pictures.one_key(KEY, key=0),
            "Key 0 fires most after …ba (+2.00). Its value raises c (+0.50 logits) and lowers a "
            "(-0.50). Without it the KL rises most after …a: +0.3000",
        ),
        "state_losses": (
            lambda: pictures.state_losses({"she": ([0.1, 0.3], [1.0, 2.0])}, **MEMORY),
            "SHE: 0.1500 nats with all keys, 1.2500 with none; worst known is …ba (25.0% of",
        ),
        "token_chances": (
            lambda: pictures.token_chances(
                {"all": [0.5, 0.3, 0.2], "two": [0.6, 0.4, 0.0]}, tokens=list("abc")
            ),
            "two: 2 tokens, the likeliest 0.60",
        ),
        "by_rate": (
            lambda: pictures.by_rate(swept().query("passes == 1")),
            "lowest first: Attention 4.000 (at 0.01), SHE 4.010 (at 0.01). From the lowest",
        ),
        "who_wins": (
            lambda: pictures.who_wins(swept(), among=("attention", "she")),
            "Training cost: SHE 4 of 4 points; Loss on unseen books: Attention 4 of 4 points",
        ),
        "who_wins/some are missing": (
            lambda: pictures.who_wins(swept().iloc[:-1], among=("attention", "she")),
            "Training cost: SHE 3 of 3 points",
        ),
        "ground_map": (
            lambda: pictures.ground_map(swept(), pair=("she", "attention")),
            "training cost lower at 4 of 4; loss on unseen books lower at 0 of 4 points.",
        ),
        "rereading": (
            lambda: pictures.rereading(
                swept().assign(tokens_seen=lambda t: 1000 * t["passes"]), n_tokens=1000
            ),
            "Cost and held-out loss after 40 passes: Attention 3.97 and 4.00; SHE 3.57 and 4.03.",
        ),
        "race": (lambda: pictures.race(laps(1), oracle_nats=1.0), "SHE +2.900"),
    }
    PANELS = {  # noqa: RUF012
        "books": lambda: (
            lambda **setting: pictures.book_losses(books(), **setting),
            pictures.book_dials(books()),
        ),
        "duels": lambda: (
            lambda pair: pictures.ground_map(
                swept(*pictures.CONTEST[1:2], *pictures.CONTEST[3:], fair.SIZE), pair=pair
            ),
            pictures.PAIR_DIAL,
        ),
        "keys": lambda: (lambda key: pictures.one_key(atlas(), key=key), {"key": ("K", 3, 0, 4)}),
        "playground": playground,
    }


def test_doubtful_differences_are_called_so_and_stand_in_rows():
    one = differences()
    rows = [tick.get_text() for tick in one.ax.get_yticklabels()]
    assert rows == ["SHE", "HE", "Attention, 1 head"]
    assert one.words.endswith("Not distinguishable from it at this budget: Attention, 1 head.")


def test_the_ranking_says_which_neighbours_overlap():
    words = pictures.ranking_in_words(seed_ranges(runs(), metric="test_loss_nats"))
    assert words.index("SHE") < words.index("HE 3.2") < words.index("Attention")
    assert "ranges overlap" in words
    assert "SHE and HE" not in words
    one = seed_ranges(runs(1), metric="test_loss_nats")
    assert "not distinguishable from chance" in pictures.ranking_in_words(one)
    assert pictures.ranking_in_words(one.iloc[:0]) == "No run to rank."


def test_records_are_named_with_their_sizes_and_commit():
    table = runs().assign(**{"config.model.n_layers": 6, "tokens_seen": [*range(12)]})
    said = pictures.runs_in_words(table)
    assert "12 runs of 4 models, seeds 0, 1, 2; layers 6. Commit abc." in said


def test_verdicts_stand_in_tables_by_quantity():
    judged = pd.concat([
        judge_claims(runs(n), claims=ORDERING, metric="test_loss_nats").assign(
            quantity="held-out loss", ground=ground)
        for n, ground in ((3, "books"), (1, "tales"))
    ])  # fmt: skip
    table = pictures.verdict_table(judged)
    assert "*By held-out loss*\n\n|  | books | tales |" in table
    assert (
        "| **holds here** -0.500 (-0.500 to -0.500), 3 seeds | **one run** -0.500, 1 seed |"
        in table
    )


def test_differences_pair_seed_and_place():
    gaps = pictures.relative_to(
        curves(), "attention", column="name", keys=["seed", "tokens_seen"], metric="loss_nats"
    )
    assert set(gaps["name"]) == {"she"}
    np.testing.assert_allclose(gaps["loss_nats"], [0.1, 0.1, -0.1] * 2)
    words = pictures.book_losses(books(), metric="loss_nats", baseline="she").words
    assert "Attention +0.100, below it on 0" in words
    with pytest.raises(AttnlabError, match="perplexity"):
        pictures.losses_by_book(books(), metric="perplexity")


def test_curves_of_a_race_are_means_over_stretches():
    lines = {line.get_label(): line for line in pictures.race(laps(3), oracle_nats=0.0).ax.lines}
    np.testing.assert_allclose(lines["SHE"].get_ydata(), [3.9, 2.9, 1.9])
    lines = {line.get_label(): line for line in pictures.race(laps(200), oracle_nats=0.0).ax.lines}
    assert len(lines["Attention"].get_ydata()) == 40
    assert lines["Attention"].get_xdata().max() == 2000
    assert lines["Attention"].get_ydata()[0] == pytest.approx(5.0 - np.mean(range(1, 6)))
    assert live.window_oracle_nats(16) < live.window_oracle_nats(4)


def test_references_are_those_of_torch_and_of_generation():
    for _, logits, tokens in checks.check_cross_entropy.cases:
        z, v = torch.from_numpy(logits), torch.from_numpy(tokens)
        expected = F.cross_entropy(z[:-1], v[1:]).item()
        assert checks.cross_entropy(logits, tokens) == pytest.approx(expected)
    for _, chances, p in checks.check_top_p.cases:
        logits = torch.from_numpy(np.log(np.maximum(chances, 1e-30)))[None]
        expected = token_chances(logits, top_p=p)[0].numpy()
        np.testing.assert_allclose(checks.top_p_filter(chances, p), expected, atol=1e-6)


def test_the_same_seed_writes_the_same_text_and_long_prompts_are_cut():
    she, settings = writers()["she"], {"n_tokens": 9, "temperature": 0.9}
    text = she.write("Mira was a kind girl.", seed=3, **settings)
    assert text == she.write("Mira was a kind girl.", seed=3, **settings)
    assert text.startswith("Mira was a kind girl.")
    assert text != she.write("Mira was a kind girl.", seed=4, **settings)
    prompt = "Mira was a kind girl. It was a windy day. She had a red kite."
    assert len(she.tokens(prompt, n_tokens=2, temperature=1.0, seed=0)) == 8 + 2


def test_committed_models_come_back_with_their_tokenizer(tmp_path):
    tokenizer = train_bpe(["abc d"], vocab_size=257)
    for name in ("she", "attention", "my_own"):
        model = tiny_model(tokenizer.vocab_size)
        save_model(tmp_path / "toy" / f"{name}.safetensors", model=model, dtype=torch.bfloat16)
    assert live.load_writers("toy", folder=tmp_path) == {}  # without a tokenizer no text
    tokenizer.save(tmp_path / "toy" / "tokenizer.json")
    loaded = live.load_writers("toy", folder=tmp_path)
    assert list(loaded) == ["attention", "she", "my_own"]
    settings = {"n_tokens": 5, "temperature": 1.0, "seed": 0}
    assert loaded["she"].write("a\nb", **settings).startswith("a b")  # read as text was in training
    assert len(loaded["she"].tokens("a\nb", **settings)) == 3 + 5


def test_telling_keys_hurt_different_states_worst_first():
    harm = atlas().damage_nats * atlas().share[:, None]
    keys = live.telling_keys(atlas(), n_keys=2)
    assert keys[0] == harm.max(axis=0).argmax()
    assert harm[:, keys[0]].argmax() != harm[:, keys[1]].argmax()


@pytest.mark.parametrize("draw", [
    pictures.loss_children, pictures.final_children, pictures.tales_gap])  # fmt: skip
def test_committed_figures_are_drawn_from_records_alone(draw, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RUNS", tmp_path)
    for experiment in (pictures.BOOKS, pictures.TALES):
        for seed, (variant, loss) in [
            (s, v) for s in (0, 1) for v in (("attention", 3), ("she", 2))
        ]:
            end = dict.fromkeys(("test_loss_nats", "test_gap_nats"), loss + 0.01 * seed)
            curve = {"tokens_seen": [10, 20], "loss_nats": [9, loss], "train_loss_nats": [9, 8]}
            RunRecord(
                experiment=experiment, variant=variant, seed=seed, config={}, seconds=1.0,
                metrics=end | {"train_loss_nats": loss + 0.1}, curve=curve, commit="abc",
            ).append_to(tmp_path / "language-model.jsonl")  # fmt: skip
    assert "SHE" in draw().words
    assert "Commit abc." in draw().words
