"""Exercises of chapter 01: entropy rate, oracle loss, a table from counts."""

from __future__ import annotations

import numpy as np

from attnlab.sources import (
    entropy_nats,
    entropy_rate,
    fit_table,
    markov_chain,
    random_chain,
    ring_chain,
    stationary,
    surprise_nats,
)
from attnlab.teach import CheckFailed, Exercise

WEATHER = markov_chain("weather").transition
RANDOM = random_chain(5, concentration=0.6, seed=4)
CYCLE = np.roll(np.eye(3), 1, axis=1)  # a, b, c, a, ...: nothing surprises
LAZY_CYCLE = np.array([[0.0, 1.0, 0.0], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])


# Exercise 1.1: the entropy rate -----------------------------------------------------------------


def naive_log_rate(P):
    with np.errstate(divide="ignore", invalid="ignore"):
        return stationary(P) @ -np.sum(P * np.log(P), axis=1)


def log_or_0(P):
    return np.log(np.where(P > 0, P, 1.0))


check_entropy_rate = Exercise(
    entropy_rate,
    [
        ("a fair coin", np.full((2, 2), 0.5)),
        ("weather", WEATHER),
        ("a lazy cycle, with zeros", LAZY_CYCLE),
        ("a cycle without chance", CYCLE),
        ("a ring of 5", ring_chain(5, stay=0.3)),
        ("a random chain of 7", random_chain(7, concentration=0.4, seed=3)),
    ],
    {
        lambda P: entropy_rate(P) / np.log(2): "It is in bits: you used log2. The exercise asks for nats, the natural logarithm.",
        lambda P: entropy_nats(P).mean(): "Every row has the same weight here. Weight row i by the share of time pi_i that the chain spends in state i (pi P = pi, a left eigenvector).",
        lambda P: entropy_nats(P).sum(): "The rows are added without weights; weight row i by pi_i.",
        naive_log_rate: "0 * log 0 is NaN for NumPy and 0 for us: replace the zeros inside the logarithm by 1, as in np.log(np.where(P > 0, P, 1)).",
        lambda P: entropy_nats(stationary(P)): "That is the entropy of pi: the surprise of a reader who has forgotten the last token. Take the entropy of each row of P.",
        lambda P: entropy_nats(stationary(P)[:, None] * P).sum(): "You put pi inside the logarithm: that is the surprise of two tokens at once. Only P is inside.",
        lambda P: -stationary(P) @ np.sum(P * log_or_0(P), axis=0): "The inner sum ran over the columns (axis 0); a row is a distribution: sum over axis 1.",
        lambda P: -stationary(P) @ np.sum(log_or_0(P), axis=1): "P is missing before its logarithm: a surprise counts as often as it happens, P log P.",
        lambda P: -entropy_rate(P): "The sign is missing: logarithms of chances are negative, surprise is not.",
    },
)  # fmt: skip


# Exercise 1.2: the oracle loss ------------------------------------------------------------------


def surprises(tokens, P):
    return surprise_nats(P[tokens[:-1], tokens[1:]])


def oracle_loss(tokens, P):
    return markov_chain(P).oracle_nats(tokens)


def with_first(tokens, P):
    return np.append(surprises(tokens, P), surprise_nats(stationary(P)[tokens[0]])).mean()


