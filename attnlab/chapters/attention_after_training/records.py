"""What notebook 13 reads from the records of the study ``replaced``; of none, tables of no rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnlab.analysis.compare import MIN_SEEDS
from attnlab.distillation import CONTROLS
from attnlab.markdown import markdown_table
from attnlab.paths import RUNS, record_places
from attnlab.records import load_runs, read_records
from attnlab.show import ranged
from attnlab.studies.arms import (
    ARMS_OF_TODAY,
    KINDS,
    OTHERWISE,
    PLACES,
    TEACHER,
    arm_columns,
    get_arm,
)
from attnlab.studies.replaced_verdicts import (
    COLUMNS,
    GEN,
    LATER,
    NOT_RECORDED,
    OTHER_TASKS,
    SCORE_NAMES,
    SENTENCES,
    fair_shares,
    rule_of,
    share_over_seeds,
)
from attnlab.studies.trivial import BASELINES
from attnlab.training.scores import unpack_counts

CAPTIONS = "replaced/paper/multi30k/de-en"
BASE = "all/linear"  # the recipe: what the rows of the ablation vary
LONGER = "all/identity/tuned_all"  # the teacher, trained on for as long as stand-ins are
TEACHERS = {"This notebook": CAPTIONS, "Notebook 09": "attentionless/paper/multi30k/de-en"}
INGREDIENTS = (  # columns of an arm that a recipe is made of
    "method", "feature_map", "window", "window_scale", "begins", "match", "inputs", "stages",
    "signal", "tunes",
)  # fmt: skip
FOLLOWS = {  # what another choice leaves no choice of
    "method": ("feature_map", "window", "window_scale"),
    "begins": ("stages", "match", "inputs"),
}
FRAME = ("site", "keeps")  # what ablations have in common with their recipe
RECIPE = {  # of a teacher, by where its record says it
    "Width, heads": "{d_model}, {n_heads}",
    "Layers": "{n_encoder_layers} + {n_decoder_layers}",
    "Dropout, label smoothing": "{dropout}, {label_smoothing}",
    "Highest rate, after steps": "{lr}, {warmup_steps:,}",
    "Pieces": "{target_vocab_size:,}",
    "Longest sentence (pieces)": "{max_len}",
    "Last passes averaged": "{n_averaged}",
    "Steps": "{n_steps:,}",
}
NETS = ("alr", "per_query")  # at the self sites, and at cross
PRECISION = "config.teacher_weights"
BESIDE = "chrf"  # of texts, in the table beside ROUGE-L


def recorded(
    experiment: str = CAPTIONS, *, path: Path = RUNS, metrics: Sequence[str] = ()
) -> pd.DataFrame:
    """Return one row a run of an arm, with its columns; where it was repeated, the last one.

    Args:
        experiment: With a slash at its end, all below it.
        metrics: Further columns.
    """
    runs = _newest(experiment, path, metrics)
    return arm_columns(runs[~runs["variant"].isin(BASELINES)])


def _newest(experiment: str, path: Path, metrics: Sequence[str]) -> pd.DataFrame:
    columns = [*dict.fromkeys([*COLUMNS, "bleu_low", "bleu_high", PRECISION, *metrics])]
    if (file := _file(path)) is None:
        return pd.DataFrame(columns=columns)
    runs = load_runs(experiment, path=file, columns=columns)
    return runs.drop_duplicates(["experiment", "variant", "seed"], keep="last", ignore_index=True)


def _file(path: Path, study: str = "replaced") -> Path | None:
    """Return the records of a study in a folder, or the file that was given, if it is there."""
    path = path / f"{study}.jsonl" if path.is_dir() else path
    return path if any(each.exists() for each in record_places(path)) else None


def spans(runs: pd.DataFrame) -> pd.DataFrame:
    """Return for each arm the share of its fair baseline's BLEU that it keeps.

    Args:
        runs: Of ``recorded``.

    Returns:
        By variant: ``share``, ``low`` and ``high`` (95 %, over seeds and sentences; nan without
        counts), ``of_recipe_low`` and ``of_recipe_high`` (the same of the recipe's BLEU, over the
        ``n_pairs`` seeds that both have), ``n_seeds``, ``bleu``, ``validation_share`` and the
        columns of the arm.
    """
    rows, pair, shares = {}, [SENTENCES, f"{SENTENCES}_of_baseline"], fair_shares(runs)
    recipe = shares[shares["variant"] == BASE]
    for variant, own in shares.groupby("variant", sort=False):
        share, low, high = _ratio(own[pair[0]], own[pair[1]])
        both = own.merge(recipe[["seed", SENTENCES]], on="seed", suffixes=("", "_of_recipe"))
        _, of_low, of_high = _ratio(both[SENTENCES], both[f"{SENTENCES}_of_recipe"])
        rows[variant] = {
            **own.iloc[0], "share": own["share"].mean() if np.isnan(share) else share, "low": low,
            "high": high, "of_recipe_low": of_low, "of_recipe_high": of_high,
            "n_seeds": len(own), "n_pairs": len(both), "bleu": own["bleu"].mean(),
            "validation_share": own["validation_share"].mean(),
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def _ratio(own: pd.Series, other: pd.Series) -> tuple[float, float, float]:
    """Return the ratio of BLEU with its interval, seed by seed; nan where counts are missing."""
    if own.empty or own.isna().any() or other.isna().any():
        return np.nan, np.nan, np.nan
    return share_over_seeds(*(map(unpack_counts, each) for each in (own, other)))


def planned_arms() -> pd.DataFrame:
    """Return the columns of the arms that the study plans, by variant."""
    return pd.DataFrame.from_dict({n: a.columns for n, a in ARMS_OF_TODAY.items()}, orient="index")


def arm_of(variant: str) -> dict[str, Any]:
    """Return the columns of an arm."""
    return get_arm(variant).columns


def unlike(one: pd.Series, other: pd.Series) -> list[str]:
    """Return the ingredients in which two arms differ; not what follows from another one."""
    names = {n for n in INGREDIENTS if one[n] != other[n]}
    for decides, follow in FOLLOWS.items():
        names -= set(follow) if decides in names else set()
    return [n for n in INGREDIENTS if n in names]


def ablation(planned: pd.DataFrame) -> dict[str, str]:
    """Return in words how each planned row that varies the recipe differs from it.

    Args:
        planned: Columns of arms, by variant.

    Returns:
        By variant words such as ``no window``, of one or two changes.
    """
    base, words = planned.loc[BASE], {}
    arms = planned[~planned["method"].isin([*CONTROLS])]
    for name, row in arms[(arms[list(FRAME)] == base[list(FRAME)]).all(axis=1)].iterrows():
        changed = unlike(base, row)
        if 1 <= len(changed) <= 2:
            words[str(name)] = ", ".join(filter(None, (_change(c, row[c]) for c in changed)))
    return words


def _change(column: str, value: Any) -> str:
    """Return words for an ingredient unlike the recipe's; none where another one says it."""
    told = {
        "window": f"window {value}" if value else "no window",
        "feature_map": f"features: {value}",
        "method": KINDS.get(value, "nets"),
        "window_scale": "window on the scale of features",
    }
    return told.get(column) or OTHERWISE.get((column, value), ("", ""))[1]


