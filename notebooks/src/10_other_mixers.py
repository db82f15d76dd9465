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
# # 10 · Other mixers: one frame, many matrices
#
# Linear attention, RetNet, Mamba-2, delta nets, Hyena, SPADE, RWKV, gMLP, and the Extractors: one line of
# algebra holds nearly all of them. You read each as a matrix, pay its prices, and see from records how far it
# comes.
#
# **Minutes:** 60. **Prerequisites:** notebook 02, sections 1 to 3; notebook 03, sections 1 and 2.
#
# Previous: [09 Replacing attention](09_replacing_attention.ipynb). Next:
# [11 Recall and state](11_recall_and_state.ipynb).

# %% [markdown]
# **Learning goals.** After this notebook you can
#
# - compute what a mixer does from its matrix, by hand and in a stream,
# - derive the size of a state from the rank of a block,
# - build the matrix of a state that fades,
# - decide at which price in weights, state and work a mixer is bought,
# - judge from records how far a mixer comes on a task, and what is not known.

# %% tags=["setup"]
import numpy as np
import torch

from attnlab.chapters.other_mixers import checks, live, pictures
from attnlab.runmode import banner, is_fast
from attnlab.show import show

banner(minutes=60)

# %% [markdown] tags=["exercise"]
# ## 1  One frame, four matrices   *(12 min)*
#
# A mixer takes a value $v_s = v(x_s)$ of each token, moves values along the text, and finishes each position
# by itself:
#
# $$ y_t = f\Bigl(\sum_{s \le t} M_{ts}\, v_s,\ x_t\Bigr), \qquad M = M(x) \in \mathbb{R}^{T \times T}
#    \tag{10.1} $$
#
# Only $M$ moves anything; its upper triangle is zero. Four kinds of $M$ for four tokens:
#
# | kind | $M_{ts}$ for $s \le t$ | depends on |
# |---|---|---|
# | dense | any number $m_{ts}$ | both places |
# | softmax | $e^{q_t k_s} / \sum_{r \le t} e^{q_t k_r}$ | both tokens, and all others up to $t$ |
# | low rank | $q_t k_s$ | both tokens |
# | Toeplitz | $a_{t-s}$ | the distance |
#
# **Exercise 10.1** (difficulty 1, 3 min; builds on eq. (10.1)). Write `toeplitz(a)`: from $(T,)$ numbers, $a_0$
# first, the $(T, T)$ matrix with $M_{ts} = a_{t-s}$.
#
# <details><summary>Hint</summary>
#
# The entry of row `t`, column `s` is `a[t - s]`, if `t >= s`.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def toeplitz(a: np.ndarray) -> np.ndarray:
    """Return the matrix of numbers for each distance."""
    # SOLUTION
    T = len(a)
    return np.array([[a[t - s] if t >= s else 0.0 for s in range(T)] for t in range(T)])


# %% tags=["nbval-check-output"]
toeplitz = checks.check_toeplitz.hand_on(toeplitz)
v = np.array([1.0, 2, 3, 4])  # one number a token
q, k = np.array([1.0, 0, 1, 2]), np.array([2.0, 1, 0, 1])
size = np.tril(np.exp(np.outer(q, k)))
four = {
    "dense": np.array([[1.0, 0, 0, 0], [2, 0, 0, 0], [0, 0, 1, 0], [0, 3, 0, 1]]),
    "softmax": size / size.sum(1, keepdims=True),
    "low rank": np.tril(np.outer(q, k)),
    "Toeplitz": toeplitz(np.array([4.0, 3, 2, 1])),
}
for kind, M in four.items():
    print(f"{kind:9}", "  ".join(f"{y_t:6.2f}" for y_t in M @ v))  # eq. (10.1), f nothing

