"""Exercises of chapter 03."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attnlab.analysis.theory import expected_mixer_weights
from attnlab.seeding import torch_generator
from attnlab.teach import CheckFailed, Exercise

FAMILY = ("attention", "she", "he", "we", "me")
MORE_TOKENS = "more tokens than matrices: the oldest are dropped"
BREAKS = {
    MORE_TOKENS: "There are only l matrices: counted from 0, position t has min(t + 1, l) lags, not t + 1."
}


def page_numbers() -> tuple[Tensor, ...]:
    """Return x, W, W_adj and W_out of the example that notebook 03 computes by hand."""
    x = [[1, 0], [0, 1], [1, 2]]
    W = [[[1, 0], [0, 1]], [[0, 2], [1, 0]], [[2, 1], [0, 1]]]
    W_adj, W_out = [[1, 1], [0, 1]], [[1, 0], [1, 1]]
    return tuple(torch.tensor(v, dtype=torch.float64) for v in (x, W, W_adj, W_out))


def random_numbers(n_tokens: int, width: int, n_lags: int) -> list[Tensor]:
    """Return x, W, W_adj and W_out of any size."""
    generator = torch_generator(n_tokens, "exercise")
    shapes = (n_tokens, width), (n_lags, width, width), (width, width), (width, width)
    return [torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes]


x, W, W_adj, W_out = page_numbers()
CASES = [
    ("one token", x[:1], W[:1], W_adj, W_out),
    ("two tokens", x[:2], W[:2], W_adj, W_out),
    ("the three tokens of the page", x, W, W_adj, W_out),
    ("fewer tokens than matrices", *random_numbers(3, 2, 5)),
    (MORE_TOKENS, *random_numbers(5, 2, 3)),
    ("random, 7 tokens of width 3", *random_numbers(7, 3, 7)),
]


def extract(x: Tensor, W: Tensor) -> Tensor:
    """Return the extraction of every prefix, one lag at a time: ``(T, d)``."""
    n_lags = [min(t + 1, len(W)) for t in range(len(x))]
    return torch.stack([sum(x[t - j] @ W[j] for j in range(n)) for t, n in enumerate(n_lags)])


def _by_place(x: Tensor, W: Tensor) -> Tensor:
    seen = [range(min(t + 1, len(W))) for t in range(len(x))]
    return torch.stack([sum(x[s] @ W[s] for s in its) for its in seen])


def _wrapped(x: Tensor, W: Tensor) -> Tensor:
    n = len(x)
    return torch.stack([sum(x[(t - j) % n] @ W[j] for j in range(len(W))) for t in range(n)])


def _both_ways(x: Tensor, W: Tensor) -> Tensor:
    n = len(x)
    near = [[(s, abs(t - s)) for s in range(n) if abs(t - s) < len(W)] for t in range(n)]
    return torch.stack([sum(x[s] @ W[j] for s, j in its) for its in near])


def _fewer_lags(x: Tensor, W: Tensor) -> Tensor:
    zero = torch.zeros_like(x[0])
    n_lags = [min(t, len(W)) for t in range(len(x))]
    return torch.stack(
        [sum((x[t - j] @ W[j] for j in range(n)), zero) for t, n in enumerate(n_lags)]
    )


EXTRACT = {
    _by_place: "W is indexed by the place of the token, not by its lag: the newest token meets W[0].",
    lambda x, W: extract(x, W.flip(0)): "The lags run backwards: W[0] belongs to the newest token, the last W to the oldest.",
    _wrapped: "x[t - j] with j > t is a negative index: Python wraps around to the end of the sequence, so the future leaks in.",
    _both_ways: "Position t also sums tokens after t: the future leaks in. The lag j is never negative.",
    lambda x, W: extract(x, W.mT): "Each W_j is applied from the wrong side: vectors are rows, so it is x @ W, not W @ x.",
    lambda x, W: extract(x, W) - x @ W[0]: "Lag 0, the newest token itself, is missing from the sum.",
    lambda x, W: _fewer_lags(x, W): "The oldest lag is missing where the past is short: position t, counted from 0, has min(t + 1, l) lags.",
    lambda x, W: extract(x, W)[-1]: "That is the extraction of the last position; each prefix has its own, stacked to (T, d).",
    lambda x, W: x @ W[0]: "Only lag 0 is there: nothing of the past.",
    lambda x, W: extract(x, W) / torch.arange(1, len(x) + 1)[:, None]: "You divided by the number of tokens, which makes a mean. Eq. (3.3) is a sum.",
    lambda x, W: extract(x, W[:1].expand_as(W)): "Every lag went through W[0]: that is a bag of tokens, blind to order.",
}  # fmt: skip
check_extract = Exercise(extract, [case[:3] for case in CASES], EXTRACT, BREAKS)


def she_of(extract=extract, *, gate=lambda x, e, A: x @ A, join=torch.mul, out=torch.matmul):
    """Return SHE with these parts right or wrong."""

    def she(x, W, W_adj, W_out):
        e = extract(x, W)
        return out(join(e, gate(x, e, W_adj)), W_out)

    return she


she = she_of()
SHE = {
    she_of(gate=lambda x, e, A: e @ A): "The gate is computed from e_t; it must come from the newest token x_t alone.",
    she_of(gate=lambda x, e, A: x.cumsum(0) @ A): "The gate is computed from the sum of the inputs; it must come from x_t alone.",
    she_of(join=torch.add): "The gate is added; the adjustment multiplies, e_t * g_t.",
    she_of(out=lambda a, B: a): "The output map W_out is missing after the adjustment.",
    she_of(join=lambda e, g: e): "The adjustment is missing: e_t was not multiplied by x_t W_adj.",
    lambda x, W, A, B: extract(x, W) @ A @ B: "W_adj was applied to e_t, one map after the other. It makes the gate, x_t W_adj, which multiplies entry by entry.",
    lambda x, W, A, B: x * (extract(x, W) @ A) @ B: "The parts are exchanged: the gate comes from x_t, and what it multiplies is e_t.",
    lambda x, W, A, B: she(x, W, B, A): "W_adj and W_out are exchanged.",
    she_of(gate=lambda x, e, A: torch.sigmoid(x @ A)): "The gate went through a sigmoid; eq. (3.6) has none.",
    she_of(gate=lambda x, e, A: x): "W_adj is missing: the gate is x_t W_adj, not x_t.",
    lambda x, W, A, B: (extract(x, W) @ B) * (x @ A): "W_out came before the gate; the gate multiplies e_t first.",
    she_of(gate=lambda x, e, A: x[-1] @ A): "One gate, from the last token of the sequence, was used at every position: the future leaks in. Position t has its own gate, from x_t.",
    lambda x, W, A, B: she(x, W, A.mT, B.mT): "W_adj and W_out are applied from the wrong side: it is x @ W, not W @ x.",
    lambda x, W, A, B: she(x, W.mT, A.mT, B.mT): "Every matrix is applied from the wrong side: vectors are rows, so it is x @ W, not W @ x.",
    **{she_of(wrong): sentence for wrong, sentence in EXTRACT.items()},
}  # fmt: skip
check_she = Exercise(she, CASES, SHE, BREAKS)


def count_weights(name: str, d: int, ell: int) -> int:
    """Return the number of weights of a mixer, without biases."""
    return expected_mixer_weights(name, d_model=d, context_len=ell)


def _off(**changes: Callable[[int, int], int]) -> Callable[[str, int, int], int]:
    """Return the right count, changed for some mixers."""
    return lambda n, d, ell: count_weights(n, d, ell) + changes.get(n, lambda *_: 0)(d, ell)


COUNT = {
    lambda name, d, ell: count_weights(name, d, ell) + (4, 2, 3, 1, 0)[FAMILY.index(name)] * d: "A bias was counted for each square map; the maps here have none.",
    _off(attention=lambda d, _: -(d**2)): "Attention has four maps: query, key, value and output.",
    _off(she=lambda d, ell: (1 - ell) * d**2): "SHE has a matrix for every lag, l of them, not one for all.",
    _off(she=lambda d, ell: ell * d - ell * d**2): "SHE has a matrix for every lag; a vector for every lag is what HE has.",
    _off(she=lambda d, _: -2 * d**2): "SHE has two square maps besides its lags, and here both are missing.",
    _off(she=lambda d, _: -(d**2)): "SHE has two square maps besides its lags: adjustment and output.",
    _off(**dict.fromkeys(("he", "we", "me"), lambda d, ell: ell * d**2 - ell * d)): "HE, WE and ME have a vector per lag, l d numbers, not a matrix.",
    _off(he=lambda d, _: -(d**2)): "HE has three square maps: value, adjustment and output.",
    _off(we=lambda d, _: d**2): "WE as defined here has no output map; its one square map is the adjustment.",
    _off(me=lambda d, _: d**2 - d): "ME gates with a vector of d numbers, not with a matrix.",
    _off(me=lambda d, _: -d): "ME also has a vector for the gate, w_adj: d more numbers beside its l d.",
}  # fmt: skip
check_weight_count = Exercise(
    count_weights,
    [(f"{n}, d = {d}, l = {ell}", n, d, ell) for d, ell in ((2, 3), (64, 16)) for n in FAMILY],
    COUNT,
)


# Build 3: a sublayer, as a module ---------------------------------------------------------------


def sublayer_of(
    *,
    residual="x",
    norm="before",
    gate="normed",
    extract=extract,
    has_out=True,
    bias=False,
    one=False,
):
    """Return a class of SHE sublayers with these parts right or wrong."""

    class Sublayer(nn.Module):
        def __init__(self, d_model, context_len):
            super().__init__()
            self.norm = nn.LayerNorm(d_model)
            self.lag_weight = nn.Parameter(torch.randn(context_len, d_model, d_model))
            self.adjust, self.out = (nn.Linear(d_model, d_model, bias=bias) for _ in range(2))

        def forward(self, x):
            z = self.norm(x) if norm == "before" else x
            e = torch.stack([extract(row, self.lag_weight) for row in z])
            e = e[:1].expand_as(e) if one else e
            g = self.adjust({"normed": z, "plain": x, "e": e}[gate])
            y = self.out(e * g) if has_out else e * g
            y = y + {"x": x, "normed": z, "none": 0.0}[residual]
            return self.norm(y) if norm == "after" else y

    return Sublayer


def sublayer_output(build, d_model, context_len, x):
    """Return the output of a sublayer with weights that are set here, and how many it has."""
    module = build(d_model, context_len)
    if not isinstance(module, nn.Module):
        raise CheckFailed("A sublayer is an nn.Module: class Sublayer(nn.Module).")
    module.double()
    parts = {
        "norm": nn.LayerNorm,
        "lag_weight": nn.Parameter,
        "adjust": nn.Linear,
        "out": nn.Linear,
    }
    for name, kind in parts.items():
        if not isinstance(getattr(module, name, None), kind):
            raise CheckFailed(f"The module needs {name}, of type {kind.__name__}.")
    if tuple(module.lag_weight.shape) != (context_len, d_model, d_model):
        raise CheckFailed(
            f"lag_weight has the shape {tuple(module.lag_weight.shape)}, not (l, d, d)."
        )
    generator = torch_generator(3, "build")
    for name in ("lag_weight", "adjust.weight", "out.weight", "norm.weight", "norm.bias"):
        weight = module.get_parameter(name)
        weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    for bias in (module.adjust.bias, module.out.bias):
        if bias is not None:
            nn.init.zeros_(bias)
    return {"weights": sum(w.numel() for w in module.parameters()), "output": module(x)}


def sublayer_case(label, batch, time, d, n_lags):
    x = torch.randn(batch, time, d, generator=torch_generator(time, label), dtype=torch.float64)
    return label, d, n_lags, x


check_sublayer = Exercise(
    sublayer_of(),
    [
        sublayer_case("one token", 1, 1, 2, 1),
        sublayer_case("three tokens", 1, 3, 2, 3),
        sublayer_case("two sentences", 2, 4, 3, 4),
        sublayer_case("fewer tokens than lags", 2, 3, 3, 5),
        sublayer_case("more tokens than lags", 2, 6, 3, 4),
    ],
    {
        sublayer_of(residual="none"): "The residual is missing: a sublayer adds to x.",
        sublayer_of(residual="normed"): "The normed input was added; the stream itself, x, goes past the norm.",
        sublayer_of(norm="none"): "The norm is not used: the mixer reads norm(x).",
        sublayer_of(norm="after"): "The norm came after the sum; here it stands before the mixer.",
        sublayer_of(gate="plain"): "The gate reads x without its norm. Extraction and gate read the same norm(x).",
        sublayer_of(gate="e"): "The gate is computed from e_t; it must come from the newest token.",
        sublayer_of(has_out=False): "The output map is missing after the adjustment.",
        sublayer_of(bias=True): "adjust or out has a bias; give nn.Linear bias=False.",
        sublayer_of(one=True): "The first sentence of the batch was used for all.",
        **{sublayer_of(extract=wrong): sentence for wrong, sentence in list(EXTRACT.items())[:7]},
    },
    {"more tokens than lags": BREAKS[MORE_TOKENS]},
    use=sublayer_output,
)  # fmt: skip
