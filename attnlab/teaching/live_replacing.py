"""A workbench for notebook 09: a small teacher, what may stand in for its attention, and scores."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attnlab.config import BOS, TrainConfig
from attnlab.distillation import (
    CONTROLS,
    SITES,
    Activations,
    PaperCross,
    StudentSpec,
    build_controls,
    build_students,
    capture,
    collect_activations,
    find_site,
    fit_students,
    length_ratio,
    substitute,
)
from attnlab.errors import UnknownNameError
from attnlab.models import Translator
from attnlab.sources import TranslationSource
from attnlab.teaching.live_translation import Lesson
from attnlab.training import (
    PairBatches,
    build_optimizer,
    collate_pairs,
    evaluate_translation,
    train_steps,
    translate_all,
)
from attnlab.training.batches import Pairs

Key = tuple[str, int]  # a site and a layer, counted from 0
Modules = dict[Key, nn.Module]

PUBLISHED, CUT, PER_QUERY, NET = "published net", "cut net", "net per query", "net"
TUNED = "tuned net"
ATTENTION = "attention"
NETS: dict[str, dict[str, StudentSpec]] = {  # by site, then by name
    "encoder_self": {NET: StudentSpec(site="encoder_self", size="m")},
    "decoder_self": {NET: StudentSpec(site="decoder_self", size="m")},
    "cross": {
        PUBLISHED: StudentSpec(site="cross", layout="paper", size="l"),
        CUT: StudentSpec(site="cross", layout="truncated", size="l"),
        PER_QUERY: StudentSpec(site="cross", layout="per_query", size="l"),
    },
}
BATCH = 256  # sentences that the teacher reads at a time
HELD_OUT = 256  # sentences that errors are measured on


class Score(NamedTuple):
    """What a translator predicts with the right past given, and what it writes freely."""

    loss_nats: float  # right past given
    accuracy: float  # right past given
    bleu: float  # out of 100, written freely
    exact_match: float  # share of sentences, written freely


def train_teacher(source: TranslationSource, *, train: TrainConfig, **how: Any) -> Translator:
    """Train a small teacher to its end and return it in eval mode.

    Args:
        how: What ``Lesson`` takes besides.
    """
    lesson = Lesson(source, train=train, **how)
    for _ in lesson.points(every=train.n_steps):
        pass
    return lesson.teacher.eval()


def read_lessons(teacher: Translator, pairs: Pairs) -> dict[str, Activations]:
    """Return, by site, what the teacher's attention read and made of these pairs."""
    chunks = [pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)]
    batches = [collate_pairs(chunk) for chunk in chunks]
    return {s: collect_activations(teacher, batches, spec=StudentSpec(site=s)) for s in SITES}


def fit_nets(
    teacher: Translator, lessons: Mapping[str, Activations], *, train: TrainConfig, exam: Pairs
) -> tuple[dict[str, Modules], dict[str, dict[str, float]]]:
    """Train the nets of ``NETS`` for all layers of their sites.

    Args:
        train: Steps, batch size in sentences, rate and seed of every net.
        exam: Pairs that errors are measured on.

    Returns:
        Nets by name and place, and mean relative errors by site and name.
    """
    held_out = read_lessons(teacher, exam)
    found: dict[str, Modules] = {}
    errors: dict[str, dict[str, float]] = {}
    for site, arms in NETS.items():
        for name, spec in arms.items():
            fitted = fit_students(
                teacher,
                lessons[site],
                held_out=held_out[site],
                config=train,
                eval_every=train.n_steps,
                **spec.to_dict(),
            )
            errors.setdefault(site, {})[name] = fitted.error
            found.setdefault(name, {}).update(fitted.students)
    return found, errors


def untrained_nets(teacher: Translator, names: Mapping[str, str]) -> Modules:
    """Return the nets of these names for all layers of their sites, before any lesson."""
    found: Modules = {}
    for site, name in names.items():
        found |= build_students(teacher, spec=NETS[site][name])
    return found


def tune(
    teacher: Translator,
    students: Mapping[Key, nn.Module],
    *,
    pairs: Pairs,
    train: TrainConfig,
    max_tokens: int = 1024,
) -> Modules:
    """Return copies of students that went on learning, in place, from translations themselves.

    Nothing else moves, and neither the teacher nor the students given are changed.

    Args:
        max_tokens: Of one side of a batch.
    """
    model = copy.deepcopy(teacher)
    tuned = {place: copy.deepcopy(student) for place, student in students.items()}
    with substitute(model, tuned):
        model.requires_grad_(False)
        for student in tuned.values():
            student.requires_grad_(True)
        batches = PairBatches(pairs, max_tokens=max_tokens, seed=train.seed).starting_at(0)
        optimizer = build_optimizer(model, train)
        for _ in train_steps(model, batches, config=train, optimizer=optimizer):
            pass
    return {place: student.eval() for place, student in tuned.items()}


