"""Story machines: hidden Markov sources whose state is a place in a script and a cast of roles.

From top to bottom: what a script may say, the machine as arrays, the source that tells and
predicts, and its exact staircase.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, log

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.sources.base import Source, check_count, surprise_nats

END = "<end>"
MAX_PLACES = 20_000  # of a script
MAX_VALUES = 30  # of a role: a set of values is one integer of bits
ROWS_AT_ONCE = 4096  # windows filtered together; bounds the memory of the first step
MAX_BELIEFS = 150_000  # different beliefs that a staircase keeps; about a kilobyte each

Label = str | tuple[str, str]  # a word, or (role, form)
Roles = Mapping[str, Mapping[str, Sequence[str]]]  # role -> form -> a word for each value
PIECE = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^\s\[\]{}]+")


@dataclass(frozen=True)
class Then:
    """Say the parts one after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Choose:
    """Say one of the options, with these chances."""

    options: tuple[Node, ...]
    chances: tuple[float, ...]


@dataclass(frozen=True)
class Again:
    """Say the body once, then once more with chance ``p_again``, and so on."""

    body: Node
    p_again: float

    def __post_init__(self) -> None:
        """Refuse a loop that could turn without a word, or for ever."""
        if not 0 <= self.p_again < 1 or _may_be_silent(self.body):
            raise AttnlabError(
                f"A part said again with chance {self.p_again} must say at least one word each "
                "time, and the chance must be below 1. To leave it out, choose around the loop."
            )


Node = Label | Then | Choose | Again


@dataclass(frozen=True)
class Arc:
    """One way to go on from a place: what is said, how likely, and where it leads."""

    label: Label
    chance: float
    to: int


def _may_be_silent(node: Node) -> bool:
    if isinstance(node, Then):
        return all(map(_may_be_silent, node.parts))
    return isinstance(node, Choose) and any(map(_may_be_silent, node.options))


def line(text: str) -> Then:
    """Read one line: words, roles in braces, even choices in brackets.

    ``"{hero.she} [ran|went slowly] home ."`` says a form of a role, one of two ways to go,
    two words. ``{hero}`` is short for ``{hero.name}``; an empty choice says nothing.
    """
    parts: list[Node] = []
    for piece in PIECE.findall(text):
        if piece[0] == "{":
            role, _, form = piece[1:-1].partition(".")
            parts.append((role, form or "name"))
        elif piece[0] == "[":
            options = tuple(line(option) for option in piece[1:-1].split("|"))
            parts.append(Choose(options, (1 / len(options),) * len(options)))
        else:
            parts.append(piece)
    return Then(tuple(parts))


def one_of(*texts: str, skip: float = 0.0) -> Choose:
    """Choose one of the lines evenly; with chance ``skip`` say nothing."""
    chances = ((1 - skip) / len(texts),) * len(texts)
    options: tuple[Node, ...] = tuple(map(line, texts))
    return Choose((*options, Then(())), (*chances, skip)) if skip else Choose(options, chances)


def determine(script: Node, *, end: str) -> list[list[Arc]]:
    """Turn a script into places with at most one arc a label.

    A place is the law of where in the script one can be after the labels so far; options
    that begin alike share places until they part.

    Returns:
        For each place its arcs, chances summing to one. Place 0 starts a tale; the arcs
        labelled ``end`` lead back to it.
    """
    steps = _Steps()
    last = steps.add(script, steps.new())
    steps.link(last, 1.0, end, 0)
    start = ((0, 1.0),)
    index = {start: 0}
    places: list[list[Arc]] = []
    for place in (order := [start]):
        places.append([])
        for label, chance, following in _moves(steps, place):
            if following not in index:
                index[following] = len(order)
                order.append(following)
            places[-1].append(Arc(label, chance, index[following]))
        if len(places) > MAX_PLACES:
            raise AttnlabError(
                f"The script needs more than {MAX_PLACES:,} places. Two loops that say the same "
                "words are the usual cause; let them begin differently."
            )
    return places


