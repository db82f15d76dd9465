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
# # 03 · The Extractor
#
# A past of any length has to become an index of one size. We take attention out and derive, one
# change at a time, what a paper of 2023 puts in its place.
#
# **Minutes:** 80. **Prerequisites:** [02 Attention](02_attention.ipynb); matrix products.
#
# Previous: [02 Attention](02_attention.ipynb). Next:
# [04 Language models](04_language_models.ipynb).

# %% [markdown]
# **Learning goals.** After this notebook you can
#
# - derive the Extractor SHE from the demand "any length in, one size out",
# - compute it by hand, by loop and by matrix, and in a stream, one token at a time,
# - count the weights and multiplications of SHE, HE, WE, ME and attention,
# - decide which parts of a result are published and which are our reconstruction,
# - predict what a mixer can learn whose mixing weights never look at the tokens.

# %% tags=["setup"]
import numpy as np
import torch

from attnlab.chapters.extractor import checks, pictures
from attnlab.mixers import build_mixer
from attnlab.runmode import banner
from attnlab.show import explore, show

banner(minutes=80)

# %% [markdown]
# ## 1  From any length to one size   *(14 min)*
#
# Notebook 01 read a language model as a table: look up the row of the prefix, find the chances of
# the next token. A table wants an index of one size. A prefix grows. So a mixer must turn
# $x_1, \dots, x_t$, each in $\mathbb{R}^d$, into **one** vector $e_t \in \mathbb{R}^d$, for every
# $t$ up to the context length $\ell$. The plainest way is to add:
#
# $$ e_t = \sum_{j=0}^{t-1} x_{t-j} \tag{3.1} $$
#
# The *lag* $j$ counts back; $j = 0$ is the newest token. A sum forgets order, so give each lag
# a number $c_j \in \mathbb{R}$:
#
# $$ e_t = \sum_{j=0}^{t-1} c_j\, x_{t-j} \tag{3.2} $$

# %% tags=["nbval-check-output"]
dog, bites, man = torch.tensor([1, 0]), torch.tensor([0, 1]), torch.tensor([2, 1])
c = [1, 2, 3]  # c_0 for the newest token
for words in ((dog, bites, man), (man, bites, dog)):
    newest_first = words[::-1]
    bag = sum(newest_first)  # eq. (3.1)
    numbers = sum(c[j] * newest_first[j] for j in range(3))  # eq. (3.2)
    print("bag", bag.tolist(), "  a number per lag", numbers.tolist())

# %% [markdown]
# The bag cannot tell who bit whom; numbers per lag can. But a number only stretches a
# vector: old and new tokens still land on the same $d$ channels, on top of each other. A
# **matrix per lag** can turn a vector, and put a part of each token where the others do not
# disturb it:
#
# $$ e_t = \sum_{j=0}^{t-1} x_{t-j}\, W_j, \qquad W_j \in \mathbb{R}^{d \times d} \tag{3.3} $$
#
# This is the **extraction** of SHE. Vectors are rows, so a matrix stands on the right. By
# hand, with $x_1 = (1, 0)$, $x_2 = (0, 1)$, $x_3 = (1, 2)$ and the matrices below:
#
# | lag $j$ | token | $W_j$ | $x_{3-j} W_j$ |
# |---|---|---|---|
# | 0 | $(1, 2)$ | $\begin{pmatrix}1 & 0\\0 & 1\end{pmatrix}$ | $(1, 2)$ |
# | 1 | $(0, 1)$ | $\begin{pmatrix}0 & 2\\1 & 0\end{pmatrix}$ | $(1, 0)$ |
# | 2 | $(1, 0)$ | $\begin{pmatrix}2 & 1\\0 & 1\end{pmatrix}$ | $(2, 1)$ |
#
# The sum is $e_3 = (4, 3)$. The same by loop:


# %% tags=["nbval-check-output"]
def extract_rows(x, W):
    # eq. (3.3); Python counts t from 0, so position t has the lags 0 to t
    return [sum(x[t - j] @ W[j] for j in range(t + 1)) for t in range(len(x))]


x = torch.tensor([[1.0, 0], [0, 1], [1, 2]])
W = torch.tensor([[[1.0, 0], [0, 1]], [[0, 2], [1, 0]], [[2, 1], [0, 1]]])
for t, e_t in enumerate(extract_rows(x, W), start=1):
    print(f"e_{t} =", e_t.tolist())

# %% [markdown]
# The extraction is linear in the whole sequence, so one big matrix does it for all positions
# at once. Lay the tokens side by side, $x = (x_1, \dots, x_T) \in \mathbb{R}^{Td}$, and
#
# $$ (e_1, \dots, e_T) = x\, M, \qquad M_{st} = \begin{cases} W_{t-s} & s \le t \\ 0 & s > t
#    \end{cases} \tag{3.4} $$
#
# where $M_{st}$ is a block of size $d \times d$: what input $s$ sends to output $t$. Only the
# distance $t - s$ decides, so the same block stands along each diagonal. Such a matrix is called
# **block-Toeplitz**. It is what a convolution is, written out.
#
# **Check yourself.** In the picture below, which blocks would fill if a token could read the future?
#
# <details><summary>Answer</summary>
#
# Those below the diagonal: rows $s$ with $s > t$. Causality is a triangle of zeros.
#
# </details>

# %% tags=["agreement", "nbval-check-output"]
from attnlab.mixers.convolution import causal_convolution, list_methods

