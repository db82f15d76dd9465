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
# # 01 · Text as a Markov chain, and the floor under every loss
#
# You will see why a language model is a table too large to write down, how low any loss can go, and
# how near two small models come.
#
# **Minutes:** 70. **Prerequisites:** [notebook 00](00_start_here.ipynb); means, logarithms, a
# matrix times a vector.
#
# Previous: [00 Start here](00_start_here.ipynb). Next: [02 Attention](02_attention.ipynb)

# %% [markdown]
# **Learning goals.** After this page you can
#
# - count the states of a text source exactly and decide whether a table of them can exist,
# - compute the stationary law and the entropy rate of a chain, by hand and in code,
# - derive that the loss of any predictor is the entropy rate plus a divergence,
# - predict from a staircase what a reader of the last $k$ tokens can reach,
# - explain, state by state, where a trained model differs from the true table.

# %% tags=["setup"]
import numpy as np
import pandas as pd

from attnlab.chapters.markov_framing import checks, pictures
from attnlab.runmode import banner
from attnlab.show import explore, show
from attnlab.teach import show_quiz

banner(minutes=70)

# %% [markdown]
# ## 1  A prefix is a state   *(5 min)*
#
# A writer adds one token at a time. Call the whole prefix the **state**, $s_t = v_1 \dots v_t$, with
# each $v_t$ from a vocabulary of $V$ tokens. The next token depends on nothing but the state, since the
# state is all there is. So text is a **Markov chain** by construction, with states that grow:
#
# $$ s_{t+1} = (s_t, v_{t+1}), \qquad v_{t+1} \sim P(\cdot \mid s_t) \tag{1.1} $$
#
# A model is then a table with one row $P(\cdot \mid s)$ for each state. With contexts of up to $\ell$ tokens it has
#
# $$ V + V^2 + \dots + V^{\ell} = \frac{V^{\ell+1} - V}{V - 1} \quad \text{rows.} \tag{1.2} $$

# %% tags=["agreement", "nbval-check-output"]
import itertools

V, ell = 3, 3
prefixes = [s for t in range(1, ell + 1) for s in itertools.product("abc", repeat=t)]
assert len(prefixes) == (V ** (ell + 1) - V) // (V - 1)  # eq. (1.2), listed one by one
print(f"V = {V}, context {ell}: {len(prefixes)} rows, from 'a' to {''.join(prefixes[-1])!r}")

V, ell = 5000, 128  # the vocabulary and context of the runs on children's books
n_rows = sum(V**t for t in range(1, ell + 1))  # exact: Python's integers have no limit
assert n_rows == (V ** (ell + 1) - V) // (V - 1)
assert n_rows > 10**473
print(f"V = {V}, context {ell}: a number of {len(str(n_rows))} digits, {str(n_rows)[:4]}...")

# %% tags=["widget", "nbval-ignore-output"]
show(pictures.state_counts([2, 50, 5000], longest=128))

show_quiz("markov_framing", part="A prefix is a state")

# %% [markdown]
# **Takeaway.** A language model is a lookup in a table of more than $10^{473}$ rows (for 5000 tokens
# and a context of 128), so it has to compute its rows. The Extractor paper reads the Transformer in this way: the mixer turns a
# prefix of any length into an index of constant length; the rest looks it up.

# %% [markdown]
# ## 2  A chain that fits on paper   *(5 min)*
#
# To see how good a model can be, take a source whose table we know. Let tomorrow's weather depend on
# today's alone: $S = 3$ states, sunny, cloudy, rainy. The **transition matrix**
# $P \in [0, 1]^{S \times S}$ has one row for each state, and each row sums to one:
#
# $$ P_{ij} = \text{chance that } j \text{ follows } i, \qquad \sum_j P_{ij} = 1 \tag{1.3} $$

# %% tags=["nbval-ignore-output"]
from attnlab.sources import markov_chain, stationary

weather = markov_chain("weather")
P, names = weather.transition, weather.symbols
days = weather.sample(10_000, seed=1)
print(f"60 of the sampled days: {weather.decode(days[:60])}")
shares = np.bincount(days) / len(days)
one = pictures.transition(P, names=names, shares=shares)
show(one.saying("Left: the rows of P for sunny, cloudy, rainy. Right: shares of the three states in "
                "10,000 sampled days; sunny days are the most frequent."))  # fmt: skip

