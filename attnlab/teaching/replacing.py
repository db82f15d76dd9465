"""Exercises and questions of notebook 09: what a claim is worth, and how to find a leak."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attnlab.seeding import torch_generator
from attnlab.teaching.core import Case, Function, Mistake, case, grade
from attnlab.teaching.quiz import Option, Question

Site = Callable[[Tensor], Tensor]
WHISPER = 1e-4  # share of the future in the quietest leak


def check_kept_share(student: Function) -> None:
    """Judge exercise 9.1: the share of a teacher's score that counts as kept."""
    grade(student, reference=kept_share, cases=KEPT_CASES, mistakes=KEPT_MISTAKES)


def check_find_leak(student: Function) -> None:
    """Judge exercise 9.2: the earlier outputs that an edit of the last word moves."""
    grade(student, reference=find_leak, cases=leak_cases(), mistakes=LEAK_MISTAKES)


# Exercise 9.1: the kept share


def _share(
    *,
    floor: Callable[[Sequence[float]], float] = max,
    is_loss: bool = False,
    nothing: float = math.nan,
    least: float = -math.inf,
) -> Callable[[float, float, Sequence[float]], float]:
    """Return a kept share with these parts right or wrong."""

    def share(student: float, teacher: float, controls: Sequence[float]) -> float:
        low = floor(controls)
        if teacher <= low:
            return nothing
        top = teacher - student if is_loss else student - low
        return max(least, top / (teacher - low))

    return share


kept_share = _share()

KEPT_MISTAKES = (
    Mistake(
        "no control",
        _share(floor=lambda controls: 0.0),
        "You divide by the teacher's score alone. What a control keeps is no merit of the "
        "student: take the best control away from both.",
    ),
    Mistake(
        "first control",
        _share(floor=lambda controls: controls[0]),
        "You compare with the first control; the strongest one decides.",
    ),
    Mistake(
        "mean of the controls",
        _share(floor=lambda controls: sum(controls) / len(controls)),
        "You compare with the mean of the controls. A weak one would flatter the student: take "
        "the best.",
    ),
    Mistake(
        "worst control",
        _share(floor=min),
        "You compare with the weakest control; the strongest one decides.",
    ),
    Mistake(
        "share that is lost",
        _share(is_loss=True),
        "That is the share that was lost; the share that was kept is one minus it.",
    ),
    Mistake(
        "cut at zero",
        _share(least=0.0),
        "A negative share was cut off at zero. That a student is worse than a control is worth "
        "knowing.",
    ),
    Mistake(
        "nothing to lose counts as all kept",
        _share(nothing=1.0),
        "Where a control does as well as the teacher, the score cannot tell students apart: "
        "return nan, not 1.",
    ),
)

KEPT_CASES = (
    case("as good as the teacher, one control at zero", 90.0, 90.0, [0.0]),
    case("half way", 70.0, 90.0, [50.0]),
    case("two controls", 80.0, 100.0, [10.0, 60.0]),
    case("three controls, the best in the middle", 75.0, 95.0, [20.0, 55.0, 40.0]),
    case("worse than a control", 40.0, 90.0, [50.0, 30.0]),
    case("a control as good as the teacher", 90.0, 90.0, [90.0, 3.0]),
)


# Exercise 9.2: the leak


def _finder(
    *,
    edits: str = "last word",
    compares: str = "before",
    tolerance: float = 1e-9,
    has_sign: bool = False,
) -> Callable[[Site, Tensor, int], list[int]]:
    """Return a search for a leak with these parts right or wrong."""

    def find(site: Site, x: Tensor, n_words: int) -> list[int]:
        at = {"last word": n_words - 1, "first word": 0, "last row": len(x) - 1}[edits]
        edited = x.clone()
        edited[at] += 1
        change = site(edited) - site(x)
        moved = (change if has_sign else change.abs()).amax(-1) > tolerance
        first, end = {
            "before": (0, n_words - 1),
            "all words": (0, n_words),
            "after": (1, n_words),
        }[compares]
        return [t for t in range(first, end) if moved[t]]

    return find


find_leak = _finder()

