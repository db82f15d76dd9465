"""Verdicts on what the second paper claims, by one rule, from the records of both its studies.

The rule. To replace is to keep ``AIM`` of a baseline's score on the test split, with the whole
95 % interval; in the later study also ``SHARE`` of it on average, of a teacher of ``STRONG`` BLEU.
The baseline of what was tuned after the swap is the teacher, trained on for as many steps, or as it
was where that is better on validation (training on may spoil it); of all else the teacher as it
was. Of many arms the one speaks that keeps most on the *validation* split.
The interval is over seeds and sentences. A teacher below ``WEAK`` decides nothing, nor one within
``MARGIN`` of an answer without training, nor do fewer than ``MIN_SEEDS`` seeds, another baseline,
or an arm that was chosen on the test split.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from attnlab.analysis.compare import (
    FAILS,
    HOLDS,
    MIN_SEEDS,
    UNDECIDED,
    latest_runs,
    student_t_975,
    too_few,
)
from attnlab.distillation import CONTROLS
from attnlab.errors import AttnlabError
from attnlab.paths import RUNS
from attnlab.records import load_runs
from attnlab.seeding import numpy_generator
from attnlab.studies.arms import TEACHER, arm_columns
from attnlab.studies.trivial import BASELINES as TRIVIAL
from attnlab.training.scores import resampled_bleu, unpack_counts
from attnlab.training.texts import resampled_means, unpack_scores

OLDER, LATER = "attentionless", "replaced"  # the two studies
AIM, SHARE = 0.95, 0.97  # of the baseline's score: what the whole interval keeps, and the mean
WEAK, STRONG = 20, 38  # out of 100: below, a teacher decides nothing; that of captions aims higher
N_PICKS = 20  # sets of seeds that are drawn with each set of sentences
MARGIN = 10  # points of a teacher above an answer without training; with fewer, what is kept of it?
BASELINES = {False: "teacher as it was", True: "teacher, trained on as long"}

NOT_RECORDED = "not recorded yet"
TOO_WEAK = "teacher too weak to decide"
UNFAIR = "no fair baseline recorded"
ON_TEST = "chosen on test: no verdict"
NO_COUNTS = "no interval recorded"
NO_VERDICTS = (TOO_WEAK, UNFAIR, ON_TEST, NO_COUNTS)  # why there is none, besides too few seeds

CAPTIONS, OLD_CAPTIONS = f"{LATER}/paper/multi30k/de-en", f"{OLDER}/paper/multi30k/de-en"
JUDGED_ON = {  # translations that are judged: experiment, and words for its pairs
    f"{OLDER}/classroom/toy": "toy languages",
    f"{OLDER}/classroom/toy_small": "toy languages, few pairs",
    CAPTIONS: "captions",
    f"{LATER}/paper/multi30k/en-de": "captions, English to German",
    f"{LATER}/paper/multi30k/fr-en": "captions, French to English",
    f"{LATER}/paper/multi30k/en-fr": "captions, English to French",
    OLD_CAPTIONS: "captions, older teacher",
    f"{OLDER}/classroom/ted_iwslt/fr-en": "TED talks",
    f"{LATER}/paper/ted_iwslt/de-en": "TED talks, German to English",
}
OTHER_TASKS = {  # what is no translation: data, words, and the score that is judged
    "headlines": ("headlines", "rouge_l"),
    "dialogue": ("replies in a dialogue", "rouge_l"),
    "code": ("lines of code", "exact_match"),
    "scan/simple": ("SCAN, simple", "exact_match"),
    "scan/length": ("SCAN, longer", "exact_match"),
    "scan/jump": ("SCAN, a new verb", "exact_match"),
    "cogs": ("COGS", "exact_match"),
    "cogs/gen": ("COGS, new structure", "gen_exact_match"),  # another test of the same runs
}
SCORE_NAMES = {"bleu": "BLEU", "rouge_l": "ROUGE-L", "exact_match": "exact match",
               "gen_exact_match": "exact match"}  # fmt: skip
N_SCORED, GEN_SCORED = "details.bleu.n_sentences", "details.gen.bleu.n_sentences"
SENTENCES, GEN = "details.bleu.sentences", "/gen"
COLUMNS = (
    "experiment", "variant", "seed", "bleu", "validation_bleu", SENTENCES,
    "details.bleu.n_sentences", "details.data.test_too_long",
)  # fmt: skip


class Rule(NamedTuple):
    """What an arm has to keep, of what, and of how good a teacher."""

    score: str = "bleu"  # that is judged: a metric of the records
    share: float = AIM  # of the baseline's score, mean over seeds; AIM by the whole interval
    least: float = WEAK  # score of the teacher, out of 100

    @property
    def quantity(self) -> str:
        """What is measured, in words."""
        return f"{SCORE_NAMES[self.score]}, written freely, over the baseline's"

    @property
    def columns(self) -> tuple[str, ...]:
        """What is read of the records."""
        if self.score == "bleu":
            return COLUMNS
        chosen_by = ("validation_exact_match",) if "exact_match" in self.score else ()
        n_scored = (GEN_SCORED,) if self.score.startswith("gen_") else ()
        return (*COLUMNS, self.score, *chosen_by, self.texts, *n_scored)

    @property
    def texts(self) -> str:
        """Where a record keeps the score of each text."""
        gen = "gen." if self.score.startswith("gen_") else ""
        return f"details.{gen}texts.{self.score.removeprefix('gen_')}.texts"

    def scored(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return runs with ``score`` and ``validation`` out of 100, and packed ``counts``."""
        by, out_of = "validation_bleu", 1
        counts = SENTENCES if self.score == "bleu" else self.texts
        if "exact_match" in self.score:
            by, out_of = "validation_exact_match", 100
        if self.score.startswith("gen_"):
            runs = runs.assign(**{N_SCORED: runs[GEN_SCORED]})
        found = {"score": out_of * runs[self.score].astype(float),
                 "validation": out_of * runs[by].astype(float)}  # fmt: skip
        return runs.assign(**found, counts=runs[counts])


