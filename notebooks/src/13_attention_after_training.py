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
# # 13 · Attention after training
#
# A good teacher, its attention taken out afterwards, by today's methods: features in place of the
# exponential, a small exact window, lessons in stages. You build the parts, flip a switch at each site,
# and see the translation change.
#
# **Minutes:** 70. **Prerequisites:** [09 Replacing attention](09_replacing_attention.ipynb), sections 1
# to 3; linear attention ([10 Other mixers](10_other_mixers.ipynb)) helps.
#
# Previous: [12 Scaling and other tasks](12_scaling_and_other_tasks.ipynb). Next:
# [14 What we found](14_what_we_found.ipynb).

# %% [markdown]
# **Learning goals.** After this notebook you can
#
# - derive linear attention by putting features in place of $e^{q \cdot k}$, and compute its weights,
# - explain from a head's entropy why it is hard to replace,
# - compute an exact window and features for the rest under one normaliser,
# - compare what is matched, and in which order, at equal numbers of steps,
# - judge from records what each ingredient is worth, and at which site and task attention pays.

# %% tags=["setup"]
import torch

from attnlab.chapters.attention_after_training import checks, live, pictures, records
from attnlab.runmode import banner
from attnlab.show import explore, show

banner(minutes=70)

# %% [markdown]
# ## 1  A teacher worth replacing   *(4 min)*
#
# Who keeps 95 % of a weak translator has kept little. So the teacher comes first. In this notebook there are
# two:
#
# - the **toy** of notebooks 07 and 09: artificial languages, 2 + 2 layers, $d = 32$, four heads. Its
#   weights came with the workbook; everything live happens here.
# - **captions**, German to English: a small system tuned for little text. It is too large for a live cell;
#   what it says comes from records.
#
# The rules are those of notebook 09: the look-up goes, $W_o$ and all else stay until they are tuned
# (section 4); a perfect stand-in changes nothing; *undo* gives back the same bits.

# %% tags=["nbval-ignore-output"]
from attnlab.paths import MODELS
from attnlab.sources import translation_source
from attnlab.training import PairBatches, collate_pairs, load_translator

source = translation_source()
teacher = load_translator(MODELS / "toy" / "teacher.safetensors")[0].eval().requires_grad_(False)
pairs = source.sample_pairs(4000)  # that stand-ins learn from
exam = source.sample_pairs(100, stream="validation")
toy = live.Switches(teacher, {}, source, source.sample_pairs(200, stream="test"))
whole = toy.bleu()  # attention everywhere
print(f"toy teacher: BLEU {whole:.1f} on 200 sentences that nobody learnt from")
assert whole > 95

# %% [markdown]
# What makes a small translator of captions strong? A small corpus is soon memorised, so most of a published
# recipe works against that: much dropout, smoothed labels, few pieces, one table for both languages and the
# output. Then patience: many passes at a high rate that falls, and the mean of the last weights. Whether it
# worked here, the table says, beside the teacher of notebook 09. (Much else differs, above all seven times as many
# steps: the table shows a better teacher, not which part made it so.) *Beam* is a search that keeps several
# beginnings (notebook 07).

# %% tags=["nbval-ignore-output"]
from IPython.display import Markdown, display

display(Markdown(records.teachers_markdown()))
show(pictures.passes(records.passes(records.teachers())))

# %% [markdown]
# A score without its $n$ of $N$ may leave the longest sentences out; here each row says how many it
# counts.
#
# **Takeaway.** First a teacher that is hard to beat, all sentences counted; then a share of it means
# something.