# %% [markdown] tags=["exercise"]
# By hand, the last token under *low rank*: $q_4 = 2$, and $2 \cdot (2 \cdot 1 + 1 \cdot 2 + 0 \cdot 3 + 1 \cdot 4)
# = 16$. The bracket has no $q$: it can be summed *before* it is known who asks. So no token needs to be kept,
#
# $$ S_t = S_{t-1} + k_t^\top v_t, \qquad y_t = q_t S_t \tag{10.2} $$
#
# with rows $q_t, k_t \in \mathbb{R}^{r}$, $v_t \in \mathbb{R}^{d}$ and a state $S_t \in \mathbb{R}^{r \times d}$ of
# fixed size. Softmax cannot: $e^{q_t k_s}$ is no product of what $t$ says and what $s$ says.
#
# **Exercise 10.2** (difficulty 2, 5 min; builds on eq. (10.2)). Write `stream(q, k, v)`, token by token:
# $(T, r)$, $(T, r)$, $(T, d)$ to $(T, d)$.
#
# <details><summary>Hint</summary>
#
# Write the token into `S` first, then ask. `np.outer(k[t], v[t])` is what is added.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def stream(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the outputs of a state that adds up."""
    # SOLUTION
    S, rows = np.zeros((k.shape[1], v.shape[1])), []
    for t in range(len(q)):
        S = S + np.outer(k[t], v[t])
        rows.append(q[t] @ S)
    return np.stack(rows)


# %% tags=["agreement", "nbval-check-output"]
stream = checks.check_stream.hand_on(stream)
streamed = stream(q[:, None], k[:, None], v[:, None])[:, 0]
assert np.allclose(streamed, four["low rank"] @ v)
print("a state of one number gives what the matrix gives:", streamed.tolist())

# %% [markdown]
# **Check yourself.** Dense and Toeplitz: which of the two has few weights, which one can be used on a longer
# text than it was trained on?
#
# <details><summary>Answer</summary>
#
# Toeplitz, both times: $T$ numbers in place of $T(T+1)/2$, and a distance means the same anywhere. A dense
# table has no row for position $T + 1$.
#
# </details>
#
# **Takeaway.** $M$ says what reaches whom. What its entries are made of decides what must be kept.

# %% [markdown] tags=["exercise"]
# ## 2  Low rank that fades   *(13 min)*
#
# A sum never forgets. Let a gate $a_t \in [0, 1]$ close a little at each step:
#
# $$ S_t = a_t S_{t-1} + k_t^\top v_t \quad\Longrightarrow\quad
#    M_{ts} = q_t k_s^\top\, a_{s+1} a_{s+2} \cdots a_t \tag{10.3} $$
#
# Such a matrix is called **semiseparable**. With $a = 1$ it is low rank; with one fixed $a$ a low-rank matrix
# times a Toeplitz one, entry by entry.
#
# **Build 10** (difficulty 3, 8 min; builds on eq. (10.3)). Write `decayed(q, k, a)`, $(T, r)$, $(T, r)$, $(T,)$
# to the $(T, T)$ matrix of a state that fades.
#
# <details><summary>Hint</summary>
#
# The product of no numbers is 1: the diagonal is $q_t k_t^\top$. `np.prod(a[s + 1 : t + 1])`.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def decayed(q: np.ndarray, k: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Return the mixing matrix of a state that fades."""
    # SOLUTION
    T = len(q)
    M = np.zeros((T, T))
    for t in range(T):
        for s in range(t + 1):
            M[t, s] = q[t] @ k[s] * np.prod(a[s + 1 : t + 1])  # eq. (10.3)
    return M


# %% tags=["agreement", "nbval-check-output"]
decayed = checks.check_decayed.hand_on(decayed)
ones, a = np.ones((4, 1)), np.full(4, 0.5)
assert np.allclose(decayed(q[:, None], k[:, None], np.ones(4)), four["low rank"])
assert np.allclose(decayed(ones, ones, a), toeplitz(0.5 ** np.arange(4.0)))
S, streamed = 0.0, []
for t in range(4):
    S = a[t] * S + k[t] * v[t]
    streamed.append(q[t] * S)
assert np.allclose(streamed, decayed(q[:, None], k[:, None], a) @ v)
print("at gate 1/2:", np.round(streamed, 2).tolist())

