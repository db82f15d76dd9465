"""Checks of the exercises in notebooks 00 and 01: units of loss, entropy, counts, oracle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from attnlab.sources import entropy_rate, random_chain, ring_chain, stationary
from attnlab.teaching.core import Case, Mistake, case, grade

Array = NDArray[np.float64]

WEATHER = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.2, 0.4, 0.4]])
CYCLE = np.roll(np.eye(3), 1, axis=1)  # a, b, c, a, ...: nothing surprises
LAZY_CYCLE = np.array([[0.0, 1.0, 0.0], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])


def check_nats_to_bits(student: Callable[[float], float]) -> None:
    """Judge exercise 0.1: a loss in nats, written in bits."""
    grade(student, reference=_nats_to_bits, cases=BITS_CASES, mistakes=BITS_MISTAKES)


def check_perplexity(student: Callable[[Array], float]) -> None:
    """Judge exercise 0.2: the perplexity of losses ``(n_tokens,)`` in nats."""
    grade(student, reference=_perplexity, cases=PERPLEXITY_CASES, mistakes=PERPLEXITY_MISTAKES)


def check_entropy_rate(student: Callable[[Array], float]) -> None:
    """Judge exercise 1.1: the entropy rate of a transition matrix, in nats per token."""
    grade(student, reference=entropy_rate, cases=ENTROPY_CASES, mistakes=ENTROPY_MISTAKES)


def check_fit_bigram(student: Callable[[NDArray[np.int64], int], Array]) -> None:
    """Judge exercise 1.3: a table ``(n_states, n_states)`` of frequencies from tokens."""
    grade(student, reference=_fit_bigram, cases=BIGRAM_CASES, mistakes=BIGRAM_MISTAKES)


def check_oracle_loss(student: Callable[[NDArray[np.int64], Array], float]) -> None:
    """Judge exercise 1.2: the true chain's own mean loss on these tokens, in nats."""
    grade(student, reference=_oracle_loss, cases=ORACLE_CASES, mistakes=ORACLE_MISTAKES)


def _log(values: Array) -> Array:
    """Return the logarithm; minus infinity at zero, without a warning."""
    with np.errstate(divide="ignore"):
        return np.log(values)


def _row_entropies(transition: Array) -> Array:
    return -np.sum(transition * _log(np.where(transition > 0, transition, 1.0)), axis=1)


def _nats_to_bits(loss_nats: float) -> float:
    return loss_nats / float(np.log(2))


BITS_CASES: list[Case] = [
    case("a fair coin, log 2 nats", float(np.log(2))),
    case("one nat", 1.0),
    case("nothing surprises", 0.0),
    case("a loss of 2.5", 2.5),
]
BITS_MISTAKES: list[Mistake] = [
    Mistake(
        "multiplied",
        lambda loss_nats: loss_nats * np.log(2),
        "You multiplied by log 2. A bit is the smaller unit (log 2 = 0.693 nats), so the number "
        "of bits is the larger one.",
    ),
    Mistake(
        "logarithm of the loss",
        lambda loss_nats: float(_log(np.float64(loss_nats)) / np.log(2)),
        "You took the logarithm of the loss. The loss is a logarithm already; only its unit "
        "changes.",
    ),
    Mistake(
        "base ten",
        lambda loss_nats: loss_nats / np.log(10),
        "You divided by log 10, which gives decimal digits (bans). A bit has two sides.",
    ),
    Mistake(
        "perplexity",
        lambda loss_nats: float(np.exp(loss_nats)),
        "That is the perplexity. Bits are another unit of the same logarithm.",
    ),
]


def _perplexity(losses_nats: Array) -> float:
    return float(np.exp(np.mean(losses_nats)))


PERPLEXITY_CASES: list[Case] = [
    case("one token with chance 1/4", np.array([np.log(4)])),
    case("chances 1/2 and 1/8", np.log(np.array([2.0, 8.0]))),
    case("seven tokens", np.array([0.1, 0.7, 2.3, 0.0, 1.1, 0.4, 3.0])),
]
PERPLEXITY_MISTAKES: list[Mistake] = [
    Mistake(
        "mean of exponentials",
        lambda losses_nats: float(np.mean(np.exp(losses_nats))),
        "You averaged the perplexities of single tokens. Average the logarithms first; the "
        "exponential comes last.",
    ),
    Mistake(
        "base two",
        lambda losses_nats: float(2 ** np.mean(losses_nats)),
        "You raised 2 to a number of nats. 2 goes with bits, e goes with nats.",
    ),
    Mistake(
        "sum",
        lambda losses_nats: float(np.exp(np.sum(losses_nats))),
        "You did not divide by the number of tokens: this is one over the chance of the whole "
        "text.",
    ),
    Mistake(
        "mean loss",
        lambda losses_nats: float(np.mean(losses_nats)),
        "That is the mean loss in nats; perplexity is its exponential.",
    ),
]


