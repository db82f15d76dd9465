"""Explorer of critical paths: the chain of a mixer beside attention's, at any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as w
import pandas as pd
from matplotlib.figure import Figure

from attnlab.analysis.theory import expected_chain, expected_multiplications
from attnlab.plots.critical_path import describe_path, plot_path
from attnlab.show.style import look
from attnlab.widgets.core import Explorer, choice, show_explorer

MIXERS = ("she", "he", "we", "me")
LENGTHS = tuple(2**k for k in range(13))  # 1 to 4,096 tokens
WIDTHS = tuple(2**k for k in range(11))  # 1 to 1,024 channels
MOST_HEADS = 4
ORDERS = {"in a tree": "tree", "one by one": "sequential"}
PRESETS: tuple[Mapping[str, Any], ...] = (
    {},
    {"mixer": "he", "context_len": 2048},
    {"accumulate": "sequential"},
)


def show_path_explorer(
    *, mixers: Sequence[str] = MIXERS, presets: Sequence[Mapping[str, Any]] = PRESETS
) -> Explorer | None:
    """Show which operations must follow each other, for a mixer and for attention.

    The links come from closed forms, which equal the traced modules at every size, so that
    no large model has to be built.

    Args:
        mixers: Names to choose from, attention apart.
        presets: Still pictures: settings of ``mixer``, ``context_len``, ``d_model`` and
            ``accumulate``.
    """
    controls = {
        "mixer": choice("Mixer", options={look(name).label: name for name in mixers}),
        "context_len": doubling_slider("Context ℓ (tokens)", LENGTHS, value=128),
        "d_model": doubling_slider("Width d (channels)", WIDTHS, value=128),
        "accumulate": choice("Sums", options=ORDERS, tooltip="How terms are added up"),
    }
    return show_explorer(draw_paths, controls, presets=presets, describe=describe_paths)


def doubling_slider(description: str, values: Sequence[int], *, value: int) -> w.SelectionSlider:
    """Return a slider over whole numbers, each twice the one before."""
    return w.SelectionSlider(
        options=[(f"{number:,}", number) for number in values],
        value=value,
        description=description,
        tooltip=f"{description}. Arrow keys double or halve it.",
        style={"description_width": "initial"},
        layout=w.Layout(width="98%"),
    )


def draw_paths(*, mixer: str, context_len: int, d_model: int, accumulate: str) -> Figure:
    """Draw the chain of attention above that of the mixer."""
    table = chains_table(
        ("attention", mixer), context_len=context_len, d_model=d_model, accumulate=accumulate
    )
    return plot_path(table).figure


def describe_paths(*, mixer: str, context_len: int, d_model: int, accumulate: str) -> str:
    """Say both chains, and how many multiplications the next token takes."""
    sizes = {"context_len": context_len, "d_model": d_model}
    table = chains_table(("attention", mixer), accumulate=accumulate, **sizes)
    ratio = step_multiplications(mixer, **sizes) / step_multiplications("attention", **sizes)
    order = next(label for label, order in ORDERS.items() if order == accumulate)
    shown = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"
    return (
        f"ℓ = {context_len:,}, d = {d_model:,}, sums {order}. {describe_path(table)} "
        f"{look(mixer).label} multiplies {shown} times as often as attention."
    )


def chains_table(
    names: Sequence[str], *, context_len: int, d_model: int, accumulate: str
) -> pd.DataFrame:
    """Return one row a link for ``plot_path``, from the closed forms."""
    rows = []
    for name in names:
        sizes = {"context_len": context_len, "d_model": d_model, "n_heads": n_heads(d_model)}
        for step in expected_chain(name, accumulate=accumulate, **sizes):
            n_terms = step.depth + 1 if accumulate == "sequential" else 2**step.depth
            rows.append({"mixer": name, **step._asdict(), "n_terms": n_terms})
    return pd.DataFrame(rows)


def step_multiplications(name: str, *, context_len: int, d_model: int) -> int:
    """Return the multiplications for one newest token that sees a full context."""
    sizes = {"d_model": d_model, "n_heads": n_heads(d_model)}
    until = expected_multiplications(name, time=context_len, **sizes)
    before = expected_multiplications(name, time=context_len - 1, **sizes) if context_len > 1 else 0
    return until - before


def n_heads(d_model: int) -> int:
    """Return the heads that attention has here: four, or fewer in a narrow model."""
    return min(MOST_HEADS, d_model)