# %% [markdown]
# ## 2  Features in place of exp   *(23 min)*
#
# A head weighs position $s$ at $t$ by $e^{q_t \cdot k_s / \sqrt{d_h}}$, then divides by the sum. Each
# pair is compared. Put a product of *features* in the place of the exponential:
#
# $$ e^{\,q_t \cdot k_s / \sqrt{d_h}} \quad\longrightarrow\quad \phi(q_t) \cdot \phi(k_s),
#    \qquad \phi \ge 0 \tag{13.1} $$
#
# A product can be pulled out of the sum. In the encoder and at cross that sum is the same for all queries; in
# the decoder, where $s \le t$, it grows by one term a step:
#
# $$ y_t = \frac{\sum_s \phi(q_t) \cdot \phi(k_s)\, v_s}{\sum_s \phi(q_t) \cdot \phi(k_s)}
#        = \frac{\phi(q_t)\,\bigl[\sum_s \phi(k_s)^\top v_s\bigr]}
#               {\phi(q_t)\,\bigl[\sum_s \phi(k_s)^\top\bigr]} \tag{13.2} $$
#
# Brackets are a table of fixed size. No softmax *over positions* is left. By hand, then, with two keys:

# %% tags=["agreement", "nbval-check-output"]
phi_q = torch.tensor([0.8, 0.2])  # features of one query
phi_k = torch.tensor([[0.9, 0.1], [0.3, 0.7]])  # of two keys
v = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
weights = phi_k @ phi_q  # pair by pair: left side of eq. (13.2)
by_pairs = (weights @ v) / weights.sum()
table, total = phi_k.T @ v, phi_k.sum(0)  # right side: once for all queries
by_table = (phi_q @ table) / (phi_q @ total)
torch.testing.assert_close(by_pairs, by_table)
print("weights", [round(w, 2) for w in (weights / weights.sum()).tolist()])

# %% [markdown]
# Which $\phi$, or *feature map*? With $z = x W$, $W$ learnt, one for queries and one for keys of each head:
#
# | map | $\phi$ | |
# |---|---|---|
# | elu + 1 | $\mathrm{elu}(z) + 1$ | an early linear attention |
# | ReLU | $\max(0, z + b)$ | T2R: learnt after the swap |
# | softmax | $\mathrm{softmax}(z)$ | over the features of one token |
# | both signs | $[\mathrm{softmax}(z), \mathrm{softmax}(-z)]$ | Hedgehog |
#
# Attention is *spiky*: few large weights, and they follow $q \cdot k$ upwards. A map should do both.
# **Play, then answer:** $W$ is the unit matrix still. Which map comes near the line of $e^s$? What can
# none of them do?

# %% tags=["widget", "nbval-ignore-output"]
from functools import partial

from attnlab.distillation import capture

lessons = capture(teacher, collate_pairs(exam))  # what each site reads, and what its heads give
draw_kernels = partial(live.draw_kernels, teacher, lessons)
presets = [{"site": "cross", "layer": 2, "head": 1}, {"site": "encoder_self", "layer": 1}]
explore(draw_kernels, presets=presets, **pictures.HEAD_DIALS)

# %% [markdown] tags=["exercise"]
# <details><summary>Answer</summary>
#
# None climbs as steeply as $e^s$ with the unit matrix: points lie flat where the line rises. Maps with a
# softmax at least follow the order of scores. Steepness has to be learnt, through $W$.
#
# </details>
#
# **Exercise 13.1** (difficulty 1, 4 min; builds on eq. (13.1)). Write `features(x, W)`: softmax of both signs.
# `x` is $(T, d_h)$, `W` is $(d_h, r)$; return $(T, R)$, $R = 2r$.
#
# <details><summary>Hint</summary>
#
# `z.softmax(-1)` runs over the last axis; `torch.cat` joins along an axis.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def features(x, W):
    """Return softmax of both signs: (T, d_h) and (d_h, r) -> (T, 2 r)."""
    # SOLUTION
    z = x @ W
    return torch.cat([z.softmax(-1), (-z).softmax(-1)], -1)


# %% tags=["nbval-check-output"]
features = checks.check_features.hand_on(features)
x = torch.tensor([[2.0, 0.0]])
for steep in (1, 4):
    phi = features(x, steep * torch.eye(2))
    print(f"W = {steep} times the unit matrix:", [round(f, 3) for f in phi[0].tolist()])

