"""Variable-length Markov chains: how much of the past counts depends on the past itself."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.sources.base import Source, check_count, entropy_nats, surprise_nats
from attnlab.sources.transition import check_rows, stationary

Context = tuple[int, ...]  # token ids, oldest first
LARGEST_TREE = 2000  # contexts; the balance equations are solved densely

EXAMPLE_TREES: dict[str, dict[str, tuple[float, ...]]] = {
    # after a or c one token tells all; after b the chain counts how it got there
    "one_long_branch": {
        "a": (0.1, 0.6, 0.3),
        "c": (0.4, 0.4, 0.2),
        "cb": (0.8, 0.1, 0.1),
        "bb": (0.3, 0.3, 0.4),
        "bab": (0.05, 0.9, 0.05),
        "cab": (0.05, 0.05, 0.9),
        "aaab": (0.9, 0.05, 0.05),
        "baab": (0.1, 0.8, 0.1),
        "caab": (0.1, 0.1, 0.8),
    },
    # a blank or a mark; after a mark one must count back to the last blank
    "count_to_three": {
        "0": (0.3, 0.7),
        "01": (0.1, 0.9),
        "011": (0.1, 0.9),
        "0111": (0.95, 0.05),
        "1111": (0.5, 0.5),
    },
}


class ContextTreeSource(Source):
    """A source that looks back along a tree until it reaches a leaf.

    A sequence from ``one_long_branch``: ``a b a b b c a a b c c b``. After ``a`` nothing
    older counts; after ``b`` the tokens before it do, up to four in all.

    Attributes:
        contexts: Leaves of the closed tree, oldest token first; the states of the source.
        emission: ``(n_contexts, vocab_size)``, law of the next token in each state.
        stationary: ``(n_contexts,)``, long-run share of time in each state.
    """

    def __init__(self, laws: Mapping[Context, NDArray[np.float64]], symbols: Sequence[str]) -> None:
        """Close the tree under its own moves and solve for its stationary law."""
        super().__init__(symbols)
        self.depth = max(map(len, laws))
        closed = _close(laws, self.vocab_size)
        if len(closed) > LARGEST_TREE:
            raise AttnlabError(
                f"The tree needs {len(closed):,} states; at most {LARGEST_TREE:,} are solved "
                f"exactly. Shorten its longest context, which has {self.depth} tokens."
            )
        self.contexts = sorted(closed)
        self.emission = np.array([closed[context] for context in self.contexts])
        self._next_state = self._find_next_states()
        self.stationary = stationary(self._state_transition())
        self._child, self._node_law, self._node_share, self._node_depth = self._build_nodes()
        self._leaf_entropy = entropy_nats(self.emission)

    @property
    def entropy_rate_nats(self) -> float:
        """Return the mean surprise over the leaves, each with its stationary share."""
        return float(self.stationary @ self._leaf_entropy)

    def best_loss_nats(self, *, context_len: int) -> float:
        """Return the lowest expected loss of any predictor of the last ``context_len`` tokens.

        Exact: the tree is cut at that depth, and a cut branch predicts the mean of its
        leaves, weighted by their stationary shares.
        """
        check_count("context_len", context_len, at_least=0)
        is_leaf = (self._child < 0).all(axis=1)
        is_cut = (self._node_depth == context_len) | (is_leaf & (self._node_depth < context_len))
        return float(self._node_share[is_cut] @ entropy_nats(self._node_law[is_cut]))

    def predict(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """Return the law of the token that follows ``tokens``: ``(vocab_size,)``, sums to one."""
        tokens = self.check_sequence(tokens)
        return self._node_law[self._walk(tokens[None, -max(1, self.depth) :])[0, -1]]

    def _losses(self, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        law = self._node_law[self._walk(tokens)[:, 1:-1]]
        return surprise_nats(np.take_along_axis(law, tokens[:, 1:, None], axis=-1)[..., 0])

    def _walk(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the deepest node that each prefix reaches: ``(batch, time + 1)``."""
        batch, time = tokens.shape
        node = np.zeros((batch, time + 1), dtype=np.int64)
        for lag in range(min(self._node_depth.max(), time)):
            deeper = self._child[node[:, lag + 1 :], tokens[:, : time - lag]]
            # a leaf has no children: a prefix that reached one stays there
            node[:, lag + 1 :] = np.where(deeper >= 0, deeper, node[:, lag + 1 :])
        return node

    def _draw(self, n_tokens: int, generator: np.random.Generator) -> NDArray[np.int64]:
        state = int(generator.choice(len(self.contexts), p=self.stationary))
        edges = np.cumsum(self.emission, axis=1)[:, :-1].tolist()
        moves = self._next_state.tolist()
        tokens = []
        for chance in generator.random(n_tokens).tolist():
            token = bisect_right(edges[state], chance)
            tokens.append(token)
            state = moves[state][token]
        return np.array(tokens, dtype=np.int64)

    def _draw_windows(
        self, n_windows: int, window_len: int, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        state = generator.choice(len(self.contexts), size=n_windows, p=self.stationary)
        edges = np.cumsum(self.emission, axis=1)[:, :-1]
        tokens = np.empty((n_windows, window_len), dtype=np.int64)
        for t in range(window_len):
            chance = generator.random(n_windows)
            tokens[:, t] = (edges[state] <= chance[:, None]).sum(axis=1)
            state = self._next_state[state, tokens[:, t]]
        return tokens

    def _find_next_states(self) -> NDArray[np.int64]:
        index = {context: i for i, context in enumerate(self.contexts)}
        return np.array(
            [
                [index[_leaf_of((*context, token), index)] for token in range(self.vocab_size)]
                for context in self.contexts
            ]
        )

    def _state_transition(self) -> NDArray[np.float64]:
        n_states = len(self.contexts)
        transition = np.zeros((n_states, n_states))
        rows = np.repeat(np.arange(n_states), self.vocab_size)
        np.add.at(transition, (rows, self._next_state.ravel()), self.emission.ravel())
        return transition

    def _build_nodes(
        self,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Give every node, inner ones too, its children, law, share and depth; the root is 0."""
        nodes = sorted({c[i:] for c in self.contexts for i in range(len(c) + 1)}, key=len)
        index = {node: i for i, node in enumerate(nodes)}
        child = np.full((len(nodes), self.vocab_size), -1, dtype=np.int64)
        share = np.zeros(len(nodes))
        mixture = np.zeros((len(nodes), self.vocab_size))
        fallback = np.zeros((len(nodes), self.vocab_size))
        for context, law, part in zip(self.contexts, self.emission, self.stationary, strict=True):
            for i in range(len(context) + 1):
                at = index[context[i:]]
                share[at] += part
                mixture[at] += part * law
                fallback[at] += law
                if i:
                    child[at, context[i - 1]] = index[context[i - 1 :]]
        # a branch that the source never visits predicts the plain mean of its leaves
        law = np.where(share[:, None] > 0, mixture, fallback)
        return child, law / law.sum(axis=1, keepdims=True), share, np.array(list(map(len, nodes)))


def variable_length_chain(
    tree: str | Mapping[str | Sequence[str], Sequence[float] | Mapping[str, float]] = (
        "one_long_branch"
    ),
    *,
    symbols: Sequence[str] | None = None,
) -> ContextTreeSource:
    """Make a source whose memory is long in some places and short in others.

    A sequence from ``one_long_branch``: ``a b a b b c a a b c c b``.

    Args:
        tree: A name in ``EXAMPLE_TREES``, or a mapping from each context (a string of
            one-letter symbols or a sequence of symbols, oldest first) to the law of
            the next symbol (probabilities in the order of ``symbols``, or by name). The
            contexts must be complete and suffix-free: any long enough past ends in exactly one.
        symbols: Names of the tokens; by default those that occur in the contexts, sorted.

    Raises:
        AttnlabError: A past that ends in no context or in two, or a law that is none.
    Source:
        Rissanen 1983, A universal data compression system; notebook 01.
    """
    if isinstance(tree, str):
        if tree not in EXAMPLE_TREES:
            raise UnknownNameError(
                "example tree", tree, EXAMPLE_TREES, next_step="Or pass a dict of contexts."
            )
        tree = EXAMPLE_TREES[tree]
    if not tree:
        raise AttnlabError('The tree is empty. The smallest one is {"": (0.5, 0.5)}: no memory.')
    if symbols is None:
        symbols = _symbols_of(tree)
    laws = _read_laws(tree, list(symbols))
    _check_contexts(laws, list(symbols))
    return ContextTreeSource(laws, symbols)


def _symbols_of(tree: Mapping) -> list[str]:
    symbols = {symbol for context in tree for symbol in context}
    for law in tree.values():
        symbols |= set(law) if isinstance(law, Mapping) else set()
    if not symbols:
        raise AttnlabError(
            "The tree names no symbol. Pass symbols=, for example symbols=('a', 'b')."
        )
    return sorted(symbols)


def _read_laws(tree: Mapping, symbols: list[str]) -> dict[Context, NDArray[np.float64]]:
    laws = {}
    for context, law in tree.items():
        wrong = [
            s for s in (*context, *(law if isinstance(law, Mapping) else ())) if s not in symbols
        ]
        if wrong:
            raise UnknownNameError(
                "symbol", wrong[0], symbols, next_step=f"It occurs at context {context!r}."
            )
        row = [law.get(s, 0.0) for s in symbols] if isinstance(law, Mapping) else list(law)
        if len(row) != len(symbols):
            raise AttnlabError(
                f"The law after {context!r} has {len(row)} probabilities for {len(symbols)} "
                f"symbols ({', '.join(symbols)}). Give one for each, in that order."
            )
        rows = check_rows(np.array([row], dtype=np.float64), name=f"The law after {context!r}")
        laws[tuple(symbols.index(s) for s in context)] = rows[0]
    return laws


def _check_contexts(laws: Mapping[Context, NDArray[np.float64]], symbols: list[str]) -> None:
    """Refuse a tree in which a past ends in two contexts or in none."""
    inner = {context[i:] for context in laws for i in range(1, len(context) + 1)}
    names = {c: "".join(symbols[i] for i in c) for c in inner | set(laws)}
    for context in sorted(laws, key=len):
        if context in inner:
            longer = next(c for c in laws if c != context and c[len(c) - len(context) :] == context)
            raise AttnlabError(
                f"Context {names[context]!r} is the end of context {names[longer]!r}, so a past "
                "can end in both. Drop the shorter one and say what follows each longer one."
            )
    for node in sorted(inner, key=len):
        for i, symbol in enumerate(symbols):
            if (i, *node) not in inner and (i, *node) not in laws:
                raise AttnlabError(
                    f"No context fits a past that ends in {symbol + names[node]!r}. "
                    f"Add {symbol + names[node]!r}, or contexts that end in it."
                )


def _leaf_of(past: Context, leaves: Mapping[Context, object]) -> Context:
    return next(past[i:] for i in range(len(past), -1, -1) if past[i:] in leaves)


def _close(
    laws: Mapping[Context, NDArray[np.float64]], vocab_size: int
) -> dict[Context, NDArray[np.float64]]:
    """Split leaves until a leaf and the next token always tell the next leaf.

    A leaf u tells where it came from only if u without its newest token is known in the
    tree, too; where a shorter leaf stands in that place, it is split.
    """
    closed = dict(laws)
    while short := next(_short_leaves(closed), None):
        law = closed.pop(short)
        closed |= {(token, *short): law for token in range(vocab_size)}
        if len(closed) > LARGEST_TREE:
            break
    return closed


def _short_leaves(leaves: Mapping[Context, object]) -> Iterator[Context]:
    for leaf in leaves:
        for i in range(1, len(leaf)):
            if leaf[i:-1] in leaves:
                yield leaf[i:-1]