class _Steps:
    """A graph of points with labelled and silent links, each with its chance."""

    def __init__(self) -> None:
        self.links: list[list[tuple[float, Label | None, int]]] = []

    def new(self) -> int:
        self.links.append([])
        return len(self.links) - 1

    def link(self, start: int, chance: float, label: Label | None, to: int) -> None:
        if chance > 0:
            self.links[start].append((chance, label, to))

    def add(self, node: Node, start: int) -> int:
        """Add a node after point ``start``; return the point after it."""
        if isinstance(node, Then):
            for part in node.parts:
                start = self.add(part, start)
            return start
        after = self.new()
        if isinstance(node, Choose):
            for option, chance in zip(node.options, node.chances, strict=True):
                first = self.new()
                self.link(start, chance, None, first)
                self.link(self.add(option, first), 1.0, None, after)
        elif isinstance(node, Again):
            first = self.new()
            self.link(start, 1.0, None, first)
            last = self.add(node.body, first)
            self.link(last, node.p_again, None, first)
            self.link(last, 1 - node.p_again, None, after)
        else:
            self.link(start, 1.0, node, after)
        return after

    def labelled(self, point: int, chance: float) -> list[tuple[float, Label, int]]:
        """Follow silent links to the labelled ones."""
        found = []
        for p, label, to in self.links[point]:
            if label is None:
                found += self.labelled(to, chance * p)
            else:
                found.append((chance * p, label, to))
        return found


def _moves(
    steps: _Steps, place: Sequence[tuple[int, float]]
) -> list[tuple[Label, float, tuple[tuple[int, float], ...]]]:
    """Return each label that can follow, its chance, and the place it leads to."""
    by_label: dict[Label, dict[int, float]] = {}
    for point, share in place:
        for chance, label, to in steps.labelled(point, share):
            target = by_label.setdefault(label, {})
            target[to] = target.get(to, 0.0) + chance
    total = sum(sum(target.values()) for target in by_label.values())
    moves = []
    for label, target in by_label.items():
        chance = sum(target.values())
        # rounded, so that two ways to the same place meet in spite of the last bits
        following = tuple(sorted((to, round(p / chance, 12)) for to, p in target.items()))
        moves.append((label, chance / total, following))
    return moves


@dataclass(frozen=True, kw_only=True, eq=False)
class StoryTables:
    """A story machine as arrays; role 0 and form 0 stand for a plain word.

    Places count from 0, the start of a tale. An arc leaves a place, says one token and
    enters the next place; the token is its own, or the form of a role's hidden value.
    """

    arc_from: NDArray[np.int64]  # (n_arcs,), rising
    arc_chance: NDArray[np.float64]  # (n_arcs,), sums to one over the arcs of a place
    arc_form: NDArray[np.int64]  # (n_arcs,)
    arc_token: NDArray[np.int64]  # (n_arcs,), used where the form is 0
    arc_to: NDArray[np.int64]  # (n_arcs,)
    arc_at: NDArray[np.int64]  # (n_places, vocab_size), the arc that can say a token, or -1
    form_role: NDArray[np.int64]  # (n_forms,)
    form_token: NDArray[np.int64]  # (n_forms, largest number of values)
    form_values: NDArray[np.int64]  # (n_forms, vocab_size), set of values that say a token
    n_values: NDArray[np.int64]  # (n_roles,)
    all_values: NDArray[np.int64]  # (n_roles,), the set of all values as bits
    place_share: NDArray[np.float64]  # (n_places,), stationary law before the next token
    mean_tale_len: float  # expected number of tokens, the end token included


