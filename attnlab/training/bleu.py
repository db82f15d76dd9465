"""BLEU: the official score with its signature and an interval, and the same by hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from attnlab.errors import AttnlabError
from attnlab.seeding import numpy_generator

MAX_ORDER = 4
LENGTH_EDGES = (10, 20, 30, 40)  # words of the reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Bleu:
    """A corpus score out of 100, with what it is made of.

    ``low`` and ``high`` enclose the middle 95 % of the scores of resampled test sets.
    """

    score: float
    low: float
    high: float
    signature: str  # what another person needs to compute the same number
    precisions: tuple[float, ...]  # of 1- to 4-grams, out of 100
    brevity_penalty: float  # 1 unless the translations are shorter than the references
    n_sentences: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BleuShare:
    """One system's score over another's on the same sentences; the interval as in ``Bleu``."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthBleu:
    """The score of the sentences whose reference has ``shortest`` to ``longest`` words."""

    shortest: int
    longest: int
    bleu: Bleu


class ZeroBaselineError(AttnlabError):
    """Nothing can be a share of a system that gets nothing right."""


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str = "13a",
    n_resamples: int = 1000,
    seed: int = 0,
) -> Bleu:
    """Return corpus BLEU as sacreBLEU computes it, and how far another test set might move it.

    Args:
        hypotheses: Translations, one string a sentence.
        references: The right translations, in the same order.
        tokenize: sacreBLEU's tokenizer; ``13a`` is its default, ``none`` cuts at blanks alone.
        n_resamples: Test sets drawn with replacement for the interval.
        seed: Picks them (stream ``bootstrap``).

    Raises:
        AttnlabError: No sentence, or another number of references.
    Source:
        Papineni et al. 2002; arXiv:1804.08771 for the signature; Koehn 2004 for the interval.
    """
    _require_pairs(hypotheses, references)
    metric = BLEU(tokenize=tokenize)
    score = metric.corpus_score(list(hypotheses), [list(references)])
    low, high = _interval(_sentence_counts(hypotheses, references, tokenize), n_resamples, seed)
    return Bleu(
        score=score.score,
        low=low,
        high=high,
        signature=str(metric.get_signature()),
        precisions=tuple(score.precisions),
        brevity_penalty=score.bp,
        n_sentences=len(hypotheses),
    )


def bleu_share(
    hypotheses: Sequence[str],
    baseline: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str = "13a",
    n_resamples: int = 1000,
    seed: int = 0,
) -> BleuShare:
    """Return the BLEU of translations as a share of a baseline's, on the same test sets.

    Both are scored on the same sentences of every resampled test set, so what is hard about a
    sentence moves both, and the interval is narrower than those of the two scores suggest.

    Args:
        hypotheses: Translations, one string a sentence.
        baseline: Those of the system to compare with, in the same order.
        references: The right translations.
        tokenize: As for ``bleu``.
        n_resamples: Test sets drawn with replacement.
        seed: Picks them (stream ``bootstrap``).

    Raises:
        AttnlabError: No sentence, or lists of different lengths.
        ZeroBaselineError: The baseline scores 0.
    Source:
        Koehn 2004, section 5: paired bootstrap resampling.
    """
    _require_pairs(hypotheses, references)
    _require_pairs(baseline, references)
    own, other = (
        _resampled(_sentence_counts(texts, references, tokenize), n_resamples, seed)
        for texts in (hypotheses, baseline)
    )
    if other.min() <= 0:
        raise ZeroBaselineError("The baseline scores 0 BLEU: nothing can be a share of that.")
    shares = own / other
    low, high = np.percentile(shares[1:], [2.5, 97.5])
    return BleuShare(value=float(shares[0]), low=float(low), high=float(high))


