"""The language reference that ships inside every CPython, split by topic."""

import hashlib
import importlib
import platform
from collections import defaultdict

from attnlab.corpora.pins import CorpusEntry
from attnlab.corpora.records import SPLITS, Corpus, Document, collapse_layout
from attnlab.errors import CorpusNotFoundError

HELD_OUT_SHARE = 0.05  # of the characters, for validation and for test
SHORTEST_PASSAGE = 40  # characters; shorter paragraphs are headings and may repeat


def read_python_reference(entry: CorpusEntry, *, keep_layout: bool) -> Corpus:
    """Return the topics that ``help()`` knows, no passage in two splits.

    Several topics repeat others whole (``if`` is a section of ``compound``). A topic of
    which at least half the paragraphs stand in a longer topic is left out; what still
    shares a paragraph stays in one split.
    """
    topics = distinct_topics(_installed_topics())
    documents: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for name, split in sorted(split_topics(topics).items()):
        text = topics[name] if keep_layout else collapse_layout(topics[name])
        documents[split].append(Document(name, text, title=name))
    notes = (
        f"From Python {platform.python_version()}; other versions hold other text, "
        "so compare runs by the fingerprint."
    )
    splits = {split: tuple(documents[split]) for split in SPLITS}
    return Corpus(name=entry.name, licence=entry.licence, notes=notes, **splits)


def distinct_topics(topics: dict[str, str]) -> dict[str, str]:
    """Return the topics without those that a longer topic repeats at least half of."""
    passages = {name: _passages(text) for name, text in topics.items()}
    kept: list[str] = []
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        repeated = max((len(passages[name] & passages[other]) for other in kept), default=0)
        if not passages[name] or 2 * repeated < len(passages[name]):
            kept.append(name)
    return {name: topics[name] for name in kept}


def split_topics(topics: dict[str, str]) -> dict[str, str]:
    """Return the split of every topic.

    Groups of topics that share a passage go together. Test, then validation, take groups
    in the order of a hash of their name as long as they fit; training takes the rest.
    """
    room = HELD_OUT_SHARE * sum(map(len, topics.values()))
    groups = {min(group): group for group in _groups(topics)}
    order = sorted(groups, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    split_of: dict[str, str] = {}
    for split in ("test", "validation"):
        left = room
        for group in (groups[name] for name in order):
            size = sum(len(topics[name]) for name in group)
            if size <= left and not group & split_of.keys():
                split_of |= dict.fromkeys(group, split)
                left -= size
    return dict.fromkeys(topics, "train") | split_of


def _groups(topics: dict[str, str]) -> list[set[str]]:
    holders = defaultdict(set)
    for name, text in topics.items():
        for passage in _passages(text):
            holders[passage].add(name)
    groups = [{name} for name in topics]
    for names in holders.values():
        touched = [group for group in groups if group & names]
        groups = [group for group in groups if not group & names] + [set().union(*touched)]
    return groups


def _passages(text: str) -> set[str]:
    paragraphs = (collapse_layout(paragraph) for paragraph in text.split("\n\n"))
    return {paragraph for paragraph in paragraphs if len(paragraph) >= SHORTEST_PASSAGE}


def _installed_topics() -> dict[str, str]:
    try:
        return importlib.import_module("pydoc_data.topics").topics
    except ImportError as problem:
        raise CorpusNotFoundError(
            "This Python was installed without pydoc_data.topics, the text of help(). "
            "Use a full CPython (python.org, conda, or your distribution's python3 package), "
            "or another corpus: `attnlab data list`."
        ) from problem
