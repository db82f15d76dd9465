"""What counting reaches: tables, n-grams on held-out text, the floor on their own, and the KL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError
from attnlab.sources.base import check_count, check_tokens, surprise_nats

Ids = NDArray[np.int64]
LARGEST_DENSE = 2**24  # entries of a table that .rows will write out
MOST_DISCOUNTED = 3  # counts from here on share one discount
UNKNOWN = -1


@dataclass(frozen=True)
class Grams:
    """The different n-grams of one length, in the order of their keys.

    An n-gram is numbered by the pair (number of its first n - 1 tokens, last token), so that
    any length fits in 64 bits. The 2-grams of ``the cat the hat``: ``the cat``, ``the hat``,
    ``cat the``.
    """

    keys: Ids  # (n_grams,), rising
    counts: Ids  # (n_grams,), how often each occurs
    continuations: Ids  # (n_grams,), how many different tokens precede it
    context: Ids  # (n_grams,), number of the first n - 1 tokens
    totals: Ids  # (n_contexts,), how often something follows each

    def find(self, context: Ids, tokens: Ids, *, vocab_size: int) -> Ids:
        """Return the number of each n-gram, ``UNKNOWN`` where it or its context never occurred."""
        wanted = context * vocab_size + tokens
        if not len(self.keys):
            return np.full(wanted.shape, UNKNOWN)
        spot = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where((context >= 0) & (self.keys[spot] == wanted), spot, UNKNOWN)


def count_grams(tokens: Ids, place: Ids, *, vocab_size: int, longest: int) -> Iterator[Grams]:
    """Yield the n-grams of length 1, 2, ..., ``longest``; of the last it knows no continuations.

    Shapes:
        tokens: ``(n_tokens,)``, documents end to end; place: the same, place in the document.
    """
    gram, keys = tokens, np.arange(vocab_size)  # number of the n-gram that ends at each token
    counts, n_contexts = np.bincount(tokens, minlength=vocab_size), 1
    for order in range(1, longest + 1):
        context = keys // vocab_size if order > 1 else np.zeros_like(keys)
        totals = np.bincount(context, counts, minlength=n_contexts).astype(np.int64)
        if order == longest:
            yield Grams(keys, counts, np.zeros_like(counts), context, totals)
            return
        ends = np.flatnonzero(place >= order)
        next_keys, first, inverse, next_counts = np.unique(
            gram[ends - 1] * vocab_size + tokens[ends],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        continuations = np.bincount(gram[ends[first]], minlength=len(keys))
        yield Grams(keys, counts, continuations, context, totals)
        gram = np.full(len(tokens), UNKNOWN)
        gram[ends] = inverse
        n_contexts, keys, counts = len(keys), next_keys, next_counts


@dataclass(frozen=True, kw_only=True)
class CountTable:
    """Next-token frequencies after each context of ``order`` tokens that was seen.

    The table of ``the cat the hat`` with order 1 has one row for ``the`` with two entries
    of 1/2.
    """

    order: int
    vocab_size: int
    pseudo_count: float
    grams: tuple[Grams, ...] = field(repr=False)  # of length 1 to order + 1

    @property
    def n_contexts(self) -> int:
        """Number of different contexts that were seen."""
        return int((self.grams[-1].totals > 0).sum())

    @property
    def rows(self) -> NDArray[np.float64]:
        """The whole table, ``(vocab_size**order, vocab_size)``; every row sums to one."""
        n_rows = self.vocab_size**self.order
        if n_rows * self.vocab_size > LARGEST_DENSE:
            raise AttnlabError(
                f"A table of {n_rows:,} rows and {self.vocab_size:,} columns does not fit in a "
                "picture or in memory. Ask for single rows with .predict(context)."
            )
        place_value = self.vocab_size ** np.arange(self.order)[::-1]  # the oldest token counts most
        contexts = np.arange(n_rows)[:, None] // place_value % self.vocab_size
        return self._probability(contexts[:, None], np.arange(self.vocab_size))

    def predict(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """Return the row for the last ``order`` tokens: ``(vocab_size,)``, sums to one.

        A context that was never seen gets the same chance for every token.
        """
        tokens = check_tokens(tokens, vocab_size=self.vocab_size, at_least=self.order)
        context = tokens[None, len(tokens) - self.order :]
        return self._probability(context, np.arange(self.vocab_size))

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
        runs = np.lib.stride_tricks.sliding_window_view(tokens, self.order + 1, axis=-1)
        runs = runs[..., 1:, :] if self.order == 0 else runs
        losses = surprise_nats(self._probability(runs[..., :-1], runs[..., -1]))
        return losses if per_token else float(losses.mean())

    def _probability(self, contexts: Ids, tokens: Ids) -> NDArray[np.float64]:
        """Return the chance of each token after its context: ``(..., order)``, ``(...)``."""
        number = np.zeros(contexts.shape[:-1], dtype=np.int64)
        for place, grams in enumerate(self.grams[:-1]):
            number = grams.find(number, contexts[..., place], vocab_size=self.vocab_size)
        top = self.grams[-1]
        gram = top.find(number, tokens, vocab_size=self.vocab_size)
        count = np.where(gram >= 0, top.counts[gram], 0)  # index -1 is read, then masked
        total = np.where(number >= 0, top.totals[number], 0)
        weight = total + self.pseudo_count * self.vocab_size
        smoothed = (count + self.pseudo_count) / np.where(weight > 0, weight, 1.0)
        return np.where(weight > 0, smoothed, 1.0 / self.vocab_size)


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
    tokens = check_tokens(tokens, vocab_size=vocab_size, at_least=order + 1)
    place = np.broadcast_to(np.arange(tokens.shape[-1]), tokens.shape)
    grams = count_grams(tokens.ravel(), place.ravel(), vocab_size=vocab_size, longest=order + 1)
    return CountTable(
        order=order, vocab_size=vocab_size, pseudo_count=float(pseudo_count), grams=tuple(grams)
    )


def ngram_losses(
    train: Sequence[ArrayLike],
    *,
    test: Sequence[ArrayLike],
    vocab_size: int,
    orders: Sequence[int] = (1, 2, 3, 4, 5),
    window_len: int | None = None,
    per_token: bool = False,
) -> dict[int, float] | dict[int, NDArray[np.float64]]:
    r"""Return the held-out loss of interpolated Kneser-Ney n-grams, in nats per token, by order.

    .. math:: P_n(w \mid c) = \frac{n(c, w) - D}{n(c)} + \lambda(c)\, P_{n-1}(w \mid c')

    with :math:`c'` the context without its oldest token, D one of three discounts, and
    :math:`\lambda(c)` what they leave. Below the top, n counts different predecessors.
    ``the cat the hat`` with order 2 predicts ``hat`` from ``the`` alone.

    Shapes:
        train, test: arrays ``(n_tokens,)``, one a document; n-grams never cross them.
    Args:
        test: Every token but the first of a document is predicted once, as by ``evaluate``.
        vocab_size: Number of different tokens; an n-gram never seen falls back to 1 / V.
        orders: Lengths of the n-grams; order n sees n - 1 tokens of context.
        window_len: Forget the past at the starts of windows of this many input tokens, as a
            model of that ``context_len`` does; None reads the whole document.
        per_token: Return the loss of each predicted token, ``(n_predicted,)``, in order.
    Source:
        Chen and Goodman 1999, interpolated modified Kneser-Ney; base case uniform.
    """
    tokens, place = _joined(test, vocab_size=vocab_size, shortest=2)
    reach = place if window_len is None else np.where(place > 0, (place - 1) % window_len + 1, 0)
    gram = np.zeros_like(tokens)  # number of the n-gram that ends here, at the level at hand
    top = below = np.full(len(tokens), 1.0 / vocab_size)  # below: continuation law, one order less
    losses = {}
    for order, grams in _levels(train, vocab_size, orders):
        context = gram if order == 1 else np.concatenate([[UNKNOWN], gram[:-1]])
        gram = grams.find(context, tokens, vocab_size=vocab_size)
        can_see = (reach >= order - 1) & (place >= order - 1)
        top = np.where(can_see, _interpolate(grams, grams.counts, context, gram, below), top)
        lower = _interpolate(grams, grams.continuations, context, gram, below)
        below = np.where(can_see, lower, below)
        if order in orders:
            values = -np.log(top[place > 0])
            losses[order] = values if per_token else float(values.mean())
    return losses


def context_floors(
    train: Sequence[ArrayLike], *, vocab_size: int, orders: Sequence[int] = (1, 2, 3, 4, 5)
) -> dict[int, float]:
    r"""Return the lowest loss that any table of each order can reach on its own training text.

    .. math:: H_n = -\sum_{c, w} \frac{n(c, w)}{N} \log \frac{n(c, w)}{n(c)}

    the empirical entropy of a token given the n - 1 before it. No model that sees no more
    than those, however large, has a lower loss on this very text; a model that sees more may.

    Shapes:
        train: arrays ``(n_tokens,)``, one a document.
    """
    floors = {}
    for order, grams in _levels(train, vocab_size, orders):
        if order in orders:
            counts = grams.counts[grams.counts > 0]
            share = counts / grams.totals[grams.context[grams.counts > 0]]
            floors[order] = float(-(counts * np.log(share)).sum() / counts.sum())
    return floors


def kl_per_state(
    truth: ArrayLike, model: ArrayLike, *, states: ArrayLike | None = None
) -> NDArray[np.float64]:
    r"""Return how many nats a model loses in each state by not being the truth.

    .. math:: D_i = \sum_j P_{ij} \log \frac{P_{ij}}{Q_{ij}}

    Weighted by the stationary law it is the model's expected loss minus the entropy rate.

    Shapes:
        truth, model: ``(n_states, vocab_size)``; returns ``(n_states,)``, at least zero.
    Args:
        states: ``(...)``, the state at each place of a model's predictions ``(..., vocab_size)``;
            the mean over the places of each state is returned, NaN where there are none. A
            place of state -1 is left out.
    """
    p, q = np.asarray(truth, dtype=np.float64), np.asarray(model, dtype=np.float64)
    at = np.arange(len(p)) if states is None else np.asarray(states)
    if p.ndim != 2 or q.shape != (*at.shape, p.shape[1]):
        raise AttnlabError(
            f"The truth has shape {p.shape} and the model {q.shape}; both must be the same table, "
            "one row a state. For a fitted table pass table.rows."
        )
    q, at = q[at >= 0], at[at >= 0]
    p_at = p[at]
    is_possible = p_at > 0
    surprise = np.where(is_possible, surprise_nats(np.where(is_possible, q, 1.0)), 0.0)
    known = np.log(np.where(is_possible, p_at, 1.0))
    kl = np.maximum(np.sum(p_at * (known + surprise), axis=1), 0.0)
    if states is None:
        return kl
    with np.errstate(invalid="ignore"):
        return np.bincount(at, kl, minlength=len(p)) / np.bincount(at, minlength=len(p))


def _interpolate(
    grams: Grams, counts: Ids, context: Ids, gram: Ids, below: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the discounted share of each n-gram plus what the discounts leave times ``below``."""
    if not len(counts):  # no document is that long
        return below
    n_contexts = len(grams.totals)
    spared = np.minimum(_discounts(counts)[np.minimum(counts, MOST_DISCOUNTED)], counts)
    totals = np.bincount(grams.context, counts, minlength=n_contexts)
    left = np.bincount(grams.context, spared, minlength=n_contexts)
    total = np.where(context >= 0, totals[context], 0.0)  # index -1 is read, then masked
    kept = np.where(gram >= 0, (counts - spared)[gram], 0.0)
    whole = np.where(total > 0, total, 1.0)
    return np.where(total > 0, (kept + left[context] * below) / whole, below)


def _discounts(counts: Ids) -> NDArray[np.float64]:
    """Return what is taken from counts of 0, 1, 2, and 3 or more.

    Small samples lack the counts of counts that the formulas need; they get one half.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(float)  # n_1 to n_4
    if (n == 0).any():
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n[0] / (n[0] + 2 * n[1])
    taken = [k - (k + 1) * y * n[k] / n[k - 1] for k in (1, 2, 3)]
    return np.array([0.0, *np.clip(taken, 0.05, [0.95, 1.95, 2.95])])


def _joined(documents: Sequence[ArrayLike], *, vocab_size: int, shortest: int) -> tuple[Ids, Ids]:
    """Return all tokens end to end, and the place of each in its document."""
    arrays = [np.asarray(d, dtype=np.int64) for d in documents]
    arrays = [a for a in arrays if len(a) >= shortest]
    if not arrays:
        raise AttnlabError(f"There is no document of {shortest} or more tokens to count.")
    tokens = np.concatenate(arrays)
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise AttnlabError(
            f"Tokens run from {tokens.min()} to {tokens.max()}, outside 0..{vocab_size - 1}. "
            "Give the vocab_size of the tokenizer that made them."
        )
    return tokens, np.concatenate([np.arange(len(a)) for a in arrays])


def _levels(
    train: Sequence[ArrayLike], vocab_size: int, orders: Sequence[int]
) -> Iterator[tuple[int, Grams]]:
    """Yield the n-grams of every length up to the longest of ``orders``."""
    if not orders or min(orders) < 1:
        raise AttnlabError(
            f"orders={list(orders)} must name at least one n-gram length, 1 or more; "
            "order 1 looks at no context, order 2 at one token."
        )
    seen = _joined(train, vocab_size=vocab_size, shortest=1)
    yield from enumerate(count_grams(*seen, vocab_size=vocab_size, longest=max(orders)), start=1)
