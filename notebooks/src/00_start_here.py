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
# # 00 · Start here: does a Transformer need attention?
#
# A small translator writes 99 points of 100. Its words look at other words in three places: that look-up is
# **attention**. We cut one of the three out and put something simpler in. **Guess first:** in which
# place is nothing at all best borne, and where does even an average of everything fail? Then look: click the cell
# below, press Shift+Enter, and choose.
#
# **Minutes:** 44. **Prerequisites:** Python; logarithms; a rough idea of what a neural network is.
# Next: [01 Text as a Markov chain](01_markov_framing.ipynb)

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.chapters.start_here import pictures
from attnlab.show import explore

first, last = {"place": "cross", "put_in": "uniform"}, {"place": "cross", "put_in": "net"}
explore(pictures.taken_out, presets=[{}, first, last], **pictures.TAKEN_OUT_DIALS)

# %% [markdown]
# ## 1  The question   *(5 min)*
#
# A net without any look-up, taught what attention does, did nearly as well.
#
# A language model reads a prefix of a text and says how likely each next token is. A Transformer
# does this in layers of a **token mixer**, which moves information between positions, and a **channel mixer**,
# which works at each position alone. Its token mixer is **self-attention**: each position decides, from the content
# of earlier ones, whom to listen to.
#
# Two papers take it out. One puts the *Extractor* in its place: learned weights that depend on how far back a
# token lies (as we read it), not on what it says. The other fits small nets to what attention computes.

# %% tags=["hide-input", "nbval-ignore-output"]
from attnlab.show import show

show(pictures.two_mixers())

# %% [markdown]
# **Learning goals.** After this page you can
#
# - state the question of the workbook and what would count as an answer,
# - compute a loss from predicted chances, by hand and in code,
# - convert a loss between nats, bits and perplexity,
# - decide from a loss curve how much a model has still to learn,
# - name what is published, what is reconstructed, and what is measured here.

# %% jupyter={"source_hidden": true} tags=["setup"]
import numpy as np
import pandas as pd

from attnlab.chapters.start_here import checks
from attnlab.runmode import banner
from attnlab.show import predict_first
from attnlab.teach import show_quiz

banner(minutes=44)

# %% [markdown]
# To answer, we need a number. A **token** is a word, a piece of a word or a letter. Let $v_1 \dots v_T$
# be the tokens of a text, $s_t = v_1 \dots v_t$ the prefix at position $t$, and $Q(\cdot \mid s_t)$ the chances that a model gives to the next token.
# The **loss** is the mean surprise at what really came:
#
# $$ L = -\frac{1}{T-1} \sum_{t=1}^{T-1} \log Q(v_{t+1} \mid s_t) \quad \text{(nats per token)}
# \tag{0.1} $$
#
# $T$ tokens make $T-1$ predictions, since nothing stands before the first. With the natural
# logarithm the unit is the **nat**. Try it by hand: the model gave chances 1/2, 1/4 and 1/4 to the
# three tokens that came.

# %% tags=["nbval-check-output"]
Q = np.array([1 / 2, 1 / 4, 1 / 4])  # Q(v_{t+1} | s_t), for t = 1, 2, 3
T = len(Q) + 1
L = -np.sum(np.log(Q)) / (T - 1)  # eq. (0.1)
print(f"L = (log 2 + log 4 + log 4) / 3 = 5/3 log 2 = {L:.4f} nats per token")

# %% tags=["agreement"]
assert np.isclose(L, 5 / 3 * np.log(2))

# %% [markdown]
# **Check yourself.** A second model gives the three tokens chances 1/3, 1/3 and 1/3. Is its loss
# lower, higher or equal? The sum of the chances is the same. Decide, then run the next cell.

# %% tags=["check", "nbval-check-output"]
L_even = -np.mean(np.log([1 / 3, 1 / 3, 1 / 3]))
print(f"uneven {L:.4f}, even {L_even:.4f}: lower, because the product of the chances is larger")
assert 1 / 3 * 1 / 3 * 1 / 3 > 1 / 2 * 1 / 4 * 1 / 4

# %% [markdown]
# **Takeaway.** The question becomes: with everything else equal, which token mixer reaches the
# lower loss on text that it has not seen, and at what cost?

