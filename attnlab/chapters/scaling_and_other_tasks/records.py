"""What chapter 12 reads: fitted powers, growth of times, and tables of what is recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from attnlab.analysis.scaling import ScalingFit
from attnlab.errors import AttnlabError
from attnlab.markdown import markdown_table
from attnlab.mixers import list_mixers
from attnlab.paths import RUNS
from attnlab.records import load_runs
from attnlab.show import look
from attnlab.studies import scaling
from attnlab.studies.growth import growth_powers

SCALING = "scaling/classroom"
CORPORA = {"tales": "Tales", "tree": "Tree"}
ALONG = ("length", "width")
NOT_RECORDED = "*Not recorded yet: this table fills by itself once there are runs.*"
FITTED = ["variant", "corpus", "seeds", "n_runs", "a", "a_low", "a_high", "b", "b_low", "b_high",
          "rms", "floor", "E", "E_low", "E_high"]  # fmt: skip
USED = ("experiment", "variant", "seed", "n_block_weights", "tokens_seen", "test_loss_nats",
        "oracle_nats", "config.model.d_model", "config.train.n_steps")  # fmt: skip


def recorded(corpus: str, *, path: Path = RUNS) -> pd.DataFrame:
    """Return the runs of the study on a source: variant, seed, N, D, loss, floor; or no row."""
    runs = load_runs(f"{SCALING}/{corpus}", path=path, columns=USED)
    return scaling.scaling_runs(runs.dropna(subset=["n_block_weights"]))


def fits(*, path: Path = RUNS) -> pd.DataFrame:
    """Return one row a mixer and source that can be fitted: powers and the free constant.

    Columns are ``FITTED``; ends with ``_low`` and ``_high`` are of 95 % intervals over runs.
    """
    rows = [row for corpus in CORPORA for row in _fitted(corpus, recorded(corpus, path=path))]
    return pd.DataFrame(rows, columns=FITTED)


def _fitted(corpus: str, runs: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for name, own in runs.groupby("variant", sort=False):
        try:
            fit, free = (scaling.fit_runs(own, is_free=is_free) for is_free in (False, True))
        except AttnlabError:
            continue
        intervals = {"a": fit.intervals["a"], "b": fit.intervals["b"], "E": free.intervals["E"]}
        ends = {f"{p}_low": low for p, (low, _) in intervals.items()}
        ends |= {f"{p}_high": high for p, (_, high) in intervals.items()}
        yield {"variant": name, "corpus": corpus, "seeds": own["seed"].nunique(), "a": fit.a,
               "b": fit.b, "n_runs": fit.n_runs, "rms": fit.rms, "floor": fit.E, "E": free.E,
               **ends}  # fmt: skip


def law(runs: pd.DataFrame, *, variant: str) -> ScalingFit | None:
    """Return the law above the known floor of one mixer; None where its runs tell none."""
    try:
        return scaling.fit_runs(runs[runs["variant"] == variant])
    except AttnlabError:
        return None


def held_out(corpus: str, *, path: Path = RUNS) -> pd.DataFrame:
    """Predict the largest runs of each mixer from all smaller ones, and hold them against it.

    Returns:
        One row a mixer: ``variant``, ``N``, ``D``, ``predicted``, ``low``, ``high`` and
        ``measured`` (mean over seeds), all losses in nats.
    """
    rows, runs = [], recorded(corpus, path=path)
    for name, own in runs.groupby("variant", sort=False):
        at = own["N"].max(), own["D"].max()
        is_last = (own["N"] == at[0]) & (own["D"] == at[1])
        fit = law(own[~is_last], variant=name) if is_last.any() else None
        if fit is None:
            continue
        low, high = fit.predicted_interval(*at)
        measured = own.loc[is_last, "loss"].mean()
        rows.append((name, *at, float(fit.predict(*at)), low, high, measured))
    columns = ["variant", "N", "D", "predicted", "low", "high", "measured"]
    return pd.DataFrame(rows, columns=columns)


def fits_table(table: pd.DataFrame) -> str:
    """Return the fits as Markdown: powers, misfit, and what a free constant finds."""
    if table.empty:
        return NOT_RECORDED
    rows = [
        [look(row["variant"]).label, CORPORA.get(row["corpus"], row["corpus"]),
         _with_ends(row, "a"), _with_ends(row, "b"), f"{row['rms']:.0%}", f"{row['floor']:.3f}",
         _with_ends(row, "E", digits=3), f"{row['seeds']:.0f}"]
        for row in table.to_dict("records")
    ]  # fmt: skip
    head = ["mixer", "source", "power of N", "power of D", "residual", "floor h (nats)",
            "fitted constant E (nats)", "seeds"]  # fmt: skip
    return markdown_table(head, rows)


def held_out_table(table: pd.DataFrame) -> str:
    """Return predictions of the largest runs as Markdown."""
    if table.empty:
        return NOT_RECORDED
    rows = [
        [look(row["variant"]).label, f"{row['N']:,.0f}", f"{row['D'] / 1e6:.2f} M",
         f"{row['predicted']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
         f"{row['measured']:.3f}"]
        for row in table.to_dict("records")
    ]  # fmt: skip
    head = ["mixer", "weights", "tokens", "predicted loss (nats)", "measured (nats)"]
    return markdown_table(head, rows)


def growth(*, path: Path = RUNS) -> pd.DataFrame:
    """Return powers of length and width in the times of the mixers that this notebook follows."""
    table = growth_powers(path=path)
    return table[table["variant"].isin(list_mixers())].reset_index(drop=True)


def growth_table(table: pd.DataFrame) -> str:
    """Return powers of times as Markdown: one row a mixer, the flattest in length first."""
    if table.empty:
        return NOT_RECORDED
    wide = table.set_index(["variant", "along"])
    rows = []
    for name in table.loc[table["along"] == "length", "variant"]:
        cells = [
            f"{row['p']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
            for row in (wide.loc[(name, along)] for along in ALONG if (name, along) in wide.index)
        ]
        rows.append([look(name).label, *cells, *["–"] * (2 - len(cells))])
    return markdown_table(["mixer", "power of the length", "power of the width"], rows)


def _with_ends(row: Mapping[str, Any], name: str, *, digits: int = 2) -> str:
    value, low, high = (f"{row[f'{name}{end}']:.{digits}f}" for end in ("", "_low", "_high"))
    return f"{value} ({low} to {high})"
