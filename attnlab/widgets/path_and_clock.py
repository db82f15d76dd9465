"""Explorer of notebook 05: so many workers, and two programs that must be done."""

from __future__ import annotations

from matplotlib.figure import Figure

from attnlab.plots.path_and_clock import describe_busy_workers, plot_busy_workers
from attnlab.teaching.path_and_clock import busy_workers, level_sizes
from attnlab.widgets.core import Explorer, choice, show_explorer, slider

PROGRAMS = ("attention", "she")
ORDERS = {"tree": "sums in a tree", "sequential": "one addition after the other"}


def show_worker_explorer() -> Explorer | None:
    """Show who is done first, attention or SHE, when P workers share the next token."""
    controls = {
        "units": slider(
            "Workers P", value=8, minimum=1, maximum=256, tooltip="Each does one operation a step"
        ),
        "size": choice("Width d = context ℓ", options=[2, 4, 8], value=8, tooltip="Of both mixers"),
        "accumulate": choice(
            "Sums",
            options={"in a tree": "tree", "one after the other": "sequential"},
            tooltip="How terms are added up",
        ),
    }
    presets = [{"units": 8}, {"units": 128}, {"units": 128, "accumulate": "sequential"}]
    return show_explorer(draw_workers, controls, presets=presets, describe=describe_workers)


def draw_workers(*, units: int, size: int, accumulate: str) -> Figure:
    """Draw the busy workers of both programs, step by step."""
    return plot_busy_workers(_busy(units, size, accumulate), units=units)


def describe_workers(*, units: int, size: int, accumulate: str) -> str:
    """Say how long both take, and who is done first."""
    words = describe_busy_workers(_busy(units, size, accumulate), units=units)
    return f"d = ℓ = {size}, {ORDERS[accumulate]}. {words}"


def _busy(units: int, size: int, accumulate: str) -> dict[str, list[int]]:
    sizes = {"d_model": size, "context_len": size, "accumulate": accumulate}
    return {name: busy_workers(level_sizes(name, **sizes), units=units) for name in PROGRAMS}