# %% [markdown]
# ## 2  A two-minute taste   *(18 min)*
#
# Our text is written by a machine, *tales*, that tells little stories of our own words. A name and
# a lost thing are chosen early and used late, so memory pays. Because we wrote the machine, we
# know the exact chance of each word, and so the loss $\hat h$ of the **true source** on any
# text. No model does better than that on average. It is the floor under the curve.

# %% tags=["nbval-check-output"]
from attnlab.show import look, wrapped
from attnlab.sources import tales

source = tales("small")
print(wrapped(source.decode(source.sample(160, seed=4, stream="test")).splitlines()[1]))
print(
    f"\n{source.vocab_size} different tokens; with the whole past known, "
    f"{source.entropy_rate_nats:.4f} nats per token remain"
)

# %% [markdown]
# Two models, alike but for the mixer: two layers, width $d = 32$, context $\ell = 32$ tokens, the
# same batches in the same order. SHE, the *super high-performance Extractor*, the largest one, has one $d \times d$ matrix for
# each of the $\ell$ places it looks back to; attention has four matrices in all. So "alike" is
# not "equally large":

# %% tags=["nbval-check-output"]
from attnlab.analysis.theory import expected_mixer_weights

d, ell = 32, 32
weights = {m: expected_mixer_weights(m, d_model=d, context_len=ell) for m in ("attention", "she")}
assert weights == {"attention": 4 * d**2, "she": ell * d**2 + 2 * d**2}
print(
    f"weights of one mixer: {weights}; SHE has {weights['she'] / weights['attention']} times as "
    f"many"
)

# %% tags=["widget", "nbval-ignore-output"]
guess = predict_first(
    "Which model is nearer to the floor after 240 short steps (1200 in full mode)?",
    options={"attention": "attention", "the Extractor (SHE)": "she"},
)

# %% tags=["nbval-ignore-output"]
from attnlab.config import ModelConfig, TrainConfig
from attnlab.runmode import is_fast
from attnlab.seeding import torch_generator
from attnlab.tasks import StreamTask
from attnlab.training import steps_every, train_model

train = source.sample(60_000, seed=0)
windows = source.sample_windows(128, window_len=ell + 1, seed=0, stream="validation")
task = StreamTask(train=train, held_out=windows)  # the same batches for both
recipe = TrainConfig(n_steps=240 if is_fast() else 1200, batch_size=16, lr=5e-3, seed=0)
points = {0, *steps_every(20, recipe.n_steps)}  # steps after which the held-out loss is taken

models, curves = {}, []
for name in ("attention", "she"):
    config = ModelConfig(mixer=name, vocab_size=source.vocab_size, context_len=ell, d_model=d)
    model = models[name] = task.build(config, generator=torch_generator(0, "init"))
    *_, state = train_model(task, model, recipe, points=points)  # yields at every step
    curves.append(pd.DataFrame(state.curve).assign(name=name, seed=0))
curves = pd.concat(curves, ignore_index=True)
last = curves.groupby("name")["loss_nats"].last()
print(guess.verdict(truth=last.idxmin()))

# %% tags=["nbval-ignore-output"]
from attnlab.show import loss_curves

h_hat = source.oracle_nats(windows)  # the true source's own loss on these very tokens
h_1 = source.best_loss_nats(context_len=1)
floors = {"Best with the last token alone": h_1}
one = loss_curves(curves, oracle_nats=h_hat, floors=floors, quantity="Held-out loss")
one.ax.set_ylim(0, None)
show(one)

# %% [markdown]
# Both curves fall towards the dotted line. (It lies above 0.3832: in a window of 33 tokens the true
# source, too, does not know how the tale began.) Both have passed a mark that we know exactly, the
# long grey dashes: the best loss $h_1 = 1.64$ nats of any reader of the last token alone (notebook 01 shows
# how). So both use more of the past than that.

# %% tags=["agreement"]
assert round(h_1, 2) == 1.64
assert all(h_hat - 0.02 < loss < h_1 for loss in last), (h_hat, dict(last), h_1)

# %% [markdown]
# What do they write? Each goes on from the same beginning, with the same random numbers.

# %% tags=["nbval-ignore-output"]
import torch

