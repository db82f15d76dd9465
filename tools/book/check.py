"""Check a built site: every link leads somewhere, nothing is fetched, every picture has words."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

FETCHED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("link", "href")}
NAMES_ONLY = {"canonical", "preconnect"}


class Page(HTMLParser):
    """What a page names, links and fetches."""

    def __init__(self, text: str) -> None:
        """Read a page."""
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[str, bool]] = []  # address, whether it is fetched
        self.mute: list[str] = []  # pictures without words
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note names, links and pictures."""
        said = {name: value or "" for name, value in attrs}
        self.ids |= {said[name] for name in ("id", "name") if name in said}
        for name in ("href", "src"):
            if name in said and said.get("rel") not in NAMES_ONLY:
                self.links.append((said[name], (tag, name) in FETCHED))
        if tag == "img" and not said.get("alt", "").strip() and said.get("role") != "presentation":
            self.mute.append(said.get("src", ""))


def problems(site: Path) -> list[str]:
    """Return a sentence for each thing that is wrong with the pages below a folder."""
    pages = {path: Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    return [f"{path.relative_to(site)}: {said}" for path in pages for said in _of(path, pages)]


def _of(path: Path, pages: dict[Path, Page]) -> Iterator[str]:
    for picture in pages[path].mute:
        yield f"the picture {picture!r} has no words"
    for address, is_fetched in pages[path].links:
        parts = urlsplit(address)
        if parts.scheme == "data" or (parts.scheme and not is_fetched):
            continue
        if parts.scheme or parts.netloc:
            yield f"{address!r} would be fetched from elsewhere"
            continue
        plain, anchor = urldefrag(address.split("?")[0])
        target = (path.parent / unquote(plain)).resolve() if plain else path
        if not target.exists():
            yield f"the link {address!r} leads nowhere"
        elif anchor and target in pages and unquote(anchor) not in pages[target].ids:
            yield f"there is no place {address!r}"