def bleu_by_length(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    edges: Sequence[int] = LENGTH_EDGES,
    tokenize: str = "13a",
    n_resamples: int = 1000,
) -> list[LengthBleu]:
    """Return the score of short and long sentences apart, by the words of the reference.

    Args:
        edges: Longest sentence of each bucket but the last; a bucket without sentences is left out.
    """
    _require_pairs(hypotheses, references)
    lengths = np.array([len(reference.split()) for reference in references])
    buckets = []
    for low, high in zip([-1, *edges], [*edges, int(lengths.max())], strict=True):
        inside = np.flatnonzero((lengths > low) & (lengths <= high)).tolist()
        if inside:
            part = [hypotheses[i] for i in inside], [references[i] for i in inside]
            score = bleu(*part, tokenize=tokenize, n_resamples=n_resamples)
            buckets.append(LengthBleu(shortest=low + 1, longest=high, bleu=score))
    return buckets


def bleu_by_hand(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    r"""Return corpus BLEU of sentences whose words are separated by blanks, out of 100.

    .. math:: \mathrm{BLEU} = 100 \min(1, e^{1 - r/c}) \prod_{n=1}^{4} p_n^{1/4},\quad
              p_n = \frac{\sum \min(\mathrm{count}_{hyp}, \mathrm{count}_{ref})}
                         {\sum \mathrm{count}_{hyp}}

    c and r are the words of all hypotheses and of all references. An n-gram counts at most as
    often as it stands in the reference (clipping), so ``the the the`` earns one ``the``. Without
    a single common 4-gram the score is 0; sacreBLEU smooths that case unless told not to.

    Source:
        Papineni et al. 2002, section 2.
    """
    _require_pairs(hypotheses, references)
    pairs = [(h.split(), r.split()) for h, r in zip(hypotheses, references, strict=True)]
    log_precisions = 0.0
    for order in range(1, MAX_ORDER + 1):
        n_right = sum(_clipped(hyp, ref, order) for hyp, ref in pairs)
        n_written = sum(max(0, len(hyp) - order + 1) for hyp, _ in pairs)
        if n_right == 0:
            return 0.0
        log_precisions += math.log(n_right / n_written) / MAX_ORDER
    c = sum(len(hyp) for hyp, _ in pairs)
    r = sum(len(ref) for _, ref in pairs)
    return 100 * math.exp(min(0.0, 1 - r / c) + log_precisions)


def n_grams(words: Sequence[str], *, order: int) -> Counter[tuple[str, ...]]:
    """Return how often each run of ``order`` words occurs."""
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


def _clipped(hypothesis: list[str], reference: list[str], order: int) -> int:
    return (n_grams(hypothesis, order=order) & n_grams(reference, order=order)).total()


def _sentence_counts(
    hypotheses: Sequence[str], references: Sequence[str], tokenize: str
) -> np.ndarray:
    """Return what BLEU needs of every sentence: ``(n, 10)``, right and written n-grams, lengths."""
    metric = BLEU(tokenize=tokenize, effective_order=True)  # silences advice; counts are the same
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        found = metric.sentence_score(hypothesis, [reference])
        rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
    return np.array(rows, dtype=np.int64)


def _interval(counts: np.ndarray, n_resamples: int, seed: int) -> tuple[float, float]:
    low, high = np.percentile(_resampled(counts, n_resamples, seed)[1:], [2.5, 97.5])
    return float(low), float(high)


def _resampled(counts: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Return the score of all sentences, then those of test sets drawn with replacement."""
    random = numpy_generator(seed, "bootstrap")
    n, chances = len(counts), np.full(len(counts), 1 / len(counts))
    drawn = random.multinomial(n, chances, size=n_resamples) @ counts  # (n_resamples, 10)
    return np.array([_score(row.tolist()) for row in (counts.sum(0), *drawn)])


def _score(counts: list[int]) -> float:
    right, written = counts[:MAX_ORDER], counts[MAX_ORDER:-2]
    return BLEU.compute_bleu(right, written, counts[-2], counts[-1], smooth_method="exp").score


def _require_pairs(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references):
        raise AttnlabError(
            f"There are {len(hypotheses)} translations for {len(references)} references. "
            "Give one reference for each translation, in the same order."
        )
    if len(hypotheses) == 0:
        raise AttnlabError("BLEU needs at least one sentence; there is none.")