def _word(value: Any) -> str:
    return str(value).replace("_", " ") or "none"


def kept(found: pd.DataFrame) -> pd.DataFrame:
    """Return of ``spans`` the recipe and the rows that differ in what ``keeps`` attention."""
    planned = planned_arms()
    base = planned.loc[BASE]
    same = planned.index[
        [row["site"] == base["site"] and not unlike(base, row) for _, row in planned.iterrows()]
    ]
    return found.loc[[name for name in same if name in found.index]]


def heads(*, path: Path = RUNS) -> pd.DataFrame:
    """Return entropy and error of heads on captions, by feature map (``name``), without a window.

    Returns:
        Rows as ``head_table`` has them, of taught stand-ins before tuning; perhaps none.
    """
    planned = planned_arms()
    base = planned.loc[BASE]
    own = [n for n, row in planned.iterrows() if row["window"] == 0 and row["site"] == base["site"]
           and set(unlike(base, row)) <= {"window", "feature_map"}]  # fmt: skip
    rows = [
        {**head, "name": arm_of(line["variant"])["feature_map"], "seed": line["seed"]}
        for line in lines_of(CAPTIONS, path=path)
        if line["variant"] in own
        for head in line["details"].get("heads", ())
    ]
    return pd.DataFrame(rows)


def near_shares(*, path: Path = RUNS) -> pd.Series:
    """Return the share of attention's weight within a window, by self site of captions.

    Returns:
        Mean over the heads of the newest record that has it; perhaps no row.
    """
    for line in reversed(lines_of(CAPTIONS, path=path)):
        own = pd.DataFrame(line["details"].get("heads", ()), columns=["site", "near_share"])
        if (own := own.dropna())["site"].nunique() == 2:
            return own.groupby("site")["near_share"].mean()
    return pd.Series(dtype=float)


