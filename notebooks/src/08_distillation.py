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
# # 08 · Distillation: nets that learn what attention does
#
# A trained translator shows a small net what its attention does, sentence after sentence. You see what is
# taught, to whom, how well it is learned, and what a small error is worth; and you build a lesson yourself.
#
# **Minutes:** 63. **Prerequisites:** notebook 07, sections 2 and 3; matrix products.
#
# Previous: [07 Translation](07_translation_teacher.ipynb). Next:
# [09 Replacing attention](09_replacing_attention.ipynb).

# %% [markdown]
# **Learning goals.** After this notebook you can
#
# - explain what ALR, ASLR, ALRR and ELR replace and what they keep,
# - compute such a net by hand, and its number of weights at each published size,
# - derive running sums that give a decoder net for all prefixes at once, and prove them equal to a loop,
# - decide by an experiment whether a residual sum or a rank limits a student,
# - predict where a small error will not give a good translation.

# %% tags=["setup"]
import torch

from attnlab.chapters.distillation import checks, live, pictures
from attnlab.runmode import banner, is_fast
from attnlab.show import explore, show

banner(minutes=63)

# %% [markdown]
# ## 1  Teacher and student   *(5 min)*
#
# To replace a part of a trained model we need not train a model again: run it on many sentences, write down what
# the part reads and writes, and fit a net to that. The model is the **teacher**, the net a **student**.
#
# | name | stands for | what it means |
# |---|---|---|
# | ALR | *Attention Layer Replacement* | a net in place of the look-up |
# | ASLR | the same, with *Separate heads* | a net for each head |
# | ALRR | the same, with *Residual* | the net also makes the residual sum |
# | ELR | *Encoder Layer Replacement* | a net in place of a whole encoder layer |
# | $W$ | all numbers of a sentence | slots times width, $\ell d$ |
# | XS, S, M, L, XL | sizes of a net | $W/256$, $W/128$, $W/8$, $W/2$, $2W$ hidden units |
# | layouts | what a net may read | encoder: all slots; decoder: the prefix; cross: see section 3, notebook 09 |
# | LN | *layer norm* | mean 0, deviation 1, then a gain and a shift |
# | $\rho$ | relative error | 0: the teacher; 1: a constant |
#
# At a site the teacher reads $x_1 \dots x_T$ and writes the joined head outputs $y_t \in \mathbb{R}^d$;
# $W_o$ turns them into the **update** of the residual stream:
#
# $$ x_t \leftarrow x_t + y_t W_o, \qquad (y_1, \dots, y_T) = f\bigl(\mathrm{norm}(x_1), \dots,
#    \mathrm{norm}(x_T)\bigr) \tag{8.1} $$
#
# A *hook* is a function that a module calls with what it reads or writes; `capture` hangs hooks at all sites. (The
# published code first writes all of it to disk, by our estimate 147 GB for attention alone.)

# %% tags=["nbval-ignore-output"]
from attnlab.config import PAD
from attnlab.distillation import METHODS, REPLACES, StudentSpec, build_student, capture
from attnlab.studies.arms import SITE_NAMES
from attnlab.training import collate_pairs

teacher, source = live.toy_teacher(n_steps=600 if is_fast() else 3000)
read, written = collate_pairs(source.sample_pairs(300, stream="validation"))
found = capture(teacher, (read, written))  # every site and layer, in one pass
layer, seen = teacher.encoder[0], []
hook = layer.self_attention.out.register_forward_pre_hook(lambda _, read: seen.append(read[0]))
teacher.encode(read)
hook.remove()
assert torch.equal(found["encoder_self", 0].targets, seen[0])  # what W_o reads
for (site, number), one in found.items():
    print(f"{SITE_NAMES[site]:>12}, layer {number + 1}: reads and writes {tuple(one.inputs.shape)}")

# %% [markdown]
# How wrong is a student that says $\hat y_t$? We measure what reaches the stream, against the best constant
# $\bar y$ (the mean over all tokens): its **relative error** is
#
# $$ \rho = \frac{\sum_t \lVert (\hat y_t - y_t) W_o \rVert^2}
#               {\sum_t \lVert (y_t - \bar y) W_o \rVert^2} \tag{8.2} $$
#
# **Takeaway.** A part can be taught alone, from what it reads and writes; the error that counts is
# relative to the update of the stream. The teacher has 0, a constant 1, a net that says zero even more.

