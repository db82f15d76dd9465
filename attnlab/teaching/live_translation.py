"""A small translator trained live, and what notebook 07 does with it: maps, routes, damage."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from attnlab.chapters.translation_teacher.live import strongest_is_aligned
from attnlab.config import BOS, TrainConfig, TranslatorConfig
from attnlab.errors import UnknownNameError
from attnlab.mixers.attention import AttentionSite
from attnlab.models import Translator
from attnlab.records import load_runs
from attnlab.seeding import numpy_generator, torch_generator
from attnlab.sources import NOUNS, TranslationSource
from attnlab.training import PairBatches, evaluate_translation, train_steps
from attnlab.training.batches import Pairs

N_VALIDATION = 200  # sentences behind a point of the course
HALF_TAUGHT = 0.3  # share of the sentences right
DAMAGES = ("last word lost", "verb ends wrongly", "two neighbours swapped", "one word doubled")
OTHER_VOWEL = {"o": "a", "a": "o", "e": "o"}


class Point(NamedTuple):
    """What a translator gets right after some steps, on validation sentences."""

    step: int
    tokens_seen: int
    loss_nats: float  # earlier words given
    accuracy: float  # share of words, earlier words given
    bleu: float  # out of 100, written freely
    exact_match: float  # share of sentences, written freely


class Lesson:
    """One small translator, the pairs it learns from, and those it is judged by.

    Args:
        source: The two languages.
        train: Steps, rate and seed.
        n_pairs: Sentence pairs to learn from.
        max_tokens: Of one side of a batch.
        sizes: Fields of ``TranslatorConfig``; by default width 32, 4 heads, 2 + 2 layers.
    """

    def __init__(
        self,
        source: TranslationSource,
        *,
        train: TrainConfig,
        n_pairs: int = 20_000,
        max_tokens: int = 1024,
        **sizes: Any,
    ) -> None:
        self.source, self.train = source, train
        config = TranslatorConfig(
            source_vocab_size=source.vocab_size,
            target_vocab_size=source.vocab_size,
            **{"max_len": max(source.max_source_len, source.max_target_len + 2), **SMALL, **sizes},
        )
        self.teacher = Translator(config, generator=torch_generator(train.seed, "init"))
        pairs = source.sample_pairs(n_pairs, seed=train.seed)
        self.batches = PairBatches(pairs, max_tokens=max_tokens, seed=train.seed)
        self.validation = source.sample_pairs(N_VALIDATION, stream="validation")
        self.half_taught: Translator | None = None  # a copy, as soon as HALF_TAUGHT is reached

    def points(self, *, every: int) -> Iterator[Point]:
        """Train to the end; yield what is right at the start and after each ``every`` steps."""
        yield self.judge()
        steps = train_steps(self.teacher, self.batches.starting_at(0), config=self.train)
        for log in steps:
            if log.step % every == 0 or log.step == self.train.n_steps:
                point = self.judge(step=log.step, tokens_seen=log.tokens_seen)
                if self.half_taught is None and point.exact_match >= HALF_TAUGHT:
                    self.half_taught = copy.deepcopy(self.teacher).eval()
                yield point

    def judge(self, *, step: int = 0, tokens_seen: int = 0) -> Point:
        """Return what the teacher gets right on the validation sentences."""
        score = evaluate_translation(
            self.teacher, self.validation, vocabulary=self.source, n_resamples=1
        )
        forced = score.forced
        return Point(
            step, tokens_seen, forced.loss_nats, forced.accuracy, score.bleu.score,
            score.exact_match,
        )  # fmt: skip


SMALL = {
    "d_model": 32,
    "n_heads": 4,
    "n_encoder_layers": 2,
    "n_decoder_layers": 2,
    "d_ff": 128,
    "dropout": 0.0,
}


def seeded_translator(**sizes: Any) -> Translator:
    """Return an untrained float64 translator in eval mode whose weights are of seed 0."""
    config = TranslatorConfig(**{**SMALL, "max_len": 24, **sizes})
    return Translator(config, generator=torch_generator(0, "init")).double().eval()


def naive_look_up(
    site: AttentionSite, x: Tensor, memory: Tensor, *, sees: Tensor | None = None
) -> Tensor:
    """Attend one query and one head at a time; only the weights of the site are read.

    Shapes:
        x: ``(time, d_model)``; memory: ``(memory_time, d_model)``; sees: ``(time, memory_time)``,
        true where a query may look. Returns ``(time, d_model)``.
    """
    q, k, v = site.query(x), site.key(memory), site.value(memory)
    width, rows = site.d_model // site.n_heads, []
    for t in range(len(x)):
        seen = [s for s in range(len(memory)) if sees is None or sees[t, s]]
        heads = []
        for first in range(0, site.d_model, width):
            h = slice(first, first + width)
            scores = torch.stack([q[t, h] @ k[s, h] / width**0.5 for s in seen])
            heads.append(sum(a * v[s, h] for a, s in zip(scores.softmax(0), seen, strict=True)))
        rows.append(site.out(torch.cat(heads)))
    return torch.stack(rows)


# Word by word


def word_table(source: TranslationSource, pairs: Pairs) -> dict[int, int]:
    """Return for each source word the target word that most often comes from it."""
    counts: dict[int, Counter[int]] = {}
    for read, written in pairs:
        for word, place in zip(written.tolist(), source.alignment(read).tolist(), strict=True):
            counts.setdefault(int(read[place]), Counter())[word] += 1
    return {word: found.most_common(1)[0][0] for word, found in counts.items()}


def word_by_word(tokens: ArrayLike, *, table: dict[int, int]) -> NDArray[np.int64]:
    """Return each word's entry in the table, in the order of the source; no entry, no word."""
    found = [table[token] for token in np.asarray(tokens).tolist() if token in table]
    return np.array(found, dtype=np.int64)


