"""Languages in context: a chain of its own for each sequence, and the best loss of who meets it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnlab.errors import AttnlabError
from attnlab.sources.base import check_count, check_tokens, surprise_nats

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
LARGEST_TABLE = 4096  # contexts of a chain


@dataclass(frozen=True, kw_only=True)
class ChainsInContext:
    r"""Each row is of another random Markov chain; nothing of it is known but how it was drawn.

    After each context c of ``order`` symbols the next one is drawn from a law of its own,

    .. math:: P_c \sim \mathrm{Dirichlet}(\alpha, \dots, \alpha), \qquad x_{t+1} \sim P_{c_t},

    and the first ``order`` symbols are uniform. A reader who knows this rule, and counts, cannot
    be beaten: seen :math:`n_{cj}` times symbol j after c and :math:`n_c` times c, it says

    .. math:: P(x_{t+1} = j \mid x_{\le t}) = \frac{n_{cj} + \alpha}{n_c + V\alpha}.

    Args:
        n_symbols: V, also the vocabulary.
        order: Symbols that decide the next one's law; 0 is a bag of symbols.
        alpha: Low: few symbols follow each context. High: all about equally often.
        time: Tokens that a model reads; a row has one more, which is only predicted.
    """

    n_symbols: int = 8
    order: int = 1
    alpha: float = 0.3
    time: int = 64

    def __post_init__(self) -> None:
        """Refuse dials no chain can have."""
        check_count("n_symbols", self.n_symbols, at_least=2)
        check_count("order", self.order, at_least=0)
        check_count("time", self.time, at_least=1)
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise AttnlabError(f"alpha={self.alpha} must be above 0; try 0.3.")
        if self.n_symbols**self.order > LARGEST_TABLE:
            raise AttnlabError(
                f"{self.n_symbols} symbols and order {self.order} make "
                f"{self.n_symbols**self.order} contexts; {LARGEST_TABLE} are the most. Lower one."
            )

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return self.n_symbols

    def draw_chains(self, n_rows: int, *, generator: np.random.Generator) -> Floats:
        """Return a chain for each row: ``(n_rows, n_symbols**order, n_symbols)``, rows sum to 1."""
        shape = (n_rows, self.n_symbols**self.order, self.n_symbols)
        weights = np.maximum(generator.standard_gamma(self.alpha, shape), 1e-300)
        return weights / weights.sum(-1, keepdims=True)

    def draw_rows(self, chains: Floats, *, generator: np.random.Generator) -> Ints:
        """Return a row of each chain: ``(n_rows, time + 1)``."""
        n_rows, width = len(chains), self.time + 1
        tokens = generator.integers(0, self.n_symbols, (n_rows, width))
        edges, chances = chains.cumsum(-1)[..., :-1], generator.random((n_rows, width, 1))
        for t in range(self.order, width):
            context = _contexts(tokens[:, : t + 1], self.n_symbols, self.order)[:, -1]
            tokens[:, t] = (chances[:, t] > edges[np.arange(n_rows), context]).sum(-1)
        return tokens

    def draw(self, n_rows: int, *, generator: np.random.Generator) -> Ints:
        """Return rows ``(n_rows, time + 1)``, each of a chain of its own."""
        chains = self.draw_chains(n_rows, generator=generator)
        return self.draw_rows(chains, generator=generator)

    def oracle_nats(self, tokens: Ints) -> Floats:
        """Return the loss of the best reader on each predicted token of these very rows.

        Shapes:
            tokens: ``(n_rows, time + 1)``; returns ``(n_rows, time)``. No predictor that does
            not know the chains has a lower expectation.
        """
        return self.counting_nats(tokens, order=self.order)

    def counting_nats(self, tokens: Ints, *, order: int) -> Floats:
        """Return the same for a reader who counts after ``order`` symbols: a baseline.

        Order 0 counts single symbols, 1 pairs. Before a context is complete nothing is known.
        """
        tokens, v = check_tokens(tokens, vocab_size=self.n_symbols, at_least=2), self.n_symbols
        losses = np.full((len(tokens), tokens.shape[1] - 1), math.log(v))
        context, following = _contexts(tokens, v, order), tokens[:, order:]
        earlier = np.tri(following.shape[1], k=-1, dtype=bool)  # (predicted, counted)
        again = (context[:, :, None] == context[:, None, :]) & earlier
        n_c = again.sum(-1)
        n_cj = (again & (following[:, :, None] == following[:, None, :])).sum(-1)
        law = (n_cj + self.alpha) / (n_c + v * self.alpha)
        first = 1 if order == 0 else 0  # the very first symbol is no prediction
        losses[:, max(order - 1, 0) :] = -np.log(law[:, first:])
        return losses

    def knowing_nats(self, tokens: Ints, chains: Floats) -> Floats:
        """Return the loss of who knows each row's chain: ``(n_rows, time)``."""
        context = _contexts(tokens, self.n_symbols, self.order)
        rows = np.arange(len(tokens))[:, None]
        losses = surprise_nats(chains[rows, context, tokens[:, self.order :]])
        before = np.full((len(tokens), max(self.order - 1, 0)), math.log(self.n_symbols))
        return np.concatenate([before, losses[:, 1:] if self.order == 0 else losses], axis=1)

    def expected_knowing_nats(self) -> float:
        r"""Return the mean entropy of a drawn law, :math:`\psi(V\alpha + 1) - \psi(\alpha + 1)`.

        It is the loss of who knows the chain where contexts are equally likely.
        """
        v, a = self.n_symbols, self.alpha
        return _digamma(v * a + 1) - _digamma(a + 1)

    def expected_nats(self, *, n_seen: int) -> float:
        r"""Return the best expected loss after a context whose continuation was drawn n times.

        .. math:: -V \sum_{k=0}^{n} \mathrm{BetaBin}(k; n, \alpha, (V-1)\alpha)\, q_k \log q_k,
                  \qquad q_k = \frac{k + \alpha}{n + V\alpha}
        """
        v, a = self.n_symbols, self.alpha
        k = np.arange(n_seen + 1)
        log_p = [
            math.log(math.comb(n_seen, i))
            + _log_beta(i + a, n_seen - i + (v - 1) * a)
            - _log_beta(a, (v - 1) * a)
            for i in range(n_seen + 1)
        ]
        q = (k + a) / (n_seen + v * a)
        return float(-v * (np.exp(log_p) * q * np.log(q)).sum())


def _contexts(tokens: Ints, n_symbols: int, order: int) -> Ints:
    """Return the number of the ``order`` symbols before each token: ``(n_rows, width - order)``."""
    width = tokens.shape[1]
    number = np.zeros((len(tokens), width - order), dtype=np.int64)
    for i in range(order):
        number = number * n_symbols + tokens[:, i : width - order + i]
    return number


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _digamma(x: float) -> float:
    """Return the logarithmic derivative of the gamma function, to 1e-12, for x above 0."""
    shift = 0.0
    while x < 8:
        shift, x = shift - 1 / x, x + 1
    tail = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760)
    return shift + math.log(x) - 1 / (2 * x) - sum(c / x ** (2 * i + 2) for i, c in enumerate(tail))
