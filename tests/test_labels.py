"""Tasks and study of labels: exact intervals, a control without order, records that are judged."""

import math

import labelled_sets
import numpy as np
import pandas as pd
import pytest
import torch

from attnlab.analysis.accuracy import accuracy_interval, linear_control, word_bags
from attnlab.analysis.compare import FAILS, HOLDS, UNDECIDED
from attnlab.claims import ledger
from attnlab.config import ClassifierConfig, TrainConfig
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers import list_mixers
from attnlab.records import RunRecord, load_runs
from attnlab.seeding import torch_generator
from attnlab.studies import Folders, Plan, export_models, labels, run_plan
from attnlab.studies.study import jobs_of
from attnlab.tasks import LabelTask, prepare_images, prepare_labels
from attnlab.tasks.images import patches, pixels_in_a_row
from attnlab.training import LabelBatches, train_model

# intervals and controls


@pytest.mark.parametrize(
    ("n_right", "n_items", "low", "high"),
    [  # as published tables of exact intervals have them
        (0, 10, 0.0, 0.3085), (1, 10, 0.0025, 0.4450), (5, 10, 0.1871, 0.8129),
        (10, 10, 0.6915, 1.0), (81, 263, 0.2527, 0.3676), (1, 1, 0.025, 1.0),
    ],
)  # fmt: skip
def test_the_interval_of_a_share_is_the_exact_one(n_right, n_items, low, high):
    assert accuracy_interval(n_right, n_items) == pytest.approx((low, high), abs=6e-5)


def test_the_ends_of_an_interval_have_the_chances_that_define_them():
    n, k = 37, 29
    low, high = accuracy_interval(k, n)

    def chance(p, counts):
        return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in counts)

    assert chance(low, range(k, n + 1)) == pytest.approx(0.025)
    assert chance(high, range(k + 1)) == pytest.approx(0.025)


def test_a_share_of_nothing_is_refused():
    for n_right, n_items in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(AttnlabError, match="are no share of them"):
            accuracy_interval(n_right, n_items)


def test_a_bag_holds_words_and_pairs_that_training_has_twice():
    texts = {"train": ["a b a", "A b", "only here"], "test": ["b a", "unknown", "a b a b"]}
    bags, n = word_bags(texts)
    assert n == 3  # a, b and "a b"
    ids, starts = bags["test"]
    assert starts.tolist() == [0, 2, 2]
    assert sorted(ids[:2].tolist()) == [0, 1]
    assert sorted(ids[2:].tolist()) == [0, 0, 1, 1, 2, 2]


def test_the_linear_control_hears_words_and_pairs_but_no_order_beyond():
    def control(make):
        rng, texts, answers = np.random.default_rng(0), {}, {}
        for split, n in (("train", 400), ("validation", 100), ("test", 100)):
            answers[split] = rng.integers(0, 2, n)
            texts[split] = [make(label, rng.integers(0, 4)) for label in answers[split]]
        bags, n = word_bags(texts)
        return linear_control(bags, answers, n_features=n, n_classes=2)["linear_accuracy"]

    assert control(lambda label, i: f"w{i} {'good' if label else 'bad'} w{3 - i}") == 1.0
    assert control(lambda label, i: f"w{i} {'not good' if label else 'good not'}") == 1.0
    first, last = "one then then two", "two then then one"
    assert control(lambda label, i: f"{first if label else last}") == 1.0  # "one then", a pair
    far = ("x y one y x x y two y x", "x y two y x x y one y x")
    assert control(lambda label, i: far[label]) < 0.7


def test_the_control_is_the_same_twice_and_knows_the_commonest_class():
    x = {split: torch.randn(30, 3, generator=torch_generator(0, split)) for split in
         ("train", "validation", "test")}  # fmt: skip
    answers = {split: (part[:, 0] > 0.4).long().numpy() for split, part in x.items()}
    one, other = (linear_control(x, answers, n_features=3, n_classes=2) for _ in range(2))
    assert one == other
    assert one["majority_accuracy"] == (answers["test"] == 0).mean()
    assert one["linear_accuracy"] > one["majority_accuracy"]


# batches and tasks