# %% [markdown]
# In the long run the chain spends a share $\pi_i$ of its time in state $i$: the **stationary law**. The
# flow into each state equals the flow out of it:
#
# $$ \pi_j = \sum_i \pi_i P_{ij}, \qquad \sum_i \pi_i = 1 \tag{1.4} $$
#
# **By hand**, with weights $s, c, r$ for the three states:
#
# - sunny: $s = 0.7 s + 0.3 c + 0.2 r$, so $s = c + \tfrac23 r$;
# - cloudy: $c = 0.2 s + 0.4 c + 0.4 r$, so $0.6 c = 0.2 c + \tfrac{2}{15} r + 0.4 r$, so $c = \tfrac43 r$;
# - then $s = 2 r$, and $r = 3$ gives $6 : 4 : 3$, so $\pi = (6, 4, 3) / 13$.

# %% tags=["agreement", "nbval-check-output"]
from fractions import Fraction

by_hand = np.array([6, 4, 3]) / 13

pi = np.array([1.0, 0.0, 0.0])  # by loop: start in the sun and let many days pass
for _ in range(60):
    pi = np.array([sum(pi[i] * P[i, j] for i in range(3)) for j in range(3)])

balance = np.vstack([P.T - np.eye(3), np.ones(3)])  # by matrix: eq. (1.4), both parts at once
by_matrix = np.linalg.lstsq(balance, np.array([0, 0, 0, 1]), rcond=None)[0]

assert np.allclose(by_hand, pi)
assert np.allclose(by_hand, by_matrix)
assert np.allclose(by_hand, stationary(P))
print("pi =", ", ".join(f"{Fraction(share).limit_denominator(20)} {name}"
                        for share, name in zip(pi, names, strict=True)))  # fmt: skip

# %% [markdown]
# **Check yourself.** Take a ring of four places and step left or right, never staying put. The
# stationary law is even, 1/4 each. Does the loop above find it from a start in place 0? Decide
# before you run the next cell.

# %% tags=["check", "nbval-check-output"]
from attnlab.sources import ring_chain

ring, law = ring_chain(4, stay=0.0), np.array([1.0, 0.0, 0.0, 0.0])
for _ in range(60):
    law = law @ ring
print(f"after 60 steps {law + 0.0}; stationary {stationary(ring)}")
assert np.allclose((law + law @ ring) / 2, stationary(ring))

# %% [markdown]
# No: after an even number of steps only even places are possible. The chain is *periodic*. The
# average over time is still $\pi$, and averages over time are what a loss is.
#
# **Takeaway.** Rows say what comes next; the stationary law says how often each row is asked for.

# %% [markdown]
# ## 3  How low can any loss go?   *(12 min)*
#
# A source that picks each symbol from its current state alone still surprises us, however good the
# model. Averaged over the states it visits, that surprise is the **entropy rate**
#
# $$ h = -\sum_i \pi_i \sum_j P_{ij} \log P_{ij} \quad \text{(nats per token)} \tag{1.5} $$
#
# where $0 \log 0$ counts as 0: what never happens surprises nobody.

# %% tags=["agreement", "nbval-check-output"]
from attnlab.sources import entropy_rate

H = [-sum(P[i, j] * np.log(P[i, j]) for j in range(3)) for i in range(3)]  # each row
h = sum(pi[i] * H[i] for i in range(3))  # eq. (1.5)
print("entropy of each row:", ", ".join(f"{n} {x:.4f}" for n, x in zip(names, H, strict=True)))
print(f"h = (6 * {H[0]:.4f} + 4 * {H[1]:.4f} + 3 * {H[2]:.4f}) / 13 = {h:.4f} nats per token")
assert np.isclose(h, entropy_rate(P))
assert np.isclose(h, weather.entropy_rate_nats)

# %% [markdown]
# **Play, then answer.** Which `P(stay)` makes the ring of six hardest to predict, and why is it not
# $1/2$? Does staying change the long-run shares of a random chain? Then type a matrix of **your own**: can
# four states be harder to predict than a fair choice among four? Whose shares depend on the start?

# %% tags=["widget", "nbval-ignore-output"]
explore(
    pictures.chain,
    presets=[{"stay": 0.35}, {"stay": 0.9}, {"kind": "random", "n_states": 5}],
    **pictures.CHAIN_DIALS,
)
explore(pictures.own_chain, presets=[{"rows": "0 1 0\n0 0 1\n1 0 0"}], **pictures.OWN_DIAL)

