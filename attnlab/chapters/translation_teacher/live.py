"""What chapter 07 does with a translator: judge it, watch it look, spoil texts, read records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from attnlab.config import BOS, TranslatorConfig
from attnlab.errors import UnknownNameError
from attnlab.models import Translator
from attnlab.records import load_runs
from attnlab.seeding import numpy_generator, torch_generator
from attnlab.show.words import read_words
from attnlab.sources import NOUNS, TranslationSource
from attnlab.studies.replaced_verdicts import n_scored
from attnlab.training import evaluate_translation, translate_all
from attnlab.training.batches import Pairs

SMALL = {"d_model": 32, "n_heads": 4, "n_encoder_layers": 2, "n_decoder_layers": 2, "d_ff": 128,
         "dropout": 0.0}  # fmt: skip
N_VALIDATION = 200  # sentences behind a point of the course
DAMAGES = ("last word lost", "verb ends wrongly", "two neighbours swapped", "one word doubled")
OTHER_VOWEL = {"o": "a", "a": "o", "e": "o"}
USUAL = "the small horse see a dog"  # is read where nothing is typed
TARGET = "the target words so far"
TEACHERS = "attentionless/paper/multi30k/"
# The same two texts, to be cut into words in several ways
SPOKEN = (
    ("I don't know this man but I like him.", "It's late, is it?", "He came at 9.30 by train."),
    ("I don't know the man, but I like him.", "It's late, isn't it?", "He came at 9.30, by train."),
)


def small_translator(*, seed: int = 0, **sizes: Any) -> Translator:
    """Return an untrained translator of width 32, 4 heads, 2 + 2 layers.

    Args:
        sizes: Fields of ``TranslatorConfig`` that differ.
    """
    config = TranslatorConfig(**{**SMALL, "max_len": 24, **sizes})
    return Translator(config, generator=torch_generator(seed, "init"))


def judge(
    model: Translator, source: TranslationSource, *, tokens_seen: int = 0
) -> dict[str, float]:
    """Return what a translator gets right on 200 validation sentences.

    Returns:
        ``tokens_seen``, ``accuracy`` (share of words, earlier words given), ``bleu`` (out of 100)
        and ``exact_match`` (share of sentences), both written freely.
    """
    pairs = source.sample_pairs(N_VALIDATION, stream="validation")
    score = evaluate_translation(model, pairs, vocabulary=source, n_resamples=1)
    return {
        "tokens_seen": tokens_seen,
        "accuracy": score.forced.accuracy,
        "bleu": score.bleu.score,
        "exact_match": score.exact_match,
    }


# What the decoder looks at -----------------------------------------------------------------------


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


def watched(teacher: Translator, *, source: TranslationSource, text: str) -> dict[str, Any]:
    """Let a teacher translate a sentence; return its words, its maps and the true alignment.

    Returns:
        ``source`` and ``target`` words; ``maps``; ``places``, None unless the translation is
        right, for a wrong word comes from nowhere; ``verdict``, on what was read and written.
    """
    words, said = read_words(text, most=source.max_source_len, usual=USUAL, find=source.knows)
    tokens = source.encode(" ".join(words))
    (written,) = translate_all(teacher, [tokens], max_len=teacher.config.max_len - 1)
    right, why = source.right(words)
    is_right = bool(right) and source.decode(written).split() == right
    verdict = f"The translation is {'right' if is_right else 'wrong'}." if right else why
    return {
        "source": words,
        "target": [*source.decode(written).split(), "<eos>"],
        "places": source.alignment(tokens).tolist() if is_right else None,
        "maps": cross_maps(teacher, tokens, written),
        "verdict": " ".join(filter(None, [verdict, said])),
    }


def strongest_is_aligned(weights: ArrayLike, *, places: Sequence[int]) -> NDArray[np.bool_]:
    """Return for each aligned row whether its largest weight lies on the true source word.

    Shapes:
        weights: ``(..., target_time, source_time)``; returns ``(..., len(places))``.
    """
    values = np.asarray(weights, dtype=float)[..., : len(places), :]
    return values.argmax(-1) == np.asarray(places)


def aligned_shares(
    teacher: Translator, source: TranslationSource, pairs: Pairs
) -> tuple[NDArray[np.float64], float]:
    """Return how often each head looks hardest at the word that the written one comes from.

    Returns:
        Shares ``(n_layers, n_heads)``, and the share that looking at random would have.
    """
    hits, chance = [], []
    for read, written in pairs:
        places, maps = source.alignment(read), cross_maps(teacher, read, written)
        hits.append(strongest_is_aligned(maps, places=places))
        chance += [1 / len(read)] * len(places)
    return np.concatenate(hits, axis=-1).mean(-1), float(np.mean(chance))


def routes(n_words: int, subject: int, own: int) -> dict[str, list[int]]:
    """Return the places of the memory that each route takes from the twin, by its name.

    Args:
        n_words: Of the source sentence.
        subject: Place of the subject's noun.
        own: Place of the word that is being translated.
    """
    rest = [place for place in range(n_words) if place not in (subject, own)]
    return {
        "nothing": [],
        TARGET: [],
        "memory: the word itself": [own],
        "memory: the subject's noun": [subject],
        "memory: all other words": rest,
        "memory: all of it": list(range(n_words)),
    }


def other_gender(
    source: TranslationSource, tokens: ArrayLike, *, noun: int = 0
) -> tuple[NDArray[np.int64], int]:
    """Return the sentence with one of its nouns in the other gender, and that noun's place.

    Args:
        noun: Which of the nouns, from 0.
    """
    words, nouns = source.decode(tokens).split(), list(NOUNS)
    place = [i for i, word in enumerate(words) if word in NOUNS][noun]
    words[place] = nouns[nouns.index(words[place]) ^ 1]  # genders alternate in the list
    return source.encode(" ".join(words)), place


def agreements(source: TranslationSource, tokens: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return pairs of target places: a noun, and a word that takes its ending from it.

    Found by experiment: each noun in turn gets the other gender, and what else changes agrees.
    """
    target, alignment, pairs = source.translate(tokens), source.alignment(tokens), []
    n_nouns = sum(word in NOUNS for word in source.decode(tokens).split())
    for number in range(n_nouns):
        twin, place = other_gender(source, tokens, noun=number)
        own = np.flatnonzero(alignment == place)
        changed = np.flatnonzero(source.translate(twin) != target)
        pairs += [(int(own[np.abs(own - t).argmin()]), int(t)) for t in changed if t not in own]
    return pairs


