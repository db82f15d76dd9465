"""The rows of both studies of replaced attention: what stands where, and how it learnt.

An arm is a row: where attention goes, what stands there, how that learnt. ``ARMS`` holds the
rows by name; words and looks follow from the columns, and ``arm_columns`` puts them beside
records, so that nobody has to read a name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from attnlab.distillation import CONTROLS, SITES, StudentSpec
from attnlab.errors import AttnlabError, UnknownNameError

TEACHER = "teacher"
SITE_NAMES = {"encoder_self": "Encoder self", "decoder_self": "Decoder self", "cross": "Cross"}
PLACES = {  # site: its sites, and words for them
    "": ((), "nowhere"),
    **{site: ((site,), name.lower()) for site, name in SITE_NAMES.items()},
    "self": (SITES[:2], "both self sites"),
    "all": (SITES, "all sites"),
}
CONTROL_NAMES = {
    "mean": "mean vector",
    "zero": "zero",
    "uniform": "uniform average",
    "gaussian": "Gaussian average",
    "random": "untrained net",
}
KINDS = {
    **CONTROL_NAMES,
    "identity": "attention",
    "paper": "published net",
    "truncated": "cut net",
    "prefix": "net on prefixes",
    "per_query": "net per query",
    "low_rank": "linear attention",
    "extractor": "Extractor",
}
LOOK_OF = {"identity": "attention", "low_rank": "linear_attention", "extractor": "extractor"}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {  # last word of a name: words, columns
    "": ("", {}),  # from the teacher's activations alone, all at one rate
    "tuned": ("tuned", {"tunes": "students"}),
    "tuned_all": ("everything tuned", {"tunes": "everything"}),
    "undistilled": ("new nets, tuned", {"begins": "untrained", "tunes": "students"}),
    "scratch": ("from scratch", {"begins": "scratch"}),
    "scratch_quiet": ("from scratch, quiet start", {"begins": "scratch", "is_quiet": True}),
    "scratch_long": ("from scratch, twice as long", {"begins": "scratch", "n_times": 2}),
    "scratch_slow": ("from scratch, a quarter of the rate",
                     {"begins": "scratch", "lr_factor": 0.25}),
    "best_lr": ("at its best rate", {"has_best_lr": True}),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is replaced by what, and how it learns; without a site nothing is: the teacher.

    Args:
        site: One of ``SITES``; ``self``, both of self-attention; ``all``, with ALR M at these two.
        method: Of the students; or a control.
        layout, size, depth, gate, learned_head, skip: As ``StudentSpec`` takes them.
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

    site: str = ""
    method: str = "alr"
    layout: str = ""  # of a cross net
    size: str = ""  # of a net
    depth: int = 1
    gate: bool = False
    learned_head: bool = False
    skip: str = "none"
    begins: str = "distilled"
    tunes: str = "nothing"
    is_quiet: bool = False
    n_times: int = 1
    lr_factor: float = 1.0
    has_best_lr: bool = False

    def __post_init__(self) -> None:
        """Refuse to train what has no weights."""
        if self.method in CONTROLS and self.begins == "scratch":
            raise AttnlabError(
                f"{self.method!r} is a control: it has nothing to learn from scratch. Choose a "
                "net, or begins='distilled'."
            )

    @property
    def parts(self) -> dict[str, StudentSpec | str]:
        """What stands at each site that is replaced: a student, or the name of a control."""
        if self.method in CONTROLS:
            return {self.site: self.method}
        own = {name: getattr(self, name) for name in _OF_STUDENTS if getattr(self, name)}
        beside = {"size": "m"} if self.site == "all" else own  # of the site that differs
        return {
            site: StudentSpec(site=site, **(own if site == "cross" else beside))
            for site in PLACES[self.site][0]
        }

    @property
    def learning(self) -> dict[str, Any]:
        """How it learns, as plain JSON; only what is not the default."""
        columns = {name: getattr(self, name) for name in _OF_LEARNING}
        return {name: v for name, v in columns.items() if v != getattr(Arm, name)}

    @property
    def way(self) -> str:
        """The word for how it learns."""
        return next(word for word, (_, columns) in WAYS.items() if columns == self.learning)

    @property
    def kind(self) -> str:
        """The word for what stands there."""
        return self.layout or self.method

    @property
    def extra(self) -> str:
        """The word for what a net has besides."""
        skip = {"none": "", "identity": "skip", "linear": "linear_skip"}[self.skip]
        depth = f"depth_{self.depth}" if self.depth > 1 else ""
        return skip or depth or self.gate * "gate" or self.learned_head * "learned_head"

    @property
    def name(self) -> str:
        """Sites, what stands there, and how it learnt: ``self/alr/m/tuned``."""
        words = (self.site, self.kind, self.size, self.extra, self.way)
        return "/".join(filter(None, words)) if self.site else TEACHER

    @property
    def words(self) -> str:
        """The name as sentences and tables say it: ``both self sites: ALR M, tuned``."""
        if not self.site:
            return TEACHER
        if self.method == "identity" and self.tunes != "nothing":
            return "teacher, trained on as long as students are tuned"
        kind = " ".join([KINDS.get(self.kind, self.kind.upper()), self.size.upper()]).rstrip()
        parts = (f"{PLACES[self.site][1]}: {kind}", self.extra.replace("_", " "), WAYS[self.way][0])
        return ", ".join(filter(None, parts))

    @property
    def look(self) -> str:
        """The look of what stands there: attention, a control, a net, or another mixer."""
        usual = "table" if self.method in CONTROLS else "feedforward"
        return LOOK_OF.get(self.kind, usual) if self.site else "attention"

    @property
    def has_cross_softmax(self) -> bool:
        """Whether the decoder still looks at the source through a softmax."""
        is_replaced = "cross" in PLACES[self.site][0] and self.method != "identity"
        return self.learned_head or not is_replaced

    @property
    def columns(self) -> dict[str, Any]:
        """The row: what is given, and what follows from it."""
        return asdict(self) | {name: getattr(self, name) for name in _DERIVED}


_OF_STUDENTS = ("method", "layout", "size", "depth", "gate", "learned_head", "skip")
_OF_LEARNING = ("begins", "tunes", "is_quiet", "n_times", "lr_factor", "has_best_lr")
_DERIVED = ("kind", "extra", "way", "words", "look", "has_cross_softmax")


def _nets() -> Iterator[Arm]:
    """Yield the students of the study as they are taught, each kind in its sizes."""
    encoder, cross = (partial(Arm, site=site) for site in ("encoder_self", "cross"))
    for make, sizes in (
        (encoder, "xs s m l"),
        (partial(encoder, method="aslr"), "xs l"),
        (partial(encoder, method="alrr"), "xs m l"),
        (partial(encoder, method="alrr", skip="identity"), "m"),
        (partial(encoder, method="alrr", skip="linear"), "m"),
        (partial(encoder, method="elr"), "xs m l"),
        (partial(Arm, site="decoder_self"), "xs s m l"),
        (partial(cross, layout="paper"), "xs m l"),
        (partial(cross, layout="truncated"), "m l"),
        (partial(cross, layout="prefix"), "l"),
        (partial(cross, layout="per_query"), "m l xl"),
        (partial(cross, layout="per_query", depth=2), "l"),
        (partial(cross, layout="per_query", depth=3), "l"),
        (partial(cross, layout="per_query", gate=True), "l"),
        (partial(cross, layout="per_query", learned_head=True), "l"),
        (partial(cross, layout="low_rank"), "m l"),
        (partial(cross, layout="extractor"), "m"),
        (partial(Arm, site="self"), "m"),
        (partial(Arm, site="all", layout="truncated"), "l"),
        (partial(Arm, site="all", layout="per_query"), "l"),
        (partial(Arm, site="all", layout="per_query", learned_head=True), "l"),
        (partial(Arm, site="all", layout="low_rank"), "l"),
    ):
        yield from (make(size=size) for size in sizes.split())


_TAUGHT_OTHERWISE = {
    "tuned": """cross/truncated/m cross/truncated/l cross/per_query/m cross/per_query/l
        cross/low_rank/l cross/uniform cross/gaussian encoder_self/alr/m self/alr/m
        all/truncated/l all/per_query/l/learned_head all/per_query/l all/low_rank/l""",
    "tuned_all": """encoder_self/identity cross/uniform
        cross/per_query/m cross/low_rank/l all/per_query/l all/low_rank/l""",
    "undistilled": "cross/per_query/l cross/low_rank/l all/per_query/l all/low_rank/l",
    "scratch": """encoder_self/alr/m self/alr/m cross/per_query/l all/per_query/l
        all/low_rank/l""",
    "scratch_quiet": "all/per_query/l",
    "scratch_long": "all/per_query/l",
    "scratch_slow": "all/per_query/l",
    "best_lr": """encoder_self/alr/m encoder_self/aslr/l encoder_self/alrr/m encoder_self/elr/m
        decoder_self/alr/m cross/paper/l cross/truncated/l cross/per_query/l cross/low_rank/l""",
}


def _arms() -> dict[str, Arm]:
    """Return the teacher, then controls, students, and what learns otherwise, by name."""
    controls = [Arm(site=site, method=control) for site in SITES for control in CONTROLS]
    once = [a for a in controls if a.method != "identity" or a.site == "encoder_self"]
    arms = {arm.name: arm for arm in (Arm(), *once, *_nets())}
    for way, names in _TAUGHT_OTHERWISE.items():
        rows = [replace(arms[name], **WAYS[way][1]) for name in names.split()]
        arms |= {arm.name: arm for arm in rows}
    return arms


ARMS = _arms()


def get_arm(name: str) -> Arm:
    """Return an arm by name."""
    if name not in ARMS:
        step = "See them with: attnlab study list."
        raise UnknownNameError("arm of the study", name, ARMS, next_step=step)
    return ARMS[name]


def arm_words(variant: str) -> str:
    """Return an arm's name in words: ``self/alr/m/tuned`` is ``both self sites: ALR M, tuned``."""
    return get_arm(variant).words


def arm_columns(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs with the columns of their arms beside them.

    Args:
        runs: Rows with ``variant``, such as ``load_runs`` returns.

    Returns:
        What ``Arm`` takes, and ``kind``, ``extra``, ``way``, ``words``, ``look`` and
        ``has_cross_softmax``.
    """
    rows = [get_arm(variant).columns for variant in runs["variant"]]
    table = pd.DataFrame(rows, index=runs.index, columns=list(Arm().columns))
    return runs.assign(**dict(table.items()))
