"""Hold what was claimed of replaced attention against the records of the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from attnlab.analysis.compare import FAILS, HOLDS, UNDECIDED, latest_runs
from attnlab.markdown import markdown_table
from attnlab.studies.attentionless.words import arm_words

NOT_RECORDED = "not recorded yet"
AIM = 0.95  # of the teacher's BLEU: what counts as replaced
TAUGHT = r"(?!.*/scratch)"  # by a teacher; training from scratch is a claim of its own
NO_SOFTMAX = r"(cross|all)/(?!identity)(?!.*learned_head)"  # nowhere at the cross site


@dataclass(frozen=True, kw_only=True)
class ReplacementClaim:
    """A sentence that is true or false with the best of some arms.

    Args:
        says: The claim in words.
        arms: Pattern of the arms that speak for or against it.
        is_possible: Whether it says that such an arm keeps the aim, or that none does.
    """

    says: str
    arms: str
    is_possible: bool


CLAIMS = (  # arXiv:2311.10642; the fifth is what follows from "it is the softmax that counts"
    ReplacementClaim(
        says="a net can replace encoder self-attention",
        arms=TAUGHT + r"encoder_self/(alr|aslr|alrr|elr)/",
        is_possible=True,
    ),
    ReplacementClaim(
        says="a net can replace decoder self-attention",
        arms=TAUGHT + r"decoder_self/alr/",
        is_possible=True,
    ),
    ReplacementClaim(
        says="nets can replace both at once", arms=TAUGHT + r"(self/alr|all)/", is_possible=True
    ),
    ReplacementClaim(
        says="no net can replace cross-attention",
        arms=TAUGHT + NO_SOFTMAX + r"(paper|truncated|prefix|per_query)/",
        is_possible=False,
    ),
    ReplacementClaim(
        says="nothing without a softmax can replace it",
        arms=TAUGHT + NO_SOFTMAX,
        is_possible=False,
    ),
    ReplacementClaim(says="nets trained from scratch fail", arms=r".*/scratch", is_possible=False),
)


def judge_replacements(runs: pd.DataFrame) -> pd.DataFrame:
    """Judge each of ``CLAIMS`` by the arm of its kind with the best mean share of BLEU.

    Replaced means: at least ``AIM`` of the BLEU of the same seed's teacher, with every seed and
    on the middle 95 % of resampled test sets. A share that lies on both sides of the aim decides
    nothing. The arm is the best of many on the same sentences, which flatters it.

    Args:
        runs: Rows ``variant``, ``seed``, ``bleu``, ``bleu_low`` and ``bleu_high`` of one set of
            pairs.

    Returns:
        One row a claim: ``says``, ``verdict``, ``arm`` (in words), ``share_low``,
        ``share_high``, ``n_seeds``. Claims without an arm are left out.
    """
    runs = latest_runs(runs)
    rows = []
    for claim in CLAIMS:
        best = best_arm(runs, arms=claim.arms)
        if best.empty:
            continue
        low, high = float(best["share_low"].min()), float(best["share_high"].max())
        verdict = HOLDS if (low >= AIM) == claim.is_possible else FAILS
        rows.append(
            {
                "says": claim.says,
                "verdict": UNDECIDED if low < AIM <= high else verdict,
                "arm": arm_words(str(best["variant"].iloc[0])),
                "share_low": low,
                "share_high": high,
                "n_seeds": len(best),
            }
        )
    columns = ["says", "verdict", "arm", "share_low", "share_high", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)


def claims_table(runs: Mapping[str, pd.DataFrame]) -> str:
    """Return the claims as Markdown: one row a claim, one column a set of pairs.

    Args:
        runs: Records by the words for their set of pairs; sets that judge nothing are left out.
    """
    judged = {title: judge_replacements(table).set_index("says") for title, table in runs.items()}
    judged = {title: rows for title, rows in judged.items() if len(rows)}
    if not judged:
        return f"The claims: {NOT_RECORDED}."
    lines = []
    for claim in CLAIMS:
        cells = [
            _verdict_words(rows.loc[claim.says]) if claim.says in rows.index else NOT_RECORDED
            for rows in judged.values()
        ]
        lines.append([claim.says, *cells])
    return markdown_table(["claim", *judged], lines)


def _verdict_words(row: pd.Series) -> str:
    low, high = (f"{100 * row[name]:.1f}" for name in ("share_low", "share_high"))
    share = low if low == high else f"{low} to {high}"
    seeds = "1 seed" if row["n_seeds"] == 1 else f"{row['n_seeds']} seeds"
    return f"**{row['verdict']}** ({row['arm']}: {share}%, {seeds})"


def best_arm(runs: pd.DataFrame, *, arms: str) -> pd.DataFrame:
    """Return the runs of the arm with the best mean share of its teachers' BLEU.

    Args:
        runs: Rows as ``judge_replacements`` reads them, each variant and seed once.
        arms: Pattern that the beginning of a variant matches.

    Returns:
        The same columns with ``share``, ``share_low`` and ``share_high``; empty if no arm
        matches, or none has a teacher.
    """
    teachers = runs[runs["variant"] == "teacher"].set_index("seed")["bleu"]
    chosen = runs[runs["variant"].astype(str).str.match(arms)]
    own = chosen["seed"].map(teachers)
    shares = {f"share{end}": chosen[f"bleu{end}"] / own for end in ("", "_low", "_high")}
    for end in ("_low", "_high"):  # on the same sentences, where a record has it: narrower
        if f"bleu_share{end}" in chosen:
            shares[f"share{end}"] = chosen[f"bleu_share{end}"].fillna(shares[f"share{end}"])
    chosen = chosen.assign(**shares).dropna(subset=["share"])
    if chosen.empty:
        return chosen
    best = chosen.groupby("variant")["share"].mean().idxmax()
    return chosen[chosen["variant"] == best]