# %% [markdown]
# How much must be kept after token $t$? All that later tokens learn of earlier ones stands in one block,
# rows after $t$, columns up to $t$. If it has rank $r$, then $r$ numbers for each column of the values are
# enough, and fewer are not:
#
# $$ \text{state for one value} = \operatorname{rank} M_{>t,\ \le t} \tag{10.4} $$
#
# **Play, then answer.** Which of the five structures have a block of rank 1? Does it depend on the number of
# tokens?

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import explore

presets = [{"structure": name} for name in ("softmax", "Toeplitz", "semiseparable")]
explore(pictures.structure, presets=presets, **pictures.STRUCTURE_DIALS)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Low rank and semiseparable, however long the text; the others have full rank, so that their state grows
# with the text (softmax) or with the longest distance (Toeplitz).
#
# </details>
#
# **Takeaway.** Few numbers in a matrix are not a small state: the rank of a block is.

# %% [markdown]
# ## 3  Each family in its five lines   *(7 min)*
#
# Now every family of the package, at random weights: the lines of its matrix, and a test that the package's
# `mixing_matrix` is the same. Parts are heads or channels.

# %% tags=["agreement", "nbval-check-output"]
from attnlab.mixers import build_mixer, find_mixer
from attnlab.seeding import torch_generator
from attnlab.show import look

T, d = 7, 4
dice = torch_generator(0, "notebook 10")
x = torch.randn(1, T, d, generator=dice, dtype=torch.float64)
t = torch.arange(T)
lag = t[:, None] - t  # the distance t - s
future = lag < 0


def built(name):
    """Return a mixer with random weights, gates and biases included."""
    mixer = build_mixer(name, d_model=d, context_len=T).double().requires_grad_(False)
    for weight in mixer.parameters():
        weight.copy_(torch.randn(weight.shape, generator=dice, dtype=torch.float64))
    return mixer


def agree(M, mixer):
    """Hold a matrix, or one for each part, against the package's."""
    found = mixer.mixing_matrix(x)[0]
    torch.testing.assert_close(M.expand_as(found), found)
    print(f"{look(mixer.name).label}: {mixer.structure}, {len(found)} part{'s' * (len(found) > 1)}")


# %% [markdown]
# **Softmax.** Plain attention forgets the order. Three cures: ALiBi takes a line $m (t - s)$ from the scores;
# rotary turns pairs of channels by the position, so that only distances count; a window hides what is far. With
# one head $m = 2^{-8}$.


# %% tags=["agreement", "nbval-check-output"]
def softmax(scores):
    return scores.masked_fill(future, -torch.inf).softmax(-1)


def turned(u):  # each pair of channels is a complex number, times e^(i angle)
    angle = t[:, None] * torch.tensor([1.0, 0.01], dtype=torch.float64)
    return torch.view_as_complex(u.unflatten(-1, (2, 2))) * torch.exp(1j * angle)


for name in ("attention", "alibi_attention", "rotary_attention", "window_attention"):
    mixer = built(name)
    q, k = mixer.query(x)[0], mixer.key(x)[0]
    scores = q @ k.T / d**0.5
    if name == "alibi_attention":
        scores = scores - 2.0**-8 * lag
    if name == "rotary_attention":
        scores = (turned(q) @ turned(k).conj().T).real / d**0.5
    agree(softmax(scores), mixer)  # the window of 16 hides nothing in a text of 7

# %% [markdown]
# **Low rank, and rank that fades.** Linear attention replaces $e^{q k}$ by $\phi(q) \phi(k)$ with positive
# features; *Based* takes $1 + r + r^2/2$, the first terms of $e^r$. RetNet fades at a fixed rate, SSD (Mamba-2)
# at a rate each token sets, GLA at one for each feature. `read` gives queries, keys and log gates; $G_t$ is their
# sum, so $e^{G_t - G_s} = a_{s+1} \cdots a_t$.


# %% tags=["agreement", "nbval-check-output"]
def phi(u):
    return torch.nn.functional.elu(u) + 1