def compile_story(
    places: Sequence[Sequence[Arc]], roles: Roles, symbols: Sequence[str]
) -> StoryTables:
    """Write the places of a script as arrays; token ``i`` is ``symbols[i]``.

    Raises:
        AttnlabError: Two arcs of a place can say the same token, which leaves two ways open.
    """
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    pairs = [(role, form) for role, forms in roles.items() for form in forms]
    form_of = {pair: i + 1 for i, pair in enumerate(pairs)}
    words = [[]] + [[ids[word] for word in roles[role][form]] for role, form in pairs]
    arcs = [(place, arc) for place, leaving in enumerate(places) for arc in leaving]
    arc_form = np.array([form_of.get(arc.label, 0) for _, arc in arcs])
    arc_token = np.array([ids.get(arc.label, 0) for _, arc in arcs])
    form_values = np.zeros((len(words), len(symbols)), dtype=np.int64)
    form_values[0] = 1
    for form, row in enumerate(words):
        for value, token in enumerate(row):
            form_values[form, token] |= 1 << value
    arc_at = np.full((len(places), len(symbols)), -1)
    for i, (place, _) in enumerate(arcs):
        said = np.flatnonzero(form_values[arc_form[i]]) if arc_form[i] else arc_token[[i]]
        clash = said[arc_at[place, said] >= 0]
        if len(clash):
            raise AttnlabError(
                f"After the same words, {symbols[clash[0]]!r} may come from two parts of the "
                "script, so the text hides a choice. Use another word in one of them."
            )
        arc_at[place, said] = i
    n_values = np.array([1] + [len(next(iter(forms.values()))) for forms in roles.values()])
    visits = _mean_visits(places)
    return StoryTables(
        arc_from=np.array([place for place, _ in arcs]),
        arc_chance=np.array([arc.chance for _, arc in arcs]),
        arc_form=arc_form,
        arc_token=arc_token,
        arc_to=np.array([arc.to for _, arc in arcs]),
        arc_at=arc_at,
        form_role=np.array([0] + [list(roles).index(role) + 1 for role, _ in pairs]),
        form_token=np.array([row + [0] * (MAX_VALUES - len(row)) for row in words]),
        form_values=form_values,
        n_values=n_values,
        all_values=(1 << n_values) - 1,
        place_share=visits / visits.sum(),
        mean_tale_len=float(visits.sum()),
    )


def check_story(places: Sequence[Sequence[Arc]], roles: Roles) -> None:
    """Refuse roles or words that would leave a hidden choice untold.

    Raises:
        AttnlabError: Forms of unequal length, too many values, an unknown role or form, or a
            role that a tale may never tell.
    """
    labels = {arc.label for leaving in places for arc in leaving}
    known = [f"{role}.{form}" for role, forms in roles.items() for form in forms]
    for label in sorted(label for label in labels if isinstance(label, tuple)):
        if ".".join(label) not in known:
            raise UnknownNameError(
                "role form", ".".join(label), known, next_step="Add it to the roles of the script."
            )
    for role, forms in roles.items():
        lengths = {form: len(words) for form, words in forms.items()}
        if len(set(lengths.values())) != 1 or not 1 <= min(lengths.values()) <= MAX_VALUES:
            raise AttnlabError(
                f"Role {role!r} has forms with {lengths} words. Every form needs one word for "
                f"each value of the role, between 1 and {MAX_VALUES} of them."
            )
        telling = {(role, form) for form, words in forms.items() if len(set(words)) == len(words)}
        if min(lengths.values()) > 1 and _can_end_without(places, telling):
            raise AttnlabError(
                f"A tale can end without telling the value of role {role!r}. Name it in a line "
                "that is never skipped, in a form whose words all differ."
            )


def _can_end_without(places: Sequence[Sequence[Arc]], telling: set[tuple[str, str]]) -> bool:
    seen = [0]
    for place in seen:
        for arc in places[place]:
            if arc.label not in telling:
                if arc.to == 0:
                    return True
                seen += [arc.to] if arc.to not in seen else []
    return False