# %% [markdown] tags=["exercise"]
# How shall $W$ learn? Hedgehog's answer: let the *weights* agree. With $A_{ts}$ of the teacher and $\hat A_{ts}$
# of the stand-in, take the cross-entropy, row by row:
#
# $$ L_\text{weights} = -\frac{1}{n} \sum_{t} \sum_s A_{ts} \log \hat A_{ts} \tag{13.3} $$
#
# over $n$ rows. It is lowest where the two are equal, and is then the mean **entropy** of the head:
# near 0 for a head that looks at one word, $\log T$ for one that looks everywhere.
#
# **Exercise 13.2** (difficulty 2, 5 min; builds on eq. (13.3)). Write `weights_loss(a, b)` for weights of
# teacher and stand-in, both $(n, T)$. Where the teacher has 0, the stand-in may have 0 too: that costs
# nothing.
#
# <details><summary>Hint</summary>
#
# `b.clamp(min=1e-9)` before the logarithm.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def weights_loss(a, b):
    """Return eq. (13.3) for rows of weights, (n, T) each."""
    # SOLUTION
    return -(a * b.clamp(min=1e-9).log()).sum(-1).mean()


# %% tags=["nbval-check-output"]
weights_loss = checks.check_weights_loss.hand_on(weights_loss)
one_word, spread = torch.tensor([[0.97, 0.01, 0.01, 0.01]]), torch.full((1, 4), 0.25)
for name, a in (("nearly one word", one_word), ("everywhere", spread)):
    print(f"{name:>15}: entropy {weights_loss(a, a):.3f}, against an even stand-in "
          f"{weights_loss(a, spread):.3f}")  # fmt: skip

# %% [markdown]
# Now let stand-ins learn, one for each layer of each site, each map alike. A stand-in begins with the teacher's
# own $W_q, W_k, W_v$ and the unit matrix for $W$; it hears what the teacher's site hears.
#
# **Predict first.**

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import predict_first

guess = predict_first(
    f"The toy's attention (BLEU {whole:.0f}) becomes linear at all three sites, with softmax of both "
    "signs. What is BLEU before anything has learnt?",
    options={"90 or more": 95, "about half": 50, "below 30": 15},
)

# %% tags=["nbval-ignore-output"]
from attnlab.distillation import SITES, StudentSpec, build_students


def stand_ins(**how):
    """Return new stand-ins for all places; a window exists where a sentence reads itself."""
    found = {}
    for site in SITES:
        own = {n: v for n, v in how.items() if n != "window" or site != "cross"}
        found |= build_students(teacher, spec=StudentSpec(site=site, method="linear", **own))
    return found


def learn(students, loss, n_steps, lr=1e-2, seed=0):
    """Let all stand-ins learn side by side; each hears what the teacher hears at its place."""
    adam = torch.optim.Adam([w for one in students.values() for w in one.parameters()], lr=lr)
    batches = PairBatches(pairs, max_tokens=500, seed=seed).starting_at(0)
    for _, batch in zip(range(n_steps), batches, strict=False):
        heard = capture(teacher, batch)
        total = sum(loss(one, place, heard[place]) for place, one in students.items())
        adam.zero_grad()
        total.backward()
        adam.step()


def weights(student, place, lesson):
    """Return eq. (13.3) over the real rows of all heads."""
    a, b = live.both_weights(teacher, student, place, lesson)
    return weights_loss(a, b)


# %% tags=["nbval-ignore-output"]
import pandas as pd

from attnlab.distillation.transfer import exam_of, head_table

heads, asked = [], exam_of(teacher, exam, sites=SITES)
for name, (label, _) in pictures.MAPS.items():
    students = stand_ins(feature_map=name)
    before = toy.bleu_with(students)
    learn(students, weights, 100)
    after = toy.bleu_with(students)
    print(f"{label:>22}: BLEU {before:5.1f} as built, {after:5.1f} after 100 steps")
    if name == "hedgehog":
        print(guess.verdict(truth=round(before, 1)))
    heads.append(pd.DataFrame(head_table(teacher, students, asked)).assign(name=name))
show(pictures.entropies(pd.concat(heads)))

