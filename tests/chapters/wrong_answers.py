"""Ten wrong answers to each exercise, as learners write them, and what the verdict has to say.

By exercise: ``(answer, words of the verdict)``. ``NEUTRAL`` stands for a sentence that names no
mistake; a named one must be the right one.
"""

import collections
import math

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from attnlab.sources import stationary
from attnlab.teach.comparing import NEUTRAL

# fmt: off
LN2 = math.log(2)
inf = math.inf


def logs(P):
    return np.log(np.where(P > 0, P, 1))


def pairs(tokens, n):
    counts = np.zeros((n, n))
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    return counts


def looped(tokens, n, *, start=0, stop=None):
    counts = np.zeros((n, n))
    for t in range(start, len(tokens) - 1 if stop is None else stop):
        counts[tokens[t], tokens[t + 1]] += 1
    total = counts.sum(1, keepdims=True)
    return np.where(total > 0, counts / np.where(total > 0, total, 1), 1 / n)


START_HERE = {
    "check_nats_to_bits": [
        (lambda L: L * np.log(2), "You multiplied by log 2"),
        (lambda L: np.log2(L + 1e-9), "logarithm of the loss"),
        (lambda L: math.log2(L), "logarithm of the loss"),
        (lambda L: L / math.log10(2), "You took the logarithm to base 10"),
        (lambda L: L / 2, "Every value is"),
        (lambda L: 2**L, NEUTRAL),
        (lambda L: math.exp(L), "That is the perplexity"),
        (lambda L: L, "That is the loss in nats still"),
        (lambda L: -L / np.log(2), "sign is wrong"),
        (lambda L: round(L / np.log(2)), "cut to whole|" + NEUTRAL),
        (lambda L: L / np.log(10), "bans"),
    ],
    "check_perplexity": [
        (lambda x: np.exp(x).mean(), "averaged the perplexities"),
        (lambda x: 2 ** x.mean(), "raised 2"),
        (lambda x: np.exp(x.sum()), "did not divide by the number"),
        (lambda x: x.mean(), "mean loss in nats"),
        (lambda x: np.exp(-x.mean()), "The sign is turned"),
        (lambda x: np.exp(x), "One number is expected"),
        (lambda x: np.exp(x).sum(), "added the perplexities"),
        (lambda x: math.exp(x), "it raised TypeError|perplexity|" + NEUTRAL),
        (lambda x: np.exp(x.sum() / (len(x) - 1)), "an infinity where none belongs"),
        (lambda x: np.exp(np.median(x)), NEUTRAL),
        (lambda x: x.mean() / LN2, "in bits"),
        (lambda x: np.exp(x).prod(), "did not divide by the number"),
    ],
}

MARKOV = {
    "check_entropy_rate": [
        (lambda P: -stationary(P) @ (P * np.log(P)).sum(1), "0 * log 0"),
        (lambda P: -stationary(P) @ (P * logs(P) / LN2).sum(1), "in bits"),
        (lambda P: stationary(P) @ (P * logs(P)).sum(1), "The sign is missing"),
        (lambda P: -(P * logs(P)).sum(1).mean(), "the same weight"),
        (lambda P: -(P * logs(P)).sum(), "added without weights"),
        (lambda P: -(P * logs(P)).sum(1), "One number is expected"),
        (lambda P: -stationary(P) @ (P * logs(P)).sum(0), "ran over the columns"),
        (lambda P: -(stationary(P) * logs(stationary(P))).sum(), "entropy of pi"),
        (lambda P: -stationary(P) @ (P * np.log(P + 1e-3)).sum(1), NEUTRAL),
        (lambda P: -(stationary(P)[:, None] * logs(P)).sum(), "P is missing before its logarithm"),
        (lambda P: -(P * logs(P)).sum(1) @ np.full(len(P), 1 / len(P)), "the same weight"),
        (lambda P: -stationary(P) @ logs(P).sum(1), "P is missing before its logarithm"),
    ],
    "check_oracle_loss": [
        (lambda v, P: -np.log2(P[v[:-1], v[1:]]).mean(), "in bits"),
        (lambda v, P: np.log(P[v[:-1], v[1:]]).mean(), "sign"),
        (lambda v, P: -np.log(P[v[:-1], v[1:]]).sum(), "surprise of the whole text"),
        (lambda v, P: -np.log(P[v[1:], v[:-1]]).mean(), "P[next, current]"),
        (lambda v, P: -np.log(P[v[:-1], v[1:]]).sum() / len(v), "T - 1 predictions"),
        (lambda v, P: -np.log(P[v, v]).mean(), NEUTRAL),
        (lambda v, P: -np.log(P[v[:-1], v[1:]].mean()), "mean of the chances"),
        (lambda v, P: P[v[:-1], v[1:]].mean(), "chances|" + NEUTRAL),
        (lambda v, P: -np.log(P[v[:-1], v[1:]]), "One number is expected"),
        (lambda v, P: -np.log(P[v[:-1]][v[1:]]).mean(), "it raised IndexError|" + NEUTRAL),
        (lambda v, P: -np.log(P[v[:-1]][:, v[1:]]).mean(), "every pair of"),
        (lambda v, P: -sum(np.log(P[v[t], v[t + 1]]) for t in range(len(v))), "it raised IndexError"),
    ],
    "check_fit_bigram": [
        (lambda v, n: pairs(v, n) / pairs(v, n).sum(1), "keepdims"),
        (lambda v, n: pairs(v, n) / pairs(v, n).sum(1, keepdims=True), "0 / 0 is NaN"),
        (lambda v, n: np.nan_to_num(pairs(v, n) / pairs(v, n).sum(1)), "keepdims"),
        (lambda v, n: np.nan_to_num(pairs(v, n) / pairs(v, n).sum(1, keepdims=True)), "row of zeros"),
        (lambda v, n: pairs(v, n) / pairs(v, n).sum(0, keepdims=True), "column sums"),
        (lambda v, n: pairs(v, n), "These are the counts"),
        (lambda v, n: looped(v, n).T, "Rows and columns are exchanged|transpose"),
        (lambda v, n: pairs(v[::-1], n) / pairs(v[::-1], n).sum(1, keepdims=True), "exchanged"),
        (lambda v, n: looped(v, n, start=1), "first pair is missing"),
        (lambda v, n: looped(v, n, stop=len(v) - 2), "last pair is missing"),
        (lambda v, n: pairs(v, n) / (len(v) - 1), "number of all pairs"),
        (lambda v, n: (pairs(v, n) + 1) / (pairs(v, n) + 1).sum(1, keepdims=True), "added one"),
        (lambda v, n: looped(v, n, stop=len(v)), "it raised IndexError"),
        (lambda v, n: pairs(v, n) / np.bincount(v, minlength=n)[:, None], "last token"),
    ],
}


def seen(S, diagonal=0):
    return torch.ones_like(S).tril(diagonal).bool()


def soft(S, axis=-1):
    return S.softmax(axis)


def head(x, q, k, v, o, *, scale=None, mask=True, weights=None):
    S = (x @ q) @ (x @ k).T
    S = S / math.sqrt(q.shape[1]) if scale is None else S * scale(x, q)
    S = S.masked_fill(~seen(S), -inf) if mask else S
    return S.softmax(-1) @ (x @ v) @ o