# %% [markdown]
# ## 2  Four ways to cut   *(3 min)*
#
# Where does the replaced part begin and end? An encoder layer in full (`mlp` is the channel mixer):
#
# $$ x' = x + f(\mathrm{norm}\,x)\, W_o, \qquad x'' = x' + \mathrm{mlp}(\mathrm{norm}\,x') \tag{8.3} $$
#
# The study cuts it in four ways. Which cut leaves the student least to do, which one most?

# %% tags=["agreement", "nbval-check-output"]
show(pictures.methods())
lesson_of = {m: capture(teacher, (read, written), method=m)["encoder_self", 0] for m in METHODS}
x = lesson_of["elr"].inputs
normed = layer.self_attention_norm(x)
y = layer.self_attention.heads(normed, source_padding=read == PAD)
x_1 = x + layer.self_attention.out(y)  # eq. (8.3)
x_2 = x_1 + layer.mlp(layer.mlp_norm(x_1))
want = {"alr": (normed, y), "aslr": (normed, y), "alrr": (x, x_1), "elr": (x, x_2)}
for method, pair in want.items():
    torch.testing.assert_close(lesson_of[method][:2], pair)
    print(f"{method.upper()} replaces {REPLACES[method]}")

# %% [markdown]
# ASLR has the same lessons as ALR; in the decoder and at the cross site only ALR exists.
#
# **Takeaway.** ALR and ASLR keep the stream beside the net and can only add something wrong; ALRR and ELR take
# the stream through it, and what the net cannot hand on is gone. Section 6 measures what that costs.

# %% [markdown]
# ## 3  The net, and what it costs   *(16 min)*
#
# A student knows no words, only **slots**: $\ell$ places for $d$ numbers each. Tokens stand in the first $T$, zeros
# in the rest, all laid out as one long vector:
#
# $$ z = (x_1, \dots, x_T, 0, \dots, 0) \in \mathbb{R}^{W}, \qquad W = \ell d \tag{8.4} $$
#
# $$ (\hat y_1, \dots, \hat y_\ell) = \mathrm{LN}\bigl(\mathrm{LeakyReLU}(\mathrm{LN}(z)\, W_1 + b_1)\bigr)\,
#    W_2 + b_2 \tag{8.5} $$
#
# with $W_1 \in \mathbb{R}^{W \times h}$, $W_2 \in \mathbb{R}^{h \times W}$ and $h$ hidden units;
# results at empty slots are set to zero. LeakyReLU multiplies what is negative by 0.01. The first LN has one mean
# and one deviation for *all* $W$ numbers, zeros included; its gain is $\gamma$, its shift $\beta$.
#
# By hand: two slots of one number, the "tokens" 3 and 1, gains 1, shifts and biases 0.
#
# | step | value |
# |---|---|
# | LN of $z = (3, 1)$: mean 2, deviation 1 | $(1, -1)$ |
# | times $W_1 = \begin{pmatrix}1&0\\0&1\end{pmatrix}$, LeakyReLU | $(1, -0.01)$ |
# | LN again: mean 0.495, deviation 0.505 | $(1, -1)$ |
# | times $W_2 = \begin{pmatrix}2&1\\1&3\end{pmatrix}$ | $(1, -2)$ |

# %% [markdown] tags=["exercise"]
# **Exercise 8.1** (difficulty 2, 8 min; builds on eqs. (8.4), (8.5)). Write the net of ALR. `x` is
# $(\ell, d)$: the first `n_words` rows are words, the others hold *anything*. `weights` has `gain` and
# `shift` $(W,)$, `w_1` $(W, h)$, `b_1`, `hidden_gain` and `hidden_shift` $(h,)$, `w_2` $(h, W)$, `b_2`
# $(W,)$. Return $(\ell, d)$. You may use `checks.norm(z, gain, shift)`, LN over a whole vector.
#
# <details><summary>Hint</summary>
#
# Two masks: one before, one after. `flatten()` goes along the rows, as eq. (8.4) does; `view_as(x)` undoes it.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def alr_net(x, n_words, weights):
    """Return what a student says at each slot: x (l, d) -> (l, d)."""
    # SOLUTION
    is_word = (torch.arange(len(x)) < n_words)[:, None]
    z = checks.norm((x * is_word).flatten(), weights["gain"], weights["shift"])
    h = torch.nn.functional.leaky_relu(z @ weights["w_1"] + weights["b_1"], 0.01)
    h = checks.norm(h, weights["hidden_gain"], weights["hidden_shift"])
    return (h @ weights["w_2"] + weights["b_2"]).view_as(x) * is_word


