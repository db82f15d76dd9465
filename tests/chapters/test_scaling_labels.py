"""Pictures of understanding and vision: from made-up runs, from none, and of an image."""

import numpy as np
import pandas as pd
import pytest

from attnlab.chapters.scaling_and_other_tasks import labels
from attnlab.records import RunRecord

SHARES = {"attention": 0.80, "she": 0.90, "she/two_sided": 0.95, "identity": 0.50}


def made_up(tasks=("Questions", "News"), seeds=(0, 1, 2)):
    rows = [
        {"task": task, "variant": variant, "seed": seed, "test_accuracy": share - 0.01 * seed,
         "details.data.test": 400, "linear_accuracy": 0.875, "majority_accuracy": 0.25}
        for task in tasks for variant, share in SHARES.items() for seed in seeds
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_picture_of_accuracies_has_a_panel_a_task_and_names_best_and_control():
    one = labels.accuracy(made_up())
    assert one.html()
    assert "Questions: SHE, two sided 94.0 % at best, the linear model 87.5 %" in one.words
    assert "lower, hollow: two-sided" in one.words
    assert "Means over 3 seeds" in one.words
    assert len(one.fig.axes) == 2


def test_points_lie_at_means_with_exact_intervals():
    rows = {name: place for place, name in enumerate(("she", "attention", "identity"))}
    ax = labels.new_axes()
    part = made_up(("News",)).query("variant == 'she'")
    labels._place(ax, "she", part, rows)
    (line,), (bar,) = ax.lines[:1], ax.collections
    assert line.get_xdata()[0] == pytest.approx(89.0)
    low, high = 100 * np.array(labels.accuracy_interval(356, 400))
    assert bar.get_segments()[0][:, 0] == pytest.approx([low, high])


def test_one_seed_and_no_seed_are_said():
    assert "Means over 1 seed," in labels.accuracy(made_up(seeds=(0,))).words
    uneven = pd.concat([made_up(("News",)), made_up(("Questions",), seeds=(0,))])
    assert "Means over 1 to 3 seeds" in labels.accuracy(uneven).words
    assert labels.accuracy(made_up().iloc[:0]).words == labels.NOTHING


def plant(folder, variant, seed, lr, accuracy):
    record = RunRecord(
        experiment="labels/classroom/trec", variant=variant, seed=seed,
        config={"train": {"lr": lr}}, seconds=1.0,
        metrics={"validation_accuracy": accuracy, "validation_loss_nats": 1.0,
                 "test_accuracy": accuracy, "linear_accuracy": 0.9, "majority_accuracy": 0.2},
        details={"data": {"test": 400}},
        command="", commit="", environment={}, finished_at="",
    )  # fmt: skip
    record.append_to(folder / "labels.jsonl")


def test_recorded_runs_are_those_at_the_best_rate_and_none_is_an_empty_table(tmp_path):
    assert labels.recorded_labels(path=tmp_path).empty
    for seed, lr, accuracy in ((0, 0.1, 0.5), (0, 0.2, 0.7), (1, 0.2, 0.6), (1, 0.1, 0.9)):
        plant(tmp_path, "she", seed, lr, accuracy)
    runs = labels.recorded_labels(path=tmp_path)
    assert sorted(runs["test_accuracy"]) == [0.6, 0.7]
    assert set(runs["task"]) == {"Questions"}
    assert "Questions: SHE 65.0 % at best" in labels.accuracy(runs).words


def test_an_image_is_drawn_as_two_sequences_that_hold_all_of_it():
    image = labels.made_up_image()
    assert image.shape == (28, 28)
    assert 0.05 < (image > 0).mean() < 0.4
    one = labels.images_in_a_row()
    assert one.html()
    for words in ("196 steps of one number", "16 patches of 49 numbers", "14 steps later",
                  "patch below comes 4 steps later"):  # fmt: skip
        assert words in one.words
    assert labels.images_in_a_row(np.eye(28) * 255).words == one.words
