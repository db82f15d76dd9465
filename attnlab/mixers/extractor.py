"""The Extractor family: learned sums over the past, adjusted by the newest token.

Published are the idea in words, the count ``l d^2 + 2 d^2`` and the critical path of the
first Extractor. The equations of SHE follow from these; those of HE, WE and ME are our
reconstructions, and so are the defaults of the options.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.errors import AttnlabError
from attnlab.mixers.base import Ring, TokenMixer
from attnlab.mixers.convolution import causal_convolution, require_method
from attnlab.mixers.registry import register_mixer

CHOICES = {
    "extract": ("matrix", "value_diag", "diag", "scalar"),
    "index": ("lag", "absolute"),
    "adjust": ("matrix", "diag", "identity", "none", "position_only"),
    "scale": ("none", "rsqrt_t", "inv_t", "rsqrt_l"),
    "gate_activation": ("none", "sigmoid", "silu"),
    "window": ("truncate", "error"),
}


class Extractor(TokenMixer):
    r"""Sum the past with one learned weight a lag, then gate the sum by the newest token.

    .. math:: e_t = s_t \sum_{j=0}^{\min(t,\ell)-1} x_{t-j} W_j,\qquad
              y_t = \bigl(e_t \odot g(x_t)\bigr) W_{out}

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape. ``l = context_len``.
    Args:
        extract: ``matrix``: ``W_j`` is a matrix. ``value_diag``: ``W_v diag(w_j)``, one shared
            matrix and a vector a lag. ``diag``: a vector a lag. ``scalar``: a number a lag.
        index: ``lag`` counts back from the newest token; ``absolute`` gives every position
            its own weight, which makes the sum a prefix sum, not shift-equivariant.
        adjust: The gate g. ``matrix``: ``x_t W_adj``; ``diag``: ``x_t * w``; ``identity``: ``x_t``;
            ``none``: 1; ``position_only``: a vector for each t, blind to the token.
        scale: The factor s_t. ``none``: 1; ``rsqrt_t``, ``inv_t``: 1/sqrt(t), 1/t with t the
            number of summed tokens; ``rsqrt_l``: 1/sqrt(l).
        out_proj: Whether ``W_out`` is there.
        bias: Whether every map that is there adds one; the published count has none.
        bias_ext, bias_adj, bias_out: The same for the sum, the gate or the output map alone.
        gate_activation: ``none``, ``sigmoid`` or ``silu`` on the gate.
        window: Past ``context_len`` tokens, ``truncate`` drops the oldest, ``error`` refuses;
            before, the missing past counts as zero in both.
        init_std: Of the lag weights; ``None`` keeps the sum at the size of its inputs. With a
            factor s_t the weights then start sqrt(l) times larger than without.
        method: How the sum is evaluated, see ``causal_convolution``; values do not depend on it.
    Source:
        arXiv:2308.07661 and arXiv:2311.12678 (``rsqrt_t`` is our reading of the latter);
        derived in notebook 03.
    """

    def __init__(
        self,
        *,
        d_model: int,
        context_len: int,
        extract: str = "matrix",
        index: str = "lag",
        adjust: str = "matrix",
        scale: str = "none",
        out_proj: bool = True,
        bias: bool = False,
        bias_ext: bool = False,
        bias_adj: bool = False,
        bias_out: bool = False,
        gate_activation: str = "none",
        window: str = "truncate",
        init_std: float | None = None,
        method: str = "auto",
    ) -> None:
        super().__init__(d_model=d_model, context_len=context_len)
        _require_options(
            extract=extract,
            index=index,
            adjust=adjust,
            scale=scale,
            gate_activation=gate_activation,
            window=window,
        )
        self.extract, self.index, self.scale, self.window = extract, index, scale, window
        self.gate, self.gate_activation, self.method = adjust, gate_activation, method
        for option, given, needs, has in (
            ("bias_adj", bias_adj, "adjust='matrix'", adjust == "matrix"),
            ("bias_out", bias_out, "out_proj=True", out_proj),
        ):
            if given and not has:
                raise AttnlabError(f"{option}=True needs {needs}: there is no map to add it to.")
        require_method(method, ndim=3 if extract == "matrix" else 1 if extract == "scalar" else 2)
        self._add_extraction(bias_ext or bias, init_std, value_bias=bias)
        self._add_adjustment(bias_adj or bias)
        self.out = _linear(d_model, bias_out or bias) if out_proj else None

    def _add_extraction(self, bias: bool, init_std: float | None, *, value_bias: bool) -> None:
        d, n_lags = self.d_model, self.context_len
        self.value = _linear(d, value_bias) if self.extract == "value_diag" else None
        shape = {"matrix": (n_lags, d, d), "scalar": (n_lags,)}.get(self.extract, (n_lags, d))
        self.lag_weight = nn.Parameter(torch.empty(shape))
        self.extract_bias = nn.Parameter(torch.zeros(d)) if bias else None
        fan_in = d if self.extract == "matrix" else 1
        n_summed = n_lags if self.scale == "none" else 1
        balanced = (fan_in * n_summed) ** -0.5
        nn.init.normal_(self.lag_weight, std=balanced if init_std is None else init_std)

    def _add_adjustment(self, bias: bool) -> None:
        d = self.d_model
        self.adjust = _linear(d, bias) if self.gate == "matrix" else None
        size = {"diag": (d,), "position_only": (self.context_len, d)}.get(self.gate)
        self.adjust_weight = nn.Parameter(torch.ones(size)) if size else None

    def mix(self, x: Tensor) -> Tensor:
        """Extract from all prefixes at once, adjust, map out."""
        time = x.shape[1]
        self._require_fit(time)
        extracted = self._absolute_sum(x) if self.index == "absolute" else self._lag_sum(x)
        count = torch.arange(1, time + 1, device=x.device, dtype=x.dtype)
        extracted = extracted * self._factor(count)[:, None]
        return self._finish(extracted, x, torch.arange(time, device=x.device))

    def _lag_sum(self, x: Tensor) -> Tensor:
        source = x if self.value is None else self.value(x)
        return causal_convolution(source, self.lag_weight, method=self.method)

    def _absolute_sum(self, x: Tensor) -> Tensor:
        return self._weighted(x, slice(0, x.shape[1])).cumsum(1)

    def _weighted(self, x: Tensor, positions: slice) -> Tensor:
        """Return ``x_i W_i`` for these positions, the terms of the prefix sum."""
        weight = self.lag_weight[positions]
        if self.extract == "matrix":
            return torch.bmm(x.transpose(0, 1), weight).transpose(0, 1)
        source = x if self.value is None else self.value(x)
        return source * (weight[:, None] if self.extract == "scalar" else weight)

    def _factor(self, count: Tensor) -> Tensor:
        count = count.clamp(max=self.context_len)
        if self.scale == "rsqrt_t":
            return count.rsqrt()
        if self.scale == "inv_t":
            return count.reciprocal()
        constant = self.context_len**-0.5 if self.scale == "rsqrt_l" else 1.0
        return torch.full_like(count, constant)

    def _finish(self, extracted: Tensor, x: Tensor, position: Tensor) -> Tensor:
        if self.extract_bias is not None:
            extracted = extracted + self.extract_bias
        adjusted = extracted if self.gate == "none" else extracted * self._gate(x, position)
        return adjusted if self.out is None else self.out(adjusted)

    def _gate(self, x: Tensor, position: Tensor) -> Tensor:
        if self.adjust is not None:
            gate = self.adjust(x)
        elif self.adjust_weight is None:
            gate = x
        elif self.gate == "diag":
            gate = x * self.adjust_weight
        else:
            gate = self.adjust_weight[position.clamp(max=self.context_len - 1)].expand_as(x)
        if self.gate_activation == "sigmoid":
            return gate.sigmoid()
        return F.silu(gate) if self.gate_activation == "silu" else gate

    def initial_state(self, batch_size: int) -> Ring:
        """Return an empty ring of past inputs; the absolute index needs a running sum only."""
        slots = 1 if self.index == "absolute" else self.context_len
        return Ring.empty(batch_size, slots, self.d_model, **self._like)

    def step(self, x_t: Tensor, state: Ring) -> tuple[Tensor, Ring]:
        """Extract from the ring and the new token."""
        position = state.n_seen
        self._require_fit(position + 1)
        if self.index == "absolute":
            term = self._weighted(x_t[:, None], slice(position, position + 1))[:, 0]
            state = state.push(state.slots[:, 0] + term)
            extracted = state.slots[:, 0]
        else:
            state = state.push(x_t if self.value is None else self.value(x_t))
            extracted = self._sum_ring(state)
        count = torch.tensor(float(position + 1), device=x_t.device, dtype=x_t.dtype)
        extracted = extracted * self._factor(count)
        return self._finish(extracted, x_t, torch.tensor(position, device=x_t.device)), state

    def _sum_ring(self, state: Ring) -> Tensor:
        past = state.newest_first()  # (B, J, D)
        weight = self.lag_weight[: past.shape[1]]
        if self.extract == "matrix":
            return past.flatten(1) @ weight.flatten(0, 1)
        return (past * (weight[:, None] if self.extract == "scalar" else weight)).sum(1)

    def _require_fit(self, time: int) -> None:
        if time <= self.context_len or (self.window == "truncate" and self.index == "lag"):
            return
        cause = "window='error'" if self.index == "lag" else "the absolute index"
        raise AttnlabError(
            f"Position {time} lies beyond context_len={self.context_len}, and {cause} has no "
            "weight for it. Use index='lag' with window='truncate', or a longer context."
        )

    def extra_repr(self) -> str:
        """Show the options that make this member of the family."""
        return f"extract={self.extract}, index={self.index}, adjust={self.gate}, scale={self.scale}"


def _linear(d_model: int, bias: bool) -> nn.Linear:
    linear = nn.Linear(d_model, d_model, bias=bias)
    nn.init.normal_(linear.weight, std=d_model**-0.5)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def _require_options(**options: Any) -> None:
    for option, value in options.items():
        if value not in CHOICES[option]:
            raise AttnlabError(f"{option}={value!r} is not one of {', '.join(CHOICES[option])}.")


@register_mixer("she")
class SHE(Extractor):
    r"""Super high-performance Extractor: a full matrix for every lag.

    .. math:: y_t = \Bigl[\Bigl(\sum_{j} x_{t-j} W_j\Bigr) \odot (x_t W_{adj})\Bigr] W_{out}

    Weights: ``(context_len + 2) * d_model**2``, as published. The skeleton is inferred from
    that count and from the published critical path. Options: see ``Extractor``.
    """


class _Preset(Extractor):
    """An Extractor with other defaults; every option can still be given."""

    preset: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, *, d_model: int, context_len: int, **options: Any) -> None:
        super().__init__(d_model=d_model, context_len=context_len, **{**self.preset, **options})


@register_mixer("he")
class HE(_Preset):
    r"""Higher-performance Extractor (reconstruction): one value map, one vector a lag.

    .. math:: y_t = \Bigl[\Bigl(\sum_{j} (x_{t-j} W_v) \odot w_j\Bigr)
              \odot (x_t W_{adj})\Bigr] W_{out}

    Weights: ``3 * d_model**2 + context_len * d_model``. Equals SHE with ``W_j = W_v diag(w_j)``.
    """

    preset: ClassVar = {"extract": "value_diag"}


@register_mixer("we")
class WE(_Preset):
    r"""Worthwhile Extractor (reconstruction): HE without the value and output maps.

    .. math:: y_t = \Bigl(\sum_{j} x_{t-j} \odot w_j\Bigr) \odot (x_t W_{adj})

    Weights: ``d_model**2 + context_len * d_model``.
    """

    preset: ClassVar = {"extract": "diag", "out_proj": False}


@register_mixer("me")
class ME(_Preset):
    r"""Minimalist Extractor (reconstruction): no matrix at all.

    .. math:: y_t = \Bigl(\sum_{j} x_{t-j} \odot w_j\Bigr) \odot (x_t \odot w_{adj})

    Weights: ``context_len * d_model + d_model``.
    """

    preset: ClassVar = {"extract": "diag", "adjust": "diag", "out_proj": False}
