"""Linear attention: softmax gives way to features of one token, so a sum of tables is enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers.base import mixer
from attnlab.mixers.matrix_state import (
    PLAIN,
    TINY,
    Kernel,
    MatrixState,
    Reading,
    head_width,
    in_heads,
    linear,
    require_counts,
    side_by_side,
)


def taylor_features(z: Tensor) -> Tensor:
    r"""Return :math:`[1,\ z,\ \mathrm{vec}(z^\top z)/\sqrt 2]`, ``1 + w + w**2`` numbers."""
    squares = (z[..., :, None] * z[..., None, :]).flatten(-2) / math.sqrt(2)
    return torch.cat([torch.ones_like(z[..., :1]), z, squares], -1)


def _taylor_between(q: Tensor, k: Tensor) -> Tensor:
    """Return the inner products of Taylor features, ``1 + s + s**2 / 2``."""
    scores = q @ k.mT
    return 1 + scores + scores.square() / 2


FEATURE_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": lambda z: F.elu(z) + 1,
    "relu": F.relu,
    "softmax": lambda z: z.softmax(-1),
    "hedgehog": lambda z: torch.cat([z.softmax(-1), (-z).softmax(-1)], -1),  # of z times W
    "taylor": taylor_features,
    "identity": lambda z: z,
}
TAYLOR = Kernel(taylor_features, _taylor_between)


def shared_out(found: Tensor, share: Tensor) -> Tensor:
    """Divide by shares ``(..., 1)``; zeros stay where there is nothing to share out."""
    return found / share.clamp(min=TINY)


@mixer("linear_attention", look={"family": "attention", "label": "Linear attention", "marker": "h"})
class LinearAttention(MatrixState):
    r"""Look the past up through features of queries and keys, without comparing pairs.

    .. math:: y_t = \frac{\phi(q_t) S_t}{\phi(q_t) z_t^\top} W_O, \qquad
              S_t = S_{t-1} + \phi(k_t)^\top v_t, \qquad z_t = z_{t-1} + \phi(k_t)

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape.
    Weights:
        ``4 * d_model**2``; Hedgehog has ``2 * d_model * d_head`` more, Taylor narrower queries
        and keys.
    State:
        A head keeps ``features * (d_head + 1)`` numbers, z among them.
    Args:
        n_heads: Heads of width ``d_model / n_heads``.
        feature_map: ``elu``: elu(z) + 1. ``relu``: max(z, 0), as T2R has it once its map of
            features is multiplied into that of queries and keys; where all features are zero,
            nothing is found and y is zero. ``softmax``: of z. ``hedgehog``: softmax(z W) and
            softmax(-z W), W learned for queries and keys of each head, at first the unit matrix.
            ``taylor``: 1, z, and the products of z with itself over sqrt(2), so that
            phi(q) phi(k) = 1 + s + s**2 / 2 with s = q k / sqrt(width). ``identity``: z itself,
            without normaliser only.
        normalise: Whether rows of M sum to one. Without, y is divided by sqrt(d_head).
        feature_width: Width of queries and keys under ``taylor``, at most that of a head.
    Source:
        arXiv:2006.16236; features: arXiv:2103.13076 (relu), 2402.04347 (hedgehog), 2402.18668.
    """

    structure = "low rank"
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "n_heads": (1, 3),
        "feature_map": ("relu", "softmax", "hedgehog", "taylor"),
        "normalise": (False,),
    }
    expected_weights = staticmethod(lambda d, n, h: 4 * d**2)
    expected_multiplications = staticmethod(
        lambda d, T, P, h: T * (4 * d**2 + 2 * d * (d // h) + 2 * d)
    )
    expected_state = staticmethod(lambda d, n, h: d * (d // h + 1))

    def __init__(
        self,
        *,
        d_model: int,
        context_len: int,
        n_heads: int = 1,
        feature_map: str = "elu",
        normalise: bool = True,
        feature_width: int = 16,
    ) -> None:
        if feature_map not in FEATURE_MAPS:
            step = "identity has no normaliser; the others have one or none."
            raise UnknownNameError("feature map", feature_map, FEATURE_MAPS, next_step=step)
        if feature_map == "identity" and normalise:
            raise AttnlabError(
                "feature_map='identity' has shares of either sign, which sum to anything. "
                "Add normalise=False, or choose another map."
            )
        require_counts(feature_width=feature_width)
        d_head = head_width(d_model, n_heads)
        width = min(feature_width, d_head) if feature_map == "taylor" else d_head
        n_features = {"hedgehog": 2 * width, "taylor": 1 + width + width**2}
        sizes = {"d_key": n_features.get(feature_map, width), "d_value": d_head + normalise}
        super().__init__(d_model=d_model, context_len=context_len, n_heads=n_heads, **sizes)
        self.feature_map, self.normalise = feature_map, normalise
        self.kernel = TAYLOR if feature_map == "taylor" else PLAIN
        self.chunk = max(MatrixState.chunk, sizes["d_key"])
        self.query, self.key = (linear(d_model, n_heads * width) for _ in range(2))
        self.value, self.out = linear(d_model, d_model), linear(d_model, d_model)
        if feature_map == "hedgehog":
            unit = torch.eye(d_head).repeat(n_heads, 1, 1)  # (H, K, K)
            self.query_features, self.key_features = (nn.Parameter(unit.clone()) for _ in "qk")

    def definition(self, x: Tensor) -> Tensor:
        """Add a product of features and values to a table, one position at a time."""
        table, total, outputs = 0, 0, []
        for x_t in x.unbind(1):
            q, k, v = (
                one(x_t).unflatten(-1, (self.n_heads, -1))
                for one in (self.query, self.key, self.value)
            )  # (B, H, K)
            if self.feature_map == "hedgehog":
                q, k = (
                    (z[..., None] * w).sum(-2)
                    for z, w in ((q, self.query_features), (k, self.key_features))
                )
            if self.feature_map == "taylor":
                q, k = (z / q.shape[-1] ** 0.25 for z in (q, k))
            q, k = FEATURE_MAPS[self.feature_map](q), FEATURE_MAPS[self.feature_map](k)
            table, total = table + k[..., None] * v[..., None, :], total + k
            y = (q[..., None] * table).sum(-2)  # (B, H, V)
            if self.normalise:
                y = y / (q * total).sum(-1, keepdim=True).clamp(min=TINY)
            else:
                y = y / math.sqrt(v.shape[-1])
            outputs.append(self.out(y.flatten(1)))
        return torch.stack(outputs, 1)

    def read(self, x: Tensor, past: tuple[Tensor, ...] = ()) -> Reading:
        """Return features and values, beside which a one is summed for the shares."""
        q, k, v = (in_heads(one(x), self.n_heads) for one in (self.query, self.key, self.value))
        if self.feature_map == "hedgehog":
            q, k = q @ self.query_features, k @ self.key_features
        if self.feature_map == "taylor":  # the kernel makes the features where they are needed
            q, k = q / q.shape[-1] ** 0.25, k / k.shape[-1] ** 0.25
        else:
            q, k = FEATURE_MAPS[self.feature_map](q), FEATURE_MAPS[self.feature_map](k)
        if self.normalise:
            v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
        return Reading(q, k, v, kernel=self.kernel)

    def write(self, mixed: Tensor, reading: Reading) -> Tensor:
        """Divide by the sum of the shares and map the heads out."""
        if self.normalise:
            mixed = shared_out(mixed[..., :-1], mixed[..., -1:])
        return self._out(mixed)

    def _out(self, mixed: Tensor) -> Tensor:
        mixed = mixed if self.normalise else mixed / math.sqrt(mixed.shape[-1])
        return self.out(side_by_side(mixed))

    def mixing_matrix(self, x: Tensor) -> Tensor:
        """Return shares of the past, ``(batch, heads, time, time)``; rows sum to one."""
        seen = super().mixing_matrix(x)
        return shared_out(seen, seen.sum(-1, keepdim=True)) if self.normalise else seen

    def values(self, x: Tensor) -> Tensor:
        """Return the values of each head, ``(batch, heads, time, d_head)``."""
        return in_heads(self.value(x), self.n_heads)

    def finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Map the heads out."""
        return self._out(mixed)


