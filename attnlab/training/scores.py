"""Held-out scores: losses of language models and translators, and BLEU with its interval."""

from __future__ import annotations

import base64
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sacrebleu.metrics.bleu import BLEU
from torch import Tensor
from torch.nn import functional as F

from attnlab.config import EOS, PAD
from attnlab.corpora import Vocabulary
from attnlab.errors import AttnlabError
from attnlab.models import LanguageModel, Translator, evaluating
from attnlab.seeding import numpy_generator
from attnlab.training.batches import (
    Pairs,
    collate_pairs,
    cut_by_tokens,
    pad_sentences,
    pair_lengths,
)

MAX_TOKENS = 4096  # of a batch of sentences
MAX_ORDER = 4  # of the n-grams of BLEU
LENGTH_EDGES = (10, 20, 30, 40)  # words of the reference


@dataclass(frozen=True, slots=True)
class Score:
    """Total surprise over some tokens."""

    total_nats: float
    n_tokens: int  # predicted ones; the first of a document has no context
    n_bytes: int  # UTF-8 bytes of the predicted tokens; 0 where bytes mean nothing

    @property
    def nats_per_token(self) -> float:
        """Mean cross-entropy.

        Raises:
            AttnlabError: There was nothing to predict.
        """
        if self.n_tokens == 0:
            raise AttnlabError("No token was scored: a document needs at least two.")
        return self.total_nats / self.n_tokens

    @property
    def bits_per_byte(self) -> float:
        """The same per byte of text, which does not depend on the tokenizer."""
        return self.total_nats / math.log(2) / self.n_bytes

    def __add__(self, other: Score) -> Score:
        """Pool two scores, token by token."""
        return Score(
            self.total_nats + other.total_nats,
            self.n_tokens + other.n_tokens,
            self.n_bytes + other.n_bytes,
        )


def pool(scores: Iterable[Score]) -> Score:
    """Return one score over all tokens of several."""
    return sum(scores, Score(0.0, 0, 0))


@torch.no_grad()
def evaluate(
    model: LanguageModel,
    document: np.ndarray,
    *,
    batch_size: int = 64,
    token_lengths: np.ndarray | None = None,
) -> Score:
    """Score one document in windows that do not overlap.

    The last window is shorter; each starts without memory of the one before, as in training.

    Shapes:
        document: ``(n_tokens,)`` ids; token_lengths: ``(vocab_size,)`` bytes of each id.
    """
    total = 0.0
    with evaluating(model):
        for inputs, targets in windows(document, model.config.context_len, batch_size):
            inputs, targets = inputs.to(model.device), targets.to(model.device)
            losses = model.loss(inputs, targets, reduction="none")
            total += float(losses.double().sum())
    predicted = np.asarray(document[1:], dtype=np.int64)
    n_bytes = 0 if token_lengths is None else int(token_lengths[predicted].sum())
    return Score(total, len(predicted), n_bytes)


def evaluate_documents(
    model: LanguageModel,
    documents: Sequence[np.ndarray],
    *,
    token_lengths: np.ndarray | None = None,
) -> list[Score]:
    """Score each document by itself; add them for the whole."""
    return [evaluate(model, d, token_lengths=token_lengths) for d in documents if len(d) > 1]


