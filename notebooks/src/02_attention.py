# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,alt,slideshow,mystnb,jupyter,-all
#     formats: notebooks///ipynb,notebooks/src///py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Attention: a dictionary that answers every question
#
# You build causal self-attention by hand, by loop and by matrix, leak its future on purpose,
# count every one of its multiplications, and watch it learn to look things up.
#
# **Minutes:** 79. **Prerequisites:** matrix products and the softmax; tokens and prefixes
# from [01 Text as a Markov chain](01_markov_framing.ipynb).
#
# Previous: [01 Text as a Markov chain](01_markov_framing.ipynb). Next:
# [03 The Extractor](03_extractor.ipynb).

# %% [markdown]
# **Learning goals.** After this notebook you can
#
# - compute the attention weights and outputs of three tokens on paper,
# - explain why the causal mask belongs before the softmax and the scale is $1/\sqrt{d_h}$,
# - decide when one head is not enough,
# - derive the weights and multiplications of attention, and predict how they grow with length,
# - compare what attention and a fixed sum can look up.

# %% tags=["setup"]
import math

import numpy as np
import torch
from torch.nn import functional as F

from attnlab.chapters.attention import checks, pictures
from attnlab.mixers import build_mixer
from attnlab.runmode import banner

banner(minutes=79)

# %% [markdown]
# ## 1  A dictionary that never says "not found"   *(7 min)*
#
# A dictionary compares your query with its keys and returns the value of the one that is equal.
# No equal key, no answer. A **soft** look-up compares with *all* keys and mixes *all* values:
#
# $$ A_s = \frac{e^{q \cdot k_s / \tau}}{\sum_{r} e^{q \cdot k_r / \tau}}, \qquad
#    y = \sum_s A_s\, v_s \tag{2.1} $$
#
# Query $q$ and keys $k_s$ are vectors of equal width; $v_s$ is the value stored under $k_s$;
# $A_s \ge 0$ is its weight, and the weights sum to one. The temperature $\tau > 0$ says how
# picky we are. If one key $k_{s^*}$ fits best, the dictionary comes back in the limit:
#
# $$ \lim_{\tau \to 0} y = v_{s^*} \tag{2.2} $$

# %% tags=["agreement", "nbval-check-output"]
q = np.array([1.0, 0.0])
k = math.log(2) * np.array([[2, 0], [1, 1], [0, 2]])  # scores 2, 1, 0 times log 2
v = np.array([[7.0, 0.0], [0.0, 7.0], [7.0, 7.0]])
for tau in (4, 1, 1 / 2, 1 / 4, 1 / 16):
    A = np.exp(k @ q / tau)
    A = A / A.sum()  # eq. (2.1)
    y = A @ v
    print(f"temperature {tau:6.4f}: weights {A.round(4)}, y = {y.round(3)}")
    if tau == 1:  # each score is one log 2 above the next, so each weight doubles: 4, 2, 1
        assert np.allclose(A, [4 / 7, 2 / 7, 1 / 7])
        assert np.allclose(y, [5, 3])
assert np.allclose(y, v[0], atol=1e-3)  # eq. (2.2): the best key's value, nearly alone

# %% [markdown]
# **Play, then answer.** Three stations on a compass store 10 (east), 20 (north) and 40 (west);
# the query is a direction, from south (-90 degrees) over east and north to west. Which direction
# gives the *lowest* answer at temperature 0.5: east itself, or something else? Can any direction
# return exactly 40?

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import explore

