"""What counting alone reaches: n-grams on held-out text, and the floor on the training text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError

Ids = NDArray[np.int64]
MOST_DISCOUNTED = 3  # counts from here on share one discount
UNKNOWN = -1


@dataclass(frozen=True)
class _Level:
    """The different n-grams of one length, in the order of their keys.

    An n-gram is numbered by the pair (number of its first n - 1 tokens, last token).
    """

    keys: Ids  # (n_grams,), rising
    counts: Ids  # (n_grams,), how often each occurs
    continuations: Ids  # (n_grams,), how many different tokens precede it
    context: Ids  # (n_grams,), number of the first n - 1 tokens
    n_contexts: int


def ngram_losses(
    train: Sequence[ArrayLike],
    *,
    test: Sequence[ArrayLike],
    vocab_size: int,
    orders: Sequence[int] = (1, 2, 3, 4, 5),
    window_len: int | None = None,
) -> dict[int, float]:
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
    Source:
        Chen and Goodman 1999, interpolated modified Kneser-Ney; base case uniform.
    """
    losses = ngram_token_losses(
        train, test=test, vocab_size=vocab_size, orders=orders, window_len=window_len
    )
    return {order: float(values.mean()) for order, values in losses.items()}


def ngram_token_losses(
    train: Sequence[ArrayLike],
    *,
    test: Sequence[ArrayLike],
    vocab_size: int,
    orders: Sequence[int] = (1, 2, 3, 4, 5),
    window_len: int | None = None,
) -> dict[int, NDArray[np.float64]]:
    """Return the loss of every predicted token by order; arguments as in ``ngram_losses``.

    Shapes:
        Each array holds the predicted tokens of all documents in order: ``(n_predicted,)``.
    """
    wanted = _check_orders(orders)
    tokens, place = _joined(test, vocab_size=vocab_size, shortest=2)
    reach = place if window_len is None else np.where(place > 0, (place - 1) % window_len + 1, 0)
    gram = tokens  # number of the n-gram that ends here, at the level at hand
    below = np.full(len(tokens), 1.0 / vocab_size)  # continuation law of one order less
    top = below
    losses = {}
    for order, level in enumerate(_levels(train, vocab_size, max(wanted)), start=1):
        context = np.zeros_like(tokens) if order == 1 else _before(gram)
        gram = tokens if order == 1 else _find(level.keys, context, tokens, vocab_size)
        can_see = (reach >= order - 1) & (place >= order - 1)
        raw = _interpolate(level, level.counts, context, gram, below)
        top = np.where(can_see, raw, top)
        lower = _interpolate(level, level.continuations, context, gram, below)
        below = np.where(can_see, lower, below)
        if order in wanted:
            losses[order] = -np.log(top[place > 0])
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
    wanted = _check_orders(orders)
    floors = {}
    for order, level in enumerate(_levels(train, vocab_size, max(wanted)), start=1):
        if order in wanted:
            totals = np.bincount(level.context, weights=level.counts, minlength=level.n_contexts)
            occurs = level.counts > 0
            counts = level.counts[occurs]
            share = counts / totals[level.context[occurs]]
            floors[order] = float(-(counts * np.log(share)).sum() / counts.sum())
    return floors


def _levels(train: Sequence[ArrayLike], vocab_size: int, top: int) -> Iterator[_Level]:
    """Yield the n-grams of length 1, 2, ..., ``top``; the highest knows no continuations."""
    tokens, place = _joined(train, vocab_size=vocab_size, shortest=1)
    keys, counts = np.arange(vocab_size), np.bincount(tokens, minlength=vocab_size)
    gram, n_contexts = tokens, 1
    for order in range(1, top + 1):
        context = keys // vocab_size if order > 1 else np.zeros(vocab_size, dtype=np.int64)
        longer = _count_longer(tokens, gram, place >= order, vocab_size) if order < top else None
        if longer is None:
            yield _Level(keys, counts, np.zeros_like(counts), context, n_contexts)
            return
        next_keys, next_gram, next_counts, ends = longer
        continuations = np.bincount(gram[ends], minlength=len(keys))
        yield _Level(keys, counts, continuations, context, n_contexts)
        keys, counts, gram, n_contexts = next_keys, next_counts, next_gram, len(keys)


def _count_longer(
    tokens: Ids, gram: Ids, is_whole: NDArray[np.bool_], vocab_size: int
) -> tuple[Ids, Ids, Ids, Ids]:
    """Lengthen the n-grams by one token: keys, number at each place, counts, one end of each."""
    ends = np.flatnonzero(is_whole)
    keys, first, inverse, counts = np.unique(
        gram[ends - 1] * vocab_size + tokens[ends],
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    longer = np.full(len(tokens), UNKNOWN)
    longer[ends] = inverse
    return keys, longer, counts, ends[first]


def _interpolate(
    level: _Level, counts: Ids, context: Ids, gram: Ids, below: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the discounted share of each n-gram plus what the discounts leave times ``below``."""
    if not len(counts):  # no document is that long
        return below
    spared = np.minimum(_discounts(counts)[np.minimum(counts, MOST_DISCOUNTED)], counts)
    totals = np.bincount(level.context, weights=counts, minlength=level.n_contexts)
    left = np.bincount(level.context, weights=spared, minlength=level.n_contexts)
    is_seen = context >= 0
    total = np.where(is_seen, totals[context], 0.0)  # index -1 is read, then masked
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


def _find(keys: Ids, context: Ids, tokens: Ids, vocab_size: int) -> Ids:
    """Return the number of each pair of context and token, ``UNKNOWN`` where it never occurred."""
    wanted = context * vocab_size + tokens
    if not len(keys):
        return np.full(len(tokens), UNKNOWN)
    spot = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((context >= 0) & (keys[spot] == wanted), spot, UNKNOWN)


def _before(gram: Ids) -> Ids:
    """Return the number of the n-gram that ends one token earlier; none before the first."""
    return np.concatenate([[UNKNOWN], gram[:-1]])


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


def _check_orders(orders: Sequence[int]) -> set[int]:
    wanted = set(orders)
    if not wanted or min(wanted) < 1:
        raise AttnlabError(
            f"orders={list(orders)} must name at least one n-gram length, 1 or more; "
            "order 1 looks at no context, order 2 at one token."
        )
    return wanted