def windows(
    document: np.ndarray, context_len: int, batch_size: int = 64
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the inputs and targets ``(batch, time)`` that ``evaluate`` scores, in order.

    Every token but the first is a target once; the last window may be shorter.
    """
    tokens = torch.from_numpy(np.asarray(document, dtype=np.int64))
    n_full = (len(tokens) - 1) // context_len
    cut = n_full * context_len
    inputs = tokens[:cut].view(-1, context_len)
    targets = tokens[1 : cut + 1].view(-1, context_len)
    if n_full:
        yield from zip(inputs.split(batch_size), targets.split(batch_size), strict=True)
    if cut < len(tokens) - 1:
        yield tokens[None, cut:-1], tokens[None, cut + 1 :]


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
    sentences: str  # what it needs of each of them, packed by ``pack_counts``


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthBleu:
    """The score of the sentences whose reference has ``shortest`` to ``longest`` words."""

    shortest: int
    longest: int
    bleu: Bleu


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
    metric = BLEU(tokenize=tokenize, force=tokenize == "none")  # cut at blanks on purpose
    score = metric.corpus_score(list(hypotheses), [list(references)])
    counts = _sentence_counts(hypotheses, references, tokenize)
    low, high = np.percentile(
        resampled_bleu(counts, n_resamples=n_resamples, seed=seed)[1:], [2.5, 97.5]
    )
    return Bleu(
        score=score.score,
        low=float(low),
        high=float(high),
        signature=str(metric.get_signature()),
        precisions=tuple(score.precisions),
        brevity_penalty=score.bp,
        n_sentences=len(hypotheses),
        sentences=pack_counts(counts),
    )


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
        runs = [(n_grams(hyp, order=order), n_grams(ref, order=order)) for hyp, ref in pairs]
        n_right = sum((hyp & ref).total() for hyp, ref in runs)
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


def pack_counts(counts: np.ndarray) -> str:
    """Write the counts of ``(n, 10)`` sentences as a short text: six small integers of each.

    Right n-grams and both lengths; how many n-grams were written follows from the length.
    """
    columns = counts[:, [*range(MAX_ORDER), -2, -1]].T.astype("<u2")
    return base64.b64encode(zlib.compress(columns.tobytes(), 9)).decode()


def unpack_counts(packed: str) -> np.ndarray:
    """Return the counts ``(n, 10)`` that ``pack_counts`` wrote."""
    columns = np.frombuffer(zlib.decompress(base64.b64decode(packed)), "<u2").astype(np.int64)
    right, lengths = np.split(columns.reshape(MAX_ORDER + 2, -1), [MAX_ORDER])
    written = np.maximum(lengths[0] - np.arange(MAX_ORDER)[:, None], 0)
    return np.concatenate([right, written, lengths]).T


def resampled_bleu(counts: np.ndarray, *, n_resamples: int, seed: int) -> np.ndarray:
    """Return the score of all sentences, then those of test sets drawn with replacement.

    Equally many sentences are drawn alike: two systems are scored on the same test sets.

    Shapes:
        counts: ``(n_sentences, 10)``; returns ``(1 + n_resamples,)``.
    """
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ForcedScore:
    """What a translator predicts when every earlier token is the right one."""

    loss_nats: float  # mean cross-entropy per token, without smoothing
    accuracy: float  # share of tokens of which the likeliest is the right one
    n_tokens: int  # with EOS, without BOS


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslationScore:
    """Teacher-forced numbers and those of what is written freely, always both."""

    forced: ForcedScore
    bleu: Bleu
    by_length: tuple[LengthBleu, ...]
    exact_match: float  # share of sentences that are the reference, token by token
    hypotheses: tuple[str, ...]
    references: tuple[str, ...]
    beam_size: int  # 1 is greedy

    @property
    def exact_texts(self) -> float:
        """Share of sentences that read as the reference does, however they are cut into tokens."""
        return float(
            np.mean([a == b for a, b in zip(self.hypotheses, self.references, strict=True)])
        )


@torch.no_grad()
def evaluate_forced(
    translator: Translator, pairs: Pairs, *, max_tokens: int = MAX_TOKENS
) -> ForcedScore:
    """Return loss and accuracy with every earlier target token given."""
    total_nats, n_right, n_tokens = 0.0, 0, 0
    with evaluating(translator):
        for batch in _batches_by_length(pair_lengths(pairs), max_tokens):
            chosen = [pairs[i] for i in batch]
            source, target = collate_pairs(chosen, device=translator.device)
            features, labels = translator.predictions(source, target)
            logits = translator.head(features).float()
            total_nats += float(F.cross_entropy(logits, labels, reduction="sum"))
            n_right += int((logits.argmax(-1) == labels).sum())
            n_tokens += len(labels)
    if n_tokens == 0:
        raise AttnlabError("There is no sentence pair to score: were all of them too long?")
    return ForcedScore(
        loss_nats=total_nats / n_tokens, accuracy=n_right / n_tokens, n_tokens=n_tokens
    )


def translate_all(
    translator: Translator,
    sentences: Sequence[ArrayLike],
    *,
    beam_size: int = 1,
    max_tokens: int = MAX_TOKENS,
    **options: Any,
) -> list[NDArray[np.int64]]:
    """Translate sentences of token ids in batches of like length; return them in their order.

    Args:
        beam_size: 1 is greedy.
        max_tokens: Most source tokens of a batch, counting each beam.
        options: What ``Translator.translate`` takes besides.

    Returns:
        Token ids ``(n_tokens,)`` of each translation, without ``EOS``.
    """
    found: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(sentences)
    lengths = np.array([[max(1, len(np.atleast_1d(s)))] for s in sentences], np.int64)
    for batch in _batches_by_length(lengths.reshape(-1, 1), max(1, max_tokens // beam_size)):
        source = pad_sentences([sentences[i] for i in batch], device=translator.device)
        written = translator.translate(source, beam_size=beam_size, **options).cpu().numpy()
        for place, row in zip(batch, written, strict=True):
            found[place] = sentence_of(row)
    return found


def sentence_of(tokens: ArrayLike) -> NDArray[np.int64]:
    """Return the tokens of one row up to ``EOS``, without it and without padding."""
    row = np.asarray(tokens, dtype=np.int64)
    ends = np.flatnonzero(row == EOS)
    row = row[: ends[0]] if len(ends) else row
    return row[row != PAD]


def evaluate_translation(
    translator: Translator,
    pairs: Pairs,
    *,
    vocabulary: Vocabulary,
    beam_size: int = 1,
    n_resamples: int = 1000,
    max_tokens: int = MAX_TOKENS,
    length_edges: Sequence[int] = LENGTH_EDGES,
    tokenize: str = "13a",
    **options: Any,
) -> TranslationScore:
    """Translate the sources freely and score the text, beside the teacher-forced numbers.

    Args:
        pairs: Token ids of source and target, as ``encode_pairs`` or ``sample_pairs`` give them.
        vocabulary: Of the target; its ``decode`` writes hypotheses and references.
        n_resamples: Test sets drawn for the interval of BLEU.
        length_edges: Longest reference of each bucket of ``by_length`` but the last, in words.
        tokenize: How BLEU cuts words, see ``bleu``.
        options: What ``Translator.translate`` takes besides.

    A target that is longer than the translator can write is scored as written, and is left out
    of the teacher-forced numbers.
    """
    fitting = [pair for pair in pairs if len(pair[1]) < translator.config.max_len]
    forced = evaluate_forced(translator, fitting, max_tokens=max_tokens)
    sources, targets = [s for s, _ in pairs], [np.asarray(t, np.int64) for _, t in pairs]
    found = translate_all(
        translator, sources, beam_size=beam_size, max_tokens=max_tokens, **options
    )
    hypotheses = [vocabulary.decode(tokens) for tokens in found]
    references = [vocabulary.decode(tokens) for tokens in targets]
    n_exact = sum(np.array_equal(a, b) for a, b in zip(found, targets, strict=True))
    how = {"tokenize": tokenize, "n_resamples": n_resamples}
    return TranslationScore(
        forced=forced,
        bleu=bleu(hypotheses, references, **how),
        by_length=tuple(bleu_by_length(hypotheses, references, edges=length_edges, **how)),
        exact_match=n_exact / len(targets),
        hypotheses=tuple(hypotheses),
        references=tuple(references),
        beam_size=beam_size,
    )


def _batches_by_length(lengths: NDArray[np.int64], max_tokens: int) -> Iterator[list[int]]:
    """Yield which sentences go together, from short to long."""
    if len(lengths) == 0:
        return
    order = np.lexsort(lengths.T[::-1])
    for start, end in cut_by_tokens(lengths[order], max_tokens=max_tokens):
        yield order[start:end].tolist()
