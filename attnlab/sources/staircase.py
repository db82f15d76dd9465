"""The exact staircase of a story machine: the best loss for each length of context."""

from __future__ import annotations

from collections import defaultdict
from math import fsum, log

from attnlab.errors import AttnlabError
from attnlab.sources.compiled import StoryTables

MAX_BELIEFS = 150_000  # different beliefs kept; about a kilobyte each

# hypotheses (place, set of possible values of each role, weight): all one window tells
Belief = tuple[tuple[int, tuple[int, ...], float], ...]


class Staircase:
    """Enumerates windows token by token and merges those that tell the same.

    Two windows tell the same if their beliefs agree up to a renaming of role values that
    keeps every shared word (``she`` stays ``she``): then what follows has the same entropy.
    """

    def __init__(self, tables: StoryTables) -> None:
        """Start from the empty window, which knows the stationary law only."""
        self._tables = tables
        self._arcs: list[list[int]] = [[] for _ in tables.place_share]
        for arc, place in enumerate(tables.arc_from.tolist()):
            self._arcs[place].append(arc)
        self._says = [self._words_of(form) for form in range(len(tables.form_role))]
        self._classes = [self._classes_of(role) for role in range(len(tables.n_values))]
        self._everything = tuple(tables.all_values.tolist())
        self._known: dict[Belief, tuple[float, list[tuple[Belief, float]]]] = {}
        self._losses: list[float] = []
        self._level: dict[Belief, float] = {}

    def loss_nats(self, context_len: int) -> float:
        """Return the mean entropy of the next token after ``context_len`` tokens.

        Raises:
            AttnlabError: If more than ``MAX_BELIEFS`` beliefs would have to be kept.
        """
        if not self._level:
            shares = self._tables.place_share.tolist()
            self._level = {tuple((q, self._everything, p) for q, p in enumerate(shares)): 1.0}
        while len(self._losses) <= context_len:
            self._climb()
        return self._losses[context_len]

    def _climb(self) -> None:
        """Score the windows at hand, then lengthen each by one token."""
        longer: dict[Belief, float] = defaultdict(float)
        terms = []
        for belief, chance in self._level.items():
            if belief not in self._known:
                self._refuse_too_many()
                self._known[belief] = self._expand(belief)
            entropy, following = self._known[belief]
            terms.append(chance * entropy)
            for next_belief, p in following:
                longer[next_belief] += chance * p
        # longer windows cannot do worse; the last bits of rounding could say so
        self._losses.append(min([fsum(terms), *self._losses[-1:]]))
        self._level = dict(longer)

    def _refuse_too_many(self) -> None:
        if len(self._known) >= MAX_BELIEFS:
            raise AttnlabError(
                f"The staircase is exact up to context_len={len(self._losses) - 1} here; further "
                f"up there are more than {MAX_BELIEFS:,} different beliefs. Use "
                "estimate_best_loss_nats(context_len=..., n_windows=..., seed=...), which "
                "returns a mean and its standard error."
            )

    def _expand(self, belief: Belief) -> tuple[float, list[tuple[Belief, float]]]:
        """Return the entropy of the next token, and the beliefs after it with their chances."""
        by_token: dict[int, dict[tuple[int, tuple[int, ...]], float]] = {}
        for place, possible, weight in belief:
            for token, to, values, p in self._ways_on(place, possible):
                target = by_token.setdefault(token, {})
                target[to, values] = target.get((to, values), 0.0) + weight * p
        chances = {token: fsum(target.values()) for token, target in by_token.items()}
        following: dict[Belief, float] = defaultdict(float)
        for token, target in by_token.items():
            following[self._canonical(target, chances[token])] += chances[token]
        return -fsum(p * log(p) for p in chances.values()), list(following.items())

    def _ways_on(
        self, place: int, possible: tuple[int, ...]
    ) -> list[tuple[int, int, tuple[int, ...], float]]:
        """Return token, next place, values still possible, and chance of each way on."""
        t = self._tables
        ways = []
        for arc in self._arcs[place]:
            form, to, chance = int(t.arc_form[arc]), int(t.arc_to[arc]), float(t.arc_chance[arc])
            if not form:
                values = possible if to else self._everything
                ways.append((int(t.arc_token[arc]), to, values, chance))
                continue
            role = int(t.form_role[form])
            before = possible[role]
            for token, meant in self._says[form]:
                if after := before & meant:
                    values = (*possible[:role], after, *possible[role + 1 :])
                    share = chance * after.bit_count() / before.bit_count()
                    ways.append((token, to, values if to else self._everything, share))
        return ways

    def _canonical(self, target: dict[tuple[int, tuple[int, ...]], float], total: float) -> Belief:
        """Rename role values so that windows that tell the same get the same belief."""
        rows = [(place, values, round(w / total, 12)) for (place, values), w in target.items()]
        rows.sort(key=lambda row: (row[0], [v.bit_count() for v in row[1]], row[2]))
        columns = []
        for role, full in enumerate(self._everything):
            sets = [values[role] for _, values, _ in rows]
            is_plain = all(values == full for values in sets)
            columns.append(sets if is_plain else self._rename(sets, self._classes[role]))
        renamed = zip(*columns, strict=True)
        return tuple((q, v, w) for (q, _, w), v in zip(rows, renamed, strict=True))

    @staticmethod
    def _rename(sets: list[int], classes: list[list[int]]) -> list[int]:
        """Reorder alike values by the sets they belong to; keep every count."""
        renamed = [0] * len(sets)
        for members in classes:
            belongs = sorted(([s >> value & 1 for s in sets] for value in members), reverse=True)
            for value, bits in zip(members, belongs, strict=True):
                for i, bit in enumerate(bits):
                    renamed[i] |= bit << value
        return renamed

    def _words_of(self, form: int) -> list[tuple[int, int]]:
        """Return each word of a form with the set of values that say it."""
        sets = self._tables.form_values[form].tolist()
        return [(token, values) for token, values in enumerate(sets) if values]

    def _classes_of(self, role: int) -> list[list[int]]:
        """Group values that say the same in every form where words are shared."""
        t = self._tables
        n_values = int(t.n_values[role])
        shared = []
        for form in range(1, len(t.form_role)):
            words = t.form_token[form, :n_values].tolist()
            if t.form_role[form] == role and len(set(words)) < n_values:
                shared.append(words)
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for value in range(n_values):
            groups[tuple(words[value] for words in shared)].append(value)
        return list(groups.values())