for name in ("linear_attention", "based"):
    mixer = built(name)
    q, k = mixer.query(x)[0], mixer.key(x)[0]
    r = q @ k.T / d**0.5
    size = (phi(q) @ phi(k).T if name == "linear_attention" else 1 + r + r**2 / 2).tril()
    agree(size / size.sum(-1, keepdim=True), mixer)
for name in ("retention", "ssd", "gla"):
    mixer = built(name)
    q, k, _, log_a, *_ = (part if part is None else part[0, 0] for part in mixer.read(x)[:5])
    G = log_a.cumsum(0)  # (T, 1), or (T, features)
    M = ((q * G.exp()) @ (k * (-G).exp()).T).tril()  # eq. (10.3); fine for short texts
    agree(M, mixer)

# %% [markdown]
# **Delta nets.** A key that comes again should *replace* its value, not add to it: write what is wrong about
# the old one, $S_t = a_t S_{t-1} + \beta_t k_t^\top (v_t - a_t k_t S_{t-1})$. What is really written,
# $u_t$, is $v_t$ less what earlier writes left at this key, a triangular system:
#
# $$ M = (Q K^\top \circ D)\, \bigl(I + \mathrm{tril}(B\, (K K^\top \circ D), -1)\bigr)^{-1} B, \qquad
#    D_{ts} = a_{s+1} \cdots a_t \tag{10.5} $$
#
# with $B = \mathrm{diag}(\beta)$, and $\circ$ entry by entry.

# %% tags=["agreement", "nbval-check-output"]
for name in ("delta_net", "gated_delta_net"):
    mixer = built(name)
    q, k, _, log_a, beta = (part if part is None else part[0, 0] for part in mixer.read(x)[:5])
    G = torch.zeros(T, 1, dtype=x.dtype) if log_a is None else log_a.cumsum(0)
    D = (G - G.T).masked_fill(future, -torch.inf).exp()
    A = torch.eye(T) + (beta * (k @ k.T) * D).tril(-1)
    agree((q @ k.T * D) @ torch.linalg.solve(A, torch.diag(beta[:, 0])), mixer)  # eq. (10.5)

# %% [markdown]
# **Toeplitz.** A long convolution has a number for each distance and channel: free ones, those of damped
# oscillators (S4D), or what a small network says of each distance (SIREN). *Hyena* puts gates on both sides,
# $M = \mathrm{diag}(p_0)\, T(h)\, \mathrm{diag}(p_1)$, so that its rows and columns depend on tokens after all.


# %% tags=["agreement", "nbval-check-output"]
def by_channel(h):
    """Return a Toeplitz matrix for each channel of (T, d): eq. (10.1), M[t, s] = h[t - s]."""
    return h.T[:, lag.clamp(min=0)].tril()


for name in ("long_conv", "s4d", "siren"):
    mixer = built(name)
    agree(
        by_channel(mixer.kernel.lags(T)) + torch.diag_embed(mixer.skip[:, None].expand(d, T)), mixer
    )
for name in ("he", "we", "me"):
    mixer = built(name)
    agree(by_channel(mixer.lag_weight), mixer)
mixer = built("hyena")
u = mixer.project(x)[0]
shifted = [torch.cat([torch.zeros(j, 3 * d), u[: T - j]]) for j in range(3)]
u = sum(w * part for w, part in zip(mixer.short, shifted, strict=True)) + mixer.short_bias
p_0, p_1, _ = u.split(d, dim=-1)
agree(p_0.T[:, :, None] * by_channel(mixer.filters.lags(T)) * p_1.T[:, None], mixer)

# %% [markdown]
# **Running averages, and tables.** RWKV-4 and AFT have a softmax *without a query*: $e^{k_s}$ times a factor
# of the distance, in each channel. The Synthesizer has a softmax without query and key, gMLP a plain table:
# *dense*, and the same for every text.

