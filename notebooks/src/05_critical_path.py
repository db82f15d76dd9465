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
# # 05 · The critical path
#
# The Extractor's chain of operations is said to be much shorter than attention's. We count that
# chain by hand, by tracer and by clock, and find out when a shorter path is a faster program.
#
# **Minutes:** 75. **Prerequisites:** notebook 03, sections 1 to 4: SHE, HE, WE and ME; attention
# (notebook 02).
#
# Previous: [04 Language models](04_language_models.ipynb). Next:
# [06 Fast Extractors](06_fast_extractors.ipynb).

# %% [markdown]
# **Learning goals.** After this notebook you can
#
# - draw a small program as a graph, and count its work and its depth,
# - derive the depth of SHE and of attention, with sums in a tree and in a row,
# - compute how many workers it takes until a shorter path pays,
# - predict whether a clock will follow the depth, the work, or neither,
# - decide what the published claim about the critical path says, and what it does not.

# %% tags=["setup"]
import torch

from attnlab.analysis import critical_path, theory
from attnlab.chapters.critical_path import checks, live, pictures
from attnlab.runmode import banner
from attnlab.show import show

banner(minutes=75)

# %% [markdown]
# ## 1  By hand: every operation for $d = 2$   *(22 min)*
#
# A computer with enough hardware could do many operations at once. Not all: a sum has to wait for
# its terms. So take a program apart into **scalar operations**, one number from two, and ask of
# each one when it can be done at the earliest:
#
# $$ \mathrm{depth}(v) = \begin{cases} 0 & v \text{ is an input or a weight} \\
#    1 + \max_{u \to v} \mathrm{depth}(u) & v \text{ is an operation} \end{cases} \tag{5.1} $$
#
# where $u \to v$ means that $v$ waits for $u$. The largest depth is the length of the longest chain
# of operations that must follow each other, the **critical path**. The number of all operations is
# the **work**.

# %% [markdown]
# Take SHE (notebook 03) with $d = 2$ channels, for the newest of two tokens:
# $e_2 = x_2 W_0 + x_1 W_1$, then $g_2 = x_2 W_\mathrm{adj}$, $a_2 = e_2 \odot g_2$ and
# $y_2 = a_2 W_\mathrm{out}$. By hand:
#
# | result | multiplications | additions | ready at depth |
# |---|---|---|---|
# | $e_2$, two sums of four products | 8 | 6 | 3: multiply, add, add |
# | $g_2$, two sums of two products | 4 | 2 | 2: multiply, add |
# | $a_2$ | 2 | 0 | 4 |
# | $y_2$, two sums of two products | 4 | 2 | 6: multiply, add |
# | together | 18 | 10 | |
#
# The same as a program, one entry for each operation: what it does, and what it waits for. In the
# names, `x2.1` is channel 1 of $x_2$; `e.1`, `g.1`, `a.1`, `y.1` are channel 1 of the newest token's
# results; `W0.12` is row 1, column 2 of $W_0$, `G` is $W_\mathrm{adj}$ and `B` is
# $W_\mathrm{out}$.

# %% tags=["nbval-check-output"]
program = {}


def add_up(result, terms):  # two by two, level by level
    while len(terms) > 2:
        pairs = zip(terms[::2], terms[1::2], strict=True)
        sums = {f"{a} + {b}": ("add", (a, b)) for a, b in pairs}
        program.update(sums)
        terms = list(sums)
    program[result] = ("add", tuple(terms))


def inner(result, pairs):  # a sum of products
    products = {f"{a} {b}": ("mul", (a, b)) for a, b in pairs}
    program.update(products)
    add_up(result, list(products))


for c in "12":
    inner(f"e.{c}", [(f"x{2 - j}.{i}", f"W{j}.{i}{c}") for j in (0, 1) for i in "12"])
    inner(f"g.{c}", [(f"x2.{i}", f"G.{i}{c}") for i in "12"])
for c in "12":
    program[f"a.{c}"] = ("mul", (f"e.{c}", f"g.{c}"))
for c in "12":
    inner(f"y.{c}", [(f"a.{i}", f"B.{i}{c}") for i in "12"])
kinds = [kind for kind, _ in program.values()]
print(f"work {len(program)}: {kinds.count('mul')} multiplications, {kinds.count('add')} additions")
print("a.1 =", program["a.1"], "  y.1 =", program["y.1"])

