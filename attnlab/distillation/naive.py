"""The definitions: each student as the plain net it stands for, one forward pass at a time.

A sentence is written into slots, filled up with zeros, laid out as one long vector, normalised,
and sent through two linear maps. Nothing is shared between positions or folded together.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlab.distillation.cross import PaperCross, PerQueryCross
from attnlab.distillation.nets import EPS, SLOPE, SlotNet, Student, mask_out
from attnlab.distillation.stand_ins import LinearStandIn, StandIn, TableStandIn
from attnlab.distillation.students import DecoderStudent, EncoderStudent
from attnlab.mixers.linear_attention import FEATURE_MAPS
from attnlab.mixers.matrix_state import EPSILON


def encoder_naive(
    student: EncoderStudent, x: Tensor, *, source_padding: Tensor | None = None
) -> Tensor:
    """Return what ``student(x)`` returns, by the paper's recipe: pad, flatten, net, unflatten."""
    slots = _slots(x, source_padding, student.max_len)
    parts = range(student.n_heads) if student.spec.method == "aslr" else [None]
    heads = [_net(student.net, slots, i).unflatten(-1, (student.max_len, -1)) for i in parts]
    y = torch.cat(heads, -1)[:, : x.shape[1]]
    if student.spec.skip == "identity":
        y = y + x
    if student.spec.skip == "linear":
        y = y + x @ student.skip_weight
    return mask_out(y, source_padding)


def decoder_naive(
    student: DecoderStudent, x: Tensor, *, target_padding: Tensor | None = None
) -> Tensor:
    """Return what ``student(x)`` returns, by one masked pass for each of ``max_len`` positions."""
    slots = _slots(x, target_padding, student.max_len)
    places = torch.arange(student.max_len, device=x.device)
    prefixes = [slots * (places <= i)[:, None] for i in range(student.max_len)]
    y = torch.stack([_net(student.net, prefix) for prefix in prefixes], 1)
    return mask_out(y[:, : x.shape[1]], target_padding)


def paper_cross_naive(
    student: PaperCross,
    x: Tensor,
    memory: Tensor,
    *,
    source_padding: Tensor | None = None,
    target_padding: Tensor | None = None,
) -> Tensor:
    """Return what ``student(x, memory)`` returns; a causal one by one pass for each prefix."""
    source = _slots(memory, source_padding, student.max_len)
    target = _slots(x, target_padding, student.max_len)
    places = torch.arange(student.max_len, device=x.device)
    columns = []
    for i in range(x.shape[1]):
        seen = target if student.sees_future else target * (places <= i)[:, None]
        y = _net(student.net, torch.cat([source, seen], 1))
        columns.append(y.unflatten(-1, (student.max_len, -1))[:, i])
    return mask_out(torch.stack(columns, 1), target_padding)


def per_query_naive(
    student: PerQueryCross,
    x: Tensor,
    memory: Tensor,
    *,
    source_padding: Tensor | None = None,
    target_padding: Tensor | None = None,
) -> Tensor:
    """Return what ``student(x, memory)`` returns, one query at a time."""
    source = _slots(memory, source_padding, student.max_len)
    columns = []
    for query in mask_out(x, target_padding).unbind(1):
        gate = 1 + query @ student.gate_weight if student.spec.gate else None
        y = _net(student.net, torch.cat([source, query[:, None]], 1), gate=gate)
        if student.spec.learned_head:
            y = y + _one_head(student, query, source[:, : memory.shape[1]], source_padding)
        columns.append(y)
    return mask_out(torch.stack(columns, 1), target_padding)


def linear_naive(student: LinearStandIn, x: Tensor, memory: Tensor) -> Tensor:
    """Return the heads of sentences without padding, one query and one position at a time."""
    q, k, v = _maps(student, x, memory)
    columns = []
    for t in range(x.shape[1]):
        n_seen = memory.shape[1] if student.is_cross or student.is_two_sided else t + 1
        near = [i for i in range(n_seen) if not student.is_cross and abs(t - i) < student.window]
        scores = [(q[:, t] * k[:, i]).sum(-1) / math.sqrt(student.d_head) for i in near]
        found, share = torch.zeros_like(q[:, t]), torch.zeros_like(q[:, t, :, :1])
        query = _features(student, q[:, t], "query")
        for i in range(n_seen):
            if i in near:
                exponent = scores[near.index(i)]
                if student.spec.window_scale == "own":
                    exponent = exponent - torch.stack(scores).amax(0)
                weight = (torch.sigmoid(student.near_gate) * exponent.exp())[..., None]
            else:
                weight = (query * _features(student, k[:, i], "key")).sum(-1, keepdim=True)
            found, share = found + weight * v[:, i], share + weight
        is_found = share > 0
        heads = torch.where(is_found, found / torch.where(is_found, share, 1.0), 0.0)
        columns.append(heads.flatten(1))
    return torch.stack(columns, 1)


