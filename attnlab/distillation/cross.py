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

from attnlab.distillation.base import CrossStudent
from attnlab.distillation.nets import (
    Folded,
    SlotNet,
    SlotSums,
    linear,
    mask_out,
    require_slots,
    uniform,
)
from attnlab.distillation.sites import StudentSpec

TINY = 1e-12  # where there is nothing to read


class PaperCrossState(NamedTuple):
    """The sums over the source and the target so far."""

    sums: SlotSums  # (batch, width), (batch,), (batch,)
    position: int
    folded: Folded


class PaperCross(CrossStudent):
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
        self.net = SlotNet(
            n_nets=self.n_students,
            n_slots=2 * self.max_len,
            d_in=self.d_model,
            width=self.width,
            n_out=self.max_len,
            d_out=self.d_model,
            depth=spec.depth,
        )

    @property
    def is_causal(self) -> bool:
        """Whether no output depends on a later position."""
        return not self.sees_future

    def run(
        self,
        x: Tensor,
        *,
        memory: Tensor,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
        sees_future: bool | None = None,
    ) -> Tensor:
        """Return what all students make of their inputs; zeros at padding.

        Args:
            sees_future: None: as the attribute says.
        """
        require_slots(x.shape[2], max_len=self.max_len, what="target")
        x = mask_out(x, target_padding)
        source = self._read_source(memory, source_padding)
        if self.sees_future if sees_future is None else sees_future:
            sums = source.plus(self.net.read(x, first_slot=self.max_len))
            y = self.net.write(self.net.hidden(sums), n_positions=x.shape[2])
        else:
            own = self.net.read_each(x, first_slot=self.max_len).running()
            y = self.net.write_each(self.net.hidden(source.for_each_position().plus(own)))
        return mask_out(y, target_padding)

    def initial_state(
        self, memory: Tensor, *, source_padding: Tensor | None = None
    ) -> PaperCrossState:
        """Return the sums over the source alone."""
        source = self._read_source(memory[None], source_padding)
        return PaperCrossState(source.of_first(), 0, self.net.fold())

    def step(self, x_t: Tensor, state: PaperCrossState) -> tuple[Tensor, PaperCrossState]:
        """Read one more target token ``(batch, d_model)``; return its head outputs."""
        require_slots(state.position + 1, max_len=self.max_len, what="target")
        newest = self.net.read(x_t[None, :, None], first_slot=self.max_len + state.position)
        sums = state.sums.of_one().plus(newest)
        h = self.net.hidden(sums, folded=state.folded)
        y_t = self.net.write_each(h[:, :, None], first=state.position)[0, :, 0]
        return y_t, PaperCrossState(sums.of_first(), state.position + 1, state.folded)

    def _read_source(self, memory: Tensor, source_padding: Tensor | None) -> SlotSums:
        require_slots(memory.shape[2], max_len=self.max_len, what="source")
        return self.net.read(mask_out(memory, source_padding))


class PerQueryState(NamedTuple):
    """The sums over the source, and what the learnt head looks up."""

    sums: SlotSums  # (batch, width), (batch,), (batch,)
    folded: Folded
    keys: Tensor | None = None  # (batch, source_time, d_head)
    values: Tensor | None = None  # (batch, source_time, d_model)
    padding: Tensor | None = None