T, d = x.shape
M = torch.zeros(T * d, T * d)
for s in range(T):
    for t in range(s, T):
        M[s * d : (s + 1) * d, t * d : (t + 1) * d] = W[t - s]  # eq. (3.4)
e = (x.flatten() @ M).view(T, d)
assert e[2].tolist() == [4, 3], "by hand"
assert torch.equal(e, torch.stack(extract_rows(x, W))), "by loop"
for method in list_methods(3):
    torch.testing.assert_close(causal_convolution(x[None], W, method=method)[0], e)
print("hand = loop = matrix = library, in each of its forms:")
print(", ".join(list_methods(3)))

from attnlab.seeding import numpy_generator

W_random = numpy_generator(0, "picture").normal(size=(4, 3, 3))
show(pictures.block_toeplitz(W_random, n_tokens=6))

# %% [markdown] tags=["exercise"]
# **Takeaway.** One matrix per lag and a sum turn any prefix into $d$ numbers that still know the
# order; all prefixes together are one block-Toeplitz product.
#
# **Exercise 3.1** (difficulty 2, 6 min; builds on eq. (3.3)). Write `extract(x, W)`: `x` has shape
# $(T, d)$, `W` has $(\ell, d, d)$ with the newest lag first, the result has $(T, d)$. If $T > \ell$,
# only the newest $\ell$ tokens count; if $T < \ell$, the last matrices stay unused.
#
# <details><summary>Hint</summary>
#
# Counted from 0, position `t` has `min(t + 1, l)` lags. Stack one vector for each position.
# Beware: what is `x[-1]` in Python?
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def extract(x, W):
    """Return the extraction of every prefix: x (T, d), W (l, d, d) -> (T, d)."""
    # SOLUTION
    rows = []
    for t in range(len(x)):
        lags = range(min(t + 1, len(W)))
        rows.append(sum(x[t - j] @ W[j] for j in lags))
    return torch.stack(rows)


# %% tags=["nbval-check-output"]
extract = checks.check_extract.hand_on(extract)

# %% [markdown]
# ## 2  How the newest token knows the length   *(29 min)*
#
# The index has one *shape*, but has it one *size*? By *size* we mean the root mean square of the
# entries. Draw all entries of inputs and weights independently, with mean 0: those of $x$ with
# variance 1, those of $W_j$ with variance $1/d$. Then each term $x_{t-j} W_j$ of eq. (3.3) has a
# size of about 1. What of their sum? Guess first:

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import predict_first

guess = predict_first(
    "A prefix grows from 1 token to 64. How much larger does the size of e get?",
    options={"64 times": 64, "8 times": 8, "it stays": 1},
)

# %% [markdown]
# Each term of eq. (3.3) has entries of variance 1. The terms are independent, so on average they
# neither cancel nor agree, and variances add:
#
# $$ \mathbb{E}\,\tfrac{1}{d}\lVert e_t \rVert^2 = t \quad\Longrightarrow\quad
#    \text{size of } e_t \approx \sqrt{t} \tag{3.5} $$
#
# The index would swell as the text goes on. Dividing by $\sqrt{t}$ would help (our reading of the
# author's follow-up, [arXiv:2311.12678](https://arxiv.org/abs/2311.12678)).
#
# **Play below, then answer:** with one matrix for all lags, and inputs that share a part, does
# $1/\sqrt{t}$ still keep the size?

# %% tags=["widget", "nbval-ignore-output"]
from functools import partial

draw = numpy_generator(0, "size").normal
x_many, W_many = draw(size=(200, 64, 32)), draw(size=(64, 32, 32)) / 32**0.5
for t in (1, 4, 16, 64):
    newest_first = x_many[:, :t][:, ::-1].reshape(200, -1)
    e_t = newest_first @ W_many[:t].reshape(-1, 32)  # eq. (3.3) as one product
    size = np.sqrt(np.mean(e_t**2))
    assert abs(size / t**0.5 - 1) < 0.1
    print(f"t = {t:2d}: size of e {size:.2f}; eq. (3.5) says {t**0.5:.2f}")
print(guess.verdict(truth=8))
presets = [
    {"scale": "none"},
    {"scale": "1/√t"},
    {"weights": "same", "shared": 0.5, "scale": "1/√t"},
]
with_answer = partial(pictures.growth, has_answer=True)  # the stills leave it to you
explore(with_answer, presets=presets, still=pictures.growth, **pictures.GROWTH_DIALS)

# %% [markdown]
# <details><summary>Answer</summary>
#
# No. What all terms share adds up like $t$, not $\sqrt{t}$; in the long run $1/t$ is right. No
# fixed factor fits all inputs.
#
# </details>
#
# The Extractor's cure is the **adjustment**. The newest token carries its position: $x_t$ is token
# embedding plus position embedding $p_t$. So a vector computed from $x_t$ alone can depend on $t$,
# and on the token too:
#
# $$ g_t = x_t\, W_\mathrm{adj}, \qquad a_t = e_t \odot g_t \tag{3.6} $$
#
# with $W_\mathrm{adj} \in \mathbb{R}^{d \times d}$ and $\odot$ the product entry by entry. A last
# map $W_\mathrm{out} \in \mathbb{R}^{d \times d}$ mixes the channels:
#
# $$ y_t = a_t\, W_\mathrm{out} \tag{3.7} $$
#
# To see that it can undo the length, let the token write a value into channel 1 and the position
# write $1/t$ into channel 2:


# %% tags=["nbval-check-output"]
def she_rows(x, W, W_adj, W_out):
    gated = [e * (x_t @ W_adj) for e, x_t in zip(extract_rows(x, W), x, strict=True)]  # eq. (3.6)
    return [a @ W_out for a in gated]  # eq. (3.7)


