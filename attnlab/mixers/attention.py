"""Attention: one soft look-up, as a mixer and at the three places where a translator has it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import is_number, require_even_heads
from attnlab.errors import AttnlabError, shorten
from attnlab.mixers.base import Ring, TokenMixer, mixer, product

POSITIONS = ("none", "rotary", "alibi")


def look_up(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    is_causal: bool = False,
    window: int | None = None,
    padding: Tensor | None = None,
    dropout: float = 0.0,
    bias: Tensor | None = None,
) -> Tensor:
    r"""Return what queries find among keys and values.

    .. math:: h_t = \sum_s \mathrm{softmax}_s\bigl(q_t k_s^\top / \sqrt{d_h}\bigr) v_s

    Shapes:
        q: ``(batch, heads, time, d_head)``, as is what is returned; k, v:
        ``(batch, heads, memory_time, d_head)``.
    Args:
        is_causal: Queries are the newest of the keys' positions, and none sees a later one.
        window: How many positions a causal query sees, itself included; None for all.
        padding: ``(batch, memory_time)``, true where there is nothing to find. A row of padding
            alone finds zeros.
        dropout: Probability that a weight is dropped.
        bias: ``(heads, time, memory_time)``, added to the scores.
    """
    has_bias = bias is not None
    mask = _visible(q, k, is_causal=is_causal, window=window, padding=padding, is_shown=has_bias)
    is_empty = None if padding is None else padding.all(1)[:, None, None, None]
    if mask is not None and is_empty is not None:
        mask = mask | is_empty
    if bias is not None:
        bias = bias.to(q)[None]
        mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
    mixed = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=is_causal and mask is None, dropout_p=dropout
    )
    return mixed if is_empty is None else mixed.masked_fill(is_empty, 0.0)


def look_up_weights(q: Tensor, k: Tensor, *, bias: Tensor | None = None, **sight: Any) -> Tensor:
    """Return the soft look-up itself, ``(batch, heads, time, memory_time)``; rows sum to one.

    Args:
        bias: Added to the scores, as for ``look_up``.
        sight: ``is_causal``, ``window`` and ``padding`` as for ``look_up``.
    """
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    scores = scores if bias is None else scores + bias
    mask = _visible(q, k, is_shown=True, **sight)
    scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0)  # a row without anything to look at


def _visible(
    q: Tensor,
    k: Tensor,
    *,
    is_causal: bool = False,
    window: int | None = None,
    padding: Tensor | None = None,
    is_shown: bool = False,
) -> Tensor | None:
    """Return which key each query may see, ``(batch or 1, 1, time, memory_time)``.

    None where the library needs no mask: all keys, or all of the past unless it is to be shown.
    """
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    mask = None if padding is None else ~padding[:, None, None]
    is_plain = n_queries == n_keys and (window is None or n_keys <= window)
    if not is_causal or (is_plain and mask is None and not is_shown):
        return mask
    t = torch.arange(n_keys, device=q.device)
    lag = t[n_keys - n_queries :, None] - t
    past = (lag >= 0) & (lag < (n_keys if window is None else window))
    return past[None, None] if mask is None else mask & past


def rotated(x: Tensor, *, first: int = 0) -> Tensor:
    r"""Turn each pair of channels by an angle that grows with the position (rotary positions).

    .. math:: (a, b)_i \mapsto (a \cos t f_i - b \sin t f_i,\ a \sin t f_i + b \cos t f_i),
              \quad f_i = 10000^{-2i/d_h}

    A product of two turned vectors depends on the distance of their positions alone. Of an odd
    width the last channel stays as it is.

    Shapes:
        x: ``(..., time, d_head)``, as is what is returned; positions count from ``first``.
    Source:
        arXiv:2104.09864, eq. 34.
    """
    n_pairs, n_paired = x.shape[-1] // 2, x.shape[-1] // 2 * 2
    t = torch.arange(first, first + x.shape[-2], dtype=torch.float64)
    i = torch.arange(n_pairs, dtype=torch.float64)
    angle = t[:, None] * 10_000.0 ** (-i / max(n_pairs, 1))
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    a, b = x[..., 0:n_paired:2], x[..., 1:n_paired:2]
    pairs = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    return torch.cat([pairs, x[..., n_paired:]], -1)


def rotated_naive(vector: Tensor, t: int) -> Tensor:
    """Turn one vector ``(batch, d_head)`` at position t, pair by pair."""
    width = vector.shape[-1]
    n_paired, turned = width // 2 * 2, []
    for i in range(0, n_paired, 2):
        angle = t / 10_000 ** (i / n_paired)
        a, b = vector[:, i], vector[:, i + 1]
        turned.append(a * math.cos(angle) - b * math.sin(angle))
        turned.append(a * math.sin(angle) + b * math.cos(angle))
    return torch.stack([*turned, *vector[:, n_paired:].unbind(1)], 1)


class Heads(nn.Module):
    """The four linear maps of multi-head attention, and how a vector splits into heads."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear

    def _add_heads(self, d_model: int, n_heads: int, dropout: float, bias: bool) -> None:
        require_even_heads(d_model, n_heads)
        if not 0 <= dropout < 1:
            raise AttnlabError(f"dropout={dropout} is not a probability below 1; try 0.1.")
        self.n_heads, self.dropout = n_heads, dropout
        names = ("query", "key", "value", "out")
        for name in names:
            setattr(self, name, nn.Linear(d_model, d_model, bias=bias))
        for name in names:
            nn.init.normal_(getattr(self, name).weight, std=d_model**-0.5)

    @property
    def _dropout(self) -> float:
        return self.dropout if self.training else 0.0

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, T, K)

    def _side_by_side(self, heads: Tensor) -> Tensor:
        return heads.transpose(1, 2).flatten(2)  # (B, T, H K)