class PerQueryCross(CrossStudent):
    """The source in ``max_len`` slots and one query in a last slot give one position.

    The same net serves every position, and what it makes of the source is computed once a
    sentence, so a step costs the query's share of the first layer and the rest of the net.

    Args:
        spec: With layout ``per_query``. ``gate`` multiplies the first hidden layer by
            ``1 + q G``; ``learned_head`` adds one head of attention with ``d_model`` wide values.
    """

    def __init__(self, spec: StudentSpec, **sizes: Any) -> None:
        super().__init__(spec, **sizes)
        n, size, d_head = self.n_students, self.d_model, self.d_model // self.n_heads
        self.net = SlotNet(
            n_nets=n,
            n_slots=self.max_len + 1,
            d_in=size,
            width=self.width,
            n_out=1,
            d_out=size,
            depth=spec.depth,
        )
        if spec.gate:
            self.gate_weight = uniform(n, size, self.width, fan_in=size)
        if spec.learned_head:
            self.query_weight = uniform(n, size, d_head, fan_in=size)
            self.key_weight = uniform(n, size, d_head, fan_in=size)
            self.value_weight = uniform(n, size, size, fan_in=size)

    def run(
        self,
        x: Tensor,
        *,
        memory: Tensor,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        """Return what all students make of their inputs; zeros at padding."""
        x = mask_out(x, target_padding)
        memory = self._fitting(memory, source_padding)
        y = self._net(x, self.net.read(memory), self.net.fold())
        if self.spec.learned_head:
            y = y + self._look_up(x, *self._read_head(memory), source_padding)
        return mask_out(y, target_padding)

    def initial_state(
        self, memory: Tensor, *, source_padding: Tensor | None = None
    ) -> PerQueryState:
        """Return what is computed once a sentence."""
        memory = self._fitting(memory[None], source_padding)
        keys, values = self._read_head(memory) if self.spec.learned_head else (None, None)
        return PerQueryState(
            sums=self.net.read(memory).of_first(),
            folded=self.net.fold(),
            keys=None if keys is None else keys[0],
            values=None if values is None else values[0],
            padding=source_padding if self.spec.learned_head else None,
        )

    def step(self, x_t: Tensor, state: PerQueryState) -> tuple[Tensor, PerQueryState]:
        """Return the head outputs of one query ``(batch, d_model)``; the state stays as it is."""
        x = x_t[None, :, None]
        y_t = self._net(x, state.sums.of_one(), state.folded)
        if state.keys is not None and state.values is not None:
            y_t = y_t + self._look_up(x, state.keys[None], state.values[None], state.padding)
        return y_t[0, :, 0], state

    def _net(self, x: Tensor, source: SlotSums, folded: Folded) -> Tensor:
        sums = source.for_each_position().plus(self.net.read_into(x, slot=self.max_len))
        gate = 1 + linear(x, self.gate_weight) if self.spec.gate else None
        return self.net.write_each(self.net.hidden(sums, folded=folded, gate=gate))

    def _fitting(self, memory: Tensor, source_padding: Tensor | None) -> Tensor:
        require_slots(memory.shape[2], max_len=self.max_len, what="source")
        memory = mask_out(memory, source_padding)
        return memory.expand(self.n_students, *memory.shape[1:])

    def _read_head(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        return linear(memory, self.key_weight), linear(memory, self.value_weight)

    def _look_up(
        self, x: Tensor, keys: Tensor, values: Tensor, source_padding: Tensor | None
    ) -> Tensor:
        q = linear(x, self.query_weight)
        scores = q @ keys.mT / math.sqrt(q.shape[-1])  # (G, B, T, S)
        if source_padding is not None:  # a row of padding alone finds values that are all zero
            scores = scores.masked_fill(source_padding[:, None], torch.finfo(scores.dtype).min)
        return scores.softmax(-1) @ values


class LowRankState(NamedTuple):
    """The source as one small matrix a head, whatever its length."""

    table: Tensor  # (batch, heads, features, d_head)
    weight: Tensor  # (batch, heads, features)


class LowRankCross(CrossStudent):
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
        n, size = self.n_students, self.d_model
        self.query_weight = uniform(n, size, self.n_heads * self.width, fan_in=size)
        self.key_weight = uniform(n, size, self.n_heads * self.width, fan_in=size)
        self.value_weight = uniform(n, size, size, fan_in=size)

    def run(
        self,
        x: Tensor,
        *,
        memory: Tensor,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        """Return what all students make of their inputs; zeros at padding."""
        return mask_out(self._ask(x, *self._read(memory, source_padding)), target_padding)

    def initial_state(
        self, memory: Tensor, *, source_padding: Tensor | None = None
    ) -> LowRankState:
        """Return what is computed once a sentence."""
        table, weight = self._read(memory[None], source_padding)
        return LowRankState(table[0], weight[0])

    def step(self, x_t: Tensor, state: LowRankState) -> tuple[Tensor, LowRankState]:
        """Return the head outputs of one query ``(batch, d_model)``; the state stays as it is."""
        return self._ask(x_t[None, :, None], state.table[None], state.weight[None])[0, :, 0], state

    def _read(self, memory: Tensor, source_padding: Tensor | None) -> tuple[Tensor, Tensor]:
        memory = memory.expand(self.n_students, *memory.shape[1:])
        keys = mask_out(self._features(memory, self.key_weight).flatten(3), source_padding)
        keys = keys.unflatten(-1, (self.n_heads, -1))  # (G, B, S, H, R)
        values = linear(mask_out(memory, source_padding), self.value_weight)
        values = values.unflatten(-1, (self.n_heads, -1))  # (G, B, S, H, K)
        return torch.einsum("gbshr,gbshk->gbhrk", keys, values), keys.sum(2)

    def _ask(self, x: Tensor, table: Tensor, weight: Tensor) -> Tensor:
        queries = self._features(x, self.query_weight)  # (G, B, T, H, R)
        found = torch.einsum("gbthr,gbhrk->gbthk", queries, table)
        share = torch.einsum("gbthr,gbhr->gbth", queries, weight)
        return (found / share.clamp(min=TINY)[..., None]).flatten(3)

    def _features(self, x: Tensor, weight: Tensor) -> Tensor:
        return linear(x, weight).unflatten(-1, (self.n_heads, -1)).softmax(-1)


class ExtractorState(NamedTuple):
    """The values of the source, and how many queries have been answered."""

    values: Tensor  # (batch, source_time, d_model)
    position: int


class ExtractorCross(CrossStudent):
    r"""Extract from the source by distance alone, adjust by the query; no look at the contents.

    .. math:: y_t = \sum_{i=1}^{m} \Bigl(\sum_s w^i_{s-t} \odot (x_s V)\Bigr)
              \odot (q_t A^i + a^i)

    Source:
        arXiv:2308.07661, section 3: extraction and adjustment, here from one sentence to another.
    """

    def __init__(self, spec: StudentSpec, **sizes: Any) -> None:
        super().__init__(spec, **sizes)
        n, size, n_lags = self.n_students, self.d_model, 2 * self.max_len - 1
        self.value_weight = uniform(n, size, size, fan_in=size)
        self.lag_weight = uniform(n, self.width, n_lags, size, fan_in=self.max_len)
        self.adjust_weight = uniform(n, size, self.width * size, fan_in=size)
        self.adjust_bias = uniform(n, self.width * size, fan_in=size)

    def run(
        self,
        x: Tensor,
        *,
        memory: Tensor,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        """Return what all students make of their inputs; zeros at padding."""
        values = self._read(memory, source_padding)
        return mask_out(self._ask(x, values, first=0), target_padding)

    def initial_state(
        self, memory: Tensor, *, source_padding: Tensor | None = None
    ) -> ExtractorState:
        """Return what is computed once a sentence."""
        return ExtractorState(self._read(memory[None], source_padding)[0], 0)

    def step(self, x_t: Tensor, state: ExtractorState) -> tuple[Tensor, ExtractorState]:
        """Return the head outputs of one query ``(batch, d_model)`` and the next state."""
        y_t = self._ask(x_t[None, :, None], state.values[None], first=state.position)[0, :, 0]
        return y_t, ExtractorState(state.values, state.position + 1)

    def _read(self, memory: Tensor, source_padding: Tensor | None) -> Tensor:
        require_slots(memory.shape[2], max_len=self.max_len, what="source")
        memory = mask_out(memory, source_padding).expand(self.n_students, *memory.shape[1:])
        return linear(memory, self.value_weight)

    def _ask(self, x: Tensor, values: Tensor, *, first: int) -> Tensor:
        require_slots(first + x.shape[2], max_len=self.max_len, what="target")
        times = torch.arange(first, first + x.shape[2], device=x.device)
        places = torch.arange(values.shape[2], device=x.device)
        lags = self.lag_weight[:, :, places - times[:, None] + self.max_len - 1]  # (G, M, T, S, D)
        extracted = torch.einsum("gmtsd,gbsd->gbtmd", lags, values)
        adjusted = linear(x, self.adjust_weight) + self.adjust_bias[:, None, None]
        return (extracted * adjusted.unflatten(-1, (self.width, -1))).sum(3)


CROSS_STUDENTS: dict[str, type[CrossStudent]] = {
    "paper": PaperCross,
    "truncated": PaperCross,
    "prefix": PaperCross,
    "per_query": PerQueryCross,
    "low_rank": LowRankCross,
    "extractor": ExtractorCross,
}
