"""Students for self-attention, and the one way to build a student of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attnlab.distillation.cross import CROSS_STUDENTS
from attnlab.distillation.nets import (
    PrefixState,
    SlotSums,
    Student,
    mask_out,
    require_slots,
    uniform,
)
from attnlab.distillation.sites import (
    Key,
    StudentSpec,
    chosen_layers,
    find_site,
    student_width,
)
from attnlab.distillation.stand_ins import STAND_IN_KINDS, StandIn, expected_stand_in_weights
from attnlab.models import Translator
from attnlab.seeding import seeded, torch_generator


class EncoderStudent(Student):
    """ALR, ASLR, ALRR or ELR: the whole sentence in, the whole sentence out.

    Shapes:
        x: ``(batch, time, d_model)``, time at most ``max_len``; returns the same shape.
    Source:
        arXiv:2311.10642, by its released code, ``models/definitions/*_FF.py``.
    """

    is_causal = False

    def __init__(self, spec: StudentSpec, **sizes: Any) -> None:
        super().__init__(spec, **sizes)
        heads = {"d_out": self.d_model // self.n_heads, "n_nets": self.n_heads}
        how = heads if spec.method == "aslr" else {}
        self.net = self.make_net(n_slots=self.max_len, n_out=self.max_len, **how)
        if spec.skip == "linear":
            self.skip_weight = uniform(self.d_model, self.d_model, fan_in=self.d_model)

    def forward(self, x: Tensor, *, source_padding: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return what stands for the replaced part's output; zeros at padding."""
        require_slots(x.shape[1], max_len=self.max_len)
        x = mask_out(x, source_padding)
        y = self.net.write(self.net.hidden(*self.net.read_and_fold(x)), n_positions=x.shape[1])
        if self.spec.method == "aslr":
            y = y.movedim(0, 2).flatten(2)  # (H, B, T, K) to (B, T, D): heads side by side
        if self.spec.skip != "none":
            y = y + (x if self.spec.skip == "identity" else x @ self.skip_weight)
        return mask_out(y, source_padding)


class DecoderStudent(Student):
    """ALR in the decoder: one net maps every prefix to the head outputs of its last token.

    Position t is the net's value on the tokens 0 to t with the other slots empty. Written as a
    loop that is ``max_len`` passes (``attnlab.distillation.naive``); the first layer is a sum over
    slots, so one pass and a running sum give the same, and a new token costs the same at any t.
    """

    def __init__(self, spec: StudentSpec, **sizes: Any) -> None:
        super().__init__(spec, **sizes)
        self.net = self.make_net(n_slots=self.max_len, n_out=1)

    def initial_state(self, batch_size: int) -> PrefixState:  # type: ignore[override]
        """Return the sums over nothing."""
        zeros = self.net.first_bias.new_zeros
        sums = SlotSums(zeros(batch_size, self.width), zeros(batch_size), zeros(batch_size))
        return PrefixState(sums, 0, self.net.fold())

    def answer(self, x: Tensor, state: PrefixState) -> tuple[Tensor, PrefixState]:
        """Return the outputs at the next tokens ``(batch, time, d_model)``, and the next state."""
        require_slots(state.position + x.shape[1], max_len=self.max_len)
        return self.net.write_prefixes(x, state)


_SELF_STUDENTS: dict[str, type[Student]] = {
    "encoder_self": EncoderStudent,
    "decoder_self": DecoderStudent,
}


def build_student(
    spec: StudentSpec,
    *,
    max_len: int,
    d_model: int,
    n_heads: int,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Student:
    """Return one untrained student.

    Args:
        spec: What it replaces and how it is built.
        max_len: Positions it has slots for, on each side.
        d_model: Width of the residual stream.
        n_heads: Heads of the teacher.
        generator: Makes the initial weights a function of its seed.
        options: Of a stand-in: ``bias``, whether its maps add one, as the teacher's may.
    """
    kind: type[Student]
    if spec.is_stand_in:
        kind = STAND_IN_KINDS[spec.method]
    else:
        kind = CROSS_STUDENTS[spec.layout] if spec.site == "cross" else _SELF_STUDENTS[spec.site]
    with seeded(generator):
        return kind(spec, max_len=max_len, d_model=d_model, n_heads=n_heads, **options)


def build_students(
    teacher: Translator,
    *,
    spec: StudentSpec,
    seed: int = 0,
    layers: Sequence[int] | None = None,
) -> dict[Key, Student]:
    """Return untrained students for the layers of a teacher, by ``(site, layer)``.

    A stand-in begins with the queries, keys and values of the attention that stands in the layer,
    or of the stand-in that has taken its place.

    Args:
        spec: What they replace and how they are built.
        seed: Picks the initial weights (stream ``init/...``), apart for each layer.
        layers: Which layers, counted from 0; None: all.
    """
    if not isinstance(teacher, Translator) or not isinstance(spec, StudentSpec):
        raise TypeError("students need a Translator as their teacher, and a StudentSpec")
    config = teacher.config
    sizes = {"max_len": config.max_len, "d_model": config.d_model, "n_heads": config.n_heads}
    if spec.is_stand_in and config.attention_bias:
        sizes["bias"] = True
    students = {}
    for layer in chosen_layers(teacher, site=spec.site, layers=layers):
        generator = torch_generator(seed, f"init/{spec.site}/{layer}")
        student = build_student(spec, **sizes, generator=generator)
        if isinstance(student, StandIn):
            student.copy_maps(find_site(teacher, site=spec.site, layer=layer))
        students[spec.site, layer] = student.to(teacher.head.weight)
    return students


def expected_student_weights(
    method: str, *, size: str, max_len: int, d_model: int, n_heads: int, **options: Any
) -> int:
    """Return the number of weights of one student in closed form.

    With W = ``max_len * d_model`` and h hidden units, one hidden layer: ``2Wh + 3W + 3h`` for
    ALR, ALRR and ELR; ``Wh + hO + 2W + 3h + O`` a head with O = W / n_heads for ASLR;
    ``Wh + hd + 2W + 3h + d`` in the decoder; ``3Wh + 5W + 3h`` for the paper's cross net.
    Stand-ins: see ``attnlab.distillation.stand_ins``.

    Args:
        method: As ``StudentSpec`` has it.
        options: What ``StudentSpec`` takes besides, such as ``site`` and ``layout``.

    Source:
        arXiv:2311.10642, by its released code.
    """
    spec = StudentSpec(method=method, size=size, **options)
    if spec.is_stand_in:
        return expected_stand_in_weights(spec, d_model=d_model, n_heads=n_heads)
    h, d = student_width(spec, max_len=max_len, d_model=d_model), d_model
    if spec.site == "cross" and spec.layout == "low_rank":
        return 2 * d * n_heads * h + d * d
    if spec.site == "cross" and spec.layout == "extractor":
        return d * d + h * ((2 * max_len - 1) * d + d * d + d)
    W, is_query = max_len * d, spec.layout == "per_query"
    n_nets = n_heads if spec.method == "aslr" else 1
    n_in, n_out = {
        "encoder_self": (W, W // n_nets),
        "decoder_self": (W, d),
        "cross": (W + d, d) if is_query else (2 * W, W),
    }[spec.site]
    net = n_in * h + h * n_out + 2 * n_in + 3 * h + n_out + (spec.depth - 1) * (h * h + 3 * h)
    gate = d * h if spec.gate else 0
    head = 2 * d * (d // n_heads) + d * d if spec.learned_head else 0
    skip = d * d if spec.skip == "linear" else 0
    return n_nets * net + gate + head + skip
