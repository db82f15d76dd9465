"""Which method to take: the one that measured fastest at the nearest sizes."""

import math
from functools import lru_cache

from attnlab.mixers.convolution.measured import FASTEST

USES = ("forward", "training", "frozen")


@lru_cache(maxsize=1024)  # a stream asks at every call
def choose(ndim: int, *, batch: int, time: int, n_lags: int, d_model: int, use: str) -> str:
    """Return the fastest method at the nearest measured sizes, nearest on log scales.

    Of two that are equally near, the one with the larger batch counts.

    The table is measured with as many lags as tokens. A long sequence under a short kernel
    counts as that many more sequences of the kernel's length.

    Args:
        ndim: Axes of the lag weights: 3, 2 or 1.
        use: ``forward`` alone, ``training`` with backward, ``frozen`` with kept weights.
    """
    batch *= max(1, time // n_lags)
    here = _place(batch, min(time, n_lags), d_model)
    rows = FASTEST[ndim, use]
    return min(rows, key=lambda row: (math.dist(here, _place(*row[:3])), -row[0]))[3]


def _place(*sizes: int) -> tuple[float, ...]:
    return tuple(math.log2(size) for size in sizes)