# %% tags=["nbval-ignore-output"]
show(pictures.entropies(records.heads()), lead="Captions. ")

# %% [markdown]
# A head that looks at one word (left) asks of $\phi$ a steep climb; one that looks everywhere is nearly a
# mean, and any map can do that. So one would expect errors on the left. Read the rank correlations: below zero,
# low entropy and large errors come together. And compare maps at the *same* head: does the gap between them
# grow to the left? The second picture has heads of captions.
#
# **Doubt.** Live: one teacher, one seed, 100 steps.
#
# **Takeaway.** Linear attention is a choice of features. On the toy spiky heads are the hard ones at each site; on
# captions read it site by site: with 16 heads a correlation nearer to 0 than 0.5 says nothing.

# %% [markdown]
# ## 3  A window, and features for the rest   *(17 min)*
#
# The spikes of self-attention often lie near: the word itself, the one before. Keep softmax for these, features
# for all that is farther, and divide *both* by one sum. With $s_{ti} = q_t \cdot k_i / \sqrt{d_h}$, near
# positions $N(t)$ (the newest $w$) and far ones $F(t)$:
#
# $$ y_t = \frac{\sum_{i \in N(t)} g\, e^{s_{ti} - c_t} v_i + \phi(q_t) \sum_{j \in F(t)} \phi(k_j)^\top v_j}
#               {\sum_{i \in N(t)} g\, e^{s_{ti} - c_t} + \phi(q_t) \sum_{j \in F(t)} \phi(k_j)^\top},
#    \qquad c_t = \max_{i \in N(t)} s_{ti} \tag{13.4} $$
#
# $g \in (0, 1)$ is learnt, one number a head: how loud the window is. Two ends: with $w \ge T$
# nothing is far and $g$ cancels: attention. With $w = 0$ nothing is near: eq. (13.2).

# %% [markdown]
# A variant, *the scale of features* or shared scale, multiplies the features' sums by $e^{-c_t}$, too: then $c_t$
# cancels, and a near word counts $g\,e^{s}$ beside $\phi(q) \cdot \phi(k)$. In (13.4) the best near word always
# counts $g$, whether it fits or not.

# %% [markdown] tags=["exercise"]
# **Build 13** (difficulty 3, 10 min; builds on eq. (13.4)). Write `window_and_rest(q, k, v, phi_q, phi_k, w, g)` for
# one head of the decoder, with a loop over $t$. `q`, `k` are $(T, d_h)$, `v` is $(T, d_v)$, features $(T, R)$; return
# $(T, d_v)$. The window holds the newest $w$ positions, $t$ included; $w$ may be 0.
#
# <details><summary>Hint</summary>
#
# With `near = max(0, t - w + 1)` the window is `near:t + 1` and the rest `:near`. Numerator and denominator
# differ only in $v$: compute all shares first.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def window_and_rest(q, k, v, phi_q, phi_k, w, g):
    """Return eq. (13.4) position by position: (T, d_v)."""
    # SOLUTION
    rows = []
    for t in range(len(q)):
        near = max(0, t - w + 1)
        s = k[near : t + 1] @ q[t] / q.shape[1] ** 0.5
        shares = phi_k[: t + 1] @ phi_q[t]
        shares = torch.cat([shares[:near], g * (s - s.max()).exp()]) if w else shares
        rows.append(shares @ v[: t + 1] / shares.sum())
    return torch.stack(rows)


# %% tags=["agreement", "nbval-check-output"]
window_and_rest = checks.check_window_and_rest.hand_on(window_and_rest)

from attnlab.seeding import torch_generator

