"""The one table of symbols: what a letter means, what the code calls it, where it appears first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.markdown import markdown_table

TABLE = Path(__file__).with_name("notation.tsv")
HEADINGS = ("Maths", "Code", "Space", "Meaning", "Paper", "First in")
NONE = "–"  # no code name, or a letter of the papers that is not known


@cache
def symbols() -> pd.DataFrame:
    """Return the table: one row a symbol, by its key; LaTeX without dollars.

    Columns ``maths``, ``code``, ``space`` (empty for a choice that is no number), ``meaning``
    (Markdown), ``notebook`` (the first one that uses it) and ``paper`` (the letter in the papers,
    where it is known).
    """
    table = pd.read_csv(TABLE, sep="\t", quoting=3, keep_default_na=False, dtype=str)
    return table.set_index("key")


def notation_markdown(keys: Iterable[str] | None = None) -> str:
    """Return the rows for these symbols as a Markdown table, in the order of the workbook.

    Args:
        keys: Such as ``d_model`` or ``stationary``; None means every row.

    Raises:
        UnknownNameError: For a key the table does not hold.
        AttnlabError: For no key at all.
    """
    table = symbols()
    wanted = set(table.index if keys is None else [keys] if isinstance(keys, str) else keys)
    if not wanted:
        raise AttnlabError("No symbol was asked for. Leave the argument out to see them all.")
    for key in sorted(wanted - set(table.index)):
        step = f"Or add a row to attnlab/teach/{TABLE.name}."
        raise UnknownNameError("symbol", key, table.index, next_step=step)
    return markdown_table(HEADINGS, map(_cells, table[table.index.isin(wanted)].itertuples()))


def show_notation(keys: Sequence[str] | str | None = None) -> None:
    """Show the rows for these symbols (all without an argument) as a table.

    Example: ``show_notation(["d_model", "context_len", "transition"])``. The column *Paper*
    holds the letter of the paper where it is known; a dash says that it is not.
    """
    display(Markdown(notation_markdown(keys)))


def _cells(row) -> tuple[str, ...]:
    code = f"`{row.code}`" if row.code else NONE
    maths, space, paper = (f"${x}$" if x else NONE for x in (row.maths, row.space, row.paper))
    return maths, code, space, row.meaning, paper, row.notebook