def all_controls(
    teacher: Translator, lessons: Mapping[str, Activations], *, pairs: Pairs
) -> dict[str, Modules]:
    """Return every control by name and place; ``attention`` is the teacher's own look-up."""
    found: dict[str, Modules] = {}
    for name in CONTROLS:
        modules: Modules = {}
        for site in SITES:
            modules |= build_controls(
                name,
                teacher=teacher,
                site=site,
                activations=lessons[site],
                spec=StudentSpec(site=site),
                ratio=length_ratio(pairs),
            )
        found[ATTENTION if name == "identity" else name] = modules
    return found


@dataclass
class Workbench:
    """A teacher, what may stand in for its attention, and the sentences that judge it.

    Args:
        stand_ins: Controls and nets by name, then by place.
        test: Pairs that no net has seen.
    """

    teacher: Translator
    source: TranslationSource
    test: Pairs
    stand_ins: dict[str, Modules]
    scores: dict[frozenset[tuple[Key, str]], Score] = field(default_factory=dict)

    def modules(self, swaps: Mapping[Key, str]) -> Modules:
        """Return the modules that these names mean at these places.

        Raises:
            UnknownNameError: Nothing is called that at the place.
        """
        for place, name in swaps.items():
            known = self.names_at(place)
            if name not in known:
                step = f"These can stand at {place}."
                raise UnknownNameError("stand-in", name, known, next_step=step)
        return {place: self.stand_ins[name][place] for place, name in swaps.items()}

    def names_at(self, place: Key) -> list[str]:
        """Return what may stand at a place."""
        return [name for name, modules in self.stand_ins.items() if place in modules]

    def everywhere(self, names: Mapping[str, str]) -> dict[Key, str]:
        """Return swaps at all layers of the sites: ``{"cross": "mean"}``."""
        sizes = {"encoder_self": len(self.teacher.encoder)}
        return {
            (site, layer): name
            for site, name in names.items()
            for layer in range(sizes.get(site, len(self.teacher.decoder)))
        }

    def score(self, swaps: Mapping[Key, str]) -> Score:
        """Return the score with these swaps; the teacher is whole again afterwards."""
        key = frozenset(swaps.items())
        if key not in self.scores:
            with substitute(self.teacher, self.modules(swaps)):
                self.scores[key] = self.score_now()
        return self.scores[key]

    def score_now(self) -> Score:
        """Return the score of the teacher as it stands."""
        found = evaluate_translation(self.teacher, self.test, vocabulary=self.source, n_resamples=1)
        forced = found.forced
        return Score(forced.loss_nats, forced.accuracy, found.bleu.score, found.exact_match)

    def translate(self, text: str, swaps: Mapping[Key, str]) -> str:
        """Return a sentence as it is translated with these swaps."""
        with substitute(self.teacher, self.modules(swaps)):
            longest = self.teacher.config.max_len - 1
            (written,) = translate_all(self.teacher, [self.source.encode(text)], max_len=longest)
        return self.source.decode(written)


@contextmanager
def blindfolded(students: Iterable[nn.Module]) -> Iterator[None]:
    """Let published nets see, for a while, only what they will see in use."""
    with ExitStack() as stack:
        for student in students:
            if isinstance(student, PaperCross):
                stack.callback(setattr, student, "sees_future", student.sees_future)
                student.sees_future = False
        yield


@torch.no_grad()
def moved_rows(model: Translator, pair: tuple[Any, Any], *, other: Tensor | int) -> list[int]:
    """Return which rows of a decoder's scores move when the last target word is another one.

    Row t is what the decoder says after reading ``BOS`` and t words.

    Args:
        other: The word that is put there.
    """
    source, target = (np.asarray(side, np.int64) for side in pair)
    read, given = torch.from_numpy(source)[None], torch.tensor([[BOS, *target.tolist()]])
    edited = given.clone()
    edited[0, -1] = other
    change = (model(read, edited) - model(read, given)).abs().amax((0, 2))
    return (change > 1e-9).nonzero().flatten().tolist()


@torch.no_grad()
def influence(
    teacher: Translator, pair: tuple[Any, Any], *, layer: int, stand_in: nn.Module | None = None
) -> NDArray[np.float64]:
    """Return how much each output at a cross site moves when one target position is edited.

    The edit puts the vector of the next position there (of the first, at the last). A change is
    given as a share of the mean length of an output.

    Shapes:
        Returns ``(target_time, target_time)``: row is output, column is edited position.
    """
    batch = collate_pairs([pair])
    found = capture(teacher, batch, sites=["cross"], layers=[layer])["cross", layer]
    x, memory = found.inputs, found.memory
    site: Any = find_site(teacher, site="cross", layer=layer)
    look_up = site.heads if stand_in is None else stand_in
    y = look_up(x, memory)
    columns = []
    for s in range(x.shape[1]):
        edited = x.clone()
        edited[:, s] = x[:, (s + 1) % x.shape[1]]
        columns.append((look_up(edited, memory) - y)[0].norm(dim=-1))
    return (torch.stack(columns, 1) / y.norm(dim=-1).mean()).double().numpy()


def control_table(bench: Workbench, *, site: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row of scores for each stand-in at all layers of a site."""
    rows = []
    for name in names:
        score = bench.score(bench.everywhere({site: name}))
        rows.append({"site": site, "label": name, **score._asdict()})
    return rows
