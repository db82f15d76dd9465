"""Exercises of chapter 02: causal weights, one head, the price of a sequence."""

from __future__ import annotations

import math

import torch
from torch import nn

from attnlab.analysis.theory import expected_multiplications
from attnlab.mixers import build_mixer
from attnlab.seeding import torch_generator
from attnlab.teach import Exercise
from attnlab.teach.modules import MAPS, with_maps


def numbers(*shapes, stream):
    """Return random float64 tensors of these shapes."""
    generator = torch_generator(2, stream)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


# Exercise 2.1: causal weights from scores -------------------------------------------------------


def visible(scores, *, diagonal=0):
    return torch.ones_like(scores, dtype=torch.bool).tril(diagonal)


def weights_of(*, fill=-math.inf, diagonal=0, axis=-1):
    """Return causal weights with these parts right or wrong."""
    return lambda scores: scores.masked_fill(~visible(scores, diagonal=diagonal), fill).softmax(
        axis
    )


def mask_after(scores):
    return scores.softmax(-1) * visible(scores)


def no_mask(scores):
    return scores.softmax(-1)


def future_only(scores):
    return scores.masked_fill(~visible(scores).mT, -math.inf).softmax(-1)


def by_powers(scores):
    powers = scores.exp() * visible(scores)
    return powers / powers.sum(-1, keepdim=True)


causal_weights, over_queries = weights_of(), weights_of(axis=-2)

check_causal_weights = Exercise(
    causal_weights,
    [
        ("two tokens", math.log(2) * torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)),
        ("three equal scores", torch.zeros(3, 3, dtype=torch.float64)),
        ("random, 5 by 5", numbers((5, 5), stream="exercise 2.1")[0]),
        ("large scores, 7 by 7", 900 * numbers((7, 7), stream="exercise 2.1, large")[0]),
    ],
    {
        mask_after: "The mask came after the softmax: rows do not sum to one, and the future still weighs in the denominator. Mask the scores.",
        over_queries: "The softmax ran over the queries (columns sum to one); each query shares out its weight over the keys, the last axis.",
        no_mask: "Nothing is masked: every token looks into the future.",
        future_only: "The mask is transposed: tokens see the future only. Row t may see columns s <= t.",
        weights_of(fill=0.0): "Masked scores were set to 0, and exp(0) = 1 is a weight like any other. Use minus infinity.",
        weights_of(fill=-10.0): "Masked scores were set to a number that other scores can reach. Use minus infinity.",
        lambda scores: scores.masked_fill(visible(scores), -math.inf).softmax(-1): "The mask is turned round: it hides the past and leaves the future.",
        lambda scores: scores.masked_fill(~visible(scores), -math.inf): "These are the masked scores; the softmax is missing.",
        lambda scores: scores.exp() * visible(scores): "The powers of each row are not divided by their sum.",
        by_powers: "exp of a large score overflows. torch's softmax subtracts the largest of each row first, which changes nothing else.",
        weights_of(diagonal=-1): "The diagonal is masked as well: a token may look at itself, and the first one must.",
    },
)  # fmt: skip


# Exercise 2.2: one head -------------------------------------------------------------------------


def head_of(*, weights=causal_weights, scale=lambda d, d_h: d_h**-0.5, has_out=True):
    """Return one causal head with these parts right or wrong."""

    def head(x, w_q, w_k, w_v, w_o):
        scores = (x @ w_q) @ (x @ w_k).mT * scale(*w_q.shape)
        mixture = weights(scores) @ (x @ w_v)
        return mixture @ w_o if has_out else mixture

    return head


def head_case(label, time, d, d_head):
    shapes = (time, d), (d, d_head), (d, d_head), (d, d_head), (d_head, d)
    return label, *numbers(*shapes, stream=f"exercise 2.2, {label}")


single_head = head_of()
EYE = torch.eye(2, dtype=torch.float64)
THREE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)