def _naive_log_rate(transition: Array) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = -np.sum(transition * np.log(transition), axis=1)
    return float(stationary(transition) @ rows)


def _joint_entropy(transition: Array) -> float:
    joint = stationary(transition)[:, None] * transition
    return float(_row_entropies(joint).sum())


ENTROPY_CASES: list[Case] = [
    case("a fair coin", np.full((2, 2), 0.5)),
    case("weather", WEATHER),
    case("a lazy cycle, with zeros", LAZY_CYCLE),
    case("a cycle without chance", CYCLE),
    case("a ring of 5", ring_chain(5, stay=0.3)),
    case("a random chain of 7", random_chain(7, concentration=0.4, seed=3)),
]
ENTROPY_MISTAKES: list[Mistake] = [
    Mistake(
        "bits",
        lambda transition: entropy_rate(transition) / np.log(2),
        "It is in bits: you used log2. The exercise asks for nats, the natural logarithm.",
    ),
    Mistake(
        "plain mean of the rows",
        lambda transition: float(_row_entropies(transition).mean()),
        "Every row has the same weight here. Weight row i by the share of time pi_i that the "
        "chain spends in state i (pi P = pi, a left eigenvector).",
    ),
    Mistake(
        "sum of the rows",
        lambda transition: float(_row_entropies(transition).sum()),
        "The rows are added without weights; weight row i by pi_i.",
    ),
    Mistake(
        "0 log 0",
        _naive_log_rate,
        "0 * log 0 is NaN for NumPy and 0 for us: replace the zeros inside the logarithm by 1, "
        "as in np.log(np.where(P > 0, P, 1)).",
    ),
    Mistake(
        "entropy of the shares",
        lambda transition: float(_row_entropies(stationary(transition)[None, :]).sum()),
        "That is the entropy of pi: the surprise of a reader who has forgotten the last token. "
        "Take the entropy of each row of P.",
    ),
    Mistake(
        "joint entropy",
        _joint_entropy,
        "You put pi inside the logarithm: that is the surprise of two tokens at once. Only P is "
        "inside.",
    ),
    Mistake(
        "sign",
        lambda transition: -entropy_rate(transition),
        "The sign is missing: logarithms of chances are negative, surprise is not.",
    ),
]


def _pair_counts(tokens: NDArray[np.int64], n_states: int) -> Array:
    counts = np.zeros((n_states, n_states))
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    return counts


def _normalised(counts: Array) -> Array:
    """Divide each row by its sum; an empty row becomes even."""
    totals = counts.sum(axis=1, keepdims=True)
    return np.where(totals > 0, counts / np.where(totals > 0, totals, 1), 1 / len(counts))


def _fit_bigram(tokens: NDArray[np.int64], n_states: int) -> Array:
    return _normalised(_pair_counts(tokens, n_states))


def _column_normalised(tokens: NDArray[np.int64], n_states: int) -> Array:
    return _normalised(_pair_counts(tokens, n_states).T).T


def _empty_rows(fill: float) -> Callable[[NDArray[np.int64], int], Array]:
    def fit(tokens: NDArray[np.int64], n_states: int) -> Array:
        counts = _pair_counts(tokens, n_states)
        totals = counts.sum(axis=1, keepdims=True)
        return np.where(totals > 0, counts / np.where(totals > 0, totals, 1), fill)

    return fit


def _repeats_once(tokens: NDArray[np.int64], n_states: int) -> Array:
    counts = np.zeros((n_states, n_states))
    counts[tokens[:-1], tokens[1:]] += 1
    return _normalised(counts)


def _all_occurrences(tokens: NDArray[np.int64], n_states: int) -> Array:
    seen = np.bincount(tokens, minlength=n_states)[:, None]
    counts = _pair_counts(tokens, n_states)
    return np.where(seen > 0, counts / np.where(seen > 0, seen, 1), 1 / n_states)


def _tokens_of(chain: Array, n_tokens: int, seed: int) -> NDArray[np.int64]:
    random = np.random.default_rng(seed)
    tokens = [0]
    for chance in random.random(n_tokens - 1):
        tokens.append(int(np.searchsorted(np.cumsum(chain[tokens[-1]])[:-1], chance, "right")))
    return np.array(tokens)


