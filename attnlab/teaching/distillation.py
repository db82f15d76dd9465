"""Exercises and questions of notebook 08: the net of ALR, and every prefix in one pass."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlab.distillation import DecoderStudent
from attnlab.seeding import torch_generator
from attnlab.teaching.core import Case, Function, Mistake, case, grade
from attnlab.teaching.quiz import Option, Question

EPS = 1e-5
SLOPE = 0.01


def check_alr_net(student: Function) -> None:
    """Judge exercise 8.1: the net that stands for the look-up of a whole sentence."""
    grade(student, reference=alr_net, cases=alr_cases(), mistakes=ALR_MISTAKES)


def check_prefix_hidden(student: Function) -> None:
    """Judge exercise 8.2: the first layer for every prefix, by running sums."""
    grade(student, reference=prefix_hidden, cases=prefix_cases(), mistakes=PREFIX_MISTAKES)


def norm(z: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Return LN of eq. (8.5): one mean and one variance over a whole vector."""
    return F.layer_norm(z, z.shape, gain, shift, EPS)


def first_layer(net: DecoderStudent) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``gain``, ``shift``, ``w_1`` and ``b_1`` of exercise 8.2 for a decoder student."""
    slots = net.net
    return slots.norm_gain, slots.norm_shift, slots.first_weight, slots.first_bias[0]


def rest_of_net(net: DecoderStudent, first: Tensor) -> Tensor:
    """Return what a decoder student makes of its first layer, ``(time, h)`` to ``(time, d)``."""
    slots = net.net
    gain, shift = slots.hidden_gain[0], slots.hidden_shift[0]
    h = torch.stack([norm(row, gain, shift) for row in F.leaky_relu(first, SLOPE)])
    return h @ slots.second_weight[:, 0] + slots.second_bias[0]


# Exercise 8.1: the net of ALR


def _alr(
    *,
    empties: bool = True,
    first_norm: str = "sentence",
    order: str = "tokens",
    slope: float = SLOPE,
    second_norm: bool = True,
    hides: bool = True,
    adds_input: bool = False,
) -> Function:
    """Return a net of ALR with these parts right or wrong."""

    def net(x: Tensor, n_words: int, weights: Mapping[str, Tensor]) -> Tensor:
        is_word = (torch.arange(len(x)) < n_words)[:, None]
        slots = x * is_word if empties else x
        z = (slots.mT if order == "channels" else slots).flatten()
        z = z.flip(0) if order == "last first" else z
        gain, shift = weights["gain"], weights["shift"]
        if first_norm == "sentence":
            z = F.layer_norm(z, z.shape, gain, shift, EPS)
        if first_norm == "token":
            z = F.layer_norm(slots, slots.shape[1:], eps=EPS).flatten() * gain + shift
        h = F.leaky_relu(z @ weights["w_1"] + weights["b_1"], slope)
        if second_norm:
            h = F.layer_norm(h, h.shape, weights["hidden_gain"], weights["hidden_shift"], EPS)
        y = (h @ weights["w_2"] + weights["b_2"]).view_as(x)
        y = y + x if adds_input else y
        return y * is_word if hides else y

    return net


alr_net = _alr()

ALR_MISTAKES = (
    Mistake(
        "padding not zeroed",
        _alr(empties=False),
        "What stands in the empty slots reaches the net: the answer then depends on what the "
        "batch was filled up with. Put zeros there first.",
    ),
    Mistake(
        "no mask on the output",
        _alr(hides=False),
        "Rows after the last word are not zero: the net writes every slot, so hide those that "
        "hold no word.",
    ),
    Mistake(
        "no first norm",
        _alr(first_norm="none"),
        "The long vector goes into the first map without its norm.",
    ),
    Mistake(
        "norm token by token",
        _alr(first_norm="token"),
        "The first norm ran over each token alone. It has one mean and one variance for the whole "
        "sentence, empty slots included.",
    ),
    Mistake(
        "channels first",
        _alr(order="channels"),
        "The sentence was laid out channel by channel. Token by token: first all channels of slot "
        "0, then those of slot 1.",
    ),
    Mistake(
        "last token first",
        _alr(order="last first"),
        "The long vector runs backwards: slot 0 comes first.",
    ),
    Mistake(
        "ReLU",
        _alr(slope=0.0),
        "Values below zero became zero; LeakyReLU keeps a hundredth of them.",
    ),
    Mistake("no second norm", _alr(second_norm=False), "The norm of the hidden units is missing."),
    Mistake(
        "input added",
        _alr(adds_input=True),
        "The input was added to the result. In ALR the residual sum comes later, and is the "
        "teacher's.",
    ),
)


def alr_weights(n_slots: int, d: int, h: int, *, generator: torch.Generator) -> dict[str, Tensor]:
    """Return random weights of a net of ALR, by the names of eq. (8.5).

    Shapes:
        gain, shift: ``(n_slots * d,)``; w_1: ``(n_slots * d, h)``; b_1, hidden_gain,
        hidden_shift: ``(h,)``; w_2: ``(h, n_slots * d)``; b_2: ``(n_slots * d,)``.
    """
    long = n_slots * d
    shapes = {"gain": (long,), "shift": (long,), "w_1": (long, h), "b_1": (h,)}
    shapes |= {"hidden_gain": (h,), "hidden_shift": (h,), "w_2": (h, long), "b_2": (long,)}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def hand_weights() -> dict[str, Tensor]:
    """Return the weights of the example on the page: two slots of one channel, two units."""
    numbers = {
        "gain": [1, 1], "shift": [0, 0], "w_1": [[1, 0], [0, 1]], "b_1": [0, 0],
        "hidden_gain": [1, 1], "hidden_shift": [0, 0], "w_2": [[2, 1], [1, 3]], "b_2": [0, 0],
    }  # fmt: skip
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}


def alr_cases() -> list[Case]:
    """Return the graded nets, smallest first."""
    generator = torch_generator(8, "exercise 8.1")

    def net(label: str, n_slots: int, d: int, h: int, n_words: int) -> Case:
        x = torch.randn(n_slots, d, generator=generator, dtype=torch.float64)
        return case(label, x, n_words, alr_weights(n_slots, d, h, generator=generator))

    page = torch.tensor([[3.0], [1.0]], dtype=torch.float64)
    return [
        case("the numbers on the page", page, 2, hand_weights()),
        net("three slots, all of them words", 3, 2, 4, 3),
        net("five slots, two words", 5, 3, 4, 2),
        net("four slots, no word", 4, 2, 3, 0),
    ]


# Exercise 8.2: every prefix in one pass


def _prefixes(
    *,
    sums: str = "running",
    n_numbers: str = "all slots",
    eps: float = EPS,
    centred: bool = True,
    variance: str = "centred",
    folds: str = "all slots",
    has_shift: bool = True,
    has_bias: bool = True,
) -> Function:
    """Return the first layer for every prefix, with these parts right or wrong."""

    def add(each: Tensor) -> Tensor:
        if sums == "all":
            return each.sum(0, keepdim=True).expand_as(each)
        return each.cumsum(0) if sums == "running" else each

    def hidden(x: Tensor, gain: Tensor, shift: Tensor, w_1: Tensor, b_1: Tensor) -> Tensor:
        time = len(x)
        read = torch.arange(1, time + 1, dtype=x.dtype)
        n = read * x.shape[1] if n_numbers == "slots so far" else torch.tensor(gain.numel())
        s = add(torch.einsum("td,tdh->th", x * gain[:time], w_1[:time]))
        m, v = add(x.sum(1)) / n, add(x.square().sum(1)) / n
        each = torch.einsum("jd,jdh->jh", gain, w_1)
        g = each.cumsum(0)[:time] if folds == "slots so far" else each.sum(0)
        c = torch.einsum("jd,jdh->h", shift, w_1) if has_shift else torch.zeros_like(b_1)
        variance_t = v - m.square() if variance == "centred" else v
        top = s - m[:, None] * g if centred else s
        return top / (variance_t + eps).sqrt()[:, None] + c + (b_1 if has_bias else 0.0)

    return hidden


prefix_hidden = _prefixes()

PREFIX_MISTAKES = (
    Mistake(
        "divides by t d",
        _prefixes(n_numbers="slots so far"),
        "Mean and variance were divided by the numbers read so far. The norm counts all W numbers, "
        "empty slots included: divide by W at every t.",
    ),
    Mistake(
        "uses the future",
        _prefixes(sums="all"),
        "Every row has the sums of the whole sentence: position t reads tokens after t. Sums run "
        "up to t.",
    ),
    Mistake(
        "no running sum",
        _prefixes(sums="own"),
        "Every row has its own token alone: add up what came before (cumsum).",
    ),
    Mistake(
        "forgets epsilon",
        _prefixes(eps=0.0),
        "The small number under the root is missing. It matters where a prefix is nearly constant.",
    ),
    Mistake(
        "mean not subtracted",
        _prefixes(centred=False),
        "The mean is not taken off: a norm subtracts m from every number, so m times the summed "
        "columns of the first map goes away.",
    ),
    Mistake(
        "square mean as variance",
        _prefixes(variance="raw"),
        "Under the root stands the mean square, not the variance: subtract the squared mean.",
    ),
    Mistake(
        "mean subtracted from filled slots alone",
        _prefixes(folds="slots so far"),
        "The mean was taken off the filled slots alone. After the norm an empty slot holds minus m "
        "over the root, not zero: sum the columns over all slots.",
    ),
    Mistake(
        "forgets the shift",
        _prefixes(has_shift=False),
        "The shift of the norm is missing; it reaches the hidden units through the first map.",
    ),
    Mistake("forgets the bias", _prefixes(has_bias=False), "b_1 is missing."),
)


def prefix_cases() -> list[Case]:
    """Return the graded prefixes, smallest first."""
    generator = torch_generator(8, "exercise 8.2")

    def layer(label: str, n_slots: int, time: int, d: int, h: int, size: float = 1.0) -> Case:
        shapes = ((time, d), (n_slots, d), (n_slots, d), (n_slots, d, h), (h,))
        x, *weights = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
        return case(label, size * x, *weights)

    return [
        layer("one slot, one token", 1, 1, 3, 2),
        layer("three slots, three tokens", 3, 3, 2, 2),
        layer("five slots, three tokens", 5, 3, 3, 4),
        layer("very small numbers", 4, 3, 2, 3, size=3e-3),
    ]


# Questions

DISTILLATION_QUIZ = (
    Question(
        "A student of an encoder layer says the same vector for every token: the teacher's mean. "
        "What is its relative error, eq. (8.2)?",
        [
            Option("0", "Then it would have to equal the teacher at every token."),
            Option(
                "1",
                "Numerator and denominator are then the same sum, on the tokens of the mean.",
                is_right=True,
            ),
            Option(
                "it depends on the size of the values",
                "It is relative: both sums grow with the square of the size.",
            ),
        ],
    ),
    Question(
        "Which students never have to hand the residual stream on, whatever stands in it? (Two.)",
        [
            Option(
                "ALR", "The stream passes beside the net; it says what is added.", is_right=True
            ),
            Option("ASLR", "As ALR, with a net for each head.", is_right=True),
            Option("ALRR", "The sum is inside: the net must hand the whole stream on."),
            Option("ELR", "Two sums are inside."),
        ],
    ),
    Question(
        "In the published study ALR does better than ALRR. What follows?",
        [
            Option(
                "The residual connection has a value of its own.",
                "It may, but ALRR also has to press the whole stream through h numbers, and was "
                "trained with ten times the learning rate. One has to separate these.",
            ),
            Option(
                "Nothing about residuals, until the limit of rank is taken away.",
                "Section 6: with a skip around the net the same width is enough.",
                is_right=True,
            ),
            Option(
                "A larger student is always better.",
                "Width is one cause among several, and sizes are not matched across methods.",
            ),
        ],
    ),
    Question(
        "Two students have relative errors 0.7 and 0.2. Which translator is better?",
        [
            Option("that with 0.2", "At the same site it mostly is; across sites it need not be."),
            Option("that with 0.7", "It can be, if its site matters little."),
            Option(
                "translate and count",
                "The error says how well a part is imitated, not how much the part matters.",
                is_right=True,
            ),
        ],
    ),
)