def table_naive(student: TableStandIn, x: Tensor) -> Tensor:
    """Return the heads of sentences without padding, one write after the other."""
    n_heads, n_ways = student.n_heads, 2 if student.is_two_sided else 1
    q, k, v = _maps(student, x, x)
    q, k = (z / ((z * z).sum(-1, keepdim=True) + EPSILON).sqrt() for z in (q, k))
    amount = F.softplus(student.gate(x) + student.gate_bias).unflatten(-1, (n_ways, n_heads))
    found = [torch.zeros_like(v[:, 0])] * x.shape[1]
    for way in range(n_ways):
        table = v.new_zeros(len(x), n_heads, student.d_head, student.d_head)
        for t in range(x.shape[1])[:: 1 - 2 * way]:
            a = amount[:, t, way]  # (B, H)
            if student.spec.method == "ssd":
                rate = student.rate.unflatten(0, (n_ways, n_heads))[way].exp()
                table = (-rate * a).exp()[..., None, None] * table
                written = a[..., None] * v[:, t]
            else:
                table = (-a).exp()[..., None, None] * table
                b = torch.sigmoid(student.strength(x)).unflatten(-1, (n_ways, n_heads))[:, t, way]
                written = b[..., None] * (v[:, t] - (k[:, t, ..., None] * table).sum(-2))
            table = table + k[:, t, ..., None] * written[..., None, :]
            found[t] = found[t] + (q[:, t, ..., None] * table).sum(-2)
    heads = student.scale[:, None] * torch.stack(found, 1)  # (B, T, H, K)
    return (heads + student.skip[:, None] * v if student.spec.method == "ssd" else heads).flatten(2)


def stand_in_naive(
    student: StandIn,
    x: Tensor,
    memory: Tensor | None = None,
    *,
    source_padding: Tensor | None = None,
    target_padding: Tensor | None = None,
) -> Tensor:
    """Return what a stand-in returns, one sentence at a time, each cut to what is real of it."""
    own = source_padding if student.is_two_sided else target_padding
    y = torch.zeros_like(x)
    for row in range(len(x)):
        real = torch.ones_like(x[row, :, 0], dtype=torch.bool) if own is None else ~own[row]
        seen = x[row, real][None]
        if isinstance(student, TableStandIn):
            heads = table_naive(student, seen)
        else:
            source = seen if memory is None else memory[row][None]
            if memory is not None and source_padding is not None:
                source = source[:, ~source_padding[row]]
            heads = linear_naive(cast(LinearStandIn, student), seen, source)
        y = y.index_put((torch.tensor(row), real.nonzero()[:, 0]), heads[0])
    return y


def _maps(student: StandIn, x: Tensor, memory: Tensor) -> list[Tensor]:
    """Return queries, keys and values ``(batch, time, heads, d_head)``."""
    maps = (student.query(x), student.key(memory), student.value(memory))
    return [z.unflatten(-1, (student.n_heads, -1)) for z in maps]


def _features(student: LinearStandIn, z: Tensor, side: str) -> Tensor:
    """Return the features of one position's queries or keys ``(batch, heads, d_head)``."""
    weight = getattr(student, f"{side}_feature_weight")
    z = (z[..., None] * weight).sum(-2)
    if student.spec.feature_map == "relu":
        z = z + getattr(student, f"{side}_feature_bias").unflatten(0, (student.n_heads, -1))
    return FEATURE_MAPS[student.spec.feature_map](z)


def student_naive(student: Student, x: Tensor, *memory: Tensor, **masks: Tensor | None) -> Tensor:
    """Return what a student that has a definition here returns, by that definition."""
    if isinstance(student, StandIn):
        return stand_in_naive(student, x, *memory, **masks)
    if isinstance(student, EncoderStudent):
        return encoder_naive(student, x, **masks)
    if isinstance(student, DecoderStudent):
        return decoder_naive(student, x, **masks)
    if isinstance(student, PaperCross):
        return paper_cross_naive(student, x, *memory, **masks)
    return per_query_naive(cast(PerQueryCross, student), x, *memory, **masks)


def _net(
    nets: SlotNet, slots: Tensor, i: int | None = None, *, gate: Tensor | None = None
) -> Tensor:
    """Return the (or the i-th) net of ``(batch, n_slots, d_in)``: ``(batch, n_out * d_out)``."""
    net = {name: w if i is None else w[i] for name, w in nets.named_parameters()}
    z = slots.flatten(1)
    z = F.layer_norm(z, z.shape[1:], net["norm_gain"].flatten(), net["norm_shift"].flatten(), EPS)
    h = F.leaky_relu(z @ net["first_weight"].flatten(0, 1) + net["first_bias"], SLOPE)
    h = h if gate is None else h * gate
    for k in range(len(net["hidden_gain"])):
        if k > 0:
            h = h @ net["deeper_weight"][k - 1] + net["deeper_bias"][k - 1]
            h = F.leaky_relu(h, SLOPE)
        h = F.layer_norm(h, h.shape[1:], net["hidden_gain"][k], net["hidden_shift"][k], EPS)
    return h @ net["second_weight"].flatten(1) + net["second_bias"].flatten()


def _one_head(
    student: PerQueryCross, query: Tensor, source: Tensor, padding: Tensor | None
) -> Tensor:
    q = query @ student.query_weight
    scores = torch.einsum("bk,bsk->bs", q, source @ student.key_weight) * q.shape[-1] ** -0.5
    if padding is not None:
        scores = scores.masked_fill(padding, torch.finfo(scores.dtype).min)
    return torch.einsum("bs,bsd->bd", scores.softmax(-1), source @ student.value_weight)


def _slots(x: Tensor, padding: Tensor | None, max_len: int) -> Tensor:
    """Return ``(batch, max_len, d_model)``: the real positions, then zeros."""
    return F.pad(mask_out(x, padding), (0, 0, 0, max_len - x.shape[1]))
