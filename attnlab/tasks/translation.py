"""Translation: sentence pairs in, next tokens right and BLEU out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attnlab.config import TrainConfig, TranslatorConfig
from attnlab.models import Translator
from attnlab.tasks.base import Task
from attnlab.tasks.pairs import PairDataset
from attnlab.training import (
    Bleu,
    PairBatches,
    TranslationScore,
    evaluate_forced,
    evaluate_translation,
    score_texts,
)

N_CURVE_PAIRS = 200  # validation pairs behind a point of the curve


@dataclass(frozen=True, kw_only=True)
class TranslationTask(Task):
    """Write a sentence given another one, in batches of as many tokens each."""

    data: PairDataset
    max_tokens: int  # of one side of a batch
    beam_size: int = 1  # with more than one, BLEU of the test is given for that search, too

    @property
    def facts(self) -> dict[str, Any]:
        """What a record says about the data."""
        return self.data.facts

    def build(self, config: TranslatorConfig, *, generator: torch.Generator) -> Translator:
        """Return an untrained translator."""
        return Translator(config, generator=generator)

    def batches(
        self, model: Translator, train: TrainConfig, *, start: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield training pairs, those of like length together."""
        how = {"max_tokens": self.max_tokens, "seed": train.seed, "device": model.device}
        return PairBatches(self.data.train, **how).starting_at(start)

    def validate(self, model: Translator) -> dict[str, float]:
        """Return the loss on the first validation pairs, every earlier token given."""
        return {"loss_nats": evaluate_forced(model, self.data.validation[:N_CURVE_PAIRS]).loss_nats}

    def score(self, model: Translator) -> tuple[dict[str, float], dict[str, Any]]:
        """Return loss and accuracy, earlier tokens given, and BLEU of what is written freely.

        BLEU of the validation split is there to choose by: a net that reads the words it is
        asked to predict has a good loss and writes badly. Where single texts are scored, too, so
        is each further test, its name before the metrics.
        """
        held_out = self.translate(model, split="validation")
        metrics, details = judge(self.translate(model), self.data)
        validation = {
            "validation_loss_nats": held_out.forced.loss_nats,
            "validation_bleu": held_out.bleu.score,
        }
        if self.data.scores_texts:
            validation["validation_exact_match"] = held_out.exact_texts
        for name in self.data.more_tests:
            more, facts = judge(self.translate(model, split=name), self.data)
            metrics |= {f"{name}_{metric}": value for metric, value in more.items()}
            details |= {name: facts}
        if self.beam_size > 1:
            beam, facts = describe_score(self.translate(model, beam_size=self.beam_size))
            metrics |= {f"beam_{name}": beam[name] for name in ("bleu", "bleu_low", "bleu_high")}
            details |= {"beam": facts["bleu"]}
        return {**validation, **metrics}, details

    def translate(
        self, model: Translator, *, split: str = "test", beam_size: int = 1
    ) -> TranslationScore:
        """Return what a translator makes of a split or a further test, greedily or by beam."""
        data = self.data
        how = {"vocabulary": data.vocabulary, "length_edges": data.length_edges}
        how |= {"tokenize": data.tokenize, "beam_size": beam_size}
        pairs = data.more_tests[split] if split in data.more_tests else getattr(data, split)
        return evaluate_translation(model.eval(), pairs, **how)


def judge(score: TranslationScore, data: PairDataset) -> tuple[dict[str, float], dict[str, Any]]:
    """Return metrics and details of a score, with those of single texts where the data has them."""
    metrics, details = describe_score(score)
    if data.scores_texts:
        more, tables = describe_texts(score.hypotheses, score.references, tokenize=data.tokenize)
        metrics, details = metrics | more, details | {"texts": tables}
    return metrics, details


def describe_texts(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the means over texts as the metrics of a record, and each text's scores, packed."""
    scores = score_texts(hypotheses, references, tokenize=tokenize)
    metrics = {}
    for name, score in scores.items():
        metrics |= {name: score.mean, f"{name}_low": score.low, f"{name}_high": score.high}
    return metrics, {name: {"by": score.by, "texts": score.texts} for name, score in scores.items()}


def describe_score(score: TranslationScore) -> tuple[dict[str, float], dict[str, Any]]:
    """Return a score as the metrics and details of a record: with what BLEU can be compared by."""
    forced, buckets = score.forced, score.by_length
    metrics = {"test_loss_nats": forced.loss_nats, "test_accuracy": forced.accuracy}
    found, facts = describe_bleu(score.bleu)
    by_length = {
        "shortest": [bucket.shortest for bucket in buckets],
        "longest": [bucket.longest for bucket in buckets],
        "bleu": [bucket.bleu.score for bucket in buckets],
        "bleu_low": [bucket.bleu.low for bucket in buckets],
        "bleu_high": [bucket.bleu.high for bucket in buckets],
        "n_sentences": [bucket.bleu.n_sentences for bucket in buckets],
    }
    details = {"by_length": by_length, "bleu": facts | {"beam_size": score.beam_size}}
    return metrics | found | {"exact_match": score.exact_match}, details


def describe_bleu(bleu: Bleu) -> tuple[dict[str, float], dict[str, Any]]:
    """Return BLEU as the metrics of a record, and what another one can be compared by."""
    metrics = {"bleu": bleu.score, "bleu_low": bleu.low, "bleu_high": bleu.high}
    return metrics, {
        "signature": bleu.signature, "precisions": list(bleu.precisions),
        "brevity_penalty": bleu.brevity_penalty, "n_sentences": bleu.n_sentences,
        "sentences": bleu.sentences,
    }  # fmt: skip
