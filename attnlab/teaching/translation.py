"""Exercises and questions of notebook 07: cross-attention, greedy search, BLEU."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnlab.config import BOS, EOS, PAD, UNK
from attnlab.seeding import torch_generator
from attnlab.teaching.core import Case, Function, Mistake, case, grade
from attnlab.teaching.quiz import Option, Question
from attnlab.training.scores import bleu_by_hand, n_grams

Scores = Callable[[Sequence[int]], NDArray[np.float64]]


def check_cross_attention(student: Function) -> None:
    """Judge exercise 7.1: one head that looks a source sentence up."""
    grade(
        student,
        reference=cross_attention,
        cases=cross_attention_cases(),
        mistakes=CROSS_ATTENTION_MISTAKES,
    )


def check_greedy(student: Function) -> None:
    """Judge exercise 7.2: greedy search over next-word scores."""
    grade(student, reference=greedy, cases=greedy_cases(), mistakes=GREEDY_MISTAKES)


def check_bleu(student: Function) -> None:
    """Judge exercise 7.3: corpus BLEU out of 100."""
    grade(student, reference=bleu_by_hand, cases=BLEU_CASES, mistakes=BLEU_MISTAKES)


# Exercise 7.1: cross-attention


def _look_up(
    *,
    turned: bool = False,
    values_from_x: bool = False,
    power: float = -0.5,
    hide: str = "before",
    has_out: bool = True,
    has_future: bool = True,
) -> Function:
    """Return a cross-attention head with these parts right or wrong."""

    def attend(
        x: Tensor,
        memory: Tensor,
        w_q: Tensor,
        w_k: Tensor,
        w_v: Tensor,
        w_o: Tensor,
        is_padding: Tensor,
    ) -> Tensor:
        asks, answers = (memory, x) if turned else (x, memory)
        scores = (asks @ w_q) @ (answers @ w_k).mT * w_q.shape[1] ** power
        if hide == "before":
            scores = scores.masked_fill(is_padding, -math.inf)
        if not has_future:
            scores = scores.masked_fill(~torch.ones_like(scores).tril().bool(), -math.inf)
        weights = scores.softmax(-1).nan_to_num(0.0)
        weights = weights * ~is_padding if hide == "after" else weights
        mixed = weights @ ((x if values_from_x else answers) @ w_v)
        return mixed @ w_o if has_out else mixed

    return attend


cross_attention = _look_up()

CROSS_ATTENTION_MISTAKES = (
    Mistake(
        "the source asks",
        _look_up(turned=True),
        "Queries come from memory and keys from x: the wrong sentence asks. The target asks (x), "
        "the source answers (memory).",
    ),
    Mistake(
        "values from the target",
        _look_up(values_from_x=True),
        "The values come from x: then the source never reaches the decoder. Keys and values both "
        "come from memory.",
    ),
    Mistake(
        "padding is read",
        _look_up(hide="never"),
        "Padding gets weight: an output then depends on how far the batch was filled up. Set its "
        "scores to minus infinity.",
    ),
    Mistake(
        "padding hidden after the softmax",
        _look_up(hide="after"),
        "Padding was hidden after the softmax, so rows sum to less than one. Hide the scores.",
    ),
    Mistake(
        "a causal mask",
        _look_up(has_future=False),
        "A causal mask hides part of the source. All of the source was there before the first "
        "target word: nothing of it is the future.",
    ),
    Mistake("no scale", _look_up(power=0.0), "The scores are not divided by sqrt(d_h)."),
    Mistake("no output map", _look_up(has_out=False), "The mixture was not multiplied by W_o."),
)


def cross_attention_cases() -> list[Case]:
    """Return the graded look-ups, smallest first."""
    generator = torch_generator(7, "exercise 7.1")

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def look_up(label: str, time: int, n_words: int, n_padding: int, d: int, d_h: int) -> Case:
        maps = [numbers(*shape) for shape in [(d, d_h)] * 3 + [(d_h, d)]]
        is_padding = torch.arange(n_words) >= n_words - n_padding
        return case(label, numbers(time, d), numbers(n_words, d), *maps, is_padding)

    return [
        look_up("three target words, three source words", 3, 3, 0, 4, 4),
        look_up("four of each, one source place is padding", 4, 4, 1, 4, 4),
        look_up("one target word, five source places, two of them padding", 1, 5, 2, 6, 3),
        look_up("seven target words, two source words", 7, 2, 0, 6, 3),
    ]


# Exercise 7.2: greedy search


def _search(
    *,
    start: Sequence[int] = (BOS,),
    row: int = -1,
    stops: bool = True,
    keeps: str = "words",
    memory: int | None = None,
    extra: int = 0,
) -> Callable[[Scores, int], list[int]]:
    """Return a greedy search with these parts right or wrong."""

    def search(next_scores: Scores, max_len: int) -> list[int]:
        tokens = list(start)
        for _ in range(max_len + extra):
            given = tokens if memory is None else tokens[-memory:]
            newest = int(next_scores(given)[row].argmax())
            if stops and newest == EOS:
                if keeps == "words and end":
                    tokens.append(newest)
                break
            tokens.append(newest)
        return tokens if keeps == "start and words" else tokens[len(start) :]

    return search


def scripted(*words: int, vocab_size: int = 9) -> Scores:
    """Return scores that write these words after ``BOS``, then ``EOS``; else ``UNK``.

    Shapes:
        the function takes a list of ``time`` tokens and returns ``(time, vocab_size)``.
    """
    path = [BOS, *words]

    def next_scores(tokens: Sequence[int]) -> NDArray[np.float64]:
        table = np.zeros((len(tokens), vocab_size))
        for t in range(len(tokens)):
            is_on_path = list(tokens[: t + 1]) == path[: t + 1]
            after = [*words, EOS, *[UNK] * len(tokens)]
            table[t, after[t] if is_on_path and t <= len(words) else UNK] = 1.0
        return table

    return next_scores


greedy = _search()

GREEDY_MISTAKES = (
    Mistake(
        "no BOS",
        _search(start=(PAD,)),
        "The search does not start with BOS: the model has never seen a sentence begin otherwise, "
        "and its first scores mean nothing.",
    ),
    Mistake(
        "reads the first row",
        _search(row=0),
        "It always reads row 0: what comes after BOS. The newest token's row is the last one.",
    ),
    Mistake(
        "does not stop at EOS",
        _search(stops=False),
        "EOS is written and the search goes on: stop there, the sentence is over.",
    ),
    Mistake(
        "keeps EOS",
        _search(keeps="words and end"),
        "EOS stands in the result: it ends the sentence and is no word of it.",
    ),
    Mistake(
        "keeps BOS",
        _search(keeps="start and words"),
        "BOS stands in the result: it starts the sentence and is no word of it.",
    ),
    Mistake(
        "only the newest token",
        _search(memory=1),
        "Only the newest token is given to the model: it needs the whole sentence so far.",
    ),
    Mistake(
        "one word too many",
        _search(extra=1),
        "It writes max_len + 1 words where the model does not end: count the words, not BOS.",
    ),
)


def greedy_cases() -> list[Case]:
    """Return the graded searches, smallest first."""
    return [
        case("a sentence of one word", scripted(5), 6),
        case("a word that comes twice", scripted(4, 5, 4, 6), 8),
        case("an empty sentence", scripted(), 3),
        case("a sentence longer than max_len", scripted(4, 5, 6, 7, 8), 3),
    ]


# Exercise 7.3: BLEU


def _bleu(
    *,
    clips: bool = True,
    mean: str = "geometric",
    brevity: Callable[[int, int], float] = lambda c, r: math.exp(min(0.0, 1 - r / c)),
    most: int = 4,
    pooled: bool = True,
    recall: bool = False,
) -> Callable[[Sequence[str], Sequence[str]], float]:
    """Return a BLEU with these parts right or wrong."""

    def corpus(hypotheses: Sequence[str], references: Sequence[str]) -> float:
        pairs = [(h.split(), r.split()) for h, r in zip(hypotheses, references, strict=True)]
        precisions = []
        for order in range(1, most + 1):
            found = [(n_grams(h, order=order), n_grams(r, order=order)) for h, r in pairs]
            right = sum(_matches(h, r, clips=clips) for h, r in found)
            total = sum((r if recall else h).total() for h, r in found)
            precisions.append(right / total if total else 0.0)
        c, r = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
        return 100 * brevity(c, r) * _mean(precisions, how=mean)

    def sentence_by_sentence(hypotheses: Sequence[str], references: Sequence[str]) -> float:
        each = [corpus([h], [r]) for h, r in zip(hypotheses, references, strict=True)]
        return sum(each) / len(each)

    return corpus if pooled else sentence_by_sentence


def _matches(hypothesis: Counter, reference: Counter, *, clips: bool) -> int:
    if clips:
        return (hypothesis & reference).total()
    return sum(count for gram, count in hypothesis.items() if gram in reference)


def _mean(values: Sequence[float], *, how: str) -> float:
    if how == "arithmetic":
        return sum(values) / len(values)
    if how == "product":
        return math.prod(values)
    return math.prod(values) ** (1 / len(values))


BLEU_MISTAKES = (
    Mistake(
        "no clipping",
        _bleu(clips=False),
        "Nothing is clipped: 'the the the' earns a point for each 'the'. A run counts at most as "
        "often as it stands in the reference.",
    ),
    Mistake(
        "arithmetic mean",
        _bleu(mean="arithmetic"),
        "The precisions are averaged by a sum; BLEU takes their geometric mean, the fourth root "
        "of their product.",
    ),
    Mistake(
        "no root",
        _bleu(mean="product"),
        "The precisions are multiplied, but the fourth root of the product is missing.",
    ),
    Mistake(
        "no brevity penalty",
        _bleu(brevity=lambda c, r: 1.0),
        "The brevity penalty is missing: leaving words out costs nothing.",
    ),
    Mistake(
        "length ratio as penalty",
        _bleu(brevity=lambda c, r: min(1.0, c / r)),
        "The penalty is c / r; BLEU's is exp(1 - r / c), which is harsher.",
    ),
    Mistake(
        "long texts punished or rewarded",
        _bleu(brevity=lambda c, r: math.exp(1 - r / c)),
        "The factor exceeds 1 where the translations are longer than the references: take its "
        "minimum with 1.",
    ),
    Mistake(
        "mean over sentences",
        _bleu(pooled=False),
        "This averages a BLEU of each sentence. Corpus BLEU adds the counts of all sentences "
        "first and divides once.",
    ),
    Mistake(
        "recall",
        _bleu(recall=True),
        "You divide by the runs of the reference, which is recall. A precision divides by the "
        "runs that were written.",
    ),
    Mistake(
        "up to three words",
        _bleu(most=3),
        "Runs of four words are missing, or the root is not the fourth.",
    ),
)

HYPOTHESES = ("the cat sat on the the the mat", "a bird sang")
REFERENCES = ("the cat sat on the mat today", "a bird sang in the old tree")

BLEU_CASES = (
    case("the two sentences on paper", list(HYPOTHESES), list(REFERENCES)),
    case("a perfect translation", ["one two three four five"], ["one two three four five"]),
    case("too long", ["one two three four five six"], ["one two three four five"]),
    case("no common run of four", ["one two three"], ["one two three four"]),
    case("three sentences", ["a b c d e", "a a b c d a a", "d c"],
         ["a b c d", "b c d a", "d c b a e"]),
)  # fmt: skip


TRANSLATION_QUIZ: tuple[Question, ...] = (
    Question(
        "Two papers report BLEU 34.0 and 34.8 on the same 888 sentences. What follows?",
        [
            Option(
                "The second system is better.",
                "0.8 is within what another draw of 888 sentences would change. And were both "
                "tokenised, and scored, in the same way?",
            ),
            Option(
                "Little: compare signatures first, then a paired interval.",
                "The signature says whether it is one metric at all; resampling both systems on "
                "the same sentences says whether the difference is more than luck.",
                is_right=True,
            ),
            Option(
                "They are equal.",
                "Not shown either. A paired comparison may well find a difference.",
            ),
        ],
    ),
    Question(
        "A translator has 97 % of its words right, with all earlier words given. What is its BLEU?",
        [
            Option("About 97.", "BLEU scores what the model writes by itself, errors included."),
            Option(
                "About 0.97 to the fourth power, 89.",
                "That is a guess for errors that are independent and change nothing that follows.",
            ),
            Option(
                "It cannot be said.",
                "One number needs the right past, the other has its own. A decoder that peeks at "
                "the given words can have 100 % and BLEU 0 (section 8).",
                is_right=True,
            ),
        ],
    ),
    Question(
        "Why does cross-attention need no causal mask?",
        [
            Option(
                "Because the whole source is known before the first word is written.",
                "A mask hides what is not there yet. The source is; only target words are not.",
                is_right=True,
            ),
            Option(
                "Because its queries are masked already.",
                "Queries are never masked; what they look at is.",
            ),
            Option(
                "Because its weights sum to one.",
                "All attention weights do, masked or not.",
            ),
        ],
    ),
)
