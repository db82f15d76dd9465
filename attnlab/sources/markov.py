"""Markov chains: matrices, chains with names, and chains whose memory is a tree."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError, UnknownNameError, shorten
from attnlab.paths import CHAINS, file_errors, read_whole
from attnlab.seeding import numpy_generator
from attnlab.sources.base import Source, check_count, entropy_nats, surprise_nats

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ROW_TOLERANCE = 1e-8
Context = tuple[int, ...]  # token ids, oldest first
LARGEST_TREE = 2000  # contexts; the balance equations are solved densely

EXAMPLE_TREES: dict[str, dict[str | Sequence[str], Sequence[float]]] = {
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


def check_transition(transition: ArrayLike, *, name: str = "The matrix") -> NDArray[np.float64]:
    """Return the matrix as float64 with rows that sum to one, or say which entry is wrong.

    Shapes:
        transition: ``(n_states, n_states)``; returns the same.
    Raises:
        AttnlabError: Not square, not finite, a negative entry, or a row sum other than one.
    """
    try:
        matrix = np.array(transition, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        rows = transition if isinstance(transition, Sequence) else [transition]
        lengths = [str(len(row)) for row in rows if isinstance(row, Sequence)]
        raise AttnlabError(
            f"{name} is no table of numbers: {len(lengths)} rows of lengths "
            f"{', '.join(lengths)}. A transition matrix is square, one row and one column a state. "
            "Did a row lose an entry?"
        ) from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise AttnlabError(
            f"{name} has shape {matrix.shape}; a transition matrix is square, one row and one "
            "column a state. Did a row lose an entry?"
        )
    return check_rows(matrix, name=name)


def check_rows(rows: NDArray[np.float64], *, name: str) -> NDArray[np.float64]:
    """Return rows that sum to one, or say which row does not and what it sums to."""
    bad = ~np.isfinite(rows) | (rows < 0)
    if bad.any():
        i, j = np.argwhere(bad)[0]
        raise AttnlabError(
            f"{name} holds {rows[i, j]:g} in row {i}, column {j}; probabilities lie between 0 and "
            "1. Change that entry and keep the sum of its row at 1."
        )
    sums = rows.sum(axis=1)
    off = np.abs(sums - 1) > ROW_TOLERANCE
    if off.any():
        i = int(np.argmax(off))
        raise AttnlabError(
            f"{name}: row {i} sums to {sums[i]:.6g}, not 1. Row i lists the chances of what "
            f"follows state i; divide row {i} by {sums[i]:.6g}, or transpose if columns sum to 1."
        )
    return rows / sums[:, None]


def closed_classes(transition: ArrayLike) -> list[list[int]]:
    """Return the sets of states that, once entered, are never left; smallest state first."""
    matrix = check_transition(transition)
    n_states = len(matrix)
    reach = (matrix > 0) | np.eye(n_states, dtype=bool)
    for _ in range(max(1, n_states - 1).bit_length()):
        reach = (reach.astype(np.float64) @ reach) > 0
    both_ways = reach & reach.T
    is_closed = ~(reach & ~both_ways).any(axis=1)
    classes = {tuple(np.flatnonzero(both_ways[i]).tolist()) for i in np.flatnonzero(is_closed)}
    return sorted(map(list, classes))


def stationary(transition: ArrayLike) -> NDArray[np.float64]:
    r"""Return the long-run share of time in each state.

    .. math:: \pi P = \pi, \qquad \sum_i \pi_i = 1

    A periodic chain has one, too. States that are left for ever have share zero.

    Shapes:
        transition: ``(n_states, n_states)``; returns ``(n_states,)``.
    Raises:
        AttnlabError: If it is not unique, because the chain falls into several closed classes.
    """
    matrix = check_transition(transition)
    classes = closed_classes(matrix)
    if len(classes) > 1:
        raise AttnlabError(
            f"The stationary law is not unique: the chain falls into {len(classes)} closed classes "
            f"of states, {' and '.join(map(str, classes))}, and never leaves the one it starts in. "
            "Give some state of one class a chance of moving to another, or study one class alone."
        )
    share = np.zeros(len(matrix))
    share[classes[0]] = _stationary_of_class(matrix[np.ix_(classes[0], classes[0])])
    return share


def entropy_rate(transition: ArrayLike) -> float:
    r"""Return the mean surprise of the next state once the current one is known.

    .. math:: h = -\sum_i \pi_i \sum_j P_{ij} \log P_{ij}

    Shapes:
        transition: ``(n_states, n_states)``; returns nats per token.
    Raises:
        AttnlabError: If it depends on where the chain starts.
    Source:
        Shannon 1948, section 7; notebook 01.
    """
    matrix = check_transition(transition)
    rates = [
        float(_stationary_of_class(matrix[np.ix_(c, c)]) @ entropy_nats(matrix[c]))
        for c in closed_classes(matrix)
    ]
    if max(rates) - min(rates) > 1e-12:
        stationary(matrix)
    return rates[0]


def _stationary_of_class(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve the balance equations of a chain in which every state reaches every other."""
    n_states = len(matrix)
    balance = matrix.T - np.eye(n_states)
    balance[-1] = 1.0  # one balance equation follows from the others; the sum takes its place
    share = np.linalg.solve(balance, np.eye(n_states)[-1])
    return np.clip(share, 0.0, None) / np.clip(share, 0.0, None).sum()


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
        index = {context: i for i, context in enumerate(self.contexts)}
        pasts = [(*context, token) for context in self.contexts for token in range(self.vocab_size)]
        following = [
            next(index[past[i:]] for i in range(len(past) + 1) if past[i:] in index)
            for past in pasts
        ]
        self._next_state = np.array(following).reshape(len(index), self.vocab_size)
        transition = np.zeros((len(index), len(index)))
        rows = np.repeat(np.arange(len(index)), self.vocab_size)
        np.add.at(transition, (rows, self._next_state.ravel()), self.emission.ravel())
        self.stationary = stationary(transition)
        self._child, self._node_law, self._node_share, self._node_depth = self._build_nodes()

    @property
    def entropy_rate_nats(self) -> float:
        """Return the mean surprise over the leaves, each with its stationary share."""
        return float(self.stationary @ entropy_nats(self.emission))

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