# What the decoder looks at


@torch.no_grad()
def cross_maps(
    teacher: Translator, source_tokens: ArrayLike, target_tokens: ArrayLike
) -> NDArray[np.float64]:
    """Return where each head of each decoder layer looks while it writes a given sentence.

    Shapes:
        source_tokens: ``(source_time,)``; target_tokens: ``(n_words,)`` without ``BOS``, ``EOS``.
        Returns ``(n_layers, n_heads, n_words + 1, source_time)``; the last row writes ``EOS``.
    """
    maps: list[Tensor] = []

    def keep(site: Any, args: tuple[Tensor, ...]) -> None:
        maps.append(site.attention_weights(*args)[0])  # one sentence has no padding

    sites = [layer.cross_attention for layer in teacher.decoder]
    hooks = [site.register_forward_pre_hook(keep) for site in sites]
    try:
        read = torch.as_tensor(np.asarray(source_tokens, np.int64))[None]
        given = torch.as_tensor([[BOS, *np.asarray(target_tokens, np.int64).tolist()]])
        teacher.eval()(read, given)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(maps).double().numpy()


def aligned_shares(
    teacher: Translator, source: TranslationSource, pairs: Pairs
) -> tuple[NDArray[np.float64], float]:
    """Return how often each head looks hardest at the word that the written one comes from.

    Returns:
        Shares ``(n_layers, n_heads)``, and the share that looking at random would have.
    """
    hits, chance = [], []
    for read, written in pairs:
        alignment = source.alignment(read)
        maps = cross_maps(teacher, read, written)
        hits.append(strongest_is_aligned(maps, places=alignment))
        chance += [1 / len(read)] * len(alignment)
    return np.concatenate(hits, axis=-1).mean(-1), float(np.mean(chance))


