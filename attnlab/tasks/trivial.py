"""Answers that need no training: a model has to be better than the best of them.

``lead`` gives the first words of the source, ``copy`` all of it, ``frequent`` the target that
training has most often, ``nearest`` the target of the training source with most words in common.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import median_low
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlab.errors import UnknownNameError
from attnlab.tasks.pairs import PairDataset
from attnlab.tasks.translation import describe_bleu, describe_texts
from attnlab.training import bleu
from attnlab.training.batches import Pairs

Texts = list[tuple[str, str]]


def lead(seen: Texts, sources: Sequence[str]) -> list[str]:
    """Return the first words of each source, as many as half of the training targets have."""
    n_words = median_low([len(target.split()) for _, target in seen])
    return [" ".join(source.split()[:n_words]) for source in sources]


def copy(seen: Texts, sources: Sequence[str]) -> list[str]:
    """Return each source as it stands."""
    return list(sources)


def frequent(seen: Texts, sources: Sequence[str]) -> list[str]:
    """Return the commonest target of training each time; of equally common ones the first."""
    ((target, _),) = Counter(target for _, target in seen).most_common(1)
    return [target] * len(sources)


def nearest(seen: Texts, sources: Sequence[str]) -> list[str]:
    r"""Return the target of the nearest training source, of equally near ones the first.

    Near are sources with many words in common, :math:`2 |A \cap B| / (|A| + |B|)` of the sets A
    and B of their words.
    """
    found: defaultdict[str, list[int]] = defaultdict(list)
    n_words = np.ones(len(seen))  # at least one, which keeps an empty text from dividing by zero
    for i, (source, _) in enumerate(seen):
        words = set(source.split())
        n_words[i] = max(1, len(words))
        for word in words:
            found[word].append(i)
    places: dict[str, NDArray[np.int64]] = {word: np.array(at) for word, at in found.items()}
    answers = []
    for source in sources:
        words, common = set(source.split()), np.zeros(len(seen))
        for word in words & places.keys():
            common[places[word]] += 1
        answers.append(seen[int((2 * common / (len(words) + n_words)).argmax())][1])
    return answers


TRIVIAL: dict[str, Callable[[Texts, Sequence[str]], list[str]]] = {
    "lead": lead,
    "copy": copy,
    "frequent": frequent,
    "nearest": nearest,
}


def score_trivial(name: str, data: PairDataset) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the metrics and details of a trivial answer, as those of a model are judged.

    Args:
        name: One of ``TRIVIAL``.
        data: Its training split is looked at, its test and further tests are answered.
    """
    if name not in TRIVIAL:
        step = "See attnlab.tasks.trivial for what each does."
        raise UnknownNameError("trivial answer", name, TRIVIAL, next_step=step)
    seen, metrics, details = _texts(data, data.train), {}, {}
    for prefix, pairs in {"": data.test, **data.more_tests}.items():
        asked = _texts(data, pairs)
        answers = TRIVIAL[name](seen, [source for source, _ in asked])
        found, tables = _judge(answers, [target for _, target in asked], data.tokenize)
        metrics |= {f"{prefix}_{metric}".lstrip("_"): value for metric, value in found.items()}
        details |= {prefix: tables} if prefix else tables
    return metrics, details


def _judge(
    answers: list[str], right: list[str], tokenize: str
) -> tuple[dict[str, float], dict[str, Any]]:
    metrics, facts = describe_bleu(bleu(answers, right, tokenize=tokenize))
    more, tables = describe_texts(answers, right, tokenize=tokenize)
    return metrics | more, {"bleu": facts, "texts": tables}


def _texts(data: PairDataset, pairs: Pairs) -> Texts:
    read, write = data.source_vocabulary.decode, data.vocabulary.decode
    return [(read(source), write(target)) for source, target in pairs]
