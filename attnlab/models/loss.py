"""The loss of a large vocabulary without its logits: linear map and cross-entropy in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlab.config import is_number
from attnlab.errors import AttnlabError, shorten
from attnlab.models.blocks import require_ids

ROWS_AT_ONCE = 1024


def linear_cross_entropy(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    reduction: str = "mean",
    rows_at_once: int = ROWS_AT_ONCE,
) -> Tensor:
    r"""Return ``cross_entropy(features @ weight.T, targets)`` in nats.

    .. math:: L = -\frac{1}{n} \sum_i \Bigl(z_{i, y_i} - \log \sum_v e^{z_{iv}}\Bigr),\ z_i = E f_i

    Rows go through in chunks, and the gradient of a chunk is formed while its logits are
    there, so no ``(tokens, vocabulary)`` tensor ever exists.

    Shapes:
        features: ``(..., d_model)``; weight: ``(vocab_size, d_model)``; targets: ``(...)``.
        Returns a scalar, or the shape of ``targets`` for ``reduction="none"`` (no gradient).
    Raises:
        AttnlabError: Targets of another shape than the predictions, or outside the vocabulary.
    """
    if not isinstance(reduction, str) or reduction not in ("mean", "none"):
        raise AttnlabError(f"reduction={shorten(reduction)} is not one of mean, none.")
    _require_targets(features, targets, vocab_size=weight.shape[0])
    rows, labels = features.flatten(0, -2), targets.flatten()
    if reduction == "none":
        with torch.no_grad():
            losses = [
                F.cross_entropy(_at_least_float32(F.linear(f, weight)), y, reduction="none")
                for f, y in zip(rows.split(rows_at_once), labels.split(rows_at_once), strict=True)
            ]
        return torch.cat(losses).view_as(targets)
    return _LinearCrossEntropy.apply(rows, weight, labels, rows_at_once)  # type: ignore[no-any-return]


def linear_distillation(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    taught: Tensor,
    taught_weight: Tensor,
    share: float = 0.5,
    temperature: float = 1.0,
    rows_at_once: int = ROWS_AT_ONCE,
) -> tuple[Tensor, Tensor]:
    r"""Return how far a model is from a teacher's distribution and from the right tokens.

    .. math:: L = \lambda \tau^2\, \mathrm{KL}\bigl(p^\tau \| q^\tau\bigr)
                  - (1 - \lambda) \log q_{y}

    with q of the model, p of the teacher, both a softmax of logits over :math:`\tau`, in the
    mean over tokens. As in ``linear_cross_entropy`` no ``(tokens, vocabulary)`` tensor exists.

    Shapes:
        features, taught: ``(n, d_model)``, what the two heads read; targets: ``(n,)``. Returns
        two scalars: what is minimised, and the plain loss in nats, which has no gradient.
    Args:
        weight, taught_weight: Of the two heads, ``(vocab_size, d_model)``; the second is given.
        share: Of the teacher, 0 to 1.
        temperature: Above 1 the teacher's less likely tokens count for more.
    Source:
        arXiv:1503.02531, section 2.
    """
    if not is_number(share, float) or not 0 <= share <= 1:
        raise AttnlabError(f"share={shorten(share)} must be a number from 0 to 1.")
    if not is_number(temperature, float) or temperature <= 0:
        raise AttnlabError(f"temperature={shorten(temperature)} must be positive; 1 is usual.")
    _require_targets(features, targets, vocab_size=weight.shape[0])
    how = (taught.detach(), taught_weight.detach(), float(share), float(temperature), rows_at_once)
    return _LinearDistillation.apply(features, weight, targets, *how)  # type: ignore[no-any-return]


def _require_targets(features: Tensor, targets: Tensor, *, vocab_size: int) -> None:
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64:
        got = targets.dtype if isinstance(targets, Tensor) else type(targets).__name__
        raise AttnlabError(f"Targets are token ids of torch.long; got {got}. Convert with .long().")
    if features.shape[:-1] != targets.shape:
        raise AttnlabError(
            f"There are predictions for {tuple(features.shape[:-1])} tokens and targets for "
            f"{tuple(targets.shape)}. Inputs are tokens[:, :-1], targets tokens[:, 1:]."
        )
    require_ids(targets, vocab_size=vocab_size, kind="Target", whose="model's")


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _LinearCrossEntropy(torch.autograd.Function):
    """Forward forms the gradients too; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, rows_at_once: int
    ) -> Tensor:
        """Return the mean loss; keep what backward needs if anything needs it."""
        needs_features, needs_weight = ctx.needs_input_grad[:2]
        d_features = torch.empty_like(features) if needs_features else None
        d_weight = torch.zeros_like(weight) if needs_weight else None
        total = _at_least_float32(features.new_zeros(()))
        chunks = torch.arange(features.shape[0], device=features.device).split(rows_at_once)
        operands = weight.to(features.dtype)
        for rows in (slice(int(c[0]), int(c[-1]) + 1) for c in chunks):
            logits = F.linear(features[rows], operands).to(total.dtype)  # (R, V)
            labels = targets[rows][:, None]
            shifted = logits.sub_(logits.amax(-1, keepdim=True))
            of_label = shifted.gather(-1, labels)
            error = shifted.exp_()  # becomes softmax minus one-hot, in the same memory
            partition = error.sum(-1, keepdim=True)
            total += (partition.log() - of_label).sum()
            if d_features is None and d_weight is None:
                continue
            error.div_(partition)
            error.scatter_add_(-1, labels, error.new_full(labels.shape, -1.0))
            error = error.to(features.dtype)
            if d_features is not None:
                d_features[rows] = error @ operands
            if d_weight is not None:
                d_weight += error.mT @ features[rows]
        ctx.n_rows = features.shape[0]
        ctx.save_for_backward(d_features, d_weight)
        return total / ctx.n_rows

    @staticmethod
    def backward(
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Scale the gradients that forward left."""
        scale = grad_outputs[0] / ctx.n_rows
        d_features, d_weight = ctx.saved_tensors
        return (
            None if d_features is None else d_features * scale.to(d_features.dtype),
            None if d_weight is None else d_weight * scale.to(d_weight.dtype),
            None,
            None,
        )


class _LinearDistillation(torch.autograd.Function):
    """The same with a second distribution to come near."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, *how: Any) -> Any:
        """Return what is minimised and the plain loss; keep what backward needs."""
        taught, taught_weight, share, temperature, rows_at_once = how
        d_features = torch.empty_like(features)
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        total = plain = _at_least_float32(features.new_zeros(()))
        for rows in torch.arange(len(features)).split(rows_at_once):
            rows = slice(int(rows[0]), int(rows[-1]) + 1)
            logits = _at_least_float32(F.linear(features[rows], weight))  # (R, V)
            given = _at_least_float32(F.linear(taught[rows], taught_weight)) / temperature
            given, own = given.log_softmax(-1), logits.log_softmax(-1)
            soft = own if temperature == 1 else (logits / temperature).log_softmax(-1)
            labels, p = targets[rows][:, None], given.exp()
            surprise = -own.gather(-1, labels).sum()
            plain = plain + surprise
            gap = torch.dot(p.flatten(), (given - soft).flatten())
            total = total + share * temperature**2 * gap + (1 - share) * surprise
            error = soft.exp().sub_(p).mul_(share * temperature).add_(own.exp(), alpha=1 - share)
            error.scatter_add_(-1, labels, error.new_full(labels.shape, share - 1))
            error = error.to(features.dtype)
            d_features[rows] = error @ weight
            if d_weight is not None:
                d_weight += error.mT @ features[rows]
        ctx.n_rows = len(features)
        ctx.save_for_backward(d_features, d_weight)
        plain = plain / ctx.n_rows
        ctx.mark_non_differentiable(plain)
        return total / ctx.n_rows, plain

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that forward left."""
        scale = grad_outputs[0] / ctx.n_rows
        gradients = (g if g is None else g * scale.to(g.dtype) for g in ctx.saved_tensors)
        return (*gradients, *[None] * 6)