# %% tags=["agreement", "nbval-check-output"]
from attnlab.distillation.naive import decoder_naive, encoder_naive
from attnlab.seeding import torch_generator

alr_net = checks.check_alr_net.hand_on(alr_net)
page = alr_net(torch.tensor([[3.0], [1.0]]).double(), 2, checks.hand_weights())
print("by hand (1, -2); your net:", [round(value, 3) for value in page.flatten().tolist()])
slots = {"max_len": 7, "d_model": 6, "n_heads": 3}
x = torch.randn(2, 5, 6, generator=torch_generator(0, "data"), dtype=torch.float64)
padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
for method in ("alr", "aslr"):
    spec = StudentSpec(method=method, width=5)
    net = build_student(spec, **slots, generator=torch_generator(0, "init")).double()
    slow = encoder_naive(net, x, source_padding=padding)
    torch.testing.assert_close(net(x, source_padding=padding), slow)
print("ALR and ASLR: package = eq. (8.5)")

# %% [markdown]
# Count: $W_1$ and $W_2$ have $Wh$ each; the first norm $2W$; the output bias $W$; $b_1$ and the second
# norm $3h$. A head of ASLR writes $O = W/H$ numbers; a decoder net $d$ at a time (section 5). The published cross net
# reads source *and* target, while it learns all of both: later words, too (notebook 09 comes back to that).
#
# $$ \begin{aligned} \text{ALR, ALRR, ELR} &: 2Wh + 3W + 3h \\
#    \text{ASLR} &: H\,(Wh + hO + 2W + 3h + O) \\
#    \text{decoder self} &: Wh + hd + 2W + 3h + d \\
#    \text{cross} &: 3Wh + 5W + 3h \end{aligned} \tag{8.6} $$
#
# A head of ASLR has other widths, $W/32, W/16, W/8, W/4, W/4$; cross twice the table's. Published:
# $\ell = 50$, $d = 128$, $H = 8$, so $W = 6400$. **Predict:** $W_q$, $W_k$, $W_v$ of one layer have 49,152 weights;
# how many times as many has ALR L, which replaces them? And what do twice as many slots change?

# %% tags=["agreement", "nbval-check-output"]
d, W = 128, 50 * 128
h, counts = W // 2, live.count_table()  # size L, eq. (8.6)
print(counts.map("{:,}".format).to_string())
assert counts.loc["ALR, ALRR, ELR", "L"] == 2 * W * h + 3 * W + 3 * h
assert counts.loc["Decoder self, ALR", "L"] == W * h + h * d + 2 * W + 3 * h + d
print(f"ALR L / attention = {counts.loc['ALR, ALRR, ELR', 'L'] / (3 * d * d):.0f}")

# %% tags=["widget", "nbval-ignore-output"]
explore(pictures.weights, presets=[{}, {"max_len": 200}], **pictures.WEIGHTS_DIALS)

# %% [markdown]
# With twice as many slots all nets have four times the weights, since $h$ grows with $W$; attention has no slots.
# Sizes are *not matched* across methods: ASLR XS has 34 times the weights of ALR XS. A 51st token has no slot.
#
# **Takeaway.** One hidden layer over a whole padded sentence; at the published sizes ALR has 7 (XS) to 3,300 (XL)
# times the weights of the maps that it replaces.

# %% [markdown]
# ## 4  A student, taught in the open   *(14 min)*
#
# A lesson is what one site read and wrote for 64 sentences. The loss is the squared error over the variance of
# what the teacher wrote, padding left out; the rate of Adam falls to zero. That is all of distillation:


# %% tags=["nbval-ignore-output"]
def fit(student, lessons, n_steps=300, lr=3e-3):
    """Teach a student in place; return its loss at each step."""
    adam, losses = torch.optim.Adam(student.parameters()), []
    for step in range(n_steps):
        adam.param_groups[0]["lr"] = lr * (1 - step / n_steps)
        lesson = lessons[step % len(lessons)]
        is_word = ~lesson.padding
        y, y_hat = lesson.targets, student(lesson.inputs, **lesson.context)
        loss = (y_hat - y)[is_word].square().mean() / y[is_word].var()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses


