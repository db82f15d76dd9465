"""Pictures of recorded replacements: two scores side by side, and what came of ways to learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attnlab.plots.labels import name_points, ranged
from attnlab.show.style import LOOKS

ARROW = {"arrowstyle": "-|>", "color": "#6E6E6E", "lw": 1.1, "shrinkA": 4, "shrinkB": 4}
DODGE = 0.2  # rows between two kinds of translators that learnt in the same way


# Right past given, and written freely


def plot_forced_against_free(points: pd.DataFrame) -> Figure:
    """Draw BLEU against next tokens right, one panel a set of sentences.

    An arrow leads from a stand-in as it was taught to the same one, tuned on the translations.

    Args:
        points: Rows ``data``, ``label``, ``look``, ``is_tuned``, ``accuracy`` (0 to 1) and
            ``bleu``; several rows with one label are seeds.
    """
    sets = list(dict.fromkeys(points["data"]))
    fig, axes = plt.subplots(
        1, len(sets), figsize=(1.4 + 3.7 * len(sets), 3.8), squeeze=False, layout="constrained"
    )
    for ax, data in zip(axes[0], sets, strict=True):
        _draw_scores(ax, points[points["data"] == data])
        ax.set_title(data, fontsize=10)
        ax.set_xlabel("Next token right, right past given (%)")
    axes[0, 0].set_ylabel("BLEU, written freely")
    return fig


def _draw_scores(ax: Axes, points: pd.DataFrame) -> None:
    names: dict[str, tuple[float, float]] = {}
    colours: dict[str, str] = {}
    for label, part in points.groupby("label", sort=False):
        its = LOOKS[part["look"].iloc[0]]
        ax.plot(100 * part["accuracy"], part["bleu"], linestyle="none", **its.points())
        stages = {bool(is_tuned): _middle(rows) for is_tuned, rows in part.groupby("is_tuned")}
        if len(stages) == 2:
            ax.annotate("", stages[True], stages[False], arrowprops=ARROW)
        name = _staged(str(label), is_tuned=True in stages)
        names[name], colours[name] = stages[max(stages)], its.colour
    ax.margins(0.08)
    name_points(ax, names, colours=colours)


def _middle(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the seed nearest to the mean BLEU."""
    row = rows.iloc[(rows["bleu"] - rows["bleu"].mean()).abs().argmin()]
    return 100 * float(row["accuracy"]), float(row["bleu"])


def _staged(label: str, *, is_tuned: bool) -> str:
    return f"{label}, tuned" if is_tuned else label


def describe_forced_against_free(points: pd.DataFrame) -> str:
    """Say both scores of each stand-in, before and after tuning, set by set."""
    sentences = []
    for data, part in points.groupby("data", sort=False):
        said = []
        for (label, is_tuned), rows in part.groupby(["label", "is_tuned"], sort=False):
            name = _staged(str(label), is_tuned=bool(is_tuned))
            accuracy = ranged(100 * rows["accuracy"], "%")
            said.append(f"{name} {accuracy}, BLEU {ranged(rows['bleu'])}")
        sentences.append(f"{data}: {'; '.join(said)}.")
    return (
        "Next tokens right with the right past given, and BLEU written freely. "
        f"{' '.join(sentences)} Arrows: tuned after the swap."
    )


# Ways to learn


def plot_ways(points: pd.DataFrame, *, teachers: Mapping[str, float]) -> Figure:
    """Draw BLEU by the way in which a translator learnt, one panel a set of training sentences.

    Args:
        points: Rows ``data``, ``way``, ``arm``, ``look``, ``fill`` and ``bleu``; several rows of
            a kind are seeds. The order of the rows is that of the picture.
        teachers: BLEU of the same translator with attention, by set.
    """
    ways = list(dict.fromkeys(points["way"]))
    arms = list(dict.fromkeys(points["arm"]))
    size = (1.8 + 3.1 * len(teachers), 1.5 + 0.36 * len(ways))
    fig, axes = plt.subplots(
        1, len(teachers), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for ax, (data, teacher) in zip(axes[0], teachers.items(), strict=True):
        here = points[points["data"] == data]
        for place, arm in enumerate(arms):
            part = here[here["arm"] == arm]
            shift = DODGE * (place - (len(arms) - 1) / 2)
            rows = [ways.index(way) + shift for way in part["way"]]
            ax.plot(part["bleu"], rows, linestyle="none", label=arm, **_points(points, arm))
        ax.axvline(teacher, color=LOOKS["attention"].colour, lw=1.4, label="attention (teacher)")
        ax.set_title(data, fontsize=10)
        ax.set(xlabel="BLEU, written freely", xlim=(-3, 103))
        for row in range(1, len(ways)):
            ax.axhline(row - 0.5, color="#DDDDDD", lw=0.8, zorder=0)
    axes[0, 0].set_yticks(range(len(ways)), ways)
    axes[0, 0].set_ylim(len(ways) - 0.5, -0.5)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return fig


def _points(points: pd.DataFrame, arm: str) -> dict[str, Any]:
    first = points[points["arm"] == arm].iloc[0]
    return {**LOOKS[first["look"]].points(), "fillstyle": first["fill"]}


def describe_ways(points: pd.DataFrame, *, teachers: Mapping[str, float]) -> str:
    """Say the BLEU of each translator and way, set by set."""
    sentences = []
    for data, teacher in teachers.items():
        here = points[points["data"] == data]
        said = [
            f"{arm}: "
            + ", ".join(
                f"{str(way).lower()} {ranged(rows['bleu'])}"
                for way, rows in part.groupby("way", sort=False)
            )
            for arm, part in here.groupby("arm", sort=False)
        ]
        found = "; ".join(said) or "not recorded yet"
        sentences.append(f"{data} (attention {teacher:.1f}): {found}.")
    return f"BLEU by way of learning. {' '.join(sentences)}"