@mixer("based", look={"family": "recurrence", "label": "Based", "marker": "p"})
class Based(LinearAttention):
    r"""See far through a Taylor expansion of the exponential, and near through a small window.

    .. math:: y_t = \frac{\sum_{s \le t} (1 + r_{ts} + r_{ts}^2/2)\, v_s}
                         {\sum_{s \le t} (1 + r_{ts} + r_{ts}^2/2)} W_O, \qquad
              r_{ts} = q_t k_s^\top / \sqrt{w}

    is this mixer, linear attention with ``feature_map="taylor"`` and queries and keys of width w,
    in layers 0, 2, 4 of a model; layers 1, 3, 5 have attention over the newest ``window`` tokens,
    exact where the expansion is coarse. The published model is the same hybrid but for layers of
    short gated convolutions among these two kinds, which are left out here, and its window of 64
    to 128 tokens is sized for contexts of thousands.

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape.
    Weights:
        ``2 * d_model**2 + 2 * d_model * h * w`` with w = min(``feature_width``, d_head).
    State:
        A head keeps ``(1 + w + w**2) * (d_head + 1)`` numbers.
    Args:
        n_heads: Heads of width ``d_model / n_heads``, in both kinds of layers.
        window: Tokens that the other layers see, the newest included.
        feature_width: Width w of queries and keys.
    Source:
        arXiv:2402.18668, section 4.
    """

    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"n_heads": (3,), "feature_width": (1, 2)}

    @staticmethod
    def _sizes(d: int, h: int) -> tuple[int, int, int]:
        width = min(16, d // h)
        return d // h, width, 1 + width + width**2

    @staticmethod
    def expected_weights(d: int, n: int, h: int) -> int:
        """Two maps to narrow queries and keys, two of full width."""
        return 2 * d**2 + 2 * d * h * Based._sizes(d, h)[1]

    @staticmethod
    def expected_multiplications(d: int, T: int, P: int, h: int) -> int:
        """Features of both, then the table twice and the shares once."""
        d_head, width, n_features = Based._sizes(d, h)
        table = 2 * n_features * d_head + n_features + d_head
        return T * (2 * d**2 + 2 * d * h * width + h * (2 * (width + 2 * width**2) + table))

    @staticmethod
    def expected_state(d: int, n: int, h: int) -> int:
        """A row of each table for every feature, its share included."""
        d_head, _, n_features = Based._sizes(d, h)
        return h * n_features * (d_head + 1)

    def __init__(
        self,
        *,
        d_model: int,
        context_len: int,
        n_heads: int = 1,
        window: int = 16,
        feature_width: int = 16,
    ) -> None:
        require_counts(window=window)
        sizes = {"d_model": d_model, "context_len": context_len, "n_heads": n_heads}
        super().__init__(**sizes, feature_map="taylor", feature_width=feature_width)
        self.window = window

    @classmethod
    def in_layer(cls, layer: int, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return this mixer for layers 0, 2, ..., window attention for layers 1, 3, ..."""
        if layer % 2 == 0:
            return cls.name, dict(options)
        heads = {"n_heads": options["n_heads"]} if "n_heads" in options else {}
        return "attention", {"window": options.get("window", 16), **heads}
