"""Pictures of chapter 12 on understanding and vision: accuracies, and how an image is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from attnlab.analysis.accuracy import accuracy_interval
from attnlab.paths import RUNS
from attnlab.records import load_runs
from attnlab.show import LOOKS, look, new_axes, picture
from attnlab.studies.labels import RATE, TIES, TWO_SIDED, at_best_rate
from attnlab.tasks.images import patches, pixels_in_a_row

TASKS = {  # corpus of the study: how a picture calls it
    "trec": "Questions",
    "sst2": "Film reviews",
    "ag_news": "News",
    "mnist_pixels": "Digits, pixels in a row",
    "mnist_patches": "Digits, patches",
}
CONTROLS = {  # metric: words, dash
    "linear_accuracy": ("linear model", "dashed"),
    "majority_accuracy": ("commonest class", "dotted"),
}
COLUMNS = ("variant", "seed", "n_weights", "test_accuracy", "details.data.test", *CONTROLS, *TIES)
NOTHING = "Nothing is recorded yet; the picture fills by itself once there are runs."
STROKES = (((6, 7), (6, 20)), ((6, 20), (22, 11)), ((14, 10), (14, 20)))  # of a seven with a bar
SIZE = 28  # pixels
WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # behind a number on an image


def recorded_labels(
    corpora: Mapping[str, str] = TASKS, *, scale: str = "classroom", path: Path = RUNS
) -> pd.DataFrame:
    """Return the runs of the study ``labels``, each mixer at its best rate on validation.

    Args:
        corpora: Those to read, with words for each, which are the column ``task``.
    """
    parts = [pd.DataFrame(columns=[*COLUMNS, RATE, "task"])]
    for corpus, task in corpora.items():
        runs = load_runs(f"labels/{scale}/{corpus}", path=path, columns=[*COLUMNS, RATE])
        parts.append(at_best_rate(runs.dropna(subset=["test_accuracy"])).assign(task=task))
    alike = [part.astype(object) for part in parts if len(part)] or parts[:1]
    return pd.concat(alike, ignore_index=True).infer_objects()


@picture
def accuracy(runs: pd.DataFrame):
    """Test accuracy of every mixer, one panel a task, with the controls as lines.

    Args:
        runs: Rows ``task``, ``variant``, ``seed``, ``test_accuracy``, ``details.data.test``,
            ``linear_accuracy`` and ``majority_accuracy``; as ``recorded_labels`` returns them.
    """
    if runs.empty:
        ax = new_axes()
        ax.set(xlabel="Test accuracy (%)", ylabel="Mixer")
        return ax, NOTHING
    tasks = list(dict.fromkeys(runs["task"]))
    mixer = runs["variant"].str.removesuffix(TWO_SIDED)
    order = runs.groupby(mixer)["test_accuracy"].mean().sort_values(ascending=False).index
    rows = {name: place for place, name in enumerate(order)}
    size = (2.0 + 2.2 * len(tasks), 1.3 + 0.24 * len(rows))
    axes = np.atleast_1d(new_axes(size=size, columns=len(tasks), sharey=True))
    for ax, task in zip(axes, tasks, strict=True):
        own = runs[runs["task"] == task]
        for variant, part in own.groupby("variant"):
            _place(ax, str(variant), part, rows)
        for metric, (_, dash) in CONTROLS.items():
            ax.axvline(100 * own[metric].iloc[0], color=LOOKS["table"].colour, linestyle=dash)
        ax.set(xlabel=f"{task}:\ntest accuracy (%)")
    axes[0].set_yticks(range(len(rows)), [look(name).label for name in rows])
    axes[0].set(ylim=(len(rows) - 0.5, -0.5))
    n_seeds = runs.groupby(["task", "variant"])["seed"].nunique()
    said = "; ".join(_best(task, runs[runs["task"] == task]) for task in tasks)
    seeds = f"{n_seeds.min()} to {n_seeds.max()}" if n_seeds.nunique() > 1 else f"{n_seeds.min()}"
    return axes[0].figure, (
        "Upper of a pair, filled: causal; lower, hollow: two-sided. Dashed: a linear model "
        f"without a mixer. Dotted: always the commonest class. {said}. Means over {seeds} "
        f"{'seed' if seeds == '1' else 'seeds'}, rates chosen on validation; bars: exact 95 % "
        "intervals over the test items."
    )


def _place(ax: Axes, variant: str, part: pd.DataFrame, rows: Mapping[str, int]) -> None:
    """Draw the mean accuracy of one variant with its exact interval."""
    name, is_two_sided = variant.removesuffix(TWO_SIDED), variant.endswith(TWO_SIDED)
    mean, n = part["test_accuracy"].mean(), int(part["details.data.test"].iloc[0])
    low, high = accuracy_interval(round(mean * n), n)
    ends = [[100 * (mean - min(low, mean))], [100 * (max(high, mean) - mean)]]
    how = look(name).points() | {"markerfacecolor": "white" if is_two_sided else look(name).colour}
    y = rows[name] + (0.17 if is_two_sided else -0.17)
    ax.errorbar([100 * mean], [y], xerr=ends, linestyle="none", markersize=5, lw=1, **how)


def _best(task: str, own: pd.DataFrame) -> str:
    """Say which mixer is best on a task, and the control beside it."""
    means = own.groupby("variant")["test_accuracy"].mean()
    control = 100 * own["linear_accuracy"].iloc[0]
    best = f"{look(str(means.idxmax())).label} {100 * means.max():.1f} %"
    return f"{task}: {best} at best, the linear model {control:.1f} %"


def made_up_image(*, size: int = SIZE) -> NDArray[np.float64]:
    """Return an image of a digit drawn by this code, ``(size, size)`` greys from 0 to 255."""
    at = np.stack(np.mgrid[:size, :size], -1).astype(float)  # (H, W, 2): row, column
    nearest = np.full((size, size), np.inf)
    for start, end in np.array(STROKES, float) * size / SIZE:
        along = end - start
        share = ((at - start) @ along / (along @ along)).clip(0, 1)
        off = at - start - share[..., None] * along
        nearest = np.minimum(nearest, np.hypot(*np.moveaxis(off, -1, 0)))
    return 255 * (2.2 - nearest).clip(0, 1)


@picture
def images_in_a_row(image: NDArray[np.float64] | None = None):
    """How an image becomes a sequence: its pixels line by line, or squares of it.

    Args:
        image: Greys ``(28, 28)``; None takes one that was drawn for this picture.
    """
    image = made_up_image() if image is None else np.asarray(image, float)
    row, cut = pixels_in_a_row(image[None])[0, :, 0], patches(image[None])[0]
    halved, n_side = row.reshape(image.shape[0] // 2, -1), round(len(cut) ** 0.5)
    width = halved.shape[1]
    fig = mpl.figure.Figure(figsize=(7.2, 4.6), layout="constrained")
    parts = fig.subplot_mosaic([["pixels", "patches"], ["row", "row"], ["squares", "squares"]],
                               height_ratios=[3, 0.5, 0.8])  # fmt: skip
    grey = {"cmap": "gray_r", "vmin": 0, "vmax": 255}
    parts["pixels"].imshow(halved, **grey)
    zigzag = [(x, y) for y in range(3) for x in (0, width - 1)]
    parts["pixels"].plot(*zip(*zigzag, strict=True), color=look("she").colour, lw=1)
    parts["pixels"].set(xlabel="Column (mean of 2 x 2 pixels)", ylabel="Row")
    parts["patches"].imshow(image, **grey)
    step = image.shape[0] / n_side
    for place in range(len(cut)):
        y, x = divmod(place, n_side)
        parts["patches"].text(x * step, y * step, place + 1, size=8, va="top",
                              color=look("attention").colour, bbox=WHITE)  # fmt: skip
    for edge in step * np.arange(1, n_side) - 0.5:
        parts["patches"].axhline(edge, color=look("attention").colour, lw=0.8)
        parts["patches"].axvline(edge, color=look("attention").colour, lw=0.8)
    parts["patches"].set(xlabel="Column (pixels)", ylabel="Row")
    parts["row"].imshow(row[None], aspect="auto", interpolation="nearest", **grey)
    parts["row"].set(xlabel=f"Step of {len(row)}, one number each", yticks=[])
    side = round(cut.shape[1] ** 0.5)
    squares = np.pad(cut.reshape(-1, side, side), ((0, 0), (0, 0), (0, 1)), constant_values=90)
    parts["squares"].imshow(np.hstack(list(squares)), aspect="auto", **grey)
    middles = (side + 1) * np.arange(len(cut)) + side / 2 - 0.5
    parts["squares"].set_xticks(middles, [str(i + 1) for i in range(len(cut))])
    parts["squares"].set(xlabel=f"Step of {len(cut)}, {cut.shape[1]} numbers each", yticks=[])
    return fig, (
        f"The same image as {len(row)} steps of one number, read line by line, or as {len(cut)} "
        f"patches of {cut.shape[1]} numbers. In a row, the pixel below comes {width} steps later; "
        f"the patch below comes {n_side} steps later. "
        f"Halved to {halved.shape[0]} x {width} pixels first; patches are {side} x {side}."
    )
