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
# # 14 · What we found: every claim, judged
#
# You see what came of each claim of the two papers: the verdict, the number behind it, how many runs, and
# what speaks against it. And you learn to read such a verdict, and to make one.
#
# **Minutes:** 51. **Prerequisites:** none to read it; notebooks 03 to 09 say how each number was made.
#
# Previous: [13 Attention after training](13_attention_after_training.ipynb). From the start:
# [00 Start here](00_start_here.ipynb).

# %% [markdown]
# **Learning goals.** After this notebook you can
#
# - name five findings, each with its number and its doubt,
# - derive a verdict from paired seeds, and say when there is none,
# - decide which of two reported numbers flatters,
# - find the evidence for any claim of the two papers,
# - answer six questions on which the whole workbook turns.

# %% tags=["setup"]
from IPython.display import Markdown, display

from attnlab.chapters.what_we_found import checks, pictures
from attnlab.claims import ledger_markdown
from attnlab.runmode import banner
from attnlab.show import predict_first, show

banner(minutes=51)

# %% [markdown]
# ## 1  Five findings   *(6 min)*
#
# Two papers take attention out of a Transformer. The first puts *Extractors* in its place, learned sums over
# the past; the second puts shallow nets there, which a trained Transformer has taught. Their claims, split
# into parts that can be true or false, are 26. A twenty-seventh is ours: that a reader can answer six
# questions.
#
# First the five findings. Every number is computed from the run records when the cell runs.

# %% tags=["nbval-ignore-output"]
from attnlab.studies.report import results_block

display(Markdown(results_block().replace("](notebooks/", "](")))

# %% tags=["widget", "nbval-ignore-output"]
lines = pictures.lines_of()  # the whole ledger: a row a line, some claims have several
guess = predict_first(
    f"The ledger has {len(lines)} lines. Which word stands in most of them?",
    options=["holds here", "fails here", "one run", "not recorded yet"],
)

# %% tags=["nbval-ignore-output"]
show(pictures.verdicts(lines))
print(guess.verdict(truth=lines["verdict"].mode().iloc[0]))

# %% [markdown]
# **How to read it.** A claim that has several lines may stand in several rows: it holds on one text and fails
# on another, or for one member and not for the next. *Exact* is what a computation shows, *built* a system
# that stands and works. *One run*, *two runs* and *teacher too weak* are no verdicts. *Not recorded yet* is an
# open question, and its line changes by itself once there are records.
#
# **Takeaway.** Count the grey boxes too: what is not known is a part of what was found.

# %% [markdown]
# ## 2  How a verdict comes about   *(25 min)*
#
# Two models are trained with seeds $1 \dots n$. At the same seed they share batches and luck, so take the
# difference seed by seed, $\Delta_i = a_i - b_i$. Their mean is uncertain by
#
# $$ \bar\Delta \pm t_{n-1} \frac{s_\Delta}{\sqrt{n}} \tag{14.1} $$
#
# where $s_\Delta$ is the standard deviation of the differences and $t_{n-1}$ the 97.5 % point of Student's
# law. *"a is lower than b"* **holds here** if this interval lies below zero, **fails here** if it lies above, and is
# **not distinguishable at this budget** otherwise. *Close* asks for an interval within 0.05 nats of zero.
# Fewer than three seeds give no verdict. One example, with numbers from the records:

# %% tags=["agreement", "nbval-ignore-output"]
import numpy as np

from attnlab.analysis import compare
from attnlab.records import load_runs

runs = compare.latest_runs(load_runs("language-model/classroom/tales"))
loss = runs.pivot(index="seed", columns="variant", values="test_loss_nats")
D = (loss["he"] - loss["attention"]).to_numpy()  # seed by seed
n, t = len(D), compare.student_t_975(len(D) - 1)
half = t * D.std(ddof=1) / np.sqrt(n)  # eq. (14.1)
print(f"HE minus attention, by seed: {D.round(3)}; t = {t:.3f}")
print(f"mean {D.mean():+.4f}, interval {D.mean() - half:+.4f} to {D.mean() + half:+.4f}")
claim = compare.Claim(says="HE is lower", variant="he", baseline="attention")
row = compare.judge_claims(runs, claims=[claim], metric="test_loss_nats").iloc[0]
assert np.allclose([row["low"], row["high"]], [D.mean() - half, D.mean() + half])
print(f"HE is lower than attention: {row['verdict']}")
show(pictures.paired_interval(D, names=("HE", "attention")))

# %% [markdown]
# **Check yourself.** Two seeds, both far below zero. Why is that no verdict?
#
# <details><summary>Answer</summary>
#
# With one degree of freedom $t_1 = 12.7$: two differences that happen to be alike give a narrow interval by
# luck. And two equal models separate in one case of three (notebook 04, section 3).
#
# </details>