@mixer("attention", look={"family": "attention", "label": "Attention", "marker": "o"})
class Attention(Heads, TokenMixer):
    r"""Look the past up by content: a softmax over keys, an average of values.

    .. math:: y_t = \Bigl[\sum_{s \le t} \mathrm{softmax}_s\bigl(q_t k_s^\top / \sqrt{d_h}\bigr)
              v_s\Bigr] W_O,\quad q = x W_Q,\ k = x W_K,\ v = x W_V

    The sum runs over the newest ``window`` positions. A position enters in two ways: ``rotary``
    turns queries and keys with it; ``alibi`` takes :math:`m_i (t - s)` from the scores of head i,
    :math:`m_i = 2^{-8i/h}`, so that what is older counts less.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape.
    Weights:
        ``4 * d_model**2``; with ``bias`` another ``4 * d_model``.
    Args:
        n_heads: Heads of width ``d_model / n_heads``; 1 is the single-head baseline.
        bias: Whether the four projections add one.
        dropout: Probability that an attention weight is dropped in training.
        start_scale: Of the initial queries and keys; below 1 the look-up starts more even.
        position: ``none``, ``rotary`` or ``alibi``.
        window: How many positions one sees, itself included; None for ``context_len``.
        slope: Factor of all slopes of ``alibi``; 0 leaves the scores alone.
    Source:
        arXiv:1706.03762, section 3.2; derived in notebook 02. Rotary arXiv:2104.09864, ALiBi
        arXiv:2108.12409.
    """

    structure = "softmax"
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **{"n_heads": (1, 3), "bias": (True,)},
        **{"position": ("rotary", "alibi"), "window": (1, 2)},
    }
    expected_weights = staticmethod(lambda d, n, h: 4 * d**2)
    expected_multiplications = staticmethod(lambda d, T, P, h: 4 * T * d**2 + 2 * P * d + P * h)
    expected_state = staticmethod(lambda d, n, h: 2 * n * d)
    expected_chain = staticmethod(
        lambda d, T, h, total: [
            *product("query", total(d)),
            *product("query × key", total(d // h)),
            ("mul", int(d > h), "query × key, constant"),  # 1 / sqrt(1) needs no multiplication
            *(("max", total(T), "softmax"), ("add", 1, "softmax"), ("exp", 1, "softmax")),
            *(("acc", total(T), "softmax"), ("div", 1, "softmax")),
            *product("softmax × value", total(T)),
            *product("out", total(d)),
        ]
    )

    def __init__(
        self,
        *,
        d_model: int,
        context_len: int,
        n_heads: int = 1,
        bias: bool = False,
        dropout: float = 0.0,
        start_scale: float = 1.0,
        position: str = "none",
        window: int | None = None,
        slope: float = 1.0,
    ) -> None:
        super().__init__(d_model=d_model, context_len=context_len)
        self._add_heads(d_model, n_heads, dropout, bias)
        _require_sight(position, window)
        self.position, self.window = position, window
        if not is_number(slope, float):
            raise AttnlabError(f"slope={shorten(slope)} must be a number; 1 is usual.")
        fades = slope if position == "alibi" else 0.0
        self.slopes = [fades * 2 ** (-8 * (i + 1) / n_heads) for i in range(n_heads)]
        for linear in (self.query, self.key):
            linear.weight.data.mul_(start_scale)

    @property
    def reach(self) -> int:
        """The window, or the context where that is shorter."""
        return min(self.window or self.context_len, self.context_len)

    def definition(self, x: Tensor) -> Tensor:
        """Attend one position and one head at a time (arXiv:1706.03762, eq. 1)."""
        width, n_tokens = self.d_model // self.n_heads, x.shape[1]
        found: list[list[Tensor]] = [[] for _ in range(n_tokens)]
        heads = [one(x).split(width, dim=-1) for one in (self.query, self.key, self.value)]
        for slope, *parts in zip(self.slopes, *heads, strict=True):
            q, k, v = (part.unbind(1) for part in parts)  # (B, K) a position
            if self.position == "rotary":
                q, k = ([rotated_naive(u_t, t) for t, u_t in enumerate(u)] for u in (q, k))
            for t in range(n_tokens):
                past = range(max(0, t - self.reach + 1), t + 1)
                scores = [(q[t] * k[s]).sum(-1) / math.sqrt(width) - slope * (t - s) for s in past]
                share = torch.stack(scores, -1).softmax(-1)  # (B, S)
                found[t].append(sum(share[:, j, None] * v[s] for j, s in enumerate(past)))
        return torch.stack([self.out(torch.cat(parts, -1)) for parts in found], 1)

    def mix(self, x: Tensor) -> Tensor:
        """Attend from every position to itself and the past."""
        return self._attend(*self._projected(x), dropout=self._dropout)

    def _projected(self, x: Tensor, *, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values ``(batch, heads, time, d_head)`` from a position on."""
        q, k, v = (self._split(one(x)) for one in (self.query, self.key, self.value))
        if self.position == "rotary":
            q, k = rotated(q, first=first), rotated(k, first=first)
        return q, k, v

    def _sight(self, q: Tensor, k: Tensor) -> dict[str, Any]:
        """Return what the newest positions see of keys, oldest first, and how it fades."""
        bias = None
        if self.position == "alibi":
            s = torch.arange(k.shape[2], device=q.device)
            lag = s[k.shape[2] - q.shape[2] :, None] - s
            bias = -q.new_tensor(self.slopes)[:, None, None] * lag  # (H, T, S)
        return {"is_causal": True, "window": self.reach, "bias": bias}

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
        """Attend from the newest positions to keys and values, oldest first."""
        return self.out(self._side_by_side(look_up(q, k, v, dropout=dropout, **self._sight(q, k))))

    def mix_two_sided(self, x: Tensor, *, padding: Tensor | None = None) -> Tensor:
        """Attend to later positions as to earlier ones, but for ``padding``; knows no window."""
        self.require_input(x)
        t, bias = torch.arange(x.shape[1], device=x.device), None
        if self.position == "alibi":
            bias = -x.new_tensor(self.slopes)[:, None, None] * (t[:, None] - t).abs()
        sight = {"padding": padding, "bias": bias, "dropout": self._dropout}
        return self.out(self._side_by_side(look_up(*self._projected(x), **sight)))

    def attention_weights(self, x: Tensor) -> Tensor:
        """Return the soft look-up itself: ``(batch, heads, time, time)``, rows sum to one."""
        q, k, _ = self._projected(x)
        return look_up_weights(q, k, **self._sight(q, k))

    mixing_matrix = attention_weights

    def values(self, x: Tensor) -> Tensor:
        """Return the values of each head, ``(batch, heads, time, d_head)``."""
        return self._split(self.value(x))

    def finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Put the heads side by side and map them out."""
        return self.out(self._side_by_side(mixed))

    def initial_state(self, batch_size: int) -> tuple[Ring, Ring]:
        """Return an empty cache of keys and values (a KV cache), as long as the reach.

        Keys are kept as they were turned: only the distance of two positions counts, so a stream
        goes on for ever.
        """
        sizes = (batch_size, self.reach, self.n_heads, self.d_model // self.n_heads)
        return Ring.empty(*sizes, **self._like), Ring.empty(*sizes, **self._like)

    def step(self, x_t: Tensor, state: tuple[Ring, Ring]) -> tuple[Tensor, tuple[Ring, Ring]]:
        """Attend from one new token to the cache; cost grows with its length only."""
        self.require_step(x_t, state)
        q, k, v = self._projected(x_t[:, None], first=state[0].n_seen)  # (B, H, 1, K)
        keys, values = state[0].push(k[:, :, 0]), state[1].push(v[:, :, 0])
        seen, bias = keys.newest_first(), self._sight(q, keys.newest_first())["bias"]
        bias = None if bias is None else bias.flip(-1)
        # softmax does not mind the order
        mixed = look_up(q, seen, values.newest_first(), bias=bias)
        return self.out(mixed.flatten(1)), (keys, values)

    def prefill(
        self, x: Tensor, state: tuple[Ring, Ring] | None = None
    ) -> tuple[Tensor, tuple[Ring, Ring]]:
        """Attend from a prefix at once, without dropout; return its outputs and the cache."""
        self.require_input(x)
        if state is not None:
            self.require_state(state)
        keys, values = self.initial_state(x.shape[0]) if state is None else state
        keys.require_batch(x)
        q, k, v = self._projected(x, first=keys.n_seen)
        seen_k, seen_v = (
            torch.cat([r.newest_first().flip(2), new], 2) for r, new in ((keys, k), (values, v))
        )
        return self._attend(q, seen_k, seen_v), (keys.extend(k), values.extend(v))


def _require_sight(position: str, window: int | None) -> None:
    if position not in POSITIONS:
        raise AttnlabError(f"position={position!r} is not one of {', '.join(POSITIONS)}.")
    if window is not None and (not is_number(window, int) or window < 1):
        said = f"window={shorten(window)} must be 1 or more, a whole number"
        raise AttnlabError(f"{said}; None sees the whole context.")


class KeyValues(NamedTuple):
    """What a site has read: keys and values ``(batch, heads, time, d_head)``, and its padding."""

    keys: Tensor
    values: Tensor
    padding: Tensor | None = None


class AttentionSite(Heads):
    """A place where a translator looks something up, a module that can be swapped.

    Every site maps ``(batch, time, d_model)`` to the same shape and keeps its last projection
    apart: ``site(x) == site.out(site.heads(x))``. What replaces the look-up overrides ``heads``
    and keeps ``out``; what replaces the whole site is any module that is called in the same way::

        y = encoder[i].self_attention(x, source_padding=...)
        y = decoder[i].self_attention(x, target_padding=...)              # causal
        y = decoder[i].cross_attention(x, memory, source_padding=..., target_padding=...)

    The padding of a side is ``(batch, time)``, true at ``PAD``, or None where there is none. The
    decoder's sites also go token by token: ``state = site.initial_state(...)``, then
    ``y_t, state = site.step(x_t, state)``. A state is a tensor or a tuple of states, with the
    batch on the first axis of every tensor, so that beam search can reorder it.

    Weights:
        ``4 * d_model**2``; with ``bias`` another ``4 * d_model``.
    Args:
        n_heads: Heads of width ``d_model / n_heads``.
        dropout: Probability that an attention weight is dropped in training.
        bias: Whether the four projections add one.
    Source:
        arXiv:1706.03762, section 3.2.
    """

    is_causal = False

    def __init__(
        self, *, d_model: int, n_heads: int, dropout: float = 0.0, bias: bool = False
    ) -> None:
        super().__init__()
        self.d_model = d_model
        self._add_heads(d_model, n_heads, dropout, bias)

    def forward(self, *inputs: Tensor, **paddings: Tensor | None) -> Tensor:
        """Return what the look-up adds to the residual stream."""
        return self.out(self.heads(*inputs, **paddings))

    def heads(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        """Return the head outputs side by side, before ``out``.

        Padding of the target is for those who replace a site: it stands at the end, where no
        causal query sees it, and no query of cross-attention sees another.
        """
        what = self._read(x if memory is None else memory, source_padding)
        return self._find(x, what, is_causal=self.is_causal)

    def attention_weights(
        self, x: Tensor, memory: Tensor | None = None, *, source_padding: Tensor | None = None
    ) -> Tensor:
        """Return ``(batch, heads, time, memory_time)``; rows sum to one."""
        what, q = self._read(x if memory is None else memory, source_padding), self.query(x)
        sight = {"is_causal": self.is_causal, "padding": what.padding}
        return look_up_weights(self._split(q), what.keys, **sight)

    def step(self, x_t: Tensor, state: KeyValues) -> tuple[Tensor, KeyValues]:
        """Mix one more token ``(batch, d_model)``; equals the last column of ``forward``."""
        heads, state = self.step_heads(x_t, state)
        return self.out(heads), state

    def step_heads(self, x_t: Tensor, state: KeyValues) -> tuple[Tensor, KeyValues]:
        """Return the head outputs of one more token and what has been read with it."""
        self._require_state(x_t, state)
        return self._find(x_t[:, None], state)[:, 0], state

    def _require_state(self, x_t: Tensor, state: Any) -> None:
        wanted = len(x_t), self.n_heads, self.d_model // self.n_heads
        shape = state.keys.shape if isinstance(state, KeyValues) else ()
        if (*shape[:2], *shape[3:]) != wanted:
            got = tuple(shape) if shape else type(state).__name__
            raise AttnlabError(
                f"The state is {got}; this site reads keys (batch, heads, time, d_head) of "
                f"batch, heads and d_head {wanted}. Start with its own initial_state."
            )

    def _read(self, memory: Tensor, padding: Tensor | None = None) -> KeyValues:
        return KeyValues(self._split(self.key(memory)), self._split(self.value(memory)), padding)

    def _find(self, x: Tensor, what: KeyValues, **sight: Any) -> Tensor:
        sight |= {"padding": what.padding, "dropout": self._dropout}
        q = self._split(self.query(x))
        return self._side_by_side(look_up(q, what.keys, what.values, **sight))


class SelfAttention(AttentionSite):
    """A sentence looks itself up: all of it in the encoder, its past in the decoder.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape.
    Args:
        is_causal: Whether position t sees the positions up to t only.
    """

    def __init__(self, *, is_causal: bool, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.is_causal = is_causal

    def initial_state(self, batch_size: int) -> KeyValues:
        """Return keys and values of nothing yet."""
        nothing = self.query.weight.new_zeros(batch_size, 0, self.d_model)
        return KeyValues(self._split(nothing), self._split(nothing))

    def step_heads(self, x_t: Tensor, state: KeyValues) -> tuple[Tensor, KeyValues]:
        """Return the head outputs of one more token and what has been read with it."""
        self._require_state(x_t, state)
        newest = self._read(x_t[:, None])
        keys = torch.cat([state.keys, newest.keys], dim=2)
        values = torch.cat([state.values, newest.values], dim=2)
        return super().step_heads(x_t, KeyValues(keys, values))


class CrossAttention(AttentionSite):
    """The target looks the source up.

    Shapes:
        x: ``(batch, target_time, d_model)``; returns the same shape.
        memory: ``(batch, source_time, d_model)``, what the encoder made of the source.
    """

    def initial_state(self, memory: Tensor, *, source_padding: Tensor | None = None) -> KeyValues:
        """Return keys and values of the source, computed once a sentence."""
        return self._read(memory, source_padding)