lookup = explore(
    pictures.lookup,
    presets=[
        {"angle": 30, "temperature": 0.05},
        {"angle": 30, "temperature": 0.5},
        {"angle": 30, "temperature": 2.0},
    ],
    **pictures.LOOKUP_DIALS,
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Something else: some 19 degrees *south* of east (11.3; east itself returns 11.6). At east the scores
# of east and west are at their largest and smallest, so a small turn hardly changes them. It does
# change north's: a turn to the south lowers it, and north's 20 lies above the mixture.
# At temperature 2 a turn of 3 degrees is best, and gains less than 0.01.
#
# Exactly 40: never. Every station has a share at any positive temperature, so 40 is only a limit.
#
# </details>
#
# **Takeaway.** Attention is a dictionary look-up made soft: every key answers, in proportion
# to $e^{\text{score}/\tau}$, and a dictionary is its limit at temperature zero.

# %% [markdown]
# ## 2  By hand, by loop, by matrix   *(4 min)*
#
# In *self*-attention every token asks, and every token so far answers. From the row vector
# $x_t \in \mathbb{R}^d$ of token $t$ come a query, a key, a value, and scores:
#
# $$ q_t = x_t W_q, \quad k_t = x_t W_k, \quad v_t = x_t W_v, \quad
#    S_{ts} = \frac{q_t \cdot k_s}{\sqrt{d_h}} \tag{2.3} $$
#
# $$ A_{ts} = \frac{e^{S_{ts}}}{\sum_{r \le t} e^{S_{tr}}} \;\; (s \le t), \qquad
#    y_t = \Bigl(\sum_{s \le t} A_{ts} v_s\Bigr) W_o \tag{2.4} $$
#
# The maps $W_q, W_k, W_v, W_o \in \mathbb{R}^{d\times d}$ are learned; here $d_h = d = 2$.
# We choose $W_k = \sqrt2 \log 2 \cdot I$, $W_v = 12\,I$ and $W_q = W_o = I$: then
# $e^{S_{ts}} = 2^{x_t \cdot x_s}$, and paper suffices.

# %% tags=["nbval-check-output"]
from fractions import Fraction

tokens = [(1, 0), (0, 1), (1, 1)]
x = torch.tensor(tokens, dtype=torch.float64)  # the same for the programs below
values = [(12, 0), (0, 12), (12, 12)]
for t, x_t in enumerate(tokens, start=1):
    parts = [2 ** (x_t[0] * x_s[0] + x_t[1] * x_s[1]) for x_s in tokens[:t]]
    A_t = [Fraction(part, sum(parts)) for part in parts]
    y_t = [sum(A_ts * v_s[i] for A_ts, v_s in zip(A_t, values[:t], strict=True)) for i in (0, 1)]
    shares = ", ".join(map(str, A_t))
    print(f"token {t}: parts {parts}, weights {shares}, y = ({y_t[0]}, {y_t[1]})")

W_q, W_o = torch.eye(2).double(), torch.eye(2).double()
W_k, W_v = math.sqrt(2) * math.log(2) * W_q, 12 * W_q


def by_loop(x: torch.Tensor) -> torch.Tensor:
    y = []
    for t in range(len(x)):
        S_t = [(x[t] @ W_q) @ (x[s] @ W_k) / math.sqrt(2) for s in range(t + 1)]  # eq. (2.3)
        A_t = torch.stack(S_t).softmax(0)
        y.append(sum(A_t[s] * (x[s] @ W_v) for s in range(t + 1)) @ W_o)  # eq. (2.4)
    return torch.stack(y)


def by_matrix(x: torch.Tensor) -> torch.Tensor:
    S = (x @ W_q) @ (x @ W_k).mT / math.sqrt(2)  # (T, T)
    S = S + torch.full_like(S, -torch.inf).triu(1)  # no key later than the query
    return S.softmax(-1) @ (x @ W_v) @ W_o


def by_torch(x: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(x @ W_q, x @ W_k, x @ W_v, is_causal=True) @ W_o


# %% tags=["agreement", "nbval-check-output"]
from attnlab.mixers import naive
from attnlab.show import show

mixer = build_mixer("attention", d_model=2, context_len=3, n_heads=1).double()
for name, W in {"query": W_q, "key": W_k, "value": W_v, "out": W_o}.items():
    getattr(mixer, name).weight.data = W.mT.clone()  # nn.Linear holds the transpose
ways = {
    "loop": by_loop,
    "matrix": by_matrix,
    "torch": by_torch,
    "attnlab": lambda x: mixer(x[None])[0],
    "attnlab, naive": lambda x: naive.attention(mixer, x[None])[0],
}
z = x.clone().requires_grad_()
slopes = {name: torch.autograd.grad(way(z).square().sum(), z)[0] for name, way in ways.items()}
for name, way in ways.items():
    print(f"{name:>14}: y = {way(x).detach().round(decimals=6).tolist()}")
    torch.testing.assert_close(way(x), torch.tensor([[12.0, 0], [4, 8], [9, 9]]).double())
    torch.testing.assert_close(slopes[name], slopes["loop"])

A = mixer.attention_weights(x[None])[0, 0].detach().numpy()
show(pictures.attention_weights(A))

# %% [markdown]
# The picture is the table from paper: each row is shared out over its own past.
#
# **Takeaway.** Attention is four linear maps and one table of weights that each row computes for
# itself; three ways to write it, and two libraries, give (12, 0), (4, 8), (9, 9) and the same
# gradients.

# %% [markdown]
# ## 3  The mask goes before the softmax   *(12 min)*
#
# A language model predicts token $t+1$ from tokens $1 \dots t$. In training all positions are
# computed at once, so the answer lies in plain sight one column to the right. The **causal mask**
# hides it:
#
# $$ S_{ts} \leftarrow -\infty \quad \text{for } s > t \tag{2.5} $$
#
# Since $e^{-\infty} = 0$, a hidden key adds nothing to the mixture *and nothing to the
# denominator*. Why not simply set the weights to zero after the softmax? Because the denominator
# has seen the future by then. We edit the last of three tokens and see which outputs move.


# %% tags=["nbval-check-output"]
def weights(S: np.ndarray, mask: str) -> np.ndarray:
    may_look, powers = np.tril(np.ones(S.shape)), np.exp(S)
    if mask == "before":
        powers = powers * may_look  # eq. (2.5): e to the power of minus infinity is 0
    A = powers / powers.sum(1, keepdims=True)
    return A * may_look if mask == "after" else A


edited = x.numpy() + np.array([[0, 0], [0, 0], [1, -2]])  # token 3 becomes (2, -1)
for mask in ("none", "after", "before"):
    y = []
    for z in (x.numpy(), edited):
        S = math.log(2) * z @ z.T
        A = weights(S, mask)
        y.append(A @ (12 * z))
    moved = np.abs(y[1] - y[0]).max(axis=1)
    print(f"mask {mask:>6}: row sums {A.sum(1).round(3)}, outputs moved by {moved.round(3)}")
assert moved[:2].max() == 0, "with the mask before the softmax the past cannot see the edit"

# %% [markdown]
# **Play, then answer.** Six random tokens. Hatched bars are outputs *before* the edited token.
# With the mask after the softmax, which outputs can a later token still change, and through
# what?

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import choice

where = {"options": pictures.MASKS, "value": "before", "tooltip": "Where the future is hidden"}
leak = explore(
    pictures.leak,
    presets=[
        {"mask": "none", "edited": 4},
        {"mask": "after", "edited": 4},
        {"mask": "before", "edited": 4},
    ],
    mask=choice("Mask", **where),
    edited=("Edited token", 4, 1, 6, "Position of the input that is replaced"),
)

# %% [markdown] tags=["exercise"]
# <details><summary>Answer to the play question</summary>
#
# Every one before it. The future's values are hidden, but its scores sit in the denominator, so it
# rescales every earlier row. Such a model could read the next token off the size of its output.
# Check: the row sums above are below one.
#
# </details>
#
# **Exercise 2.1** (difficulty 2, 6 min; builds on eq. (2.5)). Turn scores `(time, time)` into
# causal weights: row $t$ sums to one over the columns $s \le t$ and is zero elsewhere. Do not
# change the scores that you are given.
#
# <details><summary>Hint</summary>
#
# `torch.ones_like(scores, dtype=torch.bool).tril()` is true where a token may look, and
# `Tensor.masked_fill` returns a copy. The softmax runs over the last axis.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def attention_weights(scores: torch.Tensor) -> torch.Tensor:
    """Return the causal softmax weights ``(time, time)`` of these scores."""
    # SOLUTION
    may_look = torch.ones_like(scores, dtype=torch.bool).tril()
    return scores.masked_fill(~may_look, -torch.inf).softmax(-1)


# %% tags=["nbval-check-output"]
attention_weights = checks.check_causal_weights.hand_on(attention_weights)

# %% [markdown]
# **Takeaway.** Mask the scores, not the weights: only then does no output depend on a later
# token, not even through a sum.

# %% [markdown]
# ## 4  Why divide by $\sqrt{d_h}$?   *(6 min)*
#
# Assume the entries of $q$ and $k$ are independent, with mean 0 and variance 1, as at the start
# of training. Then
#
# $$ \mathrm{Var}(q \cdot k) = \sum_{i=1}^{d_h} \mathrm{Var}(q_i k_i)
#    = \sum_{i=1}^{d_h} E[q_i^2]\,E[k_i^2] = d_h \tag{2.6} $$
#
# (terms are independent, so variances add; their means are 0, so variance is mean square;
# $q_i$ and $k_i$ are independent). Dividing by the standard deviation restores unit spread:
#
# $$ \mathrm{Var}\bigl(q \cdot k / \sqrt{d_h}\bigr) = 1 \tag{2.7} $$
#
# Without it, scores of wide heads spread out, and the softmax turns from a mixture into a
# choice made at random, whose gradient is nearly zero.

# %% tags=["agreement", "nbval-check-output"]
from itertools import product

import pandas as pd

from attnlab.seeding import torch_generator
from attnlab.sources import entropy_nats

# Entries of plus or minus 1 have mean 0 and variance 1, and few enough vectors to try all pairs.
for d_h in (1, 2, 4):
    signs = np.array(list(product((-1, 1), repeat=d_h)))  # (2**d_h, d_h)
    S = signs @ signs.T
    print(
        f"d_h = {d_h}: {S.size:3} pairs, mean {S.mean():g}, variance {S.var():g}, "
        f"after the scale {(S / math.sqrt(d_h)).var():g}"
    )
    assert S.var() == d_h  # eq. (2.6), exactly

generator, rows = torch_generator(0, "scale"), []
for d_h in (2, 8, 32, 128, 512):
    q, k = torch.randn(2, 64, d_h, generator=generator)
    for scale, factor in {"1": 1, "1/sqrt(d_h)": d_h**-0.5, "1/d_h": 1 / d_h}.items():
        A = (factor * q @ k.mT).softmax(-1).numpy()  # 64 queries, 64 keys
        rows.append({"scale": scale, "d_head": d_h, "entropy_nats": entropy_nats(A).mean()})
show(pictures.entropy_by_width(pd.DataFrame(rows), n_keys=64))

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.teach import show_quiz

quiz = show_quiz("attention", part=r"Why divide by $\sqrt{d_h}$?")

# %% [markdown]
# **Takeaway.** Dividing by $\sqrt{d_h}$, a temperature of $\sqrt{d_h}$ in eq. (2.1), makes the spread
# of random scores the same for every width of a head, and keeps the entropy of the weights nearly
# constant (picture).

# %% [markdown]
# ## 5  Heads: several look-ups side by side   *(27 min)*
#
# Cut queries, keys and values into $H$ slices of width $d_h = d/H$, let each slice attend by
# itself, join the results and map them out:
#
# $$ y_t = \bigl[\, h_t^1 \,\|\, \dots \,\|\, h_t^H \,\bigr] W_o, \qquad
#    h_t^i = \sum_{s \le t} A^i_{ts} v^i_s \tag{2.8} $$
#
# where $\|$ joins vectors and $i$ numbers the slices. The maps stay $d \times d$: more heads cost
# no weights. What do they buy? A head has *one* weight for each earlier token.


# %% tags=["agreement", "nbval-check-output"]
def seeded_attention(d_model: int, time: int, n_heads: int) -> torch.nn.Module:
    mixer = build_mixer("attention", d_model=d_model, context_len=time, n_heads=n_heads).double()
    generator = torch_generator(0, "init")
    for W in mixer.parameters():
        W.data.normal_(std=d_model**-0.5, generator=generator)
    return mixer


for H in (1, 2, 3, 6):
    mixer = seeded_attention(d_model=6, time=5, n_heads=H)
    z = torch.randn(1, 5, 6, generator=torch_generator(0, "data"), dtype=torch.float64)
    A, v = mixer.attention_weights(z)[0], mixer.value(z)[0]
    slices = v.split(6 // H, dim=1)  # H times (T, d_h)
    joined = torch.cat([A[i] @ slices[i] for i in range(H)], dim=1)
    torch.testing.assert_close(mixer.out(joined), mixer(z)[0])  # eq. (2.8)
    n_weights = sum(p.numel() for p in mixer.parameters())
    print(f"{H} heads of width {6 // H}: weights {tuple(A.shape)}, parameters {n_weights}")

# %% [markdown]
# **Two places at once.** A reader wants the value of token 1 in its first output and that of
# token 2 in its second; both are $\pm 1$ at random. One head returns
# $(\alpha v_1 + (1-\alpha) v_2)\,W_o$: the *same* map for both tokens. Below, the best $W_o$ for
# each $\alpha$, by least squares. A perfect reader has error 0, a reader of nothing 2.

# %% tags=["agreement", "nbval-check-output"]
want = np.array(list(product((-1.0, 1.0), repeat=2)))  # (4, 2): every v_1, v_2
for alpha in (0.0, 0.25, 0.5, 1.0):
    one_head = want @ [[alpha], [1 - alpha]]  # (4, 1)
    W_o, *_ = np.linalg.lstsq(one_head, want)
    error = np.square(one_head @ W_o - want).sum(1).mean()
    print(f"one head, weight {alpha:.2f} on token 1: error {error:.4f}")
    assert np.isclose(error, 1)
two_heads = np.hstack(
    [want @ [[1], [0]], want @ [[0], [1]]]
)  # head 1 on token 1, head 2 on token 2
print(f"two heads, joined: error {np.square(two_heads - want).sum(1).mean():.4f}")

# %% [markdown]
# Whatever one head weighs, half is lost: it applies one map to all it reads.
#
# **Play, then answer.** Three heads made by hand, not trained: *same word* looks for itself, *word
# before* one step back, *who?* from verbs and pronouns to names. Type a sentence of your own. In
# "Mia met Tom and then she sang again", whom does *who?* find for "she"? What would it take to
# choose?

# %% tags=["widget", "nbval-ignore-output"]
heads = explore(
    pictures.head,
    presets=[
        {"head": "same word"},
        {"head": "word before"},
        {"head": "who?", "sentence": pictures.SENTENCES["the song"]},
    ],
    **pictures.HEAD_DIALS,
)

# %% [markdown] tags=["exercise"]
# <details><summary>Answer to the play question</summary>
#
# Mia and Tom, 0.48 each: both are names, the head asks for nothing more, and "she" gets a blend
# of two people. A query that also asks "and a girl's" would decide, or a second head.
#
# </details>
#
# **Exercise 2.2** (difficulty 3, 8 min; builds on exercise 2.1 and eqs. (2.3), (2.4)). Write one
# causal head of width $d_h$: `x` is `(time, d)`, `w_q`, `w_k` and `w_v` are `(d, d_h)`, `w_o` is
# `(d_h, d)`. Return `(time, d)`. You may call `attention_weights`.
#
# <details><summary>Hint</summary>
#
# Write the shape beside every line. The scale counts the terms of one dot product.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def single_head(
    x: torch.Tensor, w_q: torch.Tensor, w_k: torch.Tensor, w_v: torch.Tensor, w_o: torch.Tensor
) -> torch.Tensor:
    """Return the output ``(time, d)`` of one causal attention head."""
    # SOLUTION
    q, k, v = x @ w_q, x @ w_k, x @ w_v  # (T, d_h)
    scores = q @ k.mT / math.sqrt(q.shape[1])  # (T, T)
    return attention_weights(scores) @ v @ w_o


# %% tags=["nbval-check-output"]
checks.check_single_head(single_head)

# %% [markdown] tags=["exercise"]
# **Takeaway.** A head is one question with one mixture as its answer; $H$ heads ask $H$ questions
# with the same $4d^2$ weights.
#
# **Build 2** (difficulty 4, 12 min; builds on eq. (2.8)). Write causal multi-head attention as a module:
# `CausalSelfAttention(d_model, n_heads)` with four `nn.Linear` without bias, called `query`, `key`, `value`
# and `out`; `forward` maps `(B, T, d)` to `(B, T, d)`.
#
# <details><summary>Hint</summary>
#
# `z.view(B, T, H, d_h).transpose(1, 2)` puts the heads in front, `(B, H, T, d_h)`; then everything is as in
# exercise 2.2. Transpose back before you join.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
from torch import nn


class CausalSelfAttention(nn.Module):
    """Causal attention with several heads."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        # SOLUTION
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, d = x.shape
        shape = B, T, self.n_heads, d // self.n_heads
        q, k, v = (W(x).view(shape).transpose(1, 2) for W in (self.query, self.key, self.value))
        S = q @ k.mT / math.sqrt(shape[-1])  # (B, H, T, T)
        S = S.masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -torch.inf)
        return self.out((S.softmax(-1) @ v).transpose(1, 2).reshape(B, T, d))


# %% tags=["nbval-check-output"]
checks.check_heads(CausalSelfAttention)

# %% [markdown]
# ## 6  Attention does not know the order   *(3 min)*
#
# Let $\Pi$ reorder the rows of $x$. Without a mask, attention reorders its outputs alike:
#
# $$ \mathrm{mix}(\Pi x) = \Pi\, \mathrm{mix}(x) \tag{2.9} $$
#
# as scores depend on pairs of tokens and the sum over $s$ has no order. With the mask, the last
# token still sees a *set*: shuffle the tokens before it and its output stays. Adding a position
# embedding $p_t$ to each $x_t$ ends that.
#
# **Check yourself.** "dog bites man" and "man bites dog", then a question mark: what does
# one attention layer without positions tell apart at the question mark? Decide, then run.

# %% tags=["check", "agreement", "nbval-check-output"]
mixer = seeded_attention(d_model=6, time=7, n_heads=2)
z, p = torch.randn(2, 7, 6, generator=torch_generator(1, "data"), dtype=torch.float64)
order = torch.tensor([3, 0, 5, 1, 4, 2])
last_stays = torch.cat([order, torch.tensor([6])])


def without_mask(z: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(mixer.query(z), mixer.key(z), mixer.value(z))


torch.testing.assert_close(without_mask(z[order]), without_mask(z[:6])[order])  # eq. (2.9)
for name, (start, shuffled) in {"tokens alone": (z, z[last_stays]),
                                "with positions": (z + p, z[last_stays] + p)}.items():  # fmt: skip
    moved = (mixer(shuffled[None]) - mixer(start[None]))[0, -1].abs().max().item()
    print(f"{name:>14}: the past is shuffled, the last output moves by {moved:.3f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Nothing: both are the set {dog, bites, man} to it. (Layers above the first can tell a little,
# because the *earlier* outputs differ: the mask itself carries some order.)
#
# </details>
#
# **Takeaway.** Attention reads its past as a set of tokens; order is something a model has to
# be given, here by adding $p_t$.

# %% [markdown]
# ## 7  What it costs   *(12 min)*
#
# Four square maps, no biases, whatever the length and the number of heads:
#
# $$ \text{weights} = 4 d^2 \tag{2.10} $$
#
# Multiplications for a sequence of $T$ tokens, with $P = T(T+1)/2$ pairs $s \le t$:
#
# $$ M = \underbrace{4\,T d^2}_{\text{four maps}} + \underbrace{P d}_{\text{scores}}
#      + \underbrace{P H}_{\text{scale}} + \underbrace{P d}_{\text{mixture}}
#      = 4 T d^2 + 2 P d + P H \tag{2.11} $$
#
# ($H$ heads of width $d_h$ have $H d_h = d$ products for each pair.) We do not trust it: a plain-Python
# attention counts each product as it makes it.

# %%
n_products = 0


def times(a: float, b: float) -> float:
    global n_products
    n_products += 1
    return a * b


def dot(u, v) -> float:
    return sum(map(times, u, v))


def through(row, W) -> list[float]:
    return [dot(row, column) for column in zip(*W, strict=True)]


def attend(x, W_q, W_k, W_v, W_o, H: int) -> list[list[float]]:
    q, k, v = ([through(x_t, W) for x_t in x] for W in (W_q, W_k, W_v))
    d_h, y = len(x[0]) // H, []
    for t in range(len(x)):
        joined = []
        for i in (slice(first, first + d_h) for first in range(0, len(x[0]), d_h)):  # eq. (2.8)
            powers = [math.exp(times(dot(q[t][i], k_s[i]), d_h**-0.5)) for k_s in k[: t + 1]]
            A_t = [power / sum(powers) for power in powers]  # eq. (2.4)
            joined += [
                dot(A_t, column) for column in zip(*(v_s[i] for v_s in v[: t + 1]), strict=True)
            ]
        y.append(through(joined, W_o))
    return y


# %% tags=["agreement", "nbval-check-output"]
from attnlab.analysis import theory

for T, d, H in ((1, 2, 1), (5, 6, 3), (11, 8, 4)):
    mixer = seeded_attention(d_model=d, time=T, n_heads=H)
    z = torch.randn(1, T, d, generator=torch_generator(T, "data"), dtype=torch.float64)
    maps = [W.mT.tolist() for W in mixer.parameters()]  # query, key, value, out
    n_products = 0
    y = attend(z[0].tolist(), *maps, H)
    torch.testing.assert_close(torch.tensor(y, dtype=torch.float64), mixer(z)[0])
    P = T * (T + 1) // 2
    M = 4 * T * d**2 + 2 * P * d + P * H  # eq. (2.11)
    assert n_products == M
    assert theory.expected_multiplications("attention", d_model=d, time=T, n_heads=H) == M
    assert 4 * d**2 == theory.expected_mixer_weights("attention", d_model=d, context_len=T)
    print(f"T = {T:2}, d = {d}, H = {H}: counted {n_products:5,}; eq. (2.11) gives {M:5,}")

d, H, rows = 512, 8, []
for T in 2 ** np.arange(6, 16):
    total = theory.expected_multiplications("attention", d_model=d, time=int(T), n_heads=H)
    maps = int(4 * T * d**2)
    for part, count in (("four maps", maps), ("pairs", total - maps)):
        rows.append({"part": part, "time": T, "n_multiplications": count})
crossover = 8 * d**2 / (2 * d + H) - 1  # 4 T d^2 = (2 d + H) T (T + 1) / 2, solved for T
show(pictures.cost_growth(pd.DataFrame(rows), crossover=crossover))

# %% [markdown] tags=["exercise"]
# **Exercise 2.3** (difficulty 1, 4 min; builds on eq. (2.11)). Return the number of
# multiplications of causal attention from length, width and heads. Count first, then look at
# eq. (2.11) only to compare.
#
# <details><summary>Hint</summary>
#
# Three counts: what each token costs, how many pairs there are (token 1 sees one token, token 2 sees
# two, ...), and what one pair costs in all heads together: a score, its scale, its share of the
# mixture.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def count_multiplications(time: int, d_model: int, n_heads: int) -> int:
    """Return the multiplications of causal attention over ``time`` tokens."""
    # SOLUTION
    n_pairs = sum(t for t in range(1, time + 1))
    return 4 * time * d_model**2 + n_pairs * (2 * d_model + n_heads)


# %% tags=["nbval-check-output"]
checks.check_multiplications(count_multiplications)

# %% [markdown]
# **Writing one token at a time.** Old keys and values never change, for the mask keeps the future
# out of them. So keep them (a **KV cache**: $2td$ numbers), and token $t$ costs only its own row:
#
# $$ M_t = 4 d^2 + 2\,t\,d + t H, \qquad \sum_{t=1}^{T} M_t = M \tag{2.12} $$
#
# Streaming costs no more than training did, but the price of a token grows with what came before.
# Recomputing the whole prefix for each token would cost $\sum_{t=1}^T M(t)$, with $M(t)$ from
# eq. (2.11) for $t$ tokens.

# %% tags=["agreement", "nbval-check-output"]
mixer = seeded_attention(d_model=6, time=11, n_heads=3)
z = torch.randn(2, 11, 6, generator=torch_generator(2, "data"), dtype=torch.float64)
state, streamed = mixer.initial_state(2), []
for t in range(11):
    y_t, state = mixer.step(z[:, t], state)
    streamed.append(y_t)
torch.testing.assert_close(torch.stack(streamed, dim=1), mixer(z))  # streaming = parallel

d, H, T = 512, 8, 1024
M = [
    theory.expected_multiplications("attention", d_model=d, time=t, n_heads=H) for t in range(T + 1)
]
M_t = [4 * d**2 + 2 * t * d + t * H for t in range(1, T + 1)]  # eq. (2.12)
assert sum(M_t) == M[T]
print(f"token 1 costs {M_t[0]:,}, token {T} costs {M_t[-1]:,}; together {sum(M_t):,}")
print(f"without a cache {sum(M):,}: {sum(M) / sum(M_t):.0f} times as much")

# %% tags=["widget", "nbval-ignore-output"]
quiz = show_quiz("attention", part="What it costs")

# %% [markdown]
# **Takeaway.** Attention has few weights, $4d^2$, and many pairs, $T(T+1)/2$: its cost in
# sequence length is quadratic in training and linear per token in streaming, with a memory that
# grows as long as the text.

# %% [markdown]
# ## 8  What looking by content buys   *(8 min)*
#
# A list of eight pairs, then eight questions: `C3 A7 ... A? C?`. The answer to `A?` is 7,
# wherever `A7` stood. A token enters as two indicators side by side, letter and digit; there are no
# positions. The model is one bare mixer and a linear read-out,
# $z_t = (x_t + \mathrm{mix}(x)_t)\,W$.
#
# A reader who knows *which* $m$ digits are listed, but not with which letters, has at best the
# expected loss
#
# $$ E\bigl[\log m - \log(1+K)\bigr], \quad K \sim \mathrm{Bin}(m-1, \tfrac18) \tag{2.13} $$
#
# nats per question: the asked digit occurs $1+K$ times among the $m$ listed (here $m = 8$, and there
# are 8 digits). Call it the **bag floor**.

# %% tags=["agreement", "nbval-check-output"]
from attnlab.chapters.attention import live
from attnlab.seeding import numpy_generator

m = 8  # pairs
lists = live.sample_lists(500, generator=numpy_generator(0, "validation"))
print("read:  ", " ".join(lists.words(0)))
print("answer:", " ".join("." if a < 0 else str(a) for a in lists.answers[0]))

chances = [math.comb(m - 1, K) * (1 / 8) ** K * (7 / 8) ** (m - 1 - K) for K in range(m)]
bag_floor = sum(p * (math.log(m) - math.log(1 + K)) for K, p in enumerate(chances))  # eq. (2.13)
print(f"blind guess {math.log(8):.4f} nats, bag floor {bag_floor:.4f}, knowing 0")

# by counting: the share of the asked digit among the listed ones is an honest reader's chance
shares = (lists.digits[:, :m, None] == lists.answers[:, None, m:]).mean(1)
assert abs(bag_floor + np.log(shares).mean()) < 0.03

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import predict_first

guess = predict_first(
    "After 150 steps, what share of the questions does the plain average of the past get right?",
    options={"an eighth, as by guessing": 0.125, "about a third": 0.33, "nearly all": 1.0},
)

# %%
from itertools import count

from attnlab.config import TrainConfig
from attnlab.training import train_steps


class Reader(torch.nn.Module):
    def __init__(self, mixer: str) -> None:
        super().__init__()
        self.mixer = build_mixer(mixer, d_model=16, context_len=16)
        self.head = torch.nn.Linear(16, 8, bias=False)  # W

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.mixer(x))  # (B, T, 8) logits z

    def loss(self, x: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self(x).flatten(0, 1), answers.flatten())  # of questions alone


def learn(mixer: str, seed: int, curve: list) -> Reader:
    with torch.random.fork_rng():
        torch.set_rng_state(torch_generator(seed, "init").get_state())
        model = Reader(mixer)
    test = live.sample_lists(256, generator=numpy_generator(seed, "test"))
    draw = numpy_generator(seed, "data")
    drawn = (live.sample_lists(32, generator=draw) for _ in count())  # fresh lists, without end
    batches = ((some.features, some.targets) for some in drawn)
    recipe = TrainConfig(n_steps=150, batch_size=32, lr=0.02, warmup_steps=20, seed=seed)
    for log in train_steps(model, batches, config=recipe):
        if log.step % 10 == 0 or log.step == 1:
            with torch.no_grad():
                loss = model.loss(test.features, test.targets).item()
            curve.append((mixer, seed, log.tokens_seen, loss))
    return model


# %% tags=["agreement", "nbval-ignore-output"]
curve, models, right = [], {}, {}
for name in ("attention", "she", "mean"):
    models[name] = [learn(name, seed, curve) for seed in range(3)]
    said = [model(lists.features).argmax(-1) for model in models[name]]
    right[name] = [float((one == lists.targets)[:, m:].double().mean()) for one in said]
    shares = f"{min(right[name]):.3f} to {max(right[name]):.3f}"
    print(f"{name:>9}: {shares} right over {len(right[name])} seeds")
commonest = float(live.commonest_share())
print(f"naming the commonest digit: {commonest:.4f} right, exactly")
print(guess.verdict(truth=round(float(np.mean(right["mean"])), 3)))
assert min(right["attention"]) > 0.99, "attention learned to look up"
assert max(right["she"] + right["mean"]) < 0.5, "a fixed sum of bare tokens did not"
assert round(commonest, 4) == 0.3247
curves = pd.DataFrame(curve, columns=["name", "seed", "tokens_seen", "loss_nats"])
show(pictures.recall(curves, bag_floor_nats=bag_floor))

# %% tags=["agreement", "nbval-ignore-output"]
A = models["attention"][0].mixer.attention_weights(lists.features[:1])[0, 0].detach().numpy()
words, letters = lists.words(0), lists.letters[0]
asked, pairs = A[8:], A[8:, :8]  # the questions' rows; what they give to the pairs
own = letters[None, :8] == letters[8:, None]  # (8, 8): the pair with the question's letter
assert (pairs.argmax(1) == own.argmax(1)).all(), "of all pairs, each question prefers its own"
print(
    f"a question gives {pairs[own].mean():.2f} to its own pair, {asked[:, 8:].sum(1).mean():.2f} "
    f"to questions (itself),\nand {pairs[~own].sum() / 8:.2f} to the seven other pairs together"
)
one = pictures.attention_weights(A, words=words)
seen = ("Of all pairs, each question (a lower row) prefers the one with its letter. It also looks at "
        "itself: the same letter, but no digit.")  # fmt: skip
show(one.saying(f"{one.words} {seen}"))

# %% [markdown]
# Attention learned to find the pair by content, at any place. The average cannot: the digits it sums
# have lost their letters. Naming the commonest digit earns 0.3247. SHE (notebook 03) gives each *lag* a matrix and multiplies once, by a gate from the question.
# But the answer is a product of three things: the question's letter, a pair's letter, and its digit. A
# sum of tokens times a gate holds only two of them.
#
# This toy is attention's home ground. Where order matters, or a channel mixer first binds letter to
# digit, the contest is open (notebooks 03 and 04).
#
# **Takeaway.** Attention weighs tokens by what they *say*, a fixed sum by where they *stand*.

# %% [markdown]
# ## Summary
#
# - You **computed** three tokens on paper: weights 1/4, 1/4, 1/2 and output (9, 9), as five
#   programs did.
# - You **explained** the mask (outputs moved by 0 with it before the softmax) and the scale (variance
#   $d_h$ becomes 1).
# - You **decided** that one head was not enough for two places: error 1 of 2 for any weight, 0 with
#   two heads.
# - You **derived** $4d^2$ and $4Td^2 + 2Pd + PH$, counted 945 products for $T=5, d=6, H=3$, and
#   **predicted** their growth: fourfold for twice the length in the end.
# - You **compared** look-ups: attention passed the bag floor of 1.5567 nats, two fixed sums did not.

# %% [markdown]
# ## What we did not show
#
# - Counted multiplications are not seconds: memory and parallelism matter, too.
# - The variance argument holds at the start; trained queries and keys are not independent.
# - Section 8 is one toy: three seeds, 150 steps, one bare layer. We doubt that its gap says much
#   about text. Longer training or wider models may help fixed sums.
# - An attention map shows where weight goes, not why the model answers.
#
# ## Notation used here
#
# Here $v_s$ is a value and not a token, $k_s$ a key, $h_t^i$ the result of a head, $P$ the number of
# pairs, $S_{ts}$ a score, $M$ a number of multiplications, $\tau$ a temperature. In cells `z` is an
# input; in section 8 $z_t$ are logits.

# %% tags=["hide-input", "nbval-ignore-output"]
from attnlab.teach import show_notation

show_notation(["time", "d_model", "n_heads", "d_head", "x", "y", "query", "key", "value", "out",
               "scores", "attention_weights", "temperature", "position_embedding", "logits"])  # fmt: skip

# %% [markdown]
# ## Sources
#
# - Scaled dot-product and multi-head attention: Vaswani et al.,
#   [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), section 3.2, eq. (1), and section
#   3.2.2; the variance argument is its footnote on dot products; positions, section 3.5.
# - Attention as a soft search: Bahdanau et al.,
#   [arXiv:1409.0473](https://arxiv.org/abs/1409.0473), section 3.
# - Weight count $4d^2$ beside the Extractor's:
#   [arXiv:2308.07661](https://arxiv.org/abs/2308.07661). SHE as used in section 8 is
#   inferred from its published count and critical path; see notebook 03.
# - Recall as a test of mixers: Arora et al.,
#   [arXiv:2312.04927](https://arxiv.org/abs/2312.04927); copying heads: Olsson et al.,
#   [arXiv:2209.11895](https://arxiv.org/abs/2209.11895).
# - Eqs. (2.12) and (2.13) and the two-places example are derived here.
