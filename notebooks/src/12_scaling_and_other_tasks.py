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
# # 12 · Scaling and other tasks
#
# How does a loss fall as models and texts grow, and what does length cost? Here the floor is known, so a
# power law can be tested where others have to guess. Then the question goes the other way: what is a mixer
# worth that names sentences, or looks at images?
#
# **Minutes:** 54. **Prerequisites:** notebook 01, section 3 (the floor); notebook 03, section 3.
#
# Previous: [11 Recall and state](11_recall_and_state.ipynb). Next:
# [13 Attention after training](13_attention_after_training.ipynb).

# %% [markdown]
# **Learning goals.** After this notebook you can
#
# - compute the power of a law by hand from three losses above a known floor,
# - fit a law of weights and tokens, with an interval by bootstrap over runs,
# - decide whether a fitted constant says anything of the floor,
# - predict from two powers where one mixer becomes cheaper than another,
# - judge an accuracy by a control that mixes nothing.

# %% tags=["setup"]
import numpy as np
from IPython.display import Markdown, display

from attnlab.chapters.scaling_and_other_tasks import checks, pictures, records
from attnlab.runmode import banner
from attnlab.show import show

banner(minutes=54)

# %% [markdown]
# ## 1  A power law above a floor   *(12 min)*
#
# No model gets below the entropy rate $h$ of its source (notebook 01). What can fall is the *gap* $L - h$,
# and often it falls by the same factor whenever the model grows by the same factor:
#
# $$ L(N) - h = A\, N^{-a} \quad\Longleftrightarrow\quad
#    \log (L - h) = \log A - a \log N \tag{12.1} $$
#
# with $N$ the weights without embeddings, $A > 0$ a factor and $a > 0$ the *power*. On two logarithmic axes
# that is a straight line, and its slope is $-a$.
#
# By hand, with $h = 0.4$ nats:
#
# | $N$ | $L$ | $L - h$ |
# |---|---|---|
# | 1,000 | 1.20 | 0.80 |
# | 16,000 | 0.60 | 0.20 |
# | 256,000 | 0.45 | 0.05 |
#
# Each time 16 times the weights and a quarter of the gap: $16^{-a} = 1/4$, so $a = 1/2$.

# %% tags=["nbval-check-output", "agreement"]
N, L, h = np.array([1e3, 16e3, 256e3]), np.array([1.20, 0.60, 0.45]), 0.4
slope, level = np.polyfit(np.log(N), np.log(L - h), 1)  # eq. (12.1)
print(f"a = {-slope:.3f}, A = {np.exp(level):.1f}")
assert np.isclose(-slope, 0.5), "by hand"
assert np.allclose(h + np.exp(level) * N**slope, L), "three points on one line"
print(f"a model of 4,096,000 weights would have {h + np.exp(level) * 4.096e6**slope:.4f} nats")

# %% [markdown]
# On a real text nobody knows $h$. What if you subtract the wrong number? Guess first, then move the dial.

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import predict_first

guess = predict_first(
    "The true floor is 0.4 and the power 0.5. You subtract nothing. Which power do you read?",
    options={"a larger one": "larger", "0.5 as well": "same", "a smaller one": "smaller"},
)

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import explore

explore(
    pictures.assumed_floor,
    presets=[{"floor": 0.0}, {"floor": 0.4}, {"floor": 0.48}],
    **pictures.FLOOR_DIALS,
)

# %% tags=["nbval-check-output"]
N, L = np.array(pictures.N_TRUE), np.array(pictures.LOSS_TRUE)
powers = {E: pictures.line_through(N, L - E)[1] for E in (0.0, 0.2, 0.4, 0.48)}
for E, power in powers.items():
    print(f"E = {E:.2f}: power {power:.2f}")
print(guess.verdict(truth="smaller" if powers[0.0] < powers[0.4] else "larger"))

# %% [markdown]
# **What we see.** Too low a floor bends the points upwards at the right and flattens the line; too high a
# floor bends them down and steepens it. Only near the true floor are they straight, and that is how a free
# constant can be found at all: by the *bend*. Noise of a few per cent hides a small bend. So the power and
# the floor are traded for one another, unless the floor is known.
#
# **Check yourself.** Why does the bend show at the large models?
#
# <details><summary>Answer</summary>
#
# An error of 0.1 nats is an eighth of a gap of 0.8, and all of a gap of 0.1.
#
# </details>

