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

from attnlab.distillation import CONTROLS, SITES, STAND_INS, StudentSpec
from attnlab.errors import AttnlabError, UnknownNameError

TEACHER = "teacher"
FEATURES, WINDOW = "hedgehog", 4  # of the first stand-ins
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
    "linear": "linear attention",
    "gated_delta": "gated delta net",
    "ssd": "state space",
}
LOOK_OF = {
    "identity": "attention",
    "low_rank": "linear_attention",
    "extractor": "extractor",
    **{"linear": "linear_attention", "gated_delta": "gated_delta", "ssd": "ssd"},
}
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
STAGES = {1: "matrix", 2: "match", 3: "tune"}  # of a stand-in's learning, in this order
KEPT = {  # layers that keep their attention: at which sites, and which share of them
    "cross 1/4": ("cross", 0.25),
    "cross 1/2": ("cross", 0.5),
    "all 1/2": ("all", 0.5),
}
OTHERWISE = {  # how stand-ins may learn unlike the first of them: word of a name, words
    ("stages", "3"): ("untaught", "tuned only"),
    ("stages", "2"): ("untuned", "taught only"),
    ("stages", "1-2-3"): ("matrix_first", "matrix first"),
    ("match", "weights"): ("weights", "taught the weights"),
    ("match", "matrix"): ("matrix", "taught the matrix"),
    ("match", "both"): ("outputs_and_weights", "taught outputs and weights"),
    ("inputs", "own"): ("own_inputs", "taught on its own inputs"),
    ("signal", "references"): ("references", "tuned by references alone"),
    ("signal", "teacher"): ("teacher_alone", "tuned by the teacher alone"),
    ("tunes", "students"): ("students", "stand-ins tuned alone"),
    ("tunes", "corrections"): ("corrections", "low-rank corrections tuned"),
    ("tunes", "norms"): ("norms", "norms tuned alone"),
    ("keeps", "cross 1/4"): ("keep_quarter_of_cross", "a quarter of cross kept"),
    ("keeps", "cross 1/2"): ("keep_half_of_cross", "half of cross kept"),
    ("keeps", "all 1/2"): ("keep_half", "half of all kept"),
    ("begins", "scratch"): ("scratch", "from scratch"),
}


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
            ``nothing``, ``students`` or ``everything``; of stand-ins also ``corrections`` of low
            rank to the maps of values and the last projections, or ``norms``.
        is_quiet: Whether a replaced sublayer adds nothing at first: its last projection is zero.
        n_times: Steps of a run from scratch, as a multiple of the teacher's.
        lr_factor: Rate of a run from scratch, as a multiple of the teacher's.
        has_best_lr: Whether the students' rate is the best of ``LRS`` on held-out sentences.
        feature_map, window, window_scale: Of linear attention, as ``StudentSpec`` takes them.
        stages: Of ``STAGES``, those that a stand-in goes through, at equal total tokens: first to
            match the matrix of attention, then what ``match`` says, then to translate. Empty in
            the older study.
        match: What is matched: ``outputs``, ``weights``, ``matrix``, or ``both`` of the first two.
        inputs: What a stand-in reads meanwhile: the ``teacher``'s stream, or its ``own``, that
            the stand-ins below it make.
        signal: What a translation is tuned by: ``references``, the ``teacher``'s distribution, or
            ``both``.
        keeps: Of ``KEPT``, the share of attention that stays; empty: none.
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
    feature_map: str = ""
    window: int = 0
    window_scale: str = "own"
    stages: str = ""
    match: str = "outputs"
    inputs: str = "teacher"
    signal: str = "both"
    keeps: str = ""

    def __post_init__(self) -> None:
        """Refuse to train what has no weights, and to tune what is not to be tuned."""
        if self.method in CONTROLS and self.begins == "scratch":
            raise AttnlabError(
                f"{self.method!r} is a control: it has nothing to learn from scratch. Choose a "
                "net, or begins='distilled'."
            )
        if self.stages and ("3" in self.stages) != (self.tunes != "nothing"):
            raise AttnlabError(
                f"stages={self.stages!r} and tunes={self.tunes!r} disagree: stage 3 is the one "
                "in which something is tuned."
            )

    @property
    def parts(self) -> dict[str, StudentSpec | str]:
        """What stands at each site that is replaced: a student, or the name of a control."""
        sites = PLACES[self.site][0]
        if self.method in CONTROLS:
            return dict.fromkeys(sites, self.method)
        if self.method in STAND_INS:
            return {site: self._stand_in(site) for site in sites}
        own = {name: getattr(self, name) for name in _OF_STUDENTS if getattr(self, name)}
        beside = {"size": "m"} if self.site == "all" else own  # of the site that differs
        return {
            site: StudentSpec(site=site, **(own if site == "cross" else beside)) for site in sites
        }

    def _stand_in(self, site: str) -> StudentSpec:
        """Return the stand-in at a site: one with a table has linear attention beside it."""
        if self.method != "linear" and site != "cross":
            return StudentSpec(site=site, method=self.method)
        near = {"window": self.window, "window_scale": self.window_scale}
        near = near if site != "cross" else {}
        return StudentSpec(site=site, method="linear", feature_map=self.feature_map, **near)

    @property
    def stage_numbers(self) -> tuple[int, ...]:
        """The stages it goes through, as keys of ``STAGES``."""
        return tuple(int(number) for number in filter(None, self.stages.split("-")))

    @property
    def _otherwise(self) -> list[tuple[str, str]]:
        """What is unlike the first of the stand-ins in how it learns: words of name and text."""
        if self.method in CONTROLS:
            return [("tuned_all", WAYS["tuned_all"][0])]
        is_net = self.method not in STAND_INS
        found = [("in_turn", "taught, then everything tuned")] if is_net else []
        skipped = "stages" if self.begins == "scratch" else ""
        return found + [words for (name, value), words in OTHERWISE.items()
                        if name != skipped and getattr(self, name) == value]  # fmt: skip

    @property
    def learning(self) -> dict[str, Any]:
        """How it learns, as plain JSON; only what is not the default."""
        columns = {name: getattr(self, name) for name in _OF_LEARNING}
        return {name: v for name, v in columns.items() if v != getattr(Arm, name)}

    @property
    def way(self) -> str:
        """The word for how it learns."""
        if self.stages:
            return "/".join(word for word, _ in self._otherwise)
        return next(word for word, (_, columns) in WAYS.items() if columns == self.learning)

    @property
    def kind(self) -> str:
        """The word for what stands there."""
        return self.layout or self.method

    @property
    def extra(self) -> str:
        """The word for what a net has besides."""
        skip = {"none": "", "identity": "skip", "linear": "linear_skip"}[self.skip]
        if self.method == "linear":
            features = self.feature_map * (self.feature_map != FEATURES)
            near = f"window_{self.window}" if self.window else "no_window"
            near *= self.site != "cross" and self.window != WINDOW and not features
            scale = "shared_scale" * (self.window_scale == "shared")
            return "/".join(filter(None, (features, near, scale)))
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
        if self.stages:
            return ", ".join(filter(None, (self._what, *(words for _, words in self._otherwise))))
        kind = " ".join([KINDS.get(self.kind, self.kind.upper()), self.size.upper()]).rstrip()
        kind += " (softmax features)" * (self.layout == "low_rank")
        parts = (f"{PLACES[self.site][1]}: {kind}", self.extra.replace("_", " "), WAYS[self.way][0])
        return ", ".join(filter(None, parts))

    @property
    def _what(self) -> str:
        """What stands where: ``all sites: linear attention (hedgehog, window 4)``."""
        kind = " ".join([KINDS.get(self.kind, self.kind.upper()), self.size.upper()]).rstrip()
        if self.method != "linear":
            extra = self.extra.replace("_", " ")
            return f"{PLACES[self.site][1]}: {kind}" + (f", {extra}" if extra else "")
        near = f", window {self.window}" if self.window and self.site != "cross" else ""
        near += " on the scale of features" * (self.window_scale == "shared")
        return f"{PLACES[self.site][1]}: {kind} ({self.feature_map}{near})"

    @property
    def look(self) -> str:
        """The look of what stands there: attention, a control, a net, or another mixer."""
        usual = "table" if self.method in CONTROLS else "feedforward"
        return LOOK_OF.get(self.kind, usual) if self.site else "attention"

    @property
    def has_cross_softmax(self) -> bool:
        """Whether the decoder still looks at the source through a softmax."""
        is_replaced = "cross" in PLACES[self.site][0] and self.method != "identity"
        return self.learned_head or not is_replaced or bool(self.keeps)

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


