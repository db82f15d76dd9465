"""Words of readers and corpora: read with what is left out named, shown and never run, drawn."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from itertools import groupby
from textwrap import fill

from matplotlib.font_manager import FontProperties, findfont, get_font

UNSEEN = {"Cc", "Cs", "Cn", "Co"}  # kinds of characters without a shape of their own
TURNING = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # turn round what stands beside
JOINERS = "\u200d\ufe0e\ufe0f"  # join emoji, or choose their shape
SENTENCE_END = re.compile(r"(?<=[.!?]) +(?=[A-Z0-9(…])")
ORIGIN = re.compile(r"^(Recorded \(|Records? |Sources?: |Commits? )|\bcommit [0-9a-f]{7}")
NUMBER = re.compile(r"\d[\d.,]*")
MOST_NUMBERS = 5  # of a sentence that is shown
MOST_SHOWN, SHORT = 60, 45  # words of a caption; up to SHORT nothing is folded
MOST_SAID = 40  # characters of a reader's word that a sentence repeats
MOST_LISTED = 5
MOST_PRINTED = 90  # characters of a printed line: a page of the book shows as many


def visible(text: str) -> str:
    """Return text on one line, characters that cannot be seen as code points: ``‹U+0000›``."""
    text = re.sub(r"\s+", " ", text)
    return "".join(
        f"‹U+{ord(c):04X}›" if unicodedata.category(c) in UNSEEN or TURNING.match(c) else c
        for c in text
    )


def quote(text: str) -> str:
    """Return a reader's words in quotes, as a sentence may repeat them: seen, and not too long."""
    said = visible(text)
    return f"'{said if len(said) <= MOST_SAID else said[: MOST_SAID - 1] + '…'}'"


def plain(text: str) -> str:
    """Return text that HTML and Markdown show as it stands: no element, no emphasis, no maths.

    A dollar sign stands in an element of its own, since MathJax looks for pairs within one.
    """
    marked = re.sub(r"[&<>\"'*_`~\[\]\\|#{}$]", lambda mark: f"&#{ord(mark[0])};", text)
    return marked.replace("&#36;", "<span>&#36;</span>")


def fenced(text: str) -> str:
    """Return text as a Markdown block that shows it letter by letter, whatever stands in it."""
    longest = max(map(len, re.findall(r"~+", text)), default=0)
    fence = "~" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def split_caption(words: str) -> tuple[str, str]:
    """Return what a caption shows of a picture's words, and what it folds.

    Shown is what to see: all of it if that is short, else the sentences without many numbers, and
    of one with many what stands before its colon. Folded are the numbers, and which records they
    come from.
    """
    sentences = SENTENCE_END.split(words.strip())
    told = [sentence for sentence in sentences if not ORIGIN.search(sentence)]
    origin = [sentence for sentence in sentences if ORIGIN.search(sentence)]
    if _n_words(told) <= SHORT:
        return " ".join(told), " ".join(origin)
    shown: list[str] = []
    folded: list[str] = []
    is_full = False
    for sentence in told:
        short = sentence
        if len(NUMBER.findall(sentence)) > MOST_NUMBERS or len(sentence.split()) > MOST_SHOWN:
            head = _head(sentence)
            short = head if len(head.split()) > 4 > _n_words(shown) else ""
        is_full = is_full or _n_words([*shown, short]) > MOST_SHOWN
        if short and not is_full:
            shown.append(short)
        if short != sentence or is_full:
            folded.append(sentence)
    return " ".join(shown) or _head(told[0]), " ".join(folded + origin)


def caption_html(words: str) -> str:
    """Return words as the inside of a ``<figcaption>``: what to see, and the rest folded."""
    shown, folded = split_caption(words)
    fold = f"<details><summary>Numbers</summary>{plain(folded)}</details>" if folded else ""
    return f"<em>{plain(shown)}</em>{fold}"


def wrapped(text: str, *, width: int = MOST_PRINTED) -> str:
    """Return text with its lines broken between words: a page breaks a long one inside a word."""
    return "\n".join(
        fill(line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


def drawable(text: str, *, most: int = MOST_SAID) -> str:
    """Return text that a picture can hold: no maths, and no empty boxes.

    A run of characters that the font lacks is named by its first code point and how many more
    there are, ``‹U+6F22 +1›``; what is longer than ``most`` characters ends in ``…``.
    """
    parts = []
    for has_shape, run in groupby(re.sub(r"\s+", " ", text), key=_has_shape):
        characters = list(run)
        more = f" +{len(characters) - 1}" if len(characters) > 1 else ""
        named = f"‹U+{ord(characters[0]):04X}{more}›"
        parts.append("".join(characters) if has_shape else named)
    drawn = "".join(parts)
    drawn = drawn if len(drawn) <= most else drawn[: most - 1] + "…"
    return drawn.replace("$", r"\$")  # matplotlib takes what stands between two for maths


def read_words(
    text: str,
    *,
    most: int,
    usual: str,
    find: Callable[[str], str | None] = str,
    split: Callable[[str], Iterable[str]] = str.split,
) -> tuple[list[str], str]:
    """Return the words of a text that can be read, and a sentence on each thing that was not.

    Args:
        text: What a reader typed.
        most: Words that are read; the first ones of a longer text.
        usual: What is read instead of nothing.
        find: From a word to the one that is known, None for one that is not.
        split: From the text to its words.
    """
    typed = list(split(text))
    found = [(word, find(word)) for word in typed]
    words = [known for _, known in found if known is not None]
    unknown = list(dict.fromkeys(word for word, known in found if known is None))
    said = [f"Left out, for no such word is known: {quoted(unknown)}."] if unknown else []
    if len(words) > most:
        said.append(f"Only the first {most} of {len(words):,} words are read.")
    if not words:
        said.append(f"Nothing is left to read, so {quote(usual)} stands here.")
        words = list(split(usual))
    return words[:most], " ".join(said)


def quoted(words: Iterable[str]) -> str:
    """Return words in quotes, the first five and how many more there are."""
    words = list(words)
    more = len(words) - MOST_LISTED
    listed = ", ".join(map(quote, words[:MOST_LISTED]))
    return f"{listed} and {more:,} more" if more > 0 else listed


@cache
def _shapes() -> set[int]:
    """Return the code points that the font of all pictures can draw."""
    return set(get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap())


def _has_shape(character: str) -> bool:
    is_seen = unicodedata.category(character) not in UNSEEN and character not in JOINERS
    return is_seen and ord(character) in _shapes() and not TURNING.match(character)


def _head(sentence: str) -> str:
    """Return what stands before a colon; of two sentences there, the first."""
    first, _, second = sentence.partition(": ")[0].removesuffix(".").rpartition(". ")
    return f"{first or second}."


def _n_words(sentences: list[str]) -> int:
    return sum(len(sentence.split()) for sentence in sentences)
