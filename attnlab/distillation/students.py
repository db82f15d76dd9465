"""Students for self-attention, and the one way to build a student of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnlab.distillation.base import SelfStudent, Student
from attnlab.distillation.cross import CROSS_STUDENTS
from attnlab.distillation.nets import (
    Folded,
    SlotNet,
    SlotSums,
    linear,
    mask_out,
    require_slots,
    uniform,
)
from attnlab.distillation.sites import Key, StudentSpec, layers_of, require_layers, student_width
from attnlab.models import Translator
from attnlab.models.language_model import _seeded
from attnlab.seeding import torch_generator


class EncoderStudent(SelfStudent):
    """ALR, ASLR, ALRR or ELR: the whole sentence in, the whole sentence out.

    Shapes:
        x: ``(batch, time, d_model)``, time at most ``max_len``; returns the same shape.
    Source:
        arXiv:2311.10642, section 2; its code, ``models/definitions/*_FF.py``.
    """

    is_causal = False

    def __init__(self, spec: StudentSpec, **sizes: Any) -> None:
        super().__init__(spec, **sizes)
        self.n_parts = self.n_heads if spec.method == "aslr" else 1
        self.net = SlotNet(
            n_nets=self.n_students * self.n_parts,
            n_slots=self.max_len,
            d_in=self.d_model,
            width=self.width,
            n_out=self.max_len,
            d_out=self.d_model // self.n_parts,
            depth=spec.depth,
        )
        if spec.skip == "linear":
            size = self.d_model
            self.skip_weight = uniform(self.n_students, size, size, fan_in=size)

    def run(self, x: Tensor, *, source_padding: Tensor | None = None, **_: Any) -> Tensor:
        """Return what all students make of ``x``; zeros at padding."""
        require_slots(x.shape[2], max_len=self.max_len)
        x = mask_out(x, source_padding)
        for_each_part = x[:, None].expand(-1, self.n_parts, -1, -1, -1).flatten(0, 1)
        sums, folded = self.net.read_and_fold(for_each_part)
        y = self.net.write(self.net.hidden(sums, folded=folded), n_positions=x.shape[2])
        y = y.unflatten(0, (-1, self.n_parts)).movedim(1, 3).flatten(3)  # heads side by side
        return mask_out(self._with_skip(y, x), source_padding)

    def _with_skip(self, y: Tensor, x: Tensor) -> Tensor:
        if self.spec.skip == "none":
            return y
        return y + (x if self.spec.skip == "identity" else linear(x, self.skip_weight))


class DecoderStudentState(NamedTuple):
    """A running sum: what the net needs of all tokens so far, whatever their number."""

    sums: SlotSums  # (batch, width), (batch,), (batch,)
    position: int
    folded: Folded


class DecoderStudent(SelfStudent):
    """ALR in the decoder: one net maps every prefix to the head outputs of its last token.

    Position t is the net's value on the tokens 0 to t with the other slots empty. Written as a
    loop that is ``max_len`` passes (``attnlab.distillation.naive``); the first layer is a sum over
    slots, so one pass and a running sum give the same, and a new token costs the same at any t.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape.
    """

    def __init__(self, spec: StudentSpec, **sizes: Any) -> None:
        super().__init__(spec, **sizes)
        self.net = SlotNet(
            n_nets=self.n_students,
            n_slots=self.max_len,
            d_in=self.d_model,
            width=self.width,
            n_out=1,
            d_out=self.d_model,
            depth=spec.depth,
        )

    def run(self, x: Tensor, *, target_padding: Tensor | None = None, **_: Any) -> Tensor:
        """Return what all students make of every prefix of ``x``; zeros at padding."""
        require_slots(x.shape[2], max_len=self.max_len)
        sums = self.net.read_each(mask_out(x, target_padding)).running()
        return mask_out(self.net.write_each(self.net.hidden(sums)), target_padding)

    def initial_state(self, batch_size: int) -> DecoderStudentState:
        """Return the sums over nothing."""
        zeros = self.net.first_bias.new_zeros
        sums = SlotSums(zeros(batch_size, self.width), zeros(batch_size), zeros(batch_size))
        return DecoderStudentState(sums, 0, self.net.fold())

    def step(self, x_t: Tensor, state: DecoderStudentState) -> tuple[Tensor, DecoderStudentState]:
        """Read one more token ``(batch, d_model)``; return its head outputs and the next state."""
        x = x_t[None, :, None]
        require_slots(state.position + 1, max_len=self.max_len)
        newest = self.net.read(x, first_slot=state.position)
        sums = state.sums.of_one().plus(newest)
        y_t = self.net.write(self.net.hidden(sums, folded=state.folded), n_positions=1)[0, :, 0]
        return y_t, DecoderStudentState(sums.of_first(), state.position + 1, state.folded)


def build_student(
    spec: StudentSpec,
    *,
    max_len: int,
    d_model: int,
    n_heads: int,
    generator: torch.Generator | None = None,
) -> Student:
    """Return one untrained student.

    Args:
        spec: What it replaces and how it is built.
        max_len: Positions it has slots for, on each side.
        d_model: Width of the residual stream.
        n_heads: Heads of the teacher.
        generator: Makes the initial weights a function of its seed.
    """
    kind = CROSS_STUDENTS[spec.layout] if spec.site == "cross" else _SELF_STUDENTS[spec.site]
    with _seeded(generator):
        return kind(spec, max_len=max_len, d_model=d_model, n_heads=n_heads)


def build_students(
    teacher: Translator,
    *,
    spec: StudentSpec,
    seed: int = 0,
    layers: Sequence[int] | None = None,
) -> dict[Key, Student]:
    """Return untrained students for the layers of a teacher, by ``(site, layer)``.

    Args:
        spec: What they replace and how they are built.
        seed: Picks the initial weights (stream ``init/...``), apart for each layer.
        layers: Which layers, counted from 0; None: all.
    """
    config, n_layers = teacher.config, len(layers_of(teacher, site=spec.site))
    layers = range(n_layers) if layers is None else layers
    require_layers(layers, n_layers=n_layers, site=spec.site)
    students = {}
    for layer in layers:
        students[spec.site, layer] = build_student(
            spec,
            max_len=config.max_len,
            d_model=config.d_model,
            n_heads=config.n_heads,
            generator=torch_generator(seed, f"init/{spec.site}/{layer}"),
        ).to(teacher.head.weight)
    return students


def expected_student_weights(
    method: str, *, size: str, max_len: int, d_model: int, n_heads: int, **options: Any
) -> int:
    """Return the number of weights of one student in closed form.

    With W = ``max_len * d_model`` and h hidden units, one hidden layer: ``2Wh + 3W + 3h`` for
    ALR, ALRR and ELR; ``Wh + hO + 2W + 3h + O`` a head with O = W / n_heads for ASLR;
    ``Wh + hd + 2W + 3h + d`` in the decoder; ``3Wh + 5W + 3h`` for the paper's cross net.

    Args:
        method: ``alr``, ``aslr``, ``alrr`` or ``elr``.
        options: What ``StudentSpec`` takes besides, such as ``site`` and ``layout``.

    Source:
        arXiv:2311.10642, appendix.
    """
    spec = StudentSpec(method=method, size=size, **options)
    h, d = student_width(spec, max_len=max_len, d_model=d_model), d_model
    if spec.site == "cross" and spec.layout == "low_rank":
        return 2 * d * n_heads * h + d * d
    if spec.site == "cross" and spec.layout == "extractor":
        return d * d + h * ((2 * max_len - 1) * d + d * d + d)
    n_in, n_out, n_nets = _shape(spec, max_len, d, n_heads)
    net = n_in * h + h * n_out + 2 * n_in + 3 * h + n_out + (spec.depth - 1) * (h * h + 3 * h)
    gate = d * h if spec.gate else 0
    head = 2 * d * (d // n_heads) + d * d if spec.learned_head else 0
    skip = d * d if spec.skip == "linear" else 0
    return n_nets * net + gate + head + skip


def _shape(spec: StudentSpec, max_len: int, d: int, n_heads: int) -> tuple[int, int, int]:
    """Return inputs and outputs of a net, and the number of nets."""
    if spec.site == "encoder_self":
        n_nets = n_heads if spec.method == "aslr" else 1
        return max_len * d, max_len * d // n_nets, n_nets
    if spec.site == "decoder_self":
        return max_len * d, d, 1
    return (
        ((max_len + 1) * d, d, 1)
        if spec.layout == "per_query"
        else (2 * max_len * d, max_len * d, 1)
    )


_SELF_STUDENTS: dict[str, type[SelfStudent]] = {
    "encoder_self": EncoderStudent,
    "decoder_self": DecoderStudent,
}