pairs = source.sample_pairs(6400)
groups = [collate_pairs(pairs[start : start + 64]) for start in range(0, len(pairs), 64)]
shelf = {m: [capture(teacher, group, method=m) for group in groups] for m in ("alr", "alrr")}

sizes = {"max_len": teacher.config.max_len, "d_model": 32, "n_heads": 4}
student = build_student(StudentSpec(size="m"), **sizes, generator=torch_generator(0, "init"))
losses = fit(student, [each["encoder_self", 0] for each in shelf["alr"]])
print(f"ALR M, {student.n_weights:,} weights: loss {losses[0]:.2f}, in the end {losses[-1]:.2f}")
assert losses[-1] < 0.3

# %% [markdown]
# Here $\ell = 16$, $d = 32$: $W = 512$, and M has 64 hidden units. Now one for each layer, three kinds: taught,
# measured by $\rho$ on 300 other sentences, then *used*: swapped in while 300 test sentences are translated. The
# yardstick is a control that learned nothing, the constant $\bar y$. **Predict:** does ALR XS, with two hidden
# units, translate better?

# %% tags=["nbval-ignore-output", "agreement"]
import pandas as pd

from attnlab.distillation import build_controls, build_students, collect_activations

shelf["aslr"], rows = shelf["alr"], {}  # the same lessons
desk = {"source": source, "held_out": (read, written)}


def take_on(name, **options):
    """Teach one student of a kind for each layer of its site, put them to use, return them."""
    spec = StudentSpec(**options)
    nets = build_students(teacher, spec=spec, seed=0)
    for key, net in nets.items():
        fit(net, [each[key] for each in shelf[spec.method]])
    rows[name] = live.put_to_use(teacher, nets, spec=spec, **desk)
    return nets


lessons = collect_activations(teacher, groups, spec=StudentSpec())
mean = build_controls("mean", teacher=teacher, site="encoder_self", activations=lessons)
rows["teacher"] = live.put_to_use(teacher, {}, **desk)
rows["control: mean"] = live.put_to_use(teacher, mean, spec=StudentSpec(), **desk)
take_on("ALR XS", size="xs")
take_on("ALR M", size="m")
take_on("ASLR XS", method="aslr", size="xs")
print(pd.DataFrame(rows).T.round(2))
assert abs(rows["control: mean"]["error"] - 1) < 0.05
assert rows["ALR M"]["BLEU"] > rows["control: mean"]["BLEU"] + 20
assert rows["ALR M"]["error"] < 0.6 * rows["ALR XS"]["error"], "width helps"

# %% [markdown]
# Two hidden units can hardly tell sentences apart: less error than a constant, but no translation. ASLR "XS" has 13
# times the weights. Look at the control before you praise a student. (That it does badly is no proof that the
# look-up is *needed*: the rest of the model has never read such a stream.)

# %% [markdown] tags=["exercise"]
# **Build 8** (difficulty 3, 10 min; builds on `fit`). Attention is not the only part that can be taught. Write a
# lesson without a shelf, where the teacher answers at once: `teach(teacher, student, batches, lr)` for two modules
# that map $x$ to $y$. Make one `torch.optim.Adam` for the student; for each `x` take one step along the mean squared
# error over the variance of the teacher's answers, `y.var(unbiased=False)`. The teacher stays as it is, and
# answers as in use: without dropout. Return the errors, each before its step.
#
# <details><summary>Hint</summary>
#
# `teacher.eval()`, and `torch.no_grad()` around its answer. Whose parameters does the optimiser get?
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def teach(teacher_net, student, batches, lr: float) -> list[float]:
    """Fit a student to a teacher by one step a batch; return the errors."""
    # SOLUTION
    teacher_net.eval()
    optimizer, errors = torch.optim.Adam(student.parameters(), lr=lr), []
    for x in batches:
        with torch.no_grad():
            y = teacher_net(x)
        error = (student(x) - y).square().mean() / y.var(unbiased=False)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    return errors


# %% tags=["nbval-ignore-output", "agreement"]
from torch import nn

from attnlab.seeding import seeded

teach = checks.check_teach.hand_on(teach)
x_1 = torch.cat([each["encoder_self", 0].targets.flatten(0, 1) for each in shelf["alrr"]])
inputs = layer.mlp_norm(x_1)[torch.randperm(len(x_1), generator=torch_generator(0, "order"))]
with seeded(torch_generator(0, "narrow")):  # an eighth of the channel mixer's width
    narrow = nn.Sequential(nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 32))