# %% tags=["agreement", "nbval-check-output"]
mixer = built("rwkv4")
before = torch.cat([torch.zeros(1, d), x[0, :-1]])
k = mixer.key(torch.lerp(before, x[0], mixer.newest[1]))  # a mixture with the token before
w, u = mixer.decay.exp()[:, None, None], mixer.bonus[:, None, None]
agree(softmax(k.T[:, None] + torch.where(lag == 0, u, -(lag - 1) * w)), mixer)
mixer = built("aft")
agree(softmax(mixer.key(x)[0].T[:, None] + mixer.place[0, lag.clamp(min=0)]), mixer)
mixer = built("synthesizer")
agree(softmax(mixer.scores), mixer)
mixer = built("gmlp")
agree(mixer.place.tril(), mixer)

# %% [markdown]
# **What does not fit.** SHE has a whole $d \times d$ block for each distance (notebook 03), so no single number
# for a pair. SPADE joins two mixers in its first layer, a state space and attention in a window, each with its
# own matrix; a norm stands between them and the sum.

# %% tags=["agreement", "nbval-check-output"]
mixer = built("spade")
remembered, seen = mixer.state_space(x), mixer.local(x)
normed = [norm(y) for norm, y in zip(mixer.norms, (remembered, seen), strict=True)]
torch.testing.assert_close(mixer(x), mixer.join(torch.cat(normed, -1)))
layers = [find_mixer("spade").in_layer(n, {}) for n in range(3)]
print("SPADE, layer by layer:", *layers, sep="\n  ")

# %% [markdown]
# **Takeaway.** Softmax, low rank, Toeplitz, semiseparable, dense: nearly every family is one of five ways to fill
# a triangle, and a way in and out.

# %% [markdown]
# ## 4  What a matrix is on a sentence   *(5 min)*
#
# Random weights show structure, trained ones show use. Below, a model of one layer for each mixer that has a
# matrix, trained on the same tales for a few seconds; then all matrices on one sentence.

# %% tags=["nbval-ignore-output"]
from attnlab.mixers import list_mixers
from attnlab.sources import tales

source = tales()
names = [name for name in list_mixers() if live.has_matrix(name) and name != "identity"]
models = live.grown(names, source, n_steps=40 if is_fast() else 400)
sentence = "Nora was a kind girl. She saw a dog and the dog saw Nora."
ids = source.encode(sentence)
words = [source.decode([i]) for i in ids]
found = {name: live.matrices(model, ids) for name, model in models.items()}
show(pictures.contact_sheet(found, words=words))

# %% [markdown]
# **Play, then answer.** Which mixers tell *the second dog from the first*: whose rows change when a word comes
# again?

# %% tags=["widget", "nbval-ignore-output"]
from functools import partial

chosen = {name: found[name] for name in ("attention", "linear_attention", "hyena", "gmlp")}
dials = pictures.sentence_dials(found)
presets = [{"mixer": name} for name in chosen]
explore(partial(pictures.on_sentence, found, words=words), presets=presets, **dials)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Those whose matrix depends on tokens *and* on places. Blind ones (Toeplitz, tables) have the same rows for any
# sentence. Attention without positions inside gives both dogs the same keys but for the position embedding that
# the model adds below it.
#
# </details>
#
# After forty steps these are sketches. A bright entry is a weight, not a reason: what stands in $v$ and $f$ counts
# as well.
#
# **Takeaway.** A mixer that is blind to tokens shows stripes; one that reads them shows columns and spots.

# %% [markdown]
# ## 5  What each one costs   *(6 min)*
#
# Three prices have closed forms: **weights**, **state** (numbers kept while text streams by), **work**
# (multiplications a token). Time is the fourth; it depends on the machine (notebook 06). At width $d$, context
# $\ell$, keys of width $r$:
#
# | structure (orders) | weights of $M$ | state | work a token |
# |---|---|---|---|
# | softmax | $2 d^2$ | $2 \ell d$ | $d^2 + \ell d$ |
# | low rank, semiseparable | $2 d^2$ | $r d$ | $d^2 + r d$ |
# | Toeplitz, a vector each | $\ell d$ | $\ell d$ | $\ell d$, or $d \log \ell$ in blocks |
# | dense table | $\ell^2$ | $\ell d$ | $\ell d$ |
#
# **Play, then answer.** At which context does the smallest state pay? Which mixers never pay in state?

