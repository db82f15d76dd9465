"""Finite Markov chains: matrices with names, and sources that follow them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.paths import CHAINS
from attnlab.seeding import numpy_generator
from attnlab.sources.base import check_count
from attnlab.sources.context_tree import ContextTreeSource
from attnlab.sources.tables import fit_table, kl_per_state
from attnlab.sources.transition import check_transition, closed_classes, entropy_rate, stationary

__all__ = [
    "Chain",
    "MarkovSource",
    "closed_classes",
    "entropy_rate",
    "fit_table",
    "kl_per_state",
    "list_chains",
    "load_chain",
    "markov_chain",
    "random_chain",
    "ring_chain",
    "stationary",
]

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, kw_only=True, eq=False)
class Chain:
    """A transition matrix whose states have names; NumPy reads it as the matrix."""

    name: str
    description: str
    states: tuple[str, ...]  # full names, for pictures
    symbols: tuple[str, ...]  # short names, for text
    transition: NDArray[np.float64]  # (n_states, n_states)

    def __array__(self, dtype: object = None, copy: bool | None = None) -> NDArray[np.float64]:
        """Return the transition matrix."""
        return np.array(self.transition, dtype=dtype)


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


def load_chain(path: str | Path) -> Chain:
    """Read a chain from a JSON file, or by name from ``data/chains``.

    The file holds ``description`` (one line), ``states``, ``matrix`` (one row a state) and,
    if text should be shorter than the names of the states, ``symbols``.

    Raises:
        AttnlabError: No such file or name, no JSON, a missing key, or a matrix that is none.
    """
    file = _find_chain(path)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise AttnlabError(
            f"{file} is not JSON: {error.msg} in line {error.lineno}. "
            'It should read {"description": ..., "states": [...], "matrix": [[...], ...]}.'
        ) from error
    keys = ("description", "states", "matrix")
    missing = [key for key in keys if not isinstance(data, dict) or key not in data]
    if missing:
        raise AttnlabError(
            f"{file} lacks {', '.join(map(repr, missing))}. A chain file has the keys "
            f"{', '.join(keys)} and, if you like, symbols."
        )
    return _read_chain(data, name=file.stem)


def markov_chain(
    chain: ArrayLike | Chain | str | Path,
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
    if isinstance(chain, str | Path):
        chain = load_chain(chain)
    transition = check_transition(chain)
    if symbols is None:
        symbols = chain.symbols if isinstance(chain, Chain) else _name_states(len(transition))
    return MarkovSource(transition, symbols)


def _name_states(n_states: int) -> list[str]:
    return list(LETTERS[:n_states]) if n_states <= len(LETTERS) else list(map(str, range(n_states)))


def _find_chain(path: str | Path) -> Path:
    file = Path(path)
    if file.suffix == ".json" or file.parent != Path():
        if not file.is_file():
            raise AttnlabError(
                f"There is no chain file {file}. Check the path, or take one of the named "
                f"chains: {', '.join(list_chains())}."
            )
        return file
    if file.name not in list_chains():
        raise UnknownNameError(
            "chain",
            file.name,
            [*list_chains(), "ring", "random"],
            next_step=f"Or pass a path that ends in .json. Looked in {CHAINS}.",
        )
    return CHAINS / f"{file.name}.json"


def _read_chain(data: dict, *, name: str) -> Chain:
    transition = check_transition(data["matrix"], name=f"The matrix of chain {name!r}")
    states, symbols = data["states"], data.get("symbols", data["states"])
    for what, names in (("states", states), ("symbols", symbols)):
        if len(names) != len(transition):
            raise AttnlabError(
                f"Chain {name!r} names {len(names)} {what} for {len(transition)} rows. "
                "Name every row once."
            )
    stationary(transition)
    return Chain(
        name=name,
        description=data["description"],
        states=tuple(states),
        symbols=tuple(symbols),
        transition=transition,
    )
