"""Pictures of chapter 00: attention taken out, two ways to gather the past, units of loss."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
from matplotlib.patches import FancyArrowPatch

from attnlab.analysis.compare import latest_runs
from attnlab.records import load_runs
from attnlab.show import LOOKS, new_axes, picture, ranged

NATS_PER_BIT = float(np.log(2.0))
MOST_NATS = 4.0
UNITS_DIALS = {
    "loss_nats": ("Loss (nats per token)", 1.0, 0.0, MOST_NATS, 0.05, "Mean surprise per token")
}
PLACES = {"encoder_self": "The source reads itself", "decoder_self": "The translation reads itself",
          "cross": "The translation reads the source"}  # fmt: skip
PUT_IN = {"zero": "Nothing", "mean": "A constant", "uniform": "The average", "net": "A taught net"}
NETS = {"encoder_self": "alr/m", "decoder_self": "alr/m", "cross": "per_query/l"}
TAKEN_OUT_DIALS = {
    "place": ("Look-up taken out", {words: name for name, words in PLACES.items()},
              "Which of the three places of attention is replaced, in all layers"),
    "put_in": ("Put in its place", {words: name for name, words in PUT_IN.items()},
               "What stands there now"),
}  # fmt: skip
SENTENCE = ["Mia", "lost", "a", "hat", "so", "then", "she"]
GATHERED = {  # share of each earlier word in what the last one gathers; made by hand
    "attention": ("by what a word says", (0.55, 0.12, 0.02, 0.25, 0.02, 0.04)),
    "extractor": ("by how far back it stands", (0.03, 0.05, 0.08, 0.14, 0.25, 0.45)),
}


@cache
def _bleus() -> pd.Series:
    """Return the scores of the study on toy languages, one a seed, by what was put where."""
    columns = ["variant", "seed", "bleu"]
    runs = latest_runs(load_runs("attentionless/classroom/toy", columns=columns))
    return runs.set_index("variant")["bleu"]


@picture
def taken_out(*, place: str, put_in: str):
    """What a translator without one of its look-ups still scores, beside the whole one."""
    ax, scores = new_axes(size=(6.8, 1.7)), _bleus()
    left = scores.loc[[f"{place}/{NETS[place] if put_in == 'net' else put_in}"]]
    family = "feedforward" if put_in == "net" else "table"
    bars = {PUT_IN[put_in]: (left, family), "Attention": (scores.loc[["teacher"]], "attention")}
    for height, (label, (its, family)) in enumerate(bars.items()):
        ax.barh(height, its.mean(), 0.6, color=LOOKS[family].colour)
        ax.plot([its.min(), its.max()], [height, height], color="black", lw=1.2)
        ax.text(its.max() + 1.5, height, f"{its.mean():.0f}", va="center", weight="bold")
        ax.text(-1, height, label, ha="right", va="center")
    ax.set(xlim=(0, 108), yticks=[], xlabel="Score of its translations (BLEU, 0 to 100)")
    return ax, (
        f"{PLACES[place]}: with attention the translator scores "
        f"{scores.loc[['teacher']].mean():.1f}, with {PUT_IN[put_in].lower()} in its place "
        f"{ranged(left)} ({len(left)} seeds; the line is their range). A toy language, from "
        "records."
    )


@picture
def two_mixers():
    """How the last word of a sentence gathers the earlier ones: by content or by distance."""
    last = len(SENTENCE) - 1
    for ax, (family, (how, shares)) in zip(
        panels := new_axes(size=(6.8, 1.9), columns=2), GATHERED.items(), strict=True
    ):
        look = LOOKS[family]
        for place, share in enumerate(shares):
            ax.add_patch(FancyArrowPatch(
                (place, 0.3), (last, 0.3), connectionstyle="arc3,rad=-0.45", arrowstyle="-",
                lw=0.4 + 12 * share, color=look.colour, alpha=0.75, capstyle="butt",
            ))  # fmt: skip
        for place, word in enumerate(SENTENCE):
            ax.text(place, 0, word, ha="center", va="center",
                    weight="bold" if place == last else "normal")  # fmt: skip
        ax.set(xlim=(-0.6, last + 0.6), ylim=(-0.4, 1.55), xlabel=f"{look.label}: {how}")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return panels[0], (
        f"What '{SENTENCE[-1]}' takes from each earlier word; the wider the line, the more. "
        "Attention decides by what the words say: most from the name. An Extractor decides by how "
        "far back they stand, whatever they say. A sketch, drawn by hand, not measured."
    )


@picture
def loss_units(loss_nats: float):
    """Perplexity against loss in nats and in bits, with one loss marked."""
    ax, losses, perplexity = new_axes(), np.linspace(0, MOST_NATS, 200), np.exp(loss_nats)
    ax.plot(losses, np.exp(losses), color=LOOKS["table"].colour)
    ax.plot([loss_nats, loss_nats, 0], [0, perplexity, perplexity], color="black", linestyle=":")
    ax.plot([loss_nats], [perplexity], "ko")
    ax.set(xlabel="Loss (nats per token)", ylabel="Perplexity (equal choices)",
           xlim=(0, MOST_NATS), ylim=(0, np.exp(MOST_NATS)))  # fmt: skip
    bits = (lambda nats: nats / NATS_PER_BIT), (lambda bits: bits * NATS_PER_BIT)
    ax.secondary_xaxis("top", functions=bits).set_xlabel("Loss (bits per token)")
    return ax, (
        f"{loss_nats:.3f} nats per token are {loss_nats / NATS_PER_BIT:.3f} bits per token and a "
        f"perplexity of {perplexity:.2f}: as hard as that many equal choices."
    )
