"""What notebook 13 reads from the records of the study ``replaced``; of none, tables of no rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnlab.analysis.compare import MIN_SEEDS
from attnlab.distillation import CONTROLS, SITES
from attnlab.markdown import markdown_table
from attnlab.mixers.linear_attention import FEATURE_MAPS
from attnlab.paths import RUNS, record_places
from attnlab.records import load_runs, read_records
from attnlab.show import ranged
from attnlab.studies.arms import (
    ARMS_OF_TODAY,
    FEATURES,
    KINDS,
    OTHERWISE,
    PLACES,
    TEACHER,
    arm_columns,
)
from attnlab.studies.replaced_verdicts import (
    COLUMNS,
    GEN,
    LATER,
    NOT_RECORDED,
    OTHER_TASKS,
    SCORE_NAMES,
    choose_arm,
    fair_shares,
    rule_of,
    span_of,
)
from attnlab.studies.trivial import BASELINES

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
SPANS = ("share", "low", "high", "of_recipe", "of_recipe_low", "of_recipe_high")
PRECISION = "config.teacher_weights"


def recorded(*, path: Path = RUNS) -> pd.DataFrame:
    """Return one row a run of an arm on captions, with its columns; repeated: the last one."""
    runs = _newest(CAPTIONS, path, (*COLUMNS, PRECISION))
    return arm_columns(runs[~runs["variant"].isin(BASELINES)])


def _newest(experiment: str, path: Path, columns: Sequence[str]) -> pd.DataFrame:
    if (file := _file(path)) is None:
        return pd.DataFrame(columns=list(columns))
    runs = load_runs(experiment, path=file, columns=list(columns))
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
        counts); ``of_recipe``, ``of_recipe_low`` and ``of_recipe_high``, the same of the recipe's
        BLEU over the ``n_pairs`` seeds that both have; ``n_seeds``, ``bleu``,
        ``validation_share`` and the columns of the arm.
    """
    rows, shares = {}, fair_shares(runs)
    recipe = shares.loc[shares["variant"] == BASE, ["seed", "score", "counts"]]
    for variant, own in shares.groupby("variant", sort=False):
        pairs = own.filter(["seed", "score", "counts"])
        pairs = pairs.merge(recipe, on="seed", suffixes=("", "_of_baseline"))
        pairs["share"] = pairs["score"] / pairs["score_of_baseline"]
        ends = (*span_of(own), *(span_of(pairs) if len(pairs) else (np.nan,) * 3))
        rows[variant] = {
            **own.iloc[0], **dict(zip(SPANS, ends, strict=True)), "n_seeds": len(own),
            "n_pairs": len(pairs), "bleu": own["bleu"].mean(),
            "validation_share": own["validation_share"].mean(),
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def planned_arms() -> pd.DataFrame:
    """Return the columns of the arms that the study plans, by variant."""
    return pd.DataFrame.from_dict({n: a.columns for n, a in ARMS_OF_TODAY.items()}, orient="index")


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
    """Return of ``spans`` the recipe and the rows that keep some attention."""
    return found[(found["keeps"] != "") | (found.index == BASE)] if len(found) else found


def heads(*, path: Path = RUNS) -> pd.DataFrame:
    """Return entropy and error of heads on captions, by feature map (``name``), without a window.

    Returns:
        Rows as ``head_table`` has them, of taught stand-ins before tuning, of the seeds that all
        maps have; perhaps none.
    """
    maps = {"all/linear/no_window": FEATURES} | {f"all/linear/{n}": n for n in FEATURE_MAPS}
    rows = [
        {**head, "name": maps[line["variant"]], "seed": line["seed"]}
        for line in lines_of(CAPTIONS, path=path)
        if line["variant"] in maps
        for head in line["details"].get("heads", ())
    ]
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    is_shared = table.groupby("seed")["name"].transform("nunique") == table["name"].nunique()
    return table[is_shared]


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


def switched(row: Any) -> dict[str, str]:
    """Return what an arm puts at each site: ``attention``, ``linear`` or ``window``."""
    at = PLACES[row["site"]][0]
    own = row["method"] if row["method"] != "linear" else "window" if row["window"] else "linear"
    put = {site: own if site in at else "attention" for site in SITES}
    return put | ({"cross": "linear"} if put["cross"] == "window" else {})


def at_switches(runs: pd.DataFrame, **switches: str) -> pd.DataFrame:
    """Return the runs of the best arm with these switches; perhaps no row.

    It is chosen as a verdict's is: three seeds first, then on validation.

    Args:
        runs: Of ``recorded``.

    Returns:
        Rows of ``fair_shares``.
    """
    if not set(switches.values()) - {"attention"}:
        teachers = runs[runs["variant"] == TEACHER]
        return teachers.assign(score_of_baseline=teachers["bleu"])
    arms = fair_shares(runs)
    fits = [switched(row) == switches and row["keeps"] == "" for _, row in arms.iterrows()]
    found = arms[np.array(fits, dtype=bool)]
    return found if found.empty else choose_arm(found)[0]


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
        runs = _newest(experiment.removesuffix(GEN), path, (*rule.columns, "chrf"))
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
                "chrf": np.nan if data.endswith(GEN) else each["chrf"].mean(),
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
            f"{row.score:.1f}" + f" ({row.low:.1f} to {row.high:.1f})" * (row.n_seeds > 1),
            "" if np.isnan(row.chrf) else f"{row.chrf:.1f}", row.n_seeds,
        ]
        for row in table.itertuples()
    ]  # fmt: skip
    head = "task, score, trivial answer, baseline, replaced at, with it (seeds), its chrF, seeds"
    return markdown_table(head.split(", "), rows)


def conclusions(found: pd.DataFrame) -> list[str]:
    """Say in sentences what the recipe keeps, what is missed most, and what is not recorded.

    Args:
        found: Of ``spans``.
    """
    changed = ablation(planned_arms())
    n_all = len(set(ARMS_OF_TODAY) - {TEACHER, LONGER})
    said = [f"Rows recorded on captions: {len(found)} of {n_all}, besides two teachers."]
    if BASE not in found.index:
        return [*said, f"The recipe: {NOT_RECORDED}."]
    row = found.loc[BASE]
    said += [
        f"The recipe ({row['words']}) keeps {row['share']:.1%} of the BLEU of its teacher, "
        f"trained on as long ({row['low']:.1%} to {row['high']:.1%}), seeds: {row['n_seeds']:.0f}."
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
