"""Tables of counts: the model that Shannon could make by hand, and how far it is from the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError
from attnlab.sources.base import check_count, check_tokens, surprise_nats

LARGEST_DENSE = 2**24  # entries of a table that .rows will write out


@dataclass(frozen=True, kw_only=True)
class CountTable:
    """Next-token frequencies after each context of ``order`` tokens that was seen.

    Contexts are numbers in base ``vocab_size``, oldest token first, so that the table
    of ``the cat the hat`` with order 1 has one row for ``the`` with two entries of 1/2.
    """

    order: int
    vocab_size: int
    pseudo_count: float
    contexts: NDArray[np.int64] = field(repr=False)  # (n_contexts,), rising
    totals: NDArray[np.int64] = field(repr=False)  # (n_contexts,)
    pairs: NDArray[np.int64] = field(repr=False)  # (n_pairs,), context * vocab_size + next
    counts: NDArray[np.int64] = field(repr=False)  # (n_pairs,)

    @property
    def n_contexts(self) -> int:
        """Number of different contexts that were seen."""
        return len(self.contexts)

    @property
    def rows(self) -> NDArray[np.float64]:
        """The whole table, ``(vocab_size**order, vocab_size)``; every row sums to one."""
        n_rows = self.vocab_size**self.order
        if n_rows * self.vocab_size > LARGEST_DENSE:
            raise AttnlabError(
                f"A table of {n_rows:,} rows and {self.vocab_size:,} columns does not fit in a "
                "picture or in memory. Ask for single rows with .predict(context)."
            )
        pairs = np.arange(n_rows * self.vocab_size).reshape(n_rows, self.vocab_size)
        return self._probability(pairs)

    def predict(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """Return the row for the last ``order`` tokens: ``(vocab_size,)``, sums to one.

        A context that was never seen gets the same chance for every token.
        """
        tokens = check_tokens(tokens, vocab_size=self.vocab_size, at_least=self.order)
        context = 0
        for token in tokens[len(tokens) - self.order :].tolist():
            context = context * self.vocab_size + token
        return self._probability(context * self.vocab_size + np.arange(self.vocab_size))

    def loss_nats(
        self, tokens: ArrayLike, *, per_token: bool = False
    ) -> float | NDArray[np.float64]:
        """Return the mean loss on every token that has ``order`` tokens before it.

        The first token of a window is never scored, so that order 0 and order 1 are
        judged on the same tokens as ``Source.oracle_nats``.

        Shapes:
            tokens: ``(time,)`` or ``(batch, time)``; ``per_token`` gives
                ``(..., time - max(order, 1))``.

        Returns:
            Nats per token; infinite where a continuation was never seen and
            ``pseudo_count`` is zero.
        """
        tokens = check_tokens(tokens, vocab_size=self.vocab_size, at_least=max(self.order, 1) + 1)
        pairs = _codes(tokens, order=self.order, vocab_size=self.vocab_size)
        pairs = pairs[..., 1:] if self.order == 0 else pairs
        losses = surprise_nats(self._probability(pairs))
        return losses if per_token else float(losses.mean())

    def _probability(self, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        count = _look_up(self.pairs, self.counts, pairs)
        total = _look_up(self.contexts, self.totals, pairs // self.vocab_size)
        weight = total + self.pseudo_count * self.vocab_size
        is_known = weight > 0
        smoothed = (count + self.pseudo_count) / np.where(is_known, weight, 1.0)
        return np.where(is_known, smoothed, 1.0 / self.vocab_size)


def fit_table(
    tokens: ArrayLike, *, order: int, vocab_size: int, pseudo_count: float = 0.0
) -> CountTable:
    r"""Count what follows each context of ``order`` tokens.

    .. math:: \hat P(j \mid c) = \frac{n(c, j) + a}{\sum_j n(c, j) + a V}

    With :math:`a = 0` this is the maximum-likelihood table: no other table of the same
    order fits these tokens better.

    Shapes:
        tokens: ``(time,)`` or ``(batch, time)``; contexts do not cross rows.
    Args:
        tokens: Token ids to count.
        order: How many tokens a context has; 0 counts single tokens.
        vocab_size: Number of different tokens.
        pseudo_count: Imagined sightings of every continuation, zero or more.

    Source:
        Shannon 1948, section 3; notebook 01.
    """
    check_count("order", order, at_least=0)
    check_count("vocab_size", vocab_size, at_least=1)
    if not pseudo_count >= 0:
        raise AttnlabError(f"pseudo_count={pseudo_count} must be zero or more. Try 0.1.")
    if vocab_size ** (order + 1) >= 2**63:
        raise AttnlabError(
            f"Contexts of {order} tokens out of {vocab_size:,} cannot be numbered in 63 bits. "
            f"Try order={int(63 / max(1.0, np.log2(vocab_size))) - 1}."
        )
    tokens = check_tokens(tokens, vocab_size=vocab_size, at_least=order + 1)
    codes = _codes(tokens, order=order, vocab_size=vocab_size)
    pairs, counts = np.unique(codes, return_counts=True)
    contexts, totals = np.unique(codes // vocab_size, return_counts=True)
    return CountTable(
        order=order,
        vocab_size=vocab_size,
        pseudo_count=float(pseudo_count),
        contexts=contexts,
        totals=totals,
        pairs=pairs,
        counts=counts,
    )


def kl_per_state(truth: ArrayLike, model: ArrayLike) -> NDArray[np.float64]:
    r"""Return how many nats a model loses in each state by not being the truth.

    .. math:: D_i = \sum_j P_{ij} \log \frac{P_{ij}}{Q_{ij}}

    Weighted by the stationary law it is the model's expected loss minus the entropy rate.

    Shapes:
        truth, model: ``(n_states, vocab_size)``; returns ``(n_states,)``, at least zero.
    """
    p, q = np.asarray(truth, dtype=np.float64), np.asarray(model, dtype=np.float64)
    if p.shape != q.shape or p.ndim != 2:
        raise AttnlabError(
            f"The truth has shape {p.shape} and the model {q.shape}; both must be the same table, "
            "one row a state. For a fitted table pass table.rows."
        )
    surprise = np.where(p > 0, surprise_nats(np.where(p > 0, q, 1.0)), 0.0)
    known = np.log(np.where(p > 0, p, 1.0))
    return np.maximum(np.sum(p * (known + surprise), axis=1), 0.0)


def _codes(tokens: NDArray[np.int64], *, order: int, vocab_size: int) -> NDArray[np.int64]:
    """Number each run of ``order + 1`` tokens in base ``vocab_size``, oldest first."""
    time = tokens.shape[-1]
    codes = np.zeros((*tokens.shape[:-1], time - order), dtype=np.int64)
    for offset in range(order + 1):
        codes = codes * vocab_size + tokens[..., offset : time - order + offset]
    return codes


def _look_up(
    keys: NDArray[np.int64], values: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the value of each wanted key, zero where there is none; keys rise."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