# Texts with one fault ----------------------------------------------------------------------------


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


def with_words(texts: Sequence[str], change: Mapping[str, str]) -> list[str]:
    """Return the sentences with some words changed."""
    return [" ".join(change.get(word, word) for word in text.split()) for text in texts]


def cut_marks(text: str) -> str:
    """Return the text with blanks before marks and short forms, as many tokenizers put them."""
    return re.sub(r"(n't|'s|[,.?](?=\s|$))", r" \1", text)


def recorded_teachers() -> pd.DataFrame:
    """Return one row for each recorded teacher of captions, with its scores and their sources."""
    teachers = load_runs(TEACHERS, variants=["teacher"])
    return teachers.drop_duplicates(["experiment", "seed"], keep="last")


def teachers_markdown(teachers: pd.DataFrame) -> str:
    """Return recorded teachers as a Markdown table with its sources."""
    lines = [
        "| Corpus | Seed | BLEU (95 % interval) | Whole sentence right "
        "| Next token right, earlier given | Loss (nats per token) |",
        "|---|---|---|---|---|---|",
    ]
    for row in teachers.itertuples():
        lines.append(
            f"| {row.experiment.split('/', 2)[-1]} | {row.seed} | {row.bleu:.1f} "
            f"({row.bleu_low:.1f} to {row.bleu_high:.1f}) | {row.exact_match:.1%} "
            f"| {row.test_accuracy:.1%} | {row.test_loss_nats:.3f} |"
        )
    said = "; ".join(sorted(set(teachers["details.bleu.signature"])))
    scored = "{:,} of {:,}".format(*n_scored(teachers))
    return (
        "\n".join(lines)
        + f"\n\nTest split ({scored} sentences), greedy search.\n\n<details><summary>Source"
        f"</summary>\n\nsacreBLEU signature: `{said}`. `data/runs/attentionless.jsonl`, commit "
        f"{', '.join(sorted(set(teachers['commit'])))}.\n\n</details>"
    )


def teachers_answer(teachers: pd.DataFrame) -> str:
    """Return what the first recorded teacher reaches, as a folded answer."""
    row = next(teachers.itertuples())
    return (
        "<details><summary>Answer: nearer to 95 or to 35?</summary>\n\n"
        f"{row.bleu:.0f}, as in the table. With the right past given, {row.test_accuracy:.0%} of "
        f"the next tokens are right; {row.exact_match:.1%} of the sentences written freely equal "
        "the one reference.\n\n</details>"
    )