check_single_head = Exercise(
    single_head,
    [
        ("three tokens, d = 2", THREE, EYE, 2 * EYE, EYE, EYE.flip(0)),
        head_case("five tokens, d = 6, d_h = 3", 5, 6, 3),
        head_case("one token", 1, 4, 4),
        head_case("seven tokens, d = 4, d_h = 4", 7, 4, 4),
    ],
    {
        head_of(scale=lambda d, d_h: 1.0): "The scores are not scaled: divide by sqrt(d_h).",
        head_of(scale=lambda d, d_h: 1 / d_h): "The scores are divided by d_h; it is its square root that keeps their spread at 1.",
        head_of(scale=lambda d, d_h: d_h**0.5): "The scores are multiplied by sqrt(d_h); divide by it.",
        head_of(scale=lambda d, d_h: d**-0.5): "The scale uses d, the columns of x; a dot product here has d_h terms.",
        head_of(weights=no_mask): "Nothing is masked: the future is leaked.",
        head_of(weights=mask_after): "The mask came after the softmax; mask the scores.",
        head_of(weights=future_only): "The mask is transposed: tokens see the future only.",
        head_of(weights=over_queries): "The softmax ran over the queries; it belongs to the keys, the last axis.",
        lambda x, w_q, w_k, w_v, w_o: single_head(x, w_k, w_q, w_v, w_o): "Queries and keys are swapped: row t of the scores is q_t against every key.",
        lambda x, w_q, w_k, w_v, w_o: single_head(x, w_q, w_k, w_k, w_o): "The values are the keys: they have a map of their own, W_v.",
        lambda x, w_q, w_k, w_v, w_o: single_head(x, w_q, w_q, w_v, w_o): "The keys are the queries: they have a map of their own, W_k.",
        lambda x, *maps: x + single_head(x, *maps): "x was added. The residual sum belongs to the block, not to the head.",
        lambda x, *maps: head_of(scale=lambda d, d_h: len(x) ** -0.5)(x, *maps): "The scale uses the number of tokens; a dot product here has d_h terms.",
        head_of(has_out=False): "The mixture was not multiplied by W_o.",
    },
)  # fmt: skip


# Exercise 2.3: multiplications ------------------------------------------------------------------


def multiplications(time, d_model, n_heads):
    return expected_multiplications("attention", d_model=d_model, time=time, n_heads=n_heads)