falls = teach(layer.mlp, narrow, inputs.split(128)[:300], lr=0.01)
last = sum(falls[-20:]) / 20
assert last < 0.8
whole, layer.mlp = layer.mlp, narrow
bleu = live.put_to_use(teacher, {}, **desk)["BLEU"]
layer.mlp = whole
n, n_all = (sum(w.numel() for w in net.parameters()) for net in (narrow, whole))
print(f"{n_all:,} weights in {n:,}: error {falls[0]:.2f} to {last:.2f}; in use BLEU {bleu:.1f}")

# %% [markdown]
# **Takeaway.** Distillation is a loop of ten lines, for any part of a model. Before a method is called better: the
# same lessons, budget and rate (or the best of each), the number of weights, and a control that learned nothing.

# %% [markdown]
# ## 5  The decoder: every prefix at once   *(15 min)*
#
# In the decoder position $t$ may not read what comes after it. The study feeds one net every prefix, with the
# later slots empty:
#
# $$ \hat y_t = \mathrm{net}(x_1, \dots, x_t, 0, \dots, 0) \in \mathbb{R}^d \tag{8.7} $$
#
# Causal by construction; but its code runs $\ell = 50$ passes a layer. Are they needed? The first layer of
# (8.5) is a *sum over slots*, and its norm needs two sums more. With $w_j \in \mathbb{R}^{d \times h}$, the rows of
# $W_1$ of slot $j$:
#
# $$ s_t = \sum_{j \le t} (\gamma_j \odot x_j)\, w_j, \qquad m_t = \frac1W \sum_{j \le t} \sum_i x_{ji},
#    \qquad v_t = \frac1W \sum_{j \le t} \lVert x_j \rVert^2 \tag{8.8} $$
#
# After the norm, number $i$ of the long vector is $(z_i - m_t)/\sqrt{v_t - m_t^2 + \epsilon}$ times
# $\gamma_i$, plus $\beta_i$, with $\epsilon = 10^{-5}$. Send that through $W_1$ and sort:
#
# $$ \mathrm{LN}(z)\, W_1 + b_1 = \frac{s_t - m_t\, g}{\sqrt{v_t - m_t^2 + \epsilon}} + c, \qquad
#    g = \sum_{j=1}^{\ell} \gamma_j\, w_j, \quad c = \sum_{j=1}^{\ell} \beta_j\, w_j + b_1 \tag{8.9} $$
#
# $g$ and $c$ hold no token: compute them once, over *all* slots: after the norm none is zero.

# %% [markdown] tags=["exercise"]
# **Exercise 8.2** (difficulty 3, 10 min; builds on eqs. (8.8), (8.9)). Write the first layer for every
# prefix, without a loop over prefixes: `x` is $(T, d)$ with $T \le \ell$; `gain` and `shift` are
# $(\ell, d)$, `w_1` is $(\ell, d, h)$, `b_1` is $(h,)$. Return $(T, h)$, the values of eq. (8.9).
#
# <details><summary>Hint</summary>
#
# `torch.einsum("td,tdh->th", a, b)` multiplies each token with the matrix of its own slot. `cumsum(0)`
# makes running sums. What is $W$ in terms of `gain`?
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def prefix_hidden(x, gain, shift, w_1, b_1):
    """Return the first layer's values for every prefix: (T, d) -> (T, h)."""
    # SOLUTION
    T, W = len(x), gain.numel()
    s = torch.einsum("td,tdh->th", gain[:T] * x, w_1[:T]).cumsum(0)
    m = x.sum(1).cumsum(0)[:, None] / W
    v = x.square().sum(1).cumsum(0)[:, None] / W
    g = torch.einsum("jd,jdh->h", gain, w_1)
    c = torch.einsum("jd,jdh->h", shift, w_1) + b_1
    return (s - m * g) / (v - m.square() + 1e-5).sqrt() + c


