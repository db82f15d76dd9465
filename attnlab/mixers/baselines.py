"""Mixers without weights: what a model can do when mixing is nothing or an average."""

from torch import Tensor

from attnlab.mixers.base import Ring, TokenMixer
from attnlab.mixers.registry import register_mixer


@register_mixer("identity")
class Identity(TokenMixer):
    """Mix nothing: each position keeps what it has, ``y_t = x_t``.

    A model with this mixer sees the newest token and its position, nothing else: the
    floor under every claim that mixing helps.
    """

    def mix(self, x: Tensor) -> Tensor:
        """Return the input."""
        return x

    def initial_state(self, batch_size: int) -> None:
        """Return no state: nothing is remembered."""

    def step(self, x_t: Tensor, state: None) -> tuple[Tensor, None]:
        """Return the token as it is."""
        return x_t, state


@register_mixer("mean")
class Mean(TokenMixer):
    r"""Average the newest ``context_len`` tokens: attention whose weights are all equal.

    .. math:: y_t = \frac{1}{\min(t, \ell)} \sum_{j=0}^{\min(t, \ell)-1} x_{t-j}
    """

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
        state = state.push(x_t)
        return state.newest_first().mean(1), state
