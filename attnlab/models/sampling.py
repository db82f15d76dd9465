"""From logits to a token: temperature, top-k and top-p."""

import torch
from torch import Tensor

from attnlab.errors import AttnlabError


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
        logits = logits.masked_fill(late.gather(-1, order.argsort(-1)), -torch.inf)
    return logits.softmax(-1)


def check_sampling(*, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise AttnlabError unless these are values that ``sample_token`` can work with."""
    if not temperature >= 0:
        raise AttnlabError(f"temperature={temperature} must be positive, or 0 for the likeliest.")
    if top_k is not None and top_k < 1:
        raise AttnlabError(f"top_k={top_k} keeps no token; use 1 or more, or None for all.")
    if top_p is not None and not 0 < top_p <= 1:
        raise AttnlabError(f"top_p={top_p} must lie in (0, 1]; 0.9 is usual, None keeps all.")