TRANSLATED = Rule()


def rule_of(experiment: str) -> Rule:
    """Return the rule for the records of an experiment: ``study/scale/data``.

    Data may be another test of the same runs, ``cogs/gen``.
    """
    study, _, data = experiment.split("/", 2)
    if study != LATER:
        return TRANSLATED
    _, score = OTHER_TASKS.get(data, ("", "bleu"))
    return Rule(score=score, share=SHARE, least=STRONG if data.startswith("multi30k") else WEAK)


def is_too_weak(teacher: float, trivial: float, *, least: float = WEAK) -> bool:
    """Return whether a teacher is too weak to decide what can be kept of it.

    Args:
        teacher, trivial: Scores out of 100, of the teacher and of the best answer without
            training; nan for that where none is recorded.
        least: What the teacher has to reach.
    """
    return teacher < least or teacher < trivial + MARGIN  # nan: False


class ReplacementClaim(NamedTuple):
    """A sentence that is true or false with the best of some arms."""

    claim: str  # its number
    says: str  # in words, never in the negative
    paper: str  # what the paper says to that
    arms: str  # query on the columns of an arm: those that speak for or against it


NET = (
    "not learned_head and n_times == 1 and keeps == '' and kind in ('alr', 'alrr', 'aslr', 'elr', "
    "'paper', 'truncated', 'prefix', 'per_query')"
)
TAUGHT, SCRATCH = f"{NET} and begins != 'scratch'", f"{NET} and begins == 'scratch'"
LEARNS = f"method not in {CONTROLS} and begins != 'scratch'"  # of controls nothing follows
LINEAR = "method in ('linear', 'ssd', 'gated_delta')"  # features or a table at every site
NO_SOFTMAX = f"{LEARNS} and not has_cross_softmax and keeps == ''"
CLAIMS = tuple(  # arXiv:2311.10642; what is longer trained than its baseline speaks for none
    ReplacementClaim(*claim)
    for claim in (
        ("R5", "a net can replace encoder self-attention", "yes",
         f"{TAUGHT} and site == 'encoder_self'"),
        ("R5", "a net can replace decoder self-attention", "yes",
         f"{TAUGHT} and site == 'decoder_self'"),
        ("R5", "nets can replace both kinds of self-attention at once", "yes",
         f"{TAUGHT} and site == 'self'"),
        ("R6", "a net can replace cross-attention", "no", f"{TAUGHT} and site == 'cross'"),
        ("R6", "nets can replace all attention at once", "no", f"{TAUGHT} and site == 'all'"),
        ("R10", "a stand-in without a softmax can replace cross-attention", "open",
         f"{NO_SOFTMAX} and site == 'cross'"),
        ("R9", "a net trained from scratch can replace encoder self-attention", "no",
         f"{SCRATCH} and site == 'encoder_self'"),
        ("R9", "nets trained from scratch can replace all attention", "no",
         f"{SCRATCH} and site == 'all'"),
        ("R5", "linear attention can replace encoder self-attention", "open",
         f"{LEARNS} and {LINEAR} and site == 'encoder_self'"),
        ("R5", "linear attention can replace decoder self-attention", "open",
         f"{LEARNS} and {LINEAR} and site == 'decoder_self'"),
        ("R10", "stand-ins without a softmax over positions can replace all attention at once",
         "open",
         f"{NO_SOFTMAX} and site == 'all' and window == 0"),
        ("R10", "stand-ins with a window of softmax can replace all attention at once", "open",
         f"{NO_SOFTMAX} and site == 'all' and window > 0"),
        ("R10", "stand-ins can replace all but some layers of attention", "open",
         f"{LEARNS} and keeps != ''"),
        ("R9", "linear attention trained from scratch can replace all attention", "no",
         f"begins == 'scratch' and {LINEAR} and n_times == 1 and site == 'all'"),
    )
)  # fmt: skip


