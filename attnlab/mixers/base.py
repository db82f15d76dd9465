"""What every token mixer promises, the registry that finds it, and the ring for streaming."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from attnlab.config import require_even_heads, require_memory
from attnlab.errors import AttnlabError, UnknownMixerError, shorten

Step = tuple[str, int, str]  # of a critical path: kind of operation, depth, what it works on
Sum = Callable[..., int]  # number of terms, one perhaps ``late`` by some levels -> depth


class TokenMixer(nn.Module):
    r"""Moves information between positions, never from a later one to an earlier one.

    All that is said of a mixer stands in its class: the equation in its docstring, the loop that
    is its ``definition``, and closed forms of the default options, without biases, in
    d = ``d_model``, T positions that look back at P pairs in all, n = ``context_len``, h heads.
    The chain is of those mixers whose critical path the workbook derives; others have None.

    One frame holds most of them: :math:`y = f(M(x)\,v(x),\ x)`, where f and v work on each
    position alone and only the matrix M, ``mixing_matrix``, moves anything between positions.
    ``structure`` names what is known of M, and so what it costs.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape. Position t reads the newest
        ``reach`` positions up to and including itself, ``context_len`` unless the class says else.
    """

    name: ClassVar[str]
    look: ClassVar[Mapping[str, str]]  # family, label, marker
    structure: ClassVar[str] = "none"  # of M: one of STRUCTURES
    adapts: ClassVar[bool] = True  # whether M depends on the tokens
    preset: ClassVar[Mapping[str, Any]] = {}  # options that differ from those of the base class
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {}  # of options: values that tests try
    expected_weights: ClassVar[Callable[..., int]] = staticmethod(lambda d, n, h: 0)
    expected_multiplications: ClassVar[Callable[..., int]] = staticmethod(lambda d, T, P, h: 0)
    expected_state: ClassVar[Callable[..., int]] = staticmethod(lambda d, n, h: 0)  # numbers kept
    expected_chain: ClassVar[Callable[..., list[Step]] | None] = None

    def __init__(self, *, d_model: int, context_len: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.context_len = context_len

    @classmethod
    def in_layer(cls, layer: int, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return name and options of the mixer of a model's layer, 0 the first.

        A model whose layers differ by design says so here; every other one repeats itself.
        """
        return cls.name, dict(options)

    @property
    def reach(self) -> int | None:
        """How many of the newest positions an output depends on; None: on all there were."""
        return self.context_len

    @property
    def longest(self) -> int | None:
        """The longest sequence that can be mixed; None: any."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """Mix all positions at once, as in training."""
        self.require_input(x)
        return self.mix(x)

    def mix(self, x: Tensor) -> Tensor:
        """Return the mixture ``(batch, time, d_model)``, through the matrix unless overridden."""
        return self.finish(self.mixing_matrix(x) @ self.values(x), x)

    def mixing_matrix(self, x: Tensor) -> Tensor:
        """Return M, zero where a position would see a later one.

        Shapes:
            x: ``(batch, time, d_model)``; returns ``(batch or 1, parts, time, time)``; a part is
            a head, a channel, or everything.

        Raises:
            AttnlabError: The mixer has no such matrix.
        """
        raise AttnlabError(
            f"{type(self).__name__} is no M(x) v with one number a pair of positions, so it has no "
            "mixing_matrix. list_mixers(structure=...) names those that have one."
        )

    def values(self, x: Tensor) -> Tensor:
        """Return what M mixes, position by position: ``(batch, parts, time, width)``."""
        return x[:, None]

    def finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Return ``(batch, time, d_model)`` of what M made, ``(batch, parts, time, width)``."""
        return mixed[:, 0]

    def definition(self, x: Tensor) -> Tensor:
        """Return the same as the loop that defines it, reading nothing but the weights."""
        raise NotImplementedError

    def initial_state(self, batch_size: int) -> Any:
        """Return the state before the first token."""
        raise NotImplementedError

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Mix one more token; the state passed in is used up.

        Shapes:
            x_t: ``(batch, d_model)``; returns ``(batch, d_model)`` and the next state.
        """
        raise NotImplementedError

    def prefill(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Mix a whole prefix; return what ``forward`` returns and the state after it.

        Shapes:
            x: ``(batch, time, d_model)``; returns the same shape and the next state.
        Args:
            state: What came before the prefix, used up; None for the beginning.
        """
        self.require_input(x)
        state = self.initial_state(x.shape[0]) if state is None else state
        outputs = []
        for x_t in x.unbind(1):
            y_t, state = self.step(x_t, state)
            outputs.append(y_t)
        return torch.stack(outputs, 1), state

    def require_input(self, x: Tensor) -> None:
        """Raise unless ``x`` is ``(batch, time, d_model)`` like the weights."""
        require_features(x, d_model=self.d_model, where=type(self).__name__)
        self._require_like(x)

    def require_step(self, x_t: Tensor, state: Any) -> None:
        """Raise unless ``step`` can go on from this state with ``(batch, d_model)``."""
        if not isinstance(x_t, Tensor) or x_t.ndim != 2 or x_t.shape[1] != self.d_model:
            got = tuple(x_t.shape) if isinstance(x_t, Tensor) else type(x_t).__name__
            raise AttnlabError(
                f"{type(self).__name__}.step takes one token (batch, {self.d_model}); got {got}."
            )
        self._require_like(x_t)
        self.require_state(state)
        if (n_rows := _rows_of(state)) not in (None, len(x_t)):
            raise AttnlabError(
                f"The state is for a batch of {n_rows}; got {len(x_t)} rows. "
                f"Start with initial_state({len(x_t)})."
            )

    def require_state(self, state: Any) -> None:
        """Raise unless a state is one of this mixer's, whatever its batch and what it has seen."""
        if _form_of(state) != self._form:
            raise AttnlabError(
                f"The state, a {type(state).__name__}, is of another mixer than this "
                f"{type(self).__name__} of d_model={self.d_model} and context_len="
                f"{self.context_len}. Start with its own initial_state(batch_size)."
            )

    @cached_property
    def _form(self) -> Any:
        return _form_of(self.initial_state(1))

    def require_length(self, time: int) -> None:
        """Raise if a sequence would be longer than what the mixer has weights for."""
        if self.longest is not None and time > self.longest:
            raise AttnlabError(
                f"Position {time} lies beyond context_len={self.longest}, and this "
                f"{type(self).__name__} has no weight for it. Keep the newest positions, or build "
                "it with a longer context."
            )

    def _require_like(self, x: Tensor) -> None:
        """Raise unless the input has the device and, without autocast, the type of the weights."""
        weight = next(self.parameters(), x)
        if x.device != weight.device or (
            x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type)
        ):
            raise AttnlabError(
                f"The input is {x.dtype} on {x.device}, the weights of {type(self).__name__} are "
                f"{weight.dtype} on {weight.device}. Move one of them with .to(...)."
            )

    @property
    def _like(self) -> dict[str, Any]:
        """Device and type of the weights, for new state tensors."""
        weight = next(self.parameters(), torch.empty(0))
        return {"device": weight.device, "dtype": weight.dtype}


