"""Exact filtering: what a window of tokens says about the hidden state of a story machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnlab.errors import AttnlabError
from attnlab.sources.base import surprise_nats
from attnlab.sources.compiled import StoryTables

ROWS_AT_ONCE = 4096  # windows filtered together; bounds the memory of the first step


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
        return Belief(
            row=self.row[keep],
            place=self.place[keep],
            possible=self.possible[keep],
            weight=self.weight[keep],
        )


class StoryFilter:
    """The forward algorithm of a story machine, for many windows at once."""

    def __init__(self, tables: StoryTables) -> None:
        """Filter with these tables."""
        self._tables = tables

    def losses(self, tokens: NDArray[np.int64], *, end: int) -> NDArray[np.float64]:
        """Return the surprise at each token but the first: ``(batch, time)`` to one less.

        A window is cut after each end token, where the hidden state is known; the pieces
        are then filtered side by side.
        """
        batch, time = tokens.shape
        flat = tokens.ravel()
        is_first = np.zeros(flat.shape, dtype=bool)
        is_first[::time] = True
        starts = np.flatnonzero(is_first | np.concatenate([[False], flat[:-1] == end]))
        lengths = np.diff(np.append(starts, len(flat)))
        chance = np.zeros(flat.shape)
        for at_start in (False, True):
            rows = np.flatnonzero(is_first[starts] != at_start)
            for part in np.split(rows, range(ROWS_AT_ONCE, len(rows), ROWS_AT_ONCE)):
                self._run(flat, starts[part], lengths[part], chance, at_start=at_start)
        return surprise_nats(chance.reshape(batch, time)[:, 1:])

    def predict(self, tokens: NDArray[np.int64], *, at_start: bool) -> NDArray[np.float64]:
        """Return the law of the token after ``tokens``, which hold no end token.

        Raises:
            AttnlabError: If the machine cannot have written them.
        """
        t = self._tables
        chance = np.zeros(len(tokens))
        if len(tokens):
            zero = np.zeros(1, dtype=np.int64)
            belief = self._run(tokens, zero, zero + len(tokens), chance, at_start=at_start)
        else:
            belief = self._prior(at_start=at_start)
        if not len(belief.row):
            raise AttnlabError(
                f"This source cannot have written token {int(np.argmin(chance > 0))} of the "
                f"{len(tokens)} given after the words before it. Ask about text it can write; "
                "oracle_nats gives such text an infinite loss."
            )
        arc = t.arc_at[belief.place]  # (n, vocab_size)
        form = t.arc_form[arc]
        role = t.form_role[form]
        known = np.take_along_axis(belief.possible, role, axis=1)
        fits = np.bitwise_count(known & t.form_values[form, np.arange(arc.shape[1])])
        chances = np.where(arc >= 0, t.arc_chance[arc] * fits / np.bitwise_count(known), 0.0)
        law = belief.weight @ chances
        return law / law.sum()

    def _run(
        self,
        flat: NDArray[np.int64],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        chance: NDArray[np.float64],
        *,
        at_start: bool,
    ) -> Belief:
        """Filter pieces of ``flat`` side by side and write the chance of each token."""
        belief = self._first_belief(flat[starts], at_start=at_start)
        for t in range(max(lengths, default=0)):
            if lengths.min() <= t:
                belief = belief.take(lengths[belief.row] > t)
            if not len(belief.row):
                break
            belief, total = self._step(belief, flat[starts[belief.row] + t], len(starts))
            alive = lengths > t
            chance[starts[alive] + t] = total[alive]
        return belief

    def _prior(self, *, at_start: bool) -> Belief:
        """Return the belief about one window before any token."""
        shares = np.ones(1) if at_start else self._tables.place_share
        return Belief(
            row=np.zeros(len(shares), dtype=np.int64),
            place=np.arange(len(shares)),
            possible=np.tile(self._tables.all_values, (len(shares), 1)),
            weight=shares,
        )

    def _first_belief(self, first_token: NDArray[np.int64], *, at_start: bool) -> Belief:
        """Return the belief before the first token, without places that cannot say it."""
        t = self._tables
        if at_start:
            row = np.arange(len(first_token))
            place = np.zeros_like(row)
        else:
            row, place = np.nonzero(t.arc_at[:, first_token].T >= 0)
        weight = np.ones(len(row)) if at_start else t.place_share[place]
        possible = np.tile(t.all_values, (len(row), 1))
        return Belief(row=row, place=place, possible=possible, weight=weight)

    def _step(
        self, belief: Belief, token: NDArray[np.int64], n_rows: int
    ) -> tuple[Belief, NDArray[np.float64]]:
        """Condition on one token a row; return the belief and the chance of each row's token.

        Pieces end with their tale, so no belief ever has to cast the roles anew.
        """
        t = self._tables
        arc = t.arc_at[belief.place, token]
        form = t.arc_form[arc]
        role = t.form_role[form]
        index = np.arange(len(arc))
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
