"""Committed figures of the study ``attentionless``, drawn from its records."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from attnlab.figures import FigureWords, register_figure
from attnlab.plots.price import describe_price, plot_price
from attnlab.plots.replacing_records import (
    describe_forced_against_free,
    describe_ways,
    plot_forced_against_free,
    plot_ways,
)
from attnlab.studies.replaced import AIM
from attnlab.teaching.replacing_price import CLOCKS, price_table
from attnlab.teaching.replacing_records import CAPTIONS, SMALL, cross_points, ways_points
from attnlab.teaching.replacing_runs import EXPERIMENT, recorded_arms

FILE = "data/runs/attentionless.jsonl"
CLOCK_FILE = "data/runs/speed.jsonl"


@register_figure("replacing-cross")
def draw_replacing_cross() -> tuple[Figure, FigureWords]:
    """Draw next tokens right against BLEU at the cross site, on toy and captions."""
    points = cross_points()
    words = describe_forced_against_free(points)
    return plot_forced_against_free(points), _words(words, (EXPERIMENT, CAPTIONS))


@register_figure("replacing-price")
def draw_replacing_price() -> tuple[Figure, FigureWords]:
    """Draw BLEU on captions against weights and against the time of a sentence."""
    table = price_table(experiment=CAPTIONS)
    records = (f"{CLOCK_FILE}#{CLOCKS[CAPTIONS]}",) if table["ms"].notna().any() else ()
    words = f"Captions, German to English. {describe_price(table, aim=AIM)}"
    return plot_price(table, aim=AIM), _words(words, (CAPTIONS,), more=records)


@register_figure("replacing-scratch")
def draw_replacing_scratch() -> tuple[Figure, FigureWords]:
    """Draw BLEU by way of learning, with many and with few pairs of the toy languages."""
    points, teachers = ways_points()
    words = f"Toy languages. {describe_ways(points, teachers=teachers)}"
    return plot_ways(points, teachers=teachers), _words(words, (EXPERIMENT, SMALL))


def _words(words: str, experiments: Sequence[str], *, more: Sequence[str] = ()) -> FigureWords:
    tables = {name: recorded_arms(experiment=name) for name in experiments}
    known = {name: table for name, table in tables.items() if len(table)}
    seeds = "; ".join(
        f"{name}: {', '.join(str(seed) for seed in sorted(set(table['seed'])))}"
        for name, table in known.items()
    )
    said = f"{words} Points are seeds ({seeds})."
    return FigureWords(
        caption=said,
        alt=said,
        records=(*(f"{FILE}#{name}" for name in known), *more),
        commit=str(list(known.values())[-1]["commit"].iloc[-1]) if known else None,
    )