value = torch.tensor([4.0, 2, 6, 8])
x_mean = torch.stack([value, 1 / torch.arange(1, 5)], dim=1)  # (token, position)
W_copy = torch.tensor([[1.0, 0], [0, 0]]).expand(4, 2, 2)  # every lag adds the value
W_adj = torch.tensor([[0.0, 0], [1, 0]])  # the gate of channel 1 reads channel 2
y = torch.stack(she_rows(x_mean, W_copy, W_adj, torch.eye(2)))
print("sums ", torch.stack(extract_rows(x_mean, W_copy))[:, 0].tolist())
print("means", y[:, 0].tolist())

# %% [markdown]
# Sums swell, gated sums are running means: an index whose size no longer depends on the length.
#
# **Check yourself.** Could extraction alone, eq. (3.3), give running means of all prefixes?
#
# <details><summary>Answer</summary>
#
# No. Take a sequence that is zero but for its first value. The mean at $t$ needs weight $1/t$ at
# lag $t-1$. Now let only the second value differ from zero: the mean at $t$ needs $1/t$ at lag
# $t-2$. So lag 1 would need $1/2$ and $1/3$ at once.
#
# </details>
#
# Now the whole of SHE against the library, values and gradients. (`nn.Linear` stores the transpose
# of the matrix in the equation.)

# %% tags=["agreement", "nbval-check-output"]
from attnlab.seeding import torch_generator

mixer = build_mixer("she", d_model=5, context_len=7).double()
x = torch.randn(7, 5, generator=torch_generator(0, "data"), dtype=torch.float64)
x.requires_grad_()
fast = mixer(x[None])[0]
slow = torch.stack(she_rows(x, mixer.lag_weight, mixer.adjust.weight.T, mixer.out.weight.T))
torch.testing.assert_close(fast, slow)
inputs = [x, *mixer.parameters()]
for from_fast, from_slow in zip(
    torch.autograd.grad(fast.square().sum(), inputs),
    torch.autograd.grad(slow.square().sum(), inputs),
    strict=True,
):
    torch.testing.assert_close(from_fast, from_slow)
print("eqs. (3.3), (3.6), (3.7) = library: outputs, and gradients of", len(inputs), "tensors")

# %% [markdown] tags=["exercise"]
# **Takeaway.** A sum grows with the length; a gate computed from the newest token, which carries
# its position, can undo that. Extraction, adjustment, output map: that is SHE.
#
# **Exercise 3.2** (difficulty 3, 7 min; builds on exercise 3.1 and eqs. (3.6), (3.7)). Write
# `she(x, W, W_adj, W_out)` for all positions at once; the result has shape $(T, d)$.
#
# <details><summary>Hint</summary>
#
# All gates together are one product, `x @ W_adj`. Nothing in the gate looks back.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def she(x, W, W_adj, W_out):
    """Return the output of SHE: x (T, d), W (l, d, d), W_adj and W_out (d, d) -> (T, d)."""
    # SOLUTION
    e = extract(x, W)
    g = x @ W_adj
    return (e * g) @ W_out


# %% tags=["nbval-check-output"]
checks.check_she(she)

# %% [markdown] tags=["exercise"]
# **Build 3** (difficulty 3, 10 min; builds on exercise 3.2). Write the sublayer that takes attention's
# place, $x + \mathrm{SHE}(\mathrm{norm}(x))$, as a module: `Sublayer(d_model, context_len)` with
# `norm`, an `nn.LayerNorm`; `lag_weight`, an `nn.Parameter` $(\ell, d, d)$; `adjust` and `out`, `nn.Linear`
# without bias. `forward` maps $(B, T, d)$ to $(B, T, d)$.
#
# <details><summary>Hint</summary>
#
# `extract` takes one sequence: call it for each of the batch, and stack. Who reads the norm, and who does not?
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
from torch import nn


class Sublayer(nn.Module):
    """SHE with a norm before it and the residual sum after it."""

    def __init__(self, d_model: int, context_len: int) -> None:
        # SOLUTION
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        start = torch.randn(context_len, d_model, d_model) / (context_len * d_model) ** 0.5
        self.lag_weight = nn.Parameter(start)
        self.adjust = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.norm(x)
        e = torch.stack([extract(row, self.lag_weight) for row in z])
        return x + self.out(e * self.adjust(z))


# %% tags=["nbval-check-output"]
checks.check_sublayer(Sublayer)

# %% [markdown]
# ## 3  Take away one thing at a time: HE, WE, ME   *(13 min)*
#
# SHE (*super high-performance*) has a $d \times d$ matrix for every lag. The paper has three
# cheaper members: *higher-performance*, *worthwhile*, *minimalist*. Their equations below are **our
# reconstruction** (section 4). *HE* shares one matrix $W_v$ among the lags and keeps a vector $w_j \in \mathbb{R}^d$ for each:
#
# $$ y_t = \Bigl[\Bigl(\sum_{j=0}^{t-1} (x_{t-j} W_v) \odot w_j\Bigr) \odot (x_t W_\mathrm{adj})
#    \Bigr] W_\mathrm{out} \tag{3.8} $$
#
# *WE* drops the value and output maps:
#
# $$ y_t = \Bigl(\sum_{j=0}^{t-1} x_{t-j} \odot w_j\Bigr) \odot (x_t W_\mathrm{adj}) \tag{3.9} $$
#
# *ME* drops the last matrix, with a vector $w_\mathrm{adj} \in \mathbb{R}^d$ in its place:
#
# $$ y_t = \Bigl(\sum_{j=0}^{t-1} x_{t-j} \odot w_j\Bigr) \odot (x_t \odot w_\mathrm{adj}) \tag{3.10} $$

