"""What notebook 13 computes: features of heads, weights of stand-ins, translators to switch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from attnlab.chapters.attention_after_training import pictures, records
from attnlab.distillation import SITES, find_site, substitute
from attnlab.distillation.capture import Captured
from attnlab.distillation.surgery import load_students
from attnlab.errors import AttnlabError
from attnlab.mixers.linear_attention import FEATURE_MAPS
from attnlab.models import Translator
from attnlab.paths import MODELS
from attnlab.show import Picture
from attnlab.show.words import read_words
from attnlab.tasks import prepare_pairs
from attnlab.training import evaluate_translation, load_translator, translate_all
from attnlab.training.batches import Pairs

Key = tuple[str, int]  # a site and a layer, counted from 0
USUAL = "the young tree behind a fish find a young bird"
MAPS = {"hedgehog": "softmax of both signs", "softmax": "softmax", "relu": "ReLU", "elu": "elu + 1"}
TINY = 1e-9
CAPTIONS_VOCAB = 4000


def places_of(model: Translator) -> list[Key]:
    """Return every site of every layer."""
    sizes = {"encoder_self": len(model.encoder)}
    return [(site, i) for site in SITES for i in range(sizes.get(site, len(model.decoder)))]


def weights_of(teacher: Translator, place: Key, lesson: Captured) -> Tensor:
    """Return the teacher's attention weights ``(batch, heads, time, memory_time)``."""
    site = find_site(teacher, site=place[0], layer=place[1])
    padding = None if place[0] == "decoder_self" else lesson.source_padding
    return site.attention_weights(lesson.inputs, lesson.memory, source_padding=padding)


def both_weights(
    teacher: Translator, student: Any, place: Key, lesson: Captured
) -> tuple[Tensor, Tensor]:
    """Return the weights of teacher and stand-in at all real positions.

    Shapes:
        Each ``(n_positions, heads, memory_time)``; rows sum to one.
    """
    padding = None if place[0] == "decoder_self" else lesson.source_padding
    found = student.weights(lesson.inputs, lesson.memory, source_padding=padding)
    is_real = ~lesson.padding
    whole = weights_of(teacher, place, lesson)
    return whole.transpose(1, 2)[is_real], found.transpose(1, 2)[is_real]


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


def draw_kernels(
    teacher: Translator, lessons: Mapping[Key, Captured], *, site: str, layer: int, head: int
) -> Picture:
    """Draw what feature maps make of the scores of one head; layer and head count from 1."""
    place = (site, layer - 1)
    points = kernel_points(teacher, place, lessons[place], head=head - 1)
    where = f"{site.replace('_', ' ').capitalize()}, layer {layer}, head {head}. "
    return pictures.kernels(points, where=where)


@torch.no_grad()
def draw_window(
    teacher: Translator,
    lessons: Mapping[Key, Captured],
    build: Callable[..., Mapping[Key, Any]],
    words: Mapping[str, Sequence[str]],
    *,
    site: str,
    layer: int,
    head: int,
    window: int,
) -> Picture:
    """Draw one head of one sentence: attention, features alone, and with a window.

    Args:
        build: From ``window`` to stand-ins by place.
        words: Of the sentence, by site.
    """
    place, weights = (site, layer - 1), {}
    lesson = lessons[place]
    for label, width in (("features alone", 0), (f"window {window} and features", window)):
        student = build(window=width)[place]
        both = both_weights(teacher, student, place, lesson)
        weights["attention"], weights[label] = (a[:, head - 1].numpy() for a in both)
    return pictures.look_ups(weights, words=words[site], asked=words[site])


@dataclass
class Switches:
    """A translator with a switch at each site, and what may stand there.

    Args:
        stand_ins: Modules by name, then by ``(site, layer)``; ``attention`` needs none.
        vocabulary: The toy languages; of captions, their pieces.
        test: Pairs that BLEU is measured on.
    """

    teacher: Translator
    stand_ins: Mapping[str, Mapping[Key, nn.Module]]
    vocabulary: Any
    test: Pairs
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
        key = tuple(sorted(item for item in switches.items() if item[1] != "attention"))
        if key not in self.scores:
            self.scores[key] = self.bleu_with(self.modules(**switches))
        return self.scores[key]

    def bleu_with(self, modules: Mapping[Key, nn.Module]) -> float:
        """Return BLEU with these modules in place; the teacher is whole again afterwards."""
        with substitute(self.teacher, modules):
            how = {"vocabulary": self.vocabulary, "n_resamples": 1}
            return evaluate_translation(self.teacher, self.test, **how).bleu.score

    def read(self, sentence: str) -> tuple[str, str]:
        """Return what of a typed sentence can be read, and what could not be."""
        most, find = self.vocabulary.max_source_len, self.vocabulary.knows
        words, unread = read_words(sentence, most=most, usual=USUAL, find=find)
        return " ".join(words), unread

    def first_changed(self, **switches: str) -> str:
        """Return the first sentence to test on that is written otherwise with these switches."""
        texts = [self.vocabulary.decode(read) for read, _ in self.test]
        changed = (t for t in texts if self.translate(t) != self.translate(t, **switches))
        return next(changed, texts[0])

    def translate(self, text: str, **switches: str) -> str:
        """Return a sentence as it is written with these switches."""
        longest = self.teacher.config.max_len - 1
        with substitute(self.teacher, self.modules(**switches)):
            tokens = self.vocabulary.encode(text)[:longest]
            (written,) = translate_all(self.teacher, [tokens], max_len=longest)
        return self.vocabulary.decode(written)