T, place = 9, ("decoder_self", 0)
x = torch.randn(1, T, 32, generator=torch_generator(13, "sentence"))
attention = teacher.decoder[0].self_attention
for w in (0, 1, 3, T):
    student = stand_ins(window=w)[place]  # new: its maps are the teacher's
    q, k, v = (student.in_heads(name, x)[0] for name in ("query", "key", "value"))
    phi_q, phi_k = (student.features(z, side) for z, side in ((q, "query"), (k, "key")))
    g = student.near_gate.sigmoid().flatten() if w else [0.1] * 4
    loops = [window_and_rest(q[h], k[h], v[h], phi_q[h], phi_k[h], w, g[h]) for h in range(4)]
    fast = student(x)[0]
    torch.testing.assert_close(torch.cat(loops, -1), fast, rtol=1e-4, atol=1e-5)
    far = (fast - attention.heads(x)[0]).abs().max()
    print(f"w = {w}: the loop is the package's; it is attention: {bool(far < 1e-5)}")

# %% [markdown]
# In the encoder near means $|t - s| < w$. At the cross site nothing is near: positions of two
# sentences have no distance. **Play, then answer:** nothing has learnt here; $g = 0.1$ and the features are as
# built. How loud is the window? How wide must it be until the picture is attention's?

# %% tags=["widget", "nbval-ignore-output"]
read = source.encode(live.USUAL)
written = source.translate(read)
one = capture(teacher, collate_pairs([(read, written)]))
words = {"encoder_self": source.decode(read).split(),
         "decoder_self": ["<bos>", *source.decode(written).split()]}  # fmt: skip
draw_window = partial(live.draw_window, teacher, one, stand_ins, words)
presets = [{"window": 2}, {"window": 12}, {"site": "encoder_self", "layer": 1, "window": 4}]
explore(draw_window, presets=presets, **pictures.WINDOW_DIALS)

# %% tags=["nbval-ignore-output"]
for w in (0, 2, 4, 8):
    students = {place: one for place, one in stand_ins(window=w).items() if place[0] != "cross"}
    before = toy.bleu_with(students)
    learn(students, weights, 40)
    after = toy.bleu_with(students)
    gates = [one.near_gate.sigmoid() for one in students.values()] if w else []
    loud = f"; g {min(map(torch.min, gates)):.2f} to {max(map(torch.max, gates)):.2f}" if w else ""
    print(
        f"w = {w}, both self sites: BLEU {before:5.1f} as built, {after:5.1f} after 40 steps{loud}"
    )
print("\nShare of the weight less than 4 positions away, of self-attention:")
of_toy = pd.concat(heads).groupby("site")["near_share"].mean().dropna()
for name, shares in (("toy", of_toy), ("captions", records.near_shares())):
    print(f"{name:>9}:", ", ".join(f"{site} {share:.0%}" for site, share in shares.items()) or "-")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Not loud at all: features of many far words add up to more than $g$ times the window. In our run an untaught window
# is *worse* than none, and a small one still behind after 40 steps: $g$ begins at 0.1 and moves by a few hundredths.
# Only a window over the whole sentence needs no lesson.
#
# </details>
#
# **Doubt.** These sentences are short, most of the weight lies near (last lines), and features alone do well. Where
# a window pays must be read from captions (section 4).
#
# **Takeaway.** One normaliser joins an exact window with features for the rest, at a cost in proportion to the
# length; how loud each part is must be taught.

# %% [markdown]
# ## 4  What to match, and in which order   *(9 min)*
#
# Three lessons, each with more of the model in view:
#
# 1. **weights**: each site alone, eq. (13.3); the study's stage 1 is *the matrix*, the same by squared error;
# 2. **outputs** of the heads, each site alone:
#
# $$ L_\text{outputs} = \frac{\sum_t \lVert \hat y_t - y_t \rVert^2}{\sum_t \lVert y_t - \bar y \rVert^2} \tag{13.5} $$
#
# 3. **tuning**: all stand-ins in place, and the loss of the translation itself; its signal may be references, or
#    the teacher's distribution.
#
# In 1 and 2 a site may read the teacher's stream or the one that earlier stand-ins already made. In 3 everything may
# move, the stand-ins, norms, or *low-rank corrections* of two maps.
#
# Stages cost steps, so a fair race gives each order the *same number* in all.

# %% tags=["widget", "nbval-ignore-output"]
order_guess = predict_first(
    "60 steps in all. Which order writes best on the toy?",
    options=["3 alone", "2, then 3", "1, then 3", "1, 2, then 3"],
)