# %% [markdown] tags=["exercise"]
# **Takeaway.** Subtract the floor, then take logarithms: a power is the slope of a straight line, and a wrong
# floor is a bend.
#
# **Exercise 12.1** (difficulty 1, 3 min; builds on eq. (12.1)). Write `power_above(N, loss, h)`: the power $a$
# of the best line, for weights and losses `(n_models,)`.
#
# <details><summary>Hint</summary>
#
# `np.polyfit(x, y, 1)[0]` is a slope. Which sign has the power?
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def power_above(N, loss, h):
    """Return the power of the gap in the weights."""
    # SOLUTION
    return -np.polyfit(np.log(N), np.log(loss - h), 1)[0]


# %% tags=["nbval-check-output"]
power_above = checks.check_power.hand_on(power_above)

# %% [markdown]
# ## 2  Weights and tokens together   *(25 min)*
#
# A model is limited by its weights $N$ and by the tokens $D$ that it read. The usual law adds two gaps:
#
# $$ L(N, D) = E + A\,N^{-a} + B\,D^{-b} \tag{12.2} $$
#
# On a text without a known source $E$ is fitted as well. On ours, $E = h$. First live: four tiny models read
# *tales*, one pass each, with a learning rate of $0.3 / d$ (a rule, not a sweep), and are held against the
# true source on the same windows.

# %% tags=["nbval-ignore-output"]
from attnlab.config import ModelConfig, TrainConfig
from attnlab.seeding import numpy_generator, torch_generator
from attnlab.sources import tales
from attnlab.tasks import StreamTask
from attnlab.training import train_model

source, rows = tales(), []
text = source.sample(300 * 512 + 1, generator=numpy_generator(0, "train"))
windows = source.sample(200 * 33, generator=numpy_generator(0, "test")).reshape(200, 33)
h = float(source.oracle_nats(windows))  # what these windows cost the true source
task = StreamTask(train=text, held_out=windows, oracle_nats=h)
for d in (8, 12, 20, 32):
    config = ModelConfig(mixer="he", vocab_size=source.vocab_size, context_len=32, d_model=d)
    train = TrainConfig(n_steps=300, batch_size=16, lr=0.3 / d, warmup_steps=15)
    model = task.build(config, generator=torch_generator(0, "init"))
    for _ in train_model(task, model, train):
        pass
    loss = task.validate(model.eval())["loss_nats"]
    N_d = sum(w.numel() for w in model.blocks.parameters())
    rows.append({"variant": "he", "seed": 0, "N": N_d, "D": 300 * 512, "loss": loss, "floor": h})
    print(f"d = {d:2d}: {N_d:6,} weights, loss {loss:.3f}, above the floor {loss - h:.3f}")
assert rows[0]["loss"] > rows[-1]["loss"] > h, "larger is better, and none beats the source"

# %% tags=["nbval-ignore-output"]
import pandas as pd

live = pd.DataFrame(rows)
A, a, off = pictures.line_through(live["N"], live["loss"] - live["floor"])
print(f"power {a:.2f}; the line misses a point by up to {np.expm1(off):.0%}: one seed")
show(pictures.gaps(live, variant="he"))

# %% [markdown]
# Four models at one number of tokens tell no law: the gap that the few tokens leave is the same for all of
# them, and it bends the line as a wrong floor does. That is why eq. (12.2) has two terms, and why sizes must
# be *crossed*: each model on each number of tokens, trained anew, so that every learning rate falls to its
# end.
#
# How to fit? For given powers $a$, $b$ the law is linear in $A$ and $B$, so try powers and solve for the
# factors. Weigh each error by the gap itself,
#
# $$ \min_{a, b}\; \min_{A, B} \sum_i \Bigl(\frac{A N_i^{-a} + B D_i^{-b}}{L_i - h} - 1\Bigr)^2
#    \tag{12.3} $$
#
# since a miss of 0.01 nats is nothing at a gap of one nat, and much at a gap of 0.02.

# %% [markdown] tags=["exercise"]
# **Build 12** (difficulty 3, 10 min; builds on eq. (12.3)). Write `fit_law(N, D, loss, h, powers)`: try all
# pairs of `powers`, solve for both factors, and return `(A, a, B, b)` of the pair with the smallest error.
#
# <details><summary>Hint</summary>
#
# The columns of the design are $N^{-a}/(L - h)$ and $D^{-b}/(L - h)$, the target is one everywhere:
# `np.linalg.lstsq(X, y, rcond=None)[0]`. `itertools.product(powers, powers)` has the pairs.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
from itertools import product


