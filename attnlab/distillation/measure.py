"""How far students are from their teacher, in numbers that compare across methods and layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attnlab.distillation.base import Student
from attnlab.distillation.capture import Activations, LiveActivations
from attnlab.distillation.cross import PaperCross
from attnlab.distillation.nets import mask_out
from attnlab.distillation.sites import Key

Students = Mapping[Key, Student]
Lessons = Activations | LiveActivations


@dataclass(frozen=True, kw_only=True, eq=False)
class StudentErrors:
    """Relative squared errors on held-out sentences, one for each layer; a constant has 1.

    Shapes:
        update: ``(n_layers,)``: of what is added to the residual stream, so that methods compare.
        heads: ``(n_layers, n_heads)``: of each head's output; None with ``alrr`` and ``elr``.
    """

    update: Tensor
    heads: Tensor | None = None


@torch.no_grad()
def measure_errors(
    students: Students | Student, *, held_out: Activations, batch_size: int = 64
) -> StudentErrors:
    """Return how far students are from the teacher on held-out sentences.

    A causal cross net is measured as it is used, prefix by prefix; the paper's with the whole
    target before it, as it is trained. ``student.sees_future`` changes that.

    Args:
        students: By ``(site, layer)``, for the layers of the lessons; or a stack of them.
    """
    stack = stack_for(students, lessons=held_out) if isinstance(students, Mapping) else students
    spread = held_out.spread
    update = torch.zeros_like(spread.update)
    heads = None if spread.heads is None else torch.zeros_like(spread.heads)
    for batch in held_out.in_order(batch_size=batch_size):
        found = mask_out(stack.run(batch.inputs, **batch.context), batch.padding)
        wrong = (found - batch.targets).double()
        moved = held_out.updates(torch.zeros_like(batch.inputs), found - batch.targets)
        update += moved.double().square().sum((1, 2, 3))
        if heads is not None:
            parts = wrong.unflatten(-1, (held_out.n_heads, -1))
            heads += parts.square().sum((1, 2, 4))
    return StudentErrors(
        update=(update / spread.update).cpu(),
        heads=None if heads is None or spread.heads is None else (heads / spread.heads).cpu(),
    )


def stack_for(students: Students, *, lessons: Lessons) -> Student:
    """Return the students of the layers of some lessons, stacked."""
    chosen = [students[lessons.spec.site, layer] for layer in lessons.layers]
    stack = type(chosen[0]).stack(chosen)
    if isinstance(stack, PaperCross) and isinstance(chosen[0], PaperCross):
        stack.sees_future = chosen[0].sees_future
    return stack
