"""The exact staircase of a story machine: the best loss for each length of context."""

from __future__ import annotations

from collections import Counter, defaultdict
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
    Weights are compared to twelve digits.
    """

    def __init__(self, tables: StoryTables) -> None:
        """Start from the empty window, which knows the stationary law only."""
        self._tables = tables
        self._arcs: list[list[tuple[int, int, float, int]]] = [[] for _ in tables.place_share]
        columns = (tables.arc_from, tables.arc_form, tables.arc_token, tables.arc_chance)
        for place, *arc in zip(*(c.tolist() for c in (*columns, tables.arc_to)), strict=True):
            self._arcs[place].append(tuple(arc))
        self._role_of = tables.form_role.tolist()
        self._alike = self._alike_values()
        self._says = [self._words_of(form) for form in range(len(tables.form_role))]
        self._everything = tuple(tables.all_values.tolist())
        self._renamed: dict[tuple[int, tuple[int, ...]], tuple[int, ...]] = {}
        self._number: dict[Belief, int] = {}
        self._beliefs: list[Belief] = []
        self._known: dict[int, tuple[float, list[tuple[int, float]]]] = {}
        self._losses: list[float] = []
        self._level: dict[int, float] = {}  # number of a belief -> chance of its windows

    def loss_nats(self, context_len: int) -> float:
        """Return the mean entropy of the next token after ``context_len`` tokens.

        Raises:
            AttnlabError: If more than ``MAX_BELIEFS`` beliefs would have to be kept.
        """
        if not self._level:
            shares = enumerate(self._tables.place_share.tolist())
            nothing_seen = tuple((place, self._everything, share) for place, share in shares)
            self._level = {self._number_of(nothing_seen): 1.0}
        while len(self._losses) <= context_len:
            self._climb()
        return self._losses[context_len]

    def _climb(self) -> None:
        """Score the windows at hand, then lengthen each by one token."""
        longer: dict[int, float] = defaultdict(float)
        terms = []
        for number, chance in self._level.items():
            if number not in self._known:
                self._known[number] = self._expand(self._beliefs[number])
            entropy, following = self._known[number]
            terms.append(chance * entropy)
            for next_number, p in following:
                longer[next_number] += chance * p
        # longer windows cannot do worse; the last bits of rounding could say so
        self._losses.append(min([fsum(terms), *self._losses[-1:]]))
        self._level = longer

    def _number_of(self, belief: Belief) -> int:
        """Return the number of a belief, a new one if it was never met."""
        if belief not in self._number:
            if len(self._beliefs) >= MAX_BELIEFS:
                raise AttnlabError(
                    f"The staircase is exact up to context_len={len(self._losses) - 1} here; "
                    f"further up there are more than {MAX_BELIEFS:,} different beliefs. Use "
                    "estimate_best_loss_nats(context_len=..., n_windows=..., seed=...), which "
                    "returns a mean and its standard error."
                )
            self._number[belief] = len(self._beliefs)
            self._beliefs.append(belief)
        return self._number[belief]

    def _expand(self, belief: Belief) -> tuple[float, list[tuple[int, float]]]:
        """Return the entropy of the next token, and the beliefs after it with their chances."""
        by_token: dict[int, dict[tuple[int, tuple[int, ...]], float]] = {}
        for place, possible, weight in belief:
            for token, to, values, p in self._ways_on(place, possible):
                target = by_token.setdefault(token, {})
                target[to, values] = target.get((to, values), 0.0) + weight * p
        chances = {token: fsum(target.values()) for token, target in by_token.items()}
        following: dict[int, float] = defaultdict(float)
        for token, target in by_token.items():
            following[self._number_of(self._canonical(target, chances[token]))] += chances[token]
        return -fsum(p * log(p) for p in chances.values()), list(following.items())

    def _ways_on(
        self, place: int, possible: tuple[int, ...]
    ) -> list[tuple[int, int, tuple[int, ...], float]]:
        """Return token, next place, values still possible, and chance of each way on."""
        ways = []
        for form, own_token, chance, to in self._arcs[place]:
            if not form:
                ways.append((own_token, to, possible if to else self._everything, chance))
                continue
            role = self._role_of[form]
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
        if len(rows) > 1:
            rows.sort(key=lambda row: (row[0], [v.bit_count() for v in row[1]], row[2]))
        columns = [
            self._rename(role, sets)
            for role, sets in enumerate(zip(*(values for _, values, _ in rows), strict=True))
        ]
        renamed = zip(*columns, strict=True)
        return tuple((q, v, w) for (q, _, w), v in zip(rows, renamed, strict=True))

    def _rename(self, role: int, sets: tuple[int, ...]) -> tuple[int, ...]:
        """Reorder alike values by the sets they belong to; every set keeps its size."""
        if (role, sets) not in self._renamed:
            renamed = [0] * len(sets)
            for members in self._alike[role]:
                belongs = sorted(
                    ([s >> value & 1 for s in sets] for value in members), reverse=True
                )
                for value, bits in zip(members, belongs, strict=True):
                    for i, bit in enumerate(bits):
                        renamed[i] |= bit << value
            self._renamed[role, sets] = tuple(renamed)
        return self._renamed[role, sets]

    def _words_of(self, form: int) -> list[tuple[int, int]]:
        """Return each word of a form with the set of values that say it."""
        sets = self._tables.form_values[form].tolist()
        return [(token, values) for token, values in enumerate(sets) if values]

    def _alike_values(self) -> list[list[list[int]]]:
        """Group the values of each role that can swap places without a trace.

        Two values are alike if, form by form, they have the same word or each has a word
        of its own: one that means this value in this form and nothing else.
        """
        t = self._tables
        n_values = t.n_values[t.form_role].tolist()
        words = [row[:n] for row, n in zip(t.form_token.tolist(), n_values, strict=True)]
        meanings = Counter(token for row in words[1:] for token in row)
        meanings.update(t.arc_token[t.arc_form == 0].tolist())
        alike = []
        for role, n in enumerate(t.n_values.tolist()):
            forms = [row for row, of in zip(words, self._role_of, strict=True) if of == role]
            groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
            for value in range(n):
                shared = tuple(-1 if meanings[row[value]] == 1 else row[value] for row in forms)
                groups[shared].append(value)
            alike.append(list(groups.values()))
        return alike
