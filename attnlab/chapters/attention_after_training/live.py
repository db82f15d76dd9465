"""What notebook 13 computes: features of heads, how unlike stand-ins are, translators to switch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from attnlab.distillation import SITES, Student, find_site, substitute
from attnlab.distillation.capture import Captured
from attnlab.mixers.linear_attention import FEATURE_MAPS
from attnlab.models import Translator
from attnlab.show.words import read_words
from attnlab.training import evaluate_translation, translate_all
from attnlab.training.batches import Pairs

Key = tuple[str, int]  # a site and a layer, counted from 0
USUAL = "the young tree behind a fish find a young bird"
MAPS = {"hedgehog": "softmax of both signs", "softmax": "softmax", "relu": "ReLU", "elu": "elu + 1"}
TINY = 1e-9


def places_of(model: Translator) -> list[Key]:
    """Return every site of every layer."""
    sizes = {"encoder_self": len(model.encoder)}
    return [(site, i) for site in SITES for i in range(sizes.get(site, len(model.decoder)))]


def weights_of(teacher: Translator, place: Key, lesson: Captured) -> Tensor:
    """Return the teacher's attention weights ``(batch, heads, time, memory_time)``."""
    site = find_site(teacher, site=place[0], layer=place[1])
    padding = None if place[0] == "decoder_self" else lesson.source_padding
    return site.attention_weights(lesson.inputs, lesson.memory, source_padding=padding)


def student_weights(student: Any, place: Key, lesson: Captured) -> Tensor:
    """Return a stand-in's mixing matrix, of the same shape; rows sum to one."""
    padding = None if place[0] == "decoder_self" else lesson.source_padding
    return student.weights(lesson.inputs, lesson.memory, source_padding=padding)


@torch.no_grad()
def kernel_points(teacher: Translator, place: Key, lesson: Captured, *, head: int) -> pd.DataFrame:
    r"""Return for pairs of positions of one head its score and what each map makes of the pair.

    Maps act on queries and keys as the teacher has them, before anything is learnt; each kernel
    is scaled so that its mean is that of :math:`e^s` over these pairs.

    Returns:
        Rows with ``score`` :math:`s = q \cdot k / \sqrt{d_h}`, ``name`` and ``kernel``.
    """
    site = find_site(teacher, site=place[0], layer=place[1])
    memory = lesson.inputs if lesson.memory is None else lesson.memory
    q, k = (
        site._split(m(x))[:, head] for m, x in ((site.query, lesson.inputs), (site.key, memory))
    )
    is_real = weights_of(teacher, place, lesson)[:, head] > 0
    is_real &= ~lesson.padding[:, :, None]
    s = (q @ k.mT / q.shape[-1] ** 0.5)[is_real]
    tables = []
    for name in MAPS:
        phi_q, phi_k = (FEATURE_MAPS[name](z) for z in (q, k))
        kernel = (phi_q @ phi_k.mT)[is_real]
        kernel = kernel * s.exp().mean() / kernel.mean().clamp(min=TINY)
        tables.append(pd.DataFrame({"name": name, "score": s, "kernel": kernel}))
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def unlike_heads(
    teacher: Translator, students: Mapping[Key, Student], lessons: Mapping[Key, Captured]
) -> pd.DataFrame:
    r"""Return how spread out each head looks, and how far its stand-in is from it.

    Returns:
        A row a head: ``site``, ``layer``, ``head``; ``entropy`` of its weights (nats, mean over
        positions); ``divergence`` of the stand-in's weights from them (nats); ``error``, the
        squared error of the head's output over its variance.
    """
    rows = []
    for place, student in students.items():
        lesson = lessons[place]
        is_real = ~lesson.padding
        ours, theirs = (
            a.transpose(1, 2)[is_real].clamp(min=TINY)  # (n, heads, memory_time)
            for a in (
                weights_of(teacher, place, lesson),
                student_weights(student, place, lesson),
            )
        )
        found, wanted = (
            y[is_real].unflatten(-1, (ours.shape[1], -1))
            for y in (student(lesson.inputs, **lesson.context), lesson.targets)
        )
        spread = (wanted - wanted.mean(0)).square().sum((0, 2))
        entropy = -(ours * ours.log()).sum(-1).mean(0)
        crossed = -(ours * theirs.log()).sum(-1).mean(0)
        error = (found - wanted).square().sum((0, 2)) / spread.clamp(min=TINY)
        columns = {"entropy": entropy, "divergence": crossed - entropy, "error": error}
        own = pd.DataFrame({name: each.numpy() for name, each in columns.items()})
        rows.append(own.assign(site=place[0], layer=place[1], head=range(len(own))))
    return pd.concat(rows, ignore_index=True)


