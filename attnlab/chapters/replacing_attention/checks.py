"""Exercises of chapter 09: what a claim is worth, and how to find a leak."""

from __future__ import annotations

import math

import torch
from torch import nn

from attnlab.seeding import torch_generator
from attnlab.teach import CheckFailed, Exercise

# Exercise 9.1: the kept share --------------------------------------------------------------------


def share(*, floor=max, is_loss=False, nothing=math.nan, least=-math.inf):
    """Return a kept share with these parts right or wrong."""

    def kept(student, teacher, controls):
        low = floor(controls)
        if teacher <= low:
            return nothing
        top = teacher - student if is_loss else student - low
        return max(least, top / (teacher - low))

    return kept


kept_share = share()
check_kept_share = Exercise(
    kept_share,
    [
        ("as good as the teacher, one control at zero", 90.0, 90.0, [0.0]),
        ("half way", 70.0, 90.0, [50.0]),
        ("two controls", 80.0, 100.0, [10.0, 60.0]),
        ("three controls, the best in the middle", 75.0, 95.0, [20.0, 55.0, 40.0]),
        ("worse than a control", 40.0, 90.0, [50.0, 30.0]),
        ("a control as good as the teacher", 90.0, 90.0, [90.0, 3.0]),
    ],
    {
        share(floor=lambda controls: 0.0): "You divide by the teacher's score alone. What a control keeps is no merit of the student: take the best control away from both.",
        share(floor=lambda controls: controls[0]): "You compare with the first control; the strongest one decides.",
        share(floor=lambda controls: sum(controls) / len(controls)): "You compare with the mean of the controls. A weak one would flatter the student: take the best.",
        share(floor=min): "You compare with the weakest control; the strongest one decides.",
        share(is_loss=True): "That is the share that was lost; the share that was kept is one minus it.",
        share(least=0.0): "A negative share was cut off at zero. That a student is worse than a control is worth knowing.",
        lambda student, teacher, controls: (student - max(controls)) / teacher: "The best control was taken from the student alone. Take it from the teacher as well: what could be kept is the difference.",
        share(nothing=0.0): "Where a control does as well as the teacher, the score cannot tell students apart: return nan, not 0.",
        share(nothing=1.0): "Where a control does as well as the teacher, the score cannot tell students apart: return nan, not 1.",
    },
)  # fmt: skip


# Exercise 9.2: the leak --------------------------------------------------------------------------

WHISPER = 1e-4  # share of the future in the quietest leak


def finder(
    *, edits="last word", compares="before", tolerance=1e-9, has_sign=False, channels=slice(None)
):
    """Return a search for a leak with these parts right or wrong."""

    def find(site, x, n_words):
        last, edited = n_words - 1, x.clone()
        edited[{"last word": last, "first word": 0, "last row": len(x) - 1}[edits]] += 1
        change = (site(edited) - site(x))[:, channels]
        moved = (change if has_sign else change.abs()).amax(-1) > tolerance
        ends = {"before": (0, last), "all words": (0, n_words), "after": (1, n_words)}[compares]
        return [t for t in range(*ends) if moved[t]]

    return find


def site(n_words, *, ahead=0.0, next_word=0.0, sign=1.0, first_channel=0):
    """Return a site: the mean of the words so far, and perhaps something of the future.

    Args:
        ahead: Share of the mean of all words, which takes the place of as much of the past.
        next_word: How loud the next word is beside it.
        sign: Of the share of all words.
        first_channel: The next word is heard from this channel on.
    """

    def look_up(x):
        words = x[:n_words]
        so_far = words.cumsum(0) / torch.arange(1, n_words + 1)[:, None]
        later = torch.cat([words[1:], 0 * words[:1]])
        later = later * (torch.arange(x.shape[1]) >= first_channel)
        y = (1 - ahead) * so_far + sign * ahead * words.mean(0) + next_word * later
        return torch.cat([y, y.new_zeros(len(x) - n_words, x.shape[1])])  # padding is ignored

    return look_up


generator = torch_generator(9, "exercise 9.2")


def case(label, n_rows, d, n_words, **leak):
    """Return a case: a site, what it reads, and how much of that are words."""
    x = torch.randn(n_rows, d, generator=generator, dtype=torch.float64)
    return label, site(n_words, **leak), x, n_words