LEAK_MISTAKES = (
    Mistake(
        "edits the past",
        _finder(edits="first word", compares="after"),
        "You edit an early word and look at later outputs. These may move: the past is allowed. "
        "Edit the last word and look at the outputs before it.",
    ),
    Mistake(
        "compares the edited position",
        _finder(compares="all words"),
        "The edited position itself is in your list. It may move: it is its own present.",
    ),
    Mistake(
        "tolerance so large that nothing fails",
        _finder(tolerance=0.1),
        "Your tolerance is so large that a quiet leak passes. A causal site gives the same bits: "
        "1e-9 is generous.",
    ),
    Mistake(
        "edits padding",
        _finder(edits="last row"),
        "You edit the last row, which may be padding, and nothing reads padding. The last word "
        "is at n_words - 1.",
    ),
    Mistake(
        "only upward",
        _finder(has_sign=True),
        "You miss changes downward: take the absolute value before you compare.",
    ),
)


def running_mean(n_words: int) -> Site:
    """Return a causal site: the mean of the words so far; zero at padding."""
    return lambda x: _padded(x[:n_words].cumsum(0) / _counts(n_words), len(x))


def whole_mean(n_words: int, *, sign: float = 1.0, loudness: float = 1.0) -> Site:
    """Return a leaking site: the mean so far and, ``loudness`` times, that of all words."""

    def site(x: Tensor) -> Tensor:
        words = x[:n_words]
        heard = sign * loudness * words.mean(0)
        return _padded((1 - loudness) * words.cumsum(0) / _counts(n_words) + heard, len(x))

    return site


def next_word(n_words: int) -> Site:
    """Return a site that looks one word ahead."""

    def site(x: Tensor) -> Tensor:
        words = x[:n_words]
        return _padded(words + torch.cat([words[1:], 0 * words[:1]]), len(x))

    return site


def _counts(n_words: int) -> Tensor:
    return torch.arange(1, n_words + 1)[:, None]


def _padded(y: Tensor, n_rows: int) -> Tensor:
    return torch.cat([y, y.new_zeros(n_rows - len(y), y.shape[1])])


def leak_cases() -> list[Case]:
    """Return the graded sites, smallest first."""
    generator = torch_generator(9, "exercise 9.2")

    def rows(time: int, d: int) -> Tensor:
        return torch.randn(time, d, generator=generator, dtype=torch.float64)

    return [
        case("two words, nothing leaks", running_mean(2), rows(2, 3), 2),
        case("four words, everything leaks", whole_mean(4), rows(4, 3), 4),
        case("one word has no past", whole_mean(1), rows(1, 2), 1),
        case("a look at the next word only", next_word(5), rows(5, 2), 5),
        case("five words and two rows of padding", whole_mean(5), rows(7, 4), 5),
        case("a leak that pulls down", whole_mean(4, sign=-1.0), rows(6, 3), 4),
        case("a whisper", whole_mean(6, loudness=WHISPER), rows(6, 3), 6),
        case("three words and padding, nothing leaks", running_mean(3), rows(5, 3), 3),
    ]


REPLACING_QUIZ: tuple[Question, ...] = (
    Question(
        "A net stands in for all encoder self-attention, and BLEU falls from 98 to 96. What "
        "follows?",
        [
            Option(
                "The net has learned what the attention did.",
                "Perhaps. If a constant vector keeps 96 as well, there was little to learn.",
            ),
            Option(
                "Nothing yet: which BLEU do controls keep that know nothing of the sentence?",
                "The best control is the zero of the scale; see eq. (9.2).",
                is_right=True,
            ),
            Option(
                "Encoders need no attention.",
                "One model, one language, one score. Another language may need it.",
            ),
        ],
    ),
    Question(
        "A translator has 96 % of the next words right with the right past given, and BLEU 25. "
        "Your first test?",
        [
            Option(
                "Edit the last target word, and see whether earlier outputs move.",
                "If they do, the 96 % were measured with the answer in view. The test is exact "
                "and takes one line.",
                is_right=True,
            ),
            Option("Train longer.", "If the net reads the future, it will only read it better."),
            Option(
                "Make the net larger.",
                "That may raise both numbers, or only the wrong one. First find out what is "
                "measured.",
            ),
        ],
    ),
    Question(
        "With the leak closed, a net in place of cross-attention still loses some BLEU. May we "
        "conclude that cross-attention cannot be replaced?",
        [
            Option("Yes, this time the comparison is fair.", "Fair, and still one net."),
            Option(
                "No: size, depth, products of query and source, and the training signal are "
                "still open.",
                "Each of these changes what a net can do or is asked to do. A failure of one "
                "kind of net shows the limits of that kind.",
                is_right=True,
            ),
            Option(
                "No, because BLEU is a poor metric.",
                "It is crude, but here the share of right sentences says the same.",
            ),
        ],
    ),
)