# %% [markdown] tags=["exercise"]
# **Exercise 5.1** (difficulty 3, 6 min; builds on eq. (5.1)). Write `depth(program)`: the length of
# the longest chain of operations. A name that is no key of the program is an input or a weight. The
# order of the entries tells nothing.
#
# <details><summary>Hint</summary>
#
# Write a function inside the function that returns the depth of one name, and let it call itself
# for the operands. Which names end this?
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def depth(program):
    """Return the depth of a program {result: (kind, operands)}."""

    # SOLUTION
    def depth_of(v):
        if v not in program:
            return 0
        _, operands = program[v]
        return 1 + max(depth_of(u) for u in operands)

    return max(depth_of(v) for v in program)


# %% tags=["nbval-check-output"]
depth = checks.check_depth.hand_on(depth)
chain = live.longest_chain(program)
print(f"SHE, d = 2, two tokens: depth {depth(program)}")
print("kinds on a longest chain:", " ".join(program[v][0] for v in chain))

results = [f"{letter}.{c}" for letter in "egay" for c in "12"]
show(pictures.program(program, named=results))

# %% [markdown]
# Read the thick line: multiply, add (twice), multiply, multiply, add. With "add" for a whole sum
# that is the published *multiplication – cumulation – multiplication – multiplication –
# cumulation*.
#
# **Check yourself.** The gate $g$ is not on the thick line. By how many levels could it come later
# without delaying the result?
#
# <details><summary>Answer</summary>
#
# By one. $g$ is ready at level 2, $e$ at level 3, and $a$ needs both. With more tokens the sum $e$
# gets deeper and the gate has still more time.
#
# </details>
#
# **Takeaway.** Work counts all operations, depth counts one chain: 28 and 6 here. What is not on
# that chain is free, as long as there is somebody to do it.

# %% [markdown] tags=["exercise"]
# **Build 5** (difficulty 3, 10 min; builds on eq. (5.1)). Write a number that traces its own chain: a class
# `Number(value)` with `value`, `depth` (0 for an input) and `chain`, a list of `"mul"` and `"add"`, the first
# operation first. `a + b` and `a * b` give numbers that know theirs; where two operands are equally deep, the
# chain comes through the left one. A plain number on either side is an input.
#
# <details><summary>Hint</summary>
#
# `__add__`, `__mul__`, and `__radd__`, `__rmul__` for `2 * a`. All four differ in two things only: write one
# method that makes the result.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
class Number:
    """A value that knows the longest chain of operations behind it."""

    def __init__(self, value, depth=0, chain=()):
        # SOLUTION
        self.value, self.depth, self.chain = value, depth, list(chain)

    def after(self, other, kind, value):
        """Return the result of an operation on this number and another one."""
        deepest = self if self.depth >= getattr(other, "depth", 0) else other
        return Number(value, deepest.depth + 1, [*deepest.chain, kind])

    def __add__(self, other):
        return self.after(other, "add", self.value + getattr(other, "value", other))

    def __mul__(self, other):
        return self.after(other, "mul", self.value * getattr(other, "value", other))

    __radd__, __rmul__ = __add__, __mul__


# %% tags=["nbval-check-output"]
import numpy as np

Number = checks.check_number.hand_on(Number)
x_1, x_2, W_0, W_1, G, B = (
    np.array([Number(v) for v in range(n)]).reshape(-1, 2) for n in (2, 2, 4, 4, 4, 4)
)
y = ((x_2 @ W_0 + x_1 @ W_1) * (x_2 @ G)) @ B  # the program of section 1, by tracing numbers
print(f"SHE, d = 2, two tokens: depth {y[0, 0].depth}: {' '.join(y[0, 0].chain)}")

# %% [markdown]
# ## 2  How to add up $n$ numbers   *(11 min)*
#
# The word *cumulation* hides a choice. A running total takes the terms one after the other; a
# **tree** adds neighbours, then the sums of neighbours, and so on. Each level of a tree leaves half
# of the terms, rounded up. So the depth of a sum of $n$ terms is
#
# $$ A(n) = \begin{cases} \lceil \log_2 n \rceil & \text{in a tree} \\
#    n - 1 & \text{one after the other} \end{cases} \tag{5.2} $$
#
# Both need $n - 1$ additions. A tree needs neighbours to be added at the same time: it is a
# statement about hardware (or about rounding: the two orders round differently).

# %% tags=["nbval-ignore-output"]
show(pictures.sums(8))

# %% [markdown] tags=["exercise"]
# **Exercise 5.2** (difficulty 2, 4 min; builds on eq. (5.2)). Write `tree_depth(n)`: how many levels
# of additions a tree over $n$ terms has.
#
# <details><summary>Hint</summary>
#
# Either eq. (5.2), with care at powers of two, or a loop: how many terms are left after one level?
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def tree_depth(n):
    """Return the levels of additions that n terms need."""
    # SOLUTION
    n_levels = 0
    while n > 1:
        n = (n + 1) // 2
        n_levels += 1
    return n_levels


