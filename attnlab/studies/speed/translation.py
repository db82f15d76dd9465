"""Part ``translation``: what a sentence costs, with attention and with students in its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attnlab.config import BOS, EOS, N_SPECIAL
from attnlab.distillation import StudentSpec, build_students, substitute
from attnlab.models import Translator
from attnlab.models.search import greedy_search
from attnlab.sources import translation_source
from attnlab.studies.attentionless.arm_job import Key, count_replaced
from attnlab.studies.attentionless.arms import get_arm
from attnlab.studies.attentionless.budgets import CLASSROOM, PAPER, SMOKE, Budget
from attnlab.studies.speed.core import Entrant, Part, Race, SpeedPlan
from attnlab.studies.speed.work import Call, build_translator, counted_flops, random_words

TEACHER = "teacher"
VARIANTS = (
    TEACHER,
    "encoder_self/alr/m",
    "encoder_self/alr/l",
    "decoder_self/alr/m",
    "self/alr/m",
    "cross/per_query/m",
    "cross/per_query/l",
    "cross/low_rank/l",
    "cross/truncated/m",
    "all/per_query/l",
    "all/low_rank/l",
)
FORCED, GREEDY = "forced", "greedy"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A translator of the study ``attentionless``, and the sentences that it is given."""

    budget: Budget
    vocab_size: int
    n_tokens: int  # of a source and of its translation: about a mean sentence of the corpus
    batch: int

    @property
    def model(self) -> dict[str, int]:
        """What ``build_translator`` is given."""
        names = ("d_model", "n_heads", "n_layers", "d_ff", "max_len")
        sizes = {name: getattr(self.budget, name) for name in names}
        return {"vocab_size": self.vocab_size, **sizes}


def sizes_of(scale: str) -> Sizes:
    """Return the sizes of a scale: the toy languages, or captions as subwords for ``paper``."""
    if scale == "paper":
        vocab_size = PAPER.vocab_size + N_SPECIAL
        return Sizes(budget=PAPER, vocab_size=vocab_size, n_tokens=16, batch=32)
    vocab_size = translation_source().vocab_size
    if scale == "classroom":
        return Sizes(budget=CLASSROOM, vocab_size=vocab_size, n_tokens=8, batch=32)
    return Sizes(budget=SMOKE, vocab_size=vocab_size, n_tokens=5, batch=3)


def translation_races(plan: SpeedPlan) -> Iterator[Race]:
    """Yield the teacher-forced pass, then greedy translation of a batch and of one sentence."""
    sizes = sizes_of(plan.scale)
    for work, batch in ((FORCED, sizes.batch), (GREEDY, sizes.batch), (GREEDY, 1)):
        build = partial(build_entrant, plan=plan, sizes=sizes, work=work, batch=batch)
        yield Race(
            point=f"{work}-b{batch}-t{sizes.n_tokens}-d{sizes.budget.d_model}",
            sizes={"work": work, "batch": batch, "time": sizes.n_tokens, **sizes.model},
            entrants={variant: partial(build, variant) for variant in VARIANTS},
            opponents=(TEACHER,),
            n_tokens=sizes.n_tokens,
        )


def build_entrant(variant: str, *, plan: SpeedPlan, sizes: Sizes, work: str, batch: int) -> Entrant:
    """Build the teacher, put the students of an arm in, and return the pass that is timed.

    Times are those of a sentence. ``work_gflop`` is the teacher-forced pass of a batch by the
    count of ``counted_flops``, over its sentences, whatever is timed: what a batch does once,
    such as folding a norm into the weights, is shared by its sentences.
    """
    model = build_translator(**sizes.model, seed=plan.seed, device=plan.device)
    stand_ins = build_stand_ins(variant, model, seed=plan.seed)
    n_replaced = count_replaced(model, stand_ins)
    substitute(model, stand_ins)
    full = random_pairs(plan, sizes)
    flops = counted_flops(forced_pass(model, *full)) // sizes.batch
    source, target = (tokens[:batch] for tokens in full)
    if work == FORCED:
        call = forced_pass(model, source, target)
    else:
        call = greedy_translation(model, source, n_tokens=sizes.n_tokens)
    return Entrant(
        call=call,
        n_pieces=batch,
        flops=flops if work == FORCED else None,
        memory={
            "work_gflop": flops / 1e9,
            "n_weights": n_weights_of(model),
            "n_stand_in_weights": sum(map(n_weights_of, stand_ins.values())),
            "n_replaced_weights": n_replaced,
        },
    )


def build_stand_ins(variant: str, model: Translator, *, seed: int) -> dict[Key, nn.Module]:
    """Return untrained students for an arm of the study ``attentionless``; none for the teacher."""
    parts = {} if variant == TEACHER else get_arm(variant).parts
    stand_ins: dict[Key, nn.Module] = {}
    for part in parts.values():
        if isinstance(part, StudentSpec):
            stand_ins |= build_students(model, spec=part, seed=seed)
    return stand_ins


def random_pairs(plan: SpeedPlan, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Return random sources, and targets that begin with ``BOS``, all of the same length."""
    shape = (2, sizes.batch, sizes.n_tokens)
    words = random_words(*shape, vocab_size=sizes.vocab_size, seed=plan.seed, device=plan.device)
    words[1, :, 0] = BOS
    return words[0], words[1]


def forced_pass(model: Translator, source: Tensor, target: Tensor) -> Call:
    """Return the pass that reads source and target and gives the logits of every token."""
    return torch.no_grad()(lambda: model(source, target))


def greedy_translation(model: Translator, source: Tensor, *, n_tokens: int) -> Call:
    """Return greedy search that writes exactly so many tokens, each from the states before it.

    No sentence ends by itself, so that it does not matter what the weights have learnt. The
    paper's layout would have to be run on every prefix anew; its sums over slots make that one
    more slot a token.
    """

    def endless(token: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = model.step(token, state)
        logits[:, EOS] = -torch.inf
        return logits, state

    @torch.no_grad()
    def call() -> Tensor:
        state = model.initial_state(model.encode(source))
        return greedy_search(
            endless, state, n_rows=len(source), max_len=n_tokens, device=model.device
        )

    return call


def n_weights_of(module: nn.Module) -> int:
    """Return the number of trainable numbers, each once."""
    return sum(weight.numel() for weight in module.parameters())


TRANSLATION_PART = Part(
    name="translation",
    summary="a sentence by the teacher and by students in its place: all at once, token by token",
    races=translation_races,
    routes=("default",),
)
