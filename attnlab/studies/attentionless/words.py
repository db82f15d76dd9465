"""How sentences and tables name the arms of the study."""

from __future__ import annotations

from attnlab.studies.attentionless.arms import SCHOOLING

SITE_NAMES = {"encoder_self": "Encoder self", "decoder_self": "Decoder self", "cross": "Cross"}
CONTROL_NAMES = {
    "mean": "mean vector",
    "zero": "zero",
    "uniform": "uniform average",
    "gaussian": "Gaussian average",
    "random": "untrained net",
}
PLACES = {
    **{site: name.lower() for site, name in SITE_NAMES.items()},
    "self": "both self sites",
    "all": "all sites",
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
WHOLE = {  # attention everywhere
    "teacher": "teacher",
    "encoder_self/identity/tuned_all": "teacher, trained on as long as students are tuned",
}
HOW = {  # last word of an arm's name: how it learnt
    "tuned": "tuned",
    "tuned_all": "everything tuned",
    "undistilled": "new nets, tuned",
    "scratch": "from scratch",
    "scratch_quiet": "from scratch, quiet start",
    "scratch_long": "from scratch, twice as long",
    "scratch_slow": "from scratch, a quarter of the rate",
    "best_lr": "at its best rate",
}


def arm_words(variant: str) -> str:
    """Return an arm's name in words: ``self/alr/m/tuned`` is ``both self sites: ALR M, tuned``."""
    if variant in WHOLE:
        return WHOLE[variant]
    site, kind, *rest = variant.split("/")
    size = f" {rest.pop(0).upper()}" if rest and rest[0] not in SCHOOLING else ""
    name = f"{PLACES[site]}: {KINDS.get(kind, kind.upper())}{size}"
    return ", ".join([name, *(HOW.get(word, word.replace("_", " ")) for word in rest)])