# %% [markdown] tags=["exercise"]
# **Exercise 14.1** (difficulty 2, 7 min; builds on eq. (14.1)). Write `verdict_of(first, second)` for two
# lists of losses, by seed. It says whether *the first is lower*: `"holds here"`, `"fails here"`, `"not
# distinguishable at this budget"`, and with fewer than three seeds `"one run"` or `"two runs"`. You may use
# `compare.student_t_975(df)`.
#
# <details><summary>Hint</summary>
#
# Subtract before you take a standard deviation, and take it with `ddof=1`.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def verdict_of(first: list, second: list) -> str:
    """Return the verdict on "the first is lower" from losses of the same seeds."""
    # SOLUTION
    D = np.asarray(first) - np.asarray(second)
    n = len(D)
    if n < 3:
        return {1: "one run", 2: "two runs"}[n]
    half = compare.student_t_975(n - 1) * D.std(ddof=1) / np.sqrt(n)
    if D.mean() + half < 0:
        return "holds here"
    return "fails here" if D.mean() - half > 0 else "not distinguishable at this budget"


# %% tags=["agreement", "nbval-check-output"]
verdict_of = checks.check_verdict.hand_on(verdict_of)
assert verdict_of(loss["he"], loss["attention"]) == row["verdict"]

# %% [markdown] tags=["exercise"]
# **The best of many flatters.** Try twenty arms that are all alike: one of them has the lowest test loss, by
# luck. A choice must be made on other sentences than those that are reported.
#
# **Exercise 14.2** (difficulty 1, 3 min). Write `report_best(validation, test)` for the losses of several
# arms, `(n_arms,)` each: the number that may be reported.
#
# <details><summary>Hint</summary>
#
# Which split chooses, and which one is read?
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def report_best(validation: np.ndarray, test: np.ndarray) -> float:
    """Return the loss to report of the arm that was chosen."""
    # SOLUTION
    return test[np.argmin(validation)]


# %% tags=["agreement", "nbval-check-output"]
from attnlab.seeding import numpy_generator

report_best = checks.check_report.hand_on(report_best)
arms = numpy_generator(0, "twenty equal arms").normal(0.0, 1.0, (1000, 2, 20))  # true loss: 0
honest = np.mean([report_best(validation, test) for validation, test in arms])
flattered = arms[:, 1].min(axis=1).mean()
print(f"twenty equal arms, true loss 0: honest {honest:+.2f}, best on test {flattered:+.2f}")
assert abs(honest) < 0.1 < -flattered

# %% [markdown] tags=["exercise"]
# **Build 14** (difficulty 3, 10 min; builds on exercise 14.1). Hold a claim against raw records. Write
# `judge_lower(runs, first, second, metric)` for a table with columns `variant`, `seed` and the metric: how
# many seeds both have, the ends of the interval (14.1) of first minus second, and the verdict on *the first is
# lower*. Records are only appended to, so of a repeated run the last line counts. Below three seeds the ends
# are `nan`.
#
# <details><summary>Hint</summary>
#
# `drop_duplicates(["variant", "seed"], keep="last")`, then `pivot` with a row a seed, and `dropna`. Your
# `verdict_of` does the rest.
#
# </details>


# %% jupyter={"source_hidden": true} tags=["solution"]
def judge_lower(runs, first: str, second: str, metric: str) -> tuple[int, float, float, str]:
    """Return the number of pairs, the interval of first minus second, and the verdict."""
    # SOLUTION
    last = runs.drop_duplicates(["variant", "seed"], keep="last")
    pairs = last.pivot(index="seed", columns="variant", values=metric)[[first, second]].dropna()
    verdict = "not recorded yet" if pairs.empty else verdict_of(pairs[first], pairs[second])
    n, D = len(pairs), pairs[first] - pairs[second]
    if n < 3:
        return n, float("nan"), float("nan"), verdict
    half = compare.student_t_975(n - 1) * D.std(ddof=1) / n**0.5
    return n, D.mean() - half, D.mean() + half, verdict


# %% tags=["nbval-ignore-output"]
judge_lower = checks.check_claim.hand_on(judge_lower)
for mixer in ("she", "he", "we", "me"):
    n, low, high, verdict = judge_lower(runs, mixer, "attention", "test_loss_nats")
    print(
        f"{mixer:>3} lower than attention on tales: {n} seeds, {low:+.3f} to {high:+.3f}: {verdict}"
    )

# %% [markdown]
# **Takeaway.** A verdict is an interval of paired differences that leaves zero out, from three seeds or more,
# of an arm that was chosen on other data.

