"""SPADE: in the first layer a state space beside a window of attention, windows above."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnlab.config import is_number
from attnlab.errors import AttnlabError
from attnlab.mixers.attention import Attention
from attnlab.mixers.base import TokenMixer, mixer
from attnlab.mixers.long_conv import N_STATE, LongConv

WINDOW = 16


def _expected_multiplications(d: int, T: int, P: int, h: int) -> int:
    """Count both branches, two norms of 3 d a token, and the map that joins them."""
    pairs = min(P, WINDOW * T - WINDOW * (WINDOW - 1) // 2) if T > WINDOW else P
    window = 4 * T * d**2 + 2 * pairs * d + pairs * h
    state_space = 3 * (T + 3) * N_STATE * d + T * d
    return window + state_space + 6 * T * d + 2 * T * d**2


@mixer("spade", look={"family": "convolution", "label": "SPADE", "marker": "$S$"})
class Spade(TokenMixer):
    r"""Join what a state space says of all that was and what attention sees in a window.

    .. math:: y_t = \bigl[\mathrm{LN}(s_t),\ \mathrm{LN}(w_t)\bigr] W,\quad s = k * x + D \odot x,
              \quad w = \mathrm{attention}(x;\ \text{newest } W \text{ tokens})

    k is the S4D kernel, without a map of its own. The state space remembers roughly and for ever,
    the window exactly and briefly. Only the first layer of a model is this; those above are
    attention in a window, as published, but without the authors' bias of scores by distance.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape.
    Args:
        window: How many of the newest tokens attention sees, at most ``context_len``.
        n_heads: Of attention.
        n_state: Numbers that a channel of the state space keeps.
        state_space: Without it the mixer is attention in a window, neither normed nor joined.
        method: How the kernel's sum is evaluated, see ``causal_convolution``.
    Weights:
        ``4 d**2`` of attention, ``d (2 N + 2)`` of the state space with N = 64, ``4 d`` of the
        norms and ``2 d**2`` of W.
    State:
        Keys and values of the window, ``2 W d`` numbers, and ``N d`` of the state space.
    Source:
        arXiv:2212.08136, section 3, and the authors' code (concatenation); derived in notebook 10.
    """

    structure = "mixed"
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"window": (1, 3), "state_space": (False,)}
    expected_weights = staticmethod(lambda d, n, h: 6 * d**2 + d * (2 * N_STATE + 2) + 4 * d)
    expected_state = staticmethod(lambda d, n, h: 2 * min(n, WINDOW) * d + N_STATE * d)
    expected_multiplications = staticmethod(_expected_multiplications)

    def __init__(
        self,
        *,
        d_model: int,
        context_len: int,
        window: int = WINDOW,
        n_heads: int = 1,
        n_state: int = N_STATE,
        state_space: bool = True,
        method: str = "auto",
    ) -> None:
        super().__init__(d_model=d_model, context_len=context_len)
        if not is_number(window, int) or window < 1:
            raise AttnlabError(f"window={window!r} sees nothing; give a whole number from 1 on.")
        sizes = {"d_model": d_model, "context_len": min(window, context_len)}
        self.local = Attention(**sizes, n_heads=n_heads)
        self.state_space = self.norms = self.join = None
        if state_space:
            sizes["context_len"] = context_len
            plain = {"gate": False, "maps": False, "n_state": n_state, "method": method}
            self.state_space = LongConv(kernel="s4d", **sizes, **plain)
            self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(2))
            self.join = nn.Linear(2 * d_model, d_model, bias=False)
            nn.init.normal_(self.join.weight, std=(2 * d_model) ** -0.5)

    @classmethod
    def in_layer(cls, layer: int, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return this mixer for the first layer, attention in a window for those above."""
        if layer == 0:
            return cls.name, dict(options)
        kept = {name: options[name] for name in ("n_heads",) if name in options}
        return "attention", {"window": options.get("window", WINDOW), **kept}

    @property
    def out(self) -> nn.Linear:
        """The map into the stream."""
        return self.local.out if self.join is None else self.join

    @property
    def reach(self) -> int | None:
        """Without the state space the window, else everything."""
        return self.local.context_len if self.state_space is None else None

    def _joined(self, remembered: Tensor, seen: Tensor) -> Tensor:
        normed = [norm(y) for norm, y in zip(self.norms, (remembered, seen), strict=True)]
        return self.out(torch.cat(normed, -1))

    def definition(self, x: Tensor) -> Tensor:
        """Run both branches as they are defined, norm, put side by side, map."""
        seen = self.local.definition(x)
        if self.state_space is None:
            return seen
        sides = []
        for norm, y in zip(self.norms, (self.state_space.definition(x), seen), strict=True):
            centred = y - y.mean(-1, keepdim=True)
            size = ((centred * centred).mean(-1, keepdim=True) + norm.eps).sqrt()
            sides.append(centred / size * norm.weight + norm.bias)
        return self.out(torch.cat(sides, -1))

    def mix(self, x: Tensor) -> Tensor:
        """Mix all positions by both branches at once."""
        seen = self.local.mix(x)
        return seen if self.state_space is None else self._joined(self.state_space.mix(x), seen)

    def initial_state(self, batch_size: int) -> tuple[Any, ...]:
        """Return the states of the window and, where there is one, of the state space."""
        branches = (self.local, self.state_space)
        return tuple(b.initial_state(batch_size) for b in branches if b is not None)

    def step(self, x_t: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """Mix one more token by both branches."""
        self.require_step(x_t, state)
        return self._stream("step", x_t, state)

    def prefill(self, x: Tensor, state: Any = None) -> tuple[Tensor, tuple[Any, ...]]:
        """Mix a whole prefix at once; return its outputs and the state after it."""
        self.require_input(x)
        state = self.initial_state(x.shape[0]) if state is None else state
        self.require_state(state)
        return self._stream("prefill", x, state)

    def _stream(self, how: str, x: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, Any]:
        seen, window = getattr(self.local, how)(x, state[0])
        if self.state_space is None:
            return seen, (window,)
        remembered, swings = getattr(self.state_space, how)(x, state[1])
        return self._joined(remembered, seen), (window, swings)
