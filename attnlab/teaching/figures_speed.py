"""Committed figures of critical paths and of the clock."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from attnlab.analysis import critical_path
from attnlab.figures import FigureWords, register_figure
from attnlab.mixers import build_mixer
from attnlab.plots.critical_path import describe_path, plot_path
from attnlab.plots.speed import (
    describe_generation_growth,
    describe_ratio_by_length,
    plot_generation_growth,
    plot_ratio_by_length,
    select_points,
)
from attnlab.records import load_runs

FILE = "data/runs/speed.jsonl"
SIZES = {"d_model": 128, "context_len": 128}
CHAINS = {"attention": {"n_heads": 4}, "she": {}}
MIXERS = ("she", "he", "we", "me")
STREAMS = ("attention", "she", "he", "we", "me", "she/ring")


@register_figure("critical-path")
def draw_critical_path() -> tuple[Figure, FigureWords]:
    """Draw the chains that the tracer finds in attention and in SHE, newest token."""
    table = path_table()
    ax = plot_path(table)
    words = describe_path(table)
    return ax.figure, FigureWords(caption=words, alt=words)


def path_table() -> pd.DataFrame:
    """Return the traced chains of attention and SHE at d = l = 128, one row a step."""
    parts = []
    for name, options in CHAINS.items():
        mixer = build_mixer(name, **SIZES, **options)
        path = critical_path.trace_step(mixer).longest_path(accumulate="tree")
        parts.append(path.table().assign(mixer=name))
    return pd.concat(parts, ignore_index=True)


@register_figure("speed-training")
def draw_speed_training() -> tuple[Figure, FigureWords]:
    """Draw forward and backward of each mixer over attention's, by length."""
    points = recorded_points("mixers", work="training", batch=16)
    points = points[points["variant"].isin(MIXERS)]
    ax = plot_ratio_by_length(points)
    words = f"{describe_ratio_by_length(points)} {_how(points)}"
    return ax.figure, _recorded(words, points)


@register_figure("speed-generation")
def draw_speed_generation() -> tuple[Figure, FigureWords]:
    """Draw the time of one more token against the context."""
    points = recorded_points("generation", work="layer")
    points = points[points["variant"].isin(STREAMS)]
    fig = plot_generation_growth(points)
    words = f"{describe_generation_growth(points)} {_how(points)}"
    return fig, _recorded(words, points)


def recorded_points(part: str, **sizes: object) -> pd.DataFrame:
    """Return the newest series of a part at paper scale, on torch's default route."""
    runs = load_runs(f"speed/paper/{part}/")
    points = select_points(runs, device="cpu", precision="fp32", route="default", **sizes)
    return points[points["seed"] == points["seed"].max()]


def _how(points: pd.DataFrame) -> str:
    threads = ", ".join(f"{n:.0f}" for n in sorted(points["config.threads"].unique()))
    repeats = int(points["config.repeats"].min())
    return (
        f"Layers of width 128, float32, {threads} CPU thread; medians of {repeats} interleaved "
        "rounds, bars are quartiles."
    )


def _recorded(words: str, points: pd.DataFrame) -> FigureWords:
    records = tuple(f"{FILE}: {name}" for name in sorted(points["experiment"].unique()))
    return FigureWords(
        caption=words, alt=words, records=records, commit=str(points["commit"].iloc[-1])
    )