# %% tags=["nbval-ignore-output"]
show(pictures.sublayers())


# %% tags=["agreement", "nbval-check-output"]
def lag_sum(u, w):
    return [sum(u[t - j] * w[j] for j in range(t + 1)) for t in range(len(u))]


def he_rows(x, W_v, w, W_adj, W_out):  # eq. (3.8)
    pairs = zip(lag_sum(x @ W_v, w), x, strict=True)
    return [(e * (x_t @ W_adj)) @ W_out for e, x_t in pairs]


def we_rows(x, w, W_adj):  # eq. (3.9)
    return [e * (x_t @ W_adj) for e, x_t in zip(lag_sum(x, w), x, strict=True)]


def me_rows(x, w, w_adj):  # eq. (3.10)
    return [e * (x_t * w_adj) for e, x_t in zip(lag_sum(x, w), x, strict=True)]


HE, WE, ME = (build_mixer(name, d_model=5, context_len=7).double() for name in ("he", "we", "me"))
W_v, W_adj, W_out = HE.value.weight.T, HE.adjust.weight.T, HE.out.weight.T
W_lags = W_v @ torch.diag_embed(HE.lag_weight)  # W_j = W_v diag(w_j)
one = torch.eye(5, dtype=torch.float64)
equal = [
    (he_rows(x, W_v, HE.lag_weight, W_adj, W_out), HE),
    (we_rows(x, WE.lag_weight, WE.adjust.weight.T), WE),
    (me_rows(x, ME.lag_weight, ME.adjust_weight), ME),
    (she_rows(x, W_lags, W_adj, W_out), HE),  # SHE with these matrices is HE
    (he_rows(x, one, WE.lag_weight, WE.adjust.weight.T, one), WE),  # HE without two maps is WE
    (we_rows(x, ME.lag_weight, torch.diag(ME.adjust_weight)), ME),  # a diagonal gate map: ME
]
for rows, member in equal:
    torch.testing.assert_close(torch.stack(rows), member(x[None])[0])
print("eqs. (3.8) to (3.10) = library; SHE contains HE, HE contains WE, WE contains ME")

# %% [markdown]
# Each member is a special case of the one before. Now count. Published are $\ell d^2 + 2 d^2$ for
# the Extractor and $4 d^2$ for attention; the others follow from eqs. (3.8) to (3.10):
# HE $3 d^2 + \ell d$, WE $d^2 + \ell d$, ME $\ell d + d$. For multiplications let $P = T(T+1)/2$ be
# the number of pairs of a position and one not after it. SHE needs $P d^2 + 2 T d^2 + T d$, HE
# $3 T d^2 + P d + T d$, WE $T d^2 + P d + T d$, ME $P d + 2 T d$. The second cell counts these by
# handing our loops numbers that notice when they are multiplied.
#
# **Then play and answer:** at which context $\ell$ has SHE as many weights as attention? And HE?

# %% tags=["nbval-check-output"]
from attnlab.analysis.theory import expected_mixer_weights, expected_multiplications

d, ell = 32, 16
print("weights at d = 32, l = 16              multiplications, d = T = 128, relative to attention")
for name in ("attention", "she", "he", "we", "me"):
    mixer = build_mixer(name, d_model=d, context_len=ell)
    counted = sum(p.numel() for p in mixer.parameters())
    formula = expected_mixer_weights(name, d_model=d, context_len=ell)
    big = {"d_model": 128, "time": 128, "n_heads": 4}
    ratio = expected_multiplications(name, **big) / expected_multiplications("attention", **big)
    assert counted == formula
    print(f"{name:10s} counted {counted:6,}  formula {formula:6,}   {ratio:5.2f}")


# %% tags=["nbval-check-output"]
class Tally:
    """A number that notices when it is multiplied; its value does not matter."""

    n_multiplications = 0

    def __mul__(self, other):
        Tally.n_multiplications += 1
        return self

    def __add__(self, other):
        return self

    __radd__ = __add__


T, d = 5, 3
shapes = (T, d), (T, d), (T, d, d), (d, d), (d,)
tokens, lags, maps, square, vector = (np.full(shape, Tally()) for shape in shapes)
arguments = {
    "she": (she_rows, tokens, maps, square, square),
    "he": (he_rows, tokens, square, lags, square, square),
    "we": (we_rows, tokens, lags, square),
    "me": (me_rows, tokens, lags, vector),
}
for name, (rows, *arrays) in arguments.items():
    Tally.n_multiplications = 0
    rows(*arrays)
    formula = expected_multiplications(name, d_model=d, time=T)
    print(f"{name:4s} T = 5, d = 3: counted {Tally.n_multiplications:4d}, formula {formula:4d}")

# %% tags=["widget", "nbval-ignore-output"]
members = [
    {},  # SHE, then HE, WE and ME
    {"extract": "value_diag"},
    {"extract": "diag", "finish": "matrix"},
    {"extract": "diag", "finish": "diag"},
]
explore(pictures.member, presets=members, **pictures.MEMBER_DIALS)