ATTENTION = {
    "check_causal_weights": [
        (lambda S: soft(S) * seen(S), "mask came after the softmax"),
        (lambda S: soft(S.tril()), "exp(0) = 1"),
        (lambda S: soft(S * seen(S)), "exp(0) = 1"),
        (lambda S: soft(S), "Nothing is masked"),
        (lambda S: soft(S.masked_fill(~seen(S), -inf), 0), "over the queries"),
        (lambda S: soft(S.masked_fill(seen(S), -inf)), "mask is turned round"),
        (lambda S: soft(S.masked_fill(~seen(S, -1), -inf)), "diagonal is masked"),
        (lambda S: soft(S.masked_fill(seen(S).triu(), -inf)), NEUTRAL),
        (lambda S: soft(S.masked_fill(~seen(S).T, -inf)), "mask is transposed"),
        (lambda S: soft(S.masked_fill(~seen(S), -10)), "a large negative number|minus infinity"),
        (lambda S: S.masked_fill_(~seen(S), -inf).softmax(-1), "changes its own arguments"),
        (lambda S: S.masked_fill(~seen(S), -inf).exp(), "not divided by their sum"),
        (lambda S: torch.exp(S) * seen(S) / (torch.exp(S) * seen(S)).sum(-1, keepdim=True), "overflow"),
        (lambda S: S.masked_fill(~seen(S), -inf), "These are the masked scores"),
    ],
    "check_single_head": [
        (lambda x, q, k, v, o: head(x, q, k, v, o, scale=lambda x, q: 1), "not scaled"),
        (lambda x, q, k, v, o: head(x, q, k, v, o, scale=lambda x, q: 1 / q.shape[1]), "its square root"),
        (lambda x, q, k, v, o: head(x, q, k, v, o, scale=lambda x, q: q.shape[1] ** 0.5), "multiplied by sqrt"),
        (lambda x, q, k, v, o: head(x, q, k, v, o, scale=lambda x, q: x.shape[1] ** -0.5), "uses d, the columns"),
        (lambda x, q, k, v, o: head(x, q, k, v, o, scale=lambda x, q: len(x) ** -0.5), "uses the number of tokens"),
        (lambda x, q, k, v, o: head(x, q, k, v, o, mask=False), "Nothing is masked"),
        (lambda x, q, k, v, o: head(x, k, q, v, o), "Queries and keys are swapped"),
        (lambda x, q, k, v, o: head(x, q, k, v, torch.eye(q.shape[1]).double()), "W_o|shape"),
        (lambda x, q, k, v, o: head(x, q, k, v, o).T, "transpose"),
        (lambda x, q, k, v, o: head(x, q, k, k, o), "values are the keys"),
        (lambda x, q, k, v, o: head(x, q, q, v, o), "keys are the queries"),
        (lambda x, q, k, v, o: ((x @ q) @ (x @ k).T) @ (x @ v) @ o, NEUTRAL),
        (lambda x, q, k, v, o: (x @ q) @ (x @ k) @ (x @ v) @ o, "it raised RuntimeError"),
        (lambda x, q, k, v, o: head(x, q, k, v, o) + x, "x was added"),
    ],
    "check_multiplications": [
        (lambda T, d, H: 4 * T * d**2 + T**2 * (2 * d + H), "T * T pairs"),
        (lambda T, d, H: 4 * T * d**2 + T * (T - 1) // 2 * (2 * d + H), "also looks at itself"),
        (lambda T, d, H: 3 * T * d**2 + T * (T + 1) // 2 * (2 * d + H), "output map is missing"),
        (lambda T, d, H: 4 * T * d**2 + T * (T + 1) // 2 * 2 * d, "The scale is missing"),
        (lambda T, d, H: 4 * T * d**2 + T * (T + 1) // 2 * (d + H), "two products over the pairs"),
        (lambda T, d, H: 4 * T * d**2 + T * (T + 1) // 2 * H * (2 * d + 1), "for every head"),
        (lambda T, d, H: 4 * d**2 + T * (T + 1) // 2 * (2 * d + H), "for one token only"),
        (lambda T, d, H: 4 * T * d**2, "pairs are missing"),
        (lambda T, d, H: 4 * T * d**2 + T * (T + 1) // 2 * (2 * d + 1), "for each pair and head"),
        (lambda T, d, H: 4 * T * d**2 + T * (2 * d + H), "one pair for each token"),
        (lambda T, d, H: 4 * d**2, "These are the weights"),
    ],
}


def lags(x, W, *, number=None, take=None, x_at=None, side=False):
    rows = []
    for t in range(len(x)):
        n = min(t + 1, len(W)) if number is None else number(t, len(W))
        terms = [
            (W[j] @ x[t - j] if side else x[t - j if x_at is None else x_at(t, j)] @ W[j if take is None else take(j, n, len(W))])
            for j in range(n)
        ]
        rows.append(sum(terms, torch.zeros(x.shape[1], dtype=x.dtype)))
    return torch.stack(rows)


def she_by(e, x, A, B):
    return (e * (x @ A)) @ B


EXTRACTOR = {
    "check_extract": [
        (lambda x, W: lags(x, W, number=lambda t, n: t + 1), "min(t + 1, l) lags"),
        (lambda x, W: lags(x, W, take=lambda j, n, m: m - 1 - j), "lags run backwards"),
        (lambda x, W: lags(x, W, take=lambda j, n, m: n - 1 - j), "indexed by the place"),
        (lambda x, W: lags(x, W, number=lambda t, n: n), "negative index"),
        (lambda x, W: lags(x, W, side=True), "wrong side"),
        (lambda x, W: lags(x, W, take=lambda j, n, m: 0), "bag of tokens"),
        (lambda x, W: lags(x, W, number=lambda t, n: min(t, n)), "The oldest lag is missing"),
        (lambda x, W: torch.stack([sum(x[t - j] @ W[j] for j in range(1, min(t + 1, len(W)))) + 0 * x[0] for t in range(len(x))]), "Lag 0"),
        (lambda x, W: lags(x, W)[-1], "extraction of the last position"),
        (lambda x, W: torch.stack([x[t] @ W[0] for t in range(len(x))]), "Only lag 0"),
        (lambda x, W: lags(x, W) / torch.arange(1, len(x) + 1)[:, None], "mean"),
        (lambda x, W: lags(x, W, x_at=lambda t, j: j), "indexed by the place|" + NEUTRAL),
        (lambda x, W: [sum(x[t - j] @ W[j] for j in range(min(t + 1, len(W)))) * 2 for t in range(len(x))], "Every value is 2 times"),
    ],
    "check_she": [
        (lambda x, W, A, B: (lags(x, W) * (lags(x, W) @ A)) @ B, "gate is computed from e_t"),
        (lambda x, W, A, B: (lags(x, W) + x @ A) @ B, "gate is added"),
        (lambda x, W, A, B: lags(x, W) * (x @ A), "W_out is missing"),
        (lambda x, W, A, B: lags(x, W) @ B, "adjustment is missing"),
        (lambda x, W, A, B: lags(x, W) @ A @ B, "one map after the other"),
        (lambda x, W, A, B: (lags(x, W) @ B) * (x @ A), "W_out came before"),
        (lambda x, W, A, B: she_by(lags(x, W), x, B, A), "W_adj and W_out are exchanged"),
        (lambda x, W, A, B: she_by(lags(x, W), x, A.T, B.T), "wrong side"),
        (lambda x, W, A, B: (lags(x, W) * torch.sigmoid(x @ A)) @ B, "sigmoid"),
        (lambda x, W, A, B: (lags(x, W) * (x[-1] @ A)) @ B, "One gate, from the last token"),
        (lambda x, W, A, B: (lags(x, W) * (x[0] @ A)) @ B, NEUTRAL),
        (lambda x, W, A, B: (lags(x, W) * x) @ B, "W_adj is missing"),
        (lambda x, W, A, B: she_by(lags(x, W, number=lambda t, n: n), x, A, B), "negative index"),
        (lambda x, W, A, B: (x * (lags(x, W) @ A)) @ B, "parts are exchanged"),
    ],
    "check_weight_count": [
        (lambda n, d, l: {"attention": 3 * d * d}.get(n, count(n, d, l)), "four maps"),
        (lambda n, d, l: {"she": 3 * d * d}.get(n, count(n, d, l)), "a matrix for every lag"),
        (lambda n, d, l: {"she": l * d * d}.get(n, count(n, d, l)), "two square maps besides"),
        (lambda n, d, l: {"she": l * d * d + d * d}.get(n, count(n, d, l)), "two square maps besides"),
        (lambda n, d, l: {"he": l * d + 2 * d * d}.get(n, count(n, d, l)), "HE has three square maps"),
        (lambda n, d, l: {"we": l * d + 2 * d * d}.get(n, count(n, d, l)), "WE as defined here"),
        (lambda n, d, l: {"me": l * d}.get(n, count(n, d, l)), "ME also has a vector"),
        (lambda n, d, l: {"me": l * d + d * d}.get(n, count(n, d, l)), "ME gates with a vector"),
        (lambda n, d, l: {"she": l * d + 2 * d * d}.get(n, count(n, d, l)), "what HE has"),
        (lambda n, d, l: {"he": l * d * d + 3 * d * d, "we": l * d * d + d * d, "me": l * d * d + d}.get(n, count(n, d, l)), "a vector per lag"),
        (lambda n, d, l: {"attention": 4 * d * l}.get(n, count(n, d, l)), "four maps of d|" + NEUTRAL),
        (lambda n, d, l: {"attention": 4 * d * d}[n], "it raised KeyError"),
        (lambda n, d, l: count(n, d, l) / 4, "0.25 times"),
    ],
}


def count(name, d, n):
    return {"attention": 4 * d**2, "she": n * d**2 + 2 * d**2, "he": n * d + 3 * d**2,
            "we": n * d + d**2, "me": n * d + d}[name]


def log_softmax(z, axis=-1):
    z = z - z.max(axis, keepdims=True)
    return z - np.log(np.exp(z).sum(axis, keepdims=True))


def surprise(log_p, v):
    return -log_p[np.arange(len(v)), v].mean()


def top_p(c, p, rule, *, again=True):
    order = np.argsort(-c)
    some = np.zeros_like(c)
    chosen = order[rule(np.cumsum(c[order]), c[order], p)]
    some[chosen] = c[chosen]
    return some / some.sum() if again else some


LANGUAGE = {
    "check_cross_entropy": [
        (lambda z, v: surprise(log_softmax(z), v), "the token it has just read"),
        (lambda z, v: surprise(log_softmax(z[1:]), v[:-1]), NEUTRAL),
        (lambda z, v: surprise(log_softmax(z[1:]), v[1:]), "the token it has just read"),
        (lambda z, v: surprise(log_softmax(z[:-1]), v[:-1]), "the token it has just read"),
        (lambda z, v: surprise(np.log(np.exp(z[:-1]) / np.exp(z[:-1]).sum(-1, keepdims=True)), v[1:]), "exp(800) overflows"),
        (lambda z, v: surprise(z[:-1] - np.log(np.exp(z[:-1]).sum(-1, keepdims=True)), v[1:]), "exp(800) overflows"),
        (lambda z, v: surprise(log_softmax(z[:-1], 0), v[1:]), "over the positions"),
        (lambda z, v: surprise(log_softmax(z[:-1]), v[1:]) / LN2, "in bits"),
        (lambda z, v: -surprise(log_softmax(z[:-1]), v[1:]), "sign"),
        (lambda z, v: surprise(log_softmax(z[:-1]), v[1:]) * (len(v) - 1), "the sum over the predicted"),
        (lambda z, v: surprise(log_softmax(z[:-1]), v[1:]) * (len(v) - 1) / len(v), "T tokens make T - 1"),
        (lambda z, v: surprise(z[:-1], v[1:]), "The softmax is missing"),
        (lambda z, v: -np.exp(log_softmax(z[:-1]))[np.arange(len(v) - 1), v[1:]].mean(), "The logarithm is missing"),
        (lambda z, v: -np.log(np.exp(log_softmax(z[:-1]))[np.arange(len(v) - 1), v[1:]].mean()), "mean of the chances|infinity"),
        (lambda z, v: -log_softmax(z[:-1])[np.arange(len(v) - 1), v[1:]], "One number is expected"),
        (lambda z, v: F.cross_entropy(torch.tensor(z), torch.tensor(v)).item(), "the token it has just read"),
        (lambda z, v: -np.log(np.exp(log_softmax(z[:-1]))[:, v[1:]]).mean(), "every pair of"),
    ],
    "check_bits_per_byte": [
        (lambda L, n, b: L * n / b, "nats per byte"),
        (lambda L, n, b: L / LN2, "bits per token"),
        (lambda L, n, b: L * n * LN2 / b, "divide by ln 2"),
        (lambda L, n, b: L / LN2 * b / n, "upside down"),
        (lambda L, n, b: L / LN2 / b, "one token's surprise"),
        (lambda L, n, b: L * n / LN2, "whole text"),
        (lambda L, n, b: np.exp(L) * n / b, "perplexity"),
        (lambda L, n, b: np.log2(L) * n / b, NEUTRAL),
        (lambda L, n, b: L * n / LN2 / (8 * b), "8 bits"),
        (lambda L, n, b: L * n / 2 / b, NEUTRAL + "|Every value is"),
        (lambda L, n, b: L * n // LN2 / b, NEUTRAL + "|hundredth"),
        (lambda L, n, b: 1 / 0, "it raised ZeroDivisionError"),
    ],
    "check_top_p": [
        (lambda c, p: top_p(c, p, lambda s, c, p: s <= p), "carries the sum over p"),
        (lambda c, p: top_p(c, p, lambda s, c, p: s < p), "carries the sum over p"),
        (lambda c, p: np.nan_to_num(top_p(c, p, lambda s, c, p: s <= p)), "carries the sum over p"),
        (lambda c, p: top_p(c, p, lambda s, c, p: s - c <= p), "exactly it is enough"),
        (lambda c, p: top_p(c, p, lambda s, c, p: s - c < p, again=False), "must sum to one again"),
        (lambda c, p: top_p(c, p, lambda s, c, p: c >= p), "threshold for single tokens"),
        (lambda c, p: np.where(c >= p, c, 0), "threshold for single tokens"),
        (lambda c, p: np.where(np.cumsum(c) - c < p, c, 0) / np.where(np.cumsum(c) - c < p, c, 0).sum(), "followed the vocabulary"),
        (lambda c, p: np.sort(top_p(c, p, lambda s, c, p: s - c < p))[::-1], "sorted order"),
        (lambda c, p: top_p(c, 1 - p, lambda s, c, p: s - c < p), "1 - p"),
        (lambda c, p: np.flatnonzero(top_p(c, p, lambda s, c, p: s - c < p)), "Expected were"),
        (lambda c, p: top_p(c, p, lambda s, c, p: s >= p), NEUTRAL),
        (lambda c, p: c, "Nothing was cut"),
        (lambda c, p: rising(c, p), "least likely token"),
        (lambda c, p: c.sort() or c, "changes its own arguments"),
        (lambda c, p: np.argsort(-c)[np.cumsum(np.sort(c)[::-1]) < p], "Expected were"),
    ],
}


def rising(c, p):
    order, some = np.argsort(c), np.zeros_like(c)
    chosen = order[np.cumsum(c[order]) - c[order] < p]
    some[chosen] = c[chosen]
    return some / some.sum()


def depth_by(program, *, visit):
    return max(visit(name) for name in program)


def in_order(program):
    ready = {}
    for name, (_, operands) in program.items():
        ready[name] = 1 + max(ready.get(u, 0) for u in operands)
    return max(ready.values())


def recursive(program, *, join=max, leaf=0, one=1, last=False, least=False):
    def visit(name):
        return leaf if name not in program else one + join([visit(u) for u in program[name][1]])

    found = [visit(name) for name in program]
    return found[-1] if last else min(found) if least else max(found)


PATH = {
    "check_depth": [
        (in_order, "order of the entries"),
        (lambda g: recursive(g, leaf=1), "Inputs and weights were counted"),
        (lambda g: recursive(g, join=sum), "were added"),
        (lambda g: recursive(g, join=min), "first operand was ready"),
        (lambda g: recursive(g, join=lambda r: r[0]), "first operand of each"),
        (lambda g: recursive(g, join=lambda r: r[-1]), "last operand of each"),
        (lambda g: recursive(g, last=True), "listed last"),
        (len, "That is the work"),
        (lambda g: recursive(g, one=0), NEUTRAL),
        (lambda g: recursive(g, join=lambda r: sum(r) / len(r)), NEUTRAL),
        (lambda g: depth_by(g, visit=lambda v: 1 + max(len(u) for u in g[v][1])), NEUTRAL + "|it raised"),
        (lambda g: max(len(g[v][1]) for v in g), "number of operands|" + NEUTRAL),
        (lambda g: recursive({k: ("", v) for k, v in g.items()}), "it raised|" + NEUTRAL),
        (lambda g: recursive(g) - 1, "One step is missing"),
        (lambda g: sum(kind == "mul" for kind, _ in g.values()), NEUTRAL),
    ],
    "check_tree_depth": [
        (lambda n: n - 1, "one addition after the other"),
        (lambda n: math.log2(n), "not rounded"),
        (lambda n: int(math.log2(n)), "rounded down"),
        (lambda n: math.floor(math.log2(n)), "rounded down"),
        (lambda n: n.bit_length(), "one level too many"),
        (lambda n: int(math.log2(n)) + 1, "one level too many"),
        (lambda n: math.ceil(math.log2(n)) + 1, "counted as a level"),
        (lambda n: n // 2, "One level leaves half"),
        (lambda n: math.ceil(math.log(n)), "natural logarithm"),
        (lambda n: round(math.log2(n)), "nearest whole number"),
        (lambda n: 0 if n == 1 else 1 + PATH["check_tree_depth"][10][0](n // 2), "rounded down"),
        (lambda n: 1 + PATH["check_tree_depth"][11][0]((n + 1) // 2), "calls itself without end"),
        (lambda n: math.sqrt(n), NEUTRAL),
    ],
    "check_crossover": [
        (lambda a, b, c, d: (a - c) / (d - b), "it raised ZeroDivisionError|negative number|never cross"),
        (lambda a, b, c, d: max(1, (a - c) / (d - b)) if d > b else inf, "Where a is as deep"),
        (lambda a, b, c, d: (a - c) / (d - b) if d > b else inf, "negative number|never cross"),
        (lambda a, b, c, d: max(1, (d - b) / (a - c)) if d > b else inf, "upside down"),
        (lambda a, b, c, d: a / (d - b) if d > b else inf, "work of a"),
        (lambda a, b, c, d: max(1, (a - c) / d) if d > b else inf, "depth of b"),
        (lambda a, b, c, d: max(1, (c - a) / (d - b)) if d > b else inf, "other way round"),
        (lambda a, b, c, d: max(1, math.ceil((a - c) / (d - b))) if d > b else inf, "as deep"),
        (lambda a, b, c, d: max(1, (a - c) / (d - b)) if d > b else 0, NEUTRAL + "|never|inf"),
        (lambda a, b, c, d: (a / b) / (c / d), "Ratios of work to depth"),
        (lambda a, b, c, d: a * b / (c * d), NEUTRAL),
        (lambda a, b, c, d: inf, NEUTRAL + "|infinity"),
    ],
}


def by_fft(x, W, *, n=None, last=None, conj=False, flip=False, product="fi,fij->fj", tell=True):
    T, m = len(x), len(x) + len(W) - 1
    n = m if n is None else n(len(x), len(W))
    a, b = np.fft.rfft(x, n=n, axis=0), np.fft.rfft(W[::-1] if flip else W, n=n, axis=0)
    e = np.einsum(product, a, b.conj() if conj else b)
    e = np.fft.irfft(e, n=n if tell else None, axis=0)
    return e[:T] if last is None else last(e, T)


FAST = {
    "check_fft_convolution": [
        (lambda x, W: by_fft(x, W, n=lambda T, m: T), "wraps around|shape"),
        (lambda x, W: by_fft(x, W, n=lambda T, m: max(T, m)), "wraps around"),
        (lambda x, W: by_fft(x, W, n=lambda T, m: T + m - 2 or 1), "One zero is missing"),
        (lambda x, W: by_fft(x, W, flip=True), "lags run backwards"),
        (lambda x, W: by_fft(x, W, tell=False), "irfft was not told"),
        (lambda x, W: by_fft(x, W, last=lambda e, T: e), "All T"),
        (lambda x, W: by_fft(x, W, last=lambda e, T: e[-T:]), "last T rows"),
        (lambda x, W: by_fft(x, W, conj=True), "conjugate"),
        (lambda x, W: by_fft(x, W, product="fi,fji->fj"), "wrong side"),
        (lambda x, W: np.fft.irfft(np.fft.rfft(x, axis=0)[:, None] @ np.fft.rfft(W, axis=0)), "it raised ValueError|shape"),
        (lambda x, W: np.fft.ifft(np.einsum("fi,fij->fj", np.fft.fft(x, len(x) + len(W) - 1, axis=0), np.fft.fft(W, len(x) + len(W) - 1, axis=0)), axis=0)[: len(x)] * (1 + 1e-3j), "complex"),
        (lambda x, W: by_fft(x, W, product="fi,fij->fi"), "summed over the outputs|" + NEUTRAL),
        (lambda x, W: np.fft.irfft(np.einsum("fi,fij->fj", np.fft.rfft(x, 9), np.fft.rfft(W, 9)), 9)[: len(x)], "it raised ValueError|shape"),
    ],
    "check_due_tile": [
        (lambda n: (2 ** int(math.log2(n)), n - 2 ** int(math.log2(n)), n, 2 * 2 ** int(math.log2(n)) - 1), "largest power of two up to n"),
        (lambda n: (n & -n, n - (n & -n), n + 1, 2 * (n & -n) - 1), "counted from 0"),
        (lambda n: (n & -n, n - (n & -n) + 1, n, 2 * (n & -n) - 1), "begin at n - U"),
        (lambda n: (n & -n, n - (n & -n), n, 2 * (n & -n)), "not 2 U"),
        (lambda n: (n & -n, n - (n & -n), n, n & -n), "U is the lag"),
        (lambda n: (n & -n, 0, n, 2 * (n & -n) - 1), "Older inputs"),
        (lambda n: (n & -n, n - (n & -n), n), "Expected were 4 items"),
        (lambda n: [n & -n, n - (n & -n), n, n - 1], NEUTRAL),
        (lambda n: (n & n - 1, n, n, n), NEUTRAL),
        (lambda n: n & -n, "four numbers|shape|number"),
        (lambda n: (n, 0, n, 2 * n - 1), NEUTRAL),
        (lambda n: (n & -n, n - (n & -n), n - 1, 2 * (n & -n) - 2), NEUTRAL),
    ],
}


def cross(x, m, q, k, v, o, pad, *, scale=True, hide=True, after=False):
    S = (x @ q) @ (m @ k).T / (math.sqrt(q.shape[1]) if scale else 1)
    S = S.masked_fill(pad, -inf) if hide else S
    A = S.softmax(-1)
    return (A * ~pad if after else A) @ (m @ v) @ o


def search(score, most, *, start=1, row=-1, strip=True, stop=True, many=0, keep_end=False):
    tokens = [start]
    while len(tokens) <= most + many:
        new = int(score(tokens)[row].argmax())
        if stop and new == 2:
            tokens += [2] * keep_end
            break
        tokens.append(new)
    return tokens[1:] if strip else tokens


def bleu(hs, rs, *, clip=True, mean="geometric", brevity="exp", most=4, corpus=True):
    if not corpus:
        return sum(bleu([h], [r]) for h, r in zip(hs, rs, strict=True)) / len(hs)
    c = sum(len(h.split()) for h in hs)
    r = sum(len(one.split()) for one in rs)
    ps = []
    for n in range(1, most + 1):
        found = total = 0
        for h, one in zip(hs, rs, strict=True):
            a, b = ([*zip(*(s.split()[i:] for i in range(n)), strict=False)] for s in (h, one))
            a, b = collections.Counter(a), collections.Counter(b)
            found += sum(min(k, b[g]) if clip else k * (g in b) for g, k in a.items())
            total += sum(a.values())
        ps.append(found / total if total else 0)
    p = {"geometric": math.prod(ps) ** (1 / most), "sum": sum(ps) / most, "product": math.prod(ps)}[mean]
    penalty = {"exp": min(1, math.exp(1 - r / c)), "none": 1, "free": math.exp(1 - r / c), "ratio": min(1, c / r)}[brevity]
    return 100 * p * penalty


TRANSLATION = {
    "check_cross_attention": [
        (lambda *a: cross(*a, hide=False), "Padding gets weight"),
        (lambda *a: cross(*a, hide=False, after=True), "hidden after the softmax"),
        (lambda *a: cross(*a, scale=False), "not divided by sqrt"),
        (lambda x, m, q, k, v, o, pad: cross(x, x, q, k, v, o, pad), "Keys and values come from x"),
        (lambda x, m, q, k, v, o, pad: cross(m, x, q, k, v, o, pad), "it raised RuntimeError|Queries come from memory"),
        (lambda x, m, q, k, v, o, pad: cross(x, m, q, k, v, o, ~pad), "mask is turned round"),
        (lambda x, m, q, k, v, o, pad: cross(x, m, k, q, v, o, pad), "W_q and W_k are exchanged"),
        (lambda x, m, q, k, v, o, pad: cross(x, m, q, k, k, o, pad), "values are the keys"),
        (lambda x, m, q, k, v, o, pad: cross(x, m, q, k, v, torch.eye(q.shape[1]).double(), pad), "W_o|shape"),
        (lambda x, m, q, k, v, o, pad: cross(x, m, q, k, v, o, pad).T, "transpose"),
        (lambda x, m, q, k, v, o, pad: ((x @ q) @ (m @ k).T / math.sqrt(q.shape[1])).masked_fill(pad, 0).softmax(-1) @ (m @ v) @ o, "exp(0) = 1"),
        (lambda x, m, q, k, v, o, pad: ((x @ q) @ (m @ k).T / math.sqrt(q.shape[1])).masked_fill(pad, -inf).softmax(0).nan_to_num() @ (m @ v) @ o, "over the words that ask"),
        (lambda x, m, q, k, v, o, pad: ((x @ q) @ (m @ k).T / math.sqrt(x.shape[1])).masked_fill(pad, -inf).softmax(-1) @ (m @ v) @ o, "uses d"),
    ],
    "check_greedy": [
        (lambda f, n: search(f, n, start=0), "does not start with BOS"),
        (lambda f, n: search(f, n, row=0), "row 0"),
        (lambda f, n: search(f, n, stop=False), "the search goes on"),
        (lambda f, n: search(f, n, keep_end=True), "EOS stands in the result"),
        (lambda f, n: search(f, n, strip=False), "BOS stands in the result"),
        (lambda f, n: search(f, n, many=1), "max_len + 1"),
        (lambda f, n: search(f, n, many=-1), "one word too few"),
        (lambda f, n: search(f, n, start=2), "starts with EOS|does not start with BOS"),
        (lambda f, n: f([1]).argmax(-1).tolist(), "Expected were|" + NEUTRAL),
        (lambda f, n: np.array(search(f, n, keep_end=True)), "EOS stands in the result"),
        (lambda f, n: search(f, n + 10**9), "writes on until EOS"),
        (lambda f, n: [search(f, n)], "shape|" + NEUTRAL),
        (lambda f, n: f([]).argmax(), "it raised"),
        (lambda f, n: search(f, n)[::-1], NEUTRAL),
    ],
    "check_bleu": [
        (lambda h, r: bleu(h, r, clip=False), "Nothing is clipped"),
        (lambda h, r: bleu(h, r, mean="sum"), "geometric mean"),
        (lambda h, r: bleu(h, r, mean="product"), "fourth root of the product is missing"),
        (lambda h, r: bleu(h, r, brevity="none"), "brevity penalty is missing"),
        (lambda h, r: bleu(h, r, brevity="free"), "exceeds 1"),
        (lambda h, r: bleu(h, r, brevity="ratio"), "The penalty is c / r"),
        (lambda h, r: bleu(h, r, corpus=False), "averages a BLEU of each sentence"),
        (lambda h, r: bleu(h, r, most=3), "Runs of four"),
        (lambda h, r: bleu(h, r, most=1), "Single words only"),
        (lambda h, r: bleu(h, r) / 100, "0.01 times|between 0 and 1|hundred"),
        (lambda h, r: bleu(r, h), "Translations and references are exchanged"),
        (lambda h, r: bleu(h[0], r[0]), NEUTRAL + "|it raised"),
        (lambda h, r: bleu([" ".join(h)], [" ".join(r)]), "across the ends of sentences|" + NEUTRAL),
    ],
}


def layer_norm(z, g, b, eps=1e-5):
    return F.layer_norm(z, z.shape, g, b, eps)


def alr(x, n, w, *, first=True, last=True, norm_1=True, norm_2=True, act=True, order=False, bias=True):
    is_word = (torch.arange(len(x)) < n)[:, None]
    z = x * is_word if first else x
    z = (z.T if order else z).flatten()
    z = layer_norm(z, w["gain"], w["shift"]) if norm_1 else z
    h = z @ w["w_1"] + w["b_1"] * bias
    h = {True: F.leaky_relu(h, 0.01), False: h, "relu": F.relu(h), "gelu": F.gelu(h)}[act]
    h = layer_norm(h, w["hidden_gain"], w["hidden_shift"]) if norm_2 else h
    y = (h @ w["w_2"] + w["b_2"] * bias).view_as(x)
    return y * is_word if last else y


def prefix(x, gain, shift, w, b, *, n="all", var="centred", eps=1e-5, mean=True, c=True, bias=True, sums=True, g="all"):
    T = len(x)
    add = (lambda v: v.cumsum(0)) if sums else (lambda v: v)
    W = torch.tensor(gain.numel()) if n == "all" else torch.arange(1, T + 1) * x.shape[1]
    s = add(torch.einsum("td,tdh->th", x * gain[:T], w[:T]))
    m, q = add(x.sum(1)) / W, add((x**2).sum(1)) / W
    G = torch.einsum("jd,jdh->jh", gain, w)
    G = {"all": G.sum(0), "seen": G.cumsum(0)[:T], "now": G[:T]}[g]
    C = torch.einsum("jd,jdh->h", shift, w) if c else 0
    v = {"centred": q - m**2, "raw": q, "unbiased": (q - m**2) * W / (W - 1)}[var]
    top = s - m[:, None] * G if mean else s
    return top / (v + eps).sqrt()[:, None] + C + (b if bias else 0)


DISTILLATION = {
    "check_alr_net": [
        (lambda x, n, w: alr(x, n, w, first=False), "empty slots reaches the net"),
        (lambda x, n, w: alr(x, n, w, last=False), "Rows after the last word"),
        (lambda x, n, w: alr(x, n, w, norm_1=False), "without its norm"),
        (lambda x, n, w: alr(x, n, w, norm_2=False), "norm of the hidden units is missing"),
        (lambda x, n, w: alr(x, n, w, order=True), "channel by channel"),
        (lambda x, n, w: alr(x, n, w, act="relu"), "Values below zero became zero"),
        (lambda x, n, w: alr(x, n, w, act=False), "LeakyReLU is missing"),
        (lambda x, n, w: alr(x, n, w, act="gelu"), NEUTRAL),
        (lambda x, n, w: alr(x, n, w, bias=False), NEUTRAL),
        (lambda x, n, w: alr(x, n, w) + x, "input was added"),
        (lambda x, n, w: alr(x, n, w).flatten(), "in another shape"),
        (lambda x, n, w: alr(x[:n], n, w), "it raised RuntimeError|NaN"),
        (lambda x, n, w: alr(x, n, w, first=False, last=False), NEUTRAL),
    ],
    "check_prefix_hidden": [
        (lambda *a: prefix(*a, n="seen"), "divided by the numbers read so far"),
        (lambda *a: prefix(*a, eps=0), "small number under the root"),
        (lambda *a: prefix(*a, mean=False), "mean is not taken off"),
        (lambda *a: prefix(*a, var="raw"), "mean square, not the variance"),
        (lambda *a: prefix(*a, c=False), "shift of the norm is missing"),
        (lambda *a: prefix(*a, bias=False), "b_1 is missing"),
        (lambda *a: prefix(*a, sums=False), "its own token alone"),
        (lambda *a: prefix(*a, g="seen"), "off the filled slots alone"),
        (lambda *a: prefix(*a, var="unbiased"), "W - 1"),
        (lambda *a: prefix(*a, eps=1e-3), "1e-5|hundredth|" + NEUTRAL),
        (lambda x, *a: prefix(x, *a)[-1:].expand(len(x), -1), "the whole sentence|last row|" + NEUTRAL),
        (lambda *a: prefix(*a).T, "transpose"),
        (lambda x, g, s, w, b: F.leaky_relu(prefix(x, g, s, w, b)), "LeakyReLU came on top"),
    ],
}

REPLACING = {
    "check_kept_share": [
        (lambda s, t, c: s / t, "teacher's score alone"),
        (lambda s, t, c: (s - max(c)) / (t - max(c)), "it raised ZeroDivisionError"),
        (lambda s, t, c: (s - min(c)) / (t - min(c)) if t > min(c) else math.nan, "weakest control"),
        (lambda s, t, c: (s - c[0]) / (t - c[0]) if t > c[0] else math.nan, "first control"),
        (lambda s, t, c: (s - np.mean(c)) / (t - np.mean(c)), "mean of the controls"),
        (lambda s, t, c: (t - s) / (t - max(c)) if t > max(c) else math.nan, "share that was lost"),
        (lambda s, t, c: max(0, (s - max(c)) / (t - max(c))) if t > max(c) else math.nan, "cut off at zero"),
        (lambda s, t, c: (s - max(c)) / (t - max(c)) if t > max(c) else 1, "return nan"),
        (lambda s, t, c: (s - max(c)) / (t - max(c)) if t > max(c) else 0, "return nan"),
        (lambda s, t, c: (s - max(c)) / (t - max(c)) if t > max(c) else None, "is a return missing"),
        (lambda s, t, c: (s - max(c)) / t, "from the student alone"),
        (lambda s, t, c: 100 * (s - max(c)) / (t - max(c)) if t > max(c) else math.nan, "100 times"),
        (lambda s, t, c: (s - c) / (t - c), "it raised TypeError"),
    ],
    "check_find_leak": [
        (lambda f, x, n: leak(f, x, n, at=-1), "may be padding"),
        (lambda f, x, n: leak(f, x, n, to=n), "edited position itself"),
        (lambda f, x, n: leak(f, x, n, at=0, first=1, to=n), "early word"),
        (lambda f, x, n: leak(f, x, n, size=0.1), "tolerance is so large"),
        (lambda f, x, n: leak(f, x, n, absolute=False), "changes downward"),
        (lambda f, x, n: leak(f, x, n, copy=False), "changes its own arguments"),
        (lambda f, x, n: bool(leak(f, x, n)), "shape is wrong"),
        (lambda f, x, n: torch.tensor(leak(f, x, n)) + 1, "counted from 1"),
        (lambda f, x, n: leak(f, x, n, at=n), "it raised IndexError"),
        (lambda f, x, n: [], "Expected were"),
        (lambda f, x, n: list(range(n - 1)), "Expected were"),
        (lambda f, x, n: leak(f, x, n, channel=True), "first channel only"),
        (lambda f, x, n: leak(f, x, n, at=-2 if n > 1 else -1), "Expected were"),
    ],
}


def leak(f, x, n, *, at=None, first=0, to=None, size=1e-9, absolute=True, copy=True, channel=False):
    other = x.clone() if copy else x
    before = f(x).clone()
    other[n - 1 if at is None else at] += 1
    change = f(other) - before
    change = change.abs() if absolute else change
    moved = change[:, 0] > size if channel else (change > size).any(-1)
    return [t for t in range(first, n - 1 if to is None else to) if moved[t]]


def verdict(first, second, *, paired=True, ddof=1, root=True, t=None, least=3, sign=1, one_sided=False):
    from attnlab.analysis.compare import student_t_975

    a, b = np.array(first), np.array(second)
    n = len(a)
    if n < least:
        return {1: "one run", 2: "two runs"}[n]
    spread = (a - b).std(ddof=ddof) if paired else math.hypot(a.std(ddof=1), b.std(ddof=1))
    half = (student_t_975(n - 1) if t is None else t) * spread / (math.sqrt(n) if root else 1)
    mean = sign * (a - b).mean()
    if mean + half < 0:
        return "holds here"
    return "fails here" if mean - half > 0 else "not distinguishable at this budget"


FOUND = {
    "check_verdict": [
        (lambda a, b: verdict(a, b, least=2) if len(a) > 1 else "one run", "Two seeds gave a verdict"),
        (lambda a, b: verdict(a, b, paired=False), "spread of the losses"),
        (lambda a, b: verdict(a, b, root=False), "single difference"),
        (lambda a, b: verdict(a, b, t=1.96), "1.96"),
        (lambda a, b: verdict(a, b, sign=-1), "sides are exchanged"),
        (lambda a, b: verdict(a, b, ddof=0), "ddof=1"),
        (lambda a, b: "holds here" if np.mean(a) < np.mean(b) else "fails here", "No interval"),
        (lambda a, b: verdict(a, b).upper(), "The text is another one"),
        (lambda a, b: verdict(a, b) if len(a) > 2 else "too few", "The text is another one"),
        (lambda a, b: verdict(a, b) == "holds here", "is of type|text"),
        (lambda a, b: a - b, "it raised TypeError"),
        (lambda a, b: "fails here" if verdict(a, b) == "not distinguishable at this budget" else verdict(a, b), "The text is another one"),
        (lambda a, b: verdict(a, b, t=0), "No interval"),
    ],
    "check_report": [
        (lambda v, t: t.min(), "chose on the test"),
        (lambda v, t: v.min(), "validation loss of the arm"),
        (lambda v, t: t.mean(), "mean over all arms"),
        (lambda v, t: t[v.argmax()], "highest validation loss"),
        (lambda v, t: v.argmin(), "number of the arm"),
        (lambda v, t: v[t.argmin()], "exchanged"),
        (lambda v, t: min(v.min(), t.min()), "validation loss of the arm"),
        (lambda v, t: (v + t).min() / 2, NEUTRAL + "|both splits"),
        (lambda v, t: t[v.min()], "it raised IndexError"),
        (lambda v, t: t[np.argmin(v + t)], "chose on the test"),
        (lambda v, t: t[0], "first arm|" + NEUTRAL),
        (lambda v, t: np.median(t), NEUTRAL),
        (lambda v, t: t[v == v.min()], "One number is expected"),
    ],
}


# What is built ----------------------------------------------------------------------------------


def bigram(tokens, n, steps, lr, *, sign=-1, clear=True, loss=None, shift=1, update=True):
    z = torch.zeros(n, n, requires_grad=True)
    for _ in range(steps):
        if clear and z.grad is not None:
            z.grad.zero_()
        L = (loss or F.cross_entropy)(z[tokens[:-1]], tokens[shift:] if shift else tokens[:-1])
        L.backward()
        if update:
            z.data = z.data + sign * lr * z.grad
    return z.detach()


START_HERE["check_train_bigram"] = [
    (lambda *a: bigram(*a, sign=1), "goes uphill"),
    (lambda *a: bigram(*a, clear=False), "Gradients of earlier steps"),
    (lambda *a: bigram(*a, shift=0), "the token it belongs to"),
    (lambda *a: bigram(*a, update=False), "did not move"),
    (lambda *a: bigram(*a, loss=lambda z, v: F.cross_entropy(z, v, reduction="sum")), "sum over the pairs"),
    (lambda *a: bigram(*a, loss=lambda z, v: F.cross_entropy(z.softmax(-1), v)), "softmax was taken twice"),
    (lambda *a: bigram(*a, loss=lambda z, v: F.nll_loss(z, v)), NEUTRAL),
    (lambda *a: bigram(*a, loss=lambda z, v: F.nll_loss(z.log_softmax(0), v)), NEUTRAL),
    (lambda t, n, s, lr: bigram(t, n, s + 1, lr), "One step too many"),
    (lambda t, n, s, lr: bigram(t, n, s, 1.0), "rate lr is not used"),
    (lambda t, n, s, lr: bigram(t.flip(0), n, s, lr), "Rows and columns are exchanged"),
    (lambda *a: bigram(*a).softmax(-1), "These are the chances"),
    (lambda *a: bigram(*a).T, "transpose"),
    (lambda *a: bigram(*a).numpy() * 0.5, "Every value is 0.5 times|" + NEUTRAL),
    (lambda t, n, s, lr: torch.zeros(n, n).backward(), "it raised RuntimeError"),
    (lambda *a: (bigram(*a), 0.7), "items|type"),
]


def back_off(*, order=None, suffix=True, even=False, counts=False, short_first=False, plus=0.0, unseen="shorter", stop=0):
    class Table:
        def __init__(self, tokens, order_asked, n):
            self.tokens, self.n = [int(v) for v in tokens], n
            self.order = order_asked if order is None else order(order_asked)

        def row(self, past):
            k = len(past)
            found = np.zeros(self.n)
            for t in range(k, len(self.tokens) - stop):
                if self.tokens[t - k : t] == past:
                    found[self.tokens[t]] += 1
            return found

        def predict(self, context):
            past = [int(v) for v in context]
            longest = min(self.order, len(past))
            sizes = range(longest + 1) if short_first else range(longest, -1, -1)
            for k in sizes:
                row = self.row(past[len(past) - k :] if suffix else past[:k])
                if row.sum() > 0:
                    row = row + plus
                    return row if counts else row / row.sum()
                if even:
                    return np.full(self.n, 1 / self.n)
                if unseen == "zeros":
                    return row
            return np.full(self.n, 1 / self.n)

    return Table


class NoPredict:
    def __init__(self, *a):
        pass


MARKOV["check_back_off"] = [
    (back_off(short_first=True), "answers first"),
    (back_off(order=lambda k: 0), "answers first"),
    (back_off(suffix=False), "beginning of the context"),
    (back_off(even=True), "gets an even row"),
    (back_off(counts=True), "These are counts"),
    (back_off(order=lambda k: k + 1), "One token more"),
    (back_off(order=lambda k: max(0, k - 1)), "One token less|it raised"),
    (back_off(order=lambda k: 99), NEUTRAL + "|One token more"),
    (back_off(plus=1.0), "added one"),
    (back_off(unseen="zeros"), NEUTRAL),
    (back_off(stop=1), NEUTRAL),
    (NoPredict, "needs a method predict"),
    (lambda *a: None, "needs a method predict"),
    (lambda a: None, "it raised TypeError"),
]


def mha(*, mask="causal", cross=False, width="head", view="right", back=True, out=True, bias=False, names=("query", "key", "value", "out"), axis=-1, source="memory", negative=-inf):
    class Mine(nn.Module):
        def __init__(self, d, n):
            super().__init__()
            self.n = n
            for name in names:
                setattr(self, name, nn.Linear(d, d, bias=bias))

        def cut(self, z):
            B, T, D = z.shape
            if view == "wrong":
                return z.view(B, self.n, T, D // self.n)
            return z.view(B, T, self.n, D // self.n).transpose(1, 2)

        def forward(self, x, memory=None, pad=None):
            m = memory if cross and source == "memory" else x
            q, k, v = self.cut(self.query(x)), self.cut(self.key(m)), self.cut(self.value(m))
            S = q @ k.transpose(-1, -2) / {"head": q.shape[-1], "model": x.shape[-1], "root": 1}[width] ** 0.5
            T = S.shape[-2]
            if mask == "causal":
                S = S.masked_fill(~torch.ones_like(S).tril().bool(), negative)
            if mask == "future":
                S = S.masked_fill(torch.ones(T, S.shape[-1]).tril().bool(), negative)
            if mask == "padding":
                S = S.masked_fill(pad[:, None, None], negative)
            A = S.softmax(axis)
            if mask == "late":
                A = A * torch.ones_like(A).tril()
            y = A @ v
            y = (y.transpose(1, 2) if back else y).reshape(x.shape)
            return self.out(y) if out else y

    return Mine


ATTENTION["check_heads"] = [
    (mha(mask="none"), "Nothing is masked"),
    (mha(mask="late"), "mask came after"),
    (mha(mask="future"), "NaN|" + NEUTRAL),
    (mha(width="model"), "The scale uses d"),
    (mha(width="root"), "not divided by sqrt"),
    (mha(view="wrong"), "view(B, H, T, d_h)"),
    (mha(back=False), "without transposing back"),
    (mha(out=False), "not mapped by out"),
    (mha(bias=True), "maps have biases"),
    (mha(names=("wq", "wk", "wv", "wo")), "needs four nn.Linear"),
    (mha(axis=-2), "over the queries|NaN"),
    (mha(negative=0.0), NEUTRAL),
    (lambda d, n: nn.MultiheadAttention(d, n), "needs four nn.Linear"),
    (nn.Linear(2, 2), "it raised TypeError"),
    (lambda d, n: None, "needs four nn.Linear"),
]
TRANSLATION["check_cross_site"] = [
    (mha(cross=True, mask="none"), "Padding gets weight"),
    (mha(cross=True, mask="causal"), NEUTRAL + "|causal mask"),
    (mha(cross=True, mask="padding", source="x"), "Keys and values come from x"),
    (mha(cross=True, mask="padding", width="model"), "The scale uses d"),
    (mha(cross=True, mask="padding", width="root"), "not divided by sqrt"),
    (mha(cross=True, mask="padding", view="wrong"), "view(B, H, T, d_h)|it raised"),
    (mha(cross=True, mask="padding", back=False), "without transposing back"),
    (mha(cross=True, mask="padding", out=False), "not mapped by out"),
    (mha(cross=True, mask="padding", bias=True), "maps have biases"),
    (mha(cross=True, mask="padding", axis=-2), "over the words that ask|NaN"),
    (mha(cross=True, mask="padding", names=("q", "k", "v", "o")), "needs four nn.Linear"),
    (mha(cross=True, mask="padding", negative=0.0), NEUTRAL + "|Padding"),
    (lambda d, n: nn.Identity(), "needs four nn.Linear"),
]


def she_layer(*, add="x", pre=True, gate="z", out=True, bias=False, lag=None, names=True, post=False):
    class Mine(nn.Module):
        def __init__(self, d, n):
            super().__init__()
            self.norm = nn.LayerNorm(d)
            setattr(self, "lag_weight" if names else "W", nn.Parameter(torch.zeros(n, d, d)))
            self.adjust = nn.Linear(d, d, bias=bias)
            self.out = nn.Linear(d, d, bias=bias)

        def forward(self, x):
            z = self.norm(x) if pre else x
            n = len(self.lag_weight)
            e = torch.zeros_like(z)
            for t in range(x.shape[1]):
                for j in range(min(t + 1, n) if lag is None else lag(t, n)):
                    e[:, t] = e[:, t] + z[:, t - j] @ self.lag_weight[j]
            y = e * self.adjust({"z": z, "x": x, "e": e}[gate])
            y = self.out(y) if out else y
            y = y + (x if add == "x" else z if add == "z" else 0)
            return self.norm(y) if post else y

    return Mine


EXTRACTOR["check_sublayer"] = [
    (she_layer(add="nothing"), "residual is missing"),
    (she_layer(add="z"), "normed input was added"),
    (she_layer(pre=False), "norm is not used"),
    (she_layer(pre=False, post=True), "norm came after the sum"),
    (she_layer(gate="x"), "gate reads x without"),
    (she_layer(gate="e"), "gate is computed from e_t"),
    (she_layer(out=False), "output map is missing"),
    (she_layer(bias=True), "has a bias"),
    (she_layer(names=False), "needs lag_weight"),
    (she_layer(lag=lambda t, n: t + 1), "min(t + 1, l) lags|only l matrices"),
    (she_layer(lag=lambda t, n: n), "negative index|it raised IndexError"),
    (she_layer(lag=lambda t, n: 1), NEUTRAL),
    (lambda d, n: nn.LayerNorm(d), "needs norm"),
]


def loop(model, batches, lr, *, opt=torch.optim.Adam, clear=True, step=True, target=1, late=False, total=False, inside=False):
    made, losses = opt(model.parameters(), lr), []
    for pair in batches:
        if inside:
            made = opt(model.parameters(), lr)
        if clear:
            made.zero_grad()
        z = model(pair[0])
        loss = F.cross_entropy(z.transpose(1, 2), pair[target], reduction="sum" if total else "mean")
        loss.backward()
        if step:
            made.step()
        losses.append(float(F.cross_entropy(model(pair[0]).transpose(1, 2), pair[target]) if late else loss))
    return losses


LANGUAGE["check_fit"] = [
    (lambda *a: loop(*a, clear=False), "Gradients of earlier batches"),
    (lambda *a: loop(*a, step=False), "did not move"),
    (lambda *a: loop(*a, target=0), "repeat what it reads"),
    (lambda *a: loop(*a, late=True), "taken after the step"),
    (lambda *a: loop(*a, total=True), "sum over the tokens"),
    (lambda *a: loop(*a, inside=True), "made anew"),
    (lambda *a: loop(*a, opt=torch.optim.SGD), "plain gradient descent"),
    (lambda *a: loop(*a, opt=torch.optim.AdamW), "AdamW"),
    (lambda m, b, lr: loop(m, b, 1e-3), "rate lr is not used"),
    (lambda m, b, lr: loop(m, b[:1], lr), "items|last batch"),
    (lambda *a: None if loop(*a) else 0, "is a return missing"),
    (lambda *a: loop(*a)[-1], "shape|items|type"),
    (lambda m, b, lr: m(b), "it raised"),
    (lambda m, b, lr: [F.cross_entropy(m(x), y).item() for x, y in b], "it raised"),
    (lambda *a: sum(loop(*a)) / 3, "shape|items|type"),
]


def number(*, join=max, start=0, reverse=False, right=True, first=False, text=False, name=True):
    class N:
        def __init__(self, value, depth=start, chain=()):
            self.value, self.depth = value, depth
            setattr(self, "chain" if name else "path", list(chain))

        def make(self, other, what, value):
            other = other if isinstance(other, N) else N(other)
            longer = self if self.depth >= other.depth or first else other
            chain = [what, *longer.chain] if reverse else [*longer.chain, what]
            return N(value, (self.depth if first else join((self.depth, other.depth))) + 1, " ".join(chain) if text else chain)

        def __add__(self, other):
            return self.make(other, "add", self.value + getattr(other, "value", other))

        def __mul__(self, other):
            return self.make(other, "mul", self.value * getattr(other, "value", other))

        if right:
            __radd__, __rmul__ = __add__, __mul__

    return N


PATH["check_number"] = [
    (number(join=min), "ready last"),
    (number(join=sum), "That is the work"),
    (number(start=1), "Inputs are ready at depth 0"),
    (number(reverse=True), "runs backwards"),
    (number(first=True), "Only the left operand"),
    (number(right=False), "it raised TypeError"),
    (number(text=True), "it raised|text|type|items"),
    (number(name=False), "needs an attribute chain|it raised"),
    (float, "needs an attribute"),
    (lambda v: v, "needs an attribute"),
    (complex, "needs an attribute"),
    (str, "it raised TypeError"),
]


def stream(*, static=False, keep=0, order=-1, late=False, side=False, all_of_it=False, forget=False):
    class S:
        past: list = []  # noqa: RUF012

        def __init__(self, W):
            self.W = W
            if not static:
                self.past = []

        def step(self, x):
            if not late:
                self.past.append(x)
            if not all_of_it and len(self.past) > len(self.W) - keep:
                self.past.pop(0)
            e = 0 * x
            for j, x_s in enumerate(self.past[::order]):
                e = e + (self.W[j] @ x_s if side else x_s @ self.W[j])
            if late:
                self.past.append(x)
            if forget:
                self.past = []
            return e

    return S


FAST["check_stream"] = [
    (stream(static=True), "share their state|only l matrices"),
    (stream(keep=1), "forgotten too early"),
    (stream(order=1), "lags run backwards"),
    (stream(late=True), "missing from its own sum|" + NEUTRAL),
    (stream(side=True), "wrong side"),
    (stream(all_of_it=True), "forget the oldest"),
    (stream(forget=True), "Only lag 0"),
    (lambda W: stream()(W[::-1]), "lags run backwards|" + NEUTRAL),
    (lambda W: stream()(W / 2), "Every value is 0.5|" + NEUTRAL),
    (lambda W: W, "needs a method step"),
    (lambda: 1, "it raised TypeError"),
    (lambda W: stream()(W.transpose(0, 2, 1)), "wrong side"),
]


def lesson(teacher, student, batches, lr, *, quiet=True, clear=True, step=True, both=False, own=False, scale=True, absolute=False, rate=None, total=False, sgd=False):
    if quiet:
        teacher.eval()
    weights = list(student.parameters()) + (list(teacher.parameters()) if both else [])
    made, errors = (torch.optim.SGD if sgd else torch.optim.Adam)(weights, rate or lr), []
    for x in batches:
        y = x if own else teacher(x)
        y = y if both else y.detach()
        gap = student(x) - y
        error = gap.abs().mean() if absolute else (gap**2).sum() if total else (gap**2).mean()
        error = error / y.var(correction=0) if scale else error
        if clear:
            made.zero_grad()
        error.backward()
        if step:
            made.step()
        errors.append(error.item())
    return errors


DISTILLATION["check_teach"] = [
    (lambda *a: lesson(*a, quiet=False), "training mode"),
    (lambda *a: lesson(*a, clear=False), "Gradients of earlier"),
    (lambda *a: lesson(*a, step=False), "did not move"),
    (lambda *a: lesson(*a, both=True), "teacher is trained as well"),
    (lambda *a: lesson(*a, own=True), "repeat its input"),
    (lambda *a: lesson(*a, scale=False), "not divided by the variance"),
    (lambda *a: lesson(*a, absolute=True), "absolute error"),
    (lambda *a: lesson(*a, total=True), "added up"),
    (lambda *a: lesson(*a, rate=1e-3), "rate lr is not used"),
    (lambda *a: lesson(*a, sgd=True), NEUTRAL),
    (lambda t, s, b, lr: lesson(s, t, b, lr), NEUTRAL + "|hundredth|Every|NaN"),
    (lambda *a: lesson(*a) and None, "is a return missing"),
    (lambda *a: lesson(*a)[-1], "shape|items|type"),
    (lambda t, s, b, lr: lesson(t, s, b[0], lr), NEUTRAL + "|it raised|items"),
]


def near(*, reach=1, ahead=True, count=True, pad=True, value=True, own=True, roll=False):
    class Mine(nn.Module):
        def __init__(self, site):
            super().__init__()
            self.value = site.value

        def forward(self, x, source_padding=None):
            v = self.value(x) if value else x
            is_word = torch.ones(x.shape[:2], dtype=x.dtype)
            if pad and source_padding is not None:
                is_word = (~source_padding).to(x.dtype)
            v, rows, T = v * is_word[..., None], [], x.shape[1]
            for t in range(T):
                at = [s % T if roll else s for s in range(t - reach, t + (reach if ahead else 0) + 1)]
                at = [s for s in at if 0 <= s < T and (own or s != t)]
                n = is_word[:, at].sum(1, keepdim=True).clamp(min=1)
                rows.append(v[:, at].sum(1) / (n if count else 3))
            return torch.stack(rows, 1)

    return Mine


REPLACING["check_stand_in"] = [
    (near(reach=2), "Two words on either side"),
    (near(ahead=False), "next word is missing"),
    (near(count=False), "divided by 3 everywhere"),
    (near(pad=False), "Padding was averaged in"),
    (near(value=False), "inputs themselves"),
    (near(own=False), "missing from its own mean"),
    (near(roll=True), "The ends are neighbours|" + NEUTRAL),
    (near(reach=0), NEUTRAL),
    (near(reach=99), NEUTRAL),
    (lambda site: nn.Identity(), "it raised TypeError"),
    (lambda site: site.value, "it raised TypeError"),
    (lambda site: 3, "built from a site"),
]


def claim(runs, first, second, metric, *, keep="last", turn=1, z=None, least=3, n_minus=1, root=True, by_seed=True, column=None):
    from attnlab.analysis.compare import student_t_975

    metric = column or metric
    runs = runs.drop_duplicates(["variant", "seed"], keep=keep) if keep else runs
    wide = [runs[runs.variant == name] for name in (first, second)]
    if by_seed:
        both = pd.merge(*wide, on="seed")
        D = turn * (both[metric + "_x"] - both[metric + "_y"]).to_numpy()
    else:
        n = min(map(len, wide))
        D = turn * (wide[0][metric].to_numpy()[:n] - wide[1][metric].to_numpy()[:n])
    n = len(D)
    if n < least:
        return n, math.nan, math.nan, ["not recorded yet", "one run", "two runs"][n]
    half = (z or student_t_975(n - 1)) * D.std(ddof=n_minus) / (math.sqrt(n) if root else 1)
    low, high = D.mean() - half, D.mean() + half
    return n, low, high, "holds here" if high < 0 else "fails here" if low > 0 else "not distinguishable at this budget"


FOUND["check_claim"] = [
    (lambda *a: claim(*a, keep="first"), "the first one was taken"),
    (lambda *a: claim(*a, keep=None), NEUTRAL + "|repeated"),
    (lambda *a: claim(*a, by_seed=False), "paired by their place"),
    (lambda *a: claim(*a, turn=-1), "sides are exchanged"),
    (lambda *a: claim(*a, least=2), "Two seeds gave a verdict"),
    (lambda *a: claim(*a, z=1.96), "1.96"),
    (lambda *a: claim(*a, n_minus=0), "ddof=1"),
    (lambda *a: claim(*a, root=False), "single difference"),
    (lambda *a: claim(*a, column="test_loss_nats"), "column asked for"),
    (lambda r, a, b, m: claim(r, b, a, m), "sides are exchanged"),
    (lambda *a: claim(*a)[3], "It is text|type"),
    (lambda *a: claim(*a)[:3], "Expected were 4 items|items|type"),
    (lambda r, a, b, m: r[a] - r[b], "it raised KeyError"),
]


def line(x, y):
    return np.polyfit(x, y, 1)[0]


def resampled(N, gap, draws, *, take=lambda powers: np.quantile(powers, [0.025, 0.975]), sizes=True, sign=-1):
    return take(np.array([sign * line(np.log(N[d] if sizes else N), np.log(gap[d])) for d in draws]))


def two_powers(N, D, loss, h, powers, *, weigh=lambda gap: 1 / gap, sign=-1, best=min, both=True, floor=1, order=(1, 2, 3, 4)):
    gap, found = loss - floor * h, []
    for a in powers:
        for b in powers if both else [a]:
            w = weigh(gap)
            X = np.stack([N ** (sign * a), D ** (sign * b)], 1) * w[:, None]
            A, B = np.linalg.lstsq(X, gap * w, rcond=None)[0]
            found.append((float(np.square(X @ [A, B] - gap * w).sum()), A, a, B, b))
    row = best(found)
    return tuple(row[i] for i in order)


SCALING = {
    "check_power": [
        (lambda N, L, h: -line(np.log(N), np.log(L)), "floor was not subtracted"),
        (lambda N, L, h: line(np.log(N), np.log(L - h)), "the power is its negative"),
        (lambda N, L, h: -line(np.log(N), L - h), "gap needs its logarithm"),
        (lambda N, L, h: -line(N, np.log(L - h)), "weights need their logarithm"),
        (lambda N, L, h: -line(np.log(L - h), np.log(N)), NEUTRAL + "|axes are exchanged"),
        (lambda N, L, h: -line(np.log(N), np.log(L + h)), "floor was added"),
        (lambda N, L, h: -line(np.log10(N), np.log(L - h)), "Two kinds of logarithm"),
        (lambda N, L, h: -line(np.log(N), np.log10(L - h)), "Every value is"),
        (lambda N, L, h: np.log(L - h)[0] / np.log(N)[0], NEUTRAL + "|sign is wrong"),
        (lambda N, L, h: np.polyfit(np.log(N), np.log(L - h), 1), "numbers|shape|items|array"),
        (lambda N, L, h: np.exp(-line(np.log(N), np.log(L - h))), NEUTRAL),
    ],
    "check_interval": [
        (lambda *a: resampled(*a, take=lambda p: np.quantile(p, [0.05, 0.95])), "90 %"),
        (lambda *a: resampled(*a, take=lambda p: np.quantile(p, [0.25, 0.75])), "quartiles"),
        (lambda *a: resampled(*a, take=lambda p: np.array([p.min(), p.max()])), "lowest and the highest draw"),
        (lambda *a: resampled(*a, sizes=False), "a run is a pair"),
        (lambda *a: resampled(*a, sign=1), "the power is the negative|sign is wrong"),
        (lambda *a: resampled(*a)[::-1], "ends are exchanged"),
        (lambda *a: resampled(*a, take=lambda p: p.mean() + np.array([-1.96, 1.96]) * p.std() / len(p) ** 0.5), "more draws do not make"),
        (lambda *a: resampled(*a, take=lambda p: p.mean() + np.array([-1.0, 1.0]) * p.std()), NEUTRAL),
        (lambda *a: resampled(*a, take=np.mean), "shape|numbers|number|type"),
        (lambda *a: resampled(*a, take=lambda p: p), "2 items"),
        (lambda *a: resampled(*a, take=lambda p: np.percentile(p, [0.025, 0.975])), NEUTRAL),
    ],
    "check_crossing": [
        (lambda C, p, K, q: (K / C) ** (1 / (q - p)), "factors are exchanged"),
        (lambda C, p, K, q: C / K, "root is missing"),
        (lambda C, p, K, q: (C / K) ** (q - p), "not the power q - p"),
        (lambda C, p, K, q: math.log(C / K) / (q - p), "logarithm of the length"),
        (lambda C, p, K, q: (C / K) ** (1 / (q + p)), "subtracts their exponents"),
        (lambda C, p, K, q: (C / K) ** (1 / abs(p - q)), "sign of q - p matters"),
        (lambda C, p, K, q: (C / K) ** (1 / (p - q)), "factors are exchanged"),
        (lambda C, p, K, q: (C - K) ** (1 / (q - p)), NEUTRAL + "|complex|type|it raised"),
        (lambda C, p, K, q: q / p, NEUTRAL),
        (lambda C, p, K, q: (C / K) / (q - p), NEUTRAL),
        (lambda C, p, K, q: round((C / K) ** (1 / (q - p))), "cut to whole|" + NEUTRAL),
    ],
    "check_law": [
        (lambda *a: two_powers(*a, floor=0), "floor was not subtracted"),
        (lambda *a: two_powers(*a, weigh=np.ones_like), "not divided by the gap"),
        (lambda *a: two_powers(*a, sign=1), "wrong sign"),
        (lambda *a: two_powers(*a, best=max), "worst pair"),
        (lambda *a: two_powers(*a, order=(3, 4, 1, 2)), "terms are exchanged"),
        (lambda *a: two_powers(*a, both=False), "Only equal powers"),
        (lambda *a: two_powers(*a, order=(2, 4)), "powers alone"),
        (lambda *a: two_powers(*a, order=(2, 1, 4, 3)), NEUTRAL),
        (lambda *a: two_powers(*a, order=(0, 1, 2, 3, 4)), "4 items|items|type"),
        (lambda *a: two_powers(*a, weigh=np.sqrt), NEUTRAL + "|not divided by the gap"),
        (lambda N, D, loss, h, powers: None, "Nothing came back"),
    ],
}
def memory(rule, *, read=lambda S, q: q @ S, start=0.0):
    class Answer:
        def __init__(self, d_key, d_value):
            self.S = np.full((d_key, d_value), start)

        def write(self, k, v, rate=1.0):
            self.S = rule(self.S, k, v, rate)

        def read(self, q):
            return read(self.S, q)

    return Answer


class WriteOnly:
    def __init__(self, d_key, d_value):
        self.S = np.zeros((d_key, d_value))

    def write(self, k, v, rate=1.0):
        self.S += rate * np.outer(k, v - k @ self.S)


def after(t, V):
    return np.bincount(t[1:][t[:-1] == t[-1]], minlength=V)


RECALL = {
    "check_most_pairs": [
        (lambda n, b, V: n * b / math.log2(V), "round down"),
        (lambda n, b, V: math.ceil(n * b / math.log2(V)), "Rounded up"),
        (lambda n, b, V: round(n * b / math.log2(V)), "Rounded to the nearest"),
        (lambda n, b, V: math.floor(n * b / math.log(V)), "natural logarithm"),
        (lambda n, b, V: n * b // V, "not V"),
        (lambda n, b, V: n * b, "number of bits"),
        (lambda n, b, V: math.floor(n / math.log2(V)), "How many bits has a number"),
        (lambda n, b, V: n * b // math.ceil(math.log2(V)), "rounded up first"),
        (lambda n, b, V: math.floor(n * b / math.log2(2 * V)), NEUTRAL),
        (lambda n, b, V: 2 ** (n * b) // V, NEUTRAL),
        (lambda n, b, V: math.floor(n * b / (2 * math.log2(V))), "The keys need not"),
        (lambda n, b, V: math.floor(n * b * math.log2(V)), NEUTRAL),
    ],
    "check_answer": [
        (lambda K, V, q: (q @ K.T @ V) / len(K), "mean over the pairs"),
        (lambda K, V, q: np.mean([(q @ k) * v for k, v in zip(K, V, strict=True)], axis=0), "mean over the pairs"),
        (lambda K, V, q: V[np.argmax(K @ q)], "nearest key"),
        (lambda K, V, q: V[np.argmin(((K - q) ** 2).sum(1))], "nearest key|" + NEUTRAL),
        (lambda K, V, q: K.T @ V, "multiply by the query"),
        (lambda K, V, q: q @ (V.T @ K), "it raised ValueError|" + NEUTRAL),
        (lambda K, V, q: np.exp(K @ q) / np.exp(K @ q).sum() @ V, "softmax"),
        (lambda K, V, q: np.abs(K @ q) @ V, "sign|" + NEUTRAL),
        (lambda K, V, q: np.maximum(0, K @ q) @ V, "cut off"),
        (lambda K, V, q: q @ np.outer(K[-1], V[-1]), "overwritten"),
        (lambda K, V, q: q @ np.outer(K[0], V[0]), "Only the first pair"),
        (lambda K, V, q: q @ np.linalg.pinv(K) @ V, "inverse"),
        (lambda K, V, q: (K @ q)[:, None] * V, "Expected|One|shape|axis|" + NEUTRAL),
    ],
    "check_next_law": [
        (lambda t, V, a: (np.bincount(t, minlength=V) + a) / (len(t) + V * a), "Single symbols"),
        (lambda t, V, a: (after(t, V) + 1) / (after(t, V).sum() + V), "taken to be 1"),
        (lambda t, V, a: after(t, V) + a, "sum to one"),
        (lambda t, V, a: after(t, V) / after(t, V).sum(), "NaN|" + NEUTRAL),
        (lambda t, V, a: (after(t, V) + a) / (after(t, V).sum() + a), "alpha once"),
        (lambda t, V, a: (after(t, V) + a) / (after(t, V).sum() + V), "V times alpha"),
        (lambda t, V, a: (after(t, V) + a) / (len(t) - 1 + V * a), "not by the length"),
        (lambda t, V, a: (after(t, V) + a / V) / (after(t, V).sum() + a), "shared out"),
        (lambda t, V, a: -np.log((after(t, V) + a) / (after(t, V) + a).sum()), "losses in nats"),
        (lambda t, V, a: (np.bincount(t[:-1][t[1:] == t[-1]], minlength=V) + a) / ((t[1:] == t[-1]).sum() + V * a), "before the last"),
        (lambda t, V, a: after(t, V).argmax(), "One number|shape|Expected|number"),
        (lambda t, V, a: ((after(t, V) > 0) + a) / ((after(t, V) > 0) + a).sum(), "as often as it was seen"),
    ],
    "check_memory": [
        (memory(lambda S, k, v, r: S + r * np.outer(k, v)), "this is the sum"),
        (memory(lambda S, k, v, r: r * np.outer(k, v)), "empty matrix|" + NEUTRAL),
        (memory(lambda S, k, v, r: S + np.outer(k, v - k @ S)), "rate is not used"),
        (memory(lambda S, k, v, r: S + np.outer(k, r * v - k @ S)), "not to the new value alone"),
        (memory(lambda S, k, v, r: S + np.outer(k, v - r * (k @ S))), "not to the old value alone"),
        (memory(lambda S, k, v, r: S + r * np.outer(k, k @ S - v)), "turned round"),
        (memory(lambda S, k, v, r: (1 - r) * S + r * np.outer(k, v)), "whole matrix fades"),
        (memory(lambda S, k, v, r: S + r * np.outer(v, k)), "it raised ValueError"),
        (memory(lambda S, k, v, r: S + r * np.outer(k, v - k @ S), start=1.0), "start with zeros"),
        (memory(lambda S, k, v, r: S + r * np.outer(k, v - k @ S), read=lambda S, q: S @ q), "it raised ValueError"),
        (WriteOnly, "Not found: read"),
        (lambda d_key, d_value: np.zeros((d_key, d_value)), "Not found: write"),
        (memory(lambda S, k, v, r: S + r * np.outer(k, v - v @ S.T @ S)), NEUTRAL),
    ],
}


def distances(a):
    T = len(a)
    return np.array([[a[t - s] if t >= s else 0.0 for s in range(T)] for t in range(T)])


def remembered(q, k, v, *, ask=0, forget=1.0, write=1.0):
    S, rows = np.zeros((k.shape[1], v.shape[1])), []
    for t in range(len(q)):
        late = q[t] @ S
        S = forget * S + write * np.outer(k[t], v[t])
        rows.append(late if ask else q[t] @ S)
    return np.array(rows)


def faded(q, k, a, *, first=1, last=1, future=False):
    n = len(q)
    M = np.array([[q[t] @ k[s] * np.prod(a[s + first : t + last]) for s in range(n)] for t in range(n)])
    return M if future else np.tril(M)


OTHER = {
    "check_toeplitz": [
        (lambda a: distances(a).T, "above the diagonal"),
        (lambda a: distances(a[::-1]), "run backwards"),
        (lambda a: np.tril(np.tile(a, (len(a), 1))), "Every row is the same"),
        (lambda a: np.tril(np.repeat(a[:, None], len(a), 1)), "Every column is the same"),
        (lambda a: np.array([[a[abs(t - s)] for s in range(len(a))] for t in range(len(a))]), "Both triangles"),
        (lambda a: np.array([[a[t - s] for s in range(len(a))] for t in range(len(a))]), "wraps around"),
        (lambda a: np.tril(distances(a), -1), "diagonal is missing"),
        (lambda a: np.diag(a), "Only the diagonal"),
        (lambda a: a[0] * np.tri(len(a)), "All distances share"),
        (lambda a: a, "One row is expected|shape"),
        (lambda a: a[0] * np.eye(len(a)), NEUTRAL + "|diagonal"),
        (lambda a: 2 * distances(a), "2 times"),
    ],
    "check_stream": [
        (lambda q, k, v: remembered(q, k, v, ask=1), "before the token is written"),
        (lambda q, k, v: remembered(k, q, v), "changed places"),
        (lambda q, k, v: q @ k.T @ v, "future leaks in"),
        (lambda q, k, v: remembered(q, k, v, forget=0.0), "forgotten at each token"),
        (lambda q, k, v: remembered(q, k, v)[-1], "last position alone"),
        (lambda q, k, v: remembered(q, k, v) / np.arange(1.0, len(q) + 1)[:, None], "divided by the number"),
        (lambda q, k, v: v.cumsum(0), "running sum of the values"),
        (lambda q, k, v: remembered(q, k, v)[::-1], "reverse order"),
        (lambda q, k, v: remembered(q, k, v, write=0.5), "0.5 times"),
        (lambda q, k, v: remembered(q, k, v, forget=0.5), NEUTRAL),
        (lambda q, k, v: remembered(q, k, v) / k.shape[1] ** 0.5, "1/sqrt(d)"),
        (lambda q, k, v: remembered(q, k, v).T, "transpose"),
    ],
    "check_decayed": [
        (lambda q, k, a: faded(q, k, a, first=0), "a_s is in the product"),
        (lambda q, k, a: faded(q, k, a, last=0), "a_t is missing"),
        (lambda q, k, a: faded(q, k, a, first=0, last=0), "runs from a_s to"),
        (lambda q, k, a: np.tril(q @ k.T), "Nothing fades"),
        (lambda q, k, a: np.tril((q @ k.T) * a[:, None]), "Only the newest gate"),
        (lambda q, k, a: faded(k, q, a), "changed places"),
        (lambda q, k, a: faded(q, k, a).T, "above the diagonal"),
        (lambda q, k, a: faded(q, k, a, future=True), "upper triangle"),
        (lambda q, k, a: np.tril((q @ k.T) * np.cumprod(a)[:, None]), "from the first token on"),
        (lambda q, k, a: faded(q, k, 1 - a), NEUTRAL),
        (lambda q, k, a: faded(q, k, np.exp(-a)), NEUTRAL),
        (lambda q, k, a: faded(q, k, np.full(len(a), a[0])), "One rate for all"),
    ],
    "check_share": [
        (lambda L, L0, best: (L - best) / (L0 - best), "what is left of the way"),
        (lambda L, L0, best: L0 - L, "gain in nats"),
        (lambda L, L0, best: 1 - L / L0, "divided by the loss without mixing"),
        (lambda L, L0, best: best / L, "ratio of losses"),
        (lambda L, L0, best: float(np.clip((L0 - L) / (L0 - best), 0, 1)), "cut it to 0 and 1"),
        (lambda L, L0, best: 100 * (L0 - L) / (L0 - best), "per cent"),
        (lambda L, L0, best: (L - L0) / (L0 - best), "sign is"),
        (lambda L, L0, best: (L0 - L) / best if best else 0.0, NEUTRAL),
        (lambda L, L0, best: L, NEUTRAL),
        (lambda L, L0, best: round((L0 - L) / (L0 - best)), "cut to whole|" + NEUTRAL),
        (lambda L, L0, best: (L0 - L) / (L0 - best) ** 2, NEUTRAL + "|times"),
    ],
}


def signs(x, W):
    z = x @ W
    return z.softmax(-1), (-z).softmax(-1)


def crossed(a, b, *, least=1e-9):
    return -(a * b.clamp(min=least).log())


def near_far(q, k, v, phi_q, phi_k, w, g, *, near=None, above=None, below=None, swap=False):
    rows = []
    for t in range(len(q)):
        first = max(0, t - w + 1) if near is None else near(t, w)
        s = k[first : t + 1] @ q[t] / q.shape[1] ** 0.5
        shares = phi_k[:first] @ phi_q[t]
        own = g * (s - s.max()).exp() if len(s) else s
        both = torch.cat([own, shares] if swap else [shares, own])
        y = (both if above is None else above(both, first)) @ v[: t + 1]
        rows.append(y / (both.sum() if below is None else below(both, first)))
    return torch.stack(rows)


AFTER = {
    "check_features": [
        (lambda x, W: signs(x, W)[0], "one sign only"),
        (lambda x, W: signs(x, W)[1], NEUTRAL + "|shape|one sign"),
        (lambda x, W: torch.cat(signs(x, W)[::-1], -1), "changed places"),
        (lambda x, W: torch.cat([signs(x, W)[0], -signs(x, W)[0]], -1), "sign belongs inside"),
        (lambda x, W: torch.cat([x @ W, -x @ W], -1).softmax(-1), "share one softmax"),
        (lambda x, W: torch.cat([(x @ W).exp(), (-x @ W).exp()], -1), "not divided by their sum"),
        (lambda x, W: torch.cat([x @ W, -x @ W], -1), "softmax is missing"),
        (lambda x, W: torch.cat([(x @ W).softmax(0), (-x @ W).softmax(0)], -1), "runs over tokens"),
        (lambda x, W: torch.cat([x.softmax(-1), (-x).softmax(-1)], -1), "W is not used|shape"),
        (lambda x, W: torch.cat([signs(x, W)[0], 1 - signs(x, W)[0]], -1), "is not softmax"),
        (lambda x, W: torch.cat(signs(x, W), 0), "shape"),
        (lambda x, W: torch.cat(signs(x, W), -1) / 2, "0.5 times|twice|half"),
    ],
    "check_weights_loss": [
        (lambda a, b: crossed(a, b).sum(), "added up|3 times|times"),
        (lambda a, b: crossed(a, b).mean(), "over all entries"),
        (lambda a, b: -crossed(a, b).sum(-1).mean(), "minus sign"),
        (lambda a, b: crossed(b, a).sum(-1).mean(), "changed places"),
        (lambda a, b: crossed(a, a).sum(-1).mean(), "teacher's entropy"),
        (lambda a, b: (crossed(a, b) - crossed(a, a)).sum(-1).mean(), "took the teacher's entropy off"),
        (lambda a, b: (a - b).square().sum(-1).mean(), "squared error"),
        (lambda a, b: crossed(a, b).sum(-1).mean() / 0.6931471805599453, "in bits"),
        (lambda a, b: crossed(a, b, least=0).sum(-1).mean(), "clamp"),
        (lambda a, b: crossed(a, b).sum(-1), "shape|one number"),
        (lambda a, b: crossed(torch.ones_like(a), b).sum(-1).mean(), NEUTRAL + "|weights are missing"),
        (lambda a, b: crossed(a, b).sum(-1).max(), NEUTRAL),
    ],
    "check_window_and_rest": [
        (lambda *given: near_far(*given, near=lambda t, w: max(0, t - w)), "one too long"),
        (lambda *given: near_far(*given, near=lambda t, w: min(t + 1, max(0, t - w + 2))), "one short"),
        (lambda *given: near_far(*given[:6], 1.0), "gate g is not used"),
        (lambda *given: near_far(*given, below=lambda both, first: 1.0), "Nothing was divided"),
        (lambda *given: near_far(*given, below=lambda both, first: both[first:].sum() if first < len(both) else 1.0),
         "Only the window is in the denominator"),
        (lambda *given: near_far(*given, swap=True), NEUTRAL),
        (lambda q, k, v, phi_q, phi_k, w, g: near_far(q, k, v, phi_k, phi_q, w, g), NEUTRAL),
        (lambda q, k, v, phi_q, phi_k, w, g: near_far(k, q, v, phi_q, phi_k, w, g), NEUTRAL),
        (lambda q, k, v, phi_q, phi_k, w, g: near_far(q * q.shape[1] ** 0.5, k, v, phi_q, phi_k, w, g),
         "root of the width"),
        (lambda q, k, v, phi_q, phi_k, w, g: near_far(q, k, v, phi_q, phi_k, len(q), g), NEUTRAL),
        (lambda q, k, v, phi_q, phi_k, w, g: near_far(q, k, v, phi_q, phi_k, 0, g), NEUTRAL),
        (lambda *given: near_far(*given)[-1], "shape|last"),
    ],
}

WRONG = {
    "start_here": START_HERE,
    "markov_framing": MARKOV,
    "attention": ATTENTION,
    "extractor": EXTRACTOR,
    "language_models": LANGUAGE,
    "critical_path": PATH,
    "fast_extractors": FAST,
    "translation_teacher": TRANSLATION,
    "distillation": DISTILLATION,
    "replacing_attention": REPLACING,
    "other_mixers": OTHER,
    "scaling_and_other_tasks": SCALING,
    "recall_and_state": RECALL,
    "attention_after_training": AFTER,
    "what_we_found": FOUND,
}
