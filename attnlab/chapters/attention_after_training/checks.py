"""Exercises of notebook 13: features, a window and the rest, what is matched."""

from __future__ import annotations

import torch

from attnlab.seeding import torch_generator
from attnlab.teach import Exercise

draw = torch_generator(13, "exercises")


def random(*shape, size=1.0):
    """Return numbers with the spread ``size``."""
    return size * torch.randn(shape, generator=draw, dtype=torch.float64)


# Exercise 13.1: softmax of both signs --------------------------------------------------------------


def features_of(*, both="softmax of each", axis=-1, order=1, mapped=True):
    """Return a feature map with these parts right or wrong."""

    def features(x, W):
        z = x @ W if mapped else x
        parts = {
            "softmax of each": lambda: [z.softmax(axis), (-z).softmax(axis)],
            "minus softmax": lambda: [z.softmax(axis), -z.softmax(axis)],
            "one softmax": lambda: [torch.cat([z, -z], -1).softmax(-1)],
            "exp": lambda: [z.exp(), (-z).exp()],
            "plain": lambda: [z, -z],
            "one minus": lambda: [z.softmax(axis), 1 - z.softmax(axis)],
        }[both]()
        return torch.cat(parts[::order], -1)

    return features


check_features = Exercise(
    features_of(),
    [
        ("one token, identity", random(1, 2), torch.eye(2, dtype=torch.float64)),
        ("three tokens, five features of each sign", random(3, 4), random(4, 5)),
        ("large numbers", random(5, 3, size=4.0), random(3, 3)),
    ],
    {
        lambda x, W: (x @ W).softmax(-1): "That is one sign only: put softmax(-xW) beside it.",
        features_of(both="minus softmax"): "The sign belongs inside: softmax(-z), not -softmax(z). Features must be positive.",
        features_of(both="one softmax"): "Both signs share one softmax. Each has its own: every half sums to one.",
        features_of(both="exp"): "The exponentials are not divided by their sum.",
        features_of(both="plain"): "The softmax is missing: these features can be negative.",
        features_of(both="one minus"): "1 - softmax(z) is not softmax(-z).",
        features_of(axis=0): "The softmax runs over tokens. It runs over the features of one token: no token meets another.",
        features_of(order=-1): "The two halves changed places: softmax(z) comes first.",
        features_of(mapped=False): "The map W is not used.",
    },
)  # fmt: skip


# Exercise 13.2: what is matched --------------------------------------------------------------------


def loss_of(*, kind="cross", over="rows", base=1.0, turned=False):
    """Return a loss between weights with these parts right or wrong."""

    def weights_loss(a, b):
        a, b = (b, a) if turned else (a, b)
        log_a, log_b = (each.clamp(min=1e-9).log() / base for each in (a, b))
        each = {
            "cross": -a * log_b,
            "divergence": a * (log_a - log_b),
            "entropy": -a * log_a,
            "log": -log_b * (a > 0),
            "no minus": a * log_b,
            "square": (a - b).square(),
            "likeliest": -log_b * (a == a.max(-1, keepdim=True).values),
        }[kind]
        rows = each.sum(-1)
        return {"rows": rows.mean(), "sum": rows.sum(), "all": each.mean()}[over]

    return weights_loss


def rows_of(n, m, *, causal=False):
    """Return a teacher's and a student's weights, each row summing to one."""
    bars = torch.ones(n, m, dtype=torch.bool).tril() if causal else torch.ones(n, m) > 0
    return tuple(random(n, m, size=2.0).masked_fill(~bars, -torch.inf).softmax(-1) for _ in "ab")


