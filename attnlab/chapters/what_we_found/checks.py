"""Exercises of chapter 10: a verdict from paired seeds, and a choice that does not flatter."""

from __future__ import annotations

import numpy as np

from attnlab.analysis.compare import MIN_SEEDS, Claim, student_t_975, too_few
from attnlab.teach import Exercise

# Exercise 10.1: is the first one's loss lower? From losses ``(n_seeds,)`` of the same seeds

LOWER = Claim(says="the first is lower", variant="first", baseline="second")


def judge(*, is_paired=True, ddof=1, is_mean=True, t=student_t_975, least=MIN_SEEDS, turns=1):
    """Return a verdict on "the first is lower" with these parts right or wrong."""

    def verdict(first, second):
        a, b = np.asarray(first, float), np.asarray(second, float)
        n = len(a)
        if n < least:
            return too_few(n)
        spread = (a - b).std(ddof=ddof) if is_paired else np.sqrt(a.var(ddof=1) + b.var(ddof=1))
        half = t(n - 1) * spread / (np.sqrt(n) if is_mean else 1)
        mean = turns * (a - b).mean()
        return LOWER.verdict(n_pairs=max(n, MIN_SEEDS), low=mean - half, high=mean + half)

    return verdict


verdict_of = judge()
NO_INTERVAL = "No interval was taken: the mean alone does not say how much of it is luck."
check_verdict = Exercise(
    verdict_of,
    [
        ("one seed each", [1.0], [2.0]),
        ("two seeds, far apart", [1.0, 1.1], [2.0, 2.1]),
        ("three seeds, always lower", [3.10, 3.30, 3.20], [3.20, 3.41, 3.29]),
        ("three seeds, always higher", [3.20, 3.41, 3.29], [3.10, 3.30, 3.20]),
        ("three seeds, nearly surely lower", [1.00, 1.00, 1.00], [1.01, 1.02, 1.06]),
        ("three seeds, still not surely lower", [1.00, 1.00, 1.00], [1.05, 1.02, 1.06]),
        ("seeds differ more than the models", [2.0, 5.0, 3.0, 4.0], [2.1, 5.12, 3.09, 4.1]),
        ("four seeds, one of them a witness against", [1.0, 1.0, 1.0, 1.0], [1.1, 1.1, 1.1, 0.9]),
        ("four seeds, lower on average, doubtful", [0.0, 0.0, 0.0, 0.0], [0.1, 0.0, 0.12, 0.05]),
        ("four small gains", [0.0, 0.0, 0.0, 0.0], [0.1, 0.02, 0.12, 0.08]),
    ],
    {
        judge(least=2): "Two seeds gave a verdict. Fewer than three never do: say how many runs there are.",
        judge(is_paired=False): "You took the spread of the losses, not of their differences. At equal seed two models share batches and luck: subtract first.",
        judge(is_mean=False): "The interval is that of a single difference. The mean of n is more certain: divide by the root of n.",
        judge(t=lambda df: 1.96): "You took 1.96, which is right for many seeds. With few of them Student's t is larger.",
        judge(ddof=0): "The standard deviation was taken over n. Of few differences take it over n - 1: ddof=1.",
        judge(t=lambda df: 0.0): NO_INTERVAL,
        lambda a, b: "holds here" if np.mean(a) < np.mean(b) else "fails here": NO_INTERVAL,
        judge(turns=-1): "The sides are exchanged: lower means that first minus second lies below zero.",
    },
)  # fmt: skip


# Exercise 10.2: what to report of several arms, by their losses ``(n_arms,)``


def report_best(validation, test):
    return test[int(np.argmin(validation))]


check_report = Exercise(
    report_best,
    [
        ("one arm", np.array([1.0]), np.array([1.2])),
        ("two arms, the splits agree", np.array([1.0, 2.0]), np.array([1.1, 2.1])),
        ("two arms, the splits differ", np.array([1.0, 1.1]), np.array([1.3, 1.0])),
        ("five arms", np.array([2.0, 1.5, 1.6, 3.0, 1.9]), np.array([1.9, 1.7, 1.4, 2.9, 2.0])),
    ],
    {
        lambda validation, test: np.min(test): "You chose on the test sentences. The best of many arms is partly the luckiest one: choose on validation, then look at the test once.",
        lambda validation, test: np.min(validation): "That is the validation loss of the arm you chose: it was chosen for being low. Report its test loss.",
        lambda validation, test: int(np.argmin(validation)): "That is the number of the arm; report its test loss.",
        lambda validation, test: validation[int(np.argmin(test))]: "The splits are exchanged: validation chooses, test is reported.",
        lambda validation, test: np.mean(test): "That is the mean over all arms; one is chosen.",
        lambda validation, test: test[int(np.argmax(validation))]: "You took the arm with the highest validation loss.",
    },
)  # fmt: skip