prompt = torch.from_numpy(source.encode("Once there was a little girl called Mira."))[None]
for mixer, model in models.items():
    dice = torch.Generator().manual_seed(1)
    text = model.generate(prompt, n_tokens=45, temperature=0.7, generator=dice)[0]
    print(wrapped(f"--- {look(mixer).label}\n{source.decode(text.numpy())}\n"))

# %% [markdown] tags=["exercise"]
# **Build 0** (difficulty 3, 10 min; builds on eq. (0.1)). Train a model yourself, the smallest there is: a
# table of scores $z \in \mathbb{R}^{V \times V}$, all zero at first. Row $v_t$ scores the token after $v_t$;
# a softmax makes chances of it. Write `train_bigram(tokens, n_symbols, n_steps, lr)`: in each step take the
# mean loss over all pairs, call `backward()`, and move the table against its gradient, times `lr`. Return the
# table.
#
# <details><summary>Hint</summary>
#
# `torch.zeros(..., requires_grad=True)`; `F.cross_entropy(z[tokens[:-1]], tokens[1:])` takes the softmax
# itself. `z.grad` adds up: clear it. The step goes inside `torch.no_grad()`.
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
from torch.nn import functional as F


def train_bigram(tokens: torch.Tensor, n_symbols: int, n_steps: int, lr: float) -> torch.Tensor:
    """Return the scores ``(n_symbols, n_symbols)`` after plain gradient descent from zero."""
    # SOLUTION
    z = torch.zeros(n_symbols, n_symbols, requires_grad=True)
    for _ in range(n_steps):
        z.grad = None
        F.cross_entropy(z[tokens[:-1]], tokens[1:]).backward()
        with torch.no_grad():
            z -= lr * z.grad
    return z.detach()


# %% tags=["nbval-ignore-output"]
train_bigram = checks.check_train_bigram.hand_on(train_bigram)
z = train_bigram(torch.from_numpy(train[:20_000]), source.vocab_size, n_steps=150, lr=60.0)
read, comes = (torch.from_numpy(part) for part in (windows[:, :-1], windows[:, 1:]))
loss = torch.nn.functional.cross_entropy(z[read].flatten(0, 1), comes.flatten())
print(f"a table of {z.numel():,} scores, 150 steps: {loss:.1f} nats per token; "
      f"best with one token read: {h_1:.1f}")  # fmt: skip

# %% [markdown]
# **Read this with care.** It is one seed, a few seconds and an artificial text, and SHE has 8.5
# times the weights in its mixers. The curve shows how to look, not what is true. Notebook 04 does
# it on real books, with several seeds and with attention models of equal size.
#
# **Takeaway.** The gap to the true source says how much is left to learn; the height of the curve
# alone does not.

# %% [markdown]
# ## 3  How the workbook works   *(5 min)*
#
# | Notebook | What you do | Minutes |
# |---|---|---|
# | 00 Start here | the question, a taste, units of loss | 44 |
# | [01 Markov framing](01_markov_framing.ipynb) | text as a chain; the floor; tables against models | 70 |
# | [02 Attention](02_attention.ipynb) | attention by hand, by loop, by matrix; a soft lookup | 79 |
# | [03 Extractor](03_extractor.ipynb) | SHE, HE, WE, ME derived, checked, counted | 80 |
# | [04 Language models](04_language_models.ipynb) | all of them trained; real books; when each wins; a look inside | 87 |
# | [05 The critical path](05_critical_path.ipynb) | depth and work: by hand, by tracer, by clock | 75 |
# | [06 Fast Extractors](06_fast_extractors.ipynb) | one equation, many programs; streaming; the clock | 83 |
# | [07 Translation: a teacher](07_translation_teacher.ipynb) | an encoder-decoder site by site; alignments; BLEU | 85 |
# | [08 Distillation](08_distillation.ipynb) | nets that learn what attention does; sizes; prefix sums | 63 |
# | [09 Replacing attention](09_replacing_attention.ipynb) | swap layers with undo; controls; a leak found and run | 74 |
# | [10 Other mixers](10_other_mixers.ipynb) | one frame, every mixer in five lines; prices; the map | 60 |
# | [11 Recall and state](11_recall_and_state.ipynb) | what a state holds; who recalls; a language in every row | 70 |
# | [12 Scaling and other tasks](12_scaling_and_other_tasks.ipynb) | power laws with a known floor; length; sentences; images | 54 |
# | [13 Attention after training](13_attention_after_training.ipynb) | today's methods: features, window, stages; switches; tasks | 70 |
# | [14 What we found](14_what_we_found.ipynb) | every claim judged: verdict, number, seeds, doubt | 51 |
#
# Read them in order. 01 needs no neural network; who knows attention may skim 02.

