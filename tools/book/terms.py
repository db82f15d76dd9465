"""Link the first use of each word of the glossary on a page to what the glossary says of it."""

from __future__ import annotations

import re
from collections.abc import Iterable

ENTRY = re.compile(r"^- \*\*(.+?)\*\*", re.MULTILINE)
KEPT = re.compile(  # what no link may stand in
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|!?\[[^\]]*\]\([^)]*\)|<summary>.*?</summary>|<[^>]*>"
    r"|\*\*(?:Exercise|Build) [^*]*\*\*|\*[^*\n]*\([^)]*\)\*|^#.*?$|^\|.*?$",
    re.DOTALL | re.MULTILINE,
)
# words of every day: the first use that is set off, as *work*, is meant
PLAIN = frozenset(
    ("adjustment", "attention", "beam", "control", "depth", "extraction", "head", "lag", "leak",
     "loss", "prefix", "rank", "recall", "state", "window", "work")
)  # fmt: skip

TWO_SENSES = {"Agreement", "State"}  # also of words in a sentence; also of a chain: never linked


def anchor(term: str) -> str:
    """Return the name of a term's place on the page of the glossary."""
    return f"term-{re.sub(r'[^a-z]+', '-', term.lower())}"


def terms_of(glossary: str) -> list[str]:
    """Return the words that a glossary explains; several of one entry each for itself."""
    terms = [term for entry in ENTRY.findall(glossary) for term in entry.split(", ")]
    return [term for term in terms if term not in TWO_SENSES]


def with_places(glossary: str) -> str:
    """Return the glossary with a place at each word, for links."""

    def placed(found: re.Match) -> str:
        terms = found[1].split(", ")
        return "- " + ", ".join(f"[**{term}**]{{#{anchor(term)}}}" for term in terms)

    return ENTRY.sub(placed, glossary)


def link_first_uses(texts: Iterable[str], terms: Iterable[str]) -> list[str]:
    """Return the Markdown cells of a page with a link at the first use of each term.

    Neither code, formulas, links, tables, headings nor titles of exercises get one. A longer term
    goes before the ones within it; a word of every day counts where it is set off.
    """
    texts = list(texts)
    for term in sorted(terms, key=len, reverse=True):
        word = re.escape(term) if term.isupper() else rf"(?i:{re.escape(term)})s?"
        stars = r"\*{1,2}" if term.lower() in PLAIN else r"\*{0,2}"
        use = rf"(?<![\w*])(?P<use>{stars}\b{word}\b{stars})(?![\w*])"
        either = re.compile(f"{KEPT.pattern}|{use}", KEPT.flags)
        for n, text in enumerate(texts):
            found = next((one for one in either.finditer(text) if one["use"]), None)
            if found:
                link = f"[{found['use']}](#{anchor(term)})"
                texts[n] = text[: found.start()] + link + text[found.end() :]
                break
    return texts
