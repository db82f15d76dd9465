"""Students for cross-attention: what they read decides whether they can be used at all.

Layouts:
    ``paper``: all of the source and all of the target in, all of the target out. In training
        it sees the words it has to predict; in use they are not there yet.
    ``truncated``: the same net, trained on targets cut at a random place.
    ``prefix``: the same net, trained on every beginning of the target at once.
    ``per_query``: the source and one query in, one position out, as attention itself does it.
    ``low_rank``: features of the query meet features of the source, summed over the source.
    ``extractor``: sums of the source weighted by distance, multiplied by a map of the query.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnlab.distillation.nets import (
    Folded,
    PrefixState,
    SlotSums,
    Student,
    mask_out,
    require_slots,
    uniform,
)
from attnlab.distillation.sites import StudentSpec
from attnlab.mixers.linear_attention import FEATURE_MAPS, shared_out


class PaperCross(Student):
    """The paper's net: ``max_len`` slots of source, ``max_len`` of target, all outputs at once.

    Every output depends on every target position that is given. With ``sees_future`` off, the
    output at t is read from the net as it is when the target ends at t: what a translator gets
    in use, where the later slots are empty.

    Args:
        spec: With layout ``paper``, ``truncated`` or ``prefix``; ``sees_future`` starts on for
            the first only.
    Source:
        arXiv:2311.10642; its code, ``FF_decoder_cross``, reads zeros beyond the prefix in use.
    """

    def __init__(self, spec: StudentSpec, **sizes: Any) -> None:
        super().__init__(spec, **sizes)
        self.sees_future = spec.layout == "paper"
        self.net = self.make_net(n_slots=2 * self.max_len, n_out=self.max_len)

    @property
    def is_causal(self) -> bool:
        """Whether no output depends on a later position."""
        return not self.sees_future

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        sees_future: bool | None = None,
        **padding: Tensor | None,
    ) -> Tensor:
        """Return the head outputs; zeros at padding.

        Args:
            sees_future: None: as the attribute says.
        """
        if not (self.sees_future if sees_future is None else sees_future):
            return super().forward(x, memory, **padding)
        require_slots(x.shape[1], max_len=self.max_len, what="target")
        state = self.initial_state(memory, source_padding=padding.get("source_padding"))
        own = padding.get("target_padding")
        sums = state.sums.plus(self.net.read(mask_out(x, own), first_slot=self.max_len))
        y = self.net.write(self.net.hidden(sums, state.folded), n_positions=x.shape[1])
        return mask_out(y, own)

    def initial_state(self, memory: Any, *, source_padding: Tensor | None = None) -> PrefixState:
        """Return the sums over the source alone."""
        require_slots(memory.shape[1], max_len=self.max_len, what="source")
        return PrefixState(self.net.read(mask_out(memory, source_padding)), 0, self.net.fold())

    def answer(self, x: Tensor, state: PrefixState) -> tuple[Tensor, PrefixState]:
        """Return the outputs at the next tokens ``(batch, time, d_model)``, and the next state."""
        require_slots(state.position + x.shape[1], max_len=self.max_len, what="target")
        return self.net.write_prefixes(x, state, first_slot=self.max_len)


class PerQueryState(NamedTuple):
    """The sums over the source, and what the learnt head looks up."""

    sums: SlotSums
    folded: Folded
    keys: Tensor | None = None  # (batch, source_time, d_head)
    values: Tensor | None = None  # (batch, source_time, d_model)
    padding: Tensor | None = None


class PerQueryCross(Student):
    """The source in ``max_len`` slots and one query in a last slot give one position.

    The same net serves every position, and what it makes of the source is computed once a
    sentence, so a step costs the query's share of the first layer and the rest of the net.

    Args:
        spec: With layout ``per_query``. ``gate`` multiplies the first hidden layer by
            ``1 + q G``; ``learned_head`` adds one head of attention with ``d_model`` wide values.
    """

    def __init__(self, spec: StudentSpec, **sizes: Any) -> None:
        super().__init__(spec, **sizes)
        size, d_head = self.d_model, self.d_model // self.n_heads
        self.net = self.make_net(n_slots=self.max_len + 1, n_out=1)
        if spec.gate:
            self.gate_weight = uniform(size, self.width, fan_in=size)
        if spec.learned_head:
            self.query_weight = uniform(size, d_head, fan_in=size)
            self.key_weight = uniform(size, d_head, fan_in=size)
            self.value_weight = uniform(size, size, fan_in=size)

    def initial_state(self, memory: Any, *, source_padding: Tensor | None = None) -> PerQueryState:
        """Return what is computed once a sentence."""
        require_slots(memory.shape[1], max_len=self.max_len, what="source")
        memory = mask_out(memory, source_padding)
        state = PerQueryState(self.net.read(memory), self.net.fold())
        if not self.spec.learned_head:
            return state
        keys, values = memory @ self.key_weight, memory @ self.value_weight
        return state._replace(keys=keys, values=values, padding=source_padding)

    def answer(self, x: Tensor, state: PerQueryState) -> tuple[Tensor, PerQueryState]:
        """Return the outputs at the next tokens; the state stays as it is."""
        sums = state.sums.for_each_position().plus(self.net.read_each(x, slot=self.max_len))
        gate = 1 + x @ self.gate_weight if self.spec.gate else None
        y = self.net.write_each(self.net.hidden(sums, state.folded, gate=gate))
        if state.keys is not None and state.values is not None:
            q = x @ self.query_weight
            scores = q @ state.keys.mT / math.sqrt(q.shape[-1])  # (B, T, S)
            if state.padding is not None:  # a row of padding alone finds values that are all zero
                never = torch.finfo(scores.dtype).min
                scores = scores.masked_fill(state.padding[:, None], never)
            y = y + scores.softmax(-1) @ state.values
        return y, state


class LowRankState(NamedTuple):
    """The source as one small matrix a head, whatever its length."""

    table: Tensor  # (batch, heads, features, d_head)
    weight: Tensor  # (batch, heads, features)


class LowRankCross(Student):
    r"""Let features of the query weigh features of the source: no slots, no look at all pairs.

    .. math:: y_t = \frac{\phi(q_t)^\top \sum_s \phi(x_s K)\, (x_s V)^\top}
                         {\phi(q_t)^\top \sum_s \phi(x_s K)},
              \quad \phi(z)_r = \frac{e^{z_r}}{\sum_i e^{z_i}}

    head by head. The exponentials compare the features of one token, never one token with another,
    so the source is summed once and its matrix of mixing weights has rank ``width`` at most, the
    number of features of a head. Attention is the limit of many features.

    Source:
        arXiv:2006.16236, section 3.2; arXiv:2402.04347 for the features.
    """

    def __init__(self, spec: StudentSpec, **sizes: Any) -> None:
        super().__init__(spec, **sizes)
        size = self.d_model
        self.query_weight = uniform(size, self.n_heads * self.width, fan_in=size)
        self.key_weight = uniform(size, self.n_heads * self.width, fan_in=size)
        self.value_weight = uniform(size, size, fan_in=size)

    def initial_state(self, memory: Any, *, source_padding: Tensor | None = None) -> LowRankState:
        """Return what is computed once a sentence."""
        memory = mask_out(memory, source_padding)
        keys = mask_out(self._features(memory, self.key_weight).flatten(2), source_padding)
        keys = keys.unflatten(-1, (self.n_heads, -1))  # (B, S, H, R)
        values = (memory @ self.value_weight).unflatten(-1, (self.n_heads, -1))  # (B, S, H, K)
        return LowRankState(torch.einsum("bshr,bshk->bhrk", keys, values), keys.sum(1))

    def answer(self, x: Tensor, state: LowRankState) -> tuple[Tensor, LowRankState]:
        """Return the outputs at the next tokens; the state stays as it is."""
        queries = self._features(x, self.query_weight)
        found = torch.einsum("bthr,bhrk->bthk", queries, state.table)
        share = torch.einsum("bthr,bhr->bth", queries, state.weight)
        return shared_out(found, share[..., None]).flatten(2), state

    def _features(self, x: Tensor, weight: Tensor) -> Tensor:
        return FEATURE_MAPS["softmax"]((x @ weight).unflatten(-1, (self.n_heads, -1)))


class ExtractorState(NamedTuple):
    """The values of the source, and how many queries have been answered."""

    values: Tensor  # (batch, source_time, d_model)
    position: int


class ExtractorCross(Student):
    r"""Extract from the source by distance alone, adjust by the query; no look at the contents.

    .. math:: y_t = \sum_{i=1}^{m} \Bigl(\sum_s w^i_{s-t} \odot (x_s V)\Bigr)
              \odot (q_t A^i + a^i)

    Source:
        arXiv:2308.07661, in words: extraction and adjustment, here from one sentence to another.
    """

    def __init__(self, spec: StudentSpec, **sizes: Any) -> None:
        super().__init__(spec, **sizes)
        size, n_lags = self.d_model, 2 * self.max_len - 1
        self.value_weight = uniform(size, size, fan_in=size)
        self.lag_weight = uniform(self.width, n_lags, size, fan_in=self.max_len)
        self.adjust_weight = uniform(size, self.width * size, fan_in=size)
        self.adjust_bias = uniform(1, self.width * size, fan_in=size)

    def initial_state(self, memory: Any, *, source_padding: Tensor | None = None) -> ExtractorState:
        """Return what is computed once a sentence."""
        require_slots(memory.shape[1], max_len=self.max_len, what="source")
        return ExtractorState(mask_out(memory, source_padding) @ self.value_weight, 0)

    def answer(self, x: Tensor, state: ExtractorState) -> tuple[Tensor, ExtractorState]:
        """Return the outputs at the next tokens ``(batch, time, d_model)``, and the next state."""
        last = state.position + x.shape[1]
        require_slots(last, max_len=self.max_len, what="target")
        times = torch.arange(state.position, last, device=x.device)
        places = torch.arange(state.values.shape[1], device=x.device)
        lags = self.lag_weight[:, places - times[:, None] + self.max_len - 1]  # (M, T, S, D)
        extracted = torch.einsum("mtsd,bsd->btmd", lags, state.values)
        adjusted = (x @ self.adjust_weight + self.adjust_bias).unflatten(-1, (self.width, -1))
        return (extracted * adjusted).sum(2), ExtractorState(state.values, last)


CROSS_STUDENTS: dict[str, type[Student]] = {
    "paper": PaperCross,
    "truncated": PaperCross,
    "prefix": PaperCross,
    "per_query": PerQueryCross,
    "low_rank": LowRankCross,
    "extractor": ExtractorCross,
}
