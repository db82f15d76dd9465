"""What every source of tokens can do, and the plain way in which its predictions do it all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from math import fsum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.seeding import numpy_generator

LARGEST_ENUMERATION = 2**16  # windows that the plain staircase goes through


class Symbols:
    """Tokens with names: token ``i`` is ``symbols[i]``."""

    def __init__(self, symbols: Sequence[str]) -> None:
        """Number the names in their order."""
        self.symbols = list(symbols)
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols)}
        if len(self._ids) != len(self.symbols):
            twice = sorted({s for s in self.symbols if self.symbols.count(s) > 1})
            raise AttnlabError(
                f"The symbol(s) {', '.join(map(repr, twice))} occur more than once. "
                "Give every token a name of its own, or the text cannot be read back."
            )

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return len(self.symbols)

    def check_sequence(self, tokens: ArrayLike) -> NDArray[np.int64]:
        """Return one sequence of tokens, ``(time,)``, or say what is wrong with it."""
        tokens = check_tokens(tokens, vocab_size=self.vocab_size, at_least=0)
        if tokens.ndim != 1:
            raise AttnlabError(
                f"Tokens have shape {tokens.shape}; this takes one sequence, (time,). "
                "Pass the rows of a batch one by one."
            )
        return tokens


class Source(Symbols, ABC):
    """A stationary source of tokens whose every probability is known exactly.

    A subclass says what its entropy rate is and how it predicts. The rest follows from the
    predictions, window by window and token by token; what has to be fast is written again.
    """

    @property
    @abstractmethod
    def entropy_rate_nats(self) -> float:
        """Return the mean surprise per token when the whole past is known."""

    @abstractmethod
    def predict(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """Return the law of the token that follows ``tokens``: ``(vocab_size,)``, sums to one."""

    def best_loss_nats(self, *, context_len: int) -> float:
        """Return the lowest expected loss of any predictor of the last ``context_len`` tokens.

        The plain way: the entropy after every window of that length, times its chance.
        """
        check_count("context_len", context_len, at_least=0)
        if self.vocab_size**context_len > LARGEST_ENUMERATION:
            raise AttnlabError(
                f"There are {self.vocab_size}^{context_len} windows of {context_len} tokens, too "
                "many to go through. Use estimate_best_loss_nats(context_len=..., n_windows=...)."
            )
        windows: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
        for _ in range(context_len):
            windows = [
                ((*window, token), chance * p)
                for window, chance in windows
                for token, p in enumerate(self.predict(window).tolist())
                if p > 0
            ]
        return fsum(chance * entropy_nats(self.predict(window)) for window, chance in windows)

    def sample(
        self,
        n_tokens: int = 256,
        *,
        seed: int = 0,
        generator: np.random.Generator | None = None,
        stream: str = "data",
    ) -> NDArray[np.int64]:
        """Draw one sequence that starts anywhere in the life of the source.

        Args:
            n_tokens: Length of the sequence.
            seed: Ignored where a generator is given.
            generator: Source of chance; it moves on, so a second call gives other tokens.
            stream: Name of the stream of ``seed``: ``data``, ``validation`` or ``test``.

        Returns:
            Token ids, ``(n_tokens,)``.
        """
        check_count("n_tokens", n_tokens, at_least=1)
        return self._draw(n_tokens, generator or numpy_generator(seed, stream))

    def sample_windows(
        self,
        n_windows: int,
        *,
        window_len: int,
        seed: int = 0,
        generator: np.random.Generator | None = None,
        stream: str = "data",
    ) -> NDArray[np.int64]:
        """Draw independent windows, each with its own stationary start.

        Returns:
            Token ids, ``(n_windows, window_len)``; rows are independent, as a standard
            error wants them.
        """
        check_count("n_windows", n_windows, at_least=1)
        check_count("window_len", window_len, at_least=1)
        generator = generator or numpy_generator(seed, stream)
        return self._draw_windows(n_windows, window_len, generator)

    def oracle_nats(
        self, tokens: ArrayLike, *, per_token: bool = False
    ) -> float | NDArray[np.float64]:
        """Return the loss of the source itself on these very tokens.

        The source sees the window and nothing before it: its belief about what came
        earlier is its stationary law. Averaged over windows, the loss at index ``i`` is
        ``best_loss_nats(context_len=i + 1)``.

        Shapes:
            tokens: ``(time,)`` or ``(batch, time)``, time at least 2.
        Args:
            tokens: Token ids.
            per_token: Return the loss of each predicted token, ``(..., time - 1)``.

        Returns:
            The mean over all predicted tokens, in nats; infinite where the source cannot
            have written the tokens.
        """
        tokens = check_tokens(tokens, vocab_size=self.vocab_size, at_least=2)
        losses = self._losses(np.atleast_2d(tokens)).reshape(*tokens.shape[:-1], -1)
        return losses if per_token else float(losses.mean())

    def estimate_best_loss_nats(
        self, *, context_len: int, n_windows: int = 4096, seed: int = 0
    ) -> tuple[float, float]:
        """Estimate ``best_loss_nats`` from independent windows.

        Each window has ``context_len + 1`` tokens and a stationary start; the loss of the
        exact predictor on its last token is an unbiased draw.

        Returns:
            The mean and its standard error, both in nats per token.
        """
        check_count("context_len", context_len, at_least=0)
        check_count("n_windows", n_windows, at_least=2)
        windows = self.sample_windows(
            n_windows, window_len=context_len + 1, seed=seed, stream="estimate"
        )
        if context_len == 0:
            losses = -np.log(self.predict(np.empty(0, np.int64)))[windows[:, 0]]
        else:
            losses = self._losses(windows)[:, -1]
        return float(losses.mean()), float(losses.std(ddof=1) / np.sqrt(n_windows))

    def decode(self, tokens: ArrayLike) -> str:
        """Write tokens as text: letters side by side, longer names with spaces between."""
        tokens = self.check_sequence(tokens)
        return self._glue.join(self.symbols[i] for i in tokens)

    def encode(self, text: str) -> NDArray[np.int64]:
        """Read text as tokens; the inverse of ``decode``."""
        words = text.split() if self._glue else [c for c in text if not c.isspace()]
        return np.array([self._token_id(word) for word in words], dtype=np.int64)

    @property
    def _glue(self) -> str:
        return "" if all(len(symbol) == 1 for symbol in self.symbols) else " "

    def _token_id(self, word: str) -> int:
        if word not in self._ids:
            raise UnknownNameError(
                "symbol of this source",
                word,
                self.symbols,
                next_step="Encode only text made of the words in .symbols.",
            )
        return self._ids[word]

    def _draw(self, n_tokens: int, generator: np.random.Generator) -> NDArray[np.int64]:
        return self._draw_windows(1, n_tokens, generator)[0]

    def _draw_windows(
        self, n_windows: int, window_len: int, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        tokens = np.empty((n_windows, window_len), dtype=np.int64)
        for row, t in np.ndindex(n_windows, window_len):
            edges = np.cumsum(self.predict(tokens[row, :t]))[:-1]
            tokens[row, t] = bisect_right(edges.tolist(), generator.random())
        return tokens

    def _losses(self, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        time = tokens.shape[1]
        chances = [[self.predict(row[:t])[row[t]] for t in range(1, time)] for row in tokens]
        return surprise_nats(np.array(chances))


def check_tokens(tokens: ArrayLike, *, vocab_size: int, at_least: int) -> NDArray[np.int64]:
    """Return ``(time,)`` or ``(batch, time)`` integers below ``vocab_size``, or explain.

    Raises:
        AttnlabError: For other shapes, fewer than ``at_least`` time steps, or unknown ids.
    """
    array = np.asarray(tokens)
    if array.ndim not in (1, 2) or array.shape[-1] < at_least:
        raise AttnlabError(
            f"Tokens have shape {array.shape}; expected (time,) or (batch, time) with at least "
            f"{at_least} time step(s). A loss needs one token to look at and one to predict."
        )
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise AttnlabError(
            f"Tokens have type {array.dtype}; expected whole numbers. "
            "Pass token ids, as .sample() and .encode() return them."
        )
    if array.size and (array.min() < 0 or array.max() >= vocab_size):
        worst = array.max() if array.max() >= vocab_size else array.min()
        raise AttnlabError(
            f"Token {worst} is outside 0..{vocab_size - 1}. "
            "Do the tokens come from another source or tokenizer?"
        )
    return array.astype(np.int64)


def check_count(name: str, value: int, *, at_least: int) -> None:
    """Refuse a count that is not a whole number of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < at_least:
        raise AttnlabError(
            f"{name}={value!r} must be a whole number of at least {at_least}. "
            f"Try {name}={at_least}."
        )


def entropy_nats(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Return the entropy of each distribution on the last axis, in nats; 0 log 0 is 0."""
    p = np.asarray(probabilities, dtype=np.float64)
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)


def surprise_nats(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the negative logarithm in nats; infinite, without a warning, at zero."""
    with np.errstate(divide="ignore"):
        return -np.log(probabilities)