check_weights_loss = Exercise(
    loss_of(),
    [
        ("one row of two", *rows_of(1, 2)),
        ("three rows of five", *rows_of(3, 5)),
        ("four rows, nothing from the future", *rows_of(4, 4, causal=True)),
    ],
    {
        loss_of(kind="divergence"): "You took the teacher's entropy off. It moves no weight, but the loss asked for keeps it.",
        loss_of(turned=True): "Teacher and student changed places: the teacher's weights multiply the logarithm of the student's.",
        loss_of(kind="entropy"): "That is the teacher's entropy: the logarithm is of the student's weights.",
        loss_of(kind="log"): "The teacher's weights are missing: where it does not look, an error costs nothing.",
        loss_of(kind="no minus"): "The minus sign is missing.",
        loss_of(kind="square"): "That is the squared error of the matrix, which hardly sees small weights.",
        loss_of(kind="likeliest"): "Only the place that the teacher likes best counts here; all count, each by its weight.",
        lambda a, b: -(a * b.log()).sum(-1).mean(): "Where the student's weight is 0, so is the teacher's, but 0 times minus infinity is no number: clamp before the logarithm.",
        loss_of(over="sum"): "Rows are added up; take their mean.",
        loss_of(over="all"): "The mean runs over all entries: sum over a row, then take the mean over rows.",
        loss_of(base=0.6931471805599453): "That is in bits; the natural logarithm gives nats.",
    },
)  # fmt: skip


# Build 13: a window and the rest -------------------------------------------------------------------


def looked_up(*, near=0, far=0, gate=True, top="near", scale=True, share="one", future=False, blend=None):  # fmt: skip
    """Return the look-up of one head with these parts right or wrong.

    Args:
        near, far: What is added to the window's first position, for the softmax and for the rest.
    """

    def window_and_rest(q, k, v, phi_q, phi_k, w, g):
        g, rows = g if gate else 1.0, []
        s = q @ k.T / (q.shape[1] ** 0.5 if scale else 1.0)
        for t in range(len(q)):
            close, open_ = max(0, t - w + 1 + near), min(max(0, t - w + 1 + far), t + 1)
            last = min(t + w, len(q)) if future else t + 1
            inside = s[t, close:last]
            c = {
                "near": inside.max() if len(inside) else 0.0,
                "none": 0.0,
                "row": s[t, : t + 1].max(),
            }[top]
            a, b = g * (inside - c).exp(), phi_k[:open_] @ phi_q[t]
            above, rest = a @ v[close:last], b @ v[:open_]
            if blend is not None:
                parts = [y / n for y, n in ((above, a.sum()), (rest, b.sum())) if n > 0]
                rows.append(sum(parts) * blend[len(parts) - 1])
                continue
            below = {
                "one": a.sum() + b.sum(),
                "near": a.sum() if len(inside) else 1.0,
                "none": 1.0,
            }[share]
            rows.append((above + rest) / below)
        return torch.stack(rows)

    return window_and_rest


def head_of(n, d, w, g):
    """Return queries, keys, values and positive features of one head, then window and gate."""
    q, k, v, z_q, z_k = (random(n, d, size=1.5) for _ in range(5))
    return q, k, v, z_q.softmax(-1), z_k.softmax(-1), w, g


check_window_and_rest = Exercise(
    looked_up(),
    [
        ("one token", *head_of(1, 2, 1, 0.5)),
        ("three tokens, all near", *head_of(3, 2, 3, 1.0)),
        ("three tokens, a window of one", *head_of(3, 2, 1, 0.5)),
        ("four tokens, no window: features alone", *head_of(4, 3, 0, 0.5)),
        ("seven tokens, a window of three", *head_of(7, 4, 3, 0.1)),
    ],
    {
        looked_up(blend=(1.0, 0.5)): "Window and rest were normalised one by one and averaged. One normaliser holds both: add numerators, add denominators, then divide.",
        looked_up(blend=(1.0, 1.0)): "Window and rest were normalised one by one and added. One normaliser holds both.",
        looked_up(far=9): "The features run over the near positions as well: these are counted twice. They begin where the window ends.",
        looked_up(near=1, far=1): "The window is one short: it holds w positions, t included.",
        looked_up(near=-1, far=-1): "The window is one too long: it holds w positions, t included.",
        looked_up(gate=False): "The gate g is not used.",
        looked_up(top="none"): "c was not taken off. It is no matter of taste here: what stands beside the exponentials is not scaled with them.",
        looked_up(top="row"): "c is the largest score of the whole past; it is that of the window alone.",
        looked_up(scale=False): "Scores are divided by the root of the width of a head.",
        looked_up(share="near"): "Only the window is in the denominator; the features' shares belong there, too.",
        looked_up(share="none"): "Nothing was divided by the sum of the shares.",
        looked_up(future=True): "Position t sees later ones: in the decoder the window ends at t.",
    },
    breaks={"four tokens, no window: features alone": "With w = 0 the window is empty, and an empty list has no largest score."},
)  # fmt: skip