# %% [markdown]
# <details><summary>Answer</summary>
#
# 1/3 (nearest on the slider: 0.35). A step has three outcomes (stay, left, right), and even chances surprise most, $h = \log 3 =
# 1.099$. At $1/2$ it is 1.040. Six states do not matter; the number of *successors* does. Staying more
# often leaves the shares of any chain as they are: $\pi$ solves eq. (1.4) for $P$ exactly if it does
# for $a I + (1-a) P$.
#
# Your own: no, each row has at most $\log 4$, and $h$ is a mean of them. The shares depend on the start
# where the chain falls into parts that it never leaves, as with the rows `1 0` and `0 1`.
# </details>

# %% [markdown] tags=["exercise"]
# **Exercise 1.1** (difficulty 2, 6 min; builds on eqs. (1.4) and (1.5)). Write `entropy_rate_of(P)`,
# in nats per token. You may call `stationary(P)`. Some entries of $P$ are zero.
#
# <details><summary>Hint</summary>
#
# Two sums. The inner one gives a vector with one entry for each row; the outer one is
# `stationary(P) @` that vector. For a coin, `[[.5, .5], [.5, .5]]`, you must get $\log 2 = 0.6931$.
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def entropy_rate_of(P: np.ndarray) -> float:
    """Return the entropy rate of a transition matrix ``(n_states, n_states)`` in nats."""
    # SOLUTION
    log_P = np.log(np.where(P > 0, P, 1.0))  # 0 log 0 = 0
    return float(-stationary(P) @ np.sum(P * log_P, axis=1))


# %% tags=["nbval-check-output"]
checks.check_entropy_rate(entropy_rate_of)

# %% [markdown]
# **Takeaway.** The entropy rate is a property of the source alone, and it can be computed before any model
# is built.

# %% [markdown]
# ## 4  Every loss is floor plus divergence   *(11 min)*
#
# Let a predictor say $Q_{ij}$ instead of $P_{ij}$. Its expected loss, from a stationary start, is
#
# $$ \begin{aligned}
# L(Q) &= -\sum_i \pi_i \sum_j P_{ij} \log Q_{ij} && \text{surprise at } Q\text{, weighted by what happens} \\
# &= -\sum_i \pi_i \sum_j P_{ij} \Bigl[\log P_{ij} - \log \tfrac{P_{ij}}{Q_{ij}}\Bigr] && \log Q = \log P - \log (P/Q) \\
# &= h + \sum_i \pi_i D_i, \quad D_i = \sum_j P_{ij} \log \tfrac{P_{ij}}{Q_{ij}} && \text{split the sum; eq. (1.5)}
# \end{aligned} \tag{1.6} $$
#
# $D_i$ is the **Kullback-Leibler divergence** in state $i$. It is never negative: $\log x \le x - 1$ gives
# $-D_i = \sum_j P_{ij} \log \tfrac{Q_{ij}}{P_{ij}} \le \sum_j (Q_{ij} - P_{ij}) = 0$.

# %% tags=["agreement", "nbval-check-output"]
from attnlab.sources import kl_per_state

predictors = {
    "true rows": P,
    "sticky: same as today": 0.9 * np.eye(3) + 0.1 / 3,
    "shares: forgets today": np.tile(pi, (3, 1)),
    "even: knows nothing": np.full((3, 3), 1 / 3),
}
parts = []
for name, Q in predictors.items():
    L = -np.sum(pi[:, None] * P * np.log(Q))  # first line of eq. (1.6)
    D = np.sum(P * np.log(P / Q), axis=1)  # one number for each state
    assert np.isclose(L, h + pi @ D), "first line = last line"
    assert np.allclose(D, kl_per_state(P, Q))
    parts.append({"predictor": name, "entropy_nats": h, "kl_nats": pi @ D})
    print(f"{name:22s} L = {L:.4f} = {h:.4f} + {pi @ D:.4f}")

show(pictures.loss_parts(pd.DataFrame(parts)))

