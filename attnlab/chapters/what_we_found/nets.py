"""What records of ``attentionless`` say of nets on the toy: what helps, and ways to learn."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from attnlab.analysis.compare import latest_runs
from attnlab.markdown import markdown_table
from attnlab.records import load_runs
from attnlab.show import LOOKS, Picture, figure, look, new_axes, picture, ranged
from attnlab.studies.arms import CONTROL_NAMES, arm_columns
from attnlab.studies.arms import WAYS as LEARNT
from attnlab.studies.replaced_verdicts import NOT_RECORDED, n_scored
from attnlab.studies.report import TOY

SMALL = "attentionless/classroom/toy_small"
DODGE = 0.2  # rows between two kinds of translators that learnt in the same way
RENAMED = {"test_accuracy": "accuracy", "details.data.train": "n_train"}
COLUMNS = (
    "variant", "seed", "commit", "bleu", "n_weights", "n_replaced_weights", "n_stand_in_weights",
    "details.bleu.n_sentences", "details.data.test_too_long", *RENAMED,
)  # fmt: skip

# Rows of tables, by variant
LEAK = {
    "cross/paper/m": "Published net, M",
    "cross/truncated/m": "Cut net, M",
    "cross/paper/l": "Published net, L",
    "cross/truncated/l": "Cut net, L",
    "cross/prefix/l": "Every prefix, L",
    "cross/per_query/l": "Net per query, L",
}
QUERY, CUT = "cross/per_query/l", "cross/truncated/l"
HELPS = {
    "cross/per_query/m": "Net per query, M",
    QUERY: "Net per query, L",
    "cross/per_query/xl": "... wider: XL",
    f"{QUERY}/depth_2": "... two hidden layers",
    f"{QUERY}/depth_3": "... three hidden layers",
    f"{QUERY}/gate": "... query gate",
    f"{QUERY}/learned_head": "... one learned head",
    f"{QUERY}/tuned": "... tuned after the swap",
    f"{CUT}/tuned": "Cut net, L, tuned after the swap",
    "cross/low_rank/l": "Linear attention, L",
    "cross/low_rank/l/tuned": "... tuned after the swap (linear)",
    "cross/extractor/m": "Extractor",
}
WAYS = {  # to learn, in the order of a picture; "" has no word of its own
    **{way: words[0].upper() + words[1:] for way, (words, _) in LEARNT.items() if "scratch" in way},
    "undistilled": "New nets in the teacher's body, tuned",
    "": "Distilled",
    "tuned": "Distilled, nets tuned",
    "tuned_all": "Distilled, everything tuned",
}
TAUGHT = {  # words, look and fill
    "encoder_self/alr/m": ("ALR M in the encoder", "alr", "full"),
    "all/per_query/l": ("no attention: ALR M, net per query L", "alr", "none"),
    "all/low_rank/l": ("no softmax: ALR M, linear attention L", "linear_attention", "top"),
}


def recorded(experiment: str = TOY) -> pd.DataFrame:
    """Return one row a run with the columns of its arm; where it was repeated, the last one.

    ``kept`` is eq. (9.2) for arms at a single site, with the best control of that site and seed;
    nan where that is not there.
    """
    runs = load_runs(experiment, columns=COLUMNS).rename(columns=RENAMED)
    runs = arm_columns(latest_runs(runs))
    controls = runs[runs["method"].isin(CONTROL_NAMES) & (runs["way"] == "")]
    best = controls.groupby(["site", "seed"])["bleu"].max()
    floor = pd.Series(
        [best.get(p) for p in zip(runs["site"], runs["seed"], strict=True)], dtype=float
    )
    own = runs["seed"].map(runs[runs["variant"] == "teacher"].set_index("seed")["bleu"])
    kept = ((runs["bleu"] - floor) / (own - floor)).where(own > floor)
    return runs.assign(kept=kept)


def choose(runs: pd.DataFrame, rows: Mapping[str, str]) -> pd.DataFrame:
    """Return the runs of these variants in this order, with their words as ``label``."""
    chosen = runs[runs["variant"].isin(list(rows))]
    order = chosen["variant"].map(list(rows).index).argsort(kind="stable")
    return chosen.assign(label=chosen["variant"].map(rows)).iloc[order].reset_index(drop=True)


def compare(runs: pd.DataFrame, better: str, than: str, *, names: tuple[str, str]) -> str:
    """Say by how much one arm differs from another in both numbers, seed by seed.

    Args:
        names: Words for the two.
    """
    one, other = (
        runs.loc[runs["variant"] == variant].set_index("seed")[["bleu", "accuracy"]].astype(float)
        for variant in (better, than)
    )
    change, pair = (one - other).dropna(), f"{names[0]} against {names[1]}"
    if change.empty:
        return f"{pair}: {NOT_RECORDED}."
    return (
        f"{pair}, seed by seed ({len(change)}): BLEU {gained(change['bleu'])}, next token right "
        f"{gained(100 * change['accuracy'])} points."
    )


def gained(values: pd.Series) -> str:
    """Say the range of differences, each with its sign."""
    low, high = f"{values.min():+.1f}", f"{values.max():+.1f}"
    return low if low == high else f"{low} to {high}"


def trained_on(runs: pd.DataFrame) -> str:
    """Say what as many steps as students are tuned for do to a teacher with all its attention."""
    names = ("The teacher, trained on as long", "as it was")
    return compare(runs, "encoder_self/identity/tuned_all", "teacher", names=names)


# Tables ------------------------------------------------------------------------------------------


def ranges_markdown(runs: pd.DataFrame, rows: Mapping[str, str]) -> str:
    """Return a Markdown table of ranges over seeds; says what is not recorded.

    Args:
        runs: From ``recorded``.
        rows: Words for each variant, in the order of the table.
    """
    table = choose(runs, rows)
    shares = {"kept": "Kept share, eq. (9.2)"} if table["kept"].notna().any() else {}
    head = ["Stands in", "Weights", "Next token right, right past given", "BLEU, written freely"]
    lines = []
    for label, part in table.groupby("label", sort=False):
        n_weights = part["n_stand_in_weights"].iloc[0]
        weights = "–" if pd.isna(n_weights) else f"{n_weights:,.0f}"
        scores = [ranged(100 * part["accuracy"], "%"), ranged(part["bleu"])]
        lines.append([label, weights, *scores, *(ranged(part[n], digits=2) for n in shares)])
    n_seeds = table.groupby("label")["seed"].nunique().astype(str)
    seeds = " to ".join(dict.fromkeys([n_seeds.min(), n_seeds.max()]))
    ranges = (
        f"Ranges over {seeds} seeds, each with a teacher of its own" if seeds != "1" else "One seed"
    )
    lacking = "; ".join(words for v, words in rows.items() if v not in set(runs["variant"]))
    return (
        f"{markdown_table([*head, *shares.values()], lines)}\n\n"
        f"{ranges}; {n_scored_words(runs)} test sentences, greedy search."
        + (f" Not recorded yet: {lacking}." if lacking else "")
        + source_fold(table)
    )


def source_fold(runs: pd.DataFrame) -> str:
    """Return, folded, which records a table rests on."""
    commits = ", ".join(sorted(set(runs["commit"])))
    return (
        "\n\n<details><summary>Source</summary>\n\n`data/runs/attentionless.jsonl`, commit "
        f"{commits}.\n\n</details>"
    )


def n_scored_words(runs: pd.DataFrame) -> str:
    """Say how many test sentences were scored, and of how many: ``978 of 1,000``."""
    return "{:,} of {:,}".format(*n_scored(runs))


# Ways to learn -----------------------------------------------------------------------------------


def ways_points() -> tuple[pd.DataFrame, dict[str, float]]:
    """Return BLEU by way of learning, and that of attention, as the picture ``ways`` reads them.

    Data are named by the pairs that a teacher learnt from.
    """
    rows, teachers = [], {}
    for experiment in (TOY, SMALL):
        bleus = (runs := recorded(experiment)).groupby("variant")["bleu"]
        data = f"{runs['n_train'].max():,.0f} pairs to learn from"
        teachers[data] = float(bleus.get_group("teacher").mean())
        for way, words in WAYS.items():
            for variant, (arm, own, fill) in TAUGHT.items():
                row = {"data": data, "way": words, "arm": arm, "look": own, "fill": fill}
                name = f"{variant}/{way}".rstrip("/")
                found = bleus.get_group(name) if name in bleus.groups else []
                rows += [{**row, "bleu": bleu} for bleu in found]
    return pd.DataFrame(rows), teachers


@picture
def ways(points: pd.DataFrame, *, teachers: Mapping[str, float]):
    """BLEU by the way in which a translator learnt, one panel a set of training sentences.

    Args:
        points: Rows ``data``, ``way``, ``arm``, ``look``, ``fill`` and ``bleu``; several rows of
            a kind are seeds. The order of the rows is that of the picture.
        teachers: BLEU of the same translator with attention, by set.
    """
    names, arms = (list(dict.fromkeys(points[column])) for column in ("way", "arm"))
    looks = points.drop_duplicates("arm").set_index("arm")
    size = (1.8 + 3.1 * len(teachers), 1.5 + 0.36 * len(names))
    axes = new_axes(size=size, columns=len(teachers), sharey=True, squeeze=False)[0]
    sentences = []
    for ax, (data, teacher) in zip(axes, teachers.items(), strict=True):
        here, said = points[points["data"] == data], []
        for place, arm in enumerate(arms):
            part, its = here[here["arm"] == arm], looks.loc[arm]
            rows = part["way"].map(names.index) + DODGE * (place - (len(arms) - 1) / 2)
            ax.plot(part["bleu"], rows, linestyle="none", label=arm, fillstyle=its["fill"],
                    **LOOKS[its["look"]].points())  # fmt: skip
            learnt = part.groupby("way", sort=False)["bleu"]
            told = ", ".join(f"{way.lower()} {ranged(bleus)}" for way, bleus in learnt)
            said += [f"{arm}: {told}"] if told else []
        ax.axvline(teacher, color=look("attention").colour, lw=1.4, label="attention (teacher)")
        ax.set_title(data, fontsize=10)
        ax.set(xlabel="BLEU, written freely", xlim=(-3, 103))
        for row in range(1, len(names)):
            ax.axhline(row - 0.5, color="#DDDDDD", lw=0.8, zorder=0)
        sentences.append(f"{data} (attention {teacher:.1f}): {'; '.join(said) or NOT_RECORDED}.")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    handles = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(*handles, loc="outside upper center", ncols=2)
    return axes[0], (
        "BLEU by way of learning, a panel for each set of training sentences; the line is the "
        f"teacher with attention. {' '.join(sentences)}"
    )


@figure("replacing-scratch", records=(TOY, SMALL))
def replacing_scratch() -> Picture:
    """BLEU by way of learning, with many and with few pairs of the toy languages."""
    points, teachers = ways_points()
    one = ways(points, teachers=teachers)
    seeds = "; ".join(
        f"{name}: {', '.join(map(str, sorted(set(runs['seed']))))}, on "
        f"{n_scored_words(runs)} test sentences"
        for name in (TOY, SMALL)
        for runs in [recorded(name)]
    )
    return one.saying(f"Toy languages. {one.words} Points are seeds ({seeds}).")