BIGRAM_CASES: list[Case] = [
    case("six tokens of two kinds", np.array([0, 0, 1, 0, 0, 1]), 2),
    case("eight tokens of three kinds", np.array([0, 1, 1, 2, 1, 0, 1, 0]), 3),
    case("a state that never occurs", np.array([0, 1, 0, 0, 1, 0]), 3),
    case("200 tokens of weather", _tokens_of(WEATHER, 200, 5), 3),
]
BIGRAM_MISTAKES: list[Mistake] = [
    Mistake(
        "transposed",
        lambda tokens, n_states: _normalised(_pair_counts(tokens, n_states).T),
        "Rows and columns are exchanged: this says what came BEFORE each token. Row i counts "
        "what follows token i: counts[tokens[:-1], tokens[1:]].",
    ),
    Mistake(
        "columns normalised",
        _column_normalised,
        "You divided by the column sums (axis 0). A row is a distribution: divide by the row "
        "sums, axis 1 with keepdims=True.",
    ),
    Mistake(
        "not normalised",
        _pair_counts,
        "These are the counts; divide each row by its sum.",
    ),
    Mistake(
        "joint frequencies",
        lambda tokens, n_states: _pair_counts(tokens, n_states) / (len(tokens) - 1),
        "You divided by the number of all pairs, so the whole table sums to one. Each row has to.",
    ),
    Mistake(
        "repeats counted once",
        _repeats_once,
        "Each pair was counted once, however often it occurs: counts[a, b] += 1 with arrays of "
        "indices does not add repeats. Use np.add.at, or a loop.",
    ),
    Mistake(
        "every occurrence",
        _all_occurrences,
        "A row sums to less than one: the last token of the text has no successor, so it must "
        "not be counted in its row's total.",
    ),
    Mistake(
        "add one",
        lambda tokens, n_states: _normalised(_pair_counts(tokens, n_states) + 1),
        "You added one to every count. That is a good habit (smoothing), but the exercise asks "
        "for plain frequencies.",
    ),
    Mistake(
        "NaN in an empty row",
        _empty_rows(np.nan),
        "0 / 0 is NaN: a state without successors needs a row of its own. Give it 1 / n_states "
        "everywhere.",
    ),
    Mistake(
        "zeros in an empty row",
        _empty_rows(0.0),
        "A state without successors has a row of zeros, which sums to 0. Give it 1 / n_states "
        "everywhere.",
    ),
]


def _surprises(tokens: NDArray[np.int64], transition: Array) -> Array:
    return -_log(transition[tokens[:-1], tokens[1:]])


def _oracle_loss(tokens: NDArray[np.int64], transition: Array) -> float:
    return float(_surprises(tokens, transition).mean())


def _with_first(tokens: NDArray[np.int64], transition: Array) -> float:
    first = -_log(stationary(transition)[tokens[:1]])
    return float(np.concatenate([first, _surprises(tokens, transition)]).mean())


ORACLE_CASES: list[Case] = [
    case("two sunny days", np.array([0, 0]), WEATHER),
    case("sun, clouds, rain, sun", np.array([0, 1, 2, 0]), WEATHER),
    case("30 tokens of a random chain",
         _tokens_of(random_chain(5, concentration=0.6, seed=4), 30, 6),
         random_chain(5, concentration=0.6, seed=4)),
]  # fmt: skip
ORACLE_MISTAKES: list[Mistake] = [
    Mistake(
        "bits",
        lambda tokens, transition: _oracle_loss(tokens, transition) / np.log(2),
        "It is in bits: you used log2. Use the natural logarithm.",
    ),
    Mistake(
        "entropy rate",
        lambda tokens, transition: entropy_rate(transition),
        "That is the entropy rate: the average over all texts. The oracle loss is for these very "
        "tokens; look up P[v_t, v_{t+1}] for each of them.",
    ),
    Mistake(
        "divided by all tokens",
        lambda tokens, transition: float(_surprises(tokens, transition).sum() / len(tokens)),
        "T tokens make T - 1 predictions: the first token has nothing before it.",
    ),
    Mistake(
        "first token included",
        _with_first,
        "You scored the first token by pi. It has no token before it, so it is not predicted here.",
    ),
    Mistake(
        "backwards",
        lambda tokens, transition: _oracle_loss(tokens[::-1], transition),
        "You looked up P[next, current]. The row is the current token, the column the next one.",
    ),
    Mistake(
        "sum",
        lambda tokens, transition: float(_surprises(tokens, transition).sum()),
        "That is the surprise of the whole text; a loss is the mean over its predictions.",
    ),
]
