"""The first paper's order on fair ground: by quantity, learning rate and passes over the text.

Reads the swept records of ``language-model``: the same steps on less and less text, so that the
text is passed over more and more often, each mixer at several learning rates and, at its best
one, with several seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from attnlab.analysis.compare import ORDERING, Claim, judge_claims
from attnlab.errors import AttnlabError
from attnlab.paths import RUNS
from attnlab.records import load_runs
from attnlab.studies.mixers import SETTINGS, STARTS

SWEPT = "language-model/classroom/children/swept"
ONE_RATE = {  # as the paper has it, "the same hyperparameters": experiment: words for its ground
    "language-model/classroom/tales": "tales, one rate for all",
    "language-model/paper/children": "books, large models, one rate for all",
}
QUANTITIES = {"train_loss_nats": "training cost", "test_loss_nats": "held-out loss"}
CHOSEN_BY = {  # which loss of seed 0 chooses the rate at which a quantity is judged
    "train_loss_nats": "train_loss_nats",
    "test_loss_nats": "validation_loss_nats",
}
SIZE, WORK = "attention_matched_parameters", "attention_matched_compute"
CLAIMS = (
    *ORDERING,
    Claim(says="SHE trains to a lower cost than attention of its size", variant="she",
          baseline=SIZE),
    Claim(says="SHE trains to a lower cost than attention of its work", variant="she",
          baseline=WORK),
)  # fmt: skip
COLUMNS = {
    "variant": "variant",
    "seed": "seed",
    "config.passes": "passes",
    "config.setting": "setting",
    "config.train.lr": "lr",
    "train_loss_nats": "train_loss_nats",
    "validation_loss_nats": "validation_loss_nats",
    "test_loss_nats": "test_loss_nats",
    "config.train.precision": "precision",
}
POINT = ["variant", "setting", "passes"]


def swept_runs(experiment: str = SWEPT, *, path: Path = RUNS) -> pd.DataFrame:
    """Return one row a swept run: variant, seed, passes, setting, lr and its losses.

    Where a run was repeated, the last one counts. Controls in another precision than most runs
    have are left out.
    """
    runs = load_runs(experiment, path=path, columns=list(COLUMNS)).rename(columns=COLUMNS)
    runs = runs[runs["precision"].isin(runs["precision"].mode(dropna=False))]
    return runs.drop_duplicates([*POINT, "lr", "seed"], keep="last", ignore_index=True)


def chosen_starts(runs: pd.DataFrame) -> dict[str, str]:
    """Return the start of each variant with the lowest validation loss at one pass, seed 0.

    The matched variants take that of attention.
    """
    tried = runs[runs["setting"].isin(STARTS) & (runs["passes"] == 1) & (runs["seed"] == 0)]
    tried = tried[~tried["variant"].isin([SIZE, WORK])]
    best = tried.loc[tried.groupby("variant")["validation_loss_nats"].idxmin()]
    starts = best.set_index("variant")["setting"].to_dict()
    matched = {name: starts["attention"] for name in (SIZE, WORK) if "attention" in starts}
    return {**starts, **matched}


def with_chosen_starts(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep the runs whose variant began as ``chosen_starts`` says."""
    return runs[runs["setting"] == runs["variant"].map(chosen_starts(runs))]


