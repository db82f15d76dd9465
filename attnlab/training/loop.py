"""The one training loop. It computes; others watch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from attnlab.config import TrainConfig
from attnlab.errors import AttnlabError, DivergenceError
from attnlab.models import LanguageModel, Translator
from attnlab.seeding import torch_generator
from attnlab.training.parallel import add_up, n_processes, own_part, rank
from attnlab.training.products import onednn_products

SPARED = (  # no weight decay
    "token_embedding",
    "position_embedding",
    "source_embedding",
    "target_embedding",
    "source_position",
    "target_position",
    "head",
)

# inputs, targets -> mean loss in nats; or what is minimised, and beside it the plain loss
Loss = Callable[[Tensor, Tensor], Tensor | tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class StepLog:
    """What one optimiser step did."""

    step: int  # counted from 1
    loss_nats: float  # mean cross-entropy per token, before the step, never smoothed
    grad_norm: float  # before clipping
    lr: float
    tokens_seen: int  # by this model since its first step


def train_steps(
    model: LanguageModel | Translator,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer | None = None,
    first_step: int = 0,
    tokens_seen: int = 0,
    loss: Loss | None = None,
    count: Callable[[Tensor], int] | None = None,
) -> Iterator[StepLog]:
    """Train one optimiser step at a time and hand control back after each.

    A generator, so a progress bar, a live plot, a test and a stop button all drive the same
    loop, and none of them needs a callback. It ends after ``config.n_steps`` or with the batches.
    Of several processes (``attnlab.training.parallel``) each is given the same batches.

    Shapes:
        batches: pairs ``(inputs, targets)`` of token ids, each ``(batch, time)``;
        ``config.accumulation_steps`` of them make one step.
    Args:
        optimizer: From ``build_optimizer``; give it to go on from a checkpoint.
        first_step: Steps done before; ``batches`` starts after theirs.
        tokens_seen: Tokens those steps read.
        loss: From inputs and targets to the mean loss, or to what is minimised and the plain
            loss, which is what logs report; None takes the model's own, smoothed by
            ``config.label_smoothing``.
        count: From targets to the number of tokens that the mean is over; None asks the model.
    Raises:
        DivergenceError: The loss or the gradient is not finite.
        AttnlabError: Label smoothing is asked of a loss that has none.
    """
    loss = _own_loss(model, config) if loss is None else loss
    n_read: Callable[[Tensor], int] = count or getattr(model, "n_predictions", Tensor.numel)
    optimizer = optimizer or build_optimizer(model, config)
    weights = list(model.parameters())
    groups = _grouped(batches, config.accumulation_steps)
    for step in range(first_step, config.n_steps):
        group = next(groups, None)
        if group is None:
            return
        model.train()
        lr = learning_rate(step, config)
        for parameters in optimizer.param_groups:
            parameters["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        with _dropout_stream(model, config.seed, step):
            loss_nats = add_up(weights, _accumulate(loss, n_read, group, config))
        total_norm = nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
        grad_norm = float(total_norm)
        if not (math.isfinite(loss_nats) and math.isfinite(grad_norm)):
            raise DivergenceError(_divergence_message(model, step, loss_nats, grad_norm, lr))
        nn.utils.clip_grads_with_norm_(weights, config.max_grad_norm, total_norm)
        optimizer.step()
        tokens_seen += sum(n_read(targets) for _, targets in group)
        yield StepLog(step + 1, loss_nats, grad_norm, lr, tokens_seen)


def _own_loss(model: LanguageModel | Translator, config: TrainConfig) -> Loss:
    if not config.label_smoothing:
        return model.loss
    if not isinstance(model, Translator):
        raise AttnlabError(
            f"label_smoothing={config.label_smoothing} is for translators, and this loss has none. "
            "Set it to 0."
        )
    return partial(model.smoothed_and_plain_loss, label_smoothing=config.label_smoothing)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW that decays matrices only (arXiv:1711.05101)."""
    decayed, spared = [], []
    for name, weight in model.named_parameters():
        is_spared = weight.ndim < 2 or name.split(".")[0] in SPARED
        (spared if is_spared else decayed).append(weight)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    betas = (config.beta_1, config.beta_2)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate of a step: a linear rise, then a fall.

    ``cosine`` falls to ``min_lr_fraction`` at the last step; ``inverse_sqrt`` falls with the
    square root of the step, whatever the last one is (arXiv:1706.03762, section 5.3).
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "inverse_sqrt":
        return config.lr * math.sqrt(max(1, config.warmup_steps) / (step + 1))
    n_falling = max(1, config.n_steps - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / n_falling)
    low = config.min_lr_fraction
    return config.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass in this precision; weights stay float32."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def products(precision: str) -> AbstractContextManager[object]:
    """Return the context of a forward and backward pass; it decides who multiplies."""
    return onednn_products() if precision == "fp32_onednn" else nullcontext()


def _accumulate(
    loss: Loss,
    count: Callable[[Tensor], int],
    group: list[tuple[Tensor, Tensor]],
    config: TrainConfig,
) -> float:
    n_group, total = sum(count(targets) for _, targets in group), 0.0
    for whole in group:
        inputs, targets, n_targets = own_part(*whole, count)
        if not n_targets and n_processes() > 1:  # fewer rows than processes
            continue
        with products(config.precision):
            with autocast(config.precision, inputs.device):
                found = loss(inputs, targets)
                minimised, plain = found if isinstance(found, tuple) else (found, found)
                share = n_targets / n_group
            (minimised * share).backward()
        total += plain.item() * share
    return total


def _grouped(batches: Iterable[tuple[Tensor, Tensor]], size: int) -> Iterator[list]:
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group


@contextmanager
def _dropout_stream(model: LanguageModel | Translator, seed: int, step: int) -> Iterator[None]:
    """Make dropout a function of seed and step, so that a resumed run drops the same."""
    config = getattr(model, "config", None)
    options = getattr(config, "mixer_options", {})
    shares = (getattr(config, name, 0) for name in ("dropout", "attention_dropout"))
    if not any(shares) and not options.get("dropout"):
        yield
        return
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        stream = f"dropout/{step}" if n_processes() == 1 else f"dropout/{step}/{rank()}"
        torch.manual_seed(torch_generator(seed, stream).initial_seed())
        yield


def _divergence_message(
    model: nn.Module, step: int, loss_nats: float, grad_norm: float, lr: float
) -> str:
    bad = [
        n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
    ]
    where = f" First weight with a bad gradient: {bad[0]}." if bad else ""
    return (
        f"Training diverged at step {step + 1}: loss {loss_nats}, gradient norm {grad_norm}, "
        f"lr {lr:.2g}.{where} Halve lr, lengthen warmup_steps, or give the Extractor "
        "scale='rsqrt_t'."
    )
