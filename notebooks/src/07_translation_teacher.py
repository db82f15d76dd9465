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
# # 07 · Translation: a teacher with three kinds of look-up
#
# You build an encoder-decoder site by site, train one (a minute or less on a laptop) until it
# translates nearly every sentence rightly, find out where its attention looks and which looks
# matter, and take BLEU (*bilingual evaluation understudy*, a score of translations) apart.
#
# **Minutes:** 85. **Prerequisites:** notebook 02 (attention, mask, heads); sections 1 and 2 of
# notebook 04.
#
# Previous: [06 Fast Extractors](06_fast_extractors.ipynb). Next:
# [08 Distillation](08_distillation.ipynb).

# %% [markdown]
# **Learning goals.** After this notebook you can
#
# - derive the three attention sites of a translator from one equation, and decide which of them
#   needs a causal mask,
# - explain by an experiment which look-up a trained translator uses for one decision,
# - compute BLEU on paper, and name what each of its parts does not see,
# - judge a published BLEU: tokenisation, end markers, unknown words, split, number of sentences,
# - decide whether a number says how a model *predicts* or how it *writes*.

# %% tags=["setup"]
import numpy as np
import torch

from attnlab.chapters.translation_teacher import checks, live, pictures
from attnlab.runmode import banner, is_fast
from attnlab.show import show

banner(minutes=85)

# %% [markdown]
# ## 1  Two small languages   *(7 min)*
#
# A translator reads a source sentence $u = u_1 \dots u_{T'}$ and writes a target sentence
# $v = v_1 \dots v_T$, token by token; $v_T$ is the end mark:
#
# $$ P(v \mid u) = \prod_{t=1}^{T} P(v_t \mid v_1 \dots v_{t-1},\, u) \tag{7.1} $$
#
# It is a language model with one more thing to look at. To see exactly what that thing must do, we
# made two languages in which every sentence has *one* right translation, with a dial for each
# demand: **reordering** (nouns before adjectives, verbs last), **agreement** (words end like a noun
# that may stand far away), **counting** ("three cat" is the noun three times).

# %% tags=["nbval-check-output"]
from attnlab.sources import translation_source

source = translation_source()
text = "the red bird near three tall cat see a dog"
u = source.encode(text)
v = source.translate(u)
print("source:     ", text)
print("target:     ", source.decode(v))
print("from place: ", " ".join(str(place) for place in source.alignment(u)))
print(f"{source.vocab_size} symbols, 4 of them special; sentences up to {source.max_source_len} "
      f"and {source.max_target_len} words")  # fmt: skip
for stream in ("data", "validation", "test"):
    (read, written), *_ = source.sample_pairs(1, stream=stream)
    print(f"{stream:>10}: {source.decode(read)}\n{'->':>11} {source.decode(written)}")

# %% [markdown]
# **Play, then answer.** Lines go to the word that a target word comes from; arcs go from a noun to
# the words that end like it. Turn one dial at a time. Which dial could a *word list* (each source
# word has one translation, kept in place) survive? In the third picture, which target word
# depends on the word that is farthest away?

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import explore

