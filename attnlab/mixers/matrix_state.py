"""What mixers share that keep one matrix a head: a table of keys and values that fades."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import is_number, require_even_heads
from attnlab.errors import AttnlabError, shorten
from attnlab.mixers.base import TokenMixer

TINY = 1e-12  # the least that is divided by
SAFE = 60.0  # exponent: a number times its power of e is in float32; the future beyond is cut off
EPSILON = 1e-6  # beside a mean square under a root

Table = tuple[Tensor, ...]  # a state: the table, then what short convolutions remember


class Kernel(NamedTuple):
    """Features of a key or query, and their inner product without making them."""

    features: Callable[[Tensor], Tensor]
    between: Callable[[Tensor, Tensor], Tensor]


PLAIN = Kernel(lambda z: z, lambda q, k: q @ k.mT)


class Reading(NamedTuple):
    """What a mixer reads from its input, all ``(batch, heads, time, ...)``; 1 where shared."""

    q: Tensor  # (B, H, T, K)
    k: Tensor  # (B, H, T, K)
    v: Tensor  # (B, H, T, V)
    log_decay: Tensor | None = None  # (B, H, T, 1 or K), never above zero
    strength: Tensor | None = None  # (B, H, T, 1), of writing in place of what the key has
    kernel: Kernel = PLAIN
    past: tuple[Tensor, ...] = ()  # for the tokens to come
    beside: tuple[Tensor, ...] = ()  # what only the way out needs

    def wide(self) -> Reading:
        """Return the same in float32 at least, in which sums of logarithms are safe."""
        parts = (None if z is None else at_least_single(z) for z in self[:5])
        return Reading(*parts, *self[5:])


def scan(
    reading: Reading, table: Tensor | None = None, *, chunk: int, keep: bool = True
) -> tuple[Tensor, Tensor | None]:
    r"""Return all outputs ``(batch, heads, time, V)`` and the last table, chunk by chunk.

    .. math:: S_t = a_t S_{t-1} + k_t^\top u_t, \qquad y_t = q_t S_t, \qquad
              u_t = v_t \ \text{or}\ \beta_t (v_t - a_t k_t S_{t-1})

    With :math:`G_t` the sum of log decays since the chunk began and S the table before it,

    .. math:: y = A u + (e^{G} q) S, \qquad A_{ts} = [s \le t]\, e^{G_t - G_s} q_t k_s^\top

    and where values replace others, u solves a triangular system, the same for all columns,
    :math:`(I + \mathrm{tril}(\beta A^{kk}, -1))\, u = \beta\, (v - e^{G} k S)`. No exponent is
    positive. Loops run over chunks, not over time.

    Args:
        table: ``(batch, heads, K', V)``, what came before; None for nothing.
        chunk: Positions that are compared pair by pair.
        keep: Whether the last table is wanted.
    Source:
        arXiv:2405.21060, section 6; arXiv:2312.06635, section 4; arXiv:2406.06484, section 3.
    """
    time, wide, kernel = reading.v.shape[2], reading.wide(), reading.kernel
    with torch.autocast(reading.v.device.type, enabled=False):
        chunked: Any = (_in_chunks(z, min(chunk, time)) for z in wide[:5])
        q, k, v, log_decay, strength = chunked  # the last two may be None
        total = None if log_decay is None else log_decay.cumsum(-2)  # (B, H, N, C, 1 or K)
        lefts = (q,) if strength is None else (q, strength * k)
        seen, *known = faded_scores(lefts, k, total, kernel=kernel)
        is_alone, erased = table is None and time <= chunk, None
        if strength is not None:
            start_k = k if total is None else k * total.exp()
            written = strength * (v if is_alone else torch.cat([v, start_k], -1))
            v, erased = solve(*known, written).tensor_split([v.shape[-1]], -1)
        if is_alone and not keep:
            return (seen @ v)[:, :, 0].to(reading.v.dtype), None
        q, k = kernel.features(q), kernel.features(k)
        last = None if total is None else total[..., -1:, :]
        k_end = (k if total is None else k * (last - total).exp()).mT
        writes = k_end @ v  # (B, H, N, K, V)
        erases = None if erased is None or is_alone else k_end @ erased
        fade = None if last is None else last.exp().mT  # (B, H, N, 1 or K, 1)
        table = torch.zeros_like(writes[:, :, 0]) if table is None else table.to(writes.dtype)
        starts = []
        for n in range(writes.shape[2]):
            starts.append(table)
            rest = table if fade is None else fade[:, :, n] * table
            rest = rest if erases is None else rest - erases[:, :, n] @ table
            table = rest + writes[:, :, n]
        start = torch.stack(starts, 2)
        v = v if erases is None or erased is None else v - erased @ start
        mixed = seen @ v + (q if total is None else q * total.exp()) @ start
        return mixed.flatten(2, 3)[:, :, :time].to(reading.v.dtype), table


def _in_chunks(z: Tensor | None, chunk: int) -> Tensor | None:
    """Return ``(batch, heads, chunks, chunk, width)``, with zeros after the end."""
    if z is None:
        return None
    return F.pad(z, (0, 0, 0, -z.shape[2] % chunk)).unflatten(2, (-1, chunk))


def faded_scores(
    lefts: Sequence[Tensor], k: Tensor, total: Tensor | None, *, kernel: Kernel = PLAIN
) -> list[Tensor]:
    """Return ``(..., time, time)`` for each left side: what it has of earlier keys after decay.

    Args:
        total: Sums of log decays up to each position, ``(..., time, 1)`` or, if every feature
            has its own, ``(..., time, K)``; None without decay.
    """
    if total is None:
        return [kernel.between(q, k).tril() for q in lefts]
    middle = total[..., total.shape[-2] // 2, None, :].detach()  # any row does: it cancels
    if kernel is PLAIN and ((total[..., [0, -1], :] - middle).abs() < SAFE).all():
        k, late = k * (middle - total).exp(), (total - middle).exp()
        return [((q * late) @ k.mT).tril() for q in lefts]
    if total.shape[-1] == 1:
        fade = _fade(total, total.mT)
        return [(kernel.between(q, k) * fade).tril() for q in lefts]
    fade = _fade(total.unsqueeze(-2), total.unsqueeze(-3)) * k.unsqueeze(-3)  # (..., T, T, K)
    return [(fade @ q.unsqueeze(-1)).squeeze(-1).tril() for q in lefts]


def _fade(late: Tensor, early: Tensor) -> Tensor:
    """Return what is left of early positions at late ones, at most one, whatever the sums."""
    return (late - early).clamp(max=0).exp()


def solve(known: Tensor, written: Tensor) -> Tensor:
    """Return what is really written when each write first takes off what its key has.

    Shapes:
        known: ``(..., time, time)``, scores of keys with earlier keys, times the strength of each
        write; its diagonal counts as ones. written: ``(..., time, width)``, times strength too.
    """
    return torch.linalg.solve_triangular(known, written, upper=False, unitriangular=True)


def pair_shares(reading: Reading) -> Tensor:
    """Return what each position takes of each written value, ``(batch, heads, time, time)``."""
    q, k, v, log_decay, strength = reading.wide()[:5]
    total = None if log_decay is None else log_decay.cumsum(-2)
    lefts = (q,) if strength is None else (q, strength * k)
    seen, *known = faded_scores(lefts, k, total, kernel=reading.kernel)
    if strength is not None:
        unit = strength * torch.eye(v.shape[2], dtype=v.dtype, device=v.device)
        seen = seen @ solve(*known, unit)
    return seen.to(reading.v.dtype)


def write_and_ask(reading: Reading, table: Tensor) -> tuple[Tensor, Tensor]:
    """Return what one more token finds, ``(batch, heads, 1, V)``, and the table it wrote to."""
    q, k, v, log_decay, strength = reading.wide()[:5]
    q, k = reading.kernel.features(q), reading.kernel.features(k)
    if log_decay is not None:
        table = log_decay.exp().mT * table
    if strength is not None:
        v = strength * (v - k @ table)
    table = table + k.mT @ v
    return (q @ table).to(reading.v.dtype), table


class MatrixState(TokenMixer):
    r"""Keep a table a head, add a product of key and value with each token, ask with a query.

    .. math:: S_t = a_t S_{t-1} + k_t^\top v_t, \qquad y_t = q_t S_t

    so :math:`M_{ts} = q_t\, a_t \cdots a_{s+1}\, k_s^\top`: without decay a matrix of low rank,
    with it semiseparable. A subclass says in ``read`` how queries, keys, values, decays and write
    strengths come from x, in ``write`` how the result leaves, and has a loop of its own to define
    it. Training computes pairs within chunks and tables between them, streaming the table alone,
    whose size does not depend on how much was read.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape.
    Args:
        n_heads: Tables, each for ``d_model / n_heads`` channels of the values.
        d_key, d_value: Sizes of a table.
    """

    structure = "semiseparable"
    chunk: ClassVar[int] = 64  # pairs are cheaper up to twice as many positions

    def __init__(
        self, *, d_model: int, context_len: int, n_heads: int, d_key: int, d_value: int
    ) -> None:
        super().__init__(d_model=d_model, context_len=context_len)
        self.n_heads, self.table_shape = n_heads, (n_heads, d_key, d_value)

    @property
    def reach(self) -> None:
        """All there was."""

    def read(self, x: Tensor, past: tuple[Tensor, ...] = ()) -> Reading:
        """Return what is read from ``(batch, time, d_model)``.

        Args:
            past: What an earlier reading left for this one; nothing at the beginning.
        """
        raise NotImplementedError

    def write(self, mixed: Tensor, reading: Reading) -> Tensor:
        """Return ``(batch, time, d_model)`` of ``(batch, heads, time, d_value)``."""
        raise NotImplementedError

    def mix(self, x: Tensor) -> Tensor:
        """Compare all pairs of a short sequence, and chunks of a long one."""
        reading = self.read(x)
        return self.write(scan(reading, chunk=self._chunk(x), keep=False)[0], reading)

    def _chunk(self, x: Tensor) -> int:
        return x.shape[1] if x.shape[1] <= 2 * self.chunk else self.chunk

    def mixing_matrix(self, x: Tensor) -> Tensor:
        """Return what each position takes of each value, ``(batch, heads, time, time)``."""
        return pair_shares(self.read(x))

    def values(self, x: Tensor) -> Tensor:
        """Return what is written into the tables, ``(batch, heads, time, d_value)``."""
        return self.read(x).v

    def finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Return what leaves the mixer."""
        return self.write(mixed, self.read(x))

    def initial_state(self, batch_size: int) -> Table:
        """Return empty tables ``(batch, heads, d_key, d_value)``, in float32 at least."""
        like = self._like
        dtype = torch.promote_types(like["dtype"], torch.float32)
        table = torch.zeros(batch_size, *self.table_shape, dtype=dtype, device=like["device"])
        past = (self.conv.empty(batch_size),) if hasattr(self, "conv") else ()
        return table, *past

    def step(self, x_t: Tensor, state: Table) -> tuple[Tensor, Table]:
        """Write one token into the tables and ask them; the cost is that of any other token."""
        self.require_step(x_t, state)
        reading = self.read(x_t[:, None], state[1:])
        mixed, table = write_and_ask(reading, state[0])
        return self.write(mixed, reading)[:, 0], (table, *reading.past)

    def prefill(self, x: Tensor, state: Table | None = None) -> tuple[Tensor, Table]:
        """Mix a prefix chunk by chunk, and return the tables after it."""
        self.require_input(x)
        if state is None:
            state = self.initial_state(len(x))
        self.require_step(x[:, 0], state)
        reading = self.read(x, state[1:])
        mixed, table = scan(reading, state[0], chunk=self._chunk(x))
        return self.write(mixed, reading), (table, *reading.past)


class ShortConv(nn.Module):
    r"""Let each channel see a few tokens back, :math:`\mathrm{silu}(b + \sum_j w_j x_{t-j})`.

    Shapes:
        x: ``(batch, time, channels)``; weight: ``(width, channels)``, the oldest token first.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, channels) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(channels))

    def empty(self, batch_size: int) -> Tensor:
        """Return zeros as the tokens before the first."""
        return self.weight.new_zeros(batch_size, len(self.weight) - 1, len(self.bias))

    def forward(self, x: Tensor, past: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor]]:
        """Return the result in float32 at least, and what the next tokens have to know."""
        time = x.shape[1]
        seen = torch.cat([past[0] if past else self.empty(len(x)), x], 1)
        y, weight, wide = (at_least_single(z) for z in (self.bias, self.weight, seen))
        for i, w in enumerate(weight):
            y = torch.addcmul(y, wide[:, i : i + time], w)
        return F.silu(y), (seen[:, time:],)

    def at(self, newest: list[Tensor]) -> Tensor:
        """Return the result at one position from its tokens, as the definition has it."""
        return F.silu(self.bias + sum(w * x for w, x in zip(self.weight, newest, strict=True)))


def at_least_single(x: Tensor) -> Tensor:
    """Return the same in float32 or, if it was that already, float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def head_width(d_model: int, n_heads: int) -> int:
    """Return the channels of each of ``n_heads`` equal heads."""
    require_even_heads(d_model, n_heads)
    return d_model // n_heads


def require_counts(**counts: int) -> None:
    """Raise unless every one of these options is a whole number from 1."""
    for name, n in counts.items():
        if not is_number(n, int) or n < 1:
            raise AttnlabError(f"{name}={shorten(n)} must be 1 or more, a whole number.")


def linear(n_in: int, n_out: int) -> nn.Linear:
    """Return a map without bias that keeps the size of what it maps."""
    made = nn.Linear(n_in, n_out, bias=False)
    nn.init.normal_(made.weight, std=n_in**-0.5)
    return made


def in_heads(x: Tensor, n_heads: int) -> Tensor:
    """Return ``(batch, heads, time, width)`` of ``(batch, time, heads * width)``."""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def side_by_side(heads: Tensor) -> Tensor:
    """Return ``(batch, time, heads * width)``."""
    return heads.transpose(1, 2).flatten(2)


def rms_norm(x: Tensor) -> Tensor:
    """Divide by the root of the mean square over the last axis; no weights."""
    return F.rms_norm(x, x.shape[-1:], eps=EPSILON)


def rms_norm_naive(x: Tensor) -> Tensor:
    """Return the same, written out."""
    return x / ((x * x).mean(-1, keepdim=True) + EPSILON).sqrt()
