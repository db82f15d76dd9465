"""What may stand in for attention, and where: the arms of the study, by name.

A name says the sites, then what stands there: ``encoder_self/alr/m``, ``cross/truncated/l``,
``encoder_self/mean``. Arms that begin with ``all/`` replace all three sites.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attnlab.distillation import CONTROLS, SITES, StudentSpec
from attnlab.errors import UnknownNameError

PART = StudentSpec | str  # a student, or the name of a control


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is replaced by what.

    Args:
        parts: Student or control of each site that is replaced.
        is_tuned: Whether, after the swap, the students alone go on learning from the
            translations themselves.
    """

    parts: dict[str, PART] = field(default_factory=dict)
    is_tuned: bool = False


def get_arm(name: str) -> Arm:
    """Return an arm by name."""
    if name not in ARMS:
        step = "See them with: attnlab study list."
        raise UnknownNameError("arm of the study", name, ARMS, next_step=step)
    return ARMS[name]


def _arms() -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for site in SITES:
        for control in CONTROLS:
            if (site, control) != ("encoder_self", "identity") and control == "identity":
                continue  # one is enough: it changes nothing anywhere
            arms[f"{site}/{control}"] = Arm(parts={site: control})
    for site, specs in _STUDENTS.items():
        for label, options in specs.items():
            arms[f"{site}/{label}"] = Arm(parts={site: StudentSpec(site=site, **options)})
    for label in ("truncated/l", "per_query/l"):
        tuned = arms[f"cross/{label}"].parts
        arms[f"cross/{label}/tuned"] = Arm(parts=tuned, is_tuned=True)
    own = {
        "encoder_self": StudentSpec(site="encoder_self", method="alr", size="m"),
        "decoder_self": StudentSpec(site="decoder_self", method="alr", size="m"),
    }
    arms["self/alr/m"] = Arm(parts=own)
    for label in ("truncated/l", "per_query/l", "per_query/l/learned_head", "low_rank/l"):
        parts = {**own, "cross": StudentSpec(site="cross", **_STUDENTS["cross"][label])}
        arms[f"all/{label}"] = Arm(parts=parts)
        arms[f"all/{label}/tuned"] = Arm(parts=parts, is_tuned=True)
    return arms


_STUDENTS = {
    "encoder_self": {
        **{f"alr/{size}": {"method": "alr", "size": size} for size in ("xs", "s", "m", "l")},
        **{f"aslr/{size}": {"method": "aslr", "size": size} for size in ("xs", "l")},
        **{f"alrr/{size}": {"method": "alrr", "size": size} for size in ("xs", "m", "l")},
        "alrr/m/skip": {"method": "alrr", "size": "m", "skip": "identity"},
        "alrr/m/linear_skip": {"method": "alrr", "size": "m", "skip": "linear"},
        **{f"elr/{size}": {"method": "elr", "size": size} for size in ("xs", "m", "l")},
    },
    "decoder_self": {f"alr/{size}": {"size": size} for size in ("xs", "s", "m", "l")},
    "cross": {
        **{f"paper/{size}": {"layout": "paper", "size": size} for size in ("xs", "m", "l")},
        **{f"truncated/{size}": {"layout": "truncated", "size": size} for size in ("m", "l")},
        "prefix/l": {"layout": "prefix", "size": "l"},
        **{f"per_query/{s}": {"layout": "per_query", "size": s} for s in ("m", "l", "xl")},
        **{
            f"per_query/l/depth_{n}": {"layout": "per_query", "size": "l", "depth": n}
            for n in (2, 3)
        },
        "per_query/l/gate": {"layout": "per_query", "size": "l", "gate": True},
        "per_query/l/learned_head": {"layout": "per_query", "size": "l", "learned_head": True},
        **{f"low_rank/{size}": {"layout": "low_rank", "size": size} for size in ("m", "l")},
        "extractor/m": {"layout": "extractor", "size": "m"},
    },
}
ARMS = _arms()