# %% tags=["widget", "nbval-ignore-output"]
presets = [
    {"price": "state", "context_len": 32},
    {"price": "state", "context_len": 8192},
    {"price": "weights", "context_len": 8192},
]
explore(pictures.price_bars, presets=presets, **pictures.PRICE_DIALS)

# %% [markdown]
# <details><summary>Answer</summary>
#
# States of fixed size win from a few hundred tokens on; at 32 tokens a KV cache is smaller than the tables of
# SSD or Based. Toeplitz mixers and tables keep half of attention's numbers, with two exceptions: S4D keeps few, and
# adaptive SHE twice attention's. At 8,192 tokens the weights of SHE and of dense tables are beyond reason.
#
# </details>
#
# The clock, last: one more token, over attention's with its cache, on one thread of one machine. At small widths
# maps and calls of the library take most of it.
#
# **Takeaway.** No mixer is cheap in everything: a price that does not grow with the text is paid in what can be
# remembered.

# %% tags=["nbval-ignore-output"]
from attnlab.chapters.other_mixers.prices import streaming_price, streaming_runs

show(streaming_price(streaming_runs()))

# %% [markdown]
# ## 6  Three mixers, one memory   *(5 min)*
#
# Pairs of key and value, then keys again: which value was it? (Notebook 11 has this task in full.) Three mixers
# for the same 250 steps: attention, which keeps everything; HE, blind to tokens; the gated delta net, with a table
# of fixed size.

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import predict_first

racers = ("attention", "he", "gated_delta_net")
guess = predict_first(
    "Which of the three answers best after this short training?",
    options={look(name).label: name for name in racers},
)

# %% tags=["nbval-ignore-output"]
import pandas as pd

from attnlab.config import ModelConfig, TrainConfig
from attnlab.show import loss_curves
from attnlab.tasks.recall import recall_task
from attnlab.training import train_steps


def learn(task, name, *, n_steps, **options):
    """Train a model of two layers; return its losses by step, and its scores."""
    sizes = {"vocab_size": task.source.vocab_size, "context_len": task.source.time, "d_model": 32,
             "n_layers": 2, "n_heads": 2}  # fmt: skip
    config = ModelConfig(mixer=name, mixer_options=options, **sizes)
    recipe = TrainConfig(n_steps=n_steps, batch_size=32, lr=0.01, warmup_steps=20)
    model = task.build(config, generator=torch_generator(0, "init"))
    steps = train_steps(model, task.batches(model, recipe), config=recipe,
                        **task.train_options(model, recipe))  # fmt: skip
    rows = [{"name": name, "seed": 0, "tokens_seen": log.tokens_seen, "loss_nats": log.loss_nats}
            for log in steps if log.step % 20 == 0]  # fmt: skip
    return rows, task.score(model)[0]


task = recall_task("mqar")
learned = {name: learn(task, name, n_steps=250 if is_fast() else 2000) for name in racers}
curves = pd.DataFrame([row for rows, _ in learned.values() for row in rows])
right = {name: score["test_accuracy"] for name, (_, score) in learned.items()}
show(loss_curves(curves, floors={"no memory": task.source.chance_nats}, quantity="Training loss"))
print({look(name).label: f"{share:.0%} right" for name, share in right.items()})
print(guess.verdict(truth=max(right, key=right.get)))

# %% [markdown]
# **Why.** The delta net's queries and keys pass a short convolution, so that a value already knows the key before
# it, and its table overwrites. Attention must first build that pairing with another layer; given more steps it
# does (notebook 11). HE cannot look for a key at all.
#
# One seed, one rate, a minute: this says who *begins* fastest. Section 8 has rates chosen and seeds.
#
# **Takeaway.** Being able to remember and learning to do so quickly are two things.

