"""What every student has in common: a specification, sizes, and several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from attnlab.distillation.sites import StudentSpec, student_width


class Student(nn.Module):
    """A net that stands where a teacher's attention stood.

    Every weight has a first axis over the students it holds, so that the students of all layers
    can be trained in one batched pass; a student that stands at a site holds one.

    Args:
        spec: What it replaces and how it is built.
        max_len: Positions it has slots for, on each side.
        d_model: Width of the residual stream.
        n_heads: Heads of the teacher.
        n_students: Students side by side.
    """

    is_causal = True  # whether no output depends on a later position

    def __init__(
        self, spec: StudentSpec, *, max_len: int, d_model: int, n_heads: int, n_students: int = 1
    ) -> None:
        super().__init__()
        self.spec, self.n_students = spec, n_students
        self.max_len, self.d_model, self.n_heads = max_len, d_model, n_heads
        self.width = student_width(spec, max_len=max_len, d_model=d_model)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes it was built with, besides the specification."""
        return {"max_len": self.max_len, "d_model": self.d_model, "n_heads": self.n_heads}

    @property
    def n_weights(self) -> int:
        """Number of trainable numbers."""
        return sum(weight.numel() for weight in self.parameters())

    @classmethod
    def stack(cls, students: Sequence[Self]) -> Self:
        """Return one student that holds copies of these, which have the same shape."""
        first = students[0]
        with torch.device("meta"):  # shapes alone: the weights are there already
            stacked = cls(first.spec, **first.sizes, n_students=len(students))
        parts = [student.state_dict() for student in students]
        weights = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        stacked.load_state_dict(weights, assign=True)
        return stacked

    @torch.no_grad()
    def unstack(self, students: Sequence[Student]) -> None:
        """Copy the weights of each back into the students it was made of."""
        for name, weight in self.named_parameters():
            pieces = weight.chunk(len(students))
            for student, piece in zip(students, pieces, strict=True):
                student.get_parameter(name).copy_(piece)

    def run(self, x: Tensor, **context: Any) -> Tensor:
        """Return what all students make of their inputs ``(n_students, batch, time, d_model)``."""
        raise NotImplementedError


class SelfStudent(Student):
    """A student at a site of self-attention, called as the site is."""

    def forward(self, x: Tensor, **padding: Tensor | None) -> Tensor:
        """Return what stands for the replaced part's output, ``(batch, time, d_model)``."""
        return self.run(x[None], **padding)[0]


class CrossStudent(Student):
    """A student at the site of cross-attention, called as the site is."""

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        """Return what stands for the head outputs, ``(batch, target_time, d_model)``.

        Shapes:
            x: ``(batch, target_time, d_model)``; memory: ``(batch, source_time, d_model)``.
        """
        return self.run(
            x[None],
            memory=memory[None],
            source_padding=source_padding,
            target_padding=target_padding,
        )[0]
