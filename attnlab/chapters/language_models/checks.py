"""Exercises of chapter 04."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from attnlab.seeding import numpy_generator, seeded, torch_generator
from attnlab.teach import Exercise

LN2 = float(np.log(2))


# Exercise 4.1: cross-entropy from scores ---------------------------------------------------------


def softmax(scores, axis=-1):
    """Return shares of ``exp(scores)``, without overflow."""
    shifted = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)


def surprise(chances, tokens):
    """Return the mean of ``-log`` of the chances of the tokens, row by row."""
    return float(-np.log(chances[np.arange(len(tokens)), tokens]).mean())


def cross_entropy(logits, tokens):
    """Return the mean loss of predicting each token from the row before it."""
    scores = logits[:-1] - logits[:-1].max(axis=-1, keepdims=True)
    log_chances = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return float(-log_chances[np.arange(len(tokens) - 1), tokens[1:]].mean())


def overflowing(logits, tokens):
    raw = np.exp(logits[:-1])
    return surprise(raw / raw.sum(axis=-1, keepdims=True), tokens[1:])


def chances_of(logits, tokens):
    return softmax(logits[:-1])[np.arange(len(tokens) - 1), tokens[1:]]


SAME_TOKEN = "Each row was compared with the token it has just read; row t predicts token t + 1."
OVERFLOW = "exp(800) overflows; subtract the largest score of each row first, nothing else changes."
draw = numpy_generator(4, "exercise/cross_entropy")
random = 2 * draw.normal(size=(6, 5)), draw.integers(0, 5, 6)

check_cross_entropy = Exercise(
    cross_entropy,
    [
        ("two tokens, two choices", np.array([[0.0, 1.0], [2.0, 0.0]]), np.array([0, 1])),
        ("equal scores for three tokens", np.zeros((4, 3)), np.array([0, 1, 2, 0])),
        ("random, 6 tokens out of 5", *random),
        ("random, 9 tokens out of 4", draw.normal(size=(9, 4)), draw.integers(0, 4, 9)),
        ("scores of 800", 800.0 * np.eye(4)[[1, 2, 0, 3]], np.array([0, 1, 3, 0])),
    ],
    {
        lambda z, v: cross_entropy(z, v) / LN2: "It is in bits; nats take the natural logarithm, np.log.",
        lambda z, v: surprise(softmax(z[:-1], axis=0), v[1:]): "The softmax ran over the positions; it belongs over the vocabulary, axis -1.",
        lambda z, v: surprise(softmax(z[1:]), v[1:]): SAME_TOKEN,
        lambda z, v: surprise(softmax(z[:-1]), v[:-1]): SAME_TOKEN,
        lambda z, v: surprise(softmax(z), v): SAME_TOKEN,
        lambda z, v: cross_entropy(z, v) * (len(v) - 1) / len(v): "T tokens make T - 1 predictions: the first token has nothing before it.",
        lambda z, v: surprise(np.exp(z[:-1]), v[1:]): "The softmax is missing: scores are no logarithms of chances yet.",
        lambda z, v: -chances_of(z, v).mean(): "The logarithm is missing: these are the chances.",
        lambda z, v: -np.log(chances_of(z, v).mean()): "You took the logarithm of the mean of the chances; take the mean of the logarithms.",
        lambda z, v: -np.log(softmax(z[:-1])[:, v[1:]]).mean(): "This scores every pair of a row and a token: index rows and tokens together, p[np.arange(n), tokens].",
        lambda z, v: surprise(softmax(softmax(z[:-1])), v[1:]): "A softmax was taken twice: chances went in where scores belong.",
        lambda z, v: cross_entropy(z, v) * (len(v) - 1): "It is the sum over the predicted tokens; the loss is their mean.",
        lambda z, v: cross_entropy(z, v) / z.shape[1]: "The mean ran over vocabulary entries too; average over the predicted tokens alone.",
        lambda z, v: -(z[:-1] - np.log(np.exp(z[:-1]).sum(-1, keepdims=True)))[np.arange(len(v) - 1), v[1:]].mean(): OVERFLOW,
        overflowing: OVERFLOW,
    },
)  # fmt: skip


# Exercise 4.2: bits per byte ---------------------------------------------------------------------


def bits_per_byte(loss_nats, n_tokens, n_bytes):
    """Return the loss in bits per byte of text."""
    return loss_nats * n_tokens / LN2 / n_bytes


check_bits_per_byte = Exercise(
    bits_per_byte,
    [
        ("one token of two bytes, log 2 nats", LN2, 1, 2),
        ("tokens that are bytes", 1.5, 7, 7),
        ("a short page", 4.0, 500, 1750),
        ("a book", 3.9, 41_213, 160_007),
    ],
    {
        lambda nats, n, n_bytes: nats * n / n_bytes: "That is nats per byte: divide by ln 2 to get bits.",
        lambda nats, n, n_bytes: nats / LN2: "That is bits per token: spread the total over the bytes, not over the tokens.",
        lambda nats, n, n_bytes: nats * n * LN2 / n_bytes: "A bit is smaller than a nat, so there are more of them: divide by ln 2.",
        lambda nats, n, n_bytes: nats / LN2 / n_bytes: "That is one token's surprise: the text has n_tokens of them.",
        lambda nats, n, n_bytes: nats * n / LN2: "These are the bits of the whole text: share them out over its bytes.",
        lambda nats, n, n_bytes: np.exp(nats) * n / n_bytes: "You took the perplexity. Bits are another unit of the loss itself.",
        lambda nats, n, n_bytes: nats * n / LN2 / n_bytes / 8: "You divided by the 8 bits of a byte. The loss is in bits already; it is shared out over bytes.",
        lambda nats, n, n_bytes: nats / LN2 * n_bytes / n: "The ratio is upside down: the total is loss times tokens, and it is shared by the bytes.",
    },
)  # fmt: skip


# Exercise 4.3: the top-p filter ------------------------------------------------------------------


def kept(chances, chosen, *, empty=0.0):
    """Return the chosen chances, made to sum to one; ``empty`` everywhere where there are none."""
    some = np.zeros_like(chances)
    some[chosen] = chances[chosen]
    return some / some.sum() if some.sum() > 0 else some + empty


def by_running_sum(chances, is_kept, **options):
    """Keep the likeliest tokens for whose running sum (before, after) the rule holds."""
    order = np.argsort(-chances, kind="stable")
    after = np.cumsum(chances[order])
    return kept(chances, order[is_kept(after - chances[order], after)], **options)


def top_p_filter(chances, p):
    """Return the chances of the likeliest tokens that first reach p, made to sum to one."""
    return by_running_sum(chances, lambda before, after: before < p)


def from_below(chances, p):
    order = np.argsort(chances, kind="stable")
    after = np.cumsum(chances[order])
    return kept(chances, order[after - chances[order] < p])


CROSSING = "The token whose chance carries the sum over p belongs in; it was dropped."
SINGLE = "p was taken as a threshold for single tokens; it is for the running sum of the likeliest."
NO_TOKEN = {"empty": np.nan}  # 0 / 0, where no token is left

check_top_p = Exercise(
    top_p_filter,
    [
        ("one token has all", np.array([0.0, 1.0]), 0.5),
        ("the first token is enough", np.array([0.7, 0.2, 0.1]), 0.6),
        ("the sum crosses p", np.array([0.5, 0.3125, 0.1875]), 0.75),
        ("the sum meets p exactly", np.array([0.5, 0.25, 0.1875, 0.0625]), 0.75),
        ("a small p, not sorted", np.array([0.25, 0.125, 0.625]), 0.2),
        ("not sorted", np.array([0.05, 0.4, 0.15, 0.3, 0.1]), 0.72),
        ("random, 9 tokens", numpy_generator(4, "exercise/top_p").dirichlet(np.ones(9)), 0.9),
    ],
    {
        lambda c, p: by_running_sum(c, lambda before, after: after <= p): CROSSING,
        lambda c, p: by_running_sum(c, lambda before, after: after <= p, **NO_TOKEN): CROSSING,
        lambda c, p: by_running_sum(c, lambda before, after: after < p): CROSSING,
        lambda c, p: by_running_sum(c, lambda before, after: after < p, **NO_TOKEN): CROSSING,
        lambda c, p: kept(c, np.flatnonzero(c >= p)): SINGLE,
        lambda c, p: kept(c, np.flatnonzero(c >= p), **NO_TOKEN): SINGLE,
        lambda c, p: np.where(c >= p, c, 0.0): SINGLE,
        lambda c, p: np.sort(top_p_filter(c, p))[::-1]: "The chances came back in sorted order: put each in its token's own place.",
        lambda c, p: top_p_filter(c, 1 - p): "You cut at 1 - p; keep the likeliest until their sum reaches p.",
        lambda c, p: from_below(c, p): "You began with the least likely token; begin with the likeliest.",
        lambda c, p: c: "Nothing was cut: every token is still there.",
        lambda c, p: kept(c, np.flatnonzero(np.cumsum(c) - c < p)): "The running sum followed the vocabulary; sort from likeliest to least likely first.",
        lambda c, p: np.where(top_p_filter(c, p) > 0, c, 0.0): "The right tokens are kept, but what is left must sum to one again.",
        lambda c, p: by_running_sum(c, lambda before, after: before <= p): "Where the sum meets p exactly it is enough: the next token stays out.",
    },
)  # fmt: skip


# Build 4: a training loop ------------------------------------------------------------------------


class Reader(nn.Module):
    """Scores for the next token from the last one alone."""

    def __init__(self, vocab_size=7, d_model=4):
        super().__init__()
        self.embedding, self.head = (
            nn.Embedding(vocab_size, d_model),
            nn.Linear(d_model, vocab_size),
        )

    def forward(self, tokens):
        """Return logits ``(B, T, V)`` for tokens ``(B, T)``."""
        return self.head(self.embedding(tokens))


def loop_of(
    *,
    clears=True,
    steps=True,
    anew=False,
    optimiser=torch.optim.Adam,
    target="next",
    reduction="mean",
    when="before",
    rate=None,
    most=None,
):
    """Return a training loop with these parts right or wrong."""

    def fit(model, batches, lr):
        rate_used = rate or lr
        adam, losses = optimiser(model.parameters(), lr=rate_used), []
        for read, comes in batches[:most]:
            adam = optimiser(model.parameters(), lr=rate_used) if anew else adam
            if clears:
                adam.zero_grad()
            goal = read if target == "same" else comes
            how = {"reduction": reduction}
            loss = F.cross_entropy(model(read).flatten(0, 1), goal.flatten(), **how)
            loss.backward()
            if steps:
                adam.step()
            if when == "after":
                loss = F.cross_entropy(model(read).flatten(0, 1), goal.flatten(), **how)
            losses.append(loss.item())
        return losses

    return fit


def course(fit, n_batches, lr):
    """Return the losses of a loop and the weights it leaves, from a fixed start."""
    with seeded(torch_generator(4, "build")):
        model, tokens = Reader(), torch.randint(7, (n_batches, 2, 6))
    losses = fit(model, [(batch[:, :-1], batch[:, 1:]) for batch in tokens], lr)
    return {
        "losses": losses,
        "weights": torch.cat([w.detach().flatten() for w in model.parameters()]),
    }


check_fit = Exercise(
    loop_of(),
    [(f"{n} batch{'es' * (n > 1)}, rate {lr}", n, lr) for n, lr in ((1, 0.1), (3, 0.1), (20, 0.02))],
    {
        loop_of(clears=False): "Gradients of earlier batches add up: backward() adds to what is there. Call zero_grad() before it.",
        loop_of(steps=False): "The weights did not move: step() is missing, or the gradients were cleared between backward() and step().",
        loop_of(anew=True): "The optimiser is made anew for each batch. Adam has a memory: make it once, before the loop.",
        loop_of(optimiser=torch.optim.SGD): "That is plain gradient descent; Adam is asked for.",
        loop_of(optimiser=torch.optim.AdamW): "That is AdamW, which lets weights decay; Adam is asked for.",
        loop_of(target="same"): "The model learns to repeat what it reads: compare with the targets.",
        loop_of(reduction="sum"): "The loss is the sum over the tokens; take their mean.",
        loop_of(when="after"): "The loss was taken after the step. Note it before: then it is held out from this batch.",
        loop_of(rate=1e-3): "The rate lr is not used.",
        loop_of(most=-1): "The last batch is left out.",
    },
    use=course,
)  # fmt: skip