# %% [markdown] tags=["exercise"]
# <details><summary>Answer</summary>
#
# SHE at $\ell = 2$, since $\ell d^2 + 2 d^2 = 4 d^2$. HE at $\ell = d$.
#
# </details>
#
# **Takeaway.** SHE pays with weights ($\ell$ matrices) and with work (13 times attention's at
# $d = T = 128$); HE, WE and ME are SHE with structure forced on it, and cost less than attention there.
#
# **Exercise 3.3** (difficulty 2, 4 min; builds on eqs. (3.7) to (3.10)). Write
# `count_weights(name, d, ell)` for `attention`, `she`, `he`, `we` and `me`. No map has a bias.
#
# <details><summary>Hint</summary>
#
# List the maps of each equation; a square map has $d^2$ numbers, a vector per lag $\ell d$.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def count_weights(name, d, ell):
    """Return the number of weights of a mixer of width d and context length ell."""
    # SOLUTION
    return {
        "attention": 4 * d**2,
        "she": ell * d**2 + 2 * d**2,
        "he": ell * d + 3 * d**2,
        "we": ell * d + d**2,
        "me": ell * d + d,
    }[name]


# %% tags=["nbval-check-output"]
checks.check_weight_count(count_weights)

# %% [markdown]
# ## 4  What is published, what is ours   *(5 min)*
#
# We worked from the abstracts and from *summaries* that others, one of them a language model, wrote from
# the text (notebook 00, section 6). So:
#
# | statement | status |
# |---|---|
# | drop-in for the self-attention sublayer; four members SHE, HE, WE, ME; HE, WE, ME cost less than attention | published (abstract) |
# | extraction, then adjustment, then an optional linear map | published (through a summary) |
# | weights are assigned in reverse order of the sequence | published (through a summary); *lag index* is our reading |
# | the adjustment accounts for the length, from the latest input | published (through a summary); *through its position embedding* is our reading |
# | $\ell d^2 + 2 d^2$ weights against $4 d^2$; critical path multiply, accumulate, multiply, multiply, accumulate | published for version 1 (through a summary); that its one Extractor is SHE is our reading |
# | SHE clearly better than attention, with more work; HE better than multi-head, WE better than single-head, ME close to single-head, each with less | published (through a summary); tested in notebook 04 |
# | eqs. (3.3), (3.6), (3.7) for SHE | reconstruction; two checks below |
# | eqs. (3.8) to (3.10) for HE, WE, ME | reconstruction; only their names and how they compare with attention in loss and cost are known |
# | $1/\sqrt{t}$ as the later improvement | our guess |
# | biases, initial weights, norms, activation | unknown; defaults are ours |
#
# The *critical path* is the longest chain of steps that must wait for each other. M is a
# multiplication, C (*accumulation*) a sum. Eq. (3.3) is M C, the product with the gate M, the
# output map M C: we follow the arrows of the picture in section 3. Five candidates:

# %% tags=["nbval-check-output"]
# counts and paths found by hand; "two gate maps": y = e * (x W_1) * (x W_2), the gates multiplied
# with each other while the longer sum e still runs
d, ell = 32, 16
published = ell * d**2 + 2 * d**2, "M C M M C"
candidates = {
    "extraction, gate, output map": (ell * d**2 + 2 * d**2, "M C M M C"),
    "the same without output map": (ell * d**2 + d**2, "M C M"),
    "two gate maps, no output map": (ell * d**2 + 2 * d**2, "M C M"),
    "one gate matrix for each length": (2 * ell * d**2 + d**2, "M C M M C"),
    "1/sqrt(t) on the sum as well": (ell * d**2 + 2 * d**2, "M C M M M C"),
}
for name, (weights, path) in candidates.items():
    fits = "yes" if weights == published[0] else "no", "yes" if path == published[1] else "no"
    print(f"{name:32s} weights fit: {fits[0]:4s} path fits: {fits[1]}")

# %% [markdown]
# **Takeaway.** Of these five candidates one fits both the published count and the published path.
# That supports our skeleton of SHE; it does not prove it, and says little of HE, WE, ME.

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.teach import show_quiz

show_quiz("extractor")

# %% [markdown]
# ## 5  What the tokens themselves may decide   *(5 min)*
#
# In attention the tokens decide who mixes with whom. Here they cannot. How much input $s < t$
# moves extraction and output is
#
# $$ \frac{\partial e_t}{\partial x_s} = W_{t-s}^\top, \qquad
#    \frac{\partial y_t}{\partial x_s} = \bigl(W_{t-s}\, \mathrm{diag}(g_t)\, W_\mathrm{out}\bigr)^\top
#    \tag{3.11} $$
#
# The first holds no token at all. The second holds one: the newest, through the gate. Swap the two
# old tokens of section 1 and watch, for two different newest tokens, with
# $W_\mathrm{adj} = \begin{pmatrix}1&1\\0&1\end{pmatrix}$ and
# $W_\mathrm{out} = \begin{pmatrix}1&0\\1&1\end{pmatrix}$ (by hand: $g_3 = (1, 3)$ for the first):

# %% tags=["agreement", "nbval-check-output"]
x, W, W_adj, W_out = checks.page_numbers()


def e_3(x):
    return extract_rows(x, W)[2]


def y_3(x):
    return she_rows(x, W, W_adj, W_out)[2]


