"""Verdicts on what the second paper claims, by one rule, from the records of ``attentionless``.

The rule. To replace is to keep ``AIM`` of a baseline's BLEU on the test split. The baseline of
what was tuned after the swap is the teacher, trained on for as many steps; of all else the teacher
as it was. Of many arms the one speaks that keeps most BLEU on the *validation* split. The 95 %
interval is over seeds and sentences. A teacher below ``WEAK`` BLEU decides nothing, nor do fewer
than ``MIN_SEEDS`` seeds, another baseline, or an arm that was chosen on the test split.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from attnlab.markdown import markdown_table
from attnlab.paths import RUNS
from attnlab.records import load_runs
from attnlab.seeding import numpy_generator
from attnlab.studies.arms import TEACHER, arm_columns
from attnlab.training.scores import resampled_bleu, unpack_counts

AIM = 0.95  # of the baseline's BLEU: what counts as replaced
WEAK = 20  # BLEU; a weaker teacher has little that could be lost
TRAINED_ON = "encoder_self/identity/tuned_all"  # the teacher, for as many steps as arms are tuned
BASELINES = {TEACHER: "teacher as it was", TRAINED_ON: "teacher, trained on as long"}

NOT_RECORDED = "not recorded yet"
TOO_WEAK = "teacher too weak to decide"
UNFAIR = "no fair baseline recorded"
ON_TEST = "chosen on test: no verdict"
NO_COUNTS = "no interval recorded"
NO_VERDICTS = (TOO_WEAK, UNFAIR, ON_TEST, NO_COUNTS)  # why there is none, besides too few seeds
QUANTITY = "BLEU, written freely, over the baseline's"

JUDGED_ON = {  # experiment: words for its pairs
    "attentionless/classroom/toy": "toy languages",
    "attentionless/classroom/toy_small": "toy languages, few pairs",
    "attentionless/paper/multi30k/de-en": "captions",
    "attentionless/classroom/ted_iwslt/fr-en": "TED talks",
}
SENTENCES = "details.bleu.sentences"
COLUMNS = (
    "experiment", "variant", "seed", "bleu", "validation_bleu", SENTENCES,
    "details.bleu.n_sentences", "details.bleu.beam_size", "details.bleu.signature",
    "details.data.test_too_long",
)  # fmt: skip


class ReplacementClaim(NamedTuple):
    """A sentence that is true or false with the best of some arms."""

    claim: str  # its number
    says: str  # in words, never in the negative
    paper: str  # what the paper says to that
    arms: str  # query on the columns of an arm: those that speak for or against it


NET = (
    "not learned_head and n_times == 1 and kind in ('alr', 'alrr', 'aslr', 'elr', 'paper', "
    "'truncated', 'prefix', 'per_query')"
)
TAUGHT, SCRATCH = f"{NET} and begins != 'scratch'", f"{NET} and begins == 'scratch'"
LEARNS = f"method not in {CONTROLS}"  # that a control fails says nothing of others
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
         f"begins != 'scratch' and site == 'cross' and not has_cross_softmax and {LEARNS}"),
        ("R9", "a net trained from scratch can replace encoder self-attention", "no",
         f"{SCRATCH} and site == 'encoder_self'"),
        ("R9", "nets trained from scratch can replace all attention", "no",
         f"{SCRATCH} and site == 'all'"),
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

    A bootstrap in two steps. A resample draws test sentences, the same for both systems of every
    seed: all are tested on one set. Then it draws seeds. Means over S drawn seeds vary too little
    (of three, 95 % intervals hold the truth in 73 % of cases): what the seeds add is widened by
    :math:`\frac{t_{S-1}}{1.96} \sqrt{\frac{S}{S-1}}`, Student's t. With one seed the interval
    is over sentences alone.

    Shapes:
        own, baseline: one ``(n_sentences, 10)`` a seed, as ``unpack_counts`` returns them.
    Args:
        n_resamples: Test sets, and sets of seeds, that are drawn.
        seed: Picks them (stream ``bootstrap``).
    Raises:
        AttnlabError: Different test sentences, or a baseline without BLEU.
    Source:
        Koehn 2004, section 5, for pairs; Davison and Hinkley 1997, section 3.8, for two steps.
    """
    counts, how = [*own, *baseline], {"n_resamples": n_resamples, "seed": seed}
    if any(not np.array_equal(each[:, -1], counts[0][:, -1]) for each in counts):
        raise AttnlabError("Shares compare systems on the same test sentences; these differ.")
    ours, others = (np.array([resampled_bleu(c, **how) for c in part]) for part in (own, baseline))
    if others.min() <= 0:
        raise AttnlabError("The baseline scores 0 BLEU: nothing can be a share of that.")
    (n_seeds, _), shares = ours.shape, ours / others  # (S, 1 + n_resamples), all sentences first
    means = drawn = shares[:, 1:].mean(0)
    if n_seeds > 1:
        random = numpy_generator(seed, "bootstrap/seeds")
        picks = random.integers(n_seeds, size=(n_seeds, n_resamples))
        wider = student_t_975(n_seeds - 1) / 1.96 * sqrt(n_seeds / (n_seeds - 1))
        drawn = means + wider * (np.take_along_axis(shares[:, 1:], picks, 0).mean(0) - means)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(shares[:, 0].mean()), float(low), float(high)


