"""Plots: tables in, axes and sentences out; no torch."""

from attnlab.plots.curves import (
    describe_final_gaps,
    describe_loss_curves,
    describe_staircase,
    final_losses,
    mark_guess,
    plot_final_gaps,
    plot_loss_curves,
    plot_staircase,
)
from attnlab.plots.matrices import (
    describe_lag_kernel,
    describe_lag_kernels,
    describe_matrix,
    lag_profile,
    plot_lag_kernel,
    plot_lag_kernels,
    plot_matrix,
)
from attnlab.show.style import LOOKS, Look, look, register_look, style

__all__ = [
    "LOOKS",
    "Look",
    "describe_final_gaps",
    "describe_lag_kernel",
    "describe_lag_kernels",
    "describe_loss_curves",
    "describe_matrix",
    "describe_staircase",
    "final_losses",
    "lag_profile",
    "look",
    "mark_guess",
    "plot_final_gaps",
    "plot_lag_kernel",
    "plot_lag_kernels",
    "plot_loss_curves",
    "plot_matrix",
    "plot_staircase",
    "register_look",
    "style",
]