def fit_law(N, D, loss, h, powers):
    """Return factor and power of the weights, then of the tokens."""
    # SOLUTION
    gap, best, found = loss - h, np.inf, None
    for a, b in product(powers, powers):
        X = np.stack([N**-a, D**-b], axis=1) / gap[:, None]
        factors = np.linalg.lstsq(X, np.ones(len(gap)), rcond=None)[0]
        error = np.square(X @ factors - 1).sum()
        if error < best:
            best, found = error, (factors[0], a, factors[1], b)
    return found


# %% tags=["nbval-check-output"]
fit_law = checks.check_law.hand_on(fit_law)

# %% [markdown]
# The package fits the same law finely, on logarithms and without a grid, many times from many starts. On
# made-up runs whose law we know, both should find it. And the package fits $E$ too:

# %% tags=["nbval-check-output", "agreement"]
from attnlab.analysis.scaling import fit_scaling

true = {"A": 60.0, "a": 0.6, "B": 900.0, "b": 0.65}
N, D = (grid.ravel() for grid in np.meshgrid(np.repeat([2e3, 8e3, 3e4, 1e5], 3), [7e4, 3e5, 1.4e6]))
luck = np.exp(0.03 * numpy_generator(0, "luck").normal(size=N.size))
L = 0.5 + (60 * N**-0.6 + 900 * D**-0.65) * luck
own = fit_law(N, D, L, 0.5, np.arange(6, 17) / 20)
fit = fit_scaling(N, n_tokens=D, loss_nats=L, floor_nats=0.5)
free = fit_scaling(N, n_tokens=D, loss_nats=L)
print(f"yours: a = {own[1]:.2f}, b = {own[3]:.2f}; package: a = {fit.a:.2f}, b = {fit.b:.2f}")
low, high = free.intervals["E"]
print(f"a free constant: {free.E:.2f} ({low:.2f} to {high:.2f}); the floor is 0.5")
assert abs(own[1] - fit.a) < 0.06
assert abs(own[3] - fit.b) < 0.06
assert free.covers(0.5)

# %% [markdown] tags=["exercise"]
# **How sure is a power?** Draw as many runs as there are, with replacement, and fit again; do it often. The
# middle 95 % of the powers are the interval (*bootstrap over runs*).
#
# **Exercise 12.2** (difficulty 2, 4 min; builds on exercise 12.1). Write `interval(N, gap, draws)`. Each row of
# `draws` `(n_draws, n_runs)` holds the places of one draw. Return the lower and the upper end.
#
# <details><summary>Hint</summary>
#
# A run is a pair: draw `N[pick]` together with `gap[pick]`. `np.quantile` takes a list of shares.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def interval(N, gap, draws):
    """Return both ends of the 95 % interval of the power."""
    # SOLUTION
    powers = [power_above(N[pick], gap[pick], 0.0) for pick in draws]
    return np.quantile(powers, [0.025, 0.975])


# %% tags=["nbval-check-output"]
checks.check_interval(interval)

# %% [markdown]
# Now the records: five mixers, four widths, four numbers of tokens, three seeds each, on two sources. *Tales*
# has 181 words; *tree* is a variable-length chain of 32 symbols with 280 contexts. **Predict:** in how many
# of the ten cases does a free constant cover the floor?

# %% tags=["nbval-ignore-output"]
table = records.fits()
display(Markdown(records.fits_table(table)))
show(pictures.fitted(table))

# %% tags=["nbval-ignore-output"]
runs = records.recorded("tales")
law = records.law(runs, variant="he")  # None, and no dotted lines, where the runs tell no law
show(pictures.gaps(runs, variant="he", fit=law))

# %% [markdown]
# **How to read it.** *Residual* is how far the law misses a gap, typically. Where it is well above the spread of
# seeds, eq. (12.2) is not the law: the loss may rest on a plateau until a model learns the next thing, and a narrow
# model that read little is not limited by either size alone. Its powers then describe these runs and no others. An
# end of 5.00 is the steepest power that was tried: the runs do not tell it.
#
# The harder test is a run that no fit has seen. The largest model on the longest text, predicted from all
# others:

# %% tags=["nbval-ignore-output"]
for corpus in records.CORPORA:
    display(Markdown(f"**{corpus}**\n\n{records.held_out_table(records.held_out(corpus))}"))

# %% [markdown]
# **Why a constant does or does not come out.** It is told by the runs near the floor alone. Fitted on $\log L$,
# as published laws are, those runs hardly count: where $E$ is most of the loss, a tenth of the gap is a
# hundredth of $L$. And what two powers cannot follow, a third parameter will: a constant also mends a wrong
# form. So an interval that leaves $h$ out speaks against the *form*, not against the floor, which is exact. And one
# that covers $h$ and half of all other numbers has found nothing: look at its width.

