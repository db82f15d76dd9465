"""Pairs of texts that are no translations: headlines, replies, code, actions, logical forms."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from attnlab.corpora.fetch import CorpusEntry, read_files
from attnlab.corpora.labelled import cut_off, without_markup
from attnlab.errors import IntegrityError
from attnlab.seeding import numpy_generator

SIDES = {  # what a source and a target is, by the first part of the corpus's name
    "headlines": ("description", "headline"),
    "dialogue": ("turns", "reply"),
    "code": ("pseudo-code", "Python"),
    "scan": ("command", "actions"),
    "cogs": ("sentence", "logical form"),
}
VALIDATION_SHARE = 0.05  # of the commands of SCAN, which has no validation split
N_HELD_OUT_REPLIES = 2  # of each dialogue of validation and test: they resemble each other
N_GENERALISATIONS = 2000  # of the 20,000 of COGS; 21 kinds, about 95 of each

Splits = dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class SentencePair:
    """One sentence in two languages, or a text and what is to be made of it."""

    source: str
    target: str

    @property
    def parts(self) -> tuple[bytes, ...]:
        """What a fingerprint is taken of."""
        return self.source.encode(), self.target.encode()


def read_headlines(entry: CorpusEntry) -> tuple[Splits, str]:
    """Return the description of each news item with its headline, in the splits of ``ag_news``.

    A training item whose description a held-out split has too is left out.
    """
    (data,) = read_files(entry).values()
    rows = [without_markup(line).split("\t") for line in _lines(data)]
    pairs = [SentencePair(*(" ".join(text.split()) for text in (body, title)))
             for _, title, body in rows]  # fmt: skip
    order = cut_off("ag_news", len(pairs))
    splits: Splits = {split: [pairs[i] for i in places] for split, places in order.items()}
    held_out = {pair.source for split in ("validation", "test") for pair in splits[split]}
    kept = [pair for pair in splits["train"] if pair.source not in held_out]
    n_left_out, splits["train"] = len(splits["train"]) - len(kept), kept
    return splits, (
        "The items of each split are those of ag_news, chosen by a fixed seed; markup is taken "
        "out, the agency's name stays in both texts. "
        f"{n_left_out} training items whose description a held-out split has too are left out. "
        f"{_repeated(splits)}"
    )


def read_dialogue(entry: CorpusEntry) -> tuple[Splits, str]:
    """Return the two turns before each reply of the assistant, with the speakers, and the reply.

    Of a held-out dialogue two replies are kept, chosen by a fixed seed (stream
    ``dialogue/<split>``), so that a test pair tells something that its neighbours do not.
    """
    splits: Splits = defaultdict(list)
    for file, data in zip(entry.files, read_files(entry).values(), strict=True):
        random = numpy_generator(0, f"dialogue/{file.split}")
        for line in _lines(data):
            pairs = list(_replies(json.loads(line)["turns"]))
            if file.split != "train":
                n_kept = min(N_HELD_OUT_REPLIES, len(pairs))
                pairs = [pairs[i] for i in sorted(random.permutation(len(pairs))[:n_kept])]
            splits[file.split] += pairs
    return splits, (
        "Every reply of the training dialogues; of each held-out dialogue "
        f"{N_HELD_OUT_REPLIES} replies, chosen by a fixed seed. {_repeated(splits)}"
    )


def _replies(turns: Sequence[tuple[str, str]]) -> Iterator[SentencePair]:
    said = [" ".join(text.split()) for _, text in turns]
    marked = [f"{speaker}: {text}" for (speaker, _), text in zip(turns, said, strict=True)]
    for i, (speaker, _) in enumerate(turns):
        if speaker == "SYSTEM" and i:
            yield SentencePair(" ".join(marked[max(0, i - 2) : i]), said[i])


def read_code(entry: CorpusEntry) -> tuple[Splits, str]:
    """Return each line of pseudo-code with its line of Python, in the published split."""
    splits: Splits = defaultdict(list)
    for file, data in zip(entry.files, read_files(entry).values(), strict=True):
        for row in map(json.loads, _lines(data)):
            splits[file.split].append(SentencePair(row["nl"].strip(), row["code"].strip()))
    return splits, (
        "The published split by position, less 500 lines of the test; lines of code come back, so "
        f"that pairs do, too. {_repeated(splits)}"
    )


def read_scan(entry: CorpusEntry) -> tuple[Splits, str]:
    """Return commands and actions; a fixed share of those to learn from is for validation.

    Only a command that stands there once can be chosen (stream ``<corpus>/validation``): what is
    repeated, as ``jump`` is, is what a split is about.
    """
    splits: Splits = defaultdict(list)
    for file, data in zip(entry.files, read_files(entry).values(), strict=True):
        for line in _lines(data):
            command, sign, actions = line.removeprefix("IN: ").partition(" OUT: ")
            if not sign:
                raise IntegrityError(f"{file.path} has a line that is no command: {line[:40]!r}.")
            splits[file.split].append(SentencePair(command, actions))
    times, train = Counter(splits["train"]), splits["train"]
    once = [i for i, pair in enumerate(train) if times[pair] == 1]
    order = numpy_generator(0, f"{entry.name}/validation").permutation(len(once))
    chosen = {once[i] for i in order[: round(VALIDATION_SHARE * len(train))].tolist()}
    splits["validation"] = [train[i] for i in sorted(chosen)]
    splits["train"] = [pair for i, pair in enumerate(train) if i not in chosen]
    return splits, (
        f"{len(chosen):,} of the training commands, chosen by a fixed seed, are for validation; "
        f"500 commands are left out of all files. {_repeated(splits)}"
    )


def read_cogs(entry: CorpusEntry) -> tuple[Splits, str]:
    """Return sentences and their logical forms; of the generalisation test a fixed choice."""
    splits: Splits = defaultdict(list)
    for file, data in zip(entry.files, read_files(entry).values(), strict=True):
        rows = [line.split("\t") for line in _lines(data)]
        splits[file.split] = [SentencePair(*row[:2]) for row in rows]
    notes = "The form without variables."
    if entry.name == "cogs/gen":
        random, test = numpy_generator(0, "cogs/gen"), splits["test"]
        n_kept = min(N_GENERALISATIONS, len(test))
        splits["test"] = [test[i] for i in sorted(random.permutation(len(test))[:n_kept].tolist())]
        notes += (
            f" Test: {n_kept:,} of {len(test):,} sentences of 21 kinds that training never shows, "
            "chosen by a fixed seed; validation is of the training distribution, and does not tell "
            "how a model does there."
        )
    return splits, f"{notes} {_repeated(splits)}"


def _lines(data: bytes) -> list[str]:
    return data.decode().removesuffix("\n").split("\n")


def _repeated(splits: Splits) -> str:
    """Say how many held-out pairs a model has seen in training."""
    seen = set(splits["train"])
    found = {split: sum(pair in seen for pair in splits[split]) for split in ("validation", "test")}
    if not any(found.values()):
        return "No held-out pair stands in training, too."
    said = [f"{n:,} of {len(splits[split]):,} {split} pairs" for split, n in found.items()]
    return f"{' and '.join(said)} stand in training, too."


PAIR_READERS: dict[str, Callable[[CorpusEntry], tuple[Splits, str]]] = {
    "headlines": read_headlines,
    "dialogue": read_dialogue,
    "code": read_code,
    "scan": read_scan,
    "cogs": read_cogs,
}
