"""Mixers without weights: what a model can do when mixing is nothing or an average."""

import torch
from torch import Tensor

from attnlab.mixers.base import Ring, TokenMixer, mixer


@mixer("identity", look={"family": "convolution", "label": "Identity (no mixing)", "marker": "D"})
class Identity(TokenMixer):
    """Mix nothing: each position keeps what it has, ``y_t = x_t``.

    A model with this mixer sees the newest token and its position, nothing else: the
    floor under every claim that mixing helps.
    """

    adapts = False
    expected_chain = staticmethod(lambda d, T, h, total: [])

    @property
    def reach(self) -> int:
        """Nothing but the newest position."""
        return 1

    def mixing_matrix(self, x: Tensor) -> Tensor:
        """Return the unit matrix, ``(1, 1, time, time)``."""
        return torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[None, None]

    def definition(self, x: Tensor) -> Tensor:
        """Return each token as it came."""
        return torch.stack([x[:, t] for t in range(x.shape[1])], 1)

    def mix(self, x: Tensor) -> Tensor:
        """Return the input."""
        return x

    def initial_state(self, batch_size: int) -> None:
        """Return no state: nothing is remembered."""

    def step(self, x_t: Tensor, state: None) -> tuple[Tensor, None]:
        """Return the token as it is."""
        self.require_step(x_t, state)
        return x_t, state


@mixer("mean", look={"family": "convolution", "label": "Causal mean", "marker": "d"})
class Mean(TokenMixer):
    r"""Average the newest ``context_len`` tokens: attention whose weights are all equal.

    .. math:: y_t = \frac{1}{\min(t, \ell)} \sum_{j=0}^{\min(t, \ell)-1} x_{t-j}
    """

    structure, adapts = "Toeplitz", False
    expected_multiplications = staticmethod(lambda d, T, P, h: T * d)
    expected_state = staticmethod(lambda d, n, h: n * d)
    expected_chain = staticmethod(
        lambda d, T, h, total: [("acc", total(T), "x_t"), ("mul", int(T > 1), "x_t, constant")]
    )

    def mixing_matrix(self, x: Tensor) -> Tensor:
        """Return one over the number of tokens in the window, ``(1, 1, time, time)``."""
        window = x.new_ones(x.shape[1], x.shape[1]).tril().triu(1 - self.context_len)
        return (window / window.sum(-1, keepdim=True))[None, None]

    def definition(self, x: Tensor) -> Tensor:
        """Average the newest ``context_len`` tokens, one position at a time."""
        means = []
        for t in range(x.shape[1]):
            past = x[:, max(0, t - self.context_len + 1) : t + 1].unbind(1)
            means.append(torch.stack(past).mean(0))
        return torch.stack(means, 1)

    def mix(self, x: Tensor) -> Tensor:
        """Return the running mean over at most ``context_len`` tokens."""
        total = x.cumsum(1)  # (B, T, D)
        if x.shape[1] > self.context_len:
            older = total[:, : -self.context_len]
            total = total.clone()
            total[:, self.context_len :] -= older
        count = x.new_ones(x.shape[1]).cumsum(0).clamp(max=self.context_len)
        return total / count[:, None]

    def initial_state(self, batch_size: int) -> Ring:
        """Return an empty window."""
        return Ring.empty(batch_size, self.context_len, self.d_model, **self._like)

    def step(self, x_t: Tensor, state: Ring) -> tuple[Tensor, Ring]:
        """Average the window with the new token in it."""
        self.require_step(x_t, state)
        state = state.push(x_t)
        return state.newest_first().mean(1), state