# %% [markdown]
# **A floor on average.** Training shows us the loss on one batch of tokens, and a batch can be lucky. So we
# compare on the *same* tokens with the **oracle loss**
#
# $$ \hat h = -\frac{1}{T-1} \sum_{t=1}^{T-1} \log P_{v_t v_{t+1}} \tag{1.7} $$
#
# the true source's own surprise. Its expectation is $h$; its value on a batch of 64 predictions scatters.
# How many of 1,000 batches lie *below* the entropy rate: none, a few, or about half?

# %% tags=["nbval-check-output"]
batches = weather.sample_windows(1000, window_len=65, seed=0)
h_hat = np.array([weather.oracle_nats(batch) for batch in batches])  # eq. (1.7)
show(pictures.batch_losses(h_hat, entropy_rate_nats=h))
print(
    f"{np.sum(h_hat < h)} of 1000 batches lie below h = {h:.4f}; their mean is {h_hat.mean():.3f}"
)

# %% tags=["widget", "nbval-ignore-output"]
show_quiz("markov_framing", part="A floor on average")

# %% [markdown] tags=["exercise"]
# **Exercise 1.2** (difficulty 2, 5 min; builds on eq. (1.7)). Write `oracle_loss(tokens, P)` for
# one sequence `(n_tokens,)`, in nats. The first token is given, not predicted.
#
# <details><summary>Hint</summary>
#
# `P[tokens[:-1], tokens[1:]]` is one chance for each prediction. How many are there?
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def oracle_loss(tokens: np.ndarray, P: np.ndarray) -> float:
    """Return the true chain's mean loss on these tokens, in nats per predicted token."""
    # SOLUTION
    return float(-np.log(P[tokens[:-1], tokens[1:]]).mean())


# %% tags=["nbval-check-output"]
checks.check_oracle_loss(oracle_loss)

# %% [markdown]
# **Takeaway.** Loss = entropy rate + divergence. Only the second part belongs to the model, and only the
# oracle on the same tokens shows it cleanly.

# %% [markdown]
# ## 5  The staircase: what the last k tokens can tell   *(5 min)*
#
# Weather needs one token of memory. Other sources need more, and not equally everywhere. In a
# **variable-length chain** the state is as long as it has to be: in ours, after `a` or `c` nothing
# older counts; after `b` up to four tokens do. What is the best loss of a reader who sees the last $k$ tokens? It predicts
# the mean of the rows it cannot tell apart:
#
# $$ h_k = -\sum_{w \in \{0..V-1\}^k} P(w) \sum_j P(j \mid w) \log P(j \mid w), \qquad h_0 \ge h_1 \ge \dots \ge h
# \tag{1.8} $$
#
# where $P(w)$ is the long-run share of the $k$ tokens $w$.

# %% tags=["agreement", "nbval-check-output"]
from attnlab.sources import variable_length_chain

tree = variable_length_chain("one_long_branch")
stairs = [tree.best_loss_nats(context_len=k) for k in range(7)]
print("h_0, h_1, ... =", ", ".join(f"{step:.4f}" for step in stairs))
print(f"entropy rate  = {tree.entropy_rate_nats:.4f}, reached with {tree.depth} tokens")
assert np.isclose(stairs[tree.depth], tree.entropy_rate_nats)

# by hand for weather: without memory the rows shrink to one, pi, and h_0 is its entropy
assert np.isclose(weather.best_loss_nats(context_len=0), -np.sum(pi * np.log(pi)))
assert np.isclose(weather.best_loss_nats(context_len=1), h)

# %% [markdown]
# **Play, then answer.** For which source does the first token of memory gain almost nothing, and the third
# one much? Why does the stair of *tales* not reach its entropy rate?

