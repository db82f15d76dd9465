"""Committed figures of the language-model study, drawn from its records."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from attnlab.analysis.compare import latest_runs, seed_ranges
from attnlab.figures import FigureWords, register_figure
from attnlab.plots.curves import describe_final_gaps, plot_final_gaps
from attnlab.plots.language import (
    describe_cost_and_held_out,
    describe_curves_and_differences,
    describe_ranking,
    describe_runs,
    plot_cost_and_held_out,
    plot_curves_and_differences,
)
from attnlab.records import load_curves, load_runs

BOOKS = "language-model/paper/children"
TALES = "language-model/classroom/tales"
FILE = "data/runs/language-model.jsonl"


@register_figure("loss-children")
def draw_loss_children() -> tuple[Figure, FigureWords]:
    """Draw validation loss over one pass of a hundred children's books."""
    runs, curves = latest_runs(load_runs(BOOKS)), named_curves(BOOKS)
    fig = plot_curves_and_differences(curves, baseline="attention")
    words = describe_curves_and_differences(curves, baseline="attention")
    return fig, _words(f"{words} {describe_runs(runs)}", BOOKS, runs)


@register_figure("final-children")
def draw_final_children() -> tuple[Figure, FigureWords]:
    """Draw training cost and held-out loss after the pass over the books."""
    runs = latest_runs(load_runs(BOOKS))
    columns = {"cost": "train_loss_nats", "held_out": "test_loss_nats"}
    ax = plot_cost_and_held_out(runs, **columns)
    ranking = describe_ranking(seed_ranges(runs, metric="test_loss_nats"), what="test loss")
    words = f"{describe_cost_and_held_out(runs, **columns)} {ranking} {describe_runs(runs)}"
    return ax.figure, _words(words, BOOKS, runs)


@register_figure("tales-gap")
def draw_tales_gap() -> tuple[Figure, FigureWords]:
    """Draw how far above the true source each model ends on the tales."""
    runs = latest_runs(load_runs(TALES))
    gaps = gap_table(runs)
    ax = plot_final_gaps(gaps, oracle_nats=0.0)
    words = f"{describe_final_gaps(gaps, oracle_nats=0.0)} {describe_runs(runs)}"
    return ax.figure, _words(words, TALES, runs)


def named_curves(experiment: str) -> pd.DataFrame:
    """Return the curves of an experiment as ``plot_loss_curves`` reads them."""
    curves = load_curves(experiment).rename(columns={"variant": "name"})
    return curves.drop_duplicates(["name", "seed", "tokens_seen"], keep="last")


def gap_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the gap to the true source of each run as ``plot_final_gaps`` reads it."""
    table = runs[["variant", "seed", "test_gap_nats"]]
    return table.rename(columns={"variant": "name", "test_gap_nats": "loss_nats"})


def _words(words: str, experiment: str, runs: pd.DataFrame) -> FigureWords:
    commits = sorted(set(runs["commit"].astype(str)))
    return FigureWords(
        caption=words,
        alt=words,
        records=(f"{FILE}#{experiment}",),
        commit=commits[-1] if commits else None,
    )