@torch.no_grad()
def ending_routes(
    teacher: Translator, source: TranslationSource, sentences: Sequence[ArrayLike], *, word: str
) -> dict[str, float]:
    """Return how often a word's ending changes when one thing that is read has another subject.

    Each sentence gets a twin with a subject of the other gender. The decoder writes a word of the
    first, with some of what it reads taken from the twin.

    Args:
        sentences: Source tokens; verbs stand last in their translations.
        word: ``article`` is the subject's, the first word; ``verb`` is the last word. Sentences
            whose subject has a numeral in place of the article are left out for ``article``.

    Returns:
        Share of the sentences by what was taken from the twin.
    """
    is_last = word == "verb"
    n_changed: Counter[str] = Counter()
    chosen = [s for s in sentences if is_last or source.alignment(s)[0] == 0]
    for tokens in chosen:
        one = np.asarray(tokens, np.int64)
        twin, subject = other_gender(source, one)
        memories = [teacher.encode(torch.from_numpy(t)[None]) for t in (one, twin)]
        targets = [source.translate(t) for t in (one, twin)]
        at = len(targets[0]) - 1 if is_last else 0
        own = int(source.alignment(one)[at])
        for route, places in _routes(len(one), subject, own).items():
            memory = memories[0].clone()
            memory[:, places] = memories[1][:, places]
            prefix = torch.tensor([[BOS, *targets[route == TARGET][:at]]])
            logits = teacher.head(teacher.decode(prefix, memory))[0, -1]
            n_changed[route] += int(logits.argmax()) == int(targets[1][at])
    return {route: count / len(chosen) for route, count in n_changed.items()}


TARGET = "the target words so far"


def _routes(n_words: int, subject: int, own: int) -> dict[str, list[int]]:
    """Return the places of the memory that each route takes from the twin."""
    rest = [place for place in range(n_words) if place not in (subject, own)]
    return {
        "nothing": [],
        TARGET: [],
        "memory: the word itself": [own],
        "memory: the subject's noun": [subject],
        "memory: all other words": rest,
        "memory: all of it": list(range(n_words)),
    }


def other_gender(source: TranslationSource, tokens: ArrayLike) -> tuple[NDArray[np.int64], int]:
    """Return the sentence with its first noun in the other gender, and that noun's place."""
    words, nouns = source.decode(tokens).split(), list(NOUNS)
    place = next(i for i, word in enumerate(words) if word in NOUNS)
    words[place] = nouns[nouns.index(words[place]) ^ 1]  # genders alternate in the list
    return source.encode(" ".join(words)), place


# Texts with one fault


def damaged(
    references: Sequence[str], *, kind: str, share: float = 1.0, seed: int = 0
) -> list[str]:
    """Return the sentences with one fault in a share of them, the same ones for each kind.

    Args:
        references: Sentences of at least two different words.
        kind: One of ``DAMAGES``.
        share: Of the sentences; those at a smaller share are among those at a larger one.
        seed: Picks the sentences and the places (stream ``damage``).

    Raises:
        UnknownNameError: No fault has this name.
    """
    if kind not in DAMAGES:
        raise UnknownNameError("fault", kind, DAMAGES, next_step="Faults are in DAMAGES.")
    random = numpy_generator(seed, "damage")
    order, places = random.permutation(len(references)), random.random(len(references))
    texts = list(references)
    for i in order[: round(share * len(texts))].tolist():
        words = texts[i].split()
        texts[i] = " ".join(_with_fault(words, kind, int(places[i] * (len(words) - 1))))
    return texts


def _with_fault(words: list[str], kind: str, place: int) -> list[str]:
    if kind == "last word lost":
        return words[:-1]
    if kind == "verb ends wrongly":
        stem, plural = words[-1].removesuffix("s"), words[-1].endswith("s")
        return [*words[:-1], stem[:-1] + OTHER_VOWEL[stem[-1]] + "s" * plural]
    if kind == "two neighbours swapped":
        pairs = [i for i in range(len(words) - 1) if words[i] != words[i + 1]]
        at = min(pairs, key=lambda i: abs(i - place))  # a swap of equal words would be no fault
        return [*words[:at], words[at + 1], words[at], *words[at + 2 :]]
    return [*words[: place + 1], *words[place:]]


def with_wrong_nouns(texts: Sequence[str]) -> list[str]:
    """Return target sentences in which every noun is another one of the same gender."""
    nouns = list(NOUNS.values())
    return _each_word(texts, dict(zip(nouns, nouns[2:] + nouns[:2], strict=True)))