def _mean_visits(places: Sequence[Sequence[Arc]]) -> NDArray[np.float64]:
    """Return how often a tale is at each place: the start once, others by balance."""
    balance = np.eye(len(places))
    for place, leaving in enumerate(places):
        for arc in leaving:
            if arc.to != 0:
                balance[arc.to, place] -= arc.chance
    return np.linalg.solve(balance, np.eye(len(places))[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class Belief:
    """Hypotheses about many windows: the state of the forward algorithm, zeros left out.

    One hypothesis says: window ``row`` is at ``place``, and role ``r`` has one of the values
    in the set ``possible[:, r]``, all alike. Those facts suffice, because roles are drawn
    evenly and every word either fits a value or does not.
    """

    row: NDArray[np.int64]  # (n,)
    place: NDArray[np.int64]  # (n,)
    possible: NDArray[np.int64]  # (n, n_roles), sets as bits
    weight: NDArray[np.float64]  # (n,), sums to one over the hypotheses of a row

    def take(self, keep: NDArray[np.bool_]) -> Belief:
        """Return the hypotheses that are kept."""
        kept = {name: values[keep] for name, values in vars(self).items()}
        return Belief(**kept)


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
        mean_tale_len: Expected number of tokens in a tale, its end token included.
    """

    def __init__(self, script: Node, roles: Roles) -> None:
        """Compile a script and check that its text gives away every hidden choice.

        Args:
            script: What may be said, from ``line``, ``one_of``, ``Then``, ``Choose``, ``Again``.
            roles: For each role its forms, for each form its word for every value.

        Raises:
            AttnlabError: If a word leaves two ways open, or a role may stay untold.
        """
        places = determine(script, end=END)
        check_story(places, roles)
        said = {word for forms in roles.values() for words in forms.values() for word in words}
        plain = {arc.label for leaving in places for arc in leaving if isinstance(arc.label, str)}
        super().__init__([END, *sorted((said | plain) - {END})])
        self.roles = roles
        self.tables = compile_story(places, roles, self.symbols)
        self.n_places, self.mean_tale_len = len(places), self.tables.mean_tale_len
        self._staircase = _Staircase(self.tables)
        self._last_arc = np.cumsum(np.bincount(self.tables.arc_from)) - 1
        self._arc_edge = self._find_arc_edges()

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
        t, tokens = self.tables, self.check_sequence(tokens)
        ends = np.flatnonzero(tokens == self._ids[END])
        tokens = tokens[ends[-1] + 1 :] if len(ends) else tokens
        chance, lengths = np.zeros(len(tokens)), np.array([len(tokens)])
        belief = self._filter(tokens, lengths * 0, lengths, chance, at_start=len(ends) > 0)
        if not len(belief.row):
            raise AttnlabError(
                f"This source cannot have written token {int(np.argmin(chance > 0))} of the "
                f"{len(tokens)} given after the words before it. Ask about text it can write; "
                "oracle_nats gives such text an infinite loss."
            )
        arc = t.arc_at[belief.place]  # (n, vocab_size)
        form = t.arc_form[arc]
        known = np.take_along_axis(belief.possible, t.form_role[form], axis=1)
        fits = np.bitwise_count(known & t.form_values[form, np.arange(arc.shape[1])])
        chances = np.where(arc >= 0, t.arc_chance[arc] * fits / np.bitwise_count(known), 0.0)
        law = belief.weight @ chances
        return law / law.sum()

    def _losses(self, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the surprise at each token but the first: ``(batch, time)`` to one less.

        A window is cut after each end token, where the hidden state is known; the pieces
        are then filtered side by side.
        """
        flat = tokens.ravel()
        is_first = np.zeros(flat.shape, dtype=bool)
        is_first[:: tokens.shape[1]] = True
        follows_end = np.concatenate([[False], flat[:-1] == self._ids[END]])
        starts = np.flatnonzero(is_first | follows_end)
        lengths = np.diff(np.append(starts, len(flat)))
        chance = np.zeros(flat.shape)
        for at_start in (False, True):
            rows = np.flatnonzero(is_first[starts] != at_start)
            for part in np.split(rows, range(ROWS_AT_ONCE, len(rows), ROWS_AT_ONCE)):
                self._filter(flat, starts[part], lengths[part], chance, at_start=at_start)
        return surprise_nats(chance.reshape(tokens.shape)[:, 1:])

    def _filter(
        self,
        flat: NDArray[np.int64],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        chance: NDArray[np.float64],
        *,
        at_start: bool,
    ) -> Belief:
        """Filter pieces of ``flat`` side by side and write the chance of each token.

        The forward algorithm. Pieces end with their tale, so no belief has to cast roles anew.
        """
        t = self.tables
        can_say = np.ones((len(starts), self.n_places), dtype=bool)
        if at_start:
            can_say[:, 1:] = False
        elif lengths.any():  # places that cannot say the first token would be many
            can_say = t.arc_at[:, flat[starts]].T >= 0
        row, place = np.nonzero(can_say)
        belief = Belief(
            row=row,
            place=place,
            possible=np.tile(t.all_values, (len(row), 1)),
            weight=np.ones(len(row)) if at_start else t.place_share[place],
        )
        for step in range(lengths.max(initial=0)):
            if lengths.min() <= step:
                belief = belief.take(lengths[belief.row] > step)
            if not len(belief.row):
                break
            belief, total = self._condition(belief, flat[starts[belief.row] + step], len(starts))
            alive = lengths > step
            chance[starts[alive] + step] = total[alive]
        return belief

    def _condition(
        self, belief: Belief, token: NDArray[np.int64], n_rows: int
    ) -> tuple[Belief, NDArray[np.float64]]:
        """Condition on one token a row; return the belief and the chance of each row's token."""
        t = self.tables
        arc = t.arc_at[belief.place, token]
        form = t.arc_form[arc]
        role, index = t.form_role[form], np.arange(len(arc))
        before = belief.possible[index, role]
        after = before & t.form_values[form, token]
        share = np.bitwise_count(after) / np.bitwise_count(before)
        weight = np.where(arc >= 0, belief.weight * t.arc_chance[arc] * share, 0.0)
        total = np.bincount(belief.row, weight, minlength=n_rows)
        keep = weight > 0
        possible = belief.possible.copy()
        possible[index, role] = after
        weight[keep] /= total[belief.row[keep]]
        moved = Belief(row=belief.row, place=t.arc_to[arc], possible=possible, weight=weight)
        return moved.take(keep), total

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
            token, place = self._say(place, values[alive], generator)
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
            tokens[:, t], place = self._say(place, values, generator)
            fresh = np.flatnonzero(place == 0)
            values[fresh] = self._cast(len(fresh), generator)
        return tokens

    def _cast(self, n_tales: int, generator: np.random.Generator) -> NDArray[np.int64]:
        n_values = self.tables.n_values
        return generator.integers(0, n_values, size=(n_tales, len(n_values)))

    def _say(
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


# hypotheses (place, set of possible values of each role, weight): all one window tells
_Window = tuple[tuple[int, tuple[int, ...], float], ...]


class _Staircase:
    """The best loss for each length of context: all windows, those that tell the same merged.

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
        # each word of a form with the set of values that say it
        self._says = [
            [(token, values) for token, values in enumerate(sets) if values]
            for sets in tables.form_values.tolist()
        ]
        self._everything = tuple(tables.all_values.tolist())
        self._renamed: dict[tuple[int, tuple[int, ...]], tuple[int, ...]] = {}
        self._number: dict[_Window, int] = {}
        self._beliefs: list[_Window] = []
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

    def _number_of(self, belief: _Window) -> int:
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

    def _expand(self, belief: _Window) -> tuple[float, list[tuple[int, float]]]:
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

    def _canonical(self, target: dict[tuple[int, tuple[int, ...]], float], total: float) -> _Window:
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