# %% tags=["agreement", "nbval-check-output"]
prefix_hidden = checks.check_prefix_hidden.hand_on(prefix_hidden)
spec = StudentSpec(site="decoder_self", width=5)
net = build_student(spec, **slots, generator=torch_generator(1, "init")).double()
x = torch.randn(3, 7, 6, generator=torch_generator(1, "data"), dtype=torch.float64)
x.requires_grad_()
by_sums, by_loop = net(x), decoder_naive(net, x)  # running sums; eq. (8.7), a loop of 7 passes
torch.testing.assert_close(by_sums, by_loop)
inputs = [x, *net.parameters()]
gradients = (torch.autograd.grad(y.square().sum(), inputs) for y in (by_sums, by_loop))
torch.testing.assert_close(*gradients)
first = prefix_hidden(x[0], *checks.first_layer(net))
torch.testing.assert_close(checks.rest_of_net(net, first), by_sums[0])
state = net.initial_state(batch_size=3)
for t, x_t in enumerate(x.unbind(1)):  # token by token
    y_t, state = net.step(x_t, state)
    torch.testing.assert_close(y_t, by_sums[:, t])
kept = sum(part[0].numel() for part in state.sums)
assert 50 * (W * h + h * d) / (W * h + 50 * h * d) == 25.5  # eq. (8.10) at L
print(f"yours = package = loop = stream; state after 7 tokens: {kept} numbers, h = {net.width}")

# %% [markdown]
# The work for a sentence of $\ell$ tokens, in multiplications of the two maps; at the published L 25.5 times less:
#
# $$ \text{loop: } \ell\,(Wh + hd), \qquad \text{sums: } Wh + \ell h d \tag{8.10} $$
#
# **Takeaway.** The causal net needs no loop: three running sums give every prefix exactly. $h + 2$ numbers are its
# whole memory, where attention keeps $2td$: a linear memory with a nonlinearity after it.

# %% [markdown]
# ## 6  Residual, or rank?   *(4 min)*
#
# The study found small ALRR worse than ALR. Does the residual count by itself? But ALRR must *hand the
# stream on*: it says $a W_2 + b_2$, with $h$ normed numbers $a$. For sentences of one length $T$ that is a flat space
# of at most $h - 1$ dimensions, while $x'$ may fill $T d$. *Whatever the training*,
#
# $$ \rho \;\ge\; \frac{\sum_{k \ge h} \lambda_k}{\sum_t \lVert u_t - \bar u \rVert^2}, \qquad
#    u_t = x'_t - x_t \tag{8.11} $$
#
# with the squared singular values $\lambda_1 \ge \lambda_2 \ge \dots$ of the sentences' vectors $(x'_1 \dots x'_T)$
# less their mean: what the best plane misses. A **skip** around the net separates the readings: add its input
# (identity; $\lambda_k$ are then those of $u$), or a linear map of it. **Predict:** to which share does the error
# fall at M: nine tenths, a third, a tenth?

# %% tags=["nbval-ignore-output"]
skips = {"ALRR M": "none", "ALRR M, identity skip": "identity", "ALRR M, linear skip": "linear"}
skipping = {name: take_on(name, method="alrr", size="m", skip=skip) for name, skip in skips.items()}
print(pd.DataFrame(rows).T.tail(3).round(2))
fall = rows["ALRR M, identity skip"]["error"] / rows["ALRR M"]["error"]
print(f"share that is left: {fall:.2f}")
assert fall < 0.6, "a skip alone takes most of the error away"


# %% tags=["agreement", "nbval-ignore-output"]
def least(z):
    """Return what the best plane of h - 1 dimensions misses, for h = 1, 2, ...: eq. (8.11)."""
    energy = torch.linalg.svdvals((z - z.mean(0)).double().flatten(1)).square()
    return energy.flip(0).cumsum(0).flip(0)


site = "encoder_self", 1
x, y = live.same_length((each[site] for each in shelf["alrr"]), length=7)  # (n, 7, d)
u = y - x
spread = (u - u.mean((0, 1))).double().square().sum()
floors = {"writing the stream": least(y) / spread, "with the identity": least(u) / spread}
errors = {name: float((nets[site](x) - y).double().square().sum().detach() / spread)
          for name, nets in skipping.items()}  # fmt: skip
(stream, update), (without, identity, _) = floors.values(), errors.values()
assert without > stream[63], "eq. (8.11) holds for the stream at h = 64"
assert stream[63] > identity > update[63], "and for the update"
one = pictures.bottleneck(floors, errors=errors, width=64)
show(one.saying(f"{one.words} Layer 2, {len(x)} sentences of 7 words, one teacher."))