# %% [markdown]
# ## 3  The first paper: Extractors   *(3 min)*
#
# First the words of a verdict, then a fold a claim. *Seeds* are trained runs; what is computed, counted or timed
# has none. A time is a median over interleaved rounds with its 95 % interval.

# %% tags=["nbval-ignore-output"]
from attnlab.claims import verdicts_markdown

first = lines[lines["id"].str.startswith("E")]
display(Markdown(verdicts_markdown()))
display(Markdown(ledger_markdown(first)))

# %% [markdown]
# The losses behind E7 in full, best first: on *tales*, where the floor is known, and on children's books.

# %% tags=["nbval-ignore-output"]
from attnlab.studies.report import results_table

gap = {"test_gap_nats": "gap to the true source (nats per token)"}
display(Markdown(results_table(runs, columns=gap)))
columns = {
    "test_loss_nats": "unseen books (nats per token)",
    "test_bits_per_byte": "bits per byte",
    "train_loss_nats": "training cost at the end (nats per token)",
}
books = load_runs("language-model/paper/children")
display(Markdown(results_table(books, columns=columns)))
counted = load_runs("n-grams/paper/children").iloc[-1]
print(f"Counting {counted['best_order']:.0f}-grams on the same text (Kneser-Ney): "
      f"{counted['test_loss_nats']:.3f} nats per token on the unseen books.")  # fmt: skip

# %% [markdown]
# **What we see.** What can be computed is so: the chain, the forms, the count, the path. What is *better* is
# another matter: E7 has a line for each part of the claim, each quantity and each ground, and they do not all
# say the same. SHE holds 32.5 times the weights of attention's mixer at 128 tokens, so equal width is not equal
# size.
#
# **Takeaway.** The first paper's counts are right. Its order of losses depends on what is held equal, and our
# members are reconstructions.

# %% [markdown]
# ## 4  The second paper: nets in place of attention   *(10 min)*
#
# To *replace* means to keep 95 % of a baseline's score by the whole interval; in the later study, of a strong
# teacher, also 97 % on average. The baseline is the teacher, or, where the arm was tuned after the swap, the
# teacher trained on for as long. The interval is over seeds and sentences; the arm is the best on
# *validation*. A teacher below 20 decides nothing, on captions of the later study one below 38 BLEU.
#
# Older captions (a teacher of 35 BLEU, no validation scores) stand here until the later study decides the
# same sentence. What it has not recorded is said to be missing.

# %% tags=["nbval-ignore-output"]
second = lines[lines["id"].str.startswith("R")]
display(Markdown(ledger_markdown(second)))

# %% [markdown]
# The scores behind them: first the later study (notebook 13), if it is recorded, then the older one. The
# *published net* reads all of both sentences at once; the *cut net* is the same, taught on targets that end at a
# random place; the *net per query* reads the source and one query. Linear attention has no softmax over
# positions. *Tuned*: the nets learnt on from the translations after the swap. Averages match nothing: the best
# control of each site. Where all sites go in the older study, ALR of size M stands at the self sites.

# %% tags=["nbval-ignore-output"]
from attnlab.studies.replaced_verdicts import JUDGED_ON
from attnlab.studies.report import REPLACED, replacement_table, stand_in_table

display(Markdown(stand_in_table() or "The later study: not recorded yet."))
for experiment, arms in REPLACED.items():
    table = replacement_table(load_runs(experiment), variants=arms)
    title = f"**Where the pairs are {JUDGED_ON[experiment]}** (`{experiment}`)"
    display(Markdown(f"{title}\n\n{table}"))

# %% [markdown]
# **What helps a net at the cross site**, on the toy: first how it is taught, in pairs of rows that differ in the
# lessons alone; then its size, depth and parts. All had the same steps and rate: a larger net that ends lower may
# need more. *Kept* is counted from the site's best control, eq. (9.2).

# %% tags=["nbval-ignore-output"]
from attnlab.chapters.what_we_found import nets
from attnlab.show import wrapped

toy = nets.recorded()
for title, rows in {"The leak": nets.LEAK, "What helps": nets.HELPS}.items():
    display(Markdown(f"**{title}**\n\n{nets.ranges_markdown(toy, rows)}"))
for arm, than, names in (
    (f"{nets.QUERY}/gate", nets.QUERY, ("A query gate", "none")),
    (f"{nets.QUERY}/tuned", nets.QUERY, ("The net per query, tuned", "not tuned")),
    (f"{nets.CUT}/tuned", nets.CUT, ("The cut net, tuned", "not tuned")),
):
    print(wrapped(nets.compare(toy, arm, than, names=names)))