check_oracle_loss = Exercise(
    oracle_loss,
    [
        ("two sunny days", np.array([0, 0]), WEATHER),
        ("sun, clouds, rain, sun", np.array([0, 1, 2, 0]), WEATHER),
        ("30 tokens of a random chain", markov_chain(RANDOM).sample(30, seed=6), RANDOM),
    ],
    {
        lambda tokens, P: surprises(tokens, P).mean() / np.log(2): "It is in bits: you used log2. Use the natural logarithm.",
        lambda tokens, P: entropy_rate(P): "That is the entropy rate: the average over all texts. The oracle loss is for these very tokens; look up P[v_t, v_{t+1}] for each of them.",
        lambda tokens, P: surprises(tokens, P).sum() / len(tokens): "T tokens make T - 1 predictions: the first token has nothing before it.",
        with_first: "You scored the first token by pi. It has no token before it, so it is not predicted here.",
        lambda tokens, P: surprises(tokens[::-1], P).mean(): "You looked up P[next, current]. The row is the current token, the column the next one.",
        lambda tokens, P: surprise_nats(P[tokens[:-1], tokens[1:]].mean()): "You took the logarithm of the mean of the chances; take the mean of the logarithms.",
        lambda tokens, P: surprise_nats(P[tokens[:-1]][:, tokens[1:]]).mean(): "This scores every pair of a token and any later one. P[a, b] with two arrays looks up one chance for each prediction.",
        lambda tokens, P: surprises(tokens, P).sum(): "That is the surprise of the whole text; a loss is the mean over its predictions.",
    },
)  # fmt: skip


# Exercise 1.3: a table from counts --------------------------------------------------------------


def fit_bigram(tokens, n_states):
    return fit_table(tokens, order=1, vocab_size=n_states).rows


def counted(tokens, n):
    counts = np.zeros((n, n))
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    return counts


def counted_once(tokens, n):
    counts = np.zeros((n, n))
    counts[tokens[:-1], tokens[1:]] += 1
    return counts


def shared(counts, totals=None, *, empty=None):
    """Divide rows by their sums, or by ``totals``; an empty row is even, or filled with ``empty``."""
    totals = counts.sum(1) if totals is None else totals
    even = 1 / len(counts) if empty is None else empty
    return np.where(totals[:, None] > 0, counts / np.maximum(totals, 1)[:, None], even)


def over_columns(counts):
    return counts / counts.sum(1)


BY_COLUMNS = "The sums were laid along the columns: counts.sum(axis=1) is a row (n,). With keepdims=True it is a column, and divides each row by its own sum."

check_fit_bigram = Exercise(
    fit_bigram,
    [
        ("six tokens of two kinds", np.array([0, 0, 1, 0, 0, 1]), 2),
        ("eight tokens of three kinds", np.array([0, 1, 1, 2, 0, 1, 0, 2]), 3),
        ("a state that never occurs", np.array([0, 1, 0, 0, 1, 0]), 3),
        ("200 tokens of weather", markov_chain(WEATHER).sample(200, seed=5), 3),
    ],
    {
        lambda tokens, n: shared(counted(tokens, n).T): "Rows and columns are exchanged: this says what came BEFORE each token. Row i counts what follows token i: counts[tokens[:-1], tokens[1:]].",
        lambda tokens, n: shared(counted(tokens, n).T).T: "You divided by the column sums (axis 0). A row is a distribution: divide by the row sums, axis 1 with keepdims=True.",
        lambda tokens, n: over_columns(counted(tokens, n)): BY_COLUMNS,
        lambda tokens, n: np.nan_to_num(over_columns(counted(tokens, n))): BY_COLUMNS,
        lambda tokens, n: np.nan_to_num(over_columns(counted(tokens, n)), nan=1 / n): BY_COLUMNS,
        lambda tokens, n: shared(counted(tokens[1:], n)): "The first pair is missing from the counts.",
        lambda tokens, n: shared(counted(tokens[:-1], n)): "The last pair is missing from the counts: there are T - 1 pairs.",
        counted: "These are the counts; divide each row by its sum.",
        lambda tokens, n: counted(tokens, n) / (len(tokens) - 1): "You divided by the number of all pairs, so the whole table sums to one. Each row has to.",
        lambda tokens, n: shared(counted_once(tokens, n)): "Each pair was counted once, however often it occurs: counts[a, b] += 1 with arrays of indices does not add repeats. Use np.add.at, or a loop.",
        lambda tokens, n: shared(counted(tokens, n), np.bincount(tokens, minlength=n)): "A row sums to less than one: the last token of the text has no successor, so it must not be counted in its row's total.",
        lambda tokens, n: shared(counted(tokens, n) + 1): "You added one to every count. That is a good habit (smoothing), but the exercise asks for plain frequencies.",
        lambda tokens, n: shared(counted(tokens, n), empty=np.nan): "0 / 0 is NaN: a state without successors needs a row of its own. Give it 1 / n_states everywhere.",
        lambda tokens, n: shared(counted(tokens, n), empty=0.0): "A state without successors has a row of zeros, which sums to 0. Give it 1 / n_states everywhere.",
    },
)  # fmt: skip