def test_a_pass_reads_every_item_once_and_goes_on_where_it_stopped():
    data = labelled_sets.small_data(n_items=21)
    items = [*enumerate(data.inputs["train"])]
    inputs = [np.full(len(ids), i + 1) for i, ids in items]
    batches = LabelBatches(inputs, np.arange(21), batch_size=5, seed=3)
    assert batches.n_batches == 4
    for n_pass in range(2):
        seen = [batches[4 * n_pass + i] for i in range(4)]
        numbers = torch.cat([targets for _, targets in seen]).tolist()
        assert len(set(numbers)) == 20
        for ids, targets in seen:
            assert (ids.max(1).values == targets + 1).all()  # each with its own class
            lengths = [len(inputs[i]) for i in targets]
            assert (ids > 0).sum(1).tolist() == lengths
    later = LabelBatches(inputs, np.arange(21), batch_size=5, seed=3).starting_at(6)
    assert torch.equal(next(later)[0], batches[6][0])
    with pytest.raises(AttnlabError, match="2 items fill no batch of 5"):
        LabelBatches(inputs[:2], np.arange(2), batch_size=5, seed=0)


def test_a_classifier_learns_what_the_first_token_says_and_is_judged_item_by_item():
    task = LabelTask(data=labelled_sets.small_data(n_items=200))
    config = ClassifierConfig(mixer="he", d_model=16, n_layers=1, **task.data.sizes)
    plan = TrainConfig(n_steps=150, batch_size=20, lr=1e-2, seed=0)
    model = task.build(config, generator=torch_generator(0, "init"))
    *_, state = train_model(task, model, plan, points={75, 150})
    assert set(state.curve) == {"tokens_seen", "train_loss_nats", "loss_nats", "accuracy"}
    assert state.tokens_seen == 150 * 20
    metrics, details = task.score(model)
    assert metrics["test_accuracy"] > 0.9
    assert metrics["linear_accuracy"] == 0.5
    losses, right = task.judge(model, split="test")
    assert metrics["test_loss_nats"] == pytest.approx(losses.mean())
    assert metrics["test_accuracy"] == right.mean()
    ends = metrics["test_accuracy_low"], metrics["test_accuracy_high"]
    assert ends == accuracy_interval(int(right.sum()), 20)
    run = {"details.right": details["right"], "details.data.test": 20}
    assert labels.right_answers(run).tolist() == right.astype(float).tolist()
    assert sum(details["by_class"]["n_items"]) == 20
    assert sum(details["by_class"]["n_right"]) == right.sum()


def test_the_judge_does_not_mind_in_which_order_items_come():
    data = labelled_sets.small_data()
    task = LabelTask(data=data)
    model = task.build(ClassifierConfig(mixer="she", d_model=8, **data.sizes),
                       generator=torch_generator(0, "init"))  # fmt: skip
    losses, right = task.judge(model, split="test")
    for i in (0, 7, 19):
        alone = model(torch.from_numpy(data.inputs["test"][i])[None])
        chance = alone.double().softmax(1)[0, data.labels["test"][i]]
        assert losses[i] == pytest.approx(-math.log(float(chance.detach())), abs=1e-6)
        assert right[i] == (int(alone.argmax()) == data.labels["test"][i])