# %% tags=["widget", "nbval-ignore-output"]
explore(
    pictures.stairs,
    presets=[
        {"source": "one_long_branch", "longest": 6},
        {"source": "count_to_three", "longest": 6},
        {"source": "tales", "longest": 10},
    ],
    **pictures.STAIRS_DIALS,
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# *Count to three*: the first token gains 0.002 nats, the third 0.161, for only then does the count show. A
# learner that looks for quick gains is misled there. In *tales* a name from the first sentence is
# needed in the last one, more than ten tokens later.
# </details>
#
# **Takeaway.** Context has a price list: $h_k - h_{k+1}$ is what one more token is worth, before any
# model is trained.

# %% [markdown]
# ## 6  Tables from counts   *(23 min)*
#
# Now forget the truth and learn from a sample. Let $n_{cj}$ count how often $j$ followed the $k$ tokens $c$.
# The fitted row is
#
# $$ Q_{cj} = \frac{n_{cj} + a}{\sum_{j'} (n_{cj'} + a)} \tag{1.9} $$
#
# With $a = 0$ no table of order $k$ fits the sample better (it minimises eq. (1.6) for the sample's own
# frequencies), but a continuation never seen costs $-\log 0 = \infty$ on fresh text. A small $a$, here 0.1, repairs that.

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import predict_first

guess = predict_first(
    "The tree source looks back up to 4 tokens. We have 1,000 tokens to count. Which order k is best "
    "on fresh text?",
    options={"1": 1, "3": 3, "4": 4, "7": 7},
)

# %% tags=["nbval-check-output"]
from attnlab.sources import fit_table

seen, fresh = tree.sample(1000, seed=0), tree.sample(5000, seed=0, stream="test")
tables = [fit_table(seen, order=k, vocab_size=3, pseudo_count=0.1) for k in range(8)]
losses = pd.DataFrame([
    {"order": table.order, "split": split, "loss_nats": table.loss_nats(tokens)}
    for table in tables
    for split, tokens in (("training", seen), ("held-out", fresh))
])  # fmt: skip
show(pictures.order_losses(losses, oracle_nats=tree.oracle_nats(fresh)))
held_out = losses[losses["split"] == "held-out"].set_index("order")["loss_nats"]
print(guess.verdict(truth=int(held_out.idxmin())))
print(f"order 7 has {3**7} rows for 1,000 tokens; it met {tables[7].n_contexts} of them")

# %% [markdown] tags=["exercise"]
# **Exercise 1.3** (difficulty 3, 8 min; builds on eq. (1.9) with $k = 1$, $a = 0$). Write
# `fit_bigram(tokens, n_states)`: row $i$ holds the frequencies of what followed state $i$. A state without
# a successor in the text gets `1 / n_states` everywhere.
#
# <details><summary>Hint</summary>
#
# `np.add.at(counts, (tokens[:-1], tokens[1:]), 1)` counts pairs, also repeated ones. Then think: which axis
# has to sum to one?
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def fit_bigram(tokens: np.ndarray, n_states: int) -> np.ndarray:
    """Return the fitted table ``(n_states, n_states)``; every row sums to one."""
    # SOLUTION
    counts = np.zeros((n_states, n_states))
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    totals = counts.sum(axis=1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), 1 / n_states)


# %% tags=["nbval-check-output"]
checks.check_fit_bigram(fit_bigram)

# %% [markdown] tags=["exercise"]
# **Build 1** (difficulty 3, 10 min; builds on exercise 1.3). A table of any order that always has an answer.
# Write a class `BackOff(tokens, order, n_symbols)` with `predict(context)`: a row `(n_symbols,)` with the
# frequencies of what followed the last `order` tokens of the context. Were these never followed by anything,
# drop the oldest and look again, down to the shares of single tokens.
#
# <details><summary>Hint</summary>
#
# A dictionary from a tuple of tokens to a row of counts, for every length from 0 to `order`. Beware of
# `context[-0:]`, which is everything.
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
class BackOff:
    """A table that shortens a context until it has seen it."""

    def __init__(self, tokens: np.ndarray, order: int, n_symbols: int) -> None:
        # SOLUTION
        self.order, self.counts, tokens = order, {}, tokens.tolist()
        for k in range(order + 1):
            for t in range(k, len(tokens)):
                row = self.counts.setdefault(tuple(tokens[t - k : t]), np.zeros(n_symbols))
                row[tokens[t]] += 1

    def predict(self, context: np.ndarray) -> np.ndarray:
        """Return the frequencies ``(n_symbols,)`` after the longest context that was seen."""
        last = tuple(np.asarray(context).tolist())
        last = last[max(0, len(last) - self.order) :]
        while last not in self.counts:
            last = last[1:]
        return self.counts[last] / self.counts[last].sum()


# %% tags=["nbval-check-output"]
checks.check_back_off(BackOff)

# %% [markdown]
# **Takeaway.** A table of high order memorises: its training loss falls below the true source's. With a fixed
# amount of text there is a best order, and it may be below the true one.