def count_of(*, pairs=lambda time: time * (time + 1) // 2, maps=4, products=2, scale=1, each=0):
    """Return a count with these parts right or wrong."""

    def count(time, d_model, n_heads):
        per_pair = products * d_model * n_heads**each + scale * n_heads
        return maps * time * d_model**2 + pairs(time) * per_pair

    return count


check_multiplications = Exercise(
    multiplications,
    [
        ("one token, d = 2, one head", 1, 2, 1),
        ("three tokens, d = 2, one head", 3, 2, 1),
        ("5 tokens, d = 6, 3 heads", 5, 6, 3),
        ("128 tokens, d = 64, 4 heads", 128, 64, 4),
    ],
    {
        count_of(pairs=lambda time: time**2): "You counted T * T pairs; with the causal mask only T (T + 1) / 2 are needed.",
        count_of(pairs=lambda time: time * (time - 1) // 2): "You counted T (T - 1) / 2 pairs; a token also looks at itself.",
        count_of(maps=3): "The output map is missing: there are four maps.",
        count_of(products=1): "One of the two products over the pairs is missing: scores, and weights times values.",
        count_of(scale=0): "The scale is missing: one multiplication for each pair and head.",
        lambda time, d, heads: 4 * d**2: "These are the weights, eq. (2.10). Each is used at every position, and then there are the pairs.",
        lambda time, d, heads: count_of()(time, d, heads) - 4 * (time - 1) * d**2: "The four maps were counted for one token only.",
        count_of(pairs=lambda time: 0): "The pairs are missing: a score, its scale and a share of the mixture for each.",
        count_of(pairs=lambda time: time): "You counted one pair for each token; token t looks at t tokens.",
        lambda time, d, heads: count_of(scale=1 / heads)(time, d, heads): "The scale is one multiplication for each pair and head, not for each pair.",
        count_of(each=1): "You counted d products for every head; a head has d / H, so all heads together have d.",
    },
)  # fmt: skip


# Build 2: many heads, as a module -------------------------------------------------------------


def heads_of(
    *,
    mask="before",
    scale="head",
    cut="slices",
    joins=True,
    has_out=True,
    bias=False,
    axis=-1,
    swap=False,
):
    """Return a class of multi-head attention with these parts right or wrong."""

    class Heads(nn.Module):
        def __init__(self, d_model, n_heads):
            super().__init__()
            self.n_heads = 1 if cut == "one head" else n_heads
            for name in MAPS:
                self.add_module(name, nn.Linear(d_model, d_model, bias=bias))

        def split(self, z):
            batch, time, _ = z.shape
            if cut == "mixed":
                return z.reshape(batch, self.n_heads, time, -1)
            if cut == "interleaved":
                return z.reshape(batch, time, -1, self.n_heads).permute(0, 3, 1, 2)
            return z.reshape(batch, time, self.n_heads, -1).transpose(1, 2)

        def forward(self, x):
            q, k, v = (self.split(self.get_submodule(name)(x)) for name in MAPS[:3])
            q, k = (k, q) if swap else (q, k)
            width = {"head": q.shape[-1], "model": x.shape[-1], "none": 1}[scale]
            scores = q @ k.mT / width**0.5
            scores = scores.masked_fill(~visible(scores), -math.inf) if mask == "before" else scores
            A = scores.softmax(axis)
            mixed = (A * visible(A) if mask == "after" else A) @ v
            mixed = mixed.transpose(1, 2) if joins else mixed
            return self.out(mixed.reshape(x.shape)) if has_out else mixed.reshape(x.shape)

    return Heads


def attend_with(build, d_model, n_heads, x, *maps):
    """Return the outputs of a module with these maps, and how many numbers it has."""
    module, n_weights = with_maps(build, d_model, n_heads, maps, kind=nn.Linear)
    return {"weights": n_weights, "output": module(x)}


def module_case(label, batch, time, d, n_heads):
    x, *maps = numbers((batch, time, d), *[(d, d)] * 4, stream=f"build 2, {label}")
    return label, d, n_heads, x, *maps


check_heads = Exercise(
    lambda d, n_heads: build_mixer("attention", d_model=d, context_len=16, n_heads=n_heads),
    [
        module_case("one head, one token", 1, 1, 2, 1),
        module_case("one head, three tokens", 1, 3, 2, 1),
        module_case("two heads of width 2", 1, 3, 4, 2),
        module_case("two sentences, three heads", 2, 5, 6, 3),
        module_case("four heads, as many tokens", 3, 4, 8, 4),
    ],
    {
        heads_of(mask="none"): "Nothing is masked: the future is leaked.",
        heads_of(mask="after"): "The mask came after the softmax; mask the scores.",
        heads_of(scale="model"): "The scale uses d; a dot product of a head has d_h = d / H terms.",
        heads_of(scale="none"): "The scores are not divided by sqrt(d_h).",
        heads_of(cut="mixed"): "The heads were cut by view(B, H, T, d_h), which mixes tokens with channels. Cut the channels first, view(B, T, H, d_h), then transpose.",
        heads_of(cut="interleaved"): "Each head took every H-th channel; eq. (2.8) cuts them into H slices side by side.",
        heads_of(cut="one head"): "There is one head only: its softmax runs over products of all d channels.",
        heads_of(joins=False): "The heads were joined without transposing back: (B, H, T, d_h) has to become (B, T, H, d_h) first.",
        heads_of(has_out=False): "The joined heads were not mapped by out.",
        heads_of(bias=True): "The maps have biases; give nn.Linear bias=False, for 4 d^2 weights.",
        heads_of(axis=-2): "The softmax ran over the queries; it belongs to the keys, the last axis.",
        heads_of(swap=True): "Queries and keys are swapped: row t of the scores is q_t against every key.",
    },
    use=attend_with,
)  # fmt: skip
