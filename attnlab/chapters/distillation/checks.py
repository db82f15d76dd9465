"""Exercises of chapter 08."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from attnlab.seeding import seeded, torch_generator
from attnlab.teach import Exercise

EPS, SLOPE = 1e-5, 0.01


def norm(z, gain, shift):
    """Return LN of eq. (8.5): one mean and one variance over a whole vector."""
    return F.layer_norm(z, z.shape, gain, shift, EPS)


def first_layer(net):
    """Return ``gain``, ``shift``, ``w_1`` and ``b_1`` of exercise 8.2 for a decoder student."""
    slots = net.net
    return slots.norm_gain, slots.norm_shift, slots.first_weight, slots.first_bias[0]


def rest_of_net(net, first):
    """Return what a decoder student makes of its first layer, ``(time, h)`` to ``(time, d)``."""
    slots = net.net
    gain, shift = slots.hidden_gain[0], slots.hidden_shift[0]
    h = torch.stack([norm(row, gain, shift) for row in F.leaky_relu(first, SLOPE)])
    return h @ slots.second_weight[:, 0] + slots.second_bias[0]


# Exercise 8.1: the net of ALR --------------------------------------------------------------------


def net_of(
    *,
    empties=True,
    first_norm="sentence",
    order="tokens",
    slope=SLOPE,
    second_norm=True,
    hides=True,
    adds_input=False,
):
    """Return a net of ALR with these parts right or wrong."""

    def net(x, n_words, weights):
        is_word = (torch.arange(len(x)) < n_words)[:, None]
        slots = x * is_word if empties else x
        z = (slots.mT if order == "channels" else slots).flatten()
        z = z.flip(0) if order == "last first" else z
        gain, shift = weights["gain"], weights["shift"]
        if first_norm == "sentence":
            z = norm(z, gain, shift)
        if first_norm == "token":
            z = F.layer_norm(slots, slots.shape[1:], eps=EPS).flatten() * gain + shift
        h = F.leaky_relu(z @ weights["w_1"] + weights["b_1"], slope)
        if second_norm:
            h = norm(h, weights["hidden_gain"], weights["hidden_shift"])
        y = (h @ weights["w_2"] + weights["b_2"]).view_as(x)
        y = y + x if adds_input else y
        return y * is_word if hides else y

    return net


def hand_weights():
    """Return the weights of the example on the page: two slots of one channel, two units."""
    numbers = {"gain": [1, 1], "shift": [0, 0], "w_1": [[1, 0], [0, 1]], "b_1": [0, 0],
               "hidden_gain": [1, 1], "hidden_shift": [0, 0], "w_2": [[2, 1], [1, 3]], "b_2": [0, 0]}  # fmt: skip
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}


generator = torch_generator(8, "exercise 8.1")


def random_net(label, n_slots, d, h, n_words):
    """Return a case: x, the number of words, weights by the names of eq. (8.5)."""
    long = n_slots * d
    x = torch.randn(n_slots, d, generator=generator, dtype=torch.float64)
    shapes = {"gain": (long,), "shift": (long,), "w_1": (long, h), "b_1": (h,), "hidden_gain": (h,),
              "hidden_shift": (h,), "w_2": (h, long), "b_2": (long,)}  # fmt: skip
    draw = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    return label, x, n_words, draw


alr_net = net_of()
ADDED = (
    "The input was added to the result. In ALR the residual sum comes later, and is the teacher's."
)
check_alr_net = Exercise(
    alr_net,
    [
        ("the numbers on the page", torch.tensor([[3.0], [1.0]], dtype=torch.float64), 2, hand_weights()),
        random_net("three slots, all of them words", 3, 2, 4, 3),
        random_net("five slots, two words", 5, 3, 4, 2),
        random_net("four slots, no word", 4, 2, 3, 0),
    ],
    {
        net_of(empties=False): "What stands in the empty slots reaches the net: the answer then depends on what the batch was filled up with. Put zeros there first.",
        net_of(hides=False): "Rows after the last word are not zero: the net writes every slot, so hide those that hold no word.",
        net_of(first_norm="none"): "The long vector goes into the first map without its norm.",
        net_of(first_norm="token"): "The first norm ran over each token alone. It has one mean and one variance for the whole sentence, empty slots included.",
        net_of(order="channels"): "The sentence was laid out channel by channel. Token by token: first all channels of slot 0, then those of slot 1.",
        net_of(order="last first"): "The long vector runs backwards: slot 0 comes first.",
        net_of(slope=0.0): "Values below zero became zero; LeakyReLU keeps a hundredth of them.",
        net_of(slope=1.0): "LeakyReLU is missing between the two maps.",
        lambda x, n_words, weights: alr_net(x, n_words, weights) + x: ADDED,
        net_of(second_norm=False): "The norm of the hidden units is missing.",
        net_of(adds_input=True): ADDED,
    },
)  # fmt: skip


# Exercise 8.2: every prefix in one pass ----------------------------------------------------------


def prefixes(
    *,
    sums="running",
    n_numbers="all slots",
    eps=EPS,
    centred=True,
    variance="centred",
    folds="all slots",
    has_shift=True,
    has_bias=True,
):
    """Return the first layer for every prefix, with these parts right or wrong."""

    def add(each):
        if sums == "all":
            return each.sum(0, keepdim=True).expand_as(each)
        return each.cumsum(0) if sums == "running" else each

    def hidden(x, gain, shift, w_1, b_1):
        time = len(x)
        read = torch.arange(1, time + 1, dtype=x.dtype)
        n = read * x.shape[1] if n_numbers == "slots so far" else torch.tensor(gain.numel())
        s = add(torch.einsum("td,tdh->th", x * gain[:time], w_1[:time]))
        m, v = add(x.sum(1)) / n, add(x.square().sum(1)) / n
        each = torch.einsum("jd,jdh->jh", gain, w_1)
        g = each.cumsum(0)[:time] if folds == "slots so far" else each.sum(0)
        c = torch.einsum("jd,jdh->h", shift, w_1) if has_shift else torch.zeros_like(b_1)
        top = s - m[:, None] * g if centred else s
        v = v if variance == "raw" else v - m.square()
        v = v * n / (n - 1) if variance == "unbiased" else v
        root = (v + eps).sqrt()
        return top / root[:, None] + c + (b_1 if has_bias else 0.0)

    return hidden


prefix_generator = torch_generator(8, "exercise 8.2")


def random_layer(label, n_slots, time, d, h, size=1.0):
    """Return a case: x ``(time, d)``, gain, shift, w_1 and b_1."""
    shapes = ((time, d), (n_slots, d), (n_slots, d), (n_slots, d, h), (h,))
    x, *weights = (torch.randn(s, generator=prefix_generator, dtype=torch.float64) for s in shapes)
    return label, size * x, *weights


prefix_hidden = prefixes()
check_prefix_hidden = Exercise(
    prefix_hidden,
    [
        random_layer("one slot, one token", 1, 1, 3, 2),
        random_layer("three slots, three tokens", 3, 3, 2, 2),
        random_layer("five slots, three tokens", 5, 3, 3, 4),
        random_layer("very small numbers", 4, 3, 2, 3, size=3e-3),
    ],
    {
        prefixes(n_numbers="slots so far"): "Mean and variance were divided by the numbers read so far. The norm counts all W numbers, empty slots included: divide by W at every t.",
        prefixes(sums="all"): "Every row has the sums of the whole sentence: position t reads tokens after t. Sums run up to t.",
        prefixes(sums="own"): "Every row has its own token alone: add up what came before (cumsum).",
        prefixes(eps=0.0): "The small number under the root is missing. It matters where a prefix is nearly constant.",
        prefixes(centred=False): "The mean is not taken off: a norm subtracts m from every number, so m times the summed columns of the first map goes away.",
        prefixes(variance="raw"): "Under the root stands the mean square, not the variance: subtract the squared mean.",
        prefixes(variance="unbiased"): "The variance was divided by W - 1; a norm divides by W.",
        lambda *given: F.leaky_relu(prefix_hidden(*given), SLOPE): "LeakyReLU came on top: asked for is what goes into it.",
        prefixes(folds="slots so far"): "The mean was taken off the filled slots alone. After the norm an empty slot holds minus m over the root, not zero: sum the columns over all slots.",
        prefixes(has_shift=False): "The shift of the norm is missing; it reaches the hidden units through the first map.",
        prefixes(has_bias=False): "b_1 is missing.",
    },
)  # fmt: skip


# Build 8: a lesson ---------------------------------------------------------------------------------


def lesson_of(*, goal="teacher", clears=True, steps=True, trains="student", is_still=True, over="teacher", square=True, reduction="mean", anew=False, rate=None):  # fmt: skip
    """Return a lesson with these parts right or wrong."""

    def teach(teacher, student, batches, lr):
        teacher.eval() if is_still else teacher.train()
        weights = [*student.parameters(), *(teacher.parameters() if trains == "both" else ())]
        adam, errors = torch.optim.Adam(weights, lr=rate or lr), []
        for x in batches:
            adam = torch.optim.Adam(weights, lr=rate or lr) if anew else adam
            y = x if goal == "input" else teacher(x)
            y = y if trains == "both" else y.detach()
            found = student(x)
            gap = (found - y).square() if square else (found - y).abs()
            spread = {
                "teacher": y.var(unbiased=False),
                "none": 1.0,
                "student": found.var(unbiased=False),
            }[over]
            error = (gap.mean() if reduction == "mean" else gap.sum()) / spread
            if clears:
                adam.zero_grad()
            error.backward()
            if steps:
                adam.step()
            errors.append(error.item())
        return errors

    return teach


def taught(teach, n_batches, lr):
    """Return the errors of a lesson, the student's weights after it, and the teacher's."""
    with seeded(torch_generator(8, "build")):
        teacher = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 5))
        student = nn.Sequential(nn.Linear(5, 6), nn.LeakyReLU(SLOPE), nn.Linear(6, 5))
        batches = list(torch.randn(n_batches, 16, 5))
        errors = teach(teacher, student, batches, lr)
    after = (
        torch.cat([w.detach().flatten() for w in net.parameters()]) for net in (teacher, student)
    )
    return {"errors": errors, "teacher's weights": next(after), "student's weights": next(after)}


check_teach = Exercise(
    lesson_of(),
    [(f"{n} batch{'es' * (n > 1)}, rate {lr}", n, lr) for n, lr in ((1, 0.1), (3, 0.05), (40, 0.02))],
    {
        lesson_of(goal="input"): "The student learns to repeat its input: the goal is what the teacher makes of it.",
        lesson_of(is_still=False): "The teacher is in training mode, and its dropout gives another answer each time. Call teacher.eval().",
        lesson_of(trains="both"): "The teacher is trained as well: give the optimiser the student's parameters alone.",
        lesson_of(clears=False): "Gradients of earlier batches add up: call zero_grad() before backward().",
        lesson_of(steps=False): "The student did not move: step() is missing.",
        lesson_of(over="none"): "The squared error was not divided by the variance of the teacher's outputs.",
        lesson_of(over="student"): "You divided by the variance of the student's outputs; the teacher's is the measure.",
        lesson_of(square=False): "That is the absolute error; the lesson takes its square.",
        lesson_of(reduction="sum"): "The squared errors were added up; take their mean.",
        lesson_of(anew=True): "The optimiser is made anew for each batch. Adam has a memory: make it once, before the loop.",
        lesson_of(rate=1e-3): "The rate lr is not used.",
    },
    use=taught,
)  # fmt: skip
