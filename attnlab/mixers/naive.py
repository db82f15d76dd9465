"""Every mixer once more, as the loop that is its definition: slow, obvious, the reference.

Nothing here calls a mixer's own ``forward`` or ``step``; only its weights are read.
"""

import math

import torch
from torch import Tensor

from attnlab.errors import UnknownNameError
from attnlab.mixers.base import TokenMixer


def attention(mixer: TokenMixer, x: Tensor) -> Tensor:
    """Attend one position and one head at a time (arXiv:1706.03762, eq. 1)."""
    q, k, v = mixer.query(x), mixer.key(x), mixer.value(x)  # type: ignore[operator]
    width = mixer.d_model // mixer.n_heads  # type: ignore[operator]
    outputs = []
    for t in range(x.shape[1]):
        past = range(max(0, t - mixer.context_len + 1), t + 1)
        heads = []
        for first in range(0, mixer.d_model, width):
            h = slice(first, first + width)
            scores = [(q[:, t, h] * k[:, s, h]).sum(-1) / math.sqrt(width) for s in past]
            share = torch.stack(scores, -1).softmax(-1)  # (B, S)
            heads.append(sum(share[:, i, None] * v[:, s, h] for i, s in enumerate(past)))
        outputs.append(mixer.out(torch.cat(heads, -1)))  # type: ignore[operator]
    return torch.stack(outputs, 1)


def extractor(mixer: TokenMixer, x: Tensor) -> Tensor:
    """Extract, scale, adjust and map out, one position at a time (arXiv:2308.07661)."""
    outputs = []
    for t in range(x.shape[1]):
        e_t = _extracted(mixer, x, t)
        g_t = _gate(mixer, x[:, t], min(t, mixer.context_len - 1))
        a_t = e_t if g_t is None else e_t * g_t
        outputs.append(a_t if mixer.out is None else mixer.out(a_t))  # type: ignore[operator]
    return torch.stack(outputs, 1)


def _extracted(mixer, x: Tensor, t: int) -> Tensor:
    n_summed = min(t + 1, mixer.context_len)
    e_t = torch.zeros_like(x[:, t])
    for j in range(n_summed):
        weight = mixer.lag_weight[j if mixer.index == "lag" else t - j]
        token = x[:, t - j] if mixer.value is None else mixer.value(x[:, t - j])
        if mixer.rank is not None:  # column r d + c of both is channel c of map r
            e_t = e_t + sum((token * weight).split(mixer.d_model, dim=-1))
        else:
            e_t = e_t + (token @ weight if mixer.extract == "matrix" else token * weight)
    factors = {
        "none": 1.0,
        "rsqrt_t": n_summed**-0.5,
        "inv_t": 1 / n_summed,
        "rsqrt_l": mixer.context_len**-0.5,
    }
    e_t = e_t * factors[mixer.scale]
    return e_t if mixer.extract_bias is None else e_t + mixer.extract_bias


def _gate(mixer, x_t: Tensor, position: int) -> Tensor | None:
    if mixer.gate == "none":
        return None
    gate = {
        "matrix": lambda: mixer.adjust(x_t),
        "diag": lambda: x_t * mixer.adjust_weight,
        "identity": lambda: x_t,
        "position_only": lambda: mixer.adjust_weight[position].expand_as(x_t),
    }[mixer.gate]()
    if mixer.gate_activation == "sigmoid":
        return 1 / (1 + torch.exp(-gate))
    return gate / (1 + torch.exp(-gate)) if mixer.gate_activation == "silu" else gate


def identity(mixer: TokenMixer, x: Tensor) -> Tensor:
    """Return each token as it came."""
    return torch.stack([x[:, t] for t in range(x.shape[1])], 1)


def mean(mixer: TokenMixer, x: Tensor) -> Tensor:
    """Average the newest ``context_len`` tokens, one position at a time."""
    means = []
    for t in range(x.shape[1]):
        past = x[:, max(0, t - mixer.context_len + 1) : t + 1].unbind(1)
        means.append(torch.stack(past).mean(0))
    return torch.stack(means, 1)


she = he = we = me = extractor

_DEFINITIONS = {
    "attention": attention,
    "she": she,
    "he": he,
    "we": we,
    "me": me,
    "identity": identity,
    "mean": mean,
}


def definition(name: str):
    """Return the naive loop of the mixer called ``name``."""
    if name not in _DEFINITIONS:
        step = "Add its loop to attnlab/mixers/naive.py."
        raise UnknownNameError("naive definition", name, _DEFINITIONS, next_step=step)
    return _DEFINITIONS[name]