def at_best_rate(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Keep the rate that is best at seed 0, by variant, setting and passes.

    Held-out loss is judged at the rate with the lowest validation loss; training cost at that
    with the lowest training cost: after many passes a training that failed validates best.
    """
    first = runs[runs["seed"] == 0]
    best = first.loc[first.groupby(POINT)[CHOSEN_BY[metric]].idxmin(), [*POINT, "lr"]]
    return runs.merge(best, on=[*POINT, "lr"])


def ground_verdicts(*, path: Path = RUNS) -> pd.DataFrame:
    """Judge the order of the first paper on every ground that is recorded.

    Returns:
        One row a claim, quantity and ground: ``says``, ``variant``, ``baseline``, ``quantity``,
        ``ground`` (in words), ``passes``, ``rate`` (in words), ``verdict``, ``n_pairs``, ``mean``,
        ``low``, ``high``, ``experiment``.
    """
    parts = []
    for experiment, ground in ONE_RATE.items():
        columns = ["experiment", "variant", "seed", *QUANTITIES]
        runs = load_runs(experiment, path=path, columns=columns)
        told = {"ground": ground, "passes": 1.0, "rate": "one for all", "experiment": experiment}
        parts.append(_judged(lambda metric, runs=runs: runs).assign(**told))
    fair = with_chosen_starts(swept_runs(path=path))
    for passes, runs in fair.groupby("passes"):
        ground = f"books, best rates, {passes:g} pass{'es' * (passes != 1)}"
        told = {"passes": passes, "rate": "each one's best", "experiment": SWEPT, "ground": ground}
        parts.append(_judged(partial(at_best_rate, runs)).assign(**told))
    return _stacked(parts)


def sensitivity(*, passes: float = 1.0, lr: float = 0.01, path: Path = RUNS) -> pd.DataFrame:
    """Judge the order again under each setting that the paper leaves unknown, at one rate.

    A setting that does not concern a baseline is held against the usual baseline.

    Returns:
        As ``ground_verdicts``, with ``setting`` in the place of a ground.
    """
    runs, parts = swept_runs(path=path), []
    runs = runs[(runs["passes"] == passes) & (runs["lr"] == lr)]
    usual = runs[(runs["setting"] == "as_usual") & runs["variant"].str.startswith("attention")]
    for setting in [name for name in SETTINGS if name in set(runs["setting"])]:
        own = runs[runs["setting"] == setting]
        known = pd.concat([own, usual[~usual["variant"].isin(own["variant"])]])
        judged = _judged(lambda metric, known=known: known, claims=ORDERING)
        parts.append(judged[judged["variant"].isin(own["variant"])].assign(setting=setting))
    return _stacked(parts)


def _judged(
    runs: Callable[[str], pd.DataFrame], *, claims: Sequence[Claim] = CLAIMS
) -> pd.DataFrame:
    """Judge claims by each quantity; ``runs`` gives the runs that it is judged by."""
    parts = [
        judge_claims(runs(metric), claims=claims, metric=metric).assign(quantity=quantity)
        for metric, quantity in QUANTITIES.items()
    ]
    return _stacked(parts)


def _stacked(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return tables below each other; pandas 2 warns of columns that have no value in one."""
    alike = [part.astype(object) for part in parts]
    return pd.concat(alike, ignore_index=True).infer_objects()


def differences(runs: pd.DataFrame, variant: str, baseline: str, metric: str) -> pd.DataFrame:
    """Return the mean difference to a baseline: one row a rate, one column a number of passes.

    Both are at the same rate and seed; nan where that is not recorded.

    Raises:
        AttnlabError: It is recorded nowhere.
    """
    keys = ["passes", "lr", "seed"]
    one, other = (
        runs[runs["variant"] == name].set_index(keys)[metric] for name in (variant, baseline)
    )
    both = (one - other).dropna().groupby(["lr", "passes"]).mean()
    if both.empty:
        raise AttnlabError(
            f"No rate is recorded for both {variant} and {baseline}. Run them with --axis lr=0.01."
        )
    return both.unstack("passes")


def winners(runs: pd.DataFrame, metric: str, *, among: Sequence[str]) -> pd.DataFrame:
    """Return the variant with the lowest loss of seed 0: one row a rate, one column a passes.

    Points at which a variant of ``among`` is not recorded are nan; rates without a point are
    left out.
    """
    first = runs[(runs["seed"] == 0) & runs["variant"].isin(among)]
    table = first.pivot_table(index=["lr", "passes"], columns="variant", values=metric)
    best = table.idxmin(axis=1).where(table.reindex(columns=list(among)).notna().all(axis=1))
    return best.dropna().unstack("passes")


FAMILIES = "mixers"  # the study of every mixer at equal weights or equal work
RATE, MATCH = "config.train.lr", "config.match"
NOTHING = "identity"  # the mixer that moves nothing


def family_runs(
    *, scale: str = "classroom", match: str = "weights", path: Path = RUNS
) -> pd.DataFrame:
    """Return the runs of study ``mixers``, each mixer at the learning rate that it chose.

    Args:
        match: What all models have in common, ``weights`` or ``work``.

    Returns:
        One row a corpus, variant and seed: ``corpus``, ``variant``, ``seed``, ``lr``,
        ``test_loss_nats``, ``oracle_nats`` and ``test_accuracy`` (nan where there is none),
        ``n_weights``, ``seconds``, ``d_model``, ``context_len``, ``n_heads``, ``n_layers``,
        ``experiment``. Empty where nothing is recorded.
    """
    sizes = {f"config.model.{n}": n for n in ("d_model", "context_len", "n_heads", "n_layers")}
    plain = ("experiment", "variant", "seed", "validation_loss_nats", "test_loss_nats")
    plain += ("oracle_nats", "test_accuracy", "n_weights", "seconds")
    runs = load_runs(f"{FAMILIES}/{scale}/", path=path, columns=[*plain, RATE, MATCH, *sizes])
    runs = runs[runs[MATCH] == match].rename(columns={**sizes, RATE: "lr"})
    return at_own_rate(runs.assign(corpus=runs["experiment"].str.split("/").str[2]))


def at_own_rate(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep, of each corpus and variant, the rate with the lowest validation loss at seed 0."""
    point = ["corpus", "variant"]
    runs = runs.drop_duplicates([*point, "lr", "seed"], keep="last", ignore_index=True)
    first = runs[(runs["seed"] == 0) & runs["validation_loss_nats"].notna()]
    best = first.loc[first.groupby(point)["validation_loss_nats"].idxmin(), [*point, "lr"]]
    return runs.merge(best, on=[*point, "lr"]).reset_index(drop=True)


def shares_of_the_way(runs: pd.DataFrame) -> pd.DataFrame:
    r"""Say how far each mixer comes from no mixing to the best possible, on every corpus.

    .. math:: \frac{L_0 - L}{L_0 - L^*}

    :math:`L_0` is the mean loss without mixing, :math:`L^*` that of the true source on the same
    tokens; where no source is known, the lowest mean of any mixer, and then ``is_floor`` is false.

    Args:
        runs: From ``family_runs``.

    Returns:
        One row a corpus and variant: ``corpus``, ``variant``, ``n_seeds``, ``share``, ``low`` and
        ``high`` (over seeds), ``loss_nats``, ``nothing_nats``, ``best_nats``, ``is_floor``. Corpora
        without a run of no mixing are left out.
    """
    rows = []
    for corpus, part in runs.groupby("corpus", sort=False):
        losses = part.groupby("variant", sort=False)["test_loss_nats"]
        means = losses.mean()
        floor = part["oracle_nats"].mean()
        is_floor = bool(pd.notna(floor))
        best = float(floor) if is_floor else float(means.min())
        if NOTHING not in means or not means[NOTHING] > best:
            continue
        nothing = float(means[NOTHING])
        told = {"corpus": corpus, "nothing_nats": nothing, "best_nats": best, "is_floor": is_floor}
        for variant, own in losses:
            share = (nothing - own) / (nothing - best)
            rows.append(
                {
                    "variant": variant,
                    "n_seeds": len(own),
                    "share": share.mean(),
                    "low": share.min(),
                    "high": share.max(),
                    "loss_nats": own.mean(),
                    **told,
                }
            )
    columns = ["corpus", "variant", "n_seeds", "share", "low", "high", "loss_nats", "nothing_nats",
               "best_nats", "is_floor"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)
