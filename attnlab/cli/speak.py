"""How commands talk: plain lines on standard output, values parsed from comma lists."""

import argparse
import sys
from collections.abc import Iterable, Sequence


def say(text: str = "") -> None:
    """Write one line to standard output."""
    sys.stdout.write(text + "\n")


def say_table(rows: Iterable[Sequence[str]], *, indent: str = "  ") -> None:
    """Write rows of text in aligned columns; the last column is left ragged."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        say((indent + "  ".join(cells)).rstrip())


def names(text: str) -> tuple[str, ...]:
    """Parse ``a,b,c``."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def counts(text: str) -> tuple[int, ...]:
    """Parse ``0,1,2``."""
    try:
        return tuple(int(number) for number in names(text))
    except ValueError:
        message = f"{text!r} is not a list of whole numbers such as 0,1,2"
        raise argparse.ArgumentTypeError(message) from None
