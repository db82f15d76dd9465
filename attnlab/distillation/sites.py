"""Where attention is replaced, what each method replaces there, and how large its nets are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from torch import nn

from attnlab.config import is_number
from attnlab.errors import AttnlabError, UnknownNameError, shorten
from attnlab.models import Translator

SITES = ("encoder_self", "decoder_self", "cross")
METHODS = ("alr", "aslr", "alrr", "elr")  # Attention Layer Replacement; with Separate heads; with
# Residual; Encoder Layer Replacement
STAND_INS = ("linear", "ssd", "gated_delta")  # begin as copies of the teacher's own maps
SIZES = ("xs", "s", "m", "l", "xl")
LAYOUTS = ("paper", "truncated", "prefix", "per_query", "low_rank", "extractor")
SKIPS = ("none", "identity", "linear")
FEATURES = ("hedgehog", "elu", "relu", "softmax")
SCALES = ("own", "shared")  # of what is near

Key = tuple[str, int]  # a site and a layer

REPLACES = {
    "alr": "queries, keys, values and the softmax of all heads, by one net",
    "aslr": "queries, keys, values and the softmax, by one net a head",
    "alrr": "the sublayer: norm, attention with its last projection, and the residual sum",
    "elr": "the whole encoder layer, channel mixer included",
}
KEEPS = {
    "alr": "the norm before, the last projection and the residual sum after",
    "aslr": "the norm before, the last projection and the residual sum after",
    "alrr": "the channel mixer with its norm and residual sum",
    "elr": "nothing of the layer",
}
METHODS_AT = {
    "encoder_self": (*METHODS, *STAND_INS),
    "decoder_self": ("alr", *STAND_INS),
    "cross": ("alr", "linear"),
}

# Hidden width over max_len * d_model. A head of ASLR has nets of its own; cross nets read twice.
ONE_NET = dict(zip(SIZES, map(Fraction, ("1/256", "1/128", "1/8", "1/2", "2")), strict=True))
A_HEAD = dict(zip(SIZES, map(Fraction, ("1/32", "1/16", "1/8", "1/4", "1/4")), strict=True))
COUNT = dict(zip(SIZES, (1, 2, 4, 8, 16), strict=True))  # of extractions; features: 4 times it


@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """What a student replaces and how it is built, without the sizes of its teacher.

    Args:
        site: ``encoder_self``, ``decoder_self`` or ``cross``.
        method: ``alr``, ``aslr``, ``alrr`` or ``elr``; away from the encoder ``alr`` only. Or a
            stand-in that begins as a copy of the teacher's maps: ``linear`` attention at any
            site, ``ssd`` and ``gated_delta`` where a sentence reads itself.
        size: ``xs``, ``s``, ``m``, ``l`` or ``xl``.
        layout: What a cross net reads, see ``attnlab.distillation.cross``.
        depth: Hidden layers of a net.
        width: Hidden units; None: by ``size``.
        gate: Whether the query multiplies the hidden units (``per_query``).
        learned_head: Whether one head of true attention is added (``per_query``).
        skip: ``alrr`` and ``elr``: ``identity`` adds the input to the output, ``linear`` a
            learnt linear map of it, the same at every position.
        feature_map: Of ``linear``: ``hedgehog``, ``elu``, ``relu`` or ``softmax``, see
            ``attnlab.distillation.stand_ins``.
        window: Of ``linear`` where a sentence reads itself: how many positions the softmax stays
            exact for; the newest in the decoder, those nearer than this in the encoder. 0: none.
        window_scale: ``own``: the best of the near positions always has the same weight, as
            published; ``shared``: near and far ones are weighed on one scale.

    Raises:
        AttnlabError: A choice that does not exist or does not apply.
    """

    site: str = "encoder_self"
    method: str = "alr"
    size: str = "m"
    layout: str = "paper"
    depth: int = 1
    width: int | None = None
    gate: bool = False
    learned_head: bool = False
    skip: str = "none"
    feature_map: str = "hedgehog"
    window: int = 0
    window_scale: str = "own"

    def __post_init__(self) -> None:
        """Refuse what does not exist, and name what does."""
        for name in ("method", "size"):  # may be written in capitals
            object.__setattr__(self, name, str(getattr(self, name)).lower())
        for name, known in _CHOICES.items():
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in known:
                raise UnknownNameError(
                    f"{name} of a student", getattr(self, name), known, next_step=_NEXT_STEP
                )
        for name in ("gate", "learned_head"):
            if not isinstance(getattr(self, name), bool):
                raise AttnlabError(f"{name}={shorten(getattr(self, name))} must be true or false.")
        self._check_place()
        for name, least in (("depth", 1), ("width", 1), ("window", 0)):
            value = getattr(self, name)
            if value is not None and not (is_number(value, int) and value >= least):
                said = f"{name}={shorten(value)} must be a whole number, {least} or more."
                raise AttnlabError(said)
        for name, does_apply in self._applies().items():
            if getattr(self, name) != getattr(type(self), name) and not does_apply:
                raise AttnlabError(
                    f"{name}={getattr(self, name)!r} does not apply to {self.label}. Leave it out."
                )

    def _check_place(self) -> None:
        if self.method in METHODS_AT[self.site]:
            return
        if self.is_stand_in:
            raise AttnlabError(
                f"{self.method} reads a sentence in its own order, so it cannot stand at "
                f"{self.site}, where one sentence reads another. Use method='linear' there."
            )
        raise AttnlabError(
            f"{self.method.upper()} replaces more than the look-up and exists for "
            f"encoder_self only, not for {self.site}. Use method='alr' there."
        )

    def _applies(self) -> dict[str, bool]:
        is_net, is_cross = not self.is_stand_in, self.site == "cross"
        is_per_query = is_net and is_cross and self.layout == "per_query"
        is_linear = self.method == "linear"
        return {
            "size": is_net,
            "width": is_net,
            "layout": is_net and is_cross,
            "depth": is_net and (not is_cross or self.layout not in ("low_rank", "extractor")),
            "gate": is_per_query,
            "learned_head": is_per_query,
            "skip": not self.replaces_heads,
            "feature_map": is_linear,
            "window": is_linear and not is_cross,
            "window_scale": is_linear and self.window > 0,
        }

    @property
    def is_stand_in(self) -> bool:
        """Whether it begins with the teacher's own queries, keys and values."""
        return self.method in STAND_INS

    @property
    def replaces_heads(self) -> bool:
        """Whether the student stands for the look-up alone, and the last projection stays."""
        return self.method in ("alr", "aslr", *STAND_INS)

    @property
    def label(self) -> str:
        """A short name, the same for the same choices."""
        parts = [self.site, self.method]
        if self.is_stand_in:
            parts += [self.feature_map] if self.method == "linear" else []
            parts += [f"window{self.window}"] if self.window else []
            return "-".join([*parts, *(["shared"] if self.window_scale != "own" else [])])
        parts += [self.layout] if self.site == "cross" else []
        parts += [self.size if self.width is None else f"width{self.width}"]
        parts += [f"depth{self.depth}"] if self.depth > 1 else []
        parts += [name for name in ("gate", "learned_head") if getattr(self, name)]
        parts += [f"{self.skip}_skip"] if self.skip != "none" else []
        return "-".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, the arguments it is built with; the last three where used."""
        names = ("feature_map", "window", "window_scale")
        usual = {name: getattr(type(self), name) for name in names}
        return {n: v for n, v in asdict(self).items() if n not in usual or v != usual[n]}


_CHOICES = {
    "site": SITES, "method": (*METHODS, *STAND_INS), "size": SIZES, "layout": LAYOUTS,
    "skip": SKIPS, "feature_map": FEATURES, "window_scale": SCALES,
}  # fmt: skip
_NEXT_STEP = "See attnlab.distillation.StudentSpec for what each means."


def student_width(spec: StudentSpec, *, max_len: int, d_model: int) -> int:
    """Return the number of hidden units of a student's net.

    Never one by size: a norm over a single unit is always zero.

    With W = ``max_len * d_model``: W/256, W/128, W/8, W/2, 2W for XS to XL; a head of ASLR has
    W/32, W/16, W/8, W/4, W/4; a cross net that reads the target too has twice the first row.
    ``extractor`` counts pairs of extraction and adjustment, 1, 2, 4, 8, 16; ``low_rank`` features
    a head, four times as many. A stand-in's queries are as wide as the teacher's, ``d_model``.

    Source:
        arXiv:2311.10642, by its released code: widths at ``max_len`` 50 and ``d_model`` 128.
    """
    if spec.is_stand_in:
        return d_model
    if spec.width is not None:
        return spec.width
    if spec.site == "cross" and spec.layout in ("low_rank", "extractor"):
        return COUNT[spec.size] * (4 if spec.layout == "low_rank" else 1)
    share = (A_HEAD if spec.method == "aslr" else ONE_NET)[spec.size]
    reads_all = spec.site == "cross" and spec.layout != "per_query"
    return max(2, int(share * max_len * d_model)) * (2 if reads_all else 1)


def layers_of(model: Translator, *, site: str) -> nn.ModuleList:
    """Return the layers that hold a site.

    Raises:
        UnknownNameError: No site is called that.
    """
    if site not in SITES:
        raise UnknownNameError("site", site, SITES, next_step="A key is a site or (site, layer).")
    return model.encoder if site == "encoder_self" else model.decoder


def chosen_layers(
    model: Translator, *, site: str, layers: Iterable[int] | None = None
) -> tuple[int, ...]:
    """Return the layers meant, counted from 0; None means all.

    Raises:
        AttnlabError: The model has no such layer.
    """
    n_layers = len(layers_of(model, site=site))
    chosen = tuple(range(n_layers) if layers is None else layers)
    for layer in chosen:
        if not is_number(layer, int) or not 0 <= layer < n_layers:
            raise AttnlabError(
                f"There is no layer {shorten(layer)} at {site}; this model has layers 0 to "
                f"{n_layers - 1}."
            )
    return chosen


def site_name(site: str) -> str:
    """Return what a layer calls a site."""
    return "cross_attention" if site == "cross" else "self_attention"


def find_site(model: Translator, *, site: str, layer: int) -> Any:
    """Return the module at a site of one layer, counted from 0.

    Raises:
        AttnlabError: There is no such layer, or all of it has been replaced.
    """
    chosen_layers(model, site=site, layers=[layer])
    found = getattr(layers_of(model, site=site)[layer], site_name(site), None)
    if found is None:
        raise AttnlabError(
            f"Layer {layer} has no {site}: the layer around it has been replaced. Undo that first."
        )
    return found
