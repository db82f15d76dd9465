"""Part ``distillation``: students side by side, prefix sums, and where lessons come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, cast

import torch
from torch import Tensor

from attnlab.analysis.timing import peak_memory_mib, saved_for_backward_mib
from attnlab.distillation import DecoderStudent, Student, StudentSpec, build_student
from attnlab.distillation.capture import ActivationBatch
from attnlab.distillation.naive import decoder_naive
from attnlab.distillation.nets import mask_out
from attnlab.distillation.steps import relative_losses, student_optimizer
from attnlab.seeding import torch_generator
from attnlab.studies.speed.core import Entrant, Part, Race, SpeedPlan
from attnlab.studies.speed.lessons import Sizes, lessons_race
from attnlab.studies.speed.work import counted_flops, noise, require_equal, training_pass

TOGETHER, ONE_BY_ONE = "together", "one_by_one"
PREFIX_SUMS, MASKED_LOOP = "prefix_sums", "masked_loop"
GRIDS = {
    "smoke": Sizes(d_model=8, max_len=6, n_layers=2, n_heads=2, vocab_size=20, batch=8),
    "classroom": Sizes(d_model=32, max_len=24, n_layers=2, n_heads=4, vocab_size=92, batch=64),
    "paper": Sizes(d_model=128, max_len=50, n_layers=6, n_heads=8, vocab_size=8000, batch=64),
}
STACKED, CAUSAL = ("s", "m", "l"), ("m", "l")  # sizes of students
DECODER_SHARE = 4  # the masked loop goes through the net max_len times, so a part of the batch
RATE = 1e-5  # small, because every step is taken many times on the same batch


def distillation_races(plan: SpeedPlan) -> Iterator[Race]:
    """Yield the races of students in the encoder, of students in the decoder, and of lessons."""
    sizes = GRIDS[plan.scale]
    for size in STACKED:
        yield students_race(plan, sizes, size=size)
    for size in CAUSAL:
        yield decoder_race(plan, sizes, size=size)
    with TemporaryDirectory() as folder:
        yield lessons_race(plan, sizes, folder=Path(folder))


def students_race(plan: SpeedPlan, sizes: Sizes, *, size: str) -> Race:
    """Return the race of one step: all layers in batched products, or one after another."""
    shared = cache(partial(SharedStudents, plan, sizes, size=size))  # made when the race starts
    alone = [slice(i, i + 1) for i in range(sizes.n_layers)]
    return Race(
        point=f"students-{size}-b{sizes.batch}-t{sizes.max_len}-d{sizes.d_model}-n{sizes.n_layers}",
        sizes={"work": "students", "size": size, **asdict(sizes)},
        entrants={
            TOGETHER: lambda: shared().entrant([slice(None)]),
            ONE_BY_ONE: lambda: shared().entrant(alone),
        },
        opponents=(ONE_BY_ONE,),
        n_tokens=sum(sizes.lengths),
    )


class Learners(NamedTuple):
    """Some of the students, stacked, and what they learn from and with."""

    stack: Student
    lesson: ActivationBatch
    variance: Tensor
    optimizer: torch.optim.Optimizer

    def losses(self) -> Tensor:
        """Return the loss of each."""
        return relative_losses(self.stack, self.lesson, variance=self.variance)

    def step(self) -> None:
        """Do one step."""
        self.losses().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # others will want the memory


class SharedStudents:
    """Students of all layers and a batch of lessons, which can take a step in any split.

    However they are split, weights and moments are the same memory, so that large students fit
    once more, and each program goes on with what the other has learnt.
    """

    def __init__(self, plan: SpeedPlan, sizes: Sizes, *, size: str) -> None:
        spec = StudentSpec(site="encoder_self", size=size)
        students = [build_one(plan, sizes, spec, layer=i) for i in range(sizes.n_layers)]
        self.stack = type(students[0]).stack(students)
        self.moments = {
            name: (torch.zeros_like(weight), torch.zeros_like(weight))
            for name, weight in self.stack.state_dict().items()
        }
        self.lesson = random_lesson(plan, sizes)
        self.device = plan.device

    def entrant(self, cuts: Sequence[slice]) -> Entrant:
        """Return a whole step of all students, split like this: losses, gradients, AdamW.

        Raises:
            AttnlabError: The losses depend on the split.
        """
        groups = [self.cut(cut) for cut in cuts]
        with torch.no_grad():
            losses = torch.cat([group.losses() for group in groups])
            whole = self.cut(slice(None)).losses()
        require_equal(losses, whole, what="The losses of students together and of each alone")

        def step() -> None:
            for group in groups:
                group.step()

        return Entrant(
            call=step,
            flops=counted_flops(step),
            memory={
                "n_weights": self.stack.n_weights,
                "peak_mib": peak_memory_mib(step, device=self.device),
            },
        )

    def cut(self, cut: slice) -> Learners:
        """Return some of the students, with their share of everything."""
        weights = {name: weight[cut] for name, weight in self.stack.state_dict().items()}
        with torch.device("meta"):  # shapes alone: the weights are there already
            n_students = len(range(self.stack.n_students)[cut])
            stack = type(self.stack)(self.stack.spec, **self.stack.sizes, n_students=n_students)
        stack.load_state_dict(weights, assign=True)
        optimizer = student_optimizer([stack], lrs=[RATE])
        for name, weight in stack.named_parameters():
            first, second = (moment[cut] for moment in self.moments[name])
            n_steps = torch.zeros((), device=self.device)
            optimizer.state[weight] = {"step": n_steps, "exp_avg": first, "exp_avg_sq": second}
        inputs, targets = self.lesson.inputs[cut], self.lesson.targets[cut]
        lesson = self.lesson._replace(inputs=inputs, targets=targets)
        return Learners(stack, lesson, inputs.new_ones(len(inputs)), optimizer)


def random_lesson(plan: SpeedPlan, sizes: Sizes) -> ActivationBatch:
    """Return noise in the shape of a batch of lessons, with sentences of all lengths."""
    shape = (sizes.n_layers, sizes.batch, sizes.max_len, sizes.d_model)
    is_beyond = torch.arange(sizes.max_len) >= torch.tensor(sizes.lengths)[:, None]
    source_padding = is_beyond.to(plan.device)
    inputs, targets = (
        mask_out(noise(*shape, seed=plan.seed + i, device=plan.device), source_padding)
        for i in range(2)
    )
    return ActivationBatch(inputs, targets, source_padding=source_padding)


def decoder_race(plan: SpeedPlan, sizes: Sizes, *, size: str) -> Race:
    """Return the race of prefix sums against one masked pass for each position."""
    batch = sizes.batch // DECODER_SHARE
    build = partial(decoder_entrant, plan=plan, sizes=sizes, size=size, batch=batch)
    return Race(
        point=f"decoder-{size}-b{batch}-t{sizes.max_len}-d{sizes.d_model}",
        sizes={"work": "decoder", "size": size, **asdict(sizes), "batch": batch, "n_layers": 1},
        entrants={variant: partial(build, variant) for variant in (PREFIX_SUMS, MASKED_LOOP)},
        opponents=(MASKED_LOOP,),
        n_tokens=batch * sizes.max_len,
    )


def decoder_entrant(
    variant: str, *, plan: SpeedPlan, sizes: Sizes, size: str, batch: int
) -> Entrant:
    """Return forward and backward of a student, or of the loop that it stands for.

    Raises:
        AttnlabError: The two do not have the same values.
    """
    student = build_one(plan, sizes, StudentSpec(site="decoder_self", size=size))
    weights = list(student.parameters())
    x = noise(batch, sizes.max_len, sizes.d_model, seed=plan.seed, device=plan.device)
    # the method, not the module: counting hooks modules, and autograd.grad refuses such hooks
    function: Callable[[Tensor], Tensor] = student.forward
    if variant == MASKED_LOOP:
        function = partial(decoder_naive, cast(DecoderStudent, student))
        with torch.no_grad():
            require_equal(student(x), function(x), what="Prefix sums and the masked loop")
    call = training_pass(function, x, weights=weights)
    saved_mib = saved_for_backward_mib(lambda: function(x), parameters=weights)
    return Entrant(
        call=call,
        flops=counted_flops(call),
        memory={"n_weights": student.n_weights, "saved_mib": saved_mib},
    )


def build_one(plan: SpeedPlan, sizes: Sizes, spec: StudentSpec, *, layer: int = 0) -> Student:
    """Return an untrained student for one layer."""
    student = build_student(
        spec,
        max_len=sizes.max_len,
        d_model=sizes.d_model,
        n_heads=sizes.n_heads,
        generator=torch_generator(plan.seed, f"init/{layer}"),
    )
    return student.to(plan.device)


DISTILLATION_PART = Part(
    name="distillation",
    summary="students of all layers together, prefix sums in the decoder, lessons by source",
    races=distillation_races,
    routes=("default",),
)
