"""Critical paths from real modules: how many operations must follow each other.

A module is captured as torch's aten graph, and that is read as scalar operations. Three
models of cost: unlimited workers that add up in a tree, unlimited workers that add up one
after the other, and P workers, bounded by ``work / P + depth``.

What counts: multiplications (by constants too, a division by a constant among them),
additions, comparisons, exponentials and other functions of one number cost 1 each. Moving
numbers, changing a sign and computing with constants alone cost nothing. A product with 0 or
1, a sum with 0 and a score masked to minus infinity are no operations, so padding and masks
lengthen no chain. Fused attention is replaced by its equation.

The path belongs to the program, not to the equation: ``trace_step``, the definition in
``attnlab.mixers.naive`` and the methods of a parallel pass have different ones.
"""

from attnlab.analysis.critical_path.path import Path, Step
from attnlab.analysis.critical_path.trace import (
    Trace,
    crossover_units,
    trace_module,
    trace_step,
)

__all__ = [
    "Path",
    "Step",
    "Trace",
    "crossover_units",
    "trace_module",
    "trace_step",
]
