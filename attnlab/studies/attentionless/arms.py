"""What may stand in for attention, and where: the arms of the study, by name.

A name says the sites, then what stands there: ``encoder_self/alr/m``, ``cross/truncated/l``,
``encoder_self/mean``. Arms that begin with ``all/`` replace all three sites. A last word says how
the students learn, where it is not from the teacher's activations alone; see ``SCHOOLING``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from attnlab.distillation import CONTROLS, SITES, StudentSpec
from attnlab.errors import UnknownNameError

PART = StudentSpec | str  # a student, or the name of a control


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is replaced by what.

    Args:
        parts: Student or control of each site that is replaced.
        begins: Where learning begins: ``distilled`` (students taught by the teacher's
            activations), ``untrained`` (new students in the teacher's body) or ``scratch`` (new
            students in a new body, trained as the teacher was).
        tunes: What goes on learning from the translations themselves after the swap:
            ``nothing``, ``students`` or ``everything``.
        is_quiet: Whether a replaced sublayer adds nothing at first: its last projection is zero.
        n_times: Steps of a run from scratch, as a multiple of the teacher's.
        lr_factor: Rate of a run from scratch, as a multiple of the teacher's.
        has_best_lr: Whether the students' rate is the best of ``LRS`` on held-out sentences.
    """

    parts: dict[str, PART] = field(default_factory=dict)
    begins: str = "distilled"
    tunes: str = "nothing"
    is_quiet: bool = False
    n_times: int = 1
    lr_factor: float = 1.0
    has_best_lr: bool = False

    @property
    def is_tuned(self) -> bool:
        """Whether anything learns from the translations after the swap."""
        return self.tunes != "nothing"

    def unusual(self) -> dict[str, Any]:
        """Return how it learns, as plain JSON; only what is not the default."""
        plain = Arm()
        names = [f.name for f in fields(self) if f.name != "parts"]
        values = {name: getattr(self, name) for name in names}
        return {name: v for name, v in values.items() if v != getattr(plain, name)}


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
    own = {site: StudentSpec(site=site, method="alr", size="m") for site in SITES[:2]}
    arms["self/alr/m"] = Arm(parts=own)
    for label in ("truncated/l", "per_query/l", "per_query/l/learned_head", "low_rank/l"):
        parts = {**own, "cross": StudentSpec(site="cross", **_STUDENTS["cross"][label])}
        arms[f"all/{label}"] = Arm(parts=parts)
    for word, names in _TAUGHT_OTHERWISE.items():
        for name in names:
            arms[f"{name}/{word}"] = replace(arms[name], **SCHOOLING[word])
    return arms


# how students learn where it is not from the teacher's activations alone
SCHOOLING: dict[str, dict[str, Any]] = {
    "tuned": {"tunes": "students"},
    "tuned_all": {"tunes": "everything"},
    "undistilled": {"begins": "untrained", "tunes": "students"},
    "scratch": {"begins": "scratch"},
    "scratch_quiet": {"begins": "scratch", "is_quiet": True},
    "scratch_long": {"begins": "scratch", "n_times": 2},
    "scratch_slow": {"begins": "scratch", "lr_factor": 0.25},
    "best_lr": {"has_best_lr": True},
}
_WHOLE = ("all/per_query/l", "all/low_rank/l")
_TAUGHT_OTHERWISE = {
    "tuned": (
        *(f"cross/{label}" for label in ("truncated/m", "truncated/l", "per_query/m")),
        *("cross/per_query/l", "cross/low_rank/l", "cross/uniform", "cross/gaussian"),
        *("encoder_self/alr/m", "self/alr/m"),
        *("all/truncated/l", "all/per_query/l/learned_head", *_WHOLE),
    ),
    "tuned_all": (
        *("encoder_self/identity", "cross/uniform"),  # the teacher itself, and a control
        *("cross/per_query/m", "cross/low_rank/l", *_WHOLE),
    ),
    "undistilled": ("cross/per_query/l", "cross/low_rank/l", *_WHOLE),
    "scratch": ("encoder_self/alr/m", "self/alr/m", "cross/per_query/l", *_WHOLE),
    "scratch_quiet": ("all/per_query/l",),
    "scratch_long": ("all/per_query/l",),
    "scratch_slow": ("all/per_query/l",),
    "best_lr": (
        *(f"encoder_self/{label}" for label in ("alr/m", "aslr/l", "alrr/m", "elr/m")),
        "decoder_self/alr/m",
        *(f"cross/{label}/l" for label in ("paper", "truncated", "per_query", "low_rank")),
    ),
}
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