# Build 1: a table that backs off --------------------------------------------------------------


def table_of(
    *,
    longest_first=True,
    suffix=True,
    counts_last=False,
    falls="back",
    shares=True,
    extra=0,
    smooth=0.0,
    from_end=False,
):
    """Return a class of back-off tables with these parts right or wrong."""

    class Table:
        def __init__(self, tokens, order, n_symbols):
            self.order, self.n_symbols, self.counts = order + extra, n_symbols, {}
            tokens = list(map(int, tokens))
            for k in range(self.order + 1):
                for t in range(k, len(tokens) + counts_last):
                    row = self.counts.setdefault(tuple(tokens[t - k : t]), np.zeros(n_symbols))
                    if t < len(tokens):
                        row[tokens[t]] += 1

        def predict(self, context):
            context = tuple(map(int, context))[:: -1 if from_end else 1]
            lengths = range(min(self.order, len(context)) + 1)
            for k in sorted(lengths, reverse=longest_first):
                row = self.counts.get(context[len(context) - k :] if suffix else context[:k])
                if row is not None and row.sum() > 0:
                    row = row + smooth
                    return row / row.sum() if shares else row
                if falls == "even":
                    break
            return np.full(self.n_symbols, 1 / self.n_symbols)

    return Table


def predicted(build, tokens, order, n_symbols, contexts):
    """Return the row after each context, ``(n_contexts, n_symbols)``."""
    table = build(tokens, order, n_symbols)
    if not hasattr(table, "predict"):
        raise CheckFailed("The class needs a method predict(context).")
    return [table.predict(np.array(context, int)) for context in contexts]


AABAC = np.array([0, 0, 1, 0, 2])
LONGER = markov_chain(RANDOM).sample(60, seed=8)

check_back_off = Exercise(
    table_of(),
    [
        ("no token of memory", AABAC, 0, 3, [[], [0], [1, 0]]),
        ("one token, seen before", AABAC, 1, 3, [[0], [1]]),
        ("two tokens, seen before", AABAC, 2, 3, [[0, 0], [0, 1], [1, 0]]),
        ("a pair that never occurs", AABAC, 2, 3, [[1, 1], [2, 1], [2, 2], [0, 2]]),
        ("contexts longer than the order", AABAC, 2, 3, [[2, 2, 1, 0], [0, 1, 0, 0]]),
        ("60 tokens, order 3", LONGER, 3, 5, [LONGER[i : i + 5] for i in range(0, 50, 3)]),
    ],
    {
        table_of(longest_first=False): "The context is not looked at: the shortest one, of no token, answers first. Try the longest, and shorten it only where it was never followed by anything.",
        table_of(suffix=False): "The beginning of the context is looked up; the newest tokens stand at its end.",
        table_of(falls="even"): "A context that was never seen gets an even row. Drop its oldest token and look again.",
        table_of(shares=False): "These are counts; divide the row by its sum.",
        table_of(extra=1): "One token more than the order is looked at.",
        table_of(extra=-1): "One token less than the order is looked at.",
        table_of(smooth=1.0): "You added one to every count; plain frequencies are asked for.",
        table_of(from_end=True): "The context is read backwards: the oldest token comes first.",
    },
    use=predicted,
)  # fmt: skip