class MarkovSource(ContextTreeSource):
    """A source whose next token depends on the current one alone.

    A sequence from ``weather``: ``S S S C R R C S``.

    Attributes:
        transition: ``(n_states, n_states)``; row ``i`` is the law of what follows token ``i``.
        stationary: ``(n_states,)``, long-run share of each token.
    """

    def __init__(self, transition: ArrayLike, symbols: Sequence[str]) -> None:
        """Check the matrix and solve for its stationary law."""
        self.transition = check_transition(transition)
        if len(symbols) != len(self.transition):
            raise AttnlabError(
                f"There are {len(symbols)} symbols for {len(self.transition)} states. "
                "Give every state one symbol."
            )
        super().__init__({(i,): row for i, row in enumerate(self.transition)}, symbols)


def ring_chain(n_states: int, *, stay: float) -> NDArray[np.float64]:
    """Return a chain on a circle: stay put, or step to either neighbour alike.

    A sequence for 8 states and ``stay=0.25``: ``0 1 1 2 1 0 7 7 6``.

    Args:
        n_states: Places on the circle.
        stay: Chance of keeping the state, 0 to 1.

    Returns:
        ``(n_states, n_states)``; each row sums to one.
    """
    check_count("n_states", n_states, at_least=1)
    if not 0 <= stay <= 1:
        raise AttnlabError(f"stay={stay} is no probability. Try 0.25.")
    here = np.eye(n_states)
    return stay * here + (1 - stay) / 2 * (np.roll(here, 1, axis=1) + np.roll(here, -1, axis=1))


def random_chain(
    n_states: int, *, concentration: float = 1.0, seed: int = 0
) -> NDArray[np.float64]:
    """Return a chain whose rows are drawn from a Dirichlet law.

    A sequence for 4 states and ``concentration=0.3``: ``2 0 0 3 2 0 0 1 3 2``.

    Args:
        n_states: Number of states.
        concentration: Small values make few, likely successors; large ones make rows even.
        seed: Integer behind the draw; streams ``data`` and ``validation`` of the same seed
            are independent of it.

    Returns:
        ``(n_states, n_states)``; each row sums to one.
    """
    check_count("n_states", n_states, at_least=1)
    if not concentration > 0:
        raise AttnlabError(f"concentration={concentration} must be above zero. Try 1.0.")
    weights = numpy_generator(seed, "chain").gamma(concentration, size=(n_states, n_states))
    weights = np.maximum(weights, 1e-12)  # a row of tiny draws still has a sum, and one class
    return weights / weights.sum(axis=1, keepdims=True)


def list_chains() -> list[str]:
    """Return the names of the chains in ``data/chains``."""
    return sorted(path.stem for path in CHAINS.glob("*.json"))