# %% tags=["nbval-check-output"]
tree_depth = checks.check_tree_depth.hand_on(tree_depth)
print(
    "3 terms:", tree_depth(3), "  128 terms:", tree_depth(128), "  128 x 128:", tree_depth(128**2)
)

# %% [markdown]
# Now any size. For the newest of $T$ tokens the SHE chain of section 1 is
#
# $$ \text{SHE:}\quad 1 + A(Td) + 1 + 1 + A(d) \tag{5.3} $$
#
# and attention with heads of width $d_h$, keys and values of older tokens kept, needs
#
# $$ \text{attention:}\quad \underbrace{1 + A(d)}_{\text{query}} +
#    \underbrace{1 + A(d_h) + 1}_{\text{scaled scores}} +
#    \underbrace{A(T) + 1 + 1 + A(T) + 1}_{\text{softmax}} +
#    \underbrace{1 + A(T)}_{\text{values}} + \underbrace{1 + A(d)}_{\text{output map}} \tag{5.4} $$
#
# The softmax finds the largest score (a tree of comparisons), subtracts it, takes exponentials, adds
# them up and divides. We count every operation as one step, an exponential too.


# %% tags=["agreement", "nbval-check-output"]
def she_depth(T, d, A):
    return 1 + A(T * d) + 1 + 1 + A(d)  # eq. (5.3)


def attention_depth(T, d, d_h, A):  # eq. (5.4)
    softmax = A(T) + 1 + 1 + A(T) + 1
    return (1 + A(d)) + (1 + A(d_h) + 1) + softmax + (1 + A(T)) + (1 + A(d))