# %% [markdown]
# ## 7  A model approaches the floor   *(9 min)*
#
# A network shares what it learns between rows. Three models, alike but for the mixer (one layer, width 16,
# context 16), read the tree source: **attention** and **SHE**, which can look back, and **identity**, whose mixer
# passes each vector on as it is. Identity sees one token
# only, so its own floor is the second stair, $h_1$, where a good table of order 1 stands.

# %% tags=["nbval-ignore-output"]
from attnlab.config import ModelConfig, TrainConfig
from attnlab.runmode import is_fast
from attnlab.seeding import torch_generator
from attnlab.tasks import StreamTask
from attnlab.training import steps_every, train_model

train = tree.sample(40_000, seed=0)
windows = tree.sample_windows(400, window_len=17, seed=0, stream="validation")
task = StreamTask(train=train, held_out=windows)  # the same batches for all
recipe = TrainConfig(n_steps=250 if is_fast() else 1000, batch_size=24, lr=6e-3, seed=0)
points = {0, *steps_every(20, recipe.n_steps)}  # steps after which the held-out loss is taken

models, curves = {}, []
for name in ("attention", "she", "identity"):
    config = ModelConfig(
        mixer=name, vocab_size=3, context_len=16, d_model=16, n_layers=1, n_heads=2
    )
    model = models[name] = task.build(config, generator=torch_generator(0, "init"))
    *_, state = train_model(task, model, recipe, points=points)  # yields at every step
    curves.append(pd.DataFrame(state.curve).assign(name=name, seed=0))
curves = pd.concat(curves, ignore_index=True)

from attnlab.show import loss_curves

oracle = tree.oracle_nats(windows)  # on the very tokens that score the models
bigram = fit_table(train, order=1, vocab_size=3)  # 40,000 tokens: as good as h_1
floors = {"Table of order 1": bigram.loss_nats(windows)}
one = loss_curves(curves, oracle_nats=oracle, floors=floors, quantity="Held-out loss")
one.ax.set_ylim(0.8, 1.25)
show(one)

# %% tags=["agreement"]
gap = curves.groupby("name")["loss_nats"].last() - oracle
assert gap.min() > -0.01, "nobody is below the oracle on the same tokens, but for noise"
assert gap["she"] < 0.05, "SHE comes near the floor"
assert abs(oracle + gap["identity"] - bigram.loss_nats(windows)) < 0.02, "identity: one token"
assert gap["attention"] < gap["identity"], "attention looks further back than one token"

# %% [markdown]
# The gap is a mean over states. Eq. (1.6) splits it: state $i$ pays $D_i$, weighted by its share. So we ask
# each model for its rows after held-out prefixes, and compare them with the true rows:
#
# $$ D_i = \operatorname*{mean}_{t:\, s_t \text{ ends in state } i} \; \sum_j P_{ij} \log \frac{P_{ij}}{Q(j \mid v_1 \dots v_t)}
# \tag{1.10} $$
#
# Two tables, of order 1 and 4, counted on the same 40,000 tokens, stand beside the networks.

# %% tags=["nbval-ignore-output"]
import torch

prefixes = [window[:t] for window in windows for t in range(tree.depth, 17)]
truth = np.array([tree.predict(prefix) for prefix in prefixes])  # P, a row for each prefix
state_names = [tree.decode(context) for context in tree.contexts]
ends = [tree.decode(prefix[-tree.depth :]) for prefix in prefixes]
states = [next(name for name in state_names if end.endswith(name)) for end in ends]

rows = {}  # Q, a row for each prefix
with torch.no_grad():
    for name, model in models.items():
        chances = (
            model.eval()(torch.from_numpy(windows[:, :-1])).double().softmax(-1)
        )  # after each prefix
        rows[name] = chances[:, tree.depth - 1 :].reshape(-1, 3).numpy()
for k in (1, 4):
    table = fit_table(train, order=k, vocab_size=3, pseudo_count=0.1)
    rows[f"order_{k}"] = np.array([table.predict(prefix) for prefix in prefixes])

D = [pd.DataFrame({"name": name, "state": states, "kl_nats": kl_per_state(truth, Q)})
     for name, Q in rows.items()]  # fmt: skip
