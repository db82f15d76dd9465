"""Transition matrices: what a valid one is, where it settles, how much it surprises."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError
from attnlab.sources.base import entropy_nats

ROW_TOLERANCE = 1e-8


def check_transition(transition: ArrayLike, *, name: str = "The matrix") -> NDArray[np.float64]:
    """Return the matrix as float64 with rows that sum to one, or say which entry is wrong.

    Shapes:
        transition: ``(n_states, n_states)``; returns the same.
    Raises:
        AttnlabError: Not square, not finite, a negative entry, or a row sum other than one.
    """
    try:
        matrix = np.array(transition, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise AttnlabError(
            f"{name} is no table of numbers: {_row_lengths(transition)}. A transition matrix is "
            "square, one row and one column a state. Did a row lose an entry?"
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


def _row_lengths(rows: object) -> str:
    lengths = (
        [len(row) for row in rows if hasattr(row, "__len__")] if hasattr(rows, "__iter__") else []
    )
    return (
        f"{len(lengths)} rows of lengths {', '.join(map(str, lengths))}" if lengths else repr(rows)
    )