# %% [markdown]
# ## 7  The step that the frame suggests   *(3 min)*
#
# SHE of rank $R$ has Toeplitz matrices $a_r(t - s)$: it never looks. Linear attention has
# $q(x_t) k(x_s)$: it never measures a distance. Multiply the two, entry by entry:
#
# $$ M^{(r)}_{ts} = q_r(x_t)\, a_r(t - s)\, k_r(x_s), \qquad q_r(x) = 1 + x w_r,\quad k_r(x) = 1 + x u_r
#    \tag{10.6} $$
#
# with $w_r, u_r \in \mathbb{R}^d$, zero at the start, where it *is* SHE of rank $R$. It costs $2 R d$ weights more.
# $k_r$ leaves the sum with the token that gives, $q_r$ with the one that takes; what stays is the same convolution.

# %% tags=["agreement", "nbval-check-output"]
mixer = built("adaptive_she")
q, k = (1 + one(x)[0].T.repeat_interleave(d, 0) for one in (mixer.query, mixer.key))  # (R d, T)
agree(q[:, :, None] * by_channel(mixer.lag_weight) * k[:, None], mixer)  # eq. (10.6)
for one in (mixer.query, mixer.key):
    one.weight.zero_()
plain = build_mixer("she", d_model=d, context_len=T, rank=mixer.rank).double()
plain.load_state_dict(mixer.state_dict(), strict=False)
torch.testing.assert_close(mixer(x), plain(x))
print(f"without its two maps it is SHE of rank {mixer.rank}; they have", end=" ")
print(sum(one.weight.numel() for one in (mixer.query, mixer.key)), "weights here")

# %% [markdown]
# **Predict, then run.** *Selective copying*: a few letters stand at random places among blanks; say them again
# at the end, in order. Does it help to look?

# %% tags=["nbval-ignore-output"]
copying = recall_task("copying")
pair = {"she": {"rank": 4}, "adaptive_she": {}}
learned = {name: learn(copying, name, n_steps=200 if is_fast() else 2000, **options)
           for name, options in pair.items()}  # fmt: skip
curves = pd.DataFrame([row for rows, _ in learned.values() for row in rows])
floor = {"no memory": copying.source.chance_nats}
show(loss_curves(curves, floors=floor, quantity="Training loss"))
for name, (_, score) in learned.items():
    print(f"{look(name).label:13} {score['test_accuracy']:.0%} right")

# %% [markdown]
# On this task, at this budget and seed, looking helps. Where distances alone decide, it cannot; the map tells
# where it matters, with seeds.
#
# **Takeaway.** Two numbers a token for each rank make a blind mixer look; speed and start stay SHE's.

# %% [markdown] tags=["exercise"]
# ## 8  The map   *(7 min)*
#
# The study `mixers` trains all of them, equal in weights, each at its best of three learning rates. A loss means
# little by itself; say how far it has come from no mixing ($L_0$) to the best possible ($L^*$):
#
# $$ \text{share of the way} = \frac{L_0 - L}{L_0 - L^*} \tag{10.7} $$
#
# $L^*$ is the loss of the true source on the same tokens, where it is known; on real texts the best recorded.
#
# **Exercise 10.3** (difficulty 1, 2 min; builds on eq. (10.7)). Write `share(loss, nothing, best)`.
#
# <details><summary>Hint</summary>
#
# A mixer may be worse than none: nothing is cut off.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def share(loss: float, nothing: float, best: float) -> float:
    """Return the share of the way from no mixing to the best possible."""
    # SOLUTION
    return (nothing - loss) / (nothing - best)


# %% tags=["nbval-ignore-output"]
from attnlab.studies import fair

share = checks.check_share.hand_on(share)
runs = fair.family_runs()  # each mixer at the rate that validates best at seed 0
table = fair.shares_of_the_way(runs)
for row in table.itertuples():
    assert np.isclose(row.share, share(row.loss_nats, row.nothing_nats, row.best_nats))
print(f"{len(runs)} runs, {runs['variant'].nunique()} mixers, {runs['corpus'].nunique()} tasks")
show(pictures.the_map(table))

# %% tags=["widget", "nbval-ignore-output"]
dials = pictures.map_dials(table)
explore(partial(pictures.one_of_the_map, runs, table), **dials)

