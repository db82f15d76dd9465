"""What a notebook does with a model it trains live: watch the loss, read its rows by state."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from attnlab.config import ModelConfig, TrainConfig
from attnlab.errors import AttnlabError
from attnlab.models import LanguageModel
from attnlab.seeding import torch_generator
from attnlab.sources import ContextTreeSource, CountTable, kl_per_state
from attnlab.training import WindowBatches, train_steps

Tokens = NDArray[np.int64]


def train_live(
    config: ModelConfig, *, train: Tokens, held_out: Tokens, recipe: TrainConfig, every: int = 20
) -> tuple[LanguageModel, pd.DataFrame]:
    """Train one small model on a stream of tokens and score it now and then.

    Models of any mixer that share ``train`` and ``recipe.seed`` see the same batches.

    Shapes:
        train: ``(n_tokens,)``; held_out: ``(n_windows, context_len + 1)``.
    Args:
        config: The model; its mixer's name is the name of the curve.
        recipe: Steps, batch size, learning rate and seed.
        every: Steps between two scores.

    Returns:
        The model, and rows ``name``, ``seed``, ``tokens_seen``, ``loss_nats`` (held out).
    """
    model = LanguageModel(config, generator=torch_generator(recipe.seed, "init"))
    batches = WindowBatches(
        [train],
        context_len=config.context_len,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
    )
    points = [(0, held_out_nats(model, held_out))]
    for log in train_steps(model, batches.starting_at(0), config=recipe):
        if log.step % every == 0 or log.step == recipe.n_steps:
            points.append((log.tokens_seen, held_out_nats(model, held_out)))
    curve = pd.DataFrame(points, columns=["tokens_seen", "loss_nats"])
    return model, curve.assign(name=config.mixer, seed=recipe.seed)


@torch.no_grad()
def held_out_nats(model: LanguageModel, windows: Tokens) -> float:
    """Return the mean loss on windows ``(n_windows, time + 1)``, nats per predicted token.

    It scores the same tokens as ``source.oracle_nats(windows)``.
    """
    tokens = torch.from_numpy(np.ascontiguousarray(windows))
    return float(model.eval().loss(tokens[:, :-1], tokens[:, 1:]))


@torch.no_grad()
def next_token_rows(model: LanguageModel, windows: Tokens) -> NDArray[np.float64]:
    """Return the model's law of the next token after every prefix.

    Shapes:
        windows: ``(n_windows, time)``; returns ``(n_windows, time, vocab_size)``.
    """
    logits = model.eval()(torch.from_numpy(np.ascontiguousarray(windows)))
    return logits.double().softmax(-1).numpy()


def table_rows(table: CountTable, windows: Tokens) -> NDArray[np.float64]:
    """Return a count table's law of the next token after every prefix.

    Shapes:
        windows: ``(n_windows, time)``; returns ``(n_windows, time, vocab_size)``. The first
        ``order - 1`` places are even: too short to look anything up.
    """
    n_skipped = max(0, table.order - 1)
    rows = np.full((*windows.shape, table.vocab_size), 1.0 / table.vocab_size)
    codes = np.zeros((len(windows), windows.shape[1] - n_skipped), dtype=np.int64)
    for lag in range(table.order - 1, -1, -1):
        newest = windows.shape[1] - lag
        codes = codes * table.vocab_size + windows[:, newest - codes.shape[1] : newest]
    rows[:, n_skipped:] = table.rows[codes]
    return rows


def states_of(source: ContextTreeSource, windows: Tokens) -> Tokens:
    """Return the number of the source's state after every prefix.

    Shapes:
        windows: ``(n_windows, time)``; returns the same, an index into ``source.contexts``.
        The first ``source.depth - 1`` places of a window are -1: too short to tell.
    """
    depth, index = source.depth, {c: i for i, c in enumerate(source.contexts)}
    states = np.full(windows.shape, -1)
    for row, column in np.ndindex(windows.shape[0], windows.shape[1] - depth + 1):
        past = tuple(windows[row, column : column + depth].tolist())
        ends = (index[past[i:]] for i in range(depth) if past[i:] in index)
        states[row, column + depth - 1] = next(ends)
    return states


def kl_table(
    rows: Mapping[str, NDArray[np.float64]],
    *,
    truth: NDArray[np.float64],
    states: Tokens,
    names: list[str],
) -> pd.DataFrame:
    r"""Return how far each model is from the truth in each state, on held-out prefixes.

    .. math:: D_i = \operatorname{mean}_t \sum_j P_{ij} \log \frac{P_{ij}}{Q_{tj}}

    The mean runs over the prefixes that end in state i. Weighted by the shares it is what the
    model loses beyond the source.

    Shapes:
        rows: by model, ``(n_windows, time, vocab_size)``; states: ``(n_windows, time)``.
        truth: ``(n_states, vocab_size)``.
    Args:
        names: Names of the states.

    Returns:
        Rows ``name``, ``state``, ``share`` (of the prefixes), ``kl_nats``, ``n_prefixes``.
    """
    known = states >= 0
    if not known.any():
        raise AttnlabError("No window is long enough to tell a state. Use longer windows.")
    counts = np.bincount(states[known], minlength=len(truth))
    tables = []
    for name, probabilities in rows.items():
        kl = kl_per_state(truth, probabilities, states=states)
        table = {"name": name, "state": names, "share": counts / counts.sum(),
                 "kl_nats": kl, "n_prefixes": counts}  # fmt: skip
        tables.append(pd.DataFrame(table)[counts > 0])
    return pd.concat(tables, ignore_index=True)


def mean_rows(
    probabilities: NDArray[np.float64], states: Tokens, *, n_states: int
) -> NDArray[np.float64]:
    """Return the mean predicted row in each state: ``(n_states, vocab_size)``.

    A state that does not occur has a row of zeros.
    """
    known = states >= 0
    sums = np.zeros((n_states, probabilities.shape[-1]))
    np.add.at(sums, states[known], probabilities[known])
    counts = np.bincount(states[known], minlength=n_states)[:, None]
    return sums / np.maximum(counts, 1)
