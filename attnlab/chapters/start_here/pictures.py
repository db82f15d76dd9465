"""Pictures of chapter 00: two ways to gather the past, and one loss in three units."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import FancyArrowPatch

from attnlab.show import LOOKS, new_axes, picture

NATS_PER_BIT = float(np.log(2.0))
MOST_NATS = 4.0
UNITS_DIALS = {
    "loss_nats": ("Loss (nats per token)", 1.0, 0.0, MOST_NATS, 0.05, "Mean surprise per token")
}
SENTENCE = ["Mia", "lost", "a", "hat", "so", "then", "she"]
GATHERED = {  # share of each earlier word in what the last one gathers; made by hand
    "attention": ("by what a word says", (0.55, 0.12, 0.02, 0.25, 0.02, 0.04)),
    "extractor": ("by how far back it stands", (0.03, 0.05, 0.08, 0.14, 0.25, 0.45)),
}


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
