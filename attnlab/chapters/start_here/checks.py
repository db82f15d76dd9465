"""Exercises of chapter 00: units of a loss."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from attnlab.teach import Exercise

# Exercise 0.1: a loss in bits


def nats_to_bits(loss_nats):
    return loss_nats / np.log(2)


def logarithm_of_the_loss(loss_nats):
    with np.errstate(divide="ignore"):
        return np.log(np.float64(loss_nats)) / np.log(2)


check_nats_to_bits = Exercise(
    nats_to_bits,
    [
        ("a fair coin, log 2 nats", float(np.log(2))),
        ("one nat", 1.0),
        ("nothing surprises", 0.0),
        ("a loss of 2.5", 2.5),
    ],
    {
        lambda loss_nats: loss_nats * np.log(2): "You multiplied by log 2. A bit is the smaller unit (log 2 = 0.693 nats), so the number of bits is the larger one.",
        logarithm_of_the_loss: "You took the logarithm of the loss. The loss is a logarithm already; only its unit changes.",
        lambda loss_nats: loss_nats / np.log(10): "You divided by log 10, which gives decimal digits (bans). A bit has two sides.",
        lambda loss_nats: np.exp(loss_nats): "That is the perplexity. Bits are another unit of the same logarithm.",
        lambda loss_nats: loss_nats / np.log10(2): "You took the logarithm to base 10 of 2. Nats belong to the natural logarithm, np.log.",
        lambda loss_nats: loss_nats: "That is the loss in nats still: its unit has to change.",
    },
)  # fmt: skip


# Exercise 0.2: the perplexity of losses ``(n_tokens,)`` in nats


def perplexity(losses_nats):
    return np.exp(np.mean(losses_nats))


check_perplexity = Exercise(
    perplexity,
    [
        ("one token with chance 1/4", np.log([4.0])),
        ("chances 1/2 and 1/8", np.log([2.0, 8.0])),
        ("seven tokens", np.array([0.1, 0.7, 2.3, 0.0, 1.1, 0.4, 3.0])),
    ],
    {
        lambda losses_nats: np.mean(np.exp(losses_nats)): "You averaged the perplexities of single tokens. Average the logarithms first; the exponential comes last.",
        lambda losses_nats: 2 ** np.mean(losses_nats): "You raised 2 to a number of nats. 2 goes with bits, e goes with nats.",
        lambda losses_nats: np.exp(np.sum(losses_nats)): "You did not divide by the number of tokens: this is one over the chance of the whole text.",
        lambda losses_nats: np.mean(losses_nats): "That is the mean loss in nats; perplexity is its exponential.",
        lambda losses_nats: np.mean(losses_nats) / np.log(2): "That is the mean loss in bits; perplexity is the exponential of the mean in nats.",
        lambda losses_nats: np.exp(-np.mean(losses_nats)): "The sign is turned: losses are positive, and perplexity is e to their mean.",
        lambda losses_nats: np.sum(np.exp(losses_nats)): "You added the perplexities of single tokens. Average the logarithms first; the exponential comes last.",
    },
)  # fmt: skip


# Build 0: a table of scores, trained ----------------------------------------------------------


def trained(
    *, turns=-1, clears=True, ahead=1, reduction="mean", doubled=False, extra=0, turned=False
):
    """Return a training of a bigram table with these parts right or wrong."""

    def train(tokens, n_symbols, n_steps, lr):
        z = torch.zeros(n_symbols, n_symbols, requires_grad=True)
        read, comes = tokens[:-1], tokens[ahead : len(tokens) - 1 + ahead]
        read, comes = (comes, read) if turned else (read, comes)
        for _ in range(n_steps + extra):
            z.grad = None if clears else z.grad
            scores = z[read].softmax(-1) if doubled else z[read]
            F.cross_entropy(scores, comes, reduction=reduction).backward()
            with torch.no_grad():
                z += turns * lr * z.grad
        return z.detach()

    return train


train_bigram = trained()
A_B = torch.tensor([0, 1, 0, 1, 0, 0])

check_train_bigram = Exercise(
    train_bigram,
    [
        ("one step on 'a b a b a a'", A_B, 2, 1, 1.0),
        ("three steps", A_B, 2, 3, 0.5),
        ("no step", A_B, 2, 0, 1.0),
        ("forty steps, five symbols", torch.tensor([0, 3, 1, 4, 1, 0, 2, 2, 0, 3]), 5, 40, 2.0),
    ],
    {
        trained(turns=1): "The table goes uphill: the loss falls along minus the gradient.",
        trained(clears=False): "Gradients of earlier steps add up: backward() adds to z.grad. Clear it before each step.",
        trained(ahead=0): "Each row learns the token it belongs to; row v_t predicts v_{t+1}.",
        trained(reduction="sum"): "The loss is the sum over the pairs; eq. (0.1) takes their mean.",
        trained(doubled=True): "The softmax was taken twice: cross_entropy wants scores and takes it itself.",
        trained(extra=1): "One step too many was made.",
        trained(extra=-1): "One step too few was made.",
        trained(turned=True): "Rows and columns are exchanged: the row is the token that was read, the column the one that comes.",
        lambda tokens, n, n_steps, lr: train_bigram(tokens, n, n_steps, 1.0): "The rate lr is not used.",
        lambda tokens, n, n_steps, lr: train_bigram(tokens, n, n_steps, lr).softmax(-1): "These are the chances; the table of scores is asked for.",
        lambda tokens, n, n_steps, lr: torch.zeros(n, n): "The table did not move: is the step written back to it?",
    },
)  # fmt: skip
