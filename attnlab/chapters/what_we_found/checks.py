"""Exercises of chapter 14: a verdict from paired seeds, and a choice that does not flatter."""

from __future__ import annotations

import numpy as np
import pandas as pd

from attnlab.analysis.compare import MIN_SEEDS, Claim, student_t_975, too_few
from attnlab.teach import Exercise

# Exercise 14.1: is the first one's loss lower? From losses ``(n_seeds,)`` of the same seeds

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


# Exercise 14.2: what to report of several arms, by their losses ``(n_arms,)``


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


# Build 14: a claim held against records ------------------------------------------------------------


def claim_of(*, repeats="last", paired="seed", turns=1, t=student_t_975, least=MIN_SEEDS, ddof=1, is_mean=True, metric=None):  # fmt: skip
    """Return a check of "the first is lower" from records, with these parts right or wrong."""

    def check(runs, first, second, metric_asked):
        if repeats == "mean":
            runs = runs.groupby(["variant", "seed"], as_index=False)[metric or metric_asked].mean()
        elif repeats != "all":
            runs = runs.drop_duplicates(["variant", "seed"], keep=repeats)
        a, b = (
            runs[runs["variant"] == name].set_index("seed")[metric or metric_asked]
            for name in (first, second)
        )
        if paired == "place":
            n = min(len(a), len(b))
            D = turns * (a.to_numpy()[:n] - b.to_numpy()[:n])
        else:
            both = a[~a.index.duplicated()].index.intersection(b.index.unique())
            D = turns * (a.loc[both].to_numpy() - b[~b.index.duplicated()].loc[both].to_numpy())
        n = len(D)
        if n < least:
            return n, np.nan, np.nan, too_few(n)
        half = t(n - 1) * D.std(ddof=ddof) / (np.sqrt(n) if is_mean else 1)
        low, high = float(D.mean() - half), float(D.mean() + half)
        return n, low, high, LOWER.verdict(n_pairs=max(n, MIN_SEEDS), low=low, high=high)

    return check


def records(*rows):
    """Return records from ``(variant, seed, test loss, training cost)``."""
    return pd.DataFrame(rows, columns=["variant", "seed", "test_loss_nats", "train_loss_nats"])


def paired_records(a, b, *more):
    """Return records of variants a and b with seeds 0, 1, ..., and further rows."""
    rows = [(name, seed, loss, loss - 0.5 - 0.2 * seed * (name == "a"))
            for name, losses in (("a", a), ("b", b)) for seed, loss in enumerate(losses)]  # fmt: skip
    return records(*rows, *more)


LOW, HIGH = [3.10, 3.30, 3.20, 3.05], [3.20, 3.41, 3.29, 3.16]

check_claim = Exercise(
    claim_of(),
    [
        ("three seeds, surely lower", paired_records(LOW[:3], HIGH[:3]), "a", "b", "test_loss_nats"),
        ("the same, asked the other way", paired_records(LOW[:3], HIGH[:3]), "b", "a", "test_loss_nats"),
        ("two seeds", paired_records(LOW[:2], HIGH[:2]), "a", "b", "test_loss_nats"),
        ("seeds in another order", paired_records(LOW, HIGH).iloc[[3, 1, 0, 2, 4, 5, 6, 7]], "a", "b", "test_loss_nats"),
        ("a seed that only one of them has", paired_records(LOW, HIGH[:3], ("c", 3, 9.0, 8.0)), "a", "b", "test_loss_nats"),
        ("a run that was repeated", paired_records([9.0, *LOW[1:]], HIGH, ("a", 0, 3.10, 2.6)), "a", "b", "test_loss_nats"),
        ("training cost", paired_records(LOW, HIGH), "a", "b", "train_loss_nats"),
    ],
    {
        claim_of(repeats="first"): "Of a repeated run the first one was taken. Records are only appended to: the last one counts.",
        claim_of(repeats="mean"): "A repeated run was averaged with its repetition; the last one counts.",
        claim_of(paired="place"): "Runs were paired by their place in the table; pair them by seed.",
        claim_of(turns=-1): "The sides are exchanged: take first minus second.",
        claim_of(least=2): "Two seeds gave a verdict. Fewer than three never do: say how many runs there are.",
        claim_of(t=lambda df: 1.96): "You took 1.96, which is right for many seeds. With few of them Student's t is larger.",
        claim_of(ddof=0): "The standard deviation was taken over n. Of few differences take it over n - 1: ddof=1.",
        claim_of(is_mean=False): "The interval is that of a single difference. The mean of n is more certain: divide by the root of n.",
        claim_of(metric="test_loss_nats"): "The column asked for is not used: the metric is an argument.",
    },
)  # fmt: skip