for x_3 in torch.tensor([[1, 2], [2, 0]], dtype=x.dtype):
    before = torch.stack([x[0], x[1], x_3])
    # the two old tokens swapped
    change = [(f(before[[1, 0, 2]]) - f(before)).tolist() for f in (e_3, y_3)]
    print(f"x_3 = {x_3.tolist()}: e changes by {change[0]}, y by {change[1]}")
    by_e, by_y = (torch.autograd.functional.jacobian(f, before) for f in (e_3, y_3))
    for s in (0, 1):  # eq. (3.11)
        assert torch.equal(by_e[:, s], W[2 - s].T)
        assert torch.equal(by_y[:, s], (W[2 - s] @ torch.diag(x_3 @ W_adj) @ W_out).T)
    shares = (before @ x_3 / 2**0.5).softmax(0)  # attention with W_q = W_k = 1
    print(f"    eq. (3.11) = autograd; attention's weights {shares.numpy().round(2).tolist()}")

# %% [markdown]
# The extraction changes by $(x_1 - x_2)(W_1 - W_2)$ whatever the newest token is; attention's
# weights move with it. Content meets content in one place only, the product $e_t \odot g_t$.
#
# A second choice hides in eq. (3.3): weights go by *lag*. A third-party implementation goes by
# *absolute* position instead, $e_t = \sum_{s \le t} x_s W_s$. It has as many weights and is a running
# sum, $e_t = e_{t-1} + x_t W_t$, with $d$ numbers of memory. What does it lose?

# %% tags=["agreement", "nbval-check-output"]
show(pictures.index_maps(n_tokens=6))

from torch.nn import functional as F

generator = torch_generator(1, "data")
x = torch.randn(1, 5, 3, generator=generator, dtype=torch.float64)
late = F.pad(x, (0, 0, 4, 0))  # the same phrase, four positions later
bare = {"d_model": 3, "context_len": 9, "adjust": "none", "out_proj": False}
for index in ("lag", "absolute"):
    extraction = build_mixer("she", index=index, **bare).double()
    print(f"{index:8s} index reads a shifted phrase alike:", end=" ")
    print(torch.allclose(extraction(late)[:, 4:], extraction(x)))
one_lag = build_mixer("she", d_model=3, context_len=1).double()
W_0, W_adj, W_out = one_lag.lag_weight[0], one_lag.adjust.weight.T, one_lag.out.weight.T
torch.testing.assert_close(one_lag(x), ((x @ W_0) * (x @ W_adj)) @ W_out)
stack = torch.nn.Sequential(*(build_mixer("she", d_model=3, context_len=9) for _ in range(3)))
for n, layers in enumerate((stack[:1], stack[:2], stack), start=1):
    growth = (layers.double()(2 * x) / layers(x)).mean()
    print(f"layers: {n}; twice the input, {growth:.0f} times the output = 2^(2^{n})")

# %% [markdown]
# With $\ell = 1$ SHE is the *bilinear gate* $y_t = [(x_t W_0) \odot (x_t W_\mathrm{adj})]
# W_\mathrm{out}$. With any $\ell$, doubling the input multiplies the output by $2^2$: SHE is a
# polynomial of degree 2, and $n$ layers without norm, residual and channel mixer one of degree
# $2^n$.
#
# **Check yourself.** Why does a stack of SHE layers need a norm even more than attention does?
#
# <details><summary>Answer</summary>
#
# Attention averages values, so twice the input gives at most twice the values. Here three layers
# turn a factor of 2 into 256, and a factor of 1/2 into 1/256.
#
# </details>
#
# **Takeaway.** Mixing weights know distances, not tokens; content enters through one product in
# each layer. The lag index reads a phrase alike wherever it stands, the absolute index does not.

# %% [markdown]
# ## 6  Are both parts needed?   *(8 min)*
#
# First a task where we know the answer. Signs $v_t \in \{+1, -1\}$, and with chance 0.9
#
# $$ v_{t+1} = v_t \cdot v_{t-3}, \qquad \text{else the opposite} \tag{3.12} $$
#
# No single one of the last eight signs is correlated with the next one. So the loss of a linear
# read-out of their weighted sum has slope zero at "all weights zero"; it is convex, so that is its
# lowest point: a coin, $\log 2 = 0.693$ nats. A bare sublayer with a linear read-out should stay
# there with extraction alone (a weighted sum) and with adjustment alone (newest sign and place
# only), and reach the true source with both: $h = 0.325$ nats in the long run, 0.318 on our test
# tokens. **Predict:** what if a channel mixer follows the extraction?

# %%
from itertools import product

from attnlab.sources import variable_length_chain

laws = {}  # of the next sign, by the last four, the oldest first
for past in product("+-", repeat=4):
    right, other = "+-" if past[0] == past[3] else "-+"  # eq. (3.12)
    laws["".join(past)] = {right: 0.9, other: 0.1}
signs = variable_length_chain(laws, symbols=["+", "-"])
assert np.isclose(signs.best_loss_nats(context_len=3), np.log(2))  # three signs say nothing
assert np.isclose(signs.best_loss_nats(context_len=4), signs.entropy_rate_nats)  # four say all


def windows(n, seed, stream):
    tokens = signs.sample(n * 9, generator=numpy_generator(seed, stream))
    return torch.from_numpy(tokens).view(n, 9)


class BareModel(torch.nn.Module):
    """Embedding, a mixer, a linear read-out: no norm, no residual, a channel mixer if asked for."""

    def __init__(self, mixer="she", *, has_mlp=False, context_len=8, d=8, **options):
        super().__init__()
        self.embedding = torch.nn.Embedding(2, d)
        self.position = torch.nn.Parameter(torch.randn(8, d) * d**-0.5)
        self.mixer = build_mixer(mixer, d_model=d, context_len=context_len, **options)
        inner, outer = torch.nn.Linear(d, 4 * d), torch.nn.Linear(4 * d, d)
        mlp = torch.nn.Sequential(inner, torch.nn.GELU(), outer)
        self.mlp = mlp if has_mlp else torch.nn.Identity()
        self.head = torch.nn.Linear(d, 2)

    def loss(self, tokens):  # from the fourth sign on the product can be known
        x = self.embedding(tokens[:, :-1]) + self.position
        logits = self.head(self.mlp(self.mixer(x)))[:, 3:]
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 4:].flatten())