# %% [markdown]
# - **Running.** Shift+Enter runs a cell and chooses the next; *Run > Run All Cells* in the menu runs the whole
#   page, in less than two minutes. Every result is on the page already, so you may also just read.
# - **Run modes.** `fast` (the default) trains small models live and reads larger results from
#   records in `data/runs`. `ATTNLAB_MODE=full`, set before the start, runs larger ones.
# - **Panels.** On a page that is not running each is still pictures; run its cell, and it comes alive. Tab and
#   the arrow keys reach every control, and a text box takes words of your own.
# - **Floors.** A loss curve shows the true source where we know it.

# %% [markdown]
# - **Exercises** carry a difficulty from 1 to 5 and minutes; in a *Build* you write a part that works. A
#   `check_...` call prints the first case that fails and names common mistakes; the page goes on either way.
# - **Your copy.** `make lab` (or `attnlab learn`) makes copies in `work/`, with a cell to write in under each
#   exercise. Change whatever you like: an update never overwrites it. The notebooks in `notebooks/` have the
#   solutions, folded in JupyterLab (on GitHub they stand open: look away).
#
# **Takeaway.** Predict, run, compare: a guess that fails teaches most.

# %% [markdown]
# ## 4  Nats, bits, perplexity   *(9 min)*
#
# The same loss goes by three names. Bits use the logarithm to base 2. **Perplexity** turns the loss
# into a count: the number of equally likely choices that would be as hard.
#
# $$ L_\text{bits} = \frac{L}{\log 2}, \qquad \text{perplexity} = e^{L} \tag{0.2} $$
#
# where $L \ge 0$ is in nats per token, as in eq. (0.1).

# %% tags=["nbval-check-output"]
L_bits, perplexity = L / np.log(2), np.exp(L)  # eq. (0.2)
print(f"{L:.4f} nats = {L_bits:.4f} bits = perplexity {perplexity:.4f}")

# %% tags=["agreement"]
assert np.isclose(perplexity, 2**L_bits)
assert np.isclose(np.exp(np.log(6)), 6), "a fair die: six equal choices"

# %% [markdown]
# **Play, then answer.** The loss falls from 3 to 2 nats in one study and from 1.5 to 0.5 in another.
# In which does the perplexity fall by the larger factor?