@dataclass
class Switches:
    """A translator with a switch at each site, and what may stand there.

    Args:
        stand_ins: Modules by name, then by ``(site, layer)``; ``attention`` needs none.
        vocabulary: Of both languages; the toy's is its source.
        test: Pairs that BLEU is measured on.
        usual: Translated where nothing was typed.
    """

    teacher: Translator
    stand_ins: Mapping[str, Mapping[Key, nn.Module]]
    vocabulary: Any
    test: Pairs
    usual: str = USUAL
    scores: dict[tuple[tuple[str, str], ...], float] = field(default_factory=dict)

    def modules(self, **switches: str) -> dict[Key, nn.Module]:
        """Return what these switches put where: ``modules(cross="linear")``."""
        return {
            place: self.stand_ins[name][place]
            for site, name in switches.items() if name != "attention"
            for place in places_of(self.teacher) if place[0] == site
        }  # fmt: skip

    def bleu(self, **switches: str) -> float:
        """Return BLEU with these switches; each setting is measured once."""
        key = tuple(sorted(switches.items()))
        if key not in self.scores:
            with substitute(self.teacher, self.modules(**switches)):
                how = {"vocabulary": self.vocabulary, "n_resamples": 1}
                self.scores[key] = evaluate_translation(self.teacher, self.test, **how).bleu.score
        return self.scores[key]

    def read(self, sentence: str) -> tuple[str, str]:
        """Return what of a typed sentence can be read, and what could not be."""
        if not hasattr(self.vocabulary, "knows"):  # pieces spell any word
            return sentence.strip() or self.usual, ""
        most, find = self.vocabulary.max_source_len, self.vocabulary.knows
        words, unread = read_words(sentence, most=most, usual=self.usual, find=find)
        return " ".join(words), unread

    def translate(self, text: str, **switches: str) -> str:
        """Return a sentence as it is written with these switches."""
        longest = self.teacher.config.max_len - 1
        tokens = self.vocabulary.encode(text)[:longest]
        with substitute(self.teacher, self.modules(**switches)):
            (written,) = translate_all(self.teacher, [tokens], max_len=longest)
        return self.vocabulary.decode(written)

    def write(self, *, sentence: str, **switches: str) -> dict[str, str]:
        """Return the sentence as attention writes it, and with these switches, changes marked."""
        text, _ = self.read(sentence)
        whole, other = self.translate(text), self.translate(text, **switches)
        return {"Read": text, "Attention everywhere": whole, "With these switches": other
                + changes(other, whole)}  # fmt: skip

    def say(self, *, sentence: str, **switches: str) -> str:
        """Say what is switched, and what of the sentence could not be read."""
        put = ", ".join(f"{site.replace('_', ' ')}: {name}" for site, name in switches.items())
        return f"{put}. ^ marks words that differ. {self.read(sentence)[1]}".strip()


def changes(written: str, whole: str) -> str:
    """Return a second line with marks under the words that differ; nothing where none does."""
    ours, theirs = written.split(), whole.split()
    theirs += [""] * (len(ours) - len(theirs))
    line = " ".join(("^" if a != b else " ") * len(a) for a, b in zip(ours, theirs, strict=False))
    fewer = len(theirs) - len(ours)
    line = line.rstrip() + (f"  ({fewer} fewer)" if fewer > 0 else "")
    return f"\n{line}" if line.strip() else ""