# %% tags=["nbval-ignore-output"]
import copy

from attnlab.config import TrainConfig
from attnlab.distillation import substitute
from attnlab.training import train_steps


def outputs(student, place, lesson):
    """Return eq. (13.5) over the real positions."""
    is_real = ~lesson.padding
    y, y_hat = lesson.targets[is_real], student(lesson.inputs, **lesson.context)[is_real]
    return (y_hat - y).square().sum() / (y - y.mean(0)).square().sum()


def tune(students, n_steps, lr=3e-3):
    """Let stand-ins learn from references, in a copy of the teacher that does not move."""
    model, plan = copy.deepcopy(teacher), TrainConfig(n_steps=n_steps, lr=lr, warmup_steps=5)
    batches = PairBatches(pairs, max_tokens=500, seed=1).starting_at(0)
    with substitute(model, students):
        for _ in train_steps(model, batches, config=plan):
            pass


STAGES = {1: partial(learn, loss=weights), 2: partial(learn, loss=outputs, seed=2), 3: tune}

# %% tags=["nbval-ignore-output"]
N_STEPS, rows = 60, []
ORDERS = {"3 alone": (3,), "2 alone": (2,), "1 alone": (1,), "2, then 3": (2, 3), "1, then 3": (1, 3),
          "1, 2, then 3": (1, 2, 3)}  # fmt: skip