def _arms_of_today() -> dict[str, Arm]:
    """Return the rows of the later study by name; an early stop leaves whole comparisons."""
    taught = partial(Arm, stages="2-3", tunes="everything")
    first = taught(site="all", method="linear", feature_map=FEATURES, window=WINDOW)
    a_site = partial(replace, first)
    a_net = partial(taught, site="cross", layout="per_query", size="l")
    rows = (
        Arm(),
        # controls, and what stands there
        first,
        taught(site="all", method="identity", stages="3"),
        replace(first, window=0),
        *(Arm(site="all", method=control) for control in ("mean", "uniform")),
        taught(site="all", method="uniform", stages="3"),
        replace(first, window=8),
        replace(first, window=16),
        replace(first, window_scale="shared"),
        *(replace(first, window=0, feature_map=name) for name in ("elu", "relu", "softmax")),
        *(replace(first, window=0, method=name) for name in ("gated_delta", "ssd")),
        # one ingredient less, or another
        replace(first, stages="3"),
        replace(first, stages="2", tunes="nothing"),
        replace(first, stages="1-2-3"),
        *(replace(first, signal=signal) for signal in ("references", "teacher")),
        *(replace(first, tunes=part) for part in ("corrections", "norms", "students")),
        *(replace(first, match=what) for what in ("weights", "matrix", "both")),
        replace(first, inputs="own"),
        replace(first, stages="3", tunes="corrections"),
        # each site alone, and nets
        *(a_site(site=site) for site in (*SITES, "self")),
        *(taught(site=site, size="m") for site in SITES[:2]),
        a_net(),
        a_net(site="all"),
        *(a_net(depth=depth) for depth in (2, 3)),
        a_net(gate=True),
        a_net(size="xl"),
        # some attention stays
        *(replace(first, keeps=share) for share in KEPT),
        # without a teacher; as long as one learns
        replace(first, begins="scratch", stages="3"),
    )
    return {arm.name: arm for arm in rows}