def product(name: str, summed: int) -> list[Step]:
    """Return the two steps of a product with ``name``: one multiplication, then a sum."""
    return [("mul", 1, name), ("acc", summed, name)]


STRUCTURES = {  # of the matrix M, and what one token costs more when t have been read
    "none": "M moves nothing, or is none",
    "dense": "a free number for every pair of positions",
    "softmax": "weights of each row are compared with each other and sum to one",
    "low rank": "q_t k_s, a product of what two positions say; a state of fixed size",
    "Toeplitz": "a number for each distance t - s",
    "semiseparable": "q_t a_t ... a_{s+1} k_s, low rank that fades; a state of fixed size",
    "mixed": "several of these side by side",
}

_MIXERS: dict[str, type[TokenMixer]] = {}
_Mixer = TypeVar("_Mixer", bound=type[TokenMixer])


def mixer(name: str, *, look: Mapping[str, str]) -> Callable[[_Mixer], _Mixer]:
    """Register a class under ``name``; nothing else has to know of it.

    Args:
        look: How pictures show it: ``family``, ``label``, and a ``marker`` that no other member
            of the family has.
    """

    def add(builder: _Mixer) -> _Mixer:
        if name in _MIXERS:
            raise AttnlabError(f"A mixer called {name!r} exists already; choose another name.")
        builder.name, builder.look = name, look
        _MIXERS[name] = builder
        return builder

    return add