def test_an_image_becomes_a_row_of_means_or_of_patches():
    image = np.arange(16).reshape(1, 4, 4)
    assert pixels_in_a_row(image)[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert patches(image, size=2)[0].tolist() == [
        [0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]  # fmt: skip
    with pytest.raises(AttnlabError, match=r"Images \(1, 4, 4\) do not cut into squares of 3 x 3"):
        patches(image, size=3)


def test_texts_and_images_of_a_corpus_become_a_data_set(monkeypatch, tmp_path):
    labelled_sets.store_questions(monkeypatch, tmp_path)
    data = prepare_labels("trec", vocab_size=300, max_len=12)
    assert data.sizes["n_classes"] == len(data.classes) == 6
    assert max(ids.max() for ids in data.inputs["train"]) < data.sizes["vocab_size"]
    assert max(map(len, data.inputs["test"])) <= 12
    assert data.facts["train"] == len(data.inputs["train"]) == 96
    assert data.controls["linear_accuracy"] == 1.0  # the first words tell
    assert data.controls["majority_accuracy"] < 0.4
    with pytest.raises(UnknownNameError, match="set of labelled texts is called 'tree'"):
        prepare_labels("tree", vocab_size=300, max_len=12)
    labelled_sets.store_bars(monkeypatch, tmp_path)
    data = prepare_images("mnist_patches")
    assert data.inputs["train"].shape == (40, 16, 49)
    assert data.sizes == {"n_classes": 10, "context_len": 16, "n_inputs": 49}
    with pytest.raises(UnknownNameError, match="set of images is called 'mnist_rows'"):
        prepare_images("mnist_rows")


# the study


def test_the_study_has_every_mixer_causal_and_two_sided():
    assert set(labels.VARIANTS) == {f"{n}{side}" for n in list_mixers() for side in
                                    ("", "/two_sided")}  # fmt: skip


def test_the_study_runs_texts_and_images_at_smoke_scale(monkeypatch, tmp_path):
    folders = Folders(runs=tmp_path / "runs", work=tmp_path / "work")
    variants = ("attention", "she", "she/two_sided")
    for stored, corpus in (
        (labelled_sets.store_questions, "trec"),
        (labelled_sets.store_bars, "mnist_patches"),
    ):
        stored(monkeypatch, tmp_path)
        plan = Plan(study="labels", corpus=corpus, variants=variants)
        list(run_plan(plan, folders=folders))
        runs = load_runs(plan.name, path=folders.runs)
        assert tuple(runs["variant"]) == variants
        assert runs["config.model.is_two_sided"].tolist() == [False, False, True]
        assert (runs["test_accuracy_low"] <= runs["test_accuracy"]).all()
        assert (runs["linear_accuracy"] > runs["majority_accuracy"]).all()
        found = labels.accuracy_differences(runs)
        assert found[["variant", "verdict"]].values.tolist() == [["she", "one run"]]
        with pytest.raises(AttnlabError, match="classifiers are not exported"):
            list(export_models(plan, to=tmp_path / "models", folders=folders))


def test_seed_zero_tries_rates_and_further_seeds_take_the_best_on_validation(monkeypatch, tmp_path):
    labelled_sets.store_questions(monkeypatch, tmp_path)
    plan = Plan(study="labels", scale="classroom", corpus="trec", variants=("mean",))
    rates = labels.BUDGETS["classroom", "trec"].rates
    assert [job.train.lr for job in jobs_of(plan)] == list(rates)
    asked = Plan(study="labels", scale="classroom", corpus="trec", variants=("mean",),
                 axes={"lr": (0.02,)}, seeds=(0, 1))  # fmt: skip
    assert [job.train.lr for job in jobs_of(asked)] == [0.02, 0.02]
    assert asked.name.endswith("/swept")
    recorded = pd.DataFrame(
        {
            "variant": ["mean", "mean", "mean", "he"],
            "seed": [0, 0, 1, 0],
            labels.RATE: [rates[0], rates[1], rates[0], rates[0]],
            "validation_accuracy": [0.7, 0.8, 0.9, 0.9],
            "validation_loss_nats": [0.5, 0.9, 0.1, 0.1],
        }
    )
    monkeypatch.setattr(labels, "load_runs", lambda *_, **__: recorded)
    again = Plan(study="labels", scale="classroom", corpus="trec", variants=("mean",), seeds=(1, 2))
    assert [job.train.lr for job in jobs_of(again)] == [rates[1]] * 2
    recorded["seed"] = 1
    with pytest.raises(AttnlabError, match=r"lacks for 'mean'\. Run it first: .* --seeds 0"):
        jobs_of(again)


def made_up(accuracies, *, n_items=400, packed=True):
    """Return rows of runs, one a variant and seed, whose errors fall on chosen items."""
    rows = []
    for variant, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            right = np.arange(n_items) < round(accuracy * n_items)
            rows.append({"variant": variant, "seed": seed, "test_accuracy": right.mean()})
            if packed:
                bits = np.packbits(right).tobytes().hex()
                rows[-1] |= {"details.right": bits, "details.data.test": n_items}
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("she", "verdict"),
    [
        ((0.90, 0.89, 0.91), HOLDS),
        ((0.80, 0.79, 0.81), FAILS),
        ((0.88, 0.87, 0.89), UNDECIDED),
        ((0.92, 0.70, 0.95), UNDECIDED),
    ],
)
def test_a_mixer_reaches_attention_if_its_whole_interval_is_above_two_points_less(she, verdict):
    runs = made_up({"attention": (0.9, 0.89, 0.91), "she": she})
    row = labels.accuracy_differences(runs).iloc[0]
    assert (row["variant"], row["baseline"], row["n_pairs"]) == ("she", "attention", 3)
    assert row["mean"] == pytest.approx(np.mean(she) - 0.9, abs=2e-3)
    assert row["verdict"] == verdict


def test_the_interval_covers_the_chance_of_the_test_items_too():
    values = {"attention": (0.9, 0.9, 0.9), "she": (0.85, 0.85, 0.85)}
    with_items = labels.accuracy_differences(made_up(values)).iloc[0]
    without = labels.accuracy_differences(made_up(values, packed=False)).iloc[0]
    assert without["high"] - without["low"] == pytest.approx(0.0)
    half = 1.96 * (0.05 * 0.95 / 399) ** 0.5  # of 400 items 20 differ
    assert with_items["high"] - with_items["low"] == pytest.approx(2 * half)


def test_each_side_is_held_against_attention_of_that_side():
    runs = made_up({
        "attention": (0.9, 0.9, 0.9), "she": (0.9, 0.9, 0.9),
        "attention/two_sided": (0.8, 0.8, 0.8), "she/two_sided": (0.9, 0.9, 0.9),
        "he": (0.5, 0.5),
    })  # fmt: skip
    found = labels.accuracy_differences(runs).set_index("variant")
    assert found["mean"].round(3).to_dict() == {"he": -0.4, "she": 0.0, "she/two_sided": 0.1}
    assert found.loc["he", "verdict"] == "two runs"
    assert labels.accuracy_differences(runs, variants=["he"])["variant"].tolist() == ["he"]


def plant(folder, experiment, variant, seed, lr, accuracy):
    """Append a record of a run with this accuracy on validation and test."""
    right = np.arange(400) < round(400 * accuracy)
    RunRecord(
        experiment=experiment, variant=variant, seed=seed, config={"train": {"lr": lr}},
        metrics={"validation_accuracy": accuracy, "validation_loss_nats": 1.0,
                 "test_accuracy": float(right.mean()), "tokens_seen": 19_200},
        details={"data": {"test": 400}, "right": np.packbits(right).tobytes().hex()},
        seconds=1.0, command="", commit="", environment={}, finished_at="",
    ).append_to(folder / f"{experiment.split('/')[0]}.jsonl")  # fmt: skip


def test_the_ledger_answers_for_understanding_and_vision_with_the_best_rates(tmp_path):
    assert ledger(path=tmp_path, ids=["E12"])["verdict"].tolist() == ["not recorded yet"]
    values = {"attention": 0.9, "she": 0.91, "he": 0.7, "attention/two_sided": 0.8,
              "she/two_sided": 0.81}  # fmt: skip
    for seed in range(3):
        for variant, accuracy in values.items():
            plant(tmp_path, "labels/classroom/trec", variant, seed, 0.003, accuracy + 0.005 * seed)
            plant(tmp_path, "mixers/classroom/recall", variant, seed, 0.003, accuracy)
    plant(tmp_path, "labels/classroom/trec", "she", 0, 0.01, 0.4)  # a rate that is not chosen
    lines = ledger(path=tmp_path, ids=["E12"])
    found = lines[["claim", "verdict", "record"]].values.tolist()
    record = "labels/classroom/trec"
    assert sorted(found) == [
        ["HE reaches attention's accuracy", FAILS, record],
        ["SHE reaches attention's accuracy", HOLDS, record],
        ["SHE two-sided reaches attention's accuracy", HOLDS, record],
    ]
    row = lines[lines["claim"].str.startswith("HE ")].iloc[0]
    assert row["number"].startswith("-20.0 (")
    assert row["number"].endswith(") points")
    assert row["seeds"] == 3
    assert row["budget"] == "19,200 items read"