# %% [markdown]
# With the identity the student lies below the solid line: *no* net of this width without a skip gets there, however
# long it is taught. So rank is a limit. But the student without lies far above its line: against the stream, which
# it writes, it is about as good as ALR M. Only, the stream has many times the spread of its update.
#
# **Takeaway.** Rank is one limit, scale another: the same relative error of something larger. A skip lifts both.

# %% [markdown]
# ## 7  What is a small error worth?   *(6 min)*
#
# This workbook's study does the same with several seeds and larger budgets. First the sizes in the encoder; grey
# lines are controls. Then all sites, and here two nets of the decoder: if a small error meant a good translation,
# the points would fall on one line. **Predict:** how many sizes of ALR lie above the best grey line?

# %% tags=["nbval-ignore-output"]
arms = live.recorded_arms()
show(pictures.sizes(arms))

# %% tags=["nbval-ignore-output"]
show(pictures.error_against_score(arms))
take_on("decoder S", site="decoder_self", size="s")
take_on("decoder M", site="decoder_self", size="m")
print("This notebook's students (one teacher, one seed):")
print(pd.DataFrame(rows).T.sort_values("error").round(2))
small, large = rows["decoder S"], rows["ALRR M"]
assert small["error"] < large["error"]
assert small["BLEU"] < large["BLEU"], "the better imitation translates worse"

# %% [markdown]
# Decoder S has far less error than ALRR without a skip, whose error is *above* a constant's, and translates far
# worse. *What* is wrong matters: the update of layer 2 is small beside the stream, while a wrong look-up in the
# decoder decides a word. And errors meet: behind other students, and after a wrong word, each reads something new.

# %% [markdown]
# **Doubt.** The released code trains 21 passes and keeps the last, at $10^{-4}$ for ALR and $10^{-3}$ for the others,
# without controls: "too small", "not taught enough", "rate too low" are not separated. Ours keeps the best held-out
# error, at one rate for all. Each at its best rate (recorded, one seed) the order stays in the encoder; at the cross
# site linear attention overtakes the net per query (notebook 09).
#
# **Takeaway.** The error says how well a part is imitated; what that is worth, only translation beside controls says.

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.teach import show_quiz

quiz = show_quiz("distillation")

# %% [markdown]
# ## Summary
#
# - You **explained** four cuts: ALR and ASLR keep the stream beside the net, ALRR and ELR take it through.
# - You **computed** the net by hand, (1, -2), and its weights: ALR L has 834 times those of attention's maps.
# - You **derived** running sums equal to the masked loop, at L in 25.5 times fewer multiplications.
# - You **decided** by a skip and a bound between residual, rank and scale.
# - You **predicted** and saw a student with the smaller error translate worse (live table).

# %% [markdown]
# ## What we did not show
#
# - The live numbers are of one small teacher, one seed and one toy; no student was trained to its end.
# - Cross-attention and its leak (notebook 09); real sentences, sentences longer than the slots, and speed.
#
# ## Notation used here
#
# $W$ is a number, $W_1$, $W_2$ a student's maps; $h$ a width, no entropy rate; $u_t$ an update, no source token.

# %% tags=["hide-input", "nbval-ignore-output"]
from attnlab.teach import show_notation

show_notation(["time", "d_model", "n_heads", "context_len", "x", "out", "slot_numbers",
               "student_width", "heads", "student_output", "relative_error", "norm_gain",
               "norm_shift"])  # fmt: skip

# %% [markdown]
# ## Sources
#
# - The study: Bozic et al., [arXiv:2311.10642](https://arxiv.org/abs/2311.10642) (notebook 00, section 6). Its code:
#   `vulus98/Rethinking-attention`, commit 983b8c7: `models/definitions/*_FF.py` (eqs. (8.4) to (8.7)), `scripts`.
# - Distillation: Hinton et al., [arXiv:1503.02531](https://arxiv.org/abs/1503.02531); from intermediate layers: Romero
#   et al., [arXiv:1412.6550](https://arxiv.org/abs/1412.6550), section 2. A running sum as linear attention:
#   Katharopoulos et al., [arXiv:2006.16236](https://arxiv.org/abs/2006.16236), section 3.
# - Best plane: Eckart and Young 1936. Eqs. (8.8) to (8.11) as used here are this workbook's.
#
# Previous: [07 Translation](07_translation_teacher.ipynb). Next:
# [09 Replacing attention](09_replacing_attention.ipynb).