# %% tags=["widget", "nbval-ignore-output"]
explore(
    pictures.loss_units,
    presets=[{"loss_nats": float(np.log(2))}, {"loss_nats": 3.0}],
    **pictures.UNITS_DIALS,
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# By the same factor in both. One nat less divides the perplexity by $e \approx 2.718$, wherever it
# starts. That is why we compare *differences* of losses.
# </details>

# %% [markdown] tags=["exercise"]
# **Exercise 0.1** (difficulty 1, 2 min; builds on eq. (0.2)). Write a loss in bits. A fair
# coin, $\log 2$ nats, must give 1.
#
# <details><summary>Hint</summary>
#
# One bit is the smaller unit: $\log 2 = 0.693$ nats. Do you need more bits than nats, or fewer?
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def nats_to_bits(loss_nats: float) -> float:
    """Return the loss in bits."""
    # SOLUTION
    return loss_nats / np.log(2)


# %% tags=["nbval-check-output"]
checks.check_nats_to_bits(nats_to_bits)

# %% [markdown] tags=["exercise"]
# **Exercise 0.2** (difficulty 2, 3 min; builds on eqs. (0.1) and (0.2)). Compute the perplexity of a
# text from the losses of its single tokens, `(n_tokens,)`, in nats.
#
# <details><summary>Hint</summary>
#
# Two steps, and their order matters: which comes first, the mean or the exponential? Try chances 1/2
# and 1/8 by hand; the answer is 4.
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def perplexity_of(losses_nats: np.ndarray) -> float:
    """Return the perplexity of a text from its per-token losses in nats."""
    # SOLUTION
    return float(np.exp(np.mean(losses_nats)))


# %% tags=["nbval-check-output"]
checks.check_perplexity(perplexity_of)

# %% [markdown]
# **Takeaway.** Nats for sums and differences, bits for files, perplexity for intuition: one number in
# three dresses.

# %% [markdown]
# ## 5  What do you know already?   *(3 min)*
#
# Six questions that a reader of the whole workbook can answer. Answer them today and come back later. The
# reasons say which notebook has the full story.

# %% tags=["widget", "nbval-ignore-output"]
show_quiz("start_here", part="What do you know already?")

# %% [markdown]
# **Takeaway.** A wrong answer here is a good reason to read on, and the reason tells you where.

# %% [markdown]
# ## 6  Published, reconstructed, measured   *(4 min)*
#
# **What was read.** Of the Extractor paper (arXiv:2308.07661) the abstracts of both versions and summaries of
# its text; of the paper on shallow nets (arXiv:2311.10642) the abstract, summaries, and its released code at
# commit 983b8c7. The other sections, equations and tables of either were not. So we keep three things apart,
# here and in every notebook:
#
# | | What | Where from |
# |---|---|---|
# | **Published** | a drop-in for self-attention; four members: SHE (*super high-performance Extractor*), HE (*higher-performance*), WE (*worthwhile*), ME (*minimalist*); the last three cost less than attention | abstract |
# | **Published** | the idea in words; $\ell d^2 + 2 d^2$ weights against $4 d^2$; the critical path multiply, accumulate, multiply, multiply, accumulate | summaries; count and path of version 1 |
# | **Published: the main claim** | SHE is clearly better than attention, with more work; HE is better than multi-head, WE better than single-head and ME close to single-head attention, each with less | summaries; tested in notebook 04 |
# | **Reconstructed** | the equations of SHE, inferred from those facts, and that it is version 1's one Extractor; HE, WE and ME, our reading of their names and of how they compare with attention | derived in notebook 03 |
# | **Measured** | every loss, count and time in this workbook | our runs; larger ones in `data/runs` |

# %% tags=["widget", "nbval-ignore-output"]
show_quiz("start_here", part="Published, reconstructed, measured")

# %% [markdown]
# **Takeaway.** A result here speaks about the models we wrote down; each sentence says which.

# %% [markdown]
# ## Summary
#
# - You **stated** the question: which token mixer gives the lower held-out loss, all else equal?
# - You **computed** a loss by hand: $5/3 \log 2 = 1.1552$ nats (eq. 0.1).
# - You **converted** it: 1.6667 bits, perplexity 3.1748.
# - You **decided** from the picture of section 2 how far two models were from the floor, and saw both
#   pass $h_1 = 1.64$ nats, the best loss with one token of memory.
# - You **named** what is published (words, $\ell d^2 + 2 d^2$, the critical path), reconstructed (the
#   equations) and measured (the rest).

# %% [markdown]
# ## What we did not show
#
# - The taste has one seed and no tuning. A longer run, or another learning rate, may change the
#   order; attention often starts slowly. Full mode trains five times as long.
# - SHE had 8.5 times the mixer weights. Whether the idea or the size helped is open here.
# - Lower loss is not better text, and says nothing about speed.
# - We doubt that anything learned on 144 words of artificial tales carries over to books without
#   further proof.

# %% [markdown]
# ## Notation used here
#
# This is the whole table of the workbook; each notebook repeats its own rows. The column *Paper* has
# the paper's letter where we know it.

# %% tags=["nbval-check-output"]
from attnlab.teach import show_notation

show_notation()

# %% [markdown]
# ## Sources
#
# - Z. Chen, *Attention Is Not All You Need Anymore*, [arXiv:2308.07661](https://arxiv.org/abs/2308.07661):
#   abstract (drop-in replacement; SHE, HE, WE, ME); through summaries: the weight count and the
#   critical path (its first version), and how each member compares with attention.
# - V. Bozic and others, *Rethinking Attention: Exploring Shallow Feed-Forward Neural Networks as an
#   Alternative to Attention Layers in Transformers*,
#   [arXiv:2311.10642](https://arxiv.org/abs/2311.10642).
# - A. Vaswani and others, *Attention Is All You Need*,
#   [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), section 3.
# - C. E. Shannon, *A Mathematical Theory of Communication*, 1948, sections 3, 6 and 7.
#
# Next: [01 Text as a Markov chain](01_markov_framing.ipynb)