# %% [markdown]
# **Takeaway.** With the floor known, powers have one rival less. With it unknown, report the constant with its
# interval, and test the law on a run that it has not seen.

# %% [markdown]
# ## 3  What length and width cost   *(7 min)*
#
# Times follow powers as well, $t = C\,T^{p}$, at least between the overhead of starting a program and the end of
# a cache. Attention compares pairs, so $p$ goes from 1 towards 2; a state of fixed size is passed on once a
# token, $p = 1$. Measured here: forward and backward of one layer, 4,096 tokens a pass (fewer sequences where they
# are longer), all mixers in turns.

# %% tags=["nbval-ignore-output"]
growth = records.growth()
display(Markdown(records.growth_table(growth)))
show(pictures.powers_of_time(growth))

# %% [markdown]
# **How to read it.** The power of the length is fitted from 128 tokens on, $d = 64$; that of the width at 128 tokens. The
# interval is over rounds of one hour on one machine: another machine has other powers. A power says
# nothing about who is faster *here*: that is the factor $C$. Two lines cross where
#
# $$ C\,T^{p} = K\,T^{q} \tag{12.4} $$

# %% [markdown] tags=["exercise"]
# **Exercise 12.3** (difficulty 2, 3 min; builds on eq. (12.4)). Write `crossing(C, p, K, q)`, the length at which two
# times are equal ($p \ne q$).
#
# <details><summary>Hint</summary>
#
# Bring the powers of $T$ to one side: $T^{q - p}$.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def crossing(C, p, K, q):
    """Return the length at which C T^p and K T^q are equal."""
    # SOLUTION
    return (C / K) ** (1 / (q - p))


# %% tags=["nbval-check-output"]
crossing = checks.check_crossing.hand_on(crossing)
first, second = (0.02, 1.05), (0.0004, 1.8)  # made-up: milliseconds of a state and of attention
print(f"equal at T = {crossing(*first, *second):.0f}")
show(pictures.crossing(first=first, second=second, names=("linear_attention", "attention")))

# %% [markdown]
# **Takeaway.** A smaller power wins in the end; the factor says when. Between two powers there is one crossing,
# and it may lie beyond every text you have.

# %% [markdown]
# ## 4  Sentences with a class: the control first   *(4 min)*
#
# A *classifier* reads a whole sequence and names its class: a mean over positions, then one linear map. Before
# a mixer gets credit, ask what needs no mixer. The control is a linear map of the **bag of words**:
#
# $$ P(\text{class} \mid v) = \mathrm{softmax}\Bigl(\sum_{t=1}^{T} w_{v_t} + b\Bigr) \tag{12.5} $$
#
# with one vector $w_v$ of scores a word. A sum has no order, so:

# %% tags=["nbval-check-output", "agreement"]
words = ["dog", "bites", "man", "not", "good", "bad"]
draw = numpy_generator(0, "scores").normal
w, b = draw(size=(len(words), 2)), np.zeros(2)


def bag(sentence):
    z = sum(w[words.index(word)] for word in sentence.split()) + b  # eq. (12.5)
    return np.exp(z) / np.exp(z).sum()


pairs = [("dog bites man", "man bites dog"), ("good not bad", "bad not good")]
for one, other in pairs:
    print(f"{one!r} and {other!r}: {bag(one).round(3)}, {bag(other).round(3)}")
    assert np.allclose(bag(one), bag(other)), "no weights can tell them apart"

# %% [markdown]
# **Predict:** three tasks, questions (TREC, six classes), film reviews (SST-2, two), news (AG News, four). On
# which does a small mixer beat the control?

# %% tags=["nbval-ignore-output"]
from attnlab.chapters.scaling_and_other_tasks import labels

texts = {name: labels.TASKS[name] for name in ("trec", "sst2", "ag_news")}
show(labels.accuracy(labels.recorded_labels(texts)))

# %% [markdown]
# **How to read it.** Each mixer at the rate that validated best. A causal mixer's position hears the earlier
# words alone; a *two-sided* one hears both sides. The dashed line is eq. (12.5) with a score for each pair of
# neighbours too, so it hears a little of order. Test sets are small: on 400 questions a true accuracy of 90 % is
# measured between 87 and 93 %. What has no point is not recorded.

# %% [markdown]
# **Check yourself.** A mixer and the dashed line have the same accuracy on news. What follows?
#
# <details><summary>Answer</summary>
#
# That order beyond neighbours is not needed there, at this size and on so little text. Not that the mixer cannot use order.
#
# </details>
#
# **Takeaway.** An accuracy means what it adds to the best control. Report the control in the same table.

