"""Part ``translation`` of the study ``speed``: what a sentence costs, with attention and without.

A translator as the study ``attentionless`` has it, once with attention and once with the students
of an arm in its place. Weights are random: what a product costs does not depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attnlab.config import BOS, EOS, N_SPECIAL, TranslatorConfig
from attnlab.distillation import StudentSpec, build_students, substitute
from attnlab.models import Translator
from attnlab.models.search import greedy_search
from attnlab.seeding import torch_generator
from attnlab.sources import translation_source
from attnlab.studies.arms import TEACHER, get_arm
from attnlab.studies.clock import PARTS, Entrant, Race, SpeedPlan, counted_flops, n_weights
from attnlab.studies.replaced import CLASSROOM, PAPER, SMOKE, count_replaced

ARMS = (
    *("encoder_self/alr/m", "encoder_self/alr/l", "decoder_self/alr/m", "self/alr/m"),
    *("cross/per_query/m", "cross/per_query/l", "cross/low_rank/l", "cross/truncated/m"),
    *("all/per_query/l", "all/low_rank/l"),
)
BUDGETS = {  # scale: (sizes of the study, tokens of a mean sentence, sentences of a batch)
    "smoke": (SMOKE, 5, 3),
    "classroom": (CLASSROOM, 8, 32),
    "paper": (PAPER, 16, 32),
}


def translator_sizes(scale: str) -> dict[str, int]:
    """Return the sizes of a translator: the toy languages, or captions as subwords."""
    budget = BUDGETS[scale][0]
    is_text = scale == "paper"
    n_words = budget.vocab_size + N_SPECIAL if is_text else translation_source().vocab_size
    names = ("d_model", "n_heads", "n_layers", "d_ff", "max_len")
    return {"vocab_size": n_words, **{name: getattr(budget, name) for name in names}}


def translation_races(plan: SpeedPlan) -> Iterator[Race]:
    """Yield the teacher-forced pass, then greedy translation of a batch and of one sentence."""
    sizes, (_, n_tokens, n_sentences) = translator_sizes(plan.scale), BUDGETS[plan.scale]
    for work, batch in (("forced", n_sentences), ("greedy", n_sentences), ("greedy", 1)):
        yield Race(
            point=f"{work}-b{batch}-t{n_tokens}-d{sizes['d_model']}",
            sizes={"work": work, "batch": batch, "time": n_tokens, **sizes},
            variants=(TEACHER, *ARMS),
            build=partial(sentence_entrant, plan=plan, work=work, batch=batch),
            opponents=(TEACHER,),
            n_tokens=n_tokens,
        )


def sentence_entrant(variant: str, *, plan: SpeedPlan, work: str, batch: int) -> Entrant:
    """Build the teacher, put the students of an arm in, and return the pass that is timed.

    Times are those of a sentence. ``work_gflop`` is the teacher-forced pass of a batch by the
    count of ``counted_flops``, over its sentences, whatever is timed: what a batch does once,
    such as folding a norm into the weights, is shared by its sentences.
    """
    model = build_translator(plan)
    stand_ins = build_stand_ins(variant, model, seed=plan.seed)
    n_replaced = count_replaced(model, stand_ins)
    substitute(model, stand_ins)
    source, target = random_pairs(plan)
    forced = torch.no_grad()(lambda n: model(source[:n], target[:n]))
    flops = counted_flops(lambda: forced(len(source))) // len(source)
    is_forced = work == "forced"
    written = partial(write_greedily, model, source[:batch], n_tokens=source.shape[1])
    return Entrant(
        call=partial(forced, batch) if is_forced else written,
        n_pieces=batch,
        flops=flops if is_forced else None,
        memory={
            "work_gflop": flops / 1e9,
            "n_weights": n_weights(model),
            "n_stand_in_weights": sum(map(n_weights, stand_ins.values())),
            "n_replaced_weights": n_replaced,
        },
    )


def build_translator(plan: SpeedPlan) -> Translator:
    """Build an untrained translator, as fast as a trained one, both sides of the same size."""
    sizes = translator_sizes(plan.scale)
    n_layers, n_words = sizes.pop("n_layers"), sizes.pop("vocab_size")
    both = {f"{side}_vocab_size": n_words for side in ("source", "target")}
    both |= {f"n_{side}_layers": n_layers for side in ("encoder", "decoder")}
    config = TranslatorConfig(**both, **sizes)  # type: ignore[arg-type]
    translator = Translator(config, generator=torch_generator(plan.seed, "init"))
    return translator.eval().requires_grad_(False).to(plan.device)


def build_stand_ins(variant: str, model: Translator, *, seed: int) -> dict[Any, nn.Module]:
    """Return untrained students for an arm of the study ``attentionless``; none for the teacher."""
    stand_ins: dict[Any, nn.Module] = {}
    for part in get_arm(variant).parts.values():
        if isinstance(part, StudentSpec):
            stand_ins |= build_students(model, spec=part, seed=seed)
    return stand_ins


def random_pairs(plan: SpeedPlan) -> tuple[Tensor, Tensor]:
    """Return sources of random words, and targets that begin with ``BOS``, of the same length."""
    _, n_tokens, n_sentences = BUDGETS[plan.scale]
    n_words = translator_sizes(plan.scale)["vocab_size"] - N_SPECIAL
    words = N_SPECIAL + plan.tokens(2, n_sentences, n_tokens, vocab_size=n_words)
    words[1, :, 0] = BOS
    return words[0], words[1]


@torch.no_grad()
def write_greedily(model: Translator, source: Tensor, *, n_tokens: int) -> Tensor:
    """Translate with greedy search that writes exactly so many tokens, each from the last state.

    No sentence ends by itself, so that it does not matter what the weights have learnt. The
    paper's layout would have to be run on every prefix anew; its sums over slots make that one
    more slot a token.
    """

    def endless(token: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = model.step(token, state)
        logits[:, EOS] = -torch.inf
        return logits, state

    state = model.initial_state(model.encode(source))
    return greedy_search(endless, state, n_rows=len(source), max_len=n_tokens, device=model.device)


PARTS["translation"] = (
    "a sentence by the teacher and by students in its place: all at once, token by token",
    translation_races,
)