def fair_shares(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the arms of an experiment with what each keeps of its baseline, seed by seed.

    Args:
        runs: Rows with ``COLUMNS``, teachers among them; a repeated run counts once, the last.

    Returns:
        The runs and the columns of their arms, with ``baseline`` (a variant), ``is_fair`` (False
        where the teacher, trained on, is wanted and not recorded: then ``baseline`` is the teacher
        as it was), ``share`` and ``validation_share`` of BLEU, ``teacher_bleu``. A seed without
        a teacher is left out.
    """
    runs = latest_runs(runs)
    arms = arm_columns(runs[~runs["variant"].isin([*BASELINES])])
    wanted = np.where(arms["tunes"] == "nothing", TEACHER, TRAINED_ON)
    recorded = set(zip(runs["variant"], runs["seed"], strict=True))
    is_fair = [pair in recorded for pair in zip(wanted, arms["seed"], strict=True)]
    arms = arms.assign(baseline=np.where(is_fair, wanted, TEACHER), is_fair=is_fair)
    measured = ["bleu", "validation_bleu", SENTENCES]
    own = runs.rename(columns={"variant": "baseline"})[["baseline", "seed", *measured]]
    arms = arms.merge(own, on=["baseline", "seed"], suffixes=("", "_of_baseline"))
    teacher = runs[runs["variant"] == TEACHER].set_index("seed")["bleu"]
    shares = {
        name: (arms[bleu] / arms[f"{bleu}_of_baseline"].replace(0, np.nan)).astype(float)
        for name, bleu in (("share", "bleu"), ("validation_share", "validation_bleu"))
    }
    return arms.assign(teacher_bleu=arms["seed"].map(teacher), **shares)


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


def judge_replacements(runs: pd.DataFrame) -> pd.DataFrame:
    """Judge each of ``CLAIMS`` by the rule of this module, on one set of pairs.

    Args:
        runs: As for ``fair_shares``.

    Returns:
        One row a claim, as ``replacement_verdicts`` has them; without an arm it is left out.
    """
    arms = fair_shares(runs)
    spoken = [(claim, arms.query(claim.arms)) for claim in CLAIMS]
    rows = [_judge(claim, some) for claim, some in spoken if len(some)]
    n_sentences, n_all = n_scored(runs) if rows else (0, 0)
    return pd.DataFrame(rows).assign(n_sentences=n_sentences, n_all=n_all)


def n_scored(runs: pd.DataFrame) -> tuple[int, int]:
    """Return how many test sentences were scored, and of how many; the others are too long.

    Args:
        runs: Rows of one experiment, as ``load_runs`` returns them. Only a teacher's record says
            what was too long; in the toy languages nothing is.
    """
    n_sentences = int(runs["details.bleu.n_sentences"].max())
    too_long = runs.get("details.data.test_too_long", pd.Series(dtype=float)).max()
    return n_sentences, n_sentences + (0 if pd.isna(too_long) else int(too_long))


def _judge(claim: ReplacementClaim, arms: pd.DataFrame) -> dict[str, Any]:
    best, chosen_on, n_compared = choose_arm(arms)
    one, n_seeds, n_left_out = best.iloc[0], len(best), arms["variant"].nunique() - n_compared
    teacher_bleu, is_fair = float(best["teacher_bleu"].mean()), bool(best["is_fair"].all())
    share, low, high = float(best["share"].mean()), np.nan, np.nan
    pairs = best[[SENTENCES, f"{SENTENCES}_of_baseline"]]
    if teacher_bleu >= WEAK and pairs.notna().all(axis=None):
        counts = ([unpack_counts(text) for text in pairs[name]] for name in pairs)
        share, low, high = share_over_seeds(*counts)
    no_verdict = {
        TOO_WEAK: teacher_bleu < WEAK,
        UNFAIR: not is_fair,
        too_few(n_seeds): n_seeds < MIN_SEEDS,
        ON_TEST: chosen_on == "test",
        NO_COUNTS: np.isnan(low),
    }
    reasons = [reason for reason, is_true in no_verdict.items() if is_true]
    verdict = HOLDS if low >= AIM else FAILS if high < AIM else UNDECIDED
    lacking = set(arms.loc[arms["variant"] == one["variant"], "seed"]) - set(best["seed"])
    doubts = {
        f"no fair baseline for seed {', '.join(map(str, sorted(lacking)))}": lacking,
        f"arms left out, with fewer seeds or scores: {n_left_out}": n_left_out,
    }
    return {
        "claim": claim.claim, "says": claim.says, "paper": claim.paper, "quantity": QUANTITY,
        "baseline": BASELINES[one["baseline"]], "arm": one["words"], "how": how_it_learnt(one),
        "verdict": reasons[0] if reasons else verdict, "share": share, "share_low": low,
        "share_high": high, "n_seeds": n_seeds, "teacher_bleu": teacher_bleu,
        "experiment": one["experiment"], "chosen_on": chosen_on,
        "doubt": "; ".join(reasons[1:] + [doubt for doubt, is_there in doubts.items() if is_there]),
        "signature": one["details.bleu.signature"], "beam_size": one["details.bleu.beam_size"],
    }  # fmt: skip


def how_it_learnt(arm: pd.Series) -> str:
    """Say how an arm learnt, from its columns: ``distilled only``, ``distilled, then tuned``."""
    if arm["begins"] == "scratch":
        return "from scratch"
    begun = "distilled" if arm["begins"] == "distilled" else "not taught"
    return f"{begun}, then tuned" if arm["tunes"] != "nothing" else f"{begun} only"


def replacement_verdicts(*, path: Path = RUNS) -> pd.DataFrame:
    """Judge the claims on every set of pairs of ``JUDGED_ON``, from the records.

    Args:
        path: A run file, or a folder of them.

    Returns:
        One row a claim and set, claim by claim: ``claim`` (its number), ``says``, ``paper`` (what
        the paper says to it), ``data``, ``quantity``, ``baseline``, ``arm`` and ``how`` it learnt
        in words; ``verdict``, or why there is none; ``share`` of the baseline's BLEU, mean over
        seeds, with ``share_low`` and ``share_high`` (nan where the records hold no counts of
        sentences); ``n_seeds``; ``n_sentences`` scored of ``n_all`` in the test split (the rest
        is too long for the model); ``teacher_bleu``; ``experiment``; ``chosen_on``: validation,
        test or the only arm; ``doubt``; ``signature`` of BLEU; ``beam_size`` (nan: not recorded).
    """
    tables = []
    for experiment, data in JUDGED_ON.items():
        rows = judge_replacements(load_runs(experiment, path=path, columns=COLUMNS))
        tables += [rows.assign(data=data)] if len(rows) else []
    if not tables:
        return pd.DataFrame(columns=["says"])
    order = [claim.says for claim in CLAIMS]
    table = pd.concat(tables, ignore_index=True)
    return table.sort_values("says", key=lambda s: s.map(order.index), kind="stable")


def claims_table(verdicts: pd.DataFrame) -> str:
    """Return verdicts as Markdown: one row a claim and set of pairs, how it was scored below.

    Args:
        verdicts: From ``replacement_verdicts``.
    """
    if verdicts.empty:
        return f"The claims: {NOT_RECORDED}."
    rows = [_cells(row) for row in verdicts.itertuples()]
    head = "claim (the paper), pairs, arm, chosen on, baseline, kept, seeds, sentences, verdict"
    signatures = " and ".join(f"`{name}`" for name in sorted(set(verdicts["signature"])))
    beams = verdicts["beam_size"].dropna()
    sizes = ", ".join(f"{size:.0f}" for size in sorted(set(beams)))
    return f"{markdown_table(head.split(', '), rows)}\n\n" + (
        f"Kept: the mean share of the baseline's BLEU, with its 95 % interval over seeds and "
        f"sentences; {AIM:.0%} counts as replaced. A teacher below {WEAK} BLEU, fewer than "
        f"{MIN_SEEDS} seeds, another baseline or a choice made on the test split give no verdict. "
        f"BLEU: {signatures}. Beam: {sizes or NOT_RECORDED} (1 is greedy; {len(beams)} of "
        f"{len(verdicts)} rows record it)."
    )


def _cells(row: Any) -> list[str]:
    low, high = (f"{100 * end:.1f}" for end in (row.share_low, row.share_high))
    interval = "" if np.isnan(row.share_low) else f" ({low} to {high})"
    weak = f" ({row.teacher_bleu:.1f} BLEU)" if row.verdict == TOO_WEAK else ""
    doubt = f"; {row.doubt}" if row.doubt else ""
    only = f", {row.how}" if row.how.endswith("only") else ""  # else its own words say it
    return [
        f"{row.says} ({row.paper})", row.data, f"{row.arm}{only}", row.chosen_on, row.baseline,
        f"{100 * row.share:.1f} %{interval}", str(row.n_seeds),
        f"{row.n_sentences:,} of {row.n_all:,}", f"**{row.verdict}**{weak}{doubt}",
    ]  # fmt: skip