find_leak = finder()
check_find_leak = Exercise(
    find_leak,
    [
        case("two words, nothing leaks", 2, 3, 2),
        case("four words, everything leaks", 4, 3, 4, ahead=1.0),
        case("one word has no past", 1, 2, 1, ahead=1.0),
        case("a look at the next word only", 5, 2, 5, next_word=1.0),
        case("a leak in one channel of three", 4, 3, 4, next_word=1.0, first_channel=2),
        case("five words and two rows of padding", 7, 4, 5, ahead=1.0),
        case("a leak that pulls down", 6, 3, 4, ahead=1.0, sign=-1.0),
        case("a whisper", 6, 3, 6, ahead=WHISPER),
        case("three words and padding, nothing leaks", 5, 3, 3),
    ],
    {
        finder(edits="first word", compares="after"): "You edit an early word and look at later outputs. These may move: the past is allowed. Edit the last word and look at the outputs before it.",
        finder(compares="all words"): "The edited position itself is in your list. It may move: it is its own present.",
        finder(tolerance=0.1): "Your tolerance is so large that a quiet leak passes. A causal site gives the same bits: 1e-9 is generous.",
        finder(edits="last row"): "You edit the last row, which may be padding, and nothing reads padding. The last word is at n_words - 1.",
        finder(channels=slice(1)): "You look at the first channel only: a leak may be in any.",
        lambda *given: [t + 1 for t in find_leak(*given)]: "The positions are counted from 1; count them from 0.",
        finder(has_sign=True): "You miss changes downward: take the absolute value before you compare.",
    },
)  # fmt: skip


# Build 9: a stand-in of your own -------------------------------------------------------------------


def stand_in_of(
    *, reach=1, one_sided=False, divides="there", hides=True, has_value=True, own=True, wraps=False
):
    """Return a class of stand-ins with these parts right or wrong."""

    class Neighbours(nn.Module):
        def __init__(self, site):
            super().__init__()
            self.value = site.value

        def forward(self, x, source_padding=None):
            v = self.value(x) if has_value else x
            is_word = torch.ones(x.shape[:2], dtype=torch.bool)
            if source_padding is not None and hides:
                is_word = ~source_padding
            apart = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
            apart = (apart + 1) % x.shape[1] - 1 if wraps else apart
            near = (apart <= reach) & (apart >= (0 if one_sided else -reach))
            near = near if own else near & (apart != 0)
            weights = (near & is_word[:, None]).to(x.dtype)
            total = weights.sum(-1, keepdim=True)
            total = torch.full_like(total, 2 * reach + 1) if divides == "always" else total
            return weights @ v if divides == "never" else weights @ v / total.clamp(min=1)

    return Neighbours


class OneMap(nn.Module):
    """What a stand-in may use of a site: its value map."""

    def __init__(self, d_model):
        super().__init__()
        self.value = nn.Linear(d_model, d_model, bias=False)
        weight = torch.randn(d_model, d_model, generator=torch_generator(9, "build"))
        self.value.weight.data = weight


def found_by(build, d_model, x, source_padding):
    """Return what a stand-in finds for the words of a batch; rows of padding are left out."""
    stand_in = build(OneMap(d_model))
    if not isinstance(stand_in, nn.Module):
        raise CheckFailed("A stand-in is an nn.Module, built from a site.")
    found = stand_in.double()(x, source_padding=source_padding)
    if not isinstance(found, torch.Tensor):
        raise CheckFailed(f"The result is no tensor: {type(found).__name__}.")
    if tuple(found.shape) != tuple(x.shape):
        raise CheckFailed(
            f"The result has the shape {tuple(found.shape)}, not that of x, {tuple(x.shape)}."
        )
    return found if source_padding is None else found[~source_padding]


def stand_in_case(label, batch, time, d, n_padding=None):
    x = torch.randn(batch, time, d, generator=generator, dtype=torch.float64)
    if n_padding is None:
        return label, d, x, None
    padding = (torch.arange(time) >= time - n_padding).repeat(batch, 1)
    padding[1:] = False
    return label, d, x, padding


check_stand_in = Exercise(
    stand_in_of(),
    [
        stand_in_case("one word", 1, 1, 2),
        stand_in_case("two words", 1, 2, 2),
        stand_in_case("five words", 1, 5, 3),
        stand_in_case("two sentences, one of them shorter", 2, 6, 3, 2),
        stand_in_case("three sentences, padding named but absent", 3, 4, 4, 0),
    ],
    {
        stand_in_of(reach=2): "Two words on either side were taken; one is asked for.",
        stand_in_of(one_sided=True): "The next word is missing: an encoder may look ahead.",
        stand_in_of(divides="always"): "You divided by 3 everywhere. At the ends there are fewer neighbours: divide by how many there are.",
        stand_in_of(divides="never"): "The values were added; take their mean.",
        stand_in_of(hides=False): "Padding was averaged in: leave it out, and out of the number of neighbours.",
        stand_in_of(has_value=False): "The inputs themselves were averaged; average the values, site.value(x).",
        stand_in_of(own=False): "The word itself is missing from its own mean.",
        stand_in_of(wraps=True): "The ends are neighbours here: torch.roll carries the last word round to the first.",
    },
    use=found_by,
)  # fmt: skip