def with_unknown_nouns(texts: Sequence[str]) -> list[str]:
    """Return target sentences in which nouns are ``<unk>``, as if they were rare words."""
    return _each_word(texts, dict.fromkeys(NOUNS.values(), "<unk>"))


def with_marks(texts: Sequence[str]) -> list[str]:
    """Return the sentences between the marks that some programs leave there."""
    return [f"<s> {text} </s>" for text in texts]


def _each_word(texts: Sequence[str], change: dict[str, str]) -> list[str]:
    return [" ".join(change.get(word, word) for word in text.split()) for text in texts]


# The same two texts, to be cut into words in several ways
SPOKEN = (
    ("I don't know this man but I like him.", "It's late, is it?", "He came at 9.30 by train."),
    ("I don't know the man, but I like him.", "It's late, isn't it?", "He came at 9.30, by train."),
)


def cut_marks(text: str) -> str:
    """Return the text with blanks before marks and short forms, as many tokenizers put them."""
    return re.sub(r"(n't|'s|[,.?](?=\s|$))", r" \1", text)


# Recorded teachers


def recorded_teachers(
    *, experiment: str = "attentionless/paper/multi30k/", path: Path | None = None
) -> pd.DataFrame:
    """Return one row for each recorded teacher of real sentences; empty where there is none.

    Returns:
        Rows ``experiment``, ``seed``, ``bleu``, ``bleu_low``, ``bleu_high``, ``exact_match``,
        ``test_loss_nats``, ``test_accuracy``, ``n_sentences``, ``signature`` and ``commit``.
    """
    metrics = ("bleu", "bleu_low", "bleu_high", "exact_match", "test_loss_nats", "test_accuracy")
    places = {f"details.bleu.{name}": name for name in ("n_sentences", "signature")}
    columns = ["experiment", "variant", "seed", *metrics, *places, "commit"]
    runs = load_runs(experiment, path=path, columns=columns, variants=["teacher"])
    return runs.rename(columns=places).drop(columns="variant")


def teachers_markdown(teachers: pd.DataFrame) -> str:
    """Return recorded teachers as a Markdown table with its sources, or say that there is none."""
    if teachers.empty:
        return (
            "**No teacher on real sentences is recorded yet.** This cell shows a table as soon "
            "as `data/runs/attentionless.jsonl` holds one; to make one: "
            "`attnlab study run attentionless --scale paper --corpus multi30k/de-en` (hours on "
            "a CPU)."
        )
    lines = [
        "| Corpus | Seed | BLEU (95 % interval) | Whole sentence right "
        "| Next token right, earlier given | Loss (nats per token) |",
        "|---|---|---|---|---|---|",
    ]
    for row in teachers.itertuples():
        corpus = row.experiment.split("/", 2)[-1]
        lines.append(
            f"| {corpus} | {row.seed} | {row.bleu:.1f} ({row.bleu_low:.1f} to "
            f"{row.bleu_high:.1f}) | {row.exact_match:.1%} | {row.test_accuracy:.1%} "
            f"| {row.test_loss_nats:.3f} |"
        )
    said = "; ".join(sorted({str(s) for s in teachers["signature"]}))
    commits = ", ".join(sorted(set(teachers["commit"])))
    sizes = ", ".join(sorted({f"{n:,.0f}" for n in teachers["n_sentences"] if n}))
    return (
        "\n".join(lines)
        + f"\n\nTest split ({sizes} sentences), greedy search. sacreBLEU signature: `{said}`. "
        f"Source: `data/runs/attentionless.jsonl`, commit {commits}."
    )


def teachers_answer(teachers: pd.DataFrame) -> str:
    """Return what the first recorded teacher reaches, as a folded answer; empty without one."""
    if teachers.empty:
        return ""
    row = next(teachers.itertuples())
    return (
        "<details><summary>Answer: nearer to 95 or to 35?</summary>\n\n"
        f"{row.bleu:.0f}, as in the table. With the right past given, {row.test_accuracy:.0%} of "
        f"the next tokens are right; {row.exact_match:.1%} of the sentences written freely equal "
        "the one reference.\n\n</details>"
    )