kl = pd.concat(D).groupby(["name", "state"], sort=False)["kl_nats"]
kl = kl.agg(kl_nats="mean", share=lambda D_i: len(D_i) / len(prefixes)).reset_index()  # eq. (1.10)
show(pictures.kl_by_state(kl, named=["bab", "cab"]))
networks = kl[kl["name"].isin(["attention", "she"])]
mean_kl = networks.groupby(networks["share"] < 0.01)["kl_nats"].mean()
assert mean_kl[True] > mean_kl[False], "these two err more in rare states"

# %% [markdown]
# **Play, then answer.** Compare `bab` with `cab`. Why does identity give the same row to both, and what is that
# row? And where do attention and SHE err most: in frequent states or in rare ones? (Here a model's
# rows are averaged over all prefixes of a state before they are compared, and the shares are exact, not
# counted: so the numbers differ a little from those above.)

# %% tags=["widget", "nbval-ignore-output"]
from functools import partial

tables = {"oracle": dict(zip(state_names, tree.emission, strict=True))}
for name in ("order_4", "identity", "attention", "she"):
    means = pd.DataFrame(rows[name]).groupby(states).mean()
    tables[name] = {state: means.loc[state].to_numpy() for state in state_names}
shares = dict(zip(state_names, tree.stationary, strict=True))
explore(
    partial(pictures.next_token, rows=tables, shares=shares, symbols=tree.symbols),
    presets=[{"state": "bab"}, {"state": "cab"}, {"state": "aaab"}],
    state=("Last tokens", state_names, "The state, oldest token first"),
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Both end in `b`, which is all that identity sees. Its row is the mean of the rows after `b`, weighted by their
# shares: the reader of eq. (1.8) with $k = 1$, whose mean divergence is $h_1 - h = 0.171$ nats. Attention and SHE err most in rare states such as `aaab` (0.2 % of the
# time): few examples, and little weight in the loss. The table of order 4 errs most there, too: few counts.
# </details>
#
# **Takeaway.** A trained model is a table one can read row by row, and its loss says how far, on average, its
# rows are from the true ones.

# %% [markdown]
# ## Summary
#
# - You **counted** states: a context of 128 tokens from 5000 has a 474-digit number of them; no table holds that.
# - You **computed** $\pi = (6, 4, 3)/13$ and $h = 0.9486$ nats for weather, by hand, by loop and by matrix.
# - You **derived** $L(Q) = h + \sum_i \pi_i D_i$ and saw four predictors obey it (picture of section 4).
# - You **predicted** from the staircase 1.0286, 0.9373, 0.8649 and 0.8577 nats for one to four tokens, and a model
#   without memory of the past stood on the first of these.
# - You **explained** a model's gap state by state (last picture): rare states, and states it cannot tell apart.

# %% [markdown]
# ## What we did not show
#
# - Real text has no known $P$. There we know neither $h$ nor $h_k$; n-gram tables only give upper bounds.
# - Section 7 has one seed and one setting each, and SHE has 4.5 times attention's mixer weights there
#   (4608 against 1024). The order of the curves is no result.
# - "Prefix = state" is true of anything. Whether networks *store transitions in the feed-forward part*, as the paper
#   reads them, needs a look inside: notebook 04.
# - We doubt that small divergence in frequent states is all that readers of a text care about.

# %% [markdown]
# ## Notation used here

# %% tags=["nbval-check-output"]
from attnlab.teach import show_notation

show_notation([
    "time", "context_len", "vocab_size", "tokens", "prefix", "states", "n_states", "transition",
    "stationary", "counts", "model_rows", "entropy_rate_nats", "oracle_nats", "loss_nats",
    "kl_per_state", "order", "best_loss_nats",
])  # fmt: skip

# %% [markdown]
# ## Sources
#
# - Z. Chen, [arXiv:2308.07661](https://arxiv.org/abs/2308.07661): text generation as variable-length discrete-time
#   Markov chains; the Transformer as a lookup of transitions. Known to us in words; eqs. (1.1) and (1.2) are our way
#   of writing it.
# - C. E. Shannon, *A Mathematical Theory of Communication*, 1948, sections 3 to 7: eqs. (1.5) and (1.8), tables of
#   counts, entropy rate.
# - S. Kullback and R. A. Leibler, *On Information and Sufficiency*, 1951: the divergence of eq. (1.6).
# - J. Rissanen, *A universal data compression system*, 1983: variable-length chains (context trees), section 5.
#
# Previous: [00 Start here](00_start_here.ipynb). Next: [02 Attention](02_attention.ipynb)