def list_mixers(*, family: str | None = None, structure: str | None = None) -> tuple[str, ...]:
    """Return the names that ``build_mixer`` knows, in order of entry.

    Args:
        family: Of looks; None for all.
        structure: Of the matrix M, one of ``STRUCTURES``; None for all.
    """
    return tuple(
        name
        for name, one in _MIXERS.items()
        if family in (None, one.look["family"]) and structure in (None, one.structure)
    )


def find_mixer(name: str) -> type[TokenMixer]:
    """Return the class called ``name``.

    Raises:
        UnknownMixerError: No mixer has this name; the message has the nearest one.
    """
    if name not in _MIXERS:
        raise UnknownMixerError(name, _MIXERS)
    return _MIXERS[name]


def build_mixer(name: str, *, d_model: int, context_len: int, **options: Any) -> TokenMixer:
    """Build a token mixer by its name.

    Args:
        name: One of ``list_mixers()``.
        d_model: Width of the residual stream.
        context_len: Longest prefix the mixer looks back over, in tokens.
        options: What the mixer's own docstring lists.

    Raises:
        UnknownMixerError: No mixer has this name; the message has the nearest one.
        AttnlabError: An option the mixer does not have, or a value it cannot take.
    """
    builder, known = find_mixer(name), mixer_options(name)
    for option in options:
        if option not in known:
            raise AttnlabError(
                f"Mixer {name!r} has no option {option!r}. It has: {', '.join(known) or 'none'}."
            )
    for size, value in (("d_model", d_model), ("context_len", context_len)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise AttnlabError(f"{size}={shorten(value)} must be 1 or more, a whole number.")
    n_heads = options.get("n_heads", 1)
    if "n_heads" in known:
        require_even_heads(d_model, n_heads)
    require_memory(4 * builder.expected_weights(d_model, context_len, n_heads), f"Mixer {name!r}")
    return builder(d_model=d_model, context_len=context_len, **options)


def mixer_summary(name: str) -> str:
    """Return the first line of a mixer's documentation."""
    return (inspect.getdoc(find_mixer(name)) or "").splitlines()[0]


def mixer_options(name: str) -> dict[str, Any]:
    """Return the options of a mixer with their defaults."""
    builder = find_mixer(name)
    parameters = inspect.signature(builder).parameters.items()
    sizes = ("d_model", "context_len")
    return {n: builder.preset.get(n, p.default) for n, p in parameters if n not in sizes}


def require_features(x: Tensor, *, d_model: int, where: str) -> None:
    """Raise unless ``x`` is ``(batch, time, d_model)`` with at least one time step."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise AttnlabError(f"{where} takes a tensor of floating-point vectors; got {got}.")
    if x.ndim != 3:
        raise AttnlabError(
            f"{where} takes (batch, time, d_model); got {tuple(x.shape)}, {x.ndim} axes. "
            "Add the missing axis with x[None] or x.unsqueeze(...)."
        )
    if x.shape[-1] != d_model:
        raise AttnlabError(
            f"{where} was built for d_model={d_model}; the input is {x.shape[-1]} wide. "
            "Build it with the width of the residual stream, or project the input first."
        )
    if x.shape[1] == 0:
        raise AttnlabError(f"{where} needs at least one time step; got time=0.")


def _form_of(state: Any) -> Any:
    """Return what all states of a mixer share: kinds and sizes, but for the batch."""
    if isinstance(state, Ring):
        shape = state.slots.shape
        return Ring, state.context_len, shape[1:-2], shape[-1]
    if isinstance(state, Tensor):
        return Tensor, state.shape[1:]
    if isinstance(state, tuple):
        return tuple(map(_form_of, state))
    ring = getattr(state, "ring", None)  # of a stream that keeps more beside it
    return type(state) if ring is None else _form_of(ring)


def _rows_of(state: Any) -> int | None:
    """Return the batch of a state of rings and tensors; None where it has neither."""
    if isinstance(state, tuple):
        return next((n for n in map(_rows_of, state) if n is not None), None)
    state = getattr(state, "ring", state)
    rows = state.slots if isinstance(state, Ring) else state
    return len(rows) if isinstance(rows, Tensor) else None


def state_numbers(state: Any) -> int:
    """Return how many numbers a state keeps: of rings what can be read, not the room they have."""
    if isinstance(state, Ring):
        return state.newest_first().numel()
    if isinstance(state, Tensor):
        return state.numel()
    if isinstance(state, tuple):
        return sum(map(state_numbers, state))
    ring = getattr(state, "ring", None)
    return 0 if ring is None else state_numbers(ring)


@dataclass(frozen=True)
class Ring:
    """The newest ``context_len`` vectors side by side, newest first, and how many there were.

    Shapes:
        slots: ``(batch, ..., room, width)``; what is kept begins at ``start``. New vectors are
        written before it, and where the room ends, everything kept moves back to the end.
    """

    slots: Tensor
    context_len: int
    start: int = 0
    n_seen: int = 0

    @classmethod
    def empty(cls, batch_size: int, context_len: int, *width: int, **like: Any) -> Ring:
        """Return a ring that has seen nothing."""
        return cls(torch.zeros(batch_size, *width[:-1], 0, width[-1], **like), context_len)

    @property
    def n_kept(self) -> int:
        """How many vectors can be read: the newest ones that fit."""
        return min(self.n_seen, self.context_len)

    def push(self, vector: Tensor) -> Ring:
        """Return the ring with ``(batch, ..., width)`` as its newest vector.

        Without gradients the write is in place, so the old ring must not be used again.
        """
        ring = self.to(vector)
        ring.require_batch(vector)
        if torch.is_grad_enabled():
            return ring.extend(vector.unsqueeze(-2))
        slots, start = (ring.slots, ring.start) if ring.start else ring._with_room()
        slots.select(-2, start - 1).copy_(vector)
        return Ring(slots, self.context_len, start - 1, self.n_seen + 1)

    def extend(self, vectors: Tensor) -> Ring:
        """Return the ring after ``(batch, ..., time, width)``, the last of them the newest."""
        ring = self.to(vectors)
        ring.require_batch(vectors)
        newest = vectors[..., -self.context_len :, :].flip(-2)
        older = ring.newest(min(self.n_kept, self.context_len - newest.shape[-2]))
        n_seen = self.n_seen + vectors.shape[-2]
        return Ring(torch.cat([newest, older], -2), self.context_len, n_seen=n_seen)

    def newest_first(self) -> Tensor:
        """Return what is kept as ``(batch, ..., n_kept, width)``, lag 0 first."""
        return self.newest(self.n_kept)

    def newest(self, n: int) -> Tensor:
        """Return the ``n`` newest vectors, which must be kept; a view, nothing is copied."""
        return self.slots.narrow(-2, self.start, n)

    def to(self, other: Tensor) -> Ring:
        """Return the ring with the device and type of ``other``."""
        if self.slots.dtype == other.dtype and self.slots.device == other.device:
            return self
        return replace(self, slots=self.slots.to(device=other.device, dtype=other.dtype))

    def _with_room(self) -> tuple[Tensor, int]:
        """Return slots with what is still needed at their end, and where it begins there.

        Room doubles up to twice the context; from then on the same memory serves for ever.
        """
        n_needed = min(self.n_kept, self.context_len - 1)
        n_slots = self.slots.shape[-2]
        room, needed = n_slots, self.newest(n_needed)
        slots = self.slots
        if n_slots < 2 * self.context_len:
            room = min(max(16, 2 * n_slots), 2 * self.context_len)
            shape = (*slots.shape[:-2], room, slots.shape[-1])
            slots = slots.new_empty(shape)
        slots.narrow(-2, room - n_needed, n_needed).copy_(needed)
        return slots, room - n_needed

    def require_batch(self, vector: Tensor) -> None:
        """Raise unless a vector has as many rows as the ring."""
        if vector.shape[0] != self.slots.shape[0]:
            raise AttnlabError(
                f"The state is for a batch of {self.slots.shape[0]}; got {vector.shape[0]} rows. "
                f"Start with initial_state({vector.shape[0]})."
            )