SWITCHED = ("encoder_self", "decoder_self", "cross")


def switched(row: Any) -> dict[str, str]:
    """Return what an arm puts at each site: ``attention``, ``linear`` or ``window``."""
    at = {"self": SWITCHED[:2], "all": SWITCHED, "": ()}.get(row["site"], (row["site"],))
    own = row["method"] if row["method"] != "linear" else "window" if row["window"] else "linear"
    put = {site: own if site in at else "attention" for site in SWITCHED}
    return put | ({"cross": "linear"} if put["cross"] == "window" else {})


def at_switches(runs: pd.DataFrame, **switches: str) -> pd.DataFrame:
    """Return the runs of the best arm (on validation) with these switches; perhaps no row."""
    fits = [switched(row) == switches and row["keeps"] == "" for _, row in runs.iterrows()]
    found = runs[np.array(fits, dtype=bool)]
    if found.empty:
        return found
    best = found.groupby("variant")["validation_bleu"].mean().fillna(0).idxmax()
    return found[found["variant"] == best]


# Teachers and tasks -------------------------------------------------------------------------------


def lines_of(experiment: str, *, path: Path = RUNS) -> list[dict[str, Any]]:
    """Return the records of an experiment, of each arm and seed the last; perhaps none."""
    if (file := _file(path, experiment.partition("/")[0])) is None:
        return []
    lines = [line for line in read_records(file) if line["experiment"] == experiment]
    return list({(line["variant"], line["seed"]): line for line in lines}.values())


def teachers(experiment: str = CAPTIONS, *, path: Path = RUNS) -> list[dict[str, Any]]:
    """Return the records of the teachers of an experiment, one a seed; perhaps none."""
    return [line for line in lines_of(experiment, path=path) if line["variant"] == TEACHER]