orders = {"tree": tree_depth, "sequential": lambda n: n - 1}
for T, d, heads in ((2, 2, 1), (128, 128, 4), (2048, 128, 4)):
    for order, A in orders.items():
        she, attention = she_depth(T, d, A), attention_depth(T, d, d // heads, A)
        sizes = {"d_model": d, "context_len": T, "n_heads": heads, "accumulate": order}
        assert she == theory.expected_depth("she", **sizes)
        assert attention == theory.expected_depth("attention", **sizes)
        print(f"T = {T:4d}, d = {d:3d}, {order:10s}: SHE {she:7,}, attention {attention:5,}")

# %% [markdown]
# With trees SHE's chain is about half of attention's. One after the other, at $T = d = 128$ and
# above, it is the longer one by far: SHE adds up all $Td$ products in one sum, attention never more
# than the larger of $T$ and $d$.
#
# **Check yourself.** Double the context. By how many steps does each chain grow, with trees?
#
# <details><summary>Answer</summary>
#
# SHE by 1, attention by 3: $A(T)$ stands in eq. (5.4) three times, for the largest score, the sum of
# exponentials and the sum of values.
#
# </details>

# %% tags=["nbval-ignore-output"]
import pandas as pd

lengths = [2**k for k in range(1, 12)]
rows = [
    (name, T, theory.expected_depth(name, d_model=128, context_len=T, n_heads=heads))
    for name, heads in (("attention", 4), ("she", 1), ("he", 1), ("we", 1), ("me", 1))
    for T in lengths
]
growth = pd.DataFrame(rows, columns=["name", "context_len", "depth"])
one = pictures.depth_growth(growth)
show(one.saying(f"{one.words} Width 128, sums in trees, attention with four heads."))

# %% [markdown]
# **Takeaway.** "Shorter path" is true of SHE with trees of adders, at $T = d = 128$ it is 24
# against 48; with running totals it is false, 16,513 against 674. (Why HE's curve is flat up to 256
# tokens: see section 3.)

# %% [markdown]
# ## 3  By tracer: what the real modules do   *(10 min)*
#
# Equations are not programs. So we let PyTorch record what a module *does*, as a graph of tensor
# operations, and read each of these as the scalar operations it stands for: a product of matrices is
# many multiplications and sums. Then eq. (5.1), for every number. Moving numbers (reshape, slice,
# look-up) counts nothing.
#
# First the program that we built by hand, then the library's five mixers at $d = T = 128$ (HE, WE and
# ME are our reconstructions). In the names, `acc` means adding up, the C of notebook 03.
#
# **Decide before you look:** HE does less work than SHE. Is its chain shorter, too?

# %% tags=["agreement", "nbval-check-output"]
from attnlab.mixers import build_mixer
from attnlab.show import look


def page_mixer(name, size):
    heads = {"n_heads": 4} if name == "attention" else {}
    return build_mixer(name, d_model=size, context_len=size, **heads)


by_tracer = critical_path.trace_step(build_mixer("she", d_model=2, context_len=2))
assert (by_tracer.depth(), by_tracer.n_operations) == (depth(program), len(program))
print(f"d = 2: by hand = by tracer: depth {by_tracer.depth()}, work {by_tracer.n_operations}")
traces = {}
for name in ("attention", "she", "he", "we", "me"):
    traces[name] = critical_path.trace_step(page_mixer(name, 128))
    path, work = traces[name].longest_path(), traces[name].n_operations
    heads = 4 if name == "attention" else 1
    sizes = {"d_model": 128, "context_len": 128, "n_heads": heads}
    assert path.depth == theory.expected_depth(name, **sizes)
    print(f"{look(name).label:9s} depth {path.depth:2d} work {work:9,}  {path.names}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Yes, 19 against 24, although it has more links (its value map comes first: mul acc). Values of older
# tokens are kept, so their sum over the lags is ready early, and the second acc is *one* addition,
# which joins the newest. If the whole sum had to wait for the newest value, it would be 25. Up to 256
# tokens the older sum is never late: HE's curve in section 2 is flat there.
#
# </details>
#
# **Play, then answer.** Below is the chain, node by node. Which steps of attention would go if the
# softmax were left out? And which step of SHE grows with the context?

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import explore

settings = [{}, {"mixer": "he", "context_len": 2048}, {"accumulate": "sequential"}]
explore(pictures.beside_attention, presets=settings, **pictures.path_dials())

# %% [markdown]
# <details><summary>Answer</summary>
#
# Without softmax: max, subtract, exp, acc and div, 17 of 48 steps at $d = T = 128$. In SHE the first
# acc grows, by one step when the context doubles.
#
# </details>
#
# **The path belongs to the program, not to the equation.** Two programs for the same $e_t$: a loop
# that adds lag after lag, and one product over all lags and channels. And three programs for the same
# attention: as in the library; with the division after the sum of values; and besides, without
# subtracting the largest score (which only guards against overflow).


# %% tags=["agreement", "nbval-check-output"]
from functools import partial

from attnlab.seeding import torch_generator


def attend(x_t, K, V, W_q, W_o, *, is_late=False, is_guarded=True):
    scores = (x_t @ W_q) @ K.T / K.shape[-1] ** 0.5
    w = torch.exp(scores - scores.max() if is_guarded else scores)
    mixed = (w @ V) / w.sum() if is_late else (w / w.sum()) @ V
    return mixed @ W_o


dice = torch_generator(0, "data")
matrices = [torch.randn(128, 128, generator=dice) / 11 for _ in range(4)]
inputs = [torch.randn(128, generator=dice), *matrices]
for changes in ({}, {"is_late": True}, {"is_late": True, "is_guarded": False}):
    variant = partial(attend, **changes)
    torch.testing.assert_close(variant(*inputs), attend(*inputs))
    chain = critical_path.trace_module(variant, *inputs).longest_path()
    print(f"attention, one head: depth {chain.depth}  {chain.names}")
print("four heads, a score sums 32 products:", chain.depth - tree_depth(128) + tree_depth(32))


# %% tags=["agreement", "nbval-check-output"]
def loop(x, W):  # e_t of the newest token, one lag after the other
    e = x[-1] @ W[0]
    for j in range(1, len(x)):
        e = e + x[-1 - j] @ W[j]
    return e


def product(x, W):  # the same as one product over all lags and channels
    return x.flip(0).flatten() @ W.flatten(0, 1)


T, d = 32, 16
x, W = (torch.randn(*shape, generator=dice) for shape in ((T, d), (T, d, d)))
torch.testing.assert_close(loop(x, W), product(x, W), rtol=1e-4, atol=1e-4)
as_loop, as_product = (critical_path.trace_module(f, x, W) for f in (loop, product))
assert as_loop.depth() == 1 + tree_depth(d) + T - 1
assert as_product.depth() == 1 + tree_depth(T * d)
for name, one in (("loop over lags", as_loop), ("one product", as_product)):
    print(
        f"{name:14s} depth {one.depth():2d}  work {one.n_operations:,}  {one.longest_path().names}"
    )

# %% [markdown]
# The loop does the same work as the product, on a chain 3.6 times as deep. With the three programs
# for attention the headline is 24 against 33. More work in advance (maps applied to kept keys and
# values) shortens attention further, as knowing the older sum shortens SHE to 18 below. No headline
# is final.
#
# A mixer is a part of a model. What does the whole model gain? *Identity* is the model with a mixer
# that does nothing.

# %% tags=["nbval-check-output"]
from attnlab.config import ModelConfig
from attnlab.models import LanguageModel

base = {"vocab_size": 512, "context_len": 128, "d_model": 128, "n_layers": 1, "n_heads": 4}
whole = {}
for name in ("identity", "attention", "she"):
    model = LanguageModel(ModelConfig(mixer=name, **base))
    whole[name] = critical_path.trace_step(model).depth()
    added = whole[name] - whole["identity"]
    print(
        f"{look(name).label:20s} model of one layer: depth {whole[name]}, of the mixer {added:2d}"
    )
assert whole["she"] - whole["identity"] == 1 + tree_depth(128) + 1 + 1 + 1 + tree_depth(128)
print(f"SHE over attention, whole model: {whole['she'] / whole['attention']:.2f}")

# %% [markdown]
# Inside the model SHE adds 18 steps, not 24. The newest token reaches the mixer late, after the norm.
# By then the sum over all older tokens is ready, and only one addition joins the two. In this program
# of attention nothing can be done before the query is there.
#
# **Takeaway.** The tracer finds the published chain, mul acc mul mul acc, in the real SHE. But a
# path belongs to a program; norms and the channel mixer are on it, too, and SHE leaves four fifths
# of the model's path.

# %% [markdown]
# ## 4  With $P$ workers: work against depth   *(17 min)*
#
# Depth is the time with unlimited workers, work is the time of a single one. In between, let $P$
# workers do one operation each per step. Nobody can beat $\mathrm{work}/P$, nor the depth, and Brent
# showed that a simple plan comes near:
#
# $$ \max\Bigl(\frac{\mathrm{work}}{P},\ \mathrm{depth}\Bigr) \;\le\; \mathrm{steps}(P) \;\le\;
#    \frac{\mathrm{work}}{P} + \mathrm{depth} \tag{5.5} $$
#
# The plan: finish level after level. If level $k$ has $n_k$ operations, it takes
# $\lceil n_k / P \rceil$ steps, which is less than $n_k / P + 1$. Sum over all levels:
#
# $$ \mathrm{steps}(P) = \sum_{k=1}^{\mathrm{depth}} \Bigl\lceil \frac{n_k}{P} \Bigr\rceil
#    \;<\; \sum_k \Bigl(\frac{n_k}{P} + 1\Bigr) = \frac{\mathrm{work}}{P} + \mathrm{depth} \tag{5.6} $$

# %% tags=["agreement", "nbval-check-output"]
n = {  # operations by level, at d = T = 8
    name: live.level_sizes(name, d_model=8, context_len=8) for name in ("attention", "she")
}
print("SHE, by level:", ", ".join(map(str, n["she"])))
for P in (1, 8, 32, 64, 128, 1000):
    steps = {}
    for name, n_k in n.items():
        steps[name] = sum(-(-size // P) for size in n_k)  # eq. (5.6), rounded up
        work, n_levels = sum(n_k), len(n_k)
        assert max(work / P, n_levels) <= steps[name] <= work / P + n_levels  # eq. (5.5)
    print(f"P = {P:4d}: attention {steps['attention']:4d} steps, SHE {steps['she']:5d}")

# %% [markdown]
# With few workers the smaller work wins, with many the shorter path.
#
# **Play, then answer.** Push $P$ up. Why does attention stop gaining earlier than SHE? Then add up one
# after the other: who wins with 128 workers?

# %% tags=["widget", "nbval-ignore-output"]
settings = [{"units": 8}, {"units": 128}, {"units": 128, "accumulate": "sequential"}]
explore(pictures.workers, presets=settings, **pictures.WORKER_DIALS)

# %% [markdown] tags=["exercise"]
# <details><summary>Answer</summary>
#
# Attention's levels are small: soon most workers are idle, and only its 26 levels (one head) count.
# One after the other, SHE's 73 levels lose to attention's 50 with any number of workers.
#
# </details>
#
# **Exercise 5.3** (difficulty 3, 7 min; builds on eq. (5.5)). Write
# `crossover(work_a, depth_a, work_b, depth_b)`: the number of workers, a real number, not rounded, from which program *a* has
# the smaller upper bound, and keeps it (at it the bounds are equal). Return 1 if that is so already
# with one worker, `math.inf` if never.
#
# <details><summary>Hint</summary>
#
# Set the two bounds equal and solve for $P$. What does the fraction say where *a* saves no depth, or
# has less work?
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
import math


def crossover(work_a, depth_a, work_b, depth_b):
    """Return the number of workers from which the bound of a is the smaller one."""
    # SOLUTION
    if depth_a > depth_b or (depth_a == depth_b and work_a >= work_b):
        return math.inf
    if work_a <= work_b:
        return 1
    return max(1, (work_a - work_b) / (depth_b - depth_a))


# %% tags=["nbval-check-output"]
crossover = checks.check_crossover.hand_on(crossover)

# %% [markdown]
# In one line, where SHE has more work and less depth:
#
# $$ P^* = \frac{\mathrm{work}_\mathrm{SHE} - \mathrm{work}_\mathrm{att}}
#    {\mathrm{depth}_\mathrm{att} - \mathrm{depth}_\mathrm{SHE}} \tag{5.7} $$
#
# This compares upper bounds. Eq. (5.5) also tells what is *certain*: attention is first if even its
# upper bound lies below SHE's lower one, and the other way round.

# %% tags=["agreement", "nbval-check-output"]
she, attention = traces["she"], traces["attention"]
P_star = crossover(she.n_operations, she.depth(), attention.n_operations, attention.depth())
assert P_star == critical_path.crossover_units(she, attention)
print(f"eq. (5.7): ({she.n_operations:,} - {attention.n_operations:,}) / (48 - 24) = {P_star:,.0f}")
surely_not = (she.n_operations - attention.n_operations) / attention.depth()
surely = she.n_operations / (attention.depth() - she.depth())
print(f"attention first for certain below {surely_not:,.0f} workers, SHE above {surely:,.0f}")
for name in ("he", "we", "me"):
    units = critical_path.crossover_units(traces[name], attention)
    print(f"{look(name).label}: ahead of attention from {units:.0f} worker on")
in_a_row = critical_path.crossover_units(she, attention, accumulate="sequential")
assert in_a_row is None  # with one addition after the other SHE never gets ahead
assert she.n_multiplications == 128 * 128**2 + 2 * 128**2 + 128
print("multiplications of one token: SHE over attention", end=" ")
print(f"{she.n_multiplications / attention.n_multiplications:.1f}")

table = pd.DataFrame(
    [(name, one.n_operations, one.depth()) for name, one in traces.items()],
    columns=["name", "work", "depth"],
)
one = pictures.bound(table)
show(one.saying(f"{one.words} One token, d = T = 128."))

# %% [markdown]
# With one addition after the other, SHE is ahead with no number of workers: it has more work *and* more
# depth.
#
# **How many workers are there?** A CPU core with 512-bit vectors multiplies about 32 numbers a cycle;
# a large GPU of 2022 (H100) has 16,896 lanes for 32-bit numbers. Both are far below 85,000. And
# training gives the same workers $B \times T$ positions at once: that multiplies the work and
# leaves the depth, so $P^*$ grows about $B \times T$ times. Only the work matters then.

# %% [markdown]
# **Why does the short path carry so much work?** For one new token attention applies four maps and
# looks at $T$ kept keys and values, about $4 d^2 + 2 T d$ multiplications: the key of a token is
# computed *once*. In SHE a token meets a *new* matrix each time its lag changes: $T d^2 + 2 d^2 + d$.
# The ratio is about $(T + 2) / (4 + 2 T / d)$, 22 at $T = d = 128$. Over a whole sequence, where early
# positions have few lags, it is 13 (notebook 03).
#
# **Takeaway.** SHE's short path pays above about $1.7 \cdot 10^5$ workers for one token at
# $d = T = 128$; HE, WE and ME pay with any number, because they have less depth *and* less work. These are
# counts, not times.

# %% [markdown]
# ## 5  By clock   *(11 min)*
#
# Depth and work are counts. Now a clock: one more token, context full, one CPU thread. At
# $d = T = \ell = 16$, 32, 64 and 128, SHE has exactly half of attention's depth, and 2.8 to 21
# times its work. Attention's keys and values, and SHE's inputs, are kept from token to token.
# **Commit to a guess, then run on:**

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import predict_first

small = predict_first(
    "d = ℓ = 16: half the depth, 2.8 times the work. What is its time over attention's? Take the nearest.",
    options={"half as long": 0.5, "as long": 1.0, "2.8 times as long": 2.8},
)
large = predict_first(
    "d = ℓ = 128: half the depth, 21 times the work. What is its time over attention's? Take the nearest.",
    options={"half as long": 0.5, "as long": 1.0, "8 times as long": 8.0, "21 times as long": 21.0},
)

from attnlab.runmode import is_fast


def next_token(mixer):  # a program that reads one more token with a context that is full
    mixer.eval().requires_grad_(False)
    options = {"streaming": "ring"} if hasattr(mixer, "lag_weight") else {}
    past = torch.randn(1, mixer.context_len, mixer.d_model, generator=torch_generator(0, "clock"))
    _, state = mixer.prefill(past, mixer.initial_state(1, **options))
    x_t = past[:, 0]

    def call():  # each one costs the same: the ring drops its oldest token
        nonlocal state
        y_t, state = mixer.step(x_t, state)
        return y_t

    return call


def race_against_attention(name, size, *, repeats):
    mixers = {each: page_mixer(each, size) for each in (name, "attention")}
    programs = {each: next_token(mixer) for each, mixer in mixers.items()}
    paths = [critical_path.trace_step(mixer) for mixer in mixers.values()]
    pair = f"{look(name).label} / attention, d = ℓ = {size}"
    return {"d_model": size, **live.race(pair, programs, paths, repeats=repeats)}


# %% tags=["nbval-ignore-output"]
sizes = (16, 32, 64, 128) if is_fast() else (16, 32, 64, 128, 256)
repeats = 121 if is_fast() else 201
race = pd.DataFrame([race_against_attention("she", size, repeats=repeats) for size in sizes])
print(small.verdict(truth=round(race["time_ratio"].iloc[0], 2)))
print(large.verdict(truth=round(race.set_index("d_model")["time_ratio"][128], 1)))
show(pictures.ratio_by_size(race))
by_size = race.set_index("d_model")
small_ratio, large_ratio = by_size["time_ratio"][[16, 128]]
assert large_ratio > max(1, 2 * small_ratio), "large: attention wins; small: SHE comes nearer"

# %% [markdown]
# In our run the clock starts near the depth and climbs towards the work. (Grey: the interval of the
# median over rounds in which the two took turns.) Does depth decide at the left end, then? No:
# there is no tree of adders in one CPU thread. What decides is on neither list. A rough model of a
# program's time is
#
# $$ \text{time} \;\gtrsim\; \max\Bigl(n_\mathrm{calls}\, \tau,\ \frac{\text{bytes}}{\beta},\
#    \frac{\mathrm{work}}{\rho}\Bigr) \tag{5.8} $$
#
# with $n_\mathrm{calls}$ library calls of some microseconds $\tau$ each, weights and state to be read
# at $\beta$ bytes a second, and $\rho$ operations a second.

# %% tags=["nbval-ignore-output"]
from attnlab.analysis import timing

beta = timing.machine_peaks(threads=1, seconds=0.1).copy_gb_s
rows = []
for size in (16, 128):
    for name, column in (("she", "ms"), ("attention", "rival_ms")):
        mixer = page_mixer(name, size)
        n_calls = live.count_calls(next_token(mixer))
        kept = size**2 * (2 if name == "attention" else 1)
        mib = 4 * (sum(w.numel() for w in mixer.parameters()) + kept) / 2**20
        us = 1e3 * by_size[column][size]
        rows.append(
            (size, look(name).label, n_calls, mib, us, us / n_calls, 2**20 / 1e3 * mib / beta)
        )
columns = "d = ℓ,mixer,calls,MiB read,µs,µs a call,µs to read"
print(pd.DataFrame(rows, columns=columns.split(",")).round(2).to_string(index=False))

# %% [markdown]
# In our run: small ($d = 16$), SHE makes fewer calls, and a call costs about the same in both. Large
# ($d = 128$), SHE has to read 8 MiB for one token, about 21 times as much as attention. It also does
# 21 times the operations: bytes and operations grow alike, so this pair cannot tell which of them the
# clock follows. (Times are first quartiles. Last column: a copy of that size; a cache is faster.)
#
# **So when is a shorter path the faster program?** Compare pairs. Equal work: loop and product of
# section 3. A short path that costs work: the sums of all prefixes by *doubling* (add what lies 1,
# 2, 4, ... tokens back; depth $\log_2 T$) against a running total.


# %% tags=["agreement", "nbval-check-output"]
def running_sum(x):
    return x.cumsum(0)


def running_sum_by_doubling(x):
    reach = 1
    while reach < len(x):
        x = torch.cat([x[:reach], x[reach:] + x[:-reach]])
        reach *= 2
    return x


u = torch.randn(256, 16, generator=dice)
doubling, in_a_row = running_sum_by_doubling, running_sum
torch.testing.assert_close(doubling(u), in_a_row(u), rtol=1e-4, atol=1e-4)
sums = {f.__name__: critical_path.trace_module(f, u) for f in (doubling, in_a_row)}
for name, one in sums.items():
    deep = one.depth(accumulate="sequential")
    print(f"{name:24s} depth {deep:3d}, work {one.n_operations:6,}")

# %% tags=["nbval-ignore-output"]
repeats = 61 if is_fast() else 201
he = race_against_attention("he", 128, repeats=2 * repeats)
contests = {  # the program with the shorter path first
    "one product / loop over lags": ([product, loop], (x, W), "tree"),
    "prefix sums: doubling / in a row": ([doubling, in_a_row], (u,), "sequential"),
}
rows = []
for pair, (both, inputs, order) in contests.items():
    programs = {f.__name__: partial(f, *inputs) for f in both}
    paths = [critical_path.trace_module(f, *inputs) for f in both]
    rows.append(live.race(pair, programs, paths, repeats=repeats, accumulate=order))
programs, of_she = pd.DataFrame(rows), race[race["d_model"].isin([16, 128])]
pairs = pd.concat([of_she, pd.DataFrame([he]), programs], ignore_index=True)
show(pictures.rulers(pairs))
free, bought = programs["time_ratio"]
assert free < 1 < bought, "at equal work the shorter path wins; bought with work, it loses here"

# %% [markdown]
# **Check yourself.** In which rows is the shorter path the faster program, and what do these rows have
# in common?
#
# <details><summary>Answer</summary>
#
# In our run: SHE at 16, HE, and the one product. In the last two the shorter path costs no extra
# work. At $d = 16$ work is too small to matter. Where the short path was bought with work, and the
# work was large or came in many calls, it lost.
#
# </details>
#
# **Takeaway.** A shorter path is the faster program when it costs no work, or when the work is too
# small for the clock to see. On a CPU it is calls, bytes and operations that take time, not levels of
# an adder tree.

# %% [markdown]
# ## 6  The claim, judged   *(4 min)*
#
# This page relies on the abstract and on summaries of the paper. A summary says: the Extractor's
# critical path is *multiplication – cumulation – multiplication – multiplication – cumulation*, much
# shorter than attention's. As far as summaries tell, no run time was measured.
#
# | statement | verdict |
# |---|---|
# | SHE's chain has these five kinds | true: by hand and by tracer |
# | it is shorter than attention's | true of the usual programs, with trees and unlimited workers: 24 against 48, or 33 |
# | ... on any hardware | false: 16,513 against 674 with running totals |
# | so SHE is faster | not said, and not implied: it needs about $1.7 \cdot 10^5$ workers, or sizes at which only calls count |
# | SHE's quality is worth its work | another question: notebook 04 |
# | HE, WE, ME are faster than attention | not part of the claim; for our reconstructions likely, with less of both by count; only HE was timed |

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.teach import show_quiz

show_quiz("critical_path")

# %% [markdown]
# **Takeaway.** The claim is right about what it counts. It counts neither work, nor bytes, nor calls,
# and on the machine of this run these decide.

# %% [markdown]
# ## Summary
#
# - You **drew** SHE for $d = 2$ as a graph: work 28, depth 6.
# - You **derived** the depths: 24 for SHE and 48 for attention at $d = T = 128$ with trees, 16,513 and
#   674 with running totals.
# - You **computed** that one token pays for the shorter path above 169,211 workers, for certain above
#   177,483.
# - You **predicted** the clock at two sizes, and saw it, in our run, follow calls when
#   small, bytes and operations (which grow alike) when large.
# - You **decided** what the claim says: a true statement about one chain, none about time.

# %% [markdown]
# ## What we did not show
#
# - A GPU, with dearer calls and many workers: we did not measure where SHE loses there.
# - That eq. (5.8) is right: it explains two sizes, without caches.
# - Faster programs for SHE: sums over frequencies need fewer operations (notebook 06).
# - What an operation costs: an exponential counted one step, as much as an addition.
# - That 33 steps are the fewest for attention: we tried three programs.
# - Other machines: times are of one run, on one thread.
#
# ## Notation used here
#
# $P$ counts workers here; it is the transition matrix in notebook 01 and a number of pairs in
# notebook 03. $A(n)$ has nothing to do with the weights $A_{ts}$ of attention.

# %% tags=["nbval-check-output"]
from attnlab.teach import show_notation

keys = "d_model d_head context_len time x y lag lag_weight extracted gate adjusted adjust out"
show_notation([*keys.split(), "query", "sum_depth", "units", "level_sizes"])

# %% [markdown]
# ## Sources
#
# - Zhe Chen, *Attention Is Not All You Need Anymore*,
#   [arXiv:2308.07661](https://arxiv.org/abs/2308.07661), v1: the critical path and the count
#   $\ell d^2 + 2 d^2$. This page relies on the abstract and on summaries. HE, WE, ME: our
#   reconstructions.
# - Brent, "The parallel evaluation of general arithmetic expressions", *Journal of the ACM* 21 (1974):
#   eqs. (5.5) and (5.6).
# - Hillis and Steele, "Data parallel algorithms", *Communications of the ACM* 29 (1986): sums by
#   doubling.
# - Vaswani et al., [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), section 3.2: eq. (5.4).
# - NVIDIA, *H100 Tensor Core GPU Architecture* (white paper, 2022): lanes of a GPU.
#
# Previous: [04 Language models](04_language_models.ipynb). Next:
# [06 Fast Extractors](06_fast_extractors.ipynb).
