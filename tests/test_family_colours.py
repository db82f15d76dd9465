"""A family's colour means the family: what is of none is drawn in other colours."""

import itertools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from eyes import DEFICIENCIES, contrast, lab
from matplotlib.colors import to_hex, to_rgb, to_rgba_array

from attnlab.chapters.critical_path import pictures as path
from attnlab.chapters.fast_extractors import pictures as fast
from attnlab.chapters.language_models import pictures as writing
from attnlab.chapters.markov_framing import pictures as markov
from attnlab.chapters.replacing_attention import pictures as replacing
from attnlab.chapters.translation_teacher import pictures as translation
from attnlab.show.style import FAMILIES, LOOKS, NO_FAMILY

STYLE = (Path(__file__).parents[1] / "attnlab" / "web" / "page.css").read_text("utf-8")
OWNED = {one.colour.lower() for name, one in FAMILIES.items() if name not in ("table", "oracle")}
SQUARE = np.tril(np.full((3, 3), 0.2)) + 0.1
SCORES = pd.DataFrame({"label": ["a", "b"], "accuracy": [0.5, 0.9], "bleu": [10.0, 80.0]})
PARTS = pd.DataFrame({"predictor": ["true"], "entropy_nats": [0.9], "kl_nats": [0.1]})
OF_NO_FAMILY = {
    "sums": lambda: path.sums(5),
    "butterflies": lambda: fast.butterflies([1, 2, 3, 4]),
    "wrap": lambda: fast.wrap(length=8, n_lags=3),
    "alignment": lambda: translation.alignment(list("abc"), list("abc"), places=[2, 0, 0]),
    "frames": lambda: translation.cross_attention(
        SQUARE, source=list("abc"), target=list("abc"), places=[0, 1]),
    "scores": lambda: replacing.scores(SCORES),
    "parts of a loss": lambda: markov.loss_parts(PARTS),
    "own chain": lambda: markov.own_chain(rows="0.5 0.5\n0.1 0.9"),
    "keys": lambda: writing.key_map(SQUARE, states=list("abc")),
    "chances": lambda: writing.token_chances({"as it is": [0.5, 0.5]}, tokens=list("ab")),
}  # fmt: skip


def colours(fig):
    """Return the colours of all lines, markers and patches of a figure."""
    found = set()
    for name in ("color", "edgecolor", "facecolor", "markeredgecolor", "markerfacecolor"):
        for artist in fig.findobj(lambda one, name=name: hasattr(one, f"get_{name}")):
            values = getattr(artist, f"get_{name}")()
            if values is not None and len(values):
                found |= {to_hex(colour) for colour in to_rgba_array(values)}
    return found


@pytest.mark.parametrize("draw", OF_NO_FAMILY.values(), ids=OF_NO_FAMILY)
def test_a_picture_without_models_uses_no_colour_of_a_family(draw):
    assert not colours(draw().fig) & OWNED


def test_a_familys_colour_is_seen_and_no_two_families_share_one():
    lines = replacing.scores(SCORES, teacher_bleu=90.0)
    assert colours(lines.fig) & OWNED == {LOOKS["attention"].colour.lower()}
    assert len(OWNED) == len(FAMILIES) - 2
    assert not OWNED & {colour.lower() for colour in NO_FAMILY}


OF_MIXERS = ("attention", "extractor", "convolution", "recurrence")  # side by side in a page


def theme(name):
    """Return the colours of the pages that compute, by name, in the light or the dark theme."""
    root = re.search(r":root \{(.*?)\}", STYLE)[1]
    pairs = re.findall(r"--(\w+): light-dark\((.+?), (.+?)\)", root)
    own = {word: light if name == "light" else dark for word, light, dark in pairs}
    (lift,) = re.findall(r"light-dark\(var\(--own\), color-mix\(.*?white (\d+%)\)\)", STYLE)
    return own | {"lift": "0%" if name == "light" else lift}


def shade(family, own):
    """Return what CSS makes of a family's colour: mixed with white, by the theme's lift."""
    lift = float(own["lift"].rstrip("%")) / 100
    return tuple((1 - lift) * part + lift for part in to_rgb(FAMILIES[family].colour))


@pytest.mark.parametrize("name", ["light", "dark"])
def test_the_pages_that_compute_can_be_read_in_both_themes(name):
    own = theme(name)
    for ground in (own["paper"], own["soft"]):
        assert contrast(own["ink"], ground) >= 7
        assert contrast(own["bad"], ground) >= 4.5
        assert contrast(own["blue"], ground) >= 3
    assert contrast(own["line"], own["paper"]) >= 3  # edges of controls
    shades = [shade(family, own) for family in OF_MIXERS]
    assert min(contrast(one, own["paper"]) for one in shades) >= 3
    for eye in DEFICIENCIES:
        seen = [lab(one, deficiency=eye) for one in shades]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 12, eye
