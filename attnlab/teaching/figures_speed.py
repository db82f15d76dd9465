"""Committed figures of critical paths and of the clock."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from attnlab.analysis import critical_path
from attnlab.figures import FigureWords, register_figure
from attnlab.mixers import build_mixer
from attnlab.plots.critical_path import describe_path, plot_path

SIZES = {"d_model": 128, "context_len": 128}
CHAINS = {"attention": {"n_heads": 4}, "she": {}}


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