languages = explore(
    pictures.language,
    presets=[
        {"reordering": 0, "agreement": 0, "number": "a"},
        {"reordering": 2, "agreement": 0, "number": "a"},
        {"reordering": 2, "agreement": 2, "number": "three"},
    ],
    **pictures.LANGUAGE_DIALS,
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# None but the first picture: with all dials off, a word list is a perfect translator. The last word,
# the verb, ends like the subject's noun, with a whole phrase and the object between them.
#
# </details>
#
# **Check yourself.** Decide before you run: we learn a word list from 3000 pairs and translate 500
# new sentences with it, one dial turned on at a time. Which dial hurts most?

# %% tags=["check", "agreement", "nbval-check-output"]
from collections import Counter


def word_table(language, pairs):
    """Return for each source word the target word that most often comes from it."""
    counts = {}
    for read, written in pairs:
        for word, place in zip(written.tolist(), language.alignment(read).tolist(), strict=True):
            counts.setdefault(int(read[place]), Counter())[word] += 1
    return {word: found.most_common(1)[0][0] for word, found in counts.items()}


off = {"reordering": 0, "agreement": 0, "counting": 1}
for dial in ({}, {"reordering": 2}, {"agreement": 2}, {"counting": 3}, {**off, "reordering": 2,
             "agreement": 2, "counting": 3}):  # fmt: skip
    language = translation_source(**{**off, **dial})
    table = word_table(language, language.sample_pairs(3000))
    test = language.sample_pairs(500, stream="test")
    found = [[table[word] for word in read.tolist() if word in table] for read, _ in test]
    n_right = sum(a == b.tolist() for a, (_, b) in zip(found, test, strict=True))
    name = ", ".join(dial) or "all dials off"
    print(f"{name:35} {n_right / len(test):6.1%} of the sentences right")
    assert dial or n_right == len(test)  # a word list is perfect where nothing is demanded

# %% [markdown]
# <details><summary>Answer</summary>
#
# Reordering and agreement, alike: 41 and 38 of 500 sentences are right. Counting hurts least.
#
# </details>
#
# **Takeaway.** With the dials on, a right translation needs order, far-off agreement and counting; and
# since it is unique, the best possible loss is $h = 0$ and the best share of right sentences is 1.

# %% [markdown]
# ## 2  One equation, three sites   *(24 min)*
#
# Notebook 02 had one sentence that looked at itself. Let queries come from one row of vectors, $x$,
# and keys and values from another, $m$. For each head, with $d_h = d/H$:
#
# $$ A_{ts} = \frac{e^{q_t \cdot k_s / \sqrt{d_h}}}{\sum_{r\ \text{seen by}\ t} e^{q_t \cdot k_r /
#    \sqrt{d_h}}}, \qquad h_t = \sum_{s\ \text{seen by}\ t} A_{ts} v_s, \qquad
#    q_t = x_t W_q,\ \ k_s = m_s W_k,\ \ v_s = m_s W_v \tag{7.2} $$
#
# (here $v_s$ is a value). The heads are joined and mapped by $W_o$. Three choices make a translator:
#
# | Site | asks ($x$) | answers ($m$) | $t$ sees |
# |---|---|---|---|
# | encoder self | source | source | everyone |
# | decoder self | target so far | target so far | $s \le t$ |
# | **cross** | target so far | encoder's result | everyone |

# %% tags=["nbval-ignore-output"]
words = {
    "source": ["the", "cat", "see", "a", "dog"],
    "target": ["<bos>", "elo", "milo", "una", "toba", "vido"],
}
show(pictures.sight(**words))

# %% [markdown] tags=["exercise"]
# No mask at the cross site: the source was there before the first word is written. Only *padding*, which
# fills a batch up to one length, must be hidden.
#
# **Exercise 7.1** (difficulty 2, 7 min; builds on eq. (7.2)). Write one head of cross-attention: `x`
# is `(time, d)`, `memory` is `(words, d)`, `w_q`, `w_k` and `w_v` are `(d, d_h)`, `w_o` is
# `(d_h, d)`, and `is_padding` is `(words,)`, true where the source was filled up. Return `(time, d)`.
#
# <details><summary>Hint</summary>
#
# Write the shape of the scores first: one row for each word that asks. Then `masked_fill` hides
# columns.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
import math


def cross_attention(x, memory, w_q, w_k, w_v, w_o, is_padding):
    """Return what the target finds in the source, ``(time, d)``."""
    # SOLUTION
    scores = (x @ w_q) @ (memory @ w_k).mT / math.sqrt(w_q.shape[1])  # (time, words)
    weights = scores.masked_fill(is_padding, -torch.inf).softmax(-1)
    return weights @ (memory @ w_v) @ w_o


# %% tags=["agreement", "nbval-check-output"]
from attnlab.seeding import torch_generator


def naive_look_up(site, x, memory, sees=None):  # eq. (7.2), one query and one head at a time
    q, k, v = site.query(x), site.key(memory), site.value(memory)
    d_h, rows = site.d_model // site.n_heads, []
    for t in range(len(x)):
        seen = [s for s in range(len(memory)) if sees is None or sees[t, s]]
        heads = []
        for h in (slice(i, i + d_h) for i in range(0, site.d_model, d_h)):
            A = torch.stack([q[t, h] @ k[s, h] / d_h**0.5 for s in seen]).softmax(0)
            heads.append(sum(a * v[s, h] for a, s in zip(A, seen, strict=True)))
        rows.append(site.out(torch.cat(heads)))
    return torch.stack(rows)


checks.check_cross_attention(cross_attention)
net = live.small_translator(d_model=6, n_heads=3, d_ff=8).double().eval()
x, m = torch.randn(2, 5, 6, generator=torch_generator(0, "data"), dtype=torch.float64)
m, past = m[:4], torch.ones(5, 5).tril().bool()  # 5 target tokens, 4 source tokens
sites = {
    "encoder self": (net.encoder[0].self_attention, [m], None),
    "decoder self": (net.decoder[0].self_attention, [x], past),
    "cross": (net.decoder[0].cross_attention, [x, m], None),
}
for name, (site, z, sees) in sites.items():
    y = site(*(one[None] for one in z))[0]
    torch.testing.assert_close(y, naive_look_up(site, z[0], z[-1], sees))
    print(f"{name:>12}: {tuple(y.shape)}, equal to the loop over eq. (7.2)")
last = torch.tensor([[False, False, False, True]])  # cross: the last source token is padding
torch.testing.assert_close(site(x[None], m[None], source_padding=last), site(x[None], m[None, :3]))

# %% [markdown]
# The rest is notebook 04's: residual stream, norms, channel mixer (`mlp`). The encoder makes a **memory** $m$
# of the source, once; each decoder layer then does three things instead of two:
#
# $$ x \leftarrow x + \mathrm{self}(\mathrm{norm}\,x), \quad
#    x \leftarrow x + \mathrm{cross}(\mathrm{norm}\,x,\, m), \quad
#    x \leftarrow x + \mathrm{mlp}(\mathrm{norm}\,x) \tag{7.3} $$
#
# Leave out the middle step, and a language model of the target remains. All three sites together have
#
# $$ 4 d^2\, (N_\mathrm{enc} + 2 N_\mathrm{dec}) \tag{7.4} $$
#
# weights, with $N_\mathrm{enc}$ and $N_\mathrm{dec}$ layers, as each site has four maps.
#
# **Check yourself.** After building it, we edit one word and see which rows of scores move. Decide
# before: if the *last source* word is edited? If the *last target* word is?

# %% tags=["check", "agreement", "nbval-check-output"]
from attnlab.training import collate_pairs

V = source.vocab_size
net = live.small_translator(source_vocab_size=V, target_vocab_size=V).double().eval()
read, written = collate_pairs([(u, v)])  # written: BOS, the words, EOS
m = net.encode(read)
x = net.target_embedding(written) + net.target_position[: written.shape[1]]
for layer in net.decoder:  # eq. (7.3)
    x = x + layer.self_attention(layer.self_attention_norm(x))
    x = x + layer.cross_attention(layer.cross_attention_norm(x), m)
    x = x + layer.mlp(layer.mlp_norm(x))
z = net.head(net.decoder_norm(x))  # scores for the token after each
torch.testing.assert_close(z, net(read, written))
attention = [w for name, w in net.named_parameters() if "attention." in name]
n_weights = sum(w.numel() for w in attention)
assert n_weights == 4 * 32**2 * (2 + 2 * 2)  # eq. (7.4): d = 32, two layers each
print(f"scores {tuple(z.shape)}; {len(attention)} maps at the sites hold {n_weights:,} weights")


def moved_rows(read_2: torch.Tensor, written_2: torch.Tensor) -> list[int]:
    change = (net(read_2, written_2) - net(read, written)).abs().amax((0, 2))
    return (change > 1e-9).nonzero().flatten().tolist()


other_source, other_target = read.clone(), written.clone()
other_source[0, -1] = source.encode("cat")[0]
other_target[0, -2] = source.encode("vida")[0]
print("last source word edited, rows that move:", moved_rows(other_source, written))
print("last target word edited, rows that move:", moved_rows(read, other_target))
assert moved_rows(read, other_target) == [11, 12]  # from the edited word on, none before

# %% [markdown]
# <details><summary>Answer</summary>
#
# The first edit moves all rows: every word that is written may depend on every word that was read.
# The second moves the row of the edited word and those after it; a decoder in which an *earlier* row
# moved would read the answer it is asked for. Remember this test: it will catch a leak.
#
# </details>
#
# **Takeaway.** One equation, three sites: encoder self (all see all), decoder self (causal), cross
# (the target asks, the source answers); only the second has a future to hide.

# %% [markdown] tags=["exercise"]
# **Build 7** (difficulty 4, 10 min; builds on exercise 7.1). Write the cross site as a module with several
# heads: `CrossAttention(d_model, n_heads)` with four `nn.Linear` without bias, `query`, `key`, `value` and
# `out`. `forward(x, memory, is_padding)` takes `(B, T, d)`, `(B, words, d)` and `(B, words)`, and returns
# `(B, T, d)`.
#
# <details><summary>Hint</summary>
#
# `unflatten(-1, (H, d_h)).transpose(1, 2)` puts the heads in front. `is_padding[:, None, None]` lies over
# scores `(B, H, T, words)`.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
from torch import nn


class CrossAttention(nn.Module):
    """Cross-attention with several heads."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        # SOLUTION
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )

    def forward(self, x, memory, is_padding):
        maps = (self.query(x), self.key(memory), self.value(memory))
        q, k, v = (z.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for z in maps)
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(
            is_padding[:, None, None], -torch.inf
        )
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


# %% tags=["agreement", "nbval-check-output"]
CrossAttention = checks.check_cross_site.hand_on(CrossAttention)
mine, site = CrossAttention(32, 4).double(), net.decoder[0].cross_attention
mine.load_state_dict(site.state_dict())
x, no_padding = net.target_embedding(written), torch.zeros(m.shape[:2], dtype=torch.bool)
torch.testing.assert_close(mine(x, m, no_padding), site(x, m))
print("with the same weights your module and the package's site find the same")

# %% [markdown]
# ## 3  A teacher, trained before your eyes   *(9 min)*
#
# Training gives the decoder the *right* earlier words (**teacher forcing**), so all positions are
# learned at once, with the loss
#
# $$ L = -\frac{1}{T} \sum_{t=1}^{T} \log P(v_t \mid v_1 \dots v_{t-1},\, u) \tag{7.5} $$
#
# In use it reads its *own* words. So we watch two numbers: the share of words that are right with the
# right past given, and the share of whole sentences that are right when written freely. If each of $T$
# tokens is right with chance $p$, independently, a sentence is right with chance
#
# $$ p^{T} \tag{7.6} $$
#
# **Play, then answer.** Guess below. The lesson takes a minute or less on a laptop (one seed); a
# board gives others: with 140 steps and one dial at a time, what is learned first, what last?

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import predict_first

guess = predict_first(
    "At the moment when 90 % of the words are right (right past given), what share of the whole "
    "sentences is right? A sentence has about 9 tokens, its end among them.",
    options={"90 %": 0.9, "about 40 %": 0.4, "about 10 %": 0.1},
)

# %% tags=["widget", "nbval-ignore-output"]
import copy
from dataclasses import replace

from attnlab.config import TrainConfig
from attnlab.show import show_board
from attnlab.training import PairBatches, train_steps


def lesson(source, recipe, *, n_pairs, every):
    """Train a translator of 2 + 2 layers, d = 32; yield it at each step, now and then with what is right."""
    V, longest = source.vocab_size, max(source.max_source_len, source.max_target_len + 2)
    sizes = {"source_vocab_size": V, "target_vocab_size": V, "max_len": longest}
    model = live.small_translator(**sizes)
    batches = PairBatches(source.sample_pairs(n_pairs), max_tokens=1024, seed=0)
    yield model, live.judge(model, source)
    for log in train_steps(model, batches.starting_at(0), config=recipe):  # loss (7.5)
        is_due = log.step % every == 0
        yield model, live.judge(model, source, tokens_seen=log.tokens_seen) if is_due else None


recipe = TrainConfig(n_steps=700 if is_fast() else 3000, lr=0.007, warmup_steps=50)
points, half_taught = [], None  # a weaker teacher, for later
for teacher, point in lesson(source, recipe, n_pairs=20_000, every=50):
    points += [point] if point else []
    if half_taught is None and point and point["exact_match"] >= 0.3:
        half_taught = copy.deepcopy(teacher).eval()
teacher = teacher.eval()
near = min(points, key=lambda point: abs(point["accuracy"] - 0.9))
p, whole = near["accuracy"], near["exact_match"]
print(f"{p:.1%} of the words right: {whole:.1%} of the sentences")
print(f"eq. (7.6) with T = 9: {p**9:.1%}. {guess.verdict(truth=whole)}")
assert points[-1]["exact_match"] > 0.8, "the teacher translates most sentences exactly"
assert whole < p - 0.2, "words right is not sentences right"
board = show_board(
    lambda *, n_steps, **dials: (point for _, point in lesson(
        translation_source(**dials), replace(recipe, n_steps=n_steps), n_pairs=8000,
        every=n_steps // 14)),
    n_ticks=15, draw=pictures.course, still=points, unit="measurements", **pictures.COURSE_DIALS,
)  # fmt: skip

# %% [markdown]
# <details><summary>Answer</summary>
#
# In one try (one seed, 140 steps) the word list came first, then reordering, agreement and
# counting, in this order; with all three dials on, hardly a sentence was right yet. For counting
# the decoder must know how many copies it has written; one seed does not prove that this comes
# last. As for eq. (7.6): in our run more sentences were right than it says, for errors keep company
# in the same hard sentences.
#
# </details>
#
# **Takeaway.** The share of right words (right past given) runs far ahead of the share of right
# sentences (own past): two numbers, always both.

# %% [markdown] tags=["exercise"]
# ## 4  Writing: greedy, and a beam   *(10 min)*
#
# Greedy search takes the likeliest token each time, and reads its own choice next:
#
# $$ \hat v_t = \arg\max_w P(w \mid \hat v_1 \dots \hat v_{t-1},\, u), \qquad \hat v_0 = \mathrm{BOS},
#    \quad \text{until EOS} \tag{7.7} $$
#
# **Exercise 7.2** (difficulty 2, 6 min; builds on eq. (7.7)). Write greedy search.
# `next_scores(tokens)` takes a list of `time` token ids that begins with `BOS` and returns an array
# `(time, vocabulary)`: row $t$ scores what follows the first $t+1$ tokens. Return the list of words:
# at most `max_len`, without `BOS` and `EOS`. (Rows count from 0.)
#
# <details><summary>Hint</summary>
#
# Only one row of the scores is news. What must happen before a token is added to the list?
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
from attnlab.config import BOS, EOS


def greedy(next_scores, max_len: int) -> list[int]:
    """Return the words that greedy search writes."""
    # SOLUTION
    tokens = [BOS]
    while len(tokens) <= max_len:
        newest = int(next_scores(tokens)[-1].argmax())
        if newest == EOS:
            break
        tokens.append(newest)
    return tokens[1:]


# %% tags=["agreement", "nbval-check-output"]
from attnlab.training import translate_all

greedy = checks.check_greedy.hand_on(greedy)
test = source.sample_pairs(2000, stream="test")
sources, references = [read for read, _ in test], [source.decode(written) for _, written in test]


@torch.no_grad()
def by_loop(u: np.ndarray) -> list[int]:
    """Run the whole decoder again for each token."""
    read = torch.from_numpy(u)[None]
    return greedy(lambda tokens: teacher(read, torch.tensor([tokens]))[0].numpy(), max_len=20)


cached = translate_all(teacher, sources[:40])  # keeps keys and values, as in notebook 02
assert all(by_loop(u) == v.tolist() for u, v in zip(sources[:40], cached, strict=True))
print("40 sentences: your loop and the package's cached search write the same")

# %% [markdown]
# Greedy cannot take a choice back. A **beam** keeps the $k$ best beginnings and ranks sentences by
#
# $$ \frac{\log P(v \mid u)}{\bigl((5 + |v|)/6\bigr)^{\alpha}} \tag{7.8} $$
#
# where $|v|$ counts `EOS` and $\alpha \ge 0$ favours longer sentences. A language of five words shows
# the point: A has chance 0.6, B 0.4; after A come C, D, E with chances 0.4, 0.3, 0.3, and after B
# only C or D with 0.9 and 0.1.

# %% tags=["nbval-ignore-output", "agreement"]
from attnlab.models.search import beam_search, greedy_search

A, B, C, D, E = range(4, 9)
follows = {BOS: {A: 0.6, B: 0.4}, A: {C: 0.4, D: 0.3, E: 0.3}, B: {C: 0.9, D: 0.1}}
chances = torch.zeros(9, 9)
for word in range(9):
    for after, chance in follows.get(word, {EOS: 1.0}).items():
        chances[word, after] = chance


def step(token, state):
    return chances[token].log(), state


plain = greedy_search(step, None, n_rows=1, max_len=4)[0]
beams, scores = beam_search(step, None, n_rows=1, max_len=4, beam_size=2, length_penalty=0.0)
for name, (first, second, *_) in {"greedy": plain.tolist(), "beam": beams[0, 0].tolist()}.items():
    chance = chances[BOS, first] * chances[first, second]
    print(f"{name}: {'ABCDE'[first - 4]} {'ABCDE'[second - 4]}, chance {chance:.2f}")

from attnlab.training import evaluate_translation

for name, model in (("half-taught", half_taught), ("teacher", teacher)):
    for k in (1, 4):
        score = evaluate_translation(
            model, test[:500], vocabulary=source, beam_size=k, n_resamples=1
        )
        print(
            f"{name:>11}, beam of {k}: BLEU {score.bleu.score:5.1f}, "
            f"{score.exact_match:.1%} of the sentences right"
        )

# %% [markdown]
# **Takeaway.** Greedy missed the sentence of chance 0.36 for one of 0.24; a beam of two found it. For
# a model that is sure of nearly every word, as our teacher is, the two hardly differed in our run.

# %% [markdown]
# ## 5  Where it looks, and what that decides   *(8 min)*
#
# While row $t$ of the decoder writes $v_{t+1}$, its cross-attention spreads one unit of weight over the
# source: $A_{ts}$ of eq. (7.2). Does it look at the word it is translating? Here we *know* the
# alignment (frames).
#
# **Play, then answer.** Type a sentence in words of the source language. Which layer looks more like the alignment? Where does
# it look while writing the verb, whose *ending* depends on the subject?

# %% tags=["widget", "nbval-ignore-output"]
watch, dials = pictures.watcher(teacher, source)
viewer = explore(
    watch,
    presets=[
        {"sentence": "the small horse see a dog", "layer": 1},
        {"sentence": "the red bird near three tall cat see a dog", "layer": 1},
        {"sentence": "the red bird near three tall cat see a dog", "layer": 0},
    ],
    **dials,
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Compare the second and third caption, and the table below: the later layer. In our run it looks at the
# source's verb while writing the verb, and hardly at the subject's noun; an article looks half at its
# noun.
#
# </details>
#
# One sentence proves little. Over 200 test sentences: how often does a head look hardest at the word
# that is being translated?

# %% tags=["agreement", "nbval-ignore-output"]
from attnlab.show import matrix

shares, chance = live.aligned_shares(teacher, source, test[:200])
names = {
    "x_ticks": [f"{i + 1}" for i in range(shares.shape[1])],
    "y_ticks": [f"{i + 1}" for i in range(len(shares))],
}
one = matrix(shares, label="Share of words", x_label="Cross-attention head",
             y_label="Decoder layer", has_numbers=True, limit=1.0, **names)  # fmt: skip
show(one.saying("Share of the words for which a head's largest weight lies on the source word "
                f"they come from; 200 sentences, one teacher. At random: {chance:.2f}. "
                f"Best head: {shares.max():.2f}, worst: {shares.min():.2f}."))  # fmt: skip
assert shares.max() > 0.5 > chance, "some head has learned to align, and nobody told it"

# %% [markdown]
# Nobody taught it alignments; they came with the loss. But a map says where a head looks, not what
# *decides*. Take two endings that depend on the subject's noun: that of its article (the first word) and
# that of the verb (the last). Three suspects: cross-attention to the noun; the encoder, which could write
# the subject into the memory of other words; the decoder's self-attention, which sees what is written.
#
# The experiment: give a sentence a **twin** with a subject of the other gender; let the decoder write the
# word, but take *one* of the things it reads from the twin. When does the ending change?
#
# **Check yourself.** Which row will decide the article? Which one the verb?

# %% tags=["check", "agreement", "nbval-ignore-output"]
import pandas as pd


@torch.no_grad()
def changed_endings(word):
    """Write a word of each sentence, one thing that is read being its twin's; how often, by route.

    ``article``: the subject's, the first word; ``verb``: the last word.
    """
    n_changed = Counter()
    chosen = [u for u in sources[:100] if word == "verb" or source.alignment(u)[0] == 0]
    for u in chosen:
        twin, subject = live.other_gender(source, u)
        memory, other = (teacher.encode(torch.from_numpy(t)[None]) for t in (u, twin))
        written, wanted = source.translate(u), source.translate(twin)
        at = len(written) - 1 if word == "verb" else 0
        own = int(source.alignment(u)[at])
        for route, places in live.routes(len(u), subject, own).items():
            mixed, so_far = memory.clone(), wanted if route == live.TARGET else written
            mixed[:, places] = other[:, places]
            z = teacher.head(teacher.decode(torch.tensor([[BOS, *so_far[:at]]]), mixed))
            n_changed[route] += int(z[0, -1].argmax()) == int(wanted[at])
    return {route: n / len(chosen) for route, n in n_changed.items()}


routes = pd.DataFrame({word: changed_endings(word) for word in ("article", "verb")})
print("share of 100 test sentences (article: of those that begin with one) in which the ending")
print("changes, by what is taken from the twin; 'the word itself' is the one being translated\n")
print(routes.map("{:.0%}".format).to_string())
assert routes.loc["nothing"].max() < 0.1
assert routes.loc["memory: the subject's noun", "article"] > 0.7
assert routes.loc[live.TARGET, "verb"] > 0.7, "what was written decides the verb"
assert routes.loc["memory: all of it", "verb"] < 0.3, "what was read does not"

# %% [markdown]
# <details><summary>Answer</summary>
#
# In our run: the article comes first, nothing is written yet, so it must be looked up, and it is,
# by cross-attention to the noun itself. The verb comes last, and a noun with its gender stands
# written already: its ending comes by *decoder self-attention*. The encoder's self-attention
# carries neither. (It could have.)
#
# </details>
#
# **Takeaway.** Cross-attention learned to align by itself; yet of two endings with one cause, one comes
# through it and one through another site. To know what a look-up is for, change what it finds.

# %% [markdown]
# ## 6  What BLEU is made of   *(16 min)*
#
# Real sentences have many good translations. BLEU asks how many of the runs of $n = 1, 2, 3, 4$ words
# that were *written* also stand in a reference:
#
# $$ \mathrm{BLEU} = 100\; b \Bigl(\prod_{n=1}^{4} P_n\Bigr)^{1/4}, \qquad
#    P_n = \frac{\sum \min(\text{times written},\ \text{times in the reference})}
#               {\sum \text{times written}}, \qquad
#    b = \min\bigl(1,\ e^{1 - r/c}\bigr) \tag{7.9} $$
#
# The sums run over all different runs of *all* sentences; $c$ and $r$ are the words written and those
# of the references. The minimum is **clipping**; $b$ is the **brevity penalty**, without which silence
# about hard words would pay.

# %% tags=["agreement", "nbval-check-output"]
from fractions import Fraction

from attnlab.training import bleu, bleu_by_hand, n_grams

written = ["the cat sat on the the the mat", "a bird sang"]
truth = ["the cat sat on the mat today", "a bird sang in the old tree"]
pairs = [(a.split(), b.split()) for a, b in zip(written, truth, strict=True)]
product = Fraction(1)
for n in (1, 2, 3, 4):
    runs = [(n_grams(a, order=n), n_grams(b, order=n)) for a, b in pairs]
    right, total = sum((a & b).total() for a, b in runs), sum(a.total() for a, _ in runs)
    product *= Fraction(right, total)  # & keeps the smaller count: clipping
    print(f"P_{n} = {right}/{total}")
c, r = sum(len(a) for a, _ in pairs), sum(len(b) for _, b in pairs)
b = min(1.0, math.exp(1 - r / c))
by_hand, official = 100 * b * float(product) ** (1 / 4), bleu(written, truth)  # eq. (7.9)
print(f"product {product}, c = {c}, r = {r}, b = {b:.4f}: BLEU {by_hand:.2f}")
assert np.allclose([official.score, bleu_by_hand(written, truth)], by_hand)
print(f"sacreBLEU {official.score:.2f}, signature {official.signature.rpartition('|')[0]}")

# %% [markdown] tags=["exercise"]
# Without clipping, $P_1$ would be 11/11: each written word stands somewhere in its reference. And the
# second sentence alone has score 0, for it has no run of four: BLEU is a score for a *corpus*.
#
# **Exercise 7.3** (difficulty 3, 10 min; builds on eq. (7.9)). Write corpus BLEU for two lists of
# sentences whose words are separated by blanks. Without a common run of four, return 0. No text is
# empty. You may use `n_grams(words, order=n)`, a `Counter`.
#
# <details><summary>Hint</summary>
#
# Add first, divide later: numerators and denominators are sums over all sentences. `&` of two
# `Counter`s keeps the smaller counts.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def corpus_bleu(hypotheses: list[str], references: list[str]) -> float:
    """Return BLEU out of 100."""
    # SOLUTION
    pairs = [(a.split(), b.split()) for a, b in zip(hypotheses, references, strict=True)]
    product = 1.0
    for n in (1, 2, 3, 4):
        runs = [(n_grams(a, order=n), n_grams(b, order=n)) for a, b in pairs]
        right = sum((a & b).total() for a, b in runs)
        product *= right / max(1, sum(a.total() for a, _ in runs))
    c, r = sum(len(a) for a, _ in pairs), sum(len(b) for _, b in pairs)
    return 100 * min(1.0, math.exp(1 - r / c)) * product**0.25


# %% tags=["nbval-check-output"]
checks.check_bleu(corpus_bleu)

# %% [markdown]
# **Play, then answer.** Perfect translations into our toy language with one fault each. First guess:
# every sentence loses its verb, or every verb has a wrong ending, or two neighbours are swapped. No
# sentence is right any more. Which fault does BLEU forgive most?

# %% tags=["widget", "nbval-ignore-output"]
faults = explore(
    lambda **fault: pictures.faults(references[:500], **fault),
    presets=[
        {"kind": "last word lost"},
        {"kind": "verb ends wrongly"},
        {"kind": "two neighbours swapped"},
    ],
    **pictures.FAULT_DIALS,
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# The loss of the verb, the most important word: all precisions stay at 100, and only the brevity
# penalty speaks. A swap keeps every word and breaks most
# runs of four.
#
# </details>
#
# **Takeaway.** BLEU is four clipped precisions, their geometric mean, and a penalty for short texts:
# it counts runs of words and knows nothing of meaning.

# %% [markdown]
# ## 7  A BLEU is not a BLEU   *(7 min)*
#
# **Cutting into words.** The same three sentences (printed below), scored in four ways: `none` cuts at blanks, `13a` is
# sacreBLEU's default, `char` cuts at every letter; last, a tokenizer ran before. **Two habits** that lift
# a score for nothing: some programs leave the marks `<s>` and `</s>` in both texts, two free hits for
# each sentence; some map rare words to `<unk>` in *both* texts, so that any two unknown words are equal.
# In the extreme: every noun is wrong, and nouns are "rare".

# %% tags=["nbval-check-output"]
from attnlab.sources import NOUNS

written, truth = live.SPOKEN
scores = {f"cut by {how}": bleu(written, truth, tokenize=how) for how in ("none", "13a", "char")}
swapped = live.damaged(references, kind="two neighbours swapped")
nouns = list(NOUNS.values())
others = dict(zip(nouns, nouns[2:] + nouns[:2], strict=True))  # of the same gender
wrong = live.with_words(references, others)
marked = [[f"<s> {text} </s>" for text in texts] for texts in (swapped, references)]
unknown = [live.with_words(texts, dict.fromkeys(nouns, "<unk>")) for texts in (wrong, references)]
pairs = {
    "cut before, then none": [[live.cut_marks(text) for text in texts] for texts in live.SPOKEN],
    "2000 texts, two words swapped": (swapped, references),
    "the same, with <s> and </s>": marked,
    "all nouns wrong": (wrong, references),
    "the same, nouns as <unk>": unknown,
}
scores |= {name: bleu(*texts, tokenize="none", n_resamples=1) for name, texts in pairs.items()}
for name, score in scores.items():
    print(f"{name:>29}: BLEU {score.score:5.1f}")
print(*(f"{a}  (reference: {b})" for a, b in zip(*live.SPOKEN, strict=True)), sep="\n")

# %% [markdown]
# Last, the number of sentences. Draw a test set again from itself, with replacement, a thousand times
# (**bootstrap**): the middle 95 % of the scores is an interval. Its width falls like
#
# $$ \text{width} \propto 1/\sqrt{n_\text{sentences}} \tag{7.10} $$
#
# Is it honest? We have 2000 sentences: crosses are 20 *real* test sets of 100, none of them shared.
#
# <details><summary>Answer</summary>
#
# Nearly: the caption counts how many of the 20 lie inside the interval of the first 100. In our run
# the spread is about as wide as that interval.
#
# </details>

# %% tags=["widget", "nbval-ignore-output"]
hypotheses = [source.decode(tokens) for tokens in translate_all(half_taught, sources)]
rows = []
for n in (100, 300, 1000, 2000):
    score = bleu(hypotheses[:n], references[:n])
    rows.append({"n_sentences": n, "bleu": score.score, "low": score.low, "high": score.high})
table = pd.DataFrame(rows)
small = {100: [bleu(hypotheses[i : i + 100], references[i : i + 100], n_resamples=1).score
               for i in range(0, 2000, 100)]}  # fmt: skip
one = pictures.score_intervals(table, small_sets=small)
show(one.saying(f"{one.words} The model is the half-taught one, greedy."))
width = (table["high"] - table["low"]).to_numpy()
assert 2 < width[0] / width[2] < 5, "ten times the sentences: about 3.2 times as narrow"

from attnlab.teach import show_quiz

quiz = show_quiz("translation_teacher")

# %% [markdown]
# **The published study.** The paper that the next notebooks test (Bozic et al.) compares teachers
# and students by BLEU. In its released code we read: NLTK's corpus BLEU, on the *validation* split,
# on words of its own tokenizers, with rare words as `<unk>` and `<s>`, `</s>` kept. That is a fair
# yardstick between its own rows, not comparable with sacreBLEU on a test set; and with some 890
# sentences, differences of about a point may be luck. Here: sacreBLEU with its signature, test
# split, interval, and teacher-forced numbers beside it.
#
# **Takeaway.** A BLEU means something with its signature, split, number of sentences and interval;
# without them, even 100 can mean that every noun is wrong.

# %% [markdown]
# ## 8  To predict is not to write   *(2 min)*
#
# How far apart can the two numbers of section 3 be? As far as possible. Here is a "translator" that has
# learned nothing. Its row $t$ simply names the token that *stands next* in what it was given, or `EOS`
# where nothing follows.


# %% tags=["agreement", "nbval-check-output"]
def peek(given: list[int]) -> np.ndarray:
    scores = np.zeros((len(given), source.vocab_size))
    for t, following in enumerate([*given[1:], EOS]):
        scores[t, following] = 1
    return scores


n_right = n_tokens = 0
for _, v in test[:500]:
    given, labels = [BOS, *v.tolist()], [*v.tolist(), EOS]  # teacher forcing
    n_right += int((peek(given).argmax(-1) == labels).sum())
    n_tokens += len(labels)
texts = [source.decode(greedy(peek, max_len=20)) for _ in test[:500]]
free = bleu(texts, references[:500], n_resamples=1).score
print(f"right past given: {n_right} of {n_tokens} tokens right; written freely: BLEU {free:.1f}")
assert n_right == n_tokens
assert free == 0

# %% [markdown]
# It fails the test of section 2 (edit a later word: an earlier row moves), and nothing else would tell:
# its loss is perfect. A part that replaces attention and sees the whole target while it learns can do
# the same, less openly. The next two notebooks replace this teacher's attention, site by site, with nets
# fitted to what it computes; one of them will leak in exactly this way.
#
# **Takeaway.** Teacher-forced numbers say how a model predicts with a right past; BLEU and exact match
# say how it writes. Report both.

# %% [markdown]
# ## 9  Real sentences   *(2 min)*
#
# Multi30k: 29,000 captions of photographs, in German or French and English. The teacher has the
# published widths (width 128, 8 heads, $d_\mathrm{ff}$ 512) but 3 + 3 layers instead of 6 + 6, and
# one short training. Its results are read from a record. A caption has many good translations and
# one reference: even a person would not reach 100, and "whole sentence right" says little. Before
# you look: nearer to 95 or to 35?
#
# **Takeaway.** On real text BLEU with its interval is the number to compare; on the toy, where wrong is
# wrong, the share of right sentences is.

# %% tags=["nbval-ignore-output"]
from IPython.display import Markdown, display

teachers = live.recorded_teachers()
display(Markdown(live.teachers_markdown(teachers)), Markdown(live.teachers_answer(teachers)))

# %% [markdown]
# ## Summary
#
# - You **derived** three sites from eq. (7.2), each equal to a loop, and **decided** that only decoder
#   self-attention has a future to hide (rows 11 and 12 moved, none before).
# - You **explained** two endings by an experiment: in our run the article's came through
#   cross-attention to the noun, the verb's through the words already written (table in section 5).
# - You **computed** BLEU on paper: product 8/55, $b = e^{-3/11}$, score 47.02, as sacreBLEU.
# - You **judged** scores: four tokenisations, marks, `<unk>` (BLEU 100 with every noun wrong), and
#   intervals that narrow like $1/\sqrt n$.
# - You **decided** between predicting and writing: a peeking model had every token right and BLEU 0.

# %% [markdown]
# ## What we did not show
#
# - One teacher, toy and seed; larger models may use other routes.
# - The twin's memory and the target words disagree on purpose: the model never met such inputs.
# - The toy has no ambiguity, names or unknown words; a score on it says little about text.
# - BLEU has successors that agree better with readers (chrF, COMET); the study used BLEU.
#
# ## Notation used here
#
# $v_t$ is a target token and, in eq. (7.2) alone, a value. $h_t$ is a head's result, $p$ a chance, $k$ the
# width of a beam, $c$ and $r$ lengths in words. In cells `m` is the memory. That $A_{ts}$ is zero for
# $s > t$, as the table says, holds for the decoder's self-attention only.

# %% tags=["hide-input", "nbval-ignore-output"]
from attnlab.teach import show_notation

show_notation(["time", "d_model", "n_heads", "d_head", "d_ff", "n_layers", "tokens", "loss_nats", "x",
               "query", "key", "value", "out", "attention_weights", "logits", "source_tokens",
               "source_time", "memory", "length_penalty", "precisions", "brevity_penalty"])  # fmt: skip

# %% [markdown]
# ## Sources
#
# - Encoder, decoder, cross-attention: Vaswani et al., [arXiv:1706.03762](https://arxiv.org/abs/1706.03762),
#   sections 3.1 and 3.2.3; alignment by attention: Bahdanau et al.,
#   [arXiv:1409.0473](https://arxiv.org/abs/1409.0473), section 5.2.
# - The study: Bozic et al., [arXiv:2311.10642](https://arxiv.org/abs/2311.10642), from its abstract,
#   summaries and released code (notebook 00, section 6); its scoring: repository `vulus98/Rethinking-attention`, `utils/utils.py` and
#   `utils/decoding_utils.py`, read at commit 983b8c7.
# - BLEU: Papineni et al. 2002, section 2; signatures: Post, [arXiv:1804.08771](https://arxiv.org/abs/1804.08771);
#   intervals: Koehn 2004. Beam score: Wu et al., [arXiv:1609.08144](https://arxiv.org/abs/1609.08144),
#   section 7.
# - The languages, eqs. (7.6) and (7.10) as used here, and the twin experiment are this workbook's.
#
# Previous: [06 Fast Extractors](06_fast_extractors.ipynb). Next:
# [08 Distillation](08_distillation.ipynb).