# %% [markdown]
# **Is the teacher needed?** The study says that nets trained from scratch fail. Take it apart. *From scratch*: a
# new body, new nets, trained as the teacher was; also with a *quiet start* (a new sublayer adds nothing at first),
# longer, slower. *New nets in the teacher's body*, tuned there. *Distilled*: taught by its activations; then the
# nets tuned, or everything. All of it with many pairs of sentences, and with few.
#
# **Predict.** Where does *from scratch* lose: with many pairs, with few, always?

# %% tags=["nbval-ignore-output"]
points, teachers = nets.ways_points()
show(nets.ways(points, teachers=teachers))
for name in (nets.TOY, nets.SMALL):
    print(name, wrapped(nets.trained_on(nets.recorded(name))), sep="\n")

# %% [markdown]
# With many pairs, nets from scratch end where attention does, or a little below. With few, they lose, and the
# distilled and tuned ones lose less or nothing. New nets in the teacher's body, tuned alone, end lowest; they also
# had the fewest steps. Budgets differ: a row is a recipe. Where tuned stand-ins end *above* their teacher, more
# lessons may have done it: the teacher trained on as long gains as well (the last lines).

# %% [markdown]
# **What we see.** On the toy, self-attention can go. At the cross site the published net had read the answer
# while it learnt (notebook 09, section 4). What saves weights is a product of two things, as in linear
# attention, not a wider net. Distillation is not necessary on the toy, it is *economical*: it replaces sentences.
# What is left of a strong teacher says the first table; what each ingredient of that recipe is worth, the lines of
# R10.
#
# **Takeaway.** "Can be replaced" is a statement about a site, a net, a lesson and a kind of sentence. Name
# all four.

# %% [markdown]
# ## 5  Any claim, and what stays open   *(4 min)*
#
# **Play, then answer.** Choose a claim. Which one changes its verdict from line to line? For which does the
# *doubt* weigh more than the number?

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.show import explore

explore(
    pictures.evidence,
    presets=[{"claim": "E9"}, {"claim": "R6"}, {"claim": "E11"}],
    **pictures.DIALS,
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# In these records E6 turns round with the order of summing, E8 for SHE with the kind of work, and R9 with the
# number of pairs. For R6 the doubt is the finding: the claim was measured with a net that had seen the
# answer.
#
# </details>
#
# **Open.** The papers ask for more: other efficient mixers (E11), other tasks than writing text (E12), size
# (E13), other texts (E14), the published teachers (R1), other tasks than translation (R11). Each has its line
# in the ledger, and the line looks into the records.
#
# **Takeaway.** A claim without a record is not false. It is not known here.

# %% [markdown]
# ## 6  Six questions   *(3 min)*
#
# Who has read the workbook can answer these; each option has its reason. They go further than the six of
# notebook 00.

# %% tags=["widget", "nbval-ignore-output"]
from attnlab.teach import show_quiz

show_quiz("what_we_found")

# %% tags=["hide-input", "nbval-ignore-output"]
display(Markdown(ledger_markdown(lines[lines["id"] == "T1"])))

# %% [markdown]
# **Takeaway.** The same answer from memory, with its reason, is worth more than the right letter.

# %% [markdown]
# ## Summary
#
# - You **named** five findings, each with a number from records (section 1).
# - You **derived** a verdict by eq. (14.1), and there is none below three seeds.
# - You **decided** what may be reported: twenty equal arms seem 1.9 standard deviations better than they are,
#   if the test sentences choose.
# - You **found** the evidence of any claim in the tables of sections 3 and 4, or in the panel.
# - You **answered** six questions, or know which notebook to read again.

# %% [markdown]
# ## What we did not show
#
# - Two cores and small models. What is *not distinguishable* here may be clear at a hundred times the budget.
# - The interval of eq. (14.1) is of seeds. It does not know other texts, other sizes, other rates.
# - With a hundred lines some are wrong by luck: of 95 % intervals one in twenty.
# - Where no validation score is recorded, an arm is chosen on the test sentences, and there is no verdict.
# - What the papers claim is read from abstracts, summaries and code (notebook 00, section 6).
#
# ## Notation used here

# %% tags=["hide-input", "nbval-ignore-output"]
from attnlab.teach import show_notation

show_notation(["loss_nats", "d_model", "time", "bleu"])

# %% [markdown]
# ## Sources
#
# - The Extractor: [arXiv:2308.07661](https://arxiv.org/abs/2308.07661), abstract, and summaries of its text.
# - Shallow nets: [arXiv:2311.10642](https://arxiv.org/abs/2311.10642), and its released code.
# - Student, *The Probable Error of a Mean*, Biometrika 1908: the law of eq. (14.1).
#
# On the command line `attnlab claims` prints the ledger, and `attnlab claims E7` all there is on one claim.