def share_over_seeds(
    own: Sequence[np.ndarray],
    baseline: Sequence[np.ndarray],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    r"""Return the mean over seeds of BLEU over a baseline's, and its 95 % interval.

    Two bootstraps are added. One draws test sentences, the same for both systems of every seed:
    all are tested on one set. The other draws seeds, each with its share of *all* sentences: what
    a seed has on a drawn set differs by that set as well, which would count twice. Means over S
    drawn seeds vary too little (of three, 95 % intervals hold the truth in 73 % of cases): they
    are widened by :math:`\frac{t_{S-1}}{1.96} \sqrt{\frac{S}{S-1}}`, Student's t. With one seed
    the interval is over sentences alone.

    Shapes:
        own, baseline: one ``(n_sentences, 10)`` a seed, as ``unpack_counts`` returns them.
    Args:
        n_resamples: Test sets that are drawn, and ``N_PICKS`` sets of seeds with each.
        seed: Picks them (stream ``bootstrap``).
    Raises:
        AttnlabError: Different test sentences, or a baseline without BLEU.
    Source:
        Koehn 2004, section 5, for pairs; Davison and Hinkley 1997, section 3.8, for two steps.
    """
    own, baseline = list(own), list(baseline)
    how = {"n_resamples": n_resamples, "seed": seed}
    _require_same([each[:, -1] for each in (*own, *baseline)])
    ours, others = ([resampled_bleu(c, **how) for c in part] for part in (own, baseline))
    return share_of_resampled(ours, others, seed=seed)


def _require_same(lengths: Sequence[np.ndarray]) -> None:
    """Refuse systems whose references have other lengths."""
    if any(not np.array_equal(each, lengths[0]) for each in lengths):
        raise AttnlabError("Shares compare systems on the same test sentences; these differ.")


def share_of_resampled(
    own: Sequence[np.ndarray], baseline: Sequence[np.ndarray], *, seed: int = 0
) -> tuple[float, float, float]:
    """Return what ``share_over_seeds`` does, from scores on all sentences and on resampled sets.

    Shapes:
        own, baseline: one ``(1 + n_resamples,)`` a seed, all sentences first.
    """
    ours, others = np.array(own), np.array(baseline)
    if others.min() <= 0:
        raise AttnlabError("The baseline scores 0 BLEU: nothing can be a share of that.")
    return _over_seeds(ours / others, seed)


def _over_seeds(compared: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Return mean and interval of what was compared: ``(n_seeds, 1 + n_resamples)``."""
    (n_seeds, n_resamples), whole = compared[:, 1:].shape, compared[:, 0]
    drawn = compared[:, 1:].mean(0)
    if n_seeds > 1:
        random = numpy_generator(seed, "bootstrap/seeds")
        picks = random.integers(n_seeds, size=(n_seeds, n_resamples, N_PICKS))
        wider = student_t_975(n_seeds - 1) / 1.96 * sqrt(n_seeds / (n_seeds - 1))
        drawn = drawn[:, None] + wider * (whole[picks].mean(0) - whole.mean())
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(whole.mean()), float(low), float(high)


def bleu_difference(
    runs: pd.DataFrame, variant: str, baseline: str
) -> tuple[int, float, float, float]:
    """Return by how much BLEU a variant is above another: pairs of seeds, mean, 95 % interval.

    The interval is over seeds and sentences, as that of ``share_over_seeds``.

    Args:
        runs: Rows of one experiment, as ``load_runs`` returns them.

    Returns:
        0 and nan where no seed of both has the counts of its sentences.
    """
    if SENTENCES not in runs:
        return 0, np.nan, np.nan, np.nan
    wide = latest_runs(runs).pivot(index="seed", columns="variant", values=SENTENCES)
    pairs = wide.reindex(columns=[variant, baseline]).dropna()
    if pairs.empty:
        return 0, np.nan, np.nan, np.nan
    _require_same([unpack_counts(text)[:, -1] for text in pairs.to_numpy().flat])
    own, other = (np.array([_resampled("bleu", text) for text in pairs[name]]) for name in pairs)
    return len(pairs), *_over_seeds(own - other, 0)


def fair_shares(runs: pd.DataFrame, *, rule: Rule = TRANSLATED) -> pd.DataFrame:
    """Return the arms of an experiment with what each keeps of its baseline, seed by seed.

    Args:
        runs: Rows with the columns of the rule, teachers among them; a repeated run counts once,
            the last.

    Returns:
        The runs and the columns of their arms, with ``baseline`` (in words), ``is_fair`` (False
        where the teacher, trained on, is wanted and not recorded), ``share`` and
        ``validation_share`` of the score, ``teacher_score``, ``trivial_score`` (of the best
        answer without training; nan: none recorded), and of the baseline all that ends in
        ``_of_baseline``. A seed without a teacher is left out.
    """
    runs = latest_runs(runs)
    is_trivial = runs["variant"].isin(TRIVIAL)
    trivial = rule.scored(runs[is_trivial])["score"].max()
    runs = rule.scored(arm_columns(runs[~is_trivial]))
    is_longer = runs["method"].eq("identity") & runs["tunes"].ne("nothing")
    is_teacher = runs["variant"].eq(TEACHER)
    own = runs[is_longer | is_teacher].assign(is_longer=is_longer)
    own = own.drop_duplicates(["is_longer", "seed"])
    arms = runs[~(is_longer | is_teacher)]
    wants_longer = arms["tunes"].ne("nothing") & arms["begins"].ne("scratch")
    recorded = set(zip(own["is_longer"], own["seed"], strict=True))
    is_fair = np.array([pair in recorded for pair in zip(wants_longer, arms["seed"], strict=True)])
    is_spoilt = _is_spoilt(own)
    arms = arms.assign(is_longer=wants_longer & is_fair & ~is_spoilt, is_fair=is_fair.astype(bool))
    measured = ["score", "validation", "counts", SENTENCES]
    own, teacher = own[["is_longer", "seed", *measured]], own[~own["is_longer"]]
    arms = arms.merge(own, on=["is_longer", "seed"], suffixes=("", "_of_baseline"))
    shares = {
        name: (arms[score] / arms[f"{score}_of_baseline"].replace(0, np.nan)).astype(float)
        for name, score in (("share", "score"), ("validation_share", "validation"))
    }
    scores = arms["seed"].map(teacher.set_index("seed")["score"])
    words = arms["is_longer"].map(BASELINES)
    return arms.assign(teacher_score=scores, trivial_score=trivial, baseline=words, **shares)


def _is_spoilt(teachers: pd.DataFrame) -> bool:
    """Return whether training on made teachers worse on validation, over the seeds of both."""
    wide = teachers.pivot(index="seed", columns="is_longer", values="validation")
    wide = wide.reindex(columns=[False, True]).dropna()
    return len(wide) > 0 and bool(wide[True].mean() < wide[False].mean())


def choose_arm(arms: pd.DataFrame) -> tuple[pd.DataFrame, str, int]:
    """Return the runs of the arm that speaks for a claim, on what it was chosen, and of how many.

    Arms with a fair baseline for ``MIN_SEEDS`` seeds come before others; those with a validation
    score for each seed before those without. The seeds are those it is judged by: a lucky start
    flatters on both splits.

    Args:
        arms: Rows of ``fair_shares``.
    """
    left = arms[arms["is_fair"]] if arms["is_fair"].any() else arms
    has_enough = left.groupby("variant")["seed"].transform("size") >= MIN_SEEDS
    left = left[has_enough] if has_enough.any() else left
    is_valid = left["validation_share"].notna().groupby(left["variant"]).transform("all")
    left = left[is_valid] if is_valid.any() else left
    split, column = ("validation", "validation_share") if is_valid.any() else ("test", "share")
    best = left.groupby("variant")[column].mean().idxmax()
    split = "the only arm" if arms["variant"].nunique() == 1 else split
    return left[left["variant"] == best], split, left["variant"].nunique()


def judge_replacements(runs: pd.DataFrame, *, rule: Rule = TRANSLATED) -> pd.DataFrame:
    """Judge each of ``CLAIMS`` by the rule of this module, on one set of pairs.

    Args:
        runs: As for ``fair_shares``.

    Returns:
        One row a claim, as ``replacement_verdicts`` has them; without an arm it is left out.
    """
    arms = fair_shares(runs, rule=rule)
    spoken = [(claim, arms.query(claim.arms)) for claim in CLAIMS]
    rows = [_judge(claim, some, rule) for claim, some in spoken if len(some)]
    n_sentences, n_all = n_scored(rule.scored(runs)) if rows else (0, 0)
    return pd.DataFrame(rows).assign(n_sentences=n_sentences, n_all=n_all)


def n_scored(runs: pd.DataFrame) -> tuple[int, int]:
    """Return how many test sentences were scored, and of how many; the others are too long.

    Args:
        runs: Rows of one experiment, as ``load_runs`` returns them. Only a teacher's record says
            what was too long; in the toy languages nothing is.
    """
    n_sentences = int(runs[N_SCORED].max())
    too_long = runs.get("details.data.test_too_long", pd.Series(dtype=float)).max()
    return n_sentences, n_sentences + (0 if pd.isna(too_long) else int(too_long))


def _judge(claim: ReplacementClaim, arms: pd.DataFrame, rule: Rule) -> dict[str, Any]:
    best, chosen_on, n_compared = choose_arm(arms)
    one, n_seeds, n_left_out = best.iloc[0], len(best), arms["variant"].nunique() - n_compared
    teacher, is_fair = float(best["teacher_score"].mean()), bool(best["is_fair"].all())
    trivial = float(one["trivial_score"])
    is_weak = is_too_weak(teacher, trivial, least=rule.least)
    share, low, high = float(best["share"].mean()), np.nan, np.nan
    if not is_weak:
        share, low, high = span_of(best, rule=rule)
    no_verdict = {
        TOO_WEAK: is_weak,
        UNFAIR: not is_fair,
        too_few(n_seeds): n_seeds < MIN_SEEDS,
        ON_TEST: chosen_on == "test",
        NO_COUNTS: np.isnan(low),
    }
    reasons = [reason for reason, is_true in no_verdict.items() if is_true]
    keeps = low >= AIM and share >= rule.share
    verdict = HOLDS if keeps else FAILS if high < rule.share else UNDECIDED
    lacking = set(arms.loc[arms["variant"] == one["variant"], "seed"]) - set(best["seed"])
    doubts = {
        f"no fair baseline for seed {', '.join(map(str, sorted(lacking)))}": lacking,
        f"arms left out, with fewer seeds or scores: {n_left_out}": n_left_out,
        f"the teacher has {teacher:.1f}, an answer without training {trivial:.1f}": trivial >= 0,
    }
    return {
        "claim": claim.claim, "says": claim.says, "paper": claim.paper, "quantity": rule.quantity,
        "baseline": one["baseline"], "arm": one["words"],
        "verdict": reasons[0] if reasons else verdict, "share": share, "share_low": low,
        "share_high": high, "n_seeds": n_seeds, "teacher_score": teacher,
        "experiment": one["experiment"], "variant": one["variant"], "chosen_on": chosen_on,
        "doubt": "; ".join(reasons[1:] + [doubt for doubt, is_there in doubts.items() if is_there]),
    }  # fmt: skip


def span_of(arm: pd.DataFrame, *, rule: Rule = TRANSLATED) -> tuple[float, float, float]:
    """Return what an arm keeps, mean over its seeds, and its 95 % interval, nan without counts.

    Args:
        arm: Rows of ``fair_shares``, one a seed.
    """
    pairs = arm[["counts", "counts_of_baseline"]]
    if not pairs.notna().all(axis=None):
        return float(arm["share"].mean()), np.nan, np.nan
    if rule.score == "bleu":
        _require_same([unpack_counts(text)[:, -1] for text in pairs.to_numpy().flat])
    own, baseline = ([_resampled(rule.score, text) for text in pairs[name]] for name in pairs)
    return share_of_resampled(own, baseline)


@lru_cache(maxsize=256)
def _resampled(score: str, counts: str) -> np.ndarray:
    """Return a score on all sentences, then on 1000 resampled test sets, from packed counts."""
    how = {"n_resamples": 1000, "seed": 0}
    if score == "bleu":
        return resampled_bleu(unpack_counts(counts), **how)
    return resampled_means(unpack_scores(counts), **how)


def replacement_verdicts(*, path: Path = RUNS) -> pd.DataFrame:
    """Judge the claims on every set of translations of ``JUDGED_ON``, from the records.

    What the later study decides on captions, the older one does not say once more.

    Args:
        path: A run file, or a folder of them.

    Returns:
        One row a claim and set, claim by claim: ``claim`` (its number), ``says``, ``paper`` (what
        the paper says to it), ``data``, ``quantity``, ``baseline``, ``arm`` in
        words; ``verdict``, or why there is none; ``share`` of the baseline's score, mean over
        seeds, with ``share_low`` and ``share_high`` (nan where the records hold no counts of
        sentences); ``n_seeds``; ``n_sentences`` scored of ``n_all`` in the test split (the rest
        is too long for the model); ``teacher_score``; ``experiment``, ``variant``; ``chosen_on``:
        validation, test or the only arm; ``doubt``.
    """
    table = _judged(JUDGED_ON, path)
    if table.empty:
        return table
    is_decided = table["verdict"].isin([HOLDS, FAILS, UNDECIDED])
    decided = table.loc[is_decided & (table["experiment"] == CAPTIONS), "says"]
    return table[~((table["experiment"] == OLD_CAPTIONS) & table["says"].isin(decided))]


def task_verdicts(*, path: Path = RUNS) -> pd.DataFrame:
    """Judge the claims on the tasks of ``OTHER_TASKS`` that are recorded, smoke left out.

    Returns:
        As ``replacement_verdicts``.
    """
    names = load_runs(path=path, columns=["experiment"])["experiment"].dropna().unique()
    found = {}
    for data, (words, _) in OTHER_TASKS.items():
        here = [f"{LATER}/{scale}/{data}" for scale in ("paper", "classroom")]
        found |= {name: words for name in here if name.removesuffix(GEN) in names}
    return _judged(found, path)


def _judged(experiments: dict[str, str], path: Path) -> pd.DataFrame:
    tables = []
    for experiment, data in experiments.items():
        rule = rule_of(experiment)
        runs = load_runs(experiment.removesuffix(GEN), path=path, columns=rule.columns)
        rows = judge_replacements(runs, rule=rule)
        tables += [rows.assign(data=data)] if len(rows) else []
    if not tables:
        return pd.DataFrame(columns=["says"])
    order = [claim.says for claim in CLAIMS]
    table = pd.concat(tables, ignore_index=True)
    return table.sort_values("says", key=lambda s: s.map(order.index), kind="stable")
