r"""Tune a translator with stand-ins in place: all of it, parts of it, or corrections of low rank.

.. math:: W' = W + \frac{16}{r} B A, \qquad A \in \mathbb{R}^{r \times d}, \quad
          B \in \mathbb{R}^{d \times r}

A begins random and B as zeros, so a correction begins as nothing. Its gradient is that of
:math:`2 r d` numbers instead of :math:`d^2`; merged into W it costs nothing in use.

Source:
    arXiv:2106.09685, section 4.1; the scale of 16 over the rank is that of arXiv:2410.10254, where
    corrections of value or output maps alone do as well as those of all four.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from attnlab.config import is_number
from attnlab.distillation.nets import Student
from attnlab.distillation.stand_ins import MAPS
from attnlab.distillation.surgery import ReplacedSite
from attnlab.errors import AttnlabError, UnknownNameError, shorten
from attnlab.models import Translator
from attnlab.seeding import torch_generator

CORRECTED = (*MAPS, "out")
TUNES = ("everything", "students", "corrections", "norms")
ALPHA = 16  # a correction is scaled by it over the rank


class Correction(nn.Module):
    """What is added to the weight of a map, a product of two narrow ones.

    Shapes:
        down: ``(rank, d_in)``, random; up: ``(d_out, rank)``, zeros; adds ``(d_out, d_in)``.
    """

    def __init__(self, weight: Tensor, *, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        d_out, d_in = weight.shape
        if not is_number(rank, int) or not 1 <= rank <= min(d_out, d_in):
            raise AttnlabError(
                f"rank={shorten(rank)} must be a whole number from 1 to {min(d_out, d_in)}, the "
                "width of the map that is corrected; 4 or 8 is usual."
            )
        self.scale = ALPHA / rank
        start = torch.randn(rank, d_in, generator=generator) * d_in**-0.5
        self.down = nn.Parameter(start.to(weight))
        self.up = nn.Parameter(weight.new_zeros(d_out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the corrected weight."""
        return weight + self.scale * (self.up @ self.down)


def add_corrections(
    model: nn.Module, rank: int, maps: Sequence[str] = ("value", "out"), *, seed: int = 0
) -> int:
    """Correct maps of every stand-in in place, and the projections behind them.

    Nothing changes until a correction has learnt something. ``out`` belongs to the teacher's body,
    so it keeps its correction, merged or not, when a substitution is undone.

    Args:
        model: A translator in which stand-ins stand; other students have an ``out`` alone.
        rank: r, the numbers between A and B.
        maps: Some of ``query``, ``key``, ``value`` and ``out``.
        seed: Picks the initial A (stream ``corrections/...``), apart for every map.

    Returns:
        How many maps have a correction.
    Raises:
        AttnlabError: There is no such map in the model, or it has a correction.
    """
    for name in maps:
        if name not in CORRECTED:
            step = "Corrections go with the maps of stand-ins."
            raise UnknownNameError("map", str(name), CORRECTED, next_step=step)
    found = dict(_maps(model, maps))
    if not found:
        raise AttnlabError(
            f"There is no {' or '.join(maps) or 'map'} of a stand-in to correct. Put stand-ins in "
            "with substitute(model, build_students(model, ...)) first."
        )
    for place, linear in found.items():
        if parametrize.is_parametrized(linear):
            raise AttnlabError(f"{place} has a correction already. Call merge_corrections first.")
        generator = torch_generator(seed, f"corrections/{place}")
        correction = Correction(linear.weight, rank=rank, generator=generator)
        parametrize.register_parametrization(linear, "weight", correction)
    return len(found)


def merge_corrections(model: nn.Module) -> int:
    """Write every correction into the weight it corrects; return how many there were.

    Outputs stay equal but for rounding, and the model has the weights it had before.
    """
    corrected = [module for module in model.modules() if _has_correction(module)]
    for module in corrected:
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return len(corrected)


def free_to_learn(model: nn.Module, what: str) -> tuple[str, ...]:
    """Let exactly these weights learn; return their names.

    Args:
        what: ``everything``; ``students``: what stands in place of attention; ``corrections``: the
            narrow maps of ``add_corrections``; ``norms``: gains and shifts of the body's norms.

    Raises:
        AttnlabError: The model has none of these.
    """
    if what not in TUNES:
        step = "See attnlab.distillation.free_to_learn."
        raise UnknownNameError("part to be tuned", str(what), TUNES, next_step=step)
    kinds = {"everything": nn.Module, "students": Student, "corrections": Correction,
             "norms": nn.LayerNorm}  # fmt: skip
    parts = (part for part in model.modules() if isinstance(part, kinds[what]))
    free = {id(weight) for part in parts for weight in part.parameters()}
    if not free:
        raise AttnlabError(
            f"The model has no {what} that could learn. Students come with substitute, corrections "
            "with add_corrections."
        )
    for weight in model.parameters():
        weight.requires_grad_(id(weight) in free)
    return tuple(name for name, weight in model.named_parameters() if id(weight) in free)


def set_dropout(model: Translator, dropout: float) -> None:
    """Let a translator drop this share in training wherever it drops anything.

    Attention that is left keeps a share of its own, where its configuration gives it one.
    """
    model.config = replace(model.config, dropout=dropout)
    own = model.config.attention_dropout
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        elif isinstance(getattr(module, "dropout", None), float):  # of attention weights
            module.dropout = dropout if own is None else own


def _maps(model: nn.Module, maps: Sequence[str]) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the maps that there are in place of attention, by where they stand."""
    for place, site in model.named_modules():
        if isinstance(site, ReplacedSite):
            for name in maps:
                linear = getattr(site if name == "out" else site.student, name, None)
                if isinstance(linear, nn.Linear):
                    yield f"{place}.{name}", linear


def _has_correction(module: nn.Module) -> bool:
    return parametrize.is_parametrized(module, "weight") and any(
        isinstance(part, Correction) for part in module.parametrizations.weight
    )
