"""Story machines: hidden Markov sources whose state is a place in a script and a cast of roles."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnlab.seeding import numpy_generator
from attnlab.sources.base import Source, check_count, surprise_nats
from attnlab.sources.compiled import Roles, check_story, compile_story, list_symbols
from attnlab.sources.filtering import StoryFilter
from attnlab.sources.script import Node, determine
from attnlab.sources.staircase import Staircase

END = "<end>"


class StoryMachine(Source):
    """A source that tells one tale after another, each with a fresh cast.

    The hidden state is the place in the script and the value of every role. Roles are
    drawn evenly and independently when a tale starts; chances in the script do not depend
    on them. So the exact belief after any window is, for each place, a chance and one set
    of still possible values a role, which is what makes exact filtering fast.

    A sequence of a machine with the script ``{who} says hi to {who}`` and two values:
    ``ann says hi to ann <end> bob says hi to bob <end>``.

    Attributes:
        roles: For each role its forms, for each form its word for every value.
        tables: The machine as arrays.
    """

    def __init__(self, script: Node, roles: Roles, *, extra_symbols: Iterable[str] = ()) -> None:
        """Compile a script and check that its text gives away every hidden choice.

        Args:
            script: What may be said, from ``attnlab.sources.script``.
            roles: For each role its forms, for each form its word for every value.
            extra_symbols: Words to list in the vocabulary even if the script lacks them.

        Raises:
            AttnlabError: If a word leaves two ways open, or a role may stay untold.
        """
        places = determine(script, end=END)
        check_story(places, roles)
        super().__init__(list_symbols(places, roles, end=END, extra=extra_symbols))
        self.roles = roles
        self.tables = compile_story(places, roles, self.symbols)
        self._filter = StoryFilter(self.tables)
        self._staircase = Staircase(self.tables)
        self._last_arc = np.cumsum(np.bincount(self.tables.arc_from)) - 1
        self._arc_edge = self._find_arc_edges()

    @property
    def n_places(self) -> int:
        """Number of places in the script."""
        return len(self.tables.place_share)

    @property
    def mean_tale_len(self) -> float:
        """Expected number of tokens in a tale, its end token included."""
        return self.tables.mean_tale_len

    @property
    def tale_entropy_nats(self) -> float:
        r"""Return the entropy of a whole tale.

        .. math:: H = \sum_q n_q H_q + \sum_r \log |r|

        with :math:`n_q` visits to place q in a tale, :math:`H_q` the entropy of its arcs and
        :math:`|r|` the number of values of role r. Every choice can be read off the text, so
        the text has the entropy of the choices.
        """
        t = self.tables
        visits = t.place_share * t.mean_tale_len
        per_arc = visits[t.arc_from] * t.arc_chance * surprise_nats(t.arc_chance)
        return float(per_arc.sum() + np.log(t.n_values).sum())

    @property
    def entropy_rate_nats(self) -> float:
        """Return the entropy of a tale over its mean length: tales are independent renewals."""
        return self.tale_entropy_nats / self.mean_tale_len

    def best_loss_nats(self, *, context_len: int) -> float:
        """Return the lowest expected loss of any predictor of the last ``context_len`` tokens.

        Exact: all windows are enumerated from the stationary law, and windows that tell the
        same about the hidden state, up to a renaming of role values, are merged.

        Raises:
            AttnlabError: If there are too many beliefs; ``estimate_best_loss_nats`` has no limit.
        """
        check_count("context_len", context_len, at_least=0)
        return self._staircase.loss_nats(context_len)

    def predict(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """Return the law of the token that follows ``tokens``: ``(vocab_size,)``, sums to one.

        Raises:
            AttnlabError: If this machine cannot have written ``tokens``.
        """
        tokens = self.check_sequence(tokens)
        ends = np.flatnonzero(tokens == self._ids[END])
        after_end = tokens[ends[-1] + 1 :] if len(ends) else tokens
        return self._filter.predict(after_end, at_start=len(ends) > 0)

    def sample_tale(
        self, *, seed: int = 0, generator: np.random.Generator | None = None, stream: str = "data"
    ) -> NDArray[np.int64]:
        """Draw one tale from its first word to its end token: ``(tale_len,)``."""
        return self._tell(np.zeros(1, np.int64), generator or numpy_generator(seed, stream))

    def _losses(self, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._filter.losses(tokens, end=self._ids[END])

    def _draw(self, n_tokens: int, generator: np.random.Generator) -> NDArray[np.int64]:
        first = generator.choice(self.n_places, size=1, p=self.tables.place_share)
        pieces = [self._tell(first, generator)]
        while (missing := n_tokens - sum(map(len, pieces))) > 0:
            n_tales = int(missing / self.mean_tale_len * 1.02) + 2
            pieces.append(self._tell(np.zeros(n_tales, np.int64), generator))
        return np.concatenate(pieces)[:n_tokens]

    def _tell(self, place: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """Tell from each place to the end of its tale; return the tales one after the other."""
        values = self._cast(len(place), generator)
        alive = np.arange(len(place))
        rows, tokens = [], []
        while len(alive):
            token, place = self._step(place, values[alive], generator)
            rows.append(alive)
            tokens.append(token)
            alive, place = alive[place != 0], place[place != 0]
        by_tale = np.argsort(np.concatenate(rows), kind="stable")
        return np.concatenate(tokens)[by_tale]

    def _draw_windows(
        self, n_windows: int, window_len: int, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        place = generator.choice(self.n_places, size=n_windows, p=self.tables.place_share)
        values = self._cast(n_windows, generator)
        tokens = np.empty((n_windows, window_len), dtype=np.int64)
        for t in range(window_len):
            tokens[:, t], place = self._step(place, values, generator)
            fresh = np.flatnonzero(place == 0)
            values[fresh] = self._cast(len(fresh), generator)
        return tokens

    def _cast(self, n_tales: int, generator: np.random.Generator) -> NDArray[np.int64]:
        n_values = self.tables.n_values
        return generator.integers(0, n_values, size=(n_tales, len(n_values)))

    def _step(
        self, place: NDArray[np.int64], values: NDArray[np.int64], generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Say one token from each place; return tokens and next places."""
        t = self.tables
        arc = np.searchsorted(self._arc_edge, place + generator.random(len(place)), side="right")
        arc = np.minimum(arc, self._last_arc[place])  # place + chance may round up to place + 1
        form = t.arc_form[arc]
        said = t.form_token[form, values[np.arange(len(place)), t.form_role[form]]]
        return np.where(form == 0, t.arc_token[arc], said), t.arc_to[arc]

    def _find_arc_edges(self) -> NDArray[np.float64]:
        """Cut the interval [place, place + 1) in the proportions of the arcs of each place."""
        t = self.tables
        so_far = np.cumsum(t.arc_chance)
        before = np.append(0.0, so_far[self._last_arc])[t.arc_from]
        edges = t.arc_from + so_far - before
        edges[self._last_arc] = np.arange(self.n_places) + 1
        return edges