# %% [markdown]
# **Play.** One mixer, one task: how well, at what price, how far from the best possible.
#
# **How to read it.** Two shares of one column differ only if their seeds do: the ledger (notebook 14, E11) has
# the paired intervals. *Equal weights* gives mixers without weights a wider channel mixer. Small models, short
# texts: an order at 64 tokens is no order at 8,192.
#
# **Takeaway.** Ask of any mixer: which task, which price, how many seeds, and how far from the floor.

# %% [markdown]
# ## 9  Questions   *(2 min)*
#
# **Takeaway.** If you can answer these, you can place a mixer that is not in this notebook.

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.teach import show_quiz

quiz = show_quiz("other_mixers")

# %% [markdown]
# ## Summary
#
# - You **computed** four mixers by hand from their matrices; the low-rank one gave 16 at the last token, by
#   matrix and by a state of one number.
# - You **derived** the state from the rank of a block: 1 for low rank and for what fades, full for softmax,
#   Toeplitz and tables.
# - You **built** the matrix of a state that fades, and found it in RetNet, SSD and GLA.
# - You **decided** by three prices: at long contexts fixed states are small, tables and SHE heavy.
# - You **judged** mixers by the share of the way, from records.

# %% [markdown]
# ## What we did not show
#
# - Published sizes. These models have two layers; orders may change with scale (notebook 12).
# - Fast kernels for graphics cards, which decide the time of several of these mixers.
# - Mixers that look both ways, mixtures of experts, sparse and hashed attention, MEGA, xLSTM, RWKV-7.
# - That our forms are the authors': each docstring says what was left out.
# - That `adaptive_she` is new. We did not find it; that proves nothing.
#
# ## Notation used here
#
# $a$ is a number for each distance in section 1, a gate from section 2 on; $k$ a key, $r$ a rank or the
# number of one.

# %% tags=["nbval-check-output"]
from attnlab.teach import show_notation

keys = "d_model context_len time x y query key value out lag lag_weight_vector rank"
show_notation(keys.split())

# %% [markdown]
# ## Sources
#
# - Hwang et al., *Hydra*, [arXiv:2407.09941](https://arxiv.org/abs/2407.09941): mixers as structured matrices,
#   the frame of this notebook.
# - Dao and Gu, [arXiv:2405.21060](https://arxiv.org/abs/2405.21060): semiseparable matrices, SSD.
# - Katharopoulos et al., [arXiv:2006.16236](https://arxiv.org/abs/2006.16236), linear attention; Arora et al.,
#   [arXiv:2402.18668](https://arxiv.org/abs/2402.18668), Based; Sun et al.,
#   [arXiv:2307.08621](https://arxiv.org/abs/2307.08621), RetNet; Yang et al.,
#   [arXiv:2312.06635](https://arxiv.org/abs/2312.06635), GLA, and
#   [arXiv:2412.06464](https://arxiv.org/abs/2412.06464), gated delta nets.
# - Poli et al., [arXiv:2302.10866](https://arxiv.org/abs/2302.10866), Hyena; Zuo et al.,
#   [arXiv:2212.08136](https://arxiv.org/abs/2212.08136), SPADE; Gu et al.,
#   [arXiv:2206.11893](https://arxiv.org/abs/2206.11893), S4D.
# - Peng et al., [arXiv:2305.13048](https://arxiv.org/abs/2305.13048), RWKV; Zhai et al.,
#   [arXiv:2105.14103](https://arxiv.org/abs/2105.14103), AFT; Tay et al.,
#   [arXiv:2005.00743](https://arxiv.org/abs/2005.00743), Synthesizer; Liu et al.,
#   [arXiv:2105.08050](https://arxiv.org/abs/2105.08050), gMLP.
# - Su et al., [arXiv:2104.09864](https://arxiv.org/abs/2104.09864), rotary; Press et al.,
#   [arXiv:2108.12409](https://arxiv.org/abs/2108.12409), ALiBi.
#
# Previous: [09 Replacing attention](09_replacing_attention.ipynb). Next:
# [11 Recall and state](11_recall_and_state.ipynb).
