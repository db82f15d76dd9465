"""Pictures of chapter 14: all verdicts at a glance, one claim's evidence, one paired interval."""

from __future__ import annotations

import textwrap
from functools import cache

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from attnlab.analysis.compare import FAILS, HOLDS, UNDECIDED, student_t_975
from attnlab.claims import VERDICTS, ledger, read_words
from attnlab.show import new_axes, picture

COLOURS = {  # of a verdict; its word stands beside it wherever it is drawn
    HOLDS: "#117733",
    FAILS: "#882255",
    UNDECIDED: "#DDCC77",
    "exact": "#332288",
    "built": "#5F7FBF",
}
PALE = "#C8C8C8"  # what is no verdict: too few runs, or none
A_ROW = 9  # boxes
A_PAGE = 10  # lines of one claim
AXES = {  # unit: what the axis says
    "nats": "Difference (nats per token)",
    "BLEU": "BLEU, or difference in BLEU",
    "% of BLEU": "Share of the baseline's BLEU (%)",
    "times as long": "Time (times as long)",
    "times": "Weights (times as many)",
}
DIALS = {
    "claim": ("Claim", list(read_words()), "E9", "Which claim's evidence is shown"),
    "page": ("Page", 1, 1, 8, 1, "Ten lines each; beyond the last page the last one is shown"),
}


@cache
def lines_of(claim: str = "") -> pd.DataFrame:
    """Return the ledger, or one claim of it, read once."""
    return ledger(ids=[claim] if claim else ())


@picture
def verdicts(lines: pd.DataFrame):
    """All lines of the ledger: one row a verdict, one box a claim with its number of lines."""
    found = [word for word in VERDICTS if word in set(lines["verdict"])]
    boxes = {w: lines.loc[lines["verdict"] == w, "id"].value_counts(sort=False) for w in found}
    depth = {word: -(-len(ids) // A_ROW) for word, ids in boxes.items()}
    ax, y = new_axes(size=(7.2, 0.5 + 0.36 * sum(depth.values()) + 0.1 * len(found))), 0.0
    for word, ids in boxes.items():
        colour = COLOURS.get(word, PALE)
        is_dark = sum(int(colour[i : i + 2], 16) for i in (1, 3, 5)) < 380
        for place, (name, n) in enumerate(ids.items()):
            x, below = place % A_ROW, y - place // A_ROW
            ax.add_patch(Rectangle((x, below), 0.92, 0.84, color=colour))
            said = f"{name} ×{n}" if n > 1 else name
            ax.text(x + 0.46, below + 0.4, said, ha="center", va="center", size=9,
                    color="white" if is_dark else "black")  # fmt: skip
        y -= depth[word] + 0.3
        ax.text(-0.2, y + 0.3 + depth[word] + 0.4, word, ha="right", va="center")
    ax.set(xlim=(-0.1, A_ROW), ylim=(y + 1.2, 1.0), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    counts = ", ".join(f"{(lines['verdict'] == word).sum()} {word}" for word in found)
    return ax, (
        f"Every line of the ledger by its verdict: {counts}. A box is a claim, E of the first "
        "paper, R of the second; ×n stands for n lines of it."
    )


@picture
def evidence(claim: str, page: int = 1, *, lines: pd.DataFrame | None = None):
    """One claim's lines: verdict, number and, where it has one, the interval."""
    every = lines_of(claim) if lines is None else lines
    n_pages = -(-len(every) // A_PAGE)
    asked, page = page, min(page, n_pages)
    rows = every.iloc[A_PAGE * (page - 1) : A_PAGE * page].reset_index(drop=True)
    ax = new_axes(size=(9.0, 4.6))
    if rows["unit"].any():
        _draw_intervals(ax, rows)
    else:
        _draw_text(ax, rows)
    verdicts = rows["verdict"].value_counts(sort=False)
    counts = "; ".join(f"{n} {word}" for word, n in verdicts.items())
    first, more = rows.iloc[0], f" (page {page} of {n_pages})" if n_pages > 1 else ""
    if asked > page:
        more = f" (page {page} of {n_pages}; there is no page {asked})"
    number = f" First: {first['claim']}: {first['number']}." if first["number"] else ""
    return ax, f"{claim}{more}: {counts}.{number} Doubt: {first['doubt']}."


def _draw_intervals(ax: Axes, rows: pd.DataFrame) -> None:
    """Draw a row a line: what is said left, the interval, verdict and number right."""
    unit, across = rows.loc[rows["unit"] != "", "unit"].mode().iloc[0], ax.get_yaxis_transform()
    is_new = rows["quantity"] != rows["quantity"].shift()
    for place, row in rows.iterrows():
        told = {"va": "center", "transform": across}
        ax.text(-0.01, place - 0.2, _short(row["claim"], 66), size=8, ha="right", **told)
        if is_new[place]:
            said = _short(row["quantity"], 76)
            ax.text(-0.01, place + 0.2, said, size=7, ha="right", color="#555555", **told)
        verdict = row["verdict"].replace(" at this budget", "")
        ax.text(1.01, place - 0.2, verdict, size=8, weight="bold", **told)
        ax.text(1.01, place + 0.2, _short(row["number"], 36), size=7, **told)
        if row["unit"] == unit:
            colour = COLOURS.get(row["verdict"], PALE)
            ax.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=4,
                    solid_capstyle="butt")  # fmt: skip
            ax.plot(row["value"], place, "o", color=colour, markeredgecolor="black", markersize=5)
    ax.set(ylim=(max(len(rows), 5) - 0.4, -0.6), yticks=[], xlabel=AXES.get(unit, unit))
    if unit in ("BLEU", "nats"):
        ax.axvline(0, color="black", linewidth=0.8, linestyle=":")


def _draw_text(ax: Axes, rows: pd.DataFrame) -> None:
    """Write each line of a claim without a number that has an interval."""
    parts = [
        "\n".join(textwrap.fill(text, 96) for text in (
            f"{row['verdict'].upper()}: {row['claim']}", row["quantity"].capitalize(),
            row["number"]) if text) for row in rows.to_dict("records")
    ]  # fmt: skip
    ax.text(0, 1, "\n\n".join(parts), size=10, va="top", linespacing=1.5, transform=ax.transAxes)
    ax.set_axis_off()


def _short(text: str, n: int) -> str:
    return text if len(text) <= n else f"{text[: n - 1]}…"


@picture
def paired_interval(differences: np.ndarray, *, names: tuple[str, str]):
    """Differences of two mixers seed by seed, and the 95 % interval of their mean."""
    n, mean = len(differences), float(np.mean(differences))
    half = student_t_975(n - 1) * float(np.std(differences, ddof=1)) / np.sqrt(n)
    ax = new_axes(size=(6.4, 1.8))
    ax.plot(differences, np.zeros(n), "k|", markersize=14)
    ax.plot([mean - half, mean + half], [1, 1], color=COLOURS[UNDECIDED], linewidth=6)
    ax.plot(mean, 1, "ko")
    ax.axvline(0, color="black", linestyle=":")
    ax.set(yticks=[0, 1], yticklabels=["by seed", "mean, 95 %"], ylim=(-0.6, 1.6))
    ax.set_xlabel(f"Loss of {names[0]} minus that of {names[1]} (nats per token)")
    side = "includes" if mean - half <= 0 <= mean + half else "excludes"
    return ax, (
        f"{names[0]} minus {names[1]}, {n} paired seeds: mean {mean:+.3f} nats, interval "
        f"{mean - half:+.3f} to {mean + half:+.3f}. It {side} zero."
    )