for label, order in ORDERS.items():
    students = stand_ins()
    for stage in order:
        STAGES[stage](students, n_steps=N_STEPS // len(order))
    rows.append({"label": label, "bleu": toy.bleu_with(students)})
table = pd.DataFrame(rows)
show(pictures.orders(table, teacher=whole))
best = table.set_index("label")["bleu"].drop(["2 alone", "1 alone"]).idxmax()
print(order_guess.verdict(truth=best))

# %% [markdown]
# One seed, one toy, one rate for each stage (in 3 a third as high; there the body stays). Published: at equal tokens 2
# then 3 far above either alone, 1 a small plus (MOHAWK).
#
# On captions the study `replaced` varies a **recipe** at equal target tokens: linear attention at all sites,
# features of both signs, a window of 4 at the self sites; stage 2 for a sixth of the steps, then 3 with references
# and teacher half and half, everything free. One ingredient changes at a time (other features have no window, too;
# *state space* and *gated delta net* keep a table that fades, notebook 10).
#
# **Predict:** which one is missed most?

# %% tags=["nbval-ignore-output"]
show(pictures.recorded_ablation())

# %% [markdown]
# Each row is over the recipe's BLEU, on the same sentences and seeds: that two scores' intervals overlap would decide
# nothing. Three seeds are judged (section 8), hollow ones by nothing yet. A row of an ablation is not a law either: what is missed beside all others may be needless where something else is missing too.
#
# **Check yourself.** Why must stages be compared at equal *total* tokens, and not each with as many as it had?
#
# <details><summary>Answer</summary>
#
# Else three stages have three times the lessons, and "the order helps" may mean "longer helps".
#
# </details>
#
# **Takeaway.** On this toy matching first, then tuning together was best at 60 steps; count all lessons before
# comparing.

# %% [markdown]
# ## 5  How many must stay, and what it costs   *(3 min)*
#
# Perhaps one layer of attention repairs what all stand-ins together lose. The study plans three such points, a
# quarter and half of cross, half of all: the layers whose swap costs most keep their look-ups. The picture shows
# what is recorded.
#
# And the price: a stand-in keeps a table of fixed size, where attention keeps every key and value. With
# short sentences that wins nothing; the question is from which length on.

# %% tags=["nbval-ignore-output"]
spans = records.spans(captions := records.recorded())
show(pictures.kept(records.kept(spans)))

# %% tags=["nbval-ignore-output"]
from attnlab.studies.lengths import length_table

show(pictures.by_length(length_table()))

# %% [markdown]
# **Check yourself.** A head has width $d_h = 32$, features of both signs ($R = 2 d_h$) and a window of 4. How many numbers
# does it keep after $T$ tokens, and from which $T$ on fewer than attention?
#
# <details><summary>Answer</summary>
#
# Attention keeps $2 d_h T$ numbers, the table $R\,(d_h + 1) = 2112$, the window $2 d_h w = 256$ more: fewer from 38
# tokens on. A window moves that by its own length.
#
# </details>
#
# **Takeaway.** A table pays with length; at the length of captions the reason to replace attention is to learn
# what it does.

# %% [markdown]
# ## 6  Where attention pays   *(4 min)*
#
# Translation is one task. Others ask for other look-ups: a headline copies words of a text; a reply says what
# is asked for; a line of code renames and closes brackets; SCAN and COGS ask for structure that was never seen
# in this combination. Each has a *trivial* answer (the first words, a copy, the most frequent target, that of the
# nearest source): the kept share of eq. (9.2), with the best of these in the place of the controls. (Notebook 14
# judges the plain ratio to the baseline; where the trivial answer scores near 0 they agree.)
#
# **Predict:** at which site is attention needed most, and does that differ from task to task?

# %% tags=["nbval-ignore-output"]
show(pictures.recorded_tasks())

# %% tags=["nbval-ignore-output"]
display(Markdown(records.tasks_markdown(records.tasks())))

# %% [markdown]
# *Baseline*: the teacher, trained on as long unless that spoilt it. *Nets*: ALR M, a net per query at cross; they begin
# with nothing, the recipe with the teacher's maps. *chrF* counts runs of letters that match. *Scratch* never had a
# teacher, *untuned* was only taught. Weak teachers stand in the table alone.
#
# Compare the two tests of COGS: sentences like those of the lessons hide what new structures show. Much of that loss
# need not be attention's: one seed *from scratch* without it keeps more than the tuned recipe. Nets at all sites fail
# the ordinary test as well.
#
# **Takeaway.** "Attention can be replaced" leaves three things open: at which site, in which task, of how good a
# teacher.

# %% [markdown]
# ## 7  Flip the switches   *(7 min)*
#
# Two sets of stand-ins learn, 60 steps by weights and 60 by outputs: linear everywhere, and with a window
# of 4 at both self sites. Each learnt alone, beside the teacher's stream, so each site can be switched
# by itself.

# %% tags=["nbval-ignore-output"]
toy.stand_ins = {"linear": stand_ins(), "window": stand_ins(window=4)}
for name, students in toy.stand_ins.items():
    for stage in (1, 2):
        STAGES[stage](students, n_steps=60)
    single = {site: toy.bleu(**{site: name}) for site in SITES}
    said = ", ".join(f"{site} {bleu:.1f}" for site, bleu in single.items())
    print(f"{name:>9}, one switch: {said}; all: {toy.bleu_with(students):.1f}")
print(f"attention: {whole:.1f} (BLEU)")

# %% [markdown]
# **Play, then answer.** The lines above have single switches. Do costs of two sites add up? Does the window help on
# its own, or only in company? (On captions, a combination that was not trained says so.)

# %% tags=["widget", "nbval-ignore-output"]
draw_switches = partial(live.draw_switches, toy, captions)
presets = [
    {"cross": "linear"},
    {"encoder_self": "window", "decoder_self": "window", "cross": "linear"},
    {"encoder_self": "linear", "decoder_self": "linear", "cross": "linear"},
]
explore(draw_switches, presets=presets, **pictures.SWITCH_DIALS)

# %% [markdown]
# <details><summary>Answer</summary>
#
# In our run one self site costs next to nothing with features alone, cross most; all three cost more than the sum: a
# later site hears what an earlier one spoiled. The window wins nothing there.
#
# </details>
#
# Last, the sentence. Type one in the toy language (the words of notebook 07), or, where the weights of captions
# and their vocabulary are on this machine, a German one. **Which word goes wrong first** when a site is
# switched? The panel below runs by itself, with notebook 09's linear attention.
#
# **Takeaway.** A number says how much is lost; a sentence says what: an ending, a word, or the thread.

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import play

playground = live.Playground(toy)
all_linear = dict.fromkeys(pictures.SITES, "linear")
play(
    playground.write,
    presets=[
        {"sentence": toy.first_changed(**all_linear), **all_linear},
        {"sentence": "three old dog see the small tree", "cross": "linear"},
    ],
    words=playground.say,
    sentence=("Sentence", live.USUAL, "In the toy language, or German where captions are here"),
    **pictures.SWITCH_DIALS,
)

from attnlab.web import take_attention_out

take_attention_out()

# %% [markdown]
# ## 8  What may be concluded   *(3 min)*
#
# Below is what the records of captions say, computed as you run this; a row that was not trained is not judged. The
# verdict on claim R10, that all attention can be replaced, stands in [notebook 14](14_what_we_found.ipynb), by its rule: chosen on validation, three
# seeds, an interval over seeds and sentences.
#
# **Takeaway.** "Replaced" is a share of a teacher's score, with its interval, at named sites: say all of it.

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import wrapped
from attnlab.teach import show_quiz

for said in records.conclusions(spans):
    print(wrapped(said))
quiz = show_quiz("attention_after_training")

# %% [markdown]
# ## Summary
#
# - You **derived** linear attention: a product of features can be pulled out of the sum, eq. (13.2).
# - You **explained** by entropy which heads ask for spiky features (picture in section 2).
# - You **computed** a window and features under one normaliser; your loop is the package's layer, and with
#   $w \ge T$ the teacher's attention.
# - You **compared** orders of lessons at 60 steps each (picture in section 4).
# - You **judged** ingredients, layers, tasks and sites from records (sections 4 to 6), as far as they are
#   recorded.

# %% [markdown]
# ## What we did not show
#
# - Live: one seed of one toy, whose sentences are short; captions are short, too.
# - A window whose gate can move: $g$ begins at 0.1; in the stand-ins of captions that came along it ends between
#   0.09 and 0.16.
# - Each arm at its best rate: all have one before the swap and one after.
# - Large language models, for which most of these methods were made; a window is a small part of their context.
# - Convolutions, norm and gate behind the table, as published successors have.
#
# ## Notation used here
#
# $A$, $\hat A$: weights of teacher and stand-in; $\bar y$: the mean output; $R$: features, of both signs $2r$.

# %% tags=["nbval-check-output"]
from attnlab.teach import show_notation

keys = "time d_head query key value out attention_weights feature_map window near_gate heads"
show_notation([*keys.split(), "student_output", "bleu", "kept_share"])

# %% [markdown]
# ## Sources
#
# - Linear attention: Katharopoulos et al., [arXiv:2006.16236](https://arxiv.org/abs/2006.16236). SSD: Dao and Gu,
#   [arXiv:2405.21060](https://arxiv.org/abs/2405.21060). Gated delta net: Yang et al.,
#   [arXiv:2412.06464](https://arxiv.org/abs/2412.06464).
# - T2R: Kasai et al., [arXiv:2103.13076](https://arxiv.org/abs/2103.13076): swap, then tune, with learnt ReLU.
# - Hedgehog: Zhang et al., [arXiv:2402.04347](https://arxiv.org/abs/2402.04347): spiky and monotone features, taught by
#   the weights.
# - LoLCATs: Zhang et al., [arXiv:2410.10254](https://arxiv.org/abs/2410.10254): window and features under one normaliser;
#   outputs first, then low-rank tuning.
# - MOHAWK: Bick et al., [arXiv:2408.10189](https://arxiv.org/abs/2408.10189): matrix, outputs, then the whole, at equal
#   totals.
# - SCAN: [arXiv:1711.00350](https://arxiv.org/abs/1711.00350); COGS: [arXiv:2010.05465](https://arxiv.org/abs/2010.05465).
#
# Previous: [12 Scaling and other tasks](12_scaling_and_other_tasks.ipynb). Next:
# [14 What we found](14_what_we_found.ipynb).