# %% [markdown]
# ## 5  An image as a sequence   *(6 min)*
#
# A mixer knows positions in a row. An image of $H \times H$ pixels becomes one by reading it line by line: pixel
# $(i, j)$ stands at $t = iH + j + 1$. Its neighbour on the right is one step away, the one below $H$ steps.
# Or cut the image into *patches* of $p \times p$ pixels: fewer steps, each with $p^2$ numbers.

# %% tags=["nbval-check-output", "agreement"]
H, p = 6, 3
image = np.arange(H * H).reshape(H, H)
row = image.reshape(-1)  # line by line: T = 36 steps of one number
patches = image.reshape(H // p, p, H // p, p).swapaxes(1, 2).reshape(-1, p * p)
print("steps:", row.shape, "as patches:", patches.shape)
right, below = image[2, 4] - image[2, 3], image[3, 3] - image[2, 3]
print(f"the neighbour on the right is {right} step away, the one below {below}")
assert (patches[1] == image[0:p, p : 2 * p].reshape(-1)).all(), "the second patch: top right"

# %% [markdown]
# A causal mixer reads the image as if it were written: the last pixel has seen all others. A two-sided one
# sees before and after. In pairs of a position and one not after it (notebook 03, section 3), $T = 196$ pixels
# are 19,306, 16 patches 136.

# %% tags=["nbval-ignore-output"]
show(labels.images_in_a_row())

# %% tags=["nbval-ignore-output"]
views = {name: labels.TASKS[name] for name in ("mnist_pixels", "mnist_patches")}
show(labels.accuracy(labels.recorded_labels(views)))

# %% [markdown]
# **How to read it.** As above, for digits of MNIST, with a linear map of all pixels as the control. That control knows
# where each pixel is, which a bag of words does not.
#
# **Takeaway.** A mixer does not know what it reads. What counts is which neighbours lie near in the row, and how many
# steps lie between.

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.teach import show_quiz

show_quiz("scaling_and_other_tasks")

# %% [markdown]
# ## Summary
#
# - You **computed** a power of 1/2 by hand from three losses above 0.4 nats (eq. 12.1).
# - You **fitted** a law of weights and tokens by trying powers (eq. 12.3), and the package found nearly the same ones.
# - You **decided** by an interval whether a free constant covers the floor.
# - You **predicted** where two times cross, from factors and powers (eq. 12.4).
# - You **judged** accuracies beside a control that mixes nothing.

# %% [markdown]
# ## What we did not show
#
# - The models are tiny: up to some hundred thousand weights and 1.3 M tokens. Nothing says that a power goes on.
# - The learning rate follows one rule for all mixers. A mixer that wants another one looks as if it scaled badly.
# - Two artificial sources. Other sources have other powers, and a text has no known floor.
# - Times are of one machine and one thread, and of our programs, not of the best that could be written.
# - Accuracies of small models from scratch. Who is pretrained is elsewhere.

# %% [markdown]
# ## Notation used here
#
# $N$ are weights without embeddings, $D$ tokens that were read once; $a$, $b$, $p$, $q$ are powers, and $A$, $B$,
# $C$, $K$ factors. $E$ is a constant that is fitted or assumed, $h$ the true floor on the same windows.

# %% tags=["hide-input", "nbval-ignore-output"]
from attnlab.teach import show_notation

show_notation(["time", "d_model", "context_len", "lr"])

# %% [markdown]
# ## Sources
#
# - J. Hoffmann and others, *Training Compute-Optimal Large Language Models*,
#   [arXiv:2203.15556](https://arxiv.org/abs/2203.15556): the form (12.2), fitted with a free constant.
# - J. Kaplan and others, *Scaling Laws for Neural Language Models*,
#   [arXiv:2001.08361](https://arxiv.org/abs/2001.08361): weights counted without embeddings.
# - G. Yang and others, *Tensor Programs V*, [arXiv:2203.03466](https://arxiv.org/abs/2203.03466): rates that
#   are handed on across widths; our rule is its simplest part.
# - B. Efron, *Bootstrap Methods: Another Look at the Jackknife*, 1979.
# - Questions: Li and Roth 2002; reviews: Socher and others 2013; news: Zhang and others 2015,
#   [arXiv:1509.01626](https://arxiv.org/abs/1509.01626); digits: LeCun and others 1998; patches: Dosovitskiy and
#   others, [arXiv:2010.11929](https://arxiv.org/abs/2010.11929).
#
# Previous: [11 Recall and state](11_recall_and_state.ipynb). Next:
# [13 Attention after training](13_attention_after_training.ipynb).
