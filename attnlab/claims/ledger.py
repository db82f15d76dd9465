"""The ledger as a table, as Markdown and as text: the words of a claim beside its evidence."""

from __future__ import annotations

import csv
import re
import textwrap
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from attnlab.claims.evidence import Evidence, Records, find_evidence
from attnlab.errors import UnknownNameError
from attnlab.markdown import markdown_table
from attnlab.paths import RUNS

WORDS, MEANINGS = (Path(__file__).with_name(f"{name}.tsv") for name in ("words", "verdicts"))
COLUMNS = ("id", "claim", "verdict", "number", "seeds", "quantity", "budget", "record", "section",
           "doubt", "value", "low", "high", "unit")  # fmt: skip
WIDTHS = {"id": 3, "claim": 35, "verdict": 29, "number": 17, "seeds": 6}  # of a terminal


class Words(NamedTuple):
    """What is written by hand of a claim; ``place`` is a notebook and the number of a section."""

    id: str
    place: str
    claim: str
    quantity: str
    doubt: str

    @property
    def section(self) -> str:
        """The place as a link, seen from the folder of the notebooks."""
        notebook, number = self.place.split()
        return f"[{notebook[:2]}, section {number}]({notebook}.ipynb)"


def read_words() -> dict[str, Words]:
    """Return the words of every claim by its id: first paper, second paper, teaching."""
    with WORDS.open(encoding="utf-8", newline="") as file:
        rows = [Words(**row) for row in csv.DictReader(file, delimiter="\t")]
    return {row.id: row for row in sorted(rows, key=lambda row: (row.id[0], int(row.id[1:])))}


def ledger(*, path: Path = RUNS, ids: Sequence[str] = ()) -> pd.DataFrame:
    """Return every claim with what came of it, one row a line: some claims have several.

    Only words are typed: verdict, number, seeds and budget come from records, or are computed
    there and then. What has no evidence is *not recorded yet*, until there are records.

    Args:
        path: The folder of run files.
        ids: These claims alone.

    Returns:
        ``COLUMNS``, in the order of the ids; ``value``, ``low`` and ``high`` are the number and
        its interval in ``unit``, nan where it is no such number.

    Raises:
        UnknownNameError: There is no claim of that id.
    """
    words, records, rows = read_words(), Records(path), []
    for name in ids or words:
        if name not in words:
            raise UnknownNameError("claim", name, words, next_step="Leave it out to see them all.")
        rows += [_row(words[name], line) for line in find_evidence(name, records)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(words: Words, line: Evidence) -> dict[str, object]:
    said = {"claim": line.claim or words.claim, "quantity": line.quantity or words.quantity}
    told = {"id": words.id, "section": words.section, "doubt": words.doubt}
    return {**line._asdict(), "seeds": int(line.seeds), **said, **told}


def digest(lines: pd.DataFrame) -> pd.DataFrame:
    """Return one row a sentence of a claim: ``id``, ``claim``, ``verdict``, ``number``, ``seeds``.

    Where it has several lines, verdicts are counted and seeds are a range.
    """
    rows = []
    for (name, claim), part in lines.groupby(["id", "claim"], sort=False):
        counts = part["verdict"].value_counts(sort=False)
        said = "; ".join(f"{word} ({n})" for word, n in counts.items())
        few, most = part["seeds"].min(), part["seeds"].max()
        seeds = f"{few}" if few == most else f"{few} to {most}"
        only = part.iloc[0]
        one = (only["verdict"], only["number"]) if len(part) == 1 else (said, "")
        rows.append((name, claim, *one, seeds if most else ""))
    return pd.DataFrame(rows, columns=["id", "claim", "verdict", "number", "seeds"])


def verdicts_markdown() -> str:
    """Return what each word of a verdict means, as a Markdown table."""
    with MEANINGS.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file, delimiter="\t")
    return markdown_table(head, [(f"**{word}**", meaning) for word, meaning in rows])


def ledger_markdown(lines: pd.DataFrame, *, folder: str = "") -> str:
    """Return lines of the ledger as Markdown: a fold a claim, whose name is ``claim-E7``.

    Args:
        lines: From ``ledger``; the fold of a claim that stands alone is open.
        folder: What stands before the links, such as ``notebooks/``.
    """
    parts = lines.groupby("id", sort=False)
    return "\n\n".join(_fold(part, folder, parts.ngroups == 1) for _, part in parts)


def _fold(lines: pd.DataFrame, folder: str, is_open: bool) -> str:
    """Return one claim: its verdicts in the summary, then doubt and place, then its lines."""
    one, words = lines.iloc[0], read_words()[lines["id"].iloc[0]]
    counts = lines["verdict"].value_counts(sort=False).items()
    said = "; ".join(f"{word} ({n})" if len(lines) > 1 else word for word, n in counts)
    claim = words.claim if lines["claim"].nunique() > 1 else one["claim"]
    head = f"<a href='#claim-{one['id']}'>{one['id']}</a> {escape(claim)}: <b>{said}</b>"
    place = one["section"].replace("](", f"]({folder}")
    about, is_alike = [f"Doubt: {one['doubt']}. See {place}."], lines["quantity"].nunique() == 1
    if is_alike:
        about.insert(0, f"Measured: {one['quantity']}.")
    cells, above = [], claim
    for row in lines.to_dict("records"):
        told = [f"**{row['claim']}**"] * (is_alike or row["claim"] != above)
        told += [] if is_alike else [row["quantity"]]
        above = row["claim"]
        seeds = f"{row['seeds']} seed{'s' * (row['seeds'] > 1)}" if row["seeds"] else ""
        record = re.sub(r"[\w-]+/[^,\s]*", r"`\g<0>`", row["record"])
        ground = "; ".join(filter(None, (seeds, row["budget"], record)))
        cells.append((": ".join(told), f"**{row['verdict']}**", row["number"], ground))
    fold = f"<details id='claim-{one['id']}'{' open' * is_open}><summary>{head}</summary>"
    first = len(cells) == 1 and is_alike  # what it says stands above
    heads = ("line", "verdict", "number", "ground")[first:]
    table = markdown_table(heads, [cell[first:] for cell in cells])
    return "\n\n".join([fold, " ".join(about), table, "</details>"])


def ledger_rows(name: str | None = None, *, path: Path = RUNS) -> list[tuple[str, ...]]:
    """Return rows for a terminal of 100 columns: a line a sentence, or everything of one claim.

    Raises:
        UnknownNameError: There is no claim of that id.
    """
    lines = ledger(path=path, ids=[name] if name else ())
    if name is None:
        rows = [tuple(WIDTHS), *digest(lines).itertuples(index=False)]
        return [tuple(map(_cut, row, WIDTHS.values())) for row in rows]
    rows = lines.to_dict("records")
    cards = [(row["id"] * (n == 0), text) for row in rows for n, text in enumerate(_card(row))]
    place = re.sub(r"\[(.*)\]\((.*)\)", r"\1 (notebooks/\2)", lines["section"].iloc[0])
    return [*cards, ("", f"Doubt: {lines['doubt'].iloc[0]}."), ("", f"See {place}.")]


def _cut(cell: str, width: int) -> str:
    cell = cell.replace(" at this budget", "")
    return cell if len(cell) <= width else f"{cell[: width - 1]}…"


def _card(row: dict) -> list[str]:
    seeds = f"seeds: {row['seeds']}" if row["seeds"] else ""
    parts = (row["number"], row["quantity"], seeds, row["budget"], row["record"])
    return [f"{row['claim']}: {row['verdict'].upper()}",
            *textwrap.wrap("; ".join(filter(None, parts)), 92)]  # fmt: skip
