"""From a Project Gutenberg file to the book in it."""

import re

from attnlab.errors import IntegrityError

_MARKS = re.compile(r"\[(?:Illustration|Picture)[^\]]*\]|\{[^{}]*\.jpg\}", re.IGNORECASE)
_TRAILING_BLANKS = re.compile(r"\s+$")
_MANY_EMPTY_LINES = re.compile(r"\n{4,}")


def strip_gutenberg(text: str, *, keep: str) -> str:
    """Return the book without licence, credits, transcriber's notes and picture marks.

    Which lines are the book is recorded for each file rather than guessed, because
    credits and notes have no common form. The rest are rules: marks of pictures go,
    no-break spaces become blanks, trailing blanks are cut, and at most two empty lines
    stand in a row.

    Args:
        text: The whole file, line ends as LF.
        keep: Ranges of lines, counted from 1, both ends included: ``"37-3401"`` or
            ``"36-55,58-9012"``.
    """
    lines = text.split("\n")
    kept = [line for first, last in line_ranges(keep) for line in lines[first - 1 : last]]
    unmarked = _MARKS.sub("", "\n".join(kept).replace("\N{NO-BREAK SPACE}", " "))
    trimmed = "\n".join(_TRAILING_BLANKS.sub("", line) for line in unmarked.split("\n"))
    return _MANY_EMPTY_LINES.sub("\n\n\n", trimmed.strip() + "\n")


def line_ranges(ranges: str) -> list[tuple[int, int]]:
    """Read ``"36-55,58-9012"`` as pairs of line numbers."""
    pairs = [part.partition("-") for part in ranges.split(",")]
    try:
        return [(int(first), int(last)) for first, _, last in pairs]
    except ValueError as problem:
        raise IntegrityError(
            f"{ranges!r} in the manifest is not a list of line ranges such as '36-55,58-9012'. "
            "Install attnlab again."
        ) from problem
