"""Explorers for the Extractor: growth with length, members of the family, lag kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from attnlab.plots.extractor import (
    describe_growth,
    describe_lag_kernel_view,
    draw_lag_kernel_view,
    plot_growth,
)
from attnlab.plots.extractor_diagrams import EXTRACTIONS, FINISHES, describe_member, draw_member
from attnlab.seeding import numpy_generator
from attnlab.show.style import look, style
from attnlab.widgets.core import Explorer, choice, show_explorer, show_still, slider

LONGEST = 48  # tokens of a prefix in the growth explorer
WIDTH = 16
N_SEQUENCES = 32
GROWTH_STILLS = (
    {"weights": "own", "shared": 0.0, "scale": "none"},
    {"weights": "own", "shared": 0.0, "scale": "1/√t"},
    {"weights": "same", "shared": 0.5, "scale": "1/√t"},
)
SCALES = {"none": 0.0, "1/√t": -0.5, "1/t": -1.0}  # exponent of t in the factor


def show_growth_explorer() -> Explorer | None:
    """Show how the size of ``e_t`` answers to shared inputs, shared weights and the factor.

    Only the live panel names the factor that would keep the size: the stills leave it to the
    reader, who has been asked.
    """
    controls = {
        "weights": choice(
            "Matrices",
            options={"one per lag": "own", "one for all lags": "same"},
            tooltip="Whether each lag has a random matrix of its own",
        ),
        "shared": slider(
            "Shared part of the inputs",
            value=0.0,
            minimum=0.0,
            maximum=1.0,
            step=0.1,
            tooltip="0: the tokens are independent; 1: all tokens are equal",
        ),
        "scale": choice("Factor", options=list(SCALES), tooltip="What multiplies the sum"),
    }
    for setting in GROWTH_STILLS:
        with style():
            show_still(draw_growth(**setting), describe_growth_setting(**setting))
    return show_explorer(draw_growth, controls, presets=(), describe=describe_growth_answer)


def draw_growth(*, weights: str, shared: float, scale: str) -> Figure:
    """Draw measured and expected size of ``e_t`` for one setting."""
    return plot_growth(_sizes(weights, shared, scale)).figure


def describe_growth_setting(*, weights: str, shared: float, scale: str) -> str:
    """Say how the size grows."""
    own = "A matrix per lag" if weights == "own" else "One matrix for all lags"
    grown = describe_growth(_sizes(weights, shared, scale))
    return f"{own}, shared part {shared:.1f}, factor {scale}. {grown}"


def describe_growth_answer(*, weights: str, shared: float, scale: str) -> str:
    """Say how the size grows, and the factor that would keep it."""
    needed = needed_factor(weights=weights, shared=shared)
    words = describe_growth_setting(weights=weights, shared=shared, scale=scale)
    return f"{words} In the long run {needed} would keep the size."


def needed_factor(*, weights: str, shared: float) -> str:
    """Return the factor under which the size of ``e_t`` settles, as a key of ``SCALES``."""
    half, whole = expected_growth([LONGEST / 2, LONGEST], weights=weights, shared=shared)
    exponent = np.log2(whole / half)  # of t, where the prefix is long
    return "1/t" if exponent > 0.75 else "1/√t"


def expected_growth(t: ArrayLike, *, weights: str, shared: float) -> NDArray[np.float64]:
    r"""Return the expected root mean square of ``e_t``, inputs and terms of size 1.

    .. math:: \sqrt{t} \text{ with a matrix per lag},\qquad
              \sqrt{(1 - \rho)\, t + \rho\, t^2} \text{ with one matrix for all}

    Args:
        t: Lengths of the prefix.
        weights: ``own`` or ``same``.
        shared: rho, the part of each input's variance that all tokens share, 0 to 1.
    """
    t = np.asarray(t, dtype=float)
    return np.sqrt(t if weights == "own" else (1 - shared) * t + shared * t**2)


def measured_growth(*, weights: str, shared: float, seed: int = 0) -> NDArray[np.float64]:
    """Return the root mean square of ``e_t`` over random inputs and weights: ``(LONGEST,)``."""
    inputs, lag_weight = _numbers(seed)
    own, common = inputs[:, 1:], inputs[:, :1]
    x = np.sqrt(1 - shared) * own + np.sqrt(shared) * common  # (N, T, D)
    if weights == "same":
        terms = np.cumsum(x @ lag_weight[0], axis=1)
        return np.sqrt((terms**2).mean(axis=(0, 2)))
    sizes = []
    flat = lag_weight.reshape(-1, WIDTH)  # (T D, D): lag 0 first
    for t in range(1, LONGEST + 1):
        newest_first = x[:, :t][:, ::-1].reshape(N_SEQUENCES, -1)
        sizes.append(np.sqrt(((newest_first @ flat[: t * WIDTH]) ** 2).mean()))
    return np.array(sizes)


def show_family_explorer() -> Explorer | None:
    """Show what each part of an Extractor does to the data flow and to the count of weights."""
    controls = {
        "extract": choice(
            "Extraction",
            options={label: key for key, label in EXTRACTIONS.items()},
            tooltip="How the past is summed",
        ),
        "finish": choice(
            "Then",
            options={label: key for key, label in FINISHES.items()},
            tooltip="Adjustment and output map",
        ),
        "context_len": slider(
            "Context ℓ (tokens)", value=16, minimum=1, maximum=128, tooltip="Longest prefix"
        ),
        "d_model": slider(
            "Width d (channels)", value=64, minimum=8, maximum=256, step=8, tooltip="Of a token"
        ),
    }
    presets = [
        {},
        {"extract": "value_diag"},
        {"extract": "diag", "finish": "matrix"},
        {"extract": "diag", "finish": "diag"},
    ]
    return show_explorer(draw_member, controls, presets=presets, describe=describe_member)


def show_lag_kernel_viewer(
    kernels: Mapping[str, Sequence[ArrayLike]], *, presets: Sequence[Mapping[str, object]]
) -> Explorer | None:
    """Show learned weights by lag: all channels of a layer, and one channel by itself.

    Args:
        kernels: ``lag_weight`` of every layer as arrays, by mixer name.
        presets: Still pictures, for example ``[{"mixer": "she"}, {"mixer": "we", "channel": 3}]``.
    """
    n_layers = max(len(layers) for layers in kernels.values())
    n_channels = min(np.shape(layers[0])[-1] for layers in kernels.values())
    controls = {
        "mixer": choice("Mixer", options={look(name).label: name for name in kernels}),
        "layer": slider("Layer", value=1, minimum=1, maximum=n_layers, tooltip="1 reads the input"),
        "channel": slider(
            "Output channel", value=1, minimum=1, maximum=n_channels, tooltip="Of the extraction"
        ),
    }

    def draw(*, mixer: str, layer: int, channel: int) -> Figure:
        return draw_lag_kernel_view(kernels, mixer=mixer, layer=layer, channel=channel)

    def describe(*, mixer: str, layer: int, channel: int) -> str:
        return describe_lag_kernel_view(kernels, mixer=mixer, layer=layer, channel=channel)

    return show_explorer(draw, controls, presets=presets, describe=describe)


@lru_cache(maxsize=64)
def _raw_size(weights: str, shared: float) -> NDArray[np.float64]:
    return measured_growth(weights=weights, shared=shared)


def _sizes(weights: str, shared: float, scale: str) -> dict[str, NDArray[np.float64]]:
    t = np.arange(1, LONGEST + 1)
    factor = t ** SCALES[scale]
    return {
        "measured": factor * _raw_size(weights, shared),
        "closed form": factor * expected_growth(t, weights=weights, shared=shared),
    }


@lru_cache(maxsize=2)
def _numbers(seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return inputs ``(N, 1 + LONGEST, D)``, the shared part first, and a matrix per lag."""
    random = numpy_generator(seed, "growth")
    inputs = random.normal(size=(N_SEQUENCES, 1 + LONGEST, WIDTH))
    return inputs, random.normal(size=(LONGEST, WIDTH, WIDTH)) * WIDTH**-0.5
