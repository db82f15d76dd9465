"""A story machine as arrays, and the checks that its text gives away every hidden choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.sources.script import Arc

Roles = Mapping[str, Mapping[str, Sequence[str]]]  # role -> form -> a word for each value
MAX_VALUES = 30  # a set of values is one integer of bits


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
    place_share: NDArray[np.float64]  # (n_places,), stationary law before the next token
    mean_tale_len: float  # expected number of tokens, the end token included

    @property
    def all_values(self) -> NDArray[np.int64]:
        """The set of all values of each role, as bits: ``(n_roles,)``."""
        return (1 << self.n_values) - 1


def compile_story(
    places: Sequence[Sequence[Arc]], roles: Roles, symbols: Sequence[str]
) -> StoryTables:
    """Write the places of a script as arrays; token ``i`` is ``symbols[i]``."""
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    pairs = [(role, form) for role, forms in roles.items() for form in forms]
    form_of = {pair: i + 1 for i, pair in enumerate(pairs)}
    words = [[]] + [[ids[word] for word in roles[role][form]] for role, form in pairs]
    arcs = [(place, arc) for place, leaving in enumerate(places) for arc in leaving]
    arc_form = np.array([form_of.get(arc.label, 0) for _, arc in arcs])
    arc_token = np.array([ids.get(arc.label, 0) for _, arc in arcs])
    form_values = _values_by_token(words, len(symbols))
    visits = _mean_visits(places)
    return StoryTables(
        arc_from=np.array([place for place, _ in arcs]),
        arc_chance=np.array([arc.chance for _, arc in arcs]),
        arc_form=arc_form,
        arc_token=arc_token,
        arc_to=np.array([arc.to for _, arc in arcs]),
        arc_at=_arc_by_token(arcs, arc_form, arc_token, form_values, symbols),
        form_role=np.array([0] + [list(roles).index(role) + 1 for role, _ in pairs]),
        form_token=np.array([row + [0] * (MAX_VALUES - len(row)) for row in words]),
        form_values=form_values,
        n_values=np.array([1] + [count_values(forms) for forms in roles.values()]),
        place_share=visits / visits.sum(),
        mean_tale_len=float(visits.sum()),
    )


def list_symbols(
    places: Sequence[Sequence[Arc]], roles: Roles, *, end: str, extra: Iterable[str] = ()
) -> list[str]:
    """Return the vocabulary: the end token, then all words in alphabetical order."""
    said = {word for forms in roles.values() for words in forms.values() for word in words}
    plain = {arc.label for leaving in places for arc in leaving if isinstance(arc.label, str)}
    return [end, *sorted((said | plain | set(extra)) - {end})]


def count_values(forms: Mapping[str, Sequence[str]]) -> int:
    """Return how many values a role has."""
    return len(next(iter(forms.values())))


def is_telling(words: Sequence[str]) -> bool:
    """Return whether each value has a word of its own, so that the word tells the value."""
    return len(set(words)) == len(words)


def check_story(places: Sequence[Sequence[Arc]], roles: Roles) -> None:
    """Refuse roles or words that would leave a hidden choice untold.

    Raises:
        AttnlabError: Forms of unequal length, too many values, an unknown role or form, or a
            role that a tale may never tell.
    """
    for role, forms in roles.items():
        lengths = {form: len(words) for form, words in forms.items()}
        if len(set(lengths.values())) != 1 or not 1 <= min(lengths.values()) <= MAX_VALUES:
            raise AttnlabError(
                f"Role {role!r} has forms with {lengths} words. Every form needs one word for "
                f"each value of the role, between 1 and {MAX_VALUES} of them."
            )
    labels = {arc.label for leaving in places for arc in leaving}
    known = [f"{role}.{form}" for role, forms in roles.items() for form in forms]
    for label in sorted(label for label in labels if isinstance(label, tuple)):
        if ".".join(label) not in known:
            raise UnknownNameError(
                "role form", ".".join(label), known, next_step="Add it to the roles of the script."
            )
    for role, forms in roles.items():
        telling = {(role, form) for form, words in forms.items() if is_telling(words)}
        if count_values(forms) > 1 and _can_end_without(places, telling):
            raise AttnlabError(
                f"A tale can end without telling the value of role {role!r}. Name it in a line "
                "that is never skipped, in a form whose words all differ."
            )


def _can_end_without(places: Sequence[Sequence[Arc]], telling: set[tuple[str, str]]) -> bool:
    seen, to_visit = {0}, [0]
    while to_visit:
        for arc in places[to_visit.pop()]:
            if arc.label in telling:
                continue
            if arc.to == 0:
                return True
            if arc.to not in seen:
                seen.add(arc.to)
                to_visit.append(arc.to)
    return False


def _mean_visits(places: Sequence[Sequence[Arc]]) -> NDArray[np.float64]:
    """Return how often a tale is at each place: the start once, others by balance."""
    balance = np.eye(len(places))
    for place, leaving in enumerate(places):
        for arc in leaving:
            if arc.to != 0:
                balance[arc.to, place] -= arc.chance
    return np.linalg.solve(balance, np.eye(len(places))[0])


def _values_by_token(words: Sequence[Sequence[int]], vocab_size: int) -> NDArray[np.int64]:
    sets = np.zeros((len(words), vocab_size), dtype=np.int64)
    sets[0] = 1
    for form, row in enumerate(words):
        for value, token in enumerate(row):
            sets[form, token] |= 1 << value
    return sets


def _arc_by_token(
    arcs: Sequence[tuple[int, Arc]],
    arc_form: NDArray[np.int64],
    arc_token: NDArray[np.int64],
    form_values: NDArray[np.int64],
    symbols: Sequence[str],
) -> NDArray[np.int64]:
    """Note which arc of each place can say a token; two for one token leave two ways open."""
    arc_at = np.full((arcs[-1][0] + 1, len(symbols)), -1, dtype=np.int64)
    for i, (place, _) in enumerate(arcs):
        said = np.flatnonzero(form_values[arc_form[i]]) if arc_form[i] else arc_token[[i]]
        clash = said[arc_at[place, said] >= 0]
        if len(clash):
            raise AttnlabError(
                f"After the same words, {symbols[clash[0]]!r} may come from two parts of the "
                "script, so the text hides a choice. Use another word in one of them."
            )
        arc_at[place, said] = i
    return arc_at