ARMS_OF_TODAY = _arms_of_today()


BASELINES = {  # rows that need no training, see ``attnlab.tasks.trivial``: words
    "baseline/lead": "the first words of the source",
    "baseline/copy": "the source as it stands",
    "baseline/frequent": "the commonest target",
    "baseline/nearest": "the target of the nearest source",
}


def get_arm(name: str) -> Arm:
    """Return an arm of either study by name."""
    known = {**ARMS_OF_TODAY, **ARMS}
    if name not in known:
        step = "See them with: attnlab study list."
        raise UnknownNameError("arm of the study", name, known, next_step=step)
    return known[name]


def arm_words(variant: str) -> str:
    """Return an arm's name in words: ``self/alr/m/tuned`` is ``both self sites: ALR M, tuned``."""
    return BASELINES.get(variant) or get_arm(variant).words


def arm_columns(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs with the columns of their arms beside them.

    Args:
        runs: Rows with ``variant``, such as ``load_runs`` returns.

    Returns:
        What ``Arm`` takes, and ``kind``, ``extra``, ``way``, ``words``, ``look`` and
        ``has_cross_softmax``. What needs no training stands at no site, as the teacher does; its
        ``kind`` is the trivial answer.
    """
    rows = [_columns_of(variant) for variant in runs["variant"]]
    table = pd.DataFrame(rows, index=runs.index, columns=list(Arm().columns))
    return runs.assign(**dict(table.items()))


def _columns_of(variant: str) -> dict[str, Any]:
    if variant not in BASELINES:
        return get_arm(variant).columns
    kind = variant.partition("/")[2]
    own = {"method": kind, "kind": kind, "words": arm_words(variant), "look": "table"}
    return Arm().columns | own | {"has_cross_softmax": False}
