"""Scores of single texts and their means: ROUGE-L, chrF and exact match, with intervals."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sacrebleu import __version__ as CHRF_VERSION
from sacrebleu.metrics.chrf import CHRF

from attnlab.errors import AttnlabError
from attnlab.training.scores import times_drawn

STEPS = 100  # in which a percentage is kept: hundredths


@dataclass(frozen=True, kw_only=True, slots=True)
class TextScore:
    """The mean over texts; ``low`` and ``high`` enclose the middle 95 % of resampled test sets."""

    mean: float
    low: float
    high: float
    by: str  # what computed it, and how
    texts: str  # the score of each, packed by ``pack_scores``


def score_texts(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str = "13a",
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, TextScore]:
    """Return ``rouge_l`` and ``chrf`` out of 100, and ``exact_match`` as a share.

    Each text is scored by itself and counts alike. (chrF of a whole corpus, which pools the
    n-grams of all sentences, is another number; this one has an interval and can be paired.)

    Args:
        hypotheses: What was written, one string a text.
        references: What is right, in the same order.
        tokenize: ``none`` cuts the words of ROUGE-L at blanks alone; else they are runs of letters
            and digits, in lower case.
        n_resamples: Test sets drawn with replacement for the interval.
        seed: Picks them (stream ``bootstrap``): equally many texts are drawn alike.

    Source:
        Lin 2004 (ROUGE-L by rouge-score); Popovic 2015 (chrF by sacreBLEU).
    """
    if len(hypotheses) != len(references) or not references:
        raise AttnlabError(
            f"There are {len(hypotheses)} texts for {len(references)} references. Give one "
            "reference for each text, in the same order, and at least one."
        )
    at_blanks = tokenize == "none"
    cut = "words at blanks" if at_blanks else "its own words, lower case"
    found = {
        "rouge_l": (rouge_l(hypotheses, references, at_blanks=at_blanks),
                    f"rouge-score, rougeL F, no stemmer, {cut}"),
        "chrf": (chrf(hypotheses, references),
                 f"sacreBLEU {CHRF_VERSION}, chrF2, mean of sentences"),
        "exact_match": (exact_match(hypotheses, references), "equal strings"),
    }  # fmt: skip
    scores = {}
    for name, (values, by) in found.items():
        means = resampled_means(values, n_resamples=n_resamples, seed=seed)
        low, high = np.percentile(means[1:], [2.5, 97.5])
        scores[name] = TextScore(
            mean=float(means[0]), low=float(low), high=float(high), by=by, texts=pack_scores(values)
        )
    return scores


def rouge_l(
    hypotheses: Sequence[str], references: Sequence[str], *, at_blanks: bool = False
) -> NDArray[np.float64]:
    r"""Return ROUGE-L of each text, out of 100: ``(n,)``, see ``rouge_l_by_hand``."""
    from rouge_score.rouge_scorer import RougeScorer  # takes a second to load

    scorer = RougeScorer(["rougeL"], tokenizer=_Blanks() if at_blanks else None)
    pairs = zip(references, hypotheses, strict=True)
    return np.array([100 * scorer.score(*pair)["rougeL"].fmeasure for pair in pairs])


class _Blanks:
    """Words between blanks, as they stand."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def rouge_l_by_hand(hypothesis: str, reference: str) -> float:
    r"""Return ROUGE-L of two texts whose words are separated by blanks, out of 100.

    .. math:: R = \frac{\mathrm{LCS}}{n_{ref}},\quad P = \frac{\mathrm{LCS}}{n_{hyp}},\quad
              F = \frac{2 P R}{P + R}

    LCS is the length of the longest common subsequence: words in the same order, with gaps.

    >>> rouge_l_by_hand("the cat sat", "the black cat sat down")
    75.0
    """
    written, right = hypothesis.split(), reference.split()
    longest = [[0] * (len(right) + 1) for _ in range(len(written) + 1)]
    for i, word in enumerate(written):
        for j, other in enumerate(right):
            skipped = max(longest[i][j + 1], longest[i + 1][j])
            longest[i + 1][j + 1] = longest[i][j] + 1 if word == other else skipped
    common = longest[-1][-1]
    return 200 * common / (len(written) + len(right)) if common else 0.0


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """Return sacreBLEU's chrF of each text, out of 100: F of character n-grams, recall twice."""
    metric, pairs = CHRF(), zip(hypotheses, references, strict=True)
    return np.array([metric.sentence_score(text, [right]).score for text, right in pairs])


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """Return 1 for each text that is its reference, character by character, else 0: ``(n,)``."""
    pairs = zip(hypotheses, references, strict=True)
    return np.array([float(text == right) for text, right in pairs])


def resampled_means(
    values: NDArray[np.float64], *, n_resamples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """Return the mean, then those of test sets drawn with replacement: ``(1 + n_resamples,)``.

    The sets are those that ``resampled_bleu`` draws: equally many texts are drawn alike, so the
    difference of two systems has an interval of its own.
    """
    n = len(values)
    drawn = times_drawn(n, n_resamples=n_resamples, seed=seed) @ values / n
    return np.concatenate([[values.mean()], drawn])


def pack_scores(values: NDArray[np.float64]) -> str:
    """Write a score of each text, 0 to 100, as a short text, in hundredths."""
    steps = np.round(values * STEPS).astype("<u2")
    return base64.b64encode(zlib.compress(steps.tobytes(), 9)).decode()


def unpack_scores(packed: str) -> NDArray[np.float64]:
    """Return the scores ``(n,)`` that ``pack_scores`` wrote."""
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), "<u2") / STEPS