def load_chain(path: str | Path) -> tuple[NDArray[np.float64], list[str]]:
    """Read matrix and symbols of a chain from a JSON file, or by name from ``data/chains``.

    The file holds ``description`` (one line), ``states``, ``matrix`` (one row a state) and,
    if text should be shorter than the names of the states, ``symbols``.

    Raises:
        AttnlabError: No such file or name, no JSON, a missing key, or a matrix that is none.
    """
    file = Path(path)
    if file.suffix != ".json" and file.parent == Path():
        if file.name not in list_chains():
            raise UnknownNameError(
                "chain",
                file.name,
                [*list_chains(), "ring", "random"],
                next_step=f"Or pass a path that ends in .json. Looked in {CHAINS}.",
            )
        file = CHAINS / f"{file.name}.json"
    elif not file.is_file():
        raise AttnlabError(
            f"There is no chain file {file}. Check the path, or take one of the named "
            f"chains: {', '.join(list_chains())}."
        )
    try:
        with file_errors(file, "read"):
            text = read_whole(file).decode()
        data = json.loads(text)
    except RecursionError as error:
        raise AttnlabError(f"{file} is no chain: it is too deep to be read.") from error
    except json.JSONDecodeError as error:
        raise AttnlabError(
            f"{file} is not JSON: {error.msg} in line {error.lineno}. "
            'It should read {"description": ..., "states": [...], "matrix": [[...], ...]}.'
        ) from error
    keys = ("description", "states", "matrix")
    if missing := [key for key in keys if not isinstance(data, dict) or key not in data]:
        raise AttnlabError(
            f"{file} lacks {', '.join(map(repr, missing))}. A chain file has the keys "
            f"{', '.join(keys)} and, if you like, symbols."
        )
    transition = check_transition(data["matrix"], name=f"The matrix of chain {file.stem!r}")
    names = {"states": data["states"], "symbols": data.get("symbols", data["states"])}
    for what, given in names.items():
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
            raise AttnlabError(
                f"The {what} of chain {file.stem!r} are {shorten(given)}, no list of names."
            )
        if len(given) != len(transition):
            raise AttnlabError(
                f"Chain {file.stem!r} names {len(given)} {what} for {len(transition)} rows. "
                "Name every row once."
            )
    return transition, names["symbols"]


def markov_chain(
    chain: ArrayLike | str | Path,
    *,
    symbols: Sequence[str] | None = None,
    **options: float,
) -> MarkovSource:
    """Make a source from a transition matrix, a name or a file.

    A sequence from ``markov_chain("weather")``: ``S S S C R R C S``.

    Args:
        chain: A matrix ``(n_states, n_states)``; ``"ring"`` or ``"random"`` with the options
            of ``ring_chain`` and ``random_chain``; a name from ``list_chains()``; or a path.
        symbols: Names of the tokens; by default those of the file, else letters or numbers.
        **options: For ``"ring"`` and ``"random"``, for example ``n_states=8, stay=0.25``.

    Raises:
        AttnlabError: For a matrix that is none, or without a unique stationary law.
    """
    makers = {"ring": ring_chain, "random": random_chain}
    if isinstance(chain, str) and chain in makers:
        if "n_states" not in options:
            raise AttnlabError(
                f"{chain!r} needs n_states. Try markov_chain({chain!r}, n_states=8"
                + (", stay=0.25)." if chain == "ring" else ").")
            )
        chain = makers[chain](options.pop("n_states"), **options)
    elif options:
        raise AttnlabError(
            f"The option(s) {', '.join(options)} go with 'ring' and 'random' only. "
            "A matrix or a file already says everything; leave them out."
        )
    named = None
    if isinstance(chain, str | Path):
        chain, named = load_chain(chain)
    transition = check_transition(chain)
    letters = LETTERS if len(transition) <= len(LETTERS) else map(str, range(len(transition)))
    if symbols is None:
        symbols = named or list(letters)[: len(transition)]
    return MarkovSource(transition, symbols)


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
        laws = [law for law in tree.values() if isinstance(law, Mapping)]
        symbols = sorted({symbol for part in (*tree, *laws) for symbol in part})
    if not symbols:
        raise AttnlabError(
            "The tree names no symbol. Pass symbols=, for example symbols=('a', 'b')."
        )
    laws = _read_laws(tree, list(symbols))
    _check_contexts(laws, list(symbols))
    return ContextTreeSource(laws, symbols)


def _read_laws(tree: Mapping, symbols: list[str]) -> dict[Context, NDArray[np.float64]]:
    laws = {}
    for context, law in tree.items():
        named = law if isinstance(law, Mapping) else {}
        for symbol in (*context, *named):
            if symbol not in symbols:
                raise UnknownNameError(
                    "symbol", symbol, symbols, next_step=f"It occurs at context {context!r}."
                )
        row = [named.get(s, 0.0) for s in symbols] if isinstance(law, Mapping) else list(law)
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


def _close(
    laws: Mapping[Context, NDArray[np.float64]], vocab_size: int
) -> dict[Context, NDArray[np.float64]]:
    """Split leaves until a leaf and the next token always tell the next leaf.

    A leaf u tells where it came from only if u without its newest token is known in the
    tree, too; where a shorter leaf stands in that place, it is split.
    """
    closed = dict(laws)

    def short_leaves() -> Iterator[Context]:
        for leaf in closed:
            yield from (leaf[i:-1] for i in range(1, len(leaf)) if leaf[i:-1] in closed)

    while (short := next(short_leaves(), None)) and len(closed) <= LARGEST_TREE:
        law = closed.pop(short)
        closed |= {(token, *short): law for token in range(vocab_size)}
    return closed