# %% tags=["nbval-ignore-output"]
import pandas as pd

from attnlab.runmode import is_fast
from attnlab.seeding import seeded


def train(seed, **parts):
    with seeded(torch_generator(seed, "init")):
        model = BareModel(**parts)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for tokens in windows(150 * 128, seed, "data").split(128):
        optimizer.zero_grad()
        model.loss(tokens).backward()
        optimizer.step()
    return model.eval()


variants = {
    "identity": ("neither", {"mixer": "identity"}),
    "she/adjustment_only": ("adjustment only", {"context_len": 1}),
    "she/extraction_only": ("extraction only", {"adjust": "none"}),
    "she": ("both: SHE", {}),
    "she/extraction_and_mlp": ("extraction, channel mixer", {"adjust": "none", "has_mlp": True}),
}
test, rows, readers = windows(4000, 0, "test"), [], {}
for variant, (label, parts) in variants.items():
    for seed in (0, 1, 2) if is_fast() else range(10):
        readers[variant] = train(seed, **parts)
        rows.append((variant, label, seed, readers[variant].loss(test).item()))
losses = pd.DataFrame(rows, columns=["variant", "label", "seed", "loss_nats"])
truth = signs.oracle_nats(test.numpy(), per_token=True)[:, 3:].mean()
floors = {"true source": truth, "blind to products, log 2": np.log(2)}
show(pictures.ablation(losses, floors=floors))
by_variant = losses.groupby("variant")["loss_nats"]
for variant in ("identity", "she/adjustment_only", "she/extraction_only"):
    assert by_variant.min()[variant] > 0.68, "one part alone learned a product"
for variant in ("she", "she/extraction_and_mlp"):
    assert by_variant.max()[variant] < 0.40, "both parts, or a channel mixer, missed the product"

# %% [markdown]
# In a *bare* sublayer with a linear read-out both parts are needed for this task, by the argument
# above. A channel mixer changes that: from the sum $v_t + v_{t-3}$, which is 0 where the product is $-1$, it
# can read the product. So how much does the adjustment add inside a whole block, on text? The study
# `extractor-ablation` trained a one-layer model on small `tales` ($d = 24$, $\ell = 32$, 500 steps
# of 32 windows, five seeds), each time with one part changed. Its records are in
# `data/runs/extractor-ablation.jsonl`. ("Larger start": with $1/\sqrt{t}$ the library starts the
# lag weights $\sqrt{\ell}$ times larger.)

# %% tags=["nbval-check-output"]
from attnlab.records import load_details, load_runs
from attnlab.studies.ablation import VARIANTS

runs = load_runs("extractor-ablation/classroom/tales", variants=list(VARIANTS))
runs["label"] = runs["variant"].map({name: variant.label for name, variant in VARIANTS.items()})
runs["loss_nats"] = runs["test_loss_nats"]
floors = {"true source": runs["oracle_nats"].iloc[0]}
show(pictures.ablation(runs, floors=floors, cut=0.9))

table = runs.pivot_table(index="seed", columns="variant", values="test_loss_nats")
print(f"Loss minus that of SHE, same seed, nats per token, range over {len(table)} seeds:")
for variant in VARIANTS:
    if variant != "she":
        gap = table[variant] - table["she"]
        print(f"{VARIANTS[variant].label:34s} {gap.min():+.3f} to {gap.max():+.3f}")
above = table["she"] - floors["true source"]
print(f"SHE minus the true source          {above.min():+.3f} to {above.max():+.3f}")
places = load_details("extractor-ablation/classroom/tales", "by_position")
late = places[places["position"] > 24].groupby("variant")["loss_nats"].mean()
print(f"Positions 25 to 32: SHE {late['she']:.3f},", end=" ")
print(f"extraction only {late['she/extraction_only']:.3f}")

# %% [markdown]
# **What we see.** The paper's claim, in our words: both parts are needed; the adjustment takes care
# of the length.
#
# - Extraction is needed: first two rows.
# - The adjustment is *not distinguishable* from nothing here: gaps of both signs, no gain at late
#   positions. Norm and channel mixer may do its work; on the sign task the latter can.
# - Nor is $1/\sqrt{t}$ alone; the larger start costs a little, with every seed.
# - The lag index beats the absolute one, with every seed.
#
# Whether size or 500 steps limit SHE we did not test.
#
# **Takeaway.** On the sign task a bare Extractor needs both parts. In a whole block, here, only the
# loss of the extraction or its lag index cost much.

# %% [markdown]
# ## 7  Which lags matter, and one token at a time   *(6 min)*
#
# Because $W_j$ does not depend on the tokens, we can read what a model has learned: how much
# weight it gives each lag. On the sign task we know what must come out. The gate brings $v_t$, so
# the extraction has to fetch $v_{t-3}$: lag 3, as the next cell asserts.
#
# In a language model nobody tells us. Below, one model for each member, trained alike on children's
# books and stored in `data/models`; the printed line says by which study.
# **Play, then answer:** do far lags look learned?

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.paths import MODELS
from attnlab.show import lag_profile
from attnlab.training import load_model