def draw_switches(toy: Switches, runs: pd.DataFrame, **switches: str) -> Picture:
    """Draw BLEU with these switches: measured on the toy, recorded on captions."""
    here = {"bleu": toy.bleu(**switches), "teacher": toy.bleu()}
    return pictures.switches(here=here, runs=runs, **switches)


class Captions(Switches):
    """The translator of captions; its stand-ins learnt while its body stayed as it was."""

    def read(self, sentence: str) -> tuple[str, str]:
        """Return a sentence; its pieces spell any word."""
        return sentence, ""

    def translate(self, text: str, **switches: str) -> str:
        """Return a sentence as it is written with these switches, if they came along."""
        for site, name in switches.items():
            if name != "attention" and (site, 0) not in self.stand_ins.get(name, ()):
                return f"(nothing called {name} for {site} came with the workbook)"
        return super().translate(text, **switches)


@cache
def captions_here(folder: Path = MODELS) -> Captions | None:
    """Return the translator of captions; None where weights or vocabulary are not here.

    Weights lie in a folder with a teacher of the study; the vocabulary is learnt from the
    captions, which never come with the workbook.
    """
    for file in sorted(folder.glob(f"*/{records.TEACHER}.safetensors")):
        try:
            teacher, facts = load_translator(file)
            if facts.get("experiment") != records.CAPTIONS:
                continue
            data = prepare_pairs("multi30k/de-en", vocab_size=CAPTIONS_VOCAB,
                                 max_len=teacher.config.max_len, n_train_pairs=0)  # fmt: skip
        except AttnlabError:
            continue
        stand_ins: dict[str, dict[Key, nn.Module]] = {}
        for other in sorted(file.parent.glob("*-students.safetensors")):
            students, facts = load_students(other)
            put = records.switched(records.arm_of(facts["variant"]))
            for place, one in students.items():
                stand_ins.setdefault(put[place[0]], {})[place] = one.eval()
        return Captions(teacher.eval(), stand_ins, data.vocabulary, [])
    return None


@dataclass
class Playground:
    """Translate a typed sentence with switches: in the toy, or what it does not know in captions.

    Args:
        captions: Gives their translators, or None; asked when a sentence is not the toy's.
    """

    toy: Switches
    captions: Callable[[], Captions | None] = captions_here

    def reader(self, sentence: str) -> tuple[str, Any]:
        """Return which translator a sentence is for: the toy's, if it knows half of the words."""
        words = sentence.split()
        n_known = sum(self.toy.vocabulary.knows(word) is not None for word in words)
        other = None if 2 * n_known >= len(words) else self.captions()
        return ("the toy", self.toy) if other is None else ("captions", other)

    def write(self, *, sentence: str, **switches: str) -> dict[str, str]:
        """Return the sentence as attention writes it, and with these switches, changes marked."""
        _, one = self.reader(sentence)
        text, _ = one.read(sentence)
        whole, other = one.translate(text), one.translate(text, **switches)
        written = other + changes(other, whole)
        return {"Read": text, "Attention everywhere": whole, "With these switches": written}

    def say(self, *, sentence: str, **switches: str) -> str:
        """Say who translates, what is switched, and what could not be read."""
        name, one = self.reader(sentence)
        put = ", ".join(f"{pictures.SITES[s].lower()} {n}" for s, n in switches.items())
        marks = "^ marks words that differ from attention's."
        return f"Translator of {name}; {put}. {marks} {one.read(sentence)[1]}".strip()


def changes(written: str, whole: str) -> str:
    """Return a second line with marks under the words that differ; nothing where none does."""
    ours, theirs = written.split(), whole.split()
    fewer = len(theirs) - len(ours)
    theirs += [""] * -fewer
    marks = [("^" if a != b else " ") * len(a) for a, b in zip(ours, theirs, strict=False)]
    line = " ".join(marks).rstrip() + (f"  ({fewer} fewer)" if fewer > 0 else "")
    return f"\n{line}" if line.strip() else ""
