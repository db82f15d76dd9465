"""From next-token logits to tokens: chance, greedy and beam search, sentences in lock step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attnlab.config import BOS, EOS, PAD, is_number
from attnlab.errors import AttnlabError, shorten

Step = Callable[[Tensor, Any], tuple[Tensor, Any]]  # tokens (n,), state -> logits (n, V), state

NEVER_WRITTEN = [PAD, BOS]
WIDEST = 1024  # beam
COLDEST = 1e-6  # logits divided by less overflow


@torch.no_grad()
def greedy_search(
    step: Step, state: Any, *, n_rows: int, max_len: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Write the likeliest next token until every sentence has ended.

    Sentences go in lock step; when half of them have ended, the others go on without them.

    Returns:
        Tokens ``(n_rows, time)``, each row up to and with ``EOS``, then ``PAD``.
    """
    newest = torch.full((n_rows,), BOS, device=device)
    tokens = torch.full((n_rows, max_len), PAD, device=newest.device)
    rows = torch.arange(n_rows, device=newest.device)
    has_ended = torch.zeros_like(newest, dtype=torch.bool)
    for t in range(max_len):
        logits, state = step(newest, state)
        newest = _allowed(logits).argmax(-1).masked_fill(has_ended, PAD)
        tokens[rows, t] = newest
        has_ended = has_ended | (newest == EOS)
        n_open = int((~has_ended).sum())
        if n_open == 0:
            return tokens[:, : t + 1]
        if 2 * n_open <= len(rows):
            stay = (~has_ended).nonzero()[:, 0]
            rows, newest, has_ended = rows[stay], newest[stay], has_ended[stay]
            state = select_rows(state, stay)
    return tokens