sign_task = lag_profile(readers["she"].mixer.lag_weight.detach().numpy())
assert sign_task.argmax() == 3
stored = {name: load_model(MODELS / f"children/{name}.safetensors")
          for name in ("she", "he", "we", "me")}  # fmt: skip
origin = f"data/models/children/she.safetensors, {stored['she'][1]['experiment']}"
print(f"Sign task: lag 3 weighs most. Models below, SHE for one:\n{origin}")
kernels = {name: [block.mixer.lag_weight.detach().numpy() for block in model.blocks]
           for name, (model, _) in stored.items()}  # fmt: skip
dials = pictures.kernel_dials(kernels)
presets = [{"mixer": name} for name in ("she", "he", "me")]
explore(partial(pictures.kernel, kernels), presets=presets, **dials)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Compare each bar with the dotted line. A bar above it has grown; a bar below it has
# *shrunk*: training turned it down, which is learning too. The last lags are trained by few
# positions of a window (the last: by one), so their bars say least: they may show the initial size,
# or noise. So a large bar is no proof that a lag matters. Nor does a bar on the line prove that it
# was not learned: a near lag was.
#
# </details>
#
# Last, one token at a time. SHE has to keep the newest $\ell$ inputs. A **ring buffer** does it
# without moving anything: token $t$ goes to slot $t \bmod \ell$,
# overwriting the one that is now too old.

# %% tags=["agreement", "nbval-check-output"]
mixer = build_mixer("she", d_model=3, context_len=5).double()
x = torch.randn(1, 12, 3, generator=torch_generator(2, "data"), dtype=torch.float64)
state, streamed = mixer.initial_state(batch_size=1), []
with torch.no_grad():
    for x_t in x.unbind(1):
        y_t, state = mixer.step(x_t, state)
        streamed.append(y_t)
    torch.testing.assert_close(torch.stack(streamed, 1), mixer(x))
newest = [int((x[0] == kept).all(-1).nonzero()) for kept in state.newest_first()[0]]
ring = [next(t for t in newest if t % 5 == slot) for slot in range(5)]  # token t in slot t mod 5
print(f"12 tokens, context 5: stream = parallel. The ring holds {ring}, counted from 0.")
assert ring == [10, 11, 7, 8, 9]

# %% [markdown]
# **Check yourself.** How does the work for one more token grow with $t$, for SHE and for the
# absolute index?
#
# <details><summary>Answer</summary>
#
# SHE: $t d^2 + 2 d^2 + d$ multiplications until $t = \ell$, constant after. Absolute index: always
# $d^2 + 2 d^2 + d$, since $e_t = e_{t-1} + x_t W_t$; but it ends at $t = \ell$.
#
# </details>
#
# **Takeaway.** The kernel can be read, with care; a ring of $\ell$ inputs streams it exactly.

# %% [markdown]
# ## Summary
#
# You derived SHE: a sum, a matrix per lag, a gate from the newest token, an output map. You
# computed it by hand ($e_3 = (4, 3)$), by loop, as a block-Toeplitz product and in a stream, all
# equal to the library. You counted weights: at $d = 32$, $\ell = 16$ SHE has 18,432, attention
# 4,096. You decided what is published (the words, the count, the path) and what is ours (the
# equations). You predicted, and saw, that one part alone stays at 0.693 nats on the sign task, and
# that both together reach the true source, 0.32 (0.318 on these tokens).

# %% [markdown]
# ## What we did not show
#
# - That the paper's HE, WE and ME are ours. They may not be.
# - Speed. Direct evaluation of SHE does many times the work of attention (13 times at
#   $d = T = 128$); notebook 06 measures time.
# - Large models. A part that hardly matters in one layer on small tales may matter in six on books.
# - Copying from a place that only the content marks: nothing in eq. (3.3) can look for a token.
#   Notebook 02, section 8, is a toy of it: attention wins there.
#
# ## Notation used here
#
# Here $v_t$ in eq. (3.12) is a sign, that is, a token; $M$ in eq. (3.4) is a matrix, but M in
# section 4 a multiplication; $W_\mathrm{out}$ is $W_o$.

# %% tags=["nbval-check-output"]
from attnlab.teach import show_notation

keys = "d_model context_len time x y value out lag lag_weight lag_weight_vector extracted adjust"
show_notation([*keys.split(), "gate", "adjusted", "position_embedding", "entropy_rate_nats"])

# %% [markdown]
# ## Sources
#
# - Zhe Chen, *Attention Is Not All You Need Anymore*,
#   [arXiv:2308.07661](https://arxiv.org/abs/2308.07661) (v1: one Extractor, count and critical path;
#   v2: SHE, HE, WE, ME). What was read of it: notebook 00, section 6.
# - Zhe Chen, *Interpretation of the Transformer and Improvement of the Extractor*,
#   [arXiv:2311.12678](https://arxiv.org/abs/2311.12678): an improvement without new weights;
#   $1/\sqrt{t}$ is our guess at it.
# - Vaswani et al., *Attention Is All You Need*,
#   [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), section 3.2, eq. (1): the sublayer that is
#   replaced.
# - Geva et al., [arXiv:2012.14913](https://arxiv.org/abs/2012.14913): the channel mixer as a table
#   of keys and values.
# - Arora et al., *Zoology*, [arXiv:2312.04927](https://arxiv.org/abs/2312.04927): what gated
#   convolutions lack against attention.
#
# Previous: [02 Attention](02_attention.ipynb). Next:
# [04 Language models](04_language_models.ipynb).
