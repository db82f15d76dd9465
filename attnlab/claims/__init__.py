"""The ledger: every claim of the two papers, and what the records say of it."""

from attnlab.claims import nets  # whose lines register themselves
from attnlab.claims.evidence import VERDICTS, Evidence, Records
from attnlab.claims.ledger import (
    COLUMNS,
    digest,
    ledger,
    ledger_markdown,
    ledger_rows,
    read_words,
    verdicts_markdown,
)

__all__ = [
    "COLUMNS", "VERDICTS", "Evidence", "Records", "digest", "ledger",
    "ledger_markdown", "ledger_rows", "nets", "read_words", "verdicts_markdown",
]  # fmt: skip