def passes(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the validation loss of teachers by ``tokens_seen``; perhaps no row."""
    names = ["tokens_seen", "loss_nats"]
    tables = [pd.DataFrame(line["curve"])[names].assign(seed=line["seed"]) for line in lines]
    if not tables:
        return pd.DataFrame(columns=[*names, "seed"])
    return pd.concat(tables, ignore_index=True)


def teachers_markdown(*, path: Path = RUNS) -> str:
    """Return recipe and scores of this teacher beside that of notebook 09, as Markdown."""
    rows = {}
    for words, experiment in TEACHERS.items():
        lines = teachers(experiment, path=path)
        rows[words] = _described(lines) if lines else {}
    labels = list(max(rows.values(), key=len))
    cells = [[label, *(own.get(label, NOT_RECORDED) for own in rows.values())] for label in labels]
    return markdown_table(["Captions, German to English", *rows], cells)


def _described(lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    config, data = lines[-1]["config"], lines[-1]["details"]["data"]
    said = {"n_averaged": 0, **config["model"], **config["train"], **data}
    scores = {n: pd.Series([line["metrics"].get(n, np.nan) for line in lines])
              for n in ("bleu", "beam_bleu")}  # fmt: skip
    return {
        **{label: form.format_map(said) for label, form in RECIPE.items()},
        "BLEU, greedy": ranged(scores["bleu"]),
        "BLEU, beam": ranged(scores["beam_bleu"]),
        "Test sentences": f"{data['test']:,} of {data['test'] + data['test_too_long']:,}",
        "Seeds": f"{len(lines)}",
    }


def tasks(*, path: Path = RUNS) -> pd.DataFrame:
    """Return what is left of each task where attention is replaced; perhaps no row.

    Returns:
        Rows ``task`` and ``stand_in`` in words, ``site``, ``metric``, ``score`` out of 100 (mean
        over seeds), ``low`` and ``high`` over seeds, ``teacher`` (its fair baseline's, see
        ``replaced_verdicts``), ``trivial``, ``n_seeds`` and ``chrf``.
    """
    rows = []
    for data, (words, metric) in OTHER_TASKS.items():
        rule = rule_of(experiment := f"{LATER}/paper/{data}")
        runs = _newest(experiment.removesuffix(GEN), path, (*rule.columns, BESIDE))
        if runs[metric].isna().all():
            continue
        arms = fair_shares(runs, rule=rule)
        arms = arms.assign(stand_in=[_stand_in(row) for _, row in arms.iterrows()])
        for (site, put), each in arms.groupby(["site", "stand_in"], sort=False):
            rows.append({
                "task": words, "stand_in": put, "site": site, "metric": SCORE_NAMES[metric],
                "score": each["score"].mean(), "low": each["score"].min(),
                "high": each["score"].max(), "teacher": each["score_of_baseline"].mean(),
                "trivial": each["trivial_score"].iloc[0], "n_seeds": each["seed"].nunique(),
                BESIDE: np.nan if data.endswith(GEN) else each[BESIDE].mean(),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _stand_in(row: Any) -> str:
    """Return what stands in, and how it learnt if not as the recipe does."""
    way = "" if row["way"] in ("", "in_turn") else row["way"]
    kind = "nets" if row["kind"] in NETS else row["kind"]
    if kind == "linear" and (row["window"] or row["site"] == "cross"):
        kind = "recipe"
    return ", ".join(_word(each) for each in (kind, row["extra"], way) if each)


def tasks_markdown(table: pd.DataFrame) -> str:
    """Return ``tasks`` as Markdown: scores, with the range over seeds."""
    if table.empty:
        return f"Other tasks: {NOT_RECORDED}."
    rows = [
        [
            row.task, row.metric, ranged(pd.Series([row.trivial])), f"{row.teacher:.1f}",
            f"{PLACES[row.site][1]}: {row.stand_in}",
            f"{row.score:.1f} ({row.low:.1f} to {row.high:.1f})",
            "" if np.isnan(row.chrf) else f"{row.chrf:.1f}", row.n_seeds,
        ]
        for row in table.itertuples()
    ]  # fmt: skip
    head = "task, score, trivial answer, teacher, replaced at, with it (seeds), its chrF, seeds"
    return markdown_table(head.split(", "), rows)


def conclusions(found: pd.DataFrame) -> list[str]:
    """Say in sentences what the recipe keeps, what is missed most, and what is not recorded.

    Args:
        found: Of ``spans``.
    """
    changed = ablation(planned_arms())
    n_all = len(ARMS_OF_TODAY) - 1
    said = [f"Rows recorded on captions: {len(found)} of {n_all}, besides the teacher."]
    if BASE not in found.index:
        return [*said, f"The recipe: {NOT_RECORDED}."]
    row = found.loc[BASE]
    said += [
        f"The recipe ({row['words']}) keeps {row['share']:.1%} of its teacher's BLEU "
        f"({row['low']:.1%} to {row['high']:.1%}), seeds: {row['n_seeds']:.0f}."
    ]
    apart = [v for v in changed if v in found.index and found.loc[v, "n_pairs"] >= MIN_SEEDS
             and found.loc[v, "of_recipe_high"] < 1]  # fmt: skip
    names = "; ".join(
        f"{changed[v]} ({found.loc[v, 'of_recipe_low']:.1%} to "
        f"{found.loc[v, 'of_recipe_high']:.1%} of its BLEU)"
        for v in sorted(apart, key=lambda v: found.loc[v, "share"])
    )
    said += [f"Worse than the recipe on the same sentences, seed by seed: {names or 'none'}."]
    whole = found[(found["site"] == "all") & (found["n_seeds"] >= MIN_SEEDS)]
    if whole["validation_share"].notna().any():
        best = whole.loc[whole["validation_share"].idxmax()]
        said += [
            f"Of {len(whole)} rows at all sites with {MIN_SEEDS} seeds most is kept on validation "
            f"by {best['words']}; on test it keeps {best['share']:.1%}."
        ]
    rounded = [changed.get(v, v) for v in found.index[found[PRECISION] == "bfloat16"]]
    if rounded:
        said += [f"Begun from the teacher that came along, in bfloat16: {'; '.join(rounded)}."]
    return said