@torch.no_grad()
def beam_search(
    step: Step,
    state: Any,
    *,
    n_rows: int,
    beam_size: int,
    max_len: int,
    length_penalty: float = 0.6,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    r"""Keep the ``beam_size`` best beginnings of each sentence, ended ones among them.

    .. math:: \mathrm{score}(y) = \log P(y \mid x) \Big/ \Bigl(\frac{5 + |y|}{6}\Bigr)^{\alpha}

    An ended sentence stays in the beam with the score it has. ``|y|`` counts ``EOS``.

    Args:
        length_penalty: The exponent; 0 prefers short sentences, larger values longer ones.

    Returns:
        Tokens ``(n_rows, beam_size, time)`` and scores ``(n_rows, beam_size)``, best first.
    Source:
        arXiv:1609.08144, section 7, for the score.
    """
    first = torch.arange(n_rows, device=device)
    state = select_rows(state, first.repeat_interleave(beam_size))
    beams = _Beams(first, beam_size, max_len)
    for _ in range(max_len):
        logits, state = step(beams.newest, state)
        parents = beams.extend(_allowed(logits), length_penalty)
        if beams.have_ended:
            break
        state = select_rows(state, parents)
    return beams.tokens[..., : beams.time], beams.scores


def select_rows(state: Any, rows: Tensor) -> Any:
    """Return a state with these rows of the batch, in this order, each as often as it is named.

    Args:
        state: A tensor with the batch first, or a tuple of states; all else stays as it is.
        rows: Indices ``(n,)``.
    """
    if isinstance(state, Tensor):
        return state.index_select(0, rows)
    if not isinstance(state, tuple):
        return state
    parts = [select_rows(part, rows) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


class _Beams:
    """The beginnings that are kept: tokens ``(row, beam, time)`` and what belongs to each."""

    def __init__(self, first: Tensor, beam_size: int, max_len: int) -> None:
        sizes, device = (len(first), beam_size), first.device
        self.first_of_row = first[:, None] * beam_size
        self.tokens = torch.full((*sizes, max_len), PAD, device=device)
        self.log_p = torch.full(sizes, -torch.inf, device=device)
        self.log_p[:, 0] = 0.0  # all beams of a row start equal, so only one of them counts
        self.scores = self.log_p
        self.lengths = torch.zeros(sizes, dtype=torch.long, device=device)
        self.is_open = torch.ones(sizes, dtype=torch.bool, device=device)
        self.newest = torch.full((len(first) * beam_size,), BOS, device=device)
        self.time = 0

    @property
    def have_ended(self) -> bool:
        return not bool((self.is_open & self.log_p.isfinite()).any())

    def extend(self, logits: Tensor, length_penalty: float) -> Tensor:
        """Add one token to each beginning and keep the best; return whose state each needs."""
        n_rows, beam_size = self.log_p.shape
        log_next = logits.float().log_softmax(-1).view(n_rows, beam_size, -1)
        n_tokens = log_next.shape[-1]
        stay = torch.full_like(log_next[0, 0], -torch.inf)
        stay[PAD] = 0.0  # an ended sentence goes on with padding, at no cost
        log_p = self.log_p[..., None] + torch.where(self.is_open[..., None], log_next, stay)
        lengths = self.lengths + self.is_open
        scores = log_p / ((5 + lengths[..., None]) / 6) ** length_penalty
        self.scores, best = scores.flatten(1).topk(beam_size)
        parents, newest = best // n_tokens, best % n_tokens
        self.log_p = log_p.flatten(1).gather(1, best)
        self.lengths = lengths.gather(1, parents)
        self.is_open = self.is_open.gather(1, parents) & (newest != EOS)
        self.tokens = self.tokens.gather(1, parents[..., None].expand_as(self.tokens))
        self.tokens[..., self.time] = newest
        self.time += 1
        self.newest = newest.flatten()
        return (self.first_of_row + parents).flatten()


def check_search(*, beam_size: int, max_len: int, n_positions: int) -> None:
    """Raise AttnlabError unless these are values that a search can work with."""
    if not is_number(beam_size, int) or not 1 <= beam_size <= WIDEST:
        raise AttnlabError(
            f"beam_size={shorten(beam_size)} keeps no sentence, or too many; use 1 (greedy) to "
            f"{WIDEST}."
        )
    if not is_number(max_len, int) or not 1 <= max_len <= n_positions:
        raise AttnlabError(
            f"max_len={shorten(max_len)} is not within 1 to {n_positions}, the positions of this "
            "model. Leave it out to write as long as the model can."
        )


def _allowed(logits: Tensor) -> Tensor:
    """Rule out the tokens that no sentence holds."""
    never = torch.tensor(NEVER_WRITTEN, device=logits.device)
    return logits.index_fill(-1, never, -torch.inf)


def sample_token(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one token a row.

    Shapes:
        logits: ``(batch, vocab_size)``; returns ``(batch,)``.
    Raises:
        AttnlabError: A negative temperature, ``top_k`` below 1, ``top_p`` outside (0, 1].
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    _require_logits(logits, n_axes=2)
    if temperature == 0:
        return logits.argmax(-1)
    chances = token_chances(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    return torch.multinomial(chances, 1, generator=generator)[:, 0]


def token_chances(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Return the chances that ``sample_token`` draws from: ``(batch, vocab_size)``."""
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    _require_logits(logits, n_axes=logits.ndim if isinstance(logits, Tensor) else 0)
    if temperature == 0:
        raise AttnlabError("temperature=0 takes the likeliest token; there are no chances.")
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        best = logits.topk(top_k).indices
        keep = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, best, True)
        logits = logits.masked_fill(~keep, -torch.inf)
    if top_p is not None and top_p < 1:
        order = logits.argsort(-1, descending=True)
        share = logits.gather(-1, order).softmax(-1)
        late = share.cumsum(-1) - share >= top_p  # the sum before this token is enough already
        late[..., 0] = False  # however small top_p is
        logits = logits.masked_fill(late.gather(-1, order.argsort(-1)), -torch.inf)
    return logits.softmax(-1)


def _require_logits(logits: Tensor, *, n_axes: int) -> None:
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.ndim != n_axes:
        raise AttnlabError(
            f"Logits are a tensor (batch, vocab_size) of floating-point numbers; got "
            f"{shorten(logits)}."
        )
    if not logits.numel():
        raise AttnlabError("There are no logits to choose from.")


def check_sampling(*, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise AttnlabError unless these are values that ``sample_token`` can work with."""
    if not is_number(temperature, float) or not (temperature == 0 or temperature >= COLDEST):
        raise AttnlabError(
            f"temperature={shorten(temperature)} must be positive, at least {COLDEST:g}, or 0 for "
            "the likeliest."
        )
    if top_k is not None and not (is_number(top_k, int) and top_k >= 1):
        raise AttnlabError(
            f"top_k={shorten(top_k)} keeps no token; use 1 or more, or None for all."
        )
    if top_p is not None and not (is_number(top_p, float) and 0 < top_p <= 1):
        raise AttnlabError(
            f"top_p={shorten(top_p)} must lie in (0, 1]; 0.9 is usual, None keeps all."
        )
